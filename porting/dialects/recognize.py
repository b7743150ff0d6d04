"""Which dialects a checkpoint may be in: names and shapes, the ledger, and evidence that must
agree."""

import dataclasses
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...reference.errors import PatchParityError
from ...reference.weights import PrefixToken
from ..files.checkpoint import Checkpoint
from ..files.tree import IN_MEMORY
from .dialect import Dialect, Entry, list_dialects
from .evidence import conflicts_of, is_architecture, known_of, misfit, told_patch
from .grids import channels_of, grids_of, known_grid
from .ledger import LedgerEntry, in_words, ledger_of, unexplained
from .sizes import Sizes, numbers_at, read_config

MOST_CHANNELS = 16
"""Channels above which an axis is hardly one of channels: satellite images have 13."""


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
    weight: tuple[int, ...]
    conflicts: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    ledger: tuple[LedgerEntry, ...] = field(default=(), compare=False, repr=False)

    @property
    def label(self) -> str:
        """The dialect, and the prefix where there is one."""
        return self.dialect.id + (f" under {self.prefix!r}" if self.prefix else "")

    @property
    def refusals(self) -> tuple[str, ...]:
        """Why it cannot be read so, in sentences; empty where it can."""
        strange = unexplained(self.ledger)
        told = (
            f"nothing of {self.dialect.id} explains {in_words(strange)}, which may change what "
            "enters the first block"
        )
        return (
            *self.conflicts,
            *([f"{told} (--ignore NAME says that it does not)"] if strange else []),
        )

    @property
    def reading(self) -> tuple[Any, ...]:
        """What follows from it: two candidates of one reading give the same weights."""
        dialect = self.dialect
        told = {
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
        return tuple(sorted(told.items())), axes, self.positioned, order, *steps


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
    config, known_sizes = read_config(checkpoint.config_folder), known_of(checkpoint, sizes)
    for pattern in ignore:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in checkpoint.tensors):
            raise PatchParityError(
                f"{checkpoint.path} holds no tensor {pattern} that could be ignored (whole names, "
                "or patterns with *)"
            )
    found: list[Candidate] = []
    known = list_dialects() if dialects is None else dialects
    for dialect in known.values():
        if checkpoint.format not in (*dialect.formats, IN_MEMORY):
            continue
        for own in prefixes_of(checkpoint, dialect):
            if prefix is None or own == prefix:
                found += _candidates(
                    checkpoint, dialect, own, known_sizes, config, len(known) == 1, gridless, ignore
                )
    found.sort(key=lambda each: (not each.refusals, *each.weight), reverse=True)
    # Beside a library's own names a matrix under any other tells nothing.
    return [each for each in found if not each.dialect.plain] or found


