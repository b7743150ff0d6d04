"""How were these images made of this picture? Every filter of every library, cropped in every usual
way, is tried; what is left is a factor and an offset for each channel."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..answer import Answer
from ..errors import PatchParityError, require_array
from ..fold import CLIP, IMAGENET
from ..pixel_steps import (
    AspectCrop,
    Crop,
    Divide,
    Normalize,
    PixelRecipe,
    Rescale,
    Resize,
    Round,
    Step,
)
from ..pixels import METHODS, Size
from ..recipes import RECIPES
from ..resample import resize_bound

KNOWN = {
    "ImageNet's": IMAGENET,
    "OpenAI CLIP's": CLIP,
    "one half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Means and standard deviations, of pixels from 0 to 1, that image processors have."""

PERCENTS = (0.875, 0.9, 0.95, 0.96, 0.965, 0.94, 0.93, 0.92, 0.88, 0.85, 0.8, 224 / 248, 224 / 236)
"""Shares of the resized picture that are cropped: those of timm's models and of transformers'."""

FINEST = 3
"""Ways to crop that are tried with every filter: those that leave least with one filter."""


@dataclass(frozen=True, repr=False)
class PixelDiagnosis(Answer):
    """How images were made of a picture.

    Args:
        correct: whether it is as expected; where nothing was, whether it was found.
        status: `correct`; `unique`; `tied`, where several ways give the same bits; `unknown`.
        recipes: the ways that give these images.
        explanation: in words; where something else was expected, the step where they part.
        left: largest error of the best way, as a share of the range of the images.
        layout: where the channels stand in the array, and whether they are reversed.
    """

    correct: bool
    status: Literal["correct", "unique", "tied", "unknown"]
    recipes: tuple[PixelRecipe, ...]
    explanation: str
    left: float
    layout: str = ""
    normalization: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The answer, and what is told of layout and normalization."""
        return [f"{self.status}: {self.explanation}"]

    @property
    def ok(self) -> bool:
        """Whether it is correct."""
        return self.correct

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data, ready for JSON."""
        return {
            "correct": self.correct,
            "status": self.status,
            "recipes": [recipe.words() for recipe in self.recipes],
            "explanation": self.explanation,
            "left": self.left,
            "layout": self.layout,
            "normalization": self.normalization,
        }


@dataclass(frozen=True)
class _Arranged:
    """Images as `(H, W, C)`, and how they were."""

    array: NDArray[np.float64]
    layout: str


@dataclass(frozen=True)
class _Fit:
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


