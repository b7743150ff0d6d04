"""`recommend`: which implementation to use for a shape on this machine, by how much it beats what
people call today, and how sure that is."""

import os
import tempfile
from pathlib import Path
from typing import Any

from ...backends.registry import get_backend, list_backends, missing_of
from ...reference.errors import PatchParityError
from ..record.comparisons import (
    best_against_today,
    best_overall,
    framework_of,
    stored_as,
)
from ..record.noise import noise_floors, noise_of
from ..record.schema import Bench, Figures, Measured
from ..record.words import disturbed_blocks
from ..timing.benchmark import benchmark
from ..timing.load import load_bench
from ..timing.options import BenchOptions
from .choice import choice_of
from .recommendation import Recommendation, RunnerUp
from .shape_names import case_of_text

OWN_ROUNDS = 24
"""Rounds of a run of its own: enough for a difference of twice the noise to be sure (bench/records
holds the noise of such runs), in one to two minutes."""

OWN_SECONDS = 40.0
"""What those rounds may take."""


def recommend(
    case: str = "vit-b16-224",
    *,
    batch: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    backends: tuple[str, ...] = (),
    peers: tuple[str, ...] = (),
    record: str | os.PathLike[str] | None = None,
) -> Recommendation:
    """Say which implementation to use for a shape on this machine, from a record or from a short
    run of its own.

    Args:
        case: as `case_of_text` reads it.
        batch: instead of the name's own.
        device, dtype: as in `bench`.
        threads: CPU threads; None means all cores, or the most that the record has.
        backends: only the frameworks that these compute with (`keras-torch` with torch), and all
            that is installed on them; none means all.
        peers: somebody's own implementations, `module:attribute`, which count as what is called
            today.
        record: a folder that `bench` or `run` wrote; None for a run of its own, of one to two
            minutes.

    Raises:
        PatchParityError: an unknown shape, one that the record does not hold, and whatever
            `benchmark` refuses.

    Examples:
        >>> import patchparity
        >>> kept = "bench/records/cpu-2-cores-avx2"
        >>> answer = patchparity.recommend("vit_b16", batch=8, backends=("torch",), record=kept)
        >>> answer.choices[0].implementation
        'torch:conv2d:eager'
    """
    wanted = case_of_text(case, batch)
    if threads is not None and threads < 1:
        raise PatchParityError(f"threads={threads}: expected at least 1")
    if record is not None:
        folder_of_record = Path(record).parent if Path(record).is_file() else Path(record)
        return recommend_from(
            load_bench(folder_of_record, wanted.name),
            wanted.name,
            device,
            dtype,
            threads,
            backends,
            f"record {record}",
        )
    with tempfile.TemporaryDirectory() as folder:
        frameworks = {get_backend(name).yardstick for name in backends}
        names = [
            implementation.name
            for backend in list_backends()
            if (backend.yardstick in frameworks or not frameworks) and not missing_of(backend)
            for implementation in backend.implementations
            if device in implementation.devices
            and implementation.pixels == "float"
            and not implementation.costly_compile
            and not implementation.stored
            and not implementation.sharded
        ]
        if not names:
            raise PatchParityError(
                "; ".join(
                    missing_of(get_backend(name)) or f"{name} does not run on {device}"
                    for name in backends
                )
            )
        options = BenchOptions(
            cases=(wanted.name,),
            implementations=tuple(names),
            peers=peers,
            devices=(device,),
            dtypes=(dtype,),
            threads=(threads,) if threads else (),
            rounds=OWN_ROUNDS,
            time_budget=OWN_SECONDS,
            out=folder,
        )
        bench = benchmark(options).bench
    return recommend_from(bench, wanted.name, device, dtype, threads, backends, "a run of its own")


