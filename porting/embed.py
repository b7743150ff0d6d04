"""`embed`: the reference, run on the embedding stage of any checkpoint."""

import dataclasses
import math
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.embed import patch_embed
from ..reference.errors import PatchParityError, require_choice
from ..reference.sequence import embed_sequence
from ..reference.spec import PatchEmbedSpec
from ..reference.stem import apply_stem, features_of, image_of
from ..reference.weights import PatchEmbedWeights
from .dialects.catalogue import list_dialects
from .dialects.choosing import way_to_positions
from .dialects.recognize import UNKNOWN_MODEL
from .dialects.sizes import Sizes, config_of
from .dialects.stage import Stage, read_stage
from .files.opening import opened
from .resized import as_recipes, own_recipes, resized, sizes_of_source


def embed(
    checkpoint: str | os.PathLike[str],
    images: NDArray[Any],
    *,
    to: str = "sequence",
    from_: str | None = None,
    prefix: str | None = None,
    image_size: int | Sequence[int] | None = None,
    patch_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | None = None,
    sizes: Sizes | None = None,
    resample: str | Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> NDArray[Any]:
    """Run the reference on the embedding stage of a checkpoint.

    Args:
        checkpoint: of any dialect.
        images: `(B, C, H, W)`, or `(B, C, T, H, W)` for tubelets, preprocessed as the model has it.
        to: the `sequence` that enters the encoder, or `tokens` after the projection (and its norm,
            if there is one before it).
        from_, prefix, patch_size, in_channels, stride, padding, ignore, dialects: as in `port`.
        image_size: that the checkpoint's positions are for; the images tell their own size.
        sizes: the same in one object, as earlier versions took them.
        resample: recipes by which positions are taken to the images' size, kernel and channels to
            `patch_size` and `in_channels`, which then are the new ones; None where none changes.

    Returns:
        `(B, N, D)`, or `(B, prefix + N, D)`, float64.

    Raises:
        PatchParityError: whatever `read_stage` refuses; images that do not fit.

    Warns:
        UserWarning: what was assumed for nothing tells it: a square grid or patch, ε of the norms;
            pixels that are in no patch.

    Examples:
        >>> import numpy as np
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2)
        >>> config = transformers.ViTConfig(num_hidden_layers=1, intermediate_size=32, **sizes)
        >>> transformers.ViTModel(config).save_pretrained("vit")
        >>> patchparity.embed("vit", np.zeros((2, 3, 32, 32))).shape  # class token and 16 patches
        (2, 17, 16)
    """
    sizes = Sizes.of_user(image_size, patch_size, in_channels, stride, padding, sizes)
    require_choice("to", to, ("tokens", "sequence"))
    read = read_for_images(
        checkpoint,
        images,
        from_=from_,
        prefix=prefix,
        sizes=sizes,
        resample=resample,
        ignore=ignore,
        dialects=dialects,
    )
    for sentence in (*read.stage.assumptions, *read.left_out(images)):
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return read.embed(images, to)


@dataclass(frozen=True)
class Packed:
    """Sequences of images of several sizes, one behind the other.

    Args:
        sequence: `(ΣN, D)`, float64, the tokens of each image in its library's order.
        grids: `(images, 2)`, rows and columns of patches; of tubelets `(images, 3)`, frames first.
        lengths: `(images,)`, tokens of each image, prefix tokens among them.
    """

    sequence: NDArray[np.float64]
    grids: NDArray[np.int64]
    lengths: NDArray[np.int64]


def embed_packed(
    checkpoint: str | os.PathLike[str], images: Sequence[NDArray[Any]], **options: Any
) -> Packed:
    """Run the reference on images of several sizes, packed into one sequence, as NaViT, NaFlex and
    Qwen-VL take them.

    Args:
        checkpoint: of any dialect.
        images: each `(C, H, W)`, or `(C, T, H, W)` for tubelets, preprocessed as the model has it.
        options: those of `embed`; with `resample` positions are taken to the grid of each image.

    Returns:
        The tokens of all images, and the table of their grids.

    Raises:
        PatchParityError: whatever `embed` refuses; no images.

    Examples:
        >>> import numpy as np
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2)
        >>> config = transformers.ViTConfig(num_hidden_layers=1, intermediate_size=32, **sizes)
        >>> transformers.ViTModel(config).save_pretrained("vit")
        >>> two = [np.zeros((3, 32, 48)), np.zeros((3, 16, 24))]
        >>> patchparity.embed_packed("vit", two, resample="transformers-vit").grids
        array([[4, 6],
               [2, 3]])
    """
    if not images:
        raise PatchParityError("no images to pack")
    told = ("image_size", "patch_size", "in_channels", "stride", "padding", "sizes")
    sizes = Sizes.of_user(*(options.pop(name, None) for name in told))
    to = options.pop("to", "sequence")
    require_choice("to", to, ("tokens", "sequence"))
    parts, grids = [], []
    for image in images:
        batch = np.asarray(image)[None]
        read = read_for_images(checkpoint, batch, sizes=sizes, **options)
        parts.append(read.embed(batch, to)[0])
        size = features_of(batch.shape[2:], read.stage.stem)
        grids.append(read.stage.spec.replace(image_size=size).grid)
    lengths = np.array([len(part) for part in parts])
    return Packed(np.concatenate(parts), np.array(grids), lengths)


@dataclass(frozen=True)
class ReadForImages:
    """The embedding stage of a checkpoint, read for images.

    Args:
        stage: as it was read.
        config: what config.json tells.
        size_told: whether a user or config.json tells the image size.
        steps: how it was resized, in sentences.
    """

    stage: Stage
    config: Sizes
    size_told: bool
    steps: tuple[str, ...] = ()

    def left_out(self, images: NDArray[Any]) -> list[str]:
        """That some rows or columns of pixels are in no patch, in a sentence; some models refuse
        such images."""
        spec, size = self.stage.spec, images.shape[-2:]
        if self.stage.stem or spec.remainder != "floor" or len(size) < 2:
            return []
        steps = zip(size, spec.patch_size[-2:], spec.stride[-2:], spec.padding[-2:], strict=True)
        over = [(pixels + sum(pads) - side) % by for pixels, side, by, pads in steps]
        if not spec.tiles or not any(over) or any(map(any, spec.padding)):
            return []
        given, patch = ("×".join(map(str, sides)) for sides in (size, spec.patch_size[-2:]))
        return [
            f"of images of {given} the last {over[0]} rows and {over[1]} columns are in no patch "
            f"of {patch}, and are left out"
        ]

    def embed(self, images: NDArray[Any], to: str) -> NDArray[Any]:
        """What the reference gives; arguments and errors as those of `embed`."""
        stage = self.stage
        _require_images(images, stage)
        _require_images_of_steps(images, stage, self.config)
        features = apply_stem(images, stage.stem) if stage.stem else images
        size = features.shape[2:]
        spec = stage.spec if size == stage.spec.image_size else stage.spec.replace(image_size=size)
        weights = stage.weights.astype(np.float64)
        if to == "tokens" and weights.patch_norm is None:
            return patch_embed(features, weights, spec)
        if to == "tokens":
            return embed_sequence(features, _projection(weights), spec)
        if weights.positions is not None:
            _require_positions(images, stage, spec, self.size_told)
        return embed_sequence(features, weights, spec)


def require_normalized(picture: str | os.PathLike[str], stage: Stage) -> None:
    """Raise PatchParityError for a picture that would be scaled to −1 … 1, where the model itself
    normalizes images: which values it takes, no file tells."""
    if stage.dialect.pixels or any(OWN_PIXELS.search(note) for note in stage.notes):
        raise PatchParityError(
            f"{picture} would be scaled to −1 … 1, and this model normalizes images itself: give "
            "the values that it takes as .npy (a picture's own are from 0 to 255, or 0 to 1), or "
            "--preprocess FILE"
        )


OWN_PIXELS = re.compile(r"normalizes images itself|is a picture of \w+ values")
"""How the notes of a stage tell that its model normalizes images."""


def read_for_images(
    checkpoint: str | os.PathLike[str],
    images: NDArray[Any],
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    resample: str | Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> ReadForImages:
    """Read the stage as these images need it; arguments and errors as those of `embed`."""
    with opened(checkpoint) as file:
        config = config_of(file)
        if recipes := as_recipes(resample):
            known, told = list_dialects(dialects), sizes_of_source(sizes, recipes)
            stage = read_stage(file, from_, prefix, known, told, ignore)
            new = Sizes.told(image_size=images.shape[-2:])
            new = new if sizes is None else sizes.over(new)
            done = resized(stage, new, recipes)
            return ReadForImages(done.stage, config, True, tuple(done.steps))
        if images.ndim in (4, 5):
            file.for_images(images.shape[2:], prefix)
            config = config_of(file)  # a graph tells its sizes once it is followed
        image_sizes = Sizes(
            image_size=tuple(images.shape[-2:]),
            frames=images.shape[2] if images.ndim == 5 else None,
        )
        if (
            sizes is not None
            and sizes.asked
            and sizes.image_size not in ((), image_sizes.image_size)
        ):
            asked, given = (
                "×".join(map(str, source.image_size)) for source in (sizes, image_sizes)
            )
            raise PatchParityError(f"images of {given} pixels, and {asked} was told")
        said = bool((sizes is not None and sizes.asked and sizes.image_size) or config.image_size)
        known, wanted = (
            list_dialects(dialects),
            image_sizes if sizes is None else sizes.over(image_sizes),
        )
        stage = read_stage(file, from_, prefix, known, wanted, ignore)
        if stage.candidate.assumed_patch and images.ndim == stage.spec.spatial_axes + 2:
            # Behind a matrix the patch follows from the channels, which the images show.
            image_sizes = dataclasses.replace(image_sizes, channels=images.shape[1])
            wanted = image_sizes if sizes is None else sizes.over(image_sizes)
            stage = read_stage(file, from_, prefix, known, wanted, ignore)
        if stage.dialect.any_grid and images.ndim == stage.spec.spatial_axes + 2:
            spec = stage.spec.replace(image_size=features_of(images.shape[2:], stage.stem))
            if (
                spec.grid != stage.spec.grid or not stage.size_known
            ):  # positions of this grid, as the library makes them at run time
                whole = Sizes.told(image_size=images.shape[2:])
                whole = whole if sizes is None else whole.over(sizes)
                stage = read_stage(file, from_, prefix, known, whole, ignore)
    return ReadForImages(stage, config, said)


def told_parts(stage: Stage) -> list[str]:
    """That a bias or positions are not there, which its dialect knows, and that its configuration
    names a model that nobody knows, in sentences."""
    entries = stage.dialect.entries
    unknown = [said for said in stage.candidate.evidence if UNKNOWN_MODEL in said]
    return unknown + [
        f"{entries[name].name} is not there: {stage.dialect.means(name)}"
        for name in ("bias", "positions")
        if name in entries and name not in stage.candidate.names and not stage.dialect.plain
    ]


def _require_images(images: NDArray[Any], stage: Stage) -> None:
    """Raise PatchParityError for images of another rank, or other channels."""
    axes, channels = stage.spec.spatial_axes, stage.in_channels
    if images.ndim == axes + 2 and images.shape[1] != channels:
        hint = "; channels last? move them to axis 1" if images.shape[-1] == channels else ""
        raise PatchParityError(
            f"images of shape {images.shape}: expected {channels} channels at axis 1{hint}"
        )
    if images.ndim != axes + 2:
        kinds = {2: "(B, C, H, W)", 3: "(B, C, T, H, W)"}
        frames = stage.spec.patch_size[0]
        still = (
            f"; a picture is a video of {frames} frames that are the same"
            if axes == 3 and images.ndim == 4
            else ""
        )
        raise PatchParityError(f"images of shape {images.shape}: expected {kinds[axes]}{still}")


def _require_images_of_steps(images: NDArray[Any], stage: Stage, config: Sizes) -> None:
    """Raise PatchParityError for images that the library itself would pad or resize."""
    steps = [
        math.prod([by, *(layer.stride for layer in stage.stem)]) for by in stage.spec.stride[-2:]
    ]
    size, given = images.shape[-2:], "×".join(map(str, images.shape[2:]))
    expected_size = tuple(
        count * step for count, step in zip(stage.spec.grid[-2:], steps, strict=True)
    )
    if stage.dialect.images == "grid" and size != expected_size:
        raise PatchParityError(
            f"images of {given}: expected images of {'×'.join(map(str, expected_size))}, for its "
            "library resizes all others, or its positions, first"
        )
    if stage.dialect.images == "multiple-of-patch_size":
        steps = list(config.patch_size[-2:] or steps)
    if stage.dialect.images.startswith("multiple") and any(
        a % b for a, b in zip(size, steps, strict=True)
    ):
        raise PatchParityError(
            f"images of {given}: expected multiples of {'×'.join(map(str, steps))}, for its "
            "library pads all "
            "others to these first"
        )


def _require_positions(
    images: NDArray[Any], stage: Stage, spec: PatchEmbedSpec, said: bool
) -> None:
    """Raise PatchParityError where the positions are not those of these images, or may be
    others."""
    given = "×".join(map(str, images.shape[2:]))
    of_a_square = math.isqrt(spec.num_patches) ** 2 == spec.num_patches or stage.dialect.video
    oblong = of_a_square and len(set(spec.grid[-2:])) > 1
    if oblong and not said and not stage.dialect.any_grid:
        raise PatchParityError(
            f"images of {given} are {'×'.join(map(str, spec.grid))} patches, and the "
            f"{spec.num_patches} positions may be "
            "those of a square grid: --image-size says of which images they are"
        )
    if spec.grid != stage.spec.grid:
        tiles = (
            stage.spec.stride == stage.spec.patch_size
            and not any(map(any, stage.spec.padding))
            and not stage.stem
        )
        wanted = image_of(stage.spec.image_size, stage.stem)
        way = way_to_positions(own_recipes(stage), bool(stage.dialect.copies))
        raise PatchParityError(
            f"images of {given} give {spec.num_patches} tokens, "
            f"and there are positions for {stage.spec.num_patches} "
            f"({'×'.join(map(str, stage.spec.grid))}): "
            "expected images of "
            f"{'×'.join(map(str, wanted))}{'' if tiles else ', or a few pixels more'}"
            f"{'' if stage.stem else way}"
        )


def _projection(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    """The projection alone, with the norm before it."""
    return PatchEmbedWeights(
        weights.kernel, weights.bias, patch_norm=weights.patch_norm, layout=weights.layout
    )
