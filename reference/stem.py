"""Stems: convolutions with norms and activations between them, in front of the projection, whose
image is then a map of their features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .activations import ACTIVATIONS
from .embed import patch_embed
from .errors import PatchParityError
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

Activation = Literal["", "relu", "gelu", "hard-swish", "silu"]


@dataclass(frozen=True)
class StemLayer:
    """A convolution, a norm by fixed statistics behind it, which is part of kernel and bias, and an
    activation.

    Args:
        kernel: shape `(D, P_h, P_w, C)`.
        bias: shape `(D,)`, or None.
        stride, padding: along both axes.
        activation: a name of `ACTIVATIONS`.
    """

    kernel: NDArray[Any]
    bias: NDArray[Any] | None
    stride: int
    padding: int
    activation: Activation = ""


def fold_batch_norm(
    kernel: NDArray[Any],
    bias: NDArray[Any] | None,
    norm: Sequence[NDArray[Any]],
    epsilon: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Put a batch norm by fixed statistics into the convolution before it.

    (W·x + b − mean)·scale/√(variance + ε) + shift is a convolution too.

    Args:
        kernel: shape `(D, …)`.
        bias: shape `(D,)`, or None.
        norm: its scale, shift, mean and variance, each of shape `(D,)`.
        epsilon: of the norm.

    Returns:
        Kernel and bias, float64.

    Source: Ioffe, Szegedy, "Batch Normalization" (2015).
    """
    scale, shift, mean, variance = (part.astype(np.float64) for part in norm)
    factor = scale / np.sqrt(variance + epsilon)
    before = 0.0 if bias is None else bias.astype(np.float64)
    folded = kernel.astype(np.float64) * factor.reshape(-1, *[1] * (kernel.ndim - 1))
    return folded, (before - mean) * factor + shift


def apply_stem(
    images: NDArray[Any], stem: Sequence[StemLayer], dtype: DTypeLike = np.float64
) -> NDArray[Any]:
    """Run a stem.

    Args:
        images: shape `(B, C, H, W)`.
        stem: its layers, in order; none leave the images as they are.
        dtype: of the computation and of the result.

    Returns:
        Shape `(B, D, H', W')` with D of the last layer.

    Raises:
        PatchParityError: images that do not fit.
    """
    for layer in stem:
        width, height_of, width_of, channels = layer.kernel.shape
        spec = PatchEmbedSpec(
            images.shape[2:],
            (height_of, width_of),
            channels,
            width,
            layer.stride,
            layer.padding,
            "floor",
        )
        tokens = patch_embed(images, PatchEmbedWeights(layer.kernel, layer.bias), spec, dtype)
        images = tokens.transpose(0, 2, 1).reshape(len(tokens), width, *spec.grid)
        images = ACTIVATIONS[layer.activation](images)
    return images


def features_of(size: tuple[int, ...], stem: Sequence[StemLayer]) -> tuple[int, ...]:
    """Rows and columns of the map that a stem makes of an image of so many rows and columns.

    Raises:
        PatchParityError: an image that is smaller than a kernel.
    """
    for layer in stem:
        kernel = layer.kernel.shape[1:3]
        size = tuple(
            (extent + 2 * layer.padding - kernel_extent) // layer.stride + 1
            for extent, kernel_extent in zip(size, kernel, strict=True)
        )
        if min(size) < 1:
            raise PatchParityError(
                f"an image whose map is of {'×'.join(map(str, size))} is smaller than the stem's "
                "kernels"
            )
    return size


def image_of(features: tuple[int, ...], stem: Sequence[StemLayer]) -> tuple[int, ...]:
    """The least rows and columns of an image of which a stem makes a map of these."""
    for layer in reversed(stem):
        kernel = layer.kernel.shape[1:3]
        features = tuple(
            max((count - 1) * layer.stride + kernel_extent - 2 * layer.padding, 1)
            for count, kernel_extent in zip(features, kernel, strict=True)
        )
    return features
