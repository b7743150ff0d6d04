#!/usr/bin/env bash
# mlx.core.load gives the bfloat16 tensors of a GGUF file as float16: what is above 65504 is infinite, what is below 6e-8 is zero, and nothing is said. The
# same values from a safetensors file are bfloat16.
#
# What one would guess: MLX has bfloat16, and GGUF has BF16: a tensor of that type is loaded as it is.
# Seen: float16, from GGUF alone; 1e5 is inf, 1e-8 is 0.
# Versions: mlx 0.32.4, gguf 0.19.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "mlx==0.32.4" "mlx-cpu==0.32.4" "gguf==0.19.0" "ml_dtypes==0.6.0" "safetensors==0.8.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import importlib.metadata

import gguf
import ml_dtypes
import mlx.core as mx
import numpy as np
import safetensors.numpy

print("mlx", importlib.metadata.version("mlx"), "gguf", importlib.metadata.version("gguf"))
values = np.array([1e5, 1e-8, 1.0, -3.0], ml_dtypes.bfloat16).reshape(2, 2)
writer = gguf.GGUFWriter("a.gguf", "clip")
writer.add_tensor("x", values.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
tensor = gguf.GGUFReader("a.gguf").tensors[0]
bits = np.asarray(tensor.data).tobytes()
assert tensor.tensor_type.name == "BF16" and bits == values.tobytes(), "the file does not hold what was written"
safetensors.numpy.save_file({"x": values}, "a.safetensors")
loaded = {name: mx.load(name)["x"] for name in ("a.gguf", "a.safetensors")}
for name, array in loaded.items():
    print(name, array.dtype, np.array(array.astype(mx.float32)).ravel().tolist())
assert loaded["a.safetensors"].dtype == mx.bfloat16
of_gguf = np.array(loaded["a.gguf"].astype(mx.float32)).ravel()
assert loaded["a.gguf"].dtype == mx.float16 and np.isinf(of_gguf[0]) and of_gguf[1] == 0, of_gguf
print("as found: bfloat16 of a GGUF file is loaded as float16")
PROGRAM
