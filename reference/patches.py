"""Images to flattened patches and back: patchify, unpatchify, and fold, the adjoint of patchify."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError, require_array
from .spec import PatchEmbedSpec


def pad_images(images: NDArray[Any], spec: PatchEmbedSpec) -> NDArray[Any]:
    """Add the spec's zeros: images `(B, C, H, W)` to `(B, C, H', W')` with (H', W') =
    `spec.padded_size`.

    Raises:
        PatchParityError: images of another shape than the spec's.
    """
    spec.check_images(images)
    if not any(any(pair) for pair in spec.effective_padding):
        return images
    return np.pad(images, ((0, 0), (0, 0), *spec.effective_padding))


def patchify(images: NDArray[Any], spec: PatchEmbedSpec) -> NDArray[Any]:
    """Cut images into flattened patches.

    Args:
        images: shape `(B, C, H, W)`, any dtype.
        spec: the sizes; overlapping and padded ones included.

    Returns:
        Patches of shape `(B, N, K)`: patch n = row·grid_columns + column (raster order), and within
        a patch the order (row, column, channel), so that value (i, j, c) stands at (i·P_w + j)·C +
        c. The dtype is that of `images`.

    Raises:
        PatchParityError: images of another shape than the spec's.

    Source: Dosovitskiy et al. (2021), section 3.1: x ∈ R^{H×W×C} to x_p ∈ R^{N×(P²·C)}.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> images = np.random.default_rng(0).standard_normal((2, 3, 12, 20))
        >>> patchparity.patchify(images, spec).shape  # (B, N, P·P·C)
        (2, 15, 48)
    """
    padded = pad_images(images, spec)
    axes = spec.spatial_axes
    if spec.tiles:
        # (B, C, g0, p0, g1, p1, ...) by reshape alone
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        windows = padded.reshape(*padded.shape[:2], *split)
        grid_axes = [2 + 2 * axis for axis in range(axes)]
        patch_axes = [3 + 2 * axis for axis in range(axes)]
    else:
        # (B, C, positions..., p0, p1, ...), every window at every offset; keep one in `stride`
        spatial = tuple(range(2, 2 + axes))
        dense = np.lib.stride_tricks.sliding_window_view(padded, spec.patch_size, axis=spatial)
        kept = tuple(
            slice(0, (count - 1) * step + 1, step)
            for count, step in zip(spec.grid, spec.stride, strict=True)
        )
        windows = dense[(slice(None), slice(None), *kept)]
        grid_axes = list(range(2, 2 + axes))
        patch_axes = list(range(2 + axes, 2 + 2 * axes))
    ordered = windows.transpose(0, *grid_axes, *patch_axes, 1)
    return ordered.reshape(images.shape[0], spec.num_patches, spec.patch_values)


def fold(patches: NDArray[Any], spec: PatchEmbedSpec) -> NDArray[Any]:
    """Add patches back into images where they came from; the adjoint of `patchify`, so
    ⟨patchify(x), p⟩ = ⟨x, fold(p)⟩.

    Args:
        patches: shape `(B, N, K)`.
        spec: the sizes.

    Returns:
        Images `(B, C, H, W)`: pixels that several patches share hold the sum, pixels that no patch
        sees hold zero, padding is dropped.

    Raises:
        PatchParityError: patches of another shape.
    """
    require_array("patches", patches)
    if patches.ndim != 3 or patches.shape[1:] != (spec.num_patches, spec.patch_values):
        raise PatchParityError(
            f"patches of shape {patches.shape}: expected (B, {spec.num_patches}, "
            f"{spec.patch_values})"
        )
    axes = spec.spatial_axes
    batch = patches.shape[0]
    blocks = patches.reshape(batch, *spec.grid, *spec.patch_size, spec.in_channels)
    blocks = np.moveaxis(blocks, -1, 1)  # (B, C, grid..., patch...)
    padded = np.zeros((batch, spec.in_channels, *spec.padded_size), patches.dtype)
    for offset in np.ndindex(*spec.patch_size):
        target = tuple(
            slice(start, start + (count - 1) * step + 1, step)
            for start, count, step in zip(offset, spec.grid, spec.stride, strict=True)
        )
        padded[(slice(None), slice(None), *target)] += blocks[
            (slice(None), slice(None), *(slice(None),) * axes, *offset)
        ]
    inner = tuple(
        slice(before, before + size)
        for (before, _), size in zip(spec.effective_padding, spec.image_size, strict=True)
    )
    return padded[(slice(None), slice(None), *inner)]


def unpatchify(patches: NDArray[Any], spec: PatchEmbedSpec) -> NDArray[Any]:
    """Put non-overlapping patches back together: the inverse of `patchify`.

    Args:
        patches: shape `(B, N, K)`.
        spec: sizes whose patches tile the (padded) image.

    Returns:
        Images of shape `(B, C, H, W)`; padding is dropped.

    Raises:
        PatchParityError: patches that overlap or leave pixels out, so that there is no inverse;
            patches of another shape.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> images = np.random.default_rng(0).standard_normal((2, 3, 12, 20))
        >>> bool((patchparity.unpatchify(patchparity.patchify(images, spec), spec) == images).all())
        True
    """
    if not spec.tiles:
        raise PatchParityError(
            f"patches of {spec.patch_size} at stride {spec.stride} do not tile {spec.padded_size}: "
            "there is no unique image to return "
            "(fold gives the adjoint)"
        )
    return fold(patches, spec)
