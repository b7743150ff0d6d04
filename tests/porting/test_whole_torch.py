"""Whole models of torch's libraries, each moved and then run by the target's own class, loaded as
the report says: the same outputs."""

import json

import numpy as np
import pytest

from patchparity.porting.whole.port import port_whole
from patchparity.reference.errors import PatchParityError

from ..census.stand_in import import_library

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ..reference.test_encoder_libraries import grown  # noqa: E402

RELATIVE = 1e-6
"""Of the root mean square: eight times the unit roundoff of float32 and more."""

D, HEADS, M, DEPTH = 24, 3, 48, 2
SIZES = dict(hidden_size=D, num_attention_heads=HEADS, num_hidden_layers=DEPTH, intermediate_size=M)
WIDE = dict(**SIZES, patch_size=8, image_size=(24, 32))
SQUARE = dict(**SIZES, patch_size=8, image_size=32)
TIMM = dict(img_size=(24, 32), patch_size=8, embed_dim=D, num_heads=HEADS, depth=DEPTH, mlp_ratio=2)


def timm_or_skip():
    try:
        return import_library("timm")
    except ImportError:
        pytest.skip("timm is not installed")


def of_timm(name="vit_base_patch16_224", **arguments):
    timm = timm_or_skip()
    return grown(timm.create_model(name, **{"num_classes": 5, **TIMM, **arguments}))


def of_transformers(name, config, sizes, call=(), **arguments):
    kind = getattr(transformers, name)
    made = getattr(transformers, config)(**{**sizes, **arguments})
    return grown(kind(made, **dict(call)))


def saved(model, folder):
    if type(model).__module__.startswith("timm"):
        timm_or_skip().models._hub.save_for_hf(model, folder)
    else:
        model.save_pretrained(folder)
    return folder


def loaded(report):
    timm = import_library("timm") if "timm." in report.loads else None
    libraries = {"timm": timm, "transformers": transformers}
    return eval(report.loads, libraries).eval()


def size_of(model):
    if type(model).__module__.startswith("timm"):
        return model.patch_embed.img_size
    size = getattr(model.config, "vision_config", model.config).image_size
    return (size, size) if isinstance(size, int) else tuple(size)


THEIRS = {
    "last_hidden_state": "tokens",
    "pooler_output": "pooled",
    "logits": "output",
    "image_embeds": "output",
}
"""What transformers calls it."""


def answers(model, size):
    """What a model gives: tokens, what is pooled of them, and what a head makes of that."""
    shape = (2, 3, *size)
    images = torch.from_numpy(np.random.default_rng(5).normal(size=shape).astype("f4"))
    with torch.no_grad():
        if type(model).__module__.startswith("timm"):
            tokens = model.forward_features(images)
            given = {"tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}
            if model.num_classes:
                given["output"] = model.forward_head(tokens)
        else:
            given = {}
            for module in dict.fromkeys(
                (model.base_model if "For" in type(model).__name__ else model, model)
            ):
                got = module(images)
                given |= {ours: got[theirs] for theirs, ours in THEIRS.items() if theirs in got}
    return {name: held.numpy() for name, held in given.items()}


def apart(ours, theirs):
    assert ours.shape == theirs.shape
    ours, theirs = (np.asarray(each, np.float64) for each in (ours, theirs))
    return np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())


def require_same(before, after, size, names):
    ours, theirs = (answers(model, size) for model in (before, after))
    for name in names:
        assert apart(theirs[name], ours[name]) <= RELATIVE, name


def moved(model, tmp_path, *dialects, names, **options):
    """A model through these dialects, each run by its own library."""
    place = saved(model, tmp_path / "source")
    report = None
    for number, dialect in enumerate(dialects):
        report = port_whole(place, tmp_path / str(number), dialect, **options)
        require_same(model, loaded(report), size_of(model), names)
        place = tmp_path / str(number)
    return report


def refused(model, tmp_path, dialect, words, **options):
    place = saved(model, tmp_path / "source")
    with pytest.raises(PatchParityError, match=words):
        port_whole(place, tmp_path / "target", dialect, **options)


