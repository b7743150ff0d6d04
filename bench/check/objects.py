"""Anyone's implementation: a live object with the weights it has, against the reference; and which
mistake it makes."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...porting.objects.call import LiveEmbedding
from ...porting.objects.read import read_live
from ...reference.diagnosis import Diagnosis, diagnose
from ...reference.error import ArithmeticModel
from ...reference.errors import PatchParityError
from ...reference.probe import Probe
from ...reference.probes import SCALES, one_hot_images, random_normal
from ...reference.verdict import judge
from ..machine.environment import describe_environment
from .results import CheckReport, CheckResult
from .trials import fingerprint_scale, largest_scale, trials

BATCH = 2
BATCHES = (1, 3)
"""Other batches that are tried: an axis that is squeezed away at one image, and a batch that is
written into the code."""
LARGEST_FOR_PAIRS = 10**9
"""Operations of a problem on which pairs of mistakes are still made where nobody asked for a
diagnosis: twice ViT-B/16's, three seconds; at SAM's size it would be four minutes."""


def live_probes(live: LiveEmbedding, seed: int) -> list[Probe]:
    """Problems with the object's own weights: random images at three scales, a fingerprint, and
    images of single ones.

    Images are zero-mean and independent, so that products are too, whatever the weights: the
    probabilistic bound and the effective bits hold. One-hot images, on which sums have one term and
    a bias, are judged by the deterministic bound.
    """
    spec, weights = live.spec, live.weights
    base = random_normal(spec, BATCH, live.dtype, seed)
    random = dataclasses.replace(
        base, weights=_copied(weights), gradients=(), to_sequence=live.to_sequence
    )

    largest = largest_scale(live)

    def scaled(scale: float, name: str = "", fingerprint: bool = False) -> Probe:
        drawn = random_normal(spec, BATCH, live.dtype, seed + 1).images
        images = (drawn.astype(np.float64) * min(scale, largest)).astype(live.dtype)
        return dataclasses.replace(
            random,
            name=name or f"random-{min(scale, largest):g}",
            images=images,
            fingerprint=fingerprint,
        )

    def batch_of(batch: int) -> Probe:
        drawn = random_normal(spec, batch, live.dtype, seed + 3)
        return dataclasses.replace(
            random, name=f"batch-{batch}", images=drawn.images, grad_tokens=drawn.grad_tokens
        )

    probes = [random, *map(scaled, SCALES), *map(batch_of, BATCHES)]
    if (scale := fingerprint_scale(live)) is not None:
        probes.append(scaled(scale, "random-fingerprint", fingerprint=True))
    one_hot = one_hot_images(spec, BATCH, live.dtype, seed + 2).images
    return [
        *probes,
        dataclasses.replace(random, name="one-hot-images", images=one_hot, gate="deterministic"),
    ]


def _copied(weights: Any) -> Any:
    return weights.map(lambda array: np.array(array))


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
    if seed < 0:
        raise PatchParityError(f"seed={seed}: expected an integer of at least 0")
    for name, array in vars(live.weights).items():
        if isinstance(array, np.ndarray) and (
            wrong := int((~np.isfinite(array.astype(np.float64))).sum())
        ):
            raise PatchParityError(
                f"{live.name}: {name} of shape {array.shape} holds {wrong} NaN or infinite values: "
                "no output of it can be judged"
            )
    # Nobody declared how often a 16-bit result is rounded: twice, the bias after the product, is
    # common and not wrong.
    model = ArithmeticModel.of(live.dtype, live.flush_to_zero, output_roundings=2)
    place = dict(
        device="cpu", dtype=live.dtype, precision="default", case=_case(live), direction="forward"
    )
    results: list[CheckResult] = []
    diagnosis: Diagnosis | None = None

    def add(probe: str, **fields: Any) -> None:
        results.append(
            CheckResult(
                live.name,
                live.framework,
                None,
                None,
                **place,  # type: ignore[arg-type]
                probe=probe,
                declared=model.name,
                **fields,
            )
        )

    right = False
    for probe in live_probes(live, seed):
        _ = probe.expectations
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                outputs = [live.call(np.array(probe.images)) for _ in range(2)]
        except PatchParityError as error:
            if not probe.name.startswith("batch-"):
                raise
            told = str(error).splitlines()[0][:200]  # a batch that it refuses is no wrong number
            add(probe.name, verdict="pass", message=f"refused: {told}")
            continue
        judged = judge(probe, "forward", outputs[0], model)
        if judged.verdict == "fail" and diagnosis is None:
            small = live.spec.flops(BATCH) <= LARGEST_FOR_PAIRS
            diagnosis = (
                diagnose(probe.images, live.weights, outputs[0], live.spec, pairs=small)
                if outputs[0].size
                else None
            )
            if diagnosis is not None and diagnosis.mistakes:
                told = (
                    f"{judged.message}; diagnosis: {diagnosis.explanation} (mend: {diagnosis.mend})"
                )
                judged = dataclasses.replace(judged, message=told)
        add(probe.name, **dataclasses.asdict(judged))
        if probe.name == "random":
            same = _bitwise(*outputs)
            add(
                "repeatability",
                verdict="pass" if same else "fail",
                message="" if same else "two calls on the same images differ",
            )
            add("nan-containment", **_containment(live, probe, outputs[0]))
            right = judged.verdict == "pass"
    if right:  # of an object that is wrong on random images more trials say nothing
        for name, outcome in trials(live, _copied(live.weights), model, seed):
            add(name, **outcome)
    named = (
        [f"diagnosis: {diagnosis.explanation}; mend: {diagnosis.mend}"]
        if diagnosis is not None and diagnosis.mistakes
        else []
    )
    return CheckReport(results, describe_environment([]), [*live.notes, *_not_shown(live), *named])


def _not_shown(live: LiveEmbedding) -> list[str]:
    """What the object's own weights cannot show, in sentences."""
    told = []
    for name in ("bias", "class_token", "register_tokens", "positions"):
        array = getattr(live.weights, name)
        if array is not None and not array.any():
            told.append(
                f"its {name.replace('_', ' ')} is all zero: whether it is added cannot be seen"
            )
    if live.weights.positions is not None:
        size = "×".join(map(str, live.spec.image_size))
        told.append(f"its positions are for images of {size}: what it does at others was not tried")
    kernel = live.weights.kernel.astype(np.float64)
    if kernel.size > 1 and np.ptp(kernel) == 0:
        told.append("its kernel is constant: in which order it is read cannot be seen")
    elif (
        kernel.ndim == 4
        and kernel.shape[1] == kernel.shape[2] > 1
        and np.array_equal(kernel, kernel.transpose(0, 2, 1, 3))
    ):
        told.append(
            "its kernel is the same with rows and columns exchanged: which is which cannot be seen"
        )
    return told


