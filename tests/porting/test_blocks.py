"""Live models run block by block: real ones of every library, tiny, with random weights."""

import copy
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from patchparity.porting.objects.blocks import find_blocks, read_semantics, run_blocks
from patchparity.reference.encoder import (
    NOWHERE,
    Places,
    encode_block,
    pool,
    rotary_angles,
)
from patchparity.reference.encoder_weights import (
    Attention,
    Block,
    EncoderSpec,
    EncoderWeights,
    Linear,
    Mlp,
)
from patchparity.reference.errors import PatchParityError
from patchparity.reference.weights import LayerNorm

from ..census.stand_in import import_library
from .torchvision_beside import run_beside_torchvision

torch = pytest.importorskip("torch")

D, HEADS, M, DEPTH, B = 24, 3, 40, 3, 2
SIZES = dict(
    image_size=(24, 32),
    patch_size=8,
    hidden_size=D,
    num_attention_heads=HEADS,
    num_hidden_layers=DEPTH,
    intermediate_size=M,
)
SQUARE = {**SIZES, "image_size": 32}
WORDS = dict(
    hidden_size=16,
    num_attention_heads=2,
    num_hidden_layers=4,
    intermediate_size=20,
    vocab_size=60,
    bos_token_id=0,
    eos_token_id=1,
)


def pixels(height=24, width=32, channels=3):
    numbers = np.random.default_rng(5)
    return numbers.normal(size=(B, channels, height, width)).astype("f4")


def grown(model, seed=0):
    """The same model with parameters as they are after some training, in place."""
    numbers = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            values = numbers.normal(size=shape)
            if parameter.ndim >= 2:
                values *= max(np.prod(shape[1:]), 1) ** -0.5
            elif name.endswith("weight") or "scale" in name or "gamma" in name:
                values = 1 + 0.2 * values
            parameter.copy_(torch.from_numpy(values.reshape(shape)))
    return model.eval()


def state_of(model):
    """All that a run may change of a torch model: modes, hooks, parameters, attributes."""
    return [
        (
            name,
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            sorted(vars(module)),
            [tensor.detach().clone().numpy().tobytes() for tensor in module.parameters(False)],
            str(getattr(module, "config", None)),
        )
        for name, module in model.named_modules()
    ]


def taken(blocks, run):
    """What enters and leaves each block by plain hooks, and what `run` returns."""
    entered, left = [], []

    def before(module, given, named):
        entered.append((given[0] if given else named["hidden_states"]).detach().clone().numpy())

    def behind(module, given, result):
        left.append((result[0] if isinstance(result, tuple) else result).detach().clone().numpy())

    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks += [block.register_forward_hook(behind) for block in blocks]
    with torch.no_grad():
        result = run()
    for hook in hooks:
        hook.remove()
    return entered, left, result


def same(ours, theirs):
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    np.testing.assert_array_equal(ours, theirs)


def near(ours, theirs, relative=1e-6):
    ours, theirs = (np.asarray(each, np.float64) for each in (ours, theirs))
    assert ours.shape == theirs.shape
    apart = np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())
    assert 0 < apart <= relative, f"{apart:.2g} apart"


def others(run, seed=9):
    """Other tokens than the model's own for each block."""
    numbers = np.random.default_rng(seed)
    return [(each + numbers.normal(size=each.shape)).astype(each.dtype) for each in run.given]


def require_run(model, images, call, **options):
    """A run gives what plain hooks see, bitwise; a model that is fed its own blocks' inputs gives
    the same again; one that is fed others gives those out of each block alone; and the model is
    left as it was."""
    blocks = [block for _, block in find_blocks(model, options.get("prefix"))]
    with torch.no_grad():
        entered, left, result = taken(blocks, call)
    model.train()
    before = state_of(model)
    run = run_blocks(model, images, **options)
    assert len(run.left) == len(run.given) == len(run.names) == len(blocks)
    held = dict(model.named_modules())
    assert all(held[name] is block for name, block in zip(run.names, blocks, strict=True))
    shape = run.entered.shape
    for ours, theirs in zip(
        [run.entered, *run.given, *run.left], [entered[0], *entered, *left], strict=True
    ):
        same(
            ours, theirs.reshape(shape) if run.layout != "sequence first" else theirs.swapaxes(0, 1)
        )
    again = run_blocks(model, images, given=run.given, **options)
    for name in ("tokens", "pooled", "output"):
        one, two = getattr(run, name), getattr(again, name)
        assert (one is None) == (two is None)
        if one is not None:
            same(one, two)
    fed = others(run)
    seen = []

    def feed(number, own):
        seen.append(own)
        return fed[number]

    replaced = run_blocks(model, images, given=feed, **options)
    for ours, theirs in zip(replaced.given, fed, strict=True):
        same(ours, theirs)
    same(seen[0], run.entered)
    for ours, theirs in zip(seen[1:], replaced.left, strict=False):
        same(ours, theirs)
    # each block's result depends on what it was given alone
    last = [*run.given[:-1], fed[-1]]
    same(run_blocks(model, images, given=last, **options).left[-1], replaced.left[-1])
    same(run_blocks(model, images, given=last, **options).left[0], run.left[0])
    assert state_of(model) == before
    model.eval()
    return run, replaced, result


