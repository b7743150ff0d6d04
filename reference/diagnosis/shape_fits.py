"""The right values in another shape, or with a token too many or too few."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import numpy as np

from ..pipeline import Array, Pipeline
from .fit import Fit, rms
from .forms import Form, other_sizes


def shape_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right values in another shape, or with a token too many or too few."""
    batch, rows, width = correct.shape
    grid = p.spec.grid
    if rows == math.prod(grid):
        forms = {
            (
                "grid-unflattened",
                "the grid was left unflattened, (B, D, rows, columns)",
                "flatten(2).transpose(1, 2)",
            ): np.moveaxis(correct.reshape(batch, *grid, width), -1, 1),
            (
                "grid-unflattened-last",
                "the grid was left unflattened, (B, rows, columns, D)",
                "reshape it to (B, rows·columns, D)",
            ): correct.reshape(batch, *grid, width),
            **_merged(correct, grid),
        }
        for (name, explanation, mend), form in forms.items():
            if form.shape == observed.shape:
                yield Fit(name, explanation, mend, rms(observed - form))
    forms = {
        (
            "batch-behind-tokens",
            "the tokens come before the batch, (N, B, D)",
            "transpose(0, 1)",
        ): correct.transpose(1, 0, 2),
        (
            "batch-flattened",
            "batch and tokens were merged, (B·N, D)",
            "reshape it to (B, N, D)",
        ): correct.reshape(-1, width),
        (
            "tokens-flattened",
            "tokens and width were merged, (B, N·D)",
            "reshape it to (B, N, D)",
        ): correct.reshape(batch, -1),
        (
            "last-token-missing",
            "the last token is missing",
            "look for a loop or slice that ends one too early",
        ): correct[:, :-1],
        **without_prefix(p, correct),
        (
            "first-token-missing",
            "the first token is missing",
            "look for a slice that takes a class token away where there is none",
        ): correct[:, 1:],
    }
    for (name, explanation, mend), form in forms.items():
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


def _merged(correct: Array, grid: tuple[int, ...]) -> dict[Form, Array]:
    """Grids of which other axes were merged than rows and columns."""
    if len(grid) != 2:
        return {}
    batch, _, width = correct.shape
    last = correct.reshape(batch, *grid, width)
    mend = "reshape (B, rows, columns, D) to (B, rows·columns, D)"
    words = "flatten joined the columns of the grid with the width: (B, rows, columns·D)"
    joined = last.reshape(batch, grid[0], -1)
    first = correct.transpose(0, 2, 1)
    whole = "flatten began one axis too early: (B, D·rows·columns)"
    return {
        ("flatten-wrong-axes", words, mend): joined,
        ("flatten-wrong-axes", f"{words}, transposed", mend): joined.transpose(0, 2, 1),
        ("flatten-wrong-axes", whole, "flatten(2), then transpose(1, 2)"): first.reshape(batch, -1),
    }


def without_prefix(p: Pipeline, correct: Array) -> dict[Form, Array]:
    """The right sequence without some of its prefix tokens, or all."""
    weights, forms = p.weights, {}
    if not p.to_sequence or not weights.num_prefix_tokens:
        return {}
    places, row = {}, 0
    for name in (*weights.layout.ahead, None, *weights.layout.behind):
        count = p.spec.num_patches if name is None else weights.prefix_rows(name)
        if name is not None and count:
            places[name] = range(row, row + count)
        row += count
    for count in range(len(places), 0, -1):
        for names in itertools.combinations(places, count):
            gone = [row for name in names for row in places[name]]
            words = " and ".join(name.replace("_", " ") for name in names)
            verb = "is" if len(gone) == 1 else "are"
            explanation = (
                f"the {words} {verb} missing"
                if count < len(places)
                else ("the prefix tokens are missing")
            )
            form = (
                "prefix-missing",
                explanation,
                "concatenate class, distillation and register tokens",
            )
            forms[form] = np.delete(correct, gone, axis=1)
    return forms


def size_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right kernel at another stride, or with another padding."""
    if p.to_sequence:
        return
    for (name, words, mend), other in other_sizes(p.spec):
        if (len(p.images), other.num_patches, other.embed_dim) == observed.shape:
            prediction = dataclasses.replace(p, spec=other).run(np.float64)
            yield Fit(name, words, mend, rms(observed - prediction))
