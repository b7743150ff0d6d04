"""The suite's own implementations: which are checked on what, each output judged; and the verdicts
themselves."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from ...backends.base import (
    DTYPES,
    Backend,
    Implementation,
    Precision,
    check_place,
    check_precision,
)
from ...backends.registry import (
    BrokenBackend,
    get_backend,
    list_backends,
    list_broken_backends,
    list_implementations,
    missing_of,
    require_installed,
)
from ...reference.controls import CONTROL_DTYPES, CONTROL_SPECS, negative_controls
from ...reference.errors import PatchParityError, require_choice
from ...reference.spec import Remainder
from ..machine.environment import UNAVAILABLE, describe_environment
from ..machine.interpreters import own_interpreters, parse_interpreters
from .known_issues import apply_known_issues, load_known_issues
from .one_backend import BackendCheck, Begun, Event, Found, Planned, error_text, result_row
from .photographs import find_picture, picture_case
from .processes import Lost, process_environment, run_apart
from .results import CheckReport, CheckResult

Progress = Callable[[float, float, str], None]
"""Called with units done, units in all, and what comes next."""


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
    seeds: int = 1,
    pythons: list[str] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check implementations against the NumPy reference: exact probes, random ones within a bound,
    and a photograph.

    Each backend is checked in a process of its own, several at a time; NumPy alone in this process.

    Args:
        backends: names of backends; None for all, of which those not installed give a `skip`. A
            named one must be installed.
        implementations: `backend:formulation:mode`, or its beginning; None for all.
        dtypes: float32, float64, bfloat16 and float16 by default, those that an implementation has.
        devices: `cpu`, `cuda`; None for every device that a backend has here.
        image: a picture of shape `(H, W)` or `(H, W, C)`, as an array or a file (PNG, JPEG, ..., or
            `.npy`); None for one that scikit-image ships.
        remainder: what to do with a picture that does not divide into 16×16 patches.
        every_case: run implementations that take seconds to compile on all shapes, and not on one
            alone.
        precisions: of float32: `ieee`, `tf32`, `bf16`, or `default` for whatever the framework does
            when nobody asks. None means `ieee` on everything and `default` on the first shape (on
            all of them on a GPU, where it differs).
        seed: of the probes.
        seeds: how many seeds to go through, from `seed` on: more than one are a search for false
            alarms, on the first shape alone, of which every failure is reported and of all else the
            worst. Variants take part there only where they are named, other libraries' modules
            (peers) anywhere only where they are named or `every_case` is given.
        pythons: other interpreters for some backends, each `BACKEND=PATH`, with this patchparity;
            what `patchparity backends --install` made is found without.
        progress: called before each implementation meets a shape; the total grows where a backend
            turns out to have more to do.

    Returns:
        One result for each implementation, device, dtype, case, probe and direction.

    Raises:
        PatchParityError: an unknown name, a named backend that is not installed, a picture that
            cannot be read or does not fit.
    """
    interpreters = {**own_interpreters(backends or ()), **parse_interpreters(pythons or ())}
    require_installed(name for name in backends or [] if name not in interpreters)
    check_place(dtypes or [], devices or [])
    for precision in precisions or []:
        check_precision(precision)
    require_choice("remainder", remainder, get_args(Remainder))
    if seeds < 1 or seed < 0:
        raise PatchParityError(f"seed={seed}, seeds={seeds}: expected at least 0 and 1")
    aside = bool(backends or implementations or every_case)
    selection = _selected(backends, implementations, aside, seeds)
    found_picture, no_picture = find_picture(image) if seeds == 1 else (None, "")
    picture = (
        None
        if found_picture is None
        else (picture_case(*found_picture, remainder), found_picture[0])
    )
    results: dict[str, list[CheckResult]] = {
        broken.name: [_broken(broken)]
        for broken in list_broken_backends()
        if not backends and not implementations
    }
    work = []
    for backend, chosen in selection.items():
        reason = None if backend.name in interpreters else missing_of(backend)
        results[backend.name] = [
            result_row(implementation, verdict="skip", message=reason)
            for implementation in chosen
            if reason
        ]
        if not reason:
            work.append(
                BackendCheck(
                    backend.name,
                    tuple(implementation.name for implementation in chosen),
                    tuple(devices) if devices else None,
                    tuple(dtypes or DTYPES),
                    tuple(precisions) if precisions else None,
                    every_case,
                    seed,
                    picture,
                    behaviors=seeds == 1
                    and precisions is None
                    and (dtypes is None or "float32" in dtypes),
                    seeds=seeds,
                    dtypes_asked=tuple(dtypes or ()),
                )
            )
    here = _runs_here(work) and work[0].backend not in interpreters
    events = run_here(work[0]) if here else run_apart(_longest_first(work), interpreters)
    versions = _follow(events, work, devices or [], results, progress)
    if no_picture:
        _tell_of_no_picture(results, no_picture)
    judged = apply_known_issues(
        [row for rows in results.values() for row in rows],
        load_known_issues(),
        list_backends(),
        versions,
    )
    environment = describe_environment(list(selection))
    for told in versions.values():  # what is not installed here was elsewhere
        for name, version in told.items():
            if environment["versions"].get(name, UNAVAILABLE) == UNAVAILABLE:
                environment["versions"][name] = version
    if not here:
        environment["workers"] = {
            check.backend: process_environment(get_backend(check.backend)) for check in work
        }
    return CheckReport(judged, lambda: environment)


