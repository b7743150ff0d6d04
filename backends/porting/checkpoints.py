"""Checkpoint files of any library: which tensors they hold, each read by itself when it is asked for; nothing in them is ever run.

Laws: what a header claims is held against the file's size, or against `LARGEST_TENSOR`, before memory is taken; a name never leads out of the
folder; what is no tensor is left where it is.
"""

import abc
import contextlib
import io
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError

LARGEST_TENSOR = 2**31
"""Bytes of one tensor that may be read: eight times the largest patch embedding that is known (8192 × 2·32·32·4 values of 4 bytes)."""

LARGEST_HEADER = 100 * 2**20
"""Bytes of a header; safetensors' own limit."""

SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""Names of the types in a safetensors header."""

INDEX_SUFFIX = ".safetensors.index.json"


MOST_AXES = 16
"""Axes of a tensor that is looked at; NumPy has 64 at most, a kernel five."""


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's type of a name, those of ml_dtypes among them."""
    return np.dtype(getattr(ml_dtypes, name, name))


@dataclass(frozen=True)
class TensorInfo:
    """What a file tells of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        count = 1
        for size in self.shape:
            count *= size
        return count * dtype_of(self.dtype).itemsize


class Checkpoint(abc.ABC):
    """An open file (or a set of shards) and the tensors in it, by name.

    Args:
        path: the file, or the index of the shards.
        format: `safetensors`, `torch`, `npz`, `h5`, `keras` or `msgpack`.
        tensors: what there is, in the file's order.
        metadata: texts that the format keeps beside the tensors.
    """

    format: str

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tensors: dict[str, TensorInfo] = {}
        self.metadata: dict[str, str] = {}

    @property
    def config_folder(self) -> Path | None:
        """Where a `config.json` may lie beside it."""
        return self.path.parent

    def read(self, name: str) -> NDArray[Any]:
        """Read one tensor, as an array of its own.

        Raises:
            PatchParityError: a name that is not there, a tensor that is too large, damaged content.
        """
        if name not in self.tensors:
            raise PatchParityError(f"{self.path} holds no tensor {name!r}")
        info = self.tensors[name]
        if info.nbytes > LARGEST_TENSOR:
            raise PatchParityError(
                f"{self.path}: {name} of shape {info.shape} claims {info.nbytes} bytes, expected at most {LARGEST_TENSOR}"
            )
        try:
            array = self._read(name)
        except PatchParityError:
            raise
        except Exception as error:  # whatever damaged content makes zlib, HDF5 or NumPy raise
            raise self.damaged(f"{name} cannot be read ({type(error).__name__}: {error})") from None
        return array

    @abc.abstractmethod
    def _read(self, name: str) -> NDArray[Any]:
        """Read one tensor that is known to be there."""

    def damaged(self, what: str) -> PatchParityError:
        """The error of a file whose content is not what it should be."""
        return PatchParityError(f"{self.path} is damaged or hostile: {what}")

    def close(self) -> None:  # noqa: B027  nothing to close is a default
        """Let go of the file."""

    def __enter__(self) -> Self:
        """Use in a `with` statement."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: safetensors (one file, an index of shards, or a folder with either), torch, npz, Keras h5 and .keras, Flax msgpack.

    What it is, its first bytes tell, not its name.

    Raises:
        PatchParityError: a file that cannot be read, of another kind, damaged, or hostile.
    """
    source = Path(path)
    if source.is_dir():
        source = _in_folder(source)
    if source.exists() and not source.is_file():
        raise PatchParityError(f"cannot read {source}: it is no regular file")
    try:
        with source.open("rb") as file:
            start = file.read(16)
        return _reader(source, start)
    except PatchParityError:
        raise
    except OSError as error:
        raise PatchParityError(f"cannot read {source}: {error.strerror or error}") from None
    except Exception as error:  # whatever damaged content makes the readers raise
        raise PatchParityError(f"{source} is damaged or hostile: {type(error).__name__}: {_first_line(error)}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]


def _in_folder(folder: Path) -> Path:
    """The checkpoint of a folder, as transformers and timm lay it out."""
    for name in (
        "model.safetensors",
        "open_clip_model.safetensors",
        "pytorch_model.bin",
        "flax_model.msgpack",
        "model.weights.h5",
    ):
        if (folder / name).is_file():
            return folder / name
    indices = sorted(folder.glob(f"*{INDEX_SUFFIX}"))
    single = sorted(folder.glob("*.safetensors"))
    if len(indices) == 1:
        return indices[0]
    if not indices and len(single) == 1:
        return single[0]
    raise PatchParityError(f"{folder} holds no checkpoint that can be told: name the file")


def _reader(source: Path, start: bytes) -> Checkpoint:
    if source.name.endswith(".index.json"):
        return ShardedCheckpoint(source)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return H5Checkpoint(source, source)
    if start[:4] == b"PK\x03\x04":
        return _zip_reader(source)
    if len(start) > 8 and start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= max(LARGEST_HEADER, source.stat().st_size):
        return SafetensorsCheckpoint(source)
    if source.suffix == ".safetensors":
        raise PatchParityError(f"{source} is damaged or hostile: it does not begin as a safetensors file does")
    if start[:1] == b"\x80" and source.suffix not in (".msgpack", ".flax"):
        from .torch_files import LegacyTorchCheckpoint

        return LegacyTorchCheckpoint(source)
    if source.suffix in (".msgpack", ".flax") or (start[:1] and (start[0] & 0xF0 == 0x80 or start[0] in (0xDE, 0xDF))):
        return MsgpackCheckpoint(source)
    raise PatchParityError(
        f"{source} is no checkpoint of a kind that is known: safetensors, torch, npz, Keras h5 or .keras, Flax msgpack"
    )


def _zip_reader(source: Path) -> Checkpoint:
    with zipfile.ZipFile(source) as archive:
        names = [entry.filename for entry in archive.infolist()]
    if twice := _twice(names):
        raise PatchParityError(f"{source} is damaged or hostile: it holds {twice!r} twice")
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        from .torch_files import TorchCheckpoint

        return TorchCheckpoint(source)
    if "model.weights.h5" in names:
        return KerasCheckpoint(source)
    if names and all(name.endswith(".npy") for name in names):
        return NpzCheckpoint(source)
    raise PatchParityError(f"{source} is an archive of a kind that is not known: expected torch, npz or .keras")


def _twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different."""
    if twice := _twice([key for key, _ in pairs]):
        raise ValueError(f"the key {twice!r} stands there twice")
    return dict(pairs)


