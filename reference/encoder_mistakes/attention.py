"""Mistakes of attention, of blocks and of attention pooling."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..encoder import Rotary
from ..encoder_case import BlockCase, EndCase
from ..encoder_weights import Attention, EncoderSpec, Linear
from ..pipeline import Array
from .angles import coordinates_of, temperature_of, with_frequencies
from .catalogue import believing, block_with, end_with, register
from .norms import short


def _of_attention(
    name: str,
    explanation: str,
    mend: str,
    change: Callable[[Attention, EncoderSpec], Attention | None],
    harmless: bool = False,
) -> None:
    """Register what is done to the matrices of an attention."""

    def block(case: BlockCase) -> BlockCase | None:
        changed = change(case.block.attention, case.spec)
        return None if changed is None else block_with(case, attention=changed)

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        changed = None if pool is None else change(pool.attention, case.spec)
        if pool is None or changed is None:
            return None
        return end_with(case, pool=dataclasses.replace(pool, attention=changed))

    register(name, "attention", explanation, mend, block, end, harmless=harmless)


def _spec_of_attention(
    name: str,
    explanation: str,
    mend: str,
    change: Callable[[Attention, EncoderSpec], dict[str, Any] | None],
    declared: Callable[[BlockCase | EndCase], str] | None = None,
) -> None:
    """Register another belief about an attention: fields of the spec."""

    def block(case: BlockCase) -> BlockCase | None:
        fields = change(case.block.attention, case.spec)
        return None if fields is None else believing(case, **fields)

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        fields = None if pool is None else change(pool.attention, case.spec)
        return None if fields is None else believing(case, **fields)

    register(name, "attention", explanation, mend, block, end, declared=declared)


def transposed(linear: Linear) -> Linear | None:
    """The matrix's transpose, or None of one that is not square."""
    rows, columns = linear.weight.shape
    return Linear(linear.weight.T, linear.bias) if rows == columns else None


def replaced(holder: Any, change: Callable[[Linear], Linear | None], *names: str) -> Any:
    """An attention or MLP whose matrices `names` are changed; None where one cannot be, or is not
    there."""
    found = {name: getattr(holder, name) for name in names}
    changed = {name: None if old is None else change(old) for name, old in found.items()}
    if any(new is None for new in changed.values()):
        return None
    return dataclasses.replace(holder, **changed)


def biasless(linear: Linear) -> Linear | None:
    """Without its bias; None where that is nothing."""
    if linear.bias is None or not linear.bias.any():
        return None
    return Linear(linear.weight)


MATRICES = {"query": "q", "key": "k", "value": "v", "out": "the output projection"}
for _name, _called in MATRICES.items():
    _of_attention(
        f"{_name}-transposed",
        f"{_called} is not transposed",
        "transpose the matrix: torch's Linear keeps (out, in), Flax and Keras keep (in, out); a "
        "square one lets both through",
        lambda attention, spec, name=_name: replaced(  # type: ignore[misc]
            attention, transposed, name
        ),
    )
_of_attention(
    "attention-transposed",
    "q, k, v and the output projection are not transposed",
    "transpose the four matrices: torch's Linear keeps (out, in), Flax and Keras keep (in, out)",
    lambda attention, spec: replaced(attention, transposed, *MATRICES),
)
_of_attention(
    "query-key-value-transposed",
    "q, k and v are not transposed",
    "transpose the three matrices: torch's Linear keeps (out, in), Flax and Keras keep (in, out)",
    lambda attention, spec: replaced(attention, transposed, "query", "key", "value"),
)


def _exchanged(attention: Attention, first: str, second: str) -> Attention | None:
    one, other = getattr(attention, first), getattr(attention, second)
    if one.weight.shape != other.weight.shape:
        return None
    parts: dict[str, Any] = {first: other, second: one}
    return dataclasses.replace(attention, **parts)


for _first, _second in (("query", "key"), ("key", "value"), ("query", "value")):
    _of_attention(
        f"{_first}-{_second}-exchanged",
        f"{_first[0]} and {_second[0]} are exchanged",
        "cut the joined matrix in the order in which it was joined: q, k, v",
        lambda attention, spec, first=_first, second=_second: _exchanged(  # type: ignore[misc]
            attention, first, second
        ),
    )

_THREE = ("query", "key", "value")


def _joined(attention: Attention) -> tuple[Array, Array] | None:
    """The matrices of q, k and v, shape `(3, h·d, D)`, and their biases, `(3, h·d)`; None where
    they are of several shapes."""
    linears = [getattr(attention, name) for name in _THREE]
    if len({linear.weight.shape for linear in linears}) > 1:
        return None
    rows = len(linears[0].weight)
    biases = [np.zeros(rows) if each.bias is None else each.bias for each in linears]
    return np.stack([each.weight for each in linears]), np.stack(biases)


