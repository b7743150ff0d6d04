"""torch.export's files: what is read of them is what their own programs compute with."""

import io
import json
import zipfile

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify
from patchparity.porting.files.opening import opened

from ..census.stand_in import import_library

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.export, of what it traces

SMALL = {"hidden_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
OBLONG = {"image_size": (24, 16), "patch_size": (4, 8), "num_channels": 5}
BOUND = 2e-5
"""Largest difference of float32: λ√K·u of sums of K = 5·4·8 terms of products near 1, and a norm
behind them (reference/error.py)."""


def randomized(model):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def saved(model, path, shape, **how):
    """The file that torch.export writes of a model."""
    images = torch.zeros(shape, dtype=next(model.parameters()).dtype)
    torch.export.save(torch.export.export(model, (images,), **how), path)
    return path


def images_of(shape):
    return np.random.default_rng(4).standard_normal(shape).astype(np.float32)


def of_transformers(name):
    transformers = pytest.importorskip("transformers")
    inner = {"intermediate_size": 16}
    square = {"image_size": 24, "patch_size": 8}
    config, kind, given = {
        "vit": ("ViTConfig", "ViTModel", {**OBLONG, **inner}),
        "clip": (
            "CLIPVisionConfig",
            "CLIPVisionModelWithProjection",
            {**square, **inner, "num_channels": 4, "layer_norm_eps": 3e-4},
        ),
        "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {**square, **inner}),
        "dinov2": ("Dinov2Config", "Dinov2Model", square),
        "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", square),
    }[name]
    config = getattr(transformers, config)(**SMALL, **given)
    model = randomized(getattr(transformers, kind)(config))
    inner = getattr(model, "vision_model", model)
    norm = getattr(inner, "pre_layrnorm", torch.nn.Identity())
    image = config.image_size
    image = (image, image) if isinstance(image, int) else image
    return model, (2, config.num_channels, *image), lambda x: norm(inner.embeddings(x))


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["vit", "clip", "siglip", "dinov2", "registers"])
def test_models_of_transformers_are_read_as_they_compute(name, strict, tmp_path):
    model, shape, sequence = of_transformers(name)
    path = saved(model, tmp_path / "m.pt2", shape, strict=strict)
    images = images_of(shape)
    with torch.no_grad():
        theirs = sequence(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embed(path, images), theirs, atol=BOUND)
    state = model.state_dict()
    with opened(path) as checkpoint:
        assert checkpoint.format == "pt2"
        for name in checkpoint.tensors:
            assert checkpoint.read(name).tobytes() == state[name].numpy().tobytes()


def test_models_of_timm_are_read_as_they_compute(tmp_path):
    timm = import_library("timm")
    model = randomized(
        timm.create_model(
            "vit_tiny_patch16_224",
            img_size=(24, 16),
            patch_size=(4, 8),
            embed_dim=24,
            depth=1,
            num_heads=2,
            in_chans=5,
            pre_norm=True,
        )
    )
    path = saved(model, tmp_path / "m.pt2", (2, 5, 24, 16))
    images = images_of((2, 5, 24, 16))
    with torch.no_grad():
        tokens = model.patch_embed(torch.from_numpy(images))
        theirs = model.norm_pre(model._pos_embed(tokens)).numpy()
    np.testing.assert_allclose(embed(path, images), theirs, atol=BOUND)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_types_are_those_of_the_model(dtype, tmp_path):
    model, shape, _ = of_transformers("vit")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    path = saved(model.to(getattr(torch, dtype)), tmp_path / "m.pt2", shape)
    with opened(path) as checkpoint:
        for name, info in checkpoint.tensors.items():
            assert info.dtype == dtype
            wanted = state[name].to(getattr(torch, dtype)).double().numpy()
            assert (checkpoint.read(name).astype(np.float64) == wanted).all()


class Plain(torch.nn.Module):
    """Patches with nothing else, under a name of its own; images are changed first by `before`."""

    def __init__(self, before=None, **given):
        super().__init__()
        settings = {"kernel_size": (4, 8), "stride": (4, 8)} | given
        self.patches = torch.nn.Conv2d(3, 20, **settings)
        self.before = before

    def forward(self, images):
        if self.before is not None:
            images = self.before(images)
        return self.patches(images).flatten(2).transpose(1, 2)


