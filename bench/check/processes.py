"""A process for each backend that `check` runs, several at a time.

A backend's variables stand before its interpreter starts (one process runs one of Keras's
frameworks), frameworks do not meet in one address space, and a process that dies or hangs costs its
own backend's rows.
"""

import contextlib
import math
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ...backends.base import Backend
from ...backends.registry import get_backend
from ..machine.environment import usable_cores
from ..machine.hosts import Host
from ..machine.pools import SPIN_FREE_ENVIRONMENT
from ..worker.process import GRACE_SECONDS, LostError, Process
from .one_backend import BackendCheck, Event, error_text

AT_ONCE = 4
"""Processes at a time, or fewer where there are fewer cores: each takes one to two GB, and every
framework fills the cores in parts."""

SILENCE_SECONDS = 600.0
"""Without news for so long, a process is ended. A unit takes seconds, and `torch.compile` up to 30
s for its first graph."""


_AFTER_OMP = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Numbers of threads that their libraries take from OMP_NUM_THREADS where they have none of their
own."""


class Lost(NamedTuple):
    """A process ended before its work did; `reason` says how."""

    reason: str


def process_environment(backend: Backend) -> dict[str, str]:
    """The variables that the process of a backend is started with, beside those of this one.

    All cores, as users run it, without idle threads that spin. What the user has set stands, but
    for the backend's switches.
    """
    given = {**SPIN_FREE_ENVIRONMENT, **backend.environment(usable_cores())}
    if "OMP_NUM_THREADS" in os.environ:  # it counts for these too, where they are not set
        given = {name: value for name, value in given.items() if name not in _AFTER_OMP}
    return {name: os.environ.get(name, value) for name, value in given.items()} | dict(
        backend.switches
    )


def run_apart(
    checks: list[BackendCheck], interpreters: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[BackendCheck, Event | Lost]]:
    """Run each check in a process of its own, in the order given, and tell of every step of any of
    them as it comes.

    Args:
        checks: one a backend.
        interpreters: that of each backend that has another than this one's.
    """
    waiting, running = list(checks), set[_Child]()
    news: queue.Queue[tuple[_Child, Any]] = queue.Queue()
    try:
        while waiting or running:
            while waiting and len(running) < min(AT_ONCE, usable_cores()):
                try:
                    python = interpreters.get(waiting[0].backend)
                    running.add(_Child(waiting[0], news, python))
                except Exception as error:  # whatever execnet raises of one that does not start
                    yield waiting[0], Lost(f"its process did not start: {error_text(error)}")
                del waiting[0]
            with contextlib.suppress(queue.Empty):
                child, event = news.get(timeout=1.0)
                child.heard = time.monotonic()
                if not isinstance(event, _End):
                    yield child.check, event
                elif child in running:
                    running.remove(child)
                    if reason := child.reason(event):
                        yield child.check, Lost(reason)
            for child in running:
                child.end_if_silent()
                if child.is_gone() and child in running:
                    news.put((child, _End(False)))
    finally:
        for child in running:
            child.end()


class _End(NamedTuple):
    """The last news of a process: whether it had done its work, and what it raised otherwise."""

    done: bool
    message: str = ""


_START = """\
import sys
sys.path[:] = channel.receive() or sys.path
from patchparity.bench.check.processes import serve
serve(channel)
"""


class _Child:
    """The parent's side of a process."""

    def __init__(
        self,
        check: BackendCheck,
        news: queue.Queue[tuple["_Child", Any]],
        python: str | None = None,
    ) -> None:
        self.check, self.heard, self.silent = check, time.monotonic(), False
        self.gone_since = math.inf
        variables = {"PYTHONSAFEPATH": "1", **process_environment(get_backend(check.backend))}
        if python:  # which has packages of its own, and this one
            variables["PYTHONPATH"] = ""
        self.process = Process(Host().launch(python or sys.executable, variables), _START)
        # One that has died at once is told of by the end of its news.
        with contextlib.suppress(LostError):
            self.process.send([] if python else sys.path)
            self.process.send(pickle.dumps(check))
        self.process.listen(lambda payload: news.put((self, _loaded(payload))), end=b"")

    def reason(self, end: _End) -> str | None:
        """Why it ended before its work was done, or None if it was."""
        if end.done or end.message:
            self.end()
            return end.message or None
        try:
            code = self.process.popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:  # it has closed what it tells by, and goes on
            self.end()
            return f"the process of {self.check.backend} stopped telling and was ended"
        self.process.forget()
        if self.silent:
            return (
                f"the process of {self.check.backend} gave no news for {SILENCE_SECONDS:g} s "
                "and was ended"
            )
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return f"the process of {self.check.backend} died ({how})"

    def end_if_silent(self) -> None:
        """Kill a process that hangs; the end of its news then tells of it."""
        if time.monotonic() - self.heard > SILENCE_SECONDS:
            self.silent = True
            self.process.popen.kill()

    def is_gone(self) -> bool:
        """Whether the process ended a while ago and its pipe has not: a process that it started
        holds it open."""
        if self.process.popen.poll() is not None:
            self.gone_since = min(self.gone_since, time.monotonic())
        return time.monotonic() - self.gone_since > GRACE_SECONDS

    def end(self) -> None:
        """End the process; it has nothing to save."""
        self.process.end()
        self.process.forget()


def _loaded(payload: bytes) -> Event | _End:
    """News as they were sent; of the end of a process that told none, that it died."""
    return pickle.loads(payload) if payload else _End(False)


def serve(channel: Any) -> None:
    """Do the check that comes through the channel and tell of it; runs in the process of a
    backend."""

    def tell(news: Event | _End) -> None:
        channel.send(pickle.dumps(news))

    check: BackendCheck = pickle.loads(channel.receive())
    try:
        for event in check.run():
            tell(event)
    except OSError:
        return  # nobody listens any more
    except BaseException as error:  # SystemExit ends the telling, not the process
        tell(_End(False, error_text(error)))
    else:
        tell(_End(True))
