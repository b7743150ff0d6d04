"""The fastest implementation of a framework on a problem."""

from typing import Any

from ..record.rows import OPERATIONS
from ..record.schema import Measured


def fastest(benchmarks: list[Measured]) -> dict[tuple[Any, ...], Measured]:
    """The fastest implementation of each backend, by (block, operation, device, precision,
    backend): block by block, operation by operation."""
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
        )
        if key not in best or entry.stats.median < best[key].stats.median:
            best[key] = entry
    return best
