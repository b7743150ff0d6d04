"""A running error analysis: values in float64, and beside each what a correct computation in a
declared arithmetic may err by.

Two kinds of error are kept apart, because a matrix treats them differently:

* *spread*, errors of different channels that know nothing of one another. Those of the terms of a
  sum add up like a random walk, |Σ w·e| ≤ √Σ w²·spread² (Hoeffding's inequality, with the λ of the
  probabilistic bound already in `spread`; Higham & Mary, SIAM J. Sci. Comput. 41(5), 2019);
* *shared*, directions along which all channels of a token err together, by one unknown factor of at
  most 1: a norm's mean and its deviation are one number each for a whole token, and a matrix makes
  W·d of such a direction, however large.

Between tokens nothing is taken to be independent: tokens may be equal, and then err equally. Errors
add up by the triangle inequality wherever attention or a mean mixes them.

Every rounding enters at λ·u of what is rounded, λ times more than it can be. Sums enter at
λ·√n·u·(‖t‖ + |s|), t the n terms and s their sum: in an order that knows nothing of the terms'
signs, the k-th partial sum differs from k/n·s by at most ‖t‖/2 in root mean square (Serfling,
"Probability inequalities for the sum in sampling without replacement", 1974), so that n roundings
of partial sums are a random walk of √n·u·(‖t‖/2 + |s|/√3) at most, and blocked, fused or pairwise
sums less. The gauge |W||x| of `reference.error` bounds sums in any order; at n = 768 it is twenty
times larger, and would let tanh GELU pass for the exact one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activations import ACTIVATIONS, erf
from .encoder_weights import Linear
from .error import LAMBDA, ArithmeticModel, unit_roundoff
from .errors import require_choice
from .weights import LayerNorm

Array = NDArray[np.float64]

DTYPES = ("float64", "float32", "float16", "bfloat16")

FUNCTION_ERROR = 8.0
"""Units of roundoff, 4 ulp, that a library's exp, erf or tanh errs by at most: CUDA documents 2 ulp
for float32 `erff`, `expf` and `tanhf`, SLEEF 1 to 3.5; XLA's rational tanh reaches 4."""


@dataclass(frozen=True)
class Arithmetic:
    """What a declared type rounds by.

    Args:
        result: u of the type in which every operation leaves its result.
        sums: u of products and sums, with that of the reference's own float64.
        smallest: what a result of that type may lose below its smallest number.
    """

    result: float
    sums: float
    smallest: float

    @classmethod
    def of(cls, dtype: str) -> "Arithmetic":
        """Raises PatchParityError for a type that is none of float64, float32, float16, bfloat16;
        the 16-bit ones add up in float32."""
        require_choice("dtype", dtype, DTYPES)
        model = ArithmeticModel.of(dtype)
        own = unit_roundoff(np.float64)
        return cls((model.output or model.accumulate) + own, model.accumulate + own, model.smallest)

    def rounding(self, size: Array, times: float = 1.0) -> Array:
        """Of numbers of that size, each rounded so many times."""
        return LAMBDA * math.sqrt(times) * self.result * np.abs(size) + self.smallest

    def summing(self, terms: int, norm: Array, total: Array) -> Array:
        """Of a sum of `terms` numbers whose root of squares is `norm` and whose sum is `total`."""
        return LAMBDA * math.sqrt(terms) * self.sums * (norm + np.abs(total))


@dataclass(frozen=True, eq=False)
class Running:
    """Values and what they may err by, all of one shape.

    Args:
        values: of the exact computation.
        spread: bound of the errors that channels do not share.
        shared: directions of those that they do.
    """

    values: Array
    spread: Array
    shared: tuple[Array, ...] = ()

    @classmethod
    def exact(cls, values: NDArray[Any]) -> "Running":
        """Numbers that err by nothing."""
        wide = np.asarray(values, np.float64)
        return cls(wide, np.zeros_like(wide))

    @property
    def bound(self) -> Array:
        """Of both kinds together."""
        return root_of_squares(self.spread, *self.shared)

    def map(self, moved: Callable[[Array], Array]) -> "Running":
        """Reshaped, transposed or cut."""
        return Running(
            moved(self.values), moved(self.spread), tuple(moved(each) for each in self.shared)
        )

    def with_spread(self, *more: Array) -> "Running":
        """With what else errs, channel by channel."""
        return replace(self, spread=root_of_squares(self.spread, *more))


