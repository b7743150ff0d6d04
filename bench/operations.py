"""What is timed of an implementation, on which problem: tokens, whole sequences, train steps."""

import dataclasses
import functools
from typing import Any

from numpy.typing import NDArray

from ..backends.base import LoadedEmbedding, Operation
from ..reference.probes import Direction, Probe, random_normal, random_sequence, train_step, without_bias
from ..reference.spec import PatchEmbedSpec

OPERATIONS = ("tokens", "sequence", "train-step")
"""What is timed of an implementation: the projection; the projection, a class token in front and positions added; the projection and the
gradients of its kernel and bias."""


@functools.lru_cache(maxsize=6)
def timing_probe(
    spec: PatchEmbedSpec, batch: int, dtype: str, seed: int, operation: str = "tokens", zero_bias: bool = False
) -> Probe:
    """The problem that is timed, and judged: random data. Parent and worker make the same from the seed, and keep it for the rows that follow."""
    if operation == "sequence":
        return random_sequence(spec, batch, dtype, seed, num_registers=0)
    if operation == "train-step":
        return train_step(spec, batch, dtype, seed)
    if zero_bias:
        return without_bias(timing_probe(spec, batch, dtype, seed))
    return dataclasses.replace(random_normal(spec, batch, dtype, seed), gradients=())


def operation_of(embedding: LoadedEmbedding, operation: str, probe: Probe) -> LoadedEmbedding | Operation | None:
    """What computes an operation on a problem, its weights assigned before; None where the implementation has none."""
    if operation == "sequence":
        assert probe.weights.class_token is not None
        assert probe.weights.positions is not None
        return embedding.sequence(probe.weights.class_token, probe.weights.positions)
    return embedding.train_step(probe.grad_tokens) if operation == "train-step" else embedding


def results_of(computation: LoadedEmbedding | Operation, inputs: Any) -> dict[Direction, NDArray[Any]]:
    """Call, and fetch what comes out, by direction."""
    fetched = computation.fetch(computation.call(inputs))
    return fetched if isinstance(fetched, dict) else {"forward": fetched}
