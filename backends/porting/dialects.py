"""Dialects: how each library names and lays out the embedding stage, as data; reading and writing both come from the same record.

What a layout cannot say is a step of a closed list (`STEPS`), with its inverse or marked as lossy.
"""

import dataclasses
import functools
import importlib.resources
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import einops
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.weights import PrefixToken
from ..layouts import CANONICAL

FORMATS = ("safetensors", "torch", "npz", "h5", "keras", "msgpack")

FIELDS: dict[str, str] = {
    "kernel": CANONICAL,
    "bias": "D",
    "class_token": "D",
    "distillation_token": "D",
    "register_tokens": "R D",
    "mask_token": "D",
    "positions": "rows D",
    "patch_norm.scale": "K",
    "patch_norm.shift": "K",
    "token_norm.scale": "D",
    "token_norm.shift": "D",
    "sequence_norm.scale": "D",
    "sequence_norm.shift": "D",
}
"""Fields of PatchEmbedWeights that a dialect may hold, and their canonical axes."""

AXES = ("D", "C", "Pt", "Ph", "Pw", "K", "R", "rows", "Gh", "Gw", "1")

STEPS: dict[str, str] = {
    "zero-bias": "a bias of zeros is added, for the target has one: nothing changes",
    "drop-zero-bias": "the bias is all zeros, and left out: nothing changes",
    "zero-position-rows": "position rows of zeros are added for prefix tokens: nothing changes",
    "drop-zero-position-rows": "position rows of zeros are left out: nothing changes",
    "fold-position-rows": "position rows of prefix tokens are added to the tokens, for the target has none: lossy, one rounding",
    "zero-positions": "positions of zeros are added, for the target has some: nothing changes",
    "computed-positions": "positions that the source computes are written as a table",
    "drop-computed-positions": "positions are left out, for the target computes the same",
    "zero-mask-token": "a mask token of zeros is added, for the target has one: it plays no part but in pre-training",
    "other-remainder": "images that patches do not divide are padded by the one and cut or refused by the other: nothing changes at sizes that they divide",
    "drop-mask-token": "the mask token is left out: it plays no part but in pre-training",
}
"""What may be done beside moving axes, and what that means. All but `fold-position-rows` leave the sequence as it is, bit by bit."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a dialect: under which name a field of the weights is kept, and how.

    Args:
        field: a name of `FIELDS`.
        name: of the tensor, without the prefix that a library may put before all names.
        layout: einops pattern of its axes.
    """

    field: str
    name: str
    layout: str

    def sizes(self, shape: tuple[int, ...], known: Mapping[str, int]) -> dict[str, int] | None:
        """Sizes of the named axes of a tensor of this shape, or None where the shape does not fit the layout and what is known."""
        groups = re.findall(r"\(([^)]*)\)|(\S+)", self.layout)
        if len(groups) != len(shape):
            return None
        found = dict(known)
        for (merged, single), size in zip(groups, shape, strict=True):
            names = merged.split() or [single]
            if single == "1":
                if size != 1:
                    return None
                continue
            unknown = [name for name in names if name not in found]
            rest = math.prod(found[name] for name in names if name in found)
            if not unknown:
                if rest != size:
                    return None
            elif len(unknown) == 1:
                if not rest or size % rest:
                    return None
                found[unknown[0]] = size // rest
            else:
                found["+".join(sorted(names))] = size
        return found


