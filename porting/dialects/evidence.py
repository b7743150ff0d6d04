"""What speaks against a reading: config.json, the file's own metadata and what a user told, held
against the tensors."""

import dataclasses
import functools
import importlib.resources
import json
import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from ..files.checkpoint import Checkpoint
from .dialect import REQUIRED, Dialect
from .grids import channels_of
from .sizes import KERAS_HUB, Sizes, numbers_at, read_config


def known_of(checkpoint: Checkpoint, sizes: Sizes | None) -> Sizes:
    """What is known of the sizes: by a user, by the file's own `config.json`, by another
    checkpoint."""
    own = read_config(checkpoint.config_folder)
    if sizes is None:
        return own
    merged = sizes.over(own) if sizes.asked else own.over(sizes)
    of_config = own.image_size and not (sizes.asked and sizes.image_size)
    return dataclasses.replace(merged, source="config.json" if of_config else sizes.source)


@functools.cache
def _known() -> dict[str, Any]:
    return tomllib.loads(
        (importlib.resources.files(__package__) / "known.toml").read_text(encoding="utf-8")
    )


@functools.cache
def _known_names() -> tuple[frozenset[str], frozenset[str]]:
    """What transformers calls its models, and the first words of what timm calls its."""
    return frozenset(_known()["model_types"]), frozenset(_known()["architectures"])


def known_reason(config: Sizes) -> str:
    """Why no dialect reads the model that a config.json names, in words; empty where nothing is
    known of that."""
    called = config.model_type or config.architecture
    for each in _known()["reasons"]:
        named = config.model_type in each.get("model_types", ())
        if named or (
            config.architecture
            and any(re.fullmatch(one, config.architecture) for one in each.get("architectures", ()))
        ):
            return f"config.json calls the model {called!r}, and {each['told']}"
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


def is_architecture(dialect: Dialect, architecture: str) -> bool:
    """Whether timm's or KerasHub's name of a model is one of a dialect's."""
    return bool(architecture) and any(
        re.fullmatch(pattern, architecture) for pattern in dialect.architectures
    )


def conflicts_of(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
    known: Sizes,
    alone: bool,
) -> list[str]:
    """Evidence against a reading, in sentences that name both sides; of sizes that a user said
    `require_asked` tells."""
    # of no library that writes a config.json: one beside it is another file's
    if checkpoint.format == "npz":
        return []
    found = []
    types, words = _known_names()
    file = checkpoint.config_name
    called = config.model_type
    if (
        called
        and not dialect.plain
        and called not in dialect.model_types
        and called in types
        and not alone
    ):
        whose = (
            f"{dialect.id} is of {', '.join(dialect.model_types)}"
            if dialect.model_types
            else f"{dialect.id} is none of transformers'"
        )
        found.append(f"{file} calls the model {called!r}, and {whose}")
    built = config.architecture
    is_known = _first_word(built) in words or built in _keras_classes()
    if (
        built
        and not dialect.plain
        and not alone
        and not is_architecture(dialect, built)
        and is_known
    ):
        found.append(f"{file} calls the architecture {built!r}, which is none of {dialect.id}")
    layout = checkpoint.metadata.get("format", "")
    if dialect.mlx and layout in ("pt", "tf", "flax"):
        found.append(
            f"the file's metadata say that its tensors are laid out as {layout!r} has them, not as "
            "MLX"
        )
    if (
        layout == "mlx"
        and dialect.framework == "torch"
        and "(" not in dialect.entries["kernel"].layout
    ):
        found.append(
            "the file's metadata say that its tensors are laid out as MLX has them, not as torch"
        )
    held = [
        (
            "patch_size",
            "patch",
            told_patch(dialect, config),
            tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes),
        ),
        (
            "channels",
            "channels",
            (config.channels,) if config.channels else (),
            (channels_of(sizes),),
        ),
    ]
    for role, word, told, own in held:
        if told and role in dialect.checked and (role == "channels" or not dialect.plain):
            axes = min(len(told), len(own))
            if tuple(told[-axes:]) != own[-axes:]:
                theirs, ours = "×".join(map(str, told)), "×".join(map(str, own))
                kernel = f"{names['kernel']} {checkpoint.tensors[names['kernel']].shape}"
                found.append(
                    f"{file} tells {word} {theirs}, and {kernel}, read as "
                    f"{dialect.entries['kernel'].layout}, has {ours}"
                )
    keys = dialect.config.get("registers", ())
    registers = _sum_of(config.table, keys[0]) if keys else config.registers
    if (
        "register_tokens" in dialect.entries
        and registers is not None
        and registers != sizes.get("R", 0)
    ):
        parts = keys[0].split("+") if keys else ["num_register_tokens"]
        kind = " and ".join(part.removeprefix("num_").replace("_", " ") for part in parts)
        found.append(f"{file} tells {registers} {kind}, and the file holds {sizes.get('R', 0)}")
    found += _of_another_kind(dialect, names, sizes, config, file)
    found += [
        f"{file} says that {unmet}, and {dialect.id} needs {each}"
        for each in dialect.require
        if (unmet := _unmet(each, config))
    ]
    keras = built.startswith(KERAS_HUB) and not dialect.plain
    if keras:
        found += _against_keras_hub(checkpoint, names, sizes, config)
    if config.class_token is False and "class_token" in names and not keras:
        found.append(
            f"{file} tells that there is no class token, and the file holds {names['class_token']}"
        )
    return found


