"""Models of vit-pytorch with patches, tiny, with random weights; the truth is what enters their
transformer."""

import functools
import importlib
import inspect
import pkgutil
import tempfile
import warnings
from typing import Any

import numpy as np

from patchparity import PatchParityError
from patchparity.porting.dialects.sizes import Sizes

from .outcome import Outcome, embedded
from .stand_in import import_library

IMAGE, PATCH, CHANNELS, WIDTH = 32, 8, 3, 48
GIVEN: dict[str, Any] = dict(
    image_size=IMAGE,
    patch_size=PATCH,
    dim=WIDTH,
    depth=2,
    heads=2,
    mlp_dim=64,
    num_classes=7,
    channels=CHANNELS,
    dim_head=16,
    cls_depth=1,
    num_patches=4,
    keep_prob=0.75,
    patch_dropout=0.25,
    image_patch_size=PATCH,
    max_tokens_per_depth=(16, 8),
    num_residual_streams=2,
    loops=2,
    frames=4,
    frame_patch_size=2,
)
NO_PATCHES = [
    "levit",
    "cct",
    "cct_3d",
    "mobile_vit",
    "max_vit",
    "max_vit_with_registers",
    "vit_1d",
    "simple_vit_1d",
]
"""Convolutions in several steps, or signals of one axis."""
OF_OTHER_ARGUMENTS = [
    "cross_vit",
    "efficient",
    "levjepa",
    "look_vit",
    "looped_vit",
    "na_vit_nested_tensor",
    "na_vit_nested_tensor_3d",
    "nest",
    "pit",
    "simple_flash_attn_vit_3d",
    "simple_vit_3d",
    "simple_vit_with_fft",
    "vit_3d",
    "vivit",
    "vivit_with_moss",
    "wwt",
    "attn_residual_with_dca_simple_vit",
]
"""Videos, several towers, transformers of one's own: what is made below for one image and one
transformer does not fit them."""
OF_ONE_SIZE = ["vat_siglip"]
"""Models whose constructor has a large size by default for everything."""
TOLD = {
    "simple_vit_with_sparse_gating": "lucidrains-simple-first",
    "simple_vit_with_specialized_cls": "lucidrains-simple-class",
    "jumbo_vit": "lucidrains-jumbo",
}
"""What is told of models that compute their positions, as no tensor can, where it is not
`lucidrains-simple`."""


@functools.cache
def _classes() -> dict[str, tuple[str, str]]:
    """Models whose constructor takes an image and a patch, by the module's name."""
    library = import_library("vit_pytorch")
    found = {}
    for module in pkgutil.iter_modules(library.__path__):
        if module.name in (*NO_PATCHES, *OF_OTHER_ARGUMENTS):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                held = import_library(f"vit_pytorch.{module.name}")
        except Exception:  # some need packages of their own
            continue
        for name, kind in vars(held).items():
            if not inspect.isclass(kind) or kind.__module__ != held.__name__:
                continue
            takes = inspect.signature(kind.__init__).parameters
            if "image_size" in takes and ("patch_size" in takes or "image_patch_size" in takes):
                found[f"{module.name} {name}"] = (module.name, name)
    return found


def models() -> list[str]:
    """Names of models."""
    return list(_classes())


@functools.cache
def outcome(name: str) -> Outcome:
    """Build, save and read a model."""
    import torch
    from safetensors.torch import save_file

    module, kind = (_classes()[name][0], _classes()[name][1])
    make = getattr(importlib.import_module(f"vit_pytorch.{module}"), kind)
    takes = inspect.signature(make.__init__).parameters
    needed = [
        key
        for key, told in takes.items()
        if told.default is inspect.Parameter.empty and key != "self"
    ]
    given = {
        key: value
        for key, value in GIVEN.items()
        if key in takes
        and (module in OF_ONE_SIZE or key in needed or key in ("channels", "dim_head"))
    }
    torch.manual_seed(5)
    try:
        model = make(**given).eval()
    except Exception as error:  # whatever a constructor wants beside these
        return Outcome(
            "unbuilt",
            "",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    images = torch.randn(2, CHANNELS, IMAGE, IMAGE)
    observed = _entering(model, images)
    if observed is None:
        return Outcome("unbuilt", "", "no transformer that images enter")
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.safetensors"
        save_file(
            {key: value.clone() for key, value in model.state_dict().items()},
            file,
            {"format": "pt"},
        )
        reason = ""
        dialect = TOLD.get(module, "lucidrains-simple")
        for told in (
            {},
            {"sizes": Sizes.told(PATCH)},
            {"sizes": Sizes.told(PATCH), "from_": dialect},
        ):
            if "from_" in told and dialect not in reason:
                continue
            try:
                found = embedded(file, images.numpy(), **told)
            except PatchParityError as error:
                reason = str(error).replace(f"{folder}/", "")
                continue
            if module == "na_vit":  # which packs images one behind the other
                observed = observed.reshape(found.shape)
            apart = (
                found.shape != observed.shape
                or np.abs(found - observed).max() > 1e-4 * np.abs(observed).max()
            )
            words = ", ".join(
                [f"patch_size {PATCH}"] * bool(told) + [f"dialect {dialect!r}"] * ("from_" in told)
            )
            return Outcome(
                "wrong" if apart else "told" if told else "right",
                "",
                f"{found.shape} {observed.shape}" if apart else words,
            )
    return Outcome("refused", "", reason)


class _SeenError(Exception):
    """What enters the transformer has been seen."""


def _entering(model: Any, images: Any) -> Any:
    """What the first part that is called a transformer, or its layers, takes."""
    import torch

    seen: list[Any] = []

    def catch(part: Any, given: Any, named: Any) -> None:
        seen.extend(each for each in (*given, *named.values()) if isinstance(each, torch.Tensor))
        raise _SeenError

    names = (
        "transformer",
        "attn_residual",
        "patch_transformer",
        "spatial_transformer",
        "xcit_transformer",
        "encoder",
        "layers",
        "blocks",
        "pre_loop",
    )
    part = next((getattr(model, each) for each in names if hasattr(model, each)), None)
    if isinstance(part, torch.nn.ModuleList):
        part = part[0][0] if isinstance(part[0], torch.nn.ModuleList) else part[0]
    if not isinstance(part, torch.nn.Module):
        return None
    handle = part.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model(images)
    except _SeenError:
        pass
    except Exception:  # images of another kind
        return None
    finally:
        handle.remove()
    if not seen or type(seen[0]) is not torch.Tensor:
        return None
    values = seen[0].numpy()
    return values.reshape(len(values), -1, values.shape[-1])  # some keep the grid
