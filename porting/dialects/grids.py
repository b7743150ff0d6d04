"""Which grids of patches a table of positions allows."""

import math
from collections.abc import Mapping

from ...reference.weights import PrefixToken
from .dialect import Dialect
from .sizes import Sizes, numbers_at


def grids_of(
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    known: Sizes,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> list[tuple[tuple[PrefixToken, ...], tuple[int, ...], str]]:
    """Grids that the position table allows, for which prefix tokens it then has rows, and what that
    assumes."""
    image_grid = known_grid(dialect, sizes, known, stride, padding)
    if dialect.resize:  # whatever grid the table has
        return [((), image_grid, "")]
    if "Sh" in sizes:
        sizes = {**sizes, "Gh": sizes["Wh"] * sizes["Sh"], "Gw": sizes["Ww"] * sizes["Sw"]}
    if "Gh" in sizes and "Gw" in sizes:
        grid: tuple[int, ...] = tuple(sizes[axis] - dialect.spare_rows for axis in ("Gh", "Gw"))
        grid = (sizes["Gt"], *grid) if "Gt" in sizes else grid
        if (
            dialect.cut
            and image_grid
            and all(a <= b for a, b in zip(image_grid, grid, strict=True))
        ):
            return [((), image_grid, "")]
        if dialect.cut and dialect.spare_rows and not image_grid:  # more rows than any image has
            return [((), (), "")]
        if image_grid and "image_size" in dialect.checked and image_grid[-2:] != grid[-2:]:
            return []
        return [((), grid, "")]
    # an image size that is no evidence of this dialect's tells nothing of what it takes
    if "positions" not in names:
        evident = not known.evident or "image_size" in dialect.checked or dialect.any_grid
        return [((), image_grid if evident else (), "")]
    counts = {
        name: sizes.get("R", 0) if name == "register_tokens" else 1
        for name in dialect.prefix
        if name in names
    }
    tokens_by_rows: dict[int, tuple[PrefixToken, ...]] = {}
    for alternative in dialect.positioned:
        present = tuple(name for name in alternative if name in counts)
        tokens_by_rows.setdefault(sum(counts[name] for name in present), present)
    grids: list[tuple[tuple[PrefixToken, ...], tuple[int, ...], str]] = []
    for extra, present in tokens_by_rows.items():
        patches = (
            sizes["rows"] - extra - dialect.spare_rows - dialect.spare_last - dialect.shared_rows
        )
        if (
            image_grid
            and dialect.video
            and not known.frames
            and patches > 0
            and patches % math.prod(image_grid[1:]) == 0
        ):
            image_grid = (patches // math.prod(image_grid[1:]), *image_grid[1:])
        if image_grid and math.prod(image_grid) == patches:
            return [(present, image_grid, "")]
        if image_grid and known.evident and "image_size" in dialect.checked:
            continue  # what is told is held against the table, not passed over
        side = math.isqrt(max(patches, 0))
        if patches > 0 and side * side == patches and not dialect.video:
            rivals = [
                count
                for other in tokens_by_rows
                if other != extra and (count := sizes["rows"] - other) and _oblong(count)
            ]
            rows = ", ".join(name.replace("_", " ") for name in present) or "no prefix token"
            assumed = (
                f"the grid is assumed to be square, {side}×{side}, with position rows for "
                f"{rows}; an image size would tell"
            )
            grids.append((present, (side, side), assumed if rivals else ""))
        elif patches > 0 and dialect.video and (video := _video_grid(patches, sizes, known)):
            frames = (
                f"the grid is assumed to be of {video[0]} × {video[1]}×{video[2]}; an image "
                "size with its frames would tell"
            )
            grids.append((present, video, "" if known.frames else frames))
    return grids


def channels_of(sizes: Mapping[str, int]) -> int:
    """Channels of the image, which a stem takes, or the projection."""
    return sizes.get("image channels", sizes["C"])


MOST_PATCHES, MOST_FRAMES = 2**24, 2**12
"""Patches of an image (65536×65536 pixels in patches of 16) and steps in time of a video, beyond
which no grid is looked for."""


def _oblong(count: int) -> bool:
    """Whether so many patches may be those of an image at most twice as long as it is wide."""
    return count < MOST_PATCHES and any(
        count % short == 0
        for short in range(math.isqrt(max(count, 0)), math.isqrt(max(count // 2, 0)) - 1, -1)
        if short
    )


def _video_grid(patches: int, sizes: Mapping[str, int], known: Sizes) -> tuple[int, ...]:
    """A grid of frames and a square: of config.json's frames, or the fewest frames that leave a
    square."""
    counts = (
        [known.frames // sizes["Pt"]] if known.frames else range(1, min(patches, MOST_FRAMES) + 1)
    )
    for frames in counts:
        side = math.isqrt(patches // max(frames, 1))
        if frames * side * side == patches:
            return frames, side, side
    return ()


def known_grid(
    dialect: Dialect,
    sizes: Mapping[str, int],
    known: Sizes,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> tuple[int, ...]:
    """The grid of the image size that is known."""
    image = known.image_size
    if not known.asked and "image_size" in dialect.config:
        image = numbers_at(known.table, dialect.config["image_size"], 2)
    if not image:
        return ()
    *_, height, width = image
    for place, step in enumerate(dialect.stem):
        height, width = (
            (size + 2 * step.padding - sizes[f"stem.{place}"]) // step.stride + 1
            for size in (height, width)
        )
    patch = (sizes["Ph"], sizes["Pw"])
    more = [by - 1 if dialect.remainder == "pad-end" else 0 for by in stride[-2:]]
    grid = tuple(
        (size + 2 * pad - side + up) // by + 1
        for size, pad, side, by, up in zip(
            (height, width), padding[-2:], patch, stride[-2:], more, strict=True
        )
    )
    if min(grid) <= 0:
        return ()
    if dialect.video:
        frames = (known.frames or sizes["Pt"]) // sizes["Pt"]
        return (frames, *grid) if frames else ()
    return grid
