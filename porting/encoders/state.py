"""An encoder on its way into another layout, and where it goes."""

import abc
import dataclasses
import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .found import FoundEncoder, Part, field_of
from .layout import BLOCK_FIELDS, EncoderLayout, EncoderModel
from .semantics import Semantics

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
    """An encoder on its way, out of the layout `origin`."""

    origin: EncoderLayout
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


def start(found: FoundEncoder, semantics: Semantics, losses: tuple[str, ...] = ()) -> State:
    """An encoder as it was found, and what of its model was not."""
    return State(found.layout, found.depth, found.sizes, found.parts, semantics, losses=losses)
