"""Live objects: read the patch embedding out of somebody's module, layer or function, with how its
users call it.

Laws: the object is never changed (training flags are put back), no framework is imported that the
object has not brought along, and what cannot be read is asked for in one sentence, not guessed. A
linear layer's flatten order is found by probe, and told.
"""

import dataclasses
import functools
import inspect
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy: a module's dtype may be it
import numpy as np
from numpy.typing import NDArray

from ...backends.base import DTYPES
from ...backends.layouts import KERNEL_LAYOUTS, images_to_layout
from ...reference.errors import PatchParityError, require_choice, require_sizes
from ...reference.patches import patchify
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..files.arrays import IMAGE_LAYOUTS
from ..files.checkpoint import first_line
from .call import caller
from .found import (
    PRODUCTS,
    FoundWeights,
    LongPositionsError,
    SeveralKernelsError,
    given_weights,
    read_weights,
)
from .frameworks import framework_of, image_layout
from .layer_sizes import own_sizes, spec_of
from .live import LiveEmbedding
from .load import build, load_object
from .probing import with_computing_dtype, with_flatten_order, with_found_parts, with_own_batch
from .two_tables import told_of_two_tables
from .whole import part_of, stage_inside

FRAMEWORKS = ("torch", "keras", "flax", "numpy", "jax", "tensorflow")
"""What an object is called with: `keras` and `flax` are found by type; a plain function takes NumPy
arrays unless told otherwise."""


class _OfObject(TypedDict, total=False):
    """What `read_live` may be told of an object that cannot be read out of it."""

    weights: PatchEmbedWeights | str | os.PathLike[str] | Mapping[str, Any] | None
    kernel_layout: str | None
    image_layout: str | None
    patch_size: int | tuple[int, ...] | None
    in_channels: int | None
    image_size: int | tuple[int, ...] | None
    stride: int | tuple[int, ...] | None
    padding: Any
    framework: str | None


