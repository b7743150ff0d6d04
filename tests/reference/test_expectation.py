"""What an error is measured against: sums of magnitudes that are never too small."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity.reference.expectation import Factor
from patchparity.reference.probes import random_normal, random_sequence
from patchparity.reference.spec import PatchEmbedSpec

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
