"""What `check` tries of somebody's object beside random images of its own size: batches, sizes,
values, memory, repetition, NaN.

A trial that the object refuses loudly passes, and is told: an error is no wrong number.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...porting.objects.call import LiveEmbedding, bytes_of, forms_in_memory
from ...reference.error import ArithmeticModel, Gate
from ...reference.errors import PatchParityError
from ...reference.probe import Probe
from ...reference.spec import PatchEmbedSpec
from ...reference.verdict import judge

BATCHES = (4, 5, 8, 17)
"""Batches beside 1, 2 and 3: even ones, one that vector registers divide, one that they do not."""

GRIDS = ((5, 3), (4, 4), (17, 18))
"""Patches of other images: taller than wide (an object's own small one is wider), square, and more
than 256, where kernels begin to cut in pieces."""

LARGE = 224
"""Rows and columns of the image that people have: where a kernel or a precision is chosen by size,
it is chosen here."""

CALLS = 50
"""Calls of the same images: an object that counts them, or warms up, shows it within these."""

MOST_OPERATIONS = 2 * 10**9
"""Operations of a trial on a larger image than the object's own: above it, seconds on one core."""

Outcome = dict[str, Any]


def trials(
    live: LiveEmbedding, weights: Any, model: ArithmeticModel, seed: int
) -> Iterator[tuple[str, Outcome]]:
    """Name and outcome (`verdict`, `message`, maybe `bound_ratio`) of each trial.

    Args:
        live: the object.
        weights: its own, copied.
        model: its arithmetic.
        seed: of the images.
    """
    tried = _Trials(live, weights, model, np.random.default_rng([seed, 5]))
    for name, trial in tried.all():
        try:
            outcome = trial()
        except PatchParityError as error:
            outcome = {"verdict": "pass", "message": f"refused: {str(error).splitlines()[0][:200]}"}
        if outcome is not None:
            yield name, outcome


class _Trials:
    def __init__(
        self,
        live: LiveEmbedding,
        weights: Any,
        model: ArithmeticModel,
        generator: np.random.Generator,
    ) -> None:
        self.live, self.weights, self.model, self.generator = live, weights, model, generator

    def all(self) -> Iterator[tuple[str, Callable[[], Outcome | None]]]:
        """Every trial that says something of this object."""
        spec = self.live.spec
        for batch in (*BATCHES, spec.num_patches):
            if batch * spec.flops(1) <= MOST_OPERATIONS or batch < 9:
                yield f"batch-{batch}", functools.partial(self._random, spec, batch)
        for size in self._sizes():
            other = spec.replace(image_size=size)
            yield f"image-{'x'.join(map(str, size))}", functools.partial(self._random, other, 2)
        if self.weights.positions is None:
            yield "not-dividing", self._not_dividing
        for name, draw in self._values():
            yield name, functools.partial(self._data, draw)
        yield "infinity", self._infinity
        yield "nan-of-each-channel", self._nan_of_each_channel
        yield "images-left-as-they-were", self._untouched
        yield "result-kept", self._kept
        yield f"{CALLS}-calls", self._repeated
        if self.live.framework in ("torch", "numpy"):
            yield "memory-layouts", self._memory
        if self.live.call.record is not None:
            yield "with-gradients", self._recorded

    def _draw(self, spec: PatchEmbedSpec, batch: int) -> NDArray[Any]:
        return self.generator.standard_normal(spec.images_shape(batch)).astype(self.live.dtype)

    def _sizes(self) -> list[tuple[int, ...]]:
        """Other images, where no table of positions fixes their size."""
        spec = self.live.spec
        if self.weights.positions is not None or spec.spatial_axes != 2:
            return []
        extents = list(zip(spec.patch_size, spec.stride, spec.effective_padding, strict=True))
        found = []
        for grid in GRIDS:
            sides = zip(grid, extents, strict=True)
            found.append(
                tuple(
                    (count - 1) * step + patch - sum(pads) for count, (patch, step, pads) in sides
                )
            )
        step = spec.stride[0] * spec.stride[1]
        found.append(
            tuple(LARGE // by * by or by for by in spec.stride) if step > 1 else (LARGE, LARGE)
        )
        found.append(tuple(2 * size for size in spec.image_size))
        small = []
        for image in dict.fromkeys(found):
            try:
                if (
                    min(image) > 0
                    and image != spec.image_size
                    and spec.replace(image_size=image).flops(2) <= MOST_OPERATIONS
                ):
                    small.append(image)
            except PatchParityError:
                continue
        return small

    def _probe(self, spec: PatchEmbedSpec, images: NDArray[Any], gate: Gate) -> Probe:
        no_gradient = np.zeros((0, 1, 1), images.dtype)
        return Probe(
            "trial",
            spec,
            images,
            self.weights,
            no_gradient,
            gate,
            to_sequence=self.live.to_sequence,
        )

    def _judged(
        self,
        spec: PatchEmbedSpec,
        images: NDArray[Any],
        gate: Gate,
        output: NDArray[Any] | None = None,
    ) -> Outcome:
        with np.errstate(over="ignore", invalid="ignore"):
            observed = self.live.call(np.array(images)) if output is None else output
        found = judge(self._probe(spec, images, gate), "forward", observed, self.model)
        return {
            "verdict": found.verdict,
            "bound_ratio": found.bound_ratio,
            "message": found.message,
        }

    def _random(self, spec: PatchEmbedSpec, batch: int) -> Outcome:
        return self._judged(spec, self._draw(spec, batch), "probabilistic")

    def _data(self, draw: Callable[[tuple[int, ...]], NDArray[Any]]) -> Outcome:
        images = draw(self.live.spec.images_shape(2)).astype(self.live.dtype)
        return self._judged(self.live.spec, images, "deterministic")

    def _values(self) -> list[tuple[str, Callable[[tuple[int, ...]], NDArray[Any]]]]:
        draw = self.generator
        return [
            ("images-of-zeros", lambda shape: np.zeros(shape)),
            ("flat-images", lambda shape: np.full(shape, 0.5)),
            ("images-0-to-1", lambda shape: draw.uniform(0, 1, shape)),
            ("images-0-to-255", lambda shape: draw.integers(0, 256, shape).astype(float)),
            (
                "a-few-of-16",
                lambda shape: np.where(
                    draw.uniform(size=shape) < 0.02, 16.0, draw.standard_normal(shape)
                ),
            ),
            ("large-values", lambda shape: 64.0 * draw.standard_normal(shape)),
        ]

    def _not_dividing(self) -> Outcome | None:
        """Images a row and two columns too large: the rest is left out, or padded at the end, or
        the images are refused."""
        spec = self.live.spec
        image = tuple(
            size + more
            for size, more in zip(
                spec.image_size, (*(0,) * (spec.spatial_axes - 2), 1, 2), strict=True
            )
        )
        images = self.generator.standard_normal((2, spec.in_channels, *image)).astype(
            self.live.dtype
        )
        output = self.live.call(np.array(images))
        failed: Outcome | None = None
        for remainder in ("same",) if spec.remainder == "same" else ("floor", "pad-end"):
            try:
                other = spec.replace(
                    image_size=image,
                    remainder=remainder,
                    padding=0 if remainder == "same" else spec.padding,
                )
            except PatchParityError:
                continue
            found = self._judged(other, images, "probabilistic", output)
            if found["verdict"] == "pass":
                return {
                    **found,
                    "message": ""
                    if remainder in ("floor", spec.remainder)
                    else f"images that patches do not divide are padded ({remainder})",
                }
            failed = failed or found
        told = (
            f"images of {'×'.join(map(str, image))}, which patches do not divide: neither cut "
            "nor padded at their end, nor refused"
        )
        return {**failed, "message": f"{told}; {failed['message']}"} if failed else None

    def _poisoned(self, value: float, image: int, channel: int) -> NDArray[Any]:
        images = self._draw(self.live.spec, 2)
        images[(image, channel, *(size // 2 for size in self.live.spec.image_size))] = value
        return images

    def _seen(self) -> bool:
        """Whether a window sees the pixel in the middle, which patches with gaps between them may
        not."""
        spec = self.live.spec
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
        with np.errstate(invalid="ignore", over="ignore"):
            output = self.live.call(self._poisoned(np.inf, 1, 0)).astype(np.float64)
        if np.isfinite(output[1]).all():
            return {
                "verdict": "fail",
                "message": "an infinity in one pixel of image 1 is swallowed: every value of it is "
                "finite",
            }
        return {"verdict": "pass"}

    def _nan_of_each_channel(self) -> Outcome | None:
        if not self._seen():
            return None
        for image in (0, 1):
            for channel in range(min(self.live.spec.in_channels, 8)):
                with np.errstate(invalid="ignore"):
                    found = np.isnan(
                        self.live.call(self._poisoned(np.nan, image, channel)).astype(np.float64)
                    )
                if not found[image].any():
                    return {
                        "verdict": "fail",
                        "message": f"a NaN in channel {channel} of image {image} is swallowed",
                    }
                if found[1 - image].any():
                    return {
                        "verdict": "fail",
                        "message": f"a NaN in image {image} makes values of image {1 - image} NaN",
                    }
        return {"verdict": "pass"}

    def _run(self, placed: Any) -> Any:
        with self.live.call.held():
            return self.live.call.run(placed)

    def _untouched(self) -> Outcome:
        images = self._draw(self.live.spec, 2)
        placed, again = (self.live.call.place(np.array(images)) for _ in range(2))
        self._run(placed)
        if bytes_of(placed) != bytes_of(again):
            return {"verdict": "fail", "message": "it changes the images that it is given"}
        return {"verdict": "pass"}

    def _kept(self) -> Outcome:
        """The first result after a second call, of images of the other sign: a buffer that is
        written again, a result that is found by a sum."""
        images = self._draw(self.live.spec, 2)
        first = self._run(self.live.call.place(np.array(images)))
        before = np.array(self.live.call.fetch(first))
        second = np.array(self.live.call.fetch(self._run(self.live.call.place(-images))))
        if np.array(self.live.call.fetch(first)).tobytes() != before.tobytes():
            return {
                "verdict": "fail",
                "message": "its first result changes when it is called again: it returns a buffer "
                "of its own",
            }
        return self._judged(self.live.spec, -images, "probabilistic", second)

    def _repeated(self) -> Outcome | None:
        images = self._draw(self.live.spec, 2)
        if CALLS * self.live.spec.flops(2) > MOST_OPERATIONS * 5:
            return None
        first = self.live.call(np.array(images))
        for number in range(2, CALLS + 1):
            if self.live.call(np.array(images)).tobytes() != first.tobytes():
                return {
                    "verdict": "fail",
                    "message": f"call {number} on the same images differs from the first",
                }
        return {"verdict": "pass"}

    def _recorded(self) -> Outcome | None:
        """The same call where gradients are recorded, as in training but for dropout."""
        images = self._draw(self.live.spec, 2)
        assert self.live.call.record is not None
        with self.live.call.held():
            output = self.live.call.fetch(
                self.live.call.record(self.live.call.place(np.array(images)))
            )
        return self._judged(self.live.spec, images, "probabilistic", np.array(output))

    def _memory(self) -> Outcome | None:
        """The same images, laid out in memory otherwise."""
        spec = self.live.spec
        if spec.spatial_axes != 2:
            return None
        images = self._draw(spec, 3)
        placed = self.live.call.place(np.array(images))
        wrong, worst = [], 0.0
        for name, form in forms_in_memory(placed).items():
            try:
                output = self.live.call.fetch(self._run(form))
            except PatchParityError:
                continue  # a view that it refuses
            found = self._judged(spec, images, "probabilistic", np.array(output))
            worst = max(worst, found["bound_ratio"] or 0.0)
            if found["verdict"] == "fail":
                wrong.append(name)
        if wrong:
            return {
                "verdict": "fail",
                "message": f"images that lie in memory otherwise ({', '.join(wrong)}) give "
                "something else",
            }
        return {"verdict": "pass", "bound_ratio": worst}
