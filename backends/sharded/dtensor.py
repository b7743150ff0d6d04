"""What a rank does: the patch embedding by torch's DTensor, and by hand where that is right.

Runs in the ranks alone. Images are `(B, C, H, W)`, results grids `(B, D, rows, columns)` as
`DTensor.full_tensor()` gives them: what the framework says that the result is.

DTensor's convolution (`torch.distributed.tensor._tp_conv.convolution_handler`, torch 2.13) finds
out which placement it can compute, batch, labels its result so, and computes without moving
anything there: what was split otherwise gets a label that is not its own. Under
`torch.inference_mode` the call takes another way, on which images are moved first.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...reference.spec import PatchEmbedSpec
from ..device_work import Collective
from .ranks import COLLECTIVE_SECONDS, Raised
from .splits import GRID_AXIS, IMAGE_AXIS, parts, spatial_axis, split_of, windows

LOCAL, INFERENCE = "-local", "-inference"
"""Behind a split's name: each rank convolves what it has and names the placement itself; or the
framework's own convolution, called in inference mode."""

COLLECTIVE_NAMES = {
    "all_gather_into_tensor": "all-gather",
    "all_reduce": "all-reduce",
    "all_to_all_single": "all-to-all",
    "reduce_scatter_tensor": "reduce-scatter",
}
"""torch's functional collectives, by XLA's names."""


class Counted(NamedTuple):
    """What one rank did in a forward pass."""

    flops: int
    size: int
    collectives: tuple[Collective, ...]


def prepare() -> None:
    """Import what ranks need, once for all of them; starts no thread."""
    import torch
    import torch.distributed.tensor
    import torch.utils.flop_counter  # noqa: F401


def serve(rank: int, size: int, folder: str, connection: Connection) -> None:
    """Join the group, say who this is, and answer commands until the connection ends."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import init_device_mesh

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // size))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=COLLECTIVE_SECONDS),
    )
    mesh = init_device_mesh("cpu", (size,))
    loaded: dict[int, _Plan] = {}
    connection.send(os.getpid())
    while True:
        try:
            name, key, *arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: Any = None
            if name == "load":
                loaded[key] = _Plan(mesh, rank, *arguments)
            elif name == "assign":
                loaded[key].assign(*arguments)
            elif name == "drop":
                loaded.pop(key, None)
            elif name == "call":
                answer = loaded[key].result(*arguments)
            else:
                answer = loaded[key].counted(*arguments)
        except Exception as error:
            said = (str(error).strip() or "no message").splitlines()[0]
            answer = Raised(f"{type(error).__name__}: {said}")
        connection.send(answer)


class _Plan:
    """A formulation on one rank, with its part of the weights."""

    def __init__(
        self,
        mesh: Any,
        rank: int,
        formulation: str,
        spec: PatchEmbedSpec,
        kernel: NDArray[Any],
        bias: NDArray[Any] | None,
    ) -> None:
        import torch

        self.torch, self.mesh, self.rank, self.spec = torch, mesh, rank, spec
        self.size = mesh.size()
        self.whole_shape: tuple[int, ...] = ()
        self.split = split_of(formulation)
        self.local = formulation.endswith(LOCAL)
        self.context = torch.inference_mode if formulation.endswith(INFERENCE) else torch.no_grad
        self.assign(kernel, bias)

    def assign(self, kernel: NDArray[Any], bias: NDArray[Any] | None) -> None:
        """Take kernel `(D, C, P_h, P_w)` and bias, of which the framework's own convolution gets
        DTensors, and a rank by hand its part."""
        from torch.distributed.tensor import Replicate, Shard

        width_split, depth_split = (
            self.split == "output-channels",
            self.split == "input-channels",
        )
        self.kernel, self.bias = self._tensor(kernel), None if bias is None else self._tensor(bias)
        if self.local:
            if width_split:
                first, last = parts(len(kernel), self.size)[self.rank]
                self.kernel = self.kernel[first:last]
                self.bias = None if self.bias is None else self.bias[first:last]
            elif depth_split:
                first, last = parts(kernel.shape[1], self.size)[self.rank]
                self.kernel = self.kernel[:, first:last]
                # It must be added once: partial sums are added up.
                self.bias = self.bias if self.rank == 0 else None
            return
        placement = Shard(0) if width_split else Shard(1) if depth_split else Replicate()
        self.kernel = self._placed(self.kernel, placement)
        if self.bias is not None:
            self.bias = self._placed(self.bias, Shard(0) if width_split else Replicate())

    def _tensor(self, array: NDArray[Any]) -> Any:
        return self.torch.from_numpy(np.array(array, order="C"))

    def _placed(self, tensor: Any, placement: Any) -> Any:
        """A DTensor of what every rank has: nothing is sent."""
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, self.mesh, [placement], src_data_rank=None)

    def result(self, images: NDArray[Any]) -> NDArray[Any]:
        """The whole grid, as this rank is told it is.

        Raises:
            RuntimeError: this rank or another one could not compute; each tells, so that none waits
                for one that has given up.
        """
        import torch.distributed as dist

        error: Exception | None = None
        grid = None
        try:
            with self.context():
                grid = self._forward(self._place(images))
        except Exception as raised:
            error = raised
        able = self.torch.tensor([0 if error else 1])
        dist.all_reduce(able, dist.ReduceOp.MIN)
        if error:
            raise error
        if grid is None or not able.item():
            raise RuntimeError("another rank could not compute its part")
        with self.context():
            return np.array(grid.full_tensor())

    def counted(self, images: NDArray[Any]) -> Counted:
        """What a forward pass is on this rank: operations as `torch.utils.flop_counter` counts
        them, of local tensors; what is sent; bytes of its part of images, weights and result."""
        with self.context():
            placed = self._place(images)
            self._forward(placed)  # once before: what DTensor tries on the way to a placement
            with _counter() as counter:
                grid = self._forward(placed)
        tensors = [placed, self.kernel, grid] + ([] if self.bias is None else [self.bias])
        size = sum(_local(tensor).nbytes for tensor in tensors)
        return Counted(counter.flops, size, tuple(counter.collectives))

    def _place(self, images: NDArray[Any]) -> Any:
        """Images as DTensor; by hand, this rank's part of them with the padding around."""
        from torch.distributed.tensor import Replicate, Shard

        if not self.local:
            images = self._padded(images, self._own_padding())
            axis = IMAGE_AXIS.get(self.split)
            return self._placed(self._tensor(images), Replicate() if axis is None else Shard(axis))
        images = self._padded(images, self.spec.effective_padding)
        self.whole_shape = self._whole(images)
        spatial = spatial_axis(self.split)
        if spatial is not None:
            window = windows(self.spec, spatial, self.size)[self.rank]
            cut = slice(window.begin, window.end)
            return self._tensor(images[:, :, cut] if spatial == 0 else images[..., cut])
        if self.split == "output-channels":
            return self._tensor(images)
        axis = IMAGE_AXIS[self.split]
        first, last = parts(images.shape[axis], self.size)[self.rank]
        return self._tensor(images[first:last] if axis == 0 else images[:, first:last])

    def _own_padding(self) -> tuple[tuple[int, int], ...]:
        """What a convolution cannot pad itself: zeros that are not the same before and behind."""
        pairs = self.spec.effective_padding
        even = all(before == after for before, after in pairs)
        return ((0, 0), (0, 0)) if even else pairs

    def _padded(self, images: NDArray[Any], pairs: tuple[tuple[int, int], ...]) -> NDArray[Any]:
        return np.pad(images, ((0, 0), (0, 0), *pairs)) if any(map(any, pairs)) else images

    def _forward(self, placed: Any) -> Any:
        """The grid `(B, D, rows, columns)` as a DTensor."""
        convolve = self.torch.nn.functional.conv2d
        if self.local:
            return self._by_hand(placed)
        pairs = self.spec.effective_padding
        padded = any(map(any, self._own_padding()))
        padding = (0, 0) if padded else tuple(before for before, _ in pairs)
        return convolve(placed, self.kernel, self.bias, self.spec.stride, padding)

    def _by_hand(self, part: Any) -> Any:
        """Convolve what this rank has, and say where its result belongs, and in what whole: without
        a whole shape `from_local` takes parts to be equal."""
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

        torch, axis = self.torch, GRID_AXIS.get(self.split)
        whole = self.whole_shape
        shape = list(whole)
        if axis is not None:
            first, last = parts(whole[axis], self.size)[self.rank]
            shape[axis] = last - first
        if 0 in (*shape, *part.shape, *self.kernel.shape):
            # Nothing to compute: torch's convolution takes no channels at all, and no output for
            # which pixels are missing.
            local = torch.zeros(shape)
            if axis is None and self.bias is not None:
                local += self.bias[:, None, None]
        else:
            local = torch.nn.functional.conv2d(part, self.kernel, self.bias, self.spec.stride)
        grid = DTensor.from_local(
            local,
            self.mesh,
            [Partial() if axis is None else Shard(axis)],
            run_check=False,
            shape=torch.Size(whole),
            stride=torch.empty(whole, device="meta").stride(),
        )
        return grid.redistribute(self.mesh, [Replicate()]) if axis is None else grid

    def _whole(self, padded: NDArray[Any]) -> tuple[int, ...]:
        """The shape of the grid of tokens of padded images."""
        spec, split = self.spec, spatial_axis(self.split)
        sizes = [
            spec.grid[axis] if axis == split else (extent - patch) // step + 1
            for axis, (extent, patch, step) in enumerate(
                zip(padded.shape[2:], spec.patch_size, spec.stride, strict=True)
            )
        ]
        return len(padded), spec.embed_dim, *sizes


