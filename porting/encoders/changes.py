"""Steps that change which parts of an encoder there are: a closed list, each with its sentence, and
its inverse or marked as lossy."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..files.checkpoint import dtype_of
from .found import Part, field_of
from .layout import FIELDS, Entry
from .state import Change, State, Target


def _constant(state: State, name: str, value: float) -> Part:
    """A part of one number that the source has not."""
    like = next(iter(state.parts.values()))
    axes = Entry((name,), "", FIELDS[name])
    shape, dtype = axes.shape(state.sizes), like.dtype
    return Part(shape, dtype, lambda: np.full(shape, value, dtype_of(dtype)))


def _together(target: Target) -> tuple[tuple[str, ...], ...]:
    """Parts that a target has all of or none."""
    apart = "$key_bias" in target.model.config.values()
    inputs = () if apart else (("query.bias", "key.bias", "value.bias"),)
    pairs = (
        (f"{name.removesuffix('.bias')}.weight", name)
        for name in target.layout.fields
        if name.endswith(".bias") and name not in target.layout.optional
    )
    outputs = ("out.bias", "up.bias", "gate.bias", "down.bias")
    return (*inputs, outputs, *sorted(pairs), *target.layout.together)


class _Adds(Change):
    value: ClassVar[float]
    words: ClassVar[tuple[str, ...]]

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        lacking: dict[str, None] = {}
        groups = (*(entry.fields for entry in target.layout.entries), *_together(target))
        before = -1
        while before != len(lacking):  # one group may bring another's first
            before, held = len(lacking), state.held.union(lacking)
            for names in groups:
                there = held.intersection(names)
                lacking |= {
                    name: None
                    for name in names
                    if name not in held
                    and target.holds(name)
                    and (there or target.lacks(name, state.held))
                    and self._can(state, target, name)
                }
        return list(lacking)

    def _can(self, state: State, target: Target, name: str) -> bool:
        if name.rpartition(".")[2] not in self.words and name not in self.words:
            return False
        # of a part that is not there at all nothing is made up
        owner = name.rpartition(".")[0]
        return not owner or any(held.startswith(f"{owner}.") for held in state.held)

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        made = {
            place: _constant(state, name, self.value)
            for name in fields
            for place in state.places(name)
        }
        return state.but({**state.parts, **made}, self)


class ZeroBias(_Adds):
    """Biases and shifts of zeros, where the target has some."""

    id, inverse = "zero-bias", "drop-zero-bias"
    sentence = "biases of zeros are added, for the target has some: nothing changes"
    value, words = 0.0, ("bias", "shift")


class UnitScale(_Adds):
    """A layer scale of ones."""

    id, inverse = "unit-layer-scale", "drop-unit-layer-scale"
    sentence = "a layer scale of ones is added, for the target has one: nothing changes"
    value, words = 1.0, ("first_scale", "second_scale")


class _DropsConstant(Change):
    value: ClassVar[float]
    words: ClassVar[tuple[str, ...]]

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        return [
            name
            for name in FIELDS
            if name in state.held
            and not target.holds(name)
            and (name in self.words or name.rpartition(".")[2] in self.words)
            and all((state.parts[each].read() == self.value).all() for each in state.each(name))
        ]

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        parts = {name: part for name, part in state.parts.items() if field_of(name) not in fields}
        return state.but(parts, self)


class DropZeroBias(_DropsConstant):
    """Biases of zeros left out."""

    id, inverse = "drop-zero-bias", "zero-bias"
    sentence = "biases are all zeros, and left out, for the target has none: nothing changes"
    value, words = 0.0, ("bias", "shift")


class DropUnitScale(_DropsConstant):
    """A layer scale of ones left out."""

    id, inverse = "drop-unit-layer-scale", "unit-layer-scale"
    sentence = "layer scales are all ones, and left out: nothing changes"
    value, words = 1.0, ("first_scale", "second_scale")


class IdentityOut(Change):
    """The identity as the matrix behind attention, where the source has none."""

    id = "identity-out"
    sentence = (
        "the identity is added as the matrix behind attention, for the target has one and the "
        "source none: nothing changes"
    )

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        lacks = "out.weight" not in state.held and target.needs("out.weight")
        return ["out.weight"] if lacks and state.sizes["E"] == state.sizes["D"] else []

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        dtype, width = next(iter(state.parts.values())).dtype, state.sizes["D"]
        part = Part((width, width), dtype, lambda: np.eye(width, dtype=dtype_of(dtype)))
        made = dict.fromkeys(state.places("out.weight"), part)
        return state.but({**state.parts, **made}, self)


class DropKeyBias(Change):
    """The bias of keys, which adds the same to all scores of a query."""

    id = "drop-key-bias"
    sentence = (
        "the bias of keys is left out, for the target has none: it adds the same to all scores of "
        "a query, which the softmax takes out"
    )

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        normed = "key_norm.scale" in state.held or state.semantics["rotary"]
        there = "key.bias" in state.held and not target.holds("key.bias")
        return ["key.bias"] if there and not normed else []

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        parts = {name: part for name, part in state.parts.items() if field_of(name) not in fields}
        return state.but(parts, self)


class FoldLayerScale(Change):
    """Layer scales multiplied into what stands before them."""

    id = "fold-layer-scale"
    sentence = (
        "layer scales are multiplied into the matrices before them, for the target has none: one "
        "rounding each"
    )
    OWNERS: ClassVar[Mapping[str, str]] = {"first_scale": "out", "second_scale": "down"}

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        return [name for name in self.OWNERS if name in state.held and not target.holds(name)]

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        parts = dict(state.parts)
        for name in fields:
            for place in state.each(name):
                scale = parts.pop(place)
                before = place.removesuffix(name) + self.OWNERS[name]
                for each in (f"{before}.weight", f"{before}.bias"):
                    if each in parts:
                        parts[each] = _scaled(parts[each], scale)
        return state.but(parts, self)


ROWS = 2**6
"""Rows that are multiplied in float64 at a time: 32 MB of a matrix 65536 wide."""


def _scaled(part: Part, scale: Part) -> Part:
    def read() -> NDArray[Any]:
        values = part.read()
        factors = scale.read().astype(np.float64).reshape(-1, *[1] * (values.ndim - 1))
        scaled = np.empty(values.shape, values.dtype)
        for row in range(0, len(values), ROWS):
            rows = slice(row, row + ROWS)
            scaled[rows] = values[rows].astype(np.float64) * factors[rows]
        return scaled

    return Part(part.shape, part.dtype, read)


class NormBeforePooling(Change):
    """The norm of what is pooled, as one of all tokens."""

    id, inverse = "norm-before-pooling", "norm-behind-pooling"
    sentence = (
        "the norm of the class token is kept as one of all tokens: what is pooled does not change, "
        "the other tokens come out normed"
    )
    OLD, NEW = "pooled_norm", "final_norm"

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        moved = state.semantics["pooling"] == "class"
        there = f"{self.OLD}.scale" in state.held and f"{self.NEW}.scale" not in state.held
        place = target.holds(f"{self.NEW}.scale") and not target.holds(f"{self.OLD}.scale")
        # the way back knows which of the two it was where the source has a place for one alone
        undone = f"{self.NEW}.scale" not in state.origin.fields
        return [self.OLD] if moved and there and place and undone != self.lossy else []

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        parts = {
            name.replace(f"{self.OLD}.", f"{self.NEW}."): part for name, part in state.parts.items()
        }
        return state.but(parts, self)


class NormBehindPooling(NormBeforePooling):
    """The norm of all tokens, as one of what is pooled."""

    id, inverse = "norm-behind-pooling", "norm-before-pooling"
    sentence = (
        "the norm of all tokens is kept as one of the class token: what is pooled does not change, "
        "the other tokens come out without it"
    )
    OLD, NEW = "final_norm", "pooled_norm"


class PooledNormForAll(NormBeforePooling):
    """The norm of what is pooled, as one of all tokens, out of a layout with places for both."""

    id, inverse = "pooled-norm-for-all", ""
    sentence = f"{NormBeforePooling.sentence}, and do so after a way back"


class NormForPooledAlone(NormBehindPooling):
    """The norm of all tokens, as one of what is pooled, out of a layout with places for both."""

    id, inverse = "norm-for-pooled-alone", ""
    sentence = f"{NormBehindPooling.sentence}, and do so after a way back"


class PermuteRotary(Change):
    """Rows of queries and keys in the order in which the target turns them."""

    id, inverse = "permute-rotary", "permute-rotary"
    sentence = (
        "rows of queries and keys are put in the order in which the target turns pairs of channels"
    )

    def applies(self, state: State, target: Target) -> list[str]:
        """Its fields."""
        differs = state.semantics["pairing"] != target.layout.pairing
        return ["query", "key"] if differs and state.semantics["rotary"] else []

    def apply(self, state: State, fields: list[str]) -> State:
        """Done."""
        before = state.semantics["pairing"]
        after = "interleaved" if before == "halves" else "halves"
        heads = state.semantics["num_heads"]
        parts = dict(state.parts)
        for name, part in state.parts.items():
            owner = field_of(name).split(".")[0]
            if owner in ("query", "key", "query_norm", "key_norm"):
                many = heads if part.shape[0] == state.sizes["E"] else 1
                parts[name] = _permuted(part, many, after)
        return state.but(parts, self, semantics=state.semantics.but(pairing=after))


def _permuted(part: Part, heads: int, after: str) -> Part:
    rows = np.arange(part.shape[0]).reshape(heads, -1)
    count = rows.shape[1]
    pairs = rows.reshape(heads, 2, count // 2)
    if after == "halves":
        pairs = rows.reshape(heads, count // 2, 2)
    order = pairs.swapaxes(1, 2).reshape(-1)
    return Part(part.shape, part.dtype, lambda: part.read()[order])


CHANGES: tuple[Change, ...] = (
    NormBeforePooling(),
    NormBehindPooling(),
    PooledNormForAll(),
    NormForPooledAlone(),
    DropZeroBias(),
    DropUnitScale(),
    DropKeyBias(),
    FoldLayerScale(),
    PermuteRotary(),
    IdentityOut(),
    ZeroBias(),
    UnitScale(),
)
"""In the order in which they are tried, each once."""
