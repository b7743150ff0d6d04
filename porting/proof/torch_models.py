"""The models of transformers and timm, fed with the tensors of a file, and caught where the first
block begins."""

import contextlib
import functools
import importlib
import inspect
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.sequence import merge_block_order
from ...reference.stem import features_of
from ..dialects.arguments import WIDTHS
from ..dialects.stage import Stage
from ..files.checkpoint import first_line
from ..files.safetensors_files import write_safetensors
from .own_model import (
    OtherModelError,
    OwnModel,
    UnprovedError,
    inner_prefixes,
    inner_table,
    part_without_place,
    reduced,
    require_all,
)


def transformers_model(
    table: Mapping[str, Any], model_type: str, tensors: Mapping[str, NDArray[Any]], stage: Stage
) -> OwnModel:
    """Build the model that a config.json names, with one layer, and let the library read the
    stage\'s tensors into it.

    Raises:
        UnprovedError: a model that the library does not have, or that does not take the tensors.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise UnprovedError(f"transformers {transformers.__version__} has no model {model_type!r}")
    inner = {name: value for name, value in inner_table(table).items() if name != "model_type"}
    config = CONFIG_MAPPING[model_type](**reduced(inner))
    vision = getattr(config, "vision_config", None)
    if vision is not None and not isinstance(vision, dict):
        config = vision
    failed, differs = "no class of it takes images", ""
    for kind, inside in (
        (kind, inside)
        for kind in _classes(config, table.get("architectures"))
        for inside in inner_prefixes(stage.candidate.prefix)
    ):
        named = {inside + name: array for name, array in tensors.items()}
        try:
            model, missed, other_shapes = _loaded(kind, config, named)
            # saved as what it is in another model
            if missed and all(f"{name}.weight" in model.state_dict() for name in missed):
                named = {
                    f"{name}.weight" if name in missed else name: array
                    for name, array in named.items()
                }
                model, missed, other_shapes = _loaded(kind, config, named)
        except Exception as error:
            failed = (
                f"{kind.__name__} does not take it ({type(error).__name__}: "
                f"{first_line(error)[:120]})"
            )
            continue
        if part := part_without_place(stage, inside, missed):
            differs = f"{kind.__name__} has no place for {part}, and the file has it"
            continue
        if missed:
            failed = f"{kind.__name__} does not find {', '.join(missed[:2])} under these names"
            continue
        name = f"transformers {transformers.__version__} {kind.__name__}"
        if other_shapes:
            if not any(key in table or key in inner for key in WIDTHS):
                raise UnprovedError(f"config.json tells no width, and {name} is of another one")
            differs = f"{name} has {next(iter(other_shapes.values()))}"
            continue
        require_all(stage, inside, (key for key, _ in model.named_parameters()), name)
        model.eval()
        if (
            hasattr(model, "make_preprocessor_external")
            and "pixel_std" not in stage.dialect.entries
        ):
            model.make_preprocessor_external()  # as the model that it is in does (Nemotron Omni)
        return OwnModel(
            name,
            functools.partial(_entering_first, model, stage=stage),
        )
    if differs:
        raise OtherModelError(differs)
    raise UnprovedError(failed)


def _loaded(
    kind: Any, config: Any, named: Mapping[str, NDArray[Any]]
) -> tuple[Any, list[str], dict[str, str]]:
    """A model of the library that it filled with these tensors, which of them it has no place for,
    and which it has in another shape, in words."""
    import torch

    with tempfile.TemporaryDirectory(prefix="patchparity-") as folder:
        held = {name: np.ascontiguousarray(array) for name, array in named.items()}
        write_safetensors(Path(folder) / "model.safetensors", held, {"format": "pt"})
        config.save_pretrained(folder)
        with uninitialized():
            model, loading_info = kind.from_pretrained(
                folder,
                config=config,
                output_loading_info=True,
                dtype=torch.float32,
                local_files_only=True,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,
            )
    other_shapes = {
        str(key): f"{key} of shape {tuple(of_model)}, and the file has {tuple(of_file)}"
        for key, of_file, of_model in loading_info.get("mismatched_keys") or ()
    }
    return model, sorted(map(str, loading_info["unexpected_keys"])), other_shapes


def _classes(config: Any, named: Any = None) -> list[Any]:
    """Classes of the library that are built from this configuration: a backbone that config.json
    names, then those that are whole models of images."""
    module = importlib.import_module(
        type(config).__module__.replace(".configuration_", ".modeling_")
    )
    from transformers import PreTrainedModel

    classes = []
    for kind in vars(module).values():
        if not (
            inspect.isclass(kind)
            and issubclass(kind, PreTrainedModel)
            and kind is not PreTrainedModel
        ):
            continue
        if getattr(kind, "config_class", None) is type(config) and not kind.__name__.endswith(
            "PreTrainedModel"
        ):
            classes.append(kind)
    patterns = (r"Vision\w*Model$", r"Model$", r"Vision\w*$", r"Backbone$", r"Encoder$", "")
    backbones = [
        name for name in named or () if isinstance(name, str) and name.endswith("Backbone")
    ]

    def place(kind: Any) -> tuple[bool, int]:
        first = next(
            number for number, pattern in enumerate(patterns) if re.search(pattern, kind.__name__)
        )
        # a backbone may order its tokens otherwise than the model (Hiera)
        return kind.__name__ not in backbones, first

    return sorted(classes, key=place)[:6]


@contextlib.contextmanager
def uninitialized() -> Iterator[None]:
    """Torch's initializations of fresh layers, and timm's, are left out: what the file does not
    fill is never reached."""
    import torch

    held: list[tuple[Any, str, Any]] = [
        (torch.nn.init, name, function)
        for name, function in vars(torch.nn.init).items()
        if name.endswith("_") and not name.startswith("_")
    ]
    of_timm = sys.modules.get("timm.layers.weight_init")
    if (function := getattr(of_timm, "_trunc_normal_", None)) is not None:
        held.append((of_timm, "_trunc_normal_", function))
    for module, name, _ in held:
        setattr(module, name, lambda tensor, *arguments, **options: tensor)
    try:
        yield
    finally:
        for module, name, function in held:
            setattr(module, name, function)


_LISTS = (
    "layers",
    "layer",
    "blocks",
    "block",
    "stages",
    "resblocks",
    "transformers",
    "serial_blocks1",
    "transformer_encoder",
    "network",
    "stage1",
)


def _first_blocks(model: Any) -> Iterator[Any]:
    """The first entry of every list of blocks, the outermost first: of stages, of the blocks of the
    first stage, ..."""
    import torch

    for name, module in model.named_modules():
        inside = re.sub(r"(^|[.])0(?=[.]|$)", "", name)
        if re.search(r"[.]\d+([.]|$)", inside):
            continue  # in a later entry of some list
        if (
            name.split(".")[-1] in _LISTS
            and isinstance(module, (torch.nn.ModuleList, torch.nn.Sequential))
            and len(module)
        ):
            first = module[0]
            while isinstance(first, (torch.nn.ModuleList, torch.nn.Sequential)) and len(first):
                first = first[0]
            yield first


class _CaughtError(Exception):
    """What enters the first block has been seen: nothing behind it is run."""


def _caught(
    model: Any, inputs: Callable[[Any], list[dict[str, Any]]], images: NDArray[Any], stage: Stage
) -> NDArray[Any]:
    """What enters the first block, `(B, N, D)`: the outermost one that takes a sequence of the
    stage's width."""
    import torch

    failed = "has no list of blocks"
    forms = inputs(torch.from_numpy(images))
    for block in _first_blocks(model):
        width = stage.spec.embed_dim
        values = _entering(model, block, forms, width)
        if values is None:
            failed = "does not reach the first of its blocks"
            continue
        if values.ndim == 4 and values.shape[1] == width:
            values = _channels_last(values, images, stage)
        if values.ndim == 3 and values.shape[0] != len(images) and values.shape[1] == len(images):
            # the sequence first, as torch's own attention has it
            values = np.moveaxis(values, 1, 0)
        if values.shape[-1] == width:
            return values.reshape(len(images), -1, width)
        failed = (
            f"has a first block that takes {values.shape}, which is no sequence of width {width}"
        )
    raise UnprovedError(f"{type(model).__name__} {failed}")


