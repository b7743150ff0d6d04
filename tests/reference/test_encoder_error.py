"""Bounds of what a block may err by, against the arithmetic of torch, JAX and NumPy in each type,
and against mistakes."""

import contextlib
import dataclasses
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patchparity as pp
from patchparity.reference import encoder, running_error
from patchparity.reference.activations import ACTIVATIONS
from patchparity.reference.encoder import Places, encode, encode_block, rotary_angles
from patchparity.reference.encoder_error import (
    BlockExpectation,
    expect_block,
    expect_end,
    judge_block,
)
from patchparity.reference.encoder_weights import AttentionPool, EncoderSpec, Linear
from patchparity.reference.errors import PatchParityError
from patchparity.reference.running_error import BENDS, Arithmetic, Running, activate
from patchparity.reference.sequence import layer_norm
from patchparity.reference.weights import LayerNorm

from . import test_encoder_libraries as libraries
from .test_encoder import encoders

torch = pytest.importorskip("torch")
functional = torch.nn.functional

TYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
NARROW = ["float16", "bfloat16"]
LARGEST = 1 / 3
"""Of a bound, what correct computations reach here; 0.152 over 200 seeds of each type."""


def stored(held, dtype):
    """The same weights, rounded to a type."""
    if isinstance(held, np.ndarray):
        return held.astype(TYPES[dtype])
    if isinstance(held, tuple):
        return tuple(stored(each, dtype) for each in held)
    if not dataclasses.is_dataclass(held):
        return held
    parts = {each.name: getattr(held, each.name) for each in dataclasses.fields(held)}
    return type(held)(**{name: stored(part, dtype) for name, part in parts.items()})


def block_and_tokens(seed, dtype, width=48, inner=96, count=17):
    weights = pp.initialize_encoder(width, depth=1, mlp_width=inner, seed=seed)
    numbers = np.random.default_rng(seed)
    tokens = numbers.normal(size=(2, count, width)) * 10 ** numbers.uniform(-0.5, 0.7)
    return stored(weights.blocks[0], dtype), tokens.astype(TYPES[dtype])


TORCH_ACTIVATIONS = {
    "gelu": functional.gelu,
    "gelu-tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick-gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": functional.silu,
    "relu": functional.relu,
}


def block_of_torch(tokens, block, spec, dtype, attention="fused"):
    """A pre-norm block in a type of torch; attention fused, or with its scale at the scores or at
    the queries."""

    def tensor(array):
        return torch.from_numpy(np.asarray(array, np.float64)).to(getattr(torch, dtype))

    def linear(matrix, x):
        bias = None if matrix.bias is None else tensor(matrix.bias)
        return functional.linear(x, tensor(matrix.weight), bias)

    def norm(of, x):
        parts = tensor(of.scale), tensor(of.shift)
        return functional.layer_norm(x, x.shape[-1:], *parts, spec.norm_epsilon)

    x = tensor(tokens)
    given, of = norm(block.first_norm, x), block.attention
    heads = (*x.shape[:2], spec.num_heads, -1)
    q, k, v = (linear(m, given).view(heads).transpose(1, 2) for m in (of.query, of.key, of.value))
    scale = q.shape[-1] ** -0.5 if spec.attention_scale is None else spec.attention_scale
    if attention == "fused":
        mixed = functional.scaled_dot_product_attention(q, k, v, scale=scale)
    elif attention == "scores":
        mixed = torch.softmax((q @ k.transpose(-1, -2)) * scale, -1) @ v
    else:
        mixed = torch.softmax((q * scale) @ k.transpose(-1, -2), -1) @ v
    x = x + linear(of.out, mixed.transpose(1, 2).reshape(*x.shape[:2], -1))
    activation = TORCH_ACTIVATIONS[spec.activation]
    x = x + linear(block.mlp.down, activation(linear(block.mlp.up, norm(block.second_norm, x))))
    return x.double().numpy()


