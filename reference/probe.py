"""What a probe is: weights, images, and what the reference makes of them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .embed import patch_embed_gradients
from .error import Gate
from .exact import rounded_token_values, sample_indices
from .patches import patchify
from .sequence import assemble_sequence
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

Direction = Literal["forward", "grad_image", "grad_kernel", "grad_bias"]


DIRECTIONS: tuple[Direction, ...] = ("forward", "grad_image", "grad_kernel", "grad_bias")


@dataclass(frozen=True)
class Expectation:
    """What one direction of a probe must give: the value, and what its error is measured against.

    Args:
        value: float64, canonical shape of the direction: tokens `(B, N, D)`, image, kernel or bias.
        gauge: same shape, the sum of the absolute values of the terms.
        terms: how many terms one output adds up.
        scale: same shape, the root of the sum of the terms' squares; only of a fingerprint, whose
            effective bits are told by it.
        largest_input: largest magnitude among the factors.
        partial: same shape, the size of the result before its bias is added, or None where nothing
            is added to it.
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


EXACT_SAMPLES = 512
"""Outputs of a float64 problem that the exact oracle computes, corners and edges among them. A
defect that touches one output in a hundred is missed with probability 0.99⁵¹² = 0.6%."""


def _exact_sample(probe: "Probe") -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    spec, batch = probe.spec, probe.images.shape[0]
    shape = (batch, *spec.grid, spec.embed_dim)
    indices = sample_indices(shape, EXACT_SAMPLES, seed=batch)
    before = [pair[0] for pair in spec.effective_padding]
    values = rounded_token_values(
        probe.images, probe.weights.kernel, probe.weights.bias, spec.stride, before, indices
    )
    return np.ravel_multi_index(np.array(indices).T, shape), values


@dataclass(frozen=True, eq=False)
class Probe:
    """One problem with a known answer.

    Args:
        name: as in the results.
        spec: the sizes.
        images: `(B, C, H, W)`, in the dtype under test.
        weights: kernel and bias, in the same dtype.
        grad_tokens: `(B, N, D)`, the gradient that is sent back.
        gate: how forward results are judged; gradients too, unless `gradients_exact` says
            otherwise.
        gradients: the directions, beside forward, that this probe asks for.
        to_sequence: whether the output is the sequence (prefix tokens and positions added) instead
            of the tokens.
        fingerprint: whether effective bits may be read from it (zero-mean random data, zero bias).
        short: whether images, kernel and gradient have 8 significand bits at most, so that rounding
            them to TF32 or bfloat16 changes nothing and an exact probe stays exact for an
            implementation that declares to do so.
        explain: turns a wrong output into a sentence, or None.
    """

    name: str
    spec: PatchEmbedSpec
    images: NDArray[np.generic]
    weights: PatchEmbedWeights
    grad_tokens: NDArray[np.generic]
    gate: Gate
    gradients: tuple[Direction, ...] = ()
    to_sequence: bool = False
    fingerprint: bool = False
    short: bool = False
    explain: Callable[[NDArray[np.float64]], str] | None = None

    def __post_init__(self) -> None:
        # An implementation must not be able to change the problem that it is judged by.
        for array in (self.images, self.weights.kernel, self.weights.bias, self.grad_tokens):
            if array is not None:
                array.flags.writeable = False

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions that this probe judges, forward first."""
        return ("forward", *self.gradients)

    @functools.cached_property
    def expectations(self) -> dict[Direction, Expectation]:
        """The reference's answer for each direction of this probe, computed once; asked for before
        any implementation is called."""
        return expectations(self)


def expectations(probe: Probe) -> dict[Direction, Expectation]:
    """Compute the reference's answer in float64, with gauges and scales, for the probe's
    directions.

    Gradients have sums of their own: dX adds up D terms for each patch that sees the pixel, dW and
    db B·N terms.
    """
    spec, wide = probe.spec, np.float64
    images = probe.images.astype(wide)
    kernel = probe.weights.kernel.astype(wide)
    bias = (
        np.zeros(spec.embed_dim) if probe.weights.bias is None else probe.weights.bias.astype(wide)
    )
    gradient = probe.grad_tokens.astype(wide)

    def magnitude(*arrays: NDArray[np.float64]) -> float:
        return max((float(np.abs(array).max(initial=0)) for array in arrays), default=0.0)

    patches = patchify(probe.images, spec).reshape(-1, spec.patch_values).astype(wide)
    matrix = kernel.reshape(spec.embed_dim, spec.patch_values)

    def products(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Any:
        found = change(patches) @ change(matrix).T
        return found.reshape(images.shape[0], spec.num_patches, spec.embed_dim)

    def result(tokens: NDArray[np.float64], change: Callable[..., Any]) -> NDArray[np.float64]:
        if not probe.to_sequence:
            return tokens
        return assemble_sequence(tokens, probe.weights.astype(wide).map(change), spec)

    product = products(np.positive)

    def rounded_before() -> NDArray[np.float64]:
        """What is rounded on the way to the result: the product, and for a sequence the token (or
        prefix token) before its position."""
        if not probe.to_sequence:
            return np.abs(product)
        plain = probe.weights.astype(wide).map(np.abs)
        tokens = np.abs(product) + np.abs(product + bias)
        positions = None if plain.positions is None else np.zeros_like(plain.positions)
        return assemble_sequence(tokens, dataclasses.replace(plain, positions=positions), spec)

    found: dict[Direction, Expectation] = {
        "forward": Expectation(
            value=result(product + bias, np.positive),
            gauge=result(products(np.abs) + np.abs(bias), np.abs),
            terms=spec.patch_values + 1 + probe.to_sequence,
            scale=np.sqrt(result(products(np.square) + bias**2, np.square))
            if probe.fingerprint
            else None,
            largest_input=magnitude(images, kernel),
            partial=rounded_before(),
            exact=_exact_sample(probe)
            if probe.images.dtype == np.float64 and probe.gate != "exact" and not probe.to_sequence
            else None,
        )
    }
    if probe.gradients:
        weights = PatchEmbedWeights(kernel)
        values = patch_embed_gradients(images, weights, spec, gradient)
        gauges = patch_embed_gradients(
            np.abs(images), PatchEmbedWeights(np.abs(kernel)), spec, np.abs(gradient)
        )
        sharing = math.prod(
            math.ceil(patch / step)
            for patch, step in zip(spec.patch_size, spec.stride, strict=True)
        )
        rows = gradient.shape[0] * spec.num_patches
        lengths = {"image": spec.embed_dim * sharing, "kernel": rows, "bias": rows}
        factors = {"image": (gradient, kernel), "kernel": (gradient, images), "bias": (gradient,)}
        for name, direction in (
            ("image", "grad_image"),
            ("kernel", "grad_kernel"),
            ("bias", "grad_bias"),
        ):
            found[direction] = Expectation(  # type: ignore[index]
                value=getattr(values, name),
                gauge=getattr(gauges, name),
                terms=lengths[name],
                scale=None,
                largest_input=magnitude(*factors[name]),
            )
    return {direction: found[direction] for direction in probe.directions}
