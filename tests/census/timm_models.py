"""Models of timm, some of each of its modules with patches, of one block where they take that, with
random weights."""

import functools
import gc
import json
import tempfile
from pathlib import Path
from typing import Any

from patchparity.porting.proof.torch_models import uninitialized

from .outcome import Outcome, outcome_of
from .stand_in import import_library

MODULES = [
    "beit",
    "cait",
    "coat",
    "convit",
    "crossvit",
    "davit",
    "deit",
    "edgenext",
    "efficientformer",
    "convnext",
    "eva",
    "fasternet",
    "gemma4_vit",
    "hiera",
    "hieradet_sam2",
    "inception_next",
    "levit",
    "mlp_mixer",
    "mvitv2",
    "naflexvit",
    "nest",
    "pit",
    "pvt_v2",
    "swin_transformer",
    "swin_transformer_v2",
    "swin_transformer_v2_cr",
    "tnt",
    "twins",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "visformer",
    "vitamin",
    "volo",
    "xcit",
]
OF_EACH = 7
TOLD: dict[str, dict[str, Any]] = {
    "crossvit_9_dagger": {"dialect": "timm-crossvit-dagger-small"},
    "crossvit": {"dialect": "timm-crossvit-small"},
    "edgenext": {"stride": 4, "padding": 4},
}
"""What a user must tell of some, by the start of their names: which of two branches, or how far
patches overlap."""
OF_SEVERAL_DEPTHS = ("visformer",)
"""Those whose depth is that of several stages, the first of which would have no block."""
MOST_DRAWN = 2**21 + 9
"""Random values of one parameter, more than any patch embedding has; larger ones repeat them."""

LARGEST = 120_000_000
"""Parameters of the largest that is built."""


def architectures() -> list[str]:
    """Names of models, some of each module: of different first words and ends."""
    timm = import_library("timm")
    found = []
    for module in MODULES:
        names = sorted(timm.list_models(module=module), key=len)
        spread = names[:: max(1, len(names) // OF_EACH)][:OF_EACH]
        found += spread
    return found


SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 8}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {**SMALL, **more})
    for more in (
        {"pre_norm": True},
        {"pre_norm": True, "norm_layer": "layernorm"},
        {"pre_norm": True, "norm_layer": "rmsnorm"},
        {"embed_norm_layer": "layernorm"},
        {"embed_norm_layer": "rmsnorm"},
        {"class_token": False, "global_pool": "avg"},
        {"no_embed_class": True},
        {"reg_tokens": 4},
        {"reg_tokens": 4, "no_embed_class": True},
        {"pos_embed": "none"},
        {"in_chans": 4},
        {"in_chans": 1, "img_size": [32, 48]},
        {"img_size": [32, 48]},
    )
]
VARIANTS += [
    ("vit_base_patch16_clip_224", {**SMALL, "pre_norm": False}),
    ("vit_base_patch16_clip_224", {**SMALL, "norm_layer": "layernorm"}),
    ("vit_base_patch16_xp_224", {**SMALL, "norm_layer": "layernorm"}),
    ("aimv2_large_patch14_224", {**SMALL, "embed_norm_layer": "layernorm"}),
    ("vit_small_patch16_rope_224", {**SMALL, "use_pre_transformer_norm": True}),
    ("eva02_tiny_patch14_224", {**SMALL, "use_pre_transformer_norm": True}),
    ("swin_tiny_patch4_window7_224", {"embed_dim": 32, "depths": [1, 1], "num_heads": [2, 2]}),
    ("convnext_tiny", {"dims": [96, 96, 96, 96], "depths": [1, 1, 1, 1]}),
    ("naflexvit_base_patch16_gap", {**SMALL}),
    ("samvit_base_patch16", {"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 64}),
]
"""Models made with other arguments than the name's own: norms, tokens, positions, channels,
sizes."""


@functools.cache
def variant(place: int) -> Outcome:
    """Build, save and read the model of this place among `VARIANTS`."""
    architecture, arguments = VARIANTS[place]
    return outcome(architecture, json.dumps(arguments))


@functools.cache
def outcome(architecture: str, arguments: str = "") -> Outcome:
    """Build, save and read a model, made with arguments where some are given as JSON."""
    import torch
    from safetensors.torch import save_file

    timm = import_library("timm")
    model: Any = None
    given: dict[str, Any] = {}
    tried: tuple[dict[str, Any], ...]
    tried = ({}, {}) if architecture.startswith(OF_SEVERAL_DEPTHS) else ({"depth": 1}, {})
    for given in (json.loads(arguments),) if arguments else tried:
        try:
            with torch.device("meta"), uninitialized():
                parameters = sum(
                    parameter.numel()
                    for parameter in timm.create_model(
                        architecture, pretrained=False, **given
                    ).parameters()
                )
            if parameters > LARGEST:
                return Outcome("unbuilt", "", f"{parameters} parameters")
            with uninitialized():  # every parameter is drawn below
                model = timm.create_model(architecture, pretrained=False, **given)
            break
        except Exception as error:  # most modules take no depth
            failed = error
    if model is None:
        return Outcome(
            "unbuilt",
            "",
            f"{type(failed).__name__}: {str(failed).splitlines()[0] if str(failed) else ''}",
        )
    gc.collect()  # of the model before: modules hold each other
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = 0.3 * torch.randn(min(parameter.numel(), MOST_DRAWN), generator=generator)
            times = -(-parameter.numel() // max(len(drawn), 1))
            parameter.copy_(drawn.repeat(times)[: parameter.numel()].view(parameter.shape))
    size = tuple(model.pretrained_cfg.get("input_size", (3, 224, 224)))
    if arguments:
        told_size = given.get("img_size", size[1:])
        sides = told_size if isinstance(told_size, list) else [told_size] * 2
        size = (given.get("in_chans", 3), *(sides if "img_size" in given else size[1:]))
    with tempfile.TemporaryDirectory() as folder:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
        config = {
            "architecture": architecture,
            "model_args": given,
            "pretrained_cfg": {"input_size": list(size)},
        }
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        told = next((given for start, given in TOLD.items() if architecture.startswith(start)), {})
        return outcome_of(Path(folder), told)
