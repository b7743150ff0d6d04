"""Opening a checkpoint: what it is, its first bytes tell, not its name."""

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ...reference.errors import PatchParityError
from .checkpoint import Checkpoint, first_line, first_twin
from .coreml_files import CoreMLCheckpoint, is_package
from .dcp_files import METADATA as DCP_METADATA
from .dcp_files import PART_OF_DCP, PARTS_OF_DCP, DcpCheckpoint, is_part_of_dcp
from .dcp_files import SUFFIX as DCP_SUFFIX
from .gguf_files import GgufCheckpoint
from .keras_files import H5Checkpoint, KerasCheckpoint
from .msgpack_files import MsgpackCheckpoint
from .npz_files import NpzCheckpoint
from .onnx_files import OnnxCheckpoint
from .openvino_files import OpenVinoCheckpoint, is_openvino
from .orbax_files import OrbaxCheckpoint
from .orbax_folders import folder_of, is_orbax
from .pt2_files import is_exported, open_exported
from .safetensors_files import LARGEST_HEADER, SafetensorsCheckpoint
from .shards import INDICES, KERAS_INDEX, KerasShards, ShardedCheckpoint
from .tflite_files import MARK, TfliteCheckpoint
from .torch_files import LegacyTorchCheckpoint, TorchCheckpoint


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint: safetensors (one file, an index of shards, or a folder with either),
    torch, npz, Keras h5 and .keras, Flax msgpack, GGUF, ONNX, a folder of Orbax or
    of torch.distributed.

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


def _in_folder(folder: Path) -> Path | Checkpoint:
    """The checkpoint of a folder, as transformers and timm lay it out; itself opened where it is
    the folder, as torch.distributed and Orbax lay it out."""
    if is_package(folder):
        return CoreMLCheckpoint(folder)
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
        return DcpCheckpoint(folder)
    if is_orbax(folder):
        return OrbaxCheckpoint(folder)
    if part := next(folder.glob(PARTS_OF_DCP), None):
        raise PatchParityError(f"{part} {PART_OF_DCP}")
    towers = [] if indices or single else sorted(folder.glob("*mmproj*.gguf"))
    if len(towers) == 1:
        return towers[0]
    for name, description in FOREIGN_FOLDERS.items():
        if (folder / name).exists():
            raise PatchParityError(f"{folder} is {description}")
    raise PatchParityError(f"{folder} holds no checkpoint that can be told: name the file")


FOREIGN_FOLDERS = {
    "coremldata.bin": "a model of CoreML that was compiled, which is not read: the .mlpackage that "
    "it was compiled from is",
    "saved_model.pb": "a SavedModel of TensorFlow, which is not read: load it, and save its "
    "weights as .weights.h5",
}
"""Folders of kinds that are known and not read, by a file in them; and what to do."""

FOREIGN_STARTS = {
    b"\x93NUMPY": "one NumPy array, or a dictionary that was pickled, and no checkpoint: save the "
    "arrays by name with numpy.savez",
    b"version https://": "a pointer of git-lfs, and not the file itself: git lfs pull fetches that",
}
"""Files of kinds that are known and not read, by how they begin; and what to do."""


def _foreign(source: Path, start: bytes) -> str:
    """What a file is that is no checkpoint, in words; empty where that is not known."""
    if not start:
        return "empty: no download, or no writing, that came to its end"
    for begin, description in FOREIGN_STARTS.items():
        if start.startswith(begin):
            return description
    if source.suffix == ".index" and source.with_suffix(".data-00000-of-00001").exists():
        return (
            "the index of a checkpoint of TensorFlow, which is not read: its values are "
            "tf.train.load_checkpoint(PREFIX).get_tensor(NAME)"
        )
    if source.suffix == DCP_SUFFIX:
        return f"a part of a checkpoint of torch.distributed: name its folder, {source.parent}"
    if start[4:8] in (b"ET12", b"FT01"):
        return (
            "a program of ExecuTorch, which is not read, for its weights are in the form of the "
            "device that it was made for: the .pt2 that it was made from is (torch.export.save)"
        )
    if source.suffix == ".bin" and is_openvino(beside := source.with_suffix(".xml")):
        return f"the values of {beside.name}, a model of OpenVINO: name that"
    return ""


