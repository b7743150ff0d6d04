"""Trials of images of other sizes."""

import functools
import math
from collections.abc import Iterator

from ....reference.errors import PatchParityError
from ....reference.spec import PatchEmbedSpec
from .tried import CHEAP_OPERATIONS, MOST_OPERATIONS, SEVERAL, Outcome, Trial, Tried, sides

GRIDS = (
    *((1, 1), (1, 3), (3, 1), (5, 3), (4, 4), (6, 3), (2, 9), (9, 2)),
    *((14, 14), (16, 16), (17, 18), (33, 32)),
)
"""Patches of other images: one, one row and one column; taller than wide (an object's own small one
is wider), twice as tall, square, much wider than tall and the other way, the usual 196 and 256, and
more than 256 and 1024, where kernels begin to cut in pieces."""

LARGE = (224, 384)
"""Rows and columns of the images that people have: where a kernel or a precision is chosen by size,
it is chosen here. The largest is tried only where no other image has a third as many pixels."""

FEW_PATCHES, USUAL_PATCHES = 100, 200


MANY = 8
"""Images of the usual 196 patches that are tried at a time."""


def sizes(tried: Tried) -> Iterator[Trial]:
    """Random images of each other size."""
    for size in _sizes(tried):
        other = tried.live.spec.replace(image_size=size)
        name = f"image-{'x'.join(map(str, size))}"
        yield name, functools.partial(_random, tried, other, _count_of(other))


def _sizes(tried: Tried) -> list[tuple[int, ...]]:
    """Other images, where no table of positions fixes their size; of video, of as many frames.
    Of costly ones the usual and the largest."""
    spec = tried.live.spec
    if tried.weights.positions is not None:
        return []
    frames = spec.image_size[:-2]
    sizes = [sides(spec, grid) for grid in GRIDS]
    sizes.append(tuple(2 * size for size in spec.image_size[-2:]))
    usual = [tuple(side // by * by or by for by in spec.stride[-2:]) for side in LARGE]
    sizes += [
        usual[0],
        *(size for size in usual[1:] if math.prod(size) > 3 * max(map(math.prod, sizes))),
    ]
    images = [(*frames, *size) for size in sizes]
    if frames:  # as many rows and columns, and more frames: one tubelet, and twice as many
        frame_size = spec.image_size[-2:]
        more = (frames[0] + spec.stride[0], 2 * frames[0], spec.patch_size[0])
        images += [(frame_count, *frame_size) for frame_count in more]
    small = []
    for image in dict.fromkeys(images):
        try:
            if (
                min(image) > 0
                and image != spec.image_size
                and spec.replace(image_size=image).flops(2) <= MOST_OPERATIONS
            ):
                small.append(image)
        except PatchParityError:
            continue
    costly = [size for size in small if spec.replace(image_size=size).flops(1) > CHEAP_OPERATIONS]
    kept = ((*frames, *usual[0]), max(costly, key=math.prod, default=()))
    return [size for size in small if size not in costly or size in kept]


def _random(tried: Tried, spec: PatchEmbedSpec, batch: int) -> Outcome:
    """Random images, of which the effective bits are told too where they can be."""
    images = tried.draw(spec, batch)
    fingerprint = tried.scale is not None
    scaled = (images * (tried.scale or 1.0)).astype(images.dtype)
    return tried.judged(spec, scaled, "probabilistic", fingerprint=fingerprint)


def _count_of(spec: PatchEmbedSpec) -> int:
    """How many images of a size are tried at a time: what is wrong for several tall ones, say, may
    be right for two."""
    few = spec.num_patches <= FEW_PATCHES
    wanted = SEVERAL if few else MANY if spec.num_patches <= USUAL_PATCHES else 1
    return wanted if spec.flops(wanted) <= CHEAP_OPERATIONS else 2 if few else 1
