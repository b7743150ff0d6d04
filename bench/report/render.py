"""How the report looks: one self-contained HTML page, Markdown and CSV, from the record alone."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ...porting.files.atomic import write_text
from ...reference.errors import PatchParityError
from ..check.results import load_check
from ..record.columns import CSV_FIELDS
from ..record.schema import Bench
from ..timing.benchmark import load_bench
from .content import Content, build_content
from .curves import LIMIT, Figure
from .table import Table


def render_report(folder: str | os.PathLike[str]) -> list[Path]:
    """Write `report.html`, `report.md` and `report.csv` into a folder, from its `bench.json` and,
    if they are there, `check.json`,
    `controls.json` and `seeds.json`.

    The page opens from disk without a network: scripts, styles and data are inside it.

    Returns:
        The three files.

    Raises:
        PatchParityError: no record in the folder, a damaged one, a folder that cannot be written,
            plotly or jinja2 missing.
    """
    source = Path(folder)
    return write_pages(source, content_of(source, load_bench(source)))


def content_of(source: Path, bench: Bench) -> Content:
    """What the pages say of a record, and of the checks beside it."""
    names = ("check.json", "controls.json", "seeds.json")
    checks = [load_check(source / name) if (source / name).exists() else None for name in names]
    return build_content(bench, *checks)


def write_pages(source: Path, content: Content) -> list[Path]:
    """Write the three files; each is megabytes, and made after the one before."""
    pages: dict[str, Callable[[Content], str | Iterable[str]]] = {
        "report.html": html_pieces,
        "report.md": to_markdown,
        "report.csv": to_csv,
    }
    for name, page in pages.items():
        write_text(source / name, page(content))
    return [source / name for name in pages]


def html_pieces(content: Content) -> Iterator[str]:
    """Render the page through `template.html`, piece by piece."""
    try:
        import jinja2
        import plotly.io
    except ImportError as error:
        raise PatchParityError(
            f"the report needs {error.name}: pip install 'patchparity[report]'"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    options: dict[str, Any] = {
        "full_html": False,
        "config": {"displaylogo": False, "responsive": True},
    }
    figures = (
        plotly.io.to_html(
            _figure(figure), include_plotlyjs=number == 0, default_height="460px", **options
        )
        for number, figure in enumerate(content.figures)
    )
    template = environment.get_template("template.html")
    yield from template.generate(content=content, figures=figures)


def _figure(figure: Figure) -> Any:
    import plotly.graph_objects

    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    backends = list(
        dict.fromkeys(
            curve.name.split(":")[0] for curve in figure.curves if not curve.name.startswith(LIMIT)
        )
    )
    seen: dict[str, int] = {}
    # Okabe and Ito's palette, which readers with any color vision can tell apart: a color for a
    # framework, a dash for a formulation.
    palette = ("#000000", "#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
    lines = []
    for curve in figure.curves:
        backend = curve.name.split(":")[0]
        seen[backend] = seen.get(backend, -1) + 1
        if curve.name.startswith(LIMIT):
            line = {"color": "#888888", "dash": "dash", "width": 4}
        else:
            line = {
                "color": palette[backends.index(backend) % len(palette)],
                "dash": dashes[seen[backend] % len(dashes)],
            }
        lines.append(
            plotly.graph_objects.Scatter(
                x=curve.x,
                y=curve.gflops,
                name=curve.name,
                mode="lines+markers",
                line=line,
                visible=True if curve.shown else "legendonly",
                customdata=[[1e3 * seconds] for seconds in curve.seconds],
                hovertemplate="%{y:.4g} GFLOP/s, %{customdata[0]:.4g} ms",
            )
        )
    drawn = plotly.graph_objects.Figure(lines)
    drawn.update_layout(
        title=figure.title,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        hovermode="closest",
    )
    ticks = sorted({x for curve in figure.curves for x in curve.x})
    drawn.update_xaxes(
        title=figure.x_title, type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks]
    )
    drawn.update_yaxes(title="GFLOP/s (of the median)", rangemode="tozero")
    return drawn


def to_markdown(content: Content) -> str:
    """Render the same tables as Markdown."""
    lines = ["# patchparity report", ""]
    lines += [f"* **{name}:** {text}" for name, text in content.summary]
    for table in content.tables:
        lines += ["", f"## {table.title}", ""]
        if table.note:
            lines += [table.note, ""]
        lines += _markdown_table(table)
    return "\n".join(lines) + "\n"


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


def to_csv(content: Content) -> str:
    """Render one line a row, the columns those of `CSV_FIELDS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(content.csv_rows)
    return text.getvalue()
