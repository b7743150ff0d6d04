"""Which dialects a checkpoint may be in: names and shapes, the ledger, and evidence that must
agree."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...reference.errors import PatchParityError
from ...reference.weights import PrefixToken
from ..files.checkpoint import Checkpoint, in_sentences
from .catalogue import list_dialects
from .dialect import Dialect
from .evidence import conflicts_of, is_architecture, known_of, misfit, told_patch
from .grid_evidence import of_any_grid, other_grid, other_rows, resized
from .grids import channels_of, grids_of, known_grid
from .ledger import LedgerEntry, in_words, ledger_of, unexplained
from .sizes import FILE_ITSELF, Sizes, config_of
from .strides import known_patches, steps_of

MOST_CHANNELS = 16
"""Channels above which an axis is hardly one of channels: satellite images have 13."""


OPTIMIZERS = re.compile(
    r"(?:^|[./])(opt_states?|optimizer(?:_states?)?|optim(?:_states?)?|mu|nu|exp_avg|exp_avg_sq)[./]"
)
"""Parts of the name of what an optimizer keeps beside each weight, under the weight's own names:
optax's (`opt_state/0/mu/...`, in a TrainState of Flax or MaxText), nnx's and torch's."""

UNKNOWN_MODEL = "which is not known to be of"
"""How evidence says that a configuration names a model that no dialect knows."""


@dataclass(frozen=True)
class Candidate:
    """One way to read a checkpoint.

    Args:
        dialect: the dialect.
        prefix: what stands before all its names.
        names: the tensors, by field.
        sizes: of the axes.
        positioned: prefix tokens with rows in the position table.
        grid: of patches, where something tells it.
        stride, padding: along each axis.
        window: patches along a side of the windows in whose order tokens are; 0 for none.
        evidence: what speaks for it, in words.
        assumed: what was assumed of the grid although another is as possible; empty where nothing
            was.
        assumed_patch: the same of the patch behind a matrix.
        layers: kinds of Keras's layers that images pass first.
        weight: how much does; of two readings the one with more is taken.
        conflicts: evidence that contradicts the tensors, or the dialect, in sentences: with one it
            cannot be.
        asks: what nothing tells and must be said, in sentences.
        ledger: every tensor of the checkpoint.
    """

    dialect: Dialect
    prefix: str
    names: Mapping[str, str]
    sizes: Mapping[str, int]
    positioned: tuple[PrefixToken, ...]
    grid: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    window: int
    evidence: tuple[str, ...]
    assumed: str
    assumed_patch: str
    weight: tuple[int, ...]
    conflicts: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    ledger: tuple[LedgerEntry, ...] = field(default=(), compare=False, repr=False)
    layers: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The dialect, and the prefix where there is one."""
        return self.dialect.id + (f" under {self.prefix!r}" if self.prefix else "")

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why it cannot be read so, in sentences; empty where it can."""
        strange = unexplained(self.ledger)
        message = (
            f"nothing of {self.dialect.id} explains {in_words(strange)}, which may change what "
            "enters the first block"
        )
        return (
            *self.conflicts,
            *([f"{message} (--ignore NAME says that it does not)"] if strange else []),
        )

    @property
    def reading(self) -> tuple[Any, ...]:
        """What follows from it: two candidates of one reading give the same weights."""
        dialect = self.dialect
        tensors = {
            name: (self.names[name], dialect.entries[name].layout)
            for name in self.names
            if name != "mask_token"
        }
        present = tuple(name for name in dialect.prefix if name in self.names)
        axes = tuple(self.sizes.get(name) for name in ("D", "C", "Pt", "Ph", "Pw"))
        norms = (
            (dialect.norm_epsilon, dialect.rms)
            if any("norm" in name for name in self.names)
            else None
        )
        behind = tuple(name for name in dialect.behind if name in present)
        order = (present, behind, dialect.token_order, self.window, norms)
        steps = (
            self.stride,
            self.padding,
            dialect.computed,
            (dialect.spare_rows, dialect.spare_last),
            dialect.shared_rows,
            tuple(dialect.pixels.items()),
            (dialect.resize, dialect.resize_to),
            dialect.stem,
        )
        return tuple(sorted(tensors.items())), axes, self.positioned, order, *steps


