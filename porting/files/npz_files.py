"""NumPy's npz, as google's and big_vision's checkpoints."""

import io
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .archives import data_begin, require_whole
from .checkpoint import COPIED_BYTES, Checkpoint, TensorInfo, Tensors, dtype_of
from .lazy import Feed


class NpzCheckpoint(Checkpoint):
    """An archive of `.npy` files, as google's and big_vision's; bfloat16 is kept there as bytes
    without a name (`|V2`)."""

    format = "npz"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.archive = zipfile.ZipFile(path)
        require_whole(self.archive, path)
        self.checked: set[str] = set()
        self.headers: dict[str, tuple[int, bool, np.dtype[Any]]] = {}
        for entry in self.archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with self.archive.open(entry) as file:
                shape, fortran, dtype = _npy_header(file)
                begin = file.tell()
            if dtype.hasobject:
                raise PatchParityError(f"{path}: {name} holds Python objects, which are never read")
            known = "bfloat16" if dtype == np.dtype("V2") else dtype.newbyteorder("=").name
            info = (
                TensorInfo(tuple(shape), known)
                if dtype.kind in "fiub" or known == "bfloat16"
                else None
            )
            if info is None:
                continue  # texts and the like
            if begin + info.nbytes != entry.file_size:
                raise self.damaged(
                    f"{name} of shape {info.shape} claims {info.nbytes} bytes, and "
                    f"{entry.file_size - begin} are there"
                )
            self.tensors[name], self.headers[name] = info, (begin, fortran, dtype)

    def _read(self, name: str) -> NDArray[Any]:
        begin, fortran, dtype = self.headers[name]
        info = self.tensors[name]
        self.require_room(name, info.nbytes)
        with self.archive.open(f"{name}.npy") as file:
            file.read(begin)
            content = file.read(info.nbytes)
            file.read(1)  # at its end the archive's checksum is held against what was read
        stored = np.frombuffer(content, dtype)
        values = (
            stored.view(ml_dtypes.bfloat16)
            if info.dtype == "bfloat16"
            else stored.astype(dtype.newbyteorder("="))
        )
        return values.reshape(info.shape, order="F" if fortran else "C")

    def read_row(self, name: str, row: int) -> NDArray[Any]:
        """As of any file; of what lies there unpacked that row alone, once all of it has been held
        against the archive's checksum."""
        begin, fortran, dtype = self.headers.get(name, (0, True, np.dtype("V")))
        entry = None if fortran else self.archive.getinfo(f"{name}.npy")
        if entry is None or entry.compress_type != zipfile.ZIP_STORED or not dtype.isnative:
            return super().read_row(name, row)
        if name not in self.checked:
            try:
                with self.archive.open(entry) as file:
                    while file.read(COPIED_BYTES):
                        pass
            except zipfile.BadZipFile as error:
                raise self.damaged(f"{name} cannot be read ({error})") from None
            self.checked.add(name)
        info = self.tensors[name]
        size = info.nbytes // info.shape[0]
        with self.path.open("rb") as plain:
            plain.seek(data_begin(self.path, entry) + begin + row * size)
            values = np.frombuffer(plain.read(size), dtype_of(info.dtype))
        return values.reshape(1, *info.shape[1:])

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    start = file.read(8)
    version = np.lib.format.read_magic(io.BytesIO(start))
    width = {(1, 0): 2, (2, 0): 4}.get(version)
    if width is None:
        raise ValueError(f"npy version {version}")
    length_bytes = file.read(width)
    length = int.from_bytes(length_bytes, "little")
    if length > 2**16:
        raise ValueError(f"a header of {length} bytes")
    content = io.BytesIO(length_bytes + file.read(length))
    read = (
        np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(content)
    return shape, fortran, dtype


def _npy(array: NDArray[Any]) -> NDArray[Any]:
    """As npz keeps it: bfloat16 as two bytes without a name, like big_vision."""
    return array.view("V2") if array.dtype == ml_dtypes.bfloat16 else array


def write_npz(draft: Path, tensors: Tensors) -> None:
    """Write an archive anew."""
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        _add_npy(archive, tensors)


def _add_npy(archive: zipfile.ZipFile, tensors: Tensors) -> None:
    for name, array in tensors.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, _npy(array), allow_pickle=False)


def stream_npz(draft: Path, feed: Feed, metadata: Mapping[str, Any]) -> None:
    """Write an archive anew, a piece of a tensor at a time.

    Raises:
        PatchParityError: a type that NumPy has not, bfloat16 apart.
    """
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        for name, lazy in feed.tensors.items():
            dtype = np.dtype("V2") if lazy.dtype == "bfloat16" else dtype_of(lazy.dtype)
            if dtype.kind not in "fiub" and lazy.dtype != "bfloat16":
                raise PatchParityError(
                    f"{name} is of dtype {lazy.dtype}, of which npz keeps bytes alone: write "
                    "safetensors"
                )
            told = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(lazy.shape),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, told)
                for piece in feed.pieces(name):
                    file.write(piece)


def replace_in_npz(source: NpzCheckpoint, draft: Path, changes: Tensors) -> None:
    """Copy all other arrays, and add the new ones."""
    with zipfile.ZipFile(draft, "w") as archive:
        for entry in source.archive.infolist():
            if entry.filename.removesuffix(".npy") not in changes:
                with (
                    source.archive.open(entry) as packed,
                    archive.open(entry.filename, "w", force_zip64=True) as out,
                ):
                    shutil.copyfileobj(packed, out, COPIED_BYTES)
        _add_npy(archive, changes)
