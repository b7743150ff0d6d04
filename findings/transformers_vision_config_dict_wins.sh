#!/usr/bin/env bash
# A configuration may hold `vision_config_dict` beside `vision_config`, a name from before. CLIP, AltCLIP, CLIPSeg and GroupViT take the old one where both are there, SigLIP, BLIP and OWL-ViT the new one;
# and the four write the numbers of the old one into the caller's own `vision_config`. Whoever reads the heads of a tower out of `vision_config` reads another model than transformers builds.
#
# Guess beforehand: `vision_config` is what counts in all of them, and a `vision_config_dict` that says otherwise is ignored or refused.
# Seen: four of seven take width and heads of `vision_config_dict`, three of `vision_config`; the four change the dictionary that they were given.
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
OLD, NEW = ("CLIP", "AltCLIP", "CLIPSeg", "GroupViT"), ("Siglip", "Blip", "OwlViT")
for name in OLD + NEW:
    given = {"hidden_size": 24, "num_attention_heads": 2}
    tower = getattr(transformers, f"{name}Config")(
        vision_config=given, vision_config_dict={"hidden_size": 48, "num_attention_heads": 3}
    ).vision_config
    print(f"{name}: width {tower.hidden_size}, {tower.num_attention_heads} heads; given is now {given['hidden_size']} wide")
    expected = (48, 3, 48) if name in OLD else (24, 2, 24)
    assert (tower.hidden_size, tower.num_attention_heads, given["hidden_size"]) == expected
print("as found: vision_config_dict is taken before vision_config by four of seven")
PROGRAM
