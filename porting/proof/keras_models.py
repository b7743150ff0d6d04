"""KerasHub's models, fed with the tensors of a file, and caught where the first block begins."""

import functools
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dialects.sizes import KERAS_HUB, keras_table
from ..dialects.stage import Stage
from ..files.checkpoint import first_line
from ..files.h5_client import h5_names, h5_write
from .own_model import OwnModel, UnprovedError, inner_prefixes, reduced

BLOCKS = re.compile(r"(Encoder|EncoderLayer|EncoderBlock|Block|TransformerLayer|Stage)$")
"""Classes of KerasHub's blocks, and of what holds all of them, by how their names end."""


class _CaughtError(Exception):
    """What enters the first block has been seen: nothing behind it is run."""


def keras_hub_model(
    table: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], stage: Stage
) -> OwnModel:
    """Build the model of KerasHub that a configuration names, with one layer, and let KerasHub's
    own loader read the stage's tensors into it.

    Args:
        table: as Keras writes it: `registered_name`, `config`.
        tensors: by the names that they have behind the stage's prefix.
        stage: how they were read.

    Raises:
        UnprovedError: a class that is not KerasHub's; one that does not take the configuration or
            these tensors.
    """
    import keras
    import keras_hub

    registered, given = keras_table(table)
    kind = keras.saving.get_registered_object(registered)
    if kind is None or not kind.__module__.startswith("keras_hub."):
        import importlib.metadata

        raise UnprovedError(
            f"KerasHub {importlib.metadata.version('keras-hub')} has no class "
            f"{registered.removeprefix(KERAS_HUB)}"
        )
    given = {
        name: value for name, value in given.items() if name not in ("dtype", "name", "trainable")
    }
    failed = ""
    for options in (reduced(given), given):
        keras.backend.clear_session()  # names of layers begin anew, as in a file of one model
        try:
            model = kind.from_config({**options, "dtype": "float32"})
        except Exception as error:  # whatever it makes of a configuration
            failed = (
                f"{kind.__name__} does not take it ({type(error).__name__}: "
                f"{first_line(error)[:120]})"
            )
            continue
        if _loaded(model, tensors, stage.candidate.prefix):
            name = f"KerasHub {keras_hub.__version__} {kind.__name__}"
            return OwnModel(name, functools.partial(_caught, model, stage=stage))
        failed = f"{kind.__name__} has no place of that shape for {next(iter(tensors))}"
    raise UnprovedError(failed)


def _loaded(model: Any, tensors: Mapping[str, NDArray[Any]], prefix: str) -> bool:
    """Have the model read a file of its own in which the stage's tensors stand; whether it has
    places for them."""
    with tempfile.TemporaryDirectory(prefix="patchparity-") as folder:
        file = Path(folder) / "model.weights.h5"
        model.save_weights(os.fspath(file))
        held = h5_names(file)
        for inside in inner_prefixes(prefix, "/"):
            named = {inside + name: array for name, array in tensors.items()}
            if all(name in held and held[name][0] == array.shape for name, array in named.items()):
                h5_write(file, {name: array.astype(held[name][1]) for name, array in named.items()})
                model.load_weights(os.fspath(file))
                return True
    return False


def _caught(model: Any, images: NDArray[Any], stage: Stage) -> NDArray[Any]:
    """What enters the first block, `(B, N, D)`."""
    import keras

    width, seen = stage.spec.embed_dim, []
    patched = []

    def watch(layer: Any) -> None:
        call = layer.call

        def caught(*arguments: Any, **named: Any) -> Any:
            first = next(iter((*arguments, *named.values())), None)
            if len(getattr(first, "shape", ())) in (3, 4) and first.shape[-1] == width:  # type: ignore[union-attr]
                seen.append(np.asarray(keras.ops.convert_to_numpy(first)))
                raise _CaughtError
            return call(*arguments, **named)

        object.__setattr__(layer, "call", caught)
        patched.append(layer)

    for layer in model._flatten_layers(include_self=False):
        if BLOCKS.search(type(layer).__name__):
            watch(layer)
    last = (
        model.inputs[0].shape[-1] == stage.spec.in_channels
        if getattr(model, "inputs", None)
        else True
    )
    try:
        model(np.moveaxis(images, 1, -1) if last else images)
    except _CaughtError:
        pass
    except Exception as error:  # whatever a model makes of images of this size
        raise UnprovedError(
            f"{type(model).__name__} does not take these images ({type(error).__name__}: "
            f"{first_line(error)[:160]})"
        ) from None
    finally:
        for layer in patched:
            object.__delattr__(layer, "call")
    if not seen:
        raise UnprovedError(f"{type(model).__name__} does not reach the first of its blocks")
    return seen[0].astype(np.float32).reshape(len(images), -1, width)
