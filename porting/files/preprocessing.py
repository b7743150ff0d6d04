"""The steps of an image processor, read from the file beside a checkpoint that says them:
`preprocessor_config.json` of transformers, timm's `config.json`, KerasHub's `preprocessor.json`."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError, require_choice
from ...reference.pixel_steps import (
    AspectCrop,
    Crop,
    Divide,
    Normalize,
    PixelRecipe,
    Rescale,
    Resize,
    Round,
    Step,
    per_channel,
)

NAMES = ("preprocessor_config.json", "processor_config.json", "preprocessor.json", "config.json")
"""Files that may say it, the first of them that does."""

LARGEST_FILE = 2**22
"""Bytes: those of transformers have 1 kB."""

FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of its filters."""

BACKENDS = ("torchvision", "pillow")
"""What transformers resizes with: torchvision on tensors, since version 5 wherever it is installed,
or Pillow."""

PROCESSORS = {
    **dict.fromkeys(
        (
            "Bit",
            "Blip",
            "Chameleon",
            "ChineseCLIP",
            "CLIP",
            "DeiT",
            "MobileNetV1",
            "OwlViT",
            "Pvt",
            "Siglip",
            "ViT",
            "Tipsv2",
            "Beit",
        ),
        "plain",
    ),
    "DINOv3ViT": "rescaled-first",
    "ConvNext": "crop-percent",
    "Qwen2VL": "pixels",
}
"""Image processors of transformers 5.23 by what they do; the tests run each on each backend."""


def read_preprocessing(
    path: str | os.PathLike[str], backend: str = "torchvision", version: int | None = None
) -> PixelRecipe:
    """The steps that a file tells.

    Args:
        path: the file, or a checkpoint or folder beside which it lies.
        backend: of transformers, `torchvision` or `pillow`.
        version: of Pillow, whose 13 resizes in another order; None for today's.

    Raises:
        PatchParityError: no such file, one that is no JSON object, or tells something else.
    """
    require_choice("backend", backend, BACKENDS)
    file, table = _found(Path(path))
    try:
        if "pretrained_cfg" in table:
            return _of_timm({**table, **(table["pretrained_cfg"] or {})}, version)
        if "class_name" in table or "image_converter" in table:
            return _of_keras(table)
        if "image_processor" in table and isinstance(table["image_processor"], dict):
            table = table["image_processor"]
        if "input_size" in table and "mean" in table:
            return _of_timm(table, version)
        return _of_transformers(table, backend, version)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, PatchParityError):
            raise PatchParityError(f"{file}: {error}") from None
        raise PatchParityError(
            f"{file} tells no steps of an image processor ({type(error).__name__}: {error})"
        ) from None


def _found(path: Path) -> tuple[Path, dict[str, Any]]:
    """The file and what it holds.

    Raises:
        PatchParityError: none, or one that is no JSON object.
    """
    if path.suffix == ".json":
        return path, _table(path)
    folder = path if path.is_dir() else path.parent
    for name in NAMES:
        file = folder / name
        if file.is_file():
            table = _table(file)
            if name != "config.json" or "pretrained_cfg" in table:
                return file, table
    raise PatchParityError(
        f"{folder} holds no {', '.join(NAMES[:-1])}, nor a config.json of timm: nothing tells how "
        "its images are made"
    )


