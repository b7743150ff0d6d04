"""What a program of torch.export does to tokens between their projection and the first block."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from .graphs.blocks import begins_block
from .graphs.graph import Node

if TYPE_CHECKING:
    from .programs import Program, Step

MOVES = frozenset(
    [
        "view",
        "reshape",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "numpy_T",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "to",
        "_to_copy",
        "type_as",
        "lift_fresh_copy",
        "dropout",
        "native_dropout",
        "movedim",
        "moveaxis",
        "swapaxes",
        "pixel_unshuffle",
        "unfold",
        "im2col",
        "chunk",
        "split",
        "split_with_sizes",
        "unbind",
        "select",
        "getitem",
        "expand",
        "repeat",
        "cat",
        "stack",
        "_assert_tensor_metadata",
        "sym_size",
        "channel_shuffle",
        "slice",
        "index",
        "narrow",
    ]
)
"""Operators of ATen that move values, and change none."""

WORDS = {
    "add": "Add",
    "add_": "Add",
    "mul": "Mul",
    "mul_": "Mul",
    "div": "Div",
    "div_": "Div",
    "sub": "Sub",
    "pow": "Pow",
    "sqrt": "Sqrt",
    "rsqrt": "Sqrt",
    "mean": "ReduceMean",
    "relu": "Relu",
    "relu_": "Relu",
    "gelu": "Gelu",
    "silu": "Swish",
    "silu_": "Swish",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "layer_norm": "LayerNormalization",
    "native_layer_norm": "LayerNormalization",
    "rms_norm": "RMSNormalization",
    "batch_norm": "BatchNormalization",
    "cat": "Concat",
    "softmax": "Softmax",
    "_softmax": "Softmax",
}
"""Operators of ATen in ONNX's words, as far as it matters whether they mix channels or tokens."""

CHANGES = frozenset(
    (
        *("mul", "mul_", "div", "div_", "sub", "neg", "pow", "abs", "sqrt", "rsqrt", "exp", "sin"),
        *("cos", "relu", "relu_", "gelu", "silu", "silu_", "tanh", "sigmoid", "hardswish"),
        *("hardswish_", "leaky_relu", "softplus", "flip", "roll", "clamp", "clamp_min", "mean"),
        *("linalg_vector_norm", "normalize", "softmax", "_softmax", "group_norm", "var_mean"),
        *("max_pool2d", "avg_pool2d"),
    )
)
"""Operators that make other values of tokens, or of what is added to them, or put them elsewhere;
no reading of names has them where it does not have a norm."""

CUTS = ("slice", "narrow")
"""Operators that may leave tokens out."""

NO_END = 2**31
"""An end beyond which no axis reaches: torch writes that of a slice without one as 2⁶³ − 1."""

QUIET = ("sym_size", "_assert_tensor_metadata", "sym_numel", "_assert_scalar")
"""Operators that take a tensor for its sizes alone."""

LONGEST = 60
"""Operators between a projection and the first block: exporters write twenty of the longest."""


def against_tail(program: "Program", place: int, names: Mapping[str, str]) -> Iterator[str]:
    """What a program does to tokens, or to what is added to them, that a reading has not, in a
    sentence.

    Args:
        program: the program.
        place: of the projection among its steps.
        names: the tensors of the reading, by field.
    """
    # an RMSNorm is written by such operators, and so is a stem
    rms = any(
        role.endswith("_norm.scale") and role.replace("scale", "shift") not in names
        for role in names
    )
    normed = rms or any(role.startswith("stem.") for role in names)
    tokens = program.steps[place].gives[:1]
    behind = program.steps[place + 1 :]
    nodes = [_node(step) for step in behind]
    for _ in range(LONGEST):
        if not tokens:
            return
        takers = [step for step in behind if tokens[0] in step.takes and step.op not in QUIET]
        if len(takers) != 1 and begins_block(nodes, tokens[0]):
            return
        changed = [
            change
            for step in takers
            if not normed
            for change in _changes(program, step, tokens[0], names)
        ]
        if changed:
            yield (
                f"its program does {', '.join(dict.fromkeys(changed))} to tokens behind "
                f"{names['kernel']}, or to what is added to them, before the first block"
            )
            return
        if len(takers) != 1:
            return
        tokens = takers[0].gives[:1]


def _node(step: "Step") -> Node:
    """A step in ONNX's words, as far as `begins_block` needs it."""
    op = "Identity" if step.op in MOVES and step.op != "cat" else WORDS.get(step.op, step.op)
    return Node("Shape" if step.op in QUIET else op, step.takes, step.gives)


def is_whole(step: "Step") -> bool:
    """Whether a slice is one of everything, which exporters leave in programs."""
    start, end = step.numbers.get("start") or 0, step.numbers.get("end")
    return step.op == "slice" and start == 0 and not (isinstance(end, int) and end < NO_END)


def tokens_return(program: "Program", step: "Step") -> bool:
    """Whether what is cut of tokens is one of several parts that come together again: registers
    are put between the class token and the patches."""
    parts = {
        name
        for other in program.steps
        if other.op in CUTS and other.takes[:1] == step.takes[:1]
        for name in other.gives
    }
    return len(parts) > 1 and any(
        other.op == "cat" and parts <= set(other.takes) for other in program.steps
    )


def _changes(
    program: "Program", step: "Step", tokens: str, names: Mapping[str, str]
) -> Iterator[str]:
    """The operators by which a step, or what it takes beside the tokens, is none of a reading."""
    if step.op in CHANGES:
        yield step.op
    if step.op in CUTS and not is_whole(step) and not tokens_return(program, step):
        yield f"{step.op} ({step.numbers.get('start', 0)} to {step.numbers.get('end')})"
    ours = set(names.values())
    for name in step.takes:
        if name != tokens:
            yield from program.changes_of(name, ours, CHANGES)