class Names:
    """The parameters of a model by their names, as float64."""

    def __init__(self, model):
        self.held = {
            name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()
        }

    def linear(self, name, rows=slice(None)):
        bias = self.held.get(f"{name}.bias")
        return Linear(self.held[f"{name}.weight"][rows], None if bias is None else bias[rows])

    def norm(self, name):
        return LayerNorm(self.held[f"{name}.weight"], self.held.get(f"{name}.bias"))

    def separate(self, at, attention, norms, mlp, scales=()):
        parts = (self.linear(f"{at}.{each}") for each in attention)
        up, down, *gate = (self.linear(f"{at}.{each}") for each in mlp)
        return Block(
            self.norm(f"{at}.{norms[0]}"),
            Attention(*parts),
            self.norm(f"{at}.{norms[1]}"),
            Mlp(up, down, *gate),
            *(self.held[f"{at}.{each}"] for each in scales),
        )

    def fused(self, at, norms, qkv, out, mlp):
        parts = [self.linear(f"{at}.{qkv}", slice(i * D, (i + 1) * D)) for i in range(3)]
        attention = Attention(*parts, self.linear(f"{at}.{out}"))
        up, down = (self.linear(f"{at}.{each}") for each in mlp)
        first, second = (self.norm(f"{at}.{each}") for each in norms)
        return Block(first, attention, second, Mlp(up, down))


def require_replaced(run, block_of, spec, places=NOWHERE):
    """What blocks made of what they were given is what the reference makes of it."""
    for name, given, left in zip(run.names, run.given, run.left, strict=True):
        near(encode_block(given.astype(np.float64), block_of(name), spec, places), left)


FC = ("mlp.fc1", "mlp.fc2")
QKVO = tuple(f"attention.{each}_proj" for each in "qkvo")
CLIP = tuple(f"self_attn.{each}_proj" for each in ("q", "k", "v", "out"))


def spec_said(model, **options):
    """The spec that a model tells of itself."""
    said = read_semantics(model, **options)
    said.pop("rotary_temperature", None)
    return EncoderSpec(**said)


def test_transformers_vit():
    transformers = pytest.importorskip("transformers")
    for activation in ("gelu", "gelu_new", "quick_gelu", "silu"):
        config = transformers.ViTConfig(**SIZES, hidden_act=activation)
        model = grown(transformers.ViTModel(config))
        run, replaced, result = require_run(
            model, pixels(), lambda model=model: model(torch.from_numpy(pixels()))
        )
        same(run.tokens, result.last_hidden_state)
        same(run.pooled, result.pooler_output)
        assert run.output is None
        assert run.layout == "batch first"
        names = Names(model)
        norms = ("layernorm_before", "layernorm_after")
        spec = spec_said(model)
        assert (spec.num_heads, spec.norm_epsilon, spec.norms) == (HEADS, 1e-12, "pre")
        assert (spec.pooling, spec.prefix_tokens) == ("class", 1)
        require_replaced(
            replaced,
            functools.partial(names.separate, attention=QKVO, norms=norms, mlp=FC),
            spec,
        )


