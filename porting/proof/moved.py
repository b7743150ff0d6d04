"""The proof of a port: both layouts run against the reference, and the new file read again."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.embed import patch_embed
from ...reference.probes import random_images
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..dialects.catalogue import get_dialect
from ..dialects.dialect import BATCH_NORM, Dialect
from ..dialects.fit import same_bits
from ..dialects.sizes import Sizes
from ..dialects.stage import Stage, read_stage, without
from ..files.opening import opened
from .compare import Check, compare_sequences, judge_projection, not_square
from .library import prove_by_library
from .run_layout import installed, run

RAW = ("kernel", "bias", "pixel_mean", "pixel_std", *(f"batch_norm.{part}" for part in BATCH_NORM))
"""Tensors of the source that the proof of its layout takes as they are."""


def named(check: Check, side: str) -> Check:
    """A check of one side."""
    return dataclasses.replace(check, name=f"{side}: {check.name}")


def proved_target(
    draft: Path,
    into: Any,
    to: str,
    place: Stage,
    known: Mapping[str, Dialect],
    spec: PatchEmbedSpec,
) -> Check:
    """The new file against the model of the existing checkpoint, whose configuration holds for
    both."""
    with opened(into) as existing, opened(draft) as checkpoint:
        sizes = Sizes.of(spec, place.weights.layout.window)
        return prove_by_library(
            checkpoint,
            read_stage(checkpoint, to, place.candidate.prefix, known, sizes),
            existing.config_folder,
        )


def unproved_target() -> Check:
    """What is said of a new file, beside which nothing tells the library which model it is of."""
    message = "not proved against the library: no config.json tells its model (--into has one)"
    return Check("target: sequence by the library", "skip", None, message)


def read_back(
    draft: Path,
    to: str,
    written: PatchEmbedWeights,
    spec: PatchEmbedSpec,
    place: Stage | None,
    known: Mapping[str, Dialect],
) -> Check:
    """The file, read again in its dialect before it takes its place: the same weights to the last
    bit."""
    with opened(draft) as checkpoint:
        back = read_stage(
            checkpoint,
            to,
            place.candidate.prefix if place else None,
            known,
            Sizes.of(spec, written.layout.window),
        ).weights
    if written.positions is None and get_dialect(to, known).computed:
        back = without(back, "positions")
    different = same_bits(written, back)
    message = (
        f"{', '.join(different)} read back differently"
        if different
        else "the file gives back every bit"
    )
    return Check("file", "fail" if different else "pass", 0.0, message)


def prove_move(
    stage: Stage,
    raw: Mapping[str, NDArray[Any]],
    held: PatchEmbedWeights,
    written: PatchEmbedWeights,
    kernel: NDArray[Any],
    wanted: Dialect,
    lossy: bool,
    source: Stage,
) -> list[Check]:
    """Both layouts, each in its own framework, against the reference; and the sequence before
    against the sequence after.

    In float32, for which every framework has functions: narrower weights are exact in it.

    Args:
        stage: as it is moved.
        raw: tensors of the file, as they are.
        held, written: the weights as the target has them, before and after a cast.
        kernel: the target's tensor.
        wanted: the target's dialect.
        lossy: whether something was left out.
        source: the stage as it was read, before it was resized.
    """
    specs = not_square(source.spec), not_square(stage.spec)
    images = random_images(specs[0], 2, "float32", 0)
    target_bias = None if written.bias is None else written.bias.astype(np.float32)
    source_bias = None if source.weights.bias is None else source.weights.bias.astype(np.float32)
    source_images = _normalized(images, source.dialect, raw)
    # the file's own kernel knows nothing of them
    if source_images is not images or source.dialect.batch_norm:
        source_bias = raw["bias"].astype(np.float32).reshape(-1) if "bias" in raw else None
    layouts = source.dialect.entries["kernel"].layout, wanted.entries["kernel"].layout
    sides = [
        (
            "source",
            source.dialect.framework,
            layouts[0],
            raw["kernel"],
            source_images,
            source_bias,
            source.weights,
            specs[0],
        ),
        (
            "target",
            wanted.framework,
            layouts[1],
            kernel,
            random_images(specs[1], 2, "float32", 0),
            target_bias,
            written,
            specs[1],
        ),
    ]
    checks = []
    for side, framework, layout, tensor, given, bias, weights, spec in sides:
        layout = (
            layout if spec.spatial_axes == 2 or "Pt" in layout else layout.replace("Ph", "Pt Ph")
        )
        tokens = run(
            framework, layout, np.array(given), np.ascontiguousarray(tensor, np.float32), bias, spec
        )
        where = f"{side} layout ({layout}) in {framework}"
        if tokens is None:
            tokens = patch_embed(
                random_images(spec, 2, "float32", 0),
                PatchEmbedWeights(weights.kernel, weights.bias).astype(np.float32),
                spec,
                np.float32,
            )
            where = f"{side} layout ({layout}) in the reference"
            if framework != "numpy":  # whose layouts nothing but the reference reads
                here = installed(framework)
                why = "nothing in it reads this layout" if here else "it is not installed"
                where += f", not in {framework}: {why}"
        elif side == "source" and stage.dialect.batch_norm:
            tokens = _batch_normalized(tokens, stage.dialect, raw)
        checks.append(judge_projection(where, spec, weights.astype(np.float32), tokens))
    if lossy:
        checks.append(Check("steps", "skip", None, "not compared: something of it is left out"))
    else:
        checks.append(compare_sequences(stage, held, written))
    return checks


def _normalized(
    images: NDArray[Any], dialect: Dialect, raw: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """Images as the source's model normalizes them itself; the same ones where it does not."""
    if dialect.pixels:
        mean, std = (np.array(dialect.pixels[name], np.float32) for name in ("mean", "std"))
    elif "pixel_std" in raw:
        std = raw["pixel_std"].astype(np.float32).reshape(-1)
        mean = (
            raw["pixel_mean"].astype(np.float32).reshape(-1)
            if "pixel_mean" in raw
            else np.zeros_like(std)
        )
    else:
        return images
    axes = (-1, *(1,) * (images.ndim - 2))
    return np.asarray((images.astype(np.float32) - mean.reshape(axes)) / std.reshape(axes))


def _batch_normalized(
    tokens: NDArray[Any], dialect: Dialect, raw: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """Tokens behind the batch norm of the source."""
    scale, shift, mean, variance = (
        raw[f"batch_norm.{part}"].astype(np.float64) for part in BATCH_NORM
    )
    normalized_tokens = (tokens.astype(np.float64) - mean) / np.sqrt(
        variance + dialect.batch_norm_epsilon
    ) * scale + shift
    return np.asarray(normalized_tokens.astype(tokens.dtype))
