"""The object under trial: its images, its calls, and what they are judged by."""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....porting.objects.memory_forms import bits_of
from ....reference.error import ArithmeticModel, Gate
from ....reference.errors import PatchParityError
from ....reference.probe import Probe
from ....reference.spec import PatchEmbedSpec
from ....reference.verdict import judge
from ..problems import Problems

Outcome = dict[str, Any]
Trial = tuple[str, Callable[[], Outcome | None]]

SEVERAL = 5
"""Images of a few patches that are tried at a time."""

POOL = 262147
"""Random values that images are cut out of, at a random place each. A prime, above 2¹⁸, so that
images which need more of them are no repetition of one another."""

CHEAP_OPERATIONS = 2 * 10**8
"""Operations of a trial for which that many are taken; two of few patches, or one, where they are
more."""

MOST_OPERATIONS = 2 * 10**9
"""Operations of a trial on a larger image than the object's own: above it, seconds on one core."""

MOST_DIAGNOSED = 4
"""Images of a wrong output that an explanation is looked for in."""

UNEXPLAINED = ("not-dividing", "result-kept", "memory-layouts")
"""Trials whose failures are no mistake in arithmetic: a rest, a memory."""

OWN_BUFFER = "an earlier result changes when it is called again: it returns a buffer of its own"


def not_tried(why: str) -> Outcome:
    """The outcome of a trial that was not made."""
    return {"verdict": "skip", "message": f"not tried: {why}"}


class Tried:
    """An object, and what its trials share.

    Args:
        problems: of the object.
        model: its arithmetic.
        generator: of the images.
    """

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

    @functools.cached_property
    def small(self) -> PatchEmbedSpec:
        """Images of 2×2 patches where the object takes them, for trials in which their size says
        nothing; its own otherwise."""
        spec = self.live.spec
        if self.weights.positions is not None:
            return spec
        try:
            other = spec.replace(image_size=(*spec.image_size[:-2], *sides(spec, (2, 2))))
            self.live.call(self.draw(other, self.batch))
        except PatchParityError:
            return spec
        return other if other.flops(1) < spec.flops(1) else spec

    def draw(self, spec: PatchEmbedSpec, batch: int) -> NDArray[Any]:
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

    def own(self) -> Probe:
        """Random images of the object's own size, drawn once for the trials in which something
        else is tried than the images; the reference answers once."""
        if self._drawn is None:
            several = SEVERAL if self.live.spec.flops(SEVERAL) <= CHEAP_OPERATIONS else 2
            images = self.draw(self.live.spec, self.live.call.batch or several)
            self._drawn = self.probe(self.live.spec, images, "probabilistic", False)
        return self._drawn

    def probe(
        self, spec: PatchEmbedSpec, images: NDArray[Any], gate: Gate, fingerprint: bool
    ) -> Probe:
        """Images as a problem, with what the reference gives of them."""
        return self.problems.probe("trial", images, gate, spec=spec, fingerprint=fingerprint)

    def with_cause(self, name: str, outcome: Outcome) -> Outcome:
        """The outcome of a trial, of the first values that are wrong with what explains them."""
        failure, self.failure = self.failure, None
        wrong = outcome["verdict"] == "fail" and outcome.get("bound_ratio") is not None
        if failure is None or not wrong or self.explained or name.startswith(UNEXPLAINED):
            return outcome
        from ....reference.diagnosis.diagnose import diagnose  # which a right object never needs

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

    def judged(
        self,
        spec: PatchEmbedSpec,
        images: NDArray[Any],
        gate: Gate,
        output: NDArray[Any] | None = None,
        fingerprint: bool = False,
    ) -> Outcome:
        """Judge what a call gives of images, or an output that it gave."""
        return self.judged_on(self.probe(spec, images, gate, fingerprint), images, output)

    def judged_on(
        self, probe: Probe, images: NDArray[Any], output: NDArray[Any] | None = None
    ) -> Outcome:
        """Judge an output, or that of a call, which must leave its images as they are."""
        changed = False
        if output is None:
            with np.errstate(over="ignore", invalid="ignore"):
                output, changed = self.called(images)
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

    def called(self, images: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        """The output of a call, and whether the images were others afterwards."""
        call = self.live.call
        if call.batch or self.live.framework not in ("torch", "numpy"):
            return call(np.array(images)), False
        placed, before = call.place(np.array(images)), call.place(np.array(images))
        with call.held():
            output = np.array(call.fetch(call.run(placed)))
        return output, not np.array_equal(bits_of(placed), bits_of(before))

    def run(self, placed: Any) -> Any:
        """Call the object on its framework's own array, with the settings that it was given
        under."""
        with self.live.call.held():
            return self.live.call.run(placed)


def sides(spec: PatchEmbedSpec, grid: tuple[int, int]) -> tuple[int, ...]:
    """Rows and columns of the smallest images that give so many rows and columns of patches."""
    extents = list(zip(spec.patch_size, spec.stride, spec.effective_padding, strict=True))[-2:]
    sides = zip(grid, extents, strict=True)
    return tuple((count - 1) * step + patch - sum(pads) for count, (patch, step, pads) in sides)
