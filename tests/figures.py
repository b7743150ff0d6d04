"""`python -m tests.figures`: the tables of times in docs/results.md and the README's picture, made
anew from the record that they name. A test holds both to it."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from patchparity.backends.registry import get_backend

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "bench" / "records" / "cpu-2-cores"
CASE = "vit-b16-224-b8"
NAMES = {
    "numpy": "NumPy",
    "torch": "torch",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "onnxruntime": "ONNX Runtime",
}
"""Frameworks as they are called here, in this order."""

FASTEST = "| framework | one thread | | two threads | |"
GAINS = (
    "| framework | pairs (case, type, threads, and what is called) | geometric mean | from to | "
    "surely faster than every formulation here |"
)


def float32_rows() -> list[dict[str, str]]:
    """The rows of the record that tell tokens of one case in float32."""
    with (RECORD / "medians.csv").open(encoding="utf-8") as file:
        return [
            row
            for row in csv.DictReader(file)
            if row["case"] == CASE
            and (row["role"], row["operation"]) == ("implementation", "tokens")
            and (row["dtype"], row["precision"], row["cache"]) == ("float32", "ieee", "warm")
        ]


def framework_of(row: dict[str, str]) -> str:
    """The framework that a row's implementation is of."""
    return get_backend(row["implementation"].split(":")[0]).yardstick


def fastest_rows() -> list[str]:
    """The fastest formulation of each framework on one case in float32, on one thread and two."""
    rows = float32_rows()
    lines = []
    for framework, name in NAMES.items():
        cells = []
        for threads in ("1", "2"):
            best = min(
                (
                    row
                    for row in rows
                    if row["threads_requested"] == threads and framework_of(row) == framework
                ),
                key=lambda row: float(row["median_seconds"]),
            )
            short = _short(best["implementation"])
            milliseconds = 1e3 * float(best["median_seconds"])
            cells += [
                f"`{short}` {milliseconds:.1f}",
                f"{100 * float(best['gemm_fraction']):.0f}%",
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


LEFT, RIGHT, TOP, ROW = 130, 720, 40, 30
"""Pixels of the picture: where its axis begins and ends, its first row, and a row."""


def picture() -> str:
    """A dot for each formulation of each framework, by its milliseconds on two threads; the fastest
    is filled and named."""
    rows = [row for row in float32_rows() if row["threads_requested"] == "2"]
    times = [1e3 * float(row["median_seconds"]) for row in rows]
    low, high = math.log(min(times) * 0.95), math.log(max(times) * 1.05)

    def x(milliseconds: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log(milliseconds) - low) / (high - low)

    bottom = TOP + ROW * len(NAMES)
    shapes = [
        f'<line x1="{x(tick):.0f}" x2="{x(tick):.0f}" y1="{TOP - 10}" y2="{bottom - 10}" '
        f'stroke="#8884"/><text x="{x(tick):.0f}" y="{bottom + 6}" text-anchor="middle">{tick}'
        "</text>"
        for tick in (2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 30, 50, 80)
        if LEFT <= x(tick) <= RIGHT
    ]
    for place, (framework, name) in enumerate(NAMES.items()):
        y = TOP + ROW * place + 6
        shapes.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{name}</text>')
        dots = sorted(
            (1e3 * float(row["median_seconds"]), row["implementation"])
            for row in rows
            if framework_of(row) == framework
        )
        shapes += [
            f'<circle cx="{x(milliseconds):.1f}" cy="{y}" r="4" fill="none" stroke="#2a78d6"/>'
            for milliseconds, _ in dots[1:]
        ]
        shapes.append(
            f'<circle cx="{x(dots[0][0]):.1f}" cy="{y}" r="5" fill="#2a78d6">'
            f"<title>{_short(dots[0][1])} {dots[0][0]:.1f} ms</title></circle>"
        )
    words = "ViT-B/16 at 224, batch 8, float32, two cores: milliseconds of every formulation"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {RIGHT + 20} {bottom + 28}" '
        'font-family="sans-serif" font-size="13" fill="#777" role="img">'
        f"<title>{words}; the fastest of each framework is filled</title>"
        f'<text x="12" y="18">{words}, the fastest filled</text>\n'
        + "\n".join(shapes)
        + f'\n<text x="{RIGHT}" y="{bottom + 22}" text-anchor="end">ms, logarithmic</text></svg>\n'
    )


def _short(implementation: str) -> str:
    """An implementation without its mode, where that is its framework's usual one, or the only
    one."""
    backend, formulation, mode = implementation.split(":")
    modes = {
        each.mode
        for each in get_backend(backend).implementations
        if each.formulation == formulation
    }
    usual = mode in ("eager", "jit") or modes == {mode}
    return f"{backend}:{formulation}" if usual else implementation


def gains_rows() -> list[str]:
    """What is to be gained on each framework, tokens alone, as the record's own page has it."""
    page = (RECORD / "summary.md").read_text(encoding="utf-8").splitlines()
    start = page.index("## What is to be gained")
    table = [line for line in page[start:] if line.startswith("| ")][1:]
    held = {line.split(" | ")[0].removeprefix("| "): line for line in table}
    order = ("numpy", "torch", "jax", "tensorflow", "onnxruntime")
    return [held[each].replace(f"| {each} |", f"| {NAMES[each]} |", 1) for each in order]


def replaced(page: str, header: str, rows: Iterable[str]) -> str:
    """A page with other rows below a table's header."""
    lines = page.splitlines()
    start = lines.index(header) + 2
    end = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
    return "\n".join([*lines[:start], *rows, *lines[end:]]) + "\n"


PAGE, PICTURE = ROOT / "docs" / "results.md", ROOT / "docs" / "fastest.svg"


def made_anew(page: str) -> str:
    """The page with its tables of times as the record tells them."""
    return replaced(replaced(page, FASTEST, fastest_rows()), GAINS, gains_rows())


if __name__ == "__main__":
    PAGE.write_text(made_anew(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_text(picture(), encoding="utf-8")
