"""The library itself as the proof: its own model, built from the configuration, fed with the file, caught where the first block begins, against `embed`.

Laws: nothing of a file is run, and nothing is fetched; only classes of the installed library are built, from names that it knows itself. What cannot be
built or called is said and is no pass.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.sequence import embed_sequence, merge_block_order
from ...reference.spec import PatchEmbedSpec
from ..dialects.evidence import known_of
from ..dialects.sizes import VISION, numbers_at, read_config
from ..dialects.stage import Stage
from ..files.checkpoint import Checkpoint, first_line
from ..files.safetensors_files import write_safetensors
from .compare import Check

NAME = "sequence by the library"
"""What the check is called."""

ALLOWED = 16
"""Relative rms error that is a pass, as a multiple of √K·u of float32: four times λ = 4 of reference/error.py, for norms behind the product and layers of
additions; what a wrong order, position or norm makes is a thousand times that."""

BATCH = 2


class UnprovedError(Exception):
    """Why the library's own model could not be asked; no verdict on the reading."""


@dataclass(frozen=True)
class _Own:
    """A library's own model.

    Args:
        name: library, version and class, as they are told.
        run: images `(B, C, H, W)` or `(B, C, T, H, W)` in float32 to what enters its first block, `(B, N, D)`.
    """

    name: str
    run: Callable[[NDArray[Any]], NDArray[Any]]


def prove_by_library(checkpoint: Checkpoint, stage: Stage, folder: Path | None = None) -> Check:
    """Hold a reading against what the library's own model computes of the same file.

    Args:
        checkpoint: an open one.
        stage: how it was read.
        folder: where its `config.json` lies, if not beside it.

    Returns:
        `pass` or `fail` where the model was built and called; `skip` with the reason where it was not.
    """
    try:
        with _quiet():
            own = _build(checkpoint, stage, checkpoint.config_folder if folder is None else folder)
            first, *others = _sizes(checkpoint, stage)
            found = [_apart(own, stage, first)]
            for spec in others:
                with contextlib.suppress(UnprovedError):  # many models take images of one size
                    found.append(_apart(own, stage, spec))
    except UnprovedError as error:
        return Check(NAME, "skip", None, f"not proved against the library: {error}")
    worst, told = max(found)
    if worst <= 1:
        times = "" if len(found) == 1 else f" at {len(found)} sizes"
        return Check(NAME, "pass", worst, f"{own.name}{times}")
    return Check(NAME, "fail", worst, f"{own.name} gives something else than this reading: {told}")


def _build(checkpoint: Checkpoint, stage: Stage, folder: Path | None) -> _Own:
    if folder is None or not (folder / "config.json").is_file():
        raise UnprovedError("no config.json tells how its model is built")
    config = read_config(folder)
    table = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if "auto_map" in table or any(isinstance(each, dict) and "auto_map" in each for each in table.values()):
        raise UnprovedError("config.json names code of its own (auto_map), which is never run")
    library = "timm" if config.architecture else "transformers"
    if library == "transformers" and config.model_type not in stage.dialect.model_types:
        raise UnprovedError(f"config.json does not tell which model of {library} it is")
    for needed in ("torch", library):
        if importlib.util.find_spec(needed) is None:
            raise UnprovedError(f"{needed} {importlib_hint(needed)}, which is not installed")
    tensors = {
        name.removeprefix(stage.candidate.prefix): checkpoint.read(stage.real_name(name))
        for name in stage.candidate.names.values()
    }
    kernel = stage.candidate.names["kernel"].removeprefix(stage.candidate.prefix)
    if stage.dialect.mlx and tensors[kernel].ndim > 2:
        tensors[kernel] = np.moveaxis(tensors[kernel], -1, 1)  # MLX has the channels last, torch behind the width
    _require_modest(_inner(table) if library == "transformers" else table.get("model_args") or {})
    build = _timm if library == "timm" else _transformers
    try:
        return build(table, config.model_type or config.architecture, tensors, stage)
    except UnprovedError:
        raise
    except Exception as error:  # whatever a library makes of a configuration
        raise UnprovedError(f"{library} does not build it ({type(error).__name__}: {first_line(error)[:160]})") from None


