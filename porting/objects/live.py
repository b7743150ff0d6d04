"""A live object that computes a patch embedding: how it is called, and what was read out of it."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights


@dataclass(frozen=True)
class LiveCall:
    """How an object is called, from images `(B, C, H, W)` to the output as a NumPy array; and the
    steps of that, for those who time it.

    Args:
        place: images to what the object takes, in its own framework's arrays and layout.
        run: calls it as its users do; torch modules must be in evaluation mode, which calling the
            whole sees to and puts back.
        fetch: what it returned, as a NumPy array `(B, N, D)`.
        held: entered around a call of the whole.
        record: as `run`, where gradients are recorded; None where that is no other call.
        serving: entered around a call as those do who serve a model (torch's inference mode).
        mixed: entered around a call as those do who train in mixed precision (torch's autocast to
            bfloat16); None where there is no such.
        training: as `run`, of a copy in training mode; None of an object that is in no such.
        batch: how many images it takes at a time, where it refuses others; None where it does not.
        grids: shapes of outputs that were flattened into tokens, the first of them.
        taken: what was taken of outputs of several arrays, the first of them, in words.
    """

    place: Callable[[NDArray[Any]], Any]
    run: Callable[[Any], Any]
    fetch: Callable[[Any], NDArray[Any]]
    held: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    record: Callable[[Any], Any] | None = None
    serving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    mixed: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    training: Callable[[Any], Any] | None = None
    batch: int | None = None
    grids: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    taken: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Place, run and fetch; in parts where it takes so many images alone, the last part filled
        up with images again."""
        if self.batch is None:
            return self._once(images)
        starts = range(0, len(images), self.batch)
        parts = [
            self._once(np.take(images, range(start, start + self.batch), axis=0, mode="wrap"))
            for start in starts
        ]
        return np.concatenate(parts)[: len(images)]

    def _once(self, images: NDArray[Any]) -> NDArray[Any]:
        placed = self.place(images)
        with self.held():
            return self.fetch(self.run(placed))


Framework = Literal["torch", "keras", "flax", "numpy", "jax", "tensorflow"]


@dataclass(frozen=True)
class LiveEmbedding:
    """An object that computes a patch embedding, with what was read out of it.

    Args:
        name: as it was given, or its type's name.
        framework: what it is called with.
        spec: the sizes; image and grid are the object's own where it has some.
        weights: canonical, in the object's dtype.
        dtype: name of the dtype in which it computes, that of its output.
        to_sequence: whether it returns the sequence (prefix tokens or positions were found in it),
            or the tokens.
        call: images `(B, C, H, W)` in `dtype` to the output, as a NumPy array of whatever shape the
            object gives.
        kernel_layout: the einops pattern in which the object keeps its kernel; empty where the
            weights were given.
        notes: what was found out by probe or chosen, in sentences.
        placed: parameters whose place its output showed, by name.
        first_call: images, and what the object gave of them when it was called for the first time.
        later_calls: the same of calls after it, while it was read.
    """

    name: str
    framework: Framework
    spec: PatchEmbedSpec
    weights: PatchEmbedWeights
    dtype: str
    to_sequence: bool
    call: LiveCall
    notes: tuple[str, ...] = ()
    kernel_layout: str = ""
    placed: tuple[str, ...] = ()
    first_call: tuple[NDArray[Any], NDArray[Any]] | None = None
    later_calls: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = ()

    @property
    def weights_used(self) -> PatchEmbedWeights:
        """The weights in the dtype in which it computes, copied: nothing can change them."""
        return self.weights.map(lambda array: np.array(array).astype(self.dtype))

    @property
    def flush_to_zero(self) -> bool:
        """XLA's and TensorFlow's CPU kernels flush subnormals; torch and NumPy do not."""
        return self.framework not in ("torch", "numpy")