def _resplit(attention: Attention, spec: EncoderSpec, by_head: bool) -> Attention | None:
    """q, k and v of joined rows that are cut head by head, (h 3 d), though they were joined as
    (3 h d); or the other way round."""
    joined = _joined(attention)
    if joined is None or joined[0].shape[1] % spec.num_heads:
        return None

    def cut(values: Array) -> Array:
        flat = values.reshape(-1, *values.shape[2:])
        each = values.shape[1] // spec.num_heads
        if by_head:
            parts = flat.reshape(spec.num_heads, 3, each, *values.shape[2:]).swapaxes(0, 1)
        else:
            parts = (
                values.reshape(3, spec.num_heads, each, *values.shape[2:])
                .swapaxes(0, 1)
                .reshape(3, -1, *values.shape[2:])
            )
        return parts.reshape(values.shape)

    weights, biases = map(cut, joined)
    without = all(getattr(attention, name).bias is None for name in _THREE)
    parts: dict[str, Any] = {
        name: Linear(weight, None if without else bias)
        for name, weight, bias in zip(_THREE, weights, biases, strict=True)
    }
    return dataclasses.replace(attention, **parts)


_of_attention(
    "joined-cut-by-head",
    "q, k and v were cut head by head out of rows that were joined matrix by matrix: (h 3 d) for "
    "(3 h d)",
    "cut the joined matrix in three, then into heads",
    lambda attention, spec: _resplit(attention, spec, by_head=True),
)
_of_attention(
    "joined-cut-by-matrix",
    "q, k and v were cut matrix by matrix out of rows that were joined head by head: (3 h d) for "
    "(h 3 d)",
    "cut the joined matrix into heads, then in three",
    lambda attention, spec: _resplit(attention, spec, by_head=False),
)


