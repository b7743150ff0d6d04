"""All ordered pairs of layouts, one tiny model of each kind: the target's library computes what the
source's does, the way back gives the same bytes, or a sentence says why not."""

import json

import pytest

from patchparity.porting.encoders.agreement import HELD
from patchparity.porting.encoders.templates import at, is_of
from patchparity.porting.files.opening import opened
from patchparity.porting.whole.read import read_whole
from patchparity.reference.errors import PatchParityError

from ..census.stand_in import import_library
from ..whole_pairs import PAGE, counted, page, tables
from .whole_oracles import oracle_of
from .whole_pairs import TOLERANCE, Family, error_of, families

pytest.importorskip("torch")
pytest.importorskip("transformers")
import_library("timm")


@pytest.fixture(scope="module")
def made():
    with families() as (found, lacking):
        yield found, lacking, [pair for family in found.values() for pair in family.pairs()]


def test_each_form_is_loaded_by_its_library_and_computes_the_same(made):
    wrong = []
    for name, family in made[0].items():
        assert not family.failure, (name, family.failure)
        assert family.output is not None, name
        for target, form in family.forms.items():
            if form.failure:
                wrong.append((name, target, form.failure[:400]))
            elif form.output is not None and error_of(form.output, family.output) > TOLERANCE:
                wrong.append((name, target, error_of(form.output, family.output)))
    assert not wrong, wrong


def test_each_pair_agrees_or_is_refused_in_one_sentence(made):
    wrong = [
        pair
        for pair in made[2]
        if pair.failure
        or (pair.error is not None and pair.error > TOLERANCE)
        or bool(pair.mark) == bool(pair.reason)
    ]
    assert not wrong, wrong[:5]
    assert all("\n" not in pair.reason and "; " not in pair.reason[-1:] for pair in made[2])


def test_the_way_back_gives_the_same_bytes_where_no_step_says_otherwise(made):
    wrong = [pair for pair in made[2] if pair.mark == "≈" and not pair.lossy]
    assert not wrong, wrong[:5]
    assert any(pair.mark == "≈" for pair in made[2])


def test_a_norm_that_comes_back_as_another_is_told_there_and_nowhere_else(made):
    """Its bytes are the same, under the name of the other norm."""
    told = [pair for pair in made[2] if any("after a way back" in step for step in pair.steps)]
    assert told
    assert {pair.mark for pair in told} == {"≈"}


def test_refusals_do_not_depend_on_the_layout_that_a_model_comes_from(made):
    """What a layout can hold, a model says, not its names: each form goes to where the others go,
    unless it lost something on its way."""
    wrong = []
    for family in made[0].values():
        ways = {
            (pair.source, pair.target): pair.mark for pair in made[2] if pair.kind == family.kind.id
        }
        wrong += [
            (family.kind.id, source, target)
            for source in family.forms
            for target in family.forms
            if not ways[source, target]
        ]
    assert not wrong, wrong


def _told(layout, table, headed):
    """Keys of a configuration that the tensors tell too, each the first that tells its fact; of
    classes only where there is a head, for one of another kind may be left."""
    seen = set()
    for model in layout.models:
        if is_of(model, table):
            for key, template in model.config.items():
                fact = template.removeprefix("$") if isinstance(template, str) else ""
                if not headed and fact in ("num_classes", "classes"):
                    continue
                if fact in HELD and fact not in seen and at(table, key) is not None:
                    seen.add(fact)
                    yield key


def _other(table, key):
    """The same configuration with another value under a key."""
    changed = json.loads(json.dumps(table))
    *path, last = key.split(".")
    place = changed
    for word in path:
        place = place[word]
    value = place[last]
    if isinstance(value, dict):
        place[last] = {**value, "more": "MORE"}
    else:
        place[last] = not value if isinstance(value, bool) else value + 1
    return changed


def test_each_number_of_a_configuration_is_held_against_the_tensors(made, tmp_path):
    accepted, seen = [], set()
    for family in made[0].values():
        for target, form in family.forms.items():
            with opened(form.file) as file:
                found = read_whole(file, semantics=form.told).found
            for name, content in form.beside.items():
                folder = tmp_path / family.kind.id / target
                folder.mkdir(parents=True, exist_ok=True)
                copy = folder / form.file.name
                copy.exists() or copy.symlink_to(form.file)
                table = json.loads(content)
                for key in _told(found.layout, table, "head.weight" in found.held):
                    if (target, found.layout.id, key) in seen:  # once for each layout
                        continue
                    (folder / name).write_text(json.dumps(_other(table, key)))
                    try:
                        with opened(copy) as file:
                            read_whole(file, semantics=form.told)
                        accepted.append((family.kind.id, target, key))
                    except PatchParityError:
                        seen.add((target, found.layout.id, key))
    assert not accepted, accepted
    assert len(seen) > 40


def test_the_page_is_what_comes_out(made):
    found, lacking, pairs = made
    text = PAGE.read_text(encoding="utf-8")
    lines = ["", counted(pairs), *tables(found, pairs, lacking)]
    assert text == page(text, lines), "python -m tests.whole_pairs writes it anew"


def test_a_wrong_model_is_seen(made):
    """The comparison fails where a norm's ε or an activation is another."""
    plain, tanh = made[0]["plain"], made[0]["tanh"]
    assert isinstance(plain, Family)
    assert error_of(plain.output, tanh.output) > 100 * TOLERANCE
    assert oracle_of("nobody's line") is None
