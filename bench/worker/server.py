"""The worker's side: what it does for each request, in a process of its own; plain data in and
out."""

import contextlib
import gc
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.base import check_precision
from ...backends.computation import Computation, FirstCall, LoadedEmbedding, Operation
from ...backends.registry import get_backend, list_backends
from ...porting.files.checkpoint import first_line
from ...porting.objects.implementation import OBJECT_MODE, ObjectEmbedding, find_implementation
from ...reference.expectation import Direction
from ...reference.quantize import Lattice, Quantization
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights, SequenceLayout
from ..machine.environment import describe_environment
from ..machine.readings import busy_seconds
from .devices import open_device
from .operations import (
    FINGERPRINT_IMAGES,
    forget_problems,
    operation_of,
    results_of,
    timing_probe,
    twin_operation,
)

CORE_SLACK = 0.1
"""Cores above a whole number that do not count as one more thread. TensorFlow keeps a helper thread
busy at 0.05 of a core; a second thread of a matrix product adds 0.5 and more."""


WARM_SECONDS = 0.004
"""A visit warms up for at least so long, and by one call at least. Processes take turns, and what
one finds in the caches after the others does not recover in one call of a millisecond: the A/A
copy, whose process is visited once a round and the reference's several times, was slower by 1 to 2%
(ViT-Ti/16, 0.6 ms) and by 2 to 6% (Swin, 1.9 ms) with one call, by 0.4 and 0.8% with 4 ms; 10 ms
were no better for Swin."""


