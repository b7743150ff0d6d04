"""MNN on the CPU: models that its converter makes of the ONNX graph, as they are and with a float16
kernel."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation
from ..computation import LoadedEmbedding
from ..onnx_graph import embedding_model
from ..runtime import (
    FLOAT16_FILES,
    RuntimeBackend,
    RuntimeModel,
    number_of_threads,
    require_size,
)

CONVERT = "import _tools, sys; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
"""The converter without its console script, which installs packages to report what was
converted; in a process of its own, for it speaks to the standard output."""


class _Model(RuntimeModel):
    def __init__(self, spec: PatchEmbedSpec, weights: PatchEmbedWeights, stored: str) -> None:
        self.stored = stored
        super().__init__(spec, weights, "float32")

    def convert(self, folder: Path) -> None:
        """As users do: `mnnconvert -f ONNX`, with `--fp16` where asked."""
        import MNN

        source, target = folder / "model.onnx", folder / "model.mnn"
        source.write_bytes(embedding_model(self.spec, self.weights, "float32"))
        words = ["-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "none"]
        if self.stored == "float16":
            words.append("--fp16")
        converted = subprocess.run(
            [sys.executable, "-c", CONVERT, *map(str, words)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if not target.exists():
            said = (converted.stdout + converted.stderr).strip().splitlines()
            raise PatchParityError(f"mnnconvert made no model: {(said or ['no reason given'])[-1]}")
        settings = {"backend": 0, "precision": "high", "numThread": number_of_threads()}
        runtime = MNN.nn.create_runtime_manager((settings,))
        self.model = MNN.nn.load_module_from_file(
            str(target), ["images"], [RESULT], runtime_manager=runtime
        )

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images of another size than the model's are refused: MNN's process does not survive
        all of them."""
        require_size(images, self.spec)
        placed: NDArray[Any] = super().place(images)
        return placed

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        import MNN

        express = MNN.expr
        images = express.const(inputs, list(inputs.shape), express.NCHW, express.float)
        return np.array(express.convert(self.model.forward(images), express.NCHW).read())


RESULT = "value2"
"""Name of the result of `onnx_graph.conv2d`'s third node."""


class MnnBackend(RuntimeBackend):
    """MNN, told to be precise."""

    name = "mnn"
    packages = ("MNN", "onnx")
    videos = False
    implementations = tuple(
        Implementation(
            "mnn",
            formulation,
            "graph",
            dtypes=("float32",),
            devices=("cpu",),
            differentiable=False,
            customary=not stored,
            stored=stored,
        )
        for formulation, stored in FLOAT16_FILES
    )

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`expr.const`, of the type that it is given."""
        import MNN

        express = MNN.expr
        kinds = {"float32": express.float, "float64": express.double}
        if array.dtype.name not in kinds:
            raise PatchParityError(f"MNN has no {array.dtype.name}")
        kind = kinds[array.dtype.name]
        return np.array(express.const(array, list(array.shape), express.NCHW, kind).read())

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Convert, and load."""
        weights.check_spec(spec)
        return _Model(spec, weights, implementation.stored)


BACKENDS = (MnnBackend(),)
