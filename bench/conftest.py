"""pytest-benchmark's side of the benchmark: options, one test a row, and `bench.json` written anew
after every block."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from patchparity.bench.progress import progress_bar
from patchparity.bench.record.bench_json import entry_of, machine_info, write_bench
from patchparity.bench.record.rows import Row
from patchparity.bench.record.schema import SCHEMA
from patchparity.bench.timing.options import BenchOptions
from patchparity.bench.timing.plan import plan
from patchparity.bench.timing.session import BenchSession
from patchparity.reference.errors import PatchParityError

SESSION = pytest.StashKey[BenchSession]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer every field of BenchOptions."""
    group = parser.getgroup("patchparity")
    for field in dataclasses.fields(BenchOptions):
        group.addoption(
            f"--patchparity-{field.name}",
            default=None,
            help=f"see BenchOptions.{field.name}; lists with commas",
        )


def _session(config: pytest.Config) -> BenchSession:
    if SESSION not in config.stash:
        names = [field.name for field in dataclasses.fields(BenchOptions)]
        try:
            options = BenchOptions.parse(
                {name: config.getoption(f"--patchparity-{name}") for name in names}
            )
            config.stash[SESSION] = BenchSession(plan(options))
        except PatchParityError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[SESSION]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each row of the plan, in the plan's order; the parameter is the row's name,
    which JSON can hold."""
    if "identity" in metafunc.fixturenames:
        session = _session(metafunc.config)
        if not session.rows:
            raise pytest.UsageError(
                f"{session.options.out} holds no case that was finished: bench with --resume goes "
                "on"
            )
        metafunc.parametrize("identity", [row.identity for row in session.rows])


@pytest.fixture(scope="session")
def bench_session(request: pytest.FixtureRequest) -> Iterator[BenchSession]:
    """The session, with a progress bar on stderr where output is not captured; its workers end with
    it."""
    session = _session(request.config)
    with progress_bar(
        "bench", shown=request.config.getoption("capture") == "no"
    ) as session.progress:
        yield session
    session.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After the last row of a block, write `bench.json` with everything measured so far."""
    session = item.config.stash.get(SESSION, None)
    row, following = _row(item), _row(nextitem)
    ends_block = row is not None and (following is None or following.block != row.block)
    if session is not None and session.options.out and ends_block:
        done = [
            planned_row for planned_row in session.rows if planned_row.identity in session.outcomes
        ]
        measured = [
            planned_row for planned_row in done if session.outcome(planned_row).status == "measured"
        ]
        entries = [
            entry_of(
                planned_row, session.figures(planned_row), session.seconds(planned_row.identity)
            )
            for planned_row in measured
        ]
        now = {"datetime": datetime.now(UTC).isoformat(), "machine_info": machine_info()}
        write_bench(
            Path(session.options.out) / "bench.json",
            entries,
            session.view(now),
            last=following is None,
        )


def _row(item: pytest.Item | None) -> Row | None:
    callspec = getattr(item, "callspec", None)
    if item is None or callspec is None or "identity" not in callspec.params:
        return None
    return _session(item.config).by_identity[callspec.params["identity"]]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Leave the host's name out: a record may be published."""
    machine_info["node"] = ""


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Add the environment, and the rows that have no time: what failed, and what was skipped, and
    why."""
    session = config.stash.get(SESSION, None)
    if session is None:
        return
    output_json["schema"] = SCHEMA
    output_json.update(
        session.view({name: output_json[name] for name in ("datetime", "machine_info")})
    )
