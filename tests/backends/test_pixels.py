"""Implementations that take pixels as bytes: what they take, what they refuse, and that folding is
what they are for."""

import numpy as np
import pytest

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    fold_normalization,
    list_implementations,
    patch_embed,
)
from patchparity.backends.pixels import as_bytes, channel_statistics
from patchparity.reference.error import gamma

SPEC = PatchEmbedSpec((30, 28), (6, 4), 3, 40)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OF_BYTES = [
    pytest.param(
        backend,
        implementation,
        id=implementation.name,
        marks=[pytest.mark.skip(reason=reason)] if (reason := backend.missing()) else [],
    )
    for backend, implementation in list_implementations()
    if implementation.pixels == "uint8" and "cpu" in implementation.devices
]


def drawn(spec, dtype="float32"):
    generator = np.random.default_rng(4)
    pixels = generator.integers(0, 256, spec.images_shape(3)).astype(np.uint8)
    kernel = generator.standard_normal(spec.kernel_shape).astype(dtype)
    return pixels, PatchEmbedWeights(
        kernel, generator.standard_normal(spec.embed_dim).astype(dtype)
    )


def test_every_framework_has_both():
    names = {implementation.backend for _, implementation in list_implementations()}
    for backend in {"numpy", "torch", "tensorflow", "jax"} & names:
        mine = [each for _, each in list_implementations([backend]) if each.pixels == "uint8"]
        assert any(each.formulation == "linear_uint8" for each in mine)
        assert any(each.normalizes and each.customary for each in mine)


@pytest.mark.parametrize(("backend", "implementation"), OF_BYTES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_tokens_of_a_model_that_normalizes(backend, implementation, dtype):
    """What folding is for: raw pixels in, the tokens of a model of normalized images out."""
    if reason := backend.unavailable(implementation):
        pytest.skip(reason)
    pixels, weights = drawn(SPEC)
    folded = fold_normalization(weights, MEAN, STD, spec=SPEC)
    mean, std = channel_statistics(3, np.float64, 2)
    expected = patch_embed((pixels / 255 - mean) / std, weights, SPEC)
    loaded = backend.load(implementation, folded, SPEC, "float32", "cpu")
    tokens = loaded.tokens(pixels.astype(dtype))
    assert tokens.dtype == np.float32
    sizes = PatchEmbedWeights(np.abs(folded.kernel).astype(np.float64))
    total = patch_embed(pixels + 2 * 255 * mean, sizes, SPEC) + np.abs(weights.bias)
    # seven roundings of a pixel, one of folding, and a sum
    assert (np.abs(tokens - expected) <= gamma(SPEC.patch_values + 9, 2.0**-24) * total).all()


@pytest.mark.parametrize(("backend", "implementation"), OF_BYTES)
def test_values_that_no_byte_holds_are_refused(backend, implementation):
    if reason := backend.unavailable(implementation):
        pytest.skip(reason)
    pixels, weights = drawn(SPEC)
    loaded = backend.load(implementation, weights, SPEC, "float32", "cpu")
    for value in (-1, 256, 0.5, np.nan, np.inf):
        images = pixels.astype(np.float32)
        images[1, 2, 3, 4] = value
        with pytest.raises(PatchParityError, match="whole numbers from 0 to 255"):
            loaded.tokens(images)


@pytest.mark.parametrize(("backend", "implementation"), OF_BYTES)
def test_images_are_placed_as_bytes(backend, implementation):
    if reason := backend.unavailable(implementation):
        pytest.skip(reason)
    pixels, weights = drawn(SPEC)
    placed = backend.load(implementation, weights, SPEC, "float32", "cpu").place(pixels)
    assert "uint8" in str(placed.dtype)


@pytest.mark.parametrize(("backend", "implementation"), OF_BYTES)
def test_sizes_that_pad_are_refused(backend, implementation):
    spec = PatchEmbedSpec((32, 40), 7, 3, 40, stride=4, padding=3, remainder="floor")
    _, weights = drawn(spec)
    with pytest.raises(PatchParityError, match="padding behind normalization"):
        backend.load(implementation, weights, spec, "float32", "cpu")


@pytest.mark.parametrize(("backend", "implementation"), OF_BYTES)
def test_there_are_tokens_and_nothing_else(backend, implementation):
    if reason := backend.unavailable(implementation):
        pytest.skip(reason)
    pixels, weights = drawn(SPEC)
    assert not implementation.differentiable
    loaded = backend.load(implementation, weights, SPEC, "float32", "cpu")
    ones = np.ones(SPEC.tokens_shape(3), np.float32)
    assert loaded.sequence(ones[0, 0], ones[0, :1]) is None
    assert loaded.train_step(ones) is None
    with pytest.raises(PatchParityError, match="no gradients"):
        loaded.gradients(pixels, ones)


def test_bytes_are_not_copied_and_bools_are_bytes():
    pixels, _ = drawn(SPEC)
    assert np.shares_memory(as_bytes(pixels), pixels)
    assert as_bytes(np.array([[True, False]])).tolist() == [[1, 0]]


def test_statistics_of_other_channels_are_taken_in_turn():
    mean, std = channel_statistics(4, np.float64, 2)
    assert mean.ravel().tolist() == [*MEAN, MEAN[0]]
    assert std.shape == (4, 1, 1)
