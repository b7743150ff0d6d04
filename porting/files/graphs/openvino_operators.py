"""The operations of OpenVINO in ONNX's words; what each of them means is in
https://docs.openvino.ai/2026/documentation/openvino-ir-format/operation-sets.html. One that is not
here keeps its name, `openvino.NAME`.

Law: where an attribute says what is not known here, the layer is not translated."""

from collections.abc import Callable

from .openvino_model import TYPES
from .openvino_step import Result, Step
from .translation import sliced, swapped

AUTO_PADS = {"same_upper": "SAME_UPPER", "same_lower": "SAME_LOWER", "valid": "VALID"}
"""`auto_pad` of a convolution, by OpenVINO's name."""

LARGEST_BOUNDS = 2**20
"""Bytes of the bounds of a range that are compared: one for each of a few thousand channels."""

PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge"}
"""`pad_mode`, by OpenVINO's name."""


def _unary(op: str, **attributes: object) -> Callable[[Step], Result]:
    return lambda step: step.one(op, step.value(0), **attributes)


def _binary(op: str) -> Callable[[Step], Result]:
    def translated(step: Step) -> Result:
        if step.text("auto_broadcast", "numpy") not in ("numpy", "none"):
            return None
        return step.one(op, step.value(0), step.value(1))

    return translated


def _divide(step: Step) -> Result:
    if step.real() or not step.flag("m_pythondiv", True):
        return _binary("Div")(step)
    # Integers are rounded down, and by ONNX to zero.
    rest = step.one("Mod", step.value(0), step.value(1))
    return step.one("Div", step.one("Sub", step.value(0), rest), step.value(1))


def _rest(step: Step) -> Result:
    """What a division to zero leaves."""
    return step.one("Mod", step.value(0), step.value(1), fmod=1)


def _rounded(op: str) -> Callable[[Step], Result]:
    """Integers are what they are."""
    return lambda step: step.one(op, step.value(0)) if step.real() else step.value(0)


def _squared_difference(step: Step) -> Result:
    difference = step.one("Sub", step.value(0), step.value(1))
    return step.one("Mul", difference, difference)


def _convolution(step: Step, kernel: str | None = None, group: int = 1) -> Result:
    shape = step.shape(1)[1:] if kernel else step.shape(1)
    spatial = len(shape) - 2
    if spatial not in (1, 2, 3) or None in shape or step.rank(0) != spatial + 2:
        return None
    attributes: dict[str, object] = {
        "strides": step.list("strides"),
        "dilations": step.list("dilations"),
        "group": group,
        "kernel_shape": shape[2:],
    }
    how = step.text("auto_pad", "explicit")
    if how in AUTO_PADS:
        attributes["auto_pad"] = AUTO_PADS[how]
    else:
        attributes["pads"] = step.list("pads_begin") + step.list("pads_end")
    if how not in (*AUTO_PADS, "explicit", "notset") or any(
        isinstance(values, list) and len(values) not in (spatial, 2 * spatial)
        for values in attributes.values()
    ):
        return None
    return step.one("Conv", step.value(0), kernel or step.value(1), **attributes)


def _group_convolution(step: Step) -> Result:
    """Its kernel has an axis of groups in front."""
    shape = [extent or 0 for extent in step.shape(1)]
    if len(shape) < 4 or 0 in shape:
        return None
    flat = [shape[0] * shape[1], *shape[2:]]
    kernel = step.one("Reshape", step.value(1), step.integers(flat))
    return _convolution(step, kernel, shape[0])


def _matmul(step: Step) -> Result:
    values = []
    for place, name in enumerate(("transpose_a", "transpose_b")):
        value, rank = step.value(place), step.rank(place)
        if step.flag(name) and rank < 2:
            return None
        values.append(step.transpose(value, swapped(rank)) if step.flag(name) else value)
    return step.one("MatMul", *values)


def _reshape(step: Step) -> Result:
    shape = step.numbers(1)
    if shape is not None:
        if 0 in shape and not step.flag("special_zero"):
            return None
        return step.one("Reshape", step.value(0), step.integers(shape))
    literal = {} if step.flag("special_zero") else {"allowzero": 1}
    return step.one("Reshape", step.value(0), step.long(1), **literal)


