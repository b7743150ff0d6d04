"""A file of a real library without one tensor of its stage: the refusal names that tensor."""

import json

import pytest

from patchparity import PatchParityError
from patchparity.porting.dialects.sizes import Sizes
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import open_checkpoint

from ..census.stand_in import import_library

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


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("convnext_atto", ["stem.1.bias"]),
        ("edgenext_xx_small", ["stem.1.bias"]),
        ("visformer_tiny", ["stem.0.weight", "stem.1.bias", "stem.1.running_var"]),
    ],
)
def test_a_model_of_timm_without_one_tensor_is_no_other_model(name, without, tmp_path):
    """A layer norm without its shift has the names of an RMSNorm; a stem without a bias those of
    nothing."""
    timm = import_library("timm")
    from safetensors.torch import save_file

    model = timm.create_model(name)
    config = {"architecture": name, "num_classes": 1000}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = model.state_dict()
    for missing in without:
        kept = {key: tensor for key, tensor in tensors.items() if key != missing}
        save_file(kept, tmp_path / "model.safetensors")
        with open_checkpoint(tmp_path) as checkpoint, pytest.raises(PatchParityError) as raised:
            read_stage(checkpoint)
        assert missing in str(raised.value)


def test_what_only_a_name_tells_is_offered_too(tmp_path):
    """An AIMv2 that computes its positions, complete, without its config.json."""
    config = transformers.Aimv2VisionConfig(**VIT, is_native=True)
    transformers.Aimv2VisionModel(config).save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(PatchParityError) as raised:
        read_stage(checkpoint)
    assert "--from says so: hf-aimv2-native" in str(raised.value)


def test_how_many_patches_are_merged_is_asked(tmp_path):
    from safetensors.torch import load_file

    config = transformers.Lfm3VlVisionConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        patch_size=8,
        spatial_merge_size=1,
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    assert "patchifier.weight" in load_file(tmp_path / "model.safetensors")
    (tmp_path / "config.json").unlink()
    told = Sizes.told(patch_size=(2, 8, 8))
    with open_checkpoint(tmp_path) as checkpoint, pytest.raises(PatchParityError) as raised:
        read_stage(checkpoint, sizes=told)
    assert "no tensor tells one from another" in str(raised.value)
