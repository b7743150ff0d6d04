"""How a live torch model is called with images alone: which of its parts, by which method, in which
form."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

from ...reference.errors import PatchParityError

IMAGES = ("pixel_values", "x", "image", "images", "img", "input", "inputs", "pixels")
"""What models call the images that they take."""
WORDS = ("input_ids", "text", "decoder_input_ids")
"""What those call words that take them too."""
OF_IMAGES = ("get_image_features", "encode_image")
"""Methods that take images alone (transformers; OpenAI's CLIP and open_clip)."""


def entry_of(model: Any, path: str, images: Any, stack: contextlib.ExitStack) -> Callable[[], Any]:
    """A call of a model, or of the largest part of it around a tower that takes images alone.

    Args:
        model: a torch module.
        path: dotted name of a block of the tower.
        images: shape `(B, C, H, W)`, a tensor.
        stack: closed behind the call; what the call needs changed is put back by it.

    Raises:
        PatchParityError: no part that takes images alone.
    """
    parts = path.split(".")
    for count in range(len(parts) - 1):
        part = model.get_submodule(".".join(parts[:count]))
        for method in _methods(part):
            form = _form(part, method, images, stack)
            if form is not None:
                arguments, named = form
                return functools.partial(method, *arguments, **named)
    names = ", ".join(list(inspect.signature(model.forward).parameters)[:4])
    raise PatchParityError(
        f"{type(model).__name__} takes {names}, and no part of it around {path} is known to take "
        "images alone: give the part that does"
    )


def takes_words(part: Any) -> bool:
    """Whether a module takes words beside images."""
    return bool(set(WORDS) & set(inspect.signature(part.forward).parameters))


def _methods(part: Any) -> list[Any]:
    """What may be called of a module, first what takes images alone."""
    if not takes_words(part):
        return [part]
    return [getattr(part, name) for name in OF_IMAGES if hasattr(part, name)]


def _form(
    part: Any, method: Any, images: Any, stack: contextlib.ExitStack
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Images as a method takes them; None where it takes none."""
    function = part.forward if method is part else method
    parameters = inspect.signature(function).parameters
    names = [name for name, each in parameters.items() if each.kind != each.VAR_KEYWORD]
    grid = next((name for name in ("grid_thw", "image_grid_thw") if name in names), None)
    if grid is not None:
        return (), _flattened(part, names[0], grid, images)
    first = next((name for name in names if name in IMAGES), None)
    if "spatial_shapes" in names and first is not None:  # SigLIP 2
        return (), _patches(part, names, images)
    if first is None:
        return None
    named: dict[str, Any] = {}
    if "noise" in names and hasattr(getattr(part, "config", None), "mask_ratio"):
        named["noise"] = _unmasked(part, images, stack)
    if parameters[first].kind == inspect.Parameter.KEYWORD_ONLY or names[0] != first:
        return (), {first: images, **named}
    return (images,), named


def _sizes(part: Any) -> tuple[Any, int, int]:
    """The configuration of a part's images, and the rows and columns of its patches."""
    config = getattr(part, "config", None)
    config = getattr(config, "vision_config", config)
    size = getattr(config, "patch_size", None)
    if size is None:
        raise PatchParityError(
            f"{type(part).__name__} takes patches, and its configuration tells no patch_size"
        )
    rows, columns = (size, size) if isinstance(size, int) else tuple(size)
    return config, int(rows), int(columns)


def _unmasked(part: Any, images: Any, stack: contextlib.ExitStack) -> Any:
    """Noise of a masked autoencoder in the patches' own order, and its masking off until the stack
    is closed."""
    import torch

    _, Ph, Pw = _sizes(part)
    configs = {id(each.config): each.config for each in part.modules() if hasattr(each, "config")}
    for config in configs.values():
        if (ratio := getattr(config, "mask_ratio", None)) is not None:
            stack.callback(setattr, config, "mask_ratio", ratio)
            config.mask_ratio = 0.0
    B, _, H, W = images.shape
    order = torch.arange((H // Ph) * (W // Pw), dtype=torch.float32, device=images.device)
    return order.expand(B, -1)


def _patches(part: Any, names: list[str], images: Any) -> dict[str, Any]:
    """Patches of images in their order, values `(Ph, Pw, C)`, none of them padding."""
    import torch

    _, Ph, Pw = _sizes(part)
    B, C, H, W = images.shape
    rows, columns = H // Ph, W // Pw
    cut = images.reshape(B, C, rows, Ph, columns, Pw).permute(0, 2, 4, 3, 5, 1)
    patches = cut.reshape(B, rows * columns, -1)
    mask = "pixel_attention_mask" if "pixel_attention_mask" in names else "attention_mask"
    return {
        "pixel_values": patches,
        mask: torch.ones(patches.shape[:2], dtype=torch.int64, device=images.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * B, device=images.device),
    }


def _flattened(part: Any, name: str, grid: str, images: Any) -> dict[str, Any]:
    """Images cut and ordered as the image processors of Qwen-VL do: each doubled in time, block by
    block of patches that are merged, one image behind the other."""
    import torch

    config, Ph, Pw = _sizes(part)
    times = getattr(config, "temporal_patch_size", 1)
    merge = getattr(config, "spatial_merge_size", 1)
    B, C, H, W = images.shape
    rows, columns = H // Ph, W // Pw
    blocks = images.reshape(B, C, rows // merge, merge, Ph, columns // merge, merge, Pw)
    cut = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(B, rows * columns, C, 1, Ph, Pw)
    patches = cut.expand(-1, -1, -1, times, -1, -1).reshape(B * rows * columns, -1)
    grids = torch.tensor([[1, rows, columns]] * B, device=images.device)
    return {name: patches, grid: grids}
