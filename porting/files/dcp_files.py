"""Checkpoints of torch.distributed (DCP), of FSDP and others: a folder with `.metadata`, a pickle
that tells of every tensor in which chunks it lies, and `.distcp` files with the chunks, each as
`torch.save` writes it. Nothing of either is run.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import LONGEST_NAMES, Checkpoint, TensorInfo, dtype_of, first_line
from .kinds import DCP_METADATA as METADATA
from .pickles import Inert, Unpickler, load_pickle
from .torch_files import TorchCheckpoint

OVERHEAD = 2**16
"""Bytes of an archive of one tensor beside its values: it has some thousand."""

MOST_CHUNKS = 2**14
"""Chunks of one tensor: one for each of so many processes."""

Chunk = tuple[tuple[int, ...], tuple[int, ...]]
"""Where a chunk begins in its tensor, and its shape."""


class _Record(Inert):
    """Stands for one of DCP's own records: `state` is what the pickle gives it."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.state = None

    def get(self, name: str) -> Any:
        """A field of it; None where it has none."""
        return self.state.get(name) if isinstance(self.state, Mapping) else None


class _Metadata(_Record):
    """`Metadata`: what is told of all tensors, and where each chunk lies."""


class _Tensor(_Record):
    """`TensorStorageMetadata`: properties, size, and chunks of a tensor."""


class _Chunk(_Record):
    """`ChunkStorageMetadata`: offsets and sizes."""


class _Properties(_Record):
    """`TensorProperties`, whose state is a tuple that begins with the type."""


class _Index(_Record):
    """`MetadataIndex`: the name of a tensor, and where the chunk begins."""


class _Place(_Record):
    """`_StorageInfo`: a file, where in it a chunk begins, and how many bytes it takes."""


_RECORDS = {
    "Metadata": _Metadata,
    "TensorStorageMetadata": _Tensor,
    "ChunkStorageMetadata": _Chunk,
    "TensorProperties": _Properties,
    "MetadataIndex": _Index,
    "_StorageInfo": _Place,
}
"""DCP's records that are looked into; any other class of torch.distributed is left unbuilt."""


class _MetadataUnpickler(Unpickler):
    """Builds DCP's records as well."""

    def find_class(self, module: str, name: str) -> Any:
        """Name what stands for a global; nothing is imported."""
        if module.startswith("torch.distributed."):
            return _RECORDS.get(name, Inert)
        return super().find_class(module, name)


@dataclass(frozen=True)
class _Stored:
    """Where a chunk lies: a file of the folder, and its bytes there."""

    file: str
    begin: int
    size: int


