"""Trials of memory: images that are left as they were, results that are kept, other layouts."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....porting.objects.memory_forms import (
    bits_of,
    forms_in_memory,
    forms_of_gray,
    forms_of_one,
    refilled,
)
from ....reference.errors import PatchParityError
from ....reference.probe import Probe
from ..containment import bitwise
from ..problems import repeated_first
from .tried import OWN_BUFFER, SEVERAL, Outcome, Trial, Tried

SHARES = (1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.25, -0.25, 4.0)
"""What images are multiplied by, one call after another, whose results are all kept: an object may
go round eight buffers of its own."""


def memory(tried: Tried) -> Iterator[Trial]:
    """Images that are changed, results that are written over, other layouts."""
    yield "images-left-as-they-were", functools.partial(_untouched, tried)
    yield "result-kept", functools.partial(_kept, tried)
    if tried.live.framework in ("torch", "numpy"):
        yield "memory-layouts", functools.partial(_layouts, tried)


def _untouched(tried: Tried) -> Outcome:
    images = tried.draw(tried.live.spec, tried.batch)
    placed, again = (tried.live.call.place(np.array(images)) for _ in range(2))
    tried.run(placed)
    if not np.array_equal(bits_of(placed), bits_of(again)):
        return {"verdict": "fail", "message": "it changes the images that it is given"}
    return {"verdict": "pass"}


def _kept(tried: Tried) -> Outcome:
    """The first results after later calls, of images of the other sign and of others in the
    same memory: a buffer that is written again, a result that is found by a sum or a place."""
    images = tried.draw(tried.small, tried.batch)
    kept, before = [], []
    for share in SHARES:
        others = (share * images).astype(images.dtype)
        kept.append(tried.run(tried.live.call.place(others)))
        before.append(np.array(tried.live.call.fetch(kept[-1])))
    after = [np.array(tried.live.call.fetch(result)) for result in kept]
    if any(a.tobytes() != b.tobytes() for a, b in zip(before, after, strict=True)):
        return {"verdict": "fail", "message": OWN_BUFFER}
    placed = tried.live.call.place(np.array(images))
    tried.run(placed)
    negative = tried.probe(tried.small, -images, "probabilistic", False)
    if refilled(placed, tried.live.call.place(-images)):
        again = np.array(tried.live.call.fetch(tried.run(placed)))
        if (outcome := tried.judged_on(negative, -images, again))["verdict"] == "fail":
            message = "images that are written into the memory of earlier ones give another result"
            return {**outcome, "message": f"{message}; {outcome['message']}"}
    tried.run(tried.live.call.place(np.array(images)))
    turned = np.ascontiguousarray(images[..., ::-1])  # their sums are those of the images
    outcome = tried.judged(tried.small, turned, "probabilistic")
    return (
        outcome if outcome["verdict"] == "fail" else tried.judged_on(negative, -images, before[1])
    )


def _layouts(tried: Tried) -> Outcome | None:
    """The same images, laid out in memory otherwise."""
    probe = tried.own()
    placed = tried.live.call.place(np.array(probe.images))
    same = repeated_first(probe)
    wrong, refused, worst = [], [], 0.0
    right: NDArray[Any] | None = None
    forms = [(name, form, probe) for name, form in forms_in_memory(placed).items()]
    forms += [(name, form, same) for name, form in forms_of_one(placed).items()]
    forms += list(_turned_batches(tried))
    forms += list(_gray(tried))
    for name, form, shown in forms:
        before = bits_of(form).copy()
        try:
            output = tried.live.call.fetch(tried.run(form))
        except PatchParityError:
            refused.append(name)
            continue
        if not np.array_equal(bits_of(form), before):
            return {
                "verdict": "fail",
                "message": f"it changes the images that it is given ({name})",
            }
        output = np.array(output)
        if shown is probe and right is not None and bitwise(output, right):
            continue
        outcome = tried.judged_on(shown, shown.images, output)
        worst = max(worst, outcome["bound_ratio"] or 0.0)
        if outcome["verdict"] == "fail":
            wrong.append(name)
        elif shown is probe:
            right = output
    if wrong:
        return {
            "verdict": "fail",
            "message": f"images that lie in memory otherwise ({', '.join(wrong)}) give "
            "something else",
        }
    message = f"refused: images that lie in memory otherwise ({', '.join(refused)})"
    return {"verdict": "pass", "bound_ratio": worst, "message": message if refused else ""}


def _turned_batches(tried: Tried) -> Iterator[tuple[str, Any, Probe]]:
    """One image and several, square ones, whose channels lie last in memory."""
    if tried.live.call.batch:
        return
    for count in (1, SEVERAL):
        images = tried.draw(tried.small, count)
        forms = forms_in_memory(tried.live.call.place(images))
        probe = tried.probe(tried.small, images, "probabilistic", False)
        for name in ("channels_last", "rows and columns exchanged in memory"):
            if name in forms:
                yield f"{name}, {count} images", forms[name], probe


def _gray(tried: Tried) -> Iterator[tuple[str, Any, Probe]]:
    """Images of which one channel stands for all, without memory of their own."""
    channels = tried.live.spec.in_channels
    images = np.repeat(tried.draw(tried.small, tried.batch)[:, :1], channels, axis=1)
    placed = tried.live.call.place(images)
    if tuple(placed.shape) == images.shape and channels > 1:
        probe = tried.probe(tried.small, images, "deterministic", False)
        for name, form in forms_of_gray(placed).items():
            yield name, form, probe
