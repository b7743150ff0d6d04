"""Seeded encoders of realistic forms, and what programs of a type make of them: the right ones and
the wrong ones."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from patchparity.reference.activations import ACTIVATIONS
from patchparity.reference.diagnosis.encoder import MeasuredBlocks
from patchparity.reference.encoder import NOWHERE, Places, rotary_angles
from patchparity.reference.encoder_case import BlockCase, EncoderCase
from patchparity.reference.encoder_weights import (
    Attention,
    AttentionPool,
    Block,
    EncoderSpec,
    EncoderWeights,
    Linear,
    Mlp,
    initialize_encoder,
)
from patchparity.reference.weights import LayerNorm

Array = NDArray[Any]
WIDTH, DEPTH, HEADS, MLP_WIDTH, GRID = 48, 12, 6, 100, (3, 4)
TYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclass(frozen=True, eq=False)
class Program:
    """A right encoder, and the sequence that it is given, shape `(B, S, D)`."""

    weights: EncoderWeights
    spec: EncoderSpec
    places: Places
    tokens: Array

    def case(self, place: int | None = None) -> EncoderCase:
        """The right case; `place` is where a mistake of one block is made."""
        return EncoderCase.of(self.weights, self.spec, self.places, place)


class Numbers:
    """What initializes the parts that `initialize_encoder` leaves out."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def drawn(self, *shape: int, deviation: float = 0.1, around: float = 0.0) -> Array:
        """Normal numbers."""
        return around + deviation * self.rng.standard_normal(shape)

    def linear(self, rows: int, columns: int, bias: bool = True) -> Linear:
        """A matrix of deviation 1/√in."""
        return Linear(
            self.drawn(rows, columns, deviation=columns**-0.5), self.drawn(rows) if bias else None
        )

    def norm(self, width: int, shift: bool = True, centered: bool = True) -> LayerNorm:
        """A norm of scales about 1."""
        return LayerNorm(
            self.drawn(width, around=1.0), self.drawn(width) if shift else None, centered
        )

    def scale(self) -> Array:
        """Layer scale."""
        return self.drawn(WIDTH, deviation=0.2, around=0.5)


def _tokens(count: int, seed: int) -> Array:
    """A sequence as an embedding gives it: small beside what the blocks add."""
    return 0.1 * np.random.default_rng(seed).standard_normal((2, count, WIDTH))


def _blocks(
    depth: int, change: Callable[[Block], Block], mlp_width: int = MLP_WIDTH, seed: int = 0
) -> EncoderWeights:
    weights = initialize_encoder(WIDTH, depth=depth, mlp_width=mlp_width, seed=seed)
    return dataclasses.replace(weights, blocks=tuple(map(change, weights.blocks)))


def vit(depth: int = DEPTH) -> Program:
    """ViT-S in small: a class token, a head."""
    weights = _blocks(depth, lambda block: block)
    weights = dataclasses.replace(weights, head=Numbers(1).linear(20, WIDTH))
    spec = EncoderSpec(HEADS, pooling="class", prefix_tokens=1)
    return Program(weights, spec, NOWHERE, _tokens(13, 2))


def square(depth: int = DEPTH) -> Program:
    """Square gated MLPs, layer scale, norms of q and k, the mean behind which a norm stands."""
    numbers = Numbers(3)
    each = WIDTH // HEADS

    def change(block: Block) -> Block:
        norms: dict[str, Any] = {name: numbers.norm(each) for name in ("query_norm", "key_norm")}
        attention = dataclasses.replace(block.attention, **norms)
        scales: dict[str, Any] = {name: numbers.scale() for name in ("first_scale", "second_scale")}
        mlp = dataclasses.replace(block.mlp, gate=numbers.linear(WIDTH, WIDTH))
        return dataclasses.replace(block, attention=attention, mlp=mlp, **scales)

    weights = _blocks(depth, change, mlp_width=WIDTH, seed=4)
    weights = dataclasses.replace(
        weights,
        final_norm=None,
        pooled_norm=numbers.norm(WIDTH),
        head=numbers.linear(WIDTH, WIDTH),
    )
    spec = EncoderSpec(HEADS, activation="gelu-tanh", pooling="mean", prefix_tokens=1)
    return Program(weights, spec, NOWHERE, _tokens(13, 5))


