"""Positions that are made for the grid of the image: read at any size as the library's own model
has them."""

import json

import numpy as np
import pytest

from patchparity.porting.embed import embed
from patchparity.porting.files.safetensors_files import write_safetensors
from patchparity.porting.inspection import inspect_checkpoint
from patchparity.porting.port import port
from patchparity.porting.verify import verify
from patchparity.reference.errors import PatchParityError

from .pictures import images


def entering(model, block, pictures):
    """What enters a block of a model, `(B, N, D)`."""
    import torch

    seen = []
    handle = block.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    with torch.no_grad():
        model(torch.from_numpy(pictures))
    handle.remove()
    return seen[0].reshape(len(pictures), -1, seen[0].shape[-1]).double().numpy()


def randomize(model):
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    return model.eval()


def sam2():
    transformers = pytest.importorskip("transformers")
    config = transformers.Sam2HieraDetConfig(
        image_size=[64, 64],
        hidden_size=32,
        blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[32, 64, 128, 256],
    )
    model = randomize(transformers.models.sam2.modeling_sam2.Sam2HieraDetModel(config))
    return model, model.blocks[0]


def radio():
    transformers = pytest.importorskip("transformers")
    config = transformers.RadioConfig(
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=8,
        image_size=40,
        max_img_size=56,
    )
    model = randomize(transformers.RadioModel(config))
    return model, model.encoder.layer[0]


@pytest.mark.parametrize("build", [sam2, radio])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (32, 128)])
def test_any_size_is_read_as_the_library_does(tmp_path, build, size):
    model, block = build()
    model.save_pretrained(tmp_path)
    pictures = images(*size)
    found, wanted = embed(tmp_path, pictures), entering(model, block, pictures)
    # Float32 products of K = 192 terms: 16·√K·2⁻²⁴ of their size, as the library's proof allows.
    np.testing.assert_allclose(found, wanted, atol=16 * 192**0.5 * 2.0**-24 * np.abs(wanted).max())


def of_sam2(window, **more):
    draw = np.random.default_rng(1).standard_normal
    return {
        "trunk.patch_embed.proj.weight": draw((8, 3, 7, 7)),
        "trunk.pos_embed": draw((1, 8, 3, 5)),
        "trunk.pos_embed_window": draw((1, 8, *window)),
        "trunk.blocks.0.norm1.weight": draw(8),
        **more,
    }


