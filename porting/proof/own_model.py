"""A library's own model, as a function of images; and what of a configuration it is built from."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..dialects.sizes import VISION
from ..dialects.stage import Stage


class UnprovedError(Exception):
    """Why the library's own model could not be asked; no verdict on the reading."""


class OtherModelError(Exception):
    """How the model that a configuration tells differs from what the file holds of the stage."""


SHOWN = ("bias", "class_token", "distillation_token", "register_tokens", "positions")
"""Fields of a stage whose absence from a file a model shows that has them: it would keep values of
its own."""


def require_all(stage: Stage, inside: str, parameters: Iterable[str], name: str) -> None:
    """Raise OtherModelError where a model has parameters of the stage that the file lacks.

    Args:
        stage: as it was read.
        inside: what stands before the stage's names in the model.
        parameters: names of those that the model has.
        name: of the model.
    """
    held = set(parameters)
    entries = stage.dialect.entries
    for part in SHOWN:
        if part in entries and part not in stage.candidate.names:
            lacking = inside + entries[part].name
            if lacking in held:
                raise OtherModelError(f"{name} has {lacking}, and the file does not")


def part_without_place(stage: Stage, inside: str, missed: Iterable[str]) -> str | None:
    """The first of some tensors that is a part of the stage which its sequence shows, where a model
    has a place for the kernel and none for it; None where there is no such.

    Args:
        stage: as it was read.
        inside: what stands before the stage's names in the model.
        missed: names that the model has no place for.
    """
    entries, missing = stage.dialect.entries, set(missed)
    if inside + entries["kernel"].name in missing:
        return None
    names = (inside + entries[part].name for part in SHOWN if part in entries)
    return next((name for name in names if name in missing), None)


@dataclass(frozen=True)
class OwnModel:
    """A library's own model.

    Args:
        name: library, version and class, as they are told.
        run: images `(B, C, H, W)` or `(B, C, T, H, W)` in float32 to what enters its first block,
            `(B, N, D)`.
    """

    name: str
    run: Callable[[NDArray[Any]], NDArray[Any]]


LARGEST_SIDE, MOST_FRAMES, LARGEST_NUMBER = 4096, 512, 2**20
"""Pixels, frames and anything else that a configuration may tell of a model that is built to be
asked: four times what is known, so that no file of a few lines takes memory or hours."""


def require_modest(table: Mapping[str, Any]) -> None:
    """Raise UnprovedError where a configuration tells a model that nobody has."""
    for name, value in table.items():
        if name == "shared_object_id":  # Keras's own: an address
            continue
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, dict):
                require_modest(entry)
            elif (
                isinstance(entry, (int, float))
                and not isinstance(entry, bool)
                and "theta" not in name
            ):
                most = (
                    MOST_FRAMES
                    if "frame" in name
                    else LARGEST_SIDE
                    if re.search("(image|img|input|crop)_?size", name)
                    else LARGEST_NUMBER
                )
                if not abs(entry) <= most:
                    raise UnprovedError(
                        f"config.json tells {name} {entry}, and no model with more than {most} is "
                        "built"
                    )


_COUNTS = (
    "num_hidden_layers",
    "depth",
    "num_layers",
    "n_layers",
    "n_layer",
    "num_local_layers",
    "num_global_layers",
)
_KINDS = ("layer_types", "mlp_layer_types")
"""Lists with an entry for each layer."""

_LEFT_OUT = (
    "out_features",
    "out_indices",
    "stage_names",
    "transformers_version",
    "_name_or_path",
    "architectures",
    "torch_dtype",
    "dtype",
    "quantization_config",
)


def reduced(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration with one layer: what enters the first block is the same, and the rest
    need not be built."""
    reduced_table = {name: value for name, value in table.items() if name not in _LEFT_OUT}
    for name in _COUNTS:
        if isinstance(reduced_table.get(name), int) and "num_blocks" not in reduced_table:
            reduced_table[name] = 1
            for kinds in _KINDS:
                if isinstance(reduced_table.get(kinds), list):
                    reduced_table[kinds] = reduced_table[kinds][:1]
    return reduced_table


def inner_table(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that is about images."""
    for key in VISION:
        if isinstance(table.get(key), dict):
            return inner_table(table[key])
    return table


def inner_prefixes(prefix: str, separator: str = ".") -> list[str]:
    """What of a prefix a class may have in its own names: nothing, the last part, the last two,
    ..."""
    parts = [part + separator for part in prefix.split(separator) if part]
    return ["".join(parts[at:]) for at in range(len(parts), -1, -1)]
