"""Nodes of a Ray cluster: one is started on this machine, of two nodes with a CPU each."""

import contextlib
import importlib.util
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing

import pytest

pytest.importorskip("psutil")
pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

import psutil

from patchparity import BenchOptions, PatchParityError, benchmark
from patchparity.bench.machine.hosts import LOCAL, Host, parse_hosts
from patchparity.bench.record.folder import output_folder
from patchparity.bench.report.render import render_report
from patchparity.bench.timing import fleet
from patchparity.bench.timing.benchmark import measure_into
from patchparity.bench.timing.fleet import Fleet
from patchparity.bench.timing.plan import plan

from .records import data_of, loaded

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="ray is not installed"
)
# Ray leaves sockets and files of the cluster that it starts here to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

SMALL = dict(
    cases=("vit-ti32-224-b2",), implementations=("numpy:linear:eager",), threads=(1,), rounds=6
)
CASES = tuple(f"vit-ti32-224-b{batch}" for batch in (1, 2, 3))
"""Three blocks a node: when the first one's end is known here the second may have ended there, and
the last one not."""


@pytest.fixture(scope="module")
def started():
    """A cluster of two nodes, and a Ray client server, whose children gRPC 1.85 ends as it forks
    them."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    alone = {"include_dashboard": False, "num_cpus": 1, "ray_client_server_port": port}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
        cluster = Cluster(initialize_head=True, head_node_args=alone)
    cluster.client = f"ray://127.0.0.1:{port}"
    try:
        cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def cluster(started, monkeypatch):
    """The same, as the one that this machine is part of."""
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    return started


def nodes_in_order(cluster):
    return sorted([cluster.head_node, *cluster.worker_nodes], key=lambda node: node.node_id)


def sessions_on(node):
    """The processes of our actors on a node."""
    (raylet,) = node.all_processes["raylet"]
    found = []
    for process in psutil.Process(raylet.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith("ray::MeasuringSession"):
                found.append(process)
    return found


def written_rows(folder):
    path = folder / "rows.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def end_when(found, wanted, ended):
    """Kill the processes that are wanted once something is found, and tell which they were."""

    def watch():
        while not found():
            time.sleep(0.02)
        processes = wanted()
        ended.put(len(processes))
        for process in processes:
            process.kill()

    threading.Thread(target=watch, daemon=True).start()


def test_a_cluster_is_a_host_whose_nodes_are_not_known_yet():
    assert parse_hosts(("ray", LOCAL, "ray", "ssh=a", "ray://head:10001")) == (
        Host("ray", ray="ray"),
        Host(),
        Host("host1", "a", "python3"),
        Host("ray", ray="ray://head:10001"),
    )
    assert parse_hosts(("ray://[::1]:6379",))[0].ray == "ray://[::1]:6379"
    for text in ("ray=", "ray://", "ray://head", "ray://head:", "ray:head:1", "ray://a b:1"):
        with pytest.raises(PatchParityError, match=r"expected local, or .* or ray, or ray://HOST"):
            parse_hosts((text,))


def test_without_ray_one_sentence_names_the_extra(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ray" else find(name, *rest),
    )
    with pytest.raises(PatchParityError, match=r"^ray is not installed: pip install 'patchparity"):
        benchmark(BenchOptions(**SMALL, hosts=("ray",), out=str(tmp_path / "o")))


@pytest.fixture
def nobody():
    """An address at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def silent():
    """An address at which something listens and never says a word."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        yield f"127.0.0.1:{held.getsockname()[1]}"


@needs_ray
def test_an_address_at_which_nothing_listens_is_one_sentence(nobody, tmp_path, monkeypatch):
    for host, typed in ((f"ray://{nobody}",) * 2, ("ray", "ray")):
        monkeypatch.setenv("RAY_ADDRESS", nobody)
        with pytest.raises(PatchParityError) as raised:
            benchmark(BenchOptions(**SMALL, hosts=(host,), out=str(tmp_path / "o")))
        assert str(raised.value) == (
            f"host {typed}: nothing answers there (Connection refused); expected the address of a "
            "running Ray cluster, ray://HOST:PORT"
        )
        assert not (tmp_path / "o").exists()


@needs_ray
def test_an_address_that_never_answers_is_given_up(silent, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "ANSWER_SECONDS", 2.0)
    with pytest.raises(PatchParityError, match=r"^host ray://.*: no answer within 2 s; ") as raised:
        benchmark(BenchOptions(**SMALL, hosts=(f"ray://{silent}",), out=str(tmp_path / "o")))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "o").exists()


@needs_ray
def test_the_command_line_says_so_and_nothing_of_ray_reaches_the_terminal(silent, nobody, tmp_path):
    for host, said in ((nobody, "nothing answers there"), (silent, "no answer within 2 s")):
        code = (
            "from patchparity.bench.timing import fleet\nfleet.ANSWER_SECONDS = 2.0\n"
            "from patchparity.__main__ import console\nconsole()\n"
        )
        words = ["bench", "--host", f"ray://{host}", "--out", "o", "--backend", "numpy"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"error: host ray://{host}: {said}")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "o").exists()


def test_every_node_measures_with_its_own_reference_and_limits(cluster, tmp_path):
    options = BenchOptions(**SMALL, hosts=("ray",), out=str(tmp_path))
    report = benchmark(options)
    assert report.ok
    infos = [entry["extra_info"] for entry in report.content["benchmarks"]]
    assert {info["host"] for info in infos} == {"node1", "node2"}
    for label in ("node1", "node2"):
        own = [info for info in infos if info["host"] == label]
        assert next(info["ratio"] for info in own if info["operation"] == "tokens") == 1.0
        assert {info["role"] for info in own} == {"implementation", "overhead", "ceiling", "aa"}
        assert all(info["roof"] for info in own if info["role"] == "aa")
    assert report.content["planned"] == len(infos)
    hosts = report.content["environment"]["hosts"]
    assert {label: hosts[label]["cores"] for label in hosts} == {"node1": 1, "node2": 1}, (
        "Ray has one CPU of each"
    )
    while any(map(sessions_on, nodes_in_order(cluster))):
        time.sleep(0.05)  # Ray does not wait for the end of an actor that it kills
    written = "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
    for secret in (cluster.address, *(node.node_id for node in nodes_in_order(cluster))):
        assert secret not in written, "a record names no machine"
    (tmp_path / "bench.json").unlink()
    assert data_of(loaded(tmp_path)) == data_of(report.content)
    again = benchmark(BenchOptions(**{**options.__dict__, "resume": True}))
    assert data_of(again.content) == data_of(report.content), "what is finished is kept"


@pytest.mark.parametrize("door", ["its own", "its client server"])
def test_a_cluster_is_reached_by_its_address_beside_this_machine(started, tmp_path, door):
    address = f"ray://{started.address}" if door == "its own" else started.client
    report = benchmark(BenchOptions(**SMALL, hosts=(LOCAL, address), out=str(tmp_path)))
    assert report.ok
    assert {entry["extra_info"]["host"] for entry in report.content["benchmarks"]} == {
        "local",
        "node1",
        "node2",
    }


def test_a_node_whose_session_dies_loses_its_own_rows_alone(cluster, tmp_path):
    pytest.importorskip("jinja2")
    ended = queue.SimpleQueue()
    end_when(
        lambda: any(row["host"] == "node2" for row in written_rows(tmp_path)),
        lambda: sessions_on(nodes_in_order(cluster)[1]),
        ended,
    )
    options = BenchOptions(**{**SMALL, "cases": CASES}, hosts=("ray",), out=str(tmp_path))
    report = benchmark(options)
    assert ended.get() == 1
    assert not report.ok
    assert report.missing == 0
    rows = report.bench.benchmarks
    assert all(row.stats.rounds == 6 for row in rows)
    measured = Counter((row.extra_info.host, row.extra_info.case) for row in rows)
    lost = Counter((row.host, row.case) for row in report.bench.failures)
    assert {row.message for row in report.bench.failures} == {
        "the session on node2 is lost: its process or its node died (ActorDiedError)"
    }
    assert not measured.keys() & lost.keys(), "a block is lost whole, or kept whole"
    assert all(lost[place] == measured["node1", place[1]] for place in lost)
    assert {place for place in measured if place[0] == "node1"} == {("node1", c) for c in CASES}
    assert ("node2", CASES[0]) in measured, "what had ended before is kept"
    assert ("node2", CASES[-1]) in lost
    (tmp_path / "bench.json").unlink()
    assert len(loaded(tmp_path)["failures"]) == sum(lost.values()), "the record knows by itself"
    assert any("node2" in file.read_text() for file in render_report(tmp_path))
    again = benchmark(BenchOptions(**{**options.__dict__, "resume": True}))
    assert again.ok
    assert len(again.bench.benchmarks) == len(rows) + sum(lost.values())
    assert data_of(report.content).items() <= data_of(again.content).items()


def test_a_node_that_is_taken_is_one_sentence_and_no_session(cluster, tmp_path, monkeypatch):
    import ray

    laid_out = plan(BenchOptions(**SMALL, hosts=("ray",)))
    monkeypatch.setattr(fleet, "FREE_SECONDS", 3.0)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        holder = ray.remote(num_cpus=1)(type("Holder", (), {"ready": lambda self: None})).remote()
        ray.get(holder.ready.remote())
        with pytest.raises(
            PatchParityError,
            match=r"^host ray: node[12] \(Ray calls it \w{8}\) started no session within 3 s: "
            r"expected its 1 CPUs and 0 GPUs to be free$",
        ):
            benchmark(BenchOptions(**SMALL, hosts=("ray",), out=str(tmp_path / "o")))
        assert not (tmp_path / "o").exists()
        report = measure_into(laid_out, output_folder(tmp_path / "planned before"))
    finally:
        ray.shutdown()
    measured = {row.extra_info.host for row in report.bench.benchmarks}
    assert {(row.host, row.message) for row in report.bench.failures} == {
        (
            label,
            f"the session on {label} did not start within 3 s: its CPUs and GPUs are not free",
        )
        for label in {"node1", "node2"} - measured
    }
    assert len(measured) <= 1  # none where the machine is slow


def test_a_node_with_another_version_is_one_sentence(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(fleet, "__version__", "99.0")
    with pytest.raises(
        PatchParityError,
        match=r"^host ray: node1 .* has patchparity \S+, expected 99.0; pip install it there$",
    ):
        plan(BenchOptions(**SMALL, hosts=("ray",)))


def test_a_cluster_is_named_once(cluster):
    address = f"ray://{cluster.address}"
    with pytest.raises(PatchParityError, match=f"^host {address}: this cluster is named twice$"):
        plan(BenchOptions(**SMALL, hosts=("ray", address)))


def test_a_session_that_fails_is_told_with_its_reason(cluster):
    hosts = plan(BenchOptions(**SMALL, hosts=("ray",))).hosts
    with closing(Fleet({hosts["node2"]: {}})) as sessions:
        while not (news := sessions.news()):
            pass
    assert news == {"node2": {"end": "the session on node2 failed: KeyError: 'label'"}}


def test_a_session_that_cannot_start_any_more_loses_its_rows(cluster, tmp_path, monkeypatch):
    laid_out = plan(BenchOptions(**SMALL, hosts=("ray",)))
    monkeypatch.setattr(fleet, "_address", lambda typed: "127.0.0.1:1")
    monkeypatch.setattr(fleet, "ANSWER_SECONDS", 1.0)
    sessions = Fleet({host: {} for host in laid_out.hosts.values()})
    assert sessions.news() == {
        label: {"end": f"the session on {label} is lost: its cluster cannot be reached"}
        for label in ("node1", "node2")
    }
    sessions.close()


def told(*news):
    """Sessions on two nodes of which somebody else tells."""
    hosts = {Host(f"node{number}", ray="ray", node=f"id{number}"): {} for number in (1, 2)}
    sessions = Fleet({})
    sessions._heard = dict.fromkeys(hosts, time.monotonic())
    for each in news:
        sessions._news.put(("ray", *each))
    return sessions


@pytest.mark.parametrize(
    ("news", "message"),
    [
        ({"failure": "TypeError: no"}, "failed: TypeError: no"),
        ({"late": True}, "did not start within 60 s: its CPUs and GPUs are not free"),
        ({"end": True}, "ended before its work was done"),
        ({"lost": "OutOfMemoryError"}, "is lost: its process or its node died (OutOfMemoryError)"),
    ],
)
def test_how_a_session_ended_is_told_of_its_node_alone(news, message):
    progress = {"progress": (1.0, 2.0, "half")}
    sessions = told(("id2", news), ("id2", progress), ("id1", progress))
    assert sessions.news() == {"node2": {"end": f"the session on node2 {message}"}}
    assert sessions.news() == {}, "it has ended"
    assert sessions.news() == {"node1": progress}


def test_a_silent_node_is_given_up_and_the_others_are_not(monkeypatch):
    sessions = told(("id1", {"progress": None}))
    monkeypatch.setattr(fleet, "START_SECONDS", 0.0)
    sessions._heard = {host: time.monotonic() + 1e6 for host in sessions._heard}
    (_, silent) = sessions._heard
    sessions._heard[silent] = 0.0
    monkeypatch.setattr(fleet.time, "monotonic", lambda: 1e6)
    assert sessions.news() == {
        "node1": {"progress": None},
        "node2": {"end": "the session on node2 gave no news for 0 s"},
    }