def test_transformers_vit_that_classifies_in_bfloat16():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(**SIZES, num_labels=5)
    model = grown(transformers.ViTForImageClassification(config))
    run, _, result = require_run(model, pixels(), lambda: model(torch.from_numpy(pixels())))
    same(run.output, result.logits)
    with torch.no_grad():
        tokens = model.vit(torch.from_numpy(pixels())).last_hidden_state
    same(run.tokens, tokens)
    same(run.pooled, tokens[:, 0])
    short = run_blocks(model, pixels(), dtype="bfloat16")
    assert {each.dtype.name for each in (*short.left, short.output)} == {"bfloat16"}
    assert next(model.parameters()).dtype == torch.float32
    itself = copy.deepcopy(model).to(torch.bfloat16)
    same(run_blocks(itself, pixels()).left[-1], short.left[-1])
    fed = run_blocks(itself, pixels(), given=run.given)
    assert fed.given[1].dtype.name == "bfloat16"
    same(fed.given[1], run.given[1].astype(fed.given[1].dtype))


def test_transformers_deit_with_its_teacher():
    transformers = pytest.importorskip("transformers")
    model = grown(
        transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**SIZES))
    )
    run, _, result = require_run(model, pixels(), lambda: model(torch.from_numpy(pixels())))
    same(run.output, result.logits)
    assert run.entered.shape == (B, 14, D)
    assert read_semantics(model)["prefix_tokens"] == 2


def test_transformers_mae_is_not_masked():
    transformers = pytest.importorskip("transformers")
    decoder = dict(
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_num_hidden_layers=5,
        decoder_intermediate_size=20,
    )
    config = transformers.ViTMAEConfig(**SQUARE, **decoder)
    model = grown(transformers.ViTMAEModel(config))
    plain = copy.deepcopy(model)
    plain.config.mask_ratio = 0.0
    images = pixels(32)
    noise = torch.arange(16.0).expand(B, -1)
    wanted = plain(torch.from_numpy(images), noise=noise)
    before = state_of(model)
    run = run_blocks(model, images)
    same(run.tokens, wanted.last_hidden_state)
    assert run.entered.shape == (B, 17, D)
    assert model.config.mask_ratio == 0.75
    assert state_of(model) == before
    whole = transformers.ViTMAEForPreTraining(config)
    whole.vit.load_state_dict(model.state_dict())
    both = run_blocks(whole, images)
    assert both.names == [f"vit.layers.{number}" for number in range(DEPTH)]
    same(both.left[-1], run.left[-1])
    assert run_blocks(whole, images, prefix="decoder").left[-1].shape == (B, 17, 16)
    assert whole.config.mask_ratio == 0.75


@pytest.mark.parametrize("relative", [False, True])
def test_transformers_beit_and_data2vec_add_to_the_scores(relative):
    transformers = pytest.importorskip("transformers")
    for kind in ("Beit", "Data2VecVision"):
        config = getattr(transformers, f"{kind}Config")(
            **SQUARE, use_relative_position_bias=relative
        )
        kind = getattr(transformers, f"{kind}Model")
        model = grown(kind(config, add_pooling_layer=True))
        images = pixels(32)
        run, _, result = require_run(
            model, images, lambda model=model: model(torch.from_numpy(pixels(32)))
        )
        same(run.tokens, result.last_hidden_state)
        same(run.pooled, result.pooler_output)
        said = read_semantics(model)
        assert (said["pooling"], said["norm_epsilon"]) == ("mean", 1e-12)
        assert said.get("norms", "pre") == "pre"


@pytest.mark.parametrize("gated", [False, True])
def test_transformers_dinov2(gated):
    transformers = pytest.importorskip("transformers")
    for kind, registers in (("Dinov2", 0), ("Dinov2WithRegisters", 3)):
        more = dict(num_register_tokens=registers) if registers else {}
        config = getattr(transformers, f"{kind}Config")(
            **SQUARE, mlp_ratio=2, use_swiglu_ffn=gated, **more
        )
        model = grown(getattr(transformers, f"{kind}Model")(config))
        images = pixels(24, 40)
        run, replaced, result = require_run(
            model, images, lambda model=model, images=images: model(torch.from_numpy(images))
        )
        same(run.tokens, result.last_hidden_state)
        same(run.pooled, result.pooler_output)
        names, spec = Names(model), spec_said(model)
        assert (spec.prefix_tokens, spec.activation) == (1 + registers, "silu" if gated else "gelu")
        mlp = ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj") if gated else FC
        scales = ("layer_scale1.lambda1", "layer_scale2.lambda1")
        require_replaced(
            replaced,
            functools.partial(
                names.separate, attention=QKVO, norms=("norm1", "norm2"), mlp=mlp, scales=scales
            ),
            spec,
        )


