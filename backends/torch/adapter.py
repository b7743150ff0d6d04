"""PyTorch: `torch.nn.Conv2d` and reshape + `torch.nn.Linear`, eager and compiled, and other ways to
write them."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...reference.embed import PatchEmbedGradients
from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import DEVICES, DTYPES, Backend, Implementation, Precision, check_precision, spec_code
from ..computation import (
    Computation,
    DeviceMemory,
    Events,
    FirstCall,
    LoadedEmbedding,
    Operation,
    called_twice,
    step_results,
)
from ..layouts import LINEAR_CHANNELS_FIRST, OIHW, kernel_from_layout, kernel_to_layout
from ..pixels import as_bytes
from ..registry import get_backend
from .formulations import (
    CHANNELS_LAST,
    Forward,
    conv2d,
    conv2d_uint8,
    einsum,
    fused,
    linear,
    linear_words,
    padder,
    prepacked,
    unfold,
)
from .lines import usage


def as_tensor(array: NDArray[Any]) -> Any:
    """A copy of a NumPy array as a tensor; bfloat16, which torch does not take from NumPy, travels
    as its bits."""
    import torch

    copied = np.array(array, array.dtype.newbyteorder("="), order="C")
    if copied.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copied)


def as_array(tensor: Any) -> NDArray[Any]:
    """A tensor as a NumPy array, bfloat16 by its bits."""
    import torch

    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        return np.asarray(plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16))
    return np.asarray(plain.numpy())


def fused_patch_embed(images: Any, kernel: Any, bias: Any | None, spec: PatchEmbedSpec) -> Any:
    """The Triton kernel on tensors of one GPU and one type, bfloat16 or float16; sums are float32.
    It has no gradient.

    Args:
        images: `(B, C, *image)`.
        kernel: `(D, C·P²)`, or a convolution's `(D, C, *patch)`.
        bias: `(D,)`, or None.
        spec: the sizes.

    Returns:
        Tokens `(B, N, D)`.
    """
    from .triton_kernel import embed

    return embed(padder(spec)(images), kernel.reshape(spec.embed_dim, -1).contiguous(), bias, spec)


class _Embedding(LoadedEmbedding):
    def __init__(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> None:
        import torch

        self.torch, self.spec, self.implementation = torch, spec, implementation
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        build = get_backend(implementation.backend).formulations[implementation.formulation][0]  # type: ignore[attr-defined]
        self.layer, forward = build(spec, implementation.own_weights(weights).bias is not None)
        self.layer.to(device=self.device, dtype=self.dtype)
        if implementation.formulation == CHANNELS_LAST:
            self.memory_format = (
                torch.channels_last if spec.spatial_axes == 2 else torch.channels_last_3d
            )
            self.layer.to(memory_format=self.memory_format)
        self.assign(weights)
        self.plain, self.forward = forward, self._in_mode(forward)

    def _in_mode(self, forward: Forward) -> Forward:
        return {"eager": lambda function: function, "compile": _compiled, "cudagraph": _Graph}[
            self.implementation.mode
        ](forward)

    def assign(self, weights: PatchEmbedWeights) -> None:
        weights = self.implementation.own_weights(weights)
        with self.torch.no_grad():
            self.layer.weight.copy_(
                self._tensor(kernel_to_layout(weights.kernel, self.implementation.kernel_layout))
            )
            if weights.bias is not None:
                self.layer.bias.copy_(self._tensor(weights.bias))

    def _tensor(self, array: NDArray[Any]) -> Any:
        # A copy: torch would alias NumPy's memory, and warns about read-only arrays.
        return as_tensor(array).to(device=self.device, dtype=self.dtype)

    def place(self, images: NDArray[Any]) -> Any:
        if self.implementation.pixels == "uint8":
            return as_tensor(as_bytes(images)).to(self.device)
        tensor = self._tensor(images)
        return (
            tensor.contiguous(memory_format=self.memory_format)
            if self.implementation.formulation == CHANNELS_LAST
            else tensor
        )

    def call(self, inputs: Any) -> Any:
        with self.torch.inference_mode():
            return self.forward(inputs)

    def synchronize(self, outputs: Any) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return as_array(outputs)

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        if not self.implementation.differentiable:
            return super().gradients(images, grad_tokens)
        inputs = self._tensor(images).requires_grad_()
        parameters = list(self.layer.parameters())
        gradients = self.torch.autograd.grad(
            self.forward(inputs), [inputs, *parameters], self._tensor(grad_tokens)
        )
        image, kernel, *bias = map(as_array, gradients)
        return PatchEmbedGradients(
            image=image,
            kernel=kernel_from_layout(kernel, self.implementation.kernel_layout, self.spec),
            bias=bias[0] if bias else np.zeros(0, image.dtype),
        )

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """`torch.compile` traces and compiles when first called, and does not tell of it."""
        if self.implementation.mode != "compile":
            return super().first_call(inputs)
        outputs, beyond_the_second = called_twice(
            lambda: super(_Embedding, self).first_call(inputs)[0]
        )
        return outputs, FirstCall(compile_seconds=beyond_the_second)

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> Operation | None:
        """`torch.cat` with the expanded class token, then the sum, as timm and transformers have
        it."""
        if self.implementation.pixels == "uint8":
            return None
        torch, forward = self.torch, self.plain
        token, table = self._tensor(class_token), self._tensor(positions)

        def assemble(images: Any) -> Any:
            return torch.cat([token.expand(images.shape[0], 1, -1), forward(images)], dim=1) + table

        whole = self._in_mode(assemble)

        def function(images: Any) -> Any:
            with torch.inference_mode():
                return whole(images)

        return Operation(self, function, lambda outputs: {"forward": as_array(outputs)})

    def train_step(self, grad_tokens: NDArray[Any]) -> Operation | None:
        """Forward, then `torch.autograd.grad` for the layer's parameters."""
        if not self.implementation.differentiable:
            return None
        grad, parameters, gradient = (
            self.torch.autograd.grad,
            list(self.layer.parameters()),
            self._tensor(grad_tokens),
        )

        def function(images: Any) -> Any:
            tokens = self.forward(images)
            return tokens, *grad(tokens, parameters, gradient)

        layout = self.implementation.kernel_layout
        return Operation(
            self, function, lambda outputs: step_results(map(as_array, outputs), layout, self.spec)
        )