@pytest.mark.parametrize("activation", sorted(TORCH_ACTIVATIONS))
@pytest.mark.parametrize("dtype", TYPES)
def test_torch_stays_within_its_bounds_and_comes_near_them(dtype, activation):
    spec, worst = EncoderSpec(3, activation=activation), []
    for seed in range(6):
        block, tokens = block_and_tokens(seed, dtype)
        expectation = expect_block(tokens, block, spec, dtype=dtype)
        for attention in ("fused", "scores", "queries"):
            measured = block_of_torch(tokens, block, spec, dtype, attention)
            worst.append(judge_block(measured, expectation))
    assert max(worst) <= LARGEST
    assert max(worst) >= 0.03  # a bound that is far too large would hold nothing


@pytest.mark.full
@pytest.mark.parametrize("dtype", TYPES)
def test_torch_stays_within_its_bounds_over_200_seeds(dtype):
    names = sorted(TORCH_ACTIVATIONS)
    for seed in range(200):
        spec = EncoderSpec(3, activation=names[seed % len(names)])
        block, tokens = block_and_tokens(seed, dtype)
        expectation = expect_block(tokens, block, spec, dtype=dtype)
        assert judge_block(block_of_torch(tokens, block, spec, dtype), expectation) <= LARGEST


def of_jax(block, spec, dtype):
    """The same block in JAX, its variance from the mean of squares as flax has it."""
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    kind = getattr(jnp, dtype)

    def array(held):
        return jnp.asarray(np.asarray(held, np.float32)).astype(kind)

    def linear(matrix, x):
        return x @ array(matrix.weight).T + array(matrix.bias)

    def norm(of, x):
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        variance = jnp.maximum(0, (x * x).mean(-1, keepdims=True) - mean * mean)
        factor = jax.lax.rsqrt(variance + spec.norm_epsilon) * array(of.scale)
        return ((x - mean) * factor + array(of.shift)).astype(kind)

    def run(x):
        given, of = norm(block.first_norm, x), block.attention
        heads = (*x.shape[:2], spec.num_heads, -1)
        q, k, v = (
            linear(m, given).reshape(heads).swapaxes(1, 2) for m in (of.query, of.key, of.value)
        )
        q = q / jnp.sqrt(q.shape[-1]).astype(kind)
        mixed = jax.nn.softmax(q @ k.swapaxes(-1, -2), -1) @ v
        x = x + linear(of.out, mixed.swapaxes(1, 2).reshape(*x.shape[:2], -1))
        inner = linear(block.mlp.up, norm(block.second_norm, x))
        inner = jax.nn.gelu(inner, approximate=spec.activation == "gelu-tanh")
        return x + linear(block.mlp.down, inner)

    return run, array


@pytest.mark.parametrize("activation", ["gelu", "gelu-tanh"])
@pytest.mark.parametrize("dtype", ["float32", *NARROW])
def test_jax_stays_within_its_bounds(dtype, activation):
    spec = EncoderSpec(3, activation=activation)
    for seed in range(3):
        block, tokens = block_and_tokens(seed, dtype)
        expectation = expect_block(tokens, block, spec, dtype=dtype)
        run, array = of_jax(block, spec, dtype)
        measured = np.asarray(run(array(tokens)).astype("float32"))
        assert judge_block(measured, expectation) <= LARGEST


@contextlib.contextmanager
def sums_in_float32():
    """The NumPy encoder with its norms and its softmax in float32 where the type is narrower, as
    libraries have them; NumPy adds bfloat16 numbers up in bfloat16."""

    def wide(function):
        def computed(values, *more):
            kind = np.promote_types(values.dtype, np.float32)
            return function(values.astype(kind), *more).astype(values.dtype)

        return computed

    with (
        mock.patch.object(encoder, "layer_norm", wide(encoder.layer_norm)),
        mock.patch.object(encoder, "softmax", wide(encoder.softmax)),
    ):
        yield


@pytest.mark.parametrize("dtype", ["float32", *NARROW])
@settings(max_examples=15)
@given(drawn=encoders())
def test_bounds_hold_for_any_kind_of_block(dtype, drawn):
    tokens, weights, spec, places = drawn
    weights, tokens = stored(weights, dtype), tokens.astype(TYPES[dtype])
    for number, block in enumerate(weights.blocks):
        here = Places(places.rotary) if number in spec.full_blocks else places
        expectation = expect_block(tokens, block, spec, here, dtype=dtype)
        exact = encode_block(tokens.astype(np.float64), block, spec, here)
        np.testing.assert_allclose(
            expectation.values, exact, rtol=0, atol=1e-11 * np.abs(exact).max()
        )
        with sums_in_float32():
            measured = encode_block(tokens, block, spec, here).astype(TYPES[dtype])
        assert judge_block(measured, expectation) <= 0.6
        tokens = measured


