"""Whether a block of an encoder begins at a value: a sum of the value itself and of what layers
make of it.

What is no such thing (an activation, a norm that is not known, a gate of squeeze-and-excitation)
stands between the projection and the first block.
"""

from collections.abc import Sequence

from .graph import Node
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


def begins_block(nodes: Sequence[Node], name: str) -> bool:
    """Whether a value and what layers make of it are added up.

    Args:
        nodes: of the graph, in order.
        name: of the value.
    """
    itself, made, mixed, looked = {name}, set[str](), set[str](), 0
    for node in nodes:
        given = {each for each in node.inputs if each in itself or each in made or each in mixed}
        if not given or node.op in ("Shape", "Size"):
            continue
        looked += 1
        if looked > LONGEST:
            break
        adds = node.op in ADDS or node.op.endswith("SkipLayerNormalization")
        if adds and given & itself and given & mixed:
            return True
        scaled = node.op in ("Mul", "Div") and len(given) == 1 and len(set(node.inputs)) == 2
        if given <= itself and (node.op in AS_IT_IS or scaled):
            itself.update(node.outputs)
        elif given & mixed or not (adds or node.op in PLAIN):
            mixed.update(node.outputs)
        else:
            made.update(node.outputs)
    return False
