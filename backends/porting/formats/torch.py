"""torch's files, read without torch: a restricted unpickler that builds tensors and plain containers, and nothing else.

`torch.load(weights_only=True)` does the same for what `torch.save` writes, but refuses TorchScript archives, OpenAI's CLIP among them, and reads
everything. Here a storage is read when a tensor of it is asked for.
"""

import abc
import collections
import io
import math
import pickle
import pickletools
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....reference.errors import PatchParityError
from .archives import correct_checksums, data_begin, require_whole
from .base import COPIED_BYTES, LONGEST_NAMES, MOST_AXES, Checkpoint, TensorInfo, Tensors, dtype_of

LARGEST_PICKLE = 32 * 2**20
"""Bytes of the pickle that tells of the tensors; a model of a hundred thousand tensors has 10 MB of it."""

MOST_STEPS = 3_000_000
"""Steps of a pickle: about twenty a tensor, so of a hundred thousand tensors."""

LARGEST_KEY = 10_000
"""Values of a tuple, those within it counted as often as it holds them: sizes and keys have a few. Each step of some twenty bytes can double one."""

DEEPEST = 64
"""Containers within one another that are looked into."""

STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
"""torch's storages and NumPy's types."""


@dataclass(frozen=True, eq=False)
class _Storage:
    """Values that tensors are views of; `views` are all that were built, wherever in the file they are."""

    key: str
    dtype: str
    values: int
    views: list["_Tensor"] = field(default_factory=list, repr=False)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a storage that is given another state")


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A view of a storage: offset and strides in values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a tensor that is given another state")

    @property
    def extent(self) -> int:
        """Values of the storage from the first to the last that it reads."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))


class _Inert:
    """Stands for an object that is not built: it takes whatever it is given, and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Take an item."""

    def extend(self, items: Any) -> None:
        """Take items."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take an entry."""


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> Any:
    """In place of `torch._utils._rebuild_tensor_v2`, whose last argument may say that values are to be negated or conjugated when they are read."""
    if any(isinstance(each, Mapping) and (each.get("conj") or each.get("neg")) for each in others):
        raise ValueError("a tensor that is negated or conjugated when it is read: save it with .resolve_neg().resolve_conj()")
    if not isinstance(storage, _Storage):
        return _Inert()
    if not all(isinstance(each, (tuple, list)) and len(each) <= MOST_AXES for each in (shape, strides)):
        raise ValueError("a tensor whose shape or strides are no short tuples")
    found = _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    if found.offset < 0 or min((*found.shape, *found.strides), default=0) < 0 or len(found.shape) != len(found.strides):
        raise ValueError(f"a tensor of shape {found.shape}, strides {found.strides} and offset {found.offset}")
    if found.offset + found.extent > storage.values:
        raise ValueError(f"a tensor of shape {found.shape} reaches beyond its storage of {storage.values} values")
    storage.views.append(found)
    return found


def _first(value: Any = None, *others: Any) -> Any:
    """In place of what wraps a value: `torch._utils._rebuild_parameter`, `torch.jit._pickle.restore_type_tag`, ..."""
    return value


