"""Keras: `.weights.h5`, and the same within a `.keras` archive."""

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from .base import COPIED_BYTES, LARGEST_TENSOR, Checkpoint, TensorInfo, Tensors, copy_bytes, dtype_of


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
        self._walk(self.file, "", set())

    def _walk(self, group: Any, prefix: str, seen: set[Any]) -> None:
        address = self.h5py.h5o.get_info(group.id).addr
        if address in seen:
            return  # another name of a group that is here
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, self.h5py.ExternalLink):
                raise self.damaged(f"{prefix}{name} leads out of the file")
            if isinstance(link, self.h5py.SoftLink):
                continue  # another name of something that is here
            item = group[name]
            if isinstance(item, self.h5py.Group):
                self._walk(item, f"{prefix}{name}/", seen)
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
        array = np.asarray(self.file[name][()])
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
                if entry.file_size > LARGEST_TENSOR * 16 or entry.file_size > 1000 * path.stat().st_size:
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
