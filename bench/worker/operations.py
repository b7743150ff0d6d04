"""What is timed of an implementation, on which problem: tokens, whole sequences, train steps."""

import contextlib
import ctypes
import functools
import gc
from typing import Any

from numpy.typing import NDArray

from ...backends.computation import LoadedEmbedding, Operation
from ...reference.expectation import Direction
from ...reference.probe import Probe
from ...reference.probes import (
    random_bytes,
    random_normal,
    random_sequence,
    train_step,
    without_bias,
)
from ...reference.spec import PatchEmbedSpec

FINGERPRINT_IMAGES = 8
"""Images of the twin without bias whose tokens are looked at for effective bits: 196·768 values
each tell an rms to 0.1%, 0.001 bits, and a batch of 128 would take as long to judge as all else."""


@functools.lru_cache(maxsize=4)
def timing_probe(
    spec: PatchEmbedSpec, batch: int, dtype: str, seed: int, operation: str, zero_bias: bool, /
) -> Probe:
    """The problem that is timed, and judged: random data. Parent and worker make the same from the
    seed, and keep it for the rows that follow;
    `forget_problems` lets go of it. Arguments are given as they are kept: all of them, by
    position."""
    if operation == "sequence":
        return random_sequence(spec, batch, dtype, seed, num_registers=0)
    if operation == "train-step":
        return train_step(spec, batch, dtype, seed)
    if operation == "uint8":
        return random_bytes(spec, batch, dtype, seed, zero_bias=zero_bias)
    if zero_bias:
        return without_bias(timing_probe(spec, batch, dtype, seed, "tokens", False))
    return random_normal(spec, batch, dtype, seed, forward_only=True)


def twin_operation(operation: str) -> str:
    """The operation of the twin without bias, on which effective bits are told: tokens, of what an
    implementation takes."""
    return "uint8" if operation == "uint8" else "tokens"


def forget_problems() -> None:
    """Let go of the problems that were kept, and give what that frees back to the system: the next
    case may need it."""
    timing_probe.cache_clear()
    gc.collect()
    # glibc's; the workers' settings let it keep a gigabyte otherwise
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def operation_of(
    embedding: LoadedEmbedding, operation: str, probe: Probe
) -> LoadedEmbedding | Operation | None:
    """What computes an operation on a problem, its weights assigned before; None where the
    implementation has none."""
    if operation == "sequence":
        assert probe.weights.class_token is not None
        assert probe.weights.positions is not None
        return embedding.sequence(probe.weights.class_token, probe.weights.positions)
    return embedding.train_step(probe.grad_tokens) if operation == "train-step" else embedding


def results_of(
    computation: LoadedEmbedding | Operation, inputs: Any
) -> dict[Direction, NDArray[Any]]:
    """Call, and fetch what comes out, by direction."""
    fetched = computation.fetch(computation.call(inputs))
    return fetched if isinstance(fetched, dict) else {"forward": fetched}
