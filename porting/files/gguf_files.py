"""GGUF, as llama.cpp keeps a vision tower in an mmproj file
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; names and keys are those of gguf-py's
constants.py, what is done with them llama.cpp's tools/mtmd/clip.cpp).

The header is read and written here; what is quantized, gguf's own `quants` dequantizes. A tubelet
of two frames is kept there as two kernels, and is one tensor of five axes here.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from .checkpoint import Checkpoint, TensorInfo, Tensors, copy_bytes, dtype_of
from .gguf_header import (
    ALIGNMENT,
    KEYS_BEGIN,
    NUMBER_OF,
    PLAIN,
    WRITTEN_VERSION,
    GgufHeader,
    GgufTensor,
    HeaderError,
    pack_header,
    pack_values,
    read_header,
)
from .lazy import Feed, Lazy

KERNEL = "v.patch_embd.weight"
SECOND = f"{KERNEL}.1"
"""The kernel of a tubelet's first frame, and of its second (llama.cpp splits Conv3d so)."""

POSITIONS = "v.position_embd.weight"

LARGEST_DUMMY = 2**26
"""Bytes of a table that is looked at for zeros: 1600 rows of 1280 values, which an older script
wrote, are 8 MB."""

VALUES_AT_A_TIME = 2**20
"""Values that are dequantized at a time: gguf takes some ten times their size for it."""

MODELS = {
    "gemma3": "siglip_vision_model",
    "idefics3": "idefics3_vision",
    "lfm2": "siglip2_vision_model",
    "phi4": "siglip2_vision_model",
    "janus_pro": "janus_vision_model",
    "paddleocr": "paddleocr_vl_vision",
    "resampler": "idefics2_vision",
    "kimivl": "kimi_k25_vision",
    "kimik25": "kimi_k25_vision",
    "pixtral": "pixtral",
    "lightonocr": "pixtral",
    "internvl": "internvl_vision",
    "llama4": "llama4_vision_model",
    "glm4v": "glm4v_vision",
    "qwen2vl_merger": "qwen2_vl",
    "qwen2.5vl_merger": "qwen2_5_vl",
    "qwen2.5o": "qwen2_5_omni_vision_encoder",
    "qwen3vl_merger": "qwen3_vl",
}
"""What transformers calls the tower behind each projector of llama.cpp that has but one
(gguf.VisionProjectorType, PROJECTOR_TYPE_NAMES of clip-impl.h)."""

ANY_TOWER = ("mlp", "mlp_norm", "ldp", "ldpv2", "adapter")
"""Projectors behind CLIP's tower or SigLIP's (LLaVA, MobileVLM, GLM-Edge): tensors tell which."""

DYNAMIC = (
    "resampler",
    "lfm2",
    "phi4",
    "kimivl",
    "kimik25",
    "qwen2vl_merger",
    "qwen2.5vl_merger",
    "qwen2.5o",
)
"""Projectors of towers that take images of any size: their `image_size` is a stand-in of the
converter (896 of Kimi-VL, 560 of Qwen2-VL) and says nothing of the positions."""

WINDOWS = {"qwen2_5_vl": 112, "qwen2_5_omni_vision_encoder": 112}
"""Pixels along a side of the attention windows, which no key tells: clip.cpp has them in its code
(attn_window_size)."""

CONFIG = {
    "clip.vision.patch_size": "patch_size",
    "clip.vision.image_size": "image_size",
    "clip.vision.embedding_length": "hidden_size",
    "clip.vision.attention.layer_norm_epsilon": "layer_norm_eps",
    "clip.vision.spatial_merge_size": "spatial_merge_size",
    "clip.vision.window_size": "window_size",
    "clip.vision.attention.head_count": "num_attention_heads",
    "clip.vision.block_count": "num_hidden_layers",
}
"""Keys of a file, and of a `config.json` that says the same."""

TANH_GELU = ("siglip_vision_model", "idefics2_vision", "idefics3_vision")
"""Towers trained with the GELU of tanh, which clip.cpp computes where `clip.use_gelu` is set; a
CLIP with it was trained with the exact one, and runs there with the other."""

