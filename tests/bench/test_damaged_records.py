"""A record with anything changed in it is told, compared and recommended from, or refused in a
sentence."""

import json
import random
from pathlib import Path

import pytest

from patchparity import PatchParityError, compare, recommend, render_report

from .records import loaded

pytest.importorskip("jinja2")
pytest.importorskip("jinja2")
RECORD = Path(__file__).parents[2] / "bench" / "records" / "h200"
VALUES = [None, "x", -1, 3.5, [], {}, True, [1], {"a": 1}, float("inf")]


def places(content, path=()):
    """Where something stands in a record; of a list its first three."""
    inner = (
        content.items()
        if isinstance(content, dict)
        else enumerate(content[:3])
        if isinstance(content, list)
        else ()
    )
    for key, value in inner:
        if key not in ("machine_info", "commit_info"):
            yield (*path, key)
            yield from places(value, (*path, key))


@pytest.mark.parametrize("seed", range(24))
def test_a_damaged_record_ends_in_no_traceback(tmp_path, seed):
    chance, content = random.Random(seed), loaded(RECORD)
    *outer, last = chance.choice(list(places(content)))
    inner = content
    for key in outer:
        inner = inner[key]
    value = chance.choice(["missing", *VALUES])
    if value == "missing":
        del inner[last]
    else:
        inner[last] = value
    (tmp_path / "bench.json").write_text(json.dumps(content))
    told = []
    for read in (
        lambda: render_report(tmp_path),
        lambda: compare(tmp_path, RECORD),
        lambda: recommend("vit-b16-224-b256", record=tmp_path, device="cuda", dtype="bfloat16"),
    ):
        try:
            read()
        except PatchParityError as error:
            told.append(str(error))
    assert all(told)
