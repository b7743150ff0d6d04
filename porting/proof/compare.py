"""What a proof compares: projections by their bound, fields, rows and sequences of two embedding
stages by what rounding allows."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.error import ArithmeticModel
from ...reference.probes import random_images, random_normal
from ...reference.sequence import embed_sequence
from ...reference.spec import PatchEmbedSpec
from ...reference.verdict import judge
from ...reference.weights import PatchEmbedWeights
from ..dialects.fit import arrays_of
from ..dialects.stage import NORMS, Stage, without

UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoffs."""

SMALLEST = {"float64": 0.0, "float32": 2.0**-150, "float16": 2.0**-25, "bfloat16": 2.0**-134}
"""Half of the smallest subnormal number: what rounding to a type may take away altogether."""

SEQUENCE_ROUNDINGS = 4
"""Roundings of one value on its way into the sequence, in the type of the weights: the product's
kernel and bias by a cast, its token or position by a fold and a cast."""


@dataclass(frozen=True)
class Check:
    """One part of a proof.

    Args:
        name: what was compared.
        verdict: `pass`, `fail`, or `skip` where something could not be compared.
        bound_ratio: largest error as a fraction of its bound, 0 where all bits are the same; None
            where nothing was compared.
        message: in words.
    """

    name: str
    verdict: str
    bound_ratio: float | None
    message: str

    def line(self) -> str:
        """The verdict, what was compared, and what came of it; of a proof by the library that
        nobody could make, why not."""
        if self.verdict == "skip" and self.message.startswith("not proved"):
            whose = f"{self.name.partition(':')[0]}: " if ":" in self.name else ""
            return f"{whose}{self.message}"
        return f"{self.verdict} {self.name}: {self.message}"


def not_square(spec: PatchEmbedSpec) -> PatchEmbedSpec:
    """The same patches of an image of two rows and three columns of them, in which rows and columns
    cannot be mistaken for one another."""
    grid = (1, 2, 3)[3 - spec.spatial_axes :]
    extents = zip(grid, spec.stride, spec.patch_size, spec.padding, strict=True)
    return spec.replace(
        image_size=tuple(
            (count - 1) * step + patch - sum(pad) for count, step, patch, pad in extents
        )
    )


def judge_projection(
    name: str, spec: PatchEmbedSpec, weights: PatchEmbedWeights, tokens: NDArray[Any]
) -> Check:
    """Tokens of float32 against the reference's, `(B, N, D)`, for two random images of `spec`, seed
    0."""
    base = random_normal(spec, 2, "float32", 0)
    plain = PatchEmbedWeights(weights.kernel, weights.bias)
    # A trained kernel is not zero-mean, so the bound that holds for any data is the one that
    # decides.
    probe = dataclasses.replace(base, weights=plain, gate="deterministic", gradients=())
    judgement = judge(
        probe,
        "forward",
        tokens,
        ArithmeticModel.of(np.dtype(np.float32), flush_to_zero=True, output_roundings=2),
    )
    ratio = float("inf") if judgement.bound_ratio is None else judgement.bound_ratio
    return Check(name, judgement.verdict, ratio, judgement.message or "within the bound of float32")


def compare_fields(name: str, first: PatchEmbedWeights, second: PatchEmbedWeights) -> Check | None:
    """One field of both: the same bits, or, of different types, the one rounded to the other; no
    bias is one of zeros. None where neither has it."""
    both = zip(arrays_of(first, name), arrays_of(second, name), strict=True)
    # an RMSNorm has no shift, in either
    pairs = [(one, other) for one, other in both if one is not None or other is not None]
    if not pairs:
        return None
    if name == "bias":
        pairs = [
            (
                np.zeros_like(other) if one is None else one,
                np.zeros_like(one) if other is None else other,
            )
            for one, other in pairs
        ]
    ratios = [_apart(one, other) for one, other in pairs if one is not None and other is not None]
    if len(ratios) < len(pairs):
        return Check(name, "fail", float("inf"), "one of the two has none")
    if name in NORMS and first.layout.norm_epsilon != second.layout.norm_epsilon:
        return Check(
            name,
            "fail",
            float("inf"),
            f"ε is {first.layout.norm_epsilon:g} and {second.layout.norm_epsilon:g}",
        )
    ratio = max(ratios)
    message = (
        "the same" if ratio == 0 else f"{ratio:.3g} of what rounding to the narrower type allows"
    )
    if np.isinf(ratio):
        apart = max(
            float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
            for one, other in pairs
            if one is not None and other is not None
        )
        message = f"up to {apart:.3g} apart, in one type"
        lacking = [
            which
            for which, weights in (("first", first), ("second", second))
            if name == "bias" and weights.bias is None
        ]
        if lacking:
            message = f"the {lacking[0]} has none, and the other one of up to {apart:.3g}"
    return Check(name, "pass" if ratio <= 1 else "fail", ratio, message)


