"""tract on the CPU: it reads the ONNX graph that exporters write."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation
from ..computation import LoadedEmbedding
from ..onnx_graph import embedding_model
from ..runtime import RuntimeBackend, RuntimeModel


class _Model(RuntimeModel):
    def convert(self, folder: Path) -> None:
        """As users do: an ONNX file; computed in float16 by tract's own transform of it."""
        import tract

        path = folder / "model.onnx"
        path.write_bytes(
            embedding_model(self.spec, self.weights.astype(np.dtype("float32")), "float32")
        )
        model = tract.onnx().load(str(path)).into_model()
        if self.dtype == np.float16:
            model.transform("f32_to_f16")
        self.model = model.into_runnable()

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.model.run([inputs])[0].to_numpy())


class TractBackend(RuntimeBackend):
    """tract, on one thread."""

    name = "tract"
    packages = ("tract", "onnx")
    implementations = (
        Implementation(
            "tract",
            "conv2d",
            "graph",
            dtypes=("float32", "float16"),
            devices=("cpu",),
            flush_to_zero=True,
            differentiable=False,
            customary=True,
        ),
    )

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """A tensor of it."""
        import tract

        return np.asarray(tract.Tensor.from_numpy(array).to_numpy())

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Write the graph, and load it."""
        weights.check_spec(spec)
        return _Model(spec, weights, dtype)


BACKENDS = (TractBackend(),)
