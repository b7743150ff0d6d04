"""The record: nothing half-written, nothing lost to a kill."""

import json
import os
import re
import stat
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest

from patchparity import PatchParityError
from patchparity.bench.record.folder import output_folder
from patchparity.bench.record.packed import pack, unpack
from patchparity.bench.record.record import Record
from patchparity.bench.record.rows import Row, blank_outcome
from patchparity.bench.record.schema import Sample
from patchparity.bench.report.keep import keep_record
from patchparity.bench.timing.load import load_bench
from patchparity.porting.files.atomic import plain, write_json

from .records import loaded


def test_json_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": float("inf"), "y": [float("nan"), 1.5], "z": (1, 2)})
    assert json.loads(path.read_text()) == {"x": None, "y": [None, 1.5], "z": [1, 2]}
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o077, "readable as other files of the user are"
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text())["z"] == [1, 2], "a failure leaves the old file"
    with pytest.raises(PatchParityError, match="cannot write"):
        write_json(tmp_path / "none" / "a.json", {})


def test_links_are_followed_and_devices_are_written_to_not_replaced(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_json(tmp_path / "link.json", {})
    assert (tmp_path / "link.json").is_symlink()
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=(tmp_path / "pipe").read_text)
    reader.start()
    write_json(tmp_path / "pipe", {})
    reader.join()
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_plain_leaves_finite_values_alone():
    assert plain({"a": 1.0, "b": "inf", "c": None, "d": True}) == {
        "a": 1.0,
        "b": "inf",
        "c": None,
        "d": True,
    }


def sample(seconds):
    names = ("case", "row", "implementation", "cache", "device")
    return Sample(
        **dict.fromkeys(names, "x"),
        role="aa",
        round=0,
        order=0,
        generation=0,
        seconds=seconds,
        visit_seconds=1.0,
    )


def outcome():
    return blank_outcome(Row("vit-ti32-224-b2", "numpy:linear:eager", "cpu", "float32", "ieee", 1))


def test_a_line_cut_short_by_a_kill_is_left_out_and_mended(tmp_path):
    record = Record(tmp_path)
    record.append_samples([sample(1.0), sample(2.0)])
    with record.samples_path.open("a") as file:
        file.write('{"seconds": 3.')
    assert [each.seconds for each in record.samples()] == [1.0, 2.0]
    record.append_samples([sample(4.0)])
    assert [each.seconds for each in record.samples()] == [1.0, 2.0, 4.0]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    record = Record(tmp_path)
    record.append_rows([outcome()])
    with record.rows_path.open("a") as file:
        file.write("garbage\n")
    record.append_rows([outcome()])
    with pytest.raises(PatchParityError, match=r"rows.jsonl, line 2, is no JSON"):
        record.rows()


def test_output_folder(tmp_path):
    assert output_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(PatchParityError, match=r"output folder .*file cannot be written"):
        output_folder(tmp_path / "file")


def damaged(content, place, value):
    """The content with one thing in it replaced, or taken away."""
    *parts, last = place
    inner = content
    for part in parts:
        inner = inner[part]
    if value is None and isinstance(inner, dict):
        del inner[last]
    else:
        inner[last] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("benchmarks",), 3, "Expected `array`, got `int` - at `$.benchmarks`"),
        (("datetime",), None, "Object missing required field `datetime`"),
        (("planned",), "many", "Expected `int`, got `str` - at `$.planned`"),
        (("benchmarks", 0), "x", "Expected `object`, got `str` - at `$.benchmarks[0]`"),
        (
            ("benchmarks", 2, "stats"),
            None,
            "Object missing required field `stats` - at `$.benchmarks[2]`",
        ),
        (
            ("benchmarks", 1, "stats", "median"),
            "x",
            "Expected `float`, got `str` - at `$.benchmarks[1].stats.median`",
        ),
        (
            ("benchmarks", 1, "stats", "median"),
            0.0,
            "Expected `float` >= 1e-12 - at `$.benchmarks[1].stats.median`",
        ),
        (
            ("benchmarks", 1, "stats", "data", 0),
            -1.0,
            "Expected `float` >= 1e-12 - at `$.benchmarks[1].stats.data[0]`",
        ),
        (
            ("benchmarks", 1, "extra_info", "ratio"),
            "1",
            "Expected `float | null`, got `str` - at `$.benchmarks[1].extra_info.ratio`",
        ),
        (
            ("benchmarks", 1, "extra_info", "ratio_interval"),
            [1.0],
            "Expected `array` of length >= 2 - at `$.benchmarks[1].extra_info.ratio_interval`",
        ),
        (
            ("benchmarks", 1, "extra_info", "case"),
            None,
            "Object missing required field `case` - at `$.benchmarks[1].extra_info`",
        ),
    ],
)
def test_a_record_that_is_damaged_inside_is_told_as_that(place, value, says, tmp_path):
    pytest.importorskip("pytest_benchmark")
    pytest.importorskip("execnet")
    content = loaded(Path(__file__).parents[2] / "bench" / "records" / "h200")
    (tmp_path / "bench.json").write_text(json.dumps(damaged(content, place, value)))
    with pytest.raises(PatchParityError, match=f"bench.json is damaged: {re.escape(says)}"):
        loaded(tmp_path)


