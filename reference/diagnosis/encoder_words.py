"""What was found block by block, put together: a mistake of all blocks is told once, and blocks
that hold one another's weights are told as an order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..encoder_mistakes import ENCODER_CATALOGUE
from ..encoder_mistakes.order import by_name
from .block_search import LIKELIER, Cause, Explained, Judge

AT_END = -1
"""The number that stands for what is behind the last block."""


@dataclass(frozen=True)
class Finding:
    """One wrong thing.

    Args:
        where: `block 7`, `blocks 3 and 7`, `all blocks`, `the end`, `the order of blocks`.
        blocks: numbers of the blocks that show it.
        status: `unique`, `tied` or `unknown`.
        mistakes: ids; empty where nothing explains it.
        explanation: in a sentence.
        mend: a line, empty where nothing is known.
        also: ids of what explains it as well.
        also_told: the same in words.
        over: the largest error of these blocks, as a share of its bound.
        off: the largest rms of their error, as a share of what the block adds to its tokens.
    """

    where: str
    blocks: tuple[int, ...]
    status: Literal["unique", "tied", "unknown"]
    mistakes: tuple[str, ...]
    explanation: str
    mend: str = ""
    also: tuple[tuple[str, ...], ...] = ()
    also_told: tuple[str, ...] = ()
    over: float = 0.0
    off: float = 0.0


def grouped(
    judge: Judge, causes: dict[int, Explained], end: Explained | None
) -> tuple[Finding, ...]:
    """All findings, that of the first wrong block first.

    Args:
        judge: what was measured.
        causes: what explains each wrong block, by its number.
        end: what explains the end, or None where it is right.
    """
    found = dict(causes) if end is None else {**causes, AT_END: end}
    groups = _chosen(found)
    chosen = {number: cause for members, _ in groups for number, cause in members.items()}
    order = _order_of(judge, chosen, found)
    parts: dict[tuple[str, ...], tuple[Cause, list[int], tuple[Cause, ...]]] = {}
    for members, others in groups:
        # a block's cause before the end's: it can be tried of other blocks
        for number, cause in sorted(members.items(), key=lambda each: each[0] == AT_END):
            for part in cause.parts or (cause,):
                if part.of is None:
                    parts.setdefault(part.key, (part, [], others))[1].append(number)
    findings = [_of_part(judge, *each, found) for each in parts.values()]
    findings += [_unknown(number, each) for number, each in found.items() if not each.causes]
    findings += [order] if order is not None else []
    depth = len(judge.left)
    return tuple(sorted(findings, key=lambda each: min(each.blocks, default=depth)))


def _rest(cause: Cause) -> tuple[str, ...]:
    """The ids of a cause without the weights of another block, which are each block's own."""
    return tuple(part.key[0] for part in cause.parts or (cause,) if part.of is None)


def _explaining(
    found: dict[int, Explained],
) -> dict[tuple[str, ...], dict[int, tuple[Cause, float]]]:
    """By the ids of a cause, the blocks that it explains, the cause in each and what it leaves."""
    by_ids: dict[tuple[str, ...], dict[int, tuple[Cause, float]]] = {}
    for number, each in found.items():
        for cause, left in each.causes:
            blocks = by_ids.setdefault(_rest(cause), {})
            if number not in blocks or left < blocks[number][1]:
                blocks[number] = cause, left
    return by_ids


def _joint(blocks: dict[int, tuple[Cause, float]], members: Sequence[int]) -> float:
    """What a cause leaves of several blocks together."""
    return math.hypot(*(blocks[number][1] for number in members))


def _chosen(found: dict[int, Explained]) -> list[tuple[dict[int, Cause], tuple[Cause, ...]]]:
    """Groups of blocks that one cause explains, and what explains each group as well: of several
    causes that which explains most blocks, then that which leaves the least."""
    by_ids, groups = _explaining(found), []
    remaining = {number for number, each in found.items() if each.causes}
    while remaining:
        members, ids = max(
            (
                (sorted(remaining & blocks.keys()), ids)
                for ids, blocks in by_ids.items()
                if remaining & blocks.keys()
            ),
            key=lambda each: (len(each[0]), -_joint(by_ids[each[1]], each[0])),
        )
        least = _joint(by_ids[ids], members)
        others = tuple(
            blocks[members[0]][0]
            for other, blocks in by_ids.items()
            if other != ids
            and blocks.keys() >= set(members)
            and _joint(blocks, members) <= LIKELIER * least
        )
        groups.append(({number: by_ids[ids][number][0] for number in members}, others))
        remaining -= set(members)
    return groups


