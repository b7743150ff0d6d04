#!/usr/bin/env bash
# KerasHub's DINOv2 keeps two tables of positions: the one that is trained and added to the tokens, and the one that is loaded, of which the first is made
# anew. On saving, the second is brought up to date if the first was changed; whether it was, the sum of the differences tells, with its sign.
#
# Guess beforehand: a model that was trained, saved and loaded again gives what it gave before.
# Seen: where the changes of the trained table sum to more than the second table has, they are taken for none, and the loaded model has the positions from
# before the training; where they sum to less, they are kept. At an image size other than that of the second table they are kept in neither case: the way
# there and back through another grid changes them.
# Versions: keras-hub 0.32.0, keras 3.15.1 on JAX 0.10.2, Python 3.11.
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


def lost(image_side, step):
    """How far positions change by saving and loading, as a share of what training had changed."""
    keras.utils.set_random_seed(1)
    model = keras_hub.models.DINOV2Backbone(
        patch_size=14, num_layers=1, hidden_dim=32, num_heads=2, intermediate_dim=64,
        image_shape=(image_side, image_side, 3), position_embedding_shape=(56, 56),
    )  # fmt: skip
    table = next(each for each in model.trainable_weights if "position_embeddings" in each.path)
    trained = np.array(table) + step * np.random.default_rng(0).uniform(0.5, 1.5, table.shape)
    table.assign(trained)
    model.save("model.keras")
    again = keras.saving.load_model("model.keras")
    loaded = next(each for each in again.trainable_weights if "position_embeddings" in each.path)
    return float(np.abs(np.array(loaded) - trained).max() / abs(step))


found = {(side, step): lost(side, step) for side in (56, 84) for step in (0.1, -0.1)}
for (side, step), share in found.items():
    print(f"image of {side}, positions changed by about {step:+}: off by {share:.2f} of that behind loading")
assert found[56, -0.1] < 1e-4, found
assert found[56, 0.1] > 1, found
assert found[84, 0.1] > 1, found
assert 0.01 < found[84, -0.1] < 1, found
print("as found: what DINOv2 of KerasHub learned of positions may be gone when it is loaded again")
PROGRAM
