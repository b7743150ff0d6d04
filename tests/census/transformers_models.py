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
    "pix2struct": {"image_size": (32, 48)},
    "pix2struct_vision_model": {"image_size": (32, 48)},
    "video_llava": {"prefix": "image_tower."},
}
"""What a user must tell of some: which of two towers, or of which image the positions are."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("swin", {"use_absolute_embeddings": True}),
    ("swin", {"patch_norm": False}),
    ("swin", {"image_size": [48, 64], "patch_size": 4}),
    ("swinv2", {"use_absolute_embeddings": True}),
    ("donut-swin", {"use_absolute_embeddings": True}),
    ("maskformer-swin", {"use_absolute_embeddings": True}),
    ("beit", {"use_absolute_position_embeddings": True}),
    ("beit", {"use_mask_token": True}),
    (
        "beit",
        {"use_absolute_position_embeddings": True, "use_mask_token": True, "image_size": [32, 48]},
    ),
    ("data2vec-vision", {"use_absolute_position_embeddings": True}),
    ("vit", {"image_size": [32, 48]}),
    ("vit", {"num_channels": 1}),
    ("vit", {"num_channels": 4, "patch_size": [8, 4]}),
    ("vit", {"patch_size": 4, "num_channels": 4}),
    ("deit", {"image_size": [32, 48]}),
    ("vit_mae", {"image_size": [32, 48]}),
    ("vit_mae", {"num_channels": 1}),
    ("vit_msn", {"image_size": [32, 48]}),
    ("yolos", {"use_mid_position_embeddings": False}),
    ("yolos", {"num_detection_tokens": 7, "image_size": [32, 56]}),
    ("yolos", {"num_detection_tokens": 1}),
    ("dpt", {"image_size": 48}),
    ("dinov2", {"use_mask_token": False}),
    ("dinov2", {"num_channels": 1}),
    ("dinov2", {"patch_size": 4}),
    ("dinov2", {"image_size": [32, 48]}),
    ("dinov2_with_registers", {"num_register_tokens": 0}),
    ("dinov2_with_registers", {"num_register_tokens": 9}),
    ("dinov2_with_registers", {"num_register_tokens": 1}),
    ("dinov3_vit", {"num_register_tokens": 0}),
    ("dinov3_vit", {"num_register_tokens": 4, "patch_size": 4}),
    ("dinov3_vit", {"query_bias": False}),
    ("convnext", {"patch_size": 2}),
    ("convnext", {"num_channels": 1}),
    ("convnextv2", {"patch_size": 8}),
    ("focalnet", {"use_conv_embed": True}),
    ("focalnet", {"patch_size": 8}),
    ("focalnet", {"use_layerscale": True, "use_post_layernorm": True}),
    ("focalnet", {"image_size": [40, 56]}),
    ("pvt", {"image_size": 64}),
    ("pvt_v2", {"patch_sizes": [5, 3, 3, 3], "strides": [3, 2, 2, 2]}),
    ("segformer", {"patch_sizes": [5, 3, 3, 3], "strides": [2, 2, 2, 2]}),
    ("segformer", {"num_channels": 1}),
    ("poolformer", {"patch_sizes": [5, 3, 3, 3], "strides": [3, 2, 2, 2], "padding": [1, 1, 1, 1]}),
    ("glpn", {"patch_sizes": [9, 3, 3, 3], "strides": [4, 2, 2, 2]}),
    ("cvt", {"cls_token": [False, False, False]}),
    ("cvt", {"patch_sizes": [5, 3, 3], "patch_stride": [2, 2, 2], "patch_padding": [1, 1, 1]}),
    ("cvt", {"cls_token": [False, True, False]}),
    ("vivit", {"tubelet_size": [1, 8, 8]}),
    ("vivit", {"num_frames": 6, "tubelet_size": [2, 8, 8]}),
    ("videomae", {"tubelet_size": 1}),
    ("videomae", {"num_frames": 8}),
    ("aimv2_vision_model", {"is_native": True}),
    ("aimv2", {"is_native": True}),
    ("siglip2_vision_model", {"num_patches": 49}),
    ("siglip_vision_model", {"image_size": 56}),
    ("ijepa", {"image_size": [32, 48]}),
    ("sam", {"use_abs_pos": False}),
    ("sam_vision_model", {"use_abs_pos": False}),
    ("sam_vision_model", {"image_size": 64}),
    ("sam_hq_vision_model", {"use_abs_pos": False}),
    ("vitdet", {"pretrain_image_size": 24}),
    ("vitdet", {"image_size": [48, 64]}),
    ("audio-spectrogram-transformer", {"frequency_stride": 8, "time_stride": 8}),
    (
        "audio-spectrogram-transformer",
        {"frequency_stride": 8, "time_stride": 4, "max_length": 64, "num_mel_bins": 32},
    ),
    ("levit", {"kernel_size": 3, "stride": 2}),
    ("qwen2_vl", {"spatial_merge_size": 1}),
    ("qwen2_vl", {"temporal_patch_size": 1}),
    ("qwen2_5_vl", {"window_size": 64}),
    ("qwen2_5_vl", {"spatial_merge_size": 1}),
    ("qwen3_vl", {"temporal_patch_size": 1}),
    ("qwen3_vl", {"spatial_merge_size": 1}),
    ("pixtral", {"patch_size": 4}),
    ("idefics2_vision", {"image_size": 56}),
    ("vjepa2", {"tubelet_size": 1}),
    ("vjepa2", {"crop_size": 48}),
    ("vitpose_backbone", {"image_size": [32, 24], "num_experts": 2, "part_features": 4}),
    ("vitpose_backbone", {"image_size": [48, 32]}),
    ("owlvit", {"patch_size": 4}),
    ("owlv2_vision_model", {"image_size": 56}),
    ("clip_vision_model", {"num_channels": 4}),
    ("clip_vision_model", {"layer_norm_eps": 0.001}),
    ("hiera", {"image_size": [32, 64]}),
    ("hiera", {"patch_stride": [2, 2], "patch_padding": [3, 3]}),
    (
        "hiera",
        {
            "patch_size": [3, 3],
            "patch_stride": [2, 2],
            "patch_padding": [1, 1],
            "masked_unit_size": [8, 8],
        },
    ),
    ("flava_image_model", {"image_size": 56}),
    ("flava_image_model", {"mask_token": False}),
    ("eomt", {"num_register_tokens": 0}),
    ("eomt", {"num_register_tokens": 2}),
    ("internvl_vision", {"use_absolute_position_embeddings": True}),
    ("internvl_vision", {"use_absolute_position_embeddings": False}),
    ("internvl_vision", {"use_mask_token": True}),
    ("internvl_vision", {"norm_type": "rms_norm"}),
    ("llama4_vision_model", {"image_size": 56}),
    ("glm4v", {"spatial_merge_size": 1}),
    ("glm4v_vision", {"temporal_patch_size": 1}),
    ("blip_2_vision_model", {"image_size": 56}),
    ("phi4_multimodal_vision", {"image_size": 64}),
    ("bridgetower_vision_model", {"share_layernorm": False}),
    ("bridgetower_vision_model", {"remove_last_layer": True}),
    ("swin", {"num_channels": 1, "patch_size": 8}),
    ("timesformer", {"attention_type": "space_only"}),
    ("timesformer", {"attention_type": "joint_space_time"}),
    ("sam2_hiera_det_model", {"image_size": [64, 96]}),
    (
        "sam2_hiera_det_model",
        {"patch_kernel_size": [3, 3], "patch_stride": [2, 2], "patch_padding": [1, 1]},
    ),
    ("git_vision_model", {"patch_size": 4}),
    ("janus_vision_model", {"image_size": 56}),
    ("mgp-str", {"image_size": [32, 48], "patch_size": [4, 8]}),
    ("mgp-str", {"distilled": True}),
    ("ovis2_vision", {"image_size": 56}),
]
"""Models made with other arguments than a configuration"s own: positions, tokens, norms, strides,
channels, oblong images."""

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
def variant(place: int) -> Outcome:
    """Build, save and read the model of this place among `VARIANTS`."""
    model_type, arguments = VARIANTS[place]
    return outcome.__wrapped__(model_type, arguments)


@functools.cache
def live_outcome(model_type: str) -> Outcome:
    """The same of a state dict, whose names are those of the live model: transformers 5 saves some
    under others."""
    return outcome.__wrapped__(model_type, live=True)


LIVE = (
    *("ijepa", "lfm3_vl_vision", "sapiens2", "segformer", "tipsv2_vision_model"),
    *("unlimited_ocr_sam_vision_model", "vit", "yolos"),
)
"""Model types whose live models have other names than their files, and one with the same."""


@functools.cache
def outcome(
    model_type: str, arguments: Mapping[str, Any] = MappingProxyType({}), live: bool = False
) -> Outcome:
    """Build, save and read the model of a type, made with arguments where some are given."""
    import torch
    import transformers

    try:
        config = transformers.CONFIG_MAPPING[model_type]
        own = next((sizes for start, sizes in OWN.items() if model_type.startswith(start)), {})
        own = {**own, **arguments}
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
        if live:
            (Path(folder) / "model.safetensors").unlink()
            torch.save(model.state_dict(), Path(folder) / "pytorch_model.bin")
        return outcome_of(Path(folder), TOLD.get(model_type, {}))
