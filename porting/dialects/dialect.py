"""Dialects: how each library names and lays out the embedding stage, as data; reading and writing
both come from the same record.

What a layout cannot say is a step of a closed list (`STEPS`), with its inverse or marked as lossy.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import einops
import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import CANONICAL
from ...reference.stem import Activation
from ...reference.weights import PrefixToken, TokenOrder
from ..files.tree import IN_MEMORY

FORMATS = ("safetensors", "torch", "npz", "h5", "keras", "msgpack", "gguf", "graph")
"""What a dialect may be kept in: formats of files, and the graph of a whole model, in whatever
format that is."""

FIELDS: dict[str, str] = {
    "kernel": CANONICAL,
    "bias": "D",
    "class_token": "D",
    "distillation_token": "D",
    "register_tokens": "R D",
    "mask_token": "D",
    "positions": "rows D",
    "patch_norm.scale": "K",
    "patch_norm.shift": "K",
    "token_norm.scale": "D",
    "token_norm.shift": "D",
    "sequence_norm.scale": "D",
    "sequence_norm.shift": "D",
    "position_rows": "Gh D",
    "position_columns": "Gw D",
    "position_tables": "XY rows D",
    "position_ids": "rows",
    "position_window": "Th Tw D",
    "class_position": "D",
    "pixel_mean": "C",
    "pixel_std": "C",
    "position_projection": "D F",
    "position_projection_bias": "D",
    "batch_norm.scale": "D",
    "batch_norm.shift": "D",
    "batch_norm.mean": "D",
    "batch_norm.variance": "D",
}
"""Fields of PatchEmbedWeights that a dialect may hold, and their canonical axes; positions may be a
sum of one table for the rows and one for the columns, or of a row of each of two tables, the first
looked up by column and the second by row; ids may tell which row of them each token is given; those
of a window may be repeated on them; that of the class token may be a tensor by itself. What an
image is normalized with may be in the file."""

ABSENT: dict[str, str] = {
    "bias": "no bias is added",
    "class_token": "there is no class token",
    "distillation_token": "there is no distillation token",
    "register_tokens": "there are no registers",
    "mask_token": "nothing is masked",
    "positions": "no positions are added before the first block",
    "position_rows": "no positions are added before the first block",
    "position_columns": "no positions are added before the first block",
    "position_tables": "no positions are added before the first block",
    "position_ids": "each token is given its own row of the positions",
    "position_window": "nothing is repeated on the positions",
    "class_position": "the class token has no position",
    "pixel_mean": "nothing is taken from pixels",
    "pixel_std": "pixels are not divided",
    "patch_norm.scale": "patches are not normalized",
    "patch_norm.shift": "nothing is added to normalized patches",
    "token_norm.scale": "tokens are not normalized",
    "token_norm.shift": "nothing is added to normalized tokens",
    "sequence_norm.scale": "the sequence is not normalized",
    "sequence_norm.shift": "nothing is added to the normalized sequence",
}
"""What it means of an optional field that no tensor holds it."""

HEADS = (
    r"(head|heads|classifier|lm_head|head_dist|head_drop|fc|fc_norm|pre_logits|logit_scale|logit_bias|score|output_projection)([./].*)?",
    r"(cls_classifier|distillation_classifier)[./].*",
    r"(.*\.)?num_batches_tracked",
    r"(.*[./])?rngs?[./](\w+[./])?(count|key)",
)
"""Tensors of any dialect that stand behind its encoder, as patterns of the whole name."""

AXES = (
    "D",
    "C",
    "Pt",
    "Ph",
    "Pw",
    "K",
    "R",
    "rows",
    "Gt",
    "Gh",
    "Gw",
    "Wh",
    "Ww",
    "Sh",
    "Sw",
    "Th",
    "Tw",
    "F",
    "J",
    "Jk",
    "XY",
    "1",
)
SQUARES = {"Wh+Ww": ("Wh", "Ww"), "Sh+Sw": ("Sh", "Sw")}
"""Axes of positions that lie in windows: Wh × Ww windows of Sh × Sw patches, as many along either
side."""

BATCH_NORM = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}
"""The parts of a batch norm, and how torch calls them."""


@dataclass(frozen=True)
class StemStep:
    """A convolution in front of the projection: see `reference/stem.py`.

    Args:
        convolution: what stands before `.weight`, and `.bias` where it has no norm.
        norm: what stands before the names of the batch norm behind it; empty for none.
        stride, padding, activation: as in `StemLayer`.
    """

    convolution: str
    stride: int
    padding: int
    norm: str = ""
    activation: Activation = ""

    def entries(self, place: int) -> "dict[str, Entry]":
        """Its tensors, as those of a dialect's stem at this place."""
        entries = {
            f"stem.{place}.kernel": Entry(
                f"stem.{place}.kernel", f"{self.convolution}.weight", "D C Ph Pw"
            )
        }
        if not self.norm:
            entries[f"stem.{place}.bias"] = Entry(
                f"stem.{place}.bias", f"{self.convolution}.bias", "D"
            )
        return entries | batch_norm_entries(f"stem.{place}", self.norm)


