"""Scaling: throughput over batch, image size and threads, each with the limit of the machine, from
`bench.json`."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cases import named_case
from ..record.rows import row_work
from ..record.schema import Measured
from ..record.words import block_title, place_text

LIMIT = "limit"
"""Name of the curve of what the machine allows."""


@dataclass(frozen=True)
class Curve:
    """One implementation, or the limit, over a variable.

    Args:
        name: the implementation (and the device where that is not the CPU), or `LIMIT`.
        x: values of the variable.
        seconds: median of each; of the limit, what nothing can undercut.
        gflops: the case's operations over these.
        lower, upper: quartiles of the samples at each; of the limit its own.
        shown: whether the figure shows it at once, or only when its legend is clicked.
    """

    name: str
    x: list[int]
    seconds: list[float]
    gflops: list[float]
    lower: list[float]
    upper: list[float]
    shown: bool = True


@dataclass(frozen=True)
class Figure:
    """Curves over one variable."""

    title: str
    x_title: str
    curves: list[Curve]


def scaling_figures(entries: list[Measured]) -> list[Figure]:
    """Figures of every family of cases that varies in one thing alone: batch, image size, or
    threads."""
    families: dict[tuple[Any, ...], dict[int, list[Measured]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for entry in entries:
        info = entry.extra_info
        if info.operation not in ("tokens", "gemm", "peak-float32", "copy"):
            continue
        case, dtype, threads, cache, host = info.block
        sizes, model = named_case(case), case.rsplit("-b", 1)[0]
        place = dtype, threads, cache, host
        families["batch", (model, *place)][sizes.batch].append(entry)
        if len(set(sizes.spec.image_size)) == 1 and model.endswith(f"-{sizes.spec.image_size[0]}"):
            family = f"{model.rpartition('-')[0]}, batch {sizes.batch}"
            families["image size", (family, *place)][sizes.spec.image_size[0]].append(entry)
        families["threads", (case, dtype, cache, host)][threads].append(entry)
    return [
        Figure(_title(variable, family), variable, curves)
        for (variable, family), points in families.items()
        if len(points) > 1 and (curves := _curves(points))
    ]


def _title(variable: str, family: tuple[Any, ...]) -> str:
    if variable != "threads":
        case, dtype, threads, cache, host = family
        return block_title((f"{case}: over {variable}", dtype, threads, cache, host))
    case, dtype, cache, host = family
    return block_title((f"{case}: over threads", dtype, 1, cache, host)).replace(", 1 thread", "")


def _curves(points: dict[int, list[Measured]]) -> list[Curve]:
    """The implementations' curves, the fastest of a framework anywhere shown at once; then the
    limit of each device."""
    seconds: dict[str, dict[int, float]] = defaultdict(dict)
    quartiles: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    work: dict[int, float] = {}
    limits: dict[str, dict[int, float]] = defaultdict(dict)
    fastest: set[str] = set()
    for x in sorted(points):
        best: dict[str, tuple[float, str]] = {}
        for entry in points[x]:
            info = entry.extra_info
            if info.role not in ("implementation", "peer") or info.operation != "tokens":
                continue
            case = named_case(info.case)
            work[x] = case.spec.flops(case.batch)
            place = place_text(info)
            name = info.implementation + ("" if place == "cpu" else f" {place}")
            seconds[name][x] = entry.stats.median
            quartiles[name][x] = entry.stats.q1, entry.stats.q3
            rival = (seconds[name][x], name)
            best[f"{info.backend} {place}"] = min(rival, best.get(f"{info.backend} {place}", rival))
        fastest |= {name for _, name in best.values()}
        for place, limit in _limits(points[x]).items():
            limits[LIMIT if place == "cpu" else f"{LIMIT} {place}"][x] = limit

    def curve(name: str, values: dict[int, float], shown: bool) -> Curve:
        xs = sorted(values)
        ends = [quartiles[name].get(x, (values[x], values[x])) for x in xs]
        return Curve(
            name,
            xs,
            [values[x] for x in xs],
            [work[x] / values[x] / 1e9 for x in xs],
            [low for low, _ in ends],
            [high for _, high in ends],
            shown,
        )

    drawn = [
        curve(name, values, name in fastest) for name, values in seconds.items() if len(values) > 1
    ]
    drawn.sort(key=lambda drawn_curve: not drawn_curve.shown)
    roofs = [
        curve(name, {x: value for x, value in values.items() if x in work}, True)
        for name, values in limits.items()
    ]
    return [*drawn, *roofs] if drawn else []


def _limits(entries: list[Measured]) -> dict[str, float]:
    """Seconds that nothing can undercut, by device and precision: the fastest matrix product of the
    shape, or moving the least bytes at the rate of the fastest copy, whichever takes longer. What a
    call costs by itself is no limit of the machine, and is left out."""
    products: dict[str, float] = {}
    copies: dict[str, float] = {}
    for entry in entries:
        info, median = entry.extra_info, statistics.median(entry.stats.data)
        case, itemsize = named_case(info.case), np.dtype(info.dtype).itemsize
        least, place = row_work("tokens", case, itemsize)[1], place_text(info)
        if info.operation in ("gemm", "peak-float32"):
            scale = (
                row_work("gemm", case, itemsize)[0] / row_work(info.operation, case, itemsize)[0]
            )
            products[place] = min(products.get(place, scale * median), scale * median)
        elif info.operation == "copy":
            share = least / row_work("copy", case, itemsize)[1]
            copies[info.device] = min(copies.get(info.device, share * median), share * median)
    return {
        place: max(product, copies.get(place.split()[0], 0.0))
        for place, product in products.items()
    }
