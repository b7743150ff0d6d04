"""What runs on a node of a Ray cluster: it tells what the node is, and measures there. Ray's actor
is around it, and nothing here knows Ray."""

import queue
import threading
from collections import defaultdict
from contextlib import closing
from typing import Any

from ... import __version__
from ...backends.registry import list_backends
from ...porting.files.checkpoint import first_line
from ..machine.environment import describe_environment
from ..machine.hosts import Host, Machine
from ..machine.readings import available_memory_bytes
from ..record.rows import Block, Row
from ..record.schema import line_of
from .options import BenchOptions
from .plan import Plan
from .session import BenchSession

NEWS_SECONDS = 5.0
"""Time between two questions for news while a block is measured: an answer takes the node some
milliseconds of a core, a thousandth of the time, and a progress bar needs no more."""


def describe(cpus: float, gpus: float) -> dict[str, Any]:
    """Tell what a node is, as plain data.

    Args:
        cpus, gpus: that Ray has of it: what is above them is not the session's to use (in a
            container the cores of the whole machine are seen).
    """
    environment = describe_environment(list_backends())
    environment["cores"] = max(1, min(environment["cores"], int(cpus)))
    environment["gpus"] = environment["gpus"][: int(gpus)]
    return {
        "version": __version__,
        "environment": environment,
        "available_bytes": available_memory_bytes(),
    }


class NodeSession:
    """A measuring session in a thread of its own; what it measured is asked for.

    Args:
        job: as `job_of` gives it.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        label = job["label"]
        self._session = BenchSession(
            Plan(
                BenchOptions(**job["options"]),
                tuple(Row(**row) for row in job["rows"]),
                {label: Host(label)},
                {label: Machine(job["environment"], job["available_bytes"])},
                {},
            ),
            self._note,
        )
        self._progress: tuple[float, float, str] | None = None
        self._ended: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._measure, daemon=True).start()

    def _note(self, done: float, total: float, what: str) -> None:
        self._progress = done, total, what

    def _measure(self) -> None:
        blocks: dict[Block, list[Row]] = defaultdict(list)
        for row in self._session.rows:
            blocks[row.block].append(row)
        try:
            with closing(self._session):
                for rows in blocks.values():
                    outcomes = [self._session.outcome(row) for row in rows]
                    samples = [
                        sample for row in rows for sample in self._session.samples[row.identity]
                    ]
                    self._ended.put(
                        {
                            "outcomes": [line_of(outcome) for outcome in outcomes],
                            "samples": [line_of(sample) for sample in samples],
                        }
                    )
                    self._session.forget(rows)
        except Exception as error:
            self._ended.put({"failure": f"{type(error).__name__}: {first_line(error)}"})
        else:
            self._ended.put({"end": True})

    def news(self) -> dict[str, Any]:
        """The next block that ended (`outcomes` and `samples`, as lines of a record), or `end`
        after the last, or `failure`; how far it is (`progress`) where none of them comes within
        `NEWS_SECONDS`."""
        try:
            return self._ended.get(timeout=NEWS_SECONDS)
        except queue.Empty:
            return {"progress": self._progress}

    def end(self) -> None:
        """End the workers."""
        self._session.close()
