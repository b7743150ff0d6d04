"""A record as it is kept beside the code: medians that anybody quotes, the environment, a page, and
every sample in one small file."""

import csv
import dataclasses
import io
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from ...porting.files.atomic import write_json, write_text
from ...reference.errors import PatchParityError
from ..record.columns import csv_row
from ..record.folder import PACKED
from ..record.packed import pack
from ..timing.load import load_bench
from .content import build_content
from .render import to_markdown

MEDIANS = (
    "case",
    "implementation",
    "role",
    "operation",
    "host",
    "device",
    "dtype",
    "precision",
    "threads_requested",
    "cache",
    "median_seconds",
    "rounds",
    "gflops",
    "gemm_fraction",
    "roof_fraction",
    "ratio",
    "ratio_low",
    "ratio_high",
    "disturbed_rounds",
)
"""Columns of `medians.csv`, as those of `report.csv`; figures with four digits, which is more than
any of them is sure of."""

TABLES_OF_A_PAGE = ("Who is fastest?", "What is to be gained")


def keep_record(folder: str | os.PathLike[str], target: str | os.PathLike[str]) -> list[Path]:
    """Write `medians.csv`, `environment.json`, `summary.md` and `record.tar.xz` of a record into
    another folder; `report` and `compare` read that as they read the record itself.

    Returns:
        The four files.

    Raises:
        PatchParityError: no record in the folder, a damaged one, a target that cannot be written or
            that is the folder itself.
    """
    source, place = Path(folder), Path(target)
    if place.exists() and source.resolve() == place.resolve():
        raise PatchParityError(f"{target} is the record itself: name a folder of its own")
    if (source / PACKED).exists() and not (source / "samples.jsonl").exists():
        raise PatchParityError(f"{folder} is a kept record already: copy the folder")
    packed = pack(source)
    bench = load_bench(source)
    with tempfile.TemporaryDirectory(prefix="patchparity-") as trial:
        (Path(trial) / PACKED).write_bytes(packed)
        if load_bench(Path(trial)) != bench:
            raise PatchParityError(
                f"{folder} was not kept: its rows and samples do not make what its bench.json "
                "holds (remove that, and look at the report)"
            )
    content = build_content(bench, None)
    tables = [table for table in content.tables if table.title in TABLES_OF_A_PAGE]
    files = {
        "medians.csv": _medians(map(csv_row, bench.benchmarks)),
        "summary.md": to_markdown(
            dataclasses.replace(content, answers=[], tables=tables, pictures=[])
        ),
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / PACKED).write_bytes(packed)
    except OSError as error:
        raise PatchParityError(f"cannot write {target}: {error.strerror or error}") from None
    for name, text in files.items():
        write_text(place / name, text)
    write_json(place / "environment.json", msgspec.to_builtins(bench.environment))
    return [place / name for name in (*files, "environment.json", PACKED)]


def _medians(rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, MEDIANS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: f"{row[name]:.4g}" if isinstance(row[name], float) else row[name]
                for name in MEDIANS
            }
        )
    return text.getvalue()
