"""Correct implementations are never rejected: 200 seeds of every probe in every dtype, every
implementation that is installed."""

import pytest

from patchparity import check, list_backends
from patchparity.backends.base import DTYPES
from patchparity.bench.check.tables import false_alarms

SEEDS = 200


@pytest.mark.full
@pytest.mark.parametrize(
    "backend", [backend.name for backend in list_backends() if not backend.missing()]
)
def test_no_seed_raises_a_false_alarm(backend, capsys):
    report = check(backends=[backend], seeds=SEEDS)
    assert [
        result.message for result in report.results if result.verdict in ("fail", "error")
    ] == []
    judged = [result for result in report.results if result.seeds and result.verdict == "pass"]
    assert {result.seeds for result in judged} == {SEEDS}
    assert {result.dtype for result in judged} <= set(DTYPES)
    with capsys.disabled():
        print(f"\n{backend}: {false_alarms(report.results)}")