def test_transformers_dinov3_turns_what_it_is_fed():
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(**SIZES, num_register_tokens=2)
    model = grown(transformers.DINOv3ViTModel(config))
    run, replaced, result = require_run(model, pixels(), lambda: model(torch.from_numpy(pixels())))
    same(run.tokens, result.last_hidden_state)
    same(run.pooled, result.pooler_output)
    names, spec = Names(model), spec_said(model)
    theta = read_semantics(model)["rotary_temperature"]
    assert (theta, spec.prefix_tokens, spec.norm_epsilon) == (100.0, 3, 1e-5)
    places = Places(rotary_angles((3, 4), D // HEADS, temperature=theta, coordinates="unit"))
    mlp, scales = ("mlp.up_proj", "mlp.down_proj"), ("layer_scale1.lambda1", "layer_scale2.lambda1")
    require_replaced(
        replaced,
        lambda at: names.separate(at, QKVO, ("norm1", "norm2"), mlp, scales),
        spec,
        places,
    )


def test_transformers_clip_alone_and_beside_words():
    transformers = pytest.importorskip("transformers")
    vision = transformers.CLIPVisionConfig(**SQUARE, projection_dim=10)
    model = grown(transformers.CLIPVisionModelWithProjection(vision))
    images = pixels(32)
    run, replaced, result = require_run(model, images, lambda: model(torch.from_numpy(images)))
    same(run.output, result.image_embeds)
    same(run.tokens, result.last_hidden_state)
    names, spec = Names(model), spec_said(model)
    assert (spec.activation, spec.norm_epsilon) == ("quick-gelu", 1e-5)
    norms = ("layer_norm1", "layer_norm2")
    require_replaced(replaced, lambda at: names.separate(at, CLIP, norms, FC), spec)
    alone = run_blocks(model.vision_model, images)
    same(alone.pooled, run.pooled)
    assert alone.output is None
    config = transformers.CLIPConfig(vision_config=SQUARE, text_config=WORDS, projection_dim=10)
    both = transformers.CLIPModel(config)
    both.vision_model.load_state_dict(model.vision_model.state_dict())
    both.visual_projection.load_state_dict(model.visual_projection.state_dict())
    inside = run_blocks(both, images)
    assert inside.names == [f"vision_model.encoder.layers.{number}" for number in range(DEPTH)]
    for name in ("tokens", "pooled", "output"):
        same(getattr(inside, name), getattr(run, name))
    assert read_semantics(both) == read_semantics(model)
    with pytest.raises(PatchParityError, match=r"does not run text_model.encoder.layers.0"):
        run_blocks(both, images, prefix="text_model")
    with pytest.raises(PatchParityError, match=r"text_model.encoder.layers \(4\)"):
        find_blocks(both, "visual")


def test_transformers_siglip_pools_by_attention():
    transformers = pytest.importorskip("transformers")
    model = grown(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SQUARE)))
    images = pixels(32)
    run, _, result = require_run(model, images, lambda: model(torch.from_numpy(images)))
    same(run.tokens, result.last_hidden_state)
    same(run.pooled, result.pooler_output)
    said = read_semantics(model)
    assert (said["pooling"], said["activation"]) == ("attention", "gelu-tanh")
    words = {**WORDS, "projection_size": D}
    both = transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=SQUARE, text_config=words)
    )
    both.vision_model.load_state_dict(model.state_dict())
    same(run_blocks(both, images).pooled, run.pooled)
    assert run_blocks(both, images).output is None
    classes = transformers.SiglipForImageClassification(both.config)
    classes.vision_model.load_state_dict(model.state_dict(), strict=False)
    told = run_blocks(grown(classes), images)
    np.testing.assert_allclose(told.pooled, told.tokens.mean(1), rtol=1e-5, atol=1e-6)


