"""The one exception a user's own mistake raises; the command line turns it into one sentence and exit status 2."""

from collections.abc import Iterable


class PatchParityError(ValueError):
    """A call that cannot be carried out: the message names the value, its shape, and what was expected."""


def require_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise PatchParityError unless `value` is one of `choices`; the message names the value and lists them."""
    known = list(choices)
    if value not in known:
        raise PatchParityError(f"{name} {value!r} is unknown; expected one of {', '.join(known)}")
