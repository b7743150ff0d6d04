"""What `check` tries of somebody's object beside random images of its own size: batches, sizes,
values, memory, repetition, NaN.

A trial that the object refuses loudly passes, and is told: an error is no wrong number.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...porting.objects.call import (
    bits_of,
    forms_in_memory,
    forms_of_gray,
    forms_of_one,
    refilled,
)
from ...reference.embed import patch_embed
from ...reference.error import ArithmeticModel, Gate
from ...reference.errors import PatchParityError
from ...reference.probe import Probe
from ...reference.spec import PatchEmbedSpec
from ...reference.verdict import judge
from ...reference.weights import PatchEmbedWeights
from .containment import alike, bitwise
from .problems import Problems, first_of, part_of, repeated_first
from .remainders import readings_of_remainders
from .sampled import largest_not_sampled, sampled_sizes, sampled_tokens
from .settings import Generators
from .values import values

BATCHES = (*range(4, 11), 12, 16, 17, 20, 24, 32, 33, 48, 64, 100, 128)
"""Batches beside 1, 2 and 3: all small ones, powers of two and the numbers beside them, and those
that people have."""

FEW_BATCHES = (4, 5, 8, 16, 17, 32, 64, 128)
"""Those of a framework that compiles anew for every shape."""

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

SEVERAL, MANY = 5, 8
"""Images of another size that are tried at a time: of a few patches, and of the usual 196."""

FEW_PATCHES, USUAL_PATCHES = 100, 200

CHEAP_OPERATIONS = 2 * 10**8
"""Operations of a trial for which that many are taken; two of few patches, or one, where they are
more."""

CALLS = 50
"""Calls of the same images: an object that counts them, or warms up, shows it within these."""

MORE_CALLS = 128
"""The same of a small one."""

MOST_DIAGNOSED = 4
"""Images of a wrong output that an explanation is looked for in."""

TRAINING = "training-mode"
OTHER_IN_TRAINING = (
    "it is in training mode, in which it gives something else; judged is what it gives after eval()"
)

OWN_BUFFER = "an earlier result changes when it is called again: it returns a buffer of its own"

POOL = 262147
"""Random values that images are cut out of, at a random place each. A prime, above 2¹⁸, so that
images which need more of them are no repetition of one another."""

SHARES = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.25, -0.25, 4.0)
"""What images are multiplied by, one call after another, whose results are all kept: an object may
go round eight buffers of its own."""

MOST_CHANNELS = 32
"""Channels in each of which a NaN is tried."""

MOST_OPERATIONS = 2 * 10**9
"""Operations of a trial on a larger image than the object's own: above it, seconds on one core."""

OTHER_POSITIONS = ((3, 5), (6, 4))
"""Rows and columns of patches of images whose positions nobody knows."""

NEAR_PRODUCT = 2.0**-9
"""Relative rms within which what an object gives of an image, less what it gives of zeros, is the
patches' product, in float32: positions a thousand times as large as tokens leave 2⁻¹³ of it."""

MIXED = 2.0**-5
"""Relative rms that autocast to bfloat16 may move tokens by: four times the 2⁻⁷ that inputs,
weights and results move them by together, each rounded by 2⁻⁹ at most and some of them twice."""

UNEXPLAINED = ("not-dividing", "result-kept", "memory-layouts")
"""Trials whose failures are no mistake in arithmetic: a rest, a memory."""

Outcome = dict[str, Any]


def trials(problems: Problems, model: ArithmeticModel, seed: int) -> Iterator[tuple[str, Outcome]]:
    """Name and outcome (`verdict`, `message`, maybe `bound_ratio`) of each trial.

    Args:
        problems: of the object.
        model: its arithmetic.
        seed: of the images.
    """
    tried = _Trials(problems, model, np.random.default_rng([seed, 5]))
    for name, trial in tried.all():
        try:
            outcome = trial()
        except PatchParityError as error:
            outcome = {"verdict": "pass", "message": f"refused: {str(error).splitlines()[0][:200]}"}
        if outcome is not None:
            yield name, tried.with_cause(name, outcome)


