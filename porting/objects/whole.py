"""Whole models: which part of one is the patch embedding."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ...reference.errors import PatchParityError
from ..files.checkpoint import first_line
from .found import SeveralKernelsError
from .live import LiveEmbedding

STAGES = (
    *("embeddings", "patch_embed", "patch_embedding", "patch_embeddings", "patch_embedder"),
    *("to_patch_embedding", "conv_proj", "patchify", "tokenizer", "stem"),
)
"""What libraries call the part of a model that makes tokens of images (transformers, timm,
vit-pytorch, torchvision)."""


def part_of(subject: Any, path: str, name: str) -> Any:
    """The part of an object under a dotted path, numbers being places in a list.

    Raises:
        PatchParityError: a path that leads nowhere.
    """

    def step(inside: Any, part: str) -> Any:
        return inside[int(part)] if part.isdigit() else getattr(inside, part)

    try:
        return functools.reduce(step, path.split("."), subject)
    except (AttributeError, IndexError, KeyError, TypeError):
        held = [path for path, _ in _stages(subject)]
        hint = f": it has {', '.join(held[:6])}" if held else ""
        raise PatchParityError(f"{name} has no part {path!r}{hint}") from None


def stage_inside(
    subject: Any, name: str, why: SeveralKernelsError, read: Callable[[Any, str], LiveEmbedding]
) -> tuple[LiveEmbedding, str]:
    """The one patch embedding that a whole model has, and its path.

    Args:
        subject: a torch module.
        name: as errors call it.
        why: what it is refused with where it has none, or several.
        read: reads a part, of a name.

    Raises:
        PatchParityError: no part that can be read, or several.
    """
    found: list[tuple[LiveEmbedding, str]] = []
    refusals: dict[str, str] = {}
    for path, part in _stages(subject):
        try:
            found.append((read(part, f"{name}.{path}"), path))
        except PatchParityError as error:
            refusals[path] = first_line(error)
    if len(found) == 1:
        return found[0]
    if found:
        paths = ", ".join(path for _, path in found)
        raise PatchParityError(
            f"{name} is a model with several parts that embed patches: {paths}; say which "
            "(module, --module)"
        )
    told = [f"its part {path} (--module): {refusal}" for path, refusal in refusals.items()]
    if not told:
        told = [f"{path} may be meant (--module {path})" for path in _around_patches(subject)]
    raise SeveralKernelsError("; ".join([str(why), *told[:2]]))


def _stages(subject: Any) -> Iterator[tuple[str, Any]]:
    """Path and part of what may be a patch embedding, none of them inside another."""
    taken: list[str] = []
    for path, part in getattr(subject, "named_modules", lambda: ())():
        inside = any(path.startswith(f"{outer}.") for outer in taken)
        if path and not inside and path.rpartition(".")[2] in STAGES:
            taken.append(path)
            yield path, part


def _around_patches(subject: Any) -> Iterator[str]:
    """Paths of modules of a model, under whatever name, that hold a convolution of pixels whose
    stride is its kernel. They are not read for the model: what this does around one nobody would
    see."""
    parts = dict(getattr(subject, "named_modules", lambda: ())())
    for path, part in parts.items():
        kernel, step = (getattr(part, name, None) for name in ("kernel_size", "stride"))
        channels = getattr(part, "in_channels", 0)
        if kernel is None or kernel != step or min(kernel) < 2 or not 1 <= channels <= OF_PIXELS:
            continue
        around = path.rpartition(".")[0]
        if around and type(parts[around]).__module__.partition(".")[0] != "torch":
            yield around


OF_PIXELS = 4
"""Channels that pixels have at most: gray, color, and one more."""
