"""`inspect_checkpoint`, `port`, `verify` and `embed`: the embedding stage of any checkpoint, told, moved, compared, run; and every move proved."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.diagnosis import diagnose
from ...reference.embed import patch_embed
from ...reference.error import ArithmeticModel
from ...reference.errors import PatchParityError, require_choice
from ...reference.probes import random_normal
from ...reference.sequence import embed_sequence
from ...reference.spec import PatchEmbedSpec
from ...reference.verdict import judge
from ...reference.weights import PatchEmbedWeights
from ..base import DTYPES
from .checkpoints import opened
from .dialects import Dialect, get_dialect, list_dialects
from .proof import installed, run
from .stages import NORMS, Config, Stage, describe, find_candidates, read_stage, without
from .transcribe import arrays_of, cast, fit, losses_in_words, same_bits, steps_in_words, tensors_of, underflown
from .writing import format_of, replace_tensors, write_checkpoint


def _dialects(files: Iterable[str | os.PathLike[str]]) -> dict[str, Dialect]:
    return list_dialects([Path(file) for file in files])


def inspect_checkpoint(
    path: str | os.PathLike[str],
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Config | None = None,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Tell which dialect a checkpoint is in and why, what its embedding stage holds, what is missing and what is ambiguous.

    Args:
        path: the file, an index of shards, or a folder.
        from_: the dialect, where it is known.
        prefix: what stands before all names, where several stages are there.
        sizes: what is known of its sizes and no `config.json` tells.
        dialects: TOML files with dialects of your own.

    Returns:
        Plain data: `dialect`, `candidates`, `ambiguous`, `spec`, `tensors`, `other_tensors`, ...

    Raises:
        PatchParityError: a file that cannot be read, is damaged, or hostile.
    """
    known = _dialects(dialects)
    with opened(path) as checkpoint:
        chosen = known if from_ is None else {from_: get_dialect(from_, known)}
        return describe(checkpoint, find_candidates(checkpoint, chosen, prefix, sizes))


@dataclass(frozen=True)
class Check:
    """One part of a proof.

    Args:
        name: what was compared.
        verdict: `pass` or `fail`.
        bound_ratio: largest error as a fraction of its bound, 0 where all bits are the same.
        message: in words.
    """

    name: str
    verdict: str
    bound_ratio: float
    message: str


@dataclass(frozen=True)
class PortReport:
    """What a port did, and the proof that it was right.

    Args:
        source, target: dialects.
        steps, losses: in sentences.
        tensors: names in the target.
        checks: the proof.
    """

    source: str
    target: str
    steps: list[str]
    losses: list[str]
    tensors: list[str]
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.verdict == "pass" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.port/1", "ok": self.ok, **dataclasses.asdict(self)}


