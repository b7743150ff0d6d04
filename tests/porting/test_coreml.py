"""CoreML's models, as coremltools writes them: the graph that is read of one computes, in ONNX
Runtime, what the torch module that it was made of computes."""

import contextlib
import io
import json
import shutil
import struct
import warnings

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint
from patchparity.porting.files.coreml_files import read_coreml

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # coremltools', of the versions beside it

SMALL = {
    "hidden_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
BOUND = 1e-4
"""Largest difference of float32 here, of sums of 160 products of standard deviation 0.5, and the
norms, attention and sums of one block behind them."""


@pytest.fixture(scope="module")
def ct():
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return pytest.importorskip("coremltools")


def randomized(model):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def saved(ct, model, path, shape, exported=False, half=False, **how):
    """What coremltools writes of a model, traced or exported."""
    images = torch.zeros(shape)
    with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():
        if exported:
            traced = torch.export.export(model, (images,)).run_decompositions({})
        else:
            traced = torch.jit.trace(model, images)
            how.setdefault("inputs", [ct.TensorType(name="x", shape=shape)])
        how.setdefault("minimum_deployment_target", ct.target.iOS16)
        precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
        ct.convert(traced, compute_precision=precision, **how).save(str(path))
    return path


def onnx_of(graph):
    """The graph as a model of ONNX, with all its constants."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import helper, numpy_helper

    assert not [node.op for node in graph.nodes if "." in node.op]
    nodes = [
        helper.make_node(node.op, list(node.inputs), list(node.outputs), **node.attributes)
        for node in graph.nodes
    ]
    held = {name: constant.read() for name, constant in graph.constants.items()}
    for name, constant in graph.constants.items():
        assert held[name].shape == constant.info.shape
        assert held[name].dtype.name == constant.info.dtype
    initializers = [numpy_helper.from_array(array, name) for name, array in held.items()]
    inputs = [
        helper.make_tensor_value_info(
            name,
            onnx.TensorProto.FLOAT,
            [f"{name}{axis}" if extent is None else extent for axis, extent in enumerate(shape)],
        )
        for name, shape in graph.inputs.items()
    ]
    output = helper.make_tensor_value_info(graph.nodes[-1].outputs[0], 1, None)
    made = helper.make_graph(nodes, "made", inputs, [output], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return runtime.InferenceSession(model.SerializeToString())


def apart(path, model, images):
    """How far the graph is from the torch module."""
    graph = read_coreml(path).graph
    given = dict(zip(graph.inputs, [images], strict=True))
    (ours,) = onnx_of(graph).run(None, given)
    with torch.no_grad():
        theirs = model(torch.from_numpy(images)).numpy()
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max()


def images_of(shape):
    return np.random.default_rng(8).standard_normal(shape).astype(np.float32)


class First(torch.nn.Module):
    """A model whose first output is taken."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images)[0]


def of_transformers(name):
    transformers = pytest.importorskip("transformers")
    square = {"image_size": 24, "patch_size": 8}
    config, kind, given = {
        "vit": (
            "ViTConfig",
            "ViTModel",
            {"image_size": (24, 16), "patch_size": (4, 8), "num_channels": 5},
        ),
        "clip": ("CLIPVisionConfig", "CLIPVisionModel", square),
        "siglip": ("SiglipVisionConfig", "SiglipVisionModel", square),
    }[name]
    config = getattr(transformers, config)(**SMALL, **given)
    image = config.image_size
    image = (image, image) if isinstance(image, int) else image
    model = First(randomized(getattr(transformers, kind)(config)))
    return model, (1, config.num_channels, *image)


@pytest.mark.parametrize(("name", "exported"), [("vit", False), ("clip", True), ("siglip", False)])
def test_models_of_transformers(name, exported, ct, tmp_path):
    model, shape = of_transformers(name)
    path = saved(ct, model, tmp_path / "m.mlpackage", shape, exported)
    images = images_of(shape)
    assert apart(path, model, images) < BOUND
    inner = model.model
    inner = getattr(inner, "vision_model", inner)
    norm = getattr(inner, "pre_layrnorm", torch.nn.Identity())
    with torch.no_grad():
        theirs = norm(inner.embeddings(torch.from_numpy(images))).numpy()
    np.testing.assert_allclose(embed(path, images), theirs, atol=BOUND)


class Patches(torch.nn.Module):
    """A projection in one of the ways that people write one, with a class token and positions."""

    def __init__(self, way):
        super().__init__()
        self.way, channels = way, 3
        self.conv = torch.nn.Conv2d(channels, 20, (4, 8), stride=(4, 8))
        self.over = torch.nn.Conv2d(channels, 20, 7, stride=4, padding=3)
        self.same = torch.nn.Conv2d(channels, 20, 5, padding="same", bias=False)
        self.linear = torch.nn.Linear(96, 20)
        self.class_token = torch.nn.Parameter(torch.zeros(20))
        self.positions = torch.nn.Parameter(torch.zeros(13, 20))
        self.norm = torch.nn.LayerNorm(20, eps=3e-4)
        self.bare = torch.nn.LayerNorm(20, elementwise_affine=False)
        self.batch = torch.nn.BatchNorm2d(20)

    def forward(self, x):
        way = self.way
        if way == "linear":
            x = x.reshape(-1, 3, 6, 4, 2, 8).permute(0, 2, 4, 3, 5, 1).reshape(-1, 12, 96)
            return self.norm(self.linear(x))
        if way == "matmul":
            x = x.reshape(-1, 3, 6, 4, 2, 8).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
            return torch.matmul(x, self.linear.weight.T) + self.linear.bias
        if way == "channels last":
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if way == "same":
            return self.same(x)
        if way == "overlap":
            return self.batch(self.over(x)).flatten(2).transpose(1, 2)
        if way == "padded":
            x = torch.nn.functional.pad(x, (0, 0, 1, 3))
            return self.conv(x)[:, ::2, 1:, -1]
        if way == "pixels":
            x = (x / 255 - torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1)) * 2.5
        x = self.conv(x).flatten(2).transpose(1, 2)
        if way == "registers":
            more = torch.cat([self.positions[:2], torch.zeros(1, 20)]).expand(len(x), -1, -1)
            return self.bare(torch.cat([x + self.positions[1:], more], 1))
        if way == "positions":
            return self.norm(x + self.positions[1:])
        token = self.class_token.expand(len(x), 1, -1)
        return self.norm(torch.cat([token, x], 1) + self.positions)


