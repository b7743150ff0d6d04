"""What a check of somebody's object comes to, in lines: the verdict, its cause and mend, then one
line for each kind of failure."""

import re
from collections import defaultdict
from collections.abc import Iterable

from .results import CheckReport, CheckResult

REFUSED = "refused: "
"""How the message of a check begins whose images the object refused."""

MOST_NAMES = 6
"""Checks that a line names; of more, their number."""

_NUMBER = re.compile(r"[-+±]?\b\d[\d.]*(e[-+]?\d+)?\b|probabilistic |deterministic ")


def answer(report: CheckReport, every: bool = False) -> list[str]:
    """The lines; the first begins with `right` or `wrong`.

    Args:
        report: of one object.
        every: a line for each check, too.
    """
    judged = [
        result
        for result in report.results
        if result.verdict in ("pass", "fail", "error") and not result.message.startswith(REFUSED)
    ]
    wrong = [result for result in judged if result.verdict != "pass"]
    first = judged[0] if judged else report.results[0]
    lines = [f"{'wrong' if wrong else 'right'}: {_found(first, judged, wrong)}", f"  {first.case}"]
    diagnoses = [note for note in report.notes if note.startswith("diagnosis: ")]
    for diagnosis in diagnoses:
        cause, _, mend = diagnosis.removeprefix("diagnosis: ").partition("; mend: ")
        lines += [f"  cause: {cause}", *([f"  mend: {mend}"] if mend else [])]
    if not diagnoses and (of_trial := next(filter(_cause_of, wrong), None)):
        cause, _, mend = _cause_of(of_trial).removesuffix(")").partition(" (mend: ")
        lines += [f"  cause of {of_trial.probe}: {cause}", *([f"  mend: {mend}"] if mend else [])]
    lines += [f"  note: {note}" for note in report.notes if note not in diagnoses]
    lines += [
        f"  told by {result.probe}: {result.message}"
        for result in judged
        if result.verdict == "pass" and result.probe == "nan-containment" and result.message
    ]
    if every:
        return lines + [_line(result) for result in report.results]
    return [*lines, *_kinds(wrong, bool(diagnoses)), *_without_verdict(report.results)]


def _cause_of(result: CheckResult) -> str:
    """What explains a failure; empty where nothing is known to."""
    return result.message.partition("; diagnosis: ")[2]


def _found(first: CheckResult, judged: list[CheckResult], wrong: list[CheckResult]) -> str:
    ratios = [result.bound_ratio for result in judged if result.bound_ratio is not None]
    bits = [result.effective_bits for result in judged if result.effective_bits is not None]
    parts = [
        f"{len(wrong)} of {len(judged)} checks fail" if wrong else f"{len(judged)} checks pass"
    ]
    if ratios and not wrong:
        parts.append(f"largest error {max(ratios):.2g} of its bound")
    if bits and not wrong:
        parts.append(f"{min(bits):.1f} effective bits")
    return f"{first.implementation}, {first.dtype}: {', '.join(parts)}"


def _kinds(wrong: list[CheckResult], explained: bool) -> list[str]:
    """A line for each kind of failure, of those that a diagnosis explains for the first alone."""
    kinds: dict[str, list[CheckResult]] = defaultdict(list)
    for result in wrong:
        message = result.message.partition("; diagnosis: ")[0]
        kinds[_NUMBER.sub("", message)].append(result)
    lines = []
    for failures in list(kinds.values())[: 1 if explained else None]:
        message = failures[0].message.partition("; diagnosis: ")[0]
        lines.append(f"  {failures[0].verdict} {failures[0].probe}: {message}")
        if len(failures) > 1 and not explained:
            lines.append(f"  the same of {_names(failures[1:])}")
    if explained and len(wrong) > 1:
        lines.append(f"  and {_names(wrong[1:])} (-v, or report.results, shows each)")
    return lines


def _without_verdict(results: list[CheckResult]) -> list[str]:
    """What was not tried, and what the object refused."""
    reasons: dict[str, list[CheckResult]] = defaultdict(list)
    for result in results:
        if result.verdict == "skip":
            reasons[result.message].append(result)
    lines = [f"  skip {_names(skipped)}: {reason}" for reason, skipped in reasons.items()]
    if refused := [result for result in results if result.message.startswith(REFUSED)]:
        lines.append(f"  refused, which is no wrong number: {_names(refused)}")
    return lines


def _names(results: Iterable[CheckResult]) -> str:
    names = [result.probe or "" for result in results]
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _line(result: CheckResult) -> str:
    """All of one check."""
    parts = [
        None if result.bound_ratio is None else f"{result.bound_ratio:.2g} of its bound",
        None if result.effective_bits is None else f"{result.effective_bits:.1f} effective bits",
        result.message or None,
    ]
    return f"  {result.verdict} {result.probe}: {'; '.join(filter(None, parts))}".rstrip(": ")
