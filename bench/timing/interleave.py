"""Interleaved rounds over workers: every row of a case visited once a round, in seeded random
order."""

import contextlib
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np

from ..cases import Case
from ..intervals import paired_ratio
from ..machine.disturbance import Disturbance
from ..record.rows import (
    PRODUCTS,
    Row,
    WorkerKey,
    blank_outcome,
    copied_values,
    product_shape,
    row_problem,
)
from ..record.schema import Outcome, Sample
from ..worker.client import Worker, WorkerError, WorkerLostError
from .effort import Effort
from .judging import first_verdict, forget, judged_results
from .too_fast import faster_than_the_machine

Report = Callable[[float, str], None]
"""Called with a fraction of the block that is done, and what comes next."""


def measure_block(
    rows: list[Row],
    case: Case,
    workers: dict[WorkerKey, Worker],
    effort: Effort,
    seed: int,
    on_samples: Callable[[list[Sample]], None],
    restart: Callable[[], None] = lambda: None,
    report: Report = lambda fraction, what: None,
    here: bool = True,
) -> list[Outcome]:
    """Measure all rows of one case, device, dtype and thread count in one interleave.

    Every implementation is loaded, judged (a wrong one is not timed), and then visited once a
    round; a visit is one warm call and one sample. All ratios of a block are therefore paired.

    Args:
        rows: of one block.
        case: the sizes.
        workers: started workers, for every row that has no `skip`.
        effort: how many rounds, in how many generations.
        seed: of the data and of the order.
        on_samples: receives the samples of each round.
        restart: ends the workers and starts them anew, for a new generation.
        report: told of progress.
        here: whether this process, too, computes on the machine of the rows.

    Returns:
        One outcome for each row, without what its block and machine are.
    """
    block = _Block(rows, case, workers, seed, on_samples, here)
    stretches = effort.stretches()
    renewed = effort.generations > 1
    total, done, number, started = sum(stretches), 0, 0, time.monotonic()
    while number < len(stretches):
        if renewed and number:
            restart()
        if renewed or number == 0:
            block.load(_loading(report, _progress(done, total) if done else None))
            began = time.monotonic()
            block.settle()
            if number == 0:
                stretches = effort.fitting(time.monotonic() - began).stretches()
                total = sum(stretches)
        rounds = stretches[number]
        for _ in range(rounds):
            report(_progress(done, total), f"{case.name} round {done + 1} of {total}")
            block.round(done, generation=number if renewed else 0)
            done += 1
        last = done == total or (
            effort.goal is not None
            and effort.enough(block.widest() if block.base() else None, time.monotonic() - started)
        )
        if renewed or last:
            block.finish()
        if last:
            break
        number += 1
    forget()
    outcomes = block.judged_outcomes()
    widest = None if effort.goal is None else block.widest()
    return [outcome.but(widest_interval=widest) for outcome in outcomes]


def _loading(report: Report, reached: float | None) -> Report:
    """What tells how far loading is, as a share of the first part; or, later, what was reached."""

    def report_loading(share: float, what: str) -> None:
        report(LOADING_SHARE * share if reached is None else reached, what)

    return report_loading


def _progress(done: int, total: int) -> float:
    return LOADING_SHARE + (1 - LOADING_SHARE) * done / total


