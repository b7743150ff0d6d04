"""Live objects: read the patch embedding out of somebody's module, layer or function, with how its
users call it.

Laws: the object is never changed (training flags are put back), no framework is imported that the
object has not brought along, and what cannot be read is asked for in one sentence, not guessed. A
linear layer's flatten order is found by probe, and told.
"""

import dataclasses
import functools
import inspect
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy: a module's dtype may be it
import numpy as np
from numpy.typing import NDArray

from ...backends.base import DTYPES
from ...backends.layouts import (
    KERNEL_LAYOUTS,
    NCHW,
    NHWC,
    images_to_layout,
    kernel_from_layout,
    with_time_axis,
)
from ...reference.embed import patch_embed
from ...reference.errors import PatchParityError, require_choice
from ...reference.patches import patchify
from ...reference.sequence import embed_sequence
from ...reference.spec import PatchEmbedSpec, Remainder
from ...reference.weights import PatchEmbedWeights, SequenceLayout
from ..dialects.sizes import require_sizes
from ..files.arrays import IMAGE_LAYOUTS, kernel_sizes, read_arrays, read_own_weights
from ..files.checkpoint import first_line
from .call import LiveEmbedding, caller
from .load import build, load_object
from .parameters import ROLES, read_all
from .probing import UNLIKE, with_found_parts

FRAMEWORKS = ("torch", "keras", "flax", "numpy", "jax", "tensorflow")
"""What an object is called with: `keras` and `flax` are found by type; a plain function takes NumPy
arrays unless told otherwise."""


class SeveralKernelsError(PatchParityError):
    """An object with more than one kernel: a whole model, say, whose names may tell which is the
    patch embedding's."""


def read_live(
    target: Any,
    *,
    weights: PatchEmbedWeights | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    kernel_layout: str | None = None,
    image_layout: str | None = None,
    patch_size: int | tuple[int, ...] | None = None,
    in_channels: int | None = None,
    image_size: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: Any = None,
    framework: str | None = None,
) -> LiveEmbedding:
    """Read a patch embedding out of an object, or out of what `module:attribute` names.

    Args:
        target: an `nn.Module`, a Keras layer, a Flax module (nnx, or linen bound to its variables),
            a plain function, or a string.
        weights: canonical weights, a file, or a mapping with `kernel` and maybe `bias`; None reads
            them out of the object.
        kernel_layout: a name of `KERNEL_LAYOUTS`, for weights that are given, or for a linear
            layer's flatten order.
        image_layout: nchw or nhwc; None means what the framework's layers take.
        patch_size, in_channels, image_size, stride, padding: where they cannot be read, or to
            overrule what was read.
        framework: what a plain function takes: numpy (the default), torch, jax or tensorflow.

    Raises:
        PatchParityError: weights that cannot be found, sizes that are missing or cannot belong
            together, an object that fails.
    """
    subject, name = _subject(target)
    kind = _kind(subject, framework, name)
    given: dict[str, Any] = dict(
        patch_size=patch_size, in_channels=in_channels, image_size=image_size, stride=stride
    )
    for option, value in given.items():
        require_sizes(option, value)
    if image_layout is not None:
        require_choice("image layout", image_layout, IMAGE_LAYOUTS)
    if kernel_layout is not None:
        require_choice("kernel layout", kernel_layout, KERNEL_LAYOUTS)
    layout = IMAGE_LAYOUTS[image_layout] if image_layout else _image_layout(subject, kind)
    given["padding"] = padding
    if kind == "keras" and not getattr(subject, "built", True):
        _build_keras(subject, given, layout)
    if weights is not None:
        found, sizes = _given_weights(weights, kernel_layout, given, name)
        orders = [""]
    else:
        found, sizes, orders = _read_weights(subject, kind, kernel_layout, given, name)
    # Copied before the object is called: it may change its own.
    found.update({k: np.array(v) for k, v in found.items() if isinstance(v, np.ndarray)})
    own = {
        **found.get("own_sizes", {}),
        **_own_sizes(subject, kind, found.get("owner"), name, np.ndim(found["kernel"])),
    }
    if (
        kind == "flax"
        and found.get("owner") is None
        and np.ndim(found["kernel"]) > 2
        and weights is None
        and stride is None
    ):
        raise PatchParityError(
            f"{name} does not show the stride of the layer inside it: give it (stride, --stride), "
            "and the padding if there is some"
        )
    _require_patch(name, sizes["patch_size"], patch_size)
    try:
        spec = _spec(
            name,
            sizes,
            {**own, **{key: value for key, value in given.items() if value is not None}},
            found,
        )
        canonical = _canonical(found, spec, orders[0])
    except PatchParityError as error:
        if weights is None or isinstance(weights, PatchEmbedWeights):
            raise
        raise PatchParityError(
            f"{error} (the kernel was read as {found.get('order', 'ours')}: --kernel-layout says "
            "otherwise)"
        ) from None
    dtype = canonical.kernel.dtype.name
    if dtype not in DTYPES:
        raise PatchParityError(
            f"{name} has a kernel of dtype {dtype}: expected one of {', '.join(DTYPES)}"
        )
    is_layer = found.get("owner") is not None and found["owner"] is subject
    cut = None
    if is_layer and np.ndim(found["kernel"]) == 2:
        orders = _only_order(orders, spec, name)
        cut = functools.partial(_cut, spec=spec, channels_first=orders[0].endswith("chw"))
    call = caller(subject, kind, layout, name, is_layer, cut, spec)
    to_sequence = canonical.num_prefix_tokens > 0 or canonical.positions is not None
    live = LiveEmbedding(
        name,
        kind,  # type: ignore[arg-type]
        spec,
        canonical,
        dtype,
        to_sequence,
        call,
        (*found.get("notes", ()), *_in_training(subject)),
        KERNEL_LAYOUTS[orders[0]] if orders[0] else "",
    )
    live = _with_flatten_order(live, found, orders) if len(orders) > 1 else live
    return live if weights is not None else with_found_parts(live, subject)


