"""Pictures resized as image libraries do it, on uint8 and on float, in NumPy, to the last bit where
they use whole numbers.

Pictures are `(H, W, C)`, as files hold them.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError, require_array, require_choice, require_sizes
from .recipes import RECIPES
from .resample import (
    SUPPORT,
    Rule,
    kernel_values,
    nearest_samples,
    resize_axes,
    resize_matrix,
)

Size = tuple[int, int]


def resize_pixels(
    picture: NDArray[Any], size: Size, method: str, *, reducing_gap: float | None = None
) -> NDArray[Any]:
    """Resize a picture as an image library does.

    Args:
        picture: `(H, W, C)`, uint8 or floating-point.
        size: new rows and columns.
        method: a name of `METHODS`: the library, its filter, and whether it antialiases:
            `pillow-bicubic` (as of Pillow 13; `pillow-bicubic-12` up to 12),
            `torchvision-bilinear-antialias`, `tf-bilinear`, `opencv-linear`, `jax-cubic-antialias`.
        reducing_gap: Pillow's: by how much more than asked the picture is first reduced by a box.

    Returns:
        `(*size, C)`; uint8 of uint8 where the library gives that (Pillow, torchvision, OpenCV),
        else float32.

    Raises:
        PatchParityError: a picture of another rank or type, sizes below 1, an unknown method.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
        >>> patchparity.resize_pixels(photo, (24, 24), "pillow-bicubic").dtype
        dtype('uint8')
    """
    require_array("picture", picture)
    require_choice("method", method, METHODS)
    if picture.ndim != 3 or 0 in picture.shape:
        raise PatchParityError(f"picture of shape {picture.shape}: expected (H, W, C)")
    if picture.dtype != np.uint8 and picture.dtype.kind != "f":
        raise PatchParityError(f"picture of dtype {picture.dtype}: expected uint8 or floats")
    require_sizes("size", size, (2,))
    if reducing_gap is not None:
        if not method.startswith("pillow-") or not reducing_gap >= 1:
            raise PatchParityError("a reducing gap is Pillow's, and at least 1")
        return _pillow_reduced(picture, size, method, reducing_gap)
    return METHODS[method](picture, (int(size[0]), int(size[1])))


# ---- Pillow: 8-bit weights in fixed point, columns first, then rows


PILLOW_BITS = 22
"""Bits behind the point of Pillow's weights: 32 less 8 of a pixel and 2 to spare.

