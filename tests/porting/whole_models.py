"""Tiny whole models of libraries, one for each kind of encoder, with weights as they are after some
training: matrices of deviation 1/√in, norms about one, biases and layer scales that are not
nothing."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..census.stand_in import import_library

SIDE, PATCH, CHANNELS, WIDTH, HEADS, DEPTH = 32, 8, 3, 128, 2, 2
"""Heads are 64 wide, which OpenAI's CLIP and DINOv2's own code fix."""

MLP, CLASSES, PROJECTION, REGISTERS = 256, 10, 40, 3


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of encoder.

    Args:
        id: short.
        title: in words.
        save: writes a model of a library to a folder.
        stage: dialect that it is written in.
        loads: how its library loads it.
        pooling: what makes one vector of its tokens, where a library gives tokens alone.
    """

    id: str
    title: str
    save: Callable[[Path], None]
    stage: str
    loads: str
    pooling: str = "class"


def images() -> NDArray[np.float64]:
    """Two images, `(B, C, H, W)`."""
    return np.random.default_rng(26).normal(size=(2, CHANNELS, SIDE, SIDE))


def trained(model: Any, seed: int) -> Any:
    """A torch model with other weights, seeded."""
    import torch

    numbers = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters()]:
            last = name.rsplit(".", 1)[-1]
            if last in ("gamma", "lambda1"):
                drawn = numbers.uniform(0.2, 1.5, tensor.shape)
            elif tensor.ndim >= 2 and last in ("weight", "in_proj_weight"):
                fan = max(int(np.prod(tensor.shape[1:])), 1)
                drawn = numbers.normal(size=tensor.shape) / fan**0.5
            else:
                drawn = 0.1 * numbers.normal(size=tensor.shape)
                if tensor.ndim == 1 and last == "weight":  # of a norm
                    drawn = drawn + 1
            tensor.copy_(torch.from_numpy(np.asarray(drawn, np.float32)))
    return model.eval()


def _transformers(
    name: str, config: str, arguments: dict[str, Any] | None = None, **options: Any
) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        import transformers

        sizes = {
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_size": WIDTH,
            "num_attention_heads": HEADS,
            "num_hidden_layers": DEPTH,
        }
        made = getattr(transformers, config)(**{**sizes, **options})
        model = getattr(transformers, name)(made, **arguments or {})
        trained(model, 1).save_pretrained(folder)

    return save


