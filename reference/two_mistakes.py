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

from .fits import (
    STATISTICS,
    Fit,
    added_fits,
    function_fits,
    matching,
    mixed_fits,
    order_fits,
    product_fits,
    rms,
)
from .forms import Form, functions_of, kernel_forms, pixel_forms
from .mistakes import CATALOGUE
from .pipeline import Array, Pipeline
from .spec import PatchEmbedSpec
from .weights import PatchEmbedWeights

MOST_IMAGES = 3
"""Images that are looked at: two tell a table that is the same for every image from the images
themselves, the third a batch that was exchanged."""


def two_mistakes(
    pipeline: Pipeline, observed: Array, allowed: Callable[[Pipeline, Array, float], float]
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """Explanations of an output by two mistakes: ids, explanation and remedy.

    Args:
        pipeline: the right program.
        observed: what came out instead, float64, finite.
        allowed: rms that rounding may leave, of a program, its output, and what its products are
            multiplied by.
    """
    count = len(pipeline.images)
    if len(observed) == count > MOST_IMAGES:
        pipeline, observed = (
            dataclasses.replace(pipeline, images=pipeline.images[:MOST_IMAGES]),
            observed[:MOST_IMAGES],
        )
    for first, made in _made(pipeline):
        if not np.ptp(made.images):  # of images without a difference everything is explained
            continue
        # Of images that are all the same a table explains any output that is the same for all.
        alike = count > 1 and not np.ptp(made.images, axis=0).any()
        correct = made.run(np.float64)
        if (first and made.weights is pipeline.weights) or (
            first and first[0].startswith("kernel")
        ):
            yield from _other_channels(first, made, observed, allowed)
        for second, program, right, found in _undone(made, correct, observed):
            if right.shape != found.shape:
                continue
            exact = [Fit("", "", "", rms(found - right))] if second else []
            fitted = not (second and first) and not alike
            fits = exact + (list(_fitted(program, right, found)) if fitted else [])
            for fit in fits:
                if not fit.left <= 1e-2 * rms(found):
                    continue
                told = [
                    each
                    for each in (first, second, (fit.id, fit.explanation, fit.mend))
                    if each and each[0]
                ]
                if len(told) == 2 and _is_left(
                    fit, allowed(program, right, fit.factor), right, found
                ):
                    yield (
                        (told[0][0], told[1][0]),
                        "; and ".join(each[1] for each in told),
                        "; then ".join(each[2] for each in told),
                    )


SHOWN = 8
"""Outputs that a mix of channels is solved from: with two images of six patches they are a hundred
numbers for at most 24 unknowns."""


def _is_left(fit: Fit, allowed: float, right: Array, found: Array) -> bool:
    """Whether a fit leaves what rounding may; what one mistake makes large, and the other small
    again, errs as little as it is."""
    return (
        math.isfinite(allowed) and fit.left <= min(1.0, rms(found) / (rms(right) or 1.0)) * allowed
    )


def _other_channels(
    first: Form, made: Pipeline, observed: Array, allowed: Callable[[Pipeline, Array, float], float]
) -> Iterator[tuple[tuple[str, str], str, str]]:
    """A mistake, and beside it other means, scales or orders of the images' channels."""
    weights = made.weights
    few = dataclasses.replace(
        made,
        weights=PatchEmbedWeights(
            weights.kernel[:SHOWN], None if weights.bias is None else weights.bias[:SHOWN]
        ),
    )
    if made.to_sequence or made.token_steps or observed.shape[-1] != len(weights.kernel):
        return
    few = dataclasses.replace(few, spec=made.spec.replace(embed_dim=len(few.weights.kernel)))
    right = few.run(np.float64)
    found = observed[..., :SHOWN]
    if right.shape != found.shape:
        return
    for fit in mixed_fits(few, right, found):
        if fit.left <= 1e-2 * rms(found) and _is_left(
            fit, allowed(few, right, fit.factor), right, found
        ):
            yield (
                (first[0], fit.id),
                f"{first[1]}; and {fit.explanation}",
                f"{first[2]}; then {fit.mend}",
            )


def _fitted(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    for search in (function_fits, added_fits, product_fits, order_fits):
        yield from search(p, correct, observed)


def _made(p: Pipeline) -> Iterator[tuple[Form | None, Pipeline]]:
    """Programs with one mistake, and the right one."""
    yield None, p
    if p.spec.spatial_axes == 2:
        for form, images in {**pixel_forms(p.images), **_normalized(p.images)}.items():
            yield form, dataclasses.replace(p, images=np.ascontiguousarray(images))
        for form, kernel in kernel_forms(p.weights.kernel):
            if kernel.shape == p.weights.kernel.shape and not np.array_equal(
                kernel, p.weights.kernel
            ):
                yield form, p.with_kernel(np.ascontiguousarray(kernel))
    if (bias := p.weights.bias) is not None:
        for told, value in (("not added", None), ("added twice", 2 * bias), ("taken away", -bias)):
            yield (
                ("bias-scaled", f"the bias was {told}", "add the bias once"),
                p.with_weights(bias=value),
            )
    for form, step in _steps(p.spec):
        yield form, p.then(step)
    for mistake in CATALOGUE.values():
        if mistake.stage != "arithmetic" and (changed := mistake.apply(p)) is not None:
            yield (mistake.id, mistake.explanation, mistake.mend), changed


def _normalized(images: Array) -> dict[Form, Array]:
    """Images with statistics taken out once too often, or not; scaled; without one of their
    channels."""
    found: dict[Form, Array] = {}
    channels = images.shape[1]
    if channels == 3:
        for told, held in STATISTICS.items():
            mean, deviation = (np.array(each)[:, None, None] for each in held)
            found[
                "normalization-twice",
                f"{told} were taken out of pixels that were normalized already",
                "normalize once",
            ] = (images - mean) / deviation
            found[
                "normalization-missing",
                f"the pixels were not normalized: {told} were not taken out",
                "normalize them",
            ] = images * deviation + mean
    found["input-scaled", "the pixels were left at 0..255", "divide them by 255"] = images * 255.0
    found["input-scaled", "the pixels were divided by 255 once too often", "divide them once"] = (
        images / 255.0
    )
    found[
        "channels-reversed",
        "the channels were read in reverse, BGR for RGB",
        "reverse them: images[:, ::-1]",
    ] = images[:, ::-1]
    for channel in range(channels if 1 < channels <= 4 else 0):
        alone = images.copy()
        alone[:, channel] = 0
        found[
            "channel-zero",
            f"channel {channel} of the images was not read",
            "look for a channel that is lost",
        ] = alone
    return found


def _function(name: str) -> Callable[[Array, PatchEmbedSpec], Array]:
    return lambda tokens, _: functions_of(tokens)[name]


def _steps(spec: PatchEmbedSpec) -> Iterator[tuple[Form, Callable[[Array, PatchEmbedSpec], Array]]]:
    """What may be done to tokens: functions, and other orders of the grid."""
    for name in functions_of(np.zeros((1, 1, 2))):
        told = f"{name} was applied to the tokens"
        mend = "no function stands behind a patch embedding: remove it"
        yield ("activation-behind", told, mend), _function(name)
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

        told = (
            "the tokens of each row of patches are in reverse: the grid was flipped left to right"
        )
        yield ("tokens-flipped-across", told, mend), on_grid(lambda grid: grid[:, :, ::-1])
        told = "the rows of patches are in reverse: the grid was flipped top to bottom"
        yield ("tokens-flipped-down", told, mend), on_grid(lambda grid: grid[:, ::-1])
        told = "tokens are in column-major order: down the columns of the grid first"
        yield ("tokens-column-major", told, mend), on_grid(lambda grid: grid.transpose(0, 2, 1, 3))


def _undone(
    p: Pipeline, correct: Array, observed: Array
) -> Iterator[tuple[Form | None, Pipeline, Array, Array]]:
    """The output with a shape or an order taken back that it shows itself, beside what it is then
    held against."""
    yield None, p, correct, observed
    if correct.ndim != 3 or observed.size not in (
        correct.size,
        correct[:, 1:].size,
        correct[:, : p.spec.num_patches].size,
    ):
        return
    batch, rows, width = correct.shape
    grid = p.spec.grid
    if rows == math.prod(grid) and observed.shape == (batch, width, *grid):
        told = "the grid was left unflattened, (B, D, rows, columns)"
        yield (
            ("grid-unflattened", told, "flatten(2).transpose(1, 2)"),
            p,
            correct,
            observed.reshape(batch, width, rows).swapaxes(1, 2),
        )
    if rows == math.prod(grid) and observed.shape == (batch, *grid, width):
        told = "the grid was left unflattened, (B, rows, columns, D)"
        yield (
            ("grid-unflattened-last", told, "reshape it to (B, rows·columns, D)"),
            p,
            correct,
            observed.reshape(correct.shape),
        )
    if observed.shape == (batch, width, rows):
        told = "transpose(1, 2) is missing: the output is (B, D, N)"
        yield ("transpose-missing", told, "transpose(1, 2)"), p, correct, observed.swapaxes(1, 2)
    if observed.shape == (rows, batch, width) and rows != batch:
        yield (
            (
                "batch-behind-tokens",
                "the tokens come before the batch, (N, B, D)",
                "transpose(0, 1)",
            ),
            p,
            correct,
            observed.swapaxes(0, 1),
        )
    if observed.shape == (batch, rows - 1, width):
        told = "the last token is missing"
        yield (
            ("last-token-missing", told, "look for a loop or slice that ends one too early"),
            p,
            correct[:, :-1],
            observed,
        )
    if (
        p.to_sequence
        and rows > p.spec.num_patches
        and observed.shape == (batch, p.spec.num_patches, width)
    ):
        ahead = p.weights.num_tokens_ahead
        told = "the prefix tokens are missing"
        kept = correct[:, ahead : ahead + p.spec.num_patches]
        yield (
            ("prefix-missing", told, "concatenate class, distillation and register tokens"),
            p,
            kept,
            observed,
        )
    if observed.shape == correct.shape:
        yield from _unpermuted(p, correct, observed)


def _unpermuted(
    p: Pipeline, correct: Array, observed: Array
) -> Iterator[tuple[Form | None, Pipeline, Array, Array]]:
    batch, rows, width = correct.shape
    order = matching(correct[0], observed[0])
    if order is not None and (order != np.arange(rows)).any():
        told = "the tokens were permuted, the same way in every image"
        yield (
            ("tokens-permuted", told, "keep the order of the grid"),
            p,
            correct,
            observed[:, np.argsort(order)],
        )
    if batch > 1:
        images = matching(correct.reshape(batch, -1), observed.reshape(batch, -1))
        if images is not None and (images != np.arange(batch)).any():
            told = "the images of the batch were exchanged"
            yield (
                ("images-permuted", told, "keep the order of the batch"),
                p,
                correct,
                observed[np.argsort(images)],
            )
    if p.weights.bias is not None and not p.to_sequence:
        bias = p.weights.bias.astype(np.float64)
        columns = matching(
            (correct - bias).reshape(-1, width).T, (observed - bias).reshape(-1, width).T
        )
        if columns is not None and (columns != np.arange(width)).any():
            told = "the rows of the kernel are in another order than the bias"
            found = (observed - bias)[..., np.argsort(columns)] + bias
            yield (
                ("kernel-rows-permuted", told, "keep the order of the kernel's rows"),
                p,
                correct,
                found,
            )
    columns = matching(correct.reshape(-1, width).T, observed.reshape(-1, width).T)
    if columns is not None and (columns != np.arange(width)).any():
        told = "the output channels were permuted"
        yield (
            ("width-permuted", told, "keep the order of the kernel's rows"),
            p,
            correct,
            observed[..., np.argsort(columns)],
        )
