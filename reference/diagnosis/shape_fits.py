"""The right values in another shape, or with a token too many or too few."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..mistakes import CATALOGUE
from ..pipeline import Array, Pipeline
from .fit import Fit, rms
from .forms import other_sizes
from .shapes import other_shapes, with_tokens_missing


def shape_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right values in another shape, or with a token too many or too few."""
    batch, rows, width = correct.shape
    forms = {
        other.form: other.made(correct)
        for other in other_shapes(correct.shape, p.spec.grid)
        if other.form[0] not in CATALOGUE
    }
    for (name, explanation, mend), form in {**forms, **with_tokens_missing(p, correct)}.items():
        if form.shape == observed.shape:
            yield Fit(name, explanation, mend, rms(observed - form))
    yield from size_fits(p, correct, observed)
    if (
        observed.ndim == 3
        and observed.shape[0] == batch
        and observed.shape[2] == width
        and observed.shape[1] > rows
    ):
        extra = observed.shape[1] - rows
        for place, rest, more in (
            ("in front of", observed[:, extra:], observed[:, :extra]),
            ("behind", observed[:, :rows], observed[:, rows:]),
        ):
            if not (more - more[:1]).any():
                tokens, stand = (
                    ("token that is", "stands") if extra == 1 else ("tokens that are", "stand")
                )
                explanation = (
                    f"{extra} {tokens} the same for every image {stand} {place} the patches"
                )
                yield Fit(
                    "prefix-added",
                    explanation,
                    "compare the tokens alone, or give the weights their class and register tokens",
                    rms(rest - correct),
                )


def size_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right kernel at another stride, or with another padding."""
    if p.to_sequence:
        return
    for (name, words, mend), other in other_sizes(p.spec):
        if (len(p.images), other.num_patches, other.embed_dim) == observed.shape:
            prediction = dataclasses.replace(p, spec=other).run(np.float64)
            yield Fit(name, words, mend, rms(observed - prediction))
