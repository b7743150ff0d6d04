"""Flax NNX: what vitax's ViT, which is that of Flax's documentation, has saved through Orbax goes
to other libraries and back, and is diagnosed live."""

import json
import os

import numpy as np
import pytest

from patchparity import PatchParityError, diagnose_model, inspect_checkpoint, port_whole
from patchparity.porting.files.opening import opened
from patchparity.porting.whole.read import read_whole

from . import vitax_beside

pytest.importorskip("orbax.checkpoint")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDE, PATCH, WIDTH, HEADS, DEPTH, HIDDEN, CLASSES = 24, 6, 32, 4, 3, 40, 5
IMAGES = np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 3))
GIVEN = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))
ARGUMENTS = {
    "num_classes": CLASSES,
    "img_size": SIDE,
    "patch_size": PATCH,
    "num_layers": DEPTH,
    "num_heads": HEADS,
    "mlp_dim": HIDDEN,
    "hidden_size": WIDTH,
}


def vit(seed=0, **arguments):
    kind = vitax_beside.vision_transformer()
    from flax import nnx

    model = kind(**{**ARGUMENTS, **arguments}, fsdp=False, rngs=nnx.Rngs(seed))
    return vitax_beside.grown(model, seed)


@pytest.fixture
def saved(tmp_path):
    model = vit()
    vitax_beside.save(model, tmp_path / "nnx", "parameters")
    return model, tmp_path / "nnx"


@pytest.mark.parametrize("how", ["whole", "parameters", "pure"])
def test_it_is_read_in_every_way_in_which_it_is_saved(tmp_path, how):
    model = vit()
    vitax_beside.save(model, tmp_path / "nnx", how)
    with opened(tmp_path / "nnx") as file:
        whole = read_whole(file)
    assert whole.found.layout.id == "nnx-vit"
    assert whole.found.depth == DEPTH
    told = [
        whole.semantics[name] for name in ("num_heads", "norm_epsilon", "activation", "pooling")
    ]
    assert told == [HEADS, 1e-6, "gelu-tanh", "class"]
    report = port_whole(tmp_path / "nnx", tmp_path / "hf", "hf-vit")
    assert report.ok, report.lines()
    assert not [name for name in report.left if "rngs" not in name]
    loaded = transformers.ViTForImageClassification.from_pretrained(tmp_path / "hf").double()
    with torch.no_grad():
        output = loaded.eval()(GIVEN).logits.numpy()
    wanted = vitax_beside.run(model, IMAGES)
    assert np.abs(output - wanted).max() / np.abs(wanted).max() < 1e-6


def test_it_comes_back_as_it_was(tmp_path, saved):
    folder = saved[1]
    port_whole(folder, tmp_path / "hf", "hf-vit")
    report = port_whole(tmp_path / "hf", tmp_path / "back", "nnx-vit")
    assert report.ok, report.lines()
    proved = [check for check in report.checks if check.name.startswith("target")]
    assert [check.verdict for check in proved] == ["pass"], proved
    assert "vitax" in proved[0].message
    with opened(folder) as one, opened(tmp_path / "back" / "model.orbax") as other:
        assert one.tensors == other.tensors
        for name in one.tensors:
            assert (one.read(name) == other.read(name)).all(), name


def code_of(loads):
    """The code in the line that the report gives."""
    return loads.partition(", where model is")[0]


def test_what_is_written_is_loaded_as_the_report_says(tmp_path, monkeypatch):
    """Of a transformers ViT with what NNX computes: tanh GELU, ε 1e-6."""
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        image_size=SIDE,
        patch_size=PATCH,
        num_channels=4,
        num_labels=CLASSES,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
    )
    torch.manual_seed(3)
    source = transformers.ViTForImageClassification(config).eval()
    source.save_pretrained(tmp_path / "hf")
    report = port_whole(tmp_path / "hf", tmp_path / "nnx", "nnx-vit")
    assert report.ok, report.lines()
    import flax.nnx
    import orbax.checkpoint

    monkeypatch.chdir(tmp_path)  # orbax takes no relative path
    code = code_of(report.loads.replace(str(tmp_path), "."))

    arguments = json.loads((tmp_path / "nnx" / "config.json").read_text())["arguments"]
    kind = vitax_beside.vision_transformer()
    model = kind(**arguments, fsdp=False)
    eval(code, {"flax": flax, "orbax": orbax, "os": os, "model": model})
    images = np.random.default_rng(4).standard_normal((2, SIDE, SIDE, 4))
    with torch.no_grad():
        wanted = source.double()(torch.from_numpy(images.transpose(0, 3, 1, 2))).logits.numpy()
    output = vitax_beside.run(model, images)
    assert np.abs(output - wanted).max() / np.abs(wanted).max() < 1e-6


