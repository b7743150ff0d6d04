"""What speaks against a reading: config.json, the file's own metadata and what a user told, held
against the tensors."""

import dataclasses
import functools
import importlib.resources
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import tomli

from ..files.checkpoint import Checkpoint
from .arguments import against_arguments, patch_of_stages
from .dialect import REQUIRED, Dialect
from .grids import channels_of
from .keras_config import PIXELS, against_call
from .sizes import KERAS_HUB, MOST_COLORS, Sizes, config_of, numbers_at


def known_of(checkpoint: Checkpoint, sizes: Sizes | None) -> Sizes:
    """What is known of the sizes: by a user, by the file's own `config.json`, by another
    checkpoint."""
    config = config_of(checkpoint)
    if sizes is None:
        return config
    merged = sizes.over(config) if sizes.asked else config.over(sizes)
    of_config = config.image_size and not (sizes.asked and sizes.image_size)
    return dataclasses.replace(merged, source=config.source if of_config else sizes.source)


@functools.cache
def _known() -> dict[str, Any]:
    return tomli.loads(
        (importlib.resources.files(__package__) / "known.toml").read_text(encoding="utf-8")
    )


@functools.cache
def _known_names() -> tuple[frozenset[str], frozenset[str]]:
    """What transformers calls its models, and the first words of what timm calls its."""
    return frozenset(_known()["model_types"]), frozenset(_known()["architectures"])


def known_reason(config: Sizes, names: Collection[str] = ()) -> str:
    """Why no dialect reads the model that a config.json names, or that has tensors of these names,
    in words; empty where nothing is known of that."""
    called = config.model_type or config.architecture
    for reason in _known()["reasons"]:
        named = config.model_type in reason.get("model_types", ()) or (
            config.architecture
            and any(
                re.fullmatch(pattern, config.architecture)
                for pattern in reason.get("architectures", ())
            )
        )
        if named:
            return f"config.json calls the model {called!r}, and {reason['told']}"
        for pattern in reason.get("tensors", ()):
            for name in names:
                if re.fullmatch(pattern, name):
                    return f"it holds {name}, and {reason['told']}"
    return ""


@functools.cache
def _keras_classes() -> frozenset[str]:
    """The registered names of KerasHub's models that some dialect reads."""
    from .catalogue import list_dialects

    return frozenset(
        name
        for dialect in list_dialects().values()
        for name in dialect.architectures
        if name.startswith(KERAS_HUB)
    )


def is_architecture(dialect: Dialect, config: Sizes) -> bool:
    """Whether timm's or KerasHub's name of a model is one of a dialect's, by itself or with the
    arguments that the model was made with."""
    name = config.architecture
    if not name:
        return False
    if any(re.fullmatch(pattern, name) for pattern in dialect.architectures):
        return True
    return any(
        re.fullmatch(pattern, name)
        and any(_is_met(requirement, config) for requirement in arguments)
        for pattern, arguments in dialect.architectures_if.items()
    )


def _is_met(requirement: str, config: Sizes) -> bool:
    """Whether config.json says what a requirement asks for."""
    key = REQUIRED.fullmatch(requirement)[1]  # type: ignore[index]  # as it was read
    name = key.removeprefix("len(").removesuffix(")").partition(".")[0]
    return name in config.table and not _unmet(requirement, config)


def conflicts_of(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
    alone: bool,
) -> list[str]:
    """Evidence against a reading, in sentences that name both sides; of sizes that a user said
    `require_asked` tells."""
    shape = checkpoint.tensors[names["kernel"]].shape
    if dialect.mlx and not alone and _is_of_torch(shape):
        of_torch = (
            f"{names['kernel']} {shape} is laid out as torch has it, its channels in front, and "
            f"{dialect.id} as MLX has it (--from {dialect.id} says that it is)"
        )
        return [of_torch]
    # of no library of JAX that writes a config.json: one beside it is another file's
    if checkpoint.kept_as == "npz" and not (dialect.mlx or dialect.framework == "torch"):
        return []
    file = checkpoint.config_name
    return [
        *(() if alone or dialect.plain else _against_name(file, dialect, config)),
        *_against_metadata(checkpoint.metadata.get("format"), dialect),
        *_against_sizes(checkpoint, dialect, names, sizes, config),
        *_against_registers(file, dialect, sizes, config),
        *(() if alone else _against_parts(file, dialect, names, config)),
        *against_arguments(checkpoint, dialect, names, sizes, config),
        *(
            f"{file} says that {unmet}, and {dialect.id} needs {requirement}"
            for requirement in dialect.require
            if (unmet := _unmet(requirement, config))
        ),
        *_against_class_token(file, dialect, names, config),
        *against_call(file, dialect, shape, config.table.get("keras_convolution") or {}),
        *_against_layers(file, dialect, config, alone),
    ]


