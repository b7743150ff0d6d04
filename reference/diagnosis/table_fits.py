"""What was added to the right tokens: the same to every token, or the same to every image."""

import dataclasses
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from ..pipeline import Array, Pipeline
from ..sequence import assemble_sequence
from .fit import CLOSE, NOTHING, Fit, matching, rms

PREFIX = "concatenate class, distillation and register tokens"
OTHER_PREFIX = "; and the prefix tokens are other ones"
"""What is said beside an explanation of the patches that leaves the prefix tokens unexplained."""


def added_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """What is added to the right tokens: the same to every token, or the same to every image."""
    residual = observed - correct
    constant = residual.mean(axis=(0, 1))
    left = rms(residual - constant)
    yield from _of_bias(p, residual, constant, left)
    yield Fit(
        "constant-added",
        "the same vector was added to every token of every image",
        "look for a second bias, or a token that is added to all",
        left,
        nothing=rms(constant) < NOTHING * rms(correct),
    )
    if len(observed) == 1:
        return
    table = residual.mean(axis=0)
    left = rms(residual - table)
    if p.to_sequence:
        yield from _of_sequence(p, table, left)
        return
    bias = p.weights.bias
    added = 0.0 if bias is None else bias.astype(np.float64)
    if rms(table + correct.mean(0) - added) <= 1e-3 * rms(table):
        return  # what the batch's mean would give, taken away: `pixel_fits` says so
    yield from _of_tokens(p, table, left, nothing=rms(table) < NOTHING * rms(correct))


def _of_bias(p: Pipeline, residual: Array, constant: Array, left: float) -> Iterator[Fit]:
    """A bias that was added another number of times, or in another order."""
    bias = p.weights.bias
    if bias is None or not bias.any():
        return
    held = bias.astype(np.float64)
    factor = 1 + float((constant * held).sum() / (held * held).sum())
    times = f"the bias was added {factor:.6g} times"
    explanation = times if abs(factor) > CLOSE else "the bias was not added"
    left_of_bias = rms(residual - (factor - 1) * held)
    nothing = abs(factor - 1) < NOTHING
    yield Fit("bias-scaled", explanation, "add the bias once", left_of_bias, nothing=nothing)
    total = constant + held
    moved = rms(total - held) > CLOSE * rms(held)
    slack = 1e-3 * float(np.abs(held).max())
    if moved and np.allclose(np.sort(total), np.sort(held), atol=slack):
        yield Fit(
            "bias-permuted",
            "the bias was added in another order",
            "bias and rows of the kernel have one order",
            left,
        )


def _of_tokens(p: Pipeline, table: Array, left: float, nothing: bool) -> Iterator[Fit]:
    """A table that was added to the patches of every image: the weights' own positions, without
    their prefix tokens, or another one."""
    if p.weights.positions is not None:
        if _is_own_table(p, table):
            words = "the weights' positions were added, and the prefix tokens are missing"
            yield Fit("prefix-missing", words, PREFIX, left)
            return
        if beside := _beside_own_table(p, table):
            words = (
                "the weights' positions were added, and the prefix tokens are missing; and "
                f"{beside}"
            )
            yield Fit("prefix-missing", words, f"{PREFIX}; add the bias once", left)
            return
        if _is_own_table(p, table, 0):
            words = (
                "the weights' positions were added from their first row on, which is the prefix "
                "token's, and the prefix tokens are missing"
            )
            mend = "put the prefix tokens in front, then add the positions"
            yield Fit("positions-from-the-first-row", words, mend, left)
            return
    words = (
        "a table that is the same for every image was added to the tokens: fixed positions, that "
        "the weights do not hold"
    )
    mend = (
        "compare the tokens before positions, or give the weights their positions: "
        "PatchEmbedWeights(kernel, bias, positions=table)"
    )
    yield Fit("positions-added", words, mend, left, nothing=nothing)


def _is_own_table(p: Pipeline, table: Array, first: int | None = None) -> bool:
    """Whether what is added to the patches are the weights' own positions, from the patches' first
    row on or from another one."""
    assert p.weights.positions is not None
    first = p.weights.num_positions_ahead if first is None else first
    positions = p.weights.positions[first:][: len(table)]
    return positions.shape == table.shape and rms(table - positions) <= CLOSE * rms(table)


def _beside_own_table(p: Pipeline, table: Array) -> str:
    """What was added to every patch beside the weights' own positions; empty where the table is
    another one."""
    assert p.weights.positions is not None
    held = p.weights.positions[p.weights.num_positions_ahead :][: len(table)].astype(np.float64)
    if held.shape != table.shape:
        return ""
    constant = (table - held).mean(axis=0)
    if rms(table - held - constant) > CLOSE * rms(table):
        return ""
    bias = p.weights.bias
    if bias is not None and rms(constant + bias) <= CLOSE * rms(bias):
        return "the bias was not added"
    return "the same vector was added to every token"


def _sequence_of_nothing(p: Pipeline, positions: Array) -> Array:
    """What prefix tokens and positions alone make of tokens of zeros, `(rows, D)`."""
    weights = dataclasses.replace(p.weights.astype(np.float64), positions=positions)
    nothing = np.zeros((1, p.spec.num_patches, p.spec.embed_dim))
    return assemble_sequence(nothing, weights, p.spec)[0]


