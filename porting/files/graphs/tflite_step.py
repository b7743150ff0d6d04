"""One operator of TFLite on its way: what it is given as real numbers, and what it says of
itself."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from ..checkpoint import TensorInfo, dtype_of
from .graph import Constant
from .tflite_model import Operator, Quantization, Tensor, TfliteModel
from .translation import ONNX_TYPES, Translation

Result = str | tuple[str, ...] | None
"""Values that stand for the outputs; None where an operator is not translated."""

FLOATS = ("float32", "float16", "bfloat16", "float64")
"""Types of real numbers."""

MOST_NUMBERS = 64
"""Numbers of a constant that says axes, an order or a shape, at most."""

ACTIVATIONS: dict[int, tuple[str, float, float] | str] = {
    1: "Relu",
    2: ("Clip", -1.0, 1.0),
    3: ("Clip", 0.0, 6.0),
    4: "Tanh",
}
"""`ActivationFunctionType` of the schema."""

DEQUANTIZED = ("int8", "uint8", "int16", "uint16", "int32", "int4", "uint4")
"""Types that ONNX's DequantizeLinear takes."""

OPTIONS = {
    "CONV_2D": 1,
    "DEPTHWISE_CONV_2D": 2,
    "FULLY_CONNECTED": 8,
    "SOFTMAX": 9,
    "CONCATENATION": 10,
    "ADD": 11,
    "RESIZE_BILINEAR": 15,
    "RESHAPE": 17,
    "SPACE_TO_DEPTH": 19,
    "MUL": 21,
    "GATHER": 23,
    "MEAN": 27,
    "SUM": 27,
    "REDUCE_PROD": 27,
    "REDUCE_MAX": 27,
    "REDUCE_MIN": 27,
    "SUB": 28,
    "DIV": 29,
    "SQUEEZE": 30,
    "STRIDED_SLICE": 32,
    "SPLIT": 35,
    "PACK": 59,
    "UNPACK": 64,
    "LEAKY_RELU": 75,
    "MIRROR_PAD": 77,
    "BATCH_MATMUL": 101,
    "CONV_3D": 106,
    "GELU": 116,
}
"""`BuiltinOptions` of the schema, by operator."""


class UntranslatedError(Exception):
    """An operator that keeps its own name."""


