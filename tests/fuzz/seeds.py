"""Small valid files of every format that is read, to be mutated."""

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.dialects.fit import fit, tensors_of
from patchparity.porting.files.gguf_files import tower_values
from patchparity.porting.files.writing import write_checkpoint

from ..porting.test_dialects import config_of, random_stage
from .graph_seeds import GRAPHS
from .seed import Seed


def seeds(folder: Path) -> list[Seed]:
    """All of them; a format whose library is not installed is left out."""
    made = [
        _of("hf-vit", "model.safetensors", folder),
        _of("timm-vit", "model.safetensors", folder, config=False),
        _of("hf-qwen2-5-vl", "model.safetensors", folder),
        _of("timm-vit", "model.pt", folder, checked=True),
        _of("google-vit", "model.npz", folder, config=False, checked=True),
        _of("big-vision-vit", "model.npz", folder, config=False, change=_packed, checked=True),
        _sharded(folder),
        *(_gguf(identity, folder) for identity in ("gguf-siglip", "gguf-qwen2-5-vl")),
    ]
    for make in (
        _msgpack,
        _keras_h5,
        _keras_archive,
        _legacy_torch,
        _torch_shards,
        _orbax,
        _orbax_folders,
        _dcp,
        _gguf_quantized,
        *GRAPHS,
    ):
        try:
            made.append(make(folder))
        except ImportError:
            continue
    return made


def _tensors(identity: str) -> tuple[dict[str, np.ndarray], bytes]:
    dialect = list_dialects()[identity]
    weights, spec = random_stage(dialect, 5)
    held, _ = fit(weights, spec, dialect)
    config = json.dumps(config_of(dialect, spec, weights.layout.window)).encode()
    return {**tensors_of(held, spec, dialect), "head.weight": np.zeros((7, 24), np.float32)}, config


def _of(
    identity: str,
    file: str,
    folder: Path,
    config: bool = True,
    checked: bool = False,
    change: Callable[[bytes], bytes] = lambda content: content,
) -> Seed:
    tensors, told = _tensors(identity)
    path = folder / file
    write_checkpoint(path, tensors)
    files = {file: change(path.read_bytes()), **({"config.json": told} if config else {})}
    return Seed(f"{identity} {file}{' deflated' if change is _packed else ''}", files, checked)


def _packed(content: bytes) -> bytes:
    """The same npz with its members deflated."""
    found = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return found.getvalue()


def _sharded(folder: Path) -> Seed:
    tensors, told = _tensors("hf-vit")
    names = list(tensors)
    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        write_checkpoint(folder / file, {name: tensors[name] for name in part})
        files[file] = (folder / file).read_bytes()
        places |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": places}).encode()
    return Seed(
        "sharded safetensors", {"model.safetensors.index.json": index, **files, "config.json": told}
    )


def _msgpack(folder: Path) -> Seed:
    __import__("msgpack")
    return _of(
        "hf-flax-vit" if "hf-flax-vit" in list_dialects() else "google-vit",
        "model.msgpack",
        folder,
        config=False,
    )


def _keras_h5(folder: Path) -> Seed:
    import h5py

    path = folder / "model.weights.h5"
    draw = np.random.default_rng(3).standard_normal
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = draw((4, 5, 3, 16)).astype(np.float32)
        file["layers/conv2d/vars/1"] = draw(16).astype(np.float32)
    return Seed("Keras h5", {"model.weights.h5": path.read_bytes()})


def _keras_archive(folder: Path) -> Seed:
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as file:
        file.writestr("metadata.json", '{"keras_version": "3.15.0"}')
        file.writestr("config.json", '{"class_name": "Functional", "config": {}}')
        file.writestr("model.weights.h5", _keras_h5(folder).files["model.weights.h5"])
    return Seed("Keras archive", {"model.keras": found.getvalue()}, checked=True)


def _torch_state(file: str, folder: Path, names: slice, **options: object) -> bytes:
    import torch

    tensors, _ = _tensors("timm-vit")
    torch.save(
        {name: torch.from_numpy(tensors[name]) for name in list(tensors)[names]},
        folder / file,
        **options,
    )
    return (folder / file).read_bytes()


def _legacy_torch(folder: Path) -> Seed:
    content = _torch_state(
        "legacy.pt", folder, slice(None), _use_new_zipfile_serialization=False, pickle_protocol=2
    )
    assert pickle.PROTO in content[:2]
    return Seed("torch without archive", {"legacy.pt": content})


