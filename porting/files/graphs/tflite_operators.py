"""The operators of TFLite in ONNX's words; what each of them means is in
https://www.tensorflow.org/mlir/tfl_ops. One that is not here keeps its name, `tflite.NAME`.

Laws: an image and its kernel are turned to ONNX's order and back, and stay what they are; where a
choice of an operator is not known here, it is not translated."""

from collections.abc import Callable

import numpy as np

from .tflite_step import Result, Step
from .translation import LAST, sliced, swapped

SAME, VALID = 0, 1
"""Paddings of the schema."""


def _pads(step: Step, spatial: tuple[int | None, ...], kernel: list[int]) -> dict[str, object]:
    """`pads` of a convolution, or `auto_pad` where an extent of the image is open."""
    strides, dilations = step.strides
    if step.padding == VALID:
        return {"pads": [0] * (2 * len(kernel))}
    if None in spatial:
        return {"auto_pad": "SAME_UPPER"}
    totals = [
        max((-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1 - extent, 0)
        for extent, stride, size, dilation in zip(
            [extent or 0 for extent in spatial], strides, kernel, dilations, strict=True
        )
    ]
    return {"pads": [total // 2 for total in totals] + [total - total // 2 for total in totals]}


def _convolution(
    step: Step, order: list[int], spatial: int, activation: int, group: int | None = None
) -> Result:
    """A convolution over channels that are last; order: of the kernel's axes, as ONNX has them."""
    image, kernel = step.shape(0), step.shape(1)
    strides, dilations = step.strides
    if (
        len(image) != spatial + 2
        or len(kernel) != spatial + 2
        or None in kernel
        or min(*strides, *dilations) < 1
        or step.padding not in (SAME, VALID)
    ):
        return None
    sizes = [kernel[axis] or 0 for axis in order]
    channels = image[-1]
    if group is None:
        if channels is None or not sizes[1] or channels % sizes[1]:
            return None
        group = channels // sizes[1]
    axes = range(spatial)
    last_first = [0, spatial + 1, *(1 + axis for axis in axes)]
    first_last = [0, *(2 + axis for axis in axes), 1]
    inputs = [step.transpose(step.real(0), last_first), step.transpose(step.real(1), order)]
    if step.given(2):
        inputs.append(step.real(2))
    found = step.one(
        "Conv",
        *inputs,
        strides=list(strides),
        dilations=list(dilations),
        group=group,
        kernel_shape=sizes[2:],
        **_pads(step, image[1:-1], sizes[2:]),
    )
    return step.activated(step.transpose(found, first_last), activation)


def _conv_2d(step: Step) -> Result:
    step.read_window((2, 1), (5, 4))
    return _convolution(step, [0, 3, 1, 2], 2, 3)


def _depthwise(step: Step) -> Result:
    step.read_window((2, 1), (6, 5))
    channels = step.shape(0)[-1:]
    if not channels or channels[0] is None:
        return None
    return _convolution(step, [3, 0, 1, 2], 2, 4, channels[0])


def _conv_3d(step: Step) -> Result:
    step.read_window((1, 3, 2), (5, 7, 6))
    return _convolution(step, [4, 3, 0, 1, 2], 3, 4)


def _fully_connected(step: Step) -> Result:
    weights, outputs = step.shape(1), step.out_shape()
    if len(weights) != 2 or weights[1] is None or step.option(1, "b"):
        return None
    value = step.real(0)
    if not step.option(2, "?"):  # whatever the axes were, one of rows
        value = step.one("Reshape", value, step.integers([-1, weights[1]]))
    elif len(outputs) < 2:
        return None
    value = step.one("MatMul", value, step.transpose(step.real(1), [1, 0]))
    if step.given(2):
        value = step.one("Add", value, step.real(2))
    return step.activated(value, 0)


def _batch_matmul(step: Step) -> Result:
    values = []
    for place in (0, 1):
        value, rank = step.real(place), len(step.shape(place))
        if rank < 2:
            return None
        values.append(step.transpose(value, swapped(rank)) if step.option(place, "?") else value)
    return step.one("MatMul", *values)


def _binary(op: str, activation: int | None = None) -> Callable[[Step], Result]:
    def translated(step: Step) -> Result:
        found = step.one(op, step.real(0), step.real(1))
        return found if activation is None else step.activated(found, activation)

    return translated


def _unary(op: str, **attributes: object) -> Callable[[Step], Result]:
    return lambda step: step.one(op, step.real(0), **attributes)


def _clipped(low: float, high: float) -> Callable[[Step], Result]:
    return lambda step: step.clip(step.real(0), low, high)


def _reduced(op: str) -> Callable[[Step], Result]:
    def translated(step: Step) -> Result:
        axes = step.numbers(1)
        if not axes:  # all of them, or an order that is not known yet
            return None
        return step.one(op, step.real(0), step.integers(axes), keepdims=int(step.option(0, "?")))

    return translated


def _squared_difference(step: Step) -> Result:
    difference = step.one("Sub", step.real(0), step.real(1))
    return step.one("Mul", difference, difference)


def _reciprocal_root(step: Step) -> Result:
    return step.one("Reciprocal", step.one("Sqrt", step.real(0)))


def _square(step: Step) -> Result:
    return step.one("Mul", step.real(0), step.real(0))


def _sum_of_all(step: Step) -> Result:
    return step.one("Sum", *(step.real(place) for place in range(step.count)))


def _reshape(step: Step) -> Result:
    shape = step.numbers(1) if step.given(1) else step.option_numbers(0)
    if shape is None:
        return step.one("Reshape", step.real(0), step.long(1))
    if 0 in shape or shape.count(-1) > 1 or min(shape, default=0) < -1:
        return None  # a zero is a zero here, and an extent that is kept in ONNX
    return step.one("Reshape", step.real(0), step.integers(shape))


def _transpose(step: Step) -> Result:
    order = step.numbers(1)
    return None if order is None else step.transpose(step.real(0), order)


def _pad(step: Step, mode: str = "constant") -> Result:
    pads = step.numbers(1)
    if not pads or len(pads) % 2:
        return None
    inputs = [step.real(0), step.integers([*pads[::2], *pads[1::2]])]
    if mode == "constant" and step.given(2):
        value = step.real(2)
        inputs.append(step.one("Reshape", value, step.integers([])) if step.shape(2) else value)
    return step.one("Pad", *inputs, mode=mode)


def _mirror_pad(step: Step) -> Result:
    return _pad(step, "reflect") if step.option(0, "b") == 0 else None


def _concatenation(step: Step) -> Result:
    values = [step.real(place) for place in range(step.count)]
    return step.activated(step.one("Concat", *values, axis=step.option(0, "i")), 1)


def _expand_dims(step: Step) -> Result:
    axes = step.numbers(1)
    return None if not axes else step.one("Unsqueeze", step.real(0), step.integers(axes))


def _squeeze(step: Step) -> Result:
    axes = step.option_numbers(0)
    return step.one("Squeeze", step.real(0), *([step.integers(axes)] if axes else []))


def _strided_slice(step: Step) -> Result:
    begin, end, strides = (step.numbers(place) for place in (1, 2, 3))
    if begin is None or end is None or strides is None or 0 in strides:
        return None
    if len({len(begin), len(end), len(strides)}) != 1:
        return None
    if step.option(2, "i") or step.option(3, "i") or step.option(5, "?"):
        return None
    masks = step.option(0, "i"), step.option(1, "i"), step.option(4, "i")
    starts, ends, steps, taken = sliced(begin, end, strides, masks)
    axes = list(range(len(starts)))
    value = step.one("Slice", step.real(0), *map(step.integers, (starts, ends, axes, steps)))
    return step.one("Squeeze", value, step.integers(taken)) if taken else value


def _slice(step: Step) -> Result:
    begin, sizes = step.numbers(1), step.numbers(2)
    if begin is None or sizes is None or len(begin) != len(sizes) or min(begin, default=0) < 0:
        return None
    ends = [LAST if size < 0 else first + size for first, size in zip(begin, sizes, strict=True)]
    axes = list(range(len(begin)))
    return step.one("Slice", step.real(0), *map(step.integers, (begin, ends, axes)))


def _pack(step: Step) -> Result:
    axis = step.option(1, "i")
    values = [
        step.one("Unsqueeze", step.real(place), step.integers([axis]))
        for place in range(step.count)
    ]
    return step.one("Concat", *values, axis=axis)


def _unpack(step: Step) -> Result:
    axis, count = step.option(1, "i"), step.outs
    if count == 1:
        return step.one("Squeeze", step.real(0), step.integers([axis]))
    parts = step.several("Split", [step.real(0)], axis=axis, num_outputs=count)
    return tuple(step.one("Squeeze", part, step.integers([axis])) for part in parts)


def _split(step: Step) -> Result:
    axes = step.numbers(0)
    if not axes or step.option(0, "i") != step.outs:
        return None
    return step.several("Split", [step.real(1)], axis=axes[0], num_outputs=step.outs)


def _split_by_sizes(step: Step) -> Result:
    sizes, axes = step.numbers(1), step.numbers(2)
    if not sizes or not axes or min(sizes) < 0 or len(sizes) != step.outs:
        return None
    return step.several("Split", [step.real(0), step.integers(sizes)], axis=axes[0])


def _gather(step: Step) -> Result:
    if step.option(1, "i"):
        return None
    return step.one("Gather", step.real(0), step.raw(1), axis=step.option(0, "i"))


def _gather_by_indices(step: Step) -> Result:
    return step.one("GatherND", step.real(0), step.long(1))


def _embedding_lookup(step: Step) -> Result:
    return step.one("Gather", step.real(1), step.raw(0), axis=0)


def _filled(step: Step) -> Result:
    return step.one("Expand", step.real(1), step.long(0))


def _expanded(op: str) -> Callable[[Step], Result]:
    return lambda step: step.one(op, step.real(0), step.long(1))


def _shape(step: Step) -> Result:
    return step.cast(step.one("Shape", step.raw(0)), step.out_type())


def _cast(step: Step) -> Result:
    if not step.out_type() or step.quantized(0) or step.out_quantized():
        return None
    return step.cast(step.raw(0), step.out_type())


def _same_numbers(step: Step) -> Result:
    """Of integers and back: as real numbers what it was."""
    return step.real(0)


def _softmax(step: Step) -> Result:
    beta, value = step.option(0, "f", 0.0), step.real(0)
    if beta != 1.0:
        value = step.one("Mul", value, step.value(np.float32(beta)))
    return step.one("Softmax", value, axis=-1)


def _gelu(step: Step) -> Result:
    approximate = "tanh" if step.option(0, "?") else "none"
    return step.one("Gelu", step.real(0), approximate=approximate, version=20)


def _leaky(step: Step) -> Result:
    return step.one("LeakyRelu", step.real(0), alpha=float(step.option(0, "f", 0.0)))


def _space_to_depth(step: Step) -> Result:
    size, shape = step.option(0, "i"), step.shape(0)
    if size < 1 or len(shape) != 4:
        return None
    value = step.transpose(step.real(0), [0, 3, 1, 2])
    return step.transpose(step.one("SpaceToDepth", value, blocksize=size), [0, 2, 3, 1])


def _resized(step: Step) -> Result:
    corners, centers = step.option(2, "?"), step.option(3, "?")
    if (corners and centers) or len(step.shape(0)) != 4:
        return None
    where = "align_corners" if corners else "half_pixel" if centers else "asymmetric"
    return step.one(
        "Resize",
        step.real(0),
        "",
        "",
        step.long(1),
        axes=[1, 2],
        mode="linear",
        coordinate_transformation_mode=where,
    )


def _chosen(step: Step) -> Result:
    return step.one("Where", step.raw(0), step.real(1), step.real(2))


def _range(step: Step) -> Result:
    return step.one("Range", step.real(0), step.real(1), step.real(2))


def _zeros_like(step: Step) -> Result:
    zero = step.value(np.zeros((), step.out_type() or "float32"))
    return step.one("Expand", zero, step.one("Shape", step.real(0)))


TRANSLATORS: dict[str, Callable[[Step], Result]] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "CONV_3D": _conv_3d,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "ADD": _binary("Add", 0),
    "SUB": _binary("Sub", 0),
    "MUL": _binary("Mul", 0),
    "DIV": _binary("Div", 0),
    "POW": _binary("Pow"),
    "MAXIMUM": _binary("Max"),
    "MINIMUM": _binary("Min"),
    "EQUAL": _binary("Equal"),
    "LESS": _binary("Less"),
    "LESS_EQUAL": _binary("LessOrEqual"),
    "GREATER": _binary("Greater"),
    "GREATER_EQUAL": _binary("GreaterOrEqual"),
    "LOGICAL_AND": _binary("And"),
    "LOGICAL_OR": _binary("Or"),
    "SQUARED_DIFFERENCE": _squared_difference,
    "ADD_N": _sum_of_all,
    "NEG": _unary("Neg"),
    "ABS": _unary("Abs"),
    "EXP": _unary("Exp"),
    "LOG": _unary("Log"),
    "SQRT": _unary("Sqrt"),
    "RSQRT": _reciprocal_root,
    "SQUARE": _square,
    "SIN": _unary("Sin"),
    "COS": _unary("Cos"),
    "FLOOR": _unary("Floor"),
    "CEIL": _unary("Ceil"),
    "ROUND": _unary("Round"),
    "LOGISTIC": _unary("Sigmoid"),
    "TANH": _unary("Tanh"),
    "RELU": _unary("Relu"),
    "ELU": _unary("Elu"),
    "HARD_SWISH": _unary("HardSwish"),
    "LOGICAL_NOT": _unary("Not"),
    "RELU6": _clipped(0.0, 6.0),
    "RELU_N1_TO_1": _clipped(-1.0, 1.0),
    "RELU_0_TO_1": _clipped(0.0, 1.0),
    "LEAKY_RELU": _leaky,
    "GELU": _gelu,
    "SOFTMAX": _softmax,
    "MEAN": _reduced("ReduceMean"),
    "SUM": _reduced("ReduceSum"),
    "REDUCE_PROD": _reduced("ReduceProd"),
    "REDUCE_MAX": _reduced("ReduceMax"),
    "REDUCE_MIN": _reduced("ReduceMin"),
    "RESHAPE": _reshape,
    "TRANSPOSE": _transpose,
    "PAD": _pad,
    "PADV2": _pad,
    "MIRROR_PAD": _mirror_pad,
    "CONCATENATION": _concatenation,
    "EXPAND_DIMS": _expand_dims,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "PACK": _pack,
    "UNPACK": _unpack,
    "SPLIT": _split,
    "SPLIT_V": _split_by_sizes,
    "GATHER": _gather,
    "GATHER_ND": _gather_by_indices,
    "EMBEDDING_LOOKUP": _embedding_lookup,
    "FILL": _filled,
    "TILE": _expanded("Tile"),
    "BROADCAST_TO": _expanded("Expand"),
    "SHAPE": _shape,
    "CAST": _cast,
    "DEQUANTIZE": _same_numbers,
    "QUANTIZE": _same_numbers,
    "SPACE_TO_DEPTH": _space_to_depth,
    "RESIZE_BILINEAR": _resized,
    "SELECT": _chosen,
    "SELECT_V2": _chosen,
    "RANGE": _range,
    "ZEROS_LIKE": _zeros_like,
}
"""By TFLite's names."""