def diagnose_pixels(
    picture: NDArray[Any], pixels: NDArray[Any], *, expected: PixelRecipe | None = None
) -> PixelDiagnosis:
    """Say how images were made of a picture: by which filter, antialiased or not, cropped before or
    behind, by which mean and std, in which order of channels and axes.

    Args:
        picture: `(H, W, 3)`, uint8.
        pixels: what an image processor made of it: `(1, C, H, W)`, `(C, H, W)`, or channels last.
        expected: the steps that it should have made (`patchparity.preprocess` reads them from a
            file).

    Raises:
        PatchParityError: a picture of another type, images of other axes or with values that are
            not finite.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> rows, columns = np.mgrid[:96, :128]
        >>> photo = np.stack([rows * 2, columns, (rows * columns) % 251], -1).astype(np.uint8)
        >>> made = patchparity.resize_pixels(photo, (64, 64), "pillow-bicubic") / np.float32(255)
        >>> patchparity.diagnose_pixels(photo, made).explanation.partition(";")[0]
        'resized to 64×64 by pillow-bicubic, then divided by 255'
    """
    require_array("picture", picture)
    require_array("pixels", pixels)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise PatchParityError(
            f"picture of shape {picture.shape} and dtype {picture.dtype}: expected (H, W, 3), uint8"
        )
    arrangements = _arranged(pixels)
    allowed = _allowed(pixels)
    if expected is not None and (left := _apart(picture, pixels, expected)) is not None:
        return PixelDiagnosis(
            True,
            "correct",
            (expected,),
            f"as {expected.name}: {expected.words()}",
            left,
            arrangements[0].layout,
        )
    if np.ptp(picture.reshape(-1, 3), axis=0).min() == 0 or min(picture.shape[:2]) < 2:
        return _untold("a channel of the picture has one value, or it is one pixel wide")
    if np.ptp(arrangements[0].array.reshape(-1, 3), axis=0).min() == 0:
        return _untold("a channel of the images has one value")
    fits = _fits(picture, arrangements, allowed)
    scale = float(np.ptp(arrangements[0].array)) or 1.0
    best = min(fit.left for fit in fits)
    if not any(fit.left <= allowed + fit.slack for fit in fits):
        upright = [each for each in arrangements if each.layout in ("NCHW", "NHWC")]
        fits += _fits(picture, _mirrored(upright), allowed, _plain_geometries)
        fits += _fits(picture, upright, allowed, _more_geometries)
    near = [fit for fit in fits if fit.left <= allowed]
    # of what libraries compute in floats, or OpenCV in sums of them: what its rounding may leave
    near = near or [fit for fit in fits if fit.left <= allowed + fit.slack]
    if not near:
        nearest = min(fits, key=lambda fit: fit.rms)
        words = ", then ".join(step.words() for step in nearest.steps) or "not resized"
        return PixelDiagnosis(
            False,
            "unknown",
            (),
            f"no known way gives these images: the nearest, {words}, leaves "
            f"{nearest.left / scale:.2g} of their range",
            nearest.left / scale,
        )
    least = min(fit.rms for fit in near)
    near = [fit for fit in near if fit.rms <= ALIKE * least + allowed / ALIKE]
    # of ways that fit, those that say least beside the plain order of things
    near.sort(key=_plainness)
    shape = near[0].layout, near[0].order
    near = [fit for fit in near if (fit.layout, fit.order) == shape]
    # Pillow's two orders, where they give the same
    held = {_ways(fit) for fit in near}
    near = [
        fit for fit in near if "-12" not in _ways(fit) or _ways(fit).replace("-12", "") not in held
    ]
    return _answer(near, best / scale, expected)


def _apart(picture: NDArray[Any], pixels: NDArray[Any], expected: PixelRecipe) -> float | None:
    """How far images lie from what these steps make of the picture, as a share of their range; None
    where they are others."""
    try:
        made = expected.run(picture).astype(np.float64)
    except PatchParityError:
        return None
    given = np.asarray(pixels, np.float64)
    given = given[None] if given.ndim == 3 else given
    if given.shape != made.shape:
        return None
    errors, slack, factor = np.abs(given - made), 0.0, 1.0
    for place, step in enumerate(expected.steps):
        if isinstance(step, Resize):  # on floats where something is computed before
            slack = _slack(
                picture, (step,), step.method, place > 0 and _computes(expected.steps[0])
            )
        elif isinstance(step, Rescale | Normalize | Divide):
            pair = step.apply(np.array([[[0.0] * 3, [1.0] * 3]])).astype(np.float64)
            factor *= float(np.abs(np.diff(pair, axis=1)).max())
    allowed = _allowed(pixels) + slack * factor
    apart = float(errors.max())
    if any(isinstance(step, Round) for step in expected.steps):
        # a float32 at a half is rounded to either side
        one = 1.001 * factor + _allowed(pixels)
        near = apart <= one and (errors > _allowed(pixels)).mean() <= HALVES
    else:
        near = apart <= allowed
    return apart / (float(np.ptp(made)) or 1.0) if near else None


HALVES = 0.01
"""Share of values that may be rounded to the other side: of sizes whose ratio has a small
denominator a few in a thousand lie at a half."""


def _computes(step: Step) -> bool:
    """Whether a step makes floats."""
    return isinstance(step, Rescale | Normalize | Divide)


def _untold(why: str) -> PixelDiagnosis:
    """That nothing can be told."""
    explanation = f"it cannot be told how these images were made: {why}"
    return PixelDiagnosis(False, "unknown", (), explanation, math.inf)


def _plainness(fit: _Fit) -> tuple[bool, bool, bool, int]:
    """The order of ways that fit: as they are before mirrored, channels first before last."""
    mirrored, other = "," in fit.layout, not fit.layout.startswith("NCHW")
    return mirrored, other, fit.order != "rgb", len(fit.steps)


