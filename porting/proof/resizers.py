"""The resizing functions of the libraries themselves, by recipe."""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.recipes import LIBRARIES

Resizer = Callable[[NDArray[np.float32], tuple[int, int]], NDArray[Any]]
"""Resizes `(H, W, D)`, float32, to new rows and columns."""


def resizer(recipe: str) -> Resizer | None:
    """What the recipe's library computes, by its own function; None where it is not installed, or
    has none: SciPy's without its zeros."""
    name = LIBRARIES[recipe][0] if recipe in LIBRARIES else recipe
    family, _, rest = name.partition("-")
    module, make = _FAMILIES.get(family, ("", None))
    if make is None or name.endswith("-filled") or importlib.util.find_spec(module) is None:
        return None
    return make(rest)


def _torch(rest: str) -> Resizer | None:
    import torch

    if rest.endswith("-zeros"):
        return _grid_sample(rest.removesuffix("-zeros"))
    mode, arguments = _parts(rest)

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        images = torch.from_numpy(table).permute(2, 0, 1)[None]
        if grid[1] == 1:  # torch 2.13 gets one column wrong, antialiased, and one row right
            turned = images.transpose(2, 3).contiguous()
            resized = torch.nn.functional.interpolate(turned, grid[::-1], mode=mode, **arguments)
            return np.asarray(resized[0].permute(2, 1, 0))
        resized = torch.nn.functional.interpolate(images, grid, mode=mode, **arguments)
        return np.asarray(resized[0].permute(1, 2, 0))

    return resize


def _grid_sample(mode: str) -> Resizer:
    import torch

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        images = torch.from_numpy(table).permute(2, 0, 1)[None]
        at = [(torch.arange(n) + 0.5) / n * 2 - 1 for n in grid]
        where = torch.stack(torch.meshgrid(*at, indexing="ij")[::-1], -1)[None]
        resized = torch.nn.functional.grid_sample(images, where, mode, align_corners=False)
        return np.asarray(resized[0].permute(1, 2, 0))

    return resize


def _parts(rest: str) -> tuple[str, dict[str, bool]]:
    """Mode and arguments of torch's interpolate."""
    mode = rest.removesuffix("-align-corners").removesuffix("-antialias")
    arguments = {"align_corners": rest.endswith("-align-corners")} if mode.startswith("bi") else {}
    if "antialias" in rest:
        arguments["antialias"] = True
    return mode, arguments


def _jax(rest: str) -> Resizer | None:
    import jax

    method, antialias = rest.removesuffix("-antialias"), rest.endswith("-antialias")

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        shape = (*grid, table.shape[2])
        return np.asarray(jax.image.resize(table, shape, method, antialias=antialias))

    return resize


def _tensorflow(rest: str) -> Resizer | None:
    import tensorflow as tf

    method, antialias = rest.removesuffix("-antialias"), rest.endswith("-antialias")

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        return np.asarray(tf.image.resize(table, grid, method, antialias=antialias))

    return resize


def _tensorflow_1(rest: str) -> Resizer | None:
    import tensorflow as tf

    # tf.compat.v1.image has the same operations, and says that they are old
    method, corners = rest.removesuffix("-align-corners"), rest.endswith("-align-corners")
    operation = {"bilinear": tf.raw_ops.ResizeBilinear, "bicubic": tf.raw_ops.ResizeBicubic}[method]

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        resized = operation(images=table[None], size=grid, align_corners=corners)
        return np.asarray(resized[0])

    return resize


def _keras(rest: str) -> Resizer | None:
    backend, _, method = rest.partition("-")
    if importlib.util.find_spec(backend) is None:
        return None
    module = importlib.import_module(f"keras.src.backend.{backend}.image")
    given: Callable[[Any], Any] = lambda array: array  # noqa: E731
    if backend == "torch":
        import torch

        given = torch.from_numpy
    antialias = method.endswith("-antialias")

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        resized = module.resize(
            given(table[None]), grid, method.removesuffix("-antialias"), antialias
        )
        return np.asarray(resized)[0]

    return resize


def _scipy(rest: str) -> Resizer | None:
    from scipy import ndimage

    order = int(rest[-1])

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        factors = [new / old for old, new in zip(table.shape, grid, strict=False)]
        return np.asarray(ndimage.zoom(table, (*factors, 1), order=order))

    return resize


def _pillow(rest: str) -> Resizer | None:
    from PIL import Image

    method = Image.Resampling[rest.upper()]

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        planes = [Image.fromarray(plane) for plane in np.moveaxis(table, 2, 0)]
        return np.stack([np.asarray(plane.resize(grid[::-1], method)) for plane in planes], axis=-1)

    return resize


