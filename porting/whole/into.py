"""A whole model put into a copy of an existing checkpoint of its layout."""

import dataclasses
import functools
from pathlib import Path

from ...reference.errors import PatchParityError
from ..dialects.fit import cast_as, tensors_of
from ..encoders.semantics import SEMANTICS, shown
from ..encoders.state import Target
from ..files.checkpoint import Checkpoint
from ..files.streamed import Lazy
from .fit import MovedModel, moved_to
from .read import WholeModel, source_model
from .tensors import held_tensor, one_tensor, stacked_tensor


def fit_into(whole: WholeModel, held: WholeModel, allow_loss: bool = False) -> MovedModel:
    """A whole model as an existing checkpoint holds one, its embedding stage in the types that are
    there.

    Args:
        whole: the source.
        held: the existing checkpoint.
        allow_loss: as in `fit_whole`.

    Raises:
        PatchParityError: an existing model of other sizes or parts, or that computes otherwise.
    """
    target = Target(held.found.layout, source_model(held))
    moved = moved_to(whole, target, held.stage.dialect, tuple(held.stage.candidate.names))
    if moved.losses and not allow_loss:
        raise PatchParityError(
            f"{held.checkpoint.path} cannot hold or compute all of {whole.found.layout.title}: "
            f"{'; '.join(moved.losses)} (--allow-loss accepts that)"
        )
    shapes = [
        {name: part.shape for name, part in parts.items()}
        for parts in (moved.state.parts, held.found.parts)
    ]
    for name in sorted(set(shapes[0]) | set(shapes[1])):
        ours, theirs = (each.get(name) for each in shapes)
        if ours != theirs:
            raise PatchParityError(
                f"{held.checkpoint.path} has {name} of shape {theirs or 'none'}, and the source "
                f"{ours or 'none'}: it is no model of the same sizes"
            )
    for name in SEMANTICS:
        if moved.state.semantics[name] != held.semantics[name]:
            raise PatchParityError(
                f"{held.checkpoint.path} computes with {SEMANTICS[name]} "
                f"{shown(held.semantics[name])}, and the source with "
                f"{shown(moved.state.semantics[name])}"
            )
    return dataclasses.replace(moved, weights=cast_as(moved.weights, held.stage.weights))


INTO = ("safetensors", "npz")
"""Formats of which a copy with other tensors is written one tensor at a time."""


def tensors_into(
    whole: WholeModel, moved: MovedModel, held: WholeModel, there: Checkpoint
) -> dict[str, Lazy]:
    """All tensors of an existing checkpoint, those of the model as the source has them.

    Raises:
        PatchParityError: a checkpoint of a format that is not copied, another shape.
    """
    if there.format not in INTO:
        raise PatchParityError(
            f"{there.path}: a whole model is put into a copy of {' or '.join(INTO)}, and this is "
            f"{there.format} (--stage puts an embedding stage into it)"
        )
    parts, changed = held.found.parts, _stage_into(moved, held)
    for entry in held.found.layout.entries:
        blocks = range(held.found.depth) if entry.of_blocks and not entry.stacked else (0,)
        for number in blocks:
            before = f"blocks.{number}." if entry.of_blocks else ""
            names = [before + name for name in entry.fields]
            if names[0] not in parts:
                continue
            tensor, kind = parts[names[0]].tensor, parts[names[0]].dtype
            if entry.stacked:
                made = stacked_tensor(whole, moved, entry, kind)
            else:
                ours = [moved.state.parts[name] for name in names]
                made = one_tensor(whole, moved, entry, tensor, ours, kind)
            changed[held.stage.real_name(tensor)] = next(iter(made.values()))
    return {
        name: changed.get(name)
        or Lazy(info.shape, info.dtype, functools.partial(there.read, name), (there, name))
        for name, info in there.tensors.items()
    }


def _stage_into(moved: MovedModel, held: WholeModel) -> dict[str, Lazy]:
    """The embedding stage under the names of an existing checkpoint."""
    candidate = held.stage.candidate
    arrays = tensors_of(moved.weights, moved.spec, moved.dialect, candidate.prefix)
    for name in candidate.names.values():
        shape = held.checkpoint.tensors[name].shape
        if name not in arrays or arrays[name].shape != shape:
            other = arrays[name].shape if name in arrays else "none"
            raise PatchParityError(
                f"{held.checkpoint.path} has {name} of shape {shape}, and the source {other}"
            )
    return {held.stage.real_name(name): held_tensor(array) for name, array in arrays.items()}


def configuration_of(held: WholeModel) -> dict[str, bytes]:
    """The configuration beside an existing checkpoint, as it is."""
    folder, name = held.checkpoint.config_folder, source_model(held).file
    if folder is None or not name or not (Path(folder) / name).is_file():
        return {}
    return {name: (Path(folder) / name).read_bytes()}
