"""Lower precision than the output's type promises, by the errors that it makes."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from ..error import ONE_ROUNDING_FRACTION, correctly_rounded_fraction, is_cut_off
from ..mistakes import CATALOGUE, Mistake
from ..pipeline import Array, Pipeline
from .fit import Cause, cause_of

if TYPE_CHECKING:
    from .search import Search

HALVED = 0.95
"""Share of products that are numbers of float16 above which sums were kept in it; of others it is
one in a hundred."""

ALONG = 0.3
"""Least correlation of an output's errors with those that rounded inputs make. Rounded to nearest
alike it is 1; against truncation, whose error is the rounding's or that less one unit, it is 0.5;
of independent errors 1/√(B·N·D), under 0.1 for a hundred values."""


LEFT_OF_CUT = 0.5
"""What the errors of the rounding that was done may leave of those that were observed: float32's
own, a thousandth of TF32's, and those of an order of summation."""

ONE_BY_ONE = 16.0
"""How many times the errors of sums that are rounded at every sixteenth product those may be that
are rounded at each: four times by their number, and more where they stand still."""

DROPPED_BITS = {"precision-tf32": 13, "precision-bf16": 16}
"""Bits of a float32 that a precision of inputs does not have."""


def _truncating(mistake: str, candidate: Pipeline) -> list[Pipeline]:
    """The same lower precision cut off instead of rounded: of both inputs, and of one alone."""
    if mistake not in DROPPED_BITS:
        return []
    kept = ~np.int32((1 << DROPPED_BITS[mistake]) - 1)

    def cut(values: Array) -> Array:
        narrow = np.ascontiguousarray(values, np.float32)
        return np.asarray((narrow.view(np.int32) & kept).view(np.float32), values.dtype)

    plain = dataclasses.replace(candidate, round_inputs=None)
    return [
        dataclasses.replace(candidate, round_inputs=cut),
        dataclasses.replace(plain, images=cut(plain.images)),
        plain.with_kernel(cut(plain.weights.kernel)),
    ]


def _of_one_input(search: "Search") -> list[Cause]:
    """A kernel, or images, that were kept in a short type, which can be told to the last bit."""
    causes = []
    for mistake in CATALOGUE.values():
        candidate = mistake.apply(search.pipeline) if mistake.stage == "arithmetic" else None
        if candidate is None or candidate.round_inputs is None:
            continue
        plain, rounded = search.pipeline, candidate.round_inputs
        for name, program in (
            ("kernel was", plain.with_kernel(rounded(plain.weights.kernel))),
            ("images were", dataclasses.replace(plain, images=rounded(plain.images))),
        ):
            if search.explains(program):
                words = mistake.explanation.replace("inputs were", f"the {name}")
                causes.append(cause_of((mistake.id, words, mistake.mend)))
    return causes


def cut_off(dtype: Any) -> Cause:
    """Of an output whose 16-bit results had their lower bits dropped."""
    explanation = (
        f"the output is correct but for its rounding: {dtype} results have their lower bits "
        "dropped, where rounding to nearest lowers half of them"
    )
    mend = (
        "round to nearest (TensorFlow's bfloat16 product on a CPU without the type drops them; its "
        "convolution and XLA round)"
    )
    return Cause(("output-cut-off",), explanation, mend)


def is_precision(cause: Cause) -> bool:
    """Whether a cause is a lower precision alone."""
    return (
        len(cause.mistakes) == 1
        and getattr(CATALOGUE.get(cause.mistakes[0]), "stage", "") == "arithmetic"
    )


def is_cut(search: "Search") -> bool:
    """Whether 16-bit results are the right ones with their lower bits dropped."""
    if (
        search.narrow.itemsize > 2
        or not search.finite
        or search.correct.shape != search.observed.shape
        or search.pipeline.to_sequence
    ):
        return False
    observed = search.observed.astype(search.narrow)
    bias = search.pipeline.weights.bias
    if is_cut_off(observed, search.correct):
        return True
    if correctly_rounded_fraction(observed, search.correct) >= ONE_ROUNDING_FRACTION:
        return False  # beside a bias that is much larger a product's own rounding is not seen
    return bias is not None and is_cut_off(
        observed, search.correct - bias.astype(np.float64), bias.astype(np.float64)
    )


