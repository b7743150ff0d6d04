"""What was done to the right values, token by token or value by value: a function, a factor, a
sum."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from ..pipeline import Array, Pipeline
from .fit import CLOSE, Fit, rms
from .forms import FUNCTIONS, OVER_TOKENS, OVER_WIDTH, SLOW

LEAST_ROWS = 8
"""Tokens that each channel must have where two numbers are solved for it."""

EXPLAINED = 1e-2
"""Share of what differs from token to token that a fit of factors and summands may leave: the
summands alone leave all of it."""

MOST_OF_THEM = 0.9
"""Share of channels that must have changed where all are said to have."""

FEW = 4096
UNLIKELY = 0.1
"""Values that a function is tried on first, and what of them it must explain: of another one it
leaves a fifth and more."""

LEAST_KEPT = 0.95
"""Share of zeros from which on what is left says nothing of a dropout."""


UNCLAMPED = 0.05
"""Least share of values that a clamp leaves alone, or that it sends to either end, where it is
believed: clamped to one end altogether, any output is."""


NORMS = ", or give the weights the norm that belongs there (token_norm)"
"""What the mend of a norm adds."""


def told(factor: float) -> str:
    """A factor in words: six digits, and of one that is nearly 1 two digits of the difference."""
    digits = 6 if factor == 1 else max(6, 2 - math.floor(math.log10(abs(factor - 1))))
    return f"{factor:.{min(digits, 16)}g}"


def function_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """A function of each right value, or of each right token."""
    square = float((correct * correct).sum())
    scale = float((correct * observed).sum()) / square if square else 1.0
    if scale != 1.0:
        known = {
            255.0: ": pixels at 0..255 that should have been divided by 255",
            1 / 255: ": pixels that were divided by 255 once too often",
        }
        why = (
            next(
                (reason for factor, reason in known.items() if abs(scale / factor - 1) < CLOSE), ""
            )
            if p.weights.bias is None
            else ""
        )
        explanation = f"the output is {told(scale)} times what it should be{why}"
        yield Fit(
            "output-scaled",
            explanation,
            f"look for a factor of {told(scale)} before or behind the projection",
            rms(observed - scale * correct),
            abs(scale),
        )
    zero = observed == 0
    if 2 <= int(zero.sum()) < LEAST_KEPT * zero.size and (correct[zero] != 0).all():
        kept = ~zero
        factor = float((correct[kept] * observed[kept]).sum()) / float(
            (correct[kept] ** 2).sum() or 1.0
        )
        share = float(zero.mean())
        explanation = (
            f"{share:.3g} of the values are zero, and the others {factor:.6g} times what they "
            "should be: dropout in train mode"
        )
        if factor > 1 + CLOSE:  # else it is a ReLU, or something that sets values to zero
            yield Fit(
                "dropout",
                explanation,
                "call .eval(), or set the rate to 0",
                rms(observed - np.where(zero, 0, factor * correct)),
            )
    yield from _functions(correct, observed)
    lowest, highest = float(observed.min()), float(observed.max())
    inside = float(np.mean((observed > lowest) & (observed < highest)))
    ends = min(float(np.mean(observed == end)) for end in (lowest, highest))
    if inside > UNCLAMPED or (lowest < highest and ends > UNCLAMPED):
        left = rms(observed - correct.clip(lowest, highest))
        below, above = (float(edge) for edge in (correct.min(), correct.max()))
        slack = CLOSE * (highest - lowest)
        limits = [f"at least {lowest:.6g}"] if below < lowest - slack else []
        limits += [f"at most {highest:.6g}"] if above > highest + slack else []
        if limits:
            words = f"the output was clamped to {' and '.join(limits)}"
            yield Fit("output-clamped", words, "remove the clamp", left)
    largest = float(np.abs(observed).max(initial=0))
    for digits in range(1, 7):
        scaled = observed * 10**digits
        if largest >= 10.0**-digits and np.abs(np.rint(scaled) - scaled).max() < 1e-2:
            yield Fit(
                "output-decimals",
                f"the output was rounded to {digits} decimals",
                "save it in binary",
                max(0.0, rms(observed - correct) - 0.3 * 10.0**-digits),
            )
            break


def _functions(correct: Array, observed: Array) -> Iterator[Fit]:
    mend = "no function stands behind a patch embedding: remove it"
    left: dict[str, float] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for name, function in FUNCTIONS.items():
            if name in SLOW and left.get(SLOW[name], 1.0) > 0.02 * rms(observed):
                continue
            few, seen = _few_of(name, correct, observed)
            if rms(seen - function(few)) > UNLIKELY * rms(seen):
                continue
            left[name] = rms(observed - function(correct))
    for name in sorted(left, key=left.__getitem__):  # two forms of one may both come near
        remedy = f"{mend}{NORMS if 'norm' in name else ''}"
        yield Fit("activation-behind", f"{name} was applied to the tokens", remedy, left[name])
    if correct[..., 0].size >= LEAST_ROWS:
        plain = FUNCTIONS["a layer norm"](correct)
        words = "a layer norm, with a scale and a shift of its own, was applied to the tokens"
        factors, summands = _by_channel(plain, observed)
        left_over = rms(observed - factors * plain - summands)
        if left_over < EXPLAINED * rms(observed - observed.mean(axis=(0, 1))):
            yield Fit("activation-behind", words, f"{mend}{NORMS}", left_over)


def _few_of(name: str, correct: Array, observed: Array) -> tuple[Array, Array]:
    """Some of the values that a function takes together: of a token, a channel, or any."""
    if correct.size <= FEW or correct.ndim != 3:
        return correct, observed
    if name.startswith(OVER_TOKENS):
        return correct[..., :4], observed[..., :4]
    step = max(1, correct[..., 0].size // 64)
    if name.startswith(OVER_WIDTH):
        return (array.reshape(-1, array.shape[-1])[::step][None] for array in (correct, observed))  # type: ignore[return-value]
    step = max(1, correct.size // FEW)
    return correct.reshape(-1)[::step], observed.reshape(-1)[::step]


def _by_channel(given: Array, observed: Array) -> tuple[Array, Array]:
    """The factor and the summand of each channel that bring a given output nearest to another."""
    axes = tuple(range(given.ndim - 1))
    means, wanted = given.mean(axes), observed.mean(axes)
    centered = given - means
    squares = (centered**2).sum(axes)
    factors = (centered * (observed - wanted)).sum(axes) / np.where(squares > 0, squares, 1.0)
    return factors, wanted - factors * means


def scaled_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Each output channel, or all alike, times a number, and a number of each added."""
    axes = tuple(range(correct.ndim - 1))
    centered = correct - correct.mean(axes)
    wanted = observed - observed.mean(axes)
    factor = float((centered * wanted).sum()) / (float((centered**2).sum()) or 1.0)
    words = f"the output is {told(factor)} times what it should be"
    mend = f"look for a factor of {told(factor)} before or behind the projection"
    constant, bias = observed.mean(axes) - factor * correct.mean(axes), p.weights.bias
    if bias is not None and rms(constant + factor * bias) <= CLOSE * rms(factor * bias):
        words += ", and the bias was not added"
        mend += "; and add the bias"
    elif rms(constant) > CLOSE * rms(wanted):
        words += ", and the same vector was added to every token"
        mend = "look for a factor, and for a second bias"
    left = rms(wanted - factor * centered)
    if left < EXPLAINED * rms(wanted):
        yield Fit("output-scaled", words, mend, left, abs(factor))
    if correct[..., 0].size < LEAST_ROWS:
        return
    factors, summands = _by_channel(correct, observed)
    changed = (np.abs(factors - 1) > CLOSE) | (np.abs(summands) > CLOSE * rms(correct))
    left = rms(observed - factors * correct - summands)
    # Else the numbers that are added explain it alone, or a few channels are wrong.
    if left < EXPLAINED * rms(wanted) and changed.mean() >= MOST_OF_THEM:
        words = (
            "each output channel is multiplied by a number of its own, and another is added: a "
            "batch norm, a layer scale, or kernel and bias scaled by row"
        )
        yield Fit("channels-scaled", words, "look for what scales each channel", left)


