"""Copies of existing checkpoints with their embedding stage replaced: torch's files where they lie,
and shards."""

import json
import zipfile

import numpy as np
import pytest

from patchparity import PatchParityError, port, verify
from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.files.opening import opened
from patchparity.porting.files.writing import replace_tensors, write_checkpoint

from .test_dialects import random_stage, tensors_of, written

HF, TIMM = list_dialects()["hf-vit"], list_dialects()["timm-vit"]


def content_of(path):
    with opened(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def changed_in(path, before):
    after = content_of(path)
    assert set(after) == set(before)
    return {name for name in after if after[name].tobytes() != before[name].tobytes()}


def stage_tensors(seed, dialect=HF, prefix="vit."):
    weights, spec = random_stage(dialect, seed)
    return tensors_of(weights, spec, dialect, prefix)


@pytest.mark.parametrize("new", [True, False], ids=["archive", "before 1.6"])
def test_a_torch_file_keeps_everything_else(tmp_path, new):
    torch = pytest.importorskip("torch")
    existing = {name: torch.from_numpy(array) for name, array in stage_tensors(1).items()}
    kernel = "vit.embeddings.patch_embeddings.projection.weight"
    # a view whose values lie in another order
    existing[kernel] = existing[kernel].to(memory_format=torch.channels_last)
    existing["classifier.weight"] = torch.randn(7, 24)
    torch.save(
        {"state_dict": existing, "epoch": 3, "args": {"lr": 0.1}},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=new,
    )
    before = content_of(tmp_path / "old.pth")
    source, _, _ = written(TIMM, tmp_path, seed=3)
    done = port(source, tmp_path / "new.pth", "hf-vit", into=tmp_path / "old.pth", allow_loss=True)
    assert changed_in(tmp_path / "new.pth", before) == set(done.tensors)
    assert all(name.startswith("state_dict.vit.embeddings.") for name in done.tensors)
    loaded = torch.load(tmp_path / "new.pth", weights_only=True)
    assert (loaded["epoch"], loaded["args"]) == (3, {"lr": 0.1})
    assert (
        loaded["state_dict"][kernel].numpy()
        == content_of(tmp_path / "new.pth")[f"state_dict.{kernel}"]
    ).all()
    assert loaded["state_dict"][kernel].stride() == existing[kernel].stride()
    if new:
        with zipfile.ZipFile(tmp_path / "new.pth") as archive:
            assert archive.testzip() is None, "checksums are those of the new content"
        assert (
            torch.load(tmp_path / "new.pth", mmap=True)["state_dict"]["classifier.weight"]
            == existing["classifier.weight"]
        ).all()


def test_a_torchscript_archive_keeps_its_code(tmp_path):
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Conv2d(3, 10, 4, 4)

        def forward(self, images):
            return self.proj(images).flatten(2).transpose(1, 2)

    torch.jit.save(torch.jit.script(Model()), tmp_path / "old.pt")
    new = np.random.default_rng(0).standard_normal((10, 3, 4, 4)).astype(np.float32)
    with opened(tmp_path / "old.pt") as checkpoint:
        replace_tensors(checkpoint, tmp_path / "new.pt", {"proj.weight": new})
    model = torch.jit.load(tmp_path / "new.pt")
    assert (model.proj.weight.detach().numpy() == new).all()
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 10)


def test_what_a_torch_file_has_no_place_for(tmp_path):
    torch = pytest.importorskip("torch")
    table = torch.randn(12, 24)
    tied, parts = torch.randn(5, 4), torch.randn(6, 2)
    held = {
        "a": table,
        "b": table[4:],
        "tied": tied,
        "too": tied,
        "first": parts[:3],
        "last": parts[3:],
    }
    torch.save(held, tmp_path / "old.pt")
    with opened(tmp_path / "old.pt") as checkpoint:
        for changes, message in (
            ({"d": np.zeros((2, 2), np.float32)}, r"has no place for d .* it holds nothing"),
            (
                {"a": np.zeros((12, 25), np.float32)},
                r"it holds one of shape \(12, 24\) and type float32",
            ),
            (
                {"a": np.zeros((12, 24), np.float16)},
                r"it holds one of shape \(12, 24\) and type float32",
            ),
            (
                {"a": np.zeros((12, 24), np.float32)},
                "a shares its values with b, which would change with it",
            ),
        ):
            with pytest.raises(PatchParityError, match=message):
                replace_tensors(checkpoint, tmp_path / "new.pt", changes)
        assert not (tmp_path / "new.pt").exists()
        new = np.ones((5, 4), np.float32)
        replace_tensors(
            checkpoint, tmp_path / "new.pt", {"tied": new, "too": new, "last": new[:3, :2]}
        )
    assert changed_in(tmp_path / "new.pt", content_of(tmp_path / "old.pt")) == {
        "tied",
        "too",
        "last",
    }