def _local(tensor: Any) -> Any:
    """This rank's part of a DTensor; another tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


class _Counter:
    """Counts, while a mode of torch's shows them, operations on local tensors and collectives."""

    def __init__(self) -> None:
        self.flops = 0
        self.collectives: list[Collective] = []

    def see(self, operator: Any, arguments: Any, keywords: Any, result: Any) -> None:
        """One operator that has run."""
        from torch import ops
        from torch.utils.flop_counter import flop_registry

        packet = operator._overloadpacket
        if packet is ops.aten.conv2d:  # not taken apart in inference mode
            images, kernel, *_ = arguments
            formula = flop_registry[ops.aten.convolution]
            self.flops += int(formula(images, kernel, None, 1, 0, 1, False, out_val=result))
        elif packet in flop_registry:
            self.flops += int(flop_registry[packet](*arguments, **keywords, out_val=result))
        name = COLLECTIVE_NAMES.get(packet.__name__)
        if name and operator.namespace.endswith("c10d_functional"):
            self.collectives.append(Collective(name, int(result.nbytes)))


@contextlib.contextmanager
def _counter() -> Iterator[_Counter]:
    """Count within: DTensors are passed by, until they have become operators on local tensors, and
    so are fake ones, on which shapes are tried."""
    from torch import device
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.distributed.tensor import DTensor
    from torch.utils._python_dispatch import TorchDispatchMode

    counter, cpu = _Counter(), device("cpu")

    class Mode(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(
            self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if any(issubclass(each, DTensor) for each in types):
                return NotImplemented
            result = operator(*args, **(kwargs or {}))
            if not isinstance(result, FakeTensor) and getattr(result, "device", None) == cpu:
                counter.see(operator, args, kwargs or {}, result)
            return result

    with Mode():
        yield counter
