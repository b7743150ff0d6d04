"""Each backend in a process of its own: what dies or hangs costs its own rows, variables stand, and
nothing is left running."""

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchparity import check, get_backend
from patchparity.backends import registry
from patchparity.bench.check import processes
from patchparity.bench.machine.pools import without_spinning

from ..fake_backends import install

pytestmark = pytest.mark.anywhere

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install fake backends where this process and those that it starts find them."""

    def add(*names):
        install(tmp_path, *names)
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        registry._discovered.cache_clear()
        return tmp_path

    yield add
    registry._discovered.cache_clear()


def checked(*implementations, **options):
    return check(implementations=list(implementations), dtypes=["float32"], image=PIXELS, **options)


def verdicts(report, backend):
    return {result.verdict for result in report.results if result.backend == backend}


def test_several_backends_are_checked_apart_and_give_what_one_gives_here(installed):
    installed("wrong")
    together = checked("numpy", "wrong")
    assert verdicts(together, "numpy") == {"pass", "skip"}, "a variant is checked on one shape"
    assert "fail" in verdicts(together, "wrong")
    assert [r for r in together.results if r.backend == "numpy"] == checked("numpy").results
    assert set(together.environment["workers"]) == {"numpy", "wrong"}
    assert "workers" not in checked("numpy").environment


def test_a_process_that_dies_costs_the_rest_of_its_own_rows(installed):
    installed("fragile")
    report = checked("numpy:linear", "fragile:fine", "fragile:dies")
    assert verdicts(report, "numpy") == {"pass"}
    fine = [result for result in report.results if result.implementation == "fragile:fine:eager"]
    assert {result.verdict for result in fine} == {"pass"}, "what was told before stays"
    (lost,) = [result for result in report.results if result.verdict == "error"]
    assert (
        lost.message
        == "the process of fragile died (exit status 3) at fragile:dies:eager float32 c3-b3"
    )
    assert not report.ok


@pytest.mark.parametrize(
    ("formulation", "told"),
    [
        ("ends", "the process of fragile died (exit status 0)"),
        ("dies", "the process of fragile died (exit status 3)"),
        ("leaves", "SystemExit: 0"),
    ],
)
def test_what_ends_its_process_is_told_where_it_is_checked_alone_too(installed, formulation, told):
    """A backend that needs NumPy alone is somebody's code all the same."""
    installed("fragile")
    report = checked(f"fragile:{formulation}")
    (lost,) = [result for result in report.results if result.verdict == "error"]
    assert lost.message.startswith(told)
    assert not report.ok


def test_a_backend_that_cannot_tell_whether_it_is_here_costs_itself(installed):
    installed("puzzled", "steady")
    report = checked("numpy:linear", "puzzled", "steady")
    (row,) = [result for result in report.results if result.backend == "puzzled"]
    assert row.message.startswith("puzzled cannot tell what it needs (RuntimeError: cannot look")
    assert verdicts(report, "steady") == {"pass"}


def test_a_process_that_hangs_is_ended(installed, monkeypatch):
    installed("fragile")
    monkeypatch.setattr(processes, "SILENCE_SECONDS", 12.0)
    report = checked("numpy:linear", "fragile:hangs")
    (lost,) = [result for result in report.results if result.verdict == "error"]
    assert (
        lost.message
        == "the process of fragile gave no news for 12 s and was ended at fragile:hangs:eager "
        "float32 c3-b3"
    )
    assert verdicts(report, "numpy") == {"pass"}


def test_a_process_that_leaves_a_child_behind_is_noticed_all_the_same(installed, monkeypatch):
    note = installed("parental") / "child"
    monkeypatch.setenv("PATCHPARITY_FAKE_CHILD", str(note))
    report = checked("numpy:linear", "parental")
    (lost,) = [result for result in report.results if result.verdict == "error"]
    assert lost.message.startswith(
        "the process of parental died (SIGKILL) at parental:linear:eager float32 c3-b3"
    )
    # raises where the child has gone: it was not waited for
    os.kill(int(note.read_text()), signal.SIGKILL)


