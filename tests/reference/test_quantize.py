"""Integers of 8 bits: what a correct product of them gives is within the bound, what is wrong is
not."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity import PatchEmbedSpec, patch_embed
from patchparity.reference.error import ArithmeticModel
from patchparity.reference.probes import exact_probes, random_normal, random_probes
from patchparity.reference.quantize import (
    Lattice,
    Quantization,
    float16_kernels,
    float16_storage,
    quantization_error,
)
from patchparity.reference.verdict import judge

SPEC = PatchEmbedSpec((18, 20), (6, 4), 3, 40)
OVERLAP = PatchEmbedSpec((17, 23), 5, 3, 24, stride=2, padding=1, remainder="floor")
MODEL = dataclasses.replace(ArithmeticModel.of("float32"), stored="int8")
FLOAT16 = dataclasses.replace(
    ArithmeticModel.of("float32"), stored="float16", weights=2.0**-11, weights_smallest=2.0**-25
)


def stored(values, lattice, axis_shape=()):
    """Values as the integers of a lattice, cut off at its ends, and back: an implementation of our
    own, in float32, as runtimes have it."""
    step = np.asarray(lattice.step, np.float32).reshape(axis_shape or np.shape(lattice.step))
    low = np.asarray(lattice.low).reshape(step.shape)
    high = np.asarray(lattice.high).reshape(step.shape)
    steps = np.rint(values.astype(np.float32) / np.where(step == 0, 1, step))
    lowest, highest = (
        np.ceil(low / np.where(step == 0, 1, step) - 0.25),
        np.floor(high / np.where(step == 0, 1, step) + 0.25),
    )
    return np.clip(steps, lowest, highest) * step.astype(np.float64)


def symmetric(kernel, per_channel):
    """The lattice that converters choose for a kernel: −127 to 127 steps, zero at zero."""
    rows = np.abs(kernel.reshape(len(kernel), -1).astype(np.float64))
    largest = rows.max(axis=1) if per_channel else rows.max()
    return Lattice.of(np.where(largest == 0, 1, largest) / 127, np.zeros_like(largest), -127)


def computed(probe, quantization):
    """Tokens of a probe with everything stored as its quantization says."""
    weights, images = probe.weights, probe.images
    kernel_shape = (-1, *(1,) * (weights.kernel.ndim - 1)) if quantization.kernel.step.ndim else ()
    kernel = stored(weights.kernel, quantization.kernel, kernel_shape)
    pixels = images.astype(np.float64)
    if quantization.pixels is not None:
        shape = (-1, 1, 1, 1) if quantization.pixels.step.ndim else ()
        pixels = stored(images, quantization.pixels, shape)
    exact = dataclasses.replace(
        weights, kernel=kernel, bias=None if weights.bias is None else weights.bias.astype(float)
    )
    tokens = patch_embed(pixels, exact, probe.spec)
    if quantization.tokens is not None:
        tokens = stored(tokens, quantization.tokens)
    return tokens.astype(np.float32)


def static(probe, kernel):
    """Everything known before: pixels and tokens of the probe's own ranges."""
    tokens = probe.expectations["forward"].value
    return Quantization(kernel, Lattice.spanning(probe.images), Lattice.spanning(tokens))


def quantizations(probe):
    for per_channel in (True, False):
        kernel = symmetric(probe.weights.kernel, per_channel)
        yield Quantization(kernel)
        for each in (True, False):
            yield Quantization(kernel, Lattice.spanning(probe.images, each=each))
        yield static(probe, kernel)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 1e3]), st.sampled_from([SPEC, OVERLAP])
)
def test_what_is_stored_as_integers_is_within_its_bound(seed, scale, spec):
    for probe in random_probes(spec, 3, "float32", seed, scale=scale):
        for quantization in quantizations(probe):
            verdict = judge(probe, "forward", computed(probe, quantization), MODEL, quantization)
            assert verdict.verdict == "pass", (quantization.words, verdict.message)
            if probe.fingerprint:
                assert verdict.delivered == quantization.words


def test_exact_probes_of_integers_are_within_the_deterministic_bound():
    for probe in exact_probes(SPEC, 3, "float32", 5):
        if probe.name == "swamping":
            continue
        for quantization in quantizations(probe):
            verdict = judge(probe, "forward", computed(probe, quantization), MODEL, quantization)
            assert verdict.verdict == "pass", (probe.name, quantization.words, verdict.message)


