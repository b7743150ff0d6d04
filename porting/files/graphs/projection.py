"""Projections of patches: convolutions and matrices whose rows are patches of the image."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .folding import Known, merged
from .graph import Node
from .moves import NotRun, attribute, require_room
from .patches import find_patches, pairs_of, same_pads, windows
from .values import Followed, Layer, Places
from .walk import Walk


def _project(
    walk: Walk,
    value: Followed,
    extract: Callable[[Places], Places],
    matrix: NDArray[Any],
    told: str,
    channels: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Take note of a projection of patches, and give the number of the token of each row.

    Args:
        walk: on which it is met.
        value: the pixels.
        extract: makes rows of patches, `(rows, K)`, of places.
        matrix: `(K, D)`.
        told: where it comes from.
        channels: the channel of each column, where the operator tells it.
    """
    way = walk.way
    if value.kind != "pixels":
        raise NotRun("behind the projection")
    if way.kernel is not None:
        raise NotRun(f"{told}, beside {way.kernel_told}, takes the image")
    rows = extract(value.base.places)
    if matrix.ndim != 2 or rows.shape[1] != matrix.shape[0]:
        raise NotRun(f"a matrix of shape {matrix.shape} and patches of {rows.shape[1]} values")
    patches = find_patches(rows, way.shape, channels)
    whole = int((rows >= 0).all(axis=1).argmax())
    factor = _factor(value, extract, rows, whole)
    shift: NDArray[np.float64] | None = None
    for term in value.layers[1:]:
        shift = _shift(term, extract, whole, shift)
    scaled = factor is not None or shift is not None
    if way.patch_norm is not None:
        normed = way.patch_norm[1].base.places
        same = normed.shape[-1] == rows.shape[1] and normed.size == rows.size
        if scaled or not same or not np.array_equal(normed.reshape(rows.shape), rows):
            raise NotRun("what is normalized are not the patches, or they are scaled once more")
    kernel = _folded(walk, value, matrix, factor, shift) if scaled else matrix
    ordered = np.empty_like(kernel)
    ordered[patches.columns] = kernel
    way.kernel = np.ascontiguousarray(
        np.moveaxis(ordered.reshape(*patches.patch, patches.channels, -1), -1, 0)
    )
    way.kernel_told, way.patches = told, patches
    return patches.rows


def _factor(
    value: Followed, extract: Callable[[Places], Places], rows: Places, whole: int
) -> NDArray[np.float64] | None:
    """What each pixel of a patch is multiplied by, `(K,)`; None for nothing.

    Raises:
        NotRun: what is not the same for all patches.
    """
    factor: NDArray[np.float64] | None = None
    for layer in value.base.factors:
        taken = extract(layer.places)
        if not np.array_equal(np.where(rows >= 0, taken, taken[whole]), _all_rows(taken, whole)):
            raise NotRun("pixels are scaled by more than their channels")
        assert layer.known is not None
        row = layer.known.array.ravel()[taken[whole]].astype(np.float64)
        factor = row if factor is None else factor * row
    return factor


def _folded(
    walk: Walk,
    value: Followed,
    matrix: NDArray[Any],
    factor: NDArray[np.float64] | None,
    shift: NDArray[np.float64] | None,
) -> NDArray[Any]:
    """The matrix of images that are not normalized, and what is then added to tokens: W·(f·x + s)
    is (W·f)·x + W·s."""
    whole, dtype = matrix.astype(np.float64), wide_type(matrix.dtype)
    constants = [known for layer in value.layers for known in layer.constants]
    walk.note(_pixels_told(constants))
    if shift is not None:
        walk.way.added = merged(constants, (shift @ whole).astype(dtype), ran=True)
    return (whole if factor is None else whole * factor[:, None]).astype(dtype)


def _all_rows(taken: Places, whole: int) -> Places:
    return np.broadcast_to(taken[whole], taken.shape)


