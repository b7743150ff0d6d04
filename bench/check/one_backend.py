"""What `check` does with one backend: lays out what can run, runs the probes, asks for behavior. In
whatever process it is."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ...backends.base import Backend, Implementation, Precision
from ...backends.computation import LoadedEmbedding
from ...backends.registry import get_backend, missing_of
from ...porting.files.checkpoint import first_line
from ...reference.error import ArithmeticModel
from ...reference.expectation import Direction
from ...reference.probe import DIRECTIONS, Probe
from ...reference.probes import byte_photograph, byte_probes, photograph, standard_probes
from ...reference.verdict import judge
from ...reference.weights import PatchEmbedWeights
from ..cases import Case
from . import behavior
from .results import CheckResult
from .shapes import CHECK_CASES
from .sharding import QUESTIONS, RESULT, RIGHT, ask_sharded

NARROW_CASES = ("c3-b3", "overlap-k7s4p3")
"""Shapes on which 16-bit types, and kernels stored in other types, are checked unless every case is
asked for: what they add to float32, roundings, does not depend on it."""

SMALL_CASES = tuple(case.name for case in CHECK_CASES if case.name != "vit-b16-224")
"""Shapes of milliseconds; ViT-B/16 itself and pictures take more."""

WIDE_CASES = (*NARROW_CASES, "vit-b16-224", "long-k12288")
"""Shapes on which float64 is checked, beside the picture, unless it or every case is asked for:
what it adds, precision, depends on K alone."""


class Planned(NamedTuple):
    """How many units will be run, the devices that the backend has here, and the versions of its
    packages."""

    units: int
    devices: tuple[str, ...]
    versions: dict[str, str]


class Begun(NamedTuple):
    """A unit begins: implementation, dtype and shape."""

    unit: str


class Found(NamedTuple):
    """Results."""

    results: list[CheckResult]


Event = Planned | Begun | Found


@dataclass(frozen=True)
class BackendCheck:
    """What is asked of one backend; plain data, so that it can travel to another process.

    Args:
        backend: its name.
        implementations: names of those to check.
        devices: those to check on; None for all that it has.
        dtypes: those to check in, where an implementation has them.
        precisions: of float32; None for `ieee` everywhere and `default` where it can tell something
            new.
        every_case: run implementations that take seconds to compile, and 16-bit types, on all
            shapes.
        seed: of the probes.
        picture: the case and the pixels of a picture to check on, or None.
        behaviors: whether to ask for behavior.
        dtypes_asked: those that a user asked for by name: an implementation that has them not is a
            skip.
        seeds: how many seeds to go through, from `seed` on; more than one on the first shape alone,
            and without behavior.
    """

    backend: str
    implementations: tuple[str, ...]
    devices: tuple[str, ...] | None
    dtypes: tuple[str, ...]
    precisions: tuple[Precision, ...] | None
    every_case: bool
    seed: int
    picture: tuple[Case, NDArray[Any]] | None
    behaviors: bool
    seeds: int = 1
    dtypes_asked: tuple[str, ...] = ()

    def run(self) -> Iterator[Event]:
        """Do it, and tell of every step."""
        backend = get_backend(self.backend)
        if reason := missing_of(backend):  # of an interpreter that the caller knows too little of
            chosen_names = map(backend.implementation, self.implementations)
            yield Planned(0, (), backend.versions())
            yield Found([result_row(each, verdict="skip", message=reason) for each in chosen_names])
            return
        problems = self._problems()
        chosen, results = [], []
        for name in self.implementations:
            implementation = backend.implementation(name)
            if reason := backend.unavailable(implementation):
                results.append(result_row(implementation, verdict="skip", message=reason))
            else:
                chosen.append(implementation)
        present = backend.devices() if chosen else ()
        units, skipped = self._units(backend, chosen, present, problems)
        lacking = {
            unit.place: backend.lacks_dtype(unit.implementation, unit.dtype, unit.device)
            for unit in units
        }
        units = [unit for unit in units if not lacking[unit.place]]
        skipped += [
            result_row(implementation, device=device, dtype=dtype, verdict="skip", message=reason)
            for (implementation, device, dtype), reason in lacking.items()
            if reason
        ]
        yield Planned(len(units) * self.seeds, present, backend.versions())
        yield Found(results + skipped)
        if not self.behaviors:
            yield Found(_sharded_results(backend, units))
        if self.seeds > 1:
            yield from self._over_seeds(backend, units)
            return
        for unit in units:
            yield Begun(unit.name)
            yield Found(_check_unit(backend, unit, {}))
        major = [
            unit for unit in units if unit.implementation.sharded or not unit.implementation.minor
        ]
        # of a backend that compiles for seconds whatever it does, what its users call
        slow = [
            unit
            for unit in units
            if unit.implementation.customary and unit.implementation.costly_compile
        ]
        asked = {(unit.implementation.name, unit.device): unit for unit in major or slow}
        if self.behaviors and asked:
            yield Begun(f"{self.backend} behavior")
            yield Found(_behaviors(backend, list(asked.values()), self.seed))

    def _over_seeds(self, backend: Backend, units: list["_Unit"]) -> Iterator[Event]:
        """Judge every unit at every seed: all that fails, and of what passes the worst of each
        probe and direction."""
        loaded: dict[int, dict[str, LoadedEmbedding]] = {number: {} for number in range(len(units))}
        worst: dict[tuple[Any, ...], CheckResult] = {}
        for seed in range(self.seed, self.seed + self.seeds):
            problem = _Problem(units[0].problem.case, seed) if units else None
            for number, unit in enumerate(units):
                yield Begun(f"{unit.name} seed {seed}")
                assert problem is not None
                results = _check_unit(backend, unit._replace(problem=problem), loaded[number])
                wrong = [result for result in results if result.verdict != "pass"]
                yield Found(
                    [
                        dataclasses.replace(
                            result, message=f"seed {seed}: {result.message}", seeds=1
                        )
                        for result in wrong
                    ]
                )
                for result in results:
                    if result.verdict == "pass":
                        key = number, result.probe, result.direction
                        worst[key] = _worse(result, worst.get(key))
        yield Found(list(worst.values()))

    def expected_units(self) -> int:
        """How many units `run` will tell of, as far as can be said without the framework: on the
        CPU alone, nothing unavailable."""
        backend = get_backend(self.backend)
        chosen = [backend.implementation(name) for name in self.implementations]
        return len(self._units(backend, chosen, ("cpu",), self._problems())[0]) * self.seeds

    def _problems(self) -> list["_Problem"]:
        if self.seeds > 1:
            return [_Problem(CHECK_CASES[0], self.seed)]
        problems = [_Problem(case, self.seed) for case in CHECK_CASES]
        return (
            problems
            if self.picture is None
            else [*problems, _Problem(self.picture[0], self.seed, self.picture[1])]
        )

    def _units(
        self,
        backend: Backend,
        implementations: list[Implementation],
        present: tuple[str, ...],
        problems: list["_Problem"],
    ) -> tuple[list["_Unit"], list[CheckResult]]:
        """Lay out what runs on the devices that are present, and give a skip with its reason for
        what cannot."""
        units: list[_Unit] = []
        skipped: list[CheckResult] = []
        for implementation in implementations:
            for device in self.devices or present:
                if absent := _has_no_device(backend, implementation, device, present):
                    skipped.append(_skip(implementation, device, absent))
                    continue
                chosen_problems, reasons = self._problems_of(backend, implementation, problems)
                skipped += [_skip(implementation, device, reason) for reason in reasons]
                for precision in self.precisions or get_args(Precision):
                    if self.precisions is None and precision not in ("ieee", "default"):
                        continue
                    if reason := backend.lacks(precision, device):
                        row = dict(device=device, precision=precision, verdict="skip")
                        skipped.append(result_row(implementation, **row, message=reason))
                        continue
                    units += self._units_of(implementation, device, precision, chosen_problems)
        return units, skipped

    def _problems_of(
        self, backend: Backend, implementation: Implementation, problems: list["_Problem"]
    ) -> tuple[list["_Problem"], list[str]]:
        """The problems that an implementation is checked on, and why it is not on others."""
        reasons = []
        lacking = [dtype for dtype in self.dtypes_asked if dtype not in implementation.dtypes]
        if lacking:
            reasons.append(
                f"{implementation.name} has no {', '.join(lacking)}, only "
                f"{', '.join(implementation.dtypes)}"
            )
        refusals = [backend.refuses(implementation, problem.case.spec) for problem in problems]
        able = [problem for problem, refusal in zip(problems, refusals, strict=True) if not refusal]
        reasons += [refusal for refusal in refusals if refusal][:1]
        if implementation.pixels == "uint8":
            floats = [p for p in able if p.pixels is not None and p.pixels.dtype != np.uint8]
            able = [problem for problem in able if problem not in floats]
            reasons += [
                f"pixels are bytes, and those of {p.case.name} are {p.pixels.dtype}"
                for p in floats
                if p.pixels is not None
            ]
            reasons.append(
                "pixels are bytes, of which there is no NaN, no subnormal and no gradient: forward "
                "results of whole numbers are checked"
            )
        chosen_problems = able[:1] if implementation.minor and not self.every_case else able
        if len(chosen_problems) < len(able):
            why = (
                "takes seconds to compile for each shape"
                if implementation.costly_compile
                else "is no formulation of its own"
            )
            reasons.append(
                f"{why}, so only {chosen_problems[0].case.name} is checked: --every-case for all"
            )
        return chosen_problems, reasons

    def _units_of(
        self,
        implementation: Implementation,
        device: str,
        precision: Precision,
        problems: list["_Problem"],
    ) -> list["_Unit"]:
        """What is run of an implementation on a device at a precision."""
        return [
            _Unit(implementation, device, problem, dtype, precision)
            for problem in problems
            for dtype in self.dtypes
            if dtype in implementation.dtypes
            and self._tells_something_new(
                problem.case.name, dtype, precision, device, problem is problems[0]
            )
            and (
                self._asked(dtype)
                or dtype not in implementation.slow_dtypes
                or problem.case.name in SMALL_CASES
            )
            and (self.every_case or not implementation.stored or problem.case.name in NARROW_CASES)
        ]

    def _asked(self, dtype: str) -> bool:
        """Whether a dtype is wanted on every shape."""
        return self.every_case or dtype in self.dtypes_asked

    def _tells_something_new(
        self, case: str, dtype: str, precision: Precision, device: str, first: bool
    ) -> bool:
        """Whether a shape, dtype and precision are part of a check: not all combinations are."""
        narrow = dtype in ("bfloat16", "float16")
        if narrow and not self.every_case and case not in NARROW_CASES:
            return False
        if (
            dtype == "float64"
            and not self._asked(dtype)
            and case in SMALL_CASES
            and case not in WIDE_CASES
        ):
            return False
        if precision == "ieee":
            return True
        # The other precisions are about float32 alone; on the CPU `default` is checked on one shape
        # unless it is asked for.
        return dtype == "float32" and (
            self.precisions is not None or device != "cpu" or self.every_case or first
        )


def _has_no_device(
    backend: Backend, implementation: Implementation, device: str, present: tuple[str, ...]
) -> str:
    """Why an implementation cannot run on a device here; empty where it can."""
    usable = [name for name in present if name in implementation.devices]
    if device in usable:
        return ""
    if usable:
        return f"{implementation.name} has no device {device!r} here, only {', '.join(usable)}"
    return (
        f"{implementation.name} runs on {', '.join(implementation.devices)} alone, which "
        f"{backend.name} does not see here"
    )


def _skip(implementation: Implementation, device: str, why: str) -> CheckResult:
    return result_row(implementation, device=device, verdict="skip", message=why)


class _Problem:
    """A case with its probes, made once for each dtype and shared by all implementations."""

    def __init__(self, case: Case, seed: int, pixels: NDArray[Any] | None = None) -> None:
        self.case, self.seed, self.pixels = case, seed, pixels
        self._cache: dict[tuple[str, str], list[Probe]] = {}

    def probes(self, implementation: Implementation, dtype: str) -> list[Probe]:
        """Those of implementations that take pixels as this one does."""
        key = implementation.pixels, dtype
        if key not in self._cache:
            spec, batch = self.case.spec, self.case.batch
            of_bytes = implementation.pixels == "uint8"
            if self.pixels is None:
                probes = (byte_probes if of_bytes else standard_probes)(
                    spec, batch, dtype, self.seed
                )
            else:
                make = byte_photograph if of_bytes else photograph
                probes = [make(spec, self.pixels, dtype, self.seed)]
            self._cache[key] = probes
            for probe in probes:
                _ = probe.expectations  # the truth, before any implementation has touched the data
        return self._cache[key]


class _Unit(NamedTuple):
    """One implementation on one shape, in one dtype and precision, on one device: all probes of
    it."""

    implementation: Implementation
    device: str
    problem: _Problem
    dtype: str
    precision: Precision

    @property
    def place(self) -> tuple[Implementation, str, str]:
        """Where it runs: implementation, device and dtype."""
        return self.implementation, self.device, self.dtype

    @property
    def without_bias(self) -> bool:
        """Whether weights without a bias are tried as well: a path of its own in most code, and the
        same on every shape."""
        return (
            self.dtype == "float32"
            and self.precision == "ieee"
            and self.problem.case is CHECK_CASES[0]
        )

    @property
    def name(self) -> str:
        """As progress and messages have it."""
        return f"{self.implementation.name} {self.dtype} {self.problem.case.name}"


def _worse(result: CheckResult, other: CheckResult | None) -> CheckResult:
    """The worse of two that passed, at all seeds so far: the larger error, the fewer bits."""
    if other is None:
        return dataclasses.replace(result, seeds=1)
    larger = max(result, other, key=lambda candidate: candidate.bound_ratio or 0.0)
    bits = [
        candidate.effective_bits
        for candidate in (result, other)
        if candidate.effective_bits is not None
    ]
    return dataclasses.replace(
        larger, effective_bits=min(bits, default=None), seeds=(other.seeds or 0) + 1
    )


def result_row(implementation: Implementation, **fields: Any) -> CheckResult:
    """A result of an implementation, with its names filled in."""
    return CheckResult(
        implementation.name,
        implementation.backend,
        implementation.formulation,
        implementation.mode,
        **fields,
    )


def error_text(error: BaseException) -> str:
    """An exception in one line: its type and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}"


