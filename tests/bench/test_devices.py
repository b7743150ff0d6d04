"""The device layer's contract, the same for CPU and CUDA; a queue in a thread stands in for a GPU
where there is none."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    get_backend,
    list_backends,
)
from patchparity.backends.computation import Computation, DeviceMemory, Events
from patchparity.backends.numpy import NumPyBackend
from patchparity.bench.machine import disturbance
from patchparity.bench.machine.disturbance import Disturbance
from patchparity.bench.worker import server as serving
from patchparity.bench.worker.devices import CpuDevice, CudaDevice, open_device

SPEC = PatchEmbedSpec((12, 20), 4, 3, 40)
NAP = 0.004


class Queued(Computation):
    """Work that a device does in the order in which it was queued; `call` returns at once."""

    def __init__(self, queue, work):
        self.queue, self.work = queue, work

    def call(self, inputs):
        return self.queue.submit(self.work, inputs)

    def synchronize(self, outputs):
        outputs.result()


class QueueEvents(Events):
    def __init__(self, queue):
        self.queue = queue

    def mark(self):
        return self.queue.submit(time.perf_counter)

    def seconds(self, begin, end):
        return end.result() - begin.result()


class CountedMemory(DeviceMemory):
    """An allocator of which a test says what it holds."""

    def __init__(self):
        self.used = self.most = 1000

    def take(self, amount):
        self.used += amount
        self.most = max(self.most, self.used)

    def reset_peak(self):
        self.most = self.used
        return self.used

    def peak(self):
        return self.most


class QueueBackend(NumPyBackend):
    """What a CUDA framework looks like from outside."""

    def __init__(self, with_events):
        self.queue, self.with_events, self.allocator = (
            ThreadPoolExecutor(1),
            with_events,
            CountedMemory(),
        )

    def events(self, device):
        return QueueEvents(self.queue) if self.with_events else None

    def device_memory(self, device):
        return self.allocator

    def sweep(self, values, device):
        self.swept = values
        return Queued(self.queue, lambda _: np.ones(values, np.float32).sum())


class SweptBackend(NumPyBackend):
    """NumPy, and how much it was asked to sweep over."""

    def sweep(self, values, device):
        self.swept = values
        return super().sweep(values, device)


@pytest.fixture(params=["cpu", "events", "amortized"])
def device(request):
    if request.param == "cpu":
        return CpuDevice(SweptBackend(), "cpu")
    return CudaDevice(QueueBackend(request.param == "events"), "cuda")


def computation(device, work):
    if isinstance(device, CudaDevice):
        return Queued(device.backend.queue, work)

    class Direct(Computation):
        def call(self, inputs):
            return work(inputs)

        def synchronize(self, outputs):
            pass

    return Direct()


def test_time_is_that_of_the_work_and_not_of_queuing_it(device):
    done = []
    sleeper = computation(device, lambda _: (time.sleep(NAP), done.append(1)))
    sample = device.time(sleeper, None, 5)
    ahead = isinstance(device, CudaDevice) and device.backend.with_events
    assert len(done) == 5 + ahead, "all of it is computed when the timer stops"
    assert sample.seconds >= NAP
    assert sample.wall_seconds >= 5 * NAP
    assert device.timer == (
        "wall"
        if isinstance(device, CpuDevice)
        else "events"
        if device.backend.with_events
        else "amortized"
    )


def test_the_time_that_threads_computed_is_told_apart_from_the_time_that_passed(device):
    def burn(_):
        end = time.thread_time() + NAP
        while time.thread_time() < end:
            pass

    sample = device.time(computation(device, burn), None, 5)
    assert sample.cpu_seconds >= 5 * NAP, "of whichever thread"
    asleep = device.time(computation(device, lambda _: time.sleep(50 * NAP)), None, 1)
    assert asleep.cpu_seconds < 25 * NAP, (
        "it slept for twice as long, whatever else this process does meanwhile"
    )


def test_one_thread_is_never_taken_for_two_however_long_reading_its_cpu_time_takes(
    device, monkeypatch
):
    """A sample may last 100 µs, and some machines take a tenth of that to tell a process's CPU
    time."""
    read = time.process_time

    def slow():
        burn(NAP / 2)
        told = read()
        burn(NAP / 2)
        return told

    monkeypatch.setattr(time, "process_time", slow)
    sample = device.time(computation(device, lambda _: burn(NAP / 4)), None, 1)
    assert sample.cpu_seconds >= NAP
    assert sample.cpu_seconds <= sample.wall_seconds
    assert sample.seconds + 2 * NAP <= sample.wall_seconds, "reading it is not timed"


def burn(seconds):
    """Compute for so long, whatever else the machine does meanwhile."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_what_was_queued_before_is_not_counted_by_events():
    device = CudaDevice(QueueBackend(True), "cuda")
    device.backend.queue.submit(time.sleep, 50 * NAP)
    sample = device.time(Queued(device.backend.queue, lambda _: time.sleep(NAP)), None, 1)
    assert sample.seconds < 50 * NAP <= sample.wall_seconds + NAP


