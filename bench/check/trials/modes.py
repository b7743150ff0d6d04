"""Trials of the modes that a framework has: training, gradients, inference, mixed precision."""

import functools
from collections.abc import Iterator

import numpy as np

from ....reference.errors import PatchParityError
from ..containment import bitwise
from .tried import Outcome, Trial, Tried

TRAINING = "training-mode"

OTHER_IN_TRAINING = (
    "it is in training mode, in which it gives something else; judged is what it gives after eval()"
)

MIXED = 2.0**-5
"""Relative rms that autocast to bfloat16 may move tokens by: four times the 2⁻⁷ that inputs,
weights and results move them by together, each rounded by 2⁻⁹ at most and some of them twice."""


def modes(tried: Tried) -> Iterator[Trial]:
    """Gradients, inference, mixed precision and training, where the framework has them."""
    call = tried.live.call
    if call.record is not None:
        yield "with-gradients", functools.partial(_recorded, tried)
        yield "inference-mode", functools.partial(_inference, tried)
    if call.mixed is not None and tried.live.dtype == "float32":
        yield "mixed-precision", functools.partial(_mixed, tried)
    if call.training is not None:
        yield TRAINING, functools.partial(_as_given, tried)


def _as_given(tried: Tried) -> Outcome:
    """The same call of a copy that is in training mode, as the object was given."""
    assert tried.live.call.training is not None
    images = tried.draw(tried.live.spec, tried.batch)
    expected = tried.live.call(np.array(images))
    try:
        output = tried.live.call.fetch(tried.live.call.training(tried.live.call.place(images)))
    except Exception as error:  # whatever a copy, or a call in training, raises
        return {"verdict": "pass", "message": f"refused: {type(error).__name__}"}
    same = bitwise(output, expected)
    return {"verdict": "pass", "message": "" if same else OTHER_IN_TRAINING}


def _recorded(tried: Tried) -> Outcome | None:
    """The same call where gradients are recorded, as in training but for dropout."""
    probe = tried.own()
    assert tried.live.call.record is not None
    for needed in (False, True):
        placed = tried.live.call.place(np.array(probe.images))
        if needed and hasattr(placed, "requires_grad_"):
            placed.requires_grad_()
        try:
            with tried.live.call.held():
                output = tried.live.call.fetch(tried.live.call.record(placed))
        except PatchParityError as error:
            if "a leaf Variable that requires grad" not in str(error):
                raise
            message = "it changes the images that it is given, where gradients are recorded"
            return {"verdict": "fail", "message": message}
        outcome = tried.judged_on(probe, probe.images, np.array(output))
        if outcome["verdict"] == "fail":
            return outcome
    return outcome


def _inference(tried: Tried) -> Outcome:
    """The same call in torch's inference mode, as many serve a model."""
    probe = tried.own()
    with tried.live.call.serving():
        return tried.judged_on(probe, np.array(probe.images))


def _mixed(tried: Tried) -> Outcome | None:
    """The same call under autocast, as many train: it may round to bfloat16, and no more."""
    images = tried.draw(tried.small, tried.batch)
    assert tried.live.call.mixed is not None
    expected = tried.live.call(np.array(images)).astype(np.float64)
    with tried.live.call.mixed():
        output = tried.live.call(np.array(images)).astype(np.float64)
    if output.shape != expected.shape:
        return {
            "verdict": "fail",
            "message": f"under torch's autocast to bfloat16 its output is of shape "
            f"{output.shape}, and of {expected.shape} without",
        }
    size = float(np.sqrt(np.mean(expected**2)))
    left = float(np.sqrt(np.mean((output - expected) ** 2)))
    if left <= MIXED * size:
        return {"verdict": "pass"}
    return {
        "verdict": "fail",
        "message": "under torch's autocast to bfloat16 it gives something else than rounded "
        f"numbers: {left / size:.2g} of the output",
    }
