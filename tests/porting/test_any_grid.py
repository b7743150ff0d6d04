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


def images(height, width, channels=3):
    return np.random.default_rng(2).standard_normal((2, channels, height, width)).astype(np.float32)


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
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


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


def with_stem(seed=1, activation=True):
    """VOLO's names: three convolutions with batch norms, then patches of 4."""
    random = np.random.default_rng(seed)
    held = {"network.0.0.norm1.weight": random.standard_normal(10)}
    channels = 3
    for place, (side, width) in enumerate([(7, 4), (3, 4), (3, 4)]):
        at = 3 * place
        held[f"patch_embed.conv.{at}.weight"] = random.standard_normal(
            (width, channels, side, side)
        )
        for part in ("weight", "bias", "running_mean"):
            held[f"patch_embed.conv.{at + 1}.{part}"] = random.standard_normal(width)
        held[f"patch_embed.conv.{at + 1}.running_var"] = random.uniform(0.5, 2, width)
        held[f"patch_embed.conv.{at + 1}.num_batches_tracked"] = np.array(7)
        channels = width
    held["patch_embed.proj.weight"] = random.standard_normal((10, 4, 4, 4))
    held["patch_embed.proj.bias"] = random.standard_normal(10)
    return held


def test_a_stem_is_run_before_the_projection(tmp_path):
    torch = pytest.importorskip("torch")
    held = with_stem()
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    modules, channels = [], 3
    for side, stride in ((7, 2), (3, 1), (3, 1)):
        convolution = torch.nn.Conv2d(channels, 4, side, stride, side // 2, bias=False)
        modules += [convolution, torch.nn.BatchNorm2d(4), torch.nn.ReLU()]
        channels = 4
    model = torch.nn.ModuleDict(
        {"conv": torch.nn.Sequential(*modules), "proj": torch.nn.Conv2d(4, 10, 4, 4)}
    ).double()
    named = {
        name.removeprefix("patch_embed."): torch.tensor(value)
        for name, value in held.items()
        if "patch" in name
    }
    model.load_state_dict(named)
    model.eval()
    pictures = images(40, 26)
    expected = (
        model["proj"](model["conv"](torch.from_numpy(pictures).double()))
        .flatten(2)
        .transpose(1, 2)
        .detach()
        .numpy()
    )
    np.testing.assert_allclose(
        embed(tmp_path / "a.safetensors", pictures), expected, atol=1e-9 * np.abs(expected).max()
    )
    told = inspect_checkpoint(tmp_path / "a.safetensors")
    assert (told["dialect"], told["spec"]["in_channels"], len(told["spec"]["stem"])) == (
        "timm-volo",
        3,
        3,
    )


def test_a_stem_is_not_left_behind(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", with_stem(), {"format": "pt"})
    with pytest.raises(
        PatchParityError,
        match=r"3 convolutions in front of its projection.*--from oihw --prefix "
        r"'patch_embed.proj.'",
    ):
        port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "timm-vit")
    assert not (tmp_path / "b.safetensors").exists()


def test_stems_are_compared(tmp_path):
    held = with_stem()
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    write_safetensors(tmp_path / "b.safetensors", held, {"format": "pt"})
    assert verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors").same
    held["patch_embed.conv.4.running_var"] *= 1.01
    write_safetensors(tmp_path / "b.safetensors", held, {"format": "pt"})
    found = verify(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not found.same
    assert "convolution 2 in front of the projection differs" in found.explanation


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("patch_embed.conv.3.weight", (4, 5, 3, 3)),
        ("patch_embed.conv.4.bias", (3,)),
        ("patch_embed.conv.6.weight", (4, 4, 3, 2)),
        ("patch_embed.conv.0.weight", (4, 3)),
    ],
)
def test_a_stem_whose_parts_do_not_fit_is_refused(tmp_path, name, shape):
    held = {**with_stem(), name: np.ones(shape)}
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    with pytest.raises(PatchParityError):
        embed(tmp_path / "a.safetensors", images(40, 26))


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


def test_a_batch_norm_behind_the_projection_is_ported_in_kernel_and_bias(tmp_path):
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(4)
    held = {
        f"patch_embed.norm.{part}": random.standard_normal(10)
        for part in ("weight", "bias", "running_mean")
    }
    held |= {
        "patch_embed.norm.running_var": random.uniform(0.5, 2, 10),
        "patch_embed.norm.num_batches_tracked": np.array(3),
    }
    held |= {
        "patch_embed.proj.weight": random.standard_normal((10, 3, 4, 4)),
        "stages.0.blocks.0.mlp.fc1.weight": np.ones((4, 4)),
    }
    write_safetensors(tmp_path / "a.safetensors", held, {"format": "pt"})
    report = port(tmp_path / "a.safetensors", tmp_path / "b.safetensors", "oihw")
    assert report.ok
    assert report.source == "timm-fasternet"
    pictures = images(12, 20)
    convolved = torch.nn.functional.conv2d(
        torch.from_numpy(pictures).double(),
        torch.from_numpy(held["patch_embed.proj.weight"]),
        None,
        4,
    )
    parts = [
        torch.from_numpy(held[f"patch_embed.norm.{part}"])
        for part in ("running_mean", "running_var", "weight", "bias")
    ]
    expected = (
        torch.nn.functional.batch_norm(convolved, *parts, eps=1e-5)
        .flatten(2)
        .transpose(1, 2)
        .numpy()
    )
    for name in ("a", "b"):
        found = embed(tmp_path / f"{name}.safetensors", pictures, to="tokens")
        np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())


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
    of_whole, of_part = (embed(tmp_path / "a.safetensors", each) for each in (whole, part))
    np.testing.assert_allclose(of_part.reshape(2, 2, 3, 8), of_whole.reshape(2, 4, 5, 8)[:, :2, :3])
