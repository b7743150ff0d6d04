"""`bench` and `run`: options, the plan of rows, the workers' lives, and pytest-benchmark around it all."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backends.base import check_place, get_backend, list_implementations, require_installed
from ..reference.errors import PatchParityError
from .cases import Case, named_case, preset
from .conformance import CheckReport, check
from .environment import describe_environment, gpus, usable_cores
from .results import Record, output_folder
from .timing import Row, blank_outcome, measure_block
from .views import extra_information
from .workers import CALL_SECONDS, Worker, WorkerError, WorkerKey, WorkerLostError, worker_environment

REFERENCE_IMPLEMENTATION = "numpy:linear:eager"
"""What ratios are to: the reference's own formulation."""

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Every field is an option of `patchparity bench` and, as `--patchparity-FIELD`, of `pytest bench`.

    Args:
        preset: `smoke`, `quick` or `full`.
        cases: names of cases instead of the preset's.
        backends, implementations: as in `check`; none means all.
        threads: CPU threads to ask for; none means all cores.
        devices: `cpu`, `cuda`; none means all that are found.
        dtypes: float32 by default.
        rounds: samples a row; None means the preset's.
        seed: of data and order.
        call_seconds: a worker that takes longer than this for one call is ended, and its rows say so.
        out: folder of the record.
        resume: keep what the record holds, and measure the rest.
    """

    preset: str = "smoke"
    cases: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    rounds: int | None = None
    seed: int = 0
    call_seconds: float = CALL_SECONDS
    out: str = ""
    resume: bool = False

    def check(self) -> None:
        """Raise PatchParityError for anything unknown or impossible, before any work is done."""
        plan(self)
        cores = usable_cores()
        for threads in self.threads:
            if not 1 <= threads <= cores:
                raise PatchParityError(f"threads={threads}: expected 1 to {cores}, the cores that this process may use")
        require_installed(self.backends)
        check_place(self.dtypes, self.devices)
        if self.rounds is not None and self.rounds < 1:
            raise PatchParityError(f"rounds={self.rounds}: expected at least 1")
        if not self.call_seconds > 0:
            raise PatchParityError(f"call_seconds={self.call_seconds}: expected more than 0")

    def arguments(self) -> list[str]:
        """The options as arguments of pytest, those that differ from the default."""
        given = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                given.append(f"--patchparity-{field.name}={text}")
        return given

    @classmethod
    def parse(cls, texts: dict[str, str | None]) -> "BenchOptions":
        """Build options from the texts of pytest's options.

        Raises:
            PatchParityError: a text that is no number where one is expected.
        """
        fields: dict[str, Any] = {}
        for name, text in texts.items():
            if text is None:
                continue
            try:
                if name in ("rounds", "seed"):
                    fields[name] = int(text)
                elif name == "call_seconds":
                    fields[name] = float(text)
                elif name == "resume":
                    fields[name] = text == "True"
                elif name in ("preset", "out"):
                    fields[name] = text
                else:
                    items = tuple(filter(None, text.split(",")))
                    fields[name] = tuple(map(int, items)) if name == "threads" else items
            except ValueError:
                raise PatchParityError(f"{name}={text!r}: expected numbers") from None
        return cls(**fields)


def plan(options: BenchOptions) -> list[Row]:
    """Lay out every row, block by block: in each the implementations, their frameworks' GEMMs, and the A/A copy.

    Raises:
        PatchParityError: an unknown preset, case, backend or implementation.
    """
    chosen = preset(options.preset)
    selection = list_implementations(list(options.backends) or None, list(options.implementations) or None)
    if not options.implementations and not chosen.costly_compile:
        selection = [(backend, each) for backend, each in selection if not each.costly_compile]
    reference = REFERENCE_IMPLEMENTATION
    if reference not in {each.name for _, each in selection}:
        numpy = get_backend("numpy")
        selection.insert(0, (numpy, numpy.implementation(reference)))
    cases = [named_case(name) for name in options.cases or chosen.cases]
    devices = options.devices or (("cpu", "cuda") if gpus() else ("cpu",))
    missing = {backend.name: backend.missing() or "" for backend in dict.fromkeys(backend for backend, _ in selection)}
    rows = []
    for case in cases:
        for device in devices:
            for dtype in options.dtypes:
                for threads in options.threads or (usable_cores(),):
                    place: dict[str, Any] = dict(case=case.name, dtype=dtype, precision="ieee", threads=threads)
                    # The reference takes part in the blocks of every device, on the CPU: it is what ratios are to.
                    rows += [
                        Row(
                            implementation=each.name,
                            device="cpu" if each.name == reference else device,
                            skip=missing[backend.name],
                            **place,
                        )
                        for backend, each in selection
                        if backend.name != "numpy" or device == "cpu" or each.name == reference
                    ]
                    rows += [
                        Row(implementation=f"{name}:gemm", device=device, operation="gemm", role="ceiling", skip=reason, **place)
                        for name, reason in missing.items()
                        if name != "numpy" or device == "cpu"
                    ]
                    rows.append(Row(implementation=reference, device="cpu", role="aa", **place))
    return list(dict.fromkeys(rows))


@dataclass(frozen=True)
class _Start:
    """How the start of a worker went: both empty if well; a reason to skip its rows; or what went wrong."""

    skip: str = ""
    failure: str = ""


class BenchSession:
    """The state of one run: workers, started when first needed, and the record that every finished block is written to."""

    def __init__(self, options: BenchOptions, progress: Progress | None = None) -> None:
        self.options = options
        self.rows = plan(options)
        self.by_identity = {row.identity: row for row in self.rows}
        self.cases: dict[str, Case] = {name: named_case(name) for name in dict.fromkeys(row.case for row in self.rows)}
        self.rounds = options.rounds or preset(options.preset).rounds
        self.record = Record(output_folder(options.out)) if options.out else None
        self.progress = progress
        self._workers: dict[WorkerKey, Worker] = {}
        self._unavailable: dict[WorkerKey, str] = {}
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if self.record and options.resume:
            self._read_record()
        elif self.record:
            self.record.clear()

    def _read_record(self) -> None:
        """Take over the finished blocks of an earlier run; of several attempts at a row, the last one that was finished counts."""
        assert self.record is not None
        attempts = {}
        for outcome in self.record.rows():
            self.outcomes[outcome["row"]] = outcome
            attempts[outcome["row"]] = outcome["attempt"]
        for sample in self.record.samples():
            if attempts.get(sample["row"]) == sample["attempt"]:
                self.samples[sample["row"]].append(sample)

    def block_rows(self, row: Row) -> list[Row]:
        """All rows that are measured together with one."""
        return [other for other in self.rows if other.block == row.block]

    def outcome(self, row: Row) -> dict[str, Any]:
        """Return what became of a row, measuring its block if that has not been done."""
        if row.identity not in self.outcomes:
            self._measure(self.block_rows(row))
        return self.outcomes[row.identity]

    def seconds(self, row_identity: str) -> list[float]:
        """The samples of a row, in the order of the rounds."""
        return [sample["seconds"] for sample in sorted(self.samples[row_identity], key=lambda sample: sample["round"])]

    def extra_info(self, row: Row) -> dict[str, Any]:
        """What pytest-benchmark's `extra_info` holds for a measured row."""
        block = [other.identity for other in self.block_rows(row)]
        return extra_information(
            self.outcomes[row.identity],
            [self.outcomes[identity] for identity in block],
            {identity: self.seconds(identity) for identity in block if self.samples[identity]},
            self.cases[row.case],
        )

    def _measure(self, rows: list[Row]) -> None:
        attempt = uuid.uuid4().hex[:12]

        def keep(samples: list[dict[str, Any]]) -> None:
            lines = [{**sample, "attempt": attempt} for sample in samples]
            if self.record:
                self.record.append_samples(lines)
            for line in lines:
                self.samples[line["row"]].append(line)

        for row in rows:
            self.samples[row.identity].clear()
        reasons = {key: self._start(key) for key in dict.fromkeys(row.worker for row in rows if not row.skip)}
        ready = [dataclasses.replace(row, skip=row.skip or reasons[row.worker].skip) for row in rows]
        failed = {row.identity: reasons[row.worker].failure for row in rows if not row.skip and reasons[row.worker].failure}
        able = [row for row in ready if row.identity not in failed]
        outcomes = measure_block(
            able, self.cases[rows[0].case], self._workers, self.rounds, self.options.seed, keep, self._report(rows)
        )
        outcomes += [
            {**blank_outcome(row), "status": "error", "message": failed[row.identity]} for row in rows if row.identity in failed
        ]
        for outcome in outcomes:
            self.outcomes[outcome["row"]] = {**outcome, "attempt": attempt}
        if self.record:
            self.record.append_rows([self.outcomes[outcome["row"]] for outcome in outcomes])

    def _start(self, key: WorkerKey) -> "_Start":
        """Start a worker unless it runs already. One that was lost cost the rows of its own block; the next block gets a new one."""
        if key in self._unavailable:
            return _Start(skip=self._unavailable[key])
        worker = self._workers.get(key)
        if worker is not None and not worker.lost:
            return _Start()
        try:
            worker = self._workers[key] = Worker(key, self.options.call_seconds)
            if reason := worker.start()["unavailable"]:
                self._unavailable[key] = reason
                return _Start(skip=reason)
        except (WorkerLostError, WorkerError) as error:
            return _Start(failure=str(error))
        return _Start()

    def _report(self, rows: list[Row]) -> Callable[[float, str], None]:
        """Turn the progress of one block into that of the run, blocks weighted by the work in them."""
        identities = {row.identity for row in rows}
        expected = {row.identity: self._expected_seconds(row) for row in self.rows}
        done = sum(expected[identity] for identity in self.outcomes if identity in expected)
        here = sum(expected[identity] for identity in identities)
        total = sum(expected.values())
        return lambda fraction, what: self.progress(done + fraction * here, total, what) if self.progress else None

    def _expected_seconds(self, row: Row) -> float:
        """Rough time for a row, for the progress bar alone: 50 GFLOP/s a core, two calls a round, half a second to load."""
        work = self.cases[row.case].spec.flops(self.cases[row.case].batch)
        return 0.1 if row.skip else 0.5 + 2 * self.rounds * work / (50e9 * row.threads)

    def environment(self) -> dict[str, Any]:
        """The environment of the record, with the variables that each worker was given."""
        workers = {str(row.worker): worker_environment(row.worker) for row in self.rows if not row.skip}
        names = dict.fromkeys(row.backend for row in self.rows)
        return {**describe_environment([get_backend(name) for name in names]), "workers": workers}

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()


