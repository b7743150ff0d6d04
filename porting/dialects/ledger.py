"""The ledger of a stage: every tensor of a checkpoint is used, known to belong elsewhere, or
unexplained. What is unexplained may change the sequence."""

import fnmatch
import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..files.checkpoint import Checkpoint
from .dialect import Dialect

Status = Literal["used", "copy", "elsewhere", "outside", "ignored", "unexplained"]

PIXEL_WORDS = re.compile(r"(^|[._/])((pixel|image|img|norm)_)?(mean|std)$")
"""Names of what images are normalized with, which a wrapper keeps beside a model."""

STAGE_WORDS = re.compile(
    r"pos|token|norm|patch|embed|cls|class|reg|stem|scale|gamma|mask|freq|time|abs", re.IGNORECASE
)
"""What names say that stands around a projection: of tensors beside the stage, those that may
change the sequence."""


BEFORE_THE_BLOCKS = re.compile(r"(^|\.)stages\.0\.downsample\.")
"""Tensors of an encoder's first stage that stand before its first block (timm's, whose stages begin
with them): what they do is done to the tokens first."""


@dataclass(frozen=True)
class LedgerEntry:
    """One tensor.

    Args:
        name, shape: as in the file.
        status: `used` by the stage; a `copy` of what is; `elsewhere`, in the encoder or the head,
            as the dialect's patterns say; `outside` of the stage's prefix; `ignored`, because a
            user said so; `unexplained`.
        role: as what it is used.
    """

    name: str
    shape: tuple[int, ...]
    status: Status
    role: str = ""


def ledger_of(
    checkpoint: Checkpoint,
    dialect: Dialect,
    prefix: str,
    names: Mapping[str, str],
    ignore: Sequence[str] = (),
) -> list[LedgerEntry]:
    """Account for every tensor of a checkpoint.

    Args:
        checkpoint: an open one.
        dialect: how its stage is read.
        prefix: what stands before the stage's names.
        names: the tensors that are used, by field.
        ignore: names, or patterns of the shell's kind, of tensors that a user says play no part.
    """
    used = {tensor: field for field, tensor in names.items()}
    copies = {
        prefix + place: field
        for field, places in dialect.copies.items()
        for place in (dialect.entries[field].name, *places)
    }
    width = checkpoint.tensors[names["kernel"]].shape if "kernel" in names else ()
    inside = _modules_elsewhere(checkpoint, dialect, prefix, used)
    entries = []
    for name, info in checkpoint.tensors.items():
        status: Status
        role = used.get(name, copies.get(name, ""))
        if name in used:
            status = "used"
        elif name in copies:
            status = "copy"
        elif any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore):
            status = "ignored"
        elif 0 in info.shape:
            status = "elsewhere"  # it holds no value
        elif name.startswith(prefix):
            known = dialect.plain or dialect.is_elsewhere(name.removeprefix(prefix))
            known = known or bool(inside & set(_modules_of(name)))
            early = dialect.id.startswith("timm-") and BEFORE_THE_BLOCKS.search(name)
            status = "elsewhere" if known and not early else "unexplained"
        else:
            beside = (
                _is_beside(name, prefix)
                and STAGE_WORDS.search(name)
                and info.shape
                and info.shape[-1] in width
            )
            pixels = PIXEL_WORDS.search(name) and info.shape[-2:] == (1, 1)
            beside = beside or (pixels and len(info.shape) > 2 and max(info.shape) in width)
            known = (
                dialect.plain
                or dialect.is_elsewhere(name)
                or dialect.is_elsewhere(re.split(r"[./]", name)[-1])
            )
            status = "unexplained" if beside and not known else "outside"
        entries.append(LedgerEntry(name, info.shape, status, role))
    return entries


@functools.lru_cache(2**14)
def _modules_of(name: str) -> tuple[str, ...]:
    """The modules that a tensor is in, by their paths, the innermost first. Kept, for each dialect
    that may be read asks for those of all names."""
    ends = [place.start() for place in re.finditer(r"[./]", name)]
    return tuple(name[:end] for end in reversed(ends))


def _modules_elsewhere(
    checkpoint: Checkpoint, dialect: Dialect, prefix: str, used: Collection[str]
) -> set[str]:
    """Modules of the encoder or the head, as the dialect's patterns say of a tensor of their own:
    what else is inside them is theirs too, such as the adapter of a layer."""
    elsewhere = {
        modules[0]
        for name in checkpoint.tensors
        if name.startswith(prefix) and dialect.is_elsewhere(name.removeprefix(prefix))
        if len(modules := _modules_of(name)) > len(_modules_of(prefix))
    }
    return elsewhere - {module for name in used for module in _modules_of(name)}


def _is_beside(name: str, prefix: str) -> bool:
    """Whether a tensor is one of the modules that the stage is in, and of no other: `pos_embed`
    beside `trunk.patch_embed`."""
    parent = re.sub(r"[^./]*$", "", name)
    return prefix.startswith(parent)


def unexplained(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """What nothing explains."""
    return [entry for entry in entries if entry.status == "unexplained"]


def in_words(entries: Sequence[LedgerEntry], most: int = 4) -> str:
    """The first of them, with their shapes."""
    descriptions = [f"{entry.name} {entry.shape}" for entry in entries[:most]]
    return ", ".join(
        [*descriptions, *([f"... ({len(entries)} in all)"] if len(entries) > most else [])]
    )