def _against_name(file: str, dialect: Dialect, config: Sizes) -> Iterator[str]:
    """A model's type, or its architecture, that is known and is another one."""
    types, words = _known_names()
    called, built = config.model_type, config.architecture
    if called and called not in dialect.model_types and called in types:
        whose = (
            f"{dialect.id} is of {', '.join(dialect.model_types)}"
            if dialect.model_types
            else f"{dialect.id} is none of transformers'"
        )
        yield f"{file} calls the model {called!r}, and {whose}"
    is_known = _first_word(built) in words or built in _keras_classes()
    if built and is_known and not is_architecture(dialect, config):
        yield f"{file} calls the architecture {built!r}, which is none of {dialect.id}"


def speaks_against(
    checkpoint: Checkpoint, dialect: Dialect, shape: tuple[int, ...], config: Sizes
) -> bool:
    """Whether the file's metadata, a kernel of this shape (empty for none), or what config.json
    must say for a dialect, speak against it, whatever its other tensors are."""
    if dialect.mlx and _is_of_torch(shape):
        return True
    unmet = any(_unmet(requirement, config) for requirement in dialect.require)
    return unmet or any(_against_metadata(checkpoint.metadata.get("format"), dialect))


def _against_layers(file: str, dialect: Dialect, config: Sizes, alone: bool) -> Iterator[str]:
    """Layers of Keras that images pass first, and that do more than scale pixels."""
    others = [layer for layer in config.layers if layer not in PIXELS]
    if others and dialect.framework == "keras" and not alone:
        yield (
            f"{file} has {' and '.join(others)} in front of the patch embedding, which no dialect "
            f"reads (--from {dialect.id} reads what stands behind)"
        )


def _against_metadata(written_for: str | None, dialect: Dialect) -> Iterator[str]:
    """A file whose metadata name another framework's layout."""
    if dialect.mlx and written_for in ("pt", "tf", "flax"):
        yield (
            f"the file's metadata say that its tensors are laid out as {written_for!r} has them, "
            "not as MLX"
        )
    plain = dialect.framework == "torch" and "(" not in dialect.entries["kernel"].layout
    if written_for == "mlx" and plain:
        yield "the file's metadata say that its tensors are laid out as MLX has them, not as torch"


def _against_sizes(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
) -> Iterator[str]:
    """A patch or a number of channels that is told otherwise than the kernel has it."""
    of_stages = patch_of_stages(dialect, config)
    patch = tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes)
    channels = (config.channels,) if config.channels else ()
    held = [
        ("patch_size", "patch", of_stages or told_patch(dialect, config), patch),
        ("channels", "channels", channels, (channels_of(sizes),)),
    ]
    for role, word, config_sizes, kernel_sizes in held:
        checked = role in dialect.checked or (role == "patch_size" and of_stages)
        if config_sizes and checked and (role == "channels" or not dialect.plain):
            axes = min(len(config_sizes), len(kernel_sizes))
            if tuple(config_sizes[-axes:]) != kernel_sizes[-axes:]:
                theirs, ours = "×".join(map(str, config_sizes)), "×".join(map(str, kernel_sizes))
                kernel = f"{names['kernel']} {checkpoint.tensors[names['kernel']].shape}"
                yield (
                    f"{checkpoint.config_name} tells {word} {theirs}, and {kernel}, read as "
                    f"{dialect.entries['kernel'].layout}, has {ours}"
                )


def _against_registers(
    file: str, dialect: Dialect, sizes: Mapping[str, int], config: Sizes
) -> Iterator[str]:
    """Another number of registers, or of what a dialect has in their place."""
    keys = dialect.config.get("registers", ())
    registers = _sum_of(config.table, keys[0]) if keys else config.registers
    have = sizes.get("R", 0)
    if "register_tokens" in dialect.entries and registers is not None and registers != have:
        parts = keys[0].split("+") if keys else ["num_register_tokens"]
        kind = " and ".join(part.removeprefix("num_").replace("_", " ") for part in parts)
        where = "" if have else f" (no {dialect.entries['register_tokens'].name})"
        yield f"{file} tells {registers} {kind}, and the file holds {have}{where}"


