"""The lines of a benchmark before they are measured: what, where, and how much work that is."""

from dataclasses import dataclass

from ..cases import Case
from ..machine.hosts import LOCAL
from .schema import Outcome, Role

OPERATIONS = ("tokens", "sequence", "train-step", "uint8")
"""What is timed of an implementation: the projection; the projection, a class token in front and
positions added; the projection and the gradients of its kernel and bias; the projection of pixels
as bytes, by what takes them."""

Block = tuple[str, str, int, str, str]
"""What is measured in one interleave, on all devices and at all precisions: case, dtype, threads,
cache, host."""


@dataclass(frozen=True)
class WorkerKey:
    """What a worker is for. `copy` tells the second process of an A/A pair from the first; `host`
    is the label of its machine."""

    backend: str
    device: str
    threads: int
    precision: str
    copy: int = 0
    host: str = LOCAL

    def __str__(self) -> str:
        place = self.device if self.host == LOCAL else f"{self.device} of {self.host}"
        return f"{self.backend} on {place}, {self.threads} thread(s)" + (
            f", copy {self.copy}" if self.copy else ""
        )


@dataclass(frozen=True)
class Row:
    """One line of the report before it is measured: what, where, with how many threads.

    Args:
        case: name of the case.
        implementation: `backend:formulation:mode`, or `backend:gemm`, `backend:peak`,
            `backend:copy` for a ceiling.
        device, dtype, precision: as in the results.
        threads: CPU threads asked for.
        operation: `tokens`; `sequence`, with a class token and positions; `train-step`, tokens and
            the gradients of kernel and bias; `uint8`, tokens of pixels as bytes; `one-patch`,
            tokens of one patch; `gemm`, the bare matrix product of the same shape; `peak`, a square
            one, on a GPU `peak-4096`; `peak-float32`, that in float32 beside rows of 16 bits;
            `copy`, of as many bytes as the case must move.
        role: `implementation`, `ceiling`, `overhead` (one patch), or `aa` (the reference
            implementation again, in a second process).
        skip: why it cannot be measured here, or an empty string.
        cache: `warm` (the call before left its data there), or `cold` (something else has been read
            since).
        host: label of the machine: `local`, `host1`, ... of those behind ssh, or `node1`, ... of a
            Ray cluster.
    """

    case: str
    implementation: str
    device: str
    dtype: str
    precision: str
    threads: int
    operation: str = "tokens"
    role: Role = "implementation"
    skip: str = ""
    cache: str = "warm"
    host: str = LOCAL

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self.implementation.split(":")[0]

    @property
    def worker(self) -> WorkerKey:
        """The worker that measures it."""
        return WorkerKey(
            self.backend,
            self.device,
            self.threads,
            self.precision,
            int(self.role == "aa"),
            self.host,
        )

    @property
    def timed_operation(self) -> str:
        """What its implementation does, on the case or on one patch of it."""
        return "tokens" if self.operation == "one-patch" else self.operation

    @property
    def block(self) -> Block:
        """What is measured in one interleave: case, dtype, threads and cache, on all devices of one
        host."""
        return self.case, self.dtype, self.threads, self.cache, self.host

    @property
    def key(self) -> str:
        """A name that no other row of its worker has."""
        named = self.operation if self.operation in ("one-patch", *OPERATIONS[1:]) else ""
        other = "-".join(filter(None, ("aa" if self.role == "aa" else "", named)))
        return self.implementation + (f"#{other}" if other else "")

    @property
    def identity(self) -> str:
        """A name that no other row of a record has."""
        cold = () if self.cache == "warm" else (self.cache,)
        elsewhere = () if self.host == LOCAL else (self.host,)
        rounded = () if self.precision == "ieee" else (self.precision,)
        return "/".join(
            (
                self.case,
                *elsewhere,
                self.device,
                self.dtype,
                *rounded,
                f"t{self.threads}",
                *cold,
                self.key,
            )
        )