def _minor(linear: Linear, heads: int, rows: bool, into: bool) -> Linear | None:
    """The matrix with the heads of its rows or columns made the minor part, or the major one of
    what is taken for that."""
    size = linear.weight.shape[0 if rows else 1]
    if size % heads:
        return None
    shape = (heads, size // heads) if into else (size // heads, heads)
    order = np.arange(size).reshape(shape).T.ravel()
    if not rows:
        return Linear(linear.weight[:, order], linear.bias)
    return Linear(linear.weight[order], None if linear.bias is None else linear.bias[order])


def _heads_minor(
    attention: Attention, spec: EncoderSpec, names: tuple[str, ...], into: bool
) -> Attention | None:
    for name in names:
        changed = replaced(
            attention,
            lambda linear, rows=name != "out": _minor(  # type: ignore[misc]
                linear, spec.num_heads, rows, into
            ),
            name,
        )
        if changed is None:
            return None
        attention = changed
    return attention


for _names, _id, _called in (
    (_THREE, "query-key-value", "the rows of q, k and v"),
    (("out",), "out", "the columns of the output projection"),
    (tuple(MATRICES), "all", "q, k, v and the output projection"),
):
    for _into, _order in ((True, "are (d h), read as (h d)"), (False, "are (h d), read as (d h)")):
        _of_attention(
            f"{_id}-heads-{'minor' if _into else 'major'}",
            f"{_called} {_order}: heads and their channels are exchanged",
            "reshape by head first, (h, d); a head's channels stand side by side",
            lambda attention, spec, names=_names, into=_into: _heads_minor(  # type: ignore[misc]
                attention, spec, names, into
            ),
        )

for _name, _called in {**MATRICES, "out": "the output projection"}.items():
    _of_attention(
        f"{_name}-bias-dropped",
        f"the bias of {_called} was not added"
        + (", which the softmax takes out" if _name == "key" else ""),
        "load the bias, or create the layer with bias=True",
        lambda attention, spec, name=_name: replaced(  # type: ignore[misc]
            attention, biasless, name
        ),
        harmless=_name == "key",
    )


def _without_biases(attention: Attention, names: tuple[str, ...]) -> Attention | None:
    parts: dict[str, Any] = {name: Linear(getattr(attention, name).weight) for name in names}
    return dataclasses.replace(attention, **parts)


_of_attention(
    "query-key-value-biases-dropped",
    "the biases of q, k and v were not added",
    "load the biases, or create the layers with qkv_bias=True",
    lambda attention, spec: _without_biases(attention, _THREE),
)


def _width(attention: Attention) -> int:
    return len(attention.query.weight)


def _scale(attention: Attention, spec: EncoderSpec) -> float:
    if spec.attention_scale is not None:
        return spec.attention_scale
    return float((_width(attention) / spec.num_heads) ** -0.5)


def _scale_declared(case: BlockCase | EndCase) -> str:
    scale = case.spec.attention_scale
    return "1/√d" if scale is None else short(scale)


for _id, _called, _scaled in (
    ("width", "scores are multiplied by 1/√D, D the width of all heads", "width"),
    ("missing", "scores are not scaled", "missing"),
    ("twice", "scores are scaled twice", "twice"),
    ("inverse-head", "scores are multiplied by 1/√d, d the width of a head", "head"),
):

    def _other_scale(
        attention: Attention, spec: EncoderSpec, how: str = _scaled
    ) -> dict[str, Any] | None:
        right = _scale(attention, spec)
        wrong = {
            "width": _width(attention) ** -0.5,
            "missing": 1.0,
            "twice": right**2,
            "head": (_width(attention) / spec.num_heads) ** -0.5,
        }[how]
        near = abs(wrong - right) <= 1e-9 * right
        return None if near else {"attention_scale": float(wrong)}

    _spec_of_attention(
        f"attention-scale-{_id}",
        _called,
        "multiply q·k by the declared scale, once: 1/√d of a head's width d unless told otherwise",
        _other_scale,
        _scale_declared,
    )

for _name, _called in (("query_norm", "q"), ("key_norm", "k")):
    _of_attention(
        f"{_name.replace('_', '-')}-dropped",
        f"the norm of {_called} was left out",
        "create the attention with norms of q and k",
        lambda attention, spec, name=_name: dataclasses.replace(  # type: ignore[misc]
            attention, **{name: None}
        ),
    )
_of_attention(
    "query-key-norms-dropped",
    "the norms of q and k were left out",
    "create the attention with norms of q and k",
    lambda attention, spec: (
        None
        if attention.query_norm is None or attention.key_norm is None
        else dataclasses.replace(attention, query_norm=None, key_norm=None)
    ),
)
_of_attention(
    "query-key-norms-exchanged",
    "the norms of q and k are exchanged",
    "give each norm to its own matrix",
    lambda attention, spec: dataclasses.replace(
        attention, query_norm=attention.key_norm, key_norm=attention.query_norm
    ),
)
_of_attention(
    "scores-bias-dropped",
    "the relative positions were not added to the scores",
    "add the bias of relative positions to q·k before the softmax",
    lambda attention, spec: dataclasses.replace(attention, scores_bias=None),
)

HEADS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
"""Numbers of heads of published Vision Transformers, 3 of ViT-Ti to 24 of ViT-g, and those that a
wrong cut gives."""


def _fits_heads(attention: Attention, heads: int) -> bool:
    """Whether so many heads can be cut, of the widths that its norms have."""
    each = _width(attention) / heads
    norms = [norm for norm in (attention.query_norm, attention.key_norm) if norm is not None]
    return each == int(each) and all(len(norm.scale) in (each, _width(attention)) for norm in norms)


def _heads(heads: int) -> None:
    def change(attention: Attention, spec: EncoderSpec) -> dict[str, Any] | None:
        bias = attention.scores_bias
        if heads == spec.num_heads or not _fits_heads(attention, heads):
            return None
        return {"num_heads": heads} if bias is None or len(bias) == heads else None

    def block(case: BlockCase) -> BlockCase | None:
        fields = change(case.block.attention, case.spec)
        return None if fields is None else _of_head_width(believing(case, **fields))

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        fields = None if pool is None else change(pool.attention, case.spec)
        return None if fields is None else believing(case, **fields)

    register(
        f"heads-{heads}",
        "attention",
        f"the number of heads is {heads}",
        "set the number of heads, which no joined or square matrix holds",
        block,
        end,
        declared=lambda case: str(case.spec.num_heads),
    )


def _of_head_width(case: BlockCase) -> BlockCase | None:
    """The case with the rotary angles of its heads' width; None where there are none."""
    rotary = case.places.rotary
    if rotary is None:
        return case
    each = len(case.block.attention.query.weight) // case.spec.num_heads
    temperature, coordinates = temperature_of(rotary.angles), coordinates_of(rotary.angles)
    if temperature is None or coordinates is None or each % 4:
        return case if 2 * rotary.angles.shape[1] <= each else None
    angles = with_frequencies(coordinates, temperature, each // 4)
    return dataclasses.replace(case, places=dataclasses.replace(case.places, rotary=Rotary(angles)))


for _count in HEADS:
    _heads(_count)
