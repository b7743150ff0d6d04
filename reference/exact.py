"""A second oracle, written independently: the definition of a strided convolution, in integers and
fractions.

Law of this file: it shares no code with `patches.py` and `embed.py` (not even the grid), so that a
mistake made there cannot be repeated here. It is slow and exact; use it on sampled outputs, or on
integer data.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _binary_integers(values: Iterable[Any]) -> tuple[list[int], int]:
    """Floats as integers times a common power of two: `value = integer · 2**exponent`, without any
    rounding."""
    ratios = [float(value).as_integer_ratio() for value in values]
    exponent = min((1 - denominator.bit_length() for _, denominator in ratios), default=0)
    return [
        numerator << (1 - denominator.bit_length() - exponent) for numerator, denominator in ratios
    ], exponent


def exact_token_value(
    images: NDArray[Any],
    kernel: NDArray[Any],
    bias: NDArray[Any] | None,
    stride: Sequence[int],
    pad_before: Sequence[int],
    index: tuple[int, ...],
) -> Fraction:
    """One output of the convolution, exactly: Σ over rows, columns, channels of x·w, plus b, as a
    fraction.

    Args:
        images: shape `(B, C, H, W)`, finite floats.
        kernel: shape `(D, P_h, P_w, C)`.
        bias: shape `(D,)` or None.
        stride: for each image axis.
        pad_before: zeros before each image axis; a tap outside the image counts as zero, before and
            after alike.
        index: `(b, row, column, d)`: which output.
    """
    b, *position, d = index
    pixels, taps = [], []
    for offset in np.ndindex(*kernel.shape[1:-1]):
        place = [
            p * s + o - before
            for p, s, o, before in zip(position, stride, offset, pad_before, strict=True)
        ]
        if all(0 <= at < size for at, size in zip(place, images.shape[2:], strict=True)):
            for channel in range(images.shape[1]):
                pixels.append(images[(b, channel, *place)])
                taps.append(kernel[(d, *offset, channel)])
    x, x_exponent = _binary_integers(pixels)
    w, w_exponent = _binary_integers(taps)
    total = Fraction(sum(map(int.__mul__, x, w))) * Fraction(2) ** (x_exponent + w_exponent)
    return total if bias is None else total + Fraction(float(bias[d]))


def rounded_token_values(
    images: NDArray[Any],
    kernel: NDArray[Any],
    bias: NDArray[Any] | None,
    stride: Sequence[int],
    pad_before: Sequence[int],
    indices: Sequence[tuple[int, ...]],
) -> NDArray[np.float64]:
    """Outputs of the convolution, each the exact sum rounded to float64 once; fast enough for
    hundreds at K = 768.

    Each product is split into its rounded value and its error, exactly (Dekker 1971, Veltkamp's
    splitting: true while nothing over- or underflows, so that data must lie between 2⁻⁴⁰⁰ and 2⁴⁰⁰
    or be zero), and `math.fsum` adds them up without any error but the last rounding (Shewchuk
    1997).

    Args:
        images, kernel, bias, stride, pad_before: as in `exact_token_value`.
        indices: `(b, row, column, d)` of each output.

    Returns:
        Shape `(len(indices),)`.
    """
    extents, taps = images.shape[2:], kernel.shape[1:-1]
    ends = [
        max(index[1 + axis] for index in indices) * s + size
        for axis, (s, size) in enumerate(zip(stride, taps, strict=True))
    ]
    pad = [
        (before, max(0, end - before - have))
        for before, end, have in zip(pad_before, ends, extents, strict=True)
    ]
    padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), *pad))
    values = np.empty(len(indices))
    for number, (b, *position, d) in enumerate(indices):
        window = tuple(
            slice(p * s, p * s + size)
            for p, s, size in zip(position, stride, kernel.shape[1:-1], strict=True)
        )
        seen: NDArray[np.float64] = padded[b][(slice(None), *window)]
        x = np.moveaxis(seen, 0, -1).ravel()
        products, errors = _two_products(x, kernel[d].astype(np.float64).ravel())
        constant = [] if bias is None else [float(bias[d])]
        values[number] = math.fsum([*products.tolist(), *errors.tolist(), *constant])
    return values


def _two_products(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rounded products and their errors: a·b = product + error, exactly."""
    split = 2.0**27 + 1

    def halves(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        large = split * values
        high = large - (large - values)
        return high, values - high

    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    product = a * b
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def sample_indices(shape: tuple[int, ...], count: int, seed: int) -> list[tuple[int, ...]]:
    """Choose outputs to examine: every corner of the grid, points along its edges, and random ones.

    Args:
        shape: `(B, rows, columns, D)` of the outputs.
        count: how many, at most; fewer where there are not as many outputs.
        seed: of the random ones.

    Returns:
        Distinct indices `(b, row, column, d)`, the corners first.
    """
    extremes = [sorted({0, extent - 1}) for extent in shape]
    chosen = dict.fromkeys(
        tuple(axis[i] for axis, i in zip(extremes, pick, strict=True))
        for pick in np.ndindex(*map(len, extremes))
    )
    generator = np.random.default_rng(seed)
    for attempt in range(4 * count):
        if len(chosen) >= min(count, int(np.prod(shape))):
            break
        index = [int(generator.integers(extent)) for extent in shape]
        if attempt % 3 == 0 and len(shape) > 2:  # one in three lies on an edge of the grid
            axis = int(generator.integers(1, len(shape) - 1))
            index[axis] = int(generator.choice(extremes[axis]))
        chosen[tuple(index)] = None
    return list(chosen)[:count]


def integer_tokens(
    images: NDArray[np.int64],
    kernel: NDArray[np.int64],
    bias: NDArray[np.int64] | None,
    stride: Sequence[int],
    pad: Sequence[tuple[int, int]],
    grid: Sequence[int],
) -> NDArray[np.int64]:
    """All outputs on integer data, by the direct definition, one kernel tap at a time; exact while
    sums stay below 2⁶³.

    Args:
        images: shape `(B, C, H, W)`, int64.
        kernel: shape `(D, P_h, P_w, C)`, int64.
        bias: shape `(D,)`, int64, or None.
        stride: for each image axis.
        pad: `(before, after)` zeros for each image axis.
        grid: number of outputs along each image axis.

    Returns:
        Tokens `(B, N, D)`, int64.
    """
    D, C = kernel.shape[0], kernel.shape[-1]
    extents = [
        size + before + after for size, (before, after) in zip(images.shape[2:], pad, strict=True)
    ]
    canvas = np.zeros((images.shape[0], *extents, C), np.int64)
    inner = tuple(
        slice(before, before + size)
        for size, (before, _) in zip(images.shape[2:], pad, strict=True)
    )
    canvas[(slice(None), *inner)] = np.moveaxis(images, 1, -1)
    total = np.zeros((images.shape[0], *grid, D), np.int64)
    for offset in np.ndindex(*kernel.shape[1:-1]):
        seen = tuple(
            slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(offset, grid, stride, strict=True)
        )
        for channel in range(C):
            seen_pixels: NDArray[np.int64] = canvas[(slice(None), *seen)][..., channel, None]
            taps: NDArray[np.int64] = kernel[(slice(None), *offset)][..., channel]
            total = total + seen_pixels * taps
    if bias is not None:
        total = total + bias
    return total.reshape(images.shape[0], -1, D)
