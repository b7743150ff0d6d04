"""Norms, told by what they do: the operators behind a value are run on numbers of our own, and what
comes out is compared with a layer norm of the constants that went in.

Exporters take a layer norm apart in many ways (ReduceMean, Sub, Pow, Sqrt, Div, Mul, Add; by
reciprocals; by moments); all of them give the same numbers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .folding import Folder, Known
from .graph import Node
from .moves import NotRun
from .operators import compute

MADE_OF = (
    "Add",
    "Cast",
    "Div",
    "GlobalAveragePool",
    "Identity",
    "LayerNormalization",
    "Mul",
    "Neg",
    "Pow",
    "RMSNormalization",
    "Reciprocal",
    "ReduceMean",
    "ReduceSum",
    "Reshape",
    "SimplifiedLayerNormalization",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Transpose",
    "Unsqueeze",
)
"""Operators that norms are made of."""

BEGIN = (
    "Cast",
    "GlobalAveragePool",
    "LayerNormalization",
    "Mul",
    "Pow",
    "RMSNormalization",
    "ReduceMean",
    "ReduceSum",
    "SimplifiedLayerNormalization",
    "Sub",
)
"""Operators that a norm may begin with."""

LONGEST = 24
"""Operators of one norm: the longest known, TensorFlow's of moments, has fourteen."""

CLOSE = 1e-8
"""Largest difference of two ways to compute a norm in float64, of values of about 1: a thousand
roundings of 2⁻⁵³ of the largest intermediate, 10⁴, are 1e-9; another ε makes more than 1e-7."""

LARGEST_PROBE = 2**20
"""Values on which a norm is run with the extents that it has: 8 MB."""

MOST_WIDTH = 2**17
"""Values that are normalized together: a patch of 2·64·64·4 has 2¹⁵."""


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm over the channels.

    Args:
        scale, shift: constants, `(width,)`; None where nothing is multiplied, or added.
        epsilon: under its root.
        centered: whether the mean is taken out.
    """

    scale: Known | None
    shift: Known | None
    epsilon: float
    centered: bool


@dataclass(frozen=True)
class Matched:
    """A norm that was found.

    Args:
        norm: it.
        output: the name of what it gives.
        nodes: the places of its operators among all.
    """

    norm: Norm
    output: str
    nodes: frozenset[int]


def match_norm(
    nodes: Sequence[Node],
    start: int,
    name: str,
    shape: tuple[int, ...],
    axis: int,
    uses: Mapping[str, int],
    folder: Folder,
) -> Matched | None:
    """The norm that takes a value, and through which alone everything goes; None where there is
    none.

    Args:
        nodes: of the graph, in order.
        start: the place of the first behind the one that makes the value.
        name: of the value.
        shape: of it.
        axis: that of the channels.
        uses: how often each value is taken.
        folder: tells the constants.
    """
    if shape[axis] > MOST_WIDTH or shape[axis] < 2:
        return None
    small = list(shape)
    if math.prod(shape) > LARGEST_PROBE:  # then without operators that name all extents
        small = [min(extent, 2) for extent in shape]
        small[axis] = shape[axis]
    chance = np.random.default_rng(5)
    probe = chance.standard_normal(small) * 1.7 + 0.3
    held: dict[str, NDArray[Any]] = {name: probe}
    left = {name: uses[name]}
    seen: list[Known] = []
    epsilons: list[float] = []
    taken: list[int] = []
    found = None
    for place in range(start, len(nodes)):
        node = nodes[place]
        if not any(each in held for each in node.inputs):
            continue
        if node.op == "Shape":
            continue
        if node.op not in MADE_OF or len(taken) == LONGEST:
            break
        try:
            held |= _ran(node, held, folder, seen, epsilons)
        except NotRun:
            break
        taken.append(place)
        for each in node.inputs:
            if each in left:
                left[each] -= 1
        left |= {each: uses[each] for each in node.outputs if uses.get(each)}
        alive = {each for each, count in left.items() if count > 0}
        output = node.outputs[0]
        if alive <= {output} and held[output].shape == probe.shape:
            normed = np.moveaxis(held[output], axis, -1)
            norm = _fit(np.moveaxis(probe, axis, -1), normed, seen, epsilons)
            if norm is not None:
                found = Matched(norm, output, frozenset(taken))
    return found


def _ran(
    node: Node,
    held: Mapping[str, NDArray[Any]],
    folder: Folder,
    seen: list[Known],
    epsilons: list[float],
) -> dict[str, NDArray[Any]]:
    """Run one operator on our numbers, and take note of its constants."""
    if node.op in ("Cast", "Identity"):
        return {node.outputs[0]: held[node.inputs[0]]}
    arrays: list[NDArray[Any] | None] = []
    for each in node.inputs:
        if each in held or not each:
            arrays.append(held.get(each))
            continue
        known = folder.of(each)
        if known is None:
            raise NotRun("an input that is not known")
        seen.append(known)
        kind = known.array.dtype.kind
        arrays.append(known.array if kind in "iub" else known.array.astype(np.float64))
        if known.array.size == 1 and kind not in "iub":
            epsilons.append(float(known.array.ravel()[0]))
    if "epsilon" in node.attributes or "Normalization" in node.op:
        epsilons.append(float(node.attributes.get("epsilon", 1e-5)))
    return dict(zip(node.outputs, compute(node, arrays), strict=False))


def _fit(
    probe: NDArray[Any],
    normed: NDArray[Any],
    seen: Sequence[Known],
    epsilons: Sequence[float],
) -> Norm | None:
    """The norm that makes one array of another, of these constants; None where none does."""
    width = probe.shape[-1]
    vectors = [known for known in seen if known.array.size == width and known.array.dtype.kind]
    scales: list[Known | None] = [None, *vectors]
    small = [epsilon for epsilon in dict.fromkeys(epsilons) if 0 < epsilon < 0.5]
    for centered in (True, False):
        rest = probe - probe.mean(axis=-1, keepdims=True) if centered else probe
        variance = (rest * rest).mean(axis=-1, keepdims=True)
        for epsilon in small:
            plain = rest / np.sqrt(variance + epsilon)
            for scale, shift in _pairs(scales):
                wanted = plain if scale is None else plain * _vector(scale)
                wanted = wanted if shift is None else wanted + _vector(shift)
                if np.all(np.abs(wanted - normed) <= CLOSE * (1 + np.abs(wanted))):
                    return Norm(scale, shift, _short(epsilon), centered)
    return None


def _pairs(given: list[Known | None]) -> Iterator[tuple[Known | None, Known | None]]:
    yield from (
        (scale, shift) for scale in given for shift in given if shift is not scale or not scale
    )


def _vector(known: Known) -> NDArray[np.float64]:
    return known.array.ravel().astype(np.float64)


def _short(epsilon: float) -> float:
    """A number of float32 as it was written: 1e-06, not 9.999999974752427e-07."""
    return float(str(np.float32(epsilon)))
