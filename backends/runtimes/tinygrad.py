"""tinygrad on the CPU, whose kernels clang compiles: `conv2d`, and reshape and matmul."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation
from ..computation import LoadedEmbedding
from ..layouts import OIHW, kernel_to_layout
from ..runtime import RuntimeBackend, RuntimeModel


class _Model(RuntimeModel):
    def convert(self, folder: Path) -> None:
        """Nothing is written: arrays are handed over."""
        from tinygrad import Tensor

        kernel = np.ascontiguousarray(kernel_to_layout(self.weights.kernel, OIHW))
        self.kernel = Tensor(kernel).realize()
        self.bias = None if self.weights.bias is None else Tensor(self.weights.bias).realize()

    def place(self, images: NDArray[Any]) -> Any:
        from tinygrad import Tensor

        return Tensor(super().place(images)).realize()

    def call(self, inputs: Any) -> Any:
        pads = [side for pair in reversed(self.spec.effective_padding) for side in pair]
        images = inputs.pad(tuple(pads)) if any(pads) else inputs
        grid = images.conv2d(self.kernel, self.bias, stride=self.spec.stride)
        return grid.flatten(2).transpose(1, 2).realize()

    def synchronize(self, outputs: Any) -> None:
        """Kernels are queued to a thread of the device."""
        from tinygrad import Device

        Device[Device.DEFAULT].synchronize()

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return np.array(outputs.numpy())


class TinygradBackend(RuntimeBackend):
    """tinygrad's CPU device."""

    name = "tinygrad"
    packages = ("tinygrad",)
    implementations = (
        Implementation(
            "tinygrad",
            "conv2d",
            "eager",
            dtypes=("float32", "float64", "float16"),
            devices=("cpu",),
            output_roundings=2,
            differentiable=False,
            customary=True,
        ),
    )

    def missing(self) -> str | None:
        """Its CPU device needs clang as well."""
        if reason := super().missing():
            return reason
        compiler = os.environ.get("CC", "clang")
        if shutil.which(compiler) is None:
            return f"tinygrad's CPU device needs a compiler, and there is no {compiler} here"
        return None

    def environment(self, threads: int) -> dict[str, str]:
        """The device, and no more threads than are asked for."""
        return {**super().environment(threads), "DEV": "CPU", "CPU_COUNT": str(threads)}

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`Tensor`."""
        from tinygrad import Tensor

        return np.array(Tensor(array).realize().numpy())

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`.half().float()`, computed at once."""
        from tinygrad import Tensor

        return np.array(Tensor(array).half().float().numpy())

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`conv2d`."""
        from tinygrad import Tensor

        grid = Tensor(images).conv2d(Tensor(kernel), stride=kernel.shape[2:])
        return np.array(grid.numpy())

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Hand the arrays over."""
        weights.check_spec(spec)
        return _Model(spec, weights, dtype)


BACKENDS = (TinygradBackend(),)
