"""TensorFlow: `tf.nn.conv2d`, the Keras `Conv2D` layer and reshape + `tf.matmul`; eager,
`tf.function` and XLA."""

import contextlib
import functools
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.embed import PatchEmbedGradients
from ..reference.errors import PatchParityError
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .base import DTYPES, Backend, Implementation, Precision, check_precision
from .computation import (
    Computation,
    DeviceMemory,
    FirstCall,
    LoadedEmbedding,
    Operation,
    called_twice,
    step_results,
)
from .layouts import (
    DENSE_CHANNELS_LAST,
    HWIO,
    NHWC,
    images_from_layout,
    images_to_layout,
    kernel_from_layout,
    kernel_to_layout,
)
from .patches import channels_last_patches, patches_code
from .pixels import SCALE, as_bytes, channel_statistics
from .quiet import silenced

Forward = Callable[[Any], Any]


def import_tensorflow() -> Any:
    """Import TensorFlow, quietly.

    Its libraries write to file descriptor 2 while they load, before any setting of theirs applies;
    and its advice against making many `tf.function`s is kept back, for a suite makes many on
    purpose.
    """
    if "tensorflow" not in sys.modules:
        with silenced():
            import tensorflow
    import tensorflow

    logger = tensorflow.get_logger()
    if _is_no_retracing_advice not in logger.filters:
        logger.addFilter(_is_no_retracing_advice)
    return tensorflow


