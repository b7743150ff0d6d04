"""The steps of an image processor, read from the file beside a checkpoint that says them:
`preprocessor_config.json` of transformers, timm's `config.json`, KerasHub's `preprocessor.json`."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError, require_choice
from ...reference.fold import CLIP, IMAGENET
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

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Processor:
    """What an image processor of transformers does where its file says nothing else.

    Args:
        size: what is resized to, as its file would say it.
        crop: the middle that is cut out; None where nothing is.
        resample: Pillow's number of the filter.
        mean, std: None where nothing is normalized.
        kind: `plain`; `rescaled-first`; `crop-percent`; `pixels`, by the number of them.
        factor: that pixels are multiplied by.
        square: whether a size that is one number is that of both edges, else of the shortest.
        crop_size: that a file takes which says `do_center_crop` alone.
    """

    size: Mapping[str, int]
    crop: int | None = None
    resample: int = 3
    mean: tuple[float, ...] | None = HALF
    std: tuple[float, ...] | None = HALF
    kind: str = "plain"
    factor: float = 1 / 255
    square: bool = True
    crop_size: int | None = None


def _edges(edge: int) -> dict[str, int]:
    return {"height": edge, "width": edge}


_OF_CLIP = Processor({"shortest_edge": 224}, 224, mean=CLIP[0], std=CLIP[1], square=False)
PROCESSORS = {
    "Bit": _OF_CLIP,
    "Blip": Processor(_edges(384), mean=CLIP[0], std=CLIP[1]),
    "Chameleon": Processor(
        {"shortest_edge": 512},
        512,
        resample=1,
        mean=(1.0, 1.0, 1.0),
        std=(1.0, 1.0, 1.0),
        factor=0.0078,
        square=False,
    ),
    "ChineseCLIP": _OF_CLIP,
    "CLIP": _OF_CLIP,
    "DeiT": Processor(_edges(256), 224),
    "MobileNetV1": Processor({"shortest_edge": 256}, 224, resample=2, square=False),
    "OwlViT": Processor(_edges(768), mean=CLIP[0], std=CLIP[1], crop_size=768),
    "Pvt": Processor(_edges(224), mean=IMAGENET[0], std=IMAGENET[1]),
    "Siglip": Processor(_edges(224), square=False),
    "ViT": Processor(_edges(224), resample=2),
    "Tipsv2": Processor(_edges(448), resample=2, mean=None, std=None),
    "Beit": Processor(_edges(224), crop_size=224),
    "DINOv3ViT": Processor(
        _edges(224), resample=2, mean=IMAGENET[0], std=IMAGENET[1], kind="rescaled-first"
    ),
    "ConvNext": Processor({"shortest_edge": 384}, kind="crop-percent", square=False),
    "Qwen2VL": Processor(
        {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280},
        mean=CLIP[0],
        std=CLIP[1],
        kind="pixels",
        square=False,
    ),
}
"""Image processors of transformers 5.23, and what each does by itself; the tests run each on each
backend, with and without each setting."""


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
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
    """The method of a filter, by Pillow's number or its name.

    Raises:
        PatchParityError: an unknown one, or one that torchvision does not have.
    """
    known = isinstance(filter_, int) and not isinstance(filter_, bool)
    name = FILTERS.get(filter_, "") if known else filter_
    if name not in FILTERS.values():
        raise PatchParityError(f"a filter {filter_!r} is unknown")
    if backend == "pillow":
        old = version is not None and version < 13 and name != "nearest"
        return f"pillow-{name}{'-12' if old else ''}"
    if name in ("box", "hamming"):
        raise PatchParityError(f"torchvision has no filter {name}: the backend pillow has it")
    # transformers takes Pillow's nearest for torch's nearest-exact
    return "torchvision-nearest-exact" if name == "nearest" else f"torchvision-{name}-antialias"


def _numbers(name: str, value: Any, least: float | None = None) -> tuple[float, ...]:
    """Three numbers, or one for all channels.

    Raises:
        PatchParityError: another count, what is no number, or not above `least`.
    """
    values = value if isinstance(value, (list, tuple)) else (value,) * 3
    good = len(values) == 3 and all(
        isinstance(each, (int, float)) and not isinstance(each, bool) and math.isfinite(each)
        for each in values
    )
    if not good or (least is not None and min(values) <= least):
        above = "" if least is None else f" above {least:g}"
        raise PatchParityError(f"{name} = {value!r}: expected one number{above}, or three")
    return tuple(float(each) for each in values)


def _count(name: str, value: Any) -> int:
    """A number of pixels.

    Raises:
        PatchParityError: what is none, or more than a picture has.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_PIXELS:
        raise PatchParityError(f"{name} = {value!r}: expected a number of pixels")
    return value


