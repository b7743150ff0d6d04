"""Medians, bootstrap intervals, and verdicts on comparisons: FASTER, SLOWER, SAME or UNSURE, with
the reason."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap resamples. The ends of a 95% interval are the 250th values from either end, with a
standard error of 6% of the tail. Probabilities below
`FEWEST_IN_A_TAIL` of them are read from the tail of a normal distribution instead: Holm's
adjustment asks for 0.025/m among m comparisons, and a whole record has a thousand."""

MOST_DRAWN = 1
"""Shapes of samples whose resamples are kept, half a megabyte each for 24 rounds: rows come
interleave by interleave, and those of one have the same rounds."""

AT_ONCE = 1000
"""Resamples that are laid out in one go: 24 rounds of all of them are 2 MB in each step."""

FEWEST_IN_A_TAIL = 10
"""Resamples whose number tells a probability: its standard error is then a third of it."""

CONFIDENCE = 0.95


FEWEST_ROUNDS = 6
"""Rounds below which there is no 95% interval of a median: even from the smallest to the largest of
n samples it covers the median with probability 1 − 2^(1−n), 93.75% at n = 5 and 96.9% at n = 6."""

Groups = Sequence[Sequence[float] | NDArray[np.float64]]
"""Samples by generation (the life of one worker process), in the order of the rounds."""


def by_generation(samples: Sequence[float], lengths: Sequence[int]) -> list[list[float]]:
    """Split samples in the order of the rounds into generations of the given numbers of rounds."""
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return [list(samples[end - length : end]) for length, end in zip(lengths, ends, strict=True)]


def resampled_medians(groups: Groups, seed: int = 0) -> NDArray[np.float64]:
    """Medians of hierarchical bootstrap resamples: generations are drawn first, then rounds within
    each.

    Processes of identical code differ by more than the rounds of one, so an interval from rounds
    alone would be too narrow (Davison & Hinkley, "Bootstrap Methods and their Application", 1997,
    section 3.8). With one generation this is the plain percentile bootstrap (Efron & Tibshirani,
    "An Introduction to the Bootstrap", 1993, chapter 13).

    Args:
        groups: samples by generation, none empty.
        seed: of the resampling.

    Returns:
        `RESAMPLES` medians.
    """
    values = np.concatenate([np.asarray(group, np.float64) for group in groups])
    drawn = _drawn(tuple(len(group) for group in groups), seed)
    return np.concatenate(
        [_medians(values[drawn[at : at + AT_ONCE]]) for at in range(0, RESAMPLES, AT_ONCE)]
    )


