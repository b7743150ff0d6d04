"""`python -m tests.field_tables`: docs/fields.md made anew from the types of a record and of a
check. A test holds the page to them."""

import dataclasses
import inspect
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from patchparity.bench.check.results import CheckResult
from patchparity.bench.record.schema import Environment, Figures, Outcome, Sample, Unmeasured

PAGE = Path(__file__).parent.parent / "docs" / "fields.md"
KINDS = {
    "`results` of check.json, controls.json and seeds.json": CheckResult,
    "`extra_info` of each benchmark in bench.json": Figures,
    "`failures` and `skipped` of bench.json": Unmeasured,
    "`environment`": Environment,
    "A line of rows.jsonl": Outcome,
    "A line of samples.jsonl": Sample,
}


def fields_of(kind: Any) -> list[str]:
    """The names of a type's fields."""
    if dataclasses.is_dataclass(kind):
        return [each.name for each in dataclasses.fields(kind)]
    return list(kind.__struct_fields__)


def meanings_of(kind: Any) -> dict[tuple[str, ...], str]:
    """The `Args` of a type's docstring: names that stand together, and what they are."""
    text = (inspect.getdoc(kind) or "").partition("Args:\n")[2]
    known = "|".join(fields_of(kind))
    found = {}
    for entry in re.split(r"\n(?=    \S)", text.rstrip()):
        words = " ".join(entry.split())
        # "a: ...; `b`: ..." are two entries in one
        for part in re.split(rf"; (?=`(?:{known})`(?:, `\w+`)*: )", words):
            names, _, meaning = part.partition(": ")
            found[tuple(names.replace("`", "").split(", "))] = meaning.rstrip(".")
    return found


WORDS = {str: "text", float: "number", int: "integer", bool: "true or false", type(None): "null"}
"""What JSON calls a type."""


def words_of(hint: Any) -> str:
    """A type in JSON's words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(words_of(part) for part in parts)
    if origin is Literal:
        return "text"
    if origin in (list, tuple):
        return f"list of {words_of(parts[0])}s"
    return WORDS.get(hint, "object")


def type_of(kind: Any, names: tuple[str, ...]) -> str:
    """The types of fields that stand together."""
    hints = get_type_hints(kind)
    return ", ".join(dict.fromkeys(words_of(hints[name]) for name in names))


def table_of(kind: Any) -> list[str]:
    """A Markdown table of the fields."""
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for names, meaning in meanings_of(kind).items():
        called = ", ".join(f"`{name}`" for name in names)
        lines.append(f"| {called} | {type_of(kind, names)} | {meaning} |")
    return lines


def page() -> str:
    """The whole page."""
    lines = [
        "# Fields of what is written",
        "",
        "Made by `python -m tests.field_tables` from the types that read and write these files "
        "(`bench/record/schema.py`, `bench/check/results.py`). None is `null` in JSON.",
    ]
    for title, kind in KINDS.items():
        first = (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")
        lines += ["", f"## {title}", "", first, "", *table_of(kind)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
