"""What is known of a checkpoint beside its tensors: its `config.json`, or what a user says.
Evidence, which is held against the tensors."""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...reference.errors import PatchParityError, require_sizes
from ...reference.spec import PatchEmbedSpec
from ..files.checkpoint import Checkpoint
from .config_numbers import (
    EPSILONS,
    LARGEST_SIZE,
    count_of,
    nonsense,
    norm_epsilon_of,
    whole_number,
)
from .keras_config import DEEPEST, PIXELS, convolution, input_shape, layers_in_front

LARGEST_CONFIG = 2**22
"""Bytes of a config.json: the largest known, with the labels of 21843 classes twice, has 1.7 MB."""

CONFIG_JSON, FILE_ITSELF = "config.json", "the file itself"
"""Where evidence was said, in words."""

DEEPEST_CONFIG = 5
"""Tables within one another that are looked into: thinker_config, vision_config, backbone_config,
... of today's models are three."""


@dataclass(frozen=True)
class Sizes:
    """What a `config.json` beside a checkpoint tells of the embedding stage, as far as it does; or
    a user, whom no file may contradict (`asked`).

    Args:
        model_type: what transformers calls the model, that of its vision tower where it has one.
        image_size: rows and columns of pixels.
        patch_size: of a tubelet with its frames in front.
        channels, frames: of an image, of a video.
        norm_epsilon: of its norms.
        asked: whether a user said it.
        stride, padding: between patches, and of zeros around the image; empty where nothing is
            said.
        registers: number of register tokens; None where nothing is said.
        class_token: whether there is one; None where nothing is said.
        window: patches along a side of the attention windows in whose order tokens are.
        architecture: what timm calls the model.
        source: where the image size was said, in words.
        layers: kinds of Keras's layers in front of the patch embedding, where its archive has some.
        table: all of `config.json` that is about the vision tower, and as `whole_model_type` what
            the model that it is in is called.
    """

    model_type: str = ""
    image_size: tuple[int, ...] = ()
    patch_size: tuple[int, ...] = ()
    channels: int | None = None
    frames: int | None = None
    norm_epsilon: float | None = None
    asked: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    registers: int | None = None
    class_token: bool | None = None
    window: int | None = None
    architecture: str = ""
    source: str = ""
    layers: tuple[str, ...] = ()
    table: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def evident(self) -> bool:
        """Whether the image size was said by a config.json or by the file itself: evidence, which
        is held against the tensors."""
        return self.source in (CONFIG_JSON, FILE_ITSELF)

    @property
    def teller(self) -> str:
        """Who says what the model is, in words."""
        return FILE_ITSELF if self.source == FILE_ITSELF else CONFIG_JSON

    def over(self, other: "Sizes") -> "Sizes":
        """This, and the other where this tells nothing."""
        pairs = {
            size_field.name: (getattr(self, size_field.name), getattr(other, size_field.name))
            for size_field in fields(self)
        }
        return Sizes(
            **{
                name: theirs if _tells_nothing(value) else value
                for name, (value, theirs) in pairs.items()
            }
        )

    @classmethod
    def of_user(
        cls,
        image_size: int | Sequence[int] | None,
        patch_size: int | Sequence[int] | None,
        in_channels: int | None,
        stride: int | Sequence[int] | None,
        padding: int | Sequence[int] | None,
        sizes: "Sizes | None" = None,
    ) -> "Sizes | None":
        """What a user tells, one by one or as one object; None where nothing is told.

        Raises:
            PatchParityError: both at once; whatever `told` refuses.
        """
        each = (patch_size, image_size, in_channels, stride, padding)
        if all(size is None for size in each):
            return sizes
        if sizes is not None:
            raise PatchParityError("sizes= tells all sizes: give image_size= and the others alone")
        return cls.told(*each)

    @classmethod
    def told(
        cls,
        patch_size: int | Sequence[int] | None = None,
        image_size: int | Sequence[int] | None = None,
        in_channels: int | None = None,
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | None = None,
    ) -> "Sizes":
        """What a user tells: sizes of the axes, with the frames of a video in front, or one for
        height and width.

        Raises:
            PatchParityError: a size that is no positive integer, nor two or three of these.
        """
        for option, value, least in (
            ("patch_size", patch_size, 1),
            ("image_size", image_size, 1),
            ("stride", stride, 1),
            ("padding", padding, 0),
        ):
            require_sizes(
                option,
                value,
                counts=(2, 3) if isinstance(value, (tuple, list)) else (1,),
                least=least,
            )
        require_sizes("in_channels", in_channels, counts=(1,))
        patch, image, step, pad = (
            ()
            if value is None
            else (int(value), int(value))
            if isinstance(value, (int, np.integer))
            else tuple(map(int, value))
            for value in (patch_size, image_size, stride, padding)
        )
        frames = image[0] if len(image) == 3 else None
        return cls(
            "",
            image[-2:],
            patch,
            in_channels,
            frames,
            asked=True,
            stride=step,
            padding=pad,
            source="what was told",
        )

    @classmethod
    def of(cls, spec: PatchEmbedSpec, window: int = 0) -> "Sizes":
        """The sizes of a spec."""
        frames = spec.image_size[0] if spec.spatial_axes == 3 else None
        pad = tuple(before for before, _ in spec.padding)
        sizes = spec.image_size[-2:], spec.patch_size[-2:], spec.in_channels
        return cls("", *sizes, frames, stride=spec.stride, padding=pad, window=window or None)


