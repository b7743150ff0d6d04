"""Grids resized: one separable rule, two weight matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import PatchParityError

Kernel = Literal[
    "linear", "cubic", "lanczos3", "lanczos4", "lanczos5", "box", "hamming", "area", "bins",
    "area-linear", "spline3", "mitchell", "nearest",
]  # fmt: skip
Coordinates = Literal[
    "half-pixel", "half-pixel-or-first", "align-corners", "asymmetric", "shifted-corners"
]
Edge = Literal["clamp", "drop", "zero", "mirror"]

SUPPORT: dict[str, float] = {
    "linear": 1, "cubic": 2, "lanczos3": 3, "lanczos4": 4, "lanczos5": 5, "box": 0.5, "hamming": 1,
    "spline3": 2, "mitchell": 2,
}  # fmt: skip
"""Distance, in samples, from which on a kernel is zero."""

VARIATION: dict[str, float] = {
    "linear": 2, "cubic": 3, "lanczos3": 3.2, "lanczos4": 3.2, "lanczos5": 3.5, "hamming": 3.3,
    "spline3": 4.5, "mitchell": 2.4,
}  # fmt: skip
"""Σ|w'| of a kernel over the samples within its support, at most: what a coordinate's error is
multiplied by. Of `cubic` for a ≥ −1; of `spline3` 1.5, times the norm 3 of its coefficients."""


@dataclass(frozen=True)
class Rule:
    """How one axis is resized, each axis by itself.

    Args:
        kernel: `linear`; `cubic` (Keys, 1981); `lanczos3`, `lanczos4`, `lanczos5`; `box`, Pillow's;
            `hamming`; `spline3`, the cubic B-spline through all samples; `mitchell`, TensorFlow's
            mitchellcubic; `area`, the share that a new sample has of each old one;
            `bins`, the mean of all old samples that a new one touches (torch's area);
            `area-linear`, what OpenCV makes of its area where a grid grows; `nearest`.
        a: the cubic kernel's value; the slope at distance 1.
        coordinates: where new sample i lies among the old ones, with step = old/new: `half-pixel`,
            (i + ½)·step − ½; `half-pixel-or-first`, the same, and 0 where there is one new sample
            (ONNX's `pytorch_half_pixel`); `align-corners`, i·(old − 1)/(new − 1); `asymmetric`,
            i·step;
            `shifted-corners`, (i + ½)·(old − 1)/(new − 1) − ½, which torch computes where it is
            asked for both antialias and aligned corners.
        offset: added to the new size where the step is computed, old/(new + offset): DINOv2's 0.1.
        antialias: whether the kernel is stretched where the grid shrinks.
        stretch: what it is stretched by: the `step` of the coordinates, or the ratio of the
            `sizes`.
        edge: what a sample outside of the grid is: `clamp`, the sample at the edge; `drop`, none,
            and the weights of the others sum to 1; `zero`; `mirror`, about the sample at the edge.
        table: entries of the table that the kernel is looked up in, for each sample; 0 for none.
        rounding: the type in which coordinates are computed; `inverse`, float64, the step as
            1/(new/old), as OpenCV has it; `reciprocal`, float32, the step as old·(1/new), as XLA
            has it; of `nearest` alone `summed`, float64 by adding up steps.
        outside_is_zero: whether a new sample is zero whose coordinate leaves the grid, be it by a
            rounding error: SciPy's zoom.
    """

    kernel: Kernel = "linear"
    a: float = -0.75
    coordinates: Coordinates = "half-pixel"
    offset: float = 0.0
    antialias: bool = False
    stretch: Literal["step", "sizes"] = "step"
    edge: Edge = "clamp"
    table: int = 0
    rounding: Literal["float64", "float32", "summed", "inverse", "reciprocal"] = "float64"
    outside_is_zero: bool = False


def resize_matrix(rule: Rule, size: int, new_size: int) -> NDArray[np.float64]:
    """The weights of one axis, `(new_size, size)`: new samples are `matrix @ old`.

    Raises:
        PatchParityError: a size below 1.
    """
    if size < 1 or new_size < 1:
        raise PatchParityError(f"an axis of {size} resized to {new_size}: expected positive sizes")
    if rule.kernel == "nearest":
        matrix = np.zeros((new_size, size))
        nearest = nearest_samples(rule, size, new_size)
        matrix[np.arange(new_size), nearest] = 1.0
        return matrix
    if rule.kernel in ("area", "bins", "area-linear"):
        return _matrix_of_bins(rule, size, new_size)
    at, step = _coordinates(rule, size, new_size)
    by = step if rule.stretch == "step" else size / new_size
    stretch = max(by, 1.0) if rule.antialias else 1.0
    reach = math.ceil(SUPPORT[rule.kernel] * stretch)
    start = np.floor(at).astype(np.int64)
    fraction = at - start
    if rule.table:
        fraction = np.rint(fraction * rule.table) / rule.table
    steps = np.arange(-reach, reach + 1)
    taps = start[:, None] + steps
    weights = kernel_values(rule, (fraction[:, None] - steps) / stretch)
    inside = (taps >= 0) & (taps < size)
    if rule.edge in ("drop", "zero"):
        weights = np.where(inside, weights, 0.0)
    if rule.antialias or rule.edge == "drop" or rule.kernel == "lanczos4":
        weights = weights / weights.sum(axis=1, keepdims=True)
    if rule.edge == "mirror" and size > 1:
        around = np.abs(taps) % (2 * size - 2)
        taps = np.minimum(around, 2 * size - 2 - around)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size)[:, None], taps.clip(0, size - 1)), weights)
    if rule.kernel == "spline3":
        matrix = matrix @ _spline_coefficients(size)
    if rule.outside_is_zero:
        matrix[(at < 0) | (at > size - 1)] = 0.0
    return matrix


def _step(rule: Rule, size: int, new_size: int) -> tuple[Any, Any]:
    """The type in which coordinates are computed, and the ratio of the sizes in it."""
    number: Any = np.float32 if rule.rounding in ("float32", "reciprocal") else np.float64
    if rule.rounding == "inverse":
        return number, 1.0 / (new_size / size)
    if rule.rounding == "reciprocal":
        return number, number(size) * (number(1) / number(new_size))
    return number, number(size) / number(new_size + rule.offset)


def _coordinates(rule: Rule, size: int, new_size: int) -> tuple[NDArray[np.float64], float]:
    """Where new samples lie among the old ones, and how far apart."""
    number, step = _step(rule, size, new_size)
    new, half = np.arange(new_size).astype(number), number(0.5)
    corners = number(size - 1) / number(new_size - 1) if new_size > 1 else number(0)
    at, apart = {
        "half-pixel": ((new + half) * step - half, step),
        "half-pixel-or-first": ((new + half) * step - half if new_size > 1 else new, step),
        "align-corners": (new * corners, corners),
        "asymmetric": (new * step, step),
        "shifted-corners": ((new + half) * corners - half, corners),
    }[rule.coordinates]
    return at.astype(np.float64), float(apart)


def kernel_values(rule: Rule, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rule's kernel at distances, of any shape, in samples."""
    x, a = np.abs(distance), rule.a
    if rule.kernel == "linear":
        return np.maximum(1.0 - x, 0.0)
    if rule.kernel == "cubic":
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    if rule.kernel == "spline3":
        near = 2 / 3 - x * x * (2 - x) / 2
        return np.where(x <= 1, near, np.maximum(2 - x, 0.0) ** 3 / 6)
    if rule.kernel == "box":
        return ((distance >= -0.5) & (distance < 0.5)).astype(np.float64)
    if rule.kernel == "mitchell":
        near = (7 * x - 12) * x * x / 6 + 8 / 9
        far = ((-7 * x + 36) * x - 60) * x / 18 + 16 / 9
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    if rule.kernel == "hamming":
        return np.where(x < 1, np.sinc(x) * (0.54 + 0.46 * np.cos(np.pi * x)), 0.0)
    lobes = SUPPORT[rule.kernel]
    return np.where(x < lobes, np.sinc(x) * np.sinc(x / lobes), 0.0)


def _spline_coefficients(size: int) -> NDArray[np.float64]:
    """The coefficients of the cubic B-spline through samples that are mirrored at the edges,
    `(size, size)`."""
    if size == 1:
        return np.ones((1, 1))
    values = np.zeros((size, size))
    index = np.arange(size)
    for step, weight in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
        around = np.abs(index + step) % (2 * size - 2)
        np.add.at(values, (index, np.minimum(around, 2 * size - 2 - around)), weight)
    return np.asarray(np.linalg.inv(values))


def nearest_samples(rule: Rule, size: int, new_size: int) -> NDArray[np.int64]:
    """The old sample that each new one is, `(new_size,)`, of `nearest`."""
    if rule.rounding == "summed":  # Pillow adds up steps, and their rounding errors
        step = size / new_size
        at = np.add.accumulate(np.concatenate([[step * 0.5], np.full(new_size - 1, step)]))
    elif rule.coordinates == "half-pixel":
        # (i + ½)·step lies in old sample floor(…); a coordinate would be less by ½, and a rounding
        number, step = _step(rule, size, new_size)
        at = (np.arange(new_size).astype(number) + number(0.5)) * step
    else:
        at, _ = _coordinates(rule, size, new_size)
    return np.floor(at).astype(np.int64).clip(0, size - 1)


def _matrix_of_bins(rule: Rule, size: int, new_size: int) -> NDArray[np.float64]:
    """The weights of the kernels that are no function of a distance."""
    new, matrix = np.arange(new_size), np.zeros((new_size, size))
    if rule.kernel == "bins":
        starts, ends = new * size // new_size, -(-(new + 1) * size // new_size)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            matrix[i, start:end] = 1 / (end - start)
    elif rule.kernel == "area":
        low, high = (new[:, None] * (size / new_size), (new[:, None] + 1) * (size / new_size))
        old = np.arange(size)
        share = np.clip(np.minimum(high, old + 1) - np.maximum(low, old), 0, None)
        matrix = share / share.sum(axis=1, keepdims=True)
    else:
        by = new_size / size
        start = np.floor(new * (1.0 / by)).astype(np.int64)
        over = ((new + 1) - (start + 1) * by).astype(np.float32)  # a tie depends on it
        fraction = np.where(over <= 0, 0.0, over - np.floor(over))
        np.add.at(matrix, (new, start.clip(0, size - 1)), 1 - fraction)
        np.add.at(matrix, (new, (start + 1).clip(0, size - 1)), fraction)
    return matrix


def resize_axes(
    table: NDArray[Any],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    dtype: DTypeLike = np.float64,
) -> NDArray[Any]:
    """Apply two weight matrices to a grid of vectors.

    Args:
        table: `(H, W, D)`.
        rows: `(H', H)`.
        columns: `(W', W)`.
        dtype: in which weights and values are multiplied and summed up.

    Returns:
        `(H', W', D)`, of `dtype`.
    """
    height, width, depth = table.shape
    values = np.ascontiguousarray(table, dtype)
    down, across = rows.astype(dtype), columns.astype(dtype)
    # the axis first that makes less of it: fewer products
    if len(rows) * width <= len(columns) * height:
        narrow = (down @ values.reshape(height, width * depth)).reshape(-1, width, depth)
        return np.asarray(np.matmul(across, narrow))
    narrow = np.matmul(across, values)
    return np.asarray((down @ narrow.reshape(height, -1)).reshape(len(rows), -1, depth))


def resize_bound(
    rules: tuple[Rule, Rule],
    sizes: Sequence[int],
    new_sizes: Sequence[int],
    largest: float,
    unit: float,
) -> float:
    """How far the resizing of another implementation, in a type of unit roundoff `unit`, may lie
    from that in float64, for each value.

    A coordinate below n has the error 4·u·n of its four roundings (step, half, product, sum), which
    moves a row's weights by that times the kernel's variation; scaling them to sum 1 at most
    doubles it. Products and sums add (taps + 2)·u·Σ|w|. The other axis takes it times its own
    Σ|w|.

    Args:
        rules: of rows and of columns.
        sizes, new_sizes: rows and columns, before and after.
        largest: value of the table, as a magnitude.
        unit: 2⁻²⁴ for float32.
    """
    norms, errors = [], []
    for rule, size, new_size in zip(rules, sizes, new_sizes, strict=True):
        matrix = resize_matrix(rule, size, new_size)
        norm = max(float(np.abs(matrix).sum(axis=1).max()), 1.0)
        taps = int((matrix != 0).sum(axis=1).max())
        scaled = 2 if rule.antialias or rule.edge == "drop" else 1
        variation = scaled * VARIATION.get(rule.kernel, 2)
        moved = 4 * unit * max(size, 1) * variation
        norms.append(norm)
        errors.append(moved + (taps + 2) * unit * norm)
    return largest * (errors[0] * norms[1] + errors[1] * norms[0])
