"""The embedding stage at the end of an image's way: kernel, bias, tokens of the prefix, positions
and norms, each with where it comes from."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .folding import Known
from .norms import Norm
from .projection import wide_type
from .values import Followed, Layer, Places, channels_of, same_rows
from .walk import Way


class NoStage(Exception):  # noqa: N818  it is told, of one input among others
    """Why the way of an image is not that through an embedding stage, as the end of a sentence."""


@dataclass(eq=False)
class Parts:
    """An embedding stage.

    Args:
        tensors: by role: `kernel` `(D, *patch, C)`, `bias`, `class_token`, `distillation_token`,
            `register_tokens` `(R, D)`, `positions` `(rows, D)`, `token_norm.scale`, ...
        told: where each comes from.
        config: sizes, under the keys of a config.json of transformers.
    """

    tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def positioned(self) -> bool:
        """Whether it has positions."""
        return "positions" in self.tensors

    def add(self, role: str, array: NDArray[Any], told: str) -> None:
        """Take a tensor in."""
        self.tensors[role], self.told[role] = np.ascontiguousarray(array), told


def parts_of(way: Way) -> Parts:
    """The stage at the end of a way.

    Raises:
        NoStage: none, or one that is not of the kinds that are read.
    """
    _require_end(way)
    assert way.kernel is not None
    assert way.patches is not None
    parts = Parts()
    rows = _rows(way)
    there = rows.base.places[:, 0] >= 0
    first, count = int(there.argmax()), way.patches.count
    _require_raster(rows, there, way)
    kernel = way.kernel
    before = way.before_norm
    scaled = rows if before is None else _first_image(before, way)
    factor = _factor(scaled, scaled.base.places[:, 0] >= 0)
    if before is not None and _factor(rows, there) is not None:
        raise NoStage("scales its tokens behind their norm, which is not read")
    if factor is not None:
        wide = kernel.astype(np.float64) * factor.reshape(-1, *(1,) * (kernel.ndim - 1))
        kernel = wide.astype(wide_type(kernel.dtype))
    parts.add("kernel", kernel, _kernel_told(way))
    if before is not None:
        _add_bias(parts, scaled.layers[1:], slice(0, count))
    terms = _Terms(rows.layers[1:], slice(first, first + count), before is not None)
    _add_bias(parts, terms.uniform, terms.patches)
    _add_prefix(parts, terms, len(there))
    _add_norms(parts, way)
    _add_config(parts, way)
    return parts


def _require_end(way: Way) -> None:
    """Raise NoStage where there is no projection, or no first block behind it."""
    if way.kernel is None:
        where = f"meets {way.stopped}" if way.stopped else "ends"
        raise NoStage(f"{where} before any projection of patches")
    if way.end.kind == "pixels":
        raise NoStage(f"goes several ways: {' and '.join(way.ways[:6])}")
    if way.end.quantized == "product":
        raise NoStage(f"ends in whole numbers, at {way.stopped or 'the end'}")
    if way.mismatch:
        size = "×".join(map(str, way.patches.image)) if way.patches else ""
        raise NoStage(f"is of {size} pixels, and at {way.stopped}: made for images of another size")
    if not way.block:
        alone = f"{way.stopped} alone" if len(way.takers) == 1 else " and ".join(way.takers[:6])
        raise NoStage(
            f"goes through the projection {way.kernel_told}, and from there through {alone}, where "
            "no block with a residual sum begins: a stem of several layers, or operators that are "
            "not read"
        )


def _first_image(value: Followed, way: Way) -> Followed:
    """The tokens of the first image of a batch, `(rows, D)`."""
    width = way.width
    axis = channels_of(value, width)
    if axis is None or way.patches is None:
        raise NoStage(f"ends as values of shape {value.shape}, none of whose axes is that of D")
    places = np.moveaxis(value.base.places, axis, -1)
    batch = way.shape[0] if len(way.shape) > 3 else 1
    images = np.where(places >= 0, places // (width * way.patches.count), -1)[..., 0]
    pick: Callable[[Places], Places] = lambda held: np.moveaxis(held, axis, -1).reshape(-1, width)  # noqa: E731
    if batch > 1:
        along = _batch_axis(images, batch)

        def pick(held: Places) -> Places:
            return np.take(np.moveaxis(held, axis, -1), 0, along).reshape(-1, width)

    return value.moved(pick)


def _batch_axis(images: NDArray[Any], batch: int) -> int:
    for axis in range(images.ndim):
        shape = [1] * images.ndim
        shape[axis] = -1
        if images.shape[axis] == batch:
            wanted = np.arange(batch).reshape(shape)
            if np.array_equal(np.where(images >= 0, wanted, -1), images):
                return axis
    raise NoStage("ends in values that mix several images")


def _rows(way: Way) -> Followed:
    """What enters the first block, of one image, `(rows, D)`."""
    rows = _first_image(way.end, way)
    places, width = rows.base.places, way.width
    there = places >= 0
    sound = np.where(there, places - places[:, :1] == np.arange(width), True)
    whole = there.all(axis=1) | ~there.any(axis=1)
    if not (sound.all() and whole.all()):
        raise NoStage("ends in tokens whose channels are in another order, or are cut")
    return rows


def _require_raster(rows: Followed, there: NDArray[np.bool_], way: Way) -> None:
    """Raise NoStage unless every patch stands there once, in raster order, all behind one
    another."""
    assert way.patches is not None
    count = way.patches.count
    numbers = rows.base.places[there, 0] // way.width
    if len(numbers) != count or len(np.unique(numbers)) != count:
        raise NoStage(f"ends with {len(numbers)} tokens of {count} patches")
    if not np.array_equal(numbers, np.arange(count)):
        raise NoStage(
            "ends with its patches in another order than row by row, which is not read of graphs"
        )
    first = int(there.argmax())
    if not there[first : first + count].all():
        raise NoStage("ends with other tokens between its patches")


def _factor(rows: Followed, there: NDArray[np.bool_]) -> NDArray[np.float64] | None:
    """What every token is multiplied by, `(D,)`; None for nothing."""
    factor: NDArray[np.float64] | None = None
    for layer in rows.base.factors:
        assert layer.known is not None
        places = layer.places[there]
        if not (places == places[0]).all():
            raise NoStage("multiplies its tokens by numbers that differ from patch to patch")
        row = layer.known.array.ravel()[places[0]].astype(np.float64)
        factor = row if factor is None else factor * row
    return factor


class _Terms:
    """What is added to the rows of a sequence.

    Args:
        layers: all of it.
        patches: the rows of patches.
        normed: whether patches were normalized before, so that what is added to all of them alike
            is no bias.
    """

    def __init__(self, layers: Sequence[Layer], patches: slice, normed: bool) -> None:
        self.layers, self.patches = tuple(layers), patches
        self.uniform: list[Layer] = []
        self.varying: list[Layer] = []
        self.beside: list[Layer] = []
        for layer in layers:
            taken = layer.moved(lambda places: places[patches])
            if not (taken.places >= 0).any():
                self.beside.append(layer)
            elif not normed and self._is_uniform(taken):
                self.uniform.append(layer)
            else:
                self.varying.append(layer)
        names = {name for layer in self.varying for one in layer.constants for name in one.sources}
        self.of_table = [
            layer
            for layer in self.beside
            if any(name in names for one in layer.constants for name in one.sources)
        ]

    @staticmethod
    def _is_uniform(taken: Layer) -> bool:
        assert taken.known is not None
        if len(taken.places) == 1:
            return taken.known.array.size == taken.places.shape[1]
        return all(same_rows(layer, 1) for layer in (taken, *taken.factors))

    def of(self, row: int, positions: bool) -> list[Layer]:
        """The terms of a row of the prefix: those of positions, or all others."""
        there = [layer for layer in self.layers if (layer.places[row] >= 0).any()]
        table = [*self.varying, *self.of_table]
        return [layer for layer in there if any(layer is one for one in table) == positions]


def _summed(layers: Sequence[Layer], rows: slice) -> NDArray[Any]:
    """The sum of terms at some rows, in their own type where there is one alone."""
    taken = [layer.moved(lambda places: places[rows]) for layer in layers]
    if len(taken) == 1 and not taken[0].factors:
        return taken[0].values()
    values = [layer.values() for layer in taken]
    kinds = [known.array.dtype for layer in taken for known in layer.constants]
    dtype = max((wide_type(kind) for kind in kinds), key=lambda kind: kind.itemsize)
    return np.sum([value.astype(np.float64) for value in values], axis=0).astype(dtype)


def _origin(layers: Sequence[Layer]) -> str:
    """Where terms come from, in words."""
    told = dict.fromkeys(known.told for layer in layers for known in layer.constants)
    return f"{'the sum ' if len(layers) > 1 else ''}{' and '.join(told)}"


def _add_bias(parts: Parts, layers: Sequence[Layer], patches: slice) -> None:
    if layers:
        rows = slice(patches.start, patches.start + 1)
        parts.add("bias", _summed(layers, rows)[0], _origin(layers))


REGISTERS = re.compile(r"regist|reg_tok|storage|prompt", re.IGNORECASE)
DISTILLATION = re.compile(r"dist", re.IGNORECASE)
"""What names of constants call register tokens and distillation tokens."""


def _names(layers: Sequence[Layer]) -> str:
    return " ".join(name for layer in layers for one in layer.constants for name in one.sources)


def _roles(terms: _Terms, rows: Sequence[int]) -> list[str]:
    """What each row of a prefix is taken for: the first for the class token, a second for the
    distillation token where its name says so, all others for registers."""
    roles = []
    for number, row in enumerate(rows):
        name = _names(terms.of(row, False))
        if REGISTERS.search(name) and not re.search(r"cls|class", name, re.IGNORECASE):
            roles.append("register_tokens")
        elif number == 0:
            roles.append("class_token")
        elif number == 1 and roles[0] == "class_token" and DISTILLATION.search(name):
            roles.append("distillation_token")
        else:
            roles.append("register_tokens")
    return roles


def _add_prefix(parts: Parts, terms: _Terms, count: int) -> None:
    """Positions, and the tokens beside the patches."""
    start, stop = terms.patches.start, terms.patches.stop
    ahead, behind = list(range(start)), list(range(stop, count))
    roles = _roles(terms, ahead) if ahead else _roles(terms, behind)
    rows = ahead or behind
    if ahead and behind:
        if len(ahead) > 1:
            raise NoStage(f"has {len(ahead)} tokens before its patches and {len(behind)} behind")
        roles = ["class_token"] + ["register_tokens"] * len(behind)
        rows = [*ahead, *behind]
    _require_filled(terms, rows)
    own = {
        role: [row for row, each in zip(rows, roles, strict=True) if each == role] for role in roles
    }
    placed = _placed(terms, own)
    for role, held in own.items():
        split = role in placed
        tokens, origins = [], []
        for row in held:
            layers = terms.of(row, False)
            layers = layers if split else [*layers, *terms.of(row, True)]
            tokens.append(_summed(layers, slice(row, row + 1))[0])
            origins.append(_origin(layers))
        table = np.stack(tokens)
        side = "_behind" if behind and held[0] >= stop else ""
        said = f"{'; '.join(dict.fromkeys(origins))}: constant rows {_which(held, start, stop)}"
        parts.add(role + side, table if role == "register_tokens" else table[0], said)
    if not terms.varying:
        return
    first = [row for row in rows if row < start and roles[rows.index(row)] in placed]
    last = [row for row in rows if row >= stop and roles[rows.index(row)] in placed]
    tables = [
        *(_summed(terms.of(row, True), slice(row, row + 1)) for row in first),
        _summed(terms.varying, terms.patches),
        *(_summed(terms.of(row, True), slice(row, row + 1)) for row in last),
    ]
    parts.add("positions", np.concatenate(tables), _origin([*terms.varying, *terms.of_table]))


def _which(rows: Sequence[int], start: int, stop: int) -> str:
    where = "before" if rows[0] < start else "behind"
    return f"{where} the patches"


def _require_filled(terms: _Terms, rows: Sequence[int]) -> None:
    for row in rows:
        if not terms.of(row, False) and not terms.of(row, True):
            raise NoStage("has a token of nothing beside its patches")


def _placed(terms: _Terms, own: dict[str, list[int]]) -> tuple[str, ...]:
    """The roles of tokens that have rows of their own in the table of positions, and something
    beside them; of alternatives that dialects know."""
    if not terms.varying:
        return ()
    full = [
        role
        for role, rows in own.items()
        if all(terms.of(row, True) and terms.of(row, False) for row in rows)
    ]
    order = ("class_token", "distillation_token", "register_tokens")
    known = [role for role in order if role in own]
    for size in range(len(known), 0, -1):
        if set(full) == set(known[:size]):
            return tuple(known[:size])
    return ()


def _kernel_told(way: Way) -> str:
    told = [way.kernel_told, *way.notes]
    takers = " and ".join(dict.fromkeys(way.takers))
    if takers:
        told.append(f"the first block begins behind {way.last!r}, which {takers} take")
    told.append(
        "a graph holds what it computes with: a norm or a scale of the model may be folded into it"
    )
    return "; ".join(told)


def _add_norms(parts: Parts, way: Way) -> None:
    norms: dict[str, Norm | None] = {
        "patch_norm": way.patch_norm[0] if way.patch_norm else None,
        "token_norm": way.token_norm,
        "sequence_norm": way.sequence_norm,
    }
    given = {name: norm for name, norm in norms.items() if norm is not None}
    if any(not norm.centered for norm in given.values()):
        raise NoStage("goes through a norm that does not take the mean out, which is not read")
    if len({norm.epsilon for norm in given.values()}) > 1:
        raise NoStage("goes through norms of several ε, which is not read")
    assert way.patches is not None
    for name, norm in given.items():
        width = way.patches.columns.size if name == "patch_norm" else way.width
        plain = Known(np.ones(width, np.float32))
        for part, known in (("scale", norm.scale or plain), ("shift", norm.shift)):
            if known is None:
                continue
            array = np.broadcast_to(known.array.ravel(), (width,))
            if name == "patch_norm":
                ordered = np.empty_like(array)
                ordered[way.patches.columns] = array
                array = ordered
            parts.add(f"{name}.{part}", array, f"{known.told}, of a norm with ε {norm.epsilon:g}")
        parts.config["layer_norm_eps"] = norm.epsilon


def _add_config(parts: Parts, way: Way) -> None:
    patches = way.patches
    assert patches is not None
    key = "patch_size" if len(patches.patch) == 2 else "tubelet_size"
    parts.config |= {
        key: list(patches.patch),
        "num_channels": patches.channels,
        "graph_stride": list(patches.stride),
        "graph_padding": list(patches.padding),
    }
    if patches.channel_axis != (1 if len(way.shape) > 3 else 0):
        parts.told["kernel"] += (
            f"; it takes images of shape {'×'.join(map(str, way.shape))}, channels at axis "
            f"{patches.channel_axis}: here they are (B, C, H, W)"
        )


def grid_of(patches: int) -> tuple[int, int] | None:
    """The square grid of so many patches."""
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None
