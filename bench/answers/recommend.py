"""`recommend`: which implementation to use for a shape on this machine, by how much it beats what people call today, and how sure that is."""

import dataclasses
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backends.base import Backend, Implementation
from ...backends.layouts import with_time_axis
from ...backends.registry import get_backend, list_backends
from ...porting.objects.implementation import OBJECT_MODE, find_implementation, target_of
from ...reference.errors import PatchParityError
from ..cases import Case, named_case
from ..intervals import Comparison
from ..record.figures import noise_floors, noise_of, place_text, ratio_text, row_block
from ..timing.plan import BenchOptions
from ..timing.pytest_run import benchmark, load_bench
from .comparisons import best_against_today, best_overall, framework_of, is_called_today

OWN_ROUNDS = 24
"""Rounds of a run of its own: enough for a difference of twice the noise to be sure (bench/records holds the noise of such runs), in one to two minutes."""

OWN_SECONDS = 40.0
"""What those rounds may take."""

_TIMM_SIZES = {"tiny": "ti", "small": "s", "base": "b", "large": "l", "huge": "h", "so400m": "so400m"}


def case_of_text(text: str, batch: int | None = None) -> Case:
    """Read the name of a shape as people write it.

    Args:
        text: a case (`vit-b16-224-b8`), one without its image size, which is then 224 (`vit_b16`), or a name of timm's
            (`vit_base_patch16_224`); `_` and `-` are the same.
        batch: instead of the name's own.

    Raises:
        PatchParityError: a name that is none of these, a batch below 1.
    """
    if batch is not None and batch < 1:
        raise PatchParityError(f"batch {batch}: expected at least 1")
    name = text.strip().lower().split(".")[0].replace("_", "-")  # what timm puts behind a dot is how it was trained
    parts = re.fullmatch(r"(.+?\d.*?)(-b\d+)?", name)  # the batch is not the b16 of vit-b16: a digit comes before it
    model, own_batch = parts.groups() if parts else (name, None)
    if timm := re.fullmatch(r"(?:vit|deit3?)-([a-z0-9]+)-patch(\d+)(?:-[a-z][a-z0-9]*)*?(?:-(\d+))?", model):
        size, patch, image = timm.groups()
        model = f"vit-{_TIMM_SIZES.get(size, size)}{patch}-{image or (518 if 'dinov2' in model else 224)}"
    elif swin := re.fullmatch(r"swin-tiny-patch4-window\d+-(\d+)", model):
        model = f"swin-t4-{swin.group(1)}"
    elif re.fullmatch(r"vit-[a-z0-9]+", model):
        model += "-224"
    name = model + (own_batch or "")
    try:
        found = named_case(name)
    except PatchParityError as error:
        raise PatchParityError(str(error).replace(repr(name), repr(text), 1)) from None
    return found if batch is None else named_case(f"{found.name.rsplit('-b', 1)[0]}-b{batch}")


@dataclass(frozen=True)
class Rival:
    """What people call today, against what is recommended.

    Args:
        implementation: its name.
        seconds: median.
        speedup: its time over that of our fastest, the median over rounds; above 1 ours is faster.
        interval: 95%, or None.
        comparison: the verdict on the fastest: FASTER means that it surely is.
        noise: of the interleave, as a fraction; None where no A/A row tells it.
    """

    implementation: str
    seconds: float
    speedup: float
    interval: tuple[float, float] | None
    comparison: Comparison
    noise: float | None