MOST_IMAGES = 96
"""Images that a diagnosis of a live object takes at most: enough for K = 768, 770 unknowns and a
tenth more, at twelve patches an image."""


def diagnose_object(implementation: Any, *, seed: int = 0, **options: Any) -> Diagnosis:
    """Say which mistake a live object makes, from its output on random images; see `diagnose`.

    An output that is right there is not called correct before the object passes `check_object` too:
    a clamp, a wrong type or a batch that is written into the code shows on other images alone.

    Args:
        implementation: what `check` takes, or what `read_live` returned.
        seed: of the images; as many as show whether an output is an affine map of the patches, more
            than K + 1 patches, if 64 do.
        options: those of `read_live`.

    Raises:
        PatchParityError: whatever `read_live` refuses; an object that fails on images that it
            should take.
    """
    live = (
        implementation
        if isinstance(implementation, LiveEmbedding)
        else read_live(implementation, **options)
    )
    enough = math.ceil(1.1 * (live.spec.patch_values + 2) / live.spec.num_patches)
    images = random_normal(live.spec, min(max(BATCH, enough), MOST_IMAGES), live.dtype, seed).images
    try:
        first, second = (live.call(np.array(images)) for _ in range(2))
    except PatchParityError:  # so many images at a time are refused
        images = images[:BATCH]
        first, second = (live.call(np.array(images)) for _ in range(2))
    found = diagnose(images, live.weights, first, live.spec)
    evidence = {**found.evidence, "notes": list(live.notes), "repeatable": _bitwise(first, second)}
    if found.correct:
        failed = [result for result in check_object(live, seed).results if result.verdict == "fail"]
        if failed:
            told = (
                f"the values on random images are right, but check fails on {failed[0].probe}: "
                f"{failed[0].message}"
            )
            return Diagnosis(False, "unknown", explanation=told, evidence=evidence)
    if not evidence["repeatable"] and not found.correct:
        told = f"two calls on the same images differ (is dropout or noise on?); {found.explanation}"
        return dataclasses.replace(found, explanation=told, evidence=evidence)
    return dataclasses.replace(found, evidence=evidence)


