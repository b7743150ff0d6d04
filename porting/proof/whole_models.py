"""The whole models of libraries, built by their own loaders from a configuration and weights, for a
proof.

Laws: nothing of a file is run and nothing is fetched; only classes of the installed library are
built; what cannot be built is said and is no pass.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.checkpoint import first_line
from ..files.orbax_folders import items_of
from ..files.shards import INDEX_SUFFIX
from .own_model import OtherModelError, UnprovedError, require_modest

WEIGHTS = {
    "safetensors": "model.safetensors",
    "torch": "pytorch_model.bin",
    "h5": "model.weights.h5",
}
"""What transformers and KerasHub call the weights in a folder, by format."""


@dataclass(frozen=True, eq=False)
class LibraryModel:
    """A library's own model.

    Args:
        name: library, version and class.
        model: the live object.
        lacks: names of its parameters that the file has not, and which are therefore random.
    """

    name: str
    model: Any
    lacks: tuple[str, ...] = ()


def library_model(
    name: str, weights: Path, kind: str, table: Mapping[str, Any], complete: bool
) -> LibraryModel:
    """Let a library build its model and read a file into it.

    Args:
        name: of the class, its library first.
        weights: the file, or the index of shards.
        kind: its format.
        table: its whole configuration.
        complete: whether every parameter must be in the file.

    Raises:
        UnprovedError: a library that is not installed or does not build it.
        OtherModelError: weights that are not those of the model that the configuration tells.
    """
    library = name.split()[0]
    builder = BUILDERS.get(library)
    if builder is None:
        raise UnprovedError(f"{name} is not run here: {library} is no package of the tests")
    if "auto_map" in json.dumps(table):
        raise UnprovedError(
            "its configuration names code of its own (auto_map), which is never run"
        )
    require_modest(table)
    for module in MODULES[library]:
        if importlib.util.find_spec(module) is None:
            raise UnprovedError(f"{module} is not installed")
    try:
        with _folder(weights, kind, table) as folder:
            return builder(name, folder, table, complete)
    except (UnprovedError, OtherModelError):
        raise
    except (Exception, SystemExit) as error:  # whatever a library makes of a configuration
        told = f"{library} does not build it ({type(error).__name__}: {first_line(error)[:240]})"
        if isinstance(error, ModuleNotFoundError):
            raise UnprovedError(
                f"{library} needs {error.name or 'more'}, which is not installed"
            ) from None
        if isinstance(error, ImportError):
            raise UnprovedError(f"{library} is not imported: {first_line(error)[:240]}") from None
        if complete:
            raise OtherModelError(told) from None  # of what is written, that is no way out
        raise UnprovedError(told) from None


@contextlib.contextmanager
def _folder(weights: Path, kind: str, table: Mapping[str, Any]) -> Iterator[Path]:
    """A folder with a configuration, and links to weights under their usual names."""
    with tempfile.TemporaryDirectory(prefix="patchparity-") as made:
        folder = Path(made)
        (folder / "config.json").write_text(json.dumps(table), encoding="utf-8")
        if weights.name.endswith(INDEX_SUFFIX):
            index = json.loads(weights.read_text(encoding="utf-8"))
            os.symlink(weights.resolve(), folder / "model.safetensors.index.json")
            for shard in set(index["weight_map"].values()):
                os.symlink((weights.parent / shard).resolve(), folder / shard)
        else:
            os.symlink(weights.resolve(), folder / WEIGHTS.get(kind, weights.name))
        metadata = {"keras_version": "3.0.0", "keras_hub_version": "0.0.0", "tasks": []}
        (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
        yield folder


def _transformers(
    name: str, folder: Path, table: Mapping[str, Any], complete: bool
) -> LibraryModel:
    import torch
    import transformers

    named = table.get("architectures")
    wanted = named[0] if isinstance(named, list) and named else ""
    found = getattr(transformers, str(wanted), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UnprovedError(f"transformers {transformers.__version__} has no class {wanted!r}")
    kind: Any = found
    options: dict[str, Any] = {"add_pooling_layer": False} if "without pooler" in name else {}
    model, loading = kind.from_pretrained(
        folder,
        output_loading_info=True,
        dtype=torch.float32,
        local_files_only=True,
        attn_implementation="eager",
        **options,
    )
    told = f"transformers {transformers.__version__} {wanted}"
    if loading.get("mismatched_keys"):
        key, *shapes = next(iter(loading["mismatched_keys"]))
        raise OtherModelError(f"{told} has {key} of another shape ({shapes})")
    missing = tuple(sorted(map(str, loading["missing_keys"])))
    if complete and missing:
        raise OtherModelError(f"{told} has {missing[0]}, which is not in the file")
    if complete and (spare := sorted(map(str, loading["unexpected_keys"]))):
        raise OtherModelError(f"{told} has no place for {spare[0]}")
    return LibraryModel(told, model.eval(), missing)


def _timm(name: str, folder: Path, table: Mapping[str, Any], complete: bool) -> LibraryModel:
    import timm

    if not any((folder / name).exists() for name in ("model.safetensors", "pytorch_model.bin")):
        os.symlink(
            next(path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")),
            folder / "pytorch_model.bin",
        )
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return LibraryModel(f"timm {timm.__version__} {type(model).__name__}", model.eval())


def _arguments(modules: Mapping[str, str]) -> Callable[..., LibraryModel]:
    """The builder of classes that take arguments, by the modules that they are in."""

    def build(name: str, folder: Path, table: Mapping[str, Any], complete: bool) -> LibraryModel:
        import torch

        kind = table["class_name"]
        module = modules[kind]
        held = getattr(importlib.import_module(module), kind)
        model = held(**_arguments_in(table))
        weights = next(path for path in folder.iterdir() if path.suffix not in (".json",))
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(weights)
        else:
            tensors = torch.load(weights, map_location="cpu", weights_only=True)
        missing, spare = model.load_state_dict(tensors, strict=False)
        package = module.split(".")[0].replace("_", "-")
        told = f"{package} {importlib.metadata.version(package)} {kind}"
        if complete and (missing or spare):
            what = f"has {missing[0]}, which is not in the file" if missing else ""
            raise OtherModelError(f"{told} {what or f'has no place for {spare[0]}'}")
        return LibraryModel(told, model.eval(), tuple(missing))

    return build


def _arguments_in(table: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a class, as a configuration of ours has them."""
    given = table.get("arguments")
    if not isinstance(given, dict):
        raise UnprovedError(f"config.json has no arguments for {table['class_name']}")
    return given


