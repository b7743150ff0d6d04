"""`verify`: whether two checkpoints, in any two dialects, hold the same embedding stage, or how
they differ."""

import dataclasses
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..reference.answer import Answer
from ..reference.diagnosis.diagnose import diagnose
from ..reference.diagnosis.resize import ResizeDiagnosis, diagnose_resize
from ..reference.embed import patch_embed
from ..reference.errors import PatchParityError
from ..reference.probes import random_images
from ..reference.recipes import RECIPES
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .dialects.catalogue import list_dialects
from .dialects.dialect import Dialect
from .dialects.fit import same_bits
from .dialects.quantized import dequantized
from .dialects.recognize import behind_layers
from .dialects.sizes import Sizes
from .dialects.stage import NORMS, Stage, read_stage
from .files.opening import opened, prepare
from .proof.compare import Check, compare_fields, compare_rows, not_square, prefix_and_positions
from .proof.library import prove_by_library
from .resized import as_recipes, resized, sizes_of_source


@dataclass(frozen=True, repr=False)
class Difference(Answer):
    """What `verify` found.

    Args:
        same: whether the two hold the same embedding stage.
        first, second: how they were read.
        explanation: in words; of what differs, which mistake would make the one out of the other.
        checks: what was compared.
    """

    same: bool
    first: str
    second: str
    explanation: str
    checks: list[Check]

    @property
    def ok(self) -> bool:
        """Whether they are the same."""
        return self.same

    def lines(self) -> list[str]:
        """Whether they are the same, and what was compared."""
        verdict = f"{self.first} and {self.second}: {self.explanation}"
        return [verdict, *(check.line() for check in self.checks)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.verify/1", **dataclasses.asdict(self)}


def verify(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    from_: tuple[str | None, str | None] = (None, None),
    prefix: tuple[str | None, str | None] = (None, None),
    prefixes: tuple[str | None, str | None] | None = None,
    image_size: int | Sequence[int] | None = None,
    patch_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | None = None,
    sizes: Sizes | None = None,
    prove: bool = True,
    resample: str | Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> Difference:
    """Prove that two checkpoints, in any two dialects, hold the same embedding stage, or say how
    they differ.

    Args:
        first, second: checkpoints.
        from_: their dialects, where they are known.
        prefix: what stands before their names, where a file holds several stages.
        prefixes: the same, deprecated.
        image_size, patch_size, in_channels, stride, padding: what is known of their sizes and no
            `config.json` tells; one number, or one for each axis, frames of a video in front. What
            the first tells holds for the second.
        sizes: the same in one object, as earlier versions took them.
        prove: whether the libraries' own models are built and run, where they are installed and a
            `config.json` tells how.
        resample: recipes by which the first is taken to the sizes of the second before they are
            compared; what is told of sizes then holds for the second.
        ignore: names, or patterns of the shell's kind, of tensors that play no part although
            nothing explains them.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: whatever `read_stage` refuses.

    Examples:
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2)
        >>> config = transformers.ViTConfig(num_hidden_layers=1, intermediate_size=32, **sizes)
        >>> transformers.ViTModel(config).save_pretrained("vit")
        >>> _ = patchparity.port("vit", "timm.safetensors", "timm-vit")
        >>> patchparity.verify("vit", "timm.safetensors").same
        True
    """
    if prefixes is not None:
        warnings.warn("prefixes= is now prefix=", DeprecationWarning, stacklevel=2)
        prefix = prefixes
    sizes = Sizes.of_user(image_size, patch_size, in_channels, stride, padding, sizes)
    recipes = as_recipes(resample)
    prepare(first)
    prepare(second)
    stages, proofs = _read_both(
        (first, second), from_, prefix, sizes, prove, ignore, list_dialects(dialects), recipes
    )
    one, other = stages
    whole = one
    if recipes:
        done = resized(one, Sizes.of(other.spec), recipes)
        proofs += done.checks
        stages = [done.stage, other]
        one = done.stage
    labels = one.candidate.label, other.candidate.label
    if why := _not_comparable(one, other):
        return Difference(False, *labels, why + _resized_how(one, other), [])
    spec = one.spec if one.size_known else other.spec
    compared_fields = [
        compare_fields(name, one.weights, other.weights) for name in ("kernel", "bias", *NORMS)
    ]
    checks = [check for check in compared_fields if check is not None]
    rows = [prefix_and_positions(stage.weights, spec) for stage in stages]
    if rows[0].shape != rows[1].shape:
        why = (
            f"the sequences are of {rows[0].shape[0]} and {rows[1].shape[0]} tokens: the prefix "
            "tokens differ"
        )
        return Difference(False, *labels, why, checks)
    checks.append(compare_rows(rows, one, other, spec))
    if checks[-1].verdict == "fail" and recipes:
        checks[-1] = _within_bound(checks[-1], whole, other, recipes)
    if all(check.verdict == "pass" for check in checks):
        return Difference(True, *labels, _the_same(one, other, checks), checks + proofs)
    if checks[0].verdict == "pass":
        wrong = [check for check in checks if check.verdict == "fail"]
        names = ", ".join(check.name for check in wrong)
        how = wrong[0].message if names == "bias" else _what_differs(one, other)
        how += _resized_how(whole, other) if recipes else ""
        why = f"the kernels agree, and {names} {'does' if names == 'bias' else 'do'} not ({how})"
    else:
        why = f"the second against the first: {_of_kernels(one, other, spec)}"
    told = [*_told_of("first", one), *_told_of("second", other)]
    return Difference(False, *labels, "; ".join([why, *told]), checks)


OF_TENSOR = re.compile(r"\w+: of ")
"""How a note begins that tells no more than where in a graph a part of the stage is."""

CHANGED_VALUES = re.compile(r"dequantized|float16|bfloat16|normalizes images itself")
"""How notes tell that a file does not hold the values that a model was trained with."""


def _told_of(which: str, stage: Stage) -> list[str]:
    """What explains a difference of values, of one side."""
    return [f"of the {which}: {note}" for note in stage.notes if CHANGED_VALUES.search(note)]


def _read_both(
    files: tuple[str | os.PathLike[str], str | os.PathLike[str]],
    from_: tuple[str | None, str | None],
    prefixes: tuple[str | None, str | None],
    sizes: Sizes | None,
    prove: bool,
    ignore: Sequence[str],
    known: Mapping[str, Dialect],
    recipes: Sequence[str],
) -> tuple[list[Stage], list[Check]]:
    """The two stages, and what their libraries say of them."""
    stages: list[Stage] = []
    proofs: list[Check] = []
    for side, path, dialect, prefix in zip(
        ("first", "second"), files, from_, prefixes, strict=True
    ):
        with opened(path) as file:
            checkpoint = dequantized(file)
            known_sizes = stages[0].sizes if stages and stages[0].size_known else sizes
            wanted = sizes or known_sizes
            if recipes:  # of another size than the first
                wanted = sizes if stages else sizes_of_source(sizes, recipes)
            stages.append(read_stage(checkpoint, dialect, prefix, known, wanted, ignore))
            if prove:
                check = prove_by_library(checkpoint, stages[-1])
                proofs.append(dataclasses.replace(check, name=f"{side}: {check.name}"))
                if check.verdict == "fail":
                    raise PatchParityError(f"{path} is not what it was read as: {check.message}")
    if stages[0].dialect.computed and not stages[0].size_known and stages[1].size_known:
        # its positions are computed, and the second tells of which size
        with opened(files[0]) as file:
            checkpoint = dequantized(file)
            size = stages[1].sizes
            size = size if sizes is None else sizes.over(size)
            stages[0] = read_stage(checkpoint, from_[0], prefixes[0], known, size, ignore)
    return stages, proofs


def _the_same(one: Stage, other: Stage, compared: list[Check]) -> str:
    """That two stages are the same, how closely, and what was assumed of them."""
    exact = (
        "to the last bit"
        if all(check.bound_ratio == 0 for check in compared)
        else "within the rounding of their types"
    )
    notes = [
        f"assumed of the {which}: {stage.candidate.assumed}"
        for which, stage in (("first", one), ("second", other))
        if stage.candidate.assumed
    ]
    notes += [
        f"of the {which}: {behind_layers(stage.candidate.layers)}"
        for which, stage in (("first", one), ("second", other))
        if stage.candidate.layers
    ]
    notes += [
        note
        for note in (*one.notes, *other.notes)
        if CHANGED_VALUES.search(note) or not OF_TENSOR.match(note)
    ]
    if _masks_differ(one, other):
        notes.append("but for the mask token, which plays no part but in pre-training")
    return "; ".join([f"the same embedding stage, {exact}", *notes])


ROUNDED = 2.0**-7
"""Largest difference of two kernels, as a part of their largest value, that a type of sixteen bits
may have made: a rounding of bfloat16, of half of it on either side."""


def _of_kernels(one: Stage, other: Stage, spec: PatchEmbedSpec) -> str:
    """How two kernels that differ do."""
    kernels = [stage.weights.kernel.astype(np.float64) for stage in (one, other)]
    size = float(np.abs(kernels[0]).max())
    apart = float(np.abs(kernels[0] - kernels[1]).max())
    part = apart / max(size, 1e-300)
    message = f"the kernels differ by {apart:.3g} at most, {part:.2g} of the largest value"
    if apart <= ROUNDED * size:
        return f"{message}: roundings, or another step of one training"
    if any("dequantized" in note for stage in (one, other) for note in stage.notes):
        return f"{message}: one of them was kept in fewer bits"
    uneven = not_square(spec)
    # In float32: what a file's type rounded is no mistake.
    images = random_images(uneven, 2, "float32", 0)
    # of about one, whatever theirs: an output of 1e-30 shows nothing beside a rounding of ours
    scale = 2.0 ** -np.frexp(size)[1]
    plain = [
        PatchEmbedWeights(stage.weights.kernel, stage.weights.bias)
        .astype(np.float64)
        .map(lambda array: (array * scale).astype(np.float32))
        for stage in (one, other)
    ]
    tokens = patch_embed(images, plain[1], uneven).astype(np.float32)
    diagnosis = diagnose(images, plain[0], tokens, uneven)
    return message if diagnosis.correct else diagnosis.explanation


def _not_comparable(one: Stage, other: Stage) -> str:
    """Why the values of two stages say nothing of each other: other patches, another order of
    tokens, another grid; empty where they do."""
    for name, word in (
        ("patch_size", "patch"),
        ("in_channels", "channels"),
        ("embed_dim", "width"),
        ("stride", "stride"),
        ("padding", "padding"),
    ):
        first, second = getattr(one.spec, name), getattr(other.spec, name)
        if first != second:
            return f"the first has {word} {first}, the second {second}"
    if why := _stems_differ(one, other):
        return why
    layouts = [stage.weights.layout for stage in (one, other)]
    orders = [
        layout.token_order + (f" in windows of {layout.window} patches" if layout.window else "")
        for layout in layouts
    ]
    if orders[0] != orders[1]:
        return f"tokens are in {orders[0]} order in the first, in {orders[1]} order in the second"
    if one.size_known and other.size_known and one.spec.image_size != other.spec.image_size:
        return f"the first has a grid of {one.spec.grid}, the second of {other.spec.grid}"
    return ""


def _within_bound(check: Check, one: Stage, other: Stage, recipes: Sequence[str]) -> Check:
    """The comparison of positions, passed where those of the second are those of the first,
    resized by the named recipe, but for what another implementation's rounding leaves."""
    name = next((name for name in recipes if name in RECIPES), None)
    found = None if name is None else _found(one, other, name)
    compared = ("kernel", "bias", "positions", "mask_token", *NORMS)
    others = [each for each in same_bits(one.weights, other.weights) if each not in compared]
    if found is None or not found.correct or others:
        return check
    message = f"the same, within the bound of {name} in float32"
    return dataclasses.replace(check, verdict="pass", bound_ratio=1.0, message=message)


def _found(one: Stage, other: Stage, expected: str | None) -> ResizeDiagnosis | None:
    """How the positions of the second came of those of the first; None where that is no
    question."""
    tables = one.weights.positions, other.weights.positions
    grids = one.spec.grid, other.spec.grid
    if tables[0] is None or tables[1] is None or grids[0] == grids[1]:
        return None
    if not (one.size_known and other.size_known) or one.stem or len(grids[0]) != 2:
        return None
    ahead = [stage.weights.num_positions_ahead for stage in (one, other)]
    counts = [grid[0] * grid[1] for grid in grids]
    if ahead[0] != ahead[1] or one.spec.embed_dim != other.spec.embed_dim:
        return None
    rows = [
        table[: first + count]
        for table, first, count in zip(tables, ahead, counts, strict=True)
        if table is not None
    ]
    return diagnose_resize(rows[0], rows[1], *grids, prefix_rows=ahead[0], expected=expected)


def _resized_how(one: Stage, other: Stage) -> str:
    """By which recipe the positions of the second are those of the first, resized, as the end of a
    sentence; empty where that is no question."""
    found = _found(one, other, None)
    if found is None:
        return ""
    if found.status == "unknown":
        return f"; of the positions {found.explanation}"
    return f"; the positions of the second are those of the first, {found.explanation}"


def _stems_differ(one: Stage, other: Stage) -> str:
    """How the convolutions in front of the projections differ, in words; empty where they do
    not."""
    if len(one.stem) != len(other.stem):
        return (
            f"the first has {len(one.stem)} convolutions in front of its projection, the "
            "second "
            f"{len(other.stem)}"
        )
    for place, (first, second) in enumerate(zip(one.stem, other.stem, strict=True), 1):
        alike = (first.stride, first.padding, first.activation) == (
            second.stride,
            second.padding,
            second.activation,
        )
        arrays = [(first.kernel, second.kernel), (first.bias, second.bias)]
        if not alike or not all(
            (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
            for a, b in arrays
        ):
            return (
                f"convolution {place} in front of the projection differs, or its norm, stride "
                "or activation"
            )
    return ""


def _masks_differ(one: Stage, other: Stage) -> bool:
    first, second = one.weights.mask_token, other.weights.mask_token
    return first is not None and second is not None and not np.array_equal(first, second)


def _what_differs(one: Stage, other: Stage) -> str:
    names = [
        name
        for name in same_bits(one.weights, other.weights)
        if name not in ("kernel", "bias", "mask_token")
    ]
    field_names = ", ".join(name.replace("_", " ") for name in names)
    if field_names:
        return f"{field_names} differ"
    ours, theirs = one.weights.layout.norm_epsilon, other.weights.layout.norm_epsilon
    return f"ε of their norms is {ours:g} and {theirs:g}" if ours != theirs else "their order does"
