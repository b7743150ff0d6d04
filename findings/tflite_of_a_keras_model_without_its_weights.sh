#!/usr/bin/env bash
# TFLiteConverter.from_concrete_functions([function], model), as its warning asks for, writes of a Keras 3 model a file without any of its weights.
#
# Guess beforehand: variables are frozen into constants, as with from_keras_model; `trackable_obj`, whose absence is warned of, changes nothing of that.
# Seen: with the model as `trackable_obj` the file has a VAR_HANDLE and a READ_VARIABLE for each variable, nothing that gives them a value, and none of the weights' bytes. Conversion says nothing. The interpreter runs it as it is by default,
# and gives other values at each call, 1e26 among them; without its default delegate it ends at the first call (`variable != nullptr was not true`). With an empty tf.Module in its place, or without it, against the warning, the weights are
# constants and the file runs.
# Versions: TensorFlow 2.21.0, Keras 3.15.1, ai-edge-litert 2.3.0, NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "tensorflow==2.21.0" "keras==3.15.1" "ai-edge-litert==2.3.0" "numpy==2.4.6"
cd "$folder"
KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - 2>/dev/null <<'PROGRAM'
import importlib.metadata

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

for package in ("tensorflow", "keras", "ai-edge-litert", "numpy"):
    print(package, importlib.metadata.version(package))
model = keras.Sequential([keras.Input((12, 20, 3)), keras.layers.Conv2D(16, (4, 5), strides=(4, 5))])
kernel = model.get_weights()[0]
images = np.random.default_rng(0).standard_normal((2, 12, 20, 3)).astype(np.float32)
expected = np.asarray(model(images))
function = tf.function(lambda x: model(x)).get_concrete_function(
    tf.TensorSpec(images.shape, tf.float32)
)
outcomes = {}
for name, more in {"the model": [model], "an empty module": [tf.Module()], "nothing": []}.items():
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], *more).convert()
    held = np.moveaxis(kernel, -1, 0).tobytes() in content or kernel.tobytes() in content
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    try:
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        said = "runs" if np.abs(output - expected).max() < 1e-5 else "gives other values"
    except RuntimeError as error:
        said = str(error)
    outcomes[name] = held, said
    print(f"trackable_obj is {name}: {len(content)} bytes, kernel in it: {held}; {said}")
assert outcomes["an empty module"] == outcomes["nothing"] == (True, "runs"), outcomes
assert not outcomes["the model"][0], outcomes
assert outcomes["the model"][1] != "runs", outcomes
print("as found: the file that is written as the warning asks has no weights in it")
PROGRAM
