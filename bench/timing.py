"""Interleaved rounds over workers: every row of a case visited once a round, in seeded random order."""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.base import get_backend
from ..reference.probes import Probe
from ..reference.verdict import judge
from .cases import Case
from .workers import Worker, WorkerError, WorkerKey, WorkerLostError, timing_probe, unpacked


@dataclass(frozen=True)
class Row:
    """One line of the report before it is measured: what, where, with how many threads.

    Args:
        case: name of the case.
        implementation: `backend:formulation:mode`, or `backend:gemm` for a ceiling.
        device, dtype, precision: as in the results.
        threads: CPU threads asked for.
        operation: `tokens`, or `gemm`.
        role: `implementation`, `ceiling`, or `aa` (the reference implementation again, in a second process).
        skip: why it cannot be measured here, or an empty string.
    """

    case: str
    implementation: str
    device: str
    dtype: str
    precision: str
    threads: int
    operation: str = "tokens"
    role: str = "implementation"
    skip: str = ""

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self.implementation.split(":")[0]

    @property
    def worker(self) -> WorkerKey:
        """The worker that measures it."""
        return WorkerKey(self.backend, self.device, self.threads, self.precision, copy=int(self.role == "aa"))

    @property
    def block(self) -> tuple[str, str, int]:
        """What is measured in one interleave: case, dtype and threads, on all devices."""
        return self.case, self.dtype, self.threads

    @property
    def key(self) -> str:
        """A name that no other row of its worker has."""
        return self.implementation + ("#aa" if self.role == "aa" else "")

    @property
    def identity(self) -> str:
        """A name that no other row of a record has."""
        return "/".join((self.case, self.device, self.dtype, f"t{self.threads}", self.key))


class Disturbance:
    """CPU time that others used, in cores: what the machine was busy with, less what our own processes used."""

    def __init__(self) -> None:
        self._clock_ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        self.begin()

    def _busy_seconds(self) -> float | None:
        try:
            with open("/proc/stat") as file:
                user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
        except (OSError, ValueError):
            return None
        return (user + nice + system + irq + softirq + steal) / self._clock_ticks

    def begin(self) -> None:
        """Start a round."""
        self._started, self._own, self._busy = time.perf_counter(), time.process_time(), self._busy_seconds()

    def cores(self, worker_cpu_seconds: float) -> float | None:
        """Cores that others kept busy since `begin`; None where the system does not tell."""
        busy = self._busy_seconds()
        if busy is None or self._busy is None:
            return None
        ours = worker_cpu_seconds + time.process_time() - self._own
        return max(0.0, (busy - self._busy - ours) / (time.perf_counter() - self._started))


Report = Callable[[float, str], None]
"""Called with a fraction of the block that is done, and what comes next."""


def measure_block(
    rows: list[Row],
    case: Case,
    workers: dict[WorkerKey, Worker],
    rounds: int,
    seed: int,
    on_samples: Callable[[list[dict[str, Any]]], None],
    report: Report = lambda fraction, what: None,
) -> list[dict[str, Any]]:
    """Measure all rows of one case, device, dtype and thread count in one interleave.

    Every implementation is loaded, judged (a wrong one is not timed), and then visited once a round; a visit is one warm call and
    one sample. All ratios of a block are therefore paired.

    Args:
        rows: of one block.
        case: the sizes.
        workers: started workers, for every row that has no `skip`.
        rounds: number of samples a row.
        seed: of the data and of the order.
        on_samples: receives the samples of each round.
        report: told of progress.

    Returns:
        One outcome for each row: its fields, `status` (`measured`, `fail`, `skip` or `error`), `message`, verdict and first-call times.
    """
    outcomes = {row.identity: blank_outcome(row) for row in rows}
    live: list[Row] = []
    for number, row in enumerate(rows):
        report(LOADING_SHARE * number / len(rows), f"{row.case} loading {row.key}")
        if outcomes[row.identity]["status"] == "measured":
            _guarded(outcomes[row.identity], lambda row=row: _load(row, case, workers[row.worker], seed))  # type: ignore[misc]
        if outcomes[row.identity]["status"] == "measured":
            live.append(row)

    generator = np.random.default_rng([seed, *case.name.encode()])
    disturbance = Disturbance()
    for number in range(rounds):
        report(LOADING_SHARE + (1 - LOADING_SHARE) * number / rounds, f"{case.name} round {number + 1} of {rounds}")
        disturbance.begin()
        samples = []
        cpu_seconds = 0.0
        for order, index in enumerate(generator.permutation(len(live))):
            row = live[index]
            answer = _guarded(outcomes[row.identity], lambda row=row: workers[row.worker].request("visit", row=row.key))  # type: ignore[misc]
            if outcomes[row.identity]["status"] == "measured":
                cpu_seconds += answer["cpu_seconds"]
                identity = {"case": row.case, "row": row.identity, "implementation": row.implementation, "role": row.role}
                place = {"round": number, "order": order, "generation": 0, "cache": "warm"}
                samples.append({**identity, **place, "seconds": answer["seconds"]})
        others = disturbance.cores(cpu_seconds)
        on_samples([{**sample, "disturbance": others} for sample in samples])
        live = [row for row in live if outcomes[row.identity]["status"] == "measured"]
    for row in live:
        _guarded(outcomes[row.identity], lambda row=row: _finish(row, case, workers[row.worker], seed))  # type: ignore[misc]
    return list(outcomes.values())


