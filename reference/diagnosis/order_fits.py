"""The right tokens, images or channels in another order."""

from collections.abc import Iterator

import numpy as np

from ..pipeline import Array, Pipeline
from .fit import Fit, matching, rms


def order_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right tokens, images or channels in another order."""
    batch, rows, width = correct.shape
    patches = p.spec.num_patches
    grid = p.spec.grid
    if len(grid) == 2 and rows == patches:
        turned = correct.reshape(batch, *grid, width)
        views = {
            (
                "tokens-flipped-across",
                "the tokens of each row of patches are in reverse: the grid was flipped left to "
                "right",
            ): turned[:, :, ::-1],
            (
                "tokens-flipped-down",
                "the rows of patches are in reverse: the grid was flipped top to bottom",
            ): turned[:, ::-1],
            ("tokens-reversed", "the tokens are in reverse order"): turned[:, ::-1, ::-1],
        }
        for (name, told), view in views.items():
            yield Fit(
                name,
                told,
                "keep the order of the grid: by row, then column",
                rms(observed - view.reshape(correct.shape)),
            )
        if grid[0] == grid[1]:
            yield Fit(
                "tokens-column-major",
                "tokens are in column-major order: down the columns of the grid first",
                "order tokens by row, then column",
                rms(observed - turned.transpose(0, 2, 1, 3).reshape(correct.shape)),
            )
    prefix = rows - patches
    if prefix > 0:
        last = np.concatenate([correct[:, prefix:], correct[:, :prefix]], axis=1)
        yield Fit(
            "prefix-last",
            "the prefix tokens stand behind the patches",
            "put class and register tokens in front",
            rms(observed - last),
        )
    order = matching(correct[0], observed[0])
    if order is not None and (order != np.arange(rows)).any():
        shift = int(order[0]) % rows
        by = -shift if 2 * shift <= rows else rows - shift
        told = (
            f"the tokens were rolled by {by}"
            if (order == np.roll(np.arange(rows), -shift)).all()
            else "the tokens were permuted, the same way in every image"
        )
        yield Fit(
            "tokens-permuted", told, "keep the order of the grid", rms(observed - correct[:, order])
        )
    if batch > 1:
        images = matching(correct.reshape(batch, -1), observed.reshape(batch, -1))
        if images is not None and (images != np.arange(batch)).any():
            yield Fit(
                "images-permuted",
                "the images of the batch were exchanged",
                "keep the order of the batch",
                rms(observed - correct[images]),
            )
    columns = matching(correct.reshape(-1, width).T, observed.reshape(-1, width).T)
    if columns is not None and (columns != np.arange(width)).any():
        told = (
            "the output channels are in reverse"
            if (columns == np.arange(width)[::-1]).all()
            else "the output channels were permuted"
        )
        yield Fit(
            "width-permuted",
            told,
            "keep the order of the kernel's rows",
            rms(observed - correct[..., columns]),
        )
    if p.weights.bias is not None and not p.to_sequence:
        bias = p.weights.bias.astype(np.float64)
        plain = correct - bias
        columns = matching(plain.reshape(-1, width).T, (observed - bias).reshape(-1, width).T)
        if columns is not None and (columns != np.arange(width)).any():
            told = "the rows of the kernel are in another order than the bias"
            yield Fit(
                "kernel-rows-permuted",
                told,
                "keep the order of the kernel's rows",
                rms(observed - plain[..., columns] - bias),
            )