def _compiled(forward: Forward) -> Forward:
    """`torch.compile` for one shape, in one graph, with an error instead of a silent return to
    eager after many shapes."""
    import torch
    import torch._dynamo

    # Dynamo counts recompilations per code object and every load shares ours; past the limit (8) it
    # would run eagerly, unasked.
    torch._dynamo.config.recompile_limit = 4096
    torch._dynamo.config.accumulated_recompile_limit = 65536
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    compiled: Forward = torch.compile(forward, fullgraph=True, dynamic=False)
    return compiled


class _Graph:
    """A CUDA graph: what a call launches, captured once for the images that it reads, and launched
    as one. Each call overwrites its result."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.images: Any = None

    def __call__(self, images: Any) -> Any:
        """Capture where the images are others, launch, and return the result, before it is
        computed."""
        if images is not self.images:
            self._capture(images)
        self.graph.replay()
        return self.outputs

    def _capture(self, images: Any) -> None:
        """As torch's documentation has it ("CUDA semantics", CUDA graphs): some calls on another
        stream first, so that libraries have set themselves up."""
        import torch

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.forward(images)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.forward(images)
        self.images = images


class _Gemm(Computation):
    def __init__(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> None:
        import torch

        self.torch, self.device = torch, torch.device(device)
        generator = torch.Generator().manual_seed(0)
        kind = getattr(torch, dtype)
        self.left = torch.randn(rows, depth, generator=generator).to(self.device, kind)
        self.right = torch.randn(depth, columns, generator=generator).to(self.device, kind)
        self.out = torch.empty(rows, columns, dtype=kind, device=self.device)

    def call(self, inputs: None) -> Any:
        with self.torch.inference_mode():
            return self.torch.mm(self.left, self.right, out=self.out)

    def synchronize(self, outputs: Any) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)


class _Copy(Computation):
    def __init__(self, values: int, dtype: str, device: str) -> None:
        import torch

        self.torch, self.device = torch, torch.device(device)
        self.source = torch.ones(values, dtype=getattr(torch, dtype), device=self.device)
        self.target = torch.empty_like(self.source)

    def call(self, inputs: None) -> Any:
        with self.torch.inference_mode():
            return self.target.copy_(self.source)

    def synchronize(self, outputs: Any) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)


class _Events(Events):
    """`torch.cuda.Event` in the current stream."""

    def mark(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        end.synchronize()
        return 1e-3 * float(begin.elapsed_time(end))


class _Memory(DeviceMemory):
    """The caching allocator's own count."""

    def reset_peak(self) -> int:
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())

    def peak(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated())


FUSED, PREPACKED = "fused", "linear_prepacked"
NORMALIZING = "conv2d_uint8"
PREPACKING = (PREPACKED, "linear_uint8_prepacked")
FUSING = (FUSED, "fused_uint8")
OF_BYTES = ("linear_uint8", "linear_uint8_prepacked", "fused_uint8", NORMALIZING)
MODES = {
    "conv2d": ("eager", "compile", "cudagraph"),
    "linear": ("eager", "compile", "cudagraph"),
    "linear_words": ("eager", "cudagraph"),
    FUSED: ("eager", "cudagraph"),
}
"""Modes of each formulation; of others `eager` alone."""


