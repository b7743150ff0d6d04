"""Checkpoint files: every format gives back every bit, reads no more than it is asked for, and
refuses what is damaged or hostile in one sentence."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchparity import PatchParityError
from patchparity.porting.files.checkpoint import LARGEST_TENSOR
from patchparity.porting.files.opening import open_checkpoint
from patchparity.porting.files.writing import replace_tensors, write_checkpoint

TENSORS = {
    "model/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7.5,
    "model/half": np.array([1.5, -0.0, 65504.0], np.float16),
    "model/brain": np.array([[1.0, -2.5], [3.0e38, 1e-40]], ml_dtypes.bfloat16),
    "model/double": np.array(0.1),
    "steps": np.array([3], np.int64),
}


def same(first, second) -> bool:
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.tobytes() == second.tobytes()
    )


def held(path):
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", ".pt", ".bin"])
def test_every_format_gives_back_every_bit(tmp_path, suffix):
    if suffix in (".pt", ".bin"):
        pytest.importorskip("torch")
    if suffix == ".msgpack":
        pytest.importorskip("msgpack")
    path = tmp_path / f"a{suffix}"
    turned = {**TENSORS, "view": np.arange(12, dtype=np.float32).reshape(3, 4).T}
    write_checkpoint(path, turned)
    found = held(path)
    assert set(found) == set(turned)
    assert all(
        same(found[name], np.ascontiguousarray(turned[name]).reshape(turned[name].shape))
        for name in turned
    ), "a transposed view is written as what it shows"
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "no draft is left"


def test_what_libraries_write_is_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    safetensors.save_file({"a": np.arange(3.0)}, tmp_path / "lib.safetensors", {"format": "np"})
    np.savez(
        tmp_path / "plain.npz",
        a=np.arange(3.0),
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    )
    np.savez_compressed(
        tmp_path / "packed.npz", a=np.arange(3.0), brain=np.array([1, 2], ml_dtypes.bfloat16)
    )
    assert same(held(tmp_path / "lib.safetensors")["a"], np.arange(3.0))
    assert same(held(tmp_path / "plain.npz")["fortran"], np.arange(6.0).reshape(2, 3))
    assert same(held(tmp_path / "packed.npz")["brain"], np.array([1, 2], ml_dtypes.bfloat16)), (
        "big_vision's |V2"
    )


def test_flax_reads_what_is_written_and_the_other_way(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    tree = {
        "params": {"embedding": {"kernel": np.ones((2, 3), np.float32)}, "scale": np.float32(2.0)}
    }
    (tmp_path / "flax.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    found = held(tmp_path / "flax.msgpack")
    assert same(found["params/embedding/kernel"], tree["params"]["embedding"]["kernel"])
    write_checkpoint(
        tmp_path / "ours.msgpack", {"params/embedding/kernel": np.full((2, 3), 5, np.float32)}
    )
    back = serialization.msgpack_restore((tmp_path / "ours.msgpack").read_bytes())
    assert same(back["params"]["embedding"]["kernel"], np.full((2, 3), 5, np.float32))


def test_torch_files_are_read_without_torch_whatever_wrote_them(tmp_path):
    torch = pytest.importorskip("torch")
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "w": base,
        "view": base[1:3, ::2],
        "t": base.T,
        "brain": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 2),
    }
    nested = {"model": state, "epoch": 3, "args": {"lr": 0.1}, "list": [torch.ones(2)]}
    torch.save(nested, tmp_path / "new.pt")
    torch.save(nested, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    parameters = {"p": torch.nn.Parameter(torch.ones(2, 2))}
    torch.save(parameters, tmp_path / "parameters.bin")
    for name in ("new.pt", "old.pth"):
        found = held(tmp_path / name)
        assert set(found) == {*(f"model.{key}" for key in state), "list.0"}
        for key, tensor in state.items():
            expected = tensor.float().numpy() if key == "brain" else tensor.numpy()
            assert (found[f"model.{key}"].astype(np.float32) == expected).all()
            assert found[f"model.{key}"].shape == tuple(tensor.shape)
    assert same(held(tmp_path / "parameters.bin")["p"], np.ones((2, 2), np.float32))


def test_torchscript_archives_are_read(tmp_path):
    torch = pytest.importorskip("torch")

    class Visual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 8, 4, 4, bias=False)
            self.class_embedding = torch.nn.Parameter(torch.randn(8))

        def forward(self, images):
            return self.conv1(images).flatten(2) + self.class_embedding[:, None]

    class Clip(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = Visual()

        def forward(self, images):
            return self.visual(images)

    model = Clip()
    torch.jit.save(torch.jit.trace(model, torch.zeros(1, 3, 8, 8)), tmp_path / "clip.pt")
    found = held(tmp_path / "clip.pt")
    assert same(found["visual.conv1.weight"], model.visual.conv1.weight.detach().numpy())
    assert same(found["visual.class_embedding"], model.visual.class_embedding.detach().numpy())
    with open_checkpoint(tmp_path / "clip.pt") as checkpoint:
        told = set(checkpoint.told.values())
    assert len(told) == 1
    assert "TorchScript, whose code is not looked at" in told.pop()


def test_keras_files_are_read_and_changed_in_place(tmp_path):
    keras = pytest.importorskip("keras")
    pytest.importorskip("h5py")
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(5, 4, 4, name="pe")])
    kernel, bias = (np.asarray(array) for array in model.get_weights())
    for name in ("m.keras", "m.weights.h5"):
        (model.save if name.endswith(".keras") else model.save_weights)(tmp_path / name)
        found = held(tmp_path / name)
        places = {key: value for key, value in found.items() if value.shape == kernel.shape}
        ((place, array),) = places.items()
        assert same(array, kernel)
        changed = np.random.default_rng(0).standard_normal(kernel.shape).astype(np.float32)
        with open_checkpoint(tmp_path / name) as source:
            replace_tensors(source, tmp_path / f"new-{name}", {place: changed})
            with pytest.raises(PatchParityError, match="has no place for"):
                replace_tensors(source, tmp_path / f"bad-{name}", {place: changed[:1]})
        assert not (tmp_path / f"bad-{name}").exists()
        (model.load_weights if name.endswith(".h5") else lambda path: None)(
            tmp_path / f"new-{name}"
        )
        again = model if name.endswith(".h5") else keras.models.load_model(tmp_path / f"new-{name}")
        assert same(np.asarray(again.get_weights()[0]), changed)
        assert same(np.asarray(again.get_weights()[1]), bias)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack"])
def test_a_copy_with_some_tensors_replaced_keeps_all_others(tmp_path, suffix):
    if suffix == ".msgpack":
        pytest.importorskip("msgpack")
    write_checkpoint(tmp_path / f"a{suffix}", TENSORS, {"note": "kept"})
    changes = {"model/kernel": np.ones((5, 2), np.float16), "new": np.zeros(3, np.float32)}
    with open_checkpoint(tmp_path / f"a{suffix}") as source:
        replace_tensors(source, tmp_path / f"b{suffix}", changes)
    found = held(tmp_path / f"b{suffix}")
    assert set(found) == {*TENSORS, "new"}
    assert all(same(found[name], {**TENSORS, **changes}[name]) for name in found)
    if suffix == ".safetensors":
        with open_checkpoint(tmp_path / "b.safetensors") as copy:
            assert copy.metadata == {"note": "kept"}


def sharded(folder, names=("a-1.safetensors", "a-2.safetensors")):
    from safetensors.numpy import save_file

    save_file({"x": np.arange(3.0)}, folder / "a-1.safetensors")
    save_file({"y": np.arange(4.0)}, folder / "a-2.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(("x", "y"), names, strict=True))}))
    return index


def test_shards_are_read_through_their_index_or_their_folder(tmp_path):
    index = sharded(tmp_path)
    for path in (index, tmp_path):
        assert {name: array.shape for name, array in held(path).items()} == {"x": (3,), "y": (4,)}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a-1.safetensors", "../a-2.safetensors"), "which is no file of this folder"),
        (("a-1.safetensors", "/etc/passwd"), "which is no file of this folder"),
        (
            ("a-1.safetensors", "a-3.safetensors"),
            "names a shard 'a-3.safetensors', which is not there",
        ),
        (("a-2.safetensors", "a-1.safetensors"), "'x' should be in a-2.safetensors, and is not"),
    ],
)
def test_an_index_that_leads_astray(tmp_path, names, message):
    with pytest.raises(PatchParityError, match=message):
        open_checkpoint(sharded(tmp_path, names))


def safetensors_bytes(header, content=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            struct.pack("<Q", 2**60) + b"{}",
            "does not begin as a safetensors|claims 1152921504606846976 bytes",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
            ),
            "more values along one than 0 bytes hold",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"
            ),
            "claims bytes 0 to 4",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"
            ),
            "claims bytes",
        ),
        (
            safetensors_bytes(
                {"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}, b"1234"
            ),
            "tells 'a' badly",
        ),
        (safetensors_bytes(b'{"a": 1, "a": 2}'), "stands there twice"),
        (safetensors_bytes(b"{nonsense"), "is no JSON"),
        (safetensors_bytes(b"[" * 10_000), "does not begin as|is no JSON"),
        (b"", "is empty: no download"),
        (b"\x10", "does not begin as a safetensors file does"),
    ],
)
def test_safetensors_that_claim_too_much(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(PatchParityError, match=message):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"x/data.pkl": b"\x80\x02r\x00\x00\x00\x08."}, "its pickle numbers an object 134217728"),
        (
            {"x/data.pkl": pickle.dumps({}, 2), "x/byteorder": b"little" + bytes(100)},
            "byteorder claims 106 bytes",
        ),
    ],
)
def test_archives_that_would_take_much_memory(tmp_path, entries, message):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(PatchParityError, match=message):
        open_checkpoint(tmp_path / "a.pt")


def test_containers_that_hold_one_another_many_times_are_looked_into_once(tmp_path):
    nested = []
    for _ in range(40):
        nested = [nested, nested]
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(nested, 2))
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        assert not checkpoint.tensors


def test_a_tensor_that_is_negated_when_it_is_read_is_refused(tmp_path):
    torch = pytest.importorskip("torch")
    lazy = torch.view_as_complex(torch.randn(4, 2)).conj().imag
    assert lazy.is_neg()
    torch.save({"w": lazy}, tmp_path / "a.pt")
    with pytest.raises(PatchParityError, match="negated or conjugated when it is read"):
        open_checkpoint(tmp_path / "a.pt")


def test_h5_groups_that_are_linked_twice_are_looked_into_once(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file
        for _ in range(30):
            inner = group.create_group("a")
            group["b"] = inner
            group = inner
        group["values"] = np.arange(3.0)
    with open_checkpoint(tmp_path / "a.h5") as checkpoint:
        assert len(checkpoint.tensors) == 1


@pytest.mark.parametrize(("most", "found"), [(4, ["a/v", "b/v"]), (3, ["a/v"])])
def test_h5_names_of_linked_groups_are_all_told_where_they_are_few(
    tmp_path, monkeypatch, most, found
):
    h5py = pytest.importorskip("h5py")
    from patchparity.porting.files import h5_server

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_group("a")["v"] = np.arange(3.0)
        file["b"] = file["a"]
    monkeypatch.setattr(h5_server, "MOST_LINKED", most)
    monkeypatch.setattr(h5_server, "MOST_NAMES", 3)
    assert sorted(h5_server.walk(str(tmp_path / "a.h5"))) == found
    monkeypatch.setattr(h5_server, "MOST_NAMES", 2)
    with pytest.raises(h5_server.DamagedError, match="more than 2 names"):
        h5_server.walk(str(tmp_path / "a.h5"))


class Hostile:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("new", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, new):
    marker, path = tmp_path / "ran", tmp_path / "evil.pt"
    payload = pickle.dumps({"w": Hostile(marker)}, protocol=2)
    if new:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("evil/data.pkl", payload)
    else:
        path.write_bytes(payload)
    told = (
        r"(posix|nt)\.system, which is no tensor: nothing of it was run"
        if new
        else "is a pickle, but none that torch wrote"
    )
    with pytest.raises(PatchParityError, match=told):
        open_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "attack",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\nexec\n(S'1'\ntR.",
        b"csubprocess\nPopen\n(S'true'\ntR.",
        b"ctorch.hub\nload\n(S'x'\ntR.",
        b"ctorch._utils\n_import_dotted_name\n(S'os.system'\ntR.",
        b"ccollections\nnamedtuple\n(S'a'\nS'b'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
    ],
)
def test_globals_that_are_no_tensors_are_named(tmp_path, attack):
    path = tmp_path / "evil.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", attack)
    with pytest.raises(PatchParityError, match="which is no tensor: nothing of it was run"):
        open_checkpoint(path)


def test_archives_that_hold_objects_bombs_or_twins(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    with pytest.raises(PatchParityError, match="a holds Python objects, which are never read"):
        open_checkpoint(tmp_path / "objects.npz")

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (2**45,)}
    )
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"1234")
    with pytest.raises(PatchParityError, match=r"claims \d+ bytes, and 4 are there"):
        open_checkpoint(tmp_path / "claims.npz")

    with zipfile.ZipFile(tmp_path / "twins.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.npy", header.getvalue())
    with pytest.raises(PatchParityError, match=r"it holds 'a\.npy' twice"):
        open_checkpoint(tmp_path / "twins.npz")


def test_a_bomb_is_not_unpacked(tmp_path):
    """A gigabyte of zeros in a megabyte: told of, and refused when it is asked for."""
    size = LARGEST_TENSOR + 4
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    )
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.npy", "w", force_zip64=True) as file,
    ):
        file.write(header.getvalue())
        for _ in range(size // 2**24):
            file.write(bytes(2**24))
        file.write(bytes(size % 2**24))
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(PatchParityError, match=rf"claims {size} bytes, expected at most"),
    ):
        checkpoint.read("a")


def test_h5_files_that_lead_out_of_themselves(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.arange(3.0)
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file["a"] = h5py.ExternalLink("other.h5", "/secret")
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        file.create_dataset("a", (4,), "f4", external=[(str(tmp_path / "raw.bin"), 0, 16)])
    with pytest.raises(PatchParityError, match="a leads out of the file"):
        open_checkpoint(tmp_path / "external.h5")
    with pytest.raises(PatchParityError, match="a keeps its values outside of the file"):
        open_checkpoint(tmp_path / "outside.h5")


def test_what_is_no_checkpoint_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("hello, this is a text of some length")
    with pytest.raises(PatchParityError, match="is no checkpoint of a kind"):
        open_checkpoint(tmp_path / "a.txt")
    with pytest.raises(PatchParityError, match=r"cannot read .*absent\.safetensors"):
        open_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(
        PatchParityError, match="holds no checkpoint that can be told: name the file"
    ):
        open_checkpoint(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.md", "x")
    with pytest.raises(PatchParityError, match="an archive of a kind that is not known"):
        open_checkpoint(tmp_path / "a.zip")


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": np.arange(3.0)})
    before = path.read_bytes()
    from patchparity.porting.files import safetensors_files

    def broken(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_files, "write_safetensors", broken)
    with pytest.raises(PatchParityError, match="No space left on device"):
        write_checkpoint(path, {"a": np.arange(5.0)})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    write_checkpoint(folder / "a.safetensors", TENSORS)
    write_checkpoint(folder / "a.npz", TENSORS)
    kinds = ["a.safetensors", "a.npz"]
    for name, module in (("a.msgpack", "msgpack"), ("a.pt", "torch")):
        try:
            __import__(module)
        except ImportError:
            continue
        write_checkpoint(folder / name, TENSORS)
        kinds.append(name)
    return {name: (folder / name).read_bytes() for name in kinds}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return samples(tmp_path_factory)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused_in_a_sentence(whole, tmp_path_factory, data):
    """Whatever bytes are cut off or changed: an array, or a PatchParityError; no other exception,
    and no memory that is not there."""
    name = data.draw(st.sampled_from(sorted(whole)))
    content = bytearray(whole[name])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(bytes(content))
    message = ""
    try:
        with open_checkpoint(path) as checkpoint:
            for tensor in checkpoint.tensors:
                array = checkpoint.read(tensor)
                assert array.shape == checkpoint.tensors[tensor].shape
    except PatchParityError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the kernel tells of memory on Linux alone"
)
def test_a_large_file_is_not_read_whole(tmp_path):
    """Two gigabytes (a sparse file), of which three small tensors are needed: the process stays
    small, and so does a copy with them replaced."""
    size = 2 * 2**30
    entries = {
        "patch_embed.proj.weight": {
            "dtype": "F32",
            "shape": [24, 3, 4, 4],
            "data_offsets": [0, 4608],
        },
        "patch_embed.proj.bias": {"dtype": "F32", "shape": [24], "data_offsets": [4608, 4704]},
        "blocks.0.mlp.fc1.weight": {
            "dtype": "F32",
            "shape": [size // 4],
            "data_offsets": [4704, 4704 + size],
        },
    }
    header = json.dumps(entries).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.write(np.random.default_rng(0).standard_normal(1176).astype(np.float32).tobytes())
        file.truncate(8 + len(header) + 4704 + size)
    code = (
        "import contextlib, sys\n"
        "from patchparity import port\n"
        "def peak():\n"
        "    return 1024 * int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "with contextlib.suppress(ImportError):\n"
        "    import torch\n"  # which the proof runs, and which takes 200 to 300 MB by itself
        "before = peak()\n"
        "assert port(sys.argv[1], sys.argv[2], 'linear-ppc', from_='timm-vit').ok\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "small.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 64 * 2**20
