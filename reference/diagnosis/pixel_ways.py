"""Ways in which images may have been made of a picture: usual and unusual sizes and crops, every
filter, and what each leaves."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import PatchParityError
from ..pixel_steps import AspectCrop, Crop, Resize, Step
from ..pixels import METHODS, Size
from ..recipes import RECIPES
from ..resample import resize_bound

PERCENTS = (0.875, 0.9, 0.95, 0.96, 0.965, 0.94, 0.93, 0.92, 0.88, 0.85, 0.8, 224 / 248, 224 / 236)
"""Shares of the resized picture that are cropped: those of timm's models and of transformers'."""

FINEST = 3
"""Ways to crop that are tried with every filter: those that leave least with one filter."""


@dataclass(frozen=True)
class Arranged:
    """Images as `(H, W, C)`, and how they were."""

    array: NDArray[np.float64]
    layout: str


@dataclass(frozen=True)
class Fit:
    """One way, and what it leaves.

    Args:
        steps: of geometry.
        on_floats: whether the picture was made floats first.
        order: `rgb` or `bgr`.
        layout: of the array.
        factor, offset: of each channel, in the order of the output.
        left, rms: largest error, and rms.
        slack: how far a library's own may lie from ours.
    """

    steps: tuple[Step, ...]
    on_floats: bool
    order: str
    layout: str
    factor: tuple[float, ...]
    offset: tuple[float, ...]
    left: float
    rms: float
    slack: float = 0.0


def arranged_of(pixels: NDArray[Any]) -> list[Arranged]:
    """Ways to read the axes of images.

    Raises:
        PatchParityError: axes that are none of a picture's, or values that are not finite.
    """
    array = np.asarray(pixels, np.float64)
    if not np.isfinite(array).all():
        raise PatchParityError("pixels hold NaN or infinite values")
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or 3 not in (array.shape[0], array.shape[2]) or array.size == 0:
        raise PatchParityError(
            f"pixels of shape {pixels.shape}: expected (1, 3, H, W), (3, H, W), or channels last, "
            "of one picture"
        )
    found = []
    if array.shape[0] == 3:
        first = array.transpose(1, 2, 0)
        found += [Arranged(first, "NCHW"), Arranged(first.transpose(1, 0, 2), "NCWH")]
    if array.shape[2] == 3:
        found += [Arranged(array, "NHWC"), Arranged(array.transpose(1, 0, 2), "NWHC")]
    return found


def mirrored(arrangements: list[Arranged]) -> list[Arranged]:
    """The same mirrored, and turned by half."""
    ways = {
        "left to right": (slice(None), slice(None, None, -1)),
        "upside down": (slice(None, None, -1), slice(None)),
        "turned by 180 degrees": (slice(None, None, -1), slice(None, None, -1)),
    }
    return [
        Arranged(arranged.array[turn], f"{arranged.layout}, {words}")
        for arranged in arrangements
        for words, turn in ways.items()
    ]


Geometries = Callable[[Sequence[int], Size], list[tuple[Step, ...]]]
"""Ways to come from a size to another."""


def fits_of(
    picture: NDArray[Any],
    arrangements: list[Arranged],
    allowed: float,
    geometries: Geometries | None = None,
) -> list[Fit]:
    """Every way to crop with one filter, then the nearest ways with every filter, until one of
    them gives these images."""
    rough: list[tuple[float, Arranged, tuple[Step, ...]]] = []
    for arranged in arrangements:
        height, width = arranged.array.shape[:2]
        ways = (geometries or _geometries)(picture.shape[:2], (height, width))
        for steps in ways:
            made = _made(picture, steps, "pillow-bilinear", False)
            if made is not None and made.shape == arranged.array.shape:
                left = min(fit.rms for fit in _affine(made, arranged, steps, False))
                rough.append((left, arranged, steps))
    rough.sort(key=lambda each: each[0])
    # a filter that is rough itself leaves most where nothing is cropped: that is tried in any case
    plain = [each for each in rough[FINEST:] if len(each[2]) < 2]
    fits: list[Fit] = []
    for _, arranged, steps in [*rough[:FINEST], *plain[:2]]:
        if any(fit.left <= allowed + fit.slack for fit in fits):
            break
        if not any(isinstance(step, Resize) for step in steps):
            made = _made(picture, steps, "", False)
            fits += [] if made is None else _affine(made, arranged, steps, False)
            continue
        for method, on_floats in _methods():
            made = _made(picture, steps, method, on_floats)
            if made is not None:
                named = tuple(
                    dataclasses.replace(step, method=method) if isinstance(step, Resize) else step
                    for step in steps
                )
                slack = slack_of(picture, named, method, on_floats)
                fits += _affine(made, arranged, named, on_floats, slack)
    nothing = Fit((), False, "rgb", arrangements[0].layout, (), (), math.inf, math.inf)
    return fits or [nothing]


def slack_of(picture: NDArray[Any], steps: tuple[Step, ...], method: str, on_floats: bool) -> float:
    """How far a library's own may lie from ours, in steps of 8 bits."""
    if method in ("opencv-cubic", "opencv-lanczos4", "opencv-area") and not on_floats:
        return 1.5
    if not on_floats and method.startswith(("pillow-", "torchvision-", "opencv-")):
        return 0.0
    resize = next(step for step in steps if isinstance(step, Resize))
    size = resize.target(*picture.shape[:2])
    rules = RECIPES[method.replace("torchvision-", "torch-").removesuffix("-12")].rules(
        picture.shape[:2], size
    )
    return resize_bound(rules, picture.shape[:2], size, 255.0, 2.0**-24)


