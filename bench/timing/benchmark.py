"""`benchmark`: a session measured block by block into a folder, and what it wrote, read again."""

import functools
import importlib.util
import os
from collections import defaultdict
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...reference.answer import Answer
from ...reference.errors import PatchParityError
from ..progress import Report, progress_bar
from ..record.bench_json import entry_of, machine_info, write_bench
from ..record.folder import REPORTS, locked, output_folder, set_aside
from ..record.reading import bench_of
from ..record.rows import Block, Row
from ..record.schema import Bench
from ..record.words import block_title
from .options import BenchOptions
from .plan import Plan, plan
from .session import BenchSession


@dataclass(frozen=True, repr=False)
class BenchReport(Answer):
    """The folder of a record, and what is in it: plain data, as its `bench.json`."""

    folder: Path
    content: dict[str, Any]

    @functools.cached_property
    def bench(self) -> Bench:
        """The same by its types."""
        return bench_of(self.content, self.folder)

    @property
    def missing(self) -> int:
        """Rows that were planned and are not there: the run was interrupted."""
        return self.bench.missing

    @property
    def ok(self) -> bool:
        """Whether every row that could run was measured and is right."""
        return not self.bench.failures

    def lines(self) -> list[str]:
        """How many rows there are, what failed, and where the record lies."""
        rows = len(self.bench.benchmarks)
        return [
            f"{'right' if self.ok else 'wrong'}: {rows} rows in {self.folder}",
            *(
                f"fail {row.implementation} {row.case}: {row.message}"
                for row in self.bench.failures
            ),
            *([f"{self.missing} planned rows are missing"] if self.missing else []),
        ]

    def table(self) -> list[tuple[str, ...]]:
        """The median of every row."""
        timed = [row for row in self.bench.benchmarks if row.extra_info.role != "aa"]
        cells = [
            (
                block_title(row.extra_info.block),
                row.extra_info.implementation,
                row.extra_info.operation,
                f"{1e3 * row.stats.median:.4g}",
            )
            for row in timed
        ]
        return [("case", "implementation", "operation", "ms"), *cells] if cells else []


def benchmark(options: BenchOptions) -> BenchReport:
    """Measure every implementation over cases and write `bench.json` and `samples.jsonl` to the
    folder `options.out`.

    Progress goes to stderr. Without `options.resume`, what an earlier run left in the folder is
    moved into a folder `previous-...` inside it.

    Raises:
        PatchParityError: anything unknown or impossible in the options, a folder that cannot be
            written, that another run writes to, or that is gone before the end; the extra `bench`
            missing.

    Examples:
        >>> import patchparity
        >>> sizes = dict(cases=("vit-ti32-224",), backends=("numpy",), threads=(1,))
        >>> options = patchparity.BenchOptions(rounds=6, out="record", **sizes)
        >>> patchparity.benchmark(options).ok
        True
    """
    require_modules("bench", ("pytest", "pytest_benchmark", "execnet"))
    laid_out = plan(options)
    folder = output_folder(options.out or ".")
    with locked(folder):
        if not options.resume:
            set_aside(folder)
        return measure_into(laid_out, folder)


def measure_into(laid_out: Plan, folder: Path, progress: Report | None = None) -> BenchReport:
    """Measure what is planned into a folder that is held; `bench.json` is written anew after every
    block.

    Args:
        laid_out: what to measure.
        folder: of the record.
        progress: told how far it is; None shows that on stderr.
    """
    laid_out = laid_out.into(folder)
    options = laid_out.options
    if not options.replay:
        # the reports are of this record; `report` makes them again
        if (folder / "samples.jsonl").exists():
            for name in REPORTS:
                (folder / name).unlink(missing_ok=True)
        else:  # they are somebody's; check.json and controls.json may be this run's own
            set_aside(folder, REPORTS)
    place = folder.stat()
    session = BenchSession(laid_out)
    if not session.rows:
        raise PatchParityError(
            f"{options.out} holds no case that was finished: bench with --resume goes on"
        )
    now = {"datetime": datetime.now(UTC).isoformat(), "machine_info": machine_info()}
    blocks: dict[Block, list[Row]] = defaultdict(list)
    for row in session.rows:
        blocks[row.block].append(row)
    entries: list[dict[str, Any]] = []
    content: dict[str, Any] = {}
    shown = not options.replay and progress is None
    with closing(session), progress_bar("bench", shown=shown) as bar:
        session.progress = progress or bar
        for number, rows in enumerate(blocks.values(), 1):
            try:
                measured = [row for row in rows if session.outcome(row).status == "measured"]
                entries += [
                    entry_of(row, session.figures(row), session.seconds(row.identity))
                    for row in measured
                ]
                if options.replay:
                    session.forget(rows)
                last = number == len(blocks)
                _require_same(folder, place)
                if last or not options.replay:
                    content = write_bench(folder / "bench.json", entries, session.view(now), last)
            except (OSError, PatchParityError):
                _require_same(folder, place)
                raise
    return BenchReport(folder, content)


def _require_same(folder: Path, place: os.stat_result) -> None:
    """Raise PatchParityError where a folder is no longer the one that it was."""
    with suppress(OSError):
        now = folder.stat()
        if (now.st_dev, now.st_ino) == (place.st_dev, place.st_ino):
            return
    raise PatchParityError(
        f"{folder} was removed or renamed while the benchmark ran: what was measured is there no "
        "more, or lies under another name"
    )


def require_modules(extra: str, names: tuple[str, ...]) -> None:
    """Raise PatchParityError where a module of an extra is missing: asked before the work, not
    after it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise PatchParityError(f"{name} is not installed: pip install 'patchparity[{extra}]'")
