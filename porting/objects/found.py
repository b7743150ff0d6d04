"""The weights of a live object, read out of its parameters or given beside it: kernel, bias, prefix
tokens and positions, in the layouts in which they are kept."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import KERNEL_LAYOUTS, kernel_from_layout, with_time_axis
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights, SequenceLayout
from ..files.arrays import kernel_sizes, read_arrays, read_own_weights
from .parameters import ROLES, read_all


class SeveralKernelsError(PatchParityError):
    """An object with more than one kernel: a whole model, say, whose names may tell which is the
    patch embedding's."""


class LongPositionsError(PatchParityError):
    """A table with more rows than an image has tokens, of which some are taken."""


@dataclass
class FoundWeights:
    """Weights as an object keeps them.

    Args:
        kernel: in one of `orders`.
        embed_dim, patch_size, in_channels: as its shape tells them.
        orders: names of `KERNEL_LAYOUTS` that come into question: of a linear layer two.
        parts: bias, prefix tokens, positions and mask token, by field of the weights; detection
            tokens, which are registers behind the patches.
        position_ids: the rows of positions that are taken, in their order; None where none says.
        owner: the layer that holds the kernel, where that is known.
        given: whether a user gave them beside the object.
        canonical: what was given in our own form.
        told: stride, padding, image size and remainder of a file of our own.
        notes: what was left out, in sentences.
        unplaced: parameters beside these, of which the object's output must show what they are.
        refusal: what is said where it does not.
        several: whether there are more matrices than one beside the kernel, as whole models have.
    """

    kernel: NDArray[Any]
    embed_dim: int
    patch_size: tuple[int, ...]
    in_channels: int
    orders: list[str]
    parts: dict[str, NDArray[Any]] = field(default_factory=dict)
    position_ids: NDArray[Any] | None = None
    owner: Any = None
    given: bool = False
    canonical: PatchEmbedWeights | None = None
    told: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unplaced: dict[str, NDArray[Any]] = field(default_factory=dict)
    refusal: str = ""
    several: bool = False

    def copied(self) -> "FoundWeights":
        """The same with arrays of its own: an object may change the ones that it has."""
        parts = {name: np.array(array) for name, array in self.parts.items()}
        return dataclasses.replace(self, kernel=np.array(self.kernel), parts=parts)

    def with_positions_unplaced(self, refusal: str) -> "FoundWeights":
        """The same, with positions that only the object's output can show the rows of."""
        parts = dict(self.parts)
        unplaced = {**self.unplaced, "positions": parts.pop("positions")}
        return dataclasses.replace(self, parts=parts, unplaced=unplaced, refusal=refusal)

    def to_canonical(self, spec: PatchEmbedSpec, order: str) -> PatchEmbedWeights:
        """The weights in our own layout, the kernel read in this order.

        Raises:
            PatchParityError: parts that do not fit the sizes.
        """
        if self.canonical is not None:
            self.canonical.check_spec(spec)
            return self.canonical
        width = spec.embed_dim
        arrays: dict[str, Any] = {
            "kernel": np.ascontiguousarray(
                kernel_from_layout(self.kernel, KERNEL_LAYOUTS[order], spec)
            ),
            "bias": self.parts.get("bias"),
        }
        for token in ("class_token", "distillation_token"):
            if (value := self.parts.get(token)) is not None:
                if value.size != width:
                    raise PatchParityError(
                        f"{token} of shape {value.shape}: expected {width} values, one token"
                    )
                arrays[token] = value.reshape(width)
        registers, detection = map(self.parts.get, ("register_tokens", "detection_tokens"))
        if registers is not None and detection is not None:
            raise PatchParityError(
                f"registers {registers.shape} and detection tokens {detection.shape}: the order of "
                "both among the others is not known"
            )
        if registers is not None:
            arrays["register_tokens"] = registers.reshape(-1, width)
        elif detection is not None:
            arrays["register_tokens"] = detection.reshape(-1, width)
            arrays["layout"] = SequenceLayout(suffix=("register_tokens",))
        weights = PatchEmbedWeights(**arrays)
        return weights if "positions" not in self.parts else self._with_positions(weights, spec)

    def _with_positions(
        self, weights: PatchEmbedWeights, spec: PatchEmbedSpec
    ) -> PatchEmbedWeights:
        held, ids = self.parts["positions"], self.position_ids
        if held.ndim == 4 and held.shape[1] == spec.embed_dim != held.shape[-1]:
            held = np.moveaxis(held, 1, -1)  # a map of the grid, its width in front
        rows = held.reshape(-1, spec.embed_dim)
        if ids is not None and ids.size and 0 <= ids.min() <= ids.max() < len(rows):
            rows = rows[ids]  # those that it takes, which need not be all in their order
        extra = len(rows) - spec.num_patches
        single = [
            name
            for name in ("class_token", "distillation_token")
            if getattr(weights, name) is not None
        ]
        registers = 0 if weights.register_tokens is None else len(weights.register_tokens)
        choices: dict[int, tuple[Any, ...]] = {
            0: (),
            len(single): tuple(single),
            len(single) + registers: (*single, "register_tokens"),
        }
        if extra not in choices:
            kind_of_error = LongPositionsError if extra > max(choices) else PatchParityError
            raise kind_of_error(
                f"positions of shape {rows.shape} fit no grid of {spec.num_patches} patches with "
                f"{len(single) + registers} prefix tokens: give the image size (--image-size)"
            )
        layout = dataclasses.replace(weights.layout, positioned=choices[extra])
        return dataclasses.replace(weights, positions=rows, layout=layout)