def _not_tried(why: str) -> Outcome:
    return {"verdict": "skip", "message": f"not tried: {why}"}


class _Trials:
    def __init__(
        self, problems: Problems, model: ArithmeticModel, generator: np.random.Generator
    ) -> None:
        self.problems, self.model, self.generator = problems, model, generator
        self.live, self.weights = problems.live, problems.weights
        self.scale = problems.fingerprint_scale
        self.batch = self.live.call.batch or 2
        self._drawn: Probe | None = None
        self.failure: tuple[Probe, NDArray[Any]] | None = None
        self.explained = False

    def all(self) -> Iterator[tuple[str, Callable[[], Outcome | None]]]:
        """Every trial that says something of this object."""
        spec = self.live.spec
        images = self._draw(spec, self.batch)
        first = np.array(self.live.call(np.array(images)))  # which later calls may write over
        if not self.live.call.batch:
            yield from self._batches()
        for size in self._sizes():
            other = spec.replace(image_size=size)
            name = f"image-{'x'.join(map(str, size))}"
            yield name, functools.partial(self._random, other, _count_of(other))
        sampled = list(sampled_sizes(self.live))
        for place, (size, count) in enumerate(sampled):
            name = f"{count}-of-{'x'.join(map(str, size))}"
            other = spec.replace(image_size=size)
            yield name, functools.partial(self._sampled, other, count, again=not place)
        if (largest := largest_not_sampled(self.live, sampled)) is not None:
            yield "large-images", functools.partial(_not_tried, largest)
        if self.weights.positions is None:
            for name, more in self._remainders().items():
                yield name, functools.partial(self._not_dividing, more)
        elif spec.spatial_axes == 2 and self.live.dtype in ("float32", "float64"):
            yield "positions-at-other-sizes", self._without_positions
        yield from self._of_values()
        yield "infinity", self._infinity
        yield "nan-of-each-channel", self._nan_of_each_channel
        yield "nan-alone", self._nothing_but_nan
        yield "images-left-as-they-were", self._untouched
        yield "result-kept", self._kept
        yield "generators-left-as-they-were", self._generators
        calls = MORE_CALLS if MORE_CALLS * self.small.flops(2) <= MOST_OPERATIONS // 10 else CALLS
        yield f"{calls}-calls", functools.partial(self._repeated, calls)
        if self.live.framework in ("torch", "numpy"):
            yield "memory-layouts", self._memory
        if self.live.call.record is not None:
            yield "with-gradients", self._recorded
            yield "inference-mode", self._inference
        if self.live.call.mixed is not None and self.live.dtype == "float32":
            yield "mixed-precision", self._mixed
        if self.live.call.training is not None:
            yield TRAINING, self._as_given
        yield "first-images-again", functools.partial(self._again, images, first)

    def _batches(self) -> Iterator[tuple[str, Callable[[], Outcome | None]]]:
        """Batches of many numbers, all of them the first of one large one, whose answer the
        reference computes once."""
        spec = self.small
        eager = self.live.framework in ("torch", "numpy")
        numbers = sorted({*(BATCHES if eager else FEW_BATCHES), spec.num_patches})
        cheap = [n for n in numbers if n * spec.flops(1) <= MOST_OPERATIONS or n < 9]
        fingerprint = self.scale is not None
        images = (self._draw(spec, cheap[-1]) * (self.scale or 1.0)).astype(self.live.dtype)
        whole = self._probe(spec, images, "probabilistic", fingerprint)
        for number in cheap:
            yield f"batch-{number}", functools.partial(self._batch, whole, number)
        if len(cheap) < len(numbers):
            name = f"batches-above-{cheap[-1]}"
            yield name, functools.partial(_not_tried, "they take seconds")

    def _batch(self, whole: Probe, number: int) -> Outcome:
        return self._judged_on(first_of(whole, number), np.array(whole.images[:number]))

    @functools.cached_property
    def small(self) -> PatchEmbedSpec:
        """Images of 2×2 patches where the object takes them, for trials in which their size says
        nothing; its own otherwise."""
        spec = self.live.spec
        if self.weights.positions is not None:
            return spec
        try:
            other = spec.replace(image_size=(*spec.image_size[:-2], *_sides(spec, (2, 2))))
            self.live.call(self._draw(other, self.batch))
        except PatchParityError:
            return spec
        return other if other.flops(1) < spec.flops(1) else spec

    def _draw(self, spec: PatchEmbedSpec, batch: int) -> NDArray[Any]:
        """Random images, of values drawn once; those of more than there are repeat them."""
        shape = spec.images_shape(batch)
        start, count = int(self.generator.integers(POOL)), math.prod(shape)
        pools = [self._pool] * math.ceil((start + count) / POOL)
        return np.concatenate([pools[0][start:], *pools[1:]])[:count].reshape(shape)

    @functools.cached_property
    def _pool(self) -> NDArray[Any]:
        if self.live.dtype == "float64":
            return self.generator.standard_normal(POOL)
        return self.generator.standard_normal(POOL, np.float32).astype(self.live.dtype)

    def _sizes(self) -> list[tuple[int, ...]]:
        """Other images, where no table of positions fixes their size; of video, of as many frames.
        Of costly ones the usual and the largest."""
        spec = self.live.spec
        if self.weights.positions is not None:
            return []
        frames = spec.image_size[:-2]
        sizes = [_sides(spec, grid) for grid in GRIDS]
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
        costly = [
            size for size in small if spec.replace(image_size=size).flops(1) > CHEAP_OPERATIONS
        ]
        kept = ((*frames, *usual[0]), max(costly, key=math.prod, default=()))
        return [size for size in small if size not in costly or size in kept]

    def _sampled(self, spec: PatchEmbedSpec, count: int, again: bool) -> Outcome:
        """Some tokens of many images, or of a large one: each is held against its own patch; asked
        `again`, the result is looked at once more after another call."""
        images = self._draw(spec, count)
        with self.live.call.held():
            result = self.live.call.run(self.live.call.place(images))
            output = np.array(self.live.call.fetch(result))
            if again:
                self.live.call.run(self.live.call.place(-images))
                if not bitwise(output, np.array(self.live.call.fetch(result))):
                    return {"verdict": "fail", "message": OWN_BUFFER}
        if output.shape != spec.tokens_shape(count):
            expected = spec.tokens_shape(count)
            return {
                "verdict": "fail",
                "message": f"output of shape {output.shape}, expected {expected}",
            }
        patches, tokens = sampled_tokens(spec, images, output, self.generator)
        alone = spec.replace(image_size=spec.patch_size)
        probe = self._probe(alone, patches, "probabilistic", False)
        outcome = self._judged_on(probe, probe.images, tokens)
        self.failure = None  # patches of different images explain nothing together
        if outcome["verdict"] == "fail":
            size = "×".join(map(str, spec.image_size))
            message = f"of {count} images of {size} some tokens: {outcome['message']}"
            return {**outcome, "message": message}
        return outcome

    def _without_positions(self) -> Outcome:
        """At other sizes nobody knows the positions, which an image and one of zeros share: their
        difference is the patches' product."""
        weights, spec = self.weights, self.live.spec
        plain = PatchEmbedWeights(weights.kernel)
        ahead = weights.num_tokens_ahead
        judged = 0
        for grid in OTHER_POSITIONS:
            other = spec.replace(image_size=_sides(spec, grid))
            images = self._draw(other, 2)
            outputs = [self.live.call(np.array(each)) for each in (images, np.zeros_like(images))]
            if outputs[0].ndim != 3 or outputs[0].shape[1] < other.num_patches + ahead:
                continue  # it gives something else there, which is no token of a patch
            judged += 1
            patches = slice(ahead, ahead + other.num_patches)
            if (wrong := self._prefix_elsewhere(outputs[1], patches)) is not None:
                return wrong
            found = outputs[0][:, patches].astype(np.float64) - outputs[1][:, patches]
            expected = patch_embed(images.astype(np.float64), plain.astype(np.float64), other)
            left, size = (float(np.sqrt(np.mean(each**2))) for each in (found - expected, expected))
            if not left <= NEAR_PRODUCT * size:
                shape = "×".join(map(str, other.image_size))
                return {
                    "verdict": "fail",
                    "message": f"images of {shape}, less one of zeros, give what no patches' "
                    f"product is, whatever the positions there: {left / size:.2g} of it is left",
                }
        if not judged:
            return _not_tried("at other sizes it gives no token for each patch")
        return {"verdict": "pass"}

    def _prefix_elsewhere(self, black: NDArray[Any], patches: slice) -> Outcome | None:
        """What is wrong with an image of zeros at another size, whose positions nobody knows: its
        prefix tokens are those of its own size, and its positions are not all the same."""
        own = self._draw(self.live.spec, self.batch) * 0
        expected = self.live.call(own.astype(self.live.dtype))
        own_patches = slice(patches.start, patches.start + self.live.spec.num_patches)
        prefix, its_own = (
            np.delete(array[0].astype(np.float64), rows, axis=0)
            for array, rows in ((black, patches), (expected, own_patches))
        )
        alike_rows = prefix.shape == its_own.shape and np.allclose(prefix, its_own, rtol=1e-3)
        if prefix.size and not alike_rows:
            return {
                "verdict": "fail",
                "message": "at other sizes its prefix tokens, with their positions, are other ones",
            }
        varying = np.ptp(expected[0, own_patches].astype(np.float64), axis=0).max()
        if varying and not np.ptp(black[0, patches].astype(np.float64), axis=0).any():
            return {"verdict": "fail", "message": "at other sizes no positions are added"}
        return None

    def _mixed(self) -> Outcome | None:
        """The same call under autocast, as many train: it may round to bfloat16, and no more."""
        images = self._draw(self.small, self.batch)
        assert self.live.call.mixed is not None
        expected = self.live.call(np.array(images)).astype(np.float64)
        with self.live.call.mixed():
            output = self.live.call(np.array(images)).astype(np.float64)
        if output.shape != expected.shape:
            return {
                "verdict": "fail",
                "message": f"under torch's autocast to bfloat16 its output is of shape "
                f"{output.shape}, and of {expected.shape} without",
            }
        size = float(np.sqrt(np.mean(expected**2)))
        left = float(np.sqrt(np.mean((output - expected) ** 2)))
        if left <= MIXED * size:
            return {"verdict": "pass"}
        return {
            "verdict": "fail",
            "message": "under torch's autocast to bfloat16 it gives something else than rounded "
            f"numbers: {left / size:.2g} of the output",
        }

    def _probe(
        self, spec: PatchEmbedSpec, images: NDArray[Any], gate: Gate, fingerprint: bool
    ) -> Probe:
        return self.problems.probe("trial", images, gate, spec=spec, fingerprint=fingerprint)

    def with_cause(self, name: str, outcome: Outcome) -> Outcome:
        """The outcome of a trial, of the first values that are wrong with what explains them."""
        failure, self.failure = self.failure, None
        wrong = outcome["verdict"] == "fail" and outcome.get("bound_ratio") is not None
        if failure is None or not wrong or self.explained or name.startswith(UNEXPLAINED):
            return outcome
        from ...reference.diagnosis.diagnose import diagnose  # which a right object never needs

        probe, output = failure
        if not np.ptp(probe.images.astype(np.float64), axis=(-2, -1)).any():
            return outcome  # of flat images nearly everything is explained
        some = slice(MOST_DIAGNOSED)
        if probe.spec.flops(len(probe.images[some])) > MOST_OPERATIONS:
            return outcome
        diagnosis = diagnose(
            probe.images[some], probe.weights, output[some], probe.spec, pairs=False
        )
        if not diagnosis.mistakes:
            return outcome
        self.explained = True
        cause = f"diagnosis: {diagnosis.explanation} (mend: {diagnosis.mend})"
        return {**outcome, "message": f"{outcome['message']}; {cause}"}

    def _judged(
        self,
        spec: PatchEmbedSpec,
        images: NDArray[Any],
        gate: Gate,
        output: NDArray[Any] | None = None,
        fingerprint: bool = False,
    ) -> Outcome:
        return self._judged_on(self._probe(spec, images, gate, fingerprint), images, output)

    def _judged_on(
        self, probe: Probe, images: NDArray[Any], output: NDArray[Any] | None = None
    ) -> Outcome:
        """Judge an output, or that of a call, which must leave its images as they are."""
        changed = False
        if output is None:
            with np.errstate(over="ignore", invalid="ignore"):
                output, changed = self._called(images)
        if changed:
            return {"verdict": "fail", "message": "it changes the images that it is given"}
        verdict = judge(probe, "forward", output, self.model)
        if verdict.verdict == "fail":
            self.failure = probe, output
        return {
            "verdict": verdict.verdict,
            "bound_ratio": verdict.bound_ratio,
            "message": verdict.message,
        }

    def _called(self, images: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """The output of a call, and whether the images were others afterwards."""
        call = self.live.call
        if call.batch or self.live.framework not in ("torch", "numpy"):
            return call(np.array(images)), False
        placed, before = call.place(np.array(images)), call.place(np.array(images))
        with call.held():
            output = np.array(call.fetch(call.run(placed)))
        return output, not np.array_equal(bits_of(placed), bits_of(before))

    def _random(self, spec: PatchEmbedSpec, batch: int) -> Outcome:
        """Random images, of which the effective bits are told too where they can be."""
        images = self._draw(spec, batch)
        fingerprint = self.scale is not None
        scaled = (images * (self.scale or 1.0)).astype(images.dtype)
        return self._judged(spec, scaled, "probabilistic", fingerprint=fingerprint)

    def _of_values(self) -> Iterator[tuple[str, Callable[[], Outcome | None]]]:
        """Images of other values, which the reference answers at once where they are not too many;
        of float64 one after the other, each with its exact results."""
        spec, dtype = self.live.spec, self.live.dtype
        count = 2 if spec.flops(2) <= MOST_OPERATIONS // 10 else 1
        drawn = [
            (name, draw(spec.images_shape(count)).astype(dtype))
            for name, draw in values(self.generator, dtype)
        ]
        if dtype == "float64" or spec.flops(count * len(drawn)) > MOST_OPERATIONS:
            for name, images in drawn:
                yield name, functools.partial(self._judged, spec, images, "deterministic")
            return
        together = np.concatenate([images for _, images in drawn])
        whole = self._probe(spec, together, "deterministic", False)
        for place, (name, _) in enumerate(drawn):
            part = slice(place * count, (place + 1) * count)
            yield name, functools.partial(self._part, whole, part)

    def _part(self, whole: Probe, part: slice) -> Outcome:
        return self._judged_on(part_of(whole, part), np.array(whole.images[part]))

    def _remainders(self) -> dict[str, tuple[int, ...]]:
        """Rows and columns that are too many: one and two, almost a patch, and of one axis
        alone."""
        spec = self.live.spec
        rows, columns = (max(1, by - 1) for by in spec.stride[-2:])
        remainders = {
            "not-dividing": (1, 2),
            "not-dividing-by-half": ((rows + 1) // 2, (columns + 1) // 2),
            "not-dividing-by-most": (rows, columns),
            "not-dividing-in-rows": (rows, 0),
            "not-dividing-in-columns": (0, columns),
        }
        ahead = (0,) * (spec.spatial_axes - 2)
        return {name: (*ahead, *more) for name, more in remainders.items()}

    def _not_dividing(self, more: tuple[int, ...]) -> Outcome | None:
        """Images that are some rows and columns too large: the rest is left out, or padded at the
        end, or the images are refused."""
        spec = self.live.spec
        image = tuple(size + extra for size, extra in zip(spec.image_size, more, strict=True))
        images = self.generator.standard_normal((2, spec.in_channels, *image)).astype(
            self.live.dtype
        )
        output = self.live.call(np.array(images))
        failed: Outcome | None = None
        for words, other, seen in readings_of_remainders(spec, image, images):
            outcome = self._judged(other, seen, "probabilistic", output)
            if outcome["verdict"] == "pass":
                message = f"images that patches do not divide are {words}" if words else ""
                return {**outcome, "message": message}
            failed = failed or outcome
        message = (
            f"images of {'×'.join(map(str, image))}, which patches do not divide, give what no cut "
            "or padded image would"
        )
        return {**failed, "message": f"{message}; {failed['message']}"} if failed else None

    def _poisoned(self, value: float, image: int, channel: int, share: float = 0.5) -> NDArray[Any]:
        """Random images with one value of another kind, so far along rows and columns."""
        images = self._draw(self.small, 2)
        sides = [min(int(size * share), size - 1) for size in self.small.image_size]
        images[(image, channel, *sides)] = value
        return images

    def _seen(self) -> bool:
        """Whether a window sees the pixel in the middle, which patches with gaps between them may
        not."""
        spec = self.small
        for size, patch, step, (before, _), count in zip(
            spec.image_size,
            spec.patch_size,
            spec.stride,
            spec.effective_padding,
            spec.grid,
            strict=True,
        ):
            starts = np.arange(count) * step - before
            if not ((starts <= size // 2) & (size // 2 < starts + patch)).any():
                return False
        return True

    def _infinity(self) -> Outcome | None:
        if not self._seen():
            return None
        for value, named in ((np.inf, "an infinity"), (-np.inf, "a negative infinity")):
            with np.errstate(invalid="ignore", over="ignore"):
                output = self.live.call(self._poisoned(value, 1, 0)).astype(np.float64)
            if np.isfinite(output[1]).all():
                return {
                    "verdict": "fail",
                    "message": f"{named} in one pixel of image 1 is swallowed: every value of it "
                    "is finite",
                }
        return {"verdict": "pass"}

    def _nan_of_each_channel(self) -> Outcome | None:
        if not self._seen():
            return None
        # Patches that tile see every pixel of a size that they divide: the first and last too.
        spec = self.small
        whole = spec.tiles and not any(
            size % by for size, by in zip(spec.image_size, spec.stride, strict=True)
        )
        shares = (0.5, 0.0, 1.0, 0.3) if whole else (0.5,)
        for image in (0, 1):
            for channel in range(min(spec.in_channels, MOST_CHANNELS)):
                poisoned = self._poisoned(np.nan, image, channel, shares[channel % len(shares)])
                with np.errstate(invalid="ignore"):
                    output, changed = self._called(poisoned)
                if changed:
                    message = "it changes the images that it is given, where one holds a NaN"
                    return {"verdict": "fail", "message": message}
                nan_mask = np.isnan(output.astype(np.float64))
                if not nan_mask[image].any():
                    return {
                        "verdict": "fail",
                        "message": f"a NaN in channel {channel} of image {image} is swallowed",
                    }
                if nan_mask[1 - image].any():
                    return {
                        "verdict": "fail",
                        "message": f"a NaN in image {image} makes values of image {1 - image} NaN",
                    }
        return {"verdict": "pass"}

    def _nothing_but_nan(self) -> Outcome | None:
        """An image of NaN alone, beside one of numbers."""
        if not self._seen():
            return None
        images = self._draw(self.small, 2)
        images[1] = np.nan
        with np.errstate(invalid="ignore"):
            nan_mask = np.isnan(self.live.call(images).astype(np.float64))
        if nan_mask[1].any():
            return {"verdict": "pass"}
        return {"verdict": "fail", "message": "an image of NaN alone gives numbers"}

    def _run(self, placed: Any) -> Any:
        with self.live.call.held():
            return self.live.call.run(placed)

    def _untouched(self) -> Outcome:
        images = self._draw(self.live.spec, self.batch)
        placed, again = (self.live.call.place(np.array(images)) for _ in range(2))
        self._run(placed)
        if not np.array_equal(bits_of(placed), bits_of(again)):
            return {"verdict": "fail", "message": "it changes the images that it is given"}
        return {"verdict": "pass"}

    def _kept(self) -> Outcome:
        """The first results after later calls, of images of the other sign and of others in the
        same memory: a buffer that is written again, a result that is found by a sum or a place."""
        images = self._draw(self.small, self.batch)
        kept, before = [], []
        for share in SHARES:
            others = (share * images).astype(images.dtype)
            kept.append(self._run(self.live.call.place(others)))
            before.append(np.array(self.live.call.fetch(kept[-1])))
        after = [np.array(self.live.call.fetch(result)) for result in kept]
        if any(a.tobytes() != b.tobytes() for a, b in zip(before, after, strict=True)):
            return {"verdict": "fail", "message": OWN_BUFFER}
        placed = self.live.call.place(np.array(images))
        self._run(placed)
        negative = self._probe(self.small, -images, "probabilistic", False)
        if refilled(placed, self.live.call.place(-images)):
            again = np.array(self.live.call.fetch(self._run(placed)))
            if (outcome := self._judged_on(negative, -images, again))["verdict"] == "fail":
                message = (
                    "images that are written into the memory of earlier ones give another result"
                )
                return {**outcome, "message": f"{message}; {outcome['message']}"}
        self._run(self.live.call.place(np.array(images)))
        turned = np.ascontiguousarray(images[..., ::-1])  # their sums are those of the images
        outcome = self._judged(self.small, turned, "probabilistic")
        return (
            outcome
            if outcome["verdict"] == "fail"
            else self._judged_on(negative, -images, before[1])
        )

    def _generators(self) -> Outcome:
        """Whether a call seeds generators that the whole process draws from."""
        with Generators() as generators:
            after = []
            for _ in range(2):
                generators.draw()
                self.live.call(self._draw(self.live.spec, self.batch))
                after.append(generators.states())
        seeded = [name for name in after[0] if after[0][name] == after[1][name]]
        message = f"it seeds {' and '.join(seeded)}, for all that runs in its process"
        return {"verdict": "fail" if seeded else "pass", "message": message if seeded else ""}

    def _repeated(self, calls: int) -> Outcome | None:
        images = self._draw(self.small, 2)
        if calls * self.small.flops(2) > MOST_OPERATIONS * 5:
            return None
        call = self.live.call
        if call.batch:
            images = images[:1].repeat(call.batch, axis=0)
        placed = call.place(images)
        with call.held():
            first = call.fetch(call.run(placed)).tobytes()
            for number in range(2, calls + 1):
                if call.fetch(call.run(placed)).tobytes() != first:
                    return {
                        "verdict": "fail",
                        "message": f"call {number} on the same images differs from the first",
                    }
        return {"verdict": "pass"}

    def _again(self, images: NDArray[Any], first: NDArray[Any]) -> Outcome:
        """The images of before all other trials once more: a state that calls change shows."""
        if alike(first, self.live.call(np.array(images))):
            return {"verdict": "pass"}
        message = "the same images give something else than some hundred calls before"
        return {"verdict": "fail", "message": message}

    def _as_given(self) -> Outcome:
        """The same call of a copy that is in training mode, as the object was given."""
        assert self.live.call.training is not None
        images = self._draw(self.live.spec, self.batch)
        expected = self.live.call(np.array(images))
        try:
            output = self.live.call.fetch(self.live.call.training(self.live.call.place(images)))
        except Exception as error:  # whatever a copy, or a call in training, raises
            return {"verdict": "pass", "message": f"refused: {type(error).__name__}"}
        same = bitwise(output, expected)
        return {"verdict": "pass", "message": "" if same else OTHER_IN_TRAINING}

    def _own(self) -> Probe:
        """Random images of the object's own size, drawn once for the trials in which something
        else is tried than the images; the reference answers once."""
        if self._drawn is None:
            several = SEVERAL if self.live.spec.flops(SEVERAL) <= CHEAP_OPERATIONS else 2
            images = self._draw(self.live.spec, self.live.call.batch or several)
            self._drawn = self._probe(self.live.spec, images, "probabilistic", False)
        return self._drawn

    def _recorded(self) -> Outcome | None:
        """The same call where gradients are recorded, as in training but for dropout."""
        probe = self._own()
        assert self.live.call.record is not None
        for needed in (False, True):
            placed = self.live.call.place(np.array(probe.images))
            if needed and hasattr(placed, "requires_grad_"):
                placed.requires_grad_()
            try:
                with self.live.call.held():
                    output = self.live.call.fetch(self.live.call.record(placed))
            except PatchParityError as error:
                if "a leaf Variable that requires grad" not in str(error):
                    raise
                message = "it changes the images that it is given, where gradients are recorded"
                return {"verdict": "fail", "message": message}
            outcome = self._judged_on(probe, probe.images, np.array(output))
            if outcome["verdict"] == "fail":
                return outcome
        return outcome

    def _inference(self) -> Outcome:
        """The same call in torch's inference mode, as many serve a model."""
        probe = self._own()
        with self.live.call.serving():
            return self._judged_on(probe, np.array(probe.images))

    def _turned_batches(self) -> Iterator[tuple[str, Any, Probe]]:
        """One image and several, square ones, whose channels lie last in memory."""
        if self.live.call.batch:
            return
        for count in (1, SEVERAL):
            images = self._draw(self.small, count)
            forms = forms_in_memory(self.live.call.place(images))
            probe = self._probe(self.small, images, "probabilistic", False)
            for name in ("channels_last", "rows and columns exchanged in memory"):
                if name in forms:
                    yield f"{name}, {count} images", forms[name], probe

    def _gray(self) -> Iterator[tuple[str, Any, Probe]]:
        """Images of which one channel stands for all, without memory of their own."""
        channels = self.live.spec.in_channels
        images = np.repeat(self._draw(self.small, self.batch)[:, :1], channels, axis=1)
        placed = self.live.call.place(images)
        if tuple(placed.shape) == images.shape and channels > 1:
            probe = self._probe(self.small, images, "deterministic", False)
            for name, form in forms_of_gray(placed).items():
                yield name, form, probe

    def _memory(self) -> Outcome | None:
        """The same images, laid out in memory otherwise."""
        probe = self._own()
        placed = self.live.call.place(np.array(probe.images))
        same = repeated_first(probe)
        wrong, refused, worst = [], [], 0.0
        right: NDArray[Any] | None = None
        forms = [(name, form, probe) for name, form in forms_in_memory(placed).items()]
        forms += [(name, form, same) for name, form in forms_of_one(placed).items()]
        forms += list(self._turned_batches())
        forms += list(self._gray())
        for name, form, shown in forms:
            before = bits_of(form).copy()
            try:
                output = self.live.call.fetch(self._run(form))
            except PatchParityError:
                refused.append(name)
                continue
            if not np.array_equal(bits_of(form), before):
                return {
                    "verdict": "fail",
                    "message": f"it changes the images that it is given ({name})",
                }
            output = np.array(output)
            if shown is probe and right is not None and bitwise(output, right):
                continue
            outcome = self._judged_on(shown, shown.images, output)
            worst = max(worst, outcome["bound_ratio"] or 0.0)
            if outcome["verdict"] == "fail":
                wrong.append(name)
            elif shown is probe:
                right = output
        if wrong:
            return {
                "verdict": "fail",
                "message": f"images that lie in memory otherwise ({', '.join(wrong)}) give "
                "something else",
            }
        message = f"refused: images that lie in memory otherwise ({', '.join(refused)})"
        return {"verdict": "pass", "bound_ratio": worst, "message": message if refused else ""}


def _sides(spec: PatchEmbedSpec, grid: tuple[int, int]) -> tuple[int, ...]:
    """Rows and columns of the smallest images that give so many rows and columns of patches."""
    extents = list(zip(spec.patch_size, spec.stride, spec.effective_padding, strict=True))[-2:]
    sides = zip(grid, extents, strict=True)
    return tuple((count - 1) * step + patch - sum(pads) for count, (patch, step, pads) in sides)


def _count_of(spec: PatchEmbedSpec) -> int:
    """How many images of a size are tried at a time: what is wrong for several tall ones, say, may
    be right for two."""
    few = spec.num_patches <= FEW_PATCHES
    wanted = SEVERAL if few else MANY if spec.num_patches <= USUAL_PATCHES else 1
    return wanted if spec.flops(wanted) <= CHEAP_OPERATIONS else 2 if few else 1
