"""The benchmark as users run it: the record's contract, resumption, lost workers, and a hostile
configuration."""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, PatchParityError, benchmark, get_backend
from patchparity.bench.cases import named_case
from patchparity.bench.record.rows import row_work
from patchparity.bench.timing.plan import plan, rows_of
from patchparity.bench.timing.session import BenchSession
from patchparity.bench.worker.client import Worker

from ..fake_backends import install
from .records import SMALL, data_of, loaded

EXTRA_INFO = {
    "implementation",
    "backend",
    "formulation",
    "mode",
    "case",
    "device",
    "dtype",
    "precision",
    "threads_requested",
    "threads_observed",
    "gflops",
    "gigabytes_per_second",
    "gemm_fraction",
    "own_gemm_fraction",
    "bound_ratio",
    "effective_bits",
    "operation",
    "cache",
    "roof_fraction",
    "peak_memory_bytes",
    "ratio",
    "ratio_interval",
    "role",
}
FIELDS = (Path(__file__).resolve().parents[2] / "docs" / "fields.md").read_text()


def test_bench_json_keeps_its_contract(report):
    content = json.loads((report.folder / "bench.json").read_text())
    assert report.ok
    assert {
        "machine_info",
        "commit_info",
        "benchmarks",
        "datetime",
        "version",
        "environment",
    } <= set(content)
    names = {entry["extra_info"]["implementation"] for entry in content["benchmarks"]}
    assert names == {
        "numpy:linear:eager",
        "numpy:conv2d:eager",
        "numpy:gemm",
        "numpy:peak",
        "numpy:copy",
    }
    for entry in content["benchmarks"]:
        info, stats = entry["extra_info"], entry["stats"]
        assert set(info) >= EXTRA_INFO
        assert [name for name in info if f"`{name}`" not in FIELDS] == [], (
            "every field is documented"
        )
        assert len(stats["data"]) == stats["rounds"] == 4
        assert stats["median"] > 0
        assert info["threads_requested"] == 1
        assert info["threads_observed"] == 1
        flops = {"peak": 2 * 1024**3, "one-patch": 2 * 3072 * 192}.get(
            info["operation"], 2 * 2 * 49 * 3072 * 192
        )
        rate = None if info["operation"] == "copy" else pytest.approx(flops / stats["median"] / 1e9)
        assert info["gflops"] == rate
        compared = info["operation"] in ("tokens", "gemm")
        assert (info["gemm_fraction"] is not None, info["ratio"] is not None) == (
            compared,
            compared,
        )
        assert (info["precision_goal"], info["widest_interval"]) == (None, None)
        if info["role"] == "implementation":
            assert info["bound_ratio"] < 0.3
            assert 20 < info["effective_bits"] < 24
            assert 0 < info["gemm_fraction"] == info["own_gemm_fraction"]
            assert info["roof"] in ("compute", "bandwidth", "dispatch")
            assert info["roof_fraction"] > 0
    roles = [entry["extra_info"]["role"] for entry in content["benchmarks"]]
    assert Counter(roles) == {"aa": 1, "ceiling": 3, "implementation": 2, "overhead": 2}
    assert content["machine_info"]["node"] == ""
    compared = [
        (each["row"].split("/")[-1], each["against"].split("/")[-1], each["verdict"])
        for each in content["comparisons"]
    ]
    assert compared[0] == ("numpy:conv2d:eager", "numpy:linear:eager", "UNSURE")
    assert [set(pair) for *pair, _ in compared] == 2 * [
        {"numpy:conv2d:eager", "numpy:linear:eager"}
    ], "and the faster against the other"
    assert (
        content["environment"]["workers"]["numpy on cpu, 1 thread(s)"]["OPENBLAS_NUM_THREADS"]
        == "1"
    )
    assert (
        "OMP_WAIT_POLICY" in content["environment"]["workers"]["numpy on cpu, 1 thread(s), copy 1"]
    )


def test_every_number_is_a_sample_of_the_record(report):
    samples = [
        json.loads(line) for line in (report.folder / "samples.jsonl").read_text().splitlines()
    ]
    assert len(samples) == 8 * 4
    assert {
        "case",
        "implementation",
        "round",
        "order",
        "generation",
        "cache",
        "seconds",
        "disturbance",
    } <= set(samples[0])
    for entry in report.content["benchmarks"]:
        mine = sorted(
            (s for s in samples if s["row"] == entry["params"]["identity"]),
            key=lambda s: s["round"],
        )
        assert [sample["seconds"] for sample in mine] == entry["stats"]["data"], (
            "replayed to the last bit"
        )
    for number in range(4):
        assert sorted(s["order"] for s in samples if s["round"] == number) == list(range(8)), (
            "every row once a round"
        )
    orders = {
        tuple(s["row"] for s in sorted(samples, key=lambda s: s["order"]) if s["round"] == number)
        for number in range(4)
    }
    assert len(orders) > 1, "in an order that changes"