class Reading(_OfObject, total=False):
    """The options of `read_live`, for those who hand them on."""

    module: str | None
    init: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Told:
    """What a user told of one object: the options of `read_live` but for those that say which it
    is.

    Raises:
        PatchParityError: a layout that nobody knows, a size that is none.
    """

    weights: PatchEmbedWeights | str | os.PathLike[str] | Mapping[str, Any] | None = None
    kernel_layout: str | None = None
    image_layout: str | None = None
    patch_size: int | tuple[int, ...] | None = None
    in_channels: int | None = None
    image_size: int | tuple[int, ...] | None = None
    stride: int | tuple[int, ...] | None = None
    padding: Any = None
    framework: str | None = None

    def __post_init__(self) -> None:
        for option in ("patch_size", "in_channels", "image_size", "stride"):
            require_sizes(option, getattr(self, option))
        if self.image_layout is not None:
            require_choice("image layout", self.image_layout, IMAGE_LAYOUTS)
        if self.kernel_layout is not None:
            require_choice("kernel layout", self.kernel_layout, KERNEL_LAYOUTS)

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that were told."""
        names = ("patch_size", "in_channels", "image_size", "stride", "padding")
        sizes = {name: getattr(self, name) for name in names}
        return {name: size for name, size in sizes.items() if size is not None}


def read_live(
    target: Any,
    *,
    module: str | None = None,
    init: Mapping[str, Any] | None = None,
    loaded: Callable[[], None] | None = None,
    **options: Unpack[_OfObject],
) -> LiveEmbedding:
    """Read a patch embedding out of an object, or out of what `module:attribute` names; of a whole
    torch model out of the one part that is one.

    Args:
        target: an `nn.Module`, a Keras layer, a Flax module (nnx, or linen bound to its variables),
            a plain function, or a string: `module:attribute`, or `file.py:attribute`.
        module: the part of it that is meant, a dotted path such as `vit.embeddings`.
        init: arguments of a class that is built.
        loaded: called when the object is there and has not been called yet.
        options: for what cannot be read out of the object, or to overrule what was read:
            `weights`: canonical weights, a file, or a mapping with `kernel` and maybe `bias`; None
            reads them out of the object. `kernel_layout`: a name of `KERNEL_LAYOUTS`, for weights
            that are given, or for a linear layer's flatten order. `image_layout`: nchw or nhwc;
            None means what the framework's layers take. `patch_size`, `in_channels`, `image_size`,
            `stride`, `padding`. `framework`: what a plain function takes: numpy (the default),
            torch, jax or tensorflow.

    Raises:
        PatchParityError: weights that cannot be found, sizes that are missing or cannot belong
            together, an object that fails.
    """
    told = _Told(**options)
    subject, name = _subject(target, init)
    if loaded is not None:
        loaded()
    if module is not None:
        subject, name = part_of(subject, module, name), f"{name}.{module}"
    read = functools.partial(_read, told=told)
    try:
        return read(subject, name)
    except SeveralKernelsError as error:
        if told.weights is not None or framework_of(subject) != "torch":
            raise
        live, path = stage_inside(subject, name, error, read)
        note = f"of the whole model its part {path} was read (--module names another)"
        return dataclasses.replace(live, notes=(note, *live.notes))


def _read(subject: Any, name: str, told: _Told) -> LiveEmbedding:
    """Read one object."""
    kind = _kind(subject, told.framework, name)
    layout = IMAGE_LAYOUTS[told.image_layout] if told.image_layout else image_layout(subject, kind)
    if kind == "keras" and not getattr(subject, "built", True):
        _build_keras(subject, told, layout)
    found = _weights_of(subject, kind, name, told)
    try:
        spec, weights = _fitted(subject, kind, name, found, told.sizes)
    except LongPositionsError as error:
        found = found.with_positions_unplaced(str(error))
        spec, weights = _fitted(subject, kind, name, found, told.sizes)
    if (dtype := weights.kernel.dtype.name) not in DTYPES:
        raise PatchParityError(
            f"{name} has a kernel of dtype {dtype}: expected one of {', '.join(DTYPES)}"
        )
    orders, cut = found.orders, None
    is_layer = found.owner is not None and found.owner is subject
    if found.kernel.ndim == 2:
        is_layer = is_layer and _is_linear(subject)
    if is_layer and found.kernel.ndim == 2:
        orders = _only_order(orders, spec, name)
        cut = functools.partial(_cut, spec=spec, channels_first=orders[0].endswith("chw"))
    live = LiveEmbedding(
        name,
        kind,  # type: ignore[arg-type]
        spec,
        weights,
        dtype,
        weights.num_prefix_tokens > 0 or weights.positions is not None,
        caller(subject, kind, layout, name, is_layer, cut, spec),
        (*found.notes, *told_of_two_tables(subject, kind), *_in_training(subject)),
        KERNEL_LAYOUTS[orders[0]] if orders[0] else "",
    )
    live = with_own_batch(live)
    if len(orders) > 1:
        live = with_flatten_order(live, found)
    if told.weights is not None:
        return with_computing_dtype(live) if kind == "numpy" else live
    return with_found_parts(with_computing_dtype(live, found.owner, subject), subject, found)


def _weights_of(subject: Any, kind: str, name: str, told: _Told) -> FoundWeights:
    """The weights that were given, or those that the object holds, copied: nothing can change
    them."""
    if told.weights is not None:
        found = given_weights(
            told.weights, name, kernel_layout=told.kernel_layout, patch_size=told.patch_size
        )
    else:
        found = read_weights(
            subject,
            kind,
            name,
            kernel_layout=told.kernel_layout,
            patch_size=told.patch_size,
            in_channels=told.in_channels,
        )
        _require_stride(found, kind, name, told.stride)
    found = found.copied()
    _require_patch(name, found.patch_size, told.patch_size)
    return found


def _require_stride(
    found: FoundWeights, kind: str, name: str, stride: int | tuple[int, ...] | None
) -> None:
    """Raise PatchParityError where no layer shows the stride and nobody tells it."""
    if kind == "flax" and found.owner is None and found.kernel.ndim > 2 and stride is None:
        raise PatchParityError(
            f"{name} does not show the stride of the layer inside it: give it (stride, "
            "--stride), and the padding if there is some"
        )


def _fitted(
    subject: Any, kind: str, name: str, found_weights: FoundWeights, asked: Mapping[str, Any]
) -> tuple[PatchEmbedSpec, PatchEmbedWeights]:
    """The sizes of an object, and its weights in our layout; what a user asked for overrules what
    the object says."""
    sizes = {
        **found_weights.told,
        **own_sizes(subject, kind, found_weights.owner, name, found_weights.kernel.ndim),
        **asked,
    }
    try:
        spec = spec_of(name, found_weights, sizes)
        return spec, found_weights.to_canonical(spec, found_weights.orders[0])
    except PatchParityError as error:
        if not found_weights.given or found_weights.canonical is not None:
            raise
        raise PatchParityError(
            f"{error} (the kernel was read as {found_weights.orders[0]}: --kernel-layout says "
            "otherwise)"
        ) from None


def _in_training(subject: Any) -> list[str]:
    """That a module is judged as it is used, where it would do something else as it stands."""
    if hasattr(subject, "modules"):  # torch
        drops = [
            module for module in subject.modules() if getattr(module, "training", False) is True
        ]
    elif any(base.__module__.startswith("flax.nnx") for base in type(subject).__mro__):
        from flax import nnx

        every = (module for _, module in nnx.iter_modules(subject))
        drops = [module for module in every if getattr(module, "deterministic", True) is False]
    else:
        return []
    random = {
        type(module).__name__
        for module in drops
        if any(
            isinstance(getattr(module, name, None), float) and getattr(module, name)
            for name in ("p", "drop_prob", "prob", "rate")
        )
    }
    if not random:
        return []
    return [
        "it is in train mode and was judged in evaluation mode: in training "
        f"{', '.join(sorted(random))} gives something else"
    ]


def _require_patch(name: str, patch: tuple[int, ...], asked: int | tuple[int, ...] | None) -> None:
    wanted = (asked,) * len(patch) if isinstance(asked, (int, np.integer)) else asked
    if wanted is not None and tuple(wanted) != tuple(patch):
        raise PatchParityError(
            f"{name}: a kernel of patch size {tuple(patch)} was found, {asked} was asked for"
        )


def _subject(target: Any, init: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The object that is meant, built where it is a class, and its name.

    Raises:
        PatchParityError: what cannot be found, built or called.
    """
    name = (
        target
        if isinstance(target, str)
        else getattr(target, "__qualname__", type(target).__name__)
    )
    subject = load_object(target, init) if isinstance(target, str) else target
    if inspect.isclass(subject):
        name, subject = subject.__qualname__, build(subject, subject.__qualname__, init)
    elif init and not isinstance(target, str):
        raise PatchParityError(f"init is for a class that is built, and {name} is none")
    if not callable(subject):
        raise PatchParityError(f"{name} is no callable: expected a module, a layer or a function")
    return subject, name


