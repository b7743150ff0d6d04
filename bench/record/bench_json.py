"""`bench.json`: a view of a record in pytest-benchmark's own schema. The same record gives the same
file, byte for byte."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...porting.files.atomic import plain, write_json
from ...reference.errors import PatchParityError
from .comparisons import comparisons
from .rows import Row
from .schema import BenchFile, Figures

SCHEMA = "patchparity.bench/2"
"""What `bench.json` calls itself; beside it stands pytest-benchmark's own version."""

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
    for each in seconds:
        stats.update(each)
    name = f"{TEST}[{row.identity}]"
    return {
        "group": "/".join(map(str, row.block)),
        "name": name,
        "fullname": f"{TEST}.py::{name}",
        "params": {"identity": row.identity},
        "param": row.identity,
        "extra_info": msgspec.structs.asdict(figures),
        "options": OPTIONS,
        "stats": {**stats.as_dict(), "data": list(seconds), "iterations": 1},
    }


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

    content: dict[str, Any] = {
        "machine_info": about["machine_info"],
        "commit_info": {},
        "benchmarks": entries,
        "datetime": about["datetime"],
        "version": __version__,
        "schema": SCHEMA,
        **{
            name: value for name, value in about.items() if name not in ("machine_info", "datetime")
        },
        "comparisons": comparisons(entries) if last else [],
    }
    held: dict[str, Any] = plain(content)
    write_json(path, held)
    return held


def rows_missing(content: dict[str, Any]) -> int:
    """Rows that a `bench.json` was to hold and does not."""
    return int(content["planned"]) - sum(
        len(content[kind]) for kind in ("benchmarks", "failures", "skipped")
    )


def read_bench(folder: Path) -> dict[str, Any]:
    """Read a folder's `bench.json`.

    Raises:
        PatchParityError: none that is there, one that is damaged, of another version or of another
            tool.
    """
    path = folder / "bench.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise PatchParityError(
            f"cannot read {path}: {error.strerror or error}; patchparity bench --out {folder} "
            "makes it (with --resume where a run was interrupted)"
        ) from None
    except (ValueError, RecursionError):
        raise PatchParityError(f"{path} is no JSON: the file is damaged") from None
    if not isinstance(content, dict) or not {
        "benchmarks",
        "environment",
        "failures",
        "skipped",
        "options",
        "planned",
    } <= set(content):
        raise PatchParityError(f"{path} was not written by patchparity bench")
    if content.get("schema") != SCHEMA:
        told = content.get("schema", "a record without a schema")
        raise PatchParityError(
            f"{path} is {told}, and this version reads {SCHEMA}: measure again, or use the version "
            "that wrote it"
        )
    require_bench(content, path)
    return content


def require_bench(content: dict[str, Any], path: Path) -> None:
    """Raise PatchParityError where the content of a `bench.json` is not of its types, with the path
    of the field."""
    try:
        msgspec.convert(content, BenchFile)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
