"""The way of an image from a graph's input through its first operators, to where the first block
begins: the last value that everything behind it goes through, before an operator that is none of an
embedding stage."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ....reference.errors import PatchParityError
from .blocks import grows_behind, residual_sum
from .folding import Folder, Known
from .graph import Graph, Node
from .moves import MOVES, NotRun, attribute, move, require_room
from .norms import BEGIN, Matched, match_norm
from .operators import shape_of
from .steps import STEPS
from .values import Followed, Layer, Mismatch, Places, channels_of, places_of, same_rows
from .walk import Walk, Way


class Follower(Walk):
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
        super().__init__(Folder(graph), Way(name, shape, image, name), image)

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
        takers = [
            node
            for node in self.nodes
            if way.last in node.inputs and node.op not in ("Shape", "Size")
        ]
        way.takers = [node.op for node in takers]
        way.ways = [_told(node, way.last, self.folder.graph) for node in takers]
        graph = self.folder.graph
        added = residual_sum(self.nodes, way.last, graph.inputs.keys() - {way.input})
        way.block = not way.takers or (bool(added) and not grows_behind(graph, added))
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
        axis = channels_of(value, way.width)
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
        if node.op not in MOVES and node.op not in STEPS:
            raise NotRun(node.op)
        try:
            return self._moved(node) if node.op in MOVES else STEPS[node.op](self, node)
        except PatchParityError:  # a tensor that cannot be read
            raise
        except MemoryError:
            raise NotRun("more memory than there is") from None
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise NotRun(f"{type(error).__name__}: {str(error)[:200]}") from None

    def _moved(self, node: Node) -> dict[str, Followed]:
        value = self.values.get(node.inputs[0])
        if value is None:
            raise NotRun("something is looked up by what the image holds")
        rest = [self.known(each) if each else None for each in node.inputs[1:]]
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


def _told(node: Node, name: str, graph: Graph) -> str:
    """An operator that takes a value, and the tensor of the file by which it does."""
    held = [each for each in node.inputs if each != name and each in graph.constants]
    return f"{node.op} of {held[0]!r}" if held else node.op


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


def _plain_tokens(value: Followed, axis: int) -> bool:
    """Whether nothing but a bias was added to tokens, and nothing stands beside them."""
    if not (value.base.places >= 0).all():
        return False
    return all(
        same_rows(part, axis)
        for layer in value.layers
        for part in ((*layer.factors, layer) if layer.known else layer.factors)
    )
