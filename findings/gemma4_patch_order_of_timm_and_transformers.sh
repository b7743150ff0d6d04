#!/usr/bin/env bash
# timm's and transformers' Gemma 4 vision towers name the same matrix `input_proj.weight`, of the same shape (D, 3·P²), and lay its columns out differently:
# transformers has a patch's rows, columns, channels, timm its channels, rows, columns. Nothing but the values tells.
#
# Guess beforehand: timm's code names transformers' model as its reference, and its patch embedding's description says "P-P-C flat order"; so the matrix loads
# by its name, and the same image gives the same tokens.
# Seen: with the matrix as it is the tokens differ by more than their own size; with its columns moved to channels, rows, columns they are the same. Both scale pixels
# from 0…1 to -1…1 within the model.
# Versions: timm 1.0.31, transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "pyyaml" "pillow"
"$folder/venv/bin/pip" install --quiet --no-deps "timm==1.0.31"
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from unittest import mock

import torch
from transformers import Gemma4VisionConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4VisionPatchEmbedder


class Torchvision:  # of which timm's models need names alone, and whose wheels fit one build of torch
    @staticmethod
    def find_spec(name, path, target=None):
        return importlib.machinery.ModuleSpec(name, Torchvision, is_package=True) if name.split(".")[0] == "torchvision" else None

    @staticmethod
    def create_module(spec):
        return mock.MagicMock(__spec__=spec, __path__=[], __version__="0")

    @staticmethod
    def exec_module(module):
        pass


# How transformers cuts an image, as it stands in its processor, which torchvision keeps from being imported here.
processor = Path(importlib.util.find_spec("transformers.models.gemma4").submodule_search_locations[0], "image_processing_gemma4.py")
functions = [each for each in ast.parse(processor.read_text()).body if getattr(each, "name", "") == "convert_image_to_patches"]
space = {}
exec(compile(ast.Module(functions, []), str(processor), "exec"), space)
convert_image_to_patches = space["convert_image_to_patches"]
sys.meta_path.insert(0, Torchvision)
from timm.models.gemma4_vit import Gemma4PatchEmbed

print(*(f"{name} {importlib.metadata.version(name)}" for name in ("timm", "transformers", "torch")))
torch.manual_seed(0)
P, D, rows = 8, 32, 12
theirs = Gemma4VisionPatchEmbedder(Gemma4VisionConfig(hidden_size=D, patch_size=P, position_embedding_size=rows))
own = Gemma4PatchEmbed(patch_size=P, embed_dim=D, position_embedding_size=rows)
for parameter in theirs.parameters():
    torch.nn.init.normal_(parameter)
print({name: tuple(value.shape) for name, value in theirs.state_dict().items()})
image = torch.rand(3, 3 * P, 5 * P)
patches = convert_image_to_patches(image, P)[None]
y, x = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
places = torch.stack([x.flatten(), y.flatten()], dim=-1)[None]
with torch.no_grad():
    wanted = theirs(patches, places, torch.zeros(1, 15, dtype=torch.bool))
    own.load_state_dict(theirs.state_dict())
    by_name = own(image[None])[0]
    moved = theirs.input_proj.weight.reshape(D, P, P, 3).permute(0, 3, 1, 2).reshape(D, -1)
    own.input_proj.weight.copy_(moved)
    by_order = own(image[None])[0]
apart = [float((each - wanted).norm() / wanted.norm()) for each in (by_name, by_order)]
print("relative difference of the tokens, loaded by name:", apart[0], "with the columns moved:", apart[1])
assert apart[0] > 0.1, apart
assert apart[1] < 1e-5, apart
print("as found: the same name and shape, another order of the columns")
PROGRAM
