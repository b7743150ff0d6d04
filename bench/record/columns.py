"""The columns of `report.csv`: the figures of a row as the schema has them, and its statistics."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from .schema import Figures, Measured

ORDER = (
    "case",
    "implementation",
    "backend",
    "formulation",
    "mode",
    "role",
    "operation",
    "host",
    "device",
    "dtype",
    "precision",
    "threads_requested",
    "threads_observed",
    "cache",
    "median_seconds",
    "q1_seconds",
    "q3_seconds",
    "rounds",
    "gflops",
    "gigabytes_per_second",
    "gemm_fraction",
    "own_gemm_fraction",
    "roof_fraction",
    "ratio",
    "ratio_low",
    "ratio_high",
    "disturbed_rounds",
    "verdict",
    "bound_ratio",
    "effective_bits",
    "first_call_seconds",
    "trace_seconds",
    "compile_seconds",
    "load_seconds",
    "transfer_seconds",
    "peak_memory_bytes",
)
"""In which order columns have stood since there are some; one that is new comes behind."""

IN_BENCH_JSON_ALONE = (
    "ratio_interval",
    "generations",
    "seed",
    "batch",
    "roof",
    "timer",
    "cores_busy",
    "widest_interval",
    "precision_goal",
    "disturbance",
    "steal",
    "clock_mhz",
)
"""Figures that are lists, or say how a row was measured and not what it is."""

CSV_FIELDS = (
    *ORDER,
    *(
        name
        for name in Figures.__struct_fields__
        if name not in ORDER and name not in IN_BENCH_JSON_ALONE
    ),
)
"""Columns of `report.csv`; the values are those of `bench.json`."""


def csv_row(entry: Measured) -> dict[str, Any]:
    """A measured row by column."""
    info, stats = entry.extra_info, entry.stats
    low, high = info.ratio_interval or (None, None)
    of_samples: dict[str, Any] = {
        "median_seconds": stats.median,
        "q1_seconds": stats.q1,
        "q3_seconds": stats.q3,
        "rounds": stats.rounds,
        "ratio_low": low,
        "ratio_high": high,
    }
    return {
        name: of_samples[name] if name in of_samples else getattr(info, name) for name in CSV_FIELDS
    }


def csv_text(entries: Iterable[Measured]) -> str:
    """`report.csv`: a line for each measured row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(csv_row, entries))
    return text.getvalue()
