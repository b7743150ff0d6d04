"""Diagnosis of live objects: which mistake somebody's module makes."""

import pytest

from patchparity import check
from patchparity.bench.check.object_diagnosis import diagnose_object
from patchparity.porting.objects.read import read_live

from .modules import torch_module
from .test_live import WEIGHTS, right


def test_diagnosis_of_an_object():
    assert diagnose_object(read_live(right, weights=WEIGHTS)).correct
    found = diagnose_object(
        read_live(lambda images: right(images).transpose(0, 2, 1), weights=WEIGHTS)
    )
    assert found.mistakes == ("tokens-not-transposed",)


def test_a_diagnosis_of_an_object_tells_affine_maps_and_restless_ones():
    torch = pytest.importorskip("torch")
    projection = torch.nn.Conv2d(3, 20, 4, 4)

    def scaled(self, x):
        return 1.5 * self.proj(x).flatten(2).transpose(1, 2)

    def restless(self, x):
        return torch.nn.functional.dropout(self.proj(x).flatten(2).transpose(1, 2), 0.1)

    found = diagnose_object(torch_module(scaled, proj=projection))
    assert found.mistakes == ("output-scaled",)
    assert "1.5 times what it should be" in found.explanation
    found = diagnose_object(torch_module(restless, proj=projection))
    assert found.explanation.startswith(
        "two calls on the same images differ (is dropout or noise on?)"
    )
    assert diagnose_object(projection).correct


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda tokens: tokens.double(),
            "check fails on random: output of dtype float64, expected float32",
        ),
        (lambda tokens: tokens.clamp(-500, 500), "check fails on random-1000: "),
        (
            lambda tokens: tokens.nan_to_num(),
            "check fails on nan-containment: NaN in one pixel of image 1 is swallowed",
        ),
        (lambda tokens: tokens if len(tokens) > 1 else tokens[0], "check fails on batch-1: "),
    ],
    ids=["type", "clamp", "nan", "squeeze"],
)
def test_what_is_right_on_one_problem_alone_is_not_called_correct(change, told):
    torch = pytest.importorskip("torch")
    projection = torch.nn.Conv2d(3, 20, 4, 4)
    found = diagnose_object(
        torch_module(
            lambda self, x: change(self.proj(x).flatten(2).transpose(1, 2)), proj=projection
        )
    )
    assert not found.correct
    assert found.explanation.startswith(f"the values on random images are right, but {told}")


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
@pytest.mark.parametrize("widened", [True, False])
def test_lower_precision_is_told_from_where_it_was(narrow, widened):
    torch = pytest.importorskip("torch")
    projection = torch.nn.Conv2d(3, 20, 4, 4)

    def rounded(self, x):
        return self.proj(x).to(getattr(torch, narrow)).float().flatten(2).transpose(1, 2)

    def autocast(self, x):
        with torch.autocast("cpu", getattr(torch, narrow)):
            tokens = self.proj(x).flatten(2).transpose(1, 2)
        return tokens.float() if widened else tokens

    short = {"bfloat16": "bf16", "float16": "fp16"}[narrow]
    assert diagnose_object(torch_module(rounded, proj=projection)).mistakes == (f"output-{short}",)
    found = diagnose_object(torch_module(autocast, proj=projection))
    assert found.mistakes == (f"precision-{short}",) or (f"precision-{short}",) in found.also


def test_the_diagnosis_is_the_first_thing_said_of_a_wrong_object():
    torch = pytest.importorskip("torch")
    report = check(
        torch_module(
            lambda self, x: self.proj(x.flip(1)).flatten(2).transpose(1, 2),
            proj=torch.nn.Conv2d(3, 8, 4, 4),
        )
    )
    assert report.notes == [
        "diagnosis: the channels were read in reverse, BGR for RGB; mend: "
        + report.notes[0].split("mend: ")[1]
    ]
