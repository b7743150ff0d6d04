"""What `check` tries of somebody's object beside random images of its own size: batches, sizes,
values, memory, repetition, NaN.

A trial that the object refuses loudly passes, and is told: an error is no wrong number.
"""

from collections.abc import Iterator

import numpy as np

from ....reference.error import ArithmeticModel
from ....reference.errors import PatchParityError
from ..problems import Problems
from .batches import batches
from .memory import memory
from .modes import modes
from .non_finite import non_finite
from .positions import other_positions
from .remainders import remainders
from .repetition import repetition, same_again
from .sampled import sampled
from .sizes import sizes
from .tried import Outcome, Trial, Tried
from .values import other_values

ROOMS = (
    batches,
    sizes,
    sampled,
    remainders,
    other_positions,
    other_values,
    non_finite,
    memory,
    repetition,
    modes,
)
"""What is tried, in order: each gives the trials that say something of an object."""


def trials(problems: Problems, model: ArithmeticModel, seed: int) -> Iterator[tuple[str, Outcome]]:
    """Name and outcome (`verdict`, `message`, maybe `bound_ratio`) of each trial.

    Args:
        problems: of the object.
        model: its arithmetic.
        seed: of the images.
    """
    tried = Tried(problems, model, np.random.default_rng([seed, 5]))
    for name, trial in _all(tried):
        try:
            outcome = trial()
        except PatchParityError as error:
            outcome = {"verdict": "pass", "message": f"refused: {str(error).splitlines()[0][:200]}"}
        if outcome is not None:
            yield name, tried.with_cause(name, outcome)


def _all(tried: Tried) -> Iterator[Trial]:
    """Every trial, and the first images once more behind all others."""
    again = same_again(tried)
    for room in ROOMS:
        yield from room(tried)
    yield again
