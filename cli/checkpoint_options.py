"""Options of the commands that read checkpoints."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..reference.errors import PatchParityError
from .choices import DIALECTS, PIXEL_BACKENDS, RECIPES
from .given import size_of

CheckpointArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT",
        help="safetensors (also an index of shards, or a folder), .pt, .npz, .h5, .keras, "
        ".msgpack, .gguf, .onnx, .tflite, .xml of OpenVINO, .mlpackage, .pt2, a folder of Orbax or "
        "torch.distributed (docs/files.md).",
    ),
]


PrefixOption = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        metavar="NAME",
        help="What stands before all names, where a file holds several embedding stages.",
    ),
]


DialectsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--dialects", metavar="FILE", help="A TOML file with dialects of your own; may be repeated."
    ),
]


ImageSizeOption = Annotated[
    str | None,
    typer.Option(
        "--image-size",
        metavar="HxW",
        help="224, 224x160 (height, width) or 16x224x224 (frames first), where no file tells it.",
    ),
]


PatchSizeOption = Annotated[
    str | None,
    typer.Option("--patch-size", metavar="HxW", help="16 or 16x8, where the kernel is a matrix."),
]


InChannelsOption = Annotated[
    int | None, typer.Option("--in-channels", metavar="C", help="Where the kernel is a matrix.")
]


StrideOption = Annotated[
    str | None,
    typer.Option(
        "--stride",
        metavar="HxW",
        help="Between patches, 12 or 12x8, where they overlap and no file tells it.",
    ),
]


PaddingOption = Annotated[
    str | None,
    typer.Option(
        "--padding", metavar="HxW", help="Zeros around the image, 3 or 3x2, where no file tells it."
    ),
]


IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore",
        metavar="NAME",
        help="A tensor, or a pattern, that plays no part although nothing explains it; may be "
        "repeated.",
    ),
]


ResampleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--resample",
        **RECIPES,
        help="Take it to the sizes told (--image-size, --patch-size, --in-channels) by this "
        "recipe: timm, transformers-vit, torch-bicubic-antialias, pi-timm-bicubic-antialias, ... "
        "May be repeated.",
    ),
]


PreprocessBackendOption = Annotated[
    str,
    typer.Option(
        "--preprocess-backend",
        **PIXEL_BACKENDS,
        help="What transformers' processors resize with: torchvision, as version 5 does, or "
        "pillow.",
    ),
]


FromOption = Annotated[
    str | None,
    typer.Option("--from", **DIALECTS, help="The dialect, where it is known (port --list)."),
]


def sizes_of_options(context: typer.Context) -> dict[str, Any]:
    """What was told of the sizes, by the names that functions give them.

    Raises:
        PatchParityError: what is no size.
    """
    told: dict[str, Any] = {"in_channels": context.params["in_channels"]}
    for name in ("image_size", "patch_size", "stride", "padding"):
        option, least = f"--{name.replace('_', '-')}", 0 if name == "padding" else 1
        told[name] = size_of(option, context.params[name], least)
    return told


UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
"""Sizes of files, as transformers counts them."""


def bytes_of(text: str) -> int:
    """Bytes of `5GB`, `500MB` or a number.

    Raises:
        PatchParityError: what is no size.
    """
    found = re.fullmatch(r"(\d+)\s*([KMG]?B?)", text.strip().upper())
    if found is None or found[2] not in UNITS or not int(found[1]):
        raise PatchParityError(f"--shard-size {text}: expected a size such as 5GB or 500MB")
    return int(found[1]) * UNITS[found[2]]
