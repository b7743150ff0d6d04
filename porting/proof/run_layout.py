"""Running a layout where it is used: a kernel as it lies in a file, given to the function of its
own framework that reads it so."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import NHWC, images_to_layout
from ...reference.spec import PatchEmbedSpec

Tokens = NDArray[Any]


def installed(framework: str) -> bool:
    """Whether a framework is here; NumPy's dialects are run by the reference."""
    return (
        framework in ("torch", "jax", "keras") and importlib.util.find_spec(framework) is not None
    )


def runner(
    framework: str, layout: str
) -> Callable[[NDArray[Any], NDArray[Any], NDArray[Any] | None, PatchEmbedSpec], Tokens] | None:
    """What computes tokens from a kernel in a layout in a framework; None where that is not
    installed or has nothing that reads it.

    Returns:
        A function of images `(B, C, H, W)`, the raw kernel, the bias and the spec, all in one
        dtype.
    """
    if not installed(framework):
        return None
    kind = "conv" if "(" not in layout else "matrix"
    return (
        {
            ("torch", "conv"): _torch_conv,
            ("torch", "matrix"): _torch_linear,
            ("jax", "conv"): _jax_conv,
            ("jax", "matrix"): _jax_dense,
            ("keras", "conv"): _keras_conv,
        }.get((framework, kind))
        if layout in _READ[framework]
        else None
    )


_READ: dict[str, tuple[str, ...]] = {
    "torch": ("D C Ph Pw", "D C Pt Ph Pw", "D (C Ph Pw)", "D (Ph Pw C)"),
    "jax": ("Ph Pw C D", "Pt Ph Pw C D", "(Ph Pw C) D", "(C Ph Pw) D"),
    "keras": ("Ph Pw C D", "Pt Ph Pw C D"),
}
"""Layouts that a framework's own functions read as they are."""


def run(
    framework: str,
    layout: str,
    images: NDArray[Any],
    kernel: NDArray[Any],
    bias: NDArray[Any] | None,
    spec: PatchEmbedSpec,
) -> Tokens | None:
    """Tokens `(B, N, D)` of a raw kernel in its own framework, or None where nothing there runs
    it."""
    function = runner(framework, layout)
    if function is None:
        return None
    if framework in ("torch", "jax") and "(" in layout:
        return function(_flattened(images, spec, layout), kernel, bias, spec)
    return function(images, kernel, bias, spec)


def _flattened(images: NDArray[Any], spec: PatchEmbedSpec, layout: str) -> NDArray[Any]:
    """Patches in the order of a matrix's values, by plain loops: nothing of the reference is used,
    which the result is held against."""
    first = "(C" in layout
    rows = []
    for image in images:
        for place in np.ndindex(*spec.grid):
            corner = [at * step for at, step in zip(place, spec.stride, strict=True)]
            window = image[
                (
                    slice(None),
                    *(
                        slice(at, at + size)
                        for at, size in zip(corner, spec.patch_size, strict=True)
                    ),
                )
            ]
            rows.append((window if first else np.moveaxis(window, 0, -1)).ravel())
    return np.array(rows).reshape(len(images), spec.num_patches, spec.patch_values)


def _torch_conv(
    images: NDArray[Any], kernel: NDArray[Any], bias: NDArray[Any] | None, spec: PatchEmbedSpec
) -> Tokens:
    import torch

    from ...backends.torch.adapter import as_array, as_tensor

    convolve = torch.nn.functional.conv2d if spec.spatial_axes == 2 else torch.nn.functional.conv3d
    padding = tuple(before for before, _ in spec.padding)
    grid = convolve(
        as_tensor(images),
        as_tensor(kernel),
        None if bias is None else as_tensor(bias),
        spec.stride,
        padding,
    )
    return as_array(grid.flatten(2).transpose(1, 2))


def _torch_linear(
    patches: NDArray[Any], kernel: NDArray[Any], bias: NDArray[Any] | None, spec: PatchEmbedSpec
) -> Tokens:
    import torch

    from ...backends.torch.adapter import as_array, as_tensor

    return as_array(
        torch.nn.functional.linear(
            as_tensor(patches), as_tensor(kernel), None if bias is None else as_tensor(bias)
        )
    )


def _jax_conv(
    images: NDArray[Any], kernel: NDArray[Any], bias: NDArray[Any] | None, spec: PatchEmbedSpec
) -> Tokens:
    import jax

    letters = "HW" if spec.spatial_axes == 2 else "DHW"
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    placed = images_to_layout(images, NHWC)
    with jax.default_matmul_precision("highest"):
        grid = jax.lax.conv_general_dilated(
            placed, kernel, spec.stride, spec.padding, dimension_numbers=numbers
        )
    tokens = np.asarray(grid).reshape(len(images), spec.num_patches, spec.embed_dim)
    return tokens if bias is None else tokens + bias


def _jax_dense(
    patches: NDArray[Any], kernel: NDArray[Any], bias: NDArray[Any] | None, spec: PatchEmbedSpec
) -> Tokens:
    import jax

    with jax.default_matmul_precision("highest"):
        tokens = np.asarray(jax.numpy.dot(patches, kernel))
    return tokens if bias is None else tokens + bias


def _keras_conv(
    images: NDArray[Any], kernel: NDArray[Any], bias: NDArray[Any] | None, spec: PatchEmbedSpec
) -> Tokens:
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow" and importlib.util.find_spec(
        "tensorflow"
    ):
        from ...backends.tensorflow import import_tensorflow

        import_tensorflow()  # quietly, which Keras does not
    import keras

    padded = np.pad(images_to_layout(images, NHWC), ((0, 0), *spec.padding, (0, 0)))
    output = keras.ops.conv(padded, kernel, spec.stride, "valid", "channels_last")
    tokens = np.asarray(keras.ops.convert_to_numpy(output)).reshape(
        len(images), spec.num_patches, spec.embed_dim
    )
    return tokens if bias is None else tokens + bias