def _of_sequence(p: Pipeline, table: Array, left: float) -> Iterator[Fit]:
    """What differs in a sequence, the same way in every image: its prefix tokens, or what is added
    to its patches."""
    ahead = p.weights.num_tokens_ahead
    patches = slice(ahead, ahead + len(table) - p.weights.num_prefix_tokens)
    of_prefix, of_patches = np.delete(table, patches, axis=0), table[patches]
    if len(of_prefix) and rms(of_patches) <= 1e-3 * rms(of_prefix):
        words = (
            "the prefix tokens are other ones: class, distillation or register tokens are zero, "
            "missing or from elsewhere"
        )
        mend = "load the prefix tokens, and their rows of positions"
        yield Fit("prefix-differs", words, mend, left)
    # What explains the patches may leave the prefix tokens unexplained.
    alone = rms(of_prefix) <= 1e-2 * rms(of_patches)
    constant = of_patches.mean(axis=0)
    if rms(of_patches - constant) <= 1e-3 * rms(of_patches):
        words = _vector_in_words(p, constant) + ("" if alone else OTHER_PREFIX)
        yield Fit("constant-added", words, "look for what is added to all patches", left)
    if p.weights.positions is None:
        words = "a table that is the same for every image was added to the tokens"
        mend = "give the weights their positions: PatchEmbedWeights(..., positions=table)"
        yield Fit("positions-added", words, mend, left)
        return
    for fit, times in _of_positions(p, table, patches, left):
        explained = alone or fit.id == "positions-permuted"
        if fit.id == "positions-scaled":
            moved = _sequence_of_nothing(p, times * p.weights.positions)
            moved -= _sequence_of_nothing(p, p.weights.positions)
            left_over = of_prefix - np.delete(moved, patches, axis=0)
            explained = alone or rms(left_over) <= 1e-2 * rms(of_patches)
        words = fit.explanation + ("" if explained else OTHER_PREFIX)
        yield dataclasses.replace(fit, explanation=words)
    words = (
        "what is added to the tokens is the same for every image, and not the weights' "
        "positions: other ones, other rows of them, or another bias or class token"
    )
    yield Fit("positions-differ", words, "load the positions that belong to them", left)


def _vector_in_words(p: Pipeline, constant: Array) -> str:
    """What a vector that was added to all patches is."""
    words = "the same vector was added to the patches"
    for name in ("class_token", "distillation_token", "bias", "mask_token"):
        vector = getattr(p.weights, name)
        if vector is None:
            continue
        if rms(constant - vector) <= 1e-2 * rms(constant):
            words += f": the {name.replace('_', ' ')}"
        if rms(constant + vector) <= 1e-2 * rms(constant):
            words = f"the {name.replace('_', ' ')} was not added to the patches"
    return words


def _of_positions(
    p: Pipeline, table: Array, patches: slice, left: float
) -> Iterator[tuple[Fit, float]]:
    """Positions that were added another number of times, from another row on, rounded, or in
    another order; and how many times they were."""
    weights, of_patches = p.weights, table[patches]
    assert weights.positions is not None
    positions = weights.positions.astype(np.float64)
    held = positions[weights.num_positions_ahead :][: len(of_patches)]
    times = 1 + float((of_patches * held).sum() / max(float((held * held).sum()), 1e-300))
    if rms(of_patches - (times - 1) * held) <= 1e-2 * rms(of_patches):
        told = f"the positions were added {times:.6g} times"
        words = "the positions were not added" if abs(times) < CLOSE else told
        yield Fit("positions-scaled", words, "add the positions once", left), times
    if held.shape != of_patches.shape:
        return
    found = of_patches + held
    first = positions[: len(found)]
    moved = weights.num_positions_ahead and len(held) < len(positions)
    if moved and rms(found - first) <= 1e-2 * rms(held):
        yield (
            Fit(
                "positions-from-the-first-row",
                "the patches were given the rows of positions from the first one on, which is the "
                "prefix token's",
                "the first rows belong to the prefix tokens: add positions after these are put in "
                "front, or begin behind their rows",
                left,
            ),
            1.0,
        )
    for name, kind in (("bfloat16", ml_dtypes.bfloat16), ("float16", np.float16)):
        rounded = held.astype(kind).astype(np.float64)
        if rms(found - rounded) <= 1e-1 * rms(held - rounded):
            words = f"the positions were rounded to {name}"
            yield (
                Fit("positions-rounded", words, "keep the positions in the type they have", left),
                1.0,
            )
    pairs = [(held, found)]
    if table.shape == positions.shape:  # rows of prefix tokens may be among those exchanged
        pairs.append((positions, table + positions))
    for right, seen in pairs:
        order = matching(right, seen)
        if order is None or (order == np.arange(len(right))).all():
            continue
        if rms(seen - right[order]) <= 1e-2 * rms(right):
            words = "the positions were added in another order"
            mend = "order positions as the patches: by row, then column"
            yield Fit("positions-permuted", words, mend, left), 1.0
            return
