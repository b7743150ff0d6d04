"""ONNX's operators in NumPy: a closed list, of what moves values and what makes constants of
constants (https://onnx.ai/onnx/operators/).

Laws: what a result would take is known before it is made; what is not of the list is not run.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.resize import resize_grid
from ..checkpoint import dtype_of
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
    data = _first(inputs)
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
    data, axis = _first(inputs), attribute(node, "axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    return [data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))]


def _squeeze(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    axes = axes_of(node, inputs)
    return [np.squeeze(_first(inputs), None if axes is None else tuple(axes))]


def _unsqueeze(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    return [np.expand_dims(_first(inputs), tuple(axes_of(node, inputs) or ()))]


def _transpose(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    return [np.transpose(_first(inputs), node.attributes.get("perm"))]


def _slice(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data = _first(inputs)
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
    data, axis = _first(inputs), attribute(node, "axis", 0)
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
    data = _first(inputs)
    shape = np.broadcast_shapes(data.shape, tuple(integers(inputs[1])))
    require_room(math.prod(shape))
    return [np.broadcast_to(data, shape)]


def _tile(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, repeats = _first(inputs), integers(inputs[1])
    require_room(data.size * math.prod(repeats))
    return [np.tile(data, repeats)]


def _gather(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, places = _first(inputs), inputs[1]
    axis = attribute(node, "axis", 0)
    if places is None or places.dtype.kind not in "iu":
        raise NotRun("places that are not known")
    require_room(data.size // max(data.shape[axis], 1) * places.size)
    return [np.take(data, places, axis)]


def _gather_elements(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, places = _first(inputs), inputs[1]
    if places is None:
        raise NotRun("places that are not known")
    return [np.take_along_axis(data, places.astype(np.int64), attribute(node, "axis", 0))]


def _gather_nd(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, places = _first(inputs), inputs[1]
    if places is None or attribute(node, "batch_dims", 0):
        raise NotRun("places that are not known")
    return [data[tuple(np.moveaxis(places, -1, 0))]]


def _space_to_depth(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, side = _first(inputs), attribute(node, "blocksize", 1)
    batch, channels, height, width = data.shape
    cut = data.reshape(batch, channels, height // side, side, width // side, side)
    shape = (batch, channels * side * side, height // side, width // side)
    return [cut.transpose(0, 3, 5, 1, 2, 4).reshape(shape)]


def _depth_to_space(node: Node, inputs: Sequence[Array | None], fill: float) -> list[Array]:
    data, side = _first(inputs), attribute(node, "blocksize", 1)
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
    data = _first(inputs)
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
    return [_first(inputs)]


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
    return _guarded(MOVES[node.op], node, inputs, fill)


def _guarded(function: Callable[..., list[Array]], *arguments: Any) -> list[Array]:
    try:
        with np.errstate(all="ignore"):
            return function(*arguments)
    except NotRun:
        raise
    except MemoryError:
        raise NotRun("more memory than there is") from None
    except Exception as error:  # whatever NumPy raises of shapes that do not go together
        raise NotRun(f"{type(error).__name__}: {str(error)[:200]}") from None


def _first(inputs: Sequence[Array | None]) -> Array:
    if not inputs or inputs[0] is None:
        raise NotRun("an input is missing")
    return inputs[0]


def _all(inputs: Sequence[Array | None]) -> list[Array]:
    given = [array for array in inputs if array is not None]
    if len(given) != len(inputs):
        raise NotRun("an input is missing")
    return given


def _concat(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    arrays = _all(inputs)
    require_room(sum(array.size for array in arrays))
    return [np.concatenate(arrays, attribute(node, "axis", 0))]


def _elementwise(function: Callable[..., Any]) -> Callable[[Node, Sequence[Array | None]], Any]:
    def run(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
        arrays = _all(inputs)
        require_room(math.prod(np.broadcast_shapes(*(array.shape for array in arrays))))
        return [np.asarray(function(*arrays))]

    return run


def _divide(one: Array, other: Array) -> Array:
    """Whole numbers are cut towards zero, as in C."""
    if one.dtype.kind not in "iu":
        return one / other
    if not np.all(other):
        raise NotRun("a division by zero")
    return (np.sign(one) * np.sign(other) * (np.abs(one) // np.abs(other))).astype(one.dtype)


def _reduced(function: Callable[..., Any]) -> Callable[[Node, Sequence[Array | None]], Any]:
    def run(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
        data, axes = _first(inputs), axes_of(node, inputs)
        if not axes and attribute(node, "noop_with_empty_axes", 0):
            return [data]
        kept = bool(attribute(node, "keepdims", 1))
        return [np.asarray(function(data, axis=tuple(axes) if axes else None, keepdims=kept))]

    return run


ELEMENT_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: "bfloat16",
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4_e2m1fn",
}
"""ONNX's numbers of element types (`TensorProto.DataType`) and NumPy's names of them."""


def _cast(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    kind = attribute(node, "to", 1)
    if kind not in ELEMENT_TYPES:
        raise NotRun(f"a cast to type {kind}")
    return [_first(inputs).astype(dtype_of(ELEMENT_TYPES[kind]))]


def _constant_of_shape(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    shape = integers(_first(inputs))
    require_room(math.prod(shape))
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).ravel()
    return [np.full(shape, value[0], value.dtype)]


def _range(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    start, limit, step = (array.item() for array in _all(inputs))
    if not step or not math.isfinite((limit - start) / step):
        raise NotRun("a range without end")
    require_room(max(math.ceil((limit - start) / step), 0))
    return [np.arange(start, limit, step, _first(inputs).dtype)]


def along_axis(scale: Array, shape: tuple[int, ...], axis: int, block: int = 0) -> Array:
    """A scale for each place of an axis (or for each block of such), as it is multiplied with."""
    if block:
        return np.repeat(scale, block, axis)[tuple(map(slice, shape))]
    if scale.ndim != 1 or scale.size == 1:
        return scale
    extents = [1] * len(shape)
    extents[axis] = scale.size
    return scale.reshape(extents)


def _dequantize(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, scale = _all(inputs[:2])
    zero = inputs[2] if len(inputs) > 2 else None
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    require_room(data.size)
    places = data.astype(np.int32)
    if zero is not None:
        places = places - along_axis(zero.astype(np.int32), data.shape, axis, block)
    wide = places.astype(scale.dtype if scale.dtype.itemsize > 2 else np.float32)
    scaled = wide * along_axis(scale.astype(wide.dtype), data.shape, axis, block)
    return [scaled.astype(scale.dtype)]


RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
"""Smallest and largest number of the types that a QuantizeLinear may make here."""


def _quantize(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, scale = _all(inputs[:2])
    zero = inputs[2] if len(inputs) > 2 and inputs[2] is not None else np.zeros((), np.uint8)
    axis, name = attribute(node, "axis", 1), zero.dtype.name
    if name not in RANGES or attribute(node, "block_size", 0):
        raise NotRun(f"a quantization to {name}")
    wide = scale.astype(data.dtype)
    rounded = np.rint(data / along_axis(wide, data.shape, axis))
    moved = rounded + along_axis(zero.astype(np.float64), data.shape, axis)
    return [np.clip(moved, *RANGES[name]).astype(zero.dtype)]


PLACES = {
    "half_pixel": "",
    "pytorch_half_pixel": "-pytorch-half-pixel",
    "align_corners": "-align-corners",
    "asymmetric": "-asymmetric",
}
"""Where ONNX's Resize takes samples, and how recipes (reference/recipes.py) end that do so."""


