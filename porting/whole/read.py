"""A whole model of a checkpoint: its embedding stage, its encoder, and what no tensor says."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...reference.errors import PatchParityError
from ..dialects.catalogue import list_dialects
from ..dialects.quantized import dequantized
from ..dialects.sizes import Sizes
from ..dialects.stage import Stage, read_stage, require_no_stem
from ..dialects.wrappers import unwrapped
from ..encoders.agreement import require_agreement
from ..encoders.buffers import with_buffers
from ..encoders.configurations import configuration_beside, read_configuration
from ..encoders.facts import facts_of
from ..encoders.found import FoundEncoder, blocks_of, find_encoder
from ..encoders.layout import EncoderModel
from ..encoders.load import list_encoders
from ..encoders.reading import read_semantics
from ..encoders.semantics import DEFAULTS, Semantics
from ..encoders.templates import is_of
from ..files.checkpoint import Checkpoint
from ..files.opening import opened
from ..proof.whole import Side


@dataclass(frozen=True, eq=False)
class WholeModel:
    """A whole model of a checkpoint.

    Args:
        checkpoint: the open file, under the names that it was read by.
        stage: its embedding stage.
        found: its encoder.
        semantics: what no tensor says.
        table: its configuration; empty for none.
        apart: what of the model lies in files that are not read, in sentences.
    """

    checkpoint: Checkpoint
    stage: Stage
    found: FoundEncoder
    semantics: Semantics
    table: Mapping[str, Any]
    apart: tuple[str, ...] = ()


def read_whole(
    file: Checkpoint,
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    semantics: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> WholeModel:
    """Read which tensors a whole model is made of, and what no tensor of it says; of the encoder no
    value is read.

    Args:
        file: an open checkpoint.
        from_: dialect of its embedding stage, where it is known.
        prefix: what stands before its names.
        sizes: what is known of them.
        semantics: what a user tells, by name of `SEMANTICS`.
        ignore: patterns of names that play no part.
        dialects: TOML files with dialects of embedding stages of your own.

    Raises:
        PatchParityError: what `read_stage` refuses; an encoder that is in no layout, or of which
            something is not told.
    """
    _require_no_adapter_beside(file)
    checkpoint = unwrapped(dequantized(file))
    stage = read_stage(checkpoint, from_, prefix, list_dialects(dialects), sizes, ignore)
    require_no_stem(checkpoint, stage)
    told = dict(semantics or {})
    found = find_encoder(checkpoint, stage, list_encoders(), {}, ignore)
    heat = told.get("rotary_temperature", DEFAULTS["rotary_temperature"])
    found = with_buffers(checkpoint, found, stage.candidate.prefix, heat)
    if prefix is None:
        _require_once(checkpoint, stage, found)
    table, where = configuration_beside(file, found.layout)
    structure = {"class_token": stage.weights.class_token is not None}
    read, _ = read_semantics(found, table, told, where, structure)
    if "h" not in found.sizes:
        heads = read["num_heads"]
        sizes_with_heads = {**found.sizes, "h": heads, "d": found.sizes["E"] // heads}
        found = dataclasses.replace(found, sizes=sizes_with_heads)
    facts = facts_of(found, read, stage.weights, stage.spec, stage.size_known)
    require_agreement(found.layout, table, facts, where)
    return WholeModel(checkpoint, stage, found, read, table, _elsewhere(file))


TASK, TASK_WEIGHTS = "task.json", "task.weights.h5"
"""What KerasHub's `save_to_preset` keeps of a task (a classifier) beside its backbone."""

ADAPTER = "adapter_config.json"
"""What peft keeps beside a model that it changes."""


def _require_no_adapter_beside(file: Checkpoint) -> None:
    """Raise PatchParityError for an adapter in a file of its own, which its library adds to the
    weights."""
    folder = file.config_folder
    if folder is not None and (folder / ADAPTER).is_file():
        raise PatchParityError(
            f"{folder} holds {ADAPTER}, of an adapter (LoRA) that transformers adds to these "
            "weights where peft is installed: merge it (merge_and_unload), or move it away"
        )


def _elsewhere(file: Checkpoint) -> tuple[str, ...]:
    """What of a model lies in other files beside its own, in sentences."""
    folder = file.config_folder
    if folder is not None and file.format == "h5" and (folder / TASK_WEIGHTS).is_file():
        kind = (read_configuration(folder / TASK) or {}).get("class_name", "a task")
        return (f"head: that of {kind} lies in {TASK_WEIGHTS}, which is not read",)
    return ()


def _require_once(checkpoint: Checkpoint, stage: Stage, found: FoundEncoder) -> None:
    """Raise PatchParityError where the same tensors are there under another prefix too: averaged
    weights, a teacher beside a student."""
    prefix = stage.candidate.prefix
    used = {name: info for name, info in checkpoint.tensors.items() if name not in found.left}
    shapes = {
        name.removeprefix(prefix): info.shape
        for name, info in used.items()
        if name.startswith(prefix)
    }
    first = next(iter(shapes))
    for name in found.left:
        other = name.removesuffix(first)
        twins = (checkpoint.tensors.get(f"{other}{inside}") for inside in shapes)
        if name.endswith(first) and all(
            twin is not None and twin.shape == shape
            for twin, shape in zip(twins, shapes.values(), strict=True)
        ):
            raise PatchParityError(
                f"{checkpoint.path} holds the model twice, under {prefix!r} and under {other!r}: "
                "--prefix says which is meant"
            )


def holds_blocks(
    source: str | os.PathLike[str],
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> bool:
    """Whether a checkpoint has blocks of a known layout behind its embedding stage.

    Args:
        source: a checkpoint.
        from_, prefix, sizes, ignore, dialects: as in `port_whole`.

    Raises:
        PatchParityError: what has no stage that can be read, and can be ported in no way.
    """
    with opened(source) as file:
        checkpoint = unwrapped(dequantized(file))
        known = list_dialects(dialects)
        stage = read_stage(checkpoint, from_, prefix, known, sizes, ignore)
        return bool(blocks_of(checkpoint, stage, list_encoders()))


HEADS = re.compile(
    r"(^|[./])((cls_|distillation_)?classifier|head|head_dist|fc|score|logits)([./]|$)"
)
"""Names of heads of classes."""


def heads_left(found: FoundEncoder) -> list[str]:
    """Tensors of a head that is no part of the reading: what the model itself makes of its tokens
    is another thing then."""
    return [name for name in found.left if HEADS.search(name)]


def source_model(whole: WholeModel) -> EncoderModel:
    """The class that a source's configuration tells, or the usual one of its layout."""
    models = whole.found.layout.models
    told = [model for model in models if whole.table and is_of(model, whole.table)] or models
    return next((model for model in told if _has_parts_of(whole.found, model)), told[0])


def _has_parts_of(found: FoundEncoder, model: EncoderModel) -> bool:
    """Whether an encoder has what a class of its layout must have, and nothing that it lacks."""
    words = {name.split(".")[0] for name in found.held}
    return set(model.requires) <= words and not words & set(model.lacks)


def side_of(whole: WholeModel, semantics: Semantics | None = None) -> Side:
    """A whole model as a proof runs it, of other semantics where some are given."""
    semantics = semantics or whole.semantics
    found = whole.found
    return Side(whole.stage, found.parts, found.layout.rms, found.depth, semantics)


def whole_table(whole: WholeModel) -> Mapping[str, Any]:
    """All of the configuration beside a file, of which `table` may be a part."""
    folder, model = whole.checkpoint.config_folder, source_model(whole)
    if folder is None or not model.file or not whole.table:
        return {}
    return read_configuration(folder / model.file) or {}