VIT = dict(layer_norm_eps=1e-6)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(), ("tokens", "output")),
        (dict(qkv_bias=False), ("tokens", "output")),
        (dict(act_layer="gelu_tanh"), ("tokens", "output")),
        (dict(act_layer="quick_gelu", num_classes=0), ("tokens",)),
        (dict(init_values=0.1), ("tokens", "output")),
        (dict(global_pool="", num_classes=0), ("tokens",)),
    ],
)
def test_timm_to_transformers_vit_and_back(tmp_path, arguments, names):
    model = of_timm(**arguments)
    moved(model, tmp_path, "hf-vit", "timm-vit", names=names)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(qk_norm=True),
        dict(global_pool="avg"),
        dict(global_pool="avg", fc_norm=False),
        dict(global_pool="avg", class_token=False),
        dict(global_pool="map"),
        dict(global_pool="map", class_token=False),
        dict(final_norm=False),
        dict(reg_tokens=2),
        dict(reg_tokens=2, no_embed_class=True),
        dict(no_embed_class=True),
        dict(init_values=0.1),
        dict(proj_bias=False),
        dict(qkv_bias=False, act_layer="silu"),
        dict(num_classes=0),
    ],
)
def test_timm_keeps_what_it_computes(tmp_path, arguments):
    model = of_timm(**arguments)
    moved(model, tmp_path, "timm-vit", names=("tokens", "pooled"))


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224"],
)
def test_timm_s_clip(tmp_path, name):
    model = of_timm(name, img_size=32, num_classes=7)
    # a projection has no bias
    torch.nn.init.zeros_(model.head.bias)
    moved(model, tmp_path, "hf-clip", "timm-clip", names=("output",))


def test_timm_s_swiglu(tmp_path):
    model = of_timm("vit_giant_patch14_reg4_dinov2", mlp_ratio=16 * 2 * 2 / 24)
    moved(model, tmp_path, "timm-vit", names=("tokens", "output"))


