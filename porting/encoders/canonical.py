"""The parts of an encoder as the NumPy encoder takes them, block by block."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.encoder import NOWHERE, Places, rotary_angles
from ...reference.encoder_weights import (
    Attention,
    AttentionPool,
    Block,
    EncoderWeights,
    Linear,
    Mlp,
)
from ...reference.weights import LayerNorm
from .found import Part
from .semantics import Semantics

Parts = Mapping[str, Part]


class _Reading:
    """Parts under a prefix, as the reference's own classes."""

    def __init__(self, parts: Parts, before: str, rms: bool) -> None:
        self.parts, self.before, self.rms = parts, before, rms

    def array(self, name: str) -> NDArray[Any] | None:
        part = self.parts.get(self.before + name)
        return None if part is None else np.asarray(part.read())

    def linear(self, name: str) -> Linear:
        weight = self.array(f"{name}.weight")
        assert weight is not None
        return Linear(weight, self.array(f"{name}.bias"))

    def linear_or_none(self, name: str) -> Linear | None:
        return self.linear(name) if f"{self.before}{name}.weight" in self.parts else None

    def norm(self, name: str) -> LayerNorm | None:
        scale = self.array(f"{name}.scale")
        return (
            None if scale is None else LayerNorm(scale, self.array(f"{name}.shift"), not self.rms)
        )

    def sure_norm(self, name: str) -> LayerNorm:
        norm = self.norm(name)
        assert norm is not None
        return norm

    def attention(self) -> Attention:
        query, key, value = (self.linear(name) for name in ("query", "key", "value"))
        out = self.linear_or_none("out") or Linear(np.eye(len(value.weight), dtype="f4"))
        return Attention(query, key, value, out, self.norm("query_norm"), self.norm("key_norm"))

    def mlp(self) -> Mlp | None:
        up = self.linear_or_none("up")
        if up is None:
            return None
        return Mlp(up, self.linear("down"), self.linear_or_none("gate"), self.norm("mlp_norm"))


def block_of(parts: Parts, number: int, rms: bool) -> Block:
    """One block; its tensors are read now."""
    reading = _Reading(parts, f"blocks.{number}.", rms)
    mlp = reading.mlp()
    assert mlp is not None
    return Block(
        reading.sure_norm("first_norm"),
        reading.attention(),
        reading.sure_norm("second_norm"),
        mlp,
        reading.array("first_scale"),
        reading.array("second_scale"),
    )


def ends_of(parts: Parts, rms: bool) -> EncoderWeights:
    """What stands behind the blocks; of these there are none in it."""
    reading = _Reading(parts, "", rms)
    pool = None
    if (probe := reading.array("pool.probe")) is not None:
        inner = _Reading(parts, "pool.", rms)
        pool = AttentionPool(probe.reshape(-1), inner.attention(), inner.norm("norm"), inner.mlp())
    return EncoderWeights(
        (),
        reading.norm("final_norm"),
        pool,
        reading.norm("pooled_norm"),
        reading.linear_or_none("pooler"),
        reading.linear_or_none("head"),
    )


def places_of(semantics: Semantics, grid: tuple[int, ...], head_width: int) -> Places:
    """Rotary positions of a grid of patches, where an encoder has some."""
    if not semantics["rotary"]:
        return NOWHERE
    rows, columns = grid[-2:]
    angles = rotary_angles(
        (rows, columns),
        head_width,
        temperature=semantics["rotary_temperature"],
        coordinates=semantics["rotary"],
    )
    return Places(angles)
