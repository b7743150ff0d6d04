"""How one library keeps the blocks and the ends of an encoder: names and axes as data, from which
both reading and writing come."""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import einops
import numpy as np
from numpy.typing import NDArray

BLOCK_FIELDS: dict[str, str] = {
    "first_norm.scale": "D",
    "first_norm.shift": "D",
    "query.weight": "E D",
    "query.bias": "E",
    "key.weight": "E D",
    "key.bias": "E",
    "value.weight": "E D",
    "value.bias": "E",
    "out.weight": "D E",
    "out.bias": "D",
    "query_norm.scale": "d",
    "query_norm.shift": "d",
    "key_norm.scale": "d",
    "key_norm.shift": "d",
    "first_scale": "D",
    "second_norm.scale": "D",
    "second_norm.shift": "D",
    "gate.weight": "M D",
    "gate.bias": "M",
    "up.weight": "M D",
    "up.bias": "M",
    "mlp_norm.scale": "M",
    "mlp_norm.shift": "M",
    "down.weight": "D M",
    "down.bias": "D",
    "second_scale": "D",
}
"""Parts of a block, and their canonical axes: D the width, E = h·d that of attention, M that of
the MLP."""

END_FIELDS: dict[str, str] = {
    "final_norm.scale": "D",
    "final_norm.shift": "D",
    "pool.probe": "D",
    "pool.query.weight": "F D",
    "pool.query.bias": "F",
    "pool.key.weight": "F D",
    "pool.key.bias": "F",
    "pool.value.weight": "F D",
    "pool.value.bias": "F",
    "pool.out.weight": "D F",
    "pool.out.bias": "D",
    "pool.norm.scale": "D",
    "pool.norm.shift": "D",
    "pool.up.weight": "N D",
    "pool.up.bias": "N",
    "pool.down.weight": "D N",
    "pool.down.bias": "D",
    "pooled_norm.scale": "D",
    "pooled_norm.shift": "D",
    "pooler.weight": "P D",
    "pooler.bias": "P",
    "head.weight": "C D",
    "head.bias": "C",
}
"""Parts behind the blocks: F and N are the widths of attention and MLP of an attention pool, P that
of the pooler, C the classes or the width of a projection."""

FIELDS = BLOCK_FIELDS | END_FIELDS

AXES = ("D", "E", "M", "F", "N", "P", "C", "h", "d", "p", "n", "1")
"""Letters of a layout: h heads of width d, p parts that are kept in one tensor, n blocks."""