MOST_PIXELS = 2**25
"""Pixels of an edge, or of an image whose number of pixels is told."""


def _flag(table: Mapping[str, Any], name: str, default: bool) -> bool:
    """A switch; null is off, as transformers takes it.

    Raises:
        PatchParityError: what is neither true nor false.
    """
    value = table.get(name, default)
    value = False if value is None else value
    if not isinstance(value, bool):
        raise PatchParityError(f"{name} = {value!r}: expected true or false")
    return value


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
    usual = PROCESSORS[name]
    resize: list[Step] = []
    if _flag(table, "do_resize", True):
        filter_ = table.get("resample", usual.resample)
        if isinstance(filter_, str):  # which transformers takes for bilinear on Pillow
            raise PatchParityError(f"resample = {filter_!r}: expected Pillow's number of a filter")
        method = _method(filter_, backend, version)
        resize = _resize_of(table, usual, method)
    crop: list[Step] = []
    if usual.kind != "pixels" and _flag(table, "do_center_crop", usual.crop is not None):
        size = table.get("crop_size", usual.crop or usual.crop_size)
        padding: Any = "up" if backend == "pillow" else "down"
        crop = [Crop(_sides("crop_size", size), padding=padding)]
    rescales = _flag(table, "do_rescale", True)
    normalizes = _flag(table, "do_normalize", usual.mean is not None)
    factor = _numbers("rescale_factor", table.get("rescale_factor", usual.factor), 0.0)[0]
    end: list[Step] = []
    if rescales:
        end = [Rescale((factor,), dtype="float64" if backend == "pillow" else "float32")]
    first = end if usual.kind == "rescaled-first" else []
    if normalizes:
        mean = _numbers("image_mean", table.get("image_mean", usual.mean))
        std = _numbers("image_std", table.get("image_std", usual.std), 0.0)
        fused = backend == "torchvision" and rescales and not first
        end = [Normalize(mean, std, factor)] if fused else [*end, Normalize(mean, std)]
    if first:
        end = end[len(first) :]
    return PixelRecipe(f"transformers {written} ({backend})", (*first, *resize, *crop, *end))


def _resize_of(table: Mapping[str, Any], usual: Processor, method: str) -> list[Step]:
    """The change of size that a processor of transformers makes, and what it crops with it."""
    size = table.get("size", usual.size)
    if usual.kind == "pixels":
        limits = {**usual.size, **size} if isinstance(size, Mapping) else usual.size
        low = table.get("min_pixels") or limits["shortest_edge"]
        high = table.get("max_pixels") or limits["longest_edge"]
        factor = math.prod(
            _count(name, table.get(name, default))
            for name, default in (("patch_size", 14), ("merge_size", 2))
        )
        bounds = _count("min_pixels", low), _count("max_pixels", high)
        return [Resize(method, bounds, "pixels", factor=factor)]
    if usual.kind == "crop-percent" and isinstance(size, int):
        size = {"shortest_edge": size}
    if not isinstance(size, Mapping):
        if isinstance(size, int):
            edge = _count("size", size)
            return [Resize(method, (edge, edge), "exact" if usual.square else "shortest")]
        return [Resize(method, _sides("size", size))]
    told = {name: value for name, value in size.items() if value is not None}
    if usual.kind == "crop-percent":
        edge = _count("size.shortest_edge", told.get("shortest_edge"))
        if edge >= 384:
            return [Resize(method, (edge, edge))]
        percent = _numbers("crop_pct", table.get("crop_pct", 224 / 256), 0.0)[0]
        larger = int(edge / percent)
        return [Resize(method, (larger, larger), "shortest"), Crop((edge, edge))]
    if "shortest_edge" in told:
        edge = _count("size.shortest_edge", told["shortest_edge"])
        most = _count("size.longest_edge", told["longest_edge"]) if "longest_edge" in told else 0
        return [Resize(method, (edge, edge), "shortest", most)]
    if {"max_height", "max_width"} <= set(told):
        inside = _count("max_height", told["max_height"]), _count("max_width", told["max_width"])
        return [Resize(method, inside, "inside")]
    return [Resize(method, _sides("size", told))]


