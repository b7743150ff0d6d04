"""By which recipe was a position table resized? Every recipe is tried and compared: on the table
itself, or on the sequence that a model made with it."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..answer import Answer
from ..embed import patch_embed
from ..errors import PatchParityError, require_array, require_sizes
from ..recipes import (
    COORDINATES,
    LIBRARIES,
    RECIPES,
    Recipe,
    get_recipe,
    in_words,
    number_in_words,
)
from ..resample import Rule, resize_axes, resize_bound, resize_matrix
from ..sequence import assemble_sequence, embed_sequence
from ..spec import PatchEmbedSpec
from ..weights import PatchEmbedWeights

Grid = tuple[int, int]


@dataclass(frozen=True, repr=False)
class ResizeDiagnosis(Answer):
    """By which recipe a table was resized.

    Args:
        correct: whether it is the one that was expected; where none was, whether one is found.
        status: `correct`; `unique`, one rule explains it, under all its names; `tied`, several do;
            `unknown`.
        recipes: names of all that explain it, operations first.
        explanation: in words; where another was expected, what is different.
        left: largest error of the best one, as a fraction of the largest value.
    """

    correct: bool
    status: Literal["correct", "unique", "tied", "unknown"]
    recipes: tuple[str, ...]
    explanation: str
    left: float

    def lines(self) -> list[str]:
        """The answer in a line."""
        return [f"{self.status}: {self.explanation}"]

    @property
    def ok(self) -> bool:
        """Whether it is correct."""
        return self.correct

    def to_dict(self) -> dict[str, Any]:
        """Return the diagnosis as plain data, ready for JSON."""
        return {
            "correct": self.correct,
            "status": self.status,
            "recipes": list(self.recipes),
            "explanation": self.explanation,
            "left": self.left,
        }


@dataclass(frozen=True)
class _Hypothesis:
    """One way in which a table may have come about.

    Args:
        names: of the recipes that have this rule.
        rule: of both axes; None where nothing was resized along two axes.
        rules: all that do the same between these grids.
        said: in words, where no recipe has it.
        make: the new table, `(rows, D)`, out of the old one, `(H, W, D)`.
        bound: how far another implementation's may lie from it, for a largest value.
    """

    names: tuple[str, ...]
    rule: Rule | None
    said: str
    make: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    bound: Callable[[float], float]
    rules: tuple[Rule, ...] = ()


UNIT = 2.0**-24
"""Libraries resize in float32, also where they keep another type."""

ROUNDINGS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoffs of the types in which a table may be kept, or resized."""


def diagnose_resize(
    positions: NDArray[Any],
    resized: NDArray[Any],
    grid: Sequence[int],
    new_grid: Sequence[int],
    *,
    prefix_rows: int = 0,
    expected: str | None = None,
) -> ResizeDiagnosis:
    """Say by which recipe a table of positions was resized.

    Args:
        positions: `(prefix_rows + rows·columns, D)`.
        resized: `(prefix_rows + new rows·new columns, D)`.
        grid, new_grid: rows and columns of patches, before and after.
        prefix_rows: rows in front, of class and other tokens.
        expected: the recipe that it should have been.

    Raises:
        PatchParityError: tables that do not fit the grids, values that are not finite, an unknown
            recipe.

    Examples:
        >>> import numpy as np
        >>> import patchparity
        >>> table = np.random.default_rng(0).standard_normal((24 * 24, 64))
        >>> other = patchparity.resize_positions(table, (24, 24), (14, 14), recipe="timm")
        >>> vit = "transformers-vit"
        >>> found = patchparity.diagnose_resize(table, other, (24, 24), (14, 14), expected=vit)
        >>> print(found.explanation.partition(": ")[2].partition(";")[0])
        antialias was on, a = −0.5 for −0.75
    """
    old, new = _checked(positions, resized, grid, new_grid, prefix_rows)
    if expected is not None:
        get_recipe(expected).rules(old, new)  # which says what it does not know
    before, after = (table.astype(np.float64) for table in (positions, resized))
    unit = max(ROUNDINGS.get(array.dtype.name, UNIT) for array in (positions, resized))
    if prefix_rows and not np.allclose(before[:prefix_rows], after[:prefix_rows], 2 * unit, 1e-30):
        return ResizeDiagnosis(
            False,
            "unknown",
            (),
            f"the first {prefix_rows} rows, of prefix tokens, are not those of the table: they "
            "were resized with the others, or stand elsewhere",
            math.inf,
        )
    table, observed = before[prefix_rows:].reshape(*old, -1), after[prefix_rows:]
    largest = float(np.abs(table).max())
    rounding = max(ROUNDINGS.get(array.dtype.name, 0.0) for array in (positions, resized))
    tried = []
    for hypothesis in _hypotheses(old, new):
        error = float(np.abs(hypothesis.make(table) - observed).max())
        # of 16 bits, one rounding for each axis and one for the file
        tried.append((hypothesis, error, hypothesis.bound(largest) + 4 * rounding * largest))
    return _judged(tried, largest, expected)


