"""Tensors that MLX quantized, read as the numbers that its layers compute with: `X.weight` in whole
numbers of 32 bits beside `X.scales` and `X.biases` (mlx.nn.QuantizedLinear, QuantizedEmbedding)."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ..files.checkpoint import Checkpoint, TensorInfo
from .sizes import LARGEST_CONFIG

FORMATS = ("safetensors", "npz")
"""Of files that MLX writes and that keep such tensors."""

GROUPS, BITS = (32, 64, 128), (2, 3, 4, 5, 6, 8)
"""Numbers that share a scale, and bits of a number, that mlx.core.quantize takes."""

_OF_A_STAGE = re.compile(r"(^|[._])(pos(ition)?_?emb\w*|position\w*|patch\w*)\.")
"""Names of layers whose weight an embedding stage may take."""


@dataclass(frozen=True)
class _Packed:
    """A quantized tensor.

    Args:
        layer: what stands before `.weight`.
        group, bits: how it was quantized; 0 where nothing tells.
        why: in words, where it is not read.
    """

    layer: str
    group: int = 0
    bits: int = 0
    why: str = ""


class DequantizedCheckpoint(Checkpoint):
    """A checkpoint whose quantized tensors go by the shapes and the numbers that they stand for."""

    def __init__(self, packed: Checkpoint, layers: Sequence[_Packed]) -> None:
        super().__init__(packed.path)
        self.packed, self.format = packed, packed.format
        self.layers = {f"{layer.layer}.weight": layer for layer in layers}
        self.metadata, self.unbuilt = packed.metadata, packed.unbuilt
        self.own_config, self.told = packed.own_config, dict(packed.told)
        beside = {f"{layer.layer}.{part}" for layer in layers for part in ("scales", "biases")}
        for name, info in packed.tensors.items():
            if name in beside:
                continue
            if layer := self.layers.get(name):
                scales = packed.tensors[f"{layer.layer}.scales"]
                shape = (*info.shape[:-1], scales.shape[-1] * layer.group)
                info = TensorInfo(shape, scales.dtype)
                self.told[name] = (
                    f"dequantized from {layer.bits} bits, a scale and a bias for each {layer.group}"
                )
            self.tensors[name] = info

    @property
    def config_folder(self) -> Path | None:
        """That of the file."""
        return self.packed.config_folder

    @property
    def config_name(self) -> str:
        """That of the file."""
        return self.packed.config_name

    @property
    def files(self) -> tuple[Path, ...]:
        """Those of the file."""
        return self.packed.files

    def _read(self, name: str) -> NDArray[Any]:
        layer = self.layers.get(name)
        if layer is None:
            return self.packed.read(name)
        parts = [self.packed.read(f"{layer.layer}.{part}") for part in ("scales", "biases")]
        return expanded(self.packed.read(name), parts[0], parts[1], layer.group, layer.bits)


def expanded(
    words: NDArray[Any], scales: NDArray[Any], biases: NDArray[Any], group: int, bits: int
) -> NDArray[Any]:
    """What mlx.core.dequantize gives, bit by bit: number · scale + bias, each of the two rounded to
    the type of the scales.

    Args:
        words: `(..., width · bits / 32)`, whole numbers of 32 bits, filled from their lowest bit.
        scales, biases: `(..., width / group)`.
        group: numbers that share a scale.
        bits: of a number.
    """
    content = np.ascontiguousarray(words.astype("<u4")).view(np.uint8).reshape(len(words), -1)
    width = scales.shape[-1] * group
    each = np.unpackbits(content, axis=1, count=width * bits, bitorder="little")
    places = np.arange(bits, dtype=np.uint8)
    numbers = (each.reshape(len(words), width, bits) << places).sum(-1).astype(np.float32)
    scale, bias = (np.repeat(part.astype(np.float32), group, -1) for part in (scales, biases))
    product = (numbers * scale).astype(scales.dtype).astype(np.float32)
    return np.asarray((product + bias).astype(scales.dtype))


def dequantized(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint with the tensors that MLX quantized as numbers; as it is without any.

    Raises:
        PatchParityError: a layer that may be of an embedding stage and is quantized in a way that
            nothing tells, or that is not read.
    """
    if checkpoint.format not in FORMATS:
        return checkpoint
    names = [
        name.removesuffix(".weight")
        for name, info in checkpoint.tensors.items()
        if name.endswith(".weight") and info.dtype == "uint32" and len(info.shape) == 2
    ]
    layers = [layer for layer in names if f"{layer}.scales" in checkpoint.tensors]
    if not layers:
        return checkpoint
    told = _told(checkpoint)
    found = [_layer(checkpoint, layer, told) for layer in layers]
    for layer in found:
        if layer.why and _OF_A_STAGE.search(f"{layer.layer}."):
            raise PatchParityError(f"{checkpoint.path}: {layer.layer}.weight {layer.why}")
    known = [layer for layer in found if not layer.why]
    return DequantizedCheckpoint(checkpoint, known) if known else checkpoint


def _layer(checkpoint: Checkpoint, layer: str, told: Mapping[str, Any]) -> _Packed:
    """How a layer is quantized."""
    words, scales = (checkpoint.tensors[f"{layer}.{part}"] for part in ("weight", "scales"))
    biases = checkpoint.tensors.get(f"{layer}.biases")
    if biases is None or biases != scales or scales.dtype not in ("float16", "bfloat16", "float32"):
        return _Packed(
            layer,
            why="is quantized by MLX in another way than with scales and biases, which is not "
            "read: dequantize it (mlx_vlm.convert --dequantize)",
        )
    ways = [
        (group, bits)
        for group in GROUPS
        for bits in BITS
        if words.shape[0] == scales.shape[0]
        and words.shape[1] * 32 == scales.shape[1] * group * bits
    ]
    own = told.get(layer, told)
    own = own if isinstance(own, dict) else told
    wanted = own.get("group_size", told.get("group_size")), own.get("bits", told.get("bits"))
    if wanted in ways:
        ways = [wanted]
    if len(ways) == 1:
        return _Packed(layer, *ways[0])
    shapes = f"{words.shape} beside scales {scales.shape}"
    return _Packed(
        layer,
        why=f"{shapes} is quantized by MLX, and nothing tells its bits: the config.json of its "
        "model does, under 'quantization'",
    )


def _told(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What config.json tells of how the model was quantized."""
    for held in _configs(checkpoint.config_folder):
        for key in ("quantization", "quantization_config"):
            if isinstance(held.get(key), dict):
                return dict(held[key])
    return {}


def _configs(folder: Path | None) -> Iterator[Mapping[str, Any]]:
    file = folder / "config.json" if folder else None
    try:
        if file and file.is_file() and file.stat().st_size <= LARGEST_CONFIG:
            held = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(held, dict):
                yield held
    except (OSError, ValueError, RecursionError):
        return  # it is told where its sizes are read
