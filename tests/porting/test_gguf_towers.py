"""GGUF: towers of real models as llama.cpp's converter writes them give what the models give, also
after a port, and in a copy of a whole file."""

import struct

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify
from patchparity.porting.files.opening import opened
from patchparity.porting.files.writing import write_checkpoint

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from .gguf_converter import (  # noqa: E402
    KINDS,
    PATCH,
    POSITIONS,
    convert,
    drawn,
    internvl_tensors,
    qwen_tensors,
    read,
    siglip_tensors,
    tower_values,
    values,
    write,
)
from .gguf_models import (  # noqa: E402
    SMALL,
    TOWERS,
    clip,
    entering,
    qwen2_5,
    randomized,
    siglip,
    state_of,
)


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory):
    model, prefix, projector, shape = TOWERS[request.param]()
    randomized(model)
    path = tmp_path_factory.mktemp("tower") / "mmproj-model.gguf"
    image_size = 64 if request.param == "gguf-qwen3-vl" else None
    told = tower_values(projector, model.config, image_size)
    convert(path, state_of(model), prefix, told)
    images = drawn(*shape)
    return request.param.partition(" ")[0], path, images, entering(model, images)


def test_a_tower_gives_what_its_model_gives(tower):
    identity, path, images, expected = tower
    told = inspect_checkpoint(path)
    assert told["dialect"] == identity, told
    assert not told["ambiguous"]
    assert told["missing"] == []
    found = embed(path, images)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


def test_and_through_other_files(tower, tmp_path):
    identity, path, images, expected = tower
    bound = 2e-5 * max(1.0, np.abs(expected).max())
    port(path, tmp_path / "back.gguf", identity)
    again = embed(tmp_path / "back.gguf", images)
    assert np.abs(again - expected).max() < bound
    assert verify(path, tmp_path / "back.gguf").same


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_the_converter_s_other_types(kind, tmp_path):
    """Whatever is not of this type the converter keeps in float32: bias, positions, and of bfloat16
    the kernel."""
    model, prefix, projector, _ = siglip()
    state = state_of(randomized(model))
    told = tower_values(projector, model.config)
    path = convert(tmp_path / "a.gguf", state, prefix, told, KINDS[kind])
    weights = read(path).weights
    original = state["embeddings.patch_embedding.weight"].astype(
        np.float16 if kind == "F16" else np.float32
    )
    assert weights.kernel.dtype == original.dtype
    assert np.array_equal(weights.kernel, original.transpose(0, 2, 3, 1))
    assert weights.positions.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_there_and_back_to_the_last_bit(dtype, tmp_path):
    model, _, _, _ = siglip()
    kind = {np.float32: torch.float32, np.float16: torch.float16}.get(dtype, torch.bfloat16)
    randomized(model).to(kind).save_pretrained(tmp_path / "model")
    port(tmp_path / "model", tmp_path / "a.gguf", "gguf-siglip")
    port(tmp_path / "a.gguf", tmp_path / "b.safetensors", "hf-siglip")
    with (
        opened(tmp_path / "model") as before,
        opened(tmp_path / "a.gguf") as between,
        opened(tmp_path / "b.safetensors") as after,
    ):
        assert {info.dtype for info in between.tensors.values()} == {np.dtype(dtype).name}
        for name in after.tensors:
            whole = name if name in before.tensors else f"vision_model.{name}"
            assert before.read(whole).tobytes() == after.read(name).tobytes()
            assert before.read(whole).dtype == after.read(name).dtype == dtype


def test_a_file_is_what_gguf_s_own_writer_makes_of_it(tmp_path):
    tensors = siglip_tensors()
    told = {"clip.vision.patch_size": 8, "clip.x": [0.5, 0.25], "clip.y": True, "clip.z": 1e-6}
    write_checkpoint(tmp_path / "ours.gguf", tensors, told)
    write(tmp_path / "theirs.gguf", tensors, told, alignment=32)
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_a_new_file_tells_what_is_known(tmp_path):
    model, _, _, _ = clip()
    randomized(model).save_pretrained(tmp_path / "model")
    done = port(tmp_path / "model", tmp_path / "a.gguf", "gguf-clip")
    assert not done.losses  # ε of its norm, 3e-4, is told
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    told = {key: field.contents() for key, field in reader.fields.items() if "." in key}
    expected = {
        "general.architecture": "clip",
        "general.alignment": 32,
        "clip.has_vision_encoder": True,
        "clip.vision.patch_size": 8,
        "clip.vision.image_size": 24,
        "clip.vision.embedding_length": 32,
        "clip.vision.attention.layer_norm_epsilon": np.float32(3e-4),
    }
    assert {key: told[key] for key in expected} == expected
    assert read(tmp_path / "a.gguf").weights.layout.norm_epsilon == 3e-4
    shapes = {tensor.name: list(tensor.shape) for tensor in reader.tensors}
    assert shapes == {
        PATCH: [8, 8, 3, 32],
        "v.class_embd": [32],
        POSITIONS: [32, 10],
        "v.pre_ln.weight": [32],
        "v.pre_ln.bias": [32],
    }


