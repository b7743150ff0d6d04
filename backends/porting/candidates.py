"""Which dialects a checkpoint may be in, and which one it is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...reference.errors import PatchParityError
from ...reference.weights import PrefixToken
from .dialects import Dialect, Entry, list_dialects
from .formats.base import Checkpoint
from .formats.tree import IN_MEMORY
from .sizes import Sizes, read_config

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
        evidence: what speaks for it, in words.
        assumed: what was assumed of the grid although another is as possible; empty where nothing was.
        weight: how much does; of two readings the one with more is taken.
    """

    dialect: Dialect
    prefix: str
    names: Mapping[str, str]
    sizes: Mapping[str, int]
    positioned: tuple[PrefixToken, ...]
    grid: tuple[int, ...]
    evidence: tuple[str, ...]
    assumed: str
    weight: tuple[int, ...]

    @property
    def label(self) -> str:
        """The dialect, and the prefix where there is one."""
        return self.dialect.id + (f" under {self.prefix!r}" if self.prefix else "")

    @property
    def reading(self) -> tuple[Any, ...]:
        """What follows from it: two candidates of one reading give the same weights."""
        dialect = self.dialect
        told = {name: (self.names[name], dialect.entries[name].layout) for name in self.names if name != "mask_token"}
        present = tuple(name for name in dialect.prefix if name in self.names)
        axes = tuple(self.sizes.get(name) for name in ("D", "C", "Pt", "Ph", "Pw"))
        norms = dialect.norm_epsilon if any("norm" in name for name in self.names) else None
        order = (present, dialect.prefix_side if present else "", dialect.token_order, norms)
        return tuple(sorted(told.items())), axes, self.positioned, order, dialect.stride, dialect.padding, dialect.computed


def find_candidates(
    checkpoint: Checkpoint,
    dialects: Mapping[str, Dialect] | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    gridless: bool = False,
) -> list[Candidate]:
    """All ways to read a checkpoint, the likeliest first.

    Args:
        checkpoint: an open one.
        dialects: those to try; None for all.
        prefix: what stands before all names; None for whatever is found.
        sizes: what is known of the sizes; what a user said goes before what config.json tells, anything else behind it.
        gridless: whether also those whose positions fit no grid.
    """
    config = known_of(checkpoint, sizes)
    found = []
    known = list_dialects() if dialects is None else dialects
    for dialect in known.values():
        if checkpoint.format not in (*dialect.formats, IN_MEMORY):
            continue
        for own in _prefixes(checkpoint, dialect):
            if prefix is None or own == prefix:
                found += _candidates(checkpoint, dialect, own, config, len(known) == 1, gridless)
    found.sort(key=lambda each: each.weight, reverse=True)
    # Beside a library's own names a matrix under any other tells nothing.
    return [each for each in found if not each.dialect.plain] or found


def known_of(checkpoint: Checkpoint, sizes: Sizes | None) -> Sizes:
    """What is known of the sizes: by a user, by the file's own `config.json`, by another checkpoint."""
    own = read_config(checkpoint.config_folder)
    if sizes is None:
        return own
    return sizes.over(own) if sizes.asked else own.over(sizes)


def _prefixes(checkpoint: Checkpoint, dialect: Dialect) -> list[str]:
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
    checkpoint: Checkpoint, dialect: Dialect, prefix: str, config: Sizes, alone: bool, gridless: bool
) -> list[Candidate]:
    """How a dialect reads what stands under a prefix; `alone` where it was asked for by name."""
    names = {}
    for name, entry in dialect.entries.items():
        if prefix + entry.name in checkpoint.tensors:
            names[name] = prefix + entry.name
        elif name in dialect.required:
            return []
    if dialect.plain and not alone and len(checkpoint.tensors) > len(names):
        return []  # beside other tensors a layer under any name may be anything
    evidence = [f"{len(names)} of its tensors are there: {', '.join(names.values())}"]
    if missing := [entry.name for name, entry in dialect.entries.items() if name not in names]:
        evidence.append(f"not there: {', '.join(missing)}")
    found = []
    for known, of_patch in _known_sizes(dialect.entries["kernel"], checkpoint.tensors[names["kernel"]].shape, config):
        sizes: dict[str, int] | None = dict(known)
        for name in names:
            sizes = None if sizes is None else dialect.entries[name].sizes(checkpoint.tensors[names[name]].shape, sizes)
        if (
            sizes is None
            or not _sound(sizes, dialect)
            or ("(" in dialect.entries["kernel"].layout and config.channels not in (None, sizes["C"]))
        ):
            continue
        told = [*evidence, *of_patch]
        beside = sum(prefix + name in checkpoint.tensors for name in dialect.beside)
        typed = config.model_type in dialect.model_types
        if typed:
            told.append(f"config.json calls the model {config.model_type}")
        unlikely = sizes["C"] > MOST_CHANNELS or sizes["Ph"] != sizes["Pw"]
        weight = (int(typed), int(not dialect.plain), int(not unlikely), len(names) + beside, -len(prefix))
        for positioned, grid, assumed in _grids(dialect, names, sizes, config) or ([((), (), "")] if gridless else []):
            evidence_of_grid = (*told, *([assumed] if assumed else []))
            found.append(Candidate(dialect, prefix, names, sizes, positioned, grid, evidence_of_grid, assumed, weight))
    return found


