"""LiteRT (TensorFlow Lite) on the CPU: models that TensorFlow's converter makes, as they are, with
a float16 kernel, with a kernel of integers, and with integers throughout."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.quantize import Lattice, Quantization
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation, Stored
from ..computation import LoadedEmbedding
from ..layouts import HWIO, NHWC, kernel_to_layout
from ..quiet import silenced
from ..runtime import RuntimeBackend, RuntimeModel, number_of_threads
from ..tensorflow import import_tensorflow

CONVERTED: dict[bytes, bytes] = {}
MOST_CONVERTED = 128
"""Models that were converted, by their weights: a fifth of a second each, and the same for both
modes. The probes of `check` on all of its shapes are 112."""


class _Model(RuntimeModel):
    def __init__(
        self, spec: PatchEmbedSpec, weights: PatchEmbedWeights, formulation: str, mode: str
    ) -> None:
        self.formulation, self.mode = formulation, mode
        self.integers = formulation == "conv2d_int8"
        super().__init__(spec, weights, "float32", NHWC)

    def convert(self, folder: Path) -> None:
        """As users do. What is computed in integers throughout is calibrated on the images that it
        is given first, and made then."""
        self.waits = self.integers
        if not self.integers:
            self._interpret(self._converted())
        elif not hasattr(self, "interpreter"):  # for no images, on which nothing is calibrated
            black = np.zeros((1, *self.spec.image_size, self.spec.in_channels), np.float32)
            self._interpret(self._convert(black))

    def _converted(self) -> bytes:
        kept = hashlib.sha256(repr((self.spec, self.formulation)).encode())
        for array in (self.weights.kernel, self.weights.bias):
            kept.update(b"" if array is None else array.tobytes())
        key = kept.digest()
        if key not in CONVERTED:
            CONVERTED[key] = self._convert(None)
            while len(CONVERTED) > MOST_CONVERTED:
                del CONVERTED[next(iter(CONVERTED))]
        return CONVERTED[key]

    def _convert(self, images: NDArray[Any] | None) -> bytes:
        tf = import_tensorflow()

        function = _function(self.spec, self.weights).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
        if self.formulation != "conv2d":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.formulation == "conv2d_float16":
            converter.target_spec.supported_types = [tf.float16]
        if images is not None:

            def representative() -> Iterator[list[NDArray[Any]]]:
                for number in range(len(images)):
                    yield [images[number : number + 1]]

            converter.representative_dataset = representative
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        with silenced():
            converted: bytes = converter.convert()
        return converted

    def _interpret(self, model: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = (
            OpResolverType.AUTO
            if self.mode == "xnnpack"
            else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        with silenced():
            self.interpreter = Interpreter(
                model_content=model,
                num_threads=number_of_threads(),
                experimental_op_resolver_type=resolver,
            )
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]
        self.shape: tuple[int, ...] = ()

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        if not len(images):  # an interpreter that had some before does not survive it
            raise PatchParityError("LiteRT is not given a batch of no images")
        placed: NDArray[Any] = super().place(images)
        if self.waits:
            self._interpret(self._convert(placed))
            self.waits = False
        return placed

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        if inputs.shape != self.shape:
            self.interpreter.resize_tensor_input(self.input, inputs.shape)
            with silenced():
                self.interpreter.allocate_tensors()
            self.shape = inputs.shape
        self.interpreter.set_tensor(self.input, inputs)
        self.interpreter.invoke()
        return np.asarray(self.interpreter.get_tensor(self.output))

    def quantization(self, images: NDArray[Any]) -> Quantization | None:
        """As the model's tensors tell it; of pixels that are quantized as they come by LiteRT's own
        rule, 256 numbers from the least to the largest of an image."""
        details = self.interpreter.get_tensor_details()
        channels, tokens = self.spec.embed_dim, (self.spec.num_patches, self.spec.embed_dim)
        kernel = next(filter(lambda each: _is_kernel(each, channels), details), None)
        if kernel is None:
            return None
        narrow = _lattice(kernel, lowest=-127)
        if not self.integers:
            return Quantization(narrow, Lattice.spanning(images, each=True))
        whole = [
            each
            for each in details
            if each["dtype"] is np.int8 and each is not kernel and each["quantization"][0]
        ]
        of_tokens = next(each for each in whole if tuple(each["shape"][1:]) == tokens)
        of_pixels = next(
            each for each in whole if len(each["shape"]) == 4 and each["shape"][3] != channels
        )
        bias = next((each for each in details if each["dtype"] is np.int32 and _steps(each)), None)
        return Quantization(
            narrow,
            _lattice(of_pixels),
            _lattice(of_tokens),
            None if bias is None else np.asarray(bias["quantization_parameters"]["scales"]),
        )


def _steps(details: dict[str, Any]) -> int:
    return len(details["quantization_parameters"]["scales"])


def _is_kernel(details: dict[str, Any], channels: int) -> bool:
    shape = details["shape"]
    return (
        details["dtype"] is np.int8
        and len(shape) == 4
        and shape[0] == channels
        and _steps(details) in (1, channels)
        and details["quantization_parameters"]["quantized_dimension"] == 0
        and (details["quantization_parameters"]["zero_points"] == 0).all()
    )


def _lattice(details: dict[str, Any], lowest: int = -128) -> Lattice:
    chosen = details["quantization_parameters"]
    scales, zeros = np.asarray(chosen["scales"]), np.asarray(chosen["zero_points"])
    if scales.size == 1:
        scales, zeros = scales.reshape(()), zeros.reshape(())
    return Lattice.of(scales, zeros, lowest)


def _function(spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> Any:
    """The projection as a `tf.function` of one signature, for any number of images."""
    tf = import_tensorflow()
    kernel = np.ascontiguousarray(kernel_to_layout(weights.kernel, HWIO))
    padding = [(0, 0), *spec.effective_padding, (0, 0)]
    shape = [None, *spec.image_size, spec.in_channels]

    def embed(images: Any) -> Any:
        if any(map(any, padding)):
            images = tf.pad(images, padding)
        grid = tf.nn.conv2d(images, tf.constant(kernel), spec.stride, "VALID")
        if weights.bias is not None:
            grid = tf.nn.bias_add(grid, tf.constant(weights.bias))
        # as many tokens as there are: with a number for them a taller image would be more images
        return tf.reshape(grid, tf.concat([tf.shape(grid)[:1], [-1, spec.embed_dim]], 0))

    return tf.function(embed, input_signature=[tf.TensorSpec(shape, tf.float32)], autograph=False)


def _through_a_model(function: Callable[[Any], Any], array: NDArray[Any]) -> NDArray[Any]:
    """What a model of one function makes of an array."""
    from ai_edge_litert.interpreter import Interpreter

    tf = import_tensorflow()
    signature = [tf.TensorSpec(array.shape, tf.as_dtype(array.dtype.newbyteorder("=")))]
    traced = tf.function(function, input_signature=signature, autograph=False)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], tf.Module()
    )
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], array)
    interpreter.invoke()
    output = interpreter.get_output_details()[0]["index"]
    return np.array(interpreter.get_tensor(output))


FILES: tuple[tuple[str, str, Stored], ...] = (
    ("conv2d", "xnnpack", ""),
    ("conv2d", "builtin", ""),
    ("conv2d_float16", "xnnpack", "float16"),
    ("conv2d_int8_dynamic", "xnnpack", "int8"),
    ("conv2d_int8", "xnnpack", "int8"),
)
"""What is made of the weights, how it is run, and what it stores."""


class LiteRtBackend(RuntimeBackend):
    """LiteRT, with its XNNPACK delegate and with its own kernels."""

    name = "litert"
    packages = ("ai_edge_litert", "tensorflow")
    videos = False
    implementations = tuple(
        Implementation(
            "litert",
            formulation,
            mode,
            NHWC,
            HWIO,
            dtypes=("float32",),
            devices=("cpu",),
            flush_to_zero=mode == "xnnpack",
            differentiable=False,
            customary=(formulation, mode) == ("conv2d", "xnnpack"),
            stored=stored,
        )
        for formulation, mode, stored in FILES
    )

    def environment(self, threads: int) -> dict[str, str]:
        """TensorFlow, which converts, says less."""
        return {**super().environment(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`set_tensor` and `get_tensor` of a model that does nothing."""
        tf = import_tensorflow()

        return _through_a_model(lambda values: tf.identity(values), array)

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`tf.cast` and back, converted."""
        tf = import_tensorflow()

        return _through_a_model(
            lambda values: tf.cast(tf.cast(values, tf.float16), tf.float32), array
        )

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Convert, and make an interpreter."""
        weights.check_spec(spec)
        return _Model(spec, weights, implementation.formulation, implementation.mode)


BACKENDS = (LiteRtBackend(),)
