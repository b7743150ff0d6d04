"""OpenVINO on the CPU: the ONNX graph that exporters write, read by `Core.read_model`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation, Precision, check_precision
from ..computation import LoadedEmbedding
from ..onnx_graph import embedding_model
from ..runtime import RuntimeBackend, RuntimeModel, number_of_threads

HINTS: dict[Precision, str] = {"ieee": "f32", "bf16": "bf16"}
"""What a compiled model is told of its precision; nothing where it is the default's."""


class _Model(RuntimeModel):
    def __init__(
        self,
        spec: PatchEmbedSpec,
        weights: PatchEmbedWeights,
        precision: Precision,
        stored: str,
    ) -> None:
        self.precision, self.stored = precision, stored
        super().__init__(spec, weights, "float32")

    def convert(self, folder: Path) -> None:
        """As users do: an ONNX file; for the float16 kernel what `save_model` writes, read
        again."""
        import openvino

        source = folder / "model.onnx"
        source.write_bytes(embedding_model(self.spec, self.weights, "float32"))
        core = openvino.Core()
        model = core.read_model(source)  # convert_model forks, to report that it was called
        if self.stored == "float16":
            openvino.save_model(model, folder / "model.xml", compress_to_fp16=True)
            model = core.read_model(folder / "model.xml")
        self.model = core.compile_model(model, "CPU", _settings(self.precision))

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.model([inputs])[0])


def _settings(precision: Precision) -> dict[str, Any]:
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": number_of_threads()}
    if precision in HINTS:
        settings["INFERENCE_PRECISION_HINT"] = HINTS[precision]
    return settings


class OpenVinoBackend(RuntimeBackend):
    """OpenVINO, whose default precision is the CPU's fastest: bfloat16 where there are instructions
    for it."""

    name = "openvino"
    packages = ("openvino", "onnx")
    implementations = (
        Implementation(
            "openvino",
            "conv2d",
            "graph",
            dtypes=("float32",),
            devices=("cpu",),
            differentiable=False,
            customary=True,
        ),
        Implementation(
            "openvino",
            "conv2d_float16",
            "graph",
            dtypes=("float32",),
            devices=("cpu",),
            differentiable=False,
            stored="float16",
        ),
    )

    def __init__(self) -> None:
        self.chosen: Precision = "ieee"  # as it declares; the default is another where the CPU is

    def lacks(self, precision: Precision, device: str) -> str | None:
        """Bfloat16 can be asked for; whether it is done depends on the CPU."""
        return None if precision != "tf32" else "openvino has no tf32 mode for float32 on the CPU"

    @contextlib.contextmanager
    def precision(self, precision: Precision) -> Iterator[None]:
        """A property of a compiled model: it holds for what is loaded inside."""
        check_precision(precision)
        kept, self.chosen = self.chosen, precision
        try:
            yield
        finally:
            self.chosen = kept

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """What a model of the array's own type gives back."""
        import openvino
        from openvino import opset13

        narrow = array.dtype == ml_dtypes.bfloat16
        kind = openvino.Type.bf16 if narrow else openvino.Type(array.dtype.newbyteorder("="))
        parameter = opset13.parameter(list(array.shape), kind)
        shape = opset13.constant(np.array(array.shape, np.int64))
        model = openvino.Model([opset13.reshape(parameter, shape, False)], [parameter], "adopt")
        compiled = openvino.Core().compile_model(model, "CPU", _settings("ieee"))
        return np.array(compiled([array])[0])

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`Convert` and `Convert` in a model."""
        import openvino
        from openvino import opset13

        parameter = opset13.parameter(list(array.shape), array.dtype)
        cast = opset13.convert(opset13.convert(parameter, "f16"), "f32")
        model = openvino.Model([cast], [parameter], "cast")
        compiled = openvino.Core().compile_model(model, "CPU", _settings("ieee"))
        return np.asarray(compiled([array])[0])

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`Convolution`, images and kernel as inputs."""
        import openvino
        from openvino import opset13

        if not (images.size and kernel.size):  # it gives back values that nobody computed
            raise PatchParityError("OpenVINO is not given arrays without values")
        kind = openvino.Type.f32
        inputs = [opset13.parameter(list(array.shape), kind) for array in (images, kernel)]
        patch = list(kernel.shape[2:])
        zeros = [0] * len(patch)
        node = opset13.convolution(*inputs, patch, zeros, zeros, [1] * len(patch))
        compiled = openvino.Core().compile_model(
            openvino.Model([node], inputs, "convolve"), "CPU", _settings("ieee")
        )
        return np.asarray(compiled([images, kernel])[0])

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Convert, and compile for the CPU."""
        weights.check_spec(spec)
        return _Model(spec, weights, self.chosen, implementation.stored)


BACKENDS = (OpenVinoBackend(),)
