"""Grids resized: one separable rule, and the rules of torch by name."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError

Coordinates = Literal["half-pixel", "align-corners", "shifted-corners"]
Edge = Literal["clamp", "drop", "zero"]


@dataclass(frozen=True)
class Rule:
    """How one axis is resized, each axis by itself.

    Args:
        kernel: `linear`, or `cubic` (Keys, 1981).
        a: the cubic kernel's value; the slope at distance 1.
        coordinates: where new sample i lies among the old ones, with step = old/new: `half-pixel`,
            (i + ½)·step − ½; `align-corners`, i·(old − 1)/(new − 1); `shifted-corners`, (i +
            ½)·(old − 1)/(new − 1) − ½, which torch computes where it is asked for both antialias
            and aligned corners.
        antialias: whether the kernel is stretched by the step where the grid shrinks.
        edge: what a sample outside of the grid is: `clamp`, the sample at the edge; `drop`, none,
            and the weights of the others sum to 1; `zero`.
    """

    kernel: Literal["linear", "cubic"] = "linear"
    a: float = -0.75
    coordinates: Coordinates = "half-pixel"
    antialias: bool = False
    edge: Edge = "clamp"


def _torch(kernel: Literal["linear", "cubic"]) -> dict[str, Rule]:
    name = {"linear": "torch-bilinear", "cubic": "torch-bicubic"}[kernel]
    return {
        name: Rule(kernel),
        f"{name}-align-corners": Rule(kernel, coordinates="align-corners"),
        f"{name}-antialias": Rule(kernel, -0.5, antialias=True, edge="drop"),
        f"{name}-antialias-align-corners": Rule(
            kernel, -0.5, "shifted-corners", antialias=True, edge="drop"
        ),
    }


RECIPES: dict[str, Rule] = {
    **_torch("linear"),
    **_torch("cubic"),
    "torch-bilinear-zeros": Rule(edge="zero"),
}
"""Rules by name: those of `torch.nn.functional.interpolate`, which has another `a` where it
antialiases; and `torch-bilinear-zeros`, that of `grid_sample` with its default padding."""


def resize_matrix(rule: Rule, size: int, new_size: int) -> NDArray[np.float64]:
    """The weights of one axis, `(new_size, size)`: new samples are `matrix @ old`.

    Raises:
        PatchParityError: a size below 1.
    """
    if size < 1 or new_size < 1:
        raise PatchParityError(f"an axis of {size} resized to {new_size}: expected positive sizes")
    new = np.arange(new_size)
    corners = (size - 1) / (new_size - 1) if new_size > 1 else 0.0
    at, step = {
        "half-pixel": ((new + 0.5) * (size / new_size) - 0.5, size / new_size),
        "align-corners": (new * corners, corners),
        "shifted-corners": ((new + 0.5) * corners - 0.5, corners),
    }[rule.coordinates]
    stretch = max(step, 1.0) if rule.antialias else 1.0
    reach = math.ceil((1 if rule.kernel == "linear" else 2) * stretch)
    taps = np.floor(at).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    weights = _kernel(rule, (at[:, None] - taps) / stretch)
    inside = (taps >= 0) & (taps < size)
    if rule.edge != "clamp":
        weights = np.where(inside, weights, 0.0)
    if rule.antialias or rule.edge == "drop":
        weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (new[:, None], taps.clip(0, size - 1)), weights)
    return matrix


def _kernel(rule: Rule, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x, a = np.abs(distance), rule.a
    if rule.kernel == "linear":
        return np.maximum(1.0 - x, 0.0)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_grid(table: NDArray[Any], grid: tuple[int, int], recipe: str) -> NDArray[np.float64]:
    """Resize a grid of vectors.

    Args:
        table: `(rows, columns, D)`.
        grid: new rows and columns.
        recipe: a name of `RECIPES`.

    Returns:
        `(*grid, D)`, float64. A grid of the same size comes out as it is, but for `align-corners`
            with antialias.

    Raises:
        PatchParityError: an unknown recipe, a table of another rank.
    """
    if recipe not in RECIPES:
        raise PatchParityError(
            f"recipe {recipe!r} is unknown; expected one of {', '.join(RECIPES)}"
        )
    if table.ndim != 3:
        raise PatchParityError(f"table of shape {table.shape}: expected (rows, columns, D)")
    rows, columns = (
        resize_matrix(RECIPES[recipe], size, new)
        for size, new in zip(table.shape[:2], grid, strict=True)
    )
    return np.asarray(
        np.einsum("ri,cj,ijd->rcd", rows, columns, table.astype(np.float64), optimize=True)
    )
