"""The tables of mistakes in docs/encoder.md are what `python -m tests.encoder_kills` makes, and
hold what they promise."""

import re

import pytest

from . import encoder_kills

pytestmark = pytest.mark.anywhere

TEXT = encoder_kills.PAGE.read_text(encoding="utf-8")
LINES = encoder_kills.between(TEXT, "kills").splitlines()[2:]
SHARES = encoder_kills.between(TEXT, "shares").splitlines()[2:]
SOME = (
    "epsilon-1e-3", "norms-exchanged", "query-transposed", "query-bias-dropped",
    "key-bias-dropped", "value-bias-dropped", "attention-scale-width", "activation-gelu-tanh",
    "activation-quick-gelu", "rotary-pairing", "blocks-by-name", "last-block-dropped",
    "pooler-tanh-dropped", "pool-probe-dropped",
)  # fmt: skip
"""Of each part some; all are made anew by the tests that take minutes."""


def line_of(name):
    (line,) = [line for line in LINES if line.startswith(f"| `{name}` |")]
    return line


def test_the_page_has_a_line_for_each_mistake():
    named = [re.findall("`(.*?)`", line)[0] for line in LINES]
    assert named == [mistake.id for mistake, _ in encoder_kills.makeable()]
    assert named == list(encoder_kills.ENCODER_CATALOGUE)


@pytest.mark.parametrize("name", SOME)
def test_a_line_is_what_is_made(name):
    made = " | ".join(encoder_kills.cells(encoder_kills.row(name)))
    assert line_of(name) == f"| {made} |", "run python -m tests.encoder_kills"


def test_what_is_promised_of_rejection_names_and_false_alarms_holds():
    assert [line.split(" | ")[0].strip("| ") for line in SHARES] == list(encoder_kills.TYPES)
    for line in SHARES:
        *_, rejected, named, _, judged, alarms = line.strip("| ").split(" | ")
        assert "(100.0%)" in rejected
        assert float(re.findall(r"\((.*)%\)", named)[0]) >= 95
        assert int(judged) > 100
        assert alarms == "0"


def test_shares_are_counted_of_what_a_bound_can_see():
    def trial(unseen, rejected, named, alone):
        return encoder_kills.Trial(
            "norms-exchanged", "vit", None, "float32", unseen, rejected, named, alone
        )

    tried = [
        trial(False, True, True, True),
        trial(False, True, True, False),
        trial(False, True, False, False),
        trial(False, False, False, False),
        trial(True, False, False, False),
    ]
    assert encoder_kills.shares(tried, 70, 3, "float32") == [
        "float32", "5", "1", "3 (75.0%)", "2 (50.0%)", "1 (25.0%)", "70", "3",
    ]  # fmt: skip


def test_the_markers_are_needed():
    with pytest.raises(ValueError, match="no markers of kills"):
        encoder_kills.replaced("text", "kills", "table")


@pytest.mark.full
@pytest.mark.parametrize("name", ["kills", "shares"])
def test_the_tables_are_what_is_made(name):
    made = {"kills": encoder_kills.table_of_kills, "shares": encoder_kills.table_of_shares}[name]()
    assert encoder_kills.between(TEXT, name) == made, "run python -m tests.encoder_kills"