def _check_unit(
    backend: Backend, unit: _Unit, kept: dict[str, LoadedEmbedding]
) -> list[CheckResult]:
    """Judge one implementation on one shape in one dtype, on all probes; whatever it raises is a
    result too.

    What is loaded is left in `kept`, and taken from there by the next call for the same unit: it is
    compiled once.
    """
    implementation, device, problem, dtype, precision = unit
    case = problem.case
    model = implementation.arithmetic(dtype, precision, device)
    place: dict[str, Any] = dict(
        device=device, dtype=dtype, precision=precision, case=case.name, declared=model.name
    )
    results: list[CheckResult] = []
    probe: Probe | None = None
    try:
        with backend.precision(precision):
            for probe in problem.probes(implementation, dtype):
                if not _fits_storage(probe, implementation):
                    continue
                if "loaded" in kept:
                    kept["loaded"].assign(probe.weights)
                else:
                    kept["loaded"] = backend.load(
                        implementation, probe.weights, case.spec, dtype, device
                    )
                loaded = kept["loaded"]
                for direction, outputs in observe(
                    loaded, probe, implementation.differentiable
                ).items():
                    steps = loaded.quantization(probe.images) if model.stored == "int8" else None
                    judged = [judge(probe, direction, output, model, steps) for output in outputs]
                    worst = max(
                        judged,
                        key=lambda verdict: (verdict.verdict == "fail", verdict.bound_ratio or 0),
                    )
                    fields = dict(
                        probe=probe.name, direction=direction, **dataclasses.asdict(worst)
                    )
                    results.append(result_row(implementation, **place, **fields))
            if unit.without_bias:
                results += _check_without_bias(backend, unit, place, model)
    except Exception as error:
        name = probe.name if probe else None
        results.append(
            result_row(
                implementation, **place, probe=name, verdict="error", message=error_text(error)
            )
        )
    return results


