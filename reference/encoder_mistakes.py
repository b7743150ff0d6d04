"""The catalogue of known mistakes of a whole encoder: negative controls for its verdicts, and the
vocabulary of its diagnosis.

An encoder is an `EncoderCase`, the right program laid open; a mistake is a function from a case to
the wrong one, in one block, in all of them, in their order or behind the last. Two mistakes in one
program are two functions in a row. A wrong program is again blocks, a spec and places, so that its
outputs have bounds as the right one's have.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from .encoder import Rotary
from .encoder_case import BlockCase, EncoderCase, EndCase, alike
from .encoder_weights import Attention, EncoderSpec, Linear, Mlp
from .pipeline import Array
from .weights import LayerNorm

Part = Literal["norms", "attention", "mlp", "scales", "positions", "order", "end"]
BlockChange = Callable[[BlockCase], BlockCase | None]
EndChange = Callable[[EndCase], EndCase | None]
Case = TypeVar("Case", BlockCase, EndCase)


@dataclass(frozen=True)
class EncoderMistake:
    """One known mistake.

    Args:
        id: stable name.
        part: where in the encoder it sits.
        explanation: what was done, in one clause.
        mend: what to do, in one line.
        make: the wrong encoder, or None where the mistake makes no difference or cannot be made.
            What sits in blocks is made in the block `case.place`, or in all of them.
        of_block, of_end: the same of one block, and of what stands behind the last; None for what
            does not sit there.
        declared: what was declared instead, of a block or an end, in a word; None where the
            explanation says all.
        harmless: whether exact arithmetic gives the same output, unless positions or norms stand
            in between.

    Examples:
        >>> from patchparity.reference.encoder_mistakes import ENCODER_CATALOGUE
        >>> ENCODER_CATALOGUE["norms-exchanged"].explanation
        'the two norms are exchanged'
    """

    id: str
    part: Part
    explanation: str
    mend: str
    make: Callable[[EncoderCase], EncoderCase | None]
    of_block: BlockChange | None = None
    of_end: EndChange | None = None
    declared: Callable[[BlockCase | EndCase], str] | None = None
    harmless: bool = False

    def told(self, case: BlockCase | EndCase) -> str:
        """The explanation, with what was declared of the right `case`."""
        if self.declared is None:
            return self.explanation
        return f"{self.explanation}, {self.declared(case)} was declared"


ENCODER_CATALOGUE: dict[str, EncoderMistake] = {}
"""All mistakes by id, in the order in which an encoder computes."""


def _kept_if_other(case: Case, change: Callable[[Case], Case | None] | None) -> Case | None:
    """What a change makes of a case, or None where it leaves it as it is."""
    changed = None if change is None else change(case)
    return None if changed is None or alike(changed, case) else changed


def _register(
    name: str,
    part: Part,
    explanation: str,
    mend: str,
    of_block: BlockChange | None = None,
    of_end: EndChange | None = None,
    *,
    declared: Callable[[BlockCase | EndCase], str] | None = None,
    harmless: bool = False,
) -> None:
    def block(case: BlockCase) -> BlockCase | None:
        return _kept_if_other(case, of_block)

    def end(case: EndCase) -> EndCase | None:
        return _kept_if_other(case, of_end)

    def make(case: EncoderCase) -> EncoderCase | None:
        blocks, changed = list(case.blocks), False
        for number, each in enumerate(blocks if of_block else ()):
            wrong = block(each) if case.place in (None, number) else None
            if wrong is not None:
                blocks[number], changed = wrong, True
        behind = end(case.end) if case.place is None or not of_block else None
        if behind is None and not changed:
            return None
        return dataclasses.replace(case, blocks=tuple(blocks), end=behind or case.end)

    ENCODER_CATALOGUE[name] = EncoderMistake(
        name,
        part,
        explanation,
        mend,
        make,
        block if of_block else None,
        end if of_end else None,
        declared,
        harmless,
    )


def _with(case: BlockCase, **parts: Any) -> BlockCase:
    """The block with some of its weights replaced."""
    return dataclasses.replace(case, block=dataclasses.replace(case.block, **parts))


def _end_with(case: EndCase, **parts: Any) -> EndCase:
    """The end with some of its weights replaced."""
    return dataclasses.replace(case, weights=dataclasses.replace(case.weights, **parts))


def _believing(case: Case, **fields: Any) -> Case:
    """The case with another spec."""
    return dataclasses.replace(case, spec=dataclasses.replace(case.spec, **fields))


# Norms.


def _has_norm(case: EndCase) -> bool:
    pool, weights = case.weights.pool, case.weights
    within = None if pool is None else pool.norm
    return any(each is not None for each in (weights.final_norm, weights.pooled_norm, within))


def _norms(
    case: BlockCase,
    change: Callable[[LayerNorm], LayerNorm | None],
    which: tuple[str, ...] = ("first_norm", "second_norm"),
) -> BlockCase | None:
    """The block with its norms changed."""
    norms = {name: change(getattr(case.block, name)) for name in which}
    kept = {name: norm for name, norm in norms.items() if norm is not None}
    return _with(case, **kept) if kept else None


def _end_norms(case: EndCase, change: Callable[[LayerNorm], LayerNorm | None]) -> EndCase | None:
    """The end with its final and its pooled norm changed."""
    norms = {name: getattr(case.weights, name) for name in ("final_norm", "pooled_norm")}
    changed = {name: change(norm) for name, norm in norms.items() if norm is not None}
    kept = {name: norm for name, norm in changed.items() if norm is not None}
    return _end_with(case, **kept) if kept else None


def _of_norms(
    name: str, explanation: str, mend: str, change: Callable[[LayerNorm], LayerNorm | None]
) -> None:
    """Register what is done to every norm."""
    _register(
        name,
        "norms",
        explanation,
        mend,
        lambda case: _norms(case, change),
        lambda case: _end_norms(case, change),
    )


EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-12)
"""ε that libraries have: Keras's default; some mobile models; torch's default; timm and DINOv2;
transformers' ViT."""