def importlib_hint(library: str) -> str:
    """The version that the tests are run with."""
    return {"transformers": "5.23", "timm": "1.0.31", "torch": "2.13"}[library]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is fetched, and no library talks."""
    held = {
        name: os.environ.get(name)
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS")
    }
    os.environ.update(
        HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1"
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


LARGEST_SIDE, MOST_FRAMES, LARGEST_NUMBER = 4096, 512, 2**20
"""Pixels, frames and anything else that a configuration may tell of a model that is built to be asked: four times what is known, so that no file of a few
lines takes memory or hours."""


def _require_modest(table: Mapping[str, Any]) -> None:
    for name, value in table.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                _require_modest(each)
            elif isinstance(each, (int, float)) and not isinstance(each, bool) and "theta" not in name:
                most = (
                    MOST_FRAMES
                    if "frame" in name
                    else LARGEST_SIDE
                    if re.search("(image|img|input|crop)_?size", name)
                    else LARGEST_NUMBER
                )
                if not abs(each) <= most:
                    raise UnprovedError(f"config.json tells {name} {each}, and no model with more than {most} is built")


_COUNTS = ("num_hidden_layers", "depth", "num_layers", "n_layers", "n_layer", "num_local_layers", "num_global_layers")
_LEFT_OUT = (
    "out_features",
    "out_indices",
    "stage_names",
    "transformers_version",
    "_name_or_path",
    "architectures",
    "torch_dtype",
    "dtype",
    "quantization_config",
)


def _reduced(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration with one layer: what enters the first block is the same, and the rest need not be built."""
    found = {name: value for name, value in table.items() if name not in _LEFT_OUT}
    for name in _COUNTS:
        if isinstance(found.get(name), int) and "num_blocks" not in found:
            found[name] = 1
    return found


