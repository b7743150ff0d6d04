"""The benchmark as users run it: the record's contract, resumption, lost workers, and a hostile configuration."""

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

from patchparity import BenchOptions, PatchParityError, benchmark, compare, get_backend
from patchparity import __version__ as patchparity_version
from patchparity.bench.cases import named_case
from patchparity.bench.harness import load_bench, rows_missing
from patchparity.bench.plan import plan
from patchparity.bench.rows import row_work
from patchparity.bench.session import BenchSession
from patchparity.bench.workers import Worker

from ..fake_backends import install, running_below

EXTRA_INFO = {
    "implementation", "backend", "formulation", "mode", "case", "device", "dtype", "precision", "threads_requested", "threads_observed",
    "gflops", "gigabytes_per_second", "gemm_fraction", "own_gemm_fraction", "bound_ratio", "effective_bits", "operation", "cache",
    "roof_fraction", "peak_memory_bytes", "ratio", "ratio_interval", "role",
}  # fmt: skip
README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
SMALL = dict(cases=("vit-ti32-224-b2",), implementations=("numpy:linear", "numpy:conv2d"), threads=(1,), rounds=4)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return benchmark(BenchOptions(**SMALL, out=str(tmp_path_factory.mktemp("bench"))))


def test_bench_json_keeps_its_contract(report):
    content = json.loads((report.folder / "bench.json").read_text())
    assert report.ok
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version", "environment"} <= set(content)
    names = {entry["extra_info"]["implementation"] for entry in content["benchmarks"]}
    assert names == {"numpy:linear:eager", "numpy:conv2d:eager", "numpy:gemm", "numpy:peak", "numpy:copy"}
    for entry in content["benchmarks"]:
        info, stats = entry["extra_info"], entry["stats"]
        assert set(info) >= EXTRA_INFO
        assert [name for name in info if f"`{name}`" not in README] == [], "every field is documented"
        assert len(stats["data"]) == stats["rounds"] == 4
        assert stats["median"] > 0
        assert info["threads_requested"] == 1
        assert info["threads_observed"] == 1
        flops = {"peak": 2 * 1024**3, "one-patch": 2 * 3072 * 192}.get(info["operation"], 2 * 2 * 49 * 3072 * 192)
        rate = None if info["operation"] == "copy" else pytest.approx(flops / stats["median"] / 1e9)
        assert info["gflops"] == rate
        compared = info["operation"] in ("tokens", "gemm")
        assert (info["gemm_fraction"] is not None, info["ratio"] is not None) == (compared, compared)
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
    compared = [(each["row"].split("/")[-1], each["against"].split("/")[-1], each["verdict"]) for each in content["comparisons"]]
    assert compared[0] == ("numpy:conv2d:eager", "numpy:linear:eager", "UNSURE")
    assert [set(pair) for *pair, _ in compared] == 2 * [{"numpy:conv2d:eager", "numpy:linear:eager"}], (
        "and the faster against the other"
    )
    assert content["environment"]["workers"]["numpy on cpu, 1 thread(s)"]["OPENBLAS_NUM_THREADS"] == "1"
    assert "OMP_WAIT_POLICY" in content["environment"]["workers"]["numpy on cpu, 1 thread(s), copy 1"]


