"""Images for `embed`: arrays as they are, pictures as the commonest preprocessing has them; and the
result, written in one step."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .arrays import read_array
from .atomic import usual_mode

LARGEST_PICTURE, LARGEST_RATIO, SMALL_PICTURE = 2**25, 200, 2**22
"""Values of a picture that is read: 11 million pixels in three channels, and no more than 200 a
byte of its file beside 4 million: a photograph packs to a tenth, a drawing to a hundredth."""


def read_images(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Images `(B, C, H, W)` or `(B, C, T, H, W)` of a `.npy` file as they are; a picture as one
    image with values from -1 to 1.

    Raises:
        PatchParityError: a file that cannot be read, or of other axes; Pillow missing.
    """
    source = Path(path)
    if source.suffix == ".npy":
        images = read_array(source, "images")
        if images.ndim not in (4, 5):
            raise PatchParityError(
                f"images of shape {images.shape}: expected (B, C, H, W), or (B, C, T, H, W)"
            )
        return images.astype(np.float64)
    try:
        import PIL.Image
    except ImportError:
        raise PatchParityError(
            "a picture needs Pillow: pip install 'patchparity[images]'"
        ) from None
    try:
        if not source.is_file():
            raise PatchParityError(f"cannot read a picture from {source}: it is no regular file")
        with PIL.Image.open(source) as picture:
            values = 3 * picture.width * picture.height
            if (
                values > LARGEST_PICTURE
                or values > LARGEST_RATIO * source.stat().st_size + SMALL_PICTURE
            ):
                raise PatchParityError(
                    f"{source} claims {picture.width}×{picture.height} pixels in "
                    f"{source.stat().st_size} bytes: it is not read"
                )
            pixels = np.asarray(picture.convert("RGB"), np.float64)
    except (PatchParityError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged picture makes Pillow raise
        raise PatchParityError(
            f"cannot read a picture from {source}: {error or type(error).__name__}"
        ) from None
    return (pixels / 127.5 - 1).transpose(2, 0, 1)[None]


def write_array(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write a `.npy` file in one step.

    Raises:
        PatchParityError: a file that cannot be written.
    """
    target = Path(path).resolve()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".patchparity-") as folder:
            draft = Path(folder) / "array.npy"
            with draft.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            draft.chmod(usual_mode())
            draft.replace(target)
    except OSError as error:
        raise PatchParityError(f"cannot write {target}: {error.strerror or error}") from None
