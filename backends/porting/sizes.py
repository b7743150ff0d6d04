"""What is known of a checkpoint's sizes beside its tensors: a `config.json`, or what a user says."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec

LARGEST_CONFIG = 2**20


def require_sizes(option: str, value: Any, counts: tuple[int, ...] = (1, 2, 3)) -> None:
    """Raise PatchParityError for a size that is no positive integer, nor so many of these."""
    parts = value if isinstance(value, (tuple, list)) else (value,)
    if value is not None and not (
        all(isinstance(part, (int, np.integer)) and part > 0 for part in parts) and len(parts) in counts
    ):
        raise PatchParityError(f"{option}={value!r}: expected a positive integer, or one for each axis")


@dataclass(frozen=True)
class Sizes:
    """What a `config.json` beside a checkpoint tells of the embedding stage, as far as it does; or a user, whom no file may contradict (`asked`)."""

    model_type: str = ""
    image_size: tuple[int, ...] = ()
    patch_size: tuple[int, ...] = ()
    channels: int | None = None
    frames: int | None = None
    norm_epsilon: float | None = None
    asked: bool = False

    def over(self, other: "Sizes") -> "Sizes":
        """This, and the other where this tells nothing."""
        return Sizes(*(own or theirs for own, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @classmethod
    def told(
        cls,
        patch_size: int | Sequence[int] | None = None,
        image_size: int | Sequence[int] | None = None,
        in_channels: int | None = None,
    ) -> "Sizes":
        """What a user tells: sizes of the axes, with the frames of a video in front, or one for height and width.

        Raises:
            PatchParityError: a size that is no positive integer, nor two or three of these.
        """
        for option, value in (("patch_size", patch_size), ("image_size", image_size)):
            require_sizes(option, value, counts=(2, 3) if isinstance(value, (tuple, list)) else (1,))
        require_sizes("in_channels", in_channels, counts=(1,))
        patch, image = (
            () if value is None else (value, value) if isinstance(value, int) else tuple(value)
            for value in (patch_size, image_size)
        )
        frames = image[0] if len(image) == 3 else None
        return cls("", image[-2:], patch, in_channels, frames, asked=True)

    @classmethod
    def of(cls, spec: PatchEmbedSpec) -> "Sizes":
        """The sizes of a spec."""
        frames = spec.image_size[0] if spec.spatial_axes == 3 else None
        return cls("", spec.image_size[-2:], spec.patch_size[-2:], spec.in_channels, frames)


def read_config(folder: Path | None) -> Sizes:
    """Read `config.json` in the folder of a checkpoint; what is missing or damaged there tells nothing."""
    if folder is None:
        return Sizes()
    file = folder / "config.json"
    try:
        if not file.is_file() or file.stat().st_size > LARGEST_CONFIG:
            return Sizes()
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return Sizes()
    if not isinstance(told, dict):
        return Sizes()
    inner = told.get("vision_config") if isinstance(told.get("vision_config"), dict) else told
    assert isinstance(inner, dict)
    size = inner.get("image_size", inner.get("img_size"))
    if size is None and isinstance(told.get("pretrained_cfg"), dict):
        shape = told["pretrained_cfg"].get("input_size")
        size = shape[1:] if isinstance(shape, list) else None
    return Sizes(
        str(inner.get("model_type", told.get("model_type", ""))),
        _pair(size),
        _pair(inner.get("patch_size", inner.get("spatial_patch_size"))),
        _whole(inner.get("num_channels", inner.get("in_channels"))),
        _whole(inner.get("num_frames")),
        epsilon if isinstance(epsilon := inner.get("layer_norm_eps"), float) and 0 < epsilon < 1 else None,
    )


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _pair(value: Any) -> tuple[int, ...]:
    parts = value if isinstance(value, list) else [value, value]
    return tuple(parts) if len(parts) in (2, 3) and all(map(_whole, parts)) else ()
