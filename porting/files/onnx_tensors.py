"""Tensors of ONNX (`TensorProto` of onnx/onnx.proto): what they tell, and their values, in whatever
field or place they are kept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checkpoint import LARGEST_EXTENT, MOST_AXES, TensorInfo, dtype_of
from .graphs.operators import ELEMENT_TYPES
from .protobuf import Content, Malformed, fields_of, of_length

SMALL = 256
"""Bytes of values that are read with the graph: sizes and axes have no more."""

TENSOR_DATA = {4: "float_data", 5: "int32_data", 7: "int64_data", 9: "raw_data", 10: "double_data"}
TENSOR_DATA |= {6: "string_data", 11: "uint64_data"}
"""Fields of a TensorProto that hold values."""

DOC = 12
"""The field of a TensorProto that is a text: in what is handed to the onnx library, where the
values lie."""

MARK = "patchparity values at "
"""How the text of a tensor begins whose values were left in the file."""


@dataclass(frozen=True)
class HeldTensor:
    """A tensor as the file tells it.

    Args:
        info: shape and type.
        data: its values, as a field of the message has them; None where they are in another place.
        field: that field.
        start, end: where they lie in the file.
        external: where in another file.
    """

    info: TensorInfo
    field: str = ""
    start: int = 0
    end: int = 0
    data: Any = None
    external: Mapping[str, str] | None = None


def without_values(content: Content, start: int, end: int) -> bytes:
    """A tensor that tells where its values lie, where it has more than a few.

    Raises:
        Malformed: none.
    """
    parts, places = [], []
    for one in fields_of(content, start, end):
        if one.number == DOC:
            continue
        large = one.number in TENSOR_DATA and one.kind == 2 and one.end - one.start > SMALL
        if large:
            places.append(f"{one.number} {one.start} {one.end}")
        else:
            parts.append(bytes(content[one.begin : one.end]))
    if len(places) > 1:
        raise Malformed("a tensor whose values lie in two places")
    if places:
        parts.append(of_length(DOC, (MARK + places[0]).encode()))
    return b"".join(parts)


def tensor_of(tensor: Any) -> HeldTensor:
    """What a TensorProto tells.

    Raises:
        Malformed, ValueError: a type or a shape that is none.
    """
    shape = tuple(int(extent) for extent in tensor.dims)
    if tensor.data_type not in ELEMENT_TYPES:
        raise Malformed(f"it is of type {tensor.data_type}, which is none of numbers")
    if len(shape) > MOST_AXES or not all(0 <= extent < LARGEST_EXTENT for extent in shape):
        raise Malformed(f"it is of shape {shape[:8]}")
    info = TensorInfo(shape, ELEMENT_TYPES[tensor.data_type])
    if tensor.HasField("segment"):
        raise Malformed("it is in segments")
    if tensor.data_location == 1:
        external = {entry.key: entry.value for entry in tensor.external_data}
        return HeldTensor(info, external=external)
    if tensor.doc_string.startswith(MARK):
        if any(len(getattr(tensor, field)) for field in TENSOR_DATA.values()):
            raise Malformed("its values lie in two places")
        place, start, end = map(int, tensor.doc_string.removeprefix(MARK).split())
        return HeldTensor(info, TENSOR_DATA[place], start, end)
    for field in TENSOR_DATA.values():
        values = getattr(tensor, field)
        if len(values):
            data = values if field == "raw_data" else np.array(values)
            return HeldTensor(info, field, data=data)
    return HeldTensor(info, "raw_data", data=b"")


PACKED = ("int4", "uint4", "float4_e2m1fn")
"""Types of which two values are in a byte, the lower bits first."""


def bytes_of(info: TensorInfo) -> int:
    """Bytes that its values take as raw ones."""
    count = math.prod(info.shape)
    return -(-count // 2) if info.dtype in PACKED else count * dtype_of(info.dtype).itemsize


def decoded(content: Any, held: HeldTensor) -> NDArray[Any]:
    """An array of the bytes, or the numbers, that a tensor is kept as."""
    info, dtype = held.info, dtype_of(held.info.dtype)
    count = math.prod(info.shape)
    if held.field in ("raw_data", ""):
        content = bytes(content)
        if len(content) != bytes_of(info):
            raise Malformed(f"{len(content)} bytes, and {bytes_of(info)} are expected")
        return _of_bytes(content, info, count).reshape(info.shape)
    fits = FIELDS_OF.get(held.field, ())
    if info.dtype not in fits:
        raise Malformed(f"{info.dtype} in {held.field}")
    numbers = content if isinstance(content, np.ndarray) else _numbers(content, held.field)
    if info.dtype in PACKED:
        return _of_bytes(numbers.astype(np.uint8).tobytes(), info, count).reshape(info.shape)
    if numbers.size != count:
        raise Malformed(f"{numbers.size} values, and {count} are expected")
    if held.field == "int32_data" and dtype.kind not in "iub":  # float16's bits, and like types'
        bits = {1: np.uint8, 2: np.uint16}[dtype.itemsize]
        return numbers.astype(bits).view(dtype).reshape(info.shape)
    return numbers.astype(dtype).reshape(info.shape)


FIELDS_OF = {
    "float_data": ("float32",),
    "double_data": ("float64",),
    "int64_data": ("int64",),
    "uint64_data": ("uint32", "uint64"),
    "int32_data": tuple(
        name
        for name in ELEMENT_TYPES.values()
        if name not in ("float32", "float64", "int64", "uint32", "uint64")
    ),
}
"""Which types may be kept in which field."""


def _of_bytes(content: bytes, info: TensorInfo, count: int) -> NDArray[Any]:
    dtype = dtype_of(info.dtype)
    if info.dtype not in PACKED:
        return np.frombuffer(content, dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype)
    pairs = np.frombuffer(content, np.uint8)
    if len(pairs) < -(-count // 2):
        raise Malformed(f"{len(pairs)} bytes of {count} values")
    halves = np.stack([pairs & 15, pairs >> 4], axis=-1).ravel()[:count]
    if info.dtype == "int4":
        return (halves.astype(np.int8) - 16 * (halves > 7)).astype(np.int8).astype(dtype)
    if info.dtype == "uint4":
        return halves.astype(dtype)
    return halves.astype(np.uint8).view(dtype)


def _numbers(content: bytes, field: str) -> NDArray[Any]:
    """A packed list of numbers of a message."""
    if field == "float_data":
        return np.frombuffer(content, "<f4")
    if field == "double_data":
        return np.frombuffer(content, "<f8")
    return _whole_numbers(np.frombuffer(content, np.uint8), field)


def _whole_numbers(content: NDArray[np.uint8], field: str) -> NDArray[Any]:
    """Numbers of seven bits a byte, all at once."""
    ends = np.flatnonzero(content < 128)
    if not len(ends) or ends[-1] != len(content) - 1:
        raise Malformed("a number without end")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 10:
        raise Malformed("a number of more than ten bytes")
    values = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max())):
        there = lengths > place
        bits = content[starts[there] + place].astype(np.uint64) & np.uint64(127)
        values[there] |= bits << np.uint64(7 * place)
    return values if field == "uint64_data" else values.view(np.int64)