def test_a_tubelet_is_written_as_two_kernels(tmp_path):
    model, _, _, shape = qwen2_5()
    randomized(model).save_pretrained(tmp_path / "model")
    port(tmp_path / "model", tmp_path / "a.gguf", "gguf-qwen2-5-vl")
    held = {each.name: each.data for each in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    kernel = model.patch_embed.proj.weight.detach().numpy()
    assert np.array_equal(held[PATCH], kernel[:, :, 0])
    assert np.array_equal(held[f"{PATCH}.1"], kernel[:, :, 1])
    assert verify(tmp_path / "model", tmp_path / "a.gguf").same  # its windows too
    images = drawn(*shape)
    assert np.array_equal(embed(tmp_path / "model", images), embed(tmp_path / "a.gguf", images))


def test_a_tubelet_of_three_frames_has_no_place(tmp_path):
    with pytest.raises(PatchParityError, match=r"tubelets of 3 frames, and llama\.cpp"):
        write_checkpoint(tmp_path / "a.gguf", {PATCH: drawn(8, 3, 3, 4, 4)})


def test_a_type_that_gguf_has_not(tmp_path):
    with pytest.raises(PatchParityError, match="of dtype uint16, and GGUF has float32, float16"):
        write_checkpoint(tmp_path / "a.gguf", {"a": np.zeros(3, np.uint16)})


@pytest.mark.parametrize("alignment", [32, 64])
def test_into_a_whole_file_nothing_else_changes(alignment, tmp_path):
    tensors = siglip_tensors() | {"mm.0.weight": drawn(5, 64), "v.blk.0.x": drawn(3, 3)}
    kinds = {"mm.0.weight": KINDS.Q8_0, PATCH: KINDS.F16}
    told = values(
        **{
            "tokenizer.list": ["a", "é" * 40, ""],
            "clip.vision.image_mean": [0.5, 0.25, 0.125],
            "clip.long": list(range(200)),
        }
    )
    old = tmp_path / "old.gguf"
    write(old, tensors, told, kinds, alignment=alignment)
    config = transformers.SiglipVisionConfig(image_size=32, patch_size=8, **SMALL)
    model = randomized(transformers.SiglipVisionModel(config))
    model.save_pretrained(tmp_path / "model")
    done = port(tmp_path / "model", tmp_path / "new.gguf", "gguf-siglip", into=old)
    assert done.ok
    before, after = gguf.GGUFReader(old), gguf.GGUFReader(tmp_path / "new.gguf")
    assert list(before.fields) == list(after.fields)
    keys_end = before.tensors[0].field.offset
    assert old.read_bytes()[:keys_end] == (tmp_path / "new.gguf").read_bytes()[:keys_end]
    stage = {PATCH, "v.patch_embd.bias", POSITIONS}
    state = state_of(model)
    for mine, theirs in zip(before.tensors, after.tensors, strict=True):
        assert (mine.name, mine.tensor_type) == (theirs.name, theirs.tensor_type)
        assert mine.shape.tolist() == theirs.shape.tolist()
        assert theirs.data_offset % alignment == 0
        if mine.name not in stage:
            assert mine.data.tobytes() == theirs.data.tobytes()
    new = {each.name: each.data for each in after.tensors}
    assert np.array_equal(new[POSITIONS], state["embeddings.position_embedding.weight"])
    kernel = state["embeddings.patch_embedding.weight"].astype(np.float16)
    assert np.array_equal(new[PATCH], kernel)


def test_into_a_file_with_a_tubelet_and_axes_of_one(tmp_path):
    old = write(tmp_path / "old.gguf", qwen_tensors(), values("qwen2vl_merger"))
    new = write(tmp_path / "other.gguf", qwen_tensors(), values("qwen2vl_merger"))
    for path in (old, new):
        _patched(path, "clip.vision.patch_size", 14)
    port(new, tmp_path / "made.gguf", "gguf-qwen2-vl", into=old)
    made = {each.name: each.data for each in gguf.GGUFReader(tmp_path / "made.gguf").tensors}
    given = {each.name: each.data for each in gguf.GGUFReader(new).tensors}
    kept = {each.name: each.data for each in gguf.GGUFReader(old).tensors}
    assert list(made) == list(kept)
    assert all(np.array_equal(made[name], given[name]) for name in (PATCH, f"{PATCH}.1"))
    assert np.array_equal(made["v.blk.0.attn_qkv.weight"], kept["v.blk.0.attn_qkv.weight"])

    tensors = internvl_tensors()
    write(tmp_path / "b.gguf", tensors, values("internvl"))
    write(tmp_path / "c.gguf", internvl_tensors(), values("internvl"))
    port(tmp_path / "b.gguf", tmp_path / "d.gguf", "gguf-internvl", into=tmp_path / "c.gguf")
    shapes = {
        each.name: each.shape.tolist() for each in gguf.GGUFReader(tmp_path / "d.gguf").tensors
    }
    assert shapes["v.class_embd"] == [32, 1, 1]
    assert shapes[POSITIONS] == [32, 10, 1]


def _patched(path, key, value):
    """The same file with another value of a key."""
    content = bytearray(path.read_bytes())
    at = content.index(key.encode()) + len(key) + 4
    content[at : at + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


def test_a_kernel_of_five_axes_is_read_and_stays_one(tmp_path):
    """gguf-py writes one, and llama.cpp's converter does not."""
    tensors = {PATCH: drawn(32, 3, 2, 14, 14)}
    told = values("qwen2vl_merger", **{"clip.vision.patch_size": 14})
    path = write(tmp_path / "a.gguf", tensors, told)
    other = write(tmp_path / "b.gguf", {PATCH: drawn(32, 3, 2, 14, 14)}, told)
    assert np.array_equal(read(path).weights.kernel, tensors[PATCH].transpose(0, 2, 3, 4, 1))
    port(path, tmp_path / "c.gguf", "gguf-qwen2-vl", into=other)
    assert (tmp_path / "c.gguf").read_bytes() == path.read_bytes()


def test_into_a_quantized_file_what_is_put_there_is_not(tmp_path):
    kinds = {POSITIONS: KINDS.Q8_0, "mm.0.weight": KINDS.Q4_0}
    tensors = siglip_tensors() | {"mm.0.weight": drawn(5, 64)}
    old = write(tmp_path / "old.gguf", tensors, values(), kinds)
    source = siglip_tensors()
    new = write(tmp_path / "new.gguf", source, values())
    port(new, tmp_path / "made.gguf", "gguf-siglip", into=old)
    made = {each.name: each for each in gguf.GGUFReader(tmp_path / "made.gguf").tensors}
    assert made[POSITIONS].tensor_type == KINDS.F32
    assert np.array_equal(made[POSITIONS].data, source[POSITIONS])
    kept = {each.name: each for each in gguf.GGUFReader(old).tensors}["mm.0.weight"]
    assert made["mm.0.weight"].tensor_type == KINDS.Q4_0
    assert np.array_equal(made["mm.0.weight"].data, kept.data)


def test_into_a_file_with_a_tensor_of_a_type_that_nobody_knows(tmp_path):
    """A newer ggml's, of the encoder: its bytes are copied as they are."""
    tensors = siglip_tensors() | {"v.blk.0.x": drawn(3, 8)}
    old = write(tmp_path / "old.gguf", tensors, values())
    content = bytearray(old.read_bytes())
    at = content.index(b"v.blk.0.x") + len("v.blk.0.x") + 4 + 16
    content[at : at + 4] = struct.pack("<I", 99)
    old.write_bytes(content)
    new = write(tmp_path / "new.gguf", siglip_tensors(), values())
    port(new, tmp_path / "made.gguf", "gguf-siglip", into=old)
    assert tensors["v.blk.0.x"].tobytes() in (tmp_path / "made.gguf").read_bytes()
    assert len((tmp_path / "made.gguf").read_bytes()) == len(content)
