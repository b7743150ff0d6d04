"""Which of the ways to read a checkpoint it is; or why none, and what would tell."""

import math
import re
from collections.abc import Mapping, Sequence

from ...reference.errors import PatchParityError
from ...reference.recipes import get_recipe, in_words
from ..files.checkpoint import Checkpoint
from ..files.own_format import FORMAT as OWN_FORMAT
from .catalogue import list_dialects
from .dialect import Dialect
from .evidence import known_of, known_reason
from .grids import channels_of, known_grid
from .lacking import find_lacking, nearest_told, nearness
from .ledger import unexplained
from .recognize import (
    MOST_CHANNELS,
    OPTIMIZERS,
    Candidate,
    find_candidates,
    joined_names,
    prefixes_of,
)
from .sizes import Sizes, config_of
from .unreadable import in_parts, of_arrays, of_old_keras, of_shards

QUANTIZED = (
    *("int4", "uint4", "int8", "uint8", "float8_e4m3fn", "float8_e5m2"),
    *("F8_E4M3", "F8_E5M2", "F8_E8M0", "F6_E2M3", "F6_E3M2", "F4"),
)
"""Types of weights that mean nothing without their scales."""


def choose(checkpoint: Checkpoint, candidates: list[Candidate]) -> Candidate:
    """The candidate that a checkpoint is read as.

    Raises:
        PatchParityError: none; evidence or tensors that speak against all; several that read it
            differently, and what would tell them apart; something that nothing tells.
    """
    if details := why_not(checkpoint, candidates):
        raise PatchParityError(details)
    if not candidates and checkpoint.metadata.get("format") == OWN_FORMAT:
        raise PatchParityError(
            f"{checkpoint.path} holds weights as patchparity keeps them: load_weights reads them, "
            "and check and diagnose take them as --weights"
        )
    if not candidates:
        kernels = [
            f"{name} {info.shape}"
            for name, info in checkpoint.tensors.items()
            if len(info.shape) >= 4
        ][:5]
        held = ", ".join(kernels) or f"{len(checkpoint.tensors)} tensors, none of four axes"
        raise PatchParityError(
            f"{checkpoint.path} is in no dialect that is known; it holds {held} "
            f"(--from names a dialect{plain_ones(checkpoint)}, --dialects a file of your "
            f"own){if_told(checkpoint)}"
            + (f" ({patch})" if (patch := if_patch_told(checkpoint)) else "")
        )
    rivals = ambiguous(candidates)
    if len(rivals) > 1:
        details = "; ".join(
            f"{rival.label} ({rival.dialect.entries['kernel'].layout})" for rival in rivals
        )
        raise PatchParityError(
            f"{checkpoint.path} is ambiguous, and shapes cannot tell: {details}. "
            f"{remedy(checkpoint, rivals)} would"
        )
    if candidates[0].asks:
        raise PatchParityError(
            f"{checkpoint.path} is read as {candidates[0].label}, but "
            f"{'; '.join(candidates[0].asks)}"
        )
    return candidates[0]


def plain_ones(checkpoint: Checkpoint) -> str:
    """The dialects under any name that would read one layer of a checkpoint, as words; empty where
    none would."""
    plain = [
        dialect
        for dialect in list_dialects().values()
        if dialect.plain and dialect.may_be_in(checkpoint.kept_as)
    ]
    flat = {dialect.id for dialect in plain if "(" in dialect.entries["kernel"].layout}
    names = joined_names(checkpoint)
    readings = [
        (dialect.id, prefix)
        for dialect in plain
        for prefix in prefixes_of(checkpoint, dialect, names)
        if not OPTIMIZERS.search(prefix)
        and find_candidates(checkpoint, {dialect.id: dialect}, prefix, gridless=True)
    ]
    layers = [
        (name, prefix)
        for name, prefix in readings
        if name not in flat or re.search("patch|pixel|vision_embed", prefix)
    ]
    # a matrix may be any layer of a network
    likely = [(name, prefix) for name, prefix in layers if name not in flat] or layers
    for words in ("stem|embed", "patch"):  # the latter tells most
        likely = [one for one in likely if re.search(words, one[1])] or likely
    would = [f"{name} --prefix {prefix!r}" for name, prefix in likely]
    return f": the layer alone as {' or '.join(would[:3])}" if would else ""


