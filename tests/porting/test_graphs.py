"""Graphs made by hand, in ONNX's words: what an image passes, told by indices alone."""

import re
from pathlib import Path

import numpy as np
import pytest

from patchparity import PatchParityError
from patchparity.porting.dialects.stage import read_stage
from patchparity.porting.embed import require_normalized
from patchparity.porting.files.checkpoint import TensorInfo
from patchparity.porting.files.graphs.checkpoint import GraphCheckpoint
from patchparity.porting.files.graphs.graph import Constant, Graph, Node
from patchparity.porting.files.graphs.moves import NotRun, move
from patchparity.porting.files.graphs.operators import compute
from patchparity.porting.files.graphs.patches import find_patches, same_pads, windows

DRAW = np.random.default_rng(3)
D = 10


class Made(GraphCheckpoint):
    format = "made"


def rows(*shape):
    return DRAW.standard_normal(shape).astype(np.float32)


def constants(**arrays):
    return {
        name: Constant(TensorInfo(array.shape, array.dtype.name), lambda array=array: array)
        for name, array in arrays.items()
    }


BLOCK = (
    Node("LayerNormalization", ("tokens", "gain"), ("normed",)),
    Node("MatMul", ("normed", "mix"), ("mixed",)),
    Node("Add", ("tokens", "mixed"), ("out",)),
)
"""A block that begins at `tokens`."""


def graph_of(*nodes, shape=(1, 3, 8, 15), block=BLOCK, **arrays):
    given = {"gain": rows(D), "mix": rows(D, D), **arrays}
    return Graph({"image": shape}, (*nodes, *block), constants(**given), ("out",))


def stage_of(graph, **how):
    return read_stage(Made(Path("made.graph"), graph), **how)


def conv(*more, stride=(4, 5)):
    """A convolution, and its map flattened to tokens."""
    return (
        Node("Conv", ("image", "kernel", "bias"), ("map",), {"strides": list(stride)}),
        Node("Reshape", ("map", "flat"), ("columns",)),
        Node("Transpose", ("columns",), ("rows" if more else "tokens",), {"perm": [0, 2, 1]}),
        *more,
    )


FLAT = np.array([1, D, -1])


