"""The embedding stage of a checkpoint at another image size, patch size or number of channels, by
recipes that a user names."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..reference.errors import PatchParityError
from ..reference.recipes import RECIPES, get_recipe, in_words
from ..reference.resize import (
    CHANNEL_RECIPES,
    KERNEL_RECIPES,
    adapt_channels,
    resize_kernel,
    resize_positions,
)
from ..reference.spec import PatchEmbedSpec
from .dialects.sizes import Sizes
from .dialects.stage import Stage
from .proof.compare import Check
from .proof.resized import check_kernel, check_positions


def as_recipes(resample: str | Sequence[str] | None) -> tuple[str, ...]:
    """The recipes that a user names.

    Raises:
        PatchParityError: an unknown one.
    """
    names = (resample,) if isinstance(resample, str) else tuple(resample or ())
    for name in names:
        if name not in KERNEL_RECIPES and name not in CHANNEL_RECIPES:
            get_recipe(name)
    return names


def sizes_of_source(sizes: Sizes | None, recipes: Sequence[str]) -> Sizes | None:
    """What a user's sizes tell of the checkpoint itself: all, or, where they are what it is resized
    to, stride and padding alone."""
    if sizes is None or not recipes:
        return sizes
    if not (sizes.stride or sizes.padding):
        return None
    return Sizes.told(stride=sizes.stride or None, padding=sizes.padding or None)


def own_recipes(stage: Stage) -> tuple[str, ...]:
    """The recipes by which a stage's own library resizes its positions."""
    registers = stage.weights.register_tokens is not None
    return stage.dialect.recipes(registers, stage.model_type)


@dataclass(frozen=True)
class Resized:
    """A stage of other sizes.

    Args:
        stage: as it is now.
        steps: what was done, in sentences.
        checks: what the recipe's own library says of it.
    """

    stage: Stage
    steps: list[str]
    checks: list[Check]


def resized(
    stage: Stage, sizes: Sizes, recipes: Sequence[str], dtype: str | None = None
) -> Resized:
    """Take a stage to the sizes that a user told.

    Args:
        stage: as it was read.
        sizes: the new ones; what they do not tell stays.
        recipes: names of `RECIPES` (positions), `KERNEL_RECIPES`, `CHANNEL_RECIPES`; one of each at
            most.
        dtype: in which what is resized is kept; None for its own.

    Raises:
        PatchParityError: what no recipe is named for, or cannot be resized.
    """
    if stage.stem:
        raise PatchParityError(
            f"{stage.candidate.label} has convolutions in front of its projection, and neither "
            "these nor what stands behind is resized"
        )
    steps: list[str] = []
    checks: list[Check] = []
    before = stage.spec
    stage = _with_channels(stage, sizes.channels, recipes, steps, dtype)
    stage = _with_patch(stage, sizes.patch_size[-2:], recipes, steps, checks, dtype)
    if image := sizes.image_size[-2:]:
        whole = (*before.image_size[:-2], *image)
        spec = stage.spec.replace(image_size=whole)
        stage = dataclasses.replace(stage, spec=spec, size_known=True)
    stage = _with_grid(stage, before, recipes, steps, checks, dtype)
    if stage.spec.grid != before.grid and not steps:
        steps.append("no positions that are resized: the image size alone changes")
    if not steps:
        steps.append(f"{', '.join(recipes)}: nothing is resized, for it is of these sizes already")
    return Resized(stage, steps, checks)


def _one_of(recipes: Sequence[str], known: Sequence[str], what: str, own: Sequence[str]) -> str:
    """The recipe that is named for a kind of array.

    Raises:
        PatchParityError: none, or more than one.
    """
    fitting = [name for name in recipes if name in known]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise PatchParityError(f"{' and '.join(fitting)} both resize {what}: name one")
    hint = f"its library's own is {' or '.join(own)}" if own else f"{known[0]}, say"
    raise PatchParityError(f"nothing says how {what} are resized (--resample: {hint})")