def root_of_squares(*parts: Array) -> Array:
    """Of errors that are independent, the size of their sum."""
    total = np.square(parts[0])
    for part in parts[1:]:
        total = total + np.square(part)
    return np.asarray(np.sqrt(total))


def linear(x: Running, matrix: Linear, arithmetic: Arithmetic) -> Running:
    """W·x + b: rounded once with a fused bias, twice without."""
    weight = matrix.weight.astype(np.float64).T
    squares = np.square(weight)
    product = x.values @ weight
    norm = np.square(x.values) @ squares
    values, terms = product, weight.shape[0]
    if matrix.bias is not None:
        bias = matrix.bias.astype(np.float64)
        values, terms, norm = product + bias, terms + 1, norm + np.square(bias)
    spread = root_of_squares(
        np.sqrt(np.square(x.spread) @ squares),
        arithmetic.summing(terms, np.sqrt(norm), root_of_squares(product, values)),
        arithmetic.rounding(root_of_squares(product, values)),
    )
    return Running(values, spread, tuple(each @ weight for each in x.shared))


def layer_norm(x: Running, norm: LayerNorm, epsilon: float, arithmetic: Arithmetic) -> Running:
    """(x − mean)/√(var + ε)·scale + shift, or without the mean.

    The variance may come from Σ(x − mean)² or, as flax computes it, from Σx² less mean²; what errs
    in it is shared, and so is what errs in the mean. In 16-bit types mean, variance, root and
    quotient may each be rounded to the type, or to float32.
    """
    width = x.values.shape[-1]
    mean = x.values.mean(axis=-1, keepdims=True) if norm.centered else np.zeros(())
    kept = x.values - mean
    variance = np.square(kept).mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(variance + epsilon)
    scale = norm.scale.astype(np.float64) * inverse
    scaled = kept * scale
    values = scaled if norm.shift is None else scaled + norm.shift.astype(np.float64)
    total = x.bound
    mean_error = np.zeros(()) if not norm.centered else _of_mean(x, mean, width, arithmetic)
    shared = []
    for each in x.shared:
        centered = each - each.mean(axis=-1, keepdims=True) if norm.centered else each
        along = (kept * each).mean(axis=-1, keepdims=True) * np.square(inverse)
        shared.append(scale * (centered - kept * along))
    of_variance = root_of_squares(
        LAMBDA * 2 * math.sqrt(width) * arithmetic.sums * (variance + 2 * np.square(mean)),
        arithmetic.rounding(variance + epsilon, times=VARIANCE_ROUNDINGS),
        2 / width * np.sqrt(np.square(kept * x.spread).sum(axis=-1, keepdims=True)),
        np.square(mean_error) + np.square(total).mean(axis=-1, keepdims=True),
    )
    # A variance is never below 0, whatever errs in it.
    least = np.maximum(variance - of_variance, 0) + epsilon
    longer = np.sqrt((variance + epsilon) / least) - 1
    shared += [scaled * longer]
    if norm.centered:
        shared += [scale * mean_error]
    own = root_of_squares(
        LAMBDA * arithmetic.sums * np.abs(scale) * (np.abs(x.values) + np.abs(mean)),
        arithmetic.rounding(scaled, times=3.0),
        arithmetic.rounding(values),
    )
    spread = (1 + longer) * root_of_squares(scale * x.spread, own)
    return _capped(Running(values, spread, tuple(shared)), own, norm.scale, scaled)


def _capped(normed: Running, own: Array, scale: NDArray[Any], scaled: Array) -> Running:
    """No more than a norm can give: squares of what it makes of n channels add up to n at most,
    whatever came in."""
    longest = math.sqrt(scaled.shape[-1]) * np.abs(scale.astype(np.float64)) + np.abs(scaled) + own
    beyond = normed.bound > longest
    if not beyond.any():
        return normed
    shared = tuple(np.where(beyond, 0, each) for each in normed.shared)
    return Running(normed.values, np.where(beyond, longest, normed.spread), shared)


VARIANCE_ROUNDINGS = 11.0
"""Squares of the roundings that a variance meets: its squares, itself, with ε added, and twice each
those of the root and of the quotient, since half of what errs in a variance errs in its root."""


def _of_mean(x: Running, mean: Array, width: int, arithmetic: Arithmetic) -> Array:
    norm = np.sqrt(np.square(x.values).sum(axis=-1, keepdims=True))
    return root_of_squares(
        arithmetic.summing(width, norm, mean * width) / width,
        LAMBDA * arithmetic.result * mean,
        np.sqrt(np.square(x.spread).sum(axis=-1, keepdims=True)) / width,
    )


