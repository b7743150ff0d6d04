"""Towers in GGUF, as llama.cpp's converter writes them, moved whole into transformers and timm."""

import numpy as np
import pytest

from patchparity.porting.whole.port import port_whole
from patchparity.porting.whole.read import read_whole
from patchparity.reference.errors import PatchParityError

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from patchparity.porting.files.opening import opened  # noqa: E402

from ..reference.test_encoder_libraries import grown  # noqa: E402
from .gguf_converter import KINDS, convert, kind_of, split, tower_values, write  # noqa: E402
from .test_whole_torch import answers, apart, loaded  # noqa: E402

SIZES = dict(hidden_size=32, num_attention_heads=4, num_hidden_layers=3, image_size=24)
M, PATCH, SIDE = 64, 6, (24, 24)
RELATIVE = 1e-6
"""As in `test_whole_torch`."""

HEADED = "vision_tower.vision_model."
PROJECTOR = {"mm.0.weight": np.ones((7, 32), np.float32), "mm.0.bias": np.ones(7, np.float32)}


def clip(**options):
    options = {"intermediate_size": M, "patch_size": PATCH, **SIZES, **options}
    return grown(transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**options)))


def siglip(**options):
    options = {"intermediate_size": M, "patch_size": PATCH, **SIZES, **options}
    config = transformers.SiglipVisionConfig(vision_use_head=False, **options)
    return grown(transformers.SiglipVisionModel(config))


def tensors_of(model):
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors |= split(HEADED + name, tensor.numpy())
    assert len(tensors) == len([name for name in model.state_dict() if "position_ids" not in name])
    return tensors


def values_of(model, projector, **more):
    told = tower_values(projector, model.config)
    ours = {
        "feed_forward_length": model.config.intermediate_size,
        "block_count": model.config.num_hidden_layers,
        "attention.head_count": model.config.num_attention_heads,
    }
    gelu = model.config.hidden_act != "quick_gelu"
    return {
        **told,
        **{f"clip.vision.{key}": held for key, held in ours.items()},
        "clip.use_gelu": gelu,
        **more,
    }


def written(model, path, projector, kind=KINDS.F32, swapped=False, **more):
    tensors = tensors_of(model)
    if swapped:
        words = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}
        tensors = {
            ".".join(words.get(word, word) for word in name.split(".")): held
            for name, held in tensors.items()
        }
    tensors |= PROJECTOR
    kinds = {name: kind_of(name, held, kind) for name, held in tensors.items()}
    values = {
        key: held for key, held in values_of(model, projector, **more).items() if held is not None
    }
    return write(path, tensors, values, kinds)