def _channels_last(values: NDArray[Any], images: NDArray[Any], stage: Stage) -> NDArray[Any]:
    """A map `(B, D, rows, columns)` with its width behind; where the grid is as large as the width
    both readings are possible, and the nearer one to ours is right, or neither."""
    moved = np.moveaxis(values, 1, -1)
    if values.shape[-1] != values.shape[1]:
        return moved
    spec = stage.spec.replace(image_size=features_of(images.shape[2:], stage.stem))
    ours = stage.sequence(images, spec)
    if ours.size != values.size:
        return moved
    apart = [
        float(np.linalg.norm(reading.reshape(ours.shape) - ours)) for reading in (moved, values)
    ]
    return moved if apart[0] <= apart[1] else values


def _entering_first(model: Any, images: NDArray[Any], stage: Stage) -> NDArray[Any]:
    """What enters the first block of a model of transformers."""
    return _caught(model, lambda x: _inputs(model, x, stage), images, stage)


def _entering(
    model: Any, block: Any, forms: list[dict[str, Any]], width: int
) -> NDArray[Any] | None:
    """What a block takes when a model is given images in the first form that it takes: of several
    tensors the first of the stage's width (CrossViT has two branches)."""
    import torch

    seen: list[Any] = []

    def catch(module: Any, arguments: Any, named: Mapping[str, Any]) -> None:
        given = [
            part
            for argument in (*arguments, *named.values())
            for part in (argument if isinstance(argument, list) else [argument])
        ]
        values = [part for part in given if isinstance(part, torch.Tensor)]
        fitting = [tensor for tensor in values if tensor.shape[-1] == width] or values
        seen.extend(tensor.detach() for tensor in fitting[:1])
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
    """The images in the forms that a model may take them in, told by what its `forward` asks
    for."""
    names = list(inspect.signature(model.forward).parameters)
    form = _form_of_patches(names, images, stage)
    if form is not None:
        return [form]
    if "grid_thw" in names or "image_grid_thw" in names:
        return _flattened(names, images, stage)
    known = ("pixel_values", "pixel_values_videos", "x", "image", "images", "hidden_states")
    first = next((name for name in names if name in known), None)
    if first is None:
        raise UnprovedError(
            f"{type(model).__name__} takes {', '.join(names[:3])}, which is not known to be images"
        )
    return _forms_of_images(model, names, first, images, stage)