def run_in(model, blocks, dtype, *given):
    """What enters and leaves each block of a model in a type of torch."""
    seen = []

    def each(module, positional, named, result):
        entered = positional[0] if positional else named["hidden_states"]
        left = result[0] if isinstance(result, tuple) else result
        seen.append(tuple(part.double().numpy() for part in (entered, left)))

    hooks = [block.register_forward_hook(each, with_kwargs=True) for block in blocks]
    with torch.no_grad():
        model.to(getattr(torch, dtype))(*given)
    for hook in hooks:
        hook.remove()
    assert len(seen) == libraries.DEPTH
    return seen


def require_within(seen, blocks, spec, places, dtype):
    for (entered, left), block in zip(seen, blocks, strict=True):
        expectation = expect_block(entered, block, spec, places, dtype=dtype)
        assert 0 < judge_block(left, expectation) <= LARGEST


# its eager attention has a softmax in float32, whatever the model's type is
@pytest.mark.parametrize(
    ("dtype", "attention"),
    [(dtype, "sdpa") for dtype in TYPES] + [(dtype, "eager") for dtype in ("float32", *NARROW)],
)
def test_transformers_vit_in_its_type(dtype, attention):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        **libraries.SIZES, layer_norm_eps=1e-12, attn_implementation=attention
    )
    model = libraries.grown(transformers.ViTModel(config)).to(getattr(torch, dtype))
    blocks = libraries.of_transformers(
        libraries.Names(model),
        "layers.{}",
        libraries.QKVO,
        ("layernorm_before", "layernorm_after"),
        ("mlp.fc1", "mlp.fc2"),
    )
    pixels = libraries.pixels().to(getattr(torch, dtype))
    seen = run_in(model, model.layers, dtype, pixels)
    require_within(seen, blocks, EncoderSpec(libraries.HEADS, 1e-12), encoder.NOWHERE, dtype)


@pytest.mark.parametrize("dtype", ["float32", *NARROW])
def test_transformers_dinov3_in_its_type_with_gates_and_rotary_positions(dtype):
    transformers = pytest.importorskip("transformers")
    config = transformers.DINOv3ViTConfig(
        **libraries.SIZES, num_register_tokens=2, use_gated_mlp=True, hidden_act="silu"
    )
    model = libraries.grown(transformers.DINOv3ViTModel(config)).to(getattr(torch, dtype))
    names = libraries.Names(model)
    before = next(name for name in names.held if name.endswith("0.norm1.weight"))
    before = before.replace("0.norm1.weight", "{}")
    blocks = libraries.of_transformers(
        names,
        before,
        libraries.QKVO,
        ("norm1", "norm2"),
        ("mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"),
        ("layer_scale1.lambda1", "layer_scale2.lambda1"),
    )
    spec = EncoderSpec(libraries.HEADS, config.layer_norm_eps, "silu", prefix_tokens=3)
    width = libraries.D // libraries.HEADS
    places = Places(rotary_angles((3, 4), width, temperature=100.0, coordinates="unit"))
    layers = model.get_submodule(before.removesuffix(".{}"))
    seen = run_in(model, layers, dtype, libraries.pixels().to(getattr(torch, dtype)))
    require_within(seen, blocks, spec, places, dtype)


