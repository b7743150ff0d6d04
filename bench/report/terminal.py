"""What the terminal shows: tables that fit 80 columns, then one line for everything that failed,
surprised or was skipped."""

from collections import defaultdict
from typing import TYPE_CHECKING

import rich.box
from rich.table import Table

from .console import escape, out

if TYPE_CHECKING:
    from ..answers.compare_report import CompareReport
    from ..answers.recommendation import Recommendation
    from ..check.results import CheckReport, CheckResult
    from ..record.schema import Measured
    from ..timing.benchmark import BenchReport

MOST_LINES = 20
"""Findings of one kind that are printed one by one."""

STYLES = {
    "pass": "green",
    "fail": "bold red",
    "error": "bold red",
    "skip": "yellow",
    "known": "cyan",
}


def print_bench(report: "BenchReport") -> None:
    """Print, for each case, the fastest formulation of each framework, then what was disturbed and
    what failed."""
    from ..answers.fastest import fastest
    from ..record.words import (
        OPERATION_NOTES,
        block_title,
        disturbed_blocks,
        missed_goals,
        place_text,
        rate_text,
        ratio_text,
    )

    table = _table(
        "Fastest of each framework",
        ("implementation",),
        ("ms", "GFLOP/s", "of GEMM", "of reference [95%]"),
    )
    best = fastest(report.bench.benchmarks)
    titles: dict[int, str] = {}
    last = None
    for (block, operation, *_), entry in best.items():
        info = entry.extra_info
        # The type unless it is said.
        name = block_title(block).replace(", float32", "") + OPERATION_NOTES.get(operation, "")
        if name != last:
            titles[table.row_count] = f"[bold]{escape(name)}[/]"
            table.add_row()
        table.add_row(
            "  "
            + info.implementation
            + ("" if (place := place_text(info)) == "cpu" else f" {place}"),
            f"{1e3 * entry.stats.median:.3g}",
            "" if info.gflops is None else rate_text(info.gflops),
            "" if info.gemm_fraction is None else f"{100 * info.gemm_fraction:.0f}%",
            "" if info.ratio is None else escape(ratio_text(info.ratio, info.ratio_interval)),
        )
        last = name
    if best:
        _print_with_titles(table, titles)
    for title in report.bench.measured_anew:
        out.print(
            f"measured anew: {escape(title)}; its rows, rounds or seed were not those of the "
            "record, or it was not finished",
            soft_wrap=True,
        )
    for block, sentence in disturbed_blocks(report.bench.benchmarks).items():
        out.print(
            f"[yellow]disturbed[/] {escape(block_title(block))}: {sentence}; measure again",
            soft_wrap=True,
        )
    for block, sentence in missed_goals(report.bench.benchmarks).items():
        out.print(
            f"[yellow]goal missed[/] {escape(block_title(block))}: {sentence} (more --rounds or "
            "--time-budget, or a quieter machine)",
            soft_wrap=True,
        )
    for outcome in report.bench.failures:
        what = {"tokens": "", "one-patch": ", one patch"}.get(
            outcome.operation, f", {outcome.operation}"
        )
        out.print(
            f"[{STYLES['fail']}]{outcome.status}[/] {outcome.implementation} "
            f"{outcome.case}{what}: {escape(outcome.message)}"
        )
    _print_objects(report.bench.benchmarks)
    for message in dict.fromkeys(outcome.message for outcome in report.bench.skipped):
        out.print(f"[{STYLES['skip']}]skip[/] {escape(message)}")


def _print_objects(entries: "list[Measured]") -> None:
    """A line for each of somebody's own implementations that was timed."""
    from ...porting.objects.implementation import OBJECT_MODE
    from ..record.words import OPERATION_NOTES, block_title

    for entry in entries:
        info = entry.extra_info
        if info.mode == OBJECT_MODE and info.role == "peer":
            where = block_title(info.block).replace(", float32", "") + OPERATION_NOTES.get(
                info.operation, ""
            )
            summary = (
                f"{1e3 * entry.stats.median:.3g} ms, {info.verdict}, "
                f"{info.bound_ratio:.2g} of its bound"
            )
            out.print(f"peer {escape(info.implementation)} {escape(where)}: {summary}")


def _print_with_titles(table: Table, titles: dict[int, str]) -> None:
    """Print a table with titles, of whatever length, in the place of its empty rows: as cells they
    would take room from every column."""
    with out.capture() as captured:
        out.print(table)
    lines = captured.get().splitlines()
    begin = (
        next((number for number, line in enumerate(lines) if "───" in line or "---" in line), 0) + 1
    )
    for number, line in enumerate(lines):
        title = titles.get(number - begin)
        if title is None:
            out.file.write(line + "\n")
        else:
            out.print(title, soft_wrap=True)


