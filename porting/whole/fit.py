"""A whole model as another layout holds it: the class of its library that loses least."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..dialects.dialect import Dialect
from ..dialects.fit import fit, losses_in_words
from ..dialects.plan import Loss, Plan
from ..encoders.bringing import brought
from ..encoders.facts import facts_of
from ..encoders.load import list_encoders
from ..encoders.semantics import SEMANTICS
from ..encoders.state import State, Target, start
from ..encoders.templates import configuration
from .read import WholeModel


@dataclass(frozen=True, eq=False)
class MovedModel:
    """A whole model as its target holds it.

    Args:
        target: the layout and the class of its encoder.
        dialect: of its embedding stage.
        state: its encoder.
        weights: its stage, as the dialect holds it.
        spec: the sizes of that.
        plan: what was done to the stage.
        facts: all that a configuration may be told.
    """

    target: Target
    dialect: Dialect
    state: State
    weights: PatchEmbedWeights
    spec: PatchEmbedSpec
    plan: Plan
    facts: Mapping[str, Any]

    @property
    def losses(self) -> list[str]:
        """What the target cannot hold or compute, in sentences."""
        return [*losses_in_words(self.plan), *self.state.losses]


def fit_whole(whole: WholeModel, dialect: Dialect, allow_loss: bool = False) -> MovedModel:
    """A whole model as another layout holds it: the class of its library that loses nothing, or
    with `allow_loss` the one that loses least.

    Raises:
        PatchParityError: no class can hold it, with the reason of the one that comes nearest.
    """
    layouts = [
        layout
        for layout in list_encoders().values()
        if dialect.id.removesuffix("-mlx") in layout.stages and not layout.read_only
    ]
    if not layouts:
        raise PatchParityError(
            f"{dialect.id}: of its library the embedding stage is known and not the blocks; "
            f"whole models go to {', '.join(whole_targets())}"
        )
    refused: list[tuple[tuple[bool, int, bool], PatchParityError]] = []
    fitting: list[MovedModel] = []
    for target in (Target(layout, model) for layout in layouts for model in layout.models):
        try:
            fitting.append(moved_to(whole, target, dialect))
        except PatchParityError as error:
            other = isinstance(error, _OtherStructureError)
            refused.append(((*_apart(whole, target), other), error))
    if not fitting:
        raise min(refused, key=lambda pair: pair[0])[1]
    best = min(fitting, key=lambda moved: len(moved.losses))
    if best.losses and not allow_loss:
        raise PatchParityError(
            f"{best.target.model.name} cannot hold or compute all of {whole.found.layout.title}: "
            f"{'; '.join(best.losses)} (--allow-loss accepts that)"
        )
    return best


class _OtherStructureError(PatchParityError):
    """A class that is made for another structure, so that its reason says less than another's."""


def _apart(whole: WholeModel, target: Target) -> tuple[bool, int]:
    """Whether a class has positions of another kind; and how many fields of an encoder it has no
    place for, or needs beside them."""
    found = whole.found
    homeless = sum(not target.holds(name) for name in found.held)
    turned = target.fixed["rotary"] != whole.semantics["rotary"]
    return turned, homeless + sum(target.lacks(name, found.held) for name in target.layout.fields)


def moved_to(
    whole: WholeModel, target: Target, dialect: Dialect, there: tuple[str, ...] = ()
) -> MovedModel:
    """A whole model as a class of another library holds it, with what is lost; `there` are fields
    of the stage that an existing checkpoint has.

    Raises:
        PatchParityError: something that it cannot do without, or that its configuration cannot say.
    """
    stage = whole.stage
    requires, excluded = _of_stage(stage.weights, target, dialect)
    weights, plan = fit(
        stage.weights,
        stage.spec,
        dialect,
        (*requires, *there),
        stage.size_known,
        stage.dialect.computed,
        target.fixed.get("norm_epsilon", whole.semantics["norm_epsilon"]),
    )
    weights = _without_bias(weights, plan, target) if "bias" in excluded else weights
    state = brought(start(whole.found, whole.semantics, whole.apart), target)
    facts = facts_of(state, state.semantics, weights, stage.spec, stage.size_known)
    _require_structure(target, facts)
    configuration(target.model, facts)
    return MovedModel(target, dialect, state, weights, stage.spec, plan, facts)


def _of_stage(
    weights: PatchEmbedWeights, target: Target, dialect: Dialect
) -> tuple[tuple[str, ...], set[str]]:
    """Fields of the embedding stage that a target's models always have, and those that they never
    have beside what these weights have."""
    requires, excluded = [], set()
    for entry in target.layout.stage_requires:
        name, _, other = entry.partition(" unless ")
        beside = other and getattr(weights, other) is not None
        if beside and f"{other}.scale" in dialect.entries:
            excluded.add(name)
        elif name in dialect.entries:
            requires.append(name)
    return tuple(requires), excluded


def _without_bias(weights: PatchEmbedWeights, plan: Plan, target: Target) -> PatchEmbedWeights:
    """Weights without the bias of the projection, of which it is told whether it changes them."""
    if weights.bias is None:
        return weights
    if weights.bias.any():
        name = target.model.name
        why = f"{name} has none where a norm stands before its blocks"
        plan.losses.append(Loss("bias", why))
    else:
        plan.steps.append("drop-zero-bias")
    return dataclasses.replace(weights, bias=None)


def whole_targets() -> list[str]:
    """Dialects that whole models can be moved to."""
    return list(
        dict.fromkeys(
            stage
            for layout in list_encoders().values()
            if not layout.read_only
            for stage in layout.stages
        )
    )


def _require_structure(target: Target, facts: Mapping[str, Any]) -> None:
    for name, value in target.fixed.items():
        if name not in SEMANTICS and name in facts and value not in (facts[name], "any"):
            raise _OtherStructureError(
                f"{target.model.name} has {name.replace('_', ' ')} {value}, and the source "
                f"{facts[name]}"
            )
