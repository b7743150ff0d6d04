"""Pixels as bytes: what implementations that take them share.

Such an implementation is given folded weights, of raw pixels. One that rescales and normalizes
first, as users write it, unfolds them when they are assigned: its tokens are the same, and its
roundings are declared.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..reference.errors import PatchParityError, require_array
from ..reference.fold import IMAGENET, unfold_normalization
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights

SCALE = 1 / 255
"""What bytes are multiplied by, to lie between 0 and 1."""

NORMALIZING_ROUNDINGS = 7
"""Of a product of a normalized pixel, beside those of a sum: scale, its product, the difference,
standard deviation, its reciprocal where a compiler takes that, the quotient, and the unfolded
kernel. The mean's part meets six: it is rounded itself, and by all of these but the first two."""

LARGEST_MEAN = max(IMAGENET[0]) / SCALE
"""The largest mean of a channel, in bytes."""


def channel_statistics(
    channels: int, dtype: DTypeLike, trailing_axes: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """ImageNet's mean and standard deviation, shape `(C, 1, ...)` with so many axes behind; of
    other than three channels in turn."""
    mean, std = (
        np.resize(numbers, channels).reshape(-1, *(1,) * trailing_axes).astype(dtype)
        for numbers in IMAGENET
    )
    return mean, std


def unfolded(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    """The weights of normalized images whose folded ones are given."""
    mean, std = channel_statistics(weights.kernel.shape[-1], np.float64)
    return unfold_normalization(weights, mean, std, SCALE)


def as_bytes(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images of whole numbers from 0 to 255 as uint8.

    Raises:
        PatchParityError: other values, NaN among them.
    """
    require_array("images", images)
    if images.dtype == np.uint8:
        return np.asarray(images)
    with np.errstate(invalid="ignore"):
        pixels = images.astype(np.uint8)
        wrong = pixels != images
    if wrong.any():
        value = float(images[wrong][0])
        raise PatchParityError(
            f"images of dtype {images.dtype} hold {value:.9g}: an implementation that takes bytes "
            "expects whole numbers from 0 to 255"
        )
    return np.asarray(pixels)


def refuses_padding(name: str, spec: PatchEmbedSpec) -> str | None:
    """Say why sizes that pad are not for raw pixels, or None where nothing is padded."""
    if not any(map(any, spec.effective_padding)):
        return None
    return (
        f"{name} takes raw pixels, of which zeros are not the border that padding behind "
        "normalization gives: it computes sizes that do not pad"
    )
