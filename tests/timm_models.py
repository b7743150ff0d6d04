"""Which of timm's architectures compute as a layout of encoders says, and with what: written by
`python -m tests.timm_models` from the models that timm builds, empty of values."""

from pathlib import Path
from typing import Any

from .census.stand_in import import_library

PLACE = Path(__file__).parents[1] / "porting" / "encoders" / "timm_models.toml"

FAMILIES = ("vision_transformer", "deit", "eva")
"""Modules of timm with such models."""

ACTIVATIONS = {
    "GELU": "gelu",
    "GELUTanh": "gelu-tanh",
    "QuickGELU": "quick-gelu",
    "SiLU": "silu",
    "ReLU": "relu",
}
"""Activations of timm by the names of their classes."""

POOLINGS = {"": "none", "token": "class", "avg": "mean", "map": "attention"}

HEAD = """\
# Which of timm's {version} architectures compute as which layout, and what no tensor of them says:
# written by `python -m tests.timm_models` from the models that timm builds. An architecture that is
# not here is none of these layouts.

"""


def names_of_timm() -> Any:
    """All architectures that may be such a model."""
    timm = import_library("timm")
    entries = timm.models._registry._model_entrypoints
    return [
        name
        for name in timm.list_models()
        if entries[name].__module__.rpartition(".")[2] in FAMILIES
    ]


def built(name: str, **arguments: Any) -> Any:
    """A model of an architecture, of one block and empty."""
    import torch

    timm = import_library("timm")
    skip = {"depth": 1}
    with torch.device("meta"):
        try:
            return timm.create_model(name, **skip, **arguments)
        except (TypeError, AssertionError):  # of a family with other arguments
            return None


def facts_of(model: Any) -> Any:
    """What a table says of a model; None where no layout computes it."""
    kind = type(model).__name__
    if kind == "VisionTransformer":
        return _facts_of_vision_transformer(model)
    if kind == "VisionTransformerDistilled":
        facts = _facts_of_vision_transformer(model)
        # its two heads look at two tokens, and what they say is averaged
        return facts and {**facts, "of": "timm-deit", "pooling": "none"}
    return _facts_of_eva(model) if kind == "Eva" else None


def _classes(model: Any) -> Any:
    return {type(each).__name__ for each in model.modules()} - {
        type(model).__name__,
        *("Sequential", "ModuleList", "Linear", "Dropout", "Identity", "DropPath", "Conv2d"),
        *("PatchEmbed", "LayerNorm", "LayerScale", "AttentionPoolLatent", *ACTIVATIONS),
    }


def _shared(model: Any, attention: Any) -> Any:
    epsilons = {each.eps for each in model.modules() if hasattr(each, "eps")}
    activations = {type(each.mlp.act).__name__ for each in model.blocks if hasattr(each, "mlp")}
    if model.attn_pool is not None:
        activations.add(type(model.attn_pool.mlp.act).__name__)
        if model.attn_pool.num_heads != attention.num_heads:
            return None
    if len(epsilons) != 1 or len(activations) != 1 or model.global_pool not in POOLINGS:
        return None
    return {
        "num_heads": attention.num_heads,
        "norm_epsilon": epsilons.pop(),
        "activation": ACTIVATIONS[activations.pop()],
        "pooling": POOLINGS[model.global_pool],
        "final_norm": type(model.norm).__name__ == "LayerNorm",
        "pooled_norm": type(model.fc_norm).__name__ == "LayerNorm",
    }


def _facts_of_vision_transformer(model: Any) -> Any:
    kinds = _classes(model)
    gated = "GluMlp" in kinds
    if kinds - {"Block", "Attention", "Mlp", "GluMlp"} or model.pool_include_prefix:
        return None
    block = model.blocks[0]
    if any(type(each).__name__ != "Identity" for each in (block.attn.norm, block.mlp.norm)):
        return None
    if gated and ("Mlp" in kinds or block.mlp.gate_last):
        return None
    layout = "timm-vit-swiglu" if gated else "timm-vit"
    facts = _shared(model, block.attn)
    return facts and {"of": layout, **facts}


def _facts_of_eva(model: Any) -> Any:
    block = model.blocks[0]
    gated = type(block.mlp).__name__ == "SwiGLU"
    kinds = _classes(model) - {"RotaryEmbeddingDinoV3"}
    if kinds - {"EvaBlock", "EvaAttention", "Mlp", "SwiGLU"} or block.attn.qkv is None:
        return None
    bare = (block.attn.norm, block.attn.q_norm, block.mlp.norm)
    if any(type(each).__name__ != "Identity" for each in bare) or block.attn.gate is not None:
        return None
    rotary = _rotary(model)
    facts = _shared(model, block.attn)
    if rotary is None or facts is None:
        return None
    return {"of": "timm-eva-swiglu" if gated else "timm-eva", "norms": "pre", **facts, **rotary}


def _rotary(model: Any) -> Any:
    """How a model turns queries and keys; None where no layout says that."""
    rope = model.rope
    if rope is None:
        return {"rotary": ""}
    plain = (
        type(rope).__name__ == "RotaryEmbeddingDinoV3"
        and rope.rotate_half
        and (rope.normalize_coords, rope.grid_offset, rope.grid_indexing) == ("separate", 0.0, "ij")
        and rope.min_period is rope.max_period is None
    )
    return {"rotary": "unit", "rotary_temperature": rope.temperature} if plain else None


def table() -> Any:
    """The facts of all architectures."""
    held = {}
    for name in names_of_timm():
        model = built(name)
        if model is not None and (facts := facts_of(model)):
            held[name] = facts
    return held


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def text() -> str:
    """The file."""
    lines = [
        f"{name} = {{ {', '.join(f'{key} = {_shown(value)}' for key, value in facts.items())} }}"
        for name, facts in table().items()
    ]
    return HEAD.format(version=import_library("timm").__version__) + "\n".join(lines) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
