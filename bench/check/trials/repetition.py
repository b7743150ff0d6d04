"""Trials of many calls: the same images, and generators of the whole process."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..containment import alike
from ..settings import Generators
from .tried import MOST_OPERATIONS, Outcome, Trial, Tried

CALLS = 50
"""Calls of the same images: an object that counts them, or warms up, shows it within these."""

MORE_CALLS = 128
"""The same of a small one."""


def repetition(tried: Tried) -> Iterator[Trial]:
    """Many calls of the same images, and the generators that they may seed."""
    yield "generators-left-as-they-were", functools.partial(_generators, tried)
    many = MORE_CALLS * tried.small.flops(2) <= MOST_OPERATIONS // 10
    calls = MORE_CALLS if many else CALLS
    yield f"{calls}-calls", functools.partial(_repeated, tried, calls)


def same_again(tried: Tried) -> Trial:
    """Call the object now, and try the same images once more when the trial is run."""
    images = tried.draw(tried.live.spec, tried.batch)
    first = np.array(tried.live.call(np.array(images)))  # which later calls may write over
    return "first-images-again", functools.partial(_again, tried, images, first)


def _repeated(tried: Tried, calls: int) -> Outcome | None:
    images = tried.draw(tried.small, 2)
    if calls * tried.small.flops(2) > MOST_OPERATIONS * 5:
        return None
    call = tried.live.call
    if call.batch:
        images = images[:1].repeat(call.batch, axis=0)
    placed = call.place(images)
    with call.held():
        first = call.fetch(call.run(placed)).tobytes()
        for number in range(2, calls + 1):
            if call.fetch(call.run(placed)).tobytes() != first:
                return {
                    "verdict": "fail",
                    "message": f"call {number} on the same images differs from the first",
                }
    return {"verdict": "pass"}


def _again(tried: Tried, images: NDArray[Any], first: NDArray[Any]) -> Outcome:
    """The images of before all other trials once more: a state that calls change shows."""
    if alike(first, tried.live.call(np.array(images))):
        return {"verdict": "pass"}
    message = "the same images give something else than some hundred calls before"
    return {"verdict": "fail", "message": message}


def _generators(tried: Tried) -> Outcome:
    """Whether a call seeds generators that the whole process draws from."""
    with Generators() as generators:
        after = []
        for _ in range(2):
            generators.draw()
            tried.live.call(tried.draw(tried.live.spec, tried.batch))
            after.append(generators.states())
    seeded = [name for name in after[0] if after[0][name] == after[1][name]]
    message = f"it seeds {' and '.join(seeded)}, for all that runs in its process"
    return {"verdict": "fail" if seeded else "pass", "message": message if seeded else ""}
