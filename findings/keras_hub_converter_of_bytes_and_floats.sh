#!/usr/bin/env bash
# KerasHub's ImageConverter resizes a picture, then scales and shifts it in floats.
#
# Guess beforehand: a picture as bytes and the same picture as float32, 0 to 255, become the same image.
# Seen: a picture of bytes is rounded to bytes once it is resized, one of floats is not: they lie up to half a step apart, 0.0039 of a range of 2, and nearly all
# values are others.
# Versions: keras-hub 0.32.0, keras 3.15.1 on JAX 0.10.2, NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "keras-hub==0.32.0" "keras==3.15.1" "jax[cpu]==0.10.2" "numpy==2.4.6"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PROGRAM'
import importlib.metadata

import keras_hub
import numpy as np

print("keras-hub", importlib.metadata.version("keras-hub"), "keras", importlib.metadata.version("keras"))
converter = keras_hub.layers.ViTImageConverter(image_size=(56, 72), scale=1 / 127.5, offset=-1.0)
picture = np.random.default_rng(0).integers(0, 256, (1, 130, 97, 3), np.uint8)
of_bytes, of_floats = (np.asarray(converter(given)) for given in (picture, picture.astype(np.float32)))
apart = np.abs(of_bytes - of_floats)
steps = (of_bytes + 1) * 127.5
print(f"apart by {apart.max():.5f} at most; whole steps: {np.abs(steps - np.rint(steps)).max() < 1e-3} of bytes, {np.abs((of_floats + 1) * 127.5 - np.rint((of_floats + 1) * 127.5)).max() < 1e-3} of floats; {(apart > 1e-4).mean():.0%} of values are others")
assert 0.5 / 127.5 * 0.9 < apart.max() < 0.5 / 127.5 * 1.01, apart.max()
assert (apart > 1e-4).mean() > 0.5
assert np.abs(steps - np.rint(steps)).max() < 1e-3
print("as found: bytes are rounded between resizing and scaling")
PROGRAM
