"""What it takes to write a whole ViT-L/16 of 1.2 GB with a third of its bytes transposed, beside
`cp` of the file and transformers' loading and saving: `python -m tests.encoder_sizes`; outside CI.

The record, docs/encoder_sizes.json, has the least of some turns of each, all in one run: seconds of
the work itself, without imports, seconds of the whole process with them, seconds of processor of
the work, and MB of memory at the peak.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from patchparity.porting.files.atomic import write_json

RECORD = Path(__file__).parent.parent / "docs" / "encoder_sizes.json"

WIDTH, BLOCKS, HIDDEN = 1024, 24, 4096
"""ViT-L/16."""

TARGETS = {
    "of_cp": 2.0,
    "unchecked_of_cp": 2.0,
    "process_of_transformers": 0.25,
    "work_of_transformers": 0.25,
    "peak_of_transformers": 0.15,
    "peak_mb": 300.0,
}
"""Time of the work against `cp`; time of the process, time of the work and peak against
transformers; and MB beyond the largest tensor."""

MEASURED = """
import resource, time
def told(begin, cpu):
    took = time.perf_counter() - begin, time.process_time() - cpu
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))
    print(*took, peak)
"""

STREAMED = """
from patchparity.porting.files.opening import open_checkpoint
from patchparity.porting.files.streamed import Lazy, write_streamed
begin, cpu = time.perf_counter(), time.process_time()
with open_checkpoint(f"{source}/model.safetensors") as held:
    tensors = {}
    for name, info in held.tensors.items():
        if turned in name:
            read = lambda name=name: held.view(name).T
            tensors[name] = Lazy(info.shape[::-1], info.dtype, read)
        else:
            read = lambda name=name: held.view(name)
            tensors[name] = Lazy(info.shape, info.dtype, read, (held, name))
    config = open(f"{source}/config.json", "rb").read()
    write_streamed(
        f"{target}/model.safetensors", tensors, held.metadata, companions={"config.json": config}
    )
told(begin, cpu)
"""

TRANSFORMERS = """
from transformers import ViTModel
begin, cpu = time.perf_counter(), time.process_time()
model = ViTModel.from_pretrained(source)
model.save_pretrained(target)
told(begin, cpu)
"""

COPIED = """
import subprocess
begin = time.perf_counter()
subprocess.run(["cp", f"{source}/model.safetensors", f"{target}/model.safetensors"], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""

UNCHECKED = f"""
import patchparity.porting.files.streamed as module
module._require_same = lambda *given: None
{STREAMED}"""
"""What reading back and comparing costs is the difference."""

WAYS = {
    "cp": COPIED,
    "streamed": STREAMED,
    "streamed_unchecked": UNCHECKED,
    "transformers": TRANSFORMERS,
}

TURNED = ".intermediate.dense.weight", ".mlp.fc1.weight"
"""How transformers calls a block's first matrix of the MLP, a third of its bytes; version 5 has the
second."""

MODEL = """
import torch
from transformers import ViTConfig, ViTModel
torch.manual_seed(0)
ViTModel(ViTConfig(hidden_size={width}, num_hidden_layers={blocks}, num_attention_heads=16,
                   intermediate_size={hidden})).save_pretrained({folder!r})
"""


def run(code: str) -> str:
    """What a process prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def measured(folder: Path, turns: int, turned: str) -> dict[str, dict[str, float]]:
    """The least of each, over turns in which all go one after another."""
    runs: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(turns):
        for way, code in WAYS.items():
            with tempfile.TemporaryDirectory(dir=folder) as target:
                subprocess.run(["sync"], check=True)  # nobody pays for what another wrote
                given = (
                    f"source, target, turned = {str(folder / 'model')!r}, {target!r}, {turned!r}"
                )
                begin = time.perf_counter()
                told = run(f"{given}\n{MEASURED}{code}").splitlines()[-1].split()
                runs[way].append([*map(float, told), time.perf_counter() - begin])
    fields = ("seconds", "processor_seconds", "peak_mb", "process_seconds")
    return {
        way: {field: round(min(turn[i] for turn in each), 3) for i, field in enumerate(fields)}
        for way, each in runs.items()
    }


def main() -> None:
    """Measure, print the ratios beside their targets, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--record", type=Path, default=RECORD)
    given = parser.parse_args()
    from importlib.metadata import version

    from patchparity.porting.files.opening import opened

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {"width": WIDTH, "blocks": given.blocks, "hidden": HIDDEN}
        run(MODEL.format(folder=str(folder / "model"), **made))
        with opened(folder / "model") as held:
            sizes = {name: info.nbytes for name, info in held.tensors.items()}
        turned = next(part for part in TURNED if any(part in name for name in sizes))
        of_turned = sum(size for name, size in sizes.items() if turned in name)
        load = os.getloadavg()[0]  # of others on the machine, before anything is measured
        found = measured(folder, given.turns, turned)
    ours, theirs = found["streamed"], found["transformers"]
    ratios = {
        "of_cp": ours["seconds"] / found["cp"]["seconds"],
        "unchecked_of_cp": found["streamed_unchecked"]["seconds"] / found["cp"]["seconds"],
        "process_of_transformers": ours["process_seconds"] / theirs["process_seconds"],
        "work_of_transformers": ours["seconds"] / theirs["seconds"],
        "peak_of_transformers": ours["peak_mb"] / theirs["peak_mb"],
        "peak_mb": ours["peak_mb"] - max(sizes.values()) / 2**20,
    }
    record = {
        "model": made,
        "megabytes": round(sum(sizes.values()) / 1e6),
        "transposed": round(of_turned / sum(sizes.values()), 3),
        "turns": given.turns,
        "measured": found,
        "ratios": {what: round(ratio, 3) for what, ratio in ratios.items()},
        "targets": TARGETS,
        "processors": len(os.sched_getaffinity(0)),
        "load": round(load, 1),
        "versions": {"python": platform.python_version(), "transformers": version("transformers")},
    }
    for what, ratio in ratios.items():
        print(f"{what}: {ratio:.3f}, expected at most {TARGETS[what]}")
    print(json.dumps(found, indent=1))
    write_json(given.record, record)


if __name__ == "__main__":
    main()