def test_files_in_the_current_folder_are_not_taken_for_modules(installed, tmp_path, monkeypatch):
    installed("steady")
    folder = tmp_path / "here"
    folder.mkdir()
    for name in ("pickle", "numpy", "struct", "json"):
        (folder / f"{name}.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert verdicts(checked("numpy:linear", "steady"), "steady") == {"pass"}


def test_what_a_backend_raises_is_a_result_here_too(installed):
    installed("stubborn")
    (lost,) = checked("stubborn").results
    assert (lost.verdict, lost.message) == ("error", "RuntimeError: no driver")


def test_an_implementation_without_the_dtype_that_was_asked_for_is_a_skip_that_says_so(installed):
    installed("single")
    report = check(backends=["single"], dtypes=["float32", "float16"], image=PIXELS)
    assert {(r.verdict, r.message) for r in report.results if r.verdict != "pass"} == {
        ("skip", "single:linear:eager has no float16, only float32")
    }


def test_weights_without_a_bias_are_tried(installed):
    installed("biased")
    wrong = [result for result in checked("biased").results if result.verdict == "fail"]
    assert {result.probe for result in wrong} == {"random-no-bias"}
    assert {result.direction for result in wrong} == {"forward"}


def test_what_a_framework_prints_does_not_meet_what_is_told(installed):
    installed("noisy")
    assert verdicts(checked("numpy:linear", "noisy"), "noisy") == {"pass"}


def test_a_process_that_cannot_even_begin_says_why(installed):
    installed("stubborn")
    report = checked("numpy:linear", "stubborn")
    (lost,) = [result for result in report.results if result.verdict == "error"]
    assert lost.message == "RuntimeError: no driver"


def test_a_process_that_does_not_start_is_a_result(installed, monkeypatch):
    installed("steady")

    def refuses(launch, source):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(processes, "Process", refuses)
    results = checked("numpy:linear", "steady").results
    lost = [each for each in results if each.verdict == "error" and each.backend == "steady"]
    assert [each.message.startswith("its process did not start: ") for each in lost] == [True]


def test_switches_stand_in_the_process_and_the_users_own_variables_too(installed, monkeypatch):
    installed("switched")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    switched = get_backend("switched")
    environment = processes.process_environment(switched)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["PATCHPARITY_FAKE_SWITCH"] == "on"
    assert verdicts(checked("switched"), "switched") == {"pass"}, (
        "alone, and still in a process of its own"
    )
    assert "PATCHPARITY_FAKE_SWITCH" not in os.environ


def test_idle_pools_sleep_unless_the_user_says_otherwise(monkeypatch):
    variables = {"OMP_WAIT_POLICY": "ACTIVE"}
    monkeypatch.setattr(os, "environ", variables)  # which later tests do not see
    without_spinning()
    assert variables["OMP_WAIT_POLICY"] == "ACTIVE"
    assert variables["KMP_BLOCKTIME"] == "0"


def test_progress_comes_from_every_process():
    told = []
    checked("numpy", progress=lambda *news: told.append(news))
    alone = told[-1][1]
    told.clear()
    checked("numpy", "onnxruntime", progress=lambda *news: told.append(news))
    if get_backend("onnxruntime").missing():
        pytest.skip("onnxruntime is not installed")
    assert told[-1][1] > alone
    assert {text.split(":")[0] for _, _, text in told} >= {"numpy", "onnxruntime"}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)


def test_nothing_is_left_running_after_ctrl_c(installed, tmp_path):
    folder = installed("fragile")
    code = (
        "import patchparity, sys\n"
        "def progress(done, total, text):\n"
        "    if text.startswith('fragile'): raise KeyboardInterrupt\n"
        "try: patchparity.check(implementations=['numpy:linear', 'fragile:hangs'], "
        "dtypes=['float32'], progress=progress)\n"
        "except KeyboardInterrupt: print('ended')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATCHPARITY_FAKE_MARK": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "ended", done.stderr
    assert not [
        path for path in Path("/proc").glob("[0-9]*/environ") if str(tmp_path) in _content(path)
    ]


def _content(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
