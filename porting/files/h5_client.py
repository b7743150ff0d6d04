"""HDF5 files through a process of their own (`h5_server.py`): HDF5's library may hang or crash on
damaged content."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .native_client import NativeError as H5Error
from .native_client import NativeServer

__all__ = ["H5Error", "h5_add", "h5_config", "h5_create", "h5_names", "h5_read", "h5_write"]

SERVER = NativeServer(
    Path(__file__).with_name("h5_server.py"), "h5py", "porting", "HDF5's own library"
)


def h5_names(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of every dataset of numbers, by its path in the file.

    Raises:
        PatchParityError: h5py is not installed.
        H5Error: content that is refused, that HDF5's library raised an error on, or that its
            process died of.
        OSError: a file that cannot be opened.
        MemoryError: more memory than there is.
    """
    datasets = SERVER.ask(path, {"do": "walk", "nbytes": 0}, [])[0]["found"]
    return {name: (tuple(shape), dtype) for name, (shape, dtype) in datasets.items()}


def h5_config(path: Path) -> str:
    """What a whole model of Keras before 3 keeps of how it is built, as JSON; empty without one;
    raises as `h5_names`."""
    return str(SERVER.ask(path, {"do": "config", "nbytes": 0}, [])[0]["config"])


def h5_read(path: Path, name: str, nbytes: int) -> NDArray[Any]:
    """One dataset that takes so many bytes; raises as `h5_names`."""
    answer, content = SERVER.ask(path, {"do": "read", "name": name, "nbytes": nbytes}, [])
    return np.frombuffer(content, answer["dtype"]).reshape(answer["shape"])


def h5_write(path: Path, changes: dict[str, NDArray[Any]]) -> None:
    """Overwrite datasets of a file; raises as `h5_names`."""
    change_headers = [_header(name, array) for name, array in changes.items()]
    nbytes = sum(array.nbytes for array in changes.values())
    SERVER.ask(
        path, {"do": "write", "changes": change_headers, "nbytes": nbytes}, list(changes.values())
    )


def h5_create(path: Path) -> None:
    """Make a file with nothing in it; raises as `h5_names`."""
    path.touch()
    SERVER.ask(path, {"do": "create", "nbytes": 0}, [])


def h5_add(path: Path, name: str, array: NDArray[Any]) -> None:
    """Add a dataset to a file, and the groups that its path names; raises as `h5_names`."""
    SERVER.ask(path, {"do": "add", "new": _header(name, array), "nbytes": array.nbytes}, [array])


def _header(name: str, array: NDArray[Any]) -> tuple[str, tuple[int, ...], str]:
    narrow = array.dtype == ml_dtypes.bfloat16
    return name, array.shape, "bfloat16" if narrow else array.dtype.str
