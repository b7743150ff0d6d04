"""The projection against the second oracle and the direct definition, and its gradients."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given

from patchparity import (
    PatchEmbedSpec,
    PatchEmbedWeights,
    PatchParityError,
    assemble_sequence,
    patch_embed,
    patch_embed_gradients,
    patchify,
    unpatchify,
)
from patchparity.reference.error import gamma
from patchparity.reference.exact import exact_token_value, integer_tokens, sample_indices

from .problems import SPECS, random_problem, specs


def integers(array: np.ndarray) -> np.ndarray:
    return np.rint(array * 5).astype(np.int64)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_equals_the_second_oracle_on_integers_exactly(spec):
    images, weights, _ = random_problem(spec)
    images, kernel, bias = integers(images), integers(weights.kernel), integers(weights.bias)
    expected = integer_tokens(images, kernel, bias, spec.stride, spec.effective_padding, spec.grid)
    assert (patch_embed(images, PatchEmbedWeights(kernel, bias), spec) == expected).all()


@given(specs())
def test_equals_the_second_oracle_on_any_spec(spec):
    images, weights, _ = random_problem(spec)
    images, kernel, bias = integers(images), integers(weights.kernel), integers(weights.bias)
    expected = integer_tokens(images, kernel, bias, spec.stride, spec.effective_padding, spec.grid)
    assert (patch_embed(images, PatchEmbedWeights(kernel, bias), spec) == expected).all()


def test_full_size_on_512_sampled_outputs_within_the_theorem():
    spec = PatchEmbedSpec((64, 96), 16)
    images, weights, _ = random_problem(spec)
    tokens = patch_embed(images, weights, spec).reshape(2, *spec.grid, spec.embed_dim)
    gauge = patch_embed(
        abs(images), PatchEmbedWeights(abs(weights.kernel), abs(weights.bias)), spec
    ).reshape(tokens.shape)
    limit = gamma(spec.patch_values + 1, 2.0**-53)
    indices = sample_indices(tokens.shape, 512, seed=1)
    assert len(indices) == 512
    assert {(0, 0, 0, 0), (1, 3, 5, 767)} <= set(indices), "corners are among the samples"
    for index in indices:
        exact = exact_token_value(images, weights.kernel, weights.bias, spec.stride, (0, 0), index)
        assert abs(Fraction(float(tokens[index])) - exact) <= Fraction(limit * float(gauge[index]))


def test_the_exact_oracle_sees_a_last_bit():
    spec = PatchEmbedSpec((4, 6), 2)
    images, weights, _ = random_problem(spec)
    before = exact_token_value(images, weights.kernel, weights.bias, (2, 2), (0, 0), (0, 1, 2, 3))
    images[0, 1, 2, 4] = np.nextafter(images[0, 1, 2, 4], 9)
    assert (
        exact_token_value(images, weights.kernel, weights.bias, (2, 2), (0, 0), (0, 1, 2, 3))
        != before
    )


@pytest.mark.parametrize("spec", SPECS[:8], ids=str)
def test_equals_the_definition_of_a_strided_convolution(spec):
    """z[row, column, d] = Σ over i, j and the channels of x[c, row·s + i, column·s + j] · w[d, i,
    j, c]: the channels are summed away."""
    images, weights, _ = random_problem(spec)
    padded = np.pad(images, ((0, 0), (0, 0), *spec.effective_padding))
    tokens = patch_embed(images, weights, spec)
    for b, row, column, d in sample_indices((2, *spec.grid, spec.embed_dim), 40, seed=0):
        total = weights.bias[d]
        for i, j, c in np.ndindex(*spec.patch_size, spec.in_channels):
            total += (
                padded[b, c, row * spec.stride[0] + i, column * spec.stride[1] + j]
                * weights.kernel[d, i, j, c]
            )
        # ≤ 150 terms of size 10 in float64
        assert total == pytest.approx(tokens[b, row * spec.grid[1] + column, d], abs=1e-12)


def test_where_the_three_channels_went():
    """A gray kernel applied to a color image sees the sum of the channels: the kernel has a channel
    axis and sums over it."""
    spec = PatchEmbedSpec((8, 12), 4, 3, 5)
    images, weights, _ = random_problem(spec)
    gray = PatchEmbedWeights(np.repeat(weights.kernel[..., :1], 3, axis=-1), weights.bias)
    summed = patch_embed(
        images.sum(axis=1, keepdims=True),
        PatchEmbedWeights(weights.kernel[..., :1], weights.bias),
        spec.replace(in_channels=1),
    )
    # 48 terms of size up to 20: γ_48 · 960 = 5e-12
    np.testing.assert_allclose(patch_embed(images, gray, spec), summed, rtol=0, atol=5e-12)


def test_matrix_form_needs_no_transpose():
    spec = PatchEmbedSpec((8, 12), (2, 4), 3, 5)
    images, weights, _ = random_problem(spec)
    by_hand = np.stack(
        [[weights.matrix @ p + weights.bias for p in sample] for sample in patchify(images, spec)]
    )
    # 24 terms of size up to 20: γ_24 · 480 = 1.3e-12
    np.testing.assert_allclose(patch_embed(images, weights, spec), by_hand, rtol=0, atol=1.3e-12)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_adjoint_identity(spec):
    """⟨A·x, g⟩ = ⟨x, Aᵀ·g⟩, exactly, on integers; the same for the kernel and the bias, since the
    map is linear in each."""
    images, weights, gradient = random_problem(spec)
    images, kernel, gradient = (
        integers(a).astype(float) for a in (images, weights.kernel, gradient)
    )
    zero_bias = PatchEmbedWeights(kernel)
    found = patch_embed_gradients(images, zero_bias, spec, gradient)
    inner = (patch_embed(images, zero_bias, spec) * gradient).sum()
    assert (images * found.image).sum() == inner
    assert (kernel * found.kernel).sum() == inner
    assert (found.bias == gradient.sum(axis=(0, 1))).all()
    assert found.image.shape == images.shape
    assert found.kernel.shape == kernel.shape


def test_dtype_is_that_of_the_whole_computation():
    spec = PatchEmbedSpec((8, 12), 4)
    images, weights, _ = random_problem(spec)
    assert patch_embed(images, weights, spec, np.float32).dtype == np.float32
    assert patch_embed(images.astype(np.float32), weights, spec).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_computed_in_the_dtype_that_is_asked_for(dtype):
    spec = PatchEmbedSpec((8, 12), 4, 3, 6)
    images, weights, upstream = random_problem(spec)
    for given_as in (np.float32, np.float64):
        found = patch_embed_gradients(
            images.astype(given_as),
            weights.astype(given_as),
            spec,
            upstream.astype(given_as),
            dtype,
        )
        assert {each.dtype for each in vars(found).values()} == {np.dtype(dtype)}


def test_no_bias():
    spec = PatchEmbedSpec((8, 12), 4)
    images, weights, _ = random_problem(spec)
    without = patch_embed(images, PatchEmbedWeights(weights.kernel), spec)
    assert (patch_embed(images, weights, spec) == without + weights.bias).all()


def test_zero_batch():
    spec = PatchEmbedSpec((8, 12), 4)
    _, weights, _ = random_problem(spec)
    assert patch_embed(np.zeros((0, 3, 8, 12)), weights, spec).shape == (0, 6, 768)


def test_misfits_are_named():
    spec = PatchEmbedSpec((8, 12), 4, embed_dim=6)
    images, weights, gradient = random_problem(spec)
    oihw = PatchEmbedWeights(weights.kernel.transpose(0, 3, 1, 2))
    with pytest.raises(
        PatchParityError, match=r"kernel of shape \(6, 3, 4, 4\): expected \(6, 4, 4, 3\)"
    ):
        patch_embed(images, oihw, spec)
    with pytest.raises(
        PatchParityError, match=r"grad_tokens of shape \(2, 6, 5\): expected \(2, 6, 6\)"
    ):
        patch_embed_gradients(images, weights, spec, gradient[..., :5])


def test_the_fast_exact_oracle_is_the_fraction_rounded_once():
    from patchparity.reference.exact import exact_token_value, rounded_token_values, sample_indices

    generator = np.random.default_rng(8)
    images = generator.standard_normal((2, 3, 19, 22)) * np.exp2(
        generator.integers(-30, 30, (2, 3, 19, 22))
    )
    kernel, bias = generator.standard_normal((5, 7, 4, 3)), generator.standard_normal(5)
    indices = sample_indices((2, 6, 8, 5), 60, seed=1)
    values = rounded_token_values(images, kernel, bias, (3, 3), (3, 2), indices)
    exact = [exact_token_value(images, kernel, bias, (3, 3), (3, 2), index) for index in indices]
    assert [float(value) for value in exact] == values.tolist()


@pytest.mark.parametrize(
    ("convert", "expected"),
    [
        (np.ndarray.tolist, "list, expected a NumPy array .numpy.asarray gives one"),
        (lambda array: None, "NoneType, expected a NumPy array"),
        (lambda array: array + 0j, "of dtype complex128: expected real numbers"),
        (lambda array: array.astype(str), "expected real numbers"),
        (
            lambda array: pytest.importorskip("torch").tensor(array),
            "torch.Tensor, expected a NumPy array ..detach",
        ),
        (
            lambda array: pytest.importorskip("tensorflow").constant(array),
            "tensorflow.EagerTensor, expected a NumPy array ..numpy..",
        ),
    ],
)
def test_what_is_no_array_of_numbers_is_told(convert, expected):
    """A torch tensor's `transpose` is another function, and raised a bare TypeError."""
    spec = PatchEmbedSpec((6, 4), (2, 2), 3, 5)
    images, weights, _ = random_problem(spec)
    tokens = patch_embed(images, weights, spec)
    for name, call in {
        "images": lambda: patch_embed(convert(images), weights, spec),
        "grad_tokens": lambda: patch_embed_gradients(images, weights, spec, convert(tokens)),
        "patches": lambda: unpatchify(convert(patchify(images, spec)), spec),
        "tokens": lambda: assemble_sequence(convert(tokens), weights, spec),
        "kernel": lambda: PatchEmbedWeights(convert(weights.kernel)),
    }.items():
        with pytest.raises(PatchParityError, match=f"^{name}.*{expected}"):
            call()