def _transpose(step: Step) -> Result:
    order = step.axes(1) or list(reversed(range(step.rank(0))))
    return step.transpose(step.value(0), order)


def _concat(step: Step) -> Result:
    return step.one("Concat", *step.all_values(), axis=step.number("axis"))


def _broadcast(step: Step) -> Result:
    if step.text("mode", "numpy") not in ("numpy", "bidirectional"):
        return None
    return step.one("Expand", step.value(0), step.long(1))


def _with_axes(op: str) -> Callable[[Step], Result]:
    def translated(step: Step) -> Result:
        axes = [step.integers(step.axes(1))] if step.given(1) else []
        return step.one(op, step.value(0), *axes)

    return translated


def _reduced(op: str) -> Callable[[Step], Result]:
    def translated(step: Step) -> Result:
        axes = step.axes(1)
        keep = int(step.flag("keep_dims"))
        return step.one(op, step.value(0), step.integers(axes), keepdims=keep) if axes else None

    return translated


def _shape_of(step: Step) -> Result:
    kind = {"i64": "int64", "i32": "int32"}[step.text("output_type", "i64")]
    found = step.one("Shape", step.value(0))
    return found if kind == "int64" else step.cast(found, kind)


def _gather(step: Step) -> Result:
    axes = step.axes(2)
    if step.number("batch_dims", 0) or len(axes) != 1:
        return None
    return step.one("Gather", step.value(0), step.value(1), axis=axes[0])


def _gather_by_indices(step: Step) -> Result:
    batch = step.number("batch_dims", 0)
    return step.one("GatherND", step.value(0), step.long(1), batch_dims=batch)


def _mask(step: Step, name: str) -> int:
    found = step.list(name)
    return sum(1 << axis for axis, value in enumerate(found) if value)


def _strided_slice(step: Step) -> Result:
    begin, end = step.axes(1), step.axes(2)
    strides = step.axes(3) if step.given(3) else [1] * len(begin)
    if _mask(step, "new_axis_mask") or _mask(step, "ellipsis_mask"):
        return None
    if not len(begin) == len(end) == len(strides) or 0 in strides:
        return None
    masks = _mask(step, "begin_mask"), _mask(step, "end_mask"), _mask(step, "shrink_axis_mask")
    starts, ends, steps, taken = sliced(begin, end, strides, masks)
    axes = list(range(len(starts)))
    value = step.one("Slice", step.value(0), *map(step.integers, (starts, ends, axes, steps)))
    return step.one("Squeeze", value, step.integers(taken)) if taken else value


def _slice(step: Step) -> Result:
    starts, ends, steps = (step.long(place) for place in (1, 2, 3))
    axes = [step.long(4)] if step.given(4) else []
    if not axes:
        count = step.numbers(1)
        if count is None:
            return None
        axes = [step.integers(list(range(len(count))))]
    return step.one("Slice", step.value(0), starts, ends, *axes, steps)


def _split(step: Step) -> Result:
    axes = step.axes(1)
    if len(axes) != 1 or step.number("num_splits") != step.outs:
        return None
    return step.several("Split", [step.value(0)], axis=axes[0], num_outputs=step.outs)


def _split_by_sizes(step: Step) -> Result:
    axes, sizes = step.axes(1), step.axes(2)
    if len(axes) != 1 or len(sizes) != step.outs or min(sizes, default=-1) < 0:
        return None  # what is computed may have a -1 in it, which ONNX does not know
    return step.several("Split", [step.value(0), step.integers(sizes)], axis=axes[0])


def _pad(step: Step) -> Result:
    mode = PAD_MODES.get(step.text("pad_mode", "constant"))
    begin, end = step.axes(1), step.axes(2)
    if mode is None or len(begin) != len(end):
        return None
    value = [step.value(3)] if mode == "constant" and step.given(3) else []
    return step.one("Pad", step.value(0), step.integers(begin + end), *value, mode=mode)


