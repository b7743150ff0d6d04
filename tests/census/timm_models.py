"""Models of timm, some of each of its modules with patches, of one block where they take that, with random weights."""

import enum
import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from .outcome import Outcome, outcome_of

MODULES = [
    "beit",
    "cait",
    "coat",
    "convit",
    "crossvit",
    "davit",
    "deit",
    "edgenext",
    "efficientformer",
    "eva",
    "hiera",
    "levit",
    "mlp_mixer",
    "mvitv2",
    "naflexvit",
    "nest",
    "pit",
    "pvt_v2",
    "swin_transformer",
    "swin_transformer_v2",
    "swin_transformer_v2_cr",
    "tnt",
    "twins",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "visformer",
    "vitamin",
    "volo",
    "xcit",
]
OF_EACH = 7
LARGEST = 120_000_000
"""Parameters of the largest that is built."""


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
                {each: each.lower() for each in ["NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"]},
            )
        return (
            type(name, (torch.nn.Module,), {})
            if name[0].isupper()
            else _Nothing(name, (), {"__init__": lambda self, *_, **__: None})
        )


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision, of which timm's models need names alone: a real one would have to fit this torch to the digit."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        ours = name == "torchvision" or name.startswith("torchvision.")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__version__ = "0.0"


def import_timm() -> Any:
    """timm, with what stands in for torchvision where that is not installed."""
    if "timm" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    finder = _StandIn()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("timm")
    finally:  # nobody else is to find it
        sys.meta_path.remove(finder)
        for name in [each for each in sys.modules if each.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


def architectures() -> list[str]:
    """Names of models, some of each module: of different first words and ends."""
    timm = import_timm()
    found = []
    for module in MODULES:
        names = sorted(timm.list_models(module=module), key=len)
        spread = names[:: max(1, len(names) // OF_EACH)][:OF_EACH]
        found += spread
    return found


@functools.cache
def outcome(architecture: str) -> Outcome:
    """Build, save and read a model."""
    import torch
    from safetensors.torch import save_file

    timm = import_timm()
    model, given = None, {}
    for given in ({"depth": 1}, {}):
        try:
            with torch.device("meta"):
                size = sum(
                    parameter.numel() for parameter in timm.create_model(architecture, pretrained=False, **given).parameters()
                )
            if size > LARGEST:
                return Outcome("unbuilt", "", f"{size} parameters")
            model = timm.create_model(architecture, pretrained=False, **given)
            break
        except Exception as error:  # most modules take no depth
            failed = error
    if model is None:
        return Outcome("unbuilt", "", f"{type(failed).__name__}: {str(failed).splitlines()[0] if str(failed) else ''}")
    gc.collect()  # of the model before: modules hold each other
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))
    with tempfile.TemporaryDirectory() as folder:
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
        config = {"architecture": architecture, "model_args": given, "pretrained_cfg": {"input_size": list(size)}}
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        return outcome_of(Path(folder))
