"""The program of a CoreML model (MIL): its operations in order, and the values that they have
(mlmodel/format/MIL.proto of https://github.com/apple/coremltools)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .checkpoint import LARGEST_EXTENT, LARGEST_TENSOR, MOST_AXES
from .wire import Part, content_of, packed, parts_of, signed

MOST_OPERATIONS = 10**6
"""Operations of a program: a ViT of 40 layers has about ten thousand, its constants among them."""

TYPES: dict[int, str] = {
    1: "bool",
    2: "string",
    10: "float16",
    11: "float32",
    12: "float64",
    13: "bfloat16",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    34: "uint64",
    35: "uint4",
    36: "uint2",
    37: "uint1",
    38: "uint6",
    39: "uint3",
    40: "float8_e4m3fn",
    41: "float8_e5m2",
}
"""Types of values by their numbers (`DataType`)."""

PACKED = {"int4": 4, "uint4": 4, "uint3": 3, "uint2": 2, "uint1": 1, "uint6": 6}
"""Bits of the types that lie in parts of bytes."""


def numpy_type(name: str) -> np.dtype[Any]:
    """NumPy's type of values when they are read.

    Raises:
        ValueError: of values that are no numbers.
    """
    if name in ("", "string"):
        raise ValueError("a value that is no number")
    if name in PACKED:
        return np.dtype("int8" if name.startswith("int") else "uint8")
    return np.dtype(getattr(ml_dtypes, name, name))


Blob = Callable[[str, int, str, int], memoryview]
"""Gives the bytes of a value that lies in another file: of its name, the place there, the type and
the count of values."""


@dataclass(frozen=True)
class Kind:
    """The type of a value: of its elements, and its shape; None for an extent that is open."""

    dtype: str
    shape: tuple[int | None, ...]

    @property
    def fixed(self) -> tuple[int, ...]:
        """The shape of a value that is there.

        Raises:
            ValueError: an open extent.
        """
        if None in self.shape:
            raise ValueError("a value of an open extent")
        return tuple(extent for extent in self.shape if extent is not None)

    @property
    def count(self) -> int:
        """Values."""
        return math.prod(self.fixed)


@dataclass(frozen=True)
class Value:
    """A value in the program, or in a file beside it."""

    kind: Kind
    content: memoryview | None
    blob: tuple[str, int] | None = None

    def read(self, blobs: Blob) -> NDArray[Any]:
        """Read it.

        Raises:
            ValueError: content that is not of its type.
        """
        kind = self.kind
        if kind.count * max(numpy_type(kind.dtype).itemsize, 1) > LARGEST_TENSOR:
            raise ValueError(f"a value of shape {kind.shape}")
        if self.blob is not None:
            held = _numbers(blobs(*self.blob, kind.dtype, kind.count), kind.dtype, kind.count)
        elif self.content is not None:
            held = _immediate(self.content, kind)
        else:
            raise ValueError("a value that is none of numbers")
        if held.size != kind.count:
            raise ValueError(f"{held.size} values, and {kind.count} are told")
        return held.reshape(kind.fixed)

    @property
    def text(self) -> str:
        """The text that it is; empty where it is none."""
        if self.content is None or self.kind.dtype != "string":
            return ""
        return next((text for text in _texts(self.content)), "")


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        op: of MIL (`conv`).
        inputs: names of values, or values themselves, by argument.
        outputs: names, and what they are.
        attributes: values by name.
        plain: whether it has no operations inside.
    """

    op: str
    inputs: Mapping[str, tuple[str | Value, ...]]
    outputs: tuple[tuple[str, Kind], ...]
    attributes: Mapping[str, Value] = field(default_factory=dict)
    plain: bool = True


@dataclass(frozen=True)
class Function:
    """What a model computes: what it is given, by name, its operations, and the names of what it
    gives."""

    inputs: Mapping[str, Kind]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read_function(program: memoryview, name: str) -> Function:
    """The function of a name in a program, or its only one.

    Raises:
        ValueError: a program that is damaged, or has no such function.
    """
    functions = dict(_map(program, 2))
    if not functions:
        raise ValueError("its program has no function")
    if name not in functions and len(functions) > 1:
        raise ValueError(f"its program has {len(functions)} functions, and none is called {name!r}")
    function = functions.get(name) or next(iter(functions.values()))
    inputs: dict[str, Kind] = {}
    opset = ""
    for part in parts_of(function):
        if part.number == 1:
            inputs.update([_named_kind(part.content)])
        elif part.number == 2:
            opset = part.text
    blocks = dict(_map(function, 3))
    block = blocks.get(opset)
    if block is None:
        raise ValueError("its program has no operations of its own version")
    found = [_operation(part.content) for part in parts_of(block) if part.number == 3]
    if len(found) > MOST_OPERATIONS:
        raise ValueError(f"its program has more than {MOST_OPERATIONS} operations")
    outputs = tuple(part.text for part in parts_of(block) if part.number == 2)
    return Function(inputs, tuple(found), outputs)


