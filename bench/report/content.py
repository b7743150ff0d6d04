"""What the report says: tables and curves, from the record alone. How it looks is `render.py`'s concern."""

import statistics
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..cases import named_case
from ..hosts import LOCAL
from ..statistics import Ratio, by_generation, compare_ratios, enough, paired_ratios, resampled_medians
from ..timing import Block
from ..verdicts import false_alarms
from ..views import behavior_findings, block_title, disturbed_cases, fastest, kill_table, noise_floors, ratio_text, row_block
from ..workers import OPERATIONS

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
class Table:
    """One table: texts, ready to show. `numeric` tells which columns are aligned right; `marks` colors a row by its verdict."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    numeric: frozenset[int] = frozenset()
    marks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """Median seconds of one implementation over batch or image size."""

    name: str
    x: list[int]
    seconds: list[float]


@dataclass(frozen=True)
class Figure:
    """Curves over one variable."""

    title: str
    x_title: str
    curves: list[Curve]


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
    """Say everything that `bench.json` and, if they are there, `check.json`, `controls.json` and `seeds.json` hold."""
    entries = bench["benchmarks"]
    tables = ([] if check is None else _check_tables(check)) + ([] if controls is None else [_controls_table(controls)])
    tables = [_fastest(entries), *tables, _left_out(bench), _conv_against_linear(entries), *_time_tables(entries)]
    return Content(
        summary=_summary(bench, check, seeds, entries),
        tables=[table for table in tables if table.rows],
        figures=[figure for figure in _figures(entries) if figure.curves],
        csv_rows=[_csv_row(entry) for entry in entries],
    )


_ROLES = ("implementation", "peer", "aa", "ceiling", "overhead")
_ROLE_NOTES = {"aa": " (A/A copy)", "ceiling": " (ceiling)", "peer": " (peer)", "overhead": " (one patch)"}
_OPERATION_NOTES = {"sequence": ", sequence", "train-step": ", train step"}


def _summary(
    bench: dict[str, Any], check: dict[str, Any] | None, seeds: dict[str, Any] | None, entries: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    environment = bench["environment"]
    versions = {name: version for name, version in environment["versions"].items() if version != "not installed"}
    floors = noise_floors(entries)
    lines = []
    if check is not None:
        lines.append(("Correctness", ", ".join(f"{count} {verdict}" for verdict, count in check["summary"].items())))
    if seeds is not None:
        lines.append(("False alarms", false_alarms(seeds["results"])))
    wrong = sum(entry["extra_info"]["verdict"] == "fail" for entry in entries) + len(bench["failures"])
    lines.append(("Timed rows", f"{len(entries)} measured, {wrong} failed, {len(bench['skipped'])} skipped"))
    if floors:
        lowest, highest = 100 * min(floors.values()), 100 * max(floors.values())
        range_text = f"{lowest:.1f}%" if highest == lowest else f"{lowest:.1f}% to {highest:.1f}% by case"
        why = "(A/A rows: the same code in two processes); smaller differences mean nothing here"
        lines.append(("Noise", f"{range_text} {why}"))
    if disturbed := disturbed_cases(entries):
        told = ", ".join(f"{case} ({cores:.1f} cores)" for case, cores in disturbed.items())
        lines.append(("Disturbed", f"others kept cores busy while these were measured, so measure them again: {told}"))
    lines += [
        ("Machine", f"{environment['processor']}, {environment['cores']} cores, {_gigabytes(environment['memory_bytes'])}"),
        *(
            (f"Machine {label}", f"{other['processor']}, {other['cores']} cores, GPU {', '.join(other['gpus']) or 'none'}")
            for label, other in environment.get("hosts", {}).items()
        ),
        ("GPU", ", ".join(environment["gpus"]) or "none"),
        ("BLAS of NumPy", environment["blas"]),
        ("Software", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("Python", f"{environment['python']} on {environment['platform']}"),
        (
            "Measured",
            f"{bench['datetime'][:16].replace('T', ' ')} UTC, preset {bench['options']['preset']}, seed {bench['options']['seed']}",
        ),
    ]
    return lines


def _gigabytes(size: int | str) -> str:
    return f"{size / 2**30:.0f} GiB" if isinstance(size, int) else f"memory {size}"


def _check_tables(check: dict[str, Any]) -> list[Table]:
    groups: dict[tuple[str, str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in check["results"]:
        if result["dtype"] and result["verdict"] != "skip" and result.get("behavior") is None:
            groups[result["implementation"], result["device"], result["dtype"], result["declared"] or ""].append(result)
    rows, marks = [], []
    for key, results in groups.items():
        verdicts = {result["verdict"] for result in results}
        verdict = "fail" if verdicts & {"fail", "error"} else "known" if "known" in verdicts else "pass"
        marks.append({"known": "skip"}.get(verdict, verdict))
        passed = sum(result["verdict"] == "pass" for result in results)
        delivered = ", ".join(dict.fromkeys(result["delivered"] for result in results if result["delivered"]))
        rows.append((*key, delivered, verdict, f"{passed} of {len(results)}", _worst(results), _fewest_bits(results)))
    table = Table(
        "Is it right?",
        "Every implementation against the NumPy reference: exact probes, random ones, a photograph; forward and gradients. Declared is the "
        "arithmetic that the bounds allow for, delivered what was measured. The worst error is given as a fraction of its bound (above 1 fails).",
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
    places = [" ".join(filter(None, (result["dtype"], result["case"], result["probe"], result["direction"]))) for result in told]
    wrong_rows = [(r["implementation"], place, r["verdict"], r["message"]) for r, place in zip(told, places, strict=True)]
    skipped = {(result["implementation"], result["message"]) for result in check["results"] if result["verdict"] == "skip"}
    return [
        table,
        _known_faults(check["results"]),
        Table(
            "What is wrong", "", ("implementation", "where", "verdict", "message"), wrong_rows, marks=["fail"] * len(wrong_rows)
        ),
        Table(
            "How do they behave?",
            "What no bound covers, as found: only behaviors on which implementations differ, or that surprise. A surprise is a known issue, with "
            "its reason, or a failure.",
            ("behavior", "found", "of", "verdict", "why"),
            behaviors,
            marks=["fail" if verdict == "fail" else "" for *_, verdict, _ in behaviors],
        ),
        Table("Not checked", "", ("implementation", "why"), sorted(skipped), marks=["skip"] * len(skipped)),
    ]


def _known_faults(results: list[dict[str, Any]]) -> Table:
    """Verdicts that a known issue explains; of behavior the next table tells."""
    named: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    for result in results:
        if result["verdict"] == "known" and result.get("behavior") is None:
            named[result["message"]][result["implementation"], result["dtype"]] = None
    rows = [(", ".join(f"{name} in {dtype}" for name, dtype in places), message) for message, places in named.items()]
    return Table(
        "Known faults",
        "Verdicts that fail for a reason that is known, in the versions that were run; one that no longer reproduces fails the check.",
        ("of", "why"),
        rows,
        marks=["skip"] * len(rows),
    )


def _controls_table(controls: dict[str, Any]) -> Table:
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
        "Every known mistake, made on purpose at each dtype, at three scales and at K from 48 to 12288: in how many of the problems the verdicts "
        "rejected it, and the probes that did so most often. What survives must be provably no different from correct arithmetic.",
        ("mistake", *dtypes, "rejected by"),
        rows,
        frozenset(range(1, 1 + len(dtypes))),
        ["fail" if worst == "fail" else "" for _, _, worst, _ in lines],
    )


def _fastest(entries: list[dict[str, Any]]) -> Table:
    rows = []
    for ((case, dtype, threads, cache, host), device, _), entry in fastest(entries).items():
        info = entry["extra_info"]
        ratio = "" if info["ratio"] is None else ratio_text(info["ratio"], info["ratio_interval"])
        named = case + ("" if host == LOCAL else f" on {host}") + (" (cold cache)" if cache == "cold" else "")
        place = (named, str(threads), dtype, device, info["implementation"])
        rows.append(
            (*place, _milliseconds(entry["stats"]["median"]), f"{info['gflops']:.1f}", _percent(info["gemm_fraction"]), ratio)
        )
    return Table(
        "Who is fastest?",
        "The fastest formulation of each framework, with its fraction of the machine's fastest same-shape matrix product (a convolution "
        "that never writes its patches out can pass it) and its time over that of the NumPy reference.",
        ("case", "threads", "dtype", "device", "implementation", "median ms", "GFLOP/s", "of GEMM", "time / reference [95%]"),
        rows,
        frozenset({1, 5, 6, 7, 8}),
    )


def _time_tables(entries: list[dict[str, Any]]) -> list[Table]:
    blocks: dict[Block, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        info = entry["extra_info"]
        blocks[row_block(info)].append(entry)
    tables = []
    for block, members in blocks.items():
        case = named_case(block[0])
        spec = case.spec
        members.sort(key=_order)
        disturbed = max(entry["extra_info"]["disturbed_rounds"] for entry in members)
        tables.append(
            Table(
                block_title(block),
                f"Images {case.batch}×{spec.in_channels}×{'×'.join(map(str, spec.image_size))}, patch {'×'.join(map(str, spec.patch_size))}, "
                f"stride {'×'.join(map(str, spec.stride))}: {spec.num_patches} tokens of {spec.embed_dim}, "
                f"{spec.flops(case.batch) / 1e9:.2f} GFLOP."
                + (f" A neighbor disturbed {disturbed} of {members[0]['stats']['rounds']} rounds." if disturbed else ""),
                (
                    "implementation",
                    "device",
                    "median ms",
                    "quartiles",
                    "GFLOP/s",
                    "GB/s",
                    "of GEMM",
                    "of own GEMM",
                    "of roof",
                    "time / reference [95%]",
                    "threads",
                    "error/bound",
                    "bits",
                    "first ms",
                    "peak MB",
                ),
                [_time_row(entry) for entry in members],
                frozenset(range(2, 15)),
                [entry["extra_info"]["role"] for entry in members],
            )
        )
    return tables


def _order(entry: dict[str, Any]) -> tuple[int, int, float]:
    """Implementations first, those of one operation together, the fastest of them first."""
    info = entry["extra_info"]
    operation = OPERATIONS.index(info["operation"]) if info["operation"] in OPERATIONS else 0
    return _ROLES.index(info["role"]), operation, entry["stats"]["median"]


def _first_call(info: dict[str, Any]) -> str:
    """Milliseconds of the first call, and what of it tracing and compiling took, where that is known."""
    if info["first_call_seconds"] is None:
        return ""
    parts = [
        f"{name} {_milliseconds(info[f'{name}_seconds'])}"
        for name in ("trace", "compile")
        if info.get(f"{name}_seconds") is not None
    ]
    return _milliseconds(info["first_call_seconds"]) + (f" ({', '.join(parts)})" if parts else "")


def _worst(results: list[dict[str, Any]]) -> str:
    """Largest error over bound. A failure without one broke an exact probe, or a shape: no fraction of a bound says how far."""
    if any(result["verdict"] in ("fail", "known") and result["bound_ratio"] is None for result in results):
        return "∞"
    return _number(max((result["bound_ratio"] for result in results if result["bound_ratio"] is not None), default=None))


def _fewest_bits(results: list[dict[str, Any]]) -> str:
    """Fewest effective bits; `exact` where the fingerprint probe showed no error at all, which JSON cannot write as a number."""
    probes = [result for result in results if result["probe"] == "random-zero-bias" and result["direction"] == "forward"]
    bits = [result["effective_bits"] for result in probes if result["effective_bits"] is not None]
    if bits or not probes:
        return _number(min(bits, default=None), ".1f")
    return "exact" if all(result["verdict"] == "pass" for result in probes) else ""


def _time_row(entry: dict[str, Any]) -> tuple[str, ...]:
    info, stats = entry["extra_info"], entry["stats"]
    ratio = "" if info["ratio"] is None else ratio_text(info["ratio"], info["ratio_interval"])
    asked, seen = info["threads_requested"], info["threads_observed"]
    return (
        info["implementation"] + _ROLE_NOTES.get(info["role"], "") + _OPERATION_NOTES.get(info["operation"], ""),
        info["device"],
        _milliseconds(stats["median"]),
        f"{_milliseconds(stats['q1'])} to {_milliseconds(stats['q3'])}",
        f"{info['gflops']:.1f}",
        f"{info['gigabytes_per_second']:.2f}",
        _percent(info["gemm_fraction"]),
        _percent(info["own_gemm_fraction"]),
        "" if info["roof"] is None else f"{_percent(info['roof_fraction'])} {info['roof']}",
        ratio,
        str(seen) if seen == asked else f"{seen} of {asked}",
        _number(info["bound_ratio"]),
        _number(info["effective_bits"], ".1f"),
        _first_call(info),
        "" if info["peak_memory_bytes"] is None else f"{info['peak_memory_bytes'] / 1e6:.1f}",
    )


def conv_against_linear(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired time ratio of every convolution to the linear formulation of the same backend, mode and block; above 1: linear wins."""
    linear = {}
    for entry in entries:
        info = entry["extra_info"]
        if info["formulation"] == "linear" and info["role"] == "implementation":
            linear[_pair_key(info)] = entry
    floors = noise_floors(entries)
    found, ratios = [], []
    for entry in entries:
        info = entry["extra_info"]
        partner = linear.get(_pair_key(info))
        if not (info["formulation"] or "").endswith("conv2d") or info["role"] != "implementation" or partner is None:
            continue
        own, other = (by_generation(each["stats"]["data"], info["generations"]) for each in (entry, partner))
        if len(entry["stats"]["data"]) == len(partner["stats"]["data"]):
            # The A/A pair runs on the CPU: it tells nothing of another device's noise.
            noise = floors.get(row_block(info)) if info["device"] == "cpu" else None
            pairs = paired_ratios(own, other)
            median = float(np.median(np.concatenate(pairs)))
            if noise is not None and enough(pairs):
                ratios.append(Ratio(median, resampled_medians(pairs), noise))
            elif noise is None and enough(pairs):
                ratios.append(Ratio(median, None, unknown="no A/A row tells of the noise on this device"))
            else:
                ratios.append(Ratio(median, None))
            found.append({**info, "noise": noise})
    judged = compare_ratios(ratios)
    return [{**info, "conv_over_linear": each.ratio, "comparison": each} for info, each in zip(found, judged, strict=True)]