def _bell(x: Array) -> Array:
    return np.asarray(np.exp(-np.square(x) / 2) / math.sqrt(2 * math.pi))


def _slope_of_gelu(x: Array) -> Array:
    return np.asarray((1 + erf(x / math.sqrt(2))) / 2 + x * _bell(x))


def _slope_of_gelu_tanh(x: Array) -> Array:
    factor = math.sqrt(2 / math.pi)
    bent = np.tanh(factor * (x + 0.044715 * x**3))
    return np.asarray((1 + bent) / 2 + x * (1 - bent**2) / 2 * factor * (1 + 3 * 0.044715 * x**2))


def _slope_of_sigmoid_times(x: Array, steepness: float) -> Array:
    sigmoid = (1 + np.tanh(steepness * x / 2)) / 2
    return np.asarray(sigmoid * (1 + steepness * x * (1 - sigmoid)))


@dataclass(frozen=True)
class Bend:
    """How an activation carries an error on.

    Args:
        slope: its derivative.
        steepest: the largest magnitude of that.
        curvature: the largest magnitude of the second derivative.
    """

    slope: Callable[[Array], Array]
    steepest: float
    curvature: float


BENDS: dict[str, Bend] = {
    "identity": Bend(np.ones_like, 1.0, 0.0),
    "relu": Bend(lambda x: (x > 0).astype(np.float64), 1.0, math.inf),
    "gelu": Bend(_slope_of_gelu, 1.13, 0.8),
    "gelu-tanh": Bend(_slope_of_gelu_tanh, 1.13, 0.8),
    "quick-gelu": Bend(lambda x: _slope_of_sigmoid_times(x, 1.702), 1.1, 0.86),
    "silu": Bend(lambda x: _slope_of_sigmoid_times(x, 1.0), 1.1, 0.5),
    "tanh": Bend(lambda x: 1 - np.square(np.tanh(x)), 1.0, 0.77),
}
"""By the name of the activation. Maxima, rounded up: of x·Φ(x), a slope of 1.1290 at x = √2 and a
second derivative of 2φ(0) = 0.7979; of x·σ(a·x), 1.0998 and a/2; of tanh, 1 and 4/(3√3) = 0.7698. A
test compares them with differences."""


def activate(x: Running, name: str, arithmetic: Arithmetic) -> Running:
    """An activation: |f(x + e) − f(x)| ≤ |f′(x)|·e + max|f″|·e²/2, and the library's own error, of
    one function of size 1 at most, times x."""
    bend = BENDS[name]
    values, slope, bound = ACTIVATIONS[name](x.values), bend.slope(x.values), x.bound
    own = arithmetic.rounding(values)
    if name == "relu":
        beyond = np.maximum(bound - np.abs(x.values), 0)  # where the sign is not known
    else:
        beyond = np.minimum(bend.curvature / 2 * bound, 2 * bend.steepest) * bound
        own = root_of_squares(own, arithmetic.rounding(x.values))
        own += LAMBDA * FUNCTION_ERROR * arithmetic.sums * np.abs(x.values)
    shared = tuple(slope * each for each in x.shared)
    spread = root_of_squares(np.abs(slope) * x.spread + beyond, own)
    return Running(values, spread, shared)


def multiply(a: Running, b: Running, arithmetic: Arithmetic) -> Running:
    """a·b, of two that were made of one token: the directions of either are those of the other."""
    values = a.values * b.values
    shared = tuple(
        each * b.values + a.values * other for each, other in zip(a.shared, b.shared, strict=True)
    )
    spread = root_of_squares(a.spread * b.values, a.values * b.spread, arithmetic.rounding(values))
    return Running(values, spread + a.bound * b.bound, shared)


def scale_by(x: Running, factor: Array, arithmetic: Arithmetic) -> Running:
    """x·factor, the factor exact."""
    scaled = x.map(lambda each: each * factor)
    scaled = replace(scaled, spread=np.abs(scaled.spread))
    return scaled.with_spread(arithmetic.rounding(scaled.values))


def add(a: Running, b: Running, arithmetic: Arithmetic) -> Running:
    """a + b, of errors that need not be independent: numbers that hardly differ are rounded in the
    same way, and so are the sums of a residual stream to which little is added."""
    values = a.values + b.values
    return Running(values, a.bound + b.bound + arithmetic.rounding(values))
