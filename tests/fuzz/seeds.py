"""Small valid files of every format that is read, to be mutated."""

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from patchparity.porting.dialects.catalogue import list_dialects
from patchparity.porting.dialects.fit import fit, tensors_of
from patchparity.porting.files.gguf_files import tower_values
from patchparity.porting.files.writing import write_checkpoint

from ..porting.test_dialects import config_of, random_stage


@dataclass(frozen=True)
class Seed:
    """One valid checkpoint.

    Args:
        name: of its kind.
        files: content by name; the first is the one that is opened.
        checked: whether its format has a checksum over every value, so that a changed byte may be
            refused and never read as another value.
    """

    name: str
    files: dict[str, bytes]
    checked: bool = False

    @property
    def first(self) -> str:
        """The file that is opened."""
        return next(iter(self.files))

    def write(self, folder: Path) -> Path:
        """Write it, and return the file that is opened."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder / self.first


def _tflite(kind: str, folder: Path) -> Seed:
    import tensorflow as tf

    draw = np.random.default_rng(4).standard_normal

    def values(*shape: int) -> object:
        return tf.constant(draw(shape).astype(np.float32))

    kernel, bias, table, first = (
        values(4, 5, 3, 24),
        values(24),
        values(1, 13, 24),
        values(1, 1, 24),
    )
    block = values(24, 24)

    def model(images: object) -> object:
        tokens = tf.nn.conv2d(images, kernel, [4, 5], "VALID") + bias
        tokens = tf.reshape(tokens, [-1, 12, 24])
        rows = tf.concat([tf.tile(first, [tf.shape(tokens)[0], 1, 1]), tokens], 1) + table
        mean = tf.reduce_mean(rows, -1, keepdims=True)
        return rows + (rows - mean) @ block

    taken = tf.TensorSpec((1 if kind == "int8" else None, 12, 20, 3), tf.float32)
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(model).get_concrete_function(taken)], tf.Module()
    )
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: (
            [draw((1, 12, 20, 3)).astype(np.float32)] for _ in range(3)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return Seed(f"TFLite {kind}", {"model.tflite": converter.convert()})


def _openvino(narrow: bool, folder: Path) -> Seed:
    import openvino
    from openvino import opset13 as opset

    draw = np.random.default_rng(6).standard_normal

    def values(*shape: int) -> object:
        return opset.constant(draw(shape).astype(np.float32))

    images = opset.parameter([1, 3, 12, 20], openvino.Type.f32, name="images")
    tokens = opset.convolution(images, values(24, 3, 4, 5), [4, 5], [0, 0], [0, 0], [1, 1])
    tokens = opset.reshape(opset.add(tokens, values(1, 24, 1, 1)), [1, 24, 12], False)
    rows = opset.concat([values(1, 1, 24), opset.transpose(tokens, [0, 2, 1])], 1)
    rows = opset.add(rows, values(1, 13, 24))
    normed = opset.mvn(rows, [2], True, 1e-6, "inside_sqrt")
    normed = opset.add(opset.multiply(normed, values(1, 1, 24)), values(1, 1, 24))
    out = opset.add(rows, opset.matmul(normed, values(24, 24), False, True))
    path = folder / "model.xml"
    openvino.save_model(openvino.Model([out], [images], "m"), path, compress_to_fp16=narrow)
    names = ("model.xml", "model.bin")
    files = {name: (folder / name).read_bytes() for name in names}
    return Seed(f"OpenVINO {'float16' if narrow else 'float32'}", files)


GRAPHS: tuple[Callable[[Path], Seed], ...] = (
    *(partial(_tflite, kind) for kind in ("float32", "float16", "int8")),
    *(partial(_openvino, narrow) for narrow in (True, False)),
)
"""Makers of graphs."""


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
        _onnx,
        _onnx_of_rows,
        _onnx_in_two_parts,
        _exported,
        _coreml,
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


def _onnx_model(nodes: list[tuple], shape: list[int], arrays: dict[str, np.ndarray]) -> object:
    """A model of some operators, and a block behind `tokens`."""
    import onnx

    make = onnx.helper
    nodes = [
        *nodes,
        ("LayerNormalization", ["tokens", "gain"], ["normed"], {}),
        ("MatMul", ["normed", "mix"], ["mixed"], {}),
        ("Add", ["tokens", "mixed"], ["out"], {}),
    ]
    draw = np.random.default_rng(7).standard_normal
    arrays = {
        **arrays,
        "gain": draw(16).astype(np.float32),
        "mix": draw((16, 16)).astype(np.float32),
    }
    graph = make.make_graph(
        [make.make_node(op, given, made, **settings) for op, given, made, settings in nodes],
        "g",
        [make.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)


def _onnx_of_patches() -> object:
    draw = np.random.default_rng(8).standard_normal
    settings = {"strides": [4, 5], "kernel_shape": [4, 5], "pads": [0, 0, 0, 0]}
    nodes = [
        ("DequantizeLinear", ["whole", "scale", "zero"], ["kernel"], {"axis": 0}),
        ("Conv", ["image", "kernel", "bias"], ["map"], settings),
        ("Shape", ["map"], ["shape"], {}),
        ("Slice", ["shape", "start", "end"], ["first"], {}),
        ("Concat", ["first", "rest"], ["flat"], {"axis": 0}),
        ("Reshape", ["map", "flat"], ["columns"], {}),
        ("Transpose", ["columns"], ["rows"], {"perm": [0, 2, 1]}),
        ("Expand", ["token", "once"], ["tokens_ahead"], {}),
        ("Concat", ["tokens_ahead", "rows"], ["all"], {"axis": 1}),
        ("Cast", ["table"], ["positions"], {"to": 1}),
        ("Add", ["all", "positions"], ["placed"], {}),
        ("ReduceMean", ["placed", "last"], ["mean"], {}),
        ("Sub", ["placed", "mean"], ["centered"], {}),
        ("Mul", ["centered", "centered"], ["squares"], {}),
        ("ReduceMean", ["squares", "last"], ["variance"], {}),
        ("Add", ["variance", "epsilon"], ["above"], {}),
        ("Sqrt", ["above"], ["root"], {}),
        ("Div", ["centered", "root"], ["tokens"], {}),
    ]
    arrays = {
        "whole": (40 * draw((16, 3, 4, 5))).clip(-127, 127).astype(np.int8),
        "scale": np.abs(draw(16)).astype(np.float32),
        "zero": np.zeros(16, np.int8),
        "bias": draw(16).astype(np.float32),
        "token": draw((1, 1, 16)).astype(np.float32),
        "table": draw((1, 7, 16)).astype(np.float16),
        "start": np.array([0]),
        "end": np.array([1]),
        "rest": np.array([16, -1]),
        "once": np.array([1, 1, 1]),
        "last": np.array([-1]),
        "epsilon": np.array(1e-5, np.float32),
    }
    return _onnx_model(nodes, [1, 3, 8, 15], arrays)


def _onnx(folder: Path) -> Seed:
    return Seed("onnx", {"model.onnx": _onnx_of_patches().SerializeToString()})


def _onnx_of_rows(folder: Path) -> Seed:
    """A matrix over patches that a reshape cuts, of images that a function of the file normalizes,
    in any batch."""
    import onnx

    draw = np.random.default_rng(9).standard_normal
    nodes = [
        ("Normalize", ["image", "mean", "scale"], ["normal"], {"domain": "mine"}),
        ("Reshape", ["normal", "cut"], ["pieces"], {}),
        ("Transpose", ["pieces"], ["turned"], {"perm": [0, 2, 4, 3, 5, 1]}),
        ("Reshape", ["turned", "flat"], ["patches"], {}),
        ("MatMul", ["patches", "matrix"], ["raw"], {}),
        ("Add", ["raw", "bias"], ["tokens"], {}),
    ]
    arrays = {
        "mean": draw((3, 1, 1)).astype(np.float32),
        "scale": np.float32([[[2.0]], [[3.0]], [[4.0]]]),
        "cut": np.array([-1, 3, 2, 4, 3, 5]),
        "flat": np.array([-1, 6, 60]),
        "matrix": draw((60, 16)).astype(np.float32),
        "bias": draw(16).astype(np.float32),
    }
    model = _onnx_model(nodes, [None, 3, 8, 15], arrays)
    make = onnx.helper
    inner = [
        make.make_node("Sub", ["x", "mean"], ["centered"]),
        make.make_node("Mul", ["centered", "scale"], ["y"]),
    ]
    opsets = [make.make_opsetid("", 18)]
    given = ["x", "mean", "scale"]
    model.functions.append(make.make_function("mine", "Normalize", given, ["y"], inner, opsets))
    model.opset_import.append(make.make_opsetid("mine", 1))
    return Seed("onnx of rows", {"model.onnx": model.SerializeToString()})


def _onnx_in_two_parts(folder: Path) -> Seed:
    import onnx

    options = {"location": "model.data", "size_threshold": 0, "save_as_external_data": True}
    onnx.save(_onnx_of_patches(), folder / "two.onnx", **options)
    files = {
        "two.onnx": (folder / "two.onnx").read_bytes(),
        "model.data": (folder / "model.data").read_bytes(),
    }
    return Seed("onnx in two parts", files)


def _exported(folder: Path) -> Seed:
    """A program of torch.export, under timm's names."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = torch.nn.Module()
            self.patch_embed.proj = torch.nn.Conv2d(3, 24, (4, 6), (4, 6))
            self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 24))
            self.pos_embed = torch.nn.Parameter(torch.randn(1, 7, 24))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            tokens = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
            first = self.cls_token.expand(len(images), -1, -1)
            return torch.cat([first, tokens], 1) + self.pos_embed

    torch.manual_seed(1)
    path = folder / "model.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Model().eval(), (torch.zeros(1, 3, 12, 12),))
        torch.export.save(program, path)
    return Seed("torch.export", {path.name: path.read_bytes()}, checked=True)


