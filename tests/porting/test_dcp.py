"""Folders of torch.distributed, saved by two processes, read without torch.distributed."""

import copy
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from patchparity import PatchParityError, embed, inspect_checkpoint, port
from patchparity.porting.files.opening import opened

from .test_evidence import IMAGES, folder_of, vit

torch = pytest.importorskip("torch")

KERNEL = "embeddings.patch_embeddings.projection.weight"
HELD = vit()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    script = Path(__file__).with_name("dcp_writer.py")
    for _ in range(3):  # gloo's own threads abort a process now and then
        folder = tmp_path_factory.mktemp("dcp")
        safetensors.numpy.save_file(HELD, folder / "whole.safetensors")
        done = subprocess.run(
            [sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def refused(path):
    def read():
        with opened(path) as checkpoint:
            return [checkpoint.read(name) for name in checkpoint.tensors]

    with pytest.raises(PatchParityError) as raised:
        read()
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "prefix"), [("fsdp", "model."), ("columns", ""), ("files", ""), ("whole", "")]
)
def test_what_two_processes_saved_is_put_together(name, prefix, saved, tmp_path):
    with opened(saved / name) as checkpoint:
        for tensor, array in HELD.items():
            assert checkpoint.read(prefix + tensor).tobytes() == array.tobytes()
        for tensor in checkpoint.tensors:
            checkpoint.read(tensor)
    report = inspect_checkpoint(saved / name)
    assert report["dialect"] == "hf-vit"
    assert not report["refused"]
    expected = embed(folder_of(tmp_path / "held", HELD), IMAGES)
    assert (embed(saved / name, IMAGES) == expected).all()


def test_the_writers_cut_what_they_saved(saved):
    """The tests above would pass of tensors that one process held whole."""
    for name in ("fsdp", "columns", "files"):
        with opened(saved / name) as checkpoint:
            kernel = next(tensor for tensor in checkpoint.tensors if tensor.endswith(KERNEL))
            assert len(checkpoint.chunks[kernel]) == 2
            assert len({place.file for place in checkpoint.places.values()}) >= 2


def test_types_are_kept_and_moments_are_beside(saved):
    with opened(saved / "bfloat16") as checkpoint:
        for tensor, array in HELD.items():
            expected = array.astype(ml_dtypes.bfloat16)
            assert checkpoint.read(tensor).tobytes() == expected.tobytes()
    with opened(saved / "fsdp") as checkpoint:
        assert f"optim.state.{KERNEL}.exp_avg" in checkpoint.tensors
        assert checkpoint.read("list.1.a").shape == ()


def test_only_what_is_needed_is_read(saved, tmp_path):
    """Of the other process's file not a byte, where nothing of a tensor is in it."""
    folder = shutil.copytree(saved / "files", tmp_path / "files")
    with opened(folder) as checkpoint:
        needed = {checkpoint._stored(KERNEL, chunk).file for chunk in checkpoint.chunks[KERNEL]}
        for file in folder.glob("*.distcp"):
            if file.name not in needed:
                file.unlink()
        assert (checkpoint.read(KERNEL) == HELD[KERNEL]).all()


def test_it_is_ported_and_config_json_in_the_folder_counts(saved, tmp_path):
    folder = shutil.copytree(saved / "fsdp", tmp_path / "fsdp")
    report = port(folder, tmp_path / "timm.safetensors", "timm-vit", allow_loss=True)
    assert report.ok
    (folder / "config.json").write_text('{"model_type": "vit", "image_size": 999}')
    with pytest.raises(PatchParityError, match="not of an image of 999×999"):
        inspect_checkpoint(folder)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "__1_0.distcp"])
def test_a_file_of_the_folder_names_it(name, saved):
    if name == ".metadata":
        assert inspect_checkpoint(saved / "fsdp" / name)["dialect"] == "hf-vit"
    else:
        assert f"name its folder, {saved / 'fsdp'}" in refused(saved / "fsdp" / name)


def test_parts_that_tell_no_number_of_parts_are_refused(saved):
    parts = sorted((saved / "parts").glob("*.safetensors"))
    assert len(parts) == 2
    for path in (saved / "parts", *parts):
        assert "nothing in them tells how many there were" in refused(path)
    moved = shutil.copy(parts[1], saved / "model.safetensors")  # what begins within a tensor
    assert "is one of the parts" in refused(moved)


