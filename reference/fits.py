"""Mistakes with a number in them, which no list can hold: a scale, a mean, a permutation. They are
fitted to the output, and believed where nothing is left.

Each fit solves for its few numbers by least squares over all values of the output, so that a wrong
one leaves a residual of the output's own size.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import PatchParityError
from .forms import functions_of, kernel_forms, pixel_forms
from .pipeline import Pipeline

Array = NDArray[Any]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
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

CLOSE = 2e-3
"""How near a fitted number must be to a known one: float32 outputs give four digits and more,
16-bit ones three."""


@dataclass(frozen=True)
class Fit:
    """What explains an output.

    Args:
        id: stable name.
        explanation, mend: as in a mistake.
        left: rms of what it leaves unexplained.
        factor: what it says the products were multiplied by, where that is a number: their rounding
            is as much smaller.
    """

    id: str
    explanation: str
    mend: str
    left: float
    factor: float = 1.0


def fits(
    pipeline: Pipeline, correct: Array, observed: Array, allowed: Callable[[float], float]
) -> Iterator[Fit]:
    """Explanations of an output that leave at most `allowed` rms, the simplest kind first.

    Args:
        pipeline: the right program.
        correct: its output, float64.
        observed: what came out instead, float64, finite.
        allowed: rms that rounding may leave, of products multiplied by so much.
    """
    searches: tuple[Callable[..., Iterator[Fit]], ...] = (
        (_shapes,)
        if observed.shape != correct.shape
        else (
            function_fits,
            added_fits,
            order_fits,
            _pixels,
            _kernels,
            mixed_fits,
        )
    )
    before = rms(observed - correct) if observed.shape == correct.shape else math.inf
    for search in searches:
        for fit in search(pipeline, correct, observed):
            if fit.left <= min(allowed(fit.factor), before / 2):
                yield fit


def rms(values: Array) -> float:
    """Root of the mean square; 0 of nothing."""
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else 0.0


def _shapes(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right values in another shape, or with a token too many or too few."""
    batch, rows, width = correct.shape
    grid = p.spec.grid
    if rows == math.prod(grid):
        forms = {
            (
                "grid-unflattened",
                "the grid was left unflattened, (B, D, rows, columns)",
                "flatten(2).transpose(1, 2)",
            ): np.moveaxis(correct.reshape(batch, *grid, width), -1, 1),
            (
                "grid-unflattened-last",
                "the grid was left unflattened, (B, rows, columns, D)",
                "reshape it to (B, rows·columns, D)",
            ): correct.reshape(batch, *grid, width),
        }
        for (name, told, mend), form in forms.items():
            if form.shape == observed.shape:
                yield Fit(name, told, mend, rms(observed - form))
    forms = {
        (
            "batch-behind-tokens",
            "the tokens come before the batch, (N, B, D)",
            "transpose(0, 1)",
        ): correct.transpose(1, 0, 2),
        (
            "batch-flattened",
            "batch and tokens were merged, (B·N, D)",
            "reshape it to (B, N, D)",
        ): correct.reshape(-1, width),
        (
            "tokens-flattened",
            "tokens and width were merged, (B, N·D)",
            "reshape it to (B, N, D)",
        ): correct.reshape(batch, -1),
        (
            "prefix-missing",
            "the prefix tokens are missing",
            "concatenate class, distillation and register tokens",
        ): correct[:, -p.spec.num_patches :],
        (
            "last-token-missing",
            "the last token is missing",
            "look for a loop or slice that ends one too early",
        ): correct[:, :-1],
    }
    for (name, told, mend), form in forms.items():
        if form.shape == observed.shape:
            yield Fit(name, told, mend, rms(observed - form))
    yield from _other_sizes(p, observed)
    if (
        observed.ndim == 3
        and observed.shape[0] == batch
        and observed.shape[2] == width
        and observed.shape[1] > rows
    ):
        extra = observed.shape[1] - rows
        for place, rest, more in (
            ("in front of", observed[:, extra:], observed[:, :extra]),
            ("behind", observed[:, :rows], observed[:, rows:]),
        ):
            if not (more - more[:1]).any():
                tokens, stand = (
                    ("token that is", "stands") if extra == 1 else ("tokens that are", "stand")
                )
                told = f"{extra} {tokens} the same for every image {stand} {place} the patches"
                yield Fit(
                    "prefix-added",
                    told,
                    "compare the tokens alone, or give the weights their class and register tokens",
                    rms(rest - correct),
                )


