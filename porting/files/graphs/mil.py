"""A program of CoreML (MIL) in the words of ONNX.

Constants of small numbers become attributes or constants of a node, compressed weights one constant
that is expanded when it is read. What has no operator of ONNX that means the same keeps its own
name, `mil.NAME`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import TensorInfo
from ..mil_program import Blob, Function, Kind, Operation, Value, numpy_type
from .graph import Constant, Graph, Node
from .mil_weights import EXPANSIONS, require_modest

LARGEST_ATTRIBUTE = 64
"""Numbers of an attribute: axes, sides, and the rows of a short list."""

HALF = "float16, as its writer chose"
"""What is told of a constant of two bytes: coremltools rounds a model to it unless it is told
otherwise."""

ONNX_TYPES = {
    "fp32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "fp16": 10,
    "fp64": 11,
}
"""Numbers of ONNX's types (TensorProto) by MIL's names."""

_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "real_div": "Div",
    "pow": "Pow",
    "maximum": "Max",
    "minimum": "Min",
    "equal": "Equal",
    "less": "Less",
    "greater": "Greater",
    "less_equal": "LessOrEqual",
    "greater_equal": "GreaterOrEqual",
}
_UNARY = {
    "identity": "Identity",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "sqrt": "Sqrt",
    "exp": "Exp",
    "abs": "Abs",
    "erf": "Erf",
    "shape": "Shape",
}
_REDUCTIONS = {
    "reduce_mean": "ReduceMean",
    "reduce_sum": "ReduceSum",
    "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin",
}
_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
_FAR = 2**62
"""A place behind the end of any axis."""


class NoOperatorError(Exception):
    """An operation for which ONNX has none that means the same."""


def graph_of(function: Function, blobs: Blob, notes: tuple[str, ...]) -> Graph:
    """A function of a program as a graph.

    Args:
        function: as it was read.
        blobs: gives the bytes of what lies in other files.
        notes: what is to be told of the model, in sentences.

    Raises:
        ValueError: a program that is damaged.
    """
    translation = _Translation(function, blobs)
    for operation in function.operations:
        translation.add(operation)
    return Graph(
        {name: kind.shape for name, kind in function.inputs.items()},
        tuple(translation.nodes),
        translation.constants,
        function.outputs,
        notes,
    )


class _Translation:
    """What was translated so far."""

    def __init__(self, function: Function, blobs: Blob) -> None:
        self.blobs = blobs
        self.kinds: dict[str, Kind] = dict(function.inputs)
        self.values: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self.constants: dict[str, Constant] = {}
        self.made = 0

    def add(self, operation: Operation) -> None:
        """Translate one operation."""
        self.kinds.update(operation.outputs)
        if operation.op == "const" or operation.op.startswith("constexpr_"):
            self._constant(operation)
            return
        count = len(self.nodes)
        try:
            if not operation.plain or not operation.outputs:
                raise NoOperatorError
            self._translate(operation)
        except NoOperatorError:
            del self.nodes[count:]
            given = [
                self.named(held) for argument in operation.inputs.values() for held in argument
            ]
            names = tuple(name for name, _ in operation.outputs)
            self.nodes.append(Node(f"mil.{operation.op}", tuple(given), names))

    def _constant(self, operation: Operation) -> None:
        """A constant, or one that is compressed."""
        if len(operation.outputs) != 1:
            raise ValueError(f"a constant of {len(operation.outputs)} names")
        ((name, kind),) = operation.outputs
        if operation.op == "const":
            value = operation.attributes.get("val")
            if value is not None:
                self.values[name] = value
                self._hold(name, value)
            return
        expand = EXPANSIONS.get(operation.op)
        if expand is None:
            self.nodes.append(Node(f"mil.{operation.op}", (), (name,)))
            return
        given = {**operation.attributes}
        for key, held in operation.inputs.items():
            if len(held) == 1:
                value = held[0] if isinstance(held[0], Value) else self.values.get(held[0])
                if value is None:  # a compressed value of compressed values
                    self.nodes.append(Node(f"mil.{operation.op}", (), (name,)))
                    return
                given[key] = value
        dtype = numpy_type(kind.dtype)

        def read() -> NDArray[Any]:
            require_modest(kind.fixed)
            arrays = {key: value.read(self.blobs) for key, value in given.items()}
            held = expand(arrays, kind.fixed)
            if held.shape != kind.fixed:
                raise ValueError(f"{name} expands to {held.shape}, expected {kind.fixed}")
            return held.astype(dtype)

        told = f"dequantized by {operation.op}"
        self.constants[name] = Constant(TensorInfo(kind.fixed, dtype.name), read, told)

    def _hold(self, name: str, value: Value) -> None:
        """Keep a value as a constant, unless it is a text."""
        if value.kind.dtype not in ("", "string"):
            dtype = numpy_type(value.kind.dtype).name
            told = HALF if dtype == "float16" and value.blob is not None else ""
            info = TensorInfo(value.kind.fixed, dtype)
            self.constants[name] = Constant(info, lambda: value.read(self.blobs), told)

    def named(self, held: str | Value) -> str:
        """The name of a value, which may stand in the operation itself."""
        if isinstance(held, str):
            return held
        name = self._new("value")
        self.values[name], self.kinds[name] = held, held.kind
        self._hold(name, held)
        return name

    def _new(self, what: str) -> str:
        self.made += 1
        return f"{what}:{self.made}"

    def whole(self, numbers: Sequence[int] | int) -> str:
        """The name of a new constant of whole numbers."""
        name, array = self._new("numbers"), np.array(numbers, np.int64)
        self.constants[name] = Constant(TensorInfo(array.shape, "int64"), lambda: array)
        return name

    def filled(self, value: float, shape: tuple[int, ...], dtype: str) -> str:
        """The name of a new constant of one number."""
        name, kind = self._new("fill"), numpy_type(dtype)
        require_modest(shape)
        info = TensorInfo(shape, kind.name)
        self.constants[name] = Constant(info, lambda: np.full(shape, value, kind))
        return name

    # What an operation is given.

    def name(self, operation: Operation, key: str) -> str:
        """The name of an argument.

        Raises:
            NoOperatorError: none, or several.
        """
        held = operation.inputs.get(key, ())
        if len(held) != 1:
            raise NoOperatorError
        return self.named(held[0])

    def rank(self, name: str) -> int:
        """Axes of a value.

        Raises:
            NoOperatorError: of a value that is not known.
        """
        if name not in self.kinds:
            raise NoOperatorError
        return len(self.kinds[name].shape)

    def known(self, operation: Operation, key: str) -> NDArray[Any] | None:
        """The few numbers of an argument that is constant; None where it is not given.

        Raises:
            NoOperatorError: one that is not constant, or has many numbers.
        """
        held = operation.inputs.get(key, ())
        if not held:
            return None
        value = held[0] if isinstance(held[0], Value) else self.values.get(held[0])
        if len(held) != 1 or value is None or value.kind.count > LARGEST_ATTRIBUTE:
            raise NoOperatorError
        return value.read(self.blobs)

    def wholes(self, operation: Operation, key: str, usual: Sequence[int]) -> list[int]:
        """The same as whole numbers."""
        held = self.known(operation, key)
        return [*usual] if held is None else [int(number) for number in held.reshape(-1)]

    def flag(self, operation: Operation, key: str) -> bool:
        """The same as one truth; false where it is not given."""
        return any(self.wholes(operation, key, (0,)))

    def text(self, operation: Operation, key: str, usual: str) -> str:
        """A text."""
        held = operation.inputs.get(key, ())
        if not held:
            return usual
        value = held[0] if isinstance(held[0], Value) else self.values.get(held[0])
        return "" if value is None else value.text

    def node(self, op: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """Add a node, and return the name of its output."""
        output = output or self._new(op)
        self.nodes.append(Node(op, tuple(inputs), (output,), attributes))
        return output

    # Operations.

    def _translate(self, operation: Operation) -> None:
        op, output = operation.op, operation.outputs[0][0]
        if op in _BINARY:
            self.node(_BINARY[op], [self.name(operation, key) for key in "xy"], output)
        elif op in _UNARY:
            self.node(_UNARY[op], [self.name(operation, "x")], output)
        elif op in _REDUCTIONS:
            self._reduce(operation, output)
        else:
            method: Callable[[Operation, str], None] | None = getattr(self, f"_op_{op}", None)
            if method is None:
                raise NoOperatorError
            method(operation, output)

    def _reduce(self, operation: Operation, output: str) -> None:
        axes = self.wholes(operation, "axes", range(self.rank(self.name(operation, "x"))))
        self.node(
            _REDUCTIONS[operation.op],
            [self.name(operation, "x"), self.whole(axes)],
            output,
            keepdims=int(self.flag(operation, "keep_dims")),
        )

    def _op_conv(self, operation: Operation, output: str) -> None:
        x, weight = self.name(operation, "x"), self.name(operation, "weight")
        axes = self.rank(weight) - 2
        attributes: dict[str, Any] = {
            "strides": self.wholes(operation, "strides", [1] * axes),
            "dilations": self.wholes(operation, "dilations", [1] * axes),
            "group": self.wholes(operation, "groups", [1])[0],
        }
        kind = self.text(operation, "pad_type", "valid")
        if kind == "custom":
            pad = self.wholes(operation, "pad", [0, 0] * axes)
            attributes["pads"] = [*pad[::2], *pad[1::2]]
        elif kind in ("same", "same_lower"):
            attributes["auto_pad"] = "SAME_UPPER" if kind == "same" else "SAME_LOWER"
        elif kind != "valid":
            raise NoOperatorError
        bias = [self.name(operation, "bias")] if operation.inputs.get("bias") else []
        self.node("Conv", [x, weight, *bias], output, **attributes)

    def _op_linear(self, operation: Operation, output: str) -> None:
        turned = self.node("Transpose", [self.name(operation, "weight")], perm=[1, 0])
        bias = operation.inputs.get("bias")
        product = self.node("MatMul", [self.name(operation, "x"), turned], "" if bias else output)
        if bias:
            self.node("Add", [product, self.name(operation, "bias")], output)

    def _op_matmul(self, operation: Operation, output: str) -> None:
        sides = []
        for key in "xy":
            name = self.name(operation, key)
            if self.flag(operation, f"transpose_{key}"):
                axes = [*range(self.rank(name))]
                name = self.node("Transpose", [name], perm=[*axes[:-2], *axes[:-3:-1]])
            sides.append(name)
        self.node("MatMul", sides, output)

    def _op_reshape(self, operation: Operation, output: str) -> None:
        shape = self.name(operation, "shape")
        if shape in self.values:
            shape = self.whole(self.wholes(operation, "shape", ()))
        self.node("Reshape", [self.name(operation, "x"), shape], output)

    def _op_transpose(self, operation: Operation, output: str) -> None:
        x = self.name(operation, "x")
        perm = [axis % max(self.rank(x), 1) for axis in self.wholes(operation, "perm", ())]
        self.node("Transpose", [x], output, perm=perm)

    def _op_concat(self, operation: Operation, output: str) -> None:
        if self.flag(operation, "interleave"):
            raise NoOperatorError
        names = [self.named(held) for held in operation.inputs.get("values", ())]
        if all(self.rank(name) == 0 for name in names):  # single numbers, of which a shape is made
            names = [self.node("Unsqueeze", [name, self.whole([0])]) for name in names]
        self.node("Concat", names, output, axis=self.wholes(operation, "axis", (0,))[0])

    def _op_stack(self, operation: Operation, output: str) -> None:
        (axis,) = self.wholes(operation, "axis", (0,))
        names = [self.named(held) for held in operation.inputs.get("values", ())]
        held = [self.node("Unsqueeze", [name, self.whole([axis])]) for name in names]
        self.node("Concat", held, output, axis=axis)

    def _op_expand_dims(self, operation: Operation, output: str) -> None:
        axes = self.whole(self.wholes(operation, "axes", ()))
        self.node("Unsqueeze", [self.name(operation, "x"), axes], output)

    def _op_squeeze(self, operation: Operation, output: str) -> None:
        axes = self.wholes(operation, "axes", ())
        more = [self.whole(axes)] if axes else []
        self.node("Squeeze", [self.name(operation, "x"), *more], output)

    def _op_tile(self, operation: Operation, output: str) -> None:
        reps = self.name(operation, "reps")
        if reps in self.values:
            reps = self.whole(self.wholes(operation, "reps", ()))
        self.node("Tile", [self.name(operation, "x"), reps], output)

    def _op_cast(self, operation: Operation, output: str) -> None:
        wanted = ONNX_TYPES.get(self.text(operation, "dtype", ""))
        if wanted is None:
            raise NoOperatorError
        self.node("Cast", [self.name(operation, "x")], output, to=wanted)

    def _op_layer_norm(self, operation: Operation, output: str) -> None:
        x = self.name(operation, "x")
        rank = self.rank(x)
        axes = sorted(axis % rank for axis in self.wholes(operation, "axes", range(rank)))
        if axes != [*range(axes[0], rank)]:
            raise NoOperatorError
        epsilon = self.known(operation, "epsilon")
        extents = self.kinds[x].shape[axes[0] :]
        if operation.inputs.get("gamma"):
            scale = self.name(operation, "gamma")
        elif None in extents:
            raise NoOperatorError
        else:
            shape = tuple(extent for extent in extents if extent is not None)
            scale = self.filled(1, shape, self.kinds[x].dtype)
        beta = [self.name(operation, "beta")] if operation.inputs.get("beta") else []
        self.node(
            "LayerNormalization",
            [x, scale, *beta],
            output,
            axis=axes[0],
            epsilon=1e-5 if epsilon is None else float(epsilon.reshape(-1)[0]),
        )

    def _op_batch_norm(self, operation: Operation, output: str) -> None:
        x, mean = self.name(operation, "x"), self.name(operation, "mean")
        kind = self.kinds[mean]
        parts = [
            self.name(operation, key)
            if operation.inputs.get(key)
            else self.filled(usual, kind.fixed, kind.dtype)
            for key, usual in (("gamma", 1), ("beta", 0))
        ]
        epsilon = self.known(operation, "epsilon")
        self.node(
            "BatchNormalization",
            [x, *parts, mean, self.name(operation, "variance")],
            output,
            epsilon=1e-5 if epsilon is None else float(epsilon.reshape(-1)[0]),
        )

    def _op_pad(self, operation: Operation, output: str) -> None:
        x, mode = self.name(operation, "x"), self.text(operation, "mode", "constant")
        pad = self.wholes(operation, "pad", ())
        sides = 2 * self.rank(x) - len(pad)
        if mode not in _PAD_MODES or sides < 0:
            raise NoOperatorError
        pad = [0] * sides + pad
        inputs = [x, self.whole([*pad[::2], *pad[1::2]])]
        if operation.inputs.get("constant_val"):
            inputs.append(self.name(operation, "constant_val"))
        self.node("Pad", inputs, output, mode=_PAD_MODES[mode])

    def _op_slice_by_index(self, operation: Operation, output: str) -> None:
        x = self.name(operation, "x")
        rank = self.rank(x)
        none = [0] * rank
        begin, end = (self.wholes(operation, key, ()) for key in ("begin", "end"))
        stride = self.wholes(operation, "stride", [1] * rank)
        masks = [self.wholes(operation, f"{key}_mask", none) for key in ("begin", "end", "squeeze")]
        if {len(held) for held in (begin, end, stride, *masks)} != {rank}:
            raise NoOperatorError
        for axis in range(rank):
            first, last, one = (mask[axis] for mask in masks)
            if one:
                end[axis], stride[axis] = begin[axis] + 1 or _FAR, 1
                continue
            if first:
                begin[axis] = 0 if stride[axis] > 0 else _FAR
            if last:
                end[axis] = _FAR if stride[axis] > 0 else -_FAR
        squeezed = [axis for axis in range(rank) if masks[2][axis]]
        numbers = [self.whole(held) for held in (begin, end, [*range(rank)], stride)]
        part = self.node("Slice", [x, *numbers], "" if squeezed else output)
        if squeezed:
            self.node("Squeeze", [part, self.whole(squeezed)], output)

    def _op_slice_by_size(self, operation: Operation, output: str) -> None:
        begin, size = (self.wholes(operation, key, ()) for key in ("begin", "size"))
        end = [_FAR if count < 0 else at + count for at, count in zip(begin, size, strict=True)]
        numbers = [self.whole(held) for held in (begin, end, [*range(len(begin))])]
        self.node("Slice", [self.name(operation, "x"), *numbers], output)

    def _op_split(self, operation: Operation, output: str) -> None:
        names = tuple(name for name, _ in operation.outputs)
        (axis,) = self.wholes(operation, "axis", (0,))
        sizes = self.wholes(operation, "split_sizes", ())
        attributes = {"axis": axis} | ({} if sizes else {"num_outputs": len(names)})
        inputs = [self.name(operation, "x"), *([self.whole(sizes)] if sizes else [])]
        self.nodes.append(Node("Split", tuple(inputs), names, attributes))

    def _op_fill(self, operation: Operation, output: str) -> None:
        value = operation.inputs.get("value")
        dtype = operation.outputs[0][1].dtype
        number = self.name(operation, "value") if value else self.filled(0, (), dtype)
        shape = self.name(operation, "shape")
        if shape in self.values:
            shape = self.whole(self.wholes(operation, "shape", ()))
        self.node("Expand", [number, shape], output)

    def _op_gather(self, operation: Operation, output: str) -> None:
        if self.flag(operation, "batch_dims"):
            raise NoOperatorError
        inputs = [self.name(operation, "x"), self.name(operation, "indices")]
        self.node("Gather", inputs, output, axis=self.wholes(operation, "axis", (0,))[0])

    def _op_select(self, operation: Operation, output: str) -> None:
        self.node("Where", [self.name(operation, key) for key in ("cond", "a", "b")], output)

    def _op_gelu(self, operation: Operation, output: str) -> None:
        modes = {"EXACT": "none", "TANH_APPROXIMATION": "tanh"}
        mode = modes.get(self.text(operation, "mode", "EXACT"))
        if mode is None:
            raise NoOperatorError
        x = self.name(operation, "x")
        self.nodes.append(Node("Gelu", (x,), (output,), {"approximate": mode}, 20))

    def _op_silu(self, operation: Operation, output: str) -> None:
        x = self.name(operation, "x")
        self.node("Mul", [x, self.node("Sigmoid", [x])], output)

    def _op_softmax(self, operation: Operation, output: str) -> None:
        (axis,) = self.wholes(operation, "axis", (-1,))
        self.node("Softmax", [self.name(operation, "x")], output, axis=axis)