def _pair_key(info: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(info[name] for name in ("backend", "mode", "case", "device", "dtype", "threads_requested", "cache", "operation"))


def _conv_against_linear(entries: list[dict[str, Any]]) -> Table:
    rows, marks = [], []
    for info in conv_against_linear(entries):
        judged = info["comparison"]
        says = {
            "FASTER": "convolution is FASTER",
            "SLOWER": "linear is FASTER",
            "SAME": "SAME",
            "UNSURE": f"UNSURE: {judged.reason}",
        }
        marks.append("unsure" if judged.word in ("SAME", "UNSURE") else "")
        name = f"{info['backend']} {info['formulation']} against linear, {info['mode']}" + _OPERATION_NOTES.get(
            info["operation"], ""
        )
        interval = ratio_text(info["conv_over_linear"], judged.interval)
        noise = "" if info["noise"] is None else f"{100 * info['noise']:.1f}%"
        rows.append((info["case"], info["device"], str(info["threads_requested"]), name, interval, noise, says[judged.word]))
    return Table(
        "Convolution or linear?",
        "The same arithmetic in two formulations: time of the convolution over time of reshape + matmul, paired within each round, with a "
        "95% bootstrap interval. FASTER only where the ratio lies beyond the noise (the farther end of the interval of the A/A row, the same code in "
        "two processes of that interleave), adjusted for the number of comparisons in this table (Holm).",
        ("case", "device", "threads", "framework", "conv / linear [95%]", "noise", "so"),
        rows,
        frozenset({2, 4, 5}),
        marks,
    )


def _figures(entries: list[dict[str, Any]]) -> list[Figure]:
    """Time over batch and over image size, for each family of cases that varies in one of them alone."""
    sweeps: dict[tuple[Any, ...], dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for entry in entries:
        info = entry["extra_info"]
        if info["role"] not in ("implementation", "peer") or info["operation"] != "tokens":
            continue
        case = named_case(info["case"])
        model, size = info["case"].rsplit("-", 2)[:2]
        place = row_block(info)[1:]
        label = info["implementation"] + (f" {info['device']}" if info["device"] != "cpu" else "")
        median = statistics.median(entry["stats"]["data"])
        sweeps["batch", f"{model} at {size}", *place][label][case.batch] = median
        sweeps["image size", f"{model}, batch {case.batch}", *place][label][case.spec.image_size[0]] = median
    figures = []
    for (variable, what, *place), curves in sweeps.items():
        lines = [
            Curve(name, sorted(points), [points[x] for x in sorted(points)]) for name, points in curves.items() if len(points) > 1
        ]
        figures.append(Figure(block_title((f"{what}: time over {variable}", *place)), variable, lines))
    return figures


def _left_out(bench: dict[str, Any]) -> Table:
    rows, marks = [], []
    for outcome in bench["failures"] + bench["skipped"]:
        marks.append("skip" if outcome["status"] == "skip" else "fail")
        rows.append(
            (outcome["implementation"], f"{outcome['case']} on {outcome['device']}", outcome["status"], outcome["message"])
        )
    return Table(
        "Not timed", "A time is only given beside a verdict.", ("implementation", "case", "status", "why"), rows, marks=marks
    )


def _csv_row(entry: dict[str, Any]) -> dict[str, Any]:
    stats, info = entry["stats"], dict(entry["extra_info"])
    low, high = info["ratio_interval"] or (None, None)
    info.update(ratio_low=low, ratio_high=high, rounds=stats["rounds"])
    info.update(median_seconds=stats["median"], q1_seconds=stats["q1"], q3_seconds=stats["q3"])
    return {name: info.get(name) for name in CSV_FIELDS}


def _milliseconds(seconds: float) -> str:
    return format(1e3 * seconds, "#.3g").rstrip(".") if seconds < 1 else f"{1e3 * seconds:.0f}"


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.0f}%"


def _number(value: float | None, form: str = ".2g") -> str:
    return "" if value is None else format(value, form)
