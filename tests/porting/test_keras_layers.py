"""What a Keras archive's own config.json tells of the layers in it, held against Keras itself."""

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify

keras = pytest.importorskip("keras")

NEAR = 1e-5
"""Largest difference, as a part of the largest token: λ√K·u of K = 192 products is 4·14·2⁻²⁴ =
3.3e-6 of the sum of their sizes (reference/error.py), which is three times the largest token."""

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 32, 24)).astype(np.float32)


def saved(path, *layers):
    """A model of a convolution `patch` and other layers, saved; and its tokens."""
    model = keras.Sequential([keras.Input((32, 24, 3)), *layers])
    drawn = np.random.default_rng(1)
    for layer in model.layers:
        if layer.name == "patch":
            layer.set_weights([0.1 * drawn.standard_normal(w.shape) for w in layer.get_weights()])
    model.save(path)
    output = np.asarray(
        keras.ops.convert_to_numpy(model(np.moveaxis(IMAGES, 1, -1), training=False))
    )
    return output.reshape(2, -1, output.shape[-1])


def patch(**options):
    return keras.layers.Conv2D(16, 8, name="patch", **options)


@pytest.mark.parametrize(
    "options",
    [{"strides": 8}, {"strides": 4}, {"strides": (4, 8)}, {"strides": 8, "padding": "same"}],
)
def test_the_stride_is_that_of_the_layer(options, tmp_path):
    tokens = saved(tmp_path / "m.keras", patch(**options))
    found = embed(tmp_path / "m.keras", IMAGES)
    assert found.shape == tokens.shape
    assert np.abs(found - tokens).max() < NEAR * np.abs(tokens).max()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"strides": 4, "padding": "same"}, "gives the layer padding 'same' at another stride"),
        ({"strides": 1, "dilation_rate": 2}, r"gives the layer dilation_rate \[2, 2\]"),
        ({"strides": 8, "activation": "relu"}, "gives the layer activation 'relu'"),
    ],
)
def test_what_no_tensor_shows_of_a_layer_is_refused(options, reason, tmp_path):
    saved(tmp_path / "m.keras", patch(**options))
    with pytest.raises(PatchParityError, match=reason):
        embed(tmp_path / "m.keras", IMAGES)
    assert reason.replace("\\", "") in inspect_checkpoint(tmp_path / "m.keras")["refused"]


@pytest.mark.parametrize("kind", ["Permute", "ZeroPadding2D", "Cropping2D"])
def test_layers_in_front_that_move_pixels_are_refused_by_name(kind, tmp_path):
    arguments = {"Permute": ((2, 1, 3),), "ZeroPadding2D": (4,), "Cropping2D": (4,)}[kind]
    saved(tmp_path / "m.keras", getattr(keras.layers, kind)(*arguments), patch(strides=8))
    with pytest.raises(PatchParityError, match=f"has {kind} in front of the patch embedding"):
        embed(tmp_path / "m.keras", IMAGES)


def test_layers_in_front_that_scale_pixels_are_told_by_every_command(tmp_path):
    saved(tmp_path / "plain.keras", patch(strides=8))
    saved(tmp_path / "m.keras", keras.layers.Rescaling(1 / 127.5, -1), patch(strides=8))
    sentence = "has Rescaling in it: images are here what comes out of that"
    with pytest.warns(UserWarning, match=sentence):
        embed(tmp_path / "m.keras", IMAGES)
    assert sentence in verify(tmp_path / "plain.keras", tmp_path / "m.keras").explanation
    done = port(tmp_path / "m.keras", tmp_path / "a.safetensors", "oihw")
    assert any(sentence in step for step in done.steps)


def test_layers_that_do_nothing_when_a_model_is_used_are_not_spoken_of(tmp_path):
    flip = keras.layers.RandomFlip("horizontal")
    tokens = saved(tmp_path / "m.keras", flip, keras.layers.Dropout(0.1), patch(strides=8))
    found = embed(tmp_path / "m.keras", IMAGES)
    assert np.abs(found - tokens).max() < NEAR * np.abs(tokens).max()


def test_weights_alone_tell_nothing_of_their_layer_which_is_said(tmp_path):
    model = keras.Sequential([keras.Input((32, 24, 3)), patch(strides=4, activation="relu")])
    model.save_weights(tmp_path / "m.weights.h5")
    with pytest.warns(UserWarning, match="tells no stride, padding, dilation or activation"):
        embed(tmp_path / "m.weights.h5", IMAGES)
