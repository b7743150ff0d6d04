"""torch over several devices: DTensor, on processes that gloo connects.

The framework's own convolution (`torch.nn.functional.conv2d` of DTensors) splits batches alone, and
those of as many images as ranks; of other splits it gives wrong results, mostly without an error.
Its rows stay, for that is what a user sees; beside each is one that is right, behind `-local`.
"""

import functools
import itertools
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...reference.errors import PatchParityError
from ...reference.spec import PatchEmbedSpec
from ...reference.weights import PatchEmbedWeights
from ..base import Backend, Implementation, Precision, only_ieee
from ..computation import LoadedEmbedding
from ..device_work import DeviceWork
from ..layouts import OIHW, kernel_to_layout
from ..torch.adapter import TorchBackend
from .dtensor import INFERENCE, LOCAL
from .ranks import Ranks
from .splits import DEVICES, MODE, SPLITS, refuses_video, split_of, tokens_of_grid, units_of

FORMULATIONS = (
    *(f"{split}{LOCAL}" for split in SPLITS),
    f"height{INFERENCE}",
    f"output-channels{INFERENCE}",
    *SPLITS,
)
"""By hand, which is right; the framework's own in inference mode, which moves images to a split of
the batch first; and its own as training has it."""

_keys = itertools.count()


@functools.cache
def _held() -> list[Ranks]:
    """The group of this process: none yet, or one."""
    return []


def ranks() -> Ranks:
    """The group of this process, started where there is none that lives."""
    held = _held()
    if not held or held[0].closed:
        held[:] = [Ranks(f"{__package__}.dtensor", DEVICES)]
    return held[0]


def _forget(group: Ranks, key: int) -> None:
    if not group.closed:
        group.ask("drop", key)


class _Embedding(LoadedEmbedding):
    """Weights lie in the ranks; images and results travel there and back with every call."""

    def __init__(self, formulation: str, weights: PatchEmbedWeights, spec: PatchEmbedSpec) -> None:
        self.spec, self.key, self.group = spec, next(_keys), ranks()
        self.group.ask("load", self.key, formulation, spec, *_arrays(weights))
        weakref.finalize(self, _forget, self.group, self.key).atexit = False

    def assign(self, weights: PatchEmbedWeights) -> None:
        self.group.ask("assign", self.key, *_arrays(weights))

    def place(self, images: NDArray[Any]) -> Any:
        return np.array(images, np.float32, order="C")

    def call(self, inputs: Any) -> Any:
        return self.group.ask("call", self.key, inputs)

    def synchronize(self, outputs: Any) -> None:
        """A call returns when every rank has answered."""

    def fetch(self, outputs: Any) -> NDArray[Any]:
        return tokens_of_grid(told(outputs))


def told(results: list[NDArray[Any]]) -> NDArray[Any]:
    """What the ranks say that the result is: that of the first, or of the first that says something
    else, for each is the whole result to whoever asks there."""
    first = results[0]
    for other in results[1:]:
        if other.shape != first.shape or other.tobytes() != first.tobytes():
            return other
    return first


def _arrays(weights: PatchEmbedWeights) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Kernel `(D, C, P_h, P_w)` and bias, in float32."""
    kernel = np.array(kernel_to_layout(weights.kernel, OIHW), np.float32, order="C")
    return kernel, None if weights.bias is None else np.array(weights.bias, np.float32)


class ShardedTorchBackend(TorchBackend):
    """DTensor on ranks of gloo's, on the CPU."""

    name = "torch-sharded"
    implementations = tuple(
        Implementation(
            "torch-sharded",
            formulation,
            MODE,
            dtypes=("float32",),
            devices=("cpu",),
            differentiable=False,
            slow_dtypes=("float32",),  # all devices share the cores: small shapes unless asked
            variant=formulation.endswith(INFERENCE),
        )
        for formulation in FORMULATIONS
    )

    @property
    def yardstick(self) -> str:
        """torch in one process."""
        return "torch"

    @property
    def extra(self) -> str:
        """torch's own."""
        return "torch"

    def unavailable(self, implementation: Implementation) -> str | None:
        """A build of torch may come without its distributed part."""
        import torch

        distributed = torch.distributed
        if distributed.is_available() and distributed.is_gloo_available():
            return None
        return "this build of torch has no gloo, by which ranks on CPUs are connected"

    def lacks_dtype(self, implementation: Implementation, dtype: str, device: str) -> str | None:
        """float32 is everywhere."""
        return None

    def devices(self) -> tuple[str, ...]:
        """The CPU, which all ranks share."""
        return ("cpu",)

    def lacks(self, precision: Precision, device: str) -> str | None:
        """Float32 is computed as it is."""
        return only_ieee(self.name, precision)

    def refuses(self, implementation: Implementation, spec: PatchEmbedSpec) -> str | None:
        """Videos have a third axis."""
        return refuses_video(implementation.name, spec)

    def load(
        self,
        implementation: Implementation,
        weights: PatchEmbedWeights,
        spec: PatchEmbedSpec,
        dtype: str,
        device: str,
    ) -> LoadedEmbedding:
        """Start the ranks where there are none, and give each its weights."""
        weights.check_spec(spec)
        if reason := self.refuses(implementation, spec) or self.unavailable(implementation):
            raise PatchParityError(reason)
        return _Embedding(implementation.formulation, weights, spec)

    def device_work(
        self, implementation: Implementation, spec: PatchEmbedSpec, batch: int
    ) -> DeviceWork:
        """As each rank counts it while it computes."""
        weights = PatchEmbedWeights(
            np.zeros(spec.kernel_shape, np.float32), np.zeros(spec.embed_dim, np.float32)
        )
        loaded = _Embedding(implementation.formulation, weights, spec)
        images = np.zeros(spec.images_shape(batch), np.float32)
        counted = loaded.group.ask("count", loaded.key, images)
        values = [
            math.prod(shape)
            for shape in (
                images.shape,
                spec.kernel_shape,
                (spec.embed_dim,),
                spec.tokens_shape(batch),
            )
        ]
        return DeviceWork(
            units_of(split_of(implementation.formulation), spec, batch),
            tuple(float(each.flops) for each in counted),
            float(spec.flops(batch)),
            tuple(each.size for each in counted),
            images.itemsize * sum(values),
            counted[0].collectives,
        )

    def usage(self, implementation: Implementation, spec: PatchEmbedSpec, batch: int) -> str:
        """With patchparity."""
        return Backend.usage(self, implementation, spec, batch)


BACKENDS = (ShardedTorchBackend(),)
