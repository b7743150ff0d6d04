"""Trials of other sizes whose positions nobody knows."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.embed import patch_embed
from ....reference.weights import PatchEmbedWeights
from .tried import Outcome, Trial, Tried, not_tried, sides

OTHER_POSITIONS = ((3, 5), (6, 4))
"""Rows and columns of patches of images whose positions nobody knows."""

NEAR_PRODUCT = 2.0**-9
"""Relative rms within which what an object gives of an image, less what it gives of zeros, is the
patches' product, in float32: positions a thousand times as large as tokens leave 2⁻¹³ of it."""


def other_positions(tried: Tried) -> Iterator[Trial]:
    """Images of other sizes, where a table of positions fixes that of the object."""
    of_images = tried.live.spec.spatial_axes == 2 and tried.live.dtype in ("float32", "float64")
    if tried.weights.positions is not None and of_images:
        yield "positions-at-other-sizes", functools.partial(_without_positions, tried)


def _without_positions(tried: Tried) -> Outcome:
    """At other sizes nobody knows the positions, which an image and one of zeros share: their
    difference is the patches' product."""
    weights, spec = tried.weights, tried.live.spec
    plain = PatchEmbedWeights(weights.kernel)
    ahead = weights.num_tokens_ahead
    judged = 0
    for grid in OTHER_POSITIONS:
        other = spec.replace(image_size=sides(spec, grid))
        images = tried.draw(other, 2)
        outputs = [tried.live.call(np.array(each)) for each in (images, np.zeros_like(images))]
        if outputs[0].ndim != 3 or outputs[0].shape[1] < other.num_patches + ahead:
            continue  # it gives something else there, which is no token of a patch
        judged += 1
        patches = slice(ahead, ahead + other.num_patches)
        if (wrong := _prefix_elsewhere(tried, outputs[1], patches)) is not None:
            return wrong
        found = outputs[0][:, patches].astype(np.float64) - outputs[1][:, patches]
        expected = patch_embed(images.astype(np.float64), plain.astype(np.float64), other)
        left, size = (float(np.sqrt(np.mean(each**2))) for each in (found - expected, expected))
        if not left <= NEAR_PRODUCT * size:
            shape = "×".join(map(str, other.image_size))
            return {
                "verdict": "fail",
                "message": f"images of {shape}, less one of zeros, give what no patches' "
                f"product is, whatever the positions there: {left / size:.2g} of it is left",
            }
    if not judged:
        return not_tried("at other sizes it gives no token for each patch")
    return {"verdict": "pass"}


def _prefix_elsewhere(tried: Tried, black: NDArray[Any], patches: slice) -> Outcome | None:
    """What is wrong with an image of zeros at another size, whose positions nobody knows: its
    prefix tokens are those of its own size, and its positions are not all the same."""
    own = tried.draw(tried.live.spec, tried.batch) * 0
    expected = tried.live.call(own.astype(tried.live.dtype))
    own_patches = slice(patches.start, patches.start + tried.live.spec.num_patches)
    prefix, its_own = (
        np.delete(array[0].astype(np.float64), rows, axis=0)
        for array, rows in ((black, patches), (expected, own_patches))
    )
    alike_rows = prefix.shape == its_own.shape and np.allclose(prefix, its_own, rtol=1e-3)
    if prefix.size and not alike_rows:
        return {
            "verdict": "fail",
            "message": "at other sizes its prefix tokens, with their positions, are other ones",
        }
    varying = np.ptp(expected[0, own_patches].astype(np.float64), axis=0).max()
    if varying and not np.ptp(black[0, patches].astype(np.float64), axis=0).any():
        return {"verdict": "fail", "message": "at other sizes no positions are added"}
    return None
