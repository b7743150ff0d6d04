"""How wrong may one block of an encoder be, whose input is exact? Values in float64, and a forward
error bound of each.

A bare tolerance on an encoder cannot tell quick GELU in float32 (wrong, 5e-3 from the truth) from
weights in bfloat16 (right, 3e-3). Here the truth is what the stored weights give in float64, each
block is fed with the very numbers that the implementation was given, and the bound follows the
errors of the declared arithmetic through the block (`reference.running_error`), for every way in
which libraries compute it: attention fused or not, the scale at the queries, at the scores or half
at each, norms in float32 or in the type, a bias added in the same rounding or in one of its own.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .encoder import NOWHERE, Places, Rotary
from .encoder_weights import Attention, AttentionPool, Block, EncoderSpec, EncoderWeights, Mlp
from .error import LAMBDA, bound_ratio
from .errors import PatchParityError, require_array
from .running_error import (
    FUNCTION_ERROR,
    Arithmetic,
    Array,
    Running,
    activate,
    add,
    layer_norm,
    linear,
    multiply,
    root_of_squares,
    scale_by,
)
from .weights import LayerNorm


@dataclass(frozen=True, eq=False)
class BlockExpectation:
    """What a correct implementation gives, and how far from it it may be.

    Args:
        values: in float64, with the very weights that are stored; `(B, S, D)` for tokens, `(B, D)`
            for what was pooled.
        bound: same shape, of |measured − values|.
    """

    values: NDArray[np.float64]
    bound: NDArray[np.float64]


def expect_block(
    tokens: NDArray[Any],
    block: Block,
    spec: EncoderSpec,
    places: Places = NOWHERE,
    *,
    dtype: str = "float32",
) -> BlockExpectation:
    """What one block makes of `tokens`, and what a correct computation in `dtype` may err by.

    The bound is a probabilistic one, λ = 4 (see `reference.running_error`): it holds for errors
    that behave like a random walk, and not for every input that could be made up.

    In float32 it tells tanh and quick GELU from the exact one, ε of 1e-3 for 1e-6, a dropped bias
    of queries or values, exchanged norms and a wrong scale or layout in every block of a random
    ViT-S. It cannot tell ε of 1e-5 for 1e-6 where tokens are of unit variance or more, which is
    within the rounding of float32. In float16 tanh GELU and ε of 1e-3 pass; in bfloat16 quick GELU
    and a small bias of queries do as well: one rounding of what enters the activation moves it by
    more. Whoever asks which GELU a bfloat16 model has runs it in float32, with the same weights.
    Where scores are large (a deviation of 12) or a token's mean is far above its deviation,
    bfloat16 tells next to nothing, since attention itself is then hardly determined.

    Args:
        tokens: shape `(B, S, D)`, the exact numbers that the implementation was given, of any type
            that holds them.
        block: the weights as they are stored, already rounded to their type.
        spec: what no tensor says.
        places: rotary positions and windows of this block.
        dtype: `float64`, `float32`, `float16` or `bfloat16`, in which every operation leaves its
            result; the 16-bit types add up in float32.

    Raises:
        PatchParityError: a type that is none of these, shapes that do not fit together.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> from patchparity.reference.encoder import encode_block
        >>> from patchparity.reference.encoder_error import expect_block, judge_block
        >>> weights = patchparity.initialize_encoder(12, depth=1, mlp_width=20, seed=0)
        >>> tokens = np.random.default_rng(0).normal(size=(2, 16, 12)).astype(np.float32)
        >>> spec = patchparity.EncoderSpec(3)
        >>> expected = expect_block(tokens, weights.blocks[0], spec)
        >>> judge_block(encode_block(tokens, weights.blocks[0], spec), expected) < 1
        True
        >>> other = patchparity.EncoderSpec(3, activation="gelu-tanh")
        >>> judge_block(encode_block(tokens, weights.blocks[0], other), expected) > 1
        True
    """
    arithmetic = Arithmetic.of(dtype)
    given = _given(tokens, block.attention.query.weight.shape[1])
    between = _half(given, "attention", block, spec, places, arithmetic)
    return _expectation(_half(between, "mlp", block, spec, places, arithmetic))


def expect_end(
    tokens: NDArray[Any],
    weights: EncoderWeights,
    spec: EncoderSpec,
    *,
    dtype: str = "float32",
) -> dict[str, BlockExpectation]:
    """What stands behind the last block, by name, as `Encoded` names it: `tokens` behind the final
    norm, and `pooled` and `output` where there are some.

    Args:
        tokens: shape `(B, S, D)`, what the implementation's last block gave.
        weights: the weights as they are stored; the blocks are not used.
        spec: what no tensor says.
        dtype: as for `expect_block`.

    Raises:
        PatchParityError: a type that is unknown, attention pooling without its weights.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> from patchparity.reference.encoder_error import expect_end
        >>> weights = patchparity.initialize_encoder(12, depth=1, mlp_width=20, seed=0)
        >>> tokens = np.random.default_rng(0).normal(size=(2, 16, 12))
        >>> end = expect_end(tokens, weights, patchparity.EncoderSpec(3, pooling="mean"))
        >>> {name: each.values.shape for name, each in end.items()}
        {'tokens': (2, 16, 12), 'pooled': (2, 12)}
    """
    arithmetic = Arithmetic.of(dtype)
    running = _given(tokens, None)
    if weights.final_norm is not None:
        running = layer_norm(running, weights.final_norm, spec.norm_epsilon, arithmetic)
    found = {"tokens": _expectation(running)}
    if spec.pooling == "none":
        return found
    pooled = _pooled(running, weights, spec, arithmetic)
    if weights.pooled_norm is not None:
        pooled = layer_norm(pooled, weights.pooled_norm, spec.norm_epsilon, arithmetic)
    if weights.pooler is not None:
        pooled = activate(linear(pooled, weights.pooler, arithmetic), "tanh", arithmetic)
    found["pooled"] = _expectation(pooled)
    if weights.head is not None:
        found["output"] = _expectation(linear(pooled, weights.head, arithmetic))
    return found


def judge_block(measured: NDArray[Any], expectation: BlockExpectation) -> float:
    """The worst |measured − values|/bound: at most 1 passes; infinite for NaN, or another shape.

    Examples:
        >>> import numpy as np
        >>> from patchparity.reference.encoder_error import BlockExpectation, judge_block
        >>> expected = BlockExpectation(np.zeros((1, 2, 3)), np.full((1, 2, 3), 1e-6))
        >>> judge_block(np.full((1, 2, 3), 5e-7), expected)
        0.5
        >>> judge_block(np.zeros((1, 3, 2)), expected)
        inf
    """
    require_array("measured", measured)
    if tuple(measured.shape) != expectation.values.shape:
        return math.inf
    wide = np.asarray(measured).astype(np.float64)
    return bound_ratio(wide, expectation.values, expectation.bound)[0]


def _given(tokens: NDArray[Any], width: int | None) -> Running:
    require_array("tokens", tokens)
    if tokens.ndim != 3:
        raise PatchParityError(f"tokens of shape {tokens.shape}: expected (B, S, D)")
    if width is not None and tokens.shape[2] != width:
        raise PatchParityError(
            f"tokens of shape {tokens.shape}: the block takes a width of {width}"
        )
    return Running.exact(np.asarray(tokens))


def _expectation(running: Running) -> BlockExpectation:
    return BlockExpectation(running.values, running.bound)


def _half(
    kept: Running,
    kind: str,
    block: Block,
    spec: EncoderSpec,
    places: Places,
    arithmetic: Arithmetic,
) -> Running:
    """One half of a block, as `encode_block` puts it together."""
    first = kind == "attention"
    norm, scale = (
        (block.first_norm, block.first_scale) if first else (block.second_norm, block.second_scale)
    )

    def normed(values: Running) -> Running:
        return layer_norm(values, norm, spec.norm_epsilon, arithmetic)

    given = normed(kept) if spec.norms == "pre" else kept
    result = (
        _attend(given, given, block.attention, spec, places, arithmetic)
        if first
        else _feed_forward(given, block.mlp, spec, arithmetic)
    )
    if spec.norms == "behind":
        result = normed(result)
    if scale is not None:
        result = scale_by(result, scale.astype(np.float64), arithmetic)
    kept = add(kept, result, arithmetic)
    return normed(kept) if spec.norms == "post" else kept


def _feed_forward(
    given: Running, weights: Mlp, spec: EncoderSpec, arithmetic: Arithmetic
) -> Running:
    inner = linear(given, weights.up, arithmetic)
    if weights.gate is None:
        inner = activate(inner, spec.activation, arithmetic)
    else:
        gate = activate(linear(given, weights.gate, arithmetic), spec.activation, arithmetic)
        inner = multiply(gate, inner, arithmetic)
    if weights.norm is not None:
        inner = layer_norm(inner, weights.norm, spec.norm_epsilon, arithmetic)
    return linear(inner, weights.down, arithmetic)


def _heads(
    values: Running, norm: LayerNorm | None, spec: EncoderSpec, arithmetic: Arithmetic
) -> Running:
    """`(B, S, h·d)` as `(B, h, S, d)`, normed before or behind the cut."""
    batch, tokens, width = values.values.shape
    if width % spec.num_heads:
        raise PatchParityError(f"a width of {width}: {spec.num_heads} heads do not divide it")
    each = width // spec.num_heads
    if norm is not None and norm.scale.shape not in ((width,), (each,)):
        raise PatchParityError(
            f"a norm of shape {norm.scale.shape}: expected ({each},), a head's width, or ({width},)"
        )
    if norm is not None and norm.scale.shape == (width,) != (each,):
        values, norm = layer_norm(values, norm, spec.norm_epsilon, arithmetic), None
    heads = values.map(lambda part: part.reshape(batch, tokens, spec.num_heads, each))
    if norm is not None:
        heads = layer_norm(heads, norm, spec.norm_epsilon, arithmetic)
    return heads.map(lambda part: part.transpose(0, 2, 1, 3))


ANGLE_ROUNDINGS = 5.0
"""Units of roundoff in an angle of float32: its power of θ, 2 ulp, and the product with a place."""


def _turned(heads: Running, rotary: Rotary, spec: EncoderSpec, arithmetic: Arithmetic) -> Running:
    """Queries or keys turned: two products and a sum are rounded, cosine and sine too, and the
    angles in float32."""
    turned = heads.map(lambda part: rotary.turn(part, spec))
    pair = _turn_sizes(heads.values, rotary, spec, np.ones_like(rotary.angles))
    moved = _turn_sizes(heads.values, rotary, spec, np.abs(rotary.angles))
    return replace(turned, spread=_turned_spread(heads.spread, rotary, spec)).with_spread(
        arithmetic.rounding(pair, times=4.0) * (pair > 0),
        LAMBDA * arithmetic.sums * (ANGLE_ROUNDINGS * moved + FUNCTION_ERROR * pair),
    )


def _pairs(part: Array, rotary: Rotary, spec: EncoderSpec) -> tuple[slice, slice, slice]:
    """Tokens of patches, and the first and second channels of each pair that turns."""
    count, pairs = rotary.angles.shape
    patches = slice(spec.prefix_tokens, spec.prefix_tokens + count)
    if spec.pairing == "halves":
        return patches, slice(pairs), slice(pairs, 2 * pairs)
    return patches, slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)


def _turn_sizes(values: Array, rotary: Rotary, spec: EncoderSpec, factor: Array) -> Array:
    """The size of a pair times `factor` at what turns, 0 elsewhere."""
    patches, first, second = _pairs(values, rotary, spec)
    sizes = np.zeros_like(values)
    here = values[:, :, patches]
    both = root_of_squares(here[..., first], here[..., second]) * factor
    sizes[:, :, patches, first] = both
    sizes[:, :, patches, second] = both
    return sizes


def _turned_spread(spread: Array, rotary: Rotary, spec: EncoderSpec) -> Array:
    patches, first, second = _pairs(spread, rotary, spec)
    turned = spread.copy()
    here = spread[:, :, patches]
    cosine, sine = np.cos(rotary.angles), np.sin(rotary.angles)
    turned[:, :, patches, first] = root_of_squares(
        here[..., first] * cosine, here[..., second] * sine
    )
    turned[:, :, patches, second] = root_of_squares(
        here[..., second] * cosine, here[..., first] * sine
    )
    return turned


def _attend(
    queries_of: Running,
    tokens: Running,
    weights: Attention,
    spec: EncoderSpec,
    places: Places,
    arithmetic: Arithmetic,
) -> Running:
    query, key = (
        _heads(linear(of, matrix, arithmetic), norm, spec, arithmetic)
        for of, matrix, norm in (
            (queries_of, weights.query, weights.query_norm),
            (tokens, weights.key, weights.key_norm),
        )
    )
    value = _heads(linear(tokens, weights.value, arithmetic), None, spec, arithmetic)
    if places.rotary is not None:
        query, key = (_turned(each, places.rotary, spec, arithmetic) for each in (query, key))
    scores = _scores(query, key, weights.scores_bias, spec, arithmetic)
    if places.windows is not None:
        if places.windows.shape != tokens.values.shape[1:2]:
            raise PatchParityError(
                f"windows of shape {places.windows.shape}: expected {tokens.values.shape[1:2]}, a "
                "number for each token"
            )
        apart = places.windows[:, None] != places.windows
        scores = replace(scores, values=np.where(apart, -np.inf, scores.values))
    mixed = _mix(scores, value, arithmetic).map(lambda part: part.transpose(0, 2, 1, 3))
    merged = mixed.map(lambda part: part.reshape(*part.shape[:2], -1))
    return linear(merged, weights.out, arithmetic)


def _scores(
    query: Running,
    key: Running,
    added: NDArray[Any] | None,
    spec: EncoderSpec,
    arithmetic: Arithmetic,
) -> Running:
    """scale·q·k + bias. The scale may be rounded and may multiply queries, keys, both or scores;
    products, scaled products and sums may each be rounded."""
    width = query.values.shape[-1]
    scale = 1 / math.sqrt(width) if spec.attention_scale is None else spec.attention_scale
    q, k = query.values, key.values.swapaxes(-1, -2)
    key_spread = key.spread.swapaxes(-1, -2)
    product = scale * (q @ k)
    norm = abs(scale) * np.sqrt(np.square(q) @ np.square(k))
    by_spread = np.square(query.spread) @ (np.square(k) + np.square(key_spread)) + np.square(
        q
    ) @ np.square(key_spread)
    by_shared = sum((np.abs(each @ k) for each in query.shared), start=np.zeros_like(product))
    for each in key.shared:
        by_shared += np.abs(q @ each.swapaxes(-1, -2))
    for first, second in zip(query.shared, key.shared, strict=False):
        by_shared += np.abs(first @ second.swapaxes(-1, -2))
    values = product if added is None else product + added.astype(np.float64)
    spread = root_of_squares(
        abs(scale) * np.sqrt(by_spread),
        abs(scale) * by_shared,
        arithmetic.summing(width, norm, product),
        arithmetic.rounding(norm, times=2.0),
        arithmetic.rounding(product, times=3.0),
        arithmetic.rounding(values),
    )
    return Running(values, spread)


def _mix(scores: Running, value: Running, arithmetic: Arithmetic) -> Running:
    """Σ_j p_j·v_j with p = softmax(s).

    Where each score errs by at most e_j, exp errs by a factor within exp(±e_j), and o = Σ p·v by
    Σ p_j·ε_j·(v_j − o)/(1 + Σ p·ε), ε_j ≤ exp(e_j) − 1: the sum of sizes, by the Cauchy-Schwarz
    inequality at most √(Σ a·Σ a·(v − o)²) with a = p·ε. It never exceeds how far from o any v is.
    Roundings of p, before or behind the division, are not undone by it: λ·u·(‖p∘v‖ + |o|).
    """
    top = scores.values.max(axis=-1, keepdims=True)
    lowered = scores.values - top
    raised = np.exp(lowered)
    p = raised / raised.sum(axis=-1, keepdims=True)
    fallen = np.where(p > 0, -lowered, 0)
    of_score = root_of_squares(
        scores.spread,
        arithmetic.rounding(fallen),
        arithmetic.rounding(np.ones_like(p)),
    )
    of_score += LAMBDA * FUNCTION_ERROR * arithmetic.sums
    a = np.where(p > 0, p * np.expm1(np.minimum(of_score, MOST)), 0)
    held, v = a.sum(axis=-1, keepdims=True), value.values
    o = p @ v
    spread_of_values = held * (a @ np.square(v)) - 2 * held * o * (a @ v) + np.square(o * held)
    farthest = np.maximum(v.max(axis=-2, keepdims=True) - o, o - v.min(axis=-2, keepdims=True))
    least = np.maximum(1 - held, np.finfo(np.float64).eps)
    moved = np.minimum(np.sqrt(np.maximum(spread_of_values, 0)) / least, farthest)
    norm = np.sqrt(np.square(p) @ np.square(v))
    carried = np.minimum(p + a, 1) @ value.bound
    lost = arithmetic.smallest * np.abs(v).sum(axis=-2, keepdims=True)
    spread = root_of_squares(
        moved,
        carried,
        arithmetic.rounding(norm + np.abs(o), times=2.0) + lost,
        arithmetic.rounding(o, times=2.0),
        arithmetic.summing(2 * v.shape[-2], norm, o),
    )
    return Running(o, spread)


MOST = 30.0
"""A score that errs by more says nothing; exp of it is far from overflow."""


def _pooled(
    tokens: Running, weights: EncoderWeights, spec: EncoderSpec, arithmetic: Arithmetic
) -> Running:
    if spec.pooling == "class":
        return tokens.map(lambda part: part[:, 0])
    last = tokens.values.shape[1] - spec.suffix_tokens
    patches = tokens.map(lambda each: each[:, spec.prefix_tokens : last])
    if spec.pooling == "mean":
        return _mean(patches, arithmetic)
    if weights.pool is None:
        raise PatchParityError("pooling='attention' needs the weights of an attention pool")
    return _attention_pooled(patches, weights.pool, spec, arithmetic)


def _mean(tokens: Running, arithmetic: Arithmetic) -> Running:
    count, values = tokens.values.shape[1], tokens.values.mean(axis=1)
    norm = np.sqrt(np.square(tokens.values).sum(axis=1))
    spread = root_of_squares(
        tokens.bound.mean(axis=1),
        arithmetic.summing(count, norm, values * count) / count,
        arithmetic.rounding(values, times=2.0),
    )
    return Running(values, spread)


def _attention_pooled(
    tokens: Running, weights: AttentionPool, spec: EncoderSpec, arithmetic: Arithmetic
) -> Running:
    probe = weights.probe.astype(np.float64)
    queries = Running.exact(np.broadcast_to(probe, (len(tokens.values), 1, len(probe))))
    pooled = _attend(queries, tokens, weights.attention, spec, NOWHERE, arithmetic)
    if weights.mlp is not None:
        given = pooled
        if weights.norm is not None:
            given = layer_norm(pooled, weights.norm, spec.norm_epsilon, arithmetic)
        pooled = add(pooled, _feed_forward(given, weights.mlp, spec, arithmetic), arithmetic)
    return pooled.map(lambda part: part[:, 0])