def _with_channels(
    stage: Stage,
    channels: int | None,
    recipes: Sequence[str],
    steps: list[str],
    dtype: str | None,
) -> Stage:
    """The stage of other input channels."""
    if channels is None or channels == stage.spec.in_channels:
        return stage
    name = _one_of(recipes, CHANNEL_RECIPES, "channels", ())
    old = stage.weights.kernel
    kernel = adapt_channels(old, channels, recipe=name).astype(dtype or old.dtype)
    steps.append(f"channels: {old.shape[-1]} to {channels} by {name} (adapt_input_conv)")
    return _changed(stage, stage.spec.replace(in_channels=channels), kernel=kernel)


def _with_patch(
    stage: Stage,
    patch: tuple[int, ...],
    recipes: Sequence[str],
    steps: list[str],
    checks: list[Check],
    dtype: str | None,
) -> Stage:
    """The stage of other patches, that tile as before; the image keeps its size."""
    spec = stage.spec
    if not patch or patch == spec.patch_size[-2:]:
        return stage
    if not spec.tiles or any(map(any, spec.padding)):
        raise PatchParityError(
            f"patches of {'×'.join(map(str, spec.patch_size[-2:]))} that overlap, or have padding "
            "around, are not resized: nothing says what their stride and padding would be"
        )
    name = _one_of(recipes, tuple(KERNEL_RECIPES), "kernels", ())
    old = stage.weights.kernel
    kernel = resize_kernel(old, patch, recipe=name).astype(dtype or old.dtype)
    whole = (*spec.patch_size[:-2], *patch)
    image = spec.image_size
    if not stage.size_known:  # some patches of the new size
        image = tuple(count * side for count, side in zip(spec.grid, whole, strict=True))
    new = spec.replace(patch_size=whole, stride=whole, image_size=image)
    steps.append(
        f"kernel: patches of {'×'.join(map(str, spec.patch_size[-2:]))} to "
        f"{'×'.join(map(str, patch))} by {name}"
    )
    checks.append(check_kernel(old, kernel, name))
    return _changed(stage, new, kernel=kernel)


def _with_grid(
    stage: Stage,
    before: PatchEmbedSpec,
    recipes: Sequence[str],
    steps: list[str],
    checks: list[Check],
    dtype: str | None,
) -> Stage:
    """The stage, whose positions are still of the grid of another spec, with those of its own."""
    weights, old, new = stage.weights, before.grid, stage.spec.grid
    if weights.positions is None or old == new:
        return stage
    if stage.dialect.any_grid or stage.dialect.computed:
        raise PatchParityError(
            f"{stage.candidate.label} has positions for every grid: the image size alone tells "
            "which, and nothing is resized"
        )
    if stage.dialect.copies:
        raise PatchParityError(
            f"{stage.candidate.label} holds two tables of positions, and its library makes those "
            "of every size from the one of the size that the model was made with: they are not "
            "resized here"
        )
    name = _one_of(recipes, tuple(RECIPES), "positions", own_recipes(stage))
    ahead = weights.num_positions_ahead
    frames, table = old[0] if len(old) == 3 else 1, weights.positions
    patches = frames * old[-2] * old[-1]
    behind = table[ahead + patches :]
    parts = np.split(table[ahead : ahead + patches], frames)
    resized_parts = [
        resize_positions(part, old[-2:], new[-2:], recipe=name).astype(dtype or table.dtype)
        for part in parts
    ]
    positions = np.concatenate([table[:ahead], *resized_parts, behind])
    recipe = get_recipe(name)
    grids = " to ".join("×".join(map(str, grid[-2:])) for grid in (old, new))
    note = f"; {recipe.note}" if recipe.note else ""
    steps.append(f"positions: {grids} by {name} ({in_words(recipe.rule)}){note}")
    checks.append(check_positions(name, parts[0], resized_parts[0], old[-2:], new[-2:]))
    whole = _changed(stage, stage.spec, positions=positions)
    whole.weights.check_spec(whole.spec)
    return whole


def _changed(stage: Stage, spec: PatchEmbedSpec, **arrays: NDArray[np.generic]) -> Stage:
    """The stage with other arrays and sizes."""
    weights = dataclasses.replace(stage.weights, **arrays)  # type: ignore[arg-type]
    return dataclasses.replace(stage, weights=weights, spec=spec)
