"""Which implementation to use: from records whose answer is known, and one that is measured
here."""

import copy
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")

from typer.testing import CliRunner

from patchparity import BenchOptions, PatchParityError, benchmark
from patchparity.__main__ import app
from patchparity.bench.answers import recommend as answers
from patchparity.bench.answers.recommend import recommend
from patchparity.bench.answers.shape_names import case_of_text

from .records import loaded, typed

DRIFT = [1.0, 1.3, 0.9, 1.1, 1.6, 1.0, 1.2, 0.8, 1.1, 1.4, 1.0, 0.9]


def recommend_from(content, *arguments, **options):
    return answers.recommend_from(typed(content), *arguments, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("record")
    names = ("numpy:linear", "numpy:naive", "numpy:conv2d")
    benchmark(
        BenchOptions(
            cases=("vit-ti32-224-b2",),
            implementations=names,
            threads=(1,),
            rounds=12,
            out=str(path),
        )
    )
    return path


@pytest.fixture(scope="module")
def record(folder):
    return json.loads((folder / "bench.json").read_text())


def with_times(record, factors):
    """The record with the samples of some rows replaced by known ones, and an A/A row of 1%."""
    changed = copy.deepcopy(record)
    for entry in changed["benchmarks"]:
        info = entry["extra_info"]
        if (info["role"], info["operation"]) == ("implementation", "tokens"):
            seconds = [factors[info["implementation"].split(":")[1]] * drift for drift in DRIFT]
            entry["stats"].update(data=seconds, median=sorted(seconds)[6])
        if info["role"] == "aa":
            info["ratio_interval"] = [0.99, 1.01]
    return changed


def test_what_is_surely_faster_than_what_people_call_is_recommended(record):
    found = recommend_from(
        with_times(record, {"linear": 1.0, "naive": 1.25, "conv2d": 3.0}), "vit-ti32-224-b2"
    )
    (choice,) = found.choices
    assert (choice.implementation, choice.sure, choice.customary) == (
        "numpy:linear:eager",
        True,
        False,
    )
    (rival,) = choice.today
    assert (rival.implementation, rival.speedup, rival.comparison.word) == (
        "numpy:naive:eager",
        1.25,
        "FASTER",
    )
    assert choice.sentence() == (
        "numpy:linear:eager is surely faster than what people call on numpy today: 1.25 [1.25, "
        "1.25] times as fast as "
        "numpy:naive:eager"
    )
    assert found.runner_up is None, "one framework alone"
    assert found.noise == pytest.approx(0.01)


def test_where_nothing_is_surely_faster_it_says_so_and_what_people_call_stays(record):
    found = recommend_from(
        with_times(record, {"linear": 0.995, "naive": 1.0, "conv2d": 3.0}), "vit-ti32-224-b2"
    )
    (choice,) = found.choices
    assert (choice.implementation, choice.sure, choice.fastest) == (
        "numpy:naive:eager",
        False,
        "numpy:linear:eager",
    )
    assert choice.sentence().startswith(
        "nothing is surely faster than what people call on numpy today: numpy:linear:eager is 1.01 "
    )


def test_where_people_call_the_fastest_it_says_so(record):
    found = recommend_from(
        with_times(record, {"linear": 1.5, "naive": 1.0, "conv2d": 3.0}), "vit-ti32-224-b2"
    )
    (choice,) = found.choices
    assert (
        choice.sentence()
        == "numpy:naive:eager is what people call on numpy today, and nothing was measured to be "
        "faster"
    )


def with_rows(record, rows):
    """The record with the times of `with_times`, and copies of a row under other names: role and
    time, and how much its time jumps from round to round."""
    changed = with_times(record, {"linear": 1.0, "naive": 1.25, "conv2d": 3.0})
    row = next(
        entry
        for entry in changed["benchmarks"]
        if (entry["extra_info"]["role"], entry["extra_info"]["implementation"])
        == ("implementation", "numpy:conv2d:eager")
        and entry["extra_info"]["operation"] == "tokens"
    )
    for name, (role, factor, jump) in rows.items():
        other = copy.deepcopy(row)
        backend, formulation, mode = name.split(":")
        other["params"]["identity"] += name
        other["extra_info"].update(
            implementation=name, backend=backend, formulation=formulation, mode=mode, role=role
        )
        seconds = [
            factor * drift * (jump if place % 2 else 1 / jump) for place, drift in enumerate(DRIFT)
        ]
        other["stats"].update(data=seconds, median=sorted(seconds)[6])
        changed["benchmarks"].append(other)
    return changed


TORCH = {
    "torch:linear:eager": ("implementation", 1.0, 1.0),
    "torch:conv2d:eager": ("implementation", 2.0, 1.0),
    "transformers:vit:eager": ("peer", 1.02, 1.2),
}


@pytest.mark.parametrize(
    "backends", [(), ("torch",), ("torch", "numpy"), ("transformers",), ("keras-torch",)]
)
def test_one_pair_has_one_verdict_however_it_is_asked(record, backends):
    """Whichever backend is named, what people call on its framework is all that was measured there,
    judged among all that was compared."""
    changed = with_rows(record, TORCH)
    found = recommend_from(changed, "vit-ti32-224-b2", backends=backends)
    choice = next(each for each in found.choices if each.framework == "torch")
    assert {rival.implementation: rival.comparison.word for rival in choice.today} == {
        "torch:conv2d:eager": "FASTER",
        "transformers:vit:eager": "UNSURE",
    }
    assert not choice.sure
    assert found.noise == pytest.approx(0.01)
    assert [each.comparison for each in choice.today] == [
        each.comparison
        for each in next(
            c for c in recommend_from(changed, "vit-ti32-224-b2").choices if c.framework == "torch"
        ).today
    ]
    plain = [note for note in found.notes if not note.startswith("it was disturbed")]
    told = [note.split(":")[0] for note in plain]
    assert told == [
        f"{name} computes with torch" for name in backends if name not in ("torch", "numpy")
    ]


def test_what_surely_beats_all_that_people_call_is_recommended_whatever_else_is_unsure(
    record,
):
    rows = {
        **TORCH,
        "torch:conv2d:eager": ("implementation", 1.2, 1.0),
        "transformers:vit:eager": ("peer", 1.3, 2.0),
    }
    (choice,) = recommend_from(
        with_rows(record, rows), "vit-ti32-224-b2", backends=("torch",)
    ).choices
    assert (choice.implementation, choice.sure, choice.customary) == (
        "torch:linear:eager",
        False,
        False,
    )
    assert choice.sentence().startswith(
        "torch:linear:eager is surely faster than the fastest of what people call on torch today: "
        "1.20 [1.20, 1.20] times as fast as "
        "torch:conv2d:eager; not surely than transformers:vit:eager ("
    )
    assert choice.sentence().endswith(", UNSURE)")


def test_the_sentence_names_what_is_recommended(record):
    """Of another library within 1% of the framework's own, the framework's own: one package
    less."""
    rows = {
        "torch:linear:eager": ("implementation", 1.0, 1.0),
        "torch:conv2d:eager": ("implementation", 1.006, 1.0),
        "transformers:vit:eager": ("peer", 1.004, 1.0),
    }
    (choice,) = recommend_from(
        with_rows(record, rows), "vit-ti32-224-b2", backends=("torch",)
    ).choices
    assert choice.implementation == choice.against == "torch:conv2d:eager"
    assert choice.sentence().startswith(
        "nothing is surely faster than what people call on torch today: torch:linear:eager is 1.01 "
        "[1.01, 1.01] times as fast as torch:conv2d:eager"
    )


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (
            0.9,
            "torch:PatchEmbed@mymodel:object is your own, and nothing is faster here",
        ),
        (
            1.3,
            "torch:linear:eager is surely faster than what people call on torch today, and your "
            "own: 1.30 [1.30, 1.30] times as fast as torch:PatchEmbed@mymodel:object",
        ),
    ],
)
def test_a_peer_of_a_user_is_called_their_own(record, seconds, expected):
    """Nobody else calls it today."""
    rows = {
        "torch:linear:eager": ("implementation", 1.0, 1.0),
        "torch:conv2d:eager": ("implementation", 2.0, 1.0),
        "torch:PatchEmbed@mymodel:object": ("peer", seconds, 1.0),
    }
    (choice,) = recommend_from(
        with_rows(record, rows), "vit-ti32-224-b2", backends=("torch",)
    ).choices
    assert choice.sentence() == expected