def _against_keras_hub(
    checkpoint: Checkpoint, names: Mapping[str, str], sizes: Mapping[str, int], config: Sizes
) -> list[str]:
    """What the arguments of KerasHub's model say against the tensors: its width, and which
    optional ones it has."""
    found, file = [], checkpoint.config_name
    keys = ("hidden_dim", "hidden_size", "embed_dim")
    width = next((config.table[name] for name in keys if name in config.table), None)
    if isinstance(width, int) and width != sizes["D"]:
        kernel = f"{names['kernel']} {checkpoint.tensors[names['kernel']].shape}"
        found.append(f"{file} tells width {width}, and {kernel} has {sizes['D']}")
    for key, name in (
        ("use_class_token", "class_token"),
        ("use_patch_bias", "bias"),
        ("use_mask_token", "mask_token"),
    ):
        if config.table.get(key) is (name not in names):
            word = name.replace("_", " ").replace("bias", "bias of patches")
            found.append(
                f"{file} says that {key} is {json.dumps(config.table[key])}, and "
                f"{'no' if name not in names else 'a'} {word} is in the file"
            )
    return found


def _sum_of(table: Mapping[str, Any], keys: str) -> int | None:
    """The sum of what a config keeps under keys with `+` between; None where one is missing."""
    found = [numbers_at(table, [key], 1) for key in keys.split("+")]
    return sum(each[0] for each in found) if all(found) else None


ACTIVATIONS_OF_TIMM = {
    "relu": ("relu",),
    "gelu": ("gelu",),
    "hard-swish": ("hard_swish", "hardswish"),
    "silu": ("silu", "swish"),
}
"""How timm calls the activations of a stem."""


def _of_another_kind(
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
    file: str,
) -> list[str]:
    """Arguments of timm's constructors that change norms, activations or the width, where they are
    others than the dialect has; none tells these of a model made without them."""
    if not config.architecture or config.architecture.startswith(KERAS_HUB) or dialect.plain:
        return []
    found = []
    norm = any(name.startswith(("patch_norm", "token_norm", "sequence_norm")) for name in names)
    kind, epsilon = config.table.get("norm_layer"), config.table.get("norm_eps")
    own = ("rmsnorm", "rmsnorm2d") if dialect.rms else ("layernorm", "layernorm2d")
    if norm and kind is not None and kind not in own:
        found.append(f"{file} says that norm_layer is {kind!r}, and {dialect.id} has {own[0]}")
    if norm and epsilon is not None and epsilon != dialect.norm_epsilon:
        found.append(f"{file} tells norm_eps {epsilon}, and {dialect.id} {dialect.norm_epsilon:g}")
    activation = config.table.get("act_layer")
    for step in dialect.stem:
        known = ACTIVATIONS_OF_TIMM.get(step.activation, ())
        if activation is not None and known and activation not in known:
            found.append(
                f"{file} says that act_layer is {activation!r}, and {dialect.id} has {known[0]}"
            )
            break
    named = re.fullmatch(dialect.width_of_name, config.architecture)
    if named and int(named[1]) != sizes["D"]:
        found.append(
            f"{file} calls the architecture {config.architecture!r}, and the kernel is "
            f"{sizes['D']} wide"
        )
    return found


def _unmet(requirement: str, config: Sizes) -> str:
    """What config.json says against a requirement, in words; empty where it holds, or where the
    file says nothing of it."""
    left, operator, right = REQUIRED.fullmatch(requirement).groups()  # type: ignore[union-attr]  # as it was read
    name = left.removeprefix("len(").removesuffix(")")
    if name not in config.table:
        return ""
    have = config.table[name]
    if name != left:
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
    told = (
        f"{checkpoint.config_name} tells images of {image}, which are {patches} patches of "
        f"{sizes['Ph']}×{sizes['Pw']}"
    )
    return (
        f"{told}, and {table} has positions for another number (--image-size says of which images)"
    )
