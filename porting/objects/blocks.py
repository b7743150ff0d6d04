"""Somebody's live model, run block by block: what enters each block, what leaves it, and the same
with other inputs in their place.

Laws: the model is left as it was, also where it fails; nothing is drawn at random, and no gradient
is kept; what the model itself makes of places (rotary tables, masks) stays its own.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError, require_array
from ..files.checkpoint import first_line
from . import flax_blocks, keras_blocks, torch_blocks
from .block_record import BlockRecord, Given
from .frameworks import framework_of
from .semantics import read_semantics as read_semantics
from .towers import Tower, choose


@dataclass(frozen=True, eq=False)
class BlockRun:
    """What a model's blocks were given and made of it, each of shape `(B, S, D)` in the dtype in
    which the model computes.

    Args:
        entered: what came to the first block.
        given: what each block was given: its own input, or what was put in its place.
        left: what each block made of it.
        tokens: behind the final norm, or None where the model shows none. Of a model without one
            (CLIP, BEiT) what it returns as its tokens.
        pooled: shape `(B, D)`, what enters the head, or what the model itself returns as pooled;
            None without.
        output: shape `(B, classes)`, what the head makes of it; None without one.
        names: dotted names of the blocks in the model.
        layout: how the model itself keeps its tokens: `batch first`, `sequence first`,
            `token major` or `grid`.
    """

    entered: NDArray[Any]
    given: list[NDArray[Any]]
    left: list[NDArray[Any]]
    tokens: NDArray[Any] | None
    pooled: NDArray[Any] | None
    output: NDArray[Any] | None
    names: list[str]
    layout: str = "batch first"


def find_blocks(model: Any, prefix: str | None = None) -> Tower:
    """The blocks of a model's tower of images: dotted name and module of each, in their order.

    Args:
        model: an `nn.Module`, a Keras layer or model, an nnx module, a bound linen module (whose
            blocks are subtrees of its parameters). Of vit-pytorch, whose blocks are no modules, the
            pairs of attention and MLP.
        prefix: how the names of the tower's blocks begin, where a model has several.

    Raises:
        PatchParityError: no sequence of blocks, or several, whose names are told.

    Examples:
        >>> import torch, patchparity
        >>> from patchparity.porting.objects.blocks import find_blocks
        >>> layer = torch.nn.TransformerEncoderLayer(24, 3, 40, batch_first=True)
        >>> encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> [name for name, _ in find_blocks(encoder)]
        ['layers.0', 'layers.1', 'layers.2']
    """
    name, kind = type(model).__name__, framework_of(model)
    if kind == "torch":
        model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
        towers = torch_blocks.torch_towers(model)
        return choose(towers, name, prefix, lambda part: torch_blocks.torch_embeds(model, part))
    if kind == "keras":
        towers = keras_blocks.keras_towers(model)
        return choose(towers, name, prefix, lambda part: keras_blocks.keras_embeds(model, part))
    if kind == "flax":
        towers = flax_blocks.flax_towers(model)
        return choose(towers, name, prefix, lambda part: flax_blocks.flax_embeds(model, part))
    raise PatchParityError(
        f"{name} is no live model: expected a torch module, a Keras model or a Flax module"
    )


def run_blocks(
    model: Any,
    images: NDArray[Any],
    *,
    given: Given | None = None,
    prefix: str | None = None,
    dtype: str | None = None,
) -> BlockRun:
    """Run a model on images, in evaluation mode and without gradients, and write down what enters
    and leaves each of its blocks; with `given`, feed each block with other tokens than its own.

    Args:
        model: as in `find_blocks`.
        images: shape `(B, C, H, W)`, float32; they take the dtype and device of the model.
        given: what each block is fed: an array `(B, S, D)` for each, or a function of the block's
            number and of what the block before it made (of the first, of what came to it). Masks
            and rotary positions stay the model's own.
        prefix: as in `find_blocks`.
        dtype: run a copy of a torch model in it; None runs the model as it is.

    Returns:
        What was seen; 16-bit values in their own dtype.

    Raises:
        PatchParityError: no tower or several, images that the model does not take, blocks that are
            run twice or change the shape of their tokens, tokens of another shape given.

    Examples:
        >>> import numpy as np
        >>> import transformers
        >>> from patchparity.porting.objects.blocks import run_blocks
        >>> config = transformers.ViTConfig(image_size=16, patch_size=8, hidden_size=24,
        ...     num_attention_heads=3, num_hidden_layers=2, intermediate_size=40)
        >>> run = run_blocks(transformers.ViTModel(config), np.ones((2, 3, 16, 16), np.float32))
        >>> run.names, run.left[1].shape
        (['layers.0', 'layers.1'], (2, 5, 24))
    """
    require_array("images", images)
    if images.ndim != 4:
        raise PatchParityError(f"images of shape {images.shape}: expected (B, C, H, W)")
    tower = find_blocks(model, prefix)
    names = [name for name, _ in tower]
    if given is not None and not callable(given) and len(given) != len(tower):
        raise PatchParityError(
            f"{len(given)} inputs were given: {type(model).__name__} has {len(tower)} blocks"
        )
    kind = framework_of(model)
    if dtype is not None:
        model, tower = _cast(model, prefix, dtype)
    to_array, to_framework, run = _of_framework(kind)
    record = BlockRecord(names, len(images), given, to_array, to_framework)
    try:
        ending = run(getattr(model, "_orig_mod", model), tower, images, record)
    except PatchParityError:
        raise
    except (Exception, SystemExit) as error:  # whatever a model makes of images
        if record.error is not None:
            raise record.error from None
        raise PatchParityError(
            f"{type(model).__name__} failed on images of shape {images.shape}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error
    assert record.entered is not None
    return BlockRun(
        record.entered,
        record.fed,
        record.left,
        ending.tokens,
        ending.pooled,
        ending.output,
        names,
        record.layout or "batch first",
    )


def _of_framework(kind: str | None) -> tuple[Any, Any, Any]:
    """To NumPy, from NumPy, and the run of a framework."""
    if kind == "torch":
        from ...backends.torch.adapter import as_array

        return as_array, torch_blocks.framework_array, torch_blocks.run_torch_blocks
    if kind == "keras":
        return (
            keras_blocks.numpy_array,
            keras_blocks.framework_array,
            keras_blocks.run_keras_blocks,
        )
    return np.asarray, flax_blocks.framework_array, flax_blocks.run_flax_blocks


def _cast(model: Any, prefix: str | None, dtype: str) -> tuple[Any, Tower]:
    """A copy of a torch model in another dtype, and its blocks."""
    name = type(model).__name__
    if framework_of(model) != "torch":
        raise PatchParityError(
            f"dtype={dtype!r}: a copy of {name} in another dtype is not made: build it in that one"
        )
    import torch

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise PatchParityError(f"dtype={dtype!r}: expected float32, float64, bfloat16 or float16")
    copied = copy.deepcopy(getattr(model, "_orig_mod", model)).to(kind)
    return copied, find_blocks(copied, prefix)
