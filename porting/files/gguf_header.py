"""The header of a GGUF file: its keys and values, and where each tensor lies
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Laws: every count and every length is held against what is left of the file before it is followed;
arrays are passed over, but for short ones of numbers; no value of a tensor is read here.
"""

import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .checkpoint import LARGEST_EXTENT, MOST_AXES

MAGIC = b"GGUF"

KEYS_BEGIN = 24
"""Where the first key stands: behind magic, version and two counts."""

VERSIONS = (2, 3)
"""Versions that are read: of one layout, 3 is 2 with big-endian files allowed."""

WRITTEN_VERSION = 3
"""The version of the files that are written (gguf.GGUF_VERSION)."""

ALIGNMENT = 32
"""Bytes that a tensor begins at a multiple of, where no key says otherwise
(gguf.GGUF_DEFAULT_ALIGNMENT)."""

LARGEST_ALIGNMENT = 2**20
"""Bytes of a page of any machine, sixteen times over."""

MOST_VALUES = 2**16
"""Keys of a file: those of converted models have a hundred."""

MOST_TENSORS = 2**17
"""Tensors of a file, of which the largest models have some thousand."""

MOST_STRINGS = 2**22
"""Texts in arrays of a file: a vocabulary of a quarter of a million tokens, and its merges, are
one million."""

LONGEST_KEY = 2**16 - 1
"""Bytes of a key (the format's own limit), or of a tensor's name."""

LONGEST_TEXT = 2**16
"""Bytes of a text that is kept."""

LONGEST_LIST = 64
"""Numbers of an array that is kept: mean and standard deviation of an image have three."""

DEEPEST_ARRAY = 4
"""Arrays within one another; ggml itself takes one."""

NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Kinds of values that are numbers, and how `struct` calls them."""

UINT32, FLOAT32, BOOL, TEXT, ARRAY = 4, 6, 7, 8, 9
"""Kinds of values (gguf.GGUFValueType)."""


@dataclass(frozen=True)
class Kind:
    """A type of tensors of ggml.

    Args:
        name: ggml's.
        block: values that are kept together, along the last axis.
        nbytes: of such a block.
    """

    name: str
    block: int
    nbytes: int


KINDS = {
    number: Kind(*parts)
    for number, parts in {
        0: ("F32", 1, 4),
        1: ("F16", 1, 2),
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        9: ("Q8_1", 32, 40),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
        15: ("Q8_K", 256, 292),
        16: ("IQ2_XXS", 256, 66),
        17: ("IQ2_XS", 256, 74),
        18: ("IQ3_XXS", 256, 98),
        19: ("IQ1_S", 256, 50),
        20: ("IQ4_NL", 32, 18),
        21: ("IQ3_S", 256, 110),
        22: ("IQ2_S", 256, 82),
        23: ("IQ4_XS", 256, 136),
        24: ("I8", 1, 1),
        25: ("I16", 1, 2),
        26: ("I32", 1, 4),
        27: ("I64", 1, 8),
        28: ("F64", 1, 8),
        29: ("IQ1_M", 256, 56),
        30: ("BF16", 1, 2),
        34: ("TQ1_0", 256, 54),
        35: ("TQ2_0", 256, 66),
        39: ("MXFP4", 32, 17),
        40: ("NVFP4", 64, 36),
        41: ("Q1_0", 128, 18),
    }.items()
}
"""Types of tensors by number (gguf.GGML_QUANT_SIZES, and ggml.h); those that are missing are no
longer written."""

PLAIN = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}
"""Types whose values are NumPy's, and what it calls them."""

NUMBER_OF = {PLAIN[kind.name]: number for number, kind in KINDS.items() if kind.name in PLAIN}
"""Numbers of types, by NumPy's names."""


class HeaderError(ValueError):
    """A header that is no header; what it is, in words."""


