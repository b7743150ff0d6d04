"""Images for `embed`: arrays as they are, pictures as the commonest preprocessing has them; and the
result, written in one step."""

import os
import tempfile
from dataclasses import dataclass
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
    return (read_picture(source).pixels / 127.5 - 1).transpose(2, 0, 1)[None]


@dataclass(frozen=True)
class Picture:
    """A picture from a file.

    Args:
        pixels: `(H, W, 3)`, uint8.
        notes: what was done to it, or not, in sentences.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


CONVERTED = {
    "1": "of one bit a pixel, read as black and white in three channels",
    "L": "gray, repeated in three channels",
    "P": "of a palette, whose colors are read",
    "LA": "gray with alpha: repeated in three channels, the alpha left out",
    "PA": "of a palette with alpha, which is left out",
    "RGBA": "with alpha, which is left out: what is transparent shows the color below",
    "RGBa": "with alpha, which is left out",
    "CMYK": "CMYK, turned into RGB by Pillow, without a color profile",
    "YCbCr": "YCbCr, turned into RGB",
    "LAB": "L*a*b*, turned into RGB",
    "HSV": "HSV, turned into RGB",
}
"""What a picture of each of Pillow's modes becomes, in words."""

ROTATED = {
    2: "mirrored",
    3: "by 180 degrees",
    4: "upside down and mirrored",
    5: "by 90 degrees and mirrored",
    6: "by 90 degrees",
    7: "by 270 degrees and mirrored",
    8: "by 270 degrees",
}
"""EXIF's orientations."""


def read_picture(path: str | os.PathLike[str], rotate: bool = False) -> Picture:
    """A picture as three channels of 8 bits.

    Args:
        path: the file.
        rotate: whether it is turned as its EXIF data say.

    Raises:
        PatchParityError: a file that cannot be read, of more than 8 bits, or that claims to be
            larger than it can be; Pillow missing.
    """
    source = Path(path)
    try:
        import PIL.Image
        import PIL.ImageOps
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
            mode = picture.mode
            if mode != "RGB" and mode not in CONVERTED:
                kind = "of floats" if mode == "F" else "of more than 8 bits"
                raise PatchParityError(
                    f"{source} is {kind} a channel (mode {mode}): expected 8; scale it first, for "
                    "Pillow would cut it off"
                )
            if (bits := _bits(picture, source)) > 8:
                raise PatchParityError(
                    f"{source} is of {bits} bits a channel: expected 8; scale it first, for Pillow "
                    "would cut it off"
                )
            notes = [f"the picture is {CONVERTED[mode]}"] if mode != "RGB" else []
            if mode == "P" and "transparency" in picture.info:
                notes.append("what is transparent in it shows the color of its palette")
            if (frames := getattr(picture, "n_frames", 1)) > 1:
                notes.append(f"of its {frames} frames the first is read")
            turned = picture.getexif().get(ORIENTATION, 1)
            image = picture.convert("RGB")
            if turned in ROTATED:
                how = f"its EXIF data say that it is to be turned {ROTATED[turned]}"
                notes.append(f"{how}: it was" if rotate else f"{how}: read as it lies (--rotate)")
                image = PIL.ImageOps.exif_transpose(image) if rotate else image
            return Picture(np.asarray(image, np.uint8), tuple(notes))
    except (PatchParityError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged picture makes Pillow raise
        raise PatchParityError(
            f"cannot read a picture from {source}: {error or type(error).__name__}"
        ) from None


def _bits(picture: Any, source: Path) -> int:
    """Bits of a channel, as the file says: Pillow reads some of 16 as though they were of 8."""
    if picture.format == "PNG":
        with source.open("rb") as file:
            return (file.read(PNG_DEPTH + 1) + bytes(PNG_DEPTH))[PNG_DEPTH]
    if picture.format == "TIFF":
        return max(picture.tag_v2.get(BITS_PER_SAMPLE, (8,)))
    return 8


PNG_DEPTH, BITS_PER_SAMPLE = 24, 258
"""The byte of a PNG that holds its bits, and TIFF's tag of them."""


ORIENTATION = 0x0112
"""EXIF's tag of how a picture is turned."""


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
