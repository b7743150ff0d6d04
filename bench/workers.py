"""One process for each (backend, device, threads, precision), and what is said to it; the only file that knows execnet.

The environment stands before the worker's interpreter starts: a framework reads it when it is loaded, the allocator before that.
Workers run and time; they do not judge. A worker that dies or hangs raises `WorkerLostError` here and costs its own rows.
"""

import dataclasses
import functools
import hashlib
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..backends.base import (
    SPIN_FREE_ENVIRONMENT,
    Computation,
    FirstCall,
    LoadedEmbedding,
    Operation,
    check_precision,
    get_backend,
    list_backends,
)
from ..reference.errors import PatchParityError
from ..reference.probes import Direction, Probe, random_normal, random_sequence, train_step, without_bias
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .devices import open_device
from .environment import busy_seconds, describe_environment
from .hosts import LOCAL, Host, Machine

START_SECONDS = 300.0
"""Time for a worker to import its framework: TensorFlow takes 3 to 10 s here, cold disks and GPUs more."""

CALL_SECONDS = 600.0
"""Time for one request, unless an option says otherwise: `torch.compile` takes up to 30 s for the first graph, so what takes longer
than ten minutes hangs."""

END_SECONDS = 0.2
"""Time for a worker to end by itself before it is killed; it has nothing to save, and TensorFlow takes seconds to put its house in order."""

CORE_SLACK = 0.1
"""Cores above a whole number that do not count as one more thread. TensorFlow keeps a helper thread busy at 0.05 of a core; a second
thread of a matrix product adds 0.5 and more."""


THIS_MACHINE = Host()


class WorkerLostError(Exception):
    """A worker died, hung, or could not be started; the message says which and how."""


class WorkerError(Exception):
    """A worker lives and could not do one request; the message is the framework's own."""


@dataclass(frozen=True)
class WorkerKey:
    """What a worker is for. `copy` tells the second process of an A/A pair from the first; `host` is the label of its machine."""

    backend: str
    device: str
    threads: int
    precision: str
    copy: int = 0
    host: str = LOCAL

    def __str__(self) -> str:
        place = self.device if self.host == LOCAL else f"{self.device} of {self.host}"
        return f"{self.backend} on {place}, {self.threads} thread(s)" + (f", copy {self.copy}" if self.copy else "")


def worker_environment(key: WorkerKey) -> dict[str, str]:
    """The variables that a worker's interpreter is started with."""
    backend = get_backend(key.backend)
    return {**SPIN_FREE_ENVIRONMENT, **backend.environment(key.threads), **backend.switches}