VISION = (
    "vision_config",
    "image_config",
    "visual_config",
    "vision_encoder_config",
    "backbone_config",
    "encoder",
    "thinker_config",
    "vlm_config",
    "image_model_config",
    "patch_model_config",
    "sam_config",
    "detector_config",
)
"""Under which keys libraries keep what is about the vision tower of a model with several, or the
backbone of a head."""

_SIZED = (
    "patch_size",
    "patch_sizes",
    "spatial_patch_size",
    "image_size",
    "img_size",
    "tubelet_size",
    "patch_stride",
)


def read_config(folder: Path | None) -> Sizes:
    """Read `config.json` in the folder of a checkpoint; none tells nothing.

    Raises:
        PatchParityError: a file that is no JSON object.
    """
    if folder is None:
        return Sizes()
    file = folder / "config.json"
    try:
        if not file.is_file():
            return Sizes()
        if (size := file.stat().st_size) > LARGEST_CONFIG:
            raise PatchParityError(
                f"{file} has {size} bytes, expected at most {LARGEST_CONFIG}: it is no model's "
                "configuration"
            )
        settings = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PatchParityError(f"cannot read {file}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise PatchParityError(
            f"{file} is no JSON ({str(error).splitlines()[0]}): mend it, or move it away"
        ) from None
    if not isinstance(settings, dict):
        raise PatchParityError(
            f"{file} holds a {type(settings).__name__}, expected a JSON object: mend it, or move "
            "it away"
        )
    sizes = sizes_of_config(settings)
    if wrong := nonsense(sizes.table):
        raise PatchParityError(f"{file} says that {wrong}: mend it, or move it away")
    return sizes


def config_of(checkpoint: Checkpoint) -> Sizes:
    """What a checkpoint itself tells of its model, and the `config.json` beside it.

    Raises:
        PatchParityError: what is no JSON object, or tells nonsense.
    """
    beside = read_config(checkpoint.config_folder)
    if not checkpoint.own_config:
        return beside
    own = sizes_of_config(checkpoint.own_config)
    if wrong := nonsense(own.table):
        raise PatchParityError(f"{checkpoint.path} says that {wrong}")
    table = {**beside.table, **own.table}
    return dataclasses.replace(own, source=FILE_ITSELF, table=table).over(beside)


def _tells_nothing(value: Any) -> bool:
    """Whether a size is not told; 0 and False are."""
    return value is None or (isinstance(value, (tuple, str, Mapping)) and not value)


