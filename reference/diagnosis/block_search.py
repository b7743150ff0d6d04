"""The search for what explains a block: every mistake of the catalogue, another block's weights, a
number that is fitted, and pairs of these."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..encoder_case import BlockCase, EncoderCase, EndCase
from ..encoder_error import BlockExpectation, expect_block, expect_end, judge_block
from ..encoder_mistakes import ENCODER_CATALOGUE
from ..encoder_mistakes.norms import short
from ..encoder_weights import Block, Linear
from ..errors import PatchParityError
from ..pipeline import Array
from .fit import rms

LIKELIER = 2.0
"""Factor by which what is left by one explanation exceeds what is left by a better one, from which
on the worse is none: what rounding leaves of two right ones differs by less."""

IMPROVES = 0.9
"""Share of a block's error that an explanation may leave: what leaves all of it explains
nothing."""

FIRST_OF_PAIRS = 12
"""Mistakes that are tried beside all others, those that leave the least: of two mistakes the larger
one, made on purpose, leaves only the smaller."""

BLOCKS_OF_PAIRS = 3
"""Wrong blocks in which pairs are searched: what is no pair in three is none in the others."""


@dataclass(frozen=True, eq=False)
class Cause:
    """What explains a block or an end.

    Args:
        key: ids of its mistakes, in the order in which they act; `block-m` for the weights of block
            m.
        told: in words.
        mend: what to do.
        change: what makes the wrong block of the right one.
        of: the block whose weights are there, or None.
        parts: the mistakes that it is made of, where it is several.
    """

    key: tuple[str, ...]
    told: str
    mend: str
    change: Callable[[Any], Any]
    of: int | None = None
    parts: "tuple[Cause, ...]" = ()


@dataclass(frozen=True, eq=False)
class Explained:
    """What explains one block, or the end.

    Args:
        causes: each with the share of the error that it leaves; empty where nothing explains it.
        over: how far off the right one's bound it is.
        off: rms of the error, as a share of what the block adds to its tokens.
        nearest: what leaves the least, in words, where nothing explains all; empty for nothing.
    """

    causes: tuple[tuple[Cause, float], ...]
    over: float
    off: float
    nearest: str = ""


def _composed(first: Cause, second: Cause) -> Cause:
    def change(case: Any) -> Any:
        between = first.change(case)
        return None if between is None else second.change(between)

    return Cause(
        first.key + second.key,
        f"{first.told}; and {second.told}",
        f"{first.mend}; then {second.mend}",
        change,
        first.of if second.of is None else second.of,
        (*(first.parts or (first,)), *(second.parts or (second,))),
    )


def _agreeing(
    found: list[tuple[float, Cause]], before: float, within: Callable[[Cause], bool]
) -> tuple[tuple[Cause, float], ...]:
    """Those within their bound that leave about the least, and the share of the error that they
    leave; the likeliest first."""
    agreeing: list[tuple[Cause, float]] = []
    least = math.inf
    for residual, cause in sorted(found, key=lambda each: each[0]):
        if residual > IMPROVES * before or residual > LIKELIER * least:
            break
        if math.isfinite(residual) and within(cause):
            agreeing.append((cause, residual / before))
            least = min(least, residual)
    return tuple(agreeing)


def _nearest(tried: list[tuple[float, Cause]], before: float) -> str:
    """What leaves the least of an error, in words, where that is half or less."""
    residual, best = min(tried, key=lambda each: each[0], default=(math.inf, None))
    if best is None or not residual <= before / 2:
        return ""
    return f"nearest: {best.told}, which leaves {residual / before:.0%} of the error"


def _attempted(cause: Cause, case: Any) -> Any:
    """The wrong case, or None where the mistake cannot be made of it."""
    try:
        return cause.change(case)
    except PatchParityError:
        return None


class Judge:
    """All of an encoder that was measured, and what explains it.

    Args:
        case: the right program.
        given, left: what each block was given, and what it made of that.
        dtype: that of the measured model.
        pairs: whether pairs of mistakes are searched.
    """

    def __init__(
        self,
        case: EncoderCase,
        given: tuple[Array, ...],
        left: tuple[Array, ...],
        dtype: str,
        pairs: bool,
    ) -> None:
        self.case, self.dtype = case, dtype
        self.given = [np.asarray(each, np.float64) for each in given]
        self.left = [np.asarray(each, np.float64) for each in left]
        self._samples = [self._worst_sample(number) for number in range(len(left))]
        self.over = [self._over(number, self.right(number)) for number in range(len(left))]
        self.end_over: dict[str, float] = {}
        self._pairs_left = BLOCKS_OF_PAIRS if pairs else 0
        self._known: list[Cause] = []
        self._shift: int | None = None

    def right(self, number: int) -> BlockCase:
        """The right block of this number; of one too many, the last."""
        return self.case.blocks[min(number, len(self.case.blocks) - 1)]

    def wrong(self) -> list[int]:
        """Numbers of the blocks that are beyond their bound."""
        depth = len(self.case.blocks)
        return [number for number, over in enumerate(self.over) if over > 1 or number >= depth]

    def blocks(self) -> dict[int, Explained]:
        """What explains each wrong block, by its number: found block by block, then whatever
        explains one is tried of all."""
        found = {number: self._explain(number) for number in self.wrong()}
        return {number: self._completed(number, each) for number, each in found.items()}

    def _completed(self, number: int, explained: Explained) -> Explained:
        """With whatever explained another block, and explains this one as well."""
        tried = {cause.key for cause, _ in explained.causes}
        before = self._before(number)
        more = [
            (cause, self._tried(number, cause) / before)
            for cause in self._known
            if explained.causes and cause.key not in tried and self.agrees(number, cause)
        ]
        return dataclasses.replace(explained, causes=(*explained.causes, *more))

    def _before(self, number: int) -> float:
        """rms of a block's error; infinite of one too many, which has no right one."""
        inside = number < len(self.case.blocks)
        return self._residual(number, self.right(number)) if inside else math.inf

    def agrees(self, number: int, cause: Cause) -> bool:
        """Whether a block lies within the bound of a wrong one."""
        changed = _attempted(cause, self.right(number))
        return changed is not None and self._over(number, changed) <= 1

    def _over(self, number: int, case: BlockCase) -> float:
        try:
            expected = expect_block(
                self.given[number], case.block, case.spec, case.places, dtype=self.dtype
            )
        except (PatchParityError, ValueError):  # shapes that do not fit
            return math.inf
        return _judged(self.left[number], expected)

    def _worst_sample(self, number: int) -> int:
        """The sample that is farthest beyond the bound of the right block: the one that shows most
        of a mistake."""
        case = self.right(number)
        try:
            expected = expect_block(
                self.given[number], case.block, case.spec, case.places, dtype=self.dtype
            )
        except (PatchParityError, ValueError):
            return 0
        parts = zip(self.left[number], expected.values, expected.bound, strict=True)
        shares = [
            _judged(left[None], BlockExpectation(values[None], bound[None]))
            for left, values, bound in parts
        ]
        return int(np.argmax(shares))

    def _residual(self, number: int, case: BlockCase) -> float:
        """rms of what a wrong block leaves of the sample that shows most."""
        sample = slice(self._samples[number], self._samples[number] + 1)
        try:
            with np.errstate(all="ignore"):
                made = case.run(self.given[number][sample])
        except (PatchParityError, ValueError):
            return math.inf
        left = rms(made - self.left[number][sample])
        return left if math.isfinite(left) else math.inf

    def _explain(self, number: int) -> Explained:
        case, left = self.right(number), self.left[number]
        made = case.run(self.given[number])
        off = rms(left - made) / (rms(made - self.given[number]) or 1.0)
        over = self.over[number]
        if not np.isfinite(left).all():
            return Explained((), math.inf, off, "its output holds NaN or infinite values")
        before = self._before(number)
        tried: list[tuple[float, Cause]] = []
        for search in self._searches(number, tried):
            found = [(self._tried(number, cause), cause) for cause in search]
            tried += found
            agreeing = _agreeing(found, before, lambda cause: self.agrees(number, cause))
            if agreeing:
                self._remember(number, [cause for cause, _ in agreeing])
                return Explained(agreeing, over, off)
        self._pairs_left -= 1
        return Explained((), over, off, _nearest(tried, before))

    def _searches(self, number: int, tried: list[tuple[float, Cause]]) -> Iterator[Iterator[Cause]]:
        """The searches in turn, the cheapest first."""
        if number >= len(self.case.blocks):  # it has no right one
            yield self._others(number)
            yield self._beside_known(number)
            return
        yield iter(self._known)
        if self._shift is not None:
            yield self._others(number, self._shift)
        yield _catalogue(self.right(number))
        yield self._others(number)
        yield self._fitted(number)
        yield self._beside_known(number)
        if self._pairs_left > 0:
            yield self._pairs(number, tried)

    def _tried(self, number: int, cause: Cause) -> float:
        changed = _attempted(cause, self.right(number))
        return math.inf if changed is None else self._residual(number, changed)

    def _remember(self, number: int, causes: list[Cause]) -> None:
        """What explained one block is tried first of the next."""
        if causes[0].of is not None:
            self._shift = causes[0].of - number
        causes = [cause for cause in causes if cause.of is None]
        kept = {cause.key for cause in self._known}
        self._known += [cause for cause in causes if cause.key not in kept]

    def _others(self, number: int, shift: int | None = None) -> Iterator[Cause]:
        """The weights of other blocks: of all, or of the one so much farther."""
        for other, block in enumerate(self.case.blocks):
            if other != number and shift in (None, other - number):
                yield Cause(
                    (f"block-{other}",),
                    f"it holds the weights of block {other}",
                    "give each block its own weights",
                    functools.partial(_holding, block.block),
                    other,
                )

    def _fitted(self, number: int) -> Iterator[Cause]:
        """Numbers that no list holds: ε, and the scale of attention."""
        case = self.right(number)
        for name, declared, words in (
            ("norm_epsilon", short(case.spec.norm_epsilon), "eps is about {}"),
            ("attention_scale", _declared_scale(case), "scores are multiplied by about {}"),
        ):
            low, high = FITTED[name]
            value = _least(
                functools.partial(self._residual_of, number, name),
                low,
                high,
            )
            told = f"{words.format(short(float(f'{10**value:.3g}')))}, {declared} was declared"
            yield Cause(
                (f"{name.replace('_', '-')}-other",),
                told,
                f"set {name} as declared",
                functools.partial(_set, name, value),
            )

    def _residual_of(self, number: int, name: str, power: float) -> float:
        return self._residual(number, _set(name, power, self.right(number)))

    def _beside_known(self, number: int) -> Iterator[Cause]:
        """What explained another block, and one thing more of this one."""
        for known in self._known:
            for other in (*self._others(number), *_catalogue(self.right(number))):
                if other.key != known.key:
                    yield _composed(other, known)

    def _pairs(self, number: int, tried: list[tuple[float, Cause]]) -> Iterator[Cause]:
        """The mistakes that leave the least, each beside every one of the catalogue."""
        nearest = sorted(tried, key=lambda each: each[0])[:FIRST_OF_PAIRS]
        for residual, first in nearest:
            if math.isfinite(residual) and len(first.key) == 1:
                for second in _catalogue(self.right(number)):
                    if second.key != first.key:
                        yield _composed(first, second)

    # The end.

    def end(self, given: Array, measured: Mapping[str, Array]) -> Explained | None:
        """What explains what stands behind the last block; None where it is right.

        Raises:
            PatchParityError: what was measured and is not there; other shapes.
        """
        given, right = np.asarray(given, np.float64), self.case.end
        left = {name: np.asarray(each, np.float64) for name, each in measured.items()}
        expected = expected_end(right, given, self.dtype)
        for name, each in left.items():
            if name not in expected or expected[name].values.shape != each.shape:
                shape = expected[name].values.shape if name in expected else "none"
                raise PatchParityError(f"{name} of shape {each.shape}: expected {shape}")
        self.end_over = {name: _judged(each, expected[name]) for name, each in left.items()}
        if max(self.end_over.values()) <= 1:
            return None
        before = _end_residual(right, given, left)
        sizes = rms(np.concatenate([expected[name].values.ravel() for name in left]))
        off = before / (sizes or 1.0)
        found: list[tuple[float, Cause]] = []
        singles = list(_end_catalogue(right))
        attempts = singles
        for _ in range(2):
            cases = [(_attempted(cause, right), cause) for cause in attempts]
            found += [(_end_residual(case, given, left), cause) for case, cause in cases if case]
            agreeing = _agreeing(found, before, lambda cause: self._end_agrees(cause, given, left))
            if agreeing:
                return Explained(agreeing, max(self.end_over.values()), off)
            nearest = sorted(found, key=lambda each: each[0])[:FIRST_OF_PAIRS]
            attempts = [_composed(a, b) for _, a in nearest for b in singles if a.key != b.key]
        return Explained((), max(self.end_over.values()), off, _nearest(found, before))

    def _end_agrees(self, cause: Cause, given: Array, left: dict[str, Array]) -> bool:
        """Whether all that was measured of the end lies within the bounds of a wrong one."""
        case = _attempted(cause, self.case.end)
        if case is None:
            return False
        try:
            expected = expected_end(case, given, self.dtype)
        except (PatchParityError, ValueError):
            return False
        return all(
            name in expected
            and expected[name].values.shape == each.shape
            and _judged(each, expected[name]) <= 1
            for name, each in left.items()
        )


