"""Anyone's implementation: a live object with the weights it has, against the reference."""

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...porting.objects.live import LiveEmbedding
from ...reference.error import ArithmeticModel
from ...reference.errors import PatchParityError
from ...reference.probe import Probe
from ...reference.probes import SCALES, images_of_single_ones, random_images
from ...reference.verdict import Verdict, judge
from ..machine.environment import describe_environment
from .containment import MIXED, alike, bitwise, containment
from .problems import Problems
from .results import CheckReport, CheckResult
from .trials.modes import OTHER_IN_TRAINING
from .trials.run import trials

if TYPE_CHECKING:
    from ...reference.diagnosis.diagnose import Diagnosis

BATCH = 2
BATCHES = (1, 3)
"""Other batches that are tried: an axis that is squeezed away at one image, and a batch that is
written into the code."""
PACKAGES = {
    "torch": ("torch",),
    "keras": ("keras", "tensorflow", "torch", "jax"),
    "flax": ("flax", "jax", "jaxlib"),
    "numpy": (),
    "jax": ("jax", "jaxlib"),
    "tensorflow": ("tensorflow",),
}
"""Whose versions an object's verdicts hold for, beside NumPy's."""

LARGEST_FOR_PAIRS = 10**9
"""Operations of a problem on which pairs of mistakes are still made where nobody asked for a
diagnosis: twice ViT-B/16's, three seconds; at SAM's size it would be four minutes."""


def own_probes(problems: Problems, seed: int) -> list[Probe]:
    """Problems of the object's own size: random images at three scales, other batches, a
    fingerprint, and images of single ones.

    Images are zero-mean and independent, so that products are too, whatever the weights: the
    probabilistic bound and the effective bits hold. One-hot images, on which sums have one term and
    a bias, are judged by the deterministic bound.
    """
    live, spec = problems.live, problems.live.spec
    largest = problems.largest_scale
    drawn = random_images(spec, BATCH, live.dtype, seed + 1).astype(np.float64)

    def scaled(scale: float, name: str = "", fingerprint: bool = False) -> Probe:
        images = (drawn * min(scale, largest)).astype(live.dtype)
        named = name or f"random-{min(scale, largest):g}"
        return problems.probe(named, images, fingerprint=fingerprint)

    def random(name: str, batch: int, seed: int) -> Probe:
        return problems.probe(name, random_images(spec, batch, live.dtype, seed))

    batches = () if live.call.batch else BATCHES
    probes = [random("random", BATCH, seed), *map(scaled, SCALES)]
    probes += [random(f"batch-{batch}", batch, seed + 3) for batch in batches]
    if (scale := problems.fingerprint_scale) is not None:
        probes.append(scaled(scale, "random-fingerprint", fingerprint=True))
    one_hot = images_of_single_ones(spec, BATCH, live.dtype, np.random.default_rng(seed + 2))
    return [*probes, problems.probe("one-hot-images", one_hot, "deterministic")]


def check_object(live: LiveEmbedding, seed: int = 0) -> CheckReport:
    """Check a live object against the reference, with the weights it has; the first failure is
    diagnosed.

    Args:
        live: what `read_live` returned.
        seed: of the images.

    Returns:
        One result for each probe, for bitwise repetition, and for the containment of NaN: one
        poisoned patch touches one token.

    Raises:
        PatchParityError: an object that fails on images it should take.
    """
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise PatchParityError(f"seed={seed}: expected an integer of at least 0")
    for name, array in vars(live.weights).items():
        if isinstance(array, np.ndarray) and (
            wrong := int((~np.isfinite(array.astype(np.float64))).sum())
        ):
            raise PatchParityError(
                f"{live.name}: {name} of shape {array.shape} holds {wrong} NaN or infinite values: "
                "no output of it can be judged"
            )
    return _ObjectCheck(live, seed).report()


