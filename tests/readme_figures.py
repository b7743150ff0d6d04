"""`python -m tests.readme_figures`: the README's tables of times, made anew from the record that it
names. A test holds the README to them."""

import csv
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
"""Frameworks as the README calls them, in its order."""

FASTEST = "| framework | one thread | | two threads | |"
GAINS = (
    "| framework | pairs (case, type, threads, and what is called) | geometric mean | from to | "
    "surely faster than every formulation here |"
)


def fastest_rows() -> list[str]:
    """The fastest formulation of each framework on one case in float32, on one thread and two."""
    with (RECORD / "medians.csv").open(encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["case"] == CASE
            and (row["role"], row["operation"]) == ("implementation", "tokens")
            and (row["dtype"], row["precision"], row["cache"]) == ("float32", "ieee", "warm")
        ]
    lines = []
    for framework, name in NAMES.items():
        cells = []
        for threads in ("1", "2"):
            best = min(
                (
                    row
                    for row in rows
                    if row["threads_requested"] == threads
                    and get_backend(row["implementation"].split(":")[0]).yardstick == framework
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


def replaced(readme: str, header: str, rows: Iterable[str]) -> str:
    """The README with other rows below a table's header."""
    lines = readme.splitlines()
    start = lines.index(header) + 2
    end = next(at for at in range(start, len(lines)) if not lines[at].startswith("|"))
    return "\n".join([*lines[:start], *rows, *lines[end:]]) + "\n"


def made_anew(readme: str) -> str:
    """The README with its tables of times as the record tells them."""
    return replaced(replaced(readme, FASTEST, fastest_rows()), GAINS, gains_rows())


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(made_anew(path.read_text(encoding="utf-8")), encoding="utf-8")
