"""How often the harness calls the same thing different, and how often it finds a planted slowdown
of 5%: rates over many repeats."""

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions
from patchparity.backends import registry
from patchparity.bench.intervals import (
    Ratio,
    compare_ratios,
    noise_floor,
    paired_ratio,
    paired_ratios,
    resampled_medians,
)
from patchparity.bench.timing.plan import plan
from patchparity.bench.timing.session import BenchSession

from ..fake_backends import install

REPEATS = 40
OPTIONS = dict(
    cases=("vit-b16-224-b1",),
    implementations=("numpy:linear", "steady", "sluggish"),
    threads=(1,),
    rounds=128,
)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    install(tmp_path, "steady", "sluggish")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    registry._discovered.cache_clear()
    yield
    registry._discovered.cache_clear()


@pytest.mark.full
def test_false_alarms_and_power(installed, capsys):
    """Each repeat starts its own processes. The A/A row gives the noise; the same code under
    another name, and 5% slower, are judged."""
    words = {"steady": [], "sluggish": []}
    noises, ratios = [], {"steady": [], "sluggish": []}
    for repeat in range(REPEATS):
        session = BenchSession(plan(BenchOptions(**OPTIONS, seed=repeat)))
        rows = {row.key: row for row in session.rows}
        assert {
            session.outcome(row).status
            for row in session.rows
            if row.role in ("implementation", "aa")
        } == {"measured"}
        session.close()

        def seconds(key, rows=rows, session=session):
            return [session.seconds(rows[key].identity)]

        reference = seconds("numpy:linear:eager")
        noise = noise_floor(paired_ratio(seconds("numpy:linear:eager#aa"), reference)[1])
        noises.append(noise)
        pairs = {name: paired_ratios(seconds(f"{name}:linear:eager"), reference) for name in words}
        judged = compare_ratios(
            [
                Ratio(float(np.median(np.concatenate(pair))), resampled_medians(pair), noise)
                for pair in pairs.values()
            ]
        )
        for name, found in zip(words, judged, strict=True):
            words[name].append(found.word)
            ratios[name].append(found.ratio)
    told = {
        name: {word: found.count(word) for word in sorted(set(found))}
        for name, found in words.items()
    }
    with capsys.disabled():
        print(
            f"\n{REPEATS} repeats, noise {100 * np.median(noises):.1f}% (median), "
            f"{100 * max(noises):.1f}% (most)"
        )
        for name in words:
            low, middle, high = np.quantile(ratios[name], (0.025, 0.5, 0.975))
            print(f"{name}: {told[name]}, ratio {middle:.3f} [{low:.3f}, {high:.3f}]")
    alarms = sum(word in ("FASTER", "SLOWER") for word in words["steady"])
    assert alarms <= 5, "5% of 40 is 2, its standard deviation 1.4"
    assert "FASTER" not in words["sluggish"]


NEIGHBOR = """
import random, time
import numpy as np
matrix = np.ones((600, 600), np.float32)
while True:
    end = time.time() + random.uniform(0.1, 1.5)
    while time.time() < end:
        matrix @ matrix
    time.sleep(random.uniform(0.1, 1.5))
"""
"""Busy for a tenth of a second to one and a half, idle as long, at random: what a shared machine is
like."""

SEQUENTIAL = """
import numpy as np, pytest, patchparity
from patchparity.bench.cases import named_case
case = named_case({case!r})
backend = patchparity.get_backend("numpy")
weights = patchparity.initialize_weights(case.spec, seed=0)
loaded = backend.load(backend.implementation("numpy:linear:eager"), weights, case.spec, "float32", "cpu")
images = loaded.place(np.random.default_rng(0).standard_normal(case.spec.images_shape(case.batch)))

@pytest.mark.parametrize("copy", [0, 1])
def test_the_same(benchmark, copy):
    loaded.call(images)
    benchmark(loaded.call, images)
"""  # noqa: E501
"""The same A/A pair as anyone would time it: one after the other, in one process."""


@pytest.mark.full
@pytest.mark.parametrize("neighbor", [False, True], ids=["idle", "beside a neighbor"])
def test_the_spread_of_the_a_a_ratio_beside_sequential_pytest_benchmark(neighbor, tmp_path, capsys):
    case, repeats = "vit-b16-224-b1", 20
    (tmp_path / "test_sequential.py").write_text(SEQUENTIAL.format(case=case))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    busy = subprocess.Popen([sys.executable, "-c", NEIGHBOR], env=environment) if neighbor else None
    ours, theirs = [], []
    try:
        for repeat in range(repeats):
            session = BenchSession(
                plan(
                    BenchOptions(
                        cases=(case,),
                        implementations=("numpy:linear",),
                        threads=(1,),
                        rounds=128,
                        seed=repeat,
                    )
                )
            )
            copy = next(row for row in session.rows if row.role == "aa")
            assert session.outcome(copy).status == "measured"
            ours.append(session.extra_info(copy)["ratio"])
            session.close()
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "test_sequential.py",
            ]
            subprocess.run(
                [*command, "--benchmark-json", "out.json"],
                cwd=tmp_path,
                env=environment,
                check=True,
                capture_output=True,
            )
            first, second = (
                entry["stats"]["median"]
                for entry in json.loads((tmp_path / "out.json").read_text())["benchmarks"]
            )
            theirs.append(second / first)
    finally:
        if busy:
            busy.kill()
            busy.wait()
    ranges = {}
    with capsys.disabled():
        print(
            f"\n{case}, 1 thread, {'beside a neighbor' if neighbor else 'idle'}, {repeats} repeats:"
        )
        for name, found in (("interleaved", ours), ("sequential pytest-benchmark", theirs)):
            low, high = np.quantile(found, (0.025, 0.975))
            ranges[name] = low, high
            print(
                f"  {name}: A/A ratio {np.median(found):.3f} [{low:.3f}, {high:.3f}], half-width "
                f"{50 * (high - low):.1f}%"
            )
    low, high = ranges["interleaved"]
    assert low <= 1 <= high, (
        "95% of the repeats of the same code lie around 1, or the second process is at a "
        "disadvantage"
    )
