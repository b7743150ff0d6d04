"""Keras: `.weights.h5`, and the same within a `.keras` archive."""

import math
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .archives import require_whole
from .checkpoint import COPIED_BYTES, EXPANSION, LARGEST_TENSOR, SMALL, Checkpoint, TensorInfo, Tensors, copy_bytes, dtype_of

MOST_NAMES = 2**16
"""Names of a file, and pieces of a dataset, that are looked at: the largest Keras models have some thousands."""


class _TooManyNamesError(Exception):
    """More names than are looked at."""


class H5Checkpoint(Checkpoint):
    """HDF5, as Keras writes weights; a tensor's name is its path. Keras keeps positions there, not names: `layers/conv2d/vars/0`."""

    format = "h5"

    def __init__(self, path: Path, source: Path) -> None:
        super().__init__(path)
        try:
            import h5py
        except ImportError:
            raise PatchParityError("h5py is not installed: pip install 'patchparity[porting]'") from None
        self.h5py, self.file = h5py, h5py.File(source, "r")
        self.names = 0
        try:
            self._walk(self.file, "", (), None)
        except _TooManyNamesError:  # groups with several names, one within another: the first name of each will do
            self.tensors.clear()
            self.names = 0
            self._walk(self.file, "", (), set())

    def _walk(self, group: Any, prefix: str, above: tuple[Any, ...], seen: set[Any] | None) -> None:
        """All names of what is in a group, or with `seen` the first of each; a group within itself is not looked into again."""
        address = self.h5py.h5o.get_info(group.id).addr
        if address in above or (seen is not None and address in seen):
            return
        if seen is not None:
            seen.add(address)
        for name in group:
            self.names += 1
            if self.names > MOST_NAMES:
                raise self.damaged(f"it has more than {MOST_NAMES} names") if seen is not None else _TooManyNamesError
            link = group.get(name, getlink=True)
            if isinstance(link, self.h5py.ExternalLink):
                raise self.damaged(f"{prefix}{name} leads out of the file")
            if isinstance(link, self.h5py.SoftLink):
                continue  # another name of something that is here
            item = group[name]
            if isinstance(item, self.h5py.Group):
                self._walk(item, f"{prefix}{name}/", (*above, address), seen)
            elif isinstance(item, self.h5py.Dataset):
                self._add(f"{prefix}{name}", item)

    def _add(self, name: str, dataset: Any) -> None:
        if dataset.is_virtual or dataset.external:
            raise self.damaged(f"{name} keeps its values outside of the file")
        told = dataset.attrs.get("dtype", "")
        narrow = (told if isinstance(told, str) else "") == "bfloat16" or dataset.dtype == np.dtype("V2")
        if dataset.dtype.kind in "fiub" or narrow:
            self.tensors[name] = TensorInfo(tuple(dataset.shape), "bfloat16" if narrow else dataset.dtype.newbyteorder("=").name)

    def _read(self, name: str) -> NDArray[Any]:
        dataset = self.file[name]
        self.require_room(name, self.tensors[name].nbytes)
        if dataset.chunks is not None:
            pieces = math.prod(-(-size // piece) for size, piece in zip(dataset.shape, dataset.chunks, strict=True))
            if pieces > MOST_NAMES:
                raise self.damaged(f"{name} of shape {dataset.shape} lies in {pieces} pieces")
        array = np.asarray(dataset[()])
        if self.tensors[name].dtype == "bfloat16":
            return array.view(ml_dtypes.bfloat16) if array.dtype.itemsize == 2 else array.astype(ml_dtypes.bfloat16)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class KerasCheckpoint(H5Checkpoint):
    """A `.keras` archive: its `model.weights.h5`, unpacked into a temporary file."""

    format = "keras"

    def __init__(self, path: Path) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="patchparity-")
        try:
            with zipfile.ZipFile(path) as archive:
                entry = archive.getinfo("model.weights.h5")
                require_whole(archive, path)
                if entry.file_size > LARGEST_TENSOR * 16 or entry.file_size > EXPANSION * path.stat().st_size + SMALL:
                    raise PatchParityError(f"{path} is damaged or hostile: {entry.filename} claims {entry.file_size} bytes")
                target = Path(self.folder.name) / "model.weights.h5"
                with archive.open(entry) as packed, target.open("wb") as file:
                    copy_bytes(packed, file, entry.file_size)
            super().__init__(path, target)
        except BaseException:
            self.folder.cleanup()
            raise

    def close(self) -> None:
        """Close, and remove what was unpacked."""
        super().close()
        self.folder.cleanup()


def replace_in_h5(source: H5Checkpoint, draft: Path, changes: Tensors) -> None:
    """Overwrite datasets in a copy."""
    shutil.copyfile(source.path, draft)
    _change_h5(draft, source, changes)


def _change_h5(draft: Path, source: H5Checkpoint, changes: Tensors) -> None:
    import h5py

    with h5py.File(draft, "r+") as file:
        for name, array in changes.items():
            if name not in source.tensors or source.tensors[name].shape != array.shape:
                there = f"one of shape {source.tensors[name].shape}" if name in source.tensors else "nothing"
                raise PatchParityError(f"{source.path} has no place for {name} of shape {array.shape}: it holds {there}")
            if dtype_of(source.tensors[name].dtype) != array.dtype:
                raise PatchParityError(f"{source.path} keeps {name} as {source.tensors[name].dtype}, not as {array.dtype}")
            file[name][...] = array.view(file[name].dtype) if array.dtype == ml_dtypes.bfloat16 else array


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
