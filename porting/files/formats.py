"""The formats, each with the file beside this one that reads and writes it; that is imported when
such a checkpoint is opened or written, and not before."""

import importlib
from typing import Any

OPENED_BY = {
    "safetensors": "safetensors_files.SafetensorsCheckpoint",
    "shards": "shards.ShardedCheckpoint",
    "shards of Keras": "shards.KerasShards",
    "torch": "torch_files.TorchCheckpoint",
    "torch before 1.6": "torch_files.LegacyTorchCheckpoint",
    "npz": "npz_files.NpzCheckpoint",
    "h5": "keras_files.H5Checkpoint",
    "keras": "keras_files.KerasCheckpoint",
    "msgpack": "msgpack_files.MsgpackCheckpoint",
    "gguf": "gguf_files.GgufCheckpoint",
    "orbax": "orbax_files.OrbaxCheckpoint",
    "dcp": "dcp_files.DcpCheckpoint",
    "pt2": "pt2_files.open_exported",
    "onnx": "onnx_files.OnnxCheckpoint",
    "tflite": "tflite_files.TfliteCheckpoint",
    "openvino": "openvino_files.OpenVinoCheckpoint",
    "coreml": "coreml_files.CoreMLCheckpoint",
}
"""What opens a checkpoint of each kind."""

WRITTEN_BY = {
    "safetensors": "safetensors_files.write_safetensors",
    "npz": "npz_files.write_npz",
    "msgpack": "msgpack_files.write_msgpack",
    "torch": "torch_files.write_torch",
    "orbax": "orbax_files.write_orbax",
    "gguf": "gguf_files.write_gguf",
}
"""What writes a new checkpoint of each format that is written."""

STREAMED_BY = {
    "safetensors": "safetensors_files.stream_safetensors",
    "npz": "npz_files.stream_npz",
    "msgpack": "msgpack_files.stream_msgpack",
    "torch": "torch_writing.stream_torch",
    "h5": "keras_files.stream_h5",
    "orbax": "orbax_files.stream_orbax",
    "gguf": "gguf_files.stream_gguf",
}
"""What writes a new checkpoint a tensor at a time, of each format that is written so."""

KEEPS_METADATA = ("safetensors", "gguf")
"""Formats that keep texts, or keys and values, beside tensors."""

REPLACED_BY = {
    "safetensors": "safetensors_files.replace_in_safetensors",
    "npz": "npz_files.replace_in_npz",
    "msgpack": "msgpack_files.replace_in_msgpack",
    "torch": "torch_files.replace_in_torch",
    "pt2": "torch_files.replace_in_torch",
    "h5": "keras_files.replace_in_h5",
    "keras": "keras_files.replace_in_keras",
    "orbax": "orbax_files.replace_in_orbax",
    "gguf": "gguf_files.replace_in_gguf",
}
"""What writes a copy of a checkpoint with some tensors replaced, by its format."""

SUFFIXES = {
    ".safetensors": "safetensors",
    ".npz": "npz",
    ".msgpack": "msgpack",
    ".pt": "torch",
    ".pth": "torch",
    ".bin": "torch",
    ".h5": "h5",
    ".keras": "keras",
    ".orbax": "orbax",
    ".gguf": "gguf",
    ".pt2": "pt2",
}
"""Formats by the end of a file's name, or of a folder's."""


def imported(place: str) -> Any:
    """What stands in a file of this folder, `file.name`."""
    file, _, name = place.partition(".")
    return getattr(importlib.import_module(f".{file}", __package__), name)


def open_as(kind: str, *arguments: Any) -> Any:
    """Open a checkpoint of a kind."""
    return imported(OPENED_BY[kind])(*arguments)
