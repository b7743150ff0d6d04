"""Other shapes of the right tokens, and tokens that may be missing: what each is called, how it is
made of the right ones, and how it is taken back."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..pipeline import Array, Pipeline
from .forms import Form


@dataclass(frozen=True)
class OtherShape:
    """A shape that tokens `(B, N, D)` were left in.

    Args:
        form: id, explanation and remedy.
        made: it, of the right tokens.
        back: the tokens, of it.
    """

    form: Form
    made: Callable[[Array], Array]
    back: Callable[[Array], Array]


def other_shapes(shape: tuple[int, ...], grid: tuple[int, ...]) -> Iterator[OtherShape]:
    """The shapes that tokens of this one are left in, of the grid where they are all patches."""
    batch, rows, width = shape
    if rows == math.prod(grid):
        yield from _of_grid(shape, grid)
    yield OtherShape(
        ("tokens-not-transposed", "tokens were left as (B, D, N)", "transpose(1, 2)"),
        lambda tokens: tokens.swapaxes(1, 2),
        lambda output: output.swapaxes(1, 2),
    )
    if rows != batch:
        words = "the tokens come before the batch, (N, B, D)"
        yield OtherShape(
            ("batch-behind-tokens", words, "transpose(0, 1)"),
            lambda tokens: tokens.swapaxes(0, 1),
            lambda output: output.swapaxes(0, 1),
        )
    for name, words, merged in (
        ("batch-flattened", "batch and tokens were merged, (B·N, D)", (-1, width)),
        ("tokens-flattened", "tokens and width were merged, (B, N·D)", (batch, -1)),
    ):
        yield OtherShape(
            (name, words, "reshape it to (B, N, D)"), _to(merged), _to((batch, rows, width))
        )


def _to(shape: tuple[int, ...]) -> Callable[[Array], Array]:
    return lambda array: array.reshape(shape)


def _of_grid(shape: tuple[int, ...], grid: tuple[int, ...]) -> Iterator[OtherShape]:
    batch, rows, width = shape
    yield OtherShape(
        (
            "grid-unflattened",
            "the grid was left unflattened, (B, D, rows, columns)",
            "flatten(2).transpose(1, 2)",
        ),
        lambda tokens: np.moveaxis(tokens.reshape(batch, *grid, width), -1, 1),
        lambda output: output.reshape(batch, width, rows).swapaxes(1, 2),
    )
    yield OtherShape(
        (
            "grid-unflattened-last",
            "the grid was left unflattened, (B, rows, columns, D)",
            "reshape it to (B, rows·columns, D)",
        ),
        _to((batch, *grid, width)),
        _to(shape),
    )
    if len(grid) != 2:
        return
    mend = "reshape (B, rows, columns, D) to (B, rows·columns, D)"
    words = "flatten joined the columns of the grid with the width: (B, rows, columns·D)"
    joined, back = _to((batch, grid[0], -1)), _to(shape)
    yield OtherShape(("flatten-wrong-axes", words, mend), joined, back)
    yield OtherShape(
        ("flatten-wrong-axes", f"{words}, transposed", mend),
        lambda tokens: joined(tokens).swapaxes(1, 2),
        lambda output: back(output.swapaxes(1, 2)),
    )
    whole = "flatten began one axis too early: (B, D·rows·columns)"
    yield OtherShape(
        ("flatten-wrong-axes", whole, "flatten(2), then transpose(1, 2)"),
        lambda tokens: tokens.swapaxes(1, 2).reshape(batch, -1),
        lambda output: output.reshape(batch, width, rows).swapaxes(1, 2),
    )


def with_tokens_missing(p: Pipeline, correct: Array) -> dict[Form, Array]:
    """The right output without its last token, its first, or some of its prefix tokens."""
    last, first = "the last token is missing", "the first token is missing"
    forms: dict[Form, Array] = {
        (
            "last-token-missing",
            last,
            "look for a loop or slice that ends one too early",
        ): correct[:, :-1],
        **without_prefix(p, correct),
    }
    mend = "look for a slice that takes a class token away where there is none"
    forms["first-token-missing", first, mend] = correct[:, 1:]
    return forms


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
