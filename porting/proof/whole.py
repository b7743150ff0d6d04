"""The proof of a whole model's port: what was written reads back as what was meant, and both
libraries' own models compute it, each block and the end within the bounds of their arithmetic.

Every block is fed with what the NumPy encoder of the very weights gives, so that no block is judged
by what an earlier one rounded.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...reference.encoder import Places, encode_block
from ...reference.encoder_error import BlockExpectation, expect_block, expect_end, judge_block
from ...reference.encoder_weights import EncoderSpec
from ...reference.errors import PatchParityError
from ..dialects.stage import Stage
from ..encoders.canonical import Parts, block_of, ends_of, places_of
from ..encoders.found import Part
from ..encoders.semantics import Semantics
from .compare import Check
from .library import ALLOWED, quiet
from .own_model import OtherModelError, UnprovedError

if TYPE_CHECKING:
    from ..objects.blocks import BlockRun

BY_LIBRARY = "blocks by the library"
"""What the check of a library's own model is called."""

WIDE = 512
"""Width from which one image is enough: each has a thousand tokens' values more than a narrow one,
and the NumPy encoder takes seconds a block."""


@dataclass(frozen=True, eq=False)
class Side:
    """A whole model, as far as a proof runs it.

    Args:
        stage: the embedding stage.
        parts: of the encoder, canonical.
        rms: whether its norms are RMSNorms.
        depth: number of blocks.
        semantics: what no tensor says.
        dtype: the coarsest type of its tensors.
        own_head: whether its library's model has no head beside the reading.
    """

    stage: Stage
    parts: Parts
    rms: bool
    depth: int
    semantics: Semantics
    dtype: str = "float32"
    own_head: bool = True

    @property
    def spec(self) -> EncoderSpec:
        """As the NumPy encoder takes it."""
        return self.semantics.spec(self.stage.weights)

    @property
    def places(self) -> Places:
        """Rotary positions."""
        width = self.parts["blocks.0.query.weight"].shape[0] // self.semantics["num_heads"]
        return places_of(self.semantics, self.stage.spec.grid, width)

    def images(self) -> NDArray[np.float32]:
        """A random one, a smooth one as pictures are, and the random one again, whose tokens are
        made small before each block (`with_small`); of wide models no smooth one. `(B, C, H, W)`.
        """
        spec = self.stage.spec
        numbers = np.random.default_rng(0)
        shape = (self.stage.in_channels, *spec.image_size)
        noise = numbers.standard_normal((1, *shape)).astype(np.float32)
        if spec.embed_dim > WIDE:
            return np.concatenate([noise, noise])
        steps = numbers.standard_normal((1, *shape))
        for axis in (-2, -1):
            steps = np.cumsum(steps, axis) / np.sqrt(shape[axis])
        return np.concatenate([noise, steps.astype(np.float32), noise])


SMALL = 2.0**-10
"""By what tokens are made small: the variance of usual ones, about 1, then is about 1e-6, which ε
of a norm is added to and seen at."""


def with_small(tokens: NDArray[Any]) -> NDArray[np.float32]:
    """Tokens as a block is fed with them, those of the last image made small."""
    given = tokens.astype(np.float32)
    given[-1] *= SMALL
    return given


@dataclass
class Worst:
    """The largest share of a bound, and where."""

    ratio: float = 0.0
    place: str = ""

    def see(self, measured: NDArray[Any] | None, expected: BlockExpectation, place: str) -> None:
        """Judge one more."""
        if measured is None:
            return
        ratio = judge_block(np.asarray(measured), expected)
        if not ratio <= self.ratio:
            self.ratio, self.place = ratio, place


def prove_by_model(
    side: Side, model: Any, name: str, ends: tuple[str, ...], complete: bool = True
) -> Check:
    """Hold a live model of a library against a reading of its file.

    Args:
        side: how it was read.
        model: the live model.
        name: of it.
        ends: what of the end is compared: `tokens`, `pooled`, `output`.
        complete: whether the model has no head but that of the reading; of one that has another,
            what it makes of it is not compared.

    Raises:
        UnprovedError: a model that cannot be run block by block.
    """
    from ..objects.blocks import run_blocks  # a port without the proof runs none

    spec, places, worst = side.spec, side.places, Worst()
    images = side.images()
    expected: list[BlockExpectation] = []

    def feed(number: int, own: NDArray[Any]) -> NDArray[Any]:
        given = np.array(own, np.float32) if number == 0 else expected[-1].values
        given = with_small(given)
        if number:
            worst.see(own, expected[-1], f"block {number - 1}")
        block = block_of(side.parts, number, side.rms)
        expected.append(expect_block(given, block, spec, places))
        return given

    try:
        with quiet():
            run = run_blocks(model, images, given=feed)
    except PatchParityError as error:
        raise UnprovedError(f"{name} is not run block by block: {error}") from None
    if len(run.left) != side.depth:
        return Check(
            BY_LIBRARY,
            "fail",
            math.inf,
            f"{name} has {len(run.left)} blocks, the file {side.depth}",
        )
    worst.see(run.left[-1], expected[-1], f"block {side.depth - 1}")
    _see_end(side, run, ends, worst, complete)
    if (first := entering(side, run, images, name)).verdict == "fail":
        return dataclasses.replace(first, name=BY_LIBRARY)
    if worst.ratio <= 1:
        message = f"{name}: {side.depth} blocks, worst {worst.ratio:.2g} of the bound"
        return Check(BY_LIBRARY, "pass", worst.ratio, message)
    return Check(
        BY_LIBRARY,
        "fail",
        worst.ratio,
        f"{name} gives something else than this reading at {worst.place}: {worst.ratio:.3g} times "
        "the bound",
    )