PART = re.compile(r".*-(\d{5})-of-(?!00001\.)(\d{5})\.gguf")
"""Names of one file of several, as llama.cpp's tools split them."""


def _activation(values: Mapping[str, Any], model: Any) -> str:
    """What the keys of a file tell of its activation (`ffn_op` of clip.cpp); empty for nothing."""
    gelu, silu = values.get("clip.use_gelu"), values.get("clip.use_silu")
    if gelu is True:
        return "gelu_pytorch_tanh" if model in TANH_GELU else ""
    if silu is True:
        return "silu"
    return "quick_gelu" if gelu is False else ""


class GgufCheckpoint(Checkpoint):
    """One GGUF file with a vision tower. Shapes are NumPy's, the file's reversed."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with path.open("rb") as file:
                self.header: GgufHeader = read_header(file, path.stat().st_size)
        except HeaderError as error:
            raise self.damaged(str(error)) from None
        self.held = {tensor.name: tensor for tensor in self.header.tensors}
        self.metadata = {
            key: value
            for key, value in self.header.values.items()
            if isinstance(value, str) and "." in key
        }
        self._require_whole()
        self._require_tower()
        for tensor in self.header.tensors:
            try:
                self._add(tensor)
            except ValueError as error:
                raise self.damaged(f"{tensor.name} is {error}") from None
        self.paired = self._pair()
        self.own_config = self._own_config()
        self._leave_dummy()

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor; of one whose type is not known up to where the next begins."""
        room = self.path.stat().st_size - self.header.begin
        begins = sorted({tensor.offset for tensor in self.header.tensors} | {room})
        return {
            tensor.name: tensor.nbytes
            if tensor.kind
            else next((begin for begin in begins if begin > tensor.offset), room) - tensor.offset
            for tensor in self.header.tensors
        }

    def _require_whole(self) -> None:
        """Raise PatchParityError for one file of several."""
        count = self.header.values.get("split.count", 1)
        if PART.fullmatch(self.path.name) or (isinstance(count, int) and count > 1):
            raise PatchParityError(
                f"{self.path} is one part of a GGUF file that was split, and its other tensors are "
                "in the others: llama-gguf-split --merge FIRST OUT.gguf makes one file of them"
            )

    def _require_tower(self) -> None:
        """Raise PatchParityError for a file without a vision tower."""
        values = self.header.values
        if any(name.startswith("v.") for name in self.held):
            return
        architecture = values.get("general.architecture")
        if values.get("clip.has_vision_encoder") is False:
            raise PatchParityError(
                f"{self.path} holds no vision tower (clip.has_vision_encoder is false)"
            )
        if architecture != "clip" and isinstance(architecture, str) and self.held:
            raise PatchParityError(
                f"{self.path} is a GGUF file of {architecture[:60]!r} without a vision tower: "
                "that of a language model is in a file beside it, mmproj-*.gguf"
            )

    def _add(self, tensor: GgufTensor) -> None:
        dtype = PLAIN.get(tensor.type_name)
        if dtype is None:
            self.told[tensor.name] = (
                f"dequantized from {tensor.type_name}: the float values before are not in the file"
            )
        self.tensors[tensor.name] = TensorInfo(tensor.shape, dtype or "float32")

    def _pair(self) -> bool:
        """Take the two kernels of a tubelet for one tensor, `(D, C, 2, Ph, Pw)`."""
        first, second = self.tensors.get(KERNEL), self.tensors.get(SECOND)
        if first is None or second is None or len(first.shape) != 4:
            return False
        if first.shape != second.shape:
            raise self.damaged(
                f"{KERNEL} is of shape {first.shape}, and {SECOND}, its second frame, of "
                f"{second.shape}"
            )
        dtype = first.dtype if first.dtype == second.dtype else "float32"
        del self.tensors[SECOND]
        shape = (*first.shape[:2], 2, *first.shape[2:])
        self.tensors[KERNEL] = TensorInfo(shape, dtype)
        more = [self.told.pop(name) for name in (SECOND, KERNEL) if name in self.told]
        self.told[KERNEL] = "; ".join([f"with {SECOND} as its second frame", *more[-1:]])
        return True

    def _own_config(self) -> dict[str, Any]:
        """What its keys tell of the tower, under the keys of a `config.json`."""
        values = self.header.values
        told = {ours: values[key] for key, ours in CONFIG.items() if key in values}
        projector = values.get("clip.vision.projector_type", values.get("clip.projector_type"))
        wide = values.get("clip.vision.feed_forward_length")
        if isinstance(wide, int) and wide > 0:  # an older script of Qwen2-VL wrote 0
            told["intermediate_size"] = wide
        if told.get("image_size") == 0 or projector in DYNAMIC:
            told.pop("image_size", None)
        if projector in MODELS:
            told["model_type"] = MODELS[projector]
            if told["model_type"] in WINDOWS:
                told.setdefault("window_size", WINDOWS[told["model_type"]])
        elif projector is not None and projector not in ANY_TOWER:
            told["projector_type"] = str(projector)[:60]
        elif told and not self.paired:
            model = self._tower_of_tensors("layer_norm_eps" in told)
            told |= {"model_type": model} if model else {}
        if activation := _activation(values, told.get("model_type")):
            told["hidden_act"] = activation
        return told

    def _tower_of_tensors(self, epsilon: bool) -> str:
        """Which tower it is by what it has, as clip.cpp tells CLIP's from SigLIP's; empty where
        that is not known, and of CLIP's where nothing tells ε of its norm."""
        if "v.class_embd" in self.held:
            normed = "v.pre_ln.weight" in self.held and epsilon
            return "clip_vision_model" if normed else ""
        return "siglip_vision_model" if POSITIONS in self.held else ""

    def _leave_dummy(self) -> None:
        """Leave out a table of zeros that nobody adds: an older script put one beside the kernels
        of Qwen2-VL (llama.cpp's qwen2_vl_surgery.py). Another table stays, and is refused by what
        reads the tower."""
        table = self.held.get(POSITIONS)
        if (
            table is None
            or not self.paired
            or "v.patch_embd.bias" in self.held
            or table.nbytes > LARGEST_DUMMY
            or table.type_name not in ("F32", "F16")
        ):
            return
        if not np.frombuffer(self._content(table), np.uint8).any():
            del self.tensors[POSITIONS]
            self.told[KERNEL] += f"; {POSITIONS} is a dummy of zeros, which is left out"

    def _content(self, tensor: GgufTensor) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.header.begin + tensor.offset)
            content = file.read(tensor.nbytes)
        if len(content) != tensor.nbytes:
            raise self.damaged(f"{tensor.name} ends before its time")
        return content

    def _read(self, name: str) -> NDArray[Any]:
        if not (self.paired and name == KERNEL):
            return self._values(self.held[name])
        dtype = dtype_of(self.tensors[name].dtype)
        frames = [self._values(self.held[frame]).astype(dtype) for frame in (KERNEL, SECOND)]
        return np.stack(frames, axis=2)

    def _values(self, tensor: GgufTensor) -> NDArray[Any]:
        dtype = PLAIN.get(tensor.type_name)
        if dtype is None:
            return self._dequantized(tensor)
        stored = np.frombuffer(self._content(tensor), dtype_of(dtype).newbyteorder("<"))
        return stored.astype(dtype_of(dtype)).reshape(tensor.shape)

    def _dequantized(self, tensor: GgufTensor) -> NDArray[np.float32]:
        """The values of a quantized tensor, some rows of blocks at a time.

        Raises:
            PatchParityError: gguf is not installed, or does not know the type.
        """
        try:
            import gguf
        except ImportError:
            raise PatchParityError(
                f"{self.path}: {tensor.name} is quantized ({tensor.type_name}), and gguf "
                "dequantizes it: pip install 'patchparity[gguf]'"
            ) from None
        unknown = PatchParityError(
            f"{self.path}: {tensor.name} is of type {tensor.type_name}, which gguf cannot "
            "dequantize: convert the file to F16 or F32"
        )
        if tensor.kind is None:
            raise unknown
        blocks = np.frombuffer(self._content(tensor), np.uint8).reshape(-1, tensor.kind.nbytes)
        values = np.empty((len(blocks), tensor.kind.block), np.float32)
        step = VALUES_AT_A_TIME // tensor.kind.block
        try:
            kind = gguf.GGMLQuantizationType[tensor.type_name]
            with np.errstate(all="ignore"):
                for first in range(0, len(blocks), step):
                    part = blocks[first : first + step]
                    values[first : first + step] = gguf.quants.dequantize(part, kind)
        except (KeyError, NotImplementedError):
            raise unknown from None
        return values.reshape(tensor.shape)