def _map(message: memoryview, number: int) -> Iterator[tuple[str, memoryview]]:
    """The entries of a map with texts as keys."""
    for part in parts_of(message):
        if part.number == number:
            held = list(parts_of(part.content))
            key = next((entry.text for entry in held if entry.number == 1), "")
            yield key, next((entry.content for entry in held if entry.number == 2), memoryview(b""))


def _operation(message: memoryview) -> Operation:
    op, plain = "", True
    inputs: dict[str, tuple[str | Value, ...]] = {}
    outputs: list[tuple[str, Kind]] = []
    attributes: dict[str, Value] = {}
    for part in parts_of(message):
        if part.number == 1:
            op = part.text
        elif part.number == 3:
            outputs.append(_named_kind(part.content))
        elif part.number == 4:
            plain = False
    for key, argument in _map(message, 2):
        inputs[key] = tuple(_bindings(argument))
    for key, held in _map(message, 5):
        if key != "name":
            attributes[key] = _value(held)
    return Operation(op, inputs, tuple(outputs), attributes, plain)


def _bindings(argument: memoryview) -> Iterator[str | Value]:
    for part in parts_of(argument):
        if part.number == 1:
            for binding in parts_of(part.content):
                if binding.number == 1:
                    yield binding.text
                elif binding.number == 2:
                    yield _value(binding.content)


def _named_kind(message: memoryview) -> tuple[str, Kind]:
    name, kind = "", Kind("", ())
    for part in parts_of(message):
        if part.number == 1:
            name = part.text
        elif part.number == 2:
            kind = _kind(part.content)
    return name, kind


def _kind(message: memoryview) -> Kind:
    """Of a tensor; of anything else a kind without a type."""
    tensor = content_of(message, 1)
    if tensor is None:
        return Kind("", ())
    dtype = ""
    shape: list[int | None] = []
    for part in parts_of(tensor):
        if part.number == 1:
            dtype = TYPES.get(part.whole, "")
        elif part.number == 3:
            shape.append(_extent(part.content))
    if len(shape) > MOST_AXES:
        raise ValueError(f"a value of {len(shape)} axes")
    return Kind(dtype, tuple(shape))


def _extent(message: memoryview) -> int | None:
    constant = content_of(message, 1)
    if constant is None:
        return None
    sizes = [part.whole for part in parts_of(constant) if part.number == 1]
    size = sizes[-1] if sizes else 0
    if size >= LARGEST_EXTENT:
        raise ValueError(f"an extent of {size}")
    return size


def _value(message: memoryview) -> Value:
    kind, content, blob = Kind("", ()), None, None
    for part in parts_of(message):
        if part.number == 2:
            kind = _kind(part.content)
        elif part.number == 3:
            content = content_of(part.content, 1)
        elif part.number == 5:
            name, place = "", 0
            for inner in parts_of(part.content):
                if inner.number == 1:
                    name = inner.text
                elif inner.number == 2:
                    place = inner.whole
            blob = (name, place)
    return Value(kind, content, blob)


def _texts(content: memoryview) -> Iterator[str]:
    held = content_of(content, 4)
    for part in parts_of(held) if held is not None else ():
        if part.number == 1:
            yield part.text


_WIDTHS = {1: "<f4", 6: "<f8"}
"""Fields of numbers of a fixed width in an immediate tensor."""


def _immediate(content: memoryview, kind: Kind) -> NDArray[Any]:
    """The numbers of an immediate tensor."""
    wanted = numpy_type(kind.dtype)
    for part in parts_of(content):
        inside = part.content
        if part.number in _WIDTHS:
            width = _WIDTHS[part.number]
            pieces = [held.content for held in parts_of(inside) if held.number == 1]
            return np.concatenate([np.frombuffer(piece, width) for piece in pieces]).astype(wanted)
        if part.number in (2, 3, 5):
            numbers = [signed(number) for held in parts_of(inside) for number in _whole(held)]
            return np.array(numbers, np.int64).astype(wanted)
        if part.number == 7:
            held = content_of(inside, 1)
            return _numbers(memoryview(b"") if held is None else held, kind.dtype, kind.count)
    return np.zeros(0, wanted)


def _whole(held: Part) -> Iterator[int]:
    """Numbers, packed or one by one."""
    if held.number != 1:
        return
    if isinstance(held.value, int):
        yield held.value
    else:
        yield from packed(held.value)


def _numbers(content: memoryview, dtype: str, count: int) -> NDArray[Any]:
    """The numbers of raw bytes."""
    if dtype not in PACKED:
        return np.frombuffer(content, numpy_type(dtype).newbyteorder("<")).astype(
            numpy_type(dtype), copy=True
        )
    values = unpacked(np.frombuffer(content, np.uint8), PACKED[dtype], count)
    if dtype == "int4":
        return np.where(values > 7, values.astype(np.int16) - 16, values).astype(np.int8)
    return values


def unpacked(content: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Numbers of a few bits, packed from the lowest bit of each byte on.

    Raises:
        ValueError: too few bytes.
    """
    if len(content) < -(-count * bits // 8):
        raise ValueError(f"{len(content)} bytes for {count} numbers of {bits} bits")
    each = np.unpackbits(content, count=count * bits, bitorder="little").reshape(count, bits)
    return (each << np.arange(bits, dtype=np.uint8)).sum(1).astype(np.uint8)
