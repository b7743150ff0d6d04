"""IREE on the CPU: a StableHLO convolution, as JAX and torch export it, compiled by
`iree-compile` for this machine; kernel and bias are its arguments."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import DTYPES, Implementation
from ..computation import LoadedEmbedding
from ..layouts import OIHW, kernel_to_layout
from ..runtime import RuntimeBackend, RuntimeModel, number_of_threads

TYPES = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
"""MLIR's names."""


def stablehlo(spec: PatchEmbedSpec, batch: int, dtype: str, with_bias: bool) -> str:
    """The projection of `batch` images as a module: images, kernel OIHW and bias to tokens."""
    kind = TYPES[dtype]

    def tensor(*sizes: int) -> str:
        return f"tensor<{'x'.join(map(str, sizes))}x{kind}>"

    patch, grid = spec.patch_size, spec.grid
    images = tensor(batch, spec.in_channels, *spec.image_size)
    kernel = tensor(spec.embed_dim, spec.in_channels, *patch)
    cells = tensor(batch, spec.embed_dim, *grid)
    rows = tensor(batch, spec.embed_dim, spec.num_patches)
    tokens, bias = tensor(batch, spec.num_patches, spec.embed_dim), tensor(spec.embed_dim)
    axes = ", ".join(map(str, range(len(patch))))
    pads = ", ".join(f"[{before}, {after}]" for before, after in spec.effective_padding)
    arguments = f"%images: {images}, %kernel: {kernel}" + (f", %bias: {bias}" if with_bias else "")
    last = "%result" if with_bias else "%tokens"
    add = f"""
    %wide = stablehlo.broadcast_in_dim %bias, dims = [2] : ({bias}) -> {tokens}
    %result = stablehlo.add %tokens, %wide : {tokens}"""
    added = add if with_bias else ""
    return f"""\
module {{
  func.func @embed({arguments}) -> {tokens} {{
    %grid = stablehlo.convolution(%images, %kernel)
      dim_numbers = [b, f, {axes}]x[o, i, {axes}]->[b, f, {axes}],
      window = {{stride = [{", ".join(map(str, spec.stride))}], pad = [{pads}]}}
      {{batch_group_count = 1 : i64, feature_group_count = 1 : i64}}
      : ({images}, {kernel}) -> {cells}
    %rows = stablehlo.reshape %grid : ({cells}) -> {rows}
    %tokens = stablehlo.transpose %rows, dims = [0, 2, 1] : ({rows}) -> {tokens}{added}
    return {last} : {tokens}
  }}
}}"""


class _Model(RuntimeModel):
    def assign(self, weights: PatchEmbedWeights) -> None:
        """Weights are arguments; programs stay."""
        self.weights = weights.astype(self.dtype)
        arguments = [np.ascontiguousarray(kernel_to_layout(self.weights.kernel, OIHW))]
        if self.weights.bias is not None:
            arguments.append(self.weights.bias)
        self.arguments = [_array(argument) for argument in arguments]
        if not hasattr(self, "programs"):
            self.programs: dict[tuple[int, bool], Any] = {}

    def convert(self, folder: Path) -> None:
        """Programs are compiled when their number of images is known."""

    def program(self, batch: int) -> Any:
        """What is compiled for so many images."""
        key = batch, len(self.arguments) > 1
        if key not in self.programs:
            code = stablehlo(self.spec, batch, self.dtype.name, key[1])
            self.programs[key] = compiled(code).embed
        return self.programs[key]

    def place(self, images: NDArray[Any]) -> Any:
        """On IREE's device."""
        return _array(super().place(images))

    def call(self, inputs: Any) -> Any:
        return self.program(inputs.shape[0])(inputs, *self.arguments)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return _host(outputs, self.dtype)


def compiled(code: str) -> Any:
    """A StableHLO module, compiled for this machine and loaded."""
    import iree.compiler
    import iree.runtime

    binary = iree.compiler.compile_str(
        code,
        input_type="stablehlo",
        target_backends=["llvm-cpu"],
        extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-input-demote-f64-to-f32=false"],
    )
    context = iree.runtime.SystemContext(config=_config())
    context.add_vm_module(iree.runtime.VmModule.copy_buffer(context.instance, binary))
    return context.modules.module


def _config() -> Any:
    """The device of all programs, on as many threads as are asked for."""
    import iree.runtime

    if not CONFIG:
        iree.runtime.flags.parse_flags(f"--task_topology_max_group_count={number_of_threads()}")
        CONFIG.append(iree.runtime.Config("local-task"))
    return CONFIG[0]


CONFIG: list[Any] = []


def _array(array: NDArray[Any]) -> Any:
    """An array on the device."""
    import iree.runtime

    return iree.runtime.asdevicearray(_config().device, array)


def _host(outputs: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(outputs.to_host()).astype(dtype, copy=False)


class IreeBackend(RuntimeBackend):
    """IREE's `llvm-cpu` target."""

    name = "iree"
    packages = ("iree-base-compiler", "iree-base-runtime")
    implementations = (
        Implementation(
            "iree",
            "conv2d",
            "graph",
            dtypes=tuple(name for name in DTYPES if name != "bfloat16"),
            devices=("cpu",),
            flush_to_zero=True,
            output_roundings=2,
            differentiable=False,
            customary=True,
        ),
    )

    def missing(self) -> str | None:
        """Its distributions are two parts of one module."""
        for part in ("compiler", "runtime"):
            if not _has(f"iree.{part}"):
                return (
                    f"iree.{part} is not installed: pip install 'patchparity[{self.extra}]', or "
                    f"patchparity backends --install {self.name}"
                )
        return None

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`asdevicearray`."""
        import iree.runtime

        return np.asarray(iree.runtime.asdevicearray(_config().device, array).to_host())

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`stablehlo.convert`, twice."""
        sizes = "x".join(map(str, array.shape))
        wide, narrow = f"tensor<{sizes}xf32>", f"tensor<{sizes}xf16>"
        code = f"""\
module {{
  func.func @cast(%values: {wide}) -> {wide} {{
    %narrow = stablehlo.convert %values : ({wide}) -> {narrow}
    %back = stablehlo.convert %narrow : ({narrow}) -> {wide}
    return %back : {wide}
  }}
}}"""
        return np.asarray(compiled(code).cast(_array(array)).to_host())

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Hand the weights over."""
        weights.check_spec(spec)
        return _Model(spec, weights, dtype)


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


BACKENDS = (IreeBackend(),)
