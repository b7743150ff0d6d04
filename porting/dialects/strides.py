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
    asks = []
    steps = {}
    for role, setting, tiles in (
        ("stride", dialect.stride, patch),
        ("padding", dialect.padding, (0,) * len(patch)),
    ):
        said = getattr(known, role)
        if said and known.asked and len(said) in (len(patch), 2):
            step = (*tiles[: len(patch) - len(said)], *said)
            numbers = (
                numbers_at(known.table, dialect.config[role], len(patch))
                if role in dialect.config
                else ()
            )
            if numbers and tuple(numbers) != tuple(step):
                asks.append(
                    f"config.json tells {role} {'×'.join(map(str, numbers))}, and "
                    f"{'×'.join(map(str, said))} was told"
                )
            fixed = _always(setting, patch)
            if not numbers and fixed and fixed != tuple(step):
                asks.append(
                    f"{dialect.id} has {role} {'×'.join(map(str, fixed))}, and "
                    f"{'×'.join(map(str, said))} was told"
                )
        elif (
            step := numbers_at(known.table, dialect.config[role], len(patch))
            if role in dialect.config
            else ()
        ):
            pass
        elif setting == "config" or (
            role == "stride" and setting is None and _may_overlap(dialect, patch, known)
        ):
            step = (*tiles[: len(patch) - len(said)], *said) if said else tiles
            if role == "stride" and not said:
                asks.append(
                    f"its kernel is {'×'.join(map(str, patch))}, and no tensor tells the stride: "
                    "--stride says it, and --padding "
                    f"({'×'.join(map(str, patch))} and 0 where patches tile)"
                )
        else:
            step = _always(setting, patch) or tiles
            numbers = (
                _stride_of_config(known, len(patch)) if dialect.plain and role == "stride" else ()
            )
            if numbers and "keras_convolution" in known.table:
                step = numbers
            elif numbers and numbers != step:
                asks.append(
                    f"config.json tells stride {'×'.join(map(str, numbers))}, and the kernel is "
                    f"{'×'.join(map(str, patch))}: --stride says which one it has"
                )
        steps[role] = tuple(step)
    if dialect.patch_asked and not known.patch_size:
        asks.append(
            f"its kernel is a matrix, and {dialect.title} has the same names for patches of other "
            "axes: --patch-size says the patch"
        )
    window = sizes.get("Sh", dialect.window)
    if dialect.windowed:
        numbers = numbers_at(known.table, dialect.config.get("window", ("window_size",)), 1)
        of_pixels = dialect.token_order == "merge-2x2"
        window = known.window or (
            0 if not numbers else numbers[0] // 2 // sizes["Pw"] * 2 if of_pixels else numbers[0]
        )
        if not window:
            asks.append(
                f"{dialect.id} orders its tokens by attention windows, and no tensor tells their "
                "size: a config.json beside it would"
            )
    return steps["stride"], steps["padding"], window, asks


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
    square and of three channels (or one)."""
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
    return patches
