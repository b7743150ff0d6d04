"""What a graph makes of its constants alone, computed when it is asked for, with the names of the
tensors that it was made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from .graph import Graph, Node
from .moves import LARGEST_VALUE, MOVES, NotRun
from .operators import compute

DEEPEST = 200
"""Operators behind one another of which a constant is made; sizes at run time take twenty."""

LARGEST_READ = 2**29
"""Values of a constant that is read: of LARGEST_TENSOR's bytes, four each."""


@dataclass(frozen=True, eq=False)
class Known:
    """A value that does not depend on the image.

    Args:
        array: it.
        sources: names of the file's tensors that it is made of.
        steps: what was done to them, in words.
        ran: whether more than moving and changing types was done.
    """

    array: NDArray[Any]
    sources: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    ran: bool = False

    @property
    def told(self) -> str:
        """Where it comes from, in words."""
        names = " and ".join(repr(name) for name in self.sources[:3]) or "a number of the graph"
        more = f" and {len(self.sources) - 3} more" if len(self.sources) > 3 else ""
        steps = list(dict.fromkeys(self.steps))
        through = f", {', '.join(steps[:6])}" if steps else ""
        return f"of {names}{more}{through}"


def merged(parts: Iterable[Known], array: NDArray[Any], *steps: str, ran: bool = False) -> Known:
    """What is made of several."""
    held = list(parts)
    sources = dict.fromkeys(name for part in held for name in part.sources)
    told = dict.fromkeys([*(step for part in held for step in part.steps), *steps])
    return Known(array, tuple(sources), tuple(told), ran or any(part.ran for part in held))


QUIET = ("Identity", "Unsqueeze", "Squeeze", "Flatten", "Concat", "Expand", "Tile", "Reshape")
"""Operators that are not told of: they change no value and leave no value out."""


class Folder:
    """The values of a graph that do not depend on its inputs.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers: dict[str, Node] = {
            name: node for node in graph.nodes for name in node.outputs if name
        }
        self.known: dict[str, Known | None] = {"": None}
        self.why: dict[str, str] = {}

    def tell(self, values: Mapping[str, Known]) -> None:
        """Take note of values that are known although they are made of the image: its extents."""
        kept = {name: known for name, known in self.known.items() if known is not None or not name}
        self.known = {**kept, **values}  # what could not be told may be now

    def of(self, name: str, depth: int = 0) -> Known | None:
        """A value, or None where it depends on an input of the graph, or cannot be computed (`why`
        then tells it).

        Raises:
            PatchParityError: a tensor that cannot be read.
        """
        if name not in self.known:
            self.known[name] = None  # of a cycle nothing is known
            self.known[name] = self._made(name, depth)
        return self.known[name]

    def _made(self, name: str, depth: int) -> Known | None:
        constant = self.graph.constants.get(name)
        if constant is not None:
            count = int(np.prod([float(extent) for extent in constant.info.shape] or [1.0]))
            if count > LARGEST_READ:
                raise PatchParityError(f"{name} of shape {constant.info.shape} is too large")
            told = (constant.told,) if constant.told else ()
            return Known(constant.read(), (name,), told)
        node = self.makers.get(name)
        if node is None or depth > DEEPEST:
            return None
        if node.op == "Shape" and (info := self.graph.constants.get(node.inputs[0])):
            inputs: list[Known | None] = [Known(np.broadcast_to(np.int8(0), info.info.shape))]
        else:
            inputs = [self.of(each, depth + 1) for each in node.inputs]
        if any(one is None and each for one, each in zip(inputs, node.inputs, strict=True)):
            unknown = next(
                each for one, each in zip(inputs, node.inputs, strict=True) if one is None and each
            )
            self.why[name] = self.why.get(unknown, "")
            return None
        try:
            arrays = compute(node, [None if one is None else one.array for one in inputs])
        except (NotRun, PatchParityError) as error:
            self.why[name] = f"{node.op} ({error})"
            return None
        of_first = node.op in (*MOVES, "QuantizeLinear", "DequantizeLinear")
        given = [one for one in (inputs[:1] if of_first else inputs) if one is not None]
        steps = _told(node, [one for one in inputs if one is not None])
        for output, array in zip(node.outputs, arrays, strict=False):
            made = merged(given, array, *steps, ran=_ran(node))
            if node.op in ("Shape", "Size"):
                made = Known(array)
            self.known[output] = made
        return self.known[name]


def _ran(node: Node) -> bool:
    return node.op not in (*MOVES, "Concat", "Cast", "DequantizeLinear", "ConstantOfShape", "Range")


def _told(node: Node, given: list[Known]) -> list[str]:
    """What an operator did to a constant, in words."""
    if node.op == "QuantizeLinear":
        return ["rounded as it is quantized"]
    if node.op in QUIET or not any(one.sources for one in given):
        return []
    if node.op == "Cast":
        kind = given[0].array.dtype
        return (
            [f"{kind.name} behind a Cast"] if kind.itemsize < 4 and kind.kind not in "iub" else []
        )
    if node.op == "DequantizeLinear" and len(given) > 1:
        scale = given[1].array
        of = "one scale" if scale.size == 1 else f"a scale for each of {scale.size} channels"
        if node.attributes.get("block_size"):
            of = f"{scale.size} scales of blocks"
        return [f"dequantized from {given[0].array.dtype.name}, {of}"]
    return [f"through {node.op}"]


assert LARGEST_READ >= LARGEST_VALUE
