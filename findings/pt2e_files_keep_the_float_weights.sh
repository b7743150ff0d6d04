#!/usr/bin/env bash
# A program that PT2E quantized and torch.export saved keeps every float weight beside the int8 one that it computes with.
#
# Guess beforehand: convert_pt2e puts the int8 weights in the place of the floats, so that the saved file has about a quarter of the size and its state dict nothing else.
# Seen: the state dict still has each weight under its own name, with its float values, and no operator takes it; the int8 values are `_frozen_param0`, ... The file is larger than that
# of the float model. Who reads `proj.weight` of the file gets numbers that the program does not compute with, and who writes there changes nothing.
# Versions: torch 2.13.0 (CPU), torchao 0.18.0, NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "torchao==0.18.0" "numpy==2.4.6"
cat > "$folder/program.py" <<'PROGRAM'
import os
import sys

import torch
import torchao
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86


class Patches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = torch.nn.Conv2d(3, 192, 16, 16)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


print("torch", torch.__version__, "torchao", torchao.__version__)
torch.manual_seed(0)
model, images = Patches().eval(), torch.randn(2, 3, 64, 64)
exported = torch.export.export(model, (images,))
torch.export.save(exported, f"{sys.argv[1]}/float.pt2")
quantizer = x86.X86InductorQuantizer()
quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
prepared = prepare_pt2e(exported.module(), quantizer)
prepared(images)
torch.export.save(torch.export.export(convert_pt2e(prepared), (images,)), f"{sys.argv[1]}/int8.pt2")

loaded = torch.export.load(f"{sys.argv[1]}/int8.pt2")
for name, held in loaded.state_dict.items():
    print(f"{name}: {held.dtype} {tuple(held.shape)}")
nodes = {
    spec.arg.name: spec.target for spec in loaded.graph_signature.input_specs if spec.target is not None
}
taken = {nodes[node.name] for node in loaded.graph.nodes if node.name in nodes and node.users}
print("taken by an operator:", sorted(taken))
sizes = {kind: os.path.getsize(f"{sys.argv[1]}/{kind}.pt2") for kind in ("float", "int8")}
print("bytes:", sizes)
assert torch.equal(loaded.state_dict["proj.weight"], model.proj.weight)
assert "proj.weight" not in taken and "_frozen_param0" in taken
assert loaded.state_dict["_frozen_param0"].dtype == torch.int8
assert sizes["int8"] > sizes["float"]
before = loaded.module()(images)
with torch.no_grad():
    loaded.state_dict["proj.weight"].zero_()
assert torch.equal(loaded.module()(images), before)
scale = loaded.state_dict["_scale_0"].reshape(-1, 1, 1, 1)
apart = (loaded.state_dict["_frozen_param0"] * scale - model.proj.weight).abs().max() / scale.max()
print(f"the two weights are up to {apart:.2f} steps apart")
assert apart > 0.4
print("as found: the float weights stay in the file, and nothing takes them")
PROGRAM
"$folder/venv/bin/python" "$folder/program.py" "$folder" 2>/dev/null
