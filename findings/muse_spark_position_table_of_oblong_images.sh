#!/usr/bin/env bash
# Muse Spark's vision tower in transformers adds a table of positions that is resized to the grid of the image; its code says that patch (h, w) reads the table
# at (w, h), and exchanges height and width of the grid before it asks for the places.
#
# Guess beforehand: by that comment the table is read transposed, for square images too, and for oblong ones as the transpose of what they would get.
# Seen: for square images exchanging two equal numbers does nothing, and patch (h, w) reads the table at (h, w). For oblong ones the places are those of the
# turned grid one after another in rows of the wrong length: neither the table's own order nor its transpose. Muse Glimmer, which exchanges nothing, differs.
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import torch
import transformers
from transformers.models.muse_spark.modeling_muse_spark import MuseSparkVisionPatchEmbedder

print("transformers", transformers.__version__, "torch", torch.__version__)
SIDE, PATCH = 8, 4
config = transformers.CONFIG_MAPPING["muse_spark_vision"](
    hidden_size=2, patch_size=PATCH, pos_emb_height=SIDE, pos_emb_width=SIDE, num_attention_heads=1, num_hidden_layers=1
)
embedder = MuseSparkVisionPatchEmbedder(config)
rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
with torch.no_grad():  # the table holds its own places, and patches of zeros add nothing
    embedder.position_embedding_table.weight.copy_(torch.stack([rows, columns], -1).reshape(-1, 2))


def places(height, width):
    """The place in the table, in units of the image's grid, that each patch is given."""
    patches = torch.zeros(height * width, embedder.patch_embedding.in_features)
    with torch.no_grad():
        found = embedder(patches, torch.tensor([[1, height, width]]))
    return found.reshape(height, width, 2)


square = places(SIDE, SIDE)
print("square image, patch (0, 1) is given", square[0, 1].tolist())
assert torch.allclose(square, torch.stack([rows, columns], -1).float(), atol=1e-4)
wide, tall = places(4, SIDE), places(SIDE, 4)
plain = torch.nn.functional.interpolate(torch.stack([rows, columns]).float()[None], size=(4, SIDE), mode="bilinear")[0].permute(1, 2, 0)
print("image of 4x8 patches, patch (0, 4) is given", [round(value, 2) for value in wide[0, 4].tolist()], "and its place is", plain[0, 4].tolist())
inside = slice(1, -1)  # beyond the table's edge are zeros
assert not torch.allclose(wide[:, inside], plain[:, inside], atol=0.3)
assert not torch.allclose(wide[:, inside], tall.transpose(0, 1)[:, inside], atol=0.3)
print("as found: the table is not read transposed, and of oblong images in rows of the wrong length")
PROGRAM
