"""Tables of check results: behavior, the kill table, false alarms."""

from collections import Counter

from .results import CheckResult


def false_alarms(results: list[CheckResult]) -> str:
    """Say in one sentence what a check over seeds found; empty for any other check.

    Args:
        results: of a check.
    """
    seeded = [result for result in results if result.seeds]
    if not seeded:
        return ""
    judged = sum(result.seeds or 0 for result in seeded)
    rejected = sum(result.verdict in ("fail", "error") for result in seeded)
    known = sum(result.verdict == "known" for result in seeded)
    worst = max(
        (result.bound_ratio or 0.0 for result in seeded if result.verdict == "pass"),
        default=0.0,
    )
    names = len({result.implementation for result in seeded})
    aside = f", {known} for a known fault" if known else ""
    return (
        f"{judged:,} verdicts on {names} implementations over "
        f"{max(result.seeds or 0 for result in seeded)} seeds: {rejected} rejected{aside}; "
        f"the worst error of the others is {worst:.2f} of its bound"
    )


def kill_table(
    results: list[CheckResult],
) -> list[tuple[str, dict[str, tuple[int, int]], str, str]]:
    """Each mistake: rejected and made by dtype, the worst verdict, and the probes that reject it in
    most cells.

    Args:
        results: of negative controls.
    """
    cells: dict[str, list[CheckResult]] = {}
    for result in results:
        cells.setdefault(result.mistake or "", []).append(result)
    lines = []
    for mistake, rows in cells.items():
        counts = {}
        for dtype in dict.fromkeys(row.dtype or "" for row in rows):
            kills = [bool(row.killed_by) for row in rows if row.dtype == dtype]
            counts[dtype] = (sum(kills), len(kills))
        worst = next(
            (
                verdict
                for verdict in ("fail", "known")
                if any(row.verdict == verdict for row in rows)
            ),
            "pass",
        )
        killers = Counter(probe for row in rows for probe in row.killed_by or ())
        lines.append(
            (mistake, counts, worst, ", ".join(probe for probe, _ in killers.most_common(3)))
        )
    return lines


def behavior_findings(results: list[CheckResult]) -> list[tuple[str, str, str, str, str]]:
    """Behaviors on which implementations differ, or whose finding is no plain pass: (behavior,
    finding, names, verdict, message).

    Args:
        results: of a check.
    """
    findings_by_probe: dict[str, dict[str, list[CheckResult]]] = {}
    for result in results:
        if result.behavior is not None:
            findings_by_probe.setdefault(result.probe or "", {}).setdefault(
                result.behavior, []
            ).append(result)
    lines: list[tuple[str, str, str, str, str]] = []
    for probe, findings in findings_by_probe.items():
        if len(findings) == 1 and all(
            row.verdict == "pass" for rows in findings.values() for row in rows
        ):
            continue
        members = [row for rows in findings.values() for row in rows]
        for finding, rows in findings.items():
            worst = next(
                (row for verdict in ("fail", "known") for row in rows if row.verdict == verdict),
                rows[0],
            )
            messages = "; ".join(dict.fromkeys(row.message for row in rows if row.message))
            lines.append((probe, finding, _grouped(rows, members), worst.verdict, messages))
    return lines


def _grouped(rows: list[CheckResult], members: list[CheckResult]) -> str:
    """Names of implementations; a backend's name where all of its own that were asked are among
    them."""
    names: dict[str, None] = {}
    for row in rows:
        backend_implementations = [
            other.implementation for other in members if other.backend == row.backend
        ]
        whole = {other.implementation for other in rows if other.backend == row.backend} == set(
            backend_implementations
        )
        names[row.backend if whole else row.implementation] = None
    return ", ".join(names)