ALIKE = 2.0
"""How much more one way may leave, rms, than the best, to be told as one that may have been: two
libraries of one rule round by as much, another rule leaves ten times as much and more."""


def _arranged(pixels: NDArray[Any]) -> list[_Arranged]:
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
        found += [_Arranged(first, "NCHW"), _Arranged(first.transpose(1, 0, 2), "NCWH")]
    if array.shape[2] == 3:
        found += [_Arranged(array, "NHWC"), _Arranged(array.transpose(1, 0, 2), "NWHC")]
    return found


def _allowed(pixels: NDArray[Any]) -> float:
    """How far images may lie from a way that made them of whole numbers: a few roundings of the
    normalization, in the type of the images."""
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(pixels.dtype.name, 2.0**-24)
    array = np.asarray(pixels, np.float64)
    return 16 * unit * float(np.abs(array).max() + np.ptp(array))


def _mirrored(arrangements: list[_Arranged]) -> list[_Arranged]:
    """The same mirrored, and turned by half."""
    ways = {
        "left to right": (slice(None), slice(None, None, -1)),
        "upside down": (slice(None, None, -1), slice(None)),
        "turned by 180 degrees": (slice(None, None, -1), slice(None, None, -1)),
    }
    return [
        _Arranged(arranged.array[turn], f"{arranged.layout}, {words}")
        for arranged in arrangements
        for words, turn in ways.items()
    ]


Geometries = Callable[[Sequence[int], Size], list[tuple[Step, ...]]]
"""Ways to come from a size to another."""


def _fits(
    picture: NDArray[Any],
    arrangements: list[_Arranged],
    allowed: float,
    geometries: Geometries | None = None,
) -> list[_Fit]:
    """Every way to crop with one filter, then the nearest ways with every filter, until one of
    them gives these images."""
    rough: list[tuple[float, _Arranged, tuple[Step, ...]]] = []
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
    fits: list[_Fit] = []
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
                slack = _slack(picture, named, method, on_floats)
                fits += _affine(made, arranged, named, on_floats, slack)
    nothing = _Fit((), False, "rgb", arrangements[0].layout, (), (), math.inf, math.inf)
    return fits or [nothing]


def _slack(picture: NDArray[Any], steps: tuple[Step, ...], method: str, on_floats: bool) -> float:
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


def _more_geometries(size: Sequence[int], new: Size) -> list[tuple[Step, ...]]:
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


