"""Orbax: folders of arrays, kept by tensorstore as zarr 2 or zarr 3, in OCDBT or as folders.

They are read by tensorstore in a process of its own (`orbax_server.py`), and written by it here,
without JAX or Orbax.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import (
    EXPANSION,
    SMALL,
    Checkpoint,
    TensorInfo,
    Tensors,
    dtype_of,
    first_line,
    first_twin,
)
from .lazy import Feed
from .msgpack_files import MsgpackCheckpoint
from .native_client import NativeError, NativeServer
from .orbax_folders import (
    AGGREGATE,
    MANIFEST,
    PROCESS,
    STEP,
    SUCCESS,
    TREE,
    Leaf,
    items_of,
    names_of,
    require_inside,
    tree_of,
)

SERVER = NativeServer(
    Path(__file__).with_name("orbax_server.py"), "tensorstore", "orbax", "tensorstore"
)


DICTIONARY_KEY = 2
"""How Orbax tells that a key is one of a dictionary (metadata/tree.py, `KeyType`)."""


@dataclass(frozen=True)
class _Array:
    """Where an array is.

    Args:
        item: the folder of its item.
        ocdbt: whether that is OCDBT.
        stored: how the array is called there.
        driver: of tensorstore: `zarr` or `zarr3`.
        missing: what a chunk is that is not there: `zeros`, or why it is refused.
    """

    item: Path
    ocdbt: bool
    stored: str
    driver: str
    missing: str

    @property
    def place(self) -> tuple[str, bool, str]:
        """The place as the process is told of it."""
        return str(self.item.absolute()), self.ocdbt, self.stored


class OrbaxCheckpoint(Checkpoint):
    """A folder of Orbax; a tensor's name is its path in the tree, `params/embedding/kernel`. Of
    several steps it is the newest, of several items all, each under its name."""

    format = "orbax"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.arrays: dict[str, _Array] = {}
        self.aggregates: dict[str, tuple[MsgpackCheckpoint, str]] = {}
        self.items, step = items_of(path)
        leaves: list[tuple[str, tuple[str, ...]]] = []
        found: list[tuple[_Array, TensorInfo] | None] = []
        for before, item in self.items.items():
            for leaf, array, info in self._arrays_of(item):
                leaves.append((before, leaf.keys))
                found.append((array, info))
            self._keep_aggregate(before, item)
        for (name, wrapped), held in zip(names_of(leaves), found, strict=True):
            assert held is not None
            if name in self.aggregates:
                raise self.damaged(f"{name!r} is in a file and an array by itself")
            self.arrays[name], self.tensors[name] = held
            notes = [step] if step else []
            notes += ["kept under a further key, value, as nnx.State has it"] if wrapped else []
            if notes:
                self.told[name] = "; ".join(notes)

    @property
    def config_folder(self) -> Path:
        """The folder itself where a `config.json` lies in it, else the one that it is in."""
        inside = (self.path, *self.items.values())
        return next((place for place in inside if (place / "config.json").is_file()), self._beside)

    @property
    def _beside(self) -> Path:
        return self.path.absolute().parent

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of its items."""
        return tuple(
            file for item in self.items.values() for file in item.rglob("*") if file.is_file()
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those of its items."""
        return tuple(self.items.values())

    def _ask(self, item: Path, request: dict[str, Any]) -> tuple[dict[str, Any], bytearray]:
        try:
            return SERVER.ask(item, {"nbytes": 0, **request}, [])
        except NativeError as error:
            raise self.damaged(first_line(error)[:500]) from None

    def _arrays_of(self, item: Path) -> list[tuple[Leaf, _Array, TensorInfo]]:
        """The arrays of an item, by the leaves that they are."""
        ocdbt = (item / MANIFEST).is_file()
        if not ocdbt and next(item.glob(f"{PROCESS}*"), None):
            raise PatchParityError(
                f"{item} is a folder of Orbax, and not whole: its parts were never merged"
            )
        tree = tree_of(item)
        if tree is None:
            stored = self._ask(item, {"do": "keys", "ocdbt": ocdbt})[0]["found"]
            leaves, whole = [Leaf(tuple(key.split(".")), True) for key in stored], False
        else:
            leaves, whole = tree
        try:
            for leaf in leaves:
                require_inside(leaf.stored)
        except ValueError as error:
            raise self.damaged(str(error)) from None
        places = [(str(item.absolute()), ocdbt, leaf.stored) for leaf in leaves]
        answers = self._ask(item, {"do": "walk", "places": places})[0]["found"]
        missing = "may be zeros that were not written, or a file that is lost"
        if ocdbt and (tree is not None or (item / AGGREGATE).is_file()):
            missing = "zeros"  # its index, which has checksums, tells all that was written
        missing = "Orbax wrote: a file is lost" if whole else missing
        found = []
        for leaf, answer in zip(leaves, answers, strict=True):
            if answer is None:
                if leaf.required and not (item / AGGREGATE).is_file():
                    raise self.damaged(f"its tree has {'/'.join(leaf.keys)}, and no array is there")
                continue
            shape, dtype, driver = answer
            info = TensorInfo(tuple(shape), dtype)
            found.append((leaf, _Array(item, ocdbt, leaf.stored, driver, missing), info))
        return found

    def _keep_aggregate(self, before: str, item: Path) -> None:
        """Arrays that are in a file of msgpack, as Orbax kept small ones before."""
        if not (item / AGGREGATE).is_file():
            return
        held = MsgpackCheckpoint(item / AGGREGATE)
        for name, info in held.tensors.items():
            self.aggregates[before + name] = (held, name)
            self.tensors[before + name] = info

    def require_room(self, name: str, nbytes: int) -> None:
        """As of a file, of all files together."""
        if nbytes > SMALL:
            size = sum(file.stat().st_size for file in self.files)
            if nbytes > EXPANSION * size + SMALL:
                raise self.damaged(f"{name} claims {nbytes} bytes of files of {size}")

    def _read(self, name: str) -> NDArray[Any]:
        if name in self.aggregates:
            held, inner = self.aggregates[name]
            return held.read(inner)
        info, array = self.tensors[name], self.arrays[name]
        self.require_room(name, info.nbytes)
        answer, content = self._ask(
            array.item,
            {
                "do": "read",
                "place": array.place,
                "driver": array.driver,
                "shape": info.shape,
                "dtype": info.dtype,
                "missing": array.missing,
                "nbytes": info.nbytes,
            },
        )
        if answer["filled"]:
            zeros = "chunks that were not written, which are zeros"
            self.told[name] = "; ".join(filter(None, (self.told.get(name, ""), zeros)))
        return np.frombuffer(content, dtype_of(info.dtype)).reshape(info.shape)


def write_orbax(draft: Path, tensors: Tensors) -> None:
    """Write a folder anew, as Orbax's PyTreeCheckpointer does by default: zarr 2 in OCDBT; `/` in a
    name is a level of the tree. Orbax restores it as NumPy's arrays, or onto the devices that its
    user names.

    Source: orbax/checkpoint/_src/metadata/tree.py and checkpoint.py.
    """
    if twice := first_twin([name.replace("/", ".") for name in tensors]):
        raise PatchParityError(f"Orbax keeps two tensors under the name {twice}")
    draft.mkdir()
    store = _opened_to_write(draft)
    for name, array in tensors.items():
        _write_array(store, name.replace("/", "."), array)
    _told_to_orbax(draft, list(tensors))


def stream_orbax(draft: Path, feed: Feed, metadata: Mapping[str, Any]) -> None:
    """As `write_orbax`, a tensor at a time; tensorstore holds one more copy of each, packed."""
    if twice := first_twin([name.replace("/", ".") for name in feed.tensors]):
        raise PatchParityError(f"Orbax keeps two tensors under the name {twice}")
    draft.mkdir()
    store = _opened_to_write(draft)
    for name in feed.tensors:
        _write_array(store, name.replace("/", "."), feed.whole(name))
    _told_to_orbax(draft, list(feed.tensors))


def _opened_to_write(folder: Path) -> Any:
    """The OCDBT of a folder, in which one array after another is written."""
    try:
        import tensorstore
    except ImportError:
        raise PatchParityError(
            "tensorstore is not installed: pip install 'patchparity[orbax]'"
        ) from None
    base = {"driver": "file", "path": f"{folder.absolute()}/"}
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


def _write_array(store: Any, stored: str, array: NDArray[Any]) -> None:
    import tensorstore

    metadata = {"shape": list(array.shape), "chunks": [max(size, 1) for size in array.shape]}
    spec = {
        "driver": "zarr",
        "kvstore": {**store.spec().to_json(), "path": f"{stored}/"},
        "dtype": array.dtype.name,
        "metadata": {**metadata, "compressor": {"id": "zstd", "level": 1}},
        "store_data_equal_to_fill_value": True,
    }
    tensorstore.open(spec, create=True, open=False).result().write(array).result()


def _told_to_orbax(folder: Path, names: list[str]) -> None:
    """The JSON that tells Orbax of the tree, and that it was written to its end."""
    leaves = {}
    for name in names:
        keys = name.split("/")
        leaves[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": DICTIONARY_KEY} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    tree = {
        "tree_metadata": leaves,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }
    handler = "orbax.checkpoint._src.handlers.pytree_checkpoint_handler.PyTreeCheckpointHandler"
    now = time.time_ns()
    step = {
        "item_handlers": handler,
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": now,
        "commit_timestamp_nsecs": now,
        "custom_metadata": {},
    }
    (folder / TREE).write_text(json.dumps(tree), encoding="utf-8")
    (folder / STEP).write_text(json.dumps(step), encoding="utf-8")
    (folder / SUCCESS).write_text("", encoding="utf-8")


def replace_in_orbax(source: OrbaxCheckpoint, draft: Path, changes: Tensors) -> None:
    """Copy the folder with all that lies in it, and write the new values of arrays there over the
    old ones; OCDBT keeps the old ones too, which nothing leads to any more.

    Raises:
        PatchParityError: a tensor that is not there, has another shape or type, or is in no array.
    """
    for name, array in changes.items():
        info = source.tensors.get(name)
        if info is None or info.shape != array.shape or dtype_of(info.dtype) != array.dtype:
            there = "nothing" if info is None else f"one of shape {info.shape} and {info.dtype}"
            raise PatchParityError(
                f"{source.path} has no place for {name} of shape {array.shape} and "
                f"{array.dtype}: it holds {there}"
            )
        if name not in source.arrays:
            raise PatchParityError(
                f"{source.path} keeps {name} in a file of msgpack, which is read and not changed"
            )
    shutil.copytree(source.path, draft)
    for name, array in changes.items():
        held = source.arrays[name]
        item = draft / held.item.relative_to(source.path)
        _overwrite(item, held, array)


def _overwrite(item: Path, held: _Array, array: NDArray[Any]) -> None:
    try:
        import tensorstore
    except ImportError:
        raise PatchParityError(
            "tensorstore is not installed: pip install 'patchparity[orbax]'"
        ) from None
    path = f"{item.absolute()}/"
    store: dict[str, Any] = {"driver": "file", "path": f"{path}{held.stored}/"}
    if held.ocdbt:
        base = {"driver": "file", "path": path}
        store = {"driver": "ocdbt", "base": base, "path": f"{held.stored}/"}
    spec = {"driver": held.driver, "kvstore": store, "store_data_equal_to_fill_value": True}
    tensorstore.open(spec, open=True, create=False).result().write(array).result()