def test_an_image_that_windows_do_not_divide_is_refused(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", of_sam2((4, 2)), {"format": "pt"})
    assert embed(tmp_path / "a.safetensors", images(32, 24)).shape == (2, 8 * 6, 8)
    with pytest.raises(
        PatchParityError, match=r"pos_embed_window \(1, 8, 4, 2\) .* 6×8 patches are no multiple"
    ):
        embed(tmp_path / "a.safetensors", images(24, 32))


def test_without_an_image_size_it_is_asked(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", of_sam2((4, 2)), {"format": "pt"})
    told = inspect_checkpoint(tmp_path / "a.safetensors")
    assert told["dialect"] == "timm-sam2"
    assert "nothing tells the image size: --image-size says it" in told["asks"][0]


def test_pixels_that_are_divided_by_nothing_are_refused(tmp_path):
    draw = np.random.default_rng(1).standard_normal
    held = {
        "model.patch_generator.embedder.weight": draw((8, 3 * 4 * 4)),
        "model.patch_generator.cls_token.token": draw((2, 8)),
        "model.patch_generator.pos_embed": draw((1, 9, 8)),
        "input_conditioner.norm_mean": draw((3, 1, 1)),
        "input_conditioner.norm_std": np.array([0.2, 0.0, 0.3]).reshape(3, 1, 1),
    }
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    with pytest.raises(
        PatchParityError, match="norm_std holds 0, by which pixels would be divided"
    ):
        embed(tmp_path / "a.safetensors", images(12, 8))
    held["model.patch_generator.pos_embed"] = draw((1, 8, 8))
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    with pytest.raises(PatchParityError, match="pos_embed has 8 rows, which are no square grid"):
        embed(tmp_path / "a.safetensors", images(12, 8))


def test_positions_for_any_grid_are_ported_for_one_and_that_is_said(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.RadioConfig(
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        patch_size=8,
        image_size=40,
        max_img_size=56,
    )
    randomize(transformers.RadioModel(config)).save_pretrained(tmp_path)
    report = port(tmp_path, tmp_path / "b.safetensors", "timm-vit", allow_loss=True)
    assert any("for this grid alone" in step for step in report.steps)


def of_keras_hub(file, rows, own_rows, stale=False):
    """DINOv2 as KerasHub keeps it: the table for its images, then the one that it loads."""
    h5py = pytest.importorskip("h5py")
    draw = np.random.default_rng(3).standard_normal
    own = draw((1, own_rows, 10)).astype("f4")
    with h5py.File(file, "w") as target:
        group = target.create_group("layers/dinov2_embedding")
        group["patch_embeddings/projection/vars/0"] = draw((4, 4, 3, 10)).astype("f4")
        group["patch_embeddings/projection/vars/1"] = draw(10).astype("f4")
        group["vars/0"] = draw((1, 1, 10)).astype("f4")
        group["vars/1"] = draw((1, 10)).astype("f4")
        group["vars/2"] = (
            own if rows == own_rows and not stale else draw((1, rows, 10)).astype("f4")
        )
        group["vars/3"] = own


def test_of_two_tables_the_one_for_the_images_is_read(tmp_path):
    of_keras_hub(tmp_path / "a.weights.h5", 10, 17)
    told = inspect_checkpoint(tmp_path / "a.weights.h5")
    assert (told["dialect"], told["spec"]["grid"]) == ("keras-hub-dinov2", [3, 3])
    assert "makes them anew" in " ".join(told["candidates"][0]["evidence"])


@pytest.mark.parametrize("stale", [False, True])
def test_a_copy_with_other_values_is_told(tmp_path, stale):
    of_keras_hub(tmp_path / "a.weights.h5", 17, 17, stale)
    told = inspect_checkpoint(tmp_path / "a.weights.h5", prove=True)
    assert told["spec"]["grid"] == [4, 4]
    assert [("vars/2 holds other positions than" in note) for note in told["notes"]] == [
        True
    ] * stale


def test_positions_of_rows_and_columns_are_cut_to_the_image(tmp_path):
    random = np.random.default_rng(8).standard_normal
    held = {
        "to_patch_embedding.0.gamma": random(48),
        "to_patch_embedding.0.beta": random(48),
        "to_patch_embedding.1.weight": random((8, 48)),
        "to_patch_embedding.1.bias": random(8),
        "to_patch_embedding.2.gamma": random(8),
        "to_patch_embedding.2.beta": random(8),
        "pos_embed_height": random((4, 8)),
        "pos_embed_width": random((5, 8)),
    }
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    whole, part = images(16, 20), images(16, 20)[..., :8, :12]
    with pytest.warns(UserWarning, match="the patch is assumed to be square, 4×4 of 3 channels"):
        of_whole, of_part = (embed(tmp_path / "a.safetensors", each) for each in (whole, part))
    np.testing.assert_allclose(of_part.reshape(2, 2, 3, 8), of_whole.reshape(2, 4, 5, 8)[:, :2, :3])


def test_the_same_tensors_with_another_padding_are_no_same_stage(tmp_path):
    pytest.importorskip("transformers")
    model, _ = sam2()
    for name, padding in (("a", 3), ("b", 2)):
        model.save_pretrained(tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(
            json.dumps({**json.loads(file.read_text()), "patch_padding": [padding] * 2})
        )
    assert verify(tmp_path / "a", tmp_path / "a", prove=False).same
    found = verify(tmp_path / "a", tmp_path / "b", prove=False)
    assert not found.same
    assert (
        "the first has padding ((3, 3), (3, 3)), the second ((2, 2), (2, 2))" in found.explanation
    )


def test_registers_and_class_tokens_together_are_held_against_the_configuration(tmp_path):
    model, _ = radio()
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_registers": 4}))
    told = inspect_checkpoint(tmp_path)["refused"]
    assert "tells 7 cls tokens and registers, and the file holds 10" in told
