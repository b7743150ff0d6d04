#!/usr/bin/env bash
# KerasHub's ViTImageClassifier with pooling="gap" averages all tokens, the class token among them; transformers, timm, big_vision and google's own ViT leave it out of the mean. A head that is
# moved from one of them into KerasHub, or out of it, is given other features.
#
# Guess beforehand: "gap" is the mean of the patches' tokens.
# Seen: the outputs are those of the mean of all 17 tokens of a 4x4 grid, and are not those of the 16 patches.
# Versions: keras-hub 0.32.0, Keras 3.15.1, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "keras==3.15.1" "keras-hub==0.32.0"
cd "$folder"
KERAS_BACKEND=torch "$folder/venv/bin/python" - <<'PROGRAM'
import importlib.metadata

import keras
import keras_hub
import numpy as np

print("keras-hub", importlib.metadata.version("keras-hub"), "keras", keras.__version__)
keras.utils.set_random_seed(0)
backbone = keras_hub.models.ViTBackbone(
    image_shape=(32, 32, 3),
    patch_size=(8, 8),
    num_layers=1,
    num_heads=2,
    hidden_dim=16,
    mlp_dim=20,
)
model = keras_hub.models.ViTImageClassifier(
    backbone, num_classes=4, pooling="gap", preprocessor=None
)
images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
tokens, output = (keras.ops.convert_to_numpy(each(images)) for each in (backbone, model))
kernel, bias = map(keras.ops.convert_to_numpy, model.output_dense.weights)
apart = {
    name: float(np.abs(pooled @ kernel + bias - output).max())
    for name, pooled in (("all tokens", tokens.mean(1)), ("patches", tokens[:, 1:].mean(1)))
}
for name, difference in apart.items():
    print(f"mean of {name}: {difference:.1e} from what the classifier gives")
assert apart["all tokens"] < 1e-5 < 1e-2 < apart["patches"]
print("as found: the class token is part of the mean")
PROGRAM