@pytest.mark.parametrize(
    ("name", "config", "sizes", "call", "arguments", "dialects", "names"),
    [
        ("ViTModel", "ViTConfig", WIDE, {}, {}, ["hf-vit"], ("tokens", "pooled")),
        ("ViTModel", "ViTConfig", WIDE, {}, dict(pooler_output_size=10), ["hf-vit"], ("pooled",)),
        (
            *("ViTModel", "ViTConfig", WIDE, dict(add_pooling_layer=False), VIT),
            *(["timm-vit", "hf-vit"], ("tokens",)),
        ),
        (
            *("ViTForImageClassification", "ViTConfig", WIDE, {}, dict(num_labels=4, **VIT)),
            *(["timm-vit", "hf-vit"], ("tokens", "output")),
        ),
        ("ViTMSNModel", "ViTMSNConfig", WIDE, {}, {}, ["timm-vit"], ("tokens",)),
        (
            *("ViTMSNForImageClassification", "ViTMSNConfig", WIDE, {}, dict(num_labels=4, **VIT)),
            *(["timm-vit", "hf-vit"], ("tokens", "output")),
        ),
        ("DeiTModel", "DeiTConfig", WIDE, {}, {}, ["hf-deit"], ("tokens", "pooled")),
        (
            *("DeiTForImageClassification", "DeiTConfig", WIDE, {}, dict(num_labels=4)),
            *(["hf-deit"], ("tokens", "output")),
        ),
        ("IJepaModel", "IJepaConfig", WIDE, {}, VIT, ["timm-vit", "hf-ijepa"], ("tokens",)),
        (
            *("IJepaForImageClassification", "IJepaConfig", WIDE, {}, dict(num_labels=4, **VIT)),
            *(["timm-vit", "hf-ijepa"], ("tokens", "output")),
        ),
        (
            *("Dinov2Model", "Dinov2Config", SQUARE, {}, dict(mlp_ratio=2)),
            *(["timm-vit", "hf-dinov2"], ("tokens", "pooled")),
        ),
        (
            *("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SQUARE, {}),
            *(dict(mlp_ratio=2, num_register_tokens=2), ["timm-vit", "hf-dinov2"], ("pooled",)),
        ),
        (
            *("Dinov2Model", "Dinov2Config", SQUARE, {}, dict(mlp_ratio=4, use_swiglu_ffn=True)),
            *(["timm-vit", "hf-dinov2"], ("tokens",)),
        ),
        (
            "DINOv3ViTModel",
            "DINOv3ViTConfig",
            WIDE,
            {},
            dict(num_register_tokens=1),
            ["timm-vit", "hf-dinov3"],
            ("tokens",),
        ),
        (
            *("DINOv3ViTModel", "DINOv3ViTConfig", WIDE, {}),
            *(dict(num_register_tokens=2, rope_theta=50.0, query_bias=False, value_bias=False),),
            *(["timm-vit", "hf-dinov3"], ("tokens", "pooled")),
        ),
        (
            *("DINOv3ViTModel", "DINOv3ViTConfig", WIDE, {}),
            *(dict(num_register_tokens=3, use_gated_mlp=True, hidden_act="silu"),),
            *(["timm-vit", "hf-dinov3"], ("tokens", "pooled")),
        ),
        (
            *(
                "DINOv3ViTModel",
                "DINOv3ViTConfig",
                WIDE,
                {},
                dict(key_bias=True, mlp_bias=False, num_register_tokens=1),
            ),
            *(["hf-dinov3"], ("tokens", "pooled")),
        ),
        (
            *("CLIPVisionModel", "CLIPVisionConfig", SQUARE, {}, dict(layer_norm_eps=1e-6)),
            *(["timm-clip", "hf-clip"], ("pooled",)),
        ),
        (
            *("CLIPVisionModel", "CLIPVisionConfig", SQUARE, {}, {}),
            *(["timm-clip", "hf-clip"], ("pooled",)),
        ),
        (
            *("CLIPVisionModelWithProjection", "CLIPVisionConfig", SQUARE, {}),
            *(dict(projection_dim=10, hidden_act="gelu"), ["timm-clip", "hf-clip"], ("output",)),
        ),
        (
            *("SiglipVisionModel", "SiglipVisionConfig", {**SQUARE}, {}, {}),
            *(["timm-vit", "hf-siglip"], ("tokens", "pooled")),
        ),
        (
            *("SiglipVisionModel", "SiglipVisionConfig", SQUARE, {}, dict(vision_use_head=False)),
            *(["timm-vit", "hf-siglip"], ("tokens",)),
        ),
    ],
)
def test_transformers(tmp_path, name, config, sizes, call, arguments, dialects, names):
    if "Dinov2" in name:
        sizes = {key: value for key, value in sizes.items() if key != "intermediate_size"}
    model = of_transformers(name, config, sizes, call, **arguments)
    moved(model, tmp_path, *dialects, names=names)


def test_a_clip_model_is_read_with_its_text_tower_left_out(tmp_path):
    vision = {**SQUARE, "projection_dim": 10}
    text = {**SIZES, "vocab_size": 30, "projection_dim": 10, "eos_token_id": 2, "bos_token_id": 1}
    config = transformers.CLIPConfig(
        vision_config=vision, text_config={**text, "pad_token_id": 0}, projection_dim=10
    )
    model = grown(transformers.CLIPModel(config))
    place = saved(model, tmp_path / "source")
    report = port_whole(place, tmp_path / "target", "timm-clip")
    assert any(name.startswith("text_model") for name in report.left)
    images = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 3, 32, 32)).astype("f4"))
    with torch.no_grad():
        ours = model.get_image_features(images).pooler_output
    theirs = answers(loaded(report), (32, 32))["output"]
    assert apart(theirs, ours.numpy()) <= RELATIVE


def test_a_siglip_model_is_read_with_its_text_tower_left_out(tmp_path):
    text = {**SIZES, "vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.SiglipConfig(vision_config=SQUARE, text_config=text)
    model = grown(transformers.SiglipModel(config))
    place = saved(model, tmp_path / "source")
    report = port_whole(place, tmp_path / "target", "timm-vit")
    assert any(name.startswith("text_model") for name in report.left)
    images = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 3, 32, 32)).astype("f4"))
    with torch.no_grad():
        ours = model.get_image_features(images).pooler_output
    theirs = answers(loaded(report), (32, 32))["pooled"]
    assert apart(theirs, ours.numpy()) <= RELATIVE


def test_names_of_transformers_4(tmp_path):
    from safetensors.numpy import load_file, save_file

    model = of_transformers("CLIPVisionModel", "CLIPVisionConfig", SQUARE)
    place = saved(model, tmp_path / "source")
    file = place / "model.safetensors"
    save_file({f"vision_model.{name}": held for name, held in load_file(file).items()}, file)
    report = port_whole(place, tmp_path / "target", "timm-clip")
    require_same(model, loaded(report), (32, 32), ("pooled",))


def test_a_state_dict_in_memory_s_names(tmp_path):
    model = of_transformers("ViTForImageClassification", "ViTConfig", WIDE, num_labels=4, **VIT)
    place = saved(model, tmp_path / "source")
    (place / "model.safetensors").unlink()
    torch.save(model.state_dict(), place / "pytorch_model.bin")
    report = port_whole(place / "pytorch_model.bin", tmp_path / "target", "timm-vit")
    require_same(model, loaded(report), (24, 32), ("tokens", "output"))


