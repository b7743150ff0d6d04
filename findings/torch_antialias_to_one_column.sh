#!/usr/bin/env bash
# torch.nn.functional.interpolate(antialias=True) resizes rows and columns each by its own weights.
#
# Guess beforehand: an image resized to one column is the one column of the same weights, as it is for two columns, or for one row.
# Seen: resized to one column, floats come out wrong in every row but the first; the same image on its side, resized to one row, is right, and so are two columns.
# So are images whose channels lie together in memory. Nothing is raised.
# Versions: torch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import torch

print("torch", torch.__version__)


def weights(old, new):
    """Triangles as wide as the step, one row of weights for each new sample."""
    step = old / new
    center, stretch = (np.arange(new) + 0.5) * step - 0.5, max(step, 1)
    triangle = np.maximum(1 - np.abs(center[:, None] - np.arange(old)) / stretch, 0)
    return triangle / triangle.sum(axis=1, keepdims=True)


image = np.random.default_rng(0).standard_normal((1, 3, 20, 14))
found = {}
for dtype in (torch.float32, torch.float64):
    for size in ((9, 2), (9, 1), (1, 9), (30, 1)):
        for order in (torch.contiguous_format, torch.channels_last):
            given = torch.from_numpy(image).to(dtype).contiguous(memory_format=order)
            made = torch.nn.functional.interpolate(given, size, mode="bilinear", antialias=True).numpy()
            expected = weights(20, size[0]) @ image @ weights(14, size[1]).T
            rows = np.abs(made - expected).max(axis=(0, 1, 3)) > 1e-4
            found[size, dtype, order] = int(rows.sum())
            print(f"20x14 to {size[0]}x{size[1]}, {dtype}, {order}: {rows.sum()} of {len(rows)} rows are wrong, the first {'too' if rows[0] else 'not'}")
assert all(found[size, dtype, order] == 0 for size, dtype, order in found if size[1] > 1), found
one = {key: wrong for key, wrong in found.items() if key[0][1] == 1}
assert any(wrong == key[0][0] - 1 for key, wrong in one.items()), one
print("as found: one column, antialiased, is wrong but for its first row")
PROGRAM
