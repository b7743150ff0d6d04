"""Tensors of types that NumPy has not, in safetensors: counted and accounted for as all others."""

import json
import struct

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint
from patchparity.porting.files.opening import open_checkpoint

GENERATOR = np.random.default_rng(5)
D, P, C = 32, 4, 3


def file_of(path, *more):
    """A DINOv2 as its authors save it, and more tensors: name, type, shape, bytes."""
    shapes = {
        "patch_embed.proj.weight": (D, C, P, P),
        "patch_embed.proj.bias": (D,),
        "cls_token": (1, 1, D),
        "pos_embed": (1, 17, D),
        "blocks.0.norm1.weight": (D,),
    }
    values = {
        name: GENERATOR.standard_normal(shape).astype(np.float32).tobytes()
        for name, shape in shapes.items()
    }
    entries = [(name, "F32", shape, len(values[name])) for name, shape in shapes.items()]
    header, offset = {}, 0
    for name, kind, shape, size in [*entries, *more]:
        places = [offset, offset + size]
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": places}
        offset += size
    text = json.dumps(header).encode()
    content = b"".join(values.values()).ljust(offset, b"\0")
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def images():
    return GENERATOR.standard_normal((2, C, 4 * P, 4 * P)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "size"),
    [("F4", 512), ("F6_E2M3", 768), ("F6_E3M2", 768), ("F8_E8M0", 1024), ("C64", 8192)],
)
def test_they_are_counted(kind, size, tmp_path):
    plain = inspect_checkpoint(file_of(tmp_path / "a.safetensors"))
    more = ("blocks.0.mlp.fc1.weight", kind, (D, D), size)
    path = file_of(tmp_path / "b.safetensors", more)
    told = inspect_checkpoint(path)
    assert told["other_tensors"] == plain["other_tensors"] + 1
    assert not told["refused"]
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["blocks.0.mlp.fc1.weight"].shape == (D, D)
        with pytest.raises(PatchParityError, match=f"is of type {kind}, which is not read"):
            checkpoint.read("blocks.0.mlp.fc1.weight")


def test_one_that_nothing_explains_is_refused(tmp_path):
    path = file_of(tmp_path / "a.safetensors", ("pos_embed_more", "F4", (1, 17, D), 17 * D // 2))
    with pytest.raises(PatchParityError, match=r"pos_embed_more \(1, 17, 32\)"):
        embed(path, images())


def test_one_of_the_stage_is_not_left_out(tmp_path):
    path = file_of(tmp_path / "a.safetensors", ("register_tokens", "F4", (1, 4, D), 2 * D))
    with pytest.raises(PatchParityError, match="register_tokens is of type F4, which is not read"):
        embed(path, images())


@pytest.mark.parametrize("shape", [(2**40,), (1,) * 40, (-1, 2)])
def test_shapes_that_no_bytes_hold_are_refused(shape, tmp_path):
    path = file_of(tmp_path / "a.safetensors", ("blocks.0.q", "F4", shape, 8))
    with pytest.raises(PatchParityError, match="damaged or hostile"):
        open_checkpoint(path)
