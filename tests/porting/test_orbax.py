"""Folders that Orbax wrote, in every form that it has, read without it; and folders that it
restores."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port
from patchparity.porting.files.opening import open_checkpoint, opened
from patchparity.porting.files.orbax_folders import names_of

from .made_up import rows
from .orbax_writers import orbax

pytest.importorskip("tensorstore")

D, C, PATCH, IMAGE = 20, 3, (6, 4), (18, 12)
NAMES = {
    "embedding/kernel": (*PATCH, C, D),
    "embedding/bias": (D,),
    "cls": (1, 1, D),
    "Transformer/posembed_input/pos_embedding": (1, 10, D),
    "head/kernel": (D, 7),
}

FORMS = {
    "pytree": "ocp.PyTreeCheckpointer().save(root / 'pytree', tree)",
    "folders": "ocp.PyTreeCheckpointer(use_ocdbt=False).save(root / 'folders', tree)",
    "zarr3": "ocp.PyTreeCheckpointer(use_zarr3=True).save(root / 'zarr3', tree)",
    "zarr3-folders": (
        "ocp.PyTreeCheckpointer(use_zarr3=True, use_ocdbt=False).save(root / 'zarr3-folders', tree)"
    ),
    "standard": "with ocp.StandardCheckpointer() as c: c.save(root / 'standard', tree)",
    "v1": (
        "from orbax.checkpoint.experimental import v1\n"
        "getattr(v1, 'save', None) and v1.save(root / 'v1', tree)"
    ),
    "flax": (
        "from flax.training import checkpoints\n"
        "checkpoints.save_checkpoint(str(root / 'flax'), tree, step=7)"
    ),
    "manager": (
        "with ocp.CheckpointManager(root / 'manager') as m:\n"
        "    old = {'params': jax.tree.map(lambda a: 0 * a, tree['params'])}\n"
        "    m.save(9, args=ocp.args.StandardSave(old))\n"
        "    m.save(10, args=ocp.args.StandardSave(tree))"
    ),
}


def nested(flat):
    tree = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        branch = tree
        for key in path:
            branch = branch.setdefault(key, {})
        branch[last] = value
    return tree


def tensors(dtype=np.float32):
    return {f"params/{name}": rows(*shape).astype(dtype) for name, shape in NAMES.items()}


HELD = tensors()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of folders, one of each form."""
    folder = tmp_path_factory.mktemp("orbax")
    beside = {"step": 3, "rate": 0.5, "list": [rows(3), {"a": rows(2, 3)}]}
    orbax(folder, {**nested(HELD), **beside}, "\n".join(FORMS.values()))
    return folder


def copied(saved, name, tmp_path):
    return shutil.copytree(saved / name, tmp_path / name)


def refused(path):
    def read():
        with opened(path) as checkpoint:
            return [checkpoint.read(name) for name in checkpoint.tensors]

    with pytest.raises(PatchParityError) as raised:
        read()
    return str(raised.value)


def require_all(path, held, before=""):
    with opened(path) as checkpoint:
        for name, array in held.items():
            found = checkpoint.read(before + name)
            assert found.dtype == array.dtype, name
            assert found.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_to_the_last_bit(form, saved):
    require_all(saved / form, HELD)
    report = inspect_checkpoint(saved / form, image_size=IMAGE)
    assert report["dialect"] == "google-vit"
    assert not report["refused"]


def test_the_newest_step_is_read_and_told(saved, tmp_path):
    told = str(inspect_checkpoint(saved / "manager", image_size=IMAGE))
    assert "of step 10, the newest, beside step 9" in told
    for place in ("10", "10/default", "10/default/_METADATA", "10/default/manifest.ocdbt"):
        require_all(saved / "manager" / place, HELD)
    folder = copied(saved, "manager", tmp_path)
    (folder / "10" / "commit_success.txt").unlink()
    assert "9" in open_checkpoint(folder).items[""].parts
    (folder / "10").rename(folder / "10.orbax-checkpoint-tmp-17")
    assert "9" in open_checkpoint(folder).items[""].parts
    assert "unfinished" in refused(folder / "10.orbax-checkpoint-tmp-17")
    shutil.rmtree(folder / "9")
    assert "no step that was written to its end" in refused(folder)


