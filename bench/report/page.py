"""The page: its first screen as plain HTML, and what is folded away as data that is laid out when
it is opened."""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from .content import Content
from .pictures import SECTIONS
from .svg import COLORS, NARROW, STYLE, WIDE
from .table import FACETS, milliseconds


def to_html(content: Content) -> str:
    """Render the page through `template.html`.

    It opens from disk without a network. Tables and pictures are inside it, compressed, and become
    elements of the page when a reader opens them.

    Raises:
        PatchParityError: jinja2 missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise PatchParityError(
            f"the report needs {error.name}: pip install 'patchparity[report]'"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["milliseconds"] = milliseconds
    first = next((p for p in content.pictures if p.section == next(iter(SECTIONS))), None)
    return environment.get_template("template.html").render(
        content=content,
        facets=_facets(content),
        folds=_folds(content),
        wide="" if first is None else first.draw(WIDE, False),
        narrow="" if first is None else first.draw(NARROW, False),
        style=STYLE,
        shared_color=len(COLORS) - 1,
        data=base64.b64encode(_gzipped(_data(content))).decode(),
    )


def anchor(title: str) -> str:
    """The name by which a heading is linked to."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _facets(content: Content) -> dict[str, list[str]]:
    """What can be chosen: values of each facet that has more than one."""
    held = [answer.facets for answer in content.answers]
    held += [facets for table in content.tables for facets in table.facets]
    values = {name: list(dict.fromkeys(facets[name] for facets in held)) for name in FACETS}
    return {name: choices for name, choices in values.items() if len(choices) > 1}


def _folds(content: Content) -> list[dict[str, Any]]:
    """Headings that open: of tables, and of pictures."""
    tables = [
        {
            "title": table.title,
            "anchor": anchor(table.title),
            "note": table.note,
            "count": len(table.rows),
            "table": place,
        }
        for place, table in enumerate(content.tables)
    ]
    pictures = []
    for section, note in SECTIONS.items():
        places = [place for place, each in enumerate(content.pictures) if each.section == section]
        if places:
            pictures.append(
                {
                    "title": section,
                    "anchor": anchor(section),
                    "note": note,
                    "count": len(places),
                    "pictures": places,
                }
            )
    ends = next(
        (place for place, table in enumerate(content.tables) if table.facets and place), len(tables)
    )
    return [*tables[:ends], *pictures, *tables[ends:]]


def _gzipped(pieces: Iterable[str]) -> bytes:
    """A text as a file of gzip, from pieces that are forgotten one after another."""
    packer = zlib.compressobj(6, wbits=zlib.MAX_WBITS + 16)  # 16: as gzip, with no time in it
    return b"".join([*(packer.compress(piece.encode()) for piece in pieces), packer.flush()])


def _data(content: Content) -> Iterator[str]:
    """Tables and pictures as JSON, a table or a picture at a time."""
    yield '{"tables": ['
    yield from _separated(
        {
            "columns": table.columns,
            "numeric": sorted(table.numeric),
            "rows": table.rows,
            "marks": table.marks,
            "facets": [[facets[name] for name in FACETS] for facets in table.facets],
        }
        for table in content.tables
    )
    yield '], "pictures": ['
    yield from _separated(
        {
            "title": picture.title,
            "wide": picture.draw(WIDE, False),
            "narrow": picture.draw(NARROW, False),
        }
        for picture in content.pictures
    )
    yield "]}"


def _separated(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    for place, item in enumerate(items):
        yield (", " if place else "") + json.dumps(item)
