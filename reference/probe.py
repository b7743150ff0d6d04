"""What a probe is: one problem with weights, images and a known answer."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .error import Gate
from .expectation import (
    Direction,
    Expectation,
    Factor,
    forward_expectation,
    gradient_expectations,
)
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

DIRECTIONS: tuple[Direction, ...] = ("forward", "grad_image", "grad_kernel", "grad_bias")


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
        factor: the kernel as the reference multiplies by it, where several probes share it.
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
    factor: Factor | None = None

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
        expectations: dict[Direction, Expectation] = {
            "forward": forward_expectation(
                self.images,
                self.weights,
                self.spec,
                self.gate,
                to_sequence=self.to_sequence,
                fingerprint=self.fingerprint,
                factor=self.factor,
            )
        }
        if self.gradients:
            sent_back = self.grad_tokens
            expectations |= gradient_expectations(
                self.images, self.weights.kernel, sent_back, self.spec
            )
        return {direction: expectations[direction] for direction in self.directions}
