"""The program in a file of torch.export: what it takes, what an image passes before the projection,
and with which sizes (torch/_export/serde/schema.py).

It is read as JSON and never run. What it tells is evidence, which is held against the reading of
the tensors' names: a state dict may hold tensors that the program does not compute with.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .checkpoint import first_line, first_twin
from .program_tail import MOVES, against_tail, is_whole

MOST_NODES = 10**6
"""Operators of a program: a ViT of 40 layers has two thousand."""

FARTHEST = 200
"""Operators that are gone back from a projection: those between image and patches are at most a
few dozen, those of a stem among them."""

_DROPPED = frozenset(["metadata", "module_call_graph", "guards_code"])
"""Keys of a program that are most of its text, and tell nothing of its numbers: stack traces."""

_OF_STEMS = frozenset(
    [
        "relu",
        "relu_",
        "gelu",
        "silu",
        "silu_",
        "hardswish",
        "hardswish_",
        "leaky_relu",
        "sigmoid",
        "mul",
    ]
)
"""What stands between the convolutions of a stem."""

_PROJECTIONS = frozenset(
    [
        "conv1d",
        "conv2d",
        "conv3d",
        "convolution",
        "_convolution",
        "linear",
        "addmm",
        "mm",
        "matmul",
        "bmm",
    ]
)
"""Operators that a patch is projected by."""


@dataclass(frozen=True)
class Step:
    """One operator of the program.

    Args:
        op: of ATen, without its overload (`conv2d`); with its library where it is another's.
        takes: the tensors that it takes, by name.
        gives: those that it gives.
        numbers: its other arguments that are numbers or lists of them.
    """

    op: str
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Program:
    """A program.

    Args:
        steps: in order.
        images: names of the tensors that a user gives.
        parameters: names in the state dict, by names in the program.
        shapes: of the tensors in the program, by name; None for an extent that is open.
        lifted: names in the program of constants that are in no state dict.
    """

    steps: tuple[Step, ...]
    images: tuple[str, ...]
    parameters: Mapping[str, str]
    shapes: Mapping[str, tuple[int | None, ...]]
    lifted: frozenset[str]

    @functools.cached_property
    def taken(self) -> frozenset[str]:
        """The names in the state dict of what some operator takes."""
        names = {name for step in self.steps for name in step.takes}
        return frozenset(held for name, held in self.parameters.items() if name in names)

    def config(self) -> dict[str, Any]:
        """What it tells of its model, under the keys of a `config.json`: the size of the images
        that its first convolution takes, with stride and padding; the norms' epsilon, where all
        have one."""
        told: dict[str, Any] = {}
        first = next((step for step in self.steps if step.op.removeprefix("_") in _CONVOLUTIONS), 0)
        epsilons = {
            step.numbers.get("eps", 1e-5)
            for step in self.steps
            if step.op in ("layer_norm", "native_layer_norm")
        }
        if len(epsilons) == 1 and isinstance(epsilon := epsilons.pop(), float):
            told["layer_norm_eps"] = told["own_epsilon"] = epsilon
        if not isinstance(first, Step) or len(first.takes) < 2:
            return told
        image, kernel = (self.shapes.get(name, ()) for name in first.takes[:2])
        given = [self.shapes.get(name, ()) for name in self.images]
        resized = any("upsample" in step.op or "grid_sampler" in step.op for step in self.steps)
        whole = any(_holds(shape, image[-2:]) for shape in given)
        for word, usual in (("stride", 1), ("padding", 0)):
            number = first.numbers.get(word, usual)
            if isinstance(number, int) or (
                isinstance(number, list) and len(number) in (1, len(kernel) - 2)
            ):
                told[f"own_{word}"] = number
        if whole and len(image) == len(kernel) in (4, 5):
            told |= {"num_channels": image[1]} if image[1] else {}
            if None not in image[-2:] and not resized:
                told["image_size"] = list(image[-2:])
            if len(image) == 5 and image[2]:
                told["num_frames"] = image[2]
        return told

    def against(
        self,
        names: Mapping[str, str],
        steps: tuple[tuple[int, ...], tuple[int, ...]],
        normalizes: bool,
    ) -> Iterator[str]:
        """What the program does otherwise than a reading of its tensors, in sentences.

        Args:
            names: the tensors of the reading, by field.
            steps: stride and padding of the reading.
            normalizes: whether the reading has fixed numbers for pixels in its kernel.
        """
        taken = self.taken
        for role, name in names.items():
            if role not in _NEVER_TAKEN and name not in taken:
                yield (
                    f"its program never takes {name}, so that it computes with something else "
                    f"(a quantized program keeps its floats beside what it takes)"
                )
                return
        place = next(
            (at for at, step in enumerate(self.steps) if self._projects(step, names["kernel"])),
            None,
        )
        if place is None:
            yield f"its program takes {names['kernel']} for something else than a projection"
            return
        projection = self.steps[place]
        yield from self._against_steps(projection, names["kernel"], steps)
        between = [step for step in self._before(place) if not self._is_explained(step, names)]
        if between and not normalizes:
            ops = ", ".join(dict.fromkeys(step.op for step in between))
            yield f"its program does {ops} to images before {names['kernel']}"
        yield from against_tail(self, place, names)

    def changes_of(self, name: str, ours: set[str], changing: frozenset[str]) -> Iterator[str]:
        """The operators of some kind between tensors of a reading and a value that is made of
        them."""
        makers = self._makers
        left, seen, ops, reached = [name], set[str](), list[str](), False
        while left and len(seen) < FARTHEST:
            at = left.pop()
            reached = reached or self.parameters.get(at) in ours
            step = makers.get(at)
            if at in seen or step is None:
                continue
            seen.add(at)
            if step.op in changing:
                ops.append(step.op)
            left += step.takes
        if reached:
            yield from ops

    def _projects(self, step: Step, kernel: str) -> bool:
        return step.op in _PROJECTIONS and any(
            self._source(name) == kernel for name in step.takes[1:] or step.takes
        )

    def _source(self, name: str) -> str:
        """The tensor of the state dict that a name is, moved or not; empty for none."""
        makers = self._makers
        for _ in range(FARTHEST):
            if name in self.parameters:
                return self.parameters[name]
            step = makers.get(name)
            if step is None or step.op not in MOVES or len(step.takes) != 1:
                return ""
            name = step.takes[0]
        return ""

    @functools.cached_property
    def _makers(self) -> dict[str, Step]:
        return {name: step for step in self.steps for name in step.gives}

    def _before(self, place: int) -> Iterator[Step]:
        """The operators behind which the data of a projection comes, nearest first, that change
        values."""
        makers, projection = self._makers, self.steps[place]
        convolves = projection.op.removeprefix("_") in _CONVOLUTIONS
        data = [name for name in projection.takes if not self._source(name)][:1]
        seen: set[str] = set()
        while data and len(seen) < FARTHEST:
            name = data.pop()
            step = makers.get(name)
            if name in seen or step is None:
                continue
            seen.add(name)
            if step.op not in MOVES or (convolves and self._reorders(step)):
                yield step
            data += [taken for taken in step.takes if not self._source(taken)]

    def _reorders(self, step: Step) -> bool:
        """Whether a step may leave pixels out, or put channels or sides of an image elsewhere."""
        if step.op in ("permute", "transpose"):
            rank = len(self.shapes.get(step.takes[0], ()))
            order = list(range(rank))
            if step.op == "permute":
                order = [axis % rank for axis in step.numbers.get("dims", order) if rank]
            elif rank:
                first, second = (step.numbers.get(name, 0) % rank for name in ("dim0", "dim1"))
                order[first], order[second] = order[second], order[first]
            return rank in _KEEPING and tuple(order) not in _KEEPING[rank]
        return step.op in _REORDERING and not is_whole(step)

    def _is_explained(self, step: Step, names: Mapping[str, str]) -> bool:
        """Whether a step is one of the reading's own: of its stem, or a norm of its patches."""
        fields = {held: role for role, held in names.items()}
        roles = [fields[source] for name in step.takes if (source := self._source(name)) in fields]
        if any(role.startswith("stem.") for role in fields.values()) and step.op in _OF_STEMS:
            return True
        return any(role.startswith(("stem.", "patch_norm", "pixel_")) for role in roles)

    def _against_steps(
        self, step: Step, kernel: str, steps: tuple[tuple[int, ...], tuple[int, ...]]
    ) -> Iterator[str]:
        """Another stride or padding, and what no reading has."""
        if step.op.removeprefix("_") not in _CONVOLUTIONS:
            return
        axes = len(self.shapes.get(step.takes[1], ())) - 2
        for word, ours, usual in (
            ("stride", steps[0], 1),
            ("padding", steps[1], 0),
            ("dilation", (), 1),
            ("groups", (), 1),
        ):
            theirs = step.numbers.get(word, usual)
            theirs = usual if theirs == "valid" else theirs
            sides = tuple(theirs) if isinstance(theirs, list) else (theirs,)
            sides = sides * axes if len(sides) == 1 and axes > 0 else sides
            wanted = ours or (usual,) * axes
            if sides != tuple(wanted):
                yield (
                    f"its program takes {kernel} with {word} {'×'.join(map(str, sides))}, and this "
                    f"reading has {'×'.join(map(str, wanted))}"
                )


