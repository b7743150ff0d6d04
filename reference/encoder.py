"""The encoder of a Vision Transformer behind its embedding, in plain NumPy: blocks of attention and
MLP, the final norm, pooling and the head."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .activations import ACTIVATIONS
from .encoder_weights import (
    Attention,
    AttentionPool,
    Block,
    EncoderSpec,
    EncoderWeights,
    Mlp,
)
from .errors import PatchParityError, require_array, require_choice
from .sequence import layer_norm
from .weights import LayerNorm

Coordinates = Literal["index", "unit"]


@dataclass(frozen=True, eq=False)
class Rotary:
    """Angles by which queries and keys of the patches are turned.

    Args:
        angles: shape `(N, d/2)`, or `(N, r)` with r < d/2: the first r pairs turn, and the others
            stay.
    """

    angles: NDArray[np.float64]

    def turn(self, heads: NDArray[Any], spec: EncoderSpec) -> NDArray[Any]:
        """Turn `(B, h, S, d)`; tokens before and behind the patches stay."""
        count, pairs = self.angles.shape
        ahead, behind = spec.prefix_tokens, spec.suffix_tokens
        if heads.shape[2] != ahead + count + behind or 2 * pairs > heads.shape[3]:
            raise PatchParityError(
                f"angles of shape {self.angles.shape}: expected "
                f"({heads.shape[2] - ahead - behind}, {heads.shape[3] // 2}) at most, a row for "
                "each patch and half a head's width"
            )
        patches = heads[:, :, ahead : ahead + count]
        turned, kept = patches[..., : 2 * pairs], patches[..., 2 * pairs :]
        if spec.pairing == "halves":
            first, second = turned[..., :pairs], turned[..., pairs:]
        else:
            first, second = turned[..., ::2], turned[..., 1::2]
        cosine, sine = (f(self.angles).astype(heads.dtype) for f in (np.cos, np.sin))
        both = first * cosine - second * sine, second * cosine + first * sine
        if spec.pairing == "halves":
            turned = np.concatenate(both, axis=-1)
        else:
            turned = np.stack(both, axis=-1).reshape(turned.shape)
        parts = (
            heads[:, :, :ahead],
            np.concatenate([turned, kept], axis=-1),
            heads[:, :, ahead + count :],
        )
        return np.concatenate(parts, axis=2)


def rotary_angles(
    grid: tuple[int, int],
    head_width: int,
    *,
    temperature: float = 10000.0,
    coordinates: Coordinates = "index",
) -> Rotary:
    """The angles of patches in two dimensions: a quarter of a head's width for the row, a quarter
    for the column, θ^(−4i/d) times the coordinate.

    Args:
        grid: `(rows, columns)` of patches.
        head_width: d, a multiple of 4.
        temperature: θ.
        coordinates: `index`, whole numbers (Qwen2-VL); `unit`, 2π times the patch's center from −1
            to 1 along either axis (DINOv3).

    Returns:
        Angles of shape `(rows·columns, d/2)`, raster order, float64.

    Raises:
        PatchParityError: a width that is no multiple of 4.

    Source: Su et al., "RoFormer" (2021); transformers' `Qwen2VLVisionModel`,
    `DINOv3ViTRopePositionEmbedding`.

    Examples:
        >>> import patchparity
        >>> rotary = patchparity.rotary_angles((14, 14), 64, coordinates="unit")
        >>> rotary.angles.shape
        (196, 32)
    """
    require_choice("coordinates", coordinates, get_args(Coordinates))
    if head_width % 4:
        raise PatchParityError(
            f"a head of width {head_width}: rotary angles of rows and columns need a multiple of 4"
        )
    axes = [
        np.arange(size)
        if coordinates == "index"
        else 2 * np.pi * ((2 * np.arange(size) + 1) / size - 1)
        for size in grid
    ]
    places = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)
    frequencies = temperature ** (-np.arange(head_width // 4) * 4 / head_width)
    angles = np.asarray(places[:, :, None] * frequencies, np.float64)
    return Rotary(angles.reshape(len(places), -1))


@dataclass(frozen=True, eq=False)
class Places:
    """What a token's place means to attention.

    Args:
        rotary: angles, or None for none.
        windows: shape `(S,)`: tokens of one number see one another; None where all do.

    Examples:
        >>> import patchparity
        >>> places = patchparity.Places(patchparity.rotary_angles((2, 3), 8))
        >>> places.rotary.angles.shape
        (6, 4)
    """

    rotary: Rotary | None = None
    windows: NDArray[np.int64] | None = None


NOWHERE = Places()


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    """Along the last axis, exp(x − max)/Σ; −∞ gives 0."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _heads(
    values: NDArray[Any], norm: LayerNorm | None, spec: EncoderSpec, name: str
) -> NDArray[Any]:
    """`(B, S, h·d)` as `(B, h, S, d)`, normed before or behind the cut."""
    batch, tokens, width = values.shape
    if width % spec.num_heads:
        raise PatchParityError(f"{name} of width {width}: {spec.num_heads} heads do not divide it")
    each = width // spec.num_heads
    if norm is not None and norm.scale.shape == (width,) != (each,):
        values = layer_norm(values, norm, spec.norm_epsilon)
    heads = values.reshape(batch, tokens, spec.num_heads, each)
    if norm is not None and norm.scale.shape == (each,):
        heads = layer_norm(heads, norm, spec.norm_epsilon)
    elif norm is not None and norm.scale.shape != (width,):
        raise PatchParityError(
            f"a norm of {name} of shape {norm.scale.shape}: expected ({each},), a head's width, or "
            f"({width},)"
        )
    return heads.transpose(0, 2, 1, 3)


