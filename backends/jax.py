"""JAX: `lax.conv_general_dilated` and reshape + dot, under `jax.jit`, channels last as Flax keeps them."""

import contextlib
import dataclasses
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.embed import PatchEmbedGradients
from ..reference.probes import Direction
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from ._windows import channels_first_patches, channels_last_patches, patches_code
from .base import (
    DEVICES,
    Backend,
    Computation,
    DeviceMemory,
    FirstCall,
    Implementation,
    LoadedEmbedding,
    Operation,
    Precision,
    check_precision,
    get_backend,
    step_results,
)
from .layouts import (
    DENSE_CHANNELS_LAST,
    HWIO,
    LINEAR_CHANNELS_FIRST,
    NCHW,
    NHWC,
    OIHW,
    images_from_layout,
    images_to_layout,
    kernel_from_layout,
    kernel_to_layout,
)


def _conv2d(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`lax.conv_general_dilated`, NHWC and HWIO (NDHWC and DHWIO for video), padding given explicitly."""
    from jax import lax

    letters = "HW" if spec.spatial_axes == 2 else "DHW"
    grid = lax.conv_general_dilated(
        images,
        kernel,
        window_strides=spec.stride,
        padding=spec.effective_padding,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    tokens = grid.reshape(-1, spec.num_patches, spec.embed_dim)
    return tokens if bias is None else tokens + bias


def _pad(images: Any, spec: PatchEmbedSpec) -> Any:
    """Zeros around images `(B, *image, C)`, where there are any."""
    import jax.numpy as jnp

    return jnp.pad(images, ((0, 0), *spec.effective_padding, (0, 0))) if any(map(any, spec.effective_padding)) else images


def _linear(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """Pad, cut into patches, `jnp.dot`."""
    import jax.numpy as jnp

    tokens = jnp.dot(channels_last_patches(_pad(images, spec), spec, _Functions), kernel)
    return tokens if bias is None else tokens + bias


def _linear_words(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """As `linear`, in pieces that stay in the caches and with pixels moved in words of eight bytes; the bias is the last row of the kernel, and the
    patches have a column of ones for it."""
    import jax
    import jax.numpy as jnp

    def embed(images: Any, kernel: Any, spec: PatchEmbedSpec) -> Any:
        patches = _patches_by_words(images, spec)
        if len(kernel) > spec.patch_values:
            patches = jnp.concatenate([patches, jnp.ones((*patches.shape[:-1], 1), patches.dtype)], axis=-1)
        return jnp.dot(patches, kernel)

    def whole(images: Any, kernel: Any) -> Any:
        return embed(images, kernel, spec)

    @jax.custom_vjp
    def in_pieces(images: Any, kernel: Any) -> Any:
        strip = _strip(spec)
        pieces = images.reshape(count, -1, *strip.image_size, spec.in_channels)
        tokens = jax.lax.map(lambda piece: embed(piece, kernel, strip), pieces)
        return tokens.reshape(-1, spec.num_patches, spec.embed_dim)

    # A gradient in pieces is slower by a fourteenth: each adds its part to the kernel's, and their patches are put together for it.
    in_pieces.defvjp(lambda images, kernel: jax.vjp(whole, images, kernel), lambda pullback, gradient: pullback(gradient))
    images = _pad(images, spec)
    count = _pieces(spec, len(images), kernel.dtype.itemsize * len(kernel))
    return whole(images, kernel) if count == 1 else in_pieces(images, kernel)


PIECE_BYTES = 5 * 2**20
"""Patches that are cut and multiplied at a time, as in `numpy:linear`. ViT-B/16 on two cores, in parts of JAX's own product: batch 32 (19 MB of patches)
whole 0.90, in pieces of 8 or 4 images (4.8 and 2.4 MB) 0.97, of 16 0.93; batch 8 whole 0.95, in halves 0.91. On one core batch 32 whole 0.91,
in pieces of 8 1.02."""


def _strip(spec: PatchEmbedSpec) -> PatchEmbedSpec:
    """Sizes of one row of the grid, as an image of its own; what was padded is part of it."""
    return dataclasses.replace(spec, image_size=(spec.patch_size[0], *spec.padded_size[1:]), padding=0)


def _pieces(spec: PatchEmbedSpec, batch: int, patch_bytes: int) -> int:
    """Into how many equal pieces a batch is cut, whole rows of the grid each: as few as they may be; one where none are of at least half the size."""
    strips = batch * spec.grid[0]
    most = max(1, PIECE_BYTES // (spec.num_patches // spec.grid[0] * patch_bytes))
    if not spec.tiles or most >= strips:
        return 1
    length = max((length for length in range(most // 2 + 1, most + 1) if strips % length == 0), default=strips)
    return strips // length


WORD_BYTES = 8
"""XLA's CPU code for a transpose moves a value at a time: as many bytes as its widest plain type has take a third of the time that they take by fours
(4.8 MB on one core: 0.6 ms and 1.7 ms)."""


def _patches_by_words(images: Any, spec: PatchEmbedSpec) -> Any:
    """Cut padded images as `channels_last_patches` does; a row of a patch, P·C values, is moved in words where it is made of whole ones.

    The words are integers, through which no gradient goes: it is given as that of the plain cut, of which it is the adjoint.
    """
    import jax

    if not spec.tiles:
        return channels_last_patches(images, spec, _Functions)
    word, shape, order = _words(spec, images.dtype.itemsize)

    @jax.custom_vjp
    def cut(images: Any) -> Any:
        with jax.enable_x64(True):
            patches = images.reshape(shape).view(word).transpose(order).view(images.dtype)
        return patches.reshape(-1, spec.num_patches, spec.patch_values)

    def plain(images: Any) -> Any:
        return channels_last_patches(images, spec, _Functions)

    cut.defvjp(lambda images: (cut(images), None), lambda _, gradient: adjoint(gradient))
    adjoint = jax.linear_transpose(plain, jax.ShapeDtypeStruct(images.shape, images.dtype))
    return cut(images)


def _words(spec: PatchEmbedSpec, itemsize: int) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Type of the words, shape of the images with grid and patch axes in turn and a patch's rows flat, and the order that brings the grid to the front."""
    axes, run = spec.spatial_axes, spec.patch_size[-1] * spec.in_channels
    split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
    word = f"uint{8 * itemsize * math.gcd(run, WORD_BYTES // itemsize)}"
    return word, (-1, *split[:-1], run), (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2))


