"""safetensors: one file, or shards with an index (https://github.com/huggingface/safetensors)."""

import itertools
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import (
    MOST_AXES,
    Checkpoint,
    TensorInfo,
    Tensors,
    copy_bytes,
    dtype_of,
    first_line,
    first_twin,
)
from .copied import copies_of, copying, reserve
from .lazy import Feed, write_at

LARGEST_HEADER = 100 * 2**20
"""Bytes of a header; safetensors' own limit."""

SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""Names of the types in a safetensors header."""


def without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different."""
    if twice := first_twin([key for key, _ in pairs]):
        raise ValueError(f"the key {twice!r} stands there twice")
    return dict(pairs)


class SafetensorsCheckpoint(Checkpoint):
    """One safetensors file: a header in JSON, then the bytes of all tensors
    (https://github.com/huggingface/safetensors)."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LARGEST_HEADER, size - 8):
                raise self.damaged(f"its header claims {length} bytes, and {size - 8} are there")
            try:
                header = json.loads(
                    file.read(length).decode("utf-8"), object_pairs_hook=without_twins
                )
            except (ValueError, RecursionError) as error:
                raise self.damaged(f"its header is no JSON ({first_line(error)})") from None
        self.begin = 8 + length
        self.places: dict[str, tuple[int, int]] = {}
        if not isinstance(header, dict):
            raise self.damaged("its header is no JSON object")
        notes = header.pop("__metadata__", {}) or {}
        if not isinstance(notes, dict) or not all(
            isinstance(value, str) for value in notes.values()
        ):
            raise self.damaged("its metadata are no texts")
        self.metadata = notes
        ranges = [self._add(name, entry, size - self.begin) for name, entry in header.items()]
        at = 0
        # as safetensors itself demands: a byte of no tensor, or of two, is refused
        for first, last in sorted(ranges):
            if first != at:
                raise self.damaged(
                    f"its tensors do not lie one behind the other: one begins at byte {first}, "
                    f"expected {at}"
                )
            at = last
        if at != size - self.begin:
            raise self.damaged(f"its tensors end at byte {at} of {size - self.begin}")

    def _add(self, name: str, entry: Any, room: int) -> tuple[int, int]:
        try:
            shape = tuple(entry["shape"])
            if not all(type(extent) is int for extent in shape):
                raise ValueError
            first, last = entry["data_offsets"]
            if type(first) is not int or type(last) is not int:
                raise ValueError
            dtype = SAFETENSORS_TYPES.get(entry["dtype"])
        except (KeyError, TypeError, ValueError):
            raise self.damaged(f"its header tells {name!r} badly") from None
        if dtype is None:
            return self._add_unread(name, shape, str(entry["dtype"]), (first, last), room)
        # Before they are multiplied: an empty tensor may be told with any extent, and is not
        # believed.
        if len(shape) > MOST_AXES or max(shape, default=0) > max(room, 1):
            raise self.damaged(
                f"{name} claims {len(shape)} axes, or more values along one than {room} bytes hold"
            )
        if min(shape, default=0) < 0:
            raise self.damaged(
                f"{name} of shape {shape} and type {dtype} claims bytes {first} to {last} of {room}"
            )
        info = TensorInfo(shape, dtype)
        if not 0 <= first <= last <= room or last - first != info.nbytes:
            raise self.damaged(
                f"{name} of shape {shape} and type {dtype} claims bytes {first} to {last} of {room}"
            )
        self.tensors[name], self.places[name] = info, (first, last)
        return first, last

    def _add_unread(
        self, name: str, shape: tuple[int, ...], dtype: str, place: tuple[int, int], room: int
    ) -> tuple[int, int]:
        """A tensor of a type that NumPy has not (F4, F6), or that holds no weights: it is counted,
        and explained or not, as any other."""
        first, last = place
        if not 0 <= first <= last <= room:
            raise self.damaged(f"{name} claims bytes {first} to {last} of {room}")
        # of half a byte each at least
        if len(shape) > MOST_AXES or any(not 0 <= size <= max(2 * room, 1) for size in shape):
            raise self.damaged(
                f"{name} claims {len(shape)} axes, or more values along one than {room} bytes hold"
            )
        self.tensors[name] = TensorInfo(shape, dtype)
        return first, last

    def read(self, name: str) -> NDArray[Any]:
        """As of any file; a tensor of a type that NumPy has not is refused."""
        if name in self.tensors and name not in self.places:
            raise PatchParityError(
                f"{self.path}: {name} is of type {self.tensors[name].dtype}, which is not read: "
                "dequantize it first"
            )
        return super().read(name)

    def place_of(self, name: str) -> tuple[Path, int] | None:
        """Behind the header."""
        return (self.path, self.begin + self.places[name][0]) if name in self.places else None

    def _read(self, name: str) -> NDArray[Any]:
        first, last = self.places[name]
        with self.path.open("rb") as file:
            file.seek(self.begin + first)
            content = file.read(last - first)
        info = self.tensors[name]
        return np.frombuffer(content, dtype_of(info.dtype)).reshape(info.shape)


def write_safetensors(draft: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a file anew. Every array is contiguous: safetensors 0.8.0 writes a transposed view as
    if it were not transposed (its issue 825)."""
    import safetensors.numpy

    safetensors.numpy.save_file(dict(tensors), draft, dict(metadata) or None)


