"""Tensors that are made when their turn to be written comes, and their bytes in pieces: what is
held in memory at a time is one of them, and a few buffers."""

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import COPIED_BYTES, Checkpoint, TensorInfo, dtype_of

TILE = 64
"""Values along each side of what is transposed at a time: 16 KB of float32, half of a processor's
first cache of 32 KB."""

PADDING = 16
"""Values behind each row of a tile: a line of the cache (64 bytes) of float32, so that a column
does not fall on the same few places of it."""

READ_BYTES = 2**19
"""Bytes that are transposed, or read back, at a time where rows allow it: what is done to them next
finds them in a processor's second cache, of 512 KB or more."""


class Stored(NamedTuple):
    """Bytes of a tensor of a checkpoint, in C order.

    Args:
        checkpoint, name: the tensor.
        first: where in its values they begin.
        nbytes: how many there are.
    """

    checkpoint: Checkpoint
    name: str
    first: int
    nbytes: int


class Place(NamedTuple):
    """Bytes that lie in a file as they are.

    Args:
        path: the file.
        begin: where in it they begin.
        nbytes: how many there are.
        told: the tensor that they are of, in words.
    """

    path: Path
    begin: int
    nbytes: int
    told: str


@dataclass(frozen=True, eq=False)
class Lazy:
    """One tensor to be written, made when its turn comes.

    Args:
        shape: as it is written.
        dtype: name of the type, NumPy's or that of ml_dtypes.
        read: makes it, a view of other memory too (a transposed one is written a piece at a time);
            called once for writing, and once more for the check where a format needs it.
        source: the checkpoint and the name of the tensor whose very bytes it has, under whatever
            shape: these are copied, and `read` is not called.
        ranges: bytes of tensors that it is, one behind the other: copied where all of them lie in
            files as they are, and `read` is then not called either.

    Examples:
        >>> import numpy as np
        >>> rows = np.arange(6, dtype=np.float32).reshape(2, 3)
        >>> Lazy((3, 2), "float32", lambda: rows.T).nbytes
        24
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]
    source: tuple[Checkpoint, str] | None = None
    ranges: tuple[Stored, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return TensorInfo(self.shape, self.dtype).nbytes


@dataclass(frozen=True)
class Feed:
    """Tensors by name as a format's writer takes them, one after another, and a checksum of each
    that went through memory, for the check behind it.

    Args:
        tensors: by name, in the order in which they are written.
        checksums: CRC-32 of the values of those that were made.
        finite: whether NaN and infinite values are refused where it is read back.
        compared: the file and the byte where a tensor that was copied was compared already.
    """

    tensors: Mapping[str, Lazy]
    checksums: dict[str, int] = dataclasses.field(default_factory=dict)
    finite: bool = False
    compared: dict[str, tuple[Path, int]] = dataclasses.field(default_factory=dict)

    def of(self, names: Iterable[str]) -> "Feed":
        """Some of them; what is noted of them is kept together."""
        return dataclasses.replace(self, tensors={name: self.tensors[name] for name in names})

    def places_of(self, name: str) -> list[Place]:
        """Where its values lie in files already, as they are to be written, one behind the other;
        none where they do not.

        Raises:
            PatchParityError: a source of another type or size.
        """
        lazy = self.tensors[name]
        if lazy.source is None:
            places = [_place_of(stored) for stored in lazy.ranges]
            return [] if None in places else [place for place in places if place]
        checkpoint, held = lazy.source
        info = checkpoint.tensors.get(held)
        if info is None or info.dtype != lazy.dtype or info.nbytes != lazy.nbytes:
            there = "is not there" if info is None else f"is {info.dtype} of shape {info.shape}"
            raise PatchParityError(
                f"{name} is told as {lazy.dtype} of shape {lazy.shape}, and its source {held} in "
                f"{checkpoint.path} {there}"
            )
        place = _place_of(Stored(checkpoint, held, 0, lazy.nbytes))
        return [place] if place else []

    def told(self, name: str) -> str:
        """The tensor that it is copied from, or itself, in words."""
        if (source := self.tensors[name].source) is not None:
            return f"{source[0].path}: {source[1]}"
        return name

    def made(self, name: str) -> NDArray[Any]:
        """The tensor, of any strides.

        Raises:
            PatchParityError: one of another shape or type than it was told.
        """
        lazy = self.tensors[name]
        if lazy.source is None:
            array = np.asarray(lazy.read())
        else:
            self.places_of(name)
            array = lazy.source[0].view(lazy.source[1]).reshape(lazy.shape)
        if array.shape != tuple(lazy.shape) or array.dtype != dtype_of(lazy.dtype):
            raise PatchParityError(
                f"{name} is told as {lazy.dtype} of shape {lazy.shape}, and was made as "
                f"{array.dtype} of shape {array.shape}"
            )
        return array

    def pieces(self, name: str) -> Iterator[memoryview]:
        """The bytes of its values in C order, a piece at a time; a piece is overwritten by the
        next. No checksum is taken of what lies in files: it is held against these."""
        if places := self.places_of(name):
            for path, begin, nbytes, _ in places:
                yield from stored_pieces((path, begin), nbytes)
            return
        checksum = 0
        for piece in pieces_of(self.made(name)):
            checksum = zlib.crc32(piece, checksum)
            yield piece
        self.checksums[name] = checksum

    def whole(self, name: str) -> NDArray[Any]:
        """The tensor in one piece, C order, in this machine's order of bytes."""
        array = contiguous(self.made(name))
        self.checksums[name] = checksum_of(pieces_of(array))
        return array