def print_compare(report: "CompareReport") -> None:
    """Print what surely changed, worst first, then how many rows did not, and what differs between
    the records."""
    from ..record.words import ratio_text

    changed_rows = [row for row in report.rows if row.comparison.word in ("FASTER", "SLOWER")]
    table = _table("Changed", ("",), ("old ms", "new ms", "new/old [95%]"))
    titles: dict[int, str] = {}
    for row in sorted(changed_rows, key=lambda row: -row.comparison.ratio):
        style = STYLES[
            "fail" if row.regression else "known" if row.comparison.word == "SLOWER" else "pass"
        ]
        interval = ratio_text(row.comparison.ratio, row.comparison.interval)
        titles[table.row_count] = f"[{style}]{row.comparison.word}[/] {escape(row.name)}"
        table.add_row()
        table.add_row("", f"{1e3 * row.old:.4g}", f"{1e3 * row.new:.4g}", escape(interval))
    if changed_rows:
        _print_with_titles(table, titles)
    unsure = [row for row in report.rows if row.comparison.word == "UNSURE"]
    for row in unsure[:MOST_LINES]:
        out.print(
            f"UNSURE {escape(row.name)}: {row.comparison.ratio:.3f}, "
            f"{escape(row.comparison.reason)}",
            soft_wrap=True,
        )
    if len(unsure) > MOST_LINES:
        out.print(f"... and {len(unsure) - MOST_LINES} more UNSURE (--json FILE holds them all)")
    for name, message in report.failed.items():
        out.print(
            f"[{STYLES['fail']}]failed[/] in the new record: {escape(name)}: {escape(message)}",
            soft_wrap=True,
        )
    for name in report.only_old:
        out.print(f"in the old record alone: {escape(name)}", soft_wrap=True)
    for name in report.only_new:
        out.print(f"in the new record alone: {escape(name)}", soft_wrap=True)
    for difference in report.differences:
        out.print(escape(difference), soft_wrap=True)
    out.print(escape(report.summary()), soft_wrap=True)


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    """A table that fits 80 columns: no frame, nothing wrapped, numbers to the right."""
    table = Table(
        title=title,
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in texts:
        table.add_column(escape(name), no_wrap=True)
    for name in numbers:
        table.add_column(escape(name), no_wrap=True, justify="right")
    return table


def print_controls(report: "CheckReport") -> None:
    """Print the kill table: for each mistake, in how many problems of each dtype it was rejected,
    and what may survive and why."""
    from ..check.tables import kill_table

    dtypes = list(dict.fromkeys(result.dtype or "" for result in report.results))
    table = _table("Kill table: rejected of made", ("mistake",), tuple(dtypes))
    for mistake, counts, worst, _ in kill_table(report.results):
        cells = []
        for dtype in dtypes:
            killed, made = counts.get(dtype, (0, 0))
            style = "pass" if killed == made else worst
            cells.append(f"[{STYLES[style]}]{killed}/{made}[/]" if made else "")
        table.add_row(mistake, *cells)
    out.print(table)
    for message in dict.fromkeys(
        f"{result.mistake} in {result.dtype}: {result.message}"
        for result in report.results
        if result.message
    ):
        out.print(escape(message))
    out.print(", ".join(f"{count} {verdict}" for verdict, count in report.summary.items()))


def controls_line(report: "CheckReport") -> str:
    """One line on negative controls, for a run that shows their table in the report."""
    made, survived = len(report.results), report.summary["known"]
    if not report.ok:
        return (
            f"[{STYLES['fail']}]fail[/] {report.summary['fail']} of {made} mistakes made on "
            "purpose went unnoticed"
        )
    return (
        f"{made - survived} of {made} mistakes made on purpose were rejected; the others "
        "change "
        "nothing, as their derivations show"
    )


def print_check(report: "CheckReport") -> None:
    """Print one line for each implementation, device (where it is not the CPU) and dtype, then what
    failed and what was skipped."""
    from ..check.tables import false_alarms

    groups: dict[tuple[str, str, str], list[CheckResult]] = defaultdict(list)
    for result in report.results:
        if (
            result.verdict in ("pass", "fail", "known", "error")
            and result.dtype
            and result.behavior is None
        ):
            held = "" if result.precision in (None, "ieee", "default") else f" {result.precision}"
            groups[result.implementation, result.device or "", result.dtype + held].append(result)
    table = _table("Check", ("implementation", "dtype", "verdict"), ("error/bound", "bits"))
    for (name, device, dtype), results in groups.items():
        wrong = [result for result in results if result.verdict in ("fail", "error")]
        known = [result for result in results if result.verdict == "known"]
        ratios = [result.bound_ratio for result in results if result.bound_ratio is not None]
        bits = [result.effective_bits for result in results if result.effective_bits is not None]
        verdict = (
            f"[{STYLES['fail']}]fail {len(wrong)}/{len(results)}[/]"
            if wrong
            else f"[{STYLES['known']}]known {len(known)}/{len(results)}[/]"
            if known
            else f"[{STYLES['pass']}]pass {len(results)}[/]"
        )
        worst, fewest = f"{max(ratios):.2g}" if ratios else "", f"{min(bits):.1f}" if bits else ""
        table.add_row(
            name + ("" if device == "cpu" else f" {device}"),
            dtype,
            verdict,
            worst,
            "exact" if fewest == "inf" else fewest,
        )
    if groups:
        out.print(table)
    _print_behaviors(report)
    for message in dict.fromkeys(
        result.message for result in report.results if result.verdict == "known"
    ):
        out.print(f"[{STYLES['known']}]known[/] {escape(message)}")
    for note in report.notes:
        out.print(escape(note), soft_wrap=True)
    reported = [result for result in report.results if result.verdict in ("fail", "error")]
    has_diagnosis = any(note.startswith("diagnosis: ") for note in report.notes)
    for result in reported[:MOST_LINES]:
        place = " ".join(filter(None, (result.dtype, result.case, result.probe, result.direction)))
        message = result.message.partition("; diagnosis: ")[0] if has_diagnosis else result.message
        out.print(
            f"[{STYLES[result.verdict]}]{result.verdict}[/] {result.implementation} "
            f"{escape(place)}: {escape(message)}"
        )
    if len(reported) > MOST_LINES:
        out.print(f"... and {len(reported) - MOST_LINES} more (--json FILE holds them all)")
    skips: dict[str, list[str]] = defaultdict(list)
    for result in report.results:
        if result.verdict == "skip":
            skips[result.message].append(result.implementation)
    for message, names in skips.items():
        listed = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        out.print(f"[{STYLES['skip']}]skip[/] {listed}: {escape(message)}")
    if alarms := false_alarms(report.results):
        out.print(alarms, soft_wrap=True)
    out.print(", ".join(f"{count} {verdict}" for verdict, count in report.summary.items()))


def _print_behaviors(report: "CheckReport") -> None:
    """Print what was found where implementations differ, or surprise; one line for each finding."""
    from ..check.tables import behavior_findings

    findings = behavior_findings(report.results)
    if not findings:
        return
    table = _table("Behavior, where it differs or surprises", ("behavior", "found", "of"), ())
    for probe, finding, names, verdict, _ in findings:
        shown = names if len(names) <= 36 else f"{names[:33].rsplit(',', 1)[0]}, ..."
        table.add_row(probe, f"[{STYLES[verdict]}]{escape(finding)}[/]", escape(shown))
    out.print(table)


def print_recommendation(recommendation: "Recommendation") -> None:
    """Print what to use: the answer, what it follows from on each framework, and the lines of
    code."""
    out.print(f"[bold]{escape(recommendation.answer())}[/]", soft_wrap=True)
    out.print(
        f"[bold]{escape(recommendation.subject())}[/] ({escape(recommendation.measured)})",
        soft_wrap=True,
    )
    table = _table("What to use on each framework", ("use",), ("ms", "of GEMM", "gain [95%]", ""))
    for choice in recommendation.choices:
        table.add_row(*choice.cells())
    out.print(table)
    first = recommendation.choices[0]
    if recommendation.runner_up is not None:
        out.print(escape(recommendation.runner_up.sentence()))
    for choice in recommendation.choices:
        out.print(f"{choice.framework}: {escape(choice.sentence())}")
    for note in recommendation.notes:
        out.print(f"[red]note[/] {escape(note)}", soft_wrap=True)
    layouts = f"images {first.layouts['images']}; kernel {first.layouts['kernel']}"
    out.print(
        f"\n[bold]{escape(first.implementation)}[/], given `kernel` and `bias` "
        f"({escape(layouts)}):\n"
    )
    out.print(escape(first.code), soft_wrap=True)
