"""Random encoders in every layout: what is written reads back to the last bit, and steps are undone
by those that they say."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.dialects.fit import fit
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.encoders.changes import CHANGES
from patchparity.porting.encoders.found import FoundEncoder, Part, field_of, find_encoder
from patchparity.porting.encoders.layout import BLOCK_FIELDS, FIELDS, Entry
from patchparity.porting.encoders.load import list_encoders
from patchparity.porting.encoders.semantics import DEFAULTS, Semantics
from patchparity.porting.encoders.state import Target, start
from patchparity.porting.whole.fit import MovedModel
from patchparity.porting.whole.tensors import tensors_of_whole
from patchparity.reference.errors import PatchParityError

from .made_up import Held
from .test_dialects import random_stage

DIALECTS = list_dialects()
TARGETS = [
    (layout.id, number)
    for layout in list_encoders().values()
    if not layout.read_only
    for number in range(len(layout.models))
]
WIDTH = 24
"""Of `random_stage`."""


class File(Held):
    """A checkpoint of these arrays."""

    def __init__(self, arrays, kind):
        super().__init__({name: array.shape for name, array in arrays.items()}, kind)
        self.arrays = arrays

    def _read(self, name):
        return self.arrays[name]

    def view(self, name, row=None):
        return self.arrays[name] if row is None else self.arrays[name][row : row + 1]


class Made(tuple):
    """A target, an encoder and its semantics, shown without their numbers."""

    def __repr__(self):
        target, encoder, _ = self
        return f"({target.model.name}, {encoder.depth} blocks of {sorted(encoder.held)})"


@st.composite
def encoders(draw, place=None):
    """A target and a random encoder that it holds: sizes, depth, and which optional parts."""
    identity, number = place or draw(st.sampled_from(TARGETS))
    layout = list_encoders()[identity]
    target = Target(layout, layout.models[number])
    heads, each = draw(st.integers(1, 3)), 2 * draw(st.integers(1, 3))
    sizes = {"D": WIDTH, "h": heads, "d": each, "E": heads * each, "F": heads * each}
    sizes |= {letter: draw(st.integers(2, 50)) for letter in "MNPC"}
    chosen: dict[str, bool] = {}
    held = []
    for entry in layout.entries:
        if not all(target.holds(name) for name in entry.fields):
            continue
        word = _covered_by(layout, entry.fields[0])
        needed = any(target.needs(name) for name in entry.fields)
        if needed or chosen.setdefault(word, draw(st.booleans())):
            held += entry.fields
    if "pooler.weight" not in held:  # a head behind one is as wide as that
        del sizes["P"]
    depth = draw(st.sampled_from((1, 2, 3, 11)))
    zeros = draw(st.sampled_from(("none", "biases", "scales")))
    parts = _parts(held, depth, sizes, draw(st.integers(0, 2**32 - 1)), zeros)
    rotary = draw(st.sampled_from(("", "unit")))
    semantics = {
        **DEFAULTS,
        "num_heads": heads,
        "norm_epsilon": 1e-6,
        "activation": "gelu",
        "pooling": "class",
        "rotary": rotary,
        "pairing": draw(st.sampled_from(("halves", "interleaved"))),
    }
    found = FoundEncoder(layout, depth, sizes, parts)
    return Made((target, found, Semantics(semantics, {})))


def _covered_by(layout, name):
    """By which word of a layout a part need not be there."""
    words = name.split(".")
    owners = [".".join(words[:count]) for count in range(1, len(words) + 1)]
    return next((owner for owner in owners if owner in layout.optional), name)


def _parts(held, depth, sizes, seed, zeros):
    numbers = np.random.default_rng(seed)
    parts = {}
    places = [
        f"blocks.{number}.{name}" for number in range(depth) for name in held if _in_blocks(name)
    ] + [name for name in held if not _in_blocks(name)]
    for place in places:
        name = field_of(place)
        shape = Entry((name,), "", FIELDS[name]).shape(sizes)
        array = numbers.standard_normal(shape).astype(np.float32)
        if zeros == "biases" and name.endswith((".bias", ".shift")):
            array[:] = 0
        if zeros == "scales" and name in ("first_scale", "second_scale"):
            array[:] = 1
        parts[place] = Part(shape, "float32", lambda array=array: array)
    return parts


def _in_blocks(name):
    return name in BLOCK_FIELDS


def written(target, encoder, semantics, seed):
    """The tensors of a whole model with a random stage, as a checkpoint in memory."""
    name = target.layout.stages[seed % len(target.layout.stages)]
    dialect = DIALECTS[name]
    if "cls_token" in target.model.empty:
        weights, spec = random_stage(dialect, seed, positioned=())
        weights = dataclasses.replace(weights, class_token=None)
    else:
        weights, spec = random_stage(dialect, seed)
    weights, plan = fit(weights, spec, dialect)
    moved = MovedModel(target, dialect, start(encoder, semantics), weights, spec, plan, {})
    lazy = tensors_of_whole(SimpleNamespace(checkpoint=None), moved, None)
    arrays = {each: np.asarray(held.read()) for each, held in lazy.items()}
    return name, File(arrays, dialect.formats[0])


def same(parts, others):
    """Whether parts are the same to the last bit."""
    assert parts.keys() == others.keys()
    for name, part in parts.items():
        one, other = part.read(), others[name].read()
        assert one.shape == other.shape == part.shape, name
        assert one.dtype == other.dtype, name
        assert one.tobytes() == other.tobytes(), name
    return True


@pytest.mark.parametrize("place", TARGETS, ids=str)
def test_what_is_written_reads_back_to_the_last_bit(place):
    @settings(max_examples=8)
    @given(encoders(place), st.integers(0, 99))
    def check(made, seed):
        target, encoder, semantics = made
        name, file = written(target, encoder, semantics, seed)
        stage = read_stage(file, name, None, DIALECTS)
        found = find_encoder(file, stage, list_encoders(), {})
        assert found.depth == encoder.depth
        assert set(found.left) <= set(target.model.empty)
        same(encoder.parts, found.parts)

    check()


BY_ID = {step.id: step for step in CHANGES}


@pytest.mark.parametrize(
    ("origin", "norm", "place", "told"),
    [
        ("timm-vit", "pooled_norm", "keras-hub-clip", "pooled-norm-for-all"),
        ("timm-vit", "final_norm", "hf-clip", "norm-for-pooled-alone"),
        ("hf-clip", "pooled_norm", "keras-hub-clip", "norm-before-pooling"),
        ("keras-hub-clip", "final_norm", "hf-clip", "norm-behind-pooling"),
    ],
)
def test_a_norm_is_kept_as_another_for_good_where_its_source_could_hold_both(
    origin, norm, place, told
):
    layouts = list_encoders()
    sizes = {"D": WIDTH, "h": 2, "d": 12, "E": 24}
    parts = _parts([f"{norm}.scale", f"{norm}.shift"], 1, sizes, 0, "none")
    found = FoundEncoder(layouts[origin], 1, sizes, parts)
    state = start(found, Semantics({**DEFAULTS, "pooling": "class"}, {}))
    target = Target(layouts[place], layouts[place].models[0])
    (step,) = [each for each in CHANGES if "norm" in each.id and each.applies(state, target)]
    assert step.id == told
    changed = step.apply(state, step.applies(state, target))
    assert changed.lossy == (origin == "timm-vit")
    other = {"pooled_norm": "final_norm", "final_norm": "pooled_norm"}[norm]
    assert changed.held == {f"{other}.scale", f"{other}.shift"}
    for word in ("scale", "shift"):
        kept, was = changed.parts[f"{other}.{word}"].read(), parts[f"{norm}.{word}"].read()
        np.testing.assert_array_equal(kept, was)


def test_steps_are_undone_by_those_that_they_say():
    seen = set()

    @settings(max_examples=300)
    @given(encoders(), st.sampled_from(TARGETS))
    def check(made, place):
        _, encoder, semantics = made
        layout = list_encoders()[place[0]]
        target = Target(layout, layout.models[place[1]])
        state = start(encoder, semantics)
        for step in CHANGES:
            if not (fields := step.applies(state, target)):
                continue
            seen.add(step.id)
            changed = step.apply(state, fields)
            assert changed.steps == (*state.steps, f"{step.id}: {step.sentence}")
            assert changed.lossy == (state.lossy or step.lossy)
            if step.inverse:
                back = BY_ID[step.inverse].apply(changed, fields)
                same(state.parts, back.parts)
                assert back.semantics.values == state.semantics.values
            state = changed

    check()
    assert seen >= {step.id for step in CHANGES if step.inverse}
    assert all(step.inverse in BY_ID or step.lossy for step in CHANGES)


@settings(max_examples=30)
@given(encoders(), st.integers(0, 99), st.data())
def test_a_tensor_that_is_missing_is_named(made, seed, data):
    """Of an encoder, none can be left out unseen, but for whole optional parts."""
    target, encoder, semantics = made
    name, file = written(target, encoder, semantics, seed)
    blocks = [
        each
        for entry in target.layout.entries
        if entry.of_blocks and not entry.stacked
        for number in range(encoder.depth)
        if (each := target.model.under + entry.named(number)) in file.tensors
    ]
    if encoder.depth < 2 or not blocks:
        return
    lost = data.draw(st.sampled_from(blocks))
    held = {each: file.read(each) for each in file.tensors if each != lost}
    smaller = File(held, file.format)
    stage = read_stage(smaller, name, None, DIALECTS)
    with pytest.raises(PatchParityError) as caught:
        find_encoder(smaller, stage, list_encoders(), {})
    assert lost in str(caught.value) or "is missing" in str(caught.value)
