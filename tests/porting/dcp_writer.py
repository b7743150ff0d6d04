"""What two processes of torch.distributed save, each its part: run as a script with a folder that
holds `whole.safetensors`."""

import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

import safetensors.torch  # noqa: E402
import torch  # noqa: E402
import torch.distributed.checkpoint as dcp  # noqa: E402
from torch import distributed, multiprocessing, nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_state_dict  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import Shard, distribute_tensor  # noqa: E402

PROCESSES = 2


def module_of(tensors):
    """A module whose parameters go by these names."""
    root = nn.Module()
    for name, value in tensors.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, nn.Parameter(value))
    return root


def save_all(rank, folder):
    """The same tensors, in every way."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES
    )
    tensors = safetensors.torch.load_file(folder / "whole.safetensors")
    mesh = init_device_mesh("cpu", (PROCESSES,))
    model = fully_shard(module_of(tensors), mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state, moments = get_state_dict(model, optimizer)
    beside = {"step": 3, "note": "x", "list": [torch.ones(2), {"a": torch.zeros(())}]}
    dcp.save({"model": state, "optim": moments, **beside}, checkpoint_id=folder / "fsdp")
    columns = {
        name: distribute_tensor(value, mesh, [Shard(value.ndim - 1)])
        for name, value in tensors.items()
    }
    dcp.save(columns, checkpoint_id=folder / "columns")
    several = dcp.FileSystemWriter(folder / "files", single_file_per_rank=False, thread_count=2)
    dcp.save(state, storage_writer=several)
    narrow = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
    dcp.save(narrow, checkpoint_id=folder / "bfloat16")
    kind = dcp.filesystem.SerializationFormat.SAFETENSORS
    other = dcp.FileSystemWriter(folder / "other", serialization_format=kind)
    dcp.save(state, storage_writer=other)
    for name, whole in (("parts", False), ("whole", True)):
        writer = dcp.HuggingFaceStorageWriter(
            str(folder / name), save_distributed=True, enable_consolidation=whole
        )
        dcp.save(dict(state), storage_writer=writer)
    # both at one place, and out without tearing gloo's threads down, which aborts now and then
    distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.spawn(save_all, (Path(sys.argv[1]),), nprocs=PROCESSES)
