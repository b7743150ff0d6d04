"""Positions that a library computes, resizes or looks up, and images that it normalizes itself."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...reference.errors import PatchParityError
from ...reference.resize import resize_grid
from ...reference.sequence import sincos_positions, sinusoid_table
from ...reference.spec import PatchEmbedSpec
from ...reference.stem import fold_batch_norm
from ..files.checkpoint import Checkpoint
from .dialect import BATCH_NORM, Dialect
from .recognize import Candidate


def fold_positions(
    checkpoint: Checkpoint,
    candidate: Candidate,
    arrays: dict[str, NDArray[Any]],
    spec: PatchEmbedSpec,
) -> None:
    """Bring whatever positions a dialect keeps, by field, into one table, `(rows, D)`, in place.

    Raises:
        PatchParityError: ids of rows that the table does not have.
    """
    dialect, grid = candidate.dialect, spec.grid
    if "position_ids" in arrays:
        ids, count = arrays.pop("position_ids"), len(arrays["positions"])
        if not (ids.min() >= 0 and ids.max() < count):
            raise PatchParityError(
                f"{checkpoint.path}: {candidate.names['position_ids']} names rows beyond the "
                f"{count} of the positions"
            )
        arrays["positions"] = arrays["positions"][ids.astype(np.int64)]
    if "positions" in arrays:
        table = arrays["positions"]
        table = table[dialect.spare_rows : len(table) - dialect.spare_last]
        if shared := dialect.shared_rows:
            whole = table.astype(np.float64)
            table = (whole[shared:] + whole[:shared].sum(axis=0)).astype(wide(table.dtype))
        if dialect.resize:
            window = arrays.pop("position_window", None)
            table = resized_positions(table, window, grid, candidate.sizes, dialect)
        arrays["positions"] = table
    if "class_position" in arrays:
        token = arrays["class_token"]
        summed = token.astype(np.float64) + arrays.pop("class_position").astype(np.float64)
        arrays["class_token"] = summed.astype(wide(token.dtype))
    if "position_rows" in arrays:
        rows, columns = arrays.pop("position_rows"), arrays.pop("position_columns")
        rows, columns = rows[dialect.spare_rows :], columns[dialect.spare_rows :]
        if dialect.cut:
            rows, columns = rows[: grid[-2]], columns[: grid[-1]]
        arrays["positions"] = _summed(rows, columns, arrays["kernel"].dtype)
    if "position_tables" in arrays:
        of_columns, of_rows = arrays.pop("position_tables")
        rows, columns = of_rows[: grid[-2]], of_columns[: grid[-1]]
        arrays["positions"] = _summed(rows, columns, arrays["kernel"].dtype)
    if dialect.computed == "fourier":
        projection = arrays.pop("position_projection").astype(np.float64)
        bias = arrays.pop("position_projection_bias")
        if candidate.grid:
            table = fourier_table(grid, projection.shape[1]) @ projection.T
            arrays["positions"] = (table + bias.astype(np.float64)).astype(wide(bias.dtype))
    elif dialect.computed and candidate.grid:
        table = computed_positions(dialect.computed, spec)
        arrays["positions"] = table.astype(arrays["kernel"].dtype)


def _summed(rows: NDArray[Any], columns: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """A position for each row and each column, added up, `(rows·columns, D)`."""
    summed = rows.astype(np.float64)[:, None] + columns.astype(np.float64)[None]
    return summed.reshape(-1, rows.shape[-1]).astype(wide(dtype))


def fold_normalizations(
    checkpoint: Checkpoint, candidate: Candidate, arrays: dict[str, NDArray[Any]]
) -> None:
    """Put a batch norm behind the projection, and a normalization of images before it, into kernel
    and bias, in place.

    Raises:
        PatchParityError: pixels that would be divided by what is not positive.
    """
    dialect = candidate.dialect
    if dialect.batch_norm:
        held = [arrays.pop(f"batch_norm.{part}") for part in BATCH_NORM]
        dtype = wide(arrays["kernel"].dtype)
        kernel, bias = fold_batch_norm(
            arrays["kernel"], arrays.get("bias"), held, dialect.batch_norm_epsilon
        )
        arrays.update(kernel=kernel.astype(dtype), bias=bias.astype(dtype))
    if dialect.pixels:
        fold_pixels(arrays, **dialect.pixels)
    if "pixel_std" in arrays:
        std = arrays.pop("pixel_std")
        if not (std > 0).all():
            raise PatchParityError(
                f"{checkpoint.path}: {candidate.names['pixel_std']} holds {std.min():g}, by which "
                "pixels would be divided"
            )
        fold_pixels(arrays, arrays.pop("pixel_mean", np.zeros_like(std)), std)


def wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which something is kept that is computed of weights: a rounding to 16 bits more
    would be none of the library's."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def resized_positions(
    table: NDArray[Any],
    window: NDArray[Any] | None,
    grid: tuple[int, ...],
    sizes: Mapping[str, int],
    dialect: Dialect,
) -> NDArray[Any]:
    """A table of positions, `(rows, D)`, brought to the grid of the image as the library does it at
    run time, and those of a window repeated on it."""
    side = math.isqrt(len(table))
    table_grid = (sizes["Gh"], sizes["Gw"]) if "Gh" in sizes else (side, side)
    height, width = grid[-2:]
    longer = max(height, width)
    to = {"grid": (height, width), "square": (longer, longer), "swapped": (width, height)}[
        dialect.resize_to
    ]
    resized_table = resize_grid(table.reshape(*table_grid, -1), to, dialect.resize)
    if dialect.resize_to == "square":
        resized_table = resized_table[:height, :width]
    if window is not None:
        resized_table = resized_table + np.tile(
            window.astype(np.float64), (height // len(window), width // window.shape[1], 1)
        )
    frames = math.prod(grid[:-2])
    return np.tile(resized_table.reshape(height * width, -1), (frames, 1)).astype(wide(table.dtype))


def fold_pixels(arrays: dict[str, NDArray[Any]], mean: ArrayLike, std: ArrayLike) -> None:
    """Put the normalization of images into kernel and bias: W·(x - m)/s + b is (W/s)·x + (b - Σ
    W·m/s)."""
    # the channels are the last axis
    kernel = arrays["kernel"].astype(np.float64) / np.asarray(std, np.float64)
    shift = (kernel * np.asarray(mean, np.float64)).reshape(len(kernel), -1).sum(axis=1)
    dtype = wide(arrays["kernel"].dtype)
    bias = arrays["bias"].astype(np.float64) if "bias" in arrays else 0.0
    arrays.update(kernel=kernel.astype(dtype), bias=(bias - shift).astype(dtype))


def computed_positions(kind: str, spec: PatchEmbedSpec) -> NDArray[np.float64]:
    """The positions that a library computes, `(N, D)`; the kinds are those of `Dialect.computed`.

    Raises:
        PatchParityError: a width or a grid that it is not defined for.
    """
    if kind == "sincos-2d":
        return sincos_positions(spec.grid, spec.embed_dim, last_frequency=True)
    if kind == "sincos-2d-mae":
        return sincos_positions(spec.grid, spec.embed_dim)
    return sinusoid_table(spec.num_patches, spec.embed_dim)


def fourier_table(grid: tuple[int, ...], width: int) -> NDArray[np.float64]:
    """What XCiT's layer of positions is applied to, `(rows·columns, width)`: sines and cosines of
    the row, then of the column, each as a share of a circle.

    Source: El-Nouby et al., "XCiT" (2021), `PositionalEncodingFourier` of xcit.py.
    """
    half = width // 2
    frequencies = 10000.0 ** (-2 * (np.arange(half) // 2) / half)

    def encode(count: int) -> NDArray[np.float64]:
        angles = np.arange(1, count + 1)[:, None] / (count + 1e-6) * 2 * np.pi * frequencies
        return np.where(np.arange(half) % 2, np.cos(angles), np.sin(angles))

    rows, columns = (encode(count) for count in grid)
    shape = (*grid, half)
    both = [np.broadcast_to(rows[:, None], shape), np.broadcast_to(columns[None], shape)]
    return np.concatenate(both, axis=-1).reshape(-1, width)
