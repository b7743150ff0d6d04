#!/usr/bin/env bash
# vitax loads transformers' ViT into Flax NNX, name by name, with an assertion for every shape and every mean, as the example of Flax's documentation does that it is made of. The model that comes out
# is another one: NNX's LayerNorm has ε 1e-6 and its GELU is the tanh approximation where nobody says otherwise, and ViT was trained with 1e-12 and the exact one. No class changes by this, and so a
# comparison of classes passes.
#
# Guess beforehand: the copy computes the same logits, to about 1e-6 of their size, as a copy with every weight asserted should.
# Seen: of a small ViT with random weights logits are 4e-5 of their size apart, some hundred times what float32 rounds; with exact GELU and the model's own ε they agree to the last bit.
# Versions: vitax 0.0.10, flax 0.12.0, jax 0.7.1, transformers 4.56.2, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "vitax==0.0.10"
cd "$folder"
HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PROGRAM'
import importlib.metadata

import jax
import numpy as np
from flax import nnx
from transformers import FlaxViTForImageClassification, ViTConfig
from vitax.models.vit import VisionTransformer
from vitax.models.vit_load_weights import vit_inplace_copy_weights

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("vitax", "flax", "jax", "transformers")))
config = ViTConfig(
    hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256,
    image_size=32, patch_size=8, num_labels=10, initializer_range=0.1,
)
source = FlaxViTForImageClassification(config, input_shape=(1, 32, 32, 3), seed=0)


def copied():
    model = VisionTransformer(
        num_classes=10, img_size=32, patch_size=8, num_layers=4, num_heads=4, mlp_dim=256,
        hidden_size=64, fsdp=False, rngs=nnx.Rngs(0),
    )
    vit_inplace_copy_weights(src_model=source, dst_model=model, config=config)
    model.eval()
    return model


images = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype(np.float32)
with jax.default_matmul_precision("highest"):
    wanted = np.asarray(source(images.transpose(0, 3, 1, 2)).logits)
    found = np.asarray(copied()(images))
    mended = copied()
    mended.final_norm.epsilon = config.layer_norm_eps
    for block in mended.encoder.layers:
        block.norm1.epsilon = block.norm2.epsilon = config.layer_norm_eps
        assert block.mlp.layers[1] is nnx.gelu
        first, _, *rest = block.mlp.layers
        block.mlp = nnx.Sequential(first, lambda x: nnx.gelu(x, approximate=False), *rest)
    exact = np.asarray(mended(images))


def apart(logits):
    return float(np.abs(logits - wanted).max() / np.abs(wanted).max())


print(f"the copy: {apart(found):.1e} apart; with exact GELU and the model's own epsilon: {apart(exact):.1e}")
print("the same classes:", bool((found.argmax(1) == wanted.argmax(1)).all()))
assert apart(found) > 1e-5
assert apart(exact) < 1e-6
print("as found: every weight is copied and asserted, and the copy computes another model")
PROGRAM
