"""vit-keras, in each of the files that Keras writes, and convolutions in the old ones."""

import json

import numpy as np
import pytest

from patchparity import PatchParityError, embed, port
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import open_checkpoint

GENERATOR = np.random.default_rng(17)
D, P, C = 20, 4, 3
NEAR = 1e-5


def rows(*shape):
    return (0.3 * GENERATOR.standard_normal(shape)).astype(np.float32)


def images_of(height, width):
    return GENERATOR.standard_normal((2, C, height, width)).astype(np.float32)


def model_of(height, width, stride=P, rescaled=False):
    """A model of layers that are called as vit-keras's are, and what enters its first block."""
    keras = pytest.importorskip("keras")

    class ClassToken(keras.layers.Layer):
        def build(self, shape):
            self.cls = self.add_weight(shape=(1, 1, shape[-1]), name="cls")

        def call(self, tokens):
            first = keras.ops.broadcast_to(self.cls, (keras.ops.shape(tokens)[0], 1, D))
            return keras.ops.concatenate([first, tokens], 1)

    class AddPositionEmbs(keras.layers.Layer):
        def build(self, shape):
            self.pe = self.add_weight(shape=(1, *shape[1:]), name="pos_embedding")

        def call(self, tokens):
            return tokens + self.pe

    class TransformerBlock(keras.layers.Layer):
        def build(self, shape):
            self.inner = keras.layers.Dense(shape[-1], name="inner")
            self.inner.build(shape)

        def call(self, tokens):
            return self.inner(tokens)

    taken = keras.layers.Input((height, width, C))
    given = keras.layers.Resizing(height, width)(taken) if rescaled else taken
    layer = keras.layers.Conv2D(D, P, strides=stride, name="embedding")
    tokens = keras.layers.Reshape((-1, D))(layer(given))
    entering = AddPositionEmbs(name="Transformer_posembed_input")(
        ClassToken(name="class_token")(tokens)
    )
    behind = TransformerBlock(name="Transformer_encoderblock_0")(entering)
    behind = TransformerBlock(name="Transformer_encoderblock_1")(behind)
    behind = keras.layers.LayerNormalization(name="Transformer_encoder_norm")(behind)
    model = keras.Model(taken, keras.layers.Dense(5, name="head")(behind[:, 0]))
    for variable in model.weights:
        variable.assign(rows(*variable.shape))
    stage = keras.Model(taken, entering)
    return model, lambda images: np.array(
        keras.ops.convert_to_numpy(stage(images.transpose(0, 2, 3, 1)))
    )


