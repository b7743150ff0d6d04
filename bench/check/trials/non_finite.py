"""Trials of images that hold an infinity or a NaN."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from .tried import Outcome, Trial, Tried

MOST_CHANNELS = 32
"""Channels in each of which a NaN is tried."""


def non_finite(tried: Tried) -> Iterator[Trial]:
    """An infinity, a NaN in each channel, in a batch of one, and an image of nothing else."""
    yield "infinity", functools.partial(_infinity, tried)
    yield "nan-of-each-channel", functools.partial(_nan_of_each_channel, tried)
    yield "nan-in-batch-of-one", functools.partial(_nan_in_batch_of_one, tried)
    yield "nan-alone", functools.partial(_nothing_but_nan, tried)


def _infinity(tried: Tried) -> Outcome | None:
    if not _seen(tried):
        return None
    for value, named in ((np.inf, "an infinity"), (-np.inf, "a negative infinity")):
        with np.errstate(invalid="ignore", over="ignore"):
            output = tried.live.call(_poisoned(tried, value, 1, 0)).astype(np.float64)
        if np.isfinite(output[1]).all():
            return {
                "verdict": "fail",
                "message": f"{named} in one pixel of image 1 is swallowed: every value of it "
                "is finite",
            }
    return {"verdict": "pass"}


def _nan_of_each_channel(tried: Tried) -> Outcome | None:
    if not _seen(tried):
        return None
    # Patches that tile see every pixel of a size that they divide: the first and last too.
    spec = tried.small
    whole = spec.tiles and not any(
        size % by for size, by in zip(spec.image_size, spec.stride, strict=True)
    )
    shares = (0.5, 0.0, 1.0, 0.3) if whole else (0.5,)
    for image in (0, 1):
        for channel in range(min(spec.in_channels, MOST_CHANNELS)):
            poisoned = _poisoned(tried, np.nan, image, channel, shares[channel % len(shares)])
            with np.errstate(invalid="ignore"):
                output, changed = tried.called(poisoned)
            if changed:
                message = "it changes the images that it is given, where one holds a NaN"
                return {"verdict": "fail", "message": message}
            nan_mask = np.isnan(output.astype(np.float64))
            if not nan_mask[image].any():
                return {
                    "verdict": "fail",
                    "message": f"a NaN in channel {channel} of image {image} is swallowed",
                }
            if nan_mask[1 - image].any():
                return {
                    "verdict": "fail",
                    "message": f"a NaN in image {image} makes values of image {1 - image} NaN",
                }
    return {"verdict": "pass"}


def _nan_in_batch_of_one(tried: Tried) -> Outcome | None:
    """An image that is given by itself, as models are served; one that takes no batch of one says
    so elsewhere."""
    if not _seen(tried):
        return None
    alone = _poisoned(tried, np.nan, 1, 0)[1:]
    try:
        with np.errstate(invalid="ignore"):
            output = tried.live.call(alone)
    except PatchParityError:
        return None
    if np.isnan(output.astype(np.float64)).any():
        return {"verdict": "pass"}
    return {"verdict": "fail", "message": "a NaN in an image that is given alone is swallowed"}


def _nothing_but_nan(tried: Tried) -> Outcome | None:
    """An image of NaN alone, beside one of numbers."""
    if not _seen(tried):
        return None
    images = tried.draw(tried.small, 2)
    images[1] = np.nan
    with np.errstate(invalid="ignore"):
        nan_mask = np.isnan(tried.live.call(images).astype(np.float64))
    if nan_mask[1].any():
        return {"verdict": "pass"}
    return {"verdict": "fail", "message": "an image of NaN alone gives numbers"}


def _poisoned(
    tried: Tried, value: float, image: int, channel: int, share: float = 0.5
) -> NDArray[Any]:
    """Random images with one value of another kind, so far along rows and columns."""
    images = tried.draw(tried.small, 2)
    sides = [min(int(size * share), size - 1) for size in tried.small.image_size]
    images[(image, channel, *sides)] = value
    return images


def _seen(tried: Tried) -> bool:
    """Whether a window sees the pixel in the middle, which patches with gaps between them may
    not."""
    spec = tried.small
    for size, patch, step, (before, _), count in zip(
        spec.image_size,
        spec.patch_size,
        spec.stride,
        spec.effective_padding,
        spec.grid,
        strict=True,
    ):
        starts = np.arange(count) * step - before
        if not ((starts <= size // 2) & (size // 2 < starts + patch)).any():
            return False
    return True
