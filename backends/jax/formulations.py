"""JAX's formulations, functions of images, kernel and bias to be jitted, and the same as lines of plain JAX for `recommend`."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from ..layouts import NCHW
from ..patches import channels_first_patches, channels_last_patches, patches_code


def conv2d(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`lax.conv_general_dilated`, NHWC and HWIO (NDHWC and DHWIO for video), padding given explicitly."""
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

    return jnp.pad(images, ((0, 0), *spec.effective_padding, (0, 0))) if any(map(any, spec.effective_padding)) else images


def linear(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """Pad, cut into patches, `jnp.dot`."""
    import jax.numpy as jnp

    tokens = jnp.dot(channels_last_patches(_pad(images, spec), spec, _Functions), kernel)
    return tokens if bias is None else tokens + bias


def linear_words(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """As `linear`, in pieces that stay in the caches and with pixels moved in words of eight bytes; the bias is the last row of the kernel, and the
    patches have a column of ones for it."""
    import jax
    import jax.numpy as jnp

    def embed(images: Any, kernel: Any, spec: PatchEmbedSpec) -> Any:
        patches = _patches_by_words(images, spec)
        if len(kernel) > spec.patch_values:
            patches = jnp.concatenate([patches, jnp.ones((*patches.shape[:-1], 1), patches.dtype)], axis=-1)
        return jnp.dot(patches, kernel)

    def whole(images: Any, kernel: Any) -> Any:
        return embed(images, kernel, spec)

    @jax.custom_vjp
    def in_pieces(images: Any, kernel: Any) -> Any:
        strip = _strip(spec)
        pieces = images.reshape(count, len(images) * spec.grid[0] // count, *strip.image_size, spec.in_channels)
        tokens = jax.lax.map(lambda piece: embed(piece, kernel, strip), pieces)
        return tokens.reshape(len(images), spec.num_patches, spec.embed_dim)

    # A gradient in pieces is slower by a fourteenth: each adds its part to the kernel's, and their patches are put together for it.
    in_pieces.defvjp(lambda images, kernel: jax.vjp(whole, images, kernel), lambda pullback, gradient: pullback(gradient))
    images = _pad(images, spec)
    count = _pieces(spec, len(images), kernel.dtype.itemsize * len(kernel))
    return whole(images, kernel) if count == 1 else in_pieces(images, kernel)


PIECE_BYTES = 5 * 2**20
"""Patches that are cut and multiplied at a time, as in `numpy:linear`. ViT-B/16 on two cores, in parts of JAX's own product: batch 32 (19 MB of patches)
whole 0.90, in pieces of 8 or 4 images (4.8 and 2.4 MB) 0.97, of 16 0.93; batch 8 whole 0.95, in halves 0.91. On one core batch 32 whole 0.91,
in pieces of 8 1.02."""


def _strip(spec: PatchEmbedSpec) -> PatchEmbedSpec:
    """Sizes of one row of the grid, as an image of its own; what was padded is part of it."""
    return dataclasses.replace(spec, image_size=(spec.patch_size[0], *spec.padded_size[1:]), padding=0)


def _pieces(spec: PatchEmbedSpec, batch: int, patch_bytes: int) -> int:
    """Into how many equal pieces a batch is cut, whole rows of the grid each: as few as they may be; one where none are of at least half the size."""
    strips = batch * spec.grid[0]
    most = max(1, PIECE_BYTES // (spec.num_patches // spec.grid[0] * patch_bytes))
    if not spec.tiles or most >= strips:
        return 1
    length = max((length for length in range(most // 2 + 1, most + 1) if strips % length == 0), default=strips)
    return strips // length


WORD_BYTES = 8
"""XLA's CPU code for a transpose moves a value at a time: as many bytes as its widest plain type has take a third of the time that they take by fours
(4.8 MB on one core: 0.6 ms and 1.7 ms)."""


def _patches_by_words(images: Any, spec: PatchEmbedSpec) -> Any:
    """Cut padded images as `channels_last_patches` does; a row of a patch, P·C values, is moved in words where it is made of whole ones.

    The words are integers, through which no gradient goes: it is given as that of the plain cut, of which it is the adjoint.
    """
    import jax

    if not spec.tiles:
        return channels_last_patches(images, spec, _Functions)
    word, shape, order = _words(spec, images.dtype.itemsize)

    @jax.custom_vjp
    def cut(images: Any) -> Any:
        with jax.enable_x64(True):
            patches = images.reshape(len(images), *shape).view(word).transpose(order).view(images.dtype)
        return patches.reshape(len(images), spec.num_patches, spec.patch_values)

    def plain(images: Any) -> Any:
        return channels_last_patches(images, spec, _Functions)

    cut.defvjp(lambda images: (cut(images), None), lambda _, gradient: adjoint(gradient))
    adjoint = jax.linear_transpose(plain, jax.ShapeDtypeStruct(images.shape, images.dtype))
    return cut(images)


def _words(spec: PatchEmbedSpec, itemsize: int) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Type of the words, shape of each image with grid and patch axes in turn and a patch's rows flat, and the order that brings the grid to the front."""
    axes, run = spec.spatial_axes, spec.patch_size[-1] * spec.in_channels
    split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
    word = f"uint{8 * itemsize * math.gcd(run, WORD_BYTES // itemsize)}"
    return word, (*split[:-1], run), (0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2))


def conv2d_nchw(images: Any, kernel: Any, bias: Any, spec: PatchEmbedSpec) -> Any:
    """`lax.conv_general_dilated` on NCHW and OIHW, JAX's own default order, then flatten and transpose as in torch."""
    from jax import lax

    grid = lax.conv_general_dilated(images, kernel, window_strides=spec.stride, padding=spec.effective_padding)
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


def usage(implementation: Implementation, spec: PatchEmbedSpec) -> str:
    """What each formulation is in plain JAX."""
    formulation, first, padding = implementation.formulation, implementation.image_layout == NCHW, spec.effective_padding
    if formulation.startswith("conv2d"):
        letters = "HW" if spec.spatial_axes == 2 else "DHW"
        names = (f"NC{letters}", f"OI{letters}") if first else (f"N{letters}C", f"{letters}IO")
        numbers = (*names, f"N{letters}C")
        convolution = f"jax.lax.conv_general_dilated(images, kernel, {spec.stride}, {padding}, dimension_numbers={numbers})"
        lines = f"    grid = {convolution}\n    return grid.reshape(len(images), {spec.num_patches}, {spec.embed_dim}) + bias\n"
    else:
        pairs = ((0, 0), (0, 0), *padding) if first else ((0, 0), *padding, (0, 0))
        lines = f"    images = jnp.pad(images, {pairs})\n" if any(map(any, padding)) else ""
        lines += patches_code(spec, "jnp", "jnp.take", "jnp.reshape({array}, (len(images), {shape}))", first)
        product = f"jnp.dot(patches, kernel{'.T' if first else ''})"
        if formulation == "einsum":
            patch = "xyz"[: spec.spatial_axes]
            shape = (spec.num_patches, *spec.patch_size, spec.in_channels)
            product = f'jnp.einsum("bn{patch}c,{patch}cd->bnd", patches.reshape(len(images), *{shape}), kernel)'
        lines += f"    return {product} + bias\n"
    return f"import jax\nimport jax.numpy as jnp\nimport numpy as np\n\n\n@jax.jit\ndef embed(images):\n{lines}"


def words_usage(spec: PatchEmbedSpec, batch: int) -> str:
    """`linear_words` of images that patches tile, in plain JAX."""
    pairs = ((0, 0), *spec.effective_padding, (0, 0))
    padding = f"    images = jnp.pad(images, {pairs})\n" if any(map(any, spec.effective_padding)) else ""
    count = _pieces(spec, batch, 4 * (spec.patch_values + 1))
    piece = spec if count == 1 else _strip(spec)
    _, shape, order = _words(piece, 4)
    shape_text = ", ".join(map(str, shape))
    strip_text = ", ".join(map(str, (*piece.image_size, spec.in_channels)))
    pieces = f"images.reshape({count}, len(images) * {spec.grid[0]} // {count}, {strip_text})"
    result = "embed_piece(images)"
    if count > 1:  # whole rows of patches, as many as stay in the cache
        result = f"jax.lax.map(embed_piece, {pieces}).reshape(len(images), {spec.num_patches}, {spec.embed_dim})"
    return f"""\
import math

import jax
import jax.numpy as jnp

size = kernel.dtype.itemsize
word = f"uint{{8 * size * math.gcd({shape[-1]}, {WORD_BYTES} // size)}}"  # what is moved at once: XLA moves value by value
matrix = jnp.concatenate([kernel, bias[None]])  # the product adds the bias


def cut(images):
    return images.reshape(len(images), {shape_text}).transpose{order}.reshape(len(images), {piece.num_patches}, {spec.patch_values})


@jax.custom_vjp
def cut_by_words(images):
    with jax.enable_x64(True):
        words = images.reshape(len(images), {shape_text}).view(word).transpose{order}
        return words.view(images.dtype).reshape(len(images), {piece.num_patches}, {spec.patch_values})


def pull(images, gradient):  # no gradient goes through integers: it is that of the plain cut
    return jax.linear_transpose(cut, images)(gradient)


cut_by_words.defvjp(lambda images: (cut_by_words(images), images), pull)


def embed_piece(images):
    patches = cut_by_words(images)
    ones = jnp.ones((*patches.shape[:-1], 1), patches.dtype)
    return jnp.dot(jnp.concatenate([patches, ones], axis=-1), matrix)


@jax.jit
def embed(images):
{padding}    return {result}
"""


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
