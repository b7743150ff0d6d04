"""Numbers stored in fewer bits: how wrong may a correct product of integers of 8 bits be, and what
was done to a kernel of float16?

A *lattice* holds the numbers s·(q − z) of a step s, a zero point z and integers q of a range. A
number x of that range is stored as one at most s/2 away from it, so with kernel and pixels stored

    Σ(x + δx)(w + δw) − Σxw = Σx·δw + Σδx·w + Σδx·δw,    |δx| ≤ s_x/2, |δw| ≤ s_w/2,

sums of integers being exact. Steps are those that the runtime chose: they are read from its model,
or made by its own rule from the images, and so is the bound. Two of them, as for roundings:

* deterministic: the sum of the magnitudes;
* probabilistic: each δ has mean zero on data that know nothing of the lattice, so that a sum of
  terms of at most Δᵢ exceeds λ·√ΣΔᵢ² with probability at most 2·exp(−λ²/2) (Hoeffding, JASA
  58(301), 1963, Theorem 2); of errors that are uniform, λ = 4 is 6.9 standard deviations.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .error import LAMBDA, Gate
from .patches import patchify
from .probe import Probe

QUOTIENT = 1 + 2.0**-15
"""By how much more than half a step a number moves: x/s is computed in float32, and errs by 2⁻²⁴ of
up to 255 steps."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """Where the numbers lie that an integer type holds.

    Args:
        step: distance of two of them, float64: one for all, or one for each output channel `(D,)`
            of a kernel, or for each image `(B,)`.
        low, high: the smallest and the largest of them; same shape.
    """

    step: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(
        cls, scale: ArrayLike, zero_point: ArrayLike, lowest: int = -128, highest: int = 127
    ) -> "Lattice":
        """The lattice of a scale, a zero point and a range of integers, as runtimes keep them."""
        step = np.abs(np.asarray(scale, np.float64))
        zero = np.asarray(zero_point, np.float64)
        return cls(step, step * (lowest - zero), step * (highest - zero))

    @classmethod
    def spanning(cls, values: NDArray[np.generic], each: bool = False) -> "Lattice":
        """The lattice of 256 numbers from the least to the largest value, zero among them, as
        runtimes choose it for an input when they see it (ONNX's DynamicQuantizeLinear; LiteRT's
        dynamic range).

        Args:
            values: any shape.
            each: whether along the first axis each has its own.
        """
        axes = tuple(range(1, values.ndim)) if each else None
        wide = values.astype(np.float64)
        low = np.minimum(wide.min(axis=axes), 0)
        high = np.maximum(wide.max(axis=axes), 0)
        step = (high - low) / 255
        # The zero point is a whole number, so that the ends may lie half a step off.
        return cls(step, low - step / 2, high + step / 2)

    @property
    def half(self) -> NDArray[np.float64]:
        """The largest error of a number in the range."""
        return self.step / 2 * QUOTIENT

    def beyond(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far values lie outside the range, zero inside; along the first axis, where there is a
        lattice for each."""
        shape = (-1, *(1,) * (values.ndim - 1)) if self.step.ndim else ()
        low, high = self.low.reshape(shape), self.high.reshape(shape)
        outside = np.maximum(low - values, values - high)
        # an end of the range may lie half a step off, and that is in the half step
        return np.where(outside > self.half.reshape(shape), outside, 0.0)


@dataclass(frozen=True, eq=False)
class Quantization:
    """What of a computation is stored as integers, and on which lattices.

    Args:
        kernel: of the kernel `(D, *patch, C)`.
        pixels: of the images, or None where they are used as they are.
        tokens: of the result, or None where it is not stored so.
        bias: step of the bias `(D,)`, or None where it is used as it is.
    """

    kernel: Lattice
    pixels: Lattice | None = None
    tokens: Lattice | None = None
    bias: NDArray[np.float64] | None = None

    def of_first(self, count: int) -> "Quantization":
        """That of the first so many images."""
        if self.pixels is None or not self.pixels.step.ndim:
            return self
        parts = (part[:count] for part in (self.pixels.step, self.pixels.low, self.pixels.high))
        return replace(self, pixels=Lattice(*parts))

    @property
    def words(self) -> str:
        """The choice in words, as `delivered` tells it."""
        parts = [f"int8 kernel, a step a {'channel' if self.kernel.step.size > 1 else 'kernel'}"]
        if self.pixels is not None:
            seen = "an image" if self.pixels.step.ndim else "a batch"
            whose = seen if self.tokens is None else "known before"
            parts.append(f"int8 pixels, a step {whose}")
        return "; ".join(parts)


class QuantizationError(NamedTuple):
    """What storing numbers as integers may cost each token, `(B, N, D)`.

    Args:
        certain: the sum of the magnitudes.
        random_square: ΣΔᵢ² of what has mean zero.
        beside: what has not: values outside a range, and the one rounding of the result.
    """

    certain: NDArray[np.float64]
    random_square: NDArray[np.float64]
    beside: NDArray[np.float64]

    def bound(self, gate: Gate) -> NDArray[np.float64]:
        """The bound of a gate; under the probabilistic one whichever is smaller."""
        certain = self.certain + self.beside
        if gate != "probabilistic":
            return certain
        return np.minimum(certain, LAMBDA * np.sqrt(self.random_square) + self.beside)


