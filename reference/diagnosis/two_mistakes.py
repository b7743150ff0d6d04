"""Two mistakes of which one has a number in it, or both: the first is made, and what is left of the
output is fitted.

Made are the catalogue's mistakes, other pixels, kernels, biases, functions and orders of tokens;
undone are shapes and permutations that the output itself tells. Only exact agreement, up to
rounding, is believed, so that many may be tried.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np

from ..mistakes import CATALOGUE
from ..pipeline import Array, Pipeline
from ..spec import PatchEmbedSpec
from ..weights import PatchEmbedWeights
from .channel_fits import FACTORS, STATISTICS, mixed_fits
from .fit import NOTHING, Cause, Fit, cause_of, rms
from .forms import FUNCTIONS, Form, other_images, other_sizes
from .image_fits import other_kernels
from .order_fits import order_fits
from .table_fits import added_fits
from .undone import undone
from .value_fits import function_fits, product_fits, scaled_fits

MOST_IMAGES = 3
"""Images that are looked at: two tell a table that is the same for every image from the images
themselves, the third a batch that was exchanged."""


SAME_SIZE, OTHER_SIZE = 4.0, 64.0
"""Within which factor an output's signal is as large as that of the right one, and beyond which a
mistake makes it another size: pixels that are divided by 255, say, of an output that is no
smaller."""

Allowed = Callable[[Pipeline, Array, float], float]
"""Rms that rounding may leave, of a program, its output, and what its products are multiplied
by."""


def two_mistakes(pipeline: Pipeline, observed: Array, allowed: Allowed) -> Iterator[Cause]:
    """Explanations of an output by two mistakes.

    They are found on a few images and output channels, and believed where they explain the whole.

    Args:
        pipeline: the right program.
        observed: what came out instead, float64, finite.
        allowed: rms that rounding may leave.
    """
    few, seen = pipeline, observed
    if len(observed) == len(pipeline.images) > MOST_IMAGES:
        few = dataclasses.replace(pipeline, images=pipeline.images[:MOST_IMAGES])
        seen = observed[:MOST_IMAGES]
    width = len(pipeline.weights.kernel)
    whole = few is pipeline and width <= SHOWN
    usual = _signal(few.run(np.float64))
    of_usual_size = usual / SAME_SIZE < _signal(seen) < usual * SAME_SIZE
    alone = _left_by_channels(few, seen, SHOWN)
    alone_of_all = alone if whole else _left_by_channels(pipeline, observed, width)
    for first, made in _made(few):
        if first and of_usual_size and not _of_size(made, usual):
            continue  # so large a mistake that the other one would have to undo
        for cause in _explanations(first, made, seen, allowed, SHOWN, usual, alone):
            if whole or any(
                cause.mistakes == again.mistakes
                for form, program in _made(pipeline)
                if (form and form[:2]) == (first and first[:2])
                for again in _explanations(
                    first, program, observed, allowed, width, usual, alone_of_all
                )
            ):
                yield cause


def near_programs(
    pipeline: Pipeline, observed: Array, near: float
) -> Iterator[tuple[Form, Pipeline, Array]]:
    """Programs with one mistake whose outputs come near to one that was observed, with what is then
    held against theirs: the output, or, where its shape is the mistake, the output in the right
    one.

    Args:
        pipeline: the right program.
        observed: what came out, float64, finite.
        near: share of its rms that is near.
    """
    few = dataclasses.replace(pipeline, images=pipeline.images[:1])
    for form, made in _made(few):
        if form is None:
            correct = pipeline.run(np.float64)
            for form_seen, program, right, restored in undone(pipeline, correct, observed):
                if (
                    form_seen
                    and right.shape == restored.shape == correct.shape
                    and rms(right - restored) <= near * rms(restored)
                ):
                    yield form_seen, program, restored
        elif observed.shape[:1] == pipeline.images.shape[:1]:
            value = made.run(np.float64)
            if value.shape != observed[:1].shape:
                continue
            if rms(value - observed[:1]) <= near * rms(observed[:1]):
                for again, program in _made(pipeline):
                    if again and again[:2] == form[:2]:
                        yield form, program, observed
                        break


def _signal(output: Array) -> float:
    """How much of an output differs from image to image, or, of one image, from token to token."""
    axis = 0 if len(output) > 1 or output.ndim < 2 else 1
    return rms(output - output.mean(axis=axis, keepdims=True))


def _of_size(made: Pipeline, usual: float) -> bool:
    """Whether so much of a program's output differs as of the right one, about."""
    size = _signal(made.run(np.float64))
    return usual / OTHER_SIZE < size < usual * OTHER_SIZE


def _undoes(size: float, usual: float, factor: float) -> bool:
    """Whether a factor makes so much of it again as the other mistake has made of the signal
    less."""
    if size * OTHER_SIZE < usual:
        return factor > SAME_SIZE
    return size > usual * OTHER_SIZE and factor * SAME_SIZE < 1


OPPOSITE = {"normalization-missing", "normalization-twice"}
"""Ids of mistakes of which one undoes the other."""


