"""The report of a record beside earlier ones: what became faster or slower, and the trend."""

import os
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ..answers.compare import compare
from ..record.comparisons import framework_of
from ..record.schema import Bench
from ..record.words import block_title, ratio_text
from ..timing.load import load_bench
from .front import color_of
from .pictures import Drawn, line_plot
from .svg import Line
from .table import Table, milliseconds

MARKS = {"SLOWER": "fail", "FASTER": "", "SAME": "unsure", "UNSURE": "unsure"}
"""How rows of a comparison are colored."""


def comparison_table(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> Table:
    """Every row that both records hold, what surely changed first.

    Raises:
        PatchParityError: as `compare`.
    """
    report = compare(old, new, force=True)
    sure = ("SLOWER", "FASTER")
    rows = sorted(
        report.rows,
        key=lambda row: (row.comparison.word not in sure, -row.comparison.ratio),
    )
    differences = "".join(f" {difference}." for difference in report.differences)
    return Table(
        f"Against {Path(old).name}",
        f"{report.summary()}.{differences}",
        ("row", "old ms", "new ms", "new / old [95%]", "so"),
        [
            (
                row.name,
                milliseconds(row.old),
                milliseconds(row.new),
                ratio_text(row.comparison.ratio, row.comparison.interval),
                row.comparison.word,
            )
            for row in rows
        ],
        frozenset({1, 2, 3}),
        [MARKS[row.comparison.word] for row in rows],
    )


def trend_pictures(
    records: Sequence[str | os.PathLike[str]], newest: Bench, frameworks: Sequence[str]
) -> list[Drawn]:
    """The median of each framework's fastest over the days on which records were made, shape by
    shape of the newest; only shapes that another record holds too."""
    benches = sorted(
        [*(load_bench(Path(folder)) for folder in records), newest], key=lambda b: b.datetime
    )
    start = _day(benches[0])
    points: dict[tuple[object, ...], dict[str, list[tuple[float, float]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for bench in benches:
        best: dict[tuple[tuple[object, ...], str], float] = {}
        for entry in bench.benchmarks:
            info = entry.extra_info
            if info.operation == "tokens" and info.role in ("implementation", "peer"):
                key = (info.block, info.device, info.precision), framework_of(info)
                best[key] = min(entry.stats.median, best.get(key, entry.stats.median))
        for (shape, framework), seconds in best.items():
            points[shape][framework].append((_day(bench) - start, 1e3 * seconds))
    pictures = []
    for shape, by_framework in points.items():
        lines = [
            Line(framework, held, [], [], color_of(framework, frameworks))
            for framework, held in by_framework.items()
            if len(held) > 1
        ]
        if lines:
            block, device, precision = shape
            place = device if precision == "ieee" else f"{device} {precision}"
            title = f"{block_title(block)}, {place}"  # type: ignore[arg-type]
            drawn = line_plot(f"Trend of {title}", "days since the first", "ms", lines, True)
            pictures.append((title, drawn))
    return pictures


def _day(bench: Bench) -> float:
    return datetime.fromisoformat(bench.datetime).timestamp() / 86400
