"""The way of an image from a graph's input through its first operators, to where the first block
begins: the last value that everything behind it goes through, before an operator that is none of an
embedding stage."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import begins_block
from .folding import Folder, Known, merged
from .graph import Graph, Node
from .norms import BEGIN, Matched, Norm, match_norm
from .operators import MOVES, NotRun, attribute, move, require_room, shape_of
from .patches import Patches, find_patches, pairs_of, same_pads, windows
from .values import Followed, Layer, Mismatch, Places, concatenated, constant, places_of


@dataclass(eq=False)
class Way:
    """What was found on the way of one image.

    Args:
        input: name of the graph's input.
        shape: of the images.
        end: the value that enters the first block.
        last: its name.
        takers: operators that take it.
        stopped: why it ends there, in words.
        mismatch: whether that is a constant of another shape.
        block: whether a block begins there, or the graph ends.
        kernel: `(D, *patch, C)`; None where no projection was found.
        kernel_told: where it comes from.
        patches: which it takes.
        patch_norm, token_norm, sequence_norm: where there are some.
        before_norm: the tokens as they were before the token norm, with what was added to them.
        added: what the projection itself adds, of a normalization of the image.
        notes: what is to be told, in sentences.
    """

    input: str
    shape: tuple[int, ...]
    end: Followed
    last: str
    takers: list[str] = field(default_factory=list)
    stopped: str = ""
    mismatch: bool = False
    block: bool = True
    kernel: NDArray[Any] | None = None
    kernel_told: str = ""
    patches: Patches | None = None
    patch_norm: tuple[Norm, Followed] | None = None
    token_norm: Norm | None = None
    sequence_norm: Norm | None = None
    before_norm: Followed | None = None
    added: Known | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def width(self) -> int:
        """D."""
        return 0 if self.kernel is None else len(self.kernel)


class Follower:
    """Follows one image.

    Args:
        graph: of the whole model.
        name: the input.
        shape: that an image has there.
        assumed: whether that is an assumption, so that constants of another size are raised.
    """

    def __init__(
        self, graph: Graph, name: str, shape: tuple[int, ...], assumed: bool = False
    ) -> None:
        self.assumed = assumed
        require_room(math.prod(shape))
        self.folder = Folder(graph)
        self.nodes = _living(graph)
        self.uses = Counter(
            each
            for node in self.nodes
            if node.op not in ("Shape", "Size")
            for each in node.inputs
            if each
        )
        places = places_of(np.broadcast_to(np.int8(0), shape))
        image = Followed("pixels", (Layer(places),))
        self.values: dict[str, Followed] = {name: image}
        self.shapes: dict[str, tuple[int, ...]] = {}  # of those that nothing takes any more
        self.way = Way(name, shape, image, name)

    def follow(self) -> Way:
        """Follow the image to its end.

        Raises:
            Mismatch: positions that are not of this image size, where it is assumed.
            PatchParityError: a constant that cannot be read.
        """
        way, left = self.way, {self.way.input: self.uses[self.way.input]}
        skipped: set[int] = set()
        self._at_cut(0, skipped, left)
        for place, node in enumerate(self.nodes):
            if place in skipped:
                continue
            if node.op in ("Shape", "Size"):
                self._extents(node)
                continue
            if not any(each in self.values for each in node.inputs):
                continue
            try:
                made = self._step(node)
            except NotRun as error:
                if isinstance(error, Mismatch) and self.assumed:
                    raise
                way.stopped = f"{node.op} ({error})" if str(error) != node.op else node.op
                way.mismatch = isinstance(error, Mismatch)
                break
            self._take(node.inputs, left)
            self.values |= made
            left |= {each: self.uses[each] for each in made}
            alive = {each for each, count in left.items() if count > 0 and each in self.values}
            if len(made) == 1 and alive <= made.keys():
                (way.last,) = made
                way.end = self.values[way.last]
                self._at_cut(place + 1, skipped, left)
        way.takers = [node.op for node in self.nodes if way.last in node.inputs]
        way.takers = [op for op in way.takers if op not in ("Shape", "Size")]
        way.block = not way.takers or begins_block(self.nodes, way.last)
        return way

    def _take(self, names: Sequence[str], left: dict[str, int]) -> None:
        for each in names:
            if each in left:
                left[each] -= 1
                if left[each] == 0:
                    self.shapes[each] = self.values.pop(each).shape

    def _extents(self, node: Node) -> None:
        name = node.inputs[0]
        shape = self.values[name].shape if name in self.values else self.shapes.get(name)
        if shape is None:
            return
        array = (
            shape_of(node, shape) if node.op == "Shape" else np.asarray(math.prod(shape), np.int64)
        )
        self.folder.tell({node.outputs[0]: Known(array)})

    def _at_cut(self, start: int, skipped: set[int], left: dict[str, int]) -> None:
        """Where everything goes through one value: it may be normalized."""
        way, value = self.way, self.way.end
        takers = {node.op for node in self.nodes[start:] if way.last in node.inputs}
        if not takers & set(BEGIN) or value.quantized or value.kind == "sequence":
            return
        axis = _channels_of(value, way.width)
        if axis is None:
            return
        found = match_norm(self.nodes, start, way.last, value.shape, axis, self.uses, self.folder)
        if found is None or not self._normed(value, found, axis):
            return
        skipped |= found.nodes
        for each in list(left):
            left[each] = 0
        left[found.output] = self.uses[found.output]
        way.last = found.output
        way.end = self.values[found.output]
        self._at_cut(max(found.nodes) + 1, skipped, left)

    def _normed(self, value: Followed, found: Matched, axis: int) -> bool:
        """Take a norm into the stage; False where it has no place there."""
        way, norm = self.way, found.norm
        base = Followed(value.kind, (Layer(value.base.places),))
        if value.kind == "pixels":
            whole = len(value.layers) > 1 or value.base.factors or axis != len(value.shape) - 1
            if whole or way.patch_norm is not None:
                return False
            way.patch_norm = (norm, value)
        elif way.token_norm is None and _plain_tokens(value, axis):
            way.token_norm, way.before_norm = norm, value
        else:
            way.sequence_norm = norm
            base = Followed("sequence", value.layers)
        self.values[found.output] = base
        return True

    def _step(self, node: Node) -> dict[str, Followed]:
        """What an operator makes of the image.

        Raises:
            NotRun: one that is none of an embedding stage.
        """
        if node.op in MOVES:
            return self._moved(node)
        if node.op in STEPS:
            return STEPS[node.op](self, node)
        raise NotRun(node.op)

    def _moved(self, node: Node) -> dict[str, Followed]:
        value = self.values.get(node.inputs[0])
        if value is None:
            raise NotRun("something is looked up by what the image holds")
        rest = [self._known(each) if each else None for each in node.inputs[1:]]
        arrays = [None if known is None else known.array for known in rest]
        if node.op == "Pad" and (len(arrays) < 2 or arrays[1] is None or np.any(arrays[1])):
            padding = node.attributes.get("value", 0.0) if len(arrays) < 2 else arrays[1]
            if attribute(node, "mode", "constant") == "constant" and np.any(padding):
                raise NotRun("a padding of other values than zero")
        made = {}
        for number, output in enumerate(node.outputs):
            if not output or (number and node.op != "Split"):
                continue

            def change(places: Places, number: int = number) -> Places:
                return move(node, [places, *arrays], -1)[number]

            made[output] = value.moved(change)
        return made

    def _note(self, sentence: str) -> None:
        if sentence not in self.way.notes:
            self.way.notes.append(sentence)

    def _known(self, name: str) -> Known:
        """A constant.

        Raises:
            NotRun: what is none.
        """
        known = self.folder.of(name)
        if known is None:
            why = self.folder.why.get(name, "")
            raise NotRun(f"{name!r}, which {why or 'no constant of the file tells'}")
        return known

    def _optional(self, node: Node, place: int) -> Known | None:
        given = len(node.inputs) > place and node.inputs[place]
        return self._known(node.inputs[place]) if given else None

    def _followed(self, node: Node, place: int = 0) -> Followed:
        value = self.values.get(node.inputs[place])
        if value is None:
            raise NotRun("a constant is changed by what the image holds")
        return value


def _living(graph: Graph) -> list[Node]:
    """The operators of which an output depends, in order; all of them where no output is told."""
    if not graph.outputs:
        return list(graph.nodes)
    wanted, living = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.inputs)
            living.append(node)
    return living[::-1]


def _channels_of(value: Followed, width: int) -> int | None:
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


def _plain_tokens(value: Followed, axis: int) -> bool:
    """Whether nothing but a bias was added to tokens, and nothing stands beside them."""
    if not (value.base.places >= 0).all():
        return False
    return all(
        _same_rows(part, axis)
        for layer in value.layers
        for part in ((*layer.factors, layer) if layer.known else layer.factors)
    )


def _same_rows(layer: Layer, axis: int) -> bool:
    rows = np.moveaxis(layer.places, axis, -1).reshape(-1, layer.places.shape[axis])
    return bool((rows == rows[0]).all())


def _project(
    self: Follower,
    value: Followed,
    extract: Callable[[Places], Places],
    matrix: NDArray[Any],
    told: str,
    channels: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Take note of a projection of patches, and give the number of the token of each row.

    Args:
        self: who follows.
        value: the pixels.
        extract: makes rows of patches, `(rows, K)`, of places.
        matrix: `(K, D)`.
        told: where it comes from.
        channels: the channel of each column, where the operator tells it.
    """
    way = self.way
    if value.kind != "pixels":
        raise NotRun("behind the projection")
    if way.kernel is not None:
        raise NotRun(f"{told}, beside {way.kernel_told}, takes the image")
    rows = extract(value.base.places)
    if matrix.ndim != 2 or rows.shape[1] != matrix.shape[0]:
        raise NotRun(f"a matrix of shape {matrix.shape} and patches of {rows.shape[1]} values")
    patches = find_patches(rows, way.shape, channels)
    whole = int((rows >= 0).all(axis=1).argmax())
    factor: NDArray[Any] | None = None
    for layer in value.base.factors:
        taken = extract(layer.places)
        if not np.array_equal(np.where(rows >= 0, taken, taken[whole]), _all_rows(taken, whole)):
            raise NotRun("pixels are scaled by more than their channels")
        assert layer.known is not None
        row = layer.known.array.ravel()[taken[whole]].astype(np.float64)
        factor = row if factor is None else factor * row
    shift: NDArray[Any] | None = None
    for term in value.layers[1:]:
        shift = _shift(term, extract, whole, shift)
    if way.patch_norm is not None:
        normed = way.patch_norm[1].base.places
        if normed.shape[-1] != rows.shape[1] or not np.array_equal(
            normed.reshape(rows.shape), rows
        ):
            raise NotRun("what is normalized are not the patches")
        if factor is not None or shift is not None:
            raise NotRun("normalized patches are scaled once more")
    kernel, added = matrix, None
    if factor is not None or shift is not None:
        wide = matrix.astype(np.float64)
        if shift is not None:
            added = (shift @ wide).astype(_wide(matrix.dtype))
        if factor is not None:
            wide = wide * factor[:, None]
        kernel = wide.astype(_wide(matrix.dtype))
        constants = [known for layer in value.layers for known in layer.constants]
        way.notes.append(_pixels_told(constants))
        if added is not None:
            way.added = merged(constants, added, ran=True)
    ordered = np.empty_like(kernel)
    ordered[patches.columns] = kernel
    way.kernel = np.ascontiguousarray(
        np.moveaxis(ordered.reshape(*patches.patch, patches.channels, -1), -1, 0)
    )
    way.kernel_told, way.patches = told, patches
    return patches.rows


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


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of what is computed of weights: 16 bits would round once more."""
    return np.dtype(np.float32) if dtype.itemsize <= 4 else np.dtype(np.float64)


def _tokens(rows: NDArray[np.int64], shape: tuple[int, ...], width: int) -> Followed:
    """Tokens of a projection, `(*shape, D)`."""
    require_room(rows.size * width)
    places = (rows[:, None] * width + np.arange(width)).astype(np.int32)
    return Followed("tokens", (Layer(places.reshape(*shape, width)),))


def _convolved(
    self: Follower, node: Node, value: Followed, kernel: Known, bias: Known | None
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
    rows = _project(self, value, extract, matrix, kernel.told, channels)
    tokens = _tokens(rows, (value.shape[0], *grid), len(array))
    tokens = tokens.moved(lambda places: np.moveaxis(places, -1, 1))
    return {node.outputs[0]: _biased(self, tokens, bias, axes)}


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


def _biased(self: Follower, tokens: Followed, bias: Known | None, axes: int) -> Followed:
    """Tokens with the bias of their convolution, and what a normalization of images adds."""
    for known in (bias, self.way.added):
        if known is not None and known.array.size:
            tokens = tokens.plus(_along(known, axes))
    return tokens


def _conv(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    if value.quantized:
        raise NotRun("over whole numbers")
    return _convolved(self, node, value, self._known(node.inputs[1]), self._optional(node, 2))


def _multiplied(
    self: Follower, node: Node, value: Followed, matrix: Known, bias: Known | None = None
) -> dict[str, Followed]:
    """A matrix over the last axis."""
    if value.kind != "pixels":
        raise NotRun("behind the projection")
    if matrix.array.ndim != 2:
        raise NotRun(f"a matrix of shape {matrix.array.shape}")

    def extract(places: Places) -> Places:
        return places.reshape(-1, places.shape[-1])

    rows = _project(self, value, extract, matrix.array, matrix.told)
    tokens = _tokens(rows, value.shape[:-1], matrix.array.shape[1])
    return {node.outputs[0]: _biased(self, tokens, bias, 0)}


def _matmul(self: Follower, node: Node) -> dict[str, Followed]:
    first, second = (self.values.get(each) for each in node.inputs[:2])
    if first is not None and second is not None:
        raise NotRun("of two values that depend on the image")
    if first is not None:
        return _multiplied(self, node, first, self._known(node.inputs[1]))
    assert second is not None
    matrix = self._known(node.inputs[0])
    turned = second.moved(lambda places: np.swapaxes(places, -1, -2))
    made = _multiplied(self, node, turned, merged([matrix], np.swapaxes(matrix.array, -1, -2)))
    return {
        name: value.moved(lambda places: np.swapaxes(places, -1, -2))
        for name, value in made.items()
    }


def _gemm(self: Follower, node: Node) -> dict[str, Followed]:
    value, matrix = self._followed(node), self._known(node.inputs[1])
    if attribute(node, "transA", 0):
        value = value.moved(lambda places: places.T)
    array = matrix.array.T if attribute(node, "transB", 0) else matrix.array
    scale, by = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    if scale != 1:
        array = (array.astype(np.float64) * scale).astype(_wide(array.dtype))
    bias = self._optional(node, 2)
    if bias is not None and by != 1:
        bias = merged([bias], (bias.array.astype(np.float64) * by).astype(np.float32), ran=True)
    if bias is not None and bias.array.ndim > 1 and bias.array.shape[0] != 1:
        made = _multiplied(self, node, value, merged([matrix], array))
        return {name: tokens.plus(bias) for name, tokens in made.items()}
    return _multiplied(self, node, value, merged([matrix], array), bias)


def _add(self: Follower, node: Node) -> dict[str, Followed]:
    value: Followed | None = None
    constants = []
    for each in node.inputs:
        if each in self.values:
            if value is not None:
                raise NotRun("of two values that depend on the image")
            value = self.values[each]
        else:
            constants.append(self._known(each))
    assert value is not None
    _require_floats(value)
    for known in constants:
        if known.array.size == 1 and not np.any(known.array):
            continue
        value = value.plus(known)
    return {node.outputs[0]: value}


def _require_floats(value: Followed) -> None:
    if value.kind == "sequence":
        raise NotRun("behind the norm of the sequence")
    if value.quantized:
        raise NotRun("over whole numbers")


def _subtract(self: Follower, node: Node) -> dict[str, Followed]:
    value, known, first = _one_of_two(self, node)
    _require_floats(value)
    if first:
        return {node.outputs[0]: value.plus(merged([known], -known.array, "negative", ran=True))}
    turned = value.times(Known(np.float32(-1).reshape(()), ran=True))
    return {node.outputs[0]: turned.plus(known)}


def _multiply(self: Follower, node: Node) -> dict[str, Followed]:
    value, known, _ = _one_of_two(self, node)
    if value.kind == "sequence":
        raise NotRun("behind the norm of the sequence")
    if np.all(known.array == 1) and known.array.size == 1:
        return {node.outputs[0]: value}
    return {node.outputs[0]: value.times(known)}


def _divide(self: Follower, node: Node) -> dict[str, Followed]:
    value, known, first = _one_of_two(self, node)
    _require_floats(value)
    wide = known.array.astype(np.float64)
    if not first or not np.all(wide):
        raise NotRun("by what the image holds, or by zero")
    return {node.outputs[0]: value.times(merged([known], 1 / wide, "inverted", ran=True))}


def _negate(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    _require_floats(value)
    return {node.outputs[0]: value.times(Known(np.float32(-1).reshape(()), ran=True))}


def _one_of_two(self: Follower, node: Node) -> tuple[Followed, Known, bool]:
    """A value, a constant, and whether the value comes first."""
    first, second = node.inputs[:2]
    if first in self.values and second in self.values:
        raise NotRun("of two values that depend on the image")
    if first in self.values:
        return self.values[first], self._known(second), True
    return self.values[second], self._known(first), False


def _cast(self: Follower, node: Node) -> dict[str, Followed]:
    value, kind = self._followed(node), attribute(node, "to", 1)
    if kind not in (1, 10, 11, 16) or value.quantized in ("static", "dynamic"):
        raise NotRun("to or from whole numbers")
    return {node.outputs[0]: Followed(value.kind, value.layers)}


def _concat(self: Follower, node: Node) -> dict[str, Followed]:
    values = [self.values.get(each) for each in node.inputs]
    first = next(value for value in values if value is not None)
    if first.kind == "sequence":
        raise NotRun("behind the norm of the sequence")
    parts = [
        constant(self._known(each), first.kind) if value is None else value
        for value, each in zip(values, node.inputs, strict=True)
    ]
    try:
        return {node.outputs[0]: concatenated(parts, attribute(node, "axis", 0))}
    except (ValueError, IndexError):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise NotRun(f"of shapes {shapes}") from None


def _batch_norm(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    _require_floats(value)
    if attribute(node, "training_mode", 0):
        raise NotRun("in training mode")
    held = [self._known(each) for each in node.inputs[1:5]]
    scale, shift, mean, variance = (known.array.astype(np.float64) for known in held)
    root = np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    if not np.all(root > 0):
        raise NotRun("a variance below zero")
    by = scale / root
    shape = (-1, *(1,) * (len(value.shape) - 2))
    self.way.notes.append(
        "a batch norm by fixed statistics stands on the way; here kernel and bias hold that"
    )
    done = value.times(merged([held[0], held[3]], by.reshape(shape), "of a batch norm", ran=True))
    more = merged(held, (shift - mean * by).reshape(shape), "of a batch norm", ran=True)
    return {node.outputs[0]: done.plus(more)}


QUANTIZED = (
    "values on the way of the image are rounded to whole numbers as the graph runs (quantization): "
    "here they are not"
)


def _quantize(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    if value.quantized:
        raise NotRun("of whole numbers")
    self._note(QUANTIZED)
    return {node.outputs[0]: Followed(value.kind, value.layers, "static")}


def _quantize_at_run_time(self: Follower, node: Node) -> dict[str, Followed]:
    made = {
        name: Followed(value.kind, value.layers, "dynamic")
        for name, value in _quantize(self, node).items()
    }
    one, zero = Known(np.float32(1).reshape(())), Known(np.uint8(0).reshape(()))
    self.folder.tell(dict(zip(node.outputs[1:], (one, zero), strict=False)))
    return made


def _dequantize(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    if value.quantized not in ("", "static"):
        raise NotRun("of a scale that is not known")
    if value.quantized:
        return {node.outputs[0]: Followed(value.kind, value.layers)}
    scale, zero = self._known(node.inputs[1]), self._optional(node, 2)
    if scale.array.size != 1:
        raise NotRun("of pixels, with several scales")
    if zero is not None and np.any(zero.array):
        value = value.plus(merged([zero], -zero.array.astype(np.float32), ran=True))
    return {node.outputs[0]: value.times(scale)}


def _whole(weights: Known, zero: Known | None, axis: int) -> Known:
    """Quantized weights less their zero point."""
    array = weights.array.astype(np.float32)
    if zero is not None and np.any(zero.array):
        point = zero.array.astype(np.float32).ravel()
        shape = [1] * array.ndim
        shape[axis] = -1
        array = array - (point if point.size == 1 else point.reshape(shape))
    return merged([weights], array, f"dequantized from {weights.array.dtype.name}", ran=True)


def _integer_conv(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    if value.quantized != "dynamic":
        raise NotRun("of whole numbers whose scale is not known")
    kernel = _whole(self._known(node.inputs[1]), self._optional(node, 3), 0)
    made = _convolved(self, node, Followed(value.kind, value.layers), kernel, None)
    return {name: Followed(each.kind, each.layers, "product") for name, each in made.items()}


def _integer_matmul(self: Follower, node: Node) -> dict[str, Followed]:
    value = self._followed(node)
    if value.quantized != "dynamic":
        raise NotRun("of whole numbers whose scale is not known")
    matrix = _whole(self._known(node.inputs[1]), self._optional(node, 3), 1)
    made = _multiplied(self, node, Followed(value.kind, value.layers), matrix)
    return {name: Followed(each.kind, each.layers, "product") for name, each in made.items()}


def _quantized_conv(self: Follower, node: Node) -> dict[str, Followed]:
    """QLinearConv: x, its scale and zero point, w, its own, y's, and a bias in units of both."""
    value = self._followed(node)
    if value.quantized != "static":
        raise NotRun("of whole numbers whose scale is not known")
    x_scale, scale = self._known(node.inputs[1]), self._known(node.inputs[4])
    whole = _whole(self._known(node.inputs[3]), self._optional(node, 5), 0)
    shape = (-1, *(1,) * (whole.array.ndim - 1))
    factor = scale.array.astype(np.float32).reshape(shape)
    kernel = merged([whole], whole.array * factor, ran=True)
    bias = self._optional(node, 8)
    if bias is not None:
        units = x_scale.array.astype(np.float64) * scale.array.astype(np.float64).ravel()
        bias = merged([bias], (bias.array * units).astype(np.float32), "dequantized", ran=True)
    made = _convolved(self, node, Followed(value.kind, value.layers), kernel, bias)
    return {name: Followed(each.kind, each.layers, "static") for name, each in made.items()}


Step = Callable[[Follower, Node], dict[str, Followed]]

STEPS: dict[str, Step] = {
    "Conv": _conv,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Add": _add,
    "Sum": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Neg": _negate,
    "Cast": _cast,
    "Concat": _concat,
    "BatchNormalization": _batch_norm,
    "QuantizeLinear": _quantize,
    "DynamicQuantizeLinear": _quantize_at_run_time,
    "DequantizeLinear": _dequantize,
    "ConvInteger": _integer_conv,
    "MatMulInteger": _integer_matmul,
    "QLinearConv": _quantized_conv,
}
"""Operators of an embedding stage, beside those that move values."""