def test_every_number_is_a_sample_of_the_record(report):
    samples = [json.loads(line) for line in (report.folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 8 * 4
    assert {"case", "implementation", "round", "order", "generation", "cache", "seconds", "disturbance"} <= set(samples[0])
    for entry in report.content["benchmarks"]:
        mine = sorted((s for s in samples if s["row"] == entry["params"]["identity"]), key=lambda s: s["round"])
        assert [sample["seconds"] for sample in mine] == entry["stats"]["data"], "replayed to the last bit"
    for number in range(4):
        assert sorted(s["order"] for s in samples if s["round"] == number) == list(range(8)), "every row once a round"
    orders = {tuple(s["row"] for s in sorted(samples, key=lambda s: s["order"]) if s["round"] == number) for number in range(4)}
    assert len(orders) > 1, "in an order that changes"


def copied_record(report, folder) -> None:
    for name in ("samples.jsonl", "rows.jsonl"):
        (folder / name).write_text((report.folder / name).read_text())


def data_of(content) -> dict[str, list[float]]:
    return {entry["params"]["identity"]: entry["stats"]["data"] for entry in content["benchmarks"]}


def test_resume_measures_only_what_is_missing(report, tmp_path):
    copied_record(report, tmp_path)
    other_case = BenchOptions(**{**SMALL, "cases": ("vit-ti32-224-b1",)}, out=str(tmp_path), resume=True)
    both = data_of(benchmark(other_case).content)
    assert len(both) == 16, "the case that the record holds is kept although it was not asked for again"
    assert data_of(report.content).items() <= both.items()
    assert data_of(benchmark(other_case).content) == both, "nothing is left to measure"


def test_resume_measures_a_block_anew_where_it_cannot_be_kept(tmp_path):
    """With other rows, or another number of rounds, no row of the block keeps old samples beside new ones."""
    narrow = {**SMALL, "implementations": ("numpy:linear:eager",)}
    first = benchmark(BenchOptions(**narrow, out=str(tmp_path)))
    assert len(first.content["benchmarks"]) == 6
    wider = benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))
    assert len(wider.content["benchmarks"]) == 8
    assert not set(map(tuple, data_of(first.content).values())) & set(map(tuple, data_of(wider.content).values()))
    narrower = benchmark(BenchOptions(**narrow, out=str(tmp_path), resume=True))
    assert data_of(narrower.content) == data_of(wider.content), "what the record holds beside is kept"
    (tmp_path / "report.md").write_text("of the record as it was")
    longer = benchmark(BenchOptions(**{**SMALL, "rounds": 7}, out=str(tmp_path), resume=True))
    assert not (tmp_path / "report.md").exists()
    assert longer.content["measured_anew"] == ["vit-ti32-224-b2, float32, 1 thread"]
    assert narrower.content["measured_anew"] == []
    assert {len(data) for data in data_of(longer.content).values()} == {7}


def test_a_record_of_another_version_is_refused_in_a_sentence(report, tmp_path):
    copied_record(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({name: value for name, value in row.items() if name != "host"}) + "\n" for row in rows)
    )
    with pytest.raises(
        PatchParityError, match=r"^/.*was written by another version of patchparity .a row has no 'host'.: measure anew"
    ):
        benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))


def test_a_block_that_lost_a_row_is_not_told_as_if_it_were_whole(report, tmp_path):
    copied_record(report, tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(PatchParityError, match="holds no case that was finished: bench with --resume goes on"):
        load_bench(tmp_path)


def test_a_stray_row_of_an_attempt_that_did_not_end_hides_nothing(report, tmp_path):
    copied_record(report, tmp_path)
    first = (tmp_path / "rows.jsonl").read_text().splitlines()[0]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({**json.loads(first), "attempt": "later"}) + "\n")
    assert data_of(load_bench(tmp_path)) == data_of(report.content)


def test_a_record_made_again_knows_its_machine_its_options_and_what_is_missing(report, tmp_path):
    copied_record(report, tmp_path)
    again = load_bench(tmp_path)
    assert (again["environment"]["processor"], again["options"]["preset"]) == ("unknown", "unknown"), "it is not noted here"
    with pytest.raises(PatchParityError, match="different machines"):
        compare(report.folder, tmp_path)
    for name in ("machines.json", "plan.json"):
        (tmp_path / name).write_text((report.folder / name).read_text())
    noted = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**noted, "planned": 20}))
    (tmp_path / "bench.json").unlink()
    again = load_bench(tmp_path)
    assert again["environment"]["processor"] == report.content["environment"]["processor"]
    assert again["environment"]["versions"] == report.content["environment"]["versions"]
    assert (again["options"], again["planned"]) == (report.content["options"], 20)
    assert rows_missing(again) == 12


def test_a_record_is_not_gone_on_with_other_versions(report, tmp_path):
    copied_record(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["versions"] == {"numpy": np.__version__, "patchparity": patchparity_version}
    lines = [json.dumps({**row, "versions": {**row["versions"], "numpy": "1.0"}}) + "\n" for row in rows]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    told = rf"holds times of numpy 1.0, and here is numpy {np.__version__} now: begin a new folder"
    with pytest.raises(PatchParityError, match=told):
        benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))


@pytest.mark.parametrize("name", ["samples.jsonl", "rows.jsonl"])
def test_a_block_that_lost_a_line_is_measured_anew(report, tmp_path, name):
    copied_record(report, tmp_path)
    lines = (tmp_path / name).read_text().splitlines()[:-1]
    (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    mended = benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))
    assert len(mended.content["benchmarks"]) == 8
    assert not set(map(tuple, data_of(report.content).values())) & set(map(tuple, data_of(mended.content).values()))


