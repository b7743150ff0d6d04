"""Layouts: patterns mean what the field says they mean, and invert."""

import numpy as np
import pytest

from patchparity import PatchEmbedSpec, PatchParityError
from patchparity.backends.layouts import (
    KERNEL_LAYOUTS,
    NHWC,
    images_from_layout,
    images_to_layout,
    kernel_from_layout,
    kernel_to_layout,
)

SPEC = PatchEmbedSpec((12, 20), (4, 5), 3, 7)
KERNEL = np.random.default_rng(0).standard_normal(SPEC.kernel_shape)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("oihw", KERNEL.transpose(0, 3, 1, 2)),
        ("hwio", KERNEL.transpose(1, 2, 3, 0)),
        ("ohwi", KERNEL),
        ("linear-chw", KERNEL.transpose(0, 3, 1, 2).reshape(7, -1)),
        ("linear-hwc", KERNEL.reshape(7, -1)),
        ("dense-hwc", KERNEL.reshape(7, -1).T),
        ("dense-chw", KERNEL.transpose(0, 3, 1, 2).reshape(7, -1).T),
    ],
)
def test_named_layouts(name, expected):
    assert (kernel_to_layout(KERNEL, KERNEL_LAYOUTS[name]) == expected).all()


@pytest.mark.parametrize("name", KERNEL_LAYOUTS)
@pytest.mark.parametrize(
    "spec", [SPEC, PatchEmbedSpec((4, 12, 20), (2, 4, 5), 3, 7)], ids=["image", "video"]
)
def test_round_trip(name, spec):
    kernel = np.random.default_rng(1).standard_normal(spec.kernel_shape)
    kept = kernel_to_layout(kernel, KERNEL_LAYOUTS[name])
    assert (kernel_from_layout(kept, KERNEL_LAYOUTS[name], spec) == kernel).all()


def test_images():
    images = np.random.default_rng(2).standard_normal((2, 3, 4, 5))
    assert (images_to_layout(images, NHWC) == images.transpose(0, 2, 3, 1)).all()
    assert (images_from_layout(images_to_layout(images, NHWC), NHWC) == images).all()


def test_a_kernel_that_does_not_fit_is_named():
    with pytest.raises(PatchParityError, match=r"kernel of shape \(7, 59\) is not 'D \(C Ph Pw\)'"):
        kernel_from_layout(np.zeros((7, 59)), KERNEL_LAYOUTS["linear-chw"], SPEC)