class SafetensorsCheckpoint(Checkpoint):
    """One safetensors file: a header in JSON, then the bytes of all tensors (https://github.com/huggingface/safetensors)."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LARGEST_HEADER, size - 8):
                raise self.damaged(f"its header claims {length} bytes, and {size - 8} are there")
            try:
                header = json.loads(file.read(length), object_pairs_hook=_without_twins)
            except (ValueError, RecursionError) as error:
                raise self.damaged(f"its header is no JSON ({_first_line(error)})") from None
        self.begin = 8 + length
        self.places: dict[str, tuple[int, int]] = {}
        if not isinstance(header, dict):
            raise self.damaged("its header is no JSON object")
        notes = header.pop("__metadata__", {}) or {}
        self.metadata = {str(key): str(value) for key, value in notes.items()} if isinstance(notes, dict) else {}
        for name, entry in header.items():
            self._add(name, entry, size - self.begin)

    def _add(self, name: str, entry: Any, room: int) -> None:
        try:
            shape = tuple(entry["shape"])
            if not all(type(extent) is int for extent in shape):
                raise ValueError
            first, last = (int(offset) for offset in entry["data_offsets"])
            dtype = SAFETENSORS_TYPES.get(entry["dtype"])
        except (KeyError, TypeError, ValueError):
            raise self.damaged(f"its header tells {name!r} badly") from None
        if dtype is None:
            return  # a type that holds no embedding
        info = TensorInfo(shape, dtype)
        # Before they are multiplied: an empty tensor may be told with any extent, and is not believed.
        if len(shape) > MOST_AXES or max(shape, default=0) > max(room, 1):
            raise self.damaged(f"{name} claims {len(shape)} axes, or more values along one than {room} bytes hold")
        if min(shape, default=0) < 0 or not 0 <= first <= last <= room or last - first != info.nbytes:
            raise self.damaged(f"{name} of shape {shape} and type {dtype} claims bytes {first} to {last} of {room}")
        self.tensors[name], self.places[name] = info, (first, last)

    def _read(self, name: str) -> NDArray[Any]:
        first, last = self.places[name]
        with self.path.open("rb") as file:
            file.seek(self.begin + first)
            content = file.read(last - first)
        info = self.tensors[name]
        return np.frombuffer(content, dtype_of(info.dtype)).reshape(info.shape)


class ShardedCheckpoint(Checkpoint):
    """Several safetensors files, and an index that tells which tensor is in which."""

    format = "safetensors"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if path.stat().st_size > LARGEST_HEADER:
            raise self.damaged(f"an index of {path.stat().st_size} bytes")
        try:
            index = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)
            places = {str(name): str(shard) for name, shard in index["weight_map"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self.damaged(f"it is no index of shards ({_first_line(error)})") from None
        self.shards: dict[str, SafetensorsCheckpoint] = {}
        self.places = places
        for shard in dict.fromkeys(places.values()):
            if Path(shard).name != shard or shard in ("", ".", ".."):
                raise self.damaged(f"it names a shard {shard!r}, which is no file of this folder")
            if not (path.parent / shard).is_file():
                raise PatchParityError(f"{path} names a shard {shard!r}, which is not there")
            self.shards[shard] = SafetensorsCheckpoint(path.parent / shard)
        for name, shard in places.items():
            if name not in self.shards[shard].tensors:
                raise self.damaged(f"{name!r} should be in {shard}, and is not")
            self.tensors[name] = self.shards[shard].tensors[name]
        self.metadata = {key: value for shard in self.shards.values() for key, value in shard.metadata.items()}

    def _read(self, name: str) -> NDArray[Any]:
        return self.shards[self.places[name]].read(name)


class NpzCheckpoint(Checkpoint):
    """An archive of `.npy` files, as google's and big_vision's; bfloat16 is kept there as bytes without a name (`|V2`)."""

    format = "npz"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.archive = zipfile.ZipFile(path)
        self.headers: dict[str, tuple[int, bool, np.dtype[Any]]] = {}
        for entry in self.archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with self.archive.open(entry) as file:
                shape, fortran, dtype = _npy_header(file)
                begin = file.tell()
            if dtype.hasobject:
                raise PatchParityError(f"{path}: {name} holds Python objects, which are never read")
            known = "bfloat16" if dtype == np.dtype("V2") else dtype.newbyteorder("=").name
            info = TensorInfo(tuple(shape), known) if dtype.kind in "fiub" or known == "bfloat16" else None
            if info is None:
                continue  # texts and the like
            if begin + info.nbytes != entry.file_size:
                raise self.damaged(
                    f"{name} of shape {info.shape} claims {info.nbytes} bytes, and {entry.file_size - begin} are there"
                )
            self.tensors[name], self.headers[name] = info, (begin, fortran, dtype)

    def _read(self, name: str) -> NDArray[Any]:
        begin, fortran, dtype = self.headers[name]
        info = self.tensors[name]
        with self.archive.open(f"{name}.npy") as file:
            file.read(begin)
            content = file.read(info.nbytes)
        stored = np.frombuffer(content, dtype)
        values = stored.view(ml_dtypes.bfloat16) if info.dtype == "bfloat16" else stored.astype(dtype.newbyteorder("="))
        return values.reshape(info.shape, order="F" if fortran else "C")

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    start = file.read(8)
    version = np.lib.format.read_magic(io.BytesIO(start))
    width = {(1, 0): 2, (2, 0): 4}.get(version)
    if width is None:
        raise ValueError(f"npy version {version}")
    told = file.read(width)
    length = int.from_bytes(told, "little")
    if length > 2**16:
        raise ValueError(f"a header of {length} bytes")
    content = io.BytesIO(told + file.read(length))
    read = np.lib.format.read_array_header_1_0 if width == 2 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(content)
    return shape, fortran, dtype


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
                    _copy_bytes(packed, file, entry.file_size)
            super().__init__(path, target)
        except BaseException:
            self.folder.cleanup()
            raise

    def close(self) -> None:
        """Close, and remove what was unpacked."""
        super().close()
        self.folder.cleanup()


def _copy_bytes(source: Any, target: BinaryIO, size: int) -> None:
    left = size
    while left:
        content = source.read(min(left, 2**20))
        if not content:
            raise ValueError("it ends too early")
        target.write(content)
        left -= len(content)


FLAX_ARRAY, FLAX_SCALAR = 1, 3
"""Extension types of Flax's msgpack (flax/serialization.py): an array as (shape, type's name, bytes), and a NumPy scalar alike."""


class MsgpackCheckpoint(Checkpoint):
    """Flax's msgpack; a tensor's name is its path in the tree, `params/embedding/kernel`."""

    format = "msgpack"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import msgpack
        except ImportError:
            raise PatchParityError("msgpack is not installed: pip install 'patchparity[porting]'") from None
        content = path.read_bytes()
        tree = msgpack.unpackb(content, ext_hook=self._extension, strict_map_key=False, raw=False)
        self.arrays: dict[str, NDArray[Any]] = {}
        self._flatten(tree, "")
        self.tensors = {name: TensorInfo(array.shape, array.dtype.name) for name, array in self.arrays.items()}

    def _extension(self, code: int, content: bytes) -> Any:
        import msgpack

        if code not in (FLAX_ARRAY, FLAX_SCALAR):
            return None
        shape, name, values = msgpack.unpackb(content, raw=False, use_list=False)
        info = TensorInfo(tuple(int(size) for size in shape), str(name))
        if min(info.shape, default=0) < 0 or info.nbytes != len(values):
            raise self.damaged(f"an array of shape {info.shape} and type {name} has {len(values)} bytes")
        return np.frombuffer(values, dtype_of(info.dtype)).reshape(info.shape)

    def _flatten(self, tree: Any, prefix: str) -> None:
        if isinstance(tree, Mapping):
            if "__msgpack_chunked_array__" in tree:
                self.arrays[prefix.rstrip("/")] = _chunks(tree)
                return
            for key, value in tree.items():
                self._flatten(value, f"{prefix}{key}/")
        elif isinstance(tree, np.ndarray):
            self.arrays[prefix.rstrip("/")] = tree

    def _read(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def _chunks(tree: Mapping[str, Any]) -> NDArray[Any]:
    """An array above 1 GB, which Flax cuts into pieces."""
    pieces = [tree["chunks"][key] for key in sorted(tree["chunks"], key=int)]
    shape = tuple(int(tree["shape"][key]) for key in sorted(tree["shape"], key=int))
    return np.concatenate([piece.ravel() for piece in pieces]).reshape(shape)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint for the time of a `with` statement."""
    checkpoint = open_checkpoint(path)
    try:
        yield checkpoint
    finally:
        checkpoint.close()
