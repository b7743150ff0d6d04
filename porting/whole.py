"""`port --whole`: a whole model, embedding stage and encoder, moved into another library's layout,
tensor by tensor, with the configuration that its library loads."""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import DTYPES
from ..reference.answer import Answer
from ..reference.errors import PatchParityError, require_choice
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .dialects.catalogue import get_dialect, list_dialects
from .dialects.dialect import Dialect
from .dialects.fit import cast, fit, losses_in_words, same_bits, steps_in_words, tensors_of
from .dialects.plan import Plan
from .dialects.quantized import dequantized
from .dialects.sizes import Sizes
from .dialects.stage import Stage, read_stage, require_no_stem
from .dialects.wrappers import UnwrappedCheckpoint, unwrapped
from .encoders.agreement import require_agreement
from .encoders.buffers import with_buffers
from .encoders.companions import companions_of
from .encoders.configurations import configuration_beside, read_configuration
from .encoders.found import FoundEncoder, Part, beside, blocks_of, find_encoder
from .encoders.layout import EncoderModel, Entry
from .encoders.load import list_encoders
from .encoders.semantics import (
    DEFAULTS,
    SEMANTICS,
    Semantics,
    configuration,
    facts_of,
    is_of,
    read_semantics,
)
from .encoders.semantics import TOLD as TOLD_BY_USER
from .encoders.steps import ENDS, State, Target, brought, moves_between, start
from .files.atomic import files_read
from .files.checkpoint import KEPT_AS, Checkpoint, dtype_of
from .files.compared import is_finite
from .files.formats import SUFFIXES
from .files.lazy import Lazy, Stored
from .files.opening import opened
from .files.streamed import write_streamed
from .files.writing import format_of
from .proof.compare import UNITS, Check
from .proof.moved import named
from .proof.whole import (
    Side,
    change_of,
    prove_by_library,
    prove_read_back,
    prove_same_function,
)


