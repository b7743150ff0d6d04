"""What a record is good for: resumed, replayed, told again, refused where it cannot be trusted."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, PatchParityError, benchmark, compare
from patchparity import __version__ as patchparity_version
from patchparity.bench.record.folder import locked
from patchparity.bench.record.record import Record

from ..fake_backends import running_below
from .records import SMALL, copied_record, data_of, loaded, typed


def test_resume_measures_only_what_is_missing(report, tmp_path):
    copied_record(report, tmp_path)
    other_case = BenchOptions(
        **{**SMALL, "cases": ("vit-ti32-224-b1",)}, out=str(tmp_path), resume=True
    )
    both = data_of(benchmark(other_case).content)
    assert len(both) == 16, (
        "the case that the record holds is kept although it was not asked for again"
    )
    assert data_of(report.content).items() <= both.items()
    assert data_of(benchmark(other_case).content) == both, "nothing is left to measure"


def test_resume_measures_a_block_anew_where_it_cannot_be_kept(tmp_path):
    """With other rows, or another number of rounds, no row of the block keeps old samples beside
    new ones."""
    narrow = {**SMALL, "implementations": ("numpy:linear:eager",)}
    first = benchmark(BenchOptions(**narrow, out=str(tmp_path)))
    assert len(first.content["benchmarks"]) == 6
    wider = benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))
    assert len(wider.content["benchmarks"]) == 8
    assert not set(map(tuple, data_of(first.content).values())) & set(
        map(tuple, data_of(wider.content).values())
    )
    narrower = benchmark(BenchOptions(**narrow, out=str(tmp_path), resume=True))
    assert data_of(narrower.content) == data_of(wider.content), (
        "what the record holds beside is kept"
    )
    (tmp_path / "report.md").write_text("of the record as it was")
    longer = benchmark(BenchOptions(**{**SMALL, "rounds": 7}, out=str(tmp_path), resume=True))
    assert not (tmp_path / "report.md").exists()
    assert longer.content["measured_anew"] == ["vit-ti32-224-b2, float32, 1 thread"]
    assert narrower.content["measured_anew"] == []
    assert {len(data) for data in data_of(longer.content).values()} == {7}


def test_a_record_of_another_version_is_refused_in_a_sentence(report, tmp_path):
    copied_record(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({name: value for name, value in row.items() if name != "host"}) + "\n"
            for row in rows
        )
    )
    with pytest.raises(
        PatchParityError,
        match=r"^/.*was written by another version of patchparity, or is damaged .line 1: .* "
        r"required field `host`.: measure anew",
    ):
        benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))


def test_a_block_that_lost_a_row_is_not_told_as_if_it_were_whole(report, tmp_path):
    copied_record(report, tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()[:-1]
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in lines))
    with pytest.raises(
        PatchParityError, match="holds no case that was finished: bench with --resume goes on"
    ):
        loaded(tmp_path)


def test_a_stray_row_of_an_attempt_that_did_not_end_hides_nothing(report, tmp_path):
    copied_record(report, tmp_path)
    first = (tmp_path / "rows.jsonl").read_text().splitlines()[0]
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({**json.loads(first), "attempt": "later"}) + "\n")
    assert data_of(loaded(tmp_path)) == data_of(report.content)


def test_a_record_made_again_knows_its_machine_its_options_and_what_is_missing(report, tmp_path):
    copied_record(report, tmp_path)
    again = loaded(tmp_path)
    assert (again["environment"]["processor"], again["options"]["preset"]) == (
        "unknown",
        "unknown",
    ), "it is not noted here"
    with pytest.raises(PatchParityError, match="different machines"):
        compare(report.folder, tmp_path)
    for name in ("machines.json", "plan.json"):
        (tmp_path / name).write_text((report.folder / name).read_text())
    noted = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps({**noted, "planned": 20}))
    (tmp_path / "bench.json").unlink()
    again = loaded(tmp_path)
    assert again["environment"]["processor"] == report.content["environment"]["processor"]
    assert again["environment"]["versions"] == report.content["environment"]["versions"]
    assert (again["options"], again["planned"]) == (report.content["options"], 20)
    assert typed(again).missing == 12


def test_a_record_made_again_is_the_same_file_byte_for_byte(tmp_path):
    benchmark(BenchOptions(**SMALL, out=str(tmp_path)))
    first = (tmp_path / "bench.json").read_bytes()
    for _ in range(2):
        (tmp_path / "bench.json").unlink()
        loaded(tmp_path)
        assert (tmp_path / "bench.json").read_bytes() == first


def test_a_record_made_again_elsewhere_says_when_and_on_what_it_was_measured(tmp_path):
    first = benchmark(BenchOptions(**SMALL, out=str(tmp_path))).content
    plan = json.loads((tmp_path / "plan.json").read_text())
    # as if a machine like that had measured
    plan["call"]["machine_info"]["cpu"] = {"brand_raw": "another"}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "bench.json").unlink()
    again = loaded(tmp_path)
    assert again["machine_info"] == {**first["machine_info"], "cpu": {"brand_raw": "another"}}
    assert (again["datetime"], again["spent"]) == (first["datetime"], first["spent"])
    (tmp_path / "bench.json").unlink()
    del plan["call"]  # as an earlier version left it
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    os.utime(tmp_path / "rows.jsonl", (1e9, 1e9))
    again = loaded(tmp_path)
    assert again["datetime"].startswith("2001-09-09T01:46:40")
    assert (again["machine_info"], again["spent"]) == ({"node": ""}, None)


def test_a_record_is_not_gone_on_with_other_versions(report, tmp_path):
    copied_record(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["versions"] == {"numpy": np.__version__, "patchparity": patchparity_version}
    lines = [
        json.dumps({**row, "versions": {**row["versions"], "numpy": "1.0"}}) + "\n" for row in rows
    ]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    told = rf"holds times of numpy 1.0, and here is numpy {np.__version__} now: begin a new folder"
    with pytest.raises(PatchParityError, match=told):
        benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))


@pytest.mark.parametrize("name", ["samples.jsonl", "rows.jsonl"])
def test_a_block_that_lost_a_line_is_measured_anew(report, tmp_path, name):
    copied_record(report, tmp_path)
    lines = (tmp_path / name).read_text().splitlines()[:-1]
    (tmp_path / name).write_text("".join(line + "\n" for line in lines))
    mended = benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))
    assert len(mended.content["benchmarks"]) == 8
    assert not set(map(tuple, data_of(report.content).values())) & set(
        map(tuple, data_of(mended.content).values())
    )


def test_a_new_run_sets_the_old_record_aside(report, tmp_path):
    copied_record(report, tmp_path)
    (tmp_path / "check.json").write_text("{}")
    benchmark(BenchOptions(**SMALL, out=str(tmp_path)))
    (previous,) = tmp_path.glob("previous-*")
    assert (previous / "samples.jsonl").read_text() == (report.folder / "samples.jsonl").read_text()
    assert not (tmp_path / "check.json").exists(), (
        "verdicts of another run must not stand above these times"
    )
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 32


def test_bench_json_is_made_again_from_the_record(report, tmp_path):
    copied_record(report, tmp_path)
    assert data_of(loaded(tmp_path)) == data_of(report.content)
    (tmp_path / "bench.json").write_text("{")
    assert data_of(loaded(tmp_path)) == data_of(report.content)


def test_a_record_made_again_tells_of_errors_and_leaves_out_what_is_incomplete(report, tmp_path):
    copied_record(report, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    rows[1].update(status="error", message="it died")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = loaded(tmp_path)
    assert len(content["benchmarks"]) == 7
    assert [row["message"] for row in content["failures"]] == ["it died"]
    (tmp_path / "bench.json").unlink()
    (tmp_path / "samples.jsonl").unlink()
    with pytest.raises(PatchParityError, match="holds no case that was finished"):
        loaded(tmp_path)


def test_a_kill_in_the_middle_leaves_a_record_to_resume_from_and_no_process(tmp_path):
    options = BenchOptions(
        **{**SMALL, "cases": ("vit-ti32-224-b1", "vit-b16-224-b8"), "rounds": 150},
        out=str(tmp_path),
    )
    code = (
        "import patchparity; "
        f"patchparity.benchmark(patchparity.BenchOptions(**{options.__dict__!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    while not (
        (tmp_path / "bench.json").exists()
        and (tmp_path / "samples.jsonl").read_text().count('"vit-b16-224-b8"') > 20
    ):
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    for _ in range(100):
        if not running_below(tmp_path):
            break
        time.sleep(0.2)
    assert not running_below(tmp_path), "children end with their parent"
    first = loaded(tmp_path)
    assert {entry["extra_info"]["case"] for entry in first["benchmarks"]} == {"vit-ti32-224-b1"}
    resumed = benchmark(dataclasses.replace(options, resume=True))
    lengths = {
        entry["extra_info"]["case"]: len(entry["stats"]["data"])
        for entry in resumed.content["benchmarks"]
    }
    assert lengths == {"vit-ti32-224-b1": 150, "vit-b16-224-b8": 150}
    kept = {name: data for name, data in data_of(resumed.content).items() if "ti32" in name}
    assert kept == data_of(first), "the finished case is kept"


def test_two_runs_do_not_share_a_folder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(PatchParityError, match="another run is writing to"),
        locked(tmp_path),
    ):
        pass


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00\n", b"7\n", b"{\n", b"[" * 100_000 + b"\n"])
@pytest.mark.parametrize("name", ["rows", "samples"])
def test_damaged_lines_are_named(report, tmp_path, name, damage):
    line = (report.folder / f"{name}.jsonl").read_bytes().splitlines(keepends=True)[0]
    (tmp_path / f"{name}.jsonl").write_bytes(line + damage + line)
    with pytest.raises(
        PatchParityError,
        match=rf"{name}\.jsonl, line 2, is (no JSON object: the record is damaged there|damaged: "
        r"Expected)",
    ):
        list(getattr(Record(tmp_path), name)())


@pytest.mark.parametrize(
    ("name", "field", "value", "says"),
    [
        ("samples", "seconds", None, "Object missing required field `seconds`"),
        (
            "samples",
            "seconds",
            "1",
            r"line 1, is damaged: Expected `float`, got `str` - at `\$.seconds`",
        ),
        (
            "samples",
            "seconds",
            -1.0,
            r"line 1, is damaged: Expected `float` >= 1e-12 - at `\$.seconds`",
        ),
        (
            "samples",
            "round",
            1.5,
            r"line 1, is damaged: Expected `int`, got `float` - at `\$.round`",
        ),
        ("rows", "case", ["a"], r"line 1, is damaged: Expected `str`, got `array` - at `\$.case`"),
        (
            "rows",
            "status",
            "fine",
            r"line 1, is damaged: Invalid enum value 'fine' - at `\$.status`",
        ),
        (
            "rows",
            "versions",
            "1",
            r"line 1, is damaged: Expected `object`, got `str` - at `\$.versions`",
        ),
    ],
)
def test_a_field_that_is_damaged_is_named_by_line_and_path(
    report, tmp_path, name, field, value, says
):
    copied_record(report, tmp_path)
    first, *rest = (tmp_path / f"{name}.jsonl").read_text().splitlines()
    damaged = {
        key: each
        for key, each in {**json.loads(first), field: value}.items()
        if key != field or value is not None
    }
    (tmp_path / f"{name}.jsonl").write_text("\n".join([json.dumps(damaged), *rest, ""]))
    with pytest.raises(PatchParityError, match=says):
        benchmark(BenchOptions(**SMALL, out=str(tmp_path), resume=True))


def test_damaged_or_foreign_records_are_named(tmp_path):
    with pytest.raises(
        PatchParityError, match=r"cannot read .*bench.json: No such file.*patchparity bench --out"
    ):
        loaded(tmp_path)
    (tmp_path / "bench.json").write_text("{")
    with pytest.raises(PatchParityError, match="is no JSON"):
        loaded(tmp_path)
    (tmp_path / "bench.json").write_text("{}")
    with pytest.raises(PatchParityError, match="was not written by patchparity bench"):
        loaded(tmp_path)
