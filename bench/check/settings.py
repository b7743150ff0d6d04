"""What a process has one of, and a call of somebody's object must leave alone: settings and
generators."""

import dataclasses
import pickle
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .results import CheckResult

Setting = tuple[Callable[[], Any], Callable[[Any], Any]]
"""What tells a setting, and what puts it back."""


def _settings() -> dict[str, Setting]:
    """The settings of what this process has loaded, by what they are called."""
    settings: dict[str, Setting] = {
        "NumPy's error handling": (np.geterr, lambda held: np.seterr(**held))
    }
    if (torch := sys.modules.get("torch")) is not None:
        cudnn = torch.backends.cudnn
        settings |= {
            "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
            "whether torch records gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
            "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
            "torch's precision of products": (
                torch.get_float32_matmul_precision,
                torch.set_float32_matmul_precision,
            ),
            "whether torch is deterministic": (
                torch.are_deterministic_algorithms_enabled,
                torch.use_deterministic_algorithms,
            ),
            "whether cuDNN tries its algorithms": (
                lambda: cudnn.benchmark,
                lambda held: setattr(cudnn, "benchmark", held),
            ),
        }
    if (jax := sys.modules.get("jax")) is not None:
        settings["whether JAX has 64 bits"] = (
            lambda: jax.config.jax_enable_x64,
            lambda held: jax.config.update("jax_enable_x64", held),
        )
    return settings


class Settings:
    """Settings of NumPy, torch and JAX as they are now."""

    def __init__(self) -> None:
        self._held = {name: tell() for name, (tell, _) in _settings().items()}

    def result_like(self, other: CheckResult) -> CheckResult:
        """Whether they are still the same, after an object was read and called, told as another of
        its results is; they are put back."""
        now = _settings()
        changed = [name for name, held in self._held.items() if now[name][0]() != held]
        for name in changed:
            now[name][1](self._held[name])
        message = f"it changes {', '.join(changed)}, for all that runs in its process"
        return dataclasses.replace(
            other,
            probe="settings-left-as-they-were",
            verdict="fail" if changed else "pass",
            message=message if changed else "",
            bound_ratio=None,
            effective_bits=None,
            delivered=None,
        )


class Generators:
    """The generators that all of a process draws from, put back at the end."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {}
        self._kinds: dict[str, tuple[Setting, Callable[[], Any]]] = {
            "Python's generator": ((random.getstate, random.setstate), random.random),
            "NumPy's generator": (
                (lambda: np.random.get_state(), np.random.set_state),
                np.random.random_sample,
            ),
        }
        if (torch := sys.modules.get("torch")) is not None:
            tell = lambda: torch.get_rng_state().numpy()  # noqa: E731
            put_back = lambda held: torch.set_rng_state(torch.from_numpy(held))  # noqa: E731
            self._kinds["torch's generator"] = ((tell, put_back), lambda: torch.rand(1))

    def __enter__(self) -> "Generators":
        self._held = {name: kind[0][0]() for name, kind in self._kinds.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for name, kind in self._kinds.items():
            kind[0][1](self._held[name])

    def draw(self) -> None:
        """Draw from each."""
        for kind in self._kinds.values():
            kind[1]()

    def states(self) -> dict[str, bytes]:
        """Where each stands."""
        return {name: pickle.dumps(kind[0][0]()) for name, kind in self._kinds.items()}
