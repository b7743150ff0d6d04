"""`check`: probes over implementations, each output judged; the results as data and as `check.json`."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..backends.base import (
    DTYPES,
    Backend,
    Implementation,
    LoadedEmbedding,
    Precision,
    check_place,
    check_precision,
    list_backends,
    list_broken_backends,
    list_implementations,
    require_installed,
)
from ..backends.porting.arrays import read_array
from ..backends.porting.live import read_live
from ..reference.controls import CONTROL_DTYPES, CONTROL_SPECS, negative_controls
from ..reference.errors import PatchParityError, require_choice
from ..reference.probes import DIRECTIONS, Direction, Probe, photograph, standard_probes
from ..reference.spec import PatchEmbedSpec, Remainder
from ..reference.verdict import judge
from . import behavior
from .cases import CHECK_CASES, Case
from .environment import describe_environment
from .known_issues import apply_known_issues, load_known_issues
from .live import check_object
from .verdicts import CheckReport, CheckResult

PHOTOGRAPH_PATCH = 16
PHOTOGRAPH_WIDTH = 768

Progress = Callable[[int, int, str], None]
"""Called with units done, units in all, and what comes next."""


def check(implementation: Any = None, *, seed: int = 0, **options: Any) -> CheckReport:
    """Check anyone's implementation, or with none the suite's own, against the NumPy reference.

    Args:
        implementation: an `nn.Module`, a Keras layer, a Flax module, a plain function, or `module:attribute`; its weights are read out of
            it and stay as they are. None checks the suite's own.
        seed: of the probes.
        options: with an implementation, those of `read_live` (weights, patch_size, kernel_layout, ...), for what cannot be read out of
            it; without one, those of `check_suite` (backends, dtypes, precisions, image, ...).

    Raises:
        PatchParityError: whatever `read_live` or `check_suite` refuses.
        TypeError: options of the other kind.
    """
    if implementation is None:
        return check_suite(seed=seed, **options)
    return check_object(read_live(implementation, **options), seed=seed)


def check_suite(
    *,
    backends: list[str] | None = None,
    implementations: list[str] | None = None,
    dtypes: list[str] | None = None,
    devices: list[str] | None = None,
    image: str | os.PathLike[str] | NDArray[Any] | None = None,
    remainder: Remainder = "error",
    every_case: bool = False,
    precisions: list[Precision] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> CheckReport:
    """Check implementations against the NumPy reference: exact probes, random ones within a bound, and a photograph.

    Args:
        backends: names of backends; None for all, of which those not installed give a `skip`. A named one must be installed.
        implementations: `backend:formulation:mode`, or its beginning; None for all.
        dtypes: float32, float64, bfloat16 and float16 by default, those that an implementation has.
        devices: `cpu`, `cuda`; None for every device that a backend has here.
        image: a picture of shape `(H, W)` or `(H, W, C)`, as an array or a file (PNG, JPEG, ..., or `.npy`); None for one that
            scikit-image ships.
        remainder: what to do with a picture that does not divide into 16×16 patches.
        every_case: run implementations that take seconds to compile on all shapes, and not on one alone.
        precisions: of float32: `ieee`, `tf32`, `bf16`, or `default` for whatever the framework does when nobody asks. None means `ieee` on
            everything and `default` on the first shape (on all of them on a GPU, where it differs).
        seed: of the probes.
        progress: called before each implementation meets a shape.

    Returns:
        One result for each implementation, device, dtype, case, probe and direction.

    Raises:
        PatchParityError: an unknown name, a named backend that is not installed, a picture that cannot be read or does not fit.
    """
    require_installed(backends or [])
    check_place(dtypes or [], devices or [])
    for precision in precisions or []:
        check_precision(precision)
    require_choice("remainder", remainder, get_args(Remainder))
    rows = list_implementations(backends, implementations)
    results = [
        CheckResult(broken.name, broken.name, verdict="error", message=broken.reason)
        for broken in list_broken_backends()
        if not backends
    ]
    picture, no_picture = _picture(image)
    cases = [_ProbedCase(case, dtypes or list(DTYPES), seed) for case in CHECK_CASES]
    if picture is not None:
        cases.append(_ProbedCase(picture_case(*picture, remainder), dtypes or list(DTYPES), seed, picture[0]))

    plan, skipped = _plan(rows, devices, cases, every_case, precisions)
    for device in devices or []:
        if not any(place == device for _, _, place, *_ in plan):
            raise PatchParityError(f"device {device!r} was asked for, but no backend that is installed and selected has it here")
    results += skipped
    for done, (backend, implementation, device, case, dtype, precision) in enumerate(plan):
        if progress:
            progress(done, len(plan), f"{implementation.name} {dtype} {case.case.name}")
        results += _check_unit(backend, implementation, device, case, dtype, precision)
    if progress:
        progress(len(plan), len(plan), "behavior")
    if precisions is None and (dtypes is None or "float32" in dtypes):
        results += _behaviors(plan, seed)
    results = apply_known_issues(results, load_known_issues(), list_backends())
    if no_picture:
        checked = {implementation.name: implementation for _, implementation, *_ in plan}
        results += [_row(each, probe="photograph", verdict="skip", message=no_picture) for each in checked.values()]
    return CheckReport(results, describe_environment(list(dict.fromkeys(backend for backend, _ in rows))))


def check_controls(*, dtypes: list[str] | None = None, seed: int = 0, progress: Progress | None = None) -> CheckReport:
    """Check the verdicts themselves: make every known mistake on the probes, at every dtype, scale and K; each must be rejected.

    Args:
        dtypes: float32, float64, bfloat16 and float16 by default.
        seed: of the probes.
        progress: told of every problem that is done.

    Returns:
        One result for each mistake on each problem, with `mistake` and `killed_by`: `pass` where it was rejected, `known` where it may
        survive (`message` says why), `fail` where it survived.

    Raises:
        PatchParityError: an unknown dtype.
    """
    for dtype in dtypes or []:
        require_choice("dtype", dtype, CONTROL_DTYPES)
    kinds = tuple(dtypes or CONTROL_DTYPES)
    problems = [(case, dtype) for case in CONTROL_SPECS for dtype in kinds]
    results = []
    for control in negative_controls(kinds, seed=seed):
        verdict: Literal["pass", "known", "fail"] = "pass" if control.killed_by else "known" if control.exemption else "fail"
        place = dict(device="cpu", dtype=control.dtype, case=f"{control.case} scale={control.scale:g}", direction="forward")
        message = {"known": control.exemption, "fail": f"{control.mistake} went unnoticed", "pass": ""}[verdict]
        row = CheckResult("numpy:mistake", "numpy", "mistake", None, **place, verdict=verdict, message=message)  # type: ignore[arg-type]
        results.append(dataclasses.replace(row, mistake=control.mistake, killed_by=control.killed_by))
        if progress:
            progress(problems.index((control.case, control.dtype)), len(problems), f"{control.case} {control.dtype}")
    return CheckReport(results, describe_environment([]))


class _ProbedCase:
    """A case with its probes, made once for each dtype and shared by all implementations."""

    def __init__(self, case: Case, dtypes: list[str], seed: int, pixels: NDArray[Any] | None = None) -> None:
        self.case, self.dtypes, self.seed, self.pixels = case, dtypes, seed, pixels
        self._cache: dict[str, list[Probe]] = {}

    def probes(self, dtype: str) -> list[Probe]:
        if dtype not in self._cache:
            if self.pixels is None:
                self._cache[dtype] = standard_probes(self.case.spec, self.case.batch, dtype, self.seed)
            else:
                self._cache[dtype] = [photograph(self.case.spec, self.pixels, dtype, self.seed)]
            for probe in self._cache[dtype]:
                _ = probe.expectations  # the truth, before any implementation has touched the data
        return self._cache[dtype]


def _row(implementation: Implementation, **fields: Any) -> CheckResult:
    return CheckResult(implementation.name, implementation.backend, implementation.formulation, implementation.mode, **fields)


NARROW_CASES = ("c3-b3", "overlap-k7s4p3")
"""Shapes on which 16-bit types are checked unless every case is asked for: what they add to float32, roundings, does not depend on it."""

_Unit = tuple[Backend, Implementation, str, _ProbedCase, str, Precision]


def _plan(
    rows: list[tuple[Backend, Implementation]],
    devices: list[str] | None,
    cases: list[_ProbedCase],
    every_case: bool,
    precisions: list[Precision] | None,
) -> tuple[list[_Unit], list[CheckResult]]:
    """Lay out what can run, and give a skip with its reason for what cannot."""
    plan: list[_Unit] = []
    skipped = []
    for backend, implementation in rows:
        reason = backend.missing() or backend.unavailable(implementation)
        if reason:
            skipped.append(_row(implementation, verdict="skip", message=reason))
            continue
        present = backend.devices()
        for device in devices or present:
            if device not in present:
                message = f"{backend.name} has no device {device!r} here, only {', '.join(present)}"
                skipped.append(_row(implementation, device=device, verdict="skip", message=message))
                continue
            own_cases = cases if every_case or not implementation.costly_compile else cases[:1]
            if len(own_cases) < len(cases):
                message = (
                    f"takes seconds to compile for each shape, so only {cases[0].case.name} is checked: --every-case for all"
                )
                skipped.append(_row(implementation, device=device, verdict="skip", message=message))
            for precision in precisions or get_args(Precision):
                wanted = precisions or precision in ("ieee", "default")
                if wanted and (reason := backend.lacks(precision, device)):
                    skipped.append(_row(implementation, device=device, precision=precision, verdict="skip", message=reason))
                elif wanted:
                    units = [(case, dtype) for case in own_cases for dtype in case.dtypes if dtype in implementation.dtypes]
                    plan += [
                        (backend, implementation, device, case, dtype, precision)
                        for case, dtype in units
                        if _belongs(case, dtype, precision, device, cases[0], every_case, precisions)
                    ]
    return plan, skipped


def _belongs(
    case: _ProbedCase,
    dtype: str,
    precision: Precision,
    device: str,
    first: _ProbedCase,
    every_case: bool,
    precisions: list[Precision] | None,
) -> bool:
    """Whether a shape, dtype and precision are part of a check: not all combinations tell something new."""
    narrow = dtype in ("bfloat16", "float16")
    if narrow and not every_case and case.case.name not in NARROW_CASES:
        return False
    if precision == "ieee":
        return True
    # The other precisions are about float32 alone; on the CPU `default` is checked on one shape unless it is asked for.
    return dtype == "float32" and (precisions is not None or device != "cpu" or every_case or case is first)


def _check_unit(
    backend: Backend, implementation: Implementation, device: str, case: _ProbedCase, dtype: str, precision: Precision
) -> list[CheckResult]:
    """Judge one implementation on one shape in one dtype, on all probes; whatever it raises is a result too."""
    model = implementation.arithmetic(dtype, precision, device)
    place: dict[str, Any] = dict(device=device, dtype=dtype, precision=precision, case=case.case.name, declared=model.name)
    results: list[CheckResult] = []
    probe: Probe | None = None
    try:
        with backend.precision(precision):
            loaded: LoadedEmbedding | None = None
            for probe in case.probes(dtype):
                if loaded is None:
                    loaded = backend.load(implementation, probe.weights, case.case.spec, dtype, device)
                else:
                    loaded.assign(probe.weights)
                for direction, outputs in observe(loaded, probe, implementation.differentiable).items():
                    judged = [judge(probe, direction, output, model) for output in outputs]
                    worst = max(judged, key=lambda verdict: (verdict.verdict == "fail", verdict.bound_ratio or 0))
                    results.append(
                        _row(implementation, **place, probe=probe.name, direction=direction, **dataclasses.asdict(worst))
                    )
    except Exception as error:
        name = probe.name if probe else None
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        results.append(
            _row(implementation, **place, probe=name, verdict="error", message=f"{type(error).__name__}: {first_line}")
        )
    return results


def _behaviors(plan: list[_Unit], seed: int) -> list[CheckResult]:
    """Ask every implementation of a plan that needs no costly compilation, and every framework, how it behaves."""
    asked = {
        (implementation.name, device): (backend, implementation, device)
        for backend, implementation, device, *_ in plan
        if not implementation.costly_compile
    }
    results = []
    question = behavior.problem(seed)
    for backend, implementation, device in asked.values():
        place = dict(device=device, dtype="float32", precision="ieee", case="behavior", direction="forward")
        with backend.precision("ieee"):
            try:
                loaded = backend.load(implementation, question.weights, behavior.SPEC, "float32", device)
            except Exception as error:
                message = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
                results.append(_row(implementation, **place, probe="behavior", verdict="error", message=message))
                continue
            asked_of_all = behavior.IMPLEMENTATION_BEHAVIORS
            results += [_row(implementation, **place, **behavior.ask(each, loaded, question)) for each in asked_of_all]
    for backend in dict.fromkeys(backend for backend, *_ in asked.values()):
        about = dict(device="cpu", dtype="float32", case="behavior", direction="forward")
        found = [behavior.ask(each, backend) for each in behavior.FRAMEWORK_BEHAVIORS]
        results += [CheckResult(backend.name, backend.name, **about, **finding) for finding in found]  # type: ignore[arg-type]
    return results


def observe(loaded: LoadedEmbedding, probe: Probe, differentiable: bool = True) -> dict[Direction, list[NDArray[Any]]]:
    """Run a loaded implementation on a probe, in canonical layout: tokens of two calls, and gradients where the probe asks for them.

    An implementation that is not differentiable is asked for tokens alone.

    Two calls, because a cache, a buffer that is used again or a compiled second path can be wrong where the first call was right.
    """
    placed = loaded.place(probe.images)
    outputs: dict[Direction, list[NDArray[Any]]] = {"forward": [np.array(loaded.fetch(loaded.call(placed))) for _ in range(2)]}
    if probe.gradients and differentiable:
        found = loaded.gradients(probe.images, probe.grad_tokens)
        outputs.update(
            {name: [array] for name, array in zip(DIRECTIONS[1:], (found.image, found.kernel, found.bias), strict=True)}
        )
    return outputs


def picture_case(pixels: NDArray[Any], name: str, remainder: Remainder) -> Case:
    """The case that a picture of shape `(H, W)` or `(H, W, C)` makes: ViT-B/16 at the picture's own size.

    Raises:
        PatchParityError: a picture that does not divide, under `remainder="error"`.
    """
    height, width, channels = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    try:
        spec = PatchEmbedSpec((height, width), PHOTOGRAPH_PATCH, channels, PHOTOGRAPH_WIDTH, remainder=remainder)
    except PatchParityError as error:
        raise PatchParityError(f"image {name} of shape {pixels.shape}: {error}") from None
    return Case(name, spec, 1)


def _picture(image: str | os.PathLike[str] | NDArray[Any] | None) -> tuple[tuple[NDArray[Any], str] | None, str]:
    """Return pixels and a name, or None and why there are none."""
    if isinstance(image, np.ndarray):
        return (_checked_pixels(image, "array"), "photograph"), ""
    if image is not None:
        return (_checked_pixels(read_image(Path(image)), str(image)), f"photograph:{Path(image).name}"), ""
    try:
        from skimage import data
    except ImportError:
        return None, "scikit-image is not installed, and no --image was given: pip install 'patchparity[images]'"
    pixels = data.coffee()
    height, width = (size // PHOTOGRAPH_PATCH * PHOTOGRAPH_PATCH for size in pixels.shape[:2])
    return (pixels[:height, :width], "photograph:coffee"), ""


def _checked_pixels(pixels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return a picture as uint8, uint16, or floats in [0, 1]; integers of other types that fit one of the first two are taken for it."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        raise PatchParityError(f"image {name} of shape {pixels.shape}: expected (H, W) or (H, W, C) with 1, 3 or 4 channels")
    if pixels.dtype == bool:
        return pixels.astype(np.float32)
    if np.issubdtype(pixels.dtype, np.integer):
        low, high = int(pixels.min()), int(pixels.max())
        if low < 0 or high > np.iinfo(np.uint16).max:
            raise PatchParityError(f"image {name} holds integers from {low} to {high}: expected 0 to 255, or 0 to 65535")
        narrow = np.uint8 if high <= np.iinfo(np.uint8).max and pixels.dtype != np.uint16 else np.uint16
        return pixels.astype(narrow)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise PatchParityError(f"image {name} of dtype {pixels.dtype}: expected integers or floats")
    if not np.isfinite(pixels).all():
        raise PatchParityError(
            f"image {name} of shape {pixels.shape} holds {int((~np.isfinite(pixels)).sum())} NaN or infinite values"
        )
    if pixels.min() < 0 or pixels.max() > 1:
        raise PatchParityError(f"image {name} holds floats from {pixels.min():.4g} to {pixels.max():.4g}: expected 0 to 1")
    return pixels


_PLAIN_MODES = ("L", "RGB", "RGBA", "I;16", "I;16L", "I;16B", "I", "F")
"""Pillow's modes whose values are kept; all others (palettes, bits, LA, CMYK) are converted to RGB, which loses nothing of them."""


def read_image(path: Path) -> NDArray[Any]:
    """Read a picture: `.npy` as it is, anything else through Pillow; shape `(H, W)` or `(H, W, C)`.

    Raises:
        PatchParityError: a file that is absent or no picture, or Pillow missing.
    """
    if path.suffix in (".npy", ".npz", ".safetensors"):
        return read_array(path, "image")
    try:
        from PIL import Image
    except ImportError:
        raise PatchParityError(f"reading {path} needs Pillow: pip install 'patchparity[images]'") from None
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if picture.mode in _PLAIN_MODES else picture.convert("RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:  # Pillow raises SyntaxError on broken chunks
        raise PatchParityError(f"cannot read image {path}: {error}") from None
