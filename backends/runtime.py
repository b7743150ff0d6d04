"""What runtimes have in common: a model is made of the weights, with the runtime's own converter,
and run forward on the CPU."""

import abc
import contextlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.errors import PatchParityError
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .base import Backend, Implementation, Precision, Stored, nothing_held, only_ieee
from .computation import Computation, LoadedEmbedding
from .layouts import NCHW, images_to_layout

FLOAT16_FILES: tuple[tuple[str, Stored], ...] = (("conv2d", ""), ("conv2d_float16", "float16"))
"""Formulations of a converter that stores a kernel as it is, or as float16."""


def number_of_threads() -> int:
    """Threads that a runtime is told to use, which mostly reads no variable: those of the common
    one, or one for each core."""
    return int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1


def require_patch_fits(images: NDArray[Any], spec: PatchEmbedSpec) -> None:
    """Raise PatchParityError for images `(B, C, H, W)` that are, padded, smaller than a patch, for
    runtimes that do not look."""
    extents = zip(images.shape[2:], spec.effective_padding, spec.patch_size, strict=True)
    if any(size + sum(pad) < patch for size, pad, patch in extents):
        raise PatchParityError(
            f"images {images.shape[2:]} are smaller than patches {spec.patch_size}"
        )


def require_size(images: NDArray[Any], spec: PatchEmbedSpec) -> None:
    """Raise PatchParityError for images `(B, C, H, W)` of another size than a model was made for,
    for runtimes that do not look."""
    if images.shape[2:] != spec.image_size:
        raise PatchParityError(f"images {images.shape[2:]}: the model is one of {spec.image_size}")


class RuntimeModel(LoadedEmbedding):
    """A model of the projection in a runtime, made anew for other weights.

    A subclass makes it (`convert`) and runs it (`call`), on a NumPy array in its own layout.

    Args:
        spec: the sizes.
        weights: kernel and bias.
        dtype: of images and tokens.
        image_layout: an einops pattern of `backends.layouts`.
    """

    def __init__(
        self,
        spec: PatchEmbedSpec,
        weights: PatchEmbedWeights,
        dtype: str,
        image_layout: str = NCHW,
    ) -> None:
        self.spec, self.dtype, self.image_layout = spec, np.dtype(dtype), image_layout
        self.assign(weights)

    def assign(self, weights: PatchEmbedWeights) -> None:
        """Weights are constants of a model: others need another one."""
        self.weights = weights.astype(self.dtype)
        with TemporaryDirectory(prefix="patchparity-") as folder:
            self.convert(Path(folder))

    @abc.abstractmethod
    def convert(self, folder: Path) -> None:
        """Make the model of `self.weights`, in a folder that is deleted afterwards."""

    def place(self, images: NDArray[Any]) -> Any:
        """A contiguous copy in the model's own layout: what a user hands over."""
        laid_out = images_to_layout(images, self.image_layout)
        return np.array(laid_out, self.dtype, order="C")

    def synchronize(self, outputs: Any) -> None:
        """Calls return when they are done."""

    def fetch(self, outputs: Any) -> NDArray[Any]:
        """Tokens as the runtime gave them."""
        return np.asarray(outputs)


class RuntimeBackend(Backend):
    """A runtime on the CPU, without products of its own that are worth timing, or gradients."""

    product_dtypes = ()
    videos = True
    """Whether its convolution knows a time axis."""

    def devices(self) -> tuple[str, ...]:
        """The CPU."""
        return ("cpu",)

    def environment(self, threads: int) -> dict[str, str]:
        """Each model is told this one's value."""
        return {"OMP_NUM_THREADS": str(threads)}

    def lacks(self, precision: Precision, device: str) -> str | None:
        """Float32 is computed in one way."""
        return only_ieee(self.name, precision)

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """Videos, where it knows images alone."""
        if not self.videos and spec.spatial_axes != 2:
            return f"{implementation.name} knows images alone"
        return super().refuses(implementation, spec)

    def precision(self, precision: Precision) -> contextlib.AbstractContextManager[None]:
        """Nothing to hold."""
        return nothing_held(precision)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """None is offered."""
        raise PatchParityError(f"{self.name} has no matrix product of its own here")
