"""torch's files, read without torch: archives, and the form before them; `pickles` says what their
pickles may build."""

import abc
import functools
import io
import math
import pickletools
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .archives import Section, correct_checksums, data_begin, require_whole
from .checkpoint import COPIED_BYTES, LONGEST_NAMES, Checkpoint, TensorInfo, Tensors, dtype_of
from .pickles import LARGEST_PICKLE, Tensor, flattened, load_pickle


def _strided(values: NDArray[Any], view: Tensor) -> NDArray[Any]:
    """A tensor as a view of the values from its first to its last; NumPy itself refuses one that
    they do not hold."""
    strides = [stride * values.itemsize for stride in view.strides]
    if min(strides, default=0) < 0 or view.extent > len(values):
        raise ValueError(
            f"a tensor of shape {view.shape} and strides {view.strides} reaches beyond its "
            f"{len(values)} values"
        )
    return np.ndarray(view.shape, values.dtype, values, 0, strides)


LARGEST_REPEATED = 2**24
"""Values of a tensor that repeats those of its storage (`expand`): 64 MB of float32; a kernel of
ViT-g/14 has 0.8 million, a table of its positions 2.4."""


class TensorsOfStorages(Checkpoint):
    """Tensors that are views of storages."""

    format = "torch"

    def _keep(self, payload: Any) -> None:
        self.views: dict[str, Tensor] = {}
        self.again: dict[str, str] = {}
        flattened(payload, "", self.views, 0, {}, self.again)
        if sum(map(len, self.views)) > LONGEST_NAMES:
            raise self.damaged(f"its names have more than {LONGEST_NAMES} characters together")
        self.tensors = {
            name: TensorInfo(view.shape, view.storage.dtype) for name, view in self.views.items()
        }

    def _view(self, name: str, content: bytes) -> NDArray[Any]:
        """A tensor from the bytes between its first and its last value."""
        view = self.views[name]
        if view.repeats and math.prod(view.shape) > LARGEST_REPEATED:
            raise PatchParityError(
                f"{self.path}: {name} {view.shape} repeats {view.extent} values, and claims far "
                "more than the file holds"
            )
        values = np.frombuffer(content, dtype_of(view.storage.dtype))
        if len(values) < view.extent:
            raise ValueError(f"{len(values)} values, and {view.extent} are needed")
        return _strided(values, view).copy()

    @abc.abstractmethod
    def storage_begin(self, key: str) -> int:
        """Where the values of a storage begin in the file."""

    def replace(self, draft: Path, changes: Tensors) -> None:
        """Overwrite tensors in a copy of the file, where their values lie; the pickle, and what it
        holds beside tensors, stays as it is, unread.

        Raises:
            PatchParityError: a tensor that is not there, has another shape or type, or whose values
                other tensors read too.
        """
        for name, array in changes.items():
            self._require_place(name, array, changes)
        with draft.open("r+b") as file:
            for name, array in changes.items():
                begin, size = self._range(name)
                begin += self.storage_begin(self.views[name].storage.key)
                file.seek(begin)
                values = np.frombuffer(bytearray(file.read(size)), array.dtype)
                _strided(values, self.views[name])[...] = array
                file.seek(begin)
                file.write(values.tobytes())

    def _require_place(self, name: str, array: NDArray[Any], changes: Tensors) -> None:
        view = self.views.get(name)
        if view is None or view.shape != array.shape or dtype_of(view.storage.dtype) != array.dtype:
            there = (
                "nothing"
                if view is None
                else f"one of shape {view.shape} and type {view.storage.dtype}"
            )
            raise PatchParityError(
                f"{self.path} has no place for {name} of shape {array.shape} and type "
                f"{array.dtype}: it holds {there}"
            )
        if view.repeats:
            raise PatchParityError(
                f"{self.path} keeps {name} as {view.extent} values that are repeated: it has no "
                "place for others"
            )
        if twice := next((pair for pair in self.again.items() if name.startswith(pair[0])), None):
            raise self._would_change(name, f"what is called {twice[1].removesuffix('.')!r} too")
        # A tensor that is changed alike may share: two names of one, or two tensors of the same
        # values.
        alike = {called for called in changes if changes[called].tobytes() == array.tobytes()}
        for called, other in self.views.items():
            if called not in alike and self._shared(view, other):
                raise self._would_change(name, called)
        known = {id(other) for other in self.views.values()}
        if any(
            id(other) not in known and self._shared(view, other) for other in view.storage.views
        ):
            raise self._would_change(name, "a tensor elsewhere in the file")

    def _would_change(self, name: str, other: str) -> PatchParityError:
        return PatchParityError(
            f"{self.path}: {name} shares its values with {other}, which would change with it: "
            "convert the file to safetensors first"
        )

    @staticmethod
    def _shared(one: Tensor, other: Tensor) -> bool:
        """Whether two tensors read of one storage, in ranges that overlap."""
        apart = one.offset + one.extent <= other.offset or other.offset + other.extent <= one.offset
        return one.storage.key == other.storage.key and not apart

    def _range(self, name: str) -> tuple[int, int]:
        view = self.views[name]
        size = dtype_of(view.storage.dtype).itemsize
        return view.offset * size, view.extent * size


