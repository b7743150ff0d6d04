#!/usr/bin/env bash
# transformers' DINOv2 made for an oblong image never adds its positions as they are: it takes any table of n rows for one of √n × √n, and resizes it to the grid.
# Where n is a square by chance the result is a resized table, without a word; where it is none the model that the configuration describes cannot be run.
#
# Guess beforehand: a model made with image_size=[16, 64] holds one row of positions for each of its 2 × 8 patches, and adds row n to patch n at this size, as
# its ViT beside it does; only other sizes are interpolated.
# Seen: at its own size each of 16 rows of DINOv2 reaches several patches, of ViT one. image_size=[32, 48] (24 patches) raises a RuntimeError about a view.
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PROGRAM'
import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)
sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=8)


def patches_reached(kind, config, image):
    """How many patches one row of the position table reaches, the most of all rows."""
    embeddings = kind(config(image_size=list(image), **sizes)).eval().embeddings
    images = torch.zeros(1, 3, *image)
    table = embeddings.position_embeddings
    most = 0
    with torch.no_grad():
        table.zero_()
        without = embeddings(images)
        for row in range(1, table.shape[1]):
            table.zero_()
            table[0, row] = 1
            changed = (embeddings(images) - without).abs().amax(-1)[0, 1:] > 1e-6
            most = max(most, int(changed.sum()))
    return most


vit = patches_reached(transformers.ViTModel, transformers.ViTConfig, (16, 64))
dinov2 = patches_reached(transformers.Dinov2Model, transformers.Dinov2Config, (16, 64))
square = patches_reached(transformers.Dinov2Model, transformers.Dinov2Config, (32, 32))
print(f"one row of positions reaches at most {vit} patch of ViT, {dinov2} patches of DINOv2 at 16x64, {square} at 32x32")
try:
    patches_reached(transformers.Dinov2Model, transformers.Dinov2Config, (32, 48))
    failed = ""
except RuntimeError as error:
    failed = str(error)
print("DINOv2 at 32x48:", failed)
assert (vit, square) == (1, 1) and dinov2 > 1 and "shape" in failed
print("as found: a table of any grid is taken for that of a square")
PROGRAM