def _timm(architecture: str, **options: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        timm = import_library("timm")
        sizes = {
            "img_size": SIDE,
            "patch_size": PATCH,
            "embed_dim": WIDTH,
            "num_heads": HEADS,
            "depth": DEPTH,
            "mlp_ratio": MLP // WIDTH,
        }
        arguments = {"num_classes": 0, "act_layer": "gelu", **sizes, **options}
        model = trained(timm.create_model(architecture, **arguments), 2)
        kept = {key: value for key, value in arguments.items() if key != "num_classes"}
        timm.models.save_for_hf(model, folder, model_args=kept, safe_serialization=True)

    return save


def vit_pytorch(kind: str = "ViT", **options: Any) -> Callable[[Path], None]:
    """What writes a model of vit-pytorch to a folder."""

    def save(folder: Path) -> None:
        import json

        import torch

        library = import_library("vit_pytorch")
        arguments = {
            "image_size": SIDE,
            "patch_size": PATCH,
            "num_classes": CLASSES,
            "dim": WIDTH,
            "depth": DEPTH,
            "heads": HEADS,
            "mlp_dim": MLP,
            **options,
        }
        folder.mkdir()
        model = trained(getattr(library, kind)(**arguments), 3)
        torch.save(model.state_dict(), folder / "model.pt")
        table = {"library": "vit_pytorch", "class_name": kind, "arguments": arguments}
        (folder / "config.json").write_text(json.dumps(table), encoding="utf-8")

    return save


_VIT = "vit_base_patch16_224"
_IN_TIMM = "timm.create_model('local-dir:{folder}', pretrained=True)"
_IN_TRANSFORMERS = "transformers.{}.from_pretrained('{{folder}}')"
KINDS: dict[str, Kind] = {
    kind.id: kind
    for kind in (
        Kind("plain", "ViT, exact GELU, ε 1e-6", _timm(_VIT), "timm-vit", _IN_TIMM),
        Kind("tanh", "ViT, tanh GELU", _timm(_VIT, act_layer="gelu_tanh"), "timm-vit", _IN_TIMM),
        Kind(
            "clip",
            "CLIP: quick GELU, norm before the blocks, projection, ε 1e-5",
            _transformers(
                "CLIPVisionModelWithProjection",
                "CLIPVisionConfig",
                intermediate_size=MLP,
                projection_dim=PROJECTION,
            ),
            "hf-clip",
            _IN_TRANSFORMERS.format("CLIPVisionModelWithProjection"),
        ),
        Kind(
            "siglip",
            "SigLIP: tanh GELU, attention pooling",
            _transformers("SiglipVisionModel", "SiglipVisionConfig", intermediate_size=MLP),
            "hf-siglip",
            _IN_TRANSFORMERS.format("SiglipVisionModel"),
            pooling="attention",
        ),
        Kind(
            "dinov2",
            "DINOv2: layer scale",
            _transformers("Dinov2Model", "Dinov2Config", mlp_ratio=2),
            "hf-dinov2",
            _IN_TRANSFORMERS.format("Dinov2Model"),
        ),
        Kind(
            "registers",
            "DINOv2 with registers",
            _transformers(
                "Dinov2WithRegistersModel",
                "Dinov2WithRegistersConfig",
                mlp_ratio=2,
                num_register_tokens=REGISTERS,
            ),
            "hf-dinov2",
            _IN_TRANSFORMERS.format("Dinov2WithRegistersModel"),
        ),
        Kind(
            "swiglu",
            "DINOv2 with SwiGLU",
            _transformers("Dinov2Model", "Dinov2Config", mlp_ratio=2, use_swiglu_ffn=True),
            "hf-dinov2",
            _IN_TRANSFORMERS.format("Dinov2Model"),
        ),
        Kind(
            "classes",
            "ViT with classes",
            _transformers(
                "ViTForImageClassification",
                "ViTConfig",
                intermediate_size=MLP,
                num_labels=CLASSES,
                layer_norm_eps=1e-6,
            ),
            "hf-vit",
            _IN_TRANSFORMERS.format("ViTForImageClassification"),
        ),
        Kind(
            "pooler",
            "ViT with pooler, tanh GELU",
            _transformers(
                "ViTModel",
                "ViTConfig",
                intermediate_size=MLP,
                hidden_act="gelu_pytorch_tanh",
                layer_norm_eps=1e-6,
            ),
            "hf-vit",
            _IN_TRANSFORMERS.format("ViTModel"),
        ),
        Kind(
            "epsilon",
            "ViT, ε 1e-12",
            _transformers("ViTForImageClassification", "ViTConfig", intermediate_size=MLP),
            "hf-vit",
            _IN_TRANSFORMERS.format("ViTForImageClassification"),
        ),
        Kind(
            "mean",
            "ViT, mean of the patches, norm behind it",
            _timm(_VIT, global_pool="avg"),
            "timm-vit",
            _IN_TIMM,
            pooling="mean",
        ),
        Kind(
            "query-norm",
            "ViT, norms of queries and keys",
            _timm(_VIT, qk_norm=True),
            "timm-vit",
            _IN_TIMM,
        ),
        Kind(
            "biasless", "ViT, no bias of q, k, v", _timm(_VIT, qkv_bias=False), "timm-vit", _IN_TIMM
        ),
        Kind("scaled", "ViT with layer scale", _timm(_VIT, init_values=0.1), "timm-vit", _IN_TIMM),
        Kind(
            "lucidrains",
            "vit-pytorch ViT, class token",
            vit_pytorch(),
            "lucidrains",
            "vit_pytorch.ViT",
        ),
        Kind(
            "rotary",
            "DINOv3: rotary positions",
            _transformers(
                "DINOv3ViTModel",
                "DINOv3ViTConfig",
                intermediate_size=MLP,
                num_register_tokens=REGISTERS,
            ),
            "hf-dinov3",
            _IN_TRANSFORMERS.format("DINOv3ViTModel"),
        ),
        Kind(
            "swiglu-rotary",
            "DINOv3 with SwiGLU",
            _transformers(
                "DINOv3ViTModel",
                "DINOv3ViTConfig",
                intermediate_size=MLP,
                num_register_tokens=REGISTERS,
                use_gated_mlp=True,
                hidden_act="silu",
            ),
            "hf-dinov3",
            _IN_TRANSFORMERS.format("DINOv3ViTModel"),
        ),
        Kind(
            "rotary-plain",
            "DINOv3 without registers",
            _transformers(
                "DINOv3ViTModel", "DINOv3ViTConfig", intermediate_size=MLP, num_register_tokens=0
            ),
            "hf-dinov3",
            _IN_TRANSFORMERS.format("DINOv3ViTModel"),
        ),
        Kind(
            "clip-tower",
            "CLIP's tower, without its projection",
            _transformers("CLIPVisionModel", "CLIPVisionConfig", intermediate_size=MLP),
            "hf-clip",
            _IN_TRANSFORMERS.format("CLIPVisionModel"),
        ),
        Kind(
            "distilled",
            "DeiT, with a distillation token",
            _transformers(
                "DeiTModel",
                "DeiTConfig",
                {"add_pooling_layer": False},
                intermediate_size=MLP,
                layer_norm_eps=1e-6,
            ),
            "hf-deit",
            "transformers.DeiTModel.from_pretrained('{folder}', add_pooling_layer=False)",
        ),
        Kind(
            "ijepa",
            "I-JEPA: no class token",
            _transformers("IJepaModel", "IJepaConfig", intermediate_size=MLP, layer_norm_eps=1e-6),
            "hf-ijepa",
            _IN_TRANSFORMERS.format("IJepaModel"),
            pooling="mean",
        ),
    )
}
"""The kinds, by id."""
