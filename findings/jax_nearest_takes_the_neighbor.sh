#!/usr/bin/env bash
# jax.image.resize(method="nearest") takes the old sample in which the middle of a new one lies: sample floor((i + 1/2) old/new).
#
# Guess beforehand: at 66 -> 55 the middles lie at 0.6, 1.8, 3, 4.2, ...: where one falls on a border, as 3 does, sample 3 is taken, as in NumPy in float32 or float64.
# Seen: sample 2, and so at all eleven such borders. The compiler turns (i + 1/2) * 66 / 55 into (i + 1/2) * (66 * (1/55)), and 1.2 comes out a little too small. Without compiling one of the eleven is wrong.
# Versions: JAX 0.10.2 (CPU), NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax[cpu]==0.10.2" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PROGRAM'
import jax
import numpy as np

print("jax", jax.__version__)
found = {}
for old, new in ((66, 55), (6, 5), (64, 48), (14, 37)):
    samples = np.arange(old, dtype=np.float32)
    expected = np.floor((np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old) / np.float32(new))
    compiled = np.asarray(jax.image.resize(samples, (new,), "nearest"))
    with jax.disable_jit():
        plain = np.asarray(jax.image.resize(samples, (new,), "nearest"))
    found[old, new] = int((compiled != expected).sum()), int((plain != expected).sum())
    print(f"{old} -> {new}: {found[old, new][0]} of {new} samples are the neighbor's compiled, {found[old, new][1]} without")
assert found[66, 55][0] == 11, found
assert found[66, 55][1] == 1, found
print("as found: nearest is the neighbor where a middle falls on a border")
PROGRAM
