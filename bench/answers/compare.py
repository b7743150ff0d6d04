"""`compare`: two records of one machine, row by row: what became faster or slower, beyond the noise
of both."""

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...reference.errors import PatchParityError
from ..intervals import (
    SMALLEST_DIFFERENCE,
    Ratio,
    by_generation,
    compare_ratios,
    enough,
    resampled_medians,
    unpaired_chance,
)
from ..machine.environment import MACHINE, UNAVAILABLE
from ..machine.hosts import LOCAL
from ..record.noise import Floors, noise_floors, noise_of
from ..record.rows import Block
from ..record.schema import Bench, Measured
from ..record.words import block_title, disturbed_blocks
from ..timing.load import load_bench
from .compare_report import ComparedRow, CompareReport


def compare(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    fail_over: float = 0.05,
    force: bool = False,
) -> CompareReport:
    """Compare two records of one machine.

    Each row's ratio is that of the medians, new over old, with an interval from the samples of
    both. Its noise is the largest of: 1%, the A/A rows of both records, and how far the machine
    itself moved between them, told by the bare matrix products of the same interleaves.

    Args:
        old, new: folders that `bench` or `run` wrote.
        fail_over: how much slower a row may become, as a fraction.
        force: compare records of different machines.

    Raises:
        PatchParityError: a record that cannot be read, records of different machines, or a limit
            that is none.

    Examples:
        >>> import patchparity
        >>> kept = "bench/records/cpu-2-cores-avx2"
        >>> patchparity.compare(kept, kept).ok
        True
    """
    if not 0 <= fail_over < np.inf:
        raise PatchParityError(
            f"fail_over={fail_over}: expected a fraction of at least 0, such as 0.05"
        )
    benches = [load_bench(Path(folder)) for folder in (old, new)]
    tables = [
        {_name(entry): entry for entry in bench.benchmarks if _is_told(entry)} for bench in benches
    ]
    floors = [noise_floors(bench.benchmarks) for bench in benches]
    shifts = _machine_shifts(*(bench.benchmarks for bench in benches))
    common = [name for name in tables[1] if name in tables[0]]
    failed = {
        outcome.row: " ".join(outcome.message.split())
        for outcome in benches[1].failures
        if outcome.row in tables[0]
    }
    if not common and not failed:
        raise PatchParityError(f"{old} and {new} have no row in common: nothing can be compared")
    labels = dict.fromkeys(tables[1][name].extra_info.host for name in common)
    environments = {label: [_environment(bench, label) for bench in benches] for label in labels}
    machine = [
        difference
        for label, pair in environments.items()
        for difference in _differences(pair[0], pair[1], label, MACHINE, ())
    ]
    if machine and not force:
        raise PatchParityError(
            f"{old} and {new} were measured on different machines ({'; '.join(machine)}); --force "
            "compares them all the same"
        )
    ratios = [_ratio(tables[0][name], tables[1][name], floors, shifts) for name in common]
    rows = []
    for name, judged in zip(common, compare_ratios(ratios), strict=True):
        before, after = (table[name].stats.median for table in tables)
        regression = judged.word == "SLOWER" and judged.ratio > 1 + fail_over
        rows.append(ComparedRow(name, before, after, judged, regression))
    logs = [np.log(row.comparison.ratio) for row in rows]
    return CompareReport(
        rows,
        [name for name in tables[0] if name not in tables[1] and name not in failed],
        [name for name in tables[1] if name not in tables[0]],
        float(np.exp(np.mean(logs))) if logs else None,
        [*_of_records(benches), *_of_environments(environments)],
        fail_over,
        failed,
    )


def _of_records(benches: list[Bench]) -> list[str]:
    """What should be known of two records before their differences are believed."""
    sentences = []
    if benches[0] == benches[1]:
        sentences.append(
            "old and new are one and the same record; UNSURE is what another run could differ by"
        )
    named = dict(zip(("old", "new"), benches, strict=True))
    sentences += [
        f"the {which} record is partial: {bench.missing} of {bench.planned} rows are missing"
        for which, bench in named.items()
        if bench.missing
    ]
    sentences += [
        f"the {which} record was disturbed in {block_title(block)}: {disturbance}; measure it "
        "again before a difference is believed"
        for which, bench in named.items()
        for block, disturbance in disturbed_blocks(bench.benchmarks).items()
    ]
    return sentences


def _of_environments(environments: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What differs between the environments of two records, machine by machine."""
    return [
        difference
        for label, pair in environments.items()
        for difference in _differences(pair[0], pair[1], label)
    ]


def _environment(bench: Bench, label: str) -> dict[str, Any]:
    """The environment of a host as plain data; what a system does not tell, or an older record does
    not hold, is left out."""
    here = bench.environment if label == LOCAL else bench.environment.hosts.get(label)
    environment = {} if here is None else msgspec.to_builtins(here)
    return {name: value for name, value in environment.items() if value != UNAVAILABLE}


def _machine_shifts(old: list[Measured], new: list[Measured]) -> dict[Block, float]:
    """How far the machine moved between two records: of each block the median over frameworks of
    its matrix product's ratio, less 1."""
    before = {_name(entry): entry for entry in old if entry.extra_info.operation == "gemm"}
    shifts: dict[Block, list[float]] = {}
    for entry in new:
        if entry.extra_info.operation == "gemm" and (other := before.get(_name(entry))):
            ratio = entry.stats.median / other.stats.median
            shifts.setdefault(entry.extra_info.block, []).append(ratio)
    return {block: abs(float(np.median(ratios)) - 1) for block, ratios in shifts.items()}


def _is_told(entry: Measured) -> bool:
    """The A/A copy is the reference again, and the ceilings are yardsticks: neither can regress."""
    return entry.extra_info.role in ("implementation", "peer")


def _name(entry: Measured) -> str:
    return str(entry.params.identity)


def _ratio(old: Measured, new: Measured, floors: list[Floors], shifts: dict[Block, float]) -> Ratio:
    median = new.stats.median / old.stats.median
    groups = [by_generation(entry.stats.data, entry.extra_info.generations) for entry in (new, old)]
    if not all(map(enough, groups)):
        return Ratio(median, None)
    # The sessions share no rounds, so each is resampled by itself, with draws of its own.
    above, below = (resampled_medians(group, seed) for seed, group in enumerate(groups))
    block = new.extra_info.block
    noises = [noise for floor in floors if (noise := noise_of(floor, new.extra_info)) is not None]
    if len(noises) < len(floors):
        return Ratio(
            median, None, unknown="no A/A row of both records tells of the noise on this device"
        )
    noise = max(*noises, shifts.get(block, SMALLEST_DIFFERENCE))
    return Ratio(median, above / below, noise, least_chance=unpaired_chance(*groups))


def _differences(
    old: dict[str, Any],
    new: dict[str, Any],
    label: str,
    names: tuple[str, ...] = (*MACHINE, "python", "blas", "blas_kernels"),
    kinds: tuple[str, ...] = ("versions", "variables"),
) -> list[str]:
    where = "" if label == LOCAL else f"{label}: "
    known = [name for name in names if name in old and name in new]  # not of an older record
    plain = [(name, old[name], new[name]) for name in known]
    nested = [
        (name, *(environment.get(kind, {}).get(name, "not there") for environment in (old, new)))
        for kind in kinds
        for name in sorted({*old.get(kind, {}), *new.get(kind, {})})
    ]
    return [
        f"{where}{name}: {before} before, {now} now"
        for name, before, now in (*plain, *nested)
        if before != now
    ]
