#!/usr/bin/env bash
# torch.nn.functional.conv2d of DTensors is right where the batch is split, and told otherwise without an error where anything else is.
#
# Guess beforehand: a DTensor's convolution gives the result of the whole, moves what it needs, or refuses; the placement that it names is the one that it has.
# Seen: with images split by rows or columns, fewer images than ranks, or a kernel split by outputs or channels, the result is named Replicate, of the whole shape, while each rank
# holds its own part or an unreduced sum; full_tensor() gives that part. Of as many images as ranks it is named Shard(0), and full_tensor() raises. The same calls under
# torch.inference_mode() are right: all is gathered and split by batch first.
# Versions: torch 2.13.0 (CPU, gloo), Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
cat > "$folder/program.py" <<'PROGRAM'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from torch.nn.functional import conv2d

RANKS = 4
WHOLE = Replicate()
CASES = {
    "eight images, split by batch": (8, Shard(0), WHOLE, WHOLE),
    "two images, split by batch": (2, Shard(0), WHOLE, WHOLE),
    "two images, split by rows": (2, Shard(2), WHOLE, WHOLE),
    "eight images, split by rows": (8, Shard(2), WHOLE, WHOLE),
    "two images, split by columns": (2, Shard(3), WHOLE, WHOLE),
    "kernel split by outputs": (2, WHOLE, Shard(0), Shard(0)),
    "images and kernel split by channels": (2, Shard(1), Shard(1), WHOLE),
}


def attempt(arrays, placements, mesh, expected):
    try:
        result = conv2d(*(distribute_tensor(a, mesh, [p]) for a, p in zip(arrays, placements)), stride=4)
        whole = result.full_tensor()
    except RuntimeError as error:
        return f"raises: {str(error).splitlines()[0]}"
    right = whole.shape == expected.shape and torch.allclose(whole, expected, atol=1e-4)
    return "right" if right else f"wrong: named {result.placements[0]}, of {tuple(result.shape)}, gives {tuple(whole.shape)}"


def work(rank, store, queue):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    generator = torch.Generator().manual_seed(0)
    images, kernel, bias = (torch.randn(shape, generator=generator) for shape in ((8, 8, 32, 64), (48, 8, 4, 4), (48,)))
    for name, (batch, *placements) in CASES.items():
        arrays = images[:batch], kernel, bias
        expected = conv2d(*arrays, stride=4)
        with torch.no_grad():
            found = attempt(arrays, placements, mesh, expected)
        with torch.inference_mode():
            inference = attempt(arrays, placements, mesh, expected)
        if rank == 0:
            queue.put((name, found, inference))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    print("torch", torch.__version__)
    queue = mp.get_context("spawn").SimpleQueue()
    mp.spawn(work, (sys.argv[1], queue), nprocs=RANKS)
    found = {}
    for _ in CASES:
        name, plain, inference = queue.get()
        print(f"{name}: {plain}; in inference mode {inference}")
        found[name] = plain
        assert inference == "right", name
    right = [name for name, said in found.items() if said == "right"]
    assert right == ["eight images, split by batch"], right
    assert found["eight images, split by rows"].startswith("raises"), found
    assert sum(said.startswith("wrong: named R") for said in found.values()) == 5, found
    print("as found: only a batch of as many images as ranks is split rightly; the rest is mislabelled, or right in inference mode alone")
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder/store" 2>/dev/null
