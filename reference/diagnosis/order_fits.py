"""The right tokens, images or channels in another order."""

from collections.abc import Iterator

import numpy as np

from ..pipeline import Array, Pipeline
from .fit import Fit, matching, rms
from .forms import Form

GRID_ORDER = "keep the order of the grid: by row, then column"
COLUMN_MAJOR = "tokens are in column-major order: down the columns of the grid first"
FLIPPED_ACROSS = (
    "the tokens of each row of patches are in reverse: the grid was flipped left to right"
)
FLIPPED_DOWN = "the rows of patches are in reverse: the grid was flipped top to bottom"


def order_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right tokens, images or channels in another order."""
    for search in (
        _turned_grids,
        _viewed,
        _prefix_behind,
        _permuted_tokens,
        _permuted_images,
        _permuted_width,
        _permuted_kernel_rows,
    ):
        yield from search(p, correct, observed)


def _viewed(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    batch, rows, width = correct.shape
    if rows == 1 or width == 1:
        return
    viewed = np.ascontiguousarray(correct).reshape(batch, width, rows).transpose(0, 2, 1)
    words = "the memory of (B, N, D) was viewed as (B, D, N), which was then transposed"
    mend = "drop view and transpose: the tokens were (B, N, D) already"
    yield Fit("tokens-viewed", words, mend, rms(observed - viewed))


def _turned_grids(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    batch, rows, width = correct.shape
    grid = p.spec.grid
    if len(grid) != 2 or rows != p.spec.num_patches:
        return
    turned = correct.reshape(batch, *grid, width)
    views = {
        (
            "tokens-flipped-across",
            FLIPPED_ACROSS,
        ): turned[:, :, ::-1],
        (
            "tokens-flipped-down",
            FLIPPED_DOWN,
        ): turned[:, ::-1],
        ("tokens-reversed", "the tokens are in reverse order"): turned[:, ::-1, ::-1],
    }
    for (name, explanation), view in views.items():
        yield Fit(name, explanation, GRID_ORDER, rms(observed - view.reshape(correct.shape)))
    if grid[0] == grid[1]:
        yield Fit(
            "tokens-column-major",
            COLUMN_MAJOR,
            "order tokens by row, then column",
            rms(observed - turned.transpose(0, 2, 1, 3).reshape(correct.shape)),
        )


def _prefix_behind(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    prefix = correct.shape[1] - p.spec.num_patches
    if prefix > 0:
        last = np.concatenate([correct[:, prefix:], correct[:, :prefix]], axis=1)
        yield Fit(
            "prefix-last",
            "the prefix tokens stand behind the patches",
            "put class and register tokens in front",
            rms(observed - last),
        )


def order_form(order: Array, grid: tuple[int, ...]) -> Form:
    """What was done to tokens of which these are now the places: id, explanation, remedy."""
    rows, places = len(order), np.arange(len(order))
    if len(grid) == 2 and rows == grid[0] * grid[1]:
        held = places.reshape(grid)
        for name, words, turned in (
            ("tokens-column-major", COLUMN_MAJOR, held.T),
            ("tokens-flipped-across", FLIPPED_ACROSS, held[:, ::-1]),
            ("tokens-flipped-down", FLIPPED_DOWN, held[::-1]),
        ):
            if (order == turned.ravel()).all():
                return name, words, GRID_ORDER
    if (order == places[::-1]).all():
        return "tokens-reversed", "the tokens are in reverse order", GRID_ORDER
    shift = int(order[0]) % rows
    by = -shift if 2 * shift <= rows else rows - shift
    words = "the tokens were permuted, the same way in every image"
    if (order == np.roll(places, -shift)).all():
        words = f"the tokens were rolled by {by}"
    return "tokens-permuted", words, "keep the order of the grid"


def _permuted_tokens(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    order, rows = matching(correct[0], observed[0]), correct.shape[1]
    if order is None or (order == np.arange(rows)).all():
        return
    form = order_form(order, p.spec.grid)
    left = rms(observed - correct[:, order])
    yield Fit(*form, left)


def _permuted_images(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    batch = len(correct)
    if batch == 1:
        return
    images = matching(correct.reshape(batch, -1), observed.reshape(batch, -1))
    if images is not None and (images != np.arange(batch)).any():
        explanation = "the images of the batch were exchanged"
        left = rms(observed - correct[images])
        yield Fit("images-permuted", explanation, "keep the order of the batch", left)


def _permuted_width(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    width = correct.shape[-1]
    columns = matching(correct.reshape(-1, width).T, observed.reshape(-1, width).T)
    if columns is None or (columns == np.arange(width)).all():
        return
    explanation = (
        "the output channels are in reverse"
        if (columns == np.arange(width)[::-1]).all()
        else "the output channels were permuted"
    )
    left = rms(observed - correct[..., columns])
    yield Fit("width-permuted", explanation, "keep the order of the kernel's rows", left)


def _permuted_kernel_rows(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    if p.weights.bias is None or p.to_sequence:
        return
    width, bias = correct.shape[-1], p.weights.bias.astype(np.float64)
    plain = correct - bias
    columns = matching(plain.reshape(-1, width).T, (observed - bias).reshape(-1, width).T)
    if columns is not None and (columns != np.arange(width)).any():
        explanation = "the rows of the kernel are in another order than the bias"
        left = rms(observed - plain[..., columns] - bias)
        yield Fit("kernel-rows-permuted", explanation, "keep the order of the kernel's rows", left)
