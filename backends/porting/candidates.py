"""Which dialects a checkpoint may be in, and which one it is: names and shapes, the ledger, and evidence that must agree."""

import dataclasses
import fnmatch
import functools
import importlib.resources
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...reference.errors import PatchParityError
from ...reference.weights import PrefixToken
from .dialects import REQUIRED, Dialect, Entry, list_dialects
from .formats.base import Checkpoint
from .formats.tree import IN_MEMORY
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
        assumed: what was assumed of the grid although another is as possible; empty where nothing was.
        weight: how much does; of two readings the one with more is taken.
        conflicts: evidence that contradicts the tensors, or the dialect, in sentences: with one it cannot be.
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
        told = f"nothing of {self.dialect.id} explains {in_words(strange)}, which may change what enters the first block"
        return (*self.conflicts, *([f"{told} (--ignore NAME says that it does not)"] if strange else []))

    @property
    def reading(self) -> tuple[Any, ...]:
        """What follows from it: two candidates of one reading give the same weights."""
        dialect = self.dialect
        told = {name: (self.names[name], dialect.entries[name].layout) for name in self.names if name != "mask_token"}
        present = tuple(name for name in dialect.prefix if name in self.names)
        axes = tuple(self.sizes.get(name) for name in ("D", "C", "Pt", "Ph", "Pw"))
        norms = (dialect.norm_epsilon, dialect.rms) if any("norm" in name for name in self.names) else None
        behind = tuple(name for name in dialect.behind if name in present)
        order = (present, behind, dialect.token_order, self.window, norms)
        steps = self.stride, self.padding, dialect.computed, dialect.spare_rows, dialect.shared_rows
        return tuple(sorted(told.items())), axes, self.positioned, order, *steps


def find_candidates(
    checkpoint: Checkpoint,
    dialects: Mapping[str, Dialect] | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    gridless: bool = False,
    ignore: Sequence[str] = (),
) -> list[Candidate]:
    """All ways to read a checkpoint, the likeliest first; those that evidence or an unexplained tensor speaks against (`refusals`) behind the others.

    Args:
        checkpoint: an open one.
        dialects: those to try; None for all.
        prefix: what stands before all names; None for whatever is found.
        sizes: what is known of the sizes; what a user said goes before what config.json tells, anything else behind it.
        gridless: whether also those whose positions fit no grid.
        ignore: tensors that a user says play no part.
    """
    config, known_sizes = read_config(checkpoint.config_folder), known_of(checkpoint, sizes)
    for pattern in ignore:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in checkpoint.tensors):
            raise PatchParityError(
                f"{checkpoint.path} holds no tensor {pattern} that could be ignored (whole names, or patterns with *)"
            )
    found: list[Candidate] = []
    known = list_dialects() if dialects is None else dialects
    for dialect in known.values():
        if checkpoint.format not in (*dialect.formats, IN_MEMORY):
            continue
        for own in _prefixes(checkpoint, dialect):
            if prefix is None or own == prefix:
                found += _candidates(checkpoint, dialect, own, known_sizes, config, len(known) == 1, gridless, ignore)
    found.sort(key=lambda each: (not each.refusals, *each.weight), reverse=True)
    # Beside a library's own names a matrix under any other tells nothing.
    return [each for each in found if not each.dialect.plain] or found


