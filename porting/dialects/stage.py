"""Reading the embedding stage of a checkpoint, and telling of it."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...backends.base import DTYPES
from ...reference.errors import PatchParityError
from ...reference.resample import resize_grid
from ...reference.sequence import embed_sequence, sincos_positions
from ...reference.spec import PatchEmbedSpec
from ...reference.stem import StemLayer, apply_stem, fold_batch_norm, image_of
from ...reference.weights import LayerNorm, PatchEmbedWeights, SequenceLayout
from ..files.checkpoint import Checkpoint
from ..files.tree import IN_MEMORY
from .choosing import (
    QUANTIZED,
    ambiguous,
    choose,
    plain_ones,
    remedy,
    require_asked,
    require_grid,
    require_no_other_stage,
    why_not,
)
from .dialect import BATCH_NORM, Dialect, StemStep, get_dialect, list_dialects, to_canonical
from .evidence import known_of
from .grids import channels_of
from .recognize import Candidate, find_candidates
from .sizes import Sizes
from .wrappers import UnwrappedCheckpoint, require_no_adapter, unwrapped

NORMS = ("patch_norm", "token_norm", "sequence_norm")
"""Fields of PatchEmbedWeights that are layer norms."""


LARGEST_IMAGE = 2**25
"""Values of one image or video that a grid may mean: a picture of 3344×3344 in three channels, ten
times one of 1024×1024, seven videos of 32×224×224. A proof makes two of them in float64, 512 MB; a
table of positions that claims more would take many times its own size."""


@dataclass(frozen=True)
class Stage:
    """The embedding stage of a checkpoint.

    Args:
        candidate: how it was read.
        weights: canonical.
        spec: the sizes.
        size_known: whether something tells the image size; else the spec has a small one, and there
            are no positions.
        dtype: of the kernel.
        stem: convolutions in front of the projection: `spec` is of the map of features that they
            make.
        notes: what else is to be told of it, in sentences.
        real_names: under which names its tensors are in the file, by the names without wrappers;
            empty where they have none.
    """

    candidate: Candidate
    weights: PatchEmbedWeights
    spec: PatchEmbedSpec
    size_known: bool
    dtype: str
    stem: tuple[StemLayer, ...] = ()
    notes: tuple[str, ...] = ()
    real_names: Mapping[str, str] = field(default_factory=dict)

    def real_name(self, name: str) -> str:
        """Under which name a tensor is in the file."""
        return self.real_names.get(name, name)

    @property
    def dialect(self) -> Dialect:
        """Its dialect."""
        return self.candidate.dialect

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return channels_of(self.candidate.sizes)

    @property
    def sizes(self) -> Sizes:
        """What it tells of another checkpoint of the same stage."""
        if self.stem:
            return Sizes(image_size=image_of(self.spec.image_size, self.stem))
        return Sizes.of(self.spec, self.weights.layout.window)

    def sequence(self, images: NDArray[Any], spec: PatchEmbedSpec) -> NDArray[np.float64]:
        """What enters the encoder, `(B, prefix + N, D)`, of images of whose map `spec` is."""
        features = apply_stem(images.astype(np.float64), self.stem)
        return np.asarray(embed_sequence(features, self.weights.astype(np.float64), spec))


def read_stage(
    checkpoint: Checkpoint,
    dialect: str | None = None,
    prefix: str | None = None,
    dialects: Mapping[str, Dialect] | None = None,
    sizes: Sizes | None = None,
    ignore: Sequence[str] = (),
) -> Stage:
    """Read the embedding stage of a checkpoint; only its tensors are read.

    Args:
        checkpoint: an open one.
        dialect: id, where it is known; None to find out.
        prefix: what stands before all names, where several stages are there.
        dialects: those to try; None for all.
        sizes: what is known of the sizes.
        ignore: names, or patterns of the shell's kind, of tensors that play no part although
            nothing explains them.

    Raises:
        PatchParityError: a checkpoint without one, an ambiguous one, one with a tensor that nothing
            explains or evidence that contradicts its tensors, tensors that are damaged or hold NaN.
    """
    checkpoint = unwrapped(checkpoint)
    known = list_dialects() if dialects is None else dialects
    chosen = {dialect: get_dialect(dialect, known)} if dialect else known
    candidates = find_candidates(checkpoint, chosen, prefix, sizes, ignore=ignore)
    if not candidates or candidates[0].refusals:
        require_grid(checkpoint, chosen, prefix, sizes, ignore)
    if (
        prefix is not None
        and not candidates
        and find_candidates(checkpoint, chosen, None, sizes, gridless=True)
    ):
        others = ", ".join(
            dict.fromkeys(
                repr(each.prefix)
                for each in find_candidates(checkpoint, chosen, None, sizes, gridless=True)
            )
        )
        raise PatchParityError(
            f"{checkpoint.path} holds no embedding stage under the prefix {prefix!r}; there is one "
            f"under {others}"
        )
    if dialect and not candidates:
        wanted = chosen[dialect]
        if checkpoint.format not in (*wanted.formats, IN_MEMORY):
            raise PatchParityError(
                f"{checkpoint.path} is a {checkpoint.format} file, and {dialect} is kept in "
                f"{', '.join(wanted.formats)}"
            )
        names = ", ".join(
            f"{entry.name} ({entry.layout})"
            for name, entry in wanted.entries.items()
            if name in wanted.required
        )
        raise PatchParityError(
            f"{checkpoint.path} does not hold {dialect}: expected {names}, with shapes that fit "
            "together"
        )
    if candidates:
        require_no_adapter(checkpoint, candidates[0].names)
    chosen_one = choose(checkpoint, candidates)
    if prefix is None:
        require_no_other_stage(checkpoint, chosen, chosen_one, sizes, ignore)
    require_asked(checkpoint, chosen_one, sizes)
    return _read(checkpoint, chosen_one)


def _read(checkpoint: Checkpoint, candidate: Candidate) -> Stage:
    dialect, sizes = candidate.dialect, candidate.sizes
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in candidate.names.items():
        array = checkpoint.read(tensor)
        if array.dtype.name not in DTYPES and (
            name != "position_ids" or array.dtype.kind not in "iu"
        ):
            kind = (
                "quantized: dequantize it first"
                if array.dtype.name in QUANTIZED
                else "no type of weights"
            )
            raise PatchParityError(
                f"{checkpoint.path}: {tensor} is of dtype {array.dtype.name}, {kind}"
            )
        if not np.isfinite(array).all():
            raise PatchParityError(f"{checkpoint.path}: {tensor} holds NaN or infinite values")
        arrays[name] = to_canonical(
            array, dialect.entries[name], {} if name.startswith("stem.") else sizes
        )
    stem = tuple(
        _stem_layer(arrays, place, step, dialect.batch_norm_epsilon)
        for place, step in enumerate(dialect.stem)
    )
    if dialect.batch_norm:
        held = [arrays.pop(f"batch_norm.{part}") for part in BATCH_NORM]
        dtype = _wide(arrays["kernel"].dtype)
        kernel, bias = fold_batch_norm(
            arrays["kernel"], arrays.get("bias"), held, dialect.batch_norm_epsilon
        )
        arrays.update(kernel=kernel.astype(dtype), bias=bias.astype(dtype))
    patch = (sizes["Pt"], sizes["Ph"], sizes["Pw"]) if dialect.video else (sizes["Ph"], sizes["Pw"])
    step, pads = candidate.stride, candidate.padding
    grid = candidate.grid or ((1, 2, 3) if dialect.video else (2, 3))
    if dialect.token_order == "merge-2x2":
        grid = candidate.grid or ((1, 2, 4) if dialect.video else (2, 4))
    image = tuple(
        max((count - 1) * by + size - 2 * pad, 1)
        for count, by, size, pad in zip(grid, step, patch, pads, strict=True)
    )
    spec = PatchEmbedSpec(image, patch, sizes["C"], sizes["D"], step, pads, dialect.remainder)  # type: ignore[arg-type]
    config = known_of(checkpoint, None)
    if (values := math.prod(spec.images_shape(1))) > LARGEST_IMAGE:
        raise PatchParityError(
            f"{checkpoint.path} has positions for a grid of {'×'.join(map(str, grid))}: images of "
            f"{values} values, expected at most {LARGEST_IMAGE}"
        )
    layout = SequenceLayout(
        dialect.prefix,
        dialect.prefix_side,
        candidate.positioned,
        dialect.token_order,
        (config.norm_epsilon if dialect.epsilon_of_config else None) or dialect.norm_epsilon,
        candidate.window,
        dialect.suffix,
    )
    norms = {}
    for norm in NORMS:
        if f"{norm}.scale" in arrays:
            norms[norm] = LayerNorm(
                arrays.pop(f"{norm}.scale"),
                arrays.pop(f"{norm}.shift", None),
                norm not in dialect.rms,
            )
    if "position_ids" in arrays:
        ids, count = arrays.pop("position_ids"), len(arrays["positions"])
        if not (ids.min() >= 0 and ids.max() < count):
            raise PatchParityError(
                f"{checkpoint.path}: {candidate.names['position_ids']} names rows beyond the "
                f"{count} of the positions"
            )
        arrays["positions"] = arrays["positions"][ids.astype(np.int64)]
    if "positions" in arrays and dialect.spare_rows:
        arrays["positions"] = arrays["positions"][dialect.spare_rows :]
    if "positions" in arrays and dialect.spare_last:
        arrays["positions"] = arrays["positions"][: -dialect.spare_last]
    if "positions" in arrays and (shared := dialect.shared_rows):
        table = arrays["positions"].astype(np.float64)
        arrays["positions"] = (table[shared:] + table[:shared].sum(axis=0)).astype(
            _wide(arrays["positions"].dtype)
        )
    if dialect.resize and "positions" in arrays:
        window = arrays.pop("position_window", None)
        arrays["positions"] = _resized(arrays["positions"], window, grid, sizes, dialect)
    if "class_position" in arrays:
        token = arrays["class_token"]
        summed = token.astype(np.float64) + arrays.pop("class_position").astype(np.float64)
        arrays["class_token"] = summed.astype(_wide(token.dtype))
    if "position_rows" in arrays:
        rows, columns = (
            arrays.pop(name).astype(np.float64) for name in ("position_rows", "position_columns")
        )
        summed = (rows[:, None] + columns[None]).reshape(-1, rows.shape[-1])
        arrays["positions"] = summed.astype(_wide(arrays["kernel"].dtype))
    if "position_tables" in arrays:
        of_columns, of_rows = arrays.pop("position_tables").astype(np.float64)
        summed = (of_rows[: grid[-2], None] + of_columns[None, : grid[-1]]).reshape(
            -1, of_rows.shape[-1]
        )
        arrays["positions"] = summed.astype(_wide(arrays["kernel"].dtype))
    if dialect.pixels:
        _fold_pixels(arrays, **dialect.pixels)
    if "pixel_std" in arrays:
        std = arrays.pop("pixel_std")
        if not (std > 0).all():
            raise PatchParityError(
                f"{checkpoint.path}: {candidate.names['pixel_std']} holds {std.min():g}, by which "
                "pixels would be divided"
            )
        _fold_pixels(arrays, arrays.pop("pixel_mean", np.zeros_like(std)), std)
    if "register_tokens" in arrays and not len(arrays["register_tokens"]):
        del arrays["register_tokens"]  # a table of no rows: there are none
    if dialect.computed == "fourier":
        projection, bias = arrays.pop("position_projection"), arrays.pop("position_projection_bias")
        if candidate.grid:
            table = fourier_table(spec.grid, projection.shape[1]) @ projection.astype(
                np.float64
            ).T + bias.astype(np.float64)
            arrays["positions"] = table.astype(_wide(projection.dtype))
    elif dialect.computed and candidate.grid:
        arrays["positions"] = computed_positions(dialect.computed, spec).astype(
            arrays["kernel"].dtype
        )
    fields: dict[str, Any] = {**arrays, **norms}
    weights = PatchEmbedWeights(**fields, layout=layout)
    weights.check_spec(spec)
    real = checkpoint.names if isinstance(checkpoint, UnwrappedCheckpoint) else {}
    return Stage(
        candidate,
        weights,
        spec,
        bool(candidate.grid),
        arrays["kernel"].dtype.name,
        stem,
        _notes(checkpoint, candidate),
        real,
    )


def _notes(checkpoint: Checkpoint, candidate: Candidate) -> tuple[str, ...]:
    """Where a copy of a field holds other values than the field."""
    found = []
    for entry in candidate.ledger:
        own = candidate.names.get(entry.role, "") if entry.status == "copy" else ""
        if not own or checkpoint.tensors[own].shape != entry.shape:
            continue
        if not np.array_equal(checkpoint.read(own), checkpoint.read(entry.name)):
            found.append(
                f"{entry.name} holds other {entry.role} than {own}, and its library takes those of "
                f"{own} when it loads the file"
            )
    return tuple(found)


def _stem_layer(
    arrays: dict[str, NDArray[Any]], place: int, step: StemStep, epsilon: float
) -> StemLayer:
    """One layer of the stem, out of the arrays that were read."""
    kernel, bias = arrays.pop(f"stem.{place}.kernel"), arrays.pop(f"stem.{place}.bias", None)
    if step.norm:
        held = [arrays.pop(f"stem.{place}.{part}") for part in BATCH_NORM]
        kernel, bias = fold_batch_norm(kernel, bias, held, epsilon)
    return StemLayer(kernel, bias, step.stride, step.padding, step.activation)


def require_no_stem(checkpoint: Checkpoint, stage: Stage) -> None:
    """Raise PatchParityError for a stage with a stem, where the projection alone would be moved."""
    if stage.stem:
        kernel = stage.candidate.names["kernel"].removesuffix("weight")
        raise PatchParityError(
            f"{checkpoint.path} is {stage.candidate.label}, with {len(stage.stem)} convolutions in "
            "front of its projection: these are read "
            f"(inspect, embed, verify), and not moved (--from oihw --prefix '{kernel}' moves the "
            "projection alone)"
        )


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which something is kept that is computed of weights: a rounding to 16 bits more
    would be none of the library's."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def _resized(
    table: NDArray[Any],
    window: NDArray[Any] | None,
    grid: tuple[int, ...],
    sizes: Mapping[str, int],
    dialect: Dialect,
) -> NDArray[Any]:
    """A table of positions, `(rows, D)`, brought to the grid of the image as the library does it at
    run time, and those of a window repeated on it."""
    side = math.isqrt(len(table))
    own = (sizes["Gh"], sizes["Gw"]) if "Gh" in sizes else (side, side)
    height, width = grid[-2:]
    longer = max(height, width)
    to = {"grid": (height, width), "square": (longer, longer), "swapped": (width, height)}[
        dialect.resize_to
    ]
    found = resize_grid(table.reshape(*own, -1), to, dialect.resize)
    if dialect.resize_to == "square":
        found = found[:height, :width]
    if window is not None:
        found = found + np.tile(
            window.astype(np.float64), (height // len(window), width // window.shape[1], 1)
        )
    frames = math.prod(grid[:-2])
    return np.tile(found.reshape(height * width, -1), (frames, 1)).astype(_wide(table.dtype))


def _fold_pixels(arrays: dict[str, NDArray[Any]], mean: ArrayLike, std: ArrayLike) -> None:
    """Put the normalization of images into kernel and bias: W·(x - m)/s + b is (W/s)·x + (b - Σ
    W·m/s)."""
    # the channels are the last axis
    kernel = arrays["kernel"].astype(np.float64) / np.asarray(std, np.float64)
    shift = (kernel * np.asarray(mean, np.float64)).reshape(len(kernel), -1).sum(axis=1)
    dtype = _wide(arrays["kernel"].dtype)
    bias = arrays["bias"].astype(np.float64) if "bias" in arrays else 0.0
    arrays.update(kernel=kernel.astype(dtype), bias=(bias - shift).astype(dtype))


def computed_positions(kind: str, spec: PatchEmbedSpec) -> NDArray[np.float64]:
    """The positions that a library computes, `(N, D)`; the kinds are those of `Dialect.computed`.

    Raises:
        PatchParityError: a width or a grid that it is not defined for.
    """
    if kind == "sincos-2d":
        return sincos_positions(spec.grid, spec.embed_dim, last_frequency=True)
    return sinusoid_table(spec.num_patches, spec.embed_dim)


def fourier_table(grid: tuple[int, ...], width: int) -> NDArray[np.float64]:
    """What XCiT's layer of positions is applied to, `(rows·columns, width)`: sines and cosines of
    the row, then of the column, each as a share of a circle.

    Source: El-Nouby et al., "XCiT" (2021), `PositionalEncodingFourier` of xcit.py.
    """
    half = width // 2
    frequencies = 10000.0 ** (-2 * (np.arange(half) // 2) / half)

    def encode(count: int) -> NDArray[np.float64]:
        angles = np.arange(1, count + 1)[:, None] / (count + 1e-6) * 2 * np.pi * frequencies
        return np.where(np.arange(half) % 2, np.cos(angles), np.sin(angles))

    rows, columns = (encode(count) for count in grid)
    shape = (*grid, half)
    both = [np.broadcast_to(rows[:, None], shape), np.broadcast_to(columns[None], shape)]
    return np.concatenate(both, axis=-1).reshape(-1, width)


def sinusoid_table(count: int, width: int) -> NDArray[np.float64]:
    """The fixed positions of VideoMAE, `(count, width)`: sines on even channels, cosines on odd
    ones.

    Source: Tong et al., "VideoMAE" (2022), `modeling_finetune.py:get_sinusoid_encoding_table`; as
    in Vaswani et al. (2017).
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
            {"dialect": each.dialect.id, "prefix": each.prefix, "evidence": list(each.evidence)}
            for each in candidates
        ],
        "ambiguous": len(rivals) > 1,
        "rivals": [each.label for each in rivals] if len(rivals) > 1 else [],
        "remedy": remedy(rivals)
        if len(rivals) > 1
        else ""
        if candidates
        else plain_ones(checkpoint).removeprefix(": "),
        "refused": why_not(checkpoint, candidates),
        "asks": list(candidates[0].asks) if len(rivals) == 1 else [],
        "ledger": ledger_told(candidates),
        "unbuilt": list(checkpoint.unbuilt),
        "spec": None,
        "tensors": {},
        "other_tensors": len(checkpoint.tensors) - len(used),
    }
    if len(rivals) == 1:
        chosen = candidates[0]
        sizes = chosen.sizes
        told["spec"] = {
            "patch_size": [sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes],
            "in_channels": channels_of(sizes),
            "embed_dim": sizes["D"],
            "grid": [] if chosen.asks else list(chosen.grid),
            "num_patches": math.prod(chosen.grid) if chosen.grid and not chosen.asks else None,
            "prefix_tokens": [name for name in chosen.dialect.prefix if name in chosen.names],
            "registers": sizes.get("R", sizes.get("J", 0) * sizes.get("Jk", 0)),
            "positioned": list(chosen.positioned),
            "positions": "computed"
            if chosen.dialect.computed
            else "learned"
            if _has_positions(chosen)
            else None,
            "positions_resized": chosen.dialect.resize or None,
            "token_order": chosen.dialect.token_order,
            "window": chosen.window,
            "stride": []
            if chosen.asks and not chosen.window and not chosen.dialect.windowed
            else list(chosen.stride),
            "padding": list(chosen.padding),
            "bias": "bias" in chosen.names,
            "stem": [
                {
                    "kernel": list(checkpoint.tensors[chosen.names[f"stem.{place}.kernel"]].shape),
                    "stride": step.stride,
                    "padding": step.padding,
                    "batch_norm": bool(step.norm),
                    "activation": step.activation,
                }
                for place, step in enumerate(chosen.dialect.stem)
            ],
        }
        told["tensors"] = {
            name: {
                "name": tensor,
                "shape": list(info.shape),
                "dtype": info.dtype,
                "layout": chosen.dialect.entries[name].layout,
            }
            for name, tensor in chosen.names.items()
            for info in [checkpoint.tensors[tensor]]
        }
        told["missing"] = [name for name in chosen.dialect.entries if name not in chosen.names]
    return told


def _has_positions(candidate: Candidate) -> bool:
    return any(
        name in candidate.names
        for name in ("positions", "position_rows", "position_tables", "position_projection")
    )


def ledger_told(candidates: list[Candidate]) -> dict[str, Any]:
    """The ledger of the likeliest candidate, as plain data: how many tensors are elsewhere, and
    each of the others."""
    if not candidates:
        return {}
    entries = min(candidates, key=lambda each: len(each.refusals)).ledger
    counts = Counter(entry.status for entry in entries)
    told = [
        dataclasses.asdict(entry)
        for entry in entries
        if entry.status not in ("elsewhere", "outside")
    ]
    return {"dialect": candidates[0].dialect.id, "counts": dict(counts), "tensors": told}


def without(weights: PatchEmbedWeights, *names: str) -> PatchEmbedWeights:
    """The same weights without some fields."""
    return dataclasses.replace(weights, **dict.fromkeys(names, None))  # type: ignore[arg-type]