CASES = {
    "clip": (clip, "mlp", "hf-clip", "pooled"),
    "siglip": (siglip, "gemma3", "hf-siglip", "tokens"),
    "siglip of smolvlm": (siglip, "idefics3", "hf-siglip", "tokens"),
    "siglip of llava": (siglip, "mlp", "hf-siglip", "tokens"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("swapped", [False, True])
def test_a_tower_in_transformers(tmp_path, case, swapped):
    make, projector, dialect, what = CASES[case]
    model = make()
    path = written(model, tmp_path / "mmproj.gguf", projector, swapped=swapped)
    report = port_whole(path, tmp_path / "hf", dialect)
    assert apart(answers(loaded(report), SIDE)[what], answers(model, SIDE)[what]) <= RELATIVE
    assert report.left == ["mm: 2 tensors, mm.0.weight the first"]
    told = " ".join(report.semantics)
    assert "number of attention heads 4," in told
    assert f"activation of the MLP {'quick-gelu' if make is clip else 'gelu-tanh'} " in told


def test_another_epsilon_and_timm(tmp_path):
    model = siglip(layer_norm_eps=3e-4)
    path = written(model, tmp_path / "mmproj.gguf", "gemma3")
    report = port_whole(path, tmp_path / "hf", "hf-siglip")
    assert apart(answers(loaded(report), SIDE)["tokens"], answers(model, SIDE)["tokens"]) <= 1e-6
    with pytest.raises(PatchParityError, match="ε of the norms"):
        port_whole(path, tmp_path / "timm", "timm-vit")
    path = written(siglip(), tmp_path / "usual.gguf", "gemma3")
    report = port_whole(path, tmp_path / "timm", "timm-vit")
    theirs = answers(siglip(), SIDE)["tokens"]
    assert apart(answers(loaded(report), SIDE)["tokens"], theirs) <= RELATIVE


def test_a_clip_with_the_exact_gelu_has_to_be_told(tmp_path):
    model = clip(hidden_act="gelu")
    path = written(model, tmp_path / "mmproj.gguf", "mlp")
    with pytest.raises(PatchParityError, match="--activation"):
        port_whole(path, tmp_path / "hf", "hf-clip")
    report = port_whole(path, tmp_path / "hf", "hf-clip", semantics={"activation": "gelu"})
    assert apart(answers(loaded(report), SIDE)["pooled"], answers(model, SIDE)["pooled"]) <= 1e-6


@pytest.mark.parametrize(
    ("key", "words"),
    [("clip.vision.attention.head_count", "--heads"), ("clip.use_gelu", "--activation")],
)
def test_what_no_key_tells_has_to_be_told(tmp_path, key, words):
    path = written(siglip(), tmp_path / "mmproj.gguf", "gemma3", **{key: None})
    with pytest.raises(PatchParityError, match=words):
        port_whole(path, tmp_path / "hf", "hf-siglip")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("clip.vision.block_count", 2, "blocks: 2"),
        ("clip.vision.feed_forward_length", 60, "width of the MLP: 60"),
        ("clip.vision.attention.head_count", 5, "heads do not divide"),
        ("clip.projector_type", "lfm2", "siglip2_vision_model"),
        ("clip.projector_type", "janus_pro", "janus_vision_model"),
    ],
)
def test_keys_that_the_tensors_contradict(tmp_path, key, value, words):
    path = written(siglip(), tmp_path / "mmproj.gguf", "gemma3", **{key: value})
    with pytest.raises(PatchParityError, match=words):
        port_whole(path, tmp_path / "hf", "hf-siglip")


def test_an_mlp_as_wide_as_the_model_may_be_either(tmp_path):
    path = written(siglip(intermediate_size=32), tmp_path / "mmproj.gguf", "gemma3")
    with pytest.raises(PatchParityError, match=r"ffn_(up|down).* and its shape fits both"):
        port_whole(path, tmp_path / "hf", "hf-siglip")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_quantized_tower_is_what_gguf_makes_of_it(tmp_path, kind):
    model = siglip()
    path = written(model, tmp_path / "mmproj.gguf", "gemma3", KINDS[kind])
    report = port_whole(path, tmp_path / "hf", "hf-siglip")
    assert any(f"dequantized from {kind}" in step and "v.blk.0" in step for step in report.steps)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            (theirs,) = split(HEADED + name, parameter.numpy())
            made = kind_of(theirs, parameter.numpy(), KINDS[kind])
            if made == KINDS[kind]:
                packed = gguf.quants.quantize(parameter.numpy(), made)
                parameter.copy_(torch.from_numpy(gguf.quants.dequantize(packed, made)))
    assert apart(answers(loaded(report), SIDE)["tokens"], answers(model, SIDE)["tokens"]) <= 1e-6


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_types_of_the_converter(tmp_path, kind):
    model = clip()
    path = written(model, tmp_path / "mmproj.gguf", "mlp", KINDS[kind])
    report = port_whole(path, tmp_path / "hf", "hf-clip")
    assert report.ok
    again = port_whole(tmp_path / "hf", tmp_path / "timm", "timm-clip", dtype="float32")
    assert again.ok


def test_a_tower_without_its_last_norm(tmp_path):
    model = clip()
    path = written(model, tmp_path / "mmproj.gguf", "mlp")
    tensors = {
        name: held for name, held in tensors_of(model).items() if not name.startswith("v.post_ln")
    }
    write(path, tensors, values_of(model, "mlp"))
    with opened(path) as file:
        assert read_whole(file).found.depth == 3
    with pytest.raises(PatchParityError, match=r"needs pooled_norm\.scale"):
        port_whole(path, tmp_path / "hf", "hf-clip")


def test_nothing_is_written_to_gguf(tmp_path):
    path = convert(
        tmp_path / "mmproj.gguf",
        {name: held.numpy() for name, held in siglip().state_dict().items()},
        HEADED,
        values_of(siglip(), "gemma3"),
    )
    with pytest.raises(PatchParityError, match="whole models go to"):
        port_whole(path, tmp_path / "back.gguf", "gguf-siglip")
