"""What may be done to images, kernels and tokens, each with its name: `fits` looks for one of
these, `two_mistakes` for one behind another."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import PatchParityError
from ..patches import patchify, unpatchify
from ..pipeline import Array, Pipeline
from ..spec import PatchEmbedSpec

Form = tuple[str, str, str]
"""Of something that was done: id, explanation, remedy."""


def _normalized(values: Array, axis: int | tuple[int, ...], epsilon: float) -> Array:
    mean = values.mean(axis, keepdims=True)
    return (values - mean) / np.sqrt(values.var(axis, keepdims=True) + epsilon)


def _sigmoid(values: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * values))


def _softmax(values: Array, axis: int) -> Array:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


_ERROR_FUNCTION = np.vectorize(math.erf, otypes=[np.float64])

FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "a ReLU": lambda x: np.maximum(x, 0),
    "a GELU (its tanh form)": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "a GELU": lambda x: x * 0.5 * (1 + _ERROR_FUNCTION(x / math.sqrt(2))),
    "a GELU (its quick form)": lambda x: x * _sigmoid(1.702 * x),
    "a SiLU": lambda x: x * _sigmoid(x),
    "a sigmoid": _sigmoid,
    "a tanh": np.tanh,
    "a leaky ReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "an ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "a softplus": lambda x: np.logaddexp(x, 0),
    "a hard swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "an absolute value": np.abs,
    "a softmax over the width": lambda x: _softmax(x, -1),
    "a softmax over the tokens": lambda x: _softmax(x, 1),
    "a layer norm": lambda x: _normalized(x, -1, 1e-6),
    "a layer norm (its epsilon 1e-5)": lambda x: _normalized(x, -1, 1e-5),
    "a layer norm (its epsilon 1e-3)": lambda x: _normalized(x, -1, 1e-3),
    "an RMS norm": lambda x: x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6),
    "an L2 norm": lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12),
    "an instance norm": lambda x: _normalized(x, 1, 1e-5),
    "a batch norm": lambda x: _normalized(x, (0, 1), 1e-5),
}
"""What stands behind many layers, of tokens `(B, N, D)`, by name."""

OVER_WIDTH = ("a softmax over the width", "a layer norm", "an RMS norm", "an L2 norm")
OVER_TOKENS = ("a softmax over the tokens", "an instance norm", "a batch norm")
"""Beginnings of the names of functions that take a whole token, or a whole channel."""

SLOW = {"a GELU": "a GELU (its tanh form)"}
"""Functions that take their time, and the one that they are within a hundredth of."""


def pixel_forms(images: Array) -> dict[Form, Array]:
    """Other images `(B, C, H, W)` than those that were given, by what was done to them: id,
    explanation and remedy."""
    shape = images.shape
    forms = {
        (
            "image-flipped",
            "the images were flipped left to right",
            "drop the flip (an augmentation that stayed on?)",
        ): images[..., ::-1],
        (
            "image-upside-down",
            "the images were turned upside down",
            "read rows from the top",
        ): images[:, :, ::-1],
        (
            "image-turned",
            "the images were turned by 180 degrees",
            "read rows from the top, columns from the left",
        ): images[:, :, ::-1, ::-1],
        (
            "image-nhwc-viewed",
            "images in NHWC memory were viewed as NCHW",
            "transpose the images: permute(0, 3, 1, 2); view keeps the order of the memory",
        ): np.ascontiguousarray(images.transpose(0, 2, 3, 1)).reshape(shape),
        (
            "image-nchw-viewed",
            "images in NCHW memory were viewed as NHWC",
            "transpose the images: permute(0, 2, 3, 1); view keeps the order of the memory",
        ): np.ascontiguousarray(
            images.reshape(shape[0], *shape[2:], shape[1]).transpose(0, 3, 1, 2)
        ),
        (
            "image-first-for-all",
            "the first image was used for the whole batch",
            "look for an index that is not advanced",
        ): np.repeat(images[:1], len(images), 0),
        (
            "image-clamped",
            "the pixels were clamped to 0..1",
            "normalize after the clamp, or drop it",
        ): images.clip(0, 1),
        (
            "image-integers",
            "the pixels were cut to integers",
            "convert to floats before normalizing",
        ): np.trunc(images),
    }
    for (name, words), values in _standardized(images).items():
        forms[name, words, "preprocess the images as the checkpoint was trained"] = values
    for axis, line in ((3, "column"), (2, "row")):
        for by, back in ((1, ""), (-1, " back")):
            rolled = np.roll(images, by, axis)
            filled = rolled.copy()
            filled[(slice(None),) * axis + (0 if by > 0 else -1,)] = 0
            name = "image-shifted-back" if back else "image-shifted"
            kept = rolled.copy()
            edge = 0 if by > 0 else -1
            kept[(slice(None),) * axis + (edge,)] = images[(slice(None),) * axis + (edge,)]
            for detail, values in (
                (", round the edge", rolled),
                ("", filled),
                (", and the edge was repeated", kept),
            ):
                words = f"the images were shifted{back} by one {line}{detail}"
                forms[name, words, "look for an offset of one"] = values
    if shape[2] == shape[3]:
        for turns, side in ((1, "left"), (3, "right")):
            forms[
                "image-turned",
                f"the images were turned to the {side}, by 90 degrees",
                "read rows from the top, columns from the left",
            ] = np.rot90(images, turns, (2, 3))
        forms[
            "image-transposed",
            "rows and columns of the images were exchanged",
            "images are (B, C, rows, columns)",
        ] = images.transpose(0, 1, 3, 2)
    return forms


def _standardized(images: Array) -> dict[tuple[str, str], Array]:
    """Images of which means were taken away that are their own, or the batch's."""
    forms = {}
    if len(images) > 1:
        explanation = "the mean of the batch was taken away from every image"
        forms["image-batch-mean", explanation] = images - images.mean(0)
    axes = tuple(range(1, images.ndim))
    for over, whose in ((axes, "its own mean"), (axes[1:], "the mean of each of its channels")):
        centered = images - images.mean(over, keepdims=True)
        explanation = f"{whose} was taken away from every image"
        forms["image-centered", explanation] = centered
        for less, words in ((0, "n"), (1, "n − 1")):
            spread = np.maximum(centered.std(over, keepdims=True, ddof=less), 1e-12)
            divided = f"{explanation}, and it was divided by its deviation (over {words})"
            forms["image-standardized", divided] = centered / spread
    return forms


