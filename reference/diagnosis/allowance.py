"""How far an output may lie from what a program gives, by the rounding of its arithmetic alone."""

import dataclasses
import math
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..error import ArithmeticModel, bound_ratio, error_bound
from ..pipeline import Array, Pipeline
from ..sequence import assemble_sequence
from ..weights import LayerNorm, PatchEmbedWeights

SAMPLED = 96
"""Outputs whose partial sums are looked at."""

GATE = 4.0
"""How many times the rms error of a sum its arithmetic may reach; right float32 of torch, JAX and
NumPy, added up in a row or in blocks, on photographs and bytes, reaches 0.6, and TF32 inputs 24
(tests hold both)."""

ALIKE = 1e-3
"""Relative spread of a sum's terms below which they are all alike, and their rounding errors
too."""


class Allowance:
    """What the arithmetic of a type may do to the outputs of programs with these weights.

    Args:
        pipeline: the right program.
        dtype: of the output.
    """

    def __init__(self, pipeline: Pipeline, dtype: DTypeLike) -> None:
        # Nobody declared how often a 16-bit result is rounded: twice, the bias after the product,
        # is common, and positions are added once more.
        roundings = 3 if pipeline.to_sequence else 2
        self.model = ArithmeticModel.of(dtype, output_roundings=roundings)
        self.terms = pipeline.spec.patch_values + 2  # the products, the bias, and a position
        weights = pipeline.weights
        added = [weights.bias, *([weights.positions] if pipeline.to_sequence else [])]
        self.added = sum(
            float(np.abs(array.astype(np.float64)).max(initial=0))
            for array in added
            if array is not None
        )
        self._asked: tuple[Pipeline, float] | None = None

    def bound(self, candidate: Pipeline, value: Array) -> Array:
        """The deterministic bound on each value of a candidate's output.

        A layer norm brings an error e of a token x, of deviation s and normalized to n, to g/s·(e −
        mean(e) − n·mean(n·e)) at first order, and adds rounding of its own: of its mean and its
        deviation, sums of D terms, and of what it gives.
        """
        if not has_norms(candidate):
            return self._of_tokens(candidate, value, gauge(candidate))
        tokens = dataclasses.replace(candidate, weights=_without_norms(candidate.weights))
        tokens = dataclasses.replace(tokens, images=candidate.images, round_output=None)
        plain = _tokens(candidate)
        bound = self._of_tokens(candidate, plain, _tokens(candidate, np.abs))
        # Patches that were normalized before have errors of their own, of their mean above all.
        if candidate.weights.patch_norm is not None:
            bound = 2 * bound
        weights, epsilon = candidate.weights, candidate.weights.layout.norm_epsilon
        if weights.token_norm is not None:
            bound = self._through(bound, plain, weights.token_norm, epsilon)
        if plain.shape != candidate.spec.tokens_shape(len(candidate.images)):
            return bound
        bare = _without_norms(weights)
        placed = assemble_sequence(bound, bare.map(np.zeros_like), candidate.spec)
        unnormed = dataclasses.replace(weights, sequence_norm=None, patch_norm=None)
        before = assemble_sequence(plain, unnormed.astype(np.float64), candidate.spec)
        rounding = 2 * self.model.accumulate + self.model.output_roundings * self.model.output
        bound = placed + rounding * (np.abs(before) + self.added)
        if weights.sequence_norm is not None:
            bound = self._through(bound, before, weights.sequence_norm, epsilon)
        return bound

    def _of_tokens(self, candidate: Pipeline, value: Array, sizes: Array) -> Array:
        largest = max(
            float(np.abs(candidate.images).max(initial=0)),
            float(np.abs(candidate.weights.kernel).max(initial=0)),
        )
        partial = np.abs(value) + self.added
        return error_bound(value, sizes, self.terms, self.model, "deterministic", largest, partial)

    def _through(self, error: Array, values: Array, norm: LayerNorm, epsilon: float) -> Array:
        kept = values - values.mean(-1, keepdims=True) if norm.centered else values
        deviation = np.sqrt(np.mean(kept**2, -1, keepdims=True) + epsilon)
        normalized, gain = np.abs(kept / deviation), np.abs(norm.scale.astype(np.float64))
        moved = error + normalized * np.mean(normalized * error, -1, keepdims=True)
        summed = (values.shape[-1] + 8) * self.model.accumulate
        norm_error = summed * normalized
        if norm.centered:
            moved = moved + error.mean(-1, keepdims=True)
            norm_error = norm_error + summed * np.abs(values).mean(-1, keepdims=True) / deviation
        shift = 0.0 if norm.shift is None else np.abs(norm.shift.astype(np.float64))
        rounding = 6 * self.model.accumulate + self.model.output_roundings * self.model.output
        return gain * (moved / deviation + norm_error) + rounding * (gain * normalized + shift)

    def rms(self, candidate: Pipeline, exact: Array, factor: float = 1.0) -> float:
        """Largest rms error of correct arithmetic, whatever the data and the order of summation.

        Adding a term rounds the partial sum s, by an error within ±u·|s| of rms u·|s|/√3 at most;
        over a sum they add up, independent of one another, to u·√(Σs²/3). (Rounding a 16-bit result
        errs by 0.42·u of it in rms, each time; taken is u.) Taken is four times u·√(Σs²), of the
        worst of three orders, at some outputs: seven times what is expected. Where all terms are
        alike (constant images and a constant kernel) the errors are too, and nothing but the bound
        holds.

        Args:
            candidate: a program.
            exact: what it gives, or, of products multiplied by a factor, what is expected.
            factor: what its products are multiplied by.
        """
        worst = self._squared_sums(candidate) * factor**2
        if not math.isfinite(worst):
            return math.inf
        # The bias and a position are two more additions.
        tokens = _tokens(candidate) if has_norms(candidate) else exact
        added = 2 * float(np.mean(tokens**2))
        accumulated = GATE * self.model.accumulate * math.sqrt(worst + added)
        earlier = math.sqrt(float(np.mean(tokens**2))) + 0.5 * self.added
        rounded = math.sqrt(self.model.output_roundings) * self.model.output * earlier
        left = accumulated + rounded + self.model.smallest * candidate.spec.patch_values
        return (
            self._rms_behind_norms(candidate, tokens, exact, left) if has_norms(candidate) else left
        )

    def _squared_sums(self, candidate: Pipeline) -> float:
        """Σs² over the partial sums of an output, the mean over some outputs, of the worst of three
        orders; infinite where all terms are alike. A program is asked about many times in a row."""
        if self._asked is not None and self._asked[0] is candidate:
            return self._asked[1]
        generator = np.random.default_rng(0)
        patches = candidate.patches(np.float64)
        matrix = candidate.weights.kernel.reshape(len(candidate.weights.kernel), -1)
        rows, columns = (generator.integers(0, len(array), SAMPLED) for array in (patches, matrix))
        terms = patches[rows].astype(np.float64) * matrix[columns].astype(np.float64)
        sizes = np.abs(terms)
        if float(sizes.std()) <= ALIKE * float(sizes.mean()):
            worst = math.inf
        else:
            channels = candidate.spec.in_channels
            channels_first = np.arange(terms.shape[1]).reshape(-1, channels).T.ravel()
            worst = 0.0
            for order in (None, channels_first, generator.permutation(terms.shape[1])):
                sums = terms.copy() if order is None else terms[:, order]
                np.cumsum(sums, axis=1, out=sums)
                worst = max(worst, float(np.vdot(sums, sums)) / SAMPLED)
        self._asked = candidate, worst
        return worst

    def _rms_behind_norms(
        self, candidate: Pipeline, tokens: Array, exact: Array, left: float
    ) -> float:
        """What norms make of an rms error of tokens, and add to it themselves."""
        weights = candidate.weights
        size = math.sqrt(float(np.mean(exact**2)))
        for norm in (weights.token_norm, weights.sequence_norm):
            if norm is not None:
                deviation = tokens.std(-1) if norm.centered else np.sqrt((tokens**2).mean(-1))
                gain = float(np.sqrt(np.mean(norm.scale.astype(np.float64) ** 2)))
                smallest = max(math.sqrt(weights.layout.norm_epsilon), sys.float_info.min)
                left *= gain / max(float(np.median(deviation)), smallest)
                tokens = exact
        norm_error = GATE * self.model.accumulate + 2 * self.model.output
        return (2 if weights.patch_norm is None else 4) * left + norm_error * size

    def ratio(self, candidate: Pipeline, value: Array, observed: Array) -> float:
        """The largest error of an output over its bound."""
        return bound_ratio(observed, value, self.bound(candidate, value))[0]


