"""torch's archives, written without torch and a piece of a tensor at a time: a dictionary of
tensors, as `torch.save` writes it since torch 1.6."""

import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from .lazy import Feed, Lazy
from .pickles import STORAGE_TYPES

ALIGNED_TO = 64
"""Bytes of which a storage begins at a multiple, so that torch may map it (caffe2/serialize/
inline_container.h, `kFieldAlignment`)."""

VERSION = b"3\n"
"""Of the archive (caffe2/serialize/versions.h, `kProducedFileFormatVersion`)."""

ROOT = "archive"
"""The folder in the archive; torch takes the file's name, and reads any."""

LOCAL_HEADER, WIDE_FIELD = 30, 20
"""Bytes of an archive's header before a file's name, and of what tells sizes in 64 bits behind it
(PKWARE's APPNOTE, 4.3.7 and 4.5.3)."""

PADDING_FIELD = b"FB"
"""The extra field that torch pads with (inline_container.cc, `getPadding`)."""


def stream_torch(draft: Path, feed: Feed, metadata: Mapping[str, Any]) -> None:
    """Write a file anew, which `torch.load(weights_only=True)` reads; each tensor has a storage of
    its own.

    Raises:
        PatchParityError: a type that torch has not.
    """
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        _add_small(archive, "data.pkl", _pickled(feed.tensors))
        _add_small(archive, ".format_version", b"1")
        _add_small(archive, ".storage_alignment", str(ALIGNED_TO).encode())
        _add_small(archive, "byteorder", b"little")
        for key, (name, lazy) in enumerate(feed.tensors.items()):
            entry = _entry(archive, f"data/{key}", lazy.nbytes)
            with archive.open(entry, "w") as file:
                for piece in feed.pieces(name):
                    file.write(piece)
        _add_small(archive, "version", VERSION)


def _add_small(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    with archive.open(_entry(archive, name, len(content)), "w") as file:
        file.write(content)


def _entry(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """A file to be written next, with a field in front of it that its content is aligned by."""
    entry = zipfile.ZipInfo(f"{ROOT}/{name}")
    entry.file_size = size
    wide = WIDE_FIELD if size * 1.05 > zipfile.ZIP64_LIMIT else 0  # as zipfile itself decides
    begin = archive.start_dir + LOCAL_HEADER + len(entry.filename) + wide + 4
    spare = -begin % ALIGNED_TO
    entry.extra = PADDING_FIELD + spare.to_bytes(2, "little") + b"Z" * spare
    return entry


def _pickled(tensors: Mapping[str, Lazy]) -> bytes:
    """A dictionary of tensors, of pickle's protocol 2, as torch pickles it."""
    parts = [b"\x80\x02}("]
    for key, (name, lazy) in enumerate(tensors.items()):
        parts += [_plain(name), _tensor(name, str(key), lazy)]
    return b"".join([*parts, b"u."])


def _tensor(name: str, key: str, lazy: Lazy) -> bytes:
    types = {dtype: storage for storage, dtype in STORAGE_TYPES.items()}
    if lazy.dtype not in types:
        raise PatchParityError(
            f"{name} is of dtype {lazy.dtype}, and torch's storages are {', '.join(types)}: write "
            "safetensors"
        )
    strides = tuple(
        math.prod(max(size, 1) for size in lazy.shape[axis + 1 :])
        for axis in range(len(lazy.shape))
    )
    return b"".join(
        [
            _named("torch._utils", "_rebuild_tensor_v2"),
            b"((",
            _plain("storage"),
            _named("torch", types[lazy.dtype]),
            *(_plain(value) for value in (key, "cpu", math.prod(lazy.shape))),
            b"tQ",
            *(_plain(value) for value in (0, tuple(lazy.shape), strides, False)),
            _named("collections", "OrderedDict"),
            b")RtR",
        ]
    )


def _named(module: str, name: str) -> bytes:
    """A global, by its name."""
    return f"c{module}\n{name}\n".encode()


def _plain(value: Any) -> bytes:
    """A text, a number or a tuple of numbers, without the begin and the end of a pickle."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]