def lower_precision(search: "Search") -> list[Cause]:
    """Lower precisions whose errors are of the observed size, and as evenly spread.

    Their rounding depends on hardware and order of summation, so that no output of theirs can
    be foretold to the last bit. But an output that is an affine map of the patches to the last
    bit was not rounded on the way (a 16-bit output's last bit is too coarse to tell), and
    rounding the inputs (which hardware does to nearest, or by truncation) makes errors that go
    along with the candidate's.
    """
    if search.correct.shape != search.observed.shape or not search.finite:
        return []
    error = np.abs(search.observed - search.correct)
    size = math.sqrt(float(np.mean(error**2)))
    # Of a normal distribution half lies within 0.67 of its rms; where a few values are wrong,
    # half of them are right.
    if not size or float(np.median(error)) < 0.3 * size:
        return []
    if found_alone := _of_one_input(search):
        return found_alone
    affine = search.is_affine()
    if affine and search.narrow.itemsize > 2:
        return []
    halved = _in_halves(search)
    mistakes: list[Mistake] = []
    for mistake in CATALOGUE.values():
        candidate = mistake.apply(search.pipeline) if mistake.stage == "arithmetic" else None
        # which can be told to the last bit, and was not
        if candidate is not None and candidate.round_output is None:
            if any(
                _goes_along(search, pipeline) for pipeline in _truncating(mistake.id, candidate)
            ):
                mistakes.append(mistake)
                continue
            errors = candidate.run(np.float64) - search.correct
            made = math.sqrt(float(np.mean(errors**2)))
            # Truncation instead of rounding doubles an error, and a little more where both
            # inputs are cut; an order of summation changes it less. A sum that is rounded at every
            # product, and not at every sixteenth, errs some four times as much and more.
            sums = mistake.id.startswith("accumulate") and search.narrow.itemsize > 2
            most = ONE_BY_ONE if sums else 2.5
            if not made or not 0.5 <= size / made <= most:
                continue
            along = float(np.mean(errors * (search.observed - search.correct))) / (made * size)
            if mistake.id.startswith("accumulate"):
                if halved:
                    mistakes.append(mistake)
            elif along >= ALONG:
                mistakes.append(mistake)
    accumulated = all(mistake.id.startswith("accumulate") for mistake in mistakes)
    if accumulated and _in_numbers_of(search, ml_dtypes.bfloat16):
        return [cause_of(SUMS_IN_BFLOAT16)]
    return [cause_of((mistake.id, mistake.explanation, mistake.mend)) for mistake in mistakes]


SUMS_IN_BFLOAT16 = (
    "accumulate-bf16",
    "partial sums were kept in bfloat16",
    "accumulate in float32",
)


def _goes_along(search: "Search", candidate: Pipeline) -> bool:
    """Whether the errors of a candidate, which can be told but for their last bits, are those
    that were observed: what is cut off makes every output smaller, as a factor does."""
    made = candidate.run(np.float64) - search.correct
    left = search.observed - search.correct - made
    size = math.sqrt(float(np.mean(made**2)))
    return bool(size) and math.sqrt(float(np.mean(left**2))) <= LEFT_OF_CUT * size


def _in_halves(search: "Search") -> bool:
    """Whether the products, without the bias, are numbers of float16, as sums that were kept in
    it are."""
    if search.narrow.itemsize <= 2:
        return True
    return _in_numbers_of(search, np.float16)


def _in_numbers_of(search: "Search", kind: Any) -> bool:
    """Whether the products of a wider output, without the bias, are numbers of a type."""
    if search.narrow.itemsize <= 2 or search.pipeline.to_sequence:
        return False
    bias = (
        0.0
        if search.pipeline.weights.bias is None
        else search.pipeline.weights.bias.astype(np.float64)
    )
    product = search.observed - bias
    with np.errstate(over="ignore"):
        nearest = product.astype(kind).astype(np.float64)
    slack = 2 * search.model.accumulate * (np.abs(search.observed) + np.abs(bias))
    return float(np.mean(np.abs(nearest - product) <= slack)) >= HALVED