def test_frameworks_that_are_not_told_apart_are_not_called_fastest_and_slower(record):
    """By its median the first is faster, by the ratios of the rounds the second."""
    changed = with_rows(record, TORCH)
    for entry in changed["benchmarks"]:
        if entry["extra_info"]["implementation"] == "torch:linear:eager":
            entry["stats"]["median"] = 0.99 * entry["stats"]["median"]
            entry["stats"]["data"] = [1.06 * each for each in entry["stats"]["data"]]
    found = recommend_from(changed, "vit-ti32-224-b2").runner_up
    assert (found.fastest, found.other, found.sure) == (
        "torch:linear:eager",
        "numpy:linear:eager",
        False,
    )
    assert found.sentence() == (
        "of all, torch:linear:eager had the shortest median time, of another framework "
        "numpy:linear:eager: round by round the first is 0.94 times as fast, which is not sure"
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(case="vit-b16-224-b8"), "holds no case vit-b16-224-b8; it holds vit-ti32-224-b2"),
        (dict(dtype="bfloat16"), "of vit-ti32-224-b2, holds no dtype bfloat16; it holds float32"),
        (dict(threads=7), "in float32, holds no threads 7; it holds 1"),
        (dict(device="cuda"), "of vit-ti32-224-b2, holds no device cuda; it holds cpu"),
        (dict(backends=("jax",)), "holds no row of vit-ti32-224-b2 on cpu by jax"),
    ],
)
def test_what_a_record_does_not_hold_is_said(record, asked, message):
    with pytest.raises(PatchParityError, match=message):
        recommend_from(record, **{"case": "vit-ti32-224-b2", **asked})