@dataclass(frozen=True)
class GgufTensor:
    """Where one tensor lies.

    Args:
        name: its name.
        extents: of its axes as the file has them, the fastest first.
        number: of its type.
        offset: of its first byte behind the header's end.
    """

    name: str
    extents: tuple[int, ...]
    number: int
    offset: int

    @property
    def kind(self) -> Kind | None:
        """Its type; None of one that is not known."""
        return KINDS.get(self.number)

    @property
    def type_name(self) -> str:
        """What its type is called."""
        return self.kind.name if self.kind else f"number {self.number}"

    @property
    def count(self) -> int:
        """Its values."""
        return math.prod(self.extents)

    @property
    def nbytes(self) -> int:
        """Its bytes; 0 of a type that is not known."""
        return self.count // self.kind.block * self.kind.nbytes if self.kind else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape as NumPy has it. Axes of one in front are left out of a shape of three axes or
        more, as ggml does when it writes a file anew: (1, 1, D) and (D,) are one."""
        shape = self.extents[::-1]
        if len(shape) > 2:
            while len(shape) > 1 and shape[0] == 1:
                shape = shape[1:]
        return shape


@dataclass(frozen=True)
class GgufHeader:
    """What a file tells before its tensors' values.

    Args:
        version: of the format.
        values: by key; those of long arrays, and of arrays of texts, are left out.
        tensors: in the file's order.
        alignment: bytes that a tensor begins at a multiple of.
        keys_end: where keys and values end, from the file's start.
        begin: where tensors' values begin.
        count: of the keys, those that were left out among them.
    """

    version: int
    values: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    alignment: int
    keys_end: int
    begin: int
    count: int


class _Cursor:
    """A place in a file, which never goes beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.at = file, size, 0
        self.strings = 0

    def _forward(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            raise HeaderError(f"{what} claims {count} bytes, and {self.size - self.at} are left")
        self.at += count

    def take(self, count: int, what: str) -> bytes:
        """So many bytes."""
        self._forward(count, what)
        content = self.file.read(count)
        if len(content) != count:
            raise HeaderError(f"{what} ends before its time")
        return content

    def skip(self, count: int, what: str) -> None:
        """Pass over so many bytes."""
        self._forward(count, what)
        self.file.seek(count, os.SEEK_CUR)

    def number(self, code: str, what: str) -> Any:
        """One number."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(code), what))[0]

    def key(self, what: str) -> str:
        """A key, or a name."""
        length = self.number("Q", what)
        if length > LONGEST_KEY:
            raise HeaderError(f"{what} claims {length} bytes, expected at most {LONGEST_KEY}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise HeaderError(f"{what} is no text") from None


def read_header(file: BinaryIO, size: int) -> GgufHeader:
    """Read the header of an open file of this many bytes.

    Raises:
        HeaderError: what is damaged, hostile, or of another version.
    """
    cursor = _Cursor(file, size)
    if cursor.take(4, "its magic") != MAGIC:
        raise HeaderError("it does not begin as a GGUF file does")
    version = cursor.number("I", "its version")
    if version not in VERSIONS:
        raise HeaderError(_of_version(version))
    tensor_count, value_count = (
        _count(cursor, what, most)
        for what, most in (("of tensors", MOST_TENSORS), ("of keys", MOST_VALUES))
    )
    values: dict[str, Any] = {}
    seen: set[str] = set()
    for _ in range(value_count):
        key = cursor.key("a key")
        if key in seen:
            raise HeaderError(f"the key {key[:200]!r} stands there twice")
        seen.add(key)
        value = _value(cursor, cursor.number("I", key[:200]), key[:200], 0)
        if value is not None:
            values[key] = value
    keys_end = cursor.at
    tensors = _tensors(cursor, tensor_count)
    alignment = values.get("general.alignment", ALIGNMENT)
    if (
        not isinstance(alignment, int)
        or not 0 < alignment <= LARGEST_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise HeaderError(f"general.alignment is {alignment!r:.60}, expected a power of two")
    begin = -(-cursor.at // alignment) * alignment
    _require_places(tensors, size - begin, alignment)
    return GgufHeader(version, values, tensors, alignment, keys_end, begin, value_count)


def _of_version(version: int) -> str:
    """Why a version is not read, in words."""
    swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
    if swapped in VERSIONS:
        return (
            "it is a big-endian file, and little-endian ones are read: gguf-convert-endian FILE "
            "little makes one of it"
        )
    return f"it is of version {version}, expected one of {', '.join(map(str, VERSIONS))}"


def _count(cursor: _Cursor, what: str, most: int) -> int:
    count = cursor.number("Q", f"its number {what}")
    if count > most:
        raise HeaderError(f"its number {what} is {count}, expected at most {most}")
    return int(count)


def _value(cursor: _Cursor, kind: int, key: str, depth: int) -> Any:
    """One value; None where it is passed over."""
    if kind in NUMBERS:
        return _as_number(cursor.number(NUMBERS[kind], key), kind)
    if kind == TEXT:
        length = cursor.number("Q", key)
        if length > LONGEST_TEXT:
            cursor.skip(length, key)
            return None
        return cursor.take(length, key).decode("utf-8", "replace")
    if kind != ARRAY:
        raise HeaderError(f"{key} is of kind {kind}, which no value has")
    if depth == DEEPEST_ARRAY:
        raise HeaderError(f"{key} has more than {DEEPEST_ARRAY} arrays within one another")
    inner, count = cursor.number("I", key), cursor.number("Q", key)
    if inner in NUMBERS and count <= LONGEST_LIST:
        return [_as_number(cursor.number(NUMBERS[inner], key), inner) for _ in range(count)]
    if inner in NUMBERS:
        cursor.skip(count * struct.calcsize(NUMBERS[inner]), key)
        return None
    cursor.strings += count
    if cursor.strings > MOST_STRINGS:
        raise HeaderError(f"{key} claims {count} texts, expected at most {MOST_STRINGS} in all")
    for _ in range(count):
        if inner == TEXT:
            cursor.skip(cursor.number("Q", key), key)
        else:
            _value(cursor, inner, key, depth + 1)
    return None


def _as_number(value: Any, kind: int) -> Any:
    """A number of Python: of a float32 the one with the fewest digits that is it, as it was said
    (1e-05, and not 9.999999747378752e-06)."""
    return float(str(np.float32(value))) if kind == FLOAT32 else value


def _tensors(cursor: _Cursor, count: int) -> tuple[GgufTensor, ...]:
    tensors: dict[str, GgufTensor] = {}
    for _ in range(count):
        name = cursor.key("the name of a tensor")
        if name in tensors:
            raise HeaderError(f"it holds {name[:200]!r} twice")
        what = f"the place of {name[:200]}"
        axes = cursor.number("I", what)
        if axes > MOST_AXES:
            raise HeaderError(f"{name[:200]} claims {axes} axes, expected at most {MOST_AXES}")
        extents = tuple(cursor.number("Q", what) for _ in range(axes))
        if not all(extent < LARGEST_EXTENT for extent in extents):
            raise HeaderError(f"{name[:200]} claims extents {str(extents)[:200]}")
        number, offset = cursor.number("I", what), cursor.number("Q", what)
        tensors[name] = GgufTensor(name, extents, number, offset)
    return tuple(tensors.values())


def _require_places(tensors: Iterable[GgufTensor], room: int, alignment: int) -> None:
    """Raise HeaderError for a tensor that lies outside of the file, on another one, or whose rows
    are no multiple of its blocks."""
    at, before = 0, ""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, tensor.nbytes)):
        name = tensor.name[:200]
        block = tensor.kind.block if tensor.kind else 1
        if block > 1 and (not tensor.extents or tensor.extents[0] % block):
            raise HeaderError(
                f"{name} of shape {tensor.extents[::-1]} is {tensor.type_name}, of blocks of "
                f"{block} values, and its rows are no multiple"
            )
        if tensor.offset % alignment:
            raise HeaderError(
                f"{name} begins at byte {tensor.offset}, which is no multiple of {alignment}"
            )
        if tensor.offset + tensor.nbytes > room:
            raise HeaderError(
                f"{name} of shape {tensor.extents[::-1]} and type {tensor.type_name} claims bytes "
                f"{tensor.offset} to {tensor.offset + tensor.nbytes} of {max(room, 0)}"
            )
        if tensor.nbytes and tensor.offset < at:
            raise HeaderError(f"{name} and {before} lie on one another")
        if tensor.nbytes:
            at, before = tensor.offset + tensor.nbytes, name


def pack_header(
    version: int, keys: bytes, count: int, tensors: Iterable[GgufTensor], alignment: int
) -> bytes:
    """The bytes of a header, up to where tensors' values begin.

    Args:
        version: of the format.
        keys: the bytes of all keys and values.
        count: of the keys.
        tensors: where they lie.
        alignment: bytes that a tensor begins at a multiple of.
    """
    tensors = list(tensors)
    parts = [MAGIC, struct.pack("<IQQ", version, len(tensors), count), keys]
    for tensor in tensors:
        axes = len(tensor.extents)
        place = struct.pack(f"<I{axes}QIQ", axes, *tensor.extents, tensor.number, tensor.offset)
        parts += [_text(tensor.name), place]
    header = b"".join(parts)
    return header + bytes(-len(header) % alignment)


def pack_values(values: Mapping[str, Any]) -> bytes:
    """The bytes of keys and values: texts, switches, whole numbers of 32 bits, floats of 32 bits,
    and lists of these."""
    return b"".join(_text(key) + _packed(value) for key, value in values.items())


def _packed(value: Any) -> bytes:
    if isinstance(value, (list, tuple)):
        kind = struct.pack("<IIQ", ARRAY, _kind_of(value[0]), len(value))
        return kind + b"".join(_bare(each) for each in value)
    return struct.pack("<I", _kind_of(value)) + _bare(value)


def _kind_of(value: Any) -> int:
    if isinstance(value, str):
        return TEXT
    if isinstance(value, bool):
        return BOOL
    return UINT32 if isinstance(value, int) else FLOAT32


def _bare(value: Any) -> bytes:
    kind = _kind_of(value)
    return _text(value) if kind == TEXT else struct.pack(f"<{NUMBERS[kind]}", value)


def _text(text: str) -> bytes:
    content = text.encode("utf-8")
    return struct.pack("<Q", len(content)) + content