def test_the_encoder_of_mae(tmp_path):
    sizes = dict(decoder_num_hidden_layers=1, decoder_hidden_size=16, decoder_intermediate_size=20)
    config = transformers.ViTMAEConfig(
        **SQUARE, **sizes, decoder_num_attention_heads=2, mask_ratio=0.0, layer_norm_eps=1e-6
    )
    model = grown(transformers.ViTMAEForPreTraining(config))
    place = saved(model, tmp_path / "source")
    report = port_whole(place, tmp_path / "target", "timm-vit")
    assert [name.partition(":")[0] for name in report.left] == ["decoder"]
    images = torch.from_numpy(np.random.default_rng(5).normal(size=(2, 3, 32, 32)).astype("f4"))
    in_order = torch.arange(16.0).repeat(2, 1)
    with torch.no_grad():
        ours = model.vit(images, noise=in_order).last_hidden_state
        theirs = loaded(report).forward_features(images)
    assert apart(theirs.numpy(), ours.numpy()) <= RELATIVE


def test_heads_of_two_tokens_are_left_and_named(tmp_path):
    arguments = dict(num_labels=4, mlp_ratio=2)
    sizes = {key: value for key, value in SQUARE.items() if key != "intermediate_size"}
    model = of_transformers("Dinov2ForImageClassification", "Dinov2Config", sizes, **arguments)
    place = saved(model, tmp_path / "source")
    report = port_whole(place, tmp_path / "target", "timm-vit")
    assert any("classifier" in name for name in report.left)
    require_same(model, loaded(report), (32, 32), ("tokens",))


@pytest.mark.parametrize(
    ("name", "config", "arguments", "dialect", "words"),
    [
        ("ViTModel", "ViTConfig", {}, "timm-vit", "ε of the norms"),
        ("ViTModel", "ViTConfig", dict(pooler_act="relu", **VIT), "hf-vit", "pooler_act"),
        ("ViTModel", "ViTConfig", VIT, "timm-vit", "pooler"),
        ("BeitModel", "BeitConfig", {}, "timm-vit", "blocks"),
        ("Data2VecVisionModel", "Data2VecVisionConfig", {}, "timm-vit", "blocks|read as"),
        ("DINOv3ViTModel", "DINOv3ViTConfig", dict(num_register_tokens=1), "hf-dinov2", "rotary"),
        (
            *("DINOv3ViTModel", "DINOv3ViTConfig", dict(num_register_tokens=1, key_bias=True)),
            *("timm-vit", "key.bias"),
        ),
        (
            *("DINOv3ViTModel", "DINOv3ViTConfig"),
            *(dict(num_register_tokens=1, layer_norm_eps=1e-6), "timm-vit", "ε of the norms"),
        ),
        ("DeiTModel", "DeiTConfig", {}, "hf-vit", "distillation"),
    ],
)
def test_what_a_target_cannot_compute_is_refused(tmp_path, name, config, arguments, dialect, words):
    refused(of_transformers(name, config, SQUARE, **arguments), tmp_path, dialect, words)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_base_patch16_rpn_224", {}),
        ("vit_small_patch16_18x2_224", {}),
        ("vit_base_patch16_xp_224", {}),
        ("vit_dwee_patch16_reg1_gap_256", {}),
        ("vit_base_patch16_224", dict(block_fn="ResPostBlock")),
        ("vit_base_patch16_224", dict(norm_layer="rmsnorm")),
        ("vit_base_patch16_224", dict(norm_layer="layernorm")),
        ("vit_base_patch16_224", dict(global_pool="avgmax")),
        ("vit_base_patch16_224", dict(pool_include_prefix=True)),
        ("vit_base_patch16_224", dict(scale_attn_norm=True)),
        ("eva02_tiny_patch14_224", {}),
        ("beit_base_patch16_224", {}),
    ],
)
def test_models_of_timm_that_compute_otherwise_are_refused(tmp_path, name, arguments):
    timm = timm_or_skip()
    arguments = dict(arguments)
    words = ".*"
    if "block_fn" in arguments:
        arguments["block_fn"] = getattr(timm.models.vision_transformer, arguments["block_fn"])
    model = of_timm(name, **arguments)
    place = tmp_path / "source"
    place.mkdir()
    torch.save(model.state_dict(), place / "model.pth")
    config = {"architecture": f"{name}.tag", "num_classes": 5}
    config["model_args"] = {
        key: held if isinstance(held, int | float | str | bool) else str(held)
        for key, held in {**TIMM, "img_size": 32, **arguments}.items()
    }
    (place / "config.json").write_text(json.dumps(config))
    with pytest.raises(PatchParityError, match=words):
        port_whole(place / "model.pth", tmp_path / "target", "timm-vit")


