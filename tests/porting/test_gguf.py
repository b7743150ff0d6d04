"""GGUF files: types of tensors, what keys tell, traps, damaged and hostile headers, memory."""

import json
import os
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchParityError, inspect_checkpoint, port, verify
from patchparity.porting.files.gguf_header import KINDS, PLAIN, GgufTensor, pack_header
from patchparity.porting.files.opening import open_checkpoint, opened

gguf = pytest.importorskip("gguf")

from .gguf_converter import (  # noqa: E402
    GENERATOR,
    PATCH,
    POSITIONS,
    drawn,
    internvl_tensors,
    qwen_tensors,
    read,
    siglip_tensors,
    stored,
    values,
    write,
)
from .gguf_converter import KINDS as TYPES  # noqa: E402


def test_the_types_are_gguf_s():
    assert {number: (kind.block, kind.nbytes) for number, kind in KINDS.items()} == {
        int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()
    }
    assert {kind.name for kind in KINDS.values()} == {each.name for each in gguf.GGML_QUANT_SIZES}


def test_bfloat16_comes_back_as_it_is(tmp_path):
    """gguf's own reader gives its bytes, and MLX float16, of which 1e5 is infinite."""
    tensors = {name: array.astype(ml_dtypes.bfloat16) for name, array in siglip_tensors().items()}
    tensors[POSITIONS][0, 0], tensors[POSITIONS][1, 1] = 1e5, 1e-8
    path = write(tmp_path / "a.gguf", tensors, values())
    weights = read(path).weights
    assert weights.positions.dtype == ml_dtypes.bfloat16
    assert weights.positions.tobytes() == tensors[POSITIONS].tobytes()
    assert weights.kernel.tobytes() == tensors[PATCH].transpose(0, 2, 3, 1).tobytes()


