"""Pixels as bytes: the probes, and the verdicts on what rescales and normalizes them first."""

import dataclasses

import numpy as np
import pytest

from patchparity.backends.base import Implementation
from patchparity.backends.pixels import SCALE, channel_statistics, unfolded
from patchparity.reference.embed import patch_embed
from patchparity.reference.error import ArithmeticModel
from patchparity.reference.patches import patchify
from patchparity.reference.probes import byte_photograph, byte_probes, random_bytes
from patchparity.reference.spec import PatchEmbedSpec
from patchparity.reference.verdict import judge
from patchparity.reference.weights import PatchEmbedWeights

SPEC = PatchEmbedSpec((30, 28), (6, 4), 3, 80)
SPECS = [
    SPEC,
    PatchEmbedSpec((24, 40), (4, 8), 1, 40),
    PatchEmbedSpec((17, 23), 5, 4, 80, stride=2),
    PatchEmbedSpec((64, 96), 32, 3, 12),
]
PLAIN = ArithmeticModel.of(np.float32)
NORMALIZING = Implementation(
    "numpy", "naive_uint8", "eager", pixels="uint8", normalizes=True
).arithmetic("float32")


def as_users_write_it(probe, change=lambda images: images, bias=True, statistics=None):
    """Tokens in float32: rescaled, normalized, and multiplied with the unfolded kernel."""
    weights = unfolded(probe.weights).astype(np.float32)
    axes = probe.spec.spatial_axes
    mean, std = statistics or channel_statistics(probe.spec.in_channels, np.float32, axes)
    images = (probe.images.astype(np.float32) * np.float32(SCALE) - mean) / std
    patches = patchify(change(images), probe.spec)
    tokens = patches @ change(weights.matrix).T
    return tokens + weights.bias if bias else tokens


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_images_are_whole_numbers_that_bytes_and_the_dtype_hold(spec, dtype):
    probes = byte_probes(spec, 2, np.dtype(dtype), seed=3)
    assert [probe.name for probe in probes] == [
        "identity-kernel",
        "one-hot-images",
        "bounded-integers",
        "swamping",
        "random-bytes",
        "random-bytes-zero-bias",
    ]
    for probe in probes:
        assert probe.images.dtype == np.dtype(dtype)
        assert (probe.images.astype(np.uint8) == probe.images).all()
        assert probe.directions == ("forward",)
        assert probe.expectations["forward"].value.any()
    for name in ("identity-kernel", "random-bytes"):
        seen = next(probe.images for probe in probes if probe.name == name)
        assert seen.max() > 240, "bytes, and not small numbers alone"


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_exact_probes_are_exact_in_float32_in_any_order(spec):
    for probe in byte_probes(spec, 2, "float32", seed=5):
        if probe.gate == "exact":
            order = np.random.default_rng(6).permutation(spec.patch_values)
            patches = patchify(probe.images, spec)[..., order]
            tokens = patches @ probe.weights.matrix[:, order].T + probe.weights.bias
            assert judge(probe, "forward", tokens, PLAIN).bound_ratio == 0, probe.name


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_correct_float32_passes_folded_and_not(spec, seed):
    for probe in byte_probes(spec, 3, "float32", seed=seed):
        folded = patch_embed(probe.images, probe.weights, spec, np.float32)
        for tokens, model in ((folded, PLAIN), (as_users_write_it(probe), NORMALIZING)):
            verdict = judge(probe, "forward", tokens, model)
            assert verdict.verdict == "pass", (probe.name, verdict.message)


def test_normalizing_first_is_not_exact_and_needs_to_be_declared():
    probe = byte_probes(SPEC, 3, "float32", seed=1)[0]
    assert probe.gate == "exact"
    tokens = as_users_write_it(probe)
    assert judge(probe, "forward", tokens, PLAIN).verdict == "fail"
    verdict = judge(probe, "forward", tokens, NORMALIZING)
    assert verdict.verdict == "pass"
    assert 0 < verdict.bound_ratio < 1


