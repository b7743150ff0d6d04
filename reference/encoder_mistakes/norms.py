"""Mistakes of norms, of blocks and behind the last."""

import dataclasses
from collections.abc import Callable

from ..encoder_case import BlockCase, EndCase
from ..pipeline import Array
from ..weights import LayerNorm
from .catalogue import believing, block_with, end_with, register


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
    return block_with(case, **kept) if kept else None


def _end_norms(case: EndCase, change: Callable[[LayerNorm], LayerNorm | None]) -> EndCase | None:
    """The end with its final and its pooled norm changed."""
    norms = {name: getattr(case.weights, name) for name in ("final_norm", "pooled_norm")}
    changed = {name: change(norm) for name, norm in norms.items() if norm is not None}
    kept = {name: norm for name, norm in changed.items() if norm is not None}
    return end_with(case, **kept) if kept else None


def _of_norms(
    name: str, explanation: str, mend: str, change: Callable[[LayerNorm], LayerNorm | None]
) -> None:
    """Register what is done to every norm."""
    register(
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
    register(
        f"epsilon-{short(epsilon)}",
        "norms",
        f"eps is {short(epsilon)}",
        "create the norms with the declared eps, which no tensor holds",
        lambda case: believing(case, norm_epsilon=epsilon),
        lambda case: believing(case, norm_epsilon=epsilon) if _has_norm(case) else None,
        declared=lambda case: short(case.spec.norm_epsilon),
    )


for _value in EPSILONS:
    _epsilon(_value)

register(
    "norms-exchanged", "norms",
    "the two norms are exchanged",
    "give the first norm to attention and the second to the MLP",
    lambda case: block_with(
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
    register(
        f"norms-{_placed}",
        "norms",
        f"the norms stand {_words}, norms='{_placed}'",
        "set the norms where they were trained: x + f(norm(x)), norm(x + f(x)) or x + norm(f(x))",
        lambda case, placed=_placed: believing(case, norms=placed),  # type: ignore[misc]
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
    register(
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