def batch_norm_entries(field: str, name: str) -> "dict[str, Entry]":
    """The tensors of a batch norm of torch, as parts of a field; none without a name."""
    parts = BATCH_NORM.items() if name else ()
    return {
        f"{field}.{part}": Entry(f"{field}.{part}", f"{name}.{theirs}", "D")
        for part, theirs in parts
    }


@dataclass(frozen=True)
class Entry:
    """One tensor of a dialect: under which name a field of the weights is kept, and how.

    Args:
        field: a name of `FIELDS`.
        name: of the tensor, without the prefix that a library may put before all names.
        layout: einops pattern of its axes.
    """

    field: str
    name: str
    layout: str

    def sizes(self, shape: tuple[int, ...], known: Mapping[str, int]) -> dict[str, int] | None:
        """Sizes of the named axes of a tensor of this shape, or None where the shape does not fit
        the layout and what is known."""
        groups = re.findall(r"\(([^)]*)\)|(\S+)", self.layout)
        if len(groups) != len(shape):
            return None
        sizes = dict(known)
        for (merged, single), size in zip(groups, shape, strict=True):
            names = merged.split() or [single]
            if single == "1":
                if size != 1:
                    return None
                continue
            if single == "XY" and size != 2:
                return None
            if size == 0 and single != "R":
                return None
            unknown = [name for name in names if name not in sizes]
            rest = math.prod(sizes[name] for name in names if name in sizes)
            if not unknown:
                if rest != size:
                    return None
            elif len(unknown) == 1:
                if not rest or size % rest:
                    return None
                sizes[unknown[0]] = size // rest
            elif (pair := SQUARES.get("+".join(names))) is None:
                sizes["+".join(sorted(names))] = size
            elif math.isqrt(size) ** 2 == size:
                sizes.update(dict.fromkeys(pair, math.isqrt(size)))
            else:
                return None
        return sizes