FITTED = {"norm_epsilon": (-12.0, -0.5), "attention_scale": (-3.0, 1.0)}
"""Powers of ten between which a number is searched: of ε, below which no norm notices it and above
which the variance of normed values is lost; of a scale, from 1/√D of a width of a million to ten
times none."""

STEPS = 24
"""Halvings of the golden section: 0.618²⁴ of a decade is below 1e-4, the digits that are told."""


def _least(error: Callable[[float], float], low: float, high: float) -> float:
    """Where an error is smallest: the best of a grid of half decades, then the golden section about
    it."""
    grid = np.arange(low, high + 0.25, 0.5)
    best = float(grid[int(np.argmin([error(float(each)) for each in grid]))])
    low, high, ratio = best - 0.5, best + 0.5, (math.sqrt(5) - 1) / 2
    for _ in range(STEPS):
        inner, outer = high - ratio * (high - low), low + ratio * (high - low)
        if error(inner) < error(outer):
            high = outer
        else:
            low = inner
    return (low + high) / 2


def _holding(block: Block, case: BlockCase) -> BlockCase:
    """The case with another block's weights."""
    return dataclasses.replace(case, block=block)


def _set(name: str, power: float, case: BlockCase) -> BlockCase:
    """The case with 10^power for a number of its spec."""
    fields: dict[str, Any] = {name: 10.0**power}
    return dataclasses.replace(case, spec=dataclasses.replace(case.spec, **fields))