def short(value: float) -> str:
    """A number in a word of at most three digits: 1e-6, 0.125, 10000."""
    if not value or abs(value) >= 0.01:
        return f"{value:.6g}"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(power)}"


def _epsilon(epsilon: float) -> None:
    _register(
        f"epsilon-{short(epsilon)}",
        "norms",
        f"eps is {short(epsilon)}",
        "create the norms with the declared eps, which no tensor holds",
        lambda case: _believing(case, norm_epsilon=epsilon),
        lambda case: _believing(case, norm_epsilon=epsilon) if _has_norm(case) else None,
        declared=lambda case: short(case.spec.norm_epsilon),
    )


for _value in EPSILONS:
    _epsilon(_value)

_register(
    "norms-exchanged", "norms",
    "the two norms are exchanged",
    "give the first norm to attention and the second to the MLP",
    lambda case: _with(
        case, first_norm=case.block.second_norm, second_norm=case.block.first_norm
    ),
)  # fmt: skip
_of_norms(
    "rms-for-layer-norm",
    "RMSNorm stands for LayerNorm: the mean is not taken out",
    "use LayerNorm",
    lambda norm: dataclasses.replace(norm, centered=False),
)
_of_norms(
    "layer-norm-for-rms",
    "LayerNorm stands for RMSNorm: the mean is taken out",
    "use RMSNorm",
    lambda norm: dataclasses.replace(norm, centered=True),
)
for _placed, _words in {
    "pre": "before each half",
    "post": "behind the sums",
    "behind": "behind each half, before the sum",
}.items():
    _register(
        f"norms-{_placed}",
        "norms",
        f"the norms stand {_words}, norms='{_placed}'",
        "set the norms where they were trained: x + f(norm(x)), norm(x + f(x)) or x + norm(f(x))",
        lambda case, placed=_placed: _believing(case, norms=placed),  # type: ignore[misc]
        declared=lambda case: f"'{case.spec.norms}'",
    )


