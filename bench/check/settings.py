"""What a process has one of, and a call of somebody's object must leave alone."""

import dataclasses
import sys
from typing import Any

import numpy as np

from .results import CheckResult


class Settings:
    """Settings of NumPy and torch as they are now."""

    def __init__(self) -> None:
        self._held: dict[str, Any] = {"NumPy's error handling": np.geterr()}
        if (torch := sys.modules.get("torch")) is not None:
            self._held["torch's default dtype"] = torch.get_default_dtype()
            self._held["whether torch records gradients"] = torch.is_grad_enabled()
            self._held["torch's number of threads"] = torch.get_num_threads()

    def result_like(self, other: CheckResult) -> CheckResult:
        """Whether they are still the same, after an object was read and called, told as another of
        its results is; they are put back."""
        after = Settings()._held
        changed = [key for key, value in self._held.items() if after[key] != value]
        message = f"it changes {', '.join(changed)}, for all that runs in its process"
        if changed:
            self._put_back()
        return dataclasses.replace(
            other,
            probe="settings-left-as-they-were",
            verdict="fail" if changed else "pass",
            message=message if changed else "",
            bound_ratio=None,
            effective_bits=None,
            delivered=None,
        )

    def _put_back(self) -> None:
        np.seterr(**self._held["NumPy's error handling"])
        torch = sys.modules.get("torch")
        if torch is not None and "torch's default dtype" in self._held:
            torch.set_default_dtype(self._held["torch's default dtype"])
            torch.set_grad_enabled(self._held["whether torch records gradients"])
            torch.set_num_threads(self._held["torch's number of threads"])