def prefixes_of(checkpoint: Checkpoint, dialect: Dialect) -> list[str]:
    """What stands before the name of a dialect's kernel, wherever it stands."""
    kernel = dialect.entries["kernel"]
    separators = {dialect.separator, ".", "/"}
    found = []
    for name, info in checkpoint.tensors.items():
        before = name.removesuffix(kernel.name)
        fits = name.endswith(kernel.name) and (not before or before[-1] in separators)
        if fits and kernel.sizes(info.shape, {}) is not None:
            found.append(before)
    return found


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
    names = {}
    for name, entry in dialect.entries.items():
        there = checkpoint.tensors.get(prefix + entry.name)
        # A tensor of no values is none; a table of no registers tells that there are none.
        empty = (
            there is not None
            and 0 in there.shape
            and name in dialect.optional
            and name != "register_tokens"
        )
        if there is not None and not empty:
            names[name] = prefix + entry.name
        elif name in dialect.required:
            return []
    if dialect.plain and not alone and len(checkpoint.tensors) > len(names):
        return []  # beside other tensors a layer under any name may be anything
    parts = [name for name in names if name.startswith(("stem.", "batch_norm."))]
    told_names = ", ".join(tensor for name, tensor in names.items() if name not in parts)
    more = f", and {len(parts)} of convolutions and batch norms" if parts else ""
    evidence = [f"{len(names)} of its tensors are there: {told_names}{more}"]
    if missing := [name for name in dialect.entries if name not in names]:
        evidence += [
            f"not there: {dialect.entries[name].name}, so {dialect.means(name)}" for name in missing
        ]
    for name, other in _of_other_sizes(checkpoint, dialect, prefix, names).items():
        told_sizes = " beside ".join(
            f"{each} {checkpoint.tensors[each].shape}" for each in (other, names[name])
        )
        evidence.append(
            f"{told_sizes}: the {name} that were made for its images are read; its library makes "
            "them anew of the others when it loads the file"
        )
        names[name] = other
    found = []
    entries = tuple(ledger_of(checkpoint, dialect, prefix, names, ignore))
    shape = checkpoint.tensors[names["kernel"]].shape
    kernel = dialect.entries["kernel"]
    of_dialect = known
    if known.patch_size == config.patch_size:  # no user said another
        of_dialect = dataclasses.replace(known, patch_size=told_patch(dialect, known))
    readings = _known_sizes(kernel, shape, of_dialect)
    # What was told and does not fit is left out of the reading, and held against it.
    if not any(kernel.sizes(shape, of_patch) for of_patch, _ in readings):
        readings = _known_sizes(
            kernel, shape, dataclasses.replace(known, patch_size=(), channels=None)
        )
    for of_patch, told_of_patch in readings:
        sizes: dict[str, int] | None = dict(of_patch)
        for name in names:
            if not name.startswith("stem."):
                sizes = (
                    None
                    if sizes is None
                    else dialect.entries[name].sizes(checkpoint.tensors[names[name]].shape, sizes)
                )
        if sizes is not None and dialect.stem:
            sizes = _with_stem(checkpoint, dialect, names, sizes)
        if (
            sizes is None
            or not _sound(sizes, dialect)
            or (dialect.plain and "(" in kernel.layout and known.channels not in (None, sizes["C"]))
        ):
            continue
        if dialect.channels not in (None, channels_of(sizes)) or len(
            dialect.pixels.get("std", "x")
        ) not in (1, sizes["C"]):
            continue
        told = [*evidence, *told_of_patch]
        beside = sum(prefix + name in checkpoint.tensors for name in dialect.beside)
        typed = known.model_type in dialect.model_types or is_architecture(
            dialect, known.architecture
        )
        if typed:
            told.append(f"config.json calls the model {known.model_type or known.architecture}")
        elif (called := config.model_type or config.architecture) and not dialect.plain:
            told.append(
                f"config.json calls the model {called}, which is not known to be of {dialect.id}"
            )
        if (
            dialect.typed_only
            and not typed
            and not alone
            and (dialect.model_types or dialect.architectures)
        ):
            return []
        weight = (
            int(typed),
            int(not dialect.plain),
            _likelihood(sizes),
            len(names) + beside,
            -len(prefix),
        )
        stride, padding, window, asks = _steps(dialect, sizes, known)
        if dialect.typed_only and not typed and not alone:
            asks.append(
                f"other models have these very names, and do otherwise: --from {dialect.id} says "
                f"that it is {dialect.title}"
            )
        if dialect.pixels:
            told.append(f"{dialect.pixels_told}; here kernel and bias hold that")
        if config.layers and dialect.framework == "keras":
            told.append(
                f"its archive has {' and '.join(config.layers)} in it: images are here what comes "
                "out of that"
            )
        if dialect.batch_norm:
            told.append(
                "a batch norm by fixed statistics stands behind the projection; here kernel and "
                "bias hold that"
            )
        conflicts = conflicts_of(checkpoint, dialect, names, sizes, config, known, alone)
        grids = grids_of(dialect, names, sizes, known, stride, padding)
        if (
            not grids
            and not gridless
            and known.source == "config.json"
            and known.image_size
            and "positions" in names
        ):
            conflicts.append(
                misfit(
                    checkpoint,
                    names,
                    sizes,
                    known,
                    known_grid(dialect, sizes, known, stride, padding),
                )
            )
            grids = [((), (), "")]
        conflicts += _other_grid(dialect, sizes, known, config, stride, padding, grids)
        of_any_grid = _of_any_grid(checkpoint, dialect, names, sizes, grids[0][1] if grids else ())
        asks += of_any_grid[0]
        conflicts += of_any_grid[1]
        for positioned, grid, assumed in grids or ([((), (), "")] if gridless else []):
            found.append(
                Candidate(
                    dialect,
                    prefix,
                    names,
                    sizes,
                    positioned,
                    grid,
                    stride,
                    padding,
                    window,
                    (*told, *([assumed] if assumed else [])),
                    assumed,
                    weight,
                    (*conflicts, *_resized(dialect, names, known, grid)),
                    tuple(asks),
                    entries,
                )
            )
    return found


def _other_grid(
    dialect: Dialect,
    sizes: Mapping[str, int],
    known: Sizes,
    config: Sizes,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    grids: Sequence[tuple[tuple[PrefixToken, ...], tuple[int, ...], str]],
) -> list[str]:
    """What is told where a user and config.json tell images of two grids, of both of which the
    positions may be."""
    if (
        not known.asked
        or "rows" not in sizes
        or dialect.any_grid
        or "image_size" not in dialect.checked
    ):
        return []
    theirs = known_grid(dialect, sizes, config, stride, padding)
    for _, grid, _ in grids:
        if theirs and grid and theirs != grid and math.prod(theirs) == math.prod(grid):
            image, told = ("×".join(map(str, each.image_size)) for each in (config, known))
            return [
                f"config.json tells images of {image}, and {told} was told: the positions are of "
                "either, in another order"
            ]
    return []


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


