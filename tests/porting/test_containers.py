"""Containers: shards of every kind, what lies beside tensors, and files whose headers claim what is
not there."""

import collections
import datetime
import enum
import functools
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint
from patchparity.porting.files.opening import opened

from .test_evidence import IMAGES, folder_of, vit


def refused(path):
    def read():
        with opened(path) as checkpoint:
            return [checkpoint.read(name) for name in checkpoint.tensors]

    with pytest.raises(PatchParityError) as raised:
        read()
    return str(raised.value)


def test_shards_of_torch_are_one_checkpoint(tmp_path):
    torch = pytest.importorskip("torch")
    held = vit()
    names = list(held)
    parts = {
        "pytorch_model-00001-of-00002.bin": names[:3],
        "pytorch_model-00002-of-00002.bin": names[3:],
    }
    (tmp_path / "s").mkdir()
    for file, own in parts.items():
        torch.save({name: torch.from_numpy(held[name]) for name in own}, tmp_path / "s" / file)
    index = {
        "metadata": {},
        "weight_map": {name: file for file, own in parts.items() for name in own},
    }
    (tmp_path / "s" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    expected = embed(folder_of(tmp_path / "whole", held), IMAGES)
    for path in (tmp_path / "s", tmp_path / "s" / "pytorch_model.bin.index.json"):
        assert (embed(path, IMAGES) == expected).all()
    (tmp_path / "s" / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin" in refused(tmp_path / "s")


class Kind(enum.Enum):
    """Beside tensors in a checkpoint, as trainers keep them."""

    ONE = 1


class LossScaler:
    def __init__(self):
        self.scale = 3


def test_classes_beside_the_tensors_are_left_unbuilt_and_told(tmp_path):
    torch = pytest.importorskip("torch")
    held = {name: torch.from_numpy(value) for name, value in vit().items()}
    beside = {
        "kind": Kind.ONE,
        "scaler": LossScaler(),
        "partial": functools.partial(int, base=2),
        "when": datetime.datetime(2026, 1, 2),
        "order": collections.OrderedDict(a=1),
    }
    torch.save({"model": held, **beside}, tmp_path / "m.pt")
    told = inspect_checkpoint(tmp_path / "m.pt")
    assert not told["refused"]
    assert "LossScaler" in " ".join(told["unbuilt"])
    expected = embed(folder_of(tmp_path / "whole", vit_of(held)), IMAGES)
    assert (embed(tmp_path / "m.pt", IMAGES) == expected).all()


class ByName(enum.Enum):
    """Its members are pickled as Python 3.11.0 to 3.11.3 pickle any."""

    ONE = 1

    def __reduce_ex__(self, protocol):
        return getattr, (type(self), self.name)


def test_a_member_that_is_named_by_its_class_is_left_unbuilt(tmp_path):
    torch = pytest.importorskip("torch")
    held = {name: torch.from_numpy(value) for name, value in vit().items()}
    torch.save({"model": held, "kind": ByName.ONE}, tmp_path / "m.pt")
    told = inspect_checkpoint(tmp_path / "m.pt")
    assert not told["refused"]
    assert "ByName" in " ".join(told["unbuilt"])


def vit_of(held):
    return {name: tensor.numpy() for name, tensor in held.items()}


def test_nothing_in_a_pickle_is_called(tmp_path):
    class Leaves:
        def __reduce__(self):
            return (tmp_path.joinpath("run").write_text, ("yes",))

    buffer = io.BytesIO()
    pickle.dump({"a": Leaves()}, buffer)
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", buffer.getvalue())
        archive.writestr("m/version", "3\n")
    with pytest.raises(PatchParityError):
        inspect_checkpoint(tmp_path / "m.pt")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["overlap", "gap", "beyond", "short"])
def test_offsets_of_safetensors_that_do_not_tile_the_file(damage, tmp_path):
    begin, end = {"overlap": (0, 4), "gap": (8, 12), "beyond": (4, 4000), "short": (4, 6)}[damage]
    header = {
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]},
    }
    content = json.dumps(header).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + b"\0" * 12)
    assert "m.safetensors" in refused(tmp_path / "m.safetensors")


