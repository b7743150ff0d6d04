"""Options that tell what no tensor of a model says."""

from typing import Annotated, Any

import typer

from .choices import among

HeadsOption = Annotated[
    int | None,
    typer.Option("--heads", metavar="N", help="Attention heads, where no file tells them."),
]


EpsilonOption = Annotated[
    float | None,
    typer.Option("--epsilon", metavar="E", help="ε of the norms, where no file tells it."),
]


ActivationOption = Annotated[
    str | None,
    typer.Option(
        "--activation",
        **among("gelu", "gelu-tanh", "quick-gelu", "silu", "relu"),
        help="Of the MLPs, where no file tells it; gelu is the exact one.",
    ),
]


PoolingOption = Annotated[
    str | None,
    typer.Option(
        "--pooling",
        **among("class", "mean", "attention", "none"),
        help="What the model makes of its tokens, where no file tells it.",
    ),
]

SEMANTICS = {
    "heads": "num_heads",
    "epsilon": "norm_epsilon",
    "activation": "activation",
    "pooling": "pooling",
}
"""Options by their names here, and what they tell."""


def semantics_of(context: typer.Context) -> dict[str, Any]:
    """What a user tells that no tensor says, without what is not told."""
    told = {name: context.params[option] for option, name in SEMANTICS.items()}
    return {name: value for name, value in told.items() if value is not None}
