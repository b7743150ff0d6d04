#!/usr/bin/env bash
# timm's SimpleNorm, behind the stem of its convnext_zepto_rms, and in its blocks: a norm with a weight and no bias, beside an RMSNorm under the same names.
#
# Guess beforehand: by the model's name and the tensors of its file it is an RMSNorm, x / sqrt(mean(x^2) + eps) * weight, as in convnext_atto_rms.
# Seen: it divides by the deviation from the mean, with one less than the number of channels below, and takes no mean out: neither an RMSNorm nor a layer norm.
# The two models' files have the same names and shapes; who reads one as the other is off by what the mean of the channels makes, and by 1/(D - 1).
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
generator = torch.Generator().manual_seed(0)
kinds = {}
for name in ("convnext_zepto_rms", "convnext_atto_rms"):
    model = timm.create_model(name).eval()
    norm = model.stem[1]
    x = torch.randn(2, norm.weight.numel(), 3, 5, generator=generator) + 1.0
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2, generator=generator)
        seen, weight = norm(x), norm.weight[:, None, None]
    rms = x / torch.sqrt((x * x).mean(1, keepdim=True) + norm.eps) * weight
    simple = x / torch.sqrt(x.var(1, keepdim=True, correction=1) + norm.eps) * weight
    kinds[name] = {"rms": float((seen - rms).abs().max()), "simple": float((seen - simple).abs().max())}
    print(name, type(norm).__name__, [key for key in model.state_dict() if key.startswith("stem")], kinds[name])
assert kinds["convnext_atto_rms"]["rms"] < 1e-5 < kinds["convnext_atto_rms"]["simple"]
assert kinds["convnext_zepto_rms"]["simple"] < 1e-5 < kinds["convnext_zepto_rms"]["rms"]
print("as found: the norm of convnext_zepto_rms is no RMSNorm, under the names of one")
PROGRAM