def test_transformers_siglip2_takes_patches():
    transformers = pytest.importorskip("transformers")
    sizes = {name: value for name, value in SIZES.items() if name != "image_size"}
    config = transformers.Siglip2VisionConfig(**sizes, num_patches=16)
    model = grown(transformers.Siglip2VisionModel(config))
    images = pixels()
    cut = images.reshape(B, 3, 3, 8, 4, 8).transpose(0, 2, 4, 3, 5, 1).reshape(B, 12, -1)
    form = dict(
        pixel_values=torch.from_numpy(np.ascontiguousarray(cut)),
        pixel_attention_mask=torch.ones((B, 12), dtype=torch.int64),
        spatial_shapes=torch.tensor([[3, 4]] * B),
    )
    run, _, result = require_run(model, images, lambda: model(**form))
    same(run.pooled, result.pooler_output)


def test_transformers_ijepa():
    transformers = pytest.importorskip("transformers")
    model = grown(transformers.IJepaModel(transformers.IJepaConfig(**SIZES)))
    run, _, result = require_run(model, pixels(), lambda: model(torch.from_numpy(pixels())))
    same(run.tokens, result.last_hidden_state)
    assert "prefix_tokens" not in read_semantics(model)


@pytest.mark.parametrize(
    "kind",
    ["CLIPVision", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT", "DeiT", "ViT", "IJepa", "Siglip"],
)
@pytest.mark.parametrize("ending", ["Model", "ForImageClassification"])
def test_transformers_pools_as_is_told(kind, ending):
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, kind + ending) or kind + ending == "SiglipModel":
        pytest.skip(f"there is no {kind}{ending} of images alone")
    options = dict(text_config=WORDS, vision_config=SQUARE) if kind == "Siglip" else SQUARE
    config = getattr(transformers, f"{kind}Config")(**options)
    model = grown(getattr(transformers, kind + ending)(config))
    run = run_blocks(model, pixels(32))
    said = read_semantics(model)
    spec = EncoderSpec(HEADS, pooling=said.get("pooling", "none"))
    if "pooling" not in said:
        assert kind + ending in (
            "IJepaModel",
            "Dinov2ForImageClassification",
            "Dinov2WithRegistersForImageClassification",
            "DINOv3ViTForImageClassification",
        )
        return
    norm = getattr(model, "post_layernorm", None)
    pooler = getattr(model, "pooler", None)
    pooled_norm = (
        LayerNorm(*(each.detach().numpy() for each in norm.parameters())) if norm else None
    )
    dense = (
        Linear(*(each.detach().numpy() for each in pooler.dense.parameters())) if pooler else None
    )
    weights = EncoderWeights((), pooled_norm=pooled_norm, pooler=dense)
    spec = EncoderSpec(HEADS, said["norm_epsilon"], pooling=said["pooling"])
    np.testing.assert_allclose(pool(run.tokens, weights, spec), run.pooled, rtol=1e-4, atol=1e-5)


def test_transformers_qwen2_vl_keeps_one_row_for_each_token():
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_vl import modeling_qwen2_vl as theirs

    config = transformers.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLVisionConfig(
        depth=DEPTH, embed_dim=D, hidden_size=16, num_heads=HEADS, mlp_ratio=2, patch_size=4
    )
    model = grown(theirs.Qwen2VisionTransformerPretrainedModel(config))
    images = pixels(16, 24)
    alone = [run_blocks(model, images[i : i + 1]) for i in range(B)]
    run = run_blocks(model, images)
    assert run.layout == "token major"
    assert run.entered.shape == (B, 24, D)
    for number in range(DEPTH):
        for image in range(B):
            np.testing.assert_allclose(
                run.left[number][image], alone[image].left[number][0], rtol=1e-4, atol=1e-5
            )
    fed = others(run)
    same(run_blocks(model, images, given=fed).given[2], fed[2])
    said = read_semantics(model)
    assert (said["activation"], said["num_heads"]) == ("quick-gelu", HEADS)


def timm_or_skip():
    try:
        return import_library("timm")
    except ImportError:
        pytest.skip("timm is not installed")