def of_plain(model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def test_strides_and_shared_storages(tmp_path):
    """A kernel in channels_last, and a bias that is a part of another tensor, from its middle."""
    model = randomized(Plain())
    whole = torch.randn(60)
    model.patches.weight.data = model.patches.weight.data.to(memory_format=torch.channels_last)
    model.patches.bias.data = whole[7:47:2]
    path = saved(model, tmp_path / "m.pt2", (2, 3, 24, 16))
    images = images_of((2, 3, 24, 16))
    np.testing.assert_allclose(embed(path, images), of_plain(model, images), atol=BOUND)
    with opened(path) as checkpoint:
        assert (checkpoint.read("patches.bias") == whole[7:47:2].numpy()).all()
        assert (checkpoint.read("patches.weight") == model.patches.weight.detach().numpy()).all()


def test_two_names_of_one_tensor(tmp_path):
    class Tied(Plain):
        def __init__(self):
            super().__init__()
            self.again = self.patches

    path = saved(randomized(Tied()), tmp_path / "m.pt2", (2, 3, 24, 16))
    with opened(path) as checkpoint:
        held = {name: checkpoint.read(name) for name in checkpoint.tensors}
    assert all((held[f"again.{end}"] == held[f"patches.{end}"]).all() for end in ("weight", "bias"))


@pytest.mark.parametrize(
    "given",
    [
        {"kernel_size": 7, "stride": 4, "padding": 3},
        {"kernel_size": (6, 8), "stride": (3, 8), "padding": (1, 0)},
        {"kernel_size": (4, 8), "stride": (4, 8), "padding": "valid"},
    ],
)
def test_the_program_tells_stride_and_padding(given, tmp_path):
    model = randomized(Plain(**given))
    for change, file in (
        (lambda held: held, "m.pt2"),
        (lambda held: held.run_decompositions(), "d.pt2"),
    ):
        program = change(torch.export.export(model, (torch.zeros(2, 3, 24, 16),)))
        torch.export.save(program, tmp_path / file)
        images = images_of((2, 3, 24, 16))
        ours = embed(tmp_path / file, images)
        np.testing.assert_allclose(ours, of_plain(model, images), atol=BOUND)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"before": lambda x: (x - 0.5) / 0.25}, "does div, sub to images before patches.weight"),
        ({"before": lambda x: x / 255}, "does div to images before patches.weight"),
        ({"before": lambda x: x.flip(1)}, "does flip to images before patches.weight"),
        ({"dilation": 2}, "patches.weight with dilation 2×2, and this reading has 1×1"),
        ({"padding": "same", "stride": 1}, "with padding same×same"),
    ],
)
def test_what_a_program_does_and_no_tensor_tells_is_refused(given, told, tmp_path):
    path = saved(randomized(Plain(**given)), tmp_path / "m.pt2", (2, 3, 24, 16))
    with pytest.raises(PatchParityError, match=told):
        embed(path, images_of((2, 3, 24, 16)))


