"""All dialects by name: read from this folder's TOML files and from users', and held against what
a dialect may say."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.resources
import itertools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli

from ...reference.errors import PatchParityError
from ...reference.recipes import RECIPES
from ...reference.stem import Activation
from ...reference.weights import PrefixToken, TokenOrder
from .dialect import (
    AXES,
    FIELDS,
    FORMATS,
    REQUIRED,
    Dialect,
    Entry,
    StemStep,
    batch_norm_entries,
    canonical_axes,
)

_TEXTS = (
    "title",
    "loads",
    "framework",
    "prefix_side",
    "token_order",
    "separator",
    "remainder",
    "computed",
    "resize",
    "resize_to",
    "batch_norm",
    "images",
    "width_of_name",
)
_FLAGS = (
    "plain",
    "typed_only",
    "epsilon_of_config",
    "positioned_together",
    "windowed",
    "patch_asked",
    "read_only",
    "mlx",
    "cut",
)
_LISTS = (
    "optional",
    "prefix",
    "suffix",
    "formats",
    "model_types",
    "architectures",
    "epsilon_names",
    "epsilon_arguments",
    "beside",
    "elsewhere",
    "rms",
    "checked",
    "require",
    "square",
    "resample",
    "resample_registers",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "framework": ("torch", "jax", "keras", "numpy"),
    "prefix_side": ("first", "last"),
    "token_order": get_args(TokenOrder),
    "remainder": ("error", "floor", "pad-end", "same"),
    "computed": ("", "sinusoid-1d", "sincos-2d", "sincos-2d-mae", "fourier"),
    "resize": ("", *RECIPES),
    "resize_to": ("grid", "square", "swapped"),
    "images": ("any", "multiple", "multiple-of-patch_size", "grid"),
}
"""Values of a dialect's table by kind; what must be one of a few."""


Wrong = Callable[[str], PatchParityError]
"""What makes an error of a dialect's table out of what is wrong with it."""


def _dialect(
    identity: str, table: Any, source: str, sets: Mapping[str, list[str]] | None = None
) -> Dialect:
    """Build a dialect from its table.

    Args:
        identity: its id.
        table: its table.
        source: the file, for errors.
        sets: named lists of patterns, to which `elsewhere` may refer with `@name`.

    Raises:
        PatchParityError: a table that says something unknown, or not enough.
    """

    def wrong(what: str) -> PatchParityError:
        return PatchParityError(f"dialect {identity!r} in {source}: {what}")

    if not isinstance(table, dict):
        raise wrong(f"expected a table, not {table!r}")
    _require_known_keys(table, wrong)
    entries = _entries(table.get("tensors"), wrong)
    settings = _settings(table, wrong)
    _require_names(settings, entries, wrong)
    _require_conditions(settings, wrong)
    settings["elsewhere"] = _patterns(settings.get("elsewhere", ()), sets or {}, wrong)
    settings["stem"] = tuple(StemStep(**step) for step in settings.get("stem", ()))
    for place, step in enumerate(settings["stem"]):
        entries |= step.entries(place)
    entries |= batch_norm_entries("batch_norm", settings.get("batch_norm", ""))
    return Dialect(identity, entries=entries, **settings)


def _require_known_keys(table: Mapping[str, Any], wrong: Wrong) -> None:
    """Raise PatchParityError for a key that no dialect has."""
    fields = {field.name for field in dataclasses.fields(Dialect)} - {"id", "entries"}
    if unknown := set(table) - fields - {"tensors"}:
        raise wrong(
            f"unknown {', '.join(sorted(unknown))}; expected "
            f"{', '.join(sorted(fields | {'tensors'}))}"
        )