def vit_of_timm(**options):
    timm = timm_or_skip()
    kind = timm.models.vision_transformer
    if "block_fn" in options:
        options["block_fn"] = getattr(kind, options["block_fn"])
    sizes = dict(img_size=(24, 32), patch_size=8, embed_dim=D, depth=DEPTH, num_heads=HEADS)
    return grown(
        kind.VisionTransformer(**sizes, **{"num_classes": 5, "mlp_ratio": M / D, **options})
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(), dict(pooling="class", norms="pre", prefix_tokens=1)),
        (dict(global_pool="avg", reg_tokens=2), dict(pooling="mean", prefix_tokens=3)),
        (dict(global_pool="map", class_token=False), dict(pooling="attention")),
        (dict(global_pool="avgmax", class_token=False), dict()),
        (dict(num_classes=0), dict(pooling="class")),
        (dict(num_classes=0, global_pool=""), dict(pooling="none")),
        (dict(block_fn="ResPostBlock"), dict(norms="behind")),
        (dict(block_fn="ParallelScalingBlock"), dict(num_heads=HEADS)),
        (dict(block_fn="ParallelThingsBlock"), dict(num_heads=HEADS)),
        (dict(qk_norm=True, init_values=0.1), dict(norm_epsilon=1e-6)),
        (dict(act_layer="quick_gelu"), dict(activation="quick-gelu")),
        (dict(act_layer="gelu_tanh"), dict(activation="gelu-tanh")),
    ],
)
def test_timm(options, said):
    model = vit_of_timm(**options)
    run, replaced, result = require_run(model, pixels(), lambda: model(torch.from_numpy(pixels())))
    with torch.no_grad():
        features = model.forward_features(torch.from_numpy(pixels()))
        pooled = model.forward_head(features, pre_logits=True)
    same(run.tokens, features)
    if options.get("global_pool") == "":
        assert run.pooled is None
        assert run.output is None
    elif "num_classes" in options:
        same(run.pooled, result)
        assert run.output is None
    else:
        np.testing.assert_allclose(run.pooled, pooled, rtol=1e-5, atol=1e-6)
        same(run.output, result)
    told = read_semantics(model)
    assert {**told, **said} == told
    assert ("pooling" in told) == (options.get("global_pool") != "avgmax")
    if not options:
        names = Names(model)
        require_replaced(
            replaced,
            lambda at: names.fused(at, ("norm1", "norm2"), "attn.qkv", "attn.proj", FC),
            spec_said(model),
        )


def test_timm_s_eva():
    timm = timm_or_skip()
    model = grown(
        timm.models.eva.Eva(
            img_size=(24, 32),
            patch_size=8,
            embed_dim=D,
            depth=DEPTH,
            num_heads=HEADS,
            swiglu_mlp=True,
            use_rot_pos_emb=True,
            num_classes=5,
        )
    )
    run, _, result = require_run(model, pixels(), lambda: model(torch.from_numpy(pixels())))
    same(run.output, result)
    said = read_semantics(model)
    assert (said["pairing"], said["activation"]) == ("interleaved", "silu")
    assert said["rotary_temperature"] == 10000.0


def test_timm_s_swin_is_refused():
    timm = timm_or_skip()
    model = timm.models.swin_transformer.SwinTransformer(
        img_size=32, patch_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 2), window_size=4
    )
    before = state_of(model)
    with pytest.raises(PatchParityError, match="keep the shape"):
        run_blocks(model, pixels(32))
    assert state_of(model) == before


def vit_pytorch_or_skip(**options):
    try:
        import_library("vit_pytorch")
    except ImportError:
        pytest.skip("vit-pytorch is not installed")
    vit = import_library("vit_pytorch.vit")
    sizes = dict(image_size=(24, 32), patch_size=8, dim=D, depth=DEPTH, heads=HEADS, dim_head=8)
    return grown(vit.ViT(**{**sizes, "mlp_dim": M, "num_classes": 5, **options}))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vit_pytorch_adds_outside_of_its_pairs(pool):
    model = vit_pytorch_or_skip(pool=pool)
    names = Names(model)
    with torch.no_grad():
        wanted = model(torch.from_numpy(pixels()))
        entered = []
        hook = model.transformer.register_forward_pre_hook(
            lambda m, given: entered.append(given[0])
        )
        tokens = []
        also = model.transformer.register_forward_hook(lambda m, given, made: tokens.append(made))
        model(torch.from_numpy(pixels()))
        hook.remove()
        also.remove()
    before = state_of(model)
    run = run_blocks(model, pixels())
    same(run.entered, entered[0])
    same(run.tokens, tokens[0])
    same(run.output, wanted)
    assert run.names == [f"transformer.layers.{number}" for number in range(DEPTH)]

    def block_of(at):
        parts = [names.linear(f"{at}.0.to_qkv", slice(i * D, (i + 1) * D)) for i in range(3)]
        attention = Attention(*parts, names.linear(f"{at}.0.to_out.0"))
        mlp = Mlp(names.linear(f"{at}.1.net.1"), names.linear(f"{at}.1.net.4"))
        return Block(names.norm(f"{at}.0.norm"), attention, names.norm(f"{at}.1.net.0"), mlp)

    said = read_semantics(model)
    assert said["pooling"] == {"cls": "class", "mean": "mean"}[pool]
    spec = EncoderSpec(said["num_heads"], said["norm_epsilon"], said["activation"])
    require_replaced(run, block_of, spec)
    fed = others(run)
    replaced = run_blocks(model, pixels(), given=fed)
    for ours, theirs in zip(replaced.given, fed, strict=True):
        same(ours, theirs)
    require_replaced(replaced, block_of, spec)
    assert state_of(model) == before


