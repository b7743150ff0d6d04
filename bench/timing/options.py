"""What a benchmark is asked for."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from ...reference.errors import PatchParityError
from ..machine.interpreters import own_interpreters, parse_interpreters
from ..worker.client import CALL_SECONDS
from .effort import Effort
from .presets import preset

CACHES = ("warm", "cold")


MOST_ROUNDS = 512
"""Rounds at which the search for a precision goal ends: the interval narrows with their root, and
512 halve that of 128 at four times the time."""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure. Every field is an option of `patchparity bench` and, as
    `--patchparity-FIELD`, of `pytest bench`.

    Args:
        preset: `smoke`, `quick` or `full`.
        cases: names of cases instead of the preset's.
        backends, implementations: as in `check`; none means all.
        peers: somebody's own implementations, each `module:attribute`, timed with the weights that
            they have on the cases whose sizes are theirs; one that gives the sequence brings that
            operation along.
        threads: CPU threads to ask for; none means the preset's, mostly all cores.
        devices: `cpu`, `cuda`; none means all that are found.
        dtypes: none means the preset's, mostly float32.
        precisions: of float32: `ieee`, `tf32`, `bf16`, `default`; none means the preset's, on a CPU
            `ieee`.
        caches: `warm`, `cold`; warm by default.
        operations: `tokens`, `sequence`, `train-step`, `uint8`; none means the preset's.
        rounds: samples a row; None means the preset's. With a precision goal, the most there may be
            (512 unless given).
        generations: lives of the worker processes that the rounds are spread over; None means the
            preset's.
        precision_goal: half-width of the interval of every ratio to the reference, as a fraction,
            at which a case is done; looked at after 16, 32, 64, ... rounds.
        time_budget: seconds for a case. With a precision goal looked at when the goal is; without
            one, what the rounds of a case may take: where they would take longer, there are fewer
            of them. None means the preset's.
        pythons: other interpreters for some backends, each `BACKEND=PATH`, so that frameworks whose
            dependencies conflict can take part in one run; patchparity must be installed there.
        hosts: `local`, `ssh=USER@MACHINE` or `ssh=USER@MACHINE//python=PATH`: the machines to
            measure on; `ray` or `ray://HOST:PORT`: every node of a Ray cluster; none means this
            one. Where another takes part, this version of patchparity must be installed there.
        seed: of data and order.
        call_seconds: a worker that takes longer than this for one call is ended, and its rows say
            so.
        out: folder of the record.
        resume: keep what the record holds, and measure the rest.
        replay: measure nothing: tell again what the record holds.
    """

    preset: str = "smoke"
    cases: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    implementations: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    caches: tuple[str, ...] = ("warm",)
    operations: tuple[str, ...] = ()
    rounds: int | None = None
    generations: int | None = None
    precision_goal: float | None = None
    time_budget: float | None = None
    pythons: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    seed: int = 0
    call_seconds: float = CALL_SECONDS
    out: str = ""
    resume: bool = False
    replay: bool = False

    def interpreters(self) -> dict[str, str]:
        """The interpreter of each backend that has one of its own.

        Raises:
            PatchParityError: an unknown backend, or an interpreter that is absent or has no
                patchparity.
        """
        given = parse_interpreters(self.pythons)
        return {**own_interpreters(self.backends), **given}

    def effort(self, case: str | None = None, dtype: str | None = None) -> Effort:
        """How long a block is measured; of no case in particular, as one is at least."""
        chosen = preset(self.preset)
        parts = chosen.parts[:1] if self.cases else chosen.parts
        lives = [
            part.generations
            for part in parts
            if self.cases or (case in part.cases and dtype in (self.dtypes or part.dtypes))
        ]
        rounds = self.rounds or (chosen.rounds if self.precision_goal is None else MOST_ROUNDS)
        budget = self.time_budget
        if self.rounds is None and self.precision_goal is None and budget is None:
            budget = chosen.time_budget
        return Effort(
            rounds, self.generations or max(lives, default=1), self.precision_goal, budget
        )

    def arguments(self) -> list[str]:
        """The options as arguments of pytest, those that differ from the default."""
        given = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                text = _listed(value) if isinstance(value, tuple) else str(value)
                given.append(f"--patchparity-{field.name}={text}")
        return given

    @classmethod
    def parse(cls, texts: dict[str, str | None]) -> "BenchOptions":
        """Build options from the texts of pytest's options.

        Raises:
            PatchParityError: a text that is no number where one is expected.
        """
        fields: dict[str, Any] = {}
        for name, text in texts.items():
            if text is None:
                continue
            try:
                if name in ("rounds", "generations", "seed"):
                    fields[name] = int(text)
                elif name in ("call_seconds", "precision_goal", "time_budget"):
                    fields[name] = float(text)
                elif name in ("resume", "replay"):
                    fields[name] = text == "True"
                elif name in ("preset", "out"):
                    fields[name] = text
                else:
                    items = _items(text)
                    fields[name] = tuple(map(int, items)) if name == "threads" else items
            except ValueError:
                raise PatchParityError(f"{name}={text!r}: expected numbers") from None
        return cls(**fields)


def _listed(values: tuple[Any, ...]) -> str:
    """Values with commas between them, as JSON where one holds a comma itself (options of ssh,
    paths)."""
    texts = [str(value) for value in values]
    return json.dumps(texts) if any("," in text for text in texts) else ",".join(texts)


def _items(text: str) -> tuple[str, ...]:
    """What `_listed` wrote."""
    return tuple(json.loads(text) if text.startswith("[") else filter(None, text.split(",")))
