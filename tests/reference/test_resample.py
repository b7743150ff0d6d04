"""Resized grids: properties of any rule, torch's own interpolation, and loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity.reference.errors import PatchParityError
from patchparity.reference.resample import RECIPES, Rule, _torch, resize_grid, resize_matrix

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
    with pytest.raises(
        PatchParityError,
        match=r"^recipe 'torch-nearest' is unknown; expected one of torch-bilinear, torch-bilinear-"
        r"align-corners, torch-bilinear-antialias, .*, torch-bilinear-zeros$",
    ):
        resize_grid(np.zeros((2, 2, 1)), (3, 3), "torch-nearest")
    with pytest.raises(
        PatchParityError, match=r"^table of shape \(4, 2\): expected \(rows, columns, D\)$"
    ):
        resize_grid(np.zeros((4, 2)), (3, 3), "torch-bilinear")
    for size, new in ((2, 0), (0, 2), (0, 0)):
        with pytest.raises(
            PatchParityError,
            match=f"^an axis of {size} resized to {new}: expected positive sizes$",
        ):
            resize_matrix(Rule(), size, new)
    with pytest.raises(PatchParityError, match="resized to 0"):
        resize_grid(np.zeros((2, 2, 1)), (0, 3), "torch-bilinear")
    assert resize_matrix(Rule(), 1, 1).tolist() == [[1.0]]


def test_rules_are_found_by_torchs_names():
    corners = "align-corners"
    for kind, kernel in (("bilinear", "linear"), ("bicubic", "cubic")):
        rules = {
            f"torch-{kind}": Rule(kernel, -0.75, "half-pixel", False, "clamp"),
            f"torch-{kind}-{corners}": Rule(kernel, -0.75, corners, False, "clamp"),
            f"torch-{kind}-antialias": Rule(kernel, -0.5, "half-pixel", True, "drop"),
            f"torch-{kind}-antialias-{corners}": Rule(
                kernel, -0.5, "shifted-corners", True, "drop"
            ),
        }
        assert _torch(kernel) == rules
        for name, rule in rules.items():
            assert RECIPES[name] == rule
    assert RECIPES["torch-bilinear-zeros"] == Rule("linear", -0.75, "half-pixel", False, "zero")
    assert len(RECIPES) == 9


def weight(rule: Rule, distance: float) -> float:
    """Keys' piecewise cubics in powers of the distance, or a triangle."""
    x, a = abs(distance), rule.a
    if rule.kernel == "linear":
        return max(0.0, 1 - x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def looped(rule: Rule, size: int, new: int) -> np.ndarray:
    """A matrix one weight at a time, from the text of `Rule`, with far more old samples asked than
    any kernel reaches."""
    matrix = np.zeros((new, size))
    step = size / new
    if rule.coordinates != "half-pixel":
        step = (size - 1) / (new - 1) if new > 1 else 0.0
    stretch = max(1.0, step) if rule.antialias else 1.0
    for row in range(new):
        at = row * step if rule.coordinates == "align-corners" else (row + 0.5) * step - 0.5
        reach = math.ceil(3 * stretch) + 3
        for tap in range(math.floor(at) - reach, math.floor(at) + reach + 1):
            if rule.edge == "clamp" or 0 <= tap < size:
                matrix[row, min(max(tap, 0), size - 1)] += weight(rule, (at - tap) / stretch)
        if rule.antialias or rule.edge == "drop":
            matrix[row] /= sum(matrix[row])
    return matrix


@pytest.mark.parametrize("coordinates", ["half-pixel", "align-corners", "shifted-corners"])
@pytest.mark.parametrize("edge", ["clamp", "drop", "zero"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("kernel", "a"), [("linear", -0.75), ("cubic", -0.75), ("cubic", -0.5)])
def test_a_matrix_is_its_rule_one_weight_at_a_time(kernel, a, antialias, edge, coordinates):
    rule = Rule(kernel, a, coordinates, antialias, edge)
    if coordinates == "shifted-corners" and edge == "drop" and not antialias:
        pytest.skip("of no recipe: where no old sample is near, there are no weights to divide")
    for size, new in ((7, 3), (3, 7), (16, 5), (5, 4), (9, 2), (2, 1), (1, 2), (6, 6)):
        np.testing.assert_allclose(
            resize_matrix(rule, size, new), looped(rule, size, new), rtol=0, atol=1e-13
        )


def test_matrices_written_by_hand():
    assert resize_matrix(RECIPES["torch-bilinear"], 2, 4).tolist() == [
        [1, 0],
        [0.75, 0.25],
        [0.25, 0.75],
        [0, 1],
    ]
    assert resize_matrix(RECIPES["torch-bilinear-align-corners"], 3, 2).tolist() == [
        [1, 0, 0],
        [0, 0, 1],
    ]
    assert resize_matrix(RECIPES["torch-bilinear-zeros"], 1, 2).tolist() == [[0.75], [0.75]]
    # halfway between the old samples: a·(−1/8), and what is left of one half
    middle = [-0.09375, 0.59375, 0.59375, -0.09375]
    assert resize_matrix(RECIPES["torch-bicubic"], 8, 4)[1].tolist() == [0, *middle, 0, 0, 0]


def test_a_grid_is_resized_along_rows_and_along_columns():
    table = np.random.default_rng(3).standard_normal((5, 3, 2)).astype(np.float32)
    result = resize_grid(table, (4, 6), "torch-bicubic")
    assert (result.shape, result.dtype) == ((4, 6, 2), np.float64)
    rows, columns = (looped(RECIPES["torch-bicubic"], *each) for each in ((5, 4), (3, 6)))
    for row, column, channel in np.ndindex(4, 6, 2):
        expected = sum(
            rows[row, i] * columns[column, j] * float(table[i, j, channel])
            for i, j in np.ndindex(5, 3)
        )
        assert result[row, column, channel] == pytest.approx(expected, rel=0, abs=1e-13)
