"""Which patches a projection takes, told by the pixels that it takes: their size, stride and
padding, their grid, and where each value of a row of its matrix stands in a patch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .moves import NotRun

CHUNK = 2**20
"""Values of rows that are compared at a time: 8 MB of indices."""

MOST_CHANNELS = 16
"""Channels of an image, beyond which an axis is none of channels unless a convolution says so:
satellite images have 13."""


@dataclass(frozen=True, eq=False)
class Patches:
    """How rows of pixels are patches of an image.

    Args:
        channel_axis: of the image, as the graph takes it.
        image: its extents, frames in front where there are some.
        channels: of it.
        patch, stride, padding, grid: along each axis.
        columns: where in a patch `(*patch, C)`, flattened, each value of a row stands, `(K,)`.
        rows: which patch of which image of the batch, in raster order, each row is, `(rows,)`.
    """

    channel_axis: int
    image: tuple[int, ...]
    channels: int
    patch: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    grid: tuple[int, ...]
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]

    @property
    def count(self) -> int:
        """Patches of one image."""
        return math.prod(self.grid)


def find_patches(
    places: NDArray[np.int32], shape: tuple[int, ...], channels: NDArray[np.int64] | None
) -> Patches:
    """Tell the patches.

    Args:
        places: which pixel of the flattened images stands in each place of each row, `(rows, K)`;
            -1 for a zero of the padding.
        shape: of the images.
        channels: the channel of each column, where an operator tells it, `(K,)`.

    Raises:
        NotRun: rows that are no patches, in a sentence's end.
    """
    whole = np.flatnonzero((places >= 0).all(axis=1))
    if not whole.size:
        raise NotRun("all of its patches lie over the edge of the image")
    first = np.stack(np.unravel_index(places[whole[0]], shape))  # (axes, K)
    offsets = first - first.min(axis=1, keepdims=True)
    origins = _origins(places, offsets, shape)
    _require_same(places, offsets, origins, shape)
    batched = len(shape) > 3
    if batched and offsets[0].any():
        raise NotRun("its patches lie across several images")
    inner = list(range(1 if batched else 0, len(shape)))
    axis = _channel_axis(offsets, origins, shape, inner, channels)
    spatial = [one for one in inner if one != axis]
    if len(spatial) == 3 and shape[spatial[0]] == 1:
        spatial = spatial[1:]
    steps = [_steps(offsets[one], origins[one], shape[one]) for one in spatial]
    patch, stride, padding, grid = (tuple(each) for each in zip(*steps, strict=True))
    _require_small(patch, shape, spatial)
    order = np.zeros(offsets.shape[1], np.int64)
    for one, size in zip(spatial, patch, strict=True):
        order = order * size + offsets[one]
    order = order * shape[axis] + offsets[axis]
    if np.unique(order).size != order.size or order.size != math.prod(patch) * shape[axis]:
        raise NotRun(
            f"it takes {order.size} values of patches of "
            f"{'×'.join(map(str, patch))} in {shape[axis]} channels: some are left out, or come "
            "twice (dilation)"
        )
    number = origins[0].copy() if batched else np.zeros_like(origins[0])
    for one, step, pad, count in zip(spatial, stride, padding, grid, strict=True):
        number = number * count + (origins[one] + pad) // step
    every = math.prod(grid) * (shape[0] if batched else 1)
    if not np.array_equal(np.sort(number), np.arange(every)):
        raise NotRun("its patches are not those of a grid, each once")
    image = tuple(shape[one] for one in spatial)
    return Patches(axis, image, shape[axis], patch, stride, padding, grid, order, number)


def _origins(
    places: NDArray[np.int32], offsets: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Where each row begins, along each axis of the images, `(axes, rows)`."""
    there = (places >= 0).argmax(axis=1)
    rows = np.arange(len(places))
    if (places[rows, there] < 0).any():
        raise NotRun("some of its patches hold nothing of the image")
    return np.stack(np.unravel_index(places[rows, there], shape)) - offsets[:, there]


def _require_same(
    places: NDArray[np.int32],
    offsets: NDArray[np.int64],
    origins: NDArray[np.int64],
    shape: tuple[int, ...],
) -> None:
    """Raise NotRun unless every row is the first one moved, with zeros outside of the image."""
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    flat, begins = strides @ offsets, strides @ origins
    for part in _parts(len(places), places.shape[1]):
        inside = np.ones((part.stop - part.start, places.shape[1]), bool)
        for axis, size in enumerate(shape):
            at = origins[axis, part, None] + offsets[axis]
            inside &= (at >= 0) & (at < size)
        wanted = np.where(inside, begins[part, None] + flat, -1)
        if not np.array_equal(wanted, places[part]):
            raise NotRun("its rows are not all the same part of an image, moved")


