"""What the reference makes of a problem: values in float64, and what their error is measured
against."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .embed import patch_embed_gradients
from .error import Gate, gamma, unit_roundoff
from .exact import rounded_token_values, sample_indices
from .patches import patchify
from .sequence import assemble_sequence
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

Direction = Literal["forward", "grad_image", "grad_kernel", "grad_bias"]


@dataclass(frozen=True)
class Expectation:
    """What one direction of a probe must give: the value, and what its error is measured against.

    Args:
        value: float64, canonical shape of the direction: tokens `(B, N, D)`, image, kernel or bias.
        gauge: same shape, the sum of the absolute values of the terms, or up to 1 in 1000 more.
        terms: how many terms one output adds up.
        scale: same shape, the root of the sum of the terms' squares, as exact as `gauge`; only of a
            fingerprint, whose effective bits are told by it.
        largest_input: largest magnitude among the factors.
        partial: same shape, the size of the result before its bias is added; None where nothing is
            added to it, and where results are not rounded on the way, in types of 32 bits or more.
        exact: flat indices into `value` and the exact results there, rounded once, from the second
            oracle; of float64 problems alone, where the reference itself errs as much as what it
            judges.
    """

    value: NDArray[np.float64]
    gauge: NDArray[np.float64]
    terms: int
    scale: NDArray[np.float64] | None
    largest_input: float
    partial: NDArray[np.float64] | None = None
    exact: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None


class Factor:
    """A kernel as the reference multiplies by it; what is made of it alone is made once.

    Args:
        kernel: shape `(D, *patch, C)`.
    """

    def __init__(self, kernel: NDArray[Any]) -> None:
        self.matrix = kernel.reshape(kernel.shape[0], -1).astype(np.float64)
        self.largest = float(np.abs(self.matrix).max(initial=0))

    @functools.cached_property
    def _magnitudes(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        return _unit_rows(self.matrix)

    @functools.cached_property
    def _squares(self) -> NDArray[np.float32]:
        return np.square(self._magnitudes[0])

    def products(self, patches: NDArray[np.float64]) -> NDArray[np.float64]:
        """Patches `(rows, K)` times the kernel, `(rows, D)`."""
        return patches @ self.matrix.T

    def magnitudes(self, patches: NDArray[Any]) -> NDArray[np.float64]:
        """Σ|x||w| for patches `(rows, K)`, `(rows, D)`, in float32 and rounded up: a bound may be
        up to (K + 3)·2⁻²⁴ of it wider."""
        rows, of_rows = _unit_rows(patches)
        mine, of_mine = self._magnitudes
        return _rounded_up(rows, mine) * of_rows[:, None] * of_mine

    def squares(self, patches: NDArray[Any]) -> NDArray[np.float64]:
        """The same of Σx²w²."""
        rows, of_rows = _unit_rows(patches)
        of_mine = self._magnitudes[1]
        return _rounded_up(np.square(rows), self._squares) * of_rows[:, None] ** 2 * of_mine**2


def _unit_rows(rows: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The magnitudes of rows as fractions of the largest of each, and those: nothing overflows in
    float32, and what is lost is below 2⁻¹²⁶ of the largest."""
    sizes = np.abs(rows)
    if sizes.dtype.itemsize < 4:
        sizes = sizes.astype(np.float32)
    largest = sizes.max(axis=1, initial=0)
    largest[largest == 0] = 1
    return (sizes / largest[:, None]).astype(np.float32), largest.astype(np.float64)