def _case(live: LiveEmbedding) -> str:
    spec = live.spec
    sizes = "x".join(map(str, spec.image_size)), "x".join(map(str, spec.patch_size))
    return (
        f"image {sizes[0]}, patch {sizes[1]}, {spec.in_channels} channels, width {spec.embed_dim}"
    )


def _bitwise(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and first.tobytes() == second.tobytes()
    )


def _containment(live: LiveEmbedding, probe: Probe, clean: NDArray[Any]) -> dict[str, Any]:
    """Poison one pixel with NaN: the tokens that see it must be NaN, all others stay as they were
    to the last bit."""
    spec, expected_shape = live.spec, probe.expectations["forward"].value.shape
    if clean.shape != expected_shape:
        return {
            "verdict": "fail",
            "message": f"output of shape {clean.shape}, expected {expected_shape}",
        }
    images = np.array(probe.images)
    inside = tuple(size // 2 for size in spec.image_size)
    images[(1, 0, *inside)] = np.nan
    seen = np.ones(spec.grid, bool)
    for axis, at in enumerate(inside):
        starts = np.arange(spec.grid[axis]) * spec.stride[axis] - spec.effective_padding[axis][0]
        hit = (starts <= at) & (at < starts + spec.patch_size[axis])
        seen &= hit.reshape([-1 if other == axis else 1 for other in range(len(inside))])
    touched = np.zeros(clean.shape[:2], bool)
    first = live.weights.num_tokens_ahead if clean.shape[1] > spec.num_patches else 0
    touched[1, first:][: spec.num_patches] = seen.ravel()
    try:
        with np.errstate(invalid="ignore"):
            output = live.call(images)
    except PatchParityError as error:
        return {"verdict": "pass", "message": f"refused: {str(error).splitlines()[0][:200]}"}
    lost = np.isnan(output.astype(np.float64))
    poisoned, changed = np.asarray(lost.all(axis=-1)), np.asarray(lost.any(axis=-1) & ~touched)
    if (poisoned[touched]).all() and not changed.any():
        same = _bitwise(output[~touched], clean[~touched])
        return {
            "verdict": "pass",
            "message": "" if same else "the other tokens differ in their last bits",
        }
    if poisoned[touched].all() and not changed[0].any():
        return {
            "verdict": "pass",
            "message": "a NaN in one pixel reaches every token of its image (as through a Fourier "
            "transform)",
        }
    if changed.any():
        return {
            "verdict": "fail",
            "message": "NaN in one pixel of image 1 makes tokens "
            f"{np.argwhere(changed)[:4].tolist()} NaN",
        }
    return {
        "verdict": "fail",
        "message": "NaN in one pixel of image 1 is swallowed: token "
        f"{np.argwhere(touched)[0].tolist()} is not NaN",
    }


def require_parity(report: CheckReport, name: str) -> None:
    """Raise AssertionError that names the first failure, for test suites.

    Raises:
        AssertionError: a report with a failure or an error.
    """
    __tracebackhide__ = True
    wrong = [result for result in report.results if result.verdict in ("fail", "error")]
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise AssertionError(
            f"{name} is no patch embedding with these weights: {first.probe}: {first.message}{more}"
        )
