"""What a file that is not read is told: a reason that is true, and what would help."""

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from patchparity import PatchParityError, embed, inspect_checkpoint, verify

from .test_evidence import IMAGES, C, D, P, folder_of, rows


def vit():
    """A small ViT as timm saves it."""
    return {
        "cls_token": rows(1, 1, D),
        "pos_embed": rows(1, 17, D),
        "patch_embed.proj.weight": rows(D, C, P, P),
        "patch_embed.proj.bias": rows(D),
        "blocks.0.norm1.weight": rows(D),
        "blocks.0.attn.qkv.weight": rows(3 * D, D),
        "blocks.0.mlp.fc1.weight": rows(4 * D, D),
        "norm.weight": rows(D),
    }


def saved(tmp_path, held, arrays=False):
    torch = pytest.importorskip("torch")
    named = {
        name: value
        if arrays
        else {k: torch.from_numpy(v) for k, v in value.items()}
        if isinstance(value, dict)
        else torch.from_numpy(value)
        for name, value in held.items()
    }
    torch.save(named, tmp_path / "file.pth")
    return tmp_path / "file.pth"


def test_two_stages_of_one_dialect_are_ambiguous_and_no_other_dialect(tmp_path):
    file = saved(tmp_path, {"state_dict": vit(), "state_dict_ema": vit()})
    told = inspect_checkpoint(file)
    assert told["ambiguous"]
    assert {each.partition(" ")[0] for each in told["rivals"]} == {"timm-vit"}


@pytest.mark.parametrize("part", ["lora_A.default.weight", "adapter.down.weight"])
def test_an_adapter_inside_the_encoder_changes_nothing_before_it(part, tmp_path):
    held = vit()
    expected = embed(folder_of(tmp_path / "plain", held), IMAGES)
    held[f"blocks.0.attn.qkv.{part}"] = np.ones((4, 24), np.float32)
    assert (embed(saved(tmp_path, held), IMAGES) == expected).all()


def test_a_module_of_the_stage_hides_nothing(tmp_path):
    held = {**vit(), "patch_embed.more.weight": np.ones((4, 24), np.float32)}
    assert "patch_embed.more.weight" in inspect_checkpoint(saved(tmp_path, held))["refused"]


def test_a_kernel_in_parts_says_fold_it(tmp_path):
    held = vit()
    kernel = held.pop("patch_embed.proj.weight")
    for number in (0, 1):
        held[f"patch_embed.proj.parametrizations.weight.original{number}"] = kernel
    told = inspect_checkpoint(saved(tmp_path, held))["refused"]
    assert "fold it first (remove_parametrizations" in told


def test_arrays_in_the_place_of_tensors_are_named(tmp_path):
    told = inspect_checkpoint(saved(tmp_path, vit(), arrays=True))
    assert "holds NumPy arrays, of which nothing is built: torch.save tensors" in told["refused"]


def test_a_whole_module_says_save_its_state(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Conv2d(3, 8, 4, 4), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"of a whole module: torch.save its state_dict\(\)"):
        inspect_checkpoint(tmp_path / "whole.pth")


def test_a_whole_model_of_old_keras_is_called_so(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file["model_weights/patch/patch/kernel"] = np.ones((4, 4, 3, 8), np.float32)
        file["model_weights/head/head/kernel"] = np.ones((8, 2), np.float32)
    told = inspect_checkpoint(tmp_path / "model.h5")["refused"]
    assert "as Keras wrote it before 3" in told
    assert "keras-conv2d-legacy --prefix 'model_weights/patch/patch/'" in told


@pytest.mark.parametrize(("factor", "told"), [(1 + 2.0**-20, "roundings"), (3.0, "3 times")])
@pytest.mark.parametrize("size", [1.0, 1e-30])
def test_kernels_that_differ_are_told_how(size, factor, told, tmp_path):
    held = vit()
    name = "patch_embed.proj.weight"
    held[name] = held[name] * np.float32(size)
    held["patch_embed.proj.bias"] = held["patch_embed.proj.bias"] * np.float32(size)
    first = folder_of(tmp_path / "first", held)
    second = folder_of(tmp_path / "second", {**held, name: held[name] * np.float32(factor)})
    found = verify(first, second)
    assert not found.same
    assert told in found.explanation


def test_a_class_token_that_is_missing_is_asked_for(tmp_path):
    held = vit()
    del held["cls_token"]
    with pytest.raises(ValueError, match=r"17 positions .*16 and one: is cls_token missing"):
        inspect_checkpoint(saved(tmp_path, held))


@pytest.mark.parametrize("values", [3 * 8 * 16, 3 * 2 * 8 * 8])
def test_a_patch_that_lies_in_a_matrix_and_is_no_square_is_asked(values, tmp_path):
    """As vit-pytorch keeps them: of K values nothing tells the sides."""
    draw = np.random.default_rng(values).standard_normal
    shapes = {
        "to_patch_embedding.1.weight": (values,),
        "to_patch_embedding.1.bias": (values,),
        "to_patch_embedding.2.weight": (24, values),
        "to_patch_embedding.2.bias": (24,),
        "to_patch_embedding.3.weight": (24,),
        "to_patch_embedding.3.bias": (24,),
        "cls_token": (1, 24) if values == 3 * 8 * 16 else (1, 1, 24),
        "pos_embedding": (9, 24) if values == 3 * 8 * 16 else (1, 9, 24),
    }
    file = tmp_path / "model.safetensors"
    save_file({name: draw(shape).astype(np.float32) for name, shape in shapes.items()}, file)
    words = rf"to_patch_embedding.2.weight \(24, {values}\) holds patches of sides that nothing"
    (asked,) = inspect_checkpoint(file)["asks"]
    assert re.search(words, asked)
    with pytest.raises(PatchParityError, match=rf"{words} tells: --patch-size 8x16 does"):
        embed(file, np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize("module", ["normalized_vit", "vit_for_small_dataset"])
def test_a_transformer_of_vit_pytorch_that_is_not_read_is_told_why(module, tmp_path):
    torch = pytest.importorskip("torch")
    from ..census.stand_in import import_library

    import_library("vit_pytorch")
    library = pytest.importorskip(f"vit_pytorch.{module}")
    model = getattr(library, "nViT", None) or library.ViT
    made = model(image_size=32, patch_size=8, num_classes=3, dim=16, depth=1, heads=2, mlp_dim=16)
    torch.save(made.state_dict(), tmp_path / "a.pth")
    told = inspect_checkpoint(tmp_path / "a.pth")["refused"]
    assert "computed of several" in told or "shifted patch tokenization" in told


def test_patches_of_an_image_that_is_convolved_first_are_told(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=32, patch_size=1, embed_dim=12, depths=[1], num_heads=[2])
    model = transformers.Swin2SRModel(transformers.Swin2SRConfig(window_size=4, **sizes))
    model.save_pretrained(tmp_path)
    assert "convolved before they are cut" in inspect_checkpoint(tmp_path)["refused"]


def test_pixels_that_are_in_no_patch_are_told(tmp_path):
    """A ViT of transformers refuses such images; the convolution leaves the rest out."""
    file = saved(tmp_path, vit())
    images = rows(2, C, 4 * P + 3, 4 * P + 1)
    with pytest.warns(UserWarning, match="the last 3 rows and 1 columns are in no patch of 8×8"):
        tokens = embed(file, images, image_size=None)
    assert (tokens == embed(file, images[:, :, : 4 * P, : 4 * P])).all()