def layers_alone(checkpoint: Checkpoint) -> str:
    """How one of its layers could be read, in words; empty where none could."""
    hint = plain_ones(checkpoint).removeprefix(": ")
    return f" (--from reads {hint})" if hint else ""


def why_not(checkpoint: Checkpoint, candidates: list[Candidate]) -> str:
    """Why none of the candidates can be, told of the one that comes nearest; empty where one
    can."""
    if candidates and not candidates[0].refusals:
        return of_shards(checkpoint, candidates[0])
    if reason := known_reason(config_of(checkpoint), checkpoint.tensors):
        return f"{checkpoint.path} is read by no dialect: {reason}{layers_alone(checkpoint)}"
    if not candidates:
        return (
            in_parts(checkpoint)
            or (old + layers_alone(checkpoint) if (old := of_old_keras(checkpoint)) else "")
            or of_arrays(checkpoint)
            or of_shards(checkpoint, None)
            or what_is_missing(checkpoint)
        )
    nearest = min(
        candidates,
        key=lambda candidate: (
            candidate.dialect.mlx,
            len(candidate.conflicts) + len(unexplained(candidate.ledger)),
            *(-part for part in candidate.weight),
        ),
    )
    if elsewhere := of_shards(checkpoint, nearest):
        return elsewhere
    if missing := what_is_missing(checkpoint, nearest):
        return missing
    if quantized := [
        name for name in nearest.names.values() if checkpoint.tensors[name].dtype in QUANTIZED
    ]:
        example = f"{quantized[0]} is {checkpoint.tensors[quantized[0]].dtype}"
        return (
            f"{checkpoint.path} looks like {nearest.label} and is quantized ({example}): "
            "dequantize it first"
        )
    others = [
        candidate.dialect.id
        for candidate in candidates
        if candidate.dialect.id != nearest.dialect.id and not candidate.dialect.mlx
    ]
    more = f"; nor is it {', '.join(dict.fromkeys(others))}" if others else ""
    near = find_lacking(checkpoint, list_dialects())
    if near and nearness(near[0], nearest) == 0:
        more += f"; or it is {nearest_told(near)}"
    return (
        f"{checkpoint.path} looks like {nearest.label}, but "
        f"{'; '.join(nearest.refusals)}{more}{if_told(checkpoint)}"
    )


def what_is_missing(
    checkpoint: Checkpoint, nearest: Candidate | None = None, counted: bool = False
) -> str:
    """Which dialect a checkpoint would be in but for a tensor or two, in words; empty where there
    is none, or where a candidate that is refused comes nearer.

    Args:
        checkpoint: an open one.
        nearest: the nearest of its candidates; None for none.
        counted: whether the number of its positions is all that speaks against that one: registers
            that are not there would explain any number.
    """
    near = [
        other
        for other in find_lacking(checkpoint, list_dialects())
        if not (counted and "register_tokens" in other.missing)
    ]
    if not near or (nearest is not None and not counted and nearness(near[0], nearest) <= 0):
        return ""
    told = f"{checkpoint.path} looks like {nearest_told(near)}"
    return f"{told}{if_told(checkpoint)}{layers_alone(checkpoint)}"


def if_told(checkpoint: Checkpoint) -> str:
    """Dialects that only a user or a configuration tells, and whose tensors are there, as a hint;
    empty where there are none."""
    identities = []
    for dialect in list_dialects().values():
        if dialect.typed_only and not dialect.mlx and dialect.may_be_in(checkpoint.kept_as):
            near = find_candidates(checkpoint, {dialect.id: dialect}, gridless=True)
            identities += [dialect.id] if near and not near[0].refusals else []
    return (
        f" (where it is one of these, --from says so: {', '.join(identities)})"
        if identities
        else ""
    )


def if_patch_told(checkpoint: Checkpoint) -> str:
    """Dialects whose tensors are there, but for the sides of a patch that lies flattened in a
    matrix, as a hint; empty where there are none."""
    near: dict[str, str] = {}
    names = joined_names(checkpoint)
    for dialect in list_dialects().values():
        kernel = dialect.entries["kernel"]
        if dialect.plain or dialect.mlx or "(" not in kernel.layout:
            continue
        if not dialect.may_be_in(checkpoint.kept_as):
            continue
        for prefix in prefixes_of(checkpoint, dialect, names):
            required = [prefix + dialect.entries[name].name for name in dialect.required]
            if all(name in checkpoint.tensors for name in required):
                shape = checkpoint.tensors[prefix + kernel.name].shape
                near.setdefault(dialect.id, f"{prefix + kernel.name} {tuple(shape)}")
    if not near:
        return ""
    return (
        f"it may be {' or '.join(list(near)[:3])}: {next(iter(near.values()))} holds patches of "
        "sides that nothing tells: --patch-size 8x16 does, of a video with its frames, 2x8x8"
    )