def _implementation(formulation: str, mode: str, layout: str) -> Implementation:
    """What a formulation declares in a mode."""
    if formulation in FUSING or mode == "cudagraph":
        devices: tuple[str, ...] = ("cuda",)
    else:
        devices = ("cpu",) if formulation in PREPACKING else DEVICES
    return Implementation(
        "torch",
        formulation,
        mode,
        kernel_layout=layout,
        # oneDNN's own product has no float64 here; tensor cores know no float32, and Triton
        # multiplies slowly what is not theirs.
        dtypes={
            **dict.fromkeys(PREPACKING, ("float32", "bfloat16")),
            **dict.fromkeys(FUSING, ("bfloat16", "float16")),
            NORMALIZING: ("float32",),
        }.get(formulation, DTYPES),
        devices=devices,
        # cuDNN's convolutions may use TF32 unless told not to, matrix products not (docs,
        # "Numerical accuracy").
        default_on_cuda="tf32" if formulation in ("conv2d", CHANNELS_LAST, NORMALIZING) else "ieee",
        # The bias is added afterwards: to a product of what is not contiguous, on a GPU to a
        # convolution, and to a bfloat16 product of odd K (147: seen on an H200, torch 2.11).
        output_roundings=2 if formulation in ("einsum", "unfold") else 1,
        output_roundings_on_cuda=1 if formulation in FUSING else 2,
        differentiable=mode in ("eager", "compile")
        and formulation not in (*PREPACKING, "linear_words", FUSED, *OF_BYTES),
        costly_compile=mode == "compile",
        variant=formulation not in ("conv2d", "linear") or mode == "cudagraph",
        customary=formulation in ("conv2d", NORMALIZING) and mode == "eager",
        pixels="uint8" if formulation in OF_BYTES else "float",
        normalizes=formulation == NORMALIZING,
    )


