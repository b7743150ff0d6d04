"""No time without a verdict: what a worker computed, judged by this process before and after it is
timed."""

import dataclasses
import functools
from typing import Any

from ...porting.objects.implementation import find_implementation
from ...reference.error import CUT_OFF, ArithmeticModel
from ...reference.expectation import Direction
from ...reference.probe import Probe
from ...reference.verdict import Verdict, judge
from ..cases import Case
from ..record.rows import Row
from ..worker.operations import (
    FINGERPRINT_IMAGES,
    forget_problems,
    timing_probe,
    twin_operation,
)
from ..worker.server import unpacked, unpacked_steps, unpacked_weights


@functools.lru_cache(maxsize=6)
def _truth(case: Case, dtype: str, seed: int, operation: str, zero_bias: bool) -> Probe:
    """A timed problem; with its expectations it is made once for all rows of a block: three
    operations, one patch, and the twins without bias of tokens and of that patch."""
    problem = timing_probe(case.spec, case.batch, dtype, seed, operation, zero_bias)
    if not zero_bias:
        return problem
    few = slice(FINGERPRINT_IMAGES)
    return dataclasses.replace(
        problem, images=problem.images[few], grad_tokens=problem.grad_tokens[few]
    )


def forget() -> None:
    """Let go of the problems and truths of a block that is done."""
    _truth.cache_clear()
    forget_problems()


def _model(row: Row, to_sequence: bool) -> ArithmeticModel:
    implementation = find_implementation(row.implementation)
    return implementation.arithmetic(row.dtype, row.precision, row.device, to_sequence=to_sequence)  # type: ignore[arg-type]


def judged_results(
    row: Row,
    case: Case,
    seed: int,
    results: dict[Direction, Any],
    own_weights: dict[str, Any] | None = None,
    steps: dict[str, Any] | None = None,
) -> list[Verdict]:
    """Judge what an operation gave, each of its results; of somebody's own implementation with the
    weights that it has, of one that computes with integers with the steps that it chose."""
    truth = _truth(case, row.dtype, seed, row.timed_operation, False)
    if own_weights:
        truth = dataclasses.replace(truth, weights=unpacked_weights(own_weights))
    missing = set(truth.directions) - set(results)
    if missing:
        return [
            Verdict("fail", message=f"no {', '.join(sorted(missing))} in what {row.operation} gave")
        ]
    model = _model(row, truth.to_sequence)
    return [
        judge(truth, direction, unpacked(results[direction]), model, unpacked_steps(steps))
        for direction in truth.directions
    ]


def first_verdict(row: Row, case: Case, seed: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Judge the very configuration that will be timed, on the timed data and, for effective bits,
    on the twin without bias."""
    judged = judged_results(row, case, seed, answer["results"], answer["weights"], answer["steps"])
    if answer["weights"]:  # the bias is its own, and the twin without it does not exist
        return _told(judged, None)
    unbiased = _truth(case, row.dtype, seed, twin_operation(row.timed_operation), True)
    steps = unpacked_steps(answer["steps_of_twin"])
    steps = steps and steps.of_first(FINGERPRINT_IMAGES)
    output, model = unpacked(answer["fingerprint"]), _model(row, False)
    fingerprint = judge(unbiased, "forward", output, model, steps)
    return _told(judged, fingerprint)


def _told(judged: list[Verdict], fingerprint: Verdict | None) -> dict[str, Any]:
    beside = [] if fingerprint is None else [fingerprint]
    failed = [verdict for verdict in (*judged, *beside) if verdict.verdict == "fail"]
    ratios = [verdict.bound_ratio for verdict in judged]
    fields = {
        "verdict": "fail" if failed else "pass",
        "bound_ratio": None if None in ratios else max(ratios),  # type: ignore[type-var]
        "effective_bits": None if fingerprint is None else fingerprint.effective_bits,
    }
    if failed:
        # The twin without bias may name the cause of what is seen on the data: results that are cut
        # off.
        cause = next(
            (verdict for verdict in beside if (verdict.delivered or "").endswith(CUT_OFF)),
            failed[0],
        )
        fields.update(status="fail", message=f"not timed, for it is wrong: {cause.message}")
    return fields