def _parts(rows: int, width: int) -> Iterator[slice]:
    step = max(CHUNK // max(width, 1), 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _channel_axis(
    offsets: NDArray[np.int64],
    origins: NDArray[np.int64],
    shape: tuple[int, ...],
    inner: list[int],
    channels: NDArray[np.int64] | None,
) -> int:
    """The axis of channels: one that every patch has the whole of."""
    full = [
        axis for axis in inner if offsets[axis].max() + 1 == shape[axis] and not origins[axis].any()
    ]
    if channels is not None:
        same = [axis for axis in full if np.array_equal(offsets[axis], channels)]
        if len(same) == 1:
            return same[0]
    few = [axis for axis in full if shape[axis] <= MOST_CHANNELS]
    if len(few) > 1:
        smallest = min(shape[axis] for axis in few)
        few = [axis for axis in few if shape[axis] == smallest]
    if len(few) != 1:
        what = "several axes that" if few else "no axis that"
        raise NotRun(f"its input, {'×'.join(map(str, shape))}, has {what} may be its channels")
    return few[0]


def _steps(
    offsets: NDArray[np.int64], origins: NDArray[np.int64], size: int
) -> tuple[int, int, int, int]:
    """Patch, stride, padding and number of patches along one axis."""
    patch, starts = int(offsets.max()) + 1, np.unique(origins)
    gaps = np.unique(np.diff(starts))
    if gaps.size > 1:
        raise NotRun("its patches do not follow one another at one stride")
    stride = int(gaps[0]) if gaps.size else patch
    padding, count = -int(starts[0]), len(starts)
    if padding < 0:
        raise NotRun(f"its first patch begins at pixel {-padding}")
    if (size + 2 * padding - patch) // stride + 1 != count:
        after = (count - 1) * stride + patch - size - padding
        raise NotRun(
            f"{padding} zeros stand before the image and {after} behind it: padding that is not "
            "the same on both sides is not read"
        )
    return patch, stride, padding, count


def _require_small(patch: tuple[int, ...], shape: tuple[int, ...], spatial: list[int]) -> None:
    if any(size > shape[axis] for size, axis in zip(patch, spatial, strict=True)):
        raise NotRun("its patch is larger than the image")


def windows(
    places: NDArray[np.int32],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """The pixels under each place of a convolution, `(B·grid, C·kernel)`, and the grid.

    Args:
        places: of the image, `(B, C, *sizes)`.
        kernel, stride, pads, dilation: along each axis.
    """
    padded = np.pad(places, ((0, 0), (0, 0), *pads), constant_values=-1)
    reach = tuple((size - 1) * by + 1 for size, by in zip(kernel, dilation, strict=True))
    if any(size < span for size, span in zip(padded.shape[2:], reach, strict=True)):
        raise NotRun("its kernel is larger than the image")
    axes = tuple(range(2, places.ndim))
    dense: NDArray[Any] = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    kept = tuple(slice(None, None, step) for step in stride)
    inner = tuple(slice(None, None, by) for by in dilation)
    taken = dense[(slice(None), slice(None), *kept, *inner)]
    grid = taken.shape[2 : places.ndim]
    count = len(axes)
    order = (0, *range(2, 2 + count), 1, *range(2 + count, 2 + 2 * count))
    flat = taken.transpose(order)
    size = math.prod(flat.shape)
    if size > 2**26:
        raise NotRun(f"its patches hold {size} values")
    return flat.reshape(places.shape[0] * math.prod(grid), -1), grid


def same_pads(
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    upper: bool,
) -> tuple[tuple[int, int], ...]:
    """The zeros of SAME padding before and behind each axis, the odd one at the end (`upper`) or
    at the start."""
    pairs = []
    for size, side, step in zip(sizes, kernel, stride, strict=True):
        total = max((-(-size // step) - 1) * step + side - size, 0)
        less, more = total // 2, total - total // 2
        pairs.append((less, more) if upper else (more, less))
    return tuple(pairs)


def pairs_of(pads: list[int], axes: int) -> tuple[tuple[int, int], ...]:
    """ONNX's pads, those before all axes and then those behind, as pairs."""
    if len(pads) != 2 * axes or min(pads, default=0) < 0:
        raise NotRun(f"pads of {pads}")
    return tuple(zip(pads[:axes], pads[axes:], strict=True))