WAYS = ["linear", "matmul", "channels last", "same", "overlap", "padded", "pixels", "registers", ""]


def patches(way):
    model = randomized(Patches(way))
    model.batch.running_mean.normal_()
    model.batch.running_var.uniform_(0.5, 2)
    return model, (1, 24, 16, 3) if way == "channels last" else (1, 3, 24, 16)


@pytest.mark.parametrize(
    ("way", "exported"), [*((way, False) for way in WAYS), ("linear", True), ("", True)]
)
def test_projections_in_many_ways(way, exported, ct, tmp_path):
    model, shape = patches(way)
    path = saved(ct, model, tmp_path / "m.mlpackage", shape, exported)
    images = images_of(shape)
    assert apart(path, model, images) < BOUND
    if way in REFUSED:
        with pytest.raises(PatchParityError, match=REFUSED[way]):
            embed(path, images)
        return
    with torch.no_grad():
        theirs = model(torch.from_numpy(images)).numpy()
    pixels = images.transpose(0, 3, 1, 2) if way == "channels last" else images
    theirs = theirs.transpose(0, 2, 3, 1) if way == "same" else theirs
    ours = embed(path, pixels)
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=BOUND)


REFUSED = {"padded": "padding that is not the same on both sides is not read"}


@pytest.mark.parametrize("target", ["iOS15", "iOS17", "iOS18"])
def test_versions_of_the_program(target, ct, tmp_path):
    model, shape = patches("")
    target = getattr(ct.target, target)
    path = saved(ct, model, tmp_path / "m.mlpackage", shape, minimum_deployment_target=target)
    assert apart(path, model, images_of(shape)) < BOUND


def test_open_extents(ct, tmp_path):
    model, _ = patches("positions")
    shape = ct.Shape((ct.RangeDim(1, 8, default=1), 3, 24, 16))
    path = saved(
        ct,
        model,
        tmp_path / "m.mlpackage",
        (2, 3, 24, 16),
        inputs=[ct.TensorType(name="x", shape=shape)],
    )
    assert read_coreml(path).graph.inputs == {"x": (None, 3, 24, 16)}
    assert apart(path, model, images_of((3, 3, 24, 16))) < BOUND


