"""`compare`: regressions beyond limit and noise, different machines, what each record alone holds,
and the words for a pull request."""

import copy
import json
import sys

import numpy as np
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, PatchParityError, benchmark, compare
from patchparity.__main__ import main


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("r"))
    two = ("numpy:linear", "numpy:conv2d")
    return benchmark(
        BenchOptions(
            cases=("vit-ti32-224-b1",), implementations=two, threads=(1,), rounds=12, out=folder
        )
    ).content


LINEAR, CONV, GEMM = "numpy:linear:eager", "numpy:conv2d:eager", "numpy:gemm"
NOISE = np.random.default_rng(0).lognormal(0, 0.002, 12)


def written(record, folder, factors=None, aa=(0.995, 1.004), disturbance=None, **environment):
    """The record with quiet samples, some rows slower by a factor, in a folder of its own."""
    content = copy.deepcopy(record)
    for entry in content["benchmarks"]:
        info = entry["extra_info"]
        data = list((factors or {}).get(info["implementation"], 1.0) * 0.01 * NOISE)
        entry["stats"].update(data=data, median=float(np.median(data)))
        info.update(disturbance=disturbance, disturbed_rounds=12 if disturbance else 0)
        if info["role"] == "aa":
            info["ratio_interval"] = list(aa)
    content["environment"].update(environment)
    folder.mkdir()
    (folder / "bench.json").write_text(json.dumps(content))
    return folder


def words(report):
    return {row.name.split("/")[-1]: row.comparison.word for row in report.rows}


def test_a_regression_is_found_and_named(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new", {CONV: 1.10})
    report = compare(old, new)
    assert words(report) == {LINEAR: "SAME", CONV: "SLOWER"}
    assert [row.name.split("/")[-1] for row in report.regressions] == [CONV]
    assert not report.ok
    assert report.geometric_mean == pytest.approx(1.1**0.5, rel=1e-3)
    assert compare(old, new, fail_over=0.15).ok, "slower, and allowed"
    assert compare(new, old).ok
    assert words(compare(new, old))[CONV] == "FASTER"
    assert compare(old, old).ok


def test_a_difference_within_the_noise_of_either_record_is_no_regression(record, tmp_path):
    old, new = (
        written(record, tmp_path / "old"),
        written(record, tmp_path / "new", {CONV: 1.10}, aa=(0.88, 1.05)),
    )
    assert words(compare(old, new))[CONV] == "UNSURE"
    assert compare(old, new).ok


def test_a_machine_that_became_slower_itself_is_no_regression(record, tmp_path):
    factors = {LINEAR: 1.12, CONV: 1.11, GEMM: 1.13}
    report = compare(written(record, tmp_path / "old"), written(record, tmp_path / "new", factors))
    assert set(words(report).values()) == {"UNSURE"}
    assert report.ok
    assert report.to_markdown().count("| UNSURE: ") == 2, "with the reason"


def test_what_one_record_alone_holds_and_what_differs_is_told(record, tmp_path):
    old = written(record, tmp_path / "old")
    content = json.loads((old / "bench.json").read_text())
    content["benchmarks"] = [
        entry for entry in content["benchmarks"] if entry["extra_info"]["implementation"] != CONV
    ]
    content["environment"]["versions"]["numpy"] = "1.0"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "bench.json").write_text(json.dumps(content))
    report = compare(old, tmp_path / "new")
    assert "1 in the old record alone" in report.summary()
    assert [name.split("/")[-1] for name in report.only_old] == [CONV]
    assert any(
        difference.startswith("numpy: ") and difference.endswith("before, 1.0 now")
        for difference in report.differences
    )
    assert (
        "in the old record alone: vit-ti32-224-b1/cpu/float32/t1/numpy:conv2d:eager"
        in report.to_markdown()
    )
    assert compare(tmp_path / "new", old).only_new == report.only_old


