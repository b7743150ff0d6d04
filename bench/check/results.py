"""What a check found: its results, its report, and `check.json`."""

import contextlib
import dataclasses
import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from ...porting.files.atomic import write_json
from ...reference.answer import Answer
from ...reference.errors import PatchParityError
from ...reference.expectation import Direction

SCHEMA = "patchparity.check/1"
VERDICTS = ("pass", "fail", "known", "skip", "error")


@dataclass(frozen=True)
class CheckResult:
    """One verdict; the fields are those of `check.json`, None where one does not apply.

    Args:
        implementation, backend, formulation, mode: what was checked.
        device, dtype, precision: where and how.
        case, probe: on which shape and data.
        direction: `forward`, `grad_image`, `grad_kernel` or `grad_bias`.
        verdict: `pass`, `fail`, `known`, `skip` or `error`.
        bound_ratio: largest error as a fraction of its bound; above 1 fails.
        effective_bits: on the zero-bias random probe.
        message: why it failed, was skipped, or ended in an error.
        declared, delivered: the arithmetic that the implementation declares, and the one that its
            output shows, where a probe can tell.
        behavior: of behaviors alone (`case` is `behavior`): what was found.
        mistake, killed_by: of negative controls alone: which mistake was made, and the probes that
            rejected it.
        seeds: of a check over seeds alone: how many were judged; every failure has its own row, and
            what passed is one row, the worst.
    """

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


MOST_FAILED = 20
"""Failures that are shown one by one."""


@dataclass(frozen=True, repr=False)
class CheckReport(Answer):
    """All verdicts of a check.

    Args:
        results: one for each thing that was judged.
        describe: gives the environment; called once, when somebody asks for it.
        notes: what was found out about an object that was checked.
        of_object: whether that was somebody's object, and not the suite's own implementations.
    """

    results: list[CheckResult]
    describe: Callable[[], dict[str, Any]] = field(default=dict, compare=False, repr=False)
    notes: list[str] = field(default_factory=list)
    of_object: bool = False

    @functools.cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, processor, threads: what the verdicts hold for."""
        return self.describe()

    def lines(self) -> list[str]:
        """The answer; of the suite's own implementations, the numbers of verdicts, and what
        failed."""
        if self.of_object:
            from .object_answer import answer

            return answer(self)
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.summary.items())
        failed = [row for row in self.results if row.verdict in ("fail", "error")]
        return [
            f"{'right' if self.ok else 'wrong'}: {counts}",
            *(
                f"  {row.verdict} {row.implementation} {row.dtype or ''} {row.probe or ''}: "
                f"{row.message}"
                for row in failed[:MOST_FAILED]
            ),
            *([f"  and {len(failed) - MOST_FAILED} more"] if len(failed) > MOST_FAILED else []),
        ]

    @property
    def diagnosis(self) -> str:
        """What explains the output of an object that is wrong, in a sentence; empty where it is
        right, or nothing is known to."""
        notes = [note for note in self.notes if note.startswith("diagnosis: ")]
        return notes[0].removeprefix("diagnosis: ").partition("; mend: ")[0] if notes else ""

    def raise_if_wrong(self) -> None:
        """Raise AssertionError with the answer where something failed.

        Raises:
            AssertionError: a report with a failure or an error.
        """
        __tracebackhide__ = True
        if not self.ok:
            raise AssertionError(str(self))

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
        # The fields of behaviors, of negative controls and of checks over seeds belong to these
        # alone.
        rows = [
            {
                name: value
                for name, value in dataclasses.asdict(result).items()
                if value is not None or name not in ("behavior", "mistake", "killed_by", "seeds")
            }
            for result in self.results
        ]
        optional_fields = {"notes": self.notes} if self.notes else {}
        return {
            "schema": SCHEMA,
            "environment": self.environment,
            "summary": self.summary,
            **optional_fields,
            "results": rows,
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `check.json`, in one step.

        Raises:
            PatchParityError: a file that cannot be written.
        """
        write_json(Path(path), self.to_dict())


class _Kept(msgspec.Struct):
    """What `check.json` holds of a report."""

    results: list[CheckResult]
    environment: dict[str, Any] = {}
    notes: list[str] = []


def load_check(path: Path) -> CheckReport:
    """Read `check.json`.

    Raises:
        PatchParityError: a file that cannot be read, or of another schema.
    """
    content: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise PatchParityError(f"{path} is no {SCHEMA} file")
    try:
        kept = msgspec.convert(content, _Kept)
    except msgspec.ValidationError as error:
        raise PatchParityError(f"{path} is damaged: {error}") from None
    return CheckReport(kept.results, lambda: kept.environment, kept.notes)
