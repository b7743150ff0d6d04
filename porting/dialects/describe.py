"""What `inspect` tells of a checkpoint, as plain data."""

import dataclasses
import math
from collections import Counter
from typing import Any

from ..files.checkpoint import Checkpoint
from .choosing import ambiguous, if_patch_told, plain_ones, remedy, why_not
from .grids import channels_of
from .recognize import Candidate


def _asks(
    checkpoint: Checkpoint, candidates: list[Candidate], rivals: list[Candidate]
) -> list[str]:
    """What nothing tells of a checkpoint that is read, or that would be if it were told."""
    if candidates:
        return list(candidates[0].asks) if len(rivals) == 1 else []
    patch = if_patch_told(checkpoint)
    return [patch] if patch else []


def describe(checkpoint: Checkpoint, candidates: list[Candidate]) -> dict[str, Any]:
    """What `inspect` tells of a checkpoint, as plain data."""
    refused = why_not(checkpoint, candidates)
    rivals = [] if refused else ambiguous(candidates)
    used = set(candidates[0].names.values()) if candidates else set()
    report: dict[str, Any] = {
        "schema": "patchparity.inspect/1",
        "file": checkpoint.path.name,
        "format": checkpoint.format,
        "dialect": candidates[0].dialect.id if len(rivals) == 1 else None,
        "prefix": candidates[0].prefix if len(rivals) == 1 else None,
        "candidates": [
            {
                "dialect": candidate.dialect.id,
                "prefix": candidate.prefix,
                "evidence": list(candidate.evidence),
            }
            for candidate in candidates
        ],
        "ambiguous": len(rivals) > 1,
        "rivals": [rival.label for rival in rivals] if len(rivals) > 1 else [],
        "remedy": remedy(checkpoint, rivals)
        if len(rivals) > 1
        else ""
        if candidates
        else plain_ones(checkpoint).removeprefix(": "),
        "refused": refused,
        "asks": _asks(checkpoint, candidates, rivals),
        "ledger": ledger_told(candidates),
        "unbuilt": list(checkpoint.unbuilt),
        "spec": None,
        "tensors": {},
        "other_tensors": len(checkpoint.tensors) - len(used),
    }
    if len(rivals) == 1:
        report.update(_of_chosen(checkpoint, candidates[0]))
    return report


def _of_chosen(checkpoint: Checkpoint, chosen: Candidate) -> dict[str, Any]:
    """The sizes, the tensors and what is not there of the one reading."""
    return {
        "spec": {
            **_sizes_told(chosen),
            **_order_told(chosen),
            "stem": _stem_told(checkpoint, chosen),
        },
        "tensors": {
            name: {
                "name": tensor,
                "shape": list(info.shape),
                "dtype": info.dtype,
                "layout": chosen.dialect.entries[name].layout,
            }
            for name, tensor in chosen.names.items()
            for info in [checkpoint.tensors[tensor]]
        },
        "missing": [name for name in chosen.dialect.entries if name not in chosen.names],
    }


def _sizes_told(chosen: Candidate) -> dict[str, Any]:
    """Patch, channels, width and grid, and the prefix tokens."""
    sizes = chosen.sizes
    return {
        "patch_size": [sizes[name] for name in ("Pt", "Ph", "Pw") if name in sizes],
        "in_channels": channels_of(sizes),
        "embed_dim": sizes["D"],
        "grid": [] if chosen.asks else list(chosen.grid),
        "num_patches": math.prod(chosen.grid) if chosen.grid and not chosen.asks else None,
        "prefix_tokens": [name for name in chosen.dialect.prefix if name in chosen.names],
        "registers": sizes.get("R", sizes.get("J", 0) * sizes.get("Jk", 0)),
        "positioned": list(chosen.positioned),
    }


def _order_told(chosen: Candidate) -> dict[str, Any]:
    """Positions, the order of tokens, and the steps between patches."""
    dialect = chosen.dialect
    learned = "learned" if _has_positions(chosen) else None
    unknown = chosen.asks and not chosen.window and not dialect.windowed
    return {
        "positions": "computed" if dialect.computed else learned,
        "positions_resized": dialect.resize or None,
        "token_order": dialect.token_order,
        "window": chosen.window,
        "stride": [] if unknown else list(chosen.stride),
        "padding": list(chosen.padding),
        "bias": "bias" in chosen.names,
    }


def _stem_told(checkpoint: Checkpoint, chosen: Candidate) -> list[dict[str, Any]]:
    """The convolutions in front of the projection."""
    return [
        {
            "kernel": list(checkpoint.tensors[chosen.names[f"stem.{place}.kernel"]].shape),
            "stride": step.stride,
            "padding": step.padding,
            "batch_norm": bool(step.norm),
            "activation": step.activation,
        }
        for place, step in enumerate(chosen.dialect.stem)
    ]


def _has_positions(candidate: Candidate) -> bool:
    return any(
        name in candidate.names
        for name in ("positions", "position_rows", "position_tables", "position_projection")
    )


def ledger_told(candidates: list[Candidate]) -> dict[str, Any]:
    """The ledger of the likeliest candidate, as plain data: how many tensors are elsewhere, and
    each of the others."""
    if not candidates:
        return {}
    entries = min(candidates, key=lambda candidate: len(candidate.refusals)).ledger
    counts = Counter(entry.status for entry in entries)
    records = [
        dataclasses.asdict(entry)
        for entry in entries
        if entry.status not in ("elsewhere", "outside")
    ]
    return {"dialect": candidates[0].dialect.id, "counts": dict(counts), "tensors": records}