class Changed(torch.nn.Module):
    """A ViT under timm's names, whose forward does something that no tensor tells."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv2d(3, 24, (4, 6), (4, 6))
        self.cls_token = torch.nn.Parameter(torch.randn(1, 1, 24))
        self.pos_embed = torch.nn.Parameter(torch.randn(1, 7, 24))
        self.blocks = torch.nn.ModuleList([torch.nn.Module()])
        self.blocks[0].norm1 = torch.nn.LayerNorm(24)
        self.blocks[0].attn = torch.nn.Module()
        self.blocks[0].attn.proj = torch.nn.Linear(24, 24)

    def embed(self, images):
        tokens = self.patch_embed.proj(images)
        tokens = torch.relu(tokens) if self.what == "relu" else tokens
        tokens = tokens.flatten(2).transpose(1, 2)
        tokens = tokens * 24**0.5 if self.what == "scaled" else tokens
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], 1)
        tokens = tokens + (self.pos_embed * 0.5 if self.what == "positions" else self.pos_embed)
        tokens = tokens.flip(1) if self.what == "flipped" else tokens
        tokens = tokens[:, 1:] if self.what == "cut" else tokens
        if self.what == "normalized":
            tokens = torch.nn.functional.normalize(tokens, dim=-1)
        return tokens[:, :] if self.what == "whole" else tokens

    def forward(self, images):
        tokens, block = self.embed(images), self.blocks[0]
        return tokens + torch.nn.functional.gelu(block.attn.proj(block.norm1(tokens))) * 2


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("", ""),
        ("whole", ""),
        ("relu", "relu to tokens"),
        ("scaled", "mul to tokens"),
        ("positions", "mul to tokens behind patch_embed.proj.weight, or to what is added to them"),
        ("flipped", "flip to tokens"),
        ("cut", r"slice \(1 to"),
        ("normalized", "linalg_vector_norm"),
    ],
)
def test_what_a_program_does_to_tokens_is_refused(what, told, tmp_path):
    model = Changed(what).eval()
    images = torch.randn(2, 3, 12, 12)
    path = tmp_path / "changed.pt2"
    torch.export.save(torch.export.export(model, (images,)), path)
    if told:
        with pytest.raises(PatchParityError, match=f"its program does .*{told}"):
            embed(path, images.numpy())
    else:
        expected = model.embed(images).detach().numpy()
        np.testing.assert_allclose(embed(path, images.numpy()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        (lambda x: x[:, [2, 1, 0]], "index"),
        (lambda x: torch.cat([x[:, 2:], x[:, 1:2], x[:, :1]], 1), "cat"),
        (lambda x: torch.stack(x.unbind(1)[::-1], 1), "stack"),
        (lambda x: x.transpose(2, 3), "transpose"),
        (lambda x: x[:, :, 1:13, 1:13], "slice"),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), ""),
        (lambda x: x[:, :, :], ""),
    ],
)
def test_images_that_are_put_otherwise_are_refused(order, told, tmp_path):
    class Ordered(Changed):
        def embed(self, images):
            return super().embed(order(images))

    model = Ordered("").eval()
    side = 14 if told == "slice" else 12
    images = torch.randn(2, 3, side, side)
    path = tmp_path / "ordered.pt2"
    torch.export.save(torch.export.export(model, (images,)), path)
    if told:
        with pytest.raises(PatchParityError, match=f"its program does .*{told}.* to images"):
            embed(path, images.numpy())
    else:
        expected = model.embed(images).detach().numpy()
        np.testing.assert_allclose(embed(path, images.numpy()), expected, atol=1e-5)


def test_groups_are_refused(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(6, 20, 4, 4, groups=2))
    path = saved(model, tmp_path / "m.pt2", (2, 6, 24, 16))
    with pytest.raises(PatchParityError, match="groups"):
        embed(path, images_of((2, 3, 24, 16)))


def test_images_that_are_moved_first_are_no_others(tmp_path):
    model = randomized(Plain(lambda x: x.permute(0, 3, 1, 2).contiguous().to(torch.float32)))
    path = saved(model, tmp_path / "m.pt2", (2, 24, 16, 3))
    images = images_of((2, 3, 24, 16))
    theirs = of_plain(model, images.transpose(0, 2, 3, 1).copy())
    np.testing.assert_allclose(embed(path, images), theirs, atol=BOUND)
    assert opened_config(path)["image_size"] == [24, 16]


def opened_config(path):
    with opened(path) as checkpoint:
        return checkpoint.own_config


def test_dynamic_shapes_tell_no_image(tmp_path):
    dims = {0: torch.export.Dim("b"), 2: 4 * torch.export.Dim("h"), 3: 8 * torch.export.Dim("w")}
    model = randomized(Plain())
    path = saved(model, tmp_path / "m.pt2", (2, 3, 24, 16), dynamic_shapes=({**dims},))
    assert "image_size" not in opened_config(path)
    images = images_of((2, 3, 32, 24))
    np.testing.assert_allclose(embed(path, images), of_plain(model, images), atol=BOUND)


def test_a_quantized_program_that_keeps_its_floats_is_refused(tmp_path):
    """convert_pt2e leaves the float weights in the state dict, and computes with others."""
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    model, images = randomized(Plain()), torch.randn(2, 3, 24, 16)
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(model, (images,)).module(), quantizer)
    prepared(images)
    path = saved(convert_pt2e(prepared), tmp_path / "m.pt2", (2, 3, 24, 16))
    with pytest.raises(PatchParityError, match=r"never takes patches\.weight"):
        embed(path, images.numpy(), from_="oihw")


def test_a_tensor_of_a_library_is_not_taken_for_numbers(tmp_path):
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.Linear(48, 20))
    quantize_(model, Int8WeightOnlyConfig())
    path = saved(model.eval(), tmp_path / "m.pt2", (2, 3, 6, 8))
    with opened(path) as checkpoint, pytest.raises(PatchParityError, match="only that can build"):
        checkpoint.read("1.weight")


def test_what_is_put_into_a_program_is_what_it_computes_with(tmp_path):
    """Into a copy of one, of weights of another library; torch itself loads and runs it."""
    model, shape, _ = of_transformers("vit")
    path = saved(model, tmp_path / "m.pt2", shape)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(3)
    other = {
        name: torch.randn(value.shape, generator=generator)
        if name.startswith("embeddings.")
        else value
        for name, value in state.items()
    }
    torch.save(other, tmp_path / "other.pt")
    port(tmp_path / "other.pt", tmp_path / "timm.safetensors", "timm-vit", image_size=(24, 16))
    told = port(
        tmp_path / "timm.safetensors",
        tmp_path / "new.pt2",
        "hf-vit",
        into=path,
        image_size=(24, 16),
    )
    assert told.ok
    images = torch.from_numpy(images_of(shape))
    model.load_state_dict(other)
    with torch.no_grad():
        ran = torch.export.load(tmp_path / "new.pt2").module()(images)[0]
        assert torch.equal(ran, model(images)[0])
    assert verify(tmp_path / "new.pt2", tmp_path / "timm.safetensors", image_size=(24, 16)).ok


def test_a_program_is_not_made_of_tensors(tmp_path):
    model, shape, _ = of_transformers("siglip")
    path = saved(model, tmp_path / "m.pt2", shape)
    with pytest.raises(PatchParityError, match="holds a program"):
        port(path, tmp_path / "new.pt2", "timm-vit")


def old_form(path, program, name="serialized_state_dict.pt"):
    """What torch.export.save of torch 2.1 to 2.7 wrote: each part a file of a plain archive."""
    from torch._export.serde.schema import SCHEMA_VERSION
    from torch._export.serde.serialize import serialize

    artifact = serialize(program, None)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("serialized_exported_program.json", artifact.exported_program)
        file.writestr(name, artifact.state_dict)
        file.writestr("serialized_constants.pt", artifact.constants)
        file.writestr("serialized_example_inputs.pt", artifact.example_inputs)
        file.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
    return path


def state_inside(path, program):
    """What torch 2.8 wrote: its archive, with the state dict as one file of `torch.save`."""
    torch.export.save(program, path)
    buffer = io.BytesIO()
    torch.save(program.state_dict, buffer)
    with zipfile.ZipFile(path) as old:
        held = {name: old.read(name) for name in old.namelist() if "/data/weights/" not in name}
    root = next(iter(held)).partition("/")[0]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in held.items():
            new.writestr(name, content)
        new.writestr(f"{root}/data/weights/model.pt", buffer.getvalue())
    return path


@pytest.mark.parametrize("form", [old_form, state_inside])
def test_older_forms(form, tmp_path):
    model, shape, sequence = of_transformers("clip")
    program = torch.export.export(model, (torch.zeros(shape),))
    path = form(tmp_path / "m.pt2", program)
    torch.export.load(path)  # torch itself takes it for one
    images = images_of(shape)
    with torch.no_grad():
        theirs = sequence(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embed(path, images), theirs, atol=BOUND)
    with pytest.raises(PatchParityError, match="writes it anew"):
        port(path, tmp_path / "new.pt2", "hf-clip", into=path)
    content = bytearray(path.read_bytes())
    kernel = next(value for name, value in program.state_dict.items() if "patch_embed" in name)
    content[content.index(kernel.detach().numpy().tobytes()) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(PatchParityError, match=r"m\.pt2"):
        embed(path, images)


def changed(path, new, end, change):
    """A copy of an archive with one JSON file of it changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as out:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(end):
                content = change(content)
            if content is not None:
                out.writestr(name, content)
    return new