def _place_of(stored: Stored) -> Place | None:
    checkpoint, name, first, nbytes = stored
    if (place := checkpoint.place_of(name)) is None:
        return None
    return Place(place[0], place[1] + first, nbytes, f"{checkpoint.path}: {name}")


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """In C order, in this machine's order of bytes; itself where it is so already."""
    if array.flags.c_contiguous and array.dtype.isnative:
        return array
    made = np.empty(array.shape, array.dtype.newbyteorder("="))
    _copy(_bits(made), _bits(array))
    return made


def checksum_of(pieces: Iterable[memoryview]) -> int:
    """CRC-32 of bytes that come in pieces."""
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return checksum


def pieces_of(array: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of an array in C order, in pieces of `COPIED_BYTES` at most, which need no more
    memory than one of them; a piece may be overwritten by the next."""
    bits = _bits(array)
    if not bits.size:
        return
    if bits.flags.c_contiguous:
        whole = bits.reshape(-1).view(np.uint8)
        for first in range(0, len(whole), COPIED_BYTES):
            yield whole[first : first + COPIED_BYTES].data
        return
    yield from _rows(bits, np.empty(COPIED_BYTES, np.uint8))


def _rows(bits: NDArray[Any], buffer: NDArray[np.uint8]) -> Iterator[memoryview]:
    """Some rows at a time: those of a tile at least, and no more than the buffer holds."""
    size = bits[0].nbytes
    rows = min(buffer.nbytes // size, max(READ_BYTES // size, TILE))
    if not rows:
        for row in bits:
            yield from pieces_of(row) if row.flags.c_contiguous else _rows(row, buffer)
        return
    for first in range(0, len(bits), rows):
        part = bits[first : first + rows]
        piece = buffer[: part.nbytes]
        _copy(piece.view(part.dtype).reshape(part.shape), part)
        yield piece.data


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    """The values as whole numbers of their size, in this machine's order of bytes: NumPy copies
    those of ml_dtypes one by one."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.view(f"u{array.itemsize}") if array.itemsize in (1, 2, 4, 8) else array


def _copy(target: NDArray[Any], source: NDArray[Any]) -> None:
    """Copy values of any strides to an array in C order. Where the axes that are next to each other
    in memory differ, tile by tile through a padded one, three times as fast as `np.copyto`."""
    if source.size < TILE**2:
        np.copyto(target, source)
        return
    kept = _merged(source)
    target, source = target.reshape(kept), source.reshape(kept)
    steps = [abs(step) if size > 1 else source.nbytes for size, step in _axes(source)]
    near, last = int(np.argmin(steps)), source.ndim - 1
    if near == last or source.shape[near] * source.shape[last] < TILE**2:
        np.copyto(target, source)
        return
    source, target = (np.moveaxis(array, near, -2) for array in (source, target))
    tile = np.empty((TILE, TILE + PADDING), source.dtype)
    for index in np.ndindex(source.shape[:-2]):
        _transpose(target[index], source[index], tile)


def _transpose(target: NDArray[Any], source: NDArray[Any], tile: NDArray[Any]) -> None:
    """Copy a matrix whose columns lie one behind the other to one whose rows do."""
    for row in range(0, source.shape[0], TILE):
        for column in range(0, source.shape[1], TILE):
            part = source[row : row + TILE, column : column + TILE].T
            held = tile[: part.shape[0], : part.shape[1]]
            held[...] = part
            target[row : row + TILE, column : column + TILE] = held.T


def _axes(array: NDArray[Any]) -> Iterator[tuple[int, int]]:
    return zip(array.shape, array.strides, strict=True)


def _merged(array: NDArray[Any]) -> tuple[int, ...]:
    """The shape in which axes that lie one within the other are one."""
    sizes: list[int] = []
    outer = 0
    for size, step in _axes(array):
        if size == 1:
            continue
        if sizes and outer == size * step:
            sizes[-1] *= size
        else:
            sizes.append(size)
        outer = step
    return tuple(sizes) or (1,)


def write_at(target: BinaryIO, at: int, pieces: Iterable[memoryview]) -> None:
    """Write bytes that come in pieces to a place in a file that is open without a buffer."""
    for piece in pieces:
        while piece:
            count = os.pwrite(target.fileno(), piece, at)
            piece, at = piece[count:], at + count


def stored_pieces(place: tuple[Path, int], size: int) -> Iterator[memoryview]:
    """So many bytes of a file from a place on, a piece at a time; a piece is overwritten by the
    next.

    Raises:
        PatchParityError: a file that ends before.
    """
    buffer = memoryview(bytearray(min(size, READ_BYTES)))
    with place[0].open("rb", buffering=0) as file:
        file.seek(place[1])
        while size:
            count = file.readinto(buffer[: min(size, READ_BYTES)])
            if not count:
                raise PatchParityError(f"{place[0]} ends {size} bytes before it should")
            yield buffer[:count]
            size -= count
