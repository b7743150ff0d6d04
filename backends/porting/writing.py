"""Writing checkpoints: whole or not at all, read back and compared to the last bit before anything is replaced.

Every array is made contiguous first: safetensors 0.8.0 writes a transposed view as if it were not transposed (safetensors issue 825).
"""

import contextlib
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoints import (
    FLAX_ARRAY,
    INDEX_SUFFIX,
    SAFETENSORS_TYPES,
    Checkpoint,
    H5Checkpoint,
    KerasCheckpoint,
    MsgpackCheckpoint,
    NpzCheckpoint,
    SafetensorsCheckpoint,
    ShardedCheckpoint,
    dtype_of,
    open_checkpoint,
)
from .files import usual_mode
from .torch_files import TensorsOfStorages

Tensors = Mapping[str, NDArray[Any]]

SUFFIXES = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".msgpack": "msgpack",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".h5": "h5",
    ".keras": "keras",
}
"""Formats by the end of a file's name."""

COPIED_BYTES = 2**22
"""Bytes that are copied at a time."""


def format_of(path: str | os.PathLike[str]) -> str:
    """The format that a file of this name has.

    Raises:
        PatchParityError: a name that tells none.
    """
    found = "safetensors" if is_index(path) else SUFFIXES.get(Path(path).suffix)
    if found is None:
        raise PatchParityError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    return found


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether a name is that of an index of shards."""
    return Path(path).name.endswith(INDEX_SUFFIX)


def write_checkpoint(
    path: str | os.PathLike[str],
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    check: Callable[[Path], None] = lambda draft: None,
) -> None:
    """Write tensors to a new file, of the format that its name tells.

    Args:
        path: the file; an existing one is replaced, in one step.
        tensors: by name; `/` in a name of Flax's msgpack is a level of its tree.
        metadata: texts, kept by safetensors alone.
        check: called with the new file before it takes its place; what it raises leaves the old one there.

    Raises:
        PatchParityError: a name that tells no format, a format that keeps no names (Keras), a file that cannot be written or reads back otherwise.
    """
    kind = format_of(path)
    if is_index(path):
        raise PatchParityError(f"{path}: an embedding stage is written to one file, shards only as a copy of others (--into)")
    plain = {name: _plain(array) for name, array in tensors.items()}
    writers: dict[str, Callable[[Path], None]] = {
        "safetensors": lambda draft: _write_safetensors(draft, plain, metadata or {}),
        "npz": lambda draft: _write_npz(draft, plain),
        "msgpack": lambda draft: _write_msgpack(draft, plain),
        "torch": lambda draft: _write_torch(draft, plain),
    }
    if kind not in writers:
        raise PatchParityError(
            f"{path}: Keras keeps the places of weights and not their names; --into puts them into a copy of a file that it wrote"
        )
    with _draft(path) as draft:
        writers[kind](draft)
        _require_same(draft, path, plain)
        check(draft)


def replace_tensors(
    source: Checkpoint, path: str | os.PathLike[str], changes: Tensors, check: Callable[[Path], None] = lambda draft: None
) -> None:
    """Write a copy of a checkpoint with some tensors replaced or added; all others stay as they are, bit by bit.

    Args:
        source: the checkpoint that is copied.
        path: the copy, of the same format; of shards the new index, and the shards beside it.
        changes: the new tensors, by name.
        check: as in `write_checkpoint`.

    Raises:
        PatchParityError: another format, tensors that a Keras or torch file has no place for, shards that would replace others, a file that cannot be
            written or reads back otherwise.
    """
    plain = {name: _plain(array) for name, array in changes.items()}
    if format_of(path) != source.format:
        raise PatchParityError(f"{path}: --into copies a {source.format} file, and this name is of {format_of(path)}")
    of_shards = is_index(path)
    if of_shards != isinstance(source, ShardedCheckpoint):
        kinds = ("of one file", "of shards")
        raise PatchParityError(
            f"{source.path} is {kinds[not of_shards]}, and {path} names a checkpoint {kinds[of_shards]}: "
            f"expected a name that ends in {INDEX_SUFFIX if not of_shards else source.path.suffix}"
        )
    if isinstance(source, ShardedCheckpoint):
        _replace_in_shards(source, Path(path), plain, check)
        return
    writers: list[tuple[type[Checkpoint], Callable[[Any, Path], None]]] = [
        (SafetensorsCheckpoint, lambda held, draft: _replace_in_safetensors(held, draft, plain)),
        (NpzCheckpoint, lambda held, draft: _replace_in_npz(held, draft, plain)),
        (MsgpackCheckpoint, lambda held, draft: _replace_in_msgpack(held, draft, plain)),
        (KerasCheckpoint, lambda held, draft: _replace_in_keras(held, draft, plain)),
        (H5Checkpoint, lambda held, draft: _replace_in_h5(held, draft, plain)),
        (TensorsOfStorages, lambda held, draft: _replace_in_torch(held, draft, plain)),
    ]
    for kind, writer in writers:
        if isinstance(source, kind):
            with _draft(path) as draft:
                writer(source, draft)
                _require_same(draft, path, plain)
                check(draft)
            return
    raise PatchParityError(f"{source.path}: of a {source.format} file no copy is made")


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, in the machine's byte order; a scalar stays one."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


@contextlib.contextmanager
def _draft(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file beside the target, which takes its place when all went well."""
    target = Path(path).resolve()
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".patchparity-") as folder:
            draft = Path(folder) / f"draft{target.suffix}"
            yield draft
            draft.chmod(usual_mode())
            draft.replace(target)
    except OSError as error:
        raise PatchParityError(f"cannot write {target}: {error.strerror or error}") from None


