"""A table of the report, and how its numbers are written."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """One table: texts, ready to show. `numeric` tells which columns are aligned right; `marks`
    colors a row by its verdict."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numeric: frozenset[int] = frozenset()
    marks: list[str] = field(default_factory=list)


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, three digits below a second."""
    return format(1e3 * seconds, "#.3g").rstrip(".") if seconds < 1 else f"{1e3 * seconds:.0f}"


def percent(fraction: float | None) -> str:
    """A fraction in percent, nothing where there is none."""
    return "" if fraction is None else f"{100 * fraction:.0f}%"


def number(value: float | None, form: str = ".2g") -> str:
    """A number of two digits (or of `form`), nothing where there is none."""
    return "" if value is None else format(value, form)
