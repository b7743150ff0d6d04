"""ONNX's operators that make constants of constants, in NumPy: a closed list
(https://onnx.ai/onnx/operators/).

Laws: what a result would take is known before it is made; what is not of the list is not run.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ....reference.resize import resize_grid
from ..checkpoint import dtype_of
from .graph import Node
from .moves import (
    MOVES,
    Array,
    NotRun,
    attribute,
    axes_of,
    first_of,
    guarded,
    integers,
    move,
    require_room,
)


def _all(inputs: Sequence[Array | None]) -> list[Array]:
    given = [array for array in inputs if array is not None]
    if len(given) != len(inputs):
        raise NotRun("an input is missing")
    return given


def _constant(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    """A Constant whose value is an attribute of another kind than a tensor."""
    kinds = {"float": np.float32, "floats": np.float32, "int": np.int64, "ints": np.int64}
    for kind, dtype in kinds.items():
        if (value := node.attributes.get(f"value_{kind}")) is not None:
            return [np.asarray(value, dtype)]
    if isinstance(value := node.attributes.get("value"), np.ndarray):
        return [value]
    raise NotRun("a constant that is no number")


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
        data, axes = first_of(inputs), axes_of(node, inputs)
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
    return [first_of(inputs).astype(dtype_of(ELEMENT_TYPES[kind]))]


def _constant_of_shape(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    shape = integers(first_of(inputs))
    require_room(math.prod(shape))
    value = np.asarray(node.attributes.get("value", np.zeros(1, np.float32))).ravel()
    return [np.full(shape, value[0], value.dtype)]


def _range(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    start, limit, step = (array.item() for array in _all(inputs))
    if not step or not math.isfinite((limit - start) / step):
        raise NotRun("a range without end")
    require_room(max(math.ceil((limit - start) / step), 0))
    numbers: Array = np.arange(start, limit, step, dtype=first_of(inputs).dtype)
    return [numbers]


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
    data, recipe = first_of(inputs), recipe_of(node)
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
    data = first_of(inputs)
    return [data.mean(axis=tuple(range(2, data.ndim)), keepdims=True)]


def _clip(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    data = first_of(inputs)
    bounds: list[Any] = [*inputs[1:], None, None][:2]
    if node.version < 11:
        bounds = [node.attributes.get(name) for name in ("min", "max")]
    return [data if all(bound is None for bound in bounds) else np.clip(data, *bounds)]


def _eye(node: Node, inputs: Sequence[Array | None]) -> list[Array]:
    rows, columns = first_of(inputs).shape
    require_room(rows * columns)
    dtype = dtype_of(ELEMENT_TYPES[attribute(node, "dtype", 1)])
    return [np.eye(rows, columns, attribute(node, "k", 0)).astype(dtype)]


def _where(condition: Array, one: Array, other: Array) -> Array:
    return np.where(condition.astype(bool), one, other)


Operator = Callable[[Node, Sequence[Array | None]], list[Array]]
"""A node and its inputs; its outputs."""

ELEMENTWISE: dict[str, Callable[..., Any]] = {
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
    "Relu": lambda data: np.maximum(data, 0),
}
"""What is done value by value."""

NUMBERS: dict[str, Operator] = {
    "Concat": _concat,
    "Constant": _constant,
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
    "Shape": lambda node, inputs: [shape_of(node, first_of(inputs).shape)],
    "Size": lambda node, inputs: [np.asarray(first_of(inputs).size)],
    "ReduceMean": _reduced(np.mean),
    "ReduceSum": _reduced(np.sum),
    "ReduceProd": _reduced(np.prod),
    "ReduceMin": _reduced(np.min),
    "ReduceMax": _reduced(np.max),
    "ReduceSumSquare": _reduced(lambda data, **how: np.sum(data * data, **how)),
    "ReduceL2": _reduced(lambda data, **how: np.sqrt(np.sum(data * data, **how))),
    "Clip": _clip,
    **{name: _elementwise(function) for name, function in ELEMENTWISE.items()},
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
    return guarded(NUMBERS[node.op], node, inputs)
