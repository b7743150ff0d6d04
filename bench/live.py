"""Anyone's implementation: a live object with the weights it has, against the reference; and which mistake it makes."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..backends.porting.live import LiveEmbedding
from ..reference.diagnosis import Diagnosis, diagnose
from ..reference.error import ArithmeticModel
from ..reference.probes import SCALES, Probe, one_hot_images, random_normal
from ..reference.verdict import judge
from .environment import describe_environment
from .verdicts import CheckReport, CheckResult

BATCH = 2
DOMINANCE = 64
"""How many times larger than bias and positions the products are on the fingerprint probe: what is added to them then costs at most
log₂(1 + 1/64) = 0.02 of the effective bits, and the object's bias need not be taken away."""


def live_probes(live: LiveEmbedding, seed: int) -> list[Probe]:
    """Problems with the object's own weights: random images at three scales, a fingerprint, and images of single ones.

    Images are zero-mean and independent, so that products are too, whatever the weights: the probabilistic bound and the effective bits
    hold. One-hot images, on which sums have one term and a bias, are judged by the deterministic bound.
    """
    spec, weights = live.spec, live.weights
    base = random_normal(spec, BATCH, live.dtype, seed)
    random = dataclasses.replace(base, weights=_copied(weights), gradients=(), to_sequence=live.to_sequence)

    def scaled(name: str, scale: float, fingerprint: bool = False) -> Probe:
        drawn = random_normal(spec, BATCH, live.dtype, seed + 1).images
        images = (drawn.astype(np.float64) * scale).astype(live.dtype)
        return dataclasses.replace(random, name=name, images=images, fingerprint=fingerprint)

    probes = [random, *(scaled(f"random-{scale:g}", scale) for scale in SCALES)]
    added = [getattr(weights, name) for name in ("bias", "class_token", "register_tokens", "positions")]
    largest = max((float(np.abs(array.astype(np.float64)).max(initial=0)) for array in added if array is not None), default=0.0)
    product = float(np.median(np.sqrt((weights.matrix.astype(np.float64) ** 2).sum(axis=1))))
    if live.dtype == "float32" and product:
        power = max(0, math.ceil(math.log2(max(DOMINANCE * largest / product, 1.0))))
        probes.append(scaled("random-fingerprint", 2.0**power, fingerprint=True))
    one_hot = one_hot_images(spec, BATCH, live.dtype, seed + 2).images
    return [*probes, dataclasses.replace(random, name="one-hot-images", images=one_hot, gate="deterministic")]


def _copied(weights: Any) -> Any:
    return weights.map(lambda array: np.array(array))


def check_object(live: LiveEmbedding, seed: int = 0) -> CheckReport:
    """Check a live object against the reference, with the weights it has; the first failure is diagnosed.

    Args:
        live: what `read_live` returned.
        seed: of the images.

    Returns:
        One result for each probe, for bitwise repetition, and for the containment of NaN: one poisoned patch touches one token.

    Raises:
        PatchParityError: an object that fails on images it should take.
    """
    # Nobody declared how often a 16-bit result is rounded: twice, the bias after the product, is common and not wrong.
    model = ArithmeticModel.of(live.dtype, live.flush_to_zero, output_roundings=2)
    place = dict(device="cpu", dtype=live.dtype, precision="default", case=_case(live), direction="forward")
    results: list[CheckResult] = []
    diagnosis: Diagnosis | None = None

    def add(probe: str, **fields: Any) -> None:
        results.append(CheckResult(live.name, live.framework, None, None, **place, probe=probe, declared=model.name, **fields))  # type: ignore[arg-type]

    for probe in live_probes(live, seed):
        _ = probe.expectations
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = [live.call(np.array(probe.images)) for _ in range(2)]
        judged = judge(probe, "forward", outputs[0], model)
        if judged.verdict == "fail" and diagnosis is None:
            diagnosis = diagnose(probe.images, live.weights, outputs[0], live.spec) if outputs[0].size else None
            if diagnosis is not None and diagnosis.mistakes:
                told = f"{judged.message}; diagnosis: {diagnosis.explanation} (mend: {diagnosis.mend})"
                judged = dataclasses.replace(judged, message=told)
        add(probe.name, **dataclasses.asdict(judged))
        if probe.name == "random":
            same = _bitwise(*outputs)
            add(
                "repeatability", verdict="pass" if same else "fail", message="" if same else "two calls on the same images differ"
            )
            add("nan-containment", **_containment(live, probe, outputs[0]))
    return CheckReport(results, describe_environment([]), list(live.notes))


def diagnose_object(live: LiveEmbedding, seed: int = 0) -> Diagnosis:
    """Say which mistake a live object makes, from its output on random images; see `diagnose`."""
    images = random_normal(live.spec, BATCH, live.dtype, seed).images
    found = diagnose(images, live.weights, live.call(np.array(images)), live.spec)
    return dataclasses.replace(found, evidence={**found.evidence, "notes": list(live.notes)})


def _case(live: LiveEmbedding) -> str:
    spec = live.spec
    sizes = "x".join(map(str, spec.image_size)), "x".join(map(str, spec.patch_size))
    return f"image {sizes[0]}, patch {sizes[1]}, {spec.in_channels} channels, width {spec.embed_dim}"


def _bitwise(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()


def _containment(live: LiveEmbedding, probe: Probe, clean: NDArray[Any]) -> dict[str, Any]:
    """Poison one pixel with NaN: the tokens that see it must be NaN, all others stay as they were to the last bit."""
    spec, expected_shape = live.spec, probe.expectations["forward"].value.shape
    if clean.shape != expected_shape:
        return {"verdict": "fail", "message": f"output of shape {clean.shape}, expected {expected_shape}"}
    images = np.array(probe.images)
    inside = tuple(size // 2 for size in spec.image_size)
    images[(1, 0, *inside)] = np.nan
    seen = np.ones(spec.grid, bool)
    for axis, at in enumerate(inside):
        starts = np.arange(spec.grid[axis]) * spec.stride[axis] - spec.effective_padding[axis][0]
        hit = (starts <= at) & (at < starts + spec.patch_size[axis])
        seen &= hit.reshape([-1 if other == axis else 1 for other in range(len(inside))])
    rows = clean.shape[1] - spec.num_patches
    touched = np.zeros(clean.shape[:2], bool)
    touched[1, rows if live.weights.layout.prefix_side == "first" else 0 :][: spec.num_patches] = seen.ravel()
    with np.errstate(invalid="ignore"):
        output = live.call(images)
    poisoned = np.isnan(output.astype(np.float64)).all(axis=-1)
    changed = np.isnan(output.astype(np.float64)).any(axis=-1) & ~touched
    if (poisoned[touched]).all() and not changed.any():
        same = _bitwise(output[~touched], clean[~touched])
        return {"verdict": "pass", "message": "" if same else "the other tokens differ in their last bits"}
    return {"verdict": "fail", "message": f"NaN in one pixel of image 1 makes tokens {np.argwhere(changed)[:4].tolist()} NaN"}


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
        raise AssertionError(f"{name} is no patch embedding with these weights: {first.probe}: {first.message}{more}")
