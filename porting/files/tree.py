"""Trees of parameters in memory, read as files are: a state dict of torch, Flax's parameters, an
`nnx.State`, plain dictionaries of arrays."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import Checkpoint, TensorInfo, dtype_of

IN_MEMORY = "memory"
"""The format of what is in no file: any dialect may be kept in it."""


class TreeCheckpoint(Checkpoint):
    """A mapping of arrays, maybe of further mappings, whose names are then joined by `/`; leaves
    that are no arrays are passed over."""

    format = IN_MEMORY

    def __init__(self, tree: Mapping[Any, Any]) -> None:
        super().__init__(Path(f"the {type(tree).__name__}"))
        try:
            self.leaves = dict(_leaves(tree, ()))
        except RecursionError:
            raise PatchParityError(
                f"{self.path} holds mappings within one another without end"
            ) from None
        if any(type(leaf).__module__.startswith("torch") for leaf in self.leaves.values()):
            self.metadata["format"] = "pt"
        for name, leaf in self.leaves.items():
            self.tensors[name] = TensorInfo(
                tuple(leaf.shape), str(leaf.dtype).removeprefix("torch.")
            )

    @property
    def config_folder(self) -> None:
        """Nowhere."""
        return

    def _read(self, name: str) -> NDArray[Any]:
        leaf = self.leaves[name]
        if hasattr(leaf, "detach"):
            from ...backends.torch.adapter import as_array

            return np.array(as_array(leaf))
        return np.array(leaf)


def _leaves(tree: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Names and arrays; what wraps an array (a variable of nnx) is opened."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        elif _is_array(held := value[...] if hasattr(value, "get_value") else value):
            yield "/".join((*path, str(key))), held


def _is_array(value: Any) -> bool:
    """Whether it has a shape, and a type that NumPy has too."""
    try:
        dtype_of(str(value.dtype).removeprefix("torch."))
    except (AttributeError, TypeError):
        return False
    return hasattr(value, "shape")