def test_a_tower_s_configuration_without_a_kind_is_one_of_its_model_s(tmp_path):
    text = {**SIZES, "vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.SiglipConfig(vision_config=SQUARE, text_config=text)
    place = saved(grown(transformers.SiglipModel(config)), tmp_path / "source")
    table = json.loads((place / "config.json").read_text())
    del table["vision_config"]["model_type"]
    (place / "config.json").write_text(json.dumps(table))
    report = port_whole(place, tmp_path / "target", "timm-vit")
    assert f"number of attention heads {HEADS}" in "\n".join(report.semantics)


def test_what_timm_s_names_tell_is_what_timm_builds():
    timm_or_skip()
    from ...porting.encoders.load import list_named
    from .. import timm_models

    names = timm_models.names_of_timm()
    held = list_named("timm")
    assert set(held) <= set(names)
    for name in names[3::17]:
        model = timm_models.built(name)
        facts = None if model is None else timm_models.facts_of(model)
        assert held.get(name) == facts, name


def test_a_layout_has_a_place_for_each_tensor_of_the_blocks_that_timm_s_names_build():
    timm_or_skip()
    from ...porting.encoders.load import list_encoders, list_named
    from .. import timm_models

    for name, facts in list_named("timm").items():
        entries = list_encoders()[facts["of"]].entries
        places = {entry.name.replace("{n}", "0") for entry in entries}
        block = [each for each in timm_models.built(name).state_dict() if "blocks.0." in each]
        assert set(block) <= places, (name, sorted(set(block) - places))


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_base_patch16_gap_224",
        "vit_medium_patch16_reg4_gap_256",
        "vit_base_patch16_siglip_224",
        "vit_base_patch32_clip_quickgelu_224",
        "vit_small_patch16_dinov3_qkvb",
        "eva_giant_patch14_224",
    ],
)
def test_a_file_whose_configuration_says_the_name_alone(tmp_path, name):
    from safetensors.torch import save_file

    from ...porting.encoders.load import list_named

    heads = list_named("timm")[name]["num_heads"]
    size = 56 if "patch14" in name else 64
    arguments = dict(embed_dim=heads * 4, depth=DEPTH, num_classes=5, img_size=size)
    model = grown(timm_or_skip().create_model(name, **arguments))
    place = tmp_path / "source"
    place.mkdir()
    save_file(model.state_dict(), place / "model.safetensors")
    (place / "config.json").write_text(
        json.dumps(
            {"architecture": f"{name}.tag", "pretrained_cfg": {"input_size": [3, size, size]}}
        )
    )
    dialect = "timm-clip" if "clip" in name else "timm-vit"
    report = port_whole(place, tmp_path / "target", dialect)
    require_same(model, loaded(report), (size, size), ("tokens", "output"))