def recipe_of(node: Node) -> str:
    """The recipe of a Resize.

    Raises:
        NotRun: one that there is no recipe for.
    """
    mode = attribute(node, "mode", "nearest")
    place = attribute(node, "coordinate_transformation_mode", "half_pixel")
    a = round(attribute(node, "cubic_coeff_a", -0.75), 6)
    if mode not in ("linear", "cubic") or place not in PLACES or a not in (-0.75, -0.5):
        raise NotRun(f"a Resize of mode {mode}, {place}")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch" or node.version < 11:
        raise NotRun("a Resize of an old operator set, or that keeps ratios")
    smooth = "-antialias" if attribute(node, "antialias", 0) else ""
    edge = "-excluded" if attribute(node, "exclude_outside", 0) else ""
    edge = "" if mode == "linear" and not smooth else edge
    coefficient = "-a-0.5" if mode == "cubic" and a == -0.5 else ""
    return f"onnx-{mode}{smooth}{edge}{coefficient}{PLACES[place]}"


def _resize(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, recipe = _first(inputs), recipe_of(node)
    scales = inputs[2] if len(inputs) > 2 else None
    if len(inputs) > 3 and inputs[3] is not None and inputs[3].size:
        sizes = integers(inputs[3])
    elif scales is not None and scales.size == data.ndim:
        wanted = [size * float(by) for size, by in zip(data.shape, scales, strict=True)]
        sizes = [math.floor(size) for size in wanted]
        if any(abs(size - floor) > 1e-4 for size, floor in zip(wanted, sizes, strict=True)):
            raise NotRun("a Resize by a scale that gives no whole number")
    else:
        raise NotRun("a Resize to a size that is not known")
    axes = axes_of(node, inputs, 9) or list(range(data.ndim))
    full = list(data.shape)
    for axis, size in zip(axes, sizes, strict=True):
        full[axis] = size
    changed = [axis for axis, size in enumerate(full) if size != data.shape[axis]]
    require_room(math.prod(full))
    if not changed:
        return [data]
    inner = next((pair for pair in ((2, 3), (1, 2)) if {*changed} <= {*pair}), None)
    if inner is None or data.ndim != 4:
        raise NotRun("a Resize of other than rows and columns")
    order = [axis for axis in range(4) if axis not in inner]
    table = np.transpose(data, (*inner, *order))
    resized = resize_grid(
        table.reshape(*table.shape[:2], -1), [full[axis] for axis in inner], recipe
    )
    back = resized.reshape(*resized.shape[:2], *table.shape[2:]).astype(data.dtype)
    return [np.transpose(back, np.argsort((*inner, *order)))]


def _matmul(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    one, other = _all(inputs)
    require_room(one.size // max(one.shape[-1], 1) * other.size // max(other.shape[0], 1))
    require_room(one.size * (other.size // max(other.shape[0], 1)) / 2**8)
    return [one @ other]


def _layer_norm(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    data, scale = _all(inputs[:2])
    axis = attribute(node, "axis", -1)
    axes = tuple(range(axis % data.ndim, data.ndim))
    centered = node.op == "LayerNormalization"
    rest = data - data.mean(axis=axes, keepdims=True) if centered else data
    variance = (rest * rest).mean(axis=axes, keepdims=True)
    normed = rest / np.sqrt(variance + attribute(node, "epsilon", 1e-5)) * scale
    return [normed + inputs[2] if len(inputs) > 2 and inputs[2] is not None else normed]


def _global_mean(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = _first(inputs)
    return [data.mean(axis=tuple(range(2, data.ndim)), keepdims=True)]


def _eye(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    rows, columns = _first(inputs).shape
    dtype = dtype_of(ELEMENT_TYPES[attribute(node, "dtype", 1)])
    return [np.eye(rows, columns, attribute(node, "k", 0)).astype(dtype)]


def _where(condition: Array, one: Array, other: Array) -> Array:
    return np.where(condition.astype(bool), one, other)


Operator = Callable[[Node, Sequence[Array | None]], list[Array]]
"""A node and its inputs; its outputs."""

NUMBERS: dict[str, Operator] = {
    "Concat": _concat,
    "Cast": _cast,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "EyeLike": _eye,
    "GlobalAveragePool": _global_mean,
    "Resize": _resize,
    "MatMul": _matmul,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _layer_norm,
    "Shape": lambda node, inputs: [shape_of(node, _first(inputs).shape)],
    "Size": lambda node, inputs: [np.asarray(_first(inputs).size)],
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
    "ReduceProd": _reduced(np.prod),
    "ReduceMin": _reduced(np.min),
    "ReduceMax": _reduced(np.max),
    "ReduceSumSquare": _reduced(lambda data, **how: np.sum(data * data, **how)),
    "ReduceL2": _reduced(lambda data, **how: np.sqrt(np.sum(data * data, **how))),
    **{
        name: _elementwise(function)
        for name, function in {
            "Add": np.add,
            "Sub": np.subtract,
            "Mul": np.multiply,
            "Div": _divide,
            "Mod": np.mod,
            "Pow": lambda one, other: np.power(one, other).astype(one.dtype),
            "Neg": np.negative,
            "Abs": np.abs,
            "Sqrt": np.sqrt,
            "Reciprocal": np.reciprocal,
            "Exp": np.exp,
            "Log": np.log,
            "Sin": np.sin,
            "Cos": np.cos,
            "Floor": np.floor,
            "Ceil": np.ceil,
            "Round": np.round,
            "Equal": np.equal,
            "Greater": np.greater,
            "GreaterOrEqual": np.greater_equal,
            "Less": np.less,
            "LessOrEqual": np.less_equal,
            "Not": np.logical_not,
            "And": np.logical_and,
            "Or": np.logical_or,
            "Min": lambda *all_: np.minimum.reduce(np.broadcast_arrays(*all_)),
            "Max": lambda *all_: np.maximum.reduce(np.broadcast_arrays(*all_)),
            "Where": _where,
        }.items()
    },
}
"""What makes constants of constants; and, on numbers of our own, what norms are made of."""


def shape_of(node: Node, shape: Sequence[int]) -> Array:
    """What a Shape gives, the whole or a part."""
    start, end = attribute(node, "start", 0), node.attributes.get("end")
    return np.asarray(tuple(shape)[start:end], np.int64)


def compute(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    """Run an operator on arrays.

    Raises:
        NotRun: one that is not of the list, or cannot be run on these.
    """
    if node.op in MOVES:
        return move(node, inputs)
    if node.op not in NUMBERS:
        raise NotRun(f"{node.op}, which is not run")
    return _guarded(NUMBERS[node.op], node, inputs)
