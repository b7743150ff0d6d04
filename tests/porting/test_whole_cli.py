"""port, check and diagnose of whole models as users type them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from patchparity.__main__ import app
from patchparity.porting.files.opening import opened
from patchparity.reference.errors import PatchParityError

from .test_whole_faults import BLOCK, CONFIG, DEPTH, VIT, saved


def told(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def refused(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert isinstance(result.exception, PatchParityError), result.output
    return str(result.exception)


@pytest.fixture
def source(tmp_path):
    """A ViT as transformers writes it."""
    return saved(tmp_path / "vit")


def names_in(path):
    with opened(path) as checkpoint:
        return set(checkpoint.tensors)


STAGE = {"patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"}
"""What timm's embedding stage is."""


def test_a_source_with_blocks_is_moved_whole(source, tmp_path):
    output = told("port", source, tmp_path / "timm", "--to", "timm-vit", "--no-proof")
    assert "hf-vit, transformers ViT -> timm-vit, timm VisionTransformer:" in output
    assert f"{DEPTH} blocks" in output
    assert {path.name for path in (tmp_path / "timm").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert "blocks.2.mlp.fc2.bias" in names_in(tmp_path / "timm")
    told("port", source, tmp_path / "again", "--to", "timm-vit", "--no-proof", "--whole")
    one, other = (tmp_path / each / "model.safetensors" for each in ("timm", "again"))
    assert one.read_bytes() == other.read_bytes()


def test_stage_moves_the_embedding_alone(source, tmp_path):
    told("port", source, tmp_path / "a.safetensors", "--to", "timm-vit", "--stage")
    assert names_in(tmp_path / "a.safetensors") == STAGE
    assert not (tmp_path / "config.json").exists()


def test_a_source_without_blocks_is_moved_as_a_stage(source, tmp_path):
    told("port", source, tmp_path / "a.safetensors", "--to", "timm-vit", "--stage")
    told("port", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "hf-vit")
    assert not [name for name in names_in(tmp_path / "b.safetensors") if "encoder" in name]
    words = refused("port", tmp_path / "a.safetensors", tmp_path / "c", "--to", "hf-vit", "--whole")
    assert "no blocks" in words
    assert not (tmp_path / "c").exists()


def test_a_target_of_which_the_stage_alone_is_known(source, tmp_path):
    told("port", source, tmp_path / "a.safetensors", "--to", "oihw", "--allow-loss")
    assert len(names_in(tmp_path / "a.safetensors")) < 5
    words = refused("port", source, tmp_path / "b", "--to", "oihw", "--whole")
    assert "whole models go to timm-vit" in words


def test_into_and_resample_move_a_stage_unless_whole_is_said(source, tmp_path):
    told("port", source, tmp_path / "timm", "--to", "timm-vit", "--no-proof")
    there = tmp_path / "timm" / "model.safetensors"
    stage = ("embeddings.cls_token", "layernorm.weight")
    changed = saved(tmp_path / "other", {**VIT, **{name: VIT[name] + 1 for name in stage}})
    into = ("--to", "timm-vit", "--into", there)
    told("port", changed, tmp_path / "a.safetensors", *into)
    held, before = load_file(tmp_path / "a.safetensors"), load_file(there)
    assert (held["cls_token"] == before["cls_token"] + 1).all()
    assert (held["norm.weight"] == before["norm.weight"]).all()
    output = told("port", changed, tmp_path / "whole", *into, "--whole", "--no-proof")
    assert f"as {there}" in output
    held = load_file(tmp_path / "whole" / "model.safetensors")
    assert (held["cls_token"] == before["cls_token"] + 1).all()
    assert (held["norm.weight"] == before["norm.weight"] + 1).all()
    sizes = ("--image-size", "48x48", "--resample", "timm")
    told("port", source, tmp_path / "b.safetensors", "--to", "timm-vit", *sizes)
    assert names_in(tmp_path / "b.safetensors") == STAGE
    words = refused("port", source, tmp_path / "c", "--to", "timm-vit", *sizes, "--whole")
    assert words == "--resample is of an embedding stage: --stage ports that"


def test_what_no_file_tells_is_told(tmp_path):
    save_file(VIT, tmp_path / "model.safetensors")
    to = ("--to", "timm-vit", "--no-proof")
    words = refused("port", tmp_path / "model.safetensors", tmp_path / "a", *to)
    for option in ("--heads", "--epsilon", "--activation"):
        assert option in words
    semantics = ("--heads", "3", "--epsilon", "1e-6", "--activation", "quick-gelu")
    output = told("port", tmp_path / "model.safetensors", tmp_path / "b", *to, *semantics)
    assert "told" in output
    arguments = json.loads((tmp_path / "b" / "config.json").read_text())["model_args"]
    assert (arguments["num_heads"], arguments["act_layer"]) == (3, "quick_gelu")
    pooled = (*semantics, "--pooling", "mean")
    told("port", tmp_path / "model.safetensors", tmp_path / "c", *to, *pooled)
    arguments = json.loads((tmp_path / "c" / "config.json").read_text())["model_args"]
    assert arguments["global_pool"] == "avg"
    wrong = ("--heads", "5", *semantics[2:])
    words = refused("port", tmp_path / "model.safetensors", tmp_path / "d", *to, *wrong)
    assert "5 heads do not divide the width of attention, 24" in words


def test_shards(source, tmp_path):
    sharded = ("--to", "hf-vit", "--no-proof", "--shard-size", "20kB")
    told("port", source, tmp_path / "hf", *sharded)
    files = {path.name for path in (tmp_path / "hf").iterdir()}
    assert "model.safetensors.index.json" in files
    assert len([name for name in files if name.startswith("model-0000")]) > 1
    told("port", tmp_path / "hf", tmp_path / "back", "--to", "hf-vit", "--no-proof")
    held = load_file(tmp_path / "back" / "model.safetensors")
    assert held.keys() == VIT.keys()
    assert all(np.array_equal(held[name], array) for name, array in VIT.items())
    words = refused("port", source, tmp_path / "b", *sharded[:-1], "much")
    assert "much" in words


def test_the_report_tells_the_proof(source, tmp_path):
    report = tmp_path / "r.json"
    told("port", source, tmp_path / "a", "--to", "timm-vit", "--no-proof", "--report", report)
    content = json.loads(report.read_text())
    assert content["schema"] == "patchparity.port-whole/1"
    assert content["ok"]
    assert content["blocks"] == DEPTH
    assert content["tensors"] == len(names_in(tmp_path / "a"))
    assert {check["name"] for check in content["checks"]} == {
        "stage reads back",
        "encoder reads back",
        "semantics read back",
    }
    told("port", source, tmp_path / "b", "--to", "timm-vit", "--report", report)
    content = json.loads(report.read_text())
    checks = {check["name"]: check["verdict"] for check in content["checks"]}
    assert checks["blocks by the NumPy encoder"] == "pass"
    assert len(checks) > 4
    words = refused(
        *("port", source, tmp_path / "c", "--to", "timm-vit"),
        *("--report", source / "config.json"),
    )
    assert "config.json" in words
    assert json.loads((source / "config.json").read_text()) == CONFIG


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--shard-size", "5GB"),
        ("--heads", "3"),
        ("--epsilon", "1e-6"),
        ("--activation", "gelu"),
        ("--pooling", "class"),
    ],
)
def test_what_is_of_a_whole_model_is_refused_for_a_stage(source, tmp_path, option, value):
    stage = ("port", source, tmp_path / "a.safetensors", "--to", "timm-vit", "--stage")
    assert refused(*stage, option, value) == f"{option} is of a whole model: --whole ports one"
    assert not (tmp_path / "a.safetensors").exists()


