"""What no tensor of an encoder says, where it was read, and how configurations tell it.

A template is what a library's configuration looks like, as data: constants, `$fact`, and tables
`{of, words, also, default}`, `{is}` (one of several constants) or `{off}` (absent, null or false).
The same template reads a configuration and writes one.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from ...reference.encoder_weights import (
    EncoderSpec,
    MlpActivation,
    NormPlacement,
    Pairing,
    Pooling,
)
from ...reference.errors import PatchParityError, require_choice
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from .found import FoundEncoder
from .layout import EncoderLayout, EncoderModel
from .named import named_facts

SEMANTICS: dict[str, str] = {
    "num_heads": "number of attention heads",
    "norm_epsilon": "ε of the norms",
    "activation": "activation of the MLP",
    "norms": "place of the norms",
    "pooling": "pooling",
    "pairing": "pairing of rotary channels",
    "rotary": "coordinates of rotary positions",
    "rotary_temperature": "temperature of rotary positions",
    "attention_scale": "scale of attention",
}
"""What no tensor says, in words."""

OPTIONS = {
    "num_heads": "--heads",
    "norm_epsilon": "--epsilon",
    "activation": "--activation",
    "pooling": "--pooling",
}
"""By which option a user tells it."""

DEFAULTS: dict[str, Any] = {
    "norms": "pre",
    "pairing": "halves",
    "rotary": "",
    "rotary_temperature": 100.0,
    "attention_scale": None,
}
"""What holds where no layout says otherwise: that of the ViT paper."""


TELLING = ("model_type", "architecture", "class_name", "library")
"""Keys by which a configuration says what it is of; where a template has none of them, the file's
name and its other keys do."""

CHOICES: dict[str, tuple[str, ...]] = {
    "activation": get_args(MlpActivation),
    "norms": get_args(NormPlacement),
    "pooling": get_args(Pooling),
    "pairing": get_args(Pairing),
}
"""Words of what has words."""


class Encoder(Protocol):
    """An encoder, as far as a configuration is told of it."""

    @property
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Of its axes."""

    @property
    def held(self) -> frozenset[str]:
        """Fields that are there."""


@dataclass(frozen=True)
class Semantics:
    """What no tensor says.

    Args:
        values: by name of `SEMANTICS`.
        origins: where each was read, in words.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def but(self, **changed: Any) -> "Semantics":
        """The same with other values."""
        return Semantics({**self.values, **changed}, self.origins)

    def spec(self, weights: PatchEmbedWeights) -> EncoderSpec:
        """As the NumPy encoder takes it, behind a stage of these weights."""
        ahead = sum(weights.prefix_rows(name) for name in weights.layout.ahead)
        behind = sum(weights.prefix_rows(name) for name in weights.layout.behind)
        return EncoderSpec(
            self["num_heads"],
            self["norm_epsilon"],
            self["activation"],
            self["norms"],
            self["attention_scale"],
            self["pooling"],
            ahead,
            behind,
            self["pairing"],
        )

    def lines(self) -> list[str]:
        """In sentences, one for all that was read in one place."""
        told: dict[str, list[str]] = {}
        for name in SEMANTICS:
            usual = name == "norms" and self.values[name] == DEFAULTS[name]
            if name in self.origins and not usual:
                words = f"{SEMANTICS[name]} {shown(self.values[name])}"
                told.setdefault(self.origins[name], []).append(words)
        return [
            f"{'told' if origin.startswith(TOLD) else 'read'} {', '.join(words)} ({origin})"
            for origin, words in told.items()
        ]


def shown(value: Any) -> str:
    """A value in words."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else str(value)


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


def _fact(model: EncoderModel, facts: Mapping[str, Any], name: str) -> Any:
    if facts.get(name) is None:
        raise PatchParityError(
            f"{model.name} is told its {name.replace('_', ' ')}, and nothing tells that of the "
            "source" + (": --image-size does" if name == "image_size" else "")
        )
    return facts[name]