def _in_training(subject: Any) -> list[str]:
    """That a torch module is judged as it is used, where it would do something else as it
    stands."""
    modules = subject.modules() if hasattr(subject, "modules") else ()
    random = {
        type(each).__name__
        for each in modules
        if getattr(each, "training", False) is True
        and any(
            isinstance(getattr(each, name, None), float) and getattr(each, name)
            for name in ("p", "drop_prob", "prob")
        )
    }
    if not random:
        return []
    return [
        "it is in train mode and was judged in evaluation mode: in training "
        f"{', '.join(sorted(random))} gives something else"
    ]


def _require_patch(name: str, found: tuple[int, ...], asked: int | tuple[int, ...] | None) -> None:
    wanted = (asked,) * len(found) if isinstance(asked, (int, np.integer)) else asked
    if wanted is not None and tuple(wanted) != tuple(found):
        raise PatchParityError(
            f"{name}: a kernel of patch size {tuple(found)} was found, {asked} was asked for"
        )


def _subject(target: Any) -> tuple[Any, str]:
    """The object that is meant, built where it is a class, and its name.

    Raises:
        PatchParityError: what cannot be found, built or called.
    """
    name = (
        target
        if isinstance(target, str)
        else getattr(target, "__qualname__", type(target).__name__)
    )
    subject = load_object(target) if isinstance(target, str) else target
    if inspect.isclass(subject):
        name, subject = subject.__qualname__, build(subject, subject.__qualname__)
    if not callable(subject):
        raise PatchParityError(f"{name} is no callable: expected a module, a layer or a function")
    return subject, name


def _kind(subject: Any, framework: str | None, name: str) -> str:
    """What an object is called with: its own framework, or of a plain function what was said."""
    if framework is not None:
        require_choice("framework", framework, FRAMEWORKS)
    own = _framework(subject)
    if framework is not None and own not in (None, framework):
        raise PatchParityError(
            f"{name} is an object of {own}: framework={framework!r} is for plain functions"
        )
    return own or framework or "numpy"


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


