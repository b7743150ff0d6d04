"""A whole model put into a copy of a checkpoint that holds more."""

import json

import numpy as np
import pytest

from patchparity.porting.files.opening import opened
from patchparity.porting.files.writing import write_checkpoint
from patchparity.porting.whole.port import port_whole
from patchparity.reference.errors import PatchParityError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ..reference.test_encoder_libraries import grown  # noqa: E402

VISION = dict(
    hidden_size=24,
    num_attention_heads=3,
    num_hidden_layers=3,
    intermediate_size=40,
    projection_dim=12,
    patch_size=8,
    image_size=32,
)
TEXT = dict(
    hidden_size=16,
    num_attention_heads=2,
    num_hidden_layers=2,
    intermediate_size=20,
    vocab_size=50,
    max_position_embeddings=9,
    projection_dim=12,
)
TOWER = ("vision_model.", "visual_projection.")
IMAGES = torch.from_numpy(np.random.default_rng(4).normal(size=(2, 3, 32, 32)).astype("f4"))
WORDS = torch.arange(2, 20).reshape(2, 9)


def two_towers(seed, **vision):
    config = transformers.CLIPConfig(
        vision_config={**VISION, **vision}, text_config=TEXT, projection_dim=12
    )
    return grown(transformers.CLIPModel(config), seed)


def tower(seed, **vision):
    config = transformers.CLIPVisionConfig(**{**VISION, **vision})
    return grown(transformers.CLIPVisionModelWithProjection(config), seed)


@pytest.fixture
def folders(tmp_path):
    """A vision tower, and a model of two that it is put into."""
    tower(1).save_pretrained(tmp_path / "tower")
    two_towers(2).save_pretrained(tmp_path / "clip")
    return tmp_path / "tower", tmp_path / "clip"


def tensors_in(path):
    with opened(path) as file:
        return {name: np.array(file.view(name)) for name in file.tensors}


def apart(ours, theirs):
    ours, theirs = (np.asarray(each, np.float64) for each in (ours, theirs))
    assert ours.shape == theirs.shape
    return np.sqrt(((ours - theirs) ** 2).mean() / (theirs**2).mean())


def features(model):
    """What a model of two towers makes of images and of words."""
    with torch.no_grad():
        given = model(input_ids=WORDS, pixel_values=IMAGES)
        raw = model.vision_model(IMAGES).pooler_output
        return model.visual_projection(raw).numpy(), given.text_embeds.numpy()


def test_a_tower_of_clip_into_a_model_of_two(folders, tmp_path):
    source, there = folders
    before = tensors_in(there)
    report = port_whole(source, tmp_path / "out", "hf-clip", into=there)
    assert report.ok
    assert report.losses == []
    after = tensors_in(tmp_path / "out")
    assert list(after) == list(before)
    kept = [name for name in before if not name.startswith(TOWER)]
    assert len(kept) > 30
    assert all(after[name].tobytes() == before[name].tobytes() for name in kept)
    own = tensors_in(source)
    assert all(after[name].tobytes() == array.tobytes() for name, array in own.items())
    assert all(after[name].dtype == before[name].dtype for name in before)
    assert (tmp_path / "out" / "config.json").read_bytes() == (there / "config.json").read_bytes()
    model, told = transformers.CLIPModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    pictures, words = features(model.eval())
    with torch.no_grad():
        wanted = tower(1)(IMAGES).image_embeds.numpy()
    assert apart(pictures, wanted) <= 1e-6
    assert apart(words, features(two_towers(2))[1]) == 0
    assert tensors_in(there).keys() == before.keys()


def test_from_another_library_s_layout(folders, tmp_path):
    source, there = folders
    port_whole(source, tmp_path / "openai", "openai-clip", prove=False, allow_loss=True)
    semantics = {"num_heads": 3}
    port_whole(
        *(tmp_path / "openai", tmp_path / "out", "hf-clip"),
        into=there,
        semantics=semantics,
        prove=False,
    )
    after, own = tensors_in(tmp_path / "out"), tensors_in(source)
    assert all(after[name].tobytes() == array.tobytes() for name, array in own.items())