def find_candidates(
    checkpoint: Checkpoint,
    dialects: Mapping[str, Dialect] | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    gridless: bool = False,
    ignore: Sequence[str] = (),
) -> list[Candidate]:
    """All ways to read a checkpoint, the likeliest first; those that evidence or an unexplained
    tensor speaks against (`refusals`) behind the others.

    Args:
        checkpoint: an open one.
        dialects: those to try; None for all.
        prefix: what stands before all names; None for whatever is found.
        sizes: what is known of the sizes; what a user said goes before what config.json tells,
            anything else behind it.
        gridless: whether also those whose positions fit no grid.
        ignore: tensors that a user says play no part.
    """
    checkpoint.for_images(_images_of(sizes), prefix)
    config, known_sizes = config_of(checkpoint), known_of(checkpoint, sizes)
    for pattern in ignore:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in checkpoint.tensors):
            raise PatchParityError(
                f"{checkpoint.path} holds no tensor {pattern} that could be ignored (whole names, "
                "or patterns with *)"
            )
    candidates: list[Candidate] = []
    known = list_dialects() if dialects is None else dialects
    names = joined_names(checkpoint)
    for dialect in known.values():
        if not dialect.may_be_in(checkpoint.kept_as):
            continue
        for kernel_prefix in prefixes_of(checkpoint, dialect, names):
            if prefix is None or kernel_prefix == prefix:
                candidates += _candidates(
                    checkpoint,
                    dialect,
                    kernel_prefix,
                    known_sizes,
                    config,
                    len(known) == 1,
                    gridless,
                    ignore,
                )
    candidates.sort(key=lambda candidate: (not candidate.refusals, *candidate.weight), reverse=True)
    # Beside a library's own names a matrix under any other tells nothing.
    return [candidate for candidate in candidates if not candidate.dialect.plain] or candidates


def _images_of(sizes: Sizes | None) -> tuple[int, ...]:
    """The size of images that is known, frames in front."""
    if sizes is None or not sizes.image_size:
        return ()
    return (sizes.frames, *sizes.image_size) if sizes.frames else sizes.image_size


def joined_names(checkpoint: Checkpoint) -> str:
    """The names of all tensors, each with the end of a line behind it."""
    return "\n".join((*checkpoint.tensors, ""))


def prefixes_of(checkpoint: Checkpoint, dialect: Dialect, names: str) -> list[str]:
    """What stands before the name of a dialect's kernel, wherever it stands.

    Args:
        checkpoint: an open one.
        dialect: the dialect.
        names: `joined_names` of the checkpoint, in which a name is found in a tenth of the time in
            which each is asked: there are hundreds of dialects.
    """
    kernel = dialect.entries["kernel"]
    if f"{kernel.name}\n" not in names:
        return []
    separators = {dialect.separator, ".", "/"}
    prefixes = []
    for name, info in checkpoint.tensors.items():
        if not name.endswith(kernel.name):
            continue
        before = name.removesuffix(kernel.name)
        fits = not before or before[-1] in separators
        if fits and kernel.sizes(info.shape, {}) is not None:
            prefixes.append(before)
    return prefixes


@dataclass(frozen=True)
class _Place:
    """What stands under a prefix, looked at as one dialect has it.

    Args:
        checkpoint: an open one.
        dialect: the dialect.
        prefix: what stands before all names.
        names: the tensors, by field.
        known: what is known of the sizes, by a user or config.json.
        config: what config.json tells.
        alone: whether the dialect was asked for by name.
    """

    checkpoint: Checkpoint
    dialect: Dialect
    prefix: str
    names: Mapping[str, str]
    known: Sizes
    config: Sizes
    alone: bool

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a field's tensor."""
        return self.checkpoint.tensors[self.names[name]].shape

    @property
    def typed(self) -> bool:
        """Whether config.json calls the model one of the dialect's."""
        return self.known.model_type in self.dialect.model_types or is_architecture(
            self.dialect, self.known
        )

    @property
    def identified(self) -> bool:
        """Whether more than names that others have too tells the dialect: its name, config.json, or
        all the tensors that it has beside the stage."""
        beside = [self.prefix + name in self.checkpoint.tensors for name in self.dialect.beside]
        return self.typed or self.alone or (bool(beside) and all(beside))


