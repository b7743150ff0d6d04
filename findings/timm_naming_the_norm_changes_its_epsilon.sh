#!/usr/bin/env bash
# timm: to name the norm that a model has anyway changes its epsilon. vit_base_patch16_clip_224 is made with LayerNorm of 1e-5; with norm_layer="layernorm" it has 1e-6,
# and the file and its tensors are the same. A plain vit with pre_norm=True has 1e-6 in the same place, under the same names.
#
# Guess beforehand: norm_layer="layernorm" says what is there already, so that the model computes the same; and norm_pre of one library has one epsilon.
# Seen: 1e-5 and 1e-6, and what enters the first block, of small tokens, differs by almost a tenth of a percent. Who reads a file with norm_pre needs the model's name and
# the arguments that it was made with.
# Versions: timm 1.0.31, torch 2.13.0, torchvision 0.28.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" numpy pillow huggingface_hub safetensors pyyaml
"$folder/venv/bin/pip" install --quiet --no-deps "timm==1.0.31" "torchvision==0.28.0"
cd "$folder"
"$folder/venv/bin/python" - <<'PROGRAM'
import sys
import types
from importlib.machinery import ModuleSpec

import torch

try:
    import torchvision  # noqa: F401
except Exception:  # built for another torch: timm wants names of it that nothing here calls

    class Loose(type):
        def __getattr__(cls, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return f"{cls.__name__}.{name}"

    class Anything(types.ModuleType):
        __path__ = []

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Loose(name, (), {"__init__": lambda self, *given, **named: None})

    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]

    class Finder:
        def find_spec(self, name, path=None, target=None):
            return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

        def create_module(self, spec):
            return Anything(spec.name)

        def exec_module(self, module):
            pass

    sys.meta_path.insert(0, Finder())

import timm

print("timm", timm.__version__, "torch", torch.__version__)
SMALL = dict(depth=1, embed_dim=32, num_heads=2, img_size=32, patch_size=8)


def made(name, **arguments):
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL, **arguments).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


def entering(model, images):
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(images)
    return seen[0]


models = {
    "clip": made("vit_base_patch16_clip_224"),
    "clip, norm_layer named": made("vit_base_patch16_clip_224", norm_layer="layernorm"),
    "plain, pre_norm": made("vit_base_patch16_224", pre_norm=True),
}
images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
given = {name: entering(model, images) for name, model in models.items()}
first = given["clip"]
for name, model in models.items():
    apart = float((given[name] - first).norm() / first.norm())
    print(name, type(model.norm_pre).__name__, "eps", model.norm_pre.eps, "apart", f"{apart:.2g}", len(model.state_dict()), "tensors")
assert models["clip"].norm_pre.eps == 1e-5
assert models["clip, norm_layer named"].norm_pre.eps == models["plain, pre_norm"].norm_pre.eps == 1e-6
assert models["clip"].state_dict().keys() == models["clip, norm_layer named"].state_dict().keys()
assert float((given["clip, norm_layer named"] - first).norm() / first.norm()) > 1e-4
print("as found: the same norm by name has another epsilon")
PROGRAM
