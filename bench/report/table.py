"""A table of the report, and how its numbers are written."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """One table: texts, ready to show.

    Args:
        title, note, columns, rows: what it says.
        numeric: which columns are aligned right.
        marks: the color of each row, by its verdict.
        facets: of each row what it is of, by the names of `FACETS`.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numeric: frozenset[int] = frozenset()
    marks: list[str] = field(default_factory=list)
    facets: list[dict[str, str]] = field(default_factory=list)


FACETS = ("case", "framework", "dtype", "threads", "device")
"""What rows of the page are filtered by."""


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, three digits below a second."""
    return format(1e3 * seconds, "#.3g").rstrip(".") if seconds < 1 else f"{1e3 * seconds:.0f}"


def percent(fraction: float | None) -> str:
    """A fraction in percent, nothing where there is none."""
    return "" if fraction is None else f"{100 * fraction:.0f}%"


def number(value: float | None, form: str = ".2g") -> str:
    """A number of two digits (or of `form`), nothing where there is none."""
    return "" if value is None else format(value, form)