def _reader(source: Path, start: bytes) -> Checkpoint:
    if source.name.endswith(KERAS_INDEX):
        return KerasShards(source, _shard)
    if source.name.endswith(".index.json"):
        return ShardedCheckpoint(source, _shard)
    if description := _foreign(source, start):
        raise PatchParityError(f"{source} is {description}")
    if start[:4] == b"GGUF":
        return GgufCheckpoint(source)
    if source.suffix == ".mlmodel":  # begins as other messages of Protocol Buffers do
        return CoreMLCheckpoint(source)
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return H5Checkpoint(source, source)
    if start[:4] == b"PK\x03\x04":
        return _zip_reader(source)
    if start[4:8] == MARK:
        return TfliteCheckpoint(source)
    if is_openvino(source):
        return OpenVinoCheckpoint(source)
    if source.suffix == ".onnx":
        return OnnxCheckpoint(source)
    if (
        len(start) > 8
        and start[8:9] == b"{"
        and struct.unpack("<Q", start[:8])[0] <= max(LARGEST_HEADER, source.stat().st_size)
    ):
        held = SafetensorsCheckpoint(source)
        if is_part_of_dcp(held):
            raise PatchParityError(f"{source} {PART_OF_DCP}")
        return held
    if source.suffix == ".safetensors":
        raise PatchParityError(
            f"{source} is damaged or hostile: it does not begin as a safetensors file does"
        )
    if _begins_as_onnx(start):
        return OnnxCheckpoint(source)
    if start[:1] == b"\x80" and source.suffix not in (".msgpack", ".flax"):
        return LegacyTorchCheckpoint(source)
    if source.suffix in (".msgpack", ".flax") or (
        start[:1] and (start[0] & 0xF0 == 0x80 or start[0] in (0xDE, 0xDF))
    ):
        return MsgpackCheckpoint(source)
    raise PatchParityError(
        f"{source} is no checkpoint of a kind that is known: safetensors, torch, npz, Keras h5 or "
        ".keras, Flax msgpack, GGUF, ONNX, a folder of Orbax or of torch.distributed"
    )


def _begins_as_onnx(start: bytes) -> bool:
    """Whether a file begins with the version of ONNX's format (field 1 of a ModelProto, 3 to 20)
    and then the name of what wrote it, or another field of that message."""
    return len(start) > 2 and start[0] == 8 and 3 <= start[1] <= 20 and start[2] in ONNX_FIELDS


ONNX_FIELDS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)
"""Tags of the fields 2 to 8 and 14 of a ModelProto."""


def _shard(source: Path) -> Checkpoint:
    """One file of several, which is no index itself."""
    with source.open("rb") as file:
        start = file.read(16)
    if source.name.endswith(".json"):
        raise PatchParityError(f"{source} is an index within an index")
    return _reader(source, start)


def _zip_reader(source: Path) -> Checkpoint:
    with zipfile.ZipFile(source) as archive:
        names = [entry.filename for entry in archive.infolist()]
    if twice := first_twin(names):
        raise PatchParityError(f"{source} is damaged or hostile: it holds {twice!r} twice")
    if any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return TorchCheckpoint(source)
    if "model.weights.h5" in names:
        return KerasCheckpoint(source)
    if is_exported(names):
        return open_exported(source, names)
    if names and all(name.endswith(".npy") for name in names):
        return NpzCheckpoint(source)
    raise PatchParityError(
        f"{source} is an archive of a kind that is not known: expected torch, npz or .keras"
    )


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint for the time of a `with` statement."""
    checkpoint = open_checkpoint(path)
    try:
        yield checkpoint
    finally:
        checkpoint.close()
