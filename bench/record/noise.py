"""Noise floors: how far two processes of one implementation are apart."""

from ..intervals import noise_floor
from .rows import Block
from .schema import Figures, Measured

Floors = dict[tuple[Block, str, str], float]
"""Noise floors by block, operation and device."""


def noise_floors(entries: list[Measured]) -> Floors:
    """Noise floor of each operation of each block on each device, from its A/A row."""
    infos = [entry.extra_info for entry in entries if entry.extra_info.role == "aa"]
    return {
        (info.block, info.operation, info.device): noise_floor(
            (info.ratio_interval[0], info.ratio_interval[1])
        )
        for info in infos
        if info.ratio_interval
    }


def noise_of(floors: Floors, info: Figures) -> float | None:
    """Noise floor of a row; on a GPU that of its tokens stands for all operations, for it has no
    other A/A row. None where none tells."""
    operation = info.operation if info.device == "cpu" else "tokens"
    return floors.get((info.block, operation, info.device))
