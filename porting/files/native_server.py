"""A process that reads and changes files for another through a native library: what hangs, crashes
or takes memory within that library costs this process alone.

Run as a script with the file that answers requests, it knows nothing of patchparity. A request is a
line of JSON, with the bytes of arrays behind it where it writes; an answer is the same.
"""

import contextlib
import importlib.util
import json
import math
import os
import signal
import sys
from types import ModuleType

PATIENCE = 4
"""Seconds of this process's own time that one request may take, beside those for its bytes."""

SLOWEST = 2 * 10**7
"""Bytes a second that a packed tensor gives at least: a tenth of what zlib unpacks."""

SPARE = 200 * 2**20
"""Bytes that a request may take beside four times the file and two times what it reads."""


def limit(size: int, nbytes: int) -> None:
    """Hold the next request to time and memory, where the system can; Windows cannot."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = math.ceil(used.ru_utime + used.ru_stime) + PATIENCE + nbytes // SLOWEST
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        most = now + 4 * size + 2 * nbytes + SPARE
        resource.setrlimit(
            resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )


def _loaded(path: str) -> ModuleType:
    """The file that answers requests, as a module."""
    spec = importlib.util.spec_from_file_location("answers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(path: str) -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints is no answer
    module = _loaded(path)
    for line in source:
        request = json.loads(line)
        array = None
        try:
            limit(os.path.getsize(request["path"]), request["nbytes"])
            answer, array = module.answer(request, source)
        except module.DamagedError as error:
            answer = {"kind": "", "error": str(error)}
        except Exception as error:
            answer = {
                "kind": type(error).__name__,
                "error": str(error),
                "number": getattr(error, "errno", None),
            }
        target.write(json.dumps(answer).encode() + b"\n")
        if array is not None:
            target.write(memoryview(array).cast("B"))
        target.flush()


if __name__ == "__main__":
    main(sys.argv[1])
