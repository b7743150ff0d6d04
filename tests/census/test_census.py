"""No model of the census is read silently wrong, and most are read."""

import importlib.util
import os

import numpy as np
import pytest

from patchparity import Sizes, embed

from . import keras_models, timm_models, transformers_models, vit_pytorch_models
from .stand_in import import_library

MOST_UNBUILT = 0.2
"""Of a library's models; more, and the census counts nothing."""


def needs(*libraries):
    """Skip where a library is not installed, unless this environment is there to have it."""
    promised = "transformers" in os.environ.get("PATCHPARITY_REQUIRE_LIBRARIES", "")
    for name in libraries:
        if not promised and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        import_library(name)


def require_none_wrong(outcomes, fewest_right):
    """No wrong ones, and as many right ones, by themselves or when told, as there were when this was written, but for a few."""
    wrong = {name: each for name, each in outcomes.items() if each.verdict == "wrong"}
    assert not wrong
    assert all(each.reason for each in outcomes.values() if each.verdict == "refused")
    unbuilt = {name: each.reason for name, each in outcomes.items() if each.verdict == "unbuilt"}
    assert len(unbuilt) <= MOST_UNBUILT * len(outcomes), unbuilt
    assert sum(each.verdict in ("right", "told") for each in outcomes.values()) >= fewest_right


def test_transformers():
    needs("torch", "transformers")
    require_none_wrong({name: transformers_models.outcome(name) for name in transformers_models.model_types()}, 215)


def test_timm():
    needs("torch", "timm")
    require_none_wrong({name: timm_models.outcome(name) for name in timm_models.architectures()}, 128)


def test_vit_pytorch():
    needs("torch", "vit_pytorch")
    require_none_wrong({name: vit_pytorch_models.outcome(name) for name in vit_pytorch_models.models()}, 28)


def test_keras_hub():
    needs("keras_hub")
    require_none_wrong({name: keras_models.outcome(name) for name in keras_models.MODELS}, 15)


def test_a_wrong_reading_is_seen(monkeypatch):
    """The census would see a stage that is read wrong: here positions that are added to other tokens."""
    needs("torch", "transformers")
    import dataclasses

    from . import outcome

    read = outcome.read_stage

    def shifted(checkpoint):
        stage = read(checkpoint)
        positions = stage.weights.positions[::-1].copy()
        return dataclasses.replace(stage, weights=dataclasses.replace(stage.weights, positions=positions))

    monkeypatch.setattr(outcome, "read_stage", shifted)
    assert transformers_models.outcome.__wrapped__("vit").verdict == "wrong"


def test_tubelets_of_vit_pytorch(tmp_path):
    needs("torch", "vit_pytorch")
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    sizes = dict(image_size=32, image_patch_size=8, frames=4, frame_patch_size=2, channels=3)
    make = import_library("vit_pytorch.vit_3d").ViT
    model = make(**sizes, num_classes=5, dim=48, depth=1, heads=2, mlp_dim=40).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    seen = []
    model.transformer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().numpy()))
    video = torch.randn(2, 3, 4, 32, 32)
    model(video)
    save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, tmp_path / "model.safetensors")
    found = embed(tmp_path / "model.safetensors", video.numpy(), from_="lucidrains-3d", sizes=Sizes.told((2, 8, 8)))
    assert np.abs(found - seen[0]).max() <= 1e-4 * np.abs(seen[0]).max()  # as in the models of one image
