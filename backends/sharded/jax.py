"""JAX over several devices: `jax.jit` of a convolution whose arguments are sharded
(`jax.sharding.NamedSharding`); XLA's partitioner decides the rest.

Without devices the CPU is several of them (`--xla_force_host_platform_device_count`). Nothing is
ever wrong here. What XLA cannot split it gathers, without a word.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Backend, Implementation, Precision, only_ieee
from ..computation import FirstCall, LoadedEmbedding
from ..device_work import Collective, DeviceWork
from ..jax.adapter import JaxBackend, first_call_told
from ..layouts import HWIO, NHWC, images_to_layout, kernel_to_layout
from ..runtime import require_patch_fits
from .splits import (
    DEVICES,
    MODE,
    Split,
    lengthened,
    refuses_video,
    rounded_up,
    spatial_axis,
    split_of,
    units_of,
    whole_extent,
    whole_padding,
)

AXIS = "devices"
WHOLE = "-whole"
FORMULATIONS = (
    "batch",
    "output-channels",
    "input-channels",
    "height-whole",
    "width-whole",
    "height",
    "width",
)
"""`height` and `width` split pixels wherever they divide, and give tokens `(B, N, D)`; behind
`-whole` each device has whole strides, and the result stays a grid, of which columns can stay
split."""

SPLIT_AXES: dict[Split, tuple[int | None, int | None]] = {
    "batch": (0, None),
    "output-channels": (None, 3),
    "input-channels": (3, 2),
    "height": (1, None),
    "width": (2, None),
}
"""The axis of images `(B, H, W, C)` and of the kernel `(H, W, C, D)` that each split cuts."""

DEVICE_FLAG = "xla_force_host_platform_device_count"

_COLLECTIVE = re.compile(
    r"= (?P<shape>\S+|\(.*?\)) (?P<name>all-gather|all-reduce|all-to-all|collective-permute|"
    r"reduce-scatter|collective-broadcast)(?:-start)?\("
)
_SHAPE = re.compile(r"\b[a-z]+(?P<bits>\d+)\[(?P<sizes>[\d,]*)\]")


def collectives_of(program: str) -> tuple[Collective, ...]:
    """The collectives of a compiled program's text, in order, with the bytes of their results."""
    return tuple(
        Collective(found["name"], _result_size(found["shape"]))
        for found in _COLLECTIVE.finditer(program)
    )


def _result_size(shape: str) -> int:
    """Bytes of `f32[8,28,40]{2,1,0}`, or of several in brackets."""
    return sum(
        int(np.prod([int(size) for size in found["sizes"].split(",") if size], dtype=np.int64))
        * int(found["bits"])
        // 8
        for found in _SHAPE.finditer(shape)
    )


