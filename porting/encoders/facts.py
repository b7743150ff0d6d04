"""All that a configuration may be told of an encoder."""

import math
from typing import Any

from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from .semantics import Encoder, Semantics


def facts_of(
    state: "Encoder",
    semantics: Semantics,
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    size_known: bool,
) -> dict[str, Any]:
    """All that a configuration may be told of an encoder and its stage.

    Args:
        state: the encoder.
        semantics: what no tensor of it says.
        weights, spec: those of the stage, as the configuration's library holds them.
        size_known: whether something tells the image size.
    """
    sizes, held = state.sizes, state.held
    height, width = spec.image_size[-2:]
    patch = spec.patch_size[-2:]
    registers = weights.register_tokens
    mlp, classes = sizes.get("M"), sizes.get("C") if "head.weight" in held else None
    return {
        **semantics.values,
        "width": sizes["D"],
        "depth": state.depth,
        "mlp_width": mlp,
        "mlp_ratio": _ratio(mlp, sizes["D"]),
        "packed_mlp_ratio": _ratio(None if mlp is None else 2 * mlp, sizes["D"]),
        "whole_mlp_ratio": None if mlp is None or mlp % sizes["D"] else mlp // sizes["D"],
        "swiglu_mlp_ratio": _swiglu_ratio(mlp, sizes["D"]),
        "head_width": sizes["E"] // semantics["num_heads"],
        "image_size": _side(height, width) if size_known else None,
        "image_height": height if size_known else None,
        "image_width": width if size_known else None,
        "patch_size": _side(*patch),
        "square_image_size": height if size_known and height == width else None,
        "square_patch_size": patch[0] if patch[0] == patch[1] else None,
        "patch_pair": list(patch),
        "image_shape": [height, width, spec.in_channels] if size_known else None,
        "channels_first_shape": [spec.in_channels, height, width] if size_known else None,
        "square_image_shape": (
            [height, width, spec.in_channels] if size_known and height == width else None
        ),
        "keras_dtype": KERAS_FLOAT32,
        "swiglu_width": _swiglu_width(mlp),
        "pooler_width": sizes.get("P") if "pooler.weight" in held else None,
        "attention_as_wide": sizes["E"] == sizes["D"],
        "head_alone": semantics["num_heads"] == 1 and sizes["E"] == sizes["D"],
        "first_patch_pooled": semantics["pooling"] == "class" and weights.class_token is None,
        "mask_token": weights.mask_token is not None,
        "layer_scale_init": 1e-5 if "first_scale" in held else None,
        "any_norm": bool({"final_norm.scale", "pooled_norm.scale"} & held),
        "prefix_unpositioned": (
            weights.class_token is not None
            and weights.positions is not None
            and "class_token" not in weights.layout.positioned
        )
        or bool(
            weights.register_tokens is not None
            and "register_tokens" not in weights.layout.positioned
        ),
        "pool_mlp_same": sizes.get("N") in (None, mlp),
        "patch_height": patch[0],
        "patch_width": patch[1],
        "in_channels": spec.in_channels,
        "registers": 0 if registers is None else len(registers),
        "class_token": weights.class_token is not None,
        "embedding_bias": weights.bias is not None,
        "sequence_norm": weights.sequence_norm is not None,
        "positions": weights.positions is not None,
        "num_classes": classes or 0,
        "classes": None if classes is None else {str(k): f"LABEL_{k}" for k in range(classes)},
        "labels": None if classes is None else {f"LABEL_{k}": k for k in range(classes)},
        "projection": classes,
        "registers_positioned": "register_tokens" in weights.layout.positioned,
        "prefix_positioned": bool(weights.layout.positioned),
        "biases_alike": ("query.bias" in held) == ("value.bias" in held),
        "value_bias": "value.bias" in held,
        "out_bias": "out.bias" in held,
        "query_bias": "query.bias" in held,
        "key_bias": "key.bias" in held,
        "mlp_bias": "up.bias" in held,
        "query_norm": "query_norm.scale" in held,
        "layer_scale": "first_scale" in held,
        "gated": "gate.weight" in held,
        "final_norm": "final_norm.scale" in held,
        "pooled_norm": "pooled_norm.scale" in held,
    }


KERAS_FLOAT32 = {
    "module": "keras",
    "class_name": "DTypePolicy",
    "config": {"name": "float32"},
    "registered_name": None,
}
"""How a Keras configuration says that a layer computes in float32."""


def _ratio(wide: int | None, width: int) -> float | int | None:
    """A number whose product with the width, cut to a whole one, is `wide`."""
    if wide is None or wide % width == 0:
        return None if wide is None else wide // width
    ratio = wide / width
    return ratio if int(width * ratio) == wide else math.nextafter(ratio, math.inf)


def _swiglu_ratio(mlp: int | None, width: int) -> int | None:
    """The whole `mlp_ratio` of which DINOv2 makes this width of SwiGLU, ⌈⅔·ratio·D⌉ to the next
    multiple of 8; None where none does."""
    for ratio in range(1, 17):
        if mlp is not None and (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8 == mlp:
            return ratio
    return None


def _swiglu_width(mlp: int | None) -> int | None:
    """The smallest width of which DINOv2 makes this one of SwiGLU; None where none does."""
    if mlp is None:
        return None
    return next((wide for wide in range(2 * mlp) if (int(wide * 2 / 3) + 7) // 8 * 8 == mlp), None)


def _side(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]