def _inner(table: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in VISION:
        if isinstance(table.get(key), dict):
            return _inner(table[key])
    return table


def _transformers(table: Mapping[str, Any], model_type: str, tensors: Mapping[str, NDArray[Any]], stage: Stage) -> _Own:
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise UnprovedError(f"transformers {transformers.__version__} has no model {model_type!r}")
    inner = {name: value for name, value in _inner(table).items() if name != "model_type"}
    config = CONFIG_MAPPING[model_type](**_reduced(inner))
    vision = getattr(config, "vision_config", None)
    if vision is not None and not isinstance(vision, dict):
        config = vision
    failed = "no class of it takes images"
    for kind, inside in (
        (kind, inside)
        for kind in _classes(config, table.get("architectures"))
        for inside in _inner_prefixes(stage.candidate.prefix)
    ):
        named = {inside + name: array for name, array in tensors.items()}
        with tempfile.TemporaryDirectory(prefix="patchparity-") as folder:
            write_safetensors(
                Path(folder) / "model.safetensors",
                {name: np.ascontiguousarray(array) for name, array in named.items()},
                {"format": "pt"},
            )
            config.save_pretrained(folder)
            try:
                with _uninitialized():
                    model, told = kind.from_pretrained(
                        folder,
                        config=config,
                        output_loading_info=True,
                        dtype=torch.float32,
                        local_files_only=True,
                        attn_implementation="eager",
                    )
            except Exception as error:
                failed = f"{kind.__name__} does not take it ({type(error).__name__}: {first_line(error)[:120]})"
                continue
        if told["unexpected_keys"] or told.get("mismatched_keys"):
            failed = f"{kind.__name__} does not find {', '.join(sorted(map(str, told['unexpected_keys']))[:2]) or 'its shapes'} under these names"
            continue
        model.eval()
        name = f"transformers {transformers.__version__} {kind.__name__}"
        return _Own(
            name,
            lambda images, model=model: _caught(model, lambda x: _inputs(model, x, stage), images, stage),
        )
    raise UnprovedError(failed)


def _inner_prefixes(prefix: str) -> list[str]:
    """What of a prefix a class may have in its own names: nothing, the last part, the last two, ..."""
    parts = [part + "." for part in prefix.split(".") if part]
    return ["".join(parts[at:]) for at in range(len(parts), -1, -1)]


def _classes(config: Any, named: Any = None) -> list[Any]:
    """Classes of the library that are built from this configuration: a backbone that config.json names, then those that are whole models of images."""
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    from transformers import PreTrainedModel

    found = []
    for kind in vars(module).values():
        if not (inspect.isclass(kind) and issubclass(kind, PreTrainedModel) and kind is not PreTrainedModel):
            continue
        if getattr(kind, "config_class", None) is type(config) and not kind.__name__.endswith("PreTrainedModel"):
            found.append(kind)
    patterns = (r"Vision\w*Model$", r"Model$", r"Vision\w*$", r"Backbone$", r"Encoder$", "")
    backbones = [name for name in named or () if isinstance(name, str) and name.endswith("Backbone")]

    def place(kind: Any) -> tuple[bool, int]:
        first = next(number for number, pattern in enumerate(patterns) if re.search(pattern, kind.__name__))
        return kind.__name__ not in backbones, first  # a backbone may order its tokens otherwise than the model (Hiera)

    return sorted(found, key=place)[:6]


@contextlib.contextmanager
def _uninitialized() -> Iterator[None]:
    """Torch's initializations of fresh layers are left out: what the file does not fill is never reached."""
    import torch

    names = [name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    held = {name: getattr(torch.nn.init, name) for name in names}
    for name in names:
        setattr(torch.nn.init, name, lambda tensor, *arguments, **options: tensor)
    try:
        yield
    finally:
        for name, function in held.items():
            setattr(torch.nn.init, name, function)


_LISTS = ("layers", "layer", "blocks", "block", "stages", "resblocks", "transformers", "serial_blocks1", "transformer_encoder")


def _first_blocks(model: Any) -> Iterator[Any]:
    """The first entry of every list of blocks, the outermost first: of stages, of the blocks of the first stage, ..."""
    import torch

    for name, module in model.named_modules():
        inside = re.sub(r"(^|[.])0(?=[.]|$)", "", name)
        if re.search(r"[.]\d+([.]|$)", inside):
            continue  # in a later entry of some list
        if name.split(".")[-1] in _LISTS and isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential)) and len(module):
            first = module[0]
            while isinstance(first, (torch.nn.ModuleList, torch.nn.Sequential)) and len(first):
                first = first[0]
            yield first


class _CaughtError(Exception):
    """What enters the first block has been seen: nothing behind it is run."""


def _caught(model: Any, inputs: Callable[[Any], list[dict[str, Any]]], images: NDArray[Any], stage: Stage) -> NDArray[Any]:
    """What enters the first block, `(B, N, D)`: the outermost one that takes a sequence of the stage's width."""
    import torch

    failed = "has no list of blocks"
    forms = inputs(torch.from_numpy(images))
    for block in _first_blocks(model):
        width = stage.spec.embed_dim
        values = _entering(model, block, forms, width)
        if values is None:
            failed = "does not reach the first of its blocks"
            continue
        if values.ndim == 4 and values.shape[1] == width and values.shape[-1] != width:
            values = np.moveaxis(values, 1, -1)
        if values.ndim == 3 and values.shape[0] != len(images) and values.shape[1] == len(images):
            values = np.moveaxis(values, 1, 0)  # the sequence first, as torch's own attention has it
        if values.shape[-1] == width:
            return values.reshape(len(images), -1, width)
        failed = f"has a first block that takes {values.shape}, which is no sequence of width {width}"
    raise UnprovedError(f"{type(model).__name__} {failed}")


