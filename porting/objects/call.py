"""How a live object is called: images placed as it takes them, itself run as its users do, its
output fetched."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.base import DTYPES
from ...backends.layouts import NHWC, images_to_layout
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ..files.checkpoint import first_line
from .frameworks import (
    conversions,
    deterministic,
    evaluating,
    inference_mode,
    mixed_precision,
    run_torch,
)
from .live import LiveCall


@dataclass
class _Caller:
    """The steps of a call, and what they saw.

    Args:
        subject: the object.
        kind: its framework.
        layout: of the images that it takes.
        name: as errors call it.
        is_layer: whether it is a bare layer.
        cut: of a bare linear layer: images `(B, C, H, W)` to the patches that it takes.
        spec: its sizes, by which a grid of tokens that nobody flattened is told.
        grids, taken: as in `LiveCall`.
        width_axis: where the width of such a grid stands, once it was seen: there it stays.
    """

    subject: Any
    kind: str
    layout: str
    name: str
    is_layer: bool
    cut: Callable[[NDArray[Any]], NDArray[Any]] | None
    spec: PatchEmbedSpec | None
    grids: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    taken: list[str] = dataclasses.field(default_factory=list)
    width_axis: int | None = None

    def __post_init__(self) -> None:
        self.to_framework, self.from_framework = conversions(self.subject, self.kind)

    def place(self, images: NDArray[Any]) -> Any:
        """Images as the object takes them."""
        cut = images_to_layout(images, self.layout) if self.cut is None else self.cut(images)
        return self.to_framework(np.ascontiguousarray(cut))

    def run(self, placed: Any, recorded: bool = False) -> Any:
        """Call the object, and take its main output."""
        try:
            array, what = _main_output(
                run_torch(self.subject, placed, recorded)
                if self.kind == "torch"
                else self.subject(placed)
            )
        except PatchParityError:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # one that ends the interpreter must not end a check as if all were well
            raise PatchParityError(
                f"{self.name} failed on images of shape {tuple(placed.shape)}, {self.layout}: "
                f"{type(error).__name__}: {first_line(error)} ({self._hint(error)})"
            ) from error
        if what:
            self.taken[:] = [what]
        return array

    def _hint(self, error: BaseException) -> str:
        """What may help against an error of the object."""
        if isinstance(error, TypeError) and "required" in str(error):
            return "it takes more than images: give a function of images that passes the rest"
        if self.kind == "numpy" and isinstance(error, (TypeError, AttributeError)):
            return "it was given a NumPy array: --framework says whose arrays it takes"
        hint = "--image-layout, --image-size and --in-channels say what it takes"
        if "dimensions" in str(error) or "expected 5, got 4" in str(error):
            hint += "; --module names the part of it that takes them"
        return hint

    def fetch(self, returned: Any) -> NDArray[Any]:
        """What it returned, as a NumPy array of tokens."""
        try:
            output = self.from_framework(returned)
        except (Exception, SystemExit) as error:
            raise PatchParityError(
                f"{self.name} returned a {type(returned).__name__}: expected an array of tokens "
                f"(B, N, D) ({first_line(error)})"
            ) from error
        if output.ndim < 2 or output.dtype.name not in DTYPES:
            raise PatchParityError(
                f"{self.name} returned an array of shape {output.shape} and dtype {output.dtype}: "
                f"expected tokens (B, N, D) of {', '.join(DTYPES)}"
            )
        if (axis := self._axis_of(output.shape)) is not None:
            self.grids[:] = self.grids or [output.shape]
            grid = np.moveaxis(output, axis, -1)
            output = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        return output

    def _axis_of(self, shape: tuple[int, ...]) -> int | None:
        """Where a grid of tokens that nobody flattened has its width; None of anything else."""
        if self.is_layer and len(shape) > 3:
            return -1 if self.layout == NHWC else 1
        if self.spec is None or len(shape) != self.spec.spatial_axes + 2:
            return None
        if self.width_axis is None:
            self.width_axis = _shown_axis(shape, self.spec)
        if self.width_axis is not None and shape[self.width_axis] == self.spec.embed_dim:
            return self.width_axis
        return _width_axis(shape, self.spec.embed_dim, self.layout)

    def in_training(self, placed: Any) -> Any:
        """What a copy gives that is left in training mode, without a trace in its random state."""
        import torch

        with torch.random.fork_rng():
            return _main_output(run_torch(copy.deepcopy(self.subject), placed, False))[0]


def caller(
    subject: Any,
    kind: str,
    layout: str,
    name: str,
    is_layer: bool,
    cut: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
    spec: PatchEmbedSpec | None = None,
) -> LiveCall:
    """How an object is called; a bare convolution layer's grid is flattened, as its users do.

    Args:
        subject, kind, layout, name, is_layer, cut, spec: as in `_Caller`.
    """
    steps = _Caller(subject, kind, layout, name, is_layer, cut, spec)
    call = LiveCall(steps.place, steps.run, steps.fetch, grids=steps.grids, taken=steps.taken)
    if kind == "flax":
        return dataclasses.replace(call, held=functools.partial(deterministic, subject))
    if kind != "torch":
        return call
    return dataclasses.replace(
        call,
        held=functools.partial(evaluating, subject),
        record=functools.partial(steps.run, recorded=True),
        serving=inference_mode,
        mixed=mixed_precision,
        training=steps.in_training if getattr(subject, "training", False) is True else None,
    )


def _shown_axis(shape: tuple[int, ...], spec: PatchEmbedSpec) -> int | None:
    """Where a grid of tokens of an image of the spec's size has its width; None where its shape
    allows both, or neither."""
    last = shape[1:] == (*spec.grid, spec.embed_dim)
    first = shape[1:] == (spec.embed_dim, *spec.grid)
    return None if first == last else -1 if last else 1


def _width_axis(shape: tuple[int, ...], width: int, layout: str) -> int | None:
    """Where a grid of tokens that nobody flattened has its width: channels first or last, as the
    images where both could be; None where neither is."""
    places = [axis for axis in ((-1, 1) if layout == NHWC else (1, -1)) if shape[axis] == width]
    return places[0] if places else None


TOKEN_NAMES = (
    "last_hidden_state",
    "tokens",
    "patch_tokens",
    "patch_embeddings",
    "patch_embeds",
    "patch_embed",
    "x_norm_patchtokens",
    "embeddings",
    "hidden_states",
    "x",
    "output",
)
"""How modules that return a mapping call their tokens."""


def _main_output(output: Any) -> tuple[Any, str]:
    """The array of interest where a module returns several (`last_hidden_state`, the one that is
    called so, or the first), and which that is, in words.

    Raises:
        PatchParityError: a mapping of several, none of which is called as tokens are.
    """
    if hasattr(output, "last_hidden_state"):
        return output.last_hidden_state, "of what it returns its last_hidden_state is judged"
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, Mapping):
        for name in TOKEN_NAMES:
            if name in output:
                return output[name], f"of what it returns {name} is judged"
        if len(output) != 1:
            raise PatchParityError(
                f"it returned a mapping of {', '.join(map(str, output))}: expected one array, or "
                f"one called {TOKEN_NAMES[0]!r}; name the part of it that gives tokens (--module)"
            )
        return next(iter(output.values())), ""
    if isinstance(output, (tuple, list)):  # a grid's sizes may stand before the tokens
        arrays = [value for value in output if getattr(value, "ndim", 0) > 1]
        what = f"of the {len(output)} values that it returns the first array is judged"
        return (arrays or output)[0], what if len(output) > 1 else ""
    return output, ""
