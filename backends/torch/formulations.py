"""How torch writes the patch embedding: a layer and a function from images to tokens for each
formulation, and the lines that say it in plain torch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...reference.spec import PatchEmbedSpec
from ..pixels import SCALE, channel_statistics

Forward = Callable[[Any], Any]


def padder(spec: PatchEmbedSpec) -> Forward:
    """Zeros around images, as `torch.nn.functional.pad` takes them: last axis first. Nothing where
    there are none."""
    import torch

    if not any(any(pair) for pair in spec.effective_padding):
        return lambda images: images
    amounts = [amount for pair in reversed(spec.effective_padding) for amount in pair]
    return lambda images: torch.nn.functional.pad(images, amounts)


CHANNELS_LAST = "conv2d_channels_last"
"""The convolution on images and a kernel whose channels lie together in memory, under the same
shapes."""


def conv2d(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """`torch.nn.Conv2d` (`Conv3d` for video) with kernel = patch, then flatten(2) and transpose(1,
    2)."""
    import torch

    layer_type = torch.nn.Conv2d if spec.spatial_axes == 2 else torch.nn.Conv3d
    symmetric = all(before == after for before, after in spec.effective_padding)
    padding = tuple(before for before, _ in spec.effective_padding) if symmetric else 0
    pad: Forward = (lambda images: images) if symmetric else padder(spec)
    layer = layer_type(
        spec.in_channels, spec.embed_dim, spec.patch_size, spec.stride, padding=padding, bias=bias
    )
    return layer, lambda images: layer(pad(images)).flatten(2).transpose(1, 2)


def linear(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """Patches by strided view, one copy to `(B, N, C·P²)`, then `torch.nn.Linear`."""
    import torch

    layer, patches = torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=bias), _patches(spec)
    return layer, lambda images: layer(patches(images))


def _windows(spec: PatchEmbedSpec, words: int = 1) -> Forward:
    """Views `(B, C, *grid, *patch)` of the patches of padded images, by `Tensor.unfold`; of images
    whose columns come in words, patches in such words."""
    sizes = [(size, step) for size, step in zip(spec.patch_size, spec.stride, strict=True)]
    sizes[-1] = spec.patch_size[-1] // words, spec.stride[-1] // words

    def cut(images: Any) -> Any:
        for axis, (size, step) in enumerate(sizes):
            images = images.unfold(2 + axis, size, step)
        return images

    return cut


def _patches(spec: PatchEmbedSpec) -> Forward:
    """Patches `(B, N, C·P²)`: a strided view and one copy."""
    pad, cut, order, size = padder(spec), _windows(spec), patches_last(spec), spec.patch_values
    # Contiguous: patches of one pixel are a view, for which torch adds the bias to a product that
    # it has rounded already.
    return lambda images: (
        cut(pad(images)).permute(order).reshape(len(images), spec.num_patches, size).contiguous()
    )


def patches_last(spec: PatchEmbedSpec) -> tuple[int, ...]:
    """The axes of windows in the order `(B, *grid, C, *patch)`."""
    axes = spec.spatial_axes
    return (0, *range(2, 2 + axes), 1, *range(2 + axes, 2 + 2 * axes))


WIDEST_WORD = 16
"""Bytes of the widest type that torch copies as one, complex128."""


def _word_patches(spec: PatchEmbedSpec) -> Forward:
    """Patches `(B, N, C·P²)` of images that need no gradient: as many pixels are copied at once as
    go into a word, whole patches and whole steps."""
    import torch

    words = {
        1: torch.uint8,
        2: torch.int16,
        4: torch.int32,
        8: torch.int64,
        WIDEST_WORD: torch.complex128,
    }
    pad, order, windows = padder(spec), patches_last(spec), {}

    def patches(images: Any) -> Any:
        images, size = pad(images).contiguous(), images.element_size()
        # Of no images torch sets strides as it likes, and a view in other words asks for those of a
        # full array.
        pixels = (
            math.gcd(spec.patch_size[-1], spec.stride[-1], images.shape[-1], WIDEST_WORD // size)
            if len(images)
            else 1
        )
        if pixels not in windows:
            windows[pixels] = _windows(spec, pixels)
        rows = windows[pixels](images.view(words[pixels * size])).permute(order)
        # Contiguous: patches that lie in one row of the grid may be no copy, but a view.
        return (
            rows.reshape(len(images), spec.num_patches, spec.patch_values // pixels)
            .contiguous()
            .view(images.dtype)
        )

    return patches


def linear_words(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """As `linear`, with patches copied in words of up to 16 bytes, and those of bytes then cast.

    To cast them in that copy would be a pass less, but torch then moves byte by byte (ViT-B/16,
    batch 8, one core: 0.43 ms, against 0.19 in two passes, and 0.29 for floats).
    """
    import torch

    layer, patches = (
        torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=bias),
        _word_patches(spec),
    )
    return layer, lambda images: layer(patches(images).to(layer.weight.dtype))


def conv2d_uint8(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """Bytes cast, rescaled and normalized as torchvision does, each in place, then `conv2d`."""
    import torch

    layer, convolve = conv2d(spec, bias)
    arrays = channel_statistics(spec.in_channels, np.float32, spec.spatial_axes)
    kept: dict[Any, tuple[Any, Any]] = {}

    def forward(images: Any) -> Any:
        place = layer.weight.device
        if place not in kept:
            kept[place] = tuple(torch.from_numpy(array).to(place) for array in arrays)
        mean, std = kept[place]
        return convolve(images.to(layer.weight.dtype).mul_(SCALE).sub_(mean).div_(std))

    return layer, forward


def unfold(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """`torch.nn.functional.unfold`, which gives `(B, C·P², N)`, then `torch.nn.Linear`. It knows
    images alone: frames of a video go in as channels."""
    import torch

    layer, pad = torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=bias), padder(spec)
    frames = spec.patch_size[:-2]

    def forward(images: Any) -> Any:
        batch, images = images.shape[0], pad(images)
        if frames:
            # (B, C, grid T, H, W, Pt)
            windows = images.unfold(2, spec.patch_size[0], spec.stride[0])
            images = windows.permute(0, 2, 1, 5, 3, 4).flatten(2, 3).flatten(0, 1)
        columns = torch.nn.functional.unfold(images, spec.patch_size[-2:], stride=spec.stride[-2:])
        return layer(columns.transpose(1, 2)).reshape(batch, spec.num_patches, spec.embed_dim)

    return layer, forward


def einsum(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """`torch.einsum` of the patches' strided view with a convolution's kernel."""
    import torch

    layer, _ = conv2d(spec, bias)
    pad, cut, axes = padder(spec), _windows(spec), spec.spatial_axes
    grid, patch = "thw"[3 - axes :], "xyz"[3 - axes :]
    equation = f"bc{grid}{patch},dc{patch}->b{grid}d"

    def forward(images: Any) -> Any:
        tokens = torch.einsum(equation, cut(pad(images)), layer.weight).reshape(
            len(images), spec.num_patches, spec.embed_dim
        )
        return tokens if layer.bias is None else tokens + layer.bias

    return layer, forward


def prepacked(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """As `linear_words`, with weights that oneDNN has laid out for its product once, when they are
    assigned."""
    import torch

    layer, patches = (
        torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=bias),
        _word_patches(spec),
    )
    packed: dict[tuple[int, int], Any] = {}

    def forward(images: Any) -> Any:
        key = images.shape[0], layer.weight._version  # an assignment makes a new one
        if key not in packed:
            packed.clear()
            packed[key] = torch.ops.mkldnn._reorder_linear_weight(
                layer.weight.detach(), key[0] * spec.num_patches
            )
        rows = patches(images).to(layer.weight.dtype).reshape(-1, spec.patch_values)
        tokens = torch.ops.mkldnn._linear_pointwise(rows, packed[key], layer.bias, "none", [], "")
        return tokens.reshape(len(images), spec.num_patches, spec.embed_dim)

    return layer, forward


def fused(spec: PatchEmbedSpec, bias: bool) -> tuple[Any, Forward]:
    """As `linear`, in one Triton kernel that takes its patches from the images as it multiplies."""
    import torch

    from .triton_kernel import embed

    layer, pad = torch.nn.Linear(spec.patch_values, spec.embed_dim, bias=bias), padder(spec)
    return layer, lambda images: embed(pad(images), layer.weight, layer.bias, spec)
