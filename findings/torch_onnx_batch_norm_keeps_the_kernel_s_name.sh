#!/usr/bin/env bash
# torch.onnx.export writes other values under the name that a kernel has in the state dict.
#
# Guess beforehand: an initializer that has the name of a parameter holds that parameter.
# Seen: with a batch norm behind a convolution the file has no batch norm; `proj.weight` is the kernel times γ/√(σ² + ε), under its old name (dynamo=True, the default).
# The older exporter (dynamo=False) writes the same values under a name of its own (`onnx::Conv_…`). Nothing is said, and no tensor of the file tells one from the other.
# Versions: torch 2.13.0 (CPU), onnx 1.23.2, onnxscript 0.7.2, NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "onnx==1.23.2" "onnxscript==0.7.2" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import numpy as np
import onnx
import torch

print("torch", torch.__version__, "onnx", onnx.__version__)


class Patches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.norm = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.proj(images)).flatten(2).transpose(1, 2)


torch.manual_seed(0)
model = Patches()
with torch.no_grad():
    model.norm.weight.uniform_(0.5, 2)
    model.norm.running_var.uniform_(0.5, 2)
model.eval()
state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
scale = state["norm.weight"] / np.sqrt(state["norm.running_var"] + model.norm.eps)
folded = state["proj.weight"] * scale[:, None, None, None]
found = {}
for dynamo in (True, False):
    torch.onnx.export(model, (torch.zeros(1, 3, 8, 12),), "m.onnx", dynamo=dynamo, verbose=False)
    graph = onnx.load("m.onnx").graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    norms = [node.op_type for node in graph.node if "BatchNorm" in node.op_type]
    (name, kernel), *_ = ((name, array) for name, array in held.items() if array.ndim == 4)
    apart = np.abs(kernel - state["proj.weight"]).max()
    found[dynamo] = name, float(apart), bool(np.allclose(kernel, folded, rtol=1e-6)), norms
    print(f"dynamo={dynamo}: {name}, up to {apart:.3f} from proj.weight of the state dict; batch norms in the graph: {norms or 'none'}")
assert found[True][0] == "proj.weight" and found[True][1] > 0.01 and found[True][2], found
assert found[False][0] != "proj.weight" and found[False][2], found
assert not found[True][3] and not found[False][3], found
print("as found: proj.weight of the file is not proj.weight of the state dict")
PROGRAM