def test_a_convolution_with_a_bias():
    kernel, bias = rows(D, 3, 4, 5), rows(D)
    stage = stage_of(graph_of(*conv(), kernel=kernel, bias=bias, flat=FLAT))
    np.testing.assert_array_equal(stage.weights.kernel, kernel.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(stage.weights.bias, bias)
    assert stage.spec.grid == (2, 3)
    assert stage.spec.image_size == (8, 15)


def test_a_constant_of_the_graph_may_have_the_name_of_a_role():
    graph = graph_of(*conv(), kernel=rows(D, 3, 4, 5), bias=rows(D), flat=FLAT)
    checkpoint = Made(Path("made.graph"), graph)
    read_stage(checkpoint)
    assert checkpoint.tensors["kernel"].shape == (D, 4, 5, 3)
    assert checkpoint.tensors["constant kernel"].shape == (D, 3, 4, 5)
    np.testing.assert_array_equal(
        checkpoint.read("constant kernel"), graph.constants["kernel"].read()
    )


def test_positions_in_two_parts_of_one_table():
    """As ViTMAE: the table's first row is added to the class token, the others to patches."""
    table, token, kernel = rows(1, 7, D), rows(1, 1, D), rows(D, 3, 4, 5)
    ends = {"one": np.array([1]), "zero": np.array([0]), "all": np.array([99])}
    nodes = conv(
        Node("Slice", ("table", "zero", "one", "one"), ("first",)),
        Node("Slice", ("table", "one", "all", "one"), ("others",)),
        Node("Add", ("rows", "others"), ("placed",)),
        Node("Add", ("token", "first"), ("class",)),
        Node("Concat", ("class", "placed"), ("tokens",), {"axis": 1}),
    )
    stage = stage_of(
        graph_of(*nodes, kernel=kernel, bias=rows(D), flat=FLAT, table=table, token=token, **ends)
    )
    weights = stage.weights
    # the sum is the graph's own constant, and the rows of patches are the table's
    np.testing.assert_array_equal(weights.positions[-6:], table[0, 1:])
    first = weights.class_token + (weights.positions[0] if len(weights.positions) > 6 else 0)
    np.testing.assert_allclose(first, token[0, 0] + table[0, 0], rtol=1e-6)


def test_what_is_added_to_every_token_alike_is_a_bias():
    """As ViLT's type of modality: to the class token too."""
    kind, token, bias = rows(D), rows(1, 1, D), rows(D)
    nodes = conv(
        Node("Concat", ("token", "rows"), ("all",), {"axis": 1}),
        Node("Add", ("all", "kind"), ("tokens",)),
    )
    stage = stage_of(
        graph_of(*nodes, kernel=rows(D, 3, 4, 5), bias=bias, flat=FLAT, kind=kind, token=token)
    )
    np.testing.assert_allclose(stage.weights.bias, bias + kind, rtol=1e-6)
    np.testing.assert_allclose(stage.weights.class_token, token[0, 0] + kind, rtol=1e-6)
    assert stage.weights.positions is None


def test_a_token_of_another_name_is_what_its_name_says():
    names = {"cls": rows(1, 1, D), "distillation": rows(1, 1, D), "registers": rows(1, 3, D)}
    nodes = conv(
        Node("Concat", ("cls", "distillation", "registers", "rows"), ("tokens",), {"axis": 1})
    )
    given = dict(kernel=rows(D, 3, 4, 5), bias=rows(D), flat=FLAT)
    weights = stage_of(graph_of(*nodes, **given, **names)).weights
    np.testing.assert_array_equal(weights.class_token, names["cls"][0, 0])
    np.testing.assert_array_equal(weights.distillation_token, names["distillation"][0, 0])
    np.testing.assert_array_equal(weights.register_tokens, names["registers"][0])


def refused(nodes, message, **arrays):
    given = dict(kernel=rows(D, 3, 4, 5), bias=rows(D), flat=FLAT)
    with pytest.raises(PatchParityError, match=message):
        stage_of(graph_of(*nodes, **{**given, **arrays}))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node("Gather", ("rows", "some"), ("tokens",), {"axis": 1})], "4 tokens of 6 patches"),
        ([Node("Gather", ("rows", "turned"), ("tokens",), {"axis": 1})], "another order than row"),
        ([Node("Gather", ("rows", "channels"), ("tokens",), {"axis": 2})], "none of whose axes"),
        ([Node("Add", ("rows", "noise"), ("tokens",))], "'noise', which no constant"),
        ([Node("Mul", ("rows", "each"), ("tokens",))], "differ from patch to patch"),
        ([Node("Sigmoid", ("rows",), ("tokens",))], "Sigmoid alone"),
        ([Node("my.Own", ("rows",), ("tokens",))], "my.Own alone"),
    ],
)
def test_what_is_done_to_tokens_and_is_not_read(nodes, message):
    refused(
        conv(*nodes),
        message,
        some=np.array([0, 1, 2, 3]),
        turned=np.array([5, 4, 3, 2, 1, 0]),
        channels=np.arange(D)[::-1].copy(),
        each=rows(6, 1),
    )


def test_an_unknown_norm_is_no_beginning_of_a_block():
    """Operators of a norm that none of ours is: the variance by one less."""
    nodes = conv(
        Node("ReduceMean", ("rows", "last"), ("mean",)),
        Node("Sub", ("rows", "mean"), ("rest",)),
        Node("Mul", ("rest", "rest"), ("squares",)),
        Node("ReduceMean", ("squares", "last"), ("variance",)),
        Node("Mul", ("variance", "unbiased"), ("more",)),
        Node("Add", ("more", "small"), ("above",)),
        Node("Sqrt", ("above",), ("root",)),
        Node("Div", ("rest", "root"), ("tokens",)),
    )
    small, one = np.float32(1e-6).reshape(()), np.float32(D / (D - 1)).reshape(())
    given = dict(last=np.array([-1]), small=small)
    refused(nodes, "no block with a residual sum", unbiased=one, **given)
    stage = stage_of(
        graph_of(
            *nodes,
            kernel=rows(D, 3, 4, 5),
            bias=rows(D),
            flat=FLAT,
            unbiased=np.ones((), np.float32),
            **given,
        )
    )
    assert stage.weights.token_norm is not None
    assert stage.weights.layout.norm_epsilon == 1e-6


def test_half_of_a_block_is_no_block():
    block = (
        Node("Sigmoid", ("tokens",), ("gate",)),
        Node("Mul", ("tokens", "gate"), ("out",)),
    )
    given = dict(kernel=rows(D, 3, 4, 5), bias=rows(D), flat=FLAT)
    with pytest.raises(PatchParityError, match="Sigmoid and Mul"):
        stage_of(graph_of(*conv(), block=block, **given))


