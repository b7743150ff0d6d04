"""From arrays and a declared arithmetic model to a verdict in words: pass, or fail and why."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .error import (
    CUT_OFF,
    ONE_ROUNDING_FRACTION,
    ROUNDED,
    SHORT_SUMS,
    TYPE_NAMES,
    ArithmeticModel,
    Gate,
    bound_ratio,
    correctly_rounded_fraction,
    delivered_arithmetic,
    effective_bits,
    effective_bits_floor,
    error_bound,
    is_cut_off,
    is_short_sum,
    terms_of_normalization,
)
from .expectation import Direction, Expectation
from .probe import Probe
from .quantize import (
    Quantization,
    QuantizationError,
    float16_storage,
    quantization_error,
    quantization_variance,
)

WRONG_BITS = 4.0
"""Effective bits below which an output is not imprecise but wrong: half of what bfloat16 inputs
leave."""


@dataclass(frozen=True)
class Verdict:
    """The judgment of one output.

    Args:
        verdict: `pass` or `fail`.
        bound_ratio: ρ, the largest error as a fraction of its bound; None where shapes differ.
            Exact probes give 0 or infinity.
        effective_bits: p̂, on the fingerprint probe only.
        message: one sentence; empty for a plain pass.
        delivered: the arithmetic that the output shows, in the words of `ArithmeticModel.name`;
            only where a probe can tell: for float32 the fingerprint, for 16-bit types the random
            probe with a bias, and where results are cut off both.
    """

    verdict: Literal["pass", "fail"]
    bound_ratio: float | None = None
    effective_bits: float | None = None
    message: str = ""
    delivered: str | None = None


def judge(
    probe: Probe,
    direction: Direction,
    observed: NDArray[Any],
    model: ArithmeticModel,
    quantization: Quantization | None = None,
) -> Verdict:
    """Judge one output of an implementation on a probe, against the arithmetic that the
    implementation declares.

    Args:
        probe: the problem.
        direction: which output.
        observed: in canonical layout: tokens `(B, N, D)`, image `(B, C, H, W)`, kernel `(D, P_h,
            P_w, C)` or bias `(D,)`.
        model: the declared arithmetic.
        quantization: the steps that a runtime chose for what it stores as integers.

    Returns:
        `fail` for another shape, a value that is not finite, an error above the bound of the
        probe's gate, or fewer effective bits than the declared arithmetic gives.
    """
    expectation = probe.expectations[direction]
    if verdict := _unfit(observed, expectation, probe, direction):
        return verdict
    values = observed.astype(np.float64)
    if model.stored == "int8" and quantization is None:  # it left the kernel as it is
        model = dataclasses.replace(model, stored="")
    # Where the implementation declares that it rounds its inputs, an exact probe whose data do not
    # survive that has a bound; so has every one where pixels are normalized first.
    # And where its kernel is stored in a type that does not hold this one.
    inexact = (
        (model.inputs and not probe.short)
        or model.pixel_roundings
        or (model.stored and not _is_held(probe.weights.kernel, model))
    )
    gate: Gate = "deterministic" if probe.gate == "exact" and inexact else probe.gate
    # An exact sum is rounded to the output's type once, and mostly needs no rounding.
    expected = (
        expectation.value.astype(observed.dtype).astype(np.float64)
        if gate == "exact"
        else expectation.value
    )
    if direction != "forward" and model.gradients:
        model = dataclasses.replace(model, accumulate=model.gradients)
    sums = _sums(probe, expectation, model)
    bound = error_bound(
        expected, *sums, model, gate, expectation.largest_input, expectation.partial
    )
    lattices = None
    if quantization is not None:
        lattices = quantization, quantization_error(probe, quantization)
        bound = bound + lattices[1].bound(gate)
    ratio, worst = bound_ratio(values, expected, bound)
    if expectation.exact is not None:
        ratio, verdict = _at_samples(values, expectation, sums, model, gate, ratio)
        if verdict:
            return verdict
    bits = delivered = None
    if expectation.scale is not None:
        bits, delivered, message = _of_fingerprint(
            observed, values, expectation, model, lattices, _small_weights(probe, model)
        )
        if model.stored == "float16" and not message:
            delivered, message = _of_storage(probe, values, bits, model)
        if message and (ratio <= 1 or bits > WRONG_BITS):
            return Verdict("fail", ratio, bits, message, delivered)
    rounded = model.output and probe.weights.bias is not None
    if probe.name == "random" and direction == "forward" and rounded:
        delivered, message = _of_roundings(observed, expectation, probe, model)
        if message:
            return Verdict("fail", ratio, None, message, delivered)
    if ratio <= 1:
        return Verdict("pass", ratio, bits, delivered=delivered)
    message = _of_worst(values, expected, bound, worst, gate)
    if probe.explain is not None and direction == "forward":
        message += f"; {probe.explain(values)}"
    return Verdict("fail", ratio, bits, message, delivered)


def _small_weights(probe: Probe, model: ArithmeticModel) -> float:
    """What weights below the normal numbers of the type that they are stored in add to the mean
    square of an error: half the smallest number each, in the unit of their own root mean square."""
    if not model.weights_smallest:
        return 0.0
    mean_square = float(np.mean(np.square(probe.weights.kernel.astype(np.float64))))
    return model.weights_smallest**2 / mean_square if mean_square else 0.0


def _is_held(kernel: NDArray[np.generic], model: ArithmeticModel) -> bool:
    """Whether the type that a kernel is stored in holds every value of it."""
    if model.stored != "float16":
        return False
    with np.errstate(over="ignore"):
        return bool((kernel.astype(np.float16) == kernel).all())


def _unfit(
    observed: NDArray[Any], expectation: Expectation, probe: Probe, direction: Direction
) -> Verdict | None:
    """The verdict on an output of another shape or type, or with values that are not finite."""
    expected = expectation.value.shape
    if observed.shape != expected:
        return Verdict("fail", message=_shape_message(observed.shape, expected, direction))
    if observed.dtype != probe.images.dtype:
        message = (
            f"output of dtype {observed.dtype}, expected {probe.images.dtype}, that of the images"
        )
        return Verdict("fail", message=message)
    finite = np.isfinite(observed.astype(np.float64))
    if not finite.all():
        message = f"{int((~finite).sum())} of {finite.size} values are NaN or infinite"
        return Verdict("fail", math.inf, message=message)
    return None


def _sums(
    probe: Probe, expectation: Expectation, model: ArithmeticModel
) -> tuple[NDArray[np.float64], int]:
    """The size of what is added up, and how many roundings each of it meets.

    Where pixels x are rescaled and normalized first, with unfolded weights, a product that was W·x
    is W·(x − m) and the bias takes up W·m, m the means in the unit of the pixels: terms of size up
    to |W|(x + m), |W|·m and |b|, each rounded some more times before it is added up. So the gauge
    grows by 2·m·Σ|W|, and γ_n becomes γ of n and these roundings (Higham 2002, Lemma 3.3).
    """
    if not model.pixel_roundings:
        return expectation.gauge, expectation.terms
    sizes = np.abs(probe.weights.matrix.astype(np.float64)).sum(axis=1)
    gauge = expectation.gauge + 2 * model.pixel_offset * sizes
    return gauge, expectation.terms + model.pixel_roundings


def _at_samples(
    values: NDArray[np.float64],
    expectation: Expectation,
    sums: tuple[NDArray[np.float64], int],
    model: ArithmeticModel,
    gate: Gate,
    ratio: float,
) -> tuple[float, Verdict | None]:
    """The larger of an error over its bound and that at samples against exact results, and the
    verdict where those alone are outside: the reference's own error is as large as the one that it
    judges, and what it covers on both sides is judged without it."""
    assert expectation.exact is not None
    places, truth = expectation.exact
    there = values.ravel()[places]
    sampled = _exact_bound(expectation, sums, places, truth, model, gate)
    exact_ratio, where = bound_ratio(there, truth, sampled)
    if not exact_ratio > 1 >= ratio:
        return max(ratio, exact_ratio), None
    at = ", ".join(map(str, np.unravel_index(places[where], values.shape)))
    message = (
        f"the value at ({at}) is {there[where]:.17g}, exactly {truth[where]:.17g} ± "
        f"{sampled[where]:.3g}"
    )
    return exact_ratio, Verdict("fail", exact_ratio, message=message)


def _of_fingerprint(
    observed: NDArray[Any],
    values: NDArray[np.float64],
    expectation: Expectation,
    model: ArithmeticModel,
    lattices: tuple[Quantization, QuantizationError] | None,
    small_weights: float,
) -> tuple[float, str | None, str]:
    """Effective bits, the arithmetic that they show, and what is wrong with it, empty for
    nothing."""
    assert expectation.scale is not None
    truth, scale = expectation.value, expectation.scale
    if expectation.exact is not None:
        places, truth = expectation.exact
        values, scale = values.ravel()[places], scale.ravel()[places]
    bits = effective_bits(values, truth, scale)
    terms = expectation.terms + terms_of_normalization(model)
    stepped = small_weights
    if lattices is not None:
        stepped += quantization_variance(lattices[1], scale)
    floor = effective_bits_floor(terms, model, stepped)
    delivered = None
    if model.output and is_cut_off(observed, expectation.value):
        delivered = f"{TYPE_NAMES.get(model.output, observed.dtype.name)} {CUT_OFF}"
        message = (
            f"declared {model.name}, delivered {delivered}: results have their lower bits dropped, "
            "where rounding to nearest lowers half of them"
        )
        return bits, delivered, message
    if model.stored:
        words = model.name if lattices is None else lattices[0].words
        delivered = words if bits >= floor else delivered_arithmetic(bits, terms)
    elif not model.output:
        delivered = delivered_arithmetic(bits, terms, observed.dtype.name)
    elif bits < floor and is_short_sum(bits, terms, model):
        delivered = f"{TYPE_NAMES.get(model.output, observed.dtype.name)} {SHORT_SUMS}"
    message = (
        f"declared {model.name}, delivered {delivered or 'lower precision'}: {bits:.1f} effective "
        f"bits, expected at least {floor:.1f}"
    )
    return bits, delivered, message if bits < floor else ""


def _of_storage(
    probe: Probe, values: NDArray[np.float64], bits: float, model: ArithmeticModel
) -> tuple[str, str]:
    """What a kernel was stored as, and what is wrong with it, empty for nothing."""
    done = float16_storage(probe, values)
    delivered = model.name + done
    message = f"declared {model.name}, delivered {delivered}: {bits:.1f} effective bits"
    return delivered, message if done else ""


def _of_roundings(
    observed: NDArray[Any], expectation: Expectation, probe: Probe, model: ArithmeticModel
) -> tuple[str, str]:
    """How often 16-bit results were rounded, and what is wrong with it, empty for nothing."""
    assert probe.weights.bias is not None
    fraction = correctly_rounded_fraction(observed, expectation.value)
    once = fraction >= ONE_ROUNDING_FRACTION
    bias = probe.weights.bias.astype(np.float64)
    cut = not once and is_cut_off(observed, expectation.value - bias, bias)
    delivered = (
        f"{TYPE_NAMES.get(model.output, observed.dtype.name)} "
        f"{CUT_OFF if cut else ROUNDED[1 if once else 2]}"
    )
    message = (
        f"declared {model.name}, delivered {delivered}: {100 * fraction:.0f}% of the results are "
        "correctly rounded, expected 90%"
    )
    return delivered, message if model.output_roundings == 1 and not once else ""


def _of_worst(
    values: NDArray[np.float64],
    expected: NDArray[np.float64],
    bound: NDArray[np.float64],
    worst: tuple[int, ...],
    gate: Gate,
) -> str:
    """How many values are outside their bound, and the worst of them."""
    wrong = int((np.abs(values - expected) > bound).sum())
    place = ", ".join(map(str, worst))
    allowed = "" if gate == "exact" else f" ± {bound[worst]:.3g}"
    return (
        f"{wrong} of {values.size} values are outside the "
        f"{'exact result' if gate == 'exact' else gate + ' bound'}; the worst, at ({place}), is "
        f"{values[worst]:.9g}, expected {expected[worst]:.9g}{allowed}"
    )


def _exact_bound(
    expectation: Expectation,
    sums: tuple[NDArray[np.float64], int],
    places: NDArray[np.int64],
    truth: NDArray[np.float64],
    model: ArithmeticModel,
    gate: Gate,
) -> NDArray[np.float64]:
    """The bound at sampled places against the exact result: without the reference's own error, but
    for the one rounding of that result."""
    gauge, terms = sums
    bound = error_bound(
        truth,
        gauge.ravel()[places],
        terms,
        model,
        gate,
        expectation.largest_input,
        reference_roundoff=0.0,
    )
    return bound + 2.0**-53 * np.abs(truth)


def _shape_message(
    observed: tuple[int, ...], expected: tuple[int, ...], direction: Direction
) -> str:
    message = f"output of shape {observed}, expected {expected}"
    if direction == "forward" and len(expected) == 3:
        batch, tokens, width = expected
        if observed == (batch, width, tokens):
            return message + ": tokens were left as (B, D, N); transpose(1, 2) is missing"
        if len(observed) == 4 and math.prod(observed) == math.prod(expected):
            if observed[-1] == width and observed[1] != width:
                return (
                    message
                    + ": the grid was left unflattened, channels last; reshape it to (B, N, D)"
                )
            return (
                message
                + ": the grid was left unflattened; flatten(2) and transpose(1, 2) are missing"
            )
    return message
