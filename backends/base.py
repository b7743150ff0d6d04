"""What a backend is: its surface and its implementations.

Laws: a backend imports its framework inside methods only; it owns the synchronization (nobody else
can tell that JAX returns before it has computed); arrays come and go in canonical layout, and every
layout is an einops pattern that the implementation declares.
"""

import abc
import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..reference.error import ArithmeticModel
from ..reference.errors import PatchParityError, require_choice
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .computation import Computation, DeviceMemory, Events, LoadedEmbedding
from .device_work import DeviceWork
from .layouts import NCHW, OIHW
from .pixels import LARGEST_MEAN, NORMALIZING_ROUNDINGS, refuses_padding, unfolded

Precision = Literal["ieee", "tf32", "bf16", "default"]
"""How float32 is computed: as it is, with inputs rounded to TF32 or bfloat16, or however the
framework does when nobody asks."""
Stored = Literal["", "float16", "int8"]
"""What a model keeps its kernel in, where that is another type than the images'."""
DTYPES = ("float32", "float64", "bfloat16", "float16")
INPUT_ROUNDOFF: dict[str, float] = {"tf32": 2.0**-11, "bf16": 2.0**-8}
"""Unit roundoff of the inputs in the reduced float32 precisions: 10 and 7 explicit mantissa bits,
rounded to nearest."""
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Implementation:
    """One way to compute the patch embedding: backend + formulation + mode, and the arithmetic it
    declares.

    Args:
        backend: name of the backend.
        formulation: `conv2d`, `linear` (reshape + matmul), ...
        mode: `eager`, `graph`, `xla`, `jit`, `compile`, or `sharded` over several devices.
        image_layout, kernel_layout: einops patterns of `backends.layouts`.
        dtypes: those it computes in.
        devices: those it computes on, where its framework has them.
        flush_to_zero: whether it flushes subnormal numbers.
        output_roundings: how often a 16-bit result is rounded: 1 where the bias is fused, 2 where
            it is added afterwards.
        output_roundings_on_cuda: the same on a GPU; None where it is no other.
        narrow_gradients: whether parts of a gradient's sum are kept in the 16-bit type (bias sums,
            overlapping patches, images).
        default_on_cuda: what `default` means for float32 on a GPU, as the framework documents it;
            on the CPU it is `ieee` everywhere.
        differentiable: whether it has gradients; where it has none, forward alone is judged.
        slow_dtypes: those whose kernels take ten times as long as they should, so that `check` runs
            them on small shapes unless asked.
        costly_compile: whether the first call takes seconds, so that `check` runs it on one shape
            unless asked.
        variant: whether it is one more way to write what its framework has already: `check` runs it
            on one shape unless asked, and the benchmark leaves it out of the smaller presets.
        customary: whether it is what users of its framework call today, if no library does it for
            them: what the fastest is held against.
        peer: whether it is a library's own module, called as its users call it: a row of role
            `peer`, what ours are held against.
        pixels: `float`, or `uint8`: images are bytes, given as whole numbers from 0 to 255 of any
            dtype, and weights are folded ones (`fold_normalization`). It has tokens alone, and is
            compared with others of its kind.
        normalizes: whether it rescales and normalizes these bytes first, with ImageNet's mean and
            standard deviation, as users do: it unfolds the weights that it is given.
        stored: the type that its model keeps the kernel in, where that is another than the images':
            `float16`, or `int8`, whose steps `LoadedEmbedding.quantization` tells. It is a file of
            its own, checked on the shapes of 16-bit types, and timed where it is named.
    """

    backend: str
    formulation: str
    mode: str
    image_layout: str = NCHW
    kernel_layout: str = OIHW
    dtypes: tuple[str, ...] = DTYPES
    devices: tuple[str, ...] = DEVICES
    flush_to_zero: bool = False
    output_roundings: int = 1
    output_roundings_on_cuda: int | None = None
    narrow_gradients: bool = True
    default_on_cuda: Precision = "ieee"
    differentiable: bool = True
    slow_dtypes: tuple[str, ...] = ()
    costly_compile: bool = False
    variant: bool = False
    customary: bool = False
    peer: bool = False
    pixels: Literal["float", "uint8"] = "float"
    normalizes: bool = False
    stored: Stored = ""

    @property
    def name(self) -> str:
        """`backend:formulation:mode`, as users write it."""
        return f"{self.backend}:{self.formulation}:{self.mode}"

    @property
    def sharded(self) -> bool:
        """Whether several devices compute it together: judged as others are, asked how its work is
        split, and timed only where somebody names it."""
        return self.mode == "sharded"

    @property
    def minor(self) -> bool:
        """Whether one shape will do for a check, and no behavior is asked for, unless somebody
        wants more."""
        return self.costly_compile or self.variant or self.peer

    def arithmetic(
        self,
        dtype: str,
        precision: Precision = "ieee",
        device: str = "cpu",
        *,
        to_sequence: bool = False,
    ) -> ArithmeticModel:
        """Return the arithmetic model that the implementation declares for a dtype at a precision
        on a device.

        A sequence (`to_sequence`) is rounded once more than tokens are: when positions are added to
        them.

        Precision settings are about float32 alone. Tensor cores, which compute TF32, bfloat16 and
        float16 on GPUs, truncate where others round to nearest: their accumulator's roundoff is
        twice as large (Fasi, Higham, Mikaitis, Pranesh, PeerJ CS 7:e330, 2021).
        """
        if precision == "default":
            precision = self.default_on_cuda if device == "cuda" else "ieee"
        inputs = INPUT_ROUNDOFF.get(precision, 0.0) if dtype == "float32" else 0.0
        on_cuda = self.output_roundings_on_cuda if device == "cuda" else None
        roundings = self.output_roundings if on_cuda is None else on_cuda
        model = ArithmeticModel.of(np.dtype(dtype), self.flush_to_zero, roundings + to_sequence)
        gradients = model.output if self.narrow_gradients else 0.0
        truncating = device == "cuda" and (inputs or model.output)
        return dataclasses.replace(
            model,
            inputs=inputs,
            gradients=gradients,
            accumulate=model.accumulate * (2 if truncating else 1),
            pixel_roundings=NORMALIZING_ROUNDINGS if self.normalizes else 0,
            pixel_offset=LARGEST_MEAN if self.normalizes else 0.0,
            stored=self.stored,
            weights=2.0**-11 if self.stored == "float16" else 0.0,
            weights_smallest=2.0**-25 if self.stored == "float16" else 0.0,
        )

    def own_weights(self, weights: PatchEmbedWeights) -> PatchEmbedWeights:
        """The weights that it computes with: those that it is given, unfolded where it
        normalizes."""
        return unfolded(weights) if self.normalizes else weights


