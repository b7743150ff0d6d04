"""What is derived from the record: throughput, fractions of the GEMM, ratios. One definition for table, JSON, CSV and page."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backends.base import get_backend
from .cases import Case
from .hosts import LOCAL
from .statistics import by_generation, noise_floor, paired_ratio
from .timing import DISTURBED_CORES, Block, Row, products, row_problem, row_work
from .workers import OPERATIONS


def extra_information(
    outcome: dict[str, Any],
    block: list[dict[str, Any]],
    seconds: dict[str, list[float]],
    case: Case,
    rounds: list[dict[str, Any]],
    generations: list[int],
) -> dict[str, Any]:
    """Return `extra_info` of a measured row: its outcome, and what follows from its samples and those of its block.

    Args:
        outcome: the row, as in `rows.jsonl`.
        block: all rows of its interleave.
        seconds: samples of the block's measured rows, by row, in the order of the rounds.
        case: the sizes.
        rounds: the row's samples, with what was noted of their rounds.
        generations: how many rounds each generation of workers had.

    Returns:
        The fields of the README's table; None where one does not apply or is not measured.
    """
    own = seconds[outcome["row"]]
    median = statistics.median(own)
    backend, *rest = outcome["implementation"].split(":")
    formulation, mode = (*rest, None)[:2]
    itemsize = np.dtype(outcome["dtype"]).itemsize
    operations, least_bytes = row_work(outcome["operation"], _problem(outcome, case), itemsize)
    here = [row for row in block if row["row"] in seconds and row["device"] == outcome["device"]]
    # What computes something else (a square, a copy, one patch) is not compared with the case's products, nor with its reference.
    comparable = outcome["operation"] in (*OPERATIONS, "gemm")
    gemms = [row for row in here if row["operation"] == "gemm" and comparable]
    fastest = min(gemms, key=lambda row: statistics.median(seconds[row["row"]]), default=None)
    own_gemm = next((row for row in gemms if row["backend"] == get_backend(backend).yardstick), None)
    reference = next((row for row in block if row["role"] == "aa"), None)
    alike = "tokens" if outcome["operation"] == "gemm" else outcome["operation"]
    reference_row = next(
        (
            row
            for row in block
            if reference is not None
            and row["implementation"] == reference["implementation"]
            and (row["role"], row["operation"]) == ("implementation", alike)
        ),
        None,
    )
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    if comparable and reference_row is not None and len(seconds.get(reference_row["row"], [])) == len(own):
        ratio, interval = paired_ratio(*(by_generation(each, generations) for each in (own, seconds[reference_row["row"]])))
    return {
        "implementation": outcome["implementation"],
        "backend": backend,
        "formulation": formulation,
        "mode": mode,
        "case": outcome["case"],
        "batch": case.batch,
        "host": outcome["host"],
        "device": outcome["device"],
        "dtype": outcome["dtype"],
        "precision": outcome["precision"],
        "threads_requested": outcome["threads_requested"],
        "threads_observed": outcome.get("threads_observed"),
        "cores_busy": outcome.get("cores_busy"),
        "gflops": operations / median / 1e9,
        "gigabytes_per_second": least_bytes / median / 1e9,
        "gemm_fraction": _fraction(fastest, own, seconds, products(outcome["operation"])),
        "own_gemm_fraction": _fraction(own_gemm, own, seconds, products(outcome["operation"])),
        "verdict": outcome.get("verdict"),
        "bound_ratio": outcome.get("bound_ratio"),
        "effective_bits": outcome.get("effective_bits"),
        "operation": outcome["operation"],
        "cache": outcome["cache"],
        "timer": outcome.get("timer"),
        **_roof(outcome, here, own, seconds, case),
        "peak_memory_bytes": outcome.get("peak_memory_bytes"),
        "ratio": ratio,
        "ratio_interval": None if interval is None else list(interval),
        "role": outcome["role"],
        "generations": generations,
        "disturbance": _typical(rounds, "disturbance"),
        "disturbed_rounds": sum(each["disturbed"] for each in rounds),
        "steal": _typical(rounds, "steal"),
        "clock_mhz": _typical(rounds, "clock_mhz"),
        "seed": outcome.get("seed"),
        "load_seconds": outcome.get("load_seconds"),
        "transfer_seconds": outcome.get("transfer_seconds"),
        "first_call_seconds": outcome.get("first_call_seconds"),
        "trace_seconds": outcome.get("trace_seconds"),
        "compile_seconds": outcome.get("compile_seconds"),
    }


def _typical(rounds: list[dict[str, Any]], name: str) -> float | None:
    """Median over the rounds in which something was told."""
    told = [each[name] for each in rounds if each[name] is not None]
    return statistics.median(told) if told else None


def _fraction(gemm: dict[str, Any] | None, own: list[float], seconds: dict[str, list[float]], count: int) -> float | None:
    """Median over rounds of the GEMM's seconds, `count` times, over the row's: 1 where the row is as fast as its bare matrix products."""
    if gemm is None or len(seconds[gemm["row"]]) != len(own):
        return None
    return float(np.median(count * np.asarray(seconds[gemm["row"]]) / np.asarray(own)))


def _problem(outcome: dict[str, Any], case: Case) -> Case:
    return row_problem(
        Row(
            *(
                outcome[name]
                for name in ("case", "implementation", "device", "dtype", "precision", "threads_requested", "operation")
            )
        ),
        case,
    )


def _roof(
    outcome: dict[str, Any], here: list[dict[str, Any]], own: list[float], seconds: dict[str, list[float]], case: Case
) -> dict[str, Any]:
    """How far a row is from the machine's limit, round by round: the longest of three times that nothing can undercut.

    Computing: the fastest same-shape matrix product, as often as the operation contains one. Moving: the least bytes at the rate of
    the fastest copy of about as many. Calling: the row's own implementation on one patch. `roof` names the one that decides in the median round.
    """
    if outcome["operation"] not in OPERATIONS:
        return {"roof": None, "roof_fraction": None}
    rounds = len(own)
    gemms = [seconds[row["row"]] for row in here if row["operation"] == "gemm" and len(seconds[row["row"]]) == rounds]
    copies = [seconds[row["row"]] for row in here if row["operation"] == "copy" and len(seconds[row["row"]]) == rounds]
    calls = [
        seconds[row["row"]]
        for row in here
        if row["operation"] == "one-patch"
        and row["implementation"] == outcome["implementation"]
        and len(seconds[row["row"]]) == rounds
    ]
    if not gemms or not copies or not calls:
        return {"roof": None, "roof_fraction": None}
    itemsize = np.dtype(outcome["dtype"]).itemsize
    share = row_work(outcome["operation"], case, itemsize)[1] / row_work("copy", case, itemsize)[1]
    limits = {
        "compute": products(outcome["operation"]) * np.array(min(gemms, key=statistics.median)),
        "bandwidth": share * np.array(min(copies, key=statistics.median)),
        "dispatch": np.array(calls[0]),
    }
    name = max(limits, key=lambda each: float(np.median(limits[each])))
    highest = np.max(list(limits.values()), axis=0)
    return {"roof": name, "roof_fraction": float(np.median(highest / np.array(own)))}


def fastest(benchmarks: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The fastest implementation of each backend, by (block, device, backend), in the record's order."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in benchmarks:
        info = entry["extra_info"]
        if (info["role"], info["operation"]) == ("implementation", "tokens"):
            key = (row_block(info), info["device"], info["backend"])
            if key not in best or entry["stats"]["median"] < best[key]["stats"]["median"]:
                best[key] = entry
    return best


def disturbed_cases(benchmarks: list[dict[str, Any]]) -> dict[str, float]:
    """Cases that a neighbor disturbed, and how many cores it kept busy."""
    found: dict[str, float] = {}
    for entry in benchmarks:
        info = entry["extra_info"]
        if (info["disturbance"] or 0) > DISTURBED_CORES:
            found[info["case"]] = max(found.get(info["case"], 0.0), info["disturbance"])
    return found


def row_block(info: dict[str, Any]) -> Block:
    """What was measured in one interleave with a row."""
    return info["case"], info["dtype"], info["threads_requested"], info["cache"], info["host"]


def block_title(block: Block) -> str:
    """A block as titles have it."""
    case, dtype, threads, cache, host = block
    where = "" if host == LOCAL else f" on {host}"
    return f"{case}{where}, {dtype}, {threads} thread{'s' if threads > 1 else ''}" + (", cold cache" if cache == "cold" else "")


def noise_floors(entries: list[dict[str, Any]]) -> dict[Block, float]:
    """Noise floor of each block, from its A/A row."""
    infos = [entry["extra_info"] for entry in entries if entry["extra_info"]["role"] == "aa"]
    return {row_block(info): noise_floor(tuple(info["ratio_interval"])) for info in infos if info["ratio_interval"]}


def ratio_text(ratio: float, interval: Sequence[float] | None) -> str:
    """A ratio with its interval, as tables show it; without one where the rounds were too few."""
    return f"{ratio:.2f}" if interval is None else f"{ratio:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


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
