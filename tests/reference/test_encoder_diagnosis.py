"""Diagnosis of encoders: each mistake is named with its block, right blocks are right, and what is
in no catalogue is told as such."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity import EncoderSpec, EncoderWeights, PatchParityError, initialize_encoder
from patchparity.reference.diagnosis.encoder import MeasuredBlocks, diagnose_encoder
from patchparity.reference.encoder_case import EncoderCase
from patchparity.reference.encoder_mistakes import ENCODER_CATALOGUE

from ..encoder_kills import named_rightly
from ..encoder_programs import PROGRAMS, TYPES, measured, program

pytestmark = pytest.mark.anywhere

DEPTH, PLACE = 3, 1
RIGHT = {form: program(form, depth=DEPTH) for form in PROGRAMS}
VIT = RIGHT["vit"]


def diagnosed(right, wrong, dtype="float32", **options):
    blocks = measured(right, wrong, dtype)
    return diagnose_encoder(blocks, right.weights, right.spec, right.places, dtype=dtype, **options)


def makeable():
    for name, mistake in ENCODER_CATALOGUE.items():
        for form, right in RIGHT.items():
            if mistake.make(right.case()) is not None:
                yield pytest.param(name, form, id=f"{name}-{form}")
                break


@pytest.mark.parametrize(("name", "form"), makeable())
def test_each_mistake_is_named_with_its_block(name, form):
    right, mistake, place = RIGHT[form], ENCODER_CATALOGUE[name], None
    if mistake.of_block and mistake.part != "positions":
        place = 0 if name.startswith("epsilon") else PLACE  # which the first block shows best
    wrong = mistake.make(right.case(place))
    found = diagnosed(right, wrong, pairs=False)
    if mistake.harmless:
        assert found.correct
        return
    named, alone = named_rightly(found, mistake, right.case(), wrong)
    assert named, str(found)
    assert alone or name.startswith("epsilon"), str(found)
    assert found.mend
    assert mistake.mend in found.mend or mistake.part == "order"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", PROGRAMS)
def test_right_encoders_are_right(form, dtype):
    right = program(form, dtype, depth=DEPTH)
    found = diagnosed(right, right.case(), dtype)
    assert found.correct, str(found)
    assert found.status == "correct"
    assert max(found.evidence["over"]) < 1
    assert f"are correct in {dtype}" in str(found)


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.01, 0.3, 1.0, 10.0]),
    form=st.sampled_from(sorted(PROGRAMS)),
)
def test_no_input_makes_a_right_encoder_wrong(seed, scale, form):
    right = program(form, depth=2)
    noise = np.random.default_rng(seed).standard_normal(right.tokens.shape)
    right = dataclasses.replace(right, tokens=(scale * noise).astype(np.float32))
    assert diagnosed(right, right.case()).correct


def both(right, *made):
    """One mistake after another, each at its place."""
    case = right.case()
    for name, place in made:
        case = ENCODER_CATALOGUE[name].make(dataclasses.replace(case, place=place))
    return case


@pytest.mark.parametrize(
    "names",
    [
        ("norms-exchanged", "query-transposed"),
        ("activation-gelu-tanh", "value-bias-dropped"),
        ("heads-4", "epsilon-1e-3"),
        ("query-key-exchanged", "up-bias-dropped"),
    ],
)
def test_two_mistakes_in_one_block_are_both_named(names):
    found = diagnosed(VIT, both(VIT, *((name, PLACE) for name in names)))
    assert {name for each in found.findings for name in each.mistakes} == set(names), str(found)
    assert {each.where for each in found.findings} == {f"block {PLACE}"}


def test_pairs_are_searched_where_asked():
    wrong = both(VIT, ("norms-exchanged", PLACE), ("query-transposed", PLACE))
    assert diagnosed(VIT, wrong, pairs=False).status == "unknown"


def test_a_mistake_of_all_blocks_beside_one_of_one_block():
    wrong = both(VIT, ("activation-gelu-tanh", None), ("norms-exchanged", 2))
    found = diagnosed(VIT, wrong)
    assert [each.where for each in found.findings] == ["all blocks", "block 2"], str(found)
    assert found.explanation == ("all blocks: the activation is tanh GELU, exact GELU was declared")


def test_a_mistake_of_all_blocks_beside_another_order():
    right = program("vit")
    wrong = both(right, ("blocks-by-name", None), ("activation-gelu-tanh", None))
    found = diagnosed(right, wrong)
    named = {name for each in found.findings for name in each.mistakes}
    assert named == {"blocks-by-name", "activation-gelu-tanh"}, str(found)


def test_blocks_in_the_order_of_their_names():
    right = program("vit")
    found = diagnosed(right, both(right, ("blocks-by-name", None)))
    assert found.explanation == (
        "block 2 holds the weights of block 10: the blocks are in the order of their names"
    )
    assert found.findings[0].blocks == (2, 3, 4, 5, 6, 7, 8, 9, 10, 11)


def moved(right, numbers):
    blocks = right.case().blocks
    return dataclasses.replace(right.case(), blocks=tuple(blocks[number] for number in numbers))


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((0, 2, 1, 3), "block 1 holds the weights of block 2: the two are exchanged"),
        ((3, 1, 2, 0), "block 0 holds the weights of block 3: the two are exchanged"),
        ((0, 1, 1, 3), "block 2 holds the weights of block 1: its own are nowhere"),
        ((0, 1, 2), "block 3, the last, is missing"),
        ((1, 2, 3), "block 0 holds the weights of block 1: block 0 is missing"),
        ((0, 1, 1, 2, 3), "block 2 holds the weights of block 1: block 1 runs twice"),
        ((0, 1, 2, 3, 3), "block 4 holds the weights of block 3: block 3 runs twice"),
        ((1, 2, 0, 3), "another order: 1, 2, 0, 3"),
        ((0, 1), "4 blocks were declared, 2 were measured"),
    ],
)
def test_orders_are_told(numbers, words):
    right = program("vit", depth=4)
    found = diagnosed(right, moved(right, numbers), pairs=False)
    assert found.explanation.endswith(words), str(found)
    assert len(found.findings) == 1


@pytest.mark.parametrize("epsilon", [3e-5, 7.5e-4, 0.02])
def test_an_epsilon_that_is_in_no_list_is_estimated(epsilon):
    right = VIT.case()
    blocks = list(right.blocks)
    blocks[0] = dataclasses.replace(
        blocks[0], spec=dataclasses.replace(VIT.spec, norm_epsilon=epsilon)
    )
    found = diagnosed(VIT, dataclasses.replace(right, blocks=tuple(blocks)))
    told = float(found.explanation.partition("eps is about ")[2].partition(",")[0])
    assert told == pytest.approx(epsilon, rel=0.05)


def test_a_scale_that_is_in_no_list_is_estimated():
    right = VIT.case()
    blocks = list(right.blocks)
    spec = dataclasses.replace(VIT.spec, attention_scale=0.271)
    blocks[PLACE] = dataclasses.replace(blocks[PLACE], spec=spec)
    found = diagnosed(VIT, dataclasses.replace(right, blocks=tuple(blocks)))
    assert "block 1: scores are multiplied by about 0.271, 1/√d was declared" in str(found)


def test_what_is_in_no_catalogue_is_unknown_and_measured():
    blocks = measured(VIT, VIT.case())
    noise = np.random.default_rng(3).standard_normal(blocks.left[PLACE].shape)
    left = list(blocks.left)
    left[PLACE] = left[PLACE] + 0.01 * noise.astype(np.float32)
    found = diagnose_encoder(dataclasses.replace(blocks, left=tuple(left)), VIT.weights, VIT.spec)
    assert found.status == "unknown"
    assert found.explanation.startswith("block 1: wrong, by nothing in the catalogue: ")
    assert found.findings[0].over == pytest.approx(found.evidence["over"][PLACE])
    assert found.to_dict()["findings"][0]["blocks"] == (PLACE,)


def test_values_that_are_not_finite_are_told():
    blocks = measured(VIT, VIT.case())
    left = list(blocks.left)
    left[2] = np.full_like(left[2], np.nan)
    found = diagnose_encoder(dataclasses.replace(blocks, left=tuple(left)), VIT.weights, VIT.spec)
    assert "block 2" in found.explanation
    assert "NaN or infinite" in found.explanation


def test_several_explanations_are_told_as_alternatives():
    right = program("gated", "bfloat16", depth=DEPTH)
    wrong = ENCODER_CATALOGUE["activation-gelu-tanh"].make(right.case())
    found = diagnosed(right, wrong, "bfloat16")
    assert found.status == "tied"
    named = {*found.findings[0].mistakes, *(name for ids in found.findings[0].also for name in ids)}
    assert named >= {"activation-gelu", "activation-gelu-tanh"}
    assert "also possible (activation-gelu" in str(found)


def test_a_mistake_is_judged_at_the_precision_of_the_type():
    for dtype, correct in (("float32", False), ("bfloat16", True)):
        right = program("vit", dtype, depth=DEPTH)
        wrong = ENCODER_CATALOGUE["activation-gelu-tanh"].make(right.case())
        assert diagnosed(right, wrong, dtype).correct is correct


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: {"given": m.given[1:]}, "2 inputs and 3 outputs"),
        (lambda m: {"left": tuple(x[:, 1:] for x in m.left)}, "block 0 made"),
        (lambda m: {"end_given": None}, "without `end_given`"),
    ],
)
def test_what_was_measured_wrongly_is_refused(change, words):
    blocks = measured(VIT, VIT.case())
    with pytest.raises(PatchParityError, match=words):
        dataclasses.replace(blocks, **change(blocks))


def test_what_cannot_be_diagnosed_is_refused():
    blocks = measured(VIT, VIT.case())
    with pytest.raises(PatchParityError, match="int8"):
        diagnose_encoder(blocks, VIT.weights, VIT.spec, dtype="int8")
    with pytest.raises(PatchParityError, match="without blocks"):
        diagnose_encoder(blocks, EncoderWeights(()), VIT.spec)
    other = initialize_encoder(24, depth=DEPTH, mlp_width=8, seed=0)
    with pytest.raises(PatchParityError, match="a width of 24"):
        diagnose_encoder(blocks, other, EncoderSpec(3))
    headless = dataclasses.replace(VIT.weights, head=None)
    with pytest.raises(PatchParityError, match="output of shape"):
        diagnose_encoder(blocks, headless, VIT.spec)


def test_blocks_alone_can_be_diagnosed():
    case = EncoderCase.of(VIT.weights, VIT.spec)
    left, _ = case.run(VIT.tokens)
    blocks = MeasuredBlocks((VIT.tokens, *left[:-1]), tuple(left))
    assert str(diagnose_encoder(blocks, VIT.weights, VIT.spec)) == (
        "correct: all 3 blocks are correct in float32; not measured: the final norm, the head"
    )


def test_what_some_blocks_and_the_end_show_is_tried_of_the_other_blocks():
    right = program("square", depth=6)
    wrong = ENCODER_CATALOGUE["epsilon-1e-5"].make(right.case())
    found = diagnosed(right, wrong, pairs=False)
    assert len(found.findings) == 1, str(found)
    assert len(found.findings[0].blocks) < 6
    assert found.findings[0].where == "all blocks, and the end"
