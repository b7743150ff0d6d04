"""TFLite files, written by TensorFlow's converter from Keras models and functions: the stage is
held against Keras's own weights and tokens."""

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest

from patchparity import PatchParityError, embed, inspect_checkpoint
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.files.opening import opened

from .tflite_writing import D, converted, drawn, tf, vit, written

litert = pytest.importorskip("ai_edge_litert.interpreter")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

NEAR = 1e-5
"""Largest difference, as a part of the largest value: λ√K·u of K = 240 products is 4·16·2⁻²⁴ =
3.7e-6 of the sum of their sizes (reference/error.py), which is not three times the largest."""

draw = np.random.default_rng(7)


def stage_of(path):
    with opened(path) as checkpoint:
        stage = read_stage(checkpoint)
        return stage, dict(checkpoint.told)


def of_keras(model):
    """Kernel `(D, Ph, Pw, C)` or `(D, K)`, bias, table and class token of a model."""
    kernel, bias = model.get_layer("patch").get_weights()
    table, *first = model.get_layer("sequence").get_weights()
    return np.moveaxis(kernel, -1, 0), bias, table[0], (first[0][0, 0] if first else None)


def read(path):
    """The same of a file."""
    with opened(path) as checkpoint:
        checkpoint.for_images()
        names = checkpoint.tensors
        return [
            checkpoint.read(name) if name in names else None
            for name in ("kernel", "bias", "positions", "class_token")
        ]


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("channels", "token"), [(3, True), (1, False), (5, True), (2, False)])
def test_the_stage_is_that_of_the_keras_model(linear, channels, token, tmp_path):
    model, tokens = vit(channels=channels, linear=linear, token=token)
    path = written(tmp_path, converted(model))
    kernel, bias, table, first = of_keras(model)
    found = read(path)
    assert np.array_equal(found[0].reshape(kernel.shape), kernel)
    if linear and not token:  # the converter adds both beforehand
        assert found[1] is None
        assert np.array_equal(found[2], bias + table)
    else:
        assert np.array_equal(found[1], bias)
        assert np.array_equal(found[2], table)
    assert (first is None and found[3] is None) or np.array_equal(found[3], first)
    images = draw.standard_normal((2, channels, 12, 20)).astype(np.float32)
    expected = np.asarray(tokens(np.moveaxis(images, 1, -1)))
    assert np.abs(embed(path, images) - expected).max() < NEAR * np.abs(expected).max()


def test_float16_is_read_and_told(tmp_path):
    model, _ = vit()
    path = written(tmp_path, converted(model, "float16"))
    for found, kept in zip(read(path), of_keras(model), strict=True):
        assert np.array_equal(
            found, kept.astype(np.float16).astype(np.float32).reshape(found.shape)
        )
    told = stage_of(path)[1]
    assert all("float16" in told[name] for name in ("kernel", "bias", "positions", "class_token"))


def own_numbers(content, shape):
    """A quantized constant of that shape as LiteRT gives it, as real numbers."""
    interpreter = litert.Interpreter(model_content=content)
    for detail in interpreter.get_tensor_details():
        if tuple(detail["shape"]) == shape and detail["dtype"] == np.int8:
            values, how = interpreter.get_tensor(detail["index"]), detail["quantization_parameters"]
            along = [1] * values.ndim
            along[how["quantized_dimension"]] = -1
            if len(how["scales"]) == 1:
                along = []
            zeros = how["zero_points"].reshape(along).astype(np.float32)
            return (values.astype(np.float32) - zeros) * how["scales"].reshape(along)
    raise AssertionError("no such constant")


@pytest.mark.parametrize("linear", [False, True])
def test_dynamic_range_is_multiplied_out_and_told(linear, tmp_path):
    model, _ = vit(width=96, linear=linear)
    content = converted(model, "dynamic")
    path = written(tmp_path, content)
    found, told = read(path), stage_of(path)[1]
    expected = own_numbers(content, (96, 60) if linear else (96, 4, 5, 3))
    assert np.array_equal(found[0].reshape(expected.shape), expected)
    assert "dequantized from int8, a scale for each of 96 channels" in told["kernel"]
    assert "int8" not in told["positions"]
    assert np.array_equal(found[2], of_keras(model)[2])


def test_full_integers_are_multiplied_out_and_activations_told(tmp_path):
    model, tokens = vit(width=24)
    content = converted(model, "int8")
    path = written(tmp_path, content)
    found, told = read(path), stage_of(path)[1]
    assert np.array_equal(found[0], own_numbers(content, (24, 4, 5, 3)))
    assert np.array_equal(found[2], own_numbers(content, (1, 13, 24))[0])
    assert "dequantized from int32" in told["bias"]
    assert "rounded to int8 between operators" in told["kernel"]
    images = draw.standard_normal((2, 3, 12, 20)).astype(np.float32)
    expected = np.asarray(tokens(np.moveaxis(images, 1, -1)))
    assert np.abs(embed(path, images) - expected).max() < 0.05 * np.abs(expected).max()


