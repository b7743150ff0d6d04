"""What a check found: its results, its report, and `check.json`."""

import contextlib
import dataclasses
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from ...reference.errors import PatchParityError
from ...reference.probes import Direction
from ..record.record import write_json

SCHEMA = "patchparity.check/1"
VERDICTS = ("pass", "fail", "known", "skip", "error")


@dataclass(frozen=True)
class CheckResult:
    """One verdict; the fields are those of `check.json`, None where one does not apply."""

    implementation: str
    backend: str
    formulation: str | None = None
    mode: str | None = None
    device: str | None = None
    dtype: str | None = None
    precision: str | None = None
    case: str | None = None
    probe: str | None = None
    direction: Direction | None = None
    verdict: Literal["pass", "fail", "known", "skip", "error"] = "pass"
    bound_ratio: float | None = None
    effective_bits: float | None = None
    message: str = ""
    declared: str | None = None
    delivered: str | None = None
    behavior: str | None = None
    mistake: str | None = None
    killed_by: tuple[str, ...] | None = None
    seeds: int | None = None


@dataclass(frozen=True)
class CheckReport:
    """All verdicts of a check, the environment that they hold for, and what was found out about an object that was checked."""

    results: list[CheckResult]
    environment: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, int]:
        """Number of results with each verdict."""
        counts = Counter(result.verdict for result in self.results)
        return {verdict: counts[cast(Any, verdict)] for verdict in VERDICTS}

    @property
    def ok(self) -> bool:
        """Whether nothing failed and nothing ended in an error."""
        return not (self.summary["fail"] or self.summary["error"])

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `check.json`."""
        # The fields of behaviors, of negative controls and of checks over seeds belong to these alone.
        rows = [
            {
                name: value
                for name, value in dataclasses.asdict(result).items()
                if value is not None or name not in ("behavior", "mistake", "killed_by", "seeds")
            }
            for result in self.results
        ]
        told = {"notes": self.notes} if self.notes else {}
        return {"schema": SCHEMA, "environment": self.environment, "summary": self.summary, **told, "results": rows}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `check.json`, in one step.

        Raises:
            PatchParityError: a file that cannot be written.
        """
        write_json(Path(path), self.to_dict())


def false_alarms(results: list[dict[str, Any]]) -> str:
    """Say in one sentence what a check over seeds found; empty for any other check.

    Args:
        results: rows of `check.json`.
    """
    seeded = [result for result in results if result.get("seeds")]
    if not seeded:
        return ""
    judged = sum(result["seeds"] for result in seeded)
    rejected = sum(result["verdict"] in ("fail", "error") for result in seeded)
    known = sum(result["verdict"] == "known" for result in seeded)
    worst = max((result["bound_ratio"] or 0.0 for result in seeded if result["verdict"] == "pass"), default=0.0)
    names = len({result["implementation"] for result in seeded})
    aside = f", {known} for a known fault" if known else ""
    return (
        f"{judged:,} verdicts on {names} implementations over {max(result['seeds'] for result in seeded)} seeds: {rejected} rejected{aside}; "
        f"the worst error of the others is {worst:.2f} of its bound"
    )


def load_check(path: Path) -> dict[str, Any]:
    """Read `check.json`.

    Raises:
        PatchParityError: a file that cannot be read, or of another schema.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text())
        if isinstance(content, dict) and content.get("schema") == SCHEMA:
            return content
    raise PatchParityError(f"{path} is no {SCHEMA} file")


def kill_table(results: list[dict[str, Any]]) -> list[tuple[str, dict[str, tuple[int, int]], str, str]]:
    """Each mistake: rejected and made by dtype, the worst verdict, and the probes that reject it in most cells.

    Args:
        results: rows of negative controls.
    """
    cells: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        cells.setdefault(result["mistake"], []).append(result)
    lines = []
    for mistake, rows in cells.items():
        counts = {}
        for dtype in dict.fromkeys(row["dtype"] for row in rows):
            own = [bool(row["killed_by"]) for row in rows if row["dtype"] == dtype]
            counts[dtype] = (sum(own), len(own))
        worst = next((verdict for verdict in ("fail", "known") if any(row["verdict"] == verdict for row in rows)), "pass")
        killers = Counter(probe for row in rows for probe in row["killed_by"] or ())
        lines.append((mistake, counts, worst, ", ".join(probe for probe, _ in killers.most_common(3))))
    return lines


def behavior_findings(results: list[dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Behaviors on which implementations differ, or whose finding is no plain pass: (behavior, finding, names, verdict, message).

    Args:
        results: rows of `check.json`.
    """
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for result in results:
        if result.get("behavior") is not None:
            found.setdefault(result["probe"], {}).setdefault(result["behavior"], []).append(result)
    lines = []
    for probe, findings in found.items():
        if len(findings) == 1 and all(row["verdict"] == "pass" for rows in findings.values() for row in rows):
            continue
        members = [row for rows in findings.values() for row in rows]
        for finding, rows in findings.items():
            worst = next((row for verdict in ("fail", "known") for row in rows if row["verdict"] == verdict), rows[0])
            messages = "; ".join(dict.fromkeys(row["message"] for row in rows if row["message"]))
            lines.append((probe, finding, _grouped(rows, members), worst["verdict"], messages))
    return lines


def _grouped(rows: list[dict[str, Any]], members: list[dict[str, Any]]) -> str:
    """Names of implementations; a backend's name where all of its own that were asked are among them."""
    names: dict[str, None] = {}
    for row in rows:
        own = [other["implementation"] for other in members if other["backend"] == row["backend"]]
        whole = {other["implementation"] for other in rows if other["backend"] == row["backend"]} == set(own)
        names[row["backend"] if whole else row["implementation"]] = None
    return ", ".join(names)