def read_weights(
    subject: Any,
    kind: str,
    name: str,
    *,
    kernel_layout: str | None,
    patch_size: int | tuple[int, ...] | None,
    in_channels: int | None,
) -> FoundWeights:
    """Sort an object's parameters into kernel, bias, prefix tokens and positions.

    Args:
        subject: the object.
        kind: its framework.
        name: as errors call it.
        kernel_layout, patch_size, in_channels: as a user told them, or None.

    Raises:
        PatchParityError: no kernel, several, or parameters that no patch embedding has.
    """
    parts, rest, position_ids, notes = _by_role(subject, kind)
    kernel_name = _kernel_of(rest)
    if kernel_name is None:
        raise _without_kernel(subject, name, rest)
    kernel, owner = rest.pop(kernel_name)
    parent = re.split(r"[./][^./]*$", kernel_name)[0] if re.search(r"[./]", kernel_name) else ""
    biases = [
        other
        for other in rest
        if other.endswith("bias") and re.sub(r"[./]?[^./]*$", "", other) == parent
    ]
    if biases:
        parts["bias"] = rest.pop(biases[0])[0]
    refusal = (
        f"{name} holds {_listed(rest)} beside its kernel, whose part in it no name tells: name the "
        f"projection alone{f' (module, --module {parent})' if parent else ''}, or give the weights"
    )
    sizes = _kernel_sizes(
        kernel,
        kind,
        name,
        kernel_layout,
        patch_size,
        in_channels,
        None if _is_of_a_product(kernel, owner) else {value.size for value, _ in rest.values()},
    )
    unplaced = {parameter: value for parameter, (value, _) in rest.items()}
    if any(not _may_be_added(value, sizes[0]) for value in unplaced.values()):
        raise PatchParityError(refusal)
    return FoundWeights(
        kernel,
        *sizes,
        parts,
        position_ids,
        owner,
        notes=notes,
        unplaced=unplaced,
        refusal=refusal if unplaced else "",
        several=sum(value.ndim >= 2 for value in unplaced.values()) > 1,
    )


Unsorted = dict[str, tuple[NDArray[Any], Any]]
"""Parameters whose names tell no role, each with the layer that it is of."""


def _by_role(
    subject: Any, kind: str
) -> tuple[dict[str, NDArray[Any]], Unsorted, NDArray[Any] | None, list[str]]:
    """The parameters whose names tell their role, the others, ids of positions, and notes on what
    was not read."""
    parts: dict[str, NDArray[Any]] = {}
    named: dict[str, str] = {}
    notes: list[str] = []
    position_ids = None
    rest: Unsorted = {}
    has_buffers = hasattr(subject, "named_buffers")
    buffers = {buffer for buffer, _ in subject.named_buffers()} if has_buffers else set()
    for parameter, value, owner in read_all(subject, kind):
        role = next(
            (role for role, pattern in ROLES.items() if re.search(pattern, parameter)), None
        )
        if value.dtype.kind in "iub":  # indices of positions, counters: no weight is an integer
            if parameter.endswith("position_ids"):
                position_ids = value.reshape(-1)
            else:
                notes.append(f"{parameter} {value.shape} holds integers, and was not read")
        elif role is not None and role not in named:
            named[role] = parameter
            parts[role] = value
        elif parameter in buffers:
            notes.append(f"buffer {parameter} {value.shape} was not read")
        else:
            rest[parameter] = (value, owner)
            if role == "positions" and role in parts:  # one of several tables, as this one
                rest[named[role]] = (parts.pop(role), None)
    return parts, rest, position_ids, notes


