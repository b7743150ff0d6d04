"""ONNX: a graph, and constants in it or beside it (https://onnx.ai/onnx/repo-docs/IR.html).

The file is walked as protobuf first, and the values of constants are left where they lie; the onnx
library then reads what remains.
"""

import math
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import LARGEST_TENSOR, TensorInfo
from .graphs.checkpoint import GraphCheckpoint
from .graphs.graph import Constant, Graph, Node
from .onnx_tensors import HeldTensor, bytes_of, decoded, tensor_of, without_values
from .protobuf import DEEPEST, Content, Malformed, fields_of, of_length

LARGEST_EXPANSION = 10**6
"""Operators of a graph whose functions are put in their places: the largest models have 10⁵."""

LARGEST_GRAPH = 2**28
"""Bytes of a graph without the values of its constants: those of the largest models are ten
million."""

INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
}
"""Messages within messages in which tensors may be (onnx/onnx.proto)."""


class OnnxCheckpoint(GraphCheckpoint):
    """One ONNX file, with the files of its external data."""

    format = "onnx"

    def __init__(self, path: Path) -> None:
        try:
            import onnx
        except ImportError:
            raise PatchParityError(
                f"{path} is a graph of ONNX, and the onnx library is not installed: pip install "
                "'patchparity[onnx]'"
            ) from None
        self.path = path
        self.beside: dict[Path, None] = {}
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            try:
                reduced = _without_values(held, 0, len(held), "model", 0)
            except Malformed as error:
                raise self.damaged(f"it is no protobuf message ({error})") from None
        if len(reduced) > LARGEST_GRAPH:
            raise self.damaged(f"its graph alone has {len(reduced)} bytes")
        try:
            model = onnx.ModelProto.FromString(reduced)
        except Exception as error:
            raise self.damaged(f"it is no model of ONNX ({type(error).__name__})") from None
        if _broken_text(model):
            raise self.damaged("a name in it is no text")
        if not model.HasField("graph"):
            raise PatchParityError(f"{path} is no model of ONNX: it holds no graph")
        super().__init__(path, self._graph(onnx, model))

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, and those of its external data."""
        return (self.path, *self.beside)

    def _graph(self, onnx: Any, model: Any) -> Graph:
        """The graph, in our words."""
        notes = []
        if model.functions:
            if _expanded(model) > LARGEST_EXPANSION:
                raise self.damaged("its functions call themselves, or one another without end")
            try:
                import onnx.inliner as inliner

                model = inliner.inline_local_functions(model)
            except Exception as error:
                raise self.damaged(
                    f"its functions cannot be put in their places ({type(error).__name__})"
                ) from None
        versions = {opset.domain: int(opset.version) for opset in model.opset_import}
        graph = model.graph
        if graph.sparse_initializer:
            notes.append("sparse initializers are not read")
        constants: dict[str, Constant] = {}
        for tensor in graph.initializer:
            if not tensor.name or tensor.name in constants:
                raise self.damaged(f"it holds {tensor.name!r} twice, or without a name")
            constants[tensor.name] = self._constant(tensor)
        nodes = []
        for node in graph.node:
            held = _constant_of(node)
            if held is None:
                nodes.append(_node(onnx, node, versions, self._array))
            elif node.output and node.output[0] not in constants:
                constants[node.output[0]] = self._constant(held)
        inputs = {value.name: _shape(value) for value in graph.input if value.name not in constants}
        outputs = tuple(value.name for value in graph.output)
        return Graph(inputs, _in_order(nodes), constants, outputs, tuple(notes))

    def _constant(self, tensor: Any) -> Constant:
        """A tensor, which is read when it is asked for; one whose type or shape is none is read as
        an error."""
        name = tensor.name
        try:
            held = tensor_of(tensor)
        except (Malformed, PatchParityError, ValueError) as error:
            message = f"{self.path} is damaged or hostile: {name}: {error}"

            def refuse() -> NDArray[Any]:
                raise PatchParityError(message)

            return Constant(TensorInfo((), "float32"), refuse)
        told = (
            f"{held.info.dtype} of the file" if held.info.dtype in ("float16", "bfloat16") else ""
        )
        if held.external is not None:
            self._note_file(held.external)
        return Constant(held.info, lambda: self._values(name, held), told)

    def _note_file(self, external: Mapping[str, str]) -> None:
        place = self.path.parent / external.get("location", "").replace("\0", "")
        if _is_below(place, self.path.parent) and place.is_file():
            self.beside[place] = None

    def _array(self, tensor: Any) -> NDArray[Any]:
        """A tensor that is an attribute."""
        return self._values(tensor.name or "an attribute", tensor_of(tensor))

    def _values(self, name: str, held: HeldTensor) -> NDArray[Any]:
        """The values of a tensor.

        Raises:
            PatchParityError: other bytes than it should have, a file that is not there.
        """
        info = held.info
        if info.nbytes > LARGEST_TENSOR:
            raise PatchParityError(
                f"{self.path}: {name} of shape {info.shape} claims {info.nbytes} bytes, expected "
                f"at most {LARGEST_TENSOR}"
            )
        if held.external is not None:
            content = self._external(name, held)
        elif held.data is None and held.field:
            with self.path.open("rb") as file:
                file.seek(held.start)
                content = file.read(held.end - held.start)
        else:
            content = held.data
        try:
            return decoded(content, held)
        except (Malformed, ValueError) as error:
            raise self.damaged(f"{name} of shape {info.shape}: {error}") from None

    def _external(self, name: str, held: HeldTensor) -> bytes:
        """The bytes of a tensor in another file of the folder."""
        assert held.external is not None
        location = held.external.get("location", "")
        place = self.path.parent / location
        sound = location and not os.path.isabs(location) and "\0" not in location
        inside = sound and ".." not in Path(location).parts
        if not inside or not _is_below(place, self.path.parent):
            raise PatchParityError(
                f"{self.path}: {name} lies in {location!r}, which is no file of its folder"
            )
        if not place.is_file():
            raise PatchParityError(
                f"{self.path}: {name} lies in {location!r}, which is not there: the file is "
                "exported in two parts, and both are needed"
            )
        wanted = bytes_of(held.info)
        try:
            offset = int(held.external.get("offset") or 0)
            length = int(held.external.get("length") or wanted)
        except ValueError:
            raise self.damaged(f"{name} tells badly where in {location!r} it lies") from None
        size = place.stat().st_size
        if length != wanted or not 0 <= offset <= size - length:
            raise PatchParityError(
                f"{self.path}: {name} of shape {held.info.shape} claims {length} bytes at {offset} "
                f"of {location!r}, which has {size}, and {wanted} are expected"
            )
        with place.open("rb") as file:
            file.seek(offset)
            return file.read(length)


def _is_below(place: Path, folder: Path) -> bool:
    """Whether a file is in a folder once links are followed; one that is not there leads
    nowhere. (Hugging Face's cache has links to files beside the folder: those are of one tree.)"""
    real, base = place.resolve(), folder.resolve()
    if base in real.parents:
        return True
    blobs = base.parent.parent / "blobs"
    return folder.resolve().parent.name == "snapshots" and blobs in real.parents


def _without_values(content: Content, start: int, end: int, kind: str, depth: int) -> bytes:
    """A message without the values of its tensors, each of which then tells where they lie."""
    if depth > DEEPEST:
        raise Malformed("messages too deep within one another")
    if kind == "tensor":
        return without_values(content, start, end)
    inside, parts, total = INSIDE[kind], [], 0
    for one in fields_of(content, start, end):
        inner = inside.get(one.number) if one.kind == 2 else None
        if inner is None:
            part = (
                bytes(content[one.begin : one.end]) if one.end - one.begin <= LARGEST_GRAPH else b""
            )
        else:
            part = of_length(
                one.number, _without_values(content, one.start, one.end, inner, depth + 1)
            )
        total += len(part)
        if total > LARGEST_GRAPH:
            raise Malformed(f"a graph of more than {LARGEST_GRAPH} bytes beside its constants")
        parts.append(part)
    return b"".join(parts)


def _expanded(model: Any) -> float:
    """Operators that a model has once its functions are in their places; infinite where one calls
    itself."""
    bodies = {(one.domain, one.name): one.node for one in model.functions}
    counts: dict[tuple[str, str], float] = {}

    def count(nodes: Any, calling: tuple[tuple[str, str], ...]) -> float:
        total = 0.0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in calling or len(calling) > DEEPEST:
                return math.inf
            if key in bodies and key not in counts:
                counts[key] = count(bodies[key], (*calling, key))
            total += counts.get(key, 1)
            for one in node.attribute:
                for graph in (one.g, *one.graphs):
                    total += count(graph.node, calling)
        return total

    return count(model.graph.node, ())


def _broken_text(message: Any) -> bool:
    """Whether a text anywhere in a message is none (upb then gives its bytes)."""
    for field, value in message.ListFields():
        many = value if field.is_repeated else [value]
        if field.type == field.TYPE_STRING and not all(isinstance(one, str) for one in many):
            return True
        if field.type == field.TYPE_MESSAGE and any(_broken_text(one) for one in many):
            return True
    return False


def _constant_of(node: Any) -> Any:
    """The tensor of a Constant; None of any other operator, or of a constant of another kind."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next(
        (one.t for one in node.attribute if one.name == "value" and one.HasField("t")), None
    )


def _node(
    onnx: Any, node: Any, versions: Mapping[str, int], array: Callable[[Any], NDArray[Any]]
) -> Node:
    """A NodeProto, in our words; of what is no operator of ONNX the name has its domain in
    front."""
    own = node.domain in ("", "ai.onnx")
    version = versions.get(node.domain, versions.get("" if own else node.domain, 18))
    attributes: dict[str, Any] = {}
    inputs = list(node.input)
    for one in node.attribute:
        if one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            for graph in (one.g, *one.graphs):
                inputs += _captured(graph)
        elif one.type == onnx.AttributeProto.TENSOR:
            attributes[one.name] = _attribute_array(one.t, array)
        else:
            attributes[one.name] = _attribute(onnx, one)
    op = node.op_type if own else f"{node.domain}.{node.op_type}"
    return Node(op, tuple(inputs), tuple(node.output), attributes, version)


def _attribute_array(tensor: Any, array: Callable[[Any], NDArray[Any]]) -> Any:
    """A tensor that is an attribute; None of one that is too large for one, or damaged."""
    try:
        held = tensor_of(tensor)
        return array(tensor) if held.external is None and held.data is not None else None
    except (PatchParityError, ValueError):
        return None


def _attribute(onnx: Any, one: Any) -> Any:
    kinds = onnx.AttributeProto
    if one.type == kinds.STRING:
        return one.s.decode("utf-8", "replace")
    if one.type == kinds.STRINGS:
        return [text.decode("utf-8", "replace") for text in one.strings]
    if one.type in (kinds.FLOAT, kinds.INT):
        return one.f if one.type == kinds.FLOAT else one.i
    if one.type in (kinds.FLOATS, kinds.INTS):
        return list(one.floats if one.type == kinds.FLOATS else one.ints)
    return None


def _captured(graph: Any) -> list[str]:
    """Names that a graph within an operator takes from around it."""
    made = {name for node in graph.node for name in node.output}
    made |= {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    names: dict[str, None] = {}
    for node in graph.node:
        for one in node.attribute:
            for inner in (one.g, *one.graphs):
                names |= dict.fromkeys(_captured(inner))
        names |= dict.fromkeys(node.input)
    names |= dict.fromkeys(value.name for value in graph.output)
    return [name for name in names if name and name not in made]


def _shape(value: Any) -> tuple[int | None, ...]:
    """The extents of an input; none where it is no tensor of a known rank."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return ()
    dims = value.type.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else None for dim in dims)


def _in_order(nodes: list[Node]) -> tuple[Node, ...]:
    """Operators behind what they take; as they stand where they already are, which the format
    demands."""
    makers = {name: number for number, node in enumerate(nodes) for name in node.outputs}
    sorted_ = all(
        makers.get(name, -1) < number for number, node in enumerate(nodes) for name in node.inputs
    )
    if sorted_:
        return tuple(nodes)
    return tuple(nodes[number] for number in _sorted(nodes, makers))


def _sorted(nodes: list[Node], makers: Mapping[str, int]) -> Iterator[int]:
    done: set[int] = set()
    for first in range(len(nodes)):
        waiting, open_ = [first], set()
        while waiting:
            number = waiting[-1]
            before = [makers[name] for name in nodes[number].inputs if name in makers]
            rest = [one for one in before if one not in done and one not in open_]
            open_.add(number)
            if rest:
                waiting += rest
                continue
            waiting.pop()
            if number not in done:
                done.add(number)
                yield number