def norm_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Norms of the weights that were left out, or computed with another epsilon."""
    if not p.to_sequence:
        return
    weights = p.weights
    held = {name: getattr(weights, name) for name in ("patch_norm", "token_norm", "sequence_norm")}
    for name, norm in held.items():
        if norm is None:
            continue
        words = name.replace("_norm", "s' norm").replace("sequences'", "sequence's")
        plain = dataclasses.replace(norm, scale=np.ones_like(norm.scale), shift=None)
        for form, change in (
            ((f"{name}-missing", f"the {words} was left out", "apply it"), {name: None}),
            (
                (f"{name}-bare", f"the {words} has no scale and shift", "load both"),
                {name: plain},
            ),
        ):
            prediction = p.with_weights(**change).run(np.float64)
            yield Fit(*form, rms(observed - prediction))
    if any(norm is not None for norm in held.values()):
        for epsilon in (1e-3, 1e-5, 1e-6, 1e-8, 1e-12):
            if epsilon != weights.layout.norm_epsilon:
                layout = dataclasses.replace(weights.layout, norm_epsilon=epsilon)
                words = (
                    f"the norm's epsilon is {epsilon:g}, where the weights have "
                    f"{weights.layout.norm_epsilon:g}"
                )
                prediction = p.with_weights(layout=layout).run(np.float64)
                left = rms(observed - prediction)
                yield Fit("norm-epsilon", words, "set the epsilon", left)


def product_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The products, but not the bias, times a number, whatever was done to the order of the tokens
    behind."""
    if p.to_sequence:
        yield from _scaled_tokens(p, correct, observed)
        return
    if p.weights.bias is None:
        return
    bias = p.weights.bias.astype(np.float64)
    plain = correct - bias
    factor = float((plain * (observed - bias)).sum()) / float((plain * plain).sum() or 1.0)
    explanation = (
        f"the products, but not the bias, are {told(factor)} times what they should be: the "
        "images or the kernel are scaled"
    )
    left = rms(observed - bias - factor * plain)
    yield Fit(
        "product-scaled", explanation, "look for a factor before the projection", left, abs(factor)
    )


def _scaled_tokens(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The tokens, but not what makes a sequence of them, times a number."""
    if p.weights.sequence_norm is not None or p.weights.layout.token_order != "raster":
        return
    if correct.shape != observed.shape:
        return
    start = p.weights.num_tokens_ahead
    patches = slice(start, start + p.spec.num_patches)
    row = p.weights.num_positions_ahead
    positions = (
        np.zeros((p.spec.num_patches, 1))
        if p.weights.positions is None
        else p.weights.positions[row : row + p.spec.num_patches].astype(np.float64)
    )
    plain, seen = correct[:, patches] - positions, observed[:, patches] - positions
    factor = float((plain * seen).sum()) / float((plain * plain).sum() or 1.0)
    fitted = correct.copy()
    fitted[:, patches] = factor * plain + positions
    others = "prefix tokens" if p.weights.positions is None else "positions"
    yield Fit(
        "tokens-scaled",
        f"the tokens, but not the {others}, are {told(factor)} times what they should be",
        f"look for a factor between projection and {others}",
        rms(observed - fitted),
        abs(factor),
    )