@dataclass(frozen=True)
class Choice:
    """What to use on one framework.

    Args:
        framework: torch, tensorflow, jax, ...
        implementation: what to use: our fastest, where it is surely faster than the fastest of what people call today, else that.
        seconds: median.
        gemm_fraction: of the machine's fastest matrix product of the same shape.
        sure: whether it is surely faster than all that people call on this framework today.
        customary: whether it is what people call today.
        fastest: our fastest formulation by its median, which all that people call is held against.
        against: of what people call the one that decided; None where nothing was measured.
        today: what people call.
        code: lines of Python that define `embed(images)`.
        layouts: how images and kernel are kept.
    """

    framework: str
    implementation: str
    seconds: float
    gemm_fraction: float | None
    sure: bool
    customary: bool
    fastest: str
    against: str | None
    today: list[Rival]
    code: str
    layouts: dict[str, str]

    @property
    def nearest(self) -> Rival | None:
        """What the gain is told by: the one of today's that decided."""
        return next((rival for rival in self.today if rival.implementation == self.against), None)

    def sentence(self) -> str:
        """Say it in one sentence."""
        called = f"what people call on {self.framework} today"
        nearest = self.nearest
        if self.against is None:
            return f"{self.implementation} is the fastest; nothing was measured that people call on {self.framework} today"
        if nearest is None or (self.customary and nearest.speedup <= 1):
            return f"{self.implementation} is {called}, and nothing is faster here"
        gain = f"{_factor(nearest)} times as fast as {nearest.implementation}"
        if self.sure:
            return f"{self.implementation} is surely faster than {called}: {gain}"
        if self.customary:
            return f"nothing is surely faster than {called}: {self.fastest} is {gain}, {_doubt(nearest)}"
        others = [
            f"{each.implementation} ({_factor(each)}, {each.comparison.word})"
            for each in self.today
            if each.comparison.word != "FASTER"
        ]
        return f"{self.implementation} is surely faster than the fastest of {called}: {gain}; not surely than {', '.join(others)}"


def _factor(rival: Rival) -> str:
    return ratio_text(rival.speedup, rival.interval)


def _doubt(rival: Rival) -> str:
    noise = "" if rival.noise is None else f" at a noise of ±{100 * rival.noise:.1f}%, adjusted for all that was compared"
    return f"which is {rival.comparison.word}{noise}"


@dataclass(frozen=True)
class RunnerUp:
    """The fastest of all against the fastest of any other framework, whatever people call.

    Args:
        fastest, other: implementations.
        speedup: time of the other over that of the fastest, the median over rounds.
        sure: whether the fastest is surely faster.
    """

    fastest: str
    other: str
    speedup: float
    sure: bool

    def sentence(self) -> str:
        """Say it in one sentence."""
        if self.sure:
            gain = f"{self.speedup:.2f} times as fast as {self.other}, the fastest of another framework"
            return f"{self.fastest} is surely the fastest of all: {gain}"
        pairing = f"paired by round it is {self.speedup:.2f} times as fast, which is not sure"
        return f"{self.fastest} has the least median of all, {self.other} that of other frameworks: {pairing}"


@dataclass(frozen=True)
class Recommendation:
    """The answer for one shape.

    Args:
        case, device, dtype, threads: what was asked for.
        measured: when, and from which folder.
        noise: of the interleave, as a fraction; None where no A/A row tells it.
        choices: one for each framework, the fastest first.
        runner_up: the fastest of all against that of any other framework; None where there is one framework alone.
        notes: what should be known of the record, in sentences.
    """

    case: str
    device: str
    dtype: str
    threads: int
    measured: str
    noise: float | None
    choices: list[Choice]
    runner_up: RunnerUp | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.recommend/1", **dataclasses.asdict(self)}


