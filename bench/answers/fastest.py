"""The fastest implementation of a framework on a problem."""

from typing import Any

from ..record.rows import OPERATIONS, row_block


def fastest(benchmarks: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The fastest implementation of each backend, by (block, operation, device, precision,
    backend): block by block, operation by operation."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    told = [entry for entry in benchmarks if entry["extra_info"]["role"] == "implementation"]
    blocks = list(dict.fromkeys(row_block(entry["extra_info"]) for entry in told))

    def place(entry: dict[str, Any]) -> tuple[int, int]:
        return blocks.index(row_block(entry["extra_info"])), OPERATIONS.index(
            entry["extra_info"]["operation"]
        )

    for entry in sorted(told, key=place):
        info = entry["extra_info"]
        key = (
            row_block(info),
            info["operation"],
            info["device"],
            info["precision"],
            info["backend"],
        )
        if key not in best or entry["stats"]["median"] < best[key]["stats"]["median"]:
            best[key] = entry
    return best
