"""Whole models of real libraries: their one patch embedding is found, named, and judged."""

import json
import subprocess
import sys

import pytest

from patchparity import PatchParityError, check
from patchparity.porting.objects.read import read_live

from .test_live import randomized

torch = pytest.importorskip("torch")

SIZES = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)


def whole_models():
    transformers = pytest.importorskip("transformers")
    sizes = dict(image_size=32, patch_size=8, **SIZES)
    text = dict(vocab_size=50, max_position_embeddings=8, **SIZES)
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    dinov2 = transformers.Dinov2Model(transformers.Dinov2Config(**sizes))
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=sizes, projection_dim=16)
    )
    return {
        "vit.embeddings": vit,
        "embeddings": dinov2,
        "vision_model.embeddings": clip,
    }


@pytest.mark.parametrize("path", ["vit.embeddings", "embeddings", "vision_model.embeddings"])
def test_the_embedding_of_a_whole_model_is_found_and_named(path):
    model = randomized(whole_models()[path]).eval()
    report = check(model)
    assert report.ok, str(report)
    assert f"of the whole model its part {path} was read" in str(report)
    assert check(model, module=path).ok
    live = read_live(model, module=f"{path}.patch_embeddings" if "vision" not in path else path)
    assert live.spec.patch_size == (8, 8)
    with pytest.raises(PatchParityError, match=rf"has no part 'nothing': it has .*{path}"):
        check(model, module="nothing")


class Two(torch.nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.left = torch.nn.Module()
        self.right = torch.nn.Module()
        for side in (self.left, self.right):
            side.patch_embed = torch.nn.Conv2d(3, width, 4, 4)


def test_a_model_with_two_asks_which():
    with pytest.raises(
        PatchParityError, match=r"several parts that embed patches: left.patch_embed, right.patch"
    ):
        check(Two())
    report = check(Two, module="right.patch_embed", init={"width": 20})
    assert report.ok
    assert "width 20" in str(report)


def test_a_file_and_the_arguments_of_a_class(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 8\n")
    (tmp_path / "my-vit.py").write_text(
        "import torch\nfrom beside import WIDTH\n\n\n"
        "class Embed(torch.nn.Conv2d):\n"
        "    def __init__(self, channels, patch=4):\n"
        "        super().__init__(channels, WIDTH, patch, patch)\n"
    )
    command = [sys.executable, "-m", "patchparity", "check", str(tmp_path / "my-vit.py") + ":Embed"]
    done = subprocess.run(
        [*command, "--init", '{"channels": 2}'], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "patch 4x4, 2 channels, width 8" in done.stdout
    for init, words in (
        ("{", "--init is no JSON"),
        ("[1]", "--init: expected an object"),
        (json.dumps({"colors": 3}), "cannot be built with these arguments"),
    ):
        done = subprocess.run([*command, "--init", init], capture_output=True, text=True)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    done = subprocess.run(command, capture_output=True, text=True)
    assert "or give them (init, --init)" in done.stderr
    with pytest.raises(PatchParityError, match="there is no file"):
        check(str(tmp_path / "none.py") + ":Embed")