@dataclass
class Loaded:
    """Something to time in a worker: a computation, its placed inputs, how often a sample repeats
    it, what its results were, the time that its samples took, and the steps of its integers."""

    computation: Computation
    inputs: Any
    cold: bool
    repeat: int
    digests: dict[Direction, bytes]
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: dict[str, Any] | None = None


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """No garbage is looked for while a framework is imported, nor later among what stays of that: a
    million objects, which takes a third of TensorFlow's import, and 0.2 s each time after it."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


NO_RESULTS: Mapping[Direction, NDArray[Any]] = MappingProxyType({})


class Server:
    """The worker's side: one method for each request, plain data in and out.

    Args:
        home: cores that it computes on once everything is imported; None for those that it has.
    """

    def __init__(self, home: list[int] | None = None) -> None:
        self.home = home

    def describe(self) -> dict[str, Any]:
        """Tell of the machine."""
        return describe_environment(list_backends())

    def start(
        self, backend: str, device: str, precision: str, implementations: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Import the framework and hold its precision; say why the device cannot be used, if so.

        Args:
            backend, device, precision: of the worker.
            implementations: those that will be loaded: what they import beside the framework is
                imported here, where workers import side by side.
        """
        with _no_garbage():
            return self._start(backend, device, precision, implementations)

    def _start(
        self, backend: str, device: str, precision: str, implementations: Sequence[str]
    ) -> dict[str, Any]:
        self.backend, self.device = get_backend(backend), device
        check_precision(precision)
        self.loaded: dict[str, Loaded] = {}
        reason = self.backend.missing()
        if reason is None and device not in (devices := self.backend.devices()):
            reason = f"{backend} has no device {device!r} here, only {', '.join(devices)}"
        if reason is None:
            self.precision = self.backend.precision(precision)  # type: ignore[arg-type]
            self.precision.__enter__()  # held for the life of the process
            self.at = open_device(self.backend, device)
            for name in implementations:
                # what is wrong with one is told when it is loaded
                with contextlib.suppress(Exception):
                    self.backend.unavailable(find_implementation(name))
        if self.home is not None:
            # threads that are there; later ones inherit it
            for task in Path("/proc/self/task").iterdir():
                with contextlib.suppress(OSError):  # one that has ended meanwhile
                    os.sched_setaffinity(int(task.name), self.home)
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
        """Load an implementation, call it on the twin without bias and do its operation on the
        timed problem; what comes out goes back to be judged."""
        chosen = find_implementation(implementation)
        somebodys = chosen.mode == OBJECT_MODE
        if not somebodys and (
            reason := self.backend.unavailable(chosen)
            or self.backend.lacks_dtype(chosen, dtype, self.device)
        ):
            return {"unavailable": reason}
        sizes = PatchEmbedSpec.from_dict(spec)
        probe = timing_probe(sizes, batch, dtype, seed, operation, False)
        unbiased = timing_probe(sizes, batch, dtype, seed, twin_operation(operation), True)
        started = time.perf_counter()
        if somebodys:
            embedding: LoadedEmbedding = ObjectEmbedding(chosen, sizes, dtype, self.device)
        else:
            embedding = self.backend.load(chosen, unbiased.weights, sizes, dtype, self.device)
        times = {"load_seconds": time.perf_counter() - started}
        inputs, times["transfer_seconds"] = self.at.place(embedding, unbiased.images)
        placed_at = time.perf_counter()
        outputs, first_call = embedding.first_call(inputs)
        times["first_call_seconds"] = calls = time.perf_counter() - placed_at
        fingerprint = embedding.fetch(outputs)[:FINGERPRINT_IMAGES]
        steps_of_twin = embedding.quantization(unbiased.images)
        embedding.assign(PatchEmbedWeights(probe.weights.kernel, probe.weights.bias))
        inputs, _ = self.at.place(embedding, probe.images)
        computation = operation_of(embedding, operation, probe)
        if computation is None:
            return {"unavailable": f"{implementation} has no {operation}"}
        called_at = time.perf_counter()
        results = results_of(computation, inputs)
        if operation != twin_operation(operation):
            times["first_call_seconds"], first_call = time.perf_counter() - called_at, FirstCall()
        self._keep(row, computation, inputs, cold, results)
        self.loaded[row].steps = steps = _packed_steps(embedding.quantization(probe.images))
        memory = self.at.peak_memory(computation, inputs)
        calls += time.perf_counter() - called_at
        # Less than the results: they lie in arrays or pages that are kept from call to call, and
        # what else does cannot be told.
        whole = memory is not None and memory >= sum(array.nbytes for array in results.values())
        return {
            "weights": _packed_weights(embedding.weights)
            if isinstance(embedding, ObjectEmbedding)
            else None,
            "peak_memory_bytes": memory if whole else None,
            "visit_seconds": calls,
            "results": {direction: _packed(array) for direction, array in results.items()},
            "fingerprint": _packed(fingerprint),
            "steps": steps,
            "steps_of_twin": _packed_steps(steps_of_twin),
            **times,
            "trace_seconds": first_call.trace_seconds,
            "compile_seconds": first_call.compile_seconds,
        }

    def load_gemm(
        self, row: str, rows: int, depth: int, columns: int, dtype: str, cold: bool = False
    ) -> dict[str, Any]:
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
        self,
        row: str,
        computation: Computation,
        inputs: Any,
        cold: bool,
        results: Mapping[Direction, NDArray[Any]] = NO_RESULTS,
    ) -> None:
        digests = {direction: _digest(array) for direction, array in results.items()}
        self.loaded[row] = Loaded(
            computation, inputs, cold, 1 if cold else self.at.repeat(computation, inputs), digests
        )

    def visit(self, row: str) -> dict[str, Any]:
        """Warm calls, then one sample: seconds a call, synchronized; and the time and CPU time of
        both, which are not a neighbor's."""
        loaded = self.loaded[row]
        started, cpu_before = time.perf_counter(), time.process_time()
        self.at.call(loaded.computation, loaded.inputs)
        while time.perf_counter() - started < WARM_SECONDS and not loaded.cold:
            self.at.call(loaded.computation, loaded.inputs)
        sample = self.at.time(loaded.computation, loaded.inputs, loaded.repeat, loaded.cold)
        loaded.wall_seconds += sample.wall_seconds
        loaded.cpu_seconds += sample.cpu_seconds
        visit = {
            "visit_seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_before,
        }
        return {"seconds": sample.seconds, **visit}

    def state(self, clock: bool) -> dict[str, Any]:
        """CPU seconds that the whole machine has spent busy, and those that its host took from it;
        then, if asked, the device's clock in MHz.

        Asking a GPU's clock takes a process some 50 ms, which would pass for a neighbor's if it
        came first.
        """
        busy = busy_seconds()
        return {"busy": busy, "clock_mhz": self.at.clock_mhz() if clock else None}

    def finish(self, row: str) -> dict[str, Any]:
        """Drop a row; return the cores that its samples kept busy, the threads that takes, and the
        results of one more call where they are not, to the last bit, those that were judged before.

        CPU time of all threads over wall time tells how many computed at once; rounded up, that is
        the threads it takes. Counting threads would not tell: JAX and TensorFlow hand work to
        changing threads of several pools.
        """
        loaded = self.loaded.pop(row)
        cores = loaded.cpu_seconds / loaded.wall_seconds
        answer = {
            "cores_busy": cores,
            "threads_observed": max(1, math.ceil(cores - CORE_SLACK)),
            "repeat": loaded.repeat,
            "timer": self.at.timer,
        }
        if isinstance(loaded.computation, (LoadedEmbedding, Operation)):
            started = time.perf_counter()
            results = results_of(loaded.computation, loaded.inputs)
            answer["visit_seconds"] = time.perf_counter() - started
            if {
                direction: _digest(array) for direction, array in results.items()
            } != loaded.digests:
                answer["results"] = {
                    direction: _packed(array) for direction, array in results.items()
                }
                whose = getattr(loaded.computation, "embedding", loaded.computation)
                answer["steps"] = loaded.steps
                answer["weights"] = (
                    _packed_weights(whose.weights) if isinstance(whose, ObjectEmbedding) else None
                )
        del loaded
        if not self.loaded:
            forget_problems()
        return answer


