"""Whole checkpoints written a tensor at a time: each library reads its own, nothing half-written is
seen, and what is read back is compared to the last bit."""

import itertools
import json
import os
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
from patchparity.porting.files import lazy as lazy_module
from patchparity.porting.files.checkpoint import COPIED_BYTES
from patchparity.porting.files.lazy import contiguous, pieces_of
from patchparity.porting.files.opening import opened
from patchparity.porting.files.streamed import Lazy, write_streamed

RANDOM = np.random.default_rng(26)

ONE_FILE = (
    "model.safetensors",
    "model.npz",
    "model.pt",
    "pytorch_model.bin",
    "model.weights.h5",
    "flax_model.msgpack",
    "tree.orbax",
    "mmproj.gguf",
)

INDEX = "model.safetensors.index.json"


def drawn(shape, dtype=np.float32):
    return RANDOM.standard_normal(shape).astype(dtype)


def arrays(dtype=np.float32):
    """Tensors as they are to be written: of any strides, none square."""
    return {
        "stem/kernel": drawn((12, 3, 5, 4)).transpose(2, 3, 1, 0).astype(dtype, order="K"),
        "stem/bias": drawn((12,)).astype(dtype),
        "block/q": drawn((130, 90)).T.astype(dtype, order="K"),
        "block/out": drawn((70, 6, 15)).transpose(1, 2, 0).astype(dtype, order="K"),
        "positions": drawn((7, 12)).astype(dtype),
    }


def lazies(held):
    """Of arrays, with no file behind them."""
    return {
        name: Lazy(array.shape, array.dtype.name, lambda array=array: array)
        for name, array in held.items()
    }


def same(left, right):
    return (left.shape, left.dtype, left.tobytes()) == (right.shape, right.dtype, right.tobytes())


def need(name):
    package = {".h5": "h5py", ".msgpack": "msgpack", ".orbax": "tensorstore"}
    if Path(name).suffix in package:
        pytest.importorskip(package[Path(name).suffix])