class _Block:
    """The state of one interleave: what became of each row, which ones still take part, and their
    samples."""

    def __init__(
        self,
        rows: list[Row],
        case: Case,
        workers: dict[WorkerKey, Worker],
        seed: int,
        on_samples: Callable[[list[Sample]], None],
        here: bool,
    ) -> None:
        self.rows, self.case, self.workers, self.seed, self.on_samples, self.here = (
            rows,
            case,
            workers,
            seed,
            on_samples,
            here,
        )
        self.outcomes = {row.identity: blank_outcome(row) for row in rows}
        self.seconds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.disturbed = 0
        self.generator = np.random.default_rng([seed, *case.name.encode()])

    @property
    def live(self) -> list[Row]:
        """Rows that take part."""
        return [row for row in self.rows if self.outcomes[row.identity].status == "measured"]

    def load(self, report: Report) -> None:
        """Load every row that takes part, and judge it."""
        live = self.live
        for number, row in enumerate(live):
            report(number / len(live), f"{row.case} loading {row.key}")
            problem = row_problem(row.operation, self.case)
            worker = self.workers[row.worker]
            self._guarded(row, partial(_load, row, problem, worker, self.seed))

    def settle(self) -> None:
        """Visit every row once without a sample: measuring the memory of later rows has given pages
        of earlier ones back to the system."""
        for row in self.live:
            answer = self._guarded(
                row, partial(self.workers[row.worker].request, "visit", row=row.key)
            )
            if answer is not None:
                spent = (self.outcomes[row.identity].visit_seconds or 0.0) + answer["visit_seconds"]
                self._note(row.identity, visit_seconds=spent)

    def round(self, number: int, generation: int) -> None:
        """Visit every row once, in an order of this round's own."""
        samples: list[Sample] = []
        cpu_seconds, live = 0.0, self.live
        watched = {
            device: Disturbance(self._asker(device), self.here)
            for device in dict.fromkeys(row.device for row in live)
        }
        for order, index in enumerate(self.generator.permutation(len(live))):
            row = live[index]
            answer = self._guarded(
                row, partial(self.workers[row.worker].request, "visit", row=row.key)
            )
            if answer is not None:
                cpu_seconds += answer["cpu_seconds"]
                samples.append(
                    Sample(
                        case=row.case,
                        row=row.identity,
                        implementation=row.implementation,
                        role=row.role,
                        round=number,
                        order=order,
                        generation=generation,
                        cache=row.cache,
                        device=row.device,
                        seconds=answer["seconds"],
                        visit_seconds=answer["visit_seconds"],
                    )
                )
                self.seconds[row.identity][generation].append(answer["seconds"])
        sample_fields = {
            device: disturbance.sample_fields(cpu_seconds)
            for device, disturbance in watched.items()
        }
        self.disturbed += any(fields["disturbed"] for fields in sample_fields.values())
        self.on_samples(
            [msgspec.structs.replace(sample, **sample_fields[sample.device]) for sample in samples]
        )

    def _asker(self, device: str) -> Callable[[bool], dict[str, Any] | None]:
        """How the state of a device, and of its machine, is asked for: of any worker that lives
        there."""

        def ask(clock: bool) -> dict[str, Any] | None:
            for row in self.live:
                if row.device == device:
                    # its next visit tells what is wrong with it
                    with contextlib.suppress(WorkerError, WorkerLostError):
                        return self.workers[row.worker].request("state", clock=clock)
            return None

        return ask

    def finish(self) -> None:
        """Take the last words of every row that takes part; what is loaded is gone then."""
        for row in self.live:
            problem = row_problem(row.operation, self.case)
            worker = self.workers[row.worker]
            self._guarded(row, partial(_finish, row, problem, worker, self.seed))

    def base(self) -> dict[str, list[list[float]]]:
        """Samples of the reference implementation, by operation; only of those that it still takes
        part in."""
        references: dict[str, str] = {}  # by operation; that of a GPU comes behind
        for row in self.rows:
            if row.role == "aa":
                references.setdefault(row.operation, row.implementation)
        return {
            row.operation: list(self.seconds[row.identity].values())
            for row in self.live
            if row.role == "implementation" and row.implementation == references.get(row.operation)
        }

    def widest(self) -> float:
        """Half-width of the widest 95% interval of a ratio to the reference; infinite where one
        cannot be told."""
        base = self.base()
        timed = [row for row in self.live if row.role in ("implementation", "peer", "aa")]
        if not base or any(row.operation not in base for row in timed):
            return math.inf
        intervals = [
            paired_ratio(list(self.seconds[row.identity].values()), base[row.operation])[1]
            for row in timed
        ]
        return max(
            (
                math.inf if interval is None else (interval[1] - interval[0]) / 2
                for interval in intervals
            ),
            default=math.inf,
        )

    def _note(self, identity: str, **fields: Any) -> None:
        self.outcomes[identity] = self.outcomes[identity].but(**fields)

    def judged_outcomes(self) -> list[Outcome]:
        """What became of every row; one that is faster than the machine is an error."""
        flat = defaultdict(
            list,
            {
                name: list(itertools.chain(*groups.values()))
                for name, groups in self.seconds.items()
            },
        )
        for identity, message in faster_than_the_machine(
            self.live, self.case, flat, self.disturbed
        ).items():
            self._note(identity, status="error", message=message)
        return list(self.outcomes.values())

    def _guarded(self, row: Row, request: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Do a request and merge a verdict into the outcome; a failure becomes the row's own, and
        costs nobody else."""
        try:
            answer = request()
        except (WorkerError, WorkerLostError) as error:
            self._note(row.identity, status="error", message=str(error))
            return None
        fields = answer.pop("outcome", {})
        spent = (self.outcomes[row.identity].visit_seconds or 0.0) + fields.pop(
            "visit_seconds", 0.0
        )
        self._note(row.identity, **fields, visit_seconds=spent)
        return answer


LOADING_SHARE = 0.3
"""Share of a block's time that loading and judging take, for the progress bar alone."""


def _load(row: Row, case: Case, worker: Worker, seed: int) -> dict[str, Any]:
    spec = case.spec
    cold = row.cache == "cold"
    if row.operation in PRODUCTS:
        rows, depth, columns = product_shape(row.operation, case)
        dtype = "float32" if row.operation == "peak-float32" else row.dtype
        return {
            "outcome": worker.request(
                "load_gemm",
                row=row.key,
                rows=rows,
                depth=depth,
                columns=columns,
                dtype=dtype,
                cold=cold,
            )
        }
    if row.operation == "copy":
        values = copied_values(case, np.dtype(row.dtype).itemsize)
        reason = worker.request(
            "load_copy", row=row.key, values=values, dtype=row.dtype, cold=cold
        )["unavailable"]
        return {"outcome": {"status": "skip", "message": reason} if reason else {}}
    place = dict(
        implementation=row.implementation,
        spec=spec.to_dict(),
        batch=case.batch,
        dtype=row.dtype,
        seed=seed,
        cold=cold,
    )
    answer = worker.request("load", row=row.key, operation=row.timed_operation, **place)
    if answer.get("unavailable"):
        return {"outcome": {"status": "skip", "message": answer["unavailable"]}}
    verdict = first_verdict(row, case, seed, answer)
    field_names = (
        "load_seconds",
        "transfer_seconds",
        "first_call_seconds",
        "trace_seconds",
        "compile_seconds",
        "peak_memory_bytes",
        "visit_seconds",
    )
    return {"outcome": {**{name: answer[name] for name in field_names}, **verdict}}


def _finish(row: Row, case: Case, worker: Worker, seed: int) -> dict[str, Any]:
    """Take a row's last words: threads, and results that must still be right after everything that
    was timed."""
    answer = worker.request("finish", row=row.key)
    results, weights = answer.pop("results", None), answer.pop("weights", None)
    steps = answer.pop("steps", None)
    judged = [] if results is None else judged_results(row, case, seed, results, weights, steps)
    if failed := [verdict for verdict in judged if verdict.verdict == "fail"]:
        answer.update(
            status="fail",
            verdict="fail",
            message=f"right at first, wrong after it was timed: {failed[0].message}",
        )
    return {"outcome": answer}