def port(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Config | None = None,
    into: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    allow_loss: bool = False,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> PortReport:
    """Move the embedding stage of a checkpoint into another dialect, and prove it by running both sides.

    Args:
        source: a checkpoint of any dialect.
        target: the new file, of a format that the target dialect is kept in.
        to: the target dialect.
        from_: the source's dialect, where it is known; None to find out.
        prefix: what stands before the source's names, where several stages are there.
        sizes: what is known of its sizes and no `config.json` tells: image or patch size.
        into: an existing checkpoint of the target dialect: a copy of it is written, with its embedding stage replaced.
        dtype: of the target; None keeps that of the source.
        allow_loss: leave out what the target cannot hold, instead of refusing.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: an ambiguous source, a loss that was not allowed, files that cannot be read or written, a proof that failed (the target
            is then not written).
    """
    known = _dialects(dialects)
    wanted = get_dialect(to, known)
    if dtype is not None:
        require_choice("dtype", dtype, DTYPES)
    kind = format_of(target)
    if kind not in wanted.formats:
        raise PatchParityError(f"{target}: {to} is kept in {', '.join(wanted.formats)}, and this name is of {kind}")
    with opened(source) as checkpoint:
        stage = read_stage(checkpoint, from_, prefix, known, sizes)
        raw = checkpoint.read(stage.candidate.names["kernel"])
    place = None
    if into is not None:
        with opened(into) as existing:
            place = read_stage(existing, to, None, known, Config.of(stage.spec))
        _require_same_shape(stage, place)
    held, plan = fit(
        stage.weights,
        stage.spec,
        wanted,
        tuple(place.candidate.names) if place else (),
        stage.size_known,
        stage.dialect.computed,
        place.weights.layout.norm_epsilon if place else None,
    )
    if plan.losses and not allow_loss:
        raise PatchParityError(
            f"{to} cannot hold all of {stage.candidate.label}: {'; '.join(losses_in_words(plan))} (--allow-loss leaves it out)"
        )
    kept = dtype or (place.dtype if place and place.dtype != stage.dtype else None)
    written = cast(held, kept)
    if kept is not None and (lost := underflown(held, written)) and not allow_loss:
        raise PatchParityError(f"{lost} values that are not zero become zero in {kept} (--allow-loss allows that)")
    tensors = tensors_of(written, stage.spec, wanted, place.candidate.prefix if place else "")
    if place is None and wanted.framework == "keras":
        raise PatchParityError(f"{to} has no names of its own: --into names a file that Keras wrote")
    kernel = tensors[(place.candidate.prefix if place else "") + wanted.entries["kernel"].name]
    _require_no_loss_of(target, into, tensors)
    checks = _prove(stage, raw, held, written, kernel, wanted, bool(plan.losses))

    def read_back(draft: Path) -> None:
        checks.append(_read_back(draft, to, written, stage.spec, place, known))
        if wrong := next((check for check in checks if check.verdict != "pass"), None):
            raise PatchParityError(f"the proof failed, and {target} was not written: {wrong.name}: {wrong.message}")

    if into is None:
        write_checkpoint(target, tensors, {"format": "pt"} if kind == "safetensors" else None, read_back)
    else:
        with opened(into) as existing:
            replace_tensors(existing, target, tensors, read_back)
    steps = steps_in_words(plan)
    if kept is not None and dtype is None:
        steps.append(f"cast: kept in {kept}, as the existing checkpoint is")
    return PortReport(stage.candidate.label, to, steps, losses_in_words(plan), list(tensors), checks)


def _require_no_loss_of(target: str | os.PathLike[str], into: Any, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raise PatchParityError where the target is a checkpoint with more in it than will be written: a whole model, say."""
    if into is not None or not Path(target).exists():
        return
    try:
        with opened(target) as there:
            others = [name for name in there.tensors if name not in tensors]
    except PatchParityError:
        return  # no checkpoint: a file that its owner wants replaced
    if others:
        raise PatchParityError(
            f"{target} exists, and holds {len(others)} tensors that would be lost ({others[0]}, ...): --into {target} keeps them, or remove it first"
        )


def _require_same_shape(stage: Stage, place: Stage) -> None:
    for name, told in (("patch_size", "patch"), ("in_channels", "channels"), ("embed_dim", "width")):
        own, theirs = getattr(stage.spec, name), getattr(place.spec, name)
        if own != theirs:
            raise PatchParityError(f"the existing checkpoint has {told} {theirs}, the source {own}: they are not of one model")
    tables = stage.weights.positions, place.weights.positions
    if tables[0] is not None and tables[1] is not None and stage.spec.grid != place.spec.grid:
        raise PatchParityError(
            f"the existing checkpoint has a grid of {place.spec.grid}, the source of {stage.spec.grid}: sizes of positions are not changed on the way"
        )


def _read_back(
    draft: Path, to: str, written: PatchEmbedWeights, spec: PatchEmbedSpec, place: Stage | None, known: Mapping[str, Dialect]
) -> Check:
    """The file, read again in its dialect before it takes its place: the same weights to the last bit."""
    with opened(draft) as checkpoint:
        back = read_stage(checkpoint, to, place.candidate.prefix if place else None, known, Config.of(spec)).weights
    if written.positions is None and get_dialect(to, known).computed:
        back = without(back, "positions")
    different = same_bits(written, back)
    message = f"{', '.join(different)} read back differently" if different else "the file gives back every bit"
    return Check("file", "fail" if different else "pass", 0.0, message)


def _not_square(spec: PatchEmbedSpec) -> PatchEmbedSpec:
    """The same patches of an image of two rows and three columns of them, in which rows and columns cannot be mistaken for one another."""
    grid = (1, 2, 3)[3 - spec.spatial_axes :]
    extents = zip(grid, spec.stride, spec.patch_size, spec.padding, strict=True)
    return spec.replace(image_size=tuple((count - 1) * step + patch - sum(pad) for count, step, patch, pad in extents))


def _prove(
    stage: Stage,
    raw: NDArray[Any],
    held: PatchEmbedWeights,
    written: PatchEmbedWeights,
    kernel: NDArray[Any],
    wanted: Dialect,
    lossy: bool,
) -> list[Check]:
    """Both layouts, each in its own framework, against the reference; and the sequence before against the sequence after.

    In float32, for which every framework has functions: narrower weights are exact in it.
    """
    spec = _not_square(stage.spec)
    images = random_normal(spec, 2, "float32", 0).images
    source_bias = None if stage.weights.bias is None else stage.weights.bias.astype(np.float32)
    target_bias = None if written.bias is None else written.bias.astype(np.float32)
    layouts = stage.dialect.entries["kernel"].layout, wanted.entries["kernel"].layout
    sides = [
        ("source", stage.dialect.framework, layouts[0], raw, source_bias, stage.weights),
        ("target", wanted.framework, layouts[1], kernel, target_bias, written),
    ]
    checks = []
    for side, framework, layout, tensor, bias, weights in sides:
        layout = layout if spec.spatial_axes == 2 or "Pt" in layout else layout.replace("Ph", "Pt Ph")
        found = run(framework, layout, np.array(images), np.ascontiguousarray(tensor, np.float32), bias, spec)
        where = f"{side} layout ({layout}) in {framework}"
        if found is None:
            found = patch_embed(images, PatchEmbedWeights(weights.kernel, weights.bias).astype(np.float32), spec, np.float32)
            why = "nothing in it reads this layout" if installed(framework) else "it is not installed"
            where = f"{side} layout ({layout}) in the reference, not in {framework}: {why}"
        checks.append(_judged(where, spec, weights.astype(np.float32), found))
    if lossy:
        checks.append(Check("sequence", "pass", 0.0, "not compared: something of it is left out"))
    else:
        checks.append(_sequences(stage, held, written))
    return checks


def _judged(name: str, spec: PatchEmbedSpec, weights: PatchEmbedWeights, tokens: NDArray[Any]) -> Check:
    base = random_normal(spec, 2, "float32", 0)
    plain = PatchEmbedWeights(weights.kernel, weights.bias)
    # A trained kernel is not zero-mean, so the bound that holds for any data is the one that decides.
    probe = dataclasses.replace(base, weights=plain, gate="deterministic", gradients=())
    found = judge(probe, "forward", tokens, ArithmeticModel.of(np.dtype(np.float32), flush_to_zero=True, output_roundings=2))
    ratio = float("inf") if found.bound_ratio is None else found.bound_ratio
    return Check(name, found.verdict, ratio, found.message or "within the bound of float32")


SEQUENCE_ROUNDINGS = 4
"""Roundings of one value on its way into the sequence, in the type of the weights: the product's kernel and bias by a cast, its token or position by a
fold and a cast."""


def _sequences(stage: Stage, held: PatchEmbedWeights, written: PatchEmbedWeights) -> Check:
    """What enters the encoder, before and after, in float64: the same bits; or what its norms are given, and the norms themselves, within the roundings
    of the steps."""
    images = random_normal(stage.spec, 2, "float64", 0).images
    source = stage.weights if held.positions is not None or not stage.dialect.computed else without(stage.weights, "positions")
    before, after = (embed_sequence(images, each.astype(np.float64), stage.spec) for each in (source, written))
    if before.shape != after.shape:
        return Check("sequence", "fail", float("inf"), f"{after.shape} after, {before.shape} before")
    if (before == after).all():
        return Check("sequence", "pass", 0.0, "the same before and after")
    norms = [check for name in NORMS if (check := _fields_compared(name, source, written)) is not None]
    if wrong := next((check for check in norms if check.verdict != "pass"), None):
        return Check("sequence", "fail", wrong.bound_ratio, f"{wrong.name}: {wrong.message}")
    plain = [_without_norms(each).astype(np.float64) for each in (source, written)]
    error = np.abs(np.subtract(*(embed_sequence(images, each, stage.spec) for each in plain)))
    narrowest, least = (max(table[each.kernel.dtype.name] for each in (held, written)) for table in (UNITS, SMALLEST))
    absolute = plain[1].map(np.abs)
    # What rounding takes from a value altogether, times the pixels that it is multiplied with.
    lost = least * (1 + np.abs(images).sum() / len(images))
    bound = SEQUENCE_ROUNDINGS * (narrowest * embed_sequence(np.abs(images), absolute, stage.spec) + lost)
    ratio = float(np.max(error / (bound + 1e-300)))
    told = f"at most {error.max():.3g} apart, {ratio:.2g} of what rounding allows"
    return Check("sequence", "pass" if ratio <= 1 else "fail", ratio, told)


def _without_norms(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    return dataclasses.replace(weights, patch_norm=None, token_norm=None, sequence_norm=None)


@dataclass(frozen=True)
class Difference:
    """What `verify` found.

    Args:
        same: whether the two hold the same embedding stage.
        first, second: how they were read.
        explanation: in words; of what differs, which mistake would make the one out of the other.
        checks: what was compared.
    """

    same: bool
    first: str
    second: str
    explanation: str
    checks: list[Check]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.verify/1", **dataclasses.asdict(self)}


def verify(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    from_: tuple[str | None, str | None] = (None, None),
    prefixes: tuple[str | None, str | None] = (None, None),
    sizes: Config | None = None,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> Difference:
    """Prove that two checkpoints, in any two dialects, hold the same embedding stage, or say how they differ.

    Args:
        first, second: checkpoints.
        from_: their dialects, where they are known.
        prefixes: what stands before their names, where a file holds several stages.
        sizes: what is known of their sizes and no `config.json` tells; what the first tells holds for the second.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: whatever `read_stage` refuses.
    """
    known = _dialects(dialects)
    stages = []
    for path, dialect, prefix in zip((first, second), from_, prefixes, strict=True):
        with opened(path) as checkpoint:
            told = Config.of(stages[0].spec) if stages and stages[0].size_known else sizes
            stages.append(read_stage(checkpoint, dialect, prefix, known, sizes or told))
    one, other = stages
    labels = one.candidate.label, other.candidate.label
    for name, told in (("patch_size", "patch"), ("in_channels", "channels"), ("embed_dim", "width"), ("stride", "stride")):
        if getattr(one.spec, name) != getattr(other.spec, name):
            why = f"the first has {told} {getattr(one.spec, name)}, the second {getattr(other.spec, name)}"
            return Difference(False, *labels, why, [])
    spec = one.spec if one.size_known else other.spec
    if one.size_known and other.size_known and one.spec.image_size != other.spec.image_size:
        why = f"the first has a grid of {one.spec.grid}, the second of {other.spec.grid}"
        return Difference(False, *labels, why, [])
    checks = [_fields_compared(name, one.weights, other.weights) for name in ("kernel", "bias", *NORMS)]
    checks = [check for check in checks if check is not None]
    rows = [_rows(each.weights, spec) for each in stages]
    if rows[0].shape != rows[1].shape:
        told = f"the sequences are of {rows[0].shape[0]} and {rows[1].shape[0]} tokens: the prefix tokens differ"
        return Difference(False, *labels, told, checks)
    checks.append(_rows_compared(rows, one, other, spec))
    if all(check.verdict == "pass" for check in checks):
        exact = "to the last bit" if all(check.bound_ratio == 0 for check in checks) else "within the rounding of their types"
        return Difference(True, *labels, f"the same embedding stage, {exact}", checks)
    if checks[0].verdict == "pass":
        wrong = ", ".join(check.name for check in checks if check.verdict == "fail")
        return Difference(False, *labels, f"the kernels agree, and {wrong} do not ({_what_differs(one, other)})", checks)
    uneven = _not_square(spec)
    images = random_normal(uneven, 2, "float64", 0).images
    plain = [PatchEmbedWeights(each.weights.kernel, each.weights.bias).astype(np.float64) for each in stages]
    found = diagnose(images, plain[0], patch_embed(images, plain[1], uneven), uneven)
    return Difference(False, *labels, f"the second against the first: {found.explanation}", checks)


UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoffs."""

SMALLEST = {"float64": 0.0, "float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}
"""Half of the smallest subnormal number: what rounding to a type may take away altogether."""


def _fields_compared(name: str, first: PatchEmbedWeights, second: PatchEmbedWeights) -> Check | None:
    """One field of both: the same bits, or, of different types, the one rounded to the other; no bias is one of zeros. None where neither has it."""
    pairs = list(zip(arrays_of(first, name), arrays_of(second, name), strict=True))
    if all(one is None and other is None for one, other in pairs):
        return None
    if name == "bias":
        pairs = [
            (np.zeros_like(other) if one is None else one, np.zeros_like(one) if other is None else other) for one, other in pairs
        ]
    ratios = [_apart(one, other) for one, other in pairs if one is not None and other is not None]
    if len(ratios) < len(pairs):
        return Check(name, "fail", float("inf"), "one of the two has none")
    if name != "kernel" and "norm" in name and first.layout.norm_epsilon != second.layout.norm_epsilon:
        return Check(name, "fail", float("inf"), f"ε is {first.layout.norm_epsilon:g} and {second.layout.norm_epsilon:g}")
    ratio = max(ratios)
    told = "the same" if ratio == 0 else f"{ratio:.3g} of what rounding to the narrower type allows"
    return Check(name, "pass" if ratio <= 1 else "fail", ratio, told)


def _apart(first: NDArray[Any], second: NDArray[Any]) -> float:
    """How far two arrays are apart, as a multiple of what rounding one to the type of the other allows; nothing where their types are one."""
    types = first.dtype.name, second.dtype.name
    one, other = first.astype(np.float64), second.astype(np.float64)
    error = np.abs(one - other)
    if not error.any():
        return 0.0
    if types[0] == types[1]:
        return float("inf")
    unit, least = max(UNITS[each] for each in types), max(SMALLEST[each] for each in types)
    return float(np.max(error / (unit * np.maximum(np.abs(one), np.abs(other)) + least + 1e-320)))


def _rows(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> NDArray[np.float64]:
    """What is added to tokens, and put before or behind them: the sequence of images of zeros, without bias or norms, `(rows, D)`."""
    plain = dataclasses.replace(_without_norms(weights), bias=None).astype(np.float64)
    return np.asarray(embed_sequence(np.zeros(spec.images_shape(1)), plain, spec)[0])


def _rows_compared(rows: list[NDArray[np.float64]], one: Stage, other: Stage, spec: PatchEmbedSpec) -> Check:
    """Prefix tokens and positions of both: the same, or within one rounding of each part where their types differ or a part was folded into another."""
    error = np.abs(rows[0] - rows[1])
    if not error.any():
        return Check("prefix tokens and positions", "pass", 0.0, "the same")
    kinds = [_kinds(each.weights) for each in (one, other)]
    folded = one.candidate.positioned != other.candidate.positioned
    if kinds[0] == kinds[1] and not folded:
        return Check("prefix tokens and positions", "fail", float("inf"), f"up to {error.max():.3g} apart")
    unit = max(UNITS[kind] for each in kinds for kind in each) if kinds[0] or kinds[1] else 0.0
    least = max((SMALLEST[kind] for each in kinds for kind in each), default=0.0)
    sizes = [_rows(each.weights.map(lambda array: np.abs(array.astype(np.float64))), spec) for each in (one, other)]
    ratio = float(np.max(error / (2 * unit * np.maximum(*sizes) + least + 1e-320)))
    told = f"up to {error.max():.3g} apart, {ratio:.3g} of what rounding allows"
    return Check("prefix tokens and positions", "pass" if ratio <= 1 else "fail", ratio, told)


def _kinds(weights: PatchEmbedWeights) -> set[str]:
    """Types of prefix tokens and positions."""
    names = ("class_token", "distillation_token", "register_tokens", "positions")
    return {getattr(weights, name).dtype.name for name in names if getattr(weights, name) is not None}


def _what_differs(one: Stage, other: Stage) -> str:
    names = [name for name in same_bits(one.weights, other.weights) if name not in ("kernel", "bias", "mask_token")]
    told = ", ".join(name.replace("_", " ") for name in names)
    return f"{told} differ" if told else "their order does"


def embed(
    checkpoint: str | os.PathLike[str],
    images: NDArray[Any],
    *,
    to: str = "tokens",
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Config | None = None,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> NDArray[Any]:
    """Run the reference on the embedding stage of a checkpoint.

    Args:
        checkpoint: of any dialect.
        images: `(B, C, H, W)`, or `(B, C, T, H, W)` for tubelets, preprocessed as the model has it.
        to: `tokens` after the projection (and its norm, if there is one before it), or the `sequence` that enters the encoder.
        from_, prefix, sizes, dialects: as in `port`; the images tell their own size.

    Returns:
        `(B, N, D)`, or `(B, prefix + N, D)`, float64.

    Raises:
        PatchParityError: whatever `read_stage` refuses; images that do not fit.
    """
    require_choice("to", to, ("tokens", "sequence"))
    with opened(checkpoint) as file:
        told = Config(image_size=tuple(images.shape[-2:]), frames=images.shape[2] if images.ndim == 5 else None)
        stage = read_stage(file, from_, prefix, _dialects(dialects), told if sizes is None else sizes.over(told))
    axes, channels = stage.spec.spatial_axes, stage.spec.in_channels
    if images.ndim == axes + 2 and images.shape[1] != channels:
        hint = "; channels last? move them to axis 1" if images.shape[-1] == channels else ""
        raise PatchParityError(f"images of shape {images.shape}: expected {channels} channels at axis 1{hint}")
    if images.ndim != axes + 2:
        kinds = {2: "(B, C, H, W)", 3: "(B, C, T, H, W)"}
        raise PatchParityError(f"images of shape {images.shape}: expected {kinds[axes]}")
    spec = stage.spec if images.shape[2:] == stage.spec.image_size else stage.spec.replace(image_size=images.shape[2:])
    weights = stage.weights.astype(np.float64)
    if to == "tokens":
        return (
            embed_sequence(images, _projection(weights), spec)
            if weights.patch_norm is not None
            else patch_embed(images, weights, spec)
        )
    if weights.positions is not None and spec.num_patches != stage.spec.num_patches:
        raise PatchParityError(
            f"images of {'×'.join(map(str, images.shape[2:]))} give {spec.num_patches} tokens, and there are positions for {stage.spec.num_patches}: "
            f"expected images of {'×'.join(map(str, stage.spec.image_size))}"
        )
    return embed_sequence(images, weights, spec)


def _projection(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    """The projection alone, with the norm before it."""
    return PatchEmbedWeights(weights.kernel, weights.bias, patch_norm=weights.patch_norm, layout=weights.layout)