def test_a_new_run_sets_the_old_record_aside(report, tmp_path):
    copied_record(report, tmp_path)
    (tmp_path / "check.json").write_text("{}")
    benchmark(BenchOptions(**SMALL, out=str(tmp_path)))
    (previous,) = tmp_path.glob("previous-*")
    assert (previous / "samples.jsonl").read_text() == (report.folder / "samples.jsonl").read_text()
    assert not (tmp_path / "check.json").exists(), "verdicts of another run must not stand above these times"
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 32


def test_bench_json_is_made_again_from_the_record(report, tmp_path):
    copied_record(report, tmp_path)
    assert data_of(load_bench(tmp_path)) == data_of(report.content)
    (tmp_path / "bench.json").write_text("{")
    assert data_of(load_bench(tmp_path)) == data_of(report.content)


def test_a_record_made_again_tells_of_errors_and_leaves_out_what_is_incomplete(report, tmp_path):
    copied_record(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rows[1].update(status="error", message="it died")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = load_bench(tmp_path)
    assert len(content["benchmarks"]) == 7
    assert [row["message"] for row in content["failures"]] == ["it died"]
    (tmp_path / "bench.json").unlink()
    (tmp_path / "samples.jsonl").unlink()
    with pytest.raises(PatchParityError, match="holds no case that was finished"):
        load_bench(tmp_path)


def test_a_kill_in_the_middle_leaves_a_record_to_resume_from_and_no_process(tmp_path):
    options = BenchOptions(**{**SMALL, "cases": ("vit-ti32-224-b1", "vit-b16-224-b8"), "rounds": 150}, out=str(tmp_path))
    code = f"import patchparity; patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not ((tmp_path / "bench.json").exists() and (tmp_path / "samples.jsonl").read_text().count('"vit-b16-224-b8"') > 20):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    for _ in range(100):
        if not running_below(tmp_path):
            break
        time.sleep(0.2)
    assert not running_below(tmp_path), "children end with their parent"
    first = load_bench(tmp_path)
    assert {entry["extra_info"]["case"] for entry in first["benchmarks"]} == {"vit-ti32-224-b1"}
    resumed = benchmark(dataclasses.replace(options, resume=True))
    lengths = {entry["extra_info"]["case"]: len(entry["stats"]["data"]) for entry in resumed.content["benchmarks"]}
    assert lengths == {"vit-ti32-224-b1": 150, "vit-b16-224-b8": 150}
    kept = {name: data for name, data in data_of(resumed.content).items() if "ti32" in name}
    assert kept == data_of(first), "the finished case is kept"


def test_two_runs_do_not_share_a_folder(tmp_path):
    from patchparity.bench.results import locked

    with locked(tmp_path), pytest.raises(PatchParityError, match="another run is writing to"), locked(tmp_path):
        pass


def test_a_run_that_breaks_down_is_no_success(tmp_path):
    """A limit on file sizes stands in for a full disk."""
    options = BenchOptions(**{**SMALL, "rounds": 40}, out=str(tmp_path))
    code = f"import patchparity; patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r}))"
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -f 4; exec {sys.executable} -c {shlex.quote(code)}"], capture_output=True, text=True, check=False
    )
    assert limited.returncode != 0
    assert "the benchmark broke down (exit" in limited.stderr


def test_below_six_rounds_there_is_no_interval(report):
    assert all(entry["extra_info"]["ratio_interval"] is None for entry in report.content["benchmarks"])
    compared = [entry["extra_info"] for entry in report.content["benchmarks"] if entry["extra_info"]["operation"] == "tokens"]
    assert all(info["ratio"] is not None for info in compared)


def test_a_hostile_configuration_changes_nothing(tmp_path, monkeypatch):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -n auto --benchmark-disable -k nothing\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('must not be loaded')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    assert len(benchmark(BenchOptions(**SMALL, out="out")).content["benchmarks"]) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"pytest.ini", "conftest.py", "out"}


