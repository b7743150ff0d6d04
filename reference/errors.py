"""The one exception a user's own mistake raises; the command line turns it into one sentence and
exit status 2."""

import re
from collections.abc import Iterable

LONGEST_MESSAGE = 4000
"""Characters of a message: fifty lines; a file may hold names of any length."""


def printable(text: str) -> str:
    """The same text without what moves a terminal's cursor: control characters come from names in
    files, and are written as escapes."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]",
        lambda match: f"\\x{ord(match[0]):02x}",
        text,
    )


class PatchParityError(ValueError):
    """A call that cannot be carried out: the message names the value, its shape, and what was
    expected."""

    def __init__(self, message: object = "", *others: object) -> None:
        text = printable(str(message))
        super().__init__(
            text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} …", *others
        )


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise PatchParityError unless `value` is one of `choices`; the message names the value and
    lists them."""
    known = list(choices)
    if value not in known:
        raise PatchParityError(f"{name} {value!r} is unknown; expected one of {', '.join(known)}")
