"""Numbers that a `config.json` may tell of the embedding stage, and what is none."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST_SIZE = 2**31
"""No image, patch or count of a configuration is as large."""

EPSILONS = ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps")
"""Under which keys libraries keep the ε of their norms."""

MOST_OF_A_VALUE = 60
"""Characters of a value that a message shows: a line of a terminal has 80."""


def whole_number(value: Any) -> int | None:
    """A positive whole number; None where it is none."""
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < LARGEST_SIZE
        else None
    )


def count_of(value: Any) -> int | None:
    """A whole number that is not negative; None where it is none."""
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_SIZE
        else None
    )


def norm_epsilon_of(value: Any) -> float | None:
    """An ε of a norm; None where it is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < math.inf else None


@dataclass(frozen=True)
class _Expected:
    """What a configuration may say under a key: in words, and as a test."""

    told: str
    holds: Callable[[Any], bool]


def _of_sizes(value: Any) -> bool:
    """Whether it is a size, or some, one for each axis or stage."""
    if isinstance(value, Mapping):
        value = [inner for inner in value.values() if inner is not None]
    parts = value if isinstance(value, (list, tuple)) else [value]
    return bool(parts) and all(
        _of_sizes(part) if isinstance(part, (list, tuple)) else whole_number(part) for part in parts
    )


_SIZE = _Expected("positive whole numbers", _of_sizes)
_NUMBERS = {
    **dict.fromkeys(
        (
            "image_size",
            "img_size",
            "crop_size",
            "patch_size",
            "patch_sizes",
            "spatial_patch_size",
            "temporal_patch_size",
            "tubelet_size",
            "num_channels",
            "in_channels",
            "in_chans",
            "num_frames",
            "frames_per_clip",
            "hidden_size",
            "embed_dim",
        ),
        _SIZE,
    ),
    **dict.fromkeys(
        ("num_register_tokens", "reg_tokens"),
        _Expected("a whole number", lambda value: count_of(value) is not None),
    ),
    **dict.fromkeys(
        EPSILONS,
        _Expected(
            "a number that is not negative", lambda value: norm_epsilon_of(value) is not None
        ),
    ),
    "model_type": _Expected("a name", lambda value: isinstance(value, str)),
}
"""What a `config.json` says about the embedding stage, by key: what is none of it is no evidence,
and no library would build its model of it."""


def nonsense(table: Mapping[str, Any]) -> str:
    """The first thing of a configuration of which no library would build its model, in words; empty
    where there is none. `null` says nothing."""
    for key, value in table.items():
        if (expected := _NUMBERS.get(key)) and value is not None and not expected.holds(value):
            return f"{key} is {json.dumps(value)[:MOST_OF_A_VALUE]}, expected {expected.told}"
    return ""
