"""Normalization folded into kernel and bias: the same tokens from raw pixels, within what rounding
allows."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity.reference.embed import patch_embed
from patchparity.reference.error import gamma
from patchparity.reference.errors import PatchParityError
from patchparity.reference.fold import border_pixels, fold_normalization, unfold_normalization
from patchparity.reference.spec import PatchEmbedSpec
from patchparity.reference.weights import LayerNorm, PatchEmbedWeights

from .problems import specs

PLAIN = PatchEmbedSpec((18, 20), (6, 4), 3, 11)
OVERLAPPING = PatchEmbedSpec((17, 23), 5, 3, 8, stride=2)
PADDED = PatchEmbedSpec((32, 40), 7, 3, 10, stride=4, padding=3, remainder="floor")
VIDEO = PatchEmbedSpec((4, 12, 15), (2, 4, 5), 2, 9)
ROUNDINGS = 8
"""Of one pixel's way into a product: scale, mean, standard deviation, and the operations with
them, on both sides."""


def drawn(spec, seed=0, dtype=np.float64):
    """Bytes of two images, weights, and the statistics of each channel."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, spec.images_shape(2)).astype(np.uint8)
    kernel = generator.standard_normal(spec.kernel_shape).astype(dtype)
    weights = PatchEmbedWeights(kernel, generator.standard_normal(spec.embed_dim).astype(dtype))
    mean = generator.uniform(0.2, 0.7, spec.in_channels)
    std = generator.uniform(0.1, 0.4, spec.in_channels)
    return pixels, weights, mean, std


def normalized(pixels, mean, std, scale=1 / 255):
    """As users write it, channel by channel."""
    images = np.empty(pixels.shape)
    for channel in range(pixels.shape[1]):
        images[:, channel] = (pixels[:, channel] * scale - mean[channel]) / std[channel]
    return images


def allowed(pixels, folded, mean, spec, scale=1 / 255):
    """Σ|W|(x + 2·mean/scale) + |b| of raw pixels x: what is added up on either side, by size."""
    moved = 2 * np.asarray(mean) / scale
    magnitudes = PatchEmbedWeights(np.abs(folded.kernel).astype(float), None)
    sizes = pixels + moved.reshape(-1, *(1,) * spec.spatial_axes)
    total = patch_embed(sizes, magnitudes, spec)
    return total + np.abs(folded.bias) + np.abs(unfolded_bias(folded, mean, scale))


def unfolded_bias(folded, mean, scale):
    """The bias before it took up the means."""
    axes = tuple(range(1, folded.kernel.ndim))
    return folded.bias + (folded.kernel * np.asarray(mean) / scale).sum(axis=axes)


@pytest.mark.parametrize("spec", [PLAIN, OVERLAPPING, VIDEO], ids=["plain", "overlapping", "video"])
@pytest.mark.parametrize("scale", [1 / 255, 1.0, 1 / 127.5])
def test_folded_weights_give_the_tokens_of_normalized_images(spec, scale):
    pixels, weights, mean, std = drawn(spec)
    mean, std = mean / (255 * scale), std / (255 * scale)
    folded = fold_normalization(weights, mean, std, scale, spec=spec)
    expected = patch_embed(normalized(pixels, mean, std, scale), weights, spec)
    error = np.abs(patch_embed(pixels, folded, spec) - expected)
    terms = 2 * (spec.patch_values + ROUNDINGS)
    assert (error <= gamma(terms, 2.0**-53) * allowed(pixels, folded, mean, spec, scale)).all()


@given(specs(), st.integers(0, 99))
def test_any_spec_without_padding(spec, seed):
    pixels, weights, mean, std = drawn(spec, seed)
    if any(map(any, spec.effective_padding)):
        with pytest.raises(PatchParityError, match="padded"):
            fold_normalization(weights, mean, std, spec=spec)
        return
    folded = fold_normalization(weights, mean, std, spec=spec)
    expected = patch_embed(normalized(pixels, mean, std), weights, spec)
    error = np.abs(patch_embed(pixels, folded, spec) - expected)
    terms = 2 * (spec.patch_values + ROUNDINGS)
    assert (error <= gamma(terms, 2.0**-53) * allowed(pixels, folded, mean, spec)).all()


def test_a_channel_has_its_own_statistics():
    pixels, weights, mean, std = drawn(PLAIN)
    folded = fold_normalization(weights, mean, std)
    swapped = fold_normalization(weights, mean[::-1], std[::-1])
    expected = patch_embed(normalized(pixels, mean, std), weights, PLAIN)
    assert np.allclose(patch_embed(pixels, folded, PLAIN), expected)
    assert not np.allclose(patch_embed(pixels, swapped, PLAIN), expected)


def test_one_number_stands_for_all_channels():
    _, weights, _, _ = drawn(PLAIN)
    one, each = (
        fold_normalization(weights, m, s) for m, s in ((0.5, 0.25), ([0.5] * 3, [0.25] * 3))
    )
    np.testing.assert_array_equal(one.kernel, each.kernel)
    np.testing.assert_array_equal(one.bias, each.bias)


