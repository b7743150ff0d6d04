"""What is derived from the record: throughput, fractions of the GEMM, ratios. One definition for
table, JSON, CSV and page."""

import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...backends.registry import get_backend
from ..cases import Case
from ..intervals import by_generation, paired_ratio
from .rows import OPERATIONS, products, row_problem, row_work
from .schema import COPIED, Figures, Outcome, Sample

Limit = Literal["compute", "bandwidth", "dispatch"]


def figures_of(
    outcome: Outcome,
    block: list[Outcome],
    seconds: dict[str, list[float]],
    case: Case,
    rounds: list[Sample],
    generations: list[int],
) -> Figures:
    """The figures of a measured row: its outcome, and what follows from its samples and those of
    its block.

    Args:
        outcome: the row.
        block: all rows of its interleave.
        seconds: samples of the block's measured rows, by row, in the order of the rounds.
        case: the sizes.
        rounds: the row's samples, with what was noted of their rounds.
        generations: how many rounds each generation of workers had.
    """
    row_seconds = seconds[outcome.row]
    median = statistics.median(row_seconds)
    backend, formulation, *rest = outcome.implementation.split(":")
    itemsize = np.dtype(outcome.dtype).itemsize
    operations, least_bytes = row_work(
        outcome.operation, row_problem(outcome.operation, case), itemsize
    )
    here = [row for row in block if row.row in seconds and row.device == outcome.device]
    # What computes something else (a square, a copy, one patch) is not compared with the case's
    # products, nor with its reference.
    comparable = outcome.operation in (*OPERATIONS, "gemm")
    here = [row for row in here if row.precision == outcome.precision or row.operation == "copy"]
    gemms = [row for row in here if row.operation == "gemm" and comparable]
    fastest_gemm = min(gemms, key=lambda row: statistics.median(seconds[row.row]), default=None)
    own_gemm = next((row for row in gemms if row.backend == get_backend(backend).yardstick), None)
    ratio, interval = (
        _ratio_to_reference(outcome, block, seconds, generations) if comparable else (None, None)
    )
    roof, roof_fraction = _roof(outcome, here, row_seconds, seconds, case)
    return Figures(
        **{name: getattr(outcome, name) for name in COPIED},
        formulation=formulation,
        mode=rest[0] if rest else None,
        batch=case.batch,
        gflops=operations / median / 1e9 if operations else None,
        gigabytes_per_second=least_bytes / median / 1e9,
        gemm_fraction=_fraction(fastest_gemm, row_seconds, seconds, products(outcome.operation)),
        own_gemm_fraction=_fraction(own_gemm, row_seconds, seconds, products(outcome.operation)),
        roof=roof,
        roof_fraction=roof_fraction,
        ratio=ratio,
        ratio_interval=None if interval is None else list(interval),
        precision_goal=outcome.effort.get("goal"),
        generations=generations,
        disturbed_rounds=sum(sample.disturbed for sample in rounds),
        disturbance=_typical([sample.disturbance for sample in rounds]),
        steal=_typical([sample.steal for sample in rounds]),
        clock_mhz=_typical([sample.clock_mhz for sample in rounds]),
    )


def _ratio_to_reference(
    outcome: Outcome, block: list[Outcome], seconds: dict[str, list[float]], generations: list[int]
) -> tuple[float | None, tuple[float, float] | None]:
    """A row's time over that of the reference implementation at the same operation (a product's:
    over its tokens), and the interval."""
    row_seconds = seconds[outcome.row]
    wanted = "tokens" if outcome.operation == "gemm" else outcome.operation
    # An A/A copy is held against its own twin, on a GPU too.
    twins = (
        [outcome]
        if outcome.role == "aa"
        else [row for row in block if row.role == "aa" and row.device == "cpu"]
    )
    names = {(row.implementation, row.device) for row in twins}
    for row in block:
        is_reference = (row.implementation, row.device) in names and (row.role, row.operation) == (
            "implementation",
            wanted,
        )
        if is_reference and len(reference := seconds.get(row.row, [])) == len(row_seconds):
            return paired_ratio(
                by_generation(row_seconds, generations), by_generation(reference, generations)
            )
    return None, None


def _typical(values: Sequence[float | None]) -> float | None:
    """Median over the rounds in which something was told."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _fraction(
    gemm: Outcome | None, row_seconds: list[float], seconds: dict[str, list[float]], count: int
) -> float | None:
    """Median over rounds of the GEMM's seconds, `count` times, over the row's: 1 where the row is
    as fast as its bare matrix products."""
    if gemm is None or len(seconds[gemm.row]) != len(row_seconds):
        return None
    return float(np.median(count * np.asarray(seconds[gemm.row]) / np.asarray(row_seconds)))


def _roof(
    outcome: Outcome,
    here: list[Outcome],
    row_seconds: list[float],
    seconds: dict[str, list[float]],
    case: Case,
) -> tuple[Limit | None, float | None]:
    """How far a row is from the machine's limit, round by round: the longest of three times that
    nothing can undercut.

    Computing: the fastest same-shape matrix product, as often as the operation contains one.
    Moving: the least bytes at the rate of the fastest copy of about as many. Calling: the row's own
    implementation on one patch. `roof` names the one that decides in the median round.
    """
    if outcome.operation not in OPERATIONS:
        return None, None
    rounds = len(row_seconds)
    gemms = [
        seconds[row.row]
        for row in here
        if row.operation == "gemm" and len(seconds[row.row]) == rounds
    ]
    copies = [
        seconds[row.row]
        for row in here
        if row.operation == "copy" and len(seconds[row.row]) == rounds
    ]
    calls = [
        seconds[row.row]
        for row in here
        if row.operation == "one-patch"
        and row.implementation == outcome.implementation
        and len(seconds[row.row]) == rounds
    ]
    if not gemms or not copies or not calls:
        return None, None
    itemsize = np.dtype(outcome.dtype).itemsize
    share = row_work(outcome.operation, case, itemsize)[1] / row_work("copy", case, itemsize)[1]
    # The same operations at the rate of a float32 product, where that is faster than any of the
    # row's own 16-bit type.
    wide = [
        seconds[row.row]
        for row in here
        if row.operation == "peak-float32" and len(seconds[row.row]) == rounds
    ]
    scale = row_work("gemm", case, itemsize)[0] / row_work("peak-float32", case, itemsize)[0]
    computing = [np.array(durations) for durations in gemms] + [
        scale * np.array(durations) for durations in wide
    ]
    limits: dict[Limit, NDArray[np.float64]] = {
        "compute": products(outcome.operation) * min(computing, key=np.median),
        "bandwidth": share * np.array(min(copies, key=statistics.median)),
        "dispatch": np.array(calls[0]),
    }
    name = max(limits, key=lambda limit: float(np.median(limits[limit])))
    highest = np.max(list(limits.values()), axis=0)
    return name, float(np.median(highest / np.array(row_seconds)))