def test_a_run_that_breaks_down_is_no_success(tmp_path):
    """A limit on file sizes stands in for a full disk."""
    options = BenchOptions(**{**SMALL, "rounds": 40}, out=str(tmp_path))
    code = (
        "import patchparity; "
        f"patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r}))"
    )
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; exec {sys.executable} -c {shlex.quote(code)}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert limited.returncode != 0
    assert "PatchParityError: cannot write" in limited.stderr


def test_below_six_rounds_there_is_no_interval(report):
    assert all(
        entry["extra_info"]["ratio_interval"] is None for entry in report.content["benchmarks"]
    )
    compared = [
        entry["extra_info"]
        for entry in report.content["benchmarks"]
        if entry["extra_info"]["operation"] == "tokens"
    ]
    assert all(info["ratio"] is not None for info in compared)


def test_a_hostile_configuration_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = -n auto --benchmark-disable -k nothing\n"
    )
    (tmp_path / "conftest.py").write_text("raise RuntimeError('must not be loaded')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    assert len(benchmark(BenchOptions(**SMALL, out="out")).content["benchmarks"]) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"pytest.ini", "conftest.py", "out"}


def test_fragile_implementations_cost_their_own_rows(tmp_path):
    environment = install(tmp_path, "fragile", "wrong")
    options = BenchOptions(
        cases=("vit-ti32-224-b1", "vit-ti32-224-b2"),
        backends=("numpy", "fragile", "wrong"),
        threads=(1,),
        rounds=3,
        call_seconds=6.0,
        out=str(tmp_path / "out"),
    )
    code = (
        "import patchparity; "
        f"print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "False", done.stderr
    content = loaded(tmp_path / "out")
    measured = {entry["extra_info"]["implementation"] for entry in content["benchmarks"]}
    assert {"numpy:linear:eager", "numpy:conv2d:eager", "numpy:gemm"} <= measured
    assert not measured & {
        "fragile:raises:eager",
        "fragile:dies:eager",
        "fragile:hangs:eager",
        "wrong:conv2d:eager",
    }
    messages = {(row["case"], row["implementation"]): row["message"] for row in content["failures"]}
    for case in options.cases:
        assert (
            "RuntimeError: no kernel image is available" in messages[case, "fragile:raises:eager"]
        )
        assert "not timed, for it is wrong" in messages[case, "wrong:conv2d:eager"]
        lost = messages[case, "fragile:dies:eager"] + messages[case, "fragile:hangs:eager"]
        assert "died during" in lost or "did not answer" in lost, (
            "in the second case too: a new worker was started for it"
        )


def test_a_dtype_that_this_machine_lacks_is_rows_that_say_so(tmp_path):
    environment = install(tmp_path, "aged")
    options = BenchOptions(
        cases=("vit-ti32-224-b1",),
        implementations=("numpy:linear", "aged"),
        dtypes=("bfloat16",),
        threads=(1,),
        rounds=2,
        out=str(tmp_path / "o"),
    )
    code = (
        "import patchparity; "
        f"print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "True", done.stderr
    skipped = {row["implementation"]: row["message"] for row in loaded(tmp_path / "o")["skipped"]}
    assert skipped["aged:linear:eager"] == "aged:linear:eager has no bfloat16 on this CPU"


def test_a_missing_framework_is_rows_that_say_how_to_get_it(tmp_path):
    environment = install(tmp_path, "absent")
    options = BenchOptions(
        cases=("vit-ti32-224-b1",),
        implementations=("numpy:linear", "numpy:conv2d", "absent"),
        threads=(1,),
        rounds=3,
        out=str(tmp_path / "o"),
    )
    code = (
        "import patchparity; "
        f"print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "True", "what is not installed is no failure"
    content = loaded(tmp_path / "o")
    skipped = {row["implementation"]: row["message"] for row in content["skipped"]}
    assert set(skipped) == {
        "absent:conv2d:eager",
        "absent:linear:eager",
        "absent:gemm",
        "absent:peak",
        "absent:copy",
    }
    assert set(skipped.values()) == {
        "no_such_framework is not installed: pip install 'patchparity[absent]', or patchparity "
        "backends --install absent"
    }
    assert len(content["benchmarks"]) == 8
    asked = dataclasses.replace(options, backends=("absent",), implementations=())
    code = (
        f"import patchparity; patchparity.benchmark(patchparity.BenchOptions(**{asked.__dict__!r}))"
    )
    refused = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (
        "backend 'absent' was asked for, but no_such_framework is not installed" in refused.stderr
    )


def test_a_missing_synchronization_is_an_error_and_no_time(tmp_path):
    environment = install(tmp_path, "hasty")
    options = BenchOptions(
        cases=("vit-b32-224-b2",),
        backends=("numpy", "hasty"),
        threads=(1,),
        rounds=4,
        out=str(tmp_path / "o"),
    )
    code = (
        "import patchparity; "
        f"print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "False", done.stderr
    content = loaded(tmp_path / "o")
    failed = {failure["row"].split("/")[-1]: failure["message"] for failure in content["failures"]}
    assert (
        "the adapter does not wait for it (its synchronize is missing or wrong)"
        in failed["hasty:linear:eager"]
    )
    assert set(failed) <= {"hasty:linear:eager", "hasty:linear:eager#one-patch"}
    measured = {
        entry["extra_info"]["implementation"]
        for entry in content["benchmarks"]
        if entry["extra_info"]["role"] == "implementation"
    }
    assert measured == {"numpy:linear:eager", "numpy:naive:eager", "numpy:conv2d:eager"}


def test_sequences_and_train_steps_are_timed_beside_tokens_each_with_its_verdict(tmp_path):
    options = {**SMALL, "operations": ("sequence", "train-step"), "out": str(tmp_path)}
    content = benchmark(BenchOptions(**options)).content
    timed = {
        (entry["extra_info"]["implementation"], entry["extra_info"]["operation"]): entry
        for entry in content["benchmarks"]
        if entry["extra_info"]["role"] == "implementation"
    }
    infos = {key: entry["extra_info"] for key, entry in timed.items()}
    medians = {key: entry["stats"]["median"] for key, entry in timed.items()}
    case = named_case("vit-ti32-224-b2")
    rows, depth, width = 2 * 49, 3072, 192
    for name in ("numpy:linear:eager", "numpy:conv2d:eager"):
        for operation, counted in (
            ("sequence", 2 * rows * depth * width + 2 * 50 * width),
            ("train-step", 4 * rows * depth * width + rows * width),
        ):
            info = infos[name, operation]
            assert info["role"] == "implementation"
            assert info["verdict"] == "pass"
            assert 0 < info["bound_ratio"] < 0.5, (
                "correct sums of 98 terms and more reach 0.08 here; that of a wrong one is above 1"
            )
            assert info["gflops"] == pytest.approx(counted / medians[name, operation] / 1e9)
            assert info["roof_fraction"] > 0
    assert infos["numpy:linear:eager", "train-step"]["ratio"] == 1, (
        "to the reference's own train step"
    )
    (product,) = (
        e["stats"]["data"] for e in content["benchmarks"] if e["extra_info"]["operation"] == "gemm"
    )
    own = timed["numpy:linear:eager", "train-step"]["stats"]["data"]
    doubled = np.median(2 * np.array(product) / np.array(own))
    assert infos["numpy:linear:eager", "train-step"]["gemm_fraction"] == pytest.approx(doubled), (
        "a train step has two products"
    )
    least = (
        row_work("tokens", case, 4)[1],
        row_work("sequence", case, 4)[1],
        row_work("train-step", case, 4)[1],
    )
    assert least[1] - least[0] == 4 * (width + 50 * width + 2 * width)
    assert least[2] - least[0] == 4 * (rows * width + depth * width + width)


def test_a_train_step_or_sequence_that_is_wrong_is_not_timed(tmp_path):
    environment = install(tmp_path, "careless")
    options = BenchOptions(
        cases=("vit-ti32-224-b2",),
        backends=("numpy", "careless"),
        operations=("sequence", "train-step"),
        threads=(1,),
        rounds=2,
        out=str(tmp_path / "o"),
    )
    code = (
        "import patchparity; "
        f"print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == "False", done.stderr
    failed = {
        failure["row"].split("/")[-1]: failure["message"]
        for failure in loaded(tmp_path / "o")["failures"]
    }
    assert set(failed) == {"careless:linear:eager#sequence", "careless:linear:eager#train-step"}
    assert all(message.startswith("not timed, for it is wrong: ") for message in failed.values())


def test_each_operation_has_an_a_a_row_of_its_own(tmp_path):
    content = benchmark(
        BenchOptions(**{**SMALL, "rounds": 6}, operations=("train-step",), out=str(tmp_path))
    ).content
    copies = {
        e["extra_info"]["operation"]: e["extra_info"]
        for e in content["benchmarks"]
        if e["extra_info"]["role"] == "aa"
    }
    assert set(copies) == {"tokens", "train-step"}
    medians = {
        e["params"]["identity"].split("/")[-1]: e["stats"]["data"] for e in content["benchmarks"]
    }
    pairs = zip(
        medians["numpy:linear:eager#aa-train-step"],
        medians["numpy:linear:eager#train-step"],
        strict=True,
    )
    assert copies["train-step"]["ratio"] == pytest.approx(
        np.median([own / other for own, other in pairs])
    )
    assert all(info["ratio_interval"] for info in copies.values())


def test_ctrl_c_while_a_framework_is_imported_ends_at_once_and_leaves_no_process(
    monkeypatch, request
):
    if "openvino" in sys.modules:  # which, loaded by another test, does not survive SIGINT
        alone = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            __file__,
            "-k",
            "ctrl_c_while",
        ]
        done = subprocess.run(alone, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stdout
        return
    session = BenchSession(plan(BenchOptions(**SMALL)))
    # As at a terminal: a shell starts background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupted(worker, implementations):
        if worker.key.copy:
            time.sleep(0.5)
            # reaches the main thread, which waits for the other one
            os.kill(os.getpid(), signal.SIGINT)
        return worker.request(
            "visit", row="none that is there, asked of a worker that does not answer"
        )

    started = []
    monkeypatch.setattr(Worker, "start", interrupted)
    open_worker = session._worker

    def stopped(key, turn):
        worker = open_worker(key, turn)
        started.append(worker)
        if not key.copy:
            os.kill(worker._process.popen.pid, signal.SIGSTOP)
        return worker

    monkeypatch.setattr(session, "_worker", stopped)
    with pytest.raises(KeyboardInterrupt):
        session.outcome(session.rows[0])
    assert len(started) == 2
    assert all(worker._process.popen.poll() is not None for worker in started)
    session.close()


def test_a_backend_may_have_an_interpreter_of_its_own(tmp_path):
    elsewhere = tmp_path / "bin" / "python"
    elsewhere.parent.mkdir()
    elsewhere.write_text(
        f'#!/bin/sh\nexec env PATCHPARITY_ELSEWHERE=1 {shlex.quote(sys.executable)} "$@"\n'
    )
    elsewhere.chmod(0o755)
    session = BenchSession(plan(BenchOptions(**SMALL, pythons=(f"numpy={elsewhere}",))))
    key = session.rows[0].worker
    assert not session._start([key])[key].failure
    environment = Path(f"/proc/{session._workers[key].start()['pid']}/environ").read_bytes()
    session.close()
    assert b"PATCHPARITY_ELSEWHERE=1" in environment


def test_what_is_missing_in_another_interpreter_is_told_by_its_worker(monkeypatch):
    numpy = type(get_backend("numpy"))
    monkeypatch.setattr(numpy, "missing", lambda self: "numpy is not installed")
    assert all(row.skip for row in rows_of(BenchOptions(**SMALL)) if row.role != "aa")
    assert not any(row.skip for row in rows_of(BenchOptions(**SMALL, pythons=("numpy=python",))))


def test_warm_and_cold_are_blocks_of_their_own(tmp_path):
    options = BenchOptions(**SMALL, caches=("warm", "cold"), out=str(tmp_path))
    content = benchmark(options).content
    by_cache = Counter(entry["extra_info"]["cache"] for entry in content["benchmarks"])
    assert by_cache == {"warm": 8, "cold": 8}
    identities = [entry["params"]["identity"] for entry in content["benchmarks"]]
    assert "vit-ti32-224-b2/cpu/float32/t1/cold/numpy:linear:eager" in identities
    assert "vit-ti32-224-b2/cpu/float32/t1/numpy:linear:eager" in identities
    medians = {
        name: entry["stats"]["median"]
        for name, entry in zip(identities, content["benchmarks"], strict=True)
    }
    copy = "vit-ti32-224-b2/cpu/float32/t1/{}numpy:copy"
    assert medians[copy.format("cold/")] > medians[copy.format("")], (
        "a copy of 2 MB that nobody has touched takes longer"
    )
    assert data_of(benchmark(dataclasses.replace(options, resume=True)).content) == data_of(content)
    with pytest.raises(
        PatchParityError, match="cache 'tepid' is unknown; expected one of warm, cold"
    ):
        benchmark(BenchOptions(**SMALL, caches=("tepid",)))
