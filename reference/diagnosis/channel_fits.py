"""Each channel of the images replaced by an affine mix of all: other means and deviations, other
scales, other orders."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..fold import IMAGENET
from ..pipeline import Array, Pipeline
from .fit import CLOSE, Fit, rms

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STATISTICS = {
    "ImageNet's mean and standard deviation": IMAGENET,
    "CLIP's mean and standard deviation": CLIP,
    "mean 0.5 and deviation 0.5": HALVES,
}
"""Normalizations that checkpoints are trained with (torchvision; OpenAI CLIP; google's ViT)."""


IDENTICAL = 2e-4
"""How near to one and zero a fitted scale and offset are nothing: a tenth of a thousandth is
told."""


UNCHANGED = "images-unchanged"
"""Id of a mix that changes nothing, and explains nothing."""

MOST_MIXED = 4
"""Channels up to which a mix of them is solved for: the square of them are computed."""


Named = tuple[str, str, str]
"""Id, explanation and mend."""

UNREAD = 1e-6
"""Factor of the images below which they were not read: what is solved from float32's rounding alone
is a tenth of it, 1/255² fifteen times it."""


def mixed_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Each channel of the image replaced by an affine mix of all: other means and deviations, other
    scales, other orders."""
    channels = p.spec.in_channels
    if channels > MOST_MIXED or p.token_steps:
        return
    if p.to_sequence:
        yield from _mixed_of_patches(p, correct, observed)
        return
    spec = p.spec
    if observed.shape != (len(p.images), spec.num_patches, spec.embed_dim):
        return
    lit = dataclasses.replace(p, images=np.ones_like(p.images, np.float64))  # zeros around it stay
    cut, ones = (
        pipeline.patches(np.float64).reshape(len(p.images) * spec.num_patches, -1, channels)
        for pipeline in (p, lit)
    )
    kernel = p.weights.kernel.astype(np.float64).reshape(spec.embed_dim, -1, channels)
    columns = [
        cut[:, :, of_image] @ kernel[:, :, of_kernel].T
        for of_kernel in range(channels)
        for of_image in range(channels)
    ]
    columns += [ones[:, :, channel] @ kernel[:, :, channel].T for channel in range(channels)]
    bias = 0.0 if p.weights.bias is None else p.weights.bias.astype(np.float64)
    terms = np.stack([column.ravel() for column in columns], axis=1)
    solved = np.linalg.lstsq(terms, (observed - bias).ravel(), rcond=None)[0]
    left = rms((observed - bias).ravel() - terms @ solved)
    mix, offsets = solved[: channels**2].reshape(channels, channels), solved[channels**2 :]
    name, explanation, mend = _named_mix(mix, offsets)
    if name == UNCHANGED:
        return
    yield Fit(name, explanation, mend, left, float(np.abs(mix).max()))


def _mixed_of_patches(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The same of a sequence: of its patches, less what is added to them, where its prefix tokens
    are right."""
    weights = p.weights
    norms = (weights.patch_norm, weights.token_norm, weights.sequence_norm)
    ordered = weights.layout.token_order == "raster" and observed.shape == correct.shape
    if not ordered or any(norm is not None for norm in norms):
        return
    patches = slice(weights.num_tokens_ahead, weights.num_tokens_ahead + p.spec.num_patches)
    prefix = np.delete(observed - correct, patches, axis=1)
    if rms(prefix) > CLOSE * rms(correct):
        return
    plain = dataclasses.replace(p, to_sequence=False)
    tokens = plain.run(np.float64)
    added = correct[:, patches] - tokens
    yield from mixed_fits(plain, tokens, observed[:, patches] - added)


def _named_mix(mix: Array, offsets: Array) -> Named:
    """What a mix of channels is, in words: kernel channel i saw Σ mix[i, j]·channel j +
    offsets[i]."""
    channels = len(mix)
    if np.abs(mix).max() < UNREAD:
        return "image-ignored", "the images were not read at all", "give the layer the images"
    size = max(float(np.abs(mix).max()), 1e-30)
    sizes = np.abs(mix).max(axis=1)  # a channel that was not read is in its own place
    rows = np.where(sizes < CLOSE * size, np.arange(channels), np.abs(mix).argmax(axis=1))
    single = np.abs(mix).sum(axis=1) - np.abs(mix).max(axis=1) < CLOSE * size
    scales = mix[np.arange(channels), rows]
    if not single.all():
        gray = np.abs(mix - mix[:1]).max() < CLOSE * size
        explanation = (
            "the images were made gray"
            if gray
            else f"the channels were mixed: {np.round(mix, 4).tolist()}"
        )
        return (
            ("image-gray" if gray else "channels-mixed"),
            explanation,
            "give each channel of the kernel its own channel of the image",
        )
    named = [_named_order(rows.tolist()), _named_scales(scales, offsets, rows)]
    told = [each for each in named if each is not None]
    if not told:
        return UNCHANGED, "the images are what they should be", ""
    return (
        told[-1][0],
        "; and ".join(words for _, words, _ in told),
        "; and ".join(mend for _, _, mend in told),
    )


def _named_order(order: list[int]) -> Named | None:
    """Which channel of the image each channel of the kernel saw, where it is another."""
    kept = list(range(len(order)))
    if order == kept:
        return None
    if order == kept[::-1]:
        return (
            "channels-reversed",
            "the channels were read in reverse, BGR for RGB",
            "reverse the channel axis of the images: images[:, ::-1], or images.flip(1) of torch",
        )
    return (
        "channels-reversed",
        f"the channels were read in the order {order}",
        "give the channels in the order of the kernel's",
    )


TWICE = "divide the pixels by 255 once alone"
RANGES = (
    (255.0, "the pixels were left at 0..255", "divide the images by 255"),
    (1 / 255.0, "the pixels were divided by 255 once too often", TWICE),
    (1 / 255.0**2, "the pixels were divided by 255 twice too often", TWICE),
    (2.0, "the pixels were doubled", "look for a factor of 2 before the projection"),
)
"""What all pixels may be multiplied by, how that is called, and its mend."""


def _named_scales(scales: Array, offsets: Array, rows: Array) -> Named | None:
    """What was done to the pixels of each channel; None where nothing was."""
    if np.abs(scales - 1).max() < IDENTICAL and np.abs(offsets).max() < IDENTICAL:
        return None
    if len(scales) == 3 and (named := _statistics(scales, offsets, rows)) is not None:
        return named
    even = np.ptp(scales) < CLOSE * np.abs(scales).max()
    for factor, explanation, mend in RANGES:
        if (
            even
            and abs(float(scales.mean()) / factor - 1) < CLOSE
            and np.abs(offsets).max() < CLOSE * factor
        ):
            return "input-scaled", explanation, mend
    if even and np.abs(offsets).max() < IDENTICAL:
        return (
            "product-scaled",
            f"the products, but not the bias, are {float(scales.mean()):.6g} times what they "
            "should be: the images or the kernel are scaled",
            "look for a factor before the projection",
        )
    if (np.abs(scales) < CLOSE * np.abs(scales).max()).any():
        return (
            "channel-zero",
            f"channel {int(np.abs(scales).argmin())} of the images was not read",
            "give each channel of the kernel its own channel of the image",
        )
    return (
        "pixels-scaled",
        f"the pixels of each channel were multiplied by {np.round(scales, 5).tolist()}, and "
        f"{np.round(offsets, 5).tolist()} was added",
        "preprocess the images as the checkpoint was trained: compare mean, deviation and range",
    )


FACTORS = {1.0: "", 255.0: "left at 0..255", 1 / 255.0: "divided by 255 once too often"}
"""What pixels are multiplied by, and how that is called."""
MENDS = {
    1.0: "",
    255.0: "divide the pixels by 255 before they are normalized",
    1 / 255.0: "divide the pixels by 255 once alone, before they are normalized",
}
"""And its mend."""


def _statistics(scales: Array, offsets: Array, rows: Array) -> Named | None:
    """What was done to pixels whose scales and offsets follow from the statistics of a
    normalization: left out, done twice, done with others, or done to pixels of another range."""

    def fitting(factors: Array, summands: Array) -> bool:
        slack = CLOSE * max(1.0, float(np.abs(summands).max()))
        return np.allclose(scales, factors, rtol=CLOSE) and np.allclose(
            offsets, summands, rtol=10 * CLOSE, atol=slack
        )

    def joined(separator: str, *parts: str) -> str:
        return separator.join(filter(None, parts))

    for words, (mean_of, deviation_of) in STATISTICS.items():
        mean, deviation = np.array(mean_of)[rows], np.array(deviation_of)[rows]
        normalize = (
            f"normalize the pixels once, before the model or in it: {formula(words)} (a model that "
            "does so by itself is checked behind that: --module)"
        )
        # Channels in another order were normalized before, each by its own, or behind.
        orders = [("", mean, deviation)]
        if not np.array_equal(mean, mean_of):
            orders.append((IN_PLACE, np.array(mean_of), np.array(deviation_of)))
        for place, mean_2, deviation_2 in orders:
            twice = -mean_2 / deviation_2**2 - mean_2 / deviation_2
            if not place and fitting(1 / deviation_2**2, twice):
                told = f"{words} were taken out twice, of pixels that were normalized already"
                return "normalization-twice", told, normalize
            for factor, how in FACTORS.items():
                explanation = f"{words} were taken out of pixels that were normalized already"
                for summands in (-mean_2 / deviation_2, -factor * mean_2 / deviation_2):
                    if fitting(factor / deviation_2, summands):
                        told = joined(", and ", explanation, how) + place
                        return "normalization-twice", told, joined("; ", normalize, MENDS[factor])
                if (how or place) and fitting(
                    factor * deviation / deviation_2, (factor * mean - mean_2) / deviation_2
                ):
                    told = f"the pixels were {how} before {words} were taken out{place}"
                    if not how:
                        told = f"{words} were taken out{place}"
                    return "input-scaled", told, joined("; ", MENDS[factor], place and REVERSE)
        for factor, how in FACTORS.items():
            explanation = f"the pixels were not normalized: {words} were not taken out"
            for summands in (mean, factor * mean):
                if fitting(factor * deviation, summands):
                    told = joined(", and they were ", explanation, how)
                    return "normalization-missing", told, joined("; ", normalize, MENDS[factor])
        for others, (mean_of_2, deviation_of_2) in STATISTICS.items():
            mean_2, deviation_2 = np.array(mean_of_2)[rows], np.array(deviation_of_2)[rows]
            if others != words and fitting(deviation / deviation_2, (mean - mean_2) / deviation_2):
                explanation = f"the pixels were normalized by {others}, where {words} belong"
                mend = f"normalize with what the checkpoint was trained with: {formula(words)}"
                return "normalization-differs", explanation, mend
    return None


IN_PLACE = ", each channel's by its place and not by its color"
REVERSE = "reorder the channels before the statistics are taken out"


def formula(words: str) -> str:
    """How pixels from 0 to 1 are normalized, in code."""
    mean, deviation = STATISTICS[words]
    if words == "mean 0.5 and deviation 0.5":
        return "(pixels - 0.5) / 0.5"
    return f"(pixels - {list(mean)}) / {list(deviation)}, channel by channel"
