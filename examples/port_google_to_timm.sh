#!/usr/bin/env bash
# google's npz (big_vision, augreg) to timm's safetensors, proved, then held against the source.
# Usage: port_google_to_timm.sh ViT-B_16.npz vit.safetensors
set -euo pipefail
source=${1:?a checkpoint of google or big_vision} target=${2:?the file to write}
patchparity inspect "$source"
patchparity port "$source" "$target" --to timm-vit
patchparity verify "$source" "$target" --from google-vit --from timm-vit
