"""Steps that only move axes: splits, merges, heads, transposes, stacks, seen in how source and
target keep the same part."""

from collections.abc import Callable
from dataclasses import dataclass, field

from .found import field_of
from .layout import Entry
from .state import State, Target


@dataclass(frozen=True)
class Move:
    """A step that moves axes: `applies` says of how a source and a target keep a part whether it
    is one. All are undone by the same in the other direction."""

    id: str
    sentence: str
    applies: Callable[[Entry, Entry], bool] = field(compare=False)


MOVES = (
    Move(
        "split",
        "parts of one tensor are kept in several",
        lambda a, b: len(a.fields) > len(b.fields),
    ),
    Move("merge", "parts are put into one tensor", lambda a, b: len(a.fields) < len(b.fields)),
    Move(
        "reorder",
        "parts of one tensor are put in another order",
        lambda a, b: len(a.fields) == len(b.fields) > 1 and a.fields != b.fields,
    ),
    Move("heads", "heads become an axis", lambda a, b: "h" in b.letters and "h" not in a.letters),
    Move(
        "no-heads",
        "heads are no longer an axis",
        lambda a, b: "h" in a.letters and "h" not in b.letters,
    ),
    Move(
        "transpose",
        "matrices are transposed",
        lambda a, b: _order(a) != _order(b) and len(_order(a)) > 1,
    ),
    Move("stack", "all blocks are stacked in one tensor", lambda a, b: b.stacked and not a.stacked),
    Move("unstack", "stacked blocks are kept one by one", lambda a, b: a.stacked and not b.stacked),
)


def _order(entry: Entry) -> tuple[str, ...]:
    """Its axes of a matrix, output and input, in their order."""
    axes = [letter for letter in entry.letters if letter not in "pn1"]
    if "h" in axes:
        wide = "F" if entry.fields[0].startswith("pool.") else "E"
        axes[axes.index("h")] = wide
        axes.remove("d")
    return tuple(axes)


def moves_between(state: State, target: Target) -> list[str]:
    """The moves of axes, in sentences, each with the fields that it is of."""
    of: dict[Move, list[str]] = {}
    kept = {name: entry for entry in target.layout.entries for name in entry.fields}
    seen = set()
    for name, part in state.parts.items():
        field_name = field_of(name)
        if field_name in seen or part.entry is None or field_name not in kept:
            continue
        seen.add(field_name)
        for move in MOVES:
            if move.applies(part.entry, kept[field_name]):
                of.setdefault(move, []).append(field_name)
    return [
        f"{move.id}: {', '.join(dict.fromkeys(map(_owner, names)))}: {move.sentence}"
        for move, names in of.items()
    ]


def _owner(name: str) -> str:
    """A field without its last word: `query` of `query.weight`."""
    return name.rpartition(".")[0] or name
