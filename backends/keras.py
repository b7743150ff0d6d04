"""Keras 3 on PyTorch, TensorFlow and JAX: a functional model of `Conv2D`, or of reshape, transpose
and `Dense`.

Keras runs on one of them for the life of a process, the one that `KERAS_BACKEND` names: a switch.
Everything that is not Keras's own (devices, precision, threads, the plain matrix product) is that
backend's.
"""

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.embed import PatchEmbedGradients
from ..reference.errors import PatchParityError
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .base import Backend, Implementation, Precision
from .computation import (
    Computation,
    DeviceMemory,
    Events,
    FirstCall,
    LoadedEmbedding,
    Operation,
    step_results,
)
from .jax.adapter import JaxBackend, first_call_told
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
from .tensorflow import TensorFlowBackend, traced_first_call, wait_for
from .torch.adapter import TorchBackend


def _conv2d(images: Any, spec: PatchEmbedSpec, bias: bool, dtype: str) -> Any:
    """`keras.layers.Conv2D` (`Conv3D` for video), then `Reshape` to `(N, D)`."""
    import keras

    layer_type = keras.layers.Conv2D if spec.spatial_axes == 2 else keras.layers.Conv3D
    options = dict(use_bias=bias, kernel_initializer="zeros", dtype=dtype, name="projection")
    layer = layer_type(
        spec.embed_dim, spec.patch_size, spec.stride, data_format="channels_last", **options
    )
    return keras.layers.Reshape((spec.num_patches, spec.embed_dim), dtype=dtype)(layer(images))


def _linear(images: Any, spec: PatchEmbedSpec, bias: bool, dtype: str) -> Any:
    """Cut into patches with `keras.layers.Reshape` and `keras.ops`, then `keras.layers.Dense`."""
    import keras

    layer = keras.layers.Dense(
        spec.embed_dim, use_bias=bias, kernel_initializer="zeros", dtype=dtype, name="projection"
    )

    class Functions:
        """What `channels_last_patches` needs."""

        transpose, take = keras.ops.transpose, keras.ops.take

        @staticmethod
        def reshape_each(array: Any, shape: tuple[int, ...]) -> Any:
            return keras.layers.Reshape(shape, dtype=dtype)(array)

    return layer(channels_last_patches(images, spec, Functions))


Build = Callable[[Any, PatchEmbedSpec, bool, str], Any]
"""From a Keras tensor of padded images to one of tokens, by way of a layer named `projection`."""


def model_of(build: Build, spec: PatchEmbedSpec, bias: bool, dtype: str) -> Any:
    """A functional model from images `(B, H, W, C)` to tokens `(B, N, D)`."""
    import keras

    inputs = padded = keras.Input((*spec.image_size, spec.in_channels), dtype=dtype)
    if any(any(pair) for pair in spec.effective_padding):
        pad = keras.layers.ZeroPadding2D if spec.spatial_axes == 2 else keras.layers.ZeroPadding3D
        padded = pad(spec.effective_padding, data_format="channels_last", dtype=dtype)(inputs)
    return keras.Model(inputs, build(padded, spec, bias, dtype))


def _with_prefix_and_positions(model: Any, dtype: str) -> Any:
    """A model from images to sequences `(B, 1 + N, D)`, with a class token and positions of its
    own, as KerasHub has it."""
    import keras

    class Assemble(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: tuple[Any, ...]) -> None:
            _, count, width = shape
            self.class_token = self.add_weight(shape=(1, 1, width), name="class_token")
            self.positions = self.add_weight(shape=(1, 1 + count, width), name="positions")

        def call(self, tokens: Any) -> Any:
            ops = keras.ops
            rows = ops.broadcast_to(self.class_token, (ops.shape(tokens)[0], 1, tokens.shape[-1]))
            return ops.concatenate([rows, tokens], axis=1) + self.positions

    return keras.Model(model.inputs, Assemble(dtype=dtype, name="sequence")(model.outputs[0]))


