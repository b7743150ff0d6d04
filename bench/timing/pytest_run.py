"""`benchmark`: pytest-benchmark run around the session, in a process of its own; and what it wrote, read again."""

import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from ..record.bench_json import read_bench, rows_missing
from ..record.folder import REPORTS, locked, output_folder, set_aside
from .options import BenchOptions
from .plan import check_options

REFUSED = "pytest.UsageError: "
"""How the session's own sentence begins in pytest's log where it refuses to begin: with a record that it cannot go on with, for instance."""


@dataclass(frozen=True)
class BenchReport:
    """The folder of a record, and what is in it."""

    folder: Path
    content: dict[str, Any]

    @property
    def missing(self) -> int:
        """Rows that were planned and are not there: the run was interrupted."""
        return rows_missing(self.content)

    @property
    def ok(self) -> bool:
        """Whether every row that could run was measured and is right."""
        return not self.content["failures"]


def benchmark(options: BenchOptions) -> BenchReport:
    """Measure every implementation over cases and write `bench.json` and `samples.jsonl` to the folder `options.out`.

    pytest-benchmark runs in a process of its own with its own configuration, so that no pytest.ini, plugin or variable of the
    user's changes what it does; progress goes to stderr. Without `options.resume`, what an earlier run left in the folder is moved
    into a folder `previous-...` inside it.

    Raises:
        PatchParityError: anything unknown or impossible in the options, a folder that cannot be written or that another run writes
            to, the extra `bench` missing, a run that broke down.
    """
    require_modules("bench", ("pytest", "pytest_benchmark", "execnet"))
    check_options(options)
    folder = output_folder(options.out or ".")
    with locked(folder):
        if not options.resume:
            set_aside(folder)
        return measure_into(options, folder)


def measure_into(options: BenchOptions, folder: Path) -> BenchReport:
    """Run pytest-benchmark on a folder that is held, and read what it wrote."""
    options = dataclasses.replace(options, out=str(folder.resolve()))
    if not options.replay:
        if (folder / "samples.jsonl").exists():  # the reports are of this record; `report` makes them again
            for name in REPORTS:
                (folder / name).unlink(missing_ok=True)
        else:  # they are somebody's; check.json and controls.json may be this run's own
            set_aside(folder, REPORTS)
    here = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(here / "test_patch_embed.py"),
        "-c",
        str(here / "pytest.ini"),
        f"--rootdir={here}",
    ]
    command += ["-s", "-q", "-p", "pytest_benchmark.plugin", *options.arguments()]
    # Nothing of a pytest around it: under one of xdist's workers pytest-benchmark would time nothing.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    if options.peers:  # they are imported as they would be from here
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH", ""), os.getcwd())))
    environment.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PATCHPARITY_END_WITH_PARENT="1")
    log_path = folder / "bench.log"
    with ExitStack() as stack:
        log = stack.enter_context(log_path.open("w"))
        elsewhere = stack.enter_context(
            tempfile.TemporaryDirectory()
        )  # pytest-benchmark makes its storage folder where it stands
        # In a session of its own, so that Ctrl-C reaches it once, through us, and its workers through it.
        process = subprocess.Popen(command, stdout=log, cwd=elsewhere, env=environment, start_new_session=True)
        try:
            status = process.wait()
        except BaseException:
            # pytest writes what it has and ends its workers.
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(OSError, AttributeError):  # what is left of its session, its workers among it
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
            raise
    if not log_path.exists():  # it lies in the folder
        raise PatchParityError(f"{folder} was removed or renamed while the benchmark ran: what was measured is there no more")
    content = read_bench(folder) if status in (0, 1) and (folder / "bench.json").exists() else None
    if content is None or (rows_missing(content) and not options.replay) or (status and not content["failures"]):
        lines = [
            line
            for line in log_path.read_text(errors="replace").splitlines()
            if line.startswith(("E  ", "ERROR", "INTERNALERROR"))
        ]
        reason = lines[0].removeprefix("ERROR: ").removeprefix("E  ").strip() if lines else "no reason was given"
        if reason.startswith(REFUSED):
            raise PatchParityError(reason.removeprefix(REFUSED))
        raise PatchParityError(f"the benchmark broke down (exit {status}): {reason}; {log_path} holds the whole story")
    return BenchReport(folder, content)


def require_modules(extra: str, names: tuple[str, ...]) -> None:
    """Raise PatchParityError where a module of an extra is missing: asked before the work, not after it."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise PatchParityError(f"{name} is not installed: pip install 'patchparity[{extra}]'")


def load_bench(folder: Path) -> dict[str, Any]:
    """Read a folder's `bench.json`; where it is missing or damaged, make it again from the samples and rows of the record.

    Raises:
        PatchParityError: a folder without a record, or one that patchparity did not write.
    """
    try:
        return read_bench(folder)
    except PatchParityError:
        if not (folder / "rows.jsonl").exists():
            raise
    require_modules("bench", ("pytest", "pytest_benchmark", "execnet"))
    with locked(folder):
        return measure_into(BenchOptions(replay=True), folder).content