def _fits_storage(probe: Probe, implementation: Implementation) -> bool:
    """Whether the type that an implementation stores its kernel in reaches as far as a kernel: of
    float16 its range, of integers the terms beside one that is 2²² times as large."""
    if implementation.stored != "float16":
        return not (implementation.stored and probe.name == "swamping")
    return float(np.abs(probe.weights.kernel).max(initial=0)) <= float(np.finfo(np.float16).max)


def _check_without_bias(
    backend: Backend, unit: _Unit, place: dict[str, Any], model: ArithmeticModel
) -> list[CheckResult]:
    """Load weights that have no bias, and judge what comes out, forward and backward."""
    implementation, case = unit.implementation, unit.problem.case
    probes = unit.problem.probes(implementation, unit.dtype)
    random = next(probe for probe in probes if probe.name in ("random", "random-bytes"))
    weights = PatchEmbedWeights(random.weights.kernel)
    directions = tuple(direction for direction in random.gradients if direction != "grad_bias")
    probe = dataclasses.replace(
        random, name=f"{random.name}-no-bias", weights=weights, gradients=directions
    )
    loaded = backend.load(implementation, weights, case.spec, unit.dtype, unit.device)
    results = []
    for direction, outputs in observe(loaded, probe, implementation.differentiable).items():
        if direction in probe.directions:
            steps = loaded.quantization(probe.images) if model.stored == "int8" else None
            judged = dataclasses.asdict(judge(probe, direction, outputs[0], model, steps))
            results.append(
                result_row(implementation, **place, probe=probe.name, direction=direction, **judged)
            )
    return results


