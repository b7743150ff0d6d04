"""JAX's formulations, functions of images, kernel and bias to be jitted, and the same as lines of
plain JAX for `recommend`."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ..patches import channels_first_patches, channels_last_patches
from ..pixels import SCALE, channel_statistics


def conv2d(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`lax.conv_general_dilated`, NHWC and HWIO (NDHWC and DHWIO for video), padding given
    explicitly."""
    from jax import lax

    letters = "HW" if spec.spatial_axes == 2 else "DHW"
    grid = lax.conv_general_dilated(
        images,
        kernel,
        window_strides=spec.stride,
        padding=spec.effective_padding,
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    tokens = grid.reshape(len(images), spec.num_patches, spec.embed_dim)
    return tokens if bias is None else tokens + bias


def _pad(images: Any, spec: PatchEmbedSpec) -> Any:
    """Zeros around images `(B, *image, C)`, where there are any."""
    import jax.numpy as jnp

    return (
        jnp.pad(images, ((0, 0), *spec.effective_padding, (0, 0)))
        if any(map(any, spec.effective_padding))
        else images
    )


def linear(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """Pad, cut into patches, `jnp.dot`."""
    import jax.numpy as jnp

    tokens = jnp.dot(channels_last_patches(_pad(images, spec), spec, _Functions), kernel)
    return tokens if bias is None else tokens + bias


def linear_words(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """As `linear`, in pieces that stay in the caches and with pixels moved in words of eight bytes;
    the bias is the last row of the kernel, and the patches have a column of ones for it."""
    import jax
    import jax.numpy as jnp

    def embed(images: Any, kernel: Any, spec: PatchEmbedSpec) -> Any:
        patches = _patches_by_words(images, spec)
        if len(kernel) > spec.patch_values:
            patches = jnp.concatenate(
                [patches, jnp.ones((*patches.shape[:-1], 1), patches.dtype)], axis=-1
            )
        return jnp.dot(patches, kernel)

    def whole(images: Any, kernel: Any) -> Any:
        return embed(images, kernel, spec)

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def in_pieces(images: Any, kernel: Any) -> Any:
        strip = _strip(spec)
        pieces = images.reshape(
            count, len(images) * spec.grid[0] // count, *strip.image_size, spec.in_channels
        )
        tokens = jax.lax.map(lambda piece: embed(piece, kernel, strip), pieces)
        return tokens.reshape(len(images), spec.num_patches, spec.embed_dim)

    # A gradient in pieces is slower by a fourteenth: each adds its part to the kernel's, and their
    # patches are put together for it.
    in_pieces.defvjp(
        lambda images, kernel: jax.vjp(whole, images, kernel),
        lambda pullback, gradient: pullback(gradient),
    )
    images = _pad(images, spec)
    count = _pieces(spec, len(images), kernel.dtype.itemsize * len(kernel))
    return whole(images, kernel) if count == 1 else in_pieces(images, kernel)


def linear_uint8(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """As `linear`, of bytes: eight of them are moved at once, and the patches cast."""
    import jax.numpy as jnp

    patches = (
        _words_cut(images, spec) if spec.tiles else channels_last_patches(images, spec, _Functions)
    )
    tokens = jnp.dot(patches.astype(kernel.dtype), kernel)
    return tokens if bias is None else tokens + bias


def conv2d_uint8(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """Bytes cast, rescaled and normalized, then `conv2d`."""
    mean, std = channel_statistics(spec.in_channels, kernel.dtype)
    return conv2d((images.astype(kernel.dtype) * SCALE - mean) / std, kernel, bias, spec)


PIECE_BYTES = 5 * 2**20
"""Patches that are cut and multiplied at a time, as in `numpy:linear`. ViT-B/16 on two cores, in
parts of JAX's own product: batch 32 (19 MB of patches) whole 0.90, in pieces of 8 or 4 images (4.8
and 2.4 MB) 0.97, of 16 0.93; batch 8 whole 0.95, in halves 0.91. On one core batch 32 whole 0.91,
in pieces of 8 1.02."""


def _strip(spec: PatchEmbedSpec) -> PatchEmbedSpec:
    """Sizes of one row of the grid, as an image of its own; what was padded is part of it."""
    return dataclasses.replace(
        spec,
        image_size=(spec.patch_size[0], *spec.padded_size[1:]),
        padding=((0, 0),) * spec.spatial_axes,
    )


def _pieces(spec: PatchEmbedSpec, batch: int, patch_bytes: int) -> int:
    """Into how many equal pieces a batch is cut, whole rows of the grid each: as few as they may
    be; one where none are of at least half the size."""
    strips = batch * spec.grid[0]
    most = max(1, PIECE_BYTES // (spec.num_patches // spec.grid[0] * patch_bytes))
    if not spec.tiles or most >= strips:
        return 1
    length = max(
        (length for length in range(most // 2 + 1, most + 1) if strips % length == 0),
        default=strips,
    )
    return strips // length


WORD_BYTES = 8
"""XLA's CPU code for a transpose moves a value at a time: as many bytes as its widest plain type
has take a third of the time that they take by fours (4.8 MB on one core: 0.6 ms and 1.7 ms)."""


def _patches_by_words(images: Any, spec: PatchEmbedSpec) -> Any:
    """Cut padded images as `channels_last_patches` does; a row of a patch, P·C values, is moved in
    words where it is made of whole ones.

    The words are integers, through which no gradient goes: it is given as that of the plain cut, of
    which it is the adjoint.
    """
    import jax

    if not spec.tiles:
        return channels_last_patches(images, spec, _Functions)

    @jax.custom_vjp  # type: ignore[untyped-decorator]
    def cut(images: Any) -> Any:
        return _words_cut(images, spec)

    def plain(images: Any) -> Any:
        return channels_last_patches(images, spec, _Functions)

    adjoint = jax.linear_transpose(plain, jax.ShapeDtypeStruct(images.shape, images.dtype))
    cut.defvjp(lambda images: (cut(images), None), lambda _, gradient: adjoint(gradient))
    return cut(images)


def _words_cut(images: Any, spec: PatchEmbedSpec) -> Any:
    """Patches of images that they tile, moved in words."""
    import jax

    word, shape, order = _words(spec, images.dtype.itemsize)
    with jax.enable_x64(True):
        patches = images.reshape(len(images), *shape).view(word).transpose(order).view(images.dtype)
    return patches.reshape(len(images), spec.num_patches, spec.patch_values)


def _words(spec: PatchEmbedSpec, itemsize: int) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Type of the words, shape of each image with grid and patch axes in turn and a patch's rows
    flat, and the order that brings the grid to the front."""
    axes, run = spec.spatial_axes, spec.patch_size[-1] * spec.in_channels
    split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
    word = f"uint{8 * itemsize * math.gcd(run, WORD_BYTES // itemsize)}"
    return word, (*split[:-1], run), (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2))


def conv2d_nchw(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`lax.conv_general_dilated` on NCHW and OIHW, JAX's own default order, then flatten and
    transpose as in torch."""
    from jax import lax

    grid = lax.conv_general_dilated(
        images, kernel, window_strides=spec.stride, padding=spec.effective_padding
    )
    tokens = grid.reshape(len(images), spec.embed_dim, spec.num_patches).swapaxes(1, 2)
    return tokens if bias is None else tokens + bias


def linear_nchw(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """As `linear`, from NCHW images and a kernel `(D, C·P²)`, as torch keeps them."""
    import jax.numpy as jnp

    if any(any(pair) for pair in spec.effective_padding):
        images = jnp.pad(images, ((0, 0), (0, 0), *spec.effective_padding))
    tokens = jnp.dot(channels_first_patches(images, spec, _Functions), kernel.T)
    return tokens if bias is None else tokens + bias


def einsum(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`jnp.einsum` of `(B, *grid, *patch, C)` with the convolution's kernel."""
    import jax.numpy as jnp

    patches = channels_last_patches(_pad(images, spec), spec, _Functions).reshape(
        len(images), spec.num_patches, *spec.patch_size, spec.in_channels
    )
    patch = "xyz"[: spec.spatial_axes]
    tokens = jnp.einsum(f"bn{patch}c,{patch}cd->bnd", patches, kernel)
    return tokens if bias is None else tokens + bias


class _Functions:
    """The three functions that `channels_last_patches` needs."""

    @staticmethod
    def reshape_each(array: Any, shape: tuple[int, ...]) -> Any:
        return array.reshape(len(array), *shape)

    @staticmethod
    def transpose(array: Any, axes: tuple[int, ...]) -> Any:
        return array.transpose(axes)

    @staticmethod
    def take(array: Any, indices: NDArray[np.int32], axis: int) -> Any:
        import jax.numpy as jnp

        return jnp.take(array, indices, axis=axis)
