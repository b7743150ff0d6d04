"""A process that works for this one, for `check` and `bench` alike; no other room knows execnet.

Its variables stand before its interpreter starts, for a framework reads them when it is loaded, the
allocator before that. It never sees Ctrl-C, which is this process's, and is ended from here.
"""

import contextlib
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

START_SECONDS = 300.0
"""Time for a worker to import its framework: TensorFlow takes 3 to 10 s here, cold disks and GPUs
more."""

GRACE_SECONDS = 2.0
"""Time for the end of a killed process to be seen: its pipe is read in milliseconds."""


class LostError(Exception):
    """The process died."""


class SilentError(Exception):
    """The process gave no answer in time."""


class Process:
    """The parent's side of a process.

    Args:
        launch: how it is started, in execnet's words.
        source: what it runs; there, `channel` is what it speaks through.

    Raises:
        TimeoutError: its interpreter gave no answer within `START_SECONDS`.
        Exception: whatever execnet raises of one that could not be started.
    """

    def __init__(self, launch: str, source: str) -> None:
        with _deaf_to_interrupts():
            self._gateway = _gateway(launch)
        self._channel = self._gateway.remote_exec(source)

    @property
    def popen(self) -> Any:
        """The process as `subprocess` has it; None of one on another machine."""
        return getattr(self._gateway._io, "popen", None)

    def send(self, data: Any) -> None:
        """Send plain data.

        Raises:
            LostError: the process died.
        """
        try:
            self._channel.send(data)
        except OSError as error:
            raise LostError(_last_line(error)) from None

    def receive(self, timeout: float) -> Any:
        """Wait for the next plain data.

        Raises:
            SilentError: nothing came in so many seconds.
            LostError: the process died.
        """
        try:
            return self._channel.receive(timeout)
        except self._channel.TimeoutError:
            raise SilentError from None
        except (EOFError, OSError, self._channel.RemoteError) as error:
            raise LostError(_last_line(error)) from None

    def listen(self, heard: Callable[[Any], None], end: Any) -> None:
        """Have every further data told to a function, in a thread of its own, and `end` after the
        last."""
        self._channel.setcallback(heard, endmarker=end)

    def ask_to_end(self) -> None:
        """Let it end by itself, which it does when it is sent None and the connection ends."""
        with contextlib.suppress(OSError):
            self._channel.send(None)
            self._gateway.exit()

    def end(self, wait: float = 0.0) -> None:
        """End the process, by force if it has not ended in so many seconds; it has nothing to
        save."""
        if (process := self.popen) is None:
            return
        try:
            process.wait(wait)
        except Exception:
            process.kill()
            process.wait()

    def forget(self) -> None:
        """Let go of a process that has ended: nothing of it is waited for when this one ends."""
        with contextlib.suppress(OSError):
            self._gateway.exit()
        self._gateway.join(GRACE_SECONDS)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines()[-1:] or [""])[0]


def _gateway(launch: str) -> Any:
    """Open a gateway, in a thread of its own: execnet waits for its first words without a limit."""
    import execnet

    opened: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def open_gateway() -> None:
        try:
            opened.put(execnet.makegateway(launch))
        except BaseException as error:
            opened.put(error)

    threading.Thread(target=open_gateway, daemon=True).start()
    try:
        gateway_or_error = opened.get(timeout=START_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"its interpreter gave no answer within {START_SECONDS:g} s") from None
    if isinstance(gateway_or_error, BaseException):
        raise gateway_or_error
    return gateway_or_error


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
