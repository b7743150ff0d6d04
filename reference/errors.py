"""The one exception a user's own mistake raises; the command line turns it into one sentence and
exit status 2."""

import numbers
import re
from collections.abc import Iterable
from typing import Any

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
        raise PatchParityError(
            f"{name} {value!r} is unknown{nearest(value, known)}; "
            f"expected one of {', '.join(known)}"
        )


def nearest(value: object, known: Iterable[str]) -> str:
    """The name that was probably meant, as the end of a clause; empty where none is near."""
    import difflib  # which nobody waits for who is right

    near = difflib.get_close_matches(str(value), known, 1, 0.7)
    return f": did you mean {near[0]}?" if near else ""


def require_array(name: str, value: object) -> None:
    """Raise PatchParityError for what is no array of numbers as NumPy has them: a tensor of torch
    or TensorFlow, a list, complex numbers or texts."""
    # arrays of JAX have all that is called of them here; tensors have no `astype`
    if not (hasattr(value, "astype") and hasattr(value, "shape")):
        kind = type(value)
        module = kind.__module__.partition(".")[0]
        hint = {
            "torch": " (.detach().cpu().numpy() gives one)",
            "tensorflow": " (.numpy() gives one)",
            "builtins": " (numpy.asarray gives one)" if isinstance(value, list | tuple) else "",
        }.get(module, "")
        raise PatchParityError(f"{name}: {_called(kind)}, expected a NumPy array{hint}")
    if getattr(getattr(value, "dtype", None), "kind", "f") in "cSUMm":
        raise PatchParityError(
            f"{name} of dtype {getattr(value, 'dtype', '')}: expected real numbers"
        )


def _called(kind: type) -> str:
    module = kind.__module__.partition(".")[0]
    return kind.__name__ if module == "builtins" else f"{module}.{kind.__name__}"


def require_sizes(
    option: str, value: Any, counts: tuple[int, ...] = (1, 2, 3), least: int = 1
) -> None:
    """Raise PatchParityError for a size that is no integer of at least `least`, nor so many of
    these."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    if value is not None and not (
        all(
            isinstance(part, numbers.Integral) and not isinstance(part, bool) and int(part) >= least
            for part in parts
        )
        and len(parts) in counts
    ):
        kind = "a positive integer" if least == 1 else f"an integer of at least {least}"
        raise PatchParityError(f"{option}={value!r}: expected {kind}, or one for each axis")