def remedy(checkpoint: Checkpoint, rivals: list[Candidate]) -> str:
    """What would tell rivals apart."""
    named = ["--prefix"] if len({rival.prefix for rival in rivals}) > 1 else []
    named += ["--from with a dialect"] if len({rival.dialect.id for rival in rivals}) > 1 else []
    has_config = bool(config_of(checkpoint).table)
    if not has_config and any(rival.dialect.model_types for rival in rivals):
        named.append("a config.json beside it")
    return " or ".join(named or ["a config.json with the image size"])


def ambiguous(candidates: list[Candidate]) -> list[Candidate]:
    """Candidates that are as likely as the first, one for each reading."""
    if not candidates or candidates[0].refusals:
        return []
    # Of one prefix the reading that explains most tensors; two prefixes are two stages, however
    # many tensors each has.
    best: dict[str, tuple[int, ...]] = {}
    for candidate in candidates:
        best.setdefault(candidate.prefix, candidate.weight[:-1])
    likely = [
        candidate
        for candidate in candidates
        if not candidate.refusals
        and candidate.weight[:-1] == best[candidate.prefix]
        and candidate.weight[:3] == candidates[0].weight[:3]
    ]
    return list({candidate.reading: candidate for candidate in reversed(likely)}.values())[::-1]


def require_grid(
    checkpoint: Checkpoint,
    dialects: Mapping[str, Dialect],
    prefix: str | None,
    sizes: Sizes | None,
    ignore: Sequence[str] = (),
) -> None:
    """Raise PatchParityError where a checkpoint that nothing reads would be read but for the number
    of its positions, and say so."""
    near = [
        candidate
        for candidate in find_candidates(checkpoint, dialects, prefix, sizes, True, ignore)
        if "positions" in candidate.names
    ]
    if near and not near[0].refusals:
        rows = near[0].sizes.get("rows") or math.prod(
            near[0].sizes.get(axis, 1) for axis in ("Gh", "Gw", "Wh", "Ww", "Sh", "Sw")
        )
        known = known_of(checkpoint, sizes)
        whose = f" ({checkpoint.config_name} tells it)" if known.evident else ""
        mismatch = (
            f"not of an image of {'×'.join(map(str, known.image_size))}{whose}"
            if known.image_size
            else "of no square grid"
        )
        patches = math.isqrt(max(rows - 1, 0)) ** 2
        lacking = "class_token" in near[0].dialect.entries and "class_token" not in near[0].names
        if rows > 1 and patches == rows - 1 and lacking:
            token = near[0].dialect.entries["class_token"].name
            mismatch += f" ({patches} and one: is {token} missing?)"
        elif missing := what_is_missing(checkpoint, near[0], counted=True):
            raise PatchParityError(missing)
        raise PatchParityError(
            f"{checkpoint.path} holds the tensors of {near[0].label}, but its {rows} positions are "
            f"{mismatch}: "
            "--image-size tells the right one, and --stride where patches overlap"
        )


def require_first_stage(
    checkpoint: Checkpoint, dialects: Mapping[str, Dialect], candidates: Sequence[Candidate]
) -> None:
    """Raise PatchParityError where what would be read takes maps of features, as a model's later
    stages do, and a tensor of the stage that takes images is not there."""
    if len(dialects) == 1 or not candidates or candidates[0].refusals:
        return
    likely = [candidate for candidate in candidates if not candidate.refusals]
    deeper = all(channels_of(candidate.sizes) > MOST_CHANNELS for candidate in likely)
    if deeper and (missing := what_is_missing(checkpoint)):
        raise PatchParityError(missing)


