"""Weights of another size: position tables, patch kernels and input channels, by recipe."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import PatchParityError, require_array, require_choice, require_sizes
from .recipes import RECIPES, Recipe, get_recipe
from .resample import resize_axes, resize_matrix


def resize_grid(
    table: NDArray[Any], grid: Sequence[int], recipe: str, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Resize a grid of vectors.

    Args:
        table: `(rows, columns, D)`.
        grid: new rows and columns.
        recipe: a name of `RECIPES`.
        dtype: in which it is computed.

    Returns:
        `(*grid, D)`, of `dtype`. A grid of the same size comes out as it is, as every library
            leaves it.

    Raises:
        PatchParityError: an unknown recipe, a table of another rank, a grid that the recipe's
            library does not take.
    """
    found = get_recipe(recipe)
    require_array("table", table)
    if table.ndim != 3:
        raise PatchParityError(f"table of shape {table.shape}: expected (rows, columns, D)")
    if tuple(grid) == table.shape[:2]:
        return table.astype(dtype)
    return resize_axes(table, *_matrices(found, table.shape[:2], grid), dtype)


def _matrices(
    recipe: Recipe, sizes: Sequence[int], new_sizes: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = (
        resize_matrix(rule, size, new)
        for rule, size, new in zip(recipe.rules(sizes, new_sizes), sizes, new_sizes, strict=True)
    )
    return rows, columns


def resize_positions(
    positions: NDArray[Any],
    grid: Sequence[int],
    new_grid: Sequence[int],
    *,
    prefix_rows: int = 0,
    recipe: str,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Resize a table of positions to another grid of patches.

    Args:
        positions: `(prefix_rows + rows·columns, D)`, raster order.
        grid, new_grid: rows and columns of patches, before and after.
        prefix_rows: rows in front, of class and other tokens, which stay as they are.
        recipe: a name of `RECIPES`: an operation (`torch-bicubic-antialias`) or a library
            (`timm`). Libraries differ by 0.05 to 4 of a table of about 1.
        dtype: in which it is computed.

    Returns:
        `(prefix_rows + new rows·new columns, D)`, of `dtype`.

    Raises:
        PatchParityError: a grid that does not fit the table, an unknown recipe.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> table = np.random.default_rng(0).standard_normal((1 + 14 * 14, 64))
        >>> new = patchparity.resize_positions(
        ...     table, grid=(14, 14), new_grid=(24, 16), prefix_rows=1, recipe="timm"
        ... )
        >>> new.shape
        (385, 64)
    """
    require_array("positions", positions)
    for name, value in (("grid", grid), ("new_grid", new_grid)):
        require_sizes(name, value, (2,))
    if positions.ndim != 2:
        raise PatchParityError(f"positions of shape {positions.shape}: expected (rows, D)")
    rows, columns = grid
    if prefix_rows < 0 or len(positions) != prefix_rows + rows * columns:
        raise PatchParityError(
            f"positions of shape {positions.shape}: expected {prefix_rows + rows * columns} rows, "
            f"{prefix_rows} of prefix tokens and {rows}×{columns} of patches"
        )
    table = positions[prefix_rows:].reshape(rows, columns, -1)
    resized = resize_grid(table, new_grid, recipe, dtype)
    prefix = positions[:prefix_rows].astype(dtype)
    return np.concatenate([prefix, resized.reshape(-1, positions.shape[1])])


KERNEL_RECIPES: dict[str, tuple[str, bool]] = {
    **{
        f"pi-timm-{end}": (f"torch-{end}", True)
        for end in ("bicubic-antialias", "bicubic", "bilinear-antialias", "bilinear")
    },
    "pi-big-vision-bilinear": ("tf-bilinear", True),
    **{
        f"plain-{name}": (name, False)
        for name in RECIPES
        if name.startswith(("torch-", "jax-", "tf-"))
    },
}
"""Ways to resize a kernel: by which recipe, and whether by the pseudo-inverse of resizing an image
(FlexiViT: tokens of a resized image stay, as nearly as they can) or by resizing the kernel as if
it were one.

Source: Beyer et al., "FlexiViT: One Model for All Patch Sizes" (2022), section 3.4."""


def resize_kernel(
    kernel: NDArray[Any],
    patch_size: int | Sequence[int],
    *,
    recipe: str,
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Resize a patch kernel.

    Args:
        kernel: `(D, P_h, P_w, C)`, or `(D, T, P_h, P_w, C)`, of which T stays.
        patch_size: the new one; one number, or rows and columns.
        recipe: a name of `KERNEL_RECIPES`; `pi-timm-bicubic-antialias` is timm's default.
        dtype: in which the kernel is multiplied; the pseudo-inverse is of float64.

    Returns:
        `(D, *patch_size, C)`, of `dtype`.

    Raises:
        PatchParityError: a kernel of another rank, sizes that are none, an unknown recipe.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> kernel = np.random.default_rng(0).standard_normal((10, 16, 16, 3))
        >>> patchparity.resize_kernel(kernel, 8, recipe="pi-timm-bicubic-antialias").shape
        (10, 8, 8, 3)
    """
    require_array("kernel", kernel)
    require_sizes("patch_size", patch_size, (1, 2))
    require_choice("recipe", recipe, KERNEL_RECIPES)
    if kernel.ndim not in (4, 5):
        raise PatchParityError(
            f"kernel of shape {kernel.shape}: expected (D, P_h, P_w, C), or (D, T, P_h, P_w, C)"
        )
    sides = (patch_size,) * 2 if isinstance(patch_size, int) else tuple(patch_size)
    new = sides * 2 if len(sides) == 1 else sides
    old = kernel.shape[-3:-1]
    if new == old:
        return kernel.astype(dtype)
    like, pseudo_inverse = KERNEL_RECIPES[recipe]
    rows, columns = _matrices(RECIPES[like], old, new)
    if pseudo_inverse:
        # of a Kronecker product it is that of its factors
        rows, columns = (
            np.asarray(np.linalg.pinv(matrix.T), np.float64) for matrix in (rows, columns)
        )
    flat = np.moveaxis(kernel.reshape(-1, *old, kernel.shape[-1]), 0, 2)
    resized = resize_axes(flat.reshape(*old, -1), rows, columns, dtype)
    resized = np.moveaxis(resized.reshape(*new, *flat.shape[2:]), 2, 0)
    return np.ascontiguousarray(resized.reshape(*kernel.shape[:-3], *new, kernel.shape[-1]))


CHANNEL_RECIPES = ("timm",)
"""Ways to take a kernel to other input channels."""


def adapt_channels(
    kernel: NDArray[Any], in_channels: int, *, recipe: str, dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Take a kernel to another number of input channels.

    Args:
        kernel: `(D, *patch, C)`.
        in_channels: the new number.
        recipe: `timm`: to one channel the kernel is summed, so that a gray picture of three equal
            channels has the same tokens; of 3 to N it is repeated, cut to N, and times 3/N.
        dtype: in which it is computed.

    Returns:
        `(D, *patch, in_channels)`, of `dtype`.

    Raises:
        PatchParityError: what timm does not do: from other than 3 channels to other than 1.

    Source: `adapt_input_conv` of timm 1.0.31.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> patchparity.adapt_channels(np.ones((10, 4, 4, 3)), 1, recipe="timm").max()
        np.float64(3.0)
    """
    require_array("kernel", kernel)
    require_sizes("in_channels", in_channels, (1,))
    require_choice("recipe", recipe, CHANNEL_RECIPES)
    have, values = kernel.shape[-1], kernel.astype(dtype)
    if in_channels == have:
        return values
    if in_channels == 1 and have <= 3:
        return np.asarray(values.sum(axis=-1, keepdims=True))
    if have == 3:
        repeated = np.tile(values, math.ceil(in_channels / 3))[..., :in_channels]
        return np.asarray(repeated * np.asarray(3 / in_channels, dtype))
    raise PatchParityError(
        f"a kernel of {have} channels to {in_channels}: timm goes from 3 to any number, and to 1 "
        "from 1 to 3"
    )
