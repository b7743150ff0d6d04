"""A patch embedding as a program would run it, with every place at which it can go wrong laid
open."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .patches import patchify
from .sequence import assemble_sequence, layer_norm
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A patch embedding as a program would run it.

    Args:
        images: shape `(B, C, H, W)`.
        weights: canonical; prefix tokens and positions matter where `to_sequence` is set.
        spec: the sizes that the program believes in; a mistake may change them, and the kernel with
            them.
        to_sequence: whether prefix tokens and positions are added to the tokens.
        round_inputs: what the hardware does to images and kernel before it multiplies.
        accumulate: `wide` (float64 here), or `float16` for partial sums kept in half precision.
        token_steps: what is done to the tokens `(B, N, D)` afterwards, in order.
        round_output: what is done to the values of the output, last.
    """

    images: Array
    weights: PatchEmbedWeights
    spec: PatchEmbedSpec
    to_sequence: bool = False
    round_inputs: Callable[[Array], Array] | None = None
    accumulate: Literal["wide", "float16"] = "wide"
    token_steps: tuple[Callable[[Array, PatchEmbedSpec], Array], ...] = ()
    round_output: Callable[[Array], Array] | None = None

    def with_weights(self, **arrays: Any) -> "Pipeline":
        """Return the pipeline with some weights replaced."""
        return dataclasses.replace(self, weights=dataclasses.replace(self.weights, **arrays))

    def with_kernel(self, kernel: Array) -> "Pipeline":
        """Return the pipeline with another canonical kernel."""
        return self.with_weights(kernel=kernel)

    def then(self, step: Callable[[Array, PatchEmbedSpec], Array]) -> "Pipeline":
        """Return the pipeline with one more thing done to its tokens."""
        return dataclasses.replace(self, token_steps=(*self.token_steps, step))

    def patches(self, dtype: DTypeLike) -> Array:
        """The flattened patches `(B·N, K)`, normalized where a sequence's are."""
        cut = patchify(self.images, self.spec).reshape(-1, self.spec.patch_values).astype(dtype)
        norm = self.weights.patch_norm
        if norm is None or not self.to_sequence:
            return cut
        return layer_norm(cut, norm, self.weights.layout.norm_epsilon)

    def run(self, dtype: DTypeLike = np.float64) -> Array:
        """Compute the output: tokens `(B, N, D)`, the sequence, or what a mistake makes of them.

        Args:
            dtype: of the result. float32 and float64 are computed in that type throughout, as
                implementations do; 16-bit types are accumulated in float32 and rounded once.
        """
        kind = np.dtype(dtype)
        work = kind if kind in (np.float32, np.float64) else np.dtype(np.float32)
        weights, spec = self.weights.astype(work), self.spec
        patches = self.patches(work)
        matrix = weights.kernel.reshape(weights.kernel.shape[0], -1)
        if self.round_inputs is not None:
            patches, matrix = (
                self.round_inputs(patches).astype(work),
                self.round_inputs(matrix).astype(work),
            )
        with np.errstate(over="ignore", invalid="ignore"):  # of mistakes that make values too large
            product = (
                patches @ matrix.T
                if self.accumulate == "wide"
                else _half_accumulated(patches, matrix).astype(work)
            )
        if weights.bias is not None:
            product = product + weights.bias
        tokens = product.reshape(self.images.shape[0], spec.num_patches, spec.embed_dim)
        for step in self.token_steps:
            tokens = step(tokens, spec)
        if self.to_sequence and tokens.shape == spec.tokens_shape(self.images.shape[0]):
            tokens = assemble_sequence(tokens, weights, spec)
        if self.round_output is not None:
            tokens = self.round_output(tokens)
        return tokens.astype(kind)


HALF_BLOCK = 16
"""Length of the products that a float16 accumulator takes at once: 16, the depth of a tensor core's
instruction."""


def _half_accumulated(patches: Array, matrix: Array) -> Array:
    total = np.zeros((patches.shape[0], matrix.shape[0]), np.float16)
    for start in range(0, patches.shape[1], HALF_BLOCK):
        block = patches[:, start : start + HALF_BLOCK] @ matrix[:, start : start + HALF_BLOCK].T
        total = (total.astype(np.float32) + block.astype(np.float32)).astype(np.float16)
    return total


def round_to_bits(values: Array, bits: int) -> Array:
    """Round to `bits` explicit mantissa bits, to nearest, ties to even: 10 for TF32; the dtype is
    kept."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1).astype(values.dtype)


def round_through(dtype: DTypeLike) -> Callable[[Array], Array]:
    """Return a function that rounds values through a narrow type and back."""

    def rounded(values: Array) -> Array:
        with np.errstate(over="ignore"):
            return values.astype(dtype).astype(values.dtype)

    return rounded
