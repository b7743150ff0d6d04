"""`python -m tests.encoder_kills`: the two tables of mistakes in docs/encoder.md made anew. Every
mistake of the catalogue is made of seeded encoders; beside what is said of it stands what today's
acceptance tests let through. A test holds the page to it."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchparity.reference.diagnosis.encoder import EncoderDiagnosis, diagnose_encoder
from patchparity.reference.encoder_case import EncoderCase, alike
from patchparity.reference.encoder_error import (
    BlockExpectation,
    expect_block,
    expect_end,
    judge_block,
)
from patchparity.reference.encoder_mistakes import ENCODER_CATALOGUE, EncoderMistake

from .encoder_programs import (
    DEPTH,
    PROGRAMS,
    TYPES,
    WIDTH,
    Numbers,
    Program,
    measured,
    program,
    stored,
)

Array = NDArray[Any]
PAGE = Path(__file__).parent.parent / "docs" / "encoder.md"
SHORT, PLACE = 6, 4
"""Blocks of the encoders of the second table, and the one in which mistakes of one block are made;
any would do, and this one is neither the first nor the last."""

COSINE, TOLERANCE = 0.99, 5e-2
"""Acceptance tests of converters: the cosine of the class token, and the largest difference of
logits."""

SEEDS = 5
"""Inputs of each right program by which false alarms are counted."""


@dataclass(frozen=True)
class Row:
    """A mistake, what it does to the encoder's output in float64, and what is said of it.

    Args:
        mistake: of the catalogue.
        program: name of the right program.
        rms: relative, of all tokens behind the end.
        cosine: of what is pooled, or of the mean of the tokens; the smallest.
        logits: largest change, where those of the right encoder have a deviation of 1.
        said: the diagnosis in float32.
        unseen: types in which the bound of a right block covers what it does.
    """

    mistake: EncoderMistake
    program: str
    rms: float
    cosine: float
    logits: float
    said: EncoderDiagnosis
    unseen: tuple[str, ...]


@functools.cache
def right(name: str, dtype: str, depth: int = DEPTH) -> Program:
    """A right program, made once."""
    return program(name, dtype, depth)


@functools.cache
def expected(
    name: str, dtype: str, depth: int
) -> tuple[list[Array], list[BlockExpectation], dict[str, BlockExpectation]]:
    """What each block of a right program is given, and the bounds of each and of the end."""
    of = right(name, dtype, depth)
    true = of.case()
    left, _ = true.run(of.tokens)
    given = [stored(each, dtype) for each in (of.tokens, *left)]
    blocks = [
        expect_block(tokens, each.block, each.spec, each.places, dtype=dtype)
        for tokens, each in zip(given, true.blocks, strict=False)
    ]
    return given, blocks, expect_end(given[-1], true.end.weights, true.end.spec, dtype=dtype)


def makeable() -> Iterator[tuple[EncoderMistake, str]]:
    """Each mistake, and the first program of which it can be made."""
    for mistake in ENCODER_CATALOGUE.values():
        for name in PROGRAMS:
            if mistake.make(right(name, "float32").case()) is not None:
                yield mistake, name
                break


def diagnosed(of: Program, wrong: EncoderCase, dtype: str) -> EncoderDiagnosis:
    """What is said of a wrong program of this type; pairs are not searched."""
    blocks = measured(of, wrong, dtype)
    return diagnose_encoder(blocks, of.weights, of.spec, of.places, dtype=dtype, pairs=False)


@functools.cache
def row(identifier: str) -> Row:
    """The row of one mistake, made of the whole encoder."""
    ((mistake, name),) = [each for each in makeable() if each[0].id == identifier]
    of = right(name, "float32")
    wrong = mistake.make(of.case())
    assert wrong is not None
    (true, pooled), (false, other) = (_outputs(case, of) for case in (of.case(), wrong))
    head = of.weights.head or Numbers(99).linear(20, WIDTH)
    logits, changed = head(pooled), head(other)
    own = wrong.end.weights.head
    if own is not None:
        changed = own(other)
    dot = (pooled * other).sum(-1) / np.sqrt((pooled**2).sum(-1) * (other**2).sum(-1))
    unseen = tuple(dtype for dtype in TYPES if hidden(name, mistake, None, dtype))
    return Row(
        mistake,
        name,
        float(np.sqrt(((true - false) ** 2).mean() / (true**2).mean())),
        float(dot.min()),
        float(np.abs(logits - changed).max() / logits.std()),
        diagnosed(of, wrong, "float32"),
        unseen,
    )


def _outputs(case: EncoderCase, of: Program) -> tuple[Array, Array]:
    """Tokens behind the end, and what is pooled, or their mean."""
    _, encoded = case.run(of.tokens)
    return encoded.tokens, encoded.tokens.mean(1) if encoded.pooled is None else encoded.pooled


def hidden(
    name: str, mistake: EncoderMistake, place: int | None, dtype: str, depth: int = DEPTH
) -> bool:
    """Whether the bound of every right block, and of the end, covers what a mistake does in exact
    arithmetic."""
    of = right(name, dtype, depth)
    wrong, true = mistake.make(of.case(place)), of.case()
    if wrong is None or len(wrong.blocks) != len(true.blocks):
        return False
    given, blocks, end = expected(name, dtype, depth)
    for tokens, here, there, bound in zip(given, true.blocks, wrong.blocks, blocks, strict=False):
        if not alike(here, there) and judge_block(there.run(tokens), bound) > 1:
            return False
    if alike(wrong.end, true.end):
        return True
    made = wrong.end.run(given[-1])
    return all(
        (values := getattr(made, part)) is not None and judge_block(values, bound) <= 1
        for part, bound in end.items()
    )


# The second table.


@dataclass(frozen=True)
class Trial:
    """A mistake in one program, and whether it was rejected and named."""

    mistake: str
    program: str
    place: int | None
    dtype: str
    unseen: bool
    rejected: bool
    named: bool
    alone: bool


def trials(dtype: str, names: tuple[str, ...] = tuple(PROGRAMS)) -> Iterator[Trial]:
    """Every mistake of every program, in all blocks and in one."""
    for name in names:
        of = right(name, dtype, SHORT)
        for mistake in ENCODER_CATALOGUE.values():
            for place in (None, PLACE) if mistake.of_block else (None,):
                wrong = mistake.make(of.case(place))
                if wrong is None:
                    continue
                said = diagnosed(of, wrong, dtype)
                named, alone = named_rightly(said, mistake, of.case(), wrong)
                unseen = hidden(name, mistake, place, dtype, SHORT)
                yield Trial(mistake.id, name, place, dtype, unseen, not said.correct, named, alone)


def named_rightly(
    said: EncoderDiagnosis, mistake: EncoderMistake, of: EncoderCase, wrong: EncoderCase
) -> tuple[bool, bool]:
    """Whether a mistake is named with its blocks and nothing else is, and whether alone."""
    changed = {
        number
        for number, block in enumerate(wrong.blocks)
        if number >= len(of.blocks) or not alike(block, of.blocks[number])
    }
    if len(said.findings) != 1:
        return False, False
    (finding,) = said.findings
    here = set(finding.blocks) <= changed and bool(finding.blocks) == bool(changed)
    if mistake.part == "order":
        here = set(finding.blocks) == changed
    elif len(changed) == len(of.blocks):
        here = here and ("all blocks" in finding.where or "alone can tell" in finding.where)
    named = here and (mistake.id,) in (finding.mistakes, *finding.also)
    return named, named and finding.status == "unique"


def false_alarms(dtype: str) -> tuple[int, int]:
    """How many blocks and ends of right programs were judged, and how many rejected."""
    judged = wrong = 0
    for name in PROGRAMS:
        of = right(name, dtype)
        for seed in range(SEEDS):
            tokens = of.tokens * (1 + seed) if seed else of.tokens
            noise = np.random.default_rng(seed).standard_normal(tokens.shape)
            given = dataclasses.replace(of, tokens=stored(tokens + 0.1 * seed * noise, dtype))
            evidence = diagnosed(given, given.case(), dtype).evidence
            over = [*evidence["over"], *evidence["end_over"].values()]
            judged, wrong = judged + len(over), wrong + sum(each > 1 for each in over)
    return judged, wrong


# The page.

TITLES = (
    "mistake", "relative rms", "cosine", "logits", "cos > 0.99", "atol 5e-2", "patchparity says",
)  # fmt: skip


def table_of_kills() -> str:
    """The first table: a line for each mistake."""
    lines = [_line(TITLES), _line(["---"] * len(TITLES))]
    lines += [_line(cells(row(mistake.id))) for mistake, _ in makeable()]
    return "\n".join(lines)


def cells(each: Row) -> list[str]:
    """The cells of a mistake."""
    harmless = each.said.correct
    sizes = [_size(each.rms), _cosine(each.cosine), _size(each.logits)]
    passed = each.cosine > COSINE, each.logits <= TOLERANCE
    passes = [("yes" if harmless else "**yes**") if fine else "no" for fine in passed]
    said = "correct: harmless" if harmless else each.said.explanation
    if not harmless:
        others = [f"`{' + '.join(ids)}`" for ids in each.said.findings[0].also]
        said += f"; or {', '.join(others)}" if others else ""
        unseen = [dtype for dtype in each.unseen if dtype != "float32"]
        said += f" (unseen in {' and '.join(unseen)})" if unseen else ""
    return [f"`{each.mistake.id}`", *sizes, *passes, said]


NOTHING = 1e-12
"""What float64 leaves of no difference."""


def _size(value: float) -> str:
    return f"{value:.1e}" if value > NOTHING else "0"


def _cosine(value: float) -> str:
    """Enough digits to tell it from 1."""
    if value < 0.9995:
        return f"{value:.3f}"
    return f"1 - {1 - value:.0e}" if 1 - value > NOTHING else "1"


def _line(parts: Any) -> str:
    return f"| {' | '.join(parts)} |"


def table_of_shares() -> str:
    """The second table: a line for each type."""
    titles = (
        "type", "wrong encoders", "of these unseen by any bound", "rejected of the others",
        "named with the right block", "named alone", "right blocks judged", "false alarms",
    )  # fmt: skip
    lines = [_line(titles), _line(["---"] * len(titles))]
    lines += [_line(shares(list(trials(dtype)), *false_alarms(dtype), dtype)) for dtype in TYPES]
    return "\n".join(lines)


def shares(tried: list[Trial], judged: int, alarms: int, dtype: str) -> list[str]:
    """The cells of a type."""
    seen = [each for each in tried if not each.unseen]
    parts = [sum(getattr(each, name) for each in seen) for name in ("rejected", "named", "alone")]
    counted = [f"{part} ({part / len(seen):.1%})" for part in parts]
    return [
        dtype, str(len(tried)), str(len(tried) - len(seen)), *counted, str(judged), str(alarms),
    ]  # fmt: skip


def replaced(text: str, name: str, table: str) -> str:
    """The page with the lines between two markers made anew."""
    ahead, marker, rest = text.partition(f"<!-- {name} -->\n")
    _, end, behind = rest.partition(f"<!-- end of {name} -->")
    if not marker or not end:
        raise ValueError(f"{PAGE.name} has no markers of {name}")
    return f"{ahead}{marker}{table}\n{end}{behind}"


def between(text: str, name: str) -> str:
    """What stands between two markers."""
    return text.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- end of {name} -->")[0]


def main() -> None:
    """Write both tables."""
    text = replaced(PAGE.read_text(encoding="utf-8"), "kills", table_of_kills())
    PAGE.write_text(replaced(text, "shares", table_of_shares()), encoding="utf-8")


if __name__ == "__main__":
    main()