def diagnose_resized_output(
    images: NDArray[Any],
    weights: PatchEmbedWeights,
    sequence: NDArray[Any],
    spec: PatchEmbedSpec,
    grid: Sequence[int],
    *,
    expected: str | None = None,
) -> ResizeDiagnosis:
    """Say by which recipe a model resized its positions, from the sequence that it made.

    Args:
        images: `(B, C, H, W)`, of the new size.
        weights: canonical, with positions of the old grid.
        sequence: `(B, prefix + N, D)`, what entered the encoder.
        spec: the sizes, of the new image.
        grid: rows and columns of the old grid.
        expected: the recipe that it should have been.

    Raises:
        PatchParityError: weights without positions, or positions or a sequence of another size.

    Examples:
        >>> import dataclasses
        >>> import numpy as np
        >>> import patchparity as pp
        >>> spec = pp.PatchEmbedSpec((48, 48), 8, 3, 20)  # a grid of 6×6
        >>> weights = pp.initialize_weights(spec, seed=0)  # with a class token and positions
        >>> old = weights.positions
        >>> table = pp.resize_positions(old, (6, 6), (9, 9), prefix_rows=1, recipe="timm")
        >>> larger = spec.replace(image_size=(72, 72))
        >>> images = np.random.default_rng(0).random((1, 3, 72, 72))
        >>> model = dataclasses.replace(weights, positions=table)  # what another one does
        >>> tokens = pp.assemble_sequence(pp.patch_embed(images, model, larger), model, larger)
        >>> pp.diagnose_resized_output(images, weights, tokens, larger, (6, 6)).recipes[0]
        'torch-bicubic-antialias'
    """
    if weights.positions is None:
        raise PatchParityError("the weights hold no positions, of which a model could resize some")
    require_sizes("grid", tuple(grid), (2,))
    if expected is not None:
        get_recipe(expected).rules(grid, spec.grid[-2:])
    ahead, count = weights.num_positions_ahead, grid[0] * grid[1]
    table = weights.positions.astype(np.float64)
    shape = (len(images), weights.num_prefix_tokens + spec.num_patches, spec.embed_dim)
    if sequence.shape != shape:
        raise PatchParityError(f"a sequence of shape {sequence.shape}: expected {shape}")
    if len(table) != count + weights.num_positioned_prefix_tokens:
        raise PatchParityError(
            f"positions of shape {table.shape}: expected "
            f"{count + weights.num_positioned_prefix_tokens} rows, for a grid of "
            f"{'×'.join(map(str, grid))}"
        )
    if not np.isfinite(sequence).all():
        raise PatchParityError("the sequence holds NaN or infinite values")
    exact, few = weights.astype(np.float64), images.astype(np.float64)
    plain = exact.patch_norm is None and exact.token_norm is None
    # what all hypotheses share, once
    tokens = patch_embed(few, _with_positions(exact, None), spec) if plain else None
    observed = sequence.astype(np.float64)
    scale = float(np.abs(observed).max())
    rounding = max(ROUNDINGS.get(sequence.dtype.name, 0.0), UNIT)
    allowed = SEQUENCE_ALLOWED * math.sqrt(spec.patch_values) * rounding * scale
    old, new = (int(grid[0]), int(grid[1])), spec.grid
    tried = []
    for hypothesis in _hypotheses(old, (new[-2], new[-1])):
        rows = hypothesis.make(table[ahead : ahead + count].reshape(*old, -1))
        positions = np.concatenate([table[:ahead], rows, table[ahead + count :]])
        held = _with_positions(exact, positions)
        made = (
            embed_sequence(few, held, spec)
            if tokens is None
            else assemble_sequence(tokens, held, spec)
        )
        tried.append((hypothesis, float(np.abs(made - observed).max()), allowed))
    return _judged(tried, scale, expected)


SEQUENCE_ALLOWED = 16
"""Largest error of a sequence, as a multiple of √K·u of its largest value: four times λ = 4 of
reference/error.py, for norms behind the product and layers of additions."""


def _with_positions(
    weights: PatchEmbedWeights, positions: NDArray[np.float64] | None
) -> PatchEmbedWeights:
    return dataclasses.replace(weights, positions=positions)