def _without_kernel(subject: Any, name: str, rest: Unsorted) -> PatchParityError:
    """What is told of an object in which no one parameter is a kernel."""
    several = any(value.ndim >= 2 for value, _ in rest.values())
    kind_of_error = SeveralKernelsError if several else PatchParityError
    if not rest and callable(subject) and not hasattr(subject, "named_buffers"):
        return kind_of_error(
            f"{name} holds no weights: give them (weights, --weights), and say whose arrays it "
            "takes (framework, --framework) unless these are NumPy's"
        )
    return kind_of_error(
        f"{name} holds {_listed(rest)}: expected one kernel; name the layer or the embeddings "
        "that hold it (module, --module), or give the weights"
    )


EMBEDDING = re.compile(r"embedding[^./]*[./]embeddings$")
"""How Keras calls the table of an embedding layer, which is no matrix of a product."""


def _kernel_of(parameters: Mapping[str, tuple[NDArray[Any], Any]]) -> str | None:
    """The name of the one parameter that can be a kernel: the only one of four axes and more beside
    tables of its width, or the only one of two; None where there is none, or several."""
    matrices = {name: value for name, (value, _) in parameters.items() if value.ndim >= 2}
    if len(matrices) == 1:
        return next(iter(matrices))
    layers = [name for name, value in matrices.items() if value.ndim >= 4 and value.shape[0] != 1]
    if not layers:
        plain = [name for name in matrices if not EMBEDDING.search(name)]
        if len(plain) == 1 and len(matrices) == 2:
            return plain[0]
        layers = [name for name in matrices if _is_of_a_product(*parameters[name])]
    if len(layers) != 1:
        return None
    ends = (matrices[layers[0]].shape[0], matrices[layers[0]].shape[-1])
    tables = [value for name, value in matrices.items() if name != layers[0]]
    if len(tables) == 1:
        fit = tables[0].shape[-1] in ends or tables[0].shape[:1] == (1,)
    else:  # of rows and of columns, and of half the width
        parts = {size // share for size in ends for share in (1, 2)}
        fit = all(value.ndim <= 3 and value.shape[-1] in parts for value in tables)
    return layers[0] if fit and len(tables) <= MOST_TABLES else None


PRODUCTS = ("Linear", "Dense", "EinsumDense", "LinearGeneral", "DenseGeneral")
"""Layers that are a matrix product and nothing more."""


def _is_of_a_product(value: NDArray[Any], owner: Any) -> bool:
    return value.ndim == 2 and any(base.__name__ in PRODUCTS for base in type(owner).__mro__)


MOST_TABLES = 3
"""Tables beside a kernel: of frames, rows and columns. A whole model has more."""


def _may_be_added(value: NDArray[Any], width: int) -> bool:
    """Whether a parameter may be what is added to tokens: a vector of the width, a table, one of
    half the width, or a map of the grid."""
    half = value.ndim > 1 and 2 * value.shape[-1] == width
    return value.size > 1 and (
        value.shape[-1] == width or half or (value.ndim == 4 and value.shape[:2] == (1, width))
    )


def _kernel_sizes(
    kernel: NDArray[Any],
    kind: str,
    name: str,
    kernel_layout: str | None,
    patch_size: int | tuple[int, ...] | None,
    in_channels: int | None,
    beside: set[int] | None,
) -> tuple[int, tuple[int, ...], int, list[str]]:
    """Width, patch and channels, and the orders that come into question; `beside` are the sizes of
    the parameters beside a matrix that is no layer's, which may lie either way round."""
    if kernel.ndim == 2:
        orders = ["linear-chw", "linear-hwc"] if kind == "torch" else ["dense-hwc", "dense-chw"]
        if kernel_layout is not None:
            orders = [kernel_layout]
        elif patch_size is not None and _is_turned(kernel, kind, patch_size, beside or set()):
            turned = {"linear": "dense", "dense": "linear"}
            orders = [f"{turned[name]}-{order}" for name, order in (e.split("-") for e in orders)]
        elif kernel.shape[0] == kernel.shape[1] and beside is not None:
            orders += (
                ["dense-chw", "dense-hwc"] if kind == "torch" else ["linear-chw", "linear-hwc"]
            )
        if patch_size is None:
            raise PatchParityError(
                f"{name} holds a matrix {kernel.shape}, which does not show the patch size: give "
                "it (patch_size, --patch-size)"
            )
        return *_matrix_sizes(kernel, orders[0], patch_size, in_channels, name), orders
    order = kernel_layout or ("oihw" if kind == "torch" else "hwio")
    embed_dim, patch = kernel_sizes(kernel, _pattern(order, kernel.ndim), patch_size)
    return embed_dim, tuple(patch), kernel.size // (embed_dim * math.prod(patch)), [order]


def _is_turned(
    kernel: NDArray[Any], kind: str, patch_size: int | tuple[int, ...], beside: set[int]
) -> bool:
    """Whether a matrix lies the other way round than its framework's layers keep it: the values of
    a patch are then on the other axis alone, or a bias is as long as that of the first."""
    sides = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    values, others = kernel.shape[::-1] if kind == "torch" else kernel.shape
    if others % math.prod(sides):
        return False
    return bool(values % math.prod(sides)) or (values in beside and others not in beside)


def _listed(parameters: Mapping[str, tuple[NDArray[Any], Any]]) -> str:
    """The first parameters and their shapes, and how many there are."""
    words = [f"{parameter} {value.shape}" for parameter, (value, _) in parameters.items()]
    return (
        ", ".join([*words[:5], *([f"... ({len(words)} in all)"] if len(words) > 5 else [])])
        or "nothing"
    )


def _pattern(order: str, axes: int) -> str:
    if axes not in (2, 4, 5):
        raise PatchParityError(
            f"a kernel of {axes} axes cannot be read out of an object: expected 2 (a matrix), 4, "
            "or 5 (tubelets)"
        )
    return with_time_axis(KERNEL_LAYOUTS[order], axes - 2)


def _matrix_sizes(
    kernel: NDArray[Any],
    order: str,
    patch_size: int | tuple[int, ...],
    in_channels: int | None,
    name: str,
) -> tuple[int, tuple[int, ...], int]:
    rows_first = KERNEL_LAYOUTS[order].startswith("D")
    embed_dim, values = kernel.shape if rows_first else kernel.shape[::-1]
    patch = (patch_size, patch_size) if isinstance(patch_size, int) else tuple(patch_size)
    channels, left = divmod(values, math.prod(patch))
    if left or not channels or in_channels not in (None, channels):
        wanted = "" if in_channels is None else f" and {in_channels} channels"
        raise PatchParityError(
            f"{name} holds a matrix {kernel.shape}: {values} values are no patch of {patch}{wanted}"
        )
    return embed_dim, patch, channels


def given_weights(
    weights: Any,
    name: str,
    *,
    kernel_layout: str | None,
    patch_size: int | tuple[int, ...] | None,
) -> FoundWeights:
    """Weights that a user gave beside an object: canonical ones, a file, or a mapping.

    Raises:
        PatchParityError: a file that cannot be read, a mapping without a kernel, another type.
    """
    sizes: dict[str, Any] = {}
    if isinstance(weights, (str, os.PathLike)):
        if saved_weights := read_own_weights(weights):
            weights, spec = saved_weights
            names = ("stride", "padding", "image_size", "remainder")
            sizes = {size_name: getattr(spec, size_name) for size_name in names}
        else:
            weights = read_arrays(weights)
    if isinstance(weights, PatchEmbedWeights):
        embed_dim, *patch, channels = weights.kernel.shape
        kernel = weights.kernel
        return FoundWeights(
            kernel,
            embed_dim,
            tuple(patch),
            channels,
            [""],
            given=True,
            canonical=weights,
            told=sizes,
        )
    if not isinstance(weights, Mapping):
        raise PatchParityError(
            f"the weights given for {name} are a {type(weights).__name__}: expected a file, a "
            "mapping or PatchEmbedWeights"
        )
    arrays = {
        key: np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        for key, value in weights.items()
        if value is not None
    }
    if strange := [key for key in arrays if key not in ("kernel", "bias")]:
        raise PatchParityError(
            f"the weights given for {name} hold {', '.join(strange)}: expected 'kernel' and maybe "
            "'bias' (PatchEmbedWeights has tokens and positions too)"
        )
    if "kernel" not in arrays:
        raise PatchParityError(
            f"the weights given for {name} hold {', '.join(sorted(arrays)) or 'nothing'}: expected "
            "'kernel'"
        )
    order, kernel = kernel_layout or "oihw", arrays["kernel"]
    if not kernel.size:
        raise PatchParityError(f"the kernel given for {name} has shape {kernel.shape}: no values")
    embed_dim, sides = kernel_sizes(kernel, KERNEL_LAYOUTS[order], patch_size)
    patch_sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    channels = kernel.size // (embed_dim * math.prod(patch_sides))
    bias = {"bias": arrays["bias"]} if "bias" in arrays else {}
    return FoundWeights(kernel, embed_dim, patch_sides, channels, [order], bias, given=True)
