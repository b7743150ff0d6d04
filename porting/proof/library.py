"""The library itself as the proof: its own model, built from the configuration, fed with the file,
caught where the first block begins, against `embed`.

Laws: nothing of a file is run, and nothing is fetched; only classes of the installed library are
built, from names that it knows itself. What cannot be built or called is said and is no pass.
"""

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...reference.spec import PatchEmbedSpec
from ...reference.stem import features_of, image_of
from ..dialects.evidence import known_of
from ..dialects.sizes import KERAS_HUB, keras_table, numbers_at, read_config
from ..dialects.stage import Stage
from ..files.checkpoint import Checkpoint
from .compare import Check
from .own_model import OtherModelError, OwnModel, UnprovedError, inner_table, require_modest

NAME = "sequence by the library"
"""What the check is called."""

ALLOWED = 16
"""Relative rms error that is a pass, as a multiple of √K·u of float32: four times λ = 4 of
reference/error.py, for norms behind the product and layers of additions; what a wrong order,
position or norm makes is a thousand times that."""

BATCH = 2


def prove_by_library(checkpoint: Checkpoint, stage: Stage, folder: Path | None = None) -> Check:
    """Hold a reading against what the library's own model computes of the same file.

    Args:
        checkpoint: an open one.
        stage: how it was read.
        folder: where its `config.json` lies, if not beside it.

    Returns:
        `pass` or `fail` where the model was built and called; `skip` with the reason where it was
            not.
    """
    try:
        with quiet():
            model = _build(
                checkpoint, stage, checkpoint.config_folder if folder is None else folder
            )
            first, *others = _sizes(checkpoint, stage)
            differences = [_apart(model, stage, *first)]
            for size, spec in others:
                with contextlib.suppress(UnprovedError):  # many models take images of one size
                    differences.append(_apart(model, stage, size, spec))
    except OtherModelError as error:
        return Check(NAME, "fail", math.inf, f"config.json tells another model: {error}")
    except UnprovedError as error:
        return Check(NAME, "skip", None, f"not proved against the library: {error}")
    worst, message = max(differences)
    if worst <= 1:
        times = "" if len(differences) == 1 else f" at {len(differences)} sizes"
        return Check(NAME, "pass", worst, f"{model.name}{times}")
    return Check(
        NAME, "fail", worst, f"{model.name} gives something else than this reading: {message}"
    )


def _build(checkpoint: Checkpoint, stage: Stage, folder: Path | None) -> OwnModel:
    if checkpoint.format == "gguf":
        raise UnprovedError("its tensors have llama.cpp's names, which no library's model takes")
    if checkpoint.kept_as == "graph":
        raise UnprovedError("a graph has names that no library's model takes")
    if folder is None or not (folder / "config.json").is_file():
        raise UnprovedError("no config.json tells how its model is built")
    config = read_config(folder)
    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in table or any(
        isinstance(value, dict) and "auto_map" in value for value in table.values()
    ):
        raise UnprovedError("config.json names code of its own (auto_map), which is never run")
    if isinstance(whose := table.get("library"), str) and not config.model_type:
        raise UnprovedError(
            f"config.json is of a class of {whose}, which is run as a whole model (port --whole) "
            "and not for its stage alone"
        )
    keras = config.architecture.startswith(KERAS_HUB)
    library = "keras_hub" if keras else "timm" if config.architecture else "transformers"
    if library == "transformers" and config.model_type not in stage.dialect.model_types:
        whose = "KerasHub" if stage.dialect.framework == "keras" else "transformers"
        raise UnprovedError(f"config.json does not tell which model of {whose} it is")
    for needed in (library,) if keras else ("torch", library):
        if importlib.util.find_spec(needed) is None:
            raise UnprovedError(f"{TESTED[needed]}, which is not installed")
    copies = [entry.name for entry in stage.candidate.ledger if entry.status == "copy"]
    tensors = {
        name.removeprefix(stage.candidate.prefix): checkpoint.read(stage.real_name(name))
        for name in (*stage.candidate.names.values(), *copies)
    }
    kernel = stage.candidate.names["kernel"].removeprefix(stage.candidate.prefix)
    if stage.dialect.mlx and tensors[kernel].ndim > 2:
        # MLX has the channels last, torch behind the width
        tensors[kernel] = np.moveaxis(tensors[kernel], -1, 1)
    try:
        if keras:
            from .keras_models import keras_hub_model

            require_modest(keras_table(table)[1])
            return keras_hub_model(table, tensors, stage)
        from .torch_models import timm_model, transformers_model

        require_modest(
            inner_table(table) if library == "transformers" else table.get("model_args") or {}
        )
        build = timm_model if library == "timm" else transformers_model
        return build(table, config.model_type or config.architecture, tensors, stage)
    except (UnprovedError, OtherModelError):
        raise
    except Exception as error:  # whatever a library makes of a configuration
        raise UnprovedError(
            f"{library} does not build it ({type(error).__name__}: {_cause_of(error)[:240]})"
        ) from None