@dataclass(frozen=True)
class Dialect:
    """How one library keeps the embedding stage.

    Args:
        id: library and family.
        title: in words.
        loads: which classes take these names and which do not, where a library has several.
        framework: that of the library: torch, jax, keras or numpy.
        formats: of its files.
        entries: its tensors, by field.
        optional: fields that need not be there.
        absent: what it means that they are not, where that is not what `ABSENT` says.
        elsewhere: patterns of the names of all its other tensors, which belong to its encoder or
            head. A tensor that is neither is unexplained.
        prefix, prefix_side, suffix, token_order, norm_epsilon: as in SequenceLayout.
        positioned: which prefix tokens may have rows in the position table: alternatives.
        positioned_together: whether all that are there have rows, or none.
        epsilon_of_config: whether `layer_norm_eps` of `config.json` is that of these norms; most
            are made with their framework's default.
        separator: between the parts of a name.
        stride, padding, remainder: where they are not those of patches that tile: a number, `half`
            of the kernel, or `config` where no tensor and no dialect tells it.
        model_types: what transformers' `config.json` calls its models.
        architectures: patterns of what timm's `config.json` calls them.
        architectures_if: patterns of more of these names, each with what of the model's arguments
            makes it one of the dialect's, `key == value`: any of them does.
        epsilon_names: patterns of timm's names whose norms have `norm_epsilon`; models of all other
            names, and those made with an argument of `epsilon_arguments`, have timm's own 1e-6.
        epsilons: the norms' epsilon in models of timm whose names are of these patterns.
        epsilon_arguments: arguments that bring a norm with timm's own epsilon.
        config: under which keys of `config.json` stride, padding, patch_size, image_size, window
            and registers are kept, where not under the usual ones.
        require: what `config.json` must say, as far as it says it, for this reading to hold: `key <
            key`, `key == value`.
        checked: what of `config.json` is held against the tensors: patch_size, image_size,
            channels.
        channels: of the images that it takes, where that tells it from another dialect.
        rms: norms that do not take the mean out.
        patch_asked: whether its library keeps patches of other axes under the same names, so that
            --patch-size must tell the patch of a matrix.
        windowed: whether tokens are in the order of attention windows, whose size the configuration
            tells.
        window: that of `token_order`, where it is always the same.
        spare_rows, spare_last: rows at the start and at the end of the position table (of rows and
            of columns each, where there are two) that belong to no token, and are not added.
        typed_only: whether its names are another dialect's, so that only `config.json` or a user
            tells it.
        read_only: whether nothing can be written to it (a table of positions that is a sum of
            others).
        mlx: whether its kernel is laid out as MLX has it.
        pixels: `mean` and `std` of the channels (or of all) that its model takes from images and
            divides them by before the projection; what is read has them in its kernel and bias.
        beside: tensors that tell it from others.
        copies: other tensors that hold the values of a field once more, by field; or, of another
            size, those that the library made for its images.
        computed: `sinusoid-1d` (VideoMAE), `sincos-2d` (vit-pytorch) or `sincos-2d-mae` (AIMv2 of
            any resolution) where positions are computed and in no file; `fourier` (XCiT) where a
            layer in the file is applied to what is computed.
        square: model types that take their positions as those of a square, and resize them at run
            time to any other grid; `*` for all.
        images: which images its library takes: `any`; `multiple` of its steps, to which it pads
            others; `multiple-of-patch_size`, of what config.json calls so; `grid`, those of the
            positions' grid alone, to which it resizes others.
        width_of_name: a pattern of timm's names of its models, whose group is the width.
        cut: whether positions of rows and of columns are cut to the grid of the image.
        stem: convolutions in front of the projection, which then takes a map of features; their
            channels are the image's.
        batch_norm: what stands before the names of a batch norm behind the projection; what is read
            has it in kernel and bias.
        batch_norm_epsilon: of all its batch norms.
        resize: the rule of `reference/resample.py` by which a table of positions of any grid is
            brought to the image's.
        resize_to: `grid`, the image's; `square`, that of its longer side, of which the upper left
            part is taken (RADIO); `swapped`, that of as many rows as the image has columns and the
            other way round, whose rows follow one another all the same (Muse Spark).
        resample: recipes by which its library resizes the position table to another image size,
            where it does; more than one where that depends on the backend.
        resample_registers: the same of models with register tokens, where it is another.
        resample_of: the same of models of a type, or of timm's names, by patterns of these, where
            it is another; an empty list where no recipe is its library's.
        always: optional fields that all models of a type have, by model type; `*` for all types.
        lacks: fields that models of a type do not have although the dialect does, by model type.
        shared_rows: rows in front of the position table that are added to every patch.
        plain: whether it is a layout under names that say nothing.
    """

    id: str
    title: str
    framework: str
    formats: tuple[str, ...]
    entries: Mapping[str, Entry]
    loads: str = ""
    optional: tuple[str, ...] = ()
    prefix: tuple[PrefixToken, ...] = ()
    prefix_side: Literal["first", "last"] = "first"
    positioned: tuple[tuple[PrefixToken, ...], ...] = ((),)
    positioned_together: bool = False
    suffix: tuple[PrefixToken, ...] = ()
    token_order: TokenOrder = "raster"
    norm_epsilon: float = 1e-6
    epsilon_of_config: bool = False
    separator: str = "."
    stride: int | Literal["config", "half"] | None = None
    padding: int | Literal["config", "half"] = 0
    remainder: str = "floor"
    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    architectures_if: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    epsilon_names: tuple[str, ...] = ()
    epsilons: Mapping[str, float] = dataclasses.field(default_factory=dict)
    epsilon_arguments: tuple[str, ...] = ()
    config: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    require: tuple[str, ...] = ()
    always: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    lacks: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    checked: tuple[str, ...] = ("patch_size", "image_size", "channels")
    channels: int | None = None
    elsewhere: tuple[str, ...] = ()
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rms: tuple[str, ...] = ()
    windowed: bool = False
    window: int = 0
    patch_asked: bool = False
    spare_rows: int = 0
    spare_last: int = 0
    typed_only: bool = False
    read_only: bool = False
    mlx: bool = False
    pixels: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    beside: tuple[str, ...] = ()
    copies: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    computed: str = ""
    images: Literal["any", "multiple", "multiple-of-patch_size", "grid"] = "any"
    width_of_name: str = ""
    cut: bool = False
    stem: tuple[StemStep, ...] = ()
    batch_norm: str = ""
    batch_norm_epsilon: float = 1e-5
    resize: str = ""
    resize_to: Literal["grid", "square", "swapped"] = "grid"
    resample: tuple[str, ...] = ()
    resample_registers: tuple[str, ...] = ()
    resample_of: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    shared_rows: int = 0
    square: tuple[str, ...] = ()
    plain: bool = False

    @property
    def required(self) -> tuple[str, ...]:
        """Fields that must be there."""
        return tuple(name for name in self.entries if name not in self.optional)

    def may_be_in(self, kept_as: str) -> bool:
        """Whether a checkpoint that is kept so may be in this dialect."""
        in_memory = kept_as == IN_MEMORY and self.formats != ("graph",)
        # numpy.savez of a state dict keeps torch's names
        saved = kept_as == "npz" and "torch" in self.formats and self.framework == "torch"
        return in_memory or saved or kept_as in self.formats

    def recipes(self, registers: bool, model_type: str) -> tuple[str, ...]:
        """The recipes by which its library resizes positions, of a model of this type, with
        register tokens or without."""
        for pattern, names in self.resample_of.items():
            if re.fullmatch(pattern, model_type):
                return names
        return (self.resample_registers if registers else ()) or self.resample

    def means(self, name: str) -> str:
        """What it means that an optional field is in no tensor."""
        return self.absent.get(name, ABSENT.get(name, "nothing is known of it"))

    @property
    def pixels_told(self) -> str:
        """What its model does to pixels, in words."""
        mean, std = (
            " ".join(f"{value:g}" for value in self.pixels[name]) for name in ("mean", "std")
        )
        return f"pixels less {mean}, by {std}: its model normalizes images itself"

    @functools.cached_property
    def _elsewhere(self) -> re.Pattern[str]:
        return re.compile("|".join(f"(?:{pattern})" for pattern in (*self.elsewhere, *HEADS)))

    def is_elsewhere(self, name: str) -> bool:
        """Whether a tensor of this name, without the prefix, belongs to the encoder or the head."""
        return self._elsewhere.fullmatch(name) is not None

    @property
    def behind(self) -> tuple[PrefixToken, ...]:
        """Prefix tokens that stand behind the patches."""
        return tuple(
            name for name in self.prefix if self.prefix_side == "last" or name in self.suffix
        )

    @property
    def any_grid(self) -> bool:
        """Whether its positions are made for the grid of the image: resized at run time, looked up
        by row and column, or computed by a layer of the file."""
        made = self.resize or self.cut or self.computed in ("fourier", "sincos-2d-mae")
        return bool(made) or "position_tables" in self.entries

    @property
    def video(self) -> bool:
        """Whether it cuts tubelets."""
        return "Pt" in self.entries["kernel"].layout

    def holds(self) -> str:
        """What it can hold, in words."""
        named = {
            "kernel": "",
            "mask_token": "",
            "position_rows": "positions",
            "position_columns": "positions",
            "position_tables": "positions",
            "position_ids": "",
            "position_window": "positions",
            "class_position": "",
            "position_projection": "",
            "position_projection_bias": "",
            "pixel_mean": "",
            "pixel_std": "",
        }
        contents = [named.get(name, name.replace("_", " ").split(".")[0]) for name in self.entries]
        contents += ["positions (computed)"] if self.computed else []
        return ", ".join(dict.fromkeys(filter(None, contents))) or "nothing but the kernel"


