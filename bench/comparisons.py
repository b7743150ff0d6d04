"""Which of two rows of one framework is faster, convolution or linear, ours or a peer: every such pair of a record, in words."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.base import get_backend
from .rows import Block
from .statistics import Ratio, by_generation, compare_ratios, enough, paired_ratios, resampled_medians
from .views import noise_floors, row_block


def comparisons(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All pairs as plain data: which rows, the ratio of their times with its interval, the noise, and the verdict."""
    told = []
    for info in (*conv_against_linear(entries), *best_against_peers(entries), *best_against_others(entries)):
        judged = info["comparison"]
        named = {"row": info["row"], "against": info["against"], "ratio": judged.ratio, "interval": judged.interval}
        told.append({**named, "noise": info["noise"], "verdict": judged.word, "reason": judged.reason})
    return told


def conv_against_linear(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired time ratio of every convolution to the linear formulation of the same backend, mode and block; above 1: linear wins."""
    linear = {}
    for entry in entries:
        info = entry["extra_info"]
        if info["formulation"] == "linear" and info["role"] == "implementation":
            linear[_pair_key(info)] = entry
    pairs = []
    for entry in entries:
        info = entry["extra_info"]
        partner = linear.get(_pair_key(info))
        if (info["formulation"] or "").endswith("conv2d") and info["role"] == "implementation" and partner is not None:
            pairs.append((entry, partner, 1))
    return _judged(pairs, noise_floors(entries))


def best_against_peers(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired time ratio of our fastest implementation on a framework to every peer on the same framework; below 1: ours is faster."""
    return _best_against("peer", entries)


def best_against_others(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired time ratio of our fastest implementation on a framework to every other of ours on it."""
    return _best_against("implementation", entries)


def _best_against(role: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    candidates: Counter[tuple[Any, ...]] = Counter()
    for entry in entries:
        info = entry["extra_info"]
        if info["role"] == "implementation":
            key = _framework_key(info)
            candidates[key] += 1
            if key not in best or entry["stats"]["median"] < best[key]["stats"]["median"]:
                best[key] = entry
    others = [entry for entry in entries if entry["extra_info"]["role"] == role]
    keys = [_framework_key(entry["extra_info"]) for entry in others]
    found = [(key, entry) for key, entry in zip(keys, others, strict=True) if key in best and entry is not best[key]]
    pairs = [(best[key], entry, candidates[key]) for key, entry in found]
    return _judged(pairs, noise_floors(entries))


def _judged(
    pairs: list[tuple[dict[str, Any], dict[str, Any], int]], floors: dict[tuple[Block, str], float]
) -> list[dict[str, Any]]:
    """Judge pairs of rows, the first chosen from so many, as one family.

    Returns:
        Of the first of each pair its `extra_info`, and beside it `row`, `against`, `partner`, `ratio_of_pair`, `noise` and `comparison`.
    """
    found, ratios = [], []
    for entry, partner, chosen_from in pairs:
        info = entry["extra_info"]
        if len(entry["stats"]["data"]) != len(partner["stats"]["data"]):
            continue
        # The A/A pair runs on the CPU: it tells nothing of another device's noise.
        noise = floors.get((row_block(info), info["operation"])) if info["device"] == "cpu" else None
        own, other = (by_generation(each["stats"]["data"], info["generations"]) for each in (entry, partner))
        ratios.append(_ratio(paired_ratios(own, other), noise, chosen_from))
        names = {"row": entry["params"]["identity"], "against": partner["params"]["identity"]}
        found.append({**info, **names, "partner": partner["extra_info"], "noise": noise})
    judged = compare_ratios(ratios)
    return [{**info, "ratio_of_pair": each.ratio, "comparison": each} for info, each in zip(found, judged, strict=True)]


def _ratio(pairs: list[NDArray[np.float64]], noise: float | None, chosen_from: int) -> Ratio:
    median = float(np.median(np.concatenate(pairs)))
    if not enough(pairs):
        return Ratio(median, None)
    if noise is None:
        return Ratio(median, None, unknown="no A/A row tells of the noise on this device")
    return Ratio(median, resampled_medians(pairs), noise, chosen_from=chosen_from)


def _framework_key(info: dict[str, Any]) -> tuple[Any, ...]:
    """A framework is told by whose products are its own: transformers' is torch's."""
    return row_block(info), info["device"], info["operation"], get_backend(info["backend"]).yardstick


def _pair_key(info: dict[str, Any]) -> tuple[Any, ...]:
    return row_block(info), *(info[name] for name in ("backend", "mode", "device", "operation"))