def _framework(subject: Any) -> str | None:
    """The framework that an object's type comes from, told without importing any."""
    for base in type(subject).__mro__:
        root = base.__module__.split(".")[0]
        if base.__module__.startswith("torch.nn"):
            return "torch"
        if root in ("keras", "keras_hub") and hasattr(subject, "built"):
            return "keras"
        if root == "flax":
            return "flax"
    return None


def _image_layout(subject: Any, kind: str) -> str:
    if kind == "keras" and hasattr(subject, "_flatten_layers"):
        formats = [getattr(layer, "data_format", None) for layer in subject._flatten_layers()]
        return NCHW if "channels_first" in formats else NHWC
    return NHWC if kind in ("keras", "flax", "jax", "tensorflow") else NCHW


def _build_keras(subject: Any, given: dict[str, Any], layout: str) -> None:
    """Call a Keras layer once, so that it has weights."""
    size = given["image_size"] or getattr(subject, "image_size", None) or 224
    axes = getattr(subject, "rank", 2)
    extents = (size,) * axes if isinstance(size, int) else tuple(size)[:axes]
    images = np.zeros(
        (1, given["in_channels"] or getattr(subject, "num_channels", 3), *extents), np.float32
    )
    try:
        subject(images_to_layout(images, layout))
    except Exception as error:
        raise PatchParityError(
            f"a {type(subject).__name__} without weights failed on images {images.shape} "
            f"({first_line(error)}): call it once before"
        ) from None


