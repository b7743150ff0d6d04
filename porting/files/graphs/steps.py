"""Operators that an image meets on its way to the first block, beside those that move values."""

from collections.abc import Callable

import numpy as np

from .folding import Known, merged
from .graph import Node
from .moves import NotRun, attribute
from .projection import conv, convolved, gemm, matmul, multiplied
from .values import Followed, concatenated, constant
from .walk import Walk


def _add(walk: Walk, node: Node) -> dict[str, Followed]:
    value: Followed | None = None
    constants = []
    for each in node.inputs:
        if each in walk.values:
            if value is not None:
                raise NotRun("of two values that depend on the image")
            value = walk.values[each]
        else:
            constants.append(walk.known(each))
    assert value is not None
    _require_floats(value)
    for known in constants:
        if known.array.size == 1 and not np.any(known.array):
            continue
        value = value.plus(known)
    return {node.outputs[0]: value}


def _require_floats(value: Followed) -> None:
    if value.kind == "sequence":
        raise NotRun("behind the norm of the sequence")
    if value.quantized:
        raise NotRun("over whole numbers")


def _subtract(walk: Walk, node: Node) -> dict[str, Followed]:
    value, known, first = _one_of_two(walk, node)
    _require_floats(value)
    if first:
        return {node.outputs[0]: value.plus(merged([known], -known.array, "negative", ran=True))}
    turned = value.times(Known(np.asarray(-1, np.float32), ran=True))
    return {node.outputs[0]: turned.plus(known)}


def _multiply(walk: Walk, node: Node) -> dict[str, Followed]:
    value, known, _ = _one_of_two(walk, node)
    if value.kind == "sequence":
        raise NotRun("behind the norm of the sequence")
    if np.all(known.array == 1) and known.array.size == 1:
        return {node.outputs[0]: value}
    return {node.outputs[0]: value.times(known)}


def _divide(walk: Walk, node: Node) -> dict[str, Followed]:
    value, known, first = _one_of_two(walk, node)
    _require_floats(value)
    wide = known.array.astype(np.float64)
    if not first or not np.all(wide):
        raise NotRun("by what the image holds, or by zero")
    return {node.outputs[0]: value.times(merged([known], 1 / wide, "inverted", ran=True))}


def _negate(walk: Walk, node: Node) -> dict[str, Followed]:
    value = walk.followed(node)
    _require_floats(value)
    return {node.outputs[0]: value.times(Known(np.asarray(-1, np.float32), ran=True))}


def _one_of_two(walk: Walk, node: Node) -> tuple[Followed, Known, bool]:
    """A value, a constant, and whether the value comes first."""
    first, second = node.inputs[:2]
    if first in walk.values and second in walk.values:
        raise NotRun("of two values that depend on the image")
    if first in walk.values:
        return walk.values[first], walk.known(second), True
    return walk.values[second], walk.known(first), False


def _cast(walk: Walk, node: Node) -> dict[str, Followed]:
    value, kind = walk.followed(node), attribute(node, "to", 1)
    if kind not in (1, 10, 11, 16) or value.quantized in ("static", "dynamic"):
        raise NotRun("to or from whole numbers")
    return {node.outputs[0]: Followed(value.kind, value.layers)}


def _concat(walk: Walk, node: Node) -> dict[str, Followed]:
    values = [walk.values.get(each) for each in node.inputs]
    first = next(value for value in values if value is not None)
    if first.kind == "sequence":
        raise NotRun("behind the norm of the sequence")
    parts = [
        constant(walk.known(each), first.kind) if value is None else value
        for value, each in zip(values, node.inputs, strict=True)
    ]
    try:
        return {node.outputs[0]: concatenated(parts, attribute(node, "axis", 0))}
    except (ValueError, IndexError):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise NotRun(f"of shapes {shapes}") from None


def _batch_norm(walk: Walk, node: Node) -> dict[str, Followed]:
    value = walk.followed(node)
    _require_floats(value)
    if attribute(node, "training_mode", 0):
        raise NotRun("in training mode")
    held = [walk.known(each) for each in node.inputs[1:5]]
    scale, shift, mean, variance = (known.array.astype(np.float64) for known in held)
    root = np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    if not np.all(root > 0):
        raise NotRun("a variance below zero")
    by = scale / root
    shape = (-1, *(1,) * (len(value.shape) - 2))
    walk.way.notes.append(
        "a batch norm by fixed statistics stands on the way; here kernel and bias hold that"
    )
    done = value.times(merged([held[0], held[3]], by.reshape(shape), "of a batch norm", ran=True))
    more = merged(held, (shift - mean * by).reshape(shape), "of a batch norm", ran=True)
    return {node.outputs[0]: done.plus(more)}


