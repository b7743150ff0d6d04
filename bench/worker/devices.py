"""What a worker does with a device: place, synchronize, time, measure memory, empty its caches. One
contract for CPU and CUDA."""

import abc
import contextlib
import ctypes
import gc
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...backends.base import Backend
from ...backends.computation import Computation, LoadedEmbedding
from ...backends.registry import get_backend
from ...reference.errors import PatchParityError
from ..machine.readings import cpu_clock_mhz, gpu_clock_mhz


@dataclass(frozen=True)
class Sample:
    """One timed visit.

    Args:
        seconds: of one call, as the device's timer tells them.
        wall_seconds: that passed from before the calls until after them, all of them.
        cpu_seconds: that this process's threads computed meanwhile; of one thread never more than
            that, since `wall_seconds` holds the reading of both clocks. Reading this one takes 1 to
            5 µs, of samples that may last 100 µs.
    """

    seconds: float
    wall_seconds: float
    cpu_seconds: float


class Device(abc.ABC):
    """A device as one backend sees it in one process."""

    shortest_sample_seconds: float
    """A sample repeats its call until it lasts at least this long."""

    def __init__(self, backend: Backend, name: str) -> None:
        self.backend, self.name = backend, name
        self._other: Computation | None = None

    @property
    @abc.abstractmethod
    def timer(self) -> str:
        """How a call is timed: `wall` (each waited for), `events` (the device's own clock) or
        `amortized` (many calls, waited for once)."""

    @abc.abstractmethod
    def time(
        self, computation: Computation, inputs: Any, repeat: int, cold: bool = False
    ) -> Sample:
        """Time a call, repeated; all of it is computed when this returns. If `cold`, the cache is
        emptied right before."""

    @abc.abstractmethod
    def peak_memory(self, computation: Computation, inputs: Any) -> int | None:
        """Bytes by which the device's memory in use grows at most during one call, its result among
        them, weights and inputs not.

        None where nobody tells.
        """

    @abc.abstractmethod
    def cache_bytes(self) -> int:
        """Size of the last-level cache, or what it is at most where nobody tells."""

    @abc.abstractmethod
    def clock_mhz(self) -> int | None:
        """The device's clock now, or None where nobody tells."""

    def place(self, embedding: LoadedEmbedding, images: NDArray[Any]) -> tuple[Any, float]:
        """Move images to the device; return them, and the seconds until they are there."""
        started = time.perf_counter()
        inputs = embedding.place(images)
        embedding.synchronize(inputs)
        return inputs, time.perf_counter() - started

    def call(self, computation: Computation, inputs: Any) -> Any:
        """Call once and wait."""
        outputs = computation.call(inputs)
        computation.synchronize(outputs)
        return outputs

    def repeat(self, computation: Computation, inputs: Any) -> int:
        """How often a sample must repeat a call for the timer; the call has been made before."""
        first = math.ceil(self.shortest_sample_seconds / self.time(computation, inputs, 1).seconds)
        if first <= 1:
            return 1
        # Once more with as many: where calls are queued, one that is waited for takes longer than
        # its share.
        return max(
            first,
            math.ceil(self.shortest_sample_seconds / self.time(computation, inputs, first).seconds),
        )

    def other_data(self) -> Computation:
        """What fills the last-level cache with other data: twice its size is read and written. Its
        `call` takes None."""
        if self._other is None:
            self._other = self._sweep(2 * self.cache_bytes() // 4)
        return self._other

    def _sweep(self, values: int) -> Computation:
        swept = self.backend.sweep(values, self.name)
        if swept is None:
            raise PatchParityError(
                f"{self.backend.name} cannot empty the cache of {self.name}: it has neither a copy "
                "nor a sweep there"
            )
        return swept

    def flush(self) -> None:
        """Fill the last-level cache with other data, and wait."""
        self.call(self.other_data(), None)


class CpuDevice(Device):
    """The CPU: every call is waited for, and the kernel knows the memory."""

    shortest_sample_seconds = 1e-4
    """The clock resolves 50 ns and reading it costs as much: 0.1%."""
    timer = "wall"

    def _sweep(self, values: int) -> Computation:
        """By NumPy, where the framework has nothing for it: the cache is the same."""
        sweep = self.backend.sweep(values, self.name) or get_backend("numpy").copy(
            values, "float32", self.name
        )
        assert sweep is not None  # NumPy has a copy
        return sweep

    def time(
        self, computation: Computation, inputs: Any, repeat: int, cold: bool = False
    ) -> Sample:
        """Wall time of calls that are waited for one by one, the garbage collector held."""
        if cold:
            self.flush()
        call, synchronize = computation.call, computation.synchronize
        gc.disable()
        began, cpu_before, started = time.perf_counter(), time.process_time(), time.perf_counter()
        for _ in range(repeat):
            synchronize(call(inputs))
        seconds, cpu_seconds, wall = (
            time.perf_counter() - started,
            time.process_time() - cpu_before,
            time.perf_counter() - began,
        )
        gc.enable()
        return Sample(seconds / repeat, wall, cpu_seconds)

    def peak_memory(self, computation: Computation, inputs: Any) -> int | None:
        """By how much the process grows (Linux), to the page, and to what other threads free
        meanwhile.

        Free blocks are returned to the system first, and the kernel's high-water mark is set back
        (proc(5), clear_refs), so that what an earlier call left behind is neither counted nor used
        again unseen.
        """
        try:
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            before = _status_bytes("VmRSS")
            self.call(computation, inputs)
            return max(0, _status_bytes("VmHWM") - before)
        except (OSError, AttributeError, LookupError):
            return None

    def clock_mhz(self) -> int | None:
        """As Linux tells it."""
        return cpu_clock_mhz()

    def cache_bytes(self) -> int:
        """As Linux tells it; 64 MiB where it does not."""
        sizes = []
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                text = path.read_text().strip()
                sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]])
        return max(sizes, default=64 * 2**20)


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise LookupError(field)