def entry_with(**given):
    def change(content):
        held = json.loads(content)
        meta = held["config"]["patches.weight"]
        meta["tensor_meta"].update(given) if "path_name" not in given else meta.update(given)
        return json.dumps(held).encode()

    return change


def number(value):
    return {"as_int": value}


@pytest.mark.parametrize(
    ("end", "change", "told"),
    [
        ("weights_config.json", entry_with(sizes=[number(2**40)] * 4), "damaged or hostile"),
        (
            "weights_config.json",
            entry_with(storage_offset=number(40)),
            "reaches beyond its storage",
        ),
        (
            "weights_config.json",
            entry_with(storage_offset=number(-1)),
            "tells 'patches.weight' badly",
        ),
        (
            "weights_config.json",
            entry_with(sizes=[{"as_expr": {}}] * 4),
            "tells 'patches.weight' badly",
        ),
        (
            "weights_config.json",
            entry_with(path_name="../secret"),
            "the values of patches.weight are not",
        ),
        ("weights_config.json", entry_with(layout=1), "which only that can build"),
        ("weight_0", lambda content: b"", "without values"),
        ("weight_0", lambda content: content[:-4], "reaches beyond its storage"),
        ("models/model.json", lambda content: b"[" * 10**5, "its program is no JSON"),
        ("models/model.json", lambda content: b"{}", "its program is none of torch.export"),
        ("models/model.json", lambda content: None, "holds no program, expected one"),
        ("weights_config.json", lambda content: b"[]", "is no list of tensors"),
    ],
)
def test_damaged_files(end, change, told, tmp_path):
    path = saved(randomized(Plain()), tmp_path / "m.pt2", (2, 3, 24, 16))
    bad = changed(path, tmp_path / "bad.pt2", end, change)
    with pytest.raises(PatchParityError, match=told) as raised:
        embed(bad, images_of((2, 3, 24, 16)))
    assert "bad.pt2" in str(raised.value)


