"""Flax's msgpack."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import LONGEST_NAMES, Checkpoint, TensorInfo, Tensors, dtype_of, first_twin
from .lazy import Feed

FLAX_ARRAY, FLAX_SCALAR = 1, 3
"""Extension types of Flax's msgpack (flax/serialization.py): an array as (shape, type's name,
bytes), and a NumPy scalar alike."""


class MsgpackCheckpoint(Checkpoint):
    """Flax's msgpack; a tensor's name is its path in the tree, `params/embedding/kernel`."""

    format = "msgpack"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import msgpack
        except ImportError:
            raise PatchParityError(
                "msgpack is not installed: pip install 'patchparity[porting]'"
            ) from None
        content = path.read_bytes()
        tree = msgpack.unpackb(
            content,
            ext_hook=self._extension,
            strict_map_key=False,
            raw=False,
            object_pairs_hook=_without_twins,
        )
        self.arrays: dict[str, NDArray[Any]] = {}
        self.letters = 0
        self._flatten(tree, "")
        self.tensors = {
            name: TensorInfo(array.shape, array.dtype.name) for name, array in self.arrays.items()
        }

    def _extension(self, code: int, content: bytes) -> Any:
        import msgpack

        if code not in (FLAX_ARRAY, FLAX_SCALAR):
            return None
        shape, name, values = msgpack.unpackb(content, raw=False, use_list=False)
        info = TensorInfo(tuple(int(size) for size in shape), str(name))
        if min(info.shape, default=0) < 0 or info.nbytes != len(values):
            raise self.damaged(
                f"an array of shape {info.shape} and type {name} has {len(values)} bytes"
            )
        return np.frombuffer(values, dtype_of(info.dtype)).reshape(info.shape)

    def _flatten(self, tree: Any, prefix: str) -> None:
        self.letters += len(prefix)
        if self.letters > LONGEST_NAMES:
            raise self.damaged(f"its names have more than {LONGEST_NAMES} characters together")
        if isinstance(tree, Mapping):
            if "__msgpack_chunked_array__" in tree:
                self.arrays[prefix.rstrip("/")] = _chunks(tree)
                return
            for key, value in tree.items():
                self._flatten(value, f"{prefix}{key}/")
        elif isinstance(tree, np.ndarray):
            self.arrays[prefix.rstrip("/")] = tree

    def _read(self, name: str) -> NDArray[Any]:
        return self.arrays[name]


def _without_twins(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map whose keys are all different, of texts and numbers.

    Raises:
        ValueError: a key that is there twice, or is neither.
    """
    if not all(isinstance(key, (str, int)) for key, _ in pairs):
        raise ValueError("a key that is neither a text nor a number")
    if twice := first_twin([str(key) for key, _ in pairs]):
        raise ValueError(f"the key {twice!r} stands there twice")
    return dict(pairs)


def _chunks(tree: Mapping[str, Any]) -> NDArray[Any]:
    """An array above 1 GB, which Flax cuts into pieces."""
    pieces = [tree["chunks"][key] for key in sorted(tree["chunks"], key=int)]
    shape = tuple(int(tree["shape"][key]) for key in sorted(tree["shape"], key=int))
    return np.concatenate([piece.ravel() for piece in pieces]).reshape(shape)


def write_msgpack(draft: Path, tensors: Tensors) -> None:
    """Write a file anew; `/` in a name is a level of the tree."""
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = array
    _pack(draft, tree)


def _pack(draft: Path, tree: Any) -> None:
    try:
        import msgpack
    except ImportError:
        raise PatchParityError(
            "msgpack is not installed: pip install 'patchparity[porting]'"
        ) from None

    def extension(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            content = msgpack.packb(
                (value.shape, value.dtype.name, np.ascontiguousarray(value).tobytes()),
                use_bin_type=True,
            )
            return msgpack.ExtType(FLAX_ARRAY, content)
        raise TypeError(f"a {type(value).__name__}")

    draft.write_bytes(msgpack.packb(tree, default=extension, strict_types=True))


def stream_msgpack(draft: Path, feed: Feed, metadata: Mapping[str, Any]) -> None:
    """Write a file anew, a piece of a tensor at a time; `/` in a name is a level of the tree.

    Raises:
        PatchParityError: msgpack is not installed, a name that is a tensor and a level at once, a
            tensor of more bytes than msgpack can tell.
    """
    tree: dict[str, Any] = {}
    for name in feed.tensors:
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
            if not isinstance(branch, dict):
                raise PatchParityError(f"{name} lies within another tensor, which holds no others")
        if last in branch:
            raise PatchParityError(f"{name} is a tensor, and others lie within it")
        branch[last] = name
    with draft.open("wb") as out:
        _stream_branch(out, tree, feed)


LARGEST_EXTENSION = 2**32 - 1
"""Bytes of one array with its shape and type: msgpack tells as many in 32 bits."""


def _stream_branch(out: BinaryIO, branch: dict[str, Any], feed: Feed) -> None:
    packer = _packer()
    out.write(packer.pack_map_header(len(branch)))
    for key, held in branch.items():
        out.write(packer.pack(key))
        if isinstance(held, dict):
            _stream_branch(out, held, feed)
            continue
        lazy = feed.tensors[held]
        begin = packer.pack_array_header(3) + packer.pack(tuple(lazy.shape))
        begin += packer.pack(dtype_of(lazy.dtype).name)
        begin += BYTES_OF_32 + struct.pack(">I", min(lazy.nbytes, LARGEST_EXTENSION))
        size = len(begin) + lazy.nbytes
        if size > LARGEST_EXTENSION:
            raise PatchParityError(f"{held} has {lazy.nbytes} bytes: msgpack keeps 4 GB at most")
        out.write(EXTENSION_OF_32 + struct.pack(">Ib", size, FLAX_ARRAY) + begin)
        for piece in feed.pieces(held):
            out.write(piece)


EXTENSION_OF_32, BYTES_OF_32 = b"\xc9", b"\xc6"
"""What an extension, and bytes, begin with whose size stands in 32 bits (msgpack's spec)."""


def _packer() -> Any:
    try:
        import msgpack
    except ImportError:
        raise PatchParityError(
            "msgpack is not installed: pip install 'patchparity[porting]'"
        ) from None
    return msgpack.Packer()


def replace_in_msgpack(source: MsgpackCheckpoint, draft: Path, changes: Tensors) -> None:
    """Pack the tree again, with the new arrays; what else it holds stays as it is packed."""
    import msgpack

    tree = msgpack.unpackb(source.path.read_bytes(), strict_map_key=False, raw=False)
    for name, array in changes.items():
        *path, last = name.split("/")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = np.asarray(array)
    _pack(draft, tree)