def read_semantics(
    found: FoundEncoder,
    table: Mapping[str, Any],
    told: Mapping[str, Any],
    where: str,
    structure: Mapping[str, Any] | None = None,
) -> tuple[Semantics, dict[str, Any]]:
    """What no tensor of an encoder says, from what is told, its configuration, its shapes and its
    library, in this order; and all facts of its configuration.

    Args:
        found: the encoder.
        table: its configuration; empty for none.
        told: by a user.
        where: what the configuration is called.
        structure: what the tensors of the stage tell of it (`class_token`).

    Raises:
        PatchParityError: something that nobody tells, something told that the shapes contradict.
    """
    for name in told:
        require_choice("semantics", name, SEMANTICS)
    layout = found.layout
    values = {name: held for name, held in DEFAULTS.items() if name not in layout.undecided}
    origins: dict[str, str] = {}
    facts: dict[str, Any] = {}
    for model in (_model_of(found, table),) if table else ():
        if model is not None:
            named = named_facts(layout, model, table, told)
            _require_named_norms(found, named, where)
            said = facts_of_config(model, table)
            facts = {**model.fixed, **named, **said}
            origin = dict.fromkeys(said, where) | dict.fromkeys(
                set(named) - set(said), f"{where} calls it {table.get('architecture')}"
            )
            _require_structure(facts, structure or {}, where)
            break
    else:
        said = common(layout, found.held, structure or {})
        facts = {name: held for name, held in said.items() if name not in layout.undecided}
        origin = {}
    for source, why in ((layout.fixed, f"{layout.title} has no other"), (facts, layout.title)):
        for name in SEMANTICS:
            if name in source:
                values[name] = source[name]
                origins[name] = origin.get(name, why)
    head_width = {**layout.fixed, **facts}.get("head_width")
    if "num_heads" not in values and head_width and "E" in found.sizes:
        values["num_heads"] = found.sizes["E"] // head_width
        origins["num_heads"] = f"heads of width {head_width}"
    if "h" in found.sizes:
        _require_same(found, "num_heads", found.sizes["h"], values.get("num_heads"), where)
        values["num_heads"], origins["num_heads"] = found.sizes["h"], "the shapes of its tensors"
    values["pairing"] = layout.pairing
    for name, value in told.items():
        if name == "num_heads" and "h" in found.sizes:
            _require_same(found, name, found.sizes["h"], value, "what is told")
        _require_sense({name: value})
        _require_uncontradicted(name, value, values, origins, where)
        values[name], origins[name] = value, TOLD if table else f"{TOLD}: no file tests it"
    if "pool.probe" in found.parts:
        values["pooling"], origins["pooling"] = "attention", "the tensors of an attention pool"
    _require_sense(values)
    missing = [name for name in SEMANTICS if name not in values]
    if missing:
        raise PatchParityError(
            f"no tensor says, and nothing else tells, {_listed(missing)} of this {layout.title}: a "
            f"configuration beside the file would, or you: {_asked(found, missing)}, if that is "
            "how it is"
        )
    _require_heads(found, values["num_heads"])
    return Semantics(values, origins), facts


def _model_of(found: FoundEncoder, table: Mapping[str, Any]) -> EncoderModel | None:
    """The class that a configuration is of: one that has just what is there, if there is one."""
    models = [model for model in found.layout.models if is_of(model, table)]
    words = {name.split(".")[0] for name in found.held}
    same = [
        model
        for model in models
        if words.issuperset(model.requires) and not words.intersection(model.lacks)
    ]
    return next(iter(same or models), None)


def _require_named_norms(found: FoundEncoder, named: Mapping[str, Any], where: str) -> None:
    """That norms stand where a model of its name has them."""
    for name in ("final_norm", "pooled_norm"):
        there = f"{name}.scale" in found.held
        if named.get(name, there) != there:
            raise PatchParityError(
                f"{where} gives the model a name with{'out' if there else ''} "
                f"{name.replace('_', ' ')}, and the tensors of this {found.layout.title} have "
                f"{'one' if there else 'none'}: the name, or what is pooled, is another"
            )


def _require_sense(values: Mapping[str, Any]) -> None:
    """Raise PatchParityError for a word that names nothing, or a number that is none."""
    for name, options in CHOICES.items():
        if name in values:
            require_choice(name, values[name], options)
    epsilon = values.get("norm_epsilon", 0)
    number = isinstance(epsilon, int | float) and not isinstance(epsilon, bool)
    if not number or not 0 <= epsilon < 1:
        raise PatchParityError(f"norm_epsilon={epsilon!r}: expected a number from 0 to 1")