def test_a_graph_may_end_at_the_tokens():
    kernel = rows(D, 3, 4, 5)
    graph = Graph(
        {"image": (1, 3, 8, 15)},
        conv(),
        constants(kernel=kernel, bias=rows(D), flat=FLAT),
        ("tokens",),
    )
    assert stage_of(graph).spec.grid == (2, 3)


@pytest.mark.parametrize("order", ["ppc", "cpp", "pcp"])
def test_rows_of_a_matrix_in_any_order(order):
    axes = {"ppc": (0, 2, 4, 3, 5, 1), "cpp": (0, 2, 4, 1, 3, 5), "pcp": (0, 2, 4, 3, 1, 5)}[order]
    matrix = rows(60, D)
    nodes = (
        Node("Reshape", ("image", "cut"), ("pieces",)),
        Node("Transpose", ("pieces",), ("turned",), {"perm": list(axes)}),
        Node("Reshape", ("turned", "flat"), ("patches",)),
        Node("MatMul", ("patches", "matrix"), ("tokens",)),
    )
    cut, flat = np.array([1, 3, 2, 4, 3, 5]), np.array([1, 6, 60])
    stage = stage_of(graph_of(*nodes, matrix=matrix, cut=cut, flat=flat))
    inner = {"ppc": (4, 5, 3), "cpp": (3, 4, 5), "pcp": (4, 3, 5)}[order]
    back = {"ppc": (3, 0, 1, 2), "cpp": (3, 1, 2, 0), "pcp": (3, 0, 2, 1)}[order]
    wanted = matrix.reshape(*inner, D).transpose(back)
    np.testing.assert_array_equal(stage.weights.kernel, wanted)


def test_channels_last_is_told():
    nodes = (
        Node("Transpose", ("image",), ("first",), {"perm": [0, 3, 1, 2]}),
        Node("Conv", ("first", "kernel"), ("map",), {"strides": [4, 5], "auto_pad": "VALID"}),
        Node("Transpose", ("map",), ("tokens",), {"perm": [0, 2, 3, 1]}),
    )
    kernel = rows(D, 3, 4, 5)
    stage = stage_of(graph_of(*nodes, shape=(1, 8, 15, 3), kernel=kernel))
    np.testing.assert_array_equal(stage.weights.kernel, kernel.transpose(0, 2, 3, 1))
    assert "channels at axis 3" in " ".join(stage.notes)


def test_video():
    nodes = (
        Node("Conv", ("image", "kernel"), ("map",), {"strides": [2, 4, 5]}),
        Node("Reshape", ("map", "flat"), ("columns",)),
        Node("Transpose", ("columns",), ("tokens",), {"perm": [0, 2, 1]}),
    )
    kernel = rows(D, 3, 2, 4, 5)
    stage = stage_of(graph_of(*nodes, shape=(1, 3, 6, 8, 15), kernel=kernel, flat=FLAT))
    assert stage.dialect.id == "graph-video"
    assert stage.spec.grid == (3, 2, 3)
    np.testing.assert_array_equal(stage.weights.kernel, kernel.transpose(0, 2, 3, 4, 1))


def test_no_picture_is_made_for_a_graph_that_normalizes_images():
    """It would be scaled to −1 … 1, and then once more."""
    kernel, bias, mean = rows(D, 3, 4, 5), rows(D), rows(3, 1, 1)
    plain = stage_of(graph_of(*conv(), kernel=kernel, bias=bias, flat=FLAT))
    require_normalized("photo.png", plain)
    first, *others = conv()
    normalized = (
        Node("Sub", ("image", "mean"), ("centered",)),
        Node("Conv", ("centered", *first.inputs[1:]), first.outputs, first.attributes),
        *others,
    )
    stage = stage_of(graph_of(*normalized, kernel=kernel, bias=bias, mean=mean, flat=FLAT))
    with pytest.raises(PatchParityError, match=r"photo\.png would be scaled .* normalizes images"):
        require_normalized("photo.png", stage)


@pytest.mark.parametrize("added", ["token", "positions"])
def test_a_layer_before_the_class_token_or_the_positions_is_no_block(added):
    """A sum of patches and of what a layer makes of them: the stage would end too early there."""
    last = {
        "token": Node("Concat", ("token", "both"), ("tokens",), {"axis": 1}),
        "positions": Node("Add", ("both", "positions"), ("tokens",)),
    }
    nodes = conv(
        Node("MatMul", ("rows", "early"), ("local",)),
        Node("Add", ("rows", "local"), ("both",)),
        last[added],
    )
    held = dict(kernel=rows(D, 3, 4, 5), bias=rows(D), flat=FLAT, early=rows(D, D))
    held[added] = rows(1, 1, D) if added == "token" else rows(1, 6, D)
    with pytest.raises(PatchParityError, match="where no block with a residual sum begins"):
        stage_of(graph_of(*nodes, **held))


