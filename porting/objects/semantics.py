"""What a live model itself says of what no tensor of it tells: heads, ε, activation, scale, the
place of norms, pooling, rotary base, prefix tokens.

Laws: what is not said, or said in two ways, is absent; an activation is told by what it computes,
never by what it is called.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ...reference.activations import ACTIVATIONS
from ...reference.encoder_weights import MlpActivation
from .frameworks import conversions, framework_of
from .towers import Tower

HEADS = ("num_heads", "num_attention_heads", "_num_heads", "heads", "n_head", "nhead", "n_heads")
"""What attention calls the number of its heads."""
SCALES = ("scale", "scaling", "attention_scale", "_inverse_sqrt_key_dim", "softmax_scale")
"""What it calls what q·k is multiplied by."""
EPSILONS = ("eps", "epsilon", "variance_epsilon")
"""What norms call ε."""
PREFIX = ("cls_token", "class_token", "class_embedding", "distillation_token", "dist_token",
          "reg_token", "register_tokens", "storage_tokens")  # fmt: skip
"""What models call the tokens that stand before the patches."""
SUFFIX = ("detection_tokens",)
"""What they call those behind (YOLOS)."""
POOLINGS = {
    "token": "class",
    "tok": "class",
    "cls": "class",
    "class": "class",
    "first": "class",
    "avg": "mean",
    "mean": "mean",
    "gap": "mean",
    "map": "attention",
}
"""What timm, open_clip, vit-pytorch and KerasHub call poolings that EncoderSpec knows."""

POOLED = {
    **dict.fromkeys(
        (
            *("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPVisionTransformer"),
            *("Dinov2Model", "Dinov2WithRegistersModel", "DINOv3ViTModel"),
            *("DeiTForImageClassification", "ViTForImageClassification"),
        ),
        "class",
    ),
    **dict.fromkeys(("IJepaForImageClassification", "SiglipForImageClassification"), "mean"),
}
"""What classes of transformers 5.23 do without a word for it; torchvision's all take the class
token."""

POINTS = np.linspace(-6, 6, 97, dtype=np.float32)
"""Where activations are compared: over all that differs between two of them."""
ALIKE = 3e-6
"""How far an activation may be from ours there: twice what its last steps round in float32 at 6,
2·6·2^-23; exact and tanh GELU are 4.7e-4 apart."""


def read_semantics(model: Any, prefix: str | None = None) -> dict[str, Any]:
    """What a live model says of itself, by the names of `EncoderSpec`.

    Args:
        model: as in `find_blocks`.
        prefix: as in `find_blocks`.

    Returns:
        Some of `num_heads`, `norm_epsilon`, `activation`, `attention_scale`, `norms`, `pooling`,
        `prefix_tokens`, `suffix_tokens`, `pairing` and `full_blocks`; `rotary_temperature`, θ of
        `rotary_angles`; `norm_epsilons`, all of them, in place of `norm_epsilon` where several
        differ. What a model does not say is absent.

    Raises:
        PatchParityError: no tower, or several.

    Examples:
        >>> import torch
        >>> from patchparity.porting.objects.blocks import read_semantics
        >>> layer = torch.nn.TransformerEncoderLayer(24, 3, 40, activation="gelu", norm_first=True)
        >>> encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> read_semantics(encoder)
        {'num_heads': 3, 'norm_epsilon': 1e-05, 'activation': 'gelu', 'norms': 'pre'}
    """
    from .blocks import find_blocks

    tower = find_blocks(model, prefix)
    kind = framework_of(model) or ""
    whole = _around(model, tower[0], kind)
    inside = [part for _, block in tower for part in parts_of(block, kind)]
    attention = [part for part in inside if _first(part, HEADS) is not None]
    said: dict[str, Any] = {
        "num_heads": _only(_first(part, HEADS) for part in attention),
        **_epsilons(inside),
        "activation": _only(_activations(inside, model, kind)),
        "attention_scale": _only(_scales(attention)),
        "norms": _placement(tower, kind),
        "pooling": _pooling(whole, kind),
        **_tokens(whole, kind),
        **_rotary(whole, inside, kind),
    }
    return {name: value for name, value in said.items() if value is not None}


def parts_of(subject: Any, kind: str) -> list[Any]:
    """A module and all modules inside it; of a linen module's parameters none."""
    if kind == "torch":
        return list(subject.modules())
    if kind == "keras":
        return list(subject._flatten_layers())
    from flax import nnx

    if not isinstance(subject, nnx.Module):
        return []
    return [part for _, part in nnx.iter_modules(subject)]