def _keras_hub(name: str, folder: Path, table: Mapping[str, Any], complete: bool) -> LibraryModel:
    import keras
    import keras_hub

    keras.backend.clear_session()
    if "ImageClassifier" in name:
        model = _keras_classifier(keras_hub.models, table, folder)
    else:
        model = keras_hub.models.Backbone.from_preset(str(folder))
    version = importlib.metadata.version("keras-hub")
    return LibraryModel(f"KerasHub {version} {type(model).__name__}", model)


def _keras_classifier(models: Any, table: Mapping[str, Any], folder: Path) -> Any:
    """A ViTImageClassifier of the arguments in its configuration; no class that this names is
    built."""
    told = table["config"]
    inner = told["backbone"]["config"]
    arguments = {key: inner[key] for key in KERAS_VIT if key in inner}
    backbone = models.ViTBackbone(**arguments)
    ends = {key: told[key] for key in ("num_classes", "pooling", "intermediate_dim") if key in told}
    model = models.ViTImageClassifier(backbone, **ends)
    model.optimizer = None  # made when it is built, and of no state in the file
    model.load_weights(folder / WEIGHTS["h5"])
    return model


KERAS_VIT = (
    "image_shape",
    "patch_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "mlp_dim",
    "layer_norm_epsilon",
    "use_mha_bias",
    "use_mlp_bias",
    "use_class_token",
    "use_patch_bias",
)
"""Arguments of KerasHub's ViTBackbone that decide what it computes when it does not train."""


def _nnx(name: str, folder: Path, table: Mapping[str, Any], complete: bool) -> LibraryModel:
    """vitax's class, which is that of Flax's documentation, with what Orbax restores."""
    import orbax.checkpoint
    from flax import nnx

    kind = _file_of("vitax", "models/vit.py").VisionTransformer
    model = kind(**_arguments_in(table), fsdp=False, rngs=nnx.Rngs(0))
    told = f"vitax {importlib.metadata.version('vitax')} {kind.__name__}"
    if "without its classifier" in name:
        model.classifier = _same
    items, _ = items_of(next(path for path in folder.iterdir() if path.is_dir()))
    if len(items) != 1:
        raise UnprovedError(f"it holds several trees, {', '.join(items)}")
    (place,) = items.values()
    held = _parameters(orbax.checkpoint.PyTreeCheckpointer().restore(place.resolve()))
    wanted = {
        "/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    found = {"/".join(path) for path in nnx.traversals.flatten_mapping(held)}
    if spare := sorted(found - wanted):
        raise OtherModelError(f"{told} has no place for {spare[0]}")
    missing = tuple(sorted(wanted - found))
    if complete and missing:
        raise OtherModelError(f"{told} has {missing[0]}, which is not in the file")
    nnx.update(model, nnx.restore_int_paths(held))
    return LibraryModel(told, model, missing)


def _file_of(package: str, name: str) -> Any:
    """One file of a package as a module, without what the package imports beside it: vitax's needs
    transformers 4."""
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.submodule_search_locations
    path = Path(next(iter(found.submodule_search_locations)), name)
    spec = importlib.util.spec_from_file_location(f"{package}.{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _same(tokens: Any) -> Any:
    return tokens


def _parameters(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree as Orbax restores it, without nnx.State's further key and the seeds of dropout."""
    held: dict[str, Any] = {}
    for key, inner in tree.items():
        if key == "rngs":
            continue
        if isinstance(inner, Mapping):
            inner = inner["value"] if set(inner) == {"value"} else _parameters(inner)
        if not isinstance(inner, Mapping) or inner:
            held[key] = inner
    return held


BUILDERS: Mapping[str, Callable[..., LibraryModel]] = {
    "transformers": _transformers,
    "timm": _timm,
    "torchvision": _arguments({"VisionTransformer": "torchvision.models.vision_transformer"}),
    "vit-pytorch": _arguments({"ViT": "vit_pytorch.vit", "SimpleViT": "vit_pytorch.simple_vit"}),
    "KerasHub": _keras_hub,
    "Flax": _nnx,
}
"""How each library builds a model, by the first word of its classes' names."""

MODULES: Mapping[str, tuple[str, ...]] = {
    "transformers": ("torch", "transformers"),
    "timm": ("torch", "timm"),
    "torchvision": ("torch", "torchvision"),
    "vit-pytorch": ("torch", "vit_pytorch"),
    "KerasHub": ("keras", "keras_hub"),
    "Flax": ("flax", "orbax", "vitax"),
}
"""What must be installed for that."""