def _checked(
    positions: NDArray[Any],
    resized: NDArray[Any],
    grid: Sequence[int],
    new_grid: Sequence[int],
    prefix_rows: int,
) -> tuple[Grid, Grid]:
    """The two grids.

    Raises:
        PatchParityError: tables that do not fit them.
    """
    grids = []
    for name, table, sides in (
        ("positions", positions, grid),
        ("resized", resized, new_grid),
    ):
        require_array(name, table)
        require_sizes("grid" if name == "positions" else "new_grid", tuple(sides), (2,))
        rows = prefix_rows + sides[0] * sides[1]
        if table.ndim != 2 or len(table) != rows or table.shape[1] != positions.shape[-1]:
            raise PatchParityError(
                f"{name} of shape {table.shape}: expected ({rows}, {positions.shape[-1]}), "
                f"{prefix_rows} rows of prefix tokens and {sides[0]}×{sides[1]} of patches"
            )
        if not np.isfinite(table).all():
            raise PatchParityError(f"{name} holds NaN or infinite values")
        grids.append((int(sides[0]), int(sides[1])))
    return grids[0], grids[1]


def _hypotheses(grid: Grid, new: Grid) -> Iterator[_Hypothesis]:
    """Every way to weigh samples once, under all names of recipes that do here; then what is done
    to tables by mistake."""
    by_weights: dict[bytes, tuple[list[tuple[Rule, Rule]], list[str]]] = {}
    square = len(set(grid)) == len(set(new)) == 1
    for name, recipe in RECIPES.items():
        if recipe.square and not square:
            continue
        rules = recipe.rules(grid, new)
        matrices = [
            resize_matrix(rule, size, count)
            for rule, size, count in zip(rules, grid, new, strict=True)
        ]
        # antialias makes no other weights where a grid grows
        weights = b"".join(np.round(matrix, 12).tobytes() for matrix in matrices)
        all_rules, names = by_weights.setdefault(weights, ([], []))
        all_rules.append(rules)
        names.append(name)
    for all_rules, names in by_weights.values():
        of_names = tuple(sorted(names, key=_operation_first))
        made = _by_rules(RECIPES[of_names[0]].rules(grid, new), of_names, grid, new)
        yield dataclasses.replace(made, rules=tuple(dict.fromkeys(one for one, _ in all_rules)))
    for name in ("torch-bicubic", "torch-bicubic-antialias", "torch-bilinear"):
        rule = RECIPES[name].rule
        turned = _by_rules((rule, rule), (name,), grid, (new[1], new[0]))
        yield _Hypothesis(
            (),
            rule,
            f"rows and columns of the new grid are swapped: {name} to {new[1]}×{new[0]}",
            _transposed(turned.make, new),
            turned.bound,
        )
        if grid[0] * grid[1] != new[0] * new[1]:
            yield _along_one_axis(name, grid, new)
    if grid[0] * grid[1] == new[0] * new[1]:
        yield _Hypothesis(
            (),
            None,
            "not resized: the table was taken as it is, for it has as many rows",
            lambda table: table.reshape(-1, table.shape[2]),
            lambda largest: 2 * UNIT * largest,
        )


def _by_rules(
    rules: tuple[Rule, Rule], names: tuple[str, ...], grid: Grid, new: Grid
) -> _Hypothesis:
    matrices = [
        resize_matrix(rule, size, count) for rule, size, count in zip(rules, grid, new, strict=True)
    ]

    def make(table: NDArray[np.float64]) -> NDArray[np.float64]:
        return resize_axes(table, matrices[0], matrices[1]).reshape(-1, table.shape[2])

    def bound(largest: float) -> float:
        return resize_bound(rules, grid, new, largest, UNIT)

    return _Hypothesis(names, rules[0], "", make, bound)


