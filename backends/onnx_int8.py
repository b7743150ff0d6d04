"""An ONNX model of the projection as ONNX Runtime's own tools quantize it, and the steps that they
chose."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.quantize import Lattice, Quantization
from .quiet import silenced


def quantize_dynamic(source: Path, target: Path) -> None:
    """`quantize_dynamic`, asked for a step a channel: pixels are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with silenced():
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8, per_channel=True)


DOT_PRODUCTS = ("vnni", "amx_int8", "asimddp")
"""What instruction sets are called that add up products of bytes in 32 bits."""


def sums_saturate() -> bool:
    """Whether this CPU adds up pairs of products of bytes in 16 bits, which saturate: x86 without
    VNNI, where ONNX Runtime's manual asks for kernels of seven bits (`reduce_range`)."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        return "avx2" in text and not any(name in text for name in DOT_PRODUCTS)
    return False


def quantize_static(source: Path, target: Path, images: NDArray[np.float32]) -> None:
    """`quantize_static` with a step a channel, calibrated on the least and the largest values of
    images `(B, C, H, W)`."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[NDArray[np.float32]] = iter(np.split(images, len(images)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image}

    with silenced():
        quantize_static(
            source,
            target,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            reduce_range=sums_saturate(),
        )


def steps_of(model: bytes, images: NDArray[Any]) -> Quantization:
    """What the model's constants say of its kernel, and of pixels and tokens where they are known
    before; of pixels that are quantized as they come by the rule of `DynamicQuantizeLinear`, over
    all images of a call."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(model).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}

    def lattice(name: str) -> Lattice:
        zero = constants[f"{name}_zero_point"]
        limits = np.iinfo(zero.dtype)
        return Lattice.of(constants[f"{name}_scale"], zero, int(limits.min), int(limits.max))

    by_operator = {node.op_type: node for node in reversed(graph.node)}
    kernel = next(
        name.removesuffix("_quantized")
        for name, array in constants.items()
        if name.endswith("_quantized") and array.ndim > 2
    )
    if "DynamicQuantizeLinear" in by_operator:
        return Quantization(lattice(kernel), Lattice.spanning(images))
    bias = [
        constants[f"{name}_scale"]
        for name, array in constants.items()
        if name.endswith("_quantized") and array.ndim == 1
    ]
    result = by_operator["Conv"].output[0]
    return Quantization(
        lattice(kernel),
        lattice("images"),
        lattice(result),
        np.asarray(bias[0], np.float64) if bias else None,
    )
