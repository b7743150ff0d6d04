"""TensorFlow over several devices: `tf.distribute.MirroredStrategy`, which splits batches and
mirrors variables.

Without devices the CPU is several of them (`tf.config.set_logical_device_configuration`). Kernels
are never split: a strategy for that, `tf.experimental.dtensor`, refuses convolutions that are split
otherwise than by batch where the stride is not 1, or the device no TPU.
"""

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Backend, Implementation, Precision, only_ieee
from ..computation import FirstCall, LoadedEmbedding, called_twice
from ..device_work import Collective, DeviceWork
from ..layouts import HWIO, NHWC, images_to_layout, kernel_to_layout
from ..tensorflow import TensorFlowBackend, import_tensorflow
from .splits import (
    DEVICES,
    MODE,
    Window,
    lengthened,
    refuses_video,
    rounded_up,
    spatial_axis,
    split_of,
    units_of,
    windows,
)

PADDED = "-padded"
FORMULATIONS = ("batch-padded", "height-local", "width-local", "batch")
"""`batch` is cut as `experimental_distribute_dataset` does it, which leaves replicas without images
where there are too few; padded to equal parts, none. `-local` gives each replica the pixels that
its patches see: to the strategy they are a batch."""

SWITCH = "PATCHPARITY_TENSORFLOW_DEVICES"
"""How many devices TensorFlow makes of the CPU in a process where this stands. TensorFlow has no
such variable, and takes the number before its first computation alone."""

COLLECTIVE_NAMES = {
    "CollectiveGatherV2": "all-gather",
    "CollectiveReduceV2": "all-reduce",
    "CollectiveReduceV3": "all-reduce",
    "CollectiveAllToAllV3": "all-to-all",
}
"""TensorFlow's operators, by XLA's names."""


def too_few_devices() -> str | None:
    """Make several devices of the CPU where the switch asks for it; say why there are none, or None
    where there are."""
    wanted = f"{SWITCH}={DEVICES}"
    if os.environ.get(SWITCH) != str(DEVICES):
        return f"TensorFlow has one CPU device in this process: set {wanted} before it is used"
    config = import_tensorflow().config
    with contextlib.suppress(RuntimeError):  # it has been used: what it has then stands
        (cpu,) = config.list_physical_devices("CPU")
        if config.get_logical_device_configuration(cpu) is None:
            config.set_logical_device_configuration(
                cpu, [config.LogicalDeviceConfiguration()] * DEVICES
            )
    if len(config.list_logical_devices("CPU")) >= DEVICES:
        return None
    return f"TensorFlow was used in this process before {wanted} could hold"


