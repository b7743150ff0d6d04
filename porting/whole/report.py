"""What a port of a whole model says that it did."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reference.answer import Answer
from ..dialects.fit import steps_in_words
from ..encoders.found import FoundEncoder
from ..encoders.moves import moves_between
from ..proof.compare import Check
from .fit import MovedModel
from .read import WholeModel


@dataclass(frozen=True, repr=False)
class WholePortReport(Answer):
    """What a port of a whole model did, and the proof that it was right.

    Args:
        source, target: layouts, and the class that takes the target.
        semantics: what no tensor says, and where it was read, in sentences.
        steps, losses: in sentences.
        tensors: how many were written.
        blocks: how many there are.
        left: names of the source that are no part of stage and encoder.
        checks: the proof.
        files: that were written.
        loads: how the target's library loads them.
        assumed: what was taken for what it mostly is, for nothing tells it, in sentences.
    """

    source: str
    target: str
    semantics: list[str]
    steps: list[str]
    losses: list[str]
    tensors: int
    blocks: int
    left: list[str]
    checks: list[Check]
    files: list[str]
    loads: str = ""
    assumed: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What was moved, how, its proof, and what was left."""
        return [
            f"{self.source} -> {self.target}: {self.tensors} tensors, {self.blocks} blocks",
            *self.semantics,
            *(f"step {step}" for step in self.steps),
            *(f"assumed {assumption}" for assumption in self.assumed),
            *(f"lost {loss}" for loss in self.losses),
            *(f"left {name}" for name in self.left),
            *(check.line() for check in self.checks),
            f"{', '.join(self.files)}: {self.loads}",
        ]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.port-whole/1", "ok": self.ok, **dataclasses.asdict(self)}


def steps_of(whole: WholeModel, moved: MovedModel, dtype: str | None) -> list[str]:
    """What was done, in sentences."""
    steps = [
        *(f"read: {note}" for note in whole.stage.notes),
        *(f"read: {note}" for note in _read_otherwise(whole)),
        *steps_in_words(moved.plan),
        *moved.state.steps,
        *moves_between(moved.state, moved.target),
    ]
    kinds = {part.dtype for part in moved.state.parts.values()} | {whole.stage.dtype}
    if dtype is not None and kinds != {dtype}:
        steps.append(f"cast: tensors rounded to {dtype}, as --dtype says")
    return steps


def _read_otherwise(whole: WholeModel) -> list[str]:
    """What was done to tensors of the encoder on reading them, in sentences."""
    told = whole.checkpoint.told
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(part.tensor for part in whole.found.parts.values()):
        if name in told:
            groups.setdefault(told[name], []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {phrase}"
        for phrase, names in groups.items()
    ]


def left_of(found: FoundEncoder) -> list[str]:
    """What was left, by the first part of its name."""
    groups: dict[str, list[str]] = {}
    for name in found.left:
        groups.setdefault(name.split("." if "." in name else "/")[0], []).append(name)
    return [
        names[0] if len(names) == 1 else f"{word}: {len(names)} tensors, {names[0]} the first"
        for word, names in groups.items()
    ]


def loads_of(moved: MovedModel, place: Path) -> str:
    """How the library loads what was written."""
    model = moved.target.model
    if moved.dialect.mlx:
        return f"mlx.core.load('{place}'), of modules with these names"
    call = model.call.format(folder=place.parent, file=place)
    by_folder = "{folder}" in model.call and "{file}" not in model.call
    if by_folder and place.name not in (model.weights, f"{model.weights}.index.json"):
        return f"{call}, once it is called {model.weights}"
    return call