_REORDERING = (
    *("index", "cat", "stack", "unbind", "select", "getitem", "chunk", "split"),
    *("split_with_sizes", "slice", "narrow", "channel_shuffle", "pixel_unshuffle", "repeat"),
)
"""Moves in front of a convolution that may change which pixel or channel is where."""

_KEEPING: dict[int, set[tuple[int, ...]]] = {
    3: {(0, 1, 2), (2, 0, 1), (1, 2, 0)},
    4: {(0, 1, 2, 3), (0, 3, 1, 2), (0, 2, 3, 1)},
    5: {(0, 1, 2, 3, 4), (0, 2, 1, 3, 4), (0, 4, 1, 2, 3), (0, 1, 4, 2, 3), (0, 2, 3, 4, 1)},
}
"""Orders of axes that keep rows before columns, by their number: channels move, and frames."""

_CONVOLUTIONS = ("conv2d", "conv3d", "convolution")

_NEVER_TAKEN = ("mask_token", "position_ids")
"""Fields that a program for whole images does not compute with, and that are read for others: what
is masked; ids, whose rows it may take as they lie."""


def _holds(shape: Sequence[int | None], sides: Sequence[int | None]) -> bool:
    """Whether a shape has these sides among its axes."""
    left = list(shape)
    for side in sides:
        if side not in left:
            return False
        left.remove(side)
    return len(shape) > 3


