#!/usr/bin/env bash
# KerasHub's CLIP vision embedding keeps `position_ids` as a weight that is made of zeros: until a preset or a file is loaded, every token of a new
# encoder is given row 0 of the position table, and `save_weights` writes those zeros. (SigLIP's and MetaCLIP 2's, beside it, do not.)
#
# Guess beforehand: position_ids are 0, 1, 2, ..., as in transformers' CLIP, where they are a buffer that `arange` fills; a fresh model adds row n to token n.
# Seen: of CLIP's 17 rows one reaches the tokens of a new encoder, of SigLIP's 16 and MetaCLIP 2's 17 all do.
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
import numpy as np
from keras_hub.src.models.clip.clip_vision_encoder import CLIPVisionEncoder
from keras_hub.src.models.metaclip_2.metaclip_2_vision_encoder import MetaCLIP2VisionEncoder
from keras_hub.src.models.siglip.siglip_vision_encoder import SigLIPVisionEncoder

print("keras-hub", importlib.metadata.version("keras-hub"), "keras", keras.__version__)
sizes = dict(patch_size=16, hidden_dim=32, num_layers=1, num_heads=2, intermediate_dim=32, image_shape=(64, 64, 3))
rows_used = {}
for kind in (CLIPVisionEncoder, SigLIPVisionEncoder, MetaCLIP2VisionEncoder):
    model = kind(**sizes)
    embedding = next(each for each in model._flatten_layers() if type(each).__name__.endswith("VisionEmbedding"))
    table = embedding.position_embedding.embeddings
    table.assign(np.zeros(table.shape, "float32"))
    images = np.zeros((1, 64, 64, 3), "float32")
    without = np.asarray(embedding(images))
    rows_used[kind.__name__] = 0
    for row in range(table.shape[0]):  # which rows of the table reach a token at all
        values = np.zeros(table.shape, "float32")
        values[row] = 1
        table.assign(values)
        rows_used[kind.__name__] += int(not np.array_equal(np.asarray(embedding(images)), without))
    print(kind.__name__, "rows of the table that reach a token:", rows_used[kind.__name__], "of", table.shape[0])
assert rows_used == {"CLIPVisionEncoder": 1, "SigLIPVisionEncoder": 16, "MetaCLIP2VisionEncoder": 17}, rows_used
print("as found: zeros are the position ids of a new CLIP encoder")
PROGRAM
