"""Where commands print, and text that is printed as it is."""

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from rich.console import Console


class _Later:
    """A console that is made where something is first printed: rich takes 40 ms to load."""

    def __init__(self, stderr: bool) -> None:
        self._stderr = stderr
        self._made: Console | None = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            from rich.console import Console

            self._made = Console(stderr=self._stderr, highlight=False, emoji=False)
        return getattr(self._made, name)


out = cast("Console", _Later(stderr=False))
err = cast("Console", _Later(stderr=True))


def printable(text: str) -> str:
    """Keep a terminal from obeying what a file's names hold."""
    return "".join(
        character
        if character == "\n" or character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def escape(text: str) -> str:
    """The same, and keep rich from reading `patchparity[torch]` as markup."""
    from rich.markup import escape as rich_escape

    return rich_escape(printable(text))
