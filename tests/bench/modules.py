"""Torch modules that the tests of somebody's implementation are made of."""

import pytest


def torch_module(forward, **parts):
    """A module with these parts, whose `forward(self, images)` is the function given."""
    torch = pytest.importorskip("torch")

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, x):
            return forward(self, x)

    return Module()