def _candidates(
    checkpoint: Checkpoint,
    dialect: Dialect,
    prefix: str,
    known: Sizes,
    config: Sizes,
    alone: bool,
    gridless: bool,
    ignore: Sequence[str],
) -> list[Candidate]:
    """How a dialect reads what stands under a prefix; `alone` where it was asked for by name."""
    names = _names_of(checkpoint, dialect, prefix)
    if names is None or (dialect.plain and not alone and len(checkpoint.tensors) > len(names)):
        return []  # beside other tensors a layer under any name may be anything
    resized = _of_other_sizes(checkpoint, dialect, prefix, names)
    place = _Place(checkpoint, dialect, prefix, {**names, **resized}, known, config, alone)
    named = bool(dialect.model_types or dialect.architectures)
    if dialect.typed_only and not place.identified and named:
        return []
    evidence = [*_evidence(place, names, resized), *_evidence_of_config(place)]
    entries = tuple(ledger_of(checkpoint, dialect, prefix, place.names, ignore))
    candidates = []
    for of_patch, told_of_patch in _patches(place):
        sizes = _sizes_of(place, of_patch)
        if sizes is not None:
            guess = "" if known.patch_size else "; ".join(told_of_patch)
            reading_evidence = (*evidence, *told_of_patch)
            candidates += _readings(place, sizes, reading_evidence, guess, gridless, entries)
    return candidates


def _names_of(checkpoint: Checkpoint, dialect: Dialect, prefix: str) -> dict[str, str] | None:
    """The tensors of a dialect, by field; None where one that it needs is missing."""
    names = {}
    for name, entry in dialect.entries.items():
        there = checkpoint.tensors.get(prefix + entry.name)
        # A tensor of no values is none; a table of no registers tells that there are none.
        optional = name in dialect.optional and name != "register_tokens"
        empty = there is not None and 0 in there.shape and optional
        if there is not None and not empty:
            names[name] = prefix + entry.name
        elif name in dialect.required:
            return None
    return names


def _evidence(place: _Place, names: Mapping[str, str], resized: Mapping[str, str]) -> list[str]:
    """What of a dialect's tensors is there and what is not, in sentences."""
    dialect, checkpoint = place.dialect, place.checkpoint
    parts = [name for name in names if name.startswith(("stem.", "batch_norm."))]
    tensor_names = ", ".join(tensor for name, tensor in names.items() if name not in parts)
    more = f", and {len(parts)} of convolutions and batch norms" if parts else ""
    sentences = [f"{len(names)} of its tensors are there: {tensor_names}{more}"]
    sentences += [
        f"not there: {entry.name}, so {dialect.means(name)}"
        for name, entry in dialect.entries.items()
        if name not in names
    ]
    for name, other in resized.items():
        both = (other, names[name])
        shapes = " beside ".join(f"{tensor} {checkpoint.tensors[tensor].shape}" for tensor in both)
        sentences.append(
            f"{shapes}: the {name} that were made for its images are read; its library makes "
            "them anew of the others when it loads the file"
        )
    return sentences + in_sentences(checkpoint.told, names.values())


def behind_layers(layers: tuple[str, ...]) -> str:
    """That images pass layers of Keras first, in words."""
    return f"its archive has {' and '.join(layers)} in it: images are here what comes out of that"