def _require_same(draft: Path, path: Any, tensors: Tensors) -> None:
    with open_checkpoint(draft) as written:
        for name, array in tensors.items():
            back = written.read(name)
            if back.dtype != array.dtype or back.shape != array.shape or back.tobytes() != array.tobytes():
                raise PatchParityError(f"{name} reads back differently from {path}: nothing was written")


def _write_safetensors(draft: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(dict(tensors), draft, dict(metadata) or None)


def _replace_in_safetensors(source: SafetensorsCheckpoint, draft: Path, changes: Tensors) -> None:
    """A new header, then the bytes of every tensor, copied a piece at a time."""
    types = {numpy: name for name, numpy in SAFETENSORS_TYPES.items()}
    header: dict[str, Any] = {"__metadata__": source.metadata} if source.metadata else {}
    with source.path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        entries: dict[str, Any] = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    offset = 0
    for name in [*entries, *(name for name in changes if name not in entries)]:
        if name in changes:
            array = changes[name]
            size, dtype, shape = array.nbytes, types[array.dtype.name], list(array.shape)
        else:
            first, last = entries[name]["data_offsets"]
            size, dtype, shape = last - first, entries[name]["dtype"], entries[name]["shape"]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values begin at a multiple of eight
    with source.path.open("rb") as file, draft.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name in header:
            if name == "__metadata__":
                continue
            if name in changes:
                out.write(changes[name].tobytes())
            else:
                first, last = entries[name]["data_offsets"]
                file.seek(source.begin + first)
                _copy(file, out, last - first)


def _replace_in_shards(source: ShardedCheckpoint, path: Path, changes: Tensors, check: Callable[[Path], None]) -> None:
    """Copies of all shards, those with changed tensors made anew, and the index last: before that nothing is there to be read."""
    kernel_shard = next(source.places[name] for name in changes if name in source.places)
    of_shards: dict[str, dict[str, NDArray[Any]]] = {}
    for name, array in changes.items():
        of_shards.setdefault(source.places.get(name, kernel_shard), {})[name] = array
    there = [name for name in (*source.shards, path.name) if (path.parent / name).exists()]
    if there:
        raise PatchParityError(f"{path.parent} holds {there[0]} already: name the index in a folder without")
    index = json.loads(source.path.read_text(encoding="utf-8"))
    index["weight_map"].update({name: shard for shard, held in of_shards.items() for name in held})
    added = sum(array.nbytes - (source.tensors[name].nbytes if name in source.tensors else 0) for name, array in changes.items())
    if isinstance(index.get("metadata"), dict) and isinstance(index["metadata"].get("total_size"), int):
        index["metadata"]["total_size"] += added
    try:
        with tempfile.TemporaryDirectory(dir=path.resolve().parent, prefix=".patchparity-") as folder:
            for shard, held in source.shards.items():
                if shard in of_shards:
                    _replace_in_safetensors(held, Path(folder) / shard, of_shards[shard])
                else:
                    shutil.copyfile(held.path, Path(folder) / shard)
            draft = Path(folder) / path.name
            draft.write_text(json.dumps(index, indent=2), encoding="utf-8")
            _require_same(draft, path, changes)
            check(draft)
            for name in (*source.shards, path.name):
                (Path(folder) / name).chmod(usual_mode())
                (Path(folder) / name).replace(path.parent / name)
    except OSError as error:
        raise PatchParityError(f"cannot write {path}: {error.strerror or error}") from None


def _replace_in_torch(source: TensorsOfStorages, draft: Path, changes: Tensors) -> None:
    shutil.copyfile(source.path, draft)
    source.replace(draft, changes)


def _copy(source: Any, target: BinaryIO, size: int) -> None:
    while size:
        content = source.read(min(size, COPIED_BYTES))
        if not content:
            raise PatchParityError("the source ends too early: it was changed meanwhile")
        target.write(content)
        size -= len(content)


def _npy(array: NDArray[Any]) -> NDArray[Any]:
    """As npz keeps it: bfloat16 as two bytes without a name, like big_vision."""
    return array.view("V2") if array.dtype == ml_dtypes.bfloat16 else array


def _write_npz(draft: Path, tensors: Tensors) -> None:
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        _add_npy(archive, tensors)


def _add_npy(archive: zipfile.ZipFile, tensors: Tensors) -> None:
    for name, array in tensors.items():
        with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, _npy(array), allow_pickle=False)


