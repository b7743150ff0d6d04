"""Patches for frameworks without a strided view: by reshape where patches tile the image, else by gathering rows and columns."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.spec import PatchEmbedSpec


def channels_last_patches(images: Any, spec: PatchEmbedSpec, xp: Any) -> Any:
    """Cut padded images `(B, *padded_size, C)` into patches `(B, N, K)`, values in the order (row, column, channel).

    Args:
        images: a framework's array.
        spec: the sizes.
        xp: three functions of the framework: `reshape(x, shape)`, `transpose(x, axes)`, `take(x, indices, axis)`.
    """
    axes = spec.spatial_axes
    if spec.tiles:
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        blocks = xp.reshape(images, (-1, *split, spec.in_channels))
    else:
        blocks = images
        for axis in range(axes):
            blocks = xp.take(blocks, window_indices(spec, axis), 1 + 2 * axis)
    order = (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1)
    return xp.reshape(xp.transpose(blocks, order), (-1, spec.num_patches, spec.patch_values))


def channels_first_patches(images: Any, spec: PatchEmbedSpec, xp: Any) -> Any:
    """Cut padded images `(B, C, *padded_size)` into patches `(B, N, K)`, values in the order (channel, row, column); as above."""
    axes = spec.spatial_axes
    if spec.tiles:
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        blocks = xp.reshape(images, (-1, spec.in_channels, *split))
    else:
        blocks = images
        for axis in range(axes):
            blocks = xp.take(blocks, window_indices(spec, axis), 2 + 2 * axis)
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
    return xp.reshape(xp.transpose(blocks, order), (-1, spec.num_patches, spec.patch_values))


def window_indices(spec: PatchEmbedSpec, axis: int) -> NDArray[np.int32]:
    """Positions along a padded image axis that each window covers, shape `(grid[axis], patch_size[axis])`."""
    starts = np.arange(spec.grid[axis], dtype=np.int32) * spec.stride[axis]
    return starts[:, None] + np.arange(spec.patch_size[axis], dtype=np.int32)
