"""KerasHub's backbones with patches, tiny, with random weights; the truth is what their own layer
of embeddings gives."""

import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from patchparity import PatchParityError
from patchparity.porting.dialects.sizes import Sizes

from .outcome import Outcome, embedded, outcome_of

_SMALL = dict(num_layers=1, num_heads=2, hidden_dim=48, intermediate_dim=32)
_VIT = dict(
    image_shape=(48, 64, 3), patch_size=16, num_layers=1, num_heads=2, hidden_dim=48, mlp_dim=32
)
_DEIT = dict(image_shape=(48, 64, 3), patch_size=16, **_SMALL)
_DINO = dict(image_shape=(518, 518, 3), patch_size=14, **_SMALL)
_DINO3 = dict(image_shape=(48, 64, 3), patch_size=16, **_SMALL)
_CLIP = dict(image_shape=(64, 64, 3), patch_size=16, **_SMALL)
_VITDET = dict(
    hidden_size=48,
    num_layers=1,
    intermediate_dim=32,
    num_heads=2,
    global_attention_layer_indices=[0],
    image_shape=(64, 64, 3),
    patch_size=16,
    num_output_channels=16,
    window_size=2,
)
_SWIN = dict(image_shape=(56, 56, 3), embed_dim=24, depths=[1, 1], num_heads=[2, 2], window_size=7)
_PALI = dict(
    image_size=64,
    patch_size=16,
    num_heads=2,
    hidden_dim=48,
    num_layers=1,
    intermediate_dim=32,
    num_classes=24,
)
_MIT = dict(
    layerwise_depths=[1, 1],
    num_layers=2,
    layerwise_num_heads=[1, 2],
    layerwise_sr_ratios=[8, 4],
    max_drop_path_rate=0.1,
    layerwise_patch_sizes=[7, 3],
    layerwise_strides=[4, 2],
    image_shape=(64, 64, 3),
    hidden_dims=[32, 48],
)
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "ViT": ("vit.vit_backbone:ViTBackbone", _VIT, "ViTPatchingAndEmbedding"),
    "ViT without class token": (
        "vit.vit_backbone:ViTBackbone",
        {**_VIT, "use_class_token": False},
        "ViTPatchingAndEmbedding",
    ),
    "ViT without bias": (
        "vit.vit_backbone:ViTBackbone",
        {**_VIT, "use_patch_bias": False},
        "ViTPatchingAndEmbedding",
    ),
    "DeiT": ("deit.deit_backbone:DeiTBackbone", _DEIT, "DeiTEmbeddings"),
    "DINOv2": ("dinov2.dinov2_backbone:DINOV2Backbone", _DINO, "DINOV2Embedding"),
    "DINOv2 without mask token": (
        "dinov2.dinov2_backbone:DINOV2Backbone",
        {**_DINO, "use_mask_token": False},
        "DINOV2Embedding",
    ),
    "DINOv2 with registers": (
        "dinov2.dinov2_backbone:DINOV2Backbone",
        {**_DINO, "num_register_tokens": 3},
        "DINOV2Embedding",
    ),
    "DINOv3": (
        "dinov3.dinov3_backbone:DINOV3Backbone",
        {**_DINO3, "num_register_tokens": 3},
        "DINOV3Embedding",
    ),
    "DINOv3 without mask token": (
        "dinov3.dinov3_backbone:DINOV3Backbone",
        {**_DINO3, "num_register_tokens": 3, "use_mask_token": False},
        "DINOV3Embedding",
    ),
    "DINOv3 without registers": (
        "dinov3.dinov3_backbone:DINOV3Backbone",
        {**_DINO3, "num_register_tokens": 0},
        "DINOV3Embedding",
    ),
    "CLIP": ("clip.clip_vision_encoder:CLIPVisionEncoder", _CLIP, "CLIPVisionEmbedding"),
    "SigLIP": ("siglip.siglip_vision_encoder:SigLIPVisionEncoder", _CLIP, "SigLIPVisionEmbedding"),
    "PaliGemma": ("pali_gemma.pali_gemma_vit:PaliGemmaVit", _PALI, "PaliGemmaVitEmbeddings"),
    "ViTDet": ("vit_det.vit_det_backbone:ViTDetBackbone", _VITDET, "ViTDetPatchingAndEmbedding"),
    "Swin": (
        "swin_transformer.swin_transformer_backbone:SwinTransformerBackbone",
        _SWIN,
        "PatchEmbedding",
    ),
    "Swin without norm": (
        "swin_transformer.swin_transformer_backbone:SwinTransformerBackbone",
        {**_SWIN, "patch_norm": False},
        "PatchEmbedding",
    ),
    "MiT": ("mit.mit_backbone:MiTBackbone", _MIT, "OverlappingPatchingAndEmbedding"),
}

TOLD: dict[str, dict[str, Any]] = {
    "DINOv3 without registers": {"from_": "keras-hub-dinov3-plain"},
    "MiT": {"stride": 4},
}
"""What a user must tell of some."""


def outcome(name: str) -> Outcome:
    """Build, save and read a model."""
    path, given, layer = MODELS[name]
    module, kind = path.split(":")
    try:
        model = getattr(importlib.import_module(f"keras_hub.src.models.{module}"), kind)(**given)
        embeddings = _layer(model, layer)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return Outcome("unbuilt", "", f"{type(error).__name__}: {error}")
    generator = np.random.default_rng(3)
    for weight in model.weights:
        if "int" not in str(weight.dtype):
            weight.assign(0.3 * generator.standard_normal(weight.shape).astype("float32"))
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.weights.h5"
        model.save_weights(file)
        model.load_weights(file)
        height, width = given.get("image_shape", (64, 64))[:2]
        images = generator.standard_normal((2, 3, height, width)).astype("float32")
        given_images = images.transpose(0, 2, 3, 1)
        if name == "ViTDet":  # its backbone normalizes images before the embeddings
            given_images = (given_images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        entering = embeddings(given_images.astype("float32"))
        for each in model.layers:
            if each.name == "pre_layer_norm" or type(each).__name__ == "AddPositionalEmbedding":
                entering = each(entering)
        observed = np.asarray(entering)
        observed = observed.reshape(observed.shape[0], -1, observed.shape[-1])
        told: dict[str, Any] = {}
        try:
            found = embedded(file, images)
        except PatchParityError as error:
            told = TOLD.get(name, {})
            if not told:
                return Outcome("refused", "", str(error).replace(f"{folder}/", ""))
            sizes = {key: value for key, value in told.items() if key != "from_"}
            found = embedded(
                file, images, from_=told.get("from_"), sizes=Sizes.told(**sizes) if sizes else None
            )
        whole = _of_the_archive(model, folder)
    apart = (
        found.shape != observed.shape
        or np.abs(found - observed).max() > 1e-4 * np.abs(observed).max()
    )
    needed = ", ".join(f"{key.rstrip('_')} {value!r}" for key, value in told.items())
    if apart or whole.verdict == "wrong":
        return Outcome("wrong", whole.dialect, whole.reason)
    return Outcome(
        "told" if told else "right",
        whole.dialect,
        needed and f"{needed}, where it is a .weights.h5; a .keras tells it",
    )


def _of_the_archive(model: Any, folder: str) -> Outcome:
    """The same as a whole `.keras`, which tells how its model is built."""
    model.save(f"{folder}/model.keras")
    return outcome_of(Path(folder) / "model.keras")


def _layer(model: Any, kind: str) -> Any:
    for each in model._flatten_layers():
        if type(each).__name__ == kind:
            return each
    raise AttributeError(f"no {kind} in it")