def _see_end(
    side: Side, run: "BlockRun", ends: tuple[str, ...], worst: Worst, complete: bool
) -> None:
    end = expect_end(run.left[-1], ends_of(side.parts, side.rms), side.spec)
    for name in ends:
        measured = getattr(run, name)
        if name not in end or measured is None:
            continue
        if complete or tuple(measured.shape) == end[name].values.shape:
            worst.see(measured, end[name], f"its {name}")


def entering(side: Side, run: "BlockRun", images: NDArray[Any], name: str) -> Check:
    """Hold what enters a model's first block against the sequence of the embedding stage."""
    apart = _apart(side.stage.sequence(images, side.stage.spec), run.entered)
    if apart <= 1:
        return Check("embedding", "pass", apart, f"{apart:.2g} of what float32 allows")
    message = f"{name} gives another sequence to its first block ({apart:.3g} times the bound)"
    return Check("embedding", "fail", apart, message)


def _apart(expected: NDArray[Any], observed: NDArray[Any]) -> float:
    """Relative rms difference of two sequences, as a multiple of what float32 allows."""
    wide = np.asarray(observed).astype(np.float64)
    if wide.shape != expected.shape:
        return math.inf
    apart = float(np.linalg.norm(wide - expected) / (np.linalg.norm(expected) + 1e-300))
    return apart / (ALLOWED * math.sqrt(expected.shape[-1] * 3) * 2.0**-24)


def prove_by_library(
    side: Side, name: str, weights: Path, kind: str, table: Mapping[str, Any], complete: bool
) -> Check:
    """Let a library build its own model of a file, and hold that against the reading.

    Args:
        side: how the file was read.
        name: of the class, its library first.
        weights: the file.
        kind: its format.
        table: its configuration.
        complete: whether every parameter must be in the file.
    """
    if side.stage.dialect.mlx:
        return _unproved(f"its kernel is laid out for MLX, and {name} is of torch")
    if not table:
        return _unproved("no configuration tells how its model is built")
    from .whole_models import library_model

    try:
        with quiet():
            built = library_model(name, weights, kind, table, complete)
        ends = tuple(
            each
            for each in ("tokens", "pooled", "output")
            if each == "tokens" or (side.own_head and not built.lacks)
        )
        return prove_by_model(side, built.model, built.name, ends, complete)
    except OtherModelError as error:
        return Check(BY_LIBRARY, "fail", math.inf, str(error))
    except UnprovedError as error:
        return _unproved(str(error))


def _unproved(why: str) -> Check:
    return Check(BY_LIBRARY, "skip", None, f"not proved against the library: {why}")


def prove_read_back(meant: Mapping[str, Part], back: Mapping[str, Part], bits: bool) -> Check:
    """Hold the parts of a written file against those that were meant; bit by bit in its type, or
    names and shapes alone where the writer has compared every tensor."""
    name = "encoder reads back"
    if set(meant) != set(back):
        other = sorted(set(meant) ^ set(back))[0]
        return Check(name, "fail", math.inf, f"{other} is on one side alone")
    for part_name, part in meant.items():
        if part.shape != back[part_name].shape:
            return Check(name, "fail", math.inf, f"{part_name} reads back in another shape")
        if not bits:
            continue
        written = back[part_name].read()
        wanted = part.read().astype(written.dtype)
        if wanted.shape != written.shape or wanted.tobytes() != written.tobytes():
            return Check(name, "fail", math.inf, f"{part_name} reads back otherwise")
    told = "the same bits" if bits else "every tensor the same bits"
    return Check(name, "pass", 0.0, f"{len(meant)} parts, {told}")


def change_of(source: Side, target: Side) -> float:
    """By how much what leaves the last block changes from one side to the other, block after block
    in float64 on one random image: relative rms."""
    images = source.images()[:1]
    tokens = [side.stage.sequence(images, side.stage.spec) for side in (source, target)]
    for number in range(source.depth):
        tokens = [
            encode_block(given, block_of(side.parts, number, side.rms), side.spec, side.places)
            for given, side in zip(tokens, (source, target), strict=True)
        ]
    before, after = tokens
    if before.shape != after.shape:
        return math.inf
    return float(np.linalg.norm(after - before) / (np.linalg.norm(before) + 1e-300))


def prove_same_function(source: Side, target: Side, dtype: str) -> Check:
    """Hold the NumPy encoder of the target against that of the source, block by block.

    Args:
        source, target: both sides, of the same semantics as far as a loss was not accepted.
        dtype: the coarsest type in which the target is kept.
    """
    name = "blocks by the NumPy encoder"
    images = source.images()
    tokens = source.stage.sequence(images, source.stage.spec)
    worst = Worst()
    for number in range(source.depth):
        block = block_of(source.parts, number, source.rms)
        expected = expect_block(tokens, block, source.spec, source.places, dtype=dtype)
        other = expect_block(
            tokens, block_of(target.parts, number, target.rms), target.spec, target.places
        )
        worst.see(other.values, expected, f"block {number}")
        tokens = expected.values
    ends = expect_end(tokens, ends_of(source.parts, source.rms), source.spec, dtype=dtype)
    others = expect_end(tokens, ends_of(target.parts, target.rms), target.spec)
    for each in ("pooled", "output"):
        if each in ends and each in others:
            worst.see(others[each].values, ends[each], f"its {each}")
    if worst.ratio <= 1:
        message = f"{source.depth} blocks, worst {worst.ratio:.2g} of the bound of {dtype}"
        return Check(name, "pass", worst.ratio, message)
    message = (
        f"the target computes something else at {worst.place}: {worst.ratio:.3g} times the bound"
    )
    return Check(name, "fail", worst.ratio, message)