@pytest.mark.parametrize("dtype", ["float32", *NARROW])
def test_timm_vit_in_its_type_with_norms_of_queries_and_layer_scale(dtype):
    timm = libraries.timm_or_skip()
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=(24, 32),
        patch_size=8,
        embed_dim=libraries.D,
        depth=libraries.DEPTH,
        num_heads=libraries.HEADS,
        qk_norm=True,
        init_values=0.1,
    )
    model = libraries.grown(model).to(getattr(torch, dtype))
    names, blocks = libraries.Names(model), []
    for number in range(libraries.DEPTH):
        at = f"blocks.{number}"
        inside = tuple(f"{at}.attn.{each}_norm" for each in "qk")
        blocks.append(
            pp.reference.encoder_weights.Block(
                names.norm(f"{at}.norm1"),
                names.fused(f"{at}.attn.qkv", f"{at}.attn.proj", inside),
                names.norm(f"{at}.norm2"),
                pp.reference.encoder_weights.Mlp(
                    names.linear(f"{at}.mlp.fc1"), names.linear(f"{at}.mlp.fc2")
                ),
                names.maybe(f"{at}.ls1.gamma"),
                names.maybe(f"{at}.ls2.gamma"),
            )
        )
    assert blocks[0].attention.query_norm is not None
    assert blocks[0].first_scale is not None
    seen = run_in(model, model.blocks, dtype, libraries.pixels().to(getattr(torch, dtype)))
    require_within(seen, blocks, EncoderSpec(libraries.HEADS), encoder.NOWHERE, dtype)


def without(matrix):
    return Linear(matrix.weight, np.zeros_like(matrix.bias))


def transposed(matrix):
    return Linear(matrix.weight.T, matrix.bias)


def attention_of(**changed):
    def change(block, spec):
        parts = {name: made(block.attention) for name, made in changed.items()}
        attention = dataclasses.replace(block.attention, **parts)
        return dataclasses.replace(block, attention=attention), spec

    return change


def spec_of(**changed):
    return lambda block, spec: (block, dataclasses.replace(spec, **changed))


MISTAKES = {
    "tanh GELU": spec_of(activation="gelu-tanh"),
    "quick GELU": spec_of(activation="quick-gelu"),
    "epsilon 1e-3": spec_of(norm_epsilon=1e-3),
    "no q bias": attention_of(query=lambda a: without(a.query)),
    "no v bias": attention_of(value=lambda a: without(a.value)),
    "norms exchanged": lambda block, spec: (
        dataclasses.replace(block, first_norm=block.second_norm, second_norm=block.first_norm),
        spec,
    ),
    "q and k exchanged": attention_of(query=lambda a: a.key, key=lambda a: a.query),
    "q not transposed": attention_of(query=lambda a: transposed(a.query)),
    "v not transposed": attention_of(value=lambda a: transposed(a.value)),
    "scale by the width": spec_of(attention_scale=96**-0.5),
    "one head too many": spec_of(num_heads=4),
}
TOLD = {
    "float32": list(MISTAKES),
    "float16": ["no v bias", "norms exchanged", "q and k exchanged", "q not transposed"],
    "bfloat16": ["norms exchanged", "q and k exchanged", "v not transposed"],
}


@pytest.mark.parametrize(
    ("dtype", "mistake"), [(dtype, each) for dtype, told in TOLD.items() for each in told]
)
def test_mistakes_are_outside_in_every_block(dtype, mistake):
    weights = stored(pp.initialize_encoder(96, depth=3, mlp_width=384, seed=3), dtype)
    tokens = np.random.default_rng(4).normal(size=(2, 50, 96)).astype(TYPES[dtype])
    spec = EncoderSpec(3)
    for block in weights.blocks:
        expectation = expect_block(tokens, block, spec, dtype=dtype)
        wrong = block_of_torch(tokens, *MISTAKES[mistake](block, spec), dtype)
        assert judge_block(wrong, expectation) > 1
        right = block_of_torch(tokens, block, spec, dtype)
        assert judge_block(right, expectation) <= LARGEST
        tokens = right.astype(TYPES[dtype])


def test_a_key_s_bias_is_no_matter():
    block, tokens = block_and_tokens(0, "float32")
    spec = EncoderSpec(3)
    changed = attention_of(key=lambda a: without(a.key))(block, spec)[0]
    measured = block_of_torch(tokens, changed, spec, "float32")
    assert judge_block(measured, expect_block(tokens, block, spec)) <= LARGEST


