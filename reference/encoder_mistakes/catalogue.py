"""A known mistake of a whole encoder, and the catalogue in which it is entered."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ..encoder_case import BlockCase, EncoderCase, EndCase, alike

Part = Literal["norms", "attention", "mlp", "scales", "positions", "order", "end"]
BlockChange = Callable[[BlockCase], BlockCase | None]
EndChange = Callable[[EndCase], EndCase | None]
Case = TypeVar("Case", BlockCase, EndCase)


@dataclass(frozen=True)
class EncoderMistake:
    """One known mistake.

    Args:
        id: stable name.
        part: where in the encoder it sits.
        explanation: what was done, in one clause.
        mend: what to do, in one line.
        make: the wrong encoder, or None where the mistake makes no difference or cannot be made.
            What sits in blocks is made in the block `case.place`, or in all of them.
        of_block, of_end: the same of one block, and of what stands behind the last; None for what
            does not sit there.
        declared: what was declared instead, of a block or an end, in a word; None where the
            explanation says all.
        harmless: whether exact arithmetic gives the same output, unless positions or norms stand
            in between.

    Examples:
        >>> from patchparity.reference.encoder_mistakes import ENCODER_CATALOGUE
        >>> ENCODER_CATALOGUE["norms-exchanged"].explanation
        'the two norms are exchanged'
    """

    id: str
    part: Part
    explanation: str
    mend: str
    make: Callable[[EncoderCase], EncoderCase | None]
    of_block: BlockChange | None = None
    of_end: EndChange | None = None
    declared: Callable[[BlockCase | EndCase], str] | None = None
    harmless: bool = False

    def told(self, case: BlockCase | EndCase) -> str:
        """The explanation, with what was declared of the right `case`."""
        if self.declared is None:
            return self.explanation
        return f"{self.explanation}, {self.declared(case)} was declared"


ENCODER_CATALOGUE: dict[str, EncoderMistake] = {}
"""All mistakes by id, in the order in which an encoder computes."""


def _kept_if_other(case: Case, change: Callable[[Case], Case | None] | None) -> Case | None:
    """What a change makes of a case, or None where it leaves it as it is."""
    changed = None if change is None else change(case)
    return None if changed is None or alike(changed, case) else changed


def register(
    name: str,
    part: Part,
    explanation: str,
    mend: str,
    of_block: BlockChange | None = None,
    of_end: EndChange | None = None,
    *,
    declared: Callable[[BlockCase | EndCase], str] | None = None,
    harmless: bool = False,
) -> None:
    """Enter a mistake of these changes of one block, and of the end."""

    def block(case: BlockCase) -> BlockCase | None:
        return _kept_if_other(case, of_block)

    def end(case: EndCase) -> EndCase | None:
        return _kept_if_other(case, of_end)

    def make(case: EncoderCase) -> EncoderCase | None:
        blocks, changed = list(case.blocks), False
        for number, each in enumerate(blocks if of_block else ()):
            wrong = block(each) if case.place in (None, number) else None
            if wrong is not None:
                blocks[number], changed = wrong, True
        behind = end(case.end) if case.place is None or not of_block else None
        if behind is None and not changed:
            return None
        return dataclasses.replace(case, blocks=tuple(blocks), end=behind or case.end)

    ENCODER_CATALOGUE[name] = EncoderMistake(
        name,
        part,
        explanation,
        mend,
        make,
        block if of_block else None,
        end if of_end else None,
        declared,
        harmless,
    )


def block_with(case: BlockCase, **parts: Any) -> BlockCase:
    """The block with some of its weights replaced."""
    return dataclasses.replace(case, block=dataclasses.replace(case.block, **parts))


def end_with(case: EndCase, **parts: Any) -> EndCase:
    """The end with some of its weights replaced."""
    return dataclasses.replace(case, weights=dataclasses.replace(case.weights, **parts))


def believing(case: Case, **fields: Any) -> Case:
    """The case with another spec."""
    return dataclasses.replace(case, spec=dataclasses.replace(case.spec, **fields))
