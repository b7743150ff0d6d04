"""Where to cut for several devices: which axis, which part each device has, and what is added so
that parts are equal or hold whole patches. Sizes alone; knows no framework.

Images are `(B, C, H, W)` here, token grids `(B, D, rows, columns)`.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec

DEVICES = 4
"""So many devices: the fewest over which 14 rows of patches, ViT's at 224, do not divide while
their pixels do (224/4 = 56 rows of pixels, 3.5 patches)."""

Split = Literal["batch", "output-channels", "input-channels", "height", "width"]
SPLITS: tuple[Split, ...] = ("batch", "output-channels", "input-channels", "height", "width")
MODE = "sharded"

IMAGE_AXIS: dict[str, int] = {"batch": 0, "input-channels": 1, "height": 2, "width": 3}
"""Which axis of images a split cuts; output channels leave them whole."""
GRID_AXIS: dict[str, int] = {"batch": 0, "output-channels": 1, "height": 2, "width": 3}
"""Which axis of the grid of tokens a split cuts; input channels leave partial sums."""


def split_of(formulation: str) -> Split:
    """The split that a formulation's name begins with: `height` of `height-whole`."""
    return next(split for split in SPLITS if formulation.startswith(split))


def spatial_axis(split: Split) -> int | None:
    """0 for height, 1 for width, None for the others."""
    return {"height": 0, "width": 1}.get(split)


def units_of(split: Split, spec: PatchEmbedSpec, batch: int) -> int:
    """How many images, channels, rows or columns of patches there are to split."""
    return {
        "batch": batch,
        "output-channels": spec.embed_dim,
        "input-channels": spec.in_channels,
        "height": spec.grid[0],
        "width": spec.grid[1],
    }[split]


def parts(count: int, devices: int) -> list[tuple[int, int]]:
    """Cut `count` into as many parts as there are devices, as `torch.chunk` and DTensor do: of
    ⌈count/devices⌉ each, the last ones smaller or empty."""
    size = math.ceil(count / devices)
    return [
        (min(number * size, count), min((number + 1) * size, count)) for number in range(devices)
    ]


class Window(NamedTuple):
    """What a device computes and reads along one axis: patches `first` to `last`, pixels `begin` to
    `end` of the padded image; the ends are not part of it."""

    first: int
    last: int
    begin: int
    end: int


def windows(spec: PatchEmbedSpec, axis: int, devices: int) -> list[Window]:
    """The patches of each device along an image axis, and the pixels that they see: those that
    neighbors share are in both windows. A device without patches reads nothing."""
    stride, patch = spec.stride[axis], spec.patch_size[axis]
    return [
        Window(
            first,
            last,
            first * stride,
            (last - 1) * stride + patch if last > first else first * stride,
        )
        for first, last in parts(spec.grid[axis], devices)
    ]


def rounded_up(count: int, multiple: int) -> int:
    """The next multiple."""
    return math.ceil(count / multiple) * multiple


def whole_extent(spec: PatchEmbedSpec, axis: int, devices: int) -> int:
    """Pixels along an axis when zeros are put behind the image until each device has equally many
    whole strides, and all that patches see lies inside.

    Neither a patch nor the step to the next is cut in two: what overlaps is all that a device needs
    of its neighbor.
    """
    stride, patch = spec.stride[axis], spec.patch_size[axis]
    before = spec.effective_padding[axis][0]
    seen = min((spec.grid[axis] - 1) * stride + patch - before, spec.image_size[axis])
    strides = max(spec.grid[axis], math.ceil(seen / stride))
    return stride * rounded_up(strides, devices)


def whole_padding(spec: PatchEmbedSpec, axis: int) -> tuple[int, int]:
    """Zeros before and behind an image of `whole_extent`, with which a convolution gives a patch a
    stride; never negative, for that is a crop."""
    stride, patch = spec.stride[axis], spec.patch_size[axis]
    before = spec.effective_padding[axis][0]
    return before, max(0, patch - stride - before)


def lengthened(array: NDArray[Any], axis: int, extent: int) -> NDArray[Any]:
    """Zeros behind an array along an axis until it is `extent` long; one that is longer stays."""
    missing = extent - array.shape[axis]
    if missing <= 0:
        return array
    return np.pad(array, [(0, missing if each == axis else 0) for each in range(array.ndim)])


def tokens_of_grid(grid: NDArray[Any]) -> NDArray[Any]:
    """`(B, D, rows, columns)` to `(B, N, D)`, of whatever sizes they are."""
    return np.ascontiguousarray(
        grid.reshape(*grid.shape[:2], math.prod(grid.shape[2:])).transpose(0, 2, 1)
    )


def refuses_video(name: str, spec: PatchEmbedSpec) -> str | None:
    """Say that a split is of images, or None where they are."""
    return None if spec.spatial_axes == 2 else f"{name} splits images, which have two axes"