def _kind(subject: Any, framework: str | None, name: str) -> str:
    """What an object is called with: its own framework, or of a plain function what was said."""
    if framework is not None:
        require_choice("framework", framework, FRAMEWORKS)
    kind = framework_of(subject)
    if framework is not None and kind not in (None, framework):
        raise PatchParityError(
            f"{name} is an object of {kind}: framework={framework!r} is for plain functions"
        )
    return kind or framework or "numpy"


def _is_linear(subject: Any) -> bool:
    """Whether an object is such a layer; another module with a matrix takes images, one that is
    derived of it and has a forward of its own among them."""
    return type(subject).__name__ in PRODUCTS or not any(
        "forward" in vars(base) or "call" in vars(base) or "__call__" in vars(base)
        for base in itertools.takewhile(
            lambda base: base.__name__ not in PRODUCTS, type(subject).__mro__
        )
    )


def _only_order(orders: list[str], spec: PatchEmbedSpec, name: str) -> list[str]:
    """The flatten order of a bare linear layer, which was said, or of one channel does not
    matter."""
    if len(orders) > 1 and spec.in_channels > 1:
        raise PatchParityError(
            f"{name} is a bare linear layer, which does not show in which order it takes the "
            "values of a patch: "
            f"give it (kernel_layout, --kernel-layout): {' or '.join(orders)}"
        )
    return orders[:1]


def _cut(images: NDArray[Any], spec: PatchEmbedSpec, channels_first: bool) -> NDArray[Any]:
    """Images as the patches `(B, N, K)` that a bare linear layer takes, values in the order (C, Ph,
    Pw) or (Ph, Pw, C)."""
    patches = patchify(images, spec)
    if not channels_first:
        return patches
    last = patches.reshape(*patches.shape[:2], -1, spec.in_channels)
    return last.swapaxes(2, 3).reshape(patches.shape)


def _build_keras(subject: Any, told: _Told, layout: str) -> None:
    """Call a Keras layer once, so that it has weights."""
    size = told.image_size or getattr(subject, "image_size", None) or 224
    axes = getattr(subject, "rank", 2)
    extents = (size,) * axes if isinstance(size, int) else tuple(size)[:axes]
    images = np.zeros(
        (1, told.in_channels or getattr(subject, "num_channels", 3), *extents), np.float32
    )
    try:
        subject(images_to_layout(images, layout))
    except Exception as error:
        raise PatchParityError(
            f"a {type(subject).__name__} without weights failed on images {images.shape} "
            f"({first_line(error)}): call it once before"
        ) from None
