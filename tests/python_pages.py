"""`python -m tests.python_pages`: docs/python.md made anew from the public names, their signatures
and docstrings. A test holds the page to it, and runs the examples."""

import inspect
import re
from pathlib import Path
from typing import Any

import patchparity

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
HEAD = """# Python

Every public name of the package, made by `python -m tests.python_pages` from signatures and
docstrings; a test holds the page to them and runs the examples. Sizes are given as `image_size=`
and `patch_size=` everywhere: one number, or one for each axis. What `check`, `diagnose`, `port`,
`verify`, `compare` and `recommend` answer prints as text.
"""
SECTIONS = ("Args", "Returns", "Yields", "Raises", "Warns", "Examples")


HANGING = r"\n(?=    \S)"
"""Where the next entry of a section begins."""


def page() -> str:
    """docs/python.md."""
    lines = [HEAD]
    for name in sorted(patchparity.__all__, key=str.lower):
        if name != "__version__":
            lines += entry(name, getattr(patchparity, name))
    return "\n".join(lines).rstrip() + "\n"


def entry(name: str, subject: Any) -> list[str]:
    """The lines of one name; of a class its own methods and properties too."""
    lines = [f"## {name}\n", *signature(name, subject), *described(subject)]
    if inspect.isclass(subject):
        for member, value in vars(subject).items():
            if member.startswith("_") or not (inspect.getdoc(value) or "").strip():
                continue
            if isinstance(value, property) or callable(getattr(subject, member)):
                text = inspect.getdoc(value) or ""
                called = "" if isinstance(value, property) else "()"
                lines.append(f"* `.{member}{called}`: {joined(text.partition(chr(10) * 2)[0])}")
        lines.append("")
    return lines


def signature(name: str, subject: Any) -> list[str]:
    """How it is called, a parameter a line where they are many."""
    if inspect.isclass(subject) and issubclass(subject, Exception):
        return []
    try:
        parameters = inspect.signature(subject).parameters.values()
    except (TypeError, ValueError):
        return []
    parts, keywords = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            parts.append("*")
        default = parameter.default
        shown = "" if default is parameter.empty else f"={plain(default)}"
        parts.append(f"{parameter.name}{shown}")
    one = f"{name}({', '.join(parts)})"
    if len(one) > 90:
        one = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + ")"
    return ["```python", one, "```\n"]


def plain(default: Any) -> str:
    """A default as it would be typed, whatever the machine."""
    text = repr(default).replace("'", '"')
    return "..." if "0x" in text or "mappingproxy" in text or "<" in text else text


def described(subject: Any) -> list[str]:
    """A docstring in Markdown: its sentences, then each section."""
    text = inspect.getdoc(subject) or ""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    lines = [joined(paragraph) + "\n" for paragraph in parts[0].split("\n\n") if paragraph.strip()]
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title == "Examples":
            lines += ["```pycon", inspect.cleandoc(body), "```\n"]
            continue
        body, *behind = re.split(r"\n\n(?=\S)", body.rstrip(), maxsplit=1)
        whole = title in ("Returns", "Yields")
        entries = [joined(part) for part in ([body] if whole else re.split(HANGING, body))]
        names = {"Args": "", "Returns": "Returns ", "Yields": "Yields "}.get(title, f"{title} ")
        for each in filter(None, entries):
            word, colon, rest = each.partition(": ")
            held = whole or not colon
            lines.append(f"* {names}{each}" if held else f"* {names}`{word}`: {rest}")
        lines += ["", *(joined(paragraph) + "\n" for paragraph in behind)]
    return lines


def joined(text: str) -> str:
    """A paragraph in one line."""
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