def _shift(
    term: Layer,
    extract: Callable[[Places], Places],
    whole: int,
    before: NDArray[Any] | None,
) -> NDArray[Any] | None:
    """What is added to each pixel of a patch, `(K,)`.

    Raises:
        NotRun: what is not the same for all patches, at the edges of a padded image say.
    """
    assert term.known is not None
    for layer in (term, *term.factors):
        taken = extract(layer.places)
        if not np.array_equal(taken, _all_rows(taken, whole)):
            if not np.any(term.known.array):
                return before
            raise NotRun(
                "images are normalized and then padded with zeros: at their edges a kernel and a "
                "bias cannot hold that"
            )
    rows = extract(term.places)[whole : whole + 1]
    factors = tuple(Layer(extract(f.places)[whole : whole + 1], f.known) for f in term.factors)
    values = Layer(rows, term.known, factors).values()[0].astype(np.float64)
    return values if before is None else before + values


def _pixels_told(constants: Sequence[Known]) -> str:
    numbers = list(
        dict.fromkeys(
            " ".join(f"{value:g}" for value in known.array.ravel()[:4].astype(np.float64).tolist())
            for known in constants
        )
    )
    return (
        f"its graph normalizes images itself (by {', '.join(numbers[:6])}); here kernel and bias "
        "hold that"
    )


def wide_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of what is computed of weights: 16 bits would round once more."""
    return np.dtype(np.float32) if dtype.itemsize <= 4 else np.dtype(np.float64)


def _tokens(rows: NDArray[np.int64], shape: tuple[int, ...], width: int) -> Followed:
    """Tokens of a projection, `(*shape, D)`."""
    require_room(rows.size * width)
    places = (rows[:, None] * width + np.arange(width)).astype(np.int32)
    return Followed("tokens", (Layer(places.reshape(*shape, width)),))


def convolved(
    walk: Walk, node: Node, value: Followed, kernel: Known, bias: Known | None
) -> dict[str, Followed]:
    """A convolution of the image."""
    axes = len(value.shape) - 2
    array = kernel.array
    if value.kind != "pixels":
        raise NotRun("behind the projection")
    if array.ndim != axes + 2 or axes not in (2, 3):
        raise NotRun(f"a kernel of shape {array.shape} over values of shape {value.shape}")
    if attribute(node, "group", 1) != 1:
        raise NotRun(f"a convolution in {node.attributes['group']} groups")
    if array.shape[1] != value.shape[1]:
        raise NotRun(f"a kernel of shape {array.shape} over values of shape {value.shape}")
    stride = tuple(map(int, node.attributes.get("strides") or (1,) * axes))
    dilation = tuple(map(int, node.attributes.get("dilations") or (1,) * axes))
    if len(stride) != axes or len(dilation) != axes or min(*stride, *dilation) < 1:
        raise NotRun(f"strides {stride}, dilations {dilation}")
    auto = attribute(node, "auto_pad", "NOTSET")
    pads = pairs_of(list(map(int, node.attributes.get("pads") or (0,) * (2 * axes))), axes)
    if auto.startswith("SAME"):
        pads = same_pads(value.shape[2:], array.shape[2:], stride, auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = ((0, 0),) * axes
    require_room(
        math.prod(size + sum(pair) for size, pair in zip(value.shape[2:], pads, strict=True))
    )

    def extract(places: Places) -> Places:
        return windows(places, array.shape[2:], stride, pads, dilation)[0]

    _, grid = windows(
        np.broadcast_to(np.int32(0), (1, 1, *value.shape[2:])),
        array.shape[2:],
        stride,
        pads,
        dilation,
    )
    if (chosen := _selection(array)) is not None:
        picked = value.moved(lambda places: extract(places)[:, chosen])
        shape = (value.shape[0], *grid, len(array))
        moved = picked.moved(lambda places: np.moveaxis(places.reshape(shape), -1, 1))
        return {node.outputs[0]: moved if bias is None else moved.plus(_along(bias, axes))}
    channels = np.repeat(np.arange(array.shape[1]), math.prod(array.shape[2:]))
    matrix = array.reshape(len(array), -1).T
    rows = _project(walk, value, extract, matrix, kernel.told, channels)
    tokens = _tokens(rows, (value.shape[0], *grid), len(array))
    tokens = tokens.moved(lambda places: np.moveaxis(places, -1, 1))
    return {node.outputs[0]: _biased(walk, tokens, bias, axes)}


def _selection(array: NDArray[Any]) -> NDArray[np.int64] | None:
    """Which value of a patch each channel of a convolution is, where it takes one as it is, as
    those do by which TensorFlow's patches are cut; None where it is another convolution."""
    rows = array.reshape(len(array), -1)
    if rows.shape[1] != len(rows) and rows.shape[1] > LARGEST_SELECTION:
        return None
    there = rows != 0
    if not ((there.sum(axis=1) == 1).all() and (rows[there] == 1).all()):
        return None
    return there.argmax(axis=1)