def observe(
    loaded: LoadedEmbedding, probe: Probe, differentiable: bool = True
) -> dict[Direction, list[NDArray[Any]]]:
    """Run a loaded implementation on a probe, in canonical layout: tokens, and gradients where the
    probe asks for them.

    Where it asks for gradients, tokens are those of two calls, because a cache, a buffer that is
    used again or a compiled second path can be wrong where the first call was right. An
    implementation that is not differentiable is asked for tokens alone.
    """
    placed = loaded.place(probe.images)
    calls = 2 if probe.gradients else 1
    outputs: dict[Direction, list[NDArray[Any]]] = {
        "forward": [np.array(loaded.fetch(loaded.call(placed))) for _ in range(calls)]
    }
    if probe.gradients and differentiable:
        gradients = loaded.gradients(probe.images, probe.grad_tokens)
        outputs.update(
            {
                name: [array]
                for name, array in zip(
                    DIRECTIONS[1:], (gradients.image, gradients.kernel, gradients.bias), strict=True
                )
            }
        )
    return outputs


def _behavior_place(device: str) -> dict[str, Any]:
    return dict(
        device=device, dtype="float32", precision="ieee", case="behavior", direction="forward"
    )


def _sharded_results(backend: Backend, units: list[_Unit]) -> list[CheckResult]:
    """Whether the results of several devices are right at all: where no other behavior is asked
    for, the known issues of the verdicts still need it."""
    asked = {unit.implementation: unit.device for unit in units if unit.implementation.sharded}
    return [
        result_row(
            implementation,
            **_behavior_place(device),
            **ask_sharded(RESULT, backend, implementation),
        )
        for implementation, device in asked.items()
    ]