def _normalized(step: Step) -> Result:
    """Mean and variance of the axes, as ONNX's exporters write a norm in single operators."""
    axes, value = step.axes(1), step.value(0)
    if not axes:
        return None
    along = step.integers(axes)
    centered = step.one("Sub", value, step.one("ReduceMean", value, along, keepdims=1))
    if not step.flag("normalize_variance"):
        return centered
    squares = step.one("Mul", centered, centered)
    variance = step.one("ReduceMean", squares, along, keepdims=1)
    epsilon = step.scalar(step.decimal("eps"))
    if step.text("eps_mode") == "inside_sqrt":
        root = step.one("Sqrt", step.one("Add", variance, epsilon))
    elif step.text("eps_mode") == "outside_sqrt":
        root = step.one("Add", step.one("Sqrt", variance), epsilon)
    else:
        return None
    return step.one("Div", centered, root)


def _batch_normalized(step: Step) -> Result:
    values = step.all_values()
    if len(values) != 5 or step.layer.version == "opset1":  # whose order is another
        return None
    return step.one("BatchNormalization", *values, epsilon=step.decimal("epsilon"))


def _fake_quantize(step: Step) -> Result:
    """Constants are rounded as it says; what is computed stays unrounded, where its range is kept,
    and a note says so."""
    value, low, high, new_low, new_high = (step.value(place) for place in range(5))
    levels = step.number("levels")
    if levels < 2 or step.text("auto_broadcast", "numpy") != "numpy":
        return None
    if not step.fixed:
        if not (_same(step, 1, 3) and _same(step, 2, 4)):
            return None
        step.ir.note(
            f"what it computes is rounded to {levels} levels between operators (FakeQuantize), "
            "which its weights do not show and is left out here"
        )
        return value
    clipped = step.one("Min", step.one("Max", value, low), high)
    parts = step.scalar(levels - 1)
    share = step.one("Div", step.one("Sub", clipped, low), step.one("Sub", high, low))
    share = step.one("Div", step.one("Round", step.one("Mul", share, parts)), parts)
    return step.one("Add", step.one("Mul", share, step.one("Sub", new_high, new_low)), new_low)


def _same(step: Step, one: int, other: int) -> bool:
    """Whether two inputs are the same constant, or of the same values."""
    first, second = step.constant(one), step.constant(other)
    if step.source(one) == step.source(other):
        return True
    if first is None or second is None:
        return step.value(one) == step.value(other)
    model = step.ir.model
    if max(model.info(each).nbytes for each in (first, second)) > LARGEST_BOUNDS:
        return False
    a, b = model.values(first), model.values(second)
    return bool(a.shape == b.shape and (a == b).all())


def _clamp(step: Step) -> Result:
    low, high = step.decimal("min"), step.decimal("max")
    return step.one("Clip", step.value(0), step.scalar(low), step.scalar(high))


def _softmax(step: Step) -> Result:
    return step.one("Softmax", step.value(0), axis=step.number("axis", 1))


def _gelu(step: Step) -> Result:
    how = {"erf": "none", "tanh": "tanh"}.get(step.text("approximation_mode", "erf"))
    return None if how is None else step.one("Gelu", step.value(0), approximate=how, version=20)


def _space_to_depth(step: Step) -> Result:
    if step.text("mode") != "blocks_first" or step.rank(0) != 4:
        return None
    return step.one("SpaceToDepth", step.value(0), blocksize=step.number("block_size", 1))


PILLOW = {"antialias": 1, "exclude_outside": 1}

RESIZES: dict[str, dict[str, object]] = {
    "cubic": {"mode": "cubic"},
    "linear_onnx": {"mode": "linear"},
    "bicubic_pillow": {"mode": "cubic", "cubic_coeff_a": -0.5, **PILLOW},
    "bilinear_pillow": {"mode": "linear", **PILLOW},
}
"""`mode` of an Interpolate, as ONNX's Resize has it. Those of Pillow are torch's with antialias,
whose coefficient is Pillow's whatever `cube_coeff` says (as OpenVINO 2026.4 computes them)."""


