"""The tensors of the target of a port, each made or copied when its turn comes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ..dialects.fit import cast, tensors_of
from ..dialects.wrappers import UnwrappedCheckpoint
from ..encoders.found import Part, beside
from ..encoders.layout import Entry
from ..files.checkpoint import Checkpoint, dtype_of
from ..files.compared import is_finite
from ..files.lazy import Lazy, Stored
from .fit import MovedModel
from .read import WholeModel


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


def _named(moved: MovedModel, name: str) -> str:
    under = moved.target.model.under
    return beside(under) + name[1:] if name.startswith("^") else under + name


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
