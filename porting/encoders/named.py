"""What a library's own name of a model tells of it, as far as the arguments beside the name leave
that as it is."""

from collections.abc import Mapping
from typing import Any

from ...reference.errors import PatchParityError
from .layout import EncoderLayout, EncoderModel
from .load import list_named

INDIFFERENT = frozenset(
    [
        "drop_rate",
        "pos_drop_rate",
        "patch_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "drop_path_rate",
        "weight_init",
        "fix_init",
        "head_init_scale",
        "dynamic_img_size",
        "dynamic_img_pad",
        "num_classes",
        "rope_shift_coords",
        "rope_jitter_coords",
        "rope_rescale_coords",
        "pretrained_strict",
    ]
)
"""Arguments of timm's models that change nothing of what they compute when they do not train; of
`dynamic_img_pad` the embedding stage knows."""

MOVING = ("global_pool", "fc_norm", "final_norm", "use_fc_norm", "use_post_transformer_norm")
"""Arguments that decide which norms stand behind the blocks."""


def named_facts(
    layout: EncoderLayout, model: EncoderModel, table: Mapping[str, Any], told: Mapping[str, Any]
) -> dict[str, Any]:
    """What the name in a configuration tells of a model.

    Args:
        layout: whose names they are; one without names is told nothing.
        model: the class that the configuration is of.
        table: the configuration.
        told: by a user.

    Raises:
        PatchParityError: an argument beside the name of which it is not known what it changes.
    """
    if not layout.names or "architecture" not in table:
        return {}
    name = str(table["architecture"])
    facts = dict(list_named(layout.names)[name.partition(".")[0]])
    arguments = table.get("model_args") or {}
    for key, value in arguments.items():
        _require_known(model, name, key, value)
    if any(key in arguments for key in MOVING):
        facts = {key: held for key, held in facts.items() if not key.endswith("_norm")}
    _require_same_pooling(table, arguments, facts["pooling"], told)
    return facts


def _require_known(model: EncoderModel, name: str, key: str, value: Any) -> None:
    template = model.config.get(f"model_args.{key}")
    known = template is not None or key in INDIFFERENT
    constant = not isinstance(template, dict) and not str(template).startswith("$")
    same = template is None or not constant or value == template
    unsaid = value is None and isinstance(template, dict) and "words" in template
    if not known or not same or unsaid:
        raise PatchParityError(
            f"the configuration gives {name} {key} = {value!r}, of which it is not known what it "
            "computes: --stage ports the embedding stage alone"
        )


def _require_same_pooling(
    table: Mapping[str, Any], arguments: Mapping[str, Any], pooling: str, told: Mapping[str, Any]
) -> None:
    """That what timm saved of a model is what it makes of its name again."""
    if "pooling" in told or "global_pool" in arguments or pooling == "none":
        return
    words = {"": "none", "token": "class", "avg": "mean", "map": "attention"}
    inner = table.get("pretrained_cfg") or {}
    for place in (table, inner):
        said = words.get(place.get("global_pool", ""), "other")
        if said not in ("none", pooling):
            raise PatchParityError(
                f"the configuration says global_pool = {place['global_pool']!r}, and timm gives "
                f"{table['architecture']} another: --pooling tells which"
            )
