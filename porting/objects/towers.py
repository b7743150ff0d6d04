"""Which of a model's sequences of blocks is the tower that sees images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...reference.errors import PatchParityError

Tower = Sequence[tuple[str, Any]]
"""Dotted name and module of each block, in their order."""

MATRICES = 3
"""Of a block at least: those of attention, fused with the MLP's into one where a model has as few
as there are (timm's `ParallelScalingBlock`), and the two that lead back."""


def choose(
    towers: Mapping[str, Tower], name: str, prefix: str | None, embeds: Callable[[str], bool]
) -> Tower:
    """The one tower that is meant: the only one, or the only one beside which patches are embedded.

    Args:
        towers: by the dotted name of what holds them.
        name: of the model, as errors call it.
        prefix: how the tower's name begins, or None.
        embeds: whether patches are embedded within a part of the model, by its dotted name.

    Raises:
        PatchParityError: none, or several.
    """
    told = ", ".join(f"{path or name} ({len(tower)})" for path, tower in towers.items())
    if not towers:
        raise PatchParityError(
            f"{name} has no sequence of blocks of one class, each with a norm and the matrices of "
            "attention and MLP: name the part of it that has"
        )
    meant = {path: tower for path, tower in towers.items() if _within(path, prefix or "")}
    if not meant:
        raise PatchParityError(f"{name} has no blocks within {prefix!r}: it has {told}")
    if len(meant) > 1:
        with_pixels = [path for path in meant if embeds(_own_part(path, list(meant)))]
        meant = {path: meant[path] for path in with_pixels} or meant
    if len(meant) > 1:
        raise PatchParityError(
            f"{name} has several sequences of blocks, {told}: say which (prefix), as "
            f"prefix={next(iter(meant))!r}"
        )
    return next(iter(meant.values()))


def _within(path: str, prefix: str) -> bool:
    return not prefix or path == prefix or path.startswith(f"{prefix}.")


def _own_part(path: str, paths: Sequence[str]) -> str:
    """The largest part of a model that holds a tower and no other."""
    parts = path.split(".")
    for count in range(1, len(parts)):
        part = ".".join(parts[:count])
        if not any(_within(other, part) for other in paths if other != path):
            return part
    return path
