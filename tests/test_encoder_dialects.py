"""The table of mistakes over all dialects in docs/encoder.md is that of its record, keeps what it
promises, and a sample of it is made anew."""

import contextlib
import json

import pytest

from patchparity.porting.whole.fit import whole_targets

from .census.stand_in import import_library

RECORD_TESTS = "run python -m tests.encoder_dialects"
SOME = (
    "query-transposed",
    "norms-exchanged",
    "epsilon-1e-3",
    "blocks-exchanged",
    "gate-up-exchanged",
)
"""One that weights tell, one of two vectors, one of a spec, one of an order, and one of gates."""


@pytest.fixture(scope="module")
def kept():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import_library("timm")
    from . import encoder_dialects

    return encoder_dialects, json.loads(encoder_dialects.RECORD.read_text(encoding="utf-8"))["rows"]


def test_the_page_is_that_of_its_record(kept):
    from .encoder_kills import between

    module, rows = kept
    text = module.PAGE.read_text(encoding="utf-8")
    assert between(text, "dialects") == module.table(rows), RECORD_TESTS


def test_what_is_promised_of_all_dialects_holds(kept):
    rows = kept[1]
    assert {row["dialect"] for row in rows} == set(whole_targets())
    for row in rows:
        made = row["by_library"] + row["by_numpy"]
        assert made > 80, row
        assert row["rejected"] == made - row["unseen"], row
        assert row["named"] >= 0.95 * row["rejected"], row
        assert not row["false_alarm"], row
    assert sum(bool(row["library"]) for row in rows) > len(rows) / 2
    assert sum(row["by_library"] for row in rows) > 300


@pytest.mark.parametrize("kind", ["tanh", "swiglu"])
def test_some_mistakes_in_each_dialect_of_a_kind(kept, tmp_path, kind):
    from .porting.whole_models import KINDS
    from .porting.whole_pairs import Family

    family, wrong, ran = Family(KINDS[kind], tmp_path), [], set()
    with contextlib.ExitStack() as files:
        for dialect, form in family.forms.items():
            subject = kept[0].Subject(dialect, form, files)
            assert subject.said_of(subject.case(None))[0].correct
            for trial in subject.trials(SOME):
                ran.add((trial.mistake, trial.library))
                if not (trial.unseen or (trial.rejected and trial.named)):
                    wrong.append((dialect, trial))
    assert not wrong, wrong
    assert ("query-transposed", True) in ran
    assert ("epsilon-1e-3", False) in ran
