"""Rows that are faster than the machine can be."""

import numpy as np

from ..cases import Case
from ..intervals import FEWEST_ROUNDS
from ..record.rows import Row, row_problem, row_work

PEAK_MARGIN = 3.0
"""How far above the fastest matrix product a row may compute before it is an error. A framework's
product may be half as fast as its convolution (torch's, MKL on a processor that is not Intel's,
against oneDNN: 1.36 times on one core of an EPYC, 2 on two), and twice that leaves room; what is
not waited for is a hundred times too fast."""


UNCERTAIN_MARGIN = 9.0
"""The same where others keep the machine busy, or the rounds are few: a product of 20 ms then
shares its core with them while a call of one does not, and has been seen three times as slow."""


def faster_than_the_machine(
    rows: list[Row], case: Case, seconds: dict[str, list[float]], disturbed_rounds: int = 0
) -> dict[str, str]:
    """Rows that compute faster than this machine can, and what that means, by identity.

    The median of a row is held against the fastest sample of any matrix product of its device in
    the same interleave, square or of the same
    shape: a neighbor makes medians slow, and seldom all samples of a product. For rows of 16 bits a
    product in float32 is among them, because a CPU without 16-bit arithmetic computes them so, and
    its libraries' 16-bit products can be a fiftieth as fast.
    """
    rates: dict[str, float] = {}
    for row in rows:
        operations, _ = row_work(
            row.operation, row_problem(row.operation, case), np.dtype(row.dtype).itemsize
        )
        if operations and seconds[row.identity]:
            typical = np.min if row.role == "ceiling" else np.median
            rates[row.identity] = operations / float(typical(seconds[row.identity]))
    messages = {}
    for row in rows:
        products = [
            rates[ceiling_row.identity]
            for ceiling_row in rows
            if ceiling_row.role == "ceiling"
            and ceiling_row.identity in rates
            and ceiling_row.device == row.device
        ]
        if row.role == "ceiling" or row.identity not in rates or not products:
            continue
        peak = max(products)
        rounds = len(seconds[row.identity])
        sure = rounds >= FEWEST_ROUNDS and 2 * disturbed_rounds < rounds
        if rates[row.identity] > (1 + (PEAK_MARGIN if sure else UNCERTAIN_MARGIN)) * peak:
            messages[row.identity] = (
                f"{rates[row.identity] / 1e9:.4g} GFLOP/s, where the fastest matrix product here "
                f"reaches {peak / 1e9:.4g}: no result can be there "
                "so soon; the adapter does not wait for it (its synchronize is missing or wrong)"
            )
    return messages
