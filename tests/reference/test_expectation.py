"""What an error is measured against: sums of magnitudes that are never too small."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity.reference.exact import exact_token_value, sample_indices
from patchparity.reference.expectation import (
    Expectation,
    Factor,
    forward_expectation,
    gradient_expectations,
)
from patchparity.reference.probes import random_normal, random_sequence
from patchparity.reference.spec import PatchEmbedSpec
from patchparity.reference.weights import PatchEmbedWeights

# float64's own products of what float32 cannot hold
EXTENTS = st.tuples(
    st.sampled_from(["float16", "float32", "float64"]),
    st.integers(0, 2**32),
    st.integers(-120, 120),
    st.integers(0, 60),
)


@given(EXTENTS)
def test_sums_of_magnitudes_are_no_smaller_than_exactly_and_hardly_larger(drawn):
    dtype, seed, exponent, spread = drawn
    generator = np.random.default_rng(seed)

    def values(*shape):
        sizes = 2.0 ** generator.integers(-spread, spread + 1, shape)
        with np.errstate(over="ignore", under="ignore"):
            found = generator.standard_normal(shape) * sizes * 2.0 ** (exponent / 2)
            found[generator.uniform(size=shape) < 0.2] = 0
            return np.clip(found, -6e4, 6e4).astype(dtype)

    patches, kernel = values(5, 21), values(4, 7, 1, 3)
    factor = Factor(kernel)
    wide, matrix = patches.astype(float), kernel.reshape(4, 21).astype(float)
    rows = np.abs(wide).max(axis=1)[:, None] * np.abs(matrix).max(axis=1)
    for found, exact, lost in (
        (factor.magnitudes(patches), np.abs(wide) @ np.abs(matrix).T, rows),
        (factor.squares(patches), wide**2 @ (matrix**2).T, rows**2),
    ):
        assert (found >= exact * (1 - 2.0**-50)).all()
        # twice (K + 4)·2⁻²⁴: what the sum itself errs by, and what it is rounded up by
        assert (found <= exact * (1 + 2.1 * 25 * 2.0**-24) + 1e-35 * np.maximum(lost, 1)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_what_a_kernel_gives_is_the_same_where_problems_share_it(dtype):
    spec = PatchEmbedSpec((9, 12), 3, 2, 7)
    for probe in (random_normal(spec, 2, dtype, 3), random_sequence(spec, 2, dtype, 4)):
        shared = dataclasses.replace(probe, factor=Factor(probe.weights.kernel))
        one, other = (each.expectations["forward"] for each in (probe, shared))
        for field in dataclasses.fields(one):
            np.testing.assert_equal(getattr(one, field.name), getattr(other, field.name))


def test_what_is_rounded_on_the_way_is_known_of_short_types_alone():
    spec = PatchEmbedSpec((8, 4), 4, 3, 5)
    known = {
        dtype: random_normal(spec, 2, dtype, 0).expectations["forward"].partial is not None
        for dtype in ("float64", "float32", "bfloat16", "float16")
    }
    assert known == {"float64": False, "float32": False, "bfloat16": True, "float16": True}


def eighths(seed: int, *shape: int) -> np.ndarray:
    """Multiples of 1/8 up to 2, each row with a 2: float32 divides, multiplies and adds them
    exactly."""
    values = np.random.default_rng(seed).integers(-15, 16, shape) / 8
    values[..., -1] = -2
    return values


def widened(exact: np.ndarray, terms: int) -> np.ndarray:
    """What is made of exact sums: n·u/(1 − n·u) more, of four terms more than there are."""
    product = (terms + 4) * 2.0**-24
    return exact * (1 + product / (1 - product))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_sums_of_magnitudes_are_widened_by_what_their_roundings_are(dtype):
    patches, kernel = eighths(0, 5, 12).astype(dtype), eighths(1, 4, 3, 2, 2).astype(dtype)
    factor = Factor(kernel)
    wide, matrix = patches.astype(float), kernel.reshape(4, 12).astype(float)
    magnitudes, squares = np.zeros((5, 4)), np.zeros((5, 4))
    for row, d, k in np.ndindex(5, 4, 12):
        magnitudes[row, d] += abs(wide[row, k] * matrix[d, k])
        squares[row, d] += (wide[row, k] * matrix[d, k]) ** 2
    np.testing.assert_allclose(factor.magnitudes(patches), widened(magnitudes, 12), rtol=1e-15)
    np.testing.assert_allclose(factor.squares(patches), widened(squares, 12), rtol=1e-15)
    np.testing.assert_array_equal(factor.products(wide), wide @ matrix.T)
    assert factor.largest == 2
    assert Factor(kernel / 8).largest == 0.25


@pytest.mark.parametrize("exponent", [-200, 200])
def test_sums_of_magnitudes_know_no_smallest_and_no_largest_number(exponent):
    patches, kernel = eighths(2, 5, 12), eighths(3, 4, 3, 4)
    scale = 2.0**exponent
    plain = Factor(kernel)
    for found in (plain.magnitudes(patches * scale), Factor(kernel * scale).magnitudes(patches)):
        np.testing.assert_array_equal(found, plain.magnitudes(patches) * scale)
    for found in (plain.squares(patches * scale), Factor(kernel * scale).squares(patches)):
        np.testing.assert_array_equal(found, plain.squares(patches) * scale**2)


def test_of_a_row_of_zeros_is_left_what_may_have_been_lost():
    patches, kernel = eighths(4, 3, 12), eighths(5, 4, 3, 4)
    patches[1], kernel[2] = 0, 0
    factor = Factor(kernel)
    np.testing.assert_array_equal(
        factor.magnitudes(patches)[1, [0, 2]], [24 * 2.0**-125, 12 * 2.0**-125]
    )
    np.testing.assert_array_equal(
        factor.magnitudes(patches)[:, 2], np.array([2, 1, 2]) * 12 * 2.0**-125
    )
    np.testing.assert_array_equal(
        factor.squares(patches)[:, 2], np.array([4, 1, 4]) * 12 * 2.0**-125
    )


def test_what_underflows_in_sums_of_magnitudes_is_no_error():
    """2⁻²⁰⁰ alone is left of a product with what is large elsewhere."""
    patches, matrix = np.array([[1, 2.0**-100, 0], [0.5, 0, -1]]), np.array([[0, -(2.0**-100), 1]])
    with np.errstate(under="raise"):
        found = Factor(matrix.reshape(1, 3, 1)).magnitudes(patches)
    assert (found >= np.abs(patches) @ np.abs(matrix).T).all()


def test_of_no_images_nothing_is_expected():
    spec = PatchEmbedSpec((8, 6), (4, 3), 2, 5)
    weights = PatchEmbedWeights(eighths(6, *spec.kernel_shape) / 4)
    images = np.zeros(spec.images_shape(0), np.float32)
    found = forward_expectation(
        images, weights, spec, "deterministic", to_sequence=False, fingerprint=False
    )
    assert found.value.shape == found.gauge.shape == (0, 4, 5)
    assert found.largest_input == 0.5


OVERLAPPING = PatchEmbedSpec((7, 9), (3, 5), 2, 4, stride=(2, 4))
"""3 by 2 patches of 30 values."""


def windows(images: np.ndarray) -> list[list[np.ndarray]]:
    """The patches of `OVERLAPPING`, in the order of its kernels: for each image, for each patch."""
    return [
        [
            np.moveaxis(image[:, 2 * row : 2 * row + 3, 4 * column : 4 * column + 5], 0, -1)
            for row in range(3)
            for column in range(2)
        ]
        for image in images
    ]


def sums(images: np.ndarray, kernel: np.ndarray, term=lambda product: product) -> np.ndarray:
    """Sums of what is made of each product, `(B, N, D)`."""
    found = np.zeros((len(images), 6, 4))
    for b, patches in enumerate(windows(images)):
        for n, patch in enumerate(patches):
            for d in range(4):
                found[b, n, d] = math.fsum(term((patch * kernel[d]).ravel()).tolist())
    return found


def problem(dtype: str, with_bias: bool = True, with_positions: bool = True):
    """Images and weights of `OVERLAPPING`; the class token has a position, the registers none."""
    images = eighths(7, 3, 2, 7, 9)
    images[..., -1], images[..., 4] = 1.5, -2  # a column that all patches see
    given = {"kernel": eighths(8, 4, 3, 5, 2), "register_tokens": eighths(9, 2, 4)}
    given["class_token"] = eighths(10, 4)
    if with_bias:
        given["bias"] = eighths(11, 4)
    if with_positions:
        given["positions"] = eighths(12, 7, 4)
    given = {name: array.astype(dtype) for name, array in given.items()}
    return images.astype(dtype), PatchEmbedWeights(**given)


def around(tokens, weights, change) -> np.ndarray:
    """The sequence of what is made of each part."""
    part = {
        name: change(getattr(weights, name).astype(float))
        for name in ("class_token", "register_tokens")
    }
    positions = np.zeros((7, 4))
    if weights.positions is not None:
        positions = change(weights.positions.astype(float))
    rows = []
    for image in tokens:
        registers = list(part["register_tokens"])
        rows.append([part["class_token"] + positions[0], *registers, *(image + positions[1:])])
    return np.array(rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("gate", ["exact", "deterministic"])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("sequence", ["none", "plain", "positions"])
def test_what_is_expected_of_forward_results_is_summed_up_in_loops(
    dtype, gate, with_bias, sequence
):
    images, weights = problem(dtype, with_bias, sequence == "positions")
    wide, kernel = images.astype(float), weights.kernel.astype(float)
    bias = weights.bias.astype(float) if with_bias else np.zeros(4)
    product = sums(wide, kernel)
    magnitudes, squares = sums(wide, kernel, np.abs), sums(wide, kernel, np.square)
    wider = magnitudes if gate == "exact" else widened(magnitudes, 30)
    value, gauge = product + bias, wider + np.abs(bias)
    square, before = widened(squares, 30) + bias**2, np.abs(product)
    if sequence != "none":
        value, gauge = around(value, weights, np.positive), around(gauge, weights, np.abs)
        square = around(square, weights, np.square)
        positions = None if weights.positions is None else np.zeros_like(weights.positions)
        unplaced = dataclasses.replace(weights, positions=positions)
        before = around(np.abs(product) + np.abs(product + bias), unplaced, np.abs)
    found = forward_expectation(
        images,
        weights,
        OVERLAPPING,
        gate,
        to_sequence=sequence != "none",
        fingerprint=True,
    )
    np.testing.assert_array_equal(found.value, value)
    np.testing.assert_allclose(found.gauge, gauge, rtol=1e-15)
    assert found.terms == (31 if sequence == "none" else 32)
    np.testing.assert_allclose(found.scale, np.sqrt(square), rtol=1e-15)
    assert found.largest_input == 2
    if dtype == "bfloat16":
        np.testing.assert_array_equal(found.partial, before)
    else:
        assert found.partial is None
    assert (found.exact is not None) == (
        dtype == "float64" and gate != "exact" and sequence == "none"
    )


def test_a_kernel_that_is_shared_is_multiplied_by():
    images, weights = problem("float32")
    other = Factor(eighths(20, 4, 3, 5, 2) * 4)
    found = forward_expectation(
        images, weights, OVERLAPPING, "exact", to_sequence=False, fingerprint=False, factor=other
    )
    np.testing.assert_array_equal(
        found.value, sums(images, other.matrix.reshape(4, 3, 5, 2)) + weights.bias
    )
    assert found.largest_input == 8
    assert found.scale is None


@pytest.mark.parametrize(("of_images", "of_kernel"), [(0.25, 0.125), (0.125, 0.25)])
def test_the_largest_factor_is_one_of_images_or_kernel(of_images, of_kernel):
    images, weights = problem("float32")
    small = PatchEmbedWeights(weights.kernel * np.float32(of_kernel / 2))
    found = forward_expectation(
        images * np.float32(of_images / 2),
        small,
        OVERLAPPING,
        "probabilistic",
        to_sequence=False,
        fingerprint=False,
    )
    assert found.largest_input == 0.25


@pytest.mark.parametrize("padding", [0, ((2, 1), (0, 3))])
@pytest.mark.parametrize("with_bias", [False, True])
def test_exact_results_of_float64_problems_are_those_at_512_places(padding, with_bias):
    spec = PatchEmbedSpec((14, 13), (3, 4), 2, 6, stride=(2, 3), padding=padding, remainder="floor")
    generator = np.random.default_rng(21)
    images = generator.standard_normal(spec.images_shape(5))
    bias = generator.standard_normal(6) if with_bias else None
    weights = PatchEmbedWeights(generator.standard_normal(spec.kernel_shape), bias)
    given = {"to_sequence": False, "fingerprint": False}
    found = forward_expectation(images, weights, spec, "deterministic", **given)
    places, values = found.exact
    indices = sample_indices((5, *spec.grid, 6), 512, 5)
    assert len(places) == min(512, found.value.size) == len(set(places.tolist()))
    flat = found.value.reshape(5, *spec.grid, 6)
    before = [0, 0] if padding == 0 else [2, 0]
    for place, value, index in list(zip(places, values, indices, strict=True))[::7]:
        assert np.unravel_index(place, flat.shape) == index
        exact = exact_token_value(images, weights.kernel, bias, spec.stride, before, index)
        assert value == float(exact)
    np.testing.assert_allclose(found.value.ravel()[places], values, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_is_expected_of_gradients_is_summed_up_in_loops(dtype):
    images, weights = problem(dtype)
    images = images * images.dtype.type(2)
    sent = (eighths(13, 3, 6, 4) / 4).astype(dtype)
    wide, kernel, gradient = (each.astype(float) for each in (images, weights.kernel, sent))
    sought = {}
    for name, size in (("value", np.positive), ("gauge", np.abs)):
        image, matrix, bias = np.zeros((3, 2, 7, 9)), np.zeros((4, 3, 5, 2)), np.zeros(4)
        seen = windows(size(wide))
        for b, n, d in np.ndindex(3, 6, 4):
            row, column = 2 * (n // 2), 4 * (n % 2)
            share = size(gradient[b, n, d])
            back = np.moveaxis(share * size(kernel[d]), -1, 0)
            image[b, :, row : row + 3, column : column + 5] += back
            matrix[d] += share * seen[b][n]
            bias[d] += share
        sought[name] = {"grad_image": image, "grad_kernel": matrix, "grad_bias": bias}
    found = gradient_expectations(images, weights.kernel, sent, OVERLAPPING)
    assert list(found) == ["grad_image", "grad_kernel", "grad_bias"]
    # a pixel is seen by two rows and two columns of patches at most
    terms = {"grad_image": 4 * 4, "grad_kernel": 18, "grad_bias": 18}
    largest = {"grad_image": 2, "grad_kernel": 4, "grad_bias": 0.5}
    for direction, made in found.items():
        np.testing.assert_array_equal(made.value, sought["value"][direction])
        np.testing.assert_array_equal(made.gauge, sought["gauge"][direction])
        assert made == Expectation(
            made.value, made.gauge, terms[direction], None, largest[direction], None, None
        )


def test_the_largest_factor_of_an_image_gradient_may_be_sent_back():
    images, weights = problem("float32")
    found = gradient_expectations(images, weights.kernel, eighths(13, 3, 6, 4) * 8, OVERLAPPING)
    assert {name: made.largest_input for name, made in found.items()} == {
        "grad_image": 16,
        "grad_kernel": 16,
        "grad_bias": 16,
    }