def known_of(checkpoint: Checkpoint, sizes: Sizes | None) -> Sizes:
    """What is known of the sizes: by a user, by the file's own `config.json`, by another checkpoint."""
    own = read_config(checkpoint.config_folder)
    if sizes is None:
        return own
    merged = sizes.over(own) if sizes.asked else own.over(sizes)
    of_config = own.image_size and not (sizes.asked and sizes.image_size)
    return dataclasses.replace(merged, source="config.json" if of_config else sizes.source)


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
        if prefix + entry.name in checkpoint.tensors:
            names[name] = prefix + entry.name
        elif name in dialect.required:
            return []
    if dialect.plain and not alone and len(checkpoint.tensors) > len(names):
        return []  # beside other tensors a layer under any name may be anything
    evidence = [f"{len(names)} of its tensors are there: {', '.join(names.values())}"]
    if missing := [name for name in dialect.entries if name not in names]:
        evidence += [f"not there: {dialect.entries[name].name}, so {dialect.means(name)}" for name in missing]
    found = []
    entries = tuple(ledger_of(checkpoint, dialect, prefix, names, ignore))
    shape = checkpoint.tensors[names["kernel"]].shape
    for of_patch, told_of_patch in _known_sizes(dialect.entries["kernel"], shape, known):
        sizes: dict[str, int] | None = dict(of_patch)
        for name in names:
            sizes = None if sizes is None else dialect.entries[name].sizes(checkpoint.tensors[names[name]].shape, sizes)
        if (
            sizes is None
            or not _sound(sizes, dialect)
            or ("(" in dialect.entries["kernel"].layout and known.channels not in (None, sizes["C"]))
        ):
            continue
        if dialect.channels not in (None, sizes["C"]):
            continue
        told = [*evidence, *told_of_patch]
        beside = sum(prefix + name in checkpoint.tensors for name in dialect.beside)
        typed = known.model_type in dialect.model_types or _is_architecture(dialect, known.architecture)
        if typed:
            told.append(f"config.json calls the model {known.model_type or known.architecture}")
        elif (called := config.model_type or config.architecture) and not dialect.plain:
            told.append(f"config.json calls the model {called}, which is not known to be of {dialect.id}")
        if dialect.typed_only and not typed and not alone and (dialect.model_types or dialect.architectures):
            return []
        weight = (int(typed), int(not dialect.plain), _likelihood(sizes), len(names) + beside, -len(prefix))
        stride, padding, window, asks = _steps(dialect, sizes, known)
        if dialect.typed_only and not typed and not alone:
            asks.append(
                f"other models have these very names, and do otherwise: --from {dialect.id} says that it is {dialect.title}"
            )
        conflicts = _conflicts(checkpoint, dialect, names, sizes, config, known, alone)
        grids = _grids(dialect, names, sizes, known, stride, padding)
        if not grids and not gridless and known.source == "config.json" and known.image_size and "positions" in names:
            conflicts.append(_misfit(checkpoint, names, sizes, known, _known_grid(dialect, sizes, known, stride, padding)))
            grids = [((), (), "")]
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
                    tuple(conflicts),
                    tuple(asks),
                    entries,
                )
            )
    return found


def _likelihood(sizes: Mapping[str, int]) -> int:
    """How much a kernel's sizes look like those of patches: square ones, of few channels."""
    return 2 * int(sizes["Ph"] == sizes["Pw"]) + int(sizes["C"] in (1, 3)) - int(sizes["C"] > MOST_CHANNELS)