def has_norms(candidate: Pipeline) -> bool:
    """Whether a program's output went through a norm."""
    weights = candidate.weights
    norms = (weights.patch_norm, weights.token_norm, weights.sequence_norm)
    return candidate.to_sequence and any(norm is not None for norm in norms)


def _without_norms(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    return dataclasses.replace(weights, patch_norm=None, token_norm=None, sequence_norm=None)


def _tokens(candidate: Pipeline, change: Any = np.positive) -> Array:
    """A candidate's tokens before they become a sequence, or the sizes of their terms."""
    spec, weights = candidate.spec, candidate.weights.astype(np.float64)
    patches = change(candidate.patches(np.float64))
    tokens = patches @ change(weights.kernel.reshape(len(weights.kernel), -1)).T
    if weights.bias is not None:
        tokens = tokens + change(weights.bias)
    tokens = tokens.reshape(len(candidate.images), spec.num_patches, spec.embed_dim)
    for step in candidate.token_steps:
        tokens = step(tokens, spec)
    return tokens


def gauge(candidate: Pipeline, change: Any = np.abs) -> Array:
    """The sizes of the terms of each output of a candidate, |X||W|ᵀ + |b|, rearranged as its tokens
    are (or squares, for effective bits); those before a norm."""
    tokens, spec = _tokens(candidate, change), candidate.spec
    if not candidate.to_sequence or tokens.shape != spec.tokens_shape(len(candidate.images)):
        return tokens
    bare = _without_norms(candidate.weights).astype(np.float64).map(change)
    return assemble_sequence(tokens, bare, spec)
