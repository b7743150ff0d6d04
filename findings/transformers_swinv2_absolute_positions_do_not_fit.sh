#!/usr/bin/env bash
# transformers' Swin v2, Donut's Swin and MaskFormer's Swin make a table of one position more than there are patches, as for a class token that none of them has. With
# `use_absolute_embeddings=True` they can be built and saved, and fail on every image; Swin itself, from whose file they were copied, has a row for each patch and runs.
#
# Guess beforehand: the switch is documented ("Whether or not to add absolute position embeddings to the patch embeddings"), so the table has a row for each patch and the models run.
# Seen: 65 rows for 64 patches in three of the four, and a RuntimeError there; 64 rows in Swin.
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import importlib.metadata

import torch
import transformers
from transformers.models.donut.modeling_donut_swin import DonutSwinModel
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinModel

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "torch")))
sizes = dict(image_size=32, patch_size=4, embed_dim=16, depths=[1], num_heads=[2], window_size=4)
runs = {}
for kind in (transformers.SwinModel, transformers.Swinv2Model, DonutSwinModel, MaskFormerSwinModel):
    model = kind(kind.config_class(**sizes, use_absolute_embeddings=True)).eval()
    table = next(value for name, value in model.named_parameters() if "position_embeddings" in name)
    try:
        with torch.no_grad():
            model(torch.rand(2, 3, 32, 32))
        runs[kind.__name__] = True
    except RuntimeError as error:
        runs[kind.__name__] = False
        print(kind.__name__, "fails:", str(error).splitlines()[0])
    print(kind.__name__, "has", table.shape[1], "positions for", (32 // 4) ** 2, "patches")
    assert table.shape[1] == (32 // 4) ** 2 + (not runs[kind.__name__]), kind
assert runs == {
    "SwinModel": True,
    "Swinv2Model": False,
    "DonutSwinModel": False,
    "MaskFormerSwinModel": False,
}, runs
print("as found: three of the four have a row too many")
PROGRAM
