"""Images that patches do not divide: what implementations make of them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec, Remainder


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
