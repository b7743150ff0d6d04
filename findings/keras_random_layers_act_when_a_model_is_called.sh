#!/usr/bin/env bash
# Keras 3.15.1: a model with RandomFlip in it flips images when it is called, `model(images)`, although nobody says that it is trained; `predict` and
# `training=False` do not, and Dropout in the same model does nothing in any of the three.
#
# Guessed beforehand: a call without `training` is inference for every layer, as it is for Dropout and BatchNormalization, so that
# `model(images)` and `model.predict(images)` agree.
# Seen: about half of 64 images come out mirrored from `model(images)`, none from the two others: `training` is True where RandomFlip is not told.
# Why it matters here: whoever compares a ported model with `model(images)` sees mirrored tokens in half the batch, and looks for a wrong kernel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q keras==3.15.1 jax==0.10.2 numpy==2.4.6
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PYTHON'
import keras
import numpy as np

assert keras.__version__ == "3.15.1", keras.__version__
images = np.random.default_rng(0).random((64, 8, 6, 3)).astype("float32")


def changed(layer, output):
    output = np.asarray(keras.ops.convert_to_numpy(output))
    return int((output != images).any(axis=(1, 2, 3)).sum())


seen = {}
for layer in (keras.layers.RandomFlip("horizontal", seed=1), keras.layers.Dropout(0.5, seed=1)):
    model = keras.Sequential([keras.Input((8, 6, 3)), layer])
    seen[type(layer).__name__] = (
        changed(layer, model(images)),
        changed(layer, model(images, training=False)),
        changed(layer, model.predict(images, verbose=0)),
    )
for name, (called, told, predicted) in seen.items():
    print(f"{name}: changed by model(images): {called} of 64; by training=False: {told}; by predict: {predicted}")
assert 20 < seen["RandomFlip"][0] < 44 and seen["RandomFlip"][1:] == (0, 0), seen
assert seen["Dropout"] == (0, 0, 0), seen
PYTHON
