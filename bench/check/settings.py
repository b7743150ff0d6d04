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
        settings |= {
            "whether torch flushes subnormals": (
                lambda: not bool(torch.tensor([2.0**-149]).mul(1.0).any()),
                torch.set_flush_denormal,
            ),
            "whether torch looks for anomalies": (
                torch.is_anomaly_enabled,
                torch.autograd.set_detect_anomaly,
            ),
            "whether torch uses oneDNN": (
                torch._C._get_mkldnn_enabled,
                torch._C._set_mkldnn_enabled,
            ),
            "whether torch's products use TF32": (
                lambda: torch.backends.cuda.matmul.allow_tf32,
                lambda held: setattr(torch.backends.cuda.matmul, "allow_tf32", held),
            ),
        }
    if (jax := sys.modules.get("jax")) is not None:
        settings |= {f"JAX's {name}": _of_jax(jax, name) for name in JAX_SETTINGS}
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "config"):
        settings |= {
            "Keras's default dtype": (keras.config.floatx, keras.config.set_floatx),
            "Keras's dtype policy": (
                lambda: keras.config.dtype_policy().name,
                keras.config.set_dtype_policy,
            ),
            "Keras's image layout": (
                keras.config.image_data_format,
                keras.config.set_image_data_format,
            ),
        }
    if (tensorflow := sys.modules.get("tensorflow")) is not None and hasattr(tensorflow, "config"):
        settings["whether TensorFlow's functions run eagerly"] = (
            tensorflow.config.functions_run_eagerly,
            tensorflow.config.run_functions_eagerly,
        )
    return settings


JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_debug_nans",
    "jax_disable_jit",
)


def _of_jax(jax: Any, name: str) -> Setting:
    return (lambda: getattr(jax.config, name), lambda held: jax.config.update(name, held))


class Settings:
    """Settings of NumPy and of the frameworks that are loaded, as they are now."""

    def __init__(self) -> None:
        self._held = {name: tell() for name, (tell, _) in _settings().items()}

    def include_loaded(self) -> None:
        """Take those of frameworks that were loaded meanwhile too, as they are now."""
        self._held = {name: tell() for name, (tell, _) in _settings().items()} | self._held

    def result_like(self, other: CheckResult) -> CheckResult:
        """Whether they are still the same, after an object was read and called, told as another of
        its results is; they are put back."""
        now = _settings()
        # what a call loads has no earlier setting
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
