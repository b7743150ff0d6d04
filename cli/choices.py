"""What options choose among: how help shows it, and what a shell completes.

Names that the package knows are asked for when a shell wants them, not before: help and the
parsing of a command load nothing for them.
"""

from collections.abc import Callable, Iterable
from typing import Any


def among(*names: str) -> dict[str, Any]:
    """The arguments of an option that takes one of a few names."""
    return {"metavar": "|".join(names), "autocompletion": completing(lambda: names)}


def named(metavar: str, known: Callable[[], Iterable[str]]) -> dict[str, Any]:
    """The arguments of an option that takes one of many names."""
    return {"metavar": metavar, "autocompletion": completing(known)}


def completing(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What completes the beginning of a name."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known() if name.startswith(incomplete)]

    return complete


def _backends() -> Iterable[str]:
    from ..backends.registry import list_backends

    return [backend.name for backend in list_backends()]


def _cases() -> Iterable[str]:
    from ..bench.cases import NAMED

    return NAMED


def _dialects() -> Iterable[str]:
    from ..porting.dialects.catalogue import list_dialects

    return list_dialects()


def _recipes() -> Iterable[str]:
    from ..reference import recipes, resize

    return [*recipes.RECIPES, *resize.KERNEL_RECIPES]


def _kernel_layouts() -> Iterable[str]:
    from ..backends.layouts import KERNEL_LAYOUTS

    return KERNEL_LAYOUTS


PRESETS = among("smoke", "quick", "full")
DEVICES = among("cpu", "cuda")
CACHES = among("warm", "cold")
OPERATIONS = among("tokens", "sequence", "train-step", "uint8")
PRECISIONS = among("ieee", "tf32", "bf16", "default")
REMAINDERS = among("error", "floor", "pad-end", "same")
IMAGE_LAYOUTS = among("nchw", "nhwc")
FRAMEWORKS = among("numpy", "torch", "jax", "tensorflow")
PIXEL_BACKENDS = among("torchvision", "pillow")
OUTPUTS = among("tokens", "sequence")
DTYPES = named("DTYPE", lambda: ("float32", "float64", "bfloat16", "float16"))
BACKENDS = named("BACKEND", _backends)
CASES = named("CASE", _cases)
DIALECTS = named("DIALECT", _dialects)
RECIPES = named("RECIPE", _recipes)
KERNEL_LAYOUTS = named("LAYOUT", _kernel_layouts)
