"""How the report looks: one self-contained HTML page, Markdown and CSV, from the record alone."""

import os
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path

from ...porting.files.atomic import write_text
from ...reference.errors import PatchParityError
from ..check.results import load_check
from ..progress import Report
from ..record.schema import Bench
from ..timing.load import load_bench
from .content import Content, build_content
from .front import Answer, frameworks_of
from .page import anchor, to_html
from .svg import WIDE
from .table import Table, milliseconds


def render_report(
    folder: str | os.PathLike[str],
    *,
    against: Sequence[str | os.PathLike[str]] = (),
    figures: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write `report.html`, `report.md` and `report.csv` into a folder, from its `bench.json` and,
    if they are there, `check.json`, `controls.json` and `seeds.json`.

    The page opens from disk without a network: scripts, styles and data are inside it.

    Args:
        folder: where `bench` or `run` wrote its record.
        against: folders of earlier records, which it is compared with.
        figures: a folder for every picture as SVG and PNG.

    Returns:
        The files.

    Raises:
        PatchParityError: no record in a folder, a damaged one, a folder that cannot be written,
            jinja2 or (for figures) resvg missing.

    Examples:
        >>> import patchparity, shutil
        >>> _ = shutil.copytree("bench/records/cpu-2-cores-avx2", "record")
        >>> [path.name for path in patchparity.render_report("record")]
        ['report.html', 'report.md', 'report.csv']
    """
    source = Path(folder)
    content = content_of(source, load_bench(source), against)
    return write_pages(source, content, figures)


def content_of(
    source: Path, bench: Bench, against: Sequence[str | os.PathLike[str]] = ()
) -> Content:
    """What the pages say of a record, of the checks beside it, and of earlier records."""
    names = ("check.json", "controls.json", "seeds.json")
    checks = [load_check(source / name) if (source / name).exists() else None for name in names]
    if not against:
        return build_content(bench, *checks)
    from .against import comparison_table, trend_pictures

    return build_content(
        bench,
        *checks,
        comparisons=[comparison_table(old, source) for old in against],
        trends=trend_pictures(against, bench, frameworks_of(bench.benchmarks)),
    )


def write_pages(
    source: Path,
    content: Content,
    figures: str | os.PathLike[str] | None = None,
    progress: Report | None = None,
) -> list[Path]:
    """Write the three files, each made after the one before, and the figures if they are asked
    for."""
    pages: dict[str, Callable[[Content], str | Iterable[str]]] = {
        "report.html": to_html,
        "report.md": to_markdown,
        "report.csv": lambda written: written.csv,
    }
    for done, (name, page) in enumerate(pages.items()):
        if progress:
            progress(done, len(pages), name)
        write_text(source / name, page(content))
    drawn = [] if figures is None else write_figures(Path(figures), content)
    return [*(source / name for name in pages), *drawn]


PNG_ZOOM = 3
"""Pixels a unit: 760 units are then 2280 pixels, 7.6 inches of a paper at 300 dpi."""


def write_figures(folder: Path, content: Content) -> list[Path]:
    """Write every picture as SVG and as PNG, named by its section and title.

    Raises:
        PatchParityError: a folder that cannot be written, resvg missing.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise PatchParityError(
            f"figures need {error.name}: pip install 'patchparity[report]'"
        ) from None
    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in content.pictures:
            name = f"{anchor(picture.section)}-{anchor(picture.title)}"
            drawn = picture.draw(WIDE, True)
            image = resvg_py.svg_to_bytes(svg_string=drawn, background="white", zoom=PNG_ZOOM)
            files += [folder / f"{name}.svg", folder / f"{name}.png"]
            files[-2].write_text(drawn, encoding="utf-8")
            files[-1].write_bytes(bytes(image))
    except OSError as error:
        raise PatchParityError(f"cannot write {folder}: {error.strerror or error}") from None
    return files


LONGEST_MARKDOWN = 60_000
"""Characters of `report.md`: a comment of a pull request holds 65,536."""


def to_markdown(content: Content) -> str:
    """Render answers and tables as Markdown that a pull request takes: all but the answers is
    folded, and of long tables the first rows are shown."""
    lines = ["# patchparity report", "", f"**{content.verdict}**, {content.noise}.", ""]
    lines += [_answer_line(answer) for answer in content.answers[:MOST_ANSWERS]]
    if len(content.answers) > MOST_ANSWERS:
        lines.append(f"* and {len(content.answers) - MOST_ANSWERS} more in the tables")
    lines += ["", *(f"* **{name}:** {text}" for name, text in content.summary)]
    room = LONGEST_MARKDOWN - sum(len(line) + 1 for line in lines) - 300
    waiting = len(content.tables)
    for table in content.tables:
        # What a table does not need of its share is left for those after it.
        folded = _folded(table, room // waiting)
        lines += folded
        room, waiting = room - sum(len(line) + 1 for line in folded), waiting - 1
    return "\n".join(lines) + "\n"


MOST_ANSWERS = 12
"""Shapes whose answers stand above the folds."""


def _answer_line(answer: Answer) -> str:
    best = answer.uses[0]
    return (
        f"* **{answer.title}**: {best.implementation}, {milliseconds(best.seconds)} ms, "
        f"{best.verdict}; {best.sentence}"
    )


def _folded(table: Table, room: int) -> list[str]:
    """A table in a fold, and as many of its rows as there is room for."""
    head = ["", "<details>", f"<summary>{escape(table.title)} ({len(table.rows)})</summary>", ""]
    if table.note:
        head += [table.note, ""]
    body = _markdown_table(table)
    size = sum(len(line) + 1 for line in (*head, *body[:2])) + 100
    kept = body[:2]
    for line in body[2:]:
        if (size := size + len(line) + 1) > room:
            break
        kept.append(line)
    left = len(body) - len(kept)
    more = ["", f"{left} more rows in report.html and report.csv"] if left else []
    return [*head, *(kept if len(kept) > 2 else []), *more, "", "</details>"]


def _markdown_table(table: Table) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        return (
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        )

    rule = (
        "|"
        + "|".join(
            "---:" if column in table.numeric else "---" for column in range(len(table.columns))
        )
        + "|"
    )
    return [line(table.columns), rule, *map(line, table.rows)]
