"""Protobuf messages as they lie in a file: what is in them is told, and large content is left where
it is (https://protobuf.dev/programming-guides/encoding/).

Laws: a length is held against what is there before it is believed; nothing is read but what is
asked for.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

Content = bytes | mmap.mmap | memoryview

DEEPEST = 40
"""Messages within one another: a graph within a branch of a graph within a function is twelve."""


class Malformed(ValueError):  # noqa: N818  it says what bytes are
    """Bytes that are no message."""


@dataclass(frozen=True)
class Field:
    """One field of a message.

    Args:
        number: of it.
        kind: 0 for a number, 1 for eight bytes, 2 for content of a length, 5 for four bytes.
        start, end: where its content lies; of a number, where that lies.
        value: of a number; else 0.
        begin: where the field itself begins.
    """

    number: int
    kind: int
    start: int
    end: int
    value: int
    begin: int


def number_at(content: Content, at: int, end: int) -> tuple[int, int]:
    """A number of up to ten bytes, and where it ends.

    Raises:
        Malformed: none.
    """
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value & (2**64 - 1), at
        shift += 7
    raise Malformed("a number without end")


def fields_of(content: Content, start: int, end: int) -> Iterator[Field]:
    """The fields of a message that lies between two places.

    Raises:
        Malformed: no message.
    """
    at = start
    while at < end:
        begin = at
        tag, at = number_at(content, at, end)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise Malformed("a field without a number")
        value, first = 0, at
        if kind == 0:
            value, at = number_at(content, at, end)
        elif kind == 2:
            length, first = number_at(content, at, end)
            at = first + length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise Malformed(f"a field of kind {kind}")
        if at > end:
            raise Malformed(f"a field that claims {at - first} bytes, and {end - first} are there")
        yield Field(number, kind, first, at, value, begin)


def written(number: int) -> bytes:
    """A number as it stands in a message."""
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def of_length(number: int, content: bytes) -> bytes:
    """A field of content, with its number and length."""
    return written(number << 3 | 2) + written(len(content)) + content
