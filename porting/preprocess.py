"""Images for a checkpoint, made of a picture as its library's image processor makes them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.errors import PatchParityError
from ..reference.pixel_steps import PixelRecipe
from .files.images import read_images, read_picture
from .files.preprocessing import read_preprocessing


@dataclass(frozen=True)
class Images:
    """Images of a file.

    Args:
        images: `(B, C, H, W)`, or `(B, C, T, H, W)`.
        steps: how they were made of a picture, in sentences.
        notes: what is to be told of the picture.
    """

    images: NDArray[Any]
    steps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def preprocess(
    picture: str | os.PathLike[str] | NDArray[Any],
    processor: str | os.PathLike[str],
    *,
    backend: str = "torchvision",
    rotate: bool = False,
) -> NDArray[Any]:
    """The images that a model takes, of a picture, as its library's image processor makes them.

    Args:
        picture: a file, or `(H, W, 3)`, uint8.
        processor: the file that tells the steps, or a checkpoint or folder beside which it lies:
            `preprocessor_config.json` of transformers, `config.json` of timm, `preprocessor.json`
            of KerasHub.
        backend: what transformers resizes with: `torchvision`, as version 5 does, or `pillow`.
        rotate: whether a picture is turned as its EXIF data say.

    Returns:
        `(1, C, H, W)`, float32.

    Raises:
        PatchParityError: a picture or a file that cannot be read, steps that are not known.

    Examples:
        >>> import json, pathlib
        >>> import numpy as np
        >>> import patchparity
        >>> size = {"height": 32, "width": 48}
        >>> steps = {"image_processor_type": "ViTImageProcessor", "size": size}
        >>> _ = pathlib.Path("preprocessor_config.json").write_text(json.dumps(steps))
        >>> photo = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
        >>> patchparity.preprocess(photo, "preprocessor_config.json").shape
        (1, 3, 32, 48)
    """
    recipe = recipe_of(processor, backend)
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise PatchParityError(
                f"picture of shape {picture.shape} and dtype {picture.dtype}: expected (H, W, 3), "
                "uint8"
            )
        return recipe.run(picture)
    return recipe.run(read_picture(picture, rotate).pixels)


def images_of(
    file: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    processor: str | None,
    backend: str,
    rotate: bool,
) -> Images:
    """The images of a `.npy` file as they are, of a picture as a processor makes them; `auto` is
    the one beside the checkpoint.

    Raises:
        PatchParityError: as in `preprocess`; a processor for an array.
    """
    array = Path(file).suffix == ".npy"
    if array and (processor or rotate):
        raise PatchParityError(
            f"{file} holds images as they are: --preprocess and --rotate are for a picture"
        )
    if array:
        return Images(read_images(file))
    picture = read_picture(file, rotate)
    if processor is None:
        images = (picture.pixels / 127.5 - 1).transpose(2, 0, 1)[None]
        return Images(images, ("images: values from -1 to 1, nothing resized",), picture.notes)
    where = checkpoint if processor == "auto" else processor
    recipe = recipe_of(where, backend)
    return Images(
        recipe.run(picture.pixels), (f"images: {recipe.words()}, as {recipe.name}",), picture.notes
    )


def recipe_of(processor: str | os.PathLike[str], backend: str) -> PixelRecipe:
    """The steps that a file tells, as the Pillow that is installed makes them."""
    return read_preprocessing(processor, backend, _pillow_version())


def _pillow_version() -> int | None:
    """The version of Pillow that is installed; None for none."""
    try:
        import PIL
    except ImportError:
        return None
    return int(PIL.__version__.partition(".")[0])
