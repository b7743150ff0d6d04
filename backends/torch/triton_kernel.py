"""The patch embedding as one Triton kernel: a matrix product that gathers its patches from the
images and adds the bias to its float32 sums.

The formulation `linear` writes every patch to memory and reads it again, as much as images and
tokens together; here they go to the multiprocessors alone.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec


@dataclass(frozen=True)
class Tile:
    """What one program computes, and how: `rows` tokens by `columns` of their D values, `depth` of
    the K terms at a time."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


TILES = (
    Tile(128, 256, 64, 8, 3),
    Tile(64, 256, 64, 4, 3),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
)
"""From the fastest for large products to that for small ones. The fastest of twenty on an H200 in
bfloat16, in µs of a CUDA graph: ViT-B/16 at batch 256 115, 152, 172, - (the product alone, of
patches that lie ready, 89); at 32 25, 22, 27, -; at 8 13, -, 10, 14; at 1 the last, 6. VideoMAE,
batch 16: 106 with the first; L/14 at 518 pixels, batch 8: 59, -, 92 (the product alone 84, for rows
of 1176 bytes are not aligned)."""

FEWEST_ROUNDS = 4
"""Tiles that each multiprocessor gets of the largest ones; with fewer the last, incomplete round
costs more than smaller tiles do (batch 32 has 1.1)."""


def embed(images: Any, kernel: Any, bias: Any | None, spec: PatchEmbedSpec) -> Any:
    """Tokens `(B, N, D)` of images `(B, C, *image)`, padded already, with kernel `(D, K)` in the
    order (channel, patch) and bias `(D,)`; float32 sums.

    All on one GPU and of one type, bfloat16 or float16; images of bytes, which both hold, are cast
    where they are multiplied.

    Raises:
        PatchParityError: images of other sizes or another type: the kernel would read what lies
            beyond them.
    """
    expected = (spec.in_channels, *spec.padded_size)
    if tuple(images.shape[1:]) != expected:
        raise PatchParityError(
            f"images of shape {tuple(images.shape)}: expected (B, "
            f"{', '.join(map(str, expected))}), padding included"
        )
    of_one_type = images.dtype in (kernel.dtype, torch.uint8)
    if not of_one_type or kernel.shape != (spec.embed_dim, spec.patch_values):
        raise PatchParityError(
            f"kernel of {kernel.dtype} and shape {tuple(kernel.shape)}: expected {images.dtype} "
            f"and ({spec.embed_dim}, {spec.patch_values})"
        )
    images, planes = images.contiguous(), 3 - spec.spatial_axes  # an image is a video of one frame
    rows, width = images.shape[0] * spec.num_patches, spec.embed_dim
    tokens = torch.empty(
        images.shape[0], spec.num_patches, width, dtype=kernel.dtype, device=images.device
    )
    tile = _tile(rows, width, _multiprocessors(images))
    count = math.ceil(rows / tile.rows) * math.ceil(width / tile.columns)
    if count:
        frames = (1,) * planes
        _embed[(count,)](
            images,
            kernel,
            bias,
            tokens,
            rows,
            C=spec.in_channels,
            K=spec.patch_values,
            D=width,
            IMAGE=frames + spec.padded_size,
            GRID=frames + spec.grid,
            PATCH=frames + spec.patch_size,
            STRIDE=frames + spec.stride,
            HAS_BIAS=bias is not None,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            DEPTH=tile.depth,
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
    return tokens


def _multiprocessors(images: Any) -> int:
    """Of the GPU that images lie on; one where Triton's interpreter computes."""
    return (
        torch.cuda.get_device_properties(images.device).multi_processor_count
        if images.is_cuda
        else 1
    )


def _tile(rows: int, width: int, multiprocessors: int) -> Tile:
    """The largest that are not wider than need be, and of which there is one for each
    multiprocessor, of the first some more."""
    fitting = [tile for tile in TILES if tile.columns < 2 * width] or [TILES[-1]]
    for tile in fitting:
        rounds = math.ceil(rows / tile.rows) * math.ceil(width / tile.columns) / multiprocessors
        if rounds >= (FEWEST_ROUNDS if tile is TILES[0] else 1):
            return tile
    return fitting[-1]


@triton.jit  # type: ignore[untyped-decorator]
def _embed(  # type: ignore[no-untyped-def]
    images,
    kernel,
    bias,
    tokens,
    rows,
    C: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    IMAGE: tl.constexpr,
    GRID: tl.constexpr,
    PATCH: tl.constexpr,
    STRIDE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """One tile of `ROWS` tokens and `COLUMNS` of their D values; images `(B, C, T, H, W)`, kernel
    `(D, K)`, K in the order (channel, frame, row, column)."""
    tiles_across = tl.cdiv(D, COLUMNS)
    row = tl.program_id(0) // tiles_across * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % tiles_across * COLUMNS + tl.arange(0, COLUMNS)
    in_rows, in_columns = row < rows, column < D
    token = tl.where(in_rows, row, 0)
    known = (
        column if D % COLUMNS == 0 else tl.where(in_columns, column, 0)
    )  # of whole tiles Triton sees that columns follow each other

    N: tl.constexpr = GRID[0] * GRID[1] * GRID[2]
    frame: tl.constexpr = IMAGE[1] * IMAGE[2]
    channel: tl.constexpr = IMAGE[0] * frame
    place = token % N
    t, y, x = (
        place // (GRID[1] * GRID[2]) * STRIDE[0],
        place // GRID[2] % GRID[1] * STRIDE[1],
        place % GRID[2] * STRIDE[2],
    )
    corner = (token // N).to(tl.int64) * (C * channel) + (t * frame + y * IMAGE[2] + x)

    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in range(0, K, DEPTH):
        k = begin + tl.arange(0, DEPTH)
        within = (
            k // (PATCH[1] * PATCH[2]) % PATCH[0] * frame
            + k // PATCH[2] % PATCH[1] * IMAGE[2]
            + k % PATCH[2]
        )
        pixels = (
            images
            + corner[:, None]
            + (k // (PATCH[0] * PATCH[1] * PATCH[2]) * channel + within)[None, :]
        )
        weights = kernel + known[None, :] * K + k[:, None]
        if K % DEPTH == 0:
            sums = tl.dot(tl.load(pixels).to(kernel.dtype.element_ty), tl.load(weights), sums)
        else:
            left, right = (
                tl.load(pixels, k[None, :] < K, 0).to(kernel.dtype.element_ty),
                tl.load(weights, k[:, None] < K, 0.0),
            )
            sums = tl.dot(left, right, sums)
    if HAS_BIAS:
        sums += tl.load(bias + known)[None, :].to(tl.float32)
    result = sums.to(tokens.dtype.element_ty)
    tl.store(
        tokens + row.to(tl.int64)[:, None] * D + column[None, :],
        result,
        in_rows[:, None] & in_columns[None, :],
    )
