"""Keras: `.weights.h5`, the same within a `.keras` archive, and a whole model in one `.h5`."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .archives import require_whole
from .checkpoint import (
    COPIED_BYTES,
    EXPANSION,
    LARGEST_TENSOR,
    SMALL,
    Checkpoint,
    TensorInfo,
    Tensors,
    copy_bytes,
    dtype_of,
    first_line,
)
from .h5_client import H5Error, h5_add, h5_config, h5_create, h5_names, h5_read, h5_write
from .lazy import Feed

LARGEST_CONFIG = 2**22
"""Bytes of a `config.json`: that of a model of a thousand layers has 2 MB."""


WHOLE_MODEL = "model_weights/"
"""The group of the weights of a whole model in one `.h5`."""


class H5Checkpoint(Checkpoint):
    """HDF5, as Keras writes weights; a tensor's name is its path. Keras keeps positions there, not
    names: `layers/conv2d/vars/0`. Keras before 3, and transformers 4, keep names, and a whole model
    how it is built (keras/src/legacy/saving/legacy_h5_format.py)."""

    format = "h5"

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(path)
        self.source = source
        try:
            self.tensors = {
                name: TensorInfo(*shape_and_dtype)
                for name, shape_and_dtype in h5_names(source).items()
            }
            whole = any(name.startswith(WHOLE_MODEL) for name in self.tensors)
            config = h5_config(source) if whole else ""
        except H5Error as error:
            raise self.damaged(first_line(error)) from None
        try:
            told = json.loads(config) if config else {}
        except (ValueError, RecursionError) as error:
            raise self.damaged(f"its model_config is no JSON ({first_line(error)})") from None
        self.own_config = told if isinstance(told, dict) else {}

    def _read(self, name: str) -> NDArray[Any]:
        nbytes = self.tensors[name].nbytes
        self.require_room(name, nbytes)
        try:
            array = h5_read(self.source, name, nbytes)
        except H5Error as error:
            raise self.damaged(f"{name} cannot be read ({first_line(error)})") from None
        if self.tensors[name].dtype == "bfloat16":
            return (
                array.view(ml_dtypes.bfloat16)
                if array.dtype.itemsize == 2
                else array.astype(ml_dtypes.bfloat16)
            )
        return array


class KerasCheckpoint(H5Checkpoint):
    """A `.keras` archive: its `model.weights.h5`, unpacked into a temporary file."""

    format = "keras"

    def __init__(self, path: Path) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="patchparity-")
        try:
            with zipfile.ZipFile(path) as archive:
                entry = archive.getinfo("model.weights.h5")
                require_whole(archive, path)
                if (
                    entry.file_size > LARGEST_TENSOR * 16
                    or entry.file_size > EXPANSION * path.stat().st_size + SMALL
                ):
                    raise PatchParityError(
                        f"{path} is damaged or hostile: {entry.filename} claims {entry.file_size} "
                        "bytes"
                    )
                target = Path(self.folder.name) / "model.weights.h5"
                with archive.open(entry) as packed, target.open("wb") as file:
                    copy_bytes(packed, file, entry.file_size)
                config_entry = next(
                    (member for member in archive.infolist() if member.filename == "config.json"),
                    None,
                )
                if config_entry and config_entry.file_size <= LARGEST_CONFIG:
                    (Path(self.folder.name) / "config.json").write_bytes(archive.read(config_entry))
            super().__init__(path, target)
        except BaseException:
            self.folder.cleanup()
            raise

    @property
    def config_folder(self) -> Path:
        """Where the archive's own `config.json` was unpacked."""
        return Path(self.folder.name)

    @property
    def config_name(self) -> str:
        """That of the archive."""
        return f"{self.path}:config.json"

    def close(self) -> None:
        """Close, and remove what was unpacked."""
        super().close()
        self.folder.cleanup()


def replace_in_h5(source: H5Checkpoint, draft: Path, changes: Tensors) -> None:
    """Overwrite datasets in a copy."""
    shutil.copyfile(source.path, draft)
    _change_h5(draft, source, changes)


def _change_h5(draft: Path, source: H5Checkpoint, changes: Tensors) -> None:
    for name, array in changes.items():
        if name not in source.tensors or source.tensors[name].shape != array.shape:
            there = (
                f"one of shape {source.tensors[name].shape}"
                if name in source.tensors
                else "nothing"
            )
            raise PatchParityError(
                f"{source.path} has no place for {name} of shape {array.shape}: it holds {there}"
            )
        if dtype_of(source.tensors[name].dtype) != array.dtype:
            raise PatchParityError(
                f"{source.path} keeps {name} as {source.tensors[name].dtype}, not as {array.dtype}"
            )
    try:
        h5_write(draft, dict(changes))
    except H5Error as error:
        raise source.damaged(first_line(error)) from None


def stream_h5(draft: Path, feed: Feed, metadata: Mapping[str, Any]) -> None:
    """Write a file anew, a tensor at a time; a name is its path, as Keras has it:
    `layers/conv2d/vars/0`.

    Raises:
        PatchParityError: a name that HDF5 has no place for, or a type that Keras does not keep.
    """
    h5_create(draft)
    for name, lazy in feed.tensors.items():
        if dtype_of(lazy.dtype).kind not in "fiub" and lazy.dtype != "bfloat16":
            raise PatchParityError(f"{name!r} is of dtype {lazy.dtype}, which Keras never keeps")
        try:
            h5_add(draft, name, feed.whole(name))
        except H5Error as error:
            raise PatchParityError(f"HDF5 does not keep {name!r}: {first_line(error)}") from None


def replace_in_keras(source: KerasCheckpoint, draft: Path, changes: Tensors) -> None:
    """Copy the archive, with the weights in it changed."""
    with tempfile.TemporaryDirectory(dir=draft.parent) as folder:
        weights = Path(folder) / "model.weights.h5"
        shutil.copyfile(Path(source.folder.name) / "model.weights.h5", weights)
        _change_h5(weights, source, changes)
        with zipfile.ZipFile(source.path) as held, zipfile.ZipFile(draft, "w") as archive:
            for entry in held.infolist():
                if entry.filename != "model.weights.h5":
                    with held.open(entry) as packed, archive.open(entry.filename, "w") as out:
                        shutil.copyfileobj(packed, out, COPIED_BYTES)
            archive.write(weights, "model.weights.h5")