def recommend(
    case: str = "vit-b16-224",
    *,
    batch: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    backends: tuple[str, ...] = (),
    peers: tuple[str, ...] = (),
    record: str | os.PathLike[str] | None = None,
) -> Recommendation:
    """Say which implementation to use for a shape on this machine, from a record or from a short run of its own.

    Args:
        case: as `case_of_text` reads it.
        batch: instead of the name's own.
        device, dtype: as in `bench`.
        threads: CPU threads; None means all cores, or the most that the record has.
        backends: only the frameworks that these compute with (`keras-torch` with torch), and all that is installed on them; none means all.
        peers: somebody's own implementations, `module:attribute`, which count as what is called today.
        record: a folder that `bench` or `run` wrote; None for a run of its own, of one to two minutes.

    Raises:
        PatchParityError: an unknown shape, one that the record does not hold, and whatever `benchmark` refuses.
    """
    wanted = case_of_text(case, batch)
    if threads is not None and threads < 1:
        raise PatchParityError(f"threads={threads}: expected at least 1")
    if record is not None:
        folder_of_record = Path(record).parent if Path(record).is_file() else Path(record)
        return recommend_from(load_bench(folder_of_record), wanted.name, device, dtype, threads, backends, f"record {record}")
    with tempfile.TemporaryDirectory() as folder:
        frameworks = {get_backend(name).yardstick for name in backends}
        names = [
            each.name
            for backend in list_backends()
            if (backend.yardstick in frameworks or not frameworks) and not backend.missing()
            for each in backend.implementations
            if device in each.devices and not each.costly_compile
        ]
        if not names:
            raise PatchParityError(
                "; ".join(get_backend(name).missing() or f"{name} does not run on {device}" for name in backends)
            )
        options = BenchOptions(
            cases=(wanted.name,),
            implementations=tuple(names),
            peers=peers,
            devices=(device,),
            dtypes=(dtype,),
            threads=(threads,) if threads else (),
            rounds=OWN_ROUNDS,
            time_budget=OWN_SECONDS,
            out=folder,
        )
        content = benchmark(options).content
    return recommend_from(content, wanted.name, device, dtype, threads, backends, "a run of its own")


def recommend_from(
    content: dict[str, Any],
    case: str,
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    backends: tuple[str, ...] = (),
    source: str = "a record",
) -> Recommendation:
    """Say the same of what a `bench.json` holds.

    Raises:
        PatchParityError: a shape, device, dtype or thread count that it does not hold.
    """
    entries = [entry for entry in content["benchmarks"] if entry["extra_info"]["cache"] == "warm"]
    told = [entry for entry in entries if entry["extra_info"]["role"] in ("implementation", "peer", "aa")]
    told = [entry for entry in told if entry["extra_info"]["operation"] == "tokens"]
    of_case = _holding(told, "case", case, source)
    if device != "cpu":
        _holding(of_case, "device", device, f"{source}, of {case},")
    here = _holding(of_case, "dtype", dtype, f"{source}, of {case},")
    most = max(entry["extra_info"]["threads_requested"] for entry in here)
    here = _holding(here, "threads_requested", threads or most, f"{source}, of {case} in {dtype},")
    host = here[0]["extra_info"]["host"]
    here = [
        entry
        for entry in here
        if entry["extra_info"]["host"] == host
        and (entry["extra_info"]["device"] == device or entry["extra_info"]["role"] == "aa")
        and entry["extra_info"]["precision"] == "ieee"
    ]
    asked = {get_backend(name).yardstick for name in backends}
    timed = [entry for entry in here if entry["extra_info"]["role"] != "aa"]
    timed = [entry for entry in timed if not asked or framework_of(entry["extra_info"]) in asked]
    if not timed:
        raise PatchParityError(f"{source} holds no row of {case} on {device} by {', '.join(backends) or 'any backend'}")
    info = timed[0]["extra_info"]
    # Judged is the whole interleave, whatever was asked for: one pair has one verdict, here and in the report.
    interleave = [entry for entry in content["benchmarks"] if row_block(entry["extra_info"]) == row_block(info)]
    rivals = [
        rival
        for rival in best_against_today(interleave)
        if all(rival[name] == info[name] for name in ("device", "precision", "operation"))
    ]
    frameworks = list(dict.fromkeys(framework_of(entry["extra_info"]) for entry in timed))
    choices = [_choice(framework, timed, rivals) for framework in frameworks]
    choices.sort(key=lambda choice: choice.seconds)
    overall = best_overall(here, frameworks)
    about = {
        name: info[name] for name in ("case", "device", "dtype", "threads_requested", "operation", "precision", "cache", "host")
    }
    failed = [
        outcome
        for outcome in content["failures"]
        if all(outcome[name] == value for name, value in about.items())
        and outcome["role"] in ("implementation", "peer")
        and (not asked or framework_of(outcome) in asked)
    ]
    notes = [
        f"{name} computes with {framework}: the answer is for all that was measured on it"
        for name in backends
        if (framework := get_backend(name).yardstick) != name
    ]
    notes += [f"{outcome['implementation']} failed, and is left out: {outcome['message']}" for outcome in failed]
    measured = f"{source}, {content['datetime'][:16].replace('T', ' ')} UTC"
    return Recommendation(
        case,
        device,
        dtype,
        info["threads_requested"],
        measured,
        noise_of(noise_floors(interleave), info),
        choices,
        None if overall is None else RunnerUp(*overall),
        notes,
    )


