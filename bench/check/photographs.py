"""Pictures as problems: read, checked, and cut to a case of their own size."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...porting.files.arrays import read_array
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec, Remainder
from ..cases import Case

PHOTOGRAPH_PATCH = 16
PHOTOGRAPH_WIDTH = 768
CUP = slice(72, 328), slice(96, 480)
"""The part of scikit-image's `coffee` (400 × 600) that is checked on: the cup, 256 × 384, neither
square nor all of it."""


def picture_case(pixels: NDArray[Any], name: str, remainder: Remainder) -> Case:
    """The case that a picture of shape `(H, W)` or `(H, W, C)` makes: ViT-B/16 at the picture's own
    size.

    Raises:
        PatchParityError: a picture that does not divide, under `remainder="error"`.
    """
    height, width, channels = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    try:
        spec = PatchEmbedSpec(
            (height, width), PHOTOGRAPH_PATCH, channels, PHOTOGRAPH_WIDTH, remainder=remainder
        )
    except PatchParityError as error:
        raise PatchParityError(f"image {name} of shape {pixels.shape}: {error}") from None
    return Case(name, spec, 1)


def find_picture(
    image: str | os.PathLike[str] | NDArray[Any] | None,
) -> tuple[tuple[NDArray[Any], str] | None, str]:
    """Return pixels and a name, or None and why there are none.

    Args:
        image: pixels, a file, or None for the picture that scikit-image ships.

    Raises:
        PatchParityError: a picture that cannot be read, or of a shape or values that no picture
            has.
    """
    if isinstance(image, np.ndarray):
        return (_checked_pixels(image, "array"), "photograph"), ""
    if image is not None:
        return (
            _checked_pixels(read_image(Path(image)), str(image)),
            f"photograph:{Path(image).name}",
        ), ""
    try:
        from skimage import data
    except ImportError:
        return (
            None,
            "scikit-image is not installed, and no --image was given: pip install "
            "'patchparity[images]'",
        )
    return (data.coffee()[CUP], "photograph:coffee"), ""


def _checked_pixels(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return a picture as uint8, uint16, or floats in [0, 1]; integers of other types that fit one
    of the first two are taken for it."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        raise PatchParityError(
            f"image {name} of shape {pixels.shape}: expected (H, W) or (H, W, C) with 1, 3 or 4 "
            "channels"
        )
    if pixels.dtype == bool:
        return pixels.astype(np.float32)
    if np.issubdtype(pixels.dtype, np.integer):
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > np.iinfo(np.uint16).max:
            raise PatchParityError(
                f"image {name} holds integers from {low} to {high}: expected 0 to 255, or 0 to "
                "65535"
            )
        narrow = (
            np.uint8 if high <= np.iinfo(np.uint8).max and pixels.dtype != np.uint16 else np.uint16
        )
        return pixels.astype(narrow)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise PatchParityError(f"image {name} of dtype {pixels.dtype}: expected integers or floats")
    if not np.isfinite(pixels).all():
        raise PatchParityError(
            f"image {name} of shape {pixels.shape} holds {int((~np.isfinite(pixels)).sum())} NaN "
            "or infinite values"
        )
    if pixels.min() < 0 or pixels.max() > 1:
        raise PatchParityError(
            f"image {name} holds floats from {pixels.min():.4g} to {pixels.max():.4g}: expected 0 "
            "to 1"
        )
    return pixels


_PLAIN_MODES = ("L", "RGB", "RGBA", "I;16", "I;16L", "I;16B", "I", "F")
"""Pillow's modes whose values are kept; all others (palettes, bits, LA, CMYK) are converted to RGB,
which loses nothing of them."""


def read_image(path: Path) -> NDArray[Any]:
    """Read a picture: `.npy` as it is, anything else through Pillow; shape `(H, W)` or `(H, W, C)`.

    Raises:
        PatchParityError: a file that is absent or no picture, or Pillow missing.
    """
    if path.suffix in (".npy", ".npz", ".safetensors"):
        return read_array(path, "image")
    try:
        from PIL import Image
    except ImportError:
        raise PatchParityError(
            f"reading {path} needs Pillow: pip install 'patchparity[images]'"
        ) from None
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if picture.mode in _PLAIN_MODES else picture.convert("RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # Pillow raises SyntaxError on broken chunks
        raise PatchParityError(f"cannot read image {path}: {error}") from None