def test_different_machines_are_refused_unless_forced(record, tmp_path):
    old, new = (
        written(record, tmp_path / "old"),
        written(record, tmp_path / "new", processor="Another CPU"),
    )
    with pytest.raises(
        PatchParityError,
        match=r"different machines \(processor: .* before, Another CPU now\); --force",
    ):
        compare(old, new)
    assert any(
        "processor" in difference for difference in compare(old, new, force=True).differences
    )


def failure_of(entry, message):
    """The line of `failures` of a row that was measured before."""
    return {
        **entry["extra_info"],
        "row": entry["params"]["identity"],
        "status": "error",
        "message": message,
    }


def test_other_hosts_are_held_against_themselves(record, tmp_path):
    box, other = {"processor": "A", "cores": 8}, {"processor": "B", "cores": 8}

    def on_host(folder, **hosts):
        content = json.loads((written(record, folder) / "bench.json").read_text())
        for entry in content["benchmarks"]:
            entry["extra_info"]["host"] = "host1"
        content["environment"]["hosts"] = {
            label: {**content["environment"], **where} for label, where in hosts.items()
        }
        (folder / "bench.json").write_text(json.dumps(content))
        return folder

    old, same, new = (
        on_host(tmp_path / name, host1=where)
        for name, where in (("a", box), ("b", box), ("c", other))
    )
    assert compare(old, same).ok
    with pytest.raises(
        PatchParityError, match=r"different machines \(host1: processor: A before, B now\)"
    ):
        compare(old, new)


