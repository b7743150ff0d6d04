"""What a pickle of torch's may build: tensors and plain containers, and nothing else. Nothing that
it names is imported or called.

`torch.load(weights_only=True)` does the same for what `torch.save` writes, but refuses TorchScript
archives, OpenAI's CLIP among them, and reads everything. Here a storage is read when a tensor of it
is asked for.
"""

import collections
import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from .checkpoint import MOST_AXES

LARGEST_PICKLE = 32 * 2**20
"""Bytes of the pickle that tells of the tensors; a model of a hundred thousand tensors has 10 MB of
it."""

MOST_STEPS = 3_000_000
"""Steps of a pickle: about twenty a tensor, so of a hundred thousand tensors."""

LARGEST_KEY = 10_000
"""Values of a tuple, those within it counted as often as it holds them: sizes and keys have a few.
Each step of some twenty bytes can double one."""

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
class Storage:
    """Values that tensors are views of; `views` are all that were built, wherever in the file they
    are."""

    key: str
    dtype: str
    values: int
    views: list["Tensor"] = field(default_factory=list, repr=False)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a storage that is given another state")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage: offset and strides in values."""

    storage: Storage
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
        return 1 + sum(
            (size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)
        )

    @property
    def repeats(self) -> bool:
        """Whether it has more values than it reads: those of an `expand` have strides of 0."""
        return math.prod(self.shape) > self.extent


class Inert:
    """Stands for an object that is not built: it takes whatever it is given, and does nothing."""

    state: Any = None  # of one that is made without a call

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
    """In place of `torch._utils._rebuild_tensor_v2`, whose last argument may say that values are to
    be negated or conjugated when they are read."""
    if any(
        isinstance(argument, Mapping) and (argument.get("conj") or argument.get("neg"))
        for argument in others
    ):
        raise PatchParityError(
            "a tensor is negated or conjugated when it is read: save it with "
            ".resolve_neg().resolve_conj()"
        )
    if not isinstance(storage, Storage):
        return Inert()
    if not all(
        isinstance(numbers, (tuple, list)) and len(numbers) <= MOST_AXES
        for numbers in (shape, strides)
    ):
        raise ValueError("a tensor whose shape or strides are no short tuples")
    view = Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))
    if (
        view.offset < 0
        or min((*view.shape, *view.strides), default=0) < 0
        or len(view.shape) != len(view.strides)
    ):
        raise ValueError(
            f"a tensor of shape {view.shape}, strides {view.strides} and offset {view.offset}"
        )
    if view.offset + view.extent > storage.values:
        raise ValueError(
            f"a tensor of shape {view.shape} reaches beyond its storage of {storage.values} values"
        )
    storage.views.append(view)
    return view


def _first(value: Any = None, *others: Any) -> Any:
    """In place of what wraps a value: `torch._utils._rebuild_parameter`,
    `torch.jit._pickle.restore_type_tag`, ..."""
    return value