@pytest.mark.parametrize(
    ("text", "batch", "name"),
    [
        ("vit_b16", 8, "vit-b16-224-b8"),
        ("vit-b16", None, "vit-b16-224-b1"),
        ("vit_b16_b4", None, "vit-b16-224-b4"),
        ("vit_l14_518", 2, "vit-l14-518-b2"),
        ("vit-b16-384-b4", 8, "vit-b16-384-b8"),
        ("vit_base_patch16_224", None, "vit-b16-224-b1"),
        ("vit_small_patch16_384", 3, "vit-s16-384-b3"),
        ("vit_large_patch14_clip_224", None, "vit-l14-224-b1"),
        ("deit3_huge_patch14_224", None, "vit-h14-224-b1"),
        ("swin_t4_224", 4, "swin-t4-224-b4"),
        ("swin_tiny_patch4_window7_224", 4, "swin-t4-224-b4"),
        ("vit_base_patch16_224.augreg_in21k", None, "vit-b16-224-b1"),
        ("vit_large_patch14_dinov2.lvd142m", None, "vit-l14-518-b1"),
        ("videomae-b16-16x224", None, "videomae-b16-16x224-b1"),
    ],
)
def test_names_as_people_write_them(text, batch, name):
    assert case_of_text(text, batch).name == name


@pytest.mark.parametrize(
    ("text", "batch"),
    [("vit", None), ("resnet50", None), ("", None), ("vit-b17", None), ("vit-b16", 0)],
)
def test_names_of_nothing(text, batch):
    with pytest.raises(
        PatchParityError, match=r"is unknown.*; expected for instance|expected at least 1"
    ):
        case_of_text(text, batch)


def test_the_command_tells_the_lines_and_writes_json(folder, tmp_path):
    told = CliRunner().invoke(
        app,
        [
            "recommend",
            "--case",
            "vit_ti32",
            "--batch",
            "2",
            "--record",
            str(folder),
            "--json",
            str(tmp_path / "r.json"),
        ],
    )
    assert told.exit_code == 0, told.output
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["schema"] == "patchparity.recommend/1"
    assert content["choices"][0]["code"].strip() in "\n".join(
        line.rstrip() for line in told.output.splitlines()
    )


def test_a_run_of_its_own_measures_every_formulation_of_a_framework():
    (choice,) = recommend("vit_ti32", batch=1, backends=("numpy",)).choices
    assert choice.framework == "numpy"
    assert choice.customary != choice.implementation.startswith(("numpy:linear", "numpy:block"))


def test_only_what_failed_at_what_was_asked_for_is_told():
    """The record of an H200, where JAX's product of one patch failed, and nothing else."""
    record = loaded(Path(__file__).parents[2] / "bench" / "records" / "h200")
    asked = dict(case="vit-b16-224-b256", device="cuda", dtype="bfloat16")
    assert [each["operation"] for each in record["failures"]] == ["one-patch"] * 3
    found = recommend_from(record, **asked)
    assert [choice.implementation for choice in found.choices] == [
        "torch:fused:cudagraph",
        "jax:linear_nchw:jit",
    ]
    assert found.notes == []
    of_the_cpu = recommend_from(record, **{**asked, "device": "cpu"})
    assert of_the_cpu.notes == ["it was measured on cuda too: --device cuda"]
    failed = next(each for each in record["failures"] if each["implementation"] == "jax:linear:jit")
    record["failures"].append({**failed, "operation": "tokens", "role": "implementation"})
    (note,) = recommend_from(record, **asked).notes
    assert note.startswith(
        "jax:linear:jit failed, and is left out: not timed, for it is wrong: 38 of 768"
    )
    assert recommend_from(record, **asked, backends=("torch",)).notes == []


@pytest.mark.parametrize(
    ("factor", "jump", "word", "told"),
    [
        (0.5, 1.0, "SLOWER", "and nothing is faster here"),
        (0.999, 1.2, "UNSURE", "and nothing was found to be faster here: torch:linear:eager is "),
    ],
)
def test_where_people_call_the_fastest_it_says_how_sure_that_is(record, factor, jump, word, told):
    rows = {**TORCH, "transformers:vit:eager": ("peer", factor, jump)}
    found = recommend_from(with_rows(record, rows), "vit-ti32-224-b2")
    choice = next(each for each in found.choices if each.framework == "torch")
    assert choice.nearest.comparison.word == word
    assert choice.implementation == "transformers:vit:eager"
    assert told in choice.sentence()


def test_a_gain_over_another_library_s_call_is_told_over_the_framework_s_own_too():
    record = Path(__file__).parents[2] / "bench" / "records" / "cpu-2-cores"
    answer = recommend("vit_b16", batch=32, backends=("torch",), record=record).answer()
    assert re.search(
        r"times as fast as keras-torch:conv2d:eager and 1\.\d+ \[.*\] as torch:conv2d:eager", answer
    )
