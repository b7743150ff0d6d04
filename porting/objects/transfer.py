"""Live objects and weights: `from_module` reads one, `transfer` moves the weights of one into
another and proves it."""

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...backends.layouts import OIHW, kernel_to_layout
from ...reference.embed import patch_embed
from ...reference.error import ArithmeticModel
from ...reference.errors import PatchParityError
from ...reference.probes import random_images, random_normal
from ...reference.sequence import embed_sequence
from ...reference.spec import PatchEmbedSpec
from ...reference.verdict import judge
from ...reference.weights import PatchEmbedWeights
from ..dialects.catalogue import list_dialects
from ..dialects.sizes import Sizes
from ..dialects.stage import read_stage, require_no_stem
from ..files.tree import TreeCheckpoint
from .found import SeveralKernelsError
from .live import LiveCall, LiveEmbedding
from .parameters import count_positions, parameters_of
from .probing import UNLIKE, explains
from .read import read_live
from .two_tables import bring_up_to_date, told_of_two_tables


def from_module(
    module: Any,
    *,
    check: bool = True,
    weights: PatchEmbedWeights | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    kernel_layout: str | None = None,
    image_layout: str | None = None,
    patch_size: int | tuple[int, ...] | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: Any = None,
    framework: str | None = None,
    from_: str | None = None,
    prefix: str | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> tuple[PatchEmbedWeights, PatchEmbedSpec]:
    """Read the weights out of a live object: an `nn.Module`, a Keras layer, a Flax module, or a
    tree of parameters.

    Args:
        module: the object; it is not changed. A mapping (a state dict, Flax's parameters, an
            `nnx.State`), and a whole model of torch or nnx, is read as a checkpoint is, in whatever
            dialect its names are.
        check: whether an object is called once, on random images, to see that it computes what its
            weights do and nothing beside (an activation, a mask). One that leaves tokens out on
            purpose (ViTMAE) needs False.
        weights, kernel_layout, image_layout, framework: of an object, for what cannot be read out
            of it, as in `check`.
        patch_size, in_channels, image_size, stride, padding: for what cannot be read out of an
            object or a tree; of a tree the frames of a video stand in front, and stride and
            padding are else those of its dialect.
        from_, prefix, ignore, dialects: of a tree, as in `port`.

    Returns:
        Canonical weights, prefix tokens and positions among them where it has some, and the spec.

    Raises:
        PatchParityError: whatever `read_live` or, of a tree, `read_stage` refuses; an object that
            computes something else.

    Warns:
        UserWarning: of a tree whose grid was assumed although its positions allow another; of a
            layer of Keras that computes with other positions than its file holds (KerasHub's
            DINOv2).

    Examples:
        >>> import torch, patchparity
        >>> layer = torch.nn.Conv2d(3, 10, kernel_size=4, stride=4)
        >>> weights, spec = patchparity.from_module(layer, image_size=(12, 20))
        >>> spec.num_patches
        15
    """
    sizes: dict[str, Any] = dict(
        patch_size=patch_size,
        in_channels=in_channels,
        image_size=image_size,
        stride=stride,
        padding=padding,
    )
    of_object: dict[str, Any] = dict(
        weights=weights,
        kernel_layout=kernel_layout,
        image_layout=image_layout,
        framework=framework,
    )
    named: dict[str, Any] = dict(from_=from_, prefix=prefix, ignore=ignore, dialects=dialects)
    wanted = from_ is not None or prefix is not None or bool(ignore) or bool(dialects)
    tree = module if isinstance(module, Mapping) else _tree_of(module) if wanted else None
    if tree is not None:
        if strange := [name for name, value in of_object.items() if value is not None]:
            raise PatchParityError(
                f"{', '.join(strange)}: of an object that is called; a tree of parameters is read "
                "by its names"
            )
        return _from_tree(tree, **sizes, **named)
    if wanted:
        raise PatchParityError(
            f"from_, prefix, ignore and dialects are of trees of parameters, not of "
            f"{type(module).__name__}"
        )
    try:
        live = read_live(module, **sizes, **of_object)
    except SeveralKernelsError as error:
        tree = _tree_of(module)
        if tree is None or any(value is not None for value in of_object.values()):
            raise
        try:  # a whole model: its names tell which stage is there
            return _from_tree(tree, **sizes)
        except PatchParityError:
            raise error from None
    if check:
        _require_own_output(live)
    for told in told_of_two_tables(module, live.framework):
        warnings.warn(f"{live.name}: {told}", UserWarning, stacklevel=2)
    return live.weights, live.spec


def _tree_of(module: Any) -> Mapping[Any, Any] | None:
    """The parameters of a model by name, where its framework keeps names: torch, nnx."""
    if any(base.__module__.startswith("torch.nn") for base in type(module).__mro__):
        return module.state_dict()
    if any(base.__module__.startswith("flax.nnx") for base in type(module).__mro__):
        from flax import nnx

        return nnx.state(module)
    return None


def _require_own_output(live: LiveEmbedding) -> None:
    """Raise PatchParityError where an object gives something else than its weights do."""
    images = np.array(random_images(live.spec, 1, live.dtype, 0))
    observed = live.call(images).astype(np.float64)
    compute = embed_sequence if live.to_sequence else patch_embed
    expected = compute(images.astype(np.float64), live.weights.astype(np.float64), live.spec)
    advice = "name the layer itself, or read it all the same with check=False"
    if observed.size != expected.size:
        raise PatchParityError(
            f"{live.name} gives {observed.shape}, its weights {expected.shape}: {advice}"
        )
    # A grid that nobody flattened, channels last or first, is as good.
    shapes = [observed.reshape(expected.shape)]
    if observed.ndim > 3:
        shapes.append(np.moveaxis(observed, 1, -1).reshape(expected.shape))
    apart = min(float(np.linalg.norm(array - expected)) for array in shapes) / float(
        np.linalg.norm(expected) + 1e-300
    )
    if apart < UNLIKE and not explains(live) and observed.ndim == 3:
        raise PatchParityError(
            f"{live.name} adds something else than its weights do: its output of black images is "
            f"not their bias, tokens and positions: {advice}"
        )
    if not apart < UNLIKE:
        raise PatchParityError(
            f"{live.name} gives something else than its weights do ({apart:.0%} of it is "
            f"different): a mask, a norm, an activation, padding? {advice}"
        )


def _from_tree(
    tree: Mapping[Any, Any],
    *,
    patch_size: int | tuple[int, ...] | None,
    image_size: int | tuple[int, ...] | None,
    in_channels: int | None,
    stride: int | tuple[int, ...] | None,
    padding: int | tuple[int, ...] | None,
    from_: str | None = None,
    prefix: str | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> tuple[PatchEmbedWeights, PatchEmbedSpec]:
    sizes = Sizes.told(patch_size, image_size, in_channels, stride, padding)
    checkpoint = TreeCheckpoint(tree)
    stage = read_stage(checkpoint, from_, prefix, list_dialects(dialects), sizes, ignore)
    require_no_stem(checkpoint, stage)
    for assumption in stage.assumptions:
        warnings.warn(assumption, UserWarning, stacklevel=3)
    spec = stage.spec
    if image_size is not None and stage.weights.positions is None:
        spec = spec.replace(image_size=spec.image_size[: spec.spatial_axes - 2] + sizes.image_size)
    return stage.weights, spec


def _live(subject: Any, options: Mapping[str, Any]) -> LiveEmbedding:
    """A live object; of a tree of parameters the reference with its weights."""
    if not isinstance(subject, Mapping):
        return read_live(subject, **options)
    weights, spec = from_module(subject, **options)
    to_sequence, wide = (
        weights.num_prefix_tokens > 0 or weights.positions is not None,
        weights.astype(np.float64),
    )
    compute, dtype = embed_sequence if to_sequence else patch_embed, weights.kernel.dtype

    def run(images: NDArray[Any]) -> NDArray[Any]:
        return compute(images.astype(np.float64), wide, spec).astype(dtype)

    call = LiveCall(lambda images: images, run, lambda tokens: tokens)
    return LiveEmbedding(
        f"the {type(subject).__name__}", "numpy", spec, weights, dtype.name, to_sequence, call
    )


@dataclass(frozen=True)
class Transfer:
    """What `transfer` did.

    Args:
        moved: fields that were moved.
        bound_ratio: largest difference of the two objects' outputs on the same images, as a
            fraction of what their arithmetic allows.
        bitwise: whether both outputs are the same to the last bit.
    """

    moved: tuple[str, ...]
    bound_ratio: float
    bitwise: bool


def transfer(
    source: Any,
    target: Any,
    source_options: Mapping[str, Any] = MappingProxyType({}),
    target_options: Mapping[str, Any] = MappingProxyType({}),
    *,
    image_size: int | tuple[int, ...] | None = None,
    patch_size: int | tuple[int, ...] | None = None,
    in_channels: int | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: Any = None,
) -> Transfer:
    """Move the patch embedding of one live object into another, of whatever framework, and prove it
    by running both on the same images.

    Args:
        source: an `nn.Module`, a Keras layer or a Flax module with the weights, or a tree of
            parameters, for which the reference then stands.
        target: an object of the same sizes; kernel, bias, prefix tokens and positions are assigned,
            in its own dtype.
        source_options, target_options: those of `from_module`, for what cannot be read out of one
            of them.
        image_size, patch_size, in_channels, stride, padding: of both, as in `from_module`.

    Raises:
        PatchParityError: objects of different sizes, a target that cannot hold what the source has,
            outputs that differ (the target then has its old weights again).

    Warns:
        UserWarning: of a layer of Keras that computes with other positions than its file holds
            (KerasHub's DINOv2); those of a target are brought up to date where both tables have
            one size.

    Examples:
        >>> import torch, patchparity
        >>> layer = torch.nn.Conv2d(3, 10, kernel_size=4, stride=4)
        >>> other = torch.nn.Conv2d(3, 10, kernel_size=4, stride=4)
        >>> patchparity.transfer(layer, other).bitwise
        True
    """
    if isinstance(target, Mapping):
        raise PatchParityError(
            "the target is a tree of parameters, whose arrays are nobody's to change: to_module "
            "makes another"
        )
    both = dict(
        image_size=image_size,
        patch_size=patch_size,
        in_channels=in_channels,
        stride=stride,
        padding=padding,
    )
    asked: dict[str, Any] = {**both, **target_options}
    one, other = _live(source, {**both, **source_options}), read_live(target, **asked)
    _require_one_model(one, other)
    asked["image_size"] = one.spec.image_size
    if other.spec.image_size != one.spec.image_size:
        other = read_live(target, **asked)
    slots = parameters_of(target, other.framework, other.name)
    before = {name: np.array(value) for name, (value, _) in slots.items()}
    fields = [name for name in slots if _held(one.weights, name) is not None]
    missing = [
        name
        for name in ("bias", "class_token", "distillation_token", "register_tokens", "positions")
        if _held(one.weights, name) is not None and name not in slots
    ]
    if missing:
        raise PatchParityError(f"the target has no {', '.join(missing)}, and the source has")
    undo, undo_saved = count_positions(target, other.framework), _nothing
    try:
        for name, (_, put) in slots.items():
            value = _held(one.weights, name)
            put(
                np.zeros_like(before[name])
                if value is None
                else _as_held(name, value, before[name], other)
            )
        undo_saved = bring_up_to_date(target, other.framework)
        ratio, bitwise = _same_output(one, read_live(target, **asked))
    except BaseException:
        undo()
        undo_saved()
        for name in slots:
            slots[name][1](before[name])
        raise
    for end, subject in ((one, source), (other, target)):
        for told in told_of_two_tables(subject, end.framework):
            warnings.warn(f"{end.name}: {told}", UserWarning, stacklevel=2)
    return Transfer(tuple(fields), ratio, bitwise)


def _nothing() -> None:
    """There is nothing to put back."""


def _held(weights: PatchEmbedWeights, name: str) -> NDArray[Any] | None:
    value = getattr(weights, name)
    return None if value is None else np.asarray(value)


def _require_one_model(one: LiveEmbedding, other: LiveEmbedding) -> None:
    for name, word in (
        ("patch_size", "patch"),
        ("in_channels", "channels"),
        ("embed_dim", "width"),
        ("stride", "stride"),
    ):
        size, theirs = getattr(one.spec, name), getattr(other.spec, name)
        if size != theirs:
            raise PatchParityError(
                f"{one.name} has {word} {size}, {other.name} {theirs}: they are not of one model"
            )
    if one.to_sequence != other.to_sequence:
        kinds = ("tokens", "the sequence")
        raise PatchParityError(
            f"{one.name} gives {kinds[one.to_sequence]}, {other.name} {kinds[other.to_sequence]}"
        )


def _as_held(
    name: str, value: NDArray[Any], held: NDArray[Any], other: LiveEmbedding
) -> NDArray[Any]:
    """A field in the layout, shape and dtype in which the target holds it.

    Raises:
        PatchParityError: another number of values.
    """
    array = kernel_to_layout(value, other.kernel_layout or OIHW) if name == "kernel" else value
    if array.size != held.size:
        raise PatchParityError(
            f"the target keeps {name} in shape {held.shape}, and the source has {array.size} values"
        )
    return np.ascontiguousarray(array).reshape(held.shape).astype(held.dtype)


def _same_output(one: LiveEmbedding, other: LiveEmbedding) -> tuple[float, bool]:
    """Outputs of both on the same images, the second judged against what the first's weights
    give."""
    dtype = other.dtype
    probe = dataclasses.replace(
        random_normal(one.spec, 2, dtype, 0),
        weights=other.weights_used,
        gradients=(),
        gate="deterministic",
        to_sequence=other.to_sequence,
    )
    images = np.array(probe.images)
    outputs = one.call(images.astype(one.dtype)), other.call(images)
    source = dataclasses.replace(probe, images=images.astype(one.dtype), weights=one.weights_used)
    source_model = ArithmeticModel.of(np.dtype(one.dtype), one.flush_to_zero, output_roundings=2)
    source_judged = judge(source, "forward", outputs[0], source_model)
    if source_judged.verdict == "fail":
        raise PatchParityError(
            f"{one.name} gives something else than its weights do, so there is nothing to move: "
            f"{source_judged.message}"
        )
    model = ArithmeticModel.of(np.dtype(dtype), other.flush_to_zero, output_roundings=2)
    judged = judge(probe, "forward", outputs[1], model)
    if judged.verdict == "fail":
        raise PatchParityError(
            f"{other.name} gives something else than its new weights: {judged.message}"
        )
    against = dataclasses.replace(probe, weights=one.weights.astype(dtype))
    other_judged = judge(against, "forward", outputs[1], model)
    if other_judged.verdict == "fail":
        raise PatchParityError(
            f"{other.name} gives something else than {one.name}: {other_judged.message}"
        )
    same = outputs[0].dtype == outputs[1].dtype and outputs[0].tobytes() == outputs[1].tobytes()
    return other_judged.bound_ratio or 0.0, same
