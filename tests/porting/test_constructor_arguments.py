"""What a configuration tells of norms, activations, widths and images, against the file."""

import json

import numpy as np
import pytest

from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.dialects.evidence import is_architecture
from patchparity.porting.dialects.sizes import Sizes, sizes_of_config
from patchparity.porting.embed import embed
from patchparity.porting.files.safetensors_files import write_safetensors
from patchparity.porting.inspection import inspect_checkpoint
from patchparity.reference.errors import PatchParityError

from .pictures import images


def of_timm(folder, tensors, architecture, **arguments):
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
    config = {"architecture": architecture, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def levit(width=128):
    """LeViT's names: four convolutions, each with a batch norm."""
    random = np.random.default_rng(5)
    held, channels = {}, 3
    for place, share in enumerate((8, 4, 2, 1), 1):
        own = width // share
        held[f"stem.conv{place}.linear.weight"] = random.standard_normal((own, channels, 3, 3))
        for part in ("weight", "bias", "running_mean", "running_var"):
            held[f"stem.conv{place}.bn.{part}"] = random.uniform(0.5, 2, own)
        channels = own
    return held


@pytest.mark.parametrize(
    ("architecture", "arguments", "told"),
    [
        ("levit_128s", {"act_layer": "relu"}, "act_layer is 'relu', and timm-levit has hard_swish"),
        ("levit_512", {"act_layer": "hard_swish"}, "and timm-levit-silu has silu"),
        ("levit_512", {}, "calls the architecture 'levit_512', and the kernel is 128 wide"),
        ("levit_128s", {"act_layer": "hard_swish"}, ""),
    ],
)
def test_what_timm_is_told_of_activation_and_width_must_agree(
    tmp_path, architecture, arguments, told
):
    found = inspect_checkpoint(of_timm(tmp_path, levit(), architecture, **arguments))["refused"]
    assert told in found
    assert bool(found) == bool(told)


@pytest.mark.parametrize(
    ("architecture", "dialect"),
    [
        ("test_vit", "timm-vit"),
        ("test_vit3", "timm-vit"),
        ("vit_base_patch16_224", "timm-vit"),
        ("vit_base_patch16_clip_224", "timm-clip"),
        ("vit_base_r50_s16_224", None),
        ("vitamin_base_224", None),
    ],
)
def test_timm_s_names_are_of_one_dialect(architecture, dialect):
    """`test_vit` has nothing behind its family."""
    sizes = Sizes(table={"architecture": architecture}, architecture=architecture)
    found = [
        each.id
        for each in list_dialects().values()
        if not each.mlx and is_architecture(each, sizes)
    ]
    assert found == ([] if dialect is None else [dialect])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"norm_layer": "groupnorm1"}, "norm_layer is 'groupnorm1'"),
        ({"norm_eps": 1e-3}, "tells norm_eps 0.001"),
        ({"norm_layer": "layernorm2d", "norm_eps": 1e-6}, ""),
    ],
)
def test_a_norm_of_another_kind_that_timm_is_told_of_is_refused(tmp_path, arguments, told):
    random = np.random.default_rng(6).standard_normal
    held = {"stem.0.weight": random((8, 3, 4, 4)), "stem.0.bias": random(8)}
    held |= {"stem.1.weight": random(8), "stem.1.bias": random(8)}
    found = inspect_checkpoint(of_timm(tmp_path, held, "convnext_atto", **arguments))["refused"]
    assert told in found
    assert bool(found) == bool(told)


def test_a_norm_that_no_name_tells_is_asked(tmp_path):
    random = np.random.default_rng(6).standard_normal
    held = {"stem.0.weight": random((8, 3, 4, 4)), "stem.0.bias": random(8)}
    held["stem.1.weight"] = random(8)
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    for path in (tmp_path / "a.safetensors", of_timm(tmp_path / "b", held, "convnext_zepto_rms")):
        told = inspect_checkpoint(path)
        assert told["asks"] or told["refused"] or not told["dialect"]


@pytest.mark.filterwarnings("ignore:of images of")
def test_images_that_the_library_would_resize_first_are_refused(tmp_path):
    random = np.random.default_rng(7).standard_normal
    held = {}
    for branch, (patch, rows) in enumerate(((12, 17), (16, 10))):
        held[f"patch_embed.{branch}.proj.weight"] = random((8, 3, patch, patch))
        held[f"patch_embed.{branch}.proj.bias"] = random(8)
        held[f"cls_token_{branch}"] = random((1, 1, 8))
        held[f"pos_embed_{branch}"] = random((1, rows, 8))
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    told = dict(from_="timm-crossvit-small")
    assert embed(tmp_path / "a.safetensors", images(48, 48), **told).shape == (2, 17, 8)
    with pytest.raises(PatchParityError, match="expected images of 48×48, for its library resizes"):
        embed(tmp_path / "a.safetensors", images(49, 48), **told)


@pytest.mark.parametrize("shape", [[32, 48, 3], [3, 32, 48]])
def test_an_archive_tells_its_images_and_the_layers_that_change_pixels(shape):
    inner = {
        "registered_name": "keras_hub>ViTBackbone",
        "config": {"image_shape": shape, "patch_size": 8},
    }
    layers = [{"class_name": "Rescaling", "config": {"scale": 0.1}}, inner]
    told = sizes_of_config({"class_name": "Functional", "config": {"layers": layers}})
    assert (told.image_size, told.channels, told.layers) == ((32, 48), 3, ("Rescaling",))
    assert sizes_of_config(inner).layers == ()
