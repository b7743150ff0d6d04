"""Pixels as bytes, checked and timed beside floats."""

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, benchmark, recommend
from patchparity.backends import numpy as numpy_backend
from patchparity.bench.answers import recommend as recommending
from patchparity.bench.check.suite import check_suite

NAMES = ["numpy:linear_uint8:eager", "numpy:naive_uint8:eager"]


def checked(**options):
    report = check_suite(implementations=NAMES, **options)
    return [(row.implementation, row.probe, row.verdict, row.message) for row in report.results]


def test_a_check_judges_whole_numbers_and_says_what_it_leaves_out():
    rows = checked(dtypes=["float32"])
    assert {verdict for *_, verdict, _ in rows} == {"pass", "skip"}
    for name in NAMES:
        probes = {probe for mine, probe, verdict, _ in rows if (mine, verdict) == (name, "pass")}
        assert probes == {
            "identity-kernel",
            "one-hot-images",
            "bounded-integers",
            "swamping",
            "random-bytes",
            "random-bytes-zero-bias",
            "random-bytes-no-bias",
        }
        said = " ".join(text for mine, *_, text in rows if mine == name)
        assert "of which there is no NaN" in said
        assert "padding behind normalization" in said


@pytest.mark.parametrize("depth", [np.uint8, np.uint16, np.float64])
def test_a_picture_is_embedded_where_it_is_of_bytes(depth):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 48, 3)).astype(depth)
    if depth == np.float64:
        pixels = pixels / 255
    rows = checked(dtypes=["float32"], image=pixels, every_case=True)
    verdicts = {verdict for _, probe, verdict, _ in rows if probe == "photograph"}
    assert verdicts == ({"pass"} if depth == np.uint8 else set())
    told = any(f"are {np.dtype(depth)}" in message for *_, message in rows)
    assert told == (depth != np.uint8)


def test_other_statistics_are_a_failure(monkeypatch):
    right = numpy_backend.channel_statistics

    def reversed_statistics(channels, dtype, trailing_axes=0):
        mean, std = right(channels, dtype, trailing_axes)
        return mean[::-1], std

    monkeypatch.setattr(numpy_backend, "channel_statistics", reversed_statistics)
    rows = checked(dtypes=["float32"])
    assert {mine for mine, _, verdict, _ in rows if verdict == "fail"} == {NAMES[1]}


def test_they_are_timed_in_one_interleave_with_floats_and_held_against_their_own_kind(tmp_path):
    bench = benchmark(
        BenchOptions(
            cases=("vit-ti32-224-b2",),
            implementations=("numpy:linear", "numpy:naive", "numpy:naive_uint8"),
            threads=(1,),
            rounds=4,
            out=str(tmp_path),
        )
    ).bench
    timed = {entry.extra_info.implementation: entry.extra_info for entry in bench.benchmarks}
    of_bytes = [timed[name] for name in NAMES]
    assert {info.operation for info in of_bytes} == {"uint8"}
    assert {info.verdict for info in of_bytes} == {"pass"}
    assert all(info.effective_bits > 18 for info in of_bytes)
    assert len({info.block for info in timed.values()}) == 1
    assert timed["numpy:linear:eager"].operation == "tokens"
    pairs = [(pair.row, pair.against) for pair in bench.comparisons]
    assert any("uint8" in row and "uint8" in against for row, against in pairs)
    for row, against in pairs:
        assert row.endswith("#uint8") == against.endswith("#uint8")


def test_nobody_is_recommended_bytes(monkeypatch):
    """Whoever asks has images of floats."""

    def stop(options):
        asked.extend(options.implementations)
        raise InterruptedError

    asked: list[str] = []
    monkeypatch.setattr(recommending, "benchmark", stop)
    with pytest.raises(InterruptedError):
        recommend("vit_b16", batch=1, backends=("numpy",))
    assert "numpy:linear:eager" in asked
    assert not {name for name in asked if "uint8" in name}
