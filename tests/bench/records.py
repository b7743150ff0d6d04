"""Small records for tests: what is measured, and what is looked at."""

import json
from pathlib import Path
from typing import Any

import msgspec

from patchparity.bench.check.results import CheckReport, CheckResult
from patchparity.bench.record.schema import SCHEMA, Bench, Figures, Measured
from patchparity.bench.timing.benchmark import BenchReport
from patchparity.bench.timing.load import load_bench

SMALL: dict[str, Any] = dict(
    cases=("vit-ti32-224-b2",),
    implementations=("numpy:linear", "numpy:conv2d"),
    threads=(1,),
    rounds=4,
)


def copied_record(report: BenchReport, folder: Path) -> None:
    for name in ("samples.jsonl", "rows.jsonl"):
        (folder / name).write_text((report.folder / name).read_text())


def data_of(content: dict[str, Any]) -> dict[str, list[float]]:
    return {entry["params"]["identity"]: entry["stats"]["data"] for entry in content["benchmarks"]}


def typed(content: dict[str, Any]) -> Bench:
    """The content of a `bench.json`, which a test may have changed, by its types."""
    return msgspec.convert(content, Bench)


def rows_of(entries: list[dict[str, Any]]) -> list[Measured]:
    """Benchmarks of a `bench.json` by their type."""
    return msgspec.convert(entries, list[Measured])


def figures(**known: Any) -> dict[str, Any]:
    """The figures of a row of which a test says what it needs."""
    nothing: dict[str, Any] = dict.fromkeys(Figures.__struct_fields__)
    plain = {"generations": [3], "disturbed_rounds": 0, "batch": 1, "formulation": "linear"}
    return {**nothing, **plain, **known}


def checked(rows: list[dict[str, Any]]) -> CheckReport:
    """Results of a check, of which a test says what it needs."""
    names = {"implementation": "numpy:mistake", "backend": "numpy"}
    return CheckReport([msgspec.convert({**names, **row}, CheckResult) for row in rows])


def loaded(folder: Path) -> dict[str, Any]:
    """A folder's record as plain data: its `bench.json`, which is made again where it is missing;
    of a kept one what is read of it."""
    bench = load_bench(folder)
    path = folder / "bench.json"
    content: dict[str, Any] = (
        json.loads(path.read_text())
        if path.exists()
        else {"schema": SCHEMA, **msgspec.to_builtins(bench, enc_hook=list)}
    )
    return content