Source: `PRECISION_BITS` of `Resample.c`, Pillow 13."""


def _pillow(picture: NDArray[Any], size: Size, name: str, order: str = "") -> NDArray[Any]:
    box = (0.0, 0.0, *map(float, picture.shape[:2]))
    return _pillow_box(picture, size, name, box, order)


def _pillow_box(
    picture: NDArray[Any],
    size: Size,
    name: str,
    box: tuple[float, ...],
    order: str = "",
) -> NDArray[Any]:
    """A part of a picture, `(top, left, bottom, right)`, resized as Pillow does.

    Up to version 12 it resizes columns first (`columns`); since 13 rows, where these become fewer
    by more than twice as many as the columns do.
    """
    rule = RECIPES[f"pillow-{name}"].rule
    if rule.kernel == "nearest":
        return _nearest(picture, size, rule)
    fewer = [old - new for old, new in zip(picture.shape, size, strict=False)]
    rows_first = not order and fewer[0] > 0 and fewer[0] > 2 * fewer[1]
    for axis in (0, 1) if rows_first else (1, 0):
        count, low, high = size[axis], box[axis], box[axis + 2]
        if count == picture.shape[axis] and low == 0 and high == picture.shape[axis]:
            continue
        matrix = _pillow_matrix(rule, picture.shape[axis], count, low, high)
        picture = _pillow_pass(picture, matrix, axis)
    return picture


def _nearest(picture: NDArray[Any], size: Size, rule: Rule) -> NDArray[Any]:
    rows, columns = (
        nearest_samples(rule, old, new) for old, new in zip(picture.shape, size, strict=False)
    )
    return np.ascontiguousarray(picture[rows][:, columns])


def _pillow_matrix(
    rule: Rule, size: int, new_size: int, low: float, high: float
) -> NDArray[np.float64]:
    """The weights of one axis, `(new_size, size)`, of the part of it between two places, in the
    order of operations of `precompute_coeffs`: a tie of the box depends on it."""
    step = (high - low) / new_size
    stretch = max(step, 1.0)
    center = low + (np.arange(new_size) + 0.5) * step
    support = SUPPORT[rule.kernel] * stretch
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    last = np.minimum((center + support + 0.5).astype(np.int64), size)
    old = np.arange(size)
    weights = _pillow_kernel(rule, (old - center[:, None] + 0.5) * (1.0 / stretch))
    weights = np.where((old >= first[:, None]) & (old < last[:, None]), weights, 0.0)
    # added up one after the other, as a loop does it
    return np.asarray(weights / np.cumsum(weights, axis=1)[:, -1:])


def _pillow_kernel(rule: Rule, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """A kernel's values; sines by the C library, whose last bit NumPy's own do not have."""
    if rule.kernel not in ("lanczos3", "hamming"):
        return kernel_values(rule, -distance)
    values = np.zeros(distance.shape)
    inside = np.abs(distance) < SUPPORT[rule.kernel]
    one = _lanczos if rule.kernel == "lanczos3" else _hamming
    values[inside] = [one(x) for x in distance[inside].tolist()]
    return values


def _sinc(x: float) -> float:
    return 1.0 if x == 0 else math.sin(x * math.pi) / (x * math.pi)


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3)


def _hamming(x: float) -> float:
    if x == 0:
        return 1.0
    # its two constants are of float32, and do not sum to 1
    share = float(np.float32(0.54)) + float(np.float32(0.46)) * math.cos(x * math.pi)
    return _sinc(x) * share


def _pillow_pass(picture: NDArray[Any], matrix: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """One axis: sums of whole numbers, rounded and cut off to 8 bits; floats in float64, rounded to
    their type."""
    if picture.dtype != np.uint8:
        return _along(picture.astype(np.float64), matrix, axis).astype(picture.dtype)
    scaled = matrix * (1 << PILLOW_BITS)
    whole = np.trunc(scaled + np.copysign(0.5, scaled))
    # whole numbers below 2⁵³: products and sums in float64 are exact
    sums = _along(picture.astype(np.float64), whole, axis) + (1 << (PILLOW_BITS - 1))
    return np.floor(sums / (1 << PILLOW_BITS)).clip(0, 255).astype(np.uint8)


def _along(
    picture: NDArray[np.float64], matrix: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    if axis == 1:
        return np.asarray(np.matmul(matrix, picture))
    height, width, channels = picture.shape
    return np.asarray((matrix @ picture.reshape(height, -1)).reshape(-1, width, channels))


def _pillow_reduced(picture: NDArray[Any], size: Size, method: str, gap: float) -> NDArray[Any]:
    """What `Image.resize(..., reducing_gap=gap)` gives: a box of whole pixels first, then the
    filter on what is left.

    Source: `Image.resize` and `Reduce.c` of Pillow 13.
    """
    name = method.removeprefix("pillow-")
    factors = [max(int(old / new / gap), 1) for old, new in zip(picture.shape, size, strict=False)]
    if name == "nearest" or max(factors) == 1:
        return _pillow(picture, size, name)
    height, width = picture.shape[:2]
    reduced = _reduced(picture, factors[0], factors[1])
    # a box is of float32
    ends = np.array([height / factors[0], width / factors[1]], np.float32)
    box = (0.0, 0.0, *map(float, ends))
    return _pillow_box(reduced, size, name, box)


def _reduced(picture: NDArray[Any], down: int, across: int) -> NDArray[Any]:
    """Means of boxes of whole pixels; those at the end may be smaller."""
    height, width, channels = picture.shape
    rows, columns = -(-height // down), -(-width // across)
    result = np.empty((rows, columns, channels), picture.dtype)
    for row_part, down_by in ((slice(0, height // down), down), (slice(height // down, rows), 0)):
        for column_part, across_by in (
            (slice(0, width // across), across),
            (slice(width // across, columns), 0),
        ):
            tall, wide = down_by or height % down, across_by or width % across
            if not tall or not wide:
                continue
            part = picture[
                row_part.start * down : row_part.start * down
                + (row_part.stop - row_part.start) * tall,
                column_part.start * across : column_part.start * across
                + (column_part.stop - column_part.start) * wide,
            ]
            boxes = part.reshape(
                row_part.stop - row_part.start, tall, column_part.stop - column_part.start, wide, -1
            )
            sums = boxes.sum(axis=(1, 3), dtype=np.float64)
            if picture.dtype == np.uint8:
                count = tall * wide
                multiplier = int(np.float32(2**32) / np.float32(256 * count))
                whole = (sums + count // 2) * multiplier
                result[row_part, column_part] = np.floor(whole / 2**24).clip(0, 255)
            else:
                result[row_part, column_part] = sums / (tall * wide)
    return result


# ---- torchvision on tensors: torch's own


def _torchvision(picture: NDArray[Any], size: Size, name: str) -> NDArray[Any]:
    """`torchvision.transforms.v2.functional.resize` of a tensor on a CPU.

    On uint8 it is computed in whole numbers, in weights of 16 bits; without AVX2, and in versions
    before 0.20 for bicubic, in float32, rounded.
    """
    recipe = RECIPES[f"torch-{name}"]
    if picture.shape[:2] == size:
        return picture.copy()
    if recipe.rule.kernel == "nearest":
        return _nearest(picture, size, recipe.rule)
    if picture.dtype == np.uint8:
        return _torch_uint8(picture, size, recipe.rule)
    return _float32(picture, size, recipe.rule).astype(picture.dtype)


def _torch_uint8(picture: NDArray[Any], size: Size, rule: Rule) -> NDArray[Any]:
    """torch's interpolation of uint8, columns first, in weights of 16 bits with as many behind the
    point as the largest leaves.

    Source: `HelperInterpBase::_compute_index_ranges_int16_weights` of ATen 2.13.
    """
    for axis in (1, 0):
        if picture.shape[axis] == size[axis]:
            continue
        matrix = resize_matrix(rule, picture.shape[axis], size[axis])
        bits = _bits_of(float(matrix.max()))
        scaled = matrix * (1 << bits)
        whole = np.trunc(scaled + np.copysign(0.5, scaled))
        sums = _along(picture.astype(np.float64), whole, axis) + (1 << (bits - 1))
        picture = np.floor(sums / (1 << bits)).clip(0, 255).astype(np.uint8)
    return picture


def _bits_of(largest: float) -> int:
    """Bits behind the point: as many as keep the largest weight below 2¹⁵, 22 at most."""
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits


def _float32(picture: NDArray[Any], size: Size, rule: Rule) -> NDArray[np.float32]:
    """Weights and sums of float64, rounded once; a library's own lie within `resize_bound`."""
    matrices = [
        resize_matrix(rule, old, new) for old, new in zip(picture.shape, size, strict=False)
    ]
    return resize_axes(picture, matrices[0], matrices[1]).astype(np.float32)


