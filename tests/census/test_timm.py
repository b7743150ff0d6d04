"""Models of timm: none is read silently wrong, and most that have patches are read."""

from . import timm_models
from .demands import needs, require_none_wrong


def test_timm():
    needs("torch", "timm")
    require_none_wrong(
        {name: timm_models.outcome(name) for name in timm_models.architectures()}, 130
    )
