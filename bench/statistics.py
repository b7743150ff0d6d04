"""Medians and bootstrap intervals of paired samples."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

RESAMPLES = 2000
"""Bootstrap resamples. The ends of a 95% interval are the 50th values from either end of 2000: their own standard error is about a
seventh of the distance between the 93% and 97% ends, too small to show in three digits."""

CONFIDENCE = 0.95


FEWEST_ROUNDS = 6
"""Rounds below which there is no 95% interval of a median: even from the smallest to the largest of n samples it covers the median
with probability 1 − 2^(1−n), 93.75% at n = 5 and 96.9% at n = 6."""


def paired_ratio(seconds: Sequence[float], reference: Sequence[float], seed: int = 0) -> tuple[float, tuple[float, float] | None]:
    """Ratio of two rows measured in the same rounds: the median over rounds of seconds/reference, and its 95% bootstrap interval.

    Both calls of a round share the machine's state of that moment, so dividing inside the round takes drift out of the ratio.

    Args:
        seconds, reference: one sample a round, in the order of the rounds.
        seed: of the resampling.

    Returns:
        The ratio (above 1: slower than the reference) and the interval's ends (percentile bootstrap over rounds: Efron &
        Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13), None below `FEWEST_ROUNDS`.

    Raises:
        ValueError: sequences of different length, or empty ones.
    """
    if len(seconds) != len(reference) or not len(seconds):
        raise ValueError(
            f"{len(seconds)} and {len(reference)} samples: expected as many of one as of the other, and at least one"
        )
    ratios = np.asarray(seconds, np.float64) / np.asarray(reference, np.float64)
    if len(ratios) < FEWEST_ROUNDS:
        return float(np.median(ratios)), None
    picks = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    medians = np.median(ratios[picks], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians, (tail, 1 - tail))
    return float(np.median(ratios)), (float(low), float(high))


SMALLEST_DIFFERENCE = 0.01
"""Differences below 1% are of no use to anyone choosing an implementation, and are called none."""

LARGEST_NOISE_FOR_SAME = 0.05
"""Where the noise is above 5%, lying within it does not make two things the same: a difference that matters could hide there."""

Comparison = Literal["faster", "slower", "same", "unsure"]


def noise_floor(interval: tuple[float, float]) -> float:
    """How far from 1 a ratio may be by chance: the farther end of the A/A pair's interval, at least `SMALLEST_DIFFERENCE`."""
    return max(SMALLEST_DIFFERENCE, *(abs(end - 1) for end in interval))


def compare_interval(interval: tuple[float, float], noise: float) -> Comparison:
    """Judge the interval of a ratio against a noise floor.

    `faster` or `slower` where the whole interval lies outside 1 ± noise; `same` where it lies inside and the noise is small enough to say
    so; else `unsure`.
    """
    low, high = interval
    if high < 1 - noise:
        return "faster"
    if low > 1 + noise:
        return "slower"
    inside = 1 - noise <= low and high <= 1 + noise
    return "same" if inside and noise <= LARGEST_NOISE_FOR_SAME else "unsure"
