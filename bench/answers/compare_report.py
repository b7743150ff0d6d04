"""What a comparison of two records finds, as a table and a verdict."""

from dataclasses import dataclass
from typing import Any

from ...reference.answer import Answer
from ..intervals import Comparison
from ..record.words import ratio_text


@dataclass(frozen=True)
class ComparedRow:
    """One row that both records hold.

    Args:
        name: case, device, dtype, threads and implementation.
        old, new: median seconds.
        comparison: new over old: SLOWER is a regression.
        regression: whether it is slower by more than was allowed, and beyond the noise.
    """

    name: str
    old: float
    new: float
    comparison: Comparison
    regression: bool


@dataclass(frozen=True, repr=False)
class CompareReport(Answer):
    """What became of every row.

    Args:
        rows: those that both records hold, in the new one's order.
        only_old, only_new: names of rows that one record alone holds.
        geometric_mean: of new over old, over all rows; None where every row failed.
        differences: what differs between the environments (versions, variables, and with `force`
            the machine), each in words.
        fail_over: what was allowed.
        failed: rows that the old record holds and that failed in the new one, and why.
    """

    rows: list[ComparedRow]
    only_old: list[str]
    only_new: list[str]
    geometric_mean: float | None
    differences: list[str]
    fail_over: float
    failed: dict[str, str]

    @property
    def regressions(self) -> list[ComparedRow]:
        """Rows that became slower by more than was allowed."""
        return [row for row in self.rows if row.regression]

    @property
    def ok(self) -> bool:
        """Whether nothing regressed, and nothing failed that did not before."""
        return not self.regressions and not self.failed

    def lines(self) -> list[str]:
        """What became of all rows, what failed, and what differs between the machines."""
        return [
            self.summary(),
            *(f"fail {name}: {message}" for name, message in self.failed.items()),
            *self.differences,
        ]

    def table(self) -> list[tuple[str, ...]]:
        """What surely changed, worst first."""
        changed = [row for row in self.rows if row.comparison.word in ("FASTER", "SLOWER")]
        changed.sort(key=lambda row: -row.comparison.ratio)
        titles = ("verdict", "row", "old ms", "new ms", "new/old [95%]")
        cells = [
            (
                row.comparison.word,
                row.name,
                f"{1e3 * row.old:.4g}",
                f"{1e3 * row.new:.4g}",
                ratio_text(row.comparison.ratio, row.comparison.interval),
            )
            for row in changed
        ]
        return [titles, *cells] if cells else []

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        rows = [
            {
                "row": row.name,
                "old_seconds": row.old,
                "new_seconds": row.new,
                "ratio": row.comparison.ratio,
                "interval": row.comparison.interval,
                "verdict": row.comparison.word,
                "reason": row.comparison.reason,
                "regression": row.regression,
            }
            for row in self.rows
        ]
        about = {
            name: getattr(self, name)
            for name in (
                "only_old",
                "only_new",
                "failed",
                "geometric_mean",
                "differences",
                "fail_over",
                "ok",
            )
        }
        return {"schema": "patchparity.compare/1", **about, "rows": rows}

    def to_markdown(self) -> str:
        """Return a table fit for a pull request's comment: what changed first, what did not below a
        fold."""
        changed_rows = [row for row in self.rows if row.comparison.word in ("FASTER", "SLOWER")]
        rest = [row for row in self.rows if row.comparison.word not in ("FASTER", "SLOWER")]
        lines = [f"**patchparity compare:** {self.summary()}", ""]
        if changed_rows:
            lines += _markdown(sorted(changed_rows, key=lambda row: -row.comparison.ratio))
        if rest:
            lines += [
                "<details>",
                f"<summary>{len(rest)} rows that did not surely change</summary>",
                "",
                *_markdown(rest),
                "</details>",
                "",
            ]
        lines += [
            f"* **failed** in the new record: {name}: {message}"
            for name, message in self.failed.items()
        ]
        lines += [f"* {difference}" for difference in self.differences]
        for which, names in (("old", self.only_old), ("new", self.only_new)):
            if names:
                lines.append(f"* in the {which} record alone: {', '.join(names)}")
        return "\n".join(lines).rstrip() + "\n"

    def summary(self) -> str:
        """Say it in one sentence."""
        words = [row.comparison.word for row in self.rows]
        counts = ", ".join(
            f"{words.count(word)} {word}"
            for word in ("FASTER", "SLOWER", "SAME", "UNSURE")
            if word in words
        )
        limit = f"{len(self.regressions)} surely slower by more than {100 * self.fail_over:g}%"
        beside = [f"{len(self.failed)} failed in the new record"] if self.failed else []
        alone = {"old": self.only_old, "new": self.only_new}
        beside += [
            f"{len(names)} in the {which} record alone" for which, names in alone.items() if names
        ]
        mean = (
            []
            if self.geometric_mean is None
            else [f"geometric mean of new/old {self.geometric_mean:.3f}"]
        )
        parts = (
            [f"{len(self.rows)} rows: {counts}", limit, *mean]
            if self.rows
            else ["no row can be compared"]
        )
        return "; ".join([*parts, *beside])


def _markdown(rows: list[ComparedRow]) -> list[str]:
    lines = ["| row | old ms | new ms | new / old [95%] | |", "|---|---:|---:|---:|---|"]
    for row in rows:
        judged = row.comparison
        interval = (
            ""
            if judged.interval is None
            else f" [{judged.interval[0]:.3f}, {judged.interval[1]:.3f}]"
        )
        word = f"**{judged.word}**" if row.regression else judged.word
        word += f": {judged.reason}" if judged.word == "UNSURE" else ""
        lines.append(
            f"| {row.name} | {1e3 * row.old:.4g} | {1e3 * row.new:.4g} | "
            f"{judged.ratio:.3f}{interval} | {word} |"
        )
    return [*lines, ""]
