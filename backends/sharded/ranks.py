"""Ranks: processes of one group that stay, are all told the same, and each answer.

One process imports the framework, forks the ranks and waits for them; so they start in the time of
one import, and none is left behind. A rank that dies or keeps silent ends the group, and is told.
Knows no framework: what a rank does is a module's `serve`.
"""

import atexit
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from ...reference.errors import PatchParityError

START_SECONDS = 300.0
"""Until the ranks are there: an import of torch takes 2 to 60 seconds, on a cold disk."""

ANSWER_SECONDS = 120.0
"""Until every rank has answered: calls take milliseconds, and a rank that others wait for is given
up by their collectives after half of it."""

COLLECTIVE_SECONDS = ANSWER_SECONDS / 2
"""What a rank waits for the others within a collective; gloo's own default is half an hour."""

END_SECONDS = 5.0
"""Until a group that was told to end is killed; it has nothing to save."""

LOG = "ranks.log"


class RankError(RuntimeError):
    """A rank raised; the message says which, and what."""


class Raised(NamedTuple):
    """The answer of a rank that raised: the exception in one line."""

    message: str


_START = """\
import sys, json
sys.path[:] = json.loads(sys.argv[1])
from {module} import _host
_host(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]))
"""


class Ranks:
    """A group, as its owner sees it.

    Args:
        module: absolute name of the module whose `serve(rank, size, folder, connection)` is what a
            rank does: it sends its first word when it is ready, then an answer to each command,
            until the connection ends.
        size: how many there are.
        start_seconds, answer_seconds: how long they may take.

    Raises:
        PatchParityError: ranks that do not start.
    """

    def __init__(
        self,
        module: str,
        size: int,
        start_seconds: float = START_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self.size, self.answer_seconds, self.owner = size, answer_seconds, os.getpid()
        self._lock = threading.Lock()
        self.folder = Path(tempfile.mkdtemp(prefix="patchparity-ranks-"))
        pairs = [socket.socketpair() for _ in range(size)]
        theirs = [pair[1].fileno() for pair in pairs]
        # gloo looks for an interface by the machine's name, which may have no address.
        environment = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "PYTHONSAFEPATH": "1"}
        with open(self.folder / LOG, "wb") as log:
            self.host = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    _START.format(module=__name__),
                    json.dumps(sys.path),
                    module,
                    str(self.folder),
                    json.dumps(theirs),
                ],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self.connections = []
        for mine, other in pairs:
            other.close()
            self.connections.append(Connection(mine.detach()))
        self.closed = False
        atexit.register(self.close)
        self.pids: list[int] = self._answers("starting", start_seconds)

    def ask(self, *command: Any) -> list[Any]:
        """Tell every rank the same, and return what each answers.

        Raises:
            RankError: a rank raised; the group goes on.
            PatchParityError: a rank ended or kept silent; the group is ended.
        """
        with self._lock:
            if self.closed:
                raise PatchParityError("the ranks have ended: load the implementation again")
            for connection in self.connections:
                try:
                    connection.send(command)
                except OSError:
                    break  # one that has died is told of when it does not answer
            return self._answers(str(command[0]), self.answer_seconds)

    def _answers(self, command: str, seconds: float) -> list[Any]:
        answers: dict[int, Any] = {}
        waiting = {connection: rank for rank, connection in enumerate(self.connections)}
        deadline = time.monotonic() + seconds
        while waiting:
            ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                silent = ", ".join(map(str, sorted(waiting.values())))
                self._lose(f"rank {silent} of {self.size} kept silent for {seconds:g} s", command)
            for connection in ready:
                assert isinstance(connection, Connection)
                rank = waiting.pop(connection)
                try:
                    answers[rank] = connection.recv()
                except (EOFError, OSError):
                    self._lose(f"rank {rank} of {self.size} ended", command)
        for rank, answer in sorted(answers.items()):
            if isinstance(answer, Raised):
                raise RankError(f"rank {rank} of {self.size}: {answer.message}")
        return [answers[rank] for rank in range(self.size)]

    def _lose(self, what: str, command: str) -> NoReturn:
        last = self._last_words()
        self.close(at_once=True)
        raise PatchParityError(f"{what} ({command}), and its group with it{last}")

    def _last_words(self) -> str:
        """The last line that a rank wrote, to be put behind a message; empty for none."""
        try:
            lines = (self.folder / LOG).read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            return ""
        return f": {lines[-1][:200]}" if lines else ""

    def close(self, at_once: bool = False) -> None:
        """End the ranks, wait for them, and remove their folder; twice is once."""
        if self.closed or os.getpid() != self.owner:
            return
        self.closed = True
        atexit.unregister(self.close)
        for connection in self.connections:
            connection.close()
        if at_once:
            self.host.terminate()
        try:
            self.host.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.host.pid, signal.SIGKILL)
            self.host.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


LAST_MOMENT = 0.5
"""Seconds between the end of a killed process's connections and its own, at most: it has its memory
to give back. One that lives waits so long for its host when it ends."""


def _host(module: str, folder: str, descriptors: list[int]) -> None:
    """Fork the ranks once all is imported, and wait for them; told to end, kill them first."""
    owner = os.getppid()
    serving = importlib.import_module(module)
    pids: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    serving.prepare()
    for rank in range(len(descriptors)):
        pid = os.fork()
        if not pid:
            _rank(serving.serve, rank, folder, descriptors)
        pids.append(pid)
    signal.signal(signal.SIGTERM, end)
    for descriptor in descriptors:
        os.close(descriptor)
    for pid in list(pids):
        os.waitpid(pid, 0)
        pids.remove(pid)
    # A process that is killed closes its connections a moment before it is gone.
    deadline = time.monotonic() + LAST_MOMENT
    while os.getppid() == owner and time.monotonic() < deadline:
        time.sleep(0.02)
    if os.getppid() != owner:  # who would remove it has been killed
        shutil.rmtree(folder, ignore_errors=True)


def _rank(serve: Any, rank: int, folder: str, descriptors: list[int]) -> NoReturn:
    """Be a rank, which has its own end of its own connection alone, until that ends."""
    status = 1
    try:
        for other, descriptor in enumerate(descriptors):
            if other != rank:
                os.close(descriptor)
        serve(rank, len(descriptors), folder, Connection(descriptors[rank]))
        status = 0
    except BaseException as error:
        print(f"rank {rank}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)
