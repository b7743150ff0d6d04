#!/usr/bin/env bash
# transformers' BEiT made for an oblong image mixes its relative position bias at that very size: the table is laid out as columns by rows where it holds rows by columns, and is
# then resized to rows by columns. Scores of tokens that lie apart by another offset are added to; nothing is said.
#
# Guess beforehand: a model made with image_size=[16, 32] looks its bias up as the square one does: each row of the table is added to the scores of the pairs of patches
# that lie apart by one offset, and to no others; only other sizes than its own are interpolated.
# Seen: a row of the table reaches the pairs of one offset at 32x32, of up to five offsets at 16x32, and of three at 24x40.
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PROGRAM'
import itertools

import torch
import transformers

print("transformers", transformers.__version__, "torch", torch.__version__)


def offsets_reached(height, width):
    """How many offsets of two patches one row of the table reaches, the most of all rows."""
    config = transformers.BeitConfig(
        image_size=[height, width],
        patch_size=8,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=16,
        use_relative_position_bias=True,
    )
    layer = transformers.BeitModel(config).eval().layers[0].relative_position_bias
    grid = height // 8, width // 8
    patches = list(itertools.product(*map(range, grid)))
    table, most = layer.relative_position_bias_table, 0
    with torch.no_grad():
        for row in range(len(table) - 3):  # the last three are of the class token
            table.zero_()
            table[row] = 1
            scores = layer(grid)[0, 0, 1:, 1:]
            pairs = itertools.product(enumerate(patches), repeat=2)
            reached = {
                (first[0] - second[0], first[1] - second[1])
                for (one, first), (other, second) in pairs
                if abs(scores[one, other]) > 1e-6
            }
            most = max(most, len(reached))
    return most


seen = {size: offsets_reached(*size) for size in ((32, 32), (16, 32), (24, 40))}
for (height, width), offsets in seen.items():
    print(f"{height}x{width}: one row of the table reaches pairs of {offsets} offset(s)")
assert seen == {(32, 32): 1, (16, 32): 5, (24, 40): 3}
print("as found: at its own size the bias of an oblong image is mixed")
PROGRAM
