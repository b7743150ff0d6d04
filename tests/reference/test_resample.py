"""Resized grids: properties of any rule, and torch's own interpolation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity.reference.errors import PatchParityError
from patchparity.reference.resample import RECIPES, Rule, resize_grid, resize_matrix

SIZES = st.tuples(st.integers(2, 24), st.integers(2, 24))


@given(size=st.integers(1, 40), new=st.integers(1, 40), recipe=st.sampled_from(sorted(RECIPES)))
def test_weights_sum_to_one_but_where_what_is_outside_is_zero(size, new, recipe):
    sums = resize_matrix(RECIPES[recipe], size, new).sum(axis=1)
    if RECIPES[recipe].edge == "zero":
        assert (sums <= 1 + 1e-12).all()
    else:
        np.testing.assert_allclose(sums, 1, atol=1e-12)


@given(
    size=st.integers(1, 40), kernel=st.sampled_from(["linear", "cubic"]), antialias=st.booleans()
)
def test_a_grid_of_the_same_size_stays_as_it_is(size, kernel, antialias):
    np.testing.assert_allclose(
        resize_matrix(Rule(kernel, antialias=antialias), size, size), np.eye(size), atol=1e-12
    )


@settings(max_examples=60)
@given(
    grid=SIZES,
    new=SIZES,
    kind=st.sampled_from(["bilinear", "bicubic"]),
    corners=st.booleans(),
    antialias=st.booleans(),
)
def test_torch_resizes_the_same(grid, new, kind, corners, antialias):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((*grid, 3)).astype(np.float32)
    recipe = f"torch-{kind}" + "-antialias" * antialias + "-align-corners" * corners
    images = torch.from_numpy(table).permute(2, 0, 1)[None]
    theirs = torch.nn.functional.interpolate(
        images, size=new, mode=kind, align_corners=corners, antialias=antialias
    )
    ours = resize_grid(table, new, recipe)
    # Coordinates in float32: each is off by 2⁻²⁴ of the size, and the kernel's slope is at most 2
    # for each of up to 3 values of ±4.
    np.testing.assert_allclose(
        theirs[0].permute(1, 2, 0).numpy(), ours, atol=24 * 24 * 2.0**-24 * 4
    )


@settings(max_examples=30)
@given(grid=SIZES, new=SIZES)
def test_grid_sample_takes_zeros_outside(grid, new):
    torch = pytest.importorskip("torch")
    table = np.random.default_rng(0).standard_normal((*grid, 3)).astype(np.float32)
    rows, columns = ((np.arange(size) + 0.5) / size * 2 - 1 for size in new)
    at = np.stack(np.broadcast_arrays(columns[None, :], rows[:, None]), axis=-1).astype(np.float32)
    theirs = torch.nn.functional.grid_sample(
        torch.from_numpy(table).permute(2, 0, 1)[None],
        torch.from_numpy(at)[None],
        align_corners=False,
    )
    ours = resize_grid(table, new, "torch-bilinear-zeros")
    np.testing.assert_allclose(
        theirs[0].permute(1, 2, 0).numpy(), ours, atol=24 * 24 * 2.0**-24 * 4
    )


def test_what_cannot_be_resized_is_refused():
    with pytest.raises(PatchParityError, match="torch-nearest"):
        resize_grid(np.zeros((2, 2, 1)), (3, 3), "torch-nearest")
    with pytest.raises(PatchParityError, match=r"\(4, 2\)"):
        resize_grid(np.zeros((4, 2)), (3, 3), "torch-bilinear")
    with pytest.raises(PatchParityError, match="resized to 0"):
        resize_grid(np.zeros((2, 2, 1)), (0, 3), "torch-bilinear")
