#!/usr/bin/env bash
# A configuration of CLIP, SigLIP, AltCLIP, BLIP, CLIPSeg, GroupViT or OWL-ViT may hold `vision_config_dict` beside `vision_config`, a name from before; where both are there the old one
# is taken, number by number. Whoever reads the heads of a tower out of `vision_config` reads another model than transformers builds.
#
# Guess beforehand: `vision_config` is what counts, and a `vision_config_dict` that says otherwise is ignored or refused.
# Seen: all seven take width and heads of `vision_config_dict`, and warn at most.
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0"
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PROGRAM'
import transformers

print("transformers", transformers.__version__)
transformers.logging.set_verbosity_error()
for name in ("CLIP", "Siglip", "AltCLIP", "Blip", "CLIPSeg", "GroupViT", "OwlViT"):
    config = getattr(transformers, f"{name}Config")(
        vision_config={"hidden_size": 24, "num_attention_heads": 2},
        vision_config_dict={"hidden_size": 48, "num_attention_heads": 3},
    )
    tower = config.vision_config
    print(f"{name}: width {tower.hidden_size}, {tower.num_attention_heads} heads")
    assert (tower.hidden_size, tower.num_attention_heads) == (48, 3)
print("as found: vision_config_dict is taken before vision_config")
PROGRAM
