"""What transformers 4 wrote in Flax and TensorFlow, which transformers 5 reads no more: its own
files where it is installed beside, and files by the names that it gave, held against torch."""

import json
from pathlib import Path

import numpy as np
import pytest

from patchparity import PatchParityError, embed, port
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import open_checkpoint
from patchparity.porting.inspection import inspect_checkpoint

from .npz_arrays import arrays_of
from .transformers4_beside import written_beside

GENERATOR = np.random.default_rng(41)
D, P, C = 36, 6, 3
NEAR = 1e-5


def rows(*shape):
    return (0.3 * GENERATOR.standard_normal(shape)).astype(np.float32)


def apart(found, tokens):
    assert found.shape == tokens.shape
    return np.abs(found - tokens).max() / np.abs(tokens).max()


@pytest.mark.filterwarnings("ignore:.*the grid is assumed.*:UserWarning")
def test_what_it_wrote_itself_is_read(tmp_path):
    folders = written_beside(tmp_path)
    assert len(folders) == 3 * (6 + 13)
    for folder in folders:
        truth = arrays_of(folder / "truth.npz")
        assert apart(embed(folder, truth["images"]), truth["tokens"]) < NEAR, folder.name
        with open_checkpoint(folder) as checkpoint:
            dialect = read_stage(checkpoint).dialect.id
        assert dialect.startswith("hf-"), (folder.name, dialect)
        assert ("-flax" in dialect) == folder.name.startswith("flax-")


def tower(head="scale", shift="bias", end="", between="/"):
    """The tensors of a ViT by the names of its parts, and its sequence of images."""
    kernel, bias, token, table = rows(P, P, C, D), rows(D), rows(1, 1, D), rows(1, 17, D)
    held = {
        f"embeddings/patch_embeddings/projection/kernel{end}": kernel,
        f"embeddings/patch_embeddings/projection/bias{end}": bias,
        f"embeddings/cls_token{end}": token,
        f"embeddings/position_embeddings{end}": table,
        f"layernorm/{head}{end}": rows(D),
        f"layernorm/{shift}{end}": rows(D),
        f"pooler/dense/kernel{end}": rows(D, D),
        f"pooler/dense/bias{end}": rows(D),
    }
    layer = "encoder/layer_._0" if end else "encoder/layer/0"
    for part in ("attention/attention/query", "attention/output/dense", "intermediate/dense"):
        held[f"{layer}/{part}/kernel{end}"] = rows(D, D)
        held[f"{layer}/{part}/bias{end}"] = rows(D)
    for part in ("layernorm_before", "layernorm_after"):
        held[f"{layer}/{part}/{head}{end}"] = rows(D)
        held[f"{layer}/{part}/{shift}{end}"] = rows(D)

    def sequence(images):
        """NumPy alone: patches of 6×6 that tile images (B, C, 24, 24)."""
        batch = len(images)
        cut = images.reshape(batch, C, 4, P, 4, P).transpose(0, 2, 4, 3, 5, 1)
        tokens = cut.reshape(batch, 16, -1) @ kernel.reshape(-1, D) + bias
        first = np.broadcast_to(token, (batch, 1, D))
        return np.concatenate([first, tokens], 1) + table

    return {name.replace("/", between): values for name, values in held.items()}, sequence


def images_of(side=24):
    return GENERATOR.standard_normal((2, C, side, side)).astype(np.float32)


def config(folder, model_type="vit"):
    content = {"model_type": model_type, "image_size": 24, "patch_size": P, "num_channels": C}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def write_h5(path, held):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, values in held.items():
            file[name] = values


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "before", ["vit/vit/", "vit/tf_vi_t_model/vit/", "encoder/tf_vi_t_model_3/vit/"]
)
def test_names_of_tensorflow_stand_behind_those_of_the_model(before, told, tmp_path):
    held, sequence = tower("gamma", "beta", ":0")
    named = {before + name: values for name, values in held.items()}
    named["classifier/classifier/kernel:0"] = rows(D, 5)
    write_h5(tmp_path / "tf_model.h5", named)
    if told:
        config(tmp_path)
    images = images_of()
    assert apart(embed(tmp_path, images), sequence(images)) < NEAR
    with open_checkpoint(tmp_path) as checkpoint:
        stage = read_stage(checkpoint)
    assert (stage.dialect.id, stage.candidate.prefix) == ("hf-vit-tf", before)


