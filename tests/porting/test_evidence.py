"""Every tensor accounted for; evidence that contradicts is refused; what nothing tells is asked."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from patchparity import (
    PatchEmbedSpec,
    PatchParityError,
    Sizes,
    embed,
    from_module,
    initialize_weights,
    inspect_checkpoint,
    port,
    save_weights,
    verify,
)
from patchparity.porting.dialects import evidence
from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.files.opening import opened

from .test_dialects import written

GENERATOR = np.random.default_rng(11)
D, C, P = 24, 3, 8


def rows(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def vit(**changes):
    """A small ViT as transformers saves it; a change of None leaves a tensor out."""
    held = {
        "embeddings.patch_embeddings.projection.weight": rows(D, C, P, P),
        "embeddings.patch_embeddings.projection.bias": rows(D),
        "embeddings.cls_token": rows(1, 1, D),
        "embeddings.position_embeddings": rows(1, 17, D),
        "encoder.layer.0.attention.attention.query.weight": rows(D, D),
        "layernorm.weight": rows(D),
        **changes,
    }
    return {name: value for name, value in held.items() if value is not None}


def folder_of(path, tensors, config=None, metadata=None):
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors", metadata)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    return path


def statuses(told):
    return {each["name"]: each["status"] for each in told["ledger"]["tensors"]}


IMAGES = rows(2, C, 4 * P, 4 * P)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("embeddings.time_embeddings", (4, D)),
        ("embeddings.patch_embeddings.norm.weight", (D,)),
        ("embeddings.pos_embed_x", (1, 4, D)),
        ("embeddings.token_type_embeddings.weight", (2, D)),
        ("extra_position_table", (17, D)),
        ("norm_pre.weight", (D,)),
    ],
)
def test_a_tensor_that_nothing_explains_is_refused_with_its_name_and_shape(name, shape, tmp_path):
    file = folder_of(tmp_path / "m", vit(**{name: rows(*shape)}))
    for call in (
        lambda: embed(file, IMAGES),
        lambda: port(file, tmp_path / "out.safetensors", "timm-vit"),
        lambda: verify(file, file),
    ):
        with pytest.raises(PatchParityError, match=f"nothing of hf-vit explains {name}") as raised:
            call()
        assert str(shape)[1:-1].split(",")[0] in str(raised.value)
    told = inspect_checkpoint(file)
    assert told["refused"]
    assert statuses(told)[name] == "unexplained"
    ignored = inspect_checkpoint(file, ignore=[name])
    assert not ignored["refused"]
    assert statuses(ignored)[name] == "ignored"
    assert embed(file, IMAGES, ignore=[name]).shape == (2, 17, D)


def test_the_ledger_holds_every_tensor_of_the_stage_once(tmp_path):
    ledger = inspect_checkpoint(folder_of(tmp_path / "m", vit()))
    assert {
        name: status for name, status in statuses(ledger).items() if name.startswith("embeddings.")
    } == {
        "embeddings.patch_embeddings.projection.weight": "used",
        "embeddings.patch_embeddings.projection.bias": "used",
        "embeddings.cls_token": "used",
        "embeddings.position_embeddings": "used",
    }


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "swin"}, "calls the model 'swin'"),
        ({"model_type": "vit", "num_channels": 4}, "tells channels 4"),
        ({"model_type": "vit", "patch_size": 14}, "tells patch 14"),
        ({"model_type": "vit", "image_size": 224}, "224"),
    ],
)
def test_a_configuration_that_contradicts_is_refused_and_both_sides_are_named(
    config, told, tmp_path
):
    file = folder_of(tmp_path / "m", vit(), config)
    with pytest.raises(PatchParityError, match=told) as raised:
        embed(file, IMAGES)
    assert "config.json" in str(raised.value)
    if told != "224":  # positions that fit no such image are an error of `inspect` too
        assert inspect_checkpoint(file)["refused"]


def test_a_model_type_that_nobody_knows_is_told_and_no_contradiction(tmp_path):
    file = folder_of(tmp_path / "m", vit(), {"model_type": "a-model-of-mine"})
    told = inspect_checkpoint(file)
    assert not told["refused"]
    assert "a-model-of-mine" in json.dumps(told["candidates"])


def test_a_configuration_that_cannot_be_read_is_no_silence(tmp_path):
    file = folder_of(tmp_path / "m", vit())
    (file / "config.json").write_text("{")
    with pytest.raises(PatchParityError, match=r"config\.json"):
        inspect_checkpoint(file)


def test_what_a_user_says_is_held_against_the_tensors(tmp_path):
    file = folder_of(tmp_path / "m", vit())
    for sizes in (Sizes.told(patch_size=16), Sizes.told(in_channels=4), Sizes.told(image_size=64)):
        with pytest.raises(PatchParityError):
            embed(file, IMAGES, sizes=sizes)


@pytest.mark.parametrize("kernel", [5, 7, 9])
def test_the_stride_of_a_small_odd_kernel_is_asked(kernel, tmp_path):
    """As PVT v2, Hiera and EdgeNeXt have them: no tensor tells it."""
    tensors = {
        "stem.0.weight": rows(D, C, kernel, kernel),
        "stem.0.bias": rows(D),
        "stem.1.weight": rows(D),
        "stem.1.bias": rows(D),
    }
    file = folder_of(tmp_path / "m", tensors)
    with pytest.raises(
        PatchParityError,
        match=f"kernel is {kernel}×{kernel}, and no tensor tells the stride: --stride",
    ):
        embed(file, IMAGES)
    assert inspect_checkpoint(file)["asks"]
    told = Sizes.told(stride=4, padding=kernel // 2)
    with pytest.warns(UserWarning, match="ε of its norms is taken for 1e-06"):
        assert embed(file, IMAGES, sizes=told).shape == (2, 64, D)


def test_from_module_takes_a_stride_with_positions():
    tree = vit(**{"embeddings.position_embeddings": rows(1, 50, D)})
    _, spec = from_module(tree, stride=4, image_size=32)
    assert (spec.stride, spec.grid) == ((4, 4), (7, 7))


@pytest.mark.filterwarnings("ignore:of images of")
def test_mlx_s_layout_is_told_by_metadata_by_channels_or_asked(tmp_path):
    kernel = rows(D, C, P, P)
    mlx = np.ascontiguousarray(kernel.transpose(0, 2, 3, 1))
    name = "embeddings.patch_embeddings.projection.weight"
    expected = embed(
        folder_of(tmp_path / "t", vit(**{name: kernel}) | (shared := vit(**{name: None}))), IMAGES
    )
    for place, metadata in (("channels", None), ("metadata", {"format": "mlx"})):
        file = folder_of(tmp_path / place, shared | {name: mlx}, None, metadata)
        assert inspect_checkpoint(file)["dialect"] == "hf-vit-mlx"
        np.testing.assert_allclose(embed(file, IMAGES), expected, atol=1e-5)
    with pytest.raises(PatchParityError):
        embed(
            folder_of(tmp_path / "contradiction", shared | {name: mlx}, None, {"format": "pt"}),
            IMAGES,
        )
    # eight channels and eight pixels: nothing tells
    cube = folder_of(tmp_path / "cube", shared | {name: rows(D, P, P, P)})
    with pytest.raises(PatchParityError, match="ambiguous"):
        embed(cube, rows(2, P, 4 * P, 4 * P))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: name.replace("patch_embeddings.", "patch_embeddings._orig_mod."),
        lambda name: name.replace(
            "embeddings.patch", "embeddings._checkpoint_wrapped_module.patch"
        ),
        lambda name: f"module.{name}",
        lambda name: name.replace("projection.", "projection.base_layer."),
        lambda name: name.replace("projection.", "projection.modules_to_save.default."),
    ],
)
def test_wrappers_inside_a_name_are_unwrapped(wrap, tmp_path):
    plain = vit()
    file = folder_of(tmp_path / "w", {wrap(name): value for name, value in plain.items()})
    assert (embed(file, IMAGES) == embed(folder_of(tmp_path / "p", plain), IMAGES)).all()


def test_an_adapter_on_the_kernel_must_be_merged_first(tmp_path):
    held = {
        name.replace("projection.", "projection.base_layer."): value
        for name, value in vit().items()
    }
    held["embeddings.patch_embeddings.projection.lora_A.default.weight"] = rows(4, C, P, P)
    held["embeddings.patch_embeddings.projection.lora_B.default.weight"] = rows(D, 4, 1, 1)
    with pytest.raises(PatchParityError, match="merge it first"):
        embed(folder_of(tmp_path / "m", held), IMAGES)


def test_code_of_a_configuration_is_named_and_never_run(tmp_path):
    file = folder_of(
        tmp_path / "m",
        vit(),
        {"model_type": "vit", "image_size": 32, "auto_map": {"AutoModel": "evil.Model"}},
    )
    (file / "evil.py").write_text("raise SystemExit('run')")
    proof = inspect_checkpoint(file, prove=True)["proof"]
    assert proof["verdict"] == "skip"
    assert "never run" in proof["message"]


def test_the_windows_of_qwen2_5_vl_are_in_the_order_of_tokens():
    from patchparity.reference.sequence import merge_block_order

    order = merge_block_order((6, 8), 4)
    assert sorted(order) == list(range(48))
    grid = np.stack(np.divmod(order, 8), 1)
    windows = [tuple(place) for place in grid // 4]
    assert [place for at, place in enumerate(windows) if at == 0 or windows[at - 1] != place] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert (merge_block_order((6, 8)) != order).any()


def test_the_proof_is_the_library_s_own_model(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    config = {
        "model_type": "vit",
        "image_size": 32,
        "patch_size": P,
        "hidden_size": D,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    file = folder_of(tmp_path / "m", vit(), config)
    proof = inspect_checkpoint(file, prove=True)["proof"]
    assert (proof["verdict"], "ViTModel" in proof["message"]) == ("pass", True)
    name = "embeddings.patch_embeddings.projection.weight"
    tensors = vit()
    tensors[name] = np.ascontiguousarray(tensors[name].transpose(0, 2, 3, 1))
    told = inspect_checkpoint(
        folder_of(tmp_path / "mlx", tensors, config, {"format": "mlx"}), prove=True
    )
    assert (told["dialect"], told["proof"]["verdict"]) == ("hf-vit-mlx", "pass")
    alone = folder_of(tmp_path / "alone", vit())
    assert inspect_checkpoint(alone, prove=True)["proof"]["message"].startswith(
        "not proved against the library: no config.json"
    )


def test_a_stride_that_the_configuration_contradicts_is_refused(tmp_path):
    tensors = {
        "encoder.patch_embeddings.0.proj.weight": rows(D, C, 7, 7),
        "encoder.patch_embeddings.0.proj.bias": rows(D),
        "encoder.patch_embeddings.0.layer_norm.weight": rows(D),
        "encoder.patch_embeddings.0.layer_norm.bias": rows(D),
    }
    file = folder_of(
        tmp_path / "m",
        tensors,
        {"model_type": "segformer", "strides": [4, 2, 2, 2], "patch_sizes": [7, 3, 3, 3]},
    )
    assert embed(file, IMAGES).shape == (2, 64, D)
    with pytest.raises(PatchParityError, match="tells stride 4×4, and 2"):
        embed(file, IMAGES, sizes=Sizes.told(stride=2))
    bare = folder_of(tmp_path / "bare", tensors)
    with pytest.raises(PatchParityError, match="no tensor tells the stride"):
        embed(bare, IMAGES)
    assert (embed(bare, IMAGES, sizes=Sizes.told(stride=4)) == embed(file, IMAGES)).all()


def test_what_is_ignored_must_be_there(tmp_path):
    with pytest.raises(PatchParityError, match="holds no tensor gate that could be ignored"):
        embed(
            folder_of(tmp_path / "m", vit(**{"embeddings.gate": rows(D)})), IMAGES, ignore=["gate"]
        )


def test_a_model_that_no_dialect_reads_is_told_why(tmp_path):
    tensors = {"stem.conv1.weight": rows(16, 3, 3, 3), "head.linear.weight": rows(7, D)}
    folder = folder_of(tmp_path / "one", tensors, {"architecture": "efficientformer_l1"})
    told = (
        "read by no dialect: config.json calls the model 'efficientformer_l1', and its tokens "
        "come out of several convolutions"
    )
    with pytest.raises(PatchParityError, match=f"{told}.*--prefix 'stem.conv1.'"):
        embed(folder, rows(1, 3, 16, 16))
    assert told in inspect_checkpoint(folder)["refused"]


def test_reasons_are_of_models_that_are_known_and_that_no_dialect_reads():
    types, _ = evidence._known_names()
    of_dialects = {name for dialect in list_dialects().values() for name in dialect.model_types}
    for each in evidence._known()["reasons"]:
        assert each["told"]
        # of transformers 4
        assert not set(each.get("model_types", ())) - types - {"efficientformer"}
        # read where it has no positions in time
        assert not set(each.get("model_types", ())) & of_dialects - {"timesformer"}
        for pattern in each.get("architectures", ()):
            re.compile(pattern)


def test_only_layers_that_may_be_patches_are_named(tmp_path):
    """Of a language model's matrices none is offered as a patch embedding."""
    tensors = {
        "model.embed_tokens.weight": rows(100, D),
        "model.layers.0.mlp.down_proj.weight": rows(D, 48),
    }
    with pytest.raises(PatchParityError, match="no dialect that is known") as raised:
        embed(folder_of(tmp_path / "words", tensors), rows(1, 3, 16, 16))
    assert "embed_tokens" not in str(raised.value)