def _rounded_up(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sums of products of fractions, none of them below what it is exactly: two roundings of the
    factors (four of squares), one of each product, K − 1 of the sum, and all that underflows."""
    terms = left.shape[1]
    with np.errstate(under="ignore"):
        sums: NDArray[np.float64] = (left @ right.T).astype(np.float64)
    sums *= 1 + gamma(terms + 4, 2.0**-24)
    sums += terms * 2.0**-125
    return sums


EXACT_SAMPLES = 512
"""Outputs of a float64 problem that the exact oracle computes, corners and edges among them. A
defect that touches one output in a hundred is missed with probability 0.99⁵¹² = 0.6%."""


def _exact_sample(
    images: NDArray[Any], weights: PatchEmbedWeights, spec: PatchEmbedSpec
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    batch = images.shape[0]
    shape = (batch, *spec.grid, spec.embed_dim)
    indices = sample_indices(shape, EXACT_SAMPLES, seed=batch)
    before = [pair[0] for pair in spec.effective_padding]
    values = rounded_token_values(
        images, weights.kernel, weights.bias, spec.stride, before, indices
    )
    return np.ravel_multi_index(np.array(indices).T, shape), values


def _largest(*arrays: NDArray[Any]) -> float:
    return max((float(np.abs(array).max(initial=0)) for array in arrays), default=0.0)


def forward_expectation(
    images: NDArray[Any],
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    gate: Gate,
    *,
    to_sequence: bool,
    fingerprint: bool,
    factor: Factor | None = None,
) -> Expectation:
    """The reference's tokens, or sequence, in float64, with their gauge.

    Args:
        images: shape `(B, C, H, W)`, in the dtype under test.
        weights: in the same dtype.
        spec: the sizes.
        gate: how results are judged.
        to_sequence: whether prefix tokens and positions are added.
        fingerprint: whether the scale is asked for too.
        factor: the kernel as it is multiplied by, where several problems share it.
    """
    factor = Factor(weights.kernel) if factor is None else factor
    patches = patchify(images, spec).reshape(-1, spec.patch_values)
    bias: Any = 0.0 if weights.bias is None else weights.bias.astype(np.float64)
    shape = (images.shape[0], spec.num_patches, spec.embed_dim)

    def result(tokens: NDArray[np.float64], change: Callable[..., Any]) -> NDArray[np.float64]:
        if not to_sequence:
            return tokens
        around = weights.map(lambda array: change(array.astype(np.float64)), ("kernel",))
        return assemble_sequence(tokens, around, spec)

    def rounded_before() -> NDArray[np.float64]:
        """What is rounded on the way to the result: the product, and for a sequence the token (or
        prefix token) before its position."""
        if not to_sequence:
            return np.abs(product)
        tokens = np.abs(product) + np.abs(product + bias)
        around = weights.map(lambda array: np.abs(array.astype(np.float64)), ("kernel",))
        positions = None if around.positions is None else np.zeros_like(around.positions)
        return assemble_sequence(tokens, dataclasses.replace(around, positions=positions), spec)

    wide = patches.astype(np.float64)
    product = factor.products(wide).reshape(shape)
    if gate == "exact":  # whose sums are shown to be exact by their gauge
        gauge = np.abs(wide) @ np.abs(factor.matrix).T
    else:
        gauge = factor.magnitudes(patches)
    scale = None
    if fingerprint:
        scale = result(factor.squares(patches).reshape(shape) + bias**2, np.square)
    return Expectation(
        value=result(product + bias, np.positive),
        gauge=result(gauge.reshape(shape) + np.abs(bias), np.abs),
        terms=spec.patch_values + 1 + to_sequence,
        scale=None if scale is None else np.sqrt(scale),
        largest_input=max(_largest(images.astype(np.float64)), factor.largest),
        partial=rounded_before() if unit_roundoff(images.dtype) > 2.0**-24 else None,
        exact=_exact_sample(images, weights, spec)
        if images.dtype == np.float64 and gate != "exact" and not to_sequence
        else None,
    )


def gradient_expectations(
    images: NDArray[Any], kernel: NDArray[Any], grad_tokens: NDArray[Any], spec: PatchEmbedSpec
) -> dict[Direction, Expectation]:
    """The reference's gradients in float64, with their gauges.

    They have sums of their own: dX adds up D terms for each patch that sees the pixel, dW and db
    B·N terms.

    Args:
        images: shape `(B, C, H, W)`.
        kernel: shape `(D, *patch, C)`.
        grad_tokens: shape `(B, N, D)`, the gradient that is sent back.
        spec: the sizes.
    """
    images, kernel, gradient = (array.astype(np.float64) for array in (images, kernel, grad_tokens))
    values = patch_embed_gradients(images, PatchEmbedWeights(kernel), spec, gradient)
    gauges = patch_embed_gradients(
        np.abs(images), PatchEmbedWeights(np.abs(kernel)), spec, np.abs(gradient)
    )
    sharing = math.prod(
        math.ceil(patch / step) for patch, step in zip(spec.patch_size, spec.stride, strict=True)
    )
    rows = gradient.shape[0] * spec.num_patches

    def expected(part: str, terms: int, *factors: NDArray[Any]) -> Expectation:
        sums = getattr(values, part), getattr(gauges, part)
        return Expectation(*sums, terms=terms, scale=None, largest_input=_largest(*factors))

    return {
        "grad_image": expected("image", spec.embed_dim * sharing, gradient, kernel),
        "grad_kernel": expected("kernel", rows, gradient, images),
        "grad_bias": expected("bias", rows, gradient),
    }