def test_items_of_a_step_are_one_tree_and_moments_are_no_kernels(tmp_path):
    held = {name.removeprefix("params/"): array for name, array in HELD.items()}
    code = """
with ocp.CheckpointManager(root / "m", item_names=("model", "moments", "note")) as m:
    moments = {"opt": {"mu": tree["params"], "nu": tree["params"]}}
    m.save(2, args=ocp.args.Composite(
        model=ocp.args.StandardSave(tree["params"]), moments=ocp.args.StandardSave(moments),
        note=ocp.args.JsonSave({"a": 1})))
import optax
from flax.training.train_state import TrainState
state = TrainState.create(apply_fn=None, params=tree["params"], tx=optax.adam(1e-3))
with ocp.StandardCheckpointer() as c: c.save(root / "state", state)
"""
    orbax(tmp_path, nested(HELD), code)
    require_all(tmp_path / "m", held, "model/")
    for place, prefix in (
        ("m", "model/"),
        ("m/2", "model/"),
        ("m/2/model", ""),
        ("state", "params/"),
    ):
        report = inspect_checkpoint(tmp_path / place, image_size=IMAGE)
        assert not report["ambiguous"]
        assert report["dialect"] == "google-vit"
        assert report["candidates"][0]["prefix"] == prefix
    report = inspect_checkpoint(tmp_path / "m" / "2" / "moments", image_size=IMAGE)
    assert "is what an optimizer keeps of a kernel" in report["refused"]


def test_arrays_of_several_devices_are_read_whole(tmp_path):
    code = """
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
kernel = jax.device_put(tree["kernel"], NamedSharding(mesh, P(None, "y", None, "x")))
bias = jax.device_put(jnp.asarray(tree["bias"], "bfloat16"), NamedSharding(mesh, P("x")))
for name, ways in (("a", {}), ("b", {"use_zarr3": True}), ("c", {"use_ocdbt": False})):
    ocp.PyTreeCheckpointer(**ways).save(root / name, {"kernel": kernel, "bias": bias})
"""
    held = {"kernel": rows(*PATCH, C, D), "bias": rows(D)}
    orbax(tmp_path, held, code, devices=4)
    held["bias"] = held["bias"].astype(ml_dtypes.bfloat16)
    for name in "abc":
        require_all(tmp_path / name, held)
    assert len(list((tmp_path / "c" / "kernel").glob("0.*.0.*"))) == 4
    (tmp_path / "c" / "kernel" / "0.1.0.1").unlink()
    assert "a chunk of kernel is missing" in refused(tmp_path / "c")


NNX = """
from flax import nnx
class Model(nnx.Module):
    def __init__(self, rngs):
        self.patches = nnx.Conv(3, 20, (6, 4), strides=(6, 4), padding="VALID", rngs=rngs)
        self.cls = nnx.Param(jax.random.normal(rngs.params(), (1, 1, 20)))
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 9, 20)))
        self.drop = nnx.Dropout(0.1, rngs=rngs)
model = Model(nnx.Rngs(0))
model.patches.bias.value = jax.random.normal(jax.random.key(1), (20,))
state = nnx.state(model, nnx.Param)
with ocp.StandardCheckpointer() as c:
    c.save(root / "state", state)
    c.save(root / "whole", nnx.state(model))
    c.save(root / "pure", nnx.to_pure_dict(state))
np.save(root / "computed.npy", model.patches(jnp.asarray(tree["images"])).reshape(2, -1, 20))
"""


