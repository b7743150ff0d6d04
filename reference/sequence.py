"""From patch tokens to the sequence that enters the encoder: prefix tokens, positions, masks,
norms, token order."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .embed import patch_embed
from .errors import PatchParityError, require_array
from .patches import patchify
from .spec import PatchEmbedSpec
from .weights import LayerNorm, PatchEmbedWeights, SequenceLayout


def sincos_positions(
    grid: tuple[int, ...],
    embed_dim: int,
    *,
    temperature: float = 10000.0,
    first_half: Literal["column", "row"] = "column",
    last_frequency: bool = False,
) -> NDArray[np.float64]:
    """Fixed 2-D sine-cosine position table.

    Each half of the width encodes one coordinate as [sin(x·ω), cos(x·ω)] with ω_i = temperature^(−i
    / (D/4)).

    Args:
        grid: `(rows, columns)` of patches.
        embed_dim: D, a multiple of 4.
        temperature: base of the frequencies.
        first_half: the coordinate in the first D/2 channels: `column` as in MAE's original code,
            `row` as in MoCo v3 (and in transformers' ViTMAE before it swaps the halves).
        last_frequency: whether the last frequency is 1/temperature itself, ω_i = temperature^(−i /
            (D/4 − 1)): big_vision's and vit-pytorch's SimpleViT.

    Returns:
        Shape `(rows·columns, D)`, raster order, float64.

    Raises:
        PatchParityError: a width that is no multiple of 4, or a grid of another rank.

    Source: He et al., "Masked Autoencoders" (2021), `util/pos_embed.py:get_2d_sincos_pos_embed`.

    Examples:
        >>> import patchparity
        >>> patchparity.sincos_positions((14, 14), 768).shape
        (196, 768)
    """
    if embed_dim % 4:
        raise PatchParityError(
            f"embed_dim={embed_dim}: a 2-D sine-cosine table needs a multiple of 4"
        )
    if len(grid) != 2:
        raise PatchParityError(f"grid={grid}: a 2-D sine-cosine table needs (rows, columns)")
    quarter = embed_dim // 4
    if last_frequency and quarter < 2:
        raise PatchParityError(
            f"embed_dim={embed_dim}: a table that reaches its last frequency needs at least 8"
        )
    frequencies = temperature ** (-np.arange(quarter) / (quarter - last_frequency))
    rows, columns = (
        axis.ravel() for axis in np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    )

    def encode(coordinate: NDArray[Any]) -> NDArray[np.float64]:
        angles = np.outer(coordinate, frequencies)
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    halves = [encode(columns), encode(rows)]
    return np.concatenate(halves if first_half == "column" else halves[::-1], axis=1)


def sinusoid_table(count: int, width: int) -> NDArray[np.float64]:
    """The fixed positions of VideoMAE, `(count, width)`: sines on even channels, cosines on odd
    ones.

    Source: Tong et al., "VideoMAE" (2022), `modeling_finetune.py:get_sinusoid_encoding_table`; as
    in Vaswani et al. (2017).
    """
    channels = np.arange(width)
    angles = np.arange(count)[:, None] / 10000.0 ** (2 * (channels // 2) / width)
    return np.where(channels % 2, np.cos(angles), np.sin(angles))


def layer_norm(values: NDArray[Any], norm: LayerNorm, epsilon: float) -> NDArray[Any]:
    """Normalize over the last axis: (x − mean)/√(var + ε)·scale + shift, with the biased variance;
    shape unchanged.

    Where the norm is not centered (RMSNorm), the mean is not taken out: x/√(mean x² + ε)·scale.

    Source: Ba, Kiros, Hinton, "Layer Normalization" (2016), `torch.nn.LayerNorm`; Zhang, Sennrich,
    "Root Mean Square Layer Normalization" (2019).
    """
    kept = values - values.mean(axis=-1, keepdims=True) if norm.centered else values
    variance = (kept * kept).mean(axis=-1, keepdims=True)
    scaled = kept / np.sqrt(variance + epsilon) * norm.scale.astype(values.dtype)
    return scaled if norm.shift is None else scaled + norm.shift.astype(values.dtype)


def merge_block_order(grid: tuple[int, ...], window: int = 0) -> NDArray[np.int64]:
    """Raster index of each token when 2×2 blocks follow one another (Qwen2-VL), of video frame by
    frame, shape `(N,)`.

    Args:
        grid: `(rows, columns)`, or `(frames, rows, columns)`.
        window: patches along a side of the windows that follow one another, row by row, the last
            ones cut off by the image's end (Qwen2.5-VL); 0 for one window of the whole image.

    Raises:
        PatchParityError: a grid that is not (even, even), or (frames, even, even).

    Source: transformers' `Qwen2_5_VisionTransformerPretrainedModel.get_window_index`.
    """
    if len(grid) not in (2, 3) or grid[-2] % 2 or grid[-1] % 2:
        raise PatchParityError(
            f"grid={grid}: 2x2 merge order needs an even number of rows and of columns"
        )
    rows, columns = grid[-2:]
    raster = np.arange(rows * columns).reshape(rows // 2, 2, columns // 2, 2)
    blocks = raster.transpose(0, 2, 1, 3)  # (rows / 2, columns / 2, 2, 2)
    side = window // 2 or max(blocks.shape[:2])
    frame = np.concatenate(
        [
            blocks[row : row + side, column : column + side].ravel()
            for row in range(0, blocks.shape[0], side)
            for column in range(0, blocks.shape[1], side)
        ]
    )
    frames = np.arange(grid[0] if len(grid) == 3 else 1)
    return (frames[:, None] * rows * columns + frame).ravel()


def window_order(grid: tuple[int, ...], window: int) -> NDArray[np.int64]:
    """Raster index of each token when the tokens of a window follow one another, window by window
    (NesT), of video frame by frame, shape `(N,)`.

    Args:
        grid: `(rows, columns)`, or `(frames, rows, columns)`.
        window: patches along a side of a window; the last ones are cut off by the image's end.

    Source: Zhang et al., "Nested Hierarchical Transformer" (2021), `blockify` of timm's nest.py;
    transformers' `get_vision_window_index`.
    """
    rows, columns = grid[-2:]
    raster = np.arange(rows * columns).reshape(rows, columns)
    frame = np.concatenate(
        [
            raster[row : row + window, column : column + window].ravel()
            for row in range(0, rows, window)
            for column in range(0, columns, window)
        ]
    )
    return (np.arange(math.prod(grid[:-2]))[:, None] * rows * columns + frame).ravel()


def unrolled_order(grid: tuple[int, ...], window: int) -> NDArray[np.int64]:
    """Raster index of each token in Hiera's order, shape `(N,)`.

    The tokens at one place of their 2×2 block follow one another, the four places row by row; those
    at each place are ordered in the same way again, until windows are used up; what is left is in
    raster order.

    Args:
        grid: `(rows, columns)`.
        window: patches along a side of a window, a power of two: 8 for three steps.

    Raises:
        PatchParityError: a grid that windows do not divide.

    Source: Ryali et al., "Hiera" (2023), `Unroll` of hiera_utils.py.
    """
    rows, columns = _divided(grid, window)
    steps = window.bit_length() - 1
    raster = np.arange(rows * window * columns * window).reshape(
        rows, *[2] * steps, columns, *[2] * steps
    )
    # the smallest step lies innermost
    of_row, of_column = range(steps, 0, -1), range(2 * steps + 1, steps + 1, -1)
    inner = [axis for pair in zip(of_row, of_column, strict=True) for axis in pair]
    return raster.transpose(*inner, 0, steps + 1).ravel()


def _divided(grid: tuple[int, ...], window: int) -> tuple[int, int]:
    if len(grid) != 2 or grid[0] % window or grid[1] % window:
        raise PatchParityError(
            f"grid={grid}: expected (rows, columns) that windows of {window}×{window} divide"
        )
    return grid[0] // window, grid[1] // window


def order_of(grid: tuple[int, ...], layout: SequenceLayout) -> NDArray[np.int64]:
    """Raster index of each token in the order of a layout, shape `(N,)`.

    Raises:
        PatchParityError: a grid that the order does not divide.
    """
    if layout.token_order == "merge-2x2":
        return merge_block_order(grid, layout.window)
    if layout.token_order == "windows":
        return window_order(grid, layout.window)
    if layout.token_order == "unrolled-2x2":
        return unrolled_order(grid, layout.window)
    return np.arange(math.prod(grid))


def assemble_sequence(
    tokens: NDArray[Any],
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Turn patch tokens into the sequence that a transformer's encoder takes.

    In this order: `token_norm`, mask token, positions, token order, prefix tokens (with their own
    position rows where they have some), `sequence_norm`; each only where the weights have it.

    Args:
        tokens: shape `(B, N, D)`, what `patch_embed` returns; the computation stays in its dtype.
        weights: prefix tokens, positions, norms and their `layout`.
        spec: the sizes (`num_patches` and grid).
        mask: shape `(B, N)`, True where the mask token replaces a patch token; None for no mask.

    Returns:
        Shape `(B, num_prefix_tokens + N, D)`.

    Raises:
        PatchParityError: tokens, mask or positions that do not fit; a mask without a mask token.

    Source: Dosovitskiy et al. (2021), equation 1; the variants are those of timm, transformers,
    DINOv2, big_vision, CLIP, Qwen2-VL.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> spec = patchparity.PatchEmbedSpec((12, 20), 4, 3, 10)  # image, patch, channels, width
        >>> weights = patchparity.initialize_weights(spec, seed=0)
        >>> patchparity.assemble_sequence(np.ones((2, 15, 10)), weights, spec).shape  # class token
        (2, 16, 10)
    """
    weights.check_spec(spec)
    require_array("tokens", tokens)
    if tokens.ndim != 3 or tokens.shape[1:] != (spec.num_patches, spec.embed_dim):
        raise PatchParityError(
            f"tokens of shape {tokens.shape}: expected (B, {spec.num_patches}, {spec.embed_dim})"
        )
    batch, dtype, layout = tokens.shape[0], tokens.dtype, weights.layout
    if weights.token_norm is not None:
        tokens = layer_norm(tokens, weights.token_norm, layout.norm_epsilon)
    if mask is not None:
        if weights.mask_token is None:
            raise PatchParityError(
                f"mask of shape {mask.shape} given, but the weights have no mask_token"
            )
        if mask.shape != tokens.shape[:2]:
            raise PatchParityError(
                f"mask of shape {mask.shape}: expected {tokens.shape[:2]}, (B, N)"
            )
        tokens = np.where(mask[:, :, None], weights.mask_token.astype(dtype), tokens)

    prefix_positions: NDArray[Any] | None = None
    if weights.positions is not None:
        positions = weights.positions.astype(dtype)
        first = weights.num_positions_ahead
        tokens = tokens + positions[first : first + spec.num_patches]
        prefix_positions = np.delete(positions, slice(first, first + spec.num_patches), axis=0)
    if layout.token_order != "raster":
        tokens = tokens[:, order_of(spec.grid, layout)]

    ahead: list[NDArray[Any]] = []
    behind: list[NDArray[Any]] = []
    row = 0
    for name in (*layout.ahead, *layout.behind):
        if not (count := weights.prefix_rows(name)):
            continue
        block = np.atleast_2d(getattr(weights, name)).astype(dtype)
        if prefix_positions is not None and name in layout.positioned:
            block = block + prefix_positions[row : row + count]
            row += count
        side = ahead if name in layout.ahead else behind
        side.append(np.broadcast_to(block, (batch, count, spec.embed_dim)))
    sequence = np.concatenate([*ahead, tokens, *behind], axis=1)
    if weights.sequence_norm is not None:
        sequence = layer_norm(sequence, weights.sequence_norm, layout.norm_epsilon)
    return sequence


def embed_sequence(
    images: NDArray[Any],
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    dtype: DTypeLike = np.float64,
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Images to encoder input in one call: `patch_norm` where there is one, projection, then
    `assemble_sequence`.

    Args:
        images: shape `(B, C, H, W)`.
        weights: all fields.
        spec: the sizes.
        dtype: of the whole computation and of the result.
        mask: as in `assemble_sequence`.

    Returns:
        Shape `(B, num_prefix_tokens + N, D)`.

    Raises:
        PatchParityError: shapes that do not fit.
    """
    if weights.patch_norm is None:
        return assemble_sequence(patch_embed(images, weights, spec, dtype), weights, spec, mask)
    weights.check_spec(spec)
    patches = layer_norm(
        patchify(images, spec).astype(dtype), weights.patch_norm, weights.layout.norm_epsilon
    )
    tokens = patches @ weights.matrix.astype(dtype).T
    if weights.bias is not None:
        tokens = tokens + weights.bias.astype(dtype)
    return assemble_sequence(tokens, weights, spec, mask)
