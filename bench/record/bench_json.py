"""`bench.json`: a view of a record in pytest-benchmark's own schema. The same record gives the same
file, byte for byte."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...porting.files.atomic import plain, write_text
from ...reference.errors import PatchParityError
from .comparisons import comparisons
from .rows import Row
from .schema import Bench, Figures, Measured

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


def read_bench(folder: Path) -> Bench:
    """Read a folder's `bench.json`.

    Raises:
        PatchParityError: none that is there, one that is damaged, of another version or of another
            tool.
    """
    path = folder / "bench.json"
    try:
        held = path.read_bytes()
    except OSError as error:
        raise PatchParityError(
            f"cannot read {path}: {error.strerror or error}; patchparity bench --out {folder} "
            "makes it (with --resume where a run was interrupted)"
        ) from None
    try:
        version = msgspec.json.decode(held, type=_Version)
    except msgspec.ValidationError:
        raise PatchParityError(f"{path} was not written by patchparity bench") from None
    except (msgspec.DecodeError, RecursionError):
        raise PatchParityError(f"{path} is no JSON: the file is damaged") from None
    if version.schema != SCHEMA:
        raise PatchParityError(
            f"{path} is {version.schema}, and this version reads {SCHEMA}: measure again, or use "
            "the version that wrote it"
        )
    try:
        return msgspec.json.decode(held, type=Bench)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None


class _Version(msgspec.Struct):
    """What every `bench.json` of patchparity has, whatever its version."""

    benchmarks: msgspec.Raw
    environment: msgspec.Raw
    failures: msgspec.Raw
    skipped: msgspec.Raw
    options: msgspec.Raw
    planned: msgspec.Raw
    schema: str = "a record without a schema"


def bench_of(content: dict[str, Any], path: Path) -> Bench:
    """The content of a `bench.json` by its types.

    Raises:
        PatchParityError: content that is not of them, with the path of the field.
    """
    try:
        return msgspec.convert(content, Bench)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