def _interpolate(step: Step) -> Result:
    places = {"opset11": 2, "opset4": 3}
    mode, edges = step.text("mode"), step.list("pads_begin") + step.list("pads_end")
    if mode not in RESIZES or step.layer.version not in places or any(edges):
        return None
    if step.text("shape_calculation_mode") != "sizes" or step.flag("antialias"):
        return None
    attributes = dict(RESIZES[mode])
    if mode == "cubic":
        attributes["cubic_coeff_a"] = step.decimal("cube_coeff", -0.75)
    where = "half_pixel" if "pillow" in mode else step.text("coordinate_transformation_mode")
    axes = places[step.layer.version]
    if where == "tf_half_pixel_for_nn":
        return None
    if step.given(axes):
        attributes["axes"] = step.axes(axes)
    inputs = [step.value(0), "", "", step.long(1)]
    return step.one("Resize", *inputs, coordinate_transformation_mode=where, **attributes)


def _select(step: Step) -> Result:
    if step.text("auto_broadcast", "numpy") != "numpy":
        return None
    return step.one("Where", *step.all_values())


def _range(step: Step) -> Result:
    kind = TYPES.get(step.text("output_type"), "")
    if kind not in ("int32", "int64"):
        return None
    found = step.one("Range", *(step.long(place, flat=False) for place in range(step.count)))
    return found if kind == "int64" else step.cast(found, kind)


def _tile(step: Step) -> Result:
    return step.one("Tile", step.value(0), step.long(1))


TRANSLATORS: dict[str, Callable[[Step], Result]] = {
    "Add": _binary("Add"),
    "Subtract": _binary("Sub"),
    "Multiply": _binary("Mul"),
    "Divide": _divide,
    "Mod": _rest,
    "Power": _binary("Pow"),
    "Maximum": _binary("Max"),
    "Minimum": _binary("Min"),
    "Equal": _binary("Equal"),
    "Less": _binary("Less"),
    "LessEqual": _binary("LessOrEqual"),
    "Greater": _binary("Greater"),
    "GreaterEqual": _binary("GreaterOrEqual"),
    "LogicalAnd": _binary("And"),
    "LogicalOr": _binary("Or"),
    "SquaredDifference": _squared_difference,
    "Negative": _unary("Neg"),
    "Abs": _unary("Abs"),
    "Exp": _unary("Exp"),
    "Log": _unary("Log"),
    "Sqrt": _unary("Sqrt"),
    "Erf": _unary("Erf"),
    "Sin": _unary("Sin"),
    "Cos": _unary("Cos"),
    "Floor": _rounded("Floor"),
    "Ceiling": _rounded("Ceil"),
    "ReLU": _unary("Relu"),
    "Relu": _unary("Relu"),
    "Sigmoid": _unary("Sigmoid"),
    "Tanh": _unary("Tanh"),
    "HSwish": _unary("HardSwish"),
    "LogicalNot": _unary("Not"),
    "Identity": _unary("Identity"),
    "Clamp": _clamp,
    "Gelu": _gelu,
    "SoftMax": _softmax,
    "Softmax": _softmax,
    "ReduceMean": _reduced("ReduceMean"),
    "ReduceSum": _reduced("ReduceSum"),
    "ReduceProd": _reduced("ReduceProd"),
    "ReduceMax": _reduced("ReduceMax"),
    "ReduceMin": _reduced("ReduceMin"),
    "Convolution": _convolution,
    "GroupConvolution": _group_convolution,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "Broadcast": _broadcast,
    "Squeeze": _with_axes("Squeeze"),
    "Unsqueeze": _with_axes("Unsqueeze"),
    "ShapeOf": _shape_of,
    "Gather": _gather,
    "GatherND": _gather_by_indices,
    "StridedSlice": _strided_slice,
    "Slice": _slice,
    "Split": _split,
    "VariadicSplit": _split_by_sizes,
    "Pad": _pad,
    "Tile": _tile,
    "MVN": _normalized,
    "BatchNormInference": _batch_normalized,
    "FakeQuantize": _fake_quantize,
    "Convert": lambda step: step.converted(),
    "SpaceToDepth": _space_to_depth,
    "Interpolate": _interpolate,
    "Select": _select,
    "Range": _range,
}
"""By OpenVINO's names."""