def median_of(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The median, to the last bit that of `np.median`, which loads masked arrays for it."""
    return float(_medians(np.array(values, np.float64, ndmin=2))[0])


@functools.lru_cache(maxsize=MOST_DRAWN)
def _drawn(generation_lengths: tuple[int, ...], seed: int) -> NDArray[np.integer[Any]]:
    """Which samples stand in each resample, `(RESAMPLES, samples)`, of generations of so many
    rounds: the same for all rows of an interleave."""
    generator = np.random.default_rng(seed)
    lengths = np.array(generation_lengths)
    total = int(lengths.sum())
    resamples = np.empty((RESAMPLES, total), np.uint16 if total < 2**16 else np.int64)
    drawn = generator.integers(len(lengths), size=(RESAMPLES, len(lengths)))
    for at in range(0, RESAMPLES, AT_ONCE):
        here = drawn[at : at + AT_ONCE]
        resamples[at : at + AT_ONCE] = _rounds_of(here, lengths, generator)
    return resamples


def _rounds_of(
    drawn: NDArray[np.int64], lengths: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """The rounds of some resamples, `(resamples, samples)`, of the generations that were drawn for
    them."""
    count, total = len(drawn), int(lengths.sum())
    if len(set(lengths.tolist())) == 1:
        rounds = generator.integers(lengths[0], size=(count, len(lengths), lengths[0]))
        return (drawn[:, :, None] * lengths[0] + rounds).reshape(count, -1)
    # As many rounds as there are, each from any of those of the drawn generations: a longer one has
    # more of them, as in the median itself.
    ends = np.cumsum(lengths[drawn], axis=1)
    picked = (generator.random((count, total)) * ends[:, -1:]).astype(np.int64)
    place = (picked[:, :, None] >= ends[:, None, :-1]).sum(axis=2)
    within = picked - np.take_along_axis(
        np.concatenate([np.zeros((count, 1), np.int64), ends], axis=1), place, axis=1
    )
    starts = np.cumsum(lengths) - lengths
    return starts[np.take_along_axis(drawn, place, axis=1)] + within


def _medians(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median of each row, which is sorted where it lies: to the last bit that of `np.median`,
    which takes five times as long for many short rows."""
    rows.sort(axis=1)
    half = rows.shape[1] // 2
    return rows[:, half].copy() if rows.shape[1] % 2 else (rows[:, half - 1] + rows[:, half]) / 2


def paired_ratios(seconds: Groups, reference: Groups) -> list[NDArray[np.float64]]:
    """Ratios of two rows measured in the same rounds, generation by generation.

    Both calls of a round share the machine's state of that moment, so dividing inside the round
    takes drift out of the ratio.

    Raises:
        ValueError: rows whose generations have different numbers of rounds, or none.
    """
    shapes = [[len(group) for group in groups] for groups in (seconds, reference)]
    if shapes[0] != shapes[1] or not any(shapes[0]):
        counts = " and ".join("+".join(map(str, shape)) or "0" for shape in shapes)
        raise ValueError(
            f"{counts} samples: expected as many of one as of the other, and at least one"
        )
    pairs = zip(seconds, reference, strict=True)
    return [
        np.asarray(row_seconds, np.float64) / np.asarray(other, np.float64)
        for row_seconds, other in pairs
        if len(row_seconds)
    ]


def interval_of(
    medians: NDArray[np.float64], tail: float = (1 - CONFIDENCE) / 2
) -> tuple[float, float]:
    """The percentile interval of resampled medians, with probability `tail` beyond each end, to the
    last bit that of `np.quantile`, which loads masked arrays for it."""
    return _quantile(medians, tail), _quantile(medians, 1 - tail)


def _quantile(values: NDArray[np.float64], share: float) -> float:
    """A quantile, reckoned from the nearer of the two values beside it."""
    place = share * (len(values) - 1)
    below = math.floor(place)
    above = min(below + 1, len(values) - 1)
    ordered = np.partition(values, (below, above))
    low, high = float(ordered[below]), float(ordered[above])
    step, rest = high - low, place - below
    return low + step * rest if rest < 0.5 else high - step * (1 - rest)


def paired_ratio(
    seconds: Groups, reference: Groups, seed: int = 0
) -> tuple[float, tuple[float, float] | None]:
    """Ratio of two rows measured in the same rounds: the median over rounds of seconds/reference,
    and its 95% bootstrap interval.

    Args:
        seconds, reference: samples by generation, in the order of the rounds.
        seed: of the resampling.

    Returns:
        The ratio (above 1: slower than the reference) and the interval's ends, None below
        `FEWEST_ROUNDS`.

    Raises:
        ValueError: as `paired_ratios`.
    """
    ratios = paired_ratios(seconds, reference)
    median = median_of(np.concatenate(ratios))
    return median, interval_of(resampled_medians(ratios, seed)) if enough(ratios) else None


def enough(groups: Groups) -> bool:
    """Whether there are rounds enough for an interval."""
    return sum(map(len, groups)) >= FEWEST_ROUNDS


SMALLEST_DIFFERENCE = 0.01
"""Differences below 1% are of no use to anyone choosing an implementation, and are called none."""

LARGEST_NOISE_FOR_SAME = 0.05
"""Where the noise is above 5%, lying within it does not make two things the same: a difference that
matters could hide there."""


def noise_floor(interval: tuple[float, float]) -> float:
    """How far from 1 a ratio may be by chance: the farther end of the A/A pair's interval, at least
    `SMALLEST_DIFFERENCE`."""
    return max(SMALLEST_DIFFERENCE, *(abs(end - 1) for end in interval))


Word = Literal["FASTER", "SLOWER", "SAME", "UNSURE"]


@dataclass(frozen=True)
class Comparison:
    """The verdict on one ratio of times: FASTER means that the ratio is surely below 1.

    Args:
        word: the verdict.
        reason: why, in words.
        ratio: the median ratio.
        interval: 95%, not adjusted for the number of comparisons; None below `FEWEST_ROUNDS`.
    """

    word: Word
    reason: str
    ratio: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Ratio:
    """A ratio to be judged.

    Args:
        median: the ratio itself.
        medians: what `resampled_medians` returned, or None where nothing can be said.
        noise: how far from 1 a ratio may be by chance.
        unknown: why nothing can be said, where that is so.
        least_chance: below which no probability is believed, however far the samples lie apart:
            that all of so many independent ones lie on one side by chance (`paired_chance`,
            `unpaired_chance`).
        chosen_from: among how many the first of the pair was chosen for being the fastest: of as
            many equal ones one looks fast by chance, so the pair counts for as many comparisons
            (Bonferroni).
    """

    median: float
    medians: NDArray[np.float64] | None
    noise: float = SMALLEST_DIFFERENCE
    unknown: str = f"fewer than {FEWEST_ROUNDS} rounds"
    least_chance: float = 0.0
    chosen_from: int = 1


def paired_chance(groups: Groups) -> float:
    """Probability that all of n ratios lie on the same side of a median by chance: 2^−n, the least
    that a sign test can show."""
    return 2.0 ** -sum(map(len, groups))


def unpaired_chance(first: Groups, second: Groups) -> float:
    """Probability that all samples of one kind come before all of the other by chance: one of all
    orders, the least that a rank test can show."""
    one, other = (sum(map(len, groups)) for groups in (first, second))
    return 1.0 / math.comb(one + other, one)


def compare_ratios(ratios: Sequence[Ratio]) -> list[Comparison]:
    """Judge a family of ratios, each against its noise, with Holm's adjustment for their number.

    FASTER or SLOWER where the ratio lies outside 1 ± noise: the probability of the contrary, by the
    bootstrap, is compared with 0.025/m for the clearest of m, with 0.025/(m − 1) for the next, and
    so on until one fails (Holm, Scandinavian Journal of Statistics 6, 1979): the chance of any
    wrong one among all is then 5%. SAME where the interval at the same level lies inside, and the
    noise is small enough to say so. Else UNSURE.
    """
    tail = (1 - CONFIDENCE) / 2
    chances = [_chance_of_none(ratio) for ratio in ratios]
    order = sorted(range(len(ratios)), key=lambda index: chances[index])
    judged: dict[int, Comparison] = {}
    deciding = True
    for rank, index in enumerate(order):
        level = tail / (len(ratios) - rank)
        deciding = deciding and chances[index] <= level
        judged[index] = _compare(ratios[index], level, deciding)
    return [judged[index] for index in range(len(ratios))]


def _chance_of_none(ratio: Ratio) -> float:
    """Probability that the ratio is not beyond the noise on the side where it lies; 1 where it
    cannot be said."""
    if ratio.medians is None:
        return 1.0
    slower = ratio.median > 1
    limit = 1 + ratio.noise if slower else 1 - ratio.noise
    contrary = int((ratio.medians <= limit if slower else ratio.medians >= limit).sum())
    if contrary >= FEWEST_IN_A_TAIL:
        chance = (1 + contrary) / (1 + len(ratio.medians))
    else:
        spread, distance = (
            float(np.std(ratio.medians)),
            abs(median_of(ratio.medians) - limit),
        )
        chance = NormalDist().cdf(-distance / spread) if spread else 0.0
        chance = min(chance, (1 + FEWEST_IN_A_TAIL) / (1 + len(ratio.medians)))
    return min(1.0, ratio.chosen_from * max(chance, ratio.least_chance))


def _adjusted_interval(medians: NDArray[np.float64], tail: float) -> tuple[float, float]:
    """The percentile interval; where its tails hold too few resamples to tell it, the normal one if
    that is wider."""
    low, high = interval_of(medians, tail)
    if tail * len(medians) < FEWEST_IN_A_TAIL:
        center, reach = (
            median_of(medians),
            float(np.std(medians)) * NormalDist().inv_cdf(1 - tail),
        )
        low, high = min(low, center - reach), max(high, center + reach)
    return low, high


def _compare(ratio: Ratio, level: float, decided: bool) -> Comparison:
    if ratio.medians is None:
        return Comparison("UNSURE", ratio.unknown, ratio.median, None)
    interval, adjusted = (
        interval_of(ratio.medians),
        _adjusted_interval(ratio.medians, level / ratio.chosen_from),
    )
    noise = f"the noise of ±{100 * ratio.noise:.1f}%"
    if decided:
        word: Word = "SLOWER" if ratio.median > 1 else "FASTER"
        return Comparison(word, f"beyond {noise}", ratio.median, interval)
    inside = 1 - ratio.noise <= adjusted[0] and adjusted[1] <= 1 + ratio.noise
    if inside and ratio.noise <= LARGEST_NOISE_FOR_SAME:
        return Comparison("SAME", f"within {noise}", ratio.median, interval)
    if inside:
        reason = f"within {noise}, which could hide a difference that matters"
    else:
        reason = (
            f"the adjusted interval [{adjusted[0]:.3f}, {adjusted[1]:.3f}] lies neither "
            f"inside nor beyond {noise}"
        )
    return Comparison("UNSURE", reason, ratio.median, interval)
