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
from .checkpoints import opened
from .dialects import Dialect, get_dialect, list_dialects
from .proof import run
from .stages import Config, Stage, describe, find_candidates, read_stage, without
from .transcribe import cast, fit, losses_in_words, same_bits, steps_in_words, tensors_of
from .writing import format_of, replace_tensors, write_checkpoint

DTYPES = ("float64", "float32", "float16", "bfloat16")


def _dialects(files: Iterable[str | os.PathLike[str]]) -> dict[str, Dialect]:
    return list_dialects([Path(file) for file in files])


def inspect_checkpoint(
    path: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    sizes: Config | None = None,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Tell which dialect a checkpoint is in and why, what its embedding stage holds, what is missing and what is ambiguous.

    Args:
        path: the file, an index of shards, or a folder.
        prefix: what stands before all names, where several stages are there.
        sizes: what is known of its sizes and no `config.json` tells.
        dialects: TOML files with dialects of your own.

    Returns:
        Plain data: `dialect`, `candidates`, `ambiguous`, `spec`, `tensors`, `other_tensors`, ...

    Raises:
        PatchParityError: a file that cannot be read, is damaged, or hostile.
    """
    with opened(path) as checkpoint:
        return describe(checkpoint, find_candidates(checkpoint, _dialects(dialects), prefix, sizes))


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
    held, plan = fit(stage.weights, stage.spec, wanted)
    if plan.losses and not allow_loss:
        raise PatchParityError(
            f"{to} cannot hold all of {stage.candidate.label}: {'; '.join(losses_in_words(plan))} (--allow-loss leaves it out)"
        )
    written = cast(held, dtype)
    if into is None:
        tensors = tensors_of(written, stage.spec, wanted)
        if wanted.plain and wanted.framework == "keras":
            raise PatchParityError(f"{to} has no names of its own: --into names a file that Keras wrote")
        kernel = tensors[wanted.entries["kernel"].name]
    else:
        with opened(into) as existing:
            place = read_stage(existing, to, None, known, Config.of(stage.spec))
            _require_same_shape(stage.spec, place, wanted)
            tensors = tensors_of(written, stage.spec, wanted, place.candidate.prefix)
            kernel = tensors[place.candidate.names["kernel"]]
    _require_no_loss_of(target, into, tensors)
    checks = _prove(stage, raw, held, written, kernel, wanted)
    report = PortReport(stage.candidate.label, to, steps_in_words(plan), losses_in_words(plan), list(tensors), checks)
    if not report.ok:
        wrong = next(check for check in checks if check.verdict != "pass")
        raise PatchParityError(f"the proof failed, and {target} was not written: {wrong.name}: {wrong.message}")
    if into is None:
        write_checkpoint(target, tensors, {"format": "pt"} if kind == "safetensors" else None)
    else:
        with opened(into) as existing:
            replace_tensors(existing, target, tensors)
    return dataclasses.replace(report, checks=[*checks, _read_back(target, to, written, stage.spec, known)])


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


def _require_same_shape(spec: PatchEmbedSpec, place: Stage, wanted: Dialect) -> None:
    for name, told in (("patch_size", "patch"), ("in_channels", "channels"), ("embed_dim", "width")):
        own, theirs = getattr(spec, name), getattr(place.spec, name)
        if own != theirs:
            raise PatchParityError(f"the existing checkpoint has {told} {theirs}, the source {own}: they are not of one model")


def _read_back(
    target: str | os.PathLike[str], to: str, written: PatchEmbedWeights, spec: PatchEmbedSpec, known: Mapping[str, Dialect]
) -> Check:
    """The file, read again in its dialect: the same weights to the last bit."""
    with opened(target) as checkpoint:
        back = read_stage(checkpoint, to, None, known, Config.of(spec))
    plain = written if back.weights.positions is not None or written.positions is None else without(written, "positions")
    own = back.weights if written.positions is not None or not back.dialect.computed else without(back.weights, "positions")
    different = same_bits(plain, own)
    message = f"{', '.join(different)} read back differently" if different else "the file gives back every bit"
    return Check("file", "fail" if different else "pass", 0.0, message)


def _not_square(spec: PatchEmbedSpec) -> PatchEmbedSpec:
    """The same patches of an image of two rows and three columns of them, in which rows and columns cannot be mistaken for one another."""
    grid = (1, 2, 3)[3 - spec.spatial_axes :]
    extents = zip(grid, spec.stride, spec.patch_size, spec.padding, strict=True)
    return spec.replace(image_size=tuple((count - 1) * step + patch - sum(pad) for count, step, patch, pad in extents))


def _prove(
    stage: Stage, raw: NDArray[Any], held: PatchEmbedWeights, written: PatchEmbedWeights, kernel: NDArray[Any], wanted: Dialect
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
            found = patch_embed(images, weights.astype(np.float32), spec, np.float32)
            where = f"{side} layout ({layout}) in the reference, for {framework} is not installed or does not read it"
        checks.append(_judged(where, spec, weights.astype(np.float32), found))
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
"""Roundings of one value on its way into the sequence, in the type of the weights: of its token or position by a fold, of a cast, twice."""


def _sequences(stage: Stage, held: PatchEmbedWeights, written: PatchEmbedWeights) -> Check:
    """What enters the encoder, before and after, in float64: the same bits, or within the roundings of the steps."""
    images = random_normal(stage.spec, 2, "float64", 0).images
    before = embed_sequence(images, _comparable(stage.weights, held).astype(np.float64), stage.spec)
    after = embed_sequence(images, written.astype(np.float64), stage.spec)
    if before.shape != after.shape:
        return Check("sequence", "fail", float("inf"), f"{after.shape} after, {before.shape} before")
    error = np.abs(after - before)
    if not error.any():
        return Check("sequence", "pass", 0.0, "the same before and after")
    narrowest = max(
        2.0 ** -{"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[w.kernel.dtype.name] for w in (held, written)
    )
    absolute = written.map(lambda array: np.abs(array.astype(np.float64)))
    bound = SEQUENCE_ROUNDINGS * narrowest * (embed_sequence(np.abs(images), _without_norms(absolute), stage.spec) + 2.0**-24)
    if any(getattr(written, norm) is not None for norm in ("patch_norm", "token_norm", "sequence_norm")):
        bound = np.maximum(bound, SEQUENCE_ROUNDINGS * narrowest * stage.spec.embed_dim * np.abs(before).max())
    ratio = float(np.max(error / bound))
    told = f"at most {error.max():.3g} apart, {ratio:.2g} of what rounding allows"
    return Check("sequence", "pass" if ratio <= 1 else "fail", ratio, told)


def _without_norms(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    return dataclasses.replace(weights, patch_norm=None, token_norm=None, sequence_norm=None)


def _comparable(source: PatchEmbedWeights, held: PatchEmbedWeights) -> PatchEmbedWeights:
    """The source without what was left out by consent."""
    gone = [
        name
        for name in ("bias", "class_token", "distillation_token", "register_tokens", "patch_norm", "token_norm", "sequence_norm")
        if getattr(source, name) is not None and getattr(held, name) is None
    ]
    lost_positions = source.positions is not None and held.positions is None
    if not gone and not lost_positions and source.layout.token_order == held.layout.token_order:
        return source
    # What was lost is lost: what is left is what the target holds, its own rows among it.
    return held


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
    sizes: Config | None = None,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> Difference:
    """Prove that two checkpoints, in any two dialects, hold the same embedding stage, or say how they differ.

    Args:
        first, second: checkpoints.
        from_: their dialects, where they are known.
        sizes: what is known of their sizes and no `config.json` tells; what the first tells holds for the second.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: whatever `read_stage` refuses.
    """
    known = _dialects(dialects)
    stages = []
    for path, dialect in zip((first, second), from_, strict=True):
        with opened(path) as checkpoint:
            told = Config.of(stages[0].spec) if stages and stages[0].size_known else sizes
            stages.append(read_stage(checkpoint, dialect, None, known, sizes or told))
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
    images = random_normal(spec, 2, "float64", 0).images
    plain = [PatchEmbedWeights(each.weights.kernel, each.weights.bias).astype(np.float64) for each in stages]
    uneven = _not_square(spec)
    others = random_normal(uneven, 2, "float64", 0).images
    tokens = [patch_embed(others, weights, uneven) for weights in plain]
    sequences = [embed_sequence(images, _sized(each, spec).astype(np.float64), spec) for each in stages]
    narrowest = max(2.0 ** -{"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[each.dtype] for each in stages)
    checks = [_compared("tokens", *tokens, plain, others, uneven, narrowest)]
    if sequences[0].shape != sequences[1].shape:
        told = f"the sequences are of shapes {sequences[0].shape} and {sequences[1].shape}: the prefix tokens differ"
        return Difference(False, *labels, told, checks)
    checks.append(_compared("sequence", *sequences, plain, images, spec, narrowest))
    if all(check.verdict == "pass" for check in checks):
        exact = "to the last bit" if all(check.bound_ratio == 0 for check in checks) else "within rounding"
        return Difference(True, *labels, f"the same embedding stage, {exact}", checks)
    if checks[0].verdict == "pass":
        return Difference(False, *labels, f"tokens agree, and the sequences do not: {_what_differs(one, other)}", checks)
    found = diagnose(others, plain[0], tokens[1], uneven)
    return Difference(False, *labels, f"the second against the first: {found.explanation}", checks)


def _sized(stage: Stage, spec: PatchEmbedSpec) -> PatchEmbedWeights:
    """Weights for images of another size than the stage was read with: without positions where it has none to lose."""
    return stage.weights


def _compared(
    name: str,
    first: NDArray[Any],
    second: NDArray[Any],
    plain: list[PatchEmbedWeights],
    images: NDArray[Any],
    spec: PatchEmbedSpec,
    unit: float,
) -> Check:
    error = np.abs(first - second)
    if not error.any():
        return Check(name, "pass", 0.0, "the same")
    absolute = plain[0].map(np.abs)
    gauge = patch_embed(np.abs(images), absolute, spec).max() + np.abs(first).max()
    ratio = float(error.max() / (SEQUENCE_ROUNDINGS * unit * gauge))
    return Check(
        name, "pass" if ratio <= 1 else "fail", ratio, f"at most {error.max():.3g} apart, {ratio:.3g} of what rounding allows"
    )


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
    axes = stage.spec.spatial_axes
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
