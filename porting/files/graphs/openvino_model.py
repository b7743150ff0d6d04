"""The layers of an OpenVINO IR
(https://docs.openvino.ai/2026/documentation/openvino-ir-format.html): a graph in XML, and beside
it, under the same name with .bin, the values.

Laws: a document type, and with it every entity, is refused; what is inside a layer (the body of a
loop) is passed over; a constant lies within the .bin, and has as many bytes as its shape takes.
"""

import xml.parsers.expat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from ..checkpoint import LARGEST_EXTENT, MOST_AXES, TensorInfo, dtype_of, first_line

LARGEST_XML = 2**27
"""Bytes of a graph: 600 a layer, and large models have 20,000 layers."""

MOST_PARTS = 2**21
"""Elements of a graph: 30 a layer."""

LONGEST_TEXT = 1024
"""Characters of an attribute of integers: of 16 axes, and 20 digits each."""

DEEPEST = 64
"""Elements within each other: a layer is at 3, the body of a loop in it at 5."""

TYPES = {
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "i4": "int4",
    "u64": "uint64",
    "u32": "uint32",
    "u16": "uint16",
    "u8": "uint8",
    "u4": "uint4",
    "boolean": "bool",
    "f8e4m3": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
    "f8e8m0": "float8_e8m0fnu",
    "f4e2m1": "float4_e2m1fn",
    "nf4": "float32",
}
"""Element types, and what their values are read as."""

HALVES = ("i4", "u4", "nf4", "f4e2m1")
"""Types of which two lie in a byte, the first in its lower half."""

NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
"""The sixteen values of NormalFloat4 (Dettmers et al., QLoRA, appendix E)."""


@dataclass
class Port:
    """What goes into a layer or comes out of it: its number, type (`FP32`, `I64`, ...), and shape,
    None for an extent that is open."""

    number: int
    precision: str
    shape: list[int | None] = field(default_factory=list)


@dataclass
class Layer:
    """One layer.

    Args:
        number: its id.
        name: as people see it; not always its own alone.
        kind: the operation.
        version: the set of operations whose meaning it has.
        data: its attributes.
        inputs, outputs: ports, in their order.
    """

    number: int
    name: str
    kind: str
    version: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)


Place = tuple[int, int]
"""Id of a layer, and number of a port."""


class _Reader:
    """Takes the elements of the file as they come."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.parts = 0
        self.version = 0
        self.layers: dict[int, Layer] = {}
        self.edges: dict[Place, Place] = {}
        self.layer: Layer | None = None
        self.text = ""

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self.parts += 1
        self.path.append(name)
        if self.parts > MOST_PARTS or len(self.path) > DEEPEST:
            raise ValueError(f"more than {MOST_PARTS} elements, or {DEEPEST} within each other")
        self.text = ""
        match self.path:
            case ["net"]:
                self.version = int(attributes.get("version", "0"))
            case ["net", "layers", "layer"]:
                number = int(attributes["id"])
                if number in self.layers:
                    raise ValueError(f"two layers of id {number}")
                version = attributes.get("version", "")
                self.layer = Layer(number, attributes.get("name", ""), attributes["type"], version)
                self.layers[number] = self.layer
            case ["net", "layers", "layer", "data"] if self.layer:
                self.layer.data = attributes
            case ["net", "layers", "layer", "input" | "output", "port"] if self.layer:
                ports = self.layer.inputs if self.path[3] == "input" else self.layer.outputs
                ports.append(Port(int(attributes["id"]), attributes.get("precision", "")))
            case ["net", "edges", "edge"]:
                target = int(attributes["to-layer"]), int(attributes["to-port"])
                if target in self.edges:
                    raise ValueError(f"two edges to port {target[1]} of layer {target[0]}")
                self.edges[target] = int(attributes["from-layer"]), int(attributes["from-port"])

    def characters(self, text: str) -> None:
        """Text within an element."""
        if self.path[-1] == "dim" and len(self.text) < LONGEST_TEXT:
            self.text += text[:LONGEST_TEXT]

    def end(self, name: str) -> None:
        """An element ends."""
        match self.path:
            case ["net", "layers", "layer", "input" | "output", "port", "dim"] if self.layer:
                ports = self.layer.inputs if self.path[3] == "input" else self.layer.outputs
                extent = int(self.text)
                if len(ports[-1].shape) >= MOST_AXES or extent >= LARGEST_EXTENT:
                    raise ValueError(f"a port of layer {self.layer.name!r} of a shape of no tensor")
                ports[-1].shape.append(extent if extent >= 0 else None)
        self.path.pop()


def numbers_of(text: str) -> list[int]:
    """The integers of an attribute; an open one, or a range, is -1.

    Raises:
        ValueError: others, or more than a tensor has axes.
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"an attribute of {len(text)} characters")
    parts = [part for part in text.split(",") if part.strip()]
    return [-1 if "?" in part or ".." in part else int(part) for part in parts]


