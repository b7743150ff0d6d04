"""The main job: check, check the verdicts themselves, benchmark, report."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reference.answer import Answer
from .check.check import check
from .check.results import CheckReport
from .check.suite import check_controls
from .progress import Report, part_of
from .record.folder import locked, output_folder, set_aside
from .report.render import render_report
from .timing.benchmark import BenchReport, measure_into, require_modules
from .timing.options import BenchOptions
from .timing.plan import Plan, plan
from .timing.presets import preset


@dataclass(frozen=True, repr=False)
class RunReport(Answer):
    """What the main job found: verdicts, times, and the files of the report."""

    check: CheckReport
    controls: CheckReport
    bench: BenchReport
    files: list[Path]
    seeds: CheckReport | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return (
            self.check.ok
            and self.controls.ok
            and self.bench.ok
            and (self.seeds is None or self.seeds.ok)
        )

    def lines(self) -> list[str]:
        """What the check, the check of the verdicts and the benchmark found, and the files."""
        return [
            *self.check.lines(),
            *self.controls.lines()[:1],
            *self.bench.lines(),
            *map(str, self.files),
        ]


def run(
    options: BenchOptions,
    *,
    image: str | os.PathLike[str] | None = None,
    remainder: Any = "error",
    progress: Report | None = None,
) -> RunReport:
    """Do the main job: check, check the verdicts themselves, benchmark, report.

    Writes `check.json`, `controls.json`, `seeds.json` (preset `full`), `bench.json`, `report.html`,
    `report.md` and `report.csv`.

    Args:
        options: what to measure, and the folder `out`; backends and implementations hold for the
            check too.
        image: the picture to check on; None for one that scikit-image ships.
        remainder: what to do with a picture that does not divide into 16×16 patches.
        progress: told how far the whole is.

    Raises:
        PatchParityError: as `check`, `benchmark` and `render_report`.

    Examples:
        >>> import patchparity
        >>> sizes = dict(cases=("vit-ti32-224",), backends=("numpy",), threads=(1,))
        >>> options = patchparity.BenchOptions(rounds=6, out="report", **sizes)
        >>> patchparity.run(options, image=None).ok
        True
    """
    require_modules("bench", ("pytest", "pytest_benchmark", "execnet"))
    require_modules("report", ("jinja2",))
    laid_out = plan(options)
    folder = output_folder(options.out or ".")
    with locked(folder):
        if not options.resume:
            set_aside(folder)
        seeds = preset(options.preset).seeds
        parts = _parts(progress, laid_out, seeds)
        selection: dict[str, Any] = dict(
            backends=list(options.backends) or None,
            implementations=list(options.implementations) or None,
            devices=list(options.devices) or None,
        )
        checked = check(**selection, image=image, remainder=remainder, progress=parts["check"])
        checked.save(folder / "check.json")
        seeded = check(**selection, seeds=seeds, progress=parts["seeds"]) if seeds > 1 else None
        if seeded:
            seeded.save(folder / "seeds.json")
        controlled = check_controls(progress=parts["verdicts"])
        controlled.save(folder / "controls.json")
        measured = measure_into(laid_out, folder, parts["bench"])
        if parts["report"]:
            parts["report"](0, 1, "laying out")
        return RunReport(checked, controlled, measured, render_report(folder), seeded)


def _parts(progress: Report | None, laid_out: Plan, seeds: int) -> dict[str, Report | None]:
    """What each part of the work reports to, by rough seconds on two cores, for the progress bar
    alone: of all implementations, of the kill table, and of a row and its rounds."""
    rows = len(laid_out.rows)
    seconds = {
        "check": 110.0,
        "seeds": 1.5 * seeds if seeds > 1 else 0.0,
        "verdicts": 20.0,
        "bench": rows * (0.5 + 0.03 * laid_out.options.effort().rounds),
        "report": 2 + 0.02 * rows,
    }
    total, begin, parts = sum(seconds.values()), 0.0, {}
    for name, part in seconds.items():
        parts[name] = part_of(progress, begin / total, (begin + part) / total, name)
        begin += part
    return parts