def test_pictures_are_told_and_their_scale_is_in_the_graph(ct, tmp_path):
    model, shape = patches("")
    bias = [-0.4, -0.5, -0.6]
    picture = ct.ImageType(
        name="x", shape=shape, scale=1 / 64, bias=bias, color_layout=ct.colorlayout.BGR
    )
    path = saved(ct, model, tmp_path / "m.mlpackage", shape, inputs=[picture])
    graph = read_coreml(path).graph
    assert "picture of BGR values" in " ".join(graph.notes)
    assert [node.op for node in graph.nodes[:3]] == ["Mul", "Add", "Conv"]
    images = images_of(shape)
    (ours,) = onnx_of(graph).run(None, {"x": images})
    with torch.no_grad():
        given = images / 64 + np.array(bias, np.float32).reshape(1, 3, 1, 1)
        theirs = model(torch.from_numpy(given)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=BOUND)


def test_the_function_that_runs_where_none_is_named(ct, packages, tmp_path):
    _, shape = patches("")
    shifted = randomized(Patches(""))
    with torch.no_grad():
        shifted.positions.add_(1)
    target = ct.target.iOS18
    other = saved(ct, shifted, tmp_path / "o.mlpackage", shape, minimum_deployment_target=target)
    held = ct.utils.MultiFunctionDescriptor()
    held.add_function(str(packages["iOS18"]), "main", "first")
    held.add_function(str(other), "main", "second")
    held.default_function_name = "second"
    with contextlib.redirect_stderr(io.StringIO()):
        ct.utils.save_multifunction(held, str(tmp_path / "m.mlpackage"))
    images = images_of(shape)
    with torch.no_grad():
        theirs = shifted(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embed(tmp_path / "m.mlpackage", images), theirs, atol=BOUND)


def test_halves_are_told(ct, tmp_path):
    model, shape = patches("")
    graph = read_coreml(saved(ct, model, tmp_path / "m.mlpackage", shape, half=True)).graph
    kernel = next(held for held in graph.constants.values() if held.info.shape == (20, 3, 4, 8))
    assert kernel.told == "float16, as its writer chose"
    wanted = model.conv.weight.detach().numpy().astype(np.float16)
    assert kernel.read().tobytes() == wanted.tobytes()


COMPRESSED = ["linear", "asymmetric", "blockwise", "int4", "palette", "groups", "sparse"]


@pytest.fixture(scope="module")
def packages(ct, tmp_path_factory):
    """One of each of the versions that compress weights in ways of their own."""
    model, shape = patches("")
    folder = tmp_path_factory.mktemp("versions")
    return {
        name: saved(
            ct,
            model,
            folder / f"{name}.mlpackage",
            shape,
            minimum_deployment_target=getattr(ct.target, name),
        )
        for name in ("iOS16", "iOS18")
    }


def compressed(ct, path, new, kind):
    """A copy whose weights coremltools has compressed."""
    opt = ct.optimize.coreml
    loaded = ct.models.MLModel(str(path), skip_model_load=True)
    least = {"weight_threshold": 10}
    linear, palette = opt.OpLinearQuantizerConfig, opt.OpPalettizerConfig
    how = {
        "linear": (opt.linear_quantize_weights, linear(mode="linear_symmetric", **least)),
        "asymmetric": (opt.linear_quantize_weights, linear(mode="linear", dtype="uint8", **least)),
        "blockwise": (
            opt.linear_quantize_weights,
            linear(granularity="per_block", block_size=3, **least),
        ),
        "int4": (
            opt.linear_quantize_weights,
            linear(dtype="int4", granularity="per_channel", **least),
        ),
        "palette": (opt.palettize_weights, palette(nbits=4, mode="uniform", **least)),
        "groups": (
            opt.palettize_weights,
            palette(
                nbits=3,
                mode="uniform",
                granularity="per_grouped_channel",
                group_size=4,
                **least,
            ),
        ),
        "sparse": (
            opt.prune_weights,
            opt.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=10),
        ),
    }
    function, config = how[kind]
    smaller = function(loaded, opt.OptimizationConfig(global_config=config))
    smaller.save(str(new))
    return new


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_weights_are_expanded_as_coremltools_does(kind, target, ct, packages, tmp_path):
    if target == "iOS16" and kind in ("blockwise", "int4", "groups"):
        pytest.skip("of iOS 18")
    with contextlib.redirect_stderr(io.StringIO()):
        path = compressed(ct, packages[target], tmp_path / "c.mlpackage", kind)
        whole = ct.optimize.coreml.decompress_weights(
            ct.models.MLModel(str(path), skip_model_load=True)
        )
        whole_path = tmp_path / "w.mlpackage"
        whole.save(str(whole_path))
    of_shape = {
        name: [
            held
            for held in read_coreml(tmp_path / file).graph.constants.values()
            if held.info.shape == (20, 3, 4, 8) and held.info.dtype == "float32"
        ]
        for name, file in (("ours", "c.mlpackage"), ("theirs", "w.mlpackage"))
    }
    (ours,), (theirs,) = of_shape["ours"], of_shape["theirs"]
    assert ours.told.startswith("dequantized by constexpr_")
    assert not theirs.told
    np.testing.assert_allclose(ours.read(), theirs.read(), rtol=1e-6, atol=1e-7)
    images = images_of((1, 3, 24, 16))
    np.testing.assert_allclose(embed(path, images), embed(whole_path, images), atol=1e-5)
    assert "dequantized by constexpr_" in str(inspect_checkpoint(path)["candidates"])


