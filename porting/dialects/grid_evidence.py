"""What speaks against the grid that a reading has, and what must be asked of it."""

import math
from collections.abc import Mapping, Sequence

from ...reference.weights import PrefixToken
from ..files.checkpoint import Checkpoint
from .dialect import Dialect
from .grids import known_grid
from .sizes import Sizes


def other_grid(
    dialect: Dialect,
    sizes: Mapping[str, int],
    known: Sizes,
    config: Sizes,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    grids: Sequence[tuple[tuple[PrefixToken, ...], tuple[int, ...], str]],
) -> list[str]:
    """What is told where a user and config.json tell images of two grids, of both of which the
    positions may be."""
    if (
        not known.asked
        or "rows" not in sizes
        or dialect.any_grid
        or "image_size" not in dialect.checked
    ):
        return []
    theirs = known_grid(dialect, sizes, config, stride, padding)
    for _, grid, _ in grids:
        if theirs and grid and theirs != grid and math.prod(theirs) == math.prod(grid):
            image, pixels = ("×".join(map(str, source.image_size)) for source in (config, known))
            return [
                f"config.json tells images of {image}, and {pixels} was told: the positions are of "
                "either, in another order"
            ]
    return []


def of_any_grid(
    checkpoint: Checkpoint,
    dialect: Dialect,
    names: Mapping[str, str],
    sizes: Mapping[str, int],
    grid: tuple[int, ...],
) -> tuple[list[str], list[str]]:
    """What must be asked, and what speaks against it, where positions are made for the grid of the
    image."""
    by_rows = dialect.cut and dialect.spare_rows and "position_rows" in names
    if by_rows and grid:
        return [], []  # as `grids_of` held it against the tables
    looked_up = "position_tables" in names or by_rows
    if not looked_up and not (dialect.resize and "positions" in names):
        return [], []
    if not grid:
        how = "looked up by row and column" if looked_up else "resized to the grid of the image"
        return [
            f"its positions are {how}, and nothing tells the image size: --image-size says it"
        ], []
    cells = "×".join(map(str, grid))
    if looked_up and max(grid[-2:]) > sizes["rows"]:
        return [], [
            f"{cells} patches have more rows or columns than the {sizes['rows']} of "
            f"{names['position_tables']}"
        ]
    rows = sizes.get("rows", 0) - dialect.spare_rows - dialect.spare_last
    if dialect.resize and "rows" in sizes and math.isqrt(rows) ** 2 != rows:
        return [], [f"{names['positions']} has {rows} rows, which are no square grid"]
    if "position_window" in names and (grid[-2] % sizes["Th"] or grid[-1] % sizes["Tw"]):
        shape = checkpoint.tensors[names["position_window"]].shape
        return [], [
            f"{names['position_window']} {shape} is repeated on the positions, and {cells} patches "
            "are no multiple of it"
        ]
    return [], []


def resized(
    dialect: Dialect, names: Mapping[str, str], known: Sizes, grid: tuple[int, ...]
) -> list[str]:
    """What is told where the library resizes a table of positions that would fit as it is: it takes
    every table for one of a square."""
    several = dialect.video and len(grid) == 3 and grid[0] > 1  # a table of one picture for all
    oblong = "positions" in names and (len(set(grid[-2:])) > 1 or several)
    if not oblong or not ("*" in dialect.square or known.model_type in dialect.square):
        return []
    whose, cells = (
        known.model_type or dialect.id,
        "×".join(map(str, grid if several else grid[-2:])),
    )
    message = (
        f"{whose} takes {names['positions']} for positions of a square, and resizes them at "
        "run "
        f"time to {cells} patches"
    )
    which = "one picture of a square grid is" if several else "images of a square grid are"
    return [f"{message}: only {which} read"]


def other_rows(
    dialect: Dialect, names: Mapping[str, str], config: Sizes, positioned: tuple[PrefixToken, ...]
) -> list[str]:
    """What is told where timm's `no_embed_class` says otherwise than the rows of positions."""
    said = config.table.get("no_embed_class") if config.architecture else None
    tokens = [name for name in dialect.prefix if name in names]
    if "positions" not in names or not tokens or not isinstance(said, bool):
        return []
    if said != bool(positioned):
        return []
    rows = "rows for prefix tokens" if positioned else "no rows for prefix tokens"
    return [
        f"config.json says that no_embed_class is {str(said).lower()}, and {names['positions']} "
        f"has {rows}"
    ]