@dataclass(frozen=True, repr=False)
class WholePortReport(Answer):
    """What a port of a whole model did, and the proof that it was right.

    Args:
        source, target: layouts, and the class that takes the target.
        semantics: what no tensor says, and where it was read, in sentences.
        steps, losses: in sentences.
        tensors: how many were written.
        blocks: how many there are.
        left: names of the source that are no part of stage and encoder.
        checks: the proof.
        files: that were written.
        loads: how the target's library loads them.
        assumed: what was taken for what it mostly is, for nothing tells it, in sentences.
    """

    source: str
    target: str
    semantics: list[str]
    steps: list[str]
    losses: list[str]
    tensors: int
    blocks: int
    left: list[str]
    checks: list[Check]
    files: list[str]
    loads: str = ""
    assumed: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What was moved, how, its proof, and what was left."""
        return [
            f"{self.source} -> {self.target}: {self.tensors} tensors, {self.blocks} blocks",
            *self.semantics,
            *(f"step {step}" for step in self.steps),
            *(f"assumed {assumption}" for assumption in self.assumed),
            *(f"lost {loss}" for loss in self.losses),
            *(f"left {name}" for name in self.left),
            *(check.line() for check in self.checks),
            f"{', '.join(self.files)}: {self.loads}",
        ]

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.verdict != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.port-whole/1", "ok": self.ok, **dataclasses.asdict(self)}


@dataclass(frozen=True, eq=False)
class WholeModel:
    """A whole model of a checkpoint.

    Args:
        checkpoint: the open file, under the names that it was read by.
        stage: its embedding stage.
        found: its encoder.
        semantics: what no tensor says.
        table: its configuration; empty for none.
    """

    checkpoint: Checkpoint
    stage: Stage
    found: FoundEncoder
    semantics: Semantics
    table: Mapping[str, Any]


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
    return WholeModel(checkpoint, stage, found, read, table)


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


def port_whole(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    semantics: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    allow_loss: bool = False,
    prove: bool = True,
    shard_bytes: int | None = None,
    into: str | os.PathLike[str] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> WholePortReport:
    """Move a whole model into another library's layout, and prove it by running both.

    Args:
        source: a checkpoint of any dialect whose blocks are known.
        target: the new folder, or the new file; the configuration is written beside the weights.
        to: the dialect of the target's embedding stage (`timm-vit`, `hf-dinov2`, ...).
        from_, prefix, sizes: of the source's embedding stage, as in `port`.
        semantics: what no tensor says and no configuration tells: `num_heads`, `norm_epsilon`,
            `activation`, `pooling`.
        dtype: of the target; None keeps that of each tensor.
        allow_loss: leave out what the target cannot hold, and accept that it computes with another
            ε or activation, instead of refusing.
        prove: whether both libraries' own models are run, where they are installed, or else the
            NumPy encoder.
        shard_bytes: largest size of a shard; None for one file.
        into: an existing checkpoint of the target's layout (safetensors, shards of it, npz): a copy
            is written in which the model's tensors are replaced, in the types that they have there,
            and all others stay as they are, bit by bit.
        ignore: names, or patterns of the shell's kind, that play no part.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: a source that is not whole, a target that cannot hold or compute it, a
            proof that failed (nothing is then written).

    Examples:
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=24, num_attention_heads=3)
        >>> config = transformers.Dinov2Config(num_hidden_layers=2, mlp_ratio=2, **sizes)
        >>> transformers.Dinov2Model(config).save_pretrained("dinov2")
        >>> patchparity.port_whole("dinov2", "in-timm", "timm-vit").blocks
        2
    """
    wanted = get_dialect(to, list_dialects(dialects))
    if dtype is not None:
        require_choice("dtype", dtype, DTYPES)
    if into is not None and dtype is not None:
        raise PatchParityError("--into keeps the types that are there: leave --dtype out")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(opened(source))
        whole = read_whole(
            file,
            from_=from_,
            prefix=prefix,
            sizes=sizes,
            semantics=semantics,
            ignore=ignore,
            dialects=dialects,
        )
        if into is not None:
            from .whole_into import configuration_of, fit_into, tensors_into

            there = stack.enter_context(opened(into))
            held = read_whole(there, from_=to, dialects=dialects)
            moved = fit_into(whole, held, allow_loss)
            place = _place(target, moved.target, wanted, shard_bytes)
            tensors = tensors_into(whole, moved, held, there)
            companions = configuration_of(held)
        else:
            moved = fit_whole(whole, wanted, allow_loss)
            place = _place(target, moved.target, wanted, shard_bytes)
            tensors = tensors_of_whole(whole, moved, dtype)
            companions = companions_of(moved.target.model, moved.facts, tensors)
        _require_apart(source, place, companions)
        _require_apart(into, place, companions)
        _require_no_other(place, moved.target.model, companions)
        checks: list[Check] = []

        def prove_draft(draft: Path) -> None:
            checks.extend(_proof(file, whole, moved, draft, dtype, prove))
            if wrong := next((check for check in checks if check.verdict == "fail"), None):
                raise PatchParityError(
                    f"the proof failed, and {target} was not written: {wrong.name}: {wrong.message}"
                )

        written_for = "mlx" if wanted.mlx else "pt"
        metadata = {"format": written_for} if format_of(place) == "safetensors" else None
        with _folder(place.parent):
            write_streamed(
                place,
                tensors,
                metadata,
                prove_draft,
                shard_bytes=shard_bytes,
                companions=companions,
                finite=True,
            )
    return WholePortReport(
        f"{whole.stage.candidate.label}, {whole.found.layout.title}",
        f"{to}, {moved.target.model.name}",
        whole.semantics.lines(),
        _steps(whole, moved, dtype),
        moved.losses,
        len(tensors),
        moved.state.depth,
        _left(whole.found),
        checks,
        [str(place), *(str(place.parent / name) for name in companions)],
        _loads(moved, place) if into is None else f"as {into}",
        whole.stage.assumptions,
    )


@dataclass(frozen=True, eq=False)
class MovedModel:
    """A whole model as its target holds it.

    Args:
        target: the layout and the class of its encoder.
        dialect: of its embedding stage.
        state: its encoder.
        weights: its stage, as the dialect holds it.
        spec: the sizes of that.
        plan: what was done to the stage.
        facts: all that a configuration may be told.
    """

    target: Target
    dialect: Dialect
    state: State
    weights: PatchEmbedWeights
    spec: PatchEmbedSpec
    plan: Plan
    facts: Mapping[str, Any]

    @property
    def losses(self) -> list[str]:
        """What the target cannot hold or compute, in sentences."""
        return [*losses_in_words(self.plan), *self.state.losses]


def fit_whole(whole: WholeModel, dialect: Dialect, allow_loss: bool = False) -> MovedModel:
    """A whole model as another layout holds it: the class of its library that loses nothing, or
    with `allow_loss` the one that loses least.

    Raises:
        PatchParityError: no class can hold it, with the reason of the one that comes nearest.
    """
    layouts = [
        layout
        for layout in list_encoders().values()
        if dialect.id.removesuffix("-mlx") in layout.stages and not layout.read_only
    ]
    if not layouts:
        raise PatchParityError(
            f"{dialect.id}: of its library the embedding stage is known and not the blocks; "
            f"whole models go to {', '.join(whole_targets())}"
        )
    refused: list[tuple[tuple[bool, int], PatchParityError]] = []
    fitting: list[MovedModel] = []
    for target in (Target(layout, model) for layout in layouts for model in layout.models):
        try:
            fitting.append(moved_to(whole, target, dialect))
        except PatchParityError as error:
            refused.append((_apart(whole, target), error))
    if not fitting:
        raise min(refused, key=lambda pair: pair[0])[1]
    best = min(fitting, key=lambda moved: len(moved.losses))
    if best.losses and not allow_loss:
        raise PatchParityError(
            f"{best.target.model.name} cannot hold or compute all of {whole.found.layout.title}: "
            f"{'; '.join(best.losses)} (--allow-loss accepts that)"
        )
    return best


def _apart(whole: WholeModel, target: Target) -> tuple[bool, int]:
    """Whether a class has positions of another kind; and how many fields of an encoder it has no
    place for, or needs beside them."""
    found = whole.found
    homeless = sum(not target.holds(name) for name in found.held)
    turned = target.fixed["rotary"] != whole.semantics["rotary"]
    return turned, homeless + sum(target.lacks(name, found.held) for name in target.layout.fields)


def moved_to(
    whole: WholeModel, target: Target, dialect: Dialect, there: tuple[str, ...] = ()
) -> MovedModel:
    """A whole model as a class of another library holds it, with what is lost; `there` are fields
    of the stage that an existing checkpoint has.

    Raises:
        PatchParityError: something that it cannot do without, or that its configuration cannot say.
    """
    stage = whole.stage
    requires = tuple(name for name in target.layout.stage_requires if name in dialect.entries)
    weights, plan = fit(
        stage.weights,
        stage.spec,
        dialect,
        (*requires, *there),
        stage.size_known,
        stage.dialect.computed,
    )
    state = brought(start(whole.found, whole.semantics), target)
    facts = facts_of(state, state.semantics, weights, stage.spec, stage.size_known)
    _require_structure(target, facts)
    configuration(target.model, facts)
    return MovedModel(target, dialect, state, weights, stage.spec, plan, facts)


def whole_targets() -> list[str]:
    """Dialects that whole models can be moved to."""
    return list(
        dict.fromkeys(
            stage
            for layout in list_encoders().values()
            if not layout.read_only
            for stage in layout.stages
        )
    )


def _require_structure(target: Target, facts: Mapping[str, Any]) -> None:
    for name, value in target.fixed.items():
        if name not in SEMANTICS and name in facts and value not in (facts[name], "any"):
            raise PatchParityError(
                f"{target.model.name} has {name.replace('_', ' ')} {value}, and the source "
                f"{facts[name]}"
            )


def _require_folder_name(path: Path) -> None:
    """Raise PatchParityError for what looks like a file of a format that nobody knows."""
    suffix = path.suffix[1:]
    if suffix.isalpha() and not path.is_dir():
        raise PatchParityError(
            f"{path}: no format has names that end in .{suffix}; expected a folder, or "
            f"{', '.join(SUFFIXES)}"
        )


def _place(
    target: str | os.PathLike[str], wanted: Target, dialect: Dialect, shard_bytes: int | None
) -> Path:
    """The file of the weights: the one that is named, or the usual one in a folder.

    Raises:
        PatchParityError: a file of another format than the dialect is kept in.
    """
    path = Path(target)
    if not str(target):
        raise PatchParityError("the target has no name: expected a folder, or a file in one")
    if path.suffix not in SUFFIXES or path.is_dir():
        _require_folder_name(path)
        name = wanted.model.weights
        path = path / (f"{name}.index.json" if shard_bytes else name)
    if str(path).endswith(".index.json") and not wanted.model.name.startswith("transformers"):
        raise PatchParityError(
            f"{wanted.model.name} is loaded from one file, and from no shards: leave --shard-size "
            "out"
        )
    kind = format_of(path)
    if KEPT_AS.get(kind, kind) not in dialect.formats:
        raise PatchParityError(
            f"{path}: {dialect.id} is kept in {', '.join(dialect.formats)}, and this name is of "
            f"{kind}"
        )
    return path


def _require_apart(
    source: str | os.PathLike[str] | None, place: Path, companions: Iterable[str]
) -> None:
    """Raise PatchParityError where what is written would replace what is read."""
    if source is None:
        return
    read = {path.resolve() for path in files_read(source) if path.exists()}
    for path in (place, *(place.parent / name for name in companions)):
        if path.resolve() in read:
            raise PatchParityError(
                f"cannot write {path}: it is a file of {source}, which is read; name another folder"
            )


def _require_no_other(place: Path, model: EncoderModel, companions: Mapping[str, bytes]) -> None:
    """Raise PatchParityError where another model's configuration is in the folder."""
    there = read_configuration(place.parent / model.file) if model.file in companions else None
    if there is not None and there != json.loads(companions[model.file]):
        raise PatchParityError(
            f"{place.parent} holds another model, as its {model.file} says: name another folder, "
            "or empty that one"
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
    """Whether a checkpoint has blocks of a known layout behind its embedding stage; no where it has
    no stage that can be read.

    Args:
        source: a checkpoint.
        from_, prefix, sizes, ignore, dialects: as in `port_whole`.
    """
    try:
        with opened(source) as file:
            checkpoint = unwrapped(dequantized(file))
            known = list_dialects(dialects)
            stage = read_stage(checkpoint, from_, prefix, known, sizes, ignore)
            return bool(blocks_of(checkpoint, stage, list_encoders()))
    except PatchParityError:
        return False


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A folder that is there, and is gone again where nothing came into it."""
    try:
        there = folder.exists()
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise PatchParityError(f"cannot make {folder}: {error.strerror or error}") from None
    try:
        yield
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def tensors_of_whole(whole: WholeModel, moved: MovedModel, dtype: str | None) -> dict[str, Lazy]:
    """The tensors of the target, each made when its turn comes."""
    model, layout = moved.target.model, moved.target.layout
    weights = cast(moved.weights, dtype)
    under = model.under + layout.stage_under
    tensors = {
        name: held_tensor(array)
        for name, array in tensors_of(weights, moved.spec, moved.dialect, under).items()
    }
    for number in range(moved.state.depth):
        for entry in layout.entries:
            if entry.of_blocks and not entry.stacked:
                parts = [moved.state.parts.get(f"blocks.{number}.{name}") for name in entry.fields]
                tensors |= one_tensor(whole, moved, entry, entry.named(number), parts, dtype)
    for entry in layout.entries:
        if not entry.of_blocks:
            parts = [moved.state.parts.get(name) for name in entry.fields]
            tensors |= one_tensor(whole, moved, entry, entry.name, parts, dtype)
        elif entry.stacked:
            tensors |= stacked_tensor(whole, moved, entry, dtype)
    for name, axes in model.empty.items():
        shape = tuple(
            int(axis) if axis.isdigit() else moved.state.sizes[axis] for axis in axes.split()
        )
        empty = held_tensor(np.zeros(shape, weights.kernel.dtype))
        tensors.setdefault(model.under + name, empty)
    return tensors


def _named(moved: MovedModel, name: str) -> str:
    under = moved.target.model.under
    return beside(under) + name[1:] if name.startswith("^") else under + name


def held_tensor(array: NDArray[Any]) -> Lazy:
    """A tensor that is in memory."""
    return Lazy(array.shape, array.dtype.name, lambda: array)


def one_tensor(
    whole: WholeModel,
    moved: MovedModel,
    entry: Entry,
    name: str,
    parts: Sequence[Part | None],
    dtype: str | None,
) -> dict[str, Lazy]:
    """One tensor of these parts; none where they are not there."""
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):
        if there:
            raise PatchParityError(f"{name} needs {', '.join(entry.fields)}, and one is not there")
        return {}
    kinds = {part.dtype for part in there}
    if len(kinds) > 1 and dtype is None:
        raise PatchParityError(
            f"{name} is made of tensors of {' and '.join(sorted(kinds))}: --dtype makes them one"
        )
    sizes = moved.state.sizes
    kind = dtype or there[0].dtype

    def read() -> NDArray[Any]:
        return _cast(entry.whole([part.read() for part in there], sizes), kind, name)

    tensor = there[0].tensor
    same = (
        bool(tensor)
        and all(part.tensor == tensor for part in there)
        and there[0].entry is not None
        and there[0].entry.fields == entry.fields
        and there[0].entry.axes == entry.axes
        and kind == there[0].dtype
    )
    source = _bytes_of(whole.checkpoint, tensor) if same else None
    ranges = () if same else ranges_of(whole.checkpoint, entry, there, kind)
    return {_named(moved, name): Lazy(entry.shape(sizes), kind, read, source, ranges)}


def ranges_of(
    checkpoint: Checkpoint, entry: Entry, parts: Sequence[Part], kind: str
) -> tuple[Stored, ...]:
    """The bytes of the source that a tensor of these parts is, one behind the other; none where its
    values, or theirs, lie in another order or are of another type."""
    ranges = []
    for part in parts if entry.in_order else ():
        if part.first is None or part.dtype != kind:
            return ()
        ranges.append(Stored(*_bytes_of(checkpoint, part.tensor), part.first, part.nbytes))
    return tuple(ranges)


def _bytes_of(checkpoint: Checkpoint, name: str) -> tuple[Checkpoint, str]:
    """Where the bytes of a tensor lie, through whatever it was unwrapped from."""
    if isinstance(checkpoint, UnwrappedCheckpoint):
        return _bytes_of(checkpoint.wrapped, checkpoint.names[name])
    return checkpoint, name


def stacked_tensor(
    whole: WholeModel, moved: MovedModel, entry: Entry, dtype: str | None
) -> dict[str, Lazy]:
    """One tensor of the parts of all blocks."""
    state = moved.state
    columns = [
        [state.parts.get(f"blocks.{number}.{name}") for number in range(state.depth)]
        for name in entry.fields
    ]
    if any(part is None for column in columns for part in column):
        return {}
    kind = dtype or next(iter(state.parts.values())).dtype
    sizes = {**state.sizes, "n": state.depth}

    def read() -> NDArray[Any]:
        parts = [np.stack([part.read() for part in column if part]) for column in columns]
        return _cast(entry.whole(parts, sizes), kind, entry.name)

    rows = [part for row in zip(*columns, strict=True) for part in row if part]
    ranges = ranges_of(whole.checkpoint, entry, rows, kind)
    return {_named(moved, entry.name): Lazy(entry.shape(sizes), kind, read, None, ranges)}


def _cast(array: NDArray[Any], kind: str, name: str) -> NDArray[Any]:
    if array.dtype.name == kind:
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype_of(kind))
    if not is_finite(narrow):
        raise PatchParityError(
            f"{name} has values up to {float(np.abs(array.astype(np.float64)).max()):.3g}, beyond "
            f"what {kind} reaches to"
        )
    return narrow


def _loads(moved: MovedModel, place: Path) -> str:
    """How the library loads what was written."""
    model = moved.target.model
    if moved.dialect.mlx:
        return f"mlx.core.load('{place}'), of modules with these names"
    call = model.call.format(folder=place.parent, file=place)
    by_folder = "{folder}" in model.call and "{file}" not in model.call
    if by_folder and place.name not in (model.weights, f"{model.weights}.index.json"):
        return f"{call}, once it is called {model.weights}"
    return call


def _proof(
    file: Checkpoint,
    whole: WholeModel,
    moved: MovedModel,
    draft: Path,
    dtype: str | None,
    prove: bool,
) -> list[Check]:
    """What was written, read again as anybody would read it, and both sides run."""
    semantics, model = moved.state.semantics, moved.target.model
    with opened(draft) as written:
        told = {} if model.file else {name: semantics[name] for name in TOLD}
        back = read_whole(
            written,
            from_=moved.dialect.id,
            sizes=whole.stage.sizes if whole.stage.size_known else None,
            semantics=told,
        )
        checks = [
            _stage_reads_back(cast(moved.weights, dtype), back.stage),
            prove_read_back(moved.state.parts, back.found.parts, prove),
            _semantics_read_back(semantics, back.semantics, bool(moved.state.losses)),
        ]
        if not prove or any(check.verdict == "fail" for check in checks):
            return checks
        kinds = [part.dtype for part in back.found.parts.values()]
        source, target = _both_sides(whole, back, semantics)
        if moved.state.losses:
            change = change_of(side_of(whole), target)
            words = f"what leaves the last block changes by {change:.1e} of its size"
            checks.append(Check("what is lost", "skip", None, words))
        coarsest = max([*kinds, back.stage.dtype], key=UNITS.__getitem__)
        checks.append(prove_same_function(source, target, coarsest))
        for side, held, name, weights, kind, complete in (
            ("source", whole, source_model(whole).name, file.path, file.format, False),
            ("target", back, model.name, draft, written.format, True),
        ):
            pooled = not held.semantics.origins.get("pooling", "").startswith(TOLD_BY_USER)
            own = pooled and not heads_left(held.found)
            whose = dataclasses.replace(side_of(held), own_head=own)
            proved = prove_by_library(whose, name, weights, kind, whole_table(held), complete)
            checks.append(named(proved, side))
    return checks


def _both_sides(whole: WholeModel, back: WholeModel, semantics: Semantics) -> tuple[Side, Side]:
    """Source and target of what both hold: without ends that the target has no place for."""
    source = side_of(whole, semantics.but(pairing=whole.semantics["pairing"]))
    target = side_of(back, semantics)
    held = back.found.held
    lost = {name for name in whole.found.held if name.split(".")[0] in ENDS and name not in held}
    parts = {name: part for name, part in source.parts.items() if name not in lost}
    source = dataclasses.replace(source, parts=parts)
    if "pool.probe" in lost:
        nothing = semantics.but(pooling="none")
        source = dataclasses.replace(
            source, semantics=nothing.but(pairing=whole.semantics["pairing"])
        )
        target = dataclasses.replace(target, semantics=nothing)
    return source, target


HEADS = re.compile(
    r"(^|[./])((cls_|distillation_)?classifier|head|head_dist|fc|score|logits)([./]|$)"
)
"""Names of heads of classes."""


def heads_left(found: FoundEncoder) -> list[str]:
    """Tensors of a head that is no part of the reading: what the model itself makes of its tokens
    is another thing then."""
    return [name for name in found.left if HEADS.search(name)]


TOLD = ("num_heads", "norm_epsilon", "activation", "pooling")
"""What a user may tell of a file that has no configuration."""


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


def _stage_reads_back(meant: PatchEmbedWeights, back: Stage) -> Check:
    read = back.weights
    if back.dialect.computed and meant.positions is None:  # which no file of it holds
        read = dataclasses.replace(read, positions=None)
    if different := same_bits(meant, read):
        return Check("stage reads back", "fail", math.inf, f"{different[0]} reads back otherwise")
    return Check("stage reads back", "pass", 0.0, "the same bits")


def _semantics_read_back(meant: Semantics, back: Semantics, lost: bool) -> Check:
    """What no tensor says, as the written configuration says it."""
    name = "semantics read back"
    for key in SEMANTICS:
        differs = meant[key] != back[key]
        if key == "pooling" and "none" in (meant[key], back[key]):
            differs = False
        if key == "rotary_temperature" and not meant["rotary"]:
            differs = False
        if differs:
            return Check(
                name, "fail", math.inf, f"{SEMANTICS[key]} {meant[key]} reads back {back[key]}"
            )
    told = "as the target computes them, which is not as the source does" if lost else "the same"
    return Check(name, "pass", 0.0, told)


def _steps(whole: WholeModel, moved: MovedModel, dtype: str | None) -> list[str]:
    """What was done, in sentences."""
    steps = [
        *(f"read: {note}" for note in whole.stage.notes),
        *(f"read: {note}" for note in _read_otherwise(whole)),
        *steps_in_words(moved.plan),
        *moved.state.steps,
        *moves_between(moved.state, moved.target),
    ]
    kinds = {part.dtype for part in moved.state.parts.values()} | {whole.stage.dtype}
    if dtype is not None and kinds != {dtype}:
        steps.append(f"cast: tensors rounded to {dtype}, as --dtype says")
    return steps


def _read_otherwise(whole: WholeModel) -> list[str]:
    """What was done to tensors of the encoder on reading them, in sentences."""
    told = whole.checkpoint.told
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(part.tensor for part in whole.found.parts.values()):
        if name in told:
            groups.setdefault(told[name], []).append(name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {phrase}"
        for phrase, names in groups.items()
    ]


def _left(found: FoundEncoder) -> list[str]:
    """What was left, by the first part of its name."""
    groups: dict[str, list[str]] = {}
    for name in found.left:
        groups.setdefault(name.split("." if "." in name else "/")[0], []).append(name)
    return [
        names[0] if len(names) == 1 else f"{word}: {len(names)} tensors, {names[0]} the first"
        for word, names in groups.items()
    ]