QUANTIZED = (
    "values on the way of the image are rounded to whole numbers as the graph runs (quantization): "
    "here they are not"
)


def _quantize(walk: Walk, node: Node) -> dict[str, Followed]:
    value = walk.followed(node)
    if value.quantized:
        raise NotRun("of whole numbers")
    walk.note(QUANTIZED)
    return {node.outputs[0]: Followed(value.kind, value.layers, "static")}


def _quantize_at_run_time(walk: Walk, node: Node) -> dict[str, Followed]:
    made = {
        name: Followed(value.kind, value.layers, "dynamic")
        for name, value in _quantize(walk, node).items()
    }
    one, zero = Known(np.asarray(1, np.float32)), Known(np.asarray(0, np.uint8))
    walk.folder.tell(dict(zip(node.outputs[1:], (one, zero), strict=False)))
    return made


def _dequantize(walk: Walk, node: Node) -> dict[str, Followed]:
    value = walk.followed(node)
    if value.quantized not in ("", "static"):
        raise NotRun("of a scale that is not known")
    if value.quantized:
        return {node.outputs[0]: Followed(value.kind, value.layers)}
    scale, zero = walk.known(node.inputs[1]), walk.optional(node, 2)
    if scale.array.size != 1:
        raise NotRun("of pixels, with several scales")
    if zero is not None and np.any(zero.array):
        value = value.plus(merged([zero], -zero.array.astype(np.float32), ran=True))
    return {node.outputs[0]: value.times(scale)}


def _whole(weights: Known, zero: Known | None, axis: int) -> Known:
    """Quantized weights less their zero point."""
    array = weights.array.astype(np.float32)
    if zero is not None and np.any(zero.array):
        point = zero.array.astype(np.float32).ravel()
        shape = [1] * array.ndim
        shape[axis] = -1
        array = array - (point if point.size == 1 else point.reshape(shape))
    return merged([weights], array, f"dequantized from {weights.array.dtype.name}", ran=True)


def _integer_conv(walk: Walk, node: Node) -> dict[str, Followed]:
    value = walk.followed(node)
    if value.quantized != "dynamic":
        raise NotRun("of whole numbers whose scale is not known")
    kernel = _whole(walk.known(node.inputs[1]), walk.optional(node, 3), 0)
    made = convolved(walk, node, Followed(value.kind, value.layers), kernel, None)
    return {name: Followed(each.kind, each.layers, "product") for name, each in made.items()}


def _integer_matmul(walk: Walk, node: Node) -> dict[str, Followed]:
    value = walk.followed(node)
    if value.quantized != "dynamic":
        raise NotRun("of whole numbers whose scale is not known")
    matrix = _whole(walk.known(node.inputs[1]), walk.optional(node, 3), 1)
    made = multiplied(walk, node, Followed(value.kind, value.layers), matrix)
    return {name: Followed(each.kind, each.layers, "product") for name, each in made.items()}


def _quantized_conv(walk: Walk, node: Node) -> dict[str, Followed]:
    """QLinearConv: x, its scale and zero point, w, its own, y's, and a bias in units of both."""
    value = walk.followed(node)
    if value.quantized != "static":
        raise NotRun("of whole numbers whose scale is not known")
    x_scale, scale = walk.known(node.inputs[1]), walk.known(node.inputs[4])
    whole = _whole(walk.known(node.inputs[3]), walk.optional(node, 5), 0)
    shape = (-1, *(1,) * (whole.array.ndim - 1))
    factor = scale.array.astype(np.float32).reshape(shape)
    kernel = merged([whole], whole.array * factor, ran=True)
    bias = walk.optional(node, 8)
    if bias is not None:
        units = x_scale.array.astype(np.float64) * scale.array.astype(np.float64).ravel()
        bias = merged([bias], (bias.array * units).astype(np.float32), "dequantized", ran=True)
    made = convolved(walk, node, Followed(value.kind, value.layers), kernel, bias)
    return {name: Followed(each.kind, each.layers, "static") for name, each in made.items()}


Step = Callable[[Walk, Node], dict[str, Followed]]

STEPS: dict[str, Step] = {
    "Conv": conv,
    "MatMul": matmul,
    "Gemm": gemm,
    "Add": _add,
    "Sum": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Neg": _negate,
    "Cast": _cast,
    "Concat": _concat,
    "BatchNormalization": _batch_norm,
    "QuantizeLinear": _quantize,
    "DynamicQuantizeLinear": _quantize_at_run_time,
    "DequantizeLinear": _dequantize,
    "ConvInteger": _integer_conv,
    "MatMulInteger": _integer_matmul,
    "QLinearConv": _quantized_conv,
}
"""Operators of an embedding stage, beside those that move values."""