def test_bfloat16_weights_pass_in_either_type_and_quick_gelu_in_float32_does_not():
    block, tokens = block_and_tokens(5, "bfloat16")
    spec = EncoderSpec(3)
    for dtype in ("bfloat16", "float32"):
        expectation = expect_block(tokens, block, spec, dtype=dtype)
        assert judge_block(block_of_torch(tokens, block, spec, dtype), expectation) <= LARGEST
    wrong = block_of_torch(tokens, block, EncoderSpec(3, activation="quick-gelu"), "float32")
    assert judge_block(wrong, expectation) > 100


def _made_of(kind, numbers, tokens, block):
    """Inputs and weights that are not like those of a random walk."""
    attention, mlp = block.attention, block.mlp
    if kind == "equal tokens":
        tokens = np.broadcast_to(tokens[:1, :1], tokens.shape).copy()
    elif kind == "nearly constant tokens":
        tokens = 3 + 0.01 * tokens
    elif kind == "a massive channel":
        tokens = tokens + np.where(np.arange(tokens.shape[2]) == 3, 200, 0)
    elif kind == "tiny tokens":
        tokens = 1e-3 * tokens
    elif kind == "sharp attention":
        query, key = (
            Linear(4 * each.weight, 4 * each.bias) for each in (attention.query, attention.key)
        )
        block = dataclasses.replace(
            block, attention=dataclasses.replace(attention, query=query, key=key)
        )
    elif kind == "positive terms":
        tokens = np.abs(tokens)
        up, down, value, out = (
            Linear(np.abs(each.weight), each.bias)
            for each in (mlp.up, mlp.down, attention.value, attention.out)
        )
        block = dataclasses.replace(
            block,
            attention=dataclasses.replace(attention, value=value, out=out),
            mlp=dataclasses.replace(mlp, up=up, down=down),
        )
    else:
        size = np.where(np.arange(tokens.shape[2]) == 5, 30.0, 1.0)
        norms = (
            LayerNorm(each.scale * size, each.shift + numbers.normal())
            for each in (block.first_norm, block.second_norm)
        )
        block = dataclasses.replace(block, first_norm=next(norms), second_norm=next(norms))
    return tokens, block


@pytest.mark.parametrize("dtype", ["float32", *NARROW])
@pytest.mark.parametrize(
    "kind",
    [
        "equal tokens",
        "nearly constant tokens",
        "a massive channel",
        "tiny tokens",
        "sharp attention",
        "positive terms",
        "norms with an outlier",
    ],
)
def test_bounds_hold_where_errors_are_no_random_walk(kind, dtype):
    spec = EncoderSpec(3)
    for seed in range(3):
        block, tokens = block_and_tokens(seed, "float64")
        tokens, block = _made_of(kind, np.random.default_rng(seed), tokens, block)
        block, tokens = stored(block, dtype), tokens.astype(TYPES[dtype])
        expectation = expect_block(tokens, block, spec, dtype=dtype)
        for attention in ("fused", "scores"):
            measured = block_of_torch(tokens, block, spec, dtype, attention)
            assert judge_block(measured, expectation) <= 0.6


@pytest.mark.parametrize("name", sorted(BENDS))
@given(size=st.floats(-5, 2), seed=st.integers(0, 2**32 - 1))
def test_an_activation_carries_an_error_on_no_further_than_its_slope_and_bend(name, size, seed):
    numbers = np.random.default_rng(seed)
    x, error = numbers.normal(scale=2, size=300), 10**size * numbers.uniform(size=300)
    held = activate(Running(x, error), name, Arithmetic(0.0, 0.0, 0.0)).bound
    for moved in (x - error, x + error, x + error * numbers.uniform(-1, 1, size=300)):
        apart = np.abs(ACTIVATIONS[name](moved) - ACTIVATIONS[name](x))
        assert (apart <= held * (1 + 1e-9) + 1e-12).all()


