"""The lines of code that `recommend` shows for JAX's formulations."""

from ...reference.spec import PatchEmbedSpec
from ..base import Implementation
from ..layouts import NCHW
from ..patches import patches_code
from .formulations import WORD_BYTES, _pieces, _strip, _words


def usage(implementation: Implementation, spec: PatchEmbedSpec) -> str:
    """What each formulation is in plain JAX."""
    formulation, first, padding = (
        implementation.formulation,
        implementation.image_layout == NCHW,
        spec.effective_padding,
    )
    if formulation.startswith("conv2d"):
        letters = "HW" if spec.spatial_axes == 2 else "DHW"
        names = (f"NC{letters}", f"OI{letters}") if first else (f"N{letters}C", f"{letters}IO")
        numbers = (*names, f"N{letters}C")
        convolution = (
            f"jax.lax.conv_general_dilated(images, kernel, {spec.stride}, {padding}, "
            f"dimension_numbers={numbers})"
        )
        lines = (
            f"    grid = {convolution}\n    return grid.reshape(len(images), "
            f"{spec.num_patches}, {spec.embed_dim}) + bias\n"
        )
    else:
        pairs = ((0, 0), (0, 0), *padding) if first else ((0, 0), *padding, (0, 0))
        lines = f"    images = jnp.pad(images, {pairs})\n" if any(map(any, padding)) else ""
        lines += patches_code(
            spec, "jnp", "jnp.take", "jnp.reshape({array}, (len(images), {shape}))", first
        )
        product = f"jnp.dot(patches, kernel{'.T' if first else ''})"
        if formulation == "einsum":
            patch = "xyz"[: spec.spatial_axes]
            shape = (spec.num_patches, *spec.patch_size, spec.in_channels)
            product = (
                f'jnp.einsum("bn{patch}c,{patch}cd->bnd", patches.reshape(len(images), '
                f"*{shape}), kernel)"
            )
        lines += f"    return {product} + bias\n"
    return (
        "import jax\nimport jax.numpy as jnp\nimport numpy as np\n\n\n@jax.jit\ndef "
        f"embed(images):\n{lines}"
    )


def words_usage(spec: PatchEmbedSpec, batch: int) -> str:
    """`linear_words` of images that patches tile, in plain JAX."""
    pairs = ((0, 0), *spec.effective_padding, (0, 0))
    padding = (
        f"    images = jnp.pad(images, {pairs})\n" if any(map(any, spec.effective_padding)) else ""
    )
    count = _pieces(spec, batch, 4 * (spec.patch_values + 1))
    piece = spec if count == 1 else _strip(spec)
    _, shape, order = _words(piece, 4)
    shape_text = ", ".join(map(str, shape))
    strip_text = ", ".join(map(str, (*piece.image_size, spec.in_channels)))
    pieces = f"images.reshape({count}, len(images) * {spec.grid[0]} // {count}, {strip_text})"
    result = "embed_piece(images)"
    if count > 1:  # whole rows of patches, as many as stay in the cache
        result = (
            f"jax.lax.map(embed_piece, {pieces}).reshape(len(images), {spec.num_patches}, "
            f"{spec.embed_dim})"
        )
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
"""  # noqa: E501