def replace_in_safetensors(source: SafetensorsCheckpoint, draft: Path, changes: Tensors) -> None:
    """A new header, then the bytes of every tensor, copied a piece at a time."""
    types = {numpy: name for name, numpy in SAFETENSORS_TYPES.items()}
    header: dict[str, Any] = {"__metadata__": source.metadata} if source.metadata else {}
    with source.path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries: dict[str, Any] = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    offset = 0
    for name in [*entries, *(name for name in changes if name not in entries)]:
        if name in changes:
            array = changes[name]
            size, dtype, shape = array.nbytes, types[array.dtype.name], list(array.shape)
        else:
            first, last = entries[name]["data_offsets"]
            size, dtype, shape = last - first, entries[name]["dtype"], entries[name]["shape"]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight
    with source.path.open("rb") as file, draft.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in header:
            if name == "__metadata__":
                continue
            if name in changes:
                out.write(changes[name].tobytes())
            else:
                first, last = entries[name]["data_offsets"]
                file.seek(source.begin + first)
                copy_bytes(file, out, last - first)


def _streamed_header(feed: Feed, metadata: Mapping[str, Any]) -> tuple[bytes, dict[str, int]]:
    """A file's header, and the byte of the file where each tensor begins."""
    if not all(isinstance(value, str) for value in metadata.values()):
        raise PatchParityError("safetensors keeps texts alone as metadata: write them as JSON")
    types = {numpy: name for name, numpy in SAFETENSORS_TYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset, begins = 0, {}
    width = {name: dtype_of(lazy.dtype).itemsize for name, lazy in feed.tensors.items()}
    for name in sorted(feed.tensors, key=lambda name: -width[name]):
        lazy = feed.tensors[name]
        if lazy.dtype not in types:
            raise PatchParityError(
                f"{name} is of dtype {lazy.dtype}, and safetensors has {', '.join(types)}"
            )
        begins[name], end = offset, offset + lazy.nbytes
        header[name] = {
            "dtype": types[lazy.dtype],
            "shape": list(lazy.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight
    text = struct.pack("<Q", len(text)) + text
    return text, {name: begin + len(text) for name, begin in begins.items()}


def stream_safetensors(draft: Path, feed: Feed, metadata: Mapping[str, Any]) -> None:
    """Write a file anew, a tensor at a time; those of wide types first, as safetensors' own writer
    does, so that each begins at a multiple of its type's size. Bytes that lie in files already are
    copied, read back and compared while others are made; `feed` is told which are the same.

    Raises:
        PatchParityError: a type that safetensors has not, metadata that are no texts, values that
            `feed` refuses.
    """
    text, begins = _streamed_header(feed, metadata)
    copies = {name: copies_of(feed, name, begin) for name, begin in begins.items()}
    with draft.open("w+b", buffering=0) as out:
        reserve(out, len(text) + sum(lazy.nbytes for lazy in feed.tensors.values()))
        write_at(out, 0, [memoryview(text)])
        with copying(out, itertools.chain(*copies.values()), feed) as ended:
            for name, begin in begins.items():
                if not copies[name]:
                    write_at(out, begin, feed.pieces(name))
            others = ended()
    feed.compared.update({name: (draft, begin) for name, begin in begins.items() if copies[name]})
    for name in others:
        del feed.compared[name]