def test_pixels_out_of_a_range_that_is_known_before_are_told_of_by_the_bound():
    probe = random_normal(SPEC, 3, "float32", 2)
    quantization = dataclasses.replace(
        static(probe, symmetric(probe.weights.kernel, True)),
        pixels=Lattice.of(1 / 127, 0),  # -1 to 1, where pixels reach 4
    )
    tokens = computed(probe, quantization)
    error = quantization_error(probe, quantization)
    assert error.beside.max() > error.certain.max() / 10
    assert judge(probe, "forward", tokens, MODEL, quantization).verdict == "pass"


@pytest.mark.parametrize("mistake", ["layout", "zero point", "four bits", "scale", "one step"])
def test_mistakes_are_seen_through_the_integers(mistake):
    fingerprint = random_probes(SPEC, 3, "float32", 7)[1]
    kernel = symmetric(fingerprint.weights.kernel, True)
    quantization = Quantization(kernel, Lattice.spanning(fingerprint.images, each=True))
    right = computed(fingerprint, quantization)
    if mistake == "layout":
        flipped = fingerprint.weights.kernel[:, ::-1].copy()
        weights = dataclasses.replace(fingerprint.weights, kernel=flipped)
        tokens = computed(dataclasses.replace(fingerprint, weights=weights), quantization)
    elif mistake == "zero point":  # one step too high in every pixel
        step = quantization.pixels.step.reshape(-1, 1, 1)
        sums = fingerprint.weights.matrix.astype(float).sum(axis=1)
        tokens = (right + step * sums).astype(np.float32)
    elif mistake == "four bits":
        coarse = Quantization(
            Lattice(kernel.step * 16, kernel.low, kernel.high), quantization.pixels
        )
        tokens = computed(fingerprint, coarse)
    elif mistake == "scale":
        tokens = (right * 1.05).astype(np.float32)
    else:  # one step for the batch where each image was said to have its own, an outlier in one
        images = np.array(fingerprint.images)
        images[1, 0, 0, 0] = 50.0
        probe = dataclasses.replace(fingerprint, images=images)
        said = Quantization(kernel, Lattice.spanning(images, each=True))
        done = Quantization(kernel, Lattice.spanning(images))
        tokens = computed(probe, done)
        assert judge(probe, "forward", computed(probe, said), MODEL, said).verdict == "pass"
        assert judge(probe, "forward", tokens, MODEL, said).verdict == "fail"
        return
    assert judge(fingerprint, "forward", right, MODEL, quantization).verdict == "pass"
    assert judge(fingerprint, "forward", tokens, MODEL, quantization).verdict == "fail"


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 1e-2, 1e-4]))
def test_what_was_done_to_a_kernel_of_float16_is_named(seed, size):
    probe = random_probes(SPEC, 3, "float32", seed)[1]
    kernel = (probe.weights.kernel * np.float32(size)).astype(np.float32)
    probe = dataclasses.replace(probe, weights=dataclasses.replace(probe.weights, kernel=kernel))
    for name, matrix in float16_kernels(kernel.reshape(SPEC.embed_dim, -1)).items():
        weights = dataclasses.replace(
            probe.weights, kernel=matrix.reshape(kernel.shape).astype(np.float32)
        )
        tokens = patch_embed(probe.images, weights, SPEC)
        done = float16_storage(probe, tokens.astype(float))
        lost_nothing = (np.abs(kernel) >= 2.0**-14).all() and "smallest" in name
        # of a kernel that is small as a whole, what is cut off is nothing beside what is lost
        assert done == name or lost_nothing or size != 1e-2
        verdict = judge(probe, "forward", tokens.astype(np.float32), FLOAT16)
        assert (verdict.verdict == "pass") == (done == ""), (name, verdict.message)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sums_kept_in_sixteen_bits_are_named(dtype):
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    spec = PatchEmbedSpec((32, 48), 16, 3, 24)
    probe = random_probes(spec, 2, kind, 3)[1]
    from patchparity.reference.patches import patchify

    patches = patchify(probe.images, spec).reshape(-1, spec.patch_values)
    total = np.zeros((len(patches), spec.embed_dim), kind)
    for k in range(spec.patch_values):
        total = total + (patches[:, k, None] * probe.weights.matrix[None, :, k]).astype(kind)
    tokens = total.reshape(spec.tokens_shape(2))
    verdict = judge(probe, "forward", tokens, ArithmeticModel.of(kind))
    assert verdict.delivered == f"{dtype} sums"
    assert verdict.verdict == "fail"