# ---- tf.image and jax.image: float32 of whatever is given


def _floating(picture: NDArray[Any], size: Size, recipe: str) -> NDArray[Any]:
    rule = RECIPES[recipe].rule
    if rule.kernel == "nearest":  # keeps the type
        rows, columns = (
            nearest_samples(rule, old, new) for old, new in zip(picture.shape, size, strict=False)
        )
        return picture[rows][:, columns]
    return _float32(picture, size, rule)


# ---- OpenCV: bilinear of 8 bits in fixed point, area


def _opencv(picture: NDArray[Any], size: Size, name: str) -> NDArray[Any]:
    """`cv2.resize`; of uint8 `linear` in whole numbers, and the others within one of theirs, for
    their sums are of float32."""
    if picture.shape[:2] == size:
        return picture.copy()
    rule = RECIPES[f"opencv-{name}"].rules(picture.shape[:2], size)[0]
    if rule.kernel == "nearest":
        return _nearest(picture, size, rule)
    if picture.dtype != np.uint8:
        return _float32(picture, size, rule).astype(picture.dtype)
    if rule.kernel in ("linear", "area-linear"):
        return _opencv_linear(picture, size, rule)
    if name == "area" and all(
        old == 2 * new for old, new in zip(picture.shape, size, strict=False)
    ):
        boxes = picture.reshape(size[0], 2, size[1], 2, -1).sum(axis=(1, 3), dtype=np.int64)
        # halves upwards, but where there are two channels
        even = np.rint(boxes / 4).astype(np.uint8)
        return even if picture.shape[2] == 2 else ((boxes + 2) >> 2).astype(np.uint8)
    rows, columns = (
        resize_matrix(rule, old, new) for old, new in zip(picture.shape, size, strict=False)
    )
    return np.rint(resize_axes(picture, rows, columns)).clip(0, 255).astype(np.uint8)