def _settings(table: Mapping[str, Any], wrong: Wrong) -> dict[str, Any]:
    """All that a table says beside its tensors, each of its kind, lists as tuples."""
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in table.items()
        if key != "tensors"
    }
    for missing in ("title", "framework", "formats"):
        if missing not in settings:
            raise wrong(f"{missing} is missing")
    for key, value in settings.items():
        if not _of_its_kind(key, value):
            raise wrong(f"{key} = {table[key]!r} is of the wrong kind")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise wrong(f"{key} = {value!r}: expected one of {', '.join(map(repr, _CHOICES[key]))}")
    for names in settings.get("resample_of", {}).values():
        if unknown := sorted(set(names) - set(RECIPES)):
            raise wrong(f"resample_of names {', '.join(unknown)}, and there is no such recipe")
    for key in ("resample", "resample_registers"):
        if unknown := sorted(set(settings.get(key, ())) - set(RECIPES)):
            raise wrong(f"{key} names {', '.join(unknown)}, and there is no such recipe")
    if "positioned" in settings:
        settings["positioned"] = tuple(map(tuple, table["positioned"]))
    if "pixels" in settings:
        if settings.get("padding", 0) != 0:  # its zeros are put around images that were normalized
            raise wrong("pixels that are normalized have no padding around them")
        settings["pixels"] = {name: tuple(held) for name, held in settings["pixels"].items()}
    for key in ("copies", "config", "architectures_if", "always", "lacks", "resample_of"):
        if key in settings:
            settings[key] = {
                name: (held,) if isinstance(held, str) else tuple(held)
                for name, held in settings[key].items()
            }
    return settings


def _require_names(settings: Mapping[str, Any], entries: Mapping[str, Entry], wrong: Wrong) -> None:
    """Raise PatchParityError for a format, a tensor or a prefix token that nobody knows."""
    if strange := [name for name in settings["formats"] if name not in FORMATS]:
        raise wrong(f"format {strange[0]!r} is unknown; expected some of {', '.join(FORMATS)}")
    fields = [
        *settings.get("optional", ()),
        *settings.get("absent", {}),
        *settings.get("copies", {}),
    ]
    if strange := [name for name in fields if name not in entries]:
        raise wrong(f"{strange[0]!r} is none of its tensors: {', '.join(entries)}")
    tokens = [
        *settings.get("prefix", ()),
        *settings.get("suffix", ()),
        *(token for alternative in settings.get("positioned", ()) for token in alternative),
    ]
    if strange := [token for token in tokens if token not in get_args(PrefixToken)]:
        raise wrong(
            f"prefix token {strange[0]!r} is unknown; expected some of "
            f"{', '.join(get_args(PrefixToken))}"
        )


def _require_conditions(settings: Mapping[str, Any], wrong: Wrong) -> None:
    """Raise PatchParityError for what config.json must say, where that is no comparison, and for a
    width of a name that is no number."""
    of_names = settings.get("architectures_if", {}).values()
    for key, held, example in (
        ("require", settings.get("require", ()), "a comparison such as 'num_windows == 1'"),
        ("architectures_if", itertools.chain(*of_names), "such as 'pre_norm == true'"),
    ):
        for condition in held:
            if not REQUIRED.fullmatch(condition):
                raise wrong(f"{key} has {condition!r}, expected {example}")
    if "width_of_name" in settings and not _tells_a_number(settings["width_of_name"]):
        raise wrong(
            f"width_of_name = {settings['width_of_name']!r} is no pattern with digits as its group"
        )


def _patterns(
    elsewhere: Sequence[str], sets: Mapping[str, list[str]], wrong: Wrong
) -> tuple[str, ...]:
    """The patterns of what is elsewhere, those of named lists among them."""
    patterns: list[str] = []
    for pattern in elsewhere:
        if pattern.startswith("@") and pattern[1:] not in sets:
            raise wrong(f"elsewhere names {pattern}, which is no list of patterns")
        patterns += sets[pattern[1:]] if pattern.startswith("@") else [pattern]
    return tuple(patterns)


def _require_patterns(dialect: Dialect, source: Path) -> Dialect:
    """Raise PatchParityError where one of its patterns is none; of ours a test does: to compile
    them all takes longer than to read a file."""
    try:
        dialect.is_elsewhere("")
    except re.error as error:
        raise PatchParityError(
            f"dialect {dialect.id!r} in {source}: a pattern of elsewhere is none ({error})"
        ) from None
    return dialect


