"""Images of other values than random ones, which people have: flat, gray, of bytes, tiny, huge."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.probe import Probe
from ..problems import part_of
from .tried import MOST_OPERATIONS, Outcome, Trial, Tried

Draw = Callable[[tuple[int, ...]], NDArray[Any]]


def values(draw: np.random.Generator, dtype: str) -> list[tuple[str, Draw]]:
    """Name of a kind of images, and what draws them of a shape `(B, C, H, W)`.

    Args:
        draw: the source of what is random.
        dtype: of the object; float16 holds no tiny or huge values.
    """

    def tiny(shape: tuple[int, ...]) -> NDArray[Any]:
        return 2.0**-24 * draw.standard_normal(shape)

    def huge(shape: tuple[int, ...]) -> NDArray[Any]:
        return 2.0**15 * draw.standard_normal(shape)

    def deep(shape: tuple[int, ...]) -> NDArray[Any]:
        return draw.integers(0, 2**16, shape).astype(float)

    return [
        ("images-of-zeros", lambda shape: np.zeros(shape)),
        ("flat-images", lambda shape: np.full(shape, 0.5)),
        ("images-0-to-1", lambda shape: draw.uniform(0, 1, shape)),
        ("images-0-to-255", lambda shape: draw.uniform(0, 255, shape)),
        ("images-of-bytes", lambda shape: draw.integers(0, 256, shape).astype(float)),
        (
            "a-few-of-16",
            lambda shape: np.where(
                draw.uniform(size=shape) < 0.02, 16.0, draw.standard_normal(shape)
            ),
        ),
        ("black-images", lambda shape: np.full(shape, -1.0)),
        ("white-images", lambda shape: np.ones(shape)),
        (
            "some-of-minus-1",
            lambda shape: np.where(draw.uniform(size=shape) < 0.1, -1, draw.uniform(-1, 1, shape)),
        ),
        ("large-values", lambda shape: 64.0 * draw.standard_normal(shape)),
        ("images-minus-1-to-1", lambda shape: draw.uniform(-1, 1, shape)),
        ("negative-images", lambda shape: draw.uniform(-1, 0, shape)),
        (
            "gray-images",
            lambda shape: np.repeat(draw.standard_normal(shape)[:, :1], shape[1], 1),
        ),
        *(
            []
            if dtype == "float16"
            else [("tiny-values", tiny), ("huge-values", huge), ("images-of-16-bits", deep)]
        ),
    ]


def other_values(tried: Tried) -> Iterator[Trial]:
    """Images of other values, which the reference answers at once where they are not too many;
    of float64 one after the other, each with its exact results."""
    spec, dtype = tried.live.spec, tried.live.dtype
    count = 2 if spec.flops(2) <= MOST_OPERATIONS // 10 else 1
    drawn = [
        (name, draw(spec.images_shape(count)).astype(dtype))
        for name, draw in values(tried.generator, dtype)
    ]
    if dtype == "float64" or spec.flops(count * len(drawn)) > MOST_OPERATIONS:
        for name, images in drawn:
            yield name, functools.partial(tried.judged, spec, images, "deterministic")
        return
    together = np.concatenate([images for _, images in drawn])
    whole = tried.probe(spec, together, "deterministic", False)
    for place, (name, _) in enumerate(drawn):
        part = slice(place * count, (place + 1) * count)
        yield name, functools.partial(_part, tried, whole, part)


def _part(tried: Tried, whole: Probe, part: slice) -> Outcome:
    return tried.judged_on(part_of(whole, part), np.array(whole.images[part]))
