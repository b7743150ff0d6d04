"""Compressed weights of CoreML's programs, expanded as its converter does
(converters/mil/mil/ops/defs of coremltools)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checkpoint import LARGEST_TENSOR
from ..mil_program import unpacked

Arrays = Mapping[str, NDArray[Any]]


def require_modest(shape: tuple[int, ...]) -> None:
    """Raise ValueError for a tensor that would take more memory than any that may be read."""
    if 8 * math.prod(shape) > LARGEST_TENSOR:
        raise ValueError(f"a value of shape {shape}")


def _affine(arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    """`constexpr_affine_dequantize` of iOS 16: scale · (data - zero point) along one axis."""
    data, scale, zero = (arrays[key] for key in ("quantized_data", "scale", "zero_point"))
    axis = int(arrays["axis"].reshape(-1)[0])
    sides = [1] * data.ndim
    sides[axis] = -1
    scale, zero = (part.reshape(sides) if part.ndim else part for part in (scale, zero))
    return (data.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)


def _blockwise(arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    """`constexpr_blockwise_shift_scale` of iOS 18: the same, block by block."""
    data, offset = arrays["data"], arrays.get("offset")
    scale = _repeated(arrays["scale"], data.shape).astype(np.float32)
    values = data.astype(np.float32)
    if offset is not None:
        values -= _repeated(offset, data.shape).astype(np.float32)
    return scale * values


def _repeated(blocks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """One number for each block, repeated over it.

    Raises:
        ValueError: blocks that are no equal parts of the axes.
    """
    if blocks.ndim != len(shape) or any(
        not part or extent % part for part, extent in zip(blocks.shape, shape, strict=True)
    ):
        raise ValueError(f"blocks of {blocks.shape} for values of {shape}")
    for axis, extent in enumerate(shape):
        blocks = np.repeat(blocks, extent // blocks.shape[axis], axis)
    return blocks


def _table(arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    """`constexpr_lut_to_dense`: of iOS 16, packed indices of one table; of iOS 18, indices of
    tables of single numbers, one for each block.

    Raises:
        ValueError: a table of vectors, an index beyond the table.
    """
    indices, table = arrays["indices"], arrays["lut"]
    if "shape" in arrays:
        bits = int(math.log2(len(table))) if table.ndim == 1 and len(table) else 0
        if bits < 1 or 2**bits != len(table) or bits > 8:
            raise ValueError(f"a table of shape {table.shape}")
        return table[unpacked(indices, bits, math.prod(shape))].reshape(shape)
    if table.ndim != indices.ndim + 2 or table.shape[-1] != 1:
        raise ValueError(f"a table of shape {table.shape} for indices of shape {indices.shape}")
    places = [
        _repeated(
            np.arange(extent).reshape([-1 if at == axis else 1 for at in range(indices.ndim)]),
            tuple(indices.shape[at] if at == axis else 1 for at in range(indices.ndim)),
        )
        for axis, extent in enumerate(table.shape[:-2])
    ]
    return table[..., 0][(*places, indices)]


def _sparse(arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    """`constexpr_sparse_to_dense` of iOS 16: zeros but where a bit of the mask is set.

    Raises:
        ValueError: another number of bits than of values.
    """
    values, mask = arrays["nonzero_data"], arrays["mask"]
    bits = mask if "shape" not in arrays else unpacked(mask, 1, math.prod(shape))
    places = bits.reshape(-1) != 0
    if places.size != math.prod(shape) or places.sum() != values.size:
        raise ValueError(f"{values.size} values for a mask of {places.sum()} bits")
    dense = np.zeros(places.size, values.dtype)
    dense[places] = values.reshape(-1)
    return dense.reshape(shape)


def _cast(arrays: Arrays, shape: tuple[int, ...]) -> NDArray[Any]:
    """`constexpr_cast`."""
    return arrays["source_val"]


EXPANSIONS: dict[str, Callable[[Arrays, tuple[int, ...]], NDArray[Any]]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _blockwise,
    "constexpr_lut_to_dense": _table,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_cast": _cast,
}
"""How compressed weights are expanded (converters/mil/mil/ops/defs of coremltools)."""
