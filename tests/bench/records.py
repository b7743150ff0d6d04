"""Small records for tests: what is measured, and what is looked at."""

from pathlib import Path
from typing import Any

from patchparity.bench.timing.benchmark import BenchReport

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
