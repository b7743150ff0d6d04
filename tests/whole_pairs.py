"""`python -m tests.whole_pairs`: the tables of docs/whole_pairs.md, made anew by porting a tiny
whole model of each kind from each layout to each. A test holds the page to them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .porting.whole_pairs import Family, Pair, families

PAGE = Path(__file__).parent.parent / "docs" / "whole_pairs.md"
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"


def tables(
    made: Mapping[str, Family], pairs: Sequence[Pair], lacking: Mapping[str, str]
) -> list[str]:
    """Lines of Markdown: a table for each kind, and the reasons of refusals."""
    reasons: dict[str, int] = {}
    lines: list[str] = []
    for name, family in made.items():
        of_kind = [pair for pair in pairs if pair.kind == name]
        lines += ["", f"## {family.kind.title}", "", *_table(of_kind, reasons)]
    lines += ["", "## Reasons", ""]
    lines += [f"{number}. {_escaped(reason)}." for reason, number in reasons.items()]
    if lacking:
        lines += ["", "## Kinds that are not read yet", ""]
        lines += [f"- {name}: {_escaped(reason)}." for name, reason in lacking.items()]
    return lines


def _table(pairs: Sequence[Pair], reasons: dict[str, int]) -> list[str]:
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    held = [
        target
        for target in dict.fromkeys(pair.target for pair in pairs)
        if any(pair.mark for pair in pairs if pair.target == target)
    ]
    cells = {
        (pair.source, pair.target): pair.mark
        or str(reasons.setdefault(pair.reason, len(reasons) + 1))
        for pair in pairs
    }
    lines = [f"| from \\ to | {' | '.join(held)} |", f"|---|{'---|' * len(held)}"]
    lines += [
        f"| {source} | {' | '.join(cells[source, target] for target in held)} |"
        for source in sources
    ]
    refused: dict[str, set[int]] = {}
    for (_, target), cell in cells.items():
        if target not in held:
            refused.setdefault(target, set()).add(int(cell))
    if refused:
        words = [
            f"{target} ({', '.join(map(str, sorted(numbers)))})"
            for target, numbers in refused.items()
        ]
        lines += ["", f"Refused: {', '.join(words)}."]
    return lines


def _escaped(sentence: str) -> str:
    return sentence.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").rstrip(".")


def page(text: str, lines: Sequence[str]) -> str:
    """A page with these tables between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, behind = rest.partition(END)
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n\n{END}{behind}"


def counted(pairs: Sequence[Pair]) -> str:
    """How many pairs there are of each result, in a sentence."""
    marks = {mark: sum(pair.mark == mark for pair in pairs) for mark in ("=", "+", "≈", "")}
    return (
        f"{len(pairs)} pairs: {marks['=']} `=`, {marks['+']} `+`, {marks['≈']} `≈`, "
        f"{marks['']} refused."
    )


if __name__ == "__main__":
    with families() as (found, missing):
        done = [pair for family in found.values() for pair in family.pairs()]
        for wrong in (pair for pair in done if pair.failure):
            print(wrong)
        told = ["", counted(done), *tables(found, done, missing)]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), told), encoding="utf-8")
