"""Other machines: a program called `ssh` stands in for one, and runs here what it is asked to run
there."""

import gc
import json
import shlex
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, PatchParityError, benchmark
from patchparity.bench.machine.hosts import LOCAL, Host, parse_hosts
from patchparity.bench.record.rows import WorkerKey
from patchparity.bench.worker import client as workers
from patchparity.bench.worker import process
from patchparity.bench.worker.client import Worker, WorkerError, WorkerLostError

from .records import loaded

# execnet leaves the pipes of an interpreter that did not start to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SMALL = dict(
    cases=("vit-ti32-224-b2",), implementations=("numpy:linear:eager",), threads=(1,), rounds=6
)


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """Put such a program first on the PATH; it notes how it was called, reaches no machine called
    `gone`, hears nothing from `silent` once it is there, and is welcomed by `polite`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    (folder / "ssh").write_text(
        f'#!/bin/sh\necho "$@" >> {shlex.quote(str(calls))}\n'
        'for last; do :; done\ncase "$*" in *user@gone*) echo "ssh: connect to host gone port 22: '
        'refused" >&2; exit 255;; esac\n'
        'case "$*" in *user@polite*) echo "Welcome, dear user";; *user@silent*python*) exec sleep '
        "600;; esac\n"
        'exec sh -c "$last"\n'
    )
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    workers.machine_of.cache_clear()
    yield calls
    workers.machine_of.cache_clear()
    gc.collect()  # here, where the warning is expected, and not in a later test


def remote(name="box", python=sys.executable):
    return f"ssh=user@{name}//python={python}"


def test_two_machines_take_part_in_one_run_each_with_its_own_reference(ssh, tmp_path):
    options = BenchOptions(**SMALL, hosts=(LOCAL, remote()), out=str(tmp_path / "o"))
    report = benchmark(options)
    assert report.ok
    infos = [entry["extra_info"] for entry in report.content["benchmarks"]]
    assert {info["host"] for info in infos} == {"local", "host1"}
    identities = {entry["params"]["identity"] for entry in report.content["benchmarks"]}
    assert {name.replace("/host1", "") for name in identities if "/host1/" in name} == {
        n for n in identities if "/host1/" not in n
    }
    assert {
        info["ratio"]
        for info in infos
        if info["operation"] == "tokens" and info["role"] == "implementation"
    } == {1.0}
    assert all(
        info["roof"]
        for info in infos
        if info["role"] == "implementation" and info["operation"] == "tokens"
    )
    assert report.content["environment"]["hosts"]["host1"]["cores"] >= 1
    assert "numpy on cpu of host1, 1 thread(s)" in report.content["environment"]["workers"]
    assert "-o BatchMode=yes" in ssh.read_text(), "nobody is there to type a password"
    written = "".join(path.read_text() for path in (tmp_path / "o").iterdir())
    assert "user@box" not in written, "a record names no machine"
    samples = [
        json.loads(line) for line in (tmp_path / "o" / "samples.jsonl").read_text().splitlines()
    ]
    if Path("/proc/stat").exists():
        assert all(isinstance(sample["disturbance"], float) for sample in samples), (
            "each machine tells of itself"
        )
    (tmp_path / "o" / "bench.json").unlink()
    replayed = loaded(tmp_path / "o")["environment"]
    told = report.content["environment"]
    assert (replayed["hosts"], replayed["processor"]) == (told["hosts"], told["processor"]), (
        "a record knows its machines by itself"
    )
    again = benchmark(BenchOptions(**{**options.__dict__, "resume": True}))
    assert [e["stats"]["data"] for e in again.content["benchmarks"]] == [
        e["stats"]["data"] for e in report.content["benchmarks"]
    ]


def of_another_machine(folder, host):
    """Make what a record holds of a host look as if it had been measured elsewhere."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    lines = [
        json.dumps({**row, "machine": "another"} if row["host"] == host else row) + "\n"
        for row in rows
    ]
    (folder / "rows.jsonl").write_text("".join(lines))


