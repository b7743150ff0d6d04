"""Messages of Protocol Buffers by their fields, as views of the bytes that they lie in; what is
wrong with them is a ValueError."""

from collections.abc import Iterator
from dataclasses import dataclass

from .protobuf import fields_of, number_at


@dataclass(frozen=True)
class Part:
    """One field of a message.

    Args:
        number: of the message's description.
        value: a number, or the bytes, of a text, of packed numbers or of a message inside.
    """

    number: int
    value: int | memoryview

    @property
    def content(self) -> memoryview:
        """The bytes.

        Raises:
            ValueError: a number, where bytes are expected.
        """
        if isinstance(self.value, int):
            raise ValueError(f"field {self.number} is a number, expected bytes")
        return self.value

    @property
    def whole(self) -> int:
        """The number, of 64 bits without a sign.

        Raises:
            ValueError: bytes, where a number is expected.
        """
        if not isinstance(self.value, int):
            raise ValueError(f"field {self.number} is of bytes, expected a number")
        return self.value

    @property
    def text(self) -> str:
        """The text."""
        return str(self.content, "utf-8")


def parts_of(message: memoryview) -> Iterator[Part]:
    """The fields of a message, in order.

    Raises:
        ValueError: no message.
    """
    for field in fields_of(message, 0, len(message)):
        whole = field.kind == 0
        yield Part(field.number, field.value if whole else message[field.start : field.end])


def content_of(message: memoryview, number: int) -> memoryview | None:
    """The bytes of the last field of a number, as readers take it; None where there is none."""
    found = None
    for part in parts_of(message):
        if part.number == number:
            found = part.content
    return found


def packed(content: memoryview) -> Iterator[int]:
    """Numbers one behind the other, of 64 bits without a sign."""
    at = 0
    while at < len(content):
        number, at = number_at(content, at, len(content))
        yield number


def signed(number: int) -> int:
    """A number of 64 bits with its sign."""
    return number - 2**64 if number >= 2**63 else number
