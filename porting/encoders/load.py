"""All layouts of encoders, read from this folder's TOML and held against what one may say."""

import dataclasses
import functools
import importlib.resources
import re
from collections.abc import Mapping
from typing import Any

import tomli

from ...reference.errors import PatchParityError
from .layout import AXES, FIELDS, EncoderLayout, EncoderModel, Entry

_LISTS = ("stages", "optional", "ignored", "stage_requires", "undecided")


FIRST = "encoders.toml"
"""The file that is read first: layouts of the others are like its."""


@functools.cache
def list_encoders() -> Mapping[str, EncoderLayout]:
    """All layouts by id, in the order in which they are tried: those of `encoders.toml`, then those
    of the other files by their names."""
    folder = importlib.resources.files(__package__)
    files = [
        file
        for file in folder.iterdir()
        if file.name.endswith(".toml") and not file.name.endswith("_models.toml")
    ]
    whole: dict[str, dict[str, Any]] = {}
    for file in sorted(files, key=lambda file: (file.name != FIRST, file.name)):
        for identity, table in tomli.loads(file.read_text(encoding="utf-8")).items():
            whole[identity] = _inherited(table, whole)
    return {identity: _layout(identity, table) for identity, table in whole.items()}


def _read(name: str) -> dict[str, Any]:
    file = importlib.resources.files(__package__) / name
    return tomli.loads(file.read_text(encoding="utf-8"))


@functools.cache
def list_named(names: str) -> Mapping[str, Mapping[str, Any]]:
    """What a library's own names of models tell that no tensor says, by name; `of` is the layout
    that such a model is in.

    Args:
        names: those of a layout.
    """
    return _read(f"{names}_models.toml")


def _inherited(table: Mapping[str, Any], others: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A table with what it takes from the one that it is like."""
    own = dict(table)
    like = others[own.pop("like")] if "like" in own else {}
    without = set(own.pop("without", ()))
    tensors = {
        key: entry
        for key, entry in like.get("tensors", {}).items()
        if not without.intersection(_fields_of(key))
    }
    config = {**like.get("config", {}), **own.get("config", {})}
    if config.get("*") == {"absent": True}:
        config = {key: value for key, value in own["config"].items() if key != "*"}
    return {
        **like,
        **own,
        "tensors": {**tensors, **own.get("tensors", {})},
        "config": {key: value for key, value in config.items() if value != {"absent": True}},
    }


def _fields_of(key: str) -> tuple[str, ...]:
    """The parts that a key names: `query+key.weight` are query.weight and key.weight."""
    *first, last = key.split("+")
    suffix = f".{last.rpartition('.')[2]}" if first else ""
    return (*(f"{each}{suffix}" for each in first), last)


def _layout(identity: str, table: Mapping[str, Any]) -> EncoderLayout:
    def wrong(what: str) -> PatchParityError:
        return PatchParityError(f"encoder {identity!r}: {what}")

    settings = dict(table)
    config = settings.pop("config")
    entries = tuple(
        _entry(key, held[0], held[1], wrong) for key, held in settings.pop("tensors").items()
    )
    models = tuple(
        _named(identity, settings.get("names", ""), _model(model, config))
        for model in settings.pop("models", ())
    )
    known = {field.name for field in dataclasses.fields(EncoderLayout)}
    if unknown := set(settings) - known:
        raise wrong(f"unknown {', '.join(sorted(unknown))}")
    for key in _LISTS:
        settings[key] = tuple(settings.get(key, ()))
    settings["together"] = tuple(map(tuple, settings.get("together", ())))
    return EncoderLayout(identity, entries=entries, models=models, **settings)


def _model(table: Mapping[str, Any], config: Mapping[str, Any]) -> EncoderModel:
    settings: dict[str, Any] = {
        key: tuple(held) if isinstance(held, list) else held for key, held in table.items()
    }
    return EncoderModel(**{**settings, "config": {**config, **table.get("config", {})}})


def _named(identity: str, names: str, model: EncoderModel) -> EncoderModel:
    """A class with the names that its library has for models of it."""
    if not names:
        return model
    own = [
        re.escape(name)
        for name, facts in list_named(names).items()
        if facts["of"] == identity
        and all(facts.get(key, value) == value for key, value in model.fixed.items())
    ]
    return dataclasses.replace(model, architectures=(rf"({'|'.join(own)})(\..*)?",))


def _entry(key: str, name: str, axes: str, wrong: Any) -> Entry:
    entry = Entry(_fields_of(key), name, axes)
    if strange := [each for each in entry.fields if each not in FIELDS]:
        raise wrong(f"{strange[0]!r} is no part of an encoder")
    if strange := [letter for letter in entry.letters if letter not in AXES]:
        raise wrong(f"{key} has the axis {strange[0]!r}; expected some of {' '.join(AXES)}")
    wanted = {*entry.canonical.replace("(", " ").replace(")", " ").split()}
    if wanted != set(entry.letters) - {"1"}:
        raise wrong(f"{key} has the axes {axes!r}, expected those of {entry.canonical!r}")
    return entry
