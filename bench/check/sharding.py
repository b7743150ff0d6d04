"""What implementations over several devices are asked: is what the framework calls the result the
result, and what does each device do for it?

Findings are told as those of behaviors are. A result that is wrong has one cause on all data, so
its known issue explains every verdict on its implementation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ...backends.base import Backend, Implementation
from ...backends.device_work import SPLIT
from ...reference.errors import PatchParityError
from ...reference.probes import random_normal
from ...reference.spec import PatchEmbedSpec
from ...reference.verdict import judge

EVEN = PatchEmbedSpec((32, 64), 4, 8, 48)
"""8×16 patches, 8 channels, 48 outputs: over 2, 4 and 8 devices whole patches each, C ≠ P, neither
image nor grid square."""
EVEN_BATCH = 8

UNEVEN = PatchEmbedSpec(224, 16, 3, 50)
"""ViT's own 14×14 patches, and 50 outputs: over 4 devices pixels divide, 56 each, and patches,
channels and outputs do not."""
UNEVEN_BATCH = 6
"""Not divided by 4 either."""

OVERLAPPING = PatchEmbedSpec((32, 64), 7, 8, 48, stride=4, padding=3, remainder="floor")
"""8×16 patches again, of which neighbors share three pixels."""

FEW = 2
"""Fewer images than devices."""

SHARDED_RESULT = "sharded-result"
RIGHT = "right"


class Found(NamedTuple):
    """A finding, and what more there is to say of it."""

    finding: str
    detail: str = ""


@dataclass(frozen=True)
class Question:
    """One question to an implementation over several devices.

    Args:
        name: as in the results (`probe`) and in `known_issues.toml`.
        question: what is asked, for the table.
        expected: the finding that is no surprise.
        find: the finding, from the backend and its implementation.
    """

    name: str
    question: str
    expected: str
    find: Callable[[Backend, Implementation], Found]


def _result(backend: Backend, implementation: Implementation) -> Found:
    """Tokens of few images, judged as everywhere."""
    probe = random_normal(EVEN, FEW, "float32", 0)
    loaded = backend.load(implementation, probe.weights, EVEN, "float32", "cpu")
    tokens = loaded.tokens(probe.images)
    verdict = judge(probe, "forward", tokens, implementation.arithmetic("float32"))
    if verdict.verdict == "pass":
        return Found(RIGHT)
    expected = EVEN.tokens_shape(FEW)
    if tokens.shape != expected:
        return Found(f"shape {tokens.shape} for {expected}", verdict.message)
    return Found("wrong values", verdict.message)


def _work(spec: PatchEmbedSpec, batch: int) -> Callable[[Backend, Implementation], Found]:
    def find(backend: Backend, implementation: Implementation) -> Found:
        work = backend.device_work(implementation, spec, batch)
        return Found("unknown") if work is None else Found(work.finding, work.describe())

    return find


RESULT = Question(SHARDED_RESULT, "two images over four devices", RIGHT, _result)
QUESTIONS = (
    RESULT,
    Question("sharded-work", "work of a device, patches dividing", SPLIT, _work(EVEN, EVEN_BATCH)),
    Question(
        "sharded-work-uneven",
        "work of a device at 224, 14 rows of patches",
        SPLIT,
        _work(UNEVEN, UNEVEN_BATCH),
    ),
    Question(
        "sharded-work-overlapping",
        "work of a device, patches sharing pixels",
        SPLIT,
        _work(OVERLAPPING, EVEN_BATCH),
    ),
)
"""What every implementation over several devices is asked."""

SHARDED_BEHAVIORS = {question.name: question for question in QUESTIONS}


def ask_sharded(
    question: Question, backend: Backend, implementation: Implementation
) -> dict[str, Any]:
    """Ask and judge: the fields of a result, `fail` where the finding is a surprise that no known
    issue has explained yet."""
    try:
        finding, detail = question.find(backend, implementation)
    except Exception as error:  # whatever a framework raises is its answer
        ours = isinstance(error, PatchParityError)
        finding = f"raises {'PatchParityError' if ours else type(error).__name__}"
        detail = str(error).strip().partition("\n")[0]
    if finding == question.expected:
        return {"probe": question.name, "behavior": finding, "verdict": "pass"}
    message = f"{question.question}: found {finding!r}, expected {question.expected}"
    message += f"; {detail}" if detail else ""
    return {"probe": question.name, "behavior": finding, "verdict": "fail", "message": message}
