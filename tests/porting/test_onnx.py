"""ONNX files as torch's exporters write them: what is read is what the library's own model gives,
and what ONNX Runtime gives of the graph cut where the first block begins."""

import re

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port, verify
from patchparity.porting.files.opening import opened

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
transformers = pytest.importorskip("transformers")
nn = torch.nn

BOUND = 1e-4
"""The same as NEAR of test_libraries.py, for the same sums."""

SMALL = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)

pytestmark = pytest.mark.filterwarnings("ignore")  # exporters warn of what they trace


def randomized(model):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            scale, middle = (0.5, 0.0) if parameter.ndim > 1 else (0.1, 1.0)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(middle + scale * drawn)
    return model.eval()


def exported(model, shape, file, dynamo=False, **options):
    options.setdefault("input_names", ["pixel_values"])
    sample = torch.zeros(shape)
    torch.onnx.export(model, (sample,), str(file), dynamo=dynamo, verbose=False, **options)
    return file


def drawn(*shape):
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def end_of(file, size):
    """The value that enters the first block, as it is told."""
    with opened(file) as checkpoint:
        checkpoint.for_images(size)
        return re.search("begins behind '(.*?)', which", checkpoint.told["kernel"])[1]


def at_runtime(file, images, layout=lambda images: images):
    """What ONNX Runtime gives at that value, `(B, rows, D)`."""
    model, name = onnx.load(file), end_of(file, images.shape[2:])
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    wanted = session.get_inputs()[0]
    kind = np.float16 if wanted.type == "tensor(float16)" else np.float32
    return session.run([name], {wanted.name: layout(images).astype(kind)})[0].astype(np.float64)


def vit(**changed):
    sizes = {**dict(image_size=(16, 24), patch_size=4, **SMALL), **changed}
    return randomized(
        transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False)
    )


def deit():
    config = transformers.DeiTConfig(image_size=16, patch_size=4, **SMALL)
    return randomized(transformers.DeiTModel(config, add_pooling_layer=False))


def clip():
    config = transformers.CLIPVisionConfig(image_size=16, patch_size=4, **SMALL)
    return randomized(transformers.CLIPVisionModel(config))


def dinov2_with_registers():
    config = transformers.Dinov2WithRegistersConfig(
        image_size=16, patch_size=4, num_register_tokens=3, **SMALL
    )
    return randomized(transformers.Dinov2WithRegistersModel(config))


def dinov3():
    config = transformers.DINOv3ViTConfig(
        image_size=16, patch_size=4, num_register_tokens=2, **SMALL
    )
    return randomized(transformers.DINOv3ViTModel(config))


def siglip():
    config = transformers.SiglipVisionConfig(image_size=16, patch_size=4, **SMALL)
    return randomized(transformers.SiglipVisionModel(config))


def swin():
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=12, depths=[1], num_heads=[2]
    )
    return randomized(transformers.SwinModel(config, add_pooling_layer=False))


def clip_sequence(model, images):
    inner = getattr(model, "vision_model", model)
    norm = getattr(inner, "pre_layrnorm", None) or inner.pre_layernorm
    return norm(inner.embeddings(images))


MODELS = {
    "vit": (vit, (3, 16, 24), lambda model, images: model.embeddings(images)),
    "deit": (deit, (3, 16, 16), lambda model, images: model.embeddings(images)),
    "clip": (clip, (3, 16, 16), clip_sequence),
    "siglip": (siglip, (3, 16, 16), lambda m, x: getattr(m, "vision_model", m).embeddings(x)),
    "dinov2-reg": (dinov2_with_registers, (3, 16, 16), lambda model, x: model.embeddings(x)),
    "dinov3": (dinov3, (3, 16, 16), lambda model, images: model.embeddings(images)),
    "swin": (swin, (3, 32, 32), lambda model, images: model.embeddings(images)[0]),
}
UNEXPORTED = {("dinov2-reg", False), ("swin", True)}
"""What torch 2.13's exporters do not export: an antialiased resize; a padding by conditions."""


@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_transformers(name, dynamo, tmp_path):
    if (name, dynamo) in UNEXPORTED:
        pytest.skip("torch does not export it")
    make, shape, sequence = MODELS[name]
    model = make()
    file = exported(model, (1, *shape), tmp_path / "model.onnx", dynamo)
    images = drawn(2, *shape)
    with torch.no_grad():
        wanted = sequence(model, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embed(file, images), wanted, atol=BOUND, rtol=0)
    runtime = at_runtime(file, images[:1])
    np.testing.assert_allclose(embed(file, images[:1]), runtime, atol=BOUND, rtol=0)