def test_images_of_integers_are_told(tmp_path):
    model, _ = vit(width=24)
    content = converted(model, "int8", inference_input_type=tf.int8)
    told = stage_of(written(tmp_path, content))[1]["kernel"]
    assert "is int8, which stands for scale · (integer − zero point)" in told
    assert "rounded to int8 between operators" in told


def test_a_function_of_jax(tmp_path):
    jax = pytest.importorskip("jax")
    kernel, table = (draw.standard_normal(s).astype(np.float32) for s in ((4, 5, 3, 24), (12, 24)))
    block = draw.standard_normal((24, 24)).astype(np.float32)

    def model(images):
        numbers = ("NHWC", "HWIO", "NHWC")
        tokens = jax.lax.conv_general_dilated(images, kernel, (4, 5), "VALID", None, None, numbers)
        rows = tokens.reshape(2, 12, 24) + table
        return rows + (rows - rows.mean(-1, keepdims=True)) @ block

    images = jax.numpy.zeros((2, 12, 20, 3))
    converter = tf.lite.TFLiteConverter.experimental_from_jax([model], [[("images", images)]])
    found = read(written(tmp_path, converter.convert()))
    assert np.array_equal(found[0], np.moveaxis(kernel, -1, 0))
    assert np.array_equal(found[2], table)


def test_a_model_of_keras_hub(tmp_path):
    keras_hub = pytest.importorskip("keras_hub")
    model = keras_hub.models.ViTBackbone(
        image_shape=(12, 20, 3),
        patch_size=(4, 5),
        num_layers=1,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=32,
    )
    for weight in model.weights:
        weight.assign(0.3 * draw.standard_normal(weight.shape))
    path = written(tmp_path, converted(model))
    images = draw.standard_normal((2, 3, 12, 20)).astype(np.float32)
    layer = next(each for each in model.layers if "embedding" in each.name)
    expected = np.asarray(layer(np.moveaxis(images, 1, -1)))
    assert np.abs(embed(path, images) - expected).max() < NEAR * np.abs(expected).max()


def test_values_behind_the_tables(tmp_path):
    model, _ = vit()
    path = written(tmp_path, converted(model, _experimental_use_buffer_offset=True))
    assert any(
        buffer.offset > 1
        for buffer in schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).buffers
    )
    assert np.array_equal(read(path)[0], of_keras(model)[0])


@pytest.fixture(scope="module")
def plain():
    return converted(vit(token=False)[0])


@pytest.fixture(scope="module")
def quantized():
    return converted(vit(width=96)[0], "dynamic")


