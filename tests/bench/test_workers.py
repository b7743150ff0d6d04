"""One worker by itself: its cores, its death, its silence, its noise, the memory of a call."""

import gc
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity.backends.registry import get_backend
from patchparity.bench.cases import named_case
from patchparity.bench.machine.environment import usable_cores
from patchparity.bench.record.rows import WorkerKey
from patchparity.bench.worker.client import Worker, WorkerError, WorkerLostError
from patchparity.bench.worker.server import Server


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_a_workers_cores_are_fixed_before_it_imports_anything():
    usable = sorted(os.sched_getaffinity(0))
    begun = []
    for turn in range(3):
        worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"), turn=turn)
        pid = worker._process.popen.pid
        while len(os.sched_getaffinity(pid)) > 1:
            time.sleep(0.001)
        begun.append(os.sched_getaffinity(pid))
        assert worker.start()["pid"] == pid
        cores = {
            frozenset(os.sched_getaffinity(int(task.name)))
            for task in Path(f"/proc/{pid}/task").iterdir()
        }
        worker.end()
        assert cores == {frozenset({usable[-1]})}, "every thread goes home"
    assert all(len(cores) == 1 for cores in begun)
    assert begun[0] != begun[1], (
        "while they import, workers that start together do not share a core"
    )
    assert begun[0] == {usable[-1]}


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_a_worker_held_to_one_core_that_was_asked_for_two_is_reported():
    worker = Worker(WorkerKey("numpy", "cpu", 2, "ieee"))
    pid = worker.start()["pid"]
    worker.request("load_gemm", row="r", rows=512, depth=512, columns=512, dtype="float32")
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {min(os.sched_getaffinity(0))})
    for _ in range(5):
        worker.request("visit", row="r")
    told = worker.request("finish", row="r")
    worker.end()
    assert told["threads_observed"] == 1
    assert told["cores_busy"] < 1.1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells it")
def test_peak_memory_is_what_a_call_needs_beside_its_inputs():
    case = named_case("vit-b16-224-b8")
    worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"))
    worker.start()
    place = dict(spec=case.spec.to_dict(), batch=case.batch, dtype="float32", seed=0)
    told, again, kept = (
        worker.request("load", row=f"r{number}", implementation=f"numpy:{name}:eager", **place)[
            "peak_memory_bytes"
        ]
        for number, name in enumerate(("naive", "naive", "linear"))
    )
    worker.end()
    # K = D here: patches and tokens are as large
    values = case.batch * case.spec.num_patches * case.spec.embed_dim
    assert 2 * 4 * values * 0.9 < told < 4 * 4 * values, (
        "the patches and the tokens, and not much more"
    )
    assert again == pytest.approx(told, rel=0.2), (
        "what the first row left behind is not used unseen"
    )
    assert kept is None, (
        "this one keeps its arrays from call to call: what the process grows by is not even the "
        "result"
    )


def test_workers_die_and_hang_with_a_sentence():
    worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"), call_seconds=1.0)
    assert worker.start()["unavailable"] is None
    with pytest.raises(
        WorkerError, match="PatchParityError: implementation 'numpy:x:y' is unknown"
    ):
        worker.request(
            "load", row="r", implementation="numpy:x:y", spec={}, batch=1, dtype="float32", seed=0
        )
    os.kill(worker.start()["pid"], signal.SIGSTOP)
    with pytest.raises(
        WorkerLostError,
        match=r"numpy on cpu, 1 thread.* did not answer 'visit' within 1 s and was ended",
    ):
        worker.request("visit", row="r")
    with pytest.raises(WorkerLostError, match="did not answer"):
        worker.request("visit", row="r")
    worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"))
    os.kill(worker.start()["pid"], signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="died during 'visit'"):
        worker.request("visit", row="r")


def test_a_worker_that_cannot_start_is_gone_and_says_why_ever_after():
    worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"))
    pid = worker.request("start", backend="numpy", device="cpu", precision="ieee")["pid"]
    with pytest.raises(WorkerError, match="backend 'theano' is unknown"):
        worker.request("start", backend="theano", device="cpu", precision="ieee")
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(
        WorkerLostError, match="could not be started: PatchParityError: backend 'theano' is unknown"
    ):
        worker.request("visit", row="r")


def test_noise_on_a_workers_stdout_does_no_harm(tmp_path):
    worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"))
    channel = worker._process._gateway.remote_exec(
        "import os, sys\nprint('noise'); os.write(1, b'more noise'); "
        "sys.stdout.flush()\nchannel.send(1)"
    )
    assert channel.receive(10) == 1
    assert worker.start()["unavailable"] is None
    worker.end()


def test_what_is_imported_at_the_start_is_no_garbage_to_look_through():
    before = gc.get_freeze_count()
    try:
        Server().start("numpy", "cpu", "ieee")
        assert gc.get_freeze_count() > before
        assert gc.isenabled(), "what a row leaves behind is looked for"
    finally:
        gc.unfreeze()


def test_a_worker_imports_at_its_start_what_its_implementations_need(monkeypatch):
    asked = []

    def unavailable(implementation):
        asked.append(implementation.name)
        if implementation.formulation == "naive":
            raise ImportError("told when it is loaded, and costs its own row")

    monkeypatch.setattr(get_backend("numpy"), "unavailable", unavailable, raising=False)
    names = ["numpy:naive:eager", "numpy:nothing:eager", "numpy:linear:eager"]
    try:
        assert Server().start("numpy", "cpu", "ieee", names)["unavailable"] is None
    finally:
        gc.unfreeze()
    assert asked == ["numpy:naive:eager", "numpy:linear:eager"]


def test_a_worker_that_is_let_go_ends_by_itself():
    worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee"))
    worker.start()
    process = worker._process.popen
    worker.end()
    assert process.returncode == 0, "it was not killed"