def _conv2d_nchw(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`lax.conv_general_dilated` on NCHW and OIHW, JAX's own default order, then flatten and transpose as in torch."""
    from jax import lax

    grid = lax.conv_general_dilated(images, kernel, window_strides=spec.stride, padding=spec.effective_padding)
    tokens = grid.reshape(-1, spec.embed_dim, spec.num_patches).swapaxes(1, 2)
    return tokens if bias is None else tokens + bias


def _linear_nchw(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """As `linear`, from NCHW images and a kernel `(D, C·P²)`, as torch keeps them."""
    import jax.numpy as jnp

    if any(any(pair) for pair in spec.effective_padding):
        images = jnp.pad(images, ((0, 0), (0, 0), *spec.effective_padding))
    tokens = jnp.dot(channels_first_patches(images, spec, _Functions), kernel.T)
    return tokens if bias is None else tokens + bias


def _einsum(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`jnp.einsum` of `(B, *grid, *patch, C)` with the convolution's kernel."""
    import jax.numpy as jnp

    patches = channels_last_patches(_pad(images, spec), spec, _Functions).reshape(
        -1, spec.num_patches, *spec.patch_size, spec.in_channels
    )
    patch = "xyz"[: spec.spatial_axes]
    tokens = jnp.einsum(f"bn{patch}c,{patch}cd->bnd", patches, kernel)
    return tokens if bias is None else tokens + bias


def _usage(implementation: Implementation, spec: PatchEmbedSpec) -> str:
    """What each formulation is in plain JAX."""
    formulation, first, padding = implementation.formulation, implementation.image_layout == NCHW, spec.effective_padding
    if formulation.startswith("conv2d"):
        letters = "HW" if spec.spatial_axes == 2 else "DHW"
        names = (f"NC{letters}", f"OI{letters}") if first else (f"N{letters}C", f"{letters}IO")
        numbers = (*names, f"N{letters}C")
        convolution = f"jax.lax.conv_general_dilated(images, kernel, {spec.stride}, {padding}, dimension_numbers={numbers})"
        lines = f"    grid = {convolution}\n    return grid.reshape(-1, {spec.num_patches}, {spec.embed_dim}) + bias\n"
    else:
        pairs = ((0, 0), (0, 0), *padding) if first else ((0, 0), *padding, (0, 0))
        lines = f"    images = jnp.pad(images, {pairs})\n" if any(map(any, padding)) else ""
        lines += patches_code(spec, "jnp", "jnp.take", first)
        product = f"jnp.dot(patches, kernel{'.T' if first else ''})"
        if formulation == "einsum":
            patch = "xyz"[: spec.spatial_axes]
            shape = (-1, spec.num_patches, *spec.patch_size, spec.in_channels)
            product = f'jnp.einsum("bn{patch}c,{patch}cd->bnd", patches.reshape{shape}, kernel)'
        lines += f"    return {product} + bias\n"
    return f"import jax\nimport jax.numpy as jnp\nimport numpy as np\n\n\n@jax.jit\ndef embed(images):\n{lines}"


def _words_usage(spec: PatchEmbedSpec, batch: int) -> str:
    """`linear_words` of images that patches tile, in plain JAX."""
    pairs = ((0, 0), *spec.effective_padding, (0, 0))
    padding = f"    images = jnp.pad(images, {pairs})\n" if any(map(any, spec.effective_padding)) else ""
    count = _pieces(spec, batch, 4 * (spec.patch_values + 1))
    piece = spec if count == 1 else _strip(spec)
    _, shape, order = _words(piece, 4)
    pieces = f"images.reshape{(count, -1, *piece.image_size, spec.in_channels)}"
    result = "embed_piece(images)"
    if count > 1:  # whole rows of patches, as many as stay in the cache
        result = f"jax.lax.map(embed_piece, {pieces}).reshape(-1, {spec.num_patches}, {spec.embed_dim})"
    return f"""\
import math

import jax
import jax.numpy as jnp

size = kernel.dtype.itemsize
word = f"uint{{8 * size * math.gcd({shape[-1]}, {WORD_BYTES} // size)}}"  # what is moved at once: XLA moves value by value
matrix = jnp.concatenate([kernel, bias[None]])  # the product adds the bias


def cut(images):
    return images.reshape{shape}.transpose{order}.reshape(-1, {piece.num_patches}, {spec.patch_values})


@jax.custom_vjp
def cut_by_words(images):
    with jax.enable_x64(True):
        words = images.reshape{shape}.view(word).transpose{order}
        return words.view(images.dtype).reshape(-1, {piece.num_patches}, {spec.patch_values})


def pull(images, gradient):  # no gradient goes through integers: it is that of the plain cut
    return jax.linear_transpose(cut, images)(gradient)


cut_by_words.defvjp(lambda images: (cut_by_words(images), images), pull)


def embed_piece(images):
    patches = cut_by_words(images)
    ones = jnp.ones((*patches.shape[:-1], 1), patches.dtype)
    return jnp.dot(jnp.concatenate([patches, ones], axis=-1), matrix)


@jax.jit
def embed(images):
{padding}    return {result}
"""


TRACE_EVENTS = ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""Names under which JAX reports to its listeners how long it traced, lowered and compiled (`jax._src.dispatch`)."""


def first_call_told(call: Callable[[], Any]) -> tuple[Any, FirstCall]:
    """Call a jitted function for the first time, wait, and listen to what JAX tells."""
    import jax

    told: dict[str, float] = {}

    def listen(event: str, seconds: float, **_: Any) -> None:
        told[event] = told.get(event, 0.0) + seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        outputs = jax.block_until_ready(call())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    trace = [told[event] for event in TRACE_EVENTS if event in told]
    return outputs, FirstCall(sum(trace) if trace else None, told.get(COMPILE_EVENT))


class _Functions:
    """The three functions that `channels_last_patches` needs."""

    @staticmethod
    def reshape(array: Any, shape: tuple[int, ...]) -> Any:
        return array.reshape(shape)

    @staticmethod
    def transpose(array: Any, axes: tuple[int, ...]) -> Any:
        return array.transpose(axes)

    @staticmethod
    def take(array: Any, indices: NDArray[np.int32], axis: int) -> Any:
        import jax.numpy as jnp

        return jnp.take(array, indices, axis=axis)


def wide(dtype: np.dtype[Any]) -> contextlib.AbstractContextManager[Any]:
    """float64 exists in JAX only while its 64-bit mode is on; it is switched on for float64 calls alone."""
    import jax

    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


class _Embedding(LoadedEmbedding):
    def __init__(
        self, implementation: Implementation, weights: PatchEmbedWeights, spec: PatchEmbedSpec, dtype: str, device: str
    ) -> None:
        import jax

        self.jax, self.spec, self.implementation, self.dtype = jax, spec, implementation, np.dtype(dtype)
        self.device = jax.devices(device)[0]
        compute = get_backend(implementation.backend).formulations[implementation.formulation][0]  # type: ignore[attr-defined]
        self.assign(weights)

        def forward(images: Any, kernel: Any, bias: Any) -> Any:
            return compute(images, kernel, bias, spec)

        def pullback(images: Any, kernel: Any, bias: Any, grad_tokens: Any) -> Any:
            return jax.vjp(forward, images, kernel, bias)[1](grad_tokens)

        self.plain, self.forward, self.pullback = forward, jax.jit(forward), jax.jit(pullback)

    def assign(self, weights: PatchEmbedWeights) -> None:
        self.kernel = self._array(kernel_to_layout(weights.kernel, self.implementation.kernel_layout))
        self.bias = None if weights.bias is None else self._array(weights.bias)

    def apart(self, kernel: Any, bias: Any) -> tuple[Any, Any]:
        """Kernel and bias, or what stands for them, as they are kept here."""
        return kernel, bias

    def _array(self, array: NDArray[Any]) -> Any:
        with wide(self.dtype):
            return self.jax.device_put(np.array(array, self.dtype, order="C"), self.device)

    def place(self, images: NDArray[Any]) -> Any:
        return self._array(images_to_layout(images, self.implementation.image_layout))

    def call(self, inputs: Any) -> Any:
        with wide(self.dtype):
            return self.forward(inputs, self.kernel, self.bias)

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return np.asarray(outputs)

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        with wide(self.dtype):
            found = self.pullback(self.place(images), self.kernel, self.bias, self._array(grad_tokens))
        image, kernel, bias = (None if gradient is None else np.asarray(gradient) for gradient in found)
        kernel, bias = self.apart(kernel, bias)
        return PatchEmbedGradients(
            image=images_from_layout(image, self.implementation.image_layout),
            kernel=kernel_from_layout(kernel, self.implementation.kernel_layout, self.spec),
            bias=np.zeros(0, self.dtype) if bias is None else bias,
        )

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """Call, listening."""
        return first_call_told(lambda: self.call(inputs))

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation:
        """`jnp.concatenate` with the broadcast class token, then the sum, as Flax's ViT has it; one jitted function."""
        import jax.numpy as jnp

        token, table, plain = self._array(class_token), self._array(positions), self.plain

        def assemble(images: Any, kernel: Any, bias: Any, token: Any, table: Any) -> Any:
            tokens = plain(images, kernel, bias)
            rows = jnp.broadcast_to(token, (tokens.shape[0], 1, token.shape[0]))
            return jnp.concatenate([rows, tokens], axis=1) + table

        whole = self.jax.jit(assemble)

        def function(images: Any) -> Any:
            with wide(self.dtype):
                return whole(images, self.kernel, self.bias, token, table)

        return Operation(self, function, lambda outputs: {"forward": np.asarray(outputs)})

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation:
        """`jax.vjp` with respect to kernel and bias; one jitted function."""
        jax, plain, gradient = self.jax, self.plain, self._array(grad_tokens)

        def step(images: Any, kernel: Any, bias: Any, gradient: Any) -> Any:
            tokens, pullback = jax.vjp(lambda kernel, bias: plain(images, kernel, bias), kernel, bias)
            return tokens, *pullback(gradient)

        whole = jax.jit(step)

        def function(images: Any) -> Any:
            with wide(self.dtype):
                return whole(images, self.kernel, self.bias, gradient)

        def fetched(outputs: Any) -> dict[Direction, NDArray[Any]]:
            tokens, *gradients = (None if array is None else np.asarray(array) for array in outputs)
            arrays = [array for array in (tokens, *self.apart(*gradients)) if array is not None]
            return step_results(arrays, self.implementation.kernel_layout, self.spec)

        return Operation(self, function, fetched)


class _WithBiasRow(_Embedding):
    """The bias is kept as the last row of the kernel, put there once."""

    def assign(self, weights: PatchEmbedWeights) -> None:
        kernel = kernel_to_layout(weights.kernel, self.implementation.kernel_layout)
        self.kernel = self._array(kernel if weights.bias is None else np.concatenate([kernel, weights.bias[None]]))
        self.bias = None

    def apart(self, kernel: Any, bias: Any) -> tuple[Any, Any]:
        rows = self.spec.patch_values
        return kernel[:rows], kernel[rows] if len(kernel) > rows else None


class _Gemm(Computation):
    def __init__(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> None:
        import jax

        self.jax, self.dtype = jax, np.dtype(dtype)
        generator, place = np.random.default_rng(0), jax.devices(device)[0]
        with wide(self.dtype):
            self.left = jax.device_put(generator.standard_normal((rows, depth)).astype(dtype), place)
            self.right = jax.device_put(generator.standard_normal((depth, columns)).astype(dtype), place)
        self.dot = jax.jit(jax.numpy.dot)

    def call(self, inputs: None) -> Any:
        with wide(self.dtype):
            return self.dot(self.left, self.right)

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)


class _Sweep(Computation):
    """One added to every value of an array."""

    def __init__(self, values: int, device: str) -> None:
        import jax

        self.jax = jax
        self.values = jax.device_put(np.ones(values, np.float32), jax.devices(device)[0])
        self.add = jax.jit(lambda array: array + 1)

    def call(self, inputs: None) -> Any:
        return self.add(self.values)

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)


class _Memory(DeviceMemory):
    """XLA's allocator counts, but never forgets its peak: a call tells something only where it sets a new one."""

    def __init__(self) -> None:
        import jax

        self.device = jax.devices("cuda")[0]

    def reset_peak(self) -> int | None:
        stats = self.device.memory_stats() or {}
        in_use, peak = stats.get("bytes_in_use"), stats.get("peak_bytes_in_use")
        return in_use if in_use is not None and in_use == peak else None

    def peak(self) -> int:
        return int(self.device.memory_stats()["peak_bytes_in_use"])


PRECISION_NAMES = {"ieee": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}
"""JAX's own names for the precisions."""


class JaxBackend(Backend):
    """JAX on CPU and CUDA."""

    name = "jax"
    packages = ("jax", "jaxlib")
    # Off, as users have it; it is switched on for float64 calls alone.
    switches = {"JAX_ENABLE_X64": "0"}
    formulations = {
        "conv2d": (_conv2d, HWIO, NHWC),
        "linear": (_linear, DENSE_CHANNELS_LAST, NHWC),
        "linear_words": (_linear_words, DENSE_CHANNELS_LAST, NHWC),
        "conv2d_nchw": (_conv2d_nchw, OIHW, NCHW),
        "linear_nchw": (_linear_nchw, LINEAR_CHANNELS_FIRST, NCHW),
        "einsum": (_einsum, HWIO, NHWC),
    }
    implementations = tuple(
        # XLA sets flush-to-zero on the CPU (jax issue 16200, "working as intended"). Bias is added after the product, but for linear_words.
        Implementation(
            "jax",
            formulation,
            "jit",
            images,
            kernel,
            devices=("cpu",) if formulation == "linear_words" else DEVICES,
            flush_to_zero=True,
            output_roundings=1 if formulation == "linear_words" else 2,
            default_on_cuda="tf32",
            variant=formulation not in ("conv2d", "linear"),
            customary=formulation == "conv2d",
        )
        for formulation, (_, kernel, images) in formulations.items()
    )

    def __init__(self) -> None:
        # Read when JAX first uses a GPU: without it JAX takes three quarters of the memory that other frameworks need too.
        if importlib.util.find_spec("jax") is not None:
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

    def devices(self) -> tuple[str, ...]:
        """The CPU, and `cuda` where JAX sees a GPU."""
        import jax

        return ("cpu", "cuda") if jax.default_backend() == "gpu" else ("cpu",)

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`jnp.asarray`."""
        import jax

        return np.asarray(jax.numpy.asarray(array))

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`lax.conv_general_dilated`, channels first."""
        from jax import lax

        return np.asarray(lax.conv_general_dilated(images, kernel, kernel.shape[2:], "VALID"))

    def environment(self, threads: int) -> dict[str, str]:
        """XLA's CPU client reads only these; the thread flags of XLA_FLAGS do nothing in current versions."""
        return {"PJRT_NPROC": str(threads), "NPROC": str(threads)}

    @contextlib.contextmanager
    def precision(self, precision: Precision) -> Iterator[None]:
        """Set `jax_default_matmul_precision`, which governs convolutions too: `highest`, `tensorfloat32` or `bfloat16`.

        Not `F32_F32_F32`, which the documentation recommends: convolutions silently lower it to DEFAULT (a test shows it).
        """
        import jax

        check_precision(precision)
        if precision == "default":
            yield
        else:
            with jax.default_matmul_precision(PRECISION_NAMES[precision]):
                yield

    def load(
        self, implementation: Implementation, weights: PatchEmbedWeights, spec: PatchEmbedSpec, dtype: str, device: str
    ) -> LoadedEmbedding:
        """Put the weights on the device and jit the forward and backward functions."""
        weights.check_spec(spec)
        kept = _WithBiasRow if implementation.formulation == "linear_words" else _Embedding
        return kept(implementation, weights, spec, dtype, device)

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """In plain JAX; `linear_words` where patches do not tile as `linear`, which it is there but for the bias."""
        words = implementation.formulation == "linear_words" and spec.tiles
        return _words_usage(spec, batch) if words else _usage(implementation, spec)

    def wait(self, outputs: Any) -> None:
        """`jax.block_until_ready`: JAX is asynchronous on the CPU too."""
        import jax

        jax.block_until_ready(outputs)

    def device_memory(self, device: str) -> DeviceMemory | None:
        """`Device.memory_stats`."""
        return _Memory() if device == "cuda" else None

    def sweep(self, values: int, device: str) -> Computation:
        """An elementwise sum: XLA has no copy of its own that it would not leave out."""
        return _Sweep(values, device)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`jnp.dot` under `jax.jit`."""
        return _Gemm(rows, depth, columns, dtype, device)


BACKENDS = (JaxBackend(),)