_CONFINED = """\
import os
if hasattr(os, "sched_getaffinity"):
    usable = sorted(os.sched_getaffinity(0))
    if {cores} < len(usable):
        os.sched_setaffinity(0, usable[-{cores}:])
"""
"""What a worker runs first: before NumPy or any framework is imported its cores are fixed, as many as it is asked for threads and the last
ones, for the first serve the system most. A framework that counts cores then sees what it may use."""
_FIRST_WORDS = """\
from patchparity.bench.workers import serve
serve(channel)
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
    ) -> None:
        import execnet

        self.key, self.call_seconds = key, call_seconds
        try:
            self._gateway = execnet.makegateway(host.launch(python, worker_environment(key)))
            self._channel = self._gateway.remote_exec((_CONFINED.format(cores=key.threads) if confined else "") + _FIRST_WORDS)
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


OPERATIONS = ("tokens", "sequence", "train-step")
"""What is timed of an implementation: the projection; the projection, a class token in front and positions added; the projection and the
gradients of its kernel and bias."""


@functools.lru_cache(maxsize=6)
def timing_probe(
    spec: PatchEmbedSpec, batch: int, dtype: str, seed: int, operation: str = "tokens", zero_bias: bool = False
) -> Probe:
    """The problem that is timed, and judged: random data. Parent and worker make the same from the seed, and keep it for the rows that follow."""
    if operation == "sequence":
        return random_sequence(spec, batch, dtype, seed, num_registers=0)
    if operation == "train-step":
        return train_step(spec, batch, dtype, seed)
    if zero_bias:
        return without_bias(timing_probe(spec, batch, dtype, seed))
    return dataclasses.replace(random_normal(spec, batch, dtype, seed), gradients=())


def operation_of(embedding: LoadedEmbedding, operation: str, probe: Probe) -> LoadedEmbedding | Operation | None:
    """What computes an operation on a problem, its weights assigned before; None where the implementation has none."""
    if operation == "sequence":
        assert probe.weights.class_token is not None
        assert probe.weights.positions is not None
        return embedding.sequence(probe.weights.class_token, probe.weights.positions)
    return embedding.train_step(probe.grad_tokens) if operation == "train-step" else embedding


def _results(computation: LoadedEmbedding | Operation, inputs: Any) -> dict[Direction, NDArray[Any]]:
    fetched = computation.fetch(computation.call(inputs))
    return fetched if isinstance(fetched, dict) else {"forward": fetched}


@dataclass
class _Loaded:
    """Something to time in a worker: a computation, its placed inputs, how often a sample repeats it, what its results were, and the time that
    its samples took."""

    computation: Computation
    inputs: Any
    cold: bool
    repeat: int
    digests: dict[Direction, bytes]
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0


@functools.cache
def machine_of(host: Host) -> Machine:
    """Ask a host what it is.

    Raises:
        PatchParityError: a host that cannot be reached, or has no patchparity[bench] of this version.
    """
    if host.label == LOCAL:
        return Machine(describe_environment([]))
    try:
        worker = Worker(WorkerKey("numpy", "cpu", 1, "ieee", host=host.label), host=host, confined=False)
        environment = worker.request("describe")
    except WorkerLostError as error:
        raise PatchParityError(
            f"host ssh={host.ssh}: {error}; expected a machine that ssh reaches without a password, where {host.python} has "
            f"patchparity[bench] {__version__} (//python=PATH names another)"
        ) from None
    worker.end()
    found = environment["versions"]["patchparity"]
    if found != __version__:
        raise PatchParityError(
            f"host ssh={host.ssh}: {host.python} has patchparity {found}, expected {__version__}; pip install it there"
        )
    return Machine(environment)


NO_RESULTS: Mapping[Direction, NDArray[Any]] = MappingProxyType({})


class _Server:
    """The worker's side: one method for each request, plain data in and out."""

    def describe(self) -> dict[str, Any]:
        """Tell of the machine."""
        return describe_environment(list_backends())

    def start(self, backend: str, device: str, precision: str) -> dict[str, Any]:
        self.backend, self.device = get_backend(backend), device
        check_precision(precision)
        self.loaded: dict[str, _Loaded] = {}
        reason = self.backend.missing()
        if reason is None and device not in (devices := self.backend.devices()):
            reason = f"{backend} has no device {device!r} here, only {', '.join(devices)}"
        if reason is None:
            self.precision = self.backend.precision(precision)  # type: ignore[arg-type]
            self.precision.__enter__()  # held for the life of the process
            self.at = open_device(self.backend, device)
        return {"versions": self.backend.versions(), "pid": os.getpid(), "unavailable": reason}

    def load(
        self,
        row: str,
        implementation: str,
        spec: dict[str, Any],
        batch: int,
        dtype: str,
        seed: int,
        cold: bool = False,
        operation: str = "tokens",
    ) -> dict[str, Any]:
        """Load an implementation, call it on the twin without bias and do its operation on the timed problem; what comes out goes back to be judged."""
        chosen = self.backend.implementation(implementation)
        if reason := self.backend.unavailable(chosen):
            return {"unavailable": reason}
        sizes = PatchEmbedSpec.from_dict(spec)
        probe = timing_probe(sizes, batch, dtype, seed, operation)
        unbiased = timing_probe(sizes, batch, dtype, seed, zero_bias=True)
        started = time.perf_counter()
        embedding = self.backend.load(chosen, unbiased.weights, sizes, dtype, self.device)
        times = {"load_seconds": time.perf_counter() - started}
        inputs, times["transfer_seconds"] = self.at.place(embedding, unbiased.images)
        placed_at = time.perf_counter()
        outputs, told = embedding.first_call(inputs)
        times["first_call_seconds"] = calls = time.perf_counter() - placed_at
        fingerprint = embedding.fetch(outputs)
        embedding.assign(PatchEmbedWeights(probe.weights.kernel, probe.weights.bias))
        inputs, _ = self.at.place(embedding, probe.images)
        computation = operation_of(embedding, operation, probe)
        if computation is None:
            return {"unavailable": f"{implementation} has no {operation}"}
        called_at = time.perf_counter()
        results = _results(computation, inputs)
        if operation != "tokens":
            times["first_call_seconds"], told = time.perf_counter() - called_at, FirstCall()
        self._keep(row, computation, inputs, cold, results)
        memory = self.at.peak_memory(computation, inputs)
        calls += time.perf_counter() - called_at
        return {
            "peak_memory_bytes": memory,
            "visit_seconds": calls,
            "results": {direction: _packed(array) for direction, array in results.items()},
            "fingerprint": _packed(fingerprint),
            **times,
            "trace_seconds": told.trace_seconds,
            "compile_seconds": told.compile_seconds,
        }

    def load_gemm(self, row: str, rows: int, depth: int, columns: int, dtype: str, cold: bool = False) -> dict[str, Any]:
        """Load a plain matrix product."""
        product = self.backend.gemm(rows, depth, columns, dtype, self.device)
        started = time.perf_counter()
        self.at.call(product, None)
        self._keep(row, product, None, cold)
        return {"visit_seconds": time.perf_counter() - started}

    def load_copy(self, row: str, values: int, dtype: str, cold: bool = False) -> dict[str, Any]:
        """Load a copy from one array to another, where the framework has one."""
        copy = self.backend.copy(values, dtype, self.device)
        if copy is None:
            return {"unavailable": f"{self.backend.name} has no copy that is worth timing"}
        self.at.call(copy, None)
        self._keep(row, copy, None, cold)
        return {"unavailable": None}

    def _keep(
        self, row: str, computation: Computation, inputs: Any, cold: bool, results: Mapping[Direction, NDArray[Any]] = NO_RESULTS
    ) -> None:
        digests = {direction: _digest(array) for direction, array in results.items()}
        self.loaded[row] = _Loaded(computation, inputs, cold, 1 if cold else self.at.repeat(computation, inputs), digests)

    def visit(self, row: str) -> dict[str, Any]:
        """One warm call, then one sample: seconds a call, synchronized; and the time and CPU time of both, which are not a neighbor's."""
        loaded = self.loaded[row]
        started, cpu_before = time.perf_counter(), time.process_time()
        self.at.call(loaded.computation, loaded.inputs)
        if loaded.cold:
            self.at.flush()
        sample = self.at.time(loaded.computation, loaded.inputs, loaded.repeat)
        loaded.wall_seconds += sample.wall_seconds
        loaded.cpu_seconds += sample.cpu_seconds
        visit = {"visit_seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_before}
        return {"seconds": sample.seconds, **visit}

    def state(self) -> dict[str, Any]:
        """CPU seconds that the whole machine has spent busy, and those that its host took from it; and the device's clock in MHz."""
        return {"busy": busy_seconds(), "clock_mhz": self.at.clock_mhz()}

    def finish(self, row: str) -> dict[str, Any]:
        """Drop a row; return the cores that its samples kept busy, the threads that takes, and the results of one more call where they are not, to the
        last bit, those that were judged before.

        CPU time of all threads over wall time tells how many computed at once; rounded up, that is the threads it takes. Counting
        threads would not tell: JAX and TensorFlow hand work to changing threads of several pools.
        """
        loaded = self.loaded.pop(row)
        cores = loaded.cpu_seconds / loaded.wall_seconds
        told = {
            "cores_busy": cores,
            "threads_observed": max(1, math.ceil(cores - CORE_SLACK)),
            "repeat": loaded.repeat,
            "timer": self.at.timer,
        }
        if isinstance(loaded.computation, (LoadedEmbedding, Operation)):
            started = time.perf_counter()
            results = _results(loaded.computation, loaded.inputs)
            told["visit_seconds"] = time.perf_counter() - started
            if {direction: _digest(array) for direction, array in results.items()} != loaded.digests:
                told["results"] = {direction: _packed(array) for direction, array in results.items()}
        return told


def _digest(array: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()


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
