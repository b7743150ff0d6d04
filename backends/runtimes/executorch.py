"""ExecuTorch on the CPU: `torch.export` of a `Conv2d`, lowered to the portable kernels and to
XNNPACK."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Implementation
from ..computation import LoadedEmbedding
from ..layouts import OIHW, kernel_to_layout
from ..quiet import silenced
from ..runtime import RuntimeBackend, RuntimeModel
from ..torch import as_tensor


class _Model(RuntimeModel):
    def __init__(
        self, spec: PatchEmbedSpec, weights: PatchEmbedWeights, dtype: str, mode: str
    ) -> None:
        self.mode = mode
        super().__init__(spec, weights, dtype)

    def convert(self, folder: Path) -> None:
        """Programs are of one number of images, and made when that is known."""
        self.methods: dict[int, Any] = {}

    def method(self, images: Any) -> Any:
        """What is exported, lowered and loaded for so many images."""
        import torch

        if len(images) not in self.methods:
            with silenced():
                from executorch.exir import to_edge_transform_and_lower
                from executorch.runtime import Runtime

                exported = torch.export.export(_module(self.spec, self.weights), (images,))
                lowered = to_edge_transform_and_lower(exported, partitioner=self._partitioners())
                program = Runtime.get().load_program(lowered.to_executorch().buffer)
                method = program.load_method("forward")
                method.execute([images])  # which, for the first time, tells what CPU it found
            self.methods[len(images)] = program, method
        return self.methods[len(images)][1]

    def _partitioners(self) -> list[Any]:
        """Who takes the convolution over from the portable kernels."""
        if self.mode == "portable":
            return []
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return [XnnpackPartitioner()]

    def place(self, images: NDArray[Any]) -> Any:
        return as_tensor(super().place(images))

    def call(self, inputs: Any) -> Any:
        return self.method(inputs).execute([inputs])[0]

    def fetch(self, outputs: Any) -> NDArray[Any]:
        from ..torch.adapter import as_array

        return np.array(as_array(outputs))


def _module(spec: PatchEmbedSpec, weights: PatchEmbedWeights) -> Any:
    """The projection as an `nn.Module`, as libraries write it."""
    import torch

    kernel = as_tensor(np.ascontiguousarray(kernel_to_layout(weights.kernel, OIHW)))
    pads = [side for pair in reversed(spec.effective_padding) for side in pair]

    class Embedding(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Conv2d(
                spec.in_channels,
                spec.embed_dim,
                spec.patch_size,
                spec.stride,
                bias=weights.bias is not None,
                dtype=kernel.dtype,
            )
            with torch.no_grad():
                self.proj.weight.copy_(kernel)
                if weights.bias is not None:
                    self.proj.bias.copy_(as_tensor(weights.bias))

        def forward(self, images: Any) -> Any:
            if any(pads):
                images = torch.nn.functional.pad(images, pads)
            return self.proj(images).flatten(2).transpose(1, 2)

    return Embedding().eval()


class ExecutorchBackend(RuntimeBackend):
    """ExecuTorch's own runtime, called from Python."""

    name = "executorch"
    packages = ("executorch", "torch")
    videos = False
    implementations = tuple(
        Implementation(
            "executorch",
            "conv2d",
            mode,
            dtypes=("float32", "bfloat16", "float16"),
            devices=("cpu",),
            flush_to_zero=mode == "xnnpack",
            differentiable=False,
            costly_compile=True,
            customary=mode == "xnnpack",
        )
        for mode in ("portable", "xnnpack")
    )

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Export, lower and load."""
        weights.check_spec(spec)
        return _Model(spec, weights, dtype, implementation.mode)


BACKENDS = (ExecutorchBackend(),)