def test_dtype_and_into_exclude_each_other(source, tmp_path):
    told("port", source, tmp_path / "a", "--to", "timm-vit", "--no-proof")
    words = refused(
        *("port", source, tmp_path / "b", "--to", "timm-vit", "--whole", "--dtype", "bfloat16"),
        *("--into", tmp_path / "a" / "model.safetensors"),
    )
    assert words == "--into keeps the types that are there: leave --dtype out"


# ---------------------------------------------------------------------------- check and diagnose

MODULE = """
import torch, transformers

def right():
    return transformers.ViTModel.from_pretrained({folder!r}, add_pooling_layer=False)

def wrong():
    model = right()
    with torch.no_grad():
        query = model.layers[1].attention.q_proj.weight
        query.copy_(query.T.clone())
    return model

model, mistaken = right(), wrong()
"""


@pytest.fixture
def models(source, monkeypatch):
    """A module with a right model and one of which a matrix is the wrong way."""
    pytest.importorskip("transformers")
    name = f"whole_cli_{source.parent.name.replace('-', '_')}"
    (source.parent / f"{name}.py").write_text(MODULE.format(folder=str(source)))
    monkeypatch.syspath_prepend(source.parent)
    return name


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_a_whole_model_against_its_checkpoint(source, models, tmp_path, command):
    given = ("--checkpoint", source)
    output = told(command, f"{models}:model", *given)
    assert f"correct: all {DEPTH} blocks" in output
    output = told(command, f"{models}:mistaken", *given, "--json", tmp_path / "d.json", code=1)
    assert "block 1: q is not transposed" in output
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["schema"] == "patchparity.model-diagnosis/1"
    assert not content["ok"]
    assert content["encoder"]["findings"][0]["explanation"] == "block 1: q is not transposed"


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_a_checkpoint_in_place_of_a_model(source, tmp_path, command):
    pytest.importorskip("transformers")
    given = ("--checkpoint", source)
    output = told(command, source, *given)
    assert "in transformers" in output
    query = f"{BLOCK}attention.attention.query.weight"
    other = saved(tmp_path / "other", {**VIT, query: VIT[query].T})
    assert "block 1: q is not transposed" in told(command, other, *given, code=1)


@pytest.mark.parametrize("command", ["check", "diagnose"])
def test_what_has_no_part_in_a_whole_model(source, models, command):
    words = refused(command, f"{models}:model", "--checkpoint", source, "--patch-size", "8")
    assert "--patch-size" in words
    assert "as a whole" in words


def test_what_no_file_tells_is_told_to_check(models, tmp_path):
    save_file(VIT, tmp_path / "model.safetensors")
    given = ("check", f"{models}:model", "--checkpoint", tmp_path / "model.safetensors")
    assert "--heads" in refused(*given)
    semantics = ("--heads", "3", "--epsilon", "1e-6", "--activation", "gelu")
    assert "correct: " in told(*given, *semantics)
    wrong = (*semantics[:-1], "quick-gelu")
    assert "all blocks: the activation is exact GELU" in told(*given, *wrong, code=1)