def test_ids_tell_the_row_of_each_position(tmp_path):
    h5py = pytest.importorskip("h5py")

    def written(name, ids):
        with h5py.File(tmp_path / name, "w") as file:
            file["layers/sig_lip_vision_embedding/patch_embedding/vars/0"] = kernel
            file["layers/sig_lip_vision_embedding/patch_embedding/vars/1"] = bias
            file["layers/sig_lip_vision_embedding/position_embedding/vars/0"] = positions
            file["layers/sig_lip_vision_embedding/vars/0"] = np.array([ids], np.int32)
        return tmp_path / name

    kernel, bias, positions = rows(P, P, C, D), rows(D), rows(4, D)
    images = rows(2, C, 2 * P, 2 * P)
    order = [3, 0, 0, 2]
    same, moved = (
        embed(written(f"{name}.weights.h5", ids), images)
        for name, ids in (("a", range(4)), ("b", order))
    )
    np.testing.assert_allclose(
        moved - same, np.broadcast_to(positions[order] - positions, same.shape), atol=1e-12
    )
    with pytest.raises(PatchParityError, match="names rows beyond the 4 of the positions"):
        embed(written("c.weights.h5", [0, 1, 2, 4]), images)


def written_as(name, folder, **config):
    """A file of a dialect with random weights, and a config.json with some values changed."""
    path, weights, spec = written(list_dialects()[name], folder)
    if config:
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**told, **config}))
    return path, weights, spec


