"""What explains an output: a cause in words, and a fit, which has a number in it and leaves some of
the output unexplained."""

import math
from dataclasses import dataclass

import numpy as np

from ..pipeline import Array

CLOSE = 2e-3
"""How near a fitted number must be to a known one: float32 outputs give four digits and more,
16-bit ones three."""


NOTHING = 5e-4
"""How near a factor must be to 1 to be what is left of another mistake's rounding: TF32 that is cut
off makes outputs smaller by 3e-4."""


@dataclass(frozen=True)
class Fit:
    """What explains an output.

    Args:
        id: stable name.
        explanation, mend: as in a mistake.
        left: rms of what it leaves unexplained.
        factor: what it says the products were multiplied by, where that is a number: their rounding
            is as much smaller.
        nothing: whether it changes so little that beside another mistake it is that one's rounding.
    """

    id: str
    explanation: str
    mend: str
    left: float
    factor: float = 1.0
    nothing: bool = False


@dataclass(frozen=True)
class Cause:
    """What explains an output: one mistake, or two in the order in which they act.

    Args:
        mistakes: their ids.
        explanation, mend: in words.
    """

    mistakes: tuple[str, ...]
    explanation: str
    mend: str


def cause_of(*forms: tuple[str, str, str]) -> Cause:
    """The cause of which these are the parts: ids, explanations and remedies."""
    ids, explanations, mends = zip(*forms, strict=True)
    return Cause(ids, "; and ".join(explanations), "; then ".join(mends))


def rms(values: Array) -> float:
    """Root of the mean square; 0 of nothing."""
    return math.sqrt(float(np.mean(np.square(values)))) if values.size else 0.0


MOST_ROWS = 2048
"""Rows that are matched with one another; the table of distances has their square."""


UNRELATED = 0.8
"""Squared distance of a row to the nearest of others, as a share of its own square, from which on
they have nothing to do with it: of independent rows it is above 1, of a rectified one a half."""


def matching(right: Array, observed: Array) -> Array | None:
    """For each row of `observed` `(rows, width)` the row of `right` that is nearest; None where
    that is no permutation."""
    if not 1 < len(right) <= MOST_ROWS:
        return None
    sizes = (right * right).sum(1)
    few = observed[:: max(1, len(observed) // 4)]
    nearest = ((few * few).sum(1)[:, None] + sizes[None] - 2 * few @ right.T).min(axis=1)
    if (nearest > UNRELATED * (few * few).sum(1)).any():
        return None
    distances = (observed * observed).sum(1)[:, None] + sizes[None] - 2 * observed @ right.T
    order = np.asarray(distances.argmin(axis=1))
    return order if len(set(order.tolist())) == len(order) else None