class ArchivedStorages(TensorsOfStorages):
    """Storages that are files of an archive, unpacked, one each; the archive may itself `begin`
    behind the start of the file."""

    archive: zipfile.ZipFile
    begin = 0

    @abc.abstractmethod
    def entry_of(self, key: str) -> str:
        """The name of a storage in the archive."""

    @functools.cached_property
    def whole(self) -> set[str]:
        """The files of the archive that were read to their ends."""
        return set()

    def _read(self, name: str) -> NDArray[Any]:
        begin, size = self._range(name)
        entry = self.entry_of(self.views[name].storage.key)
        # once, to the end, where the archive's checksum is held against what was read
        if entry not in self.whole:
            with self.archive.open(entry) as file:
                while file.read(COPIED_BYTES):
                    pass
            self.whole.add(entry)
        with self.archive.open(entry) as file:
            file.seek(begin)
            return self._view(name, file.read(size))

    def storage_begin(self, key: str) -> int:
        """Behind the entry's own header, whose length the file tells once more."""
        return data_begin(self.path, self.archive.getinfo(self.entry_of(key)), self.begin)

    def replace(self, draft: Path, changes: Tensors) -> None:
        """As told, and correct the checksums of the archive."""
        super().replace(draft, changes)
        keys = dict.fromkeys(self.views[name].storage.key for name in changes)
        correct_checksums(draft, self.archive, [self.entry_of(key) for key in keys])

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


SCRIPTED = (
    "of a program of TorchScript, whose code is not looked at: what it does to images and tokens "
    "beside is not known"
)
"""What is to be known of the tensors of an archive with code in it."""


class TorchCheckpoint(ArchivedStorages):
    """What `torch.save` and `torch.jit.save` write since torch 1.6: an archive with a pickle, and a
    file for each storage; it may lie `inside` another file, from a byte on, of so many bytes."""

    def __init__(self, path: Path, inside: tuple[int, int] | None = None) -> None:
        super().__init__(path)
        self.begin = inside[0] if inside else 0
        self.section = Section(path, *inside) if inside else None
        self.archive = zipfile.ZipFile(self.section or path)
        try:
            require_whole(self.archive, path, self.begin)
            names = {entry.filename: entry for entry in self.archive.infolist()}
            entry = min(
                (entry for name, entry in names.items() if name.endswith("data.pkl")),
                key=lambda member: len(member.filename),
            )
            # torch packs nothing
            if entry.file_size > LARGEST_PICKLE or entry.compress_type != zipfile.ZIP_STORED:
                raise self.damaged(f"{entry.filename} is packed, or claims {entry.file_size} bytes")
            self.root = entry.filename.removesuffix("data.pkl")
            order = names.get(f"{self.root}byteorder")
            if order is not None and order.file_size > 16:
                raise self.damaged(f"{order.filename} claims {order.file_size} bytes")
            if order is not None and self.archive.read(f"{self.root}byteorder") != b"little":
                raise PatchParityError(
                    f"{path} was written on a big-endian machine, which is not read"
                )
            with self.archive.open(entry) as file:
                content = file.read(entry.file_size)
            payload, unpickler = load_pickle(io.BytesIO(content), path)
            self.unbuilt = list(unpickler.unbuilt)
            self._keep(payload)
            for name, view in self.views.items():
                self._check(name, view, names)
            if any(name.startswith(f"{self.root}code/") for name in names):
                self.told = dict.fromkeys(self.tensors, SCRIPTED)
        except BaseException:
            self.close()
            raise

    def _check(self, name: str, view: Tensor, names: Mapping[str, zipfile.ZipInfo]) -> None:
        stored = names.get(f"{self.root}data/{view.storage.key}")
        needed = view.storage.values * dtype_of(view.storage.dtype).itemsize
        if stored is None:
            raise self.damaged(f"the values of {name} are not there")
        if stored.file_size < needed or stored.compress_type != zipfile.ZIP_STORED:
            raise self.damaged(
                f"{name} claims a storage of {needed} bytes, and {stored.file_size} are there"
            )

    def entry_of(self, key: str) -> str:
        """Beside the pickle."""
        return f"{self.root}data/{key}"

    def close(self) -> None:
        """Close the archive, and what it lies in."""
        super().close()
        if self.section:
            self.section.close()