def spec_code(spec: PatchEmbedSpec) -> str:
    """Lines that make a spec."""
    fields = "".join(f"    {name}={value!r},\n" for name, value in spec.to_dict().items())
    return f"pp.PatchEmbedSpec(\n{fields})"


class Backend(abc.ABC):
    """A framework: what it offers here, whether it is installed, and how its implementations are
    loaded."""

    name: str
    """As in implementation names and `--backend`."""
    packages: tuple[str, ...]
    """Distributions that it needs, each of the name of its module; their versions belong in a
    record."""
    implementations: tuple[Implementation, ...]
    """Everything it offers, known without importing the framework."""
    product_dtypes: tuple[str, ...] = DTYPES
    """Those in which its matrix product is worth timing as a yardstick."""
    distributions_alone: tuple[str, ...] = ()
    """Those of `distributions` that would bring what is not needed: installed without what they
    name."""
    switches: Mapping[str, str] = MappingProxyType({})
    """Variables that hold for a whole process and without which the framework is another one;
    `check` and `bench` set them."""

    @property
    def yardstick(self) -> str:
        """Name of the backend whose matrix product and copy are this one's own: itself, unless it
        runs on another."""
        return self.name

    @property
    def extra(self) -> str:
        """Names of the extras that install it."""
        return self.name

    @property
    def distributions(self) -> tuple[str, ...]:
        """What pip installs for it."""
        return self.packages

    def missing(self) -> str | None:
        """Say in one sentence why the backend cannot run here and what to install, or None if it
        can."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return (
                    f"{package} is not installed: pip install 'patchparity[{self.extra}]', or "
                    f"patchparity backends --install {self.name}"
                )
        return None

    def unavailable(self, implementation: Implementation) -> str | None:
        """Say in one sentence why one implementation cannot run although the backend can, or None
        if it can."""
        return None

    def lacks_dtype(self, implementation: Implementation, dtype: str, device: str) -> str | None:
        """Say in one sentence why an implementation cannot compute in one of its dtypes on this
        machine, or None if it can."""
        return None

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """Say in one sentence why an implementation cannot compute these sizes, or None if it
        can."""
        return (
            refuses_padding(implementation.name, spec) if implementation.pixels == "uint8" else None
        )

    def lacks(self, precision: Precision, device: str) -> str | None:
        """Say in one sentence why the framework has no such float32 precision on a device, or None
        if it has.

        Having a setting does not mean that it is honored: what was delivered is measured.
        """
        return None

    def versions(self) -> dict[str, str]:
        """Versions of the backend's distributions, those that are installed."""
        import importlib.metadata  # a tenth of what the smallest command takes

        versions = {}
        for package in self.packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[package] = importlib.metadata.version(package)
        return versions

    @abc.abstractmethod
    def devices(self) -> tuple[str, ...]:
        """Names of the devices that it can use here: `cpu`, and `cuda` where there is one."""

    @abc.abstractmethod
    def environment(self, threads: int) -> dict[str, str]:
        """Variables that a worker process needs before its interpreter starts, to use exactly
        `threads` CPU threads."""

    @abc.abstractmethod
    def precision(self, precision: Precision) -> contextlib.AbstractContextManager[None]:
        """Hold the framework's precision settings while inside: `ieee` (no TF32, no bf16), `tf32`,
        `bf16`, or `default` (untouched)."""

    def adopt(self, array: NDArray[Any]) -> NDArray[Any]:
        """Hand a NumPy array over as the framework's users do, and give it back as one: what is
        refused or changed on the way?"""
        return np.asarray(array)

    def cast_and_back(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Cast float32 to float16 and back in one computation of the framework, compiled where it
        compiles; None where it has none."""
        return None

    def convolve(self, images: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any] | None:
        """Convolve with the framework's own function, on the CPU, without bias or padding; None
        where it has none.

        Args:
            images: `(B, C, H, W)`.
            kernel: `(D, C, P, P)`; the stride is P.

        Returns:
            The framework's answer in the order `(B, D, H/P, W/P)`, of whatever shape it is.
        """
        return None

    @abc.abstractmethod
    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Load the canonical weights (kernel and bias) into an implementation."""

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """Lines of Python that define `embed(images)`, from images in the implementation's own
        layout to tokens `(B, N, D)`.

        They are given `kernel`, as the implementation's layout has it, and `bias`, both as the
        framework's own arrays. Unless a backend knows better they load the implementation through
        patchparity, and everything is a NumPy array, images `(B, C, H, W)`.
        """
        return f"""\
import patchparity as pp
from patchparity.backends.layouts import kernel_from_layout

spec = {spec_code(spec)}
weights = pp.PatchEmbedWeights(kernel_from_layout(kernel, "{implementation.kernel_layout}", spec), bias)
backend = pp.get_backend("{self.name}")
embed = backend.load(backend.implementation("{implementation.name}"), weights, spec, kernel.dtype.name, "{implementation.devices[0]}").tokens
"""  # noqa: E501

    def device_work(
        self, implementation: Implementation, spec: PatchEmbedSpec, batch: int
    ) -> DeviceWork | None:
        """What each of several devices does of a forward pass in float32; None where one does
        all."""
        return None

    def wait(self, outputs: Any) -> None:  # noqa: B027  nothing to do is a default
        """Return once outputs of the framework, whoever called it, are computed; where calls return
        when they are there is nothing to do."""

    def events(self, device: str) -> Events | None:
        """The device's own clock, or None where the framework does not offer it."""
        return None

    def device_memory(self, device: str) -> DeviceMemory | None:
        """What the framework's allocator tells of the device's memory, or None where it tells
        nothing."""
        return None

    def sweep(self, values: int, device: str) -> Computation | None:
        """Something that reads and writes `values` float32 values on the device, to push all else
        out of its cache, or None where the framework has nothing of the kind; its `call` takes
        None."""
        return self.copy(values, "float32", device)

    def copy(self, values: int, dtype: str, device: str) -> Computation | None:
        """Return a copy of `values` values from one array to another, or None where the framework
        has none that is worth timing."""
        return None

    @abc.abstractmethod
    def gemm(self, rows: int, depth: int, columns: int, dtype: str, device: str) -> Computation:
        """Return the plain matrix product `(rows, depth) × (depth, columns)` on random data; its
        `call` takes None."""

    def implementation(self, name: str) -> Implementation:
        """Find one of the backend's implementations by `backend:formulation:mode`."""
        for implementation in self.implementations:
            if implementation.name == name:
                return implementation
        raise PatchParityError(
            f"implementation {name!r} is unknown; {self.name} has "
            f"{', '.join(i.name for i in self.implementations)}"
        )


@contextlib.contextmanager
def nothing_held(precision: Precision) -> Iterator[None]:
    """Serve as `precision` of a backend without precision settings."""
    check_precision(precision)
    yield


def only_ieee(name: str, precision: Precision) -> str | None:
    """Serve as `lacks` of a backend without precision settings."""
    return (
        None
        if precision in ("ieee", "default")
        else f"{name} has no {precision} mode: it computes float32 as it is"
    )


def check_precision(precision: str) -> None:
    """Raise PatchParityError for a precision that does not exist."""
    require_choice("precision", precision, get_args(Precision))


def check_place(dtypes: Iterable[str], devices: Iterable[str]) -> None:
    """Raise PatchParityError for a dtype or device that no implementation knows."""
    for dtype in dtypes:
        require_choice("dtype", dtype, DTYPES)
    for device in devices:
        require_choice("device", device, DEVICES)