def _entries(tensors: Any, wrong: Wrong) -> dict[str, Entry]:
    """The tensors of a dialect's table."""
    if not isinstance(tensors, dict) or "kernel" not in tensors:
        raise wrong("expected a table 'tensors' with a kernel")
    entries = {}
    for name, entry in tensors.items():
        if name not in FIELDS:
            raise wrong(f"field {name!r} is unknown; expected one of {', '.join(FIELDS)}")
        if not (
            isinstance(entry, list)
            and len(entry) == 2
            and all(isinstance(part, str) for part in entry)
        ):
            raise wrong(f"{name} = {entry!r}: expected [name, layout]")
        if not re.fullmatch(r"(\w+|\((\w+ )*\w+\))( (\w+|\((\w+ )*\w+\)))*", entry[1]):
            raise wrong(
                f"{name} has the layout {entry[1]!r}: expected axes with one blank between, some "
                "of them in parentheses"
            )
        axes = re.sub(r"[()]", " ", entry[1]).split()
        if strange := [axis for axis in axes if axis not in AXES]:
            raise wrong(f"{name} has the axis {strange[0]!r}; expected some of {' '.join(AXES)}")
        if twice := next((axis for axis in axes if axis != "1" and axes.count(axis) > 1), None):
            raise wrong(f"{name} has the axis {twice!r} twice")
        entries[name] = Entry(name, *entry)
        wanted, held = (
            set(canonical_axes(entries[name]).replace("(", " ").replace(")", " ").split()),
            set(axes) - {"1"},
        )
        if wanted != held:
            raise wrong(
                f"{name} has the axes {' '.join(sorted(held))}, expected "
                f"{' '.join(sorted(wanted))} in some order"
            )
    return entries


def _of_its_kind(key: str, value: Any) -> bool:
    """Whether a value of a dialect's table is of the kind that its key takes."""
    if key in _TEXTS:
        return isinstance(value, str)
    if key in _FLAGS:
        return isinstance(value, bool)
    if key in _LISTS:
        return isinstance(value, tuple) and all(isinstance(element, str) for element in value)
    if key == "positioned":
        return isinstance(value, tuple) and all(
            isinstance(alternative, list) and all(isinstance(name, str) for name in alternative)
            for alternative in value
        )
    if key in ("copies", "config", "architectures_if", "always", "lacks", "resample_of"):
        return isinstance(value, dict) and all(
            isinstance(names, str)
            or (isinstance(names, list) and all(isinstance(name, str) for name in names))
            for names in value.values()
        )
    if key == "absent":
        return isinstance(value, dict)
    if key == "epsilons":
        return isinstance(value, dict) and all(
            isinstance(epsilon, float) and 0 < epsilon < 1 for epsilon in value.values()
        )
    if key == "pixels":
        return (
            isinstance(value, dict)
            and set(value) == {"mean", "std"}
            and all(
                isinstance(values, list)
                and values
                and all(isinstance(one, float) for one in values)
                for values in value.values()
            )
            and len(value["mean"]) == len(value["std"])
            and min(value["std"]) > 0
        )
    if key == "stem":
        return isinstance(value, tuple) and all(map(_is_stem_step, value))
    if key in ("norm_epsilon", "batch_norm_epsilon"):
        return isinstance(value, float) and 0 < value < 1
    least = 0 if key in ("padding", "window") else 1
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    return whole or (value in ("config", "half") and key in ("stride", "padding"))


def _tells_a_number(pattern: str) -> bool:
    """Whether a pattern has one group, of digits."""
    with contextlib.suppress(re.error):
        return re.compile(pattern).groups == 1 and r"(\d+)" in pattern
    return False


def _is_stem_step(value: Any) -> bool:
    """Whether a table tells a step of a stem."""
    known = {field.name for field in dataclasses.fields(StemStep)}
    if not (
        isinstance(value, dict) and {"convolution", "stride", "padding"} <= set(value) <= known
    ):
        return False
    sizes = [value["stride"], value["padding"]]
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    named = all(
        isinstance(value.get(name, ""), str) for name in ("convolution", "norm", "activation")
    )
    return (
        whole
        and named
        and sizes[0] > 0
        and sizes[1] >= 0
        and value.get("activation", "") in get_args(Activation)
    )


LARGEST_FILE = 2**20
"""Bytes of a user's file of dialects; ours have 40 kB."""


