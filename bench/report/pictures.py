"""Which pictures the report shows: who is fastest, convolution against linear, scaling, the roof,
and the samples in the order in which they were taken."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..cases import named_case
from ..record.comparisons import Pair, framework_of
from ..record.rows import row_work
from ..record.schema import Measured
from ..record.words import block_title, place_text
from .curves import LIMIT, Figure, scaling_figures
from .front import Answer, color_of, frameworks_of
from .svg import COLORS, Dot, Line, curves, dot_plot

Drawn = tuple[str, Callable[[int, bool], str]]
"""A title, and what draws below it."""


@dataclass(frozen=True)
class Picture:
    """One picture of the report.

    Args:
        section: under which heading it stands.
        title: what it shows, in words; also read out instead of it.
        draw: gives the SVG, of a width, alone or for the page.
    """

    section: str
    title: str
    draw: Callable[[int, bool], str]


SECTIONS = {
    "Who is fastest, as pictures": "Time over the fastest of the case, paired within each round, "
    "with a 95% interval; what lies in the gray band is within the noise. Hollow: what people call "
    "today.",
    "Convolution or linear, as pictures": "Time of the convolution over that of reshape + matmul "
    "of the same framework; left of 1 the convolution is faster.",
    "Scaling": "Operations of the case over the median time; the band is from the lower to the "
    "upper quartile. Dashed: the machine's limit, the fastest matrix product of the same shape, or "
    "moving the least possible bytes at the rate of the fastest copy.",
    "Roofline": "Each framework's fastest on each case by its operations for each byte that must "
    "be moved; dashed: the fastest product of the record, and the fastest copy.",
    "Trend": "Each framework's fastest in this record and in those that it is held against, by the "
    "day on which they were made.",
    "Samples in order": "Every sample of the fastest, of what people call today, and of a row that "
    "was timed in two processes at once (A/A): what these two differ by is noise.",
}
"""Headings of the pictures, and what is to be known of them."""


def pictures_of(
    entries: list[Measured],
    answers: Sequence[Answer],
    convolutions: Sequence[Pair],
    trends: Sequence[Drawn] = (),
) -> list[Picture]:
    """All pictures of a record, section by section; `convolutions` are held against linear
    formulations, `trends` are those of several records."""
    frameworks = frameworks_of(entries)
    fastest, against, scaling, roof, trend, in_order = SECTIONS
    return [
        *(Picture(fastest, answer.title, _dots(answer)) for answer in answers),
        *(Picture(against, *drawn) for drawn in _conv_pictures(convolutions, frameworks)),
        *(
            Picture(scaling, figure.title, _scaling(figure, entries, frameworks))
            for figure in scaling_figures(entries)
        ),
        *(Picture(roof, *drawn) for drawn in _roofs(entries, frameworks)),
        *(Picture(trend, *drawn) for drawn in trends),
        *(Picture(in_order, *drawn) for drawn in _samples(entries, frameworks)),
    ]


def _dots(answer: Answer) -> Callable[[int, bool], str]:
    title = f"Time over the fastest: {answer.title}"
    return lambda width, alone: dot_plot(title, answer.dots, answer.noise, width=width, alone=alone)


def _conv_pictures(convolutions: Sequence[Pair], frameworks: Sequence[str]) -> Iterator[Drawn]:
    groups: dict[tuple[str, int, str], list[Dot]] = defaultdict(list)
    for pair in convolutions:
        info, judged = pair.info, pair.comparison
        if info.operation != "tokens":
            continue
        low, high = judged.interval or (None, None)
        dot = Dot(
            f"{info.case} {info.backend}:{info.formulation}:{info.mode}",
            judged.ratio,
            low,
            high,
            color_of(framework_of(info), frameworks),
            judged.word in ("SAME", "UNSURE"),
            judged.word,
        )
        groups[info.dtype, info.threads_requested, place_text(info)].append(dot)
    for (dtype, threads, place), dots in groups.items():
        title = f"{dtype}, {threads} thread{'s' if threads > 1 else ''}, {place}"
        dots.sort(key=lambda dot: dot.ratio)
        yield title, _dot_plot(f"Convolution over linear: {title}", dots)


def _dot_plot(title: str, dots: Sequence[Dot]) -> Callable[[int, bool], str]:
    return lambda width, alone: dot_plot(title, dots, None, width=width, alone=alone)


def line_plot(
    title: str, x_title: str, y_title: str, lines: Sequence[Line], in_order: bool = False
) -> Callable[[int, bool], str]:
    """What draws curves, as `svg.curves` has its arguments."""
    return lambda width, alone: curves(
        title, x_title, y_title, lines, width=width, alone=alone, in_order=in_order
    )


def _scaling(
    figure: Figure, entries: list[Measured], frameworks: Sequence[str]
) -> Callable[[int, bool], str]:
    """The limits, and of each framework what is its fastest somewhere."""
    framework = {
        entry.extra_info.implementation: framework_of(entry.extra_info) for entry in entries
    }
    best: dict[tuple[str, int], tuple[float, str]] = {}
    for curve in figure.curves:
        for x, rate in zip(curve.x, curve.gflops, strict=True):
            key = framework.get(curve.name.split()[0], LIMIT), x
            best[key] = max(best.get(key, (0.0, "")), (rate, curve.name))
    fastest = {name for _, name in best.values()}
    lines = []
    for curve in figure.curves:
        limit = curve.name.startswith(LIMIT)
        if not limit and curve.name not in fastest:
            continue
        name = curve.name.split()[0]
        group = len(COLORS) - 1 if limit else color_of(framework[name], frameworks)
        work = [rate * seconds for rate, seconds in zip(curve.gflops, curve.seconds, strict=True)]
        low, high = (
            [amount / seconds for amount, seconds in zip(work, ends, strict=True)]
            for ends in (curve.upper, curve.lower)
        )
        points = list(zip(map(float, curve.x), curve.gflops, strict=True))
        lines.append(Line(curve.name, points, low, high, group, limit))
    return line_plot(figure.title, figure.x_title, "GFLOP/s", lines)


def _roofs(entries: list[Measured], frameworks: Sequence[str]) -> Iterator[Drawn]:
    """For each number type, number of threads and device: the best of each framework on each case,
    below what product and copy allow."""
    groups: dict[tuple[str, int, str, str], list[Measured]] = defaultdict(list)
    for entry in entries:
        info = entry.extra_info
        if info.cache == "warm":
            place = (info.dtype, info.threads_requested, info.device, info.host)
            groups[place].append(entry)
    for (dtype, threads, device, host), members in groups.items():
        itemsize = np.dtype(dtype).itemsize
        best: dict[tuple[str, str], Measured] = {}
        products, copies = [0.0], [0.0]
        for entry in members:
            info = entry.extra_info
            if info.operation in ("gemm", "peak-float32"):
                products.append(info.gflops or 0.0)
            elif info.operation == "copy":
                copies.append(info.gigabytes_per_second)  # type: ignore[arg-type]
            elif info.operation == "tokens" and info.role in ("implementation", "peer"):
                key = framework_of(info), info.case
                if key not in best or entry.stats.median < best[key].stats.median:
                    best[key] = entry
        points: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for (framework, case), entry in best.items():
            work, moved = row_work("tokens", named_case(case), itemsize)
            points[framework].append((work / moved, entry.extra_info.gflops or 0.0))
        every = [x for held in points.values() for x, _ in held]
        if len(set(every)) < 2 or max(products) == 0 or max(copies) == 0:
            continue
        xs = np.geomspace(min(every) / 1.5, max(every) * 1.5, 20)
        roof = [(float(x), min(max(products), max(copies) * float(x))) for x in xs]
        lines = [
            *(
                Line(name, sorted(held), [], [], color_of(name, frameworks), joined=False)
                for name, held in points.items()
            ),
            Line("limit", roof, [], [], len(COLORS) - 1, limit=True),
        ]
        title = f"Roofline, {block_title(('', dtype, threads, 'warm', host))[2:]}, {device}"
        yield title, line_plot(title, "operations a byte", "GFLOP/s", lines)


def _samples(entries: list[Measured], frameworks: Sequence[str]) -> Iterator[Drawn]:
    blocks: dict[tuple[object, ...], list[Measured]] = defaultdict(list)
    for entry in entries:
        info = entry.extra_info
        if info.operation == "tokens" and info.device == "cpu":
            blocks[info.block].append(entry)
    for members in blocks.values():
        twin = next((entry for entry in members if entry.extra_info.role == "aa"), None)
        timed = [entry for entry in members if entry.extra_info.role in ("implementation", "peer")]
        if twin is None or not timed:
            continue
        best = min(timed, key=lambda entry: entry.stats.median)
        same = [
            entry
            for entry in timed
            if entry.extra_info.implementation == twin.extra_info.implementation
        ]
        shown = {entry.params.identity: entry for entry in (best, *same[:1], twin)}
        lines = []
        for entry in shown.values():
            info = entry.extra_info
            milliseconds = [1e3 * seconds for seconds in entry.stats.data]
            copy = " (A/A)" if entry is twin else ""
            points = [(float(place), value) for place, value in enumerate(milliseconds, 1)]
            group = len(COLORS) - 1 if copy else color_of(framework_of(info), frameworks)
            lines.append(Line(info.implementation + copy, points, [], [], group))
        lines.sort(key=lambda line: statistics.median(y for _, y in line.points))
        title = block_title(best.extra_info.block)
        yield title, line_plot(f"Samples of {title}", "round", "ms", lines, in_order=True)