def _methods() -> Iterator[tuple[str, bool]]:
    """Filters of libraries on bytes, and those that are called on floats too."""
    for method in METHODS:
        yield method, False
    for method in METHODS:
        if method.startswith(("torchvision-", "opencv-")) and "nearest" not in method:
            yield method, True


def _geometries(size: Sequence[int], new: Size) -> list[tuple[Step, ...]]:
    """Usual ways to come to a size: resized, resized and cropped, cropped and resized."""
    some = "pillow-bilinear"
    ways: list[tuple[Step, ...]] = []
    if tuple(size) == new:
        ways.append(())
    ways.append((Resize(some, new),))
    edges = [min(new), *(math.floor(min(new) / percent) for percent in PERCENTS)]
    edges += [min(new) + 32, min(new) + 8, 256, 232, 248, 384]
    for edge in dict.fromkeys(edge for edge in edges if edge >= min(new)):
        for rounding in ("down", "even"):
            crop = Crop(new, rounding)
            ways.append((Resize(some, (edge, edge), "shortest"), crop))
            if edge > max(new):
                ways.append((Resize(some, (edge, edge)), crop))
    ways.append((Resize(some, (max(new), max(new)), "longest"), Crop(new)))
    ways.append((AspectCrop(new), Resize(some, new)))
    side = min(size)
    ways.append((Crop((side, side)), Resize(some, new)))
    if size[0] >= new[0] and size[1] >= new[1]:
        ways += [(Crop(new),), (Crop(new, "even"),)]
        for edge in (256, 384):
            if min(size) >= edge >= max(new):
                ways.append((Crop((edge, edge)), Resize(some, new)))
    return list(dict.fromkeys(ways))


def more_geometries(size: Sequence[int], new: Size) -> list[tuple[Step, ...]]:
    """Ways that nobody calls usual: every edge up to two thirds more than what is left of it, and
    the middle of the picture cut out first."""
    some, least = "pillow-bilinear", min(new)
    ways: list[tuple[Step, ...]] = [(Resize(some, new),)]
    crop = Crop(new)
    for edge in range(least, least * 5 // 3 + 1):
        ways.append((Resize(some, (edge, edge), "shortest"), crop))
        if edge >= max(new):
            ways.append((Resize(some, (edge, edge)), crop))
    sides = range(least, min(size) + 1)
    ways.extend((Crop((side, side)), Resize(some, new)) for side in sides)
    return ways


def plain_geometries(size: Sequence[int], new: Size) -> list[tuple[Step, ...]]:
    """Resized, or the middle of what was resized by its shortest edge."""
    some, edge = "pillow-bilinear", max(new)
    return [(Resize(some, new),), (Resize(some, (edge, edge), "shortest"), Crop(new))]


def _made(
    picture: NDArray[Any], steps: Sequence[Step], method: str, on_floats: bool
) -> NDArray[np.float64] | None:
    """The picture behind these steps, with one filter; None where they cannot be made."""
    made = picture.astype(np.float32) / np.float32(255) if on_floats else picture
    try:
        for step in steps:
            changed = dataclasses.replace(step, method=method) if isinstance(step, Resize) else step
            made = changed.apply(made)
    except PatchParityError:
        return None
    return made.astype(np.float64) * (255 if on_floats else 1)


def _affine(
    made: NDArray[np.float64],
    arranged: Arranged,
    steps: tuple[Step, ...],
    on_floats: bool,
    slack: float = 0.0,
) -> list[Fit]:
    """For each order of channels, the factor and offset of each channel that leave least."""
    fits = []
    if made.shape != arranged.array.shape:
        return []
    for order in ("rgb", "bgr"):
        source = made if order == "rgb" else made[..., ::-1]
        factors, offsets, left, squares = [], [], 0.0, 0.0
        for channel in range(3):
            given, wanted = source[..., channel].ravel(), arranged.array[..., channel].ravel()
            center, middle = given.mean(), wanted.mean()
            spread = float(((given - center) ** 2).sum())
            factor = float((given - center) @ (wanted - middle)) / spread if spread else 0.0
            offset = float(middle - factor * center)
            errors = factor * given + offset - wanted
            left, squares = max(left, float(np.abs(errors).max())), squares + float(errors @ errors)
            factors.append(factor)
            offsets.append(offset)
        fits.append(
            Fit(
                steps,
                on_floats,
                order,
                arranged.layout,
                tuple(factors),
                tuple(offsets),
                left,
                math.sqrt(squares / arranged.array.size),
                slack * max(map(abs, factors)),
            )
        )
    return fits
