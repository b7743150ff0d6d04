"""What is recommended, and the sentences of it."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from ...porting.objects.implementation import OBJECT_MODE
from ...reference.answer import Answer
from ..intervals import Comparison
from ..record.words import ratio_text


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
        implementation: what to use: our fastest, where it is surely faster than the fastest of what
            people call today, else that.
        seconds: median.
        gemm_fraction: of the machine's fastest matrix product of the same shape.
        sure: whether it is surely faster than all that people call on this framework today.
        customary: whether it is what people call today, or a user's own.
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

    def over_its_own(self) -> str:
        """How much faster it is than the framework's own customary call, where another library's
        on the same framework decided; empty where it was that one."""
        nearest = self.nearest
        for rival in self.today:
            own = rival.implementation.startswith(f"{self.framework}:")
            if own and nearest is not None and rival.implementation != nearest.implementation:
                return f" and {_factor(rival)} as {rival.implementation}"
        return ""

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own, timed with `--peer`."""
        return _is_own(self.implementation)

    def cells(self) -> tuple[str, str, str, str, str]:
        """A row of the table: what to use, milliseconds, share of the matrix product, gain, and
        how sure that is."""
        nearest = self.nearest
        gained = nearest is not None and not self.customary
        gain = ratio_text(nearest.speedup, nearest.interval) if nearest and gained else ""
        word = "sure" if self.sure else ""
        if self.customary:
            word = "yours" if self.is_own else "today's"
        fraction = "" if self.gemm_fraction is None else f"{100 * self.gemm_fraction:.0f}%"
        return self.implementation, f"{1e3 * self.seconds:.3g}", fraction, gain, word

    def sentence(self) -> str:
        """Say it in one sentence."""
        people = f"what people call on {self.framework} today"
        names = [self.implementation, *(rival.implementation for rival in self.today)]
        called = f"{people}, and your own" if any(map(_is_own, names)) else people
        what = "your own" if self.is_own else people
        nearest = self.nearest
        if self.against is None:
            return (
                f"{self.implementation} is the fastest; nothing was measured that people call "
                f"on {self.framework} today"
            )
        gain = (
            ""
            if nearest is None
            else (f"{_factor(nearest)} times as fast as {nearest.implementation}")
        )
        if nearest is None or (self.customary and nearest.speedup <= 1):
            if nearest is not None and nearest.comparison.word == "UNSURE":
                return (
                    f"{self.implementation} is {what}, and nothing was found to be faster here: "
                    f"{self.fastest} is {gain}, {_doubt(nearest)}"
                )
            surely = nearest is not None  # what else there is was compared with it
            outcome = "is faster here" if surely else "was measured to be faster"
            return f"{self.implementation} is {what}, and nothing {outcome}"
        if self.sure:
            return f"{self.implementation} is surely faster than {called}: {gain}"
        if self.customary:
            return (
                f"nothing is surely faster than {called}: {self.fastest} is {gain}, "
                f"{_doubt(nearest)}"
            )
        others = [
            f"{rival.implementation} ({_factor(rival)}, {rival.comparison.word})"
            for rival in self.today
            if rival.comparison.word != "FASTER"
        ]
        return (
            f"{self.implementation} is surely faster than the fastest of {called}: {gain}; not "
            f"surely than {', '.join(others)}"
        )


def _is_own(implementation: str) -> bool:
    return implementation.endswith(f":{OBJECT_MODE}")


def _factor(rival: Rival) -> str:
    return ratio_text(rival.speedup, rival.interval)


def _doubt(rival: Rival) -> str:
    word = rival.comparison.word
    if rival.noise is None:
        return f"which is {word}"
    noise = f"the noise of ±{100 * rival.noise:.1f}%"
    if word != "UNSURE":
        return f"which is {word} at {noise}"
    return f"which is UNSURE: widened for all that was compared at once it reaches into {noise}"


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
            gain = (
                f"{self.speedup:.2f} times as fast as {self.other}, the fastest of another "
                "framework"
            )
            return f"{self.fastest} is surely the fastest of all: {gain}"
        return (
            f"of all, {self.fastest} had the shortest median time, of another framework "
            f"{self.other}: round by round the first is {self.speedup:.2f} times as fast, which is "
            "not sure"
        )


@dataclass(frozen=True, repr=False)
class Recommendation(Answer):
    """The answer for one shape.

    Args:
        case, device, dtype, threads: what was asked for.
        measured: when, and from which folder.
        noise: of the interleave, as a fraction; None where no A/A row tells it.
        choices: one for each framework, the fastest first.
        runner_up: the fastest of all against that of any other framework; None where there is one
            framework alone.
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

    def answer(self) -> str:
        """Say what to use in one sentence."""
        first = self.choices[0]
        noise = "" if self.noise is None else f" (noise ±{100 * self.noise:.1f}%)"
        if first.sure and first.nearest is not None:
            gain = (
                f"surely {_factor(first.nearest)} times as fast as {first.nearest.implementation}"
            )
            return f"use {first.implementation}, {gain}{first.over_its_own()}{noise}"
        if first.customary:
            whose = "your own" if first.is_own else "which people call today"
            return f"use {first.implementation}, {whose}: nothing is surely faster{noise}"
        return f"use {first.implementation}, the fastest by its median{noise}"

    def subject(self) -> str:
        """The shape, and on how much of what it was measured."""
        place = "" if self.device == "cpu" else f" on {self.device}"
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.case}, {self.dtype}{place}, {threads}"

    def lines(self) -> list[str]:
        """What to use, of which shape, how sure that is on each framework, and the code."""
        return [
            self.answer(),
            f"{self.subject()} ({self.measured})",
            *([] if self.runner_up is None else [self.runner_up.sentence()]),
            *(f"{choice.framework}: {choice.sentence()}" for choice in self.choices),
            *(f"note: {note}" for note in self.notes),
            "",
            *self.choices[0].code.rstrip().splitlines(),
        ]

    def table(self) -> list[tuple[str, ...]]:
        """What to use on each framework."""
        return [
            ("use", "ms", "of GEMM", "gain [95%]", ""),
            *(choice.cells() for choice in self.choices),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {"schema": "patchparity.recommend/1", **dataclasses.asdict(self)}
