"""OpenVINO IR, written by its own converter and `save_model`: the stage is held against what the
models of transformers compute, and what was translated against OpenVINO's values."""

import re

import ml_dtypes
import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint, port
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.graphs.openvino_model import NF4, OpenVinoModel
from patchparity.porting.files.opening import opened
from patchparity.porting.files.openvino_files import translate

from .graph_values import computed, foreign

openvino = pytest.importorskip("openvino")
opset = pytest.importorskip("openvino.opset13")

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's tracing, and of what it traces

NEAR = 1e-5
"""Largest difference, as a part of the largest value: λ√K·u of K = 240 products is 4·16·2⁻²⁴ =
3.7e-6 of the sum of their sizes (reference/error.py), which is not three times the largest."""

F32 = {"INFERENCE_PRECISION_HINT": "f32"}

draw = np.random.default_rng(11)


def converted(model, images, fixed=True):
    """What `openvino.convert_model` makes of a torch module; that itself forks, to report that it
    was called."""
    torch = pytest.importorskip("torch")
    decoders = pytest.importorskip("openvino.frontend.pytorch.ts_decoder")
    with torch.no_grad():
        decoder = decoders.TorchScriptPythonDecoder(model.eval(), example_input=images)
    frontend = openvino.frontend.FrontEndManager().load_by_framework("pytorch")
    made = frontend.convert(frontend.load(decoder))
    offline = pytest.importorskip("openvino._offline_transformations")
    offline.apply_moc_transformations(made, cf=False)
    if fixed:
        made.reshape(list(images.shape))
    return made


def saved(folder, model, **options):
    openvino.save_model(model, folder / "model.xml", **options)
    return folder / "model.xml"


def stage_of(path, **options):
    with opened(path) as checkpoint:
        stage = read_stage(checkpoint, **options)
        return stage, dict(checkpoint.told)


def read(path):
    """All tensors of a stage."""
    with opened(path) as checkpoint:
        checkpoint.for_images()
        return {name: checkpoint.read(name) for name in checkpoint.arrays}


def filled(model):
    torch = pytest.importorskip("torch")
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return model.eval()


SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def model_of(kind):
    """A tower of transformers, its images, and what its embeddings give of them."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    class Tower(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(pixel_values=images).last_hidden_state

    square = {**SIZES, "image_size": 16, "patch_size": 4}
    shape = (2, 3, 16, 16)
    if kind == "ViT":
        oblong = {**SIZES, "image_size": (12, 20), "patch_size": (4, 5), "num_channels": 5}
        model = transformers.ViTModel(transformers.ViTConfig(**oblong))
        shape = (2, 5, 12, 20)
    elif kind == "CLIP":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**square))
    elif kind == "SigLIP":
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**square))
    elif kind == "DINOv2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**square))
        shape = (2, 3, 24, 20)
    elif kind == "registers":
        model = transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(num_register_tokens=3, **square)
        )
        shape = (2, 3, 12, 20)
    else:
        model = transformers.VideoMAEModel(transformers.VideoMAEConfig(**square, num_frames=4))
        shape = (2, 4, 3, 16, 16)
    images = torch.from_numpy(draw.standard_normal(shape).astype(np.float32))
    model = filled(model)
    with torch.no_grad():
        if kind == "CLIP":
            tokens = model.pre_layrnorm(model.embeddings(images))
        elif kind == "VideoMAE":
            tokens = model.embeddings(images, None)
        else:
            tokens = model.embeddings(images)
    return Tower(model), images, tokens.numpy()


@pytest.mark.parametrize("kind", ["ViT", "CLIP", "SigLIP", "DINOv2", "registers", "VideoMAE"])
def test_the_stage_is_that_of_the_model(kind, tmp_path):
    model, images, expected = model_of(kind)
    path = saved(tmp_path, converted(model, images), compress_to_fp16=False)
    given = images.numpy()
    if kind == "VideoMAE":
        given = np.moveaxis(given, 1, 2)
    found = embed(path, given)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()
    if kind == "VideoMAE":  # whose positions the target computes, and the graph holds
        report = port(path, tmp_path / "ported.safetensors", "hf-videomae")
        assert report.ok
        assert "drop-computed-positions" in " ".join(report.steps)
        np.testing.assert_array_equal(embed(tmp_path / "ported.safetensors", given), found)


@pytest.mark.parametrize("narrow", [False, True])
def test_weights_are_those_of_the_model(narrow, tmp_path):
    model, images, _ = model_of("ViT")
    path = saved(
        tmp_path, converted(model, images), **({} if narrow else {"compress_to_fp16": False})
    )
    held = {name.partition("embeddings.")[2]: v.numpy() for name, v in model.state_dict().items()}
    kernel = np.moveaxis(held["patch_embeddings.projection.weight"], 1, -1)
    expected = {
        "kernel": kernel,
        "bias": held["patch_embeddings.projection.bias"],
        "class_token": held["cls_token"][0, 0],
        "positions": held["position_embeddings"][0],
    }
    found, (_, told) = read(path), stage_of(path)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        kept = values.astype(np.float16).astype(np.float32) if narrow else values
        assert np.array_equal(found[name], kept), name
        assert ("float16, as OpenVINO's writer chose" in told[name]) == narrow


def test_any_size_is_asked(tmp_path):
    model, images, expected = model_of("ViT")
    path = saved(tmp_path, converted(model, images, fixed=False), compress_to_fp16=False)
    with pytest.raises(PatchParityError, match="--image-size says which"):
        stage_of(path)
    found = embed(path, images.numpy(), image_size=(12, 20))
    assert np.abs(found - expected).max() < NEAR * np.abs(expected).max()


def test_a_model_that_came_by_onnx(tmp_path):
    pytest.importorskip("onnx")
    from patchparity import PatchEmbedSpec
    from patchparity.backends.onnx_graph import embedding_model
    from patchparity.reference.weights import PatchEmbedWeights

    spec = PatchEmbedSpec((12, 20), (4, 5), 2, 24)
    kernel = draw.standard_normal((24, 4, 5, 2)).astype(np.float32)
    weights = PatchEmbedWeights(kernel, draw.standard_normal(24).astype(np.float32))
    (tmp_path / "model.onnx").write_bytes(embedding_model(spec, weights, "float32"))
    model = openvino.Core().read_model(tmp_path / "model.onnx")
    found = read(saved(tmp_path, model, compress_to_fp16=False))
    assert np.array_equal(found["kernel"], kernel)
    assert np.array_equal(found["bias"], weights.bias)


def test_what_is_done_to_bytes_in_front(tmp_path):
    model, images, _ = model_of("ViT")
    made = converted(model, images)
    prepared = openvino.preprocess.PrePostProcessor(made)
    step = prepared.input()
    step.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    step.model().set_layout(openvino.Layout("NCHW"))
    steps = step.preprocess().convert_element_type(openvino.Type.f32)
    steps.mean([120.0, 110.0, 100.0, 90.0, 80.0]).scale([50.0, 51.0, 52.0, 53.0, 54.0])
    path = saved(tmp_path, prepared.build(), compress_to_fp16=False)
    pixels = draw.integers(0, 255, (2, 5, 12, 20)).astype(np.float32)
    mean = np.array([120, 110, 100, 90, 80], np.float32).reshape(5, 1, 1)
    scale = np.array([50, 51, 52, 53, 54], np.float32).reshape(5, 1, 1)
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        expected = model.model.embeddings(torch.from_numpy((pixels - mean) / scale)).numpy()
    assert np.abs(embed(path, pixels) - expected).max() < 4 * NEAR * np.abs(expected).max()
    assert "normalizes images itself" in stage_of(path)[1]["kernel"]


def all_values(path, images):
    """All values of an IR as OpenVINO computes them, and as ONNX Runtime does what was made of
    it."""
    model = OpenVinoModel(path)
    graph, values = translate(model)
    own, behind = foreign(graph, "openvino.")
    core = openvino.Core()
    held = core.read_model(path)
    by_name = {operation.get_friendly_name(): operation for operation in held.get_ops()}
    layers = {layer.number: layer for layer in model.layers}
    wanted = []
    for (number, of_port), name in values.items():
        layer = layers[number]
        computed_here = layer.kind not in ("Const", "Parameter") and layer.name in by_name
        if computed_here and name not in behind | graph.inputs.keys() | graph.constants.keys():
            place = [each.number for each in layer.outputs].index(of_port)
            wanted.append((by_name[layer.name].output(place), name))
    whole = openvino.Model([output for output, _ in wanted], held.get_parameters(), "all")
    results = core.compile_model(whole, "CPU", F32)([images])
    feeds = dict.fromkeys(graph.inputs, images)
    found = computed(graph, sorted({name for _, name in wanted}), feeds)
    return own, [(results[at], found[name]) for at, (_, name) in enumerate(wanted)]


def require_equal(values):
    assert values
    for expected, found in values:
        assert found.shape == expected.shape
        difference = np.abs(found.astype(np.float64) - expected.astype(np.float64))
        size = np.abs(expected.astype(np.float64)).max(initial=0)
        assert difference.max(initial=0) <= NEAR * max(size, 1)


def test_every_value_is_that_of_openvino(tmp_path):
    torch = pytest.importorskip("torch")

    class Several(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(3)
            self.patch = torch.nn.Linear(60, 24)
            self.grouped = torch.nn.Conv2d(3, 6, (4, 5), (2, 3), (1, 2), (2, 1), groups=3)

        def forward(self, images):
            count = images.shape[0]
            padded = torch.nn.functional.pad(images, (1, 0, 0, 2))
            x = self.norm(padded)[:, :, :12, :20]
            cut = x.reshape(count, 3, 3, 4, 4, 5).permute(0, 2, 4, 3, 5, 1)
            y = self.patch(cut.reshape(count, 12, 60))
            first, second = y.split([5, 7], 1)
            return (
                self.grouped(x),
                torch.cat([second, first], 1),
                y[:, ::2, 1:-1],
                y[:, 3],
                torch.stack([y, y], 1).unsqueeze(0).squeeze(0),
                torch.nn.functional.gelu(y, approximate="tanh"),
                torch.nn.functional.layer_norm(y, (24,)),
                y.var(-1, keepdim=True),
                torch.where(y > 0, y, -y).clamp(-0.5, 0.5),
                torch.tile(y, (1, 2, 1)),
                y.mean((1, 2)),
                torch.softmax(y, -1) @ y.transpose(1, 2),
                torch.nn.functional.interpolate(x, (7, 9), mode="bilinear"),
            )

    model = filled(Several())
    model.norm.running_var.data.uniform_(0.5, 1.5)
    images = torch.from_numpy(draw.standard_normal((2, 3, 12, 20)).astype(np.float32))
    for fixed in (True, False):
        path = saved(tmp_path, converted(model, images, fixed), compress_to_fp16=False)
        own, values = all_values(path, images.numpy())
        assert not own
        require_equal(values)


def test_every_value_of_a_model_is_that_of_openvino(tmp_path):
    model, images, _ = model_of("ViT")
    path = saved(tmp_path, converted(model, images, fixed=False))
    own, values = all_values(path, images.numpy())
    assert own == {"openvino.ScaledDotProductAttention"}
    require_equal(values)


def narrow_constant(kind, values):
    """A constant of a type of four bits, or of more."""
    halves = {"u4": ml_dtypes.uint4, "i4": ml_dtypes.int4, "f4e2m1": ml_dtypes.float4_e2m1fn}
    if kind in halves:
        codes = values.astype(halves[kind]).view(np.uint8) & 15
    elif kind == "nf4":
        codes = values.astype(np.uint8)
    else:
        return opset.constant(values.astype(np.float32), getattr(openvino.Type, kind))
    pairs = codes.reshape(-1, 2)
    tensor = openvino.Tensor(
        (pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8),
        openvino.Shape(list(values.shape)),
        getattr(openvino.Type, kind),
    )
    return openvino.op.Constant(tensor)


@pytest.mark.parametrize("kind", ["u4", "i4", "nf4", "f4e2m1", "f8e4m3", "f8e5m2", "bf16"])
def test_narrow_types_are_those_of_openvino(kind, tmp_path):
    """As NNCF writes compressed weights: a constant, a Convert, a zero point, and scales of
    groups."""
    values = draw.integers(0 if kind in ("u4", "nf4") else -4, 5, (24, 4, 30))
    parameter = opset.parameter([2, 12, 120], openvino.Type.f32, name="patches")
    weights = opset.convert(narrow_constant(kind, values), "f16")
    if kind == "u4":
        weights = opset.subtract(weights, opset.constant(np.full((24, 4, 1), 7, np.float16)))
    scale = draw.uniform(0.1, 1, (24, 4, 1)).astype(np.float16)
    weights = opset.multiply(weights, opset.constant(scale))
    weights = opset.convert(opset.reshape(weights, [24, 120], False), "f32")
    tokens = opset.matmul(parameter, weights, False, True)
    path = saved(tmp_path, openvino.Model([tokens], [parameter], "m"), compress_to_fp16=False)
    images = draw.standard_normal((2, 12, 120)).astype(np.float32)
    expected = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", F32)([images])
    graph, _ = translate(OpenVinoModel(path))
    found = computed(graph, graph.outputs, {"patches": images})
    assert np.abs(found[graph.outputs[0]] - expected[0]).max() < NEAR * np.abs(expected[0]).max()
    told = {constant.told for constant in graph.constants.values()}
    assert any(told)


def images_and_kernel(weights, front=lambda value: value):
    parameter = opset.parameter([1, 3, 12, 20], openvino.Type.f32, name="images")
    sides = [4, 5], [0, 0], [0, 0], [1, 1]
    tokens = opset.convolution(front(parameter), weights, *sides)
    flat = opset.transpose(opset.reshape(tokens, [1, 24, 12], False), [0, 2, 1])
    return openvino.Model([flat], [parameter], "m")


KERNEL = draw.standard_normal((24, 3, 4, 5)).astype(np.float32)


def faked(value, low, high):
    bounds = [opset.constant(np.array(each, np.float32)) for each in (low, high, low, high)]
    return opset.fake_quantize(value, *bounds, 256)


def test_constants_are_rounded_as_a_fake_quantize_says(tmp_path):
    low, high = KERNEL.min((1, 2, 3), keepdims=True), KERNEL.max((1, 2, 3), keepdims=True)
    model = images_and_kernel(faked(opset.constant(KERNEL), low, high))
    path = saved(tmp_path, model, compress_to_fp16=False)
    steps = np.round((KERNEL - low) / (high - low) * np.float32(255)) / np.float32(255)
    expected = np.moveaxis(steps * (high - low) + low, 1, -1)
    found = read(path)["kernel"]
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(found - np.moveaxis(KERNEL, 1, -1)).max() > 1e-4


def test_rounding_of_what_is_computed_is_told(tmp_path):
    model = images_and_kernel(opset.constant(KERNEL), lambda value: faked(value, -3.0, 3.0))
    path = saved(tmp_path, model, compress_to_fp16=False)
    stage, told = stage_of(path)
    assert np.array_equal(np.asarray(stage.weights.kernel), read(path)["kernel"])
    assert "rounded to 256 levels between operators (FakeQuantize)" in told["kernel"]


def test_a_cast_on_the_way_is_told(tmp_path):
    def narrowed(value):
        return opset.convert(opset.convert(value, "f16"), "f32")

    path = saved(tmp_path, images_and_kernel(opset.constant(KERNEL), narrowed))
    assert "it rounds to float16 on the way" in stage_of(path)[1]["kernel"]


@pytest.fixture
def plain(tmp_path):
    """A folder with an IR."""
    saved(tmp_path, images_and_kernel(opset.constant(KERNEL)), compress_to_fp16=False)
    return tmp_path


def changed(folder, old, new, count=1):
    path = folder / "model.xml"
    text = path.read_text()
    assert re.search(old, text), old
    path.write_text(re.sub(old, new, text, count=count))
    return path


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<net ", '<!DOCTYPE net [<!ENTITY a "b">]><net ', "a document type, which an IR has not"),
        ('version="11"', 'version="7"', "is an OpenVINO IR of version 7, expected 10 or 11"),
        ("</net>", "", "no element found"),
        (r' id="1"', "", "an element without 'id'"),
        (r'<layer id="1"', '<layer id="0"', "two layers of id 0"),
        (r'size="5760"', 'size="5764"', r"has 5764 bytes"),
        (r'offset="0"', 'offset="999999"', "claims bytes 999999 to"),
        (r'offset="0"', 'offset="-8"', "claims bytes -8 to"),
        (r'size="5760"', 'size="many"', "is told badly"),
        (r'shape="24, 3, 4, 5"', 'shape="24, 3, 4, 6"', r"of shape \(24, 3, 4, 6\)"),
        (r'shape="24, 3, 4, 5"', 'shape="-24, 3, -4, 5"', "is told badly"),
        (r'to-layer="2" to-port="0"', 'to-layer="2" to-port="9"', "which are no ports"),
        (r'from-layer="0" from-port="0"', 'from-layer="2" from-port="2"', "wait for each other"),
        ("<dim>3</dim>", "<dim>x</dim>", "invalid literal"),
        (r'element_type="f32" shape="24', 'element_type="u1" shape="24', "of type 'u1'"),
        (r'shape="24, 3, 4, 5"', f'shape="{"1, " * 999}"', "an attribute of 2997 characters"),
        (r'type="Convolution"', 'type="Wave"', r"meets openvino\.Wave"),
    ],
)
def test_what_cannot_be_read_is_refused(old, new, reason, plain):
    path = changed(plain, old, new)
    with pytest.raises(PatchParityError, match=reason) as raised:
        stage_of(path)
    assert str(path) in str(raised.value)


def test_values_that_are_not_beside_it(plain):
    (plain / "model.bin").unlink()
    with pytest.raises(PatchParityError, match=r"its values in model\.bin, which is not beside it"):
        stage_of(plain / "model.xml")


def test_values_that_end_early(plain):
    (plain / "model.bin").write_bytes((plain / "model.bin").read_bytes()[:100])
    with pytest.raises(PatchParityError, match=r"claims bytes 0 to 5760 of 100 of model\.bin"):
        stage_of(plain / "model.xml")


def test_the_values_alone_name_their_graph(plain):
    with pytest.raises(PatchParityError, match=r"is the values of model\.xml, .* name that"):
        stage_of(plain / "model.bin")


def test_the_name_of_a_file_does_not_matter(plain):
    (plain / "model.xml").rename(plain / "graph.txt")
    (plain / "model.bin").rename(plain / "graph.bin")
    assert inspect_checkpoint(plain / "graph.txt")["format"] == "openvino"


def test_a_folder_of_optimum_is_opened(plain):
    (plain / "model.xml").rename(plain / "openvino_model.xml")
    (plain / "model.bin").rename(plain / "openvino_model.bin")
    assert stage_of(plain)[0].weights.kernel.shape[0] == 24


def test_a_loop_keeps_its_name(tmp_path):
    parameter = opset.parameter([1, 3, 12, 20], openvino.Type.f32, name="images")
    inner = opset.parameter([1, 3, 12, 20], openvino.Type.f32)
    body = openvino.Model([opset.result(opset.relu(inner))], [inner], "body")
    choice = opset.if_op(opset.constant(np.array(True)))
    choice.set_then_body(body)
    choice.set_else_body(body)
    choice.set_input(parameter.output(0), inner, inner)
    out = choice.set_output(body.results[0], body.results[0])
    model = openvino.Model([opset.relu(out)], [parameter], "m")
    path = saved(tmp_path, model)
    with pytest.raises(PatchParityError, match=r"meets openvino\.If"):
        stage_of(path)


def test_the_values_of_normal_float_are_sixteen():
    assert len(NF4) == 16
    assert list(NF4) == sorted(NF4)