class _Call:
    """A function that a pickle may call, and nothing else: what it is cannot be changed by what the
    pickle does to it."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

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
    ("collections", "Counter"): Inert,
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_tensor),
    ("torch._utils", "_rebuild_tensor"): _Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): _Call(_first),
    ("torch._tensor", "_rebuild_from_type_v2"): _Call(
        lambda function, kind, arguments, state: _called(function, arguments)
    ),
    ("torch", "Size"): _Call(_short),
    ("torch", "device"): Inert,
    ("torch.nn.parameter", "Parameter"): Inert,
    ("torch", "Tensor"): Inert,
    ("argparse", "Namespace"): Inert,
    ("types", "SimpleNamespace"): Inert,
    ("pathlib", "PosixPath"): Inert,
    ("numpy", "dtype"): Inert,
    ("numpy", "ndarray"): Inert,
    ("_codecs", "encode"): Inert,
    # Python 3.11.0 to 3.11.3 write a member of an enumeration as an attribute of its class
    ("builtins", "getattr"): Inert,
    ("__builtin__", "getattr"): Inert,
    ("torch._utils", "_rebuild_sparse_tensor"): Inert,
    ("torch._utils", "_rebuild_qtensor"): Inert,
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): Inert,
    ("torch.serialization", "_get_layout"): Inert,
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
"""Modules that no checkpoint names but one that wants to run something: such a file is refused
whole. Any other class is left unbuilt, and told."""

_INERT_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray", "omegaconf")
"""Modules of which checkpoints hold settings: all that they name is inert."""


def _require_modest(file: Any, path: Path) -> int:
    """Raise PatchParityError where the pickle that comes next would take far more memory or time
    than its bytes: it numbers an object far beyond those that it holds (the memo is as long as the
    number), has too many steps, or a tuple that holds itself doubled again and again, which is a
    key's hash and a name's text. Returns how many bytes it has; the file stands where it stood."""
    start = file.tell()
    # of what lies on the stack: how many values each tuple holds; a mark is None
    weights: list[Any] = []
    memo: dict[int, int] = {}
    for steps, (operation, argument, place) in enumerate(pickletools.genops(file)):
        name = operation.name
        if (
            name in ("LONG_BINPUT", "BINPUT", "PUT")
            and int(argument or 0) > (place or 0) - start + 1
        ):
            raise PatchParityError(
                f"{path} is damaged or hostile: its pickle numbers an object {argument}"
            )
        if steps > MOST_STEPS:
            raise PatchParityError(
                f"{path} is damaged or hostile: its pickle has more than {MOST_STEPS} steps"
            )
        if name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else int(argument or 0)] = (
                weights[-1] if weights and weights[-1] else 1
            )
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            weights.append(memo.get(int(argument or 0), 1))
        elif name == "POP_MARK":
            _above_mark(weights)
        elif name in ("TUPLE", "FROZENSET"):
            weights.append(1 + sum(_above_mark(weights)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            held = [weight or 1 for weight in weights[-count:]]
            del weights[-count:]
            weights.append(1 + sum(held))
        else:
            _step(weights, operation)
        if weights and weights[-1] and weights[-1] > LARGEST_KEY:
            raise PatchParityError(
                f"{path} is damaged or hostile: its pickle has a tuple of more than {LARGEST_KEY} "
                "values"
            )
    size = file.tell() - start
    file.seek(start)
    return int(size)


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
    """What a step of a pickle takes from the stack and puts there, as `pickletools` tells;
    containers that can be no keys count as one value."""
    before, after = operation.stack_before, operation.stack_after
    if pickletools.markobject in before:
        _above_mark(weights)
        count = before.index(pickletools.markobject)
    else:
        count = len(before)
    del weights[max(len(weights) - count, 0) :]
    weights += [None if stack_object is pickletools.markobject else 1 for stack_object in after]


class _Bounded:
    """A file of which no more is asked than it has: a pickle may claim four billion bytes, for
    which memory would be taken before they are missed."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.tell, self.seek, self.readline = file.tell, file.seek, file.readline
        place = file.tell()
        self.end = file.seek(0, io.SEEK_END)
        file.seek(place)

    def read(self, size: int) -> bytes:
        """At most what is left."""
        return self.file.read(min(size, max(self.end - self.file.tell(), 0)))


def load_pickle(
    file: Any, path: Path, kind: "type[Unpickler] | None" = None
) -> tuple[Any, "Unpickler"]:
    """The object of the pickle that comes next, and who built it; `kind` may know more names than
    those of tensors."""
    content = file.read(_require_modest(_Bounded(file), path))
    unpickler = (kind or Unpickler)(io.BytesIO(content), path)
    try:
        return unpickler.load(), unpickler
    except PatchParityError as error:
        message = str(error)
        raise PatchParityError(
            message if message.startswith(str(path)) else f"{path}: {message}"
        ) from None


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
"""Of Python's own names those that are types of values: they are as harmless as anyone's class, and
left unbuilt like it."""