def test_vit_pytorch_with_more_around_its_pairs_is_refused():
    model = vit_pytorch_or_skip()

    class Halved(type(model.transformer)):
        def forward(self, x):
            for attention, mlp in self.layers:
                x = attention(x) / 2 + x
                x = mlp(x) + x
            return self.norm(x)

    model.transformer.__class__ = Halved
    before = state_of(model)
    with pytest.raises(PatchParityError, match="does more than add"):
        run_blocks(model, pixels())
    assert state_of(model) == before


class QuickGELU(torch.nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class ResidualAttentionBlock(torch.nn.Module):
    """OpenAI's CLIP, `model.py`."""

    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(D, HEADS)
        self.ln_1 = torch.nn.LayerNorm(D)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(D, M), QuickGELU(), torch.nn.Linear(M, D))
        self.ln_2 = torch.nn.LayerNorm(D)

    def forward(self, x):
        given = self.ln_1(x)
        x = x + self.attn(given, given, given, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Visual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, D, 8, 8, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.zeros(D))
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.Sequential(
            *(ResidualAttentionBlock() for _ in range(DEPTH))
        )
        self.ln_post = torch.nn.LayerNorm(D)
        self.proj = torch.nn.Parameter(torch.zeros(D, 10))

    def forward(self, x):
        x = self.conv1(x).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = self.transformer.resblocks(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class Clip(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Visual()
        self.transformer = torch.nn.Module()
        self.transformer.resblocks = torch.nn.Sequential(
            *(ResidualAttentionBlock() for _ in range(DEPTH + 2))
        )

    def encode_image(self, image):
        return self.visual(image)

    def forward(self, image, text):
        raise NotImplementedError


@pytest.mark.parametrize(("height", "width"), [(24, 32), (8, 8)])
def test_openai_s_order_puts_the_sequence_first(height, width):
    """Of 8×8 pixels there are as many tokens as images."""
    model = grown(Clip())
    images = pixels(height, width)
    run, replaced, result = require_run(
        model, images, lambda: model.encode_image(torch.from_numpy(images))
    )
    assert run.layout == "sequence first"
    assert run.names[0] == "visual.transformer.resblocks.0"
    same(run.output, result)
    names = Names(model)
    for name in run.names:
        for end in ("weight", "bias"):
            names.held[f"{name}.attn.in_proj.{end}"] = names.held[f"{name}.attn.in_proj_{end}"]
    spec = spec_said(model)
    assert (spec.activation, spec.num_heads, spec.norms) == ("quick-gelu", HEADS, "pre")
    require_replaced(
        replaced,
        lambda at: names.fused(
            at, ("ln_1", "ln_2"), "attn.in_proj", "attn.out_proj", ("mlp.0", "mlp.2")
        ),
        spec,
    )


def test_torch_s_own_encoder_in_both_places_of_the_norms():
    for first in (False, True):
        layer = torch.nn.TransformerEncoderLayer(
            D, HEADS, M, activation="gelu", norm_first=first, batch_first=True
        )
        encoder = torch.nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
        model = torch.nn.Module()
        model.encoder = encoder
        said = read_semantics(model)
        assert said["norms"] == ("pre" if first else "post")
        assert said["activation"] == "gelu"


def test_what_is_refused():
    with pytest.raises(PatchParityError, match="has no sequence of blocks"):
        find_blocks(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3)))
    with pytest.raises(PatchParityError, match="is no live model"):
        find_blocks(np.ones(3))
    transformers = pytest.importorskip("transformers")
    model = grown(transformers.ViTModel(transformers.ViTConfig(**SIZES)))
    before = state_of(model)
    with pytest.raises(PatchParityError, match=r"expected \(B, C, H, W\)"):
        run_blocks(model, pixels()[0])
    with pytest.raises(PatchParityError, match="failed on images of shape"):
        run_blocks(model, pixels(16))
    run = run_blocks(model, pixels())
    with pytest.raises(PatchParityError, match="2 inputs were given"):
        run_blocks(model, pixels(), given=run.given[:2])
    with pytest.raises(PatchParityError, match=r"given\[1\] of shape"):
        run_blocks(model, pixels(), given=[run.given[0], run.given[1][:, :4], run.given[2]])
    with pytest.raises(PatchParityError, match="dtype='int8'"):
        run_blocks(model, pixels(), dtype="int8")

    def fails(number, own):
        raise PatchParityError("no more")

    with pytest.raises(PatchParityError, match="no more"):
        run_blocks(model, pixels(), given=fails)
    assert state_of(model) == before
    model.layers[2] = model.layers[1]
    with pytest.raises(PatchParityError, match=r"out of turn"):
        run_blocks(model, pixels())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


