"""What a backend makes of weights: a computation with images placed, called, waited for and
fetched."""

import abc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..reference.embed import PatchEmbedGradients
from ..reference.errors import PatchParityError
from ..reference.expectation import Direction
from ..reference.quantize import Quantization
from ..reference.spec import PatchEmbedSpec
from ..reference.weights import PatchEmbedWeights
from .layouts import kernel_from_layout


class Computation(abc.ABC):
    """Something that a device computes: call it, wait for it."""

    @abc.abstractmethod
    def call(self, inputs: Any) -> Any:
        """Start the computation on placed inputs and return what the framework returns, maybe
        before it is computed."""

    @abc.abstractmethod
    def synchronize(self, outputs: Any) -> None:
        """Return once `outputs` are computed."""


@dataclass(frozen=True)
class FirstCall:
    """Seconds of the first call that went into tracing and into compiling; None where that is not
    known apart from the rest."""

    trace_seconds: float | None = None
    compile_seconds: float | None = None


class LoadedEmbedding(Computation):
    """An implementation with weights loaded, on one device, in one dtype."""

    spec: PatchEmbedSpec
    """The sizes that it was loaded for."""

    @abc.abstractmethod
    def assign(self, weights: PatchEmbedWeights) -> None:
        """Replace kernel and bias by others of the same shapes; nothing is traced or compiled
        again."""

    @abc.abstractmethod
    def place(self, images: NDArray[Any]) -> Any:
        """Move images `(B, C, H, W)` to the device in the implementation's own layout and dtype."""

    def quantization(self, images: NDArray[Any]) -> Quantization | None:
        """The steps that the runtime chose for what it stores as integers, once it has been given
        images `(B, C, H, W)` of float32; None where nothing is."""
        return None

    @abc.abstractmethod
    def fetch(self, outputs: Any) -> NDArray[Any]:
        """Wait for tokens and return them as a NumPy array `(B, N, D)`."""

    def gradients(self, images: NDArray[Any], grad_tokens: NDArray[Any]) -> PatchEmbedGradients:
        """Differentiate ⟨tokens, grad_tokens⟩ with the framework's own machinery; images `(B, C, H,
        W)`, results canonical.

        Raises:
            PatchParityError: an implementation that is not differentiable.
        """
        raise PatchParityError("this implementation has no gradients")

    def tokens(self, images: NDArray[Any]) -> NDArray[Any]:
        """Place, call and fetch: images `(B, C, H, W)` to tokens `(B, N, D)`.

        Raises:
            PatchParityError: images of another shape than the implementation was loaded for.
                Frameworks, left to themselves, crop them, give more tokens, or take the values as
                they lie.
        """
        self.spec.check_images(images)
        return self.unchecked_tokens(images)

    def unchecked_tokens(self, images: NDArray[Any]) -> NDArray[Any]:
        """The same of images of whatever shape: what the framework does with them is what a user of
        it would see."""
        return self.fetch(self.call(self.place(images)))

    def first_call(self, inputs: Any) -> tuple[Any, FirstCall]:
        """Call for the first time, and tell what tracing and compiling took where the framework
        tells it or they can be done apart."""
        outputs = self.call(inputs)
        self.synchronize(outputs)
        return outputs, FirstCall()

    def sequence(self, class_token: NDArray[Any], positions: NDArray[Any]) -> "Operation | None":
        """What enters a ViT's encoder, as one computation in the implementation's own mode; None
        where it has none.

        Args:
            class_token: `(D,)`, put before the patch tokens of every image.
            positions: `(1 + N, D)`, added to both.

        Returns:
            A computation on placed images that is fetched as `{"forward": (B, 1 + N, D)}`.
        """
        return None

    def train_step(self, grad_tokens: NDArray[Any]) -> "Operation | None":
        """Tokens, and the gradients of ⟨tokens, grad_tokens⟩ with respect to kernel and bias, as
        one computation; None where it has none.

        The tokens are a result too: a compiler that need not return them leaves the forward pass
        out, for the map is linear and its gradients do not depend on it. The images have no
        gradient, as in a first layer.

        Returns:
            A computation on placed images that is fetched as `{"forward", "grad_kernel",
            "grad_bias"}`, each in canonical layout.
        """
        return None


def called_twice(call: Callable[[], Any]) -> tuple[Any, float]:
    """Call for the first time and once more, each waited for; return the outputs, and the seconds
    that the second call did not take.

    Where a framework does not tell how long it compiled, that is the nearest to it.
    """
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        outputs = call()
        seconds.append(time.perf_counter() - started)
    return outputs, max(0.0, seconds[0] - seconds[1])


@dataclass(frozen=True, eq=False)
class Operation(Computation):
    """Something else that a loaded embedding computes from placed images.

    Args:
        embedding: whose it is; it waits for the outputs.
        function: from placed images to what the framework returns.
        fetched: from that to arrays in canonical layout, by direction.
    """

    embedding: LoadedEmbedding
    function: Callable[[Any], Any]
    fetched: Callable[[Any], dict[Direction, NDArray[Any]]]

    def call(self, inputs: Any) -> Any:
        """Start the computation."""
        return self.function(inputs)

    def synchronize(self, outputs: Any) -> None:
        """Return once `outputs` are computed."""
        self.embedding.synchronize(outputs)

    def fetch(self, outputs: Any) -> dict[Direction, NDArray[Any]]:
        """Wait for the outputs and return them as NumPy arrays."""
        return self.fetched(outputs)


def step_results(
    arrays: Iterable[NDArray[Any]], kernel_layout: str, spec: PatchEmbedSpec
) -> dict[Direction, NDArray[Any]]:
    """Name what a train step gives: tokens, and the gradients of kernel (kept as `kernel_layout`)
    and, where there is one, bias."""
    tokens, kernel, *bias = arrays
    named: dict[Direction, NDArray[Any]] = {
        "forward": tokens,
        "grad_kernel": kernel_from_layout(kernel, kernel_layout, spec),
    }
    return {**named, "grad_bias": bias[0]} if bias else named


class Events(abc.ABC):
    """A device's own clock: marks in its queue of work, and the time between two of them."""

    @abc.abstractmethod
    def mark(self) -> Any:
        """Put a mark behind everything that was queued."""

    @abc.abstractmethod
    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two marks; waits for the later one."""


class DeviceMemory(abc.ABC):
    """What an allocator tells of a device's memory."""

    @abc.abstractmethod
    def reset_peak(self) -> int | None:
        """Forget the peak so far; return the bytes that are in use, or None where the peak cannot
        be forgotten."""

    @abc.abstractmethod
    def peak(self) -> int:
        """Most bytes in use since then."""
