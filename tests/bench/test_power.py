"""How often the harness calls the same thing different, and how often it finds a planted slowdown of 5%: rates over many repeats."""

import importlib

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions
from patchparity.backends import base
from patchparity.bench.session import BenchSession
from patchparity.bench.statistics import Ratio, compare_ratios, noise_floor, paired_ratio, paired_ratios, resampled_medians

from ..fake_backends import install

REPEATS = 40
OPTIONS = dict(
    cases=("vit-ti16-224-b4",), implementations=("numpy:linear", "steady", "sluggish"), threads=(1,), rounds=32, generations=2
)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    install(tmp_path, "steady", "sluggish")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    base._discovered.cache_clear()
    yield
    base._discovered.cache_clear()


@pytest.mark.full
def test_false_alarms_and_power(installed, capsys):
    """Each repeat starts its own processes. The A/A row gives the noise; the same code under another name, and 5% slower, are judged."""
    words = {"steady": [], "sluggish": []}
    noises, ratios = [], {"steady": [], "sluggish": []}
    for repeat in range(REPEATS):
        session = BenchSession(BenchOptions(**OPTIONS, seed=repeat))
        rows = {row.key: row for row in session.rows}
        assert {session.outcome(row)["status"] for row in session.rows if row.role in ("implementation", "aa")} == {"measured"}
        session.close()

        def seconds(key, rows=rows, session=session):
            samples = sorted(session.samples[rows[key].identity], key=lambda sample: sample["round"])
            return [[s["seconds"] for s in samples if s["generation"] == number] for number in (0, 1)]

        reference = seconds("numpy:linear:eager")
        noise = noise_floor(paired_ratio(seconds("numpy:linear:eager#aa"), reference)[1])
        noises.append(noise)
        pairs = {name: paired_ratios(seconds(f"{name}:linear:eager"), reference) for name in words}
        judged = compare_ratios(
            [Ratio(float(np.median(np.concatenate(pair))), resampled_medians(pair), noise) for pair in pairs.values()]
        )
        for name, found in zip(words, judged, strict=True):
            words[name].append(found.word)
            ratios[name].append(found.ratio)
    told = {name: {word: found.count(word) for word in sorted(set(found))} for name, found in words.items()}
    with capsys.disabled():
        print(f"\n{REPEATS} repeats, noise {100 * np.median(noises):.1f}% (median), {100 * max(noises):.1f}% (most)")
        for name in words:
            low, middle, high = np.quantile(ratios[name], (0.025, 0.5, 0.975))
            print(f"{name}: {told[name]}, ratio {middle:.3f} [{low:.3f}, {high:.3f}]")
    alarms = sum(word in ("FASTER", "SLOWER") for word in words["steady"])
    assert alarms <= 5, "5% of 40 is 2, its standard deviation 1.4"
    assert "FASTER" not in words["sluggish"]