def attend(
    queries_of: NDArray[Any],
    tokens: NDArray[Any],
    weights: Attention,
    spec: EncoderSpec,
    places: Places = NOWHERE,
) -> NDArray[Any]:
    """Multi-head attention.

    Args:
        queries_of: shape `(B, Q, D)`, what queries are made of: `tokens` for self-attention.
        tokens: shape `(B, S, D)`, of which keys and values are made.
        weights: its matrices.
        spec: heads, scale, ε of their norms.
        places: rotary positions and windows.

    Returns:
        Shape `(B, Q, D)`.

    Raises:
        PatchParityError: heads that do not divide the width, positions or windows that do not fit.

    Source: Vaswani et al., "Attention Is All You Need" (2017), equation 1.
    """
    query = _heads(weights.query(queries_of), weights.query_norm, spec, "query")
    key = _heads(weights.key(tokens), weights.key_norm, spec, "key")
    value = _heads(weights.value(tokens), None, spec, "value")
    if places.rotary is not None:
        query, key = (places.rotary.turn(each, spec) for each in (query, key))
    scale = spec.attention_scale
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query @ key.swapaxes(-1, -2)) * np.asarray(scale, query.dtype)
    if weights.scores_bias is not None:
        scores = scores + weights.scores_bias.astype(scores.dtype)
    if places.windows is not None:
        if places.windows.shape != tokens.shape[1:2]:
            raise PatchParityError(
                f"windows of shape {places.windows.shape}: expected {tokens.shape[1:2]}, a number "
                "for each token"
            )
        apart = places.windows[:, None] != places.windows
        scores = np.where(apart, np.asarray(-np.inf, scores.dtype), scores)
    mixed = (softmax(scores) @ value).transpose(0, 2, 1, 3)
    return weights.out(mixed.reshape(*mixed.shape[:2], -1))


def feed_forward(values: NDArray[Any], weights: Mlp, spec: EncoderSpec) -> NDArray[Any]:
    """The MLP, shape unchanged."""
    activation = ACTIVATIONS[spec.activation]
    inner = weights.up(values)
    inner = activation(inner) if weights.gate is None else activation(weights.gate(values)) * inner
    if weights.norm is not None:
        inner = layer_norm(inner, weights.norm, spec.norm_epsilon)
    return weights.down(inner)


def encode_block(
    tokens: NDArray[Any], block: Block, spec: EncoderSpec, places: Places = NOWHERE
) -> NDArray[Any]:
    """One block, shape `(B, S, D)` unchanged."""

    def half(
        kept: NDArray[Any], kind: str, norm: LayerNorm, scale: NDArray[Any] | None
    ) -> NDArray[Any]:
        given = layer_norm(kept, norm, spec.norm_epsilon) if spec.norms == "pre" else kept
        result = (
            attend(given, given, block.attention, spec, places)
            if kind == "attention"
            else feed_forward(given, block.mlp, spec)
        )
        if spec.norms == "behind":
            result = layer_norm(result, norm, spec.norm_epsilon)
        if scale is not None:
            result = result * scale.astype(result.dtype)
        kept = kept + result
        return layer_norm(kept, norm, spec.norm_epsilon) if spec.norms == "post" else kept

    tokens = half(tokens, "attention", block.first_norm, block.first_scale)
    return half(tokens, "mlp", block.second_norm, block.second_scale)