SQUARES = {"peak": 1024, "peak-float32": 1024, "peak-4096": 4096}
"""Edges of the square matrix products. 1024: 2.1 GFLOP, some 20 ms of one core, and 4 MB a matrix,
from where rates no longer grow here. 4096, on GPUs: 137 GFLOP, 0.2 ms of an H200 in bfloat16,
twenty times what it takes to launch it."""

PRODUCTS = ("gemm", *SQUARES)
"""Operations of ceilings that are matrix products."""


NEARLY_PEAK = 192
"""A product all of whose edges are at least this long computes as fast as the square one: with 196
x 768 x 192 the fastest library reaches 111 GFLOP/s where the square ones reach 106 (one core here),
with K = 48 (Swin) 80. Then the square one is not needed."""


def row_problem(operation: str, case: Case) -> Case:
    """The problem that a row computes: the case's, or one patch of it."""
    if operation != "one-patch":
        return case
    return Case(
        f"{case.name}-one-patch",
        case.spec.replace(image_size=case.spec.patch_size, padding=0, remainder="error"),
        1,
    )


def row_work(operation: str, case: Case, itemsize: int) -> tuple[int, int]:
    """Operations and least bytes of a row: of what an implementation does, of a matrix product, or
    of a copy."""
    spec, batch = case.spec, case.batch
    if operation == "copy":
        return 0, 2 * itemsize * copied_values(case, itemsize)
    if operation in PRODUCTS:
        rows, depth, columns = product_shape(operation, case)
        # beside rows of 16 bits it stays what it is
        itemsize = 4 if operation == "peak-float32" else itemsize
        return 2 * rows * depth * columns, itemsize * (
            rows * depth + depth * columns + rows * columns
        )
    tokens, least = spec.flops(batch), spec.minimum_bytes(batch, itemsize)
    rows, width = batch * spec.num_patches, spec.embed_dim
    if operation == "uint8":  # a byte is read of each pixel
        return tokens, least - (itemsize - 1) * spec.pixels_seen(batch)
    if operation == "sequence":
        # A sum for every value; the class token and positions are read, and a row more is written
        # for each image.
        length = 1 + spec.num_patches
        return tokens + batch * length * width, least + itemsize * width * (1 + length + batch)
    if operation == "train-step":
        # A product and a sum over rows more; the gradient of tokens is read, those of kernel and
        # bias are written.
        values = rows * width + width * (spec.patch_values + 1)
        return (
            tokens + 2 * rows * spec.patch_values * width + rows * width,
            least + itemsize * values,
        )
    return tokens, least


def products(operation: str) -> int:
    """How many products of the case's shape an operation contains: Xᵀ·G of a train step is one
    more, of the same operations."""
    return 2 if operation == "train-step" else 1


def product_shape(operation: str, case: Case) -> tuple[int, int, int]:
    """Rows, depth and columns of a matrix product: `(B·N, K, D)`, or a square."""
    if operation in SQUARES:
        return (SQUARES[operation],) * 3
    return case.batch * case.spec.num_patches, case.spec.patch_values, case.spec.embed_dim


def copied_values(case: Case, itemsize: int) -> int:
    """Values that are copied: read and written they are the bytes that the case must move, so that
    caches serve both alike."""
    return max(1, case.spec.minimum_bytes(case.batch, itemsize) // (2 * itemsize))


def blank_outcome(row: Row) -> Outcome:
    """What is known of a row before it is measured; what its block is follows when that has
    ended."""
    return Outcome(
        case=row.case,
        implementation=row.implementation,
        backend=row.backend,
        host=row.host,
        device=row.device,
        dtype=row.dtype,
        precision=row.precision,
        row=row.identity,
        threads_requested=row.threads,
        operation=row.operation,
        role=row.role,
        cache=row.cache,
        status="skip" if row.skip else "measured",
        message=row.skip,
        attempt="",
        rounds=0,
        effort={},
        seed=0,
        rows_of_block=0,
        machine="",
        versions={},
        planned_skip=False,
    )