@pytest.mark.parametrize("between", ["/", "."])
def test_names_of_flax(between, tmp_path):
    held, sequence = tower(between=between)
    if between == "/":
        serialization = pytest.importorskip("flax.serialization")
        traverse = pytest.importorskip("flax.traverse_util")
        tree = traverse.unflatten_dict(held, sep="/")
        (tmp_path / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
    else:
        numpy = pytest.importorskip("safetensors.numpy")
        numpy.save_file(held, tmp_path / "model.safetensors", {"format": "flax"})
    config(tmp_path)
    images = images_of()
    assert apart(embed(tmp_path, images), sequence(images)) < NEAR


def test_safetensors_of_tensorflow_lost_the_names_of_the_model_and_of_the_head(tmp_path):
    """`strip_model_name_and_prefix` takes the first part of every name; of a model that `build`
    made, the head's only one."""
    numpy = pytest.importorskip("safetensors.numpy")
    held, sequence = tower("gamma", "beta", ":0")
    held |= {"kernel:0": rows(D, 5), "bias:0": rows(5)}
    numpy.save_file(held, tmp_path / "model.safetensors", {"format": "tf"})
    config(tmp_path)
    images = images_of()
    assert apart(embed(tmp_path, images), sequence(images)) < NEAR


@pytest.mark.parametrize("ending", ["h5", "safetensors"])
def test_shards_of_tensorflow_have_other_names_than_their_index(ending, tmp_path):
    held, sequence = tower("gamma", "beta", ":0")
    named = {f"vit/{name}": values for name, values in held.items()}
    shards = [dict(list(named.items())[:3]), dict(list(named.items())[3:])]
    places = {}
    for number, shard in enumerate(shards, 1):
        stem = "tf_model" if ending == "h5" else "model"
        file = f"{stem}-{number:05d}-of-00002.{ending}"
        places |= {f"tf_vi_t_model/{name}": file for name in shard}
        if ending == "h5":
            write_h5(tmp_path / file, shard)
        else:
            numpy = pytest.importorskip("safetensors.numpy")
            numpy.save_file(shard, tmp_path / file, {"format": "tf"})
    index = tmp_path / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    config(tmp_path)
    images = images_of()
    assert apart(embed(tmp_path, images), sequence(images)) < NEAR
    places["tf_vi_t_model/vit/more:0"] = file
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    with pytest.raises(PatchParityError, match=r"'tf_vi_t_model/vit/more:0' should be in"):
        open_checkpoint(tmp_path)
    places.pop("tf_vi_t_model/vit/more:0")
    first = next(iter(shards[0]))
    places[f"another/{first}"] = places[f"tf_vi_t_model/{first}"]
    index.write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    with pytest.raises(PatchParityError, match="stands there twice"):
        open_checkpoint(tmp_path)


def test_another_model_s_names_are_refused(tmp_path):
    held, _ = tower("gamma", "beta", ":0")
    write_h5(tmp_path / "tf_model.h5", {f"vit/vit/{name}": each for name, each in held.items()})
    config(tmp_path, "dinov2")
    with pytest.raises(PatchParityError, match=r"config\.json calls the model 'dinov2'"):
        embed(tmp_path, images_of())


def test_a_tensor_that_nothing_explains_is_refused(tmp_path):
    held, _ = tower("gamma", "beta", ":0")
    held["embeddings/more_positions:0"] = rows(1, 17, D)
    write_h5(tmp_path / "tf_model.h5", {f"vit/vit/{name}": each for name, each in held.items()})
    refused = inspect_checkpoint(tmp_path / "tf_model.h5")["refused"]
    assert "more_positions" in refused
    with pytest.raises(PatchParityError, match="more_positions:0"):
        embed(tmp_path / "tf_model.h5", images_of())


@pytest.mark.parametrize("file", ["flax_model.msgpack", "model.safetensors"])
def test_a_stage_of_torch_is_written_with_flax_s_names(file, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.ViTModel(
        transformers.ViTConfig(
            hidden_size=D, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20,
            image_size=24, patch_size=P,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rows(*parameter.shape)))
    model.save_pretrained(tmp_path / "torch")
    target = tmp_path / file
    dialect = "hf-vit-flax" + ("" if Path(file).suffix == ".msgpack" else "-safetensors")
    port(tmp_path / "torch", target, to=dialect)
    images = images_of()
    with torch.no_grad():
        expected = model.embeddings(torch.from_numpy(images)).numpy()
    assert apart(embed(target, images, from_=dialect), expected) < NEAR