def require_no_other_stage(
    checkpoint: Checkpoint,
    dialects: Mapping[str, Dialect],
    chosen: Candidate,
    sizes: Sizes | None,
    ignore: Sequence[str] = (),
) -> None:
    """Raise PatchParityError where a checkpoint holds a second stage, as likely as the one that is
    read, whose positions fit no grid."""
    names = joined_names(checkpoint)
    places = {
        prefix
        for dialect in dialects.values()
        if not dialect.plain
        for prefix in prefixes_of(checkpoint, dialect, names)
    }
    if chosen.dialect.plain or places <= {chosen.prefix}:
        return
    candidates = find_candidates(checkpoint, dialects, None, sizes, True, ignore)
    fitting = {
        candidate.prefix for candidate in candidates if candidate.grid and not candidate.refusals
    }
    for candidate in candidates:
        other = (
            candidate.prefix not in fitting | {chosen.prefix}
            and not candidate.refusals
            and candidate.weight[:3] == chosen.weight[:3]
        )
        if (
            other
            and not candidate.grid
            and "positions" in candidate.names
            and not candidate.dialect.any_grid
        ):
            rows = candidate.sizes.get("rows", 0)
            raise PatchParityError(
                f"{checkpoint.path} holds {chosen.label}, and {candidate.label} too, whose {rows} "
                "positions are of no square grid: "
                "--prefix says which is meant, and --image-size of which images"
            )


def require_asked(checkpoint: Checkpoint, candidate: Candidate, sizes: Sizes | None) -> None:
    """Raise PatchParityError where a user told a size that the checkpoint does not have."""
    if sizes is None or not sizes.asked:
        return
    candidate_sizes, axes = candidate.sizes, 3 if sizes.frames else 2
    if sizes.frames and not candidate.dialect.video:
        raise PatchParityError(
            f"{checkpoint.path} is of images, and a size with {sizes.frames} frames was told"
        )
    grid = known_grid(
        candidate.dialect, candidate_sizes, sizes, candidate.stride, candidate.padding
    )
    if sizes.image_size and not grid:
        raise PatchParityError(
            f"an image of {'×'.join(map(str, sizes.image_size))} was told, which is smaller than a "
            "patch"
        )
    patch = (
        (candidate_sizes["Ph"], candidate_sizes["Pw"])
        if len(sizes.patch_size) < 3
        else tuple(candidate_sizes[name] for name in ("Pt", "Ph", "Pw") if name in candidate_sizes)
    )
    pairs = [
        ("patch", patch, sizes.patch_size),
        ("channels", (channels_of(candidate_sizes),), (sizes.channels,) if sizes.channels else ()),
        ("grid", candidate.grid[-axes:], grid[-axes:]),
    ]
    for name, have, asked in pairs:
        if asked and have and tuple(have) != tuple(asked):
            image_note = (
                f" (of {'×'.join(map(str, sizes.image_size))} pixels)" if name == "grid" else ""
            )
            raise PatchParityError(
                f"{checkpoint.path} has {name} {'×'.join(map(str, have))}, and "
                f"{'×'.join(map(str, asked))}{image_note} was told"
                f"{_way_to(name, candidate, _called(checkpoint))}"
            )


def _called(checkpoint: Checkpoint) -> str:
    """What config.json calls the model, or timm's name of it."""
    known = known_of(checkpoint, None)
    return known.model_type or known.architecture


def _way_to(name: str, candidate: Candidate, model_type: str) -> str:
    """Which recipe takes a stage to the size that was told, and what it would do, as the end of a
    sentence."""
    if candidate.dialect.stem:
        return ""
    if name == "grid":
        registers = "register_tokens" in candidate.names
        own = candidate.dialect.recipes(registers, model_type)
        return way_to_positions(own, bool(candidate.dialect.copies))
    recipe = {"patch": "pi-timm-bicubic-antialias", "channels": "timm"}[name]
    does = {
        "patch": "resizes the kernel as timm does",
        "channels": "takes the kernel to other channels as timm does",
    }[name]
    return f" (--resample {recipe} {does})"


def way_to_positions(own: Sequence[str], two_tables: bool = False) -> str:
    """The recipes by which a library resizes its positions, as a hint in brackets; of one that
    keeps another table for that, that it does."""
    if two_tables:
        return (
            " (its library makes those of every size from a second table of the file, which is not "
            "done here)"
        )
    if not own:
        return (
            " (its library resizes no positions; --resample RECIPE does, torch-bicubic-antialias "
            "say)"
        )
    ways = " or ".join(f"{name}: {in_words(get_recipe(name).rule)}" for name in own)
    return f" (--resample RECIPE resizes its positions; its library's own is {ways})"
