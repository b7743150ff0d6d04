"""The second oracle: exact sums, and the outputs that are looked at."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity.reference.exact import (
    _two_products,
    exact_token_value,
    integer_tokens,
    rounded_token_values,
    sample_indices,
)


@given(st.integers(0, 2**32))
def test_a_product_and_its_error_are_the_exact_product(seed):
    generator = np.random.default_rng(seed)
    a, b = np.ldexp(
        generator.integers(2**52, 2**53, (2, 50)).astype(float),
        generator.integers(-60, 60, (2, 50)),
    )
    products, errors = _two_products(a, b)
    for x, y, product, error in zip(a, b, products, errors, strict=True):
        assert Fraction(product) + Fraction(error) == Fraction(x) * Fraction(y)


@pytest.mark.parametrize("bias", [None, np.array([0.25, -3.0, 7.0])])
def test_a_window_outside_of_the_image_gives_the_bias(bias):
    generator = np.random.default_rng(0)
    images = generator.standard_normal((2, 2, 4, 6))
    kernel = generator.standard_normal((3, 2, 3, 2))
    place = (kernel, bias, (2, 3), (4, 3))
    for index in ((1, 0, 0, 2), (0, 0, 1, 1), (1, 1, 2, 0)):
        expected = 0 if bias is None else Fraction(float(bias[index[-1]]))
        outside = index[1] < 2  # two rows of windows lie above the image
        exact = exact_token_value(images, *place, index)
        assert (exact == expected) is outside
        (value,) = rounded_token_values(images, *place, [index])
        assert value == float(exact)


def test_without_a_bias_nothing_is_added():
    images, kernel = np.full((1, 1, 2, 2), 3.0), np.full((1, 2, 2, 1), 5.0)
    assert exact_token_value(images, kernel, None, (2, 2), (0, 0), (0, 0, 0, 0)) == 60
    assert rounded_token_values(images, kernel, None, (2, 2), (0, 0), [(0, 0, 0, 0)]) == [60.0]


def test_integers_stay_integers():
    generator = np.random.default_rng(0)
    images = generator.integers(-(2**30), 2**30, (2, 3, 4, 6))
    kernel = generator.integers(-(2**28), 2**28, (5, 2, 3, 3))
    tokens = integer_tokens(images, kernel, None, (2, 3), [(0, 0)] * 2, (2, 2))
    assert tokens.dtype == np.int64
    exact = exact_token_value(images, kernel, None, (2, 3), (0, 0), (1, 1, 0, 4))
    assert tokens[1, 2, 4] == exact  # beyond 2⁵³, where floats have gaps


@pytest.mark.parametrize("shape", [(2, 300, 400, 5), (3, 500, 7), (40, 60), (1, 2, 3, 1)])
@pytest.mark.parametrize("count", [6, 200])
def test_samples_are_distinct_as_many_as_asked_and_the_same_again(shape, count):
    chosen = sample_indices(shape, count, seed=3)
    assert len(set(chosen)) == len(chosen) == min(count, int(np.prod(shape)))
    assert chosen == sample_indices(shape, count, seed=3)
    assert all(
        0 <= at < extent for index in chosen for at, extent in zip(index, shape, strict=True)
    )


def test_a_third_of_the_samples_lies_on_edges_of_the_grid():
    shape = (4, 1000, 2000, 50)
    corners = 2**4
    others = np.array(sample_indices(shape, 616, seed=0))[corners:]
    on_rows, on_columns = (np.isin(others[:, axis], (0, shape[axis] - 1)).mean() for axis in (1, 2))
    # of 600 a third within three deviations, 3·√(2/9/600) = 0.058; of each axis half as many
    assert 0.28 < on_rows + on_columns < 0.39
    assert min(on_rows, on_columns) > 0.12
    assert np.isin(others[:, 3], (0, shape[3] - 1)).mean() < 0.1
    tokens = np.array(sample_indices((40, 3000, 500), 608, seed=0))[2**3 :]
    assert 0.28 < np.isin(tokens[:, 1], (0, 2999)).mean() < 0.39
