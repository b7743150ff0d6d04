"""The patch embedding as an ONNX graph: `Conv`, or reshape, transpose and `MatMul`, as exporters
write it.

ONNX Runtime runs it; the converters of other runtimes read it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .layouts import DENSE_CHANNELS_FIRST, OIHW, kernel_to_layout
from .patches import window_indices

OPSET = 17
"""Of the graphs: the first with everything in them. IR version 8 belongs to it, so that any ONNX
Runtime since 1.13 reads them."""
IR_VERSION = 8


class Graph:
    """An ONNX graph under construction: nodes in a row, each with one result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, array: NDArray[Any]) -> str:
        """Add an initializer, and return its name."""
        from onnx import numpy_helper

        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its result."""
        from onnx import helper

        result = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [result], **attributes))
        return result

    def model(self, inputs: dict[str, tuple[str, list[Any]]], result: str) -> bytes:
        """Serialize; `inputs` maps names to dtype and shape, and the result has the first one's
        dtype."""
        from onnx import TensorProto, helper

        kinds = {
            "float32": TensorProto.FLOAT,
            "float64": TensorProto.DOUBLE,
            "float16": TensorProto.FLOAT16,
            "bfloat16": TensorProto.BFLOAT16,
        }
        values = [
            helper.make_tensor_value_info(name, kinds[kind], shape)
            for name, (kind, shape) in inputs.items()
        ]
        kind = kinds[next(iter(inputs.values()))[0]]
        outputs = [helper.make_tensor_value_info(result, kind, None)]
        graph = helper.make_graph(self.nodes, "patch_embed", values, outputs, self.initializers)
        opsets = [helper.make_opsetid("", OPSET)]
        content: bytes = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION
        ).SerializeToString()
        return content


def conv2d(graph: Graph, spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> str:
    """`Conv` with explicit pads, the bias inside; then `flatten(2)` as a `Reshape` (0 keeps the
    batch) and `transpose(1, 2)`."""
    arrays = [kernel_to_layout(weights.kernel, OIHW)] + (
        [] if weights.bias is None else [weights.bias]
    )
    before, after = zip(*spec.effective_padding, strict=True)
    constants = [graph.constant(array) for array in arrays]
    grid = graph.add(
        "Conv",
        "images",
        *constants,
        strides=spec.stride,
        kernel_shape=spec.patch_size,
        pads=(*before, *after),
    )
    flat = graph.add(
        "Reshape", grid, graph.constant(np.array((0, spec.embed_dim, spec.num_patches), np.int64))
    )
    return graph.add("Transpose", flat, perm=(0, 2, 1))


def linear(graph: Graph, spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> str:
    """`Pad`, cut into patches by `Reshape` (by `Gather` where they do not tile), `Transpose`,
    `MatMul`, `Add`.

    Patches are in the order (channel, row, column), which exporters get from `unfold`.
    """
    images, axes = "images", spec.spatial_axes
    if any(any(pair) for pair in spec.effective_padding):
        before, after = zip(*spec.effective_padding, strict=True)
        images = graph.add(
            "Pad", images, graph.constant(np.array((0, 0, *before, 0, 0, *after), np.int64))
        )
    if spec.tiles:
        split = [extent for pair in zip(spec.grid, spec.patch_size, strict=True) for extent in pair]
        blocks = graph.add(
            "Reshape", images, graph.constant(np.array((-1, spec.in_channels, *split), np.int64))
        )
    else:
        blocks = images
        for axis in range(axes):
            blocks = graph.add(
                "Gather", blocks, graph.constant(window_indices(spec, axis)), axis=2 + 2 * axis
            )
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 2 + 2 * axes, 2))
    rows = graph.add("Transpose", blocks, perm=order)
    shape = np.array((-1, spec.num_patches, spec.patch_values), np.int64)
    patches = graph.add("Reshape", rows, graph.constant(shape))
    tokens = graph.add(
        "MatMul", patches, graph.constant(kernel_to_layout(weights.kernel, DENSE_CHANNELS_FIRST))
    )
    return (
        tokens if weights.bias is None else graph.add("Add", tokens, graph.constant(weights.bias))
    )


def embedding_model(
    spec: PatchEmbedSpec, weights: PatchEmbedWeights, dtype: str, batch: int | None = None
) -> bytes:
    """The projection as one `Conv`, serialized: images `(B, C, H, W)` to tokens `(B, N, D)`.

    Args:
        spec: the sizes.
        weights: of `dtype`.
        dtype: as NumPy names it.
        batch: its images; None leaves their number open.
    """
    graph = Graph()
    result = conv2d(graph, spec, weights)
    shape = ["batch" if batch is None else batch, spec.in_channels, *spec.image_size]
    return graph.model({"images": (dtype, shape)}, result)
