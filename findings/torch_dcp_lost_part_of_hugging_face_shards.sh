#!/usr/bin/env bash
# torch.distributed.checkpoint saves a state dict in Hugging Face's form, each process its part (HuggingFaceStorageWriter(save_distributed=True)); then the parts are
# loaded by HuggingFaceStorageReader, or made one file by consolidate_safetensors_files. One part is lost in between.
#
# Guess beforehand: both raise, as loading torch.distributed's own form does when a .distcp file is not there.
# Seen: neither raises. Of three parts without the second, the loaded kernel keeps whatever its model had in a third of its rows, and the consolidated one has zeros
# there; without the third the consolidated kernel has 8 output channels, not 12. The parts tell where each begins, and not how many there are or how large the whole is.
# Versions: torch 2.13.0 (CPU), safetensors 0.8.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "safetensors==0.8.0" "numpy"
cat > "$folder/program.py" <<'PROGRAM'
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import distributed, multiprocessing
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

warnings.simplefilter("ignore")


def save(rank, folder, kernel):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    held = {"kernel": distribute_tensor(kernel, init_device_mesh("cpu", (3,)), [Shard(0)])}
    dcp.save(held, storage_writer=HuggingFaceStorageWriter(f"{folder}/parts", save_distributed=True))
    dcp.save(held, checkpoint_id=f"{folder}/own")
    distributed.destroy_process_group()


def consolidated(parts, out):
    out.mkdir()
    consolidate_safetensors_files(str(parts), str(out), fqn_to_index_mapping={"kernel": 1})
    return load_file(next(out.glob("*.safetensors")))["kernel"]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(*(f"{name} {version(name)}" for name in ("torch", "safetensors")))
    kernel = torch.randn(12, 3, 4, 5)
    multiprocessing.spawn(save, (folder, kernel), nprocs=3)
    (folder / "own" / "__1_0.distcp").unlink()
    raised = False
    try:
        dcp.load({"kernel": torch.zeros(12, 3, 4, 5)}, checkpoint_id=folder / "own", no_dist=True)
    except BaseException as error:  # CheckpointException
        raised = "FileNotFoundError" in repr(error)
    print("own form without its second file: raises", raised)
    parts = sorted((folder / "parts").glob("*.safetensors"))
    assert len(parts) == 3, parts
    whole = consolidated(folder / "parts", folder / "whole")
    parts[1].rename(folder / "lost")
    state = {"kernel": torch.full((12, 3, 4, 5), 7.0)}
    dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder / "parts")), no_dist=True)
    loaded = state["kernel"]
    middle = consolidated(folder / "parts", folder / "middle")
    print("second part lost: loaded rows 4 to 7 are", loaded[4:8].unique().tolist(), "and consolidated", middle[4:8].unique().tolist())
    (folder / "lost").rename(parts[1])
    parts[2].rename(folder / "lost")
    last = consolidated(folder / "parts", folder / "last")
    print("third part lost: consolidated", tuple(last.shape))
    seen = (
        raised
        and torch.equal(whole, kernel)
        and torch.equal(loaded[[0, 1, 2, 3, 8, 9, 10, 11]], kernel[[0, 1, 2, 3, 8, 9, 10, 11]])
        and bool((loaded[4:8] == 7).all())
        and bool((middle[4:8] == 0).all())
        and torch.equal(last, kernel[:8])
    )
    sys.exit(not seen)
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder"