class _ObjectCheck:
    """The check of one object: probes, then, of one that is right on random images, trials."""

    def __init__(self, live: LiveEmbedding, seed: int) -> None:
        self.live, self.seed = live, seed
        self.problems = Problems(live)
        # Nobody declared how often a 16-bit result is rounded: twice, the bias after the product,
        # is common and not wrong.
        self.model = ArithmeticModel.of(live.dtype, live.flush_to_zero, output_roundings=2)
        self.results: list[CheckResult] = []
        self.diagnosis: Diagnosis | None = None
        self.mixes = False

    def report(self) -> CheckReport:
        """Everything that was found."""
        right = False
        for probe in own_probes(self.problems, self.seed):
            judged = self._probe(probe)
            right = right or (probe.name == "random" and judged == "pass")
        self._while_read()
        if right:  # of an object that is wrong on random images more trials say nothing
            for name, outcome in trials(self.problems, self.model, self.seed):
                self._add(name, **outcome)
        in_training = [row.message for row in self.results if row.message == OTHER_IN_TRAINING]
        if any("training" in note for note in self.live.notes):  # which says of what
            in_training = []
        named = []
        if self.diagnosis is not None and self.diagnosis.mistakes:
            named = [f"diagnosis: {self.diagnosis.explanation}; mend: {self.diagnosis.mend}"]
        notes = [*self.live.notes, *_not_shown(self.live), *in_training, *named]
        describe = functools.partial(describe_environment, [], PACKAGES[self.live.framework])
        return CheckReport(self.results, describe, notes, of_object=True)

    def _while_read(self) -> None:
        """Judge what the object gave when it was read, before it was called in earnest."""
        if self.live.first_call is None:
            return
        images, output = self.live.first_call
        if output.dtype != images.dtype:  # what it computes in was found out by these very calls
            return
        calls = [self.live.first_call, *self.live.later_calls]
        for number, (images, output) in enumerate(calls):
            name = "first-call" if number == 0 else f"call-{number + 1}"
            probe = self.problems.probe(name, images.astype(self.live.dtype))
            verdict = judge(probe, "forward", output.astype(self.live.dtype), self.model)
            fields = {"verdict": verdict.verdict, "bound_ratio": verdict.bound_ratio}
            self._add(probe.name, **fields, message=verdict.message)

    def _probe(self, probe: Probe) -> str:
        """Judge the object on one probe; the verdict."""
        if self.mixes and probe.gate == "deterministic":
            why = "not judged: errors of an object that mixes all pixels are no sum's of few terms"
            self._add(probe.name, verdict="skip", message=why)
            return "skip"
        _ = probe.expectations
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                first, second = (self.live.call(np.array(probe.images)) for _ in range(2))
        except PatchParityError as error:
            if not probe.name.startswith("batch-"):
                raise
            refusal = str(error).splitlines()[0][:200]  # of a batch, which is no wrong number
            self._add(probe.name, verdict="pass", message=f"refused: {refusal}")
            return "pass"
        judged = judge(probe, "forward", first, self.model)
        if judged.verdict == "fail" and not alike(first, second):
            sentence = "two calls on the same images differ: look for what a call changes or draws"
            judged = dataclasses.replace(judged, message=f"{judged.message}; {sentence}")
        elif judged.verdict == "fail" and self.diagnosis is None and first.size:
            judged = self._diagnosed(probe, first, judged)
        self._add(probe.name, **dataclasses.asdict(judged))
        if probe.name == "random":
            same = bitwise(first, second)
            message = "" if same else "two calls on the same images differ"
            self._add("repeatability", verdict="pass" if same else "fail", message=message)
            contained = containment(self.live, probe, first)
            self.mixes = contained["message"].startswith(MIXED)
            self._add("nan-containment", **contained)
        return judged.verdict

    def _diagnosed(self, probe: Probe, output: NDArray[Any], judged: Verdict) -> Verdict:
        from ...reference.diagnosis.diagnose import diagnose  # which a right object never needs

        small = self.live.spec.flops(BATCH) <= LARGEST_FOR_PAIRS
        diagnosis = diagnose(probe.images, probe.weights, output, self.live.spec, pairs=small)
        self.diagnosis = diagnosis
        if not diagnosis.mistakes:
            return judged
        message = f"{judged.message}; diagnosis: {diagnosis.explanation} (mend: {diagnosis.mend})"
        return dataclasses.replace(judged, message=message)

    def _add(self, probe: str, **fields: Any) -> None:
        live = self.live
        self.results.append(
            CheckResult(
                live.name,
                live.framework,
                device="cpu",
                dtype=live.dtype,
                precision="default",
                case=_case(live),
                direction="forward",
                probe=probe,
                declared=self.model.name,
                **fields,
            )
        )


def _not_shown(live: LiveEmbedding) -> list[str]:
    """What the object's own weights cannot show, in sentences."""
    sentences = [
        f"it gives a grid {shape}, not tokens (B, N, D): to flatten it is left to who calls it"
        for shape in live.call.grids
    ]
    sentences += live.call.taken
    spec = live.spec
    if spec.stride != spec.patch_size or any(before for before, _ in spec.padding):
        sentences.append(
            "its kernel, stride and padding are its own and were taken as they are: a ViT's stride "
            "is its patch and its padding 0 (stride, --stride say what they should be)"
        )
    for name in ("bias", "class_token", "register_tokens", "positions"):
        array = getattr(live.weights, name)
        if array is not None and not array.any():
            sentences.append(
                f"its {name.replace('_', ' ')} is all zero: whether it is added cannot be seen"
            )
    if live.weights.positions is not None:
        size = "×".join(map(str, live.spec.image_size))
        sentences.append(
            f"its positions are for images of {size}: at other sizes its patches' products and "
            "prefix tokens alone were held against the reference"
        )
    kernel = live.weights.kernel.astype(np.float64)
    if kernel.size > 1 and np.ptp(kernel) == 0:
        sentences.append("its kernel is constant: in which order it is read cannot be seen")
    elif (
        kernel.ndim == 4
        and kernel.shape[1] == kernel.shape[2] > 1
        and np.array_equal(kernel, kernel.transpose(0, 2, 1, 3))
    ):
        sentences.append(
            "its kernel is the same with rows and columns exchanged: which is which cannot be seen"
        )
    return sentences


def _case(live: LiveEmbedding) -> str:
    spec = live.spec
    sizes = "x".join(map(str, spec.image_size)), "x".join(map(str, spec.patch_size))
    steps = "" if spec.stride == spec.patch_size else f", stride {'x'.join(map(str, spec.stride))}"
    pads = [before for before, _ in spec.padding]
    around = f", padding {'x'.join(map(str, pads))}" if any(pads) else ""
    return (
        f"image {sizes[0]}, patch {sizes[1]}{steps}{around}, {spec.in_channels} channels, width "
        f"{spec.embed_dim}"
    )


def require_parity(report: CheckReport, name: str) -> None:
    """Raise AssertionError that begins with the cause, for test suites, which show so much.

    Raises:
        AssertionError: a report with a failure or an error.
    """
    __tracebackhide__ = True
    if not report.ok:
        wrong = [row for row in report.results if row.verdict in ("fail", "error")]
        cause = f": {report.diagnosis}" if report.diagnosis else f": {wrong[0].message}"
        raise AssertionError(f"{name} is wrong{cause}\n{report}")
