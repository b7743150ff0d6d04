"""Where commands print, and text that is printed as it is."""

from rich.console import Console

out = Console(highlight=False, emoji=False)


def escape(text: str) -> str:
    """Keep rich from reading `patchparity[torch]` as markup, and a terminal from obeying what a
    file's names hold."""
    from rich.markup import escape as rich_escape

    plain = "".join(
        each
        if each == "\n" or each.isprintable()
        else each.encode("unicode_escape").decode("ascii")
        for each in text
    )
    return rich_escape(plain)
