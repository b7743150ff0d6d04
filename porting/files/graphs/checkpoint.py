"""A graph as a checkpoint: the tensors of its embedding stage under the names of what they are, and
all others under their own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from ..checkpoint import Checkpoint, TensorInfo, dtype_of
from .find import NoStage, Parts, grid_of, parts_of
from .folding import Folder
from .graph import Graph
from .moves import MOVES, NotRun
from .run import Follower
from .values import Mismatch

ROLES = (
    "kernel",
    "bias",
    "class_token",
    "distillation_token",
    "register_tokens",
    "class_token_behind",
    "distillation_token_behind",
    "register_tokens_behind",
    "positions",
    *(
        f"{norm}.{part}"
        for norm in ("patch_norm", "token_norm", "sequence_norm")
        for part in ("scale", "shift")
    ),
)
"""Names of tensors of a stage; a constant of the graph that is called so gets another name."""

MOST_CHANNELS = 16
"""Channels by which an axis of an input is told from rows and columns: satellite images have 13."""

TRIAL = (2, 3)
"""Patches of an image on which a graph is followed that takes images of any size."""


class GraphCheckpoint(Checkpoint):
    """The graph of a whole model, in which the stage is found by what the image passes.

    Args:
        path: the file.
        graph: in ONNX's words.

    A reader of a format is a subclass with a `format`, which makes the graph and calls this.
    """

    def __init__(self, path: Path, graph: Graph) -> None:
        super().__init__(path)
        self.graph = graph
        self.arrays: dict[str, NDArray[Any]] = {}
        self.names: dict[str, str] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.followed: tuple[int, ...] | None = None
        self.tensors = self._others()

    @property
    def kept_as(self) -> str:
        """As a graph, whatever its format is."""
        return "graph"

    @property
    def config_folder(self) -> None:
        """Nowhere: what a graph computes, it tells itself."""
        return

    def for_images(self, image_size: Sequence[int] = (), prefix: str | None = None) -> None:
        """Follow images of this size, or of the size that the graph takes.

        Args:
            image_size: what is told of it, frames in front; empty for nothing.
            prefix: which of several inputs is meant.

        Raises:
            PatchParityError: a graph in which no stage is found, and why.
        """
        wanted = tuple(image_size)
        if self.followed == wanted:
            self._tell(prefix)
            return
        self.followed = None
        found: dict[str, Parts] = {}
        reasons: list[str] = []
        for name, shape in images_of(self.graph).items():
            try:
                found[name] = _Image(self.graph, name, shape, wanted).parts()
            except PatchParityError:
                raise
            except MemoryError:
                raise PatchParityError(f"{self.path} takes more memory than there is") from None
            except (NoStage, NotRun) as error:
                shown = "×".join("?" if size is None else str(size) for size in shape)
                reasons.append(f"the image that {name!r} takes ({shown}) {error}")
            except Exception as error:  # whatever NumPy raises of an operator that is none
                raise self.damaged(
                    f"what {name!r} takes cannot be followed ({type(error).__name__}: {error})"
                ) from None
        if not found:
            inputs = ", ".join(
                f"{name!r} ({'×'.join('?' if size is None else str(size) for size in shape)})"
                for name, shape in self.graph.inputs.items()
            )
            raise PatchParityError(
                f"{self.path} holds no embedding stage that is read: "
                + ("; ".join(reasons) or f"none of its inputs is an image: {inputs or 'none'}")
            )
        self._take(found)
        self.followed = wanted
        self._tell(prefix)

    def _tell(self, prefix: str | None) -> None:
        """Tell the sizes of the one stage, or of the one that is meant."""
        self.own_config = dict(self.configs.get(prefix or "", {}))

    def _take(self, found: Mapping[str, Parts]) -> None:
        """Name the tensors of one stage by what they are, of several with their input in front."""
        self.arrays, self.told, self.configs = {}, {}, {}
        for name, parts in found.items():
            before = f"{name}." if len(found) > 1 else ""
            for role, array in parts.tensors.items():
                self.arrays[before + role] = _as_kept(array, parts.told[role])
                self.told[before + role] = parts.told[role]
            notes = "".join(f"; {note}" for note in self.graph.notes)
            self.told[f"{before}kernel"] += notes
            self.configs[before] = parts.config
        self.tensors = {
            name: TensorInfo(array.shape, array.dtype.name) for name, array in self.arrays.items()
        } | self._others()

    def _others(self) -> dict[str, TensorInfo]:
        """All constants of the graph: none of them is anything to the image but by the stage."""
        self.names = {_other_name(name): name for name in self.graph.constants}
        return {name: self.graph.constants[real].info for name, real in self.names.items()}

    def _read(self, name: str) -> NDArray[Any]:
        if name in self.arrays:
            return np.array(self.arrays[name])
        return self.graph.constants[self.names[name]].read()


def _as_kept(array: NDArray[Any], told: str) -> NDArray[Any]:
    """An array in the type of the file, where the graph widens it and nothing was done to it."""
    for kind in ("bfloat16", "float16"):
        if kind in told and array.dtype == np.float32:
            narrow = array.astype(dtype_of(kind))
            if np.array_equal(narrow.astype(np.float32), array):
                return narrow
    return array


def _other_name(name: str) -> str:
    """The name of a constant; of one that is called as a part of a stage is, another."""
    called = any(name == role or name.endswith(f".{role}") for role in ROLES)
    return f"constant {name}" if called else name


def images_of(graph: Graph) -> dict[str, tuple[int | None, ...]]:
    """The inputs that may be images or videos, by the number of their axes."""
    return {
        name: shape
        for name, shape in graph.inputs.items()
        if 3 <= len(shape) <= 5 and all(size is None or size > 0 for size in shape)
    }


class _Image:
    """One image input.

    Args:
        graph: the graph.
        name: of the input.
        shape: that it declares.
        told: the image size that a user tells, or images have.
    """

    def __init__(
        self, graph: Graph, name: str, shape: tuple[int | None, ...], told: tuple[int, ...]
    ) -> None:
        self.graph, self.name, self.told = graph, name, told
        self.shape = shape
        self.kernel, self.stride = _first_kernel(graph, name)
        rank = len(shape)
        self.axis = _declared_channels(shape, len(self.kernel) - 1)
        self.spatial = list(range(rank - len(self.kernel[1:] or (0, 0)), rank))
        if self.axis == rank - 1:
            self.spatial = [axis - 1 for axis in self.spatial]

    def parts(self) -> Parts:
        """The stage that it passes.

        Raises:
            NoStage, NotRun: none, or one that is not read.
        """
        extents = [self.shape[axis] for axis in self.spatial]
        if all(extents):
            return self._sized(tuple(size for size in extents if size), False)
        if self.told:
            missing = len(extents) - len(self.told)
            frames = [extent or self._least(place) for place, extent in enumerate(extents)][
                :missing
            ]
            size = (*frames[: max(missing, 0)], *self.told[-len(extents) :])
            return self._sized(size, False)
        return self._of_any_size()

    def _least(self, place: int, count: int = 1) -> int:
        """Pixels along an axis of so many patches."""
        if not self.kernel:
            raise NoStage(f"may have any size, {ASK}")
        return (count - 1) * self.stride[place] + self.kernel[1:][place]

    def _of_any_size(self) -> Parts:
        """The stage of images whose size is open: that of a few patches where there are no
        positions, else that which the positions imply.

        Raises:
            NoStage: positions that are made for the size of the image, or of no square grid.
        """
        count = len(self.spatial)
        trial = (1,) * (count - 2) + TRIAL
        size = tuple(self._least(place, trial[place]) for place in range(count))
        try:
            parts = self._sized(size, True)
        except Mismatch as mismatch:
            grid = _implied(mismatch, trial)
            if grid is None:
                raise NoStage(
                    f"may have any size, and {mismatch.known.told}, of shape "
                    f"{mismatch.known.array.shape}, is of no square grid: {ASK}"
                ) from None
            whole = (*trial[: count - 2], *grid)
            implied = tuple(self._least(place, whole[place]) for place in range(count))
            parts = self._sized(implied, False)
        else:
            if parts.positioned:
                raise NoStage(f"may have any size, and its positions are made for it: {ASK}")
        for key in ("image_size", "num_frames"):
            parts.config.pop(key, None)
        return parts

    def _sized(self, size: tuple[int, ...], assumed: bool) -> Parts:
        """The stage of images of a size."""
        shape = [1 if extent is None else extent for extent in self.shape]
        for axis, extent in zip(self.spatial, size, strict=True):
            shape[axis] = extent
        if self.shape[self.axis] is None:
            shape[self.axis] = self.kernel[0] if self.kernel else 3
        way = Follower(self.graph, self.name, tuple(shape), assumed).follow()
        parts = parts_of(way)
        assert way.patches is not None
        parts.config["image_size"] = list(way.patches.image[-2:])
        if len(way.patches.image) == 3:
            parts.config["num_frames"] = way.patches.image[0]
        return parts


ASK = "--image-size says which"


def _declared_channels(shape: tuple[int | None, ...], axes: int) -> int:
    """The axis of channels, by the extents that an input declares: the first of few behind the
    batch, else the last."""
    rank = len(shape)
    first = 0 if rank == 3 else 1
    if rank == 5 and axes == 2:
        first = 2
    for axis in (first, rank - 1, rank - 3):
        size = shape[axis]
        if size is not None and size <= MOST_CHANNELS:
            return axis
    return first


def _implied(mismatch: Mismatch, trial: tuple[int, ...]) -> tuple[int, int] | None:
    """The grid for which a constant is made that was added to tokens of another one."""
    have, held = mismatch.shape, mismatch.known.array.shape
    count = trial[-2] * trial[-1]
    if len(held) == 4 and len(have) == 4:
        for rows, columns in ((2, 3), (1, 2)):
            if have[rows] == trial[-2] and have[columns] == trial[-1]:
                return held[rows], held[columns]
    if len(held) in (2, 3) and len(have) in (2, 3) and held[-1] == have[-1]:
        return grid_of(held[-2] - (have[-2] - count))
    if len(held) in (2, 3) and len(have) in (2, 3) and held[-2] == have[-2]:
        return grid_of(held[-1] - (have[-1] - count))
    return None


def _first_kernel(graph: Graph, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels and sides of the kernel, and the stride, of the first convolution that an input
    passes; empty where it passes none."""
    seen = {name}
    for node in graph.nodes:
        if not seen.intersection(node.inputs):
            continue
        if node.op in ("Conv", "ConvInteger", "QLinearConv"):
            place = 3 if node.op == "QLinearConv" else 1
            kernel = Folder(graph).of(node.inputs[place]) if len(node.inputs) > place else None
            if kernel is None or kernel.array.ndim < 3:
                break
            sides = kernel.array.shape[1:]
            stride = node.attributes.get("strides") or (1,) * (len(sides) - 1)
            if len(stride) != len(sides) - 1 or min(stride) < 1:
                break
            return sides, tuple(map(int, stride))
        if node.op in ("MatMul", "Gemm", "MatMulInteger"):
            break
        if node.op in (*MOVES, *PIXELWISE):
            seen.update(node.outputs)
    return (), ()


PIXELWISE = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Cast",
    "BatchNormalization",
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Concat",
)
"""Operators through which an image may go to its first convolution, beside those that move it."""
