"""Checkpoints at another size: `port`, `embed` and `verify` with a recipe, against what
transformers, timm and KerasHub do by themselves."""

import json

import numpy as np
import pytest

import patchparity as pp
from patchparity.porting.dialects.catalogue import list_dialects

from ..census.stand_in import import_library
from .torchvision_beside import run_beside_torchvision

# of pixels that are in no patch, and of assumptions
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RANDOM = np.random.default_rng(8)
TINY = {
    "hidden_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
}


def randomized(model):
    """Tables as large as the tokens, so that another rule is no rounding; no two values alike."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "position" in name or "pos_embed" in name:
                parameter.copy_(torch.from_numpy(RANDOM.standard_normal(parameter.shape)))
    return model.eval()


def transformers_models():
    """Class, configuration, the recipe of its library and where its embeddings are."""
    transformers = pytest.importorskip("transformers")
    return {
        "hf-vit": (transformers.ViTModel, transformers.ViTConfig, "transformers-vit"),
        "hf-deit": (transformers.DeiTModel, transformers.DeiTConfig, "transformers-deit"),
        "hf-dinov2": (
            transformers.Dinov2Model,
            transformers.Dinov2Config,
            "transformers-dinov2",
        ),
        "registers": (
            transformers.Dinov2WithRegistersModel,
            transformers.Dinov2WithRegistersConfig,
            "transformers-dinov2-registers",
        ),
        "hf-clip": (
            transformers.CLIPVisionModel,
            transformers.CLIPVisionConfig,
            "transformers-clip",
        ),
        "hf-siglip": (
            transformers.SiglipVisionModel,
            transformers.SiglipVisionConfig,
            "transformers-siglip",
        ),
        "hf-beit": (transformers.BeitModel, transformers.BeitConfig, "transformers-beit"),
    }


def embedded(model, images):
    """What a model of transformers feeds its first block."""
    torch = pytest.importorskip("torch")
    caught = []

    def catch(module, arguments, named):
        caught.append(arguments[0] if arguments else named["hidden_states"])

    blocks = next(
        each
        for name, each in model.named_modules()
        if name.endswith(("layer.0", "layers.0")) and "head" not in name
    )
    handle = blocks.register_forward_pre_hook(catch, with_kwargs=True)
    options = {"interpolate_pos_encoding": True}
    try:
        with torch.no_grad():
            try:
                model(torch.from_numpy(images), **options)
            except TypeError:
                model(torch.from_numpy(images))
    finally:
        handle.remove()
    return caught[0].numpy()


def near(ours, theirs):
    """A float32 implementation beside ours: `resize_bound` of bicubic between these grids is 2.9e-5
    of the largest value, antialiased 5.1e-5."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "which", ["hf-vit", "hf-deit", "hf-dinov2", "registers", "hf-clip", "hf-siglip", "hf-beit"]
)
@pytest.mark.parametrize("size", [(518, 518), (384, 256), (112, 160)])
def test_a_checkpoint_of_transformers_is_resized_as_transformers_does(which, size, tmp_path):
    kind, config, recipe = transformers_models()[which]
    more = {"use_absolute_position_embeddings": True} if which == "hf-beit" else {}
    model = randomized(kind(config(image_size=224, patch_size=16, **TINY, **more)))
    model.save_pretrained(tmp_path / "model")
    images = RANDOM.standard_normal((2, 3, *size)).astype(np.float32)
    theirs = embedded(model, images)
    near(pp.embed(tmp_path / "model", images, resample=recipe), theirs)
    target = tmp_path / "resized.safetensors"
    # whose libraries take every table for one of a square
    square = which in ("hf-dinov2", "registers", "hf-beit")
    to = "timm-vit" if square else which
    report = pp.port(tmp_path / "model", target, to, image_size=size, resample=recipe)
    assert report.ok
    assert any(step.startswith(f"positions: 14×14 to {size[0] // 16}×") for step in report.steps)
    assert any(check.name == f"positions by {recipe}" for check in report.checks)
    size = tuple(side // 16 * 16 for side in size)
    near(pp.embed(target, images[..., : size[0], : size[1]], image_size=size), theirs)
    # without the recipe it is refused, and its library's own is named
    with pytest.raises(pp.PatchParityError, match=f"its library's own is {recipe}: cubic"):
        pp.port(tmp_path / "model", target, to, image_size=size)
    with pytest.raises(pp.PatchParityError, match=f"its library's own is {recipe}: cubic"):
        pp.embed(tmp_path / "model", images)


@pytest.mark.parametrize("size", [(518, 518), (384, 256)])
@pytest.mark.parametrize("name", ["vit_small_patch16_224", "deit3_small_patch16_224"])
def test_a_checkpoint_of_timm_is_resized_as_timm_does(name, size, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    try:
        timm = import_library("timm")
    except ModuleNotFoundError:
        pytest.skip("timm is not installed")
    from safetensors.torch import save_file

    made = {"embed_dim": 48, "depth": 1, "num_heads": 2}
    options = {**made, "num_classes": 0}
    model = randomized(timm.create_model(name, **options))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    told = {"architecture": name, "model_args": made}
    told["pretrained_cfg"] = {"input_size": [3, 224, 224]}  # as files of the hub have it
    (tmp_path / "config.json").write_text(json.dumps(told))
    size = tuple(side // 16 * 16 for side in size)
    larger = timm.create_model(name, img_size=size, **options)
    module = import_library("timm.models.vision_transformer")
    larger.load_state_dict(module.checkpoint_filter_fn(model.state_dict(), larger))
    images = RANDOM.standard_normal((2, 3, *size)).astype(np.float32)
    with torch.no_grad():
        theirs = larger._pos_embed(larger.patch_embed(torch.from_numpy(images))).numpy()
    near(pp.embed(tmp_path / "model.safetensors", images, resample="timm"), theirs)
    target = tmp_path / "hf.safetensors"
    report = pp.port(
        tmp_path / "model.safetensors", target, "timm-vit", image_size=size, resample="timm"
    )
    assert report.ok
    near(pp.embed(target, images, image_size=size), theirs)


def test_kernels_and_channels_are_timms_own(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        layers = import_library("timm.layers")
        adapt = import_library("timm.models._manipulate").adapt_input_conv
    except ModuleNotFoundError:
        pytest.skip("timm is not installed")
    model = randomized(
        transformers.ViTModel(transformers.ViTConfig(image_size=48, patch_size=8, **TINY))
    )
    model.save_pretrained(tmp_path / "model")
    kernel = model.embeddings.patch_embeddings.projection.weight.detach()
    report = pp.port(
        tmp_path / "model",
        tmp_path / "other.safetensors",
        "timm-vit",
        image_size=72,
        patch_size=12,
        in_channels=1,
        resample=["pi-timm-bicubic-antialias", "timm"],
    )
    expected = layers.resample_patch_embed(adapt(1, kernel), [12, 12]).numpy()
    from safetensors.numpy import load_file

    held = load_file(tmp_path / "other.safetensors")
    near(held["patch_embed.proj.weight"], expected)
    # the grid is the same, and so its positions stay to the bit
    table = model.embeddings.position_embeddings.detach().numpy()
    np.testing.assert_array_equal(held["pos_embed"], table)
    kinds = [step.partition(":")[0] for step in report.steps]
    assert kinds[:2] == ["channels", "kernel"]
    assert "positions" not in kinds
    assert torch.is_tensor(kernel)


def test_a_checkpoint_of_keras_hub_is_resized_as_keras_hub_does(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    import keras

    backend = keras.backend.backend()
    options = {
        "patch_size": 14,
        "num_layers": 1,
        "hidden_dim": 24,
        "num_heads": 2,
        "intermediate_dim": 16,
        "layer_scale_init_value": 1.0,
        "num_register_tokens": 0,
        "use_mask_token": False,
        "use_swiglu_ffn": False,
        "dropout_rate": 0.0,
        "drop_path_rate": 0.0,
        "image_shape": (70, 70, 3),
        "position_embedding_shape": (70, 70, 3),
    }
    model = keras_hub.models.DINOV2Backbone(**options)
    layer = model.embeddings
    table = RANDOM.standard_normal(layer.position_embeddings.shape).astype(np.float32)
    layer.position_embeddings.assign(table)
    theirs = layer._interpolate_position_embeddings(
        layer.position_embeddings, 14, (70, 70), (126, 70)
    )
    ours = pp.resize_positions(
        table[0], (5, 5), (9, 5), prefix_rows=1, recipe=f"keras-hub-dinov2-{backend}"
    )
    near(ours, np.asarray(theirs)[0])
    assert f"keras-hub-dinov2-{backend}" in list_dialects()["keras-hub-dinov2"].resample


def test_verify_names_the_recipe_and_takes_one(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = randomized(
        transformers.ViTModel(transformers.ViTConfig(image_size=64, patch_size=2, **TINY))
    )
    model.save_pretrained(tmp_path / "model")
    for name, recipe in (("timm", "timm"), ("google", "scipy-zoom-1")):
        pp.port(
            tmp_path / "model",
            tmp_path / f"{name}.safetensors",
            "timm-vit",
            image_size=32,
            resample=recipe,
        )
    first, timm, google = (
        tmp_path / name for name in ("model", "timm.safetensors", "google.safetensors")
    )
    without = pp.verify(first, timm)
    assert not without.same
    assert "resized by torch-bicubic-antialias: cubic with a = −0.5" in without.explanation
    assert pp.verify(first, timm, resample="timm").same
    wrong = pp.verify(first, timm, resample="transformers-vit")
    assert not wrong.same
    assert "resized by torch-bicubic-antialias: cubic" in wrong.explanation
    zeros = pp.verify(first, google)
    assert "resized by scipy-zoom-1: linear, corners aligned" in zeros.explanation
    assert pp.verify(first, google, resample="google-vit").same


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"image_size": 48, "resample": "timn"}, "did you mean timm"),
        ({"resample": "timm"}, "timm: to which size.*--image-size"),
        ({"patch_size": 4, "resample": "timm"}, "nothing says how kernels are resized"),
        (
            {"image_size": 48, "resample": "pi-timm-bicubic"},
            "nothing says how positions are resized .--resample: its library's own is transformers",
        ),
        ({"in_channels": 1, "resample": "mae"}, "nothing says how channels are resized"),
        ({"image_size": 48, "resample": ["timm", "mae"]}, "timm and mae both resize positions"),
        ({"image_size": 4, "resample": "timm"}, "axis 0 is 4 with padding"),
        ({"image_size": (48, 32), "resample": "torchvision"}, "torchvision knows square grids"),
        ({"in_channels": 2, "resample": "timm", "patch_size": 4}, "nothing says how kernels"),
    ],
)
def test_what_cannot_be_resized_is_one_sentence(told, message, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTModel(transformers.ViTConfig(image_size=64, patch_size=8, **TINY))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(pp.PatchParityError, match=message):
        pp.port(tmp_path / "model", tmp_path / "other.safetensors", "timm-vit", **told)
    assert not (tmp_path / "other.safetensors").exists()


def test_a_table_that_the_library_made_is_the_same_within_its_bound(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    from safetensors.torch import load_file, save_file

    model = randomized(
        transformers.ViTModel(transformers.ViTConfig(image_size=64, patch_size=8, **TINY))
    )
    model.save_pretrained(tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    (name,) = [each for each in state if each.endswith("position_embeddings")]
    table = state[name][0]
    grid = table[1:].reshape(8, 8, -1).permute(2, 0, 1)[None]
    made = torch.nn.functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True)
    rows = made[0].permute(1, 2, 0).reshape(36, -1)
    state[name] = torch.cat([table[:1], rows])[None].contiguous()
    save_file(state, tmp_path / "theirs.safetensors")
    first, second = tmp_path / "model", tmp_path / "theirs.safetensors"
    same = pp.verify(first, second, resample="timm")
    assert same.same
    assert "within the bound of timm" in str(same)
    assert not pp.verify(first, second, resample="transformers-vit").same
    # another class token is no rounding
    other = dict(state)
    token = next(each for each in state if each.endswith("cls_token"))
    other[token] = state[token] + 1
    save_file(other, tmp_path / "other.safetensors")
    assert not pp.verify(first, tmp_path / "other.safetensors", resample="timm").same


def test_a_model_type_has_its_own_recipe(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.DPTConfig(
        image_size=64, patch_size=8, backbone_out_indices=[0], neck_hidden_sizes=[8], **TINY
    )
    model = randomized(transformers.DPTModel(config))
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(pp.PatchParityError, match="its library's own is torch-bilinear: linear"):
        pp.port(tmp_path / "model", tmp_path / "x.safetensors", "timm-vit", image_size=96)
    images = RANDOM.standard_normal((1, 3, 96, 80)).astype(np.float32)
    theirs = embedded(model, images)
    near(pp.embed(tmp_path / "model", images, resample="torch-bilinear"), theirs)


def test_what_is_resized_is_rounded_once_to_the_type_that_is_asked(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("safetensors")
    from safetensors.numpy import load_file

    model = randomized(
        transformers.ViTModel(transformers.ViTConfig(image_size=64, patch_size=8, **TINY))
    ).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    told = {"image_size": 96, "resample": "timm", "dtype": "float32"}
    pp.port(tmp_path / "model", tmp_path / "wide.safetensors", "timm-vit", **told)
    table = model.embeddings.position_embeddings[0].detach().float().numpy()
    expected = pp.resize_positions(table, (8, 8), (12, 12), prefix_rows=1, recipe="timm")
    made = load_file(tmp_path / "wide.safetensors")["pos_embed"][0]
    np.testing.assert_allclose(made, expected, rtol=2e-7, atol=1e-7)
    # one column, which torch itself gets wrong where channels do not lie together
    told["image_size"] = (16, 8)
    assert pp.port(tmp_path / "model", tmp_path / "one.safetensors", "timm-vit", **told).ok


def test_functions_of_libraries_resize_tables_the_same():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    try:
        layers = import_library("timm.layers")
    except ModuleNotFoundError:
        pytest.skip("timm is not installed")
    table = RANDOM.standard_normal((36, 20)).astype(np.float32)
    grid = torch.from_numpy(table.reshape(6, 6, 20))
    # SigLIP 2: each image's own grid, padded to as many rows as the longest has
    siglip2 = transformers.models.siglip2.modeling_siglip2.Siglip2VisionEmbeddings
    shapes = torch.tensor([[10, 14], [5, 3]])
    theirs = siglip2.resize_positional_embeddings(grid, shapes, 150).numpy()
    for row, (height, width) in zip(theirs, shapes.tolist(), strict=True):
        ours = pp.resize_positions(table, (6, 6), (height, width), recipe="transformers-siglip2")
        near(ours, row[: height * width])
    # Qwen3-VL: corners aligned, tokens in blocks of 2×2
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights

    from patchparity.reference.sequence import merge_block_order

    indices, weights = get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, 10, 14]]),
        6,
        mode="bilinear",
        align_corners=True,
        spatial_merge_size=2,
    )
    theirs = (torch.from_numpy(table)[indices] * weights[..., None]).sum(1).numpy()
    ours = pp.resize_positions(table, (6, 6), (10, 14), recipe="transformers-qwen3-vl")
    near(ours[merge_block_order((10, 14))], theirs)
    # timm, with a class token and on a grid
    whole = np.concatenate([RANDOM.standard_normal((1, 20)).astype(np.float32), table])
    theirs = layers.resample_abs_pos_embed(
        torch.from_numpy(whole)[None], [9, 4], num_prefix_tokens=1
    )
    near(
        pp.resize_positions(whole, (6, 6), (9, 4), prefix_rows=1, recipe="timm"), theirs[0].numpy()
    )
    theirs = layers.resample_abs_pos_embed(
        torch.from_numpy(whole)[None],
        [9, 9],
        num_prefix_tokens=1,
        interpolation="bilinear",
        antialias=False,
    )
    ours = pp.resize_positions(whole, (6, 6), (9, 9), prefix_rows=1, recipe="timm-npz")
    near(ours, theirs[0].numpy())
    theirs = layers.resample_abs_pos_embed_nhwc(grid[None], [9, 4]).numpy()
    ours = pp.resize_positions(table, (6, 6), (9, 4), recipe="timm-nhwc")
    near(ours, theirs.reshape(36, 20))


def test_torchvision_resizes_its_own_table_the_same():
    pytest.importorskip("torch")
    printed = run_beside_torchvision("tests.porting.torchvision_table")
    assert float(printed.strip().splitlines()[-1]) < 1e-5


def test_images_of_several_sizes_are_packed_as_navit_packs_them(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    try:
        navit = import_library("vit_pytorch.na_vit")
    except ModuleNotFoundError:
        pytest.skip("vit-pytorch is not installed")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = navit.NaViT(
        image_size=64, patch_size=8, num_classes=2, dim=24, depth=1, heads=2, mlp_dim=16, channels=3
    ).eval()
    caught = []
    model.transformer.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    images = [
        RANDOM.standard_normal((3, height, width)).astype(np.float32)
        for height, width in ((32, 48), (64, 16), (8, 64))
    ]
    with torch.no_grad():
        model([[torch.from_numpy(image) for image in images]])
    packed = pp.embed_packed(tmp_path / "model.safetensors", images, patch_size=8)
    assert packed.grids.tolist() == [[4, 6], [8, 2], [1, 8]]
    assert packed.lengths.tolist() == [24, 16, 8]
    near(packed.sequence, caught[0][0].numpy())
    with pytest.raises(pp.PatchParityError, match="no images to pack"):
        pp.embed_packed(tmp_path / "model.safetensors", [])


def test_packed_images_of_a_resized_table_are_each_resized_by_themselves(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = randomized(
        transformers.ViTModel(transformers.ViTConfig(image_size=64, patch_size=8, **TINY))
    )
    model.save_pretrained(tmp_path / "model")
    images = [
        RANDOM.standard_normal((3, height, width)).astype(np.float32)
        for height, width in ((96, 40), (48, 48))
    ]
    packed = pp.embed_packed(tmp_path / "model", images, resample="transformers-vit")
    theirs = np.concatenate([embedded(model, image[None])[0] for image in images])
    near(packed.sequence, theirs)
    assert packed.lengths.tolist() == [61, 37]
