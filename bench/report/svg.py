"""Pictures of the report as SVG, drawn from numbers: dots on a logarithmic axis, and curves.

Colors are classes, which the page and `STYLE` give; a file of its own holds `STYLE`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777")
"""Okabe and Ito's palette, which readers with any color vision can tell apart: one a framework."""

STYLE = (
    "text{font:12px system-ui,sans-serif}text:not(.label){fill:#777}.axis{stroke:#8885;fill:none}"
    ".mark{stroke-width:2}.band{stroke:none;opacity:.15}.noise{fill:#8883}"
    ".limit{stroke:#888;stroke-dasharray:5 4;stroke-width:2;fill:none}"
    + "".join(
        f".f{place}{{stroke:{color};fill:{color}}}.label.f{place}{{stroke:none}}.line.f{place},.hollow.f{place}{{fill:none}}"
        for place, color in enumerate(COLORS)
    )
)
"""What the classes of a picture look like."""

WIDE, NARROW = 760, 400
"""Units across a picture: on a screen, where names stand beside the axis, and on a phone, where
they stand above it."""


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot.

    Args:
        name: what it is.
        ratio: where its dot stands; `low`, `high`: its 95% interval, or None.
        group: its framework, by number of the color.
        hollow: whether it is what people call today.
        value: what stands behind it, in words.
    """

    name: str
    ratio: float
    low: float | None
    high: float | None
    group: int
    hollow: bool
    value: str


@dataclass(frozen=True)
class Line:
    """One curve.

    Args:
        name: what it is.
        points: its `(x, y)`.
        low, high: edges of the band around it at each point; none where there is no band.
        group: its framework, by number of the color.
        limit: whether it is the machine's, and dashed.
        joined: whether its points are joined.
    """

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[float]
    high: Sequence[float]
    group: int
    limit: bool = False
    joined: bool = True


def _document(width: float, height: float, title: str, shapes: Iterable[str], alone: bool) -> str:
    style = f"<style>{STYLE}</style>" if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">'
        f"<title>{escape(title)}</title>{style}{''.join(shapes)}</svg>"
    )


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.4g}" y="{y:.4g}"{anchored}>{escape(words)}</text>'


class _Axis:
    """A logarithmic axis (or a plain one) from `low` to `high`, between two places of a picture."""

    def __init__(
        self, values: Iterable[float], start: float, end: float, plain: bool = False
    ) -> None:
        self.plain, self.scale = plain, float if plain else math.log
        known = [value for value in values if value > 0]
        self.low, self.high = min(known, default=1.0), max(known, default=1.0)
        if self.high < 1.2 * self.low:
            self.high = 1.2 * self.low
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        low, high = self.scale(self.low), self.scale(self.high)
        share = (self.scale(max(value, self.low)) - low) / (high - low)
        return self.start + min(share, 1.0) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round numbers on it, no more than so many."""
        if self.plain:
            rough = (self.high - self.low) / most
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
            first = math.ceil(self.low / step)
            return [step * number for number in range(first, math.floor(self.high / step) + 1)]
        lowest, highest = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for steps in ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
            marks = [step * 10.0**power for power in range(lowest, highest + 1) for step in steps]
            inside = [mark for mark in marks if self.low <= mark * 1.0001 <= self.high * 1.0002]
            if len(inside) <= most:
                return inside
        return inside[:: len(inside) // most + 1]


def dot_plot(
    title: str, dots: Sequence[Dot], noise: float | None, *, width: int = WIDE, alone: bool = False
) -> str:
    """Draw the ratio of each row to the best, on a logarithmic axis, with its interval; what lies
    within the noise of the best lies in a band.

    Args:
        title: read out instead of the picture.
        dots: from the fastest down.
        noise: of the interleave, as a fraction, or None.
        width: `WIDE` or `NARROW`.
        alone: whether it is a file of its own, which brings its style.
    """
    narrow = width < WIDE
    longest = max((len(dot.name) for dot in dots), default=0)
    left, step, top = (8, 31, 24) if narrow else (min(330, 16 + 6.6 * longest), 19, 24)
    right = width - 84
    ends = [end for dot in dots for end in (dot.low, dot.high) if end]
    axis = _Axis([1.0, *(dot.ratio for dot in dots), *ends], left, right)
    bottom = top + step * len(dots)
    shapes = []
    if noise:
        shapes.append(
            f'<rect class="noise" x="{axis(1):.4g}" y="{top}" '
            f'width="{axis(1 + noise) - axis(1):.4g}" height="{bottom - top}"/>'
        )
    for tick in axis.ticks(6 if narrow else 9):
        x = axis(tick)
        shapes.append(f'<path class="axis" d="M{x:.4g} {top}V{bottom}"/>')
        shapes.append(_text(x, top - 8, f"{tick:g}×", "middle"))
    for place, dot in enumerate(dots):
        y = top + step * (place + 1) - 7
        name = _text(left, y - 10, dot.name) if narrow else _text(left - 8, y + 4, dot.name, "end")
        classes = f"mark f{dot.group}" + (" hollow" if dot.hollow else "")
        line = (
            ""
            if dot.low is None or dot.high is None
            else f'<path class="{classes}" d="M{axis(dot.low):.4g} {y}H{axis(dot.high):.4g}"/>'
        )
        shapes.append(
            f'<g class="row" data-f="{dot.group}">{name}{line}<circle class="{classes}" '
            f'cx="{axis(dot.ratio):.4g}" cy="{y}" r="4"/>'
            f"{_text(right + 8, y + 4, dot.value)}</g>"
        )
    return _document(width, bottom + 6, title, shapes, alone)


def curves(
    title: str,
    x_title: str,
    y_title: str,
    lines: Sequence[Line],
    *,
    width: int = WIDE,
    alone: bool = False,
    in_order: bool = False,
) -> str:
    """Draw curves over logarithmic axes, each with its band and its name where it ends.

    Args:
        title: read out instead of the picture.
        x_title, y_title: what the axes tell, with units.
        lines: the curves.
        width: `WIDE` or `NARROW`.
        alone: whether it is a file of its own, which brings its style.
        in_order: whether x counts, on a plain axis.
    """
    longest = max((len(line.name) for line in lines), default=0)
    left, right, top, bottom = 48, width - min(6.6 * longest + 10, width / 2), 26, 330
    across = _Axis([x for line in lines for x, _ in line.points], left, right, in_order)
    up = _Axis([y for line in lines for _, y in line.points], bottom, top, in_order)
    shapes = [_text(left, 14, y_title), _text(right, bottom + 34, x_title, "end")]
    every = sorted({x for line in lines for x, _ in line.points})
    for tick in every if len(every) <= 6 else across.ticks(5 if width < WIDE else 9):
        shapes.append(f'<path class="axis" d="M{across(tick):.4g} {top}V{bottom}"/>')
        shapes.append(_text(across(tick), bottom + 16, f"{tick:g}", "middle"))
    for tick in up.ticks(8):
        shapes.append(f'<path class="axis" d="M{left} {up(tick):.4g}H{right}"/>')
        shapes.append(_text(left - 6, up(tick) + 4, f"{tick:g}", "end"))
    for line in lines:
        xs = [across(x) for x, _ in line.points]
        path = "L".join(f"{x:.4g} {up(y):.4g}" for x, (_, y) in zip(xs, line.points, strict=True))
        if line.limit:
            shapes.append(f'<path class="limit" d="M{path}"/>')
            continue
        edge = [(x, up(y)) for x, y in zip(xs, line.low, strict=False)]
        edge += [(x, up(y)) for x, y in reversed(list(zip(xs, line.high, strict=False)))]
        band = "L".join(f"{x:.4g} {y:.4g}" for x, y in edge)
        dots = "".join(
            f'<circle class="mark f{line.group}" cx="{x:.4g}" cy="{up(y):.4g}" r="3"/>'
            for x, (_, y) in zip(xs, line.points, strict=True)
        )
        shaded = f'<path class="band f{line.group}" d="M{band}Z"/>' if edge else ""
        joint = f'<path class="mark line f{line.group}" d="M{path}"/>' if line.joined else ""
        shapes.append(f'<g class="row" data-f="{line.group}">{shaded}{joint}{dots}</g>')
    for line, y in zip(lines, _apart([up(line.points[-1][1]) for line in lines]), strict=True):
        x = across(line.points[-1][0])
        label = "" if line.limit else f' class="label f{line.group}"'
        shapes.append(f'<text{label} x="{x + 8:.4g}" y="{y + 4:.4g}">{escape(line.name)}</text>')
    return _document(width, bottom + 42, title, shapes, alone)


def _apart(places: Sequence[float], least: float = 13.0) -> list[float]:
    """The same places from top to bottom, moved so that names do not lie on one another."""
    moved = list(places)
    last = -math.inf
    for number in sorted(range(len(moved)), key=moved.__getitem__):
        last = moved[number] = max(moved[number], last + least)
    return moved
