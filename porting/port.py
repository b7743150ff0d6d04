"""`port`: the embedding stage of a checkpoint moved into another dialect, and the move proved."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import DTYPES
from ..reference.answer import Answer
from ..reference.errors import PatchParityError, require_choice
from ..reference.weights import LayerNorm, PatchEmbedWeights
from .dialects.catalogue import get_dialect, list_dialects
from .dialects.dialect import Dialect
from .dialects.fit import (
    cast,
    cast_as,
    fit,
    losses_in_words,
    same_bits,
    steps_in_words,
    tensors_of,
    underflown,
)
from .dialects.plan import Plan
from .dialects.quantized import dequantized
from .dialects.recognize import find_candidates
from .dialects.sizes import Sizes
from .dialects.stage import NORMS, Stage, read_stage, require_no_stem
from .files.checkpoint import KEPT_AS, Checkpoint
from .files.gguf_files import tower_values
from .files.opening import opened, prepare
from .files.writing import format_of, replace_tensors, write_checkpoint
from .proof.compare import Check
from .proof.library import prove_by_library
from .proof.moved import RAW, named, prove_move, proved_target, read_back, unproved_target
from .resized import Resized, as_recipes, resized, sizes_of_source


@dataclass(frozen=True, repr=False)
class PortReport(Answer):
    """What a port did, and the proof that it was right.

    Args:
        source, target: dialects.
        steps, losses: in sentences.
        tensors: names in the target.
        checks: the proof.
        not_moved: how many more tensors the source holds, of its encoder and head.
        file: that was written.
    """

    source: str
    target: str
    steps: list[str]
    losses: list[str]
    tensors: list[str]
    checks: list[Check]
    not_moved: int = 0
    file: str = ""

    def lines(self) -> list[str]:
        """What was moved, how, its proof, and what was not moved."""
        count = len(self.tensors)
        tensors = f"{count} tensor{'s' if count != 1 else ''} of the embedding stage"
        others = f"; {self.not_moved} others were not moved" if self.not_moved else ""
        return [
            f"{self.source} -> {self.target}: {', '.join(self.tensors)}",
            *(f"step {step}" for step in self.steps),
            *(f"lost {loss}" for loss in self.losses),
            *(check.line() for check in self.checks),
            f"{self.file}: {tensors}{others}",
        ]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

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
    image_size: int | Sequence[int] | None = None,
    patch_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | None = None,
    sizes: Sizes | None = None,
    into: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
    allow_loss: bool = False,
    prove: bool = True,
    resample: str | Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> PortReport:
    """Move the embedding stage of a checkpoint into another dialect, and prove it by running both
    sides.

    Args:
        source: a checkpoint of any dialect.
        target: the new file, of a format that the target dialect is kept in.
        to: the target dialect.
        from_: the source's dialect, where it is known; None to find out.
        prefix: what stands before the source's names, where several stages are there.
        image_size, patch_size, in_channels, stride, padding: what is known of its sizes and no
            `config.json` tells; one number, or one for each axis, frames of a video in front.
        sizes: the same in one object, as earlier versions took them.
        into: an existing checkpoint of the target dialect: a copy of it is written, with its
            embedding stage replaced.
        dtype: of the target; None keeps that of the source.
        allow_loss: leave out what the target cannot hold, instead of refusing.
        prove: whether the libraries' own models are built and run, where they are installed and a
            `config.json` tells how.
        resample: recipes by which positions, kernel or channels are taken to `image_size`,
            `patch_size` and `in_channels`, which then are the new ones (docs/resizing.md); None
            where no size changes.
        ignore: names, or patterns of the shell's kind, of tensors of the source that play no part
            although nothing explains them.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: an ambiguous source, a loss that was not allowed, files that cannot be
            read or written, a proof that failed (the target is then not written).

    Examples:
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2)
        >>> config = transformers.ViTConfig(num_hidden_layers=1, intermediate_size=32, **sizes)
        >>> transformers.ViTModel(config).save_pretrained("vit")
        >>> patchparity.port("vit", "timm.safetensors", "timm-vit").tensors[0]
        'patch_embed.proj.weight'
    """
    sizes = Sizes.of_user(image_size, patch_size, in_channels, stride, padding, sizes)
    prepare(source)
    known = list_dialects(dialects)
    wanted = get_dialect(to, known)
    if dtype is not None:
        require_choice("dtype", dtype, DTYPES)
    kind = format_of(target)
    if KEPT_AS.get(kind, kind) not in wanted.formats:
        raise PatchParityError(
            f"{target}: {to} is kept in {', '.join(wanted.formats)}, and this name is of {kind}"
        )
    recipes = as_recipes(resample)
    with opened(source) as file:
        checkpoint = dequantized(file)
        told = sizes_of_source(sizes, recipes)
        read = stage = read_stage(checkpoint, from_, prefix, known, told, ignore)
        raw, proofs = _read_source(checkpoint, stage, prove, not recipes)
        not_moved = len(set(checkpoint.tensors) - _names_of(stage))
    if recipes and (sizes is None or not (sizes.image_size or sizes.patch_size or sizes.channels)):
        raise PatchParityError(
            f"{', '.join(recipes)}: to which size? --image-size, --patch-size or --in-channels says"
        )
    changed = Resized(stage, [], [])
    if recipes:
        changed = resized(stage, sizes or Sizes(), recipes, dtype)
    stage, proofs = changed.stage, [*proofs, *changed.checks]
    _require_proof(changed.checks, "the library's own function gives another table")
    place = None if into is None else _place(into, to, known, stage)
    if place is None and wanted.framework == "keras":
        raise PatchParityError(
            f"{to} has no names of its own: --into names a file that Keras wrote"
        )
    held, plan = _fitted(stage, wanted, place, allow_loss, kind)
    written = _cast(held, place, dtype, allow_loss)
    under = place.candidate.prefix if place else ""
    tensors = tensors_of(written, stage.spec, wanted, under)
    tensors_by_name = {
        (place.real_name(name) if place else name): array for name, array in tensors.items()
    }
    _require_no_loss_of(target, into, tensors_by_name, wanted)
    kernel = tensors[under + wanted.entries["kernel"].name]
    checks = [
        *proofs,
        *prove_move(stage, raw, held, written, kernel, wanted, bool(plan.losses), read),
    ]

    def prove_draft(draft: Path) -> None:
        checks.append(read_back(draft, to, written, stage.spec, place, known))
        if prove and place is not None:
            proved = proved_target(draft, into, to, place, known, stage.spec)
            checks.append(named(proved, "target"))
        if wrong := next((check for check in checks if check.verdict == "fail"), None):
            raise PatchParityError(
                f"the proof failed, and {target} was not written: {wrong.name}: {wrong.message}"
            )

    steps = changed.steps + _steps(stage, plan, held, written, dtype)
    if into is None:
        metadata = _metadata(kind, wanted, stage, written)
        write_checkpoint(target, tensors_by_name, metadata, prove_draft)
        checks += [unproved_target()] if prove else []
        steps += [f"names: {wanted.loads}"] if wanted.loads else []
        steps += _left_to_a_model(written, wanted)
    else:
        added = _added(into, tensors_by_name)
        steps += [
            f"written plain: {note}, in the existing checkpoint"
            for note in (place.notes if place else ())
            if "dequantized" in note
        ]
        with opened(into) as existing:
            replace_tensors(existing, target, tensors_by_name, prove_draft)
        steps += [f"added: {name}, which the existing checkpoint does not have" for name in added]
    return PortReport(
        stage.candidate.label,
        to,
        steps,
        losses_in_words(plan),
        list(tensors),
        checks,
        not_moved,
        str(target),
    )


def _read_source(
    checkpoint: Checkpoint, stage: Stage, prove: bool, told: bool
) -> tuple[dict[str, NDArray[Any]], list[Check]]:
    """The tensors of a source that the proof of its layout takes as they are, and the proof by its
    library; `told` is whether a user's image size is the source's.

    Raises:
        PatchParityError: a stage that is not the whole of it, one that is ambiguous, a proof that
            failed.
    """
    require_no_stem(checkpoint, stage)
    raw = {
        name: checkpoint.read(stage.real_name(stage.candidate.names[name]))
        for name in RAW
        if name in stage.candidate.names
    }
    proofs = [named(prove_by_library(checkpoint, stage), "source")] if prove else []
    _require_proof(proofs, f"{checkpoint.path} is not what it was read as")
    if stage.candidate.assumed:
        raise PatchParityError(
            f"{checkpoint.path} is ambiguous: {stage.candidate.assumed} "
            f"({'--image-size, or ' if told else ''}a config.json beside it)"
        )
    return raw, proofs


def _names_of(stage: Stage) -> set[str]:
    """The tensors of the source that the stage is, by their names in the file."""
    return {stage.real_name(name) for name in stage.candidate.names.values()}


def _fitted(
    stage: Stage, wanted: Dialect, place: Stage | None, allow_loss: bool, kind: str
) -> tuple[PatchEmbedWeights, Plan]:
    """The weights as a dialect has them in a format, and what was done to them.

    Raises:
        PatchParityError: what it cannot hold, unless that may be left out.
    """
    # a file that tells its own ε keeps that of the source
    kept = stage if kind == "gguf" and wanted.epsilon_of_config else None
    of_norms = place or kept
    held, plan = fit(
        stage.weights,
        stage.spec,
        wanted,
        tuple(place.candidate.names) if place else (),
        stage.size_known,
        stage.dialect.computed,
        of_norms.weights.layout.norm_epsilon if of_norms else None,
    )
    if stage.dialect.any_grid and held.positions is not None:
        plan.steps.append("fixed-positions")
    elif stage.dialect.computed and held.positions is not None:
        plan.steps.append("computed-positions")
    if plan.losses and not allow_loss:
        raise PatchParityError(
            f"{wanted.id} cannot hold all of {stage.candidate.label}: "
            f"{'; '.join(losses_in_words(plan))} (--allow-loss leaves it out)"
        )
    return held, plan


def _metadata(
    kind: str, wanted: Dialect, stage: Stage, written: PatchEmbedWeights
) -> dict[str, Any] | None:
    """What a new file of a format tells beside its tensors."""
    if kind == "safetensors":
        return {"format": "mlx" if wanted.mlx else "pt"}
    if kind != "gguf":
        return None
    layout, patch = written.layout, stage.spec.patch_size
    normed = any(getattr(written, norm) is not None for norm in NORMS)
    return tower_values(
        next(iter(wanted.model_types), ""),
        patch,
        stage.spec.image_size if stage.size_known else (),
        stage.spec.embed_dim,
        layout.norm_epsilon if normed else None,
        layout.window * patch[-1],
    )


def _steps(
    stage: Stage,
    plan: Plan,
    held: PatchEmbedWeights,
    written: PatchEmbedWeights,
    dtype: str | None,
) -> list[str]:
    """What was done on the way, and what was assumed of the source, in words."""
    steps = steps_in_words(plan)
    if stage.dialect.pixels:
        steps.insert(0, f"{stage.dialect.pixels_told}, and here kernel and bias hold that")
    changed = [name for name in same_bits(held, written) if getattr(held, name) is not None]
    if dtype is None and changed:
        steps.append(
            f"cast: {', '.join(changed)} kept in the types that the existing checkpoint has"
        )
    rounded = [name for name in changed if _is_rounded(held, written, name)]
    if dtype is not None and rounded:
        steps.append(f"cast: {', '.join(rounded)} rounded to {dtype}, as --dtype says")
    return [
        *(f"read: {note}" for note in stage.notes),
        *steps,
        *(f"assumed: {assumption}" for assumption in stage.assumptions),
    ]


def _is_rounded(held: PatchEmbedWeights, written: PatchEmbedWeights, name: str) -> bool:
    """Whether a field has other values in the type that it is written in."""
    pair = [getattr(weights, name) for weights in (held, written)]
    if isinstance(pair[0], LayerNorm):
        pair = [norm.scale for norm in pair]
    return not np.array_equal(*(array.astype(np.float64) for array in pair))


def _left_to_a_model(written: PatchEmbedWeights, wanted: Dialect) -> list[str]:
    """What the new file lacks, and a model that loads it may have: its own values would stay."""
    lacking = [
        name.replace("_", " ")
        for name in ("bias", "class_token", "positions")
        if name in wanted.entries and getattr(written, name) is None
    ]
    if not lacking or (lacking == ["positions"] and wanted.computed):
        return []
    return [
        f"without {' and '.join(lacking)}, as the source: a model of {wanted.id} that has "
        f"{'it' if len(lacking) == 1 and lacking != ['positions'] else 'them'} would keep values "
        "of its own (--into puts zeros where there is bias or positions)"
    ]


def _place(
    into: str | os.PathLike[str], to: str, known: Mapping[str, Dialect], stage: Stage
) -> Stage:
    """The stage of an existing checkpoint that another one shall replace, of the same model."""
    with opened(into) as existing:
        place = read_stage(existing, to, None, known, Sizes.of(stage.spec))
    _require_same_shape(stage, place)
    return place


def _cast(
    held: PatchEmbedWeights, place: Stage | None, dtype: str | None, allow_loss: bool
) -> PatchEmbedWeights:
    """Weights in the types in which they are written: the one that was asked for, else those of the
    existing checkpoint, else their own.

    Raises:
        PatchParityError: values that vanish in them, which was not allowed.
    """
    written = (
        cast_as(held, place.weights) if place is not None and dtype is None else cast(held, dtype)
    )
    if (lost := underflown(held, written)) and not allow_loss:
        kept = dtype or "the types of the existing checkpoint"
        raise PatchParityError(
            f"{lost} values that are not zero become zero in {kept} (--allow-loss allows that)"
        )
    return written


def _require_no_loss_of(
    target: str | os.PathLike[str],
    into: Any,
    tensors: Mapping[str, NDArray[Any]],
    wanted: Dialect,
) -> None:
    """Raise PatchParityError where the target is a checkpoint with more in it than will be written:
    a whole model, say."""
    if into is not None or not Path(target).exists():
        return
    try:
        with opened(target) as there:
            others = [name for name in there.tensors if name not in tensors]
            same = bool(find_candidates(there, {wanted.id: wanted}, gridless=True))
    except PatchParityError:
        return  # no checkpoint: a file that its owner wants replaced
    if others:
        way = f"--into {target} keeps them" if same else "choose another name"
        raise PatchParityError(
            f"{target} exists, and holds {len(others)} tensors that would be lost ({others[0]}, "
            f"...): {way}"
        )


def _added(into: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names of tensors that an existing checkpoint does not have.

    Raises:
        PatchParityError: tensors that it has in another shape: positions of another grid, another
            number of registers.
    """
    with opened(into) as existing:
        for name, array in tensors.items():
            if name in existing.tensors and existing.tensors[name].shape != array.shape:
                raise PatchParityError(
                    f"the existing checkpoint has {name} of shape {existing.tensors[name].shape}, "
                    f"and it would be {array.shape}: "
                    "its model would not take it"
                )
        return [name for name in tensors if name not in existing.tensors]


def _require_same_shape(stage: Stage, place: Stage) -> None:
    for name, word in (
        ("patch_size", "patch"),
        ("in_channels", "channels"),
        ("embed_dim", "width"),
    ):
        size, theirs = getattr(stage.spec, name), getattr(place.spec, name)
        if size != theirs:
            raise PatchParityError(
                f"the existing checkpoint has {word} {theirs}, the source {size}: they are not of "
                "one model"
            )
    tables = stage.weights.positions, place.weights.positions
    if tables[0] is not None and tables[1] is not None and stage.spec.grid != place.spec.grid:
        raise PatchParityError(
            f"the existing checkpoint has a grid of {place.spec.grid}, the source of "
            f"{stage.spec.grid}: --image-size and --resample change it"
        )


def _require_proof(checks: list[Check], what: str) -> None:
    if wrong := next((check for check in checks if check.verdict == "fail"), None):
        raise PatchParityError(f"{what}: {wrong.message} (nothing was written)")
