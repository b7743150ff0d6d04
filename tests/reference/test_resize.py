"""Position tables, kernels and channels of another size: definitions, and the libraries' own
functions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity.reference.embed import patch_embed
from patchparity.reference.errors import PatchParityError
from patchparity.reference.recipes import RECIPES
from patchparity.reference.resize import (
    KERNEL_RECIPES,
    adapt_channels,
    resize_grid,
    resize_kernel,
    resize_positions,
)
from patchparity.reference.spec import PatchEmbedSpec
from patchparity.reference.weights import PatchEmbedWeights

from ..census.stand_in import import_library

RANDOM = np.random.default_rng(11)


def library(name):
    """A module of timm, where it is installed."""
    try:
        return import_library(name)
    except ModuleNotFoundError:
        pytest.skip("timm is not installed")


def test_rows_of_prefix_tokens_stay_and_the_others_are_resized():
    table = RANDOM.standard_normal((2 + 6 * 4, 10)).astype(np.float32)
    resized = resize_positions(table, (6, 4), (9, 5), prefix_rows=2, recipe="torch-bicubic")
    assert resized.shape == (2 + 45, 10)
    np.testing.assert_array_equal(resized[:2], table[:2])
    expected = resize_grid(table[2:].reshape(6, 4, 10), (9, 5), "torch-bicubic")
    np.testing.assert_array_equal(resized[2:], expected.reshape(45, 10))


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_a_table_of_the_same_grid_stays_to_the_bit(recipe):
    side = (5, 5) if RECIPES[recipe].square else (5, 3)
    table = RANDOM.standard_normal((side[0] * side[1], 4))
    same = resize_positions(table, side, side, recipe=recipe)
    np.testing.assert_array_equal(same, table)


def test_a_grid_of_as_many_patches_in_another_shape_is_resized():
    table = RANDOM.standard_normal((36, 3))
    assert not np.allclose(resize_positions(table, (6, 6), (4, 9), recipe="timm"), table)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"grid": (6, 5)}, "expected 30 rows, 0 of prefix tokens and 6×5 of patches"),
        ({"prefix_rows": 1}, "expected 25 rows, 1 of prefix tokens and 6×4 of patches"),
        ({"prefix_rows": -2}, "expected 22 rows"),
        ({"new_grid": (0, 4)}, r"new_grid=\(0, 4\): expected a positive integer"),
        ({"new_grid": (4,)}, r"new_grid=\(4,\): expected a positive integer"),
        ({"recipe": "timm-nwhc"}, "recipe 'timm-nwhc' is unknown: did you mean timm-nhwc"),
        ({"recipe": "google-vit"}, "google-vit knows square grids alone, .* and this one is 6×4"),
        ({"positions": np.zeros((6, 4, 2))}, r"positions of shape \(6, 4, 2\): expected \(rows, D"),
        ({"positions": [1.0]}, "positions: list, expected a NumPy array"),
    ],
)
def test_tables_that_do_not_fit_are_refused(changed, message):
    arguments = {"positions": np.zeros((24, 3)), "grid": (6, 4), "new_grid": (7, 7)}
    arguments |= {"prefix_rows": 0, "recipe": "timm", **changed}
    positions, grid, new_grid = (arguments.pop(name) for name in ("positions", "grid", "new_grid"))
    with pytest.raises(PatchParityError, match=message):
        resize_positions(positions, grid, new_grid, **arguments)


def tokens_of(images, kernel):
    spec = PatchEmbedSpec(images.shape[2:], kernel.shape[1:3], kernel.shape[3], len(kernel))
    return patch_embed(images, PatchEmbedWeights(kernel), spec)


@settings(max_examples=20)
@given(st.sampled_from(sorted(name for name in KERNEL_RECIPES if name.startswith("pi-"))))
def test_a_larger_kernel_gives_each_enlarged_patch_its_token(recipe):
    kernel = RANDOM.standard_normal((10, 4, 6, 3))
    patch = RANDOM.standard_normal((2, 3, 4, 6))
    like = KERNEL_RECIPES[recipe][0]
    larger = np.stack([resize_grid(each.transpose(1, 2, 0), (7, 9), like) for each in patch])
    resized = resize_kernel(kernel, (7, 9), recipe=recipe)
    assert resized.shape == (10, 7, 9, 3)
    np.testing.assert_allclose(
        tokens_of(larger.transpose(0, 3, 1, 2), resized), tokens_of(patch, kernel), atol=1e-9
    )


def test_the_pseudo_inverse_is_that_of_the_whole_resizing_matrix():
    kernel = RANDOM.standard_normal((5, 4, 6, 3))
    basis = np.eye(24).reshape(4, 6, 24)
    whole = resize_grid(basis, (3, 5), "torch-bicubic-antialias").reshape(15, 24)
    expected = np.einsum("no,dovc->dnvc", np.linalg.pinv(whole.T), kernel.reshape(5, 24, 1, 3))
    ours = resize_kernel(kernel, (3, 5), recipe="pi-timm-bicubic-antialias")
    np.testing.assert_allclose(ours, expected.reshape(5, 3, 5, 3), atol=1e-12)


def test_tubelets_keep_their_frames_and_a_plain_kernel_is_resized_as_an_image():
    kernel = RANDOM.standard_normal((5, 2, 4, 6, 3))
    resized = resize_kernel(kernel, 5, recipe="plain-torch-bilinear")
    assert resized.shape == (5, 2, 5, 5, 3)
    for frame in range(2):
        alone = resize_grid(kernel[1, frame], (5, 5), "torch-bilinear")
        np.testing.assert_allclose(resized[1, frame], alone, atol=1e-14)
    np.testing.assert_array_equal(resize_kernel(kernel, (4, 6), recipe="plain-tf-area"), kernel)


@pytest.mark.parametrize("end", ["bilinear", "bicubic", "bilinear-antialias", "bicubic-antialias"])
@pytest.mark.parametrize(("old", "new"), [((16, 16), (8, 8)), ((8, 6), (16, 9)), ((5, 7), (6, 4))])
def test_timm_resizes_the_kernel_the_same(end, old, new):
    torch = pytest.importorskip("torch")
    timm = library("timm.layers.patch_embed")
    kernel = RANDOM.standard_normal((10, *old, 3)).astype(np.float32)
    given = torch.from_numpy(np.ascontiguousarray(kernel.transpose(0, 3, 1, 2)))
    mode, _, antialias = end.partition("-")
    theirs = timm.resample_patch_embed(given, list(new), mode, bool(antialias))
    ours = resize_kernel(kernel, new, recipe=f"pi-timm-{end}").transpose(0, 3, 1, 2)
    # the pseudo-inverse in float32: 2⁻²⁴ of the largest value, times condition numbers up to 40
    np.testing.assert_allclose(theirs.numpy(), ours, atol=2.0**-24 * 40 * np.abs(ours).max())


@pytest.mark.parametrize(
    ("have", "wanted"), [(3, 1), (3, 2), (3, 4), (3, 5), (3, 7), (3, 3), (2, 1), (1, 1), (9, 1)]
)
def test_timm_adapts_channels_the_same(have, wanted):
    torch = pytest.importorskip("torch")
    adapt = library("timm.models._manipulate").adapt_input_conv
    kernel = RANDOM.standard_normal((10, 4, 5, have)).astype(np.float32)
    given = torch.from_numpy(np.ascontiguousarray(kernel.transpose(0, 3, 1, 2)))
    if have > 3:
        theirs = adapt(wanted, given)
        assert theirs.shape[1] == have // 3  # timm's own: of one channel folded into three
        with pytest.raises(PatchParityError, match="9 channels to 1"):
            adapt_channels(kernel, wanted, recipe="timm")
        return
    theirs = adapt(wanted, given).numpy().transpose(0, 2, 3, 1)
    ours = adapt_channels(kernel, wanted, recipe="timm", dtype=np.float32)
    np.testing.assert_allclose(theirs, ours, rtol=2.0**-22, atol=2.0**-22)


def test_a_gray_picture_keeps_its_tokens_and_what_timm_does_not_do_is_refused():
    kernel = RANDOM.standard_normal((10, 4, 5, 3))
    gray = RANDOM.standard_normal((2, 1, 8, 15))
    summed = adapt_channels(kernel, 1, recipe="timm")
    np.testing.assert_allclose(
        tokens_of(gray, summed), tokens_of(np.repeat(gray, 3, axis=1), kernel), atol=1e-12
    )
    for have, wanted in ((4, 3), (2, 3), (4, 1), (1, 3)):
        with pytest.raises(PatchParityError, match=f"{have} channels to {wanted}: timm goes from"):
            adapt_channels(np.zeros((10, 4, 5, have)), wanted, recipe="timm")
    with pytest.raises(PatchParityError, match="in_channels=0: expected a positive integer"):
        adapt_channels(kernel, 0, recipe="timm")
