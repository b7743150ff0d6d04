"""ONNX Runtime: a graph of `Conv`, or of reshape, transpose and `MatMul`, as exporters write them;
forward alone."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.quantize import Quantization
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .base import DEVICES, Backend, Implementation, Precision, check_precision
from .computation import Computation, LoadedEmbedding, Operation
from .layouts import DENSE_CHANNELS_FIRST, NCHW, OIHW
from .onnx_graph import Graph, conv2d, embedding_model, linear
from .onnx_int8 import quantize_dynamic, quantize_static, steps_of


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
        self.formulation = implementation.formulation
        self.spec, self.dtype, self.device, self.tf32 = spec, np.dtype(dtype), device, tf32
        self.assign(weights)

    def assign(self, weights: PatchEmbedWeights) -> None:
        """Weights are constants of a graph, laid out when a session begins: new ones need a new
        session (milliseconds)."""
        self.weights = weights.astype(self.dtype)
        self.session = self._session(lambda graph, tokens: tokens)

    def _session(self, after: Callable[[Graph, str], str]) -> _Session:
        """A session of the projection, and of what comes after it in a graph."""
        graph = Graph()
        result = after(graph, self.build(graph, self.spec, self.weights))
        shape = ["batch", self.spec.in_channels, *self.spec.image_size]
        return _Session(
            graph.model({"images": (self.dtype.name, shape)}, result), self.device, self.tf32
        )

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """`Expand` of the class token to the batch, `Concat`, `Add`, as exporters write them."""

        def assemble(graph: Graph, tokens: str) -> str:
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


class _Int8Embedding(_Embedding):
    """A `Conv` that ONNX Runtime's own tools made one of integers."""

    def assign(self, weights: PatchEmbedWeights) -> None:
        """New weights are quantized anew; where pixels have a range that is known before, with the
        images that come first, on which it is calibrated."""
        self.weights = weights.astype(self.dtype)
        self.waits = not self.dynamic
        if self.dynamic or not hasattr(self, "model"):
            self._quantize(None if self.dynamic else np.zeros(self.spec.images_shape(1), "float32"))

    @property
    def dynamic(self) -> bool:
        """Whether pixels are quantized as they come."""
        return self.formulation == "conv2d_int8_dynamic"

    def _quantize(self, images: NDArray[Any] | None) -> None:
        with TemporaryDirectory(prefix="patchparity-") as folder:
            source, target = Path(folder, "model.onnx"), Path(folder, "quantized.onnx")
            source.write_bytes(embedding_model(self.spec, self.weights, self.dtype.name))
            if images is None:
                quantize_dynamic(source, target)
            else:
                quantize_static(source, target, images)
            self.model = target.read_bytes()
        self.session = _Session(self.model, self.device, self.tf32)

    def place(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        placed = super().place(images)
        if self.waits and len(images):
            self._quantize(placed["images"])
            self.waits = False
        return placed

    def quantization(self, images: NDArray[Any]) -> Quantization | None:
        """As the model tells it."""
        return steps_of(self.model, images)

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """None: the projection alone is quantized."""
        return None


class _Gemm(Computation):
    """`MatMul` of an input and a constant, as in a model."""

    def __init__(
        self, rows: int, depth: int, columns: int, dtype: str, device: str, tf32: bool
    ) -> None:
        generator, graph = np.random.default_rng(0), Graph()
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
        "conv2d": (conv2d, OIHW, ("float32", "float16")),
        "linear": (linear, DENSE_CHANNELS_FIRST, ("float32", "float64")),
        "conv2d_int8_dynamic": (conv2d, OIHW, ("float32",)),
        "conv2d_int8": (conv2d, OIHW, ("float32",)),
    }
    """With the dtypes that its CPU has: of `Conv` float32, and float16 by casts around it."""
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
            stored="int8" if "int8" in formulation else "",
            devices=("cpu",) if "int8" in formulation else DEVICES,
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
        graph = Graph()
        model = graph.model(
            {"array": (array.dtype.name, list(array.shape))}, graph.add("Identity", "array")
        )
        return _Session(model, "cpu", tf32=False).call({"array": array})

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`Cast` and `Cast` in a graph."""
        from onnx import TensorProto

        graph = Graph()
        result = graph.add(
            "Cast", graph.add("Cast", "array", to=TensorProto.FLOAT16), to=TensorProto.FLOAT
        )
        model = graph.model({"array": (array.dtype.name, list(array.shape))}, result)
        return _Session(model, "cpu", tf32=False).call({"array": array})

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`Conv`, images and kernel as inputs."""
        graph, patch = Graph(), kernel.shape[2:]
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
        kind = _Int8Embedding if implementation.stored else _Embedding
        return kind(implementation, weights, spec, dtype, device, self.tf32)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`MatMul` in a graph of its own."""
        return _Gemm(rows, depth, columns, dtype, device, self.tf32)


BACKENDS = (OnnxRuntimeBackend(),)