def _read_weights(
    subject: Any, kind: str, kernel_layout: str | None, given: dict[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Sort an object's parameters into kernel, bias, prefix tokens and positions; the kernel's
    layouts that come into question."""
    found: dict[str, Any] = {}
    rest: dict[str, tuple[NDArray[Any], Any]] = {}
    buffers = (
        {buffer for buffer, _ in subject.named_buffers()}
        if hasattr(subject, "named_buffers")
        else set()
    )
    for parameter, value, owner in read_all(subject, kind):
        role = next(
            (role for role, pattern in ROLES.items() if re.search(pattern, parameter)), None
        )
        if value.dtype.kind in "iub":  # indices of positions, counters: no weight is an integer
            if parameter.endswith("position_ids"):
                found["position_ids"] = value.reshape(-1)
            else:
                found.setdefault("notes", []).append(
                    f"{parameter} {value.shape} holds integers, and was not read"
                )
        elif role is not None:
            found[role] = value
        elif parameter in buffers:
            found.setdefault("notes", []).append(f"buffer {parameter} {value.shape} was not read")
        else:
            rest[parameter] = (value, owner)
    kernels = {parameter: value for parameter, (value, _) in rest.items() if value.ndim >= 2}
    listed = _listed(rest)
    if len(kernels) != 1:
        kind_of_error = SeveralKernelsError if kernels else PatchParityError
        raise kind_of_error(
            f"{name} holds {listed}: expected one kernel; name the layer or the embeddings that "
            "hold it, or give the weights"
        )
    (kernel_name,) = kernels
    found["kernel"], found["owner"] = rest.pop(kernel_name)
    parent = re.split(r"[./][^./]*$", kernel_name)[0] if re.search(r"[./]", kernel_name) else ""
    biases = [
        other
        for other in rest
        if other.endswith("bias") and re.sub(r"[./]?[^./]*$", "", other) == parent
    ]
    if biases:
        found["bias"] = rest.pop(biases[0])[0]
    if rest:
        listed = _listed(rest)
        raise PatchParityError(
            f"{name} holds {listed} beside its kernel, which no linear patch embedding has: name "
            "the projection alone"
        )
    kernel = found["kernel"]
    if kernel.ndim == 2:
        orders = ["linear-chw", "linear-hwc"] if kind == "torch" else ["dense-hwc", "dense-chw"]
        if kernel_layout is not None:
            orders = [kernel_layout]
        if given["patch_size"] is None:
            raise PatchParityError(
                f"{name} holds a matrix {kernel.shape}, which does not show the patch size: give "
                "it (patch_size, --patch-size)"
            )
        return found, _matrix_sizes(kernel, orders[0], given, name), orders
    order = kernel_layout or ("oihw" if kind == "torch" else "hwio")
    embed_dim, patch = kernel_sizes(kernel, _pattern(order, kernel.ndim), given["patch_size"])
    channels = kernel.size // (embed_dim * math.prod(patch))
    return found, {"embed_dim": embed_dim, "patch_size": patch, "in_channels": channels}, [order]


def _listed(parameters: Mapping[str, tuple[NDArray[Any], Any]]) -> str:
    """The first parameters and their shapes, and how many there are."""
    told = [f"{parameter} {value.shape}" for parameter, (value, _) in parameters.items()]
    return (
        ", ".join([*told[:5], *([f"... ({len(told)} in all)"] if len(told) > 5 else [])])
        or "nothing"
    )


def _pattern(order: str, axes: int) -> str:
    if axes not in (2, 4, 5):
        raise PatchParityError(
            f"a kernel of {axes} axes cannot be read out of an object: expected 2 (a matrix), 4, "
            "or 5 (tubelets)"
        )
    return with_time_axis(KERNEL_LAYOUTS[order], axes - 2)


def _matrix_sizes(
    kernel: NDArray[Any], order: str, given: dict[str, Any], name: str
) -> dict[str, Any]:
    embed_dim, values = (
        kernel.shape if KERNEL_LAYOUTS[order].startswith("D") else kernel.shape[::-1]
    )
    size = given["patch_size"]
    patch = (size, size) if isinstance(size, int) else tuple(size)
    channels, left = divmod(values, math.prod(patch))
    if left or not channels or given["in_channels"] not in (None, channels):
        wanted = "" if given["in_channels"] is None else f" and {given['in_channels']} channels"
        raise PatchParityError(
            f"{name} holds a matrix {kernel.shape}: {values} values are no patch of {patch}{wanted}"
        )
    return {"embed_dim": embed_dim, "patch_size": patch, "in_channels": channels}


def _given_weights(
    weights: Any, kernel_layout: str | None, given: dict[str, Any], name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    own_sizes: dict[str, Any] = {}
    if isinstance(weights, (str, os.PathLike)):
        if own := read_own_weights(weights):
            weights, spec = own
            own_sizes = {
                name: getattr(spec, name)
                for name in ("stride", "padding", "image_size", "remainder")
            }
        else:
            weights = read_arrays(weights)
    if isinstance(weights, PatchEmbedWeights):
        embed_dim, *patch, channels = weights.kernel.shape
        sizes = {"embed_dim": embed_dim, "patch_size": tuple(patch), "in_channels": channels}
        return {"canonical": weights, "kernel": weights.kernel, "own_sizes": own_sizes}, sizes
    if not isinstance(weights, Mapping):
        raise PatchParityError(
            f"the weights given for {name} are a {type(weights).__name__}: expected a file, a "
            "mapping or PatchEmbedWeights"
        )
    arrays = {key: np.asarray(value) for key, value in weights.items()}
    if "kernel" not in arrays:
        raise PatchParityError(
            f"the weights given for {name} hold {', '.join(sorted(arrays)) or 'nothing'}: expected "
            "'kernel'"
        )
    order, kernel = kernel_layout or "oihw", arrays["kernel"]
    embed_dim, patch = kernel_sizes(kernel, KERNEL_LAYOUTS[order], given["patch_size"])
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch)
    sizes = {
        "embed_dim": embed_dim,
        "patch_size": sides,
        "in_channels": kernel.size // (embed_dim * math.prod(sides)),
    }
    return {"kernel": kernel, "bias": arrays.get("bias"), "order": order}, sizes


_NOT_PLAIN = {
    "groups": 1,
    "feature_group_count": 1,
    "dilation": 1,
    "dilation_rate": 1,
    "kernel_dilation": 1,
    "input_dilation": 1,
    "padding_mode": "zeros",
}
"""Settings of convolution layers that no patch embedding has, with the value that turns each
off."""


def _own_sizes(subject: Any, kind: str, owner: Any, name: str, kernel_axes: int) -> dict[str, Any]:
    """Stride, padding and, of images, their size that an object knows itself (of a video no
    attribute tells the frames by one name).

    Raises:
        PatchParityError: a layer that is no plain convolution (groups, dilation, padding with other
            than zeros).
    """
    told: dict[str, Any] = {}
    for setting, off in _NOT_PLAIN.items():
        value = getattr(owner, setting, None)
        values = set(value) if isinstance(value, (tuple, list)) else {value}
        if not values <= {off, None}:
            raise PatchParityError(f"{name} has {setting}={value!r}: a patch embedding has {off!r}")
    shown = [
        getattr(owner, attribute)
        for attribute in ("stride", "strides")
        if hasattr(owner, attribute)
    ]
    if shown:
        stride = 1 if shown[0] is None else shown[0]
        told["stride"] = int(stride) if isinstance(stride, (int, np.integer)) else tuple(stride)
    padding = getattr(owner, "padding", None)
    if isinstance(padding, str):
        told["padding"] = padding.lower()
    elif padding is not None:
        told["padding"] = (
            padding
            if isinstance(padding, int)
            else tuple(tuple(p) if isinstance(p, (tuple, list)) else p for p in padding)
        )
    parts: list[Any] = [subject]
    for inside in ("modules", "_flatten_layers"):
        if kind in ("torch", "keras") and hasattr(subject, inside):
            parts = list(getattr(subject, inside)())
            break
    for part in parts:
        size = getattr(part, "image_size", getattr(part, "img_size", None))
        if kernel_axes < 5 and (
            isinstance(size, int) or (isinstance(size, (tuple, list)) and len(size) >= 2)
        ):
            told["image_size"] = size if isinstance(size, int) else tuple(size)[:2]
            break
    return told


def _spec(
    name: str, sizes: dict[str, Any], told: dict[str, Any], found: dict[str, Any]
) -> PatchEmbedSpec:
    told = {
        **told,
        "patch_size": sizes["patch_size"],
        "in_channels": told.get("in_channels") or sizes["in_channels"],
    }
    if told["in_channels"] != sizes["in_channels"]:
        raise PatchParityError(
            f"{name}: a kernel of {sizes['in_channels']} channels was found, {told['in_channels']} "
            "were asked for"
        )
    patch = told["patch_size"]
    step = patch if told.get("stride") is None else told["stride"]
    steps = (step,) * len(patch) if isinstance(step, int) else step
    if len(steps) != len(patch):
        raise PatchParityError(
            f"{name}: stride {tuple(steps)} has {len(steps)} axes, the patch {tuple(patch)} "
            f"{len(patch)}"
        )
    positions = found.get("positions")
    size = told.get("image_size")
    if size is None and positions is not None and len(patch) > 2:
        raise PatchParityError(
            f"{name} holds positions of a video, and nothing tells its size: give it (image_size, "
            "--image-size)"
        )
    if size is None and positions is not None:
        rows = positions.reshape(-1, sizes["embed_dim"]).shape[0]
        sides = [
            math.isqrt(rows - extra)
            for extra in range(3)
            if math.isqrt(rows - extra) ** 2 == rows - extra
        ]
        if not sides:
            raise PatchParityError(
                f"{name} holds {rows} rows of positions, no square grid: give the image size "
                "(--image-size)"
            )
        size = tuple(p + (sides[0] - 1) * s for p, s in zip(patch, steps, strict=True))
    if size is None:  # not square, so that rows and columns cannot be mistaken for one another
        size = tuple(
            p + (2 + axis) * s for axis, (p, s) in enumerate(zip(patch, steps, strict=True))
        )
    padding = told.get("padding", 0)
    if isinstance(padding, str) and padding not in ("valid", "same"):
        raise PatchParityError(
            f"{name}: padding {padding!r}: expected valid, same, or numbers of zeros"
        )
    amount = 0 if isinstance(padding, str) else padding
    remainder: Remainder = "same" if padding == "same" else told.get("remainder", "floor")
    return PatchEmbedSpec(
        size, patch, told["in_channels"], sizes["embed_dim"], steps, amount, remainder
    )


def _canonical(found: dict[str, Any], spec: PatchEmbedSpec, order: str) -> PatchEmbedWeights:
    if "canonical" in found:
        weights: PatchEmbedWeights = found["canonical"]
        weights.check_spec(spec)
        return weights
    D = spec.embed_dim
    arrays: dict[str, Any] = {
        "kernel": np.ascontiguousarray(
            kernel_from_layout(found["kernel"], KERNEL_LAYOUTS[order or found["order"]], spec)
        ),
        "bias": found.get("bias"),
    }
    for token in ("class_token", "distillation_token"):
        if token in found:
            if found[token].size != D:
                raise PatchParityError(
                    f"{token} of shape {found[token].shape}: expected {D} values, one token"
                )
            arrays[token] = found[token].reshape(D)
    for table in ("register_tokens", "positions"):
        if table in found:
            arrays[table] = found[table].reshape(-1, D)
    ids = found.get("position_ids")
    if (
        "positions" in arrays
        and ids is not None
        and ids.size
        and 0 <= ids.min() <= ids.max() < len(arrays["positions"])
    ):
        # the rows that it takes, which need not be all in their order
        arrays["positions"] = arrays["positions"][ids]
    weights = PatchEmbedWeights(
        **{key: value for key, value in arrays.items() if key != "positions"}
    )
    if "positions" not in arrays:
        return weights
    extra = arrays["positions"].shape[0] - spec.num_patches
    single = [token for token in ("class_token", "distillation_token") if token in arrays]
    registers = arrays["register_tokens"].shape[0] if "register_tokens" in arrays else 0
    choices = {
        0: (),
        len(single): tuple(single),
        len(single) + registers: (*single, "register_tokens"),
    }
    if extra not in choices:
        raise PatchParityError(
            f"positions of shape {arrays['positions'].shape} fit no grid of {spec.num_patches} "
            "patches with "
            f"{len(single) + registers} prefix tokens: give the image size (--image-size)"
        )
    layout = SequenceLayout(positioned=choices[extra])  # type: ignore[arg-type]
    return dataclasses.replace(weights, positions=arrays["positions"], layout=layout)


def _with_flatten_order(
    live: LiveEmbedding, found: dict[str, Any], orders: list[str]
) -> LiveEmbedding:
    """Choose a linear layer's flatten order: the one whose result lies nearest to the object's, on
    random images."""
    if live.spec.in_channels == 1:
        return live
    images = np.random.default_rng(0).standard_normal(live.spec.images_shape(2)).astype(live.dtype)
    observed = live.call(images)
    distances = {}
    for order in orders:
        weights = _canonical(found, live.spec, order).astype(np.float64)
        embed = embed_sequence if live.to_sequence else patch_embed
        expected = embed(images, weights, live.spec)
        if expected.shape != observed.shape:
            return live
        distances[order] = float(np.mean((observed.astype(np.float64) - expected) ** 2))
    best = min(distances, key=distances.__getitem__)
    names = {"chw": "(C, Ph, Pw)", "hwc": "(Ph, Pw, C)"}
    if not distances[best] < UNLIKE**2 * float(np.mean(observed.astype(np.float64) ** 2)):
        note = (
            f"no flatten order of the linear layer explains its output; {names[best[-3:]]} "
            f"comes nearest (--kernel-layout {best})"
        )
    else:
        note = (
            f"the linear layer's flatten order was found by probe: {names[best[-3:]]} "
            f"(--kernel-layout {best})"
        )
    weights = _canonical(found, live.spec, best)
    return dataclasses.replace(
        live, weights=weights, notes=(*live.notes, note), kernel_layout=KERNEL_LAYOUTS[best]
    )
