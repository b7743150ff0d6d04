"""The values of a translated graph, as ONNX Runtime computes them: what a translator wrote is held
against the runtime of the format that it was translated from."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from patchparity.porting.files.graphs.graph import Graph, Node

WIDENED = [
    np.dtype(getattr(ml_dtypes, name))
    for name in ("int4", "uint4", "float4_e2m1fn", "float8_e4m3fn", "float8_e5m2")
]
"""Types of constants that are given as float32: ONNX Runtime casts none of them."""


def computed(
    graph: Graph, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """What a graph computes, by name."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    nodes, wanted = _needed(graph, names)
    read = {name: graph.constants[name].read() for name in wanted & graph.constants.keys()}
    read = {n: v.astype(np.float32) if v.dtype in WIDENED else np.array(v) for n, v in read.items()}
    given = {name: feeds[name] for name in wanted & graph.inputs.keys()}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_node(onnx, node) for node in nodes],
            "translated",
            [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
                )
                for name, value in given.items()
            ],
            [onnx.ValueInfoProto(name=name) for name in names],
            [onnx.numpy_helper.from_array(value, name) for name, value in read.items()],
        ),
        opset_imports=[onnx.helper.make_opsetid("", max(node.version for node in nodes))],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip(names, session.run(list(names), given), strict=True))


def _needed(graph: Graph, names: Sequence[str]) -> tuple[list[Node], set[str]]:
    wanted, nodes = set(names), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            nodes.append(node)
    return nodes[::-1], wanted


def _node(onnx: Any, node: Node) -> Any:
    attributes = {
        name: onnx.numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    return onnx.helper.make_node(node.op, node.inputs, node.outputs, **attributes)


def foreign(graph: Graph, mark: str) -> tuple[set[str], set[str]]:
    """The operators that keep their own names, and all values that come behind them."""
    own: set[str] = set()
    behind: set[str] = set()
    for node in graph.nodes:
        if node.op.startswith(mark) or behind.intersection(node.inputs):
            own |= {node.op} if node.op.startswith(mark) else set()
            behind.update(node.outputs)
    return own, behind
