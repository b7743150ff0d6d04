"""`inspect_checkpoint`: what the embedding stage of any checkpoint is, and why."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

from .dialects.catalogue import get_dialect, list_dialects
from .dialects.choosing import (
    require_asked,
    require_first_stage,
    require_grid,
    require_no_other_stage,
)
from .dialects.describe import describe
from .dialects.quantized import dequantized
from .dialects.recognize import find_candidates
from .dialects.sizes import Sizes
from .dialects.stage import read_stage
from .dialects.wrappers import require_no_adapter, unwrapped
from .files.opening import opened, prepare
from .proof.library import prove_by_library


def inspect_checkpoint(
    path: str | os.PathLike[str],
    *,
    from_: str | None = None,
    prefix: str | None = None,
    image_size: int | Sequence[int] | None = None,
    patch_size: int | Sequence[int] | None = None,
    in_channels: int | None = None,
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | None = None,
    sizes: Sizes | None = None,
    ignore: Sequence[str] = (),
    prove: bool = False,
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Tell which dialect a checkpoint is in and why, what its embedding stage holds, what is
    missing and what is ambiguous.

    Args:
        path: the file, an index of shards, or a folder.
        from_: the dialect, where it is known.
        prefix: what stands before all names, where several stages are there.
        image_size, patch_size, in_channels, stride, padding: what is known of its sizes and no
            `config.json` tells; one number, or one for each axis, frames of a video in front.
        sizes: the same in one object, as earlier versions took them.
        ignore: names, or patterns of the shell's kind, of tensors that play no part although
            nothing explains them.
        prove: whether the library's own model is built and run, where it is installed and a
            `config.json` tells how (seconds; `proof`).
        dialects: TOML files with dialects of your own.

    Returns:
        Plain data: `dialect`, `candidates`, `ambiguous`, `refused`, `asks`, `spec`, `tensors`,
        `ledger`, `other_tensors`, ...

    Raises:
        PatchParityError: a file that cannot be read, is damaged, or hostile.

    Examples:
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=16, num_attention_heads=2)
        >>> config = transformers.ViTConfig(num_hidden_layers=1, intermediate_size=32, **sizes)
        >>> transformers.ViTModel(config).save_pretrained("vit")
        >>> patchparity.inspect_checkpoint("vit")["dialect"]
        'hf-vit'
    """
    sizes = Sizes.of_user(image_size, patch_size, in_channels, stride, padding, sizes)
    prepare(path)
    known = list_dialects(dialects)
    with opened(path) as raw:
        file = dequantized(raw)
        checkpoint = unwrapped(file)
        chosen = known if from_ is None else {from_: get_dialect(from_, known)}
        candidates = find_candidates(checkpoint, chosen, prefix, sizes, ignore=ignore)
        if not candidates and (from_ is not None or prefix is not None):
            read_stage(checkpoint, from_, prefix, known, sizes, ignore)  # which says what is wrong
        if not candidates or candidates[0].refusals:
            require_grid(checkpoint, chosen, prefix, sizes, ignore)
        require_first_stage(checkpoint, chosen, candidates)
        for candidate in candidates[:1]:
            require_no_adapter(checkpoint, candidate.names)
            require_asked(checkpoint, candidate, sizes)
            if prefix is None and not candidate.refusals:
                require_no_other_stage(checkpoint, chosen, candidate, sizes, ignore)
        report = describe(checkpoint, candidates)
        report["proof"], report["notes"] = None, []
        if prove and report["dialect"] and not report["asks"]:
            stage = read_stage(file, from_, prefix, known, sizes, ignore)
            report["notes"] = [*stage.notes, *stage.assumptions]
            report["proof"] = dataclasses.asdict(prove_by_library(file, stage))
        return report