def test_the_first_launch_is_not_counted_by_events():
    device, launches = CudaDevice(QueueBackend(True), "cuda"), []

    class SlowToLaunch(Queued):
        def call(self, inputs):
            if not launches:
                time.sleep(50 * NAP)
            launches.append(1)
            return super().call(inputs)

    sample = device.time(SlowToLaunch(device.backend.queue, lambda _: time.sleep(NAP)), None, 5)
    assert NAP <= sample.seconds < 10 * NAP


def test_a_cold_call_comes_right_after_other_data(device):
    order = []
    device._other = computation(device, lambda _: order.append("other"))
    device.time(computation(device, lambda _: order.append("call")), None, 1, cold=True)
    assert order == ["other", "call"]


def test_calls_that_are_queued_are_repeated_by_what_they_take_and_not_by_the_wait():
    device = CudaDevice(QueueBackend(True), "cuda")
    wait, take = 4 * NAP, device.shortest_sample_seconds / 20

    class LongWait(Queued):
        def synchronize(self, outputs):
            time.sleep(wait)
            super().synchronize(outputs)

    assert device.repeat(LongWait(device.backend.queue, lambda _: time.sleep(take)), None) > 10


def test_short_calls_are_repeated_until_the_timer_can_tell(device):
    assert (
        device.repeat(
            computation(device, lambda _: time.sleep(2 * device.shortest_sample_seconds)), None
        )
        == 1
    )
    assert device.repeat(computation(device, lambda _: None), None) > 1


def test_placed_images_are_there_and_right(device):
    generator = np.random.default_rng(0)
    weights = PatchEmbedWeights(
        generator.standard_normal(SPEC.kernel_shape).astype("float32"), np.ones(40, "float32")
    )
    numpy = get_backend("numpy")
    loaded = numpy.load(numpy.implementation("numpy:linear:eager"), weights, SPEC, "float32", "cpu")
    images = generator.standard_normal(SPEC.images_shape(3)).astype("float32")
    inputs, seconds = device.place(loaded, images)
    np.testing.assert_array_equal(loaded.fetch(device.call(loaded, inputs)), loaded.tokens(images))
    assert seconds > 0