def _explanations(
    first: Form | None,
    made: Pipeline,
    observed: Array,
    allowed: Allowed,
    shown: int,
    usual: float,
    alone: float,
) -> Iterator[Cause]:
    """What explains an output of a program in which one mistake was made, or none; `usual` is the
    signal of the right one's, `alone` what other channels leave where none was made."""
    if not np.ptp(made.images):  # of images without a difference everything is explained
        return
    # Of images that are all the same a table explains any output that is the same for all.
    alike = len(made.images) > 1 and not np.ptp(made.images, axis=0).any()
    correct = made.run(np.float64)
    size = _signal(correct)
    if first:
        yield from _other_channels(first, made, observed, allowed, shown, alone)
    for second, program, right, restored in undone(made, correct, observed):
        if right.shape != restored.shape:
            continue
        exact = [Fit("", "", "", rms(restored - right))] if second else []
        fitted = not (second and first) and not alike and right.shape == correct.shape
        for fit in exact + (list(_fitted(program, right, restored)) if fitted else []):
            if not fit.left <= 1e-2 * rms(restored):
                continue
            if first and _undoes(size, usual, fit.factor):
                continue
            forms = [
                form
                for form in (first, second, (fit.id, fit.explanation, fit.mend))
                if form and form[0]
            ]
            if len(forms) == 2 and _is_left(
                fit, allowed(program, right, fit.factor), right, restored
            ):
                yield cause_of(*forms)


SHOWN = 8
"""Outputs that a mix of channels is solved from: with two images of six patches they are a hundred
numbers for at most 24 unknowns."""


def _is_left(fit: Fit, allowed: float, right: Array, observed: Array) -> bool:
    """Whether a fit leaves what rounding may; what one mistake makes large, and the other small
    again, errs as little as it is."""
    return (
        math.isfinite(allowed)
        and fit.left <= min(1.0, rms(observed) / (rms(right) or 1.0)) * allowed
    )


def _of_few_outputs(made: Pipeline, shown: int) -> Pipeline:
    """The same program, without what makes a sequence, for its first outputs."""
    weights = made.weights
    bias = None if weights.bias is None else weights.bias[:shown]
    few = dataclasses.replace(made, weights=PatchEmbedWeights(weights.kernel[:shown], bias))
    return dataclasses.replace(few, spec=made.spec.replace(embed_dim=len(few.weights.kernel)))


def _left_by_channels(p: Pipeline, observed: Array, shown: int) -> float:
    """What other means, scales or orders of the channels leave of an output, without any other
    mistake; infinite where they cannot be solved for."""
    if p.to_sequence or p.token_steps or observed.shape[-1] != len(p.weights.kernel):
        return math.inf
    few = _of_few_outputs(p, shown)
    right = few.run(np.float64)
    if right.shape != observed[..., :shown].shape:
        return math.inf
    return min(
        (fit.left for fit in mixed_fits(few, right, observed[..., :shown])), default=math.inf
    )


def _other_channels(
    first: Form, made: Pipeline, observed: Array, allowed: Allowed, shown: int, alone: float
) -> Iterator[Cause]:
    """A mistake, and beside it other means, scales or orders of the images' channels; `alone` is
    what these leave of the output without the mistake."""
    if made.to_sequence or made.token_steps or observed.shape[-1] != len(made.weights.kernel):
        return
    few = _of_few_outputs(made, shown)
    right = few.run(np.float64)
    observed_part = observed[..., :shown]
    if right.shape != observed_part.shape:
        return
    for fit in mixed_fits(few, right, observed_part):
        if {first[0], fit.id} == OPPOSITE or 2 * fit.left > alone:
            continue  # together they explain no more than one of them
        left = _is_left(fit, allowed(few, right, fit.factor), right, observed_part)
        if fit.left <= 1e-2 * rms(observed_part) and left:
            yield cause_of(first, (fit.id, fit.explanation, fit.mend))


MANY_NUMBERS = ("channels-scaled", "positions-differ")
"""Ids of fits with so many numbers that they explain whatever a mistake left out."""


