"""What a function of the package answers, as people read it: lines and maybe a table, which a
terminal, an interactive session and a notebook show alike."""

import html
import re


class Answer:
    """An answer that shows itself: `str` gives its lines, then its table; a notebook draws both."""

    def lines(self) -> list[str]:
        """The sentences, the answer first."""
        raise NotImplementedError

    def table(self) -> list[tuple[str, ...]]:
        """Rows of cells, the first of them the titles; empty where there is none."""
        return []

    def __str__(self) -> str:
        """The lines, then the table."""
        rows = self.table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*self.lines(), *([""] if rows else []), *aligned])

    def __repr__(self) -> str:
        """The same: what an interactive session shows is the answer."""
        return str(self)

    def _repr_html_(self) -> str:
        """The same for a notebook: the first word of a line colored, the table a table."""
        lines = "<br>".join(map(_colored, self.lines()))
        titles, *rows = self.table() or [()]
        table = ""
        if rows:
            head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f'<div style="white-space: pre-wrap">{lines}</div>{table}'


COLORS = {
    **dict.fromkeys(("right", "pass", "correct", "FASTER"), "#1a7f37"),
    **dict.fromkeys(("wrong", "fail", "error", "SLOWER", "unique", "tied", "unknown"), "#cf222e"),
    **dict.fromkeys(("skip", "lost", "known", "UNSURE"), "#9a6700"),
}
"""Of the word that a line begins with: dark enough on white, light enough on black."""


def _colored(line: str) -> str:
    word = (re.match(r"\w*", line.strip()) or [""])[0]
    text = html.escape(line)
    if word not in COLORS:
        return text
    return text.replace(word, f'<b style="color: {COLORS[word]}">{word}</b>', 1)
