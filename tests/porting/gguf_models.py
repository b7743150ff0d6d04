"""Small models of transformers with the towers that llama.cpp converts, and what enters their first
block, as they compute it themselves."""

import re

import numpy as np
import pytest
import torch
import transformers

from .gguf_converter import drawn

SMALL = dict(hidden_size=32, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)


def clip():
    config = transformers.CLIPVisionConfig(
        image_size=24, patch_size=8, num_channels=3, layer_norm_eps=3e-4, **SMALL
    )
    model = transformers.CLIPVisionModel(config)
    return model, "vision_tower.vision_model.", "mlp", (2, 3, 24, 24)


def siglip(projector="gemma3"):
    config = transformers.SiglipVisionConfig(image_size=40, patch_size=8, **SMALL)
    model = transformers.SiglipVisionModel(config)
    return model, "vision_tower.vision_model.", projector, (2, 3, 40, 40)


def siglip_of_llava():
    return siglip("mlp")


def smolvlm():
    module = transformers.models.smolvlm
    config = module.SmolVLMVisionConfig(image_size=32, patch_size=8, **SMALL)
    model = module.modeling_smolvlm.SmolVLMVisionTransformer(config)
    return model, "model.vision_model.", "idefics3", (2, 3, 32, 32)


def internvl():
    config = transformers.InternVLVisionConfig(image_size=[24, 24], patch_size=[8, 8], **SMALL)
    model = transformers.InternVLVisionModel(config)
    return model, "model.vision_tower.", "internvl", (2, 3, 24, 24)


def pixtral():
    config = transformers.PixtralVisionConfig(image_size=64, patch_size=8, head_dim=16, **SMALL)
    return transformers.PixtralVisionModel(config), "vision_tower.", "pixtral", (1, 3, 24, 40)


def llama4():
    module = transformers.models.llama4
    config = module.Llama4VisionConfig(
        image_size=32, patch_size=8, vision_output_dim=32, projector_input_dim=8,
        projector_output_dim=8, pixel_shuffle_ratio=0.5, **SMALL,
    )  # fmt: skip
    model = module.modeling_llama4.Llama4VisionModel(config)
    return model, "vision_model.", "llama4", (2, 3, 32, 32)


def qwen2():
    module = transformers.models.qwen2_vl.modeling_qwen2_vl
    config = module.Qwen2VLVisionConfig(depth=1, embed_dim=32, hidden_size=16, num_heads=2)
    model = module.Qwen2VisionTransformerPretrainedModel(config)
    return model, "visual.", "qwen2vl_merger", (1, 3, 2, 56, 84)


def qwen2_5():
    module = transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
    config = module.Qwen2_5_VLVisionConfig(
        depth=1, hidden_size=32, intermediate_size=8, num_heads=2, out_hidden_size=16,
        fullatt_block_indexes=[0],
    )  # fmt: skip
    model = module.Qwen2_5_VisionTransformerPretrainedModel(config)
    return model, "visual.", "qwen2.5vl_merger", (1, 3, 2, 14 * 12, 14 * 20)


def qwen3():
    module = transformers.models.qwen3_vl.modeling_qwen3_vl
    config = module.Qwen3VLVisionConfig(
        depth=1, hidden_size=32, intermediate_size=8, num_heads=2, out_hidden_size=16,
        num_position_embeddings=16, patch_size=16, deepstack_visual_indexes=[],
    )  # fmt: skip
    return module.Qwen3VLVisionModel(config), "visual.", "qwen3vl_merger", (1, 3, 2, 64, 64)


def glm4v():
    module = transformers.models.glm4v.modeling_glm4v
    config = module.Glm4vVisionConfig(
        depth=1, hidden_size=32, intermediate_size=8, num_heads=2, out_hidden_size=16,
        image_size=56, patch_size=14, rms_norm_eps=3e-4,
    )  # fmt: skip
    return module.Glm4vVisionModel(config), "visual.", "glm4v", (1, 3, 2, 56, 56)


TOWERS = {
    "gguf-clip": clip,
    "gguf-siglip": siglip,
    "gguf-siglip of llava": siglip_of_llava,
    "gguf-siglip of smolvlm": smolvlm,
    "gguf-internvl": internvl,
    "gguf-pixtral": pixtral,
    "gguf-llama4": llama4,
    "gguf-qwen2-vl": qwen2,
    "gguf-qwen2-5-vl": qwen2_5,
    "gguf-qwen3-vl": qwen3,
    "gguf-glm4v": glm4v,
}


class _FirstBlockError(Exception):
    """Raised where the first block begins, with what enters it."""


def _first_block(model):
    for module in model.modules():
        alone = isinstance(module, torch.nn.ModuleList) and len(module) == 1
        if alone and re.search("Layer|Block", type(module[0]).__name__):
            return module[0]
    raise AssertionError("the model has no block")


def entering(model, images):
    """What enters a model's first block, as the model itself computes it."""
    caught = []

    def catch(module, given, named):
        caught.append(given[0] if given else next(iter(named.values())))
        raise _FirstBlockError

    _first_block(model).register_forward_pre_hook(catch, with_kwargs=True)
    given, named = images, {}
    if images.ndim == 5:
        given, grid = _patches(images, model.config.patch_size)
        named = {"grid_thw": torch.tensor([grid])}
    with torch.no_grad(), pytest.raises(_FirstBlockError):
        model(torch.from_numpy(given), **named)
    sequence = caught[0].double().numpy()
    return sequence.reshape(len(images), -1, sequence.shape[-1])


def _patches(video, size):
    """The patches of a video, `(N, C·T·P·P)`, in the order of Qwen2-VL's image processor."""
    _, channels, frames, height, width = video.shape
    grid = frames // 2, height // size, width // size
    cut = video[0].reshape(
        channels, grid[0], 2, grid[1] // 2, 2, size, grid[2] // 2, 2, size
    ).transpose(1, 3, 6, 4, 7, 0, 2, 5, 8)  # fmt: skip
    return np.ascontiguousarray(cut.reshape(-1, channels * 2 * size * size)), grid


def randomized(model):
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(0.3 * drawn(*parameter.shape)))
    return model.eval()


def state_of(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}
