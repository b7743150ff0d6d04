#!/usr/bin/env bash
# MNN's console script `mnnconvert` installs a package with pip, while it converts, to report what was converted.
#
# Guess beforehand: a converter reads a file, writes a file, and leaves the environment alone.
# Seen: after the first conversion aliyun-log-python-sdk and some twenty packages that it needs are installed, by the pip that stands first on PATH, in another environment than MNN's where that is another; the conversion takes ten seconds
# the first time. The same conversion through the extension module (_tools.mnnconvert) installs nothing.
# Versions: MNN 3.6.1, onnx 1.23.2, NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "MNN==3.6.1" "onnx==1.23.2" "numpy==2.4.6"
export PATH="$folder/venv/bin:$PATH"
python - "$folder/model.onnx" <<'PROGRAM'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

kernel = np.random.default_rng(0).standard_normal((8, 3, 4, 4)).astype(np.float32)
node = helper.make_node("Conv", ["images", "kernel"], ["grid"], strides=[4, 4], kernel_shape=[4, 4])
graph = helper.make_graph(
    [node],
    "patch_embed",
    [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 12])],
    [helper.make_tensor_value_info("grid", TensorProto.FLOAT, None)],
    [numpy_helper.from_array(kernel, "kernel")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, sys.argv[1])
PROGRAM
installed() { pip list --format freeze --disable-pip-version-check | sort; }
installed > "$folder/before"
python -c "import _tools, sys; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])" -f ONNX --modelFile "$folder/model.onnx" --MNNModel "$folder/quiet.mnn" --bizCode none > /dev/null
installed > "$folder/quiet"
mnnconvert -f ONNX --modelFile "$folder/model.onnx" --MNNModel "$folder/model.mnn" --bizCode none > /dev/null 2>&1
installed > "$folder/after"
test -s "$folder/quiet.mnn" && test -s "$folder/model.mnn"
cmp "$folder/before" "$folder/quiet"
echo "installed by a conversion:"
comm -13 "$folder/before" "$folder/after"
comm -13 "$folder/before" "$folder/after" | grep -q '^aliyun-log-python-sdk=='
echo "as found: the console script installs a package, the extension module does not"
