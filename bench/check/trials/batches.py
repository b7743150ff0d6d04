"""Trials of batches of many numbers."""

import functools
from collections.abc import Iterator

import numpy as np

from ....reference.probe import Probe
from ..problems import first_of
from .tried import MOST_OPERATIONS, Outcome, Trial, Tried, not_tried

BATCHES = (*range(4, 11), 12, 16, 17, 20, 24, 32, 33, 48, 64, 100, 128)
"""Batches beside 1, 2 and 3: all small ones, powers of two and the numbers beside them, and those
that people have."""

FEW_BATCHES = (4, 5, 8, 16, 17, 32, 64, 128)
"""Those of a framework that compiles anew for every shape."""


def batches(tried: Tried) -> Iterator[Trial]:
    """Batches of many numbers, all of them the first of one large one, whose answer the
    reference computes once."""
    if tried.live.call.batch:
        return
    spec = tried.small
    eager = tried.live.framework in ("torch", "numpy")
    numbers = sorted({*(BATCHES if eager else FEW_BATCHES), spec.num_patches})
    cheap = [n for n in numbers if n * spec.flops(1) <= MOST_OPERATIONS or n < 9]
    fingerprint = tried.scale is not None
    images = (tried.draw(spec, cheap[-1]) * (tried.scale or 1.0)).astype(tried.live.dtype)
    whole = tried.probe(spec, images, "probabilistic", fingerprint)
    for number in cheap:
        yield f"batch-{number}", functools.partial(_batch, tried, whole, number)
    if len(cheap) < len(numbers):
        name = f"batches-above-{cheap[-1]}"
        yield name, functools.partial(not_tried, "they take seconds")


def _batch(tried: Tried, whole: Probe, number: int) -> Outcome:
    return tried.judged_on(first_of(whole, number), np.array(whole.images[:number]))
