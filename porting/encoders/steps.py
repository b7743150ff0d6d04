"""What is done to an encoder on its way into another layout: a closed list of steps, each with its
sentence, and its inverse or marked as lossy.

A step that only moves axes (splits, merges, heads, transposes, stacks) is a `Move`, seen in how
source and target keep the same part; one that changes which parts there are is a `Change`.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ..files.checkpoint import dtype_of
from .found import FoundEncoder, Part, field_of
from .layout import BLOCK_FIELDS, FIELDS, EncoderLayout, EncoderModel, Entry
from .semantics import SEMANTICS, Semantics, shown

ENDS = ("head", "pooler", "pool")
"""What a target may do without, when a user allows it: all that stands behind the tokens."""


STRUCTURE: dict[str, Any] = {
    "first_patch_pooled": False,
    "attention_as_wide": True,
    "head_alone": "any",
}
"""What holds of a model where its layout does not say otherwise: that the first token, where it is
pooled, is a class token; that attention is as wide as the model; and whatever of one head that is
as wide as the model."""


@dataclass(frozen=True, eq=False)
class Target:
    """Where an encoder goes."""

    layout: EncoderLayout
    model: EncoderModel

    def holds(self, name: str) -> bool:
        """Whether it has a place for a field."""
        return name in self.layout.fields and name.split(".")[0] not in self.model.lacks

    def needs(self, name: str) -> bool:
        """Whether a field must be there."""
        wanted = not self.layout.is_optional(name) or name.split(".")[0] in self.model.requires
        return self.holds(name) and wanted

    def lacks(self, name: str, held: Collection[str]) -> bool:
        """Whether a field is not there and must be, alone or beside those that are."""
        if name in held or not self.holds(name):
            return False
        return self.needs(name) or self.layout.completes(name, held)

    @property
    def fixed(self) -> Mapping[str, Any]:
        """Facts that its code fixes."""
        plain = {"rotary": "", "attention_scale": None}
        own = {**self.layout.fixed, **self.model.fixed}
        return {**STRUCTURE, **plain, **own, "pairing": self.layout.pairing}


@dataclass(frozen=True, eq=False)
class State:
    """An encoder on its way."""

    depth: int
    sizes: Mapping[str, int]
    parts: Mapping[str, Part]
    semantics: Semantics
    steps: tuple[str, ...] = ()
    lossy: bool = False
    losses: tuple[str, ...] = ()

    @functools.cached_property
    def held(self) -> frozenset[str]:
        """Fields that are there."""
        return frozenset(field_of(name) for name in self.parts)

    def each(self, name: str) -> list[str]:
        """The names of a field in all blocks, or its own."""
        return [each for each in self.parts if field_of(each) == name]

    def places(self, name: str) -> list[str]:
        """Under which names a field would be."""
        if name in BLOCK_FIELDS:
            return [f"blocks.{number}.{name}" for number in range(self.depth)]
        return [name]

    def but(self, parts: Mapping[str, Part], step: "Change", **changed: Any) -> "State":
        """The same behind a step."""
        sentence = f"{step.id}: {step.sentence}"
        return dataclasses.replace(
            self,
            parts=parts,
            steps=(*self.steps, sentence),
            lossy=self.lossy or step.lossy,
            **changed,
        )


class Change(abc.ABC):
    """A step that changes which parts there are.

    Args:
        id: stable name.
        sentence: what it does.
        inverse: id of the step that undoes it to the last bit; empty where none does.
    """

    id: ClassVar[str]
    sentence: ClassVar[str]
    inverse: ClassVar[str] = ""

    @property
    def lossy(self) -> bool:
        """Whether no step undoes it."""
        return not self.inverse

    @abc.abstractmethod
    def applies(self, state: State, target: Target) -> list[str]:
        """The fields that it is applied to; none where it is not."""

    @abc.abstractmethod
    def apply(self, state: State, fields: list[str]) -> State:
        """What it makes of them."""


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
        return [self.OLD] if moved and there and place else []

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


@dataclass(frozen=True)
class Move:
    """A step that moves axes: `applies` says of how a source and a target keep a part whether it
    is one. All are undone by the same in the other direction."""

    id: str
    sentence: str
    applies: Callable[[Entry, Entry], bool] = field(compare=False)


MOVES = (
    Move(
        "split",
        "parts of one tensor are kept in several",
        lambda a, b: len(a.fields) > len(b.fields),
    ),
    Move("merge", "parts are put into one tensor", lambda a, b: len(a.fields) < len(b.fields)),
    Move(
        "reorder",
        "parts of one tensor are put in another order",
        lambda a, b: len(a.fields) == len(b.fields) > 1 and a.fields != b.fields,
    ),
    Move("heads", "heads become an axis", lambda a, b: "h" in b.letters and "h" not in a.letters),
    Move(
        "no-heads",
        "heads are no longer an axis",
        lambda a, b: "h" in a.letters and "h" not in b.letters,
    ),
    Move(
        "transpose",
        "matrices are transposed",
        lambda a, b: _order(a) != _order(b) and len(_order(a)) > 1,
    ),
    Move("stack", "all blocks are stacked in one tensor", lambda a, b: b.stacked and not a.stacked),
    Move("unstack", "stacked blocks are kept one by one", lambda a, b: a.stacked and not b.stacked),
)


def _order(entry: Entry) -> tuple[str, ...]:
    """Its axes of a matrix, output and input, in their order."""
    axes = [letter for letter in entry.letters if letter not in "pn1"]
    if "h" in axes:
        wide = "F" if entry.fields[0].startswith("pool.") else "E"
        axes[axes.index("h")] = wide
        axes.remove("d")
    return tuple(axes)


def moves_between(state: State, target: Target) -> list[str]:
    """The moves of axes, in sentences, each with the fields that it is of."""
    of: dict[Move, list[str]] = {}
    kept = {name: entry for entry in target.layout.entries for name in entry.fields}
    seen = set()
    for name, part in state.parts.items():
        field_name = field_of(name)
        if field_name in seen or part.entry is None or field_name not in kept:
            continue
        seen.add(field_name)
        for move in MOVES:
            if move.applies(part.entry, kept[field_name]):
                of.setdefault(move, []).append(field_name)
    return [
        f"{move.id}: {', '.join(dict.fromkeys(map(_owner, names)))}: {move.sentence}"
        for move, names in of.items()
    ]


def _owner(name: str) -> str:
    """A field without its last word: `query` of `query.weight`."""
    return name.rpartition(".")[0] or name


def brought(state: State, target: Target) -> State:
    """An encoder as a target holds it, with what it loses on the way.

    Raises:
        PatchParityError: something that no step does without, or that the target needs and is not
            there.
    """
    state = _with_semantics(state, target)
    for step in CHANGES:
        if fields := step.applies(state, target):
            state = step.apply(state, fields)
    state = _without_ends(state, target)
    _require_complete(state, target)
    return state


def _with_semantics(state: State, target: Target) -> State:
    losses, values = list(state.losses), dict(state.semantics.values)
    for name, value in target.fixed.items():
        if name not in SEMANTICS or name == "pairing":
            continue
        ours = values[name]
        if ours == value or (name == "rotary_temperature" and not values["rotary"]):
            continue
        if name == "pooling" and (value == "none" or (ours == "none" and not _headed(state))):
            values[name] = value
            continue
        if name in ("norms", "rotary"):
            raise PatchParityError(
                f"{target.model.name} has {SEMANTICS[name]} {shown(value)}, and the source "
                f"{shown(ours)}: no step makes one of the other"
            )
        losses.append(
            f"{SEMANTICS[name]}: {target.model.name} computes with {shown(value)}, the source "
            f"with {shown(ours)}"
        )
        values[name] = value
    semantics = Semantics(values, state.semantics.origins)
    return dataclasses.replace(state, semantics=semantics, losses=tuple(losses))


def _headed(state: State) -> bool:
    """Whether a matrix stands behind the tokens, to which it matters what is pooled."""
    return not state.held.isdisjoint(("head.weight", "pooler.weight"))


def _without_ends(state: State, target: Target) -> State:
    """Without what stands behind the tokens and has no place there."""
    homeless = [name for name in FIELDS if name in state.held and not target.holds(name)]
    alone = [name for name in homeless if target.holds(f"{name.rpartition('.')[0]}.weight")]
    if alone:  # the matrix has a place
        told = (f"{name} is not zero, and {target.model.name} has none" for name in alone)
        parts = {name: part for name, part in state.parts.items() if field_of(name) not in alone}
        state = dataclasses.replace(state, parts=parts, losses=(*state.losses, *told))
        homeless = [name for name in homeless if name not in alone]
    ends = dict.fromkeys(name.split(".")[0] for name in homeless)
    if {"pooler", "pool"} & set(ends) and "head.weight" in state.held:
        ends["head"] = None  # which stands behind it
    if stuck := [word for word in ends if word not in ENDS]:
        fields = [name for name in homeless if name.split(".")[0] in stuck]
        raise PatchParityError(
            f"{target.model.name} has no place for {', '.join(fields[:3])}, and no step does "
            "without it"
        )
    losses = [f"{word}: {target.model.name} has none" for word in ends]
    parts = {name: part for name, part in state.parts.items() if name.split(".")[0] not in ends}
    return dataclasses.replace(state, parts=parts, losses=(*state.losses, *losses))


def _require_complete(state: State, target: Target) -> None:
    lacking = [name for name in FIELDS if target.lacks(name, state.held)]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise PatchParityError(
            f"{target.model.name} needs {lacking[0]}{more}, and the source has none: none can be "
            "made up"
        )


def start(found: FoundEncoder, semantics: Semantics) -> State:
    """An encoder as it was found."""
    return State(found.depth, found.sizes, found.parts, semantics)
