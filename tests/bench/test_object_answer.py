"""What a check of somebody's object prints: the answer first."""

import subprocess
import sys

import numpy as np
import pytest

import patchparity as pp
from patchparity.bench.check.object_answer import answer
from patchparity.bench.check.results import CheckReport, CheckResult

OBJECTS = """\
import numpy as np
from patchparity import PatchEmbedWeights
from patchparity.reference.embed import patch_embed
from patchparity.reference.spec import PatchEmbedSpec

drawn = np.random.default_rng(0)
kernel = drawn.standard_normal((24, 4, 4, 3)).astype("float32") / 7
bias = drawn.standard_normal(24).astype("float32")
np.savez("weights.npz", kernel=kernel, bias=bias)


def right(images):
    spec = PatchEmbedSpec(images.shape[2:], 4, 3, 24)
    return patch_embed(images, PatchEmbedWeights(kernel, bias), spec, "float32")


def reversed_channels(images):
    return right(images[:, ::-1])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("objects")
    (made / "mine.py").write_text(OBJECTS)
    subprocess.run([sys.executable, "mine.py"], cwd=made, check=True)
    return made


def lines_of(folder, name, *options):
    command = [sys.executable, "-m", "patchparity", "check", f"mine:{name}", "--weights"]
    command += ["weights.npz", "--kernel-layout", "canonical", "--patch-size", "4", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_right_object_is_told_in_two_lines(folder):
    status, lines = lines_of(folder, "right", "--framework", "numpy")
    assert status == 0
    assert lines[0].startswith("right: mine:right, float32: ")
    assert "checks pass, largest error 0." in lines[0]
    assert lines[1] == "  image 12x16, patch 4x4, 3 channels, width 24"
    assert all(line.startswith(("  note: ", "  refused")) for line in lines[2:]), lines


def test_one_mistake_is_told_in_twelve_lines_of_eighty_columns(folder):
    status, lines = lines_of(folder, "reversed_channels", "--framework", "numpy")
    assert status == 1
    assert lines[0].startswith("wrong: mine:reversed_channels, float32: ")
    assert lines[2] == "  cause: the channels were read in reverse, BGR for RGB"
    assert lines[3].startswith("  mend: reverse the channel axis of the images")
    assert sum(-(-len(line) // 80) for line in lines) <= 12, lines


def test_every_check_is_told_where_that_is_asked_for(folder):
    _, few = lines_of(folder, "reversed_channels", "--framework", "numpy")
    _, lines = lines_of(folder, "reversed_channels", "--framework", "numpy", "-v")
    answer = [line for line in few if not line.startswith(("  fail ", "  and "))]
    assert lines[: len(answer)] == answer
    told = [line.split()[1].rstrip(":") for line in lines[len(answer) :]]
    assert {"random", "repeatability", "nan-containment", "one-hot-images"} <= set(told)
    assert len(told) == len(set(told))


def test_failures_of_other_kinds_have_a_line_each():
    common = {"backend": "numpy", "dtype": "float32", "case": "image 8x8, patch 4x4"}
    results = [
        CheckResult("m:f", probe="random", verdict="pass", bound_ratio=0.1, **common),
        CheckResult("m:f", probe="batch-4", verdict="fail", message="2 of 8 are wrong", **common),
        CheckResult("m:f", probe="batch-5", verdict="fail", message="3 of 9 are wrong", **common),
        CheckResult("m:f", probe="infinity", verdict="fail", message="it is swallowed", **common),
        CheckResult("m:f", probe="image-4x4", verdict="pass", message="refused: no", **common),
        CheckResult("m:f", probe="nan", verdict="skip", message="not tried", **common),
    ]
    report = CheckReport(results, notes=["a note"], of_object=True)
    assert str(report).splitlines() == [
        "wrong: m:f, float32: 3 of 4 checks fail",
        "  image 8x8, patch 4x4",
        "  note: a note",
        "  fail batch-4: 2 of 8 are wrong",
        "  the same of batch-5",
        "  fail infinity: it is swallowed",
        "  skip nan: not tried",
        "  refused, which is no wrong number: image-4x4",
    ]


def test_the_python_answer_is_that_of_the_command_line():
    weights = pp.PatchEmbedWeights(np.random.default_rng(1).standard_normal((5, 2, 2, 3)))

    def tokens(images):
        spec = pp.PatchEmbedSpec(images.shape[2:], 2, 3, 5)
        return pp.patch_embed(images, weights, spec)

    report = pp.check(tokens, weights=weights, framework="numpy", patch_size=2)
    assert str(report).startswith("right: ")
    assert str(report).splitlines() == answer(report)
    assert report.environment["versions"]["numpy"] == np.__version__
    report.raise_if_wrong()
    assert (repr(report), report.diagnosis) == (str(report), "")
    wrong = pp.check(
        lambda images: tokens(images[:, ::-1]), weights=weights, framework="numpy", patch_size=2
    )
    assert wrong.diagnosis == "the channels were read in reverse, BGR for RGB"
    with pytest.raises(AssertionError, match="cause: the channels were read in reverse"):
        wrong.raise_if_wrong()