def test_a_record_is_not_gone_on_with_on_another_machine(ssh, tmp_path):
    options = dict(**SMALL, hosts=(LOCAL, remote()), out=str(tmp_path))
    benchmark(BenchOptions(**options))
    kept = (tmp_path / "rows.jsonl").read_text()
    for host, which in (("local", "this machine"), ("host1", "--host host1")):
        (tmp_path / "rows.jsonl").write_text(kept)
        of_another_machine(tmp_path, host)
        with pytest.raises(
            PatchParityError,
            match=rf"^what .* holds of {host} was measured on another machine than {which}: begin",
        ):
            benchmark(BenchOptions(**options, resume=True))
    lines = kept.splitlines()
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines[:-1]))
    with pytest.raises(
        PatchParityError,
        match=r"holds an unfinished case of host1: name that --host again, or begin a new folder",
    ):
        benchmark(BenchOptions(**{**options, "hosts": ()}, resume=True))
    (tmp_path / "rows.jsonl").write_text(kept)
    assert {
        e["extra_info"]["host"]
        for e in benchmark(BenchOptions(**{**options, "hosts": ()}, resume=True)).content[
            "benchmarks"
        ]
    } == {
        "local",
        "host1",
    }, "what is finished is kept"


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("box", "host 'box': expected local, or ssh=USER@MACHINE"),
        ("ssh=", "expected local, or ssh="),
        ("ssh=a//port=3", "expected local, or ssh="),
        (
            remote("gone"),
            r"^host ssh=user@gone: ssh: connect to host gone port 22: refused; expected a machine "
            r"that ssh reaches without a password$",
        ),
        (
            remote(python="/no/such/python"),
            r"^host ssh=user@box: /no/such/python could not be started; expected /no/such/python "
            r"there to have patchparity\[bench\]",
        ),
        (
            remote("polite"),
            "^host ssh=user@polite: a login there prints 'Welcome, dear user' to stdout",
        ),
        (remote("silent"), "^host ssh=user@silent: .* could not be started"),
    ],
)
def test_a_host_that_cannot_take_part_is_one_sentence_before_any_work(
    ssh, tmp_path, host, message, monkeypatch
):
    if "silent" in host:
        monkeypatch.setattr(process, "START_SECONDS", 1.0)
    with pytest.raises(PatchParityError, match=message) as raised:
        benchmark(BenchOptions(**SMALL, hosts=(host,), out=str(tmp_path / "o")))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "o").exists()


def test_a_host_without_patchparity_says_so(ssh, tmp_path):
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -IS "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(
        PatchParityError,
        match=r"No module named 'patchparity'; expected .* to have patchparity\[bench\]",
    ):
        benchmark(BenchOptions(**SMALL, hosts=(remote(python=bare),), out=str(tmp_path / "o")))


def test_a_host_of_another_version_says_so(ssh, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "__version__", "99.0")
    with pytest.raises(
        PatchParityError, match=r"has patchparity .*, expected 99.0; pip install it there"
    ):
        benchmark(BenchOptions(**SMALL, hosts=(remote(),), out=str(tmp_path / "o")))


def test_a_host_whose_version_cannot_tell_of_itself_says_so(ssh, tmp_path, monkeypatch):
    def refuses(worker, action, **arguments):
        raise WorkerError(f"AttributeError: 'Server' object has no attribute {action!r}")

    monkeypatch.setattr(workers.Worker, "request", refuses)
    with pytest.raises(
        PatchParityError,
        match=r"host ssh=user@box: AttributeError.*'describe'; expected .* to have patchparity",
    ):
        benchmark(BenchOptions(**SMALL, hosts=(remote(),), out=str(tmp_path / "o")))


def test_a_worker_that_cannot_be_reached_any_more_names_no_machine(ssh):
    with pytest.raises(
        WorkerLostError,
        match=r"the worker for numpy on cpu of host1, 1 thread.* could not be started: ",
    ) as raised:
        Worker(
            WorkerKey("numpy", "cpu", 1, "ieee", host="host1"),
            host=Host("host1", "user@gone", "python3"),
        )
    assert "gone" not in str(raised.value)


def test_hosts_are_read_in_order_each_once():
    assert parse_hosts(()) == (Host(),)
    hosts = parse_hosts(("ssh=a", LOCAL, "ssh=-p 22 b//python=/x/python", "ssh=a"))
    assert hosts == (Host("host1", "a", "python3"), Host(), Host("host2", "-p 22 b", "/x/python"))