@contextlib.contextmanager
def _without_advice(tf: Any) -> Iterator[None]:
    """Keep back that CPUs have no NCCL."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


@functools.cache
def _strategy() -> Any:
    tf = import_tensorflow()
    with _without_advice(tf):
        return tf.distribute.MirroredStrategy([f"CPU:{number}" for number in range(DEVICES)])


class _Embedding(LoadedEmbedding):
    def __init__(self, formulation: str, weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> None:
        tf = self.tf = import_tensorflow()
        self.spec, self.split = spec, split_of(formulation)
        self.padded = formulation.endswith(PADDED)
        self.strategy = _strategy()
        with self.strategy.scope():
            self.variables = [tf.Variable(array) for array in self._arrays(weights)]

        def convolve(images: Any) -> Any:
            grid = tf.nn.conv2d(images, self.variables[0], (1, *spec.stride, 1), "VALID")
            return tf.nn.bias_add(grid, self.variables[1]) if self.variables[1:] else grid

        def forward(images: Any) -> Any:
            return self.strategy.run(convolve, args=(images,))

        self.forward = tf.function(forward, autograph=False)

    def _arrays(self, weights: PatchEmbedWeights) -> list[NDArray[Any]]:
        kernel = np.array(kernel_to_layout(weights.kernel, HWIO), np.float32, order="C")
        return [kernel] if weights.bias is None else [kernel, np.array(weights.bias, np.float32)]

    def assign(self, weights: PatchEmbedWeights) -> None:
        for variable, array in zip(self.variables, self._arrays(weights), strict=True):
            variable.assign(array)

    def place(self, images: NDArray[Any]) -> Any:
        moved = np.array(images_to_layout(images, NHWC), np.float32, order="C")
        padding = ((0, 0), *self.spec.effective_padding, (0, 0))
        padded = np.pad(moved, padding) if any(map(any, padding)) else moved
        return self._distributed(padded), len(images)

    def _distributed(self, images: NDArray[Any]) -> Any:
        """Images on the replicas, each with its part of them."""
        tf, axis = self.tf, spatial_axis(self.split)
        if axis is None and not self.padded:
            with _without_advice(tf):
                dataset = tf.data.Dataset.from_tensors(images)
                return next(iter(self.strategy.experimental_distribute_dataset(dataset)))
        if axis is None:
            equal = lengthened(images, 0, rounded_up(max(len(images), 1), DEVICES))
            pieces = np.split(equal, DEVICES)
        else:
            pieces = [
                images[:, window.begin : window.end]
                if axis == 0
                else images[:, :, window.begin : window.end]
                for window in self._windows(axis)
                if window.last > window.first
            ]
            # TensorFlow's convolution knows no images without pixels: a replica without patches
            # computes the first one's, which nobody asks for.
            pieces += [pieces[0]] * (DEVICES - len(pieces))
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(pieces[context.replica_id_in_sync_group])
        )

    def _windows(self, axis: int) -> list[Window]:
        return windows(self.spec, axis, DEVICES)

    def call(self, inputs: Any) -> Any:
        images, batch = inputs
        return self.forward(images), batch

    def synchronize(self, outputs: Any) -> None:
        """On CPUs a call returns when it has computed."""

    def fetch(self, outputs: Any) -> NDArray[Any]:
        distributed, batch = outputs
        axis = spatial_axis(self.split)
        # `strategy.gather` says the same, and traces a function for every call: 0.3 s.
        grids = [np.asarray(each) for each in self.strategy.experimental_local_results(distributed)]
        if axis is not None:
            asked = [window.last > window.first for window in self._windows(axis)]
            grids = list(itertools.compress(grids, asked))
        grid = np.concatenate(grids, axis=0 if axis is None else 1 + axis)[:batch]
        rows, columns, width = grid.shape[1:]
        return np.ascontiguousarray(grid.reshape(len(grid), rows * columns, width))

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """Trace, then call."""
        images, batch = inputs
        started = time.perf_counter()
        self.forward.get_concrete_function(images)
        trace = time.perf_counter() - started
        outputs, beyond_the_second = called_twice(lambda: self.forward(images))
        return (outputs, batch), FirstCall(trace, beyond_the_second)

    def work(self, batch: int) -> DeviceWork:
        """What each replica does with images of zeros: operations from the shapes of the results,
        what is sent from the traced graph."""
        images, _ = self.place(np.zeros(self.spec.images_shape(batch), np.float32))
        graph = self.forward.get_concrete_function(images).graph
        read = self.strategy.experimental_local_results(images)
        given = self.strategy.experimental_local_results(self.forward(images))
        weights = sum(variable.shape.num_elements() for variable in self.variables)
        spec, itemsize = self.spec, np.dtype(np.float32).itemsize
        values = [int(np.prod(each.shape)) for each in given]
        sizes = [int(np.prod(each.shape)) + weights for each in read]
        whole = np.prod(spec.images_shape(batch)) + weights + np.prod(spec.tokens_shape(batch))
        return DeviceWork(
            units_of(self.split, spec, batch),
            tuple(2.0 * spec.patch_values * count for count in values),
            float(spec.flops(batch)),
            tuple(itemsize * (size + count) for size, count in zip(sizes, values, strict=True)),
            itemsize * int(whole),
            collectives_of(graph),
        )


def collectives_of(graph: Any) -> tuple[Collective, ...]:
    """The collectives of a traced graph; 0 bytes where a shape is known only when it runs."""
    return tuple(
        Collective(
            COLLECTIVE_NAMES[operation.type],
            (operation.outputs[0].shape.num_elements() or 0) * operation.outputs[0].dtype.size,
        )
        for operation in graph.get_operations()
        if operation.type in COLLECTIVE_NAMES
    )


class ShardedTensorFlowBackend(TensorFlowBackend):
    """`tf.distribute.MirroredStrategy` over the CPU as several devices."""

    name = "tensorflow-sharded"
    switches = {**TensorFlowBackend.switches, SWITCH: str(DEVICES)}
    implementations = tuple(
        # As TensorFlow's own: its CPU kernels flush to zero.
        Implementation(
            "tensorflow-sharded",
            formulation,
            MODE,
            NHWC,
            HWIO,
            dtypes=("float32",),
            devices=("cpu",),
            flush_to_zero=True,
            output_roundings=2,
            differentiable=False,
            slow_dtypes=("float32",),  # all devices share the cores: small shapes unless asked
        )
        for formulation in FORMULATIONS
    )

    @property
    def yardstick(self) -> str:
        """TensorFlow on one device."""
        return "tensorflow"

    @property
    def extra(self) -> str:
        """TensorFlow's own."""
        return "tensorflow"

    def unavailable(self, implementation: Implementation) -> str | None:
        """TensorFlow takes the number of devices once in a process."""
        return too_few_devices()

    def devices(self) -> tuple[str, ...]:
        """The CPU, as several devices."""
        return ("cpu",)

    def lacks(self, precision: Precision, device: str) -> str | None:
        """Float32 is computed as it is."""
        return only_ieee(self.name, precision)

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """Videos have a third axis."""
        return refuses_video(implementation.name, spec)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Mirror kernel and bias, and wrap the function."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec) or self.unavailable(implementation):
            raise PatchParityError(reason)
        return _Embedding(implementation.formulation, weights, spec)

    def device_work(
        self, implementation: Implementation, spec: PatchEmbedSpec, batch: int
    ) -> DeviceWork:
        """From the shapes that each replica has, and the traced graph."""
        weights = PatchEmbedWeights(
            np.zeros(spec.kernel_shape, np.float32), np.zeros(spec.embed_dim, np.float32)
        )
        return _Embedding(implementation.formulation, weights, spec).work(batch)

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """With patchparity."""
        return Backend.usage(self, implementation, spec, batch)


BACKENDS = (ShardedTensorFlowBackend(),)
