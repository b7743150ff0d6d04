"""JAX: `lax.conv_general_dilated` and reshape + dot, under `jax.jit`, channels last as Flax keeps
them."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.embed import PatchEmbedGradients
from ...reference.errors import PatchParityError
from ...reference.expectation import Direction
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import DEVICES, DTYPES, Backend, Implementation, Precision, check_precision
from ..computation import (
    Computation,
    DeviceMemory,
    FirstCall,
    LoadedEmbedding,
    Operation,
    step_results,
)
from ..layouts import (
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
from ..pixels import as_bytes
from ..registry import get_backend
from .formulations import (
    conv2d,
    conv2d_nchw,
    conv2d_uint8,
    einsum,
    linear,
    linear_nchw,
    linear_uint8,
    linear_words,
)
from .lines import usage, words_usage

TRACE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
)
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
"""Names under which JAX reports to its listeners how long it traced, lowered and compiled
(`jax._src.dispatch`)."""


def first_call_told(call: Callable[[], Any]) -> tuple[Any, FirstCall]:
    """Call a jitted function for the first time, wait, and listen to what JAX tells."""
    import jax

    durations: dict[str, float] = {}

    def listen(event: str, seconds: float, **_: Any) -> None:
        durations[event] = durations.get(event, 0.0) + seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        outputs = jax.block_until_ready(call())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    trace = [durations[event] for event in TRACE_EVENTS if event in durations]
    return outputs, FirstCall(sum(trace) if trace else None, durations.get(COMPILE_EVENT))


def wide(dtype: np.dtype[Any]) -> contextlib.AbstractContextManager[Any]:
    """float64 exists in JAX only while its 64-bit mode is on; it is switched on for float64 calls
    alone."""
    import jax

    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


class _Embedding(LoadedEmbedding):
    def __init__(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> None:
        import jax

        self.jax, self.spec, self.implementation, self.dtype = (
            jax,
            spec,
            implementation,
            np.dtype(dtype),
        )
        self.device = jax.devices(device)[0]
        compute = get_backend(implementation.backend).formulations[implementation.formulation][0]  # type: ignore[attr-defined]
        self.assign(weights)

        def forward(images: Any, kernel: Any, bias: Any) -> Any:
            return compute(images, kernel, bias, spec)

        def pullback(images: Any, kernel: Any, bias: Any, grad_tokens: Any) -> Any:
            return jax.vjp(forward, images, kernel, bias)[1](grad_tokens)

        self.plain, self.forward, self.pullback = forward, jax.jit(forward), jax.jit(pullback)

    def assign(self, weights: PatchEmbedWeights) -> None:
        weights = self.implementation.own_weights(weights)
        self.kernel = self._array(
            kernel_to_layout(weights.kernel, self.implementation.kernel_layout)
        )
        self.bias = None if weights.bias is None else self._array(weights.bias)

    def apart(self, kernel: Any, bias: Any) -> tuple[Any, Any]:
        """Kernel and bias, or what stands for them, as they are kept here."""
        return kernel, bias

    def _array(self, array: NDArray[Any], dtype: Any = None) -> Any:
        with wide(self.dtype):
            own = np.array(array, dtype or self.dtype, order="C")
            return self.jax.device_put(own, self.device)

    def place(self, images: NDArray[Any]) -> Any:
        placed = images_to_layout(images, self.implementation.image_layout)
        if self.implementation.pixels == "uint8":
            return self._array(as_bytes(placed), np.uint8)
        return self._array(placed)

    def call(self, inputs: Any) -> Any:
        with wide(self.dtype):
            return self.forward(inputs, self.kernel, self.bias)

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return np.asarray(outputs)

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        if not self.implementation.differentiable:
            return super().gradients(images, grad_tokens)
        with wide(self.dtype):
            gradients = self.pullback(
                self.place(images), self.kernel, self.bias, self._array(grad_tokens)
            )
        image = np.asarray(gradients[0])
        kernel, bias = (
            None if gradient is None else np.asarray(gradient) for gradient in gradients[1:]
        )
        kernel, bias = self.apart(kernel, bias)
        return PatchEmbedGradients(
            image=images_from_layout(image, self.implementation.image_layout),
            kernel=kernel_from_layout(kernel, self.implementation.kernel_layout, self.spec),
            bias=np.zeros(0, self.dtype) if bias is None else bias,
        )

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """Call, listening."""
        return first_call_told(lambda: self.call(inputs))

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """`jnp.concatenate` with the broadcast class token, then the sum, as Flax's ViT has it; one
        jitted function."""
        if self.implementation.pixels == "uint8":
            return None
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

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation | None:
        """`jax.vjp` with respect to kernel and bias; one jitted function."""
        if not self.implementation.differentiable:
            return None
        jax, plain, gradient = self.jax, self.plain, self._array(grad_tokens)

        def step(images: Any, kernel: Any, bias: Any, gradient: Any) -> Any:
            tokens, pullback = jax.vjp(
                lambda kernel, bias: plain(images, kernel, bias), kernel, bias
            )
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
        self.kernel = self._array(
            kernel if weights.bias is None else np.concatenate([kernel, weights.bias[None]])
        )
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
            self.left = jax.device_put(
                generator.standard_normal((rows, depth)).astype(dtype), place
            )
            self.right = jax.device_put(
                generator.standard_normal((depth, columns)).astype(dtype), place
            )
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
    """XLA's allocator counts, but never forgets its peak: a call tells something only where it sets
    a new one."""

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
    formulations: dict[str, tuple[Any, ...]] = {
        "conv2d": (conv2d, HWIO, NHWC),
        "linear": (linear, DENSE_CHANNELS_LAST, NHWC),
        "linear_words": (linear_words, DENSE_CHANNELS_LAST, NHWC),
        "conv2d_nchw": (conv2d_nchw, OIHW, NCHW),
        "linear_nchw": (linear_nchw, LINEAR_CHANNELS_FIRST, NCHW),
        "einsum": (einsum, HWIO, NHWC),
        "linear_uint8": (linear_uint8, DENSE_CHANNELS_LAST, NHWC),
        "conv2d_uint8": (conv2d_uint8, HWIO, NHWC),
    }
    implementations = tuple(
        # XLA sets flush-to-zero on the CPU (jax issue 16200, "working as intended"). Bias is added
        # after the product, but for linear_words.
        Implementation(
            "jax",
            formulation,
            "jit",
            images,
            kernel,
            dtypes=("float32",) if formulation == "conv2d_uint8" else DTYPES,
            devices=("cpu",) if formulation == "linear_words" else DEVICES,
            flush_to_zero=True,
            output_roundings=1 if formulation == "linear_words" else 2,
            default_on_cuda="tf32",
            variant=formulation not in ("conv2d", "linear"),
            customary=formulation in ("conv2d", "conv2d_uint8"),
            differentiable=not formulation.endswith("_uint8"),
            pixels="uint8" if formulation.endswith("_uint8") else "float",
            normalizes=formulation == "conv2d_uint8",
        )
        for formulation, (_, kernel, images) in formulations.items()
    )

    def __init__(self) -> None:
        # Read when JAX first uses a GPU: without it JAX takes three quarters of the memory that
        # other frameworks need too.
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

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`astype` under `jit`."""
        import jax

        cast = jax.jit(lambda values: values.astype("float16").astype("float32"))
        return np.asarray(cast(array))

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`lax.conv_general_dilated`, channels first."""
        from jax import lax

        return np.asarray(lax.conv_general_dilated(images, kernel, kernel.shape[2:], "VALID"))

    def environment(self, threads: int) -> dict[str, str]:
        """XLA's CPU client reads only these; the thread flags of XLA_FLAGS do nothing in current
        versions."""
        return {"PJRT_NPROC": str(threads), "NPROC": str(threads)}

    @contextlib.contextmanager
    def precision(self, precision: Precision) -> Iterator[None]:
        """Set `jax_default_matmul_precision`, which governs convolutions too: `highest`,
        `tensorfloat32` or `bfloat16`.

        Not `F32_F32_F32`, which the documentation recommends: convolutions silently lower it to
        DEFAULT (a test shows it).
        """
        import jax

        check_precision(precision)
        if precision == "default":
            yield
        else:
            with jax.default_matmul_precision(PRECISION_NAMES[precision]):
                yield

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Put the weights on the device and jit the forward and backward functions."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec):
            raise PatchParityError(reason)
        kept = _WithBiasRow if implementation.formulation == "linear_words" else _Embedding
        return kept(implementation, weights, spec, dtype, device)

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """In plain JAX; `linear_words` where patches do not tile as `linear`, which it is there but
        for the bias; with patchparity what takes bytes."""
        if implementation.pixels == "uint8":
            return super().usage(implementation, spec, batch)
        words = implementation.formulation == "linear_words" and spec.tiles
        return words_usage(spec, batch) if words else usage(implementation, spec)

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