def test_one_flipped_bit_in_a_torch_archive_is_seen(tmp_path):
    """Two tensors in one storage: what the archive's checksum tells is asked of everything that is
    read."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(4096, dtype=torch.float32)
    torch.save({"a": whole[:2048], "b": whole[2048:]}, tmp_path / "m.pt")
    content = bytearray((tmp_path / "m.pt").read_bytes())
    at = content.index(np.arange(100, 140, dtype=np.float32).tobytes()) + 41
    content[at] ^= 4
    (tmp_path / "m.pt").write_bytes(content)
    assert "m.pt" in refused(tmp_path / "m.pt")


def test_torch_s_own_reader_agrees(tmp_path):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(2)
    whole = torch.randn(6, 5, 4, generator=generator)
    held = {
        "plain": whole,
        "transposed": whole.transpose(0, 2),
        "part": whole[1:5:2, :, 1:],
        "expanded": whole[:1].expand(3, 5, 4),
        "half": whole.half(),
        "bfloat16": whole.bfloat16(),
        "long": torch.arange(7),
        "scalar": torch.tensor(2.5),
    }
    torch.save(held, tmp_path / "m.pt")
    theirs = torch.load(tmp_path / "m.pt", weights_only=True)
    with opened(tmp_path / "m.pt") as checkpoint:
        assert set(checkpoint.tensors) == set(theirs)
        for name, tensor in theirs.items():
            ours = checkpoint.read(name)
            assert ours.shape == tuple(tensor.shape)
            assert (ours.astype(np.float64) == tensor.double().numpy()).all()


def test_an_array_that_claims_more_than_its_file_holds_takes_no_memory(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "m.weights.h5", "w") as file:
        file.create_dataset("layers/a/vars/0", (40_000, 100_000), "float32", chunks=(100, 1000))
    assert "m.weights.h5" in refused(tmp_path / "m.weights.h5")
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 2), np.float32))
    claims = buffer.getvalue().replace(b"(2, 2)", b"(-1,2)")
    for name, content in {"negative": claims, "short": buffer.getvalue()[:-4]}.items():
        with zipfile.ZipFile(tmp_path / f"{name}.npz", "w") as archive:
            archive.writestr("a.npy", content)
        assert f"{name}.npz" in refused(tmp_path / f"{name}.npz")


def test_a_doubling_pickle_ends(tmp_path):
    """Each step doubles what is counted, not what is kept: the budget is in steps and in what
    stands for others."""
    program = (
        b"\x80\x02]"
        + b"q\x00"
        + b"".join(
            b"]" + b"h%c" % at + b"a" + b"h%c" % at + b"a" + b"q%c" % (at + 1) for at in range(60)
        )
        + b"."
    )
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", program)
        archive.writestr("m/version", "3\n")
    assert inspect_checkpoint(tmp_path / "m.pt")["dialect"] is None


def test_names_in_a_file_move_no_cursor_and_fill_no_screen(tmp_path):
    from safetensors.numpy import save_file

    names = {f"\x1b[2J\x07{'long' * 5000}.weight": (4, 3, 2, 2), "other": (3,)}
    save_file(
        {name: np.ones(shape, np.float32) for name, shape in names.items()},
        tmp_path / "m.safetensors",
    )
    with pytest.raises(PatchParityError) as raised:
        embed(tmp_path / "m.safetensors", IMAGES)
    assert len(str(raised.value)) < 5000
    assert str(raised.value).isprintable()


def test_a_header_that_claims_more_than_memory_is_an_error(tmp_path):
    from patchparity.porting.files.arrays import read_arrays

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**58,)}
    )
    (tmp_path / "a.npy").write_bytes(buffer.getvalue() + bytes(64))
    with pytest.raises(PatchParityError, match="more memory than there is"):
        read_arrays(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "size", [{"num_frames": 10**9}, {"image_size": 10**7}, {"intermediate_size": 2**40}]
)
def test_no_configuration_of_a_few_lines_takes_hours(size, tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    file = folder_of(
        tmp_path / "m",
        vit(),
        {"model_type": "vit", "patch_size": 8, "hidden_size": 24, "image_size": 32},
    )
    from patchparity.porting.dialects.stage import read_stage
    from patchparity.porting.files.opening import opened
    from patchparity.porting.proof.library import prove_by_library

    with opened(file) as checkpoint:
        stage = read_stage(checkpoint)
        other = folder_of(
            tmp_path / "other",
            vit(),
            {"model_type": "vit", "patch_size": 8, "hidden_size": 24, "image_size": 32, **size},
        )
        told = prove_by_library(checkpoint, stage, other)
    assert (told.verdict, "is built" in told.message) == ("skip", True)


@pytest.mark.parametrize(
    "name",
    [
        "embeddings.patch_embeddings.projection.bias",
        "embeddings.cls_token",
        "embeddings.position_embeddings",
    ],
)
def test_a_tensor_that_repeats_its_values_is_read(name, tmp_path):
    """What `expand` gives has fewer values in the file than in its shape."""
    torch = pytest.importorskip("torch")
    held = {key: torch.from_numpy(value) for key, value in vit().items()}
    held[name] = held[name].flatten()[:1].expand(held[name].shape)
    torch.save(held, tmp_path / "expanded.pt")
    torch.save({key: value.clone() for key, value in held.items()}, tmp_path / "whole.pt")
    expanded, whole = (embed(tmp_path / f"{each}.pt", IMAGES) for each in ("expanded", "whole"))
    np.testing.assert_array_equal(expanded, whole)
    with (
        opened(tmp_path / "expanded.pt") as checkpoint,
        pytest.raises(PatchParityError, match="values that are repeated"),
    ):
        checkpoint.replace(tmp_path / "draft.pt", {name: held[name].numpy().copy()})


def test_a_tensor_that_repeats_too_many_values_is_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"patch.weight": torch.ones(1).expand(2**13, 3, 64, 64)}, tmp_path / "claims.pt")
    assert "patch.weight (8192, 3, 64, 64) repeats 1 values" in refused(tmp_path / "claims.pt")


class Empty:
    """An object with nothing in it."""


def test_objects_without_a_state_and_containers_of_python_are_left_unbuilt(tmp_path):
    torch = pytest.importorskip("torch")
    held = {key: torch.from_numpy(value) for key, value in vit().items()}
    for name, other in (("empty", Empty()), ("deque", collections.deque([1, 2]))):
        torch.save({"model": held, "other": other}, tmp_path / f"{name}.pt")
        np.testing.assert_array_equal(
            embed(tmp_path / f"{name}.pt", IMAGES), embed_of(held, tmp_path)
        )


def embed_of(held, folder):
    """The same tensors, alone."""
    torch = pytest.importorskip("torch")
    torch.save(held, folder / "alone.pt")
    return embed(folder / "alone.pt", IMAGES)


def test_tensors_that_only_torch_can_build_say_what_to_do(tmp_path):
    torch = pytest.importorskip("torch")
    for name, tensor, told in (
        ("neg", torch.ones(4, dtype=torch.complex64).conj().imag, "save it with .resolve_neg"),
        (
            "float8",
            torch.ones(4).to(torch.float8_e4m3fn),
            "a tensor of a type that is not read .float8",
        ),
    ):
        torch.save({"a": tensor}, tmp_path / f"{name}.pt")
        message = refused(tmp_path / f"{name}.pt")
        assert re.search(told, message)
        assert "hostile" not in message
        assert f"{name}.pt" in message


def test_a_pickle_that_claims_more_than_its_file_takes_no_memory(tmp_path):
    """BINBYTES8 of two GB in a file of a few bytes: with memory that is filled when it is taken,
    all of it would be."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    (tmp_path / "a.pt").write_bytes(
        magic + pickle.dumps(1001, 2) + b"\x80\x04\x8e" + (2**31).to_bytes(8, "little") + b"short"
    )
    code = (
        "import resource, sys\nfrom patchparity import PatchParityError, inspect_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: inspect_checkpoint(sys.argv[1])\nexcept PatchParityError as error: print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "a.pt")]
    found = subprocess.run(
        run, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONMALLOC": "debug"}
    )
    told, grown = found.stdout.strip().splitlines()
    assert "damaged or hostile" in told
    assert int(grown) < 500


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1", "a pointer of git-lfs"),
        ("a.safetensors", b"", "is empty"),
        ("a.index", b"\x00\x00\x08", "the index of a checkpoint of TensorFlow"),
    ],
)
def test_files_that_are_no_checkpoint_yet_are_called_what_they_are(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "a.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(PatchParityError, match=told):
        inspect_checkpoint(tmp_path / name)
