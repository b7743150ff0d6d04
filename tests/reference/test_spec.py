"""Sizes: the numbers every ViT user knows, the remainder policies, and the errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchparity import PatchEmbedSpec, PatchParityError


def test_vit_b16_at_224_has_196_patches_of_768_values():
    spec = PatchEmbedSpec(image_size=224, patch_size=16, in_channels=3, embed_dim=768)
    assert spec.num_patches == 196
    assert spec.grid == (14, 14)
    assert spec.patch_values == 768
    assert spec.tokens_shape(8) == (8, 196, 768)
    assert spec.flops(8) == 1_849_688_064  # as torch's FlopCounterMode counts it
    assert spec.minimum_bytes(8, 4) == 11_996_160


@pytest.mark.parametrize(
    ("image", "patch", "stride", "padding", "remainder", "grid"),
    [
        (224, 7, 4, 3, "floor", (56, 56)),  # SegFormer's first stage
        (224, 5, 2, 0, "floor", (110, 110)),
        (225, 5, 2, 0, "error", (111, 111)),
        ((230, 50), 16, None, 0, "floor", (14, 3)),
        ((230, 50), 16, None, 0, "pad-end", (15, 4)),
        ((230, 50), 16, None, 0, "same", (15, 4)),
        (224, 7, 4, 0, "same", (56, 56)),
        ((3, 40), 16, None, 0, "pad-end", (1, 3)),
        (8, 2, 4, 0, "pad-end", (2, 2)),  # a third window would begin behind the image
        ((4, 32, 48), (2, 16, 16), None, 0, "error", (2, 2, 3)),
    ],
)
def test_grid(image, patch, stride, padding, remainder, grid):
    spec = PatchEmbedSpec(image, patch, stride=stride, padding=padding, remainder=remainder)
    assert spec.grid == grid
    assert spec.num_patches == np.prod(grid)


def test_least_bytes_count_only_pixels_that_are_seen():
    # 2 × 3 windows, 4 × 6 of 9 × 13 pixels
    spec = PatchEmbedSpec((9, 13), 2, 3, 4, stride=4, remainder="floor")
    assert spec.minimum_bytes(5, 4) == 4 * (5 * 3 * 4 * 6 + 4 * 12 + 4 + 5 * 6 * 4)
    assert (
        PatchEmbedSpec((8, 6), 2, 3, 4, padding=2).minimum_bytes(1, 1) == 3 * 48 + 48 + 4 + 30 * 4
    ), "padding is not read"


def test_numpy_integers_are_integers_and_floats_are_not():
    assert PatchEmbedSpec(np.int64(8), np.int32(4)).grid == (2, 2)
    for sizes in ((8.0, 4), (None, 4), (8, "4"), ((8, 8.0), 4)):
        with pytest.raises(PatchParityError, match="expected"):
            PatchEmbedSpec(*sizes)


def test_same_splits_padding_as_tensorflow_does():
    # research: 224, kernel 7, stride 4 pads (1, 2), where torch's padding 3 pads (3, 3) to the same
    # output shape
    assert PatchEmbedSpec(224, 7, stride=4, remainder="same").effective_padding == ((1, 2), (1, 2))
    assert PatchEmbedSpec(224, 7, stride=4, padding=3, remainder="floor").effective_padding == (
        (3, 3),
        (3, 3),
    )
    assert PatchEmbedSpec((230, 224), 16, remainder="pad-end").effective_padding == (
        (0, 10),
        (0, 0),
    )


@given(
    size=st.integers(1, 60),
    patch=st.integers(1, 20),
    stride=st.integers(1, 20),
    remainder=st.sampled_from(["floor", "pad-end", "same"]),
)
def test_windows_lie_inside_the_padded_image(size, patch, stride, remainder):
    try:
        spec = PatchEmbedSpec((size, size + 1), patch, stride=stride, remainder=remainder)
    except PatchParityError:
        assert remainder == "floor"
        assert size < patch
        return
    for extent, count, (before, after), image in zip(
        spec.padded_size, spec.grid, spec.effective_padding, spec.image_size, strict=True
    ):
        last_end = (count - 1) * stride + patch
        assert before >= 0
        assert after >= 0
        assert last_end <= extent
        assert (count - 1) * stride - before < image, "no window begins behind the image"
        if remainder == "pad-end" and stride <= patch:
            assert last_end >= image, "every pixel up to the end is reached by the windows' span"
        if remainder == "floor":
            assert last_end + stride > extent


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(image_size=225, patch_size=16),
            r"image_size=\(225, 225\) does not divide .* axis 0 is 225, expected for instance 224 "
            r"or 240",
        ),
        (
            dict(image_size=(224, 8), patch_size=16),
            r"axis 1 is 8 with padding, smaller than the patch of 16",
        ),
        (dict(image_size=(1, 2, 3, 4), patch_size=1), r"expected \(H, W\), or \(T, H, W\)"),
        (dict(image_size=224, patch_size=0), r"patch_size=0: expected an integer >= 1"),
        (dict(image_size=224, patch_size=16, stride=(1, 2, 3)), r"stride=\(1, 2, 3\)"),
        (dict(image_size=224, patch_size=16, padding=-1), r"padding=-1"),
        (
            dict(image_size=224, patch_size=16, remainder="crop"),
            r"remainder 'crop' is unknown; expected one of error, floor, pad-end, same",
        ),
        (dict(image_size=224, patch_size=16, remainder="same", padding=1), r"must be 0"),
        (dict(image_size=224, patch_size=16, in_channels=0), r"in_channels=0"),
    ],
)
def test_bad_sizes(fields, message):
    with pytest.raises(PatchParityError, match=message):
        PatchEmbedSpec(**fields)


def test_replace_keeps_patch_and_stride_together():
    spec = PatchEmbedSpec((32, 48), 16)
    assert spec.replace(patch_size=8).stride == (8, 8)
    assert PatchEmbedSpec((33, 49), 5, stride=2).replace(patch_size=3).stride == (2, 2)
    assert spec.replace(embed_dim=5).embed_dim == 5


def test_round_trip_through_plain_data():
    import json

    spec = PatchEmbedSpec(
        (33, 50), 7, stride=4, padding=((3, 2), (1, 0)), remainder="floor", in_channels=5
    )
    assert PatchEmbedSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(PatchParityError, match="not a spec"):
        PatchEmbedSpec.from_dict({"size": 3})


def test_images_of_another_shape_are_named():
    spec = PatchEmbedSpec((32, 48), 16)
    with pytest.raises(
        PatchParityError,
        match=r"images of shape \(2, 32, 48, 3\) have 32 channels, expected 3.*channels last",
    ):
        spec.check_images(np.zeros((2, 32, 48, 3)))
    with pytest.raises(PatchParityError, match=r"images of shape \(3, 32, 48\): expected 4 axes"):
        spec.check_images(np.zeros((3, 32, 48)))
    with pytest.raises(
        PatchParityError, match=r"images of shape \(2, 3, 48, 32\): expected \(B, 3, 32, 48\)"
    ):
        spec.check_images(np.zeros((2, 3, 48, 32)))


def test_channels_and_width_are_one_number_of_at_least_1():
    spec = PatchEmbedSpec((8, 12), 4, 5, 7)
    assert (spec.in_channels, spec.embed_dim) == (5, 7)
    spec = PatchEmbedSpec((8, 12), 4, 1, 1)
    assert (spec.in_channels, spec.embed_dim) == (1, 1)
    assert PatchEmbedSpec((8, 12), 4, (5,), (7,)) == PatchEmbedSpec((8, 12), 4, 5, 7)
    for name in ("image_size", "in_channels", "embed_dim"):
        sizes = {"image_size": (8, 12), "patch_size": 4, name: 0}
        with pytest.raises(PatchParityError, match=f"^{name}=0: expected"):
            PatchEmbedSpec(**sizes)
    for name in ("in_channels", "embed_dim"):
        with pytest.raises(PatchParityError, match=rf"^{name}=\(3, 4\)"):
            PatchEmbedSpec((8, 12), 4, **{name: (3, 4)})


def test_what_does_not_fit_is_told_with_its_padding():
    for remainder in ("error", "floor"):
        with pytest.raises(
            PatchParityError, match="axis 1 is 7 with padding, smaller than the patch of 8"
        ):
            PatchEmbedSpec((14, 5), 8, padding=1, remainder=remainder)
        assert PatchEmbedSpec((14, 6), 8, padding=1, remainder="floor").grid == (2, 1)
    with pytest.raises(PatchParityError, match="axis 0 is 10, expected for instance 8 or 13"):
        PatchEmbedSpec((10, 8), 5, padding=1)
    assert PatchEmbedSpec((11, 15), 3, stride=4).grid == (3, 4)
    with pytest.raises(PatchParityError, match="axis 1 is 13, expected for instance 11 or 15"):
        PatchEmbedSpec((11, 13), 3, stride=4)


def test_a_padding_that_is_no_number_is_refused():
    for padding in (None, 1.5, (1.0, 2), ((1, 2), 3.5)):
        with pytest.raises(PatchParityError, match=r"^padding=.*: expected an integer >= 0"):
            PatchEmbedSpec((8, 12), 4, padding=padding)


def test_a_hint_at_the_layout_is_given_where_it_may_be_that():
    spec = PatchEmbedSpec((32, 48), 16)
    sentence = "images of shape (2, {}) have {} channels, expected 3, as (B, 3, 32, 48){}"
    for shape, hint in (
        ((32, 48, 3), " (channels last? move them to axis 1)"),
        ((4, 32, 48), ""),
    ):
        with pytest.raises(PatchParityError) as refused:
            spec.check_images(np.zeros((2, *shape)))
        words = sentence.format(", ".join(map(str, shape)), shape[0], hint)
        assert str(refused.value) == words
    with pytest.raises(PatchParityError, match=r"expected \(B, 3, 32, 48\)"):
        spec.check_images(np.zeros((2, 3, 40, 48)))
    with pytest.raises(PatchParityError, match=r"^images"):
        spec.check_images([[1.0]])
    spec.check_images(np.zeros((2, 3, 32, 48)))