def _evidence_of_config(place: _Place) -> list[str]:
    """What config.json tells for it, and what its model does beside the projection."""
    dialect, known, config = place.dialect, place.known, place.config
    sentences = []
    if place.typed:
        sentences.append(
            f"{config.teller} tells a model of {known.model_type or known.architecture}"
            if config.teller == FILE_ITSELF
            else f"{config.teller} calls the model {known.model_type or known.architecture}"
        )
    elif (called := config.model_type or config.architecture) and not dialect.plain:
        sentences.append(f"{config.teller} calls the model {called}, {UNKNOWN_MODEL} {dialect.id}")
    if dialect.pixels:
        sentences.append(f"{dialect.pixels_told}; here kernel and bias hold that")
    if dialect.framework == "keras" and config.layers:
        sentences.append(behind_layers(config.layers))
    if dialect.batch_norm:
        sentences.append(
            "a batch norm by fixed statistics stands behind the projection; here kernel and "
            "bias hold that"
        )
    return sentences


def _patches(place: _Place) -> list[tuple[dict[str, int], list[str]]]:
    """What the patch of a kernel may be, and what tells it."""
    kernel, shape, known = place.dialect.entries["kernel"], place.shape("kernel"), place.known
    sizes = known
    if known.patch_size == place.config.patch_size:  # no user said another
        sizes = dataclasses.replace(known, patch_size=told_patch(place.dialect, known))
    patches = known_patches(kernel, shape, sizes)
    if any(kernel.sizes(shape, of_patch) for of_patch, _ in patches):
        return patches
    # What was told and does not fit is left out of the reading, and held against it.
    return known_patches(kernel, shape, dataclasses.replace(known, patch_size=(), channels=None))


def _sizes_of(place: _Place, of_patch: Mapping[str, int]) -> dict[str, int] | None:
    """The sizes of all axes; None where shapes do not fit together."""
    dialect = place.dialect
    sizes: dict[str, int] | None = dict(of_patch)
    for name in place.names:
        if sizes is not None and not name.startswith("stem."):
            sizes = dialect.entries[name].sizes(place.shape(name), sizes)
    if sizes is not None and dialect.stem:
        sizes = _with_stem(place.checkpoint, dialect, place.names, sizes)
    if sizes is None or not _sound(sizes, dialect):
        return None
    flat = dialect.plain and "(" in dialect.entries["kernel"].layout
    if flat and place.known.channels not in (None, sizes["C"]):
        return None
    if dialect.channels not in (None, channels_of(sizes)):
        return None
    return sizes if len(dialect.pixels.get("std", "x")) in (1, sizes["C"]) else None


def _readings(
    place: _Place,
    sizes: Mapping[str, int],
    evidence: tuple[str, ...],
    assumed_patch: str,
    gridless: bool,
    entries: tuple[LedgerEntry, ...],
) -> list[Candidate]:
    """A candidate for each grid that positions allow, with what must be asked and what speaks
    against it."""
    dialect, names, known = place.dialect, place.names, place.known
    stride, padding, window, asks = steps_of(dialect, sizes, known)
    if dialect.typed_only and not place.identified:
        asks.append(
            f"other models have these very names, and do otherwise: --from {dialect.id} says "
            f"that it is {dialect.title}"
        )
    conflicts = conflicts_of(place.checkpoint, dialect, names, sizes, place.config, place.alone)
    conflicts += _of_optimizer(names["kernel"])
    grids = grids_of(dialect, names, sizes, known, stride, padding)
    of_config = known.evident and known.image_size
    if not grids and not gridless and of_config and "positions" in names:
        theirs = known_grid(dialect, sizes, known, stride, padding)
        conflicts.append(misfit(place.checkpoint, names, sizes, known, theirs))
        grids = [((), (), "")]
    conflicts += other_grid(dialect, sizes, known, place.config, stride, padding, grids)
    conflicts += place.checkpoint.against(names, (stride, padding), bool(dialect.pixels))
    first = grids[0][1] if grids else ()
    more_asks, more_conflicts = of_any_grid(place.checkpoint, dialect, names, sizes, first)
    beside = sum(place.prefix + name in place.checkpoint.tensors for name in dialect.beside)
    weight = (
        int(place.typed),
        int(not dialect.plain),
        _likelihood(sizes, known),
        len(names) + beside,
        -len(place.prefix),
    )
    return [
        Candidate(
            dialect=dialect,
            prefix=place.prefix,
            names=names,
            sizes=sizes,
            positioned=positioned,
            grid=grid,
            stride=stride,
            padding=padding,
            window=window,
            evidence=(*evidence, *([assumed] if assumed else [])),
            assumed=assumed,
            assumed_patch=assumed_patch,
            layers=place.config.layers if dialect.framework == "keras" else (),
            weight=weight,
            conflicts=(
                *conflicts,
                *more_conflicts,
                *resized(dialect, names, known, grid),
                *other_rows(dialect, names, place.config, positioned),
            ),
            asks=(*asks, *more_asks, *_order_asked(place)),
            ledger=entries,
        )
        for positioned, grid, assumed in grids or ([((), (), "")] if gridless else [])
    ]