def shards_of(folder, tensors, count=3):
    folder.mkdir()
    names, total = list(tensors), 0
    weight_map = {}
    for number in range(count):
        held = {name: tensors[name] for name in names[number::count]}
        shard = f"model-{number + 1:05}-of-{count:05}.safetensors"
        write_checkpoint(folder / shard, held)
        weight_map.update(dict.fromkeys(held, shard))
        total += sum(array.nbytes for array in held.values())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index


def test_shards_are_copied_with_their_index(tmp_path):
    others = {
        f"vit.encoder.layer.{number}.weight": np.full((5, 3), number, np.float32)
        for number in range(7)
    }
    index = shards_of(tmp_path / "old", {**stage_tensors(1), **others})
    before, source = content_of(index), written(TIMM, tmp_path, seed=3)[0]
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / index.name
    done = port(source, target, "hf-vit", into=tmp_path / "old", allow_loss=True)
    assert changed_in(target, before) == set(done.tensors)
    assert json.loads(target.read_text()) == json.loads(index.read_text())
    assert sorted(path.name for path in target.parent.iterdir()) == sorted(
        path.name for path in index.parent.iterdir()
    )
    assert verify(source, target, from_=(None, "hf-vit")).checks
    with pytest.raises(
        PatchParityError,
        match=r"holds model-00001-of-00003.safetensors already: name the index in a folder without",
    ):
        port(source, target, "hf-vit", into=tmp_path / "old", allow_loss=True)
    assert content_of(index).keys() == before.keys()


def test_tensors_that_shards_lack_are_added_and_counted(tmp_path):
    tensors = stage_tensors(1)
    index = shards_of(tmp_path / "old", tensors)
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / index.name
    kernel = "vit.embeddings.patch_embeddings.projection.weight"
    with opened(index) as checkpoint:
        replace_tensors(
            checkpoint, target, {kernel: tensors[kernel] + 1, "extra": np.ones((2, 3), np.float32)}
        )
    found, old = json.loads(target.read_text()), json.loads(index.read_text())
    assert found["weight_map"]["extra"] == found["weight_map"][kernel]
    assert found["metadata"]["total_size"] == old["metadata"]["total_size"] + 24
    assert (content_of(target)["extra"] == 1).all()


def test_names_that_do_not_fit_what_is_copied(tmp_path):
    index = shards_of(tmp_path / "old", stage_tensors(1))
    single, source = tmp_path / "one.safetensors", written(TIMM, tmp_path, seed=3)[0]
    write_checkpoint(single, stage_tensors(2))
    with pytest.raises(
        PatchParityError,
        match=r"is of shards, and .* expected a name that ends in .safetensors.index.json",
    ):
        port(source, tmp_path / "new.safetensors", "hf-vit", into=index, allow_loss=True)
    with pytest.raises(
        PatchParityError, match=r"is of one file, and .* expected a name that ends in .safetensors$"
    ):
        port(
            source, tmp_path / "new.safetensors.index.json", "hf-vit", into=single, allow_loss=True
        )
    with pytest.raises(
        PatchParityError, match="is written to one file, shards only as a copy of others"
    ):
        port(source, tmp_path / "new.safetensors.index.json", "timm-vit")


def test_a_copy_of_shards_that_fails_leaves_nothing_to_be_read(tmp_path):
    index = shards_of(tmp_path / "old", stage_tensors(1))
    (tmp_path / "new").mkdir()

    def broken(draft):
        raise PatchParityError("the proof failed")

    kernel = "vit.embeddings.patch_embeddings.projection.weight"
    changes = {kernel: stage_tensors(2)[kernel]}
    with opened(index) as checkpoint, pytest.raises(PatchParityError, match="the proof failed"):
        replace_tensors(checkpoint, tmp_path / "new" / index.name, changes, broken)
    assert list((tmp_path / "new").iterdir()) == []
