"""The proof of a resized table or kernel: the library's own function, and patches that keep their
tokens."""

import numpy as np
from numpy.typing import NDArray

from ...reference.recipes import LIBRARIES, get_recipe
from ...reference.resample import resize_bound
from ...reference.resize import KERNEL_RECIPES, resize_grid
from .compare import UNITS, Check
from .resizers import resizer


def check_positions(
    name: str,
    table: NDArray[np.generic],
    ours: NDArray[np.generic],
    grid: tuple[int, ...],
    new: tuple[int, ...],
) -> Check:
    """The table, resized by the library's own function where it is installed, beside ours."""
    what = f"positions by {name}"
    theirs = resizer(name)
    operation = get_recipe(LIBRARIES[name][0] if name in LIBRARIES else name).call
    if theirs is None:
        here = "nothing computes it without its zeros" if name.endswith("-filled") else ""
        return Check(
            what, "skip", None, f"not held against {operation}: {here or 'it is not installed'}"
        )
    given = table.astype(np.float32).reshape(*grid, -1)
    observed = theirs(given, (new[0], new[1])).astype(np.float64).reshape(ours.shape)
    largest = float(np.abs(given).max())
    rules = get_recipe(name).rules(grid, new)
    bound = resize_bound(rules, grid, new, largest, UNITS["float32"])
    expected = ours.astype(np.float64)
    # ours was rounded to the type of the table
    bound += UNITS[ours.dtype.name] * float(np.abs(expected).max())
    ratio = float(np.abs(observed - expected).max()) / max(bound, 1e-300)
    verdict = "pass" if ratio <= 1 else "fail"
    message = f"{operation} gives {'the same, within its bound' if ratio <= 1 else 'another'}"
    return Check(what, verdict, ratio, message)


def check_kernel(old: NDArray[np.generic], new: NDArray[np.generic], name: str) -> Check:
    """What a resized kernel makes of random patches that are resized with it, beside what the
    kernel made of the patches; exact where it grows and by the pseudo-inverse."""
    like, pseudo_inverse = KERNEL_RECIPES[name]
    what = f"kernel by {name}"
    sides = old.shape[-3:-1], new.shape[-3:-1]
    if not pseudo_inverse or any(a > b for a, b in zip(*sides, strict=True)):
        why = "a smaller kernel, or one resized as an image, keeps no patch's token"
        return Check(what, "skip", None, why)
    patches = np.random.default_rng(0).standard_normal((*old.shape[1:], 4))
    flat = np.moveaxis(patches.reshape(-1, *sides[0], old.shape[-1] * 4), 0, 2)
    enlarged = resize_grid(flat.reshape(*sides[0], -1), sides[1], like)
    larger = enlarged.reshape(*sides[1], *flat.shape[2:])
    larger = np.moveaxis(larger, 2, 0).reshape(*new.shape[1:], 4)
    axes = list(range(1, old.ndim)), list(range(old.ndim - 1))
    before = np.tensordot(old.astype(np.float64), patches, axes)
    after = np.tensordot(new.astype(np.float64), larger, axes)
    # a rounding of each weight to the type of the file
    bound = UNITS[new.dtype.name] * np.tensordot(
        np.abs(new.astype(np.float64)), np.abs(larger), axes
    )
    ratio = float((np.abs(before - after) / (bound + 1e-12 * np.abs(before).max())).max())
    verdict = "pass" if ratio <= 1 else "fail"
    return Check(what, verdict, ratio, "each patch that is enlarged with it keeps its token")