REQUIRED = re.compile(r"(\w+(?:\.\d+)?|len\(\w+\)) (<|<=|==|!=|>=|>) ([\w.-]+|\[\d+(?:, \d+)*\])")
"""A comparison of a key of `config.json`, of the length of a list there, or of one of its values
(`key.0`), with another key or with a value."""


def to_canonical(array: NDArray[Any], entry: Entry, sizes: Mapping[str, int]) -> NDArray[Any]:
    """Move a tensor of a file into the canonical axes of its field."""
    source, target = entry.layout, canonical_axes(entry)
    used = {
        name: sizes[name]
        for name in re.sub(r"[()]", " ", source).split()
        if name in sizes and name != "1"
    }
    return np.ascontiguousarray(einops.rearrange(array, f"{source} -> {target}", **used))


def from_canonical(array: NDArray[Any], entry: Entry, sizes: Mapping[str, int]) -> NDArray[Any]:
    """Move a field of the weights into the layout of a dialect."""
    source, target = canonical_axes(entry), entry.layout
    used = {name: sizes[name] for name in re.sub(r"[()]", " ", source).split() if name in sizes}
    return np.ascontiguousarray(einops.rearrange(array, f"{source} -> {target}", **used))


def canonical_axes(entry: Entry) -> str:
    """The axes that a field of this entry has in canonical weights."""
    if entry.field.startswith("stem."):
        return FIELDS["kernel" if entry.field.endswith("kernel") else "bias"]
    axes = FIELDS[entry.field]
    if entry.field == "kernel" and "Pt" in entry.layout:
        return axes.replace("Ph", "Pt Ph")
    if entry.field == "positions" and "Sh" in entry.layout:
        return axes.replace("rows", "(Wh Sh Ww Sw)")
    if entry.field == "positions" and "Gt" in entry.layout:
        return axes.replace("rows", "(Gt Gh Gw)")
    if entry.field == "positions" and "Gh" in entry.layout:
        return axes.replace("rows", "(Gh Gw)")
    if entry.field == "register_tokens" and "Jk" in entry.layout:
        return axes.replace("R", "(J Jk)")
    if entry.field.startswith("patch_norm") and "Ph" in entry.layout:
        return "(Ph Pw C)"
    return axes
