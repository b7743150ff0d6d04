"""What an output shows itself of a mistake, taken back: its shape, an order of its tokens, its
images or its channels."""

from collections.abc import Iterator

import numpy as np

from ..pipeline import Array, Pipeline
from .fit import matching
from .forms import Form
from .order_fits import order_form
from .shapes import other_shapes, with_tokens_missing


def undone(
    p: Pipeline, correct: Array, observed: Array
) -> Iterator[tuple[Form | None, Pipeline, Array, Array]]:
    """The output with a shape or an order taken back that it shows itself, beside what it is then
    held against."""
    yield None, p, correct, observed
    if correct.ndim != 3 or not (
        correct[:, : p.spec.num_patches].size <= observed.size <= correct.size
        or observed.size == correct[:, 1:].size
    ):
        return
    for other in other_shapes(correct.shape, p.spec.grid):
        if other.made(correct).shape == observed.shape != correct.shape:
            yield other.form, p, correct, other.back(observed)
    for form, kept in with_tokens_missing(p, correct).items():
        if kept.shape == observed.shape:
            yield form, p, kept, observed
    if observed.shape == correct.shape:
        yield from _unpermuted(p, correct, observed)


def _unpermuted(
    p: Pipeline, correct: Array, observed: Array
) -> Iterator[tuple[Form | None, Pipeline, Array, Array]]:
    batch, rows, width = correct.shape
    order = matching(correct[0], observed[0])
    if order is not None and (order != np.arange(rows)).any():
        yield (
            order_form(order, p.spec.grid),
            p,
            correct,
            observed[:, np.argsort(order)],
        )
    if batch > 1:
        images = matching(correct.reshape(batch, -1), observed.reshape(batch, -1))
        if images is None or (images == np.arange(batch)).all():
            # whatever the order of their tokens
            images = matching(
                np.sort(correct, axis=1).reshape(batch, -1),
                np.sort(observed, axis=1).reshape(batch, -1),
            )
        if images is not None and (images != np.arange(batch)).any():
            explanation = "the images of the batch were exchanged"
            yield (
                ("images-permuted", explanation, "keep the order of the batch"),
                p,
                correct,
                observed[np.argsort(images)],
            )
    if p.weights.bias is not None and not p.to_sequence and len(p.weights.bias) == width:
        bias = p.weights.bias.astype(np.float64)
        columns = matching(
            (correct - bias).reshape(-1, width).T, (observed - bias).reshape(-1, width).T
        )
        if columns is not None and (columns != np.arange(width)).any():
            explanation = "the rows of the kernel are in another order than the bias"
            restored = (observed - bias)[..., np.argsort(columns)] + bias
            yield (
                ("kernel-rows-permuted", explanation, "keep the order of the kernel's rows"),
                p,
                correct,
                restored,
            )
    columns = matching(correct.reshape(-1, width).T, observed.reshape(-1, width).T)
    if columns is not None and (columns != np.arange(width)).any():
        explanation = "the output channels were permuted"
        yield (
            ("width-permuted", explanation, "keep the order of the kernel's rows"),
            p,
            correct,
            observed[..., np.argsort(columns)],
        )
