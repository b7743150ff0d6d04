"""How wrong may a correct implementation be? Rounding models, componentwise bounds and effective
bits.

Notation: X patches `(rows, K)`, W `(D, K)`, b `(D,)`, y = XWᵀ + b exact, ŷ computed. u is the unit
roundoff: 2⁻⁵³ float64, 2⁻²⁴ float32, 2⁻¹¹ float16 and TF32, 2⁻⁸ bfloat16. The *gauge* A = |X||W|ᵀ +
|b| is the size of what is added up: rounding errors scale with A, not with y, because terms of
opposite sign cancel in y and not in its error. A relative tolerance on y is therefore wrong by
design.

Two bounds on |ŷ − y|, componentwise, for a sum of n terms:

* deterministic, γ_n·A with γ_n = n·u/(1 − n·u): holds for every order of summation, blocked, fused
  or not, and for every input (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed.
  2002, section 3.1 and eq. 3.5);
* probabilistic, λ·√n·u·A: rounding errors of zero-mean data behave like a random walk (Higham &
  Mary, SIAM J. Sci. Comput. 41(5), 2019, Theorem 3.1; Ipsen & Zhou 2020). An empirical gate on
  zero-mean random probes, not a theorem for other data: a correct sequential sum of equal terms
  exceeds it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

Gate = Literal["exact", "probabilistic", "deterministic"]

LAMBDA = 4.0
"""λ of the probabilistic bound. Theorem 3.1 of Higham & Mary fails for one component with
probability at most 2·exp(−λ²/2)·n, very pessimistically; the worst that correct CPU backends reach
over 200 seeds of our probes is 0.2 of the bound at λ = 4 (test_false_alarms), so λ = 4 leaves a
factor of five, while TF32 inputs exceed it eleven times over at K = 768."""


def unit_roundoff(dtype: DTypeLike) -> float:
    """u of a floating-point type, half the distance from 1 to the next number (round to
    nearest)."""
    return float(ml_dtypes.finfo(np.dtype(dtype)).eps) / 2


def gamma(terms: int, roundoff: float) -> float:
    """γ_n = n·u/(1 − n·u); infinite where n·u ≥ 1, since nothing can be promised there (Higham
    2002, Lemma 3.1)."""
    product = terms * roundoff
    return math.inf if product >= 1 else product / (1 - product)


@dataclass(frozen=True)
class ArithmeticModel:
    """The arithmetic that an implementation declares it uses; a verdict compares it with what was
    delivered.

    Args:
        accumulate: unit roundoff of products and sums.
        inputs: unit roundoff to which inputs are rounded first (TF32, bf16 math modes); 0 where
            they are used as they are.
        output: unit roundoff of the result's type where it is coarser than the accumulator; 0 where
            it is the same.
        output_roundings: how often the result is rounded to that type (1 with a fused bias, 2 where
            the bias is added after).
        gradients: unit roundoff of the sums of gradients where it is coarser than `accumulate`:
            frameworks split these sums (over images, tokens, overlapping patches) and keep the
            parts in the 16-bit type; 0 where it is the same.
        pixel_roundings: how often a product has been rounded before it is added up, where pixels
            are rescaled and normalized in `accumulate` first and the weights are unfolded for it;
            0 where they are used as they are.
        pixel_offset: the largest mean that is then subtracted, in the unit of the pixels.
        weights: unit roundoff of the type that the kernel is stored in, where that is coarser; 0
            where it is the same.
        weights_smallest: half the smallest number of that type.
        stored: the name of that type: `float16` or `int8`, whose error is that of the steps that a
            runtime chose (`reference.quantize`); empty where the kernel is used as it is.
        smallest: magnitude below which a result may be lost: half the smallest subnormal under IEEE
            rules, the smallest normal where subnormals are flushed to zero.
    """

    accumulate: float
    inputs: float = 0.0
    output: float = 0.0
    output_roundings: int = 0
    smallest: float = 0.0
    gradients: float = 0.0
    pixel_roundings: int = 0
    pixel_offset: float = 0.0
    weights: float = 0.0
    weights_smallest: float = 0.0
    stored: str = ""

    @property
    def name(self) -> str:
        """The arithmetic in words, as `delivered_arithmetic` words what it finds."""
        if self.stored:
            return f"{self.stored} kernel"
        if self.inputs:
            return INPUT_NAMES.get(self.inputs, f"inputs of roundoff {self.inputs:.2g}")
        if self.output:
            return (
                f"{TYPE_NAMES.get(self.output, 'narrow')} {ROUNDED[min(self.output_roundings, 2)]}"
            )
        return "float64" if self.accumulate <= 2.0**-53 else "float32"

    @classmethod
    def of(
        cls, dtype: DTypeLike, flush_to_zero: bool = False, output_roundings: int = 1
    ) -> "ArithmeticModel":
        """Model of plain arithmetic in `dtype`; 16-bit types accumulate in float32 and round the
        result `output_roundings` times."""
        info = ml_dtypes.finfo(np.dtype(dtype))
        narrow = unit_roundoff(dtype) > 2.0**-24
        underflow = np.finfo(np.float32) if narrow else info
        smallest = (
            float(underflow.smallest_normal)
            if flush_to_zero
            else float(underflow.smallest_subnormal) / 2
        )
        if not narrow:
            return cls(accumulate=unit_roundoff(dtype), smallest=smallest)
        output_smallest = (
            float(info.smallest_normal) if flush_to_zero else float(info.smallest_subnormal) / 2
        )
        return cls(
            2.0**-24,
            output=unit_roundoff(dtype),
            output_roundings=output_roundings,
            smallest=max(smallest, output_smallest),
        )


INPUT_NAMES = {2.0**-11: "TF32 inputs", 2.0**-8: "bfloat16 inputs"}
TYPE_NAMES = {2.0**-11: "float16", 2.0**-8: "bfloat16"}
ROUNDED = {0: "not rounded", 1: "rounded once", 2: "rounded twice"}
CUT_OFF = "cut off toward zero"
"""Words for unit roundoffs and numbers of roundings: declared and delivered arithmetic are told in
the same ones."""


def error_bound(
    expected: NDArray[np.float64],
    gauge: NDArray[np.float64],
    terms: int,
    model: ArithmeticModel,
    gate: Gate,
    largest_input: float,
    partial: NDArray[np.float64] | None = None,
    reference_roundoff: float = 2.0**-53,
) -> NDArray[np.float64]:
    """Componentwise bound on |observed − expected|, for an `expected` computed in float64 by the
    reference.

    The sum of: the kernel's rounding to the type that it is stored in, u_w·A, and what is too small
    for that; input rounding (2u_in + u_in²)·A (Blanchard, Higham, Lopez, Mary, Pranesh, SIAM J.
    Sci. Comput. 42(3), 2020); accumulation λ√n·u·A or γ_n·A, whichever applies (γ_n is a theorem,
    so the smaller of the two under the probabilistic gate); underflow, n·(2 + largest)·η, since
    each product and each sum may lose η and each flushed operand η times its partner; the same
    accumulation at float64 for the reference itself; and the output roundings, each u_out/(1 −
    u_out) of what is rounded.

    Args:
        expected: any shape, float64.
        gauge: same shape, A for that direction.
        terms: n, the number of terms added up for one output, the bias among them.
        model: the declared arithmetic.
        gate: `probabilistic`, `deterministic`, or `exact` (zero everywhere).
        largest_input: the largest magnitude among the factors of the products.
        partial: same shape, the size of what is rounded before the last rounding (the product
            without its bias, which can be large where the result is small); None where it is the
            result itself.
        reference_roundoff: of the arithmetic that computed `expected`; 0 where it is exact.

    Returns:
        Bounds of the same shape as `expected`, float64.
    """
    if gate == "exact":
        return np.zeros_like(expected)

    def accumulation(roundoff: float) -> float:
        certain = gamma(terms, roundoff)
        return (
            certain
            if gate == "deterministic"
            else min(certain, LAMBDA * math.sqrt(terms) * roundoff)
        )

    factor = (
        accumulation(model.accumulate) * (1 + model.weights)
        + model.weights
        + 2 * model.inputs
        + model.inputs**2
        + accumulation(reference_roundoff)
    )
    # An infinite factor times no terms is no error, and not NaN.
    lost = (2 + largest_input) * model.smallest + largest_input * model.weights_smallest
    bound = np.where(gauge == 0, 0.0, factor) * gauge + terms * lost
    if model.output:
        rounding = model.output / (1 - model.output)
        earlier = np.abs(expected) if partial is None else partial
        if model.output_roundings > 1:  # no times a bound that is infinite would be NaN
            bound = bound + (model.output_roundings - 1) * rounding * (earlier + bound)
        bound = bound + rounding * (np.abs(expected) + bound)
    return bound


def bound_ratio(
    observed: NDArray[np.float64], expected: NDArray[np.float64], bound: NDArray[np.float64]
) -> tuple[float, tuple[int, ...]]:
    """ρ = max |observed − expected| / bound, and where that is; infinite where a zero bound is
    exceeded or a value is not finite."""
    if not np.size(observed):
        return 0.0, ()
    error = np.asarray(observed - expected)
    np.abs(error, out=error)
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(error, bound, out=error, where=error != 0)
    worst = np.unravel_index(int(error.argmax()), error.shape)  # the first NaN, if there is one
    ratio = float(error[worst])
    return math.inf if math.isnan(ratio) else ratio, tuple(int(i) for i in worst)


def effective_bits(
    observed: NDArray[np.float64], expected: NDArray[np.float64], scale: NDArray[np.float64]
) -> float:
    """p̂ = −log₂ rms[(ŷ − y)/scale] with scale = √((X∘X)(W∘W)ᵀ): how many bits the arithmetic
    really kept.

    Independent of K and of the data's scale, on zero-mean random data with zero bias only: float32
    gives about 21 to 23, TF32 or float16 inputs 11.7, bfloat16 inputs 8.7. Infinite where nothing
    differs, −inf where a value is not finite.
    """
    relative = np.asarray(observed - expected, np.float64)
    np.divide(relative, scale, out=relative, where=scale != 0)
    flat = relative.ravel()
    # of errors that are fractions of the result: only what is not finite overflows
    square = float(flat @ flat)
    if not math.isfinite(square):
        return -math.inf
    rms = math.sqrt(square / flat.size) if flat.size else 0.0
    return math.inf if rms == 0 else -math.log2(rms)


def effective_bits_floor(
    terms: float, model: ArithmeticModel, quantization_variance: float = 0.0
) -> float:
    """Fewest effective bits that declared arithmetic may deliver on the zero-mean random probe.

    Derivation. In a sequential sum the k-th partial sum has rms √k·σ, and rounding it errs
    uniformly within ±u·|s|, rms at most u·√k·σ/√3. Over n sums the variance is u²σ²·n²/6, and
    relative to the result's √n·σ the rms is u·√(n/6), which is 1.29 bits better than the floor's
    u·√n; every other order of summation is better still. Rounded inputs err by at most √2·u_in in
    rms, each output rounding by u_out, a kernel's own rounding by u_w. The floor adds the squares
    of all, and what storing numbers as integers costs (`reference.quantize`).
    """
    variance = (
        terms * model.accumulate**2
        + 2 * model.inputs**2
        + model.weights**2
        + model.output_roundings * model.output**2
        + quantization_variance
    )
    return -0.5 * math.log2(variance)


MEAN_SQUARE_OF_BYTES = 255 * 511 / 6
"""Of 0, 1, ..., 255, each as often: Σk²/256."""


def terms_of_normalization(model: ArithmeticModel) -> float:
    """Terms of a sum whose rounding costs as many effective bits as rescaling and normalizing
    random bytes in `model`'s arithmetic does at most.

    Derivation. Of bytes x and means of up to m in their unit, r roundings of a pixel err by
    r·u·(x + m)|w| at most, and the kernel's signs make a random walk of it: its variance is r²·u²
    times that of the result, times E(x + m)² / E x². The bias, which takes up the means, is of
    variance m²/E x² in the same measure, and rounded once. A floor of u·√n holds n of these.
    """
    offset = model.pixel_offset
    spread = 1 + (255 * offset + offset**2) / MEAN_SQUARE_OF_BYTES
    return model.pixel_roundings**2 * spread + offset**2 / MEAN_SQUARE_OF_BYTES


LEVELS = {
    "a split bfloat16x3 product": 17.8,
    "TF32 or float16 inputs": 11.7,
    "bfloat16 inputs": 8.7,
}
"""Effective bits of the arithmetics below float32 on the fingerprint probe, the same at every K ;
tests reproduce all three. A product split into three bfloat16 ones keeps two halves of each input
and leaves the product of the lower ones out."""

SPREAD_BITS = 1.5
"""How far from its level an arithmetic is still named: half the 3 bits between the nearest two.
Rounding one input alone gains half a bit, truncating instead of rounding costs one."""


def delivered_arithmetic(bits: float, terms: float, dtype: str = "float32") -> str:
    """Name the arithmetic of a float32 or float64 output by its effective bits on the fingerprint
    probe, whatever was declared.

    Args:
        bits: what `effective_bits` returned.
        terms: n, the number of terms of one output; a sequential float32 sum loses ½·log₂ n bits.
        dtype: of the output; float32 has no more than its own bits, however exact the results are.
    """
    if dtype == "float64" and bits >= effective_bits_floor(terms, ArithmeticModel(2.0**-53)):
        return "float64"
    if bits >= effective_bits_floor(terms, ArithmeticModel(2.0**-24)):
        return "float32"
    name, level = min(LEVELS.items(), key=lambda item: abs(item[1] - bits))
    return name if abs(level - bits) <= SPREAD_BITS else LOWER


LOWER = "lower precision than float32, or a wrong result"
SHORT_SUMS = "sums"
"""Words for what is less than any arithmetic that is known, and for sums kept in a 16-bit type."""


def short_sum_bits(terms: float, model: ArithmeticModel) -> float:
    """Effective bits of a sequential sum of n terms that is kept in the 16-bit type of the result:
    an rms of u·√(n/6), as derived for `effective_bits_floor`."""
    return -math.log2(model.output * math.sqrt(terms / 6))


def is_short_sum(bits: float, terms: float, model: ArithmeticModel) -> bool:
    """Whether effective bits of a 16-bit output are those of such a sum, and of no other arithmetic
    rather."""
    distance = abs(bits - short_sum_bits(terms, model))
    others = min(abs(bits - level) for level in LEVELS.values())
    return distance <= min(SPREAD_BITS, 2 * others)


ONE_ROUNDING_FRACTION = 0.9
"""Share of correctly rounded results above which a 16-bit output was rounded once. Rounded once
from a float32 sum, a result is another than the correctly rounded one only where the sum's error
crosses a rounding border: with rms 2⁻²¹ of the result against a spacing of 2⁻¹⁰ (float16) or 2⁻⁷
that is one in 500 or fewer; where a bias of the same size is added after a first rounding, two in
seven are."""


def correctly_rounded_fraction(
    observed: NDArray[np.generic], expected: NDArray[np.float64]
) -> float:
    """Share of 16-bit results that equal the exact result rounded once: how many roundings there
    were.

    Args:
        observed: float16 or bfloat16, any shape, of random data with a bias of the products' size.
        expected: same shape, float64, the reference's result for the already rounded inputs.
    """
    return float(np.mean(observed == expected.astype(observed.dtype))) if observed.size else 1.0


CUT_OFF_FRACTION = 0.98
"""Share of results equal to the exact one cut off toward zero above which a 16-bit output was cut
off, not rounded. Cutting off a float32 sum gives it but for one in 500 (as
`ONE_ROUNDING_FRACTION`), rounding to nearest in one case of two."""

CUT_OFF_VALUES = 32
"""Fewest results by which that is told: rounded to nearest, all of 32 are lowered by chance once in
2³²."""


def is_cut_off(
    observed: NDArray[np.generic],
    product: NDArray[np.float64],
    bias: NDArray[np.float64] | None = None,
) -> bool:
    """Whether 16-bit results are exact ones with the lower bits dropped: errors up to twice those
    of rounding, all toward zero.

    Args:
        observed: float16 or bfloat16, any shape, of random data.
        product: same shape, float64, the reference's result for the already rounded inputs, before
            the bias.
        bias: what is added to the product once that has been cut off, and rounded to nearest; None
            for nothing.
    """
    if observed.size < CUT_OFF_VALUES:
        return False
    roundoff = unit_roundoff(observed.dtype)
    significand, exponent = np.frexp(product)
    cut = np.ldexp(np.trunc(significand / roundoff) * roundoff, exponent)
    expected = cut if bias is None else (cut + bias).astype(observed.dtype).astype(np.float64)
    return float(np.mean(observed.astype(np.float64) == expected)) >= CUT_OFF_FRACTION
