"""What a machine does at this moment: how busy it is, and how fast its clocks run."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path


def gpu_clock_mhz() -> int | None:
    """Clock of the first NVIDIA GPU's multiprocessors now; None where nobody tells. Asking takes
    some 50 ms."""
    if not (program := shutil.which("nvidia-smi")):
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        query = [program, "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--id=0"]
        return int(
            subprocess.run(
                query, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
        )
    return None


def cpu_clock_mhz() -> int | None:
    """Clock of the first core that this process may use, as Linux tells it; None where it does not
    (in most virtual machines)."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        core = min(os.sched_getaffinity(0))
        return (
            int(Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq").read_text())
            // 1000
        )
    return None


def available_memory_bytes() -> int | None:
    """Bytes of memory that a process can still get: what Linux counts as available, or what a
    control group leaves of its limit, whichever is less.

    None where nobody tells.
    """
    memory_sizes = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        memory_sizes.append(
            1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        )
    with contextlib.suppress(OSError, StopIteration, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, current = (
            int((group / name).read_text()) for name in ("memory.max", "memory.current")
        )
        # Pages of files that were read count as current, and are given back when they are needed.
        counters = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        memory_sizes.append(
            limit - current + int(counters["inactive_file"]) + int(counters["active_file"])
        )
    return min(memory_sizes, default=None)


def busy_seconds() -> tuple[float, float] | None:
    """CPU seconds that this machine has spent busy since it started, and those of them that its
    host took from it (steal).

    None where the system does not tell (proc(5), stat).
    """
    try:
        with open("/proc/stat") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
                int, file.readline().split()[1:]
            )
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
    return (user + nice + system + irq + softirq + steal) / ticks, steal / ticks
