"""Sizes of a live object that its weights do not show: stride, padding, image size."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec, Remainder
from .found import FoundWeights

_NOT_PLAIN = {
    "groups": 1,
    "feature_group_count": 1,
    "dilation": 1,
    "dilation_rate": 1,
    "kernel_dilation": 1,
    "input_dilation": 1,
    "padding_mode": "zeros",
}
"""Settings of convolution layers that no patch embedding has, with the value that turns each
off."""


def own_sizes(subject: Any, kind: str, owner: Any, name: str, kernel_axes: int) -> dict[str, Any]:
    """Stride, padding and image size that an object knows itself; of a video that its attributes
    call by no name, the frames are None.

    Raises:
        PatchParityError: a layer that is no plain convolution (groups, dilation, padding with other
            than zeros).
    """
    sizes: dict[str, Any] = {}
    for setting, off in _NOT_PLAIN.items():
        value = getattr(owner, setting, None)
        values = set(value) if isinstance(value, (tuple, list)) else {value}
        if not values <= {off, None}:
            raise PatchParityError(f"{name} has {setting}={value!r}: a patch embedding has {off!r}")
    shown = [
        getattr(owner, attribute)
        for attribute in ("stride", "strides")
        if hasattr(owner, attribute)
    ]
    if shown:
        stride = 1 if shown[0] is None else shown[0]
        sizes["stride"] = int(stride) if isinstance(stride, (int, np.integer)) else tuple(stride)
    padding = getattr(owner, "padding", None)
    if isinstance(padding, str):
        sizes["padding"] = padding.lower()
    elif padding is not None:
        sizes["padding"] = (
            padding
            if isinstance(padding, int)
            else tuple(tuple(p) if isinstance(p, (tuple, list)) else p for p in padding)
        )
    if (size := image_size_of(subject, kind)) is not None:
        height_and_width = (size, size) if isinstance(size, int) else size
        of_video = kernel_axes == 5
        sizes["image_size"] = (_frames(subject, kind), *height_and_width) if of_video else size
    return sizes


def image_size_of(subject: Any, kind: str) -> int | tuple[int, ...] | None:
    """What an object, or the first part of it that does, calls its image's size."""
    for part in _parts(subject, kind):
        size = getattr(part, "image_size", getattr(part, "img_size", None))
        if isinstance(size, int):
            return size
        if isinstance(size, (tuple, list)) and len(size) >= 2:
            return tuple(size)[:2]
    shape = getattr(subject, "input_shape", None) if kind == "keras" else None
    if isinstance(shape, tuple) and len(shape) == 4 and None not in shape[1:]:
        formats = [getattr(layer, "data_format", None) for layer in subject._flatten_layers()]
        return shape[2:] if "channels_first" in formats else shape[1:3]
    return None


def _frames(subject: Any, kind: str) -> int | None:
    """How many frames a video has, as an object or the first part of it that does tells."""
    told = (getattr(part, "num_frames", None) for part in _parts(subject, kind))
    return next((frames for frames in told if isinstance(frames, int)), None)


def _parts(subject: Any, kind: str) -> list[Any]:
    """An object and what it consists of, outside in."""
    for inside in ("modules", "_flatten_layers"):
        if kind in ("torch", "keras") and hasattr(subject, inside):
            return list(getattr(subject, inside)())
    return [subject]


def spec_of(name: str, found_weights: FoundWeights, sizes: Mapping[str, Any]) -> PatchEmbedSpec:
    """The sizes of an object: those of its kernel, and what it or a user says beside.

    Args:
        name: as errors call it.
        found_weights: its weights.
        sizes: in_channels, stride, padding, image_size, remainder, as far as they are known.

    Raises:
        PatchParityError: sizes that cannot belong together, or an image size that nothing tells.
    """
    patch, channels = (
        found_weights.patch_size,
        sizes.get("in_channels") or found_weights.in_channels,
    )
    if channels != found_weights.in_channels:
        raise PatchParityError(
            f"{name}: a kernel of {found_weights.in_channels} channels was found, {channels} were "
            "asked for"
        )
    step = patch if sizes.get("stride") is None else sizes["stride"]
    steps = (step,) * len(patch) if isinstance(step, int) else step
    if len(steps) != len(patch):
        raise PatchParityError(
            f"{name}: stride {tuple(steps)} has {len(steps)} axes, the patch {tuple(patch)} "
            f"{len(patch)}"
        )
    size = sizes.get("image_size")
    if size is None:
        size = _size_by_positions(name, found_weights, steps)
    elif len(patch) == 3:
        size = _with_frames(size, found_weights, steps)
    padding = sizes.get("padding", 0)
    if isinstance(padding, str) and padding not in ("valid", "same"):
        raise PatchParityError(
            f"{name}: padding {padding!r}: expected valid, same, or numbers of zeros"
        )
    amount = 0 if isinstance(padding, str) else padding
    remainder: Remainder = "same" if padding == "same" else sizes.get("remainder", "floor")
    return PatchEmbedSpec(size, patch, channels, found_weights.embed_dim, steps, amount, remainder)


def _with_frames(size: Any, found_weights: FoundWeights, steps: tuple[int, ...]) -> tuple[int, ...]:
    """The size of a video of which height and width are known: its frames are those of its
    positions, else a few."""
    first, patch = found_weights.patch_size[0], found_weights.patch_size
    *frames, height, width = (size, size) if isinstance(size, int) else size
    if frames and frames[0] is not None:
        return (*frames, height, width)
    places = math.prod(
        (side - p) // s + 1
        for side, p, s in zip((height, width), patch[1:], steps[1:], strict=True)
    )
    positions = found_weights.parts.get("positions")
    rows = 0 if positions is None else positions.size // found_weights.embed_dim
    times = next((n // places for n in (rows, rows - 1, rows - 2) if n > 0 and n % places == 0), 3)
    return (first + (times - 1) * steps[0], height, width)


def _size_by_positions(
    name: str, found_weights: FoundWeights, steps: tuple[int, ...]
) -> tuple[int, ...]:
    """An image size that nobody told: of positions the square one, else a small one of our own."""
    patch, positions = found_weights.patch_size, found_weights.parts.get("positions")
    if positions is None:  # not square, so that rows and columns cannot be mistaken for one another
        sides = zip(patch, steps, strict=True)
        return tuple(p + (2 + axis) * s for axis, (p, s) in enumerate(sides))
    if len(patch) > 2:
        raise PatchParityError(
            f"{name} holds positions of a video, and nothing tells its size: give it (image_size, "
            "--image-size)"
        )
    rows = positions.reshape(-1, found_weights.embed_dim).shape[0]
    square = [
        math.isqrt(rows - extra)
        for extra in range(min(3, rows))
        if math.isqrt(rows - extra) ** 2 == rows - extra
    ]
    if not square:
        raise PatchParityError(
            f"{name} holds {rows} rows of positions, no square grid: give the image size "
            "(--image-size)"
        )
    return tuple(p + (square[0] - 1) * s for p, s in zip(patch, steps, strict=True))
