"""pytest-benchmark's side of the benchmark: options, one test a row, and `bench.json` written anew after every block."""

import ctypes
import dataclasses
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from patchparity.bench.answers.comparisons import comparisons
from patchparity.bench.progress import progress_bar
from patchparity.bench.record.bench_json import SCHEMA
from patchparity.bench.record.rows import Row
from patchparity.bench.record.schema import line_of
from patchparity.bench.record.words import block_title
from patchparity.bench.timing.options import BenchOptions
from patchparity.bench.timing.plan import check_options
from patchparity.bench.timing.session import BenchSession
from patchparity.porting.files.atomic import write_json
from patchparity.reference.errors import PatchParityError

SESSION = pytest.StashKey[BenchSession]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer every field of BenchOptions."""
    group = parser.getgroup("patchparity")
    for field in dataclasses.fields(BenchOptions):
        group.addoption(f"--patchparity-{field.name}", default=None, help=f"see BenchOptions.{field.name}; lists with commas")


def pytest_configure(config: pytest.Config) -> None:
    """End when the command that started this process is gone, however it went: nobody would be left to read the results."""
    if os.environ.pop("PATCHPARITY_END_WITH_PARENT", "") and sys.platform == "linux":
        # A shell starts background jobs with SIGINT ignored, and that is inherited.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>; SIGINT lets the session write what it has and end its workers
        ctypes.CDLL(None).prctl(death_signal, signal.SIGINT)


def _session(config: pytest.Config) -> BenchSession:
    if SESSION not in config.stash:
        names = [field.name for field in dataclasses.fields(BenchOptions)]
        try:
            options = BenchOptions.parse({name: config.getoption(f"--patchparity-{name}") for name in names})
            check_options(options)
            config.stash[SESSION] = BenchSession(options)
        except PatchParityError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[SESSION]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of the plan, in the plan's order; the parameter is the row's name, which JSON can hold."""
    if "identity" in metafunc.fixturenames:
        session = _session(metafunc.config)
        if not session.rows:
            raise pytest.UsageError(f"{session.options.out} holds no case that was finished: bench with --resume goes on")
        metafunc.parametrize("identity", [row.identity for row in session.rows])


@pytest.fixture(scope="session")
def bench_session(request: pytest.FixtureRequest) -> Iterator[BenchSession]:
    """The session, with a progress bar on stderr where output is not captured; its workers end with it."""
    session = _session(request.config)
    with progress_bar("bench", shown=request.config.getoption("capture") == "no") as session.progress:
        yield session
    session.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last row of a block, write `bench.json` with everything measured so far."""
    session = item.config.stash.get(SESSION, None)
    row, following = _row(item), _row(nextitem)
    ends_block = row is not None and (following is None or following.block != row.block)
    if session is not None and session.options.out and ends_block:
        _write_view(item.config, Path(session.options.out), last=following is None)


def _row(item: pytest.Item | None) -> Row | None:
    callspec = getattr(item, "callspec", None)
    if item is None or callspec is None or "identity" not in callspec.params:
        return None
    return _session(item.config).by_identity[callspec.params["identity"]]


def _write_view(config: Any, folder: Path, last: bool) -> None:
    """Have pytest-benchmark describe its results in its own schema, and write that in one step; comparisons once all is there."""
    results = config._benchmarksession
    machine_info = config.hook.pytest_benchmark_generate_machine_info(config=config)
    config.hook.pytest_benchmark_update_machine_info(config=config, machine_info=machine_info)
    content = config.hook.pytest_benchmark_generate_json(
        config=config, benchmarks=results.benchmarks, include_data=True, machine_info=machine_info, commit_info={}
    )
    config.hook.pytest_benchmark_update_json(config=config, benchmarks=results.benchmarks, output_json=content)
    for entry in content["benchmarks"]:
        entry["options"] = {name: str(value) for name, value in entry["options"].items()}
    content["comparisons"] = comparisons(content["benchmarks"]) if last else []
    write_json(folder / "bench.json", content)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Leave the host's name out: a record may be published."""
    machine_info["node"] = ""


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    """Add the environment, and the rows that have no time: what failed, and what was skipped, and why."""
    session = config.stash.get(SESSION, None)
    if session is None:
        return
    output_json["schema"] = SCHEMA
    output_json["environment"] = session.environment()
    output_json.update(session.call({name: output_json[name] for name in ("datetime", "machine_info")}))
    output_json["measured_anew"] = [block_title(block) for block in session.measured_anew]
    output_json.update(session.about())
    told = {"fail": "failures", "error": "failures", "skip": "skipped"}
    for name in ("failures", "skipped"):
        output_json[name] = []
    for outcome in session.outcomes.values():
        if outcome.status in told:
            output_json[told[outcome.status]].append(line_of(outcome))
