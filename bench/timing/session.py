"""The state of one benchmark: workers, started when first needed, and the record that every
finished block is written to."""

import dataclasses
import os
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from ... import __version__
from ...backends.registry import get_backend
from ...reference.errors import PatchParityError
from ..cases import Case, named_case
from ..machine.environment import (
    UNKNOWN_ENVIRONMENT,
    describe_environment,
    machine_fingerprint,
    usable_cores,
)
from ..machine.hosts import LOCAL
from ..record.figures import figures_of
from ..record.folder import output_folder
from ..record.record import Record, with_versions_of
from ..record.rows import Block, Row, WorkerKey, blank_outcome
from ..record.schema import Figures, Outcome, Sample, line_of
from ..record.words import block_title
from ..worker.client import Worker, WorkerError, WorkerLostError, worker_environment
from .effort import LEAST_ROUNDS
from .fleet import Fleet, job_of
from .interleave import measure_block
from .plan import Plan
from .resume import RecordedBlock, recorded_blocks

Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class _Start:
    """How the start of a worker went: both empty if well; a reason to skip its rows; or what went
    wrong."""

    skip: str = ""
    failure: str = ""


class BenchSession:
    """The state of one run: workers, started when first needed, and the record that every finished
    block is written to."""

    def __init__(self, laid_out: Plan, progress: Progress | None = None) -> None:
        options = laid_out.options
        self.plan, self.options, self.effort = laid_out, options, options.effort()
        self.interpreters, self.hosts = laid_out.interpreters, laid_out.hosts
        self.record = Record(output_folder(options.out)) if options.out else None
        self.progress = progress
        self.started, self.visit_seconds = time.monotonic(), 0.0
        self.environments = self._environments()
        self.outcomes: dict[str, Outcome] = {}
        self.measured_anew: list[Block] = []
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self.rows = self._planned()
        self._seconds_of_block: tuple[Block, dict[str, list[float]]] | None = None
        self._blocks: dict[Block, list[Row]] = defaultdict(list)
        for row in self.rows:
            self._blocks[row.block].append(row)
        self.by_identity = {row.identity: row for row in self.rows}
        if self.record and not self.options.replay:
            self.record.keep_plan(**self.about())
        self.cases: dict[str, Case] = {
            name: named_case(name) for name in dict.fromkeys(row.case for row in self.rows)
        }
        self._workers: dict[WorkerKey, Worker] = {}
        self._fleet: Fleet | None = None
        self._unavailable: dict[WorkerKey, str] = {}
        self._versions: dict[WorkerKey, dict[str, str]] = {}
        self._broken: dict[Block, Exception] = {}

    def _planned(self) -> list[Row]:
        """Lay out the rows: what the record holds and may be kept first, then the plan.

        A block is kept whole or measured anew whole, with the rows that the record holds beside
        those asked for, so that no ratio ever pairs samples of two attempts.
        """
        blocks: dict[Block, list[Row]] = defaultdict(list)
        for row in self.plan.rows:
            blocks[row.block].append(row)
        if self.record is None or not (self.options.resume or self.options.replay):
            return [row for rows in blocks.values() for row in rows]
        kept: list[Row] = []
        for key, recorded in recorded_blocks(self.record).items():
            planned = blocks.get(key, [])
            finished = recorded.complete if self.options.replay else recorded.whole
            if self.options.resume:
                self._require_machine(key, recorded, finished)
            if recorded.answers(
                planned, self.options.effort(key[0], key[1]), self.options.seed
            ) or (not planned and finished):
                self.outcomes.update(recorded.outcomes)
                self.samples.update(recorded.samples)
                kept += recorded.rows
                blocks.pop(key, None)
            elif not self.options.replay:
                self.measured_anew.append(key)
                blocks[key] = list(
                    {row.identity: row for row in (*recorded.rows, *planned)}.values()
                )
        return kept + [row for rows in blocks.values() for row in rows]

    def _require_machine(self, key: Block, recorded: RecordedBlock, finished: bool) -> None:
        """Raise PatchParityError where going on would mix two machines, or two versions, or needs a
        machine that does not take part."""
        *_, label = key
        folder, which = self.options.out, "this machine" if label == LOCAL else f"--host {label}"
        if label not in self.environments:
            if not finished:
                raise PatchParityError(
                    f"{folder} holds an unfinished case of {label}: name that --host again, or "
                    "begin a new folder"
                )
            return
        if recorded.machine != machine_fingerprint(self.environments[label]):
            raise PatchParityError(
                f"what {folder} holds of {label} was measured on another machine than {which}: "
                "begin a new folder"
            )
        for outcome in recorded.outcomes.values() if label == LOCAL else ():
            if outcome.backend in self.interpreters or not outcome.versions:
                continue  # what another interpreter has, its worker tells
            now = {**get_backend(outcome.backend).versions(), "patchparity": __version__}
            for name, then in outcome.versions.items():
                if now.get(name) != then:
                    here = f"{name} {now[name]}" if name in now else f"no {name}"
                    raise PatchParityError(
                        f"{folder} holds times of {name} {then}, and here is {here} now: begin a "
                        "new folder"
                    )

    def block_rows(self, row: Row) -> list[Row]:
        """All rows that are measured together with one."""
        return self._blocks[row.block]

    def outcome(self, row: Row) -> Outcome:
        """Return what became of a row, measuring its block if that has not been done."""
        if row.block in self._broken:
            raise self._broken[row.block]
        if row.identity not in self.outcomes:
            try:
                self._measure(self.block_rows(row))
            except Exception as error:
                # A full disk, say: tell it of every row of the block, and measure none again.
                self._broken[row.block] = error
                raise
        return self.outcomes[row.identity]

    def seconds(self, row_identity: str) -> list[float]:
        """The samples of a row, in the order of the rounds."""
        return [
            sample.seconds
            for sample in sorted(self.samples[row_identity], key=lambda sample: sample.round)
        ]

    def forget(self, rows: list[Row]) -> None:
        """Let the samples of rows go whose figures are made."""
        self._seconds_of_block = None
        for row in rows:
            self.samples.pop(row.identity, None)

    def _block_seconds(self, block: Block) -> dict[str, list[float]]:
        """The samples of all rows of an interleave, by identity; kept for its next row."""
        if self._seconds_of_block is None or self._seconds_of_block[0] != block:
            identities = [row.identity for row in self._blocks[block]]
            seconds = {name: self.seconds(name) for name in identities if self.samples[name]}
            self._seconds_of_block = block, seconds
        return self._seconds_of_block[1]

    def figures(self, row: Row) -> Figures:
        """What follows from the samples of a measured row."""
        return figures_of(
            self.outcomes[row.identity],
            [self.outcomes[other.identity] for other in self.block_rows(row)],
            self._block_seconds(row.block),
            self.cases[row.case],
            self.samples[row.identity],
            list(Counter(sample.generation for sample in self.samples[row.identity]).values()),
        )

    def _measure(self, rows: list[Row]) -> None:
        if self.hosts[rows[0].host].ray:
            self._await_nodes(rows)
            return
        attempt, effort = uuid.uuid4().hex[:12], self.options.effort(rows[0].case, rows[0].dtype)

        def keep(samples: list[Sample]) -> None:
            lines = [msgspec.structs.replace(sample, attempt=attempt) for sample in samples]
            if self.record:
                self.record.append_samples(lines)
            self.visit_seconds += sum(line.visit_seconds for line in lines)
            for line in lines:
                self.samples[line.row].append(line)

        self._seconds_of_block = None
        for row in rows:
            self.samples[row.identity].clear()
        reasons = self._start(dict.fromkeys(row.worker for row in rows if not row.skip))
        ready = [
            dataclasses.replace(row, skip=row.skip or reasons[row.worker].skip) for row in rows
        ]
        failed = {
            row.identity: reasons[row.worker].failure
            for row in rows
            if not row.skip and reasons[row.worker].failure
        }
        able = [row for row in ready if row.identity not in failed]
        outcomes = measure_block(
            able,
            self.cases[rows[0].case],
            self._workers,
            effort,
            self.options.seed,
            keep,
            lambda: self._restart({row.worker for row in able if not row.skip}),
            self._report(rows),
            here=not self.hosts[rows[0].host].ssh,
        )
        outcomes += [
            blank_outcome(row).but(status="error", message=failed[row.identity])
            for row in rows
            if row.identity in failed
        ]
        rounds = max((len(self.samples[row.identity]) for row in rows), default=0)
        about = self._about_block(rows, attempt, rounds)
        skipped = {row.identity for row in rows if row.skip}
        self.visit_seconds += sum(outcome.visit_seconds or 0.0 for outcome in outcomes)
        versions = {row.identity: self._versions.get(row.worker, {}) for row in rows}
        for outcome in outcomes:
            planned_skip = outcome.row in skipped
            self.outcomes[outcome.row] = outcome.but(
                **about, versions=versions[outcome.row], planned_skip=planned_skip
            )
        self._keep_rows(rows)

    def _about_block(self, rows: list[Row], attempt: str, rounds: int) -> dict[str, Any]:
        """What every outcome of a block tells of it."""
        effort = self.options.effort(rows[0].case, rows[0].dtype)
        return {
            "attempt": attempt,
            "rounds": rounds,
            "effort": dataclasses.asdict(effort),
            "seed": self.options.seed,
            "rows_of_block": len(rows),
            "machine": machine_fingerprint(self.environments[rows[0].host]),
        }

    def _keep_rows(self, rows: list[Row]) -> None:
        """Write what became of the rows of a block into the record."""
        if self.record:
            environment = self.environments[rows[0].host]
            self.record.keep_machines({machine_fingerprint(environment): environment})
            self.record.append_rows([self.outcomes[row.identity] for row in rows])

    def _await_nodes(self, rows: list[Row]) -> None:
        """Wait until a block of a node of a Ray cluster has ended there.

        All nodes measure at the same time, from the first time that one is waited for; what ends
        meanwhile on the others is kept as it comes.
        """
        if self._fleet is None:
            waiting = defaultdict(list)
            for row in self.rows:
                host = self.hosts.get(row.host)
                if host and host.ray and row.identity not in self.outcomes:
                    waiting[host].append(row)
            self._fleet = Fleet(
                {
                    host: job_of(self.options, host.label, theirs, self.plan.machines[host.label])
                    for host, theirs in waiting.items()
                }
            )
        while rows[0].identity not in self.outcomes:
            for label, news in self._fleet.news().items():
                if "outcomes" in news:
                    self._keep_block(
                        msgspec.convert(news["outcomes"], list[Outcome]),
                        msgspec.convert(news["samples"], list[Sample]),
                    )
                elif "end" in news:
                    self._lose_node(label, news["end"])
                elif news["progress"]:
                    self._tell(label, *news["progress"])

    def _keep_block(self, outcomes: list[Outcome], samples: list[Sample]) -> None:
        """Keep what a node measured: its samples, then what became of its rows."""
        for outcome in outcomes:
            self.samples[outcome.row].clear()
        for sample in samples:
            self.samples[sample.row].append(sample)
        if self.record:
            self.record.append_samples(samples)
        self.visit_seconds += sum(sample.visit_seconds for sample in samples)
        self.visit_seconds += sum(outcome.visit_seconds or 0.0 for outcome in outcomes)
        self.outcomes.update({outcome.row: outcome for outcome in outcomes})
        self._keep_rows([self.by_identity[outcome.row] for outcome in outcomes])

    def _lose_node(self, label: str, why: str) -> None:
        """Rows of a node that are not measured yet, and will not be, are errors."""
        for block, rows in self._blocks.items():
            if block[-1] != label or rows[0].identity in self.outcomes:
                continue
            about = self._about_block(rows, uuid.uuid4().hex[:12], 0)
            for row in rows:
                self.samples[row.identity].clear()
                error = {} if row.skip else {"status": "error", "message": why}
                self.outcomes[row.identity] = blank_outcome(row).but(
                    **about, **error, planned_skip=bool(row.skip)
                )
            self._keep_rows(rows)

    def _tell(self, label: str, done: float, total: float, what: str) -> None:
        """Tell how far the run is by the word of one node, which stands for the others that measure
        beside it."""
        if self.progress and total:
            on_nodes = [row for row in self.rows if row.host in self.hosts]
            on_nodes = [row for row in on_nodes if self.hosts[row.host].ray]
            asked = {row.identity for row in on_nodes}
            behind = sum(identity not in asked for identity in self.outcomes)
            reached = behind + len(on_nodes) * done / total
            self.progress(reached, len(self.rows), f"{label}: {what}")

    def _worker(self, key: WorkerKey, turn: int) -> Worker:
        python = self.interpreters.get(key.backend, sys.executable)
        variables = {}
        if self.options.peers and key.host == LOCAL:  # they are imported as they would be from here
            variables["PYTHONPATH"] = os.pathsep.join(
                filter(None, (os.environ.get("PYTHONPATH", ""), os.getcwd()))
            )
        return Worker(
            key,
            self.options.call_seconds,
            python,
            self.hosts[key.host],
            turn=turn,
            variables=variables,
        )

    def _restart(self, keys: set[WorkerKey]) -> None:
        """End workers and start them anew, as they were; one that does not come up again raises at
        its next request."""
        for key in keys:
            self._workers[key].end()
            self._workers[
                key
            ].lost = "it was ended for a new generation, and could not be started again"
        self._start(keys)

    def _start(self, keys: Iterable[WorkerKey]) -> dict[WorkerKey, "_Start"]:
        """Start those workers that do not run already, as many at once as there are cores, for they
        only import.

        One that was lost cost the rows of its own block; the next block gets a new one.
        """
        starts = {key: _Start(skip=self._unavailable.get(key, "")) for key in keys}
        fresh = [
            key
            for key in starts
            if key not in self._unavailable
            and (key not in self._workers or self._workers[key].lost)
        ]
        launched: dict[WorkerKey, Future[_Start]] = {}
        with ThreadPoolExecutor(usable_cores()) as pool:
            try:
                for turn, key in enumerate(fresh):  # the first import while the others are launched
                    try:
                        self._workers[key] = self._worker(key, turn)
                    except WorkerLostError as error:
                        starts[key] = _Start(failure=str(error))
                    else:
                        launched[key] = pool.submit(self._first_words, key)
                starts.update({key: words.result() for key, words in launched.items()})
            except (
                BaseException
            ):  # Ctrl-C, while a framework takes its time to be imported: the threads wait for it
                for key in launched:
                    self._workers[key].lose("it was interrupted")
                raise
        return starts

    def _first_words(self, key: WorkerKey) -> "_Start":
        try:
            loaded = [
                row.implementation
                for row in self.rows
                if row.worker == key and row.role != "ceiling" and not row.skip
            ]
            answer = self._workers[key].start(list(dict.fromkeys(loaded)))
            reason = answer["unavailable"]
            self._versions[key] = {**answer["versions"], "patchparity": __version__}
        except (WorkerLostError, WorkerError) as error:
            return _Start(failure=str(error))
        if reason:
            self._unavailable[key] = reason
        return _Start(skip=reason or "")

    def _report(self, rows: list[Row]) -> Callable[[float, str], None]:
        """Turn the progress of one block into that of the run, blocks weighted by the work in
        them."""
        identities = {row.identity for row in rows}
        others = Counter(row.block for row in self.rows if not row.skip)
        expected = {row.identity: self._expected_seconds(row, others) for row in self.rows}
        done = sum(expected[identity] for identity in self.outcomes if identity in expected)
        here = sum(expected[identity] for identity in identities)
        total = sum(expected.values())
        return lambda fraction, what: (
            self.progress(done + fraction * here, total, what) if self.progress else None
        )

    def _expected_seconds(self, row: Row, others: Counter[Block]) -> float:
        """Rough time for a row, for the progress bar alone: 50 GFLOP/s a core, two calls a round,
        as many rounds as a time budget leaves, half a second to load."""
        if row.skip:
            return 0.1
        work = self.cases[row.case].spec.flops(self.cases[row.case].batch)
        visits = 2 * self.effort.rounds * work / (50e9 * row.threads)
        if self.effort.goal is None and self.effort.budget_seconds is not None:
            least = visits * min(1.0, LEAST_ROUNDS / self.effort.rounds)
            visits = min(visits, max(least, self.effort.budget_seconds / others[row.block]))
        return 0.5 + visits

    def _environments(self) -> dict[str, dict[str, Any]]:
        """The machines that take part, by label; none in a replay, which measures nothing."""
        environments = {label: machine.environment for label, machine in self.plan.machines.items()}
        if LOCAL in environments:
            names = dict.fromkeys(row.backend for row in self.plan.rows)
            environments[LOCAL] = describe_environment([get_backend(name) for name in names])
        return environments

    def environment(self) -> dict[str, Any]:
        """The environment of the record, of every machine in it, with the variables that each
        worker was given."""
        workers = {
            str(row.worker): worker_environment(row.worker) for row in self.rows if not row.skip
        }
        recorded = self.record.machines() if self.record else {}
        of_rows = {
            outcome.host: recorded.get(outcome.machine, {}) for outcome in self.outcomes.values()
        }
        machines = {label: it or UNKNOWN_ENVIRONMENT for label, it in of_rows.items()}
        machines.update(
            {
                label: with_versions_of(of_rows.get(label, {}), it)
                for label, it in self.environments.items()
            }
        )
        here = machines.pop(LOCAL, UNKNOWN_ENVIRONMENT)
        return {**here, **({"hosts": machines} if machines else {}), "workers": workers}

    def about(self) -> dict[str, Any]:
        """What was asked for, and how many rows that makes; of a replay, what was asked for when it
        was measured."""
        options = {
            **dataclasses.asdict(self.options),
            "out": "",
            "hosts": list(self.hosts),
            "pythons": list(self.interpreters),
            "rounds": self.effort.rounds,
        }
        if self.options.replay and self.record:
            noted = self.record.plan()
            known = noted.get("options", {**options, "preset": "unknown"})
            return {"options": known, "planned": max(noted.get("planned", 0), len(self.rows))}
        return {"options": options, "planned": len(self.rows)}

    def view(self, now: dict[str, Any]) -> dict[str, Any]:
        """What `bench.json` holds beside its benchmarks.

        Args:
            now: `datetime` and `machine_info` as they are now.
        """
        kinds = {"failures": ("fail", "error"), "skipped": ("skip",)}
        return {
            "environment": self.environment(),
            **self.call(now),
            "measured_anew": [block_title(block) for block in self.measured_anew],
            **self.about(),
            **{
                name: [
                    line_of(outcome) for outcome in self.outcomes.values() if outcome.status in kind
                ]
                for name, kind in kinds.items()
            },
        }

    def call(self, now: dict[str, Any]) -> dict[str, Any]:
        """When and on what was measured, and how long that took (`spent`: seconds, and those of
        them in visits, that is warm calls, emptying caches, timed calls); of a replay, what was
        noted then, and nothing where nothing was.

        Args:
            now: `datetime` and `machine_info` as they are now.
        """
        if self.options.replay and self.record:
            unknown = {
                "datetime": self.record.last_written(),
                "machine_info": {"node": ""},
                "spent": None,
            }
            return {**unknown, **self.record.plan().get("call", {})}
        call = {
            **now,
            "spent": {"seconds": time.monotonic() - self.started, "visits": self.visit_seconds},
        }
        if self.record:
            self.record.keep_call(**call)
        return call

    def close(self) -> None:
        """End all workers, and what measures on the nodes of a Ray cluster."""
        if self._fleet is not None:
            self._fleet.close()
        if self._workers:
            with ThreadPoolExecutor(len(self._workers)) as pool:
                list(pool.map(Worker.end, self._workers.values()))
        self._workers.clear()
