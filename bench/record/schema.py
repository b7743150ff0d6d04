"""What a record holds, as types: the only place that knows its fields by name.

`rows.jsonl` has a line for each `Outcome`, `samples.jsonl` one for each `Sample`; `bench.json` is
pytest-benchmark's own schema with `Figures` as the
`extra_info` of each benchmark. What is written is checked by these types when it is read, so that a
damaged record is one sentence with the field's path.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ...porting.files.atomic import plain
from ...reference.errors import PatchParityError

SCHEMA = "patchparity.bench/2"
"""What `bench.json` calls itself; beside it stands pytest-benchmark's own version."""

Status = Literal["measured", "skip", "fail", "error"]
Role = Literal["implementation", "peer", "overhead", "ceiling", "aa"]
Seconds = Annotated[float, msgspec.Meta(ge=1e-12, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of one row in one round.

    Args:
        case, row, implementation, role, cache, device: of the row, as in `Row`.
        round: number of the round; `order`: place of the visit in it; `generation`: which life of
            the worker processes.
        seconds: of one call.
        visit_seconds: of the visit: warm calls, emptying caches, the timed calls.
        disturbance, steal: cores that others kept busy, and that the host took, in that round; None
            where the system does not tell.
        disturbed: whether that is more than is taken for none.
        clock_mhz: of the device.
        attempt: which attempt at the block it belongs to.
    """

    case: str
    row: str
    implementation: str
    role: Role
    round: Count
    order: Count
    generation: Count
    cache: str
    device: str
    seconds: Seconds
    visit_seconds: float
    disturbance: float | None = None
    steal: float | None = None
    disturbed: bool = False
    clock_mhz: int | None = None
    attempt: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one row.

    Args:
        case, implementation, backend, host, device, dtype, precision, threads_requested, operation,
            role, cache: as in `Row`.
        row: its identity.
        status: `measured`, `skip`, `fail` (wrong) or `error`; `message`: why.
        load_seconds, transfer_seconds, first_call_seconds, trace_seconds, compile_seconds: before
            the steady state.
        peak_memory_bytes: by how much one call makes the process grow.
        verdict, bound_ratio, effective_bits: of this very configuration.
        visit_seconds: of all visits but those that gave samples.
        cores_busy, threads_observed: from CPU time over wall time.
        repeat: calls of one sample; `timer`: how they were timed.
        widest_interval: of the block when it ended, where a precision goal was asked for.
        attempt, rounds, effort, seed, rows_of_block: of the block.
        machine: fingerprint; `versions`: of what the worker ran.
        planned_skip: whether it was never to be measured.
    """

    case: str
    implementation: str
    backend: str
    host: str
    device: str
    dtype: str
    precision: str
    row: str
    threads_requested: Annotated[int, msgspec.Meta(ge=1)]
    operation: str
    role: Role
    cache: str
    status: Status
    message: str
    load_seconds: float | None = None
    transfer_seconds: float | None = None
    first_call_seconds: float | None = None
    trace_seconds: float | None = None
    compile_seconds: float | None = None
    peak_memory_bytes: int | None = None
    verdict: Literal["pass", "fail"] | None = None
    bound_ratio: float | None = None
    effective_bits: float | None = None
    visit_seconds: float | None = None
    cores_busy: float | None = None
    threads_observed: int | None = None
    repeat: int | None = None
    timer: str | None = None
    widest_interval: float | None = None
    attempt: str
    rounds: Count
    effort: dict[str, int | float | None]
    seed: int
    rows_of_block: int
    machine: str
    versions: dict[str, str]
    planned_skip: bool

    @property
    def block(self) -> "tuple[str, str, int, str, str]":
        """What it is measured in one interleave with."""
        return self.case, self.dtype, self.threads_requested, self.cache, self.host

    def but(self, **fields: Any) -> "Outcome":
        """The same with other values of some fields."""
        return msgspec.structs.replace(self, **fields)


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from the samples of a measured row and those of its block; `extra_info` of its
    benchmark in `bench.json`. None where one does not apply or is not measured.

    Args:
        implementation, backend, formulation, mode, case, batch, device, dtype, precision: which
            row.
        host: `local`, `host1`, ... of those behind ssh, or `node1`, ... of a Ray cluster.
        operation: `tokens`; `sequence`, a class token in front and positions added; `train-step`,
            tokens and the gradients of kernel and bias; `uint8`, tokens of pixels as bytes.
        role: `implementation`, `peer`, `overhead` (one patch), `ceiling` or `aa`.
        cache: `warm`, or `cold`: twice the last-level cache was written between the warm call and
            the timed one.
        threads_requested, threads_observed, cores_busy: CPU threads; observed from CPU time over
            wall time.
        timer: `wall`: every call is waited for; `events`: the GPU's own clock; `amortized`: many
            calls are queued and waited for once.
        verdict, bound_ratio, effective_bits: of this very configuration.
        peak_memory_bytes: by how much one call makes the process grow at its peak, weights and
            inputs not counted (Linux; on a GPU, what the framework's allocator tells). None where
            that is less than the results' size: then arrays that are kept from call to call, or
            pages that an allocator holds on to, hide what a call needs.
        seed: of data and order.
        load_seconds, transfer_seconds, first_call_seconds: before the steady state: weights into
            the framework, images onto the device, the first call.
        trace_seconds, compile_seconds: of the first call, as far as known: JAX tells; a
            `tf.function` is traced apart; of XLA in TensorFlow and of `torch.compile` it is what a
            second call does not take.
        gflops, gigabytes_per_second: operations (2·B·N·K·D for tokens; a sequence an addition for
            each of its values more; a train step 4·B·N·K·D + B·N·D; the bias is not counted), and
            least possible bytes, over the median; no `gflops` of a copy.
        gemm_fraction, own_gemm_fraction: of the machine's fastest same-shape matrix product (a
            train step: of two), and of the same framework's; the median over rounds of the two
            times' ratio.
        roof, roof_fraction: of an implementation: which limit decides (`compute`, `bandwidth`,
            `dispatch`), and the limit's time over the row's, paired by round.
        ratio, ratio_interval: time to that of `numpy:linear:eager` (NumPy at its best;
            `numpy:naive` is the reference's own formulation) at the same operation, paired, with
            its 95% interval.
        precision_goal, widest_interval: the half-width that was asked for, and that of the widest
            interval of the case when it ended; None without a goal.
        generations: how many rounds each life of the worker processes had.
        disturbance, steal, disturbed_rounds: in the median round; and how many rounds a neighbor
            disturbed: they are marked, none is left out.
        clock_mhz: of the GPU (`nvidia-smi`), or of the first core where Linux tells it, in the
            median round.
    """

    implementation: str
    case: str
    host: str
    device: str
    dtype: str
    precision: str
    threads_requested: int
    operation: str
    cache: str
    role: Role
    threads_observed: int | None
    cores_busy: float | None
    timer: str | None
    verdict: Literal["pass", "fail"] | None
    bound_ratio: float | None
    effective_bits: float | None
    peak_memory_bytes: int | None
    seed: int | None
    widest_interval: float | None
    load_seconds: float | None
    transfer_seconds: float | None
    first_call_seconds: float | None
    trace_seconds: float | None
    compile_seconds: float | None
    backend: str
    formulation: str
    mode: str | None
    batch: int
    gflops: float | None
    gigabytes_per_second: float | None
    gemm_fraction: float | None
    own_gemm_fraction: float | None
    roof: Literal["compute", "bandwidth", "dispatch"] | None
    roof_fraction: float | None
    ratio: float | None
    ratio_interval: Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)] | None
    precision_goal: float | None
    generations: list[Count]
    disturbed_rounds: Count
    disturbance: float | None
    steal: float | None
    clock_mhz: float | None

    @property
    def block(self) -> "tuple[str, str, int, str, str]":
        """What it was measured in one interleave with."""
        return self.case, self.dtype, self.threads_requested, self.cache, self.host


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of pytest-benchmark's own statistics of a benchmark."""

    data: Annotated[Sequence[Seconds], msgspec.Meta(min_length=1)]
    median: Seconds
    q1: Seconds
    q3: Seconds
    rounds: Count


class Params(msgspec.Struct, frozen=True, kw_only=True):
    """Which row a benchmark is: the identity of its `Row`."""

    identity: str


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark of `bench.json`: a measured row."""

    extra_info: Figures
    stats: Stats
    params: Params


class Unmeasured(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `failures` or `skipped` of a `bench.json`.

    Args:
        row: its identity.
        case, implementation, host, device, dtype, precision, threads_requested, operation, role,
            cache: which row.
        status, message: `skip`, `fail` or `error`, and why.
    """

    row: str
    case: str
    implementation: str
    host: str
    device: str
    dtype: str
    precision: str
    threads_requested: int
    operation: str
    role: Role
    cache: str
    status: Status
    message: str

    @property
    def block(self) -> "tuple[str, str, int, str, str]":
        """What it was to be measured in one interleave with."""
        return self.case, self.dtype, self.threads_requested, self.cache, self.host


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """The machine and the software; a number is the word `unknown` or `unavailable` where the
    system does not tell. No host or user names.

    Args:
        python, platform, processor, memory_bytes, gpus: of the machine.
        cores, cores_of_machine: that the process may use, and that there are.
        blas, blas_kernels: of NumPy, and the kernels that it chose for this CPU.
        versions: of what is installed.
        variables: those that change how frameworks compute; paths are blanked.
        hosts: the same of other machines, by name.
    """

    python: str
    platform: str
    processor: str
    cores: int | str
    cores_of_machine: int | str
    memory_bytes: int | str
    gpus: list[str]
    blas: str
    blas_kernels: str = "unavailable"
    versions: dict[str, str]
    variables: dict[str, str]
    hosts: "dict[str, Environment]" = msgspec.field(default_factory=dict)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the options that a benchmark was asked for."""

    preset: str
    seed: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """When and on what was measured, and how long it took."""

    datetime: str
    machine_info: dict[str, Any]
    spent: dict[str, float] | None = None


class PlanFile(msgspec.Struct, frozen=True, kw_only=True):
    """`plan.json`: what was asked for last, how many rows that makes, and the last call."""

    options: Asked | None = None
    planned: Count = 0
    call: Call | None = None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Two rows of one interleave, and the verdict on the ratio of their times: see
    `comparisons.py`."""

    row: str
    against: str
    ratio: float
    interval: tuple[float, float] | None
    noise: float | None
    verdict: Literal["FASTER", "SLOWER", "SAME", "UNSURE"]
    reason: str


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a `bench.json`; `schema` tells its version."""

    benchmarks: list[Measured]
    failures: list[Unmeasured]
    skipped: list[Unmeasured]
    environment: Environment
    options: Asked
    planned: Count
    datetime: str
    measured_anew: list[str] = msgspec.field(default_factory=list)
    comparisons: list[Compared] = msgspec.field(default_factory=list)

    @property
    def missing(self) -> int:
        """Rows that it was to hold and does not."""
        return self.planned - len(self.benchmarks) - len(self.failures) - len(self.skipped)


COPIED = tuple(name for name in Figures.__struct_fields__ if name in Outcome.__struct_fields__)
"""Fields of an outcome that its figures hold as they are."""

Line = TypeVar("Line", Sample, Outcome)


def line_of(held: Sample | Outcome) -> dict[str, Any]:
    """A sample or an outcome as plain data, as its line of a record has it."""
    fields: dict[str, Any] = plain(msgspec.structs.asdict(held))
    return fields


def read_lines(path: Path, kind: type[Line]) -> Iterator[Line]:
    """Go through a JSON-lines file; a last line that a kill cut short is left out.

    Raises:
        PatchParityError: a line that is none of this kind, with its number and the field.
    """
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as lines:
        yield from _decoded(path, lines, decoder)


def _decoded(
    path: Path, lines: Iterable[bytes], decoder: msgspec.json.Decoder[Line]
) -> Iterator[Line]:
    for number, line in enumerate(lines, 1):
        if line == b"\n":
            continue
        try:
            yield decoder.decode(line)
        except msgspec.ValidationError as error:
            if "missing required field" in str(error):
                raise PatchParityError(
                    f"{path} was written by another version of patchparity, or is damaged (line "
                    f"{number}: {error}): measure anew, without --resume"
                ) from None
            raise PatchParityError(f"{path}, line {number}, is damaged: {error}") from None
        except (msgspec.DecodeError, RecursionError) as error:
            if line.endswith(b"\n"):
                raise PatchParityError(
                    f"{path}, line {number}, is no JSON object: the record is damaged there "
                    f"({error})"
                ) from None