def read_dialects(path: Path) -> dict[str, Dialect]:
    """Read a TOML file of dialects, a user's own for instance.

    Raises:
        PatchParityError: a file that cannot be read, or says something unknown.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise PatchParityError(
                f"cannot read dialects from {path}: expected a file of at most {LARGEST_FILE} bytes"
            )
        content = tomli.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PatchParityError(f"cannot read dialects from {path}: {error}") from None
    sets = dict(_own_sets().items())
    return {
        identity: _require_patterns(_dialect(identity, table, str(path), sets), path)
        for identity, table in content.items()
    }


@functools.cache
def _own_sets() -> dict[str, list[str]]:
    """Lists of patterns of encoders' names, which several dialects share."""
    content = (importlib.resources.files(__package__) / "elsewhere.toml").read_text(
        encoding="utf-8"
    )
    return tomli.loads(content)["elsewhere"]


@functools.cache
def _own_dialects() -> dict[str, Dialect]:
    dialects: dict[str, Dialect] = {}
    folder = importlib.resources.files(__package__)
    for name in (
        "timm.toml",
        "torch.toml",
        "transformers.toml",
        "transformers4.toml",
        "mmpretrain.toml",
        "monai.toml",
        "jax.toml",
        "keras.toml",
        "gguf.toml",
        "plain.toml",
        "graphs.toml",
    ):
        content = tomli.loads((folder / name).read_text(encoding="utf-8"))
        dialects.update(
            {
                identity: _dialect(identity, table, name, _own_sets())
                for identity, table in content.items()
            }
        )
    dialects.update(
        {
            dialect.id: dialect
            for derive in (_as_mlx, _as_dotted)
            for dialect in map(derive, [*dialects.values()])
            if dialect is not None
        }
    )
    return dialects


def _as_dotted(dialect: Dialect) -> Dialect | None:
    """The same dialect as transformers 4 keeps the parameters of its Flax models in safetensors,
    with dots between the parts of a name (modeling_flax_utils.py, `save_pretrained`); None of any
    other library."""
    if dialect.framework != "jax" or not dialect.id.startswith("hf-"):
        return None
    entries = {
        field: dataclasses.replace(entry, name=entry.name.replace("/", "."))
        for field, entry in dialect.entries.items()
    }
    return dataclasses.replace(
        dialect,
        id=f"{dialect.id}-safetensors",
        title=f"{dialect.title}, in safetensors",
        formats=("safetensors",),
        separator=".",
        entries=entries,
    )


MLX_LAYOUTS = {"D C Ph Pw": "D Ph Pw C", "D C Pt Ph Pw": "D Pt Ph Pw C"}
"""How MLX lays out the kernel of a convolution of torch, under the same names (mlx.nn.Conv2d,
Conv3d)."""


def _as_mlx(dialect: Dialect) -> Dialect | None:
    """The same dialect as MLX keeps it; None where there is no convolution, or nothing but a
    layout."""
    kernel = dialect.entries["kernel"]
    if (
        dialect.plain
        or dialect.stem
        or dialect.framework != "torch"
        or kernel.layout not in MLX_LAYOUTS
    ):
        return None
    entries = {
        **dialect.entries,
        "kernel": dataclasses.replace(kernel, layout=MLX_LAYOUTS[kernel.layout]),
    }
    return dataclasses.replace(
        dialect,
        id=f"{dialect.id}-mlx",
        title=f"{dialect.title}, in MLX's layout",
        loads="",
        framework="numpy",
        formats=("safetensors", "npz"),
        entries=entries,
        mlx=True,
    )


def list_dialects(more: Iterable[str | os.PathLike[str]] = ()) -> dict[str, Dialect]:
    """Return all dialects by id, those of other files after ours."""
    dialects = dict(_own_dialects())
    more = [more] if isinstance(more, (str, os.PathLike)) else more
    for path in more:
        file_dialects = read_dialects(Path(path))
        if twice := next((identity for identity in file_dialects if identity in dialects), None):
            raise PatchParityError(
                f"{path} calls a dialect {twice!r}, and there is one of that name: choose another"
            )
        dialects.update(file_dialects)
    return dialects


def get_dialect(identity: str, dialects: Mapping[str, Dialect] | None = None) -> Dialect:
    """Return the dialect of an id.

    Raises:
        PatchParityError: an unknown one.
    """
    known = list_dialects() if dialects is None else dialects
    if identity not in known:
        near = (
            difflib.get_close_matches(identity, known, 5, 0.5)
            or [name for name in known if identity in name][:5]
        )
        raise PatchParityError(
            f"dialect {identity!r} is unknown{'; near are ' if near else ''}{', '.join(near)} "
            "(port --list tells all)"
        )
    return known[identity]
