"""Mistakes with a number in them, which no list can hold: a scale, a mean, a permutation. They are
fitted to the output, and believed where nothing is left.

Each fit solves for its few numbers by least squares over all values of the output, so that a wrong
one leaves a residual of the output's own size.
"""

import math
from collections.abc import Callable, Iterator

from ..pipeline import Array, Pipeline
from .channel_fits import mixed_fits
from .fit import Fit, rms
from .image_fits import kernel_fits, pixel_fits
from .order_fits import order_fits
from .shape_fits import shape_fits, size_fits
from .table_fits import added_fits
from .value_fits import function_fits, norm_fits, product_fits, scaled_fits


def fits(
    pipeline: Pipeline, correct: Array, observed: Array, allowed: Callable[[float], float]
) -> Iterator[Fit]:
    """Explanations of an output that leave at most `allowed` rms, the simplest kind first.

    Args:
        pipeline: the right program.
        correct: its output, float64.
        observed: what came out instead, float64, finite.
        allowed: rms that rounding may leave, of products multiplied by so much.
    """
    searches: tuple[Callable[..., Iterator[Fit]], ...] = (
        (shape_fits,)
        if observed.shape != correct.shape
        else (
            norm_fits,
            function_fits,
            added_fits,
            order_fits,
            pixel_fits,
            size_fits,
            kernel_fits,
            mixed_fits,
            product_fits,
            scaled_fits,
        )
    )
    before = rms(observed - correct) if observed.shape == correct.shape else math.inf
    for search in searches:
        for fit in search(pipeline, correct, observed):
            if fit.left <= before / 2 and fit.left <= allowed(fit.factor):
                yield fit
