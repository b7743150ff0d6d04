"""The main job: check, check the verdicts themselves, benchmark, report."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reference.answer import Answer
from .check.check import check
from .check.results import CheckReport
from .check.suite import check_controls
from .record.folder import locked, output_folder, set_aside
from .report.render import render_report
from .timing.benchmark import BenchReport, measure_into, require_modules
from .timing.options import BenchOptions
from .timing.plan import plan
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
    progress: Callable[[int, int, str], None] | None = None,
) -> RunReport:
    """Do the main job: check, check the verdicts themselves, benchmark, report.

    Writes `check.json`, `controls.json`, `seeds.json` (preset `full`), `bench.json`, `report.html`,
    `report.md` and `report.csv`.

    Args:
        options: what to measure, and the folder `out`; backends and implementations hold for the
            check too.
        image: the picture to check on; None for one that scikit-image ships.
        remainder: what to do with a picture that does not divide into 16×16 patches.
        progress: told of the check's progress; the benchmark shows its own on stderr.

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
        selection: dict[str, Any] = dict(
            backends=list(options.backends) or None,
            implementations=list(options.implementations) or None,
            devices=list(options.devices) or None,
            progress=progress,
        )
        checked = check(**selection, image=image, remainder=remainder)
        checked.save(folder / "check.json")
        seeds = preset(options.preset).seeds
        seeded = check(**selection, seeds=seeds) if seeds > 1 else None
        if seeded:
            seeded.save(folder / "seeds.json")
        controlled = check_controls(progress=progress)
        controlled.save(folder / "controls.json")
        measured = measure_into(laid_out, folder)
        return RunReport(checked, controlled, measured, render_report(folder), seeded)
