"""patchify, unpatchify and fold: order of values, inverse and adjoint."""

import numpy as np
import pytest
from hypothesis import given

from patchparity import PatchEmbedSpec, PatchParityError, patchify, unpatchify
from patchparity.reference.patches import fold

from .problems import SPECS, random_problem, specs


def test_order_is_row_column_channel_and_patches_are_raster():
    spec = PatchEmbedSpec((4, 6), (2, 3), in_channels=2)
    images = np.arange(2 * 2 * 4 * 6).reshape(2, 2, 4, 6)
    patches = patchify(images, spec)
    assert patches.shape == (2, 4, 12)
    for b, row, column in np.ndindex(2, 2, 2):
        for i, j, c in np.ndindex(2, 3, 2):
            expected = images[b, c, 2 * row + i, 3 * column + j]
            assert patches[b, row * 2 + column, (i * 3 + j) * 2 + c] == expected


@given(specs())
def test_patchify_equals_cutting_by_hand(spec):
    images, _, _ = random_problem(spec)
    padded = np.pad(images, ((0, 0), (0, 0), *spec.effective_padding))
    patches = patchify(images, spec)
    for n, place in enumerate(np.ndindex(*spec.grid)):
        window = tuple(
            slice(p * s, p * s + k)
            for p, s, k in zip(place, spec.stride, spec.patch_size, strict=True)
        )
        cut = np.moveaxis(padded[(slice(None), slice(None), *window)], 1, -1)
        assert (patches[:, n] == cut.reshape(len(images), -1)).all()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.tiles], ids=str)
def test_unpatchify_inverts_patchify(spec):
    images, _, _ = random_problem(spec)
    assert (unpatchify(patchify(images, spec), spec) == images).all()


def test_tiled_and_windowed_paths_agree(monkeypatch):
    spec = PatchEmbedSpec((12, 20), (4, 5), 3)
    images, _, _ = random_problem(spec)
    by_reshape = patchify(images, spec)
    monkeypatch.setattr(PatchEmbedSpec, "tiles", False)
    assert (patchify(images, spec) == by_reshape).all()


@given(specs())
def test_fold_is_the_adjoint_of_patchify(spec):
    images, _, _ = random_problem(spec)
    integers = np.rint(images * 4)
    patches = np.rint(
        np.random.default_rng(1).standard_normal((2, spec.num_patches, spec.patch_values)) * 4
    )
    assert (patchify(integers, spec) * patches).sum() == (integers * fold(patches, spec)).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fold_keeps_the_dtype(dtype):
    spec = PatchEmbedSpec((9, 11), 5, 2, 4, stride=2, padding=1)
    patches = np.ones((2, spec.num_patches, spec.patch_values), dtype)
    assert fold(patches, spec).dtype == dtype


def test_no_inverse_where_patches_overlap_or_leave_pixels_out():
    for spec in (
        PatchEmbedSpec(11, 5, stride=2),
        PatchEmbedSpec(9, 2, stride=4, remainder="floor"),
        PatchEmbedSpec(9, 4, remainder="floor"),
    ):
        with pytest.raises(PatchParityError, match="do not tile"):
            unpatchify(np.zeros((1, spec.num_patches, spec.patch_values)), spec)


def test_wrong_shapes_are_named():
    spec = PatchEmbedSpec((4, 6), 2)
    with pytest.raises(PatchParityError, match=r"images of shape \(1, 3, 5, 6\)"):
        patchify(np.zeros((1, 3, 5, 6)), spec)
    with pytest.raises(
        PatchParityError, match=r"patches of shape \(1, 6, 11\): expected \(B, 6, 12\)"
    ):
        fold(np.zeros((1, 6, 11)), spec)
