"""How a live object is called: images placed as it takes them, itself run as its users do, its
output fetched."""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...backends.base import DTYPES
from ...backends.layouts import NHWC, images_to_layout
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..files.checkpoint import first_line


@dataclass(frozen=True)
class LiveCall:
    """How an object is called, from images `(B, C, H, W)` to the output as a NumPy array; and the
    steps of that, for those who time it.

    Args:
        place: images to what the object takes, in its own framework's arrays and layout.
        run: calls it as its users do; torch modules must be in evaluation mode, which calling the
            whole sees to and puts back.
        fetch: what it returned, as a NumPy array `(B, N, D)`.
        held: entered around a call of the whole.
        record: as `run`, where gradients are recorded; None where that is no other call.
        serving: entered around a call as those do who serve a model (torch's inference mode).
        mixed: entered around a call as those do who train in mixed precision (torch's autocast to
            bfloat16); None where there is no such.
        training: as `run`, of a copy in training mode; None of an object that is in no such.
        batch: how many images it takes at a time, where it refuses others; None where it does not.
        grids: shapes of outputs that were flattened into tokens, the first of them.
        taken: what was taken of outputs of several arrays, the first of them, in words.
    """

    place: Callable[[NDArray[Any]], Any]
    run: Callable[[Any], Any]
    fetch: Callable[[Any], NDArray[Any]]
    held: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    record: Callable[[Any], Any] | None = None
    serving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    mixed: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    training: Callable[[Any], Any] | None = None
    batch: int | None = None
    grids: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    taken: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, images: NDArray[Any]) -> NDArray[Any]:
        """Place, run and fetch; in parts where it takes so many images alone, the last part filled
        up with images again."""
        if self.batch is None:
            return self._once(images)
        starts = range(0, len(images), self.batch)
        parts = [
            self._once(np.take(images, range(start, start + self.batch), axis=0, mode="wrap"))
            for start in starts
        ]
        return np.concatenate(parts)[: len(images)]

    def _once(self, images: NDArray[Any]) -> NDArray[Any]:
        placed = self.place(images)
        with self.held():
            return self.fetch(self.run(placed))


Framework = Literal["torch", "keras", "flax", "numpy", "jax", "tensorflow"]


