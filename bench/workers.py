"""One process for each (backend, device, threads, precision), and what is said to it; the only file that knows execnet.

The environment stands before the worker's interpreter starts: a framework reads it when it is loaded, the allocator before that.
Workers run and time; they do not judge. A worker that dies or hangs raises `WorkerLostError` here and costs its own rows.
"""

import contextlib
import ctypes
import dataclasses
import gc
import math
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import SPIN_FREE_ENVIRONMENT, Computation, LoadedEmbedding, check_precision, get_backend
from ..reference.probes import Probe, random_normal
from ..reference.spec import PatchEmbedSpec

START_SECONDS = 300.0
"""Time for a worker to import its framework: TensorFlow takes 3 to 10 s here, cold disks and GPUs more."""

CALL_SECONDS = 600.0
"""Time for one request, unless an option says otherwise: `torch.compile` takes up to 30 s for the first graph, so what takes longer
than ten minutes hangs."""

END_SECONDS = 2.0
"""Time for a worker to end by itself before it is killed; it has nothing to save."""

CORE_SLACK = 0.1
"""Cores above a whole number that do not count as one more thread. TensorFlow keeps a helper thread busy at 0.05 of a core; a second
thread of a matrix product adds 0.5 and more."""


class WorkerLostError(Exception):
    """A worker died, hung, or could not be started; the message says which and how."""


class WorkerError(Exception):
    """A worker lives and could not do one request; the message is the framework's own."""


@dataclass(frozen=True)
class WorkerKey:
    """What a worker is for. `copy` tells the second process of an A/A pair from the first."""

    backend: str
    device: str
    threads: int
    precision: str
    copy: int = 0

    def __str__(self) -> str:
        return f"{self.backend} on {self.device}, {self.threads} thread(s)" + (f", copy {self.copy}" if self.copy else "")


def worker_environment(key: WorkerKey) -> dict[str, str]:
    """The variables that a worker's interpreter is started with."""
    backend = get_backend(key.backend)
    return {**SPIN_FREE_ENVIRONMENT, **backend.environment(key.threads), **backend.switches}


def worker_cores(key: WorkerKey) -> list[int]:
    """The CPU cores that a worker may run on: as many as it is asked for threads, the last ones, for the first serve the system most; [] for all.

    A framework that counts cores when it is loaded then sees what it may use; where every core was asked for there is nothing to hold.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    return usable[-key.threads :] if key.threads < len(usable) else []


_FIRST_WORDS = """\
import os
if {cores}:
    os.sched_setaffinity(0, {cores})
