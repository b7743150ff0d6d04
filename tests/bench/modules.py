"""Torch modules that the tests of somebody's implementation are made of."""

from collections.abc import Callable
from typing import Any

import pytest


def torch_module(forward: Callable[[Any, Any], Any], **parts: Any) -> Any:
    """A module with these parts, whose `forward(self, images)` is the function given."""
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x: Any) -> Any:
            return forward(self, x)

    return Module()