def _unshifted(norm: LayerNorm) -> LayerNorm | None:
    return None if norm.shift is None or not norm.shift.any() else _shift(norm, None)


def _shift(norm: LayerNorm, shift: Array | None) -> LayerNorm:
    return dataclasses.replace(norm, shift=shift)


_of_norms(
    "norm-shifts-dropped",
    "the norms' shifts were not added",
    "load the norms' biases, or create them with bias=True",
    _unshifted,
)
for _which, _called in {"first_norm": "first", "second_norm": "second"}.items():
    _register(
        f"{_called}-norm-shift-dropped",
        "norms",
        f"the shift of the {_called} norm was not added",
        "load the norm's bias",
        lambda case, which=_which: _norms(case, _unshifted, (which,)),  # type: ignore[misc]
    )
_of_norms(
    "norm-scales-plus-one",
    "1 was added to the norms' scales, which hold it already",
    "use the scales as they are: they are not stored as scale - 1",
    lambda norm: dataclasses.replace(norm, scale=norm.scale + 1),
)
_of_norms(
    "norm-scales-minus-one",
    "the norms' scales are smaller by 1: stored as scale - 1, and 1 was not added",
    "add 1 to the stored scales",
    lambda norm: dataclasses.replace(norm, scale=norm.scale - 1),
)


# Attention, of blocks and of attention pooling.


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
        return None if changed is None else _with(case, attention=changed)

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        changed = None if pool is None else change(pool.attention, case.spec)
        if pool is None or changed is None:
            return None
        return _end_with(case, pool=dataclasses.replace(pool, attention=changed))

    _register(name, "attention", explanation, mend, block, end, harmless=harmless)


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
        return None if fields is None else _believing(case, **fields)

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        fields = None if pool is None else change(pool.attention, case.spec)
        return None if fields is None else _believing(case, **fields)

    _register(name, "attention", explanation, mend, block, end, declared=declared)


def _transposed(linear: Linear) -> Linear | None:
    """The matrix's transpose, or None of one that is not square."""
    rows, columns = linear.weight.shape
    return Linear(linear.weight.T, linear.bias) if rows == columns else None


def _replaced(holder: Any, change: Callable[[Linear], Linear | None], *names: str) -> Any:
    """An attention or MLP whose matrices `names` are changed; None where one cannot be, or is not
    there."""
    found = {name: getattr(holder, name) for name in names}
    changed = {name: None if old is None else change(old) for name, old in found.items()}
    if any(new is None for new in changed.values()):
        return None
    return dataclasses.replace(holder, **changed)


def _biasless(linear: Linear) -> Linear | None:
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
        lambda attention, spec, name=_name: _replaced(  # type: ignore[misc]
            attention, _transposed, name
        ),
    )