def _sides(name: str, size: Any) -> tuple[int, int]:
    """Rows and columns.

    Raises:
        PatchParityError: what is no size.
    """
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return _count(f"{name}.height", size["height"]), _count(f"{name}.width", size["width"])
    if isinstance(size, Mapping) and name == "crop_size" and "shortest_edge" in size:
        size = size["shortest_edge"]
    if isinstance(size, int):
        return _count(name, size), _count(name, size)
    if isinstance(size, Sequence) and not isinstance(size, str) and len(size) == 2:
        return _count(name, size[0]), _count(name, size[1])
    raise PatchParityError(f"{name} = {size!r}: expected height and width, or an edge")


def _of_timm(table: Mapping[str, Any], version: int | None) -> PixelRecipe:
    """`create_transform(**resolve_data_config(...))` of timm 1.0.31, for evaluation."""
    size = table.get("input_size", (3, 224, 224))
    if not isinstance(size, (list, tuple)) or len(size) != 3 or size[0] != 3:
        raise PatchParityError(f"input_size = {size!r}: expected 3, height and width")
    height, width = _sides("input_size", tuple(size[1:]))
    percent = _numbers("crop_pct", table.get("crop_pct") or 0.875, 0.0)[0]
    scaled = math.floor(height / percent), math.floor(width / percent)
    method = _method(table.get("interpolation") or "bicubic", "pillow", version)
    mode = table.get("crop_mode") or "center"
    mean = _numbers("mean", table.get("mean", IMAGENET[0]))
    std = _numbers("std", table.get("std", IMAGENET[1]), 0.0)
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
    if not isinstance(config, dict):
        raise PatchParityError("its config is no JSON object")
    converter = config.get("image_converter")
    if isinstance(converter, dict):
        config, table = converter["config"], converter
    whose = str(table.get("registered_name") or table.get("class_name") or "ImageConverter")
    size = _sides("image_size", config.get("image_size"))
    known = {"bilinear": "tf-bilinear", "bicubic": "tf-bicubic", "nearest": "tf-nearest"}
    interpolation = config.get("interpolation", "bilinear")
    if interpolation not in known:
        raise PatchParityError(f"an interpolation {interpolation!r} is not known here")
    method = known[interpolation]
    method += "-antialias" if config.get("antialias") and interpolation != "nearest" else ""
    steps: list[Step] = [AspectCrop(size)] if config.get("crop_to_aspect_ratio", True) else []
    if config.get("pad_to_aspect_ratio"):
        raise PatchParityError("pad_to_aspect_ratio is not known here")
    steps += [Resize(method, size), Round()]
    scale, offset = config.get("scale"), config.get("offset")
    if scale is None and offset is not None:
        raise PatchParityError(
            "an offset without a scale is added to bytes by Keras, and what is beyond 0 to 255 "
            "wraps: it is not read"
        )
    if scale is not None:
        factors = _numbers("scale", scale)
        steps.append(Rescale(factors, _numbers("offset", 0.0 if offset is None else offset)))
    # each backend of Keras has a bicubic of its own
    return PixelRecipe(f"KerasHub {whose.rpartition('>')[2]} (on TensorFlow)", tuple(steps))
