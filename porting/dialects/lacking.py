"""Dialects whose tensors a file holds but for one or two, which a refusal then names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..files.checkpoint import Checkpoint
from .dialect import Dialect
from .evidence import is_architecture, known_of, speaks_against
from .grids import grids_of
from .ledger import ledger_of, unexplained
from .recognize import Candidate
from .sizes import Sizes
from .strides import known_patches, steps_of

MOST_MISSING = 2
"""Tensors that a file of a dialect may lack and still look like it: a weight and its bias."""

MOST_LIKE_IT = 4
"""Dialects that a file is said to look like, each of which lacks another tensor: more say
nothing."""


@dataclass(frozen=True)
class Lacking:
    """A dialect that a file would be of, but for some tensors.

    Args:
        dialect: the dialect.
        prefix: what stands before all its names.
        present: the tensors that are there, by field.
        missing: fields that it needs and that are not there.
        typed: whether config.json calls the model one of the dialect's.
        sizes: of the axes that the tensors tell.
    """

    dialect: Dialect
    prefix: str
    present: Mapping[str, str]
    missing: tuple[str, ...]
    typed: bool
    sizes: Mapping[str, int]

    @property
    def rank(self) -> tuple[int, ...]:
        """The nearest has the least."""
        return (
            -self.typed,
            len(self.missing),
            int(self.dialect.mlx),
            -len(self.present),
            len(self.prefix),
        )

    @property
    def told(self) -> str:
        """The dialect, and what of it is not there, with its shape."""
        label = self.dialect.id + (f" under {self.prefix!r}" if self.prefix else "")
        tensors = []
        for name in self.missing:
            entry = self.dialect.entries[name]
            sizes = {} if name.startswith("stem.") else self.sizes  # a stem has its own
            axes = [str(sizes.get(axis, axis)) for axis in entry.layout.split()]
            tensors.append(f"{self.prefix}{entry.name} ({' '.join(axes)})")
        verb = "is" if len(tensors) == 1 else "are"
        return f"{label}, but {' and '.join(tensors)} {verb} not there"


def nearness(lacking: Lacking, candidate: Candidate) -> int:
    """Whether a dialect that lacks tensors comes nearer than a candidate that is refused: above 0;
    below it where the candidate does."""
    strikes = len(candidate.conflicts) + len(unexplained(candidate.ledger))
    lacks = (lacking.typed, -len(lacking.missing))
    struck = (bool(candidate.weight[0]), -strikes)
    return (lacks > struck) - (lacks < struck)


def nearest_told(near: Sequence[Lacking]) -> str:
    """The nearest of them, and those that are as near, with what each lacks."""
    equals = [other for other in near[1:] if other.rank[:2] == near[0].rank[:2]]
    others = list(dict.fromkeys(other.told for other in equals if not other.dialect.mlx))
    return "; or ".join([near[0].told, *others[: MOST_LIKE_IT - 1]])


def find_lacking(checkpoint: Checkpoint, dialects: Mapping[str, Dialect]) -> list[Lacking]:
    """The dialects that a file lacks one or two tensors of and that explain all its others, the
    nearest first.

    Args:
        checkpoint: an open one.
        dialects: those to try.
    """
    known = known_of(checkpoint, None)
    found = [
        near
        for dialect in dialects.values()
        if not dialect.plain and dialect.may_be_in(checkpoint.kept_as)
        for prefix in _prefixes_of(checkpoint, dialect, _is_typed(dialect, known))
        if (near := _lacking(checkpoint, dialect, prefix, known))
    ]
    return sorted(found, key=lambda near: near.rank)


def _is_typed(dialect: Dialect, known: Sizes) -> bool:
    """Whether config.json calls the model one of the dialect's."""
    return known.model_type in dialect.model_types or is_architecture(dialect, known)


def _prefixes_of(checkpoint: Checkpoint, dialect: Dialect, typed: bool) -> list[str]:
    """What stands before the names of a dialect's tensors, of any that it needs: the kernel may be
    the one that is not there. Of a dialect that config.json names any of its tensors tells."""
    prefixes: dict[str, None] = {}
    for field in dialect.entries if typed else dialect.required:
        entry = dialect.entries[field]
        for name, info in checkpoint.tensors.items():
            before = name.removesuffix(entry.name)
            named = name.endswith(entry.name) and (not before or before[-1] in (".", "/"))
            if named and entry.sizes(info.shape, {}) is not None:
                prefixes[before] = None
    return list(prefixes)


def _lacking(checkpoint: Checkpoint, dialect: Dialect, prefix: str, known: Sizes) -> Lacking | None:
    """What a file lacks of a dialect under a prefix; None where that is nothing, or too much, or
    where something else speaks against it."""
    present = {
        field: prefix + entry.name
        for field, entry in dialect.entries.items()
        if prefix + entry.name in checkpoint.tensors
    }
    missing = tuple(field for field in dialect.required if field not in present)
    typed = _is_typed(dialect, known)
    fewest = 1 if typed else len(missing) + 1
    if not 0 < len(missing) <= MOST_MISSING or len(present) < fewest:
        return None
    if len({_part_of(name) for name in missing}) > 1:  # two parts that are missing are two doubts
        return None
    told = bool(known.model_type or known.architecture)
    shape = checkpoint.tensors[present["kernel"]].shape if "kernel" in present else ()
    if (told and not typed) or speaks_against(checkpoint, dialect, shape, known):
        return None
    sizes = _sizes_of(checkpoint, dialect, present, known)
    if sizes is None or unexplained(ledger_of(checkpoint, dialect, prefix, present)):
        return None
    if not _fits_a_grid(dialect, present, missing, sizes, known):
        return None
    return Lacking(dialect, prefix, present, missing, typed, sizes)


def _part_of(field: str) -> str:
    """The part of the stage that a field is of: a weight and its bias are of one."""
    return "projection" if field in ("kernel", "bias") else field.partition(".")[0]


def _sizes_of(
    checkpoint: Checkpoint, dialect: Dialect, present: Mapping[str, str], known: Sizes
) -> dict[str, int] | None:
    """The sizes that the tensors that are there tell; None where they do not fit together."""
    starts: list[dict[str, int]] = [{}]
    if "kernel" in present:
        shape = checkpoint.tensors[present["kernel"]].shape
        if dialect.entries["kernel"].sizes(shape, {}) is None:
            return None
        patches = known_patches(dialect.entries["kernel"], shape, known)
        starts = [of_patch for of_patch, _ in patches] or starts
    for start in starts:
        sizes: dict[str, int] | None = dict(start)
        for field, name in present.items():
            if sizes is not None and not field.startswith("stem."):
                sizes = dialect.entries[field].sizes(checkpoint.tensors[name].shape, sizes)
        if sizes is not None:
            return sizes
    return None


def _fits_a_grid(
    dialect: Dialect,
    present: Mapping[str, str],
    missing: Sequence[str],
    sizes: Mapping[str, int],
    known: Sizes,
) -> bool:
    """Whether positions that are there have rows for a grid and for the tokens that are not; where
    nothing tells how many there are, they may."""
    if "positions" not in present or "kernel" not in present or dialect.stem:
        return True
    if "register_tokens" in missing:  # as many as the rows that are left
        return True
    names = {**present, **dict.fromkeys(missing, "")}
    stride, padding, _, _ = steps_of(dialect, sizes, known)
    return bool(grids_of(dialect, names, sizes, known, stride, padding))