@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_factor_behind_a_norm_is_not_left_out(op):
    """Nothing of a stage holds it: what enters the first block is another value."""
    nodes = (
        Node("Conv", ("image", "kernel"), ("map",), {"strides": [4, 5]}),
        Node("Reshape", ("map", "flat"), ("columns",)),
        Node("Transpose", ("columns",), ("rows",), {"perm": [0, 2, 1]}),
        Node("Concat", ("first", "rows"), ("sequence",), {"axis": 1}),
        Node("LayerNormalization", ("sequence", "gain", "offset"), ("scaled",), {"epsilon": 1e-5}),
        Node(op, ("scaled", "factor"), ("tokens",)),
    )
    held = dict(kernel=rows(D, 3, 4, 5), flat=FLAT, gain=rows(D), offset=rows(D))
    held |= dict(first=rows(1, 1, D))
    with pytest.raises(PatchParityError, match=rf"through {op} \(behind the norm"):
        stage_of(graph_of(*nodes, factor=rows(D), **held))


class TestPatches:
    """Which patches rows of pixels are."""

    SHAPE = (2, 3, 9, 14)

    def places(self):
        return np.arange(np.prod(self.SHAPE), dtype=np.int32).reshape(self.SHAPE)

    @pytest.mark.parametrize(
        ("kernel", "stride", "pad", "grid"),
        [((3, 4), (3, 4), 0, (3, 3)), ((5, 4), (2, 3), 2, (5, 5)), ((4, 3), (5, 4), 1, (2, 4))],
    )
    def test_of_a_convolution(self, kernel, stride, pad, grid):
        pads = ((pad, pad),) * 2
        cut, shape = windows(self.places(), kernel, stride, pads, (1, 1))
        found = find_patches(cut, self.SHAPE, None)
        assert (found.patch, found.stride, found.padding) == (kernel, stride, (pad, pad))
        assert found.grid == shape == grid
        assert found.channel_axis == 1
        np.testing.assert_array_equal(found.rows, np.arange(2 * np.prod(grid)))

    def test_padding_of_one_side_is_refused(self):
        cut, _ = windows(self.places(), (4, 4), (3, 4), ((0, 1), (0, 2)), (1, 1))
        with pytest.raises(NotRun, match="not the same on both sides"):
            find_patches(cut, self.SHAPE, None)

    def test_dilation_is_refused(self):
        cut, _ = windows(self.places(), (2, 2), (3, 4), ((0, 0),) * 2, (2, 2))
        with pytest.raises(NotRun, match="dilation"):
            find_patches(cut, self.SHAPE, None)

    def test_a_patch_that_is_another_one_is_refused(self):
        cut, _ = windows(self.places(), (3, 4), (3, 4), ((0, 0),) * 2, (1, 1))
        cut[4, 7] += 1
        with pytest.raises(NotRun, match="not all the same part"):
            find_patches(cut, self.SHAPE, None)

    def test_same_pads_are_tensorflow_s(self):
        assert same_pads((9, 14), (4, 4), (3, 4), True) == ((0, 1), (1, 1))
        assert same_pads((9, 14), (4, 4), (3, 4), False) == ((1, 0), (1, 1))