def _opencv(rest: str) -> Resizer | None:
    import cv2

    method = getattr(cv2, f"INTER_{rest.upper()}")

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        # four channels at most, beyond which some of its methods refuse
        parts = [table[:, :, first : first + 4] for first in range(0, table.shape[2], 4)]
        resized = [
            cv2.resize(np.ascontiguousarray(part), grid[::-1], interpolation=method).reshape(
                *grid, -1
            )
            for part in parts
        ]
        return np.concatenate(resized, axis=-1)

    return resize


def onnx_resize(rest: str, shape: tuple[int, ...], grid: tuple[int, int]) -> bytes:
    """A model of one `Resize` of images of a shape, `(1, D, H, W)`, as a recipe has it."""
    from onnx import TensorProto, helper

    places = ("pytorch-half-pixel", "align-corners", "asymmetric")
    place = next((place for place in places if rest.endswith(place)), "half-pixel")
    node = helper.make_node(
        "Resize",
        ["x", "", "", "sizes"],
        ["y"],
        mode=rest.partition("-")[0],
        coordinate_transformation_mode=place.replace("-", "_"),
        antialias=int("antialias" in rest),
        exclude_outside=int("excluded" in rest),
        cubic_coeff_a=-0.5 if "-a-0.5" in rest else -0.75,
    )
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [*shape[:2], *grid])
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("x", list(shape)), ("y", None))
    ]
    graph = helper.make_graph([node], "resize", values[:1], values[1:], [sizes])
    opset = helper.make_opsetid("", 19)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    return bytes(model.SerializeToString())


def _onnx(rest: str) -> Resizer | None:
    if importlib.util.find_spec("onnx") is None:
        return None
    import onnxruntime

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        images = np.ascontiguousarray(table.transpose(2, 0, 1)[None])
        model = onnxruntime.InferenceSession(
            onnx_resize(rest, images.shape, grid), providers=["CPUExecutionProvider"]
        )
        return np.asarray(model.run(None, {"x": images})[0][0].transpose(1, 2, 0))

    return resize


def _openvino(rest: str) -> Resizer | None:
    import openvino
    from openvino import opset11

    places = ("pytorch-half-pixel", "align-corners", "asymmetric")
    place = next((place for place in places if rest.endswith(place)), "half-pixel")
    mode = rest.replace("-", "_") if "pillow" in rest else rest.partition("-")[0]
    cubic = {"cube_coeff": -0.5 if mode == "bicubic_pillow" or "-a-0.5" in rest else -0.75}

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        images = np.ascontiguousarray(table.transpose(2, 0, 1)[None])
        none = np.zeros(4, np.int64)
        given = opset11.parameter(images.shape, np.float32)
        resized = opset11.interpolate(
            given,
            np.array(grid, np.int64),
            mode if "pillow" in mode or mode == "cubic" else "linear_onnx",
            "sizes",
            none,
            none,
            coordinate_transformation_mode=place.replace("-", "_"),
            axes=np.array([2, 3], np.int64),
            **cubic,
        )
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        model = openvino.compile_model(openvino.Model([resized], [given]), "CPU", exact)
        return np.asarray(model(images)[0][0].transpose(1, 2, 0))

    return resize


def _mlx(rest: str) -> Resizer | None:
    import mlx.core
    from mlx import nn

    mode, corners = rest.removesuffix("-align-corners"), rest.endswith("-align-corners")

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        factors = tuple(new / old for old, new in zip(table.shape, grid, strict=False))
        layer = nn.Upsample(factors, mode=mode, align_corners=corners)
        return np.array(layer(mlx.core.array(table[None])))[0]

    return resize


def _dinov2(rest: str) -> Resizer | None:
    import torch

    def resize(table: NDArray[np.float32], grid: tuple[int, int]) -> NDArray[Any]:
        images = torch.from_numpy(table).permute(2, 0, 1)[None]
        factors = tuple((new + 0.1) / old for old, new in zip(table.shape, grid, strict=False))
        resized = torch.nn.functional.interpolate(images, scale_factor=factors, mode="bicubic")
        return np.asarray(resized[0].permute(1, 2, 0))

    return resize


_FAMILIES: dict[str, tuple[str, Callable[[str], Resizer | None]]] = {
    "torch": ("torch", _torch),
    "jax": ("jax", _jax),
    "tf": ("tensorflow", _tensorflow),
    "tf1": ("tensorflow", _tensorflow_1),
    "keras": ("keras", _keras),
    "scipy": ("scipy", _scipy),
    "pillow": ("PIL", _pillow),
    "opencv": ("cv2", _opencv),
    "onnx": ("onnxruntime", _onnx),
    "openvino": ("openvino", _openvino),
    "mlx": ("mlx", _mlx),
    "dinov2": ("torch", _dinov2),
}
"""What is imported, and what makes a resizer of the rest of a recipe's name, by its first word."""
