"""Tables of what is right and wrong, from `check.json` and `controls.json`."""

from collections import defaultdict

from ..check.results import CheckReport, CheckResult
from ..check.tables import behavior_findings, kill_table
from .table import Table, number


def check_tables(check: CheckReport) -> list[Table]:
    """Is it right, what is known or wrong, how do they behave, and what was not checked."""
    return [
        _matrix(check.results),
        _is_it_right(check.results),
        _known_faults(check.results),
        _what_is_wrong(check.results),
        _behaviors(check.results),
        _not_checked(check.results),
    ]


def _matrix(results: list[CheckResult]) -> Table:
    """Implementations by number types: the verdict, the worst error over its bound, the bits."""
    cells: dict[str, dict[str, list[CheckResult]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        if result.dtype and result.behavior is None:
            device = "" if result.device in (None, "cpu") else f" {result.device}"
            precision = "" if result.precision in (None, "ieee") else f" {result.precision}"
            cells[result.implementation][result.dtype + precision + device].append(result)
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [
        (name, *(_cell(row.get(column, [])) for column in columns)) for name, row in cells.items()
    ]
    return Table(
        "Verdicts",
        "Each implementation in each number type: the verdict, its worst error over the bound "
        "(above 1 fails), and the fewest effective bits.",
        ("implementation", *columns),
        rows,
        marks=["fail" if any("FAIL" in cell for cell in row) else "" for row in rows],
    )


def _cell(results: list[CheckResult]) -> str:
    judged = [result for result in results if result.verdict != "skip"]
    if not judged:
        return "skip" if results else ""
    verdicts = {result.verdict for result in judged}
    word = "FAIL" if verdicts & {"fail", "error"} else "known" if "known" in verdicts else "pass"
    worst, bits = _worst(judged), _fewest_bits(judged)
    return word + (f" {worst}" if worst else "") + (f", {bits} bits" if bits else "")


def _is_it_right(results: list[CheckResult]) -> Table:
    """A line for each implementation, device, dtype and declared arithmetic."""
    groups: dict[tuple[str, str, str, str], list[CheckResult]] = defaultdict(list)
    for result in results:
        if result.dtype and result.verdict != "skip" and result.behavior is None:
            place = (result.device or "", result.dtype, result.declared or "")
            groups[result.implementation, *place].append(result)
    rows, marks = [], []
    for key, members in groups.items():
        verdicts = {result.verdict for result in members}
        verdict = (
            "fail" if verdicts & {"fail", "error"} else "known" if "known" in verdicts else "pass"
        )
        marks.append({"known": "skip"}.get(verdict, verdict))
        passed = sum(result.verdict == "pass" for result in members)
        delivered = dict.fromkeys(result.delivered for result in members if result.delivered)
        counts = f"{passed} of {len(members)}"
        figures = (_worst(members), _fewest_bits(members))
        rows.append((*key, ", ".join(delivered), verdict, counts, *figures))
    return Table(
        "Is it right?",
        "Every implementation against the NumPy reference: exact probes, random ones, a "
        "photograph; forward and gradients. Declared is the "
        "arithmetic that the bounds allow for, delivered what was measured. The worst error is "
        "given as a fraction of its bound (above 1 fails).",
        (
            "implementation",
            "device",
            "dtype",
            "declared",
            "delivered",
            "verdict",
            "passed",
            "worst error / bound",
            "effective bits",
        ),
        rows,
        frozenset({6, 7, 8}),
        marks,
    )


def _what_is_wrong(results: list[CheckResult]) -> Table:
    rows = []
    for result in results:
        if result.verdict in ("fail", "error"):
            parts = (result.dtype, result.case, result.probe, result.direction)
            where = " ".join(part for part in parts if part)
            rows.append((result.implementation, where, result.verdict, result.message))
    columns = ("implementation", "where", "verdict", "message")
    return Table("What is wrong", "", columns, rows, marks=["fail"] * len(rows))


def _behaviors(results: list[CheckResult]) -> Table:
    findings = behavior_findings(results)
    return Table(
        "How do they behave?",
        "What no bound covers, as found: only behaviors on which implementations differ, or "
        "that surprise. A surprise is a known issue, with "
        "its reason, or a failure.",
        ("behavior", "found", "of", "verdict", "why"),
        findings,
        marks=["fail" if verdict == "fail" else "" for *_, verdict, _ in findings],
    )


def _not_checked(results: list[CheckResult]) -> Table:
    skipped = sorted(
        {(result.implementation, result.message) for result in results if result.verdict == "skip"}
    )
    marks = ["skip"] * len(skipped)
    return Table("Not checked", "", ("implementation", "why"), skipped, marks=marks)


def _known_faults(results: list[CheckResult]) -> Table:
    """Verdicts that a known issue explains; of behavior the next table tells."""
    named: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for result in results:
        if result.verdict == "known" and result.behavior is None:
            named[result.message][result.implementation, result.dtype or ""] = None
    rows = [
        (", ".join(f"{name} in {dtype}" for name, dtype in places), message)
        for message, places in named.items()
    ]
    return Table(
        "Known faults",
        "Verdicts that fail for a reason that is known, in the versions that were run; one that no "
        "longer reproduces fails the check.",
        ("of", "why"),
        rows,
        marks=["skip"] * len(rows),
    )


def controls_table(controls: CheckReport) -> Table:
    """The kill table, with the reason where a mistake may survive."""
    results = controls.results
    dtypes = list(dict.fromkeys(result.dtype or "" for result in results))
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for result in results:
        if result.message:
            reasons[result.mistake or ""][f"{result.dtype}: {result.message}"] = None
    lines = kill_table(results)
    rows = [
        (
            mistake,
            *(" of ".join(map(str, counts[dtype])) if dtype in counts else "" for dtype in dtypes),
            ". May survive in ".join((killers or "nothing", *reasons[mistake])),
        )
        for mistake, counts, _, killers in lines
    ]
    return Table(
        "Can the verdicts fail?",
        "Every known mistake, made on purpose at each dtype, at three scales and at K from 48 to "
        "12288: in how many of the problems the verdicts "
        "rejected it, and the probes that did so most often. What survives must be provably no "
        "different from correct arithmetic.",
        ("mistake", *dtypes, "rejected by"),
        rows,
        frozenset(range(1, 1 + len(dtypes))),
        ["fail" if worst == "fail" else "" for _, _, worst, _ in lines],
    )


def _worst(results: list[CheckResult]) -> str:
    """Largest error over bound. A failure without one broke an exact probe, or a shape: no fraction
    of a bound says how far."""
    if any(
        result.verdict in ("fail", "known") and result.bound_ratio is None for result in results
    ):
        return "∞"
    return number(
        max(
            (result.bound_ratio for result in results if result.bound_ratio is not None),
            default=None,
        )
    )


def _fewest_bits(results: list[CheckResult]) -> str:
    """Fewest effective bits; `exact` where the fingerprint probe showed no error at all, which JSON
    cannot write as a number."""
    probes = [
        result
        for result in results
        if result.probe == "random-zero-bias" and result.direction == "forward"
    ]
    bits = [result.effective_bits for result in probes if result.effective_bits is not None]
    if bits or not probes:
        return number(min(bits, default=None), ".1f")
    return "exact" if all(result.verdict == "pass" for result in probes) else ""
