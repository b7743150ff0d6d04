"""Values that depend on the image: which pixel, or which channel of which token, stands at each
place, and which constants were added there.

Nothing of the image is computed: an operator that only moves values moves these indices, and what
comes out is compared with what a patch embedding does.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .folding import Known
from .moves import NotRun, require_room

Places = NDArray[np.int32]
Kind = Literal["pixels", "tokens", "sequence"]


@dataclass(frozen=True, eq=False)
class Layer:
    """One term of a value.

    Args:
        places: of the value's shape: which value of the flattened constant (or image, or tokens)
            stands there; -1 for none.
        known: the constant; None of the image or the tokens.
        factors: what it is multiplied by, of the same shape.
    """

    places: Places
    known: Known | None = None
    factors: tuple["Layer", ...] = ()

    def moved(self, change: Callable[[Places], Places]) -> "Layer":
        """The same behind an operator that moves values."""
        factors = tuple(factor.moved(change) for factor in self.factors)
        return Layer(change(self.places), self.known, factors)

    def times(self, known: Known, places: Places) -> "Layer":
        """The same multiplied by a constant."""
        return dataclasses.replace(self, factors=(*self.factors, Layer(places, known)))

    @property
    def constants(self) -> tuple[Known, ...]:
        """All constants in it."""
        own = () if self.known is None else (self.known,)
        return own + tuple(known for factor in self.factors for known in factor.constants)

    def values(self) -> NDArray[Any]:
        """What it adds at each place, zero where nothing; in the constant's own type where it is
        multiplied by nothing, else float64."""
        assert self.known is not None
        array = np.append(self.known.array.ravel(), np.zeros(1, self.known.array.dtype))
        values = array[self.places]
        for factor in self.factors:
            assert factor.known is not None
            values = values.astype(np.float64) * factor.known.array.ravel()[factor.places]
        return values

    @property
    def key(self) -> tuple[int, ...]:
        """What tells it from other terms of a value."""
        return tuple(id(known) for known in self.constants)


@dataclass(frozen=True, eq=False)
class Followed:
    """A value that depends on the image.

    Args:
        kind: whether it is made of `pixels`, of `tokens`, or of a `sequence` that was normalized.
        layers: its terms; the first is what it is made of.
        quantized: how it is kept in whole numbers, until something takes their scale again: by a
            `static` scale, a `dynamic` one, or as a `product` of two; empty for not.
    """

    kind: Kind
    layers: tuple[Layer, ...]
    quantized: Literal["", "static", "dynamic", "product"] = ""

    @property
    def base(self) -> Layer:
        """The pixels or tokens in it."""
        return self.layers[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.base.places.shape

    def moved(self, change: Callable[[Places], Places]) -> "Followed":
        """The same behind an operator that moves values."""
        return self.of_layers(tuple(layer.moved(change) for layer in self.layers))

    def of_layers(self, layers: tuple[Layer, ...]) -> "Followed":
        """The same with other terms."""
        return dataclasses.replace(self, layers=layers)

    def plus(self, known: Known) -> "Followed":
        """The same with a constant added, which is broadcast as in NumPy.

        Raises:
            Mismatch: shapes that do not go together.
        """
        shape, places = self._broadcast(known)
        grown = self.moved(lambda held: np.broadcast_to(held, shape))
        return merge(self.of_layers((*grown.layers, Layer(places, known))))

    def times(self, known: Known) -> "Followed":
        """The same multiplied by a constant.

        Raises:
            Mismatch: shapes that do not go together.
        """
        shape, places = self._broadcast(known)
        grown = self.moved(lambda held: np.broadcast_to(held, shape))
        return self.of_layers(tuple(layer.times(known, places) for layer in grown.layers))

    def _broadcast(self, known: Known) -> tuple[tuple[int, ...], Places]:
        try:
            shape = np.broadcast_shapes(self.shape, known.array.shape)
        except ValueError:
            raise Mismatch(self.shape, known) from None
        require_room(math.prod(shape))
        return shape, np.broadcast_to(places_of(known.array), shape)


class Mismatch(NotRun):
    """A constant whose shape does not go with that of a value.

    Args:
        shape: of the value.
        known: the constant.
    """

    def __init__(self, shape: tuple[int, ...], known: Known) -> None:
        super().__init__(
            f"{known.told}, of shape {known.array.shape}, is added to values of shape {shape}"
        )
        self.shape, self.known = shape, known


def places_of(array: NDArray[Any]) -> Places:
    """The place of each value of an array among all of them."""
    require_room(array.size)
    return np.arange(array.size, dtype=np.int32).reshape(array.shape)


def constant(known: Known, kind: Kind) -> Followed:
    """A constant as a value in which nothing of the image is."""
    places = places_of(known.array)
    return Followed(kind, (Layer(np.full_like(places, -1)), Layer(places, known)))


def merge(value: Followed) -> Followed:
    """The same, with the terms of one constant at different places as one."""
    base, *terms = value.layers
    kept: dict[tuple[int, ...], Layer] = {}
    others: list[Layer] = []
    for term in terms:
        before = kept.get(term.key)
        if before is None:
            kept[term.key] = term
        elif not np.any((before.places >= 0) & (term.places >= 0)):
            kept[term.key] = _joined(before, term)
        else:
            others.append(term)
    return value.of_layers((base, *kept.values(), *others))


def _joined(one: Layer, other: Layer) -> Layer:
    there = one.places >= 0
    factors = tuple(
        Layer(np.where(there, a.places, b.places), a.known)
        for a, b in zip(one.factors, other.factors, strict=True)
    )
    return Layer(np.where(there, one.places, other.places), one.known, factors)


def concatenated(parts: Sequence[Followed], axis: int) -> Followed:
    """Values behind one another.

    Raises:
        NotRun: factors of what the image is in that differ from part to part.
    """
    kinds = {part.kind for part in parts if (part.base.places >= 0).any()}
    if len(kinds) > 1:
        raise NotRun("pixels beside tokens")
    require_room(sum(part.base.places.size for part in parts))
    base = Layer(
        np.concatenate([part.base.places for part in parts], axis), None, _factors(parts, axis)
    )
    layers = [base]
    for number, part in enumerate(parts):
        layers += [_beside(term, parts, number, axis) for term in part.layers[1:]]
    return merge(Followed(parts[0].kind if not kinds else kinds.pop(), tuple(layers)))


def _factors(parts: Sequence[Followed], axis: int) -> tuple[Layer, ...]:
    """The factors of the image's part: those of a part in which nothing of it is do not count."""
    of_image = [part for part in parts if (part.base.places >= 0).any()]
    keys = {tuple(id(f.known) for f in part.base.factors) for part in of_image}
    if len(keys) > 1:
        raise NotRun("parts of the image that are scaled differently")
    if not of_image or not of_image[0].base.factors:
        return ()
    factors = []
    for number, factor in enumerate(of_image[0].base.factors):
        pieces = [
            part.base.factors[number].places
            if len(part.base.factors) > number
            else np.zeros(part.shape, np.int32)
            for part in parts
        ]
        factors.append(Layer(np.concatenate(pieces, axis), factor.known))
    return tuple(factors)