TOLD = "as told"
"""Where it was read what a user told."""


def _require_uncontradicted(
    name: str, value: Any, values: Mapping[str, Any], origins: Mapping[str, str], where: str
) -> None:
    """Raise PatchParityError where a configuration says another number or activation than a user;
    what is pooled is a user's choice."""
    said = where and origins.get(name, "").startswith(where)
    if said and name != "pooling" and values.get(name) != value:
        raise PatchParityError(
            f"{SEMANTICS[name]} {shown(value)} is told, and {origins[name]} says "
            f"{shown(values[name])}: leave {OPTIONS.get(name, name)} out, or mend the file"
        )


def _asked(found: FoundEncoder, missing: list[str]) -> str:
    """The options that would tell, with what is usual: heads of 64 channels, and what the layout's
    first class has."""
    models = found.layout.models
    usual = {
        "num_heads": max(found.sizes["E"] // 64, 1),
        "norm_epsilon": models[0].fixed.get("norm_epsilon", 1e-6) if models else 1e-6,
        "activation": "gelu",
        "pooling": "class",
    }
    return " ".join(
        f"{OPTIONS[name]} {shown(usual[name])}" if name in usual else name for name in missing
    )


def _listed(names: list[str]) -> str:
    words = [SEMANTICS[name] for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def common(
    layout: EncoderLayout, held: frozenset[str], structure: Mapping[str, Any]
) -> dict[str, Any]:
    """What all models of a layout that take these fields and this structure have fixed alike."""
    words = {name.split(".")[0] for name in held}
    fitting = [
        model
        for model in layout.models
        if not words & set(model.lacks)
        and words >= set(model.requires)
        and all(model.fixed.get(name, value) == value for name, value in structure.items())
    ]
    first, *others = fitting or layout.models or (EncoderModel(""),)
    return {
        name: value
        for name, value in first.fixed.items()
        if all(model.fixed.get(name) == value for model in others)
    }


def _require_same(found: FoundEncoder, name: str, held: Any, other: Any, where: str) -> None:
    if other is not None and other != held:
        raise PatchParityError(
            f"{where} says {SEMANTICS[name]} {other}, and the tensors of this "
            f"{found.layout.title} have {held}"
        )


def _require_structure(facts: Mapping[str, Any], structure: Mapping[str, Any], where: str) -> None:
    for name, held in structure.items():
        if facts.get(name, held) not in (held, "any"):
            raise PatchParityError(
                f"{where} tells of a model with {name.replace('_', ' ')} {facts[name]}, and its "
                f"tensors have {held}"
            )


def _require_heads(found: FoundEncoder, heads: Any) -> None:
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1:
        raise PatchParityError(f"{heads!r} heads: expected a whole number")
    for letter in "EF":
        width = found.sizes.get(letter)
        if width and width % heads:
            raise PatchParityError(f"{heads} heads do not divide the width of attention, {width}")
    each = found.sizes.get("d")
    if each and each not in (found.sizes["E"], found.sizes["E"] // heads):
        raise PatchParityError(
            f"{heads} heads of width {each}, as the norms of queries and keys have it, do not "
            f"make the width of attention, {found.sizes['E']}"
        )


def facts_of(
    state: "Encoder",
    semantics: Semantics,
    weights: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    size_known: bool,
) -> dict[str, Any]:
    """All that a configuration may be told of an encoder and its stage.

    Args:
        state: the encoder.
        semantics: what no tensor of it says.
        weights, spec: those of the stage, as the configuration's library holds them.
        size_known: whether something tells the image size.
    """
    sizes, held = state.sizes, state.held
    height, width = spec.image_size[-2:]
    patch = spec.patch_size[-2:]
    registers = weights.register_tokens
    mlp, classes = sizes.get("M"), sizes.get("C") if "head.weight" in held else None
    return {
        **semantics.values,
        "width": sizes["D"],
        "depth": state.depth,
        "mlp_width": mlp,
        "mlp_ratio": _ratio(mlp, sizes["D"]),
        "packed_mlp_ratio": _ratio(None if mlp is None else 2 * mlp, sizes["D"]),
        "whole_mlp_ratio": None if mlp is None or mlp % sizes["D"] else mlp // sizes["D"],
        "swiglu_mlp_ratio": _swiglu_ratio(mlp, sizes["D"]),
        "head_width": sizes["E"] // semantics["num_heads"],
        "image_size": _side(height, width) if size_known else None,
        "image_height": height if size_known else None,
        "image_width": width if size_known else None,
        "patch_size": _side(*patch),
        "square_image_size": height if size_known and height == width else None,
        "square_patch_size": patch[0] if patch[0] == patch[1] else None,
        "patch_pair": list(patch),
        "image_shape": [height, width, spec.in_channels] if size_known else None,
        "channels_first_shape": [spec.in_channels, height, width] if size_known else None,
        "square_image_shape": (
            [height, width, spec.in_channels] if size_known and height == width else None
        ),
        "keras_dtype": KERAS_FLOAT32,
        "swiglu_width": _swiglu_width(mlp),
        "pooler_width": sizes.get("P") if "pooler.weight" in held else None,
        "attention_as_wide": sizes["E"] == sizes["D"],
        "head_alone": semantics["num_heads"] == 1 and sizes["E"] == sizes["D"],
        "first_patch_pooled": semantics["pooling"] == "class" and weights.class_token is None,
        "mask_token": weights.mask_token is not None,
        "layer_scale_init": 1e-5 if "first_scale" in held else None,
        "any_norm": bool({"final_norm.scale", "pooled_norm.scale"} & held),
        "prefix_unpositioned": (
            weights.class_token is not None
            and weights.positions is not None
            and "class_token" not in weights.layout.positioned
        )
        or bool(
            weights.register_tokens is not None
            and "register_tokens" not in weights.layout.positioned
        ),
        "pool_mlp_same": sizes.get("N") in (None, mlp),
        "patch_height": patch[0],
        "patch_width": patch[1],
        "in_channels": spec.in_channels,
        "registers": 0 if registers is None else len(registers),
        "class_token": weights.class_token is not None,
        "embedding_bias": weights.bias is not None,
        "sequence_norm": weights.sequence_norm is not None,
        "positions": weights.positions is not None,
        "num_classes": classes or 0,
        "classes": None if classes is None else {str(k): f"LABEL_{k}" for k in range(classes)},
        "labels": None if classes is None else {f"LABEL_{k}": k for k in range(classes)},
        "projection": classes,
        "registers_positioned": "register_tokens" in weights.layout.positioned,
        "prefix_positioned": bool(weights.layout.positioned),
        "biases_alike": ("query.bias" in held) == ("value.bias" in held),
        "value_bias": "value.bias" in held,
        "out_bias": "out.bias" in held,
        "query_bias": "query.bias" in held,
        "key_bias": "key.bias" in held,
        "mlp_bias": "up.bias" in held,
        "query_norm": "query_norm.scale" in held,
        "layer_scale": "first_scale" in held,
        "gated": "gate.weight" in held,
        "final_norm": "final_norm.scale" in held,
        "pooled_norm": "pooled_norm.scale" in held,
    }


KERAS_FLOAT32 = {
    "module": "keras",
    "class_name": "DTypePolicy",
    "config": {"name": "float32"},
    "registered_name": None,
}
"""How a Keras configuration says that a layer computes in float32."""


def _ratio(wide: int | None, width: int) -> float | int | None:
    """A number whose product with the width, cut to a whole one, is `wide`."""
    if wide is None or wide % width == 0:
        return None if wide is None else wide // width
    ratio = wide / width
    return ratio if int(width * ratio) == wide else math.nextafter(ratio, math.inf)


def _swiglu_ratio(mlp: int | None, width: int) -> int | None:
    """The whole `mlp_ratio` of which DINOv2 makes this width of SwiGLU, ⌈⅔·ratio·D⌉ to the next
    multiple of 8; None where none does."""
    for ratio in range(1, 17):
        if mlp is not None and (int(int(width * ratio) * 2 / 3) + 7) // 8 * 8 == mlp:
            return ratio
    return None


def _swiglu_width(mlp: int | None) -> int | None:
    """The smallest width of which DINOv2 makes this one of SwiGLU; None where none does."""
    if mlp is None:
        return None
    return next((wide for wide in range(2 * mlp) if (int(wide * 2 / 3) + 7) // 8 * 8 == mlp), None)


def _side(height: int, width: int) -> int | list[int]:
    return height if height == width else [height, width]