def _replace_in_npz(source: NpzCheckpoint, draft: Path, changes: Tensors) -> None:
    with zipfile.ZipFile(draft, "w") as archive:
        for entry in source.archive.infolist():
            if entry.filename.removesuffix(".npy") not in changes:
                with source.archive.open(entry) as packed, archive.open(entry.filename, "w", force_zip64=True) as out:
                    shutil.copyfileobj(packed, out, COPIED_BYTES)
        _add_npy(archive, changes)


def _write_msgpack(draft: Path, tensors: Tensors) -> None:
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = array
    _pack(draft, tree)


def _pack(draft: Path, tree: Any) -> None:
    import msgpack

    def extension(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            content = msgpack.packb((value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes()), use_bin_type=True)
            return msgpack.ExtType(FLAX_ARRAY, content)
        raise TypeError(f"a {type(value).__name__}")

    draft.write_bytes(msgpack.packb(tree, default=extension, strict_types=True))


def _replace_in_msgpack(source: MsgpackCheckpoint, draft: Path, changes: Tensors) -> None:
    import msgpack

    tree = msgpack.unpackb(source.path.read_bytes(), strict_map_key=False, raw=False)
    for name, array in changes.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = np.asarray(array)
    _pack(draft, tree)


def _write_torch(draft: Path, tensors: Tensors) -> None:
    try:
        import torch
    except ImportError:
        raise PatchParityError(
            "writing a torch file needs torch: pip install 'patchparity[torch]', or write safetensors"
        ) from None
    from ..torch import as_tensor

    torch.save({name: as_tensor(array) for name, array in tensors.items()}, draft)


def _replace_in_h5(source: H5Checkpoint, draft: Path, changes: Tensors) -> None:
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


def _replace_in_keras(source: KerasCheckpoint, draft: Path, changes: Tensors) -> None:
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
