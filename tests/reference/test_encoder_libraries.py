"""The encoder against the real models of libraries, tiny and with random weights of realistic
scales: every block, the final norm and the pooled output, in float32 within 1e-6."""

import dataclasses

import numpy as np
import pytest

from patchparity.reference.encoder import (
    NOWHERE,
    Places,
    Rotary,
    encode,
    encode_blocks,
    rotary_angles,
)
from patchparity.reference.encoder_weights import (
    Attention,
    AttentionPool,
    Block,
    EncoderSpec,
    EncoderWeights,
    Linear,
    Mlp,
)
from patchparity.reference.sequence import merge_block_order
from patchparity.reference.weights import LayerNorm

from ..census.stand_in import import_library

torch = pytest.importorskip("torch")

RELATIVE = 1e-6
"""Of the root mean square: eight times the unit roundoff of float32 and more."""

D, HEADS, M, DEPTH = 24, 3, 40, 2


class Names:
    """The parameters of a model by the names of its module, as float64."""

    def __init__(self, model):
        self.held = {
            name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()
        }

    def __contains__(self, name):
        return name in self.held

    def linear(self, name, rows=slice(None)):
        bias = self.held.get(f"{name}.bias")
        return Linear(self.held[f"{name}.weight"][rows], None if bias is None else bias[rows])

    def norm(self, name, centered=True):
        return LayerNorm(self.held[f"{name}.weight"], self.held.get(f"{name}.bias"), centered)

    def maybe(self, name):
        return self.held.get(name)

    def separate(self, before, query, key, value, out):
        return Attention(*(self.linear(f"{before}.{each}") for each in (query, key, value, out)))

    def fused(self, name, out, norms=("", "")):
        rows = [slice(start * D, (start + 1) * D) for start in range(3)]
        parts = [self.linear(name, each) for each in rows]
        normed = [self.norm(each) if each and f"{each}.weight" in self else None for each in norms]
        return Attention(*parts, self.linear(out), *normed)


def grown(model, seed=0):
    """The same model with parameters as they are after some training, in place."""
    numbers = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            values = numbers.normal(size=shape)
            module = ("." + name).split(".")[-2].lower()
            scales = "norm" in module or module.startswith("ln")
            if parameter.ndim >= 2:
                values *= max(np.prod(shape[1:]), 1) ** -0.5 if parameter.ndim < 4 else 0.1
            elif (scales and name.endswith("weight")) or "scale" in name or "lambda" in name:
                values = 1 + 0.2 * values
            else:
                values *= 0.2
            parameter.copy_(torch.from_numpy(np.asarray(values).reshape(shape)))
    return model.eval()


def near(ours, theirs):
    ours, theirs = (np.asarray(each, np.float64) for each in (ours, theirs))
    assert ours.shape == theirs.shape
    apart = np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())
    assert apart <= RELATIVE, f"{apart:.2g} apart"
    assert apart > 0


def taken(model, blocks, run):
    """What enters the first block and leaves each, and what `run` returns."""
    entered, left = [], []

    def first(module, given, named):
        entered.append(given[0] if given else named["hidden_states"])

    def each(module, given, result):
        left.append(result[0] if isinstance(result, tuple) else result)

    hooks = [blocks[0].register_forward_pre_hook(first, with_kwargs=True)]
    hooks += [block.register_forward_hook(each) for block in blocks]
    with torch.no_grad():
        result = run(model)
    for hook in hooks:
        hook.remove()
    return entered[0].numpy(), [each.numpy() for each in left], result


def require_blocks(entered, left, weights, spec, places=NOWHERE):
    assert len(left) == len(weights.blocks) == DEPTH
    tokens = entered.astype(np.float64)
    for ours, theirs in zip(encode_blocks(tokens, weights, spec, places), left, strict=True):
        near(ours, theirs)
    return encode(tokens, weights, spec, places)


def pixels(height=24, width=32, channels=3):
    numbers = np.random.default_rng(5)
    return torch.from_numpy(numbers.normal(size=(2, channels, height, width)).astype("f4"))


