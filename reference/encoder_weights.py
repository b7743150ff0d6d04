"""The weights of a Vision Transformer's encoder, canonical, and what no tensor of it says.

Matrices are `(out, in)`, y = W·x + b, as `torch.nn.Linear` has them; heads are the major part of an
attention's rows.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError, require_array, require_choice, require_sizes
from .weights import LayerNorm

MlpActivation = Literal["gelu", "gelu-tanh", "quick-gelu", "silu", "relu", "identity"]
NormPlacement = Literal["pre", "post", "behind"]
Pooling = Literal["none", "class", "mean", "attention"]
Pairing = Literal["halves", "interleaved"]


@dataclass(frozen=True, eq=False)
class Linear:
    """A matrix and what is added.

    Args:
        weight: shape `(out, in)`.
        bias: shape `(out,)`, or None.
    """

    weight: NDArray[Any]
    bias: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        require_array("weight", self.weight)
        rows = self.weight.shape[:1]
        if self.weight.ndim != 2 or (self.bias is not None and self.bias.shape != rows):
            bias = None if self.bias is None else self.bias.shape
            raise PatchParityError(
                f"a matrix of shape {self.weight.shape} and a bias of {bias}: expected (out, in) "
                "and (out,)"
            )

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        """W·x + b along the last axis, in the dtype of `values`."""
        product = values @ self.weight.T.astype(values.dtype)
        return product if self.bias is None else product + self.bias.astype(values.dtype)


@dataclass(frozen=True, eq=False)
class Attention:
    """The matrices of multi-head attention.

    Args:
        query, key, value: shape `(h·d, D)`; head by head.
        out: shape `(D, h·d)`.
        query_norm, key_norm: over the width d of a head, or over all h·d before they are cut into
            heads, by the length of their scale; None for none.
        scores_bias: shape `(h, S, S)`, added to the scores (relative positions, BEiT); None for
            none.
    """

    query: Linear
    key: Linear
    value: Linear
    out: Linear
    query_norm: LayerNorm | None = None
    key_norm: LayerNorm | None = None
    scores_bias: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class Mlp:
    """The two matrices behind attention, or the three of a gated one.

    Args:
        up: shape `(M, D)`.
        down: shape `(D, M)`.
        gate: shape `(M, D)`, or None: down(act(gate(x))·up(x)) (SwiGLU where the activation is
            `silu`; Shazeer, "GLU Variants Improve Transformer", 2020).
        norm: over what enters `down` (EVA-02), or None.
    """

    up: Linear
    down: Linear
    gate: Linear | None = None
    norm: LayerNorm | None = None


@dataclass(frozen=True, eq=False)
class Block:
    """One block.

    Args:
        first_norm, second_norm: that of attention, and that of the MLP.
        attention, mlp: its two halves.
        first_scale, second_scale: layer scale of either half, `(D,)` (Touvron et al., "Going
            deeper with Image Transformers", 2021), or None.
    """

    first_norm: LayerNorm
    attention: Attention
    second_norm: LayerNorm
    mlp: Mlp
    first_scale: NDArray[Any] | None = None
    second_scale: NDArray[Any] | None = None


@dataclass(frozen=True, eq=False)
class AttentionPool:
    """Multi-head attention pooling: a learned query looks at all patches (SigLIP's head,
    big_vision's `MAPHead`).

    Args:
        probe: shape `(D,)`.
        attention: its matrices; `query` is applied to the probe.
        norm, mlp: of the residual half behind it, or None.
    """

    probe: NDArray[Any]
    attention: Attention
    norm: LayerNorm | None = None
    mlp: Mlp | None = None


@dataclass(frozen=True, eq=False)
class EncoderWeights:
    """All matrices behind the embedding.

    Args:
        blocks: from the first to the last.
        final_norm: over all tokens behind the last block, or None.
        pool: of attention pooling, or None.
        pooled_norm: over what was pooled, or None (timm's `fc_norm`).
        pooler: a matrix behind it whose result goes through tanh (BERT's, transformers' ViT), or
            None.
        head: the matrix of classes, or of a projection; None for none.

    Examples:
        >>> import patchparity
        >>> weights = patchparity.initialize_encoder(12, depth=3, mlp_width=20, seed=0)
        >>> patchparity.EncoderWeights(weights.blocks[:2], weights.final_norm).head is None
        True
    """

    blocks: tuple[Block, ...]
    final_norm: LayerNorm | None = None
    pool: AttentionPool | None = None
    pooled_norm: LayerNorm | None = None
    pooler: Linear | None = None
    head: Linear | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """What no tensor of an encoder says.

    Args:
        num_heads: h.
        norm_epsilon: ε of its norms.
        activation: of its MLPs; `gelu` is the exact one, `identity` none.
        norms: `pre`, x + f(norm(x)) (ViT); `post`, norm(x + f(x)) (BERT); `behind`, x + norm(f(x))
            (Swin V2).
        attention_scale: what q·k is multiplied by; None for 1/√d of a head's width d.
        pooling: `class`, the first token; `mean`, that of the patches; `attention`, a query that
            looks at the patches (SigLIP, timm's `map`); or `none`.
        prefix_tokens, suffix_tokens: tokens before and behind the patches, which have no rotary
            positions and no part in the mean.
        pairing: which channels of a head rotary positions turn together: `halves`, i and i + d/2
            (`rotate_half`), or `interleaved`, 2i and 2i + 1.
        full_blocks: blocks in which every token sees every other, although there are windows.

    Raises:
        PatchParityError: a name that is unknown, a number that is none.

    Examples:
        >>> import patchparity
        >>> patchparity.EncoderSpec(12, norm_epsilon=1e-12, pooling="class").activation
        'gelu'
    """

    num_heads: int
    norm_epsilon: float = 1e-6
    activation: MlpActivation = "gelu"
    norms: NormPlacement = "pre"
    attention_scale: float | None = None
    pooling: Pooling = "none"
    prefix_tokens: int = 0
    suffix_tokens: int = 0
    pairing: Pairing = "halves"
    full_blocks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, options in (
            ("activation", MlpActivation),
            ("norms", NormPlacement),
            ("pooling", Pooling),
            ("pairing", Pairing),
        ):
            require_choice(name, getattr(self, name), get_args(options))
        for name, least in (("num_heads", 1), ("prefix_tokens", 0), ("suffix_tokens", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise PatchParityError(f"{name}={value!r}: expected a number of at least {least}")
        epsilon = self.norm_epsilon
        if not isinstance(epsilon, float | int) or not 0 <= epsilon < 1:
            raise PatchParityError(f"norm_epsilon={epsilon!r}: expected a number from 0 to 1")


def initialize_encoder(
    width: int, *, depth: int, mlp_width: int, seed: int, dtype: str = "float64"
) -> EncoderWeights:
    """A seeded encoder as one is after some training: matrices of deviation 1/√in, biases and
    shifts that are not zero, scales about one.

    Args:
        width: D, of the tokens.
        depth: number of blocks.
        mlp_width: M.
        seed: of the numbers.
        dtype: of all arrays.

    Raises:
        PatchParityError: a size that is no positive number.

    Examples:
        >>> import patchparity
        >>> len(patchparity.initialize_encoder(12, depth=3, mlp_width=20, seed=0).blocks)
        3
    """
    require_sizes("width", width, counts=(1,))
    require_sizes("depth", depth, counts=(1,))
    require_sizes("mlp_width", mlp_width, counts=(1,))
    numbers = np.random.default_rng(seed)

    def drawn(*shape: int, deviation: float = 0.1, around: float = 0.0) -> NDArray[Any]:
        return (around + deviation * numbers.standard_normal(shape)).astype(dtype)

    def linear(rows: int, columns: int) -> Linear:
        return Linear(drawn(rows, columns, deviation=columns**-0.5), drawn(rows))

    def norm() -> LayerNorm:
        return LayerNorm(drawn(width, around=1.0), drawn(width))

    def block() -> Block:
        query, key, value, out = (linear(width, width) for _ in range(4))
        mlp = Mlp(linear(mlp_width, width), linear(width, mlp_width))
        return Block(norm(), Attention(query, key, value, out), norm(), mlp)

    return EncoderWeights(tuple(block() for _ in range(depth)), norm())
