"""MLX: files of its own modules are read under the dialects that their names and layout are, and
what is written into them is what its modules load and compute."""

import importlib
import json
import math

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify
from patchparity.porting.dialects.quantized import dequantized
from patchparity.porting.files.opening import opened

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # of torch and transformers, which mlx-vlm imports

BOUND = 2e-4
"""Largest difference of float32, of sums of 192 products of standard deviation near 0.5, added in
another order, and a norm behind them."""

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def flat(model):
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))


def randomized(model, dtype=None):
    from mlx.utils import tree_map

    mx.random.seed(3)
    kind = mx.float32 if dtype is None else getattr(mx, dtype)
    model.update(
        tree_map(lambda held: (0.5 * mx.random.normal(held.shape)).astype(kind), model.parameters())
    )
    return model


class Embeddings(nn.Module):
    """What CLIP and SigLIP have in front of their blocks, as mlx-examples and mlx-vlm write it."""

    def __init__(self, patch, grid, channels, width, class_token):
        super().__init__()
        self.patch_embedding = nn.Conv2d(channels, width, patch, patch, bias=not class_token)
        if class_token:
            self.class_embedding = mx.zeros((width,))
        self.position_embedding = nn.Embedding(math.prod(grid) + class_token, width)

    def __call__(self, images):
        tokens = self.patch_embedding(images).flatten(1, 2)
        if "class_embedding" in self:
            shape = (len(images), 1, tokens.shape[-1])
            tokens = mx.concatenate([mx.broadcast_to(self.class_embedding, shape), tokens], 1)
        return tokens + self.position_embedding.weight


class Tower(nn.Module):
    def __init__(self, class_token, patch=(8, 8), grid=(4, 4), channels=3, width=32):
        super().__init__()
        self.embeddings = Embeddings(patch, grid, channels, width, class_token)
        if class_token:
            self.pre_layrnorm = nn.LayerNorm(width)

    def __call__(self, images):
        tokens = self.embeddings(images)
        return self.pre_layrnorm(tokens) if "pre_layrnorm" in self else tokens


