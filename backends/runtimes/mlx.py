"""MLX on the CPU: `mx.conv2d` on images `(B, H, W, C)`, and reshape and matmul."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import DTYPES, Implementation
from ..computation import LoadedEmbedding
from ..layouts import CANONICAL, DENSE_CHANNELS_LAST, NHWC, images_to_layout, kernel_to_layout
from ..runtime import RuntimeBackend, RuntimeModel, require_patch_fits


def as_mlx(array: NDArray[Any]) -> Any:
    """Hand a NumPy array over in its own type. Without one MLX makes float32 of float64, and of
    bfloat16 it knows the bits alone."""
    import mlx.core as mx

    if array.dtype == ml_dtypes.bfloat16:
        return mx.array(array.view(np.uint16)).view(mx.bfloat16)
    return mx.array(array, dtype=getattr(mx, array.dtype.name))


def as_numpy(array: Any) -> NDArray[Any]:
    """Bring an array back in its own type."""
    import mlx.core as mx

    if array.dtype == mx.bfloat16:
        return np.array(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
    return np.array(array)


class _Model(RuntimeModel):
    def __init__(
        self, spec: PatchEmbedSpec, weights: PatchEmbedWeights, dtype: str, formulation: str
    ) -> None:
        self.formulation = formulation
        super().__init__(spec, weights, dtype, NHWC)

    def convert(self, folder: Path) -> None:
        """Nothing is written: arrays are handed over."""
        import mlx.core as mx

        mx.set_default_device(mx.cpu)
        layout = CANONICAL if self.formulation == "conv2d" else DENSE_CHANNELS_LAST
        self.kernel = as_mlx(np.ascontiguousarray(kernel_to_layout(self.weights.kernel, layout)))
        self.bias = None if self.weights.bias is None else as_mlx(self.weights.bias)

    def place(self, images: NDArray[Any]) -> Any:
        """On its device. Images that a patch does not fit into are refused: MLX reads beyond
        them."""
        require_patch_fits(images, self.spec)
        return as_mlx(super().place(images))

    def call(self, inputs: Any) -> Any:
        import mlx.core as mx

        spec, batch = self.spec, inputs.shape[0]
        down, right = spec.stride
        if any(map(any, spec.effective_padding)):
            inputs = mx.pad(inputs, [(0, 0), *spec.effective_padding, (0, 0)])
        if self.formulation == "conv2d":
            grid = mx.conv2d(inputs, self.kernel, (down, right))
            tokens = grid.reshape(batch, grid.shape[1] * grid.shape[2], spec.embed_dim)
        else:
            (rows, columns), (high, wide) = spec.grid, spec.patch_size
            blocks = inputs.reshape(batch, rows, high, columns, wide, spec.in_channels)
            patches = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(
                batch, spec.num_patches, spec.patch_values
            )
            tokens = patches @ self.kernel
        tokens = tokens if self.bias is None else tokens + self.bias
        mx.eval(tokens)
        return tokens

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return as_numpy(outputs)


class MlxBackend(RuntimeBackend):
    """MLX, whose CPU wheel is `mlx-cpu`."""

    name = "mlx"
    packages = ("mlx",)
    distributions = ("mlx", "mlx-cpu")
    implementations = tuple(
        Implementation(
            "mlx",
            formulation,
            "eager",
            NHWC,
            layout,
            DTYPES,
            devices=("cpu",),
            output_roundings=2,
            differentiable=False,
            customary=formulation == "conv2d",
        )
        for formulation, layout in (("conv2d", CANONICAL), ("linear", DENSE_CHANNELS_LAST))
    )

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """Images; cut by a reshape, patches that tile."""
        if spec.spatial_axes != 2:
            return f"{implementation.name} knows images alone"
        tiled = spec.tiles and not any(map(any, spec.effective_padding))
        if implementation.formulation == "linear" and not tiled:
            return f"{implementation.name} knows images that patches tile without padding"
        return None

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`mx.array`."""
        import mlx.core as mx

        return as_numpy(mx.array(array))

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`astype`, evaluated at once."""
        import mlx.core as mx

        return as_numpy(mx.array(array).astype(mx.float16).astype(mx.float32))

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`mx.conv2d`."""
        import mlx.core as mx

        if not (images.size and kernel.size):
            raise PatchParityError("MLX is not given arrays without values")
        laid_out = np.ascontiguousarray(images_to_layout(images, NHWC))
        taps = np.ascontiguousarray(kernel.transpose(0, 2, 3, 1))
        with mx.stream(mx.cpu):
            grid = mx.conv2d(mx.array(laid_out), mx.array(taps), kernel.shape[2:])
        return as_numpy(grid).transpose(0, 3, 1, 2)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Hand the arrays over."""
        weights.check_spec(spec)
        return _Model(spec, weights, dtype, implementation.formulation)


BACKENDS = (MlxBackend(),)
