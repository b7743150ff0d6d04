#!/usr/bin/env bash
# RF-DETR of transformers cuts the grid of patches into windows, within which most of its layers attend. It folds the grid with the numbers of rows and of
# columns exchanged, which is the same for square images alone.
#
# Guess beforehand: a window holds patches that are neighbors, a rectangle of the image, whatever the image's shape.
# Seen: of a square image it does. Of an image twice as wide as tall a window holds every row of patches in pieces that are half as long as they should be,
# so that patches from both ends of the image meet in one window, and neighbors are in two; nothing is raised.
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
from transformers.models.rf_detr.modeling_rf_detr import RfDetrDinov2Embeddings

print("transformers", transformers.__version__, "torch", torch.__version__)
WINDOWS, PATCH = 2, 14


def windows_of(rows, columns):
    """Places (row, column) of the patches of each window."""
    config = transformers.CONFIG_MAPPING["rf_detr_dinov2"](hidden_size=2, patch_size=PATCH, num_windows=WINDOWS, num_attention_heads=1)
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1).reshape(1, -1, 2).float()
    sequence = torch.cat([torch.full((1, 1, 2), -1.0), places], 1)  # a class token in front
    embeddings = RfDetrDinov2Embeddings(config)
    found = embeddings.window_partition(sequence, rows * PATCH, columns * PATCH)
    return [[tuple(map(int, place)) for place in window[1:]] for window in found]


def is_rectangle(window):
    tall, wide = (sorted({place[axis] for place in window}) for axis in (0, 1))
    return len(window) == len(tall) * len(wide) and tall[-1] - tall[0] < len(tall) and wide[-1] - wide[0] < len(wide)


square, oblong = windows_of(4, 4), windows_of(4, 8)
print("first window of 4x4 patches:", square[0])
print("first window of 4x8 patches:", oblong[0])
assert all(map(is_rectangle, square)), square
assert not any(map(is_rectangle, oblong)), oblong
print("as found: windows of an oblong image are no rectangles of it")
PROGRAM