def test_another_serialization_is_refused(saved):
    assert "as torch.save does not" in refused(saved / "other")


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_packed_by_an_extension_is_refused(tmp_path):
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint._extension import StreamTransformExtension

    class Plain(StreamTransformExtension):
        @staticmethod
        def registry_name():
            return "stream.plain"

        @staticmethod
        def from_descriptor(version):
            return Plain()

        def get_descriptor(self):
            return "stream.plain/1"

        def transform_to(self, output):
            return output

        def transform_from(self, stream):
            return stream

    writer = dcp.FileSystemWriter(tmp_path / "x", _extensions=[Plain()])
    dcp.save({"a": torch.ones(2)}, storage_writer=writer, no_dist=True)
    assert "packed by an extension" in refused(tmp_path / "x")


def _change(metadata, what):
    """The metadata with one thing other."""
    told = copy.deepcopy(metadata)
    name = f"model.{KERNEL}"
    chunks = told.state_dict_metadata[name].chunks
    index = next(key for key in told.storage_data if key.fqn == name and sum(key.offset))
    place = told.storage_data[index]
    if what == "outside":
        place.relative_path = "../fsdp/__1_0.distcp"
    elif what == "missing":
        place.relative_path = "__7_0.distcp"
    elif what == "beyond":
        place.length += 10**6
    elif what == "no place":
        del told.storage_data[index]
    elif what == "uncovered":
        del chunks[1]
    elif what == "overlap":
        chunks.append(chunks[1])
    elif what == "reaches":
        told.state_dict_metadata[name].size = torch.Size(
            [5, *told.state_dict_metadata[name].size[1:]]
        )
    elif what == "another":
        of_bias = next(key for key in told.storage_data if key.fqn.endswith("projection.bias"))
        told.storage_data[index] = told.storage_data[of_bias]
    elif what == "huge":
        told.state_dict_metadata[name].size = torch.Size([2**40, 3, 4, 4])
    elif what == "types":
        told.state_dict_metadata[name].properties.dtype = torch.float64
    return told


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("outside", "which is no file of this folder"),
        ("missing", "names __7_0.distcp, in which a part of"),
        ("beyond", "claims bytes"),
        ("no place", "nothing tells where the chunk"),
        ("uncovered", "values"),
        ("overlap", "lie over one another"),
        ("reaches", "reaches beyond its shape"),
        ("another", "should be"),
        ("huge", "bytes"),
        ("types", "should be"),
    ],
)
def test_what_does_not_fit_together_is_refused(what, why, saved, tmp_path):
    folder = shutil.copytree(saved / "fsdp", tmp_path / "fsdp")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    (folder / ".metadata").write_bytes(pickle.dumps(_change(metadata, what)))
    message = refused(folder)
    assert why in message
    assert KERNEL in message
    assert str(folder) in message


def test_a_lost_file_is_named(saved, tmp_path):
    folder = shutil.copytree(saved / "fsdp", tmp_path / "fsdp")
    (folder / "__1_0.distcp").unlink()
    assert "names __1_0.distcp" in refused(folder)


class _Runs:
    def __reduce__(self):
        return (Path("run").write_text, ("yes",))


def test_nothing_of_the_metadata_is_run(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(saved / "fsdp", tmp_path / "fsdp")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.planner_data = _Runs()
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert str(folder) in refused(folder)
    metadata.planner_data = eval
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "nothing of it was run" in refused(folder)
    assert not (tmp_path / "run").exists()
    for content in (b"", b"{}", pickle.dumps({"a": 1}), pickle.dumps(np.int64)):
        (folder / ".metadata").write_bytes(content)
        assert str(folder) in refused(folder)


def test_a_flipped_value_is_seen(saved, tmp_path):
    folder = shutil.copytree(saved / "fsdp", tmp_path / "fsdp")
    content = bytearray((folder / "__0_0.distcp").read_bytes())
    at = content.find(HELD[KERNEL].tobytes()[:64])
    assert at > 0
    content[at + 5] ^= 1
    (folder / "__0_0.distcp").write_bytes(content)
    assert KERNEL in refused(folder)