def _holding(entries: list[dict[str, Any]], field: str, value: Any, source: str) -> list[dict[str, Any]]:
    found = [entry for entry in entries if entry["extra_info"][field] == value]
    if not found:
        held = ", ".join(map(str, dict.fromkeys(entry["extra_info"][field] for entry in entries))) or "nothing"
        name = field.removesuffix("_requested")
        raise PatchParityError(f"{source} holds no {name} {value}; it holds {held}")
    return found


def _choice(framework: str, timed: list[dict[str, Any]], rivals: list[dict[str, Any]]) -> Choice:
    own = [entry for entry in timed if framework_of(entry["extra_info"]) == framework]
    medians = {entry["extra_info"]["implementation"]: entry["stats"]["median"] for entry in own}
    today = [
        Rival(
            info["partner"]["implementation"],
            medians[info["partner"]["implementation"]],
            1 / info["ratio_of_pair"],
            None if (interval := info["comparison"].interval) is None else (1 / interval[1], 1 / interval[0]),
            info["comparison"],
            info["noise"],
        )
        for info in rivals
        if framework_of(info) == framework
    ]
    ours = [entry for entry in own if entry["extra_info"]["role"] == "implementation"]
    called = [entry for entry in own if is_called_today(entry["extra_info"])]
    fastest = min(ours or called, key=lambda entry: entry["stats"]["median"])
    # Of what people call, a framework's own before another library within 1% of it: one package less.
    usual = min(called, key=_with_packages, default=None)
    against = None if usual is None else usual["extra_info"]["implementation"]
    words = {rival.implementation: rival.comparison.word for rival in today}
    chosen = fastest if usual is None or words.get(against) == "FASTER" else usual
    sure = chosen is fastest and fastest not in called and bool(today) and set(words.values()) == {"FASTER"}
    info = chosen["extra_info"]
    backend = get_backend(info["backend"])
    implementation = find_implementation(info["implementation"])
    case = named_case(info["case"])
    return Choice(
        framework,
        info["implementation"],
        chosen["stats"]["median"],
        info["gemm_fraction"],
        sure,
        chosen in called,
        fastest["extra_info"]["implementation"],
        against,
        today,
        usage_of(implementation, backend, case),
        {
            "images": with_time_axis(implementation.image_layout, case.spec.spatial_axes),
            "kernel": with_time_axis(implementation.kernel_layout, case.spec.spatial_axes),
            "where": place_text(info),
        },
    )


def _with_packages(entry: dict[str, Any]) -> float:
    """Seconds, those of a peer 1% longer."""
    return float(entry["stats"]["median"] * (1.01 if entry["extra_info"]["role"] == "peer" else 1.0))


def usage_of(implementation: Implementation, backend: Backend, case: Case) -> str:
    """Lines of Python that define `embed(images)`; of somebody's own implementation those that make it."""
    if implementation.mode != OBJECT_MODE:
        return backend.usage(implementation, case.spec, case.batch)
    module, _, path = target_of(implementation).partition(":")
    first, _, rest = path.partition(".")
    return f"from {module} import {first}\n\nembed = {first}{'.' if rest else ''}{rest}  # a class or a factory is called first\n"
