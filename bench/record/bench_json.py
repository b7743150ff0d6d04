"""bench.json: what it must hold, and whether it does."""

import json
from pathlib import Path
from typing import Any

import msgspec

from ...reference.errors import PatchParityError
from .schema import BenchFile

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
    try:
        msgspec.convert(content, BenchFile)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
    return content
