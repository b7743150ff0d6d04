"""What the report says: answers, tables and pictures, from the record alone. How it looks is
`render.py`'s concern."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..check.results import CheckReport
from ..check.tables import false_alarms
from ..machine.environment import UNAVAILABLE
from ..machine.hosts import LOCAL
from ..record.columns import csv_text
from ..record.comparisons import pairs_of
from ..record.noise import noise_floors
from ..record.rows import Block
from ..record.schema import Bench, Environment, Measured
from ..record.words import block_title, disturbed_blocks, missed_goals, place_text
from .front import Answer, answers_of, frameworks_of, noise_line, verdict_line
from .pictures import Drawn, Picture, pictures_of
from .table import Table
from .time_tables import conv_table, fastest_table, gains_table, peers_table, time_tables
from .verdict_tables import check_tables, controls_table


@dataclass(frozen=True)
class Content:
    """The whole report.

    Args:
        verdict, noise: the first two lines: what is right, and how sure a difference is.
        all_right: whether none is wrong.
        frameworks: in the order of their colors.
        answers: what to use for each shape.
        summary: what was measured and where, as names and texts.
        tables, pictures: all of them.
        csv: the text of `report.csv`.
    """

    verdict: str
    noise: str
    all_right: bool
    frameworks: list[str]
    answers: list[Answer]
    summary: list[tuple[str, str]]
    tables: list[Table]
    pictures: list[Picture]
    csv: str


def build_content(
    bench: Bench,
    check: CheckReport | None,
    controls: CheckReport | None = None,
    seeds: CheckReport | None = None,
    *,
    comparisons: Sequence[Table] = (),
    trends: Sequence[Drawn] = (),
) -> Content:
    """Say everything that `bench.json` and, if they are there, `check.json`, `controls.json` and
    `seeds.json` hold; `comparisons` and `trends` are those with other records."""
    entries = bench.benchmarks
    convolutions, against_today = pairs_of(bench)
    tables = ([] if check is None else check_tables(check)) + (
        [] if controls is None else [controls_table(controls)]
    )
    tables = [
        fastest_table(entries),
        *comparisons,
        *tables,
        _left_out(bench),
        conv_table(convolutions),
        gains_table(entries, against_today),
        peers_table(against_today),
        *time_tables(entries),
    ]
    answers = answers_of(entries, against_today)
    verdict, all_right = verdict_line(bench, check)
    return Content(
        verdict=verdict,
        noise=noise_line(bench),
        all_right=all_right,
        frameworks=frameworks_of(entries),
        answers=answers,
        summary=_summary(bench, check, seeds, entries),
        tables=[table for table in tables if table.rows],
        pictures=pictures_of(entries, answers, convolutions, trends),
        csv=csv_text(entries),
    )


def _summary(
    bench: Bench,
    check: CheckReport | None,
    seeds: CheckReport | None,
    entries: list[Measured],
) -> list[tuple[str, str]]:
    """What stands above all tables: verdicts, what was measured and how quietly, and where."""
    lines = _of_verdicts(check, seeds)
    wrong = sum(entry.extra_info.verdict == "fail" for entry in entries) + len(bench.failures)
    lines.append(
        ("Timed rows", f"{len(entries)} measured, {wrong} failed, {len(bench.skipped)} skipped")
    )
    lines += _of_noise(entries)
    if missing := bench.missing:
        partial = (
            f"{missing} of {bench.planned} rows are missing: the run was interrupted, and "
            "--resume goes on"
        )
        lines.insert(0, ("Partial", partial))
    return [*lines, *_of_machines(bench)]


def _of_verdicts(check: CheckReport | None, seeds: CheckReport | None) -> list[tuple[str, str]]:
    lines = []
    if check is not None:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in check.summary.items())
        lines.append(("Correctness", counts))
    if seeds is not None:
        lines.append(("False alarms", false_alarms(seeds.results)))
    return lines


def _of_noise(entries: list[Measured]) -> list[tuple[str, str]]:
    """The noise floor, what was measured while others computed, and goals that were missed."""
    lines = []
    if floors := noise_floors(entries):
        lowest, highest = (f"{100 * end(floors.values()):.1f}%" for end in (min, max))
        range_text = (
            lowest if highest == lowest else f"{lowest} to {highest} by case, device and operation"
        )
        why = "(A/A rows: the same code in two processes); smaller differences mean nothing here"
        lines.append(("Noise", f"{range_text} {why}"))
    if disturbed := _by_block(disturbed_blocks(entries)):
        told = f"measure these again, for others computed meanwhile: {disturbed}"
        lines.append(("Disturbed", told))
    if missed := _by_block(missed_goals(entries)):
        lines.append(("Goal missed", missed))
    return lines


def _by_block(words_of: Mapping[Block, str]) -> str:
    """What is said of some blocks, one behind the other."""
    return "; ".join(f"{block_title(block)}: {words}" for block, words in words_of.items())


def _of_machines(bench: Bench) -> list[tuple[str, str]]:
    environment = bench.environment
    versions = {
        name: version
        for name, version in environment.versions.items()
        if version != "not installed"
    }
    measured = f"{bench.datetime[:16].replace('T', ' ')} UTC"
    return [
        (
            "Machine",
            f"{environment.processor}, {environment.cores} cores, "
            f"{_gigabytes(environment.memory_bytes)}",
        ),
        *(
            (
                f"Machine {label}",
                f"{other.processor}, {other.cores} cores, GPU {', '.join(other.gpus) or 'none'}",
            )
            for label, other in environment.hosts.items()
        ),
        ("GPU", ", ".join(environment.gpus) or "none"),
        ("BLAS of NumPy", _blas(environment)),
        ("Software", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Python", f"{environment.python} on {environment.platform}"),
        ("Measured", f"{measured}, preset {bench.options.preset}, seed {bench.options.seed}"),
    ]


def _blas(environment: Environment) -> str:
    """The BLAS of NumPy, and which of its kernels ran, where the record holds that."""
    kernels = environment.blas_kernels
    return environment.blas + (f", kernels of {kernels}" if kernels != UNAVAILABLE else "")


def _gigabytes(size: int | str) -> str:
    return f"{size / 2**30:.0f} GiB" if isinstance(size, int) else f"memory {size}"


def _left_out(bench: Bench) -> Table:
    rows, marks = [], []
    for outcome in bench.failures + bench.skipped:
        marks.append("skip" if outcome.status == "skip" else "fail")
        host = "" if outcome.host == LOCAL else f" on {outcome.host}"
        cold = " (cold cache)" if outcome.cache == "cold" else ""
        place = (
            outcome.case + host + cold,
            place_text(outcome),
            outcome.dtype,
            str(outcome.threads_requested),
        )
        rows.append(
            (
                outcome.implementation,
                outcome.operation,
                *place,
                outcome.status,
                outcome.message,
            )
        )
    return Table(
        "Not timed",
        "A time is only given beside a verdict.",
        ("implementation", "operation", "case", "device", "dtype", "threads", "status", "why"),
        rows,
        frozenset({5}),
        marks,
    )
