"""Rows, blocks and ratios in words, the same in every table."""

from collections.abc import Sequence

from ..machine.disturbance import DISTURBED_CORES
from ..machine.hosts import LOCAL
from .rows import Block
from .schema import Figures, Measured, Unmeasured


def disturbed_blocks(benchmarks: list[Measured]) -> dict[Block, str]:
    """Interleaves that a neighbor disturbed in the median round: how many cores it kept busy, and
    in how many rounds, in words."""
    disturbances: dict[Block, tuple[float, str]] = {}
    for entry in benchmarks:
        info = entry.extra_info
        cores = info.disturbance or 0.0
        if cores > max(DISTURBED_CORES, disturbances.get(info.block, (0.0, ""))[0]):
            sentence = (
                f"others kept {cores:.1f} cores busy, {info.disturbed_rounds} of "
                f"{entry.stats.rounds} rounds were disturbed"
            )
            disturbances[info.block] = cores, sentence
    return {block: sentence for block, (_, sentence) in disturbances.items()}


def missed_goals(benchmarks: list[Measured]) -> dict[Block, str]:
    """Interleaves that ended before their precision goal was reached, and how far they came, in
    words."""
    sentences: dict[Block, str] = {}
    for entry in benchmarks:
        info = entry.extra_info
        goal, widest = info.precision_goal, info.widest_interval
        if goal is not None and (widest is None or widest > goal):
            reached = "not known yet" if widest is None else f"known to ±{100 * widest:.2g}%"
            sentences[info.block] = (
                f"after {entry.stats.rounds} rounds the ratios to the reference are "
                f"{reached}, and ±{100 * goal:g}% was the goal"
            )
    return sentences


OPERATION_NOTES = {"sequence": ", sequence", "train-step": ", train step", "uint8": ", bytes"}
"""What is added to a name where the operation is not the tokens."""


def block_title(block: Block) -> str:
    """A block as titles have it."""
    case, dtype, threads, cache, host = block
    where = "" if host == LOCAL else f" on {host}"
    return f"{case}{where}, {dtype}, {threads} thread{'s' if threads > 1 else ''}" + (
        ", cold cache" if cache == "cold" else ""
    )


def place_text(info: Figures | Unmeasured) -> str:
    """The device, and the precision where it is not what float32 is by itself."""
    return str(info.device) + ("" if info.precision == "ieee" else f" {info.precision}")


def ratio_text(ratio: float, interval: Sequence[float] | None) -> str:
    """A ratio with its interval, as tables show it: two decimals, of a small one (a GPU's to the
    CPU) two digits; no interval where rounds were too few."""
    estimate, *ends = (
        f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"
        for number in (ratio, *(interval or ()))
    )
    return f"{estimate} [{', '.join(ends)}]" if ends else estimate


def rate_text(gigaflops: float) -> str:
    """A rate in GFLOP/s, as tables show it: a tenth of a thousand is more than any timing
    resolves."""
    return f"{gigaflops:.1f}" if gigaflops < 1000 else f"{gigaflops:.0f}"
