"""OpenVINO IR, as `openvino.save_model` writes it: a graph in XML and its values in a .bin.

Real numbers count as such: a constant of float16 that the graph turns to float32, as `save_model`
keeps them by default, is what it is, and is told; what a layer rounds on the way is left out, as
OpenVINO leaves it out itself on a CPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .graphs.checkpoint import GraphCheckpoint
from .graphs.graph import Constant, Graph
from .graphs.openvino_model import (
    TYPES,
    Layer,
    OpenVinoModel,
    Place,
    numbers_of,
)
from .graphs.openvino_operators import TRANSLATORS
from .graphs.openvino_step import FLOATS, PRECISIONS, OpenVino, Step, UntranslatedError

__all__ = ["OpenVinoCheckpoint", "translate"]

PLAIN = ("f32", "f64", "i64", "i32", "u64", "u32", "boolean", "i16", "u16")
"""Element types of which nothing is told."""


class OpenVinoCheckpoint(GraphCheckpoint):
    """An IR: the graph, and the values beside it."""

    format = "openvino"

    def __init__(self, path: Path) -> None:
        model = OpenVinoModel(path)
        self.weights = model.weights
        super().__init__(path, translate(model)[0])

    @property
    def files(self) -> tuple[Path, ...]:
        """The graph, and its values."""
        return (self.path, self.weights)


def translate(model: OpenVinoModel) -> tuple[Graph, dict[Place, str]]:
    """The graph, and the names of its values by the ports that they come out of."""
    ir = OpenVino(model)
    inputs: dict[str, tuple[int | None, ...]] = {}
    outputs: list[str] = []
    for layer in model.layers:
        if layer.kind == "Parameter":
            name = ir.fresh(layer.name)
            inputs[name] = _extents(model, layer)
            _give(ir, layer, (name,))
        elif layer.kind == "Const":
            _constant(ir, layer)
        elif layer.kind == "Result":
            source = model.source(layer, 0)
            outputs += [ir.values[source]] if source else []
        else:
            _operation(ir, layer)
    return ir.graph(inputs, outputs), ir.values


def _extents(model: OpenVinoModel, layer: Layer) -> tuple[int | None, ...]:
    try:
        given = numbers_of(layer.data.get("shape", ""))
    except ValueError:
        raise model.damaged(f"{layer.name!r} is told badly") from None
    if "..." in layer.data.get("shape", ""):
        return ()
    return tuple(extent if extent >= 0 else None for extent in given)


def _give(ir: OpenVino, layer: Layer, values: tuple[str, ...]) -> None:
    if len(values) != len(layer.outputs):
        raise ir.model.damaged(
            f"{layer.name!r} has {len(layer.outputs)} outputs, expected {len(values)}"
        )
    for port, value in zip(layer.outputs, values, strict=True):
        ir.values[layer.number, port.number] = value
        if port.precision in PRECISIONS:
            ir.reals.add((layer.number, port.number))


def _constant(ir: OpenVino, layer: Layer) -> None:
    kind = ir.model.element_type(layer)
    info = ir.model.info(layer)
    name = ir.fresh(layer.name)
    told = (
        ""
        if kind in PLAIN
        else f"{kind if kind == 'nf4' else TYPES.get(kind, kind)}, as OpenVINO's writer chose"
    )
    if told and TYPES.get(kind) not in FLOATS:
        told += "; the graph multiplies it out"
    ir.constants[name] = Constant(info, _reader(ir.model, layer), told)
    if info.dtype in FLOATS and info.dtype != "float32":
        name = ir.cast(name, "float32", name)
    _give(ir, layer, (name,))
    for port in layer.outputs:
        place = (layer.number, port.number)
        ir.fixed.add(place)
        ir.known[place] = layer
        if TYPES.get(kind) in FLOATS:
            ir.reals.add(place)


def _reader(model: OpenVinoModel, layer: Layer) -> Callable[[], NDArray[Any]]:
    return lambda: model.values(layer)


def _operation(ir: OpenVino, layer: Layer) -> None:
    step = Step(ir, layer)
    ir.made |= {(layer.number, port.number): step for port in layer.outputs}
    written = len(ir.nodes)
    try:
        translator = TRANSLATORS.get(layer.kind)
        found = translator(step) if translator and layer.outputs else None
    except UntranslatedError:
        found = None
    if found is None:
        del ir.nodes[written:]
        inputs = [step.value(place) if step.given(place) else "" for place in range(step.count)]
        found = step.several(f"openvino.{layer.kind}", inputs)
    _give(ir, layer, (found,) if isinstance(found, str) else found)
    if step.fixed:
        ir.fixed |= {(layer.number, port.number) for port in layer.outputs}
