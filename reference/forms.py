"""What may be done to images, kernels and tokens, each with its name: `fits` looks for one of
these, `two_mistakes` for one behind another."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from .pipeline import Array

Form = tuple[str, str, str]
"""Of something that was done: id, explanation, remedy."""


def functions_of(correct: Array) -> dict[str, Array]:
    """What functions that stand behind many layers make of tokens `(B, N, D)`, by their names."""
    error_function = np.vectorize(math.erf)
    with np.errstate(over="ignore"):
        smooth = 1 / (1 + np.exp(-correct))
        mean = correct.mean(-1, keepdims=True)
        spread = np.sqrt(correct.var(-1, keepdims=True) + 1e-6)
        return {
            "a ReLU": np.maximum(correct, 0),
            "a GELU": correct * 0.5 * (1 + error_function(correct / math.sqrt(2)))
            if correct.size <= 2**22
            else correct * smooth,
            "a GELU (its tanh form)": 0.5
            * correct
            * (1 + np.tanh(math.sqrt(2 / math.pi) * (correct + 0.044715 * correct**3))),
            "a SiLU": correct * smooth,
            "a sigmoid": smooth,
            "a tanh": np.tanh(correct),
            "a layer norm": (correct - mean) / spread,
            "an L2 norm": correct
            / np.maximum(np.linalg.norm(correct, axis=-1, keepdims=True), 1e-12),
        }


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
        (
            "image-shifted",
            "the images were shifted by one column",
            "look for an offset of one",
        ): np.roll(images, 1, 3),
        (
            "image-shifted-back",
            "the images were shifted back by one column",
            "look for an offset of one",
        ): np.roll(images, -1, 3),
    }
    if shape[2] == shape[3]:
        forms[
            "image-transposed",
            "rows and columns of the images were exchanged",
            "images are (B, C, rows, columns)",
        ] = images.transpose(0, 1, 3, 2)
    return forms


def kernel_forms(kernel: Array) -> Iterator[tuple[Form, Array]]:
    """Other kernels `(D, Ph, Pw, C)` than the one that was given, with what was done to it: id,
    explanation and remedy."""
    letters = "OIHW"
    oihw = kernel.transpose(0, 3, 1, 2)
    for order in itertools.permutations(range(4)):
        name = "".join(letters[axis] for axis in order)
        if name == "OIHW":
            continue
        back_again = tuple(int(each) for each in np.argsort(order))
        memory = np.ascontiguousarray(oihw.transpose(order))
        read = memory.reshape(oihw.shape).transpose(0, 2, 3, 1)
        back = (
            np.ascontiguousarray(oihw)
            .reshape(memory.shape)
            .transpose(back_again)
            .transpose(0, 2, 3, 1)
        )
        told = f"the kernel's memory, laid out as {name}, was read as OIHW"
        yield (
            (
                f"kernel-read-{name.lower()}",
                told,
                f"the kernel was read as {name}; transpose it with {back_again}",
            ),
            read,
        )
        told = f"the OIHW kernel's memory was read as {name}"
        yield (
            (
                f"kernel-read-{name.lower()}",
                told,
                f"transpose the kernel with {order} instead of reshaping it",
            ),
            back,
        )
        if memory.shape == oihw.shape:
            told = f"the kernel's axes were exchanged: {name} was taken for OIHW"
            yield (
                (f"kernel-read-{name.lower()}", told, f"transpose the kernel with {back_again}"),
                memory.transpose(0, 2, 3, 1),
            )
    yield (
        ("kernel-flipped-across", "the kernel was flipped left to right", "drop the flip"),
        kernel[:, :, ::-1],
    )
    yield (
        ("kernel-flipped-down", "the kernel was flipped top to bottom", "drop the flip"),
        kernel[:, ::-1],
    )
    told = "the kernel's channels are in reverse, BGR for RGB"
    yield ("kernel-channels-reversed", told, "reverse the kernel's channel axis"), kernel[..., ::-1]
    yield ("kernel-negated", "the kernel has the other sign", "look for a minus"), -kernel