@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
def test_every_bit_is_the_state_dict_s(dynamo, tmp_path):
    model = vit()
    file = exported(model, (1, 3, 16, 24), tmp_path / "model.onnx", dynamo)
    port(file, tmp_path / "timm.safetensors", "timm-vit")
    state = {name: tensor.numpy() for name, tensor in model.embeddings.state_dict().items()}
    from safetensors.numpy import load_file

    written = load_file(tmp_path / "timm.safetensors")
    for ours, theirs in {
        "patch_embed.proj.weight": "patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "patch_embeddings.projection.bias",
        "cls_token": "cls_token",
        "pos_embed": "position_embeddings",
    }.items():
        np.testing.assert_array_equal(written[ours], state[theirs])
    model.save_pretrained(tmp_path / "hf")
    assert verify(file, tmp_path / "hf", prove=False).same


def test_which_tensor_is_which_and_where_the_block_begins_is_told(tmp_path):
    file = exported(vit(), (1, 3, 16, 24), tmp_path / "model.onnx")
    report = inspect_checkpoint(file)
    assert report["format"] == "onnx"
    assert report["dialect"] == "graph"
    assert report["spec"]["grid"] == [4, 6]
    assert report["spec"]["positioned"] == ["class_token"]
    evidence = " ".join(report["candidates"][0]["evidence"])
    assert "kernel: of 'embeddings.patch_embeddings.projection.weight'" in evidence
    assert "which LayerNormalization and Add take" in evidence
    assert "may be folded into it" in evidence
    assert set(report["ledger"]["counts"]) == {"used", "elsewhere"}


def test_epsilon_is_the_graph_s_and_not_assumed(tmp_path):
    file = exported(randomized(Stem(behind=nn.LayerNorm(20, eps=1e-3))), (1, 3, 16, 24),
                    tmp_path / "model.onnx", opset_version=13)  # fmt: skip
    from patchparity.porting.dialects.stage import read_stage

    with opened(file) as checkpoint:
        stage = read_stage(checkpoint)
    assert stage.weights.layout.norm_epsilon == 1e-3
    assert not stage.assumptions


def test_images_of_another_size_are_refused(tmp_path):
    file = exported(vit(), (1, 3, 16, 24), tmp_path / "model.onnx")
    with pytest.raises(PatchParityError, match=r"16×24"):
        embed(file, drawn(1, 3, 16, 16))