def _torch_shards(folder: Path) -> Seed:
    tensors, _ = _tensors("timm-vit")
    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for number, part in enumerate((slice(None, None, 2), slice(1, None, 2)), 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        files[file] = _torch_state(file, folder, part)
        places |= dict.fromkeys(list(tensors)[part], file)
    index = json.dumps({"metadata": {}, "weight_map": places}).encode()
    return Seed("shards of torch", {"pytorch_model.bin.index.json": index, **files}, checked=True)


def _of_folder(name: str, first: str, folder: Path) -> Seed:
    """All files of a folder; the one that is opened first."""
    held = {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    return Seed(name, {first: held.pop(first), **held})


def _told_to_orbax(place: Path, names: list[str], driver: str) -> None:
    leaves = {}
    for name in names:
        keys = name.split("/")
        leaves[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False},
        }
    told = {
        "tree_metadata": leaves,
        "use_zarr3": driver == "zarr3",
        "store_array_data_equal_to_fill_value": True,
    }
    (place / "_METADATA").write_text(json.dumps(told))


def _arrays_of_orbax(name: str, folder: Path, driver: str, ocdbt: bool, last: str) -> Seed:
    """What Orbax writes; OCDBT is not packed, so that mutants reach into it."""
    import tensorstore

    place = folder / name.replace(" ", "-")
    place.mkdir()
    base = {"driver": "file", "path": f"{place}/"}
    unpacked = {"driver": "ocdbt", "base": base, "config": {"compression": None}}
    kept = tensorstore.KvStore.open(unpacked if ocdbt else base).result()
    tensors, _ = _tensors("google-vit")
    for tensor, array in tensors.items():
        stored = (tensor + last).replace("/", ".")
        spec = {
            "driver": driver,
            "kvstore": {**kept.spec().to_json(), "path": stored + "/"}
            if ocdbt
            else {**base, "path": f"{place}/{stored}/"},
            "dtype": array.dtype.name,
            "metadata": {"shape": list(array.shape)},
        }
        tensorstore.open(spec, create=True).result().write(array).result()
    _told_to_orbax(place, [tensor + last for tensor in tensors], driver)
    return _of_folder(name, "_METADATA", place)


def _orbax(folder: Path) -> Seed:
    return _arrays_of_orbax("Orbax in OCDBT", folder, "zarr", True, "")


def _orbax_folders(folder: Path) -> Seed:
    """A folder for each array, under the names of an `nnx.State`."""
    return _arrays_of_orbax("Orbax in folders", folder, "zarr3", False, "/value")


def _dcp(folder: Path) -> Seed:
    import torch
    from torch.distributed import checkpoint

    tensors, _ = _tensors("timm-vit")
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checkpoint.save({"model": state}, checkpoint_id=folder / "dcp", no_dist=True)
    return _of_folder("torch.distributed", ".metadata", folder / "dcp")


def _gguf(identity: str, folder: Path) -> Seed:
    """A stage in GGUF beside another tensor, with keys of every kind that is looked at."""
    tensors, _ = _tensors(identity)
    del tensors["head.weight"]
    path = folder / "mmproj.gguf"
    model = list_dialects()[identity].model_types[0]
    told = tower_values(model, (4, 4), (16, 16), 24, 1e-6, 8)
    more = {"clip.vision.image_mean": [0.5, 0.25, 0.125], "tokenizer.tokens": ["a", "", "b" * 20]}
    keys = {key: value for key, value in {**told, **more}.items() if "_size" not in key}
    write_checkpoint(path, {**tensors, "v.post_ln.weight": np.ones(24, np.float32)}, keys)
    return Seed(f"{identity} mmproj.gguf", {"mmproj.gguf": path.read_bytes()})


def _gguf_quantized(folder: Path) -> Seed:
    """The same of several types of blocks, by gguf's own writer."""
    import gguf

    draw, kinds = np.random.default_rng(3).standard_normal, gguf.GGMLQuantizationType
    path = folder / "quantized.gguf"
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_projector_type("gemma3")
    for name, shape, kind in (
        ("v.patch_embd.weight", (32, 3, 2, 32), kinds.Q8_0),
        ("v.patch_embd.bias", (32,), kinds.Q5_1),
        ("v.position_embd.weight", (16, 32), kinds.Q4_0),
    ):
        values = gguf.quants.quantize(draw(shape).astype(np.float32), kind)
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Seed("quantized.gguf", {"quantized.gguf": path.read_bytes()})
