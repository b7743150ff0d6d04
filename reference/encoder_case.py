"""An encoder as a program would run it, block by block, with every place at which it can go wrong
laid open."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .encoder import NOWHERE, Encoded, Places, encode, encode_block
from .encoder_weights import Block, EncoderSpec, EncoderWeights
from .pipeline import Array
from .sequence import layer_norm
from .weights import LayerNorm


@dataclass(frozen=True, eq=False)
class BlockCase:
    """One block as a program runs it.

    Args:
        block: its weights.
        spec: what the program believes of it.
        places: positions and windows that it uses.
        model: those of the whole model: a block that sees everything has none of its windows.
    """

    block: Block
    spec: EncoderSpec
    places: Places = NOWHERE
    model: Places = NOWHERE

    def run(self, tokens: Array) -> Array:
        """What leaves the block, of tokens `(B, S, D)`, shape unchanged."""
        return encode_block(tokens, self.block, self.spec, self.places)


@dataclass(frozen=True, eq=False)
class EndCase:
    """What stands behind the last block, as a program runs it.

    Args:
        weights: the final norm, pooling and head; its blocks are left alone.
        spec: what the program believes of them.
        norms_ahead: norms that are applied to the tokens before the final one.
        pooler_tanh: whether the pooler's result goes through tanh.
    """

    weights: EncoderWeights
    spec: EncoderSpec
    norms_ahead: tuple[LayerNorm, ...] = ()
    pooler_tanh: bool = True

    def entering(self, tokens: Array) -> Array:
        """What the final norm is given, of tokens `(B, S, D)`, shape unchanged."""
        for norm in self.norms_ahead:
            tokens = layer_norm(tokens, norm, self.spec.norm_epsilon)
        return tokens

    def run(self, tokens: Array) -> Encoded:
        """What the end makes of tokens `(B, S, D)`."""
        weights, tokens = dataclasses.replace(self.weights, blocks=()), self.entering(tokens)
        if self.pooler_tanh or weights.pooler is None:
            return encode(tokens, weights, self.spec)
        bare = dataclasses.replace(weights, pooler=None, head=weights.pooler)
        encoded = encode(tokens, bare, self.spec)
        pooled = encoded.output
        output = None if pooled is None or weights.head is None else weights.head(pooled)
        return Encoded(encoded.tokens, pooled, output)


@dataclass(frozen=True, eq=False)
class EncoderCase:
    """An encoder as a program runs it.

    Args:
        blocks: in the order in which they run.
        end: what stands behind them.
        place: the block in which a mistake of one block is made; None for all.
    """

    blocks: tuple[BlockCase, ...]
    end: EndCase
    place: int | None = None

    @classmethod
    def of(
        cls,
        weights: EncoderWeights,
        spec: EncoderSpec,
        places: Places = NOWHERE,
        place: int | None = None,
    ) -> "EncoderCase":
        """The right program of these weights."""
        everywhere = Places(places.rotary)
        blocks = tuple(
            BlockCase(block, spec, everywhere if number in spec.full_blocks else places, places)
            for number, block in enumerate(weights.blocks)
        )
        return cls(blocks, EndCase(weights, spec), place)

    def run(self, tokens: Array) -> tuple[list[Array], Encoded]:
        """What leaves each block, and the end, of tokens `(B, S, D)`, in their dtype."""
        left = list(self._blocks(tokens))
        return left, self.end.run(left[-1] if left else tokens)

    def _blocks(self, tokens: Array) -> Iterator[Array]:
        for block in self.blocks:
            tokens = block.run(tokens)
            yield tokens


def alike(first: Any, second: Any) -> bool:
    """Whether two cases, or parts of them, hold the same numbers and names."""
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if dataclasses.is_dataclass(first):
        return all(
            alike(getattr(first, each.name), getattr(second, each.name))
            for each in dataclasses.fields(first)
        )
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return bool(first == second)