@pytest.mark.parametrize(
    ("name", "config", "told"),
    [
        (
            "hf-hiera",
            {"depths": [1, 1, 1]},
            r"len\(depths\) is 3, and hf-hiera needs len\(depths\) == 4",
        ),
        (
            "hf-hiera",
            {"query_stride": [4, 4]},
            "query_stride is .4, 4., and hf-hiera needs query_stride",
        ),
        (
            "timm-hiera",
            {"model_args": {"stages": [1, 1], "q_pool": 1}},
            r"len\(stages\) is 2, and timm-hiera needs len\(stages\) == 4",
        ),
        ("hf-yolos", {"num_detection_tokens": 8}, "tells 8 detection tokens, and the file holds 2"),
        ("hf-fuyu", {"patch_size": 12}, "tells patch 12×12, and vision_embed_tokens.weight"),
    ],
)
def test_what_a_dialect_assumes_is_held_against_the_configuration(name, config, told, tmp_path):
    path, _, _ = written_as(name, tmp_path, **config)
    with pytest.raises(PatchParityError, match=told):
        port(path, tmp_path / "out.safetensors", "timm-vit", prove=False)


def test_a_padding_that_a_dialect_always_has_is_not_overruled(tmp_path):
    name = "timm-mvitv2"
    path, _, spec = written_as(name, tmp_path)
    images = rows(1, *spec.images_shape(1)[1:])
    with pytest.raises(PatchParityError, match=f"{name} has padding 3×3, and 1×1 was told"):
        embed(path, images, from_=name, sizes=Sizes.told(padding=1))


