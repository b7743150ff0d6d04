"""`bench.json`, read again by its types. Nothing that computes is loaded for it, so that a record
can be read before what works on it takes its memory."""

from array import array
from pathlib import Path
from typing import Any

import msgspec

from ...reference.errors import PatchParityError
from .schema import SCHEMA, Bench, Compared, Figures, Unmeasured


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
        bench = msgspec.json.decode(held, type=Bench)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
    _make_small(bench)
    return bench


def _make_small(bench: Bench) -> None:
    """Keep samples as arrays, and equal texts once, for a thousand rows share the names of a few
    dozen cases and implementations: half of the memory."""
    held: dict[str, str] = {}
    rows: list[Figures | Unmeasured | Compared] = [
        *(entry.extra_info for entry in bench.benchmarks),
        *bench.failures,
        *bench.skipped,
        *bench.comparisons,
    ]
    for row in rows:
        for name in row.__struct_fields__:
            if isinstance(value := getattr(row, name), str):
                msgspec.structs.force_setattr(row, name, held.setdefault(value, value))
    for entry in bench.benchmarks:
        msgspec.structs.force_setattr(entry.stats, "data", array("d", entry.stats.data))


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
