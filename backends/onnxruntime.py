"""ONNX Runtime: a graph of `Conv`, or of reshape, transpose and `MatMul`, as exporters write them;
forward alone."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .base import Backend, Implementation, Precision, check_precision
from .computation import Computation, LoadedEmbedding, Operation
from .layouts import DENSE_CHANNELS_FIRST, NCHW, OIHW, kernel_to_layout
from .patches import window_indices

OPSET = 17
"""Of the graphs: the first with everything in them. IR version 8 belongs to it, so that any ONNX
Runtime since 1.13 reads them."""
IR_VERSION = 8


class _Graph:
    """An ONNX graph under construction: nodes in a row, each with one result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, array: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
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


def _conv2d(graph: _Graph, spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> str:
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


def _linear(graph: _Graph, spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> str:
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


class _Session(Computation):
    """A model in a session of its own, on one device."""

    def __init__(self, model: bytes, device: str, tf32: bool) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # There is no variable for these, so the common one is taken at its word; 0 lets ONNX
        # Runtime choose.
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # errors are raised, and need not be written to stderr as well
        options.log_severity_level = 4
        cuda = ("CUDAExecutionProvider", {"use_tf32": int(tf32)})
        providers = [cuda] if device == "cuda" else ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(model, options, providers=providers)

    def call(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(self.session.run(None, inputs)[0])

    def synchronize(self, outputs: NDArray[Any]) -> None:
        """`run` returns NumPy arrays, computed."""


class _Embedding(LoadedEmbedding):
    def __init__(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
        tf32: bool,
    ) -> None:
        self.build = OnnxRuntimeBackend.formulations[implementation.formulation][0]
        self.spec, self.dtype, self.device, self.tf32 = spec, np.dtype(dtype), device, tf32
        self.assign(weights)

    def assign(self, weights: PatchEmbedWeights) -> None:
        """Weights are constants of a graph, laid out when a session begins: new ones need a new
        session (milliseconds)."""
        self.weights = weights.astype(self.dtype)
        self.session = self._session(lambda graph, tokens: tokens)

    def _session(self, after: Callable[[_Graph, str], str]) -> _Session:
        """A session of the projection, and of what comes after it in a graph."""
        graph = _Graph()
        result = after(graph, self.build(graph, self.spec, self.weights))
        shape = ["batch", self.spec.in_channels, *self.spec.image_size]
        return _Session(
            graph.model({"images": (self.dtype.name, shape)}, result), self.device, self.tf32
        )

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation:
        """`Expand` of the class token to the batch, `Concat`, `Add`, as exporters write them."""

        def assemble(graph: _Graph, tokens: str) -> str:
            batch = graph.add(
                "Gather", graph.add("Shape", tokens), graph.constant(np.array([0], np.int64))
            )
            shape = graph.add(
                "Concat",
                batch,
                graph.constant(np.array((1, self.spec.embed_dim), np.int64)),
                axis=0,
            )
            rows = graph.add(
                "Expand", graph.constant(class_token.astype(self.dtype).reshape(1, 1, -1)), shape
            )
            return graph.add(
                "Add",
                graph.add("Concat", rows, tokens, axis=1),
                graph.constant(positions.astype(self.dtype)),
            )

        return Operation(self, self._session(assemble).call, lambda outputs: {"forward": outputs})

    def place(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"images": np.array(images, self.dtype, order="C")}

    def call(self, inputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
        return self.session.call(inputs)

    def synchronize(self, outputs: NDArray[Any]) -> None:
        self.session.synchronize(outputs)

    def fetch(self, outputs: NDArray[Any]) -> NDArray[Any]:
        return outputs


class _Gemm(Computation):
    """`MatMul` of an input and a constant, as in a model."""

    def __init__(
        self, rows: int, depth: int, columns: int, dtype: str, device: str, tf32: bool
    ) -> None:
        generator, graph = np.random.default_rng(0), _Graph()
        right = generator.standard_normal((depth, columns)).astype(dtype)
        result = graph.add("MatMul", "left", graph.constant(right))
        self.inputs = {"left": generator.standard_normal((rows, depth)).astype(dtype)}
        self.session = _Session(graph.model({"left": (dtype, [rows, depth])}, result), device, tf32)

    def call(self, inputs: None) -> NDArray[Any]:
        return self.session.call(self.inputs)

    def synchronize(self, outputs: NDArray[Any]) -> None:
        self.session.synchronize(outputs)


class OnnxRuntimeBackend(Backend):
    """ONNX Runtime on CPU and CUDA; what a model does after its export."""

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx")
    product_dtypes = ("float32", "float64")
    formulations = {
        "conv2d": (_conv2d, OIHW, ("float32",)),
        "linear": (_linear, DENSE_CHANNELS_FIRST, ("float32", "float64")),
    }
    """With the dtypes that its CPU kernels have: `Conv` float32 alone."""
    implementations = tuple(
        Implementation(
            "onnxruntime",
            formulation,
            "graph",
            NCHW,
            layout,
            dtypes,
            default_on_cuda="tf32",
            differentiable=False,
            customary=formulation == "conv2d",
        )
        for formulation, (_, layout, dtypes) in formulations.items()
    )

    def __init__(self) -> None:
        self.tf32 = True  # the CUDA provider's own default

    def devices(self) -> tuple[str, ...]:
        """The CPU, and `cuda` where the installed build has the CUDA provider."""
        import onnxruntime

        return (
            ("cpu", "cuda")
            if "CUDAExecutionProvider" in onnxruntime.get_available_providers()
            else ("cpu",)
        )

    def environment(self, threads: int) -> dict[str, str]:
        """ONNX Runtime reads no variable; every session here is given this one's value."""
        return {"OMP_NUM_THREADS": str(threads)}

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`InferenceSession.run` of an `Identity`."""
        graph = _Graph()
        model = graph.model(
            {"array": (array.dtype.name, list(array.shape))}, graph.add("Identity", "array")
        )
        return _Session(model, "cpu", tf32=False).call({"array": array})

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`Conv`, images and kernel as inputs."""
        graph, patch = _Graph(), kernel.shape[2:]
        result = graph.add("Conv", "images", "kernel", strides=patch, kernel_shape=patch)
        inputs = {"images": images, "kernel": kernel}
        model = graph.model(
            {name: (array.dtype.name, list(array.shape)) for name, array in inputs.items()}, result
        )
        return _Session(model, "cpu", tf32=False).call(inputs)

    def lacks(self, precision: Precision, device: str) -> str | None:
        """The CUDA provider has a switch for TF32; nothing has one for bfloat16 in float32."""
        if precision in ("ieee", "default") or (precision, device) == ("tf32", "cuda"):
            return None
        return f"ONNX Runtime has no {precision} mode for float32 on {device}"

    @contextlib.contextmanager
    def precision(self, precision: Precision) -> Iterator[None]:
        """TF32 is an option of the CUDA provider, given when a session begins: it holds for what is
        loaded inside."""
        check_precision(precision)
        kept = self.tf32
        self.tf32 = precision in ("tf32", "default")
        try:
            yield
        finally:
            self.tf32 = kept

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Write the graph, with the weights as its constants, and begin a session."""
        weights.check_spec(spec)
        return _Embedding(implementation, weights, spec, dtype, device, self.tf32)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`MatMul` in a graph of its own."""
        return _Gemm(rows, depth, columns, dtype, device, self.tf32)


BACKENDS = (OnnxRuntimeBackend(),)
