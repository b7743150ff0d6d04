"""Stride, padding, window and patch of a reading: what was said, what a dialect always has, what
config.json tells, and what must be asked."""

import math
from collections.abc import Mapping

from .catalogue import list_dialects
from .dialect import Dialect, Entry
from .evidence import is_architecture, told_patch
from .keras_config import stride_of
from .sizes import Sizes, numbers_at


def steps_of(
    dialect: Dialect, sizes: Mapping[str, int], known: Sizes
) -> tuple[tuple[int, ...], tuple[int, ...], int, list[str]]:
    """Stride, padding and window: what was said, else the dialect's own, else what config.json
    tells; and what must be asked."""
    patch = tuple(sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes)
    stride, asks = _step_of(dialect, "stride", dialect.stride, patch, patch, known)
    nothing = (0,) * len(patch)
    padding, more = _step_of(dialect, "padding", dialect.padding, nothing, patch, known)
    asks += more
    if dialect.patch_asked and not known.patch_size:
        asks.append(
            f"its kernel is a matrix, and {dialect.title} has the same names for patches of other "
            "axes: --patch-size says the patch"
        )
    window = _window_of(dialect, sizes, known)
    if dialect.windowed and not window:
        asks.append(
            f"{dialect.id} orders its tokens by attention windows, and no tensor tells their "
            "size: a config.json beside it would"
        )
    return stride, padding, window, asks


def _step_of(
    dialect: Dialect,
    role: str,
    setting: int | str | None,
    tiles: tuple[int, ...],
    patch: tuple[int, ...],
    known: Sizes,
) -> tuple[tuple[int, ...], list[str]]:
    """Stride or padding, and what must be asked of it.

    Args:
        dialect: how the stage is read.
        role: `stride` or `padding`.
        setting: the dialect's own.
        tiles: that of patches that tile.
        patch: sides of the kernel.
        known: what is known of the sizes.
    """
    said = getattr(known, role)
    of_config = numbers_at(known.table, dialect.config.get(role, ()), len(patch))
    if said and known.asked and len(said) in (len(patch), 2):
        step = (*tiles[: len(patch) - len(said)], *said)
        return step, _against_what_was_said(dialect, role, step, said, of_config, setting, patch)
    if of_config:
        return of_config, []
    overlaps = role == "stride" and setting is None and _may_overlap(dialect, patch, known)
    of_file = numbers_at(known.table, (f"own_{role}",), len(patch))
    if of_file and (setting == "config" or overlaps or dialect.plain):
        return of_file, []
    if setting == "config" or overlaps:
        if said:
            return (*tiles[: len(patch) - len(said)], *said), []
        if role == "padding":
            return tiles, []
        sides = "×".join(map(str, patch))
        return tiles, [
            f"its kernel is {sides}, and no tensor tells the stride: --stride says it, and "
            f"--padding ({sides} and 0 where patches tile)"
        ]
    step = _always(setting, patch) or tiles
    plain = dialect.plain and role == "stride"
    numbers = _stride_of_config(known, len(patch)) if plain else ()
    if numbers and "keras_convolution" in known.table:
        return numbers, []
    if numbers and numbers != step:
        return step, [
            f"config.json tells stride {'×'.join(map(str, numbers))}, and the kernel is "
            f"{'×'.join(map(str, patch))}: --stride says which one it has"
        ]
    return step, []


def _against_what_was_said(
    dialect: Dialect,
    role: str,
    step: tuple[int, ...],
    said: tuple[int, ...],
    of_config: tuple[int, ...],
    setting: int | str | None,
    patch: tuple[int, ...],
) -> list[str]:
    """Where config.json, or else the dialect, has another stride or padding than a user said."""
    told = "×".join(map(str, said))
    if of_config and tuple(of_config) != step:
        return [f"config.json tells {role} {'×'.join(map(str, of_config))}, and {told} was told"]
    fixed = _always(setting, patch)
    if not of_config and fixed and fixed != step:
        return [f"{dialect.id} has {role} {'×'.join(map(str, fixed))}, and {told} was told"]
    return []


