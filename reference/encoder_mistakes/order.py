"""Mistakes of the order of blocks. What `order` gives are the numbers of the blocks that run."""

import dataclasses
from collections.abc import Callable

from ..encoder_case import EncoderCase, alike
from .catalogue import ENCODER_CATALOGUE, EncoderMistake


def _ordered(
    name: str,
    explanation: str,
    mend: str,
    order: Callable[[int, int], list[int]],
) -> None:
    """Register another order, of the number of blocks and of a place among them."""

    def make(case: EncoderCase) -> EncoderCase | None:
        depth = len(case.blocks)
        numbers = order(depth, depth // 2 if case.place is None else case.place)
        if numbers == list(range(depth)) or not numbers:
            return None
        # a block's windows are those of its place, and its weights another's
        blocks = tuple(
            dataclasses.replace(case.blocks[min(place, depth - 1)], block=case.blocks[each].block)
            for place, each in enumerate(numbers)
        )
        if alike(blocks, case.blocks):
            return None
        return dataclasses.replace(case, blocks=blocks)

    ENCODER_CATALOGUE[name] = EncoderMistake(name, "order", explanation, mend, make)


def by_name(depth: int) -> list[int]:
    """The numbers of blocks in the order of their names: 0, 1, 10, 11, 2."""
    return sorted(range(depth), key=str)


def _swapped(depth: int, place: int) -> list[int]:
    numbers = list(range(depth))
    if place + 1 < depth:
        numbers[place], numbers[place + 1] = place + 1, place
    return numbers


def _stale(depth: int, place: int) -> list[int]:
    numbers = list(range(depth))
    if 0 < place < depth:
        numbers[place] = place - 1
    return numbers


_ordered(
    "blocks-by-name",
    "the blocks are in the order of their names: 0, 1, 10, 11, 2",
    "sort blocks by their number, not by their name",
    lambda depth, place: by_name(depth),
)
_ordered(
    "blocks-exchanged",
    "two blocks are exchanged",
    "give each block its own weights",
    _swapped,
)
_ordered(
    "blocks-reversed",
    "the blocks are in reverse order",
    "run the blocks from the first to the last",
    lambda depth, place: list(range(depth))[::-1],
)
_ordered(
    "block-stale",
    "a block holds the weights of the one before it",
    "load every block's own weights",
    _stale,
)
_ordered(
    "last-block-dropped",
    "the last block is missing",
    "run all blocks: a loop ends one too early, or the depth is too small",
    lambda depth, place: list(range(depth - 1)),
)
_ordered(
    "block-dropped",
    "a block is missing",
    "run all blocks",
    lambda depth, place: [number for number in range(depth) if number != place],
)
_ordered(
    "block-twice",
    "a block runs twice",
    "run each block once",
    lambda depth, place: [*range(place + 1), *range(place, depth)],
)
