"""Bytes that lie in files, copied to their places in a new one. Each piece is read back from there
and compared while it lies in a processor's cache, which takes a third of the time of reading both
files again."""

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ...reference.errors import PatchParityError
from .checkpoint import dtype_of
from .compared import COMPARED_BYTES, is_finite, not_finite
from .lazy import Feed, Place

COPIERS = 2
"""Threads that copy: one reads and compares while the system writes for the other, one at a time to
a file."""

SHARE_BYTES = 2**24
"""Bytes of a tensor that one thread copies at most; the other waits some 5 ms for the last ones."""


Call = Callable[[int, list[memoryview], int], int]
"""`os.preadv` or `os.pwritev`."""


class Copy(NamedTuple):
    """Bytes to be copied.

    Args:
        name: of the tensor that they are of.
        place: where they lie.
        at: the byte of the new file where they go to.
    """

    name: str
    place: Place
    at: int


def copies_of(feed: Feed, name: str, at: int) -> list[Copy]:
    """What is to be copied so that a tensor begins at a byte; nothing where it is to be made."""
    copies = []
    for place in feed.places_of(name):
        copies.append(Copy(name, place, at))
        at += place.nbytes
    return copies


@contextlib.contextmanager
def copying(out: BinaryIO, copies: Iterable[Copy], feed: Feed) -> Iterator[Callable[[], set[str]]]:
    """Copy in other threads while the body of the `with` lasts.

    Args:
        out: the new file, open without a buffer for reading and writing.
        copies: what is copied.
        feed: the tensors.

    Returns:
        What waits for the end, and gives the names of tensors that read back otherwise; it raises
        PatchParityError for NaN or infinite values, where `feed` refuses them, and for a file that
        ends before, OSError for what cannot be read or written.
    """
    with ThreadPoolExecutor(COPIERS) as threads:
        shares: list[Future[str | None]] = [
            threads.submit(_copy, out.fileno(), share, feed)
            for each in copies
            for share in _shares(each)
        ]
        try:
            yield lambda: {name for share in shares if (name := share.result()) is not None}
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _shares(copy: Copy) -> Iterator[Copy]:
    name, place, at = copy
    for first in range(0, place.nbytes, SHARE_BYTES):
        size = min(SHARE_BYTES, place.nbytes - first)
        yield Copy(name, place._replace(begin=place.begin + first, nbytes=size), at + first)


def _copy(out: int, copy: Copy, feed: Feed) -> str | None:
    """Copy, and give the name where something else reads back."""
    name, place, at = copy
    dtype = dtype_of(feed.tensors[name].dtype)
    here, there = bytearray(COMPARED_BYTES), bytearray(COMPARED_BYTES)
    with place.path.open("rb", buffering=0) as source:
        for first in range(0, place.nbytes, COMPARED_BYTES):
            size = min(COMPARED_BYTES, place.nbytes - first)
            if size < len(here):  # arrays of bytes are compared by the C library, views are not
                here, there = bytearray(size), bytearray(size)
            if not _all(os.preadv, source.fileno(), there, place.begin + first):
                raise PatchParityError(f"{place.path} ends before it should")
            _all(os.pwritev, out, there, at + first)
            if not _all(os.preadv, out, here, at + first) or here != there:
                return name
            if feed.finite and not is_finite(np.frombuffer(there, dtype)):
                raise not_finite(place.told)
    return None


def _all(call: Call, file: int, buffer: bytearray, at: int) -> bool:
    """Let the system read or write all of a buffer; whether a file had as much."""
    rest = memoryview(buffer)
    while rest:
        count = call(file, [rest], at)
        if not count:
            return False
        rest, at = rest[count:], at + count
    return True


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room."""


def reserve(file: BinaryIO, size: int) -> None:
    """Take the room of a new file on its disk, where the system can: pieces are then written to it
    in two thirds of the time, and a full disk is told of before anything is copied.

    Args:
        file: open for writing.
        size: of it, in bytes.

    Raises:
        OSError: no room.
    """
    if size and (fallocate := _fallocate()) and fallocate(file.fileno(), 0, 0, size):
        number = ctypes.get_errno()
        if number in FULL:
            raise OSError(number, os.strerror(number))


@functools.cache
def _fallocate() -> Any:
    """Linux's call: that of POSIX, which Python has, writes into every page where a file system has
    none. None elsewhere."""
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate64
    except (OSError, AttributeError, TypeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return call
