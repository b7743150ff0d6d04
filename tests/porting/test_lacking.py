"""A file of a real library without one tensor of its stage: the refusal names that tensor."""

import json

import pytest

from patchparity import PatchParityError
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import open_checkpoint

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 40,
    "patch_size": 8,
}
MODELS = {
    "ViTModel": VIT,
    "DeiTModel": VIT,
    "Dinov2Model": VIT,
    "Dinov2WithRegistersModel": VIT,
    "DINOv3ViTModel": VIT,
    "CLIPVisionModel": VIT,
    "SiglipVisionModel": VIT,
    "YolosModel": {**VIT, "image_size": [40, 48]},
    "OwlViTVisionModel": VIT,
    "PixtralVisionModel": {**VIT, "head_dim": 12},
    "IJepaModel": VIT,
    "ASTModel": VIT,
    "SegformerModel": {
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "sr_ratios": [1, 1],
        "hidden_sizes": [24, 32],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "num_attention_heads": [2, 2],
        "mlp_ratios": [1, 1],
    },
}
UNTOLD = {
    ("SiglipVisionModel", "positions"): "VideoLLaMA 3 has these very names, and no positions",
    ("PixtralVisionModel", "kernel"): "its stage has two tensors, and one is no evidence",
    ("PixtralVisionModel", "sequence_norm.scale"): "the same",
}
"""What no name tells without a config.json."""


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    kind = getattr(transformers, request.param)
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(3)
    (path / "kind").write_text(request.param, encoding="utf-8")
    kind(kind.config_class(**MODELS[request.param])).save_pretrained(path)
    return path


@pytest.mark.parametrize("has_config", [True, False])
def test_what_is_missing_is_named(folder, has_config, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    with open_checkpoint(folder) as checkpoint:
        stage = read_stage(checkpoint)
    if has_config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    else:
        save_file(tensors, tmp_path / "model.safetensors")
        try:
            with open_checkpoint(tmp_path) as checkpoint:
                read_stage(checkpoint)
        except PatchParityError as error:
            pytest.skip(f"not read without a config.json: {error}")
    kind = (folder / "kind").read_text()
    for field, name in stage.candidate.names.items():
        if not has_config and (kind, field) in UNTOLD:
            continue
        less = {other: tensor for other, tensor in tensors.items() if other != name}
        save_file(less, tmp_path / "model.safetensors")
        assert stage.dialect.entries[field].name in _told_of(tmp_path, field), field


def _told_of(folder, field):
    """The refusal; of a field that need not be there, the sentence that says so."""
    with open_checkpoint(folder) as checkpoint:
        try:
            read = read_stage(checkpoint)
        except PatchParityError as error:
            return str(error)
    told = [sentence for sentence in read.candidate.evidence if sentence.startswith("not there: ")]
    return "; ".join(told) if field in read.dialect.optional else ""