COREML = """
import sys, torch, coremltools as ct
torch.manual_seed(1)
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Conv2d(3, 24, (4, 6), (4, 6))
        self.token = torch.nn.Parameter(torch.randn(1, 1, 24))
        self.positions = torch.nn.Parameter(torch.randn(1, 7, 24))
        self.norm = torch.nn.LayerNorm(24)
        self.head = torch.nn.Linear(24, 24)
    def forward(self, x):
        x = torch.cat([self.token, self.proj(x).flatten(2).transpose(1, 2)], 1) + self.positions
        return x + self.head(self.norm(x))
given = torch.zeros(1, 3, 12, 12)
model = ct.convert(
    torch.jit.trace(Model().eval(), given),
    inputs=[ct.TensorType(name="x", shape=given.shape)],
    minimum_deployment_target=ct.target.iOS16,
)
opt = ct.optimize.coreml
table = opt.OpPalettizerConfig(nbits=4, mode="uniform", weight_threshold=10)
model = opt.palettize_weights(model, opt.OptimizationConfig(global_config=table))
model.save(sys.argv[1])
"""
"""What coremltools is asked to write; it imports TensorFlow, so in a process of its own."""


def _coreml(folder: Path) -> Seed:
    """A package of CoreML's, with weights in a table of sixteen."""
    package = folder / "model.mlpackage"
    how = [sys.executable, "-c", COREML, str(package)]
    if subprocess.run(how, capture_output=True, check=False).returncode:
        raise ImportError("coremltools writes no package here")
    files = {
        str(file.relative_to(package)): file.read_bytes()
        for file in sorted(package.rglob("*"))
        if file.is_file()
    }
    return Seed("CoreML", {"Manifest.json": files.pop("Manifest.json"), **files})
