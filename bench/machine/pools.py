"""What every process that measures is started with, whatever its framework."""

import os

SPIN_FREE = {
    # Idle pools that spin take cores from their neighbors: torch and NumPy alternating ran 2 to 3.8
    # times slower with spinning.
    "OMP_WAIT_POLICY": "PASSIVE",
    "KMP_BLOCKTIME": "0",
    "OPENBLAS_THREAD_TIMEOUT": "4",
}
"""Read when a library is loaded."""

SPIN_FREE_ENVIRONMENT = {
    **SPIN_FREE,
    # glibc returns large blocks to the system at once by default, and every call pays for the page
    # faults (1.34 times on a convolution of 518-pixel images). These keep blocks up to 1 GiB and
    # trim nothing below it.
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Variables that every worker gets, whatever its framework."""


HARDLY_SPINNING = {**SPIN_FREE, "GOMP_SPINCOUNT": "10000"}
"""The same where small calls follow one another and nothing is timed: some 20 µs of waiting save
the 250 µs that waking a thread takes."""


def without_spinning() -> None:
    """Let the pools of libraries that this process has not loaded yet sleep when idle; what the
    user has set stands."""
    for name, value in HARDLY_SPINNING.items():
        os.environ.setdefault(name, value)