from patchparity.bench.workers import serve
serve(channel)
"""
"""What a worker runs: its cores are fixed before NumPy or any framework is imported."""


class Worker:
    """The parent's side of one worker process."""

    def __init__(self, key: WorkerKey, call_seconds: float = CALL_SECONDS, python: str = sys.executable) -> None:
        import execnet

        self.key, self.call_seconds = key, call_seconds
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in worker_environment(key).items())
        try:
            self._gateway = execnet.makegateway(f"popen//python=env {settings} {shlex.quote(python)}")
            self._channel = self._gateway.remote_exec(_FIRST_WORDS.format(cores=worker_cores(key)))
        except Exception as error:
            raise WorkerLostError(f"the worker for {key} could not be started: {error}") from error
        self.lost: str | None = None

    def start(self) -> dict[str, Any]:
        """Import the framework; return `versions`, `pid` and the `unavailable` reason of the device, if any."""
        key = self.key
        return self.request("start", backend=key.backend, device=key.device, precision=key.precision)

    def request(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            WorkerLostError: the process died or did not answer in time; it is killed, and every later request says the same.
            WorkerError: the request failed; the worker goes on.
        """
        if self.lost:
            raise WorkerLostError(self.lost)
        timeout = START_SECONDS if action == "start" else self.call_seconds
        try:
            self._channel.send((action, arguments))
            answer: dict[str, Any] = self._channel.receive(timeout)
        except self._channel.TimeoutError:
            self.lost = f"the worker for {self.key} did not answer {action!r} within {timeout:g} s and was ended"
        except (EOFError, OSError, self._channel.RemoteError) as error:
            detail = str(error).strip().splitlines()[-1:] or [""]
            self.lost = f"the worker for {self.key} died during {action!r} {detail[0]}".rstrip()
        if self.lost:
            self.end()
            raise WorkerLostError(self.lost)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

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
                process.wait(END_SECONDS)
            except Exception:
                process.kill()
                process.wait()


def timing_probe(spec: PatchEmbedSpec, batch: int, dtype: str, seed: int, zero_bias: bool = False) -> Probe:
    """The problem that is timed, and judged: random data, forward. Parent and worker make the same from the seed."""
    probe = random_normal(spec, batch, dtype, seed, zero_bias=zero_bias)
    return dataclasses.replace(probe, gradients=())


class _Loaded:
    """Something to time in a worker: a computation, its placed inputs, and the wall and CPU time that its samples took."""

    def __init__(self, computation: Computation, inputs: Any, cold: bool) -> None:
        self.computation, self.inputs, self.cold = computation, inputs, cold
        self.repeat = 1 if cold else self._repeat()
        self.wall_seconds = 0.0
        self.cpu_seconds = 0.0

    def _repeat(self) -> int:
        started = time.perf_counter()
        self.computation.synchronize(self.computation.call(self.inputs))
        return max(1, math.ceil(SHORTEST_SAMPLE_SECONDS / (time.perf_counter() - started)))


def peak_memory_of_call(computation: Computation, inputs: Any) -> int | None:
    """Bytes by which the process's memory grows during one call, its result among them, weights and inputs not; None where Linux is not there
    to tell.

    Free blocks are returned to the system first, and the kernel's high-water mark is set back (proc(5), clear_refs), so that what an earlier
    call left behind is neither counted nor used again unseen. To the page, and to what other threads free meanwhile.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_bytes("VmRSS")
        computation.synchronize(computation.call(inputs))
        return max(0, _status_bytes("VmHWM") - before)
    except (OSError, AttributeError, LookupError):
        return None


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


def last_level_cache_bytes(device: str) -> int:
    """Size of the last-level cache as Linux tells it; 64 MiB where it is not told, and for GPUs, whose L2 has 50 MiB at most (H100)."""
    sizes = []
    if device == "cpu":
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
            with contextlib.suppress(OSError, ValueError):
                number, unit = path.read_text().strip()[:-1], path.read_text().strip()[-1]
                sizes.append(int(number) * {"K": 2**10, "M": 2**20, "G": 2**30}[unit])
    return max(sizes, default=64 * 2**20)


SHORTEST_SAMPLE_SECONDS = 1e-4
"""A sample repeats its call until it lasts at least this long (a cold one cannot): the clock resolves 50 ns and reading it costs as much, 0.1%."""


class _Server:
    """The worker's side: one method for each request, plain data in and out."""

    def start(self, backend: str, device: str, precision: str) -> dict[str, Any]:
        self.backend, self.device = get_backend(backend), device
        check_precision(precision)
        self.loaded: dict[str, _Loaded] = {}
        self.other: Computation | None = None
        reason = self.backend.missing()
        if reason is None and device not in (devices := self.backend.devices()):
            reason = f"{backend} has no device {device!r} here, only {', '.join(devices)}"
        if reason is None:
            self.precision = self.backend.precision(precision)  # type: ignore[arg-type]
            self.precision.__enter__()  # held for the life of the process
        return {"versions": self.backend.versions(), "pid": os.getpid(), "unavailable": reason}

    def load(
        self, row: str, implementation: str, spec: dict[str, Any], batch: int, dtype: str, seed: int, cold: bool = False
    ) -> dict[str, Any]:
        """Load an implementation, call it on the timed problem and on its twin without bias; the tokens go back to be judged."""
        chosen = self.backend.implementation(implementation)
        if reason := self.backend.unavailable(chosen):
            return {"unavailable": reason}
        sizes = PatchEmbedSpec.from_dict(spec)
        probe, unbiased = (timing_probe(sizes, batch, dtype, seed, zero) for zero in (False, True))
        started = time.perf_counter()
        embedding = self.backend.load(chosen, unbiased.weights, sizes, dtype, self.device)
        loaded_at = time.perf_counter()
        inputs = embedding.place(unbiased.images)
        placed_at = time.perf_counter()
        fingerprint = self._tokens(embedding, inputs)
        first_call = time.perf_counter() - placed_at
        embedding.assign(probe.weights)
        inputs = embedding.place(probe.images)
        tokens = self._tokens(embedding, inputs)
        self.loaded[row] = _Loaded(embedding, inputs, cold)
        return {
            "peak_memory_bytes": peak_memory_of_call(embedding, inputs) if self.device == "cpu" else None,
            "tokens": _packed(tokens),
            "fingerprint": _packed(fingerprint),
            "load_seconds": loaded_at - started,
            "transfer_seconds": placed_at - loaded_at,
            "first_call_seconds": first_call,
        }

    @staticmethod
    def _tokens(embedding: LoadedEmbedding, inputs: Any) -> NDArray[Any]:
        return embedding.fetch(embedding.call(inputs))

    def load_gemm(self, row: str, rows: int, depth: int, columns: int, dtype: str, cold: bool = False) -> dict[str, Any]:
        """Load a plain matrix product."""
        product = self.backend.gemm(rows, depth, columns, dtype, self.device)
        product.synchronize(product.call(None))
        self.loaded[row] = _Loaded(product, None, cold)
        return {}

    def load_copy(self, row: str, values: int, dtype: str, cold: bool = False) -> dict[str, Any]:
        """Load a copy from one array to another, where the framework has one."""
        copy = self.backend.copy(values, dtype, self.device)
        if copy is None:
            return {"unavailable": f"{self.backend.name} has no copy that is worth timing"}
        copy.synchronize(copy.call(None))
        self.loaded[row] = _Loaded(copy, None, cold)
        return {"unavailable": None}

    def visit(self, row: str) -> dict[str, Any]:
        """One warm call, then one sample: seconds a call, synchronized; and the CPU time of both, which is not a neighbor's."""
        loaded = self.loaded[row]
        call, synchronize, inputs = loaded.computation.call, loaded.computation.synchronize, loaded.inputs
        visit_before = time.process_time()
        synchronize(call(inputs))
        if loaded.cold:
            self._read_something_else()
        gc.disable()
        cpu_before, started = time.process_time(), time.perf_counter()
        for _ in range(loaded.repeat):
            synchronize(call(inputs))
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
        gc.enable()
        loaded.wall_seconds += seconds
        loaded.cpu_seconds += cpu_seconds
        return {"seconds": seconds / loaded.repeat, "cpu_seconds": time.process_time() - visit_before}

    def _read_something_else(self) -> None:
        """Fill the last-level cache with other data: on the CPU by writing twice its size, on a GPU by copying that on the device."""
        if self.other is None:
            size = 2 * last_level_cache_bytes(self.device)
            self.other = self.backend.copy(size // 4, "float32", self.device) or get_backend("numpy").copy(
                size // 4, "float32", "cpu"
            )
        assert self.other is not None
        self.other.synchronize(self.other.call(None))

    def finish(self, row: str) -> dict[str, Any]:
        """Drop a row; return the cores that its samples kept busy, the threads that takes, and the tokens of one more call.

        CPU time of all threads over wall time tells how many computed at once; rounded up, that is the threads it takes. Counting
        threads would not tell: JAX and TensorFlow hand work to changing threads of several pools.
        """
        loaded = self.loaded.pop(row)
        cores = loaded.cpu_seconds / loaded.wall_seconds
        told = {"cores_busy": cores, "threads_observed": max(1, math.ceil(cores - CORE_SLACK)), "repeat": loaded.repeat}
        if isinstance(loaded.computation, LoadedEmbedding):
            told["tokens"] = _packed(self._tokens(loaded.computation, loaded.inputs))
        return told


def _packed(array: NDArray[Any]) -> tuple[bytes, tuple[int, ...], str]:
    return np.ascontiguousarray(array).tobytes(), array.shape, array.dtype.name


def unpacked(packed: tuple[bytes, tuple[int, ...], str]) -> NDArray[Any]:
    """Return the array that a worker packed."""
    content, shape, dtype = packed
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)


def serve(channel: Any) -> None:
    """Answer requests until None comes; runs in the worker process."""
    server = _Server()
    while (request := channel.receive()) is not None:
        action, arguments = request
        try:
            answer = getattr(server, action)(**arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"}
        channel.send(answer)