@pytest.mark.parametrize(
    ("op", "attributes", "arrays", "version"),
    [
        ("Squeeze", {"axes": [0, 2]}, [rows(1, 3, 1, 4)], 11),
        ("Squeeze", {}, [rows(1, 3, 1, 4), np.array([-2])], 18),
        ("Unsqueeze", {"axes": [1, -1]}, [rows(3, 4)], 11),
        ("Slice", {"starts": [1], "ends": [-1], "axes": [1]}, [rows(2, 5)], 9),
        ("Slice", {}, [rows(2, 5), np.array([-1]), np.array([-99]), np.array([1]), np.array([-2])],
         18),
        ("Slice", {}, [rows(7, 5), np.array([2, 1]), np.array([2**62, 4])], 18),
        ("Gather", {"axis": 1}, [rows(2, 5, 3), np.array([[0, -1], [2, 2]])], 18),
        ("Tile", {}, [rows(2, 3), np.array([2, 1])], 18),
        ("Expand", {}, [rows(3, 1), np.array([2, 1, 4])], 18),
        ("Pad", {"pads": [1, 0, 0, 2]}, [rows(2, 3)], 10),
        ("Pad", {"mode": "reflect"}, [rows(4, 5), np.array([1, 2, 0, 1])], 18),
        ("Pad", {}, [rows(4, 5), np.array([1, 2]), np.float32(7), np.array([1])], 18),
        ("SpaceToDepth", {"blocksize": 2}, [rows(1, 3, 4, 6)], 18),
        ("DepthToSpace", {"blocksize": 2}, [rows(1, 12, 2, 3)], 18),
        ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, [rows(1, 12, 2, 3)], 18),
        ("GatherND", {}, [rows(3, 4, 2), np.array([[0, 1], [2, 3]])], 18),
        ("GatherElements", {"axis": 1}, [rows(3, 4), np.array([[0, 3], [1, 1], [2, 0]])], 18),
        ("Div", {}, [np.array([7, -7, 7]), np.array([2, 2, -2])], 18),
        ("Range", {}, [np.array(3), np.array(11), np.array(4)], 18),
        ("ReduceMean", {"axes": [1], "keepdims": 0}, [rows(2, 5)], 13),
        ("ReduceL2", {}, [rows(2, 5), np.array([1])], 18),
        ("DequantizeLinear", {"axis": 0},
         [DRAW.integers(-99, 99, (3, 4)).astype(np.int8), abs(rows(3)), np.array([1, 2, 3], "i1")],
         19),
        ("QuantizeLinear", {}, [rows(3, 4) * 300, np.float32(0.7), np.int8(3)], 18),
        ("LayerNormalization", {"epsilon": 0.1}, [rows(2, 5), rows(5), rows(5)], 18),
        ("Clip", {}, [rows(3, 4), np.float32(-0.5), np.float32(0.25)], 18),
        ("Where", {}, [np.array([True, False]), rows(3, 2), rows(2)], 18),
        ("Resize", {"mode": "linear"},
         [rows(1, 2, 3, 4), None, None, np.array([1, 2, 5, 7])], 18),
        ("Resize", {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
         [rows(1, 2, 3, 4), None, np.array([1, 1, 2, 2], np.float32)], 18),
    ],
)  # fmt: skip
def test_operators_are_onnx_s_own(op, attributes, arrays, version):
    """Each is held against onnx's reference implementation."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
    given = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), None
        )
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    ]
    node = onnx.helper.make_node(op, names, ["o"], **attributes)
    out = onnx.ValueInfoProto(name="o")
    graph = onnx.helper.make_graph([node], "g", given, [out])
    opsets = [onnx.helper.make_opsetid("", version)]
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))
    feeds = {
        name: np.asarray(array)
        for name, array in zip(names, arrays, strict=True)
        if array is not None
    }
    (wanted,) = evaluator.run(None, feeds)
    ours = Node(op, tuple(names), ("o",), attributes, version)
    (found,) = compute(ours, [None if array is None else np.asarray(array) for array in arrays])
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "node",
    [
        (Node("Expand", ("a", "b"), ("c",)), [rows(1), np.array([2**40])]),
        (Node("Tile", ("a", "b"), ("c",)), [rows(4), np.array([2**40])]),
        (Node("ConstantOfShape", ("a",), ("c",)), [np.array([2**40])]),
        (Node("Range", ("a", "b", "d"), ("c",)), [np.array(0), np.array(2**40), np.array(1)]),
        (Node("Pad", ("a", "b"), ("c",)), [rows(2), np.array([2**40, 0])]),
        (Node("Reshape", ("a", "b"), ("c",)), [rows(6), np.array([-2, 3])]),
        (Node("MatMul", ("a", "b"), ("c",)), [rows(2**13, 1), rows(1, 2**13)]),
    ],
)  # fmt: skip
def test_what_would_take_too_much_is_not_run(node):
    with pytest.raises(NotRun):
        compute(*node)


def test_every_way_is_told_in_one_sentence():
    with pytest.raises(NotRun, match="Unheard, which is not run"):
        compute(Node("Unheard", ("a",), ("b",)), [rows(2)])
    with pytest.raises(NotRun) as error:
        move(Node("Reshape", ("a", "b"), ("c",)), [rows(6), np.array([4, 2])])
    assert re.fullmatch(r"ValueError: .*", str(error.value))
