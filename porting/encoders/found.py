"""Finding the encoder of a checkpoint behind its embedding stage: which layout its names are, block
by block, with every tensor accounted for."""

import fnmatch
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ...backends.base import DTYPES
from ...reference.errors import PatchParityError
from ..dialects.choosing import QUANTIZED
from ..dialects.stage import Stage
from ..files.checkpoint import Checkpoint, TensorInfo
from ..files.compared import is_finite, not_finite
from .layout import FIELDS, EncoderLayout, Entry

ADVICE = {
    r"(?i)(^|[._/])(lora|dora|ia3|hada|lokr|adapter)": "an adapter: merge it into the weights "
    "first",
    r"(?i)(scale|zero_?points?|zeros|absmax|quant_map|quant_state|SCB|g_idx|qweight|_inv)$": "of "
    "quantized weights: dequantize them first",
}
"""What tells by its name that leaving it out would change the model, and what to do with it: names
of peft, bitsandbytes, GPTQ, AWQ and of checkpoints in float8."""


@dataclass(frozen=True, eq=False)
class Part:
    """One canonical matrix or vector, read when it is asked for.

    Args:
        shape: canonical.
        dtype: of the file.
        read: makes it.
        tensor: the tensor of the file that it is in; empty where it was made up.
        entry: how it is kept there, and which of its parts it is.
        first: byte of the tensor's values where its own begin, where they lie there one behind the
            other as they are; None where they do not.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]]
    tensor: str = ""
    entry: Entry | None = None
    first: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return TensorInfo(self.shape, self.dtype).nbytes


@dataclass(frozen=True, eq=False)
class FoundEncoder:
    """The encoder of a checkpoint.

    Args:
        layout: of its names.
        depth: number of blocks.
        sizes: of its axes.
        parts: by canonical name, `blocks.3.query.weight` or `final_norm.scale`.
        left: tensors that are no part of stage or encoder, with what they are.
    """

    layout: EncoderLayout
    depth: int
    sizes: Mapping[str, int]
    parts: Mapping[str, Part]
    left: Mapping[str, str] = field(default_factory=dict)

    @functools.cached_property
    def held(self) -> frozenset[str]:
        """Fields that are there, without the number of their block."""
        return frozenset(field_of(name) for name in self.parts)


def field_of(name: str) -> str:
    """The field of a canonical name."""
    return name.split(".", 2)[2] if name.startswith("blocks.") else name


def beside(prefix: str) -> str:
    """What stands before the names beside a model, of what stands before those within."""
    return re.sub(r"[^./]+[./]$", "", prefix)


@dataclass(frozen=True)
class _Match:
    """The tensors of a layout in a checkpoint, by entry and block; −1 for those of none."""

    layout: EncoderLayout
    prefix: str
    tensors: Mapping[tuple[Entry, int], str]
    spare: tuple[str, ...]

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of its blocks."""
        return tuple(sorted({number for _, number in self.tensors if number >= 0}))


def find_encoder(
    checkpoint: Checkpoint,
    stage: Stage,
    layouts: Mapping[str, EncoderLayout],
    known: Mapping[str, int],
    ignore: Sequence[str] = (),
) -> FoundEncoder:
    """The encoder behind a stage.

    Args:
        checkpoint: an open one, under the names that the stage was read by.
        stage: what was read.
        layouts: those to try.
        known: sizes that are known beside the tensors, such as `h`.
        ignore: patterns of names that play no part.

    Raises:
        PatchParityError: no layout of this stage, a tensor of the encoder that nothing explains,
            a block that is missing or other than the others, tensors that are no weights.
    """
    fitting = [
        layout
        for layout in layouts.values()
        if stage.dialect.id.removesuffix("-mlx") in layout.stages
    ]
    if not fitting:
        raise PatchParityError(
            f"{checkpoint.path} is {stage.candidate.label}, of which the embedding stage is known "
            "and not the blocks: --stage ports that alone"
        )
    known = {"D": stage.spec.embed_dim, **known}
    matches = [_match(checkpoint, stage, layout, ignore) for layout in fitting]
    faults = [(match, _faults(checkpoint, match, known)) for match in matches]
    good = [match for match, wrong in faults if not wrong]
    if good:  # a classifier is a model and more
        most = max(good, key=lambda match: len(match.tensors))
        _require_one_reading(checkpoint, most, good)
        return _read(checkpoint, stage, most, known)
    match, wrong = min(faults, key=lambda pair: (-len(pair[0].tensors), len(pair[0].spare)))
    if not match.tensors:
        raise PatchParityError(
            f"{checkpoint.path} holds an embedding stage ({stage.candidate.label}) and no blocks "
            f"of {', '.join(layout.id for layout in fitting)}: --stage ports the stage alone"
        )
    raise PatchParityError(f"{checkpoint.path}, read as {match.layout.title}: {wrong[0]}")


