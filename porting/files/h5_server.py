"""Answers of the process that reads and changes HDF5 files for another (`native_server.py`), which
knows nothing of patchparity."""

import math
from typing import Any, BinaryIO

import h5py
import numpy as np

MOST_NAMES = 2**14
"""Names of a file that are looked at: the largest Keras models have some thousands, and each takes
0.15 ms on a slow machine."""

MOST_LINKED = 2**12
"""Names that are looked at where groups have several: those of groups within groups are as many as
their product."""

MOST_PIECES = 2**16
"""Pieces that a dataset may lie in."""

LONGEST_CONFIG = 2**22
"""Characters of how a model is built: that of a model of a thousand layers has 2 million."""


class DamagedError(Exception):
    """Content that is refused, in words that a user reads."""


class _TooManyNamesError(Exception):
    """More names than are looked at."""


class _Walk:
    """What was found on a walk through groups.

    Args:
        each_name: whether a group with several names is looked into under each of them.
    """

    def __init__(self, each_name: bool) -> None:
        self.each_name = each_name
        self.most = MOST_LINKED if each_name else MOST_NAMES
        self.found: dict[str, tuple[list[int], str]] = {}
        self.names = 0
        self.seen: set[int] = set()
        self.linked = False


def _look_into(group: Any, prefix: str, above: tuple[int, ...], walk: _Walk) -> None:
    """All of what is in a group; a group within itself is not looked into again."""
    address = h5py.h5o.get_info(group.id).addr
    if address in above:
        return
    if address in walk.seen:
        walk.linked = True
        if not walk.each_name:
            return
    walk.seen.add(address)
    for name in group:
        walk.names += 1
        if walk.names > walk.most:
            raise _TooManyNamesError
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise DamagedError(f"{prefix}{name} leads out of the file")
        if isinstance(link, h5py.SoftLink):
            continue  # another name of something that is here
        item = group[name]
        if isinstance(item, h5py.Group):
            _look_into(item, f"{prefix}{name}/", (*above, address), walk)
        elif isinstance(item, h5py.Dataset) and (shape_and_dtype := _told(f"{prefix}{name}", item)):
            walk.found[f"{prefix}{name}"] = shape_and_dtype


def _told(name: str, dataset: Any) -> tuple[list[int], str] | None:
    """Shape and type of a dataset of numbers."""
    if dataset.is_virtual or dataset.external:
        raise DamagedError(f"{name} keeps its values outside of the file")
    dtype_attribute = dataset.attrs.get("dtype", "")
    narrow = (
        dtype_attribute if isinstance(dtype_attribute, str) else ""
    ) == "bfloat16" or dataset.dtype == np.dtype("V2")
    if dataset.dtype.kind in "fiub" or narrow:
        return list(map(int, dataset.shape)), "bfloat16" if narrow else dataset.dtype.newbyteorder(
            "="
        ).name
    return None


def walk(path: str) -> dict[str, Any]:
    """Every dataset of numbers, with its shape and type; those in groups with several names, where
    these are too many, by the first."""
    with h5py.File(path, "r") as file:
        first = _Walk(each_name=False)
        try:
            _look_into(file, "", (), first)
        except _TooManyNamesError:
            raise DamagedError(f"it has more than {MOST_NAMES} names") from None
        if not first.linked:
            return first.found
        every = _Walk(each_name=True)
        try:
            _look_into(file, "", (), every)
        except _TooManyNamesError:
            return first.found
        return every.found


def model_config(path: str) -> str:
    """The text that a whole model of Keras before 3 keeps of how it is built; empty without one."""
    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs or file.attrs.get_id("model_config").shape != ():
            return ""
        text = file.attrs["model_config"]
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return text if isinstance(text, str) and len(text) <= LONGEST_CONFIG else ""


def read(path: str, name: str) -> np.ndarray[Any, Any]:
    """One dataset, in this machine's order of bytes."""
    with h5py.File(path, "r") as file:
        dataset = file[name]
        if dataset.chunks is not None:
            pieces = math.prod(
                -(-size // piece) for size, piece in zip(dataset.shape, dataset.chunks, strict=True)
            )
            if pieces > MOST_PIECES:
                raise DamagedError(f"{name} of shape {dataset.shape} lies in {pieces} pieces")
        array = np.asarray(dataset[()])
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(
        array.shape
    )


def write(path: str, changes: list[tuple[str, list[int], str]], source: BinaryIO) -> None:
    """Overwrite datasets; the bytes of each come from `source`. `bfloat16` is written as it is, or
    as the wider type that is there."""
    with h5py.File(path, "r+") as file:
        for name, shape, dtype in changes:
            narrow = dtype == "bfloat16"
            array = np.empty(shape, np.uint16 if narrow else dtype)
            _fill(source, array)
            there = file[name].dtype
            if narrow:
                array = (
                    array.view(there)
                    if there.itemsize == 2
                    else (array.astype(np.uint32) << 16).view(np.float32)
                )
            file[name][...] = array


def add(path: str, name: str, shape: list[int], dtype: str, source: BinaryIO) -> None:
    """Add a dataset; `bfloat16` as Keras does, as two bytes of no type and an attribute that tells
    it (keras/src/saving/saving_lib.py, `H5IOStore`)."""
    narrow = dtype == "bfloat16"
    array = np.empty(shape, np.uint16 if narrow else dtype)
    _fill(source, array)
    with h5py.File(path, "r+") as file:
        made = file.create_dataset(name, data=array.view("V2") if narrow else array)
        if narrow:
            made.attrs["dtype"] = "bfloat16"


def _fill(source: BinaryIO, array: np.ndarray[Any, Any]) -> None:
    """Read the bytes of an array."""
    left = memoryview(array.reshape(-1).view(np.uint8).data) if array.size else memoryview(b"")
    while left:
        count = source.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        left = left[count:]


def answer(
    request: dict[str, Any], source: BinaryIO
) -> tuple[dict[str, Any], np.ndarray[Any, Any] | None]:
    """What is told of one request, and the array that goes with it."""
    if request["do"] == "walk":
        return {"found": walk(request["path"])}, None
    if request["do"] == "config":
        return {"config": model_config(request["path"])}, None
    if request["do"] == "read":
        array = read(request["path"], request["name"])
        told = {"shape": array.shape, "dtype": array.dtype.str, "nbytes": array.nbytes}
        return told, array.reshape(-1).view(np.uint8)
    if request["do"] == "create":
        with h5py.File(request["path"], "w"):
            return {}, None
    if request["do"] == "add":
        name, shape, dtype = request["new"]
        add(request["path"], name, shape, dtype, source)
    else:
        write(request["path"], request["changes"], source)
    return {}, None