def _declared_scale(case: BlockCase) -> str:
    scale = case.spec.attention_scale
    return "1/√d" if scale is None else short(scale)


def _judged(measured: Array, expected: BlockExpectation) -> float:
    if expected.values.shape != measured.shape:
        return math.inf
    with np.errstate(all="ignore"):
        over = judge_block(measured, expected)
    return math.inf if math.isnan(over) else over


def _catalogue(case: BlockCase) -> Iterator[Cause]:
    """Every mistake that sits in a block."""
    for name, mistake in ENCODER_CATALOGUE.items():
        if mistake.of_block is not None:
            yield Cause((name,), mistake.told(case), mistake.mend, mistake.of_block)


def _end_catalogue(case: EndCase) -> Iterator[Cause]:
    """Every mistake that sits behind the last block."""
    for name, mistake in ENCODER_CATALOGUE.items():
        if mistake.of_end is not None:
            yield Cause((name,), mistake.told(case), mistake.mend, mistake.of_end)


NORMS_AHEAD = 4.0
"""Factor of a bound where a norm stands before the first: its errors go through the other, whose
outputs are of its inputs' size, and are as large; four leaves room for a scale of two."""


def expected_end(case: EndCase, given: Array, dtype: str) -> dict[str, BlockExpectation]:
    """What the end gives of tokens `(B, S, D)`, and the bounds, by name.

    Raises:
        PatchParityError: shapes that do not fit together.
    """
    entering, weights = case.entering(given), case.weights
    if case.pooler_tanh or weights.pooler is None:
        expected = expect_end(entering, weights, case.spec, dtype=dtype)
    else:
        bare = dataclasses.replace(weights, pooler=None, head=weights.pooler)
        expected = expect_end(entering, bare, case.spec, dtype=dtype)
        expected["pooled"] = expected.pop("output")
        if weights.head is not None:
            both = dataclasses.replace(bare, head=_product(weights.head, weights.pooler))
            expected["output"] = expect_end(entering, both, case.spec, dtype=dtype)["output"]
    if not case.norms_ahead:
        return expected
    return {
        name: dataclasses.replace(each, bound=NORMS_AHEAD * each.bound)
        for name, each in expected.items()
    }


def _product(second: Linear, first: Linear) -> Linear:
    """The matrix of one behind another."""
    bias = second.bias
    if first.bias is not None:
        bias = second.weight @ first.bias + (0 if bias is None else bias)
    return Linear(second.weight @ first.weight, bias)


def _end_residual(case: EndCase, given: Array, left: Mapping[str, Array]) -> float:
    """rms of what a wrong end leaves of all that was measured."""
    try:
        with np.errstate(all="ignore"):
            made = case.run(given)
    except (PatchParityError, ValueError):
        return math.inf
    parts = []
    for name, each in left.items():
        values = getattr(made, name)
        if values is None or values.shape != each.shape:
            return math.inf
        parts.append((values - each).ravel())
    found = rms(np.concatenate(parts))
    return found if math.isfinite(found) else math.inf
