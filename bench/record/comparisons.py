"""Which of two rows of one framework is faster, convolution or linear, ours or a peer: every such
pair of a record, in words."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.registry import get_backend
from ...porting.objects.implementation import find_implementation
from ...reference.errors import PatchParityError
from ..intervals import (
    Comparison,
    Ratio,
    by_generation,
    compare_ratios,
    enough,
    median_of,
    paired_chance,
    paired_ratios,
    resampled_medians,
)
from .noise import Floors, noise_floors, noise_of
from .schema import Bench, Figures, Measured, Unmeasured


@dataclass(frozen=True)
class Pair:
    """A row held against another one of its interleave.

    Args:
        info, partner: the figures of both.
        row, against: their identities.
        noise: of their interleave; None where no A/A row tells it.
        comparison: of the first's time over the second's.
    """

    info: Figures
    partner: Figures
    row: str
    against: str
    noise: float | None
    comparison: Comparison


def comparisons(entries: list[Measured]) -> list[dict[str, Any]]:
    """All pairs as plain data: which rows, the ratio of their times with its interval, the noise,
    and the verdict."""
    pairs = (
        *conv_against_linear(entries),
        *best_against_today(entries),
        *best_against_others(entries),
    )
    return [
        {
            "row": pair.row,
            "against": pair.against,
            "ratio": pair.comparison.ratio,
            "interval": pair.comparison.interval,
            "noise": pair.noise,
            "verdict": pair.comparison.word,
            "reason": pair.comparison.reason,
        }
        for pair in pairs
    ]


def pairs_of(bench: Bench) -> tuple[list[Pair], list[Pair]]:
    """What `conv_against_linear` and `best_against_today` give of a record: as it was written down
    when the record was made, where it was; to judge a thousand pairs takes seconds."""
    entries = bench.benchmarks
    chosen = [
        [pair for pair in pairs if _comparable(*pair[:2])]
        for pairs in (_convolutions(entries), _best_pairs(is_called_today, entries))
    ]
    identities = [
        (first.params.identity, second.params.identity)
        for pairs in chosen
        for first, second, _ in pairs
    ]
    held = bench.comparisons[: len(identities)]
    if [(each.row, each.against) for each in held] != identities:
        return conv_against_linear(entries), best_against_today(entries)
    whole = [
        Pair(
            first.extra_info,
            second.extra_info,
            each.row,
            each.against,
            each.noise,
            Comparison(each.verdict, each.reason, each.ratio, each.interval),
        )
        for (first, second, _), each in zip(itertools.chain(*chosen), held, strict=True)
    ]
    return whole[: len(chosen[0])], whole[len(chosen[0]) :]


Chosen = tuple[Measured, Measured, int]
"""A row, the one that it is held against, and of how many the first was chosen."""


def conv_against_linear(entries: list[Measured]) -> list[Pair]:
    """Paired time ratio of every convolution to the linear formulation of the same backend, mode
    and block, on images of the same layout where there is one; above 1: linear wins."""
    return _judged(_convolutions(entries), noise_floors(entries))


def _convolutions(entries: list[Measured]) -> list[Chosen]:
    implementation_entries = [
        entry for entry in entries if entry.extra_info.role == "implementation"
    ]
    linear = {
        (_pair_key(info), layout): entry
        for entry in implementation_entries
        for layout in ("", "_nchw", "_uint8")
        if (info := entry.extra_info).formulation == f"linear{layout}"
    }
    pairs = []
    for entry in implementation_entries:
        name, convolves, layout = (info := entry.extra_info).formulation.partition("conv2d")
        partner = linear.get((_pair_key(info), layout)) or linear.get((_pair_key(info), ""))
        if convolves and name in ("", "keras_") and partner is not None:
            pairs.append((entry, partner, 1))
    return pairs


def best_against_today(entries: list[Measured]) -> list[Pair]:
    """Paired time ratio of our fastest implementation on a framework to what its users call today:
    every peer, and what is customary on it by itself; below 1: ours is faster. Where the fastest is
    customary itself there is nothing to compare it with but the others."""
    return _best_against(is_called_today, entries)


def best_against_others(entries: list[Measured]) -> list[Pair]:
    """Paired time ratio of our fastest implementation on a framework to every other of ours on
    it."""
    return _best_against(
        lambda info: info.role == "implementation" and not is_called_today(info), entries
    )


def best_overall(
    entries: list[Measured], frameworks: Collection[str]
) -> tuple[str, str, float, bool] | None:
    """The fastest row of these frameworks against the fastest of any other of them, of one
    interleave: both, how many times as fast the first is, and whether that is sure; None where
    there is one framework alone."""
    candidates = [
        entry
        for entry in entries
        if entry.extra_info.role in ("implementation", "peer")
        and not stored_as(entry.extra_info.implementation)
    ]
    candidates.sort(key=lambda entry: entry.stats.median)
    first, *others = [entry for entry in candidates if framework_of(entry.extra_info) in frameworks]
    framework = framework_of(first.extra_info)
    other = next((entry for entry in others if framework_of(entry.extra_info) != framework), None)
    if other is None:
        return None
    pairs = _judged([(first, other, len(candidates))], noise_floors(entries))
    if not pairs:
        return None
    names = (first.extra_info.implementation, other.extra_info.implementation)
    comparison = pairs[0].comparison
    return *names, 1 / comparison.ratio, comparison.word == "FASTER"


def framework_of(info: Figures | Unmeasured) -> str:
    """The framework that a row runs on, told by whose matrix products are its own: transformers' is
    torch."""
    return get_backend(info.implementation.split(":")[0]).yardstick


def is_called_today(info: Figures) -> bool:
    """Whether a row is what users of its framework call today."""
    if info.role != "implementation":
        return bool(info.role == "peer")
    return find_implementation(info.implementation).customary


def stored_as(implementation: str) -> str:
    """The type that a row's kernel is stored in, where that is another than its images': it is of
    another arithmetic then, and no choice among those of theirs. Empty for a name that this version
    does not know."""
    try:
        return find_implementation(implementation).stored
    except PatchParityError:
        return ""


@dataclass(frozen=True)
class Gain:
    """What a framework's users gain by the fastest formulation, over all cases.

    Args:
        framework: by whose products it is told.
        operation: tokens, sequence, train-step or uint8.
        ratios: time of what they call today over that of the fastest, one for each case and row
            that they call; 1 where that is the fastest itself.
        slower: how many of these are surely faster than our fastest.
    """

    framework: str
    operation: str
    ratios: list[float]
    slower: int

    @property
    def mean(self) -> float:
        """Geometric mean."""
        return float(np.exp(np.mean(np.log(self.ratios))))


def gains(entries: list[Measured], against_today: list[Pair]) -> list[Gain]:
    """The gain of each framework and operation, in the order of the record; `against_today` as
    `best_against_today` gives it."""
    group_ratios: dict[tuple[str, str], list[tuple[float, bool]]] = defaultdict(list)
    for pair in against_today:
        key = framework_of(pair.info), pair.info.operation
        group_ratios[key].append((1 / pair.comparison.ratio, pair.comparison.word == "SLOWER"))
    for entry in _best_of(entries)[0].values():
        if is_called_today(info := entry.extra_info):
            group_ratios[framework_of(info), info.operation].append((1.0, False))
    return [
        Gain(
            framework,
            operation,
            [ratio for ratio, _ in ratios],
            sum(slower for _, slower in ratios),
        )
        for (framework, operation), ratios in group_ratios.items()
    ]


def _best_of(
    entries: list[Measured],
) -> tuple[dict[tuple[Any, ...], Measured], Counter[tuple[Any, ...]]]:
    """Our fastest on each framework in each interleave, and among how many it was chosen."""
    best: dict[tuple[Any, ...], Measured] = {}
    candidates: Counter[tuple[Any, ...]] = Counter()
    for entry in entries:
        info = entry.extra_info
        if info.role == "implementation":
            key = _framework_key(info)
            candidates[key] += 1
            if key not in best or entry.stats.median < best[key].stats.median:
                best[key] = entry
    return best, candidates


def _best_against(wanted: Callable[[Figures], bool], entries: list[Measured]) -> list[Pair]:
    return _judged(_best_pairs(wanted, entries), noise_floors(entries))


def _best_pairs(wanted: Callable[[Figures], bool], entries: list[Measured]) -> list[Chosen]:
    best, candidates = _best_of(entries)
    others = [entry for entry in entries if wanted(entry.extra_info)]
    keys = [_framework_key(entry.extra_info) for entry in others]
    keyed_entries = [
        (key, entry)
        for key, entry in zip(keys, others, strict=True)
        if key in best and entry is not best[key]
    ]
    return [(best[key], entry, candidates[key]) for key, entry in keyed_entries]


def _comparable(entry: Measured, partner: Measured) -> bool:
    """Whether two rows have as many samples: those of a block that was broken off may not."""
    return len(entry.stats.data) == len(partner.stats.data)


def _judged(pairs: list[Chosen], floors: Floors) -> list[Pair]:
    """Judge pairs of rows, the first chosen from so many; those of one interleave are a family."""
    kept = [pair for pair in pairs if _comparable(*pair[:2])]
    families = defaultdict(list)
    for place, (entry, _, _) in enumerate(kept):
        families[entry.extra_info.block].append(place)
    judged: dict[int, Comparison] = {}
    for places in families.values():  # one after another: a ratio holds 80 kB of resamples
        ratios = [_ratio_of(*kept[place], floors) for place in places]
        judged.update(zip(places, compare_ratios(ratios), strict=True))
    return [
        Pair(
            entry.extra_info,
            partner.extra_info,
            entry.params.identity,
            partner.params.identity,
            noise_of(floors, entry.extra_info),
            judged[place],
        )
        for place, (entry, partner, _) in enumerate(kept)
    ]


def _ratio_of(entry: Measured, partner: Measured, chosen_from: int, floors: Floors) -> Ratio:
    info = entry.extra_info
    seconds, against = (
        by_generation(measurement.stats.data, info.generations) for measurement in (entry, partner)
    )
    return _ratio(paired_ratios(seconds, against), noise_of(floors, info), chosen_from)


def _ratio(pairs: list[NDArray[np.float64]], noise: float | None, chosen_from: int) -> Ratio:
    median = median_of(np.concatenate(pairs))
    if not enough(pairs):
        return Ratio(median, None)
    if noise is None:
        return Ratio(median, None, unknown="no A/A row tells of the noise on this device")
    return Ratio(
        median,
        resampled_medians(pairs),
        noise,
        least_chance=paired_chance(pairs),
        chosen_from=chosen_from,
    )


def _framework_key(info: Figures) -> tuple[Any, ...]:
    stored = stored_as(info.implementation)
    return info.block, info.device, info.precision, info.operation, framework_of(info), stored


def _pair_key(info: Figures) -> tuple[Any, ...]:
    return info.block, info.backend, info.mode, info.device, info.precision, info.operation
