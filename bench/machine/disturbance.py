"""What others did to a machine while a round was measured on it."""

import time
from collections.abc import Callable
from typing import Any

DISTURBED_CORES = 0.25
"""Cores that others keep busy in a round, from which it is called disturbed. Idle machines show
0.05 to 0.15 here."""


TICK_SECONDS = 0.02
"""What busy seconds may be wrong by: Linux counts them in ticks of 10 ms, and two readings are off
by one tick each."""


class Disturbance:
    """What others did to the machine in a round, in cores: what it was busy with, less what our own
    processes used.

    Args:
        state: asks a worker on that machine for its `state`, with the clock or without, or gives
            None where it cannot answer.
        here: whether this process, too, computes on that machine.
    """

    def __init__(self, state: Callable[[bool], dict[str, Any] | None], here: bool) -> None:
        self._state, self._here = state, here
        self._busy = self._reading(clock=False)[0]
        self._started, self._own = time.perf_counter(), time.process_time()

    def _reading(self, clock: bool) -> tuple[tuple[float, float] | None, int | None]:
        state = self._state(clock) or {"busy": None, "clock_mhz": None}
        return state["busy"], state["clock_mhz"]

    def sample_fields(self, worker_cpu_seconds: float) -> dict[str, Any]:
        """Fields of the round's samples: `disturbance` and `steal` in cores (None where the system
        does not tell), `disturbed`, `clock_mhz`."""
        seconds = time.perf_counter() - self._started
        ours = worker_cpu_seconds + (time.process_time() - self._own if self._here else 0.0)
        busy, clock = self._reading(clock=True)
        if busy is None or self._busy is None:
            return {"disturbance": None, "steal": None, "disturbed": False, "clock_mhz": clock}
        others = max(0.0, (busy[0] - self._busy[0] - ours) / seconds)
        steal = max(0.0, (busy[1] - self._busy[1]) / seconds)
        disturbed = others > DISTURBED_CORES + TICK_SECONDS / seconds
        return {"disturbance": others, "steal": steal, "disturbed": disturbed, "clock_mhz": clock}
