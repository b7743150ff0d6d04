"""Files of TFLite as TensorFlow's converter writes them: of Keras models, and of functions."""

import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")
if keras.config.backend() != "tensorflow":
    pytest.skip("Keras is not on TensorFlow", allow_module_level=True)


D = 24
"""Width of the functions' tokens."""


def drawn(*shape):
    """A constant."""
    return tf.constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


class Sequence(keras.layers.Layer):
    """Class token, and positions."""

    def __init__(self, token, **options):
        super().__init__(**options)
        self.token = token

    def build(self, shape):
        rows, width = shape[1] + self.token, shape[2]
        self.table = self.add_weight(shape=(1, rows, width), initializer="normal", name="table")
        if self.token:
            self.first = self.add_weight(shape=(1, 1, width), initializer="normal", name="first")

    def call(self, tokens):
        if self.token:
            shape = keras.ops.shape(tokens)
            first = keras.ops.broadcast_to(self.first, (shape[0], 1, shape[2]))
            tokens = keras.ops.concatenate([first, tokens], axis=1)
        return tokens + self.table


def vit(size=(12, 20), channels=3, patch=(4, 5), width=16, linear=False, token=True):
    """A ViT of one block; and the model that ends where the block begins."""
    rows, columns = size[0] // patch[0], size[1] // patch[1]
    pixels = values = keras.Input((*size, channels), name="pixels")
    if linear:
        values = keras.layers.Reshape((rows, patch[0], columns, patch[1], channels))(values)
        values = keras.layers.Permute((1, 3, 2, 4, 5))(values)
        values = keras.layers.Reshape((rows * columns, patch[0] * patch[1] * channels))(values)
        values = keras.layers.Dense(width, bias_initializer="normal", name="patch")(values)
    else:
        convolution = keras.layers.Conv2D(
            width, patch, strides=patch, bias_initializer="normal", name="patch"
        )
        values = keras.layers.Reshape((rows * columns, width))(convolution(values))
    tokens = Sequence(token, name="sequence")(values)
    normed = keras.layers.LayerNormalization(epsilon=1e-6)(tokens)
    attended = keras.layers.MultiHeadAttention(2, width // 2)(normed, normed)
    values = tokens + attended
    hidden = keras.layers.LayerNormalization(epsilon=1e-6)(values)
    hidden = keras.layers.Dense(2 * width, activation="gelu")(hidden)
    ended = values + keras.layers.Dense(width)(hidden)
    return keras.Model(pixels, ended), keras.Model(pixels, tokens)


def converted(source, mode="float32", shape=None, **options):
    """The bytes of a file: of a Keras model, or of a function and the shape that it takes."""
    if shape is None:
        converter = tf.lite.TFLiteConverter.from_keras_model(source)
        shape = source.input_shape
    else:
        kind = options.pop("dtype", tf.float32)
        function = tf.function(source).get_concrete_function(tf.TensorSpec(shape, kind, name="x"))
        holder = options.pop("holder", tf.Module())
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        sample = (1, *shape[1:])
        converter.representative_dataset = lambda: (
            [np.random.default_rng(seed).standard_normal(sample).astype(np.float32)]
            for seed in range(6)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    for name, value in options.items():
        setattr(converter, name, value)
    return converter.convert()


def written(folder, content):
    path = folder / "model.tflite"
    path.write_bytes(content)
    return path
