"""The benchmark that pytest-benchmark shows: samples measured in isolated, interleaved workers,
handed over by a replay clock."""

from collections.abc import Iterator

import msgspec
import pytest

from patchparity.bench.timing.session import BenchSession


class ReplayClock:
    """A timer that replays samples: reads 0 when a call begins, and the sample's seconds when it
    ends, to the last bit."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Read the clock; reading sets it back to 0."""
        reading, self.now = self.now, 0.0
        return reading

    def advance(self, samples: Iterator[float]) -> None:
        """Stand in for the call that was measured elsewhere."""
        self.now = next(samples)


CLOCK = ReplayClock()


@pytest.mark.benchmark(timer=CLOCK)
def test_patch_embed(
    identity: str, bench_session: BenchSession, request: pytest.FixtureRequest
) -> None:
    """One row: right, and so timed; or skipped or failed, and why."""
    row = bench_session.by_identity[identity]
    outcome = bench_session.outcome(row)
    if outcome.status == "skip":
        pytest.skip(outcome.message)
    assert outcome.status == "measured", outcome.message
    samples = bench_session.seconds(row.identity)
    benchmark = request.getfixturevalue("benchmark")
    benchmark.group = "/".join(map(str, row.block))
    benchmark.extra_info.update(msgspec.structs.asdict(bench_session.figures(row)))
    benchmark.pedantic(CLOCK.advance, args=(iter(samples),), rounds=len(samples))