class TestOpenSizes:
    """Graphs that take images of any size."""

    AXES = {"pixel_values": {0: "batch", 1: "channels", 2: "height", 3: "width"}}

    def test_a_fixed_table_tells_a_square(self, tmp_path):
        model = vit(image_size=16)
        file = exported(model, (1, 3, 16, 16), tmp_path / "model.onnx", dynamic_axes=self.AXES)
        report = inspect_checkpoint(file)
        assert report["spec"]["grid"] == [4, 4]
        images = drawn(2, 3, 16, 16)
        with torch.no_grad():
            wanted = model.embeddings(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(embed(file, images), wanted, atol=BOUND, rtol=0)

    def test_a_table_of_no_square_is_asked_for(self, tmp_path):
        model = vit()
        file = exported(model, (1, 3, 16, 24), tmp_path / "model.onnx", dynamic_axes=self.AXES)
        with pytest.raises(PatchParityError, match=r"no square grid: --image-size says"):
            inspect_checkpoint(file)
        assert inspect_checkpoint(file, image_size=(16, 24))["spec"]["grid"] == [4, 6]
        port(file, tmp_path / "t.safetensors", "timm-vit", image_size=(16, 24))
        with pytest.raises(PatchParityError, match="made for images of another size"):
            inspect_checkpoint(file, image_size=(16, 16))

    def test_positions_that_are_resized_at_run_time_are_made_for_the_size_told(self, tmp_path):
        class Interpolating(nn.Module):
            def __init__(self):
                super().__init__()
                self.model = vit(image_size=16)

            def forward(self, pixel_values):
                return self.model(pixel_values, interpolate_pos_encoding=True).last_hidden_state

        model = Interpolating()
        file = exported(model, (1, 3, 16, 16), tmp_path / "model.onnx", dynamic_axes=self.AXES)
        images = drawn(2, 3, 16, 24)
        with torch.no_grad():
            wanted = model.model.embeddings(
                torch.from_numpy(images), interpolate_pos_encoding=True
            ).numpy()
        np.testing.assert_allclose(embed(file, images), wanted, atol=BOUND, rtol=0)
        with pytest.raises(PatchParityError, match=r"positions are made for it: --image-size"):
            port(file, tmp_path / "t.safetensors", "timm-vit")
        port(file, tmp_path / "t.safetensors", "timm-vit", image_size=(16, 24))
        assert verify(file, tmp_path / "t.safetensors", image_size=(16, 24), prove=False).same

    def test_a_dynamic_batch_of_dynamo(self, tmp_path):
        model = vit()
        batch = {"pixel_values": {0: torch.export.Dim("batch")}}
        file = exported(model, (2, 3, 16, 24), tmp_path / "model.onnx", True, dynamic_shapes=batch)
        images = drawn(3, 3, 16, 24)
        with torch.no_grad():
            wanted = model.embeddings(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(embed(file, images), wanted, atol=BOUND, rtol=0)

    @pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
    def test_a_fixed_batch_of_three(self, dynamo, tmp_path):
        file = exported(vit(), (3, 3, 16, 24), tmp_path / "model.onnx", dynamo)
        images = drawn(3, 3, 16, 24)
        np.testing.assert_allclose(
            embed(file, images), at_runtime(file, images), atol=BOUND, rtol=0
        )


class Block(nn.Module):
    def __init__(self, width=20):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, values):
        return values + self.linear(self.norm(values))


class Stem(nn.Module):
    """A convolution in patches of 4×6, and what stands around it."""

    def __init__(self, before=None, after=None, behind=None, stride=(4, 6), padding=0):
        super().__init__()
        self.before, self.after, self.behind = before, after, behind
        self.convolution = nn.Conv2d(3, 20, (4, 6), stride, padding)
        self.block = Block()

    def forward(self, pixel_values):
        values = pixel_values if self.before is None else self.before(pixel_values)
        values = self.convolution(values)
        values = values if self.after is None else self.after(values)
        values = values.flatten(2).transpose(1, 2)
        values = values if self.behind is None else self.behind(values)
        return self.block(values)


class Normalize(nn.Module):
    def __init__(self, pad=0):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1))
        self.pad = pad

    def forward(self, images):
        if self.pad:
            images = nn.functional.pad(images, [self.pad] * 4)
        return (images / 255.0 - self.mean) / self.std


class Cut(nn.Module):
    """Patches that are cut by a reshape, in an order of axes, before a matrix."""

    def __init__(self, order):
        super().__init__()
        self.order, self.linear, self.block = order, nn.Linear(72, 20), Block()

    def forward(self, pixel_values):
        batch, channels, height, width = pixel_values.shape
        cut = pixel_values.reshape(batch, channels, height // 4, 4, width // 6, 6)
        rows = cut.permute(*self.order).reshape(batch, -1, 72)
        return self.block(self.linear(rows))


class Prefixed(nn.Module):
    """Tokens behind the patches, or on both sides, with positions."""

    def __init__(self, ahead, behind, placed=True):
        super().__init__()
        self.first = nn.Parameter(torch.ones(1, ahead, 20))
        self.last = nn.Parameter(torch.ones(1, behind, 20))
        self.positions = nn.Parameter(torch.ones(1, (16 + ahead + behind) if placed else 16, 20))
        self.placed = placed

    def forward(self, tokens):
        tokens = tokens if self.placed else tokens + self.positions
        batch = tokens.shape[0]
        parts = [self.first.expand(batch, -1, -1), tokens, self.last.expand(batch, -1, -1)]
        tokens = torch.cat([part for part in parts if part.shape[1]], 1)
        return tokens + self.positions if self.placed else tokens


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(20))

    def forward(self, tokens):
        return tokens * 20**0.5 * self.gain


