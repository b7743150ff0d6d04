"""Which of two formulations of one framework is faster: every such pair of a record, in words."""

from typing import Any

import numpy as np

from .statistics import Ratio, by_generation, compare_ratios, enough, paired_ratios, resampled_medians
from .views import noise_floors, row_block


def comparisons(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pairs of `conv_against_linear` as plain data: which rows, the ratio of their times with its interval, the noise, and the verdict."""
    told = []
    for info in conv_against_linear(entries):
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
    floors = noise_floors(entries)
    found, ratios = [], []
    for entry in entries:
        info = entry["extra_info"]
        partner = linear.get(_pair_key(info))
        if not (info["formulation"] or "").endswith("conv2d") or info["role"] != "implementation" or partner is None:
            continue
        own, other = (by_generation(each["stats"]["data"], info["generations"]) for each in (entry, partner))
        if len(entry["stats"]["data"]) == len(partner["stats"]["data"]):
            # The A/A pair runs on the CPU: it tells nothing of another device's noise.
            noise = floors.get((row_block(info), info["operation"])) if info["device"] == "cpu" else None
            pairs = paired_ratios(own, other)
            median = float(np.median(np.concatenate(pairs)))
            if noise is not None and enough(pairs):
                ratios.append(Ratio(median, resampled_medians(pairs), noise))
            elif noise is None and enough(pairs):
                ratios.append(Ratio(median, None, unknown="no A/A row tells of the noise on this device"))
            else:
                ratios.append(Ratio(median, None))
            names = {"row": entry["params"]["identity"], "against": partner["params"]["identity"]}
            found.append({**info, **names, "noise": noise})
    judged = compare_ratios(ratios)
    return [{**info, "conv_over_linear": each.ratio, "comparison": each} for info, each in zip(found, judged, strict=True)]


def _pair_key(info: dict[str, Any]) -> tuple[Any, ...]:
    return row_block(info), *(info[name] for name in ("backend", "mode", "device", "operation"))
