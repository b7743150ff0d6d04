"""Whether two results of an object are the same, and whether a NaN stays where it was put."""

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...porting.objects.live import LiveEmbedding
from ...reference.errors import PatchParityError
from ...reference.probe import Probe

MIXED = "a NaN in one pixel reaches every token of its image"
"""What is said of an object whose every token depends on every pixel, by rounding at least."""


def bitwise(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two arrays are the same to the last bit, type and shape among them."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.tobytes() == second.tobytes()
    )


def alike(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Whether two results of the same images differ by roundings alone: by less than sixteen of
    float32 or four of their own type."""
    if first.shape != second.shape:
        return False
    one, other = first.astype(np.float64), second.astype(np.float64)
    size = float(np.abs(one).max(initial=0.0))
    share = max(16 * 2.0**-24, 4 * float(ml_dtypes.finfo(first.dtype).eps))
    return not np.isfinite(size) or bool((np.abs(one - other) <= share * size).all())


def containment(live: LiveEmbedding, probe: Probe, clean: NDArray[Any]) -> dict[str, Any]:
    """Poison one pixel with NaN: the tokens that see it must be NaN, all others stay as they were
    to the last bit."""
    spec, expected_shape = live.spec, probe.expectations["forward"].value.shape
    if clean.shape != expected_shape:
        return {
            "verdict": "fail",
            "message": f"output of shape {clean.shape}, expected {expected_shape}",
        }
    images = np.array(probe.images)
    inside = tuple(size // 2 for size in spec.image_size)
    images[(1, 0, *inside)] = np.nan
    seen = np.ones(spec.grid, bool)
    for axis, at in enumerate(inside):
        starts = np.arange(spec.grid[axis]) * spec.stride[axis] - spec.effective_padding[axis][0]
        hit = (starts <= at) & (at < starts + spec.patch_size[axis])
        seen &= hit.reshape([-1 if other == axis else 1 for other in range(len(inside))])
    touched = np.zeros(clean.shape[:2], bool)
    first = live.weights.num_tokens_ahead if clean.shape[1] > spec.num_patches else 0
    touched[1, first:][: spec.num_patches] = seen.ravel()
    try:
        with np.errstate(invalid="ignore"):
            output = live.call(images)
    except PatchParityError as error:
        return {"verdict": "pass", "message": f"refused: {str(error).splitlines()[0][:200]}"}
    lost = np.isnan(output.astype(np.float64))
    poisoned, changed = np.asarray(lost.all(axis=-1)), np.asarray(lost.any(axis=-1) & ~touched)
    if (poisoned[touched]).all() and not changed.any():
        rest, before = output[~touched], clean[~touched]
        if not alike(rest, before):
            message = "NaN in one pixel of image 1 changes tokens that do not see it"
            return {"verdict": "fail", "message": message}
        same = bitwise(rest, before)
        return {
            "verdict": "pass",
            "message": "" if same else "the other tokens differ in their last bits",
        }
    if poisoned[touched].all() and poisoned[1].all() and not changed[0].any():
        return {
            "verdict": "pass",
            "message": f"{MIXED} (as through a Fourier transform)",
        }
    if poisoned[touched].all() and not changed[0].any():
        reached = np.flatnonzero(changed[1]).tolist()
        return {
            "verdict": "pass",
            "message": f"a NaN in one pixel reaches other tokens of its image too: {reached[:4]}",
        }
    if changed.any():
        return {
            "verdict": "fail",
            "message": "NaN in one pixel of image 1 makes tokens "
            f"{np.argwhere(changed)[:4].tolist()} NaN",
        }
    return {
        "verdict": "fail",
        "message": "NaN in one pixel of image 1 is swallowed: token "
        f"{np.argwhere(touched)[0].tolist()} is not NaN",
    }