def changed(content, change):
    """A file of the same tables, but for a change, as LiteRT's own schema writes them."""
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_only_the_stage_is_read(plain, tmp_path):
    def change(model):
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.zeros(2**27, np.uint8)
        tensor.name, tensor.shape = "head", np.array([2**25], np.int32)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
        model.subgraphs[0].tensors.append(tensor)

    path = written(tmp_path, changed(plain, change))
    assert path.stat().st_size > 2**27
    stage_of(path)  # imports
    tracemalloc.start()
    stage_of(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * 2**20


def test_the_name_of_a_file_does_not_matter(plain, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(plain)
    assert inspect_checkpoint(path)["format"] == "tflite"
    assert stage_of(path)[0].weights.kernel.shape[0] == 16


def _of_kernel(model):
    return next(
        t for t in model.subgraphs[0].tensors if list(t.shape) in ([96, 4, 5, 3], [16, 4, 5, 3])
    )


def _without_scales(model):
    _of_kernel(model).quantization = None


def _too_few_scales(model):
    how = _of_kernel(model).quantization
    how.scale, how.zeroPoint = how.scale[:7], how.zeroPoint[:7]


def _endless_scale(model):
    _of_kernel(model).quantization.scale = np.full(96, np.inf, np.float32)


def _wide_zero(model):
    _of_kernel(model).quantization.zeroPoint = np.full(96, 300, np.int64)


def _sparse(model):
    _of_kernel(model).sparsity = schema.SparsityParametersT()


def _elsewhere(model):
    kernel = _of_kernel(model)
    kernel.externalBuffer, kernel.buffer = 3, 0


def _other_shape(model):
    _of_kernel(model).shape = np.array([16, 4, 5, 4], np.int32)


def _version(model):
    model.version = 2


def _no_graph(model):
    model.subgraphs = []


def _tensor_of_none(model):
    model.subgraphs[0].operators[0].inputs = [0, 9999]


def _buffer_of_none(model):
    _of_kernel(model).buffer = 9999


def _operator_of_none(model):
    model.subgraphs[0].operators[0].opcodeIndex = 99


def _twice(model):
    operators = model.subgraphs[0].operators
    operators[1].outputs = operators[0].outputs


def _unmade(model):
    operators = model.subgraphs[0].operators
    operators[0].inputs = [operators[-1].outputs[0], *operators[0].inputs[1:]]


def _signatures(model):
    model.signatureDefs[0].signatureKey = "one"
    second = schema.SignatureDefT()
    second.signatureKey, second.subgraphIndex = "two", 1
    second.inputs = second.outputs = []
    model.signatureDefs.append(second)
    model.subgraphs.append(model.subgraphs[0])


def _signature_of_none(model):
    model.signatureDefs[0].subgraphIndex = 5


def _other_options(model):
    model.subgraphs[0].operators[0].builtinOptionsType = schema.BuiltinOptions.AddOptions


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        (_without_scales, "quantized", "is of int8 without a scale that is read"),
        (_too_few_scales, "quantized", "has 7 scales along axis 0"),
        (_endless_scale, "quantized", "has a scale that is no number"),
        (_wide_zero, "quantized", r"has the zero points \[300, 300"),
        (_sparse, "plain", "is kept sparse, which is not read"),
        (_elsewhere, "plain", "lies in another file, which is not read"),
        (_other_shape, "plain", r"of shape \(16, 4, 5, 4\) and type float32 has 3840 bytes"),
        (_version, "plain", "is a TFLite file of version 2, expected 3"),
        (_no_graph, "plain", "it holds no graph"),
        (_tensor_of_none, "plain", "a tensor of a number that is none of"),
        (_buffer_of_none, "plain", "has its values in buffer 9999 of"),
        (_operator_of_none, "plain", "an operator of kind 99 of"),
        (_twice, "plain", "is made twice"),
        (_unmade, "plain", "which nothing has made"),
        (_signatures, "plain", r"several signatures that take images \(one, two\)"),
        (_signature_of_none, "plain", "a signature is of a graph that is not there"),
        (_other_options, "plain", "has the options of another operator"),
    ],
)
def test_what_cannot_be_read_is_refused(change, kind, reason, request, tmp_path):
    path = written(tmp_path, changed(request.getfixturevalue(kind), change))
    with pytest.raises(PatchParityError, match=reason):
        embed(path, np.zeros((1, 3, 12, 20), np.float32))


def test_the_signature_that_serves_is_read(plain, tmp_path):
    def change(model):
        _signatures(model)
        model.signatureDefs[1].signatureKey = "serving_default"

    path = written(tmp_path, changed(plain, change))
    assert "serving_default was read, and one was not" in stage_of(path)[1]["kernel"]


def test_tables_that_lead_nowhere(plain, tmp_path):
    for at in (0, 4 * 5, struct.unpack("<I", plain[:4])[0]):
        for number in (2**32 - 1, 2**31, len(plain) - 2, 0):
            broken = bytearray(plain)
            broken[at : at + 4] = struct.pack("<I", number)
            broken[4:8] = b"TFL3"
            with contextlib.suppress(PatchParityError):  # and never another error
                stage_of(written(tmp_path, bytes(broken)))


def test_variables_that_the_file_does_not_hold(tmp_path):
    model, _ = vit()
    content = converted(lambda x: model(x), shape=(2, 12, 20, 3), holder=model)
    path = written(tmp_path, content)
    with pytest.raises(
        PatchParityError, match="reads its weights from variables, which are not in the file"
    ):
        stage_of(path)


def test_an_operator_of_somebody_else(tmp_path):
    def patches(x):
        sides = [1, 4, 5, 1]
        cut = tf.image.extract_patches(x, sides, sides, [1, 1, 1, 1], "VALID")
        return tf.reshape(cut, [-1, 12, 60]) @ drawn(60, D)

    kinds = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    content = converted(
        patches, shape=(1, 12, 20, 3), target_spec=tf.lite.TargetSpec(supported_ops=kinds)
    )
    with pytest.raises(PatchParityError, match=r"meets tflite\.CUSTOM\.FlexExtractImagePatches"):
        stage_of(written(tmp_path, content))


def test_an_activation_within_an_operator_is_none_of_a_stage(tmp_path):
    def stem(x):
        return tf.nn.relu(tf.nn.conv2d(x, drawn(4, 5, 3, D), [4, 5], "VALID") + drawn(D))

    content = converted(stem, shape=(1, 12, 20, 3))
    code = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0].operators
    assert len(code) == 1
    with pytest.raises(PatchParityError, match="Relu"):
        stage_of(written(tmp_path, content))
