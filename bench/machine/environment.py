"""What the machine and the software are: every record carries this. What cannot be found out reads
"unavailable"."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...backends.base import Backend

UNAVAILABLE = "unavailable"

_PREFIXES: tuple[str, ...] = (
    "OMP_",
    "KMP_",
    "GOMP_",
    "OPENBLAS_",
    "MKL_",
    "BLIS_",
    "VECLIB_",
    "TF_",
    "XLA_",
    "JAX_",
    "PJRT_",
    "NPROC",
    "KERAS_",
)
_PREFIXES += (
    "ONEDNN_",
    "DNNL_",
    "CUDA_",
    "CUBLAS_",
    "NVIDIA_TF32",
    "MALLOC_",
    "TORCH_",
    "PYTORCH_",
    "PYTHONHASHSEED",
    "LD_PRELOAD",
)


_PRIVATE = (
    "TF_CONFIG",
    "TF_CLI",
    "JAX_COORDINATOR",
    "TORCH_HOME",
    "KERAS_HOME",
    "CUDA_HOME",
    "CUDA_PATH",
)
"""Variables of those prefixes that name hosts or folders and change no number."""


def numeric_variables(variables: dict[str, str] | None = None) -> dict[str, str]:
    """The environment variables that change how frameworks compute, and nothing else of a user's
    environment."""
    source = os.environ if variables is None else variables
    kept_variables = {
        name: value
        for name, value in sorted(source.items())
        if name.startswith(_PREFIXES) and not name.startswith(_PRIVATE)
    }
    return {
        name: re.sub(r"(?<![\w.])[~/][^\s,:;]*", "(path)", value)
        for name, value in kept_variables.items()
    }


def processor_name() -> str:
    """Model name of the CPU."""
    with contextlib.suppress(OSError):
        match = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if match:
            return match.group(1).strip()
    return platform.processor() or UNAVAILABLE


def processor_features() -> frozenset[str] | None:
    """Names of the CPU's instruction sets as Linux gives them (`avx512f`); None where it cannot be
    told."""
    with contextlib.suppress(OSError):
        match = re.search(
            r"^(?:flags|Features)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if match:
            return frozenset(match.group(1).split())
    return None


def usable_cores() -> int:
    """Number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | str:
    """Physical memory in bytes."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return UNAVAILABLE


def gpus() -> list[str]:
    """Name, driver and memory of each NVIDIA GPU, as `nvidia-smi` gives them; empty where there is
    none."""
    if not (program := shutil.which("nvidia-smi")):
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return []


def blas() -> str:
    """The BLAS that NumPy was built with, and its version."""
    with contextlib.suppress(Exception):  # the dictionary's shape is not promised
        details: Any = np.show_config(mode="dicts")
        entry = details["Build Dependencies"]["blas"]
        return f"{entry['name']} {entry['version']}"
    return UNAVAILABLE


def blas_kernels() -> str:
    """Which kernels the BLAS of this process chose for this CPU, as threadpoolctl tells them
    (`openblas 0.3.31 SkylakeX`): one library computes otherwise on another CPU."""
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        libraries = [
            " ".join(filter(None, map(library.get, ("internal_api", "version", "architecture"))))
            for library in threadpool_info()
            if library["user_api"] == "blas"
        ]
        return ", ".join(dict.fromkeys(libraries)) or UNAVAILABLE
    return UNAVAILABLE


def package_version(name: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


MACHINE = ("processor", "cores", "cores_of_machine", "memory_bytes", "gpus", "platform")
"""What of an environment makes two records those of one machine."""


def machine_fingerprint(environment: dict[str, Any]) -> str:
    """The same for every environment of one machine."""
    description = json.dumps([environment.get(name) for name in MACHINE])
    return hashlib.blake2b(description.encode(), digest_size=6).hexdigest()


UNKNOWN_ENVIRONMENT: dict[str, Any] = {
    **dict.fromkeys(
        ("python", "platform", "processor", "cores", "cores_of_machine", "memory_bytes", "blas"),
        "unknown",
    ),
    "gpus": [],
    "versions": {},
    "variables": {},
}
"""What a record tells whose machine is not noted."""


def describe_environment(backends: list[Backend], packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return versions, processor, cores, memory, GPUs, BLAS and numeric variables as plain data; no
    host or user names.

    Args:
        backends: those whose packages' versions are told.
        packages: others whose versions are.
    """
    versions = {"patchparity": package_version("patchparity"), "numpy": np.__version__}
    for name in ("ml_dtypes", "pytest-benchmark", "execnet", "scikit-image", *packages):
        versions[name] = package_version(name)
    for backend in backends:
        for name in backend.packages:
            versions[name] = package_version(name)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": usable_cores(),
        "cores_of_machine": os.cpu_count() or UNAVAILABLE,
        "memory_bytes": memory_bytes(),
        "gpus": gpus(),
        "blas": blas(),
        "blas_kernels": blas_kernels(),
        "versions": versions,
        "variables": numeric_variables(),
    }
