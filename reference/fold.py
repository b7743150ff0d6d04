"""Rescaling and normalization of pixels, folded into kernel and bias and taken out of them again.

The stage is linear: W·((x·scale − mean)/std) + b = (W·scale/std)·x + (b − Σ W·mean/std).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError, require_choice
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet's mean and standard deviation of red, green and blue, of pixels between 0 and 1
(torchvision)."""

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Those of OpenAI's CLIP."""

Statistics = float | Sequence[float] | NDArray[Any]
"""A number for all channels, or one for each."""
Border = Literal["refuse", "mean"]


def fold_normalization(
    weights: PatchEmbedWeights,
    mean: Statistics,
    std: Statistics,
    scale: float = 1 / 255,
    *,
    spec: PatchEmbedSpec | None = None,
    border: Border = "refuse",
) -> PatchEmbedWeights:
    """Fold rescaling and normalization into kernel and bias: the tokens of raw pixels x are those
    that the given weights have of images (x·scale − mean)/std.

    The kernel becomes W·scale/std, the bias b − Σ W·mean/std, computed in float64 and rounded once.
    Where images are padded it is not exact: the model pads with zeros behind normalization, which
    in raw pixels are mean/scale. With `border="mean"` raw images must be padded with
    `border_pixels(mean, scale)` by whoever embeds them, before they are cut into patches. Those
    are no whole numbers in general, so bytes cannot hold them.

    Args:
        weights: kernel `(D, *patch, C)` and bias `(D,)` or None, for normalized images. All other
            arrays stay.
        mean: what is subtracted, in the unit of x·scale: a number, or C of them.
        std: what is divided by, above 0: a number, or C of them.
        scale: what raw pixels are multiplied by first; 1/255 of bytes.
        spec: sizes, so that padding is noticed; None where images are not padded.
        border: what to do where `spec` pads: `refuse`, or `mean`, see above.

    Returns:
        Weights for raw pixels, in the dtype of kernel and bias, float32 for narrower ones. Without
            a bias before there is one afterwards, unless every mean is zero.

    Raises:
        PatchParityError: statistics that are not finite or of another number of channels, a
            standard deviation or scale that is not above 0, a norm before the projection
            (`patch_norm`), a spec of other sizes, or one that pads.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec(image_size=(8, 12), patch_size=4, embed_dim=10)
        >>> weights = patchparity.initialize_weights(spec, seed=1)
        >>> pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 12), np.uint8)
        >>> folded = patchparity.fold_normalization(weights, 0.5, 0.25, spec=spec)
        >>> normalized = (pixels / 255 - 0.5) / 0.25
        >>> before = patchparity.patch_embed(normalized, weights, spec)
        >>> bool(np.allclose(patchparity.patch_embed(pixels, folded, spec), before, atol=1e-5))
        True
    """
    require_choice("border", border, get_args(Border))
    statistics = _statistics(weights, mean, std, scale)
    if spec is not None:
        weights.check_spec(spec)
        if border == "refuse" and any(map(any, spec.effective_padding)):
            raise PatchParityError(
                f"images are padded by {spec.effective_padding}, with zeros that follow "
                "normalization, which folded weights do not see in raw pixels; border='mean' folds "
                "for raw images that are padded with border_pixels(mean, scale)"
            )
    shift, spread = statistics
    matrix = weights.kernel.astype(np.float64)
    moved = (matrix * (shift / spread)).sum(axis=tuple(range(1, matrix.ndim)))
    return _replaced(weights, matrix * (scale / spread), -moved if shift.any() else None)


def unfold_normalization(
    weights: PatchEmbedWeights, mean: Statistics, std: Statistics, scale: float = 1 / 255
) -> PatchEmbedWeights:
    """Take rescaling and normalization out of folded weights: `fold_normalization` backward, with
    its arguments."""
    shift, spread = _statistics(weights, mean, std, scale)
    matrix = weights.kernel.astype(np.float64)
    moved = (matrix * (shift / scale)).sum(axis=tuple(range(1, matrix.ndim)))
    return _replaced(weights, matrix * (spread / scale), moved if shift.any() else None)


def border_pixels(mean: Statistics, scale: float = 1 / 255) -> NDArray[np.float64]:
    """What raw images must be padded with where a model pads normalized ones with zeros:
    mean/scale, shape `(C,)`.

    Args:
        mean: as in `fold_normalization`: a number gives one value.
        scale: what raw pixels are multiplied by.

    Raises:
        PatchParityError: numbers that are not finite, a scale that is not above 0.

    Examples:
        >>> import patchparity
        >>> patchparity.border_pixels((0.5, 0.25), 1 / 256).tolist()
        [128.0, 64.0]
    """
    _require_scale(scale)
    return np.atleast_1d(_numbers("mean", mean)) / scale


def _replaced(
    weights: PatchEmbedWeights, kernel: NDArray[np.float64], added: NDArray[np.float64] | None
) -> PatchEmbedWeights:
    """The weights with another kernel and something added to the bias, in their own types."""
    bias = weights.bias
    kernel_type = np.promote_types(weights.kernel.dtype, np.float32)
    bias_type = kernel_type if bias is None else np.promote_types(bias.dtype, np.float32)
    if added is not None:
        bias = (added if bias is None else bias.astype(np.float64) + added).astype(bias_type)
    elif bias is not None:
        bias = bias.astype(bias_type)
    return dataclasses.replace(weights, kernel=kernel.astype(kernel_type), bias=bias)


def _statistics(
    weights: PatchEmbedWeights, mean: Statistics, std: Statistics, scale: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every channel.

    Raises:
        PatchParityError: as `fold_normalization`.
    """
    _require_scale(scale)
    channels = weights.kernel.shape[-1]
    if weights.patch_norm is not None:
        raise PatchParityError(
            "weights with a patch_norm: a norm before the projection is not linear, so nothing "
            "before it can be folded into the kernel"
        )
    found = []
    for name, value in (("mean", mean), ("std", std)):
        numbers = _numbers(name, value)
        if numbers.shape not in ((), (channels,)):
            raise PatchParityError(
                f"{name} of shape {numbers.shape}: expected a number, or one for each of the "
                f"{channels} channels of the kernel {weights.kernel.shape}"
            )
        found.append(np.broadcast_to(numbers, (channels,)))
    if not (found[1] > 0).all():
        raise PatchParityError(f"std={std!r}: expected numbers above 0")
    return found[0], found[1]


def _numbers(name: str, value: Any) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise PatchParityError(f"{name}={value!r}: expected a number, or one a channel") from None
    if not np.isfinite(numbers).all():
        raise PatchParityError(f"{name}={value!r}: expected finite numbers")
    return numbers


def _require_scale(scale: Any) -> None:
    numbers = _numbers("scale", scale)
    if numbers.shape or not numbers > 0:
        raise PatchParityError(f"scale={scale!r}: expected one number above 0")