def _fitted(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    if correct.ndim and correct.shape[-1] != len(p.weights.kernel):
        return  # the width stands elsewhere: `undone` puts it back
    for search in (function_fits, added_fits, product_fits, order_fits, scaled_fits):
        for fit in search(p, correct, observed):
            scaled = fit.id == "output-scaled" and "vector" not in fit.explanation
            if (scaled and abs(fit.factor - 1) < NOTHING) or fit.nothing:
                continue  # nothing: what is left of the other mistake's rounding
            if fit.id not in (
                "channels-scaled",
                "positions-differ",
            ):  # so many numbers explain what a mistake left out
                yield fit


def _made(p: Pipeline) -> Iterator[tuple[Form | None, Pipeline]]:
    """Programs with one mistake, and the right one."""
    yield None, p
    yield from other_images(p)
    if p.spec.spatial_axes == 2:
        for form, images in _normalized(p.images):
            yield form, dataclasses.replace(p, images=np.ascontiguousarray(images))
        yield from other_kernels(p)
    if (bias := p.weights.bias) is not None:
        for words, value in (("not added", None), ("added twice", 2 * bias), ("taken away", -bias)):
            form = ("bias-scaled", f"the bias was {words}", "add the bias once")
            yield form, p.with_weights(bias=value)
    for factor in (2.0, 0.5):
        words = f"the kernel, but not the bias, is {factor:g} times what it should be"
        form = ("product-scaled", words, "look for a factor before the projection")
        yield form, p.with_kernel(p.weights.kernel * p.weights.kernel.dtype.type(factor))
    yield from _other_sequences(p)
    for form, spec in other_sizes(p.spec):
        if spec.num_patches == p.spec.num_patches:
            yield form, dataclasses.replace(p, spec=spec)
    for form, step in _steps(p.spec):
        yield form, p.then(step)
    for mistake in CATALOGUE.values():
        if mistake.stage != "arithmetic" and (changed := mistake.apply(p)) is not None:
            yield (mistake.id, mistake.explanation, mistake.mend), changed


def _other_sequences(p: Pipeline) -> Iterator[tuple[Form, Pipeline]]:
    """Sequences without their positions, or with twice as much of them; with prefix tokens of
    zeros."""
    if not p.to_sequence:
        return
    if (positions := p.weights.positions) is not None:
        mend = "add the positions once"
        for words, value in (("not added", None), ("added 2 times", 2 * positions)):
            form = ("positions-scaled", f"the positions were {words}", mend)
            yield form, p.with_weights(positions=value)
    for name in ("class_token", "distillation_token", "register_tokens"):
        if (held := getattr(p.weights, name)) is not None:
            words = name.replace("_", " ")
            verb = "are" if words.endswith("s") else "is"
            form = ("prefix-differs", f"the {words} {verb} zero", f"load the {words}")
            yield form, p.with_weights(**{name: np.zeros_like(held)})


def _normalized(images: Array) -> Iterator[tuple[Form, Array]]:
    """Images with statistics taken out once too often, or not; scaled; without one of their
    channels."""
    channels = images.shape[1]
    if channels == 3:
        for words, held in STATISTICS.items():
            mean, deviation = (np.array(statistic)[:, None, None] for statistic in held)
            twice = f"{words} were taken out of pixels that were normalized already"
            missing = f"the pixels were not normalized: {words} were not taken out"
            raw = images * deviation + mean
            yield ("normalization-twice", twice, "normalize once"), (images - mean) / deviation
            yield ("normalization-missing", missing, "normalize them"), raw
            mend = "divide them by 255, then normalize them"
            left = f"{missing}, and they were left at 0..255"
            yield ("normalization-missing", left, mend), 255 * raw
            for factor, how in FACTORS.items():
                if how:
                    scaled = f"the pixels were {how} before {words} were taken out"
                    form = ("input-scaled", scaled, "divide by 255 once, then normalize")
                    yield form, (factor * raw - mean) / deviation
    mend = "divide them by 255"
    yield ("input-scaled", "the pixels were left at 0..255", mend), images * 255.0
    words = "the pixels were divided by 255 once too often"
    yield ("input-scaled", words, "divide them once"), images / 255.0
    words = "the channels were read in reverse, BGR for RGB"
    yield (
        ("channels-reversed", words, "reverse them: images[:, ::-1], or images.flip(1) of torch"),
        images[:, ::-1],
    )
    for channel in range(channels if 1 < channels <= 4 else 0):
        alone = images.copy()
        alone[:, channel] = 0
        words = f"channel {channel} of the images was not read"
        yield ("channel-zero", words, "look for a channel that is lost"), alone


def _function(name: str) -> Callable[[Array, PatchEmbedSpec], Array]:
    return lambda tokens, _: FUNCTIONS[name](tokens)


def _steps(spec: PatchEmbedSpec) -> Iterator[tuple[Form, Callable[[Array, PatchEmbedSpec], Array]]]:
    """What may be done to tokens: functions, and other orders of the grid."""
    for name in FUNCTIONS:
        explanation = f"{name} was applied to the tokens"
        mend = "no function stands behind a patch embedding: remove it"
        yield ("activation-behind", explanation, mend), _function(name)
    mend = "keep the order of the grid: by row, then column"
    yield (
        ("tokens-reversed", "the tokens are in reverse order", mend),
        lambda tokens, _: tokens[:, ::-1],
    )
    if len(spec.grid) == 2:

        def on_grid(change: Callable[[Array], Array]) -> Callable[[Array, PatchEmbedSpec], Array]:
            return lambda tokens, _: change(tokens.reshape(len(tokens), *spec.grid, -1)).reshape(
                tokens.shape
            )

        explanation = (
            "the tokens of each row of patches are in reverse: the grid was flipped left to right"
        )
        yield ("tokens-flipped-across", explanation, mend), on_grid(lambda grid: grid[:, :, ::-1])
        explanation = "the rows of patches are in reverse: the grid was flipped top to bottom"
        yield ("tokens-flipped-down", explanation, mend), on_grid(lambda grid: grid[:, ::-1])
        explanation = "tokens are in column-major order: down the columns of the grid first"
        yield (
            ("tokens-column-major", explanation, mend),
            on_grid(lambda grid: grid.transpose(0, 2, 1, 3)),
        )
