"""What `port` takes out of files of 2 GB: memory beside the format's library, and time beside
copying the tensors that are needed with it: `python -m tests.large_files`; outside CI."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

GIGABYTES = 2
D, C, P, GRID = 1024, 3, 16, 16
"""A ViT-L/16 at 256: 3 MB of kernel in float32, and 1 MB of positions."""

COPIES = {
    "GGUF": """
import gguf, numpy, safetensors.numpy
held = {t.name: numpy.array(t.data) for t in gguf.GGUFReader(source).tensors
        if t.name.startswith(("v.patch_embd", "v.position_embd"))}
""",
    "ONNX, data outside": """
import onnx, numpy, pathlib, safetensors.numpy
from onnx.external_data_helper import load_external_data_for_tensor
model = onnx.load(source, load_external_data=False)
held = {}
for tensor in model.graph.initializer:
    if tensor.name in ("proj.weight", "proj.bias", "positions"):
        load_external_data_for_tensor(tensor, str(pathlib.Path(source).parent))
        held[tensor.name] = numpy.array(onnx.numpy_helper.to_array(tensor))
""",
    "Orbax": """
import numpy, tensorstore, safetensors.numpy
base = {"driver": "file", "path": source + "/"}
held = {}
for name in ("embedding.kernel", "embedding.bias", "pos_embedding"):
    store = {"driver": "ocdbt", "base": base, "path": name + "/"}
    held[name] = tensorstore.open({"driver": "zarr", "kvstore": store}).result().read().result()
""",
}
"""The same three tensors, read by the format's own library and written by safetensors', as
somebody would who knows their names."""

PORT = """
import patchparity
options = {options!r}
patchparity.port(source, target, "oihw", allow_loss=True, **options)
"""

HIDDEN = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name in ("torch", "jax", "tensorflow", "keras")
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Hidden
"""
"""A machine without frameworks: with torch the proof runs in it, which takes 200 MB by itself."""


def tensors() -> dict[str, np.ndarray]:
    """A stage."""
    draw = np.random.default_rng(0).standard_normal
    shapes = {"kernel": (D, C, P, P), "bias": (D,), "positions": (GRID * GRID, D)}
    return {name: draw(shape).astype(np.float32) for name, shape in shapes.items()}


def gguf_file(folder: Path) -> tuple[Path, dict[str, object]]:
    """A SigLIP tower and 2 GB of others, which take no room on the disk."""
    import gguf

    path, held = folder / "mmproj.gguf", tensors()
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_clip_projector_type("gemma3")
    named = {"v.patch_embd.weight": "kernel", "v.patch_embd.bias": "bias"}
    named["v.position_embd.weight"] = "positions"
    for name, ours in named.items():
        writer.add_tensor(name, held[ours])
    extent = GIGABYTES * 2**30 // 4 // 64
    for number in range(64):
        writer.add_tensor_info(
            f"v.blk.{number}.ffn_up.weight", (extent,), np.dtype("f4"), extent * 4
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    place = writer.fout[0]
    writer.write_padding(place, place.tell())
    for ours in named.values():
        held[ours].tofile(place)
        writer.write_padding(place, held[ours].nbytes)
    place.truncate(place.tell() + GIGABYTES * 2**30)
    writer.close()
    return path, {}


def onnx_file(folder: Path) -> tuple[Path, dict[str, object]]:
    """The graph of a SigLIP's embedding and of 2 GB behind it, outside of the file."""
    import onnx
    from onnx import TensorProto, helper

    held = tensors()
    outside = folder / "model.onnx.data"
    initializers, at = [], 0
    extent = GIGABYTES * 2**30 // 4 // 64
    values = {"proj.weight": "kernel", "proj.bias": "bias", "positions": "positions"}
    with outside.open("wb") as file:
        for name in [*values, *(f"behind.{number}" for number in range(64))]:
            array = held[values[name]] if name in values else None
            shape = (extent // D, D) if array is None else array.shape
            shape = (1, *shape) if name == "positions" else shape
            size = 4 * int(np.prod(shape))
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            told = {"location": outside.name, "offset": at, "length": size}
            for key, value in told.items():
                tensor.external_data.add(key=key, value=str(value))
            if array is not None:
                file.seek(at)
                array.tofile(file)
            initializers.append(tensor)
            at += size
        file.truncate(at)
    make, side = helper.make_node, GRID * P
    nodes = [
        make("Conv", ["images", "proj.weight", "proj.bias"], ["map"], strides=[P, P]),
        make("Reshape", ["map", "flat"], ["rows"]),
        make("Transpose", ["rows"], ["patches"], perm=[0, 2, 1]),
        make("Add", ["patches", "positions"], ["tokens"]),
        make("Transpose", ["behind.0"], ["turned"], perm=[1, 0]),
        make("MatMul", ["tokens", "turned"], ["first"]),
        *(make("ReduceSum", [f"behind.{number}"], [f"sum{number}"]) for number in range(1, 64)),
        make("Sum", ["first", *(f"sum{number}" for number in range(1, 64))], ["out"]),
        make("Add", ["tokens", "out"], ["result"]),
    ]
    initializers.append(helper.make_tensor("flat", TensorProto.INT64, [3], [1, D, -1]))
    graph = helper.make_graph(
        nodes,
        "vit",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, C, side, side])],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        initializers,
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path, {}


