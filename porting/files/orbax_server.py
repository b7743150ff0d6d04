"""Answers of the process that reads Orbax's arrays for another (`native_server.py`) with
tensorstore, which knows nothing of patchparity.

A place of an array is `(folder, whether it is OCDBT, its key there)`. What an array is, its own
JSON tells: `.zarray` (zarr 2) or `zarr.json` (zarr 3).
"""

import json
import math
from typing import Any, BinaryIO

import numpy as np
import tensorstore

LARGEST_JSON = 2**16
"""Bytes of the JSON of one array: it has some five hundred."""

MOST_KEYS = 2**20
"""Keys of a folder: its arrays' chunks and their JSON; a model of a thousand tensors on as many
processes."""

MOST_CHUNKS = 2**16
"""Chunks that an array may lie in: Orbax writes one for each process."""

SECONDS = 60
"""That one step within tensorstore may take, beside those for its bytes: its threads may wait for
one another, which costs no time of a processor."""

SLOWEST = 2 * 10**7
"""Bytes a second that an array gives at least."""

JSON_NAMES = {".zarray": "zarr", "zarr.json": "zarr3"}
"""What an array's JSON is called, and tensorstore's driver for it."""

_CONTEXT = tensorstore.Context(
    {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 2}}
)
"""One chunk at a time: each is unpacked in memory."""

Place = tuple[str, bool, str]


class DamagedError(Exception):
    """Content that is refused, in words that a user reads."""


def _store_of(folder: str, ocdbt: bool, key: str = "") -> dict[str, Any]:
    if not ocdbt:
        return {"driver": "file", "path": f"{folder}/{key}"}
    return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}, "path": key}


def _opened(folder: str, ocdbt: bool) -> Any:
    spec = _store_of(folder, ocdbt)
    return tensorstore.KvStore.open(spec, context=_CONTEXT).result(SECONDS)


def keys_of(folder: str, ocdbt: bool) -> list[str]:
    """The keys of all arrays of a folder, as their JSON tells them."""
    found = []
    keys = _opened(folder, ocdbt).list().result(SECONDS)
    if len(keys) > MOST_KEYS:
        raise DamagedError(f"it has more than {MOST_KEYS} keys")
    for key in keys:
        name, _, last = key.decode().rpartition("/")
        if last in JSON_NAMES and name:
            found.append(name)
    return found


def walk(places: list[Place]) -> list[Any]:
    """Shape, type and driver of the array at each place; None where there is none."""
    stores: dict[tuple[str, bool], Any] = {}
    asked = []
    for folder, ocdbt, key in places:
        store = stores.get((folder, ocdbt)) or _opened(folder, ocdbt)
        stores[folder, ocdbt] = store
        asked.append([(name, store.read(f"{key}/{name}")) for name in JSON_NAMES])
    return [
        _told(key, [(name, future.result(SECONDS)) for name, future in futures])
        for (_, _, key), futures in zip(places, asked, strict=True)
    ]


def _told(key: str, answers: list[tuple[str, Any]]) -> Any:
    there = [(name, answer.value) for name, answer in answers if answer.state == "value"]
    if not there:
        return None
    if len(there) > 1:
        raise DamagedError(f"{key} is an array of zarr 2 and one of zarr 3")
    name, content = there[0]
    if len(content) > LARGEST_JSON:
        raise DamagedError(f"{key}/{name} has {len(content)} bytes")
    try:
        told = json.loads(content)
        shape, dtype, chunks = _parts(told, JSON_NAMES[name])
        if not all(type(size) is int and size >= 0 for size in (*shape, *chunks)):
            raise ValueError("sizes that are no numbers")
        if not dtype.isidentifier():
            raise ValueError("a type without a name")
        if len(chunks) != len(shape):
            raise ValueError("chunks of other axes than its shape")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{key}/{name} tells no array ({type(error).__name__})") from None
    values = math.prod(max(size, 1) for size in shape)
    if math.prod(chunks) > 4 * values + 2**16:
        raise DamagedError(f"{key} of shape {shape} lies in chunks of {chunks}")
    pieces = math.prod(-(-size // max(chunk, 1)) for size, chunk in zip(shape, chunks, strict=True))
    if pieces > MOST_CHUNKS:
        raise DamagedError(f"{key} of shape {shape} lies in {pieces} chunks")
    return shape, dtype, JSON_NAMES[name]


def _parts(told: dict[str, Any], driver: str) -> tuple[list[int], str, list[int]]:
    """Shape, type and chunks of an array, of its JSON."""
    if driver == "zarr":
        dtype = told["dtype"]
        if not isinstance(dtype, str):
            raise ValueError("a type of several fields")
        plain = dtype[:1] in "<>|" and np.dtype(dtype).newbyteorder("=").name
        return list(told["shape"]), plain or dtype, list(told["chunks"])
    grid = told["chunk_grid"]
    if grid["name"] != "regular":
        raise ValueError("another grid of chunks")
    return list(told["shape"]), str(told["data_type"]), list(grid["configuration"]["chunk_shape"])


def read(place: Place, driver: str, shape: list[int], dtype: str, missing: str) -> tuple[Any, bool]:
    """One array, and whether a chunk of it was not there and is zeros.

    Args:
        place: where it is.
        driver: tensorstore's.
        shape, dtype: as its JSON told.
        missing: what of a chunk that is not there: `zeros`, or why it is refused.
    """
    for filled in (False, True):
        spec = {
            "driver": driver,
            "kvstore": _store_of(place[0], place[1], f"{place[2]}/"),
            "fill_missing_data_reads": filled,
        }
        try:
            store = tensorstore.open(
                spec, open=True, create=False, read=True, write=False, context=_CONTEXT
            ).result(SECONDS)
            if list(store.shape) != shape or store.dtype.name != dtype:
                raise DamagedError(f"{place[2]} is told as one array and opened as another")
            nbytes = math.prod(shape) * store.dtype.numpy_dtype.itemsize
            return store.read().result(SECONDS + nbytes / SLOWEST), filled
        except ValueError as error:
            if not (str(error).startswith("NOT_FOUND: chunk") and " is missing" in str(error)):
                raise
            if missing != "zeros":
                raise DamagedError(f"a chunk of {place[2]} is missing, which {missing}") from None
    raise AssertionError("zeros stand for every chunk")


def answer(
    request: dict[str, Any], source: BinaryIO
) -> tuple[dict[str, Any], np.ndarray[Any, Any] | None]:
    """What is told of one request, and the array that goes with it."""
    if request["do"] == "keys":
        return {"found": keys_of(request["path"], request["ocdbt"])}, None
    if request["do"] == "walk":
        return {"found": walk(request["places"])}, None
    array, filled = read(
        request["place"],
        request["driver"],
        request["shape"],
        request["dtype"],
        request["missing"],
    )
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {"nbytes": content.nbytes, "filled": filled}, content