def _digest(array: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes()).digest()


def _packed(array: NDArray[Any]) -> tuple[bytes, tuple[int, ...], str]:
    return np.ascontiguousarray(array).tobytes(), array.shape, array.dtype.name


def _packed_weights(weights: PatchEmbedWeights) -> dict[str, Any]:
    arrays = {name: value for name, value in vars(weights).items() if isinstance(value, np.ndarray)}
    return {
        "arrays": {name: _packed(array) for name, array in arrays.items()},
        "layout": dict(vars(weights.layout)),
    }


def _packed_steps(steps: Quantization | None) -> dict[str, Any] | None:
    if steps is None:
        return None
    lattices = {name: getattr(steps, name) for name in ("kernel", "pixels", "tokens")}
    packed = {
        name: [_packed(part) for part in (lattice.step, lattice.low, lattice.high)]
        for name, lattice in lattices.items()
        if lattice is not None
    }
    return {**packed, "bias": None if steps.bias is None else _packed(steps.bias)}


def unpacked_steps(packed: dict[str, Any] | None) -> Quantization | None:
    """Return the steps of integers that a worker packed."""
    if packed is None:
        return None
    lattices = {
        name: Lattice(*map(unpacked, parts)) for name, parts in packed.items() if name != "bias"
    }
    return Quantization(**lattices, bias=packed["bias"] and unpacked(packed["bias"]))


def unpacked_weights(packed: dict[str, Any]) -> PatchEmbedWeights:
    """Return the weights that a worker packed: somebody's own."""
    arrays: dict[str, Any] = {name: unpacked(array) for name, array in packed["arrays"].items()}
    return PatchEmbedWeights(**arrays, layout=SequenceLayout(**packed["layout"]))


def unpacked(packed: tuple[bytes, tuple[int, ...], str]) -> NDArray[Any]:
    """Return the array that a worker packed."""
    content, shape, dtype = packed
    return np.frombuffer(content, np.dtype(dtype)).reshape(shape)


def serve(channel: Any, home: list[int] | None) -> None:
    """Answer requests until None comes; runs in the worker process, and ends it there: it has
    nothing to save, and a framework takes seconds to put its house in order."""
    server = Server(home)
    while (request := channel.receive()) is not None:
        action, arguments = request
        try:
            answer = getattr(server, action)(**arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
        channel.send(answer)
    os._exit(0)
