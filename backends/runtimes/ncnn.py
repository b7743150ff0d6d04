"""ncnn on the CPU: models that pnnx makes of the ONNX graph, with a kernel of float32 and of
float16; one image a call."""

import importlib.util
import subprocess
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
from ..runtime import FLOAT16_FILES, RuntimeBackend, RuntimeModel, number_of_threads, require_size


def _pnnx() -> Path:
    """The converter's program: its Python package imports torch."""
    found = importlib.util.find_spec("pnnx")
    assert found is not None
    assert found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0]) / "pnnx"


class _Model(RuntimeModel):
    def __init__(self, spec: PatchEmbedSpec, weights: PatchEmbedWeights, stored: str) -> None:
        self.stored = stored
        super().__init__(spec, weights, "float32")

    def convert(self, folder: Path) -> None:
        """As users do: `pnnx model.onnx`, which stores float16 unless it is told not to."""
        import ncnn

        model = embedding_model(self.spec, self.weights, "float32", batch=1)
        (folder / "model.onnx").write_bytes(model)
        shape = ",".join(map(str, (1, self.spec.in_channels, *self.spec.image_size)))
        converted = subprocess.run(
            [
                str(_pnnx()),
                "model.onnx",
                f"inputshape=[{shape}]",
                f"fp16={int(self.stored == 'float16')}",
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if not (folder / "model.ncnn.param").exists():
            said = (converted.stdout + converted.stderr).strip().splitlines()
            raise PatchParityError(f"pnnx made no model: {(said or ['no reason given'])[-1]}")
        network = ncnn.Net()
        network.opt.num_threads = number_of_threads()
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = False
        network.opt.use_fp16_arithmetic = network.opt.use_bf16_storage = False
        network.load_param(str(folder / "model.ncnn.param"))
        network.load_model(str(folder / "model.ncnn.bin"))
        self.network, self.names = network, (network.input_names()[0], network.output_names()[0])

    def place(self, images: NDArray[Any]) -> NDArray[Any]:
        """Contiguous, for ncnn takes the values as they lie. Images of another size than the
        model's are refused: ncnn does not look at it."""
        require_size(images, self.spec)
        placed: NDArray[Any] = super().place(images)
        return placed

    def call(self, inputs: NDArray[Any]) -> NDArray[Any]:
        import ncnn

        tokens = np.empty((len(inputs), self.spec.num_patches, self.spec.embed_dim), np.float32)
        for number, image in enumerate(inputs):
            extractor = self.network.create_extractor()
            extractor.input(self.names[0], ncnn.Mat(image))
            code, output = extractor.extract(self.names[1])
            if code:
                raise PatchParityError(f"ncnn gave no result: code {code}")
            tokens[number] = np.array(output)
        return tokens


class NcnnBackend(RuntimeBackend):
    """ncnn, without 16-bit arithmetic."""

    name = "ncnn"
    packages = ("ncnn", "pnnx", "onnx")
    videos = False
    distributions_alone = ("pnnx",)
    implementations = tuple(
        Implementation(
            "ncnn",
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
        """`ncnn.Mat`, of float32 alone: of other types it takes the bytes."""
        import ncnn

        if array.dtype.newbyteorder("=") != np.float32:
            raise PatchParityError(f"ncnn has no {array.dtype.name}")
        if any(step < 0 for step in array.strides):  # it would read behind the end
            raise PatchParityError("ncnn reads arrays from their first value on")
        return np.array(ncnn.Mat(array))

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


BACKENDS = (NcnnBackend(),)