class DcpCheckpoint(Checkpoint):
    """A folder of torch.distributed; names are those of the state dict, joined by dots."""

    format = "dcp"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with (path / METADATA).open("rb") as file:
            if file.read(1) != b"\x80":
                raise self.damaged(f"its {METADATA} is no pickle")
            file.seek(0)
            told, _ = load_pickle(file, path / METADATA, _MetadataUnpickler)
        if not isinstance(told, _Metadata):
            raise self.damaged(f"its {METADATA} is none of torch.distributed")
        tensors, places = told.get("state_dict_metadata"), told.get("storage_data")
        if not isinstance(tensors, Mapping) or not isinstance(places, Mapping):
            raise self.damaged(f"its {METADATA} tells of no tensors")
        self.chunks: dict[str, list[Chunk]] = {}
        self.places: dict[tuple[str, tuple[int, ...]], _Stored] = {}
        for name, tensor in tensors.items():
            if isinstance(tensor, _Tensor):
                self._keep_tensor(name, tensor)
        if sum(map(len, self.tensors)) > LONGEST_NAMES:
            raise self.damaged(f"its names have more than {LONGEST_NAMES} characters together")
        for index, place in places.items():
            self._keep_place(index, place)

    def _keep_tensor(self, name: Any, tensor: _Tensor) -> None:
        properties, chunks = tensor.get("properties"), tensor.get("chunks")
        state = properties.state if isinstance(properties, _Properties) else None
        dtype = state[0] if isinstance(state, tuple) and state else None
        if dtype is None and isinstance(state, Mapping):  # of torch's sharded tensors
            dtype = state.get("dtype")
        if not (
            isinstance(name, str) and isinstance(dtype, str) and isinstance(chunks, (list, tuple))
        ):
            raise self.damaged(f"its {METADATA} tells {str(name)[:200]!r} badly")
        self.tensors[name] = TensorInfo(self._sizes(name, tensor.get("size")), dtype)
        self.chunks[name] = [
            (self._sizes(name, chunk.get("offsets")), self._sizes(name, chunk.get("sizes")))
            for chunk in chunks
            if isinstance(chunk, _Chunk)
        ]
        if len(self.chunks[name]) != len(chunks) or len(chunks) > MOST_CHUNKS:
            raise self.damaged(f"its {METADATA} tells the {len(chunks)} chunks of {name} badly")

    def _sizes(self, name: str, sizes: Any) -> tuple[int, ...]:
        if not isinstance(sizes, tuple) or not all(
            type(size) is int and size >= 0 for size in sizes
        ):
            raise self.damaged(f"its {METADATA} tells sizes of {name} that are none")
        return sizes

    def _keep_place(self, index: Any, place: Any) -> None:
        name = index.get("fqn") if isinstance(index, _Index) else None
        if name not in self.tensors or not isinstance(place, _Place):
            return  # of what is no tensor
        file, begin, size = (place.get(key) for key in ("relative_path", "offset", "length"))
        if place.get("transform_descriptors"):
            raise PatchParityError(
                f"{self.path}: {name} was packed by an extension when it was saved "
                f"({place.get('transform_descriptors')}), which is not read: save it without"
            )
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise self.damaged(
                f"{name} should be in {str(file)[:200]!r}, which is no file of this folder"
            )
        if type(begin) is not int or type(size) is not int or min(begin, size) < 0:
            raise self.damaged(f"its {METADATA} tells badly where {name} lies")
        offset = index.get("offset")
        offset = (0,) * len(self.tensors[name].shape) if offset is None else offset
        self.places[name, self._sizes(name, offset)] = _Stored(file, begin, size)

    @property
    def config_folder(self) -> Path:
        """The folder itself where a `config.json` lies in it, else the one that it is in."""
        inside = (self.path / "config.json").is_file()
        return self.path if inside else self.path.absolute().parent

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder itself."""
        return (self.path,)

    @property
    def files(self) -> tuple[Path, ...]:
        """What tells of the tensors, and the files with their chunks."""
        parts = dict.fromkeys(place.file for place in self.places.values())
        return (self.path / METADATA, *(self.path / file for file in parts))

    def _read(self, name: str) -> NDArray[Any]:
        info, chunks = self.tensors[name], self.chunks[name]
        chunks = [chunk for chunk in chunks if 0 not in chunk[1]]
        self._require_tiles(name, chunks)
        stored = [self._stored(name, chunk) for chunk in chunks]
        values = np.empty(info.shape, dtype_of(info.dtype))
        for (offsets, sizes), place in zip(chunks, stored, strict=True):
            part = self._chunk(name, place, TensorInfo(sizes, info.dtype))
            values[
                tuple(
                    slice(first, first + size) for first, size in zip(offsets, sizes, strict=True)
                )
            ] = part
        return values

    def _require_tiles(self, name: str, chunks: list[Chunk]) -> None:
        """Raise PatchParityError where chunks do not fill their tensor, each value once."""
        shape = self.tensors[name].shape
        axes = len(shape)
        if any(len(offsets) != axes or len(sizes) != axes for offsets, sizes in chunks):
            raise self.damaged(f"a chunk of {name} has not the {axes} axes of its tensor")
        first = np.array([offsets for offsets, _ in chunks], np.int64).reshape(len(chunks), axes)
        last = first + np.array([sizes for _, sizes in chunks], np.int64).reshape(len(chunks), axes)
        if (last > np.array(shape, np.int64)).any():
            raise self.damaged(f"a chunk of {name} reaches beyond its shape {shape}")
        for at in range(len(chunks) - 1):
            apart = (first[at + 1 :] >= last[at]) | (last[at + 1 :] <= first[at])
            if not apart.any(axis=1).all():
                raise self.damaged(f"two chunks of {name} lie over one another")
        values, there = math.prod(shape), sum(math.prod(sizes) for _, sizes in chunks)
        if values != there:
            raise self.damaged(f"the chunks of {name} hold {there} of its {values} values")

    def _stored(self, name: str, chunk: Chunk) -> _Stored:
        place = self.places.get((name, chunk[0]))
        if place is None:
            raise self.damaged(f"nothing tells where the chunk of {name} at {chunk[0]} lies")
        path = self.path / place.file
        if not path.is_file():
            raise PatchParityError(
                f"{self.path} names {place.file}, in which a part of {name} lies, and which is not "
                "there"
            )
        room = path.stat().st_size
        if place.begin + place.size > room:
            raise self.damaged(
                f"{name} claims bytes {place.begin} to {place.begin + place.size} of {place.file}, "
                f"which has {room}"
            )
        return place

    def _chunk(self, name: str, place: _Stored, info: TensorInfo) -> NDArray[Any]:
        """One chunk, from the archive that it is by itself."""
        if place.size > info.nbytes + OVERHEAD:
            raise self.damaged(f"{name} of {info.nbytes} bytes claims an archive of {place.size}")
        path = self.path / place.file
        with path.open("rb") as file:
            file.seek(place.begin)
            start = file.read(4)
        if start != b"PK\x03\x04":
            raise PatchParityError(
                f"{path} keeps {name} as torch.save does not (another serialization format, or "
                "damaged), which is not read: save it with the default of FileSystemWriter"
            )
        try:
            return self._of_archive(path, place, info)
        except PatchParityError as error:
            raise self.damaged(f"{name} cannot be read ({first_line(error)})") from None

    def _of_archive(self, path: Path, place: _Stored, info: TensorInfo) -> NDArray[Any]:
        """The one tensor of an archive, which is a part of a file."""
        with TorchCheckpoint(path, (place.begin, place.size)) as held:
            there = held.tensors.get("")
            if there is None or (there.shape, there.dtype) != (info.shape, info.dtype):
                found = "no tensor" if there is None else f"one of {there.shape} {there.dtype}"
                raise PatchParityError(
                    f"{path.name} holds {found} where a chunk of {info.shape} {info.dtype} should "
                    "be"
                )
            return held.read("")
