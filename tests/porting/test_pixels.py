"""Models that normalize images themselves, positions that are looked up by row and column, and
configurations as Keras writes them."""

import json
import zipfile

import numpy as np
import pytest

from patchparity import PatchParityError, Sizes, embed, inspect_checkpoint, port
from patchparity.porting.dialects.catalogue import read_dialects
from patchparity.porting.files.writing import write_checkpoint


def gemma(folder, dtype=np.float32):
    """A file as transformers' Gemma 4 has it: patches of 4 pixels, tables of 7 rows."""
    folder.mkdir()
    random = np.random.default_rng(0)
    kernel, tables = (
        random.standard_normal((10, 48)).astype(dtype),
        random.standard_normal((2, 7, 10)).astype(dtype),
    )
    named = {"input_proj.weight": kernel, "position_embedding_table": tables}
    write_checkpoint(
        folder / "model.safetensors",
        {f"vision_tower.patch_embedder.{name}": each for name, each in named.items()},
    )
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gemma4_vision", "patch_size": 4})
    )
    return folder, kernel, tables


def test_pixels_are_normalized_and_positions_looked_up_as_the_model_does(tmp_path):
    folder, kernel, tables = gemma(tmp_path / "model")
    images = np.random.default_rng(1).random((2, 3, 12, 20)).astype(np.float32)
    patches = images.reshape(2, 3, 3, 4, 5, 4).transpose(0, 2, 4, 3, 5, 1).reshape(2, 15, 48)
    row, column = np.divmod(np.arange(15), 5)
    wanted = (
        (2 * (patches - 0.5)).astype(np.float64) @ kernel.T + tables[0][column] + tables[1][row]
    )
    found = embed(folder, images, sizes=Sizes.told(image_size=(12, 20)))
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_grid_that_the_tables_do_not_have_is_refused_and_none_is_assumed(tmp_path):
    folder, *_ = gemma(tmp_path / "model")
    with pytest.raises(
        PatchParityError, match="nothing tells the image size: --image-size says it"
    ):
        port(folder, tmp_path / "a.safetensors", "timm-vit")
    sizes = Sizes.told(image_size=(12, 32))
    with pytest.raises(
        PatchParityError,
        match=r"3×8 patches have more rows or columns than the 7 of .*position_embedding_table",
    ):
        port(folder, tmp_path / "a.safetensors", "timm-vit", sizes=sizes)
    assert not (tmp_path / "a.safetensors").exists()


def test_a_port_says_that_the_target_normalizes_nothing(tmp_path):
    folder, *_ = gemma(tmp_path / "model")
    done = port(
        folder, tmp_path / "a.safetensors", "timm-vit", sizes=Sizes.told(image_size=(12, 20))
    )
    assert done.steps[0].startswith("pixels less 0.5, by 0.5: its model normalizes images itself")
    with pytest.raises(PatchParityError, match="is read and not written"):
        port(
            tmp_path / "a.safetensors",
            tmp_path / "b.safetensors",
            "hf-gemma4",
            sizes=Sizes.told(image_size=(12, 20)),
        )


@pytest.mark.parametrize(
    "change",
    [
        "pixels = {mean = [0.5], std = [0.0]}",
        "pixels = {mean = [0.5, 0.5], std = [0.5]}",
        "pixels = {mean = [0.5]}",
        "pixels = [2.0, -1.0]",
        "padding = 2\npixels = {mean = [0.5], std = [0.5]}",
    ],
)
def test_pixels_of_a_dialect_are_whole(tmp_path, change):
    told = (
        '[own]\ntitle = "own"\nframework = "torch"\nformats = '
        f'["torch"]\n{change}\n[own.tensors]\nkernel = ["w", "D C Ph Pw"]\n'
    )
    (tmp_path / "own.toml").write_text(told)
    with pytest.raises(PatchParityError, match="pixels"):
        read_dialects(tmp_path / "own.toml")


def keras_file(path, **told):
    """An archive as KerasHub's ViT has it: patches of 4 pixels, a grid of 3×5, its configuration
    within."""
    h5py = pytest.importorskip("h5py")
    random = np.random.default_rng(2)
    shapes = {
        "patch_embedding/vars/0": (4, 4, 3, 10),
        "patch_embedding/vars/1": (10,),
        "vars/0": (1, 1, 10),
    }
    shapes["position_embedding/vars/0"] = (16, 10)
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        for name, shape in shapes.items():
            file[f"layers/vi_t_patching_and_embedding/{name}"] = random.standard_normal(
                shape
            ).astype("float32")
    config = {"image_shape": [12, 20, 3], "patch_size": [4, 4], "use_class_token": True, **told}
    table = {
        "module": "keras_hub.src.models.vit.vit_backbone",
        "class_name": "ViTBackbone",
        "config": config,
    }
    table["registered_name"] = "keras_hub>ViTBackbone"
    whole = {
        "class_name": "ViTImageClassifier",
        "registered_name": "keras_hub>ViTImageClassifier",
        "config": {"backbone": table},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(whole))
        archive.write(path.with_suffix(".h5"), "model.weights.h5")
    return path


