"""Finding and reading the embedding stage of a checkpoint: which dialects it may be in, which one it is, and what it holds."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import LayerNorm, PatchEmbedWeights, PrefixToken, SequenceLayout
from ..base import DTYPES
from .checkpoints import Checkpoint
from .dialects import Dialect, Entry, get_dialect, list_dialects, to_canonical
from .trees import IN_MEMORY

NORMS = ("patch_norm", "token_norm", "sequence_norm")
"""Fields of PatchEmbedWeights that are layer norms."""

MOST_CHANNELS = 16
"""Channels above which an axis is hardly one of channels: satellite images have 13."""

LARGEST_CONFIG = 2**20


@dataclass(frozen=True)
class Config:
    """What a `config.json` beside a checkpoint tells of the embedding stage, as far as it does; or a user, whom no file may contradict (`asked`)."""

    model_type: str = ""
    image_size: tuple[int, ...] = ()
    patch_size: tuple[int, ...] = ()
    channels: int | None = None
    frames: int | None = None
    norm_epsilon: float | None = None
    asked: bool = False

    def over(self, other: "Config") -> "Config":
        """This, and the other where this tells nothing."""
        return Config(*(own or theirs for own, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def told(
        cls, patch_size: int | Sequence[int] | None, image_size: int | Sequence[int] | None, in_channels: int | None
    ) -> "Config":
        """What a user tells: sizes of the axes, with the frames of a video in front, or one for height and width.

        Raises:
            PatchParityError: a size that is no positive integer, nor two or three of these.
        """
        sizes = {}
        for option, value in (("patch_size", patch_size), ("image_size", image_size)):
            parts = () if value is None else (value, value) if isinstance(value, int) else tuple(value)
            if value is not None and (len(parts) not in (2, 3) or not all(isinstance(part, int) and part > 0 for part in parts)):
                raise PatchParityError(f"{option}={value!r}: expected a positive integer, or one for each axis")
            sizes[option] = parts
        if in_channels is not None and not (isinstance(in_channels, int) and in_channels > 0):
            raise PatchParityError(f"in_channels={in_channels!r}: expected a positive integer")
        image = sizes["image_size"]
        frames = image[0] if len(image) == 3 else None
        return cls("", image[-2:], sizes["patch_size"][-2:], in_channels, frames, asked=True)

    @classmethod
    def of(cls, spec: PatchEmbedSpec) -> "Config":
        """The sizes of a spec."""
        frames = spec.image_size[0] if spec.spatial_axes == 3 else None
        return cls("", spec.image_size[-2:], spec.patch_size[-2:], spec.in_channels, frames)


def read_config(folder: Path | None) -> Config:
    """Read `config.json` in the folder of a checkpoint; what is missing or damaged there tells nothing."""
    if folder is None:
        return Config()
    file = folder / "config.json"
    try:
        if file.stat().st_size > LARGEST_CONFIG:
            return Config()
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return Config()
    if not isinstance(told, dict):
        return Config()
    inner = told.get("vision_config") if isinstance(told.get("vision_config"), dict) else told
    assert isinstance(inner, dict)
    size = inner.get("image_size", inner.get("img_size"))
    if size is None and isinstance(told.get("pretrained_cfg"), dict):
        shape = told["pretrained_cfg"].get("input_size")
        size = shape[1:] if isinstance(shape, list) else None
    return Config(
        str(inner.get("model_type", told.get("model_type", ""))),
        _pair(size),
        _pair(inner.get("patch_size", inner.get("spatial_patch_size"))),
        _whole(inner.get("num_channels", inner.get("in_channels"))),
        _whole(inner.get("num_frames")),
        epsilon if isinstance(epsilon := inner.get("layer_norm_eps"), float) and 0 < epsilon < 1 else None,
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _pair(value: Any) -> tuple[int, ...]:
    parts = value if isinstance(value, list) else [value, value]
    return tuple(parts) if len(parts) in (2, 3) and all(map(_whole, parts)) else ()


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
    checkpoint: Checkpoint, dialects: Mapping[str, Dialect] | None = None, prefix: str | None = None, sizes: Config | None = None
) -> list[Candidate]:
    """All ways to read a checkpoint, the likeliest first.

    Args:
        checkpoint: an open one.
        dialects: those to try; None for all.
        prefix: what stands before all names; None for whatever is found.
        sizes: what is known of the sizes; it goes before what config.json tells.
    """
    config = read_config(checkpoint.config_folder) if sizes is None else sizes.over(read_config(checkpoint.config_folder))
    found = []
    known = list_dialects() if dialects is None else dialects
    for dialect in known.values():
        if checkpoint.format not in (*dialect.formats, IN_MEMORY):
            continue
        for own in _prefixes(checkpoint, dialect):
            if prefix is None or own == prefix:
                found += _candidates(checkpoint, dialect, own, config, alone=len(known) == 1)
    found.sort(key=lambda each: each.weight, reverse=True)
    # Beside a library's own names a matrix under any other tells nothing.
    return [each for each in found if not each.dialect.plain] or found


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


def _candidates(checkpoint: Checkpoint, dialect: Dialect, prefix: str, config: Config, alone: bool) -> list[Candidate]:
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
        for positioned, grid, assumed in _grids(dialect, names, sizes, config):
            evidence_of_grid = (*told, *([assumed] if assumed else []))
            found.append(Candidate(dialect, prefix, names, sizes, positioned, grid, evidence_of_grid, assumed, weight))
    return found


def _sound(sizes: Mapping[str, int], dialect: Dialect) -> bool:
    """Whether K, where a norm tells it, is that of the patches."""
    values = sizes["C"] * sizes["Ph"] * sizes["Pw"] * sizes.get("Pt", 1)
    return sizes.get("K", values) == values


def _known_sizes(kernel: Entry, shape: tuple[int, ...], config: Config) -> list[tuple[dict[str, int], list[str]]]:
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
    dialect: Dialect, names: Mapping[str, str], sizes: Mapping[str, int], config: Config
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


def _video_grid(patches: int, sizes: Mapping[str, int], config: Config) -> tuple[int, ...]:
    """A grid of frames and a square: of config.json's frames, or the fewest frames that leave a square."""
    counts = [config.frames // sizes["Pt"]] if config.frames else range(1, patches + 1)
    for frames in counts:
        side = math.isqrt(patches // max(frames, 1))
        if frames * side * side == patches:
            return frames, side, side
    return ()


def _config_grid(dialect: Dialect, sizes: Mapping[str, int], config: Config) -> tuple[int, ...]:
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


@dataclass(frozen=True)
class Stage:
    """The embedding stage of a checkpoint.

    Args:
        candidate: how it was read.
        weights: canonical.
        spec: the sizes.
        size_known: whether something tells the image size; else the spec has a small one, and there are no positions.
        dtype: of the kernel.
    """

    candidate: Candidate
    weights: PatchEmbedWeights
    spec: PatchEmbedSpec
    size_known: bool
    dtype: str

    @property
    def dialect(self) -> Dialect:
        """Its dialect."""
        return self.candidate.dialect


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


def read_stage(
    checkpoint: Checkpoint,
    dialect: str | None = None,
    prefix: str | None = None,
    dialects: Mapping[str, Dialect] | None = None,
    sizes: Config | None = None,
) -> Stage:
    """Read the embedding stage of a checkpoint; only its tensors are read.

    Args:
        checkpoint: an open one.
        dialect: id, where it is known; None to find out.
        prefix: what stands before all names, where several stages are there.
        dialects: those to try; None for all.
        sizes: what is known of the sizes.

    Raises:
        PatchParityError: a checkpoint without one, an ambiguous one, tensors that are damaged or hold NaN.
    """
    known = list_dialects() if dialects is None else dialects
    chosen = {dialect: get_dialect(dialect, known)} if dialect else known
    candidates = find_candidates(checkpoint, chosen, prefix, sizes)
    if dialect and not candidates:
        wanted = chosen[dialect]
        if checkpoint.format not in (*wanted.formats, IN_MEMORY):
            raise PatchParityError(
                f"{checkpoint.path} is a {checkpoint.format} file, and {dialect} is kept in {', '.join(wanted.formats)}"
            )
        names = ", ".join(f"{entry.name} ({entry.layout})" for name, entry in wanted.entries.items() if name in wanted.required)
        raise PatchParityError(f"{checkpoint.path} does not hold {dialect}: expected {names}, with shapes that fit together")
    chosen_one = choose(checkpoint, candidates)
    require_asked(checkpoint, chosen_one, sizes)
    return _read(checkpoint, chosen_one)


def require_asked(checkpoint: Checkpoint, candidate: Candidate, sizes: Config | None) -> None:
    """Raise PatchParityError where a user told a size that the checkpoint does not have."""
    if sizes is None or not sizes.asked:
        return
    own = candidate.sizes
    pairs = [
        ("patch", (own["Ph"], own["Pw"]), sizes.patch_size),
        ("channels", (own["C"],), (sizes.channels,) if sizes.channels else ()),
        ("grid", candidate.grid[-2:], _config_grid(candidate.dialect, own, sizes)[-2:]),
    ]
    for name, have, asked in pairs:
        if asked and have and have != asked:
            told = f" (of {'×'.join(map(str, sizes.image_size))} pixels)" if name == "grid" else ""
            raise PatchParityError(
                f"{checkpoint.path} has {name} {'×'.join(map(str, have))}, and {'×'.join(map(str, asked))}{told} was told"
            )


def _read(checkpoint: Checkpoint, candidate: Candidate) -> Stage:
    dialect, sizes = candidate.dialect, candidate.sizes
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in candidate.names.items():
        array = checkpoint.read(tensor)
        if array.dtype.name not in DTYPES:
            raise PatchParityError(f"{checkpoint.path}: {tensor} is of dtype {array.dtype.name}, no type of weights")
        if not np.isfinite(array).all():
            raise PatchParityError(f"{checkpoint.path}: {tensor} holds NaN or infinite values")
        arrays[name] = to_canonical(array, dialect.entries[name], sizes)
    patch = (sizes["Pt"], sizes["Ph"], sizes["Pw"]) if dialect.video else (sizes["Ph"], sizes["Pw"])
    step = patch if dialect.stride is None else (dialect.stride,) * len(patch)
    grid = candidate.grid or ((1, 2, 3) if dialect.video else (2, 3))
    if dialect.token_order == "merge-2x2":
        grid = candidate.grid or ((1, 2, 4) if dialect.video else (2, 4))
    image = tuple((count - 1) * by + size - 2 * dialect.padding for count, by, size in zip(grid, step, patch, strict=True))
    spec = PatchEmbedSpec(image, patch, sizes["C"], sizes["D"], step, dialect.padding, dialect.remainder)  # type: ignore[arg-type]
    config = read_config(checkpoint.config_folder)
    layout = SequenceLayout(
        dialect.prefix,
        dialect.prefix_side,
        candidate.positioned,
        dialect.token_order,
        (config.norm_epsilon if dialect.epsilon_of_config else None) or dialect.norm_epsilon,
    )
    norms = {}
    for norm in NORMS:
        if f"{norm}.scale" in arrays:
            norms[norm] = LayerNorm(arrays.pop(f"{norm}.scale"), arrays.pop(f"{norm}.shift"))
    if dialect.computed and candidate.grid:
        arrays["positions"] = sinusoid_table(spec.num_patches, spec.embed_dim).astype(arrays["kernel"].dtype)
    weights = PatchEmbedWeights(**arrays, **norms, layout=layout)
    weights.check_spec(spec)
    return Stage(candidate, weights, spec, bool(candidate.grid), arrays["kernel"].dtype.name)


def sinusoid_table(count: int, width: int) -> NDArray[np.float64]:
    """The fixed positions of VideoMAE, `(count, width)`: sines on even channels, cosines on odd ones.

    Source: Tong et al., "VideoMAE" (2022), `modeling_finetune.py:get_sinusoid_encoding_table`; as in Vaswani et al. (2017).
    """
    channels = np.arange(width)
    angles = np.arange(count)[:, None] / 10000.0 ** (2 * (channels // 2) / width)
    return np.where(channels % 2, np.cos(angles), np.sin(angles))


def describe(checkpoint: Checkpoint, candidates: list[Candidate]) -> dict[str, Any]:
    """What `inspect` tells of a checkpoint, as plain data."""
    rivals = ambiguous(candidates)
    used = set(candidates[0].names.values()) if candidates else set()
    told: dict[str, Any] = {
        "schema": "patchparity.inspect/1",
        "file": checkpoint.path.name,
        "format": checkpoint.format,
        "dialect": candidates[0].dialect.id if len(rivals) == 1 else None,
        "prefix": candidates[0].prefix if len(rivals) == 1 else None,
        "candidates": [
            {"dialect": each.dialect.id, "prefix": each.prefix, "evidence": list(each.evidence)} for each in candidates
        ],
        "ambiguous": len(rivals) > 1,
        "rivals": [each.label for each in rivals] if len(rivals) > 1 else [],
        "remedy": remedy(rivals) if len(rivals) > 1 else "",
        "spec": None,
        "tensors": {},
        "other_tensors": len(checkpoint.tensors) - len(used),
    }
    if len(rivals) == 1:
        chosen = candidates[0]
        sizes = chosen.sizes
        told["spec"] = {
            "patch_size": [sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes],
            "in_channels": sizes["C"],
            "embed_dim": sizes["D"],
            "grid": list(chosen.grid),
            "num_patches": math.prod(chosen.grid) if chosen.grid else None,
            "prefix_tokens": [name for name in chosen.dialect.prefix if name in chosen.names],
            "registers": sizes.get("R", 0),
            "positioned": list(chosen.positioned),
            "positions": "computed" if chosen.dialect.computed else "learned" if "positions" in chosen.names else None,
            "token_order": chosen.dialect.token_order,
            "bias": "bias" in chosen.names,
        }
        told["tensors"] = {
            name: {"name": tensor, "shape": list(info.shape), "dtype": info.dtype, "layout": chosen.dialect.entries[name].layout}
            for name, tensor in chosen.names.items()
            for info in [checkpoint.tensors[tensor]]
        }
        told["missing"] = [name for name in chosen.dialect.entries if name not in chosen.names]
    return told


def without(weights: PatchEmbedWeights, *names: str) -> PatchEmbedWeights:
    """The same weights without some fields."""
    return dataclasses.replace(weights, **dict.fromkeys(names, None))  # type: ignore[arg-type]
