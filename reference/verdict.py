"""From arrays and a declared arithmetic model to a verdict in words: pass, or fail and why."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .error import ArithmeticModel, bound_ratio, effective_bits, effective_bits_floor, error_bound
from .probes import Direction, Probe


@dataclass(frozen=True)
class Verdict:
    """The judgment of one output.

    Args:
        verdict: `pass` or `fail`.
        bound_ratio: ρ, the largest error as a fraction of its bound; None where shapes differ. Exact probes give 0 or infinity.
        effective_bits: p̂, on the fingerprint probe only.
        message: one sentence; empty for a plain pass.
    """

    verdict: Literal["pass", "fail"]
    bound_ratio: float | None = None
    effective_bits: float | None = None
    message: str = ""


def judge(probe: Probe, direction: Direction, observed: NDArray[Any], model: ArithmeticModel) -> Verdict:
    """Judge one output of an implementation on a probe, against the arithmetic that the implementation declares.

    Args:
        probe: the problem.
        direction: which output.
        observed: in canonical layout: tokens `(B, N, D)`, image `(B, C, H, W)`, kernel `(D, P_h, P_w, C)` or bias `(D,)`.
        model: the declared arithmetic.

    Returns:
        `fail` for another shape, a value that is not finite, an error above the bound of the probe's gate, or fewer effective bits
        than the declared arithmetic gives.
    """
    expectation = probe.expectations[direction]
    if observed.shape != expectation.value.shape:
        return Verdict("fail", message=_shape_message(observed.shape, expectation.value.shape, direction))
    if observed.dtype != probe.images.dtype:
        return Verdict("fail", message=f"output of dtype {observed.dtype}, expected {probe.images.dtype}, that of the images")
    values = observed.astype(np.float64)
    if not np.isfinite(values).all():
        return Verdict(
            "fail", math.inf, message=f"{int((~np.isfinite(values)).sum())} of {values.size} values are NaN or infinite"
        )
    # An exact sum is rounded to the output's type once, and mostly needs no rounding.
    expected = expectation.value.astype(observed.dtype).astype(np.float64) if probe.gate == "exact" else expectation.value
    bound = error_bound(expected, expectation.gauge, expectation.terms, model, probe.gate, expectation.largest_input)
    ratio, worst = bound_ratio(values, expected, bound)
    bits = None
    if probe.fingerprint and direction == "forward":
        bits = effective_bits(values, expectation.value, expectation.scale)
        floor = effective_bits_floor(expectation.terms, model)
        if bits < floor:
            message = f"{bits:.1f} effective bits, expected at least {floor:.1f}: {_delivered(bits)}"
            return Verdict("fail", ratio, bits, message)
    if ratio <= 1:
        return Verdict("pass", ratio, bits)
    wrong = int((np.abs(values - expected) > bound).sum())
    place = ", ".join(map(str, worst))
    message = (
        f"{wrong} of {values.size} values are outside the {'exact result' if probe.gate == 'exact' else probe.gate + ' bound'}; "
        f"the worst, at ({place}), is {values[worst]:.9g}, expected {expected[worst]:.9g}"
    )
    if probe.gate != "exact":
        message += f" ± {bound[worst]:.3g}"
    if probe.explain is not None and direction == "forward":
        message += f"; {probe.explain(values)}"
    return Verdict("fail", ratio, bits, message)


def _shape_message(observed: tuple[int, ...], expected: tuple[int, ...], direction: Direction) -> str:
    message = f"output of shape {observed}, expected {expected}"
    if direction == "forward" and len(expected) == 3:
        batch, tokens, width = expected
        if observed == (batch, width, tokens):
            return message + ": tokens were left as (B, D, N); transpose(1, 2) is missing"
        if len(observed) == 4 and math.prod(observed) == math.prod(expected):
            return message + ": the grid was left unflattened; flatten(2) and transpose(1, 2) are missing"
    return message


def _delivered(bits: float) -> str:
    """Name the arithmetic whose effective bits (numerics: 11.7 for TF32 and float16 inputs, 8.7 for bfloat16) lie nearest."""
    known = {"TF32 or float16 inputs": 11.7, "bfloat16 inputs": 8.7, "a split bfloat16x3 product": 17.8}
    name, nearest = min(known.items(), key=lambda item: abs(item[1] - bits))
    return f"as with {name}" if abs(nearest - bits) < 1 else "lower precision than declared, or a wrong result"