def _is_no_retracing_advice(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in record.getMessage()


def _pad(images: Any, spec: PatchEmbedSpec) -> Any:
    """Zeros around images; TensorFlow's own SAME splits them its own way, so padding is always
    explicit."""
    if not any(any(pair) for pair in spec.effective_padding):
        return images
    return import_tensorflow().pad(images, ((0, 0), *spec.effective_padding, (0, 0)))


def _add_bias(values: Any, variables: list[Any]) -> Any:
    return import_tensorflow().nn.bias_add(values, variables[1]) if len(variables) == 2 else values


def _flat_grid(grid: Any, spec: PatchEmbedSpec) -> Any:
    """`(B, *grid, D)` to `(B, N, D)`. The sizes are the result's own, so that a grid of another
    shape shows."""
    return _Functions.reshape_each(grid, (math.prod(grid.shape[1:-1]), spec.embed_dim))


def _projected(patches: Any, variables: list[Any], spec: PatchEmbedSpec) -> Any:
    """`tf.matmul` of patches with the values in the order of the kernel, then `tf.nn.bias_add`."""
    tf = import_tensorflow()
    rows = _add_bias(
        tf.matmul(tf.reshape(patches, (-1, spec.patch_values)), variables[0]), variables
    )
    return tf.reshape(rows, (tf.shape(patches)[0], spec.num_patches, spec.embed_dim))


def _variables(shapes: list[tuple[int, ...]], dtype: str) -> list[Any]:
    tf = import_tensorflow()
    return [tf.Variable(tf.zeros(shape, dtype)) for shape in shapes]


def _conv2d(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """`tf.nn.conv2d` (`conv3d` for video) with VALID padding, then `tf.nn.bias_add`."""
    tf = import_tensorflow()
    variables = _variables(shapes, dtype)
    convolve = tf.nn.conv2d if spec.spatial_axes == 2 else tf.nn.conv3d
    strides = (1, *spec.stride, 1)

    def forward(images: Any) -> Any:
        grid = convolve(_pad(images, spec), variables[0], strides, "VALID")
        return _flat_grid(_add_bias(grid, variables), spec)

    return variables, forward


def _keras_conv2d(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """`keras.layers.Conv2D` (`Conv3D` for video), channels last."""
    import keras

    layer_type = keras.layers.Conv2D if spec.spatial_axes == 2 else keras.layers.Conv3D
    layer = layer_type(
        spec.embed_dim,
        spec.patch_size,
        spec.stride,
        data_format="channels_last",
        use_bias=len(shapes) == 2,
        dtype=dtype,
    )
    layer.build((None, *spec.padded_size, spec.in_channels))
    variables = [variable.value for variable in layer.trainable_variables]
    return variables, lambda images: _flat_grid(layer(_pad(images, spec)), spec)


def _linear(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """Cut into patches, `tf.matmul`, then `tf.nn.bias_add`."""
    variables = _variables(shapes, dtype)

    def forward(images: Any) -> Any:
        patches = channels_last_patches(_pad(images, spec), spec, _Functions)
        return _projected(patches, variables, spec)

    return variables, forward


def _extract_patches(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """`tf.image.extract_patches` (`tf.extract_volume_patches` for video), as KerasHub's older
    models and many tutorials have it; `tf.matmul`."""
    tf = import_tensorflow()
    variables = _variables(shapes, dtype)
    sizes, strides = (1, *spec.patch_size, 1), (1, *spec.stride, 1)

    def forward(images: Any) -> Any:
        padded = _pad(images, spec)
        if spec.spatial_axes == 2:
            patches = tf.image.extract_patches(padded, sizes, strides, (1, 1, 1, 1), "VALID")
        else:
            patches = tf.extract_volume_patches(padded, sizes, strides, "VALID")
        return _projected(patches, variables, spec)

    return variables, forward


def _space_to_depth(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """`tf.nn.space_to_depth`, which moves square patches into the channels, then `tf.matmul`."""
    tf = import_tensorflow()
    variables = _variables(shapes, dtype)

    def forward(images: Any) -> Any:
        patches = tf.nn.space_to_depth(_pad(images, spec), spec.patch_size[0])
        return _projected(patches, variables, spec)

    return variables, forward


WORD_BYTES = 8
"""Of the widest whole numbers. XLA's CPU code for a transpose moves a value at a time: bytes of
ViT-B/16, batch 8, on one core, take 4 ms by ones and 0.7 by eights."""


def _byte_patches(images: Any, spec: PatchEmbedSpec) -> Any:
    """Patches of bytes, `(B, N, K)`: where they tile the image a row of a patch, P·C bytes, is
    moved in words."""
    tf = import_tensorflow()
    if not spec.tiles:
        return channels_last_patches(images, spec, _Functions)
    axes, run = spec.spatial_axes, spec.patch_size[-1] * spec.in_channels
    size = math.gcd(run, WORD_BYTES)
    split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
    rows = _Functions.reshape_each(images, (*split[:-1], run // size, size))
    word = {1: tf.uint8, 2: tf.int16, 4: tf.int32, 8: tf.int64}[size]
    words = tf.bitcast(rows, word) if size > 1 else rows[..., 0]
    moved = tf.transpose(words, (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2)))
    return _Functions.reshape_each(
        tf.bitcast(moved, tf.uint8), (spec.num_patches, spec.patch_values)
    )


def _linear_uint8(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """Cut bytes into patches, cast, `tf.matmul`, then `tf.nn.bias_add`."""
    tf = import_tensorflow()
    variables = _variables(shapes, dtype)

    def forward(images: Any) -> Any:
        return _projected(tf.cast(_byte_patches(images, spec), dtype), variables, spec)

    return variables, forward


def _conv2d_uint8(
    spec: PatchEmbedSpec, shapes: list[tuple[int, ...]], dtype: str
) -> tuple[list[Any], Forward]:
    """Bytes cast, rescaled and normalized, then `tf.nn.conv2d`."""
    tf = import_tensorflow()
    variables, convolve = _conv2d(spec, shapes, dtype)
    mean, std = channel_statistics(spec.in_channels, dtype)

    def forward(images: Any) -> Any:
        return convolve((tf.cast(images, dtype) * SCALE - mean) / std)

    return variables, forward


def _usage(implementation: Implementation, spec: PatchEmbedSpec) -> str:
    """What each formulation is in plain TensorFlow."""
    axes, width, values = spec.spatial_axes, spec.embed_dim, spec.patch_values
    formulation, padding, sizes, strides = (
        implementation.formulation,
        spec.effective_padding,
        spec.patch_size,
        spec.stride,
    )
    lines = (
        f"    images = tf.pad(images, {((0, 0), *padding, (0, 0))})\n"
        if any(map(any, padding))
        else ""
    )
    before = ""
    projected = f"tf.nn.bias_add(tf.matmul(tf.reshape(patches, (-1, {values})), kernel), bias)"
    match formulation:
        case "conv2d":
            projected = (
                f"tf.nn.bias_add(tf.nn.conv{axes}d(images, kernel, {(1, *strides, 1)}, "
                '"VALID"), bias)'
            )
        case "keras_conv2d":
            before = f"""\
projection = keras.layers.Conv{axes}D({width}, {sizes}, {strides}, dtype=kernel.dtype.name)
projection.build((None, {", ".join(map(str, spec.padded_size))}, {spec.in_channels}))
projection.set_weights([kernel, bias])
"""
            projected = "projection(images)"
        case "linear":
            lines += patches_code(
                spec, "tf", "tf.gather", "tf.reshape({array}, (tf.shape(images)[0], {shape}))"
            )
        case "extract_patches" if axes == 2:
            lines += (
                f"    patches = tf.image.extract_patches(images, {(1, *sizes, 1)}, "
                f'{(1, *strides, 1)}, (1, 1, 1, 1), "VALID")\n'
            )
        case "extract_patches":
            lines += (
                f"    patches = tf.extract_volume_patches(images, {(1, *sizes, 1)}, "
                f'{(1, *strides, 1)}, "VALID")\n'
            )
        case "space_to_depth":
            lines += f"    patches = tf.nn.space_to_depth(images, {sizes[0]})\n"
    mode = {"eager": "", "graph": "@tf.function\n", "xla": "@tf.function(jit_compile=True)\n"}[
        implementation.mode
    ]
    return f"""\
import keras
import numpy as np
import tensorflow as tf

{before}
{mode}def embed(images):
{lines}    return tf.reshape({projected}, (tf.shape(images)[0], {spec.num_patches}, {width}))
"""


def traced_first_call(function: Any, images: Any) -> tuple[Any, FirstCall]:
    """Trace a `tf.function`, then call it: it compiles when it is first called."""

    def call() -> Any:
        outputs = function(images)
        wait_for(outputs)
        return outputs

    started = time.perf_counter()
    function.get_concrete_function(images)
    trace = time.perf_counter() - started
    outputs, beyond_the_second = called_twice(call)
    return outputs, FirstCall(trace, beyond_the_second)


def wait_for(outputs: Any) -> None:
    """Return once outputs are computed: on the CPU a call returns when they are; a GPU needs
    `sync_devices`."""
    first = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
    if "GPU" in first.device:
        import_tensorflow().test.experimental.sync_devices()


class _Functions:
    """The three functions that `channels_last_patches` needs."""

    @staticmethod
    def reshape_each(array: Any, shape: tuple[int, ...]) -> Any:
        return import_tensorflow().reshape(array, (import_tensorflow().shape(array)[0], *shape))

    @staticmethod
    def transpose(array: Any, axes: tuple[int, ...]) -> Any:
        return import_tensorflow().transpose(array, axes)

    @staticmethod
    def take(array: Any, indices: NDArray[np.int32], axis: int) -> Any:
        return import_tensorflow().gather(array, indices, axis=axis)


_MODES: dict[str, Callable[[Any], Callable[[Callable[..., Any]], Callable[..., Any]]]] = {
    "eager": lambda tf: lambda function: function,
    "graph": lambda tf: functools.partial(tf.function, autograph=False),
    "xla": lambda tf: functools.partial(tf.function, autograph=False, jit_compile=True),
}
"""How each mode wraps a function; there is no Python control flow on tensors here, so AutoGraph has
nothing to do."""


class _Embedding(LoadedEmbedding):
    def __init__(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> None:
        tf = self.tf = import_tensorflow()
        self.spec, self.implementation, self.dtype = spec, implementation, np.dtype(dtype)
        self.device = tf.device("GPU:0" if device == "cuda" else "CPU:0")
        build = TensorFlowBackend.formulations[implementation.formulation][0]
        arrays = self._arrays(weights)
        with self.device:
            self.variables, forward = build(spec, [array.shape for array in arrays], dtype)
        self.assign(weights)

        def pullback(images: Any, grad_tokens: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(images)
                tokens = forward(images)
            return tape.gradient(tokens, [images, *self.variables], grad_tokens)

        self.wrap = _MODES[implementation.mode](tf)
        self.plain, self.forward, self.pullback = forward, self.wrap(forward), self.wrap(pullback)

    def _arrays(self, weights: PatchEmbedWeights) -> list[NDArray[Any]]:
        weights = self.implementation.own_weights(weights)
        arrays = [kernel_to_layout(weights.kernel, self.implementation.kernel_layout)]
        return arrays if weights.bias is None else [*arrays, weights.bias]

    def assign(self, weights: PatchEmbedWeights) -> None:
        for variable, array in zip(self.variables, self._arrays(weights), strict=True):
            variable.assign(self._tensor(array))

    def _tensor(self, array: NDArray[Any], dtype: Any = None) -> Any:
        with self.device:
            # A copy on the device: tf.constant keeps small arrays on the host, tf.identity moves
            # them.
            own = np.array(array, dtype or self.dtype, order="C")
            return self.tf.identity(self.tf.constant(own))

    def place(self, images: NDArray[Any]) -> Any:
        placed = images_to_layout(images, self.implementation.image_layout)
        if self.implementation.pixels == "uint8":
            return self._tensor(as_bytes(placed), np.uint8)
        return self._tensor(placed)

    def call(self, inputs: Any) -> Any:
        with self.device:
            return self.forward(inputs)

    def synchronize(self, outputs: Any) -> None:
        wait_for(outputs)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return np.asarray(outputs)

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """Trace apart, where there is something to trace."""
        if self.implementation.mode == "eager":
            return super().first_call(inputs)
        with self.device:
            return traced_first_call(self.forward, inputs)

    def _on_device(self, function: Forward) -> Forward:
        """The function in the implementation's mode, on its device."""
        whole = self.wrap(function)

        def placed(images: Any) -> Any:
            with self.device:
                return whole(images)

        return placed

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """`tf.concat` with the broadcast class token, then the sum."""
        if self.implementation.pixels == "uint8":
            return None
        tf, forward = self.tf, self.plain
        token, table = self._tensor(class_token), self._tensor(positions)

        def assemble(images: Any) -> Any:
            rows = tf.broadcast_to(token, (tf.shape(images)[0], 1, token.shape[0]))
            return tf.concat([rows, forward(images)], axis=1) + table

        return Operation(
            self, self._on_device(assemble), lambda outputs: {"forward": np.asarray(outputs)}
        )

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation | None:
        """`tf.GradientTape` over the forward pass, gradients of the variables."""
        if not self.implementation.differentiable:
            return None
        tf, forward, gradient = self.tf, self.plain, self._tensor(grad_tokens)

        def step(images: Any) -> Any:
            with tf.GradientTape() as tape:
                tokens = forward(images)
            return [tokens, *tape.gradient(tokens, self.variables, gradient)]

        layout = self.implementation.kernel_layout
        return Operation(
            self,
            self._on_device(step),
            lambda outputs: step_results(map(np.asarray, outputs), layout, self.spec),
        )

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        if not self.implementation.differentiable:
            return super().gradients(images, grad_tokens)
        with self.device:
            gradients = self.pullback(self.place(images), self._tensor(grad_tokens))
        image, kernel, *bias = (np.asarray(gradient) for gradient in gradients)
        return PatchEmbedGradients(
            image=images_from_layout(image, self.implementation.image_layout),
            kernel=kernel_from_layout(kernel, self.implementation.kernel_layout, self.spec),
            bias=bias[0] if bias else np.zeros(0, self.dtype),
        )


class _Gemm(Computation):
    def __init__(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> None:
        tf = self.tf = import_tensorflow()
        generator = np.random.default_rng(0)
        with tf.device("GPU:0" if device == "cuda" else "CPU:0"):
            self.left = tf.identity(
                tf.constant(generator.standard_normal((rows, depth)).astype(dtype))
            )
            self.right = tf.identity(
                tf.constant(generator.standard_normal((depth, columns)).astype(dtype))
            )
        self.product = tf.function(tf.matmul, autograph=False)

    def call(self, inputs: None) -> Any:
        return self.product(self.left, self.right)

    def synchronize(self, outputs: Any) -> None:
        wait_for(outputs)


class _Sweep(Computation):
    """One added to every value of an array."""

    def __init__(self, values: int, device: str) -> None:
        tf = self.tf = import_tensorflow()
        self.device = tf.device("GPU:0" if device == "cuda" else "CPU:0")
        with self.device:
            self.values = tf.ones(values, tf.float32)

    def call(self, inputs: None) -> Any:
        with self.device:
            return self.values + 1.0

    def synchronize(self, outputs: Any) -> None:
        wait_for(outputs)


class _Memory(DeviceMemory):
    """TensorFlow's allocator of the first GPU."""

    def reset_peak(self) -> int:
        config = import_tensorflow().config.experimental
        config.reset_memory_stats("GPU:0")
        return int(config.get_memory_info("GPU:0")["current"])

    def peak(self) -> int:
        return int(import_tensorflow().config.experimental.get_memory_info("GPU:0")["peak"])


class TensorFlowBackend(Backend):
    """TensorFlow on CPU and CUDA, with the Keras layer that its users call."""

    name = "tensorflow"
    packages = ("tensorflow", "keras")
    switches = {"KERAS_BACKEND": "tensorflow"}
    formulations = {
        "conv2d": (_conv2d, HWIO),
        "keras_conv2d": (_keras_conv2d, HWIO),
        "linear": (_linear, DENSE_CHANNELS_LAST),
    }
    implementations = tuple(
        # oneDNN's and XLA's CPU kernels run with flush-to-zero set. The bias is added after the
        # product.
        Implementation(
            "tensorflow",
            formulation,
            mode,
            NHWC,
            layout,
            flush_to_zero=True,
            output_roundings=2,
            default_on_cuda="tf32",
            # A float64 convolution that XLA compiles for the CPU is a plain loop: 0.3 s for two
            # images of ViT-B/16, ten times the eager one.
            slow_dtypes=("float64",) if mode == "xla" and formulation.endswith("conv2d") else (),
            customary=formulation == "keras_conv2d" and mode != "xla",
        )
        for formulation, (_, layout) in formulations.items()
        for mode in ("eager", "graph", "xla")
    )
    variants = {
        # XLA has no kernel for extracting patches.
        "extract_patches": (_extract_patches, DENSE_CHANNELS_LAST, ("eager", "graph")),
        "space_to_depth": (_space_to_depth, DENSE_CHANNELS_LAST, ("eager", "graph", "xla")),
        "linear_uint8": (_linear_uint8, DENSE_CHANNELS_LAST, ("eager", "graph", "xla")),
        "conv2d_uint8": (_conv2d_uint8, HWIO, ("eager", "graph", "xla")),
    }
    implementations += tuple(
        Implementation(
            "tensorflow",
            formulation,
            mode,
            NHWC,
            layout,
            dtypes=("float32",) if formulation == "conv2d_uint8" else DTYPES,
            flush_to_zero=True,
            output_roundings=2,
            default_on_cuda="tf32",
            differentiable=not formulation.endswith("_uint8"),
            variant=True,
            customary=formulation == "conv2d_uint8" and mode != "xla",
            pixels="uint8" if formulation.endswith("_uint8") else "float",
            normalizes=formulation == "conv2d_uint8",
        )
        for formulation, (_, layout, modes) in variants.items()
        for mode in modes
    )
    formulations.update(
        {formulation: (build, layout) for formulation, (build, layout, _) in variants.items()}
    )

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """`tf.nn.space_to_depth` knows square patches, of two pixels or more, of images that they
        tile."""
        square = (
            spec.spatial_axes == 2 and len(set(spec.patch_size)) == 1 and spec.patch_size[0] > 1
        )
        if implementation.formulation == "space_to_depth" and not (square and spec.tiles):
            return (
                f"{implementation.name} cuts images into square patches of two pixels or more "
                "that do not overlap, and no others"
            )
        return super().refuses(implementation, spec)

    def __init__(self) -> None:
        # Read when TensorFlow's library is loaded, and JAX sets it to 1: too talkative, at every
        # float64 operation.
        if importlib.util.find_spec("tensorflow") is not None:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def unavailable(self, implementation: Implementation) -> str | None:
        """The Keras layer is TensorFlow's only while Keras itself runs on TensorFlow."""
        if implementation.formulation == "keras_conv2d":
            import_tensorflow()
            import keras

            if keras.backend.backend() != "tensorflow":
                return f"Keras runs on {keras.backend.backend()} here; set KERAS_BACKEND=tensorflow"
        return None

    def devices(self) -> tuple[str, ...]:
        """The CPU, and `cuda` where TensorFlow sees a GPU."""
        return (
            ("cpu", "cuda") if import_tensorflow().config.list_physical_devices("GPU") else ("cpu",)
        )

    def environment(self, threads: int) -> dict[str, str]:
        """The stock wheel computes in Eigen's pools, which read these and not OpenMP's."""
        return {
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`tf.constant`."""
        return np.asarray(import_tensorflow().constant(array))

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`tf.cast` in a graph."""
        tf = import_tensorflow()
        cast = tf.function(lambda values: tf.cast(tf.cast(values, tf.float16), tf.float32))
        return np.asarray(cast(tf.constant(array)))

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`tf.nn.conv2d`, channels last."""
        moved = images_to_layout(images, NHWC), kernel.transpose(2, 3, 1, 0)
        return np.asarray(
            import_tensorflow().nn.conv2d(*moved, kernel.shape[-1], "VALID")
        ).transpose(0, 3, 1, 2)

    def lacks(self, precision: Precision, device: str) -> str | None:
        """There is a switch for TensorFloat-32 and none for bfloat16 in float32."""
        return "TensorFlow has no bf16 mode for float32" if precision == "bf16" else None

    @contextlib.contextmanager
    def precision(self, precision: Precision) -> Iterator[None]:
        """Switch TensorFloat-32, which is on by default and matters on GPUs alone."""
        check_precision(precision)
        if precision == "default":
            yield
            return
        config = import_tensorflow().config.experimental
        kept = config.tensor_float_32_execution_enabled()
        config.enable_tensor_float_32_execution(precision == "tf32")
        try:
            yield
        finally:
            config.enable_tensor_float_32_execution(kept)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Put the weights into variables, in HWIO or `(K, D)`, and wrap the function for the
        mode."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec):
            raise PatchParityError(reason)
        return _Embedding(implementation, weights, spec, dtype, device)

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """In plain TensorFlow and Keras; with patchparity what takes bytes."""
        if implementation.pixels == "uint8":
            return super().usage(implementation, spec, batch)
        return _usage(implementation, spec)

    def wait(self, outputs: Any) -> None:
        """Of a tensor on a GPU."""
        wait_for(outputs)

    def device_memory(self, device: str) -> DeviceMemory | None:
        """`tf.config.experimental.get_memory_info`."""
        return _Memory() if device == "cuda" else None

    def sweep(self, values: int, device: str) -> Computation:
        """An elementwise sum."""
        return _Sweep(values, device)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`tf.matmul` in a `tf.function`."""
        return _Gemm(rows, depth, columns, dtype, device)


BACKENDS = (TensorFlowBackend(),)
