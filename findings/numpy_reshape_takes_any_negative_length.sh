#!/usr/bin/env bash
# A patch embedding flattens with reshape(-1, K). What do NumPy, torch and JAX make of a slip, reshape(-2, K)?
#
# Guess beforehand: each raises; NumPy's documentation allows -1 alone ("One shape dimension can be -1").
# Seen: NumPy takes any one negative length for the one that is to be found: reshape(-2, K) and reshape(-7, K) are reshape(-1, K), in silence.
# torch and JAX raise. So a slip in the reference that others are compared with shows only once it is ported to them.
# Versions: NumPy 2.4.6, torch 2.13.0, JAX 0.10.2, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "numpy==2.4.6" "torch==2.13.0" "jax==0.10.2" "jaxlib==0.10.2"
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import jax
import jax.numpy
import numpy as np
import torch

print("NumPy", np.__version__, "torch", torch.__version__, "JAX", jax.__version__)
patches = np.arange(2 * 6 * 48).reshape(2, 6, 48)
for length in (-2, -7):
    found = patches.reshape(length, 48)
    print(f"NumPy reshape({length}, 48):", found.shape)
    assert (found == patches.reshape(-1, 48)).all()
for name, array in (("torch", torch.from_numpy(patches)), ("JAX", jax.numpy.asarray(patches))):
    try:
        shape = array.reshape(-2, 48).shape
    except (RuntimeError, TypeError) as error:
        print(f"{name} reshape(-2, 48): {type(error).__name__}: {str(error).splitlines()[0][:80]}")
    else:
        raise SystemExit(f"{name} gives {tuple(shape)}: it raised before")
PROGRAM
