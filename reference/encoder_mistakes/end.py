"""Mistakes of what stands behind the last block."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..encoder_case import EndCase
from ..encoder_weights import Linear
from .attention import biasless, transposed
from .catalogue import EndChange, believing, end_with, register


def _of_end(name: str, explanation: str, mend: str, change: EndChange) -> None:
    register(name, "end", explanation, mend, None, change)


_of_end(
    "final-norm-dropped",
    "the final norm was left out",
    "apply the final norm behind the last block",
    lambda case: end_with(case, final_norm=None),
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
        else end_with(
            case, final_norm=case.weights.pooled_norm, pooled_norm=case.weights.final_norm
        )
    ),
)
_of_end(
    "pooled-norm-dropped",
    "the norm of what is pooled was left out",
    "apply the norm (fc_norm, post_layernorm) behind pooling",
    lambda case: end_with(case, pooled_norm=None),
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
            None if case.spec.pooling == "none" else believing(case, pooling=pooling)
        ),
    )
_of_end(
    "pooling-mean-of-all",
    "the mean of all tokens was taken, prefix tokens among them",
    "leave the prefix tokens out of the mean: x[:, num_prefix_tokens:].mean(1)",
    lambda case: (
        None
        if case.spec.pooling == "none" or not case.spec.prefix_tokens + case.spec.suffix_tokens
        else believing(case, pooling="mean", prefix_tokens=0, suffix_tokens=0)
    ),
)
_of_end(
    "pooler-dropped",
    "the pooler was left out",
    "apply the pooler's matrix and tanh to what is pooled",
    lambda case: end_with(case, pooler=None),
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
        lambda case, name=_name: _end_replaced(case, name, transposed),  # type: ignore[misc]
    )
    _of_end(
        f"{_name}-bias-dropped",
        f"the bias of {_called} was not added",
        "load the bias",
        lambda case, name=_name: _end_replaced(case, name, biasless),  # type: ignore[misc]
    )


def _end_replaced(
    case: EndCase, name: str, change: Callable[[Linear], Linear | None]
) -> EndCase | None:
    found = getattr(case.weights, name)
    changed = None if found is None else change(found)
    return None if changed is None else end_with(case, **{name: changed})


def _pool_with(case: EndCase, **parts: Any) -> EndCase | None:
    pool = case.weights.pool
    return None if pool is None else end_with(case, pool=dataclasses.replace(pool, **parts))


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