LARGEST_SELECTION = 2**14
"""Values of a patch that one channel may be chosen of."""


def _along(bias: Known, axes: int) -> Known:
    return merged([bias], bias.array.reshape(-1, *(1,) * axes))


def _biased(walk: Walk, tokens: Followed, bias: Known | None, axes: int) -> Followed:
    """Tokens with the bias of their convolution, and what a normalization of images adds."""
    for known in (bias, walk.way.added):
        if known is not None and known.array.size:
            tokens = tokens.plus(_along(known, axes))
    return tokens


def conv(walk: Walk, node: Node) -> dict[str, Followed]:
    """Conv."""
    value = walk.followed(node)
    if value.quantized:
        raise NotRun("over whole numbers")
    return convolved(walk, node, value, walk.known(node.inputs[1]), walk.optional(node, 2))


def multiplied(
    walk: Walk, node: Node, value: Followed, matrix: Known, bias: Known | None = None
) -> dict[str, Followed]:
    """A matrix over the last axis."""
    if value.kind != "pixels":
        raise NotRun("behind the projection")
    if matrix.array.ndim != 2:
        raise NotRun(f"a matrix of shape {matrix.array.shape}")

    def extract(places: Places) -> Places:
        return places.reshape(-1, places.shape[-1])

    rows = _project(walk, value, extract, matrix.array, matrix.told)
    tokens = _tokens(rows, value.shape[:-1], matrix.array.shape[1])
    return {node.outputs[0]: _biased(walk, tokens, bias, 0)}


def matmul(walk: Walk, node: Node) -> dict[str, Followed]:
    """MatMul, with the image on either side."""
    first, second = (walk.values.get(each) for each in node.inputs[:2])
    if first is not None and second is not None:
        raise NotRun("of two values that depend on the image")
    if first is not None:
        return multiplied(walk, node, first, walk.known(node.inputs[1]))
    assert second is not None
    matrix = walk.known(node.inputs[0])
    turned = second.moved(lambda places: np.swapaxes(places, -1, -2))
    made = multiplied(walk, node, turned, merged([matrix], np.swapaxes(matrix.array, -1, -2)))
    return {
        name: value.moved(lambda places: np.swapaxes(places, -1, -2))
        for name, value in made.items()
    }


def gemm(walk: Walk, node: Node) -> dict[str, Followed]:
    """Gemm."""
    value, matrix = walk.followed(node), walk.known(node.inputs[1])
    if attribute(node, "transA", 0):
        value = value.moved(lambda places: places.T)
    array = matrix.array.T if attribute(node, "transB", 0) else matrix.array
    scale, by = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    if scale != 1:
        array = (array.astype(np.float64) * scale).astype(wide_type(array.dtype))
    bias = walk.optional(node, 2)
    if bias is not None and by != 1:
        bias = merged([bias], (bias.array.astype(np.float64) * by).astype(np.float32), ran=True)
    if bias is not None and bias.array.ndim > 1 and bias.array.shape[0] != 1:
        made = multiplied(walk, node, value, merged([matrix], array))
        return {name: tokens.plus(bias) for name, tokens in made.items()}
    return multiplied(walk, node, value, merged([matrix], array), bias)