class _TorchModel:
    """Eager, without gradients unless asked, as `predict` runs it."""

    def __init__(self, model: Any) -> None:
        import torch

        self.torch, self.model = torch, model

    def forward(self, images: Any) -> Any:
        with self.torch.inference_mode():
            return self.model(images)

    def pullback(self, images: Any, grad_tokens: Any) -> list[Any]:
        wanted = [
            images.requires_grad_(),
            *(variable.value for variable in self.model.trainable_variables),
        ]
        return list(self.torch.autograd.grad(self.model(images), wanted, grad_tokens))

    def first_call(self, images: Any) -> tuple[Any, FirstCall]:
        return self.forward(images), FirstCall()

    def train_step(self, images: Any, grad_tokens: Any) -> list[Any]:
        tokens = self.model(images)
        wanted = [variable.value for variable in self.model.trainable_variables]
        return [tokens, *self.torch.autograd.grad(tokens, wanted, grad_tokens)]

    def synchronize(self, outputs: Any) -> None:
        first = outputs[0] if isinstance(outputs, list) else outputs
        if first.is_cuda:
            self.torch.cuda.synchronize(first.device)


class _TensorFlowModel:
    """In a `tf.function`, as `predict` runs it."""

    def __init__(self, model: Any) -> None:
        import tensorflow as tf

        def pullback(images: Any, grad_tokens: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(images)
                tokens = model(images)
            return tape.gradient(
                tokens,
                [images, *(variable.value for variable in model.trainable_variables)],
                grad_tokens,
            )

        def train_step(images: Any, grad_tokens: Any) -> Any:
            with tf.GradientTape() as tape:
                tokens = model(images)
            return [
                tokens,
                *tape.gradient(
                    tokens, [variable.value for variable in model.trainable_variables], grad_tokens
                ),
            ]

        self.forward = tf.function(lambda images: model(images), autograph=False)
        self.pullback, self.train_step = (
            tf.function(function, autograph=False) for function in (pullback, train_step)
        )

    def first_call(self, images: Any) -> tuple[Any, FirstCall]:
        return traced_first_call(self.forward, images)

    def synchronize(self, outputs: Any) -> None:
        wait_for(outputs)


class _JaxModel:
    """Stateless under `jax.jit`, as `predict` runs it."""

    def __init__(self, model: Any) -> None:
        import jax

        def forward(variables: list[Any], images: Any) -> Any:
            return model.stateless_call(
                variables, [variable.value for variable in model.non_trainable_variables], images
            )[0]

        def pullback(variables: list[Any], images: Any, grad_tokens: Any) -> list[Any]:
            kernel_and_bias, image = jax.vjp(forward, variables, images)[1](grad_tokens)
            return [image, *kernel_and_bias]

        def train_step(variables: list[Any], images: Any, grad_tokens: Any) -> list[Any]:
            tokens, pullback = jax.vjp(lambda variables: forward(variables, images), variables)
            return [tokens, *pullback(grad_tokens)[0]]

        self.jax, self.model = jax, model
        self._forward, self._pullback, self._train_step = map(
            jax.jit, (forward, pullback, train_step)
        )

    def _values(self) -> list[Any]:
        return [variable.value for variable in self.model.trainable_variables]

    def forward(self, images: Any) -> Any:
        return self._forward(self._values(), images)

    def pullback(self, images: Any, grad_tokens: Any) -> list[Any]:
        return list(self._pullback(self._values(), images, grad_tokens))

    def first_call(self, images: Any) -> tuple[Any, FirstCall]:
        return first_call_told(lambda: self.forward(images))

    def train_step(self, images: Any, grad_tokens: Any) -> list[Any]:
        return list(self._train_step(self._values(), images, grad_tokens))

    def synchronize(self, outputs: Any) -> None:
        self.jax.block_until_ready(outputs)


class KerasEmbedding(LoadedEmbedding):
    """A functional model on one of Keras's frameworks, and the layer in it that holds kernel and
    bias."""

    def __init__(
        self,
        engine: str,
        formulation: tuple[Build, str],
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> None:
        import keras

        self.keras, self.engine, self.spec, self.dtype, self.device = (
            keras,
            engine,
            spec,
            np.dtype(dtype),
            device,
        )
        build, self.kernel_layout = formulation
        with self._scope():
            self.functional = model_of(build, spec, weights.bias is not None, dtype)
            self.layer = self.projection(self.functional)
            self.model = KerasBackend.engines[engine][1](self.functional)
        self.assign(weights)

    @contextlib.contextmanager
    def _scope(self) -> Iterator[None]:
        """The device, and JAX's 64-bit mode for float64 alone."""
        with self.keras.device("gpu:0" if self.device == "cuda" else "cpu:0"):
            if self.engine == "jax" and self.dtype == np.float64:
                import jax

                with jax.enable_x64(True):
                    yield
            else:
                yield

    def projection(self, model: Any) -> Any:
        """The layer whose variables are kernel and, where there is one, bias."""
        return model.get_layer("projection")

    def assign(self, weights: PatchEmbedWeights) -> None:
        """Into the layer's variables."""
        self.weights = weights
        arrays = [kernel_to_layout(weights.kernel, self.kernel_layout)] + (
            [] if weights.bias is None else [weights.bias]
        )
        with self._scope():
            for variable, array in zip(self.layer.trainable_variables, arrays, strict=True):
                variable.assign(self._tensor(array))

    def _tensor(self, array: NDArray[Any]) -> Any:
        # Without the dtype, Keras on torch would narrow float64 to its `floatx`.
        return self.keras.ops.convert_to_tensor(
            np.array(array, self.dtype, order="C"), self.dtype.name
        )

    def place(self, images: NDArray[Any]) -> Any:
        """Channels last."""
        with self._scope():
            return self._tensor(images_to_layout(images, NHWC))

    def call(self, inputs: Any) -> Any:
        """The model, as the framework runs it."""
        with self._scope():
            return self.model.forward(inputs)

    def synchronize(self, outputs: Any) -> None:
        """As the framework does."""
        self.model.synchronize(outputs)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        """`keras.ops.convert_to_numpy`."""
        return np.asarray(self.keras.ops.convert_to_numpy(outputs))

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        """The framework's own differentiation of the model, by images too."""
        with self._scope():
            gradients = self.model.pullback(self.place(images), self._tensor(grad_tokens))
        image, kernel, *bias = map(self.fetch, gradients[: 1 + len(self.layer.trainable_variables)])
        return PatchEmbedGradients(
            image=images_from_layout(image, NHWC),
            kernel=kernel_from_layout(kernel, self.kernel_layout, self.spec),
            bias=bias[0] if bias else np.zeros(0, self.dtype),
        )

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """As the framework tells it."""
        with self._scope():
            outputs, first_call = self.model.first_call(inputs)
        self.synchronize(outputs)
        return outputs, first_call

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation:
        """The model, and a layer that puts the class token in front and adds positions."""
        with self._scope():
            model = _with_prefix_and_positions(self.functional, self.dtype.name)
            layer, whole = model.get_layer("sequence"), KerasBackend.engines[self.engine][1](model)
            layer.class_token.assign(self._tensor(class_token.reshape(1, 1, -1)))
            layer.positions.assign(self._tensor(positions[None]))

        def function(images: Any) -> Any:
            with self._scope():
                return whole.forward(images)

        return Operation(self, function, lambda outputs: {"forward": self.fetch(outputs)})

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation:
        """The framework's own differentiation of the model by its variables."""
        # a layer may have others behind its kernel and bias
        count = 1 + len(self.layer.trainable_variables)
        with self._scope():
            gradient = self._tensor(grad_tokens)

        def function(images: Any) -> Any:
            with self._scope():
                return self.model.train_step(images, gradient)

        return Operation(
            self,
            function,
            lambda outputs: step_results(
                map(self.fetch, outputs[:count]), self.kernel_layout, self.spec
            ),
        )


class KerasBackend(Backend):
    """Keras on one of its frameworks."""

    formulations: dict[str, tuple[Build, str]] = {
        "conv2d": (_conv2d, HWIO),
        "linear": (_linear, DENSE_CHANNELS_LAST),
    }
    embedding = KerasEmbedding
    engines: dict[str, tuple[str, Any]] = {
        "torch": ("eager", _TorchModel),
        "tensorflow": ("graph", _TensorFlowModel),
        "jax": ("jit", _JaxModel),
    }

    def __init__(self, engine: Backend) -> None:
        self.engine = engine
        self.name = f"keras-{engine.name}"
        self.packages = tuple(dict.fromkeys(("keras", *engine.packages)))
        self.switches = {**engine.switches, "KERAS_BACKEND": engine.name}
        self.implementations = tuple(
            Implementation(
                self.name,
                formulation,
                self.engines[engine.name][0],
                NHWC,
                layout,
                # Keras adds the bias to the product by an operation of its own; the rest is the
                # framework's.
                output_roundings=2,
                flush_to_zero=engine.name != "torch",
                customary=formulation == "conv2d",
                default_on_cuda="ieee"
                if (engine.name, formulation) == ("torch", "linear")
                else "tf32",
            )
            for formulation, (_, layout) in self.formulations.items()
        )

    @property
    def yardstick(self) -> str:
        """The framework that it runs on."""
        return self.engine.name

    @property
    def extra(self) -> str:
        """Keras's own, and its framework's."""
        return f"keras,{self.engine.name}"

    def unavailable(self, implementation: Implementation) -> str | None:
        """Keras may run on another framework in this process."""
        self.engine.devices()  # imports the framework first, as quietly as its own backend does
        mend = f"set KERAS_BACKEND={self.engine.name} before it is imported"
        try:
            import keras
        except ImportError as error:
            return f"Keras cannot be imported here ({error}); {mend}"
        running = keras.backend.backend()
        return (
            None
            if running == self.engine.name
            else f"Keras runs on {running} in this process; {mend}"
        )

    def devices(self) -> tuple[str, ...]:
        """Those of the framework."""
        return self.engine.devices()

    def environment(self, threads: int) -> dict[str, str]:
        """That of the framework."""
        return self.engine.environment(threads)

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`keras.ops.convert_to_tensor`."""
        import keras

        return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(array)))

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`keras.ops.cast`."""
        import keras

        narrow = keras.ops.cast(keras.ops.convert_to_tensor(array), "float16")
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(narrow, "float32")))

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`keras.ops.conv`, channels last."""
        import keras

        moved = images_to_layout(images, NHWC), kernel.transpose(2, 3, 1, 0)
        output = keras.ops.conv(*moved, kernel.shape[-1], "valid", "channels_last")
        return np.asarray(keras.ops.convert_to_numpy(output)).transpose(0, 3, 1, 2)

    def lacks(self, precision: Precision, device: str) -> str | None:
        """As the framework."""
        return self.engine.lacks(precision, device)

    def precision(self, precision: Precision) -> contextlib.AbstractContextManager[None]:
        """The framework's own settings."""
        return self.engine.precision(precision)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Build the model and assign the weights to its layer."""
        weights.check_spec(spec)
        if reason := self.unavailable(implementation):
            raise PatchParityError(reason)
        return self.embedding(
            self.engine.name,
            self.formulations[implementation.formulation],
            weights,
            spec,
            dtype,
            device,
        )

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """A functional model."""
        padding, axes = spec.effective_padding, spec.spatial_axes
        shape, tokens = (*spec.image_size, spec.in_channels), (spec.num_patches, spec.embed_dim)
        pad = (
            f"images = keras.layers.ZeroPadding{axes}D({padding}, "
            "dtype=kernel.dtype.name)(images)\n"
            if any(map(any, padding))
            else ""
        )
        if implementation.formulation == "conv2d":
            layer = (
                f"keras.layers.Conv{axes}D({spec.embed_dim}, {spec.patch_size}, "
                f"{spec.stride}, "
                "dtype=kernel.dtype.name)"
            )
            lines = (
                f"projection = {layer}\ntokens = keras.layers.Reshape({tokens}, "
                "dtype=kernel.dtype.name)(projection(images))\n"
            )
        else:
            cut = textwrap.dedent(
                patches_code(
                    spec,
                    "keras.ops",
                    "keras.ops.take",
                    "keras.layers.Reshape(({shape}), dtype=kernel.dtype.name)({array})",
                )
            )
            lines = (
                f"{cut}projection = keras.layers.Dense({spec.embed_dim}, "
                "dtype=kernel.dtype.name)\ntokens = projection(patches)\n"
            )
        return f"""\
import os

os.environ["KERAS_BACKEND"] = "{self.engine.name}"
import keras
import numpy as np

inputs = images = keras.Input({shape}, dtype=kernel.dtype.name)
{pad}{lines}model = keras.Model(inputs, tokens)
projection.set_weights([kernel, bias])


def embed(images):
    return model.predict_on_batch(images)
"""

    def wait(self, outputs: Any) -> None:
        """The framework's."""
        self.engine.wait(outputs)

    def events(self, device: str) -> Events | None:
        """The framework's."""
        return self.engine.events(device)

    def device_memory(self, device: str) -> DeviceMemory | None:
        """The framework's."""
        return self.engine.device_memory(device)

    def sweep(self, values: int, device: str) -> Computation | None:
        """The framework's."""
        return self.engine.sweep(values, device)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """The framework's own."""
        return self.engine.gemm(rows, depth, columns, dtype, device)


BACKENDS = tuple(
    KerasBackend(engine) for engine in (TorchBackend(), TensorFlowBackend(), JaxBackend())
)
