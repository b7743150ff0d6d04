"""Implementations that compute with integers of 8 bits, on the clock: judged by the steps that they
chose, and no choice among those that compute as they were asked to."""

import msgspec
import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("onnxruntime")

from patchparity import BenchOptions, benchmark
from patchparity.bench.answers.fastest import fastest
from patchparity.bench.cases import named_case
from patchparity.bench.record.comparisons import best_against_others, best_overall
from patchparity.bench.record.rows import Row
from patchparity.bench.timing.judging import first_verdict
from patchparity.bench.worker.server import Server, _packed, unpacked

FLOATS, INTEGERS, DYNAMIC = (
    f"onnxruntime:{name}:graph" for name in ("conv2d", "conv2d_int8", "conv2d_int8_dynamic")
)
CASE = "vit-ti32-224-b2"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    options = BenchOptions(
        cases=(CASE,),
        implementations=(FLOATS, INTEGERS, DYNAMIC),
        operations=("tokens", "sequence"),
        threads=(1,),
        rounds=4,
        out=str(tmp_path_factory.mktemp("record")),
    )
    return benchmark(options).bench


def test_they_are_timed_with_a_verdict_within_the_bound_of_their_steps(bench):
    timed = {
        (entry.extra_info.implementation, entry.extra_info.operation): entry.extra_info
        for entry in bench.benchmarks
    }
    assert timed[FLOATS, "tokens"].effective_bits > 18
    for name in (INTEGERS, DYNAMIC):
        info = timed[name, "tokens"]
        assert info.verdict == "pass"
        # of 8 bits half a step is lost of a kernel and of pixels, and what sums take together
        assert 4 < info.effective_bits < 9
        assert info.bound_ratio <= 1
        assert (name, "one-patch") in timed
        assert (name, "sequence") not in timed
    skipped = {
        row.implementation: row.message for row in bench.skipped if row.operation == "sequence"
    }
    assert skipped[INTEGERS] == f"{INTEGERS} has the projection alone as integers"


@pytest.mark.parametrize("name", [INTEGERS, DYNAMIC])
def test_a_wrong_one_is_caught(name):
    """And a right one, where nothing tells its steps: it is none of floats."""
    case = named_case(CASE)
    server = Server()
    assert server.start("onnxruntime", "cpu", "ieee")["unavailable"] is None
    answer = server.load("row", name, case.spec.to_dict(), case.batch, "float32", 0)
    row = Row(case.name, name, "cpu", "float32", "ieee", 1)
    assert first_verdict(row, case, 0, answer)["verdict"] == "pass"
    tokens = unpacked(answer["results"]["forward"])
    rolled = {"forward": _packed(np.roll(tokens, 1, axis=1))}
    assert first_verdict(row, case, 0, {**answer, "results": rolled})["status"] == "fail"
    floats = first_verdict(row, case, 0, {**answer, "steps": None, "steps_of_twin": None})
    assert floats["status"] == "fail"


def test_they_are_no_choice_among_floats_however_fast(bench):
    entries = []
    for entry in bench.benchmarks:
        if entry.extra_info.implementation in (INTEGERS, DYNAMIC):
            seconds = [0.01 * second for second in entry.stats.data]
            stats = msgspec.structs.replace(
                entry.stats, data=seconds, median=float(np.median(seconds))
            )
            entry = msgspec.structs.replace(entry, stats=stats)
        entries.append(entry)
    best = [entry.extra_info.implementation for entry in fastest(entries).values()]
    assert FLOATS in best
    assert len([name for name in best if name in (INTEGERS, DYNAMIC)]) == 1
    for pair in best_against_others(entries):
        narrow = [name in (INTEGERS, DYNAMIC) for name in (pair.row, pair.against)]
        assert narrow[0] == narrow[1]
    overall = best_overall(entries, {"numpy", "onnxruntime"})
    assert not {INTEGERS, DYNAMIC} & set(overall[:2])