def _other_sizes(p: Pipeline, observed: Array) -> Iterator[Fit]:
    """The right kernel at another stride, or with another padding."""
    import dataclasses

    spec = p.spec
    if p.to_sequence or spec.remainder == "same":
        return
    pads = [before for before, _ in spec.padding]
    changes: list[tuple[str, dict[str, Any]]] = [
        (
            f"the stride was {factor} times what it should be",
            {"stride": tuple(step * factor for step in spec.stride)},
        )
        for factor in (2, 3)
    ]
    changes += [
        (
            f"the stride is off by {more}",
            {"stride": tuple(max(step + more, 1) for step in spec.stride)},
        )
        for more in (-1, 1, 2)
    ]
    changes += [
        (
            f"the padding was {more} more on each side",
            {"padding": tuple(pad + more for pad in pads)},
        )
        for more in (1, 2, 3)
    ]
    changes += [
        (
            f"the padding was {more} less on each side",
            {"padding": tuple(max(pad - more, 0) for pad in pads)},
        )
        for more in (1, 2, 3)
    ]
    changes += [
        ("no padding was used", {"padding": 0}),
        (
            "half of the kernel was used as padding",
            {"padding": tuple(size // 2 for size in spec.patch_size)},
        ),
    ]
    for told, change in changes:
        try:
            other = spec.replace(**change, remainder="floor")
        except PatchParityError:
            continue
        if (len(p.images), other.num_patches, other.embed_dim) == observed.shape:
            yield Fit(
                "sizes-differ",
                told,
                "set stride and padding to what the model says",
                rms(observed - dataclasses.replace(p, spec=other).run(np.float64)),
            )


def function_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """A function of each right value, or of each right token."""
    square = float((correct * correct).sum())
    scale = float((correct * observed).sum()) / square if square else 1.0
    if scale != 1.0:
        known = {
            255.0: ": pixels at 0..255 that should have been divided by 255",
            1 / 255: ": pixels that were divided by 255 once too often",
        }
        why = (
            next((told for factor, told in known.items() if abs(scale / factor - 1) < CLOSE), "")
            if p.weights.bias is None
            else ""
        )
        told = f"the output is {scale:.6g} times what it should be{why}"
        yield Fit(
            "output-scaled",
            told,
            f"look for a factor of {scale:.4g} before or behind the projection",
            rms(observed - scale * correct),
            abs(scale),
        )
    zero = observed == 0
    if 2 <= int(zero.sum()) < LEAST_KEPT * zero.size and (correct[zero] != 0).all():
        kept = ~zero
        factor = float((correct[kept] * observed[kept]).sum()) / float(
            (correct[kept] ** 2).sum() or 1.0
        )
        share = float(zero.mean())
        told = (
            f"{share:.3g} of the values are zero, and the others {factor:.6g} times what they "
            "should be: dropout in train mode"
        )
        if factor > 1 + CLOSE:  # else it is a ReLU, or something that sets values to zero
            yield Fit(
                "dropout",
                told,
                "call .eval(), or set the rate to 0",
                rms(observed - np.where(zero, 0, factor * correct)),
            )
    for name, values in functions_of(correct).items():
        yield Fit(
            "activation-behind",
            f"{name} was applied to the tokens",
            "no function stands behind a patch embedding: remove it",
            rms(observed - values),
        )
    lowest, highest = float(observed.min()), float(observed.max())
    inside = float(np.mean((observed > lowest) & (observed < highest)))
    if inside > UNCLAMPED:
        yield Fit(
            "output-clamped",
            f"the output was clamped to [{lowest:.4g}, {highest:.4g}]",
            "remove the clamp",
            rms(observed - correct.clip(lowest, highest)),
        )
    for digits in range(1, 7):
        if np.abs(np.rint(observed * 10**digits) - observed * 10**digits).max() < 1e-2:
            yield Fit(
                "output-decimals",
                f"the output was rounded to {digits} decimals",
                "save it in binary",
                max(0.0, rms(observed - correct) - 0.3 * 10.0**-digits),
            )
            break


def added_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """What is added to the right tokens: the same to every token, or the same to every image."""
    residual = observed - correct
    constant = residual.mean(axis=(0, 1))
    left = rms(residual - constant)
    bias = p.weights.bias
    if bias is not None and bias.any():
        held = bias.astype(np.float64)
        factor = 1 + float((constant * held).sum() / (held * held).sum())
        told = (
            f"the bias was added {factor:.6g} times"
            if abs(factor) > CLOSE
            else "the bias was not added"
        )
        yield Fit("bias-scaled", told, "add the bias once", rms(residual - (factor - 1) * held))
        total = constant + held
        moved = rms(total - held) > CLOSE * rms(held)
        if moved and np.allclose(
            np.sort(total), np.sort(held), atol=1e-3 * float(np.abs(held).max())
        ):
            yield Fit(
                "bias-permuted",
                "the bias was added in another order",
                "bias and rows of the kernel have one order",
                left,
            )
    yield Fit(
        "constant-added",
        "the same vector was added to every token of every image",
        "look for a second bias, or a token that is added to all",
        left,
    )
    if len(observed) > 1:
        table = residual.mean(axis=0)
        left = rms(residual - table)
        yield from _of_sequence(p, table, left)
        told = (
            "a table that is the same for every image was added to the tokens: fixed "
            "positions, "
            "that the weights do not hold"
        )
        yield Fit(
            "positions-added",
            told,
            "compare the tokens before positions, or give the weights their positions",
            left,
        )


def product_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The products, but not the bias, times a number, whatever was done to the order of the tokens
    behind."""
    if p.to_sequence:
        yield from _scaled_tokens(p, correct, observed)
        return
    if p.weights.bias is None:
        return
    bias = p.weights.bias.astype(np.float64)
    plain = correct - bias
    factor = float((plain * (observed - bias)).sum()) / float((plain * plain).sum() or 1.0)
    told = (
        f"the products, but not the bias, are {factor:.6g} times what they should be: the "
        "images or the kernel are scaled"
    )
    left = rms(observed - bias - factor * plain)
    yield Fit("product-scaled", told, "look for a factor before the projection", left, abs(factor))


def _scaled_tokens(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The tokens, but not what makes a sequence of them, times a number."""
    if (
        p.weights.positions is None
        or p.weights.sequence_norm is not None
        or p.weights.layout.token_order != "raster"
    ):
        return
    start = p.weights.num_tokens_ahead
    patches = slice(start, start + p.spec.num_patches)
    row = p.weights.num_positions_ahead
    positions = p.weights.positions[row : row + p.spec.num_patches].astype(np.float64)
    plain, seen = correct[:, patches] - positions, observed[:, patches] - positions
    factor = float((plain * seen).sum()) / float((plain * plain).sum() or 1.0)
    fitted = correct.copy()
    fitted[:, patches] = factor * plain + positions
    told = f"the tokens, but not the positions, are {factor:.6g} times what they should be"
    yield Fit(
        "tokens-scaled",
        told,
        "look for a factor between projection and positions",
        rms(observed - fitted),
    )


def _of_sequence(p: Pipeline, table: Array, left: float) -> Iterator[Fit]:
    """What differs in a sequence, the same way in every image: its prefix tokens, or its
    positions."""
    weights = p.weights
    rows = weights.num_prefix_tokens if p.to_sequence else 0
    if not p.to_sequence:
        return
    patches = slice(weights.num_tokens_ahead, weights.num_tokens_ahead + len(table) - rows)
    of_prefix, of_patches = np.delete(table, patches, axis=0), table[patches]
    if rows and rms(of_patches) <= 1e-3 * rms(of_prefix):
        told = (
            "the prefix tokens are other ones: class, distillation or register tokens are "
            "zero, "
            "missing or from elsewhere"
        )
        yield Fit(
            "prefix-differs", told, "load the prefix tokens, and their rows of positions", left
        )
    if weights.positions is None:
        return
    positions = weights.positions.astype(np.float64)
    held = positions[weights.num_positions_ahead :][: len(of_patches)]
    factor = 1 + float((of_patches * held).sum() / max(float((held * held).sum()), 1e-300))
    if rms(of_patches - (factor - 1) * held) <= 1e-2 * rms(of_patches):
        told = (
            "the positions were not added"
            if abs(factor) < CLOSE
            else f"the positions were added {factor:.6g} times"
        )
        yield Fit("positions-scaled", told, "add the positions once", left)
    found = of_patches + held
    if (
        weights.num_positions_ahead
        and held.shape == found.shape
        and len(held) < len(positions)
        and rms(found - positions[: len(found)]) <= 1e-2 * rms(held)
    ):
        yield Fit(
            "positions-from-the-first-row",
            "the patches were given the rows of positions from the first one on, which is the "
            "prefix token's",
            "the first rows belong to the prefix tokens: add positions after these are put in "
            "front, or begin behind their rows",
            left,
        )
    order = matching(held, found)
    if order is not None and rms(found - held[order]) <= 1e-2 * rms(held):
        yield Fit(
            "positions-permuted",
            "the positions were added in another order",
            "order positions as the patches: by row, then column",
            left,
        )


def order_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The right tokens, images or channels in another order."""
    batch, rows, width = correct.shape
    patches = p.spec.num_patches
    grid = p.spec.grid
    if len(grid) == 2 and rows == patches:
        turned = correct.reshape(batch, *grid, width)
        views = {
            (
                "tokens-flipped-across",
                "the tokens of each row of patches are in reverse: the grid was flipped left to "
                "right",
            ): turned[:, :, ::-1],
            (
                "tokens-flipped-down",
                "the rows of patches are in reverse: the grid was flipped top to bottom",
            ): turned[:, ::-1],
            ("tokens-reversed", "the tokens are in reverse order"): turned[:, ::-1, ::-1],
        }
        for (name, told), view in views.items():
            yield Fit(
                name,
                told,
                "keep the order of the grid: by row, then column",
                rms(observed - view.reshape(correct.shape)),
            )
        if grid[0] == grid[1]:
            yield Fit(
                "tokens-column-major",
                "tokens are in column-major order: down the columns of the grid first",
                "order tokens by row, then column",
                rms(observed - turned.transpose(0, 2, 1, 3).reshape(correct.shape)),
            )
    prefix = rows - patches
    if prefix > 0:
        last = np.concatenate([correct[:, prefix:], correct[:, :prefix]], axis=1)
        yield Fit(
            "prefix-last",
            "the prefix tokens stand behind the patches",
            "put class and register tokens in front",
            rms(observed - last),
        )
    order = matching(correct[0], observed[0])
    if order is not None and (order != np.arange(rows)).any():
        shift = int(order[0]) % rows
        told = (
            f"the tokens were rolled by {shift}"
            if (order == np.roll(np.arange(rows), -shift)).all()
            else "the tokens were permuted, the same way in every image"
        )
        yield Fit(
            "tokens-permuted", told, "keep the order of the grid", rms(observed - correct[:, order])
        )
    if batch > 1:
        images = matching(correct.reshape(batch, -1), observed.reshape(batch, -1))
        if images is not None and (images != np.arange(batch)).any():
            yield Fit(
                "images-permuted",
                "the images of the batch were exchanged",
                "keep the order of the batch",
                rms(observed - correct[images]),
            )
    columns = matching(correct.reshape(-1, width).T, observed.reshape(-1, width).T)
    if columns is not None and (columns != np.arange(width)).any():
        told = (
            "the output channels are in reverse"
            if (columns == np.arange(width)[::-1]).all()
            else "the output channels were permuted"
        )
        yield Fit(
            "width-permuted",
            told,
            "keep the order of the kernel's rows",
            rms(observed - correct[..., columns]),
        )
    if p.weights.bias is not None and not p.to_sequence:
        bias = p.weights.bias.astype(np.float64)
        plain = correct - bias
        columns = matching(plain.reshape(-1, width).T, (observed - bias).reshape(-1, width).T)
        if columns is not None and (columns != np.arange(width)).any():
            told = "the rows of the kernel are in another order than the bias"
            yield Fit(
                "kernel-rows-permuted",
                told,
                "keep the order of the kernel's rows",
                rms(observed - plain[..., columns] - bias),
            )


LEAST_KEPT = 0.95
"""Share of zeros from which on what is left says nothing of a dropout."""

UNCLAMPED = 0.05
"""Least share of values that a clamp leaves alone, where it is believed: clamped altogether, any
output is."""

MOST_ROWS = 2048
"""Rows that are matched with one another; the table of distances has their square."""


def matching(right: Array, found: Array) -> Array | None:
    """For each row of `found` `(rows, width)` the row of `right` that is nearest; None where that
    is no permutation."""
    if not 1 < len(right) <= MOST_ROWS:
        return None
    distances = (found * found).sum(1)[:, None] + (right * right).sum(1)[None] - 2 * found @ right.T
    order = np.asarray(distances.argmin(axis=1))
    return order if len(set(order.tolist())) == len(order) else None


def _run(p: Pipeline, images: Array | None = None, kernel: Array | None = None) -> Array | None:
    import dataclasses

    changed = p if images is None else dataclasses.replace(p, images=np.ascontiguousarray(images))
    if kernel is not None:
        if kernel.shape != p.weights.kernel.shape or np.array_equal(kernel, p.weights.kernel):
            return None
        changed = changed.with_kernel(np.ascontiguousarray(kernel))
    return changed.run(np.float64)


def _pixels(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Other images than those that were given."""
    if p.spec.spatial_axes != 2:
        return
    for (name, told, mend), form in pixel_forms(p.images).items():
        found = _run(p, images=form)
        if found is not None and found.shape == observed.shape:
            yield Fit(name, told, mend, rms(observed - found))
    yield from _viewed(p, correct, observed)


def _viewed(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Patches that are rows of the memory instead of squares of the image."""
    spec = p.spec
    rows = spec.num_patches * spec.patch_values
    if correct.shape[1] != spec.num_patches or p.images[0].size != rows:
        return
    matrix = p.weights.matrix.astype(np.float64)
    first = p.weights.kernel.astype(np.float64).transpose(0, 3, 1, 2).reshape(len(matrix), -1)
    bias = 0.0 if p.weights.bias is None else p.weights.bias.astype(np.float64)
    images = p.images.astype(np.float64)
    for memory, held in (("NCHW", images), ("NHWC", images.transpose(0, 2, 3, 1))):
        cut = np.ascontiguousarray(held).reshape(len(images), spec.num_patches, spec.patch_values)
        for kernel in (matrix, first):
            told = (
                f"the images' memory ({memory}) was viewed as (B, N, K): a patch is then a run "
                "of pixels and no square"
            )
            yield Fit(
                "image-viewed-as-patches",
                told,
                "cut the patches: reshape to (B, C, rows, P, columns, P), then permute",
                rms(observed - (cut @ kernel.T + bias)),
            )


def _kernels(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """The kernel's memory in another order of axes."""
    if p.spec.spatial_axes != 2:
        return
    for (name, told, mend), form in kernel_forms(p.weights.kernel):
        found = _run(p, kernel=form)
        if found is not None:
            yield Fit(name, told, mend, rms(observed - found))


MOST_MIXED = 4
"""Channels up to which a mix of them is solved for: the square of them are computed."""


def mixed_fits(p: Pipeline, correct: Array, observed: Array) -> Iterator[Fit]:
    """Each channel of the image replaced by an affine mix of all: other means and deviations, other
    scales, other orders."""
    channels = p.spec.in_channels
    if channels > MOST_MIXED or p.to_sequence or p.token_steps:
        return
    kernel = p.weights.kernel.astype(np.float64)
    images = p.images.astype(np.float64)
    plain = p.with_weights(bias=None)
    columns = []
    for of_kernel in range(channels):
        alone = np.zeros_like(kernel)
        alone[..., of_kernel] = kernel[..., of_kernel]
        for of_image in range(channels):
            shown = np.zeros_like(images)
            shown[:, of_kernel] = images[:, of_image]
            columns.append(_run(plain.with_kernel(alone), images=shown))
    for of_kernel in range(channels):
        alone = np.zeros_like(kernel)
        alone[..., of_kernel] = kernel[..., of_kernel]
        columns.append(_run(plain.with_kernel(alone), images=np.ones_like(images)))
    if any(column is None or column.shape != observed.shape for column in columns):
        return
    bias = 0.0 if p.weights.bias is None else p.weights.bias.astype(np.float64)
    terms = np.stack([column.ravel() for column in columns if column is not None], axis=1)
    solved = np.linalg.lstsq(terms, (observed - bias).ravel(), rcond=None)[0]
    left = rms((observed - bias).ravel() - terms @ solved)
    mix, offsets = solved[: channels**2].reshape(channels, channels), solved[channels**2 :]
    name, told, mend = _named_mix(mix, offsets)
    yield Fit(name, told, mend, left, float(np.abs(mix).max()))


def _named_mix(mix: Array, offsets: Array) -> tuple[str, str, str]:
    """What a mix of channels is, in words: kernel channel i saw Σ mix[i, j]·channel j +
    offsets[i]."""
    channels = len(mix)
    size = max(float(np.abs(mix).max()), 1e-30)
    rows = np.abs(mix).argmax(axis=1)
    single = np.abs(mix).sum(axis=1) - np.abs(mix).max(axis=1) < CLOSE * size
    scales = mix[np.arange(channels), rows]
    if not single.all():
        gray = np.abs(mix - mix[:1]).max() < CLOSE * size
        told = (
            "the images were made gray"
            if gray
            else f"the channels were mixed: {np.round(mix, 4).tolist()}"
        )
        return (
            ("image-gray" if gray else "channels-mixed"),
            told,
            "give each channel of the kernel its own channel of the image",
        )
    parts = []
    order = rows.tolist()
    if order != list(range(channels)):
        parts.append(
            "the channels were read in reverse, BGR for RGB"
            if order == list(range(channels))[::-1]
            else f"the channels were read in the order {order}"
        )
    scaled, name = _named_scales(scales, offsets, rows)
    if scaled:
        parts.append(scaled)
    identity = "channels-reversed" if parts and not scaled else name
    return (
        identity,
        "; and ".join(parts) or "the images are what they should be",
        "preprocess the images as the checkpoint was trained: "
        + (scaled or "in its order of channels"),
    )


UNREAD = 1e-6
"""Factor of the images below which they were not read: what is solved from float32's rounding alone
is a tenth of it, 1/255² fifteen times it."""


def _named_scales(scales: Array, offsets: Array, rows: Array) -> tuple[str, str]:
    """What was done to the pixels of each channel, in words, and its id; empty where nothing
    was."""
    if np.abs(scales - 1).max() < IDENTICAL and np.abs(offsets).max() < IDENTICAL:
        return "", "channels-reversed"
    if np.abs(scales).max() < UNREAD:
        return "the images were not read at all", "image-ignored"
    if len(scales) == 3:
        for told, (mean, deviation) in STATISTICS.items():
            means, deviations = np.array(mean)[rows], np.array(deviation)[rows]
            for factor, pixels in (
                (1.0, ""),
                (255.0, ", and multiplied by 255"),
                (1 / 255.0, ", and divided by 255"),
            ):
                if np.allclose(scales, factor / deviations, rtol=CLOSE) and np.allclose(
                    offsets, -means / deviations, rtol=10 * CLOSE, atol=CLOSE
                ):
                    return (
                        f"{told} were taken out of pixels that were normalized already{pixels}",
                        "normalization-twice",
                    )
                if np.allclose(scales, factor * deviations, rtol=CLOSE) and np.allclose(
                    offsets, means, rtol=10 * CLOSE, atol=CLOSE
                ):
                    return (
                        f"the pixels were not normalized: {told} were not taken out{pixels}",
                        "normalization-missing",
                    )
    even = np.ptp(scales) < CLOSE * np.abs(scales).max()
    for factor, told in (
        (255.0, "the pixels were left at 0..255"),
        (1 / 255.0, "the pixels were divided by 255 once too often"),
        (1 / 255.0**2, "the pixels were divided by 255 twice too often"),
        (2.0, "the pixels were doubled"),
    ):
        if (
            even
            and abs(float(scales.mean()) / factor - 1) < CLOSE
            and np.abs(offsets).max() < CLOSE * factor
        ):
            return told, "input-scaled"
    if even and np.abs(offsets).max() < IDENTICAL:
        return (
            f"the products, but not the bias, are {float(scales.mean()):.6g} times what they "
            "should be: the images or the kernel are scaled",
            "product-scaled",
        )
    if (np.abs(scales) < CLOSE * np.abs(scales).max()).any():
        return f"channel {int(np.abs(scales).argmin())} of the images was not read", "channel-zero"
    return (
        f"the pixels of each channel were multiplied by {np.round(scales, 5).tolist()}, and "
        f"{np.round(offsets, 5).tolist()} was added",
        "pixels-scaled",
    )