def _require_one_reading(checkpoint: Checkpoint, match: _Match, others: Sequence[_Match]) -> None:
    """Raise PatchParityError where another layout takes the same tensors for other parts."""
    fields = {name: entry.fields for (entry, _), name in match.tensors.items()}
    for other in others:
        if len(other.tensors) < len(fields):
            continue
        for (entry, _), name in other.tensors.items():
            if name in fields and fields[name] != entry.fields:
                raise PatchParityError(
                    f"{checkpoint.path}: {name} may be {fields[name][0]} ({match.layout.title}) or "
                    f"{entry.fields[0]} ({other.layout.title}), and its shape fits both"
                )


def blocks_of(checkpoint: Checkpoint, stage: Stage, layouts: Mapping[str, EncoderLayout]) -> int:
    """How many tensors of blocks there are behind a stage, in the layout that has most of them."""
    matches = [
        _match(checkpoint, stage, layout, ())
        for layout in layouts.values()
        if stage.dialect.id.removesuffix("-mlx") in layout.stages
    ]
    return max((sum(entry.of_blocks for entry, _ in match.tensors) for match in matches), default=0)


def _match(
    checkpoint: Checkpoint, stage: Stage, layout: EncoderLayout, ignore: Sequence[str]
) -> _Match:
    prefix = stage.candidate.prefix
    if layout.stage_under:
        if not prefix.endswith(layout.stage_under):
            return _Match(layout, prefix, {}, ())
        prefix = prefix.removesuffix(layout.stage_under)
    outside = beside(prefix)
    used = set(stage.candidate.names.values())
    copies = {entry.name for entry in stage.candidate.ledger if entry.status == "copy"}
    tensors: dict[tuple[Entry, int], str] = {}
    spare = []
    exact = {
        (outside if entry.name.startswith("^") else prefix) + entry.name.lstrip("^"): entry
        for entry in layout.entries
        if "n}" not in entry.name and (prefix or not entry.name.startswith("^"))
    }
    numbered = [entry for entry in layout.entries if "n}" in entry.name]
    for name, info in checkpoint.tensors.items():
        if name in used or name in copies:
            continue
        if name in exact:
            tensors[exact[name], -1] = name
            continue
        if not name.startswith(prefix):
            continue
        inside = name.removeprefix(prefix)
        entry, number = _numbered(numbered, inside)
        if entry is not None:
            tensors[entry, number] = name
        elif not _plays_no_part(inside, info, layout, (name, *ignore), ignore):
            spare.append(name)
    return _Match(layout, prefix, tensors, tuple(spare))


def _numbered(entries: Sequence[Entry], name: str) -> tuple[Entry | None, int]:
    for entry in entries:
        if not name.endswith(entry.ending):
            continue
        # 007 and 7 would be one block: a number has one name
        if (found := entry.pattern.fullmatch(name)) and name == entry.named(int(found[1] or 0)):
            return entry, int(found[1] or 0)
    return None, -1


def _plays_no_part(
    inside: str,
    info: TensorInfo,
    layout: EncoderLayout,
    names: Sequence[str],
    ignore: Sequence[str],
) -> bool:
    if 0 in info.shape or any(re.fullmatch(pattern, inside) for pattern in layout.ignored):
        return True
    return any(fnmatch.fnmatchcase(names[0], pattern) for pattern in ignore)


def _faults(checkpoint: Checkpoint, match: _Match, known: Mapping[str, int]) -> list[str]:
    """Why a checkpoint is not in this layout, in sentences."""
    layout, numbers = match.layout, match.numbers
    wrong = []
    stacked = any(entry.stacked for entry, _ in match.tensors)
    if not numbers and not stacked:
        return ["it has no blocks"]
    if numbers and numbers[-1] != len(numbers) - 1:
        first = next(place for place, number in enumerate(numbers) if place != number)
        count = numbers[-1] + 1 - len(numbers)
        wrong.append(
            f"block {first} of {numbers[-1] + 1} is missing"
            f"{f', and {count - 1} more' if count > 1 else ''}"
        )
    if match.spare:
        more = f", and {len(match.spare) - 1} more" if len(match.spare) > 1 else ""
        wrong.append(
            f"{match.spare[0]} {tuple(checkpoint.tensors[match.spare[0]].shape)} is no part of it"
            f"{more} ({_advice(match.spare[0])})"
        )
    held = {name for entry, _ in match.tensors for name in entry.fields}
    for entry in layout.entries:
        needed = not all(
            layout.is_optional(name) and not layout.completes(name, held) for name in entry.fields
        )
        if not entry.of_blocks or entry.stacked:
            if (entry, -1) not in match.tensors and needed:
                prefix = "" if entry.name.startswith("^") else match.prefix
                wrong.append(f"{prefix}{entry.name.removeprefix('^')} is missing")
            continue
        without = [number for number in numbers if (entry, number) not in match.tensors]
        if without and (needed or len(without) < len(numbers)):
            some = len(numbers) - len(without)
            having = f": {some} of {len(numbers)} blocks have it" if some else ""
            wrong.append(f"{match.prefix}{entry.named(without[0])} is missing{having}")
    return wrong or _misfits(checkpoint, match, known)