MAGIC = 0x1950A86A20F9469CFC6C
"""The first number in a file of `torch.save` before torch 1.6 (torch/serialization.py)."""


def _magic(start: bytes, path: Path) -> int:
    """The first pickle of a file, told without building it: one number.

    Raises:
        PatchParityError: a pickle that begins otherwise, or that names a global.
    """
    for operation, argument, _ in pickletools.genops(start):
        if operation.name in ("LONG1", "INT", "BININT", "LONG"):
            return int(argument or 0)
        if operation.name in ("GLOBAL", "STACK_GLOBAL"):
            raise PatchParityError(
                f"{path} holds {str(argument).replace(' ', '.')}, which is no tensor: nothing of "
                "it was run"
            )
        if operation.name not in ("PROTO", "FRAME"):
            break
    raise PatchParityError(f"{path} is a pickle, but none that torch wrote: it is not read")


class LegacyTorchCheckpoint(TensorsOfStorages):
    """What `torch.save` wrote before torch 1.6: five pickles, then the storages."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        size = path.stat().st_size
        self.begins: dict[str, int] = {}
        with path.open("rb") as file:
            magic = _magic(file.read(64), path)
            file.seek(0)
            magic, _, system = (load_pickle(file, path)[0] for _ in range(3))
            if magic != MAGIC:
                raise PatchParityError(
                    f"{path} is a pickle, but none that torch wrote: it is not read"
                )
            if not (isinstance(system, dict) and system.get("little_endian", True)):
                raise PatchParityError(
                    f"{path} was written on a big-endian machine, which is not read"
                )
            payload, unpickler = load_pickle(file, path)
            self.unbuilt = list(unpickler.unbuilt)
            self._keep(payload)
            for key in map(str, load_pickle(file, path)[0]):
                values = int.from_bytes(file.read(8), "little")
                storage = unpickler.storages.get(key)
                self.begins[key] = file.tell()
                room = size - file.tell()
                if (
                    storage is None
                    or values < storage.values
                    or values * dtype_of(storage.dtype).itemsize > room
                ):
                    raise self.damaged(
                        f"a storage claims {values} values, and {room} bytes are there"
                    )
                file.seek(values * dtype_of(storage.dtype).itemsize, io.SEEK_CUR)
        for name, view in self.views.items():
            if view.storage.key not in self.begins:
                raise self.damaged(f"the values of {name} are not there")

    def storage_begin(self, key: str) -> int:
        """Behind the count of its values."""
        return self.begins[key]

    def _read(self, name: str) -> NDArray[Any]:
        begin, size = self._range(name)
        with self.path.open("rb") as file:
            file.seek(self.begins[self.views[name].storage.key] + begin)
            return self._view(name, file.read(size))


def write_torch(draft: Path, tensors: Tensors) -> None:
    """Write a file anew, by torch itself."""
    try:
        import torch
    except ImportError:
        raise PatchParityError(
            "writing a torch file needs torch: pip install 'patchparity[torch]', or write "
            "safetensors"
        ) from None
    from ...backends.torch.adapter import as_tensor

    torch.save({name: as_tensor(array) for name, array in tensors.items()}, draft)


def replace_in_torch(source: TensorsOfStorages, draft: Path, changes: Tensors) -> None:
    """Overwrite tensors in a copy, where their values lie."""
    shutil.copyfile(source.path, draft)
    source.replace(draft, changes)
