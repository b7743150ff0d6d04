"""Files that a native library reads through a process of its own (`native_server.py`), one for all
files of a kind, started when the first is opened.

Such a library may hang or crash on damaged content where Python can neither interrupt nor catch it:
that process is then lost, and the file refused.
"""

import atexit
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError

SERVER = Path(__file__).with_name("native_server.py")
"""What the process runs, with the file that answers requests."""


class NativeError(Exception):
    """What is wrong with a file, in words."""


class NativeServer:
    """The process, and the turn to speak with it.

    Args:
        script: the file that answers requests.
        package: what it imports.
        extra: of patchparity, that installs that package.
        library: what may hang or crash, in words.
    """

    def __init__(self, script: Path, package: str, extra: str, library: str) -> None:
        self.script, self.package, self.extra, self.library = script, package, extra, library
        self.turn = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        atexit.register(self.end)

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            if importlib.util.find_spec(self.package) is None:
                raise PatchParityError(
                    f"{self.package} is not installed: pip install 'patchparity[{self.extra}]'"
                )
            self.end()
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(SERVER), str(self.script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
            self.owner = os.getpid()
        return self.process

    def start(self) -> None:
        """Let the process start, which imports its library while something else is done.

        Raises:
            PatchParityError: the library is not installed.
        """
        with self.turn:
            self._running()

    def ask(
        self, path: Path, request: dict[str, Any], sent: list[NDArray[Any]]
    ) -> tuple[dict[str, Any], bytearray]:
        """Send a request with the bytes of arrays, and return its answer with the bytes behind it.

        Raises:
            PatchParityError: the library is not installed.
            NativeError: content that is refused, that the library raised an error on, or that its
                process died of.
            OSError: a file that cannot be opened.
            MemoryError: more memory than there is.
        """
        line = json.dumps({"path": os.fspath(path.absolute()), **request}).encode()
        with self.turn:
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(line + b"\n")
                for array in sent:
                    values = np.ascontiguousarray(array).reshape(-1)
                    process.stdin.write(values.view(np.uint8).data)
                process.stdin.flush()
                answer = json.loads(process.stdout.readline() or b"null")
                behind = bytearray(answer.get("nbytes", 0)) if answer else bytearray()
                if process.stdout.readinto(behind) != len(behind):  # type: ignore[attr-defined]
                    answer = None
            except (OSError, ValueError):
                answer, behind = None, bytearray()
            except BaseException:  # interrupted: what comes next would answer another question
                self.end()
                raise
            if answer is None:
                self.end()
                raise NativeError(f"{self.library} hung, crashed or ran out of memory on it")
        if answer.get("kind") == "MemoryError":
            raise MemoryError
        if answer.get("number"):
            raise OSError(answer["number"], os.strerror(answer["number"]), os.fspath(path))
        if "error" in answer:
            raise NativeError(
                f"{answer['kind']}: {answer['error']}" if answer["kind"] else answer["error"]
            )
        return answer, behind

    def end(self) -> None:
        """Let go of the process."""
        process, self.process = self.process, None
        if process is not None:
            if self.owner == os.getpid():
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