class _Layout:
    """How images, kernel and bias of a formulation are lengthened, sharded and convolved."""

    def __init__(self, formulation: str, spec: PatchEmbedSpec) -> None:
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        self.spec, self.split = spec, split_of(formulation)
        self.whole = formulation.endswith(WHOLE)
        self.image_axis, self.kernel_axis = SPLIT_AXES[self.split]
        mesh = Mesh(np.array(jax.devices("cpu")[:DEVICES]), (AXIS,))
        width_is_split = self.split == "output-channels"

        def sharding(axis: int | None, ndim: int) -> Any:
            names = [AXIS if each == axis else None for each in range(ndim)]
            return NamedSharding(mesh, PartitionSpec(*names))

        self.shardings = (
            sharding(self.image_axis, 4),
            sharding(self.kernel_axis, 4),
            sharding(0 if width_is_split else None, 1),
        )
        self.padding = [tuple(pair) for pair in spec.effective_padding]
        axis = spatial_axis(self.split)
        if self.whole and axis is not None:
            self.padding[axis] = whole_padding(spec, axis)

    def images(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images `(B, C, H, W)` as `(B, H, W, C)`, the axis that is split long enough for it."""
        moved = images_to_layout(images, NHWC)
        if self.image_axis is None:
            return moved
        axis = spatial_axis(self.split)
        if axis is None or not self.whole:
            extent = rounded_up(moved.shape[self.image_axis], DEVICES)
            return lengthened(moved, self.image_axis, extent)
        extent = whole_extent(self.spec, axis, DEVICES)
        # What no patch sees is left out, or devices would share it.
        seen = moved[:, :extent] if axis == 0 else moved[:, :, :extent]
        return lengthened(seen, self.image_axis, extent)

    def kernel(self, weights: PatchEmbedWeights) -> NDArray[Any]:
        """The kernel as `(H, W, C, D)`, the axis that is split long enough for it."""
        kernel = kernel_to_layout(weights.kernel, HWIO)
        axis = self.kernel_axis
        return (
            kernel
            if axis is None
            else lengthened(kernel, axis, rounded_up(kernel.shape[axis], DEVICES))
        )

    def bias(self, weights: PatchEmbedWeights) -> NDArray[Any] | None:
        """The bias, as long as the kernel is wide."""
        if weights.bias is None:
            return None
        if self.split != "output-channels":
            return np.asarray(weights.bias)
        return lengthened(weights.bias, 0, rounded_up(len(weights.bias), DEVICES))

    def forward(self) -> Callable[[Any, Any, Any], Any]:
        """The function that is jitted: a grid where the result is to stay one, tokens otherwise."""
        from jax import lax

        spec, grid, whole = self.spec, self.spec.grid, self.whole
        axis = spatial_axis(self.split)

        def forward(images: Any, kernel: Any, bias: Any) -> Any:
            result = lax.conv_general_dilated(
                images, kernel, spec.stride, self.padding, dimension_numbers=(NHWC_, HWIO_, NHWC_)
            )
            if bias is not None:
                result = result + bias
            if whole:
                return result
            if axis is not None and result.shape[1 + axis] > grid[axis]:
                result = lax.slice_in_dim(result, 0, grid[axis], axis=1 + axis)
            batch, rows, columns, width = result.shape
            return result.reshape(batch, rows * columns, width)

        return forward

    def tokens(self, result: NDArray[Any], batch: int) -> NDArray[Any]:
        """What was asked for of a result: without the images, rows, columns and channels that were
        added."""
        result = result[:batch, ..., : self.spec.embed_dim]
        if self.whole:
            rows, columns = self.spec.grid
            grid = result[:, :rows, :columns]
            batch, rows, columns, width = grid.shape
            result = grid.reshape(batch, rows * columns, width)
        return np.ascontiguousarray(result)


NHWC_, HWIO_ = "NHWC", "HWIO"
"""As `lax.conv_general_dilated` writes them."""


class _Embedding(LoadedEmbedding):
    def __init__(
        self, formulation: str, weights: PatchEmbedWeights, spec: PatchEmbedSpec, dtype: str
    ) -> None:
        import jax

        self.jax, self.spec, self.dtype = jax, spec, np.dtype(dtype)
        self.layout = _Layout(formulation, spec)
        self.assign(weights)
        self.forward = jax.jit(self.layout.forward())

    def assign(self, weights: PatchEmbedWeights) -> None:
        _, kernel, bias = self.layout.shardings
        self.kernel = self._array(self.layout.kernel(weights), kernel)
        own = self.layout.bias(weights)
        self.bias = None if own is None else self._array(own, bias)

    def _array(self, array: NDArray[Any], sharding: Any) -> Any:
        return self.jax.device_put(np.array(array, self.dtype, order="C"), sharding)

    def place(self, images: NDArray[Any]) -> Any:
        require_patch_fits(images, self.spec)  # or rows that are added would make tokens
        placed = self._array(self.layout.images(images), self.layout.shardings[0])
        return placed, len(images)

    def call(self, inputs: Any) -> Any:
        images, batch = inputs
        return self.forward(images, self.kernel, self.bias), batch

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs[0])

    def fetch(self, outputs: Any) -> NDArray[Any]:
        result, batch = outputs
        return self.layout.tokens(np.asarray(result), batch)

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """Call, listening."""
        return first_call_told(lambda: self.call(inputs))


def device_work(formulation: str, spec: PatchEmbedSpec, batch: int) -> DeviceWork:
    """What XLA's compiled program says that a device does, against the program of one device alone.

    Nothing is run: `cost_analysis` counts the operations of the program that each device has,
    `memory_analysis` its arguments and results, and its text names the collectives.
    """
    import jax

    layout = _Layout(formulation, spec)
    images, weights = _zeros(spec, batch)
    arrays = layout.images(images), layout.kernel(weights), layout.bias(weights)
    placed = map(jax.device_put, arrays, layout.shardings)
    compiled = jax.jit(layout.forward()).lower(*placed).compile()
    whole_flops, whole_size = _alone(spec, batch)
    return DeviceWork(
        units_of(layout.split, spec, batch),
        (_flops(compiled),) * DEVICES,
        whole_flops,
        (_held(compiled),) * DEVICES,
        whole_size,
        collectives_of(compiled.as_text()),
    )


@functools.lru_cache
def _alone(spec: PatchEmbedSpec, batch: int) -> tuple[float, int]:
    """Operations and bytes of the program of one device."""
    import jax

    layout = _Layout("output-channels", spec)  # which leaves images as they are
    images, weights = _zeros(spec, batch)
    kernel, bias = kernel_to_layout(weights.kernel, HWIO), weights.bias
    lowered = jax.jit(layout.forward()).lower(layout.images(images), kernel, bias)
    compiled = lowered.compile()
    return _flops(compiled), _held(compiled)


def _zeros(spec: PatchEmbedSpec, batch: int) -> tuple[NDArray[Any], PatchEmbedWeights]:
    """Images and weights of zeros: programs depend on shapes alone."""
    kernel = np.zeros(spec.kernel_shape, np.float32)
    bias = np.zeros(spec.embed_dim, np.float32)
    return np.zeros(spec.images_shape(batch), np.float32), PatchEmbedWeights(kernel, bias)


def _flops(compiled: Any) -> float:
    return float(compiled.cost_analysis()["flops"])


def _held(compiled: Any) -> int:
    memory = compiled.memory_analysis()
    return int(memory.argument_size_in_bytes + memory.output_size_in_bytes)


class ShardedJaxBackend(JaxBackend):
    """`jax.sharding` over the CPU as several devices."""

    name = "jax-sharded"
    # Read when JAX first looks for devices. The flag is XLA's own for tests of sharded programs.
    switches = {**JaxBackend.switches, "XLA_FLAGS": f"--{DEVICE_FLAG}={DEVICES}"}
    implementations = tuple(
        # As JAX's own: the bias is added after the product, and the CPU flushes to zero.
        Implementation(
            "jax-sharded",
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
        """JAX on one device."""
        return "jax"

    @property
    def extra(self) -> str:
        """JAX's own."""
        return "jax"

    def unavailable(self, implementation: Implementation) -> str | None:
        """JAX reads the number of devices once in a process."""
        import jax

        seen = len(jax.devices("cpu"))
        return (
            None
            if seen >= DEVICES
            else f"JAX sees {seen} CPU device in this process, of {DEVICES}: set "
            f"XLA_FLAGS=--{DEVICE_FLAG}={DEVICES} before it is first used"
        )

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
        """Put kernel and bias on all devices, as the split has them, and jit."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec) or self.unavailable(implementation):
            raise PatchParityError(reason)
        return _Embedding(implementation.formulation, weights, spec, dtype)

    def device_work(
        self, implementation: Implementation, spec: PatchEmbedSpec, batch: int
    ) -> DeviceWork:
        """From the compiled program."""
        return device_work(implementation.formulation, spec, batch)

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """With patchparity."""
        return Backend.usage(self, implementation, spec, batch)


BACKENDS = (ShardedJaxBackend(),)