NUMBER = re.compile(r"\{(_?)n\}")
"""Where a name has the number of its block: `{n}`; `{_n}` is nothing for the first, then `_1`,
`_2` (Keras)."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a layout.

    Args:
        fields: the parts that it holds, in their order in it.
        name: with the place of the block's number; `^` in front where it stands beside the model
            that the stage is in, and not within.
        axes: einops pattern of its axes.
    """

    fields: tuple[str, ...]
    name: str
    axes: str

    @functools.cached_property
    def letters(self) -> tuple[str, ...]:
        """Its axes without groups."""
        return tuple(re.sub(r"[()]", " ", self.axes).split())

    @property
    def of_blocks(self) -> bool:
        """Whether it holds parts of blocks."""
        return self.fields[0] in BLOCK_FIELDS

    @property
    def stacked(self) -> bool:
        """Whether it holds them of all blocks."""
        return "n" in self.letters

    @functools.cached_property
    def canonical(self) -> str:
        """The axes of its parts one behind the other."""
        axes = FIELDS[self.fields[0]]
        if "h" in self.letters:
            wide = "d" if axes == "d" else "F" if "F" in axes else "E"
            axes = axes.replace(wide, "(h d)")
        elif axes == "d" and "E" in self.letters:
            axes = "E"
        parts = "p " if len(self.fields) > 1 else ""
        return f"{'n ' if self.stacked else ''}{parts}{axes}"

    @functools.cached_property
    def in_order(self) -> bool:
        """Whether its values are those of its parts, one behind the other: of all blocks, and of
        each block all parts."""
        canonical = re.sub(r"[()]", " ", self.canonical).split()
        return canonical == [letter for letter in self.letters if letter != "1"]

    def named(self, number: int) -> str:
        """Its name in a block."""
        return NUMBER.sub(
            lambda found: str(number) if not found[1] else f"_{number}" if number else "", self.name
        )

    @functools.cached_property
    def ending(self) -> str:
        """What its name ends with, behind the number."""
        return NUMBER.split(self.name)[-1]

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """What its name matches, with the number as its group."""
        pieces = NUMBER.split(self.name)
        if len(pieces) == 1:
            return re.compile(re.escape(self.name))
        before, kind, *rest = pieces
        after = "".join(re.escape(each) for each in rest[::2])
        number = r"(?:_([0-9]{1,9}))?" if kind else r"([0-9]{1,9})"
        return re.compile(f"{re.escape(before)}{number}{after}")

    def sizes(self, shape: tuple[int, ...], known: Mapping[str, int]) -> dict[str, int] | None:
        """Sizes of its axes in a tensor of this shape beside those that are known; None where it
        does not fit."""
        groups = re.findall(r"\(([^)]*)\)|(\S+)", self.axes)
        if len(groups) != len(shape):
            return None
        sizes = {**self._behind(known), "1": 1, "p": len(self.fields)}
        for (merged, single), size in zip(groups, shape, strict=True):
            names = merged.split() or [single]
            unknown = [name for name in names if name not in sizes]
            rest = math.prod(sizes[name] for name in names if name in sizes)
            if not unknown and rest != size:
                return None
            if len(unknown) == 1:
                if size == 0 or size % rest:
                    return None
                sizes[unknown[0]] = size // rest
        return _with_heads({**sizes, **{name: known[name] for name in "D" if name in known}})

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape, of these sizes."""
        groups = re.findall(r"\(([^)]*)\)|(\S+)", self.axes)
        known = {**self._behind(sizes), "1": 1, "p": len(self.fields)}
        return tuple(
            math.prod(known[name] for name in merged.split() or [single])
            for merged, single in groups
        )

    def _behind(self, sizes: Mapping[str, int]) -> Mapping[str, int]:
        """Sizes as this tensor sees them: a head behind a pooler is as wide as that gives."""
        if self.fields[0] == "head.weight" and "P" in sizes:
            return {**sizes, "D": sizes["P"]}
        return sizes

    def _used(self, sizes: Mapping[str, int]) -> dict[str, int]:
        held = {**self._behind(sizes), "p": len(self.fields)}
        return {name: held[name] for name in self.letters if name in held and name != "1"}

    def parts(self, array: NDArray[Any], sizes: Mapping[str, int]) -> list[NDArray[Any]]:
        """The parts in a tensor, canonical, in the order of `fields`; with a first axis of blocks
        where they are stacked. Views where that can be."""
        moved = einops.rearrange(array, f"{self.axes} -> {self.canonical}", **self._used(sizes))
        if len(self.fields) == 1:
            return [moved]
        axis = 1 if self.stacked else 0
        return [moved.take(k, axis) if axis else moved[k] for k in range(len(self.fields))]

    def whole(self, parts: list[NDArray[Any]], sizes: Mapping[str, int]) -> NDArray[Any]:
        """The tensor that holds these parts (of stacked ones, each with a first axis of blocks); a
        view of one part where that can be."""
        one = parts[0] if len(parts) == 1 else np.stack(parts, 1 if self.stacked else 0)
        moved = einops.rearrange(one, f"{self.canonical} -> {self.axes}", **self._used(sizes))
        return np.asarray(moved)


def _with_heads(sizes: dict[str, int]) -> dict[str, int] | None:
    """E = F = h·d, where two of these are known; None where that cannot be."""
    if "h" in sizes and "d" in sizes:
        width = sizes["h"] * sizes["d"]
        for name in ("E", "F"):
            if sizes.setdefault(name, width) != width:
                return None
    elif "h" in sizes and (wide := sizes.get("E", sizes.get("F"))):
        if wide % sizes["h"]:
            return None
        sizes["d"] = wide // sizes["h"]
    return sizes


@dataclass(frozen=True)
class EncoderModel:
    """One class of a library that takes a layout.

    Args:
        name: of the class.
        config: what its configuration says: constants, `$fact`, or tables `{of, words, also,
            default}`; keys with dots are within tables.
        file: what the configuration is called; empty where the library reads none.
        weights: what the weights beside it are called.
        fixed: facts that its code fixes.
        lacks: parts of the layout that it has no place for (`head`, `pooler`, ...).
        requires: parts that it must have.
        under: what stands before all names but those with `^`.
        call: how it is loaded, in code; `{folder}` is where the files are.
        architectures: patterns of what the configuration calls it, where that is more than one
            constant.
        beside: other files that its library wants, by name, and what they are.
        empty: tensors without values that its library wants, by name, with their axes, one of
            which is 0.
    """

    name: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file: str = "config.json"
    weights: str = "model.safetensors"
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    under: str = ""
    call: str = ""
    architectures: tuple[str, ...] = ()
    beside: Mapping[str, str] = dataclasses.field(default_factory=dict)
    empty: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class EncoderLayout:
    """How one library keeps an encoder.

    Args:
        id: of the layout.
        title: in words.
        stages: dialects of the embedding stage that it stands behind.
        entries: its tensors.
        optional: parts that need not be there, `bias` and the like by their whole field's name, or
            the field's first word for all of it.
        fixed: facts that hold of all its models.
        models: classes that take it; the first is the usual one.
        stage_under: what stands before the names of the stage, and not of the blocks.
        ignored: patterns of names that play no part.
        rms: whether its norms are RMSNorms.
        pairing: of rotary positions.
        read_only: whether nothing is written to it.
        stage_requires: fields of the embedding stage that its models always have, although a file
            of that alone may do without; `bias unless sequence_norm` is one that they have where
            they have not the other.
        names: the table of facts by the name that a configuration gives a model.
        undecided: semantics that models of these names differ in, and of which nothing is assumed.
        together: groups of parts of which a model has all or none.
        periods: tensor of the periods of rotary positions, which tells how wide heads are.
        key_mask: tensor of a block that takes the bias of keys out.
    """

    id: str
    title: str
    stages: tuple[str, ...]
    entries: tuple[Entry, ...]
    optional: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    models: tuple[EncoderModel, ...] = ()
    stage_under: str = ""
    ignored: tuple[str, ...] = ()
    rms: bool = False
    pairing: str = "halves"
    read_only: bool = False
    stage_requires: tuple[str, ...] = ()
    names: str = ""
    undecided: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    periods: str = ""
    key_mask: str = ""

    @functools.cached_property
    def fields(self) -> frozenset[str]:
        """All parts that it can hold."""
        return frozenset(name for entry in self.entries for name in entry.fields)

    def is_optional(self, name: str) -> bool:
        """Whether a part need not be there."""
        words = name.split(".")
        return any(".".join(words[:count]) in self.optional for count in range(1, len(words) + 1))

    def completes(self, name: str, held: Collection[str]) -> bool:
        """Whether a part must be there because others of the same are: of a head, an attention
        pool, or a norm that need not be there at all."""
        words = name.split(".")
        owners = (".".join(words[:count]) for count in range(1, len(words)))
        return name not in self.optional and any(
            owner in self.optional and any(each.startswith(f"{owner}.") for each in held)
            for owner in owners
        )

    @property
    def required(self) -> tuple[str, ...]:
        """Parts that must be there."""
        return tuple(name for name in FIELDS if name in self.fields and not self.is_optional(name))