def gated(depth: int = DEPTH) -> Program:
    """DINOv3 in small: rotary positions, registers, gated MLPs, layer scale, k without a bias."""
    numbers = Numbers(6)

    def change(block: Block) -> Block:
        key = Linear(block.attention.key.weight)
        mlp = dataclasses.replace(block.mlp, gate=numbers.linear(MLP_WIDTH, WIDTH))
        scales: dict[str, Any] = {name: numbers.scale() for name in ("first_scale", "second_scale")}
        attention = dataclasses.replace(block.attention, key=key)
        return dataclasses.replace(block, attention=attention, mlp=mlp, **scales)

    spec = EncoderSpec(
        HEADS, norm_epsilon=1e-5, activation="silu", pooling="class", prefix_tokens=5
    )
    rotary = rotary_angles(GRID, WIDTH // HEADS, temperature=100.0, coordinates="unit")
    return Program(_blocks(depth, change, seed=7), spec, Places(rotary), _tokens(17, 8))


def windowed(depth: int = DEPTH) -> Program:
    """Qwen2.5-VL in small: RMSNorm, windows, and blocks without."""
    numbers = Numbers(9)

    def change(block: Block) -> Block:
        norms: dict[str, Any] = {
            name: numbers.norm(WIDTH, shift=False, centered=False)
            for name in ("first_norm", "second_norm")
        }
        mlp = dataclasses.replace(block.mlp, gate=numbers.linear(MLP_WIDTH, WIDTH))
        return dataclasses.replace(block, mlp=mlp, **norms)

    weights = dataclasses.replace(_blocks(depth, change, seed=10), final_norm=None)
    spec = EncoderSpec(4, activation="silu", full_blocks=tuple(range(3, depth, 4)) or (1,))
    places = Places(rotary_angles(GRID, WIDTH // 4), np.repeat(np.arange(3), 4))
    return Program(weights, spec, places, _tokens(12, 11))


def pooled(depth: int = DEPTH) -> Program:
    """SigLIP in small: tanh GELU, attention pooling."""
    numbers = Numbers(12)
    q, k, v, out = (numbers.linear(WIDTH, WIDTH) for _ in range(4))
    mlp = Mlp(numbers.linear(MLP_WIDTH, WIDTH), numbers.linear(WIDTH, MLP_WIDTH))
    probe = numbers.drawn(WIDTH, deviation=1.0)
    pool = AttentionPool(probe, Attention(q, k, v, out), numbers.norm(WIDTH), mlp)
    weights = dataclasses.replace(_blocks(depth, lambda block: block, seed=13), pool=pool)
    spec = EncoderSpec(HEADS, activation="gelu-tanh", pooling="attention")
    return Program(weights, spec, NOWHERE, _tokens(12, 14))


def post(depth: int = DEPTH) -> Program:
    """BERT's order of norms, relative positions, norms of all of q and k, a norm within gated MLPs,
    a pooler with tanh."""
    numbers = Numbers(15)

    def change(block: Block) -> Block:
        norms: dict[str, Any] = {name: numbers.norm(WIDTH) for name in ("query_norm", "key_norm")}
        bias = numbers.drawn(HEADS, 13, 13, deviation=1.0)
        attention = dataclasses.replace(block.attention, **norms, scores_bias=bias)
        mlp = dataclasses.replace(
            block.mlp, gate=numbers.linear(MLP_WIDTH, WIDTH), norm=numbers.norm(MLP_WIDTH)
        )
        return dataclasses.replace(block, attention=attention, mlp=mlp)

    weights = dataclasses.replace(
        _blocks(depth, change, seed=16),
        final_norm=None,
        pooler=numbers.linear(WIDTH, WIDTH),
        head=numbers.linear(20, WIDTH),
    )
    spec = EncoderSpec(
        HEADS, norm_epsilon=1e-12, norms="post", pooling="class", prefix_tokens=1,
        attention_scale=0.25,
    )  # fmt: skip
    return Program(weights, spec, NOWHERE, _tokens(13, 17))


PROGRAMS = {each.__name__: each for each in (vit, square, gated, windowed, pooled, post)}


def stored(part: Any, dtype: str) -> Any:
    """The same weights as a model of this type stores them: rounded to it, in float64."""
    if isinstance(part, np.ndarray):
        return part.astype(TYPES[dtype]).astype(np.float64) if part.dtype.kind == "f" else part
    if isinstance(part, tuple):
        return tuple(stored(each, dtype) for each in part)
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {each.name: getattr(part, each.name) for each in dataclasses.fields(part)}
        return dataclasses.replace(
            part, **{name: stored(each, dtype) for name, each in fields.items()}
        )
    return part


def program(name: str, dtype: str = "float32", depth: int = DEPTH) -> Program:
    """A right encoder whose weights are as a type stores them."""
    made = PROGRAMS[name](depth)
    return dataclasses.replace(
        made, weights=stored(made.weights, dtype), tokens=stored(made.tokens, dtype)
    )


# Arithmetic of 16 bits: every operation in float32, its result rounded.


def _block_in(case: BlockCase, tokens: Array, dtype: str) -> Array:
    """What a block makes of tokens in a type: 16-bit ones round whatever an operation gives, as
    frameworks do, and accumulate in float32."""
    if dtype == "float32":
        return case.run(tokens.astype(np.float32))
    spec, block, kind = case.spec, case.block, TYPES[dtype]

    def r(values: Array) -> Array:
        return values.astype(kind).astype(np.float32)

    def norm(values: Array, each: LayerNorm | None) -> Array:
        if each is None:
            return values
        values = values - values.mean(-1, keepdims=True) if each.centered else values
        values = values / np.sqrt((values * values).mean(-1, keepdims=True) + spec.norm_epsilon)
        values = values * each.scale.astype(np.float32)
        return r(values if each.shift is None else values + each.shift.astype(np.float32))

    def attention(given: Array) -> Array:
        weights = block.attention
        cut = []
        for name in ("query", "key", "value"):
            values, own = r(getattr(weights, name)(given)), getattr(weights, f"{name}_norm", None)
            whole = own is not None and len(own.scale) == values.shape[-1]
            values = norm(values, own) if whole else values
            heads = values.reshape(*values.shape[:2], spec.num_heads, -1)
            heads = (heads if whole else norm(heads, own)).transpose(0, 2, 1, 3)
            if case.places.rotary is not None and name != "value":
                heads = r(case.places.rotary.turn(heads, spec))
            cut.append(heads)
        query, key, value = cut
        scale = spec.attention_scale or query.shape[-1] ** -0.5
        scores = r(r(query @ key.swapaxes(-1, -2)) * np.float32(scale))
        if weights.scores_bias is not None:
            scores = r(scores + weights.scores_bias.astype(np.float32))
        if (windows := case.places.windows) is not None:
            scores = np.where(windows[:, None] != windows, -np.inf, scores).astype(np.float32)
        raised = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = r(r(raised / raised.sum(-1, keepdims=True)) @ value).transpose(0, 2, 1, 3)
        return r(weights.out(mixed.reshape(*mixed.shape[:2], -1)))

    def mlp(given: Array) -> Array:
        weights, act = block.mlp, ACTIVATIONS[spec.activation]
        inner = r(weights.up(given))
        gate = None if weights.gate is None else r(act(r(weights.gate(given))))
        inner = r(act(inner)) if gate is None else r(gate * inner)
        return r(weights.down(norm(inner, weights.norm)))

    kept = tokens.astype(np.float32)
    for half, own, layer_scale in (
        (attention, block.first_norm, block.first_scale),
        (mlp, block.second_norm, block.second_scale),
    ):
        made = half(norm(kept, own) if spec.norms == "pre" else kept)
        made = norm(made, own) if spec.norms == "behind" else made
        made = made if layer_scale is None else r(made * layer_scale.astype(np.float32))
        kept = r(kept + made)
        kept = norm(kept, own) if spec.norms == "post" else kept
    return kept


def measured(right: Program, wrong: EncoderCase, dtype: str = "float32") -> MeasuredBlocks:
    """What a wrong program's blocks make, each of the right one's own input of it."""
    left, _ = right.case().run(right.tokens)
    inputs = [right.tokens, *left]
    inputs += [inputs[-1]] * (len(wrong.blocks) - len(left))
    given = tuple(stored(each, dtype) for each in inputs[: len(wrong.blocks)])
    end = stored(left[-1], dtype)
    made = tuple(
        _block_in(block, tokens, dtype) for block, tokens in zip(wrong.blocks, given, strict=True)
    )
    encoded = wrong.end.run(end.astype(np.float32))
    parts = {name: getattr(encoded, name) for name in ("tokens", "pooled", "output")}
    kept = {name: stored(each, dtype) for name, each in parts.items() if each is not None}
    return MeasuredBlocks(given, made, end, **kept)
