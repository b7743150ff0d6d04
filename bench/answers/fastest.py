"""The fastest implementation of a framework on a problem."""

from collections.abc import Sequence
from typing import Any

from ..intervals import by_generation, paired_ratio
from ..record.comparisons import stored_as
from ..record.rows import OPERATIONS
from ..record.schema import Measured


def fastest(benchmarks: list[Measured]) -> dict[tuple[Any, ...], Measured]:
    """The fastest implementation of each backend, by (block, operation, device, precision,
    backend, the type that its kernel is stored in): block by block, operation by operation."""
    best: dict[tuple[Any, ...], Measured] = {}
    implementation_entries = [
        entry for entry in benchmarks if entry.extra_info.role == "implementation"
    ]
    blocks = list(dict.fromkeys(entry.extra_info.block for entry in implementation_entries))

    def place(entry: Measured) -> tuple[int, int]:
        return blocks.index(entry.extra_info.block), OPERATIONS.index(entry.extra_info.operation)

    for entry in sorted(implementation_entries, key=place):
        info = entry.extra_info
        key = (
            info.block,
            info.operation,
            info.device,
            info.precision,
            info.backend,
            stored_as(info.implementation),
        )
        if key not in best or entry.stats.median < best[key].stats.median:
            best[key] = entry
    return best


def over_the_fastest(
    members: Sequence[Measured],
) -> list[tuple[float, tuple[float, float] | None]]:
    """The time of each row over that of the first, paired by round, with a 95% interval; of rows
    with other rounds than it the medians' ratio alone.

    Args:
        members: rows of one interleave, the fastest first.
    """
    best = members[0]
    generations = best.extra_info.generations
    base = by_generation(best.stats.data, generations)
    return [
        (entry.stats.median / best.stats.median, None)
        if entry is best or len(entry.stats.data) != len(best.stats.data)
        else paired_ratio(by_generation(entry.stats.data, generations), base)
        for entry in members
    ]
