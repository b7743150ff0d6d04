#!/usr/bin/env bash
# KerasHub's ViTDet backbone (the encoder of its SAM) takes ImageNet's mean from images and divides them by its deviation within its own graph, in front of
# the patch embedding, with numbers that are in no weight and in no configuration. Its other backbones with patches leave images as they are.
#
# Guess beforehand: what enters the patch embedding of any backbone of KerasHub is the image that it is given; normalizing is the preprocessor's.
# Seen: an image of the mean's color reaches ViTDet's patch embedding as zeros, and that of ViT, DeiT, Swin and MiT as it is. Weights that are moved to
# SAM's encoder elsewhere, and images that were normalized before, are both wrong by that much.
# Versions: keras-hub 0.32.0, keras 3.13 on JAX 0.10.2, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "keras-hub==0.32.0" "jax[cpu]==0.10.2"
cd "$folder"
KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PROGRAM'
import importlib.metadata

import keras
import keras_hub
import numpy as np

print("keras-hub", importlib.metadata.version("keras-hub"), "keras", keras.__version__)
layers = dict(num_layers=1, num_heads=2)
sam = dict(window_size=2, global_attention_layer_indices=[0], num_output_channels=8)
stages = dict(layerwise_depths=[1, 1], layerwise_num_heads=[1, 2], layerwise_sr_ratios=[8, 4], max_drop_path_rate=0.0)
overlap = dict(layerwise_patch_sizes=[7, 3], layerwise_strides=[4, 2], hidden_dims=[16, 32], num_layers=2)
square = dict(image_shape=(64, 64, 3))
models = {
    "ViTDet": keras_hub.models.ViTDetBackbone(hidden_size=32, intermediate_dim=32, patch_size=16, **layers, **sam, **square),
    "ViT": keras_hub.models.ViTBackbone(hidden_dim=32, mlp_dim=32, patch_size=16, **layers, **square),
    "DeiT": keras_hub.models.DeiTBackbone(hidden_dim=32, intermediate_dim=32, patch_size=16, **layers, **square),
    "Swin": keras_hub.models.SwinTransformerBackbone(embed_dim=16, depths=[1], num_heads=[2], window_size=4, **square),
    "MiT": keras_hub.models.MiTBackbone(**stages, **overlap, **square),
}
mean = np.array([0.485, 0.456, 0.406], "float32")
images = np.broadcast_to(mean, (1, 64, 64, 3)).copy()
largest = {}
for name, model in models.items():
    first = next(each for each in model.layers if "Embedding" in type(each).__name__)
    before = keras.Model(model.inputs, first.input)
    seen = np.asarray(before(images))
    largest[name] = float(np.abs(seen).max())
    print(name, type(first).__name__, "is given values up to", largest[name])
assert largest["ViTDet"] < 1e-6, largest
assert all(abs(value - 0.485) < 1e-6 for name, value in largest.items() if name != "ViTDet"), largest
print("as found: ViTDet's backbone alone normalizes its images")
PROGRAM
