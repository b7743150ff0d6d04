"""`bench.json`: a view of a record in pytest-benchmark's own schema. The same record gives the same
file, byte for byte."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...porting.files.atomic import plain, write_text
from .comparisons import comparisons
from .rows import Row
from .schema import SCHEMA, Figures, Measured

TEST = "test_patch_embed"
OPTIONS = {
    "disable_gc": "False",
    "timer": "ReplayClock",
    "min_rounds": "5",
    "max_time": "1.0",
    "min_time": "5e-06",
    "precision": "None",
    "confidence": "None",
    "warmup": "False",
}
"""Of pytest-benchmark, as its schema has them: samples are measured elsewhere, and none of them
plays a part."""


def entry_of(row: Row, figures: Figures, seconds: Sequence[float]) -> dict[str, Any]:
    """A measured row as one of pytest-benchmark's benchmarks, with its statistics and its
    samples."""
    from pytest_benchmark.stats import Stats

    stats = Stats()
    for duration in seconds:
        stats.update(duration)
    name = f"{TEST}[{row.identity}]"
    entry: dict[str, Any] = plain(
        {
            "group": "/".join(map(str, row.block)),
            "name": name,
            "fullname": f"{TEST}.py::{name}",
            "params": {"identity": row.identity},
            "param": row.identity,
            "extra_info": msgspec.structs.asdict(figures),
            "options": OPTIONS,
            "stats": {**stats.as_dict(), "data": list(seconds), "iterations": 1},
        }
    )
    return entry


@functools.cache
def machine_info() -> dict[str, Any]:
    """What pytest-benchmark tells of this machine, without its name: a record may be published."""
    from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info

    return {**pytest_benchmark_generate_machine_info(), "node": ""}


def write_bench(
    path: Path, entries: list[dict[str, Any]], about: dict[str, Any], last: bool
) -> dict[str, Any]:
    """Write the file in one step, and return what it holds.

    Args:
        path: of the file.
        entries: measured rows, as `entry_of` makes them.
        about: `datetime`, `machine_info`, `environment`, `options`, `planned`, `spent`,
            `measured_anew`, `failures`, `skipped`.
        last: whether everything is measured: comparisons are made then.
    """
    from pytest_benchmark import __version__

    compared = comparisons([msgspec.convert(entry, Measured) for entry in entries]) if last else []
    rest = {
        name: value for name, value in about.items() if name not in ("machine_info", "datetime")
    }
    content: dict[str, Any] = {
        "machine_info": plain(about["machine_info"]),
        "commit_info": {},
        "benchmarks": entries,
        "datetime": about["datetime"],
        "version": __version__,
        "schema": SCHEMA,
        **plain(rest),
        "comparisons": plain(compared),
    }
    write_text(path, msgspec.json.format(msgspec.json.encode(content), indent=1).decode())
    return content