def _apart(first: NDArray[Any], second: NDArray[Any]) -> float:
    """How far two arrays are apart, as a multiple of what rounding one to the type of the other
    allows; nothing where their types are one."""
    types = first.dtype.name, second.dtype.name
    one, other = first.astype(np.float64), second.astype(np.float64)
    error = np.abs(one - other)
    if not error.any():
        return 0.0
    if types[0] == types[1]:
        return float("inf")
    unit, least = max(UNITS[dtype] for dtype in types), max(SMALLEST[dtype] for dtype in types)
    return float(np.max(error / (unit * np.maximum(np.abs(one), np.abs(other)) + least + 1e-320)))


def compare_sequences(stage: Stage, held: PatchEmbedWeights, written: PatchEmbedWeights) -> Check:
    """What enters the encoder, before and after, in float64: the same bits; or what its norms are
    given, and the norms themselves, within the roundings of the steps."""
    images = random_images(stage.spec, 2, "float64", 0)
    # left out without a loss: they are zero, or what the target computes to the last bit
    source = stage.weights if held.positions is not None else without(stage.weights, "positions")
    before, after = (
        embed_sequence(images, weights.astype(np.float64), stage.spec)
        for weights in (source, written)
    )
    if before.shape != after.shape:
        return Check("steps", "fail", float("inf"), f"{after.shape} after, {before.shape} before")
    if (before == after).all():
        return Check(
            "steps",
            "pass",
            0.0,
            "our reading of the source and of the target give the same sequence",
        )
    norms = [
        check for name in NORMS if (check := compare_fields(name, source, written)) is not None
    ]
    if wrong := next((check for check in norms if check.verdict != "pass"), None):
        return Check("steps", "fail", wrong.bound_ratio, f"{wrong.name}: {wrong.message}")
    plain = [_without_norms(weights).astype(np.float64) for weights in (source, written)]
    error = np.abs(np.subtract(*(embed_sequence(images, weights, stage.spec) for weights in plain)))
    narrowest, least = (
        max(table[weights.kernel.dtype.name] for weights in (held, written))
        for table in (UNITS, SMALLEST)
    )
    absolute = plain[1].map(np.abs)
    # What rounding takes from a value altogether, times the pixels that it is multiplied with.
    lost = least * (1 + np.abs(images).sum() / len(images))
    bound = SEQUENCE_ROUNDINGS * (
        narrowest * embed_sequence(np.abs(images), absolute, stage.spec) + lost
    )
    ratio = float(np.max(error / (bound + 1e-300)))
    message = f"at most {error.max():.3g} apart, {ratio:.2g} of what rounding allows"
    return Check("steps", "pass" if ratio <= 1 else "fail", ratio, message)


def _without_norms(weights: PatchEmbedWeights) -> PatchEmbedWeights:
    return dataclasses.replace(weights, patch_norm=None, token_norm=None, sequence_norm=None)


def prefix_and_positions(weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> NDArray[np.float64]:
    """What is added to tokens, and put before or behind them: the sequence of images of zeros,
    without bias or norms, `(rows, D)`."""
    plain = dataclasses.replace(_without_norms(weights), bias=None).astype(np.float64)
    return np.asarray(embed_sequence(np.zeros(spec.images_shape(1)), plain, spec)[0])


def compare_rows(
    rows: list[NDArray[np.float64]], one: Stage, other: Stage, spec: PatchEmbedSpec
) -> Check:
    """Prefix tokens and positions of both: the same, or within one rounding of each part where
    their types differ or a part was folded into another."""
    error = np.abs(rows[0] - rows[1])
    if not error.any():
        return Check("prefix tokens and positions", "pass", 0.0, "the same")
    bound = _allowed(one, other, spec)
    if not bound.any():
        return Check(
            "prefix tokens and positions", "fail", float("inf"), f"up to {error.max():.3g} apart"
        )
    with np.errstate(over="ignore"):  # where nothing may differ
        ratio = float(np.max(error / (bound + 1e-300)))
    message = f"up to {error.max():.3g} apart, {ratio:.3g} of what rounding allows"
    return Check("prefix tokens and positions", "pass" if ratio <= 1 else "fail", ratio, message)


def _allowed(one: Stage, other: Stage, spec: PatchEmbedSpec) -> NDArray[np.float64]:
    """What rounding may change in the rows of two stages: twice that of every part whose types
    differ; of all parts by the coarsest type where some were folded into others."""
    names = ("class_token", "distillation_token", "register_tokens", "positions")
    folded = one.candidate.positioned != other.candidate.positioned
    kinds = [
        {
            name: held.dtype.name
            for name in names
            if (held := getattr(stage.weights, name)) is not None
        }
        for stage in (one, other)
    ]
    every = {*kinds[0].values(), *kinds[1].values()}
    coarse = {
        name: every if folded else {kind[name] for kind in kinds if name in kind} for name in names
    }

    def part(table: dict[str, float], name: str) -> float:
        return (
            max((table[kind] for kind in coarse[name]), default=0.0)
            if folded or len(coarse[name]) > 1
            else 0.0
        )

    bounds = []
    for stage in (one, other):
        held = {name: getattr(stage.weights, name) for name in names}
        scaled = {
            name: np.abs(value.astype(np.float64)) * 2 * part(UNITS, name) + part(SMALLEST, name)
            for name, value in held.items()
            if value is not None
        }
        bounds.append(prefix_and_positions(dataclasses.replace(stage.weights, **scaled), spec))
    return np.maximum(*bounds)