def test_stages_are_no_layers_of_a_plain_encoder(tmp_path):
    """A Hiera without its configuration has the embeddings of an I-JEPA, and orders its tokens
    otherwise."""
    held = vit(**{"embeddings.cls_token": None, "embeddings.position_embeddings": rows(1, 16, D)})
    held = {name: value for name, value in held.items() if not name.startswith("encoder")}
    held["encoder.stages.0.layers.0.attn.qkv.weight"] = rows(3 * D, D)
    folder = folder_of(tmp_path / "bare", held)
    with pytest.raises(
        PatchParityError,
        match=r"nothing of hf-ijepa explains encoder.stages.0.layers.0.attn.qkv.weight",
    ) as raised:
        embed(folder, rows(1, C, 4 * P, 4 * P))
    assert "where it is one of these, --from says so: hf-hiera" in str(raised.value)


def test_one_shard_of_several_is_no_layer_alone(tmp_path):
    path = tmp_path / "model-00002-of-00003.safetensors"
    save_file({"patch.weight": rows(D, C, P, P)}, path)
    with pytest.raises(
        PatchParityError,
        match="one of several shards, and what else belongs to the stage may be in another",
    ):
        embed(path, rows(1, C, 2 * P, 2 * P))
    told = inspect_checkpoint(path)
    assert told["dialect"] is None
    assert "one of several shards" in told["refused"]


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        ("embeddings.register_tokens", "register_tokens may be in another"),
        ("embeddings.patch_embeddings.projection.bias", "bias may be in another"),
        ("embeddings.cls_token", "may be in another"),
        ("embeddings.mask_token", None),
    ],
)
def test_one_shard_of_several_is_read_only_where_it_holds_the_whole_stage(
    absent, expected, tmp_path
):
    """What a shard does not hold another may: a file without register tokens would be read as a
    model without them."""
    held = vit(**{"embeddings.register_tokens": rows(1, 2, D), absent: None})
    path = folder_of(tmp_path, held, {"model_type": "dinov2_with_registers"})
    shard = path / "model-00001-of-00002.safetensors"
    next(path.glob("*.safetensors")).rename(shard)
    told = inspect_checkpoint(shard)
    if expected is None:
        assert told["dialect"] == "hf-dinov2"
        assert not told["refused"]
        return
    assert expected in told["refused"]
    with pytest.raises(PatchParityError, match="one of several shards"):
        embed(shard, rows(1, C, 4 * P, 4 * P))