def _form_of_patches(names: Sequence[str], images: Any, stage: Stage) -> dict[str, Any] | None:
    """Images as a model takes them that does not take them as they are: by patches, in a strip, by
    frequency and time; None for all others."""
    import torch

    Ph, Pw = stage.spec.patch_size[-2:]
    B, C, H, W = images.shape if images.ndim == 4 else (len(images), 1, Ph, Pw)
    rows, columns = H // Ph, W // Pw
    if "target_sizes" in names and "pixel_values" in names:  # MiniCPM-V: patches in one strip
        strip = images.reshape(B, C, rows, Ph, columns, Pw).permute(1, 3, 0, 2, 4, 5)
        sizes = torch.tensor([[rows, columns]] * B)
        return {"pixel_values": strip.reshape(1, C, Ph, -1), "target_sizes": sizes}
    if stage.dialect.id.startswith("hf-inkling2"):  # blocks of 2×2 patches, counted as one
        blocks = _cut(images, 2 * Ph, 2 * Pw).reshape(-1, 2 * Ph, 2 * Pw, C)
        counts = torch.tensor([[1, H // (2 * Ph), W // (2 * Pw)]] * B)
        return {"pixel_values": blocks, "image_grid_thw": counts}
    if "spatial_shapes" in names:  # SigLIP 2
        patches = _cut(images, Ph, Pw)
        if stage.dialect.token_order == "merge-2x2":
            patches = patches[:, torch.from_numpy(merge_block_order((rows, columns)))]
        mask = torch.ones(patches.shape[:2], dtype=torch.int64)
        mask_name = "pixel_attention_mask" if "pixel_attention_mask" in names else "attention_mask"
        shapes = torch.tensor([[rows, columns]] * B)
        return {"pixel_values": patches, mask_name: mask, "spatial_shapes": shapes}
    if "pixel_position_ids" in names:  # Gemma 4: patches with their columns and rows
        places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(-1)
        return {
            "pixel_values": _cut(images, Ph, Pw),
            "pixel_position_ids": places.expand(B, -1, -1),
        }
    if "flattened_patches" in names:  # Pix2Struct: patches behind their rows and columns, from 1
        places = torch.cartesian_prod(*(torch.arange(1, count + 1) for count in (rows, columns)))
        patches = _cut(images, Ph, Pw)
        placed = places.to(patches.dtype).expand(B, -1, -1)
        return {"flattened_patches": torch.cat([placed, patches], dim=-1)}
    if "input_values" in names:  # AST: mel bins and time exchanged
        return {"input_values": images[:, 0].transpose(1, 2)}
    return None


def _cut(images: Any, rows: int, columns: int, channels_last: bool = True) -> Any:
    """Patches `(B, N, rows·columns·C)` of images, with the channels last in each or first."""
    B, C, H, W = images.shape
    values = (3, 5, 1) if channels_last else (1, 3, 5)
    cut = images.reshape(B, C, H // rows, rows, W // columns, columns).permute(0, 2, 4, *values)
    return cut.reshape(B, (H // rows) * (W // columns), -1)


def _forms_of_images(
    model: Any, names: Sequence[str], first: str, images: Any, stage: Stage
) -> list[dict[str, Any]]:
    """Images, or videos, as they are; behind them the forms that some take instead."""
    import torch

    if stage.dialect.video:
        images = images.transpose(1, 2)
    form = {first: images}
    # ViTMAE: nothing is masked, and nothing shuffled
    if "bool_masked_pos" not in names and "noise" in names:
        count = stage.spec.num_patches
        form["noise"] = torch.arange(count, dtype=torch.float32).expand(len(images), count)
        model.config.mask_ratio = 0.0
    forms = [form, {**form, first: images[:, None]}]  # some take a video alone
    layout = stage.dialect.entries["kernel"].layout
    if "(" in layout and images.ndim == 4:  # or patches
        Ph, Pw = stage.spec.patch_size[-2:]
        patches = _cut(images, Ph, Pw, channels_last="Ph Pw C" in layout)
        forms.append({**form, first: patches})
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
    layout = stage.dialect.entries["kernel"].layout
    values = (
        (3, 6, 9, 1) if "Ph Pw C" in layout else (3, 1, 6, 9) if "Pt C" in layout else (1, 3, 6, 9)
    )
    patches = cut.permute(0, 2, 4, 7, 5, 8, *values).reshape(B * math.prod(grid), -1)
    first = next(name for name in names if name not in ("self",))
    grid_name = "grid_thw" if "grid_thw" in names else "image_grid_thw"
    form = {first: patches, grid_name: torch.tensor([list(grid)] * B)}
    if "merge_sizes" in names:
        form["merge_sizes"] = torch.tensor([merge] * B)
    whole = patches.reshape(-1, C, Ph, Pw) if Pt == 1 and values[0] == 1 else patches
    return [form, {**form, first: whole}, {**form, first: whole[None]}]


def timm_model(
    table: Mapping[str, Any], architecture: str, tensors: Mapping[str, NDArray[Any]], stage: Stage
) -> OwnModel:
    """Build the model that a config.json names, with one layer, and let the library read the
    stage\'s tensors into it.

    Raises:
        UnprovedError: a model that the library does not have, or that does not take the tensors.
    """
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
            with uninitialized():
                model = timm.create_model(architecture, pretrained=False, **options)
            # a depth may leave the first stage without any
            if next(_first_blocks(model), None) is not None:
                break
        except Exception as error:
            failed = error
    if model is None:
        raise failed
    own_shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    own_names = own_shapes.keys()
    inside = next(
        (
            prefix
            for prefix in inner_prefixes(stage.candidate.prefix)
            if all(prefix + name in own_names for name in tensors)
        ),
        None,
    )
    if inside is None:
        for before in inner_prefixes(stage.candidate.prefix):
            missed = (before + name for name in tensors if before + name not in own_names)
            if part := part_without_place(stage, before, missed):
                raise OtherModelError(
                    f"{type(model).__name__} ({architecture}) has no place for {part}, and the "
                    "file has it"
                )
        raise UnprovedError(
            f"{type(model).__name__} has no "
            f"{next(name for name in tensors if name not in own_names)}"
        )
    filled = {
        inside + name: torch.from_numpy(np.array(array, np.float32))
        for name, array in tensors.items()
    }
    name = f"timm {timm.__version__} {type(model).__name__} ({architecture})"
    for key, tensor in filled.items():
        if tensor.shape != own_shapes[key]:
            raise OtherModelError(
                f"{name} has {key} of shape {tuple(own_shapes[key])}, and the file has "
                f"{tuple(tensor.shape)}"
            )
    require_all(stage, inside, (key for key, _ in model.named_parameters()), name)
    model.load_state_dict(filled, strict=False)
    model.eval()
    return OwnModel(name, lambda images: _caught(model, lambda x: [{"x": x}], images, stage))