def names_of_keras_2(height, width):
    """The tensors of vit-keras as Keras before 3 named them, and its sequence."""
    kernel, bias, token = rows(P, P, C, D), rows(D), rows(1, 1, D)
    table = rows(1, height * width // P**2 + 1, D)
    block = "Transformer_encoderblock_0/Transformer_encoderblock_0"
    held = {
        "embedding/embedding/kernel:0": kernel,
        "embedding/embedding/bias:0": bias,
        "class_token/class_token/cls:0": token,
        "Transformer_posembed_input/Transformer_posembed_input/pos_embedding:0": table,
        f"{block}/LayerNorm_0/gamma:0": rows(D),
        f"{block}/MlpBlock_3/Dense_0/kernel:0": rows(D, 8),
        "Transformer_encoder_norm/Transformer_encoder_norm/gamma:0": rows(D),
        "head/head/kernel:0": rows(D, 5),
        "pre_logits/pre_logits/kernel:0": rows(D, D),
    }

    def sequence(images):
        batch, across, down = len(images), height // P, width // P
        cut = images.reshape(batch, C, across, P, down, P).transpose(0, 2, 4, 3, 5, 1)
        tokens = cut.reshape(batch, across * down, -1) @ kernel.reshape(-1, D) + bias
        return np.concatenate([np.broadcast_to(token, (batch, 1, D)), tokens], 1) + table

    return held, sequence


@pytest.mark.parametrize("file", ["m.keras", "m.weights.h5", "m.h5"])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_what_keras_3_saves(size, file, tmp_path):
    model, sequence = model_of(*size)
    path = tmp_path / file
    (model.save_weights if ".weights" in file else model.save)(path)
    images = images_of(*size)
    found = embed(path, images)  # a .keras and an .h5 of a whole model tell the size
    expected = sequence(images)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()
    with open_checkpoint(path) as checkpoint:
        stage = read_stage(checkpoint) if size[0] == size[1] or ".weights" not in file else None
    if stage is not None:
        assert stage.dialect.id == ("vit-keras-legacy" if file == "m.h5" else "vit-keras")
        assert stage.spec.image_size == size


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_what_keras_before_3_saved(size, whole, tmp_path):
    h5py = pytest.importorskip("h5py")
    held, sequence = names_of_keras_2(*size)
    layers = [{"class_name": "InputLayer", "config": {"batch_input_shape": [None, *size, C]}}]
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for name, values in held.items():
            file["model_weights/" * whole + name] = values
        if whole:
            told = {"class_name": "Functional", "config": {"layers": layers}}
            file.attrs["model_config"] = json.dumps(told)
    images = images_of(*size)
    expected = sequence(images)
    found = embed(tmp_path / "old.h5", images)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()
    with open_checkpoint(tmp_path / "old.h5") as checkpoint:
        assert checkpoint.own_config == (told if whole else {})


def test_a_config_that_is_no_json_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["model_weights/a/a/kernel:0"] = rows(2, 2)
        file.attrs["model_config"] = "{"
    with pytest.raises(PatchParityError, match="its model_config is no JSON"):
        open_checkpoint(tmp_path / "old.h5")


@pytest.mark.parametrize("config", [[1, 2], "[]", "3"])
def test_a_config_that_is_no_object_tells_nothing(config, tmp_path):
    h5py = pytest.importorskip("h5py")
    held, _ = names_of_keras_2(16, 16)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        for name, values in held.items():
            file[f"model_weights/{name}"] = values
        file.attrs["model_config"] = config
    with open_checkpoint(tmp_path / "old.h5") as checkpoint:
        assert checkpoint.own_config == {}


def test_patches_that_do_not_tile_are_refused(tmp_path):
    model, _ = model_of(16, 16, stride=2)
    model.save(tmp_path / "m.keras")
    with pytest.raises(PatchParityError, match="gives the layer stride 2×2, and patches of vit-k"):
        embed(tmp_path / "m.keras", images_of(16, 16))


def test_a_layer_in_front_is_refused(tmp_path):
    model, _ = model_of(16, 16, rescaled=True)
    model.save(tmp_path / "m.keras")
    with pytest.raises(PatchParityError, match="Resizing in front of the patch embedding"):
        embed(tmp_path / "m.keras", images_of(16, 16))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_weights_move_into_an_old_file(tmp_path):
    model, sequence = model_of(16, 16)
    model.save(tmp_path / "one.h5")
    other, _ = model_of(16, 16)
    other.save(tmp_path / "two.h5")
    into = tmp_path / "two.h5"
    port(tmp_path / "one.h5", tmp_path / "out.h5", to="vit-keras-legacy", into=into)
    images = images_of(16, 16)
    expected = sequence(images)
    found = embed(tmp_path / "out.h5", images)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


@pytest.mark.parametrize("suffix", ["", ":0"])
@pytest.mark.filterwarnings("ignore:of its layer a .weights.h5 tells no stride")
def test_a_convolution_in_an_old_file_is_found_where_it_is_named(suffix, tmp_path):
    h5py = pytest.importorskip("h5py")
    kernel, bias = rows(P, 6, C, D), rows(D)
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file[f"patches/patches/kernel{suffix}"] = kernel
        file[f"patches/patches/bias{suffix}"] = bias
    images = images_of(8, 12)
    cut = images.reshape(2, C, 2, P, 2, 6).transpose(0, 2, 4, 3, 5, 1).reshape(2, 4, -1)
    expected = cut @ kernel.reshape(-1, D) + bias
    found = embed(tmp_path / "old.h5", images)
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()
    with h5py.File(tmp_path / "old.h5", "a") as file:
        file[f"head/head/kernel{suffix}"] = rows(D, 5)
    dialect = "keras-conv2d-old" if suffix else "keras-conv2d-legacy"
    with pytest.raises(PatchParityError, match=f"{dialect} --prefix 'patches/patches/'"):
        embed(tmp_path / "old.h5", images)
    told = embed(tmp_path / "old.h5", images, from_=dialect, prefix="patches/patches/")
    assert np.array_equal(told, found)