def test_a_record_that_is_kept_is_the_same_record(report, tmp_path):
    keep_record(report.folder, tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "medians.csv",
        "summary.md",
        "environment.json",
        "record.tar.xz",
    }
    unpack(tmp_path / "kept" / "record.tar.xz", tmp_path)
    for name in ("rows.jsonl", "samples.jsonl", "plan.json", "machines.json"):
        assert (tmp_path / name).read_bytes() == (report.folder / name).read_bytes()
    assert load_bench(tmp_path / "kept") == load_bench(report.folder)
    with pytest.raises(PatchParityError, match="is the record itself"):
        keep_record(report.folder, report.folder)


def test_a_record_is_read_before_numpy_is_loaded(report):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from patchparity.bench.timing.load import load_bench\n"
        f"bench = load_bench(Path({str(report.folder)!r}))\n"
        "assert bench.benchmarks and 'numpy' not in sys.modules\n"
        "import patchparity.bench.report.render, patchparity.bench.answers.fastest\n"
        "assert 'patchparity.bench.timing.session' not in sys.modules, 'measuring'\n"
        "assert 'patchparity.bench.worker' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_read_is_held_once(report):
    bench = load_bench(report.folder)
    first, second = bench.benchmarks[0], bench.benchmarks[1]
    assert first.extra_info.case is second.extra_info.case
    assert first.extra_info.dtype is second.extra_info.dtype
    held = json.loads((report.folder / "bench.json").read_text())["benchmarks"][0]["stats"]["data"]
    assert first.stats.data == array("d", held), "eight bytes a sample"


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_kept_record_that_is_damaged_is_refused(report, tmp_path, damage):
    packed = bytearray(pack(report.folder))
    if damage == "cut":
        packed = packed[:-40]
    elif damage == "flipped":
        packed[len(packed) // 2] ^= 1
    else:
        packed = bytearray(b"no archive")
    (tmp_path / "record.tar.xz").write_bytes(packed)
    with pytest.raises(PatchParityError, match=r"record\.tar\.xz is damaged, or holds no record"):
        loaded(tmp_path)


def test_records_that_are_kept_here_are_small():
    files = [
        path
        for path in (Path(__file__).parents[2] / "bench" / "records").rglob("*")
        if path.is_file()
    ]
    assert max(path.stat().st_size for path in files) < 1_000_000
    assert all(path.stat().st_size < 400_000 for path in files if path.name == "medians.csv")


def test_what_could_not_be_made_again_is_not_kept(report, tmp_path):
    """Samples that are no longer those of its bench.json: somebody would remove the record for what
    was kept of it."""
    for path in report.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    (tmp_path / "samples.jsonl").write_text("\n".join([*lines[10:], ""]))
    with pytest.raises(PatchParityError, match=r"was not kept|holds no case that was finished"):
        keep_record(tmp_path, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("file", "place", "value", "says"),
    [
        (
            "plan.json",
            ("planned",),
            None,
            r"plan\.json is damaged: Expected `int`, got `null` - at `\$\.planned`",
        ),
        (
            "plan.json",
            ("call",),
            [],
            r"plan\.json is damaged: Expected `object \| null`, got `array` - at `\$\.call`",
        ),
        (
            "plan.json",
            ("options",),
            3,
            r"plan\.json is damaged: Expected `object \| null`, got `int` - at `\$\.options`",
        ),
        (
            "machines.json",
            ("gpus",),
            10,
            r"machines\.json is damaged: Expected `array`, got `int` - at `\$\[\.\.\.\]\.gpus`",
        ),
        ("rows.jsonl", ("device",), "cuda", r"rows\.jsonl is damaged: the row '.*' tells of '.*'"),
        (
            "rows.jsonl",
            ("threads_requested",),
            0,
            r"line 1, is damaged: Expected `int` >= 1 - at `\$\.threads_requested`",
        ),
    ],
)
def test_notes_that_are_damaged_are_told(report, tmp_path, file, place, value, says):
    for name in ("rows.jsonl", "samples.jsonl", "plan.json", "machines.json"):
        (tmp_path / name).write_bytes((report.folder / name).read_bytes())
    first, *rest = (
        (tmp_path / file).read_text().splitlines()
        if file == "rows.jsonl"
        else [(tmp_path / file).read_text()]
    )
    content = json.loads(first)
    inner = next(iter(content.values())) if file == "machines.json" else content
    inner[place[0]] = value
    (tmp_path / file).write_text("\n".join([json.dumps(content), *rest, ""]))
    with pytest.raises(PatchParityError, match=says):
        loaded(tmp_path)
