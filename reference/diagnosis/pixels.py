"""How were these images made of this picture? Every filter of every library, cropped in every usual
way, is tried; what is left is a factor and an offset for each channel."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..answer import Answer
from ..errors import PatchParityError, require_array
from ..pixel_steps import (
    Divide,
    Normalize,
    PixelRecipe,
    Rescale,
    Resize,
    Reverse,
    Round,
    Step,
)
from .pixel_ways import (
    Fit,
    arranged_of,
    fits_of,
    mirrored,
    more_geometries,
    plain_geometries,
    slack_of,
)
from .pixel_words import computes, library_of, normalization_of, parted, way_in_words


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
    arrangements = arranged_of(pixels)
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
    fits = fits_of(picture, arrangements, allowed)
    scale = float(np.ptp(arrangements[0].array)) or 1.0
    best = min(fit.left for fit in fits)
    if not any(fit.left <= allowed + fit.slack for fit in fits):
        upright = [each for each in arrangements if each.layout in ("NCHW", "NHWC")]
        fits += fits_of(picture, mirrored(upright), allowed, plain_geometries)
        fits += fits_of(picture, upright, allowed, more_geometries)
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
    held = {way_in_words(fit) for fit in near}
    near = [
        fit
        for fit in near
        if "-12" not in (way := way_in_words(fit)) or way.replace("-12", "") not in held
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
            slack = slack_of(
                picture, (step,), step.method, place > 0 and computes(expected.steps[0])
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


def _untold(why: str) -> PixelDiagnosis:
    """That nothing can be told."""
    explanation = f"it cannot be told how these images were made: {why}"
    return PixelDiagnosis(False, "unknown", (), explanation, math.inf)


def _plainness(fit: Fit) -> tuple[bool, bool, bool, int]:
    """The order of ways that fit: as they are before mirrored, channels first before last."""
    mirrored, other = "," in fit.layout, not fit.layout.startswith("NCHW")
    return mirrored, other, fit.order != "rgb", len(fit.steps)


ALIKE = 2.0
"""How much more one way may leave, rms, than the best, to be told as one that may have been: two
libraries of one rule round by as much, another rule leaves ten times as much and more."""


def _allowed(pixels: NDArray[Any]) -> float:
    """How far images may lie from a way that made them of whole numbers: a few roundings of the
    normalization, in the type of the images."""
    unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8}.get(pixels.dtype.name, 2.0**-24)
    array = np.asarray(pixels, np.float64)
    return 16 * unit * float(np.abs(array).max() + np.ptp(array))


def _answer(near: list[Fit], left: float, expected: PixelRecipe | None) -> PixelDiagnosis:
    """The answer, from the ways that give these images."""
    first = near[0]
    normalization = normalization_of(first)
    recipes = tuple(PixelRecipe(library_of(fit), _steps_of(fit)) for fit in near)
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
    ways = list(dict.fromkeys(way_in_words(fit) for fit in near))
    if len(ways) > 1:
        others = ", ".join(ways[1:LISTED])
        more = f" and {len(ways) - LISTED} more" if len(ways) > LISTED else ""
        explanation += f"; not to be told from {others}{more}"
    if expected is not None:
        least = ["by less than a step of 8 bits, or by where half a pixel is cut off"]
        apart = parted(near, normalization, expected) or least
        explanation = f"not as {expected.name}: {'; '.join(apart)} ({explanation})"
    status: Literal["unique", "tied"] = "unique" if len(ways) == 1 else "tied"
    return PixelDiagnosis(
        expected is None, status, recipes, explanation, left, first.layout, normalization
    )


LISTED = 5
"""Ways of the same bits that a line holds."""


def _steps_of(fit: Fit) -> tuple[Step, ...]:
    """All that makes these images of the picture, channels first."""
    by = 255.0 if fit.on_floats else 1.0
    first = (Rescale((1 / 255,)),) if fit.on_floats else ()
    turned = (Reverse(),) if fit.order == "bgr" else ()
    last = Rescale(tuple(factor * by for factor in fit.factor), fit.offset)
    return (*first, *fit.steps, *turned, last)