def _transposed(
    make: Callable[[NDArray[np.float64]], NDArray[np.float64]], new: Grid
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """What has rows and columns of the new grid swapped."""

    def turned(table: NDArray[np.float64]) -> NDArray[np.float64]:
        made = make(table).reshape(new[1], new[0], -1)
        return made.transpose(1, 0, 2).reshape(new[0] * new[1], -1)

    return turned


def _along_one_axis(name: str, grid: Grid, new: Grid) -> _Hypothesis:
    """All rows of the table resized as one axis, as though it were no grid."""
    rule, counts = RECIPES[name].rule, (grid[0] * grid[1], new[0] * new[1])
    matrix = resize_matrix(rule, *counts)
    return _Hypothesis(
        (),
        rule,
        f"the rows were resized as one axis of {counts[0]}, and not as a grid, by {name}",
        lambda table: matrix @ table.reshape(counts[0], -1),
        lambda largest: resize_bound((rule, rule), (counts[0], 1), (counts[1], 1), largest, UNIT),
    )


def _operation_first(name: str) -> tuple[bool, int]:
    """The order of names: operations as frameworks have them, then libraries."""
    return name in LIBRARIES or name == "dinov2", _PLACES[name]


_PLACES = {name: place for place, name in enumerate(RECIPES)}


def _judged(
    tried: list[tuple[_Hypothesis, float, float]], largest: float, expected: str | None
) -> ResizeDiagnosis:
    """The answer, from hypotheses, their errors, and what these may be."""
    wanted = None if expected is None else get_recipe(expected)
    fitting = [(hypothesis, error) for hypothesis, error, bound in tried if error <= bound]
    best, error, _ = min(tried, key=lambda each: each[1] / max(each[2], 1e-300))
    left = error / max(largest, 1e-300)
    if not fitting:
        name = best.names[0] if best.names else best.said
        return ResizeDiagnosis(
            False,
            "unknown",
            (),
            f"no recipe gives it: the nearest, {name}, leaves {left:.2g} of the largest value",
            left,
        )
    names = tuple(
        sorted(
            dict.fromkeys(name for hypothesis, _ in fitting for name in hypothesis.names),
            key=_operation_first,
        )
    )
    left = min(error for _, error in fitting) / max(largest, 1e-300)
    named = [hypothesis for hypothesis, _ in fitting if hypothesis.names]
    kinds = {
        (
            rule.kernel,
            rule.a if rule.kernel == "cubic" else 0,
            COORDINATES[rule.coordinates],
            rule.offset,
        )
        for hypothesis in named
        for rule in hypothesis.rules
    }
    if expected in names and len(named) == 1:
        return ResizeDiagnosis(True, "correct", names, f"resized by {expected}", left)
    if expected in names:
        others = [hypothesis.names[0] for hypothesis in named if expected not in hypothesis.names]
        shown = ", ".join(others[:LISTED]) + (" and others" if len(others) > LISTED else "")
        why = f"resized by {expected}, or by {shown}: they cannot be told apart here"
        return ResizeDiagnosis(True, "tied", names, why, left)
    if not named:
        return ResizeDiagnosis(False, "unique", (), fitting[0][0].said, left)
    status: Literal["unique", "tied"] = "unique" if len(kinds) == 1 else "tied"
    return ResizeDiagnosis(wanted is None, status, names, _told(named, names, wanted), left)


def _told(named: list[_Hypothesis], names: tuple[str, ...], wanted: Recipe | None) -> str:
    """Which recipes explain it, and how they differ from the one that was expected."""
    libraries = [name for name in names[1:] if name in LIBRARIES or name == "dinov2"]
    others = [*libraries, *(name for name in names[1:] if name not in libraries)]
    more = f" and {len(others) - LISTED} more" if len(others) > LISTED else ""
    also = f"; so do {', '.join(others[:LISTED])}{more}" if others else ""
    rule = named[0].rule
    if wanted is None or rule is None:
        words = "" if rule is None else f": {in_words(rule)}"
        return f"resized by {names[0]}{words}{also}"
    # of rules that do the same here the one that is nearest to what was expected
    different = min((differences(wanted.rule, each) for each in named[0].rules or (rule,)), key=len)
    return f"resized by {names[0]} and not by {wanted.name}: {', '.join(different)}{also}"


LISTED = 6
"""Names of one rule that a line holds; `recipes` has all."""


def differences(expected: Rule, found: Rule) -> list[str]:
    """What the one rule does and the other does not, in words."""
    told = []
    if expected.kernel != found.kernel:
        told.append(f"{found.kernel} for {expected.kernel}")
    if expected.antialias != found.antialias:
        told.append(f"antialias was {'on' if found.antialias else 'off'}")
    if expected.kernel == found.kernel == "cubic" and expected.a != found.a:
        told.append(f"a = {number_in_words(found.a)} for {number_in_words(expected.a)}")
    if expected.coordinates != found.coordinates:
        told.append(
            "the corners are aligned"
            if found.coordinates == "align-corners"
            else "the corners are not aligned"
            if expected.coordinates == "align-corners" and found.coordinates == "half-pixel"
            else COORDINATES[found.coordinates]
        )
    if expected.offset != found.offset:
        told.append(
            f"the step is off by the {found.offset or expected.offset:g} that DINOv2 "
            f"{'adds' if found.offset else 'would add'}"
        )
    if expected.outside_is_zero != found.outside_is_zero:
        told.append(
            "a last row or column is zero, by SciPy's rounding"
            if found.outside_is_zero
            else "without SciPy's zeros"
        )
    if expected.table != found.table:
        told.append(f"weights {'of a table' if found.table else 'of no table'}")
    if expected.edge != found.edge and not told:
        told.append("another value beyond the edge")
    return told or ["in its rounding alone"]