def test_norms_that_a_name_does_not_have_are_refused(tmp_path):
    model = of_timm(global_pool="avg")
    place = saved(model, tmp_path / "source")
    (place / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"}))
    with pytest.raises(PatchParityError, match="norm"):
        port_whole(place, tmp_path / "target", "timm-vit")


def test_what_timm_saved_as_pooled_otherwise_than_its_name_is_refused(tmp_path):
    model = of_timm(global_pool="avg", fc_norm=False, img_size=32)
    place = saved(model, tmp_path / "source")
    told = {"architecture": "vit_base_patch16_224", "global_pool": "avg"}
    told["pretrained_cfg"] = {"input_size": [3, 32, 32]}
    (place / "config.json").write_text(json.dumps(told))
    with pytest.raises(PatchParityError, match="global_pool"):
        port_whole(place, tmp_path / "target", "timm-vit")


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2_s_own_files_as_timm_reads_them(tmp_path, gated):
    timm = timm_or_skip()
    config = transformers.Dinov2WithRegistersConfig(
        **dict(hidden_size=128, num_attention_heads=2, num_hidden_layers=DEPTH, patch_size=8),
        **dict(image_size=32, mlp_ratio=2, num_register_tokens=3, use_swiglu_ffn=gated),
    )
    model = grown(transformers.Dinov2WithRegistersModel(config))
    port_whole(saved(model, tmp_path / "source"), tmp_path / "own", "dinov2")
    held = torch.load(tmp_path / "own" / "model.pth")
    name = "vit_giant_patch14_reg4_dinov2" if gated else "vit_base_patch14_reg4_dinov2"
    wide = held["blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    arguments = dict(embed_dim=128, depth=DEPTH, num_heads=2, img_size=32, patch_size=8)
    theirs = timm.create_model(
        name, **arguments, reg_tokens=3, mlp_ratio=wide / 128, num_classes=0, init_values=1.0
    ).eval()
    read = timm.models.vision_transformer.checkpoint_filter_fn(dict(held), theirs)
    theirs.load_state_dict(read)
    require_same(model, theirs, (32, 32), ("tokens", "pooled"))
    report = port_whole(tmp_path / "own" / "model.pth", tmp_path / "back", "hf-dinov2")
    require_same(model, loaded(report), (32, 32), ("tokens", "pooled"))


def test_mae_s_own_files(tmp_path):
    model = of_timm(img_size=32, num_classes=0)
    numbers = np.random.default_rng(0)
    decoder = {
        "decoder_embed.weight": (16, D),
        "decoder_embed.bias": (16,),
        "mask_token": (1, 1, 16),
        "decoder_pos_embed": (1, 17, 16),
        "decoder_blocks.0.attn.qkv.weight": (48, 16),
    }
    held = model.state_dict() | {
        name: torch.from_numpy(numbers.normal(size=shape).astype("f4"))
        for name, shape in decoder.items()
    }
    torch.save({"model": held}, tmp_path / "mae.pth")
    with pytest.raises(PatchParityError, match="--heads"):
        port_whole(tmp_path / "mae.pth", tmp_path / "0", "hf-vit")
    semantics = {"num_heads": HEADS}
    report = port_whole(tmp_path / "mae.pth", tmp_path / "1", "hf-vit", semantics=semantics)
    require_same(model, loaded(report), (32, 32), ("tokens",))


def test_a_head_of_all_tokens_is_none_of_one(tmp_path):
    model = of_timm(global_pool="")
    refused(model, tmp_path, "hf-vit", "pooling")


def test_what_timm_pools_of_is_not_what_transformers_does(tmp_path):
    model = of_timm(global_pool="avg", fc_norm=False)
    refused(model, tmp_path, "hf-vit", "pooling")


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3"])
def test_timm_s_dinov3_pools_otherwise_until_told(tmp_path, name):
    arguments = dict(img_size=(24, 32), patch_size=8, embed_dim=D, num_heads=HEADS, depth=DEPTH)
    model = grown(timm_or_skip().create_model(name, num_classes=0, **arguments))
    place = saved(model, tmp_path / "source")
    with pytest.raises(PatchParityError, match="pooling"):
        port_whole(place, tmp_path / "0", "hf-dinov3")
    report = port_whole(place, tmp_path / "1", "hf-dinov3", semantics={"pooling": "class"})
    require_same(model, loaded(report), (24, 32), ("tokens",))
    moved(model, tmp_path / "2", "timm-vit", names=("tokens", "pooled"))


def test_deit_of_two_tokens_is_moved_without_its_two_heads(tmp_path):
    model = of_timm("deit_tiny_distilled_patch16_224")
    place = saved(model, tmp_path / "source")
    report = port_whole(place, tmp_path / "0", "hf-deit")
    assert any(name.startswith("head") for name in report.left)
    require_same(model, loaded(report), (24, 32), ("tokens",))
    report = port_whole(tmp_path / "0", tmp_path / "1", "timm-deit")
    require_same(model, loaded(report), (24, 32), ("tokens",))


def test_deit_with_a_teacher_is_moved_without_its_heads(tmp_path):
    name = "DeiTForImageClassificationWithTeacher"
    model = of_transformers(name, "DeiTConfig", WIDE, num_labels=4, **VIT)
    place = saved(model, tmp_path / "source")
    report = port_whole(place, tmp_path / "target", "timm-deit")
    assert {name.partition(":")[0].split(".")[0] for name in report.left} == {
        "cls_classifier",
        "distillation_classifier",
    }
    with torch.no_grad():
        ours = answers(model.deit, (24, 32))["tokens"]
    assert apart(answers(loaded(report), (24, 32))["tokens"], ours) <= RELATIVE