class LengthFirst(nn.Module):
    """As OpenAI's CLIP: a norm, and tokens before the batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(20, eps=1e-4)

    def forward(self, tokens):
        return self.norm(tokens).permute(1, 0, 2)


READ = {
    "plain": lambda: Stem(),
    "normalized": lambda: Stem(before=Normalize()),
    "padded-then-normalized": lambda: Stem(before=Normalize(pad=1)),
    "overlapping": lambda: Stem(stride=(3, 4), padding=2),
    "batch-norm": lambda: Stem(after=nn.BatchNorm2d(20)),
    "norm": lambda: Stem(behind=nn.LayerNorm(20, eps=1e-3)),
    "scale": lambda: Stem(behind=Scale()),
    "behind": lambda: Stem(behind=Prefixed(0, 2)),
    "around": lambda: Stem(behind=Prefixed(1, 3)),
    "ahead": lambda: Stem(behind=Prefixed(4, 0)),
    "ahead-unplaced": lambda: Stem(behind=Prefixed(3, 0, placed=False)),
    "length-first": lambda: Stem(behind=LengthFirst()),
    "rows-ppc": lambda: Cut((0, 2, 4, 3, 5, 1)),
    "rows-cpp": lambda: Cut((0, 2, 4, 1, 3, 5)),
    "rows-pcp": lambda: Cut((0, 2, 4, 5, 1, 3)),
}


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", READ)
def test_what_stands_around_a_projection(name, opset, tmp_path):
    model = randomized(READ[name]())
    shape = (1, 3, 16, 24)
    file = exported(model, shape, tmp_path / "model.onnx", opset_version=opset)
    images = drawn(*shape)
    ours = embed(file, images)
    runtime = at_runtime(file, images)
    np.testing.assert_allclose(ours, runtime.reshape(ours.shape), atol=BOUND, rtol=0)


def test_a_batch_norm_that_an_exporter_folds_keeps_the_name_of_the_kernel(tmp_path):
    model = randomized(Stem(after=nn.BatchNorm2d(20)))
    file = exported(model, (1, 3, 16, 24), tmp_path / "model.onnx", True)
    from patchparity.porting.dialects.stage import read_stage

    with opened(file) as checkpoint:
        stage = read_stage(checkpoint)
    kernel = model.convolution.weight.detach().numpy().transpose(0, 2, 3, 1)
    assert "of 'convolution.weight'" in " ".join(stage.notes)
    assert "a norm or a scale of the model may be folded into it" in " ".join(stage.notes)
    assert np.abs(stage.weights.kernel - kernel).max() > 1e-3


REFUSED = {
    "activation": (lambda: Stem(after=nn.ReLU()), "Relu alone, where no block"),
    "gate": (lambda: Stem(after=nn.SiLU()), "Sigmoid and Mul, where no block"),
    "two-convolutions": (
        lambda: Stem(before=nn.Conv2d(3, 3, 3, padding=1)),
        "Conv .*, where no block|Conv alone",
    ),
    "normalized-then-padded": (
        lambda: Stem(before=Normalize(), padding=1, stride=(3, 4)),
        "normalized and then padded with zeros",
    ),
    "columns-first": (lambda: Cut((0, 4, 2, 3, 5, 1)), "in another order than row by row"),
    "max-pool": (lambda: Stem(after=nn.MaxPool2d(2)), "MaxPool alone"),
    "rms": (lambda: Stem(behind=nn.RMSNorm(20)), "does not take the mean out"),
    "dilated": (lambda: Stem(), "dilation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_embedding_stage_is_refused(name, tmp_path):
    make, message = REFUSED[name]
    model = randomized(make())
    if name == "dilated":
        model.convolution = nn.Conv2d(3, 20, 3, 5, dilation=2)
    file = exported(model, (1, 3, 16, 24), tmp_path / "model.onnx", name == "rms")
    with pytest.raises(PatchParityError, match=message):
        inspect_checkpoint(file)
    with pytest.raises(PatchParityError, match=message):
        embed(file, drawn(1, 3, 16, 24))


def test_a_model_of_text_has_no_image(tmp_path):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(7, 20)

        def forward(self, input_ids):
            return self.table(input_ids)

    torch.onnx.export(
        Text(),
        (torch.zeros(1, 5, dtype=torch.long),),
        str(tmp_path / "t.onnx"),
        dynamo=False,
        input_names=["input_ids"],
    )
    with pytest.raises(PatchParityError, match=r"none of its inputs is an image: 'input_ids'"):
        inspect_checkpoint(tmp_path / "t.onnx")


def test_of_two_images_one_is_named(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = Stem(), Stem()

        def forward(self, left, right):
            return self.one(left).sum() + self.other(right).sum()

    file, shape = tmp_path / "two.onnx", (1, 3, 16, 24)
    sample = torch.zeros(shape)
    model = randomized(Two())
    names = ["left", "right"]
    torch.onnx.export(model, (sample, sample), str(file), dynamo=False, input_names=names)
    images = drawn(*shape)
    with pytest.raises(PatchParityError, match=r"'left\.'.*'right\.'.*--prefix"):
        embed(file, images)
    for prefix, stem in (("left.", model.one), ("right.", model.other)):
        wanted = stem.convolution(torch.from_numpy(images)).flatten(2).transpose(1, 2)
        ours = embed(file, images, prefix=prefix)
        np.testing.assert_allclose(ours, wanted.detach().numpy(), atol=BOUND, rtol=0)


def test_an_image_that_goes_two_ways_names_both_kernels(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = Stem(), Stem()

        def forward(self, pixel_values):
            return self.one(pixel_values).sum() + self.other(pixel_values).sum()

    file = exported(randomized(Twice()), (1, 3, 16, 24), tmp_path / "m.onnx")
    with pytest.raises(PatchParityError, match=r"'one\.convolution\.weight' and Conv of 'other"):
        inspect_checkpoint(file)


class TestTypes:
    """What is not float32."""

    @pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
    def test_float16(self, dynamo, tmp_path):
        model = vit().half()
        file = tmp_path / "half.onnx"
        sample = torch.zeros(1, 3, 16, 24, dtype=torch.float16)
        names = ["pixel_values"]
        torch.onnx.export(
            model, (sample,), str(file), dynamo=dynamo, input_names=names, verbose=False
        )
        report = inspect_checkpoint(file)
        assert {entry["dtype"] for entry in report["tensors"].values()} == {"float16"}
        kernel = model.embeddings.patch_embeddings.projection.weight.detach().numpy()
        with opened(file) as checkpoint:
            checkpoint.for_images()
            ours = checkpoint.read("kernel")
        np.testing.assert_array_equal(ours, kernel.transpose(0, 2, 3, 1))

    def test_dynamic_quantization(self, tmp_path):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        model = vit()
        source = exported(model, (1, 3, 16, 24), tmp_path / "model.onnx")
        for kind, channels in ((QuantType.QInt8, False), (QuantType.QUInt8, True)):
            file = tmp_path / f"{kind}.onnx"
            quantize_dynamic(source, file, per_channel=channels, weight_type=kind)
            self.near(file, model, at_runtime(file, drawn(1, 3, 16, 24)))
            assert "rounded to whole numbers" in " ".join(
                inspect_checkpoint(file)["candidates"][0]["evidence"]
            )

    @pytest.mark.parametrize("channels", [False, True])
    def test_static_quantization(self, channels, tmp_path):
        from onnxruntime import quantization

        images = drawn(1, 3, 16, 24)

        class Reader(quantization.CalibrationDataReader):
            def __init__(self):
                self.rest = iter([{"pixel_values": images}] * 2)

            def get_next(self):
                return next(self.rest, None)

        model = vit()
        source = exported(model, (1, 3, 16, 24), tmp_path / "model.onnx")
        for form in quantization.QuantFormat:
            file = tmp_path / f"{form.name}.onnx"
            quantization.quantize_static(
                source, file, Reader(), quant_format=form, per_channel=channels
            )
            if form.name == "QOperator":
                with pytest.raises(PatchParityError, match="QLinearConcat alone"):
                    inspect_checkpoint(file)
                continue
            self.near(file, model, at_runtime(file, images))
            evidence = " ".join(inspect_checkpoint(file)["candidates"][0]["evidence"])
            of = "a scale for each of 24 channels" if channels else "one scale"
            assert f"dequantized from int8, {of}" in evidence

    @staticmethod
    def near(file, model, runtime):
        """The kernel is the model's but for one step of its scale, and tokens are the runtime's but
        for a hundredth of their range."""
        with opened(file) as checkpoint:
            checkpoint.for_images()
            ours = checkpoint.read("kernel")
        kernel = model.embeddings.patch_embeddings.projection.weight.detach().numpy()
        step = np.abs(kernel).max() / 127
        assert 0 < np.abs(ours - kernel.transpose(0, 2, 3, 1)).max() < 2 * step
        tokens = embed(file, drawn(1, 3, 16, 24))
        assert np.abs(tokens - runtime).max() < 0.02 * np.ptp(runtime)


class TestDamage:
    """Files that are not what they should be."""

    @pytest.fixture
    def split(self, tmp_path):
        file = exported(vit(), (1, 3, 16, 24), tmp_path / "model.onnx", True, external_data=True)
        if not (tmp_path / "model.onnx.data").exists():
            model = onnx.load(file)
            options = dict(location="model.onnx.data", size_threshold=0)
            onnx.save(model, file, save_as_external_data=True, **options)
        return file

    def test_the_other_part_is_read(self, split):
        with opened(split) as checkpoint:
            assert [path.name for path in checkpoint.files] == ["model.onnx", "model.onnx.data"]
        assert inspect_checkpoint(split)["dialect"] == "graph"

    def test_and_is_missed_by_name(self, split):
        (split.parent / "model.onnx.data").unlink()
        with pytest.raises(PatchParityError, match=r"'model\.onnx\.data', which is not there"):
            inspect_checkpoint(split)

    def test_and_may_be_too_short(self, split):
        other = split.parent / "model.onnx.data"
        other.write_bytes(other.read_bytes()[:100])
        with pytest.raises(PatchParityError, match="which has 100"):
            inspect_checkpoint(split)

    @pytest.mark.parametrize("place", ["../other.data", "/etc/hostname", "a/../../b"])
    def test_and_lies_in_the_folder(self, split, place):
        (split.parent.parent / "other.data").write_bytes(bytes(10**6))
        model = onnx.load(split, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = place
        split.write_bytes(model.SerializeToString())
        with pytest.raises(PatchParityError, match="no file of its folder"):
            inspect_checkpoint(split)

    def test_a_link_leads_nowhere_else(self, split, tmp_path_factory):
        elsewhere = tmp_path_factory.mktemp("else") / "secret"
        other = split.parent / "model.onnx.data"
        elsewhere.write_bytes(other.read_bytes())
        other.unlink()
        other.symlink_to(elsewhere)
        with pytest.raises(PatchParityError, match="no file of its folder"):
            inspect_checkpoint(split)

    def test_a_file_that_is_cut(self, tmp_path):
        file = exported(vit(), (1, 3, 16, 24), tmp_path / "model.onnx")
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(PatchParityError, match="no protobuf message"):
            inspect_checkpoint(file)
        file.write_bytes(b"\x08\x08\x12\x00")
        with pytest.raises(PatchParityError, match="holds no graph"):
            inspect_checkpoint(file)

    def test_values_that_are_fewer_than_they_should_be(self, tmp_path):
        file = exported(vit(), (1, 3, 16, 24), tmp_path / "model.onnx")
        model = onnx.load(file)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("projection.weight"):
                tensor.raw_data = tensor.raw_data[:-4]
        file.write_bytes(model.SerializeToString())
        with pytest.raises(PatchParityError, match=r"projection\.weight.*bytes.*expected"):
            inspect_checkpoint(file)

    def test_its_name_does_not_tell_what_it_is(self, tmp_path):
        file = exported(vit(), (1, 3, 16, 24), tmp_path / "model.onnx")
        renamed = file.rename(tmp_path / "model.bin")
        assert inspect_checkpoint(renamed)["format"] == "onnx"


FIELDS = {
    "float16": ("int32_data", np.float16),
    "bfloat16": ("int32_data", None),
    "float64": ("double_data", np.float64),
    "float32": ("float_data", np.float32),
}


@pytest.mark.parametrize("name", FIELDS)
def test_values_in_fields_of_their_type(name, tmp_path):
    """Typed fields of a TensorProto, short and long ones, and raw bytes, are the same values."""
    import ml_dtypes

    from patchparity.porting.files.onnx_files import OnnxCheckpoint

    field, kind = FIELDS[name]
    kind = ml_dtypes.bfloat16 if kind is None else kind
    arrays = {"short": drawn(2, 3).astype(kind), "long": drawn(40, 30).astype(kind)}
    tensors = []
    for label, array in arrays.items():
        number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        tensor = onnx.TensorProto(name=label, data_type=number, dims=array.shape)
        values = array.view(np.uint16) if field == "int32_data" else array
        getattr(tensor, field).extend(values.ravel().tolist())
        raw = onnx.TensorProto(name=f"raw {label}", data_type=number, dims=array.shape)
        raw.raw_data = array.tobytes()
        tensors += [tensor, raw]
    graph = onnx.helper.make_graph([], "g", [], [], tensors)
    file = tmp_path / "m.onnx"
    file.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with OnnxCheckpoint(file) as checkpoint:
        for label, array in arrays.items():
            np.testing.assert_array_equal(checkpoint.read(label), array)
            np.testing.assert_array_equal(checkpoint.read(f"raw {label}"), array)


def test_four_bits(tmp_path):
    from patchparity.porting.files.onnx_files import OnnxCheckpoint

    numbers = np.random.default_rng(1).integers(-8, 8, (33, 31))
    tensors = [
        onnx.helper.make_tensor("signed", onnx.TensorProto.INT4, numbers.shape, numbers.ravel()),
        onnx.helper.make_tensor(
            "unsigned", onnx.TensorProto.UINT4, numbers.shape, numbers.ravel() + 8
        ),
    ]
    graph = onnx.helper.make_graph([], "g", [], [], tensors)
    file = tmp_path / "m.onnx"
    file.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    with OnnxCheckpoint(file) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("signed").astype(int), numbers)
        np.testing.assert_array_equal(checkpoint.read("unsigned").astype(int), numbers + 8)


PEAK = """
import resource, sys
import onnx
from patchparity import inspect_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = inspect_checkpoint(sys.argv[1])
print(report["dialect"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("inline", [False, True])
def test_a_large_file_takes_what_is_read_of_it(inline, tmp_path):
    """2 GB of a block's weights, in another file or in this one: none of it is read."""
    import subprocess
    import sys

    from patchparity.porting.files.protobuf import of_length, written

    source = exported(randomized(Stem()), (1, 3, 16, 24), tmp_path / "small.onnx")
    model = onnx.load(source)
    shape = (20, 2**20 if inline else 2**24 + 2**22)
    size = 4 * shape[0] * shape[1]
    (linear,) = (node for node in model.graph.node if node.op_type == "MatMul")
    linear.input[1] = "large"
    large = onnx.TensorProto(name="large", data_type=1, dims=shape)
    file = tmp_path / "large.onnx"
    if inline:
        head = of_length(8, b"large") + b"\x08" + written(shape[0]) + b"\x08" + written(shape[1])
        head += b"\x10\x01"
        raw = written(9 << 3 | 2) + written(size)
        tensor = written(5 << 3 | 2) + written(len(head) + len(raw) + size) + head + raw
        graph = written(7 << 3 | 2) + written(len(tensor) + size)
        with file.open("wb") as target:  # a second part of the graph, which protobuf merges
            target.write(model.SerializeToString() + graph + tensor)
            target.truncate(target.tell() + size)
    else:
        large.data_location = 1
        for key, value in {"location": "large.data", "length": str(size)}.items():
            large.external_data.add(key=key, value=value)
        model.graph.initializer.append(large)
        file.write_bytes(model.SerializeToString())
        with (tmp_path / "large.data").open("wb") as target:
            target.truncate(size)
    told = subprocess.run(
        [sys.executable, "-c", PEAK, file], capture_output=True, text=True, check=True
    )
    dialect, grown = told.stdout.split()
    assert dialect == "graph"
    assert int(grown) < 60 * 1024


def made(nodes, inputs, arrays, functions=(), **more):
    """A model by hand, of a convolution in patches of 4×6 and a block behind `tokens`."""
    make = onnx.helper
    block = [
        make.make_node("LayerNormalization", ["tokens", "gain"], ["normed"]),
        make.make_node("MatMul", ["normed", "mix"], ["mixed"]),
        make.make_node("Add", ["tokens", "mixed"], ["out"]),
    ]
    arrays = {"gain": drawn(20), "mix": drawn(20, 20), **arrays}
    graph = make.make_graph(
        [*nodes, *block],
        "g",
        [make.make_tensor_value_info(name, 1, shape) for name, shape in inputs.items()],
        [make.make_tensor_value_info("out", 1, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
        **more,
    )
    opsets = [make.make_opsetid("", 18), make.make_opsetid("mine", 1)]
    return make.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


CONV = dict(strides=[4, 6])
IMAGE = {"image": [1, 3, 16, 24]}


def convolved(*more):
    make = onnx.helper.make_node
    return [
        make("Constant", [], ["flat"], value_ints=[1, 20, -1]),
        make("Conv", ["image", "kernel"], ["map"], **CONV),
        make("Reshape", ["map", "flat"], ["columns"]),
        make("Transpose", ["columns"], ["rows" if more else "tokens"], perm=[0, 2, 1]),
        *more,
    ]


def read(model, file):
    file.write_bytes(model.SerializeToString())
    from patchparity.porting.dialects.stage import read_stage

    with opened(file) as checkpoint:
        return read_stage(checkpoint)


def test_a_function_of_the_file_is_put_in_its_place(tmp_path):
    make = onnx.helper
    inner = [
        make.make_node("Constant", [], ["large"], value=make.make_tensor(
            "t", 1, (1, 16, 20), drawn(1, 16, 20).tobytes(), raw=True)),
        make.make_node("Conv", ["x", "k"], ["map"], **CONV),
        make.make_node("Reshape", ["map", "shape"], ["columns"]),
        make.make_node("Transpose", ["columns"], ["turned"], perm=[0, 2, 1]),
        make.make_node("Add", ["turned", "large"], ["y"]),
    ]  # fmt: skip
    opsets = [make.make_opsetid("", 18)]
    function = make.make_function("mine", "Embed", ["x", "k", "shape"], ["y"], inner, opsets)
    call = make.make_node("Embed", ["image", "kernel", "flat"], ["tokens"], domain="mine")
    kernel = drawn(20, 3, 4, 6)
    arrays = {"kernel": kernel, "flat": np.array([1, 20, -1])}
    stage = read(made([call], IMAGE, arrays, [function]), tmp_path / "m.onnx")
    np.testing.assert_array_equal(stage.weights.kernel, kernel.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(stage.weights.positions, drawn(1, 16, 20)[0])


@pytest.mark.parametrize("calls", [["F0"], ["F1", "F1"]])
def test_functions_without_end_are_refused(calls, tmp_path):
    """One that calls itself; forty, each of which calls the next one twice."""
    make = onnx.helper
    opsets = [make.make_opsetid("", 18), make.make_opsetid("mine", 1)]
    functions = []
    for place in range(40):
        names = calls if place == 0 else [f"F{place + 1}"] * 2
        inner = [make.make_node(name, ["x"], ["y"], domain="mine") for name in names]
        functions.append(make.make_function("mine", f"F{place}", ["x"], ["y"], inner, opsets))
    call = make.make_node("F0", ["image"], ["tokens"], domain="mine")
    with pytest.raises(PatchParityError, match="without end"):
        read(made([call], IMAGE, {}, functions), tmp_path / "m.onnx")


def test_a_branch_on_the_way_is_refused_by_name(tmp_path):
    make = onnx.helper
    out = make.make_tensor_value_info("y", 1, None)
    branches = [
        make.make_graph([make.make_node(op, ["rows"], ["y"])], op, [], [out])
        for op in ("Identity", "Neg")
    ]
    chosen = make.make_node(
        "If", ["which"], ["tokens"], then_branch=branches[0], else_branch=branches[1]
    )
    arrays = {"kernel": drawn(20, 3, 4, 6), "which": np.array(True)}
    with pytest.raises(PatchParityError, match="If alone, where no block"):
        read(made(convolved(chosen), IMAGE, arrays), tmp_path / "m.onnx")


def test_sparse_constants_are_not_read(tmp_path):
    values = onnx.numpy_helper.from_array(drawn(5), "kernel")
    places = onnx.numpy_helper.from_array(np.arange(5), "places")
    sparse = onnx.helper.make_sparse_tensor(values, places, [20, 3, 4, 6])
    model = made(convolved(), IMAGE, {}, sparse_initializer=[sparse])
    with pytest.raises(PatchParityError, match="'kernel', which no constant of the file tells"):
        read(model, tmp_path / "m.onnx")


def test_tokens_of_another_input_are_refused(tmp_path):
    more = onnx.helper.make_node("Add", ["rows", "noise"], ["tokens"])
    model = made(convolved(more), {**IMAGE, "noise": [16, 20]}, {"kernel": drawn(20, 3, 4, 6)})
    with pytest.raises(PatchParityError, match="'noise', which no constant of the file tells"):
        read(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("shape", [(1, 3, 4, 96), (1, 3, 16, 24), (2, 3, 8, 48)])
def test_as_many_patches_as_a_square_has(shape, tmp_path):
    """A graph tells its images' size: no square is assumed, and none is asked for."""
    more = onnx.helper.make_node("Add", ["rows", "table"], ["tokens"])
    nodes = convolved(more)
    nodes[0] = onnx.helper.make_node("Constant", [], ["flat"], value_ints=[shape[0], 20, -1])
    arrays = {"kernel": drawn(20, 3, 4, 6), "table": drawn(16, 20)}
    file = tmp_path / "m.onnx"
    file.write_bytes(made(nodes, {"image": shape}, arrays).SerializeToString())
    images = drawn(*shape)
    np.testing.assert_allclose(embed(file, images), at_runtime(file, images), atol=BOUND, rtol=0)
    assert inspect_checkpoint(file)["spec"]["grid"] == [shape[2] // 4, shape[3] // 6]