def _steps(dialect: Dialect, sizes: Mapping[str, int], known: Sizes) -> tuple[tuple[int, ...], tuple[int, ...], int, list[str]]:
    """Stride, padding and window: what was said, else the dialect's own, else what config.json tells; and what must be asked."""
    patch = tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes)
    asks = []
    found = {}
    for role, own, tiles in (("stride", dialect.stride, patch), ("padding", dialect.padding, (0,) * len(patch))):
        said = getattr(known, role)
        if said and known.asked and len(said) in (len(patch), 2):
            step = (*tiles[: len(patch) - len(said)], *said)
            told = numbers_at(known.table, dialect.config[role], len(patch)) if role in dialect.config else ()
            if told and tuple(told) != tuple(step):
                asks.append(f"config.json tells {role} {'×'.join(map(str, told))}, and {'×'.join(map(str, said))} was told")
        elif step := numbers_at(known.table, dialect.config[role], len(patch)) if role in dialect.config else ():
            pass
        elif own == "config" or (role == "stride" and own is None and _may_overlap(dialect, patch, known)):
            step = (*tiles[: len(patch) - len(said)], *said) if said else tiles
            if role == "stride" and not said:
                asks.append(
                    f"its kernel is {'×'.join(map(str, patch))}, and no tensor tells the stride: --stride says it, and --padding "
                    f"({'×'.join(map(str, patch))} and 0 where patches tile)"
                )
        elif own == "half":
            step = tuple(size // 2 for size in patch)
        else:
            step = tiles if own is None else (own,) * len(patch)
        found[role] = tuple(step)
    if dialect.patch_asked and not known.patch_size:
        asks.append(
            f"its kernel is a matrix, and {dialect.title} has the same names for patches of other axes: --patch-size says the patch"
        )
    window = sizes.get("Sh", dialect.window)
    if dialect.windowed:
        pixels = numbers_at(known.table, dialect.config.get("window", ("window_size",)), 1)
        window = known.window or (pixels[0] // 2 // sizes["Pw"] * 2 if pixels else 0)
        if not window:
            asks.append(
                f"{dialect.id} orders its tokens by attention windows, and no tensor tells their size: a config.json beside it would"
            )
    return found["stride"], found["padding"], window, asks


def _may_overlap(dialect: Dialect, patch: tuple[int, ...], known: Sizes) -> bool:
    """Whether a convolution's kernel is small and odd, as those of patches that overlap are (3, 7, 9), and nothing tells that it is a patch."""
    sides = patch[-2:]
    odd = all(size % 2 and size <= LARGEST_OVERLAP for size in sides) and max(sides) > 1
    told = _told_patch(dialect, known)
    return odd and "(" not in dialect.entries["kernel"].layout and not dialect.plain and tuple(told[-2:]) != sides


LARGEST_OVERLAP = 15
"""Largest odd kernel that is asked about: PVT v2, Hiera, MViT v2, CvT, DaViT, PoolFormer and SegFormer have 3 or 7, EdgeNeXt has 9; patches that tile
have even sides, but for few."""


@functools.cache
def _known_names() -> tuple[frozenset[str], frozenset[str]]:
    """What transformers calls its models, and the first words of what timm calls its."""
    content = (importlib.resources.files(__package__) / "dialects" / "known.toml").read_text(encoding="utf-8")
    table = tomllib.loads(content)
    return frozenset(table["model_types"]), frozenset(table["architectures"])


def _is_architecture(dialect: Dialect, architecture: str) -> bool:
    return bool(architecture) and any(re.fullmatch(pattern, architecture) for pattern in dialect.architectures)


def _conflicts(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
    known: Sizes,
    alone: bool,
) -> list[str]:
    """Evidence against a reading, in sentences that name both sides; of sizes that a user said `require_asked` tells."""
    if checkpoint.format == "npz":  # of no library that writes a config.json: one beside it is another file's
        return []
    found = []
    types, words = _known_names()
    file = checkpoint.config_folder / "config.json" if checkpoint.config_folder else None
    called = config.model_type
    if called and not dialect.plain and called not in dialect.model_types and called in types and not alone:
        whose = (
            f"{dialect.id} is of {', '.join(dialect.model_types)}"
            if dialect.model_types
            else f"{dialect.id} is none of transformers'"
        )
        found.append(f"{file} calls the model {called!r}, and {whose}")
    built = config.architecture
    if built and not dialect.plain and not alone and not _is_architecture(dialect, built) and _first_word(built) in words:
        found.append(f"{file} calls the architecture {built!r}, which is none of {dialect.id}")
    layout = checkpoint.metadata.get("format", "")
    if dialect.mlx and layout in ("pt", "tf", "flax"):
        found.append(f"the file's metadata say that its tensors are laid out as {layout!r} has them, not as MLX")
    if layout == "mlx" and dialect.framework == "torch" and "(" not in dialect.entries["kernel"].layout:
        found.append("the file's metadata say that its tensors are laid out as MLX has them, not as torch")
    held = [
        ("patch_size", "patch", _told_patch(dialect, config), tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes)),
        ("channels", "channels", (config.channels,) if config.channels else (), (sizes["C"],)),
    ]
    for role, word, told, own in held:
        if told and role in dialect.checked and not dialect.plain:
            axes = min(len(told), len(own))
            if tuple(told[-axes:]) != own[-axes:]:
                theirs, ours = "×".join(map(str, told)), "×".join(map(str, own))
                kernel = f"{names['kernel']} {checkpoint.tensors[names['kernel']].shape}"
                found.append(
                    f"{file} tells {word} {theirs}, and {kernel}, read as {dialect.entries['kernel'].layout}, has {ours}"
                )
    if "register_tokens" in dialect.entries and config.registers is not None and config.registers != sizes.get("R", 0):
        found.append(f"{file} tells {config.registers} register tokens, and the file holds {sizes.get('R', 0)}")
    found += [
        f"{file} says that {told}, and {dialect.id} needs {each}" for each in dialect.require if (told := _unmet(each, config))
    ]
    if config.class_token is False and "class_token" in names:
        found.append(f"{file} tells that there is no class token, and the file holds {names['class_token']}")
    return found


def _unmet(requirement: str, config: Sizes) -> str:
    """What config.json says against a requirement, in words; empty where it holds, or where the file says nothing of it."""
    left, operator, right = REQUIRED.fullmatch(requirement).groups()  # type: ignore[union-attr]  # as it was read
    if left not in config.table:
        return ""
    have = config.table[left]
    if right in config.table:
        wanted = config.table[right]
    elif right.lstrip("-").isdigit() or right.startswith("["):
        wanted = json.loads(right)
    else:
        wanted = {"true": True, "false": False}.get(right, right)
    compare = {"<": _less, "<=": lambda a, b: not _less(b, a), ">": lambda a, b: _less(b, a), ">=": lambda a, b: not _less(a, b)}
    holds = {"==": have == wanted, "!=": have != wanted}.get(operator)
    holds = compare[operator](have, wanted) if holds is None else holds
    return "" if holds else f"{left} is {json.dumps(have)}"


def _less(one: Any, other: Any) -> bool:
    """Whether one number is less than another; of anything else it is not known, and so not."""
    return isinstance(one, (int, float)) and isinstance(other, (int, float)) and one < other


def _first_word(architecture: str) -> str:
    return re.split(r"[_\d]", architecture)[0]


def _told_patch(dialect: Dialect, config: Sizes) -> tuple[int, ...]:
    if "patch_size" in dialect.config:
        keys = dialect.config["patch_size"]
        return numbers_at(config.table, keys, 3 if dialect.video and len(keys) == 3 else 2)
    return config.patch_size


def _misfit(
    checkpoint: Checkpoint, names: Mapping[str, str], sizes: Mapping[str, int], known: Sizes, grid: tuple[int, ...]
) -> str:
    image, patches = "×".join(map(str, known.image_size)), "×".join(map(str, grid)) or "no"
    table = f"{names['positions']} {checkpoint.tensors[names['positions']].shape}"
    told = f"{checkpoint.config_folder}/config.json tells images of {image}, which are {patches} patches of {sizes['Ph']}×{sizes['Pw']}"
    return f"{told}, and {table} has positions for another number (--image-size says of which images)"


def _sound(sizes: Mapping[str, int], dialect: Dialect) -> bool:
    """Whether K, where a norm tells it, is that of the patches."""
    values = sizes["C"] * sizes["Ph"] * sizes["Pw"] * sizes.get("Pt", 1)
    return sizes.get("K", values) == values


def _known_sizes(kernel: Entry, shape: tuple[int, ...], config: Sizes) -> list[tuple[dict[str, int], list[str]]]:
    """What is known of a patch that lies flattened in a matrix: from config.json, or, assumed, square and of three channels (or one)."""
    if "(" not in kernel.layout:
        return [({}, [])]
    if config.patch_size:
        *frames, height, width = config.patch_size
        told = {"Ph": height, "Pw": width} | ({"Pt": frames[0]} if frames and "Pt" in kernel.layout else {})
        return [(told, [f"the patch is known to be {height}×{width}"])]
    values = shape[1] if kernel.layout.startswith("D") else shape[0]
    found = []
    if "Pt" in kernel.layout:
        return []  # frames and sides cannot be told from their product
    for channels in (config.channels,) if config.channels else (3, 1, 4):
        side = math.isqrt(values // channels)
        if values == channels * side * side and side > 1:
            told_of = f"the patch is assumed to be square, {side}×{side} of {channels} channel{'s' if channels > 1 else ''}"
            found.append(({"Ph": side, "Pw": side, "C": channels}, [told_of]))
            if channels == 3:
                break  # no other fits: 3·s² is no square
    return found


def _grids(
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    known: Sizes,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> list[tuple[tuple[PrefixToken, ...], tuple[int, ...], str]]:
    """Grids that the position table allows, for which prefix tokens it then has rows, and what that assumes."""
    told = _known_grid(dialect, sizes, known, stride, padding)
    if "Sh" in sizes:
        sizes = {**sizes, "Gh": sizes["Wh"] * sizes["Sh"], "Gw": sizes["Ww"] * sizes["Sw"]}
    if "Gh" in sizes and "Gw" in sizes:
        grid = (sizes["Gh"], sizes["Gw"])
        grid = (sizes["Gt"], *grid) if "Gt" in sizes else grid
        if told and "image_size" in dialect.checked and told[-2:] != grid[-2:]:
            return []
        return [((), grid, "")]
    if "positions" not in names:  # an image size that is no evidence of this dialect's tells nothing of what it takes
        return [((), told if known.source != "config.json" or "image_size" in dialect.checked else (), "")]
    counts = {name: sizes.get("R", 0) if name == "register_tokens" else 1 for name in dialect.prefix if name in names}
    found: dict[int, tuple[PrefixToken, ...]] = {}
    for alternative in dialect.positioned:
        present = tuple(name for name in alternative if name in counts)
        found.setdefault(sum(counts[name] for name in present), present)
    grids = []
    for extra, present in found.items():
        patches = sizes["rows"] - extra - dialect.spare_rows - dialect.shared_rows
        if told and dialect.video and not known.frames and patches > 0 and patches % math.prod(told[1:]) == 0:
            told = (patches // math.prod(told[1:]), *told[1:])
        if told and math.prod(told) == patches:
            return [(present, told, "")]
        if told and known.source == "config.json" and "image_size" in dialect.checked:
            continue  # what is told is held against the table, not passed over
        side = math.isqrt(max(patches, 0))
        if patches > 0 and side * side == patches and not dialect.video:
            rivals = [count for other in found if other != extra and (count := sizes["rows"] - other) and _oblong(count)]
            rows = ", ".join(name.replace("_", " ") for name in present) or "no prefix token"
            assumed = f"the grid is assumed to be square, {side}×{side}, with position rows for {rows}; an image size would tell"
            grids.append((present, (side, side), assumed if rivals else ""))
        elif patches > 0 and dialect.video and (video := _video_grid(patches, sizes, known)):
            frames = f"the grid is assumed to be of {video[0]} × {video[1]}×{video[2]}; an image size with its frames would tell"
            grids.append((present, video, "" if known.frames else frames))
    return grids


MOST_PATCHES, MOST_FRAMES = 2**24, 2**12
"""Patches of an image (65536×65536 pixels in patches of 16) and steps in time of a video, beyond which no grid is looked for."""


def _oblong(count: int) -> bool:
    """Whether so many patches may be those of an image at most twice as long as it is wide."""
    return count < MOST_PATCHES and any(
        count % short == 0 for short in range(math.isqrt(max(count, 0)), math.isqrt(max(count // 2, 0)) - 1, -1) if short
    )


def _video_grid(patches: int, sizes: Mapping[str, int], known: Sizes) -> tuple[int, ...]:
    """A grid of frames and a square: of config.json's frames, or the fewest frames that leave a square."""
    counts = [known.frames // sizes["Pt"]] if known.frames else range(1, min(patches, MOST_FRAMES) + 1)
    for frames in counts:
        side = math.isqrt(patches // max(frames, 1))
        if frames * side * side == patches:
            return frames, side, side
    return ()


def _known_grid(
    dialect: Dialect, sizes: Mapping[str, int], known: Sizes, stride: tuple[int, ...], padding: tuple[int, ...]
) -> tuple[int, ...]:
    """The grid of the image size that is known."""
    image = known.image_size
    if not known.asked and "image_size" in dialect.config:
        image = numbers_at(known.table, dialect.config["image_size"], 2)
    if not image:
        return ()
    *_, height, width = image
    patch = (sizes["Ph"], sizes["Pw"])
    more = [by - 1 if dialect.remainder == "pad-end" else 0 for by in stride[-2:]]
    grid = tuple(
        (size + 2 * pad - own + up) // by + 1
        for size, pad, own, by, up in zip((height, width), padding[-2:], patch, stride[-2:], more, strict=True)
    )
    if min(grid) <= 0:
        return ()
    if dialect.video:
        frames = (known.frames or sizes["Pt"]) // sizes["Pt"]
        return (frames, *grid) if frames else ()
    return grid


def choose(checkpoint: Checkpoint, candidates: list[Candidate]) -> Candidate:
    """The candidate that a checkpoint is read as.

    Raises:
        PatchParityError: none; evidence or tensors that speak against all; several that read it differently, and what would tell them apart; something
            that nothing tells.
    """
    if not candidates:
        kernels = [f"{name} {info.shape}" for name, info in checkpoint.tensors.items() if len(info.shape) >= 4][:5]
        held = ", ".join(kernels) or f"{len(checkpoint.tensors)} tensors, none of four axes"
        raise PatchParityError(
            f"{checkpoint.path} is in no dialect that is known; it holds {held} "
            f"(--from names a dialect{plain_ones(checkpoint)}, --dialects a file of your own)"
        )
    if told := why_not(checkpoint, candidates):
        raise PatchParityError(told)
    rivals = ambiguous(candidates)
    if len(rivals) > 1:
        told = "; ".join(f"{each.label} ({each.dialect.entries['kernel'].layout})" for each in rivals)
        raise PatchParityError(f"{checkpoint.path} is ambiguous, and shapes cannot tell: {told}. {remedy(rivals)} would")
    if candidates[0].asks:
        raise PatchParityError(f"{checkpoint.path} is read as {candidates[0].label}, but {'; '.join(candidates[0].asks)}")
    return candidates[0]


def plain_ones(checkpoint: Checkpoint) -> str:
    """The dialects under any name that would read one layer of a checkpoint, as words; empty where none would."""
    plain = [each for each in list_dialects().values() if each.plain and checkpoint.format in (*each.formats, IN_MEMORY)]
    would = [f"{each.id} --prefix {own!r}" for each in plain for own in _prefixes(checkpoint, each)]
    return f": the layer alone as {' or '.join(would[:3])}" if would else ""


def why_not(checkpoint: Checkpoint, candidates: list[Candidate]) -> str:
    """Why none of the candidates can be, told of the one that comes nearest; empty where one can."""
    if not candidates or not candidates[0].refusals:
        return ""
    nearest = min(
        candidates, key=lambda each: (len(each.conflicts), len(unexplained(each.ledger)), *(-part for part in each.weight))
    )
    others = [each.dialect.id for each in candidates if each.dialect.id != nearest.dialect.id and not each.dialect.mlx]
    more = f"; nor is it {', '.join(dict.fromkeys(others))}" if others else ""
    return f"{checkpoint.path} looks like {nearest.label}, but {'; '.join(nearest.refusals)}{more}"


def remedy(rivals: list[Candidate]) -> str:
    """What would tell rivals apart."""
    named = ["--prefix"] if len({each.prefix for each in rivals}) > 1 else []
    named += ["--from with a dialect"] if len({each.dialect.id for each in rivals}) > 1 else []
    named += ["a config.json beside it"] if any(each.dialect.model_types for each in rivals) else []
    return " or ".join(named or ["a config.json with the image size"])


def ambiguous(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates that are as likely as the first, one for each reading."""
    if not candidates or candidates[0].refusals:
        return []
    # Of one prefix the reading that explains most tensors; two prefixes are two stages, however many tensors each has.
    best: dict[str, tuple[int, ...]] = {}
    for each in candidates:
        best.setdefault(each.prefix, each.weight[:-1])
    likely = [
        each
        for each in candidates
        if not each.refusals and each.weight[:-1] == best[each.prefix] and each.weight[:3] == candidates[0].weight[:3]
    ]
    return list({each.reading: each for each in reversed(likely)}.values())[::-1]


def require_grid(
    checkpoint: Checkpoint, dialects: Mapping[str, Dialect], prefix: str | None, sizes: Sizes | None, ignore: Sequence[str] = ()
) -> None:
    """Raise PatchParityError where a checkpoint that nothing reads would be read but for the number of its positions, and say so."""
    near = [each for each in find_candidates(checkpoint, dialects, prefix, sizes, True, ignore) if "positions" in each.names]
    if near and not near[0].refusals:
        rows = near[0].sizes.get("rows", 0)
        known = known_of(checkpoint, sizes)
        whose = f" ({checkpoint.config_folder}/config.json tells it)" if known.source == "config.json" else ""
        told = f"not of an image of {'×'.join(map(str, known.image_size))}{whose}" if known.image_size else "of no square grid"
        raise PatchParityError(
            f"{checkpoint.path} holds the tensors of {near[0].label}, but its {rows} positions are {told}: "
            "--image-size tells the right one, and --stride where patches overlap"
        )


def require_asked(checkpoint: Checkpoint, candidate: Candidate, sizes: Sizes | None) -> None:
    """Raise PatchParityError where a user told a size that the checkpoint does not have."""
    if sizes is None or not sizes.asked:
        return
    own, axes = candidate.sizes, 3 if sizes.frames else 2
    if sizes.frames and not candidate.dialect.video:
        raise PatchParityError(f"{checkpoint.path} is of images, and a size with {sizes.frames} frames was told")
    grid = _known_grid(candidate.dialect, own, sizes, candidate.stride, candidate.padding)
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
        if asked and have and tuple(have) != tuple(asked):
            told = f" (of {'×'.join(map(str, sizes.image_size))} pixels)" if name == "grid" else ""
            raise PatchParityError(
                f"{checkpoint.path} has {name} {'×'.join(map(str, have))}, and {'×'.join(map(str, asked))}{told} was told"
            )
