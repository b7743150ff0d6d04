"""Mistakes of the MLP, of blocks and of attention pooling."""

import dataclasses
from collections.abc import Callable

from ..encoder_case import BlockCase, EndCase
from ..encoder_weights import Linear, Mlp
from .attention import biasless, replaced, transposed
from .catalogue import believing, block_with, end_with, register


def _of_mlp(name: str, explanation: str, mend: str, change: Callable[[Mlp], Mlp | None]) -> None:
    """Register what is done to the matrices of an MLP."""

    def block(case: BlockCase) -> BlockCase | None:
        changed = change(case.block.mlp)
        return None if changed is None else block_with(case, mlp=changed)

    def end(case: EndCase) -> EndCase | None:
        pool = case.weights.pool
        changed = None if pool is None or pool.mlp is None else change(pool.mlp)
        if pool is None or changed is None:
            return None
        return end_with(case, pool=dataclasses.replace(pool, mlp=changed))

    register(name, "mlp", explanation, mend, block, end)


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
    register(
        "activation-missing" if name == "identity" else f"activation-{name}",
        "mlp",
        f"the activation is {words}",
        "set the activation, which no tensor holds: GELU is exact in torch, tanh in JAX, quick in "
        "OpenAI's CLIP",
        lambda case: believing(case, activation=name),
        lambda case: believing(case, activation=name) if _pools_by_mlp(case) else None,
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
        lambda mlp, name=_name: replaced(mlp, transposed, name),  # type: ignore[misc]
    )
    _of_mlp(
        f"{_name}-bias-dropped",
        f"the bias of the MLP's {_name} matrix was not added",
        "load the bias, or create the layer with bias=True",
        lambda mlp, name=_name: replaced(mlp, biasless, name),  # type: ignore[misc]
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
