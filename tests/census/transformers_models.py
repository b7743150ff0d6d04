"""Every model type of transformers whose configuration tells a patch, tiny, with random weights."""

import functools
import gc
import importlib
import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .outcome import Outcome, outcome_of

PATCHES = ("patch_size", "patch_sizes", "spatial_patch_size", "patch_stride")
WIDTHS = (
    "hidden_size d_model n_embd hidden_dim dim width projector_hidden_size out_hidden_size "
    "text_hidden_size vision_hidden_size "
    "encoder_hidden_size qformer_hidden_size decoder_hidden_size"
)
INNER = (
    "intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim n_inner mlp_dim "
    "moe_intermediate_size "
    "shared_expert_intermediate_size decoder_intermediate_size"
)
TWOS = (
    "num_hidden_layers depth num_layers n_layer n_layers encoder_layers decoder_layers "
    "num_attention_heads num_heads n_head "
    "encoder_attention_heads decoder_attention_heads num_key_value_heads num_decoder_layers "
    "decoder_num_hidden_layers "
    "decoder_num_attention_heads num_encoder_layers num_experts_per_tok"
)
FOURS = "num_experts n_routed_experts num_local_experts"
SIZES = {
    **dict.fromkeys(WIDTHS.split(), 32),
    **dict.fromkeys(INNER.split(), 48),
    **dict.fromkeys(TWOS.split(), 2),
    **dict.fromkeys(FOURS.split(), 4),
    **dict(
        embed_dim=48,
        image_size=40,
        patch_size=8,
        vocab_size=160,
        head_dim=16,
        max_position_embeddings=64,
    ),
    **dict(projection_dim=16, output_channels=16, pretrain_image_size=40, num_blocks=1),
}
OF_THEIR_SIZE = [
    "layer_types",
    "mlp_layer_types",
    "rope_parameters",
    "rope_scaling",
    "per_layer_config",
    "out_features",
    "out_indices",
    "stage_names",
    "dtype",
    "transformers_version",
    "architectures",
    "id2label",
    "label2id",
]
OWN: dict[str, dict[str, Any]] = {
    "bridgetower": {"hidden_size": 64, "num_attention_heads": 1},
    "cosmos3_edge": {"head_dim": 128},
    "deepseek_ocr2": {"mlp_layer_types": ["dense", "dense"]},
    "diffusion_gemma": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48},
    "dots3_note": {"per_layer_config": {}, "adapter_in_dim": 32},
    "ernie4_5_vl_moe": {"head_dim": 128, "hidden_size": 256},
    "glm46v": {"image_size": 48},
    "glm4v": {"image_size": 48},
    "glmga": {"image_size": 48},
    "granite4_vision": {
        "hidden_size": 64,
        "deepstack_layer_map": [[0, 0]],
        "spatial_layer_map": [[0, 0]],
    },
    "hiera": {"image_size": [64, 64]},
    "hunyuan_vl": {"head_dim": 16},
    "kosmos-2": {"attention_heads": 2, "layers": 2, "embed_dim": 32, "hidden_size": 32},
    "llama4": {
        "layer_types": ["chunked_attention", "full_attention"],
        "moe_layers": [],
        "no_rope_layers": [1, 0],
    },
    "edgetam_video": {"image_size": 64},
    "sam2": {"image_size": 64},
    "lw_detr": {
        "num_windows": 4,
        "num_windows_side": 2,
        "image_size": 64,
        "window_block_indices": [0],
    },
    "mistral_large4": {"kv_source_layers": [0, 1]},
    "muse_spark": {"patch_sizes": [8, 8], "hidden_sizes": [32, 32], "depths": [1, 1]},
    "molmo2": {"vision_feature_layer": [1, 0]},
    "qwen3_omni_moe": {"shared_expert_intermediate_size": 48},
    "swinv2": {"image_size": 64, "patch_size": 4, "pretrained_window_sizes": [0, 0, 0, 0]},
    "vitpose": {"part_features": 8},
}
"""Sizes that one family needs, by the start of its model type: wherever its configuration has a key
of that name."""
TOLD: dict[str, dict[str, Any]] = {
    "diffusion_gemma": {"image_size": (32, 48)},
    "gemma4_vision": {"image_size": (32, 48)},
    "depth_pro": {"prefix": "encoder.patch_encoder.model."},
    "inkling2": {"image_size": (32, 48)},
    "inkling2_vision": {"image_size": (32, 48)},
    "molmo2": {"image_size": 216},
    "molmo2_vision": {"image_size": 216},
    "muse_glimmer": {"image_size": (2, 280, 312)},
    "muse_glimmer_vision": {"image_size": (2, 280, 312)},
    "muse_spark": {"image_size": (2, 280, 312)},
    "muse_spark_vision": {"image_size": (2, 280, 312)},
    "video_llava": {"prefix": "image_tower."},
}
"""What a user must tell of some: which of two towers, or of which image the positions are."""
LARGEST = 140_000_000
"""Parameters; what stays larger than this has sizes under names that are not known here."""


def model_types() -> list[str]:
    """Those whose configuration tells a patch."""
    from transformers import CONFIG_MAPPING

    found = []
    for name in CONFIG_MAPPING:
        try:
            table = CONFIG_MAPPING[name]().to_dict()
        except Exception:  # some have no default
            continue
        if _tells_a_patch(table):
            found.append(name)
    return found


def _tells_a_patch(table: Mapping[Any, Any]) -> bool:
    return any(name in table for name in PATCHES) or any(
        isinstance(each, dict) and _tells_a_patch(each) for each in table.values()
    )


def _shrunk(
    table: Mapping[Any, Any], own: Mapping[str, Any] = MappingProxyType({})
) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in table.items():
        if name in own:
            found[name] = own[name]
        elif name in OF_THEIR_SIZE:
            continue
        elif not isinstance(name, str):
            found[name] = value
        elif isinstance(value, dict):
            found[name] = _shrunk(value, own)
        elif name in SIZES and isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = SIZES[name]
        elif name in ("image_size", "patch_size") and isinstance(value, list | tuple):
            found[name] = [SIZES[name]] * len(value)
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
            found[name] = min(value, 100)
        else:
            found[name] = value
    return found


def _maker(kind: type) -> Any:
    import transformers

    if kind in transformers.MODEL_MAPPING:
        return transformers.AutoModel.from_config
    module = importlib.import_module(kind.__module__.replace(".configuration_", ".modeling_"))
    own = [
        each
        for each in vars(module).values()
        if inspect.isclass(each)
        and issubclass(each, transformers.PreTrainedModel)
        and getattr(each, "config_class", None) is kind
        and not each.__name__.endswith("PreTrainedModel")
    ]
    return min(
        own,
        key=lambda each: (
            getattr(each, "main_input_name", "") != "pixel_values",
            len(each.__name__),
        ),
    )


@functools.cache
def outcome(model_type: str) -> Outcome:
    """Build, save and read the model of a type."""
    import torch
    import transformers

    try:
        config = transformers.CONFIG_MAPPING[model_type]
        own = next((sizes for start, sizes in OWN.items() if model_type.startswith(start)), {})
        tiny = config(**_shrunk(config().to_dict(), own))
        make = _maker(type(tiny))
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in make(tiny).parameters())
        if size > LARGEST:
            return Outcome("unbuilt", "", f"{size} parameters")
        model = make(tiny)
    except (
        Exception
    ) as error:  # whatever a library makes of a configuration that was shrunk without knowing it
        return Outcome(
            "unbuilt",
            "",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        )
    gc.collect()  # of the model before: modules hold each other
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return outcome_of(Path(folder), TOLD.get(model_type, {}))