def _window_of(dialect: Dialect, sizes: Mapping[str, int], known: Sizes) -> int:
    """Patches along a side of the windows in whose order tokens are; 0 where nothing tells it."""
    if not dialect.windowed:
        return sizes.get("Sh", dialect.window)
    if known.window:
        return known.window
    numbers = numbers_at(known.table, dialect.config.get("window", ("window_size",)), 1)
    if not numbers:
        return 0
    of_pixels = dialect.token_order == "merge-2x2"
    return numbers[0] // 2 // sizes["Pw"] * 2 if of_pixels else numbers[0]


def _stride_of_config(known: Sizes, axes: int) -> tuple[int, ...]:
    """The stride that a config.json tells under the key of any dialect of its model; empty where
    none does."""
    if "keras_convolution" in known.table:
        return stride_of(known.table["keras_convolution"], axes)
    keys = {
        dialect.config["stride"]
        for dialect in list_dialects().values()
        if "stride" in dialect.config
        and (known.model_type in dialect.model_types or is_architecture(dialect, known))
    }
    return next((stride for names in keys if (stride := numbers_at(known.table, names, axes))), ())


def _always(setting: int | str | None, patch: tuple[int, ...]) -> tuple[int, ...]:
    """The stride or padding that a dialect always has; empty where it is that of patches that tile,
    or the configuration's."""
    if setting == "half":
        return tuple(size // 2 for size in patch)
    return (setting,) * len(patch) if isinstance(setting, int) and setting else ()


def _may_overlap(dialect: Dialect, patch: tuple[int, ...], known: Sizes) -> bool:
    """Whether a convolution's kernel is small and odd, as those of patches that overlap are (3, 7,
    9), and nothing tells that it is a patch."""
    sides = patch[-2:]
    odd = all(size % 2 and size <= LARGEST_OVERLAP for size in sides) and max(sides) > 1
    config_patch = told_patch(dialect, known)
    return odd and "(" not in dialect.entries["kernel"].layout and tuple(config_patch[-2:]) != sides


LARGEST_OVERLAP = 15
"""Largest odd kernel that is asked about: PVT v2, Hiera, MViT v2, CvT, DaViT, PoolFormer and
SegFormer have 3 or 7, EdgeNeXt has 9; patches that tile have even sides, but for few."""


def known_patches(
    kernel: Entry, shape: tuple[int, ...], config: Sizes
) -> list[tuple[dict[str, int], list[str]]]:
    """What is known of a patch that lies flattened in a matrix: from config.json, or, assumed,
    square and of three channels, or else of one or four where the other does not fit."""
    if "(" not in kernel.layout:
        return [({}, [])]
    if config.patch_size:
        *frames, height, width = config.patch_size
        if config.asked and bool(frames) != ("Pt" in kernel.layout):
            return []  # tubelets are told with their frames, patches without
        if "Pt" in kernel.layout and not frames:
            return []
        patch_sizes = {"Ph": height, "Pw": width} | (
            {"Pt": frames[0]} if frames and "Pt" in kernel.layout else {}
        )
        return [(patch_sizes, [f"the patch is known to be {height}×{width}"])]
    values = shape[1] if kernel.layout.startswith("D") else shape[0]
    patches = []
    if "Pt" in kernel.layout:
        return []  # frames and sides cannot be told from their product
    for channels in (config.channels,) if config.channels else (3, 1, 4):
        side = math.isqrt(values // channels)
        if values == channels * side * side and side > 1:
            told_of = (
                f"the patch is assumed to be square, {side}×{side} of {channels} "
                f"channel{'s' if channels > 1 else ''}"
            )
            patches.append(({"Ph": side, "Pw": side, "C": channels}, [told_of]))
            if channels == 3:
                break  # no other fits: 3·s² is no square
    return patches if len(patches) == 1 else []  # of an even side, one channel may be four
