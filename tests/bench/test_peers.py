"""Somebody's own implementations beside ours in one interleave: timed when right, told when wrong,
skipped where their sizes are others."""

import pytest

pytest.importorskip("pytest_benchmark")
pytest.importorskip("execnet")
pytest.importorskip("torch")

from patchparity import BenchOptions, PatchParityError, benchmark
from patchparity.bench.timing.plan import rows_of
from patchparity.porting.objects.implementation import read_facts

MODULE = """
import torch

class PatchEmbed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Conv2d(3, 192, 32, 32)

    def forward(self, images):
        assert not self.training
        return self.proj(images).flatten(2).transpose(1, 2)

class ReadsBgr(PatchEmbed):
    def forward(self, images):
        return super().forward(images.flip(1))

class WithClassToken(PatchEmbed):
    def __init__(self):
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 192))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 50, 192))

    def forward(self, images):
        tokens = super().forward(images)
        return torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1) + self.pos_embed

def narrow():
    return PatchEmbed().bfloat16()

class Nested:
    Deep = PatchEmbed
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that can be imported from the current folder, under a name that no other test has
    used."""
    name = f"somebodys_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def test_they_are_timed_beside_ours_when_right_and_told_when_wrong(module, tmp_path):
    peers = tuple(
        f"{module}:{name}" for name in ("PatchEmbed", "ReadsBgr", "WithClassToken", "Nested.Deep")
    )
    report = benchmark(
        BenchOptions(
            cases=("vit-ti32-224-b2",),
            backends=("torch",),
            peers=peers,
            threads=(1,),
            rounds=6,
            out=str(tmp_path / "out"),
        )
    )
    told = {
        entry["extra_info"]["implementation"]: entry["extra_info"]
        for entry in report.content["benchmarks"]
        if entry["extra_info"]["role"] == "peer"
    }
    names = [
        f"torch:{name}@{module}:object" for name in ("PatchEmbed", "WithClassToken", "Nested.Deep")
    ]
    assert list(told) == names
    assert {name: info["operation"] for name, info in told.items()} == dict(
        zip(names, ("tokens", "sequence", "tokens"), strict=True)
    )
    assert all(
        info["verdict"] == "pass" and info["bound_ratio"] < 1 and info["own_gemm_fraction"]
        for info in told.values()
    )
    failed = {
        outcome["implementation"]: outcome["message"] for outcome in report.content["failures"]
    }
    assert set(failed) == {f"torch:ReadsBgr@{module}:object"}
    assert failed[f"torch:ReadsBgr@{module}:object"].startswith("not timed, for it is wrong")
    against = {
        each["against"].split("/")[-1]
        for each in report.content["comparisons"]
        if "@" in each["against"]
    }
    assert against == {names[0], f"{names[1]}#sequence", names[2]}


def test_their_sizes_are_said_where_they_are_not_the_case_s(module):
    def skipped(case, peer, **options):
        rows = rows_of(
            BenchOptions(cases=(case,), backends=("numpy",), peers=(f"{module}:{peer}",), **options)
        )
        return {row.skip for row in rows if row.role == "peer"}

    assert skipped("vit-ti32-224-b1", "PatchEmbed") == {""}
    assert skipped("vit-ti32-384-b1", "PatchEmbed") == {""}, (
        "a convolution takes images of any size"
    )
    assert skipped("vit-ti32-384-b1", "WithClassToken") == {
        "WithClassToken@" + module + " takes images of 224×224, this case has 384×384"
    }
    assert skipped("vit-ti16-224-b1", "PatchEmbed") == {
        "PatchEmbed@" + module + " has patch 32×32, this case 16×16"
    }
    assert skipped("vit-s32-224-b1", "PatchEmbed") == {
        "PatchEmbed@" + module + " has width 192, this case 384"
    }
    assert skipped("vit-ti32-224-b1", "narrow") == {
        "narrow@" + module + " is of bfloat16, not of float32"
    }
    assert skipped("vit-ti32-224-b1", "narrow", dtypes=("bfloat16",)) == {""}


def test_what_cannot_be_read_is_said_before_any_work(module):
    with pytest.raises(PatchParityError, match="cannot be found"):
        read_facts(f"{module}:Absent")
    with pytest.raises(PatchParityError, match="expected module:attribute"):
        rows_of(BenchOptions(cases=("vit-ti32-224-b1",), peers=("somebody",)))
