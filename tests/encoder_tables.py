"""`python -m tests.encoder_tables`: the table of docs/whole.md made anew from the layouts. A test
holds the page to it."""

from pathlib import Path

from patchparity.porting.encoders.layout import EncoderLayout, EncoderModel
from patchparity.porting.encoders.load import list_encoders
from patchparity.porting.encoders.semantics import SEMANTICS, shown

PAGE = Path(__file__).parent.parent / "docs" / "whole.md"
BEGIN, END = "<!-- layouts: begin -->", "<!-- layouts: end -->"


def _fixed(layout: EncoderLayout, model: EncoderModel) -> str:
    fixed = {**layout.fixed, **model.fixed}
    words = [
        f"{SEMANTICS[name]} {shown(value)}"
        for name, value in fixed.items()
        if name in SEMANTICS and name not in ("norms", "rotary")
    ]
    return "; ".join(words)


def table() -> list[str]:
    """A row for each class of each layout."""
    lines = [
        "| `--to` | layout | class | its code fixes |",
        "|---|---|---|---|",
    ]
    for layout in list_encoders().values():
        stages = ", ".join(f"`{stage}`" for stage in layout.stages)
        if layout.read_only:
            stages = f"read: {stages}"
        lines += [
            f"| {stages} | {layout.title} | {model.name} | {_fixed(layout, model)} |"
            for model in layout.models
        ]
    return lines


def page(text: str) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([f"{before}{BEGIN}", "", *table(), "", f"{END}{after}"])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
