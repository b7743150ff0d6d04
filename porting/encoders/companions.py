"""The files that a library wants beside the weights of a model."""

import json
import math
import time
from collections.abc import Mapping
from typing import Any

from ..files.streamed import Lazy
from .layout import EncoderModel
from .templates import configuration


def companions_of(
    model: EncoderModel, facts: Mapping[str, Any], tensors: Mapping[str, Lazy]
) -> dict[str, bytes]:
    """The files by name: the configuration, and what else its library wants.

    Raises:
        PatchParityError: a fact that nothing tells.
    """
    held: dict[str, Any] = {}
    if model.file:
        held[model.file] = configuration(model, facts)
    for name in model.beside:
        held[name] = {
            "keras_version": "3.0.0",
            "keras_hub_version": "0.32.0",
            "parameter_count": sum(math.prod(lazy.shape) for lazy in tensors.values()),
            "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S"),
            "tasks": [],
        }
    return {name: (json.dumps(table, indent=2) + "\n").encode() for name, table in held.items()}
