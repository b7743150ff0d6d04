"""What the report says of a record: comparisons that the record supports, and nothing it does
not."""

import base64
import copy
import gzip
import json
import re

import msgspec
import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from patchparity import BenchOptions, benchmark
from patchparity.bench.record.comparisons import (
    best_against_others,
    best_against_today,
    comparisons,
    conv_against_linear,
    gains,
)
from patchparity.bench.report.content import build_content
from patchparity.bench.report.page import to_html
from patchparity.bench.report.svg import WIDE

from .records import checked, rows_of, typed


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    options = BenchOptions(
        cases=("vit-ti32-224-b1",),
        backends=("numpy",),
        threads=(1,),
        rounds=8,
        out=str(tmp_path_factory.mktemp("r")),
    )
    return benchmark(options).content


def with_seconds(record, changes, device="cpu"):
    """The record with some rows' samples replaced; `changes` maps (implementation, role) to
    seconds."""
    changed = copy.deepcopy(record)
    changed["comparisons"] = []  # which were of other seconds
    for entry in changed["benchmarks"]:
        info = entry["extra_info"]
        if seconds := changes.get((info["implementation"], info["role"])):
            entry["stats"].update(data=seconds, median=sorted(seconds)[len(seconds) // 2])
        if info["role"] == "aa":
            info["ratio_interval"] = [0.99, 1.02]
        elif info["role"] == "implementation":
            info["device"] = device
    return changed


DRIFT = [1.0, 1.3, 0.9, 1.1, 1.6, 1.0, 1.2, 0.8]


@pytest.mark.parametrize(
    ("factor", "says"),
    [(1.5, "SLOWER"), (0.5, "FASTER"), (1.0, "SAME"), (1.021, "SLOWER"), (1.015, "SAME")],
)
def test_convolution_against_linear_is_judged_by_the_noise(record, factor, says):
    seconds = {
        ("numpy:linear:eager", "implementation"): DRIFT,
        ("numpy:conv2d:eager", "implementation"): [factor * d for d in DRIFT],
    }
    (found,) = conv_against_linear(rows_of(with_seconds(record, seconds)["benchmarks"]))
    assert found.comparison.ratio == pytest.approx(factor)
    assert found.noise == pytest.approx(0.02)
    assert found.comparison.word == says
    plain, *_ = comparisons(rows_of(with_seconds(record, seconds)["benchmarks"]))
    assert plain["row"].endswith("/numpy:conv2d:eager")
    assert plain["against"].endswith("/numpy:linear:eager")
    assert (plain["verdict"], plain["ratio"], plain["reason"]) == (
        says,
        found.comparison.ratio,
        found.comparison.reason,
    )


def test_a_pair_is_of_one_machine(record):
    """Where two take part, each convolution is held against the linear formulation beside it."""
    seconds = {
        ("numpy:linear:eager", "implementation"): DRIFT,
        ("numpy:conv2d:eager", "implementation"): [2 * d for d in DRIFT],
    }
    here = with_seconds(record, seconds)["benchmarks"]
    seconds["numpy:linear:eager", "implementation"] = [4 * d for d in DRIFT]
    there = with_seconds(record, seconds)["benchmarks"]
    for entry in there:
        entry["extra_info"]["host"] = "host1"
    assert [found.comparison.ratio for found in conv_against_linear(rows_of(here + there))] == [
        2.0,
        0.5,
    ]


def test_a_convolution_is_held_against_the_linear_formulation_of_its_layout(record):
    rows = {
        "linear": 1.0,
        "linear_nchw": 2.0,
        "conv2d": 3.0,
        "conv2d_nchw": 4.0,
        "conv2d_channels_last": 5.0,
        "keras_conv2d": 6.0,
    }
    (row,) = (
        entry
        for entry in record["benchmarks"]
        if (entry["extra_info"]["implementation"], entry["extra_info"]["role"])
        == ("numpy:linear:eager", "implementation")
    )
    entries = []
    for name, factor in rows.items():
        entries.append(copy.deepcopy(row))
        entries[-1]["extra_info"].update(implementation=f"numpy:{name}:eager", formulation=name)
        entries[-1]["stats"]["data"] = [factor * d for d in DRIFT]
    found = {
        pair.info.formulation: pair.comparison.ratio
        for pair in conv_against_linear(rows_of(entries))
    }
    assert found == {
        "conv2d": 3.0,
        "conv2d_nchw": 2.0,
        "conv2d_channels_last": 5.0,
        "keras_conv2d": 6.0,
    }


def test_the_fastest_of_a_framework_is_held_against_its_other_formulations_and_what_is_customary(
    record,
):
    seconds = {
        ("numpy:linear:eager", "implementation"): DRIFT,
        ("numpy:conv2d:eager", "implementation"): [2 * d for d in DRIFT],
    }
    changed = with_seconds(
        record, {**seconds, ("numpy:naive:eager", "implementation"): [4 * d for d in DRIFT]}
    )["benchmarks"]
    others, today = (
        {each.partner.implementation: each for each in told(rows_of(changed))}
        for told in (best_against_others, best_against_today)
    )
    assert {name: each.comparison.ratio for name, each in others.items()} == {
        "numpy:conv2d:eager": 0.5
    }
    assert {name: each.comparison.ratio for name, each in today.items()} == {
        "numpy:naive:eager": 0.25
    }
    assert {each.info.implementation for each in (*others.values(), *today.values())} == {
        "numpy:linear:eager"
    }, "and not against itself"
    told = {
        each["against"].split("/")[-1]
        for each in comparisons(rows_of(changed))
        if each["row"].endswith("/numpy:linear:eager")
    }
    assert told == {"numpy:naive:eager", "numpy:conv2d:eager"}


def test_the_fastest_on_a_framework_is_held_against_its_peers_and_the_gain_is_told(record):
    seconds = {
        ("numpy:linear:eager", "implementation"): DRIFT,
        ("numpy:conv2d:eager", "implementation"): [2 * d for d in DRIFT],
    }
    changed = with_seconds(
        record, {**seconds, ("numpy:naive:eager", "implementation"): [5 * d for d in DRIFT]}
    )
    (peer,) = (
        copy.deepcopy(entry)
        for entry in changed["benchmarks"]
        if (entry["extra_info"]["implementation"], entry["extra_info"]["role"])
        == ("numpy:naive:eager", "implementation")
    )
    peer["extra_info"].update(
        role="peer", implementation="numpy:somebody:eager", formulation="somebody"
    )
    peer["stats"]["data"] = [1.25 * d for d in DRIFT]
    changed["benchmarks"].append(peer)
    found = {
        each.partner.implementation: each
        for each in best_against_today(rows_of(changed["benchmarks"]))
    }
    assert {name: each.comparison.ratio for name, each in found.items()} == {
        "numpy:naive:eager": 0.2,
        "numpy:somebody:eager": 0.8,
    }
    assert all(
        (each.info.implementation, each.comparison.word) == ("numpy:linear:eager", "FASTER")
        for each in found.values()
    )
    tables = {table.title: table for table in build_content(typed(changed), None).tables}
    called = tables["What people call today"].rows
    assert [(row[4], row[5], row[-1]) for row in called] == [
        ("numpy:naive:eager", "numpy:linear:eager", "the fastest is FASTER"),
        ("numpy:somebody:eager", "numpy:linear:eager", "the fastest is FASTER"),
    ]
    assert tables["What is to be gained"].rows == [("numpy", "2", "2.50", "1.25 to 5.00", "0")], (
        "the root of 5 · 1.25"
    )


def test_where_people_call_the_fastest_nothing_is_to_be_gained(record):
    seconds = {
        ("numpy:linear:eager", "implementation"): [2 * d for d in DRIFT],
        ("numpy:naive:eager", "implementation"): DRIFT,
    }
    seconds[("numpy:conv2d:eager", "implementation")] = [3 * d for d in DRIFT]
    entries = with_seconds(record, seconds)["benchmarks"]
    rows = rows_of(entries)
    (gain,) = gains(rows, best_against_today(rows))
    assert (gain.framework, gain.ratios, gain.mean, gain.slower) == ("numpy", [1.0], 1.0, 0)


def test_the_noise_of_the_cpu_says_nothing_of_a_gpu(record):
    seconds = {
        ("numpy:linear:eager", "implementation"): DRIFT,
        ("numpy:conv2d:eager", "implementation"): [2 * d for d in DRIFT],
    }
    changed = with_seconds(record, seconds, device="cuda")["benchmarks"]
    (found,) = conv_against_linear(rows_of(changed))
    assert (found.noise, found.comparison.word) == (None, "UNSURE")
    assert found.comparison.reason == "no A/A row tells of the noise on this device"
    for entry in changed:  # and an A/A copy of its own does
        if entry["extra_info"]["role"] == "aa":
            entry["extra_info"]["device"] = "cuda"
    (found,) = conv_against_linear(rows_of(changed))
    assert (found.noise, found.comparison.word) == (pytest.approx(0.02), "SLOWER")


def test_disturbed_cases_failures_and_infinite_errors_are_told(record):
    changed = copy.deepcopy(record)
    for entry in changed["benchmarks"]:
        entry["extra_info"]["disturbance"] = 0.9
    changed["failures"] = [
        dict(
            row="x",
            role="implementation",
            implementation="x:y:z",
            case="c",
            host="local",
            device="cuda",
            dtype="bfloat16",
            precision="ieee",
            cache="cold",
            threads_requested=2,
            operation="one-patch",
            status="error",
            message="it died",
        )
    ]
    result = dict(
        implementation="x:y:z",
        device="cpu",
        dtype="float32",
        case="c",
        probe="identity-kernel",
        direction="forward",
        declared="float32",
        delivered=None,
    )
    rows = [
        {**result, "verdict": "fail", "bound_ratio": None, "effective_bits": None, "message": "m"},
        {**result, "verdict": "pass", "bound_ratio": 0.1, "effective_bits": None, "message": ""},
    ]
    content = build_content(typed(changed), checked(rows))
    told = dict(content.summary)
    assert "vit-ti32-224-b1, float32, 1 thread: others kept 0.9 cores busy, " in told["Disturbed"]
    tables = {table.title: table.rows for table in content.tables}
    assert tables["Is it right?"][0][5:8] == ("fail", "1 of 2", "∞"), (
        "the worst error is not that of what passed"
    )
    assert (
        "x:y:z",
        "one-patch",
        "c (cold cache)",
        "cuda",
        "bfloat16",
        "2",
        "error",
        "it died",
    ) in tables["Not timed"]
    assert content.tables[0].title == "Who is fastest?"


def test_what_is_declared_delivered_and_known_is_told(record):
    result = dict(
        implementation="x:y:z",
        device="cuda",
        dtype="float32",
        case="c",
        direction="forward",
        message="",
    )
    ieee = dict(
        result,
        precision="ieee",
        probe="random-zero-bias",
        declared="float32",
        delivered="float32",
        verdict="pass",
    )
    numbers = dict(bound_ratio=0.1, effective_bits=22.0)
    rows = [
        {**ieee, **numbers},
        {
            **ieee,
            **numbers,
            "precision": "default",
            "declared": "TF32 inputs",
            "delivered": "TF32 or float16 inputs",
        },
        {
            **ieee,
            **numbers,
            "dtype": "float64",
            "verdict": "known",
            "declared": "float64",
            "message": "an-issue: why",
        },
    ]
    content = build_content(typed(record), checked(rows))
    tables = {table.title: table for table in content.tables}
    told = [row[2:7] for row in tables["Is it right?"].rows]
    assert told == [
        ("float32", "float32", "float32", "pass", "1 of 1"),
        ("float32", "TF32 inputs", "TF32 or float16 inputs", "pass", "1 of 1"),
        ("float64", "float64", "float32", "known", "0 of 1"),
    ]
    assert tables["Known faults"].rows == [("x:y:z in float64", "an-issue: why")]


def test_the_kill_table_is_told(record):
    def row(dtype, killed_by, verdict="pass", message=""):
        return dict(mistake="m", dtype=dtype, killed_by=killed_by, verdict=verdict, message=message)

    rows = [
        row("float32", ["p"]),
        row("float32", ["q", "p"]),
        row("float16", [], "known", "no difference"),
    ]
    (table,) = [
        t
        for t in build_content(typed(record), None, checked(rows)).tables
        if t.title == "Can the verdicts fail?"
    ]
    assert table.columns == ("mistake", "float32", "float16", "rejected by")
    assert table.rows == [("m", "2 of 2", "0 of 1", "p, q. May survive in float16: no difference")]
    assert table.marks == [""]
    survived = build_content(
        typed(record), None, checked([*rows, row("float64", [], "fail", "went unnoticed")])
    )
    assert [t.marks for t in survived.tables if t.title == "Can the verdicts fail?"] == [["fail"]]


def test_a_noise_that_reads_the_same_is_told_once_and_a_partial_record_says_so(record):
    changed = with_seconds(record, {})
    assert dict(build_content(typed(changed), None).summary)["Noise"].startswith("2.0% (A/A rows")
    assert "Partial" not in dict(build_content(typed(changed), None).summary)
    changed["planned"] += 8
    assert build_content(typed(changed), None).summary[0] == (
        "Partial", f"8 of {changed['planned']} rows are missing: the run was interrupted, and "
                   "--resume goes on"
    )  # fmt: skip


def test_a_missed_goal_is_told(record):
    changed = copy.deepcopy(record)
    assert "Goal missed" not in dict(build_content(typed(changed), None).summary)
    for widest, told in (
        (0.009, None),
        (0.018, "known to ±1.8%, and ±1% was the goal"),
        (None, "not known yet, and"),
    ):
        for entry in changed["benchmarks"]:
            entry["extra_info"].update(precision_goal=0.01, widest_interval=widest)
        found = dict(build_content(typed(changed), None).summary).get("Goal missed")
        assert found is None if told is None else told in found


def test_a_quiet_record_says_nothing_of_disturbance(record):
    changed = copy.deepcopy(record)
    for entry in changed["benchmarks"]:
        entry["extra_info"]["disturbance"] = 0.1
    assert "Disturbed" not in dict(build_content(typed(changed), None).summary)


def test_what_was_compared_is_read_and_not_judged_again(record, monkeypatch):
    """A page of a record whose bench.json is there; where that tells other pairs, or none, they
    are judged."""
    from patchparity.bench.record import comparisons

    bench = typed(record)
    judged = conv_against_linear(bench.benchmarks), best_against_today(bench.benchmarks)
    assert all(judged)
    assert comparisons.pairs_of(bench) == judged
    for held in ([], bench.comparisons[::-1], bench.comparisons[1:]):
        other = msgspec.structs.replace(bench, comparisons=held)
        assert comparisons.pairs_of(other) == judged

    def never(*_):
        raise AssertionError("judged again")

    monkeypatch.setattr(comparisons, "_judged", never)
    assert comparisons.pairs_of(bench) == judged


def test_the_page_holds_every_table_and_picture_whole(record):
    pytest.importorskip("jinja2")
    content = build_content(typed(record), None)
    packed = re.search(r'id="data">([^<]+)<', to_html(content)).group(1)
    held = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert [table["rows"] for table in held["tables"]] == [
        [list(row) for row in table.rows] for table in content.tables
    ]
    assert [(picture["title"], picture["wide"]) for picture in held["pictures"]] == [
        (picture.title, picture.draw(WIDE, False)) for picture in content.pictures
    ]
    assert content.csv.count("\n") == 1 + len(record["benchmarks"])