OPENCV_BITS = 11
"""Bits behind the point of OpenCV's weights, `INTER_RESIZE_COEF_BITS`."""


def _opencv_linear(picture: NDArray[Any], size: Size, rule: Rule) -> NDArray[np.uint8]:
    """OpenCV's bilinear of 8 bits: weights of 11 bits, four bits of each row's sums dropped before
    they are multiplied, and 16 of the products before these are added."""
    pairs = [
        _opencv_taps(rule, old, new, along_rows=axis == 1)
        for axis, (old, new) in enumerate(zip(picture.shape, size, strict=False))
    ]
    (top, bottom, of_rows), (left, right, of_columns) = pairs
    whole = picture.astype(np.int64)
    first, second = (weights[None, :, None] for weights in of_columns)
    rows = whole[:, left] * first + whole[:, right] * second
    upper, lower = (weights[:, None, None] for weights in of_rows)
    sums = ((upper * (rows[top] >> 4)) >> 16) + ((lower * (rows[bottom] >> 4)) >> 16)
    return np.asarray(((sums + 2) >> 2).clip(0, 255).astype(np.uint8))


def _opencv_taps(
    rule: Rule, size: int, new_size: int, along_rows: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The two old samples of each new one, and their weights, `(2, new_size)`."""
    new, step = np.arange(new_size), 1.0 / (new_size / size)
    if rule.kernel == "area-linear":
        start = np.floor(new * step).astype(np.int64)
        part = ((new + 1) - (start + 1) * (new_size / size)).astype(np.float32)
        part = np.where(part <= 0, np.float32(0), part - np.floor(part))
    else:
        at = ((new + 0.5) * step - 0.5).astype(np.float32)
        start = np.floor(at).astype(np.int64)
        part = at - start.astype(np.float32)
    if along_rows:  # beyond the edge there is one sample; of columns of pixels both are the same
        part = np.where((start < 0) | (start >= size - 1), np.float32(0), part)
    weights = np.stack([np.float32(1) - part, part]) * np.float32(1 << OPENCV_BITS)
    ends = start.clip(0, size - 1), (start + 1).clip(0, size - 1)
    return ends[0], ends[1], np.rint(weights).astype(np.int64)


METHODS: dict[str, Callable[[NDArray[Any], Size], NDArray[Any]]] = {
    **{
        name: functools.partial(_pillow, name=name.removeprefix("pillow-"))
        for name in RECIPES
        if name.startswith("pillow-")
    },
    **{
        f"{name}-12": functools.partial(_pillow, name=name.removeprefix("pillow-"), order="columns")
        for name in RECIPES
        if name.startswith("pillow-") and name != "pillow-nearest"
    },
    **{
        f"torchvision-{name}": functools.partial(_torchvision, name=name)
        for name in (
            "nearest",
            "nearest-exact",
            "bilinear",
            "bilinear-antialias",
            "bicubic",
            "bicubic-antialias",
            "lanczos-antialias",
        )
    },
    **{
        name: functools.partial(_floating, recipe=name)
        for name in RECIPES
        if name.startswith(("tf-", "jax-"))
    },
    **{
        name: functools.partial(_opencv, name=name.removeprefix("opencv-"))
        for name in RECIPES
        if name.startswith("opencv-")
    },
}
"""Ways to resize a picture, by library and filter."""


def smart_resize(
    size: Sequence[int], factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """The size that Qwen2-VL and its kin resize a picture to: multiples of a factor, between two
    numbers of pixels, as near as they can be to its shape.

    Args:
        size: rows and columns.
        factor: of a patch, times how many are merged.
        min_pixels, max_pixels: the bounds.

    Raises:
        PatchParityError: a picture more than 200 times as long as it is wide.

    Source: `smart_resize` of transformers 5.23.
    """
    height, width = size
    if max(size) / min(size) > 200:
        raise PatchParityError(
            f"a picture of {height}×{width}: expected an aspect ratio of at most 200"
        )
    rows, columns = (round(side / factor) * factor for side in size)
    if rows * columns > max_pixels:
        by = math.sqrt(height * width / max_pixels)
        rows, columns = (max(factor, math.floor(side / by / factor) * factor) for side in size)
    elif rows * columns < min_pixels:
        by = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * by / factor) * factor for side in size)
    return rows, columns
