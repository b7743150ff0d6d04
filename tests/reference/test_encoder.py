"""The encoder, against loops over single numbers that know nothing of arrays, and against
properties."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patchparity as pp
from patchparity.reference.activations import ACTIVATIONS, erf
from patchparity.reference.encoder import Places, Rotary, encode, encode_blocks, rotary_angles
from patchparity.reference.encoder_weights import (
    Attention,
    AttentionPool,
    Block,
    EncoderSpec,
    EncoderWeights,
    Linear,
    Mlp,
)
from patchparity.reference.errors import PatchParityError
from patchparity.reference.weights import LayerNorm

ONE_BY_ONE = {
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu-tanh": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "quick-gelu": lambda x: x / (1 + math.exp(-1.702 * x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "relu": lambda x: max(x, 0.0),
    "identity": lambda x: x,
}


def product(linear, x):
    bias = [0.0] * len(linear.weight) if linear.bias is None else linear.bias
    return [
        math.fsum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(linear.weight, bias, strict=True)
    ]


def normed(norm, x, epsilon):
    mean = math.fsum(x) / len(x) if norm.centered else 0.0
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in x) / len(x) + epsilon)
    shift = [0.0] * len(x) if norm.shift is None else norm.shift
    return [(v - mean) / spread * s + t for v, s, t in zip(x, norm.scale, shift, strict=True)]


def turned(head, angles, pairing):
    head = list(head)
    for number, angle in enumerate(angles):
        first = number if pairing == "halves" else 2 * number
        second = number + len(angles) if pairing == "halves" else 2 * number + 1
        a, b = head[first], head[second]
        head[first] = a * math.cos(angle) - b * math.sin(angle)
        head[second] = b * math.cos(angle) + a * math.sin(angle)
    return head


def attention_by_loops(of, tokens, weights, spec, angles, windows):
    """`of` and `tokens` are lists of vectors."""

    def heads_of(linear, norm, vectors, turns):
        cut = []
        for place, vector in enumerate(vectors):
            row = product(linear, vector)
            width = len(row) // spec.num_heads
            if norm is not None and len(norm.scale) == len(row) != width:
                row = normed(norm, row, spec.norm_epsilon)
            heads = [row[h * width : (h + 1) * width] for h in range(spec.num_heads)]
            if norm is not None and len(norm.scale) == width:
                heads = [normed(norm, head, spec.norm_epsilon) for head in heads]
            patch = place - spec.prefix_tokens
            if turns is not None and 0 <= patch < len(turns):
                heads = [turned(head, turns[patch], spec.pairing) for head in heads]
            cut.append(heads)
        return cut

    queries = heads_of(weights.query, weights.query_norm, of, angles)
    keys = heads_of(weights.key, weights.key_norm, tokens, angles)
    values = heads_of(weights.value, None, tokens, None)
    results = []
    for i, query in enumerate(queries):
        row = []
        for h in range(spec.num_heads):
            scale = spec.attention_scale or 1 / math.sqrt(len(query[h]))
            scores = []
            for j, key in enumerate(keys):
                score = scale * math.fsum(a * b for a, b in zip(query[h], key[h], strict=True))
                if weights.scores_bias is not None:
                    score += weights.scores_bias[h, i, j]
                scores.append(score if windows is None or windows[i] == windows[j] else -math.inf)
            highest = max(scores)
            raised = [math.exp(score - highest) for score in scores]
            total = math.fsum(raised)
            row += [
                math.fsum(r / total * value[h][c] for r, value in zip(raised, values, strict=True))
                for c in range(len(values[0][h]))
            ]
        results.append(product(weights.out, row))
    return results


def mlp_by_loops(x, weights, spec):
    act = ONE_BY_ONE[spec.activation]
    inner = product(weights.up, x)
    if weights.gate is None:
        inner = [act(v) for v in inner]
    else:
        inner = [act(g) * v for g, v in zip(product(weights.gate, x), inner, strict=True)]
    if weights.norm is not None:
        inner = normed(weights.norm, inner, spec.norm_epsilon)
    return product(weights.down, inner)


def block_by_loops(tokens, block, spec, angles, windows):
    for half in ("attention", "mlp"):
        norm = block.first_norm if half == "attention" else block.second_norm
        scale = block.first_scale if half == "attention" else block.second_scale
        given = [normed(norm, x, spec.norm_epsilon) if spec.norms == "pre" else x for x in tokens]
        if half == "attention":
            results = attention_by_loops(given, given, block.attention, spec, angles, windows)
        else:
            results = [mlp_by_loops(x, block.mlp, spec) for x in given]
        if spec.norms == "behind":
            results = [normed(norm, x, spec.norm_epsilon) for x in results]
        factors = [1.0] * len(tokens[0]) if scale is None else scale
        tokens = [
            [v + f * r for v, f, r in zip(x, factors, result, strict=True)]
            for x, result in zip(tokens, results, strict=True)
        ]
        if spec.norms == "post":
            tokens = [normed(norm, x, spec.norm_epsilon) for x in tokens]
    return tokens


@st.composite
def encoders(draw):
    """An encoder with any of what one may have, its tokens, and its places."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    heads, each = draw(st.integers(1, 3)), draw(st.sampled_from([2, 4, 6]))
    width, inner = draw(st.integers(3, 9)), draw(st.integers(2, 7))
    inside = heads * each
    centered = draw(st.booleans())

    def array(*shape, around=0.0):
        return around + numbers.normal(size=shape)

    def linear(rows, columns):
        return Linear(array(rows, columns), array(rows) if draw(st.booleans()) else None)

    def norm(size, force=True):
        if not force and draw(st.booleans()):
            return None
        shift = array(size) if draw(st.booleans()) else None
        return LayerNorm(array(size, around=1.0), shift, centered)

    ahead, behind = draw(st.integers(0, 2)), draw(st.integers(0, 1))
    grid = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    count = ahead + math.prod(grid) + behind

    def block():
        at = each if draw(st.booleans()) else inside
        attention = Attention(
            *(linear(inside, width) for _ in range(3)),
            linear(width, inside),
            norm(at, force=False),
            norm(at, force=False),
            array(heads, count, count) if draw(st.booleans()) else None,
        )
        gate = linear(inner, width) if draw(st.booleans()) else None
        mlp = Mlp(linear(inner, width), linear(width, inner), gate, norm(inner, force=False))
        scales = [array(width) if draw(st.booleans()) else None for _ in range(2)]
        return Block(norm(width), attention, norm(width), mlp, *scales)

    blocks = tuple(block() for _ in range(draw(st.integers(1, 2))))
    spec = EncoderSpec(
        heads,
        draw(st.sampled_from([0.0, 1e-6, 0.5])) or 1e-12,
        draw(st.sampled_from(sorted(ONE_BY_ONE))),
        draw(st.sampled_from(["pre", "post", "behind"])),
        draw(st.sampled_from([None, 0.3])),
        prefix_tokens=ahead,
        suffix_tokens=behind,
        pairing=draw(st.sampled_from(["halves", "interleaved"])),
        full_blocks=draw(st.sampled_from([(), (0,), (1,)])),
    )
    pairs = draw(st.integers(1, each // 2))
    rotary = Rotary(array(math.prod(grid), pairs)) if draw(st.booleans()) else None
    windows = numbers.integers(0, 2, count) if draw(st.booleans()) else None
    return array(2, count, width), EncoderWeights(blocks), spec, Places(rotary, windows)


@settings(max_examples=60, deadline=None)
@given(encoders())
def test_blocks_are_what_loops_over_single_numbers_give(drawn):
    tokens, weights, spec, places = drawn
    angles = None if places.rotary is None else places.rotary.angles
    theirs = tokens.tolist()
    for number, ours in enumerate(encode_blocks(tokens, weights, spec, places)):
        windows = None if number in spec.full_blocks else places.windows
        theirs = [
            block_by_loops(image, weights.blocks[number], spec, angles, windows) for image in theirs
        ]
        expected = np.array(theirs)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_the_error_function_is_that_of_the_c_library():
    x = np.concatenate([np.linspace(-7, 7, 20001), np.geomspace(1e-300, 5, 500), [0.0, -0.0, 50.0]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), expected, rtol=6e-16, atol=0)
    special = erf(np.array([np.inf, -np.inf, np.nan]))
    assert special[:2].tolist() == [1.0, -1.0]
    assert np.isnan(special[2])


@pytest.mark.parametrize("name", sorted(ONE_BY_ONE))
def test_activations_are_what_their_formulas_give(name):
    x = np.random.default_rng(0).normal(scale=4, size=500)
    expected = [ONE_BY_ONE[name](value) for value in x]
    np.testing.assert_allclose(ACTIVATIONS[name](x), expected, rtol=1e-13, atol=1e-15)
    assert ACTIVATIONS[name](x.astype(np.float32)).dtype == np.float32


def test_float32_stays_within_its_rounding_of_float64():
    tokens = np.random.default_rng(1).normal(size=(2, 14, 24))
    weights = pp.initialize_encoder(24, depth=3, mlp_width=50, seed=2)
    spec = EncoderSpec(4)
    wide, narrow = (encode(tokens.astype(kind), weights, spec).tokens for kind in ("f8", "f4"))
    assert narrow.dtype == np.float32
    assert 1e-8 < np.abs(wide - narrow).max() < 1e-5


def test_pooling():
    numbers = np.random.default_rng(3)
    tokens = numbers.normal(size=(2, 7, 12))
    weights = pp.initialize_encoder(12, depth=1, mlp_width=20, seed=4)
    block = weights.blocks[0]
    head = Linear(numbers.normal(size=(5, 12)), numbers.normal(size=5))
    kinds = dict(pool=AttentionPool(numbers.normal(size=12), block.attention), head=head)
    weights = dataclasses.replace(weights, **kinds)
    around = dict(prefix_tokens=2, suffix_tokens=1)
    encoded = {
        kind: encode(tokens, weights, EncoderSpec(3, pooling=kind, **around))
        for kind in ("none", "class", "mean", "attention")
    }
    behind = encoded["none"].tokens
    assert encoded["none"].pooled is None
    np.testing.assert_array_equal(encoded["class"].pooled, behind[:, 0])
    np.testing.assert_allclose(encoded["mean"].pooled, behind[:, 2:6].mean(axis=1))
    for image, pooled in zip(behind, encoded["attention"].pooled, strict=True):
        expected = attention_by_loops(
            [kinds["pool"].probe], image[2:6], block.attention, EncoderSpec(3), None, None
        )
        np.testing.assert_allclose(pooled, expected[0], rtol=1e-12)
    np.testing.assert_allclose(
        encoded["mean"].output, encoded["mean"].pooled @ head.weight.T + head.bias
    )


def test_angles_of_rows_and_columns():
    angles = rotary_angles((2, 3), 8, temperature=100.0).angles
    assert angles.shape == (6, 4)
    # the patch of row 1 and column 2: two frequencies of the row, two of the column
    np.testing.assert_allclose(angles[5], [1, 100**-0.5, 2, 2 * 100**-0.5])
    unit = rotary_angles((2, 4), 4, coordinates="unit").angles
    np.testing.assert_allclose(unit[0], 2 * np.pi * np.array([-1 / 2, -3 / 4]))


TOKENS = np.zeros((1, 5, 12))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: encode(TOKENS, w, EncoderSpec(5)), "query of width 12: 5 heads do not divide"),
        (lambda w: encode(TOKENS[0], w, EncoderSpec(3)), r"tokens of shape \(5, 12\): expected"),
        (lambda w: encode(TOKENS[..., :9], w, EncoderSpec(3)), "block 0 takes a width of 12"),
        (
            lambda w: encode(TOKENS, w, EncoderSpec(3), Places(rotary_angles((2, 2), 4))),
            r"angles of shape \(4, 2\): expected \(5, 2\) at most",
        ),
        (
            lambda w: encode(TOKENS, w, EncoderSpec(3), Places(windows=np.zeros(4))),
            r"windows of shape \(4,\): expected \(5,\)",
        ),
        (lambda w: encode(TOKENS, w, EncoderSpec(3, pooling="attention")), "needs the weights of"),
        (lambda w: EncoderSpec(0), "num_heads=0: expected a number of at least 1"),
        (lambda w: EncoderSpec(3, activation="gelu_tanh"), "did you mean gelu-tanh"),
        (lambda w: EncoderSpec(3, norm_epsilon="1e-6"), "norm_epsilon='1e-6': expected a number"),
        (lambda w: rotary_angles((2, 2), 6), "a head of width 6: rotary angles"),
        (lambda w: Linear(np.zeros((3, 4)), np.zeros(4)), r"a bias of \(4,\)"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    weights = pp.initialize_encoder(12, depth=2, mlp_width=20, seed=0)
    with pytest.raises(PatchParityError, match=message):
        call(weights)