class Tflite(Translation):
    """A subgraph that is being translated.

    Args:
        model: its tables.
        values: names of the values that tensors stand for, by number, as real numbers.
        raw: names of the constants, by number, as they lie in the file.
    """

    def __init__(self, model: TfliteModel) -> None:
        super().__init__()
        self.model = model
        self.values: dict[int, str] = {}
        self.raw: dict[int, str] = {}
        for tensor in model.tensors:
            if tensor.dtype and (tensor.place is not None or tensor.empty or tensor.strange):
                self.raw[tensor.number] = name = self.fresh(tensor.name)
                self.constants[name] = Constant(model.info(tensor), self._reader(tensor))

    def _reader(self, tensor: Tensor) -> Callable[[], NDArray[Any]]:
        return lambda: self.model.values(tensor)

    def real(self, tensor: Tensor) -> str:
        """The real numbers that a constant stands for."""
        number = tensor.number
        if number not in self.values:
            if tensor.quantization is not None and tensor.dtype not in FLOATS:
                self.values[number] = self._dequantized(tensor, tensor.quantization)
            elif tensor.dtype in FLOATS:
                raw = self.raw[number]
                narrow = tensor.dtype != "float32"
                self.values[number] = self.cast(raw, "float32", raw) if narrow else raw
            else:
                self.values[number] = self._refused(tensor)
        return self.values[number]

    def _refused(self, tensor: Tensor) -> str:
        def read() -> NDArray[Any]:
            raise PatchParityError(
                f"{self.model.path}: {tensor.name!r} is of {tensor.dtype} without a scale that is "
                "read, and stands for no numbers that can be told"
            )

        return self._constant(tensor, "numbers", TensorInfo(tensor.extents, "float32"), read)

    def _constant(
        self, tensor: Tensor, what: str, info: TensorInfo, read: Callable[[], NDArray[Any]]
    ) -> str:
        name = self.fresh(f"{tensor.name}.{what}")
        self.constants[name] = Constant(info, read)
        return name

    def _dequantized(self, tensor: Tensor, how: Quantization) -> str:
        raw, axis = self.raw[tensor.number], how.axis
        if how.strange:
            return self._refused(tensor)
        if how.blocks is not None:
            return self._of_blocks(tensor, how.blocks)
        extents = tensor.extents
        if how.count != 1 and extents[axis : axis + 1] != (how.count,):
            raise self.model.buffer.damaged(
                f"{tensor.name!r} of shape {extents} has {how.count} scales along axis {axis}"
            )
        shape = () if how.count == 1 else (how.count,)
        kind = self.constants[raw].info.dtype
        scale = self._constant(
            tensor, "scale", TensorInfo(shape, "float32"), lambda: self._scales(tensor, how, shape)
        )
        if kind not in DEQUANTIZED:
            along = [how.count if place == axis else 1 for place in range(len(extents))]
            factors = self.one(
                "Reshape", scale, self.integers(along if shape else [], raw), hint=raw
            )
            return self.one("Mul", self.cast(raw, "float32", raw), factors, hint=raw)
        inputs = [raw, scale]
        if how.table.vector(3, 8)[1]:
            inputs.append(
                self._constant(
                    tensor, "zero", TensorInfo(shape, kind), lambda: self._zeros(tensor, how, shape)
                )
            )
        return self.one("DequantizeLinear", *inputs, hint=raw, axis=axis, version=21)

    def _scales(self, tensor: Tensor, how: Quantization, shape: tuple[int, ...]) -> NDArray[Any]:
        found = how.table.numbers(2, "f4").reshape(shape)
        if not np.isfinite(found).all():
            raise self.model.buffer.damaged(f"{tensor.name!r} has a scale that is no number")
        if tensor.dtype == "int64" and how.table.numbers(3, "i8").any():
            raise self.model.buffer.damaged(f"{tensor.name!r} has a zero point, as no bias has")
        return found

    def _zeros(self, tensor: Tensor, how: Quantization, shape: tuple[int, ...]) -> NDArray[Any]:
        """The zero points, in the type of the integers."""
        found = how.table.numbers(3, "i8")
        kind = dtype_of(self.model.info(tensor).dtype)
        typed = found.astype(kind)
        if found.size not in (1, how.count) or (typed.astype(np.int64) != found).any():
            raise self.model.buffer.damaged(
                f"{tensor.name!r} of {tensor.dtype} and {how.count} scales has the zero points "
                f"{found[:8].tolist()}"
            )
        return np.broadcast_to(typed.reshape(shape if found.size > 1 else ()), shape)

    def _of_blocks(self, tensor: Tensor, blocks: tuple[int, int, int]) -> str:
        """A scale for each block along the last axis."""
        scales, zeros, length = blocks
        shape, raw = tensor.extents, self.raw[tensor.number]
        if (
            scales not in self.raw
            or zeros > 0
            or not shape
            or length < 1
            or shape[-1] % length
            or self.model.tensors[scales].extents != (*shape[:-1], shape[-1] // length)
        ):
            return self._refused(tensor)
        factors = self.real(self.model.tensors[scales])
        how = {"axis": len(shape) - 1, "block_size": length}
        return self.one("DequantizeLinear", raw, factors, hint=raw, version=21, **how)


class Step:
    """One operator.

    Args:
        tflite: the translation.
        operator: what the file says of it.
    """

    def __init__(self, tflite: Tflite, operator: Operator) -> None:
        self.tflite, self.operator = tflite, operator
        self.model = tflite.model
        self.outputs = [self.model.tensors[number] for number in operator.outputs]
        self.hint = self.outputs[0].name if self.outputs else operator.name
        self.padding = 0
        self.strides: tuple[list[int], list[int]] = ([], [])
        if operator.kind not in (0, OPTIONS.get(operator.name, operator.kind)):
            raise self.model.buffer.damaged(
                f"a {operator.name} has the options of another operator ({operator.kind})"
            )

    @property
    def count(self) -> int:
        """How many inputs it has."""
        return len(self.operator.inputs)

    @property
    def outs(self) -> int:
        """How many outputs it has."""
        return len(self.outputs)

    def given(self, place: int) -> bool:
        """Whether it has an input there."""
        return place < self.count and self.operator.inputs[place] >= 0

    def _tensor(self, place: int) -> Tensor:
        if not self.given(place):
            raise UntranslatedError
        return self.model.tensors[self.operator.inputs[place]]

    def raw(self, place: int) -> str:
        """An input as it lies in the file, or as it was computed."""
        tensor = self._tensor(place)
        return self.tflite.raw.get(tensor.number) or self._computed(tensor)

    def _computed(self, tensor: Tensor) -> str:
        if tensor.number not in self.tflite.values:
            raise self.model.buffer.damaged(
                f"a {self.operator.name} takes {tensor.name!r}, which nothing has made"
            )
        return self.tflite.values[tensor.number]

    def real(self, place: int) -> str:
        """An input as real numbers; as it is where the operator counts in integers."""
        tensor = self._tensor(place)
        numbers = self.out_type() in FLOATS or self.out_quantized()
        if tensor.number not in self.tflite.raw:
            if numbers and tensor.dtype not in FLOATS and tensor.quantization is None:
                raise UntranslatedError
            return self._computed(tensor)
        if not numbers and tensor.quantization is None:
            return self.tflite.raw[tensor.number]
        return self.tflite.real(tensor)

    def long(self, place: int) -> str:
        """An input of integers as int64."""
        if (numbers := self.numbers(place)) is not None:
            return self.integers(numbers)
        tensor = self._tensor(place)
        return self.raw(place) if tensor.dtype == "int64" else self.cast(self.raw(place), "int64")

    def numbers(self, place: int) -> list[int] | None:
        """The integers of a small constant; None where they are computed."""
        tensor = self._tensor(place)
        if (
            tensor.number not in self.tflite.raw
            or tensor.dtype not in ("int32", "int64")
            or tensor.strange
            or int(np.prod(tensor.extents, dtype=object)) > MOST_NUMBERS
        ):
            return None
        found = self.model.values(tensor).reshape(-1).tolist()
        return [int(number) for number in found]

    def shape(self, place: int) -> tuple[int | None, ...]:
        """The shape of an input; empty where it is not known."""
        return self._tensor(place).shape

    def out_shape(self) -> tuple[int | None, ...]:
        """The shape of the first output; empty where it is not known."""
        return self.outputs[0].shape if self.outputs else ()

    def out_type(self) -> str:
        """The type of the first output."""
        return self.outputs[0].dtype if self.outputs else ""

    def out_quantized(self) -> bool:
        """Whether the integers of the first output stand for real numbers."""
        quantized = bool(self.outputs) and self.outputs[0].quantization is not None
        return quantized and self.out_type() not in FLOATS

    def quantized(self, place: int) -> bool:
        """Whether the integers of an input stand for real numbers."""
        tensor = self._tensor(place)
        return tensor.quantization is not None and tensor.dtype not in FLOATS

    def option(self, field: int, code: str, default: Any = 0) -> Any:
        """A number of its options, by its code of `struct`."""
        options = self.operator.options
        return options.number(field, code, default) if options is not None else default

    def option_numbers(self, field: int) -> list[int]:
        """A vector of its options."""
        options = self.operator.options
        if options is None:
            return []
        return [int(number) for number in options.numbers(field, "i4")[:MOST_NUMBERS]]

    def read_window(self, strides: Sequence[int], dilations: Sequence[int]) -> None:
        """Read padding, strides and dilations, by their fields, of a convolution."""
        self.padding = self.option(0, "b")
        self.strides = (
            [self.option(field, "i") for field in strides],
            [self.option(field, "i", 1) for field in dilations],
        )

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Write a node of one output."""
        return self.tflite.one(op, *inputs, hint=self.hint, **attributes)

    def several(self, op: str, inputs: Sequence[str], **attributes: Any) -> tuple[str, ...]:
        """Write a node of as many outputs as the operator has."""
        hints = [tensor.name for tensor in self.outputs]
        return self.tflite.several(op, inputs, hints, **attributes)

    def value(self, values: Any) -> str:
        """A tensor that is not of the file."""
        return self.tflite.value(np.asarray(values), self.hint)

    def integers(self, values: Sequence[int]) -> str:
        """A vector of int64."""
        return self.tflite.integers(values, self.hint)

    def cast(self, value: str, dtype: str) -> str:
        """A value in another type."""
        if dtype not in ONNX_TYPES:
            raise UntranslatedError
        return self.tflite.cast(value, dtype, self.hint)

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """A value with its axes in another order."""
        return self.tflite.transpose(value, order, self.hint)

    def clip(self, value: str, low: float, high: float) -> str:
        """A value within bounds."""
        return self.one("Clip", value, self.value(np.float32(low)), self.value(np.float32(high)))

    def activated(self, value: str, field: int) -> str:
        """The activation function that is told in that field of the options, behind a value."""
        code = self.option(field, "b")
        if code == 0:
            return value
        how = ACTIVATIONS.get(code)
        if how is None:
            raise UntranslatedError
        return self.one(how, value) if isinstance(how, str) else self.clip(value, how[1], how[2])

    def tell_activations(self) -> None:
        """Say that what the model computes is rounded between its operators."""
        kind = self.out_type()
        self.tflite.note(
            f"what it computes is rounded to {kind} between operators, which its weights do not "
            "show and is left out here"
        )

    def untranslated(self) -> tuple[str, ...]:
        """The operator under its own name."""
        inputs = [self.raw(at) if self.given(at) else "" for at in range(self.count)]
        return self.several(f"tflite.{self.operator.name.replace(' ', '.')}", inputs)
