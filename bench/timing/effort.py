"""How many rounds are measured, and when that is enough."""

import dataclasses
import itertools
from dataclasses import dataclass

FIRST_LOOK = 16
"""Rounds before the first look at a precision goal. Later looks come at 32, 64, ...: looking after
every round and stopping at a lucky moment would call differences that are not there."""


LEAST_ROUNDS = 16
"""Rounds that no time budget goes below. A probability below 2^−n is not believed of n rounds, and
twenty candidates for the fastest, held against fourteen rows that people call today, ask for one of
0.025/14/20 = 2^−13.5; three rounds more for those that do not agree."""


@dataclass(frozen=True)
class Effort:
    """How long a block is measured.

    Args:
        rounds: samples a row; with a goal, the most there may be.
        generations: lives of the worker processes; with a goal more than one means that every look
            begins a new one.
        goal: half-width of the 95% interval of every implementation's ratio to the reference, at
            which measuring ends; None for all rounds.
        budget_seconds: with a goal, time for a block, looked at when the goal is; without one, what
            its rounds may take: where they would take longer there are fewer of them. None for no
            limit.
    """

    rounds: int
    generations: int = 1
    goal: float | None = None
    budget_seconds: float | None = None

    def fitting(self, round_seconds: float) -> "Effort":
        """The same with as many rounds as fit into the time budget, where there is no goal: half as
        many for rounds of twice the length."""
        if self.goal is not None or self.budget_seconds is None:
            return self
        least = min(self.rounds, LEAST_ROUNDS)
        return dataclasses.replace(
            self, rounds=min(self.rounds, max(least, int(self.budget_seconds / round_seconds)))
        )

    def stretches(self) -> list[int]:
        """Numbers of rounds between which workers may begin anew, and the goal is looked at."""
        if self.goal is None:
            count = min(self.generations, self.rounds)
            return [
                self.rounds // count + (number < self.rounds % count) for number in range(count)
            ]
        looks = [0, FIRST_LOOK]
        while looks[-1] < self.rounds:
            looks.append(2 * looks[-1])
        if len(looks) > 2 and self.rounds - looks[-2] < FIRST_LOOK:
            # no life of a few rounds at the end: it would count as one more process on the word of
            # those few
            looks.pop()
            looks[-1] = self.rounds
        ends = [min(look, self.rounds) for look in looks]
        return [after - before for before, after in itertools.pairwise(ends) if after > before]

    def enough(self, widest: float | None, spent_seconds: float) -> bool:
        """Whether a block may stop at a look: its goal is reached, or its time is spent.

        Args:
            widest: half-width of the widest 95% interval of its rows; None where the reference is
                lost, and there is no ratio to wait for.
            spent_seconds: since it began.
        """
        if self.goal is None:
            return False
        if widest is None:
            return True
        return widest <= self.goal or (
            self.budget_seconds is not None and spent_seconds >= self.budget_seconds
        )