def test_fragile_implementations_cost_their_own_rows(tmp_path):
    environment = install(tmp_path, "fragile", "wrong")
    options = BenchOptions(cases=("vit-ti32-224-b1", "vit-ti32-224-b2"), backends=("numpy", "fragile", "wrong"), threads=(1,), rounds=3,
                           call_seconds=6.0, out=str(tmp_path / "out"))  # fmt: skip
    code = f"import patchparity; print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr
    content = load_bench(tmp_path / "out")
    measured = {entry["extra_info"]["implementation"] for entry in content["benchmarks"]}
    assert {"numpy:linear:eager", "numpy:conv2d:eager", "numpy:gemm"} <= measured
    assert not measured & {"fragile:raises:eager", "fragile:dies:eager", "fragile:hangs:eager", "wrong:conv2d:eager"}
    messages = {(row["case"], row["implementation"]): row["message"] for row in content["failures"]}
    for case in options.cases:
        assert "RuntimeError: no kernel image is available" in messages[case, "fragile:raises:eager"]
        assert "not timed, for it is wrong" in messages[case, "wrong:conv2d:eager"]
        lost = messages[case, "fragile:dies:eager"] + messages[case, "fragile:hangs:eager"]
        assert "died during" in lost or "did not answer" in lost, "in the second case too: a new worker was started for it"


def test_a_missing_framework_is_rows_that_say_how_to_get_it(tmp_path):
    environment = install(tmp_path, "absent")
    options = BenchOptions(
        cases=("vit-ti32-224-b1",),
        implementations=("numpy:linear", "numpy:conv2d", "absent"),
        threads=(1,),
        rounds=3,
        out=str(tmp_path / "o"),
    )
    code = f"import patchparity; print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "True", "what is not installed is no failure"
    content = load_bench(tmp_path / "o")
    skipped = {row["implementation"]: row["message"] for row in content["skipped"]}
    assert set(skipped) == {"absent:conv2d:eager", "absent:linear:eager", "absent:gemm", "absent:peak", "absent:copy"}
    assert set(skipped.values()) == {"no_such_framework is not installed: pip install 'patchparity[absent]'"}
    assert len(content["benchmarks"]) == 8
    asked = dataclasses.replace(options, backends=("absent",), implementations=())
    code = f"import patchparity; patchparity.benchmark(patchparity.BenchOptions(**{asked.__dict__!r}))"
    refused = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "backend 'absent' was asked for, but no_such_framework is not installed" in refused.stderr


def test_a_missing_synchronization_is_an_error_and_no_time(tmp_path):
    environment = install(tmp_path, "hasty")
    options = BenchOptions(
        cases=("vit-b32-224-b2",), backends=("numpy", "hasty"), threads=(1,), rounds=4, out=str(tmp_path / "o")
    )
    code = f"import patchparity; print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr
    content = load_bench(tmp_path / "o")
    failed = {failure["row"].split("/")[-1]: failure["message"] for failure in content["failures"]}
    assert "the adapter does not wait for it (its synchronize is missing or wrong)" in failed["hasty:linear:eager"]
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
    assert infos["numpy:linear:eager", "train-step"]["ratio"] == 1, "to the reference's own train step"
    (product,) = (e["stats"]["data"] for e in content["benchmarks"] if e["extra_info"]["operation"] == "gemm")
    own = timed["numpy:linear:eager", "train-step"]["stats"]["data"]
    doubled = np.median(2 * np.array(product) / np.array(own))
    assert infos["numpy:linear:eager", "train-step"]["gemm_fraction"] == pytest.approx(doubled), "a train step has two products"
    least = row_work("tokens", case, 4)[1], row_work("sequence", case, 4)[1], row_work("train-step", case, 4)[1]
    assert least[1] - least[0] == 4 * (width + 50 * width + 2 * width)
    assert least[2] - least[0] == 4 * (rows * width + depth * width + width)


def test_a_train_step_or_sequence_that_is_wrong_is_not_timed(tmp_path):
    environment = install(tmp_path, "careless")
    options = BenchOptions(
        cases=("vit-ti32-224-b2",), backends=("numpy", "careless"), operations=("sequence", "train-step"), threads=(1,), rounds=2,
        out=str(tmp_path / "o"),
    )  # fmt: skip
    code = f"import patchparity; print(patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r})).ok)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False", done.stderr
    failed = {failure["row"].split("/")[-1]: failure["message"] for failure in load_bench(tmp_path / "o")["failures"]}
    assert set(failed) == {"careless:linear:eager#sequence", "careless:linear:eager#train-step"}
    assert all(message.startswith("not timed, for it is wrong: ") for message in failed.values())


