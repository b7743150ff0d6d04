"""Progress of a work of several parts counts once, from its beginning to its end."""

import pytest

from patchparity.bench.progress import part_of

pytest.importorskip("pytest_benchmark")


def test_parts_make_a_whole():
    seen: list[tuple[float, str]] = []

    def whole(done, total, what):
        seen.append((done / total, what))

    first, second = (
        part_of(whole, *ends, name) for *ends, name in ((0, 0.25, "a"), (0.25, 1, "b"))
    )
    first(1, 2, "x")
    second(0, 0, "y")
    second(3, 3, "z")
    assert seen == [(0.125, "a: x"), (0.25, "b: y"), (1.0, "b: z")]
    assert part_of(None, 0, 1, "a") is None


@pytest.mark.anywhere
def test_a_run_counts_to_its_end_once(tmp_path):
    pytest.importorskip("jinja2")
    pytest.importorskip("skimage")
    from patchparity import BenchOptions, run

    seen: list[tuple[float, str]] = []
    options = BenchOptions(
        cases=("vit-ti32-224",),
        backends=("numpy",),
        threads=(1,),
        rounds=6,
        out=str(tmp_path / "report"),
    )
    run(options, progress=lambda done, total, what: seen.append((done / total, what)))
    shares = [share for share, _ in seen]
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert 0.9 < shares[-1] <= 1
    titles = list(dict.fromkeys(what.partition(":")[0] for _, what in seen))
    assert titles == ["check", "verdicts", "bench", "report"]