def _behaviors(backend: Backend, units: list[_Unit], seed: int) -> list[CheckResult]:
    """Ask implementations on their devices, and the framework, how they behave."""
    results = []
    question = behavior.problem(seed)
    for unit in units:
        implementation = unit.implementation
        place = _behavior_place(unit.device)
        with backend.precision("ieee"):
            if implementation.sharded:
                findings = [ask_sharded(each, backend, implementation) for each in QUESTIONS]
                results += [result_row(implementation, **place, **finding) for finding in findings]
                if implementation.minor or findings[0]["behavior"] != RIGHT:
                    continue  # what is wrong everywhere behaves in no way
            try:
                loaded = backend.load(
                    implementation, question.weights, behavior.SPEC, "float32", unit.device
                )
            except Exception as error:
                results.append(
                    result_row(
                        implementation,
                        **place,
                        probe="behavior",
                        verdict="error",
                        message=error_text(error),
                    )
                )
                continue
            findings = [
                behavior.ask(tested_behavior, loaded, question)
                for tested_behavior in behavior.IMPLEMENTATION_BEHAVIORS
            ]
        results += [result_row(implementation, **place, **finding) for finding in findings]
    about: dict[str, Any] = dict(
        device="cpu", dtype="float32", case="behavior", direction="forward"
    )
    if all(implementation.sharded for implementation in backend.implementations):
        return results  # the framework itself is another backend's, and asked there
    framework_findings = [
        behavior.ask(tested_behavior, backend) for tested_behavior in behavior.FRAMEWORK_BEHAVIORS
    ]
    return results + [
        CheckResult(backend.name, backend.name, **about, **finding)
        for finding in framework_findings
    ]