def read_program(content: bytes) -> Program:
    """Read a program.

    Raises:
        ValueError: what is no program of torch.export.
    """

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := first_twin([key for key, _ in pairs]):
            raise ValueError(f"the key {twice!r} stands there twice")
        return {key: value for key, value in pairs if key not in _DROPPED}

    try:
        whole = json.loads(content.decode("utf-8"), object_pairs_hook=kept)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its program is no JSON ({first_line(error)})") from None
    try:
        return _program(whole["graph_module"])
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"its program is none of torch.export ({type(error).__name__}: {first_line(error)})"
        ) from None


def _program(module: Mapping[str, Any]) -> Program:
    graph, specs = module["graph"], module["signature"]["input_specs"]
    if len(graph["nodes"]) > MOST_NODES:
        raise ValueError(f"its program has more than {MOST_NODES} operators")
    images, parameters, lifted = [], {}, set()
    for spec in specs:
        ((kind, said),) = spec.items()
        named = said["arg"]["as_tensor"] if kind == "user_input" else said.get("arg", {})
        name = named.get("name") if isinstance(named, dict) else None
        if kind == "user_input" and isinstance(name, str):
            images.append(name)
        elif kind in ("parameter", "buffer"):
            parameters[str(name)] = str(said[f"{kind}_name"])
        elif isinstance(name, str):
            lifted.add(name)
    shapes = {str(name): _shape(meta["sizes"]) for name, meta in graph["tensor_values"].items()}
    return Program(
        tuple(map(_step, graph["nodes"])), tuple(images), parameters, shapes, frozenset(lifted)
    )


def _shape(sizes: Sequence[Mapping[str, Any]]) -> tuple[int | None, ...]:
    return tuple(size["as_int"] if type(size.get("as_int")) is int else None for size in sizes)


def _step(node: Mapping[str, Any]) -> Step:
    takes: list[str] = []
    numbers: dict[str, Any] = {}
    for given in node["inputs"]:
        ((kind, value),) = given["arg"].items()
        if kind in ("as_tensor", "as_tensors", "as_optional_tensors", "as_optional_tensor"):
            takes += _names(value)
        elif kind in ("as_int", "as_ints", "as_float", "as_bool", "as_string"):
            numbers[str(given["name"])] = value
    gives = [name for output in node["outputs"] for name in _names(list(output.values())[:1])]
    return Step(_op(str(node["target"])), tuple(takes), tuple(gives), numbers)


def _names(value: Any) -> Iterator[str]:
    """Names of tensors in an argument, or in a list of them."""
    if isinstance(value, list):
        for part in value:
            yield from _names(part)
    elif isinstance(value, dict):
        if isinstance(value.get("name"), str):
            yield value["name"]
        elif len(value) == 1:
            yield from _names(next(iter(value.values())))


def _op(target: str) -> str:
    """`conv2d` of `torch.ops.aten.conv2d.default`; another library's with its own name."""
    match = re.fullmatch(r"torch\.ops\.(\w+)\.(\w+)(?:\.\w+)?", target)
    if match is None:
        return "getitem" if target.endswith("getitem") else target
    return match[2] if match[1] == "aten" else f"{match[1]}.{match[2]}"
