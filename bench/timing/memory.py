"""How much memory an interleave takes, told before it is begun, and how much there is."""

import math
from collections import defaultdict

import numpy as np

from ...reference.errors import PatchParityError
from ..cases import Case
from ..record.rows import Row, WorkerKey

FRAMEWORK_BYTES = 500 * 2**20
"""A worker process with its framework and nothing loaded: 60 MB with NumPy, 250 with JAX, 350 with
torch, 600 with TensorFlow."""


def block_bytes(rows: list[Row], case: Case) -> int:
    """About how many bytes an interleave takes at its peak: everything that it times stays loaded
    until its end.

    The parent judges in float64: patches and their absolute values, and of tokens the truth, its
    bound, its scale, of two problems, and what comparing them takes. A worker holds the problems,
    for each row images and kernel, the operands of its products, and for one call patches and
    tokens, twice over where a layout is changed.
    """
    spec, batch = case.spec, case.batch
    images, tokens = math.prod(spec.images_shape(batch)), math.prod(spec.tokens_shape(batch))
    kernel, patches = math.prod(spec.kernel_shape), batch * spec.num_patches * spec.patch_values
    workers: dict[WorkerKey, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.skip:
            workers[row.worker].append(row)
    total = 8 * (2 * patches + 10 * tokens)
    for members in workers.values():
        # of 16 bits much is computed in float32
        itemsize = max(4, np.dtype(members[0].dtype).itemsize)
        total += FRAMEWORK_BYTES + itemsize * (
            2 * images + 2 * tokens + kernel + 2 * patches + 2 * tokens
        )
        for row in members:
            if row.operation == "gemm":
                total += itemsize * (patches + kernel + tokens)
            elif row.role not in ("ceiling", "overhead"):
                total += itemsize * (images + kernel)
    return total


def refuse_what_does_not_fit(rows: list[Row], case: Case, available: int | None) -> str | None:
    """Say in one sentence that an interleave does not fit into memory, with the bytes that it would
    take, or None if it does."""
    needed = block_bytes(rows, case)
    if available is None or needed <= available:
        return None
    return (
        f"{case.name} would take about {_gibibytes(needed)} of memory, and "
        f"{_gibibytes(available)} are free"
    )


def require_fit(reason: str | None) -> None:
    """Raise PatchParityError where a case that was asked for by name does not fit."""
    if reason:
        raise PatchParityError(f"{reason}: choose a smaller batch, or fewer implementations")


def _gibibytes(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"
