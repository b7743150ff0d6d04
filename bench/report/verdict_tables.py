"""Tables of what is right and wrong, from `check.json` and `controls.json`."""

from collections import defaultdict
from typing import Any

from ..check.tables import behavior_findings, kill_table
from .table import Table, number


def check_tables(check: dict[str, Any]) -> list[Table]:
    """Is it right, what is known or wrong, how do they behave, and what was not checked."""
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in check["results"]:
        if result["dtype"] and result["verdict"] != "skip" and result.get("behavior") is None:
            groups[
                result["implementation"],
                result["device"],
                result["dtype"],
                result["declared"] or "",
            ].append(result)
    rows, marks = [], []
    for key, results in groups.items():
        verdicts = {result["verdict"] for result in results}
        verdict = (
            "fail" if verdicts & {"fail", "error"} else "known" if "known" in verdicts else "pass"
        )
        marks.append({"known": "skip"}.get(verdict, verdict))
        passed = sum(result["verdict"] == "pass" for result in results)
        delivered = ", ".join(
            dict.fromkeys(result["delivered"] for result in results if result["delivered"])
        )
        rows.append(
            (
                *key,
                delivered,
                verdict,
                f"{passed} of {len(results)}",
                _worst(results),
                _fewest_bits(results),
            )
        )
    table = Table(
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
    told = [result for result in check["results"] if result["verdict"] in ("fail", "error")]
    behaviors = behavior_findings(check["results"])
    places = [
        " ".join(
            filter(None, (result["dtype"], result["case"], result["probe"], result["direction"]))
        )
        for result in told
    ]
    wrong_rows = [
        (r["implementation"], place, r["verdict"], r["message"])
        for r, place in zip(told, places, strict=True)
    ]
    skipped = {
        (result["implementation"], result["message"])
        for result in check["results"]
        if result["verdict"] == "skip"
    }
    return [
        table,
        _known_faults(check["results"]),
        Table(
            "What is wrong",
            "",
            ("implementation", "where", "verdict", "message"),
            wrong_rows,
            marks=["fail"] * len(wrong_rows),
        ),
        Table(
            "How do they behave?",
            "What no bound covers, as found: only behaviors on which implementations differ, or "
            "that surprise. A surprise is a known issue, with "
            "its reason, or a failure.",
            ("behavior", "found", "of", "verdict", "why"),
            behaviors,
            marks=["fail" if verdict == "fail" else "" for *_, verdict, _ in behaviors],
        ),
        Table(
            "Not checked",
            "",
            ("implementation", "why"),
            sorted(skipped),
            marks=["skip"] * len(skipped),
        ),
    ]


def _known_faults(results: list[dict[str, Any]]) -> Table:
    """Verdicts that a known issue explains; of behavior the next table tells."""
    named: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for result in results:
        if result["verdict"] == "known" and result.get("behavior") is None:
            named[result["message"]][result["implementation"], result["dtype"]] = None
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


def controls_table(controls: dict[str, Any]) -> Table:
    """The kill table, with the reason where a mistake may survive."""
    results = controls["results"]
    dtypes = list(dict.fromkeys(result["dtype"] for result in results))
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for result in results:
        if result["message"]:
            reasons[result["mistake"]][f"{result['dtype']}: {result['message']}"] = None
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


def _worst(results: list[dict[str, Any]]) -> str:
    """Largest error over bound. A failure without one broke an exact probe, or a shape: no fraction
    of a bound says how far."""
    if any(
        result["verdict"] in ("fail", "known") and result["bound_ratio"] is None
        for result in results
    ):
        return "∞"
    return number(
        max(
            (result["bound_ratio"] for result in results if result["bound_ratio"] is not None),
            default=None,
        )
    )


def _fewest_bits(results: list[dict[str, Any]]) -> str:
    """Fewest effective bits; `exact` where the fingerprint probe showed no error at all, which JSON
    cannot write as a number."""
    probes = [
        result
        for result in results
        if result["probe"] == "random-zero-bias" and result["direction"] == "forward"
    ]
    bits = [result["effective_bits"] for result in probes if result["effective_bits"] is not None]
    if bits or not probes:
        return number(min(bits, default=None), ".1f")
    return "exact" if all(result["verdict"] == "pass" for result in probes) else ""