def _advice(name: str) -> str:
    """What helps with a tensor that is no part of an encoder."""
    return next(
        (advice for pattern, advice in ADVICE.items() if re.search(pattern, name)),
        "--ignore leaves out what plays no part",
    )


def _sizes(
    checkpoint: Checkpoint, match: _Match, known: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Sizes of the axes, and why they do not fit together."""
    sizes, wrong = dict(known), []
    # those of single axes tell what is merged in others, and a pooler how wide the head is
    for entry, number in sorted(
        match.tensors, key=lambda pair: (pair[0].axes.count("("), "head.weight" in pair[0].fields)
    ):
        name = match.tensors[entry, number]
        shape = checkpoint.tensors[name].shape
        solved = entry.sizes(shape, sizes)
        if solved is None:
            told = ", ".join(
                f"{letter} = {size}" for letter, size in sizes.items() if letter in entry.letters
            )
            wrong.append(f"{name} of shape {tuple(shape)} is no ({entry.axes}) where {told}")
        else:
            sizes = {letter: size for letter, size in solved.items() if letter not in ("p", "1")}
    return sizes, wrong


def _misfits(checkpoint: Checkpoint, match: _Match, known: Mapping[str, int]) -> list[str]:
    sizes, wrong = _sizes(checkpoint, match, known)
    if wrong:
        return wrong
    if "n" in sizes and match.numbers:
        return ["it has blocks under numbers and stacked ones"]
    heads, width = sizes.get("h"), sizes.get("E")
    if heads and width and width % heads:
        return [f"{heads} heads do not divide the width of attention, {width}"]
    return []


def _read(
    checkpoint: Checkpoint, stage: Stage, match: _Match, known: Mapping[str, int]
) -> FoundEncoder:
    sizes, _ = _sizes(checkpoint, match, known)
    parts: dict[str, Part] = {}
    kinds: dict[str, set[str]] = {}
    for (entry, number), name in match.tensors.items():
        info = checkpoint.tensors[name]
        if info.dtype not in DTYPES:
            quantized = info.dtype in QUANTIZED
            why = "quantized: dequantize it first" if quantized else "no type of weights"
            raise PatchParityError(f"{checkpoint.path}: {name} is of dtype {info.dtype}, {why}")
        kinds.setdefault(info.dtype, set()).add(name)
        parts.update(_parts(checkpoint, entry, number, name, sizes))
    depth = len(match.numbers) or sizes["n"]
    ordered = sorted(parts, key=_place_of)
    return FoundEncoder(
        match.layout,
        depth,
        sizes,
        {name: parts[name] for name in ordered},
        _left(checkpoint, stage, match),
    )


def _place_of(name: str) -> tuple[int, int, int]:
    order = list(FIELDS)
    if name.startswith("blocks."):
        return 0, int(name.split(".")[1]), order.index(field_of(name))
    return 1, 0, order.index(name)


def _parts(
    checkpoint: Checkpoint, entry: Entry, number: int, name: str, sizes: Mapping[str, int]
) -> dict[str, Part]:
    """The canonical parts in one tensor."""
    dtype = checkpoint.tensors[name].dtype
    shape = _canonical_shapes(entry, sizes)
    nbytes = TensorInfo(shape, dtype).nbytes
    seen: set[int | None] = set()

    def reading(k: int, block: int) -> Callable[[], NDArray[Any]]:
        def read() -> NDArray[Any]:
            row = block if entry.stacked and entry.letters[0] == "n" else None
            array = checkpoint.view(name, row)
            if row not in seen and not is_finite(array):
                raise not_finite(f"{checkpoint.path}: {name}")
            seen.add(row)
            if row is not None:
                return entry.parts(array, {**sizes, "n": 1})[k][0]
            part = entry.parts(array, sizes)[k]
            return part[block] if entry.stacked else part

        return read

    parts = {}
    for k, field_name in enumerate(entry.fields):
        for block in range(sizes["n"]) if entry.stacked else (number,):
            place = (block if entry.stacked else 0) * len(entry.fields) + k
            first = place * nbytes if entry.in_order else None
            called = f"blocks.{block}.{field_name}" if entry.of_blocks else field_name
            parts[called] = Part(shape, dtype, reading(k, block), name, entry, first)
    return parts


def _canonical_shapes(entry: Entry, sizes: Mapping[str, int]) -> tuple[int, ...]:
    axes = entry.canonical.split(" ", entry.stacked + (len(entry.fields) > 1))[-1]
    plain = Entry(entry.fields[:1], "", axes)
    return plain.shape(sizes)


def _left(checkpoint: Checkpoint, stage: Stage, match: _Match) -> dict[str, str]:
    """What is neither in the stage nor in the encoder: other parts of a larger model, and what
    plays no part."""
    used = {*stage.candidate.names.values(), *match.tensors.values()}
    used |= {entry.name for entry in stage.candidate.ledger if entry.status == "copy"}
    return {
        name: "plays no part" if name.startswith(match.prefix) and match.prefix else "another part"
        for name in checkpoint.tensors
        if name not in used
    }
