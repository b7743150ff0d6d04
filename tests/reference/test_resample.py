"""Resized grids: properties of any rule, torch's own interpolation, and loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity.reference.errors import PatchParityError
from patchparity.reference.recipes import RECIPES
from patchparity.reference.resample import (
    SUPPORT,
    VARIATION,
    Rule,
    kernel_values,
    resize_axes,
    resize_bound,
    resize_matrix,
)
from patchparity.reference.resize import resize_grid

SIZES = st.tuples(st.integers(2, 24), st.integers(2, 24))


@given(size=st.integers(1, 40), new=st.integers(1, 40), recipe=st.sampled_from(sorted(RECIPES)))
def test_weights_sum_to_one_but_where_what_is_outside_is_zero(size, new, recipe):
    rule = RECIPES[recipe].rule
    sums = resize_matrix(rule, size, new).sum(axis=1)
    if rule.edge == "zero":
        # cubic: what is left beyond the edge is negative
        assert (sums <= (1.15 if rule.kernel == "cubic" else 1) + 1e-12).all()
    elif rule.outside_is_zero:
        zero = sums == 0
        np.testing.assert_allclose(sums[~zero], 1, atol=1e-12)
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
        match=r"^recipe 'torch-bicubik' is unknown: did you mean torch-bicubic\?; expected a "
        r"library's, transformers-vit, .*, dinov2, or an operation's, such as torch-bilinear, .*",
    ):
        resize_grid(np.zeros((2, 2, 1)), (3, 3), "torch-bicubik")
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
            f"torch-{kind}": Rule(kernel, -0.75),
            f"torch-{kind}-{corners}": Rule(kernel, -0.75, corners),
            f"torch-{kind}-antialias": Rule(kernel, -0.5, antialias=True, edge="drop"),
            f"torch-{kind}-antialias-{corners}": Rule(
                kernel, -0.5, "shifted-corners", antialias=True, edge="drop"
            ),
        }
        for name, rule in rules.items():
            assert RECIPES[name].rule == rule
    assert RECIPES["torch-bilinear-zeros"].rule == Rule(edge="zero")


def weight(rule: Rule, distance: float) -> float:
    """A kernel's value one number at a time: piecewise polynomials in powers of the distance, or
    products of sines."""
    x, a = abs(distance), rule.a
    if rule.kernel == "linear":
        return max(0.0, 1 - x)
    if rule.kernel == "mitchell":  # B = C = 1/3
        if x < 1:
            return (7 * x**3 - 12 * x**2 + 16 / 3) / 6
        return (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6 if x < 2 else 0.0
    if rule.kernel == "hamming":
        window = 0.54 + 0.46 * math.cos(math.pi * x)
        return 1.0 if x == 0 else window * math.sin(math.pi * x) / (math.pi * x) * (x < 1)
    if rule.kernel.startswith("lanczos"):
        lobes = int(rule.kernel[-1])
        if x == 0 or x >= lobes:
            return float(x == 0)
        return lobes * math.sin(math.pi * x) * math.sin(math.pi * x / lobes) / (math.pi * x) ** 2
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def looped(rule: Rule, size: int, new: int) -> np.ndarray:
    """A matrix one weight at a time, from the text of `Rule`, with far more old samples asked than
    any kernel reaches."""
    matrix = np.zeros((new, size))
    step = size / (new + rule.offset)
    if rule.coordinates in ("align-corners", "shifted-corners"):
        step = (size - 1) / (new - 1) if new > 1 else 0.0
    by = step if rule.stretch == "step" else size / new
    stretch = max(1.0, by) if rule.antialias else 1.0
    for row in range(new):
        at = (row + 0.5) * step - 0.5
        if rule.coordinates in ("align-corners", "asymmetric"):
            at = row * step
        if rule.coordinates == "half-pixel-or-first" and new == 1:
            at = 0.0
        below = math.floor(at)
        part = at - below
        if rule.table:
            part = round(part * rule.table) / rule.table
        reach = math.ceil(6 * stretch) + 3
        for tap in range(below - reach, below + reach + 1):
            if rule.edge == "clamp" or 0 <= tap < size:
                value = weight(rule, (below - tap + part) / stretch)
                matrix[row, min(max(tap, 0), size - 1)] += value
        if rule.antialias or rule.edge == "drop" or rule.kernel == "lanczos4":
            matrix[row] /= sum(matrix[row])
    return matrix


@pytest.mark.parametrize(
    "coordinates",
    ["half-pixel", "half-pixel-or-first", "align-corners", "asymmetric", "shifted-corners"],
)
@pytest.mark.parametrize("edge", ["clamp", "drop", "zero"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "a"),
    [
        ("linear", -0.75),
        ("cubic", -0.75),
        ("cubic", -0.5),
        ("lanczos3", 0),
        ("lanczos4", 0),
        ("lanczos5", 0),
        ("hamming", 0),
        ("mitchell", 0),
    ],
)
def test_a_matrix_is_its_rule_one_weight_at_a_time(kernel, a, antialias, edge, coordinates):
    rule = Rule(kernel, a, coordinates, antialias=antialias, edge=edge)
    if coordinates == "shifted-corners" and edge == "drop" and not antialias:
        pytest.skip("of no recipe: where no old sample is near, there are no weights to divide")
    for size, new in ((7, 3), (3, 7), (16, 5), (5, 4), (9, 2), (2, 1), (1, 2), (6, 6)):
        np.testing.assert_allclose(
            resize_matrix(rule, size, new), looped(rule, size, new), rtol=0, atol=1e-13
        )


@pytest.mark.parametrize(
    "rule",
    [
        Rule("cubic", offset=0.1),
        Rule("cubic", -0.5, edge="drop", table=1024),
        Rule("linear", coordinates="align-corners", antialias=True, stretch="sizes"),
        Rule("cubic", coordinates="asymmetric", antialias=True, stretch="sizes", edge="drop"),
    ],
)
def test_what_a_rule_adds_is_in_its_matrix(rule):
    for size, new in ((14, 24), (24, 14), (7, 3), (5, 4)):
        np.testing.assert_allclose(
            resize_matrix(rule, size, new), looped(rule, size, new), rtol=0, atol=1e-13
        )


def test_shares_of_an_area_are_those_of_integrals():
    # of a step function at the old samples, integrated over each new one in 1/1000
    for size, new in ((7, 3), (3, 7), (16, 5), (9, 2)):
        fine = np.arange(size * new * 1000) // (new * 1000)
        expected = [np.bincount(part, minlength=size) for part in np.split(fine, new)]
        expected = np.array(expected) / (size * 1000)
        np.testing.assert_allclose(resize_matrix(Rule("area"), size, new), expected, atol=1e-12)
        touched = expected > 0
        means = touched / touched.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(resize_matrix(Rule("bins"), size, new), means, atol=1e-15)


def test_scipys_zeros_are_where_a_coordinate_leaves_the_grid():
    rule = RECIPES["scipy-zoom-1"].rule
    pairs = [(32, 16), (16, 30), (24, 22), (24, 42), (32, 31)]
    for size, new in pairs:
        matrix = resize_matrix(rule, size, new)
        assert (matrix[-1] == 0).all()
        assert (matrix[:-1].sum(axis=1) > 0.99).all()
        filled = resize_matrix(RECIPES["scipy-zoom-1-filled"].rule, size, new)
        np.testing.assert_array_equal(matrix[:-1], filled[:-1])
        assert filled[-1].sum() == pytest.approx(1)
    assert (resize_matrix(rule, 14, 24).sum(axis=1) > 0.99).all()


def test_a_kernel_varies_no_more_than_its_bound_says():
    steps = np.arange(-6, 7)
    for kernel, bound in VARIATION.items():
        if kernel == "spline3":
            bound = bound / 3
        for a in (-1.0, -0.75, -0.5) if kernel == "cubic" else (0.0,):
            rule, sums = Rule(kernel, a), []
            for part in np.linspace(0.001, 0.999, 501):
                near, far = (kernel_values(rule, part + by - steps) for by in (1e-6, -1e-6))
                sums.append(np.abs(near - far).sum() / 2e-6)
            assert bound / 1.25 < max(sums) < bound + 0.01
        assert set(VARIATION) <= set(SUPPORT)


def test_a_grid_in_the_type_under_test_is_within_its_bound_and_not_exact():
    table = np.random.default_rng(2).standard_normal((9, 12, 4)).astype(np.float32)
    rule = RECIPES["torch-bicubic"].rule
    matrices = resize_matrix(rule, 9, 13), resize_matrix(rule, 12, 7)
    exact = resize_axes(table, *matrices)
    narrow = resize_axes(table, *matrices, np.float32)
    assert narrow.dtype == np.float32
    bound = resize_bound((rule, rule), (9, 12), (13, 7), float(np.abs(table).max()), 2.0**-24)
    assert 0 < np.abs(narrow - exact).max() < bound < 1e-3


def test_matrices_written_by_hand():
    assert resize_matrix(RECIPES["torch-bilinear"].rule, 2, 4).tolist() == [
        [1, 0],
        [0.75, 0.25],
        [0.25, 0.75],
        [0, 1],
    ]
    assert resize_matrix(RECIPES["torch-bilinear-align-corners"].rule, 3, 2).tolist() == [
        [1, 0, 0],
        [0, 0, 1],
    ]
    assert resize_matrix(RECIPES["torch-bilinear-zeros"].rule, 1, 2).tolist() == [[0.75], [0.75]]
    # halfway between the old samples: a·(−1/8), and what is left of one half
    middle = [-0.09375, 0.59375, 0.59375, -0.09375]
    assert resize_matrix(RECIPES["torch-bicubic"].rule, 8, 4)[1].tolist() == [0, *middle, 0, 0, 0]


def test_a_grid_is_resized_along_rows_and_along_columns():
    table = np.random.default_rng(3).standard_normal((5, 3, 2)).astype(np.float32)
    result = resize_grid(table, (4, 6), "torch-bicubic")
    assert (result.shape, result.dtype) == ((4, 6, 2), np.float64)
    rows, columns = (looped(RECIPES["torch-bicubic"].rule, *each) for each in ((5, 4), (3, 6)))
    for row, column, channel in np.ndindex(4, 6, 2):
        expected = sum(
            rows[row, i] * columns[column, j] * float(table[i, j, channel])
            for i, j in np.ndindex(5, 3)
        )
        assert result[row, column, channel] == pytest.approx(expected, rel=0, abs=1e-13)
