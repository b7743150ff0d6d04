"""A config.json that tells another model than the file holds: the library's own model has tensors
that the file lacks, or has them in another shape."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify
from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.embed import read_for_images, told_parts

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = dict(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=32
)


def saved(folder, model, without=(), **changed):
    """A model of transformers as it is saved, some tensors left out, its config.json changed."""
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {
        name: np.asarray(
            0.3 * np.random.default_rng(list(name.encode())).standard_normal(array.shape), "f4"
        )
        for name, array in tensors.items()
        if not any(part in name for part in without)
    }
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changed}))
    return folder


def vit(**options):
    return transformers.ViTModel(transformers.ViTConfig(patch_size=8, **{**SMALL, **options}))


def dpt():
    config = transformers.DPTConfig(
        patch_size=8, backbone_out_indices=[0] * 4, neck_hidden_sizes=[8] * 4, **SMALL
    )
    return transformers.DPTModel(config)


@pytest.mark.parametrize(
    ("make", "lacking"),
    [(vit, "position_embeddings"), (vit, "projection.bias"), (dpt, "position_embeddings")],
)
def test_a_tensor_that_the_model_has_and_the_file_lacks_is_no_pass(make, lacking, tmp_path):
    folder = saved(tmp_path / "m", make(), without=[lacking])
    refused = inspect_checkpoint(folder)["refused"]
    assert "which has " in refused
    assert f"{lacking} is not there" in refused
    proof = inspect_checkpoint(folder, from_="hf-vit", prove=True)["proof"]
    assert proof["verdict"] == "fail"
    assert f"{lacking}, and the file does not" in proof["message"]
    with pytest.raises(PatchParityError, match=f"{lacking}, and the file does not"):
        port(folder, tmp_path / "a.safetensors", "timm-vit", from_="hf-vit")


def test_a_tensor_that_the_file_has_and_the_model_lacks_is_no_pass(tmp_path):
    """DINOv2 beside DINOv2 with registers, which have the same names."""
    folder = saved(
        tmp_path / "m",
        transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(patch_size=8, **SMALL)
        ),
        model_type="dinov2",
        architectures=["Dinov2Model"],
    )
    refused = inspect_checkpoint(folder)["refused"]
    assert "has no register tokens, and the file holds embeddings.register_tokens" in refused
    proof = inspect_checkpoint(folder, from_="hf-dinov2", prove=True)["proof"]
    assert proof["verdict"] == "fail"
    words = "has no place for embeddings.register_tokens, and the file has it"
    assert words in proof["message"]
    with pytest.raises(PatchParityError, match=words):
        port(folder, tmp_path / "a.safetensors", "timm-vit", from_="hf-dinov2")


@pytest.mark.parametrize("config", [True, False])
def test_a_class_token_in_cvt_s_first_stage_is_refused(config, tmp_path):
    lists = dict(
        embed_dim=[16, 32],
        depth=[2, 2],
        num_heads=[1, 1],
        patch_sizes=[7, 3],
        patch_stride=[4, 2],
        patch_padding=[2, 1],
        mlp_ratio=[2.0, 2.0],
        kernel_qkv=[3, 3],
        padding_kv=[1, 1],
        stride_kv=[2, 2],
        padding_q=[1, 1],
        stride_q=[1, 1],
        qkv_bias=[True, True],
        qkv_projection_method=["dw_bn", "dw_bn"],
        **{f"{name}_rate": [0.0, 0.0] for name in ("attention_drop", "drop", "drop_path")},
    )
    plain = {} if config else {"stride": (4, 4), "padding": (2, 2)}
    for first, name in ((True, "with"), (False, "without")):
        made = transformers.CvtModel(transformers.CvtConfig(cls_token=[first, True], **lists))
        folder = saved(tmp_path / name, made)
        if not config:
            (folder / "config.json").unlink()
        images = np.zeros((1, 3, 32, 32), np.float32)
        if first:
            with pytest.raises(PatchParityError, match=r"stages\.0\.cls_token \(1, 1, 32\)"):
                embed(folder, images, sizes=Sizes.told(**plain))
        else:
            assert embed(folder, images, sizes=Sizes.told(**plain)).shape == (1, 64, 16)


def test_embed_says_what_is_not_there(tmp_path):
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    for lacking, words in (
        ("projection.bias", "projection.bias is not there: no bias is added"),
        ("position_embeddings", "position_embeddings is not there: no positions are added"),
    ):
        folder = saved(tmp_path / lacking, vit(), without=[lacking])
        (told,) = told_parts(read_for_images(folder, images, from_="hf-vit").stage)
        assert words in told


def test_positions_without_a_row_for_the_class_token_are_no_vit_s(tmp_path):
    folder = saved(tmp_path / "m", vit())
    tensors = load_file(folder / "model.safetensors")
    rows = tensors["embeddings.position_embeddings"]
    tensors["embeddings.position_embeddings"] = np.ascontiguousarray(rows[:, 1:])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PatchParityError, match="its 16 positions are not of an image of 32×32"):
        embed(folder, np.zeros((1, 3, 32, 32), np.float32))


def test_a_shape_that_config_json_tells_otherwise_is_no_pass(tmp_path):
    config = transformers.FocalNetConfig(
        image_size=32,
        patch_size=4,
        embed_dim=16,
        depths=[1, 1],
        focal_levels=[1, 1],
        focal_windows=[3, 3],
    )
    folder = saved(tmp_path / "m", transformers.FocalNetModel(config), use_conv_embed=True)
    proof = inspect_checkpoint(folder, prove=True)["proof"]
    assert proof["verdict"] == "fail"
    assert "of shape (16, 3, 7, 7), and the file has (16, 3, 4, 4)" in proof["message"]


def test_a_model_inside_a_wrapper_is_proved_too(tmp_path):
    folder = saved(tmp_path / "m", vit())
    tensors = load_file(folder / "model.safetensors")
    wrapped = {
        name.replace("patch_embeddings.", "patch_embeddings._fsdp_wrapped_module."): array
        for name, array in tensors.items()
    }
    save_file(wrapped, folder / "model.safetensors", {"format": "pt"})
    assert inspect_checkpoint(folder, prove=True)["proof"]["verdict"] == "pass"


def test_a_bias_that_one_of_two_lacks_is_said(tmp_path):
    whole = saved(tmp_path / "a", vit())
    bare = saved(tmp_path / "b", vit(), without=["projection.bias"])
    (bare / "config.json").unlink()
    explanation = verify(whole, bare).explanation
    assert "the kernels agree, and bias does not (the second has none" in explanation


def test_a_port_says_what_it_leaves_to_the_model_that_loads_it(tmp_path):
    bare = saved(tmp_path / "b", vit(), without=["position_embeddings", "projection.bias"])
    (bare / "config.json").unlink()
    done = port(bare, tmp_path / "o.safetensors", "timm-vit", from_="hf-vit")
    assert any(
        step.startswith("without bias and positions, as the source: a model of timm-vit that has")
        for step in done.steps
    )


def test_a_place_whose_tensor_has_another_shape_is_named(tmp_path):
    source = saved(tmp_path / "a", vit())
    place = saved(
        tmp_path / "b",
        transformers.Dinov2Model(
            transformers.Dinov2Config(patch_size=8, **{**SMALL, "num_hidden_layers": 1})
        ),
    )
    with pytest.raises(PatchParityError, match=r"mask_token is of shape \(1, 32\), not \(1 1 D\)"):
        port(source, tmp_path / "o.safetensors", "hf-vit", into=place / "model.safetensors")


def drawn(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_a_table_of_a_square_is_read_for_no_other_grid(tmp_path):
    """Qwen3-VL resizes its table to every grid; as many tokens in another shape took its rows as
    they lie."""
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLConfig

    sizes = dict(hidden_size=32, num_heads=2, intermediate_size=32, out_hidden_size=32)
    told = dict(depth=1, patch_size=8, deepstack_visual_indexes=[0], num_position_embeddings=16)
    torch = pytest.importorskip("torch")
    config = Qwen3VLConfig(vision_config={**sizes, **told}).vision_config
    model = transformers.Qwen3VLVisionModel(config)
    torch.nn.init.normal_(model.pos_embed.weight)
    model.save_pretrained(tmp_path)
    assert embed(tmp_path, drawn(1, 3, 2, 32, 32)).shape == (1, 16, 32)
    for shape in ((1, 3, 2, 16, 64), (1, 3, 2, 64, 16), (1, 3, 8, 16, 16), (1, 3, 4, 32, 32)):
        with pytest.raises(PatchParityError, match=r"for positions of a square|are not of"):
            embed(tmp_path, drawn(*shape))
    assert inspect_checkpoint(tmp_path, prove=True)["proof"]["verdict"] == "pass"


def test_what_stands_before_the_first_block_is_not_left_out(tmp_path):
    """timm's ConvNeXt of patches of 2 has a norm and a convolution between the stem and the first
    block."""
    stem = {"stem.0.weight": drawn(8, 3, 2, 2), "stem.0.bias": drawn(8)}
    stem |= {"stem.1.weight": drawn(8), "stem.1.bias": drawn(8)}
    first = {
        "stages.0.downsample.0.weight": drawn(8),
        "stages.0.downsample.0.bias": drawn(8),
        "stages.0.downsample.1.weight": drawn(8, 8, 2, 2),
        "stages.0.downsample.1.bias": drawn(8),
        "stages.0.blocks.0.conv_dw.weight": drawn(8, 1, 7, 7),
        "stages.0.blocks.0.gamma": drawn(8),
    }
    save_file({**stem, **first}, tmp_path / "model.safetensors")
    with pytest.raises(PatchParityError, match=r"stages\.0\.downsample\.0\.weight"):
        embed(tmp_path / "model.safetensors", drawn(1, 3, 16, 16), from_="timm-convnext")


def test_a_model_that_nobody_knows_is_told_where_it_is_run(tmp_path):
    folder = saved(tmp_path / "m", vit(), model_type="my_vit", architectures=["MyViT"])
    read = read_for_images(folder, drawn(1, 3, 32, 32))
    assert any(
        "my_vit, which is not known to be of hf-vit" in said for said in told_parts(read.stage)
    )
    assert not told_parts(read_for_images(saved(tmp_path / "n", vit()), drawn(1, 3, 32, 32)).stage)