class CudaDevice(Device):
    """A CUDA GPU: calls are queued one after another, and timed by events in the queue where the
    framework has them.

    Something is queued ahead of the first event, so that the GPU does not wait for the first launch
    while its clock runs. Without events many calls are queued and waited for once: work is done in
    the order in which it was queued, so the last result is the end of all, and one launch and one
    wait are spread over them.
    """

    shortest_sample_seconds = 10e-3
    """A launch takes up to 100 µs of Python (H200: `torch.nn.Conv2d` and `jax.jit` of one patch),
    waiting for a GPU about 10, and events resolve 0.5 µs (CUDA, cudaEventElapsedTime): 1% of
    this."""

    def __init__(self, backend: Backend, name: str) -> None:
        super().__init__(backend, name)
        self.events = backend.events(name)
        self.memory = backend.device_memory(name)

    @property
    def timer(self) -> str:
        """Events where there are any."""
        return "amortized" if self.events is None else "events"

    def time(
        self, computation: Computation, inputs: Any, repeat: int, cold: bool = False
    ) -> Sample:
        """Seconds between two events around the calls, or until the last result is there, over the
        number of calls."""
        call, events = computation.call, self.events
        if events is not None:
            ahead = self.other_data().call(None) if cold else call(inputs)
        elif cold:
            self.flush()
        gc.disable()
        began, cpu_before, started = time.perf_counter(), time.process_time(), time.perf_counter()
        begin = None if events is None else events.mark()
        for _ in range(repeat):
            outputs = call(inputs)
        end = None if events is None else events.mark()
        computation.synchronize(outputs)
        seconds, cpu_seconds, wall = (
            time.perf_counter() - started,
            time.process_time() - cpu_before,
            time.perf_counter() - began,
        )
        gc.enable()
        if events is None:
            return Sample(seconds / repeat, wall, cpu_seconds)
        del ahead
        return Sample(events.seconds(begin, end) / repeat, wall, cpu_seconds)

    def peak_memory(self, computation: Computation, inputs: Any) -> int | None:
        """As the framework's allocator tells it."""
        if self.memory is None:
            return None
        before = self.memory.reset_peak()
        if before is None:
            return None
        outputs = self.call(computation, inputs)
        peak = self.memory.peak()
        del outputs
        return max(0, peak - before)

    def clock_mhz(self) -> int | None:
        """As `nvidia-smi` tells it."""
        return gpu_clock_mhz()

    def cache_bytes(self) -> int:
        """128 MiB: no L2 is larger to this day (A100 40, H100 and H200 50, B200 126 MB)."""
        return 128 * 2**20


def open_device(backend: Backend, name: str) -> Device:
    """The device of a name, as a backend sees it."""
    return CudaDevice(backend, name) if name == "cuda" else CpuDevice(backend, name)