class OpenVinoModel:
    """An IR, read.

    Args:
        path: of the XML.
        weights: of the values.
        layers: in an order in which each comes behind what it takes.
        edges: what goes into a port, by it.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.weights = path, path.with_suffix(".bin")
        reader = self._parsed()
        if not 10 <= reader.version <= 11:
            raise PatchParityError(
                f"{path} is an OpenVINO IR of version {reader.version}, expected 10 or 11: "
                "openvino.save_model writes such a one"
            )
        self.edges = reader.edges
        self.layers = self._ordered(reader.layers)
        constants = [layer for layer in self.layers if layer.kind == "Const"]
        if constants and not self.weights.is_file():
            raise PatchParityError(
                f"{path} has its values in {self.weights.name}, which is not beside it"
            )
        self.room = self.weights.stat().st_size if constants else 0

    def damaged(self, what: str) -> PatchParityError:
        """The error of a file whose content is not what it should be."""
        return PatchParityError(f"{self.path} is damaged or hostile: {what}")

    def _parsed(self) -> _Reader:
        size = self.path.stat().st_size
        if size > LARGEST_XML:
            raise self.damaged(f"a graph of {size} bytes, expected at most {LARGEST_XML}")
        reader = _Reader()
        parser = xml.parsers.expat.ParserCreate()
        parser.StartElementHandler = reader.start
        parser.EndElementHandler = reader.end
        parser.CharacterDataHandler = reader.characters

        def refuse(*_: Any) -> None:
            raise ValueError("a document type, which an IR has not")

        parser.StartDoctypeDeclHandler = refuse
        try:
            with self.path.open("rb") as file:
                parser.ParseFile(file)
        except KeyError as error:
            raise self.damaged(f"an element without {error}") from None
        except (ValueError, xml.parsers.expat.ExpatError) as error:
            raise self.damaged(first_line(error)[:200]) from None
        return reader

    def _ordered(self, layers: dict[int, Layer]) -> list[Layer]:
        """Each behind what it takes."""
        behind: dict[int, list[int]] = {number: [] for number in layers}
        missing = dict.fromkeys(layers, 0)
        ports = {(each.number, port.number) for each in layers.values() for port in each.inputs}
        given = {(each.number, port.number) for each in layers.values() for port in each.outputs}
        if len(ports) + len(given) < sum(
            len(each.inputs) + len(each.outputs) for each in layers.values()
        ):
            raise self.damaged("two ports of a layer have one number")
        for target, source in self.edges.items():
            if target not in ports or source not in given:
                raise self.damaged(f"an edge from {source} to {target}, which are no ports")
            behind[source[0]].append(target[0])
            missing[target[0]] += 1
        ready = [number for number in reversed(layers) if not missing[number]]
        found = []
        while ready:
            number = ready.pop()
            found.append(layers[number])
            for target_layer in reversed(behind[number]):
                missing[target_layer] -= 1
                if not missing[target_layer]:
                    ready.append(target_layer)
        if len(found) < len(layers):
            raise self.damaged("its layers wait for each other")
        return found

    def source(self, layer: Layer, place: int) -> Place | None:
        """What goes into an input, counted from 0; None where there is none."""
        if place >= len(layer.inputs):
            return None
        return self.edges.get((layer.number, layer.inputs[place].number))

    def element_type(self, layer: Layer) -> str:
        """The type of a constant, or of what a layer is said to give."""
        return layer.data.get("element_type", "") or layer.data.get("destination_type", "")

    def info(self, layer: Layer) -> TensorInfo:
        """Shape and type of a constant.

        Raises:
            PatchParityError: a type that is not read; values that do not lie in the .bin.
        """
        kind = self.element_type(layer)
        try:
            shape = tuple(numbers_of(layer.data.get("shape", "")))
            info = TensorInfo(shape, TYPES.get(kind, "uint8"))
            begin, size = int(layer.data["offset"]), int(layer.data["size"])
        except (KeyError, ValueError) as error:
            raise self.damaged(f"{layer.name!r} is told badly ({first_line(error)})") from None
        if not 0 <= begin <= begin + size <= self.room:
            raise self.damaged(
                f"{layer.name!r} claims bytes {begin} to {begin + size} of {self.room} of "
                f"{self.weights.name}"
            )
        count = 1
        for extent in shape:
            count *= extent
        bits = 4 if kind in HALVES else 8 * dtype_of(info.dtype).itemsize
        if kind in TYPES and size != -(-count * bits // 8):
            raise self.damaged(f"{layer.name!r} of shape {shape} and type {kind} has {size} bytes")
        return info

    def values(self, layer: Layer) -> NDArray[Any]:
        """The values of a constant."""
        info, kind = self.info(layer), self.element_type(layer)
        if kind not in TYPES:
            raise PatchParityError(
                f"{self.path}: {layer.name!r} is of type {kind!r}, which is not read"
            )
        with self.weights.open("rb") as file:
            file.seek(int(layer.data["offset"]))
            content = file.read(int(layer.data["size"]))
        if kind not in HALVES:
            return np.frombuffer(content, dtype_of(info.dtype)).reshape(info.shape)
        packed = np.frombuffer(content, np.uint8)
        flat = np.stack([packed & 15, packed >> 4], -1).reshape(-1)
        flat = flat[: int(np.prod(info.shape, dtype=np.int64))].reshape(info.shape)
        if kind == "nf4":
            return np.array(NF4, np.float32)[flat]
        if kind == "f4e2m1":
            return flat.view(ml_dtypes.float4_e2m1fn)
        signed = (flat.astype(np.int16) ^ 8) - 8 if kind == "i4" else flat
        return signed.astype(dtype_of(info.dtype))