def _around(model: Any, first: tuple[str, Any], kind: str) -> Any:
    """The largest part of a model that holds the tower and takes no words, as a model of images and
    words does, whose first block is given."""
    if kind == "keras":
        from .keras_blocks import part_of_images

        return part_of_images(model, first[1])
    if kind != "torch":
        return model
    from .torch_entry import takes_words

    names = first[0].split(".")
    for count in range(len(names)):
        part = model.get_submodule(".".join(names[:count]))
        if hasattr(part, "forward") and not takes_words(part):
            return part
    return model


def _first(subject: Any, names: Iterable[str]) -> int | None:
    """The first of some attributes that is a whole number."""
    for name in names:
        value = getattr(subject, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _only(values: Iterable[Any]) -> Any:
    """The value that all are; None where there is none, or several differ."""
    different = set(values)
    return different.pop() if len(different) == 1 else None


def _epsilons(inside: list[Any]) -> dict[str, Any]:
    found: set[float] = set()
    for part in inside:
        if "norm" not in type(part).__name__.lower():
            continue
        values = (getattr(part, name, None) for name in EPSILONS)
        found |= {float(value) for value in values if isinstance(value, float)}
    if len(found) > 1:
        return {"norm_epsilons": tuple(sorted(found))}
    return {"norm_epsilon": _only(found)}


def _scales(attention: list[Any]) -> Iterator[float]:
    for part in attention:
        value = next((each for name in SCALES if (each := getattr(part, name, None))), None)
        if isinstance(value, float):
            yield value


def _activations(inside: list[Any], model: Any, kind: str) -> Iterator[str]:
    """What is computed by all that the parts of blocks call an activation, and by those of torch's
    modules that hold nothing."""
    tried: set[int] = set()
    for part in inside:
        named = [
            value
            for name, value in vars(part).items()
            if "act" in name and callable(value) and not isinstance(value, type)
        ]
        empty = kind == "torch" and not any(True for _ in part.children())
        if empty and not any(True for _ in part.parameters()):
            named.append(part)
        for function in named:
            if id(function) not in tried:
                tried.add(id(function))
                if (name := activation_of(function, model, kind)) is not None:
                    yield name


def activation_of(function: Any, model: Any, kind: str) -> str | None:
    """The activation that a function of a framework's arrays computes; None of another one.

    Args:
        function: what is called.
        model: of which framework's arrays it takes.
        kind: that framework.
    """
    if "drop" in type(function).__name__.lower():  # what draws at random is not called
        return None
    to_framework, to_array = conversions(model, kind)
    made: NDArray[Any] | None = None
    with contextlib.suppress(Exception), _without_gradients(kind):
        made = np.asarray(to_array(function(to_framework(POINTS.copy()))))
    if made is None or made.shape != POINTS.shape:
        return None
    for name in get_args(MlpActivation):
        if name == "identity":  # a dropout is one, and no activation
            continue
        if np.abs(ACTIVATIONS[name](POINTS.astype(np.float64)) - made).max() <= ALIKE:
            return name
    return None


def _without_gradients(kind: str) -> contextlib.AbstractContextManager[Any]:
    if kind != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


class _SeenError(Exception):
    """Where the norm of the first half stands has been seen."""


def _placement(tower: Tower, kind: str) -> str | None:
    """Where the norms of a torch block stand, by what they take when it is given tokens alone."""
    if kind != "torch":
        return None
    import torch

    block = tower[0][1]
    if isinstance(block, torch.nn.ModuleList):
        return None
    for name in ("norm_first", "normalize_first"):
        if isinstance(flag := getattr(block, name, None), bool):
            return "pre" if flag else "post"
    return _order_of(block)


def _order_of(block: Any) -> str | None:
    """Whether the first norm of a block takes its tokens, what attention makes of them, or their
    sum."""
    import torch

    from .frameworks import evaluating
    from .torch_blocks import is_norm

    norms = [part for _, part in block.named_children() if is_norm(part)]
    attention = [part for part in block.children() if any("att" in base.__name__.lower()
                 for base in type(part).__mro__[:2])]  # fmt: skip
    weight = next(
        (norm.weight for norm in norms if getattr(norm, "weight", None) is not None), None
    )
    if weight is None or not attention or weight.device.type == "meta":
        return None
    tokens = torch.linspace(-1, 1, 4 * len(weight), device=weight.device).reshape(1, 4, -1)
    tokens = tokens.to(weight.dtype)
    made: list[Any] = []
    seen: list[str] = []

    def attended(module: Any, arguments: Any, result: Any) -> None:
        made.append(result[0] if isinstance(result, tuple) else result)

    def normed(module: Any, arguments: Any) -> None:
        value = arguments[0]
        behind = bool(made) and value.shape == made[0].shape and torch.equal(value, made[0])
        before = not made and torch.equal(value, tokens)
        summed = bool(made) and not behind
        seen.append("pre" if before else "behind" if behind else "post" if summed else "")
        raise _SeenError

    with contextlib.ExitStack() as stack:
        for part in attention:
            stack.callback(part.register_forward_hook(attended).remove)
        for part in norms:
            stack.callback(part.register_forward_pre_hook(normed).remove)
        stack.enter_context(evaluating(block))
        stack.enter_context(torch.no_grad())
        with contextlib.suppress(Exception):
            block(tokens, **_required(block))
    return seen[0] or None if seen else None


def _required(block: Any) -> dict[str, None]:
    """Arguments without a default that a block takes beside its tokens, as None."""
    import inspect

    parameters = list(inspect.signature(block.forward).parameters.values())[1:]
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        each.name: None for each in parameters if each.default is each.empty and each.kind in plain
    }


