"""bench.json: what it must hold, and whether it does."""

import json
import math
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError

SCHEMA = "patchparity.bench/2"
"""What `bench.json` calls itself; beside it stands pytest-benchmark's own version."""


def rows_missing(content: dict[str, Any]) -> int:
    """Rows that a `bench.json` was to hold and does not."""
    return int(content["planned"]) - sum(len(content[kind]) for kind in ("benchmarks", "failures", "skipped"))


def read_bench(folder: Path) -> dict[str, Any]:
    """Read a folder's `bench.json`.

    Raises:
        PatchParityError: none that is there, one that is damaged, of another version or of another tool.
    """
    path = folder / "bench.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise PatchParityError(
            f"cannot read {path}: {error.strerror or error}; patchparity bench --out {folder} makes it (with --resume where a run was interrupted)"
        ) from None
    except (ValueError, RecursionError):
        raise PatchParityError(f"{path} is no JSON: the file is damaged") from None
    if not isinstance(content, dict) or not {"benchmarks", "environment", "failures", "skipped", "options", "planned"} <= set(
        content
    ):
        raise PatchParityError(f"{path} was not written by patchparity bench")
    if content.get("schema") != SCHEMA:
        told = content.get("schema", "a record without a schema")
        raise PatchParityError(
            f"{path} is {told}, and this version reads {SCHEMA}: measure again, or use the version that wrote it"
        )
    if fault := _fault(content):
        raise PatchParityError(f"{path} is damaged: {fault}")
    return content


_TEXTS = (
    "implementation",
    "case",
    "host",
    "device",
    "dtype",
    "precision",
    "operation",
    "cache",
    "role",
    "backend",
)


_COUNTS = ("threads_requested", "threads_observed", "batch", "disturbed_rounds")


_FIGURES = (
    "ratio",
    "gflops",
    "gigabytes_per_second",
    "gemm_fraction",
    "own_gemm_fraction",
    "roof_fraction",
    "bound_ratio",
    "effective_bits",
)
"""What readers of `bench.json` rely on in `extra_info`: texts, whole numbers, and figures that may be null."""


def _fault(content: dict[str, Any]) -> str | None:
    """What is wrong inside a `bench.json` that looks like one; a time that is none would become a ratio that is none."""
    lists = [name for name in ("benchmarks", "failures", "skipped") if not isinstance(content[name], list)]
    if lists or not isinstance(content["environment"], dict) or not isinstance(content.get("datetime"), str):
        return f"{', '.join([*lists, 'environment or datetime'][:1])} is not what it should be"
    if not isinstance(content["planned"], int):
        return "planned is no number"
    for number, entry in enumerate(content["benchmarks"]):
        info, stats = (entry.get(name) if isinstance(entry, dict) else None for name in ("extra_info", "stats"))
        if not isinstance(info, dict) or not isinstance(stats, dict):
            return f"benchmark {number} has no extra_info or no stats"
        data, interval = stats.get("data"), info.get("ratio_interval")
        wrong = [name for name in _TEXTS if not isinstance(info.get(name), str)]
        wrong += [name for name in _COUNTS if not isinstance(info.get(name), int)]
        wrong += [name for name in _FIGURES if not (info.get(name) is None or isinstance(info[name], (int, float)))]
        if not (interval is None or (isinstance(interval, list) and len(interval) == 2 and all(map(_is_number, interval)))):
            wrong.append("ratio_interval")
        if not (isinstance(data, list) and data and all(_is_time(each) for each in (*data, stats.get("median")))):
            wrong.append("its times")
        if wrong:
            return f"of benchmark {number}, {', '.join(wrong)}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf
