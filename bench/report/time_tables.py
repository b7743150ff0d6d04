"""Tables of times, from `bench.json`."""

from collections import defaultdict
from collections.abc import Sequence

from ..answers.fastest import fastest
from ..cases import named_case
from ..intervals import Comparison
from ..machine.hosts import LOCAL
from ..record.comparisons import Pair, gains
from ..record.rows import OPERATIONS, Block
from ..record.schema import Figures, Measured
from ..record.words import OPERATION_NOTES, block_title, place_text, rate_text, ratio_text
from .front import facets_of
from .table import Table, milliseconds, number, percent

_ROLES = ("implementation", "peer", "aa", "ceiling", "overhead")


_ROLE_NOTES = {
    "aa": " (A/A copy)",
    "ceiling": " (ceiling)",
    "peer": " (peer)",
    "overhead": " (one patch)",
}


def fastest_table(entries: list[Measured]) -> Table:
    """The fastest formulation of each framework in each case."""
    rows = []
    for ((case, dtype, threads, cache, host), operation, *_), entry in fastest(entries).items():
        info = entry.extra_info
        ratio = "" if info.ratio is None else ratio_text(info.ratio, info.ratio_interval)
        named = (
            case
            + ("" if host == LOCAL else f" on {host}")
            + (" (cold cache)" if cache == "cold" else "")
        )
        place = (
            named,
            str(threads),
            dtype,
            place_text(info),
            info.implementation + OPERATION_NOTES.get(operation, ""),
        )
        median, rate = (
            milliseconds(entry.stats.median),
            "" if info.gflops is None else rate_text(info.gflops),
        )
        rows.append((*place, median, rate, percent(info.gemm_fraction), ratio))
    return Table(
        "Who is fastest?",
        "The fastest formulation of each framework, with its fraction of the machine's fastest "
        "same-shape matrix product (a convolution "
        "that never writes its patches out can pass it) and its time over that of the NumPy "
        "reference.",
        (
            "case",
            "threads",
            "dtype",
            "device",
            "implementation",
            "median ms",
            "GFLOP/s",
            "of GEMM",
            "time / reference [95%]",
        ),
        rows,
        frozenset({1, 5, 6, 7, 8}),
        facets=[facets_of(entry.extra_info) for entry in fastest(entries).values()],
    )


def time_tables(entries: list[Measured]) -> list[Table]:
    """A table for each interleave, every row of it."""
    blocks: dict[Block, list[Measured]] = defaultdict(list)
    for entry in entries:
        info = entry.extra_info
        blocks[info.block].append(entry)
    tables = []
    for block, members in blocks.items():
        case = named_case(block[0])
        spec = case.spec
        members.sort(key=_order)
        disturbed = max(entry.extra_info.disturbed_rounds for entry in members)
        tables.append(
            Table(
                block_title(block),
                f"Images {case.batch}×{spec.in_channels}×{'×'.join(map(str, spec.image_size))}, "
                f"patch {'×'.join(map(str, spec.patch_size))}, "
                f"stride {'×'.join(map(str, spec.stride))}: {spec.num_patches} tokens of "
                f"{spec.embed_dim}, "
                f"{spec.flops(case.batch) / 1e9:.2f} GFLOP."
                + (
                    f" A neighbor disturbed {disturbed} of {members[0].stats.rounds} rounds."
                    if disturbed
                    else ""
                ),
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
                [entry.extra_info.role for entry in members],
                [facets_of(entry.extra_info) for entry in members],
            )
        )
    return tables


def _order(entry: Measured) -> tuple[int, int, float]:
    """Implementations first, those of one operation together, the fastest of them first."""
    info = entry.extra_info
    operation = OPERATIONS.index(info.operation) if info.operation in OPERATIONS else 0
    return _ROLES.index(info.role), operation, entry.stats.median


def _first_call(info: Figures) -> str:
    """Milliseconds of the first call, and what of it tracing and compiling took, where that is
    known."""
    if info.first_call_seconds is None:
        return ""
    stages = {"trace": info.trace_seconds, "compile": info.compile_seconds}
    parts = [
        f"{name} {milliseconds(seconds)}" for name, seconds in stages.items() if seconds is not None
    ]
    return milliseconds(info.first_call_seconds) + (f" ({', '.join(parts)})" if parts else "")