def recommend_from(
    bench: Bench,
    case: str,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    backends: tuple[str, ...] = (),
    source: str = "a record",
) -> Recommendation:
    """Say the same of what a `bench.json` holds.

    Raises:
        PatchParityError: a shape, device, dtype or thread count that it does not hold.
    """
    asked = {get_backend(name).yardstick for name in backends}
    here = _asked_for(bench, case, device, dtype, threads, source)
    timed = [entry for entry in here if entry.extra_info.role != "aa"]
    timed = [entry for entry in timed if not asked or framework_of(entry.extra_info) in asked]
    if not timed:
        raise PatchParityError(
            f"{source} holds no row of {case} on {device} by {', '.join(backends) or 'any backend'}"
        )
    info = timed[0].extra_info
    # Judged is the whole interleave, whatever was asked for: one pair has one verdict, here and in
    # the report.
    interleave = [entry for entry in bench.benchmarks if entry.extra_info.block == info.block]
    rivals = [
        rival
        for rival in best_against_today(interleave)
        if (rival.info.device, rival.info.precision, rival.info.operation)
        == (info.device, info.precision, info.operation)
    ]
    frameworks = list(dict.fromkeys(framework_of(entry.extra_info) for entry in timed))
    choices = [choice_of(framework, timed, rivals, with_code=True) for framework in frameworks]
    choices.sort(key=lambda choice: choice.seconds)
    overall = best_overall(here, frameworks)
    return Recommendation(
        case,
        device,
        dtype,
        info.threads_requested,
        f"{source}, {bench.datetime[:16].replace('T', ' ')} UTC",
        noise_of(noise_floors(interleave), info),
        choices,
        None if overall is None else RunnerUp(*overall),
        _notes(bench, info, backends, asked),
    )


def _asked_for(
    bench: Bench, case: str, device: str, dtype: str, threads: int | None, source: str
) -> list[Measured]:
    """The rows of one shape, device, dtype and thread count, and the A/A rows beside them.

    Raises:
        PatchParityError: what a record does not hold.
    """
    entries = [
        entry
        for entry in bench.benchmarks
        if entry.extra_info.cache == "warm"
        and entry.extra_info.role in ("implementation", "peer", "aa")
        and entry.extra_info.operation == "tokens"
        and not stored_as(entry.extra_info.implementation)
    ]
    of_case = _holding(entries, "case", case, source)
    if device != "cpu":
        _holding(of_case, "device", device, f"{source}, of {case},")
    here = _holding(of_case, "dtype", dtype, f"{source}, of {case},")
    most = max(entry.extra_info.threads_requested for entry in here)
    here = _holding(here, "threads_requested", threads or most, f"{source}, of {case} in {dtype},")
    host = here[0].extra_info.host
    return [
        entry
        for entry in here
        if entry.extra_info.host == host
        and (entry.extra_info.device == device or entry.extra_info.role == "aa")
        and entry.extra_info.precision == "ieee"
    ]


def _notes(bench: Bench, info: Figures, backends: tuple[str, ...], asked: set[str]) -> list[str]:
    """What should be known of an answer: backends that share a framework, and rows that failed."""
    about = (*info.block, info.device, info.operation, info.precision)
    notes = [
        f"{name} computes with {framework}: the answer is for all that was measured on it"
        for name in backends
        if (framework := get_backend(name).yardstick) != name
    ]
    notes += [
        f"{outcome.implementation} failed, and is left out: {outcome.message}"
        for outcome in bench.failures
        if (*outcome.block, outcome.device, outcome.operation, outcome.precision) == about
        and outcome.role in ("implementation", "peer")
        and (not asked or framework_of(outcome) in asked)
    ]
    asked_for = (info.case, info.dtype, info.host)
    others = {
        entry.extra_info.device
        for entry in bench.benchmarks
        if (entry.extra_info.case, entry.extra_info.dtype, entry.extra_info.host) == asked_for
    } - {info.device, "cpu"}
    notes += [f"it was measured on {device} too: --device {device}" for device in sorted(others)]
    notes += [
        f"it was disturbed: {disturbance}; measure it again before it is believed"
        for block, disturbance in disturbed_blocks(bench.benchmarks).items()
        if block == info.block
    ]
    return notes


def _holding(entries: list[Measured], field: str, value: Any, source: str) -> list[Measured]:
    matching_entries = [entry for entry in entries if getattr(entry.extra_info, field) == value]
    if not matching_entries:
        values = dict.fromkeys(getattr(entry.extra_info, field) for entry in entries)
        held = ", ".join(map(str, values)) or "nothing"
        name = field.removesuffix("_requested")
        raise PatchParityError(
            f"{source} holds no {name} {value}; it holds {held} (without a record it is measured)"
        )
    return matching_entries
