"""Models of vit-pytorch: none is read silently wrong, and most are read."""

import numpy as np

from patchparity import Sizes

from . import vit_pytorch_models
from .demands import needs, require_none_wrong
from .outcome import embedded
from .stand_in import import_library


def test_vit_pytorch():
    needs("torch", "vit_pytorch")
    require_none_wrong(
        {name: vit_pytorch_models.outcome(name) for name in vit_pytorch_models.models()}, 28
    )


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
    model.transformer.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].detach().numpy())
    )
    video = torch.randn(2, 3, 4, 32, 32)
    model(video)
    save_file(
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        tmp_path / "model.safetensors",
    )
    found = embedded(
        tmp_path / "model.safetensors",
        video.numpy(),
        from_="lucidrains-3d",
        sizes=Sizes.told((2, 8, 8)),
    )
    # as in the models of one image
    assert np.abs(found - seen[0]).max() <= 1e-4 * np.abs(seen[0]).max()