QUANTIZED = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0",
    "TQ2_0", "MXFP4", "IQ4_NL", "IQ4_XS", "IQ2_XXS", "IQ3_S", "IQ1_M",
]  # fmt: skip


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_is_quantized_is_dequantized_and_told(name, tmp_path, monkeypatch):
    kind = TYPES[name]
    block, nbytes = gguf.GGML_QUANT_SIZES[kind]
    tensors = siglip_tensors(width=256, side=3)
    blocks = GENERATOR.integers(0, 60, (9, 256 // block * nbytes), np.uint8)
    kinds = {POSITIONS: kind}
    monkeypatch.setattr("gguf.quants.quantize", lambda array, wanted: blocks)
    path = write(tmp_path / "a.gguf", tensors, values(), kinds)
    expected = gguf.quants.dequantize(blocks, kind)
    stage = read(path)
    assert stage.weights.positions.dtype == np.float32
    assert np.array_equal(stage.weights.positions, expected)
    told = f"{POSITIONS}: dequantized from {name}: the float values before are not in the file"
    assert told in inspect_checkpoint(path)["candidates"][0]["evidence"]
    steps = port(path, tmp_path / "b.safetensors", "hf-siglip").steps
    assert f"read: {told}" in steps


def test_a_kernel_whose_rows_are_blocks(tmp_path):
    tensors = siglip_tensors(patch=32, side=2)
    path = write(tmp_path / "a.gguf", tensors, values(**{"clip.vision.patch_size": 32}),
                 {PATCH: TYPES.Q8_0})  # fmt: skip
    expected = gguf.quants.dequantize(stored(tensors[PATCH], TYPES.Q8_0), TYPES.Q8_0)
    found = read(path).weights.kernel
    assert np.array_equal(found, expected.reshape(tensors[PATCH].shape).transpose(0, 2, 3, 1))
    assert np.abs(found - tensors[PATCH].transpose(0, 2, 3, 1)).max() > 0


@pytest.mark.parametrize("number", [9, 15, 99])
def test_what_gguf_cannot_dequantize_is_refused_by_name(number, tmp_path):
    path = _retyped(write(tmp_path / "a.gguf", siglip_tensors(width=256), values()), number)
    name = KINDS[number].name if number in KINDS else "number 99"
    with pytest.raises(PatchParityError, match=f"{POSITIONS} is of type {name}, which gguf"):
        read(path)


def _retyped(path, number):
    """The same file with another type of the positions."""
    content = bytearray(path.read_bytes())
    at = content.index(POSITIONS.encode()) + len(POSITIONS) + 4 + 16
    content[at : at + 4] = struct.pack("<I", number)
    path.write_bytes(content)
    return path


def test_without_gguf_only_what_is_quantized_is_not_read(tmp_path, monkeypatch):
    plain = write(tmp_path / "a.gguf", siglip_tensors(), values())
    packed = write(tmp_path / "b.gguf", siglip_tensors(), values(), {POSITIONS: TYPES.Q8_0})
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert read(plain).weights.positions.shape == (16, 32)
    with pytest.raises(PatchParityError, match=r"pip install 'patchparity\[gguf\]'"):
        read(packed)


def test_axes_of_one_in_front_are_none(tmp_path):
    """The converter leaves them, and whatever ggml writes anew is without."""
    tensors = internvl_tensors()
    flat = tensors | {
        "v.class_embd": tensors["v.class_embd"].reshape(-1),
        POSITIONS: tensors[POSITIONS][0],
    }
    write(tmp_path / "a.gguf", tensors, values("internvl"))
    write(tmp_path / "b.gguf", flat, values("internvl"))
    assert verify(tmp_path / "a.gguf", tmp_path / "b.gguf").same
    assert np.array_equal(read(tmp_path / "a.gguf").weights.class_token, flat["v.class_embd"])


@pytest.mark.parametrize("shape", [(10, 10), (64, 32)])
def test_a_dummy_table_of_zeros_is_left_out(shape, tmp_path):
    tensors = qwen_tensors() | {POSITIONS: np.zeros(shape, np.float32)}
    told = values("qwen2vl_merger", **{"clip.vision.patch_size": 14})
    path = write(tmp_path / "a.gguf", tensors, told)
    assert read(path).weights.positions is None
    evidence = inspect_checkpoint(path)["candidates"][0]["evidence"]
    assert any("is a dummy of zeros" in sentence for sentence in evidence)
    tensors[POSITIONS][1, 2] = 1e-30
    with pytest.raises(PatchParityError, match=f"nothing of gguf-qwen2-vl explains {POSITIONS}"):
        read(write(path, tensors, told))


def test_two_kernels_of_one_frame_each_of_two_types(tmp_path):
    tensors = qwen_tensors()
    told = values("qwen2vl_merger", **{"clip.vision.patch_size": 14})
    path = write(tmp_path / "a.gguf", tensors, told, {PATCH: TYPES.F16})
    kernel = read(path).weights.kernel
    assert kernel.dtype == np.float32
    assert np.array_equal(kernel[:, 0], tensors[PATCH].astype(np.float16).transpose(0, 2, 3, 1))
    assert np.array_equal(kernel[:, 1], tensors[f"{PATCH}.1"].transpose(0, 2, 3, 1))


def test_the_order_of_tokens_is_the_projector_s(tmp_path):
    """The tensors of Qwen2-VL and 2.5 are the same."""
    bare = write(tmp_path / "a.gguf", qwen_tensors())
    with pytest.raises(PatchParityError, match="has its tokens in merge-2x2 order, and no tensor"):
        read(bare)
    told = {"clip.vision.patch_size": 14}
    for projector, window in (("qwen2vl_merger", 0), ("qwen2.5vl_merger", 8)):
        path = write(tmp_path / "b.gguf", qwen_tensors(), values(projector, **told))
        layout = read(path).weights.layout
        assert (layout.token_order, layout.window) == ("merge-2x2", window)
    merged = values("qwen2vl_merger", **told, **{"clip.vision.spatial_merge_size": 3})
    with pytest.raises(PatchParityError, match="says that spatial_merge_size is 3, and gguf-qwen2"):
        read(write(tmp_path / "c.gguf", qwen_tensors(), merged))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"clip.vision.patch_size": 14}, "tells patch 14×14, and v.patch_embd.weight"),
        ({"clip.vision.image_size": 48}, "16 positions are not of an image of 48×48"),
        ({"clip.vision.embedding_length": 48}, "tells hidden_size 48, and v.patch_embd.weight"),
        ({"clip.projector_type": "hunyuanocr"}, 'projector_type is "hunyuanocr", and gguf-siglip'),
        ({"clip.projector_type": "internvl"}, "calls the model 'internvl_vision', and gguf-siglip"),
        ({"clip.vision.patch_size": 0}, "says that patch_size is 0, expected positive whole"),
    ],
)
def test_keys_that_contradict_the_tensors(more, told, tmp_path):
    path = write(tmp_path / "a.gguf", siglip_tensors(), values(**more))
    with pytest.raises(PatchParityError) as caught:
        read(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("projector", ["mlp", "gemma3"])
def test_evidence_of_a_file_that_is_as_it_says(projector, tmp_path):
    told = values(projector, **{"clip.vision.image_size": 32, "clip.vision.embedding_length": 32})
    path = write(tmp_path / "a.gguf", siglip_tensors(), told)
    evidence = inspect_checkpoint(path)["candidates"][0]["evidence"]
    assert "the file itself tells a model of siglip_vision_model" in evidence
    wrong = told | {"clip.vision.embedding_length": 48}
    with pytest.raises(PatchParityError, match="tells hidden_size 48"):
        read(write(path, siglip_tensors(), wrong))


def test_an_epsilon_that_nothing_tells_is_said_to_be_assumed(tmp_path):
    tensors = siglip_tensors() | {
        "v.class_embd": drawn(32),
        "v.pre_ln.weight": drawn(32),
        "v.pre_ln.bias": drawn(32),
        POSITIONS: drawn(17, 32),
    }
    del tensors["v.patch_embd.bias"]
    path = write(tmp_path / "a.gguf", tensors, values("mlp"))
    assert "ε of its norms is taken for 1e-05" in read(path).assumptions[0]
    epsilon = {"clip.vision.attention.layer_norm_epsilon": 1e-6}
    stage = read(write(path, tensors, values("mlp", **epsilon)))
    assert not stage.assumptions
    assert stage.weights.layout.norm_epsilon == 1e-6


def test_an_image_size_that_is_a_stand_in(tmp_path):
    """The converter writes 896 for Kimi-VL, whatever its table is."""
    told = values("kimivl", **{"clip.vision.image_size": 896})
    stage = read(write(tmp_path / "a.gguf", siglip_tensors(), told))
    assert stage.spec.image_size == (32, 32)


def test_a_norm_in_front_is_no_siglip(tmp_path):
    tensors = siglip_tensors() | {"v.pre_ln.weight": drawn(32)}
    with pytest.raises(PatchParityError, match=r"explains v\.pre_ln\.weight"):
        read(write(tmp_path / "a.gguf", tensors, values()))


def test_a_config_json_beside_it_is_of_the_same_model(tmp_path):
    """The converter writes into the folder of the model: its own library is not asked."""
    path = write(tmp_path / "a.gguf", siglip_tensors(), {})
    about = {"model_type": "siglip_vision_model", "patch_size": 8, "image_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(about))
    done = port(path, tmp_path / "b.safetensors", "hf-siglip")
    told = "its tensors have llama.cpp's names, which no library's model takes"
    assert any(told in check.message for check in done.checks)
    (tmp_path / "config.json").write_text(json.dumps(about | {"patch_size": 16}))
    with pytest.raises(PatchParityError, match=r"config\.json tells patch 16×16"):
        read(path)


def test_a_folder_with_one_mmproj(tmp_path):
    path = write(tmp_path / "mmproj-model-f16.gguf", siglip_tensors(), values())
    write(tmp_path / "model-q4.gguf", {"token_embd.weight": drawn(8, 8)}, {}, architecture="llama")
    assert open_checkpoint(tmp_path).path == path


def test_a_language_model_alone(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, {"token_embd.weight": drawn(8, 8)}, {}, architecture="llama")
    with pytest.raises(PatchParityError, match=r"of 'llama' without a vision tower: that of a "):
        open_checkpoint(path)


def test_a_tower_of_sounds(tmp_path):
    told = {"clip.has_vision_encoder": False, "clip.has_audio_encoder": True}
    path = write(tmp_path / "a.gguf", {"a.blk.0.x": drawn(3, 3)}, told)
    with pytest.raises(PatchParityError, match="holds no vision tower"):
        open_checkpoint(path)


def test_one_of_several_files(tmp_path):
    write(tmp_path / "model.gguf", siglip_tensors(), values(), split_max_tensors=2)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 1
    for part in parts:
        with pytest.raises(PatchParityError, match="is one part of a GGUF file that was split"):
            open_checkpoint(part)


def test_a_big_endian_file(tmp_path):
    path = write(tmp_path / "a.gguf", siglip_tensors(), values(), endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(PatchParityError, match="it is a big-endian file"):
        open_checkpoint(path)


def _text(text):
    return struct.pack("<Q", len(text)) + text.encode()


def _file(tensors=0, keys=b"", count=0, places=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, count) + keys + places


def _place(name="v.x", axes=(4,), number=0, offset=0):
    return _text(name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, number, offset)


FLAG = _text("a.b") + struct.pack("<IB", 7, 1)
DAMAGED = {
    "version": (_file(version=1), "it is of version 1, expected one of 2, 3"),
    "cut": (_file()[:20], "its number of keys claims 8 bytes, and 4 are left"),
    "tensors": (_file(2**60), "its number of tensors is 1152921504606846976, expected at most"),
    "keys": (_file(0, b"", 2**40), "its number of keys is 1099511627776, expected at most"),
    "key": (_file(0, struct.pack("<Q", 2**63), 1), "a key claims 9223372036854775808 bytes"),
    "no text": (_file(0, struct.pack("<Q", 2) + b"\xff\xfe", 1), "a key is no text"),
    "twice": (_file(0, FLAG * 2, 2), "the key 'a.b' stands there twice"),
    "kind": (_file(0, _text("a") + struct.pack("<I", 77), 1), "a is of kind 77, which no value"),
    "text": (
        _file(0, _text("a") + struct.pack("<IQ", 8, 2**62), 1),
        "a claims 4611686018427387904 bytes, and 0 are left",
    ),
    "numbers": (
        _file(0, _text("a") + struct.pack("<IIQ", 9, 4, 2**62), 1),
        "a claims 18446744073709551616 bytes, and 0 are left",
    ),
    "texts": (
        _file(0, _text("a") + struct.pack("<IIQ", 9, 8, 2**32), 1),
        "a claims 4294967296 texts, expected at most",
    ),
    "deep": (
        _file(0, _text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9, 1),
        "a has more than 4 arrays within one another",
    ),
    "alignment": (
        _file(0, _text("general.alignment") + struct.pack("<II", 4, 0), 1),
        "general.alignment is 0, expected a power of two",
    ),
    "axes": (
        _file(1, places=_text("v.x") + struct.pack("<I", 99)),
        "v.x claims 99 axes, expected at most 16",
    ),
    "extents": (_file(1, places=_place(axes=(2**60, 2**60))), "v.x claims extents"),
    "outside": (
        _file(1, places=_place(offset=2**40)) + bytes(99),
        "v.x of shape (4,) and type F32 claims bytes 1099511627776 to 1099511627792 of",
    ),
    "offset": (_file(1, places=_place(offset=4)) + bytes(99), "is no multiple of 32"),
    "blocks": (
        _file(1, places=_place(axes=(4, 8), number=8)) + bytes(99),
        "v.x of shape (8, 4) is Q8_0, of blocks of 32 values, and its rows are no multiple",
    ),
    "overlap": (
        _file(2, places=_place(axes=(16,)) + _place("v.y")) + bytes(199),
        "v.x and v.y lie on one another",
    ),
    "twins": (_file(2, places=_place() * 2) + bytes(99), "it holds 'v.x' twice"),
    "frames": (
        _file(2, places=_place(PATCH, (2, 2, 3, 4)) + _place(f"{PATCH}.1", (2, 2, 3, 5), 0, 192))
        + bytes(999),
        "its second frame, of (5, 3, 2, 2)",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_header(name, tmp_path):
    content, told = DAMAGED[name]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(PatchParityError) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path} is damaged or hostile: ")
    assert told in str(caught.value)


def test_only_what_is_needed_is_read(tmp_path):
    """A gigabyte of other tensors, which are holes in the file, costs nothing."""
    path = write(tmp_path / "a.gguf", siglip_tensors(), values())
    with opened(path) as small:
        header = small.header
    content = path.read_bytes()
    keys = content[24 : header.keys_end]
    size = 2**30
    first = GgufTensor("v.blk.0.ffn_up.weight", (2**14, 2**14), 0, 0)
    rest = [
        GgufTensor(each.name, each.extents, each.number, each.offset + size)
        for each in header.tensors
    ]
    start = pack_header(3, keys, header.count, [first, *rest], 32)
    large = tmp_path / "large.gguf"
    with large.open("wb") as out:
        out.write(start)
        out.seek(size, os.SEEK_CUR)
        out.write(content[header.begin :])
    code = (
        "import resource, sys, numpy\nfrom patchparity import port\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "port(sys.argv[1], sys.argv[2] + '/s.safetensors', 'hf-siglip', prove=False)\n"
        "before = peak()\n"
        "port(sys.argv[3], sys.argv[2] + '/l.safetensors', 'hf-siglip', prove=False)\n"
        "print(peak() - before)"
    )
    run = [sys.executable, "-c", code, str(path), str(tmp_path), str(large)]
    grown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 20
    assert (tmp_path / "s.safetensors").read_bytes() == (tmp_path / "l.safetensors").read_bytes()


def test_a_quantized_tensor_is_dequantized_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("patchparity.porting.files.gguf_files.VALUES_AT_A_TIME", 64)
    tensors = siglip_tensors()
    path = write(tmp_path / "a.gguf", tensors, values(), {POSITIONS: TYPES.Q8_0})
    expected = gguf.quants.dequantize(stored(tensors[POSITIONS], TYPES.Q8_0), TYPES.Q8_0)
    assert np.array_equal(read(path).weights.positions, expected)


def test_plain_types_are_all_read(tmp_path):
    for name in PLAIN.values():
        if name != "bfloat16":
            array = GENERATOR.integers(0, 99, (3, 5)).astype(name)
            path = write(tmp_path / "a.gguf", {"v.x": array})
            with opened(path) as checkpoint:
                found = checkpoint.read("v.x")
            assert found.dtype == array.dtype
            assert np.array_equal(found, array)
