"""The catalogue of mistakes of whole encoders: each can be made, in one block or in all, changes
what it says and nothing else, and one that changes nothing is none."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity import EncoderSpec, EncoderWeights, Places, initialize_encoder, rotary_angles
from patchparity.reference.encoder_case import EncoderCase, alike
from patchparity.reference.encoder_mistakes import ENCODER_CATALOGUE
from patchparity.reference.encoder_mistakes.norms import short
from patchparity.reference.encoder_mistakes.order import by_name
from patchparity.reference.encoder_weights import Linear

from ..encoder_programs import PROGRAMS, program

pytestmark = pytest.mark.anywhere

DEPTH, PLACE = 3, 1
RIGHT = {name: program(name, depth=DEPTH) for name in PROGRAMS}
BLOCKS = {name for name, mistake in ENCODER_CATALOGUE.items() if mistake.of_block}


def made(name, place=None):
    """Every wrong case of a mistake, with the right one."""
    for each in RIGHT.values():
        case = each.case(place)
        if (wrong := ENCODER_CATALOGUE[name].make(case)) is not None:
            yield case, wrong, each.tokens


def test_the_catalogue_has_names_and_words():
    assert len(ENCODER_CATALOGUE) >= 30
    for name, mistake in ENCODER_CATALOGUE.items():
        assert name == mistake.id
        assert re.fullmatch(r"[a-z0-9-]+", name)
        assert mistake.explanation[-1] != "."
        assert mistake.mend


@pytest.mark.parametrize("name", ENCODER_CATALOGUE)
def test_each_changes_outputs_unless_it_is_harmless(name):
    if name == "blocks-by-name":  # which needs more than ten blocks
        right = program("vit", depth=12)
        cases = [(right.case(), ENCODER_CATALOGUE[name].make(right.case()), right.tokens)]
    else:
        cases = list(made(name))
    assert cases, "no program can make it"
    for right, wrong, tokens in cases:
        (_, end), (_, other) = right.run(tokens), wrong.run(tokens)
        parts = [(end.tokens, other.tokens), (end.pooled, other.pooled), (end.output, other.output)]
        same = [np.allclose(a, b, rtol=1e-9) for a, b in parts if a is not None and b is not None]
        turned = any(
            block.places.rotary or block.block.attention.key_norm for block in right.blocks
        )
        if ENCODER_CATALOGUE[name].harmless and not turned:
            assert all(same)
        else:
            assert not all(same)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_mistake_of_one_block_changes_that_one_alone(name):
    places = (1,) if name == "windows-everywhere" else (0, 2)
    for place in places:
        for right, wrong, _ in made(name, place):
            changed = [not alike(a, b) for a, b in zip(right.blocks, wrong.blocks, strict=True)]
            assert changed == [number == place for number in range(DEPTH)]
            assert wrong.end is right.end


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_a_mistake_of_all_blocks_is_that_of_each(name):
    for right, wrong, _ in made(name):
        for here, there in zip(right.blocks, wrong.blocks, strict=True):
            alone = ENCODER_CATALOGUE[name].of_block(here)
            assert alike(alone or here, there)


@pytest.mark.parametrize(
    "name", [name for name in sorted(BLOCKS) if "exchanged" in name and "rotary" not in name]
)
def test_exchanged_twice_is_right_again(name):
    for right, wrong, _ in made(name):
        assert alike(ENCODER_CATALOGUE[name].make(wrong).blocks, right.blocks)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("joined-cut-by-head", "joined-cut-by-matrix"),
        ("query-key-value-heads-minor", "query-key-value-heads-major"),
        ("out-heads-minor", "out-heads-major"),
        ("all-heads-minor", "all-heads-major"),
    ],
)
def test_an_order_of_heads_has_its_inverse(there, back):
    for right, wrong, tokens in made(there):
        if any(linear(block, "key").bias is None for block in right.blocks):
            continue  # an absent bias comes back as zeros
        again = ENCODER_CATALOGUE[back].make(wrong)
        np.testing.assert_array_equal(again.run(tokens)[0][-1], right.run(tokens)[0][-1])


def linear(case, name) -> Linear:
    return getattr(case.block.attention, name)


def test_joined_rows_are_cut_as_reshapes_cut_them():
    right = RIGHT["vit"].case().blocks[0]
    heads = right.spec.num_heads
    joined = np.concatenate([linear(right, name).weight for name in ("query", "key", "value")])
    wrong = ENCODER_CATALOGUE["joined-cut-by-head"].of_block(right)
    cut = joined.reshape(heads, 3, -1, joined.shape[1])
    for number, name in enumerate(("query", "key", "value")):
        expected = cut[:, number].reshape(-1, joined.shape[1])
        np.testing.assert_array_equal(linear(wrong, name).weight, expected)


def test_heads_of_rows_are_cut_as_reshapes_cut_them():
    right = RIGHT["vit"].case().blocks[0]
    heads = right.spec.num_heads
    wrong = ENCODER_CATALOGUE["query-key-value-heads-minor"].of_block(right)
    weight = linear(right, "query").weight
    expected = weight.reshape(heads, -1, weight.shape[1]).swapaxes(0, 1).reshape(weight.shape)
    np.testing.assert_array_equal(linear(wrong, "query").weight, expected)


@settings(max_examples=20)
@given(st.integers(2, 30), st.data())
def test_orders_of_blocks(depth, data):
    place = data.draw(st.integers(0, depth - 1))
    weights = initialize_encoder(4, depth=depth, mlp_width=3, seed=1)
    case = EncoderCase.of(weights, EncoderSpec(2), place=place)
    numbers = {id(block): number for number, block in enumerate(weights.blocks)}

    def order(name):
        wrong = ENCODER_CATALOGUE[name].make(case)
        return None if wrong is None else [numbers[id(each.block)] for each in wrong.blocks]

    assert order("blocks-reversed") == list(range(depth))[::-1]
    assert order("blocks-by-name") == (by_name(depth) if depth > 10 else None)
    assert order("last-block-dropped") == list(range(depth - 1))
    assert len(order("block-twice")) == depth + 1
    assert place not in order("block-dropped")
    swapped = order("blocks-exchanged")
    assert swapped is None if place == depth - 1 else swapped[place] == place + 1
    stale = order("block-stale")
    assert stale is None if not place else stale[place] == place - 1


@pytest.mark.parametrize("coordinates", ["index", "unit"])
@pytest.mark.parametrize("temperature", [100.0, 10000.0])
def test_other_rotary_positions_are_those_that_a_program_makes(coordinates, temperature):
    right, other = rotary_angles((3, 5), 16, temperature=temperature, coordinates=coordinates), {}
    weights = initialize_encoder(32, depth=1, mlp_width=8, seed=0)
    case = EncoderCase.of(weights, EncoderSpec(2), Places(right)).blocks[0]
    for name in ("rotary-temperature-1000", "rotary-coordinates", "heads-4"):
        other[name] = ENCODER_CATALOGUE[name].of_block(case).places.rotary.angles
    turned = "unit" if coordinates == "index" else "index"
    for name, width, fields in (
        ("rotary-temperature-1000", 16, {"temperature": 1000.0, "coordinates": coordinates}),
        ("rotary-coordinates", 16, {"temperature": temperature, "coordinates": turned}),
        ("heads-4", 8, {"temperature": temperature, "coordinates": coordinates}),
    ):
        expected = rotary_angles((3, 5), width, **fields).angles
        np.testing.assert_allclose(other[name], expected, rtol=1e-9, atol=1e-12)


def test_what_makes_no_difference_is_no_mistake():
    weights = initialize_encoder(12, depth=1, mlp_width=20, seed=0)
    block = weights.blocks[0]
    attention = dataclasses.replace(
        block.attention,
        query=Linear(np.eye(12), np.zeros(12)),
        key=Linear(np.eye(12), np.zeros(12)),
    )
    block = dataclasses.replace(block, attention=attention, second_norm=block.first_norm)
    case = EncoderCase.of(EncoderWeights((block,)), EncoderSpec(3))
    for name in (
        "norms-exchanged", "query-transposed", "query-bias-dropped", "query-key-exchanged",
        "epsilon-1e-6", "heads-3", "activation-gelu", "norms-pre", "rotary-pairing",
        "windows-ignored", "layer-scales-dropped", "gate-dropped", "head-transposed",
        "blocks-reversed", "pool-probe-dropped", "up-transposed",
    ):  # fmt: skip
        assert ENCODER_CATALOGUE[name].make(case) is None, name


def test_what_was_declared_is_told():
    case = RIGHT["gated"].case().blocks[0]
    for name, words in (
        ("epsilon-1e-3", "eps is 1e-3, 1e-5 was declared"),
        ("activation-gelu", "the activation is exact GELU, SiLU was declared"),
        ("heads-4", "the number of heads is 4, 6 was declared"),
        ("rotary-temperature-10000", "positions is 10000, 100 was declared"),
        ("attention-scale-missing", "scores are not scaled, 1/√d was declared"),
    ):
        assert ENCODER_CATALOGUE[name].told(case).endswith(words)


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e-12, "1e-12"), (2.5e-5, "2.5e-5"), (1e-3, "1e-3"), (0.125, "0.125"), (1e4, "10000")],
)
def test_numbers_are_short(value, words):
    assert short(value) == words
