"""ONNX's operators that move values, in NumPy: a closed list (https://onnx.ai/onnx/operators/).

Laws: what a result would take is known before it is made; what is not of the list is not run.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Node

Array = NDArray[Any]

LARGEST_VALUE = 2**24
"""Values of anything that an operator makes: an image of 2048×2048 in three channels has three
quarters of that, the positions of 128×128 patches in a width of 1024 as many."""


class NotRun(Exception):  # noqa: N818  it is caught where it may be passed over
    """An operator that is not of the list, or that cannot be run on what it is given."""


def integers(array: Array | None) -> list[int]:
    """The numbers of a small tensor of sizes or axes.

    Raises:
        NotRun: none, or one that is no such thing.
    """
    if array is None or array.size > 4096:
        raise NotRun("sizes that are not known")
    return [int(number) for number in np.asarray(array).ravel()]


def require_room(values: float) -> None:
    """Raise NotRun for a result of more values than anything here has."""
    if not 0 <= values <= LARGEST_VALUE:
        raise NotRun(f"{values:.0f} values, more than {LARGEST_VALUE}")


def attribute(node: Node, name: str, default: Any) -> Any:
    """An attribute, of the kind that its default has.

    Raises:
        NotRun: one of another kind.
    """
    value = node.attributes.get(name, default)
    if isinstance(default, bool | int) and not isinstance(value, int | np.integer):
        raise NotRun(f"{name} = {value!r}")
    if isinstance(default, float) and not isinstance(value, float | int | np.floating):
        raise NotRun(f"{name} = {value!r}")
    if isinstance(default, str) and not isinstance(value, str):
        raise NotRun(f"{name} = {value!r}")
    return value


def axes_of(node: Node, inputs: Sequence[Array | None], place: int = 1) -> list[int] | None:
    """Axes, of an input (since opset 13 or 18) or an attribute; None where none are told."""
    if len(inputs) > place and inputs[place] is not None:
        return integers(inputs[place])
    axes = node.attributes.get("axes")
    return None if axes is None else [int(axis) for axis in axes]


def _reshape(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data = first_of(inputs)
    if len(inputs) > 1 and inputs[1] is not None:
        shape = integers(inputs[1])
    else:
        shape = [int(extent) for extent in node.attributes["shape"]]
    if not attribute(node, "allowzero", 0):
        shape = [data.shape[axis] if extent == 0 else extent for axis, extent in enumerate(shape)]
    if any(extent < -1 for extent in shape):
        raise NotRun(f"a shape of {shape}")
    return [data.reshape(shape)]


def _flatten(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, axis = first_of(inputs), attribute(node, "axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return [data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))]


def _squeeze(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    axes = axes_of(node, inputs)
    return [np.squeeze(first_of(inputs), None if axes is None else tuple(axes))]


def _unsqueeze(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    return [np.expand_dims(first_of(inputs), tuple(axes_of(node, inputs) or ()))]


def _transpose(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    return [np.transpose(first_of(inputs), node.attributes.get("perm"))]


def _slice(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data = first_of(inputs)
    if node.version < 10 and "starts" in node.attributes:
        starts, ends = (list(map(int, node.attributes[name])) for name in ("starts", "ends"))
        axes, steps = axes_of(node, inputs, 9), None
    else:
        starts, ends = integers(inputs[1]), integers(inputs[2])
        axes = integers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else None
        steps = integers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    places = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        extent = data.shape[axis]
        last: int | None = end
        if step < 0 and end < -extent:
            last = None
        if start < -extent:
            start = 0 if step > 0 else -extent - 1
        places[axis] = slice(start, last, step)
    return [data[tuple(places)]]


def _split(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, axis = first_of(inputs), attribute(node, "axis", 0)
    sizes: list[int] | None = None
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = integers(inputs[1])
    elif "split" in node.attributes:
        sizes = [int(size) for size in node.attributes["split"]]
    if sizes is None:
        count = len(node.outputs)
        part = -(-data.shape[axis] // count)
        sizes = [part] * (count - 1) + [data.shape[axis] - part * (count - 1)]
    if min(sizes) < 0 or sum(sizes) != data.shape[axis] or len(sizes) != len(node.outputs):
        raise NotRun(f"parts of {sizes}")
    return np.split(data, np.cumsum(sizes)[:-1], axis)


def _expand(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data = first_of(inputs)
    shape = np.broadcast_shapes(data.shape, tuple(integers(inputs[1])))
    require_room(math.prod(shape))
    return [np.broadcast_to(data, shape)]


def _tile(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, repeats = first_of(inputs), integers(inputs[1])
    require_room(data.size * math.prod(repeats))
    return [np.tile(data, repeats)]


def _gather(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, places = first_of(inputs), inputs[1]
    axis = attribute(node, "axis", 0)
    if places is None or places.dtype.kind not in "iu":
        raise NotRun("places that are not known")
    require_room(data.size // max(data.shape[axis], 1) * places.size)
    return [np.take(data, places, axis)]


def _gather_elements(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, places = first_of(inputs), inputs[1]
    if places is None:
        raise NotRun("places that are not known")
    return [np.take_along_axis(data, places.astype(np.int64), attribute(node, "axis", 0))]


def _gather_nd(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, places = first_of(inputs), inputs[1]
    if places is None or attribute(node, "batch_dims", 0):
        raise NotRun("places that are not known")
    return [data[tuple(np.moveaxis(places, -1, 0))]]


def _space_to_depth(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, side = first_of(inputs), attribute(node, "blocksize", 1)
    batch, channels, height, width = data.shape
    cut = data.reshape(batch, channels, height // side, side, width // side, side)
    shape = (batch, channels * side * side, height // side, width // side)
    return [cut.transpose(0, 3, 5, 1, 2, 4).reshape(shape)]


def _depth_to_space(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, side = first_of(inputs), attribute(node, "blocksize", 1)
    batch, channels, height, width = data.shape
    inner = channels // (side * side)
    if attribute(node, "mode", "DCR") == "CRD":
        cut = data.reshape(batch, inner, side, side, height, width).transpose(0, 1, 4, 2, 5, 3)
    else:
        cut = data.reshape(batch, side, side, inner, height, width).transpose(0, 3, 4, 1, 5, 2)
    return [cut.reshape(batch, inner, height * side, width * side)]


def pads_of(node: Node, inputs: Sequence[Array | None], axes: int) -> list[tuple[int, int]]:
    """Values before and after, along each axis, that a Pad adds; fewer than none are cut off."""
    if len(inputs) > 1 and inputs[1] is not None:
        pads = integers(inputs[1])
    else:
        pads = [int(pad) for pad in node.attributes.get("pads", node.attributes.get("paddings"))]
    along = (
        [axis % axes for axis in integers(inputs[3])]
        if len(inputs) > 3 and inputs[3] is not None
        else list(range(axes))
    )
    if len(pads) != 2 * len(along):
        raise NotRun(f"pads of {pads}")
    pairs = [(0, 0)] * axes
    for place, axis in enumerate(along):
        pairs[axis] = (pads[place], pads[place + len(along)])
    return pairs


def _pad(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data = first_of(inputs)
    pairs = pads_of(node, inputs, data.ndim)
    mode = attribute(node, "mode", "constant")
    cut = tuple(
        slice(max(-before, 0), extent - max(-after, 0))
        for extent, (before, after) in zip(data.shape, pairs, strict=True)
    )
    added = [(max(before, 0), max(after, 0)) for before, after in pairs]
    require_room(math.prod(size + sum(pair) for size, pair in zip(data.shape, added, strict=True)))
    value = fill
    if math.isnan(fill):
        of_input = len(inputs) > 2 and inputs[2] is not None
        value = np.asarray(inputs[2]).item() if of_input else node.attributes.get("value", 0.0)
    if mode == "constant":
        return [np.pad(data[cut], added, constant_values=value)]
    kinds = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    return [np.pad(data[cut], added, kinds[mode])]  # type: ignore[call-overload]


def _identity(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    return [first_of(inputs)]


Mover = Callable[[Node, Sequence[Array | None], float], list[Array]]
"""A node, its inputs (the first is moved), and what stands where nothing was; its outputs."""

MOVES: dict[str, Mover] = {
    "Identity": _identity,
    "Dropout": _identity,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "SpaceToDepth": _space_to_depth,
    "DepthToSpace": _depth_to_space,
    "Pad": _pad,
}
"""What moves values, and changes none."""


def move(node: Node, inputs: Sequence[Array | None], fill: float = math.nan) -> list[Array]:
    """Run what moves values.

    Args:
        node: an operator of `MOVES`.
        inputs: of it; the first is moved.
        fill: what stands where a Pad adds something; not a number for what the node says.

    Raises:
        NotRun: what it cannot be run on.
    """
    return guarded(MOVES[node.op], node, inputs, fill)


def guarded(function: Callable[..., list[Array]], *arguments: Any) -> list[Array]:
    """Run a function on arrays; whatever NumPy raises of them is a NotRun."""
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except NotRun:
        raise
    except MemoryError:
        raise NotRun("more memory than there is") from None
    except Exception as error:  # whatever NumPy raises of shapes that do not go together
        raise NotRun(f"{type(error).__name__}: {str(error)[:200]}") from None


def first_of(inputs: Sequence[Array | None]) -> Array:
    """The first input.

    Raises:
        NotRun: none.
    """
    if not inputs or inputs[0] is None:
        raise NotRun("an input is missing")
    return inputs[0]
