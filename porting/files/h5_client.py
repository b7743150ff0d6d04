"""HDF5 files through a process of their own (`h5_server.py`), one for all files, started when the
first is opened.

HDF5's library may hang or crash on damaged content where Python can neither interrupt nor catch it:
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

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError

SERVER = Path(__file__).with_name("h5_server.py")
"""What the process runs."""


class H5Error(Exception):
    """What is wrong with a file, in words."""


class _Server:
    """The process, and the turn to speak with it."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            if importlib.util.find_spec("h5py") is None:
                raise PatchParityError("h5py is not installed: pip install 'patchparity[porting]'")
            self.end()
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
            self.owner = os.getpid()
        return self.process

    def ask(
        self, path: Path, request: dict[str, Any], sent: list[NDArray[Any]]
    ) -> tuple[dict[str, Any], bytearray]:
        """Send a request with the bytes of arrays, and return its answer with the bytes behind it.

        Raises:
            PatchParityError: h5py is not installed.
            H5Error: content that is refused, that HDF5's library raised an error on, or that its
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
                    process.stdin.write(np.ascontiguousarray(array).tobytes())
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
                raise H5Error("HDF5's own library hung, crashed or ran out of memory on it")
        if answer.get("kind") == "MemoryError":
            raise MemoryError
        if answer.get("number"):
            raise OSError(answer["number"], os.strerror(answer["number"]), os.fspath(path))
        if "error" in answer:
            raise H5Error(
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


_SERVER = _Server()
atexit.register(_SERVER.end)


def h5_names(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every dataset of numbers, by its path in the file.

    Raises:
        PatchParityError: h5py is not installed.
        H5Error: content that is refused, that HDF5's library raised an error on, or that its
            process died of.
        OSError: a file that cannot be opened.
        MemoryError: more memory than there is.
    """
    datasets = _SERVER.ask(path, {"do": "walk", "nbytes": 0}, [])[0]["found"]
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in datasets.items()}


def h5_read(path: Path, name: str, nbytes: int) -> NDArray[Any]:
    """One dataset that takes so many bytes; raises as `h5_names`."""
    answer, content = _SERVER.ask(path, {"do": "read", "name": name, "nbytes": nbytes}, [])
    return np.frombuffer(content, answer["dtype"]).reshape(answer["shape"])


def h5_write(path: Path, changes: dict[str, NDArray[Any]]) -> None:
    """Overwrite datasets of a file; raises as `h5_names`."""
    change_headers = [
        (name, array.shape, "bfloat16" if array.dtype == ml_dtypes.bfloat16 else array.dtype.str)
        for name, array in changes.items()
    ]
    nbytes = sum(array.nbytes for array in changes.values())
    _SERVER.ask(
        path, {"do": "write", "changes": change_headers, "nbytes": nbytes}, list(changes.values())
    )
