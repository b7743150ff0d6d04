"""Bringing an encoder into another layout."""

import dataclasses

import numpy as np

from ...reference.errors import PatchParityError
from .changes import CHANGES
from .found import field_of
from .layout import FIELDS
from .semantics import SEMANTICS, Semantics, shown
from .state import ENDS, State, Target


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
        floats = isinstance(ours, float) and isinstance(value, float)
        if floats and np.float32(ours) == np.float32(value):
            values[name] = value  # as a library computes with them, the same
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