def everything(folder):
    """All that is in a folder, hidden files too."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", [*ONE_FILE, INDEX])
def test_each_format_reads_back_to_the_last_bit(tmp_path, name, dtype):
    need(name)
    held = arrays(dtype)
    write_streamed(tmp_path / name, lazies(held))
    with opened(tmp_path / name) as written:
        assert written.tensors.keys() == held.keys()
        for called, array in held.items():
            assert same(written.read(called), array), called
    assert not list(tmp_path.glob(".*"))


def test_libraries_read_their_own_files(tmp_path):
    import safetensors.numpy

    held = arrays()
    for name in ("model.safetensors", "model.npz"):
        write_streamed(tmp_path / name, lazies(held), {"format": "pt"})
    loaded = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        for called, array in held.items():
            assert same(loaded[called], array)
            assert same(archive[called], array)
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool", "uint8", "float64"])
def test_torch_loads_what_no_torch_wrote(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    held = {
        "a.weight": (drawn((9, 5)) * 3).astype(kind).T,
        "ä": (drawn(()) * 3).astype(kind),
        "of none": np.zeros((0, 4), kind),
        "wide": (drawn((3, 200, 70)) * 3).astype(kind),
    }
    write_streamed(tmp_path / "m.pt", lazies(held))
    write_streamed(tmp_path / "m.safetensors", lazies(held))
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        assert archive.testzip() is None
    for loaded in (
        torch.load(tmp_path / "m.pt", weights_only=True),
        torch.load(tmp_path / "m.pt", weights_only=True, mmap=True),
        load_file(tmp_path / "m.safetensors"),
    ):
        assert loaded.keys() == held.keys()
        for name, array in held.items():
            assert tuple(loaded[name].shape) == array.shape
            assert loaded[name].is_contiguous()
            assert str(loaded[name].dtype) == f"torch.{dtype}"
            if loaded[name].numel():
                assert loaded[name].data_ptr() % array.itemsize == 0
                bits = loaded[name].reshape(-1).view(torch.uint8).numpy()
                assert bits.tobytes() == array.tobytes()


def test_flax_restores_the_tree(tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    held = arrays(ml_dtypes.bfloat16)
    write_streamed(tmp_path / "flax_model.msgpack", lazies(held))
    tree = serialization.msgpack_restore((tmp_path / "flax_model.msgpack").read_bytes())
    assert same(np.asarray(tree["block"]["q"]), held["block/q"])
    assert same(np.asarray(tree["positions"]), held["positions"])


@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
def test_keras_loads_a_file_that_was_written_from_names(tmp_path, policy):
    keras = pytest.importorskip("keras")

    def model():
        inputs = keras.Input((6, 5))
        hidden = keras.layers.Dense(7, dtype=policy)(inputs)
        hidden = keras.layers.MultiHeadAttention(2, 3, dtype=policy)(hidden, hidden)
        return keras.Model(inputs, keras.layers.LayerNormalization(dtype=policy)(hidden))

    first, second = model(), model()
    first.set_weights([drawn(array.shape) for array in first.get_weights()])
    first.save_weights(tmp_path / "theirs.weights.h5")
    with opened(tmp_path / "theirs.weights.h5") as theirs:
        held = {name: theirs.read(name) for name in theirs.tensors}
        turned = {name: np.asfortranarray(array) for name, array in held.items()}
        write_streamed(tmp_path / "ours.weights.h5", lazies(turned))
    second.load_weights(tmp_path / "ours.weights.h5")
    pairs = zip(first.get_weights(), second.get_weights(), strict=True)
    assert all(same(np.asarray(left), np.asarray(right)) for left, right in pairs)


def test_transformers_loads_shards_with_their_config(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        image_size=(12, 8), patch_size=4,
    )  # fmt: skip
    model = transformers.ViTModel(config)
    source, target = tmp_path / "source", tmp_path / "target"
    model.save_pretrained(source)
    target.mkdir()
    with opened(source) as held:
        tensors = {
            name: Lazy(info.shape, info.dtype, lambda: pytest.fail("read"), (held, name))
            for name, info in held.tensors.items()
        }
        told = (source / "config.json").read_bytes()

        def check(draft):
            transformers.ViTModel.from_pretrained(draft.parent)

        write_streamed(
            target / INDEX, tensors, held.metadata, check, shard_bytes=4000,
            companions={"config.json": told},
        )  # fmt: skip
    shards = sorted(target.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((target / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(lazy.nbytes for lazy in tensors.values())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    for shard in shards:
        with opened(shard) as held:
            sizes = [info.nbytes for info in held.tensors.values()]
            assert sum(sizes) <= 4000 or len(sizes) == 1
    loaded = transformers.ViTModel.from_pretrained(target).state_dict()
    for name, tensor in model.state_dict().items():
        assert (loaded[name] == tensor).all(), name


@pytest.mark.parametrize("source_name", ["s.npz", "s.pt", "s.safetensors"])
@pytest.mark.parametrize("name", ["t.npz", "t.pt", "t.safetensors", "t.weights.h5"])
def test_a_source_of_any_format_is_copied_to_any(tmp_path, source_name, name):
    need(name)
    held = arrays(ml_dtypes.bfloat16)
    write_streamed(tmp_path / source_name, lazies(held))
    with opened(tmp_path / source_name) as source:
        tensors = {
            called: Lazy(info.shape, info.dtype, lambda: pytest.fail("read"), (source, called))
            for called, info in source.tensors.items()
        }
        write_streamed(tmp_path / name, tensors)
    with opened(tmp_path / name) as written:
        assert all(same(written.read(called), array) for called, array in held.items())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.sampled_from(["float32", "uint8", "float64", "bfloat16", "complex128", ">f4", "bool"]),
    st.integers(1, 40),
    st.sampled_from([24, 100, 4096]),
)
def test_pieces_are_the_bytes_in_c_order(shape, random, dtype, factor, size):
    """Of any strides: transposed, reversed, skipping and repeated."""
    shape = list(shape)
    shape[random.randrange(len(shape))] *= factor
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    bits = RANDOM.integers(0, 2 if dtype == "bool" else 256, (*shape, kind.itemsize), np.uint8)
    array = bits.view(kind)[..., 0]
    axes = list(range(array.ndim))
    random.shuffle(axes)
    array = array.transpose(axes)
    array = array[tuple(slice(None, None, random.choice([1, 1, -1, 2])) for _ in axes)]
    if random.random() < 0.2:
        array = np.broadcast_to(array, (3, *array.shape))
    wanted = array.astype(kind.newbyteorder("="), order="C").tobytes()
    assert contiguous(array).tobytes() == wanted
    assert contiguous(array).flags.c_contiguous
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_module, "COPIED_BYTES", size // kind.itemsize * kind.itemsize or 16)
        patch.setattr(lazy_module, "TILE", 5)
        assert b"".join(bytes(piece) for piece in pieces_of(array)) == wanted


def test_large_matrices_are_transposed_by_tiles():
    """Beside the property, at the sizes that tiles have."""
    for shape, axes in (
        ((1500, 1300), (1, 0)),
        ((130, 70, 66), (2, 0, 1)),
        ((4, 200, 3, 90), (3, 1, 2, 0)),
        ((65, 3, 14, 14), (2, 3, 1, 0)),
    ):
        array = drawn(shape).transpose(axes)
        assert b"".join(bytes(piece) for piece in pieces_of(array)) == array.tobytes()
        assert same(contiguous(array), array)
    assert all(piece.nbytes <= COPIED_BYTES for piece in pieces_of(drawn((2, 3_000_000)).T))


def test_views_are_read_only_and_equal_what_is_read(tmp_path):
    held = arrays()
    for name in ("m.safetensors", "m.npz", INDEX):
        write_streamed(tmp_path / name, lazies(held))
        with opened(tmp_path / name) as source:
            for called, array in held.items():
                view = source.view(called)
                assert same(view, array)
                assert not view.flags.writeable
                assert (source.place_of(called) is None) == (name == "m.npz")
            with pytest.raises(PatchParityError, match="holds no tensor 'x'"):
                source.view("x")


def boom():
    raise KeyError("boom")


FAULTS = {
    "read": (lambda: boom(), KeyError, "boom"),
    "shape": (lambda: drawn((3, 2)), PatchParityError, "told as float32 of shape .2, 3."),
    "type": (lambda: drawn((2, 3), np.float64), PatchParityError, "was made as float64"),
    "disk": (
        lambda: (_ for _ in ()).throw(OSError(28, "No space left")),
        PatchParityError,
        "No sp",
    ),
}


@pytest.mark.parametrize("name", [*ONE_FILE, INDEX])
@pytest.mark.parametrize("fault", [*FAULTS, "check", "other bytes"])
def test_a_failure_leaves_what_was_there(tmp_path, name, fault, monkeypatch):
    need(name)
    there = name not in ("tree.orbax", INDEX)
    if there:
        write_streamed(tmp_path / name, lazies(arrays()))
    (tmp_path / "config.json").write_text("{}")
    before = everything(tmp_path)
    tensors = lazies({"a": drawn((4, 5)), "bad": drawn((2, 3)), "c": drawn((3,))})
    check, error, message = (lambda draft: None), PatchParityError, "reads back differently"
    if fault == "check":
        error, message = ValueError, "not proven"

        def check(draft):
            assert draft.name == name
            raise ValueError("not proven")
    elif fault == "other bytes":
        count = itertools.count()
        monkeypatch.setattr(lazy_module.zlib, "crc32", lambda *given: next(count))
    else:
        read, error, message = FAULTS[fault]
        tensors["bad"] = Lazy((2, 3), "float32", read)
    beside = {"config.json": b'{"a": 1}'} if there else {"other.json": b"{}"}
    with pytest.raises(error, match=message):
        write_streamed(tmp_path / name, tensors, check=check, companions=beside)
    assert everything(tmp_path) == before
    assert not list(tmp_path.glob(".*"))


def test_a_companion_of_another_model_is_refused(tmp_path):
    path, told = tmp_path / "model.safetensors", {"config.json": b'{"eps": 1e-6}'}
    (tmp_path / "config.json").write_text('{"eps": 1e-5}')
    before = everything(tmp_path)
    with pytest.raises(PatchParityError, match=r"config.json is there already and tells another"):
        write_streamed(path, lazies(arrays()), companions=told)
    assert everything(tmp_path) == before
    (tmp_path / "config.json").write_text('{ "eps": 0.000001 }')  # the same, written otherwise
    write_streamed(path, lazies(arrays()), companions=told)
    assert (tmp_path / "config.json").read_text() == '{ "eps": 0.000001 }'
    other = {"config.json": b'{"eps": 1e-12}'}
    held = arrays()
    write_streamed(path, lazies(held), companions=other)  # the model is replaced as a whole
    assert (tmp_path / "config.json").read_bytes() == other["config.json"]
    with opened(path) as written:
        assert same(written.read("block/q"), held["block/q"])
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("step", range(7))
def test_a_rename_that_fails_puts_all_back(tmp_path, monkeypatch, step):
    """At each step on which files take their places."""
    path = tmp_path / "model.safetensors"
    write_streamed(path, lazies(arrays()), companions={"config.json": b"{}", "x.json": b"[]"})
    before, count, real = everything(tmp_path), itertools.count(), os.rename

    def rename(source, target):
        if next(count) == step:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    new = {"config.json": b'{"a": 1}', "y.json": b"{}", "x.json": b"[1]"}
    with pytest.raises(PatchParityError, match="Input/output error"):
        write_streamed(path, lazies(arrays()), companions=new)
    assert everything(tmp_path) == before


def test_no_moment_has_old_weights_beside_a_new_config(tmp_path, monkeypatch):
    """What a reader meets after each step, as one that is killed there would leave it."""
    path, real, seen = tmp_path / "model.safetensors", os.rename, []
    write_streamed(path, lazies({"a": drawn((2, 3))}), companions={"config.json": b"[0]"})

    def rename(source, target):
        real(source, target)
        name = "-".join(opened_shape(path)) if path.exists() else ""
        config = tmp_path / "config.json"
        seen.append((name, config.read_text() if config.exists() else ""))

    def opened_shape(path):
        with opened(path) as held:
            return list(held.tensors)

    monkeypatch.setattr(os, "rename", rename)
    write_streamed(path, lazies({"b": drawn((2, 3))}), companions={"config.json": b"[1]"})
    assert seen[-1] == ("b", "[1]")
    assert not {("a", "[1]"), ("b", "[0]"), ("a", ""), ("b", "")} & set(seen)


def test_shards_replace_nothing_but_what_was_cut_off(tmp_path):
    path = tmp_path / INDEX
    write_streamed(path, lazies(arrays()), shard_bytes=9000, companions={"config.json": b"[0]"})
    with pytest.raises(PatchParityError, match="already: name the index in a folder without"):
        write_streamed(path, lazies(arrays()), shard_bytes=9000)
    (tmp_path / f".{INDEX}.patchparity-unfinished").write_text("")
    held = arrays()
    write_streamed(path, lazies(held), shard_bytes=9000, companions={"config.json": b"[1]"})
    with opened(path) as written:
        assert same(written.read("block/q"), held["block/q"])
    assert (tmp_path / "config.json").read_bytes() == b"[1]"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.keras", {}, "write .weights.h5"),
        ("m.pt2", {}, "holds a program"),
        ("m.xyz", {}, "expected a name that ends in"),
        ("m.safetensors", {"shard_bytes": 10}, "expected a positive number, and a name that ends"),
        (INDEX, {"shard_bytes": 0}, "expected a positive number"),
        ("m.safetensors", {"companions": {"../config.json": b""}}, "is no file beside"),
        ("m.safetensors", {"companions": {"m.safetensors": b""}}, "is no file beside"),
        ("m.safetensors", {"metadata": {"a": 1}}, "texts alone"),
        ("no/m.safetensors", {}, "there is no folder"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_sentence(tmp_path, name, options, message):
    with pytest.raises(PatchParityError, match=message):
        write_streamed(tmp_path / name, lazies(arrays()), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["flax_model.msgpack", "model.weights.h5"])
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_tensor_within_a_tensor_is_refused(tmp_path, name, names):
    need(name)
    with pytest.raises(PatchParityError, match=r"a/b|'a'|a is"):
        write_streamed(tmp_path / name, lazies({called: drawn((2, 3)) for called in names}))
    assert not list(tmp_path.iterdir())


def test_a_type_that_a_format_lacks_is_refused(tmp_path):
    strange = {"a": drawn((2, 3)).astype(ml_dtypes.float8_e4m3fnuz)}
    for name in ("m.safetensors", "m.pt", "m.npz", "m.gguf"):
        with pytest.raises(PatchParityError, match="a is of dtype float8"):
            write_streamed(tmp_path / name, lazies(strange))
    assert not list(tmp_path.iterdir())


def test_a_source_of_another_type_is_refused(tmp_path):
    write_streamed(tmp_path / "s.safetensors", lazies({"a": drawn((2, 3))}))
    with opened(tmp_path / "s.safetensors") as source:
        for shape, dtype, held in (((2, 3), "float16", "a"), ((3, 3), "float32", "a"),
                                   ((2, 3), "float32", "b")):  # fmt: skip
            tensors = {"t": Lazy(shape, dtype, boom, (source, held))}
            with pytest.raises(PatchParityError, match=f"and its source {held} in .* is"):
                write_streamed(tmp_path / "t.safetensors", tensors)


def test_a_tubelet_of_two_frames_is_split_in_gguf_and_read_as_one(tmp_path):
    kernel = drawn((10, 3, 2, 6, 4))
    write_streamed(tmp_path / "m.gguf", lazies({"v.patch_embd.weight": kernel}))
    with opened(tmp_path / "m.gguf") as written:
        assert same(written.read("v.patch_embd.weight"), kernel)


MEASURED = """
import sys, resource
from patchparity.porting.files.opening import opened
from patchparity.porting.files.streamed import Lazy, write_streamed
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
with opened(sys.argv[1]) as source:
    tensors = {name: Lazy(info.shape[::-1], info.dtype, lambda name=name: source.view(name).T)
               for name, info in source.tensors.items()}
    before = peak()
    write_streamed(sys.argv[2], tensors)
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system tells no peak")
@pytest.mark.parametrize("name", ["t.safetensors", "t.npz", "t.pt", "t.weights.h5"])
def test_one_tensor_is_in_memory_at_a_time(tmp_path, name):
    """40 tensors of 4 MB take less than 5 of them: one, its copy, and buffers of 4 MB."""
    need(name)
    one = drawn((1024, 1000))
    write_streamed(tmp_path / "s.safetensors", lazies({f"t{n}": one + n for n in range(40)}))
    code = [sys.executable, "-W", "ignore", "-c", MEASURED]
    files = [tmp_path / "s.safetensors", tmp_path / name]
    done = subprocess.run([*code, *files], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20 + 15  # modules that are imported first here
