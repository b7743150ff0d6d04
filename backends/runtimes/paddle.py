"""PaddlePaddle on the CPU: `conv2d` on tensors, and the program that `paddle.jit.save` writes, run
by Paddle Inference."""

import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation
from ..computation import LoadedEmbedding
from ..layouts import OIHW, kernel_to_layout
from ..runtime import RuntimeBackend, RuntimeModel, number_of_threads


def imported() -> Any:
    """Paddle, which warns on import where no ccache is installed, and is to use the CPU.

    Raises:
        PatchParityError: TensorFlow is there, behind which paddlepaddle 3.3 crashes a process.
    """
    if "tensorflow" in sys.modules and "paddle" not in sys.modules:
        raise PatchParityError(
            "Paddle crashes where TensorFlow was imported before it: give it a process of its own, "
            "as check and bench do"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        import paddle
    paddle.set_device("cpu")
    return paddle


class _Model(RuntimeModel):
    def convert(self, folder: Path) -> None:
        """Nothing is written: arrays are handed over."""
        paddle = imported()
        kernel = np.ascontiguousarray(kernel_to_layout(self.weights.kernel, OIHW))
        self.kernel = paddle.to_tensor(kernel)
        bias = self.weights.bias
        self.bias = None if bias is None else paddle.to_tensor(bias)

    def place(self, images: NDArray[Any]) -> Any:
        paddle = imported()
        return paddle.to_tensor(super().place(images))

    def call(self, inputs: Any) -> Any:
        paddle = imported()
        with paddle.no_grad():
            return tokens_of(inputs, self.kernel, self.bias, self.spec)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return np.array(outputs.numpy())


def tokens_of(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """Tokens `(B, N, D)` of images `(B, C, H, W)`, as tensors or as symbols of a program."""
    from paddle.nn import functional

    convolve = functional.conv2d if spec.spatial_axes == 2 else functional.conv3d
    pads = [side for pair in spec.effective_padding for side in pair]
    grid = convolve(images, kernel, bias, stride=list(spec.stride), padding=pads)
    return grid.flatten(2).transpose([0, 2, 1])


class _Program(RuntimeModel):
    def convert(self, folder: Path) -> None:
        """As users do: a layer, `paddle.jit.save`, and a predictor of what that wrote."""
        paddle = imported()
        from paddle import inference

        layer = _layer(self.spec, self.weights)
        axes = [None, self.spec.in_channels, *self.spec.image_size]
        given = [paddle.static.InputSpec(axes, str(self.dtype), "images")]
        paddle.jit.save(layer, str(folder / "model"), input_spec=given)
        written = (folder / "model.json", folder / "model.pdiparams")
        config = inference.Config(*map(str, written))
        config.disable_gpu()
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(number_of_threads())
        self.predictor = inference.create_predictor(config)

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        (name,) = self.predictor.get_input_names()
        self.predictor.get_input_handle(name).copy_from_cpu(inputs)
        self.predictor.run()
        (name,) = self.predictor.get_output_names()
        return np.array(self.predictor.get_output_handle(name).copy_to_cpu())


def _layer(spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> Any:
    """A `paddle.nn.Layer` that holds the weights as its parameters."""
    paddle = imported()

    class PatchEmbed(paddle.nn.Layer):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            kernel = np.ascontiguousarray(kernel_to_layout(weights.kernel, OIHW))
            self.kernel = self._held(kernel)
            self.bias = None if weights.bias is None else self._held(weights.bias)

        def _held(self, array: NDArray[Any]) -> Any:
            held = self.create_parameter(list(array.shape), dtype=str(array.dtype))
            held.set_value(array)
            return held

        def forward(self, images: Any) -> Any:
            return tokens_of(images, self.kernel, self.bias, spec)

    layer = PatchEmbed()
    layer.eval()
    return layer


class PaddleBackend(RuntimeBackend):
    """PaddlePaddle's CPU build, which has float32 and float64."""

    name = "paddle"
    packages = ("paddlepaddle",)
    implementations = (
        Implementation(
            "paddle",
            "conv2d",
            "eager",
            dtypes=("float32", "float64"),
            devices=("cpu",),
            differentiable=False,
            customary=True,
        ),
        Implementation(
            "paddle",
            "conv2d",
            "graph",
            dtypes=("float32",),
            devices=("cpu",),
            flush_to_zero=True,
            differentiable=False,
        ),
    )

    def missing(self) -> str | None:
        """It is not installed under the name that it is imported by."""
        if importlib.util.find_spec("paddle") is None:
            return (
                "paddlepaddle is not installed: pip install 'patchparity[paddle]', or "
                "patchparity backends --install paddle"
            )
        return None

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`paddle.to_tensor`."""
        paddle = imported()
        return np.array(paddle.to_tensor(array).numpy())

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`astype` to float16, and back."""
        paddle = imported()
        return np.array(paddle.to_tensor(array).astype("float16").astype("float32").numpy())

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`conv2d`."""
        paddle = imported()
        from paddle.nn import functional

        tensors = [paddle.to_tensor(array) for array in (images, kernel)]
        return np.array(functional.conv2d(*tensors, stride=list(kernel.shape[2:])).numpy())

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Hand the arrays over, or write the program and read it."""
        weights.check_spec(spec)
        kind = _Model if implementation.mode == "eager" else _Program
        return kind(spec, weights, dtype)


BACKENDS = (PaddleBackend(),)
