"""What `patchparity diagnose` says of resized positions, and of images made of a picture."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..reference.errors import PatchParityError
from .given import refuse_strays, require_preprocess, size_of

if TYPE_CHECKING:
    from ..reference.diagnosis.pixels import PixelDiagnosis
    from ..reference.diagnosis.resize import ResizeDiagnosis


def of_positions(
    typed: list[str],
    positions: Path | None,
    resized: Path | None,
    grid: str | None,
    new_grid: str | None,
    prefix_rows: int,
    resample: str | None,
) -> "ResizeDiagnosis":
    """By which recipe one table was made of another."""
    from ..porting.files.arrays import read_array
    from ..reference.diagnosis.resize import diagnose_resize

    allowed = ("positions", "resized", "grid", "new_grid", "prefix_rows", "resample", "json")
    refuse_strays(typed, allowed, "it is about two tables of positions")
    if positions is None or resized is None:
        raise PatchParityError("diagnose needs both --positions and --resized")
    tables = [
        _flat(read_array(path, name))
        for path, name in ((positions, "positions"), (resized, "resized"))
    ]
    grids = [
        _grid_of(option, told, len(table) - prefix_rows)
        for option, told, table in zip(
            ("--grid", "--new-grid"), (grid, new_grid), tables, strict=True
        )
    ]
    return diagnose_resize(
        tables[0],
        tables[1],
        grids[0],
        grids[1],
        prefix_rows=prefix_rows,
        expected=resample,
    )


def _flat(table: NDArray[Any]) -> NDArray[Any]:
    """A table without axes of one in front, of a grid its rows."""
    while table.ndim > 2 and table.shape[0] == 1:
        table = table[0]
    return table.reshape(-1, table.shape[-1]) if table.ndim == 3 else table


def _grid_of(option: str, told: str | None, rows: int) -> tuple[int, int]:
    """A grid that was told, or a square one.

    Raises:
        PatchParityError: none that was told, of rows that make no square.
    """
    size = size_of(option, told)
    if isinstance(size, tuple) and len(size) == 2:
        return size[0], size[1]
    side = size if isinstance(size, int) else math.isqrt(max(rows, 0))
    if size is None and side * side != rows:
        raise PatchParityError(
            f"{rows} rows are those of no square grid: {option} HxW tells which, and --prefix-rows "
            "how many rows of tokens are in front"
        )
    return int(side), int(side)


def of_sequence(
    typed: list[str],
    checkpoint: Path,
    images: Path | None,
    tokens: Path | None,
    resample: str | None,
) -> "ResizeDiagnosis":
    """By which recipe a model resized the positions of a checkpoint."""
    from ..porting.dialects.stage import read_stage
    from ..porting.files.arrays import read_array
    from ..porting.files.images import read_images
    from ..porting.files.opening import opened
    from ..porting.resized import own_recipes
    from ..reference.diagnosis.resize import diagnose_resized_output

    allowed = ("checkpoint", "images", "tokens", "resample", "json")
    refuse_strays(typed, allowed, "it is about the positions of a checkpoint")
    if images is None or tokens is None:
        raise PatchParityError("diagnose needs --images and --tokens beside --checkpoint")
    with opened(checkpoint) as file:
        stage = read_stage(file)
    if stage.stem or stage.spec.spatial_axes != 2:
        raise PatchParityError(f"{checkpoint} is {stage.candidate.label}: not one of plain patches")
    pixels = read_images(images)
    spec = stage.spec.replace(image_size=pixels.shape[2:])
    expected = resample
    if expected is None and len(own := own_recipes(stage)) == 1:
        expected = own[0]
    sequence = read_array(tokens, "tokens")
    return diagnose_resized_output(
        pixels, stage.weights, sequence, spec, stage.spec.grid, expected=expected
    )


def of_pixels(
    typed: list[str],
    image: Path | None,
    pixels: Path | None,
    preprocess: Path | None,
    backend: str,
) -> "PixelDiagnosis":
    """How images were made of a picture."""
    from ..porting.files.arrays import read_array
    from ..porting.files.images import read_picture
    from ..porting.preprocess import recipe_of
    from ..reference.diagnosis.pixels import diagnose_pixels

    allowed = ("image", "pixels", "preprocess", "preprocess_backend", "json")
    refuse_strays(typed, allowed, "it is about a picture and images made of it")
    require_preprocess(typed)
    if image is None or pixels is None:
        raise PatchParityError("diagnose needs both --image and --pixels")
    expected = None if preprocess is None else recipe_of(preprocess, backend)
    made = read_array(pixels, "pixels")
    return diagnose_pixels(read_picture(image).pixels, made, expected=expected)
