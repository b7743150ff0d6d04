"""mmproj files as llama.cpp's converter makes them: gguf-py's own writer and its own table of
names, and what the converter does to a tensor beforehand (conversion/base.py, qwenvl.py and
intern_vision.py of llama.cpp)."""

import gguf
import ml_dtypes
import numpy as np

from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import opened

KINDS = gguf.GGMLQuantizationType
NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 4)
PATCH, POSITIONS = "v.patch_embd.weight", "v.position_embd.weight"
GENERATOR = np.random.default_rng(5)


def split(name, array):
    """A tensor of a model as the tensors that the converter makes of it, by gguf's names."""
    if name.endswith("patch_embed.proj.weight") and array.ndim == 5:
        return {PATCH: array[:, :, 0], f"{PATCH}.1": array[:, :, 1]}
    if name.endswith("patch_embed.proj.bias"):
        return {"v.patch_embd.bias": array}
    ends = ("position_embeddings", "position_embedding", "positional_embedding_vlm")
    name += ".weight" if name.endswith(ends) else ""
    ours = NAMES.get_name(name, try_suffixes=(".weight", ".bias"))
    return {ours: array} if ours else {}


def kind_of(name, array, wanted):
    """The type in which the converter writes a tensor into a file of this type."""
    if name.startswith("v.patch_embd.weight"):
        return KINDS.F16 if wanted == KINDS.F16 else KINDS.F32
    if array.ndim <= 1 or ".position_embd." in name or name.endswith("_norm.weight"):
        return KINDS.F32
    return wanted


def stored(array, kind):
    """The values as the writer takes them."""
    if kind == KINDS.BF16:
        return np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)).view(np.uint8)
    if kind in (KINDS.F32, KINDS.F16):
        return np.ascontiguousarray(array.astype(np.float32 if kind == KINDS.F32 else np.float16))
    return gguf.quants.quantize(np.ascontiguousarray(array.astype(np.float32)), kind)


def write(path, tensors, values=(), kinds=None, architecture="clip", alignment=0, **options):
    """Write tensors by gguf's names; those whose type is not told as they are."""
    writer = gguf.GGUFWriter(path, architecture, **options)
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, value in dict(values).items():
        if isinstance(value, (list, tuple)):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    for name, array in tensors.items():
        kind = (kinds or {}).get(name)
        if kind is None and array.dtype == ml_dtypes.bfloat16:
            kind = KINDS.BF16
        given = array if kind is None else stored(array, kind)
        writer.add_tensor(name, np.ascontiguousarray(given), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tower_values(projector, config, image_size=None):
    """The keys and values that the converter writes of a tower."""
    width = getattr(config, "embed_dim", None) or config.hidden_size
    patch, image = config.patch_size, image_size or getattr(config, "image_size", 560)
    patch, image = (size[0] if isinstance(size, (list, tuple)) else size for size in (patch, image))
    epsilon = getattr(config, "layer_norm_eps", getattr(config, "rms_norm_eps", 1e-5))
    return {
        "general.type": "mmproj",
        "general.name": "a model",
        "general.file_type": 1,
        "clip.has_vision_encoder": True,
        "clip.projector_type": projector,
        "clip.vision.projection_dim": 64,
        "clip.vision.image_size": image,
        "clip.vision.patch_size": patch,
        "clip.vision.embedding_length": width,
        "clip.vision.feed_forward_length": 8,
        "clip.vision.block_count": 1,
        "clip.vision.attention.head_count": 2,
        "clip.vision.image_mean": [0.5, 0.5, 0.5],
        "clip.vision.image_std": [0.5, 0.25, 0.5],
        "clip.vision.attention.layer_norm_epsilon": epsilon,
        "clip.use_gelu": True,
    }


def convert(path, state, prefix, values, kind=KINDS.F32):
    """A file of a model's own tensors; those for which gguf's table has no name are an encoder's,
    and are kept under one of its own."""
    tensors = {}
    for name, array in state.items():
        named = split(prefix + name, array)
        tensors |= named or {f"mm.other.{len(tensors)}.weight": array}
    kinds = {name: kind_of(name, array, kind) for name, array in tensors.items()}
    return write(path, tensors, values, kinds)


def drawn(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def siglip_tensors(width=32, patch=8, side=4, channels=3):
    return {
        PATCH: drawn(width, channels, patch, patch),
        "v.patch_embd.bias": drawn(width),
        POSITIONS: drawn(side * side, width),
        "v.blk.0.ln1.weight": drawn(width),
        "v.post_ln.bias": drawn(width),
        "mm.input_projection.weight": drawn(7, width),
    }


def qwen_tensors(width=32, patch=14):
    tensors = {PATCH: drawn(width, 3, patch, patch), f"{PATCH}.1": drawn(width, 3, patch, patch)}
    return tensors | {"v.blk.0.attn_qkv.weight": drawn(3 * width, width)}


def internvl_tensors():
    return siglip_tensors() | {"v.class_embd": drawn(1, 1, 32), POSITIONS: drawn(1, 10, 32)}


def values(projector="gemma3", **more):
    told = {"clip.has_vision_encoder": True, "clip.vision.patch_size": 8}
    return told | {"clip.projector_type": projector} | more


def read(path, *arguments):
    with opened(path) as checkpoint:
        return read_stage(checkpoint, *arguments)