def _against_parts(
    file: str, dialect: Dialect, names: Mapping[str, str], config: Sizes
) -> Iterator[str]:
    """A part that all models of this type have and that is not there, or the other way round."""
    called = config.model_type
    if called not in dialect.model_types:
        return
    for field in (*dialect.always.get("*", ()), *dialect.always.get(called, ())):
        if field not in names:
            tensor = dialect.entries[field].name
            part = "positions" if field == "positions" else f"a {field.replace('_', ' ')}"
            yield f"{file} calls the model {called!r}, which has {part}, and {tensor} is not there"
    for field in dialect.lacks.get(called, ()):
        if field in names:
            part = field.replace("_", " ")
            yield (
                f"{file} calls the model {called!r}, which has no {part}, and the file holds "
                f"{names[field]}"
            )


def _against_class_token(
    file: str, dialect: Dialect, names: Mapping[str, str], config: Sizes
) -> Iterator[str]:
    """A class token that is there and should not be."""
    keras = config.architecture.startswith(KERAS_HUB) and not dialect.plain
    if config.class_token is False and "class_token" in names and not keras:
        yield (
            f"{file} tells that there is no class token, and the file holds {names['class_token']}"
        )


def _is_of_torch(shape: tuple[int, ...]) -> bool:
    """Whether a kernel of four axes looks like torch's, square patches of few channels, and not
    like MLX's: patches of so few rows, of as many channels as they have columns."""
    return len(shape) == 4 and shape[2] == shape[3] != shape[1] <= MOST_COLORS


def _sum_of(table: Mapping[str, Any], keys: str) -> int | None:
    """The sum of what a config keeps under keys with `+` between; None where one is missing."""
    terms = [numbers_at(table, [key], 1) for key in keys.split("+")]
    return sum(term[0] for term in terms) if all(terms) else None


def _unmet(requirement: str, config: Sizes) -> str:
    """What config.json says against a requirement, in words; empty where it holds, or where the
    file says nothing of it."""
    left, operator, right = REQUIRED.fullmatch(requirement).groups()  # type: ignore[union-attr]  # as it was read
    name, _, place = left.removeprefix("len(").removesuffix(")").partition(".")
    if name not in config.table:
        return ""
    have = config.table[name]
    if place:
        have = have[int(place)] if isinstance(have, list) and int(place) < len(have) else None
    elif name != left:
        have = len(have) if isinstance(have, (list, tuple)) else None
    if right in config.table:
        wanted = config.table[right]
    elif right.lstrip("-").isdigit() or right.startswith("["):
        wanted = json.loads(right)
    else:
        wanted = {"true": True, "false": False}.get(right, right)
    if isinstance(have, list) and isinstance(wanted, str):  # of several the one
        have = wanted if wanted in have else json.dumps(have)
    compare: dict[str, Callable[[Any, Any], bool]] = {
        "<": _less,
        "<=": lambda a, b: not _less(b, a),
        ">": lambda a, b: _less(b, a),
        ">=": lambda a, b: not _less(a, b),
    }
    holds = {"==": have == wanted, "!=": have != wanted}.get(operator)
    holds = compare[operator](have, wanted) if holds is None else holds
    return "" if holds else f"{left} is {json.dumps(have)}"


def _less(one: Any, other: Any) -> bool:
    """Whether one number is less than another; of anything else it is not known, and so not."""
    return isinstance(one, (int, float)) and isinstance(other, (int, float)) and one < other


def _first_word(architecture: str) -> str:
    return re.split(r"[_\d]", architecture)[0]


def told_patch(dialect: Dialect, config: Sizes) -> tuple[int, ...]:
    """The patch that a config.json tells, under the keys where the dialect's library keeps it;
    empty where none is told."""
    if "patch_size" in dialect.config:
        keys = dialect.config["patch_size"]
        return numbers_at(config.table, keys, 3 if dialect.video and len(keys) == 3 else 2)
    return config.patch_size


def misfit(
    checkpoint: Checkpoint,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    known: Sizes,
    grid: tuple[int, ...],
) -> str:
    """What is told where the positions are not of the image that config.json tells."""
    image, patches = "×".join(map(str, known.image_size)), "×".join(map(str, grid)) or "no"
    table = f"{names['positions']} {checkpoint.tensors[names['positions']].shape}"
    message = (
        f"{checkpoint.config_name} tells images of {image}, which are {patches} patches of "
        f"{sizes['Ph']}×{sizes['Pw']}"
    )
    return (
        f"{message}, and {table} has positions for another number (--image-size says of which "
        "images)"
    )
