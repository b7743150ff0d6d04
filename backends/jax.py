"""JAX: `lax.conv_general_dilated` and reshape + dot, under `jax.jit`, channels last as Flax keeps them."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.embed import PatchEmbedGradients
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from ._windows import channels_last_patches
from .base import Backend, Computation, Implementation, LoadedEmbedding, Precision, check_precision
from .layouts import DENSE_CHANNELS_LAST, HWIO, NHWC, images_from_layout, images_to_layout, kernel_from_layout, kernel_to_layout


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


def _linear(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """Pad, cut into patches, `jnp.dot`."""
    import jax.numpy as jnp

    if any(any(pair) for pair in spec.effective_padding):
        images = jnp.pad(images, ((0, 0), *spec.effective_padding, (0, 0)))
    tokens = jnp.dot(channels_last_patches(images, spec, _Functions), kernel)
    return tokens if bias is None else tokens + bias


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


class _Embedding(LoadedEmbedding):
    def __init__(
        self, implementation: Implementation, weights: PatchEmbedWeights, spec: PatchEmbedSpec, dtype: str, device: str
    ) -> None:
        import jax

        self.jax, self.spec, self.implementation, self.dtype = jax, spec, implementation, np.dtype(dtype)
        self.device = jax.devices(device)[0]
        compute = JaxBackend.formulations[implementation.formulation][0]
        self.assign(weights)

        def forward(images: Any, kernel: Any, bias: Any) -> Any:
            return compute(images, kernel, bias, spec)

        def pullback(images: Any, kernel: Any, bias: Any, grad_tokens: Any) -> Any:
            return jax.vjp(forward, images, kernel, bias)[1](grad_tokens)

        self.forward, self.pullback = jax.jit(forward), jax.jit(pullback)

    def assign(self, weights: PatchEmbedWeights) -> None:
        self.kernel = self._array(kernel_to_layout(weights.kernel, self.implementation.kernel_layout))
        self.bias = None if weights.bias is None else self._array(weights.bias)

    def _wide(self) -> contextlib.AbstractContextManager[Any]:
        """float64 exists in JAX only while its 64-bit mode is on; it is switched on for float64 calls alone."""
        return self.jax.enable_x64(True) if self.dtype == np.float64 else contextlib.nullcontext()

    def _array(self, array: NDArray[Any]) -> Any:
        with self._wide():
            return self.jax.device_put(np.array(array, self.dtype, order="C"), self.device)

    def place(self, images: NDArray[Any]) -> Any:
        return self._array(images_to_layout(images, self.implementation.image_layout))

    def call(self, inputs: Any) -> Any:
        with self._wide():
            return self.forward(inputs, self.kernel, self.bias)

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return np.asarray(outputs)

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        with self._wide():
            found = self.pullback(self.place(images), self.kernel, self.bias, self._array(grad_tokens))
        image, kernel, bias = (None if gradient is None else np.asarray(gradient) for gradient in found)
        return PatchEmbedGradients(
            image=images_from_layout(image, self.implementation.image_layout),
            kernel=kernel_from_layout(kernel, self.implementation.kernel_layout, self.spec),
            bias=np.zeros(0, self.dtype) if bias is None else bias,
        )


class _Gemm(Computation):
    def __init__(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> None:
        import jax

        self.jax = jax
        generator, place = np.random.default_rng(0), jax.devices(device)[0]
        self.left = jax.device_put(generator.standard_normal((rows, depth)).astype(dtype), place)
        self.right = jax.device_put(generator.standard_normal((depth, columns)).astype(dtype), place)
        self.dot = jax.jit(jax.numpy.dot)

    def call(self, inputs: None) -> Any:
        return self.dot(self.left, self.right)

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)


PRECISION_NAMES = {"ieee": "highest", "tf32": "tensorfloat32", "bf16": "bfloat16"}
"""JAX's own names for the precisions."""


class JaxBackend(Backend):
    """JAX on CPU and CUDA."""

    name = "jax"
    packages = ("jax", "jaxlib")
    # Off, as users have it; it is switched on for float64 calls alone.
    switches = {"JAX_ENABLE_X64": "0"}
    formulations = {"conv2d": (_conv2d, HWIO), "linear": (_linear, DENSE_CHANNELS_LAST)}
    implementations = tuple(
        # XLA sets flush-to-zero on the CPU (jax issue 16200, "working as intended"). Bias is added after the product.
        Implementation("jax", formulation, "jit", NHWC, layout, flush_to_zero=True, output_roundings=2, default_on_cuda="tf32")
        for formulation, (_, layout) in formulations.items()
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
        return _Embedding(implementation, weights, spec, dtype, device)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`jnp.dot` under `jax.jit`."""
        return _Gemm(rows, depth, columns, dtype, device)


BACKENDS = (JaxBackend(),)
