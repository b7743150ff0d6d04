"""TFLite files, as TensorFlow's converter and LiteRT's write them: one subgraph in ONNX's words.

A quantized tensor stands for real numbers, scale · (integer − zero point): constants are multiplied
out, and what is computed counts as real numbers, unrounded, which a note says.
"""

from pathlib import Path

from ...reference.errors import PatchParityError
from .graphs.checkpoint import GraphCheckpoint
from .graphs.graph import Graph
from .graphs.tflite_model import TfliteModel
from .graphs.tflite_operators import TRANSLATORS
from .graphs.tflite_step import FLOATS, Step, Tflite, UntranslatedError

VARIABLES = ("VAR_HANDLE", "READ_VARIABLE")
"""Operators of a model whose variables were not made constants when it was converted."""


class TfliteCheckpoint(GraphCheckpoint):
    """A TFLite file."""

    format = "tflite"

    def __init__(self, path: Path) -> None:
        super().__init__(path, translate(TfliteModel(path))[0])


def translate(model: TfliteModel) -> tuple[Graph, dict[int, str]]:
    """The graph of a subgraph, and the names of its values by the numbers of the tensors."""
    tflite = Tflite(model)
    for sentence in model.notes:
        tflite.note(sentence)
    inputs: dict[str, tuple[int | None, ...]] = {}
    for number in model.inputs:
        _require_unmade(tflite, number)
        tensor = model.tensors[number]
        name = tflite.values[number] = tflite.fresh(tensor.name)
        inputs[name] = tensor.shape
        if tensor.quantization is not None and tensor.dtype not in FLOATS:
            tflite.note(
                f"its input {name} is {tensor.dtype}, which stands for scale · (integer − zero "
                "point); the embedding is read for those real numbers"
            )
    if any(operator.name in VARIABLES for operator in model.operators):
        raise PatchParityError(
            f"{model.path} reads its weights from variables, which are not in the file: convert "
            "the model by TFLiteConverter.from_keras_model or from_saved_model"
        )
    for operator in model.operators:
        step = Step(tflite, operator)
        for number in operator.outputs:
            _require_unmade(tflite, number)
        written = len(tflite.nodes)
        try:
            translator = TRANSLATORS.get(operator.name)
            found = translator(step) if translator and step.outs else None
        except UntranslatedError:
            found = None
        if found is None:
            del tflite.nodes[written:]
            found = step.untranslated()
        if step.out_quantized():
            step.tell_activations()
        values = (found,) if isinstance(found, str) else found
        if len(values) != step.outs:
            raise model.buffer.damaged(
                f"a {operator.name} has {step.outs} outputs, expected {len(values)}"
            )
        tflite.values.update(zip(operator.outputs, values, strict=True))
    outputs = [tflite.values[number] for number in model.outputs if number in tflite.values]
    return tflite.graph(inputs, outputs), tflite.values


def _require_unmade(tflite: Tflite, number: int) -> None:
    if number in tflite.values or number in tflite.raw:
        raise tflite.model.buffer.damaged(f"{tflite.model.tensors[number].name!r} is made twice")