def _sound(sizes: Mapping[str, int], dialect: Dialect) -> bool:
    """Whether K, where a norm tells it, is that of the patches."""
    values = sizes["C"] * sizes["Ph"] * sizes["Pw"] * sizes.get("Pt", 1)
    return sizes.get("K", values) == values


def _known_sizes(kernel: Entry, shape: tuple[int, ...], config: Sizes) -> list[tuple[dict[str, int], list[str]]]:
    """What is known of a patch that lies flattened in a matrix: from config.json, or, assumed, square and of three channels (or one)."""
    if "(" not in kernel.layout:
        return [({}, [])]
    if config.patch_size:
        *_, height, width = config.patch_size
        return [({"Ph": height, "Pw": width}, [f"the patch is known to be {height}×{width}"])]
    values = shape[1] if kernel.layout.startswith("D") else shape[0]
    found = []
    for channels in (config.channels,) if config.channels else (3, 1, 4):
        side = math.isqrt(values // channels)
        if values == channels * side * side and side > 1:
            told = f"the patch is assumed to be square, {side}×{side} of {channels} channel{'s' if channels > 1 else ''}"
            found.append(({"Ph": side, "Pw": side, "C": channels}, [told]))
            if channels == 3:
                break  # no other fits: 3·s² is no square
    return found


def _grids(
    dialect: Dialect, names: Mapping[str, str], sizes: Mapping[str, int], config: Sizes
) -> list[tuple[tuple[PrefixToken, ...], tuple[int, ...], str]]:
    """Grids that the position table allows, for which prefix tokens it then has rows, and what that assumes."""
    told = _config_grid(dialect, sizes, config)
    if "Gh" in sizes:
        return [((), (sizes["Gh"], sizes["Gw"]), "")]
    if "positions" not in names:
        return [((), told, "")]
    counts = {name: sizes.get("R", 0) if name == "register_tokens" else 1 for name in dialect.prefix if name in names}
    found: dict[int, tuple[PrefixToken, ...]] = {}
    for alternative in dialect.positioned:
        present = tuple(name for name in alternative if name in counts)
        found.setdefault(sum(counts[name] for name in present), present)
    grids = []
    for extra, present in found.items():
        patches = sizes["rows"] - extra
        if told and dialect.video and not config.frames and patches % math.prod(told[1:]) == 0:
            told = (patches // math.prod(told[1:]), *told[1:])
        if told and math.prod(told) == patches:
            return [(present, told, "")]
        side = math.isqrt(max(patches, 0))
        if patches > 0 and side * side == patches and not dialect.video:
            rivals = [count for other in found if other != extra and (count := sizes["rows"] - other) and _oblong(count)]
            rows = ", ".join(name.replace("_", " ") for name in present) or "no prefix token"
            assumed = f"the grid is assumed to be square, {side}×{side}, with position rows for {rows}; an image size would tell"
            grids.append((present, (side, side), assumed if rivals else ""))
        elif patches > 0 and dialect.video and (video := _video_grid(patches, sizes, config)):
            frames = f"the grid is assumed to be of {video[0]} × {video[1]}×{video[2]}; an image size with its frames would tell"
            grids.append((present, video, "" if config.frames else frames))
    return grids


def _oblong(count: int) -> bool:
    """Whether so many patches may be those of an image at most twice as long as it is wide."""
    return any(count % short == 0 for short in range(math.isqrt(max(count, 0)), math.isqrt(max(count // 2, 0)) - 1, -1) if short)


def _video_grid(patches: int, sizes: Mapping[str, int], config: Sizes) -> tuple[int, ...]:
    """A grid of frames and a square: of config.json's frames, or the fewest frames that leave a square."""
    counts = [config.frames // sizes["Pt"]] if config.frames else range(1, patches + 1)
    for frames in counts:
        side = math.isqrt(patches // max(frames, 1))
        if frames * side * side == patches:
            return frames, side, side
    return ()


def _config_grid(dialect: Dialect, sizes: Mapping[str, int], config: Sizes) -> tuple[int, ...]:
    """The grid of the image size that config.json tells."""
    if not config.image_size:
        return ()
    *_, height, width = config.image_size
    pad = 2 * dialect.padding
    step = (dialect.stride or sizes["Ph"], dialect.stride or sizes["Pw"])
    more = [by - 1 if dialect.remainder == "pad-end" else 0 for by in step]
    image = tuple(
        (size + pad - patch + up) // by + 1
        for size, patch, by, up in zip((height, width), (sizes["Ph"], sizes["Pw"]), step, more, strict=True)
    )
    if dialect.video:
        frames = (config.frames or sizes["Pt"]) // sizes["Pt"]
        return (frames, *image) if frames else ()
    return image if min(image) > 0 else ()


def choose(checkpoint: Checkpoint, candidates: list[Candidate]) -> Candidate:
    """The candidate that a checkpoint is read as.

    Raises:
        PatchParityError: none, or several that read it differently, and what would tell them apart.
    """
    if not candidates:
        kernels = [f"{name} {info.shape}" for name, info in checkpoint.tensors.items() if len(info.shape) >= 4][:5]
        held = ", ".join(kernels) or f"{len(checkpoint.tensors)} tensors, none of four axes"
        raise PatchParityError(
            f"{checkpoint.path} is in no dialect that is known; it holds {held} (--from names a dialect, --dialects a file of your own)"
        )
    rivals = ambiguous(candidates)
    if len(rivals) > 1:
        told = "; ".join(f"{each.label} ({each.dialect.entries['kernel'].layout})" for each in rivals)
        raise PatchParityError(f"{checkpoint.path} is ambiguous, and shapes cannot tell: {told}. {remedy(rivals)} would")
    return candidates[0]


def remedy(rivals: list[Candidate]) -> str:
    """What would tell rivals apart."""
    named = ["--prefix"] if len({each.prefix for each in rivals}) > 1 else []
    named += ["--from with a dialect"] if len({each.dialect.id for each in rivals}) > 1 else []
    named += ["a config.json beside it"] if any(each.dialect.model_types for each in rivals) else []
    return " or ".join(named or ["a config.json with the image size"])


def ambiguous(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates that are as likely as the first, one for each reading."""
    if not candidates:
        return []
    # Of one prefix the reading that explains most tensors; two prefixes are two stages, however many tensors each has.
    best: dict[str, tuple[int, ...]] = {}
    for each in candidates:
        best.setdefault(each.prefix, each.weight[:-1])
    likely = [
        each for each in candidates if each.weight[:-1] == best[each.prefix] and each.weight[:3] == candidates[0].weight[:3]
    ]
    return list({each.reading: each for each in reversed(likely)}.values())[::-1]


def require_grid(checkpoint: Checkpoint, dialects: Mapping[str, Dialect], prefix: str | None, sizes: Sizes | None) -> None:
    """Raise PatchParityError where a checkpoint that nothing reads would be read but for the number of its positions, and say so."""
    near = [each for each in find_candidates(checkpoint, dialects, prefix, sizes, gridless=True) if "positions" in each.names]
    if near:
        rows = near[0].sizes.get("rows", 0)
        told = f"not of an image of {'×'.join(map(str, sizes.image_size))}" if sizes and sizes.image_size else "of no square grid"
        raise PatchParityError(
            f"{checkpoint.path} holds the tensors of {near[0].label}, but its {rows} positions are {told}: --image-size tells the right one"
        )


def require_asked(checkpoint: Checkpoint, candidate: Candidate, sizes: Sizes | None) -> None:
    """Raise PatchParityError where a user told a size that the checkpoint does not have."""
    if sizes is None or not sizes.asked:
        return
    own, axes = candidate.sizes, 3 if sizes.frames else 2
    if sizes.frames and not candidate.dialect.video:
        raise PatchParityError(f"{checkpoint.path} is of images, and a size with {sizes.frames} frames was told")
    grid = _config_grid(candidate.dialect, own, sizes)
    if sizes.image_size and not grid:
        raise PatchParityError(f"an image of {'×'.join(map(str, sizes.image_size))} was told, which is smaller than a patch")
    patch = (
        (own["Ph"], own["Pw"]) if len(sizes.patch_size) < 3 else tuple(own[name] for name in ("Pt", "Ph", "Pw") if name in own)
    )
    pairs = [
        ("patch", patch, sizes.patch_size),
        ("channels", (own["C"],), (sizes.channels,) if sizes.channels else ()),
        ("grid", candidate.grid[-axes:], grid[-axes:]),
    ]
    for name, have, asked in pairs:
        if asked and have and have != asked:
            told = f" (of {'×'.join(map(str, sizes.image_size))} pixels)" if name == "grid" else ""
            raise PatchParityError(
                f"{checkpoint.path} has {name} {'×'.join(map(str, have))}, and {'×'.join(map(str, asked))}{told} was told"
            )