class _Call:
    """A function that a pickle may call, and nothing else: what it is cannot be changed by what the pickle does to it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("a function that is given another state")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function that is given another state")


def _short(sizes: Any = ()) -> tuple[Any, ...]:
    """In place of `torch.Size`."""
    if not isinstance(sizes, (tuple, list)) or len(sizes) > MOST_AXES:
        raise ValueError("a size that is no short tuple")
    return tuple(sizes)


_BUILT: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _Call(lambda *arguments: {}),
    ("collections", "Counter"): _Inert,
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor"): _Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): _Call(_first),
    ("torch._tensor", "_rebuild_from_type_v2"): _Call(lambda function, kind, arguments, state: _called(function, arguments)),
    ("torch", "Size"): _Call(_short),
    ("torch", "device"): _Inert,
    ("torch.nn.parameter", "Parameter"): _Inert,
    ("torch", "Tensor"): _Inert,
    ("argparse", "Namespace"): _Inert,
    ("types", "SimpleNamespace"): _Inert,
    ("pathlib", "PosixPath"): _Inert,
    ("numpy", "dtype"): _Inert,
    ("numpy", "ndarray"): _Inert,
    ("_codecs", "encode"): _Inert,
    ("torch._utils", "_rebuild_sparse_tensor"): _Inert,
    ("torch._utils", "_rebuild_qtensor"): _Inert,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _Inert,
    ("torch.serialization", "_get_layout"): _Inert,
}
"""What the pickles of checkpoints name, and what is built instead; nothing else is."""


def _called(function: Any, arguments: Any) -> Any:
    """What a function that a pickle names gives, if it is one of ours."""
    if not isinstance(function, _Call):
        raise ValueError("a tensor that is rebuilt by something else than a function of torch")
    return function(*arguments)


REFUSED_MODULES = frozenset(
    [
        "builtins",
        "__builtin__",
        "os",
        "posix",
        "nt",
        "subprocess",
        "sys",
        "socket",
        "shutil",
        "runpy",
        "importlib",
        "pickle",
        "_pickle",
        "operator",
        "ctypes",
        "webbrowser",
        "pty",
        "code",
        "multiprocessing",
        "threading",
        "signal",
        "pip",
        "setuptools",
        "torch",
        "numpy",
        "collections",
    ]
)
"""Modules that no checkpoint names but one that wants to run something: such a file is refused whole. Any other class is left unbuilt, and told."""

_INERT_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "omegaconf")
"""Modules of which checkpoints hold settings: all that they name is inert."""


def _require_modest(file: Any, path: Path) -> None:
    """Raise PatchParityError where the pickle that comes next would take far more memory or time than its bytes: it numbers an object far beyond those
    that it holds (the memo is as long as the number), has too many steps, or a tuple that holds itself doubled again and again, which is a key's hash
    and a name's text. The file stands where it stood."""
    start = file.tell()
    weights: list[Any] = []  # of what lies on the stack: how many values each tuple holds; a mark is None
    memo: dict[int, int] = {}
    for steps, (operation, argument, place) in enumerate(pickletools.genops(file)):
        name = operation.name
        if name in ("LONG_BINPUT", "BINPUT", "PUT") and int(argument) > (place or 0) - start + 1:
            raise PatchParityError(f"{path} is damaged or hostile: its pickle numbers an object {argument}")
        if steps > MOST_STEPS:
            raise PatchParityError(f"{path} is damaged or hostile: its pickle has more than {MOST_STEPS} steps")
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = weights[-1] if weights and weights[-1] else 1
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            weights.append(memo.get(int(argument), 1))
        elif name == "POP_MARK":
            _above_mark(weights)
        elif name in ("TUPLE", "FROZENSET"):
            weights.append(1 + sum(_above_mark(weights)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            held = [each or 1 for each in weights[-count:]]
            del weights[-count:]
            weights.append(1 + sum(held))
        else:
            _step(weights, operation)
        if weights and weights[-1] and weights[-1] > LARGEST_KEY:
            raise PatchParityError(f"{path} is damaged or hostile: its pickle has a tuple of more than {LARGEST_KEY} values")
    file.seek(start)


def _above_mark(weights: list[Any]) -> list[int]:
    """Take what lies above the last mark, and the mark."""
    held = []
    while weights:
        top = weights.pop()
        if top is None:
            break
        held.append(top)
    return held


def _step(weights: list[Any], operation: Any) -> None:
    """What a step of a pickle takes from the stack and puts there, as `pickletools` tells; containers that can be no keys count as one value."""
    before, after = operation.stack_before, operation.stack_after
    if pickletools.markobject in before:
        _above_mark(weights)
        count = before.index(pickletools.markobject)
    else:
        count = len(before)
    del weights[max(len(weights) - count, 0) :]
    weights += [None if each is pickletools.markobject else 1 for each in after]


def _load(file: Any, path: Path) -> tuple[Any, "_Unpickler"]:
    """The object of the pickle that comes next, and who built it."""
    _require_modest(file, path)
    unpickler = _Unpickler(file, path)
    return unpickler.load(), unpickler


_PLAIN_TYPES = frozenset(
    [
        "int",
        "long",
        "float",
        "bool",
        "complex",
        "str",
        "unicode",
        "bytes",
        "bytearray",
        "list",
        "dict",
        "tuple",
        "set",
        "frozenset",
        "slice",
        "range",
        "xrange",
        "object",
    ]
)
"""Of Python's own names those that are types of values: they are as harmless as anyone's class, and left unbuilt like it."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin-1")
        self.path = path
        self.storages: dict[str, _Storage] = {}
        self.unbuilt: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Name what stands for a global; nothing is imported."""
        if (module, name) in _BUILT:
            return _BUILT[module, name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if module.startswith("__torch__"):
            return _Inert
        if module == "torch.jit._pickle":
            return _Call(_first)
        if module == "torch" and re.fullmatch(r"(float|bfloat|complex|u?int|quint|qint)\d+(_\w+)?|bool", name):
            return name
        if module.split(".")[0] in _INERT_MODULES or module in _INERT_MODULES:
            return _Inert
        plain = module in ("builtins", "__builtin__") and name in _PLAIN_TYPES
        if (
            module.split(".")[0] in REFUSED_MODULES and not plain
        ):  # torch's, NumPy's and collections' own that are not above among them
            raise PatchParityError(f"{self.path} holds {module}.{name}, which is no tensor: nothing of it was run")
        self.unbuilt[f"{module}.{name}"] = None
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ('storage', type, key, device, values, ...)."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise ValueError("a reference to something else than a storage")
        kind, dtype, key, _, values, *view = pid
        if not (isinstance(kind, str) and kind == "storage" and isinstance(dtype, str) and isinstance(key, (str, int))):
            raise ValueError("a reference to something else than a storage")
        if any(each is not None for each in view):
            raise ValueError("a storage that is a part of another: save the file again with a newer torch")
        if type(values) is not int or values < 0:
            raise ValueError("a storage that does not tell how many values it has")
        return self.storages.setdefault(str(key), _Storage(str(key), dtype, int(values)))


def _flattened(
    found: Any, prefix: str, tensors: dict[str, _Tensor], depth: int, seen: dict[int, str], again: dict[str, str]
) -> None:
    """Tensors of nested containers, by the path to each; a container that is there twice is looked into once, and noted in `again`."""
    if isinstance(found, _Tensor):
        tensors[prefix.removesuffix(".")] = found
    elif id(found) in seen and isinstance(found, (Mapping, list, tuple, _Inert)) and found:
        again.setdefault(seen[id(found)], prefix)
    elif depth >= DEEPEST:
        again.setdefault("", f"{prefix}..., nested too deep to be looked into.")
    elif id(found) not in seen:
        seen[id(found)] = prefix
        for name, value in _members(found.state if isinstance(found, _Inert) else found):
            _flattened(value, f"{prefix}{name}.", tensors, depth + 1, seen, again)


def _members(inside: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key or place, and by attribute; keys that are no names are told as Python writes them."""
    if isinstance(inside, Mapping):
        for key, value in inside.items():
            yield key if isinstance(key, (str, int)) else f"({type(key).__name__})", value
    elif isinstance(inside, (list, tuple)):
        yield from enumerate(inside)
    if isinstance(inside, collections.OrderedDict):
        for attribute, value in vars(inside).items():
            yield f"@{attribute}", value


def _strided(values: NDArray[Any], view: _Tensor) -> NDArray[Any]:
    """A tensor as a view of the values from its first to its last; NumPy itself refuses one that they do not hold."""
    strides = [stride * values.itemsize for stride in view.strides]
    if min(strides, default=0) < 0 or view.extent > len(values):
        raise ValueError(f"a tensor of shape {view.shape} and strides {view.strides} reaches beyond its {len(values)} values")
    return np.ndarray(view.shape, values.dtype, values, 0, strides)


class TensorsOfStorages(Checkpoint):
    """Tensors that are views of storages."""

    format = "torch"

    def _keep(self, found: Any) -> None:
        self.views: dict[str, _Tensor] = {}
        self.again: dict[str, str] = {}
        _flattened(found, "", self.views, 0, {}, self.again)
        if sum(map(len, self.views)) > LONGEST_NAMES:
            raise self.damaged(f"its names have more than {LONGEST_NAMES} characters together")
        # A view that repeats values (a stride of 0) claims more than the file holds: no weight does.
        self.views = {name: view for name, view in self.views.items() if math.prod(view.shape) <= view.storage.values}
        self.tensors = {name: TensorInfo(view.shape, view.storage.dtype) for name, view in self.views.items()}

    def _view(self, name: str, content: bytes) -> NDArray[Any]:
        """A tensor from the bytes between its first and its last value."""
        view = self.views[name]
        values = np.frombuffer(content, dtype_of(view.storage.dtype))
        if len(values) < view.extent:
            raise ValueError(f"{len(values)} values, and {view.extent} are needed")
        return _strided(values, view).copy()

    @abc.abstractmethod
    def storage_begin(self, key: str) -> int:
        """Where the values of a storage begin in the file."""

    def replace(self, draft: Path, changes: Tensors) -> None:
        """Overwrite tensors in a copy of the file, where their values lie; the pickle, and what it holds beside tensors, stays as it is, unread.

        Raises:
            PatchParityError: a tensor that is not there, has another shape or type, or whose values other tensors read too.
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
            there = "nothing" if view is None else f"one of shape {view.shape} and type {view.storage.dtype}"
            raise PatchParityError(
                f"{self.path} has no place for {name} of shape {array.shape} and type {array.dtype}: it holds {there}"
            )
        if twice := next((pair for pair in self.again.items() if name.startswith(pair[0])), None):
            raise self._would_change(name, f"what is called {twice[1].removesuffix('.')!r} too")
        # A tensor that is changed alike may share: two names of one, or two tensors of the same values.
        alike = {called for called in changes if changes[called].tobytes() == array.tobytes()}
        for called, other in self.views.items():
            if called not in alike and self._shared(view, other):
                raise self._would_change(name, called)
        known = {id(other) for other in self.views.values()}
        if any(id(other) not in known and self._shared(view, other) for other in view.storage.views):
            raise self._would_change(name, "a tensor elsewhere in the file")

    def _would_change(self, name: str, other: str) -> PatchParityError:
        return PatchParityError(
            f"{self.path}: {name} shares its values with {other}, which would change with it: convert the file to safetensors first"
        )

    @staticmethod
    def _shared(one: _Tensor, other: _Tensor) -> bool:
        """Whether two tensors read of one storage, in ranges that overlap."""
        apart = one.offset + one.extent <= other.offset or other.offset + other.extent <= one.offset
        return one.storage.key == other.storage.key and not apart

    def _range(self, name: str) -> tuple[int, int]:
        view = self.views[name]
        size = dtype_of(view.storage.dtype).itemsize
        return view.offset * size, view.extent * size


class TorchCheckpoint(TensorsOfStorages):
    """What `torch.save` and `torch.jit.save` write since torch 1.6: an archive with a pickle, and a file for each storage."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.archive = zipfile.ZipFile(path)
        self.whole: set[str] = set()
        try:
            require_whole(self.archive, path)
            names = {entry.filename: entry for entry in self.archive.infolist()}
            entry = min(
                (entry for name, entry in names.items() if name.endswith("data.pkl")), key=lambda each: len(each.filename)
            )
            if entry.file_size > LARGEST_PICKLE or entry.compress_type != zipfile.ZIP_STORED:  # torch packs nothing
                raise self.damaged(f"{entry.filename} is packed, or claims {entry.file_size} bytes")
            self.root = entry.filename.removesuffix("data.pkl")
            order = names.get(f"{self.root}byteorder")
            if order is not None and order.file_size > 16:
                raise self.damaged(f"{order.filename} claims {order.file_size} bytes")
            if order is not None and self.archive.read(f"{self.root}byteorder") != b"little":
                raise PatchParityError(f"{path} was written on a big-endian machine, which is not read")
            with self.archive.open(entry) as file:
                content = file.read(entry.file_size)
            found, unpickler = _load(io.BytesIO(content), path)
            self.unbuilt = list(unpickler.unbuilt)
            self._keep(found)
            for name, view in self.views.items():
                self._check(name, view, names)
        except BaseException:
            self.archive.close()
            raise

    def _check(self, name: str, view: _Tensor, names: Mapping[str, zipfile.ZipInfo]) -> None:
        stored = names.get(f"{self.root}data/{view.storage.key}")
        needed = view.storage.values * dtype_of(view.storage.dtype).itemsize
        if stored is None:
            raise self.damaged(f"the values of {name} are not there")
        if stored.file_size < needed or stored.compress_type != zipfile.ZIP_STORED:
            raise self.damaged(f"{name} claims a storage of {needed} bytes, and {stored.file_size} are there")

    def _read(self, name: str) -> NDArray[Any]:
        begin, size = self._range(name)
        entry = f"{self.root}data/{self.views[name].storage.key}"
        if entry not in self.whole:  # once, to the end, where the archive's checksum is held against what was read
            with self.archive.open(entry) as file:
                while file.read(COPIED_BYTES):
                    pass
            self.whole.add(entry)
        with self.archive.open(entry) as file:
            file.seek(begin)
            return self._view(name, file.read(size))

    def storage_begin(self, key: str) -> int:
        """Behind the entry's own header, whose length the file tells once more."""
        return data_begin(self.path, self.archive.getinfo(f"{self.root}data/{key}"))

    def replace(self, draft: Path, changes: Tensors) -> None:
        """As told, and correct the checksums of the archive."""
        super().replace(draft, changes)
        entries = [f"{self.root}data/{key}" for key in dict.fromkeys(self.views[name].storage.key for name in changes)]
        correct_checksums(draft, self.archive, entries)

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


MAGIC = 0x1950A86A20F9469CFC6C
"""The first number in a file of `torch.save` before torch 1.6 (torch/serialization.py)."""


def _magic(start: bytes, path: Path) -> int:
    """The first pickle of a file, told without building it: one number.

    Raises:
        PatchParityError: a pickle that begins otherwise, or that names a global.
    """
    for operation, argument, _ in pickletools.genops(start):
        if operation.name in ("LONG1", "INT", "BININT", "LONG"):
            return int(argument)
        if operation.name in ("GLOBAL", "STACK_GLOBAL"):
            raise PatchParityError(f"{path} holds {str(argument).replace(' ', '.')}, which is no tensor: nothing of it was run")
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
            magic, _, system = (_load(file, path)[0] for _ in range(3))
            if magic != MAGIC:
                raise PatchParityError(f"{path} is a pickle, but none that torch wrote: it is not read")
            if not (isinstance(system, dict) and system.get("little_endian", True)):
                raise PatchParityError(f"{path} was written on a big-endian machine, which is not read")
            found, unpickler = _load(file, path)
            self.unbuilt = list(unpickler.unbuilt)
            self._keep(found)
            for key in map(str, _load(file, path)[0]):
                values = int.from_bytes(file.read(8), "little")
                storage = unpickler.storages.get(key)
                self.begins[key] = file.tell()
                room = size - file.tell()
                if storage is None or values < storage.values or values * dtype_of(storage.dtype).itemsize > room:
                    raise self.damaged(f"a storage claims {values} values, and {room} bytes are there")
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
            "writing a torch file needs torch: pip install 'patchparity[torch]', or write safetensors"
        ) from None
    from ...torch import as_tensor

    torch.save({name: as_tensor(array) for name, array in tensors.items()}, draft)


def replace_in_torch(source: TensorsOfStorages, draft: Path, changes: Tensors) -> None:
    """Overwrite tensors in a copy, where their values lie."""
    shutil.copyfile(source.path, draft)
    source.replace(draft, changes)