SIZES = dict(
    image_size=(24, 32),
    patch_size=8,
    hidden_size=D,
    num_attention_heads=HEADS,
    num_hidden_layers=DEPTH,
    intermediate_size=M,
)


def of_transformers(names, before, attention, norms, mlp, scales=("", "")):
    """Blocks of transformers' models; `before` has the number of the block in it."""
    blocks = []
    for number in range(DEPTH):
        at = before.format(number)
        up, down, *gate = (names.linear(f"{at}.{each}") for each in mlp)
        blocks.append(
            Block(
                names.norm(f"{at}.{norms[0]}"),
                names.separate(at, *attention),
                names.norm(f"{at}.{norms[1]}"),
                Mlp(up, down, *gate),
                *(names.maybe(f"{at}.{each}") if each else None for each in scales),
            )
        )
    return tuple(blocks)


QKVO = tuple(f"attention.{each}_proj" for each in "qkvo")


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "quick_gelu", "relu"])
def test_transformers_vit(activation):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(**SIZES, hidden_act=activation, layer_norm_eps=1e-12)
    model = grown(transformers.ViTModel(config))
    names = Names(model)
    blocks = of_transformers(
        names,
        "layers.{}",
        QKVO,
        ("layernorm_before", "layernorm_after"),
        ("mlp.fc1", "mlp.fc2"),
    )
    weights = EncoderWeights(blocks, names.norm("layernorm"), pooler=names.linear("pooler.dense"))
    spec = EncoderSpec(
        HEADS,
        1e-12,
        {"gelu_new": "gelu-tanh", "quick_gelu": "quick-gelu"}.get(activation, activation),
        pooling="class",
    )
    entered, left, result = taken(model, model.layers, lambda m: m(pixels()))
    encoded = require_blocks(entered, left, weights, spec)
    near(encoded.tokens, result.last_hidden_state)
    near(encoded.pooled, result.pooler_output)


@pytest.mark.parametrize("gated", [False, True])
def test_transformers_dinov2_with_registers(gated):
    transformers = pytest.importorskip("transformers")
    sizes = {**SIZES, "image_size": 32}
    config = transformers.Dinov2WithRegistersConfig(
        **sizes, mlp_ratio=2, use_swiglu_ffn=gated, num_register_tokens=3
    )
    model = grown(transformers.Dinov2WithRegistersModel(config))
    names = Names(model)
    plain, three = ("mlp.fc1", "mlp.fc2"), ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj")
    before = "layers.{}" if "layers.0.norm1.weight" in names else "encoder.layer.{}"
    blocks = of_transformers(
        names,
        before,
        QKVO,
        ("norm1", "norm2"),
        three if gated else plain,
        ("layer_scale1.lambda1", "layer_scale2.lambda1"),
    )
    weights = EncoderWeights(blocks, names.norm("layernorm"))
    spec = EncoderSpec(HEADS, 1e-6, "silu" if gated else "gelu", pooling="class", prefix_tokens=4)
    layers = model.get_submodule(before.removesuffix(".{}"))
    entered, left, result = taken(model, layers, lambda m: m(pixels(32, 32)))
    encoded = require_blocks(entered, left, weights, spec)
    near(encoded.tokens, result.last_hidden_state)
    near(encoded.pooled, result.pooler_output)