def test_the_configuration_within_a_keras_archive_is_evidence(tmp_path):
    told = inspect_checkpoint(keras_file(tmp_path / "model.keras"), prove=False)
    assert told["dialect"] == "keras-hub-vit"
    assert told["spec"]["grid"] == [3, 5]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (
            {"patch_size": [8, 8]},
            r"model\.keras:config\.json tells patch 8×8, and .*patch_embedding/vars/0 .* has 4×4",
        ),
        ({"image_shape": [12, 20, 4]}, r"tells channels 4, and .* has 3"),
        (
            {"image_shape": [16, 16, 3]},
            r"its 16 positions are not of an image of 16×16 .*model\.keras:config\.json tells it",
        ),
        (
            {"use_class_token": False},
            r"says that use_class_token is false, and a class token is in the file",
        ),
    ],
)
def test_a_keras_configuration_that_contradicts_is_refused(tmp_path, told, words):
    with pytest.raises(PatchParityError, match=words):
        embed(keras_file(tmp_path / "model.keras", **told), np.zeros((2, 3, 12, 20), np.float32))


def test_sums_of_16_bit_tables_are_not_rounded_again(tmp_path):
    import ml_dtypes

    folder, kernel, tables = gemma(tmp_path / "model", ml_dtypes.bfloat16)
    images = np.random.default_rng(1).random((2, 3, 12, 20)).astype(np.float32)
    patches = images.reshape(2, 3, 3, 4, 5, 4).transpose(0, 2, 4, 3, 5, 1).reshape(2, 15, 48)
    row, column = np.divmod(np.arange(15), 5)
    kernel, tables = kernel.astype(np.float64), tables.astype(np.float64)
    wanted = (2 * (patches - 0.5)) @ kernel.T + tables[0][column] + tables[1][row]
    found = embed(folder, images, sizes=Sizes.told(image_size=(12, 20)))
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_of_two_keras_models_that_differ_the_configuration_tells_nothing(tmp_path):
    path = keras_file(tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        whole = json.loads(archive.read("config.json"))
    other = json.loads(json.dumps(whole["config"]["backbone"]))
    other["config"]["patch_size"] = [8, 8]
    whole["config"]["other"] = other
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(whole))
        archive.write(path.with_suffix(".h5"), "model.weights.h5")
    told = inspect_checkpoint(path, prove=True, sizes=Sizes.told(image_size=(12, 20)))
    assert told["proof"]["verdict"] == "skip"
    assert "does not tell which model of KerasHub it is" in told["proof"]["message"]


def test_a_keras_class_that_is_not_the_dialect_s_is_a_contradiction(tmp_path):
    path = keras_file(tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        text = archive.read("config.json").decode().replace("ViTBackbone", "DINOV3Backbone")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", text)
        archive.write(path.with_suffix(".h5"), "model.weights.h5")
    with pytest.raises(
        PatchParityError,
        match="calls the architecture 'keras_hub>DINOV3Backbone', which is none of keras-hub-vit",
    ):
        embed(path, np.zeros((2, 3, 12, 20), np.float32), sizes=Sizes.told(image_size=(12, 20)))


def test_a_convolution_of_keras_is_padded_as_its_layout_says():
    keras = pytest.importorskip("keras")
    assert keras
    from patchparity.porting.proof.run_layout import run
    from patchparity.reference.embed import patch_embed
    from patchparity.reference.spec import PatchEmbedSpec
    from patchparity.reference.weights import PatchEmbedWeights

    spec = PatchEmbedSpec((10, 14), (5, 4), 3, 6, (3, 2), (2, 1))
    random = np.random.default_rng(0)
    images, kernel = (
        random.standard_normal(spec.images_shape(2)).astype("float32"),
        random.standard_normal(spec.kernel_shape),
    )
    found = run(
        "keras", "Ph Pw C D", images, kernel.transpose(1, 2, 3, 0).astype("float32"), None, spec
    )
    wanted = patch_embed(images, PatchEmbedWeights(kernel.astype("float32")), spec)
    assert np.abs(found - wanted).max() < 1e-4
