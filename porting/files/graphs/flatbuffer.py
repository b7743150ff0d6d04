"""Tables of a FlatBuffer, read from a file a piece at a time
(https://flatbuffers.dev/internals/): of a file of gigabytes, what is asked for.

Laws: every offset is held against the file's size, and every vector too, before it is followed or
read; what a file asks to be looked at in all is counted, so that tables that stand for each other a
million times end in an error.
"""

import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError

PIECE = 2**16
"""Bytes that are read at a time."""

MOST_PIECES = 256
"""Pieces that are kept: 16 MB."""

MOST_PARTS = 2**20
"""Entries of vectors and tables that are looked at in all: a transformer of a hundred layers has
ten thousand operators, of ten numbers each."""

LONGEST_TEXT = 2**16
"""Bytes of one text: names of operations that were made one of many are a thousand long."""


class FlatBuffer:
    """An open file of tables.

    Args:
        path: the file, which is opened for each piece.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.parts = 0
        self.pieces: OrderedDict[int, bytes] = OrderedDict()

    def damaged(self, what: str) -> PatchParityError:
        """The error of a file whose content is not what it should be."""
        return PatchParityError(f"{self.path} is damaged or hostile: {what}")

    def require(self, begin: int, count: int) -> None:
        """Raise PatchParityError where so many bytes are not there."""
        if not 0 <= begin <= begin + count <= self.size:
            raise self.damaged(f"a table points to byte {begin + count} of {self.size}")

    def count(self, parts: int) -> None:
        """Raise PatchParityError where more was looked at than a model has."""
        self.parts += parts
        if self.parts > MOST_PARTS:
            raise self.damaged(f"its tables have more than {MOST_PARTS} entries")

    def bytes_at(self, begin: int, count: int) -> bytes:
        """Bytes of the file.

        Raises:
            PatchParityError: bytes that are not there.
        """
        self.require(begin, count)
        first, at = divmod(begin, PIECE)
        if at + count <= PIECE:
            return self._piece(first)[at : at + count]
        return self._read(begin, count)

    def _read(self, begin: int, count: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(begin)
            return file.read(count)

    def _piece(self, number: int) -> bytes:
        if number in self.pieces:
            self.pieces.move_to_end(number)
            return self.pieces[number]
        piece = self.pieces[number] = self._read(number * PIECE, PIECE)
        if len(self.pieces) > MOST_PIECES:
            self.pieces.popitem(last=False)
        return piece

    def number(self, at: int, code: str) -> Any:
        """One number, by its code of `struct`."""
        content = self.bytes_at(at, struct.calcsize(f"<{code}"))
        return struct.unpack(f"<{code}", content)[0]

    @property
    def root(self) -> "Table":
        """The table that holds all others."""
        return Table(self, self.number(0, "I"))


class Table:
    """One table: fields by their number in the schema, each of which may be left out."""

    def __init__(self, buffer: FlatBuffer, at: int) -> None:
        self.buffer, self.at = buffer, at
        buffer.count(1)
        places = at - buffer.number(at, "i")
        length = buffer.number(places, "H")
        if length < 4 or length % 2:
            raise buffer.damaged(f"the table at byte {at} has no fields that can be told")
        fields = buffer.bytes_at(places + 4, length - 4)
        self.fields: tuple[int, ...] = struct.unpack(f"<{len(fields) // 2}H", fields)

    def place(self, field: int) -> int:
        """Where a field lies; 0 where it is left out."""
        offset = self.fields[field] if field < len(self.fields) else 0
        return self.at + offset if offset else 0

    def number(self, field: int, code: str, default: Any = 0) -> Any:
        """A number, by its code of `struct`."""
        place = self.place(field)
        return self.buffer.number(place, code) if place else default

    def _target(self, field: int) -> int:
        place = self.place(field)
        return place + int(self.buffer.number(place, "I")) if place else 0

    def table(self, field: int) -> "Table | None":
        """A table."""
        target = self._target(field)
        return Table(self.buffer, target) if target else None

    def vector(self, field: int, width: int) -> tuple[int, int]:
        """Where the entries of a vector begin, and how many there are; width: bytes of one."""
        target = self._target(field)
        if not target:
            return 0, 0
        count = self.buffer.number(target, "I")
        self.buffer.require(target + 4, count * width)
        return target + 4, count

    def numbers(self, field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers, empty where it is left out."""
        kind = np.dtype(dtype).newbyteorder("<")
        begin, count = self.vector(field, kind.itemsize)
        self.buffer.count(count)
        if not count:
            return np.zeros(0, kind)
        return np.frombuffer(self.buffer.bytes_at(begin, count * kind.itemsize), kind)

    def tables(self, field: int) -> list["Table"]:
        """A vector of tables."""
        begin, count = self.vector(field, 4)
        self.buffer.count(count)
        offsets = np.frombuffer(self.buffer.bytes_at(begin, 4 * count), "<u4").tolist()
        return [
            Table(self.buffer, begin + 4 * place + offset) for place, offset in enumerate(offsets)
        ]

    def text(self, field: int) -> str:
        """A text, empty where it is left out."""
        begin, count = self.vector(field, 1)
        if count > LONGEST_TEXT:
            raise self.buffer.damaged(f"a name of {count} bytes")
        return self.buffer.bytes_at(begin, count).decode("utf-8", "replace") if count else ""