@pytest.mark.parametrize("gated", [False, True])
def test_transformers_dinov3_turns_patches_alone(gated):
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        **SIZES, num_register_tokens=2, use_gated_mlp=gated, hidden_act="silu" if gated else "gelu"
    )
    model = grown(transformers.DINOv3ViTModel(config))
    names = Names(model)
    before = next(name for name in names.held if name.endswith("0.norm1.weight"))
    before = before.replace("0.norm1.weight", "{}")
    mlp = ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj")[: 2 + gated]
    scales = ("layer_scale1.lambda1", "layer_scale2.lambda1")
    blocks = of_transformers(names, before, QKVO, ("norm1", "norm2"), mlp, scales)
    assert blocks[0].attention.key.bias is None
    weights = EncoderWeights(blocks, names.norm("norm"))
    spec = EncoderSpec(
        HEADS, config.layer_norm_eps, "silu" if gated else "gelu", pooling="class", prefix_tokens=3
    )
    places = Places(rotary_angles((3, 4), D // HEADS, temperature=100.0, coordinates="unit"))
    layers = model.get_submodule(before.removesuffix(".{}"))
    entered, left, result = taken(model, layers, lambda m: m(pixels()))
    encoded = require_blocks(entered, left, weights, spec, places)
    near(encoded.pooled, result.pooler_output)


def of_clip(names, before):
    return of_transformers(
        names,
        before,
        tuple(f"self_attn.{each}_proj" for each in ("q", "k", "v", "out")),
        ("layer_norm1", "layer_norm2"),
        ("mlp.fc1", "mlp.fc2"),
    )


def test_transformers_clip():
    transformers = pytest.importorskip("transformers")
    sizes = {**SIZES, "image_size": 32}
    config = transformers.CLIPVisionConfig(**sizes, projection_dim=10)
    model = grown(transformers.CLIPVisionModelWithProjection(config))
    names = Names(model)
    before = "vision_model.encoder.layers.{}"
    weights = EncoderWeights(
        of_clip(names, before),
        pooled_norm=names.norm("vision_model.post_layernorm"),
        head=names.linear("visual_projection"),
    )
    spec = EncoderSpec(HEADS, 1e-5, "quick-gelu", pooling="class", prefix_tokens=1)
    layers = model.vision_model.encoder.layers
    entered, left, result = taken(model, layers, lambda m: m(pixels(32, 32)))
    encoded = require_blocks(entered, left, weights, spec)
    near(encoded.output, result.image_embeds)


def test_transformers_siglip_looks_at_all_tokens():
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(**{**SIZES, "image_size": 32})
    model = grown(transformers.SiglipVisionModel(config))
    names = Names(model)
    top = "vision_model." if "vision_model.post_layernorm.weight" in names else ""
    inside = f"{top}head.attention.in_proj"
    merged = [names.held[f"{inside}_{each}"] for each in ("weight", "bias")]
    parts = [Linear(*(each[start * D : (start + 1) * D] for each in merged)) for start in range(3)]
    out = names.linear(f"{top}head.attention.out_proj")
    pool = AttentionPool(
        names.held[f"{top}head.probe"].reshape(D),
        Attention(*parts, out),
        names.norm(f"{top}head.layernorm"),
        Mlp(names.linear(f"{top}head.mlp.fc1"), names.linear(f"{top}head.mlp.fc2")),
    )
    weights = EncoderWeights(
        of_clip(names, top + "encoder.layers.{}"), names.norm(f"{top}post_layernorm"), pool
    )
    spec = EncoderSpec(HEADS, 1e-6, "gelu-tanh", pooling="attention")
    layers = model.get_submodule(f"{top}encoder.layers")
    entered, left, result = taken(model, layers, lambda m: m(pixels(32, 32)))
    encoded = require_blocks(entered, left, weights, spec)
    near(encoded.tokens, result.last_hidden_state)
    near(encoded.pooled, result.pooler_output)


def test_transformers_qwen2_5_vl_attends_in_windows():
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as theirs

    config = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
        depth=DEPTH,
        hidden_size=D,
        intermediate_size=M,
        num_heads=HEADS,
        patch_size=4,
        window_size=16,
        out_hidden_size=12,
        fullatt_block_indexes=[1],
        hidden_act="silu",
    )
    model = grown(theirs.Qwen2_5_VisionTransformerPretrainedModel(config))
    names = Names(model)
    blocks = []
    for number in range(DEPTH):
        at = f"blocks.{number}"
        mlp = Mlp(*(names.linear(f"{at}.mlp.{each}_proj") for each in ("up", "down", "gate")))
        attention = names.fused(f"{at}.attn.qkv", f"{at}.attn.proj")
        norms = (names.norm(f"{at}.norm{each}", centered=False) for each in (1, 2))
        blocks.append(Block(next(norms), attention, next(norms), mlp))
    rows, columns, side = 6, 10, 4
    order = merge_block_order((rows, columns), side)
    angles = rotary_angles((rows, columns), D // HEADS)
    windows = (order // columns // side) * 100 + order % columns // side
    places = Places(type(angles)(angles.angles[order]), windows)
    spec = EncoderSpec(HEADS, 1e-6, "silu", full_blocks=(1,))
    patches = torch.from_numpy(
        np.random.default_rng(7).normal(size=(rows * columns, 3 * 2 * 4 * 4)).astype("f4")
    )
    grid = torch.tensor([[1, rows, columns]])
    entered, left, _ = taken(model, model.blocks, lambda m: m(patches, grid_thw=grid))
    left = [each[None] for each in left]
    require_blocks(entered[None], left, EncoderWeights(tuple(blocks)), spec, places)


def test_transformers_beit_adds_to_the_scores():
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(
        **{**SIZES, "image_size": 32}, use_relative_position_bias=True, layer_scale_init_value=0.1
    )
    model = grown(transformers.BeitModel(config))
    names = Names(model)
    norms, mlp = ("layernorm_before", "layernorm_after"), ("mlp.fc1", "mlp.fc2")
    blocks = of_transformers(names, "layers.{}", QKVO, norms, mlp, ("lambda_1", "lambda_2"))
    with torch.no_grad():
        added = [layer.relative_position_bias((4, 4)).numpy()[0] for layer in model.layers]
    blocks = tuple(
        dataclasses.replace(block, attention=dataclasses.replace(block.attention, scores_bias=bias))
        for block, bias in zip(blocks, added, strict=True)
    )
    weights = EncoderWeights(blocks, pooled_norm=names.norm("pooler.layernorm"))
    spec = EncoderSpec(HEADS, 1e-12, pooling="mean", prefix_tokens=1)
    entered, left, result = taken(model, model.layers, lambda m: m(pixels(32, 32)))
    encoded = require_blocks(entered, left, weights, spec)
    near(encoded.pooled, result.pooler_output)


def timm_or_skip():
    try:
        return import_library("timm")
    except ImportError:
        pytest.skip("timm is not installed")


def test_timm_s_eva_turns_interleaved_channels_and_gates():
    timm = timm_or_skip()
    model = timm.models.eva.Eva(
        img_size=(24, 32),
        patch_size=8,
        embed_dim=D,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=M / D,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        num_classes=5,
    )
    names = Names(grown(model))
    blocks = []
    for number in range(DEPTH):
        at = f"blocks.{number}"
        attention = names.separate(
            at, *(f"attn.{each}" for each in ("q_proj", "k_proj", "v_proj", "proj"))
        )
        parts = (names.linear(f"{at}.mlp.{each}") for each in ("fc1_x", "fc2", "fc1_g"))
        mlp = Mlp(*parts, names.norm(f"{at}.mlp.norm"))
        norms = [names.norm(f"{at}.norm{each}") for each in (1, 2)]
        blocks.append(Block(norms[0], attention, norms[1], mlp))
    # its own table, sines in front of cosines, each value twice
    table = model.rope.get_embed().double().numpy()
    width = D // HEADS
    angles = np.arctan2(table[:, :width:2], table[:, width::2])
    spec = EncoderSpec(HEADS, 1e-6, "silu", prefix_tokens=1, pairing="interleaved")
    entered, left, _ = taken(model, model.blocks, lambda m: m(pixels()))
    weights = EncoderWeights(tuple(blocks))
    require_blocks(entered, left, weights, spec, Places(Rotary(angles)))


def test_keras_hub_vit_keeps_heads_as_an_axis():
    keras_hub = pytest.importorskip("keras_hub")
    if keras_hub.src.utils.keras_utils.keras.config.image_data_format() != "channels_last":
        pytest.skip("channels_last alone")
    import keras

    model = keras_hub.models.ViTBackbone(
        image_shape=(24, 32, 3),
        patch_size=(8, 8),
        num_layers=DEPTH,
        num_heads=HEADS,
        hidden_dim=D,
        mlp_dim=M,
    )
    numbers = np.random.default_rng(0)
    for variable in model.weights:
        shape, gamma = tuple(variable.shape), variable.path.endswith("gamma")
        deviation = 0.2 if len(shape) < 2 else D**-0.5
        variable.assign(gamma + deviation * numbers.normal(size=shape))
    encoder = next(layer for layer in model.layers if "encoder" in layer.name)
    held = [
        {
            "/".join(v.path.split("/")[-2:]): keras.ops.convert_to_numpy(v).astype("f8")
            for v in block.weights
        }
        for block in encoder.encoder_layers
    ]

    def linear(parts, name, rows, columns):
        kernel = parts[f"{name}/kernel"].reshape(columns, rows)
        return Linear(kernel.T, parts[f"{name}/bias"].reshape(-1))

    blocks = []
    for parts in held:
        norms = [LayerNorm(parts[f"ln_{each}/gamma"], parts[f"ln_{each}/beta"]) for each in (1, 2)]
        attention = Attention(
            *(linear(parts, name, D, D) for name in ("query", "key", "value", "attention_output"))
        )
        mlp = Mlp(linear(parts, "dense_1", M, D), linear(parts, "dense_2", D, M))
        blocks.append(Block(norms[0], attention, norms[1], mlp))
    final = {
        v.path.split("/")[-1]: keras.ops.convert_to_numpy(v).astype("f8")
        for v in encoder.layer_norm.weights
    }
    weights = EncoderWeights(tuple(blocks), LayerNorm(final["gamma"], final["beta"]))
    images = pixels().numpy().transpose(0, 2, 3, 1)
    entered = keras.Model(model.inputs[0], encoder.input)(images)
    ours = encode(
        keras.ops.convert_to_numpy(entered).astype("f8"), weights, EncoderSpec(HEADS, 1e-6)
    )
    near(ours.tokens, keras.ops.convert_to_numpy(model(images)))


def of_timm(names):
    blocks = []
    for number in range(DEPTH):
        at = f"blocks.{number}"
        normed = f"{at}.attn.q_norm", f"{at}.attn.k_norm"
        attention = names.fused(f"{at}.attn.qkv", f"{at}.attn.proj", normed)
        mlp = Mlp(names.linear(f"{at}.mlp.fc1"), names.linear(f"{at}.mlp.fc2"))
        scales = (names.maybe(f"{at}.ls{each}.gamma") for each in (1, 2))
        norms = (names.norm(f"{at}.norm{each}") for each in (1, 2))
        blocks.append(Block(next(norms), attention, next(norms), mlp, *scales))
    return tuple(blocks)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (dict(), dict(pooling="class")),
        (dict(global_pool="avg", reg_tokens=2), dict(pooling="mean", prefix_tokens=3)),
        (dict(qk_norm=True, init_values=0.1), dict(pooling="class")),
        (dict(block_fn="ResPostBlock"), dict(pooling="class", norms="behind")),
        (dict(act_layer="quick_gelu"), dict(pooling="class", activation="quick-gelu")),
    ],
)
def test_timm(arguments, told):
    timm = timm_or_skip()
    arguments = dict(arguments)
    if "block_fn" in arguments:
        arguments["block_fn"] = getattr(timm.models.vision_transformer, arguments["block_fn"])
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=(24, 32),
        patch_size=8,
        embed_dim=D,
        depth=DEPTH,
        num_heads=HEADS,
        mlp_ratio=M / D,
        num_classes=5,
        **arguments,
    )
    names = Names(grown(model))
    final = names.norm("norm") if "norm.weight" in names else None
    pooled = names.norm("fc_norm") if "fc_norm.weight" in names else None
    weights = EncoderWeights(of_timm(names), final, pooled_norm=pooled, head=names.linear("head"))
    entered, left, result = taken(model, model.blocks, lambda m: m(pixels()))
    encoded = require_blocks(entered, left, weights, EncoderSpec(HEADS, 1e-6, **told))
    near(encoded.output, result)