def sizes_of_config(settings: Mapping[str, Any]) -> Sizes:
    """What the table of a `config.json` tells, of transformers' models, timm's and wrappers of
    these."""
    if keras_table(settings)[0]:
        return _of_keras_hub(settings)
    if isinstance(settings.get("library"), str) and isinstance(settings.get("arguments"), dict):
        return _of_arguments(settings["arguments"])
    if isinstance(settings.get("class_name"), str) and isinstance(settings.get("config"), dict):
        in_front = tuple(layers_in_front(settings, KERAS_HUB))
        shape = () if in_front else input_shape(settings)
        return Sizes(
            image_size=shape[:2],
            channels=shape[2] if shape else None,
            source=CONFIG_JSON,
            layers=in_front,
            table={"keras_convolution": convolution(settings)},
        )
    if isinstance(settings.get("architecture"), str) and not isinstance(
        settings.get("vision_config"), dict
    ):
        return _of_timm(settings)
    inner = _vision(settings)
    tubelet = _sizes(inner.get("tubelet_size"))
    patch = _pair(inner.get("patch_size", inner.get("spatial_patch_size")))
    frames = inner.get("temporal_patch_size", inner.get("tubelet_size"))
    if len(tubelet) == 3:
        patch = tubelet
    elif isinstance(frames, int) and len(patch) == 2 and whole_number(frames):
        patch = (frames, *patch)
    return Sizes(
        str(inner.get("model_type") or settings.get("model_type") or ""),
        _pair(inner.get("image_size", inner.get("img_size", inner.get("crop_size")))),
        patch,
        whole_number(inner.get("num_channels", inner.get("in_channels", inner.get("in_chans")))),
        whole_number(inner.get("num_frames", inner.get("frames_per_clip"))),
        _epsilon(inner),
        registers=count_of(inner.get("num_register_tokens")),
        source=CONFIG_JSON,
        table={**inner, "whole_model_type": settings.get("model_type")},
    )


def _of_arguments(arguments: Mapping[str, Any]) -> Sizes:
    """What the arguments of a class tell, as a port of a whole model writes them beside it where
    its library keeps no configuration (vit-pytorch, torchvision, Flax NNX)."""
    return Sizes(
        image_size=_pair(arguments.get("image_size", arguments.get("img_size"))),
        patch_size=_pair(arguments.get("patch_size")),
        channels=whole_number(arguments.get("in_channels", arguments.get("channels"))),
        source=CONFIG_JSON,
    )


KERAS_HUB = "keras_hub>"
"""How the names begin under which KerasHub registers its classes."""


