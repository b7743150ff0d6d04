"""Rounds, lives of the workers, precision goals and time budgets."""

import dataclasses
import json
import os
import signal
from collections import Counter

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, benchmark
from patchparity.bench.timing.effort import LEAST_ROUNDS
from patchparity.bench.timing.plan import plan
from patchparity.bench.timing.session import BenchSession
from patchparity.bench.worker.client import Worker

from .records import SMALL, data_of, loaded


def test_a_first_round_after_loading_is_not_counted(monkeypatch):
    visits = Counter()
    request = Worker.request

    def counted(worker, action, **arguments):
        visits[worker.key.copy, action, arguments.get("row")] += 1
        return request(worker, action, **arguments)

    monkeypatch.setattr(Worker, "request", counted)
    session = BenchSession(plan(BenchOptions(**{**SMALL, "rounds": 4, "generations": 2})))
    assert session.outcome(session.rows[0]).status == "measured"
    session.close()
    timed = {key: count for key, count in visits.items() if key[1] == "visit"}
    assert set(timed.values()) == {4 + 2}, (
        "one for each round, and one for each life of the workers"
    )
    assert len(timed) == 8
    assert all(len(session.seconds(row.identity)) == 4 for row in session.rows)


def test_rounds_are_spread_over_generations_of_workers(tmp_path):
    options = BenchOptions(**{**SMALL, "rounds": 7, "generations": 3}, out=str(tmp_path))
    content = benchmark(options).content
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {(sample["round"], sample["generation"]) for sample in samples} == {
        (0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 2),
    }  # fmt: skip
    assert {tuple(entry["extra_info"]["generations"]) for entry in content["benchmarks"]} == {
        (3, 2, 2)
    }
    assert {len(entry["stats"]["data"]) for entry in content["benchmarks"]} == {7}
    assert data_of(benchmark(dataclasses.replace(options, resume=True)).content) == data_of(
        content
    ), "kept, with its generations"
    plainer = dataclasses.replace(options, resume=True, generations=None)
    assert data_of(benchmark(plainer).content) != data_of(content), (
        "another effort is measured anew"
    )


def test_a_worker_that_dies_between_generations_costs_its_rows(tmp_path, monkeypatch):
    session = BenchSession(plan(BenchOptions(**{**SMALL, "rounds": 4, "generations": 2})))
    restart = session._restart

    def broken(keys):
        restart(keys)
        copy = next(key for key in keys if key.copy)
        os.kill(session._workers[copy].start()["pid"], signal.SIGKILL)

    monkeypatch.setattr(session, "_restart", broken)
    outcomes = {row.key: session.outcome(row) for row in session.rows}
    session.close()
    assert {key for key, outcome in outcomes.items() if outcome.status == "error"} == {
        "numpy:linear:eager#aa"
    }
    assert "died during 'load'" in outcomes["numpy:linear:eager#aa"].message


def test_measuring_ends_at_a_look_where_the_goal_is_reached_or_the_time_is_spent(tmp_path):
    easy = benchmark(
        BenchOptions(**{**SMALL, "rounds": 64, "precision_goal": 10.0}, out=str(tmp_path / "easy"))
    ).content
    assert {len(data) for data in data_of(easy).values()} == {16}
    hard = BenchOptions(
        **{**SMALL, "rounds": 40, "precision_goal": 1e-9}, out=str(tmp_path / "hard")
    )
    missed = benchmark(hard).content
    assert {len(data) for data in data_of(missed).values()} == {40}
    compared = [
        e["extra_info"]["ratio_interval"]
        for e in missed["benchmarks"]
        if e["extra_info"]["operation"] == "tokens"
    ]
    widest = {e["extra_info"]["widest_interval"] for e in missed["benchmarks"]}
    assert widest == {max((high - low) / 2 for low, high in compared)}
    assert {e["extra_info"]["precision_goal"] for e in missed["benchmarks"]} == {1e-9}
    short = dataclasses.replace(hard, time_budget=1e-3, out=str(tmp_path / "short"))
    content = benchmark(short).content
    assert {len(data) for data in data_of(content).values()} == {16}
    assert data_of(loaded(tmp_path / "short")) == data_of(content)
    kept = benchmark(dataclasses.replace(short, resume=True))
    assert data_of(kept.content) == data_of(content), "a case that ended early is whole"


def test_a_goal_without_its_reference_is_missed_and_not_waited_for(monkeypatch):
    request = Worker.request

    def dies(worker, action, **arguments):
        if action == "visit" and not worker.key.copy:
            worker.lose("it died")
        return request(worker, action, **arguments)

    monkeypatch.setattr(Worker, "request", dies)
    session = BenchSession(plan(BenchOptions(**{**SMALL, "rounds": 64, "precision_goal": 0.01})))
    outcomes = {row.key: session.outcome(row) for row in session.rows}
    copy = next(row for row in session.rows if row.role == "aa")
    session.close()
    assert outcomes["numpy:linear:eager"].status == "error"
    assert outcomes["numpy:linear:eager#aa"].widest_interval == float("inf"), (
        "not known, and so above any goal"
    )
    assert len(session.seconds(copy.identity)) == 16


def test_a_time_budget_alone_leaves_as_many_rounds_as_fit_and_never_too_few(tmp_path):
    options = BenchOptions(
        **{**SMALL, "rounds": 40, "time_budget": 1e-3, "generations": 2}, out=str(tmp_path)
    )
    content = benchmark(options).content
    assert {len(data) for data in data_of(content).values()} == {LEAST_ROUNDS}
    assert {tuple(entry["extra_info"]["generations"]) for entry in content["benchmarks"]} == {
        (LEAST_ROUNDS // 2, LEAST_ROUNDS // 2)
    }
    assert data_of(benchmark(dataclasses.replace(options, resume=True)).content) == data_of(
        content
    ), "a case that is whole"