def test_one_flipped_bit_is_seen(tmp_path):
    model = randomized(Plain())
    path = saved(model, tmp_path / "m.pt2", (2, 3, 24, 16))
    content = bytearray(path.read_bytes())
    content[content.index(model.patches.weight.detach().numpy().tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(PatchParityError, match=r"m\.pt2"):
        embed(path, images_of((2, 3, 24, 16)))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.pte", b"\x1c\0\0\0ET12" + bytes(40), "a program of ExecuTorch"),
        ("a.ptd", b"\x1c\0\0\0FT01" + bytes(40), "a program of ExecuTorch"),
    ],
)
def test_what_is_not_read_is_called_what_it_is(name, content, told, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PatchParityError, match=told):
        inspect_checkpoint(tmp_path / name)


def test_compiled_packages_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as file:
        file.writestr("m/archive_format", "pt2")
        file.writestr("m/data/aotinductor/model/a.wrapper.so", b"\x7fELF")
    with pytest.raises(PatchParityError, match="a package of AOTInductor"):
        inspect_checkpoint(tmp_path / "m.pt2")


def test_a_program_that_is_packed_far_below_its_size_takes_no_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt2", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/archive_format", "pt2")
        file.writestr("m/models/model.json", " " * (100 * 2**20))
    with pytest.raises(PatchParityError, match="claims 104857600 bytes of a file of"):
        inspect_checkpoint(tmp_path / "m.pt2")
