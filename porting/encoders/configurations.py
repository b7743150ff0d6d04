"""The configuration beside a checkpoint, as far as it is about its encoder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ...reference.errors import PatchParityError
from ..dialects.sizes import LARGEST_CONFIG, VISION
from ..files.checkpoint import Checkpoint
from .layout import EncoderLayout
from .templates import is_of

TELLING = ("model_type", "architecture", "class_name", "model_cfg")
"""Keys by which a configuration says what it is of."""


def configuration_beside(
    checkpoint: Checkpoint, layout: EncoderLayout
) -> tuple[Mapping[str, Any], str]:
    """The table of a configuration that is about an encoder of this layout, and what it is called;
    an empty one where there is none.

    Raises:
        PatchParityError: a configuration that says that the model is another.
    """
    if own := checkpoint.own_config:
        fits = any(is_of(model, own) for model in layout.models)
        if not fits and isinstance(own.get("model_type"), str):
            _refuse(str(checkpoint.path), own["model_type"], layout)
        return own, str(checkpoint.path)
    folder = checkpoint.config_folder
    names = dict.fromkeys(model.file for model in layout.models if model.file)
    for name in (*names, "config.json"):
        table = read_configuration(folder / name) if folder is not None else None
        if table is None:
            continue
        _require_plain(table, f"{folder}/{name}")
        tables = list(_tables(table))
        for inner in reversed(tables):  # that of a tower before that of all of the model
            if any(is_of(model, inner) for model in layout.models):
                return inner, f"{folder}/{name}"
        called = [
            _called(each, key)
            for each in tables
            for key in TELLING[:3]
            if isinstance(each.get(key), str)
        ]
        if (called and names) or (name != "config.json" and name in names):
            _refuse(f"{folder}/{name}", called[0] if called else "", layout)
    return {}, ""


def _require_plain(table: Mapping[str, Any], where: str) -> None:
    """Raise PatchParityError for a configuration that means other code, or that its library reads
    otherwise than it looks: transformers takes `vision_config_dict` before `vision_config`."""
    if "auto_map" in table:
        raise PatchParityError(
            f"{where} names code of its own (auto_map), and what that computes is not known: take "
            "the line out where the model is its library's own"
        )
    for key, value in table.items():
        if key.endswith("_config_dict") and isinstance(value, dict) and value:
            raise PatchParityError(
                f"{where} holds {key}, which transformers takes before "
                f"{key.removesuffix('_dict')}: leave one of the two"
            )


def _called(table: Mapping[str, Any], key: str) -> str:
    """What a configuration calls its model, its library first where that is told beside it."""
    library = table.get("library")
    return f"{library}.{table[key]}" if isinstance(library, str) else str(table[key])


def _refuse(where: str, called: str, layout: EncoderLayout) -> NoReturn:
    what = f"calls it {called!r}" if called else "describes a model"
    raise PatchParityError(
        f"{where} {what}, of which it is not known that its blocks "
        f"compute as those of {layout.title}: --stage ports the embedding stage alone"
    )


def _tables(table: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Those of vision towers within a configuration, or else the configuration itself: what is
    beside a tower is not about it."""
    towers = [inner for key in VISION if isinstance(inner := table.get(key), dict)]
    if not towers:
        yield table
    kind = {"model_type": table["model_type"]} if "model_type" in table else {}
    for inner in towers:
        yield from _tables({**kind, **inner})


def read_configuration(path: Path) -> dict[str, Any] | None:
    """The table of a JSON file; None where there is none that can be read."""
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
            return None
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None
