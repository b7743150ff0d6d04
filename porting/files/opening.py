"""Opening a checkpoint: what it is, its first bytes tell, not its name."""

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...reference.errors import PatchParityError
from .checkpoint import Checkpoint, first_line, first_twin
from .formats import imported, open_as
from .kinds import (
    DCP_METADATA,
    FOREIGN_FOLDERS,
    PART_OF_DCP,
    PARTS_OF_DCP,
    TFLITE,
    begins_as_onnx,
    foreign,
    is_exported,
    is_openvino,
    is_package,
    is_part_of_dcp,
)
from .orbax_folders import folder_of, is_orbax
from .safetensors_files import LARGEST_HEADER
from .shards import INDICES, KERAS_INDEX

HDF5 = b"\x89HDF\r\n\x1a\n"
"""How its files begin."""


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: safetensors (one file, an index of shards, or a folder with either),
    torch, npz, Keras h5 and .keras, Flax msgpack, GGUF, ONNX, TFLite, OpenVINO IR, CoreML,
    torch.export, a folder of Orbax or of torch.distributed.

    What it is, its first bytes tell, not its name.

    Raises:
        PatchParityError: a file that cannot be read, of another kind, damaged, or hostile.
    """
    source = folder_of(Path(path))
    packaged = source.name == "Manifest.json" and is_package(source.parent)
    if source.name == DCP_METADATA or packaged:
        source = source.parent
    try:
        if source.is_dir():
            found = _in_folder(source)
            if isinstance(found, Checkpoint):
                return found
            source = found
        if source.exists() and not source.is_file():
            raise PatchParityError(f"cannot read {source}: it is no regular file")
        with source.open("rb") as file:
            start = file.read(16)
        return _reader(source, start)
    except PatchParityError:
        raise
    except MemoryError:
        raise PatchParityError(
            f"{source} is damaged or hostile: it claims more memory than there is"
        ) from None
    except OSError as error:
        raise PatchParityError(f"cannot read {source}: {error.strerror or error}") from None
    except Exception as error:  # whatever damaged content makes the readers raise
        raise PatchParityError(
            f"{source} is damaged or hostile: {type(error).__name__}: {first_line(error)}"
        ) from None


def prepare(path: str | os.PathLike[str]) -> None:
    """Let the process that reads such a checkpoint start, where it is one of Orbax or HDF5, while
    the caller gets ready: its library takes a fifth of a second to import. What is wrong with the
    checkpoint is told when it is opened."""
    source = folder_of(Path(path))
    with contextlib.suppress(OSError, PatchParityError):
        if source.is_dir() and is_orbax(source):
            imported("orbax_files.SERVER").start()
        elif source.is_file():
            with source.open("rb") as file:
                if file.read(len(HDF5)) == HDF5:
                    imported("h5_client.SERVER").start()


def _in_folder(folder: Path) -> Any:
    """The checkpoint of a folder, as transformers and timm lay it out; itself opened where it is
    the folder, as torch.distributed and Orbax lay it out."""
    if is_package(folder):
        return open_as("coreml", folder)
    if unfinished := next(folder.glob(".*.patchparity-unfinished"), None):
        raise PatchParityError(
            f"{folder} holds a copy that was cut off ({unfinished.name}): run the same port again"
        )
    for name in (
        "model.safetensors",
        "open_clip_model.safetensors",
        "pytorch_model.bin",
        "open_clip_pytorch_model.bin",
        "flax_model.msgpack",
        "tf_model.h5",
        "model.weights.h5",
        "model.onnx",
        "openvino_model.xml",
    ):
        if (folder / name).is_file():
            return folder / name
    indices = sorted({file for end in (*INDICES, KERAS_INDEX) for file in folder.glob(f"*{end}")})
    preferred = [file for file in indices if file.name.endswith(INDICES[0])] or indices
    single = sorted(folder.glob("*.safetensors"))
    if len(preferred) == 1:
        return preferred[0]
    if not indices and len(single) == 1:
        return single[0]
    if (folder / DCP_METADATA).is_file():
        return open_as("dcp", folder)
    if is_orbax(folder):
        return open_as("orbax", folder)
    if part := next(folder.glob(PARTS_OF_DCP), None):
        raise PatchParityError(f"{part} {PART_OF_DCP}")
    towers = [] if indices or single else sorted(folder.glob("*mmproj*.gguf"))
    if len(towers) == 1:
        return towers[0]
    for name, description in FOREIGN_FOLDERS.items():
        if (folder / name).exists():
            raise PatchParityError(f"{folder} is {description}")
    raise PatchParityError(f"{folder} holds no checkpoint that can be told: name the file")


def _reader(source: Path, start: bytes) -> Any:
    if source.name.endswith(KERAS_INDEX):
        return open_as("shards of Keras", source, _shard)
    if source.name.endswith(".index.json"):
        return open_as("shards", source, _shard)
    if description := foreign(source, start):
        raise PatchParityError(f"{source} is {description}")
    if start[:4] == b"GGUF":
        return open_as("gguf", source)
    if source.suffix == ".mlmodel":  # begins as other messages of Protocol Buffers do
        return open_as("coreml", source)
    if start[: len(HDF5)] == HDF5:
        return open_as("h5", source, source)
    if start[:4] == b"PK\x03\x04":
        return _zip_reader(source)
    if start[4:8] == TFLITE:
        return open_as("tflite", source)
    if is_openvino(source):
        return open_as("openvino", source)
    if source.suffix == ".onnx":
        return open_as("onnx", source)
    if (
        len(start) > 8
        and start[8:9] == b"{"
        and struct.unpack("<Q", start[:8])[0] <= max(LARGEST_HEADER, source.stat().st_size)
    ):
        held: Checkpoint = open_as("safetensors", source)
        if is_part_of_dcp(held):
            raise PatchParityError(f"{source} {PART_OF_DCP}")
        return held
    if source.suffix == ".safetensors":
        raise PatchParityError(
            f"{source} is damaged or hostile: it does not begin as a safetensors file does"
        )
    if begins_as_onnx(start):
        return open_as("onnx", source)
    if start[:1] == b"\x80" and source.suffix not in (".msgpack", ".flax"):
        return open_as("torch before 1.6", source)
    if source.suffix in (".msgpack", ".flax") or (
        start[:1] and (start[0] & 0xF0 == 0x80 or start[0] in (0xDE, 0xDF))
    ):
        return open_as("msgpack", source)
    raise PatchParityError(
        f"{source} is no checkpoint of a kind that is known: safetensors, torch, npz, Keras h5 or "
        ".keras, Flax msgpack, GGUF, ONNX, TFLite, OpenVINO, CoreML, torch.export, a folder of "
        "Orbax or of torch.distributed"
    )


def _shard(source: Path) -> Any:
    """One file of several, which is no index itself."""
    with source.open("rb") as file:
        start = file.read(16)
    if source.name.endswith(".json"):
        raise PatchParityError(f"{source} is an index within an index")
    return _reader(source, start)


def _zip_reader(source: Path) -> Any:
    with zipfile.ZipFile(source) as archive:
        names = [entry.filename for entry in archive.infolist()]
    if twice := first_twin(names):
        raise PatchParityError(f"{source} is damaged or hostile: it holds {twice!r} twice")
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return open_as("torch", source)
    if "model.weights.h5" in names:
        return open_as("keras", source)
    if is_exported(names):
        return open_as("pt2", source, names)
    if names and all(name.endswith(".npy") for name in names):
        return open_as("npz", source)
    raise PatchParityError(
        f"{source} is an archive of a kind that is not known: expected torch, "
        "npz, .keras or torch.export (what was packed with them is unpacked first)"
    )


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint for the time of a `with` statement."""
    checkpoint = open_checkpoint(path)
    try:
        yield checkpoint
    finally:
        checkpoint.close()