def quantization_error(probe: Probe, quantization: Quantization) -> QuantizationError:
    """The errors that storing kernel, pixels, bias and tokens of a probe as integers may make."""
    spec, batch = probe.spec, probe.images.shape[0]
    patches = patchify(probe.images, spec).reshape(-1, spec.patch_values).astype(np.float64)
    kernel = probe.weights.kernel.reshape(spec.embed_dim, -1).astype(np.float64)
    expected = probe.expectations["forward"].value
    shape = expected.shape

    def each_channel(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.broadcast_to(values.reshape(-1, 1), (spec.embed_dim, 1))

    def each_image(values: NDArray[np.float64]) -> NDArray[np.float64]:
        rows = np.broadcast_to(values.reshape(-1), (batch,)) if values.ndim == 0 else values
        return np.repeat(rows, spec.num_patches)[:, None]

    of_kernel = each_channel(quantization.kernel.half)
    cut_kernel = quantization.kernel.beyond(kernel)
    if quantization.pixels is None:
        of_pixels, cut_pixels = np.zeros((len(patches), 1)), np.zeros_like(patches)
    else:
        of_pixels = each_image(quantization.pixels.half)
        by_image = patches.reshape(batch, spec.num_patches, -1)
        cut_pixels = quantization.pixels.beyond(by_image).reshape(patches.shape)
    ones = np.ones((1, spec.patch_values))
    sizes, weights = np.abs(patches), np.abs(kernel)
    certain = (sizes @ (of_kernel * ones).T + (of_pixels * ones) @ (weights + of_kernel).T).reshape(
        shape
    )
    random_square = (
        np.square(sizes) @ np.square(of_kernel * ones).T
        + np.square(of_pixels * ones) @ (np.square(weights) + np.square(of_kernel)).T
    ).reshape(shape)
    beside = np.zeros(shape)
    if cut_kernel.any():
        beside += ((sizes + of_pixels) @ cut_kernel.T).reshape(shape)
    if cut_pixels.any():
        beside += (cut_pixels @ (weights + of_kernel + cut_kernel).T).reshape(shape)
    if quantization.bias is not None:
        half_bias = quantization.bias / 2 * QUOTIENT
        certain += half_bias
        random_square += np.square(half_bias)
    if quantization.tokens is not None:
        beside += quantization.tokens.half + quantization.tokens.beyond(expected)
    return QuantizationError(certain, random_square, beside)


def quantization_variance(error: QuantizationError, scale: NDArray[np.float64]) -> float:
    """What storing numbers as integers adds to the mean square of (ŷ − y)/scale, at most: as the
    other terms of `effective_bits_floor` it takes the largest error of each number, where errors
    are uniform and their square a third of that."""
    squares = error.random_square + np.square(error.beside)
    relative = np.divide(squares, np.square(scale), out=np.zeros_like(squares), where=scale != 0)
    mean = float(relative.mean()) if relative.size else 0.0
    return mean if math.isfinite(mean) else math.inf


SMALLEST_NORMAL = 2.0**-14
"""Of float16; below it numbers have fewer bits, and some converters none."""


def float16_kernels(kernel: NDArray[np.generic]) -> dict[str, NDArray[np.float64]]:
    """What converters make of a kernel that they store as float16, the right one first."""
    wide = kernel.astype(np.float64)
    with np.errstate(over="ignore"):
        rounded = wide.astype(np.float16)
    toward_zero = np.nextafter(rounded, np.float16(0))
    cut_off = np.where(np.abs(rounded.astype(np.float64)) > np.abs(wide), toward_zero, rounded)
    small = np.abs(wide) < SMALLEST_NORMAL
    kernels = {
        "": rounded,
        ", cut off toward zero": cut_off,
        ", the smallest lost": np.where(small, 0, rounded),
        ", cut off, the smallest lost": np.where(small, 0, cut_off),
    }
    return {name: stored.astype(np.float64) for name, stored in kernels.items()}


def float16_storage(probe: Probe, observed: NDArray[np.float64]) -> str:
    """What was done to a kernel that is stored as float16, by the tokens `(B, N, D)` of a random
    problem without bias: the first of `float16_kernels` unless another is nearer by half."""
    patches = patchify(probe.images, probe.spec).reshape(-1, probe.spec.patch_values)
    rows = patches.astype(np.float64)
    kernel = probe.weights.kernel.reshape(probe.spec.embed_dim, -1)
    seen = observed.reshape(len(rows), -1)
    errors = {
        name: float(np.sqrt(np.mean((seen - rows @ stored.T) ** 2)))
        for name, stored in float16_kernels(kernel).items()
    }
    nearest = min(errors, key=lambda name: errors[name])
    return nearest if errors[nearest] < errors[""] / 2 else ""
