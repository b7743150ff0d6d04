#!/usr/bin/env bash
# transformers' CvT can be configured with a class token in any stage, `cls_token=[True, True]`, and makes each as wide as the last stage. A model whose stages
# have different widths is built, saved and loaded without a word, and fails at its first image.
#
# Guess beforehand: a stage's class token is as wide as the stage, (1, 1, 16) and (1, 1, 32) for `embed_dim=[16, 32]`.
# Seen: both are (1, 1, 32), and a call raises RuntimeError, "Sizes of tensors must match except in dimension 1"; with `embed_dim=[32, 32]` the same
# configuration runs, and its first stage has one token more than patches.
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


def model_of(widths):
    """Two stages of these widths, a class token in each."""
    two = dict(depth=[2, 2], num_heads=[1, 1], patch_sizes=[7, 3], patch_stride=[4, 2], patch_padding=[2, 1], mlp_ratio=[2.0, 2.0], kernel_qkv=[3, 3])
    two |= dict(padding_kv=[1, 1], stride_kv=[2, 2], padding_q=[1, 1], stride_q=[1, 1], qkv_bias=[True, True], qkv_projection_method=["dw_bn", "dw_bn"])
    rates = {f"{name}_rate": [0.0, 0.0] for name in ("attention_drop", "drop", "drop_path")}
    config = transformers.CvtConfig(embed_dim=widths, cls_token=[True, True], **two, **rates)
    return transformers.CvtModel(config).eval()


images = torch.randn(2, 3, 32, 32)
for widths, runs in (([16, 32], False), ([32, 32], True)):
    model = model_of(widths)
    shapes = [tuple(stage.cls_token.shape) for stage in model.encoder.stages]
    print(f"embed_dim={widths}: class tokens {shapes}")
    assert shapes == [(1, 1, 32), (1, 1, 32)]
    try:
        with torch.no_grad():
            print("  it gives", tuple(model(images).last_hidden_state.shape))
        assert runs
    except RuntimeError as error:
        print("  it raises", str(error)[:70])
        assert not runs and "Sizes of tensors must match" in str(error)
print("as found: every stage's class token is as wide as the last stage")
PROGRAM