def kept_bits(count):
    """Rounds to so many significand bits, as TF32 (11) and bfloat16 (8) do."""

    def change(array):
        significand, exponent = np.frexp(array)
        return np.ldexp(np.rint(significand * 2**count) / 2**count, exponent).astype(np.float32)

    return change


def reversed_channels(images):
    return images[:, ::-1] if images.ndim == 4 else images


MEAN, STD = channel_statistics(3, np.float32, 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"change": kept_bits(8)},
        {"change": kept_bits(11)},
        {"change": reversed_channels},
        {"bias": False},
        {"statistics": (np.float32(0.5), np.float32(0.5))},
        {"statistics": (MEAN[::-1], STD[::-1])},
        {"statistics": (MEAN + np.float32(1e-4), STD)},
        {"statistics": (MEAN * np.float32(255 / 256), STD * np.float32(255 / 256))},
    ],
    ids=["bfloat16", "tf32", "bgr", "no bias", "halves", "statistics", "mean", "256"],
)
def test_mistakes_are_told(changed):
    verdicts = {
        probe.name: judge(probe, "forward", as_users_write_it(probe, **changed), NORMALIZING)
        for probe in byte_probes(SPEC, 3, "float32", seed=2)
    }
    assert "fail" in {verdict.verdict for verdict in verdicts.values()}, verdicts


def test_a_low_precision_is_told_by_effective_bits_alone_where_sums_are_long():
    spec = PatchEmbedSpec((64, 128), 64, 3, 10)
    probe = random_bytes(spec, 2, "float32", 7, zero_bias=True)
    tokens = as_users_write_it(probe, kept_bits(11))
    verdict = judge(probe, "forward", tokens, NORMALIZING)
    assert verdict.bound_ratio < 1
    assert verdict.verdict == "fail"
    assert "delivered TF32 or float16 inputs" in verdict.message
    folded = patch_embed(probe.images, probe.weights.map(kept_bits(8)), spec, np.float32)
    assert judge(probe, "forward", folded, PLAIN).verdict == "fail"


def test_unfolded_weights_give_the_same_tokens():
    probe = random_bytes(SPEC, 2, "float64", 8)
    mean, std = channel_statistics(3, np.float64, 2)
    images = (probe.images * SCALE - mean) / std
    np.testing.assert_allclose(
        patch_embed(images, unfolded(probe.weights), SPEC), probe.expectations["forward"].value
    )
    bare = PatchEmbedWeights(probe.weights.kernel)
    assert unfolded(bare).bias is not None


def test_a_photograph_is_the_bytes_that_it_is():
    pixels = np.random.default_rng(9).integers(0, 256, (30, 28, 3), np.uint8)
    probe = byte_photograph(SPEC, pixels, "float32", 1)
    np.testing.assert_array_equal(probe.images, pixels.transpose(2, 0, 1)[None])
    assert probe.gate == "deterministic"
    gray = PatchEmbedSpec((30, 28), (6, 4), 1, 80)
    images = byte_photograph(gray, pixels[..., 0], "float32", 1).images
    np.testing.assert_array_equal(images[0, 0], pixels[..., 0])
    with pytest.raises(ValueError, match="expected uint8"):
        byte_photograph(SPEC, pixels / 255, "float32", 1)


def test_the_bound_holds_where_every_rounding_goes_the_same_way():
    """Of a sum of four terms, whose own roundings hide nothing."""
    spec = PatchEmbedSpec((5, 7), 1, 3, 8)
    probe = random_bytes(spec, 2, "float32", 3)
    probe = dataclasses.replace(probe, weights=probe.weights.map(np.abs))
    weights = unfolded(probe.weights.astype(np.float64))
    mean, std = channel_statistics(3, np.float64, 2)
    up, down = 1 + 2.0**-24, 1 - 2.0**-24
    rescaled = probe.images * (SCALE * up) * up
    images = (rescaled - mean * down) * up / (std * down) * up * up
    tokens = patch_embed(images, weights.map(lambda array: array * up), spec).astype(np.float32)
    assert judge(probe, "forward", tokens, NORMALIZING).verdict == "pass"
    assert judge(probe, "forward", tokens, PLAIN).verdict == "fail"