def test_older_kinds_are_called_what_they_are(ct, tmp_path):
    model, shape = patches("")
    with contextlib.redirect_stderr(io.StringIO()):
        old = ct.convert(
            torch.jit.trace(model, torch.zeros(shape)),
            inputs=[ct.TensorType(name="x", shape=shape)],
            convert_to="neuralnetwork",
            minimum_deployment_target=ct.target.iOS14,
        )
        old.save(str(tmp_path / "m.mlmodel"))
    with pytest.raises(PatchParityError, match="a neural network of before CoreML's programs"):
        read_coreml(tmp_path / "m.mlmodel")


@pytest.fixture(scope="module")
def package(ct, tmp_path_factory):
    model, shape = patches("")
    return saved(ct, model, tmp_path_factory.mktemp("coreml") / "m.mlpackage", shape)


MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"


def read_all(path):
    for constant in read_coreml(path).graph.constants.values():
        try:
            constant.read()
        except ValueError as error:  # what a checkpoint tells with its path
            raise PatchParityError(str(error)) from None


def manifest_with(path):
    entry = {"path": path, "name": "model.mlmodel", "author": "com.apple.CoreML"}
    return json.dumps({"itemInfoEntries": {"a": entry}, "rootModelIdentifier": "a"}).encode()


def record_with(number, value, kind="<Q"):
    """A change of the first record of a file of weights."""

    def change(content):
        return (
            content[: 64 + number]
            + struct.pack(kind, value)
            + content[64 + number + struct.calcsize(kind) :]
        )

    return change


@pytest.mark.parametrize(
    ("file", "change", "told"),
    [
        ("Manifest.json", lambda c: manifest_with("../../outside.mlmodel"), "leads out of it"),
        ("Manifest.json", lambda c: manifest_with("/etc/passwd"), "leads out of it"),
        ("Manifest.json", lambda c: manifest_with("com.apple.CoreML/no.mlmodel"), "lacks"),
        ("Manifest.json", lambda c: b"[" * 10**5, "tells no model"),
        ("Manifest.json", lambda c: b"{}", "tells no model"),
        (MODEL, lambda c: b"", "a kind without layers"),
        (MODEL, lambda c: c[:-7], "damaged or hostile"),
        (
            MODEL,
            lambda c: c.replace(b"@model_path/weights/", b"@model_path/../..///"),
            "leads out",
        ),
        (
            MODEL,
            lambda c: c.replace(b"@model_path/weights/", b"/odel_path_/weights/"),
            "no file of",
        ),
        (WEIGHTS, lambda c: c[:100], "has no record"),
        (WEIGHTS, lambda c: b"\1\0\0\0\7\0\0\0" + c[8:], "no file of weights of version 2"),
        (WEIGHTS, record_with(0, 7, "<I"), "has a record of type"),
        (WEIGHTS, record_with(4, 4, "<I"), "has a record of type int8"),
        (WEIGHTS, record_with(8, 2**50), "bytes are needed|are needed"),
        (WEIGHTS, record_with(16, 2**50), "are needed"),
    ],
)
def test_damaged_packages(file, change, told, package, tmp_path):
    bad = tmp_path / "bad.mlpackage"
    shutil.copytree(package, bad)
    content = change((bad / file).read_bytes())
    (bad / file).write_bytes(content)
    with pytest.raises(PatchParityError, match=told):
        read_all(bad)


def test_a_link_out_of_a_package_is_not_followed(package, tmp_path):
    bad = tmp_path / "bad.mlpackage"
    shutil.copytree(package, bad)
    (bad / WEIGHTS).rename(tmp_path / "weight.bin")
    (bad / WEIGHTS).symlink_to(tmp_path / "weight.bin")
    with pytest.raises(PatchParityError, match="leads out of it"):
        read_all(bad)
