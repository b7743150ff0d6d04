"""What a layer does to each of its values, in NumPy, to the last bits of float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

_NEAR = (
    (3.20937758913846947e3, 3.77485237685302021e2, 1.13864154151050156e2, 3.16112374387056560,
     1.85777706184603153e-1),
    (2.84423683343917062e3, 1.28261652607737228e3, 2.44024637934444173e2, 2.36012909523441209e1,
     1.0),
)  # fmt: skip
_MIDDLE = (
    (1.23033935479799725e3, 2.05107837782607147e3, 1.71204761263407058e3, 8.81952221241769090e2,
     2.98635138197400131e2, 6.61191906371416295e1, 8.88314979438837594, 5.64188496988670089e-1,
     2.15311535474403846e-8),
    (1.23033935480374942e3, 3.43936767414372164e3, 4.36261909014324716e3, 3.29079923573345963e3,
     1.62138957456669019e3, 5.37181101862009858e2, 1.17693950891312499e2, 1.57449261107098347e1,
     1.0),
)  # fmt: skip
_FAR = (
    (6.58749161529837803e-4, 1.60837851487422766e-2, 1.25781726111229246e-1, 3.60344899949804439e-1,
     3.05326634961232344e-1, 1.63153871373020978e-2),
    (2.33520497626869185e-3, 6.05183413124413191e-2, 5.27905102951428412e-1, 1.87295284992346047,
     2.56852019228982242, 1.0),
)  # fmt: skip
"""Coefficients of three quotients of polynomials, lowest power first: Cody, "Rational Chebyshev
approximations for the error function" (1969), tables I to III; relative error below 1e-18."""


def _quotient(parts: tuple[tuple[float, ...], ...], x: NDArray[Any]) -> NDArray[np.float64]:
    over, under = (polynomial.polyval(x, part) for part in parts)
    return np.asarray(over / under)


def erf(x: NDArray[Any]) -> NDArray[np.float64]:
    """The error function, in float64; shape unchanged.

    Source: Cody (1969).
    """
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    near = wide * _quotient(_NEAR, np.minimum(size, 0.5) ** 2)
    bounded = np.clip(size, 0.5, 4.0)
    falling = np.exp(-(np.minimum(size, 30.0) ** 2))
    middle = 1 - falling * _quotient(_MIDDLE, bounded)
    inverse = 1 / np.maximum(size, 4.0) ** 2
    tail = (1 / np.sqrt(np.pi) - inverse * _quotient(_FAR, inverse)) / np.maximum(size, 4.0)
    beyond = np.where(size <= 4.0, middle, 1 - falling * tail)
    held = np.where(size <= 0.5, near, np.copysign(beyond, wide))
    return np.where(np.isnan(wide), wide, held)


def gelu(x: NDArray[Any]) -> NDArray[Any]:
    """x·Φ(x), Φ the normal distribution's: the exact one.

    Source: Hendrycks, Gimpel, "Gaussian Error Linear Units" (2016).
    """
    return np.asarray(x * (1 + erf(x / np.sqrt(2.0))) / 2, x.dtype)


def gelu_tanh(x: NDArray[Any]) -> NDArray[Any]:
    """x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2, at most 5e-4 from the exact one.

    Source: Hendrycks, Gimpel (2016); `jax.nn.gelu` where nothing is said.
    """
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return np.asarray(x * (1 + np.tanh(inner)) / 2, x.dtype)


def quick_gelu(x: NDArray[Any]) -> NDArray[Any]:
    """x·σ(1.702·x), at most 2e-2 from the exact one.

    Source: OpenAI CLIP, `model.py:QuickGELU`.
    """
    return np.asarray(x * (1 + np.tanh(0.851 * x)) / 2, x.dtype)


def silu(x: NDArray[Any]) -> NDArray[Any]:
    """x·σ(x).

    Source: Elfwing, Uchibe, Doya (2017).
    """
    return np.asarray(x * (1 + np.tanh(x / 2)) / 2, x.dtype)


ACTIVATIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "": lambda x: x,
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "gelu-tanh": gelu_tanh,
    "quick-gelu": quick_gelu,
    "hard-swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "silu": silu,
    "tanh": np.tanh,
}
"""By name; `gelu` is the exact one, `hard-swish` that of MobileNetV3 (2019)."""