def encode_blocks(
    tokens: NDArray[Any], weights: EncoderWeights, spec: EncoderSpec, places: Places = NOWHERE
) -> Iterator[NDArray[Any]]:
    """What comes out of each block in turn, each of shape `(B, S, D)`.

    Raises:
        PatchParityError: what `attend` refuses; tokens of another width.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> weights = patchparity.initialize_encoder(12, depth=2, mlp_width=20, seed=0)
        >>> tokens, spec = np.ones((1, 5, 12)), patchparity.EncoderSpec(3)
        >>> [each.shape for each in patchparity.encode_blocks(tokens, weights, spec)]
        [(1, 5, 12), (1, 5, 12)]
    """
    require_array("tokens", tokens)
    if tokens.ndim != 3:
        raise PatchParityError(f"tokens of shape {tokens.shape}: expected (B, S, D)")
    for number, block in enumerate(weights.blocks):
        width = block.attention.query.weight.shape[1]
        if tokens.shape[2] != width:
            raise PatchParityError(
                f"tokens of shape {tokens.shape}: block {number} takes a width of {width}"
            )
        here = Places(places.rotary) if number in spec.full_blocks else places
        tokens = encode_block(tokens, block, spec, here)
        yield tokens


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder gives.

    Args:
        tokens: shape `(B, S, D)`, behind the final norm.
        pooled: shape `(B, D)`, or None without pooling.
        output: what `head` makes of that, shape `(B, classes)`; None without one.
    """

    tokens: NDArray[Any]
    pooled: NDArray[Any] | None = None
    output: NDArray[Any] | None = None


def encode(
    tokens: NDArray[Any], weights: EncoderWeights, spec: EncoderSpec, places: Places = NOWHERE
) -> Encoded:
    """From the sequence that `embed_sequence` gives to the encoder's output.

    Args:
        tokens: shape `(B, S, D)`; the computation stays in its dtype.
        weights: all matrices behind the embedding.
        spec: what no tensor says.
        places: rotary positions and windows, where there are some.

    Raises:
        PatchParityError: shapes that do not fit together.

    Source: Dosovitskiy et al. (2021), equations 2 to 4.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> tokens = np.random.default_rng(0).normal(size=(2, 16, 12))
        >>> weights = patchparity.initialize_encoder(12, depth=2, mlp_width=20, seed=0)
        >>> patchparity.encode(tokens, weights, patchparity.EncoderSpec(3)).tokens.shape
        (2, 16, 12)
    """
    for behind in encode_blocks(tokens, weights, spec, places):
        tokens = behind
    if weights.final_norm is not None:
        tokens = layer_norm(tokens, weights.final_norm, spec.norm_epsilon)
    pooled = pool(tokens, weights, spec)
    if pooled is None:
        return Encoded(tokens)
    return Encoded(tokens, pooled, None if weights.head is None else weights.head(pooled))


def pool(tokens: NDArray[Any], weights: EncoderWeights, spec: EncoderSpec) -> NDArray[Any] | None:
    """One vector of all tokens, shape `(B, D)`; None where nothing is pooled.

    Raises:
        PatchParityError: attention pooling without its weights.
    """
    if spec.pooling == "none":
        return None
    if spec.pooling == "class":
        pooled = tokens[:, 0]
    elif spec.pooling == "mean":
        pooled = _patches(tokens, spec).mean(axis=1)
    elif weights.pool is None:
        raise PatchParityError("pooling='attention' needs the weights of an attention pool")
    else:
        pooled = _attention_pooled(_patches(tokens, spec), weights.pool, spec)
    if weights.pooled_norm is not None:
        pooled = layer_norm(pooled, weights.pooled_norm, spec.norm_epsilon)
    return pooled if weights.pooler is None else np.tanh(weights.pooler(pooled))


def _patches(tokens: NDArray[Any], spec: EncoderSpec) -> NDArray[Any]:
    """Tokens without those before and behind the patches."""
    return tokens[:, spec.prefix_tokens : tokens.shape[1] - spec.suffix_tokens]


def _attention_pooled(
    tokens: NDArray[Any], weights: AttentionPool, spec: EncoderSpec
) -> NDArray[Any]:
    probe = weights.probe.astype(tokens.dtype)
    probe = np.broadcast_to(probe, (tokens.shape[0], 1, probe.shape[-1]))
    pooled = attend(probe, tokens, weights.attention, spec)
    if weights.mlp is not None:
        given = pooled
        if weights.norm is not None:
            given = layer_norm(pooled, weights.norm, spec.norm_epsilon)
        pooled = pooled + feed_forward(given, weights.mlp, spec)
    return pooled[:, 0]