def _time_row(entry: Measured) -> tuple[str, ...]:
    info, stats = entry.extra_info, entry.stats
    ratio = "" if info.ratio is None else ratio_text(info.ratio, info.ratio_interval)
    asked, seen = info.threads_requested, info.threads_observed
    return (
        info.implementation
        + _ROLE_NOTES.get(info.role, "")
        + OPERATION_NOTES.get(info.operation, ""),
        place_text(info),
        milliseconds(stats.median),
        f"{milliseconds(stats.q1)} to {milliseconds(stats.q3)}",
        "" if info.gflops is None else rate_text(info.gflops),
        f"{info.gigabytes_per_second:.2f}",
        percent(info.gemm_fraction),
        percent(info.own_gemm_fraction),
        "" if info.roof is None else f"{percent(info.roof_fraction)} {info.roof}",
        ratio,
        str(seen) if seen == asked else f"{seen} of {asked}",
        number(info.bound_ratio),
        number(info.effective_bits, ".1f"),
        _first_call(info),
        "" if info.peak_memory_bytes is None else f"{info.peak_memory_bytes / 1e6:.1f}",
    )


def _place(info: Figures) -> tuple[str, str, str, str]:
    """Case, device, dtype and threads, as tables of pairs have them."""
    return info.case, place_text(info), info.dtype, str(info.threads_requested)


def _ratio_and_noise(pair: Pair) -> tuple[str, str]:
    noise = "" if pair.noise is None else f"{100 * pair.noise:.1f}%"
    return ratio_text(pair.comparison.ratio, pair.comparison.interval), noise


def _in_words(judged: Comparison, first: str, second: str) -> str:
    """The verdict on a pair, where the first or the second of it is faster."""
    unsure = f"UNSURE: {judged.reason}"
    return {"FASTER": first, "SLOWER": second, "SAME": "SAME", "UNSURE": unsure}[judged.word]


def _mark(judged: Comparison) -> str:
    return "unsure" if judged.word in ("SAME", "UNSURE") else ""


def conv_table(convolutions: Sequence[Pair]) -> Table:
    """Convolution against linear, in words."""
    rows, marks, facets = [], [], []
    for pair in convolutions:
        info, judged = pair.info, pair.comparison
        facets.append(facets_of(info))
        name = (
            f"{info.backend} {info.formulation} against {pair.partner.formulation}, {info.mode}"
            + OPERATION_NOTES.get(info.operation, "")
        )
        marks.append(_mark(judged))
        verdict = _in_words(judged, "convolution is FASTER", "linear is FASTER")
        rows.append((*_place(info), name, *_ratio_and_noise(pair), verdict))
    return Table(
        "Convolution or linear?",
        "The same arithmetic in two formulations: time of the convolution over time of reshape + "
        "matmul, paired within each round, with a "
        "95% bootstrap interval. FASTER only where the ratio lies beyond the noise (the farther "
        "end of the interval of the A/A row, the same code in "
        "two processes of that interleave), adjusted for the number of comparisons of the "
        "interleave (Holm).",
        (
            "case",
            "device",
            "dtype",
            "threads",
            "formulations",
            "conv / linear [95%]",
            "noise",
            "so",
        ),
        rows,
        frozenset({3, 5, 6}),
        marks,
        facets,
    )


def peers_table(against_today: list[Pair]) -> Table:
    """Our fastest on each framework against the modules that people call, in words."""
    rows, marks, facets = [], [], []
    for pair in against_today:
        info, judged = pair.info, pair.comparison
        facets.append(facets_of(info))
        peer = pair.partner.implementation + OPERATION_NOTES.get(info.operation, "")
        marks.append(_mark(judged))
        verdict = _in_words(judged, "the fastest is FASTER", "what is called today is FASTER")
        row = (*_place(info), peer, info.implementation, *_ratio_and_noise(pair), verdict)
        rows.append(row)
    return Table(
        "What people call today",
        "Other libraries' own modules, called as their users call them, and what is customary on a "
        "framework by itself, against the fastest "
        "implementation on the same framework: time of the fastest over time of theirs, paired "
        "within each round, judged as above.",
        (
            "case",
            "device",
            "dtype",
            "threads",
            "called today",
            "fastest",
            "fastest / called today [95%]",
            "noise",
            "so",
        ),
        rows,
        frozenset({3, 6, 7}),
        marks,
        facets,
    )


def gains_table(entries: list[Measured], against_today: list[Pair]) -> Table:
    """What the fastest formulation gains over what people call today, framework by framework."""
    rows = []
    for gain in gains(entries, against_today):
        name = gain.framework + OPERATION_NOTES.get(gain.operation, "")
        spread = f"{min(gain.ratios):.2f} to {max(gain.ratios):.2f}"
        rows.append((name, str(len(gain.ratios)), f"{gain.mean:.2f}", spread, str(gain.slower)))
    return Table(
        "What is to be gained",
        "Time of what people call today over that of the framework's fastest implementation, over "
        "all cases of this record: of every row of the table "
        "below, and 1 where they call the fastest. The last column counts those that are surely "
        "faster than every implementation here.",
        ("framework", "pairs", "geometric mean", "from to", "surely faster today"),
        rows,
        frozenset({1, 2, 4}),
    )