def _listed(numbers: Sequence[int]) -> str:
    """`3, 5 and 7`."""
    words = [str(number) for number in numbers]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _where(judge: Judge, members: list[int], part: Cause) -> str:
    """The blocks of a mistake: all, where those that do not show it are not against it."""
    blocks = sorted(number for number in members if number != AT_END)
    if not blocks:
        return "the end"
    silent = [number for number in range(len(judge.left)) if number not in blocks]
    everywhere = all(judge.agrees(number, part) for number in silent)
    words = f"block{'s' if len(blocks) > 1 else ''} {_listed(blocks)}"
    if everywhere and len(blocks) > 1:
        words = "all blocks"
    elif everywhere and silent:
        words += ", which alone can tell"
    return f"{words}, and the end" if AT_END in members else words


def _of_part(
    judge: Judge,
    part: Cause,
    members: list[int],
    others: tuple[Cause, ...],
    found: dict[int, Explained],
) -> Finding:
    """The finding of one mistake, of all that it explains."""
    where = _where(judge, members, part)
    return Finding(
        where,
        tuple(sorted(number for number in members if number != AT_END)),
        "tied" if others else "unique",
        part.key,
        f"{where}: {part.told}",
        part.mend,
        tuple(other.key for other in others),
        tuple(other.told for other in others),
        *_sizes(members, found),
    )


def _sizes(members: Sequence[int], found: dict[int, Explained]) -> tuple[float, float]:
    """The largest `over` and `off` of some blocks."""
    return max(found[each].over for each in members), max(found[each].off for each in members)


def _unknown(number: int, explained: Explained) -> Finding:
    """The finding of a block that nothing explains."""
    where = "the end" if number == AT_END else f"block {number}"
    words = (
        f"{where}: wrong, by nothing in the catalogue: {explained.over:.3g} times the bound, "
        f"{explained.off:.1e} of what it adds"
    )
    if number == AT_END:
        words = words.replace("of what it adds", "of its size")
    if explained.nearest:
        words += f"; {explained.nearest}"
    blocks = () if number == AT_END else (number,)
    return Finding(where, blocks, "unknown", (), words, over=explained.over, off=explained.off)


def _order_of(
    judge: Judge, chosen: dict[int, Cause], found: dict[int, Explained]
) -> Finding | None:
    """What is wrong with the order and the number of blocks, or None."""
    depth, count = len(judge.case.blocks), len(judge.left)
    numbers: list[int] = []
    for number in range(count):
        cause = chosen.get(number)
        numbers.append(number if cause is None or cause.of is None else cause.of)
    moved = [number for number, other in enumerate(numbers) if number != other]
    if not moved and count == depth:
        return None
    name, words = _named_order(numbers, depth)
    if moved:
        first = moved[0]
        words = f"block {first} holds the weights of block {numbers[first]}: {words}"
    known = ENCODER_CATALOGUE.get(name)
    sizes = _sizes(moved, found) if moved else (0.0, 0.0)
    return Finding(
        "the order of blocks",
        tuple(moved),
        "unique" if name else "unknown",
        (name,) if name else (),
        words,
        "give each block its own weights" if known is None else known.mend,
        over=sizes[0],
        off=sizes[1],
    )


def _named_order(numbers: list[int], depth: int) -> tuple[str, str]:
    """The id of an order, and what it is in words."""
    right = list(range(depth))
    if numbers == by_name(depth):
        return "blocks-by-name", "the blocks are in the order of their names"
    if numbers == right[::-1]:
        return "blocks-reversed", "the blocks are in reverse order"
    missing = [number for number in right if number not in numbers]
    if len(numbers) == depth - 1 and numbers == [each for each in right if each not in missing]:
        last = missing == right[-1:]
        name = "last-block-dropped" if last else "block-dropped"
        return name, f"block {missing[0]}{', the last,' if last else ''} is missing"
    for place in right:
        if numbers == [*right[: place + 1], *right[place:]]:
            return "block-twice", f"block {place} runs twice"
    if len(numbers) != depth:
        return "", f"{depth} blocks were declared, {len(numbers)} were measured"
    moved = [number for number, other in enumerate(numbers) if number != other]
    if len(moved) == 1:
        return "block-stale", "its own are nowhere"
    if len(moved) == 2 and [numbers[each] for each in moved] == moved[::-1]:
        return "blocks-exchanged", "the two are exchanged"
    kind = "another order" if not missing else "an order in which some are missing"
    return "blocks-misplaced", f"the blocks are in {kind}: {', '.join(map(str, numbers))}"