def test_a_row_that_fails_now_is_no_success(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new")
    content = json.loads((new / "bench.json").read_text())
    (lost,) = (
        e
        for e in content["benchmarks"]
        if e["extra_info"]["implementation"] == CONV and e["extra_info"]["role"] != "overhead"
    )
    content["benchmarks"].remove(lost)
    content["failures"] = [failure_of(lost, "it died")]
    (new / "bench.json").write_text(json.dumps(content))
    report = compare(old, new)
    assert (report.ok, list(report.failed.values()), report.only_old, report.regressions) == (
        False,
        ["it died"],
        [],
        [],
    )
    assert "1 failed in the new record" in report.summary()
    assert "numpy:conv2d:eager: it died" in report.to_markdown()


def test_where_no_a_a_row_tells_of_the_noise_nothing_is_decided(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new", {CONV: 1.10})
    content = json.loads((new / "bench.json").read_text())
    for entry in content["benchmarks"]:
        if entry["extra_info"]["role"] == "aa":
            entry["extra_info"]["ratio_interval"] = None
    (new / "bench.json").write_text(json.dumps(content))
    report = compare(old, new)
    assert set(words(report).values()) == {"UNSURE"}
    assert {row.comparison.reason for row in report.rows} == {
        "no A/A row of both records tells of the noise on this device"
    }


def test_a_record_in_which_everything_failed_is_told_as_that(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new")
    content = json.loads((new / "bench.json").read_text())
    content["failures"] = [failure_of(each, "it\ndied") for each in content["benchmarks"]]
    content["benchmarks"] = []
    (new / "bench.json").write_text(json.dumps(content))
    report = compare(old, new)
    assert (report.ok, report.geometric_mean, report.rows) == (False, None, [])
    assert report.summary() == "no row can be compared; 2 failed in the new record"
    assert "it died" in report.to_markdown()


def test_a_partial_record_is_told(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new")
    content = json.loads((new / "bench.json").read_text())
    (new / "bench.json").write_text(json.dumps({**content, "planned": content["planned"] + 4}))
    assert (
        f"the new record is partial: 4 of {content['planned'] + 4} rows are missing"
        in compare(old, new).differences
    )


def test_a_record_that_was_disturbed_is_told(record, tmp_path):
    old = written(record, tmp_path / "old")
    new = written(record, tmp_path / "new", disturbance=1.0)
    told = [each for each in compare(old, new).differences if "disturbed" in each]
    assert len(told) == 1
    assert told[0].startswith("the new record was disturbed in vit-ti32-224-b1")
    assert not [each for each in compare(old, old).differences if "disturbed" in each]


def test_a_record_against_itself_is_told_as_that(record, tmp_path):
    one, other = (
        written(record, tmp_path / "one"),
        written(record, tmp_path / "other", {CONV: 1.01}),
    )
    told = "old and new are one and the same record; UNSURE is what another run could differ by"
    assert compare(one, one).differences == [told]
    assert told not in compare(one, other).differences


def test_too_few_rounds_decide_nothing(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new", {CONV: 2.0})
    content = json.loads((new / "bench.json").read_text())
    for entry in content["benchmarks"]:
        entry["stats"]["data"], entry["extra_info"]["generations"] = entry["stats"]["data"][:5], [5]
    (new / "bench.json").write_text(json.dumps(content))
    assert set(words(compare(old, new)).values()) == {"UNSURE"}


def test_markdown_is_a_table_with_the_regression_first(record, tmp_path):
    old, new = (
        written(record, tmp_path / "old"),
        written(record, tmp_path / "new", {CONV: 1.10, LINEAR: 0.8}),
    )
    text = compare(old, new).to_markdown()
    lines = text.splitlines()
    assert lines[0].startswith(
        "**patchparity compare:** 2 rows: 1 FASTER, 1 SLOWER; 1 surely slower by more than 5%; "
        "geometric mean of new/old 0.9"
    )
    assert "conv2d" in lines[4]
    assert lines[4].endswith("| **SLOWER** |")
    assert lines[5].endswith("| FASTER |")
    same = compare(old, old).to_markdown()
    assert "<summary>2 rows that did not surely change</summary>" in same


def test_the_command(record, tmp_path, capsys, monkeypatch):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["patchparity", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code

    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new", {CONV: 1.10})
    assert (
        command("compare", old, new, "--json", tmp_path / "c.json", "--markdown", tmp_path / "c.md")
        == 1
    )
    printed = capsys.readouterr().out
    assert "old ms" in printed
    assert "SLOWER vit-ti32-224-b1/cpu/float32/t1/numpy:conv2d:eager" in printed
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["schema"] == "patchparity.compare/1"
    assert [row["verdict"] for row in content["rows"]] == ["SAME", "SLOWER"]
    assert (tmp_path / "c.md").read_text() == compare(old, new).to_markdown()
    assert command("compare", old, new, "--fail-over", "20%") == 0
    assert command("compare", old, new, "--fail-over", "0.2", "--markdown", "-") == 0
    assert capsys.readouterr().out.endswith(compare(old, new, fail_over=0.2).to_markdown())
    for wrong, message in (
        (("--fail-over", "much"), "--fail-over much: expected"),
        (("--fail-over", "-5%"), "fail_over=-0.05"),
    ):
        assert command("compare", old, new, *wrong) == 2
        assert message in capsys.readouterr().err
    assert command("compare", old, tmp_path / "absent") == 2
    assert "cannot read" in capsys.readouterr().err


def test_records_without_a_common_row_are_no_success(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new")
    content = json.loads((new / "bench.json").read_text())
    for entry in content["benchmarks"]:
        entry["params"]["identity"] += "-renamed"
    (new / "bench.json").write_text(json.dumps(content))
    with pytest.raises(PatchParityError, match="have no row in common: nothing can be compared"):
        compare(old, new)


def test_a_record_of_another_schema_is_refused(record, tmp_path):
    old, new = written(record, tmp_path / "old"), written(record, tmp_path / "new")
    content = json.loads((new / "bench.json").read_text())
    (new / "bench.json").write_text(json.dumps({**content, "schema": "patchparity.bench/9"}))
    with pytest.raises(
        PatchParityError,
        match=r"is patchparity.bench/9, and this version reads patchparity.bench/2",
    ):
        compare(old, new)