def test_memory_of_a_call_is_what_it_takes_at_its_peak(device):
    size = 64 * 2**20

    def work(_):
        if isinstance(device, CudaDevice):
            device.backend.allocator.take(size)
            device.backend.allocator.take(-size // 2)
            return None
        held = np.ones(size // 8)
        return held[: size // 16].copy()

    expected = size if isinstance(device, CudaDevice) else size * 3 // 2
    # pages that the interpreter and other threads take or give back meanwhile: some MB of 96
    slack = 0.1 * expected
    assert device.peak_memory(computation(device, work), None) == pytest.approx(expected, abs=slack)
    again = device.peak_memory(computation(device, work), None)
    assert again == pytest.approx(expected, abs=slack), "an earlier peak is forgotten"


def test_an_allocator_that_does_not_forget_its_peak_tells_nothing():
    device = CudaDevice(QueueBackend(False), "cuda")
    device.memory.reset_peak = lambda: None
    assert device.peak_memory(Queued(device.backend.queue, lambda _: None), None) is None
    device.memory = None
    assert device.peak_memory(Queued(device.backend.queue, lambda _: None), None) is None


def test_flushing_passes_over_twice_the_cache(device):
    device.flush()
    device.flush()
    assert device.cache_bytes() >= 2**18, "no last-level cache is smaller than 256 KiB"
    assert 4 * device.backend.swept == 2 * device.cache_bytes()


def real():
    """Backends that are installed and themselves in this process."""
    for backend in list_backends():
        here = all(os.environ.get(name) == value for name, value in backend.switches.items())
        if here and backend.missing() is None:
            yield backend


@pytest.mark.parametrize("backend", real(), ids=lambda backend: backend.name)
def test_every_backend_has_something_to_empty_a_cache_with_and_cuda_where_there_is_one(backend):
    for name in backend.devices():
        device = open_device(backend, name)
        implementation = backend.implementations[0]
        weights = PatchEmbedWeights(np.ones(SPEC.kernel_shape, "float32"), np.zeros(40, "float32"))
        loaded = backend.load(implementation, weights, SPEC, "float32", name)
        inputs, _ = device.place(loaded, np.ones(SPEC.images_shape(2), "float32"))
        device.flush()
        assert device.time(loaded, inputs, device.repeat(loaded, inputs)).seconds > 0
        assert (loaded.fetch(device.call(loaded, inputs)) == 48).all()
        device.peak_memory(loaded, inputs)


def test_a_framework_without_anything_to_empty_a_gpu_cache_with_says_so():
    with pytest.raises(PatchParityError, match="onnxruntime cannot empty the cache of cuda"):
        CudaDevice(get_backend("onnxruntime"), "cuda").flush()


def test_a_visit_is_warm_calls_and_then_a_sample_of_repeated_ones(monkeypatch):
    server = serving.Server()
    server.start("numpy", "cpu", "ieee")
    calls = []

    class Counted(Computation):
        def call(self, inputs):
            calls.append("called")
            return time.sleep(0.001)

        def synchronize(self, outputs):
            calls.append("waited for")

    server.at.flush = lambda: calls.append("flushed")
    for warm_seconds, cold, repeat, warm in (
        (0.0, False, 3, 1),
        (0.0, True, 1, 1),
        (1e9, True, 1, 1),
    ):
        monkeypatch.setattr(serving, "WARM_SECONDS", warm_seconds)
        server.loaded["r"] = serving.Loaded(Counted(), None, cold, repeat, {})
        calls.clear()
        told = server.visit("r")
        assert calls == [
            *(["called", "waited for"] * warm),
            *(["flushed"] if cold else []),
            *(["called", "waited for"] * repeat),
        ]
        assert 0.001 <= told["seconds"] < told["visit_seconds"]
    monkeypatch.setattr(serving, "WARM_SECONDS", 0.01)
    server.loaded["r"] = serving.Loaded(Counted(), None, False, 1, {})
    calls.clear()
    told = server.visit("r")
    assert len(calls) > 4, "calls of a millisecond are warmed up by several"
    assert told["visit_seconds"] > 0.01


def test_what_others_do_to_a_machine_is_told_round_by_round(monkeypatch):
    now = SimpleNamespace(wall=10.0, cpu=3.0)
    monkeypatch.setattr(
        disturbance,
        "time",
        SimpleNamespace(perf_counter=lambda: now.wall, process_time=lambda: now.cpu),
    )

    def round_of(busy_before, busy_after, ours, here=True, own=0.1):
        states = iter([{"busy": busy_before}, {"busy": busy_after}])
        # Asking for the clock takes time of its own: only after the round, and after what is
        # watched.
        watched = Disturbance(
            lambda clock: {**next(states), "clock_mhz": 1980 if clock else None}, here
        )
        now.wall, now.cpu = now.wall + 2.0, now.cpu + own
        return watched.sample_fields(ours)

    quiet = round_of((100.0, 1.0), (102.2, 1.0), ours=2.0)
    assert quiet == {
        "disturbance": pytest.approx(0.05),
        "steal": 0.0,
        "disturbed": False,
        "clock_mhz": 1980,
    }
    beside = round_of((100.0, 1.0), (103.9, 1.6), ours=1.9)
    assert (beside["disturbance"], beside["steal"], beside["disturbed"]) == (
        pytest.approx(0.95),
        pytest.approx(0.3),
        True,
    )
    assert round_of((100.0, 1.0), (102.0, 1.0), ours=1.9, here=False)[
        "disturbance"
    ] == pytest.approx(0.05), "we are elsewhere"
    within_the_ticks = round_of((100.0, 0.0), (102.615, 0.0), ours=2.0)
    assert within_the_ticks["disturbance"] > disturbance.DISTURBED_CORES
    assert not within_the_ticks["disturbed"]
    assert round_of(None, None, ours=1.0) == {
        "disturbance": None,
        "steal": None,
        "disturbed": False,
        "clock_mhz": 1980,
    }
    assert Disturbance(lambda clock: None, True).sample_fields(1.0)["disturbance"] is None, (
        "a worker that does not answer"
    )


def test_a_clock_that_takes_time_to_ask_is_asked_after_what_is_watched(monkeypatch):
    server, asked = serving.Server(), []
    server.at = SimpleNamespace(clock_mhz=lambda: asked.append("clock"))
    monkeypatch.setattr(serving, "busy_seconds", lambda: asked.append("busy"))
    server.state(clock=False)
    server.state(clock=True)
    assert asked == ["busy", "busy", "clock"]


def test_the_clock_is_what_nvidia_smi_tells(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 1755\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert CudaDevice(QueueBackend(True), "cuda").clock_mhz() == 1755
    program.write_text("#!/bin/sh\necho '[N/A]'\n")
    assert CudaDevice(QueueBackend(True), "cuda").clock_mhz() is None
