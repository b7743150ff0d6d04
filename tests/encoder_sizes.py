"""What it takes to port a whole ViT-L/16 of 1.2 GB without the proof, beside `cp` of the file and
transformers' loading and saving: `python -m tests.encoder_sizes`; outside CI.

The record, docs/encoder_sizes.json, has the least of some turns of each, all in one run: seconds of
the work itself, without imports, seconds of the whole process with them, seconds of processor of
the work, and MB of memory at the peak. The table of docs/whole.md is made of it. `--page` makes
that alone.
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
from typing import Any

from patchparity.porting.files.atomic import write_json

DOCS = Path(__file__).parent.parent / "docs"
RECORD, PAGE = DOCS / "encoder_sizes.json", DOCS / "whole.md"
BEGIN, END = "<!-- sizes: begin -->", "<!-- sizes: end -->"

WIDTH, BLOCKS, HIDDEN = 1024, 24, 4096
"""ViT-L/16."""

TARGETS = {
    "of_cp": 2.0,
    "process_of_cp": 2.0,
    "process_of_transformers": 0.25,
    "peak_of_transformers": 0.15,
    "peak_mb": 300.0,
}
"""Time of the work and of the process against `cp`; time of the process and peak against
transformers; and MB beyond the largest tensor. The work without imports is told beside `cp`, below
which no port can come."""

MEASURED = """
import glob, resource, time
def told(begin, cpu):
    took = time.perf_counter() - begin, time.process_time() - cpu
    print(*took, sum(map(peak, ["self", *children()])) / 1024)
def peak(process):
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
def children():  # that read or write for it, HDF5's
    for place in glob.glob("/proc/self/task/*/children"):
        with open(place, encoding="ascii") as file:
            yield from file.read().split()
"""

PORTED = """
from patchparity import port_whole
begin, cpu = time.perf_counter(), time.process_time()
port_whole(source, f"{target}/new/model.safetensors", "timm-vit", prove=False)
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

WAYS = {"cp": COPIED, "port": PORTED, "transformers": TRANSFORMERS}

DINOV2 = """
import numpy as np, torch
from transformers import Dinov2Config, Dinov2Model
torch.manual_seed(0)
model = Dinov2Model(Dinov2Config(hidden_size={width}, num_hidden_layers={blocks},
                                 num_attention_heads=16, image_size=224, patch_size=16))
for name, tensor in model.named_parameters():
    if "lambda1" in name:
        torch.nn.init.uniform_(tensor, 0.5, 1.5)
model.save_pretrained({folder!r})
"""

STACKED = """
import numpy as np
draw, held = np.random.default_rng(0), {{}}
width, blocks, hidden, heads = {width}, {blocks}, {hidden}, 16
def add(name, *shape):
    held[name] = draw.standard_normal(shape, np.float32) * np.float32(0.02)
block = "Transformer/encoderblock"
for name in ("LayerNorm_0", "LayerNorm_1"):
    add(f"{{block}}/{{name}}/scale", blocks, width), add(f"{{block}}/{{name}}/bias", blocks, width)
for name in ("query", "key", "value"):
    place = f"{{block}}/MultiHeadDotProductAttention_0/{{name}}"
    add(f"{{place}}/kernel", blocks, width, heads, width // heads)
    add(f"{{place}}/bias", blocks, heads, width // heads)
place = f"{{block}}/MultiHeadDotProductAttention_0/out"
add(f"{{place}}/kernel", blocks, heads, width // heads, width)
add(f"{{place}}/bias", blocks, width)
for name, rows, columns in (("Dense_0", width, hidden), ("Dense_1", hidden, width)):
    add(f"{{block}}/MlpBlock_0/{{name}}/kernel", blocks, rows, columns)
    add(f"{{block}}/MlpBlock_0/{{name}}/bias", blocks, columns)
add("Transformer/encoder_norm/scale", width), add("Transformer/encoder_norm/bias", width)
add("cls", 1, 1, width), add("pos_embedding", 1, 196, width)
add("embedding/kernel", 16, 16, 3, width), add("embedding/bias", width)
np.savez({folder!r} + ".npz", **{{f"params/{{name}}": array for name, array in held.items()}})
"""
"""big_vision's tree with all blocks stacked, as `scan=True` trains it; random, without JAX."""