def keras_table(settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The registered name and the arguments of the one model of KerasHub with patches in a
    `config.json` as Keras writes it; empty without one, and where there are several that differ:
    which tensors are whose, no name tells."""
    models = list(_keras_tables(settings, 0))
    plain = [
        (name, {key: value for key, value in given.items() if key not in _NAMES})
        for name, given in models
    ]
    return models[0] if models and all(model == plain[0] for model in plain) else ("", {})


def _keras_tables(node: Any, depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if depth > DEEPEST:
        return
    if isinstance(node, list):
        for child in node:
            yield from _keras_tables(child, depth + 1)
    if not isinstance(node, dict):
        return
    registered, given = node.get("registered_name"), node.get("config")
    ours = isinstance(registered, str) and registered.startswith(KERAS_HUB)
    if (
        isinstance(registered, str)
        and ours
        and isinstance(given, dict)
        and any(name in given for name in _PATCHED)
    ):
        yield registered, given
        return
    for inner in node.values():
        yield from _keras_tables(inner, depth + 1)


_NAMES = ("name", "dtype", "trainable")
_PATCHED = ("patch_size", "layerwise_patch_sizes")


def _of_keras_hub(settings: Mapping[str, Any]) -> Sizes:
    registered, given = keras_table(settings)
    shape = given.get("image_shape")
    shape = shape if isinstance(shape, list) and len(shape) == 3 else [None, None, None]
    # made with the channels first
    if all(map(whole_number, shape)) and shape[0] <= MOST_COLORS < shape[2]:
        shape = [*shape[1:], shape[0]]
    return Sizes(
        image_size=_pair(shape[:2]),
        patch_size=_pair(given.get("patch_size")),
        channels=whole_number(shape[2]),
        registers=count_of(given.get("num_register_tokens")),
        class_token=given.get("use_class_token")
        if isinstance(given.get("use_class_token"), bool)
        else None,
        architecture=registered,
        source=CONFIG_JSON,
        layers=tuple(
            dict.fromkeys([*layers_in_front(settings, KERAS_HUB), *_pixel_layers(settings, 0)])
        ),
        table=given,
    )


MOST_COLORS = 4
"""Channels of a picture: an image of no more rows is none."""


def _pixel_layers(node: Any, depth: int) -> Iterator[str]:
    """Kinds of layers that change pixels, of a model as Keras writes it; those of KerasHub's
    preprocessors are no part of it."""
    if depth > DEEPEST:
        return
    if isinstance(node, dict) and node.get("class_name") in PIXELS:
        yield str(node["class_name"])
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _pixel_layers(child, depth + 1)


def _vision(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that is about images: under a key that says so, or the whole."""
    for inner in _inner(settings, 0):
        return inner
    return settings


def _inner(settings: Mapping[str, Any], depth: int) -> Iterator[Mapping[str, Any]]:
    for key in VISION:
        inner = settings.get(key)
        if isinstance(inner, dict) and depth < DEEPEST_CONFIG:
            yield from _inner(inner, depth + 1)
            if any(name in inner for name in _SIZED) or "model_type" in inner:
                yield {"model_type": settings.get("model_type"), **inner}


def _of_timm(settings: Mapping[str, Any]) -> Sizes:
    """What timm writes beside its files: an architecture, arguments of its constructor, and what
    its weights were trained with."""
    given = settings.get("model_args") if isinstance(settings.get("model_args"), dict) else {}
    trained = (
        settings.get("pretrained_cfg") if isinstance(settings.get("pretrained_cfg"), dict) else {}
    )
    assert isinstance(given, dict)
    assert isinstance(trained, dict)
    shape = trained.get("input_size")
    shape = (
        shape
        if isinstance(shape, list) and len(shape) == 3 and all(map(whole_number, shape))
        else [None, None, None]
    )
    image = _pair(given.get("img_size")) or (_pair(shape[1:]) if shape[1] else ())
    return Sizes(
        image_size=image,
        patch_size=_pair(given.get("patch_size")),
        channels=whole_number(given.get("in_chans")) or shape[0],
        registers=count_of(given.get("reg_tokens")),
        class_token=given.get("class_token")
        if isinstance(given.get("class_token"), bool)
        else None,
        architecture=str(settings["architecture"]).partition(".")[0],
        source=CONFIG_JSON,
        table=given,
    )


def _epsilon(inner: Mapping[str, Any]) -> float | None:
    epsilons = [norm_epsilon_of(inner.get(name)) for name in EPSILONS]
    return next((epsilon for epsilon in epsilons if epsilon is not None), None)


def _sizes(value: Any) -> tuple[int, ...]:
    return (
        tuple(value) if isinstance(value, (list, tuple)) and all(map(whole_number, value)) else ()
    )


def _pair(value: Any) -> tuple[int, ...]:
    """Two sizes, or three with frames in front; of transformers' `{"height": …, "width": …}`
    too."""
    if isinstance(value, dict):
        value = [value.get("height"), value.get("width")]
    parts = value if isinstance(value, (list, tuple)) else [value, value]
    parts = [parts[0], parts[0]] if len(parts) == 1 else parts
    return tuple(parts) if len(parts) in (2, 3) and all(map(whole_number, parts)) else ()


def numbers_at(table: Mapping[str, Any], names: Sequence[str], axes: int) -> tuple[int, ...]:
    """The numbers that a config keeps under these keys, one for each axis; a key may name a place
    in a list, `strides.0`. Empty where one is missing."""
    numbers: list[int] = []
    for name in names:
        value: Any = table
        for part in name.split("."):
            if isinstance(value, Mapping):
                value = value.get(part)
            elif isinstance(value, (list, tuple)) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = None
        parts = value if isinstance(value, (list, tuple)) else [value]
        if not all(
            isinstance(part, int) and not isinstance(part, bool) and 0 <= part < LARGEST_SIZE
            for part in parts
        ):
            return ()
        numbers += parts
    return (
        tuple(numbers * axes)
        if len(numbers) == 1
        else tuple(numbers)
        if len(numbers) == axes
        else ()
    )
