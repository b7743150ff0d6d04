"""Mistakes of positions: rotary angles and windows."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ..encoder import Rotary
from ..encoder_case import BlockCase, EndCase
from ..pipeline import Array
from .angles import coordinates_of, temperature_of, with_frequencies
from .catalogue import believing, register
from .norms import short


def _turned(
    case: BlockCase, change: Callable[[Array], Array | None], **fields: Any
) -> BlockCase | None:
    """The block with other angles, and with another spec."""
    rotary = case.places.rotary
    angles = None if rotary is None else change(rotary.angles)
    if angles is None:
        return None
    places = dataclasses.replace(case.places, rotary=Rotary(angles))
    changed = dataclasses.replace(case, places=places)
    return believing(changed, **fields) if fields else changed


TEMPERATURES = (100.0, 1000.0, 10000.0, 100000.0)
"""θ of published models: DINOv3; none known; RoFormer, Qwen2-VL, EVA-02; long contexts of language
models."""


def _temperature(temperature: float) -> None:
    def change(angles: Array) -> Array | None:
        right, coordinates = temperature_of(angles), coordinates_of(angles)
        if right is None or coordinates is None or abs(right / temperature - 1) < 1e-4:
            return None
        return with_frequencies(coordinates, temperature, angles.shape[1] // 2)

    def declared(case: BlockCase | EndCase) -> str:
        rotary = case.places.rotary if isinstance(case, BlockCase) else None
        found = None if rotary is None else temperature_of(rotary.angles)
        return "another" if found is None else short(found)

    register(
        f"rotary-temperature-{short(temperature)}",
        "positions",
        f"the temperature of the rotary positions is {short(temperature)}",
        "set the base θ of the rotary positions, which no tensor holds",
        lambda case: _turned(case, change),
        declared=declared,
    )


for _value in TEMPERATURES:
    _temperature(_value)


def _other_coordinates(angles: Array) -> Array | None:
    """Angles of whole numbers for those of the unit, or the reverse."""
    temperature, coordinates = temperature_of(angles), coordinates_of(angles)
    if temperature is None or coordinates is None:
        return None
    numbers = [np.unique(axis.round(9), return_inverse=True) for axis in coordinates.T]
    index = np.stack([inverse for _, inverse in numbers], axis=1).astype(np.float64)
    sizes = np.array([len(values) for values, _ in numbers])
    unit = 2 * np.pi * ((2 * index + 1) / sizes - 1)
    for right, wrong in ((index, unit), (unit, index)):
        if np.allclose(coordinates, right, atol=1e-6):
            return with_frequencies(wrong, temperature, angles.shape[1] // 2)
    return None


register(
    "rotary-pairing", "positions",
    "rotary positions turn the wrong channels together: halves for interleaved, or the reverse",
    "pair channels as declared: i with i + d/2 (rotate_half), or 2i with 2i + 1; or permute the "
    "rows of q and k",
    lambda case: _turned(
        case,
        lambda angles: angles,
        pairing="interleaved" if case.spec.pairing == "halves" else "halves",
    ),
)  # fmt: skip
register(
    "rotary-axes-exchanged", "positions",
    "rows and columns of the rotary positions are exchanged",
    "turn the first half of the pairs by rows, the second by columns",
    lambda case: _turned(
        case,
        lambda angles: (
            None if angles.shape[1] % 2 else np.roll(angles, angles.shape[1] // 2, axis=1)
        ),
    ),
)  # fmt: skip
register(
    "rotary-coordinates", "positions",
    "the coordinates of the rotary positions are whole numbers for those of the unit, or the "
    "reverse",
    "use the coordinates as declared: 0, 1, 2, ..., or the patch's center from -1 to 1",
    lambda case: _turned(case, _other_coordinates),
)  # fmt: skip
register(
    "rotary-missing", "positions",
    "queries and keys are not turned: there are no rotary positions",
    "turn q and k of the patches by the rotary positions",
    lambda case: dataclasses.replace(
        case, places=dataclasses.replace(case.places, rotary=None)
    ),
)  # fmt: skip
register(
    "rotary-from-first-token", "positions",
    "the rotary positions begin at the first token, a prefix token, and not at the first patch",
    "leave the prefix tokens as they are, and turn the patches",
    lambda case: _turned(
        case,
        lambda angles: angles,
        prefix_tokens=0,
        suffix_tokens=case.spec.suffix_tokens + case.spec.prefix_tokens,
    ),
)  # fmt: skip
register(
    "windows-ignored", "positions",
    "every token sees every other: there are no windows",
    "keep attention within its windows",
    lambda case: dataclasses.replace(
        case, places=dataclasses.replace(case.places, windows=None)
    ),
)  # fmt: skip
register(
    "windows-everywhere", "positions",
    "attention is kept within windows, in a block where every token sees every other",
    "leave the windows out of the full blocks",
    lambda case: dataclasses.replace(
        case, places=dataclasses.replace(case.places, windows=case.model.windows)
    ),
)  # fmt: skip
