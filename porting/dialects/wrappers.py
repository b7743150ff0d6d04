"""Names that a wrapper of torch has put something into: unwrapped where that is exact, so that a
dialect is found."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ..files.checkpoint import Checkpoint
from .quantized import dequantized

WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|module|_module|base_layer|parametrizations)\."
)
"""Parts of a name that torch.compile, activation checkpointing, FSDP, DataParallel, Opacus and PEFT
put into it, and that change no value. (One in front of all names is a prefix like any other.)"""

SAVED = re.compile(r"\.modules_to_save\.([^.]+)")
"""PEFT's copy of a module that was trained whole; `original_module` beside it is the one that is no
longer used."""

LORA = re.compile(
    r"(.*?)\.?(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_w\d_[ab]|lokr_w\d|vera_lambda_[bd])(\.[^.]+)?(\.weight)?$"
)
"""Tensors of an adapter: the weight that is used is the sum of its product and the layer's own."""


class UnwrappedCheckpoint(Checkpoint):
    """A checkpoint whose tensors go by the names that they have without wrappers."""

    def __init__(self, wrapped: Checkpoint, names: Mapping[str, str]) -> None:
        super().__init__(wrapped.path)
        self.wrapped, self.names, self.format = wrapped, dict(names), wrapped.format
        self.tensors = {name: wrapped.tensors[real] for name, real in names.items()}
        self.metadata, self.unbuilt = wrapped.metadata, wrapped.unbuilt
        self.own_config = wrapped.own_config
        self.told = {
            name: wrapped.told[real] for name, real in names.items() if real in wrapped.told
        }

    @property
    def config_folder(self) -> Any:
        """That of the file."""
        return self.wrapped.config_folder

    @property
    def config_name(self) -> str:
        """That of the file."""
        return self.wrapped.config_name

    @property
    def files(self) -> Any:
        """Those of the file."""
        return self.wrapped.files

    def against(
        self,
        names: Mapping[str, str],
        steps: tuple[tuple[int, ...], tuple[int, ...]],
        normalizes: bool,
    ) -> Iterator[str]:
        """What the file says."""
        real_names = {role: self.names[name] for role, name in names.items()}
        return self.wrapped.against(real_names, steps, normalizes)

    def place_of(self, name: str) -> tuple[Path, int] | None:
        """That of the file."""
        return self.wrapped.place_of(self.names[name]) if name in self.names else None

    def read_row(self, name: str, row: int) -> NDArray[Any]:
        """That of the file."""
        return self.wrapped.read_row(self.names[name], row)

    def _read(self, name: str) -> NDArray[Any]:
        return self.wrapped.read(self.names[name])


def unwrapped(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint under plain names, or as it is where no name is wrapped, or where two
    would become one.

    Raises:
        PatchParityError: an adapter (LoRA) on a layer of the embedding stage: its weight is not in
            the file.
    """
    if checkpoint.kept_as == "graph":  # names there say nothing
        return checkpoint
    checkpoint = dequantized(checkpoint)
    real_names: dict[str, str] = {}
    for name in checkpoint.tensors:
        if ".original_module." in name:
            continue
        plain = WRAPPERS.sub(
            lambda match: match[0] if match.start() == 0 else "", SAVED.sub("", name)
        )
        if plain in real_names:
            return checkpoint
        real_names[plain] = name
    if all(plain == name for plain, name in real_names.items()) and len(real_names) == len(
        checkpoint.tensors
    ):
        return checkpoint
    return UnwrappedCheckpoint(checkpoint, real_names)


def require_no_adapter(checkpoint: Checkpoint, names: Mapping[str, str]) -> None:
    """Raise PatchParityError where an adapter lies on a tensor of the stage."""
    layers = {re.sub(r"[./]?[^./]+$", "", name) for name in names.values()}
    for tensor in checkpoint.tensors:
        if (match := LORA.match(tensor)) and match[1] in layers:
            raise PatchParityError(
                f"{checkpoint.path}: {tensor} is an adapter on {match[1]}, which its weight alone "
                "does not hold: merge it first (merge_and_unload)"
            )