def _table(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise PatchParityError(f"{file} is larger than {LARGEST_FILE} bytes")
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, PatchParityError):
            raise
        raise PatchParityError(f"{file} cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise PatchParityError(f"{file} is no JSON object")
    return table


def _method(filter_: Any, backend: str, version: int | None) -> str:
    """The method of a filter, by Pillow's number or its name."""
    name = FILTERS.get(filter_) if isinstance(filter_, int) else str(filter_).lower()
    if name not in FILTERS.values():
        raise PatchParityError(f"a filter {filter_!r} is unknown")
    if backend == "pillow":
        old = version is not None and version < 13 and name != "nearest"
        return f"pillow-{name}{'-12' if old else ''}"
    if name in ("box", "hamming"):
        raise PatchParityError(f"torchvision has no filter {name}: the backend pillow has it")
    return f"torchvision-{name}" + ("" if name == "nearest" else "-antialias")


def _of_transformers(table: Mapping[str, Any], backend: str, version: int | None) -> PixelRecipe:
    written = table.get("image_processor_type") or table.get("feature_extractor_type")
    if not isinstance(written, str):
        raise PatchParityError("it names no image_processor_type")
    if written.endswith("Pil"):
        backend = "pillow"
    name = written
    for suffix in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
        name = name.removesuffix(suffix)
    if name not in PROCESSORS:
        raise PatchParityError(
            f"{written} makes steps of its own that are not known here; known are those of "
            f"{', '.join(PROCESSORS)}"
        )
    kind = PROCESSORS[name]
    resize = _resize_of(table, kind, _method(table.get("resample", 2), backend, version))
    crop: list[Step] = []
    if table.get("do_center_crop") and table.get("crop_size") is not None:
        padding: Any = "up" if backend == "pillow" else "down"
        crop = [Crop(_sides(table["crop_size"]), padding=padding)]
    factor = float(table.get("rescale_factor") or 1 / 255)
    rescales = table.get("do_rescale", True)
    mean, std = (per_channel(table.get(key) or 0.5) for key in ("image_mean", "image_std"))
    rescale = Rescale((factor,), dtype="float64" if backend == "pillow" else "float32")
    normalizes = bool(table.get("do_normalize", True))
    end: list[Step] = [rescale] if rescales else []
    end += [Normalize(mean, std)] if normalizes else []
    if backend == "torchvision" and rescales and normalizes and kind != "rescaled-first":
        end = [Normalize(mean, std, factor)]
    if kind == "rescaled-first" and rescales:
        steps = [rescale, *resize, *crop, *end[1:]]
    else:
        steps = [*resize, *crop, *end]
    return PixelRecipe(f"transformers {written} ({backend})", tuple(steps))


def _resize_of(table: Mapping[str, Any], kind: str, method: str) -> list[Step]:
    """The change of size that a processor of transformers makes, and what it crops with it."""
    if not table.get("do_resize", True):
        return []
    size = table.get("size")
    if kind == "pixels":
        limits = size if isinstance(size, dict) else {}
        low = table.get("min_pixels") or limits.get("shortest_edge") or 56 * 56
        high = table.get("max_pixels") or limits.get("longest_edge") or 28 * 28 * 1280
        factor = int(table.get("patch_size", 14)) * int(table.get("merge_size", 2))
        return [Resize(method, (int(low), int(high)), "pixels", factor=factor)]
    if kind == "crop-percent":
        edge = size["shortest_edge"] if isinstance(size, dict) else int(size or 384)
        if edge >= 384:
            return [Resize(method, (edge, edge))]
        larger = int(edge / float(table.get("crop_pct") or 224 / 256))
        return [Resize(method, (larger, larger), "shortest"), Crop((edge, edge))]
    if isinstance(size, dict):
        if size.get("shortest_edge"):
            edge, most = int(size["shortest_edge"]), int(size.get("longest_edge") or 0)
            return [Resize(method, (edge, edge), "shortest", most)]
        if size.get("longest_edge"):
            edge = int(size["longest_edge"])
            return [Resize(method, (edge, edge), "longest")]
        if size.get("max_height"):
            return [Resize(method, (int(size["max_height"]), int(size["max_width"])), "inside")]
    # a number alone, in files of old versions, is the shortest edge of CLIP's kin, else both edges
    shortest = not table.get("default_to_square", not table.get("do_center_crop", False))
    if isinstance(size, int):
        return [Resize(method, (size, size), "shortest" if shortest else "exact")]
    return [Resize(method, _sides(size))]


def _sides(size: Any) -> tuple[int, int]:
    """Rows and columns.

    Raises:
        PatchParityError: what is no size.
    """
    if isinstance(size, dict) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, dict) and size.get("shortest_edge"):
        return int(size["shortest_edge"]), int(size["shortest_edge"])
    if isinstance(size, int):
        return size, size
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise PatchParityError(f"size {size!r}: expected height and width, or an edge")


def _of_timm(table: Mapping[str, Any], version: int | None) -> PixelRecipe:
    """`create_transform(**resolve_data_config(...))` of timm 1.0.31, for evaluation."""
    size = table.get("input_size", (3, 224, 224))
    height, width = int(size[1]), int(size[2])
    percent = float(table.get("crop_pct") or 0.875)
    scaled = math.floor(height / percent), math.floor(width / percent)
    method = _method(table.get("interpolation", "bilinear"), "pillow", version)
    mode = table.get("crop_mode") or "center"
    mean, std = per_channel(table["mean"]), per_channel(table["std"])
    steps: list[Step]
    if mode == "squash":
        steps = [Resize(method, scaled)]
    elif mode == "center":
        to: Any = "shortest" if scaled[0] == scaled[1] else "ratio"
        steps = [Resize(method, scaled, to)]
    else:
        raise PatchParityError(f"crop_mode {mode!r} is not known here: center and squash are")
    steps += [Crop((height, width), "even"), Divide(), Normalize(mean, std)]
    return PixelRecipe(f"timm {table.get('architecture', '')}".strip(), tuple(steps))


def _of_keras(table: Mapping[str, Any]) -> PixelRecipe:
    """An `ImageConverter` of KerasHub, alone or in a preprocessor."""
    config = table.get("config", table)
    converter = config.get("image_converter")
    if isinstance(converter, dict):
        config, table = converter["config"], converter
    whose = str(table.get("registered_name") or table.get("class_name") or "ImageConverter")
    size = _sides(config["image_size"])
    method = {"bilinear": "tf-bilinear", "bicubic": "tf-bicubic", "nearest": "tf-nearest"}[
        config.get("interpolation", "bilinear")
    ]
    method += "-antialias" if config.get("antialias") else ""
    steps: list[Step] = [AspectCrop(size)] if config.get("crop_to_aspect_ratio", True) else []
    if config.get("pad_to_aspect_ratio"):
        raise PatchParityError("pad_to_aspect_ratio is not known here")
    steps += [Resize(method, size), Round()]
    scale, offset = config.get("scale"), config.get("offset")
    if scale is not None or offset is not None:
        factors = per_channel(1.0 if scale is None else scale)
        steps.append(Rescale(factors, per_channel(0.0 if offset is None else offset)))
    return PixelRecipe(f"KerasHub {whose.rpartition('>')[2]}", tuple(steps))
