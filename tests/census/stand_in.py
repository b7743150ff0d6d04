"""Libraries that import torchvision and need nothing of it."""

import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


class _Nothing(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    __path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        import torch

        if name == "InterpolationMode":
            return enum.Enum(
                "InterpolationMode",
                {
                    each: each.lower()
                    for each in ["NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"]
                },
            )
        return (
            type(name, (torch.nn.Module,), {})
            if name[0].isupper()
            else _Nothing(name, (), {"__init__": lambda self, *_, **__: None})
        )


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision, of which timm's and vit-pytorch's models need names alone: a real one would have
    to fit this torch to the digit."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        ours = name == "torchvision" or name.startswith("torchvision.")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__version__"] = "0.0"


def import_library(name: str) -> Any:
    """A library, with what stands in for torchvision where that is not installed; of transformers
    nothing does, for it would take that for the real one."""
    wants = name.partition(".")[0] in ("timm", "vit_pytorch")
    if not wants or name in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module(name)
    finder = _StandIn()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(name)
    finally:  # nobody else is to find it
        sys.meta_path.remove(finder)
        for each in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
            del sys.modules[each]
