"""`port --whole`: a whole model, embedding stage and encoder, moved into another library's layout,
tensor by tensor, with the configuration that its library loads."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...backends.base import DTYPES
from ...reference.errors import PatchParityError, require_choice
from ..dialects.catalogue import get_dialect, list_dialects
from ..dialects.sizes import Sizes
from ..encoders.companions import companions_of
from ..files.opening import opened, prepare
from ..files.streamed import write_streamed
from ..files.writing import format_of
from ..proof.compare import Check
from .fit import fit_whole
from .place import made_folder, place_of, require_apart, require_no_other
from .prove import prove_port
from .read import read_whole
from .report import WholePortReport, left_of, loads_of, steps_of
from .tensors import tensors_of_whole


def port_whole(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    *,
    from_: str | None = None,
    prefix: str | None = None,
    sizes: Sizes | None = None,
    semantics: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    allow_loss: bool = False,
    prove: bool = True,
    shard_bytes: int | None = None,
    into: str | os.PathLike[str] | None = None,
    ignore: Sequence[str] = (),
    dialects: Iterable[str | os.PathLike[str]] = (),
) -> WholePortReport:
    """Move a whole model into another library's layout, and prove it by running both.

    Args:
        source: a checkpoint of any dialect whose blocks are known.
        target: the new folder, or the new file; the configuration is written beside the weights.
        to: the dialect of the target's embedding stage (`timm-vit`, `hf-dinov2`, ...).
        from_, prefix, sizes: of the source's embedding stage, as in `port`.
        semantics: what no tensor says and no configuration tells: `num_heads`, `norm_epsilon`,
            `activation`, `pooling`.
        dtype: of the target; None keeps that of each tensor.
        allow_loss: leave out what the target cannot hold, and accept that it computes with another
            ε or activation, instead of refusing.
        prove: whether both libraries' own models are run, where they are installed, or else the
            NumPy encoder.
        shard_bytes: largest size of a shard; None for one file.
        into: an existing checkpoint of the target's layout (safetensors, shards of it, npz): a copy
            is written in which the model's tensors are replaced, in the types that they have there,
            and all others stay as they are, bit by bit.
        ignore: names, or patterns of the shell's kind, that play no part.
        dialects: TOML files with dialects of your own.

    Raises:
        PatchParityError: a source that is not whole, a target that cannot hold or compute it, a
            proof that failed (nothing is then written).

    Examples:
        >>> import transformers, patchparity
        >>> sizes = dict(image_size=32, patch_size=8, hidden_size=24, num_attention_heads=3)
        >>> config = transformers.Dinov2Config(num_hidden_layers=2, mlp_ratio=2, **sizes)
        >>> transformers.Dinov2Model(config).save_pretrained("dinov2")
        >>> patchparity.port_whole("dinov2", "in-timm", "timm-vit").blocks
        2
    """
    prepare(source)
    wanted = get_dialect(to, list_dialects(dialects))
    if dtype is not None:
        require_choice("dtype", dtype, DTYPES)
    if into is not None and dtype is not None:
        raise PatchParityError("--into keeps the types that are there: leave --dtype out")
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(opened(source))
        whole = read_whole(
            file,
            from_=from_,
            prefix=prefix,
            sizes=sizes,
            semantics=semantics,
            ignore=ignore,
            dialects=dialects,
        )
        if into is not None:
            from .into import configuration_of, fit_into, tensors_into

            there = stack.enter_context(opened(into))
            held = read_whole(there, from_=to, dialects=dialects)
            moved = fit_into(whole, held, allow_loss)
            place = place_of(target, moved.target, wanted, shard_bytes)
            tensors = tensors_into(whole, moved, held, there)
            companions = configuration_of(held)
        else:
            moved = fit_whole(whole, wanted, allow_loss)
            place = place_of(target, moved.target, wanted, shard_bytes)
            tensors = tensors_of_whole(whole, moved, dtype)
            companions = companions_of(moved.target.model, moved.facts, tensors)
        require_apart(source, place, companions)
        require_apart(into, place, companions)
        require_no_other(place, moved.target.model, companions)
        checks: list[Check] = []

        def prove_draft(draft: Path) -> None:
            checks.extend(prove_port(file, whole, moved, draft, dtype, prove))
            if wrong := next((check for check in checks if check.verdict == "fail"), None):
                raise PatchParityError(
                    f"the proof failed, and {target} was not written: {wrong.name}: {wrong.message}"
                )

        written_for = "mlx" if wanted.mlx else "pt"
        metadata = {"format": written_for} if format_of(place) == "safetensors" else None
        with made_folder(place.parent):
            write_streamed(
                place,
                tensors,
                metadata,
                prove_draft,
                shard_bytes=shard_bytes,
                companions=companions,
                finite=True,
            )
    return WholePortReport(
        f"{whole.stage.candidate.label}, {whole.found.layout.title}",
        f"{to}, {moved.target.model.name}",
        whole.semantics.lines(),
        steps_of(whole, moved, dtype),
        moved.losses,
        len(tensors),
        moved.state.depth,
        left_of(whole.found),
        checks,
        [str(place), *(str(place.parent / name) for name in companions)],
        loads_of(moved, place) if into is None else f"as {into}",
        whole.stage.assumptions,
    )