@given(seed=st.integers(0, 2**32 - 1), centered=st.booleans(), size=st.floats(-6, -1))
def test_a_norm_carries_errors_on_as_its_differences_say(seed, centered, size):
    numbers = np.random.default_rng(seed)
    x, error = numbers.normal(size=(3, 2, 40)), 10**size * numbers.uniform(size=(3, 2, 40))
    norm = LayerNorm(numbers.normal(size=40), numbers.normal(size=40), centered)
    given_, none = Running(x, error), Arithmetic(0.0, 0.0, 0.0)
    held = running_error.layer_norm(given_, norm, 1e-6, none)
    np.testing.assert_allclose(held.values, layer_norm(x, norm, 1e-6), rtol=1e-12, atol=1e-12)
    for _ in range(5):
        moved = x + error * numbers.choice([-0.25, 0.25], size=x.shape)
        assert (np.abs(layer_norm(moved, norm, 1e-6) - held.values) <= held.bound).all()
    direction = 1e-3 * numbers.normal(size=x.shape)
    shared = running_error.layer_norm(
        Running(x, np.zeros_like(x), (direction,)), norm, 1e-6, none
    ).shared[0]
    step = layer_norm(x + 1e-3 * direction, norm, 1e-6) - layer_norm(
        x - 1e-3 * direction, norm, 1e-6
    )
    np.testing.assert_allclose(shared, step / 2e-3, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("pooling", ["class", "mean", "attention"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_end_of_an_encoder(pooling, dtype):
    numbers = np.random.default_rng(6)
    weights = pp.initialize_encoder(12, depth=1, mlp_width=20, seed=7)
    block, norm = weights.blocks[0], weights.final_norm
    weights = stored(
        dataclasses.replace(
            weights,
            pool=AttentionPool(numbers.normal(size=12), block.attention, norm, block.mlp),
            pooled_norm=LayerNorm(numbers.normal(size=12), None),
            pooler=Linear(numbers.normal(size=(12, 12)), numbers.normal(size=12)),
            head=Linear(numbers.normal(size=(5, 12))),
        ),
        dtype,
    )
    spec = EncoderSpec(3, pooling=pooling, prefix_tokens=1, suffix_tokens=2)
    tokens = numbers.normal(size=(2, 9, 12)).astype(TYPES[dtype])
    end = expect_end(tokens, weights, spec, dtype=dtype)
    alone = dataclasses.replace(weights, blocks=())
    with sums_in_float32():
        measured, exact = (encode(each, alone, spec) for each in (tokens, tokens.astype("f8")))
    assert list(end) == ["tokens", "pooled", "output"]
    for name, expectation in end.items():
        np.testing.assert_allclose(expectation.values, getattr(exact, name), rtol=0, atol=1e-12)
        assert 0 < judge_block(getattr(measured, name), expectation) <= LARGEST
        wrong = encode(tokens, alone, dataclasses.replace(spec, norm_epsilon=0.1))
        assert judge_block(getattr(wrong, name), expectation) > 1
    bare = expect_end(tokens, dataclasses.replace(alone, final_norm=None), EncoderSpec(3))
    assert list(bare) == ["tokens"]
    assert judge_block(tokens, bare["tokens"]) == 0


def test_what_is_judged():
    expectation = BlockExpectation(np.zeros((1, 2, 3)), np.full((1, 2, 3), 2.0))
    measured = np.zeros((1, 2, 3))
    measured[0, 1, 1] = -3
    assert judge_block(measured, expectation) == 1.5
    measured[0, 0, 0] = np.nan
    assert judge_block(measured, expectation) == np.inf
    assert judge_block(np.zeros((2, 3)), expectation) == np.inf


def test_what_is_refused():
    block, tokens = block_and_tokens(0, "float32")
    spec = EncoderSpec(3)
    for words, given_ in {
        "int8": lambda: expect_block(tokens, block, spec, dtype="int8"),
        "(B, S, D)": lambda: expect_block(tokens[0], block, spec),
        "width of 48": lambda: expect_block(tokens[:, :, :9], block, spec),
        "5 heads do not divide": lambda: expect_block(tokens, block, EncoderSpec(5)),
        "windows": lambda: expect_block(tokens, block, spec, Places(windows=np.zeros(4, int))),
        "attention pool": lambda: expect_end(
            tokens, pp.EncoderWeights((block,)), EncoderSpec(3, pooling="attention")
        ),
    }.items():
        with pytest.raises(PatchParityError) as raised:
            given_()
        assert words in str(raised.value)
