"""One process for each (backend, device, threads, precision) that is timed, and what is said to it.

Workers run and time; they do not judge. A worker that dies or
hangs raises `WorkerLostError` here and costs its own rows.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ... import __version__
from ...backends.registry import get_backend
from ...reference.errors import PatchParityError
from ..machine.environment import describe_environment
from ..machine.hosts import LOCAL, Host, Machine
from ..machine.pools import SPIN_FREE_ENVIRONMENT
from ..machine.readings import available_memory_bytes
from ..record.rows import WorkerKey
from .process import START_SECONDS, LostError, Process, SilentError

CALL_SECONDS = 600.0
"""Time for one request, unless an option says otherwise: `torch.compile` takes up to 30 s for the
first graph, so what takes longer than ten minutes hangs."""

END_SECONDS = 0.2
"""Time for a worker to end by itself before it is killed; it has nothing to save, and TensorFlow
takes seconds to put its house in order."""


THIS_MACHINE = Host()


class WorkerLostError(Exception):
    """A worker died, hung, or could not be started; the message says which and how."""


class WorkerError(Exception):
    """A worker lives and could not do one request; the message is the framework's own."""


def worker_environment(key: WorkerKey) -> dict[str, str]:
    """The variables that a worker's interpreter is started with."""
    backend = get_backend(key.backend)
    return {**SPIN_FREE_ENVIRONMENT, **backend.environment(key.threads), **backend.switches}


_CONFINED = """\
import os
home = None
if hasattr(os, "sched_getaffinity"):
    usable = sorted(os.sched_getaffinity(0))
    if {cores} < len(usable):
        home = usable[-{cores}:]
        begin = len(usable) - ({turn} + 1) * {cores} % len(usable)
        os.sched_setaffinity(0, (usable + usable)[begin : begin + {cores}])
"""
"""What a worker runs first: before NumPy or any framework is imported its cores are fixed, as many
as it is asked for threads. A framework that counts cores then sees what it may use. Those that are
started together import on different ones, by their turn; when it has imported, a worker goes home,
to the last cores, for the first serve the system most."""
_FIRST_WORDS = """\
from patchparity.bench.worker.server import serve
serve(channel, home)
"""


class Worker:
    """The parent's side of one worker process."""

    def __init__(
        self,
        key: WorkerKey,
        call_seconds: float = CALL_SECONDS,
        python: str = sys.executable,
        host: Host = THIS_MACHINE,
        confined: bool = True,
        turn: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.key, self.call_seconds = key, call_seconds
        first = _CONFINED.format(cores=key.threads, turn=turn) if confined else "home = None\n"
        launch = host.launch(python, {**worker_environment(key), **variables})
        try:
            self._process = Process(launch, first + _FIRST_WORDS)
        except Exception as error:
            # What execnet says of another machine is how ssh was called, and a record names no
            # machine.
            why = type(error).__name__ if host.ssh else str(error) or type(error).__name__
            raise WorkerLostError(f"the worker for {key} could not be started: {why}") from error
        self.lost: str | None = None

    def start(self, implementations: Sequence[str] = ()) -> dict[str, Any]:
        """Import the framework, and what some implementations need beside it; return `versions`,
        `pid` and the `unavailable` reason of the device, if any."""
        key = self.key
        return self.request(
            "start",
            backend=key.backend,
            device=key.device,
            precision=key.precision,
            implementations=list(implementations),
        )

    def request(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            WorkerLostError: the process died or did not answer in time; it is killed, and every
                later request says the same.
            WorkerError: the request failed; the worker goes on.
        """
        if self.lost:
            raise WorkerLostError(self.lost)
        timeout = START_SECONDS if action == "start" else self.call_seconds
        answer: dict[str, Any] = {}
        try:
            self._process.send((action, arguments))
            answer = self._process.receive(timeout)
        except SilentError:
            self.lost = (
                f"the worker for {self.key} did not answer {action!r} within {timeout:g} s and "
                "was ended"
            )
        except LostError as error:
            self.lost = f"the worker for {self.key} died during {action!r} {error}".rstrip()
        if self.lost:
            self.end()
            raise WorkerLostError(self.lost)
        if "error" in answer:
            if action == "start":  # nothing can be asked of it
                self.lose(f"the worker for {self.key} could not be started: {answer['error']}")
            raise WorkerError(answer["error"])
        return answer

    def lose(self, message: str) -> None:
        """Kill the process; every later request says why."""
        self.lost = message
        self.end()

    def end(self) -> None:
        """End the process, if need be by force."""
        if self.lost is None:
            self._process.ask_to_end()
        self._process.end(0 if self.lost else END_SECONDS)


@functools.cache
def machine_of(host: Host) -> Machine:
    """Ask a host what it is.

    Raises:
        PatchParityError: a host that cannot be reached, or has no patchparity[bench] of this
            version.
    """
    if host.label == LOCAL:
        return Machine(describe_environment([]), available_memory_bytes())
    expected = (
        f"expected {host.python} there to have patchparity[bench] {__version__} "
        "(//python=PATH names another)"
    )
    host.require_reachable()
    try:
        worker = Worker(
            WorkerKey("numpy", "cpu", 1, "ieee", host=host.label), host=host, confined=False
        )
    except WorkerLostError:
        raise PatchParityError(
            f"host ssh={host.ssh}: {host.python} could not be started; {expected}"
        ) from None
    try:
        environment = worker.request("describe")
    except (WorkerLostError, WorkerError) as error:
        raise PatchParityError(f"host ssh={host.ssh}: {error}; {expected}") from None
    worker.end()
    version = environment["versions"]["patchparity"]
    if version != __version__:
        raise PatchParityError(
            f"host ssh={host.ssh}: {host.python} has patchparity {version}, expected "
            f"{__version__}; pip install it there"
        )
    memory = environment["memory_bytes"]
    return Machine(environment, memory if isinstance(memory, int) else None)
