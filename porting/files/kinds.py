"""What a file or a folder is, by its first bytes or by what lies in it; no reader is imported for
that."""

import json
from pathlib import Path

from .checkpoint import Checkpoint

TFLITE = b"TFL3"
"""Bytes 4 to 8 of every TFLite file."""

DCP_METADATA = ".metadata"
"""The file that tells of a checkpoint of torch.distributed."""

DCP_SUFFIX = ".distcp"
"""How the names of files with chunks end."""

OLD_PROGRAM, OLD_STATE = "serialized_exported_program.json", "serialized_state_dict.pt"
"""What torch before 2.8 wrote into a plain archive."""


def is_package(folder: Path) -> bool:
    """Whether a folder is a package of CoreML's."""
    return (folder / "Manifest.json").is_file() and (folder / "Data").is_dir()


def is_exported(names: list[str]) -> bool:
    """Whether an archive with these files is one of torch.export."""
    return OLD_PROGRAM in names or any(name.endswith("/archive_format") for name in names)


def is_openvino(path: Path) -> bool:
    """Whether a file is there and begins as an IR does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    return start.startswith((b"<net ", b"<?xml")) and b"<net " in start


def begins_as_onnx(start: bytes) -> bool:
    """Whether a file begins with the version of ONNX's format (field 1 of a ModelProto, 3 to 20)
    and then the name of what wrote it, or another field of that message."""
    return len(start) > 2 and start[0] == 8 and 3 <= start[1] <= 20 and start[2] in ONNX_FIELDS


ONNX_FIELDS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)
"""Tags of the fields 2 to 8 and 14 of a ModelProto."""


PARTS_OF_DCP = "shard-*-model-*.safetensors"
"""Names of the files that each process writes of a state dict in Hugging Face's form
(torch/distributed/checkpoint/_hf_utils.py, `SHARDED_FILE_NAME`)."""

PART_OF_DCP = (
    "is one of the parts that processes of torch.distributed wrote, and nothing in them tells how "
    "many there were: HuggingFaceStorageWriter(..., enable_consolidation=True) makes whole files "
    "of them, and so does consolidate_safetensors_files"
)
"""Why such a part is not read: without the last of them a kernel would be a smaller one."""


def is_part_of_dcp(held: Checkpoint) -> bool:
    """Whether a safetensors file is such a part: by its name, or because a tensor in it begins
    within a larger one."""
    told = held.metadata.get("DCP_SHARDING_INFO")
    if told is None:
        return False
    try:
        offsets = [entry["saved_offsets"] for entry in json.loads(told).values()]
        return held.path.match(PARTS_OF_DCP) or any(map(any, offsets))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise held.damaged("its DCP_SHARDING_INFO tells no offsets") from None


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


def foreign(source: Path, start: bytes) -> str:
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
