"""Models of timm: none is read silently wrong, and most that have patches are read."""

from . import timm_models
from .demands import needs, require_none_wrong


def test_timm():
    needs("torch", "timm")
    require_none_wrong(
        {name: timm_models.outcome(name) for name in timm_models.architectures()}, 130
    )


def test_timm_s_models_made_with_other_arguments():
    needs("torch", "timm")
    names = [f"{name} {arguments}" for name, arguments in timm_models.VARIANTS]
    require_none_wrong(
        {name: timm_models.variant(place) for place, name in enumerate(names)}, len(names) - 4
    )