def test_what_it_cannot_compute_is_refused(tmp_path):
    """vitax itself loads this model, and computes another."""
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": HIDDEN}
    config = transformers.ViTConfig(**sizes, num_hidden_layers=2, image_size=SIDE, patch_size=PATCH)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "hf")
    with pytest.raises(PatchParityError, match=r"Flax NNX .*(gelu|ε)"):
        port_whole(tmp_path / "hf", tmp_path / "nnx", "nnx-vit")
    assert not (tmp_path / "nnx").exists()


def test_the_folder_that_it_lies_in_is_read_and_built(tmp_path, saved):
    """As the README's commands name it."""
    port_whole(saved[1], tmp_path / "hf", "hf-vit")
    port_whole(tmp_path / "hf", tmp_path / "in-nnx", "nnx-vit")
    report = port_whole(tmp_path / "in-nnx", tmp_path / "again", "hf-vit")
    proved = [check for check in report.checks if check.name.startswith("source")]
    assert [check.verdict for check in proved] == ["pass"], proved
    assert diagnose_model(tmp_path / "in-nnx", tmp_path / "hf").correct
    for name in ("model.safetensors", "model.npz", "model.msgpack"):
        with pytest.raises(PatchParityError, match=r"restored from a folder of Orbax|is kept in"):
            port_whole(tmp_path / "hf", tmp_path / name, "nnx-vit")


def test_inspect_names_it(saved):
    told = json.dumps(inspect_checkpoint(saved[1]), default=str)
    assert '"nnx-vit"' in told
    assert '"proof": null' in told


def test_a_live_one_is_held_against_its_file(saved):
    model, folder = saved
    report = diagnose_model(model, folder)
    assert report.correct, report.lines()
    block = model.encoder.layers[1]
    block.norm1, block.norm2 = block.norm2, block.norm1
    report = diagnose_model(model, folder)
    assert not report.correct
    assert "block 1" in "\n".join(report.lines())
    assert "norms are exchanged" in "\n".join(report.lines())


def test_images_that_are_not_square_are_refused(tmp_path):
    """Its class has one number for both sides."""
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=HIDDEN,
        image_size=(24, 36),
        patch_size=PATCH,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "hf")
    with pytest.raises(PatchParityError, match="square image size"):
        port_whole(tmp_path / "hf", tmp_path / "nnx", "nnx-vit", prove=False)
    assert not (tmp_path / "nnx").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("img_size", 64), ("in_channels", 1), ("patch_size", 12), ("num_heads", 2), ("num_layers", 2)],
)
def test_its_configuration_is_held_against_its_tensors(tmp_path, saved, key, value):
    port_whole(saved[1], tmp_path / "moved", "nnx-vit", prove=False)
    table = json.loads((tmp_path / "moved" / "config.json").read_text())
    table["arguments"][key] = value
    (tmp_path / "moved" / "config.json").write_text(json.dumps(table))
    with pytest.raises(PatchParityError):
        port_whole(tmp_path / "moved", tmp_path / "hf", "hf-vit", prove=False)


def changed(place, **settings):
    config = place / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))


def test_a_configuration_of_another_library_is_refused_by_its_name(tmp_path, saved):
    port_whole(saved[1], tmp_path / "moved", "nnx-vit", prove=False)
    changed(tmp_path / "moved", library="haiku")
    with pytest.raises(PatchParityError, match=r"calls it 'haiku\.VisionTransformer', of which"):
        port_whole(tmp_path / "moved", tmp_path / "hf", "hf-vit", prove=False)


def test_arguments_that_are_none_are_told_in_words(tmp_path, saved):
    port_whole(saved[1], tmp_path / "moved", "nnx-vit", prove=False)
    changed(tmp_path / "moved", arguments=[8])
    report = port_whole(tmp_path / "moved", tmp_path / "hf", "hf-vit")
    assert "config.json has no arguments for VisionTransformer" in str(report)


def test_inspect_says_how_its_library_is_asked(tmp_path, saved):
    port_whole(saved[1], tmp_path / "moved", "nnx-vit", prove=False)
    told = inspect_checkpoint(tmp_path / "moved", prove=True)["proof"]["message"]
    assert "is of a class of flax.nnx, which is run as a whole model (port --whole)" in told


def test_nothing_is_written_into_a_folder_of_orbax_that_is_read(tmp_path, saved):
    port_whole(saved[1], tmp_path / "moved", "nnx-vit", prove=False)
    before = sorted(path for path in tmp_path.rglob("*"))
    place = tmp_path / "moved" / "model.orbax"
    inside = ((place, "nnx-vit"), (place / "d", "hf-vit"), (place / "deep" / "x", "hf-vit"))
    for source in (tmp_path / "moved", place):
        for target, to in inside:
            with pytest.raises(PatchParityError, match="is a checkpoint, which is read"):
                port_whole(source, target, to, prove=False)
    assert sorted(path for path in tmp_path.rglob("*")) == before
