"""Small valid graphs of whole models, of every format that keeps one."""

import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .seed import Seed


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


def _onnx_model(nodes: list[tuple[Any, ...]], shape: list[Any], arrays: dict[str, Any]) -> Any:
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


def _onnx_of_patches() -> Any:
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
        "scale": np.array([[[2.0]], [[3.0]], [[4.0]]], np.float32),
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

    class Model(torch.nn.Module):  # type: ignore[misc]
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


GRAPHS: tuple[Callable[[Path], Seed], ...] = (
    *(partial(_tflite, kind) for kind in ("float32", "float16", "int8")),
    *(partial(_openvino, narrow) for narrow in (True, False)),
    _onnx,
    _onnx_of_rows,
    _onnx_in_two_parts,
    _exported,
    _coreml,
)
"""Makers of graphs."""
