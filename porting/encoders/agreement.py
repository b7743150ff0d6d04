"""What a configuration says of an encoder and its tensors say too: both must say the same."""

from collections.abc import Callable, Mapping
from typing import Any

from ...reference.errors import PatchParityError
from .layout import EncoderLayout
from .templates import facts_of_config, is_of

Facts = Mapping[str, Any]


def _same(name: str) -> Callable[[Any, Facts], bool]:
    return lambda told, facts: bool(told == facts[name])


def _wide(times: int) -> Callable[[Any, Facts], bool]:
    """Whether a ratio makes the width of the MLP, cut to a whole number as libraries do."""

    def holds(told: Any, facts: Facts) -> bool:
        if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < 2**20:
            return False
        return int(facts["width"] * told) == times * facts["mlp_width"]

    return holds


def _of_swiglu(told: Any, facts: Facts) -> bool:
    """As DINOv2 makes it, ⌈⅔·ratio·D⌉ to the next multiple of 8."""
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < 2**20:
        return False
    made = (int(int(facts["width"] * told) * 2 / 3) + 7) // 8 * 8
    return bool(made == facts["mlp_width"])


def _counted(told: Any, facts: Facts) -> bool:
    """Whether names of classes are as many as the head has rows; a head of another kind is left,
    and the names stay."""
    return not isinstance(told, Mapping) or facts["num_classes"] in (0, len(told))


def _classes(told: Any, facts: Facts) -> bool:
    """Whether there are as many as the head has rows; a head of another kind is left."""
    return facts["num_classes"] in (0, told)


HELD: dict[str, tuple[str, str, Callable[[Any, Facts], bool]]] = {
    "depth": ("blocks", "depth", _same("depth")),
    "width": ("width", "width", _same("width")),
    "mlp_width": ("width of the MLP", "mlp_width", _same("mlp_width")),
    "mlp_ratio": ("ratio of the MLP's width", "mlp_ratio", _wide(1)),
    "whole_mlp_ratio": ("ratio of the MLP's width", "mlp_ratio", _wide(1)),
    "packed_mlp_ratio": ("ratio of the MLP's packed width", "packed_mlp_ratio", _wide(2)),
    "swiglu_mlp_ratio": ("ratio of the MLP's width", "swiglu_mlp_ratio", _of_swiglu),
    "head_width": ("width of a head", "head_width", _same("head_width")),
    "registers": ("register tokens", "registers", _same("registers")),
    "class_token": ("class token", "class_token", _same("class_token")),
    "num_classes": ("classes", "num_classes", _classes),
    "classes": ("names of classes", "num_classes", _counted),
    "query_bias": ("biases of queries, keys and values", "query_bias", _same("query_bias")),
    "mlp_bias": ("biases of the MLP", "mlp_bias", _same("mlp_bias")),
    "query_norm": ("norms of queries and keys", "query_norm", _same("query_norm")),
    "gated": ("a gated MLP", "gated", _same("gated")),
    "sequence_norm": ("a norm before the blocks", "sequence_norm", _same("sequence_norm")),
}
"""Facts that the tensors tell: in words, as which of `facts_of`, and whether what is told is that.
Sizes of images and patches are held against the tensors where the stage is read; of a projection
the configuration of a tower may say another than that of the model around it, which holds."""


def require_agreement(
    layout: EncoderLayout, table: Mapping[str, Any], facts: Facts, where: str
) -> None:
    """Refuse a configuration that the tensors beside it contradict.

    Args:
        layout: of the tensors.
        table: the configuration; empty for none.
        facts: of the tensors, by `facts_of`.
        where: what the configuration is called.

    Raises:
        PatchParityError: a number or a part that is another in the tensors, with both.
    """
    told: dict[str, Any] = {}
    for model in layout.models:
        if table and is_of(model, table):
            # of two keys that tell one fact the first is what the library goes by
            told = {**facts_of_config(model, table, first=True), **told}
    for name, (words, held, holds) in HELD.items():
        if told.get(name) is None or facts.get(held) is None or _is_nothing(name, told, facts):
            continue
        if not holds(told[name], facts):
            raise PatchParityError(
                f"{where} says {words}: {_shown(told[name])}, and the tensors have "
                f"{_shown(facts[held])}: mend the one, or find the other's file"
            )


def _is_nothing(name: str, told: Facts, facts: Facts) -> bool:
    """Whether names of classes stand in a configuration of a model without a head, as
    transformers keeps them."""
    return name == "classes" and not facts["num_classes"]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(len(value))
    words = {True: "yes", False: "no"}
    return words[value] if isinstance(value, bool) else repr(value)[:60]