def _selected(
    backends: list[str] | None, implementations: list[str] | None, aside: bool, seeds: int
) -> dict[Backend, list[Implementation]]:
    """The implementations that are checked, by backend; peers, and over seeds variants, only where
    something was named."""
    selection: dict[Backend, list[Implementation]] = {}
    for backend, implementation in list_implementations(backends, implementations):
        beside = implementation.peer or (implementation.variant and seeds > 1)
        if aside or not beside:
            selection.setdefault(backend, []).append(implementation)
    return selection


def _tell_of_no_picture(results: dict[str, list[CheckResult]], why: str) -> None:
    """A skip for each implementation that a picture would have been given to."""
    for rows in results.values():
        checked = {row.implementation: row for row in rows if row.case not in (None, "behavior")}
        rows += [_no_picture(row, why) for row in checked.values()]


def _broken(backend: BrokenBackend) -> CheckResult:
    return CheckResult(backend.name, backend.name, verdict="error", message=backend.reason)


def _no_picture(row: CheckResult, why: str) -> CheckResult:
    names = row.implementation, row.backend, row.formulation, row.mode
    return CheckResult(*names, probe="photograph", verdict="skip", message=why)


def _runs_here(work: list[BackendCheck]) -> bool:
    """Whether the work is that of our NumPy backend alone: no framework, whose state a caller may
    have changed, and nobody else's code, which may end the process that it runs in."""
    return [check.backend for check in work] == ["numpy"]


def run_here(check: BackendCheck) -> Iterator[tuple[BackendCheck, Event | Lost]]:
    """Run a check in this process, told as `run_apart` tells."""
    try:
        for event in check.run():
            yield check, event
    except Exception as error:  # as `run_apart`: whatever a backend raises is a result
        yield check, Lost(error_text(error))


def _longest_first(work: list[BackendCheck]) -> list[BackendCheck]:
    """Most units first, so that the last process to be started is a short one."""
    return sorted(work, key=BackendCheck.expected_units, reverse=True)


def _follow(
    events: Iterator[tuple[BackendCheck, Event | Lost]],
    work: list[BackendCheck],
    devices: list[str],
    results: dict[str, list[CheckResult]],
    progress: Progress | None,
) -> dict[str, dict[str, str]]:
    """Gather results and tell of progress, until all is done or a device that was asked for turns
    out to be nowhere; return the versions of what ran, by backend."""
    versions: dict[str, dict[str, str]] = {}
    units = {check.backend: check.expected_units() for check in work}
    begun: dict[str, str] = {}
    present: dict[str, tuple[str, ...]] = {}
    done = 0
    for check, event in events:
        name = check.backend
        match event:
            case Planned():
                units[name], present[name] = event.units, event.devices
                versions[name] = event.versions
                absent = [
                    device
                    for device in devices
                    if all(device not in places for places in present.values())
                ]
                if absent and len(present) == len(work):
                    raise PatchParityError(f"device {absent[0]!r} was asked for, but {NOWHERE}")
            case Begun():
                if progress:
                    progress(done, sum(units.values()), event.unit)
                begun[name] = event.unit
            case Found():
                results[name] += event.results
                done += name in begun and not begun[name].endswith(" behavior")
            case Lost():
                message = f"{event.reason} at {begun[name]}" if name in begun else event.reason
                results[name].append(CheckResult(name, name, verdict="error", message=message))
    if devices and not work:
        raise PatchParityError(f"device {devices[0]!r} was asked for, but {NOWHERE}")
    return versions


NOWHERE = "no backend that is installed and selected has it here"


def check_controls(
    *, dtypes: list[str] | None = None, seed: int = 0, progress: Progress | None = None
) -> CheckReport:
    """Check the verdicts themselves: make every known mistake on the probes, at every dtype, scale
    and K; each must be rejected.

    Args:
        dtypes: float32, float64, bfloat16 and float16 by default.
        seed: of the probes.
        progress: told of every problem that is done.

    Returns:
        One result for each mistake on each problem, with `mistake` and `killed_by`: `pass` where it
        was rejected, `known` where it may survive (`message` says why), `fail` where it survived.

    Raises:
        PatchParityError: an unknown dtype.
    """
    for dtype in dtypes or []:
        require_choice("dtype", dtype, CONTROL_DTYPES)
    kinds = tuple(dtypes or CONTROL_DTYPES)
    problems = [(case, dtype) for case in CONTROL_SPECS for dtype in kinds]
    results = []
    for control in negative_controls(kinds, seed=seed):
        verdict: Literal["pass", "known", "fail"] = (
            "pass" if control.killed_by else "known" if control.exemption else "fail"
        )
        place = dict(
            device="cpu",
            dtype=control.dtype,
            case=f"{control.case} scale={control.scale:g}",
            direction="forward",
        )
        message = {
            "known": control.exemption,
            "fail": f"{control.mistake} went unnoticed",
            "pass": "",
        }[verdict]
        row = CheckResult(
            "numpy:mistake",
            "numpy",
            "mistake",
            None,
            **place,  # type: ignore[arg-type]
            verdict=verdict,
            message=message,
        )
        results.append(
            dataclasses.replace(row, mistake=control.mistake, killed_by=control.killed_by)
        )
        if progress:
            progress(
                problems.index((control.case, control.dtype)),
                len(problems),
                f"{control.case} {control.dtype}",
            )
    return CheckReport(results, functools.partial(describe_environment, []))