def test_weights_without_a_bias_get_one_unless_there_is_no_mean():
    pixels, weights, mean, std = drawn(PLAIN)
    bare = PatchEmbedWeights(weights.kernel)
    folded = fold_normalization(bare, mean, std)
    expected = patch_embed(normalized(pixels, mean, std), bare, PLAIN)
    assert np.allclose(patch_embed(pixels, folded, PLAIN), expected)
    assert fold_normalization(bare, 0.0, std).bias is None


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
    ],
)
def test_what_is_folded_in_float64_is_rounded_once(dtype, expected):
    import ml_dtypes  # noqa: F401  # knows bfloat16 by name

    _, weights, mean, std = drawn(PLAIN, dtype=np.dtype(dtype))
    folded = fold_normalization(weights, mean, std)
    exact = fold_normalization(weights.astype(np.float64), mean, std)
    assert folded.kernel.dtype == folded.bias.dtype == np.dtype(expected)
    np.testing.assert_array_equal(folded.kernel, exact.kernel.astype(expected))
    np.testing.assert_array_equal(folded.bias, exact.bias.astype(expected))


def test_other_arrays_stay_and_what_was_given_is_not_changed():
    _, weights, mean, std = drawn(PLAIN)
    norm = LayerNorm(np.ones(11), np.zeros(11))
    given_weights = dataclasses.replace(weights, class_token=np.arange(11.0), token_norm=norm)
    kernel, bias = weights.kernel.copy(), weights.bias.copy()
    folded = fold_normalization(given_weights, mean, std)
    assert folded.class_token is given_weights.class_token
    assert folded.token_norm is norm
    np.testing.assert_array_equal(weights.kernel, kernel)
    np.testing.assert_array_equal(weights.bias, bias)


def test_padding_is_exact_where_raw_images_are_padded_with_the_border():
    pixels, weights, mean, std = drawn(PADDED)
    folded = fold_normalization(weights, mean, std, spec=PADDED, border="mean")
    border = border_pixels(mean, 1 / 255)
    assert border.shape == (3,)
    np.testing.assert_allclose(border, 255 * mean)
    (top, bottom), (left, right) = PADDED.effective_padding
    whole = np.empty((2, 3, 32 + top + bottom, 40 + left + right))
    whole[:] = border[:, None, None]
    whole[:, :, top : top + 32, left : left + 40] = pixels
    around = PADDED.replace(image_size=whole.shape[2:], padding=0)
    expected = patch_embed(normalized(pixels, mean, std), weights, PADDED)
    error = np.abs(patch_embed(whole, folded, around) - expected)
    bound = gamma(2 * (PADDED.patch_values + ROUNDINGS), 2.0**-53)
    assert (error <= bound * allowed(whole, folded, mean, around)).all()
    # zeros, which is what padding raw pixels gives, are wrong by far more than rounding
    assert np.abs(patch_embed(pixels, folded, PADDED) - expected).max() > 0.1


@pytest.mark.parametrize(
    "spec", [PADDED, PatchEmbedSpec((19, 27), 3, 3, 11, stride=5, remainder="pad-end")], ids=str
)
def test_padding_is_refused(spec):
    _, weights, mean, std = drawn(spec)
    with pytest.raises(PatchParityError, match="border='mean'"):
        fold_normalization(weights, mean, std, spec=spec)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"std": 0.0}, "std"),
        ({"std": [0.2, -0.1, 0.2]}, "std"),
        ({"std": [0.2, np.nan, 0.2]}, "std"),
        ({"std": [0.2, np.inf, 0.2]}, "std"),
        ({"std": [0.2, 0.2]}, "3 channels"),
        ({"mean": [0.2] * 4}, "3 channels"),
        ({"mean": [[0.2, 0.3, 0.4]]}, "3 channels"),
        ({"mean": np.nan}, "mean"),
        ({"mean": "half"}, "mean"),
        ({"scale": 0.0}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": np.inf}, "scale"),
        ({"scale": [1.0, 2.0]}, "scale"),
        ({"border": "zeros"}, "border"),
    ],
)
def test_what_cannot_be_folded_is_said(changed, message):
    _, weights, mean, std = drawn(PLAIN)
    with pytest.raises(PatchParityError, match=message):
        fold_normalization(weights, **{"mean": mean, "std": std, **changed})


def test_a_spec_of_other_sizes_is_refused():
    _, weights, mean, std = drawn(PLAIN)
    with pytest.raises(PatchParityError, match="kernel of shape"):
        fold_normalization(weights, mean, std, spec=OVERLAPPING)


def test_a_norm_before_the_projection_is_refused():
    _, weights, mean, std = drawn(PLAIN)
    normed = dataclasses.replace(weights, patch_norm=LayerNorm(np.ones(PLAIN.patch_values)))
    with pytest.raises(PatchParityError, match="patch_norm"):
        fold_normalization(normed, mean, std)


def test_unfolding_gives_the_weights_back_but_for_roundings():
    _, weights, mean, std = drawn(PLAIN)
    back = unfold_normalization(fold_normalization(weights, mean, std), mean, std)
    # each way a few roundings of every value, and the means of all K values in the bias
    assert (
        np.abs(back.kernel - weights.kernel) <= gamma(6, 2.0**-53) * np.abs(weights.kernel)
    ).all()
    moved = np.abs(weights.kernel * mean / std).sum(axis=(1, 2, 3)) + np.abs(weights.bias)
    bound = gamma(2 * (PLAIN.patch_values + ROUNDINGS), 2.0**-53)
    assert (np.abs(back.bias - weights.bias) <= bound * moved).all()
