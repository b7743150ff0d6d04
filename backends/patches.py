"""Patches for frameworks without a strided view: by reshape where patches tile the image, else by
gathering rows and columns.

Every reshape is of each image by itself, the batch stays as it is: left open, images twice as tall
would pass for twice as many.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.spec import PatchEmbedSpec


def channels_last_patches(images: Any, spec: PatchEmbedSpec, xp: Any) -> Any:
    """Cut padded images `(B, *padded_size, C)` into patches `(B, N, K)`, values in the order (row,
    column, channel).

    Args:
        images: a framework's array.
        spec: the sizes.
        xp: three functions of the framework: `reshape_each(x, shape)`, to `(B, *shape)`;
            `transpose(x, axes)`; `take(x, indices, axis)`.
    """
    axes = spec.spatial_axes
    if spec.tiles:
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        blocks = xp.reshape_each(images, (*split, spec.in_channels))
    else:
        blocks = images
        for axis in range(axes):
            blocks = xp.take(blocks, window_indices(spec, axis), 1 + 2 * axis)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return xp.reshape_each(xp.transpose(blocks, order), (spec.num_patches, spec.patch_values))


def channels_first_patches(images: Any, spec: PatchEmbedSpec, xp: Any) -> Any:
    """Cut padded images `(B, C, *padded_size)` into patches `(B, N, K)`, values in the order
    (channel, row, column); as above."""
    axes = spec.spatial_axes
    if spec.tiles:
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        blocks = xp.reshape_each(images, (spec.in_channels, *split))
    else:
        blocks = images
        for axis in range(axes):
            blocks = xp.take(blocks, window_indices(spec, axis), 2 + 2 * axis)
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
    return xp.reshape_each(xp.transpose(blocks, order), (spec.num_patches, spec.patch_values))


def patches_code(
    spec: PatchEmbedSpec, xp: str, take: str, reshape_each: str, channels_first: bool = False
) -> str:
    """The same as lines of Python: from padded `images` to `patches` `(B, N, K)`, with a
    framework's functions under their own names.

    Args:
        spec: the sizes.
        xp: module that has `transpose`.
        take: name of the function that gathers along an axis.
        reshape_each: how an `array` is reshaped to `(B, shape)`, a template with these two names.
        channels_first: whether images, and the values of a patch, have their channels first.
    """
    axes, lead = spec.spatial_axes, 2 if channels_first else 1
    lines = []
    if spec.tiles:
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        shape = (spec.in_channels, *split) if channels_first else (*split, spec.in_channels)
        lines.append(
            f"blocks = {reshape_each.format(array='images', shape=', '.join(map(str, shape)))}"
        )
    else:
        lines.append("blocks = images")
        for axis, (count, step, patch) in enumerate(
            zip(spec.grid, spec.stride, spec.patch_size, strict=True)
        ):
            lines.append(f"window = np.arange({count})[:, None] * {step} + np.arange({patch})")
            lines.append(f"blocks = {take}(blocks, window, axis={lead + 2 * axis})")
    grid, patch_axes = range(lead, lead + 2 * axes, 2), range(lead + 1, lead + 1 + 2 * axes, 2)
    order = (0, *grid, 1, *patch_axes) if channels_first else (0, *grid, *patch_axes, 2 * axes + 1)
    shape = spec.num_patches, spec.patch_values
    ordered = f"{xp}.transpose(blocks, {order})"
    lines.append(
        f"patches = {reshape_each.format(array=ordered, shape=', '.join(map(str, shape)))}"
    )
    return "".join(f"    {line}\n" for line in lines)


def window_indices(spec: PatchEmbedSpec, axis: int) -> NDArray[np.int32]:
    """Positions along a padded image axis that each window covers, shape `(grid[axis],
    patch_size[axis])`."""
    starts = np.arange(spec.grid[axis], dtype=np.int32) * spec.stride[axis]
    return np.add.outer(starts, np.arange(spec.patch_size[axis], dtype=np.int32))