class TorchBackend(Backend):
    """PyTorch on CPU and CUDA."""

    name = "torch"
    packages: tuple[str, ...] = ("torch",)
    formulations = {
        "conv2d": (conv2d, OIHW),
        "linear": (linear, LINEAR_CHANNELS_FIRST),
        CHANNELS_LAST: (conv2d, OIHW),
        "linear_words": (linear_words, LINEAR_CHANNELS_FIRST),
        PREPACKED: (prepacked, LINEAR_CHANNELS_FIRST),
        "unfold": (unfold, LINEAR_CHANNELS_FIRST),
        "einsum": (einsum, OIHW),
        FUSED: (fused, LINEAR_CHANNELS_FIRST),
        "linear_uint8": (linear_words, LINEAR_CHANNELS_FIRST),
        "linear_uint8_prepacked": (prepacked, LINEAR_CHANNELS_FIRST),
        "fused_uint8": (fused, LINEAR_CHANNELS_FIRST),
        NORMALIZING: (conv2d_uint8, OIHW),
    }
    implementations = tuple(
        _implementation(formulation, mode, layout)
        for formulation, (_, layout) in formulations.items()
        for mode in MODES.get(formulation, ("eager",))
    )

    def unavailable(self, implementation: Implementation) -> str | None:
        """`torch.compile` generates C++ on the CPU, and needs a compiler for it."""
        if implementation.mode == "compile" and not any(
            shutil.which(name) for name in ("c++", "g++", "clang++")
        ):
            return (
                "torch.compile needs a C++ compiler, and none of c++, g++, clang++ is on the PATH"
            )
        if implementation.formulation in PREPACKING:
            import torch

            if not torch.backends.mkldnn.is_available():
                return "this build of torch has no oneDNN, which lays the weights out"
        if implementation.formulation in FUSING and importlib.util.find_spec("triton") is None:
            return (
                "triton is not installed, in whose language the kernel is written: pip install "
                "triton"
            )
        return None

    def lacks_dtype(self, implementation: Implementation, dtype: str, device: str) -> str | None:
        """oneDNN lays bfloat16 weights out for CPUs with AVX-512 (avx512bw, avx512vl, avx512dq)
        alone, or with NE_CONVERT."""
        if implementation.formulation in PREPACKING and dtype == "bfloat16":
            import torch

            if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
                return (
                    f"{implementation.name} has no bfloat16 on this CPU: oneDNN computes it "
                    "with AVX-512 instructions, which are not there"
                )
        return None

    def devices(self) -> tuple[str, ...]:
        """The CPU, and `cuda` where torch sees a GPU."""
        import torch

        return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def environment(self, threads: int) -> dict[str, str]:
        """torch's intra-operator pool is OpenMP's, its GEMM oneDNN's or MKL's."""
        return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """`torch.from_numpy`, with the warnings that torch otherwise gives once in a process."""
        import torch

        always = torch.is_warn_always_enabled()
        torch.set_warn_always(True)
        try:
            return as_array(torch.from_numpy(array))
        finally:
            torch.set_warn_always(always)

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any]:
        """`.half().float()`."""
        return as_array(as_tensor(array).half().float())

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
        """`torch.nn.functional.conv2d`."""
        import torch

        return as_array(
            torch.nn.functional.conv2d(
                as_tensor(images), as_tensor(kernel), stride=kernel.shape[-1]
            )
        )

    def lacks(self, precision: Precision, device: str) -> str | None:
        """cuDNN and cuBLAS know TF32 and no bfloat16 mode for float32; oneDNN on the CPU takes
        both."""
        return (
            "torch has no bf16 mode for float32 on CUDA"
            if (precision, device) == ("bf16", "cuda")
            else None
        )

    @contextlib.contextmanager
    def precision(self, precision: Precision) -> Iterator[None]:
        """Set TF32 and bfloat16 for convolutions (TF32 by default on CUDA) and matrix products,
        each operator by itself.

        The generic setting reaches every operator, but restoring it would not give an operator's
        own setting back. The old `allow_tf32` flags must not be touched beside these: torch then
        refuses to read either. `ieee` also keeps float16 and bfloat16 products from adding up in
        their own type.
        """
        import torch

        check_precision(precision)
        if precision == "default":
            yield
            return
        cuda = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]
        onednn = [torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul]
        wanted: list[tuple[Any, str]] = [
            (setting, "ieee" if precision == "bf16" else precision) for setting in cuda
        ]
        # oneDNN's are `none` (the same as ieee) unless somebody set them; writing `ieee` there
        # would not be undone by `none`.
        wanted += [
            (setting, precision)
            for setting in onednn
            if precision != "ieee" or setting.fp32_precision not in ("none", "ieee")
        ]
        kept = [(setting, setting.fp32_precision) for setting, _ in wanted]
        matmul = torch.backends.cuda.matmul
        flags = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
        allowed = {name: getattr(matmul, name) for name in flags}
        try:
            for setting, value in wanted:
                setting.fp32_precision = value
            for name in flags:
                setattr(matmul, name, False)
            yield
        finally:
            for setting, value in kept:
                setting.fp32_precision = value
            for name, value in allowed.items():
                setattr(matmul, name, value)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Build the module and copy the weights into its parameters."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec):
            raise PatchParityError(reason)
        return _Embedding(implementation, weights, spec, dtype, device)

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """In plain torch; with patchparity `unfold` of a video, which takes a detour, what takes
        bytes, the Triton kernel, and CUDA graphs, on tensors of the GPU."""
        if implementation.mode == "cudagraph":
            return f"""\
{super().usage(implementation, spec, batch).replace("embed = ", "loaded = ").replace(").tokens", ")")}

def embed(images):  # always one tensor of the GPU: new images are put into it, images.copy_(new), and each call overwrites its result
    return loaded.call(images)
"""  # noqa: E501
        if implementation.formulation == FUSED:
            return f"""\
import torch

import patchparity as pp
from patchparity.backends.torch import fused_patch_embed

spec = {spec_code(spec)}


@torch.inference_mode()
def embed(images):
    return fused_patch_embed(images, kernel, bias, spec)  # (B, {spec.num_patches}, {spec.embed_dim})
"""  # noqa: E501
        detour = implementation.formulation == "unfold" and spec.spatial_axes == 3
        return (
            super().usage(implementation, spec, batch)
            if detour or implementation.pixels == "uint8"
            else usage(implementation, spec, batch)
        )

    def wait(self, outputs: Any) -> None:
        """`torch.cuda.synchronize`, of a tensor on a GPU."""
        import torch

        if outputs.is_cuda:
            torch.cuda.synchronize(outputs.device)

    def events(self, device: str) -> Events | None:
        """CUDA events."""
        return _Events() if device == "cuda" else None

    def device_memory(self, device: str) -> DeviceMemory | None:
        """`torch.cuda.max_memory_allocated`."""
        return _Memory() if device == "cuda" else None

    def copy(self, values: int, dtype: str, device: str) -> Computation:
        """`Tensor.copy_`, on all threads."""
        return _Copy(values, dtype, device)

    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """`torch.mm` into a preallocated result."""
        return _Gemm(rows, depth, columns, dtype, device)


BACKENDS = (TorchBackend(),)