_of_attention(
    "attention-transposed",
    "q, k, v and the output projection are not transposed",
    "transpose the four matrices: torch's Linear keeps (out, in), Flax and Keras keep (in, out)",
    lambda attention, spec: _replaced(attention, _transposed, *MATRICES),
)
_of_attention(
    "query-key-value-transposed",
    "q, k and v are not transposed",
    "transpose the three matrices: torch's Linear keeps (out, in), Flax and Keras keep (in, out)",
    lambda attention, spec: _replaced(attention, _transposed, "query", "key", "value"),
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
        changed = _replaced(
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
        lambda attention, spec, name=_name: _replaced(  # type: ignore[misc]
            attention, _biasless, name
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
        return None if fields is None else _of_head_width(_believing(case, **fields))

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        fields = None if pool is None else change(pool.attention, case.spec)
        return None if fields is None else _believing(case, **fields)

    _register(
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
    temperature, coordinates = _temperature_of(rotary.angles), _coordinates(rotary.angles)
    if temperature is None or coordinates is None or each % 4:
        return case if 2 * rotary.angles.shape[1] <= each else None
    angles = _with_frequencies(coordinates, temperature, each // 4)
    return dataclasses.replace(case, places=dataclasses.replace(case.places, rotary=Rotary(angles)))


for _count in HEADS:
    _heads(_count)


# The MLP, of blocks and of attention pooling.


def _of_mlp(name: str, explanation: str, mend: str, change: Callable[[Mlp], Mlp | None]) -> None:
    """Register what is done to the matrices of an MLP."""

    def block(case: BlockCase) -> BlockCase | None:
        changed = change(case.block.mlp)
        return None if changed is None else _with(case, mlp=changed)

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        changed = None if pool is None or pool.mlp is None else change(pool.mlp)
        if pool is None or changed is None:
            return None
        return _end_with(case, pool=dataclasses.replace(pool, mlp=changed))

    _register(name, "mlp", explanation, mend, block, end)


ACTIVATION_WORDS = {
    "gelu": "exact GELU",
    "gelu-tanh": "tanh GELU",
    "quick-gelu": "quick GELU",
    "silu": "SiLU",
    "relu": "ReLU",
    "identity": "missing",
}


def _pools_by_mlp(case: EndCase) -> bool:
    return case.weights.pool is not None and case.weights.pool.mlp is not None


def _activation(name: str, words: str) -> None:
    _register(
        "activation-missing" if name == "identity" else f"activation-{name}",
        "mlp",
        f"the activation is {words}",
        "set the activation, which no tensor holds: GELU is exact in torch, tanh in JAX, quick in "
        "OpenAI's CLIP",
        lambda case: _believing(case, activation=name),
        lambda case: _believing(case, activation=name) if _pools_by_mlp(case) else None,
        declared=lambda case: ACTIVATION_WORDS[case.spec.activation],
    )


for _name, _called in ACTIVATION_WORDS.items():
    _activation(_name, _called)


def _up_for_down(mlp: Mlp) -> Mlp | None:
    """up(x) where down(x) should be, and the reverse: only where both have one shape."""
    if mlp.up.weight.shape != mlp.down.weight.shape:
        return None
    return dataclasses.replace(mlp, up=mlp.down, down=mlp.up)


def _up_of_down(mlp: Mlp) -> Mlp | None:
    """Each matrix is the other's transpose, its own bias beside it: shapes let all through."""
    return dataclasses.replace(
        mlp,
        up=Linear(mlp.down.weight.T, mlp.up.bias),
        down=Linear(mlp.up.weight.T, mlp.down.bias),
    )


for _name in ("up", "down", "gate"):
    _of_mlp(
        f"{_name}-transposed",
        f"the MLP's {_name} matrix is not transposed",
        "transpose the matrix: torch's Linear keeps (out, in), Flax and Keras keep (in, out)",
        lambda mlp, name=_name: _replaced(mlp, _transposed, name),  # type: ignore[misc]
    )
    _of_mlp(
        f"{_name}-bias-dropped",
        f"the bias of the MLP's {_name} matrix was not added",
        "load the bias, or create the layer with bias=True",
        lambda mlp, name=_name: _replaced(mlp, _biasless, name),  # type: ignore[misc]
    )
_of_mlp(
    "up-down-exchanged",
    "the MLP's up and down matrices are exchanged",
    "give up and down their own matrices",
    _up_for_down,
)
_of_mlp(
    "up-down-exchanged-transposed",
    "the MLP's up and down matrices are exchanged, each transposed",
    "give up and down their own matrices: some GGUF files name them the other way round",
    _up_of_down,
)
_of_mlp(
    "gate-up-exchanged",
    "gate and up are exchanged: the activation is on the wrong one",
    "cut the joined matrix in the order in which it was joined: gate first, or up first",
    lambda mlp: None if mlp.gate is None else dataclasses.replace(mlp, gate=mlp.up, up=mlp.gate),
)
_of_mlp(
    "gate-dropped",
    "the gate was left out: down(act(up(x)))",
    "multiply act(gate(x)) by up(x)",
    lambda mlp: dataclasses.replace(mlp, gate=None),
)
_of_mlp(
    "up-dropped",
    "the gate alone was used: down(act(gate(x)))",
    "multiply act(gate(x)) by up(x)",
    lambda mlp: None if mlp.gate is None else dataclasses.replace(mlp, up=mlp.gate, gate=None),
)
_of_mlp(
    "mlp-norm-dropped",
    "the norm within the MLP was left out",
    "create the MLP with its norm",
    lambda mlp: dataclasses.replace(mlp, norm=None),
)


# Layer scale.


def _scales(case: BlockCase, change: Callable[[Array], Array | None]) -> BlockCase | None:
    found = {name: getattr(case.block, name) for name in ("first_scale", "second_scale")}
    kept = {name: change(each) for name, each in found.items() if each is not None}
    return _with(case, **kept) if kept else None


_register(
    "layer-scales-dropped", "scales",
    "layer scale was left out",
    "multiply what either half gives by its layer scale, or fold it into the last matrices",
    lambda case: _scales(case, lambda scale: None),
)  # fmt: skip
for _name, _called in {"first_scale": "first", "second_scale": "second"}.items():
    _register(
        f"{_called}-layer-scale-dropped",
        "scales",
        f"the {_called} layer scale was left out",
        "multiply what either half gives by its layer scale",
        lambda case, name=_name: _with(case, **{name: None}),  # type: ignore[misc]
    )
_register(
    "layer-scales-exchanged", "scales",
    "the two layer scales are exchanged",
    "give the first layer scale to attention and the second to the MLP",
    lambda case: _with(
        case, first_scale=case.block.second_scale, second_scale=case.block.first_scale
    ),
)  # fmt: skip
_register(
    "layer-scales-twice", "scales",
    "layer scale was applied twice: folded into the matrices, and kept",
    "fold layer scale or keep it, not both",
    lambda case: _scales(case, lambda scale: scale * scale),
)  # fmt: skip


# Positions: rotary angles and windows.


def _turned(
    case: BlockCase, change: Callable[[Array], Array | None], **fields: Any
) -> BlockCase | None:
    """The block with other angles, and with another spec."""
    rotary = case.places.rotary
    angles = None if rotary is None else change(rotary.angles)
    if angles is None:
        return None
    places = dataclasses.replace(case.places, rotary=Rotary(angles))
    changed = dataclasses.replace(case, places=places)
    return _believing(changed, **fields) if fields else changed


def _temperature_of(angles: Array) -> float | None:
    """θ of angles whose halves are one coordinate each, times θ^(−i/q), i from 0 to q − 1; None of
    others."""
    quarter = angles.shape[1] // 2
    if quarter < 2 or angles.shape[1] % 2:
        return None
    halves = angles.reshape(len(angles), 2, quarter)
    coordinates = halves[:, :, 0]
    sizes = float(np.square(coordinates).sum())
    if not sizes:
        return None
    frequencies = np.einsum("nac,na->c", halves, coordinates) / sizes
    if not np.allclose(halves, coordinates[:, :, None] * frequencies, rtol=1e-5, atol=1e-9):
        return None
    if frequencies[1] <= 0:
        return None
    temperature = float(frequencies[1] ** -quarter)
    expected = temperature ** (-np.arange(quarter) / quarter)
    return temperature if np.allclose(frequencies, expected, rtol=1e-5) else None


def _coordinates(angles: Array) -> Array | None:
    """Rows and columns, shape `(N, 2)`, of angles as `rotary_angles` gives them."""
    if _temperature_of(angles) is None:
        return None
    return angles.reshape(len(angles), 2, -1)[:, :, 0]


def _with_frequencies(coordinates: Array, temperature: float, quarter: int) -> Array:
    frequencies = temperature ** (-np.arange(quarter) / quarter)
    return np.asarray((coordinates[:, :, None] * frequencies).reshape(len(coordinates), -1))


TEMPERATURES = (100.0, 1000.0, 10000.0, 100000.0)
"""θ of published models: DINOv3; none known; RoFormer, Qwen2-VL, EVA-02; long contexts of language
models."""


def _temperature(temperature: float) -> None:
    def change(angles: Array) -> Array | None:
        right, coordinates = _temperature_of(angles), _coordinates(angles)
        if right is None or coordinates is None or abs(right / temperature - 1) < 1e-4:
            return None
        return _with_frequencies(coordinates, temperature, angles.shape[1] // 2)

    def declared(case: BlockCase | EndCase) -> str:
        rotary = case.places.rotary if isinstance(case, BlockCase) else None
        found = None if rotary is None else _temperature_of(rotary.angles)
        return "another" if found is None else short(found)

    _register(
        f"rotary-temperature-{short(temperature)}",
        "positions",
        f"the temperature of the rotary positions is {short(temperature)}",
        "set the base θ of the rotary positions, which no tensor holds",
        lambda case: _turned(case, change),
        declared=declared,
    )


for _value in TEMPERATURES:
    _temperature(_value)


def _other_coordinates(angles: Array) -> Array | None:
    """Angles of whole numbers for those of the unit, or the reverse."""
    temperature, coordinates = _temperature_of(angles), _coordinates(angles)
    if temperature is None or coordinates is None:
        return None
    numbers = [np.unique(axis.round(9), return_inverse=True) for axis in coordinates.T]
    index = np.stack([inverse for _, inverse in numbers], axis=1).astype(np.float64)
    sizes = np.array([len(values) for values, _ in numbers])
    unit = 2 * np.pi * ((2 * index + 1) / sizes - 1)
    for right, wrong in ((index, unit), (unit, index)):
        if np.allclose(coordinates, right, atol=1e-6):
            return _with_frequencies(wrong, temperature, angles.shape[1] // 2)
    return None


_register(
    "rotary-pairing", "positions",
    "rotary positions turn the wrong channels together: halves for interleaved, or the reverse",
    "pair channels as declared: i with i + d/2 (rotate_half), or 2i with 2i + 1; or permute the "
    "rows of q and k",
    lambda case: _turned(
        case,
        lambda angles: angles,
        pairing="interleaved" if case.spec.pairing == "halves" else "halves",
    ),
)  # fmt: skip
_register(
    "rotary-axes-exchanged", "positions",
    "rows and columns of the rotary positions are exchanged",
    "turn the first half of the pairs by rows, the second by columns",
    lambda case: _turned(
        case,
        lambda angles: (
            None if angles.shape[1] % 2 else np.roll(angles, angles.shape[1] // 2, axis=1)
        ),
    ),
)  # fmt: skip
_register(
    "rotary-coordinates", "positions",
    "the coordinates of the rotary positions are whole numbers for those of the unit, or the "
    "reverse",
    "use the coordinates as declared: 0, 1, 2, ..., or the patch's center from -1 to 1",
    lambda case: _turned(case, _other_coordinates),
)  # fmt: skip
_register(
    "rotary-missing", "positions",
    "queries and keys are not turned: there are no rotary positions",
    "turn q and k of the patches by the rotary positions",
    lambda case: dataclasses.replace(
        case, places=dataclasses.replace(case.places, rotary=None)
    ),
)  # fmt: skip
_register(
    "rotary-from-first-token", "positions",
    "the rotary positions begin at the first token, a prefix token, and not at the first patch",
    "leave the prefix tokens as they are, and turn the patches",
    lambda case: _turned(
        case,
        lambda angles: angles,
        prefix_tokens=0,
        suffix_tokens=case.spec.suffix_tokens + case.spec.prefix_tokens,
    ),
)  # fmt: skip
_register(
    "windows-ignored", "positions",
    "every token sees every other: there are no windows",
    "keep attention within its windows",
    lambda case: dataclasses.replace(
        case, places=dataclasses.replace(case.places, windows=None)
    ),
)  # fmt: skip
_register(
    "windows-everywhere", "positions",
    "attention is kept within windows, in a block where every token sees every other",
    "leave the windows out of the full blocks",
    lambda case: dataclasses.replace(
        case, places=dataclasses.replace(case.places, windows=case.model.windows)
    ),
)  # fmt: skip


# The order of blocks. What `order` gives are the numbers of the blocks that run.


def _ordered(
    name: str,
    explanation: str,
    mend: str,
    order: Callable[[int, int], list[int]],
) -> None:
    """Register another order, of the number of blocks and of a place among them."""

    def make(case: EncoderCase) -> EncoderCase | None:
        depth = len(case.blocks)
        numbers = order(depth, depth // 2 if case.place is None else case.place)
        if numbers == list(range(depth)) or not numbers:
            return None
        # a block's windows are those of its place, and its weights another's
        blocks = tuple(
            dataclasses.replace(case.blocks[min(place, depth - 1)], block=case.blocks[each].block)
            for place, each in enumerate(numbers)
        )
        if alike(blocks, case.blocks):
            return None
        return dataclasses.replace(case, blocks=blocks)

    ENCODER_CATALOGUE[name] = EncoderMistake(name, "order", explanation, mend, make)


def by_name(depth: int) -> list[int]:
    """The numbers of blocks in the order of their names: 0, 1, 10, 11, 2."""
    return sorted(range(depth), key=str)


def _swapped(depth: int, place: int) -> list[int]:
    numbers = list(range(depth))
    if place + 1 < depth:
        numbers[place], numbers[place + 1] = place + 1, place
    return numbers


def _stale(depth: int, place: int) -> list[int]:
    numbers = list(range(depth))
    if 0 < place < depth:
        numbers[place] = place - 1
    return numbers


_ordered(
    "blocks-by-name",
    "the blocks are in the order of their names: 0, 1, 10, 11, 2",
    "sort blocks by their number, not by their name",
    lambda depth, place: by_name(depth),
)
_ordered(
    "blocks-exchanged",
    "two blocks are exchanged",
    "give each block its own weights",
    _swapped,
)
_ordered(
    "blocks-reversed",
    "the blocks are in reverse order",
    "run the blocks from the first to the last",
    lambda depth, place: list(range(depth))[::-1],
)
_ordered(
    "block-stale",
    "a block holds the weights of the one before it",
    "load every block's own weights",
    _stale,
)
_ordered(
    "last-block-dropped",
    "the last block is missing",
    "run all blocks: a loop ends one too early, or the depth is too small",
    lambda depth, place: list(range(depth - 1)),
)
_ordered(
    "block-dropped",
    "a block is missing",
    "run all blocks",
    lambda depth, place: [number for number in range(depth) if number != place],
)
_ordered(
    "block-twice",
    "a block runs twice",
    "run each block once",
    lambda depth, place: [*range(place + 1), *range(place, depth)],
)


# What stands behind the last block.


def _of_end(name: str, explanation: str, mend: str, change: EndChange) -> None:
    _register(name, "end", explanation, mend, None, change)


_of_end(
    "final-norm-dropped",
    "the final norm was left out",
    "apply the final norm behind the last block",
    lambda case: _end_with(case, final_norm=None),
)
_of_end(
    "final-norm-twice",
    "the final norm was applied twice",
    "apply the final norm once: the model's own output has gone through it",
    lambda case: (
        None
        if case.weights.final_norm is None
        else dataclasses.replace(case, norms_ahead=(*case.norms_ahead, case.weights.final_norm))
    ),
)
_of_end(
    "final-norm-behind-pooling",
    "the final norm stands behind pooling, where it should stand before it, or the reverse",
    "pool what the final norm gives; or, of a model with fc_norm, norm what is pooled",
    lambda case: (
        None
        if case.spec.pooling == "none"
        else _end_with(
            case, final_norm=case.weights.pooled_norm, pooled_norm=case.weights.final_norm
        )
    ),
)
_of_end(
    "pooled-norm-dropped",
    "the norm of what is pooled was left out",
    "apply the norm (fc_norm, post_layernorm) behind pooling",
    lambda case: _end_with(case, pooled_norm=None),
)
for _name, _called in {
    "class": "the first token was taken",
    "mean": "the mean of the patches was taken",
}.items():
    _of_end(
        f"pooling-{_name}",
        f"{_called}, pooling='{_name}'",
        "pool as declared: the class token, the mean of the patches, or by attention",
        lambda case, pooling=_name: (  # type: ignore[misc]
            None if case.spec.pooling == "none" else _believing(case, pooling=pooling)
        ),
    )
_of_end(
    "pooling-mean-of-all",
    "the mean of all tokens was taken, prefix tokens among them",
    "leave the prefix tokens out of the mean: x[:, num_prefix_tokens:].mean(1)",
    lambda case: (
        None
        if case.spec.pooling == "none" or not case.spec.prefix_tokens + case.spec.suffix_tokens
        else _believing(case, pooling="mean", prefix_tokens=0, suffix_tokens=0)
    ),
)
_of_end(
    "pooler-dropped",
    "the pooler was left out",
    "apply the pooler's matrix and tanh to what is pooled",
    lambda case: _end_with(case, pooler=None),
)
_of_end(
    "pooler-tanh-dropped",
    "the pooler's tanh was left out",
    "apply tanh behind the pooler's matrix",
    lambda case: (
        None if case.weights.pooler is None else dataclasses.replace(case, pooler_tanh=False)
    ),
)
for _name, _called in {"pooler": "the pooler", "head": "the head"}.items():
    _of_end(
        f"{_name}-transposed",
        f"the matrix of {_called} is not transposed",
        "transpose the matrix: torch's Linear keeps (out, in), OpenAI's `proj` is (in, out)",
        lambda case, name=_name: _end_replaced(case, name, _transposed),  # type: ignore[misc]
    )
    _of_end(
        f"{_name}-bias-dropped",
        f"the bias of {_called} was not added",
        "load the bias",
        lambda case, name=_name: _end_replaced(case, name, _biasless),  # type: ignore[misc]
    )


def _end_replaced(
    case: EndCase, name: str, change: Callable[[Linear], Linear | None]
) -> EndCase | None:
    found = getattr(case.weights, name)
    changed = None if found is None else change(found)
    return None if changed is None else _end_with(case, **{name: changed})


def _pool_with(case: EndCase, **parts: Any) -> EndCase | None:
    pool = case.weights.pool
    return None if pool is None else _end_with(case, pool=dataclasses.replace(pool, **parts))


_of_end(
    "pool-probe-dropped",
    "the probe of attention pooling was left at zero",
    "load the learned query of attention pooling",
    lambda case: (
        None
        if case.weights.pool is None
        else _pool_with(case, probe=np.zeros_like(case.weights.pool.probe))
    ),
)
_of_end(
    "pool-mlp-dropped",
    "the MLP behind attention pooling was left out",
    "add the residual MLP behind attention pooling",
    lambda case: _pool_with(case, mlp=None, norm=None),
)
_of_end(
    "pool-norm-dropped",
    "the norm of the MLP behind attention pooling was left out",
    "norm what the MLP behind attention pooling is given",
    lambda case: _pool_with(case, norm=None),
)