def _beside(term: Layer, parts: Sequence[Followed], number: int, axis: int) -> Layer:
    """A term of one part, as a term of the whole."""

    def widened(places: Places, fill: int) -> Places:
        pieces = [
            places if each == number else np.full(part.shape, fill, np.int32)
            for each, part in enumerate(parts)
        ]
        return np.concatenate(pieces, axis)

    factors = tuple(Layer(widened(factor.places, 0), factor.known) for factor in term.factors)
    return Layer(widened(term.places, -1), term.known, factors)


def channels_of(value: Followed, width: int) -> int | None:
    """The axis along which the channels of tokens lie, or the values of patches; None for none."""
    places = value.base.places
    if value.kind == "pixels":
        return places.ndim - 1 if places.ndim > 1 else None
    for axis in reversed(range(places.ndim)):
        if places.shape[axis] == width:
            moved = np.moveaxis(places, axis, -1).reshape(-1, width)
            rows = moved[moved[:, 0] >= 0]
            if len(rows) and np.array_equal(rows, rows[:, :1] + np.arange(width)):
                return axis
    return None


def same_rows(layer: Layer, axis: int) -> bool:
    """Whether a term is the same wherever it stands, but along the axis of channels."""
    rows = np.moveaxis(layer.places, axis, -1).reshape(-1, layer.places.shape[axis])
    return bool((rows == rows[0]).all())