def _plain_geometries(size: Sequence[int], new: Size) -> list[tuple[Step, ...]]:
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
    arranged: _Arranged,
    steps: tuple[Step, ...],
    on_floats: bool,
    slack: float = 0.0,
) -> list[_Fit]:
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
            _Fit(
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


def _answer(near: list[_Fit], left: float, expected: PixelRecipe | None) -> PixelDiagnosis:
    """The answer, from the ways that give these images."""
    first = near[0]
    normalization = _normalization(first)
    recipes = tuple(
        PixelRecipe(_whose(fit), (*fit.steps, *_last_steps(normalization, first.order)))
        for fit in near
    )
    words = [*(step.words() for step in first.steps)] or ["not resized"]
    if first.on_floats:
        words.insert(0, "made floats")
    words += ["channels reversed (BGR)"] if first.order == "bgr" else []
    words += normalization["words"]
    explanation = ", then ".join(words)
    layouts = {
        "NHWC": "channels stand last",
        "NCWH": "rows and columns are swapped",
        "NWHC": "channels stand last, and rows and columns are swapped",
    }
    layout, _, mirrored = first.layout.partition(", ")
    explanation += f"; {layouts[layout]}" if layout in layouts else ""
    turned = mirrored if mirrored.startswith("turned") else f"mirrored {mirrored}"
    explanation += f"; {turned}" if mirrored else ""
    ways = list(dict.fromkeys(_ways(fit) for fit in near))
    if len(ways) > 1:
        others = ", ".join(ways[1:LISTED])
        more = f" and {len(ways) - LISTED} more" if len(ways) > LISTED else ""
        explanation += f"; not to be told from {others}{more}"
    if expected is not None:
        parted = _parted(near, normalization, expected)
        parted = parted or ["by less than a step of 8 bits, or by where half a pixel is cut off"]
        explanation = f"not as {expected.name}: {'; '.join(parted)} ({explanation})"
    status: Literal["unique", "tied"] = "unique" if len(ways) == 1 else "tied"
    return PixelDiagnosis(
        expected is None, status, recipes, explanation, left, first.layout, normalization
    )


LISTED = 5
"""Ways of the same bits that a line holds."""


def _ways(fit: _Fit) -> str:
    """A way in few words, to be held against others."""
    resizes = [step for step in fit.steps if isinstance(step, Resize)]
    method = resizes[0].method if resizes else "no resizing"
    shape = ", ".join(
        step.words().replace(f" by {method}", "") for step in fit.steps if step not in resizes
    )
    place = f"{resizes[0].to} {resizes[0].size[0]}" if resizes and resizes[0].to != "exact" else ""
    on = " on floats" if fit.on_floats else ""
    return " ".join(part for part in (method + on, place, shape) if part)


def _whose(fit: _Fit) -> str:
    resizes = [step for step in fit.steps if isinstance(step, Resize)]
    return resizes[0].method.partition("-")[0] if resizes else "crop"


def _normalization(fit: _Fit) -> dict[str, Any]:
    """Factor and offset of each channel as people write them: mean, std, rescaling."""
    factor, offset = np.array(fit.factor), np.array(fit.offset)
    if np.allclose(factor, 1, rtol=1e-4) and np.allclose(offset, 0, atol=1e-2):
        return {"words": ["not rescaled, 0 to 255"], "kind": "bytes"}
    if np.allclose(factor, 1 / 255, rtol=1e-4) and np.allclose(offset, 0, atol=1e-4):
        return {"words": ["divided by 255"], "kind": "rescaled"}
    if np.allclose(factor, 1 / 255**2, rtol=1e-3) and np.allclose(offset, 0, atol=1e-5):
        return {"words": ["divided by 255 twice"], "kind": "rescaled twice"}
    safe = np.where(factor == 0, np.nan, factor)
    for kind, by in (("", 255.0), ("without division by 255", 1.0), ("twice", 255.0**2)):
        std = 1 / (by * safe)
        mean = -offset * std
        for name, (means, stds) in KNOWN.items():
            if np.allclose(mean, means, atol=2e-4) and np.allclose(std, stds, rtol=1e-3):
                words = {
                    "": f"normalized by {name} mean and std",
                    "without division by 255": f"normalized by {name} mean and std without "
                    "division by 255",
                    "twice": f"divided by 255 twice, normalized by {name} mean and std",
                }[kind]
                return {
                    "words": [words], "kind": kind or "normalized", "name": name,
                    "mean": list(means), "std": list(stds),
                }  # fmt: skip
    std, shares = 1 / (255 * safe), {}
    mean = -offset * std
    for name, (means, stds) in KNOWN.items():
        shares[name] = (
            np.allclose(mean, means, atol=2e-4), np.allclose(std, stds, rtol=1e-3),
            np.allclose(mean, means[::-1], atol=2e-4) and np.allclose(std, stds[::-1], rtol=1e-3),
        )  # fmt: skip
    words = (
        f"normalized by mean {' '.join(f'{value:.4g}' for value in mean)} and std "
        f"{' '.join(f'{value:.4g}' for value in std)}"
    )
    for name, (of_mean, of_std, turned) in shares.items():
        if turned:
            words += f" ({name}, in reverse)"
        elif of_mean or of_std:
            words += f" (the {'mean' if of_mean else 'std'} is {name})"
    if np.allclose(factor, 1, rtol=1e-4):
        words = f"not rescaled, less {' '.join(f'{value:.4g}' for value in -offset)}"
    return {
        "words": [words], "kind": "other", "mean": mean.tolist(), "std": std.tolist()
    }  # fmt: skip


def _last_steps(normalization: dict[str, Any], order: str) -> tuple[Step, ...]:
    kind = normalization["kind"]
    steps: list[Step] = []
    if kind == "rescaled":
        steps.append(Rescale((1 / 255,)))
    elif "mean" in normalization:
        mean, std = (tuple(normalization[name]) for name in ("mean", "std"))
        steps.append(Normalize(mean, std, 1 / 255))
    return tuple(steps)


def _parted(near: list[_Fit], normalization: dict[str, Any], expected: PixelRecipe) -> list[str]:
    """The steps where images and what was expected part, in words."""
    told = []
    first = near[0]
    wanted = [step for step in expected.steps if isinstance(step, Resize)]
    resized = [[step for step in fit.steps if isinstance(step, Resize)] for fit in near]
    if wanted and not any(resized):
        told.append("the picture was not resized")
    elif wanted and not any(
        steps and _alike(steps[0].method, wanted[0].method) for steps in resized
    ):
        told.append(_methods_differ(wanted[0].method, resized[0][0].method))
    orders = [
        [type(step).__name__ for step in steps if isinstance(step, Resize | Crop | AspectCrop)]
        for steps in (expected.steps, first.steps)
    ]
    if orders[0] != orders[1] and not any(
        [type(step).__name__ for step in fit.steps] == orders[0] for fit in near
    ):
        told.append(
            "cropped before it was resized"
            if orders[1][:1] == ["Crop"] and "Resize" in orders[1]
            else f"resized, and {expected.name} does not"
            if "Resize" in orders[1] and "Resize" not in orders[0]
            else "not cropped"
            if "Crop" in orders[0] and "Crop" not in orders[1]
            else "cropped"
            if "Crop" in orders[1] and "Crop" not in orders[0]
            else "cropped otherwise"
        )
    elif wanted and not any(
        steps and (steps[0].size, steps[0].to) == (wanted[0].size, wanted[0].to)
        for steps in resized
    ):
        told += [
            f"resized to {'×'.join(map(str, steps[0].size))} ({steps[0].to}) for "
            f"{'×'.join(map(str, wanted[0].size))} ({wanted[0].to})"
            for steps in resized[:1]
            if steps
        ]
    floats = bool(expected.steps) and _computes(expected.steps[0])
    if wanted and resized[0] and all(fit.on_floats != floats for fit in near):
        told.append(f"resized as {'floats' if first.on_floats else 'bytes'}")
    if first.order == "bgr":
        told.append("channels were read as BGR")
    if first.layout != "NCHW":
        told.append("the axes stand in another order")
    return told + _normalizations_differ(first, expected)


def _alike(one: str, other: str) -> bool:
    """Whether two methods are one but for Pillow's version."""
    return one.removesuffix("-12") == other.removesuffix("-12")


def _methods_differ(wanted: str, found: str) -> str:
    """How two methods differ, in words."""
    libraries = [each.partition("-")[0] for each in (wanted, found)]
    filters = [
        each.partition("-")[2].removesuffix("-12").removesuffix("-antialias")
        for each in (wanted, found)
    ]
    stretched = [
        each.endswith("-antialias") or each.startswith("pillow-") for each in (wanted, found)
    ]
    told = []
    if filters[0] != filters[1] and {*filters} not in (
        {"linear", "bilinear"},
        {"cubic", "bicubic"},
    ):
        told.append(f"{filters[1]} for {filters[0]}")
    if stretched[0] != stretched[1] and "nearest" not in "".join(filters):
        told.append(f"antialias was {'on' if stretched[1] else 'off'}")
    if libraries[0] != libraries[1]:
        told.append(f"{libraries[1]} for {libraries[0]}")
    return f"resized by {found} for {wanted}" + (f" ({', '.join(told)})" if told else "")


def _normalizations_differ(fit: _Fit, expected: PixelRecipe) -> list[str]:
    """How mean, std or rescaling differ from those that were expected."""
    probe = np.array([[[0.0] * 3, [255.0] * 3]])
    for step in expected.steps:
        if not isinstance(step, Resize | Crop | AspectCrop):
            probe = np.asarray(step.apply(probe), np.float64)
    offset, factor = probe[0, 0], (probe[0, 1] - probe[0, 0]) / 255
    near_factor = np.allclose(factor, fit.factor, rtol=1e-3)
    # a tenth of a step of 8 bits
    if near_factor and np.allclose(offset, fit.offset, atol=0.1 * float(np.abs(factor).max())):
        return []
    found = _normalization(fit)["words"][0]
    wanted = _normalization(
        dataclasses.replace(fit, factor=tuple(factor.tolist()), offset=tuple(offset.tolist()))
    )["words"][0]
    return [f"{found} for {wanted}"]
