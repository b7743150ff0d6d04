"""Reading what no tensor says: told by a user, by a configuration, or by a library's own names."""

from collections.abc import Mapping
from typing import Any

from ...reference.errors import PatchParityError, require_choice
from .found import FoundEncoder
from .layout import EncoderLayout, EncoderModel
from .named import named_facts
from .semantics import CHOICES, DEFAULTS, OPTIONS, SEMANTICS, TOLD, Semantics, shown
from .templates import facts_of_config, is_of


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
