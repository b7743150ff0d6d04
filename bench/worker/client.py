"""One process for each (backend, device, threads, precision), and what is said to it; the only file
that knows execnet.

The environment stands before the worker's interpreter starts: a framework reads it when it is
loaded, the allocator before that. Workers run and time; they do not judge. A worker that dies or
hangs raises `WorkerLostError` here and costs its own rows.
"""

import functools
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

START_SECONDS = 300.0
"""Time for a worker to import its framework: TensorFlow takes 3 to 10 s here, cold disks and GPUs
more."""

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


def _gateway(launch: str) -> Any:
    """Open a gateway, in a thread of its own: execnet waits for its first words without a limit.

    Raises:
        TimeoutError: nothing came within `START_SECONDS`.
    """
    import execnet

    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def open_gateway() -> None:
        try:
            opened.put(execnet.makegateway(launch))
        except BaseException as error:
            opened.put(error)

    threading.Thread(target=open_gateway, daemon=True).start()
    try:
        found = opened.get(timeout=START_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"its interpreter gave no answer within {START_SECONDS:g} s") from None
    if isinstance(found, BaseException):
        raise found
    return found


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """What is started here never sees SIGINT: Ctrl-C reaches every process of a terminal's group,
    and workers are ended by us, once what they gave is kept. One that comes meanwhile is held back,
    not lost."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        try:
            with _deaf_to_interrupts():
                self._gateway = _gateway(
                    host.launch(python, {**worker_environment(key), **variables})
                )
            first = _CONFINED.format(cores=key.threads, turn=turn) if confined else "home = None\n"
            self._channel = self._gateway.remote_exec(first + _FIRST_WORDS)
        except Exception as error:
            # What execnet says of another machine is how ssh was called, and a record names no
            # machine.
            why = type(error).__name__ if host.ssh else str(error) or type(error).__name__
            raise WorkerLostError(f"the worker for {key} could not be started: {why}") from error
        self.lost: str | None = None

    def start(self) -> dict[str, Any]:
        """Import the framework; return `versions`, `pid` and the `unavailable` reason of the
        device, if any."""
        key = self.key
        return self.request(
            "start", backend=key.backend, device=key.device, precision=key.precision
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
        try:
            self._channel.send((action, arguments))
            answer: dict[str, Any] = self._channel.receive(timeout)
        except self._channel.TimeoutError:
            self.lost = (
                f"the worker for {self.key} did not answer {action!r} within {timeout:g} "
                "s "
                "and was ended"
            )
        except (EOFError, OSError, self._channel.RemoteError) as error:
            detail = str(error).strip().splitlines()[-1:] or [""]
            self.lost = f"the worker for {self.key} died during {action!r} {detail[0]}".rstrip()
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
        process = getattr(self._gateway._io, "popen", None)
        if self.lost is None:
            try:
                self._channel.send(None)
                self._gateway.exit()
            except OSError:
                pass
        if process is not None:
            try:
                process.wait(0 if self.lost else END_SECONDS)
            except Exception:
                process.kill()
                process.wait()


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
    found = environment["versions"]["patchparity"]
    if found != __version__:
        raise PatchParityError(
            f"host ssh={host.ssh}: {host.python} has patchparity {found}, expected {__version__}; "
            "pip install it there"
        )
    memory = environment["memory_bytes"]
    return Machine(environment, memory if isinstance(memory, int) else None)
