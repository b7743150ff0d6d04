"""A small record that several files look at: measured once, and never changed."""

import pytest

from patchparity.bench.timing.benchmark import BenchReport

from .records import SMALL


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> BenchReport:
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("execnet")
    from patchparity import BenchOptions, benchmark

    return benchmark(BenchOptions(**SMALL, out=str(tmp_path_factory.mktemp("bench"))))