def _of_optimizer(kernel: str) -> list[str]:
    """That a kernel is what an optimizer keeps of one, in a sentence."""
    if not (match := OPTIMIZERS.search(kernel)):
        return []
    return [f"{kernel} is what an optimizer keeps of a kernel ({match[1]}), and no kernel"]


def _order_asked(place: _Place) -> list[str]:
    """The order of tokens, where it is not that of the image and nothing but a name tells the
    model: no tensor tells how many patches are merged."""
    dialect = place.dialect
    ordered = dialect.token_order != "raster" or dialect.windowed
    if not ordered or place.typed or place.alone:
        return []
    return [
        f"{dialect.id} has its tokens in {dialect.token_order} order, and no tensor tells one from "
        f"another: a config.json beside it would, or --from {dialect.id}"
    ]


def _of_other_sizes(
    checkpoint: Checkpoint, dialect: Dialect, prefix: str, names: Mapping[str, str]
) -> dict[str, str]:
    """Copies of fields that have another size than the tensor that they are copies of, by field."""
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    return {
        name: prefix + place
        for name, places in dialect.copies.items()
        for place in places
        if name in names and shapes.get(prefix + place, shapes[names[name]]) != shapes[names[name]]
    }


def _with_stem(
    checkpoint: Checkpoint, dialect: Dialect, names: Mapping[str, str], sizes: dict[str, int]
) -> dict[str, int] | None:
    """The sizes with those of the stem: the image's channels, and the side of each kernel; None
    where its convolutions do not follow one another."""
    stem_sizes, channels = dict(sizes), 0
    for place, step in enumerate(dialect.stem):
        shape = checkpoint.tensors[names[f"stem.{place}.kernel"]].shape
        beside = [
            checkpoint.tensors[names[field]].shape
            for field in step.entries(place)
            if not field.endswith("kernel")
        ]
        if len(shape) != 4 or shape[2] != shape[3] or 0 in shape or channels not in (0, shape[1]):
            return None
        if any(vector_shape != shape[:1] for vector_shape in beside):
            return None
        stem_sizes.setdefault("image channels", shape[1])
        stem_sizes[f"stem.{place}"] = shape[2]
        channels = shape[0]
    return stem_sizes if channels == sizes["C"] else None


def _likelihood(sizes: Mapping[str, int], known: Sizes) -> int:
    """How much a kernel's sizes look like those of patches: square ones, of few channels, or of as
    many as are known."""
    channels = channels_of(sizes)
    return (
        2 * int(sizes["Ph"] == sizes["Pw"])
        + int(channels in ((known.channels,) if known.channels else (1, 3)))
        - int(channels > MOST_CHANNELS)
    )


def _sound(sizes: Mapping[str, int], dialect: Dialect) -> bool:
    """Whether K, where a norm tells it, is that of the patches."""
    values = sizes["C"] * sizes["Ph"] * sizes["Pw"] * sizes.get("Pt", 1)
    return sizes.get("K", values) == values