PROJECTORS = {
    MODELS[projector]: projector
    for projector in (
        "pixtral",
        "internvl",
        "llama4",
        "glm4v",
        "qwen2vl_merger",
        "qwen2.5vl_merger",
        "qwen3vl_merger",
    )
}
"""Projectors that are written, by what transformers calls their tower: those that stand before no
other one, and tell what no tensor does."""


def tower_values(
    model_type: str,
    patch_size: Sequence[int],
    image_size: Sequence[int],
    embed_dim: int,
    epsilon: float | None = None,
    window: int = 0,
) -> dict[str, Any]:
    """Keys and values that tell a tower, as llama.cpp's converter writes them.

    Args:
        model_type: what transformers calls it.
        patch_size, image_size: of pixels, empty where it is not known; a key holds one number, so
            that those of oblong ones are left out.
        embed_dim: its width.
        epsilon: that of its norms, where there are some.
        window: pixels along a side of its attention windows, where there are some.
    """
    values: dict[str, Any] = {"general.type": "mmproj", "clip.has_vision_encoder": True}
    if model_type in PROJECTORS:
        values["clip.projector_type"] = PROJECTORS[model_type]
    for key, size in (("patch_size", patch_size), ("image_size", image_size)):
        if size and len(set(size[-2:])) == 1:
            values[f"clip.vision.{key}"] = int(size[-1])
    values["clip.vision.embedding_length"] = embed_dim
    if epsilon is not None:
        values["clip.vision.attention.layer_norm_epsilon"] = epsilon
    if window:
        values["clip.vision.window_size"] = window
    return values


