"""Whole models of torch's libraries, each moved and then run by the target's own class, loaded as
the report says: the same outputs."""

import numpy as np
import pytest

from patchparity.porting.whole import port_whole
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
        (dict(global_pool=""), ("tokens",)),
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