def cut_forms(images: Array, spec: PatchEmbedSpec) -> Iterator[tuple[Form, Array]]:
    """Images whose patches are those that another cut of the given ones makes: memory viewed as
    patches, patches reshaped without a transpose, every so-manyth pixel; and, where something is
    left over at the edge, another part of the image."""
    shape, patch, grid = images.shape, spec.patch_size, spec.grid
    if spec.spatial_axes != 2:
        return
    over = [
        size - (count - 1) * step - extent
        for size, count, step, extent in zip(spec.image_size, grid, spec.stride, patch, strict=True)
    ]
    if spec.remainder == "floor" and not any(map(any, spec.padding)) and any(over):
        for name, place, starts in (
            ("image-cut-at-the-end", "at the end", over),
            ("image-cut-in-the-middle", "in the middle", [pixels // 2 for pixels in over]),
        ):
            words = f"the part of the images that patches fill was taken {place}, not at the start"
            moved = np.roll(images, [-start for start in starts], (2, 3))
            yield (
                (name, words, "leave the rest out at the end: images[:, :, :rows, :columns]"),
                moved,
            )
    if not spec.tiles or images[0].size != spec.num_patches * spec.patch_values:
        return
    of_patch = (len(images), spec.num_patches, spec.in_channels, *patch)
    mend = "cut the patches: reshape to (B, C, rows, P, columns, P), then permute"
    for memory, held in (("NCHW", images), ("NHWC", images.transpose(0, 2, 3, 1))):
        memory_of: Array = np.ascontiguousarray(held)
        view = memory_of.reshape(len(images), spec.num_patches, spec.patch_values)
        words = (
            f"the images' memory ({memory}) was viewed as (B, N, K): a patch is then a run of "
            "pixels and no square"
        )
        channels_first = view.reshape(of_patch).transpose(0, 1, 3, 4, 2).reshape(view.shape)
        for cut in (view, channels_first):
            yield ("image-viewed-as-patches", words, mend), unpatchify(cut, spec)
    whole = patchify(images, spec)
    first = whole.reshape(len(images), -1, *patch, spec.in_channels).transpose(0, 1, 4, 2, 3)
    columns = np.ascontiguousarray(first.reshape(whole.shape).swapaxes(1, 2)).reshape(of_patch)
    words = "unfold's (B, K, N) was reshaped to (B, N, K) instead of transposed"
    form = ("unfold-reshaped", words, "transpose(1, 2) behind unfold")
    yield form, unpatchify(columns.transpose(0, 1, 3, 4, 2).reshape(whole.shape), spec)
    rows, cols = (grid[0], patch[0]), (grid[1], patch[1])
    split = {
        "rows and columns": (rows[::-1], cols[::-1]),
        "rows": (rows[::-1], cols),
        "columns": (rows, cols[::-1]),
    }
    for which, ((a, b), (c, d)) in split.items():
        parts = images.reshape(*shape[:2], a, b, c, d)
        order = [0, 1, 2, 3, 4, 5]
        if "rows" in which:
            order[2], order[3] = 3, 2
        if "columns" in which:
            order[4], order[5] = 5, 4
        words = (
            f"patches were cut with {which} split as (P, grid) for (grid, P): every so-manyth pixel"
        )
        yield ("patches-strided", words, mend), parts.transpose(order).reshape(shape)


def other_images(p: Pipeline) -> Iterator[tuple[Form, Pipeline]]:
    """Programs that see other images than those that were given, of as many patches."""
    if p.spec.spatial_axes != 2:
        return
    for form, images in (*pixel_forms(p.images).items(), *cut_forms(p.images, p.spec)):
        yield form, dataclasses.replace(p, images=np.ascontiguousarray(images))
    spec = p.spec
    if spec.image_size[0] != spec.image_size[1] and spec.patch_size[0] == spec.patch_size[1]:
        form = (
            "image-transposed",
            "rows and columns of the images were exchanged",
            "images are (B, C, rows, columns)",
        )
        turned = spec.replace(
            image_size=spec.image_size[::-1],
            stride=spec.stride[::-1],
            padding=spec.padding[::-1],
        )
        images = np.ascontiguousarray(p.images.swapaxes(2, 3))
        yield form, dataclasses.replace(p, images=images, spec=turned)


def other_sizes(spec: PatchEmbedSpec) -> Iterator[tuple[Form, PatchEmbedSpec]]:
    """The same kernel at another stride, or with another padding."""
    if spec.remainder == "same":
        return
    pads = [before for before, _ in spec.padding]
    changes: list[tuple[str, dict[str, Any]]] = [
        (
            f"the stride was {factor} times what it should be",
            {"stride": tuple(step * factor for step in spec.stride)},
        )
        for factor in (2, 3)
    ]
    changes += [
        (
            f"the stride is off by {more}",
            {"stride": tuple(max(step + more, 1) for step in spec.stride)},
        )
        for more in (-1, 1, 2)
    ]
    changes += [
        (
            f"the padding was {more} more on each side",
            {"padding": tuple(pad + more for pad in pads)},
        )
        for more in (1, 2, 3)
    ]
    changes += [
        (
            f"the padding was {more} less on each side",
            {"padding": tuple(max(pad - more, 0) for pad in pads)},
        )
        for more in (1, 2, 3)
    ]
    changes += [
        ("no padding was used", {"padding": 0}),
        (
            "half of the kernel was used as padding",
            {"padding": tuple(size // 2 for size in spec.patch_size)},
        ),
    ]
    mend = "set stride and padding to what the model says"
    for words, change in changes:
        try:
            other = spec.replace(**change, remainder="floor")
        except PatchParityError:
            continue
        if (other.stride, other.padding) != (spec.stride, spec.padding):
            yield ("sizes-differ", words, mend), other


def kernel_forms(kernel: Array) -> Iterator[tuple[Form, Array]]:
    """Other kernels `(D, Ph, Pw, C)` than the one that was given, with what was done to it: id,
    explanation and remedy."""
    letters = "OIHW"
    oihw = kernel.transpose(0, 3, 1, 2)
    for order in itertools.permutations(range(4)):
        name = "".join(letters[axis] for axis in order)
        if name == "OIHW":
            continue
        back_again = tuple(int(axis) for axis in np.argsort(order))
        memory = np.ascontiguousarray(oihw.transpose(order))
        read = memory.reshape(oihw.shape).transpose(0, 2, 3, 1)
        back = (
            np.ascontiguousarray(oihw)
            .reshape(memory.shape)
            .transpose(back_again)
            .transpose(0, 2, 3, 1)
        )
        explanation = f"the kernel's memory, laid out as {name}, was read as OIHW"
        yield (
            (
                f"kernel-read-{name.lower()}",
                explanation,
                f"the kernel is {name}: transpose it with {back_again}",
            ),
            read,
        )
        explanation = f"the OIHW kernel's memory was read as {name}"
        yield (
            (
                f"kernel-read-{name.lower()}",
                explanation,
                f"transpose the kernel with {order} instead of reshaping it",
            ),
            back,
        )
        if memory.shape == oihw.shape:
            explanation = f"the kernel's axes were exchanged: {name} was taken for OIHW"
            yield (
                (
                    f"kernel-read-{name.lower()}",
                    explanation,
                    f"transpose the kernel with {back_again}",
                ),
                memory.transpose(0, 2, 3, 1),
            )
    if kernel.shape[1] == kernel.shape[2]:
        for turns, side in ((1, "left"), (3, "right")):
            yield (
                ("kernel-turned", f"the kernel was turned to the {side}, by 90 degrees", "drop it"),
                np.rot90(kernel, turns, (1, 2)),
            )
    yield (
        ("kernel-flipped-across", "the kernel was flipped left to right", "drop the flip"),
        kernel[:, :, ::-1],
    )
    yield (
        ("kernel-flipped-down", "the kernel was flipped top to bottom", "drop the flip"),
        kernel[:, ::-1],
    )
    explanation = "the kernel's channels are in reverse, BGR for RGB"
    yield (
        ("kernel-channels-reversed", explanation, "reverse the kernel's channel axis"),
        kernel[..., ::-1],
    )
    yield ("kernel-negated", "the kernel has the other sign", "look for a minus"), -kernel
