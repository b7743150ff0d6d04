"""Whole towers in MLX's layout, as source and as target: kernels laid out as MLX's convolutions
have them, everything else under the names and axes of transformers."""

import json

import numpy as np
import pytest

from patchparity.porting.whole.port import port_whole

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors import safe_open  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from .test_whole_torch import SQUARE, answers, apart, loaded, of_transformers, saved  # noqa: E402

RELATIVE = 1e-6
"""As in `test_whole_torch`."""

NO_RATIO = {key: held for key, held in SQUARE.items() if key != "intermediate_size"}
CASES = {
    "clip": ("CLIPVisionModel", "CLIPVisionConfig", SQUARE, "hf-clip", "pooled"),
    "projection": (
        "CLIPVisionModelWithProjection",
        "CLIPVisionConfig",
        SQUARE,
        "hf-clip",
        "output",
    ),
    "siglip": ("SiglipVisionModel", "SiglipVisionConfig", SQUARE, "hf-siglip", "pooled"),
    "dinov2": ("Dinov2Model", "Dinov2Config", NO_RATIO, "hf-dinov2", "pooled"),
    "vit": ("ViTForImageClassification", "ViTConfig", SQUARE, "hf-vit", "output"),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", SQUARE, "hf-dinov3", "pooled"),
}


def model_of(case):
    name, config, sizes, *_ = CASES[case]
    more = {"num_register_tokens": 2} if case == "dinov3" else {}
    return of_transformers(name, config, sizes, **more)


def kernels(tensors):
    return [name for name, held in tensors.items() if held.ndim == 4]


@pytest.mark.parametrize("case", CASES)
def test_into_mlx_and_back(tmp_path, case):
    *_, dialect, what = CASES[case]
    model = model_of(case)
    source = saved(model, tmp_path / "hf")
    report = port_whole(source, tmp_path / "mlx", f"{dialect}-mlx")
    assert report.loads.startswith("mlx.core.load")
    before = load_file(source / "model.safetensors")
    after = load_file(tmp_path / "mlx" / "model.safetensors")
    (kernel,) = kernels(before)
    for name, held in before.items():
        theirs = held.transpose(0, 2, 3, 1) if name == kernel else held
        assert after[name].shape == theirs.shape
        assert after[name].tobytes() == np.ascontiguousarray(theirs).tobytes()
    assert set(after) == set(before)
    with safe_open(tmp_path / "mlx" / "model.safetensors", "numpy") as file:
        assert (file.metadata() or {}).get("format") == "mlx"
    report = port_whole(tmp_path / "mlx", tmp_path / "back", dialect)
    assert apart(answers(loaded(report), (32, 32))[what], answers(model, (32, 32))[what]) == 0


@pytest.mark.parametrize("case", CASES)
def test_files_that_mlx_wrote_to_transformers(tmp_path, case):
    """As mlx_vlm's converters write them, with the configuration of transformers beside."""
    mlx = pytest.importorskip("mlx.core")
    *_, dialect, what = CASES[case]
    model = model_of(case)
    source = saved(model, tmp_path / "hf")
    held = load_file(source / "model.safetensors")
    (kernel,) = kernels(held)
    held[kernel] = held[kernel].transpose(0, 2, 3, 1)
    folder = tmp_path / "mlx"
    folder.mkdir()
    arrays = {name: mlx.array(np.ascontiguousarray(each)) for name, each in held.items()}
    mlx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})
    (folder / "config.json").write_text((source / "config.json").read_text())
    report = port_whole(folder, tmp_path / "back", dialect)
    assert apart(answers(loaded(report), (32, 32))[what], answers(model, (32, 32))[what]) == 0
    assert not report.losses


def test_a_tower_within_a_model_of_mlx(tmp_path):
    """A vision-language model's file: the tower under its own prefix, the rest is left."""
    model = model_of("siglip")
    source = saved(model, tmp_path / "hf")
    held = load_file(source / "model.safetensors")
    (kernel,) = kernels(held)
    held[kernel] = np.ascontiguousarray(held[kernel].transpose(0, 2, 3, 1))
    held = {f"vision_tower.vision_model.{name}": each for name, each in held.items()}
    held["language_model.model.norm.weight"] = np.ones(5, np.float32)
    folder = tmp_path / "mlx"
    folder.mkdir()
    save_file(held, folder / "model.safetensors", {"format": "mlx"})
    table = json.loads((source / "config.json").read_text())
    whole = {"model_type": "paligemma", "vision_config": table}
    (folder / "config.json").write_text(json.dumps(whole))
    report = port_whole(folder, tmp_path / "back", "hf-siglip")
    assert report.left == ["language_model.model.norm.weight"]
    ours = answers(loaded(report), (32, 32))["pooled"]
    assert apart(ours, answers(model, (32, 32))["pooled"]) == 0


def test_blocks_that_mlx_quantized_are_read(tmp_path):
    mlx = pytest.importorskip("mlx.core")
    model = of_transformers("CLIPVisionModel", "CLIPVisionConfig", {**SQUARE, "hidden_size": 96})
    source = saved(model, tmp_path / "hf")
    held = load_file(source / "model.safetensors")
    (kernel,) = kernels(held)
    held[kernel] = np.ascontiguousarray(held[kernel].transpose(0, 2, 3, 1))
    arrays = {name: mlx.array(each) for name, each in held.items()}
    name = "encoder.layers.0.mlp.fc1"
    words, scales, biases = mlx.quantize(arrays[f"{name}.weight"], group_size=32, bits=4)
    arrays |= {f"{name}.weight": words, f"{name}.scales": scales, f"{name}.biases": biases}
    folder = tmp_path / "mlx"
    folder.mkdir()
    mlx.save_safetensors(str(folder / "model.safetensors"), arrays, {"format": "mlx"})
    table = json.loads((source / "config.json").read_text())
    table["quantization"] = {"group_size": 32, "bits": 4}
    (folder / "config.json").write_text(json.dumps(table))
    report = port_whole(folder, tmp_path / "back", "hf-clip")
    assert any("dequantized from 4 bits" in step for step in report.steps)
    with torch.no_grad():
        weight = model.get_parameter(f"{name}.weight")
        made = np.array(mlx.dequantize(words, scales, biases, group_size=32, bits=4))
        weight.copy_(torch.from_numpy(made))
    ours = answers(loaded(report), (32, 32))["pooled"]
    assert apart(ours, answers(model, (32, 32))["pooled"]) == 0
