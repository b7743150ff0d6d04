"""The graph of a model, in one vocabulary for every format: ONNX's operators, by the names and with
the meaning that https://onnx.ai/onnx/operators/ gives them.

A reader of another format translates: a convolution over NHWC becomes a Transpose, a Conv and a
Transpose, its kernel a constant behind a Transpose. What it cannot translate keeps its own name and
is nobody's operator, so that nothing is guessed behind it.

Laws: nothing is read before it is asked for (`Constant.read`); a graph is never run, but for its
first operators, on our own numbers, in NumPy.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ..checkpoint import TensorInfo


@dataclass(frozen=True)
class Constant:
    """A tensor that the file holds.

    Args:
        info: shape and type, as it lies in the file.
        read: reads it; called for the tensors of the stage alone.
        told: what is to be known of it, in words (`float16, as its writer chose`); empty for
            nothing.
    """

    info: TensorInfo
    read: Callable[[], NDArray[Any]]
    told: str = ""


@dataclass(frozen=True)
class Node:
    """One operator.

    Args:
        op: of ONNX, or another's own name where there is none for it (`tflite.CUSTOM`).
        inputs: names of values; an empty one where an optional one is left out.
        outputs: names of values.
        attributes: as ONNX has them: numbers, texts, lists of numbers; a tensor as an array.
        version: of ONNX's operator set whose meaning it has.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    version: int = 18


@dataclass(frozen=True)
class Graph:
    """A model.

    Args:
        inputs: shapes of what it is given, by name; None for an extent that is open.
        nodes: in an order in which each comes behind what it takes.
        constants: tensors of the file, by name.
        outputs: names of the values that it gives; empty where a format does not tell.
        notes: what is to be told of the file as a whole, in sentences.
    """

    inputs: Mapping[str, tuple[int | None, ...]]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Constant]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