TOLD = "semantics=dict(num_heads=16)"
"""What a file of big_vision cannot say."""

OTHERS = {
    "shards of 200 MB": ("model", "hf-vit", "{target}/new", "shard_bytes=2 * 10**8"),
    "bfloat16": ("model", "timm-vit", "{target}/new", "dtype='bfloat16'"),
    ".pth": ("model", "timm-vit", "{target}/new.pth", ""),
    "npz": ("model", "google-vit", "{target}/new.npz", "allow_loss=True"),
    "KerasHub's .weights.h5": (
        "model",
        "keras-hub-vit",
        "{target}/new/model.weights.h5",
        "allow_loss=True",
    ),
    "layer scales folded": ("dinov2", "hf-vit", "{target}/new", "allow_loss=True"),
    "stacked blocks": ("stacked.npz", "timm-vit", "{target}/new", TOLD),
}
"""Ports whose memory is measured too: source, dialect, target, and what else is given."""

OTHER = """
from patchparity import port_whole
begin, cpu = time.perf_counter(), time.process_time()
port_whole(source, f"{target}", "{dialect}", prove=False, {given})
told(begin, cpu)
"""

MODEL = """
import torch
from transformers import ViTConfig, ViTModel
torch.manual_seed(0)
ViTModel(ViTConfig(hidden_size={width}, num_hidden_layers={blocks}, num_attention_heads=16,
                   intermediate_size={hidden}, layer_norm_eps=1e-6),
         add_pooling_layer=False).save_pretrained({folder!r})
"""
"""ViT-L/16 without a pooler, which timm's class has none of, and with timm's ε."""