def test_each_operation_has_an_a_a_row_of_its_own(tmp_path):
    content = benchmark(BenchOptions(**{**SMALL, "rounds": 6}, operations=("train-step",), out=str(tmp_path))).content
    copies = {e["extra_info"]["operation"]: e["extra_info"] for e in content["benchmarks"] if e["extra_info"]["role"] == "aa"}
    assert set(copies) == {"tokens", "train-step"}
    medians = {e["params"]["identity"].split("/")[-1]: e["stats"]["data"] for e in content["benchmarks"]}
    pairs = zip(medians["numpy:linear:eager#aa-train-step"], medians["numpy:linear:eager#train-step"], strict=True)
    assert copies["train-step"]["ratio"] == pytest.approx(np.median([own / other for own, other in pairs]))
    assert all(info["ratio_interval"] for info in copies.values())


def test_a_first_round_after_loading_is_not_counted(monkeypatch):
    visits = Counter()
    request = Worker.request

    def counted(worker, action, **arguments):
        visits[worker.key.copy, action, arguments.get("row")] += 1
        return request(worker, action, **arguments)

    monkeypatch.setattr(Worker, "request", counted)
    session = BenchSession(BenchOptions(**{**SMALL, "rounds": 4, "generations": 2}))
    assert session.outcome(session.rows[0])["status"] == "measured"
    session.close()
    timed = {key: count for key, count in visits.items() if key[1] == "visit"}
    assert set(timed.values()) == {4 + 2}, "one for each round, and one for each life of the workers"
    assert len(timed) == 8
    assert all(len(session.seconds(row.identity)) == 4 for row in session.rows)


def test_ctrl_c_while_a_framework_is_imported_ends_at_once_and_leaves_no_process(monkeypatch, request):
    session = BenchSession(BenchOptions(**SMALL))
    # As at a terminal: a shell starts background jobs with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    def interrupted(worker):
        if worker.key.copy:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGINT)  # reaches the main thread, which waits for the other one
        return worker.request("visit", row="none that is there, asked of a worker that does not answer")

    started = []
    monkeypatch.setattr(Worker, "start", interrupted)
    open_worker = session._worker

    def stopped(key, turn):
        worker = open_worker(key, turn)
        started.append(worker)
        if not key.copy:
            os.kill(worker._gateway._io.popen.pid, signal.SIGSTOP)
        return worker

    monkeypatch.setattr(session, "_worker", stopped)
    with pytest.raises(KeyboardInterrupt):
        session.outcome(session.rows[0])
    assert len(started) == 2
    assert all(worker._gateway._io.popen.poll() is not None for worker in started)
    session.close()


def test_rounds_are_spread_over_generations_of_workers(tmp_path):
    options = BenchOptions(**{**SMALL, "rounds": 7, "generations": 3}, out=str(tmp_path))
    content = benchmark(options).content
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {(sample["round"], sample["generation"]) for sample in samples} == {
        (0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2),
    }  # fmt: skip
    assert {tuple(entry["extra_info"]["generations"]) for entry in content["benchmarks"]} == {(3, 2, 2)}
    assert {len(entry["stats"]["data"]) for entry in content["benchmarks"]} == {7}
    assert data_of(benchmark(dataclasses.replace(options, resume=True)).content) == data_of(content), "kept, with its generations"
    plainer = dataclasses.replace(options, resume=True, generations=None)
    assert data_of(benchmark(plainer).content) != data_of(content), "another effort is measured anew"


def test_a_worker_that_dies_between_generations_costs_its_rows(tmp_path, monkeypatch):
    session = BenchSession(BenchOptions(**{**SMALL, "rounds": 4, "generations": 2}))
    restart = session._restart

    def broken(keys):
        restart(keys)
        copy = next(key for key in keys if key.copy)
        os.kill(session._workers[copy].start()["pid"], signal.SIGKILL)

    monkeypatch.setattr(session, "_restart", broken)
    outcomes = {row.key: session.outcome(row) for row in session.rows}
    session.close()
    assert {key for key, outcome in outcomes.items() if outcome["status"] == "error"} == {"numpy:linear:eager#aa"}
    assert "died during 'load'" in outcomes["numpy:linear:eager#aa"]["message"]