class Whole(nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.vision_model = Tower(**given)

    def __call__(self, images):
        return self.vision_model(images)


WRITERS = {
    "a.npz": lambda model, path: model.save_weights(path),
    "b.npz": lambda model, path: mx.savez_compressed(path, **flat(model)),
    "c.safetensors": lambda model, path: model.save_weights(path),
    "d.safetensors": lambda model, path: mx.save_safetensors(
        path, flat(model), metadata={"format": "mlx"}
    ),
}


def images_of(channels=3, size=(32, 32)):
    return np.random.default_rng(9).standard_normal((2, channels, *size)).astype(np.float32)


def of_mlx(model, images):
    return np.array(model(mx.array(images.transpose(0, 2, 3, 1))).astype(mx.float32))


@pytest.mark.parametrize("file", WRITERS)
@pytest.mark.parametrize("class_token", [True, False])
def test_files_of_every_writer(class_token, file, tmp_path):
    model = randomized(Whole(class_token=class_token))
    WRITERS[file](model, str(tmp_path / file))
    wanted = "hf-clip-mlx" if class_token else "hf-siglip-mlx"
    assert inspect_checkpoint(tmp_path / file)["dialect"] == wanted
    images = images_of()
    np.testing.assert_allclose(embed(tmp_path / file, images), of_mlx(model, images), atol=BOUND)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("file", ["a.npz", "c.safetensors"])
def test_types_are_kept(dtype, file, tmp_path):
    model = randomized(Whole(class_token=True), dtype)
    model.save_weights(str(tmp_path / file))
    with opened(tmp_path / file) as checkpoint:
        for name, held in flat(model).items():
            ours = checkpoint.read(name)
            assert ours.dtype.name == dtype
            assert (ours.astype(np.float32) == np.array(held.astype(mx.float32))).all()


def test_patches_that_are_no_squares(tmp_path):
    model = randomized(Whole(class_token=False, patch=(4, 8), grid=(6, 3), channels=5))
    model.save_weights(str(tmp_path / "m.safetensors"))
    images = images_of(5, (24, 24))
    ours = embed(tmp_path / "m.safetensors", images, image_size=(24, 24), from_="hf-siglip-mlx")
    np.testing.assert_allclose(ours, of_mlx(model, images), atol=BOUND)


def siglip():
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.SiglipVisionConfig(**SMALL, image_size=32, patch_size=8)
    model = transformers.SiglipVisionModel(config).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_there_and_back_bit_by_bit(kind, dtype, tmp_path):
    torch, model = pytest.importorskip("torch"), siglip()
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path / "t")
    there, back = tmp_path / f"m.{kind}", tmp_path / "back.safetensors"
    assert port(tmp_path / "t", there, "hf-siglip-mlx").ok
    assert port(there, back, "hf-siglip", from_="hf-siglip-mlx").ok
    with opened(tmp_path / "t") as source, opened(back) as copy:
        stage = [name for name in copy.tensors if "embeddings" in name]
        assert len(stage) == 3
        for name in stage:
            held = next(held for held in source.tensors if held.endswith(name))
            assert source.read(held).tobytes() == copy.read(name).tobytes()
    loaded = mx.load(str(there))
    assert all(str(held.dtype).endswith(dtype) for held in loaded.values())
    kernel = loaded["embeddings.patch_embedding.weight"]
    assert kernel.shape == (32, 8, 8, 3)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_what_is_put_into_a_file_is_what_the_module_loads(kind, tmp_path):
    torch, source = pytest.importorskip("torch"), siglip()
    source.save_pretrained(tmp_path / "t")
    module = randomized(Whole(class_token=False))
    module.save_weights(str(tmp_path / f"old.{kind}"))
    new = tmp_path / f"new.{kind}"
    assert port(tmp_path / "t", new, "hf-siglip-mlx", into=tmp_path / f"old.{kind}").ok
    module.load_weights(str(new), strict=True)
    images = images_of()
    inner = getattr(source, "vision_model", source)
    with torch.no_grad():
        theirs = inner.embeddings(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(of_mlx(module, images), theirs, atol=BOUND)
    assert verify(tmp_path / "t", new, prove=False).ok


# Quantized layers.


class Table(nn.Module):
    """Qwen3-VL's table of positions, and a projection that is a matrix."""

    def __init__(self, width=128):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(3, width, [2, 8, 8], [2, 8, 8])
        self.pos_embed = nn.Embedding(16, width)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_quantized_tables_are_what_mlx_looks_up(group, bits, dtype, tmp_path):
    model = randomized(Table(), dtype)
    nn.quantize(model, group, bits)
    assert isinstance(model.pos_embed, nn.QuantizedEmbedding)
    model.save_weights(str(tmp_path / "m.safetensors"))
    quantization = {"group_size": group, "bits": bits}
    (tmp_path / "config.json").write_text(json.dumps({"quantization": quantization}))
    theirs = model.pos_embed(mx.arange(16))
    with opened(tmp_path / "m.safetensors") as raw:
        checkpoint = dequantized(raw)
        ours = checkpoint.read("pos_embed.weight")
        assert checkpoint.told["pos_embed.weight"] == (
            f"dequantized from {bits} bits, a scale and a bias for each {group}"
        )
        assert "pos_embed.scales" not in checkpoint.tensors
    assert ours.dtype.name == dtype
    assert (ours.astype(np.float32) == np.array(theirs.astype(mx.float32))).all()


def quantized(tmp_path, config, **how):
    model = randomized(Table())
    nn.quantize(model, **how)
    mx.save_safetensors(str(tmp_path / "m.safetensors"), flat(model), metadata={"format": "mlx"})
    if config:
        (tmp_path / "config.json").write_text(json.dumps(config))
    return model, tmp_path / "m.safetensors"


VISION = {"model_type": "qwen3_vl", "patch_size": 8, "temporal_patch_size": 2}


def test_a_quantized_table_is_read_and_told(tmp_path):
    config = {"vision_config": VISION, "quantization": {"group_size": 64, "bits": 4}}
    model, path = quantized(tmp_path, config, group_size=64, bits=4)
    sizes = {"image_size": (2, 32, 32), "from_": "hf-qwen3-vl-mlx"}
    told = inspect_checkpoint(path, prove=False, **sizes)
    assert "dequantized from 4 bits" in " ".join(map(str, told["candidates"]))
    port(path, tmp_path / "new.safetensors", "hf-qwen3-vl", prove=False, **sizes)
    with opened(tmp_path / "new.safetensors") as checkpoint:
        (name,) = (name for name in checkpoint.tensors if "pos_embed" in name)
        theirs = np.array(model.pos_embed(mx.arange(16)))
        assert (checkpoint.read(name) == theirs).all()
    with pytest.raises(PatchParityError, match="of shape"):
        port(
            tmp_path / "new.safetensors",
            tmp_path / "into.safetensors",
            "hf-qwen3-vl-mlx",
            into=path,
            prove=False,
            **{**sizes, "from_": "hf-qwen3-vl"},
        )


def test_bits_that_nothing_tells_are_asked_for(tmp_path):
    """Sixty-four numbers of four bits fill the words as 32 of eight do."""
    _, path = quantized(tmp_path, None, group_size=64, bits=4)
    with pytest.raises(PatchParityError, match="nothing tells its bits"):
        inspect_checkpoint(path)


def test_bits_that_the_shapes_alone_tell(tmp_path):
    model, path = quantized(tmp_path, None, group_size=32, bits=3)
    with opened(path) as raw:
        ours = dequantized(raw).read("pos_embed.weight")
    assert (ours == np.array(model.pos_embed(mx.arange(16)))).all()


def test_layers_may_have_bits_of_their_own(tmp_path):
    own = {"pos_embed": {"group_size": 32, "bits": 8}}
    config = {"quantization": {"group_size": 64, "bits": 4, **own}}
    model, path = quantized(tmp_path, config, group_size=32, bits=8)
    with opened(path) as raw:
        ours = dequantized(raw).read("pos_embed.weight")
    assert (ours == np.array(model.pos_embed(mx.arange(16)))).all()


def test_other_ways_to_quantize_are_refused(tmp_path):
    _, path = quantized(tmp_path, None, group_size=32, bits=4, mode="mxfp4")
    with pytest.raises(PatchParityError, match="in another way than with scales and biases"):
        inspect_checkpoint(path)


# mlx-vlm's own modules.


def of_vlm(name):
    """A module of mlx-vlm, what it computes of images, and the dialect of its files."""
    pytest.importorskip("mlx_vlm")
    module = importlib.import_module(f"mlx_vlm.models.{name.partition(' ')[0]}")
    if name.startswith("llava"):
        kind = name.partition(" ")[2]
        config = module.VisionConfig(model_type=kind, image_size=32, patch_size=8, **SMALL)
        model = module.VisionModel(config)
        tower = model.vision_model
        norm = tower.pre_layrnorm if kind == "clip_vision_model" else (lambda tokens: tokens)
        dialect = "hf-clip-mlx" if kind == "clip_vision_model" else "hf-siglip-mlx"
        return model, lambda images: norm(tower.embeddings(images)), dialect
    registers = 3 if name.endswith("registers") else 0
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = module.ModelConfig(**sizes, image_size=32, patch_size=8, num_register_tokens=registers)
    model = module.Model(config)

    def sequence(images):
        tokens = model.patch_embed(images)
        first = mx.broadcast_to(model.cls_token, (len(images), 1, 32))
        tokens = mx.concatenate([first, tokens], 1) + model.pos_embed
        if not registers:
            return tokens
        more = mx.broadcast_to(model.register_tokens, (len(images), registers, 32))
        return mx.concatenate([tokens[:, :1], more, tokens[:, 1:]], 1)

    return model, sequence, "dinov2-mlx"


@pytest.mark.parametrize(
    "name",
    ["llava clip_vision_model", "llava siglip_vision_model", "dinov2", "dinov2 registers"],
)
def test_modules_of_mlx_vlm(name, tmp_path):
    model, sequence, dialect = of_vlm(name)
    randomized(model)
    images = images_of()
    for file, write in WRITERS.items():
        write(model, str(tmp_path / file))
        assert inspect_checkpoint(tmp_path / file)["dialect"] == dialect
        theirs = np.array(sequence(mx.array(images.transpose(0, 2, 3, 1))))
        np.testing.assert_allclose(embed(tmp_path / file, images), theirs, atol=BOUND)
    # to torch's names and back into a file of other weights, which the module then loads
    port(tmp_path / "d.safetensors", tmp_path / "t.safetensors", dialect.removesuffix("-mlx"))
    model.update(importlib.import_module("mlx.utils").tree_map(lambda a: a + 1, model.parameters()))
    model.save_weights(str(tmp_path / "other.npz"))
    port(tmp_path / "t.safetensors", tmp_path / "new.npz", dialect, into=tmp_path / "other.npz")
    model.load_weights(str(tmp_path / "new.npz"), strict=True)
    again = np.array(sequence(mx.array(images.transpose(0, 2, 3, 1))))
    assert (again == theirs).all()


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("qwen2_vl", "hf-qwen2-vl-mlx"),
        ("qwen2_5_vl", "hf-qwen2-5-vl-mlx"),
        ("qwen3_vl", "hf-qwen3-vl-mlx"),
    ],
)
def test_patches_of_qwen_of_mlx_vlm(name, dialect, tmp_path):
    pytest.importorskip("mlx_vlm")
    module = importlib.import_module(f"mlx_vlm.models.{name}")
    given = {
        "depth": 1,
        "patch_size": 8,
        "num_heads": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "intermediate_size": 16,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    known = module.VisionConfig.__dataclass_fields__
    config = module.VisionConfig(**{key: held for key, held in given.items() if key in known})
    model = randomized(module.VisionModel(config))
    vision = {"model_type": name, "patch_size": 8, "temporal_patch_size": 2, "window_size": 32}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": vision}))
    path = tmp_path / "m.safetensors"
    mx.save_safetensors(str(path), flat(model), metadata={"format": "mlx"})
    assert inspect_checkpoint(path, prove=False)["dialect"] == dialect
    video = np.random.default_rng(1).standard_normal((1, 3, 2, 32, 32)).astype(np.float32)
    ours = embed(path, video, image_size=(2, 32, 32))
    # as transformers' processor cuts patches: two by two of them, each (C, T, P, P)
    cut = video.reshape(1, 3, 2, 2, 2, 8, 2, 2, 8).transpose(0, 3, 6, 4, 7, 1, 2, 5, 8)
    theirs = np.array(model.patch_embed(mx.array(cut.reshape(16, -1))))
    if name == "qwen3_vl":
        table = np.array(model.pos_embed.weight).reshape(2, 2, 2, 2, 32)
        theirs = theirs + table.transpose(0, 2, 1, 3, 4).reshape(16, 32)
    if name == "qwen2_5_vl":
        assert np.allclose(np.sort(ours[0].ravel()), np.sort(theirs.ravel()), atol=BOUND)
    else:
        np.testing.assert_allclose(ours[0], theirs, atol=BOUND)