@dataclass(frozen=True)
class Dialect:
    """How one library keeps the embedding stage.

    Args:
        id: library and family.
        title: in words.
        framework: that of the library: torch, jax, keras or numpy.
        formats: of its files.
        entries: its tensors, by field.
        optional: fields that need not be there.
        prefix, prefix_side, token_order, norm_epsilon: as in SequenceLayout.
        positioned: which prefix tokens may have rows in the position table: alternatives.
        epsilon_of_config: whether `layer_norm_eps` of `config.json` is that of these norms; most are made with their framework's default.
        separator: between the parts of a name.
        stride, padding, remainder: where they are not those of patches that tile.
        model_types: what `config.json` calls its models.
        beside: tensors that tell it from others.
        copies: other tensors that hold the values of a field once more, by field.
        computed: `sinusoid-1d` where positions are computed and in no file.
        plain: whether it is a layout under names that say nothing.
    """

    id: str
    title: str
    framework: str
    formats: tuple[str, ...]
    entries: Mapping[str, Entry]
    optional: tuple[str, ...] = ()
    prefix: tuple[PrefixToken, ...] = ()
    prefix_side: Literal["first", "last"] = "first"
    positioned: tuple[tuple[PrefixToken, ...], ...] = ((),)
    token_order: Literal["raster", "merge-2x2"] = "raster"
    norm_epsilon: float = 1e-6
    epsilon_of_config: bool = False
    separator: str = "."
    stride: int | None = None
    padding: int = 0
    remainder: str = "floor"
    model_types: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    copies: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    computed: str = ""
    plain: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that must be there."""
        return tuple(name for name in self.entries if name not in self.optional)

    @property
    def video(self) -> bool:
        """Whether it cuts tubelets."""
        return "Pt" in self.entries["kernel"].layout

    def holds(self) -> str:
        """What it can hold, in words."""
        named = {"kernel": "", "mask_token": ""}
        told = [named.get(name, name.replace("_", " ").split(".")[0]) for name in self.entries]
        told += ["positions (computed)"] if self.computed else []
        return ", ".join(dict.fromkeys(filter(None, told))) or "nothing but the kernel"


def _dialect(identity: str, told: dict[str, Any], source: str) -> Dialect:
    """Build a dialect from its table.

    Raises:
        PatchParityError: a table that says something unknown, or not enough.
    """

    def wrong(what: str) -> PatchParityError:
        return PatchParityError(f"dialect {identity!r} in {source}: {what}")

    fields = {each.name for each in dataclasses.fields(Dialect)} - {"id", "entries"}
    if unknown := set(told) - fields - {"tensors"}:
        raise wrong(f"unknown {', '.join(sorted(unknown))}; expected {', '.join(sorted(fields | {'tensors'}))}")
    tensors = told.get("tensors")
    if not isinstance(tensors, dict) or "kernel" not in tensors:
        raise wrong("expected a table 'tensors' with a kernel")
    entries = {}
    for name, entry in tensors.items():
        if name not in FIELDS:
            raise wrong(f"field {name!r} is unknown; expected one of {', '.join(FIELDS)}")
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            raise wrong(f"{name} = {entry!r}: expected [name, layout]")
        axes = re.sub(r"[()]", " ", entry[1]).split()
        if strange := [axis for axis in axes if axis not in AXES]:
            raise wrong(f"{name} has the axis {strange[0]!r}; expected some of {' '.join(AXES)}")
        entries[name] = Entry(name, *entry)
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items() if key != "tensors"}
    if "positioned" in plain:
        plain["positioned"] = tuple(tuple(alternative) for alternative in told["positioned"])
    for missing in ("title", "framework", "formats"):
        if missing not in plain:
            raise wrong(f"{missing} is missing")
    if strange := [each for each in plain["formats"] if each not in FORMATS]:
        raise wrong(f"format {strange[0]!r} is unknown; expected some of {', '.join(FORMATS)}")
    texts = {"title", "framework", "prefix_side", "token_order", "separator", "remainder", "computed"}
    for key, value in plain.items():
        kind = (str,) if key in texts else (bool,) if key in ("plain", "epsilon_of_config") else (int, float, tuple, dict)
        if not isinstance(value, kind) or (
            key in ("optional", "prefix", "formats", "model_types", "beside") and not isinstance(value, tuple)
        ):
            raise wrong(f"{key} = {value!r} is of the wrong kind")
    return Dialect(identity, entries=entries, **plain)


def read_dialects(path: Path) -> dict[str, Dialect]:
    """Read a TOML file of dialects, a user's own for instance.

    Raises:
        PatchParityError: a file that cannot be read, or says something unknown.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PatchParityError(f"cannot read dialects from {path}: {error}") from None
    return {identity: _dialect(identity, told, str(path)) for identity, told in content.items()}


@functools.cache
def _own_dialects() -> dict[str, Dialect]:
    found: dict[str, Dialect] = {}
    folder = importlib.resources.files(__package__) / "dialects"
    for name in ("torch.toml", "transformers.toml", "jax.toml", "keras.toml", "plain.toml"):
        content = tomllib.loads((folder / name).read_text(encoding="utf-8"))
        found.update({identity: _dialect(identity, told, name) for identity, told in content.items()})
    return found


def list_dialects(more: Iterable[str | os.PathLike[str]] = ()) -> dict[str, Dialect]:
    """Return all dialects by id, those of other files after ours."""
    found = dict(_own_dialects())
    more = [more] if isinstance(more, (str, os.PathLike)) else more
    for path in more:
        own = read_dialects(Path(path))
        if twice := next((identity for identity in own if identity in found), None):
            raise PatchParityError(f"{path} calls a dialect {twice!r}, and there is one of that name: choose another")
        found.update(own)
    return found


def get_dialect(identity: str, dialects: Mapping[str, Dialect] | None = None) -> Dialect:
    """Return the dialect of an id.

    Raises:
        PatchParityError: an unknown one.
    """
    known = list_dialects() if dialects is None else dialects
    if identity not in known:
        raise PatchParityError(f"dialect {identity!r} is unknown; expected one of {', '.join(known)}")
    return known[identity]


def to_canonical(array: NDArray[Any], entry: Entry, sizes: Mapping[str, int]) -> NDArray[Any]:
    """Move a tensor of a file into the canonical axes of its field."""
    source, target = entry.layout, _canonical_axes(entry)
    used = {name: sizes[name] for name in re.sub(r"[()]", " ", source).split() if name in sizes and name != "1"}
    return np.ascontiguousarray(einops.rearrange(array, f"{source} -> {target}", **used))


def from_canonical(array: NDArray[Any], entry: Entry, sizes: Mapping[str, int]) -> NDArray[Any]:
    """Move a field of the weights into the layout of a dialect."""
    source, target = _canonical_axes(entry), entry.layout
    used = {name: sizes[name] for name in re.sub(r"[()]", " ", source).split() if name in sizes}
    return np.ascontiguousarray(einops.rearrange(array, f"{source} -> {target}", **used))


def _canonical_axes(entry: Entry) -> str:
    axes = FIELDS[entry.field]
    if entry.field == "kernel" and "Pt" in entry.layout:
        return axes.replace("Ph", "Pt Ph")
    if entry.field == "positions" and "Gh" in entry.layout:
        return axes.replace("rows", "(Gh Gw)")
    if entry.field.startswith("patch_norm") and "Ph" in entry.layout:
        return "(Ph Pw C)"
    return axes


@dataclass(frozen=True)
class Loss:
    """Something that a target cannot hold."""

    field: str
    why: str


@dataclass
class Plan:
    """What a port does beside moving axes."""

    steps: list[str] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
