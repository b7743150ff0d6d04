"""Images that patches do not divide: what implementations make of them."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from ....reference.spec import PatchEmbedSpec, Remainder
from .tried import Outcome, Trial, Tried


def remainders(tried: Tried) -> Iterator[Trial]:
    """Images that patches do not divide, where no table of positions fixes their size."""
    if tried.weights.positions is None:
        for name, more in _remainders(tried).items():
            yield name, functools.partial(_not_dividing, tried, more)


def readings_of_remainders(
    spec: PatchEmbedSpec, image: tuple[int, ...], images: NDArray[Any]
) -> Iterator[tuple[str, PatchEmbedSpec, NDArray[Any]]]:
    """What implementations make of images that patches do not divide, the usual first: in words
    (none for the object's own way), the sizes, and the images that are then seen."""
    kinds: tuple[Remainder, ...] = ("same",) if spec.remainder == "same" else ("floor", "pad-end")
    for remainder in kinds:
        padding = 0 if remainder == "same" else spec.padding
        with contextlib.suppress(PatchParityError):
            other = spec.replace(image_size=image, remainder=remainder, padding=padding)
            is_own_way = remainder in ("floor", spec.remainder)
            yield "" if is_own_way else f"padded ({remainder})", other, images
    if spec.remainder == "same" or any(map(any, spec.padding)) or spec.patch_size != spec.stride:
        return
    lacking = [-size % by for size, by in zip(image, spec.stride, strict=True)]
    over = [size % by for size, by in zip(image, spec.stride, strict=True)]
    both = [(pixels // 2, pixels - pixels // 2) for pixels in lacking]
    end = [(0, pixels) for pixels in lacking]
    ahead = [(0, 0), (0, 0)]
    for pads, where in ((both, "on both sides"), (end, "at their end")):
        for mode, how in (("constant", "zeros"), ("reflect", "mirrored"), ("edge", "repeated")):
            if mode == "reflect" and any(
                max(p) >= size for p, size in zip(pads, image, strict=True)
            ):
                continue
            seen = np.pad(images, [*ahead, *pads], mode=mode)  # type: ignore[call-overload]
            yield f"padded {where} ({how})", spec.replace(image_size=seen.shape[2:]), seen
    for name, starts in (("middle", [pixels // 2 for pixels in over]), ("end", over)):
        kept = [
            slice(start, start + size - more)
            for start, size, more in zip(starts, image, over, strict=True)
        ]
        seen = images[(slice(None), slice(None), *kept)]
        if min(seen.shape) > 0:
            yield f"cut to their {name}", spec.replace(image_size=seen.shape[2:]), seen


def _remainders(tried: Tried) -> dict[str, tuple[int, ...]]:
    """Rows and columns that are too many: one and two, almost a patch, and of one axis
    alone."""
    spec = tried.live.spec
    rows, columns = (max(1, by - 1) for by in spec.stride[-2:])
    remainders = {
        "not-dividing": (1, 2),
        "not-dividing-by-half": ((rows + 1) // 2, (columns + 1) // 2),
        "not-dividing-by-most": (rows, columns),
        "not-dividing-in-rows": (rows, 0),
        "not-dividing-in-columns": (0, columns),
    }
    ahead = (0,) * (spec.spatial_axes - 2)
    return {name: (*ahead, *more) for name, more in remainders.items()}


def _not_dividing(tried: Tried, more: tuple[int, ...]) -> Outcome | None:
    """Images that are some rows and columns too large: the rest is left out, or padded at the
    end, or the images are refused."""
    spec = tried.live.spec
    image = tuple(size + extra for size, extra in zip(spec.image_size, more, strict=True))
    images = tried.generator.standard_normal((2, spec.in_channels, *image)).astype(tried.live.dtype)
    output = tried.live.call(np.array(images))
    failed: Outcome | None = None
    for words, other, seen in readings_of_remainders(spec, image, images):
        outcome = tried.judged(other, seen, "probabilistic", output)
        if outcome["verdict"] == "pass":
            message = f"images that patches do not divide are {words}" if words else ""
            return {**outcome, "message": message}
        failed = failed or outcome
    message = (
        f"images of {'×'.join(map(str, image))}, which patches do not divide, give what no cut "
        "or padded image would"
    )
    return {**failed, "message": f"{message}; {failed['message']}"} if failed else None
