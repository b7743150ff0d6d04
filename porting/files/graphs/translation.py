"""What the translators of all formats write with: nodes, names that nobody has yet, and the
attributes that ONNX wants as inputs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .graph import Constant, Graph, Node

ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
    "float8_e4m3fn": 17,
    "float8_e5m2": 19,
    "uint4": 21,
    "int4": 22,
    "float4_e2m1fn": 23,
}
"""Numbers of the types, as `TensorProto.DataType` has them
(https://github.com/onnx/onnx/blob/main/onnx/onnx.in.proto)."""

LAST = np.iinfo(np.int64).max
"""Where a Slice ends that goes to the end."""


class Translation:
    """A graph that is being written.

    Args:
        nodes: those that were written.
        constants: tensors of the file, by name.
        notes: what is to be told of the file: sentences without their full stop.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, Constant] = {}
        self.notes: list[str] = []
        self.taken: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """A name that nobody has: the hint, or the hint and a number."""
        hint = hint or "value"
        name = hint
        while name in self.taken:
            self.taken[hint] += 1
            name = f"{hint}:{self.taken[hint]}"
        self.taken[name] = 1
        return name

    def note(self, sentence: str) -> None:
        """Tell something of the whole file, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def several(
        self, op: str, inputs: Sequence[str], hints: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Write a node, and return the names of its outputs."""
        version = attributes.pop("version", 18)
        outputs = tuple(self.fresh(hint) for hint in hints)
        self.nodes.append(Node(op, tuple(inputs), outputs, attributes, version))
        return outputs

    def one(self, op: str, *inputs: str, hint: str, **attributes: Any) -> str:
        """Write a node of one output, and return its name."""
        return self.several(op, inputs, [hint], **attributes)[0]

    def value(self, values: NDArray[Any], hint: str) -> str:
        """A tensor that is not of the file: a `Constant` node."""
        return self.one("Constant", hint=hint, value=values)

    def integers(self, values: Sequence[int], hint: str) -> str:
        """A vector of int64, as axes, shapes and pads are given."""
        return self.value(np.array(values, np.int64), hint)

    def cast(self, value: str, dtype: str, hint: str) -> str:
        """A value in another type."""
        return self.one("Cast", value, hint=hint, to=ONNX_TYPES[dtype])

    def transpose(self, value: str, order: Sequence[int], hint: str) -> str:
        """A value with its axes in another order."""
        return self.one("Transpose", value, hint=hint, perm=list(order))

    def squeeze(self, value: str, axes: Sequence[int], hint: str) -> str:
        """A value without some axes of one."""
        return self.one("Squeeze", value, self.integers(axes, hint), hint=hint)

    def unsqueeze(self, value: str, axes: Sequence[int], hint: str) -> str:
        """A value with new axes of one."""
        return self.one("Unsqueeze", value, self.integers(axes, hint), hint=hint)

    def reduce(self, op: str, value: str, axes: str, keep: bool, hint: str) -> str:
        """A value reduced along axes, which are a value too."""
        return self.one(op, value, axes, hint=hint, keepdims=int(keep))

    def graph(self, inputs: dict[str, tuple[int | None, ...]], outputs: Sequence[str]) -> Graph:
        """What was written."""
        nodes, notes = tuple(self.nodes), tuple(self.notes)
        return Graph(inputs, nodes, self.constants, tuple(outputs), notes)


def swapped(rank: int) -> list[int]:
    """The order of axes that swaps the last two."""
    return [*range(rank - 2), rank - 1, rank - 2]


def sliced(
    begin: Sequence[int],
    end: Sequence[int],
    strides: Sequence[int],
    masks: tuple[int, int, int],
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Starts and ends of ONNX's Slice, and the axes that are left out behind it, of a strided slice
    as TensorFlow has it (https://www.tensorflow.org/api_docs/python/tf/strided_slice); masks: bits
    of those that begin at the first, end behind the last, and of those of which one is taken."""
    starts, ends, steps, taken = [], [], [], []
    for axis, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << axis
        if masks[2] & bit:
            taken.append(axis)
            starts.append(first)
            ends.append(first + 1 if first != -1 else LAST)
            steps.append(1)
            continue
        starts.append((0 if step > 0 else LAST) if masks[0] & bit else first)
        ends.append((LAST if step > 0 else -LAST) if masks[1] & bit else last)
        steps.append(step)
    return starts, ends, steps, taken