def test_a_file_of_keras_before_3_is_called_that(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "tf_model.h5"
    with h5py.File(path, "w") as file:
        layer = file.create_group("vit/tf_vit_model/vit/embeddings/patch_embeddings/projection")
        layer["kernel:0"], layer["bias:0"] = rows(P, P, C, D), rows(D)
        file["my/own/mixer/kernel:0"] = rows(D, D)
    assert "as Keras wrote it before 3" in inspect_checkpoint(path)["refused"]
    with pytest.raises(PatchParityError, match="as Keras wrote it before 3"):
        embed(path, rows(1, C, 2 * P, 2 * P))


@pytest.mark.parametrize(("name", "square"), [("hf-dinov2", True), ("hf-vit", False)])
def test_positions_that_a_library_resizes_are_refused(name, square, tmp_path):
    """DINOv2 takes 16 positions for 4×4, and resizes them to the 2×8 patches that its configuration
    tells; ViT adds them as they are."""
    model_type = {"hf-dinov2": "dinov2", "hf-vit": "vit"}[name]
    held = vit(**({"embeddings.register_tokens": rows(1, 2, D)} if square else {}))
    folder = folder_of(
        tmp_path / "one",
        held,
        {"model_type": model_type, "image_size": [2 * P, 8 * P], "patch_size": P},
    )
    images = rows(1, C, 2 * P, 8 * P)
    if not square:
        assert embed(folder, images).shape == (1, 17, D)
        return
    with pytest.raises(
        PatchParityError,
        match=r"takes embeddings.position_embeddings for positions of a square, and resizes them "
        r"at run time to 2×8",
    ):
        embed(folder, images)


def test_the_class_that_a_configuration_names_is_the_proof(tmp_path):
    """Hiera's backbone leaves its tokens in the order of the image, its model unrolls them."""
    path, _, _ = written_as("hf-hiera", tmp_path, architectures=["HieraBackbone"])
    with pytest.raises(
        PatchParityError,
        match='architectures is "HieraBackbone", and hf-hiera needs architectures != HieraBackbone',
    ):
        port(path, tmp_path / "out.safetensors", "timm-vit", prove=False)


def test_a_token_of_no_values_is_none(tmp_path):
    """vit-pytorch's ViT that averages keeps a class token of no rows."""
    path, _, spec = written_as("lucidrains", tmp_path)
    with opened(path) as checkpoint:
        held = {name: checkpoint.read(name) for name in checkpoint.tensors}
    held["cls_token"] = np.zeros((0, D), np.float32)
    held["pos_embedding"] = held["pos_embedding"][1:]
    save_file(
        {name: np.ascontiguousarray(value) for name, value in held.items()},
        tmp_path / "mean.safetensors",
    )
    found = embed(
        tmp_path / "mean.safetensors",
        rows(2, *spec.images_shape(1)[1:]),
        sizes=Sizes.told(spec.patch_size),
    )
    assert found.shape == (2, spec.num_patches, D)


def test_the_stride_of_an_odd_layer_alone_is_asked_too(tmp_path):
    """As a refusal advises: the layer alone, whose stride no tensor tells either."""
    folder = folder_of(
        tmp_path / "one",
        {"stem.weight": rows(D, C, 7, 7), "head.weight": rows(5, D)},
        {"num_channels": C},
    )
    with pytest.raises(
        PatchParityError,
        match="its kernel is 7×7, and no tensor tells the stride: --stride says it",
    ):
        embed(folder, rows(1, C, 28, 28), from_="oihw", prefix="stem.")
    told = Sizes.told(stride=4, padding=3)
    assert embed(folder, rows(1, C, 28, 28), from_="oihw", prefix="stem.", sizes=told).shape == (
        1,
        49,
        D,
    )
    with pytest.raises(
        PatchParityError, match=r"tells channels 3, and stem.weight .*, read as D Ph Pw C, has 7"
    ):
        embed(folder, rows(1, C, 28, 28), from_="ohwi", prefix="stem.", sizes=told)


def test_a_second_stage_whose_positions_fit_no_grid_is_told(tmp_path):
    tensors = {
        f"{tower}.{name}": value for tower in ("first", "second") for name, value in vit().items()
    }
    name = next(
        name for name in tensors if name.startswith("second") and "position_embeddings" in name
    )
    tensors[name] = np.concatenate([tensors[name]] * 2, axis=1)[:, :-3]
    folder = folder_of(tmp_path, tensors)
    for read in (inspect_checkpoint, lambda path: embed(path, np.zeros((1, 3, 24, 24)))):
        with pytest.raises(
            PatchParityError,
            match=r"under 'first\.'.* and hf-vit under 'second\.' too, whose .* no square grid",
        ):
            read(folder)
    assert inspect_checkpoint(folder, prefix="first.")["dialect"] == "hf-vit"


def test_a_size_that_a_user_and_the_configuration_tell_otherwise_is_refused(tmp_path):
    tensors = vit()
    key = next(name for name in tensors if "position_embeddings" in name)
    tensors[key] = rows(1, 7, tensors[key].shape[-1])
    side = tensors[next(name for name in tensors if name.endswith("projection.weight"))].shape[-1]
    folder = folder_of(
        tmp_path,
        tensors,
        {"model_type": "vit", "image_size": [2 * side, 3 * side], "patch_size": side},
    )
    assert inspect_checkpoint(folder)["spec"]["grid"] == [2, 3]
    told = inspect_checkpoint(folder, sizes=Sizes.told(image_size=(3 * side, 2 * side)))
    assert (
        f"config.json tells images of {2 * side}×{3 * side}, and {3 * side}×{2 * side} was told"
        in told["refused"]
    )


def test_a_quantized_kernel_is_called_so(tmp_path):
    tensors = vit()
    key = next(name for name in tensors if name.endswith("projection.weight"))
    tensors[key] = np.ones(tensors[key].shape, np.int8)
    with pytest.raises(PatchParityError, match="is of dtype int8, quantized: dequantize it first"):
        embed(folder_of(tmp_path / "a", tensors), np.zeros((1, 3, 24, 24)))
    tensors[key.replace("weight", "weight_scale")] = rows(len(tensors[key]))
    assert "is quantized (" in inspect_checkpoint(folder_of(tmp_path / "b", tensors))["refused"]


def test_the_stride_of_the_configuration_is_asked_of_a_layer_alone(tmp_path):
    random = np.random.default_rng(1)
    config = {
        "model_type": "audio-spectrogram-transformer",
        "frequency_stride": 10,
        "time_stride": 10,
        "patch_size": 16,
    }
    folder = folder_of(
        tmp_path,
        {"p.weight": random.standard_normal((8, 1, 16, 16)), "p.bias": random.standard_normal(8)},
        config,
    )
    told = inspect_checkpoint(folder, from_="oihw")
    assert "config.json tells stride 10×10, and the kernel is 16×16" in told["asks"][0]
    assert not inspect_checkpoint(folder, from_="oihw", sizes=Sizes.told(stride=16))["asks"]


def test_a_hint_names_only_what_would_read_it(tmp_path):
    random = np.random.default_rng(1).standard_normal
    np.savez(tmp_path / "w.npz", kernel=random((48, 3, 8, 8)), bias=random(48))
    with pytest.raises(PatchParityError, match="in no dialect that is known") as raised:
        embed(tmp_path / "w.npz", rows(1, 3, 16, 16))
    assert "flax-conv" not in str(raised.value)


def test_weights_of_our_own_format_are_called_so(tmp_path):
    spec = PatchEmbedSpec((16, 24), 8, 3, 10)
    save_weights(tmp_path / "w.safetensors", initialize_weights(spec, seed=0), spec)
    with pytest.raises(PatchParityError, match="holds weights as patchparity keeps them"):
        embed(tmp_path / "w.safetensors", rows(1, 3, 16, 24))


@pytest.mark.parametrize("channels", [1, 3])
def test_an_npz_of_torch_s_layout_is_not_taken_for_mlx(channels, tmp_path):
    tensors = {
        "patch_embed.proj.weight": rows(64, channels, 16, 16),
        "patch_embed.proj.bias": rows(64),
        "cls_token": rows(1, 1, 64),
        "pos_embed": rows(1, 197, 64),
    }
    np.savez(tmp_path / "a.npz", **tensors)
    assert inspect_checkpoint(tmp_path / "a.npz")["dialect"] == "timm-vit"
    mlx = {**tensors, "patch_embed.proj.weight": rows(64, 16, 16, channels)}
    np.savez(tmp_path / "b.npz", **mlx)
    assert inspect_checkpoint(tmp_path / "b.npz")["dialect"] == "timm-vit-mlx"
    both = {**tensors, "patch_embed.proj.weight": rows(64, 4, 4, 4)}
    np.savez(tmp_path / "c.npz", **both)
    assert inspect_checkpoint(tmp_path / "c.npz")["rivals"] == ["timm-vit", "timm-vit-mlx"]


@pytest.mark.parametrize("name", ["mean", "model_std", "input.pixel_mean"])
def test_what_images_are_normalized_with_beside_a_model_is_not_left_out(name, tmp_path):
    """A wrapper that does that before the model: its own numbers lie beside the model's tensors."""
    tensors = {
        "m.patch_embed.proj.weight": rows(64, 3, 16, 16),
        "m.patch_embed.proj.bias": rows(64),
        "m.cls_token": rows(1, 1, 64),
        "m.pos_embed": rows(1, 197, 64),
    }
    save_file({**tensors, name: rows(1, 3, 1, 1)}, tmp_path / "a.safetensors")
    refused = inspect_checkpoint(tmp_path / "a.safetensors")["refused"]
    assert f"explains {name} (1, 3, 1, 1)" in refused
    told = inspect_checkpoint(tmp_path / "a.safetensors", ignore=[name])
    assert told["dialect"] == "timm-vit"
    save_file({**tensors, name: rows(64)}, tmp_path / "b.safetensors")
    assert inspect_checkpoint(tmp_path / "b.safetensors")["dialect"] == "timm-vit"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("image_size", value) for value in ("x", "32", -1, 0, 32.5, True, [], {}, [32, "a"])),
        *(("patch_size", value) for value in ("x", -8, 0, 8.5, [0, 8], 10**12)),
        *(("num_channels", value) for value in ("x", -3, 3.5, [], [0])),
        *(("layer_norm_eps", value) for value in ("x", -1e-6, [1e-6], True)),
        ("hidden_size", "x"),
        ("num_register_tokens", -1),
        ("model_type", 5),
    ],
)
def test_what_no_library_would_build_a_model_of_is_no_evidence(key, value, tmp_path):
    """`null` is what transformers writes of what is not said."""
    config = {"model_type": "vit", "image_size": 32, "patch_size": P, key: value}
    file = folder_of(tmp_path / "m", vit(), config)
    for call in (lambda: embed(file, IMAGES), lambda: inspect_checkpoint(file)):
        with pytest.raises(PatchParityError, match=re.escape(f"says that {key} is ")):
            call()
    folder_of(tmp_path / "m", vit(), {**config, key: None})
    assert embed(file, IMAGES).shape == (2, 17, D)


def test_an_epsilon_of_zero_is_one(tmp_path):
    """CLIP takes its ε from config.json; transformers writes 0 as it was given."""
    held = {
        "embeddings.patch_embedding.weight": rows(D, C, P, P),
        "embeddings.class_embedding": rows(D),
        "embeddings.position_embedding.weight": rows(17, D),
        "pre_layrnorm.weight": rows(D),
        "pre_layrnorm.bias": rows(D),
    }
    said = {"model_type": "clip_vision_model", "image_size": 32, "patch_size": P}
    file = folder_of(tmp_path / "m", held, {**said, "layer_norm_eps": 0})
    tiny, usual = embed(file, IMAGES * 1e-3), None
    folder_of(tmp_path / "m", held, said)
    usual = embed(file, IMAGES * 1e-3)
    assert np.abs(tiny - usual).max() > 0
