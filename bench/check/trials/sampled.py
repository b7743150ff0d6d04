"""Large images and many at a time, of which some tokens are judged: the object computes them all,
the reference those few."""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ....porting.objects.live import LiveEmbedding
from ....reference.spec import PatchEmbedSpec
from ..containment import bitwise
from .tried import OWN_BUFFER, Outcome, Trial, Tried, not_tried

SIDES = ((224, 8), (640, 1), (224, 16), (518, 1), (384, 2), (288, 5), (448, 2), (768, 1), (1024, 1))
"""Rows and columns of images that people have, and how many are given at a time: what is wrong
above a size, or where the tokens of a batch are many, is wrong there. Those that say most come
first."""

COMPILED_SIDES = ((224, 8), (640, 1))
"""The same where every shape is compiled anew."""

MOST_SAMPLED = 8 * 10**9
"""Operations of all these: a tenth of a second of two cores."""

TOKENS = 48
"""Tokens that are drawn; the first and the last of each image are judged too."""


def sampled(tried: Tried) -> Iterator[Trial]:
    """Some tokens of large images, and of many at a time."""
    drawn = list(sampled_sizes(tried.live))
    for place, (size, count) in enumerate(drawn):
        name = f"{count}-of-{'x'.join(map(str, size))}"
        other = tried.live.spec.replace(image_size=size)
        yield name, functools.partial(_sampled, tried, other, count, again=not place)
    if (largest := largest_not_sampled(tried.live, drawn)) is not None:
        yield "large-images", functools.partial(not_tried, largest)


def sampled_sizes(live: LiveEmbedding) -> Iterator[tuple[tuple[int, ...], int]]:
    """Sizes of images and how many at a time, where tokens are the products of patches alone."""
    spec, weights = live.spec, live.weights
    tokens_alone = weights.positions is None and not weights.num_prefix_tokens
    plain = spec.spatial_axes == 2 and spec.tiles and not any(map(any, spec.padding))
    if not (tokens_alone and plain and live.framework != "numpy") or live.call.batch:
        return
    left = MOST_SAMPLED
    for side, count in SIDES if live.framework == "torch" else COMPILED_SIDES:
        size = tuple(side // step * step for step in spec.stride)
        if min(size) == 0 or size == spec.image_size:
            continue
        operations = spec.replace(image_size=size).flops(count)
        if operations <= left:
            left -= operations
            yield size, count


def largest_not_sampled(
    live: LiveEmbedding, drawn: list[tuple[tuple[int, ...], int]]
) -> str | None:
    """Why the largest of these sizes was not tried, where others were; None where it was."""
    sides = [size[-1] for size, _ in drawn]
    largest = max(side for side, _ in SIDES) - max(live.spec.stride)  # of whole patches
    if not sides or live.framework != "torch" or max(sides) > largest:
        return None
    return f"images above {max(sides)} pixels a side, for the time they take"


def sampled_tokens(
    spec: PatchEmbedSpec,
    images: NDArray[np.generic],
    output: NDArray[np.generic],
    generator: np.random.Generator,
) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Some patches as images of their own `(n, C, Ph, Pw)`, and their tokens `(n, 1, D)`.

    Args:
        spec: of the images, whose patches tile.
        images: `(B, C, H, W)`.
        output: their tokens, `(B, N, D)`.
        generator: draws which.
    """
    count = len(images)
    ends = [(image, end) for image in range(count) for end in (0, spec.num_patches - 1)]
    drawn = zip(
        generator.integers(count, size=TOKENS),
        generator.integers(spec.num_patches, size=TOKENS),
        strict=True,
    )
    rows, columns = spec.patch_size
    patches, tokens = [], []
    for image, token in [*ends, *drawn]:
        row, column = divmod(int(token), spec.grid[1])
        top, start = row * spec.stride[0], column * spec.stride[1]
        patches.append(images[image, :, top : top + rows, start : start + columns])
        tokens.append(output[image, token])
    return np.stack(patches), np.stack(tokens)[:, None]


def _sampled(tried: Tried, spec: PatchEmbedSpec, count: int, again: bool) -> Outcome:
    """Some tokens of many images, or of a large one: each is held against its own patch; asked
    `again`, the result is looked at once more after another call."""
    images = tried.draw(spec, count)
    with tried.live.call.held():
        result = tried.live.call.run(tried.live.call.place(images))
        output = np.array(tried.live.call.fetch(result))
        if again:
            tried.live.call.run(tried.live.call.place(-images))
            if not bitwise(output, np.array(tried.live.call.fetch(result))):
                return {"verdict": "fail", "message": OWN_BUFFER}
    if output.shape != spec.tokens_shape(count):
        expected = spec.tokens_shape(count)
        return {
            "verdict": "fail",
            "message": f"output of shape {output.shape}, expected {expected}",
        }
    patches, tokens = sampled_tokens(spec, images, output, tried.generator)
    alone = spec.replace(image_size=spec.patch_size)
    probe = tried.probe(alone, patches, "probabilistic", False)
    outcome = tried.judged_on(probe, probe.images, tokens)
    tried.failure = None  # patches of different images explain nothing together
    if outcome["verdict"] == "fail":
        size = "×".join(map(str, spec.image_size))
        message = f"of {count} images of {size} some tokens: {outcome['message']}"
        return {**outcome, "message": message}
    return outcome