def _of_any_grid(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    grid: tuple[int, ...],
) -> tuple[list[str], list[str]]:
    """What must be asked, and what speaks against it, where positions are made for the grid of the
    image."""
    looked_up = "position_tables" in names
    if not looked_up and not (dialect.resize and "positions" in names):
        return [], []
    if not grid:
        how = "looked up by row and column" if looked_up else "resized to the grid of the image"
        return [
            f"its positions are {how}, and nothing tells the image size: --image-size says it"
        ], []
    cells = "×".join(map(str, grid))
    if looked_up and max(grid[-2:]) > sizes["rows"]:
        return [], [
            f"{cells} patches have more rows or columns than the {sizes['rows']} of "
            f"{names['position_tables']}"
        ]
    if dialect.resize and "rows" in sizes and math.isqrt(sizes["rows"]) ** 2 != sizes["rows"]:
        return [], [f"{names['positions']} has {sizes['rows']} rows, which are no square grid"]
    if "position_window" in names and (grid[-2] % sizes["Th"] or grid[-1] % sizes["Tw"]):
        shape = checkpoint.tensors[names["position_window"]].shape
        return [], [
            f"{names['position_window']} {shape} is repeated on the positions, and {cells} patches "
            "are no multiple of it"
        ]
    return [], []


def _resized(
    dialect: Dialect, names: Mapping[str, str], known: Sizes, grid: tuple[int, ...]
) -> list[str]:
    """What is told where the library resizes a table of positions that would fit as it is: it takes
    every table for one of a square."""
    oblong = "positions" in names and len(set(grid[-2:])) > 1
    if not oblong or not ("*" in dialect.square or known.model_type in dialect.square):
        return []
    whose, cells = known.model_type or dialect.id, "×".join(map(str, grid[-2:]))
    told = (
        f"{whose} takes {names['positions']} for positions of a square, and resizes them at "
        "run "
        f"time to {cells} patches"
    )
    return [f"{told}: only images of a square grid are read"]


def _with_stem(
    checkpoint: Checkpoint, dialect: Dialect, names: Mapping[str, str], sizes: dict[str, int]
) -> dict[str, int] | None:
    """The sizes with those of the stem: the image's channels, and the side of each kernel; None
    where its convolutions do not follow one another."""
    found, channels = dict(sizes), 0
    for place, step in enumerate(dialect.stem):
        shape = checkpoint.tensors[names[f"stem.{place}.kernel"]].shape
        beside = [
            checkpoint.tensors[names[field]].shape
            for field in step.entries(place)
            if not field.endswith("kernel")
        ]
        if len(shape) != 4 or shape[2] != shape[3] or 0 in shape or channels not in (0, shape[1]):
            return None
        if any(each != shape[:1] for each in beside):
            return None
        found.setdefault("image channels", shape[1])
        found[f"stem.{place}"] = shape[2]
        channels = shape[0]
    return found if channels == sizes["C"] else None


def _likelihood(sizes: Mapping[str, int]) -> int:
    """How much a kernel's sizes look like those of patches: square ones, of few channels."""
    channels = channels_of(sizes)
    return (
        2 * int(sizes["Ph"] == sizes["Pw"])
        + int(channels in (1, 3))
        - int(channels > MOST_CHANNELS)
    )