def _pooling(whole: Any, kind: str) -> str | None:
    """How tokens are pooled, where a model has a word for it that is known, or a part that does
    it."""
    for name in ("global_pool", "pool_type", "pool", "pooling"):
        word = getattr(whole, name, None)
        if isinstance(word, str):
            return "none" if word == "" else POOLINGS.get(word)
    name = type(whole).__name__
    if name in POOLED or (type(whole).__module__.startswith("torchvision.")):
        return POOLED.get(name, "class")
    kinds = {type(part).__name__ for part in parts_of(whole, kind)}
    if any(re.search("Multi[Hh]eadAttentionPool", name) for name in kinds):
        return "attention"
    pooler = getattr(whole, "pooler", None)
    if pooler is None:
        return None
    flag = getattr(getattr(whole, "config", None), "use_mean_pooling", None)
    if isinstance(flag, bool):
        return "mean" if flag else "class"
    return "class" if hasattr(pooler, "dense") else None


def _named_arrays(whole: Any, kind: str) -> list[tuple[str, tuple[int, ...]]]:
    """Last part of the name, and shape, of each parameter."""
    if kind == "torch":
        return [
            (name.rpartition(".")[2], tuple(parameter.shape))
            for name, parameter in whole.named_parameters()
        ]
    if kind == "keras":
        return [
            (str(variable.path).rpartition("/")[2], tuple(variable.shape))
            for variable in whole.weights
        ]
    from flax import nnx

    if not isinstance(whole, nnx.Module):
        from .flax_blocks import linen_leaves

        return [(name.rpartition(".")[2], shape) for name, shape in linen_leaves(whole)]
    flat = nnx.to_flat_state(nnx.state(whole, nnx.Param))
    return [(str(path[-1]), tuple(leaf.shape)) for path, leaf in flat]


def _tokens(whole: Any, kind: str) -> dict[str, Any]:
    """How many tokens stand before and behind the patches, where parameters of known names are
    tokens."""
    arrays = _named_arrays(whole, kind)
    found: dict[str, Any] = {}
    for key, names in (("prefix_tokens", PREFIX), ("suffix_tokens", SUFFIX)):
        rows = [math.prod(shape[:-1]) for name, shape in arrays if name in names and shape]
        if rows:
            found[key] = sum(rows)
    return found


def _rotary(whole: Any, inside: list[Any], kind: str) -> dict[str, Any]:
    """Base and pairing of rotary positions, and the blocks that see beyond their windows."""
    config = getattr(whole, "config", None)
    parameters = getattr(config, "rope_parameters", None)
    bases = [getattr(config, name, None) for name in ("rope_theta", "rope_temperature")]
    if isinstance(parameters, dict):
        bases.append(parameters.get("rope_theta"))
    for part in parts_of(whole, kind):
        if re.search("rope|rotary", type(part).__name__.lower()):
            bases += [getattr(part, name, None) for name in ("temperature", "theta", "rope_theta")]
    found: dict[str, Any] = {
        "rotary_temperature": _only(
            float(base) for base in bases if isinstance(base, int | float) and base
        )
    }
    halves = _only(
        flag for part in inside if isinstance(flag := getattr(part, "rotate_half", None), bool)
    )
    if halves is not None and found["rotary_temperature"] is not None:
        found["pairing"] = "halves" if halves else "interleaved"
    blocks = getattr(whole, "fullatt_block_indexes", None)
    if isinstance(blocks, list | tuple):
        found["full_blocks"] = tuple(int(block) for block in blocks)
    return found