def write_gguf(draft: Path, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Write a file anew: `general.architecture` clip, and the keys and values that are told.

    Raises:
        PatchParityError: a type that GGUF has not, a tubelet of other than two frames.
    """
    told = {"general.architecture": "clip", "general.alignment": ALIGNMENT, **values}
    arrays = dict(_in_frames(tensors))
    entries = [
        (GgufTensor(name, array.shape[::-1], _number_of(name, array.dtype.name), 0), array.nbytes)
        for name, array in arrays.items()
    ]
    with draft.open("wb") as out:
        places = _placed(entries, ALIGNMENT)
        out.write(pack_header(WRITTEN_VERSION, pack_values(told), len(told), places, ALIGNMENT))
        for array in arrays.values():
            out.write(array.tobytes() + bytes(-array.nbytes % ALIGNMENT))


def stream_gguf(draft: Path, feed: Feed, values: Mapping[str, Any]) -> None:
    """As `write_gguf`, a piece of a tensor at a time."""
    told = {"general.architecture": "clip", "general.alignment": ALIGNMENT, **values}
    feed = dataclasses.replace(feed, tensors=dict(_lazy_in_frames(feed.tensors)))
    entries = [
        (GgufTensor(name, lazy.shape[::-1], _number_of(name, lazy.dtype), 0), lazy.nbytes)
        for name, lazy in feed.tensors.items()
    ]
    with draft.open("wb") as out:
        places = _placed(entries, ALIGNMENT)
        out.write(pack_header(WRITTEN_VERSION, pack_values(told), len(told), places, ALIGNMENT))
        for name, lazy in feed.tensors.items():
            for piece in feed.pieces(name):
                out.write(piece)
            out.write(bytes(-lazy.nbytes % ALIGNMENT))
    if SECOND in feed.tensors:  # the two are read as one, of which there is no checksum
        feed.checksums.pop(KERNEL, None)


def _lazy_in_frames(tensors: Mapping[str, Lazy]) -> Iterator[tuple[str, Lazy]]:
    """As `_in_frames`: each of the two is made by itself."""
    for name, lazy in tensors.items():
        if name != KERNEL or len(lazy.shape) != 5:
            yield name, lazy
            continue
        _require_two_frames(name, lazy.shape)
        shape = (*lazy.shape[:2], *lazy.shape[3:])
        for frame, called in enumerate((KERNEL, SECOND)):
            yield called, Lazy(shape, lazy.dtype, functools.partial(_frame, lazy, frame))


def _frame(lazy: Lazy, frame: int) -> NDArray[Any]:
    whole = Feed({KERNEL: lazy}).made(KERNEL)
    part: NDArray[Any] = whole[:, :, frame]
    return part


def replace_in_gguf(source: GgufCheckpoint, draft: Path, changes: Tensors) -> None:
    """A header with the same keys and values, bit by bit, then the bytes of every tensor, copied a
    piece at a time. A tensor that is replaced keeps its axes of one.

    Raises:
        PatchParityError: a type that GGUF has not, a tubelet of other than two frames.
    """
    header, sizes = source.header, source.sizes
    alone = KERNEL in source.held and not source.paired
    arrays = dict(changes) if alone else dict(_in_frames(changes))
    entries = []
    for name in [*source.held, *(name for name in arrays if name not in source.held)]:
        there = source.held.get(name)
        if name not in arrays:
            assert there is not None
            entries.append((there, sizes[name]))
            continue
        array = arrays[name]
        kept = there is not None and there.shape == array.shape
        extents = there.extents if there is not None and kept else array.shape[::-1]
        entries.append(
            (GgufTensor(name, extents, _number_of(name, array.dtype.name), 0), array.nbytes)
        )
    places, alignment = _placed(entries, header.alignment), header.alignment
    with source.path.open("rb") as file, draft.open("wb") as out:
        file.seek(KEYS_BEGIN)
        keys = file.read(header.keys_end - KEYS_BEGIN)
        out.write(pack_header(header.version, keys, header.count, places, alignment))
        for tensor, size in entries:
            if tensor.name in arrays:
                out.write(arrays[tensor.name].tobytes())
            else:
                file.seek(header.begin + tensor.offset)
                copy_bytes(file, out, size)
            out.write(bytes(-size % alignment))


def _placed(entries: Sequence[tuple[GgufTensor, int]], alignment: int) -> list[GgufTensor]:
    """Tensors of these sizes in bytes one behind the other."""
    places, offset = [], 0
    for tensor, size in entries:
        places.append(dataclasses.replace(tensor, offset=offset))
        offset += -(-size // alignment) * alignment
    return places


def _in_frames(tensors: Tensors) -> Iterator[tuple[str, NDArray[Any]]]:
    """Tensors as llama.cpp keeps them: a kernel of two frames as two.

    Raises:
        PatchParityError: one of another number of frames.
    """
    for name, array in tensors.items():
        if name != KERNEL or array.ndim != 5:
            yield name, array
            continue
        _require_two_frames(name, array.shape)
        yield KERNEL, np.ascontiguousarray(array[:, :, 0])
        yield SECOND, np.ascontiguousarray(array[:, :, 1])


def _require_two_frames(name: str, shape: tuple[int, ...]) -> None:
    if shape[2] != 2:
        raise PatchParityError(
            f"{name} of shape {shape} is of tubelets of {shape[2]} frames, and llama.cpp keeps "
            "those of two"
        )


def _number_of(name: str, dtype: str) -> int:
    """The number of a tensor's type.

    Raises:
        PatchParityError: a type that GGUF has not.
    """
    number = NUMBER_OF.get(dtype)
    if number is None:
        raise PatchParityError(f"{name} is of dtype {dtype}, and GGUF has {', '.join(NUMBER_OF)}")
    return number
