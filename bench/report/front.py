"""The first screen of the report: is it right, what to use on each shape, and how sure that is."""

import functools
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..answers.choice import choice_of
from ..answers.fastest import over_the_fastest
from ..check.results import CheckReport
from ..machine.hosts import LOCAL
from ..record.comparisons import Pair, framework_of, is_called_today
from ..record.noise import noise_floors, noise_of
from ..record.schema import Bench, Figures, Measured
from ..record.words import place_text
from .svg import COLORS, Dot
from .table import FACETS, milliseconds


@dataclass(frozen=True)
class Use:
    """What to use on one framework: its name, the implementation, and why, in a sentence."""

    framework: str
    implementation: str
    seconds: float
    verdict: str
    sentence: str


@dataclass(frozen=True)
class Answer:
    """What to use for one shape, and every row that this follows from.

    Args:
        case, dtype, threads, place: which rows; `facets`: the same, as filters have it.
        uses: one for each framework, the fastest first.
        dots: every implementation, the fastest first.
        noise: of the interleave, as a fraction, or None.
    """

    case: str
    dtype: str
    threads: int
    place: str
    facets: dict[str, str]
    uses: list[Use]
    dots: list[Dot]
    noise: float | None

    @property
    def title(self) -> str:
        """The shape in words."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.case}, {self.dtype}, {threads}, {self.place}"


def facets_of(info: Figures) -> dict[str, str]:
    """What a row is of, as the page's filters have it."""
    host = "" if info.host == LOCAL else f" on {info.host}"
    threads, place = str(info.threads_requested), place_text(info) + host
    return _facets(info.case, framework_of(info), info.dtype, threads, place)


@functools.cache
def _facets(*values: str) -> dict[str, str]:
    """Values of `FACETS`, held once: a thousand rows share a few hundred of them."""
    return dict(zip(FACETS, values, strict=True))


def frameworks_of(entries: Sequence[Measured]) -> list[str]:
    """The frameworks of a record, in the order in which they get their colors."""
    ours = [
        entry.extra_info for entry in entries if entry.extra_info.role in ("implementation", "peer")
    ]
    return list(dict.fromkeys(map(framework_of, ours)))


def color_of(framework: str, frameworks: Sequence[str]) -> int:
    """The number of a framework's color; those that have none of their own share the last."""
    place = frameworks.index(framework) if framework in frameworks else len(COLORS)
    return min(place, len(COLORS) - 1)


def answers_of(entries: list[Measured], against_today: list[Pair]) -> list[Answer]:
    """An answer for each shape, number type, number of threads and device, the first of all that
    people ask for first.

    Args:
        entries: the rows of a record.
        against_today: as `best_against_today` gives it.
    """
    floors = noise_floors(entries)
    frameworks = frameworks_of(entries)
    groups: dict[tuple[object, ...], list[Measured]] = defaultdict(list)
    for entry in entries:
        info = entry.extra_info
        if info.operation == "tokens" and info.role in ("implementation", "peer"):
            groups[info.block, info.device, info.precision].append(entry)
    rivals: dict[tuple[object, ...], list[Pair]] = defaultdict(list)
    for pair in against_today:
        if pair.info.operation == "tokens":
            rivals[pair.info.block, pair.info.device, pair.info.precision].append(pair)
    answers = []
    for key, members in groups.items():
        members.sort(key=lambda entry: entry.stats.median)
        info = members[0].extra_info
        uses = [
            _use(framework, members, rivals[key])
            for framework in dict.fromkeys(framework_of(entry.extra_info) for entry in members)
        ]
        cold = ", cold cache" if info.cache == "cold" else ""
        answers.append(
            Answer(
                info.case,
                info.dtype,
                info.threads_requested,
                place_text(info) + ("" if info.host == LOCAL else f" on {info.host}") + cold,
                facets_of(info),
                sorted(uses, key=lambda use: use.seconds),
                _dots(members, frameworks),
                noise_of(floors, info),
            )
        )
    return sorted(answers, key=_asked_first)


def _asked_first(answer: Answer) -> tuple[bool, bool, int, bool]:
    """ViT-B/16 at 224 in float32, on all cores and warm, is what most ask about."""
    return (
        not answer.case.startswith("vit-b16-224"),
        answer.dtype != "float32",
        -answer.threads,
        "cold" in answer.place,
    )


def _use(framework: str, members: list[Measured], rivals: list[Pair]) -> Use:
    choice = choice_of(framework, members, rivals)
    info = next(
        entry.extra_info
        for entry in members
        if entry.extra_info.implementation == choice.implementation
    )
    return Use(
        framework,
        choice.implementation,
        choice.seconds,
        _verdict(info),
        choice.sentence(),
    )


def _verdict(info: Figures) -> str:
    bits = "" if info.effective_bits is None else f" ({info.effective_bits:.1f} bits)"
    return {"pass": f"right{bits}", "fail": "WRONG"}.get(info.verdict or "", "not judged")


def _dots(members: list[Measured], frameworks: Sequence[str]) -> list[Dot]:
    """Every row over the fastest, paired by round."""
    return [
        Dot(
            entry.extra_info.implementation,
            ratio,
            None if interval is None else interval[0],
            None if interval is None else interval[1],
            color_of(framework_of(entry.extra_info), frameworks),
            is_called_today(entry.extra_info),
            f"{milliseconds(entry.stats.median)} ms",
        )
        for entry, (ratio, interval) in zip(members, over_the_fastest(members), strict=True)
    ]


def verdict_line(bench: Bench, check: CheckReport | None) -> tuple[str, bool]:
    """How many implementations are right on this machine, in a line, and whether all are."""
    if check is None:
        rows = bench.benchmarks
        wrong = {entry.extra_info.implementation for entry in rows if _is_wrong(entry)}
        wrong |= {outcome.implementation for outcome in bench.failures}
        every = {entry.extra_info.implementation for entry in rows} | wrong
        named = f": {_listed(sorted(wrong))}" if wrong else ""
        line = (
            f"{len(every) - len(wrong)} of {len(every)} implementations gave right tokens where "
            f"they were timed{named}"
        )
        return line, not wrong
    worst: dict[str, str] = {}
    for result in check.results:
        if result.verdict in ("fail", "error"):
            worst[result.implementation] = "fail"
        elif result.verdict == "known":
            worst.setdefault(result.implementation, "known")
    right = {result.implementation for result in check.results if result.verdict == "pass"}
    every = right | set(worst)
    failed = sorted(name for name, verdict in worst.items() if verdict == "fail")
    known = sum(verdict == "known" for verdict in worst.values())
    line = f"{len(every) - len(failed)} of {len(every)} implementations are right on this machine"
    if failed:
        line += f"; wrong: {_listed(failed)}"
    known_faults = f"; {known} with known faults, which are spelled out" if known else ""
    return line + known_faults, not failed


def _is_wrong(entry: Measured) -> bool:
    return entry.extra_info.verdict == "fail"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def noise_line(bench: Bench) -> str:
    """How sure a difference is, and how to measure again."""
    floors = noise_floors(bench.benchmarks)
    again = f"patchparity bench --preset {bench.options.preset} --seed {bench.options.seed}"
    if not floors:
        return f"noise unknown: no row was timed twice; measure again: {again}"
    usual, high = statistics.median(floors.values()), max(floors.values())
    width = f"±{100 * usual:.1f}%"
    if high > usual:
        width += f" in half of the cases, ±{100 * high:.1f}% in the noisiest"
    return f"noise {width}: a smaller difference is none; measure again: {again}"