@dataclass(frozen=True)
class BenchReport:
    """The folder of a record, and what is in it."""

    folder: Path
    content: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every row that could run was measured and is right."""
        return not self.content["failures"]


def benchmark(options: BenchOptions) -> BenchReport:
    """Measure every implementation over cases and write `bench.json` and `samples.jsonl` to the folder `options.out`.

    pytest-benchmark runs in a process of its own with its own configuration, so that no pytest.ini, plugin or variable of the
    user's changes what it does; progress goes to stderr.

    Raises:
        PatchParityError: anything unknown or impossible in the options, a folder that cannot be written, a run that broke down.
    """
    options.check()
    folder = output_folder(options.out or ".")
    options = dataclasses.replace(options, out=str(folder.resolve()))
    target = folder / "bench.json"
    if not options.resume:
        target.unlink(missing_ok=True)
    here = Path(__file__).parent
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
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with ExitStack() as stack:
        log = stack.enter_context((folder / "bench.log").open("w"))
        elsewhere = stack.enter_context(
            tempfile.TemporaryDirectory()
        )  # pytest-benchmark makes its storage folder where it stands
        process = stack.enter_context(subprocess.Popen(command, stdout=log, cwd=elsewhere, env=environment))
        try:
            status = process.wait()
        except KeyboardInterrupt:
            # The same signal reached pytest, which writes what it has and ends its workers.
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            raise
    if status not in (0, 1) or not target.exists():
        lines = (folder / "bench.log").read_text().strip().splitlines()
        raise PatchParityError(
            f"the benchmark broke down (exit {status}); {folder / 'bench.log'} ends with: {' '.join(lines[-3:])}"
        )
    return BenchReport(folder, load_bench(folder))


def load_bench(folder: Path) -> dict[str, Any]:
    """Read a folder's `bench.json`.

    Raises:
        PatchParityError: no such file, or one that patchparity did not write.
    """
    path = folder / "bench.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except OSError as error:
        raise PatchParityError(
            f"cannot read {path}: {error.strerror or error}; patchparity bench --out {folder} makes it"
        ) from None
    except ValueError:
        raise PatchParityError(f"{path} is no JSON: the file is damaged") from None
    if not isinstance(content, dict) or "benchmarks" not in content or "environment" not in content:
        raise PatchParityError(f"{path} was not written by patchparity bench")
    return content


@dataclass(frozen=True)
class RunReport:
    """What the main job found: verdicts, times, and the files of the report."""

    check: CheckReport
    bench: BenchReport
    files: list[Path]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.check.ok and self.bench.ok


def run(
    options: BenchOptions,
    *,
    image: str | os.PathLike[str] | None = None,
    remainder: Any = "error",
    progress: Callable[[int, int, str], None] | None = None,
) -> RunReport:
    """Do the main job: check, benchmark, report; writes `check.json`, `bench.json`, `report.html`, `report.md` and `report.csv`.

    Args:
        options: what to measure, and the folder `out`; backends and implementations hold for the check too.
        image: the picture to check on; None for one that scikit-image ships.
        remainder: what to do with a picture that does not divide into 16×16 patches.
        progress: told of the check's progress; the benchmark shows its own on stderr.

    Raises:
        PatchParityError: as `check`, `benchmark` and `render_report`.
    """
    from .report.render import render_report

    options.check()
    folder = output_folder(options.out or ".")
    checked = check(
        backends=list(options.backends) or None,
        implementations=list(options.implementations) or None,
        devices=list(options.devices) or None,
        image=image,
        remainder=remainder,
        progress=progress,
    )
    checked.save(folder / "check.json")
    measured = benchmark(dataclasses.replace(options, out=str(folder)))
    return RunReport(checked, measured, render_report(folder))