def test_a_module_of_nnx_computes_what_is_read(tmp_path):
    images = rows(2, *IMAGE, C)
    orbax(tmp_path, {"images": images}, NNX)
    expected = np.load(tmp_path / "computed.npy")
    for name in ("state", "whole", "pure"):
        told = {"from_": "flax-conv", "prefix": "patches/"}
        report = inspect_checkpoint(tmp_path / name, **told, image_size=IMAGE)
        assert not report["refused"]
        assert ("nnx.State" in str(report)) == (name != "pure")
        found = embed(tmp_path / name, images.transpose(0, 3, 1, 2), **told)
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_key_value_is_left_out_only_where_it_is_alone():
    leaves = [("", ("a", "value")), ("", ("b", "value")), ("", ("b", "other")), ("", ("value",))]
    assert [name for name, _ in names_of(leaves)] == ["a", "b/value", "b/other", "value"]
    twins = [("", ("a", "value")), ("", ("a",))]
    assert [name for name, _ in names_of(twins)] == ["a/value", "a"]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_written_is_restored_by_orbax_to_the_last_bit(dtype, tmp_path):
    from patchparity.porting.files.writing import write_checkpoint

    held = tensors(dtype)
    held["params/cls"] = np.zeros((1, 1, D), dtype)
    write_checkpoint(tmp_path / "new.orbax", held)
    assert not list(tmp_path.glob(".patchparity-*"))
    require_all(tmp_path / "new.orbax", held)
    code = """
from orbax.checkpoint.experimental import v1
from jax.sharding import SingleDeviceSharding
path = root / "new.orbax"
here = SingleDeviceSharding(jax.devices()[0])
asked = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here), tree)
restored = [ocp.StandardCheckpointer().restore(path), ocp.PyTreeCheckpointer().restore(path),
            v1.load(path), ocp.StandardCheckpointer().restore(path, asked)]
for each in restored:
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes(),
        tree, dict(each))
    assert all(jax.tree.leaves(same)), same
print("same")
"""
    assert orbax(tmp_path, nested(held), code).strip() == "same"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_siglip_of_transformers_goes_there_and_back(dtype, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=24,
        patch_size=6,
    )
    torch.manual_seed(0)
    model = transformers.SiglipVisionModel(config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "siglip")
    report = port(tmp_path / "siglip", tmp_path / "s.orbax", "big-vision-vit")
    assert report.ok
    port(
        tmp_path / "s.orbax",
        tmp_path / "back.safetensors",
        "hf-siglip",
        image_size=24,
    )
    with opened(tmp_path / "siglip") as source, opened(tmp_path / "back.safetensors") as back:
        for name in back.tensors:
            own = next(other for other in source.tensors if other.endswith(name))
            assert back.read(name).tobytes() == source.read(own).tobytes()
        assert len(back.tensors) == 3


@pytest.mark.parametrize("form", FORMS)
def test_a_stage_is_replaced_in_a_copy(form, saved, tmp_path):
    new = {f"params/{name}": rows(*shape) for name, shape in NAMES.items()}
    new.pop("params/head/kernel")
    with opened(saved / form) as old:
        before = {name: old.read(name) for name in old.tensors}
    np.savez(tmp_path / "new.npz", **{k.removeprefix("params/"): v for k, v in new.items()})
    report = port(
        tmp_path / "new.npz",
        tmp_path / "out.orbax",
        "google-vit",
        into=saved / form,
        image_size=IMAGE,
    )
    assert report.ok
    require_all(tmp_path / "out.orbax", {**before, **new})
    with opened(saved / form) as old:
        assert all(old.read(name).tobytes() == before[name].tobytes() for name in before)


def test_a_copy_has_no_place_for_what_is_not_there(saved, tmp_path):
    held = {name.removeprefix("params/"): rows(*shape) for name, shape in NAMES.items()}
    np.savez(tmp_path / "new.npz", **held)
    folder = copied(saved, "folders", tmp_path)
    tree = json.loads((folder / "_METADATA").read_text())
    del tree["tree_metadata"]["('params', 'cls')"]
    (folder / "_METADATA").write_text(json.dumps(tree))
    with pytest.raises(PatchParityError):
        port(
            tmp_path / "new.npz", tmp_path / "o.orbax", "google-vit", into=folder, image_size=IMAGE
        )
    assert not (tmp_path / "o.orbax").exists()
    (tmp_path / "there.orbax").mkdir()
    with pytest.raises(PatchParityError, match="a folder replaces nothing"):
        port(tmp_path / "new.npz", tmp_path / "there.orbax", "google-vit", image_size=IMAGE)


def _without(name):
    def change(folder):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return change


def _tree(old, new):
    def change(folder):
        path = folder / "_METADATA"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


def _array(name, key, value):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