def _steps(
    dialect: Dialect, sizes: Mapping[str, int], known: Sizes
) -> tuple[tuple[int, ...], tuple[int, ...], int, list[str]]:
    """Stride, padding and window: what was said, else the dialect's own, else what config.json
    tells; and what must be asked."""
    patch = tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes)
    asks = []
    found = {}
    for role, own, tiles in (
        ("stride", dialect.stride, patch),
        ("padding", dialect.padding, (0,) * len(patch)),
    ):
        said = getattr(known, role)
        if said and known.asked and len(said) in (len(patch), 2):
            step = (*tiles[: len(patch) - len(said)], *said)
            told = (
                numbers_at(known.table, dialect.config[role], len(patch))
                if role in dialect.config
                else ()
            )
            if told and tuple(told) != tuple(step):
                asks.append(
                    f"config.json tells {role} {'×'.join(map(str, told))}, and "
                    f"{'×'.join(map(str, said))} was told"
                )
            fixed = _always(own, patch)
            if not told and fixed and fixed != tuple(step):
                asks.append(
                    f"{dialect.id} has {role} {'×'.join(map(str, fixed))}, and "
                    f"{'×'.join(map(str, said))} was told"
                )
        elif (
            step := numbers_at(known.table, dialect.config[role], len(patch))
            if role in dialect.config
            else ()
        ):
            pass
        elif own == "config" or (
            role == "stride" and own is None and _may_overlap(dialect, patch, known)
        ):
            step = (*tiles[: len(patch) - len(said)], *said) if said else tiles
            if role == "stride" and not said:
                asks.append(
                    f"its kernel is {'×'.join(map(str, patch))}, and no tensor tells the stride: "
                    "--stride says it, and --padding "
                    f"({'×'.join(map(str, patch))} and 0 where patches tile)"
                )
        else:
            step = _always(own, patch) or tiles
            told = (
                _stride_of_config(known, len(patch)) if dialect.plain and role == "stride" else ()
            )
            if told and told != step:
                asks.append(
                    f"config.json tells stride {'×'.join(map(str, told))}, and the kernel is "
                    f"{'×'.join(map(str, patch))}: --stride says which one it has"
                )
        found[role] = tuple(step)
    if dialect.patch_asked and not known.patch_size:
        asks.append(
            f"its kernel is a matrix, and {dialect.title} has the same names for patches of other "
            "axes: --patch-size says the patch"
        )
    window = sizes.get("Sh", dialect.window)
    if dialect.windowed:
        told = numbers_at(known.table, dialect.config.get("window", ("window_size",)), 1)
        of_pixels = dialect.token_order == "merge-2x2"
        window = known.window or (
            0 if not told else told[0] // 2 // sizes["Pw"] * 2 if of_pixels else told[0]
        )
        if not window:
            asks.append(
                f"{dialect.id} orders its tokens by attention windows, and no tensor tells their "
                "size: a config.json beside it would"
            )
    return found["stride"], found["padding"], window, asks


def _stride_of_config(known: Sizes, axes: int) -> tuple[int, ...]:
    """The stride that a config.json tells under the key of any dialect of its model; empty where
    none does."""
    keys = {
        each.config["stride"]
        for each in list_dialects().values()
        if "stride" in each.config
        and (known.model_type in each.model_types or is_architecture(each, known.architecture))
    }
    return next((told for each in keys if (told := numbers_at(known.table, each, axes))), ())


def _always(own: int | str | None, patch: tuple[int, ...]) -> tuple[int, ...]:
    """The stride or padding that a dialect always has; empty where it is that of patches that tile,
    or the configuration's."""
    if own == "half":
        return tuple(size // 2 for size in patch)
    return (own,) * len(patch) if isinstance(own, int) and own else ()


def _may_overlap(dialect: Dialect, patch: tuple[int, ...], known: Sizes) -> bool:
    """Whether a convolution's kernel is small and odd, as those of patches that overlap are (3, 7,
    9), and nothing tells that it is a patch."""
    sides = patch[-2:]
    odd = all(size % 2 and size <= LARGEST_OVERLAP for size in sides) and max(sides) > 1
    told = told_patch(dialect, known)
    return odd and "(" not in dialect.entries["kernel"].layout and tuple(told[-2:]) != sides


LARGEST_OVERLAP = 15
"""Largest odd kernel that is asked about: PVT v2, Hiera, MViT v2, CvT, DaViT, PoolFormer and
SegFormer have 3 or 7, EdgeNeXt has 9; patches that tile have even sides, but for few."""


def _sound(sizes: Mapping[str, int], dialect: Dialect) -> bool:
    """Whether K, where a norm tells it, is that of the patches."""
    values = sizes["C"] * sizes["Ph"] * sizes["Pw"] * sizes.get("Pt", 1)
    return sizes.get("K", values) == values


def _known_sizes(
    kernel: Entry, shape: tuple[int, ...], config: Sizes
) -> list[tuple[dict[str, int], list[str]]]:
    """What is known of a patch that lies flattened in a matrix: from config.json, or, assumed,
    square and of three channels (or one)."""
    if "(" not in kernel.layout:
        return [({}, [])]
    if config.patch_size:
        *frames, height, width = config.patch_size
        if config.asked and bool(frames) != ("Pt" in kernel.layout):
            return []  # tubelets are told with their frames, patches without
        if "Pt" in kernel.layout and not frames:
            return []
        told = {"Ph": height, "Pw": width} | (
            {"Pt": frames[0]} if frames and "Pt" in kernel.layout else {}
        )
        return [(told, [f"the patch is known to be {height}×{width}"])]
    values = shape[1] if kernel.layout.startswith("D") else shape[0]
    found = []
    if "Pt" in kernel.layout:
        return []  # frames and sides cannot be told from their product
    for channels in (config.channels,) if config.channels else (3, 1, 4):
        side = math.isqrt(values // channels)
        if values == channels * side * side and side > 1:
            told_of = (
                f"the patch is assumed to be square, {side}×{side} of {channels} "
                f"channel{'s' if channels > 1 else ''}"
            )
            found.append(({"Ph": side, "Pw": side, "C": channels}, [told_of]))
            if channels == 3:
                break  # no other fits: 3·s² is no square
    return found