def orbax_folder(folder: Path) -> tuple[Path, dict[str, object]]:
    """big_vision's tree, and 2 GB of others, as Orbax's own writer keeps them."""
    held = tensors()
    extent = GIGABYTES * 2**30 // 4 // 64
    code = f"""
import numpy, orbax.checkpoint as ocp
held = dict(numpy.load({str(folder / "held.npz")!r}))
draw = numpy.random.default_rng(1)
tree = dict(embedding=dict(kernel=held["kernel"].transpose(2, 3, 1, 0), bias=held["bias"]),
            pos_embedding=held["positions"][None],
            Transformer={{f"encoderblock_{{n}}": dict(MlpBlock_0=dict(Dense_0=dict(
                kernel=draw.standard_normal({extent}, dtype="f4")))) for n in range(64)}})
ocp.PyTreeCheckpointer().save({str(folder / "step")!r}, tree)
"""
    np.savez(folder / "held.npz", allow_pickle=False, **held)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=folder)
    return folder / "step", {"from_": "big-vision-vit"}


KINDS: dict[str, Callable[[Path], tuple[Path, dict[str, object]]]] = {
    "GGUF": gguf_file,
    "ONNX, data outside": onnx_file,
    "Orbax": orbax_folder,
}
"""How each file is made."""


def run(code: str, source: Path, target: Path) -> tuple[float, float]:
    """Megabytes at the peak of a process and those that it started, and its seconds."""
    whole = f"source, target = {str(source)!r}, {str(target)!r}\n{HIDDEN}{code}"
    whole += (
        "\nimport resource as r\n"
        "print(sum(r.getrusage(who).ru_maxrss for who in (r.RUSAGE_SELF, r.RUSAGE_CHILDREN)))"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", whole], capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return float(done.stdout.split()[-1]) / 1024, took


def main() -> None:
    """Make each file, port out of it, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(KINDS))
    given = parser.parse_args()
    for kind, make in KINDS.items():
        if given.only not in (None, kind):
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source, options = make(folder)
            runs: dict[str, list[tuple[float, float]]] = {"port": [], "copy": []}
            copy = f"{COPIES[kind]}safetensors.numpy.save_file(held, target)"
            for turn in range(4):
                for what, code in (("port", PORT.format(options=options)), ("copy", copy)):
                    target = folder / f"{what}{turn}.safetensors"
                    runs[what].append(run(code, source, target))
            peaks = {what: max(peak for peak, _ in each[1:]) for what, each in runs.items()}
            seconds = {what: min(took for _, took in each[1:]) for what, each in runs.items()}
            told = {
                "kind": kind,
                "megabytes_beside_the_library": round(peaks["port"] - peaks["copy"], 1),
                "of_the_library": round(peaks["copy"], 1),
                "seconds": round(seconds["port"], 2),
                "times_as_long_as_the_copy": round(seconds["port"] / seconds["copy"], 2),
            }
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