def _entering(model: Any, block: Any, forms: list[dict[str, Any]], width: int) -> NDArray[Any] | None:
    """What a block takes when a model is given images in the first form that it takes: of several tensors the first of the stage's width (CrossViT has
    two branches)."""
    import torch

    seen: list[Any] = []

    def catch(module: Any, arguments: Any, named: Mapping[str, Any]) -> None:
        given = [part for each in (*arguments, *named.values()) for part in (each if isinstance(each, list) else [each])]
        values = [each for each in given if isinstance(each, torch.Tensor)]
        fitting = [each for each in values if each.shape[-1] == width] or values
        seen.extend(each.detach() for each in fitting[:1])
        raise _CaughtError

    failures = []
    for form in forms:
        handle = block.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.no_grad(), contextlib.suppress(_CaughtError):
                model(**form)
            return seen[0].float().numpy() if seen else None
        except Exception as error:  # whatever a model makes of images in this form
            failures.append(f"{type(error).__name__}: {first_line(error)[:160]}")
        finally:
            handle.remove()
    raise UnprovedError(f"{type(model).__name__} does not take these images ({failures[0]})")


def _inputs(model: Any, images: Any, stage: Stage) -> list[dict[str, Any]]:
    """The images in the forms that a model may take them in, told by what its `forward` asks for."""
    import torch

    names = list(inspect.signature(model.forward).parameters)
    Ph, Pw = stage.spec.patch_size[-2:]
    if "target_sizes" in names and "pixel_values" in names:  # MiniCPM-V: patches side by side in one strip
        B, C, H, W = images.shape
        strip = images.reshape(B, C, H // Ph, Ph, W // Pw, Pw).permute(1, 3, 0, 2, 4, 5).reshape(1, C, Ph, -1)
        return [{"pixel_values": strip, "target_sizes": torch.tensor([[H // Ph, W // Pw]] * B)}]
    if "grid_thw" in names or "image_grid_thw" in names:
        return _flattened(names, images, stage)
    if "spatial_shapes" in names:
        B, C, H, W = images.shape
        patches = images.reshape(B, C, H // Ph, Ph, W // Pw, Pw).permute(0, 2, 4, 3, 5, 1).reshape(B, (H // Ph) * (W // Pw), -1)
        if stage.dialect.token_order == "merge-2x2":
            patches = patches[:, torch.from_numpy(merge_block_order((H // Ph, W // Pw)))]
        shapes = torch.tensor([[H // Ph, W // Pw]] * B)
        mask = torch.ones(patches.shape[:2], dtype=torch.int64)
        mask_name = "pixel_attention_mask" if "pixel_attention_mask" in names else "attention_mask"
        return [{"pixel_values": patches, mask_name: mask, "spatial_shapes": shapes}]
    if "input_values" in names:
        return [{"input_values": images[:, 0].transpose(1, 2)}]
    known = ("pixel_values", "pixel_values_videos", "x", "image", "images", "hidden_states")
    first = next((name for name in names if name in known), None)
    if first is None:
        raise UnprovedError(f"{type(model).__name__} takes {', '.join(names[:3])}, which is not known to be images")
    if stage.dialect.video:
        images = images.transpose(1, 2)
    told = {first: images}
    if "bool_masked_pos" not in names and "noise" in names:  # ViTMAE: nothing is masked, and nothing shuffled
        count = stage.spec.num_patches
        told["noise"] = torch.arange(count, dtype=torch.float32).expand(len(images), count)
        model.config.mask_ratio = 0.0
    forms = [told, {**told, first: images[:, None]}]  # some take a video alone
    if "(" in stage.dialect.entries["kernel"].layout and images.ndim == 4:  # or patches
        B, C, H, W = images.shape
        values = (3, 5, 1) if "Ph Pw C" in stage.dialect.entries["kernel"].layout else (1, 3, 5)
        cut = images.reshape(B, C, H // Ph, Ph, W // Pw, Pw).permute(0, 2, 4, *values)
        forms.append({**told, first: cut.reshape(B, (H // Ph) * (W // Pw), -1)})
    return forms


def _flattened(names: list[str], images: Any, stage: Stage) -> list[dict[str, Any]]:
    """Images cut and ordered as the image processors of Qwen-VL do, one behind the other."""
    import torch

    Ph, Pw = stage.spec.patch_size[-2:]
    video = images if images.ndim == 5 else images[:, :, None]
    B, C, T, H, W = video.shape
    Pt = stage.spec.patch_size[0] if stage.dialect.video else 1
    grid = (T // Pt, H // Ph, W // Pw)
    merge = 2 if stage.dialect.token_order == "merge-2x2" else 1
    cut = video.reshape(B, C, grid[0], Pt, grid[1] // merge, merge, Ph, grid[2] // merge, merge, Pw)
    values = (3, 6, 9, 1) if "Ph Pw C" in stage.dialect.entries["kernel"].layout else (1, 3, 6, 9)
    patches = cut.permute(0, 2, 4, 7, 5, 8, *values).reshape(B * math.prod(grid), -1)
    first = next(name for name in names if name not in ("self",))
    grid_name = "grid_thw" if "grid_thw" in names else "image_grid_thw"
    told = {first: patches, grid_name: torch.tensor([list(grid)] * B)}
    if "merge_sizes" in names:
        told["merge_sizes"] = torch.tensor([merge] * B)
    whole = patches.reshape(-1, C, Ph, Pw) if Pt == 1 and values[0] == 1 else patches
    return [told, {**told, first: whole}, {**told, first: whole[None]}]


def _timm(table: Mapping[str, Any], architecture: str, tensors: Mapping[str, NDArray[Any]], stage: Stage) -> _Own:
    import torch

    try:
        import timm
    except ImportError as error:
        raise UnprovedError(f"timm cannot be imported ({first_line(error)})") from None
    given = dict(table.get("model_args") or {})
    if not timm.is_model(architecture):
        raise UnprovedError(f"timm {timm.__version__} has no model {architecture!r}")
    model = None
    for fewer in ({"depth": 1}, {"depths": None}, {}):
        options = {name: value for name, value in {**given, **fewer}.items() if value is not None}
        try:
            with _uninitialized():
                model = timm.create_model(architecture, pretrained=False, **options)
            break
        except Exception as error:
            failed = error
    if model is None:
        raise failed
    missing = [name for name in tensors if name not in model.state_dict()]
    if missing:
        raise UnprovedError(f"{type(model).__name__} has no {missing[0]}")
    model.load_state_dict({name: torch.from_numpy(np.array(array, np.float32)) for name, array in tensors.items()}, strict=False)
    model.eval()
    name = f"timm {timm.__version__} {type(model).__name__} ({architecture})"
    return _Own(name, lambda images: _caught(model, lambda x: [{"x": x}], images, stage))


def _sizes(checkpoint: Checkpoint, stage: Stage) -> list[PatchEmbedSpec]:
    """The size that the configuration tells, where it has the stage's grid, else the stage's own; where no positions fix it, another one beside it."""
    own, config = stage.spec, known_of(checkpoint, None)
    keys = stage.dialect.config.get("image_size")
    told = numbers_at(config.table, keys, 2) if keys else config.image_size
    if told:
        whole = own.replace(image_size=(*own.image_size[:-2], *told[-2:]))
        own = whole if whole.grid == own.grid else own
    if stage.weights.positions is not None or stage.dialect.video:
        return [own]
    rows = 4 if stage.dialect.token_order == "merge-2x2" else 1
    larger = tuple(size + rows * step for size, step in zip(own.image_size, own.stride, strict=True))
    return [own, own.replace(image_size=larger)]


def _apart(own: _Own, stage: Stage, spec: PatchEmbedSpec) -> tuple[float, str]:
    """Relative rms difference of the library's sequence and ours on random images, as a multiple of what is allowed, and in words."""
    images = np.random.default_rng(0).standard_normal(spec.images_shape(BATCH)).astype(np.float32)
    observed = own.run(images).astype(np.float64)
    expected = embed_sequence(images.astype(np.float64), stage.weights.astype(np.float64), spec)
    if observed.shape != expected.shape:
        return (
            math.inf,
            f"{observed.shape[1]} tokens of an image of {'×'.join(map(str, spec.image_size))}, and not {expected.shape[1]}",
        )
    apart = float(np.linalg.norm(observed - expected)) / float(np.linalg.norm(expected) + 1e-300)
    ratio = apart / (ALLOWED * math.sqrt(spec.patch_values) * 2.0**-24)
    return ratio, f"{ratio:.3g} times what float32 arithmetic allows"
