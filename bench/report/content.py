"""What the report says: tables and curves, from the record alone. How it looks is `render.py`'s
concern."""

from dataclasses import dataclass
from typing import Any

from ..check.tables import false_alarms
from ..machine.environment import UNAVAILABLE
from ..machine.hosts import LOCAL
from ..record.bench_json import rows_missing
from ..record.comparisons import best_against_today
from ..record.noise import noise_floors
from ..record.words import block_title, disturbed_blocks, missed_goals, place_text
from .curves import Figure, scaling_figures
from .table import Table
from .time_tables import conv_table, fastest_table, gains_table, peers_table, time_tables
from .verdict_tables import check_tables, controls_table

CSV_FIELDS = (
    "case",
    "implementation",
    "backend",
    "formulation",
    "mode",
    "role",
    "operation",
    "host",
    "device",
    "dtype",
    "precision",
    "threads_requested",
    "threads_observed",
    "cache",
    "median_seconds",
    "q1_seconds",
    "q3_seconds",
    "rounds",
    "gflops",
    "gigabytes_per_second",
    "gemm_fraction",
    "own_gemm_fraction",
    "roof_fraction",
    "ratio",
    "ratio_low",
    "ratio_high",
    "disturbed_rounds",
    "verdict",
    "bound_ratio",
    "effective_bits",
    "first_call_seconds",
    "trace_seconds",
    "compile_seconds",
    "load_seconds",
    "transfer_seconds",
    "peak_memory_bytes",
)
"""Columns of `report.csv`; the values are those of `bench.json`."""


@dataclass(frozen=True)
class Content:
    """The whole report."""

    summary: list[tuple[str, str]]
    tables: list[Table]
    figures: list[Figure]
    csv_rows: list[dict[str, Any]]


def build_content(
    bench: dict[str, Any],
    check: dict[str, Any] | None,
    controls: dict[str, Any] | None = None,
    seeds: dict[str, Any] | None = None,
) -> Content:
    """Say everything that `bench.json` and, if they are there, `check.json`, `controls.json` and
    `seeds.json` hold."""
    entries = bench["benchmarks"]
    against_today = best_against_today(entries)
    tables = ([] if check is None else check_tables(check)) + (
        [] if controls is None else [controls_table(controls)]
    )
    tables = [
        fastest_table(entries),
        *tables,
        _left_out(bench),
        conv_table(entries),
        gains_table(entries, against_today),
        peers_table(against_today),
        *time_tables(entries),
    ]
    return Content(
        summary=_summary(bench, check, seeds, entries),
        tables=[table for table in tables if table.rows],
        figures=scaling_figures(entries),
        csv_rows=[_csv_row(entry) for entry in entries],
    )


def _summary(
    bench: dict[str, Any],
    check: dict[str, Any] | None,
    seeds: dict[str, Any] | None,
    entries: list[dict[str, Any]],
) -> list[tuple[str, str]]:
    environment = bench["environment"]
    versions = {
        name: version
        for name, version in environment["versions"].items()
        if version != "not installed"
    }
    floors = noise_floors(entries)
    lines = []
    if check is not None:
        lines.append(
            (
                "Correctness",
                ", ".join(f"{count} {verdict}" for verdict, count in check["summary"].items()),
            )
        )
    if seeds is not None:
        lines.append(("False alarms", false_alarms(seeds["results"])))
    wrong = sum(entry["extra_info"]["verdict"] == "fail" for entry in entries) + len(
        bench["failures"]
    )
    lines.append(
        ("Timed rows", f"{len(entries)} measured, {wrong} failed, {len(bench['skipped'])} skipped")
    )
    if floors:
        lowest, highest = (f"{100 * end(floors.values()):.1f}%" for end in (min, max))
        range_text = (
            lowest if highest == lowest else f"{lowest} to {highest} by case, device and operation"
        )
        why = "(A/A rows: the same code in two processes); smaller differences mean nothing here"
        lines.append(("Noise", f"{range_text} {why}"))
    if disturbed := disturbed_blocks(entries):
        told = "; ".join(f"{block_title(block)}: {words}" for block, words in disturbed.items())
        lines.append(("Disturbed", f"measure these again, for others computed meanwhile: {told}"))
    if missed := missed_goals(entries):
        lines.append(
            (
                "Goal missed",
                "; ".join(f"{block_title(block)}: {words}" for block, words in missed.items()),
            )
        )
    if missing := rows_missing(bench):
        lines.insert(
            0,
            (
                "Partial",
                f"{missing} of {bench['planned']} rows are missing: the run was interrupted, and "
                "--resume goes on",
            ),
        )
    lines += [
        (
            "Machine",
            f"{environment['processor']}, {environment['cores']} cores, "
            f"{_gigabytes(environment['memory_bytes'])}",
        ),
        *(
            (
                f"Machine {label}",
                f"{other['processor']}, {other['cores']} cores, GPU "
                f"{', '.join(other['gpus']) or 'none'}",
            )
            for label, other in environment.get("hosts", {}).items()
        ),
        ("GPU", ", ".join(environment["gpus"]) or "none"),
        ("BLAS of NumPy", _blas(environment)),
        ("Software", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Python", f"{environment['python']} on {environment['platform']}"),
        (
            "Measured",
            f"{bench['datetime'][:16].replace('T', ' ')} UTC, preset {bench['options']['preset']}, "
            f"seed {bench['options']['seed']}",
        ),
    ]
    return lines


def _blas(environment: dict[str, Any]) -> str:
    """The BLAS of NumPy, and which of its kernels ran, where the record holds that."""
    kernels = environment.get("blas_kernels", UNAVAILABLE)
    return environment["blas"] + (f", kernels of {kernels}" if kernels != UNAVAILABLE else "")


def _gigabytes(size: int | str) -> str:
    return f"{size / 2**30:.0f} GiB" if isinstance(size, int) else f"memory {size}"


def _left_out(bench: dict[str, Any]) -> Table:
    rows, marks = [], []
    for outcome in bench["failures"] + bench["skipped"]:
        marks.append("skip" if outcome["status"] == "skip" else "fail")
        host = "" if outcome["host"] == LOCAL else f" on {outcome['host']}"
        cold = " (cold cache)" if outcome["cache"] == "cold" else ""
        place = (
            outcome["case"] + host + cold,
            place_text(outcome),
            outcome["dtype"],
            str(outcome["threads_requested"]),
        )
        rows.append(
            (
                outcome["implementation"],
                outcome["operation"],
                *place,
                outcome["status"],
                outcome["message"],
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


def _csv_row(entry: dict[str, Any]) -> dict[str, Any]:
    stats, info = entry["stats"], dict(entry["extra_info"])
    low, high = info["ratio_interval"] or (None, None)
    info.update(ratio_low=low, ratio_high=high, rounds=stats["rounds"])
    info.update(median_seconds=stats["median"], q1_seconds=stats["q1"], q3_seconds=stats["q3"])
    return {name: info.get(name) for name in CSV_FIELDS}
