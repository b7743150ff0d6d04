"""Whether a block of an encoder begins at a value: a sum of the value itself and of what layers
make of it.

What is no such thing (an activation, a norm that is not known, a gate of squeeze-and-excitation)
stands between the projection and the first block.
"""

from collections.abc import Collection, Sequence

from .graph import Graph, Node
from .moves import MOVES

ADDS = ("Add", "Sum", "com.microsoft.QLinearAdd")
"""Operators that may be a residual sum; and those whose name ends in `SkipLayerNormalization`."""

AS_IT_IS = (*MOVES, "Cast", "QuantizeLinear", "DequantizeLinear")
"""Operators behind which a value is still itself."""

PLAIN = (
    *AS_IT_IS,
    *("Sub", "Mul", "Div", "Pow", "Sqrt", "Reciprocal", "Neg", "Abs", "Exp", "Log", "Erf", "Erfc"),
    *("Tanh", "Sigmoid", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Gelu", "Mish"),
    *("HardSwish", "HardSigmoid", "Softplus", "Softsign", "ThresholdedRelu", "Swish", "Clip"),
    *("Min", "Max", "Mean", "Where", "Equal", "Greater", "Less", "Not", "And", "Or", "Sign"),
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare"),
    *("ReduceL1", "ReduceL2", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Softmax"),
    *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
    *("InstanceNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization"),
    *("Concat", "Floor", "Ceil", "Round", "Sin", "Cos", "Resize", "DynamicQuantizeLinear"),
    *("com.microsoft.Gelu", "com.microsoft.QuickGelu", "com.microsoft.FastGelu"),
    *("com.microsoft.BiasGelu",),
)
"""Operators that are no layer of a block by themselves: none of them has weights that mix channels
or tokens."""

LONGEST = 4000
"""Operators that are looked at: a block has a hundred, of windows and quantized a thousand."""


def begins_block(nodes: Sequence[Node], name: str, others: Collection[str] = ()) -> bool:
    """Whether a value and what layers make of it are added up."""
    return bool(residual_sum(nodes, name, others))


def grows_behind(graph: Graph, name: str) -> bool:
    """Whether tokens of the graph's own, or a table of positions, are put to a sum, moved or not:
    what made it was no block then, but a layer of the embedding.

    Args:
        graph: the graph.
        name: of the sum.
    """
    fixed, itself = set(graph.constants), {name}
    for node in graph.nodes:
        given = itself.intersection(node.inputs)
        if not given:
            if node.inputs and all(not each or each in fixed for each in node.inputs[:1]):
                fixed.update(node.outputs)
            continue
        beside = [each for each in node.inputs if each in fixed]
        if node.op == "Concat" and beside:
            return True
        if node.op in ADDS and any(_is_table(graph, each) for each in beside):
            return True
        if node.op in AS_IT_IS:
            itself.update(node.outputs)
    return False


def _is_table(graph: Graph, name: str) -> bool:
    """Whether a constant has more than one row."""
    held = graph.constants.get(name)
    return held is not None and len(held.info.shape) > 1 and held.info.shape[-2] > 1


def residual_sum(nodes: Sequence[Node], name: str, others: Collection[str] = ()) -> str:
    """The name of the first sum of a value and of what layers make of it; empty for none.

    Args:
        nodes: of the graph, in order.
        name: of the value.
        others: inputs of the graph beside the image: what is picked by one is not the value itself.
    """
    itself, made, mixed, looked = {name}, set[str](), set[str](), 0
    given_later = set(others)
    for node in nodes:
        by_others = not given_later.isdisjoint(node.inputs)
        if by_others:
            given_later.update(node.outputs)
        given = {each for each in node.inputs if each in itself or each in made or each in mixed}
        if not given or node.op in ("Shape", "Size"):
            continue
        looked += 1
        if looked > LONGEST:
            break
        adds = node.op in ADDS or node.op.endswith("SkipLayerNormalization")
        if adds and given & itself and given & mixed:
            return node.outputs[0]
        if given <= itself and node.op in AS_IT_IS and not by_others:
            itself.update(node.outputs)
        elif given & mixed or not (adds or node.op in PLAIN):
            mixed.update(node.outputs)
        else:
            made.update(node.outputs)
    return ""
