"""What tensors that are no weights tell of an encoder: periods of rotary positions, and masks of
the biases of keys."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ...reference.errors import PatchParityError
from ..files.checkpoint import Checkpoint
from .found import FoundEncoder, Part, field_of
from .layout import NUMBER

ROUNDING = 2.0**-8
"""Relative: what bfloat16, the coarsest type of such a tensor, rounds a number by."""


def with_buffers(
    checkpoint: Checkpoint, found: FoundEncoder, prefix: str, temperature: float
) -> FoundEncoder:
    """An encoder as what is beside its weights tells it.

    Args:
        checkpoint: it is in.
        found: as its weights tell it.
        prefix: what stands before its names.
        temperature: that its rotary positions are read with.

    Raises:
        PatchParityError: periods of another temperature, a mask of something else than keys.
    """
    sizes, used = dict(found.sizes), set()
    periods = prefix + found.layout.periods
    if found.layout.periods and periods in checkpoint.tensors:
        sizes |= _heads(checkpoint, found, periods, temperature)
        used.add(periods)
    parts, masks = _masked(checkpoint, found, prefix)
    left = {name: why for name, why in found.left.items() if name not in {*used, *masks}}
    return dataclasses.replace(found, sizes=sizes, parts=parts, left=left)


def _heads(
    checkpoint: Checkpoint, found: FoundEncoder, name: str, temperature: float
) -> dict[str, int]:
    """Heads and their width, of which each has four channels to a period: two of a row and two of a
    column."""
    periods = np.asarray(checkpoint.view(name), np.float64)
    count, width = periods.size, found.sizes["E"]
    if periods.ndim != 1 or not count or width % (4 * count):
        raise PatchParityError(
            f"{checkpoint.path}: {name} has {count} periods, and heads of {4 * count} channels do "
            f"not make the width of attention, {width}"
        )
    wanted = temperature ** (np.arange(count) / count)
    if not (np.abs(periods - wanted) <= ROUNDING * wanted).all():
        raise PatchParityError(
            f"{checkpoint.path}: {name} are no periods of rotary positions of temperature "
            f"{temperature:g}"
        )
    return {"d": 4 * count, "h": width // (4 * count)}


def _masked(
    checkpoint: Checkpoint, found: FoundEncoder, prefix: str
) -> tuple[Mapping[str, Part], set[str]]:
    """The parts without those biases of keys that a mask of zeros takes out, and the masks."""
    if not found.layout.key_mask:
        return found.parts, set()
    names = [
        prefix + NUMBER.sub(str(number), found.layout.key_mask) for number in range(found.depth)
    ]
    there = [name for name in names if name in checkpoint.tensors]
    if not there or "key.bias" not in found.held:
        return found.parts, set(there)
    if len(there) < len(names):
        lacking = next(name for name in names if name not in there)
        raise PatchParityError(f"{checkpoint.path}: {lacking} is missing, and other blocks have it")
    width = found.sizes["E"]
    wanted = np.repeat([1.0, 0.0, 1.0], width)
    for name in there:
        if not np.array_equal(np.asarray(checkpoint.view(name), np.float64), wanted):
            raise PatchParityError(
                f"{checkpoint.path}: {name} is no mask of the bias of keys: expected {width} ones, "
                "as many zeros, and ones again"
            )
    kept = {name: part for name, part in found.parts.items() if field_of(name) != "key.bias"}
    return kept, set(there)
