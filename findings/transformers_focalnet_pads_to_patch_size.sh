#!/usr/bin/env bash
# transformers' FocalNet with use_conv_embed pads images to multiples of patch_size, although its convolution is one of 7 with stride 4 and padding 2, whatever patch_size says.
#
# Guess beforehand: patch_size plays no part where the patches are those of a convolution of 7 and stride 4; or images are padded to multiples of that stride.
# Seen: with patch_size 8 an image of 36x36, a multiple of the stride, becomes one of 40x40: 10x10 tokens and not 9x9. With patch_size 4 the same image has 9x9.
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


def tokens(patch_size, side):
    config = transformers.FocalNetConfig(
        image_size=32,
        patch_size=patch_size,
        embed_dim=16,
        depths=[1, 1],
        hidden_sizes=[16, 32],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        use_conv_embed=True,
    )
    torch.manual_seed(0)
    model = transformers.FocalNetModel(config).eval()
    kernel = model.embeddings.patch_embeddings.projection
    assert (kernel.kernel_size, kernel.stride, kernel.padding) == ((7, 7), (4, 4), (2, 2))
    with torch.no_grad():
        found, grid = model.embeddings(torch.randn(1, 3, side, side))
    print("patch_size", patch_size, "image", side, "tokens", tuple(found.shape), "grid", grid)
    return found.shape[1]


assert tokens(8, 32) == 64
assert tokens(8, 36) == 100
assert tokens(4, 36) == 81
print("as found: images are padded to multiples of patch_size, which is no size of the patches")
PROGRAM