def test_types_are_those_that_are_there(folders, tmp_path):
    source, there = folders
    two_towers(2).to(torch.bfloat16).save_pretrained(tmp_path / "narrow")
    before = tensors_in(tmp_path / "narrow")
    report = port_whole(source, tmp_path / "out", "hf-clip", into=tmp_path / "narrow")
    assert report.ok
    after, own = tensors_in(tmp_path / "out"), tensors_in(source)
    for name, array in after.items():
        wanted = own[name].astype(array.dtype) if name in own else before[name]
        assert array.dtype.name == "bfloat16", name
        assert array.tobytes() == wanted.tobytes(), name
    with pytest.raises(PatchParityError, match="--into keeps the types that are there"):
        port_whole(source, tmp_path / "b", "hf-clip", into=there, dtype="bfloat16")


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        (dict(hidden_size=48), "no model of the same sizes"),
        (dict(num_hidden_layers=4), "no model of the same sizes"),
        (dict(num_hidden_layers=2), "no model of the same sizes"),
        (dict(intermediate_size=44), "no model of the same sizes"),
        (dict(projection_dim=10), "no model of the same sizes"),
        (dict(image_size=40), "of shape"),
        (dict(patch_size=16), "of shape"),
        (dict(num_attention_heads=4), "number of attention heads 3, and the source with 4"),
        (dict(hidden_act="gelu"), "activation of the MLP quick-gelu, and the source with gelu"),
        (
            dict(layer_norm_eps=1e-6),
            "computes with ε of the norms 1e-05, and the source with 1e-06",
        ),
    ],
    ids=str,
)
def test_another_model_is_refused(folders, tmp_path, vision, words):
    _, there = folders
    before = {path: path.read_bytes() for path in there.iterdir()}
    tower(3, **vision).save_pretrained(tmp_path / "other")
    with pytest.raises(PatchParityError) as caught:
        port_whole(tmp_path / "other", tmp_path / "out", "hf-clip", into=there, prove=False)
    assert words in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert {path: path.read_bytes() for path in there.iterdir()} == before


def test_what_is_there_is_never_replaced(folders, tmp_path):
    source, there = folders
    before = {path: path.read_bytes() for path in there.iterdir()}
    for target in (there, there / "model.safetensors"):
        with pytest.raises(PatchParityError, match="which is read; name another folder"):
            port_whole(source, target, "hf-clip", into=there, prove=False)
    assert {path: path.read_bytes() for path in there.iterdir()} == before


def test_shards_of_what_is_there(folders, tmp_path):
    source, there = folders
    two_towers(2).save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    port_whole(source, tmp_path / "a", "hf-clip", into=tmp_path / "shards", prove=False)
    port_whole(source, tmp_path / "b", "hf-clip", into=there, prove=False)
    one, other = (tensors_in(tmp_path / each) for each in "ab")
    assert one.keys() == other.keys()
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_npz(tmp_path):
    """google's, in a file with another tower beside."""
    sizes = {name: size for name, size in VISION.items() if name != "projection_dim"}
    sizes |= dict(hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, num_labels=5)
    for number in (1, 2):
        config = transformers.ViTConfig(**sizes)
        model = grown(transformers.ViTForImageClassification(config), number)
        model.save_pretrained(tmp_path / f"hf{number}")
        port_whole(tmp_path / f"hf{number}", tmp_path / str(number), "google-vit", prove=False)
    before, own = (tensors_in(next((tmp_path / each).glob("*.npz"))) for each in "21")
    beside = {"txt/embedding": np.ones((7, 5), np.float32), "t": np.ones((), np.float32)}
    held = {**{f"img/{name}": array for name, array in before.items()}, **beside}
    write_checkpoint(tmp_path / "there.npz", held)
    target = tmp_path / "out" / "model.npz"
    port_whole(tmp_path / "hf1", target, "google-vit", into=tmp_path / "there.npz", prove=False)
    after = tensors_in(target)
    assert after.keys() == held.keys()
    assert all(after[name].tobytes() == array.tobytes() for name, array in beside.items())
    assert all(after[f"img/{name}"].tobytes() == array.tobytes() for name, array in own.items())


def test_keras_is_refused(tmp_path):
    sizes = {name: size for name, size in VISION.items() if name != "projection_dim"}
    config = transformers.ViTConfig(**sizes, layer_norm_eps=1e-6, num_labels=5)
    grown(transformers.ViTForImageClassification(config)).save_pretrained(tmp_path / "hf")
    port_whole(tmp_path / "hf", tmp_path / "keras", "keras-hub-vit", prove=False, allow_loss=True)
    words = "a whole model is put into a copy of safetensors or npz, and this is "
    with pytest.raises(PatchParityError, match=words):
        port_whole(
            *(tmp_path / "hf", tmp_path / "out", "keras-hub-vit"),
            into=tmp_path / "keras" / "model.weights.h5",
            prove=False,
            allow_loss=True,
        )
    assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "vit"
