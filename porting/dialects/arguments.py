"""What speaks against a reading in the arguments that a model was made with: widths, norms, what
was switched on or off."""

import json
import re
from collections.abc import Mapping

from ..files.checkpoint import Checkpoint
from .dialect import Dialect
from .sizes import KERAS_HUB, Sizes, numbers_at

WIDTHS = (
    "hidden_size",
    "embed_dim",
    "embed_dims",
    "hidden_sizes",
    "d_model",
    "width",
    "dim",
    "dims",
    "hidden_dim",
)
"""Under which keys libraries keep the width; where none of those that are there is the kernel's,
they speak against it."""

POSITIONS = (
    "use_absolute_position_embeddings",
    "use_absolute_embeddings",
    "use_abs_pos",
    "use_abs_pos_emb",
    "use_pos_embed",
)
"""Switches of transformers' and timm's models for a table of positions."""


def against_arguments(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
) -> list[str]:
    """Sentences that name both sides; empty where nothing contradicts.

    Args:
        checkpoint: an open one.
        dialect: as which it is read.
        names: the tensors, by field.
        sizes: of the axes.
        config: what config.json tells.
    """
    if dialect.plain:
        return []
    if config.architecture.startswith(KERAS_HUB):
        return _of_keras_hub(checkpoint, names, sizes, config)
    sentences = _of_positions(checkpoint, dialect, names, config)
    if config.architecture or config.model_type in dialect.model_types:
        sentences += _of_width(checkpoint, dialect, names, sizes, config)
    if config.architecture:
        sentences += _of_timm(dialect, names, sizes, config, checkpoint.config_name)
    return sentences


def stage_of(dialect: Dialect) -> int:
    """Of which stage of a model of several a dialect is, counted from 0: its stride tells it."""
    for key in dialect.config.get("stride", ()):
        if stage := re.fullmatch(r".*\.(\d)", key):
            return int(stage[1])
    return 0


def patch_of_stages(dialect: Dialect, config: Sizes) -> tuple[int, ...]:
    """The patch that a config.json tells in a list, one for each stage; empty where none does."""
    return numbers_at(config.table, [f"patch_sizes.{stage_of(dialect)}"], 2)


def _of_positions(
    checkpoint: Checkpoint, dialect: Dialect, names: Mapping[str, str], config: Sizes
) -> list[str]:
    """Positions that are switched off and in the file, or on and not there."""
    if "positions" not in names:
        on = [key for key in POSITIONS if config.table.get(key) is True]
        missing = on if "positions" in dialect.entries else []
        return [
            f"{checkpoint.config_name} says that {key} is true, and the file holds no "
            f"{dialect.entries['positions'].name}"
            for key in missing
        ]
    off = [key for key in POSITIONS if config.table.get(key) is False]
    off += ["pos_embed"] if config.table.get("pos_embed") == "none" else []
    table = f"{names['positions']} {checkpoint.tensors[names['positions']].shape}"
    return [
        f"{checkpoint.config_name} says that {key} is {json.dumps(config.table[key])}, and the "
        f"file holds {table}"
        for key in off
    ]


def _of_width(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
) -> list[str]:
    stage = stage_of(dialect)
    said = {
        key: numbers_at(config.table, [key_path], 1)
        for key in WIDTHS
        for key_path in (key, f"{key}.{stage}")
        if numbers_at(config.table, [key_path], 1)
    }
    if not said or (sizes["D"],) in said.values():
        return []
    per_head = config.architecture.startswith("convit")  # timm's, of which a head is so wide
    if per_head and any(sizes["D"] % value[0] == 0 for value in said.values()):
        return []
    widths = " and ".join(f"{key} {value[0]}" for key, value in said.items())
    kernel = f"{names['kernel']} {checkpoint.tensors[names['kernel']].shape}"
    return [f"{checkpoint.config_name} tells {widths}, and {kernel} is {sizes['D']} wide"]


def _of_keras_hub(
    checkpoint: Checkpoint, names: Mapping[str, str], sizes: Mapping[str, int], config: Sizes
) -> list[str]:
    """What the arguments of KerasHub's model say against the tensors: its width, and which
    optional ones it has."""
    sentences, file = [], checkpoint.config_name
    keys = ("hidden_dim", "hidden_size", "embed_dim")
    width = next((config.table[name] for name in keys if name in config.table), None)
    if isinstance(width, int) and width != sizes["D"]:
        kernel = f"{names['kernel']} {checkpoint.tensors[names['kernel']].shape}"
        sentences.append(f"{file} tells width {width}, and {kernel} has {sizes['D']}")
    for key, name in (
        ("use_class_token", "class_token"),
        ("use_patch_bias", "bias"),
        ("use_mask_token", "mask_token"),
    ):
        if config.table.get(key) is (name not in names):
            word = name.replace("_", " ").replace("bias", "bias of patches")
            sentences.append(
                f"{file} says that {key} is {json.dumps(config.table[key])}, and "
                f"{'no' if name not in names else 'a'} {word} is in the file"
            )
    return sentences


ACTIVATIONS_OF_TIMM = {
    "relu": ("relu",),
    "gelu": ("gelu",),
    "hard-swish": ("hard_swish", "hardswish"),
    "silu": ("silu", "swish"),
}
"""How timm calls the activations of a stem."""


def _of_timm(
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    config: Sizes,
    file: str,
) -> list[str]:
    """Arguments of timm's constructors that change norms, activations or the width, where they are
    others than the dialect has; none tells these of a model made without them."""
    sentences = []
    norm = any(name.startswith(("patch_norm", "token_norm", "sequence_norm")) for name in names)
    kind, epsilon = config.table.get("norm_layer"), config.table.get("norm_eps")
    norm_names = ("rmsnorm", "rmsnorm2d") if dialect.rms else ("layernorm", "layernorm2d")
    if norm and kind is not None and kind not in norm_names:
        sentences.append(
            f"{file} says that norm_layer is {kind!r}, and {dialect.id} has {norm_names[0]}"
        )
    if norm and epsilon is not None and epsilon != dialect.norm_epsilon:
        sentences.append(
            f"{file} tells norm_eps {epsilon}, and {dialect.id} {dialect.norm_epsilon:g}"
        )
    for key, name, words in (
        ("pre_norm", "sequence_norm", "norm before the first block"),
        ("use_pre_transformer_norm", "sequence_norm", "norm before the first block"),
        ("embed_norm_layer", "token_norm", "norm behind the projection"),
    ):
        said = config.table.get(key)
        there = any(field.startswith(name) for field in names)
        if (said is False and there) or (said not in (None, False) and not there):
            held = "holds one" if there else "holds none"
            sentences.append(
                f"{file} says that {key} is {json.dumps(said)}, and the file {held}: no "
                f"{words} is left out without a word"
            )
    activation = config.table.get("act_layer")
    for step in dialect.stem:
        known = ACTIVATIONS_OF_TIMM.get(step.activation, ())
        if activation is not None and known and activation not in known:
            sentences.append(
                f"{file} says that act_layer is {activation!r}, and {dialect.id} has {known[0]}"
            )
            break
    named = re.fullmatch(dialect.width_of_name, config.architecture)
    if named and int(named[1]) != sizes["D"]:
        sentences.append(
            f"{file} calls the architecture {config.architecture!r}, and the kernel is "
            f"{sizes['D']} wide"
        )
    return sentences
