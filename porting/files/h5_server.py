"""A process that reads and changes HDF5 files for another: what hangs, crashes or takes memory
within HDF5's own library costs this process alone.

Run as a script, it knows nothing of patchparity. A request is a line of JSON, with the bytes of
arrays behind it where it writes; an answer is the same.
"""

import contextlib
import json
import math
import os
import signal
import sys
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

PATIENCE = 4
"""Seconds of this process's own time that one request may take, beside those for its bytes."""

SLOWEST = 2 * 10**7
"""Bytes a second that a packed dataset gives at least: a tenth of what zlib unpacks."""

SPARE = 200 * 2**20
"""Bytes that a request may take beside four times the file and two times what it reads."""


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


def _limit(size: int, nbytes: int) -> None:
    """Hold the next request to time and memory, where the system can; Windows cannot."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = math.ceil(used.ru_utime + used.ru_stime) + PATIENCE + nbytes // SLOWEST
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/statm", encoding="ascii") as file:
            now = int(file.read().split()[5]) * resource.getpagesize()
        most = now + 4 * size + 2 * nbytes + SPARE
        resource.setrlimit(
            resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1])
        )


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


def _fill(source: BinaryIO, array: np.ndarray[Any, Any]) -> None:
    """Read the bytes of an array."""
    left = memoryview(array.reshape(-1).view(np.uint8).data) if array.size else memoryview(b"")
    while left:
        count = source.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        left = left[count:]


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints is no answer
    for line in source:
        request = json.loads(line)
        array = None
        answer: dict[str, Any] = {}
        try:
            _limit(os.path.getsize(request["path"]), request["nbytes"])
            if request["do"] == "walk":
                answer = {"found": walk(request["path"])}
            elif request["do"] == "read":
                array = read(request["path"], request["name"])
                answer = {"shape": array.shape, "dtype": array.dtype.str, "nbytes": array.nbytes}
            else:
                write(request["path"], request["changes"], source)
        except DamagedError as error:
            answer = {"kind": "", "error": str(error)}
        except Exception as error:
            array = None
            answer = {
                "kind": type(error).__name__,
                "error": str(error),
                "number": getattr(error, "errno", None),
            }
        target.write(json.dumps(answer).encode() + b"\n")
        if array is not None:
            target.write(array.tobytes())
        target.flush()


if __name__ == "__main__":
    main()