def run(code: str, compiled: str = "") -> str:
    """What a process prints; modules are compiled once, as where a package is installed, and kept
    in the folder `compiled`."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": compiled},
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


FIELDS = ("seconds", "processor_seconds", "peak_mb", "process_seconds")


def measured(folder: Path, turns: int, ways: dict[str, str]) -> dict[str, dict[str, float]]:
    """The least of each, over turns in which all go one after another."""
    runs: dict[str, list[list[float]]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, code in ways.items():
            with tempfile.TemporaryDirectory(dir=folder) as target:
                (Path(target) / "new").mkdir()
                subprocess.run(["sync"], check=True)  # nobody pays for what another wrote
                given = f"folder, source, target = {str(folder)!r}, {str(folder / 'model')!r}, "
                begin = time.perf_counter()
                whole = f"{given}{target!r}\n{MEASURED}{code}"
                told = run(whole, str(folder / "compiled")).splitlines()[-1].split()
                runs[way].append([*map(float, told), time.perf_counter() - begin])
    return {
        way: {field: round(min(turn[i] for turn in each), 3) for i, field in enumerate(FIELDS)}
        for way, each in runs.items()
    }


def others(folder: Path) -> dict[str, dict[str, float]]:
    """Memory beyond the largest tensor, of the source or the target, of other ports."""
    from patchparity.porting.files.opening import opened

    peaks = {}
    for what, (name, dialect, target, given) in OTHERS.items():
        told = OTHER.replace("{target}", target).format(
            target="{target}", dialect=dialect, given=given
        )
        found = measured(folder, 1, {what: f"source = f'{{folder}}/{name}'\n{told}"})[what]
        with opened(folder / name) as held:
            largest = max(info.nbytes for info in held.tensors.values()) / 2**20
        beyond = round(found["peak_mb"] - largest, 1)
        peaks[what] = {"largest_tensor_mb": round(largest, 1), "peak_mb_beyond_it": beyond}
        print(what, peaks[what], flush=True)
    return peaks


def ratios_of(found: dict[str, dict[str, float]], largest: float) -> dict[str, float]:
    """What is held against the targets."""
    ours, theirs, copied = found["port"], found["transformers"], found["cp"]
    ratios = {
        "of_cp": ours["seconds"] / copied["seconds"],
        "process_of_cp": ours["process_seconds"] / copied["seconds"],
        "process_of_transformers": ours["process_seconds"] / theirs["process_seconds"],
        "work_of_transformers": ours["seconds"] / theirs["seconds"],
        "peak_of_transformers": ours["peak_mb"] / theirs["peak_mb"],
        "peak_mb": ours["peak_mb"] - largest,
        "processor_of_cp": ours["processor_seconds"] / copied["processor_seconds"],
        "processor_of_transformers": ours["processor_seconds"] / theirs["processor_seconds"],
        "cp_of_transformers": copied["seconds"] / theirs["seconds"],
    }
    return {what: round(ratio, 3) for what, ratio in ratios.items()}


ROWS = {
    "of_cp": "time of the work, of that of `cp`",
    "process_of_cp": "time of the process with its imports, of that of `cp`",
    "process_of_transformers": "time of the process with its imports, of that of transformers",
    "peak_of_transformers": "memory at the peak, of that of transformers",
    "peak_mb": "MB at the peak beyond the largest tensor",
    "processor_of_cp": "time of processors for the work, of that of `cp`",
    "processor_of_transformers": "time of processors for the work, of that of transformers",
    "work_of_transformers": "time of the work, of that of transformers",
    "cp_of_transformers": "time of `cp`, of that of transformers",
}


def table(record: dict[str, Any]) -> list[str]:
    """The record as Markdown."""
    model, versions = record["model"], record["versions"]
    lines = [
        f"A transformers ViT of width {model['width']} and {model['blocks']} blocks "
        f"({record['megabytes']} MB) to `timm-vit` without the proof, against `cp` of its file and "
        f"transformers {versions['transformers']} loading and saving it, one after another in the "
        f"same run, the least of {record['turns']} turns; {record['processors']} cores, which "
        f"others used too (load {record['load']}). Ratios hold for this run; another machine has "
        "others.",
        "",
        "| what | measured | target |",
        "|---|---|---|",
    ]
    for what, words in ROWS.items():
        target = f"≤ {record['targets'][what]:g}" if what in record["targets"] else ""
        lines.append(f"| {words} | {record['ratios'][what]:.3g} | {target} |")
    for what, peaks in record["others"].items():
        beyond, target = peaks["peak_mb_beyond_it"], record["targets"]["peak_mb"]
        lines.append(f"| MB beyond the largest tensor: {what} | {beyond:.3g} | ≤ {target:g} |")
    return lines


def page(text: str, record: dict[str, Any]) -> str:
    """The page with its table made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join([f"{before}{BEGIN}", "", *table(record), "", f"{END}{after}"])


def main() -> None:
    """Measure, print the ratios beside their targets, and write the record and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=BLOCKS)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if not given.page:
        write_json(RECORD, record_of(given.blocks, given.turns))
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    for what, ratio in record["ratios"].items():
        print(f"{what}: {ratio:.3f}, expected at most {TARGETS.get(what)}")


def record_of(blocks: int, turns: int) -> dict[str, Any]:
    """All that is measured."""
    from importlib.metadata import version

    from patchparity.porting.files.opening import opened

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = {"width": WIDTH, "blocks": blocks, "hidden": HIDDEN}
        for called, code in (("model", MODEL), ("dinov2", DINOV2), ("stacked", STACKED)):
            run(code.format(folder=str(folder / called), **made))
        with opened(folder / "model") as held:
            sizes = [info.nbytes for info in held.tensors.values()]
        load = os.getloadavg()[0]  # of others on the machine, before anything is measured
        found = measured(folder, turns, WAYS)
        peaks = others(folder)
    return {
        "model": made,
        "megabytes": round(sum(sizes) / 1e6),
        "turns": turns,
        "measured": found,
        "ratios": ratios_of(found, max(sizes) / 2**20),
        "others": peaks,
        "targets": TARGETS,
        "processors": len(os.sched_getaffinity(0)),
        "load": round(load, 1),
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in ("numpy", "transformers")},
        },
    }


if __name__ == "__main__":
    main()
