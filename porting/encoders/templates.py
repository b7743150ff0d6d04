"""What a library's configuration looks like, as data: constants, `$fact`, and tables
`{of, words, also, default}`, `{is}` (one of several constants) or `{off}` (absent, null or false).
The same template reads a configuration and writes one."""

import re
from collections.abc import Mapping
from typing import Any

from ...reference.errors import PatchParityError
from .layout import EncoderModel
from .semantics import SEMANTICS, shown

TELLING = ("model_type", "architecture", "class_name", "library")
"""Keys by which a configuration says what it is of; where a template has none of them, the file's
name and its other keys do."""


def at(table: Mapping[str, Any], key: str) -> Any:
    """The value under a key with dots; None where there is none."""
    value: Any = table
    for word in key.split("."):
        value = value.get(word) if isinstance(value, Mapping) else None
    return value


def is_of(model: EncoderModel, table: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of a model: what tells kinds apart is the same."""
    told = 0
    for key in TELLING:
        wanted, held = model.config.get(key), at(table, key)
        if not isinstance(wanted, str) or wanted.startswith("$"):
            continue
        if not isinstance(held, str):
            return False
        patterns = model.architectures if key != "library" else ()
        if held != wanted and not any(re.fullmatch(pattern, held) for pattern in patterns):
            return False
        told += 1
    for key, wanted in model.config.items():
        if isinstance(wanted, dict) and "is" in wanted:
            held = at(table, key)
            if (wanted.get("default") if held is None else held) not in wanted["is"]:
                return False
            told += 1
        if isinstance(wanted, dict) and "off" in wanted and at(table, key) not in (None, False, {}):
            return False
    if not any(isinstance(model.config.get(key), str) for key in TELLING):
        told += any(at(table, key) is not None for key in model.config if "." in key)
    return told > 0


def facts_of_config(
    model: EncoderModel, table: Mapping[str, Any], first: bool = False
) -> dict[str, Any]:
    """What a configuration of a model tells.

    Args:
        model: of which its template is.
        table: the configuration.
        first: whether of several keys that tell one fact the first holds, and not the last.

    Raises:
        PatchParityError: a word that nobody knows.
    """
    facts: dict[str, Any] = {}
    templates = list(model.config.items())
    for key, template in reversed(templates) if first else templates:
        held = at(table, key)
        if isinstance(template, str) and template.startswith("$"):
            if held is not None:
                facts[template[1:]] = held
        elif isinstance(template, dict) and "of" in template:
            if held is None:
                if "default" in template:
                    facts[template["of"]] = template["default"]
                continue
            facts[template["of"]] = _read_word(key, template, held)
    return facts


def _read_word(key: str, template: Mapping[str, Any], held: Any) -> Any:
    words = template.get("words")
    if words is None:
        return held
    known = {theirs: ours for ours, theirs in words.items()} | dict(template.get("also", {}))
    if not isinstance(held, str | int | float | bool) or held not in known:
        raise PatchParityError(
            f"the configuration says {key} = {held!r}: expected one of "
            f"{', '.join(map(str, known))}, of which it is known what they compute"
        )
    return known[held]


def configuration(model: EncoderModel, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a model, of these facts.

    Raises:
        PatchParityError: a fact that it cannot say, or that nothing tells.
    """
    table: dict[str, Any] = {}
    for key, template in model.config.items():
        value: Any = template
        if isinstance(template, str) and template.startswith("$"):
            value = _fact(model, facts, template[1:])
        elif isinstance(template, dict) and "of" in template:
            if template.get("optional") and facts.get(template["of"]) is None:
                continue
            value = _fact(model, facts, template["of"])
            if (words := template.get("words")) is not None:
                if value not in words:
                    raise PatchParityError(
                        f"{model.name} has no word for {SEMANTICS.get(template['of'], key)} "
                        f"{shown(value)}; it has {', '.join(map(str, words))}"
                    )
                value = words[value]
        elif isinstance(template, dict) and "is" in template:
            value = template["is"][0]
        elif isinstance(template, dict) and "off" in template:
            continue
        place = table
        *path, last = key.split(".")
        for word in path:
            place = place.setdefault(word, {})
        place[last] = value
    return table


LIMITED = {
    "whole_mlp_ratio": ("mlp_width", "an MLP that is a whole number of times as wide as it"),
    "square_image_size": ("image_size", "a square image size alone"),
    "square_image_shape": ("image_size", "a square image size alone"),
    "square_patch_size": ("patch_size", "a square patch size alone"),
}
"""Facts that there are of some sizes alone: the fact that is told of all, and what is taken."""


def _fact(model: EncoderModel, facts: Mapping[str, Any], name: str) -> Any:
    if facts.get(name) is None and name in LIMITED:
        whole, words = LIMITED[name]
        if (there := facts.get(whole)) is not None:
            sides = "×".join(map(str, there)) if isinstance(there, (list, tuple)) else there
            raise PatchParityError(
                f"{model.name} takes {words}, and the source has {whole.replace('_', ' ')} {sides}"
            )
    if facts.get(name) is None:
        raise PatchParityError(
            f"{model.name} is told its {name.replace('_', ' ')}, and nothing tells that of the "
            "source" + (": --image-size does" if name == "image_size" else "")
        )
    return facts[name]