def _cause_of(error: BaseException) -> str:
    """The first line of an error, and the next where the first only announces it."""
    first, *rest = [line.strip() for line in str(error).strip().splitlines()] or ["no message"]
    return f"{first} {rest[0]}" if first.endswith(":") and rest else first


TESTED = {
    "transformers": "transformers 5.23",
    "timm": "timm 1.0.31",
    "torch": "torch 2.13",
    "keras_hub": "keras-hub 0.32",
}
"""The versions that the tests are run with."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is fetched, and no library talks."""
    held = {
        name: os.environ.get(name)
        for name in (
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
            "TRANSFORMERS_VERBOSITY",
            "HF_HUB_DISABLE_PROGRESS_BARS",
            "TF_CPP_MIN_LOG_LEVEL",
        )
    }
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        TRANSFORMERS_VERBOSITY="error",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    try:
        import logging
        import warnings

        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            warnings.catch_warnings(),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            before = logging.root.manager.disable
            logging.disable(logging.ERROR)
            try:
                yield
            finally:
                logging.disable(before)
    finally:
        for name, value in held.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _sizes(checkpoint: Checkpoint, stage: Stage) -> list[tuple[tuple[int, ...], PatchEmbedSpec]]:
    """The size that the configuration tells, where it has the stage's grid, else the stage's own;
    where no positions fix it, another one beside it; each with the spec of what the projection
    takes."""
    stage_spec, config = stage.spec, known_of(checkpoint, None)
    keys = stage.dialect.config.get("image_size")
    config_size = numbers_at(config.table, keys, 2) if keys else config.image_size
    size = image_of(stage_spec.image_size, stage.stem)
    if config_size:
        whole = (*size[:-2], *config_size[-2:])
        spec = stage_spec.replace(image_size=features_of(whole, stage.stem))
        size, stage_spec = (whole, spec) if spec.grid == stage_spec.grid else (size, stage_spec)
    if stage.stem:
        return [(size, stage_spec)]
    if stage.weights.positions is not None or stage.dialect.video:
        return [(size, stage_spec)]
    rows = 4 if stage.dialect.token_order == "merge-2x2" else 1
    by = tuple(rows * step for step in stage_spec.stride)
    if stage.dialect.images == "multiple-of-patch_size" and config.patch_size:
        by = config.patch_size[-2:]
    larger = tuple(size + more for size, more in zip(stage_spec.image_size, by, strict=True))
    return [(size, stage_spec), (larger, stage_spec.replace(image_size=larger))]


def _apart(
    model: OwnModel, stage: Stage, size: tuple[int, ...], spec: PatchEmbedSpec
) -> tuple[float, str]:
    """Relative rms difference of the library's sequence and ours on random images, as a multiple of
    what is allowed, and in words."""
    images = (
        np.random.default_rng(0)
        .standard_normal((BATCH, stage.in_channels, *size))
        .astype(np.float32)
    )
    observed = model.run(images).astype(np.float64)
    expected = stage.sequence(images, spec)
    if observed.shape != expected.shape:
        return (
            math.inf,
            f"{observed.shape[1]} tokens of an image of {'×'.join(map(str, size))}, and not "
            f"{expected.shape[1]}",
        )
    apart = float(np.linalg.norm(observed - expected)) / float(np.linalg.norm(expected) + 1e-300)
    terms = spec.patch_values + sum(layer.kernel[0].size for layer in stage.stem)
    ratio = apart / (ALLOWED * math.sqrt(terms) * 2.0**-24)
    return ratio, f"{ratio:.3g} times what float32 arithmetic allows"