def test_measuring_ends_at_a_look_where_the_goal_is_reached_or_the_time_is_spent(tmp_path):
    easy = benchmark(BenchOptions(**{**SMALL, "rounds": 64, "precision_goal": 10.0}, out=str(tmp_path / "easy"))).content
    assert {len(data) for data in data_of(easy).values()} == {16}
    hard = BenchOptions(**{**SMALL, "rounds": 40, "precision_goal": 1e-9}, out=str(tmp_path / "hard"))
    missed = benchmark(hard).content
    assert {len(data) for data in data_of(missed).values()} == {40}
    compared = [e["extra_info"]["ratio_interval"] for e in missed["benchmarks"] if e["extra_info"]["operation"] == "tokens"]
    widest = {e["extra_info"]["widest_interval"] for e in missed["benchmarks"]}
    assert widest == {max((high - low) / 2 for low, high in compared)}
    assert {e["extra_info"]["precision_goal"] for e in missed["benchmarks"]} == {1e-9}
    short = dataclasses.replace(hard, time_budget=1e-3, out=str(tmp_path / "short"))
    content = benchmark(short).content
    assert {len(data) for data in data_of(content).values()} == {16}
    assert data_of(load_bench(tmp_path / "short")) == data_of(content)
    kept = benchmark(dataclasses.replace(short, resume=True))
    assert data_of(kept.content) == data_of(content), "a case that ended early is whole"


def test_a_goal_without_its_reference_is_missed_and_not_waited_for(monkeypatch):
    request = Worker.request

    def dies(worker, action, **arguments):
        if action == "visit" and not worker.key.copy:
            worker.lose("it died")
        return request(worker, action, **arguments)

    monkeypatch.setattr(Worker, "request", dies)
    session = BenchSession(BenchOptions(**{**SMALL, "rounds": 64, "precision_goal": 0.01}))
    outcomes = {row.key: session.outcome(row) for row in session.rows}
    copy = next(row for row in session.rows if row.role == "aa")
    session.close()
    assert outcomes["numpy:linear:eager"]["status"] == "error"
    assert outcomes["numpy:linear:eager#aa"]["widest_interval"] == float("inf"), "not known, and so above any goal"
    assert len(session.seconds(copy.identity)) == 16


def test_a_backend_may_have_an_interpreter_of_its_own(tmp_path):
    elsewhere = tmp_path / "bin" / "python"
    elsewhere.parent.mkdir()
    elsewhere.write_text(f'#!/bin/sh\nexec env PATCHPARITY_ELSEWHERE=1 {shlex.quote(sys.executable)} "$@"\n')
    elsewhere.chmod(0o755)
    session = BenchSession(BenchOptions(**SMALL, pythons=(f"numpy={elsewhere}",)))
    key = session.rows[0].worker
    assert not session._start([key])[key].failure
    environment = Path(f"/proc/{session._workers[key].start()['pid']}/environ").read_bytes()
    session.close()
    assert b"PATCHPARITY_ELSEWHERE=1" in environment


def test_what_is_missing_in_another_interpreter_is_told_by_its_worker(monkeypatch):
    numpy = type(get_backend("numpy"))
    monkeypatch.setattr(numpy, "missing", lambda self: "numpy is not installed")
    assert all(row.skip for row in plan(BenchOptions(**SMALL)) if row.role != "aa")
    assert not any(row.skip for row in plan(BenchOptions(**SMALL, pythons=("numpy=python",))))


def test_warm_and_cold_are_blocks_of_their_own(tmp_path):
    options = BenchOptions(**SMALL, caches=("warm", "cold"), out=str(tmp_path))
    content = benchmark(options).content
    by_cache = Counter(entry["extra_info"]["cache"] for entry in content["benchmarks"])
    assert by_cache == {"warm": 8, "cold": 8}
    identities = [entry["params"]["identity"] for entry in content["benchmarks"]]
    assert "vit-ti32-224-b2/cpu/float32/t1/cold/numpy:linear:eager" in identities
    assert "vit-ti32-224-b2/cpu/float32/t1/numpy:linear:eager" in identities
    medians = {name: entry["stats"]["median"] for name, entry in zip(identities, content["benchmarks"], strict=True)}
    copy = "vit-ti32-224-b2/cpu/float32/t1/{}numpy:copy"
    assert medians[copy.format("cold/")] > medians[copy.format("")], "a copy of 2 MB that nobody has touched takes longer"
    assert data_of(benchmark(dataclasses.replace(options, resume=True)).content) == data_of(content)
    with pytest.raises(PatchParityError, match="cache 'tepid' is unknown; expected one of warm, cold"):
        benchmark(BenchOptions(**SMALL, caches=("tepid",)))


def test_damaged_or_foreign_records_are_named(tmp_path):
    with pytest.raises(PatchParityError, match=r"cannot read .*bench.json: No such file.*patchparity bench --out"):
        load_bench(tmp_path)
    (tmp_path / "bench.json").write_text("{")
    with pytest.raises(PatchParityError, match="is no JSON"):
        load_bench(tmp_path)
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(PatchParityError, match="was not written by patchparity bench"):
        load_bench(tmp_path)