@pytest.mark.parametrize(
    ("backend", "count"),
    [
        ("tensorflow", 9),
        ("torch", 1),
        pytest.param("torch", 9, marks=pytest.mark.full),
        pytest.param("jax", 9, marks=pytest.mark.full),
    ],
)
def test_keras_hub(backend, count):
    """On each backend in a process of its own: Keras chooses one as it is imported."""
    for library in ("keras_hub", backend):
        pytest.importorskip(library)
    folder = Path(__file__).parents[2]
    paths = os.pathsep.join([str(folder), *(path for path in sys.path if path)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.porting.keras_blocks_beside", str(count)],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": paths,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == str(count)


def test_torchvision():
    out = run_beside_torchvision("tests.porting.torchvision_blocks")
    assert out.split()[-3:] == ["ok", "class", "1"]


def test_flax_nnx():
    nnx = pytest.importorskip("flax.nnx")
    from .flax_vits import linen_vit, nnx_vit

    model = nnx_vit(D, HEADS, M, DEPTH)
    wanted = np.asarray(model(np.moveaxis(pixels(), 1, -1)))
    model.train()
    held = {type(each): vars(type(each)).get("__call__") for _, each in nnx.iter_modules(model)}
    flags = [
        each.deterministic for _, each in nnx.iter_modules(model) if hasattr(each, "deterministic")
    ]
    run = run_blocks(model, pixels())
    assert run.names == [f"blocks.{number}" for number in range(DEPTH)]
    np.testing.assert_allclose(run.output, wanted, rtol=1e-5, atol=1e-6)
    fed = others(run)
    replaced = run_blocks(model, pixels(), given=fed)
    for ours, theirs in zip(replaced.given, fed, strict=True):
        same(ours, theirs)
    blocks = [block for _, block in find_blocks(model)]
    model.eval()
    for block, given, left in zip(blocks, replaced.given, replaced.left, strict=True):
        np.testing.assert_allclose(np.asarray(block(given)), left, rtol=1e-5, atol=1e-6)
    model.train()
    assert flags == [
        each.deterministic for _, each in nnx.iter_modules(model) if hasattr(each, "deterministic")
    ]
    assert held == {kind: vars(kind).get("__call__") for kind in held}
    said = read_semantics(model)
    assert (said["num_heads"], said["norm_epsilon"], said["prefix_tokens"]) == (HEADS, 1e-6, 1)

    bound = linen_vit(D, HEADS, M, DEPTH, np.moveaxis(pixels(), 1, -1))
    run = run_blocks(bound, pixels())
    assert run.names == [f"Transformer.encoderblock_{number}" for number in range(DEPTH)]
    same(run.output, np.asarray(bound(np.moveaxis(pixels(), 1, -1), train=False)))
    assert run.tokens is not None
    replaced = run_blocks(bound, pixels(), given=fed)
    for ours, theirs in zip(replaced.given, fed, strict=True):
        same(ours, theirs)
    assert not np.allclose(replaced.left[0], run.left[0])
    same(run_blocks(bound, pixels(), given=run.given).output, run.output)
    with pytest.raises(PatchParityError, match="has no variables"):
        find_blocks(bound.unbind()[0])