@dataclass(frozen=True)
class LiveEmbedding:
    """An object that computes a patch embedding, with what was read out of it.

    Args:
        name: as it was given, or its type's name.
        framework: what it is called with.
        spec: the sizes; image and grid are the object's own where it has some.
        weights: canonical, in the object's dtype.
        dtype: name of the dtype in which it computes, that of its output.
        to_sequence: whether it returns the sequence (prefix tokens or positions were found in it),
            or the tokens.
        call: images `(B, C, H, W)` in `dtype` to the output, as a NumPy array of whatever shape the
            object gives.
        kernel_layout: the einops pattern in which the object keeps its kernel; empty where the
            weights were given.
        notes: what was found out by probe or chosen, in sentences.
        placed: parameters whose place its output showed, by name.
        first_call: images, and what the object gave of them when it was called for the first time.
        later_calls: the same of calls after it, while it was read.
    """

    name: str
    framework: Framework
    spec: PatchEmbedSpec
    weights: PatchEmbedWeights
    dtype: str
    to_sequence: bool
    call: LiveCall
    notes: tuple[str, ...] = ()
    kernel_layout: str = ""
    placed: tuple[str, ...] = ()
    first_call: tuple[NDArray[Any], NDArray[Any]] | None = None
    later_calls: tuple[tuple[NDArray[Any], NDArray[Any]], ...] = ()

    @property
    def weights_used(self) -> PatchEmbedWeights:
        """The weights in the dtype in which it computes, copied: nothing can change them."""
        return self.weights.map(lambda array: np.array(array).astype(self.dtype))

    @property
    def flush_to_zero(self) -> bool:
        """XLA's and TensorFlow's CPU kernels flush subnormals; torch and NumPy do not."""
        return self.framework not in ("torch", "numpy")


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
        subject: the object.
        kind: its framework.
        layout: of the images that it takes.
        name: as errors call it.
        is_layer: whether it is a bare layer.
        cut: of a bare linear layer: images `(B, C, H, W)` to the patches that it takes.
        spec: its sizes, by which a grid of tokens that nobody flattened is told.
    """
    to_framework, from_framework = _conversions(subject, kind)
    width_axis: list[int] = []  # once it was seen where the width stands, it stands there
    grids: list[tuple[int, ...]] = []
    taken: list[str] = []

    def place(images: NDArray[Any]) -> Any:
        return to_framework(
            np.ascontiguousarray(images_to_layout(images, layout) if cut is None else cut(images))
        )

    def run(placed: Any, recorded: bool = False) -> Any:
        try:
            array, what = _main_output(
                _run_torch(subject, placed, recorded) if kind == "torch" else subject(placed)
            )
        except PatchParityError:
            raise
        except (
            Exception,
            SystemExit,
        ) as error:  # one that ends the interpreter must not end a check as if all were well
            hint = "--image-layout, --image-size and --in-channels say what it takes"
            if "dimensions" in str(error) or "expected 5, got 4" in str(error):
                hint += "; --module names the part of it that takes them"
            if isinstance(error, TypeError) and "required" in str(error):
                hint = "it takes more than images: give a function of images that passes the rest"
            elif kind == "numpy" and isinstance(error, (TypeError, AttributeError)):
                hint = "it was given a NumPy array: --framework says whose arrays it takes"
            raise PatchParityError(
                f"{name} failed on images of shape {tuple(placed.shape)}, {layout}: "
                f"{type(error).__name__}: {first_line(error)} ({hint})"
            ) from error
        if what:
            taken[:] = [what]
        return array

    def fetch(returned: Any) -> NDArray[Any]:
        try:
            output = from_framework(returned)
        except (Exception, SystemExit) as error:
            raise PatchParityError(
                f"{name} returned a {type(returned).__name__}: expected an array of tokens (B, N, "
                f"D) ({first_line(error)})"
            ) from error
        if output.ndim < 2 or output.dtype.name not in DTYPES:
            raise PatchParityError(
                f"{name} returned an array of shape {output.shape} and dtype {output.dtype}: "
                f"expected tokens (B, N, D) of {', '.join(DTYPES)}"
            )
        axes = None
        if is_layer and output.ndim > 3:
            axes = -1 if layout == NHWC else 1
        elif spec is not None and output.ndim == spec.spatial_axes + 2:
            if not width_axis and (seen := _shown_axis(output.shape, spec)) is not None:
                width_axis.append(seen)
            axes = next(
                (axis for axis in width_axis if output.shape[axis] == spec.embed_dim),
                _width_axis(output.shape, spec.embed_dim, layout),
            )
        if axes is not None:
            grids[:] = grids or [output.shape]
            grid = np.moveaxis(output, axes, -1)
            output = grid.reshape(grid.shape[0], -1, grid.shape[-1])
        return output

    def in_training(placed: Any) -> Any:
        """What a copy gives that is left in training mode, without a trace in its random state."""
        import torch

        with torch.random.fork_rng():
            return _main_output(_run_torch(copy.deepcopy(subject), placed, False))[0]

    if kind == "flax":
        held = functools.partial(_deterministic, subject)
        return LiveCall(place, run, fetch, held, grids=grids, taken=taken)
    if kind != "torch":
        return LiveCall(place, run, fetch, grids=grids, taken=taken)
    return LiveCall(
        place,
        run,
        fetch,
        functools.partial(_evaluating, subject),
        functools.partial(run, recorded=True),
        _inference_mode,
        _mixed_precision,
        in_training if getattr(subject, "training", False) is True else None,
        grids=grids,
        taken=taken,
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


@contextlib.contextmanager
def _evaluating(subject: Any) -> Iterator[None]:
    """Hold a torch module in evaluation mode."""
    inside = subject.modules() if hasattr(subject, "modules") else ()
    modules = [module for module in inside if getattr(module, "training", False)]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module in modules:
            module.training = True


def _mixed_precision() -> contextlib.AbstractContextManager[Any]:
    """As many train a model."""
    import torch

    return torch.autocast("cpu", torch.bfloat16)


@contextlib.contextmanager
def _inference_mode() -> Iterator[None]:
    import torch

    with torch.inference_mode():
        yield


@contextlib.contextmanager
def _deterministic(subject: Any) -> Iterator[None]:
    """Hold the dropouts of an nnx module off, as `eval()` does; of linen a call says it."""
    from flax import nnx

    held = []
    if isinstance(subject, nnx.Module):
        held = [
            module for _, module in nnx.iter_modules(subject) if hasattr(module, "deterministic")
        ]
    before = [module.deterministic for module in held]
    try:
        for module in held:
            module.deterministic = True
        yield
    finally:
        for module, flag in zip(held, before, strict=True):
            module.deterministic = flag


def _run_torch(subject: Any, images: Any, recorded: bool) -> Any:
    import torch

    # not inference mode: what an object writes into its own tensors there cannot be written again
    with torch.enable_grad() if recorded else torch.no_grad():
        output = subject(images)
        after = torch.is_grad_enabled()
    if after != recorded:  # as it would be where nobody put it back
        torch.set_grad_enabled(after)
    return output


def _conversions(
    subject: Any, kind: str
) -> tuple[Callable[[NDArray[Any]], Any], Callable[[Any], NDArray[Any]]]:
    """From a NumPy array to what an object of this kind takes, and from what it returns to one."""
    if kind == "torch":
        from ...backends.torch.adapter import as_array, as_tensor

        def to_its_device(images: NDArray[Any]) -> Any:
            parameter = next(subject.parameters(), None) if hasattr(subject, "parameters") else None
            return (
                as_tensor(images) if parameter is None else as_tensor(images).to(parameter.device)
            )

        return (
            to_its_device,
            lambda output: output if isinstance(output, np.ndarray) else as_array(output),
        )
    if kind == "keras":
        import keras

        def to_tensor(images: NDArray[Any]) -> Any:
            # A layer converts other types to its own; float32 is converted before, for that is no
            # part of the layer's work.
            return keras.ops.convert_to_tensor(images) if images.dtype == np.float32 else images

        return to_tensor, lambda output: np.asarray(keras.ops.convert_to_numpy(output))
    if kind in ("flax", "jax"):
        import jax

        return jax.numpy.asarray, np.asarray
    if kind == "tensorflow":
        import tensorflow

        return tensorflow.constant, np.asarray
    return lambda images: images, lambda output: np.asarray(
        output.detach().cpu() if hasattr(output, "detach") else output
    )


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


def forms_in_memory(placed: Any) -> dict[str, Any]:
    """The same array with other strides."""
    if getattr(placed, "ndim", 0) not in (4, 5):
        return {}
    if isinstance(placed, np.ndarray):
        read_only = placed.copy()
        read_only.flags.writeable = False
        return {
            "rows and columns exchanged in memory": np.ascontiguousarray(
                placed.swapaxes(-1, -2)
            ).swapaxes(-1, -2),
            "every second value of a wider array": np.repeat(placed, 2, -1)[..., ::2],
            "a crop of larger images": np.pad(placed, _margins(placed.ndim))[_inside(placed)],
            "every second row of taller images": np.repeat(placed, 2, -2)[..., ::2, :],
            "channel by channel, the batch inside": np.ascontiguousarray(
                placed.swapaxes(0, 1)
            ).swapaxes(0, 1),
            "read-only": read_only,
            "channels counted from the last": np.ascontiguousarray(placed[:, ::-1])[:, ::-1],
            "Fortran's order": np.asfortranarray(placed),
        }
    import torch

    last = torch.channels_last if placed.ndim == 4 else torch.channels_last_3d
    turned = placed.transpose(-1, -2).contiguous().transpose(-1, -2)
    return {
        "channels_last": placed.contiguous(memory_format=last),
        "rows and columns exchanged in memory": turned,
        "a crop of larger images": torch.nn.functional.pad(placed, (3, 5, 2, 4))[_inside(placed)],
        "every second row of taller images": torch.repeat_interleave(placed, 2, -2)[..., ::2, :],
        "channel by channel, the batch inside": placed.transpose(0, 1).contiguous().transpose(0, 1),
        "a part of a larger batch": torch.cat([placed[:1] * 0 + 7, placed])[1:],
        "every second value of a wider tensor": torch.repeat_interleave(placed, 2, -1)[..., ::2],
        "all channels but the last of more": torch.cat([placed, placed[:, :1]], 1)[:, :-1],
        "a start that is odd in memory": _at_odd_place(placed),
    }


def _margins(axes: int) -> list[tuple[int, int]]:
    return [(0, 0)] * (axes - 2) + [(2, 4), (3, 5)]


def _inside(placed: Any) -> tuple[Any, ...]:
    """Where images lie in larger ones that have two rows more above and three columns before."""
    rows, columns = placed.shape[-2:]
    return (..., slice(2, 2 + rows), slice(3, 3 + columns))


def _at_odd_place(placed: Any) -> Any:
    import torch

    room = torch.empty(placed.numel() + 1, dtype=placed.dtype, device=placed.device)
    moved = room[1:].view(placed.shape)
    moved.copy_(placed)
    return moved


def forms_of_one(placed: Any) -> dict[str, Any]:
    """The first image for all of them, without memory of their own."""
    if getattr(placed, "ndim", 0) not in (4, 5):
        return {}
    if isinstance(placed, np.ndarray):
        return {"one image for the whole batch": np.broadcast_to(placed[:1], placed.shape)}
    return {"one image for the whole batch": placed[:1].expand(placed.shape)}


def forms_of_gray(placed: Any) -> dict[str, Any]:
    """The first channel for all of them, without memory of their own."""
    if getattr(placed, "ndim", 0) not in (4, 5):
        return {}
    if isinstance(placed, np.ndarray):
        return {"one channel for all of them": np.broadcast_to(placed[:, :1], placed.shape)}
    return {"one channel for all of them": placed[:, :1].expand(placed.shape)}


def refilled(placed: Any, other: Any) -> bool:
    """Write other images into the memory of some; whether that can be done."""
    if isinstance(placed, np.ndarray):
        placed[...] = other
        return True
    if hasattr(placed, "copy_"):
        placed.copy_(other)
        return True
    return False


def bits_of(placed: Any) -> NDArray[np.uint8]:
    """The bits of placed images, to see whether a call changed them; where they lie closely, these
    are no copy."""
    if hasattr(placed, "detach"):
        plain = placed.detach().cpu()
        placed = (plain.float() if plain.dtype.itemsize == 2 else plain).numpy()
    return np.ascontiguousarray(np.asarray(placed)).reshape(-1).view(np.uint8)