class Unpickler(pickle.Unpickler):
    """Builds storages, tensors of them and plain containers; `unbuilt` names the classes that it
    left alone."""

    def __init__(self, file: Any, path: Path) -> None:
        super().__init__(file, encoding="latin-1")
        self.path = path
        self.storages: dict[str, Storage] = {}
        self.unbuilt: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Name what stands for a global; nothing is imported."""
        if (module, name) == ("numpy", "ndarray"):
            self.unbuilt["numpy.ndarray"] = None
        if (module, name) in _BUILT:
            return _BUILT[module, name]
        if module in ("torch", "torch.storage", "torch.cuda") and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if module.startswith("__torch__"):
            return Inert
        if module == "torch.jit._pickle":
            return _Call(_first)
        if module == "torch" and re.fullmatch(
            r"(float|bfloat|complex|u?int|quint|qint)\d+(_\w+)?|bool", name
        ):
            return name
        if module.split(".")[0] in _INERT_MODULES or module in _INERT_MODULES:
            return Inert
        plain = module in ("builtins", "__builtin__") and name in _PLAIN_TYPES
        plain = plain or (
            module == "collections"
            and name in ("deque", "ChainMap", "UserDict", "UserList", "UserString")
        )
        if (
            module.split(".")[0] in REFUSED_MODULES and not plain
        ):  # torch's, NumPy's and collections' own that are not above among them
            if name == "_rebuild_tensor_v3":
                raise PatchParityError(
                    f"{self.path} holds a tensor of a type that is not read (float8, or another "
                    "new one): save it in bfloat16"
                )
            whole = " (of a whole module: torch.save its state_dict())"
            hint = whole if module.startswith("torch.nn.modules") else ""
            raise PatchParityError(
                f"{self.path} holds {module}.{name}, which is no tensor: nothing of it was "
                f"run{hint}"
            )
        self.unbuilt[f"{module}.{name}"] = None
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        """A storage: ('storage', type, key, device, values, ...)."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6):
            raise ValueError("a reference to something else than a storage")
        kind, dtype, key, _, values, *view = pid
        if not (
            isinstance(kind, str)
            and kind == "storage"
            and isinstance(dtype, str)
            and isinstance(key, (str, int))
        ):
            raise ValueError("a reference to something else than a storage")
        if any(part is not None for part in view):
            raise ValueError(
                "a storage that is a part of another: save the file again with a newer torch"
            )
        if type(values) is not int or values < 0:
            raise ValueError("a storage that does not tell how many values it has")
        return self.storages.setdefault(str(key), Storage(str(key), dtype, int(values)))


def flattened(
    node: Any,
    prefix: str,
    tensors: dict[str, Tensor],
    depth: int,
    seen: dict[int, str],
    again: dict[str, str],
) -> None:
    """Tensors of nested containers, by the path to each; a container that is there twice is looked
    into once, and noted in `again`."""
    if isinstance(node, Tensor):
        tensors[prefix.removesuffix(".")] = node
    elif id(node) in seen and isinstance(node, (Mapping, list, tuple, Inert)) and node:
        again.setdefault(seen[id(node)], prefix)
    elif depth >= DEEPEST:
        again.setdefault("", f"{prefix}..., nested too deep to be looked into.")
    elif id(node) not in seen:
        seen[id(node)] = prefix
        for name, value in _members(node.state if isinstance(node, Inert) else node):
            flattened(value, f"{prefix}{name}.", tensors, depth + 1, seen, again)


def _members(inside: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key or place, and by attribute; keys that are no names are told as
    Python writes them."""
    if isinstance(inside, Mapping):
        for key, value in inside.items():
            yield key if isinstance(key, (str, int)) else f"({type(key).__name__})", value
    elif isinstance(inside, (list, tuple)):
        yield from enumerate(inside)
    if isinstance(inside, collections.OrderedDict):
        for attribute, value in vars(inside).items():
            yield f"@{attribute}", value