KERNEL = "params.embedding.kernel"
DAMAGE = [
    ("folders", _without(f"{KERNEL}/0.0.0.0"), f"a chunk of {KERNEL} is missing"),
    ("zarr3-folders", _without(f"{KERNEL}/c"), f"a chunk of {KERNEL} is missing"),
    ("folders", _without(KERNEL), "its tree has params/embedding/kernel, and no array is there"),
    ("pytree", _without("d"), "NOT_FOUND"),
    ("pytree", _without("ocdbt.process_0"), "damaged or hostile"),
    ("pytree", _without("manifest.ocdbt"), "its parts were never merged"),
    ("folders", _tree('"embedding"', '"../../x"'), "is no name of an array"),
    ("folders", _tree('"embedding"', '"/etc"'), "no array is there"),
    ("pytree", _tree('"key_metadata"', '"keys"'), "it tells no tree"),
    ("folders", _array(f"{KERNEL}/.zarray", "shape", [2**40, 4, 3, 20]), "lies in"),
    ("folders", _array(f"{KERNEL}/.zarray", "shape", [6, 4, 3]), "tells no array"),
    ("folders", _array(f"{KERNEL}/.zarray", "shape", [12, 4, 3, 20]), "is missing"),
    ("folders", _array(f"{KERNEL}/.zarray", "chunks", [2**20, 2**20, 3, 20]), "lies in chunks"),
    ("folders", _array(f"{KERNEL}/.zarray", "dtype", "<f8"), "damaged or hostile"),
    ("folders", _array(f"{KERNEL}/.zarray", "dtype", [["a", "<f4"]]), "tells no array"),
    ("zarr3-folders", _array(f"{KERNEL}/zarr.json", "data_type", "1e+308"), "tells no array"),
]


@pytest.mark.parametrize(("form", "change", "why"), DAMAGE)
def test_what_is_not_whole_is_refused(form, change, why, saved, tmp_path):
    folder = copied(saved, form, tmp_path)
    change(folder)
    message = refused(folder)
    assert why in message
    assert str(folder) in message
    assert "\n" not in message


def test_zeros_that_an_older_orbax_did_not_write_are_told(saved, tmp_path):
    """Before, arrays of zeros were left out: in OCDBT the index tells that, among folders nothing
    does."""
    import tensorstore

    for form, ocdbt in (("pytree", True), ("folders", False)):
        folder = copied(saved, form, tmp_path)
        _tree('"store_array_data_equal_to_fill_value": true', '"store_array": true')(folder)
        base = {"driver": "file", "path": f"{folder}/"}
        store = {"driver": "ocdbt", "base": base} if ocdbt else base
        kept = tensorstore.KvStore.open(store).result()
        kept.delete_range(tensorstore.KvStore.KeyRange("params.cls/0", "params.cls/1")).result()
        if not ocdbt:
            assert "may be zeros that were not written, or a file that is lost" in refused(folder)
            continue
        with opened(folder) as checkpoint:
            assert not checkpoint.read("params/cls").any()
            assert "which are zeros" in checkpoint.told["params/cls"]
        (folder / "_METADATA").unlink()
        assert "a chunk of params.cls is missing" in refused(folder)


def test_arrays_in_a_file_of_msgpack_are_read_as_orbax_kept_them_before(saved, tmp_path):
    serialization = pytest.importorskip("flax.serialization")
    folder = copied(saved, "folders", tmp_path)
    (folder / "_METADATA").unlink()
    shutil.rmtree(folder / "params.cls")
    cls = rows(1, 1, D)
    tree = nested({name: f"PLACEHOLDER://{name.replace('/', '.')}" for name in HELD})
    tree["params"]["cls"] = cls
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    require_all(folder, {**HELD, "params/cls": cls})


def test_what_one_process_wrote_is_not_read_alone(saved):
    assert "name the folder that it is in" in refused(saved / "pytree" / "ocdbt.process_0")


def test_without_tensorstore_it_says_what_to_install(saved, monkeypatch):
    import importlib.util

    from patchparity.porting.files import orbax_files

    orbax_files.SERVER.end()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'patchparity[orbax]'" in refused(saved / "pytree")