LOADING_SHARE = 0.3
"""Share of a block's time that loading and judging take, for the progress bar alone."""


def blank_outcome(row: Row) -> dict[str, Any]:
    """What is known of a row before it is measured, as a line of `rows.jsonl`."""
    fields: dict[str, Any] = {
        name: getattr(row, name) for name in ("case", "implementation", "backend", "device", "dtype", "precision")
    }
    fields.update(row=row.identity, threads_requested=row.threads, operation=row.operation, role=row.role, cache="warm")
    return {**fields, "status": "skip" if row.skip else "measured", "message": row.skip}


def _guarded(outcome: dict[str, Any], request: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do a request and merge a verdict into the outcome; a failure becomes the row's own, and costs nobody else."""
    if outcome["status"] != "measured":
        return {}
    try:
        answer = request()
    except (WorkerError, WorkerLostError) as error:
        outcome.update(status="error", message=str(error))
        return {}
    outcome.update(answer.pop("outcome", {}))
    return answer


def _load(row: Row, case: Case, worker: Worker, seed: int) -> dict[str, Any]:
    spec = case.spec
    if row.operation == "gemm":
        shape = dict(rows=case.batch * spec.num_patches, depth=spec.patch_values, columns=spec.embed_dim)
        worker.request("load_gemm", row=row.key, dtype=row.dtype, **shape)
        return {}
    place = dict(implementation=row.implementation, spec=spec.to_dict(), batch=case.batch, dtype=row.dtype, seed=seed)
    answer = worker.request("load", row=row.key, **place)
    if answer.get("unavailable"):
        return {"outcome": {"status": "skip", "message": answer["unavailable"]}}
    verdict = _verdict(row, case, seed, answer)
    seconds = {name: answer[name] for name in ("load_seconds", "transfer_seconds", "first_call_seconds")}
    return {"outcome": {**seconds, **verdict}}


def _finish(row: Row, case: Case, worker: Worker, seed: int) -> dict[str, Any]:
    """Take a row's last words: threads, and tokens that must still be right after everything that was timed."""
    answer = worker.request("finish", row=row.key)
    tokens = answer.pop("tokens", None)
    if tokens is not None:
        model = get_backend(row.backend).implementation(row.implementation).arithmetic(row.dtype, row.precision, row.device)  # type: ignore[arg-type]
        judged = judge(_truth(case, row.dtype, seed)[0], "forward", unpacked(tokens), model)
        if judged.verdict == "fail":
            answer.update(status="fail", verdict="fail", message=f"right at first, wrong after it was timed: {judged.message}")
    return {"outcome": answer}


@functools.lru_cache(maxsize=1)
def _truth(case: Case, dtype: str, seed: int) -> tuple[Probe, Probe]:
    """The timed problem and its twin without bias; with their expectations they are made once for all rows of a block."""
    timed, unbiased = (timing_probe(case.spec, case.batch, dtype, seed, zero_bias) for zero_bias in (False, True))
    return timed, unbiased


def _verdict(row: Row, case: Case, seed: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Judge the very configuration that will be timed, on the timed data and on its twin without bias."""
    implementation = get_backend(row.backend).implementation(row.implementation)
    model = implementation.arithmetic(row.dtype, row.precision, row.device)  # type: ignore[arg-type]
    timed, unbiased = _truth(case, row.dtype, seed)
    judged = judge(timed, "forward", unpacked(answer["tokens"]), model)
    fingerprint = judge(unbiased, "forward", unpacked(answer["fingerprint"]), model)
    failed = [verdict for verdict in (judged, fingerprint) if verdict.verdict == "fail"]
    fields = {
        "verdict": "fail" if failed else "pass",
        "bound_ratio": judged.bound_ratio,
        "effective_bits": fingerprint.effective_bits,
    }
    if failed:
        fields.update(status="fail", message=f"not timed, for it is wrong: {failed[0].message}")
    return fields
