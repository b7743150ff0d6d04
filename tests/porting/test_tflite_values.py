"""What is made of the operators of TFLite, held against LiteRT: every value of a file, computed by
both."""

import numpy as np
import pytest

from patchparity.porting.files.graphs.tflite_model import TfliteModel
from patchparity.porting.files.tflite_files import translate

from .graph_values import computed, foreign
from .tflite_writing import D, converted, drawn, tf, vit, written

litert = pytest.importorskip("ai_edge_litert.interpreter")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

NEAR = 1e-5
"""Largest difference, as a part of the largest value, at least of 1: λ√K·u of K = 240 products is
4·16·2⁻²⁴ = 3.7e-6 of the sum of their sizes (reference/error.py), which is not three times the
largest."""

draw = np.random.default_rng(7)


def _plain(x):
    return tf.nn.conv2d(x, drawn(4, 5, 3, D), [4, 5], "SAME") + drawn(D)


def _dilated(x):
    padded = tf.pad(x, [[0, 0], [1, 2], [3, 0], [0, 0]])
    return tf.nn.relu(tf.nn.conv2d(padded, drawn(4, 5, 3, D), [1, 1], "SAME", dilations=[2, 3]))


def _grouped(x):
    tokens = tf.nn.conv2d(x, drawn(4, 5, 1, D), [4, 5], "VALID")
    return tokens, tf.nn.depthwise_conv2d(x, drawn(4, 5, 3, 2), [1, 4, 4, 1], "SAME")


def _of_bytes(x):
    return tf.nn.relu6(_plain(tf.cast(x, tf.float32) * (1 / 127.5) - 1.0))


def _tubelets(x):
    tokens = tf.nn.conv3d(x, drawn(2, 4, 5, 3, D), [1, 2, 4, 5, 1], "SAME") + drawn(D)
    return tf.reshape(tokens, [-1, 2 * 3 * 5, D])


def _blocks(x):
    return tf.reshape(tf.nn.space_to_depth(x, 4), [-1, 15, 48]) @ drawn(48, D) + drawn(D)


def _einsum(x):
    cut = tf.reshape(x, [-1, 3, 4, 4, 5, 3])
    return tf.einsum("bhpwqc,pqcd->bhwd", cut, drawn(4, 5, 3, D)) + drawn(D)


def _table(x):
    places = tf.constant([3, 1, 0, 5, 6, 7, 8, 9, 10, 11, 12, 19])
    tokens = tf.reshape(_plain(x), [-1, 12, D])
    return tokens + tf.nn.embedding_lookup(drawn(20, D), places)


def _norms(x):
    x = (x / 255.0 - tf.constant([0.485, 0.456, 0.406])) / tf.constant([0.229, 0.224, 0.225])
    y = tf.reshape(_plain(x), [-1, 12, D])
    y = tf.concat([tf.tile(drawn(1, 1, D), [tf.shape(y)[0], 1, 1]), y], 1)
    y += tf.gather(drawn(1, 13, D), tf.range(13), axis=1)
    mean, variance = tf.nn.moments(y, -1, keepdims=True)
    return tf.nn.batch_normalization(y, mean, variance, drawn(D), drawn(D), 1e-5)


def _resized(x):
    larger = tf.image.resize(x, [31, 17])
    corners = tf.compat.v1.image.resize_bilinear(x, [5, 9], align_corners=True)
    return larger, corners, tf.compat.v1.image.resize_bilinear(x, [31, 17])


def _parts(x):
    y = tf.reshape(
        tf.nn.conv2d(x[:, :, ::-1][:, :-1, :20], drawn(4, 5, 3, D), [4, 5], "VALID"), [-1, 12, D]
    )
    before, behind = tf.split(y, [5, 7], 1)
    one, other = tf.split(y, 2, -1)
    rows = tf.unstack(y, axis=1)
    whole = tf.concat([before, tf.broadcast_to(drawn(5, D)[None], tf.shape(before)), behind], 1)
    mirrored = tf.pad(y, [[0, 0], [1, 1], [0, 0]], mode="REFLECT")
    filled = tf.pad(y, [[0, 0], [1, 1], [0, 0]], constant_values=2.0)
    stacked = tf.stack(rows[:3], 1)[:, None]
    return whole, one - other, stacked, tf.squeeze(y[:, 2:3], 1), mirrored, filled


FUNCTIONS = {
    "same": (_plain, (13, 22, 3)),
    "any size": (_plain, (None, None, 3)),
    "dilated": (_dilated, (13, 22, 3)),
    "grouped": (_grouped, (13, 22, 3)),
    "bytes": (_of_bytes, (13, 22, 3)),
    "tubelets": (_tubelets, (5, 12, 22, 3)),
    "blocks": (_blocks, (12, 20, 3)),
    "einsum": (_einsum, (12, 20, 3)),
    "table": (_table, (12, 20, 3)),
    "norms": (_norms, (12, 20, 3)),
    "resized": (_resized, (13, 22, 3)),
    "parts": (_parts, (13, 22, 3)),
}


def all_values(path, images=None):
    """All values of a file as LiteRT computes them, and as ONNX Runtime does what was made of
    it."""
    model = TfliteModel(path)
    graph, values = translate(model)
    interpreter = litert.Interpreter(
        str(path),
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    given = interpreter.get_input_details()[0]
    size = (2, 4, 15, 23, 3)
    extents = [size[at] if n < 0 else int(n) for at, n in enumerate(given["shape_signature"])]
    if len(extents) == 4 and extents[1] == 4:
        extents[1:3] = (15, 23)
    interpreter.resize_tensor_input(given["index"], extents)
    interpreter.allocate_tensors()
    images = draw.standard_normal(extents) if images is None else images
    if given["dtype"] == np.uint8:
        images = draw.integers(0, 255, extents)
    images = images.astype(given["dtype"])
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    own, behind = foreign(graph, "tflite.")
    made = {number for operator in model.operators for number in operator.outputs}
    names = {n: values[n] for n in made if values[n] not in behind | graph.inputs.keys()}
    found = computed(graph, sorted(set(names.values())), dict.fromkeys(graph.inputs, images))
    return own, [(interpreter.get_tensor(n), found[name]) for n, name in names.items()]


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_every_value_is_that_of_litert(name, tmp_path):
    function, shape = FUNCTIONS[name]
    batch = None if len(name) % 2 else 2
    kind = {"dtype": tf.uint8} if name == "bytes" else {}
    path = written(tmp_path, converted(function, shape=(batch, *shape), **kind))
    own, values = all_values(path)
    assert not own
    assert values
    for expected, found in values:
        assert found.shape == expected.shape
        difference = np.abs(found.astype(np.float64) - expected)
        assert difference.max(initial=0) <= NEAR * max(np.abs(expected).max(initial=0), 1)


@pytest.mark.parametrize("linear", [False, True])
def test_every_value_of_a_whole_model_is_that_of_litert(linear, tmp_path):
    own, values = all_values(written(tmp_path, converted(vit(linear=linear)[0])))
    assert not own
    assert len(values) > 70
    for expected, found in values:
        difference = np.abs(found.astype(np.float64) - expected)
        assert difference.max() <= NEAR * max(np.abs(expected).max(), 1)
